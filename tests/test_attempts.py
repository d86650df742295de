import random
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from funnel_reference import Attempt, Event, Words, count

from convlib.attempts import Rules, find_attempts
from convlib.conversions import Conversions
from convlib.kernels import NEVER

Unit = Sequence[Event]
RULES = ("strict", "unordered", "first", "barred", "drops", "step_windows", "gap", "tolerance", "optional", "hold")
#: Pairs that `measure_funnel` refuses.
REFUSED = [
    {"strict", "unordered"},
    {"strict", "optional"},
    *({"unordered", name} for name in ("optional", "step_windows", "gap", "tolerance")),
    {"gap", "tolerance"},
    {"totals", "drops"},
]


@pytest.mark.parametrize("name", [*RULES, "first_time", "totals"])
def test_find_attempts_agrees_with_the_words_for_each_rule(name: str) -> None:
    rng = random.Random(name)
    for _ in range(20):
        _compare(rng, {name, "barred"} if name == "drops" else {name}, units=15)


def test_find_attempts_agrees_with_the_words_for_combinations() -> None:
    rng = random.Random(7)
    for _ in range(250):
        names = {name for name in (*RULES, "first_time", "totals") if rng.random() < 0.3}
        for pair in REFUSED:
            if pair <= names:
                names.discard(rng.choice(sorted(pair)))
        _compare(rng, names if "barred" in names else names - {"drops"}, units=20)


def _compare(rng: random.Random, names: set[str], *, units: int) -> None:
    words = _draw_words(rng, names)
    log = [_draw_unit(rng, words) for _ in range(units)]
    found = _find(log, words)
    for unit, attempts in zip(log, found, strict=True):
        assert attempts == count(unit, words), (sorted(unit, key=lambda e: e.time), words)


def _draw_words(rng: random.Random, names: set[str]) -> Words:
    steps = rng.randint(2, 4)
    ends = sorted(rng.sample(range(steps), 2))
    optional = {k for k in range(1, steps) if "optional" in names and rng.random() < 0.5}
    barred = [(0, steps - 1)] if rng.random() < 0.3 or "unordered" in names else [(ends[0], ends[1])]
    if rng.random() < 0.3:
        barred = barred * 2
    return Words(
        steps,
        window=rng.randint(1, 6),
        order="strict" if "strict" in names else "unordered" if "unordered" in names else "ordered",
        anchor="first" if "first" in names else "best",
        barred=tuple(barred) if "barred" in names else (),
        drops="drops" in names,
        step_windows=tuple(rng.randint(1, 3) for _ in range(steps)) if "step_windows" in names else (),
        optional=tuple(
            sorted(optional - set(np.ravel(barred)[:2] if "barred" in names and barred[0] != (0, steps - 1) else ()))
        ),
        gap=rng.randint(1, 2) if "gap" in names else 0,
        tolerance=rng.randint(1, 2) if "tolerance" in names else 0,
        hold="hold" in names,
        first_time="first_time" in names,
        totals="totals" in names,
        period=(rng.choice([-1, 0, 1]), rng.choice([4, 8, 20])),
    )


def _draw_unit(rng: random.Random, words: Words) -> list[Event]:
    def draw_event() -> Event:
        most = 2 if rng.random() < 0.3 else 1
        steps = rng.sample(range(words.steps), rng.choice([0, most, most, most]))
        barred = [k for k in range(len(words.barred)) if rng.random() < (0.15 if steps else 0.5)]
        return Event(rng.randint(0, 9), tuple(sorted(steps)), tuple(barred), rng.choice(["p", "p", "q", None]))

    return [draw_event() for _ in range(rng.randint(0, 8))]


def _find(log: Sequence[Unit], words: Words) -> list[list[Attempt]]:
    conversions, held = _lay_out(log, words)
    used = np.array(sorted((u, e.time) for u, unit in enumerate(log) for e in unit), np.int64).reshape(-1, 2).T.copy()
    numbers = np.array([{"(none)": -1, "p": 0, "q": 1}[text] for text in held["held"]], np.int64)
    attempts = find_attempts(
        conversions, _rules(words), period=words.period, held=numbers if words.hold else None, used=(used[0], used[1])
    )
    found: list[list[Attempt]] = [[] for _ in log]
    for unit, rows in zip(attempts.unit, attempts.rows, strict=True):
        assert len({int(conversions.event[row]) for row in rows if row != NEVER}) == (rows != NEVER).sum()
        times: list[int | None] = [None if row == NEVER else int(conversions.time[row]) for row in rows]
        for k in range(1, words.steps):
            before = [time for time in times[:k] if time is not None]
            times[k] = None if times[k] is None else max(times[k] or 0, before[-1])
        found[unit].append(Attempt(times[0] or 0, tuple(times)))
    return [sorted(each, key=lambda a: (a.start, str(a.times))) for each in found]


def _rules(words: Words) -> Rules:
    return Rules(
        tuple(k not in words.optional for k in range(words.steps)),
        words.window,
        order=words.order,  # type: ignore[arg-type]
        anchor=words.anchor,  # type: ignore[arg-type]
        barred=words.barred,
        drops=words.drops,
        step_windows=words.step_windows,
        gap=words.gap,
        tolerance=words.tolerance,
        first_time=words.first_time,
        totals=words.totals,
    )


def _lay_out(log: Sequence[Unit], words: Words) -> tuple[Conversions, pd.DataFrame]:
    rows = sorted(
        (u, e.time, k, 100 * u + i, e.held or "(none)")
        for u, unit in enumerate(log)
        for i, e in enumerate(unit)
        for k in (*e.steps, *(words.steps + number for number in e.barred))
    )
    table = pd.DataFrame(rows, columns=["unit", "time", "step", "event", "held"])
    unit, time, step, event = (table[name].to_numpy(np.int64) for name in ("unit", "time", "step", "event"))
    codes = np.arange(len(log))
    value = np.full(len(table), np.nan)
    return Conversions(unit, time, step, value, event, codes, table[["held"]], 100), table[["held"]]
