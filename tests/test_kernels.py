import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest

from convlib.kernels import NEVER, match_funnel


class Event(NamedTuple):
    """One event of a unit: when, and which steps it matches."""

    time: int
    steps: tuple[int, ...]
    opens: bool = True


class Attempt(NamedTuple):
    """What is compared: when each reached step happened, and when the unit first could have started."""

    times: tuple[int, ...]
    entry: int | None


Unit = Sequence[Event]


def test_match_funnel_agrees_with_enumeration_when_each_event_is_one_step() -> None:
    _compare_seeded(seed=1, most_steps_an_event=1)


def test_match_funnel_agrees_with_enumeration_when_events_match_several_steps() -> None:
    _compare_seeded(seed=2, most_steps_an_event=3)


@pytest.mark.parametrize(
    ("unit", "steps", "window", "times"),
    [
        pytest.param([Event(0, (0,)), Event(10, (1,))], 2, 10, (0, 10), id="the window's last instant counts"),
        pytest.param([Event(0, (0,)), Event(11, (1,))], 2, 10, (0,), id="one instant later is too late"),
        pytest.param([Event(5, (1,)), Event(5, (0,))], 2, 10, (5, 5), id="ties count in step order"),
        pytest.param([Event(1, (1,)), Event(5, (0,))], 2, 10, (5,), id="a step before the start never counts"),
        pytest.param(
            [Event(0, (0,)), Event(1, (1,)), Event(4, (0,)), Event(5, (1,)), Event(6, (2,))],
            3,
            5,
            (4, 5, 6),
            id="the attempt that gets furthest counts",
        ),
        pytest.param(
            [Event(0, (0,)), Event(1, (0,)), Event(2, (1,))],
            2,
            5,
            (0, 2),
            id="of equally deep attempts the earliest counts",
        ),
        pytest.param([Event(0, (0, 1))], 2, 10, (0,), id="one event is not two steps"),
        pytest.param([Event(0, (0, 1)), Event(3, (0, 1))], 2, 10, (0, 3), id="the same step twice takes two events"),
        pytest.param([Event(0, (0, 1)), Event(0, (0, 1))], 2, 10, (0, 0), id="two events at one instant are two steps"),
        pytest.param(
            [Event(0, (0,)), Event(2, (1, 2)), Event(2, (1,))],
            3,
            10,
            (0, 2, 2),
            id="at one instant each step takes the event that leaves the most to the next",
        ),
        pytest.param(
            [Event(0, (0,), opens=False), Event(2, (0,)), Event(3, (1,))],
            2,
            10,
            (2, 3),
            id="an attempt starts only where it may open",
        ),
        pytest.param([Event(0, (0,), opens=False), Event(3, (1,))], 2, 10, (), id="no opening means no attempt"),
        pytest.param([Event(0, (1,)), Event(3, (2,))], 3, 10, (), id="later steps alone are no attempt"),
    ],
)
def test_match_funnel_finds_the_best_attempt(unit: Unit, steps: int, window: int, times: tuple[int, ...]) -> None:
    assert _enumerate_best(unit, steps, window).times == times
    assert _match([unit], steps, window)[0].times == times


def test_match_funnel_keeps_units_apart() -> None:
    units = [[Event(0, (0,))], [Event(1, (1,))], [], [Event(2, (0,)), Event(3, (1,))]]
    expected = [Attempt((0,), 0), Attempt((), None), Attempt((), None), Attempt((2, 3), 2)]
    assert _match(units, 2, 10) == expected


def test_match_funnel_gives_the_first_opening_as_entry_even_when_a_later_attempt_counts() -> None:
    unit = [Event(0, (0,), opens=False), Event(1, (0,)), Event(20, (0,)), Event(21, (1,))]
    assert _match([unit], 2, 10) == [Attempt((20, 21), 1)]


def test_match_funnel_without_rows_gives_nothing() -> None:
    assert _match([], 2, 10) == []


def _compare_seeded(*, seed: int, most_steps_an_event: int) -> None:
    """Compare 2,000 small logs with many ties, and steps that lie just on the window's edge."""
    rng = random.Random(seed)
    for _ in range(50):
        steps, window = rng.randint(2, 4), rng.randint(0, 4)
        units = [_draw_unit(rng, steps, most_steps_an_event) for _ in range(40)]
        found = _match(units, steps, window)
        for unit, attempt in zip(units, found, strict=True):
            assert attempt == _enumerate_best(unit, steps, window), (unit, steps, window)


def _draw_unit(rng: random.Random, steps: int, most: int) -> list[Event]:
    def draw_event() -> Event:
        matched = rng.sample(range(steps), min(steps, rng.randint(1, most)))
        return Event(rng.randint(0, 6), tuple(sorted(matched)), opens=rng.random() < 0.8)

    return [draw_event() for _ in range(rng.randint(0, 7))]


def _enumerate_best(unit: Unit, steps: int, window: int) -> Attempt:
    """Try every choice of one event for each step, and keep the best by the words of `measure_funnel`."""
    attempts = [tuple(unit[i].time for i in chosen) for chosen in _list_attempts(unit, (), steps, window)]
    openings = [event.time for event in unit if 0 in event.steps and event.opens]
    best = min(attempts, key=lambda times: (-len(times), times), default=())
    return Attempt(best, min(openings, default=None))


def _list_attempts(unit: Unit, chosen: tuple[int, ...], steps: int, window: int) -> Iterator[tuple[int, ...]]:
    """Give every attempt that can be made: events by number, each once, in time, up to the window's end."""
    if chosen:
        yield chosen
    if len(chosen) == steps:
        return
    for i, event in enumerate(unit):
        if i in chosen or len(chosen) not in event.steps:
            continue
        start, before = (unit[chosen[0]].time, unit[chosen[-1]].time) if chosen else (event.time, event.time)
        if before <= event.time <= start + window and (chosen or event.opens):
            yield from _list_attempts(unit, (*chosen, i), steps, window)


def _match(units: Sequence[Unit], steps: int, window: int) -> list[Attempt]:
    """Run the kernel over units, as `gather` would lay out their rows."""
    rows = [
        sorted((event.time, step, i, event.opens and step == 0) for i, event in enumerate(unit) for step in event.steps)
        for unit in units
    ]
    offsets = np.cumsum([0, *map(len, rows)])
    table = np.array([row for unit in rows for row in unit], np.int64).reshape(-1, 4)
    time, step, event, opens = table.T.copy()
    depth, reached, entry = match_funnel(offsets, time, step, event, opens.astype(bool), steps, window)
    assert ((reached != NEVER) == (np.arange(steps) < depth[:, None])).all()
    return [
        Attempt(
            tuple(int(time[row]) for row in reached[i, : depth[i]]),
            None if entry[i] == NEVER else int(time[entry[i]]),
        )
        for i in range(len(units))
    ]
