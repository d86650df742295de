"""A slow counter of funnels, written from the words of `docs/funnel.md` alone: it tries every choice of events."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

NEVER = 10**9


@dataclass(frozen=True)
class Event:
    """One used event of a unit: when, which steps and exclusions it is, what it holds."""

    time: int
    steps: tuple[int, ...] = ()
    barred: tuple[int, ...] = ()
    held: str | None = "p"


@dataclass(frozen=True)
class Words:
    """The rules of a funnel; steps and exclusions are numbered from 0."""

    steps: int
    window: int
    order: str = "ordered"
    anchor: str = "best"
    barred: tuple[tuple[int, int], ...] = ()
    drops: bool = False
    step_windows: tuple[int, ...] = ()
    optional: tuple[int, ...] = ()
    gap: int = 0
    tolerance: int = 0
    hold: bool = False
    first_time: bool = False
    totals: bool = False
    period: tuple[int, int] = (-NEVER, NEVER)


@dataclass(frozen=True)
class Attempt:
    start: int
    times: tuple[int | None, ...]
    met: bool = field(default=False, compare=False)
    over: int = field(default=0, compare=False)

    @property
    def furthest(self) -> int:
        return max(k for k, time in enumerate(self.times) if time is not None)


def count(unit: Sequence[Event], words: Words) -> list[Attempt]:
    """Give the attempts that count, by opening."""
    first_steps = [e for e in unit if (e.steps if words.order == "unordered" else 0 in e.steps)]
    if words.first_time:
        first_steps = [e for e in first_steps if e.time == min(other.time for other in first_steps)]
    openings = [e for e in first_steps if words.period[0] <= e.time < words.period[1]]
    values = sorted({e.held for e in openings}, key=str) if words.hold else [None]
    if words.totals:
        return sorted(
            (a for value in values for a in _count_totals(unit, words, value, _instants(openings, words, value))),
            key=lambda a: (a.start, str(a.times)),
        )
    if words.anchor == "first":
        openings = [e for e in openings if e.time == min(other.time for other in openings)]
    attempts = [_follow(unit, words, time, value) for value in values for time in _instants(openings, words, value)]
    best = min(attempts, key=lambda a: (-a.furthest, words.drops and a.met, a.start), default=None)
    return [] if best is None or (words.drops and best.met) else [best]


def _instants(openings: Sequence[Event], words: Words, value: str | None) -> list[int]:
    return sorted({e.time for e in openings if not words.hold or e.held == value})


def _count_totals(unit: Sequence[Event], words: Words, value: str | None, instants: Sequence[int]) -> list[Attempt]:
    counted: list[Attempt] = []
    floor = -NEVER
    while later := [time for time in instants if time > floor]:
        running = _follow(unit, words, later[0], value, floor)
        for time in later[1:]:
            if words.anchor == "best" and time <= running.over:
                other = _follow(unit, words, time, value, floor)
                running = other if other.furthest > running.furthest else running
        counted.append(running)
        floor = running.over
    return counted


def _follow(unit: Sequence[Event], words: Words, start: int, value: str | None, floor: int = -NEVER) -> Attempt:
    usable = [e for e in unit if e.time > floor and (not words.hold or e.held == value)]
    alone = words.hold and value is None
    if words.order == "unordered":
        return _follow_any(unit, usable, words, start, alone)
    return _follow_ordered(unit, usable, words, start, alone)


def _follow_ordered(unit: Sequence[Event], usable: Sequence[Event], words: Words, start: int, alone: bool) -> Attempt:
    times: list[int | None] = [start] + [None] * (words.steps - 1)
    # Every choice of events (by number) that reaches these steps at these times.
    choices: list[tuple[int, ...]] = [(i,) for i, e in enumerate(usable) if 0 in e.steps and e.time == start]
    last, met = 0, False
    while last < words.steps - 1:
        now = times[last]
        assert now is not None
        candidates = [last + 1]
        while candidates[-1] in words.optional and candidates[-1] < words.steps - 1:
            candidates.append(candidates[-1] + 1)
        until = {k: min(start + words.window, now + (words.step_windows or (NEVER,) * 99)[k]) for k in candidates}
        ways = [
            (max(e.time, now), k, (*choice, i))
            for choice in choices
            for k in candidates
            for i, e in enumerate(usable)
            if k in e.steps and i not in choice and e.time >= now - words.tolerance and not alone
        ]
        ways = [way for way in ways if now + words.gap <= way[0] <= until[way[1]]]
        then, step = min(((way[0], way[1]) for way in ways), default=(NEVER, -1))
        breaks = NEVER
        if words.order == "strict":
            breaks = min((e.time for e in unit if e.time > now), default=NEVER)
        stop = min(_list_barred(unit, words, times, last), default=NEVER)
        alive = max(until.values())
        if step == -1 or then > breaks or (then > stop and not words.drops):
            met = met or stop <= min(alive, breaks)
            over = min(alive, breaks - 1, NEVER if words.drops else stop - 1)
            return Attempt(start, tuple(times), met, over)
        met = met or stop < then
        choices = [way[2] for way in ways if way[:2] == (then, step)]
        times[step], last = then, step
    return Attempt(start, tuple(times), met, times[last] or 0)


def _list_barred(unit: Sequence[Event], words: Words, times: Sequence[int | None], last: int) -> Iterator[int]:
    for number, (after, before) in enumerate(words.barred):
        since = times[after]
        if after <= last < before and since is not None:
            yield from (e.time for e in unit if number in e.barred and e.time > since)


def _follow_any(unit: Sequence[Event], usable: Sequence[Event], words: Words, start: int, alone: bool) -> Attempt:
    stop = min((e.time for e in unit if e.barred and e.time > start), default=NEVER)
    until = start + words.window if words.drops else min(start + words.window, stop)
    times: list[int | None] = []
    for now in sorted({e.time for e in usable if start <= e.time <= until}):
        most = 1 if alone else _count_done([e for e in usable if start <= e.time <= now], words.steps)
        times += [now] * (most - len(times))
    done = len(times) == words.steps
    met = stop < (times[-1] or 0) if done else stop <= start + words.window
    over = (times[-1] or 0) if done else min(start + words.window, NEVER if words.drops else stop - 1)
    return Attempt(start, tuple(times + [None] * (words.steps - len(times))), met, over)


def _count_done(events: Sequence[Event], steps: int, step: int = 0, taken: frozenset[int] = frozenset()) -> int:
    """Count how many different steps can be done, each by another event."""
    if step == steps:
        return 0
    skipped = _count_done(events, steps, step + 1, taken)
    free = [i for i, e in enumerate(events) if step in e.steps and i not in taken]
    return max([skipped, *(1 + _count_done(events, steps, step + 1, taken | {i}) for i in free)])
