"""The landmark design: what each unit did since its entry, and who is at risk of converting at each landmark."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib.columns import read_numbers, read_texts
from convlib.conversions import Step, microseconds
from convlib.durations import parse_duration, write_duration
from convlib.errors import EventDataError
from convlib.events import EventLog, Unit, list_columns
from convlib.plan_entries import Clock, Macro
from convlib.rules import parse_rule

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NEVER = np.iinfo(np.int64).max
#: `exposure="auto"` sets landmarks where these shares of the whole log's converters have converted.
AUTO_LANDMARKS = (0.10, 0.25, 0.50, 0.75)
DEFAULT_HORIZON = "14D"
#: Activity is banded by its exact count up to this many bands, then by quantiles.
MOST_BANDS = 50


@dataclasses.dataclass(frozen=True)
class Design:
    """The clock of one macro, in microseconds since each unit's entry.

    Attributes:
        landmarks: Until when a micro counts, rising.
        horizon: How long after a landmark the macro counts.
    """

    landmarks: tuple[int, ...]
    horizon: int

    @property
    def follow_up(self) -> int:
        """Give how long a unit must have been followed to be mature at the last landmark."""
        return self.landmarks[-1] + self.horizon


@dataclasses.dataclass(frozen=True)
class Followed:
    """What each unit did since its entry; times are in microseconds, NEVER where it did not.

    Attributes:
        start: The entry, since 1970, UTC.
        macro: Until the first macro.
        micros: Until the first of each micro (units x micros).
        losses: Until the first loss of any kind.
        activity: Events other than conversions, and what fires with them, before each landmark (units x landmarks).
        values: Sum of the macro's values within the horizon after each landmark (units x landmarks).
        spent: Within the whole follow-up: the sum of the macro's values, and how many macros have one (units x 2).
        end: The end of the data, since 1970, UTC.
        earlier: Whether each micro happened before the entry (units x micros); None for nobody.
        cluster: The user of each unit, whose units stand together; None where each unit is alone.
    """

    start: Ints
    macro: Ints
    micros: Ints
    losses: Ints
    activity: Ints
    values: Floats
    spent: Floats
    end: int
    earlier: Bools | None = None
    cluster: Ints | None = None

    def take(self, units: Ints) -> "Followed":
        """Keep some units, by position."""
        arrays: dict[str, Any] = {n: each[units] for n, each in vars(self).items() if isinstance(each, np.ndarray)}
        return dataclasses.replace(self, **arrays)

    def drop_micros(self, count: int) -> "Followed":
        """Keep the first micros alone."""
        earlier = None if self.earlier is None else self.earlier[:, :count]
        return dataclasses.replace(self, micros=self.micros[:, :count], earlier=earlier)

    def is_mature(self, design: Design, landmark: int) -> Bools:
        """Say whose outcome after a landmark is known: the window is over at the end of the data."""
        done: Bools = self.start + (landmark + design.horizon) <= self.end
        return done


@dataclasses.dataclass(frozen=True)
class Risk:
    """One row for each unit at risk at each landmark: mature, and neither converted nor left before it.

    Attributes:
        unit: The unit's position; rows are in order of unit, then landmark.
        landmark: Number of the landmark, from 0.
        exposed: Whether each micro was done before the landmark (rows x micros).
        outcome: 1 with the macro in the horizon after the landmark, else 0; or what the unit spent there.
        band: Band of activity up to the landmark.
        covariates: The adjusted columns, as numbers from 0.
        cluster: The user of each row, whose rows stand together; None where each unit is alone.
        spending: What converted, where `outcome` is what a unit spent.
    """

    unit: Ints
    landmark: Ints
    exposed: Bools
    outcome: Floats
    band: Ints
    covariates: pd.DataFrame
    cluster: Ints | None = None
    spending: Bools | None = None

    @property
    def converted(self) -> Bools:
        """Say which rows have the macro in the horizon after the landmark."""
        return self.outcome > 0 if self.spending is None else self.spending

    @property
    def samples(self) -> Ints:
        """Number the independent samples that the rows belong to: users, or else units."""
        return self.unit if self.cluster is None else self.cluster

    @functools.cached_property
    def strata(self) -> Ints:
        """Number the rows' strata: landmark, adjusted columns and activity, all together."""
        number = self.landmark
        for column in (*(self.covariates[name].to_numpy() for name in self.covariates), self.band):
            number = pd.factorize(number * (int(column.max(initial=0)) + 1) + column)[0].astype(np.int64)
        return number


def find_risk(followed: Followed, design: Design, covariates: pd.DataFrame, *, target: str = "conversion") -> Risk:
    """Find the units at risk at each landmark.

    Args:
        followed: The units.
        design: The clock.
        covariates: Columns to adjust for, one row a unit.
        target: `conversion` for whether a unit converts, `value` for how much it spends.
    """
    landmarks = np.asarray(design.landmarks)
    mature = np.column_stack([followed.is_mature(design, each) for each in design.landmarks])
    until = np.minimum(followed.macro, followed.losses)
    unit, landmark = np.nonzero(mature & (until[:, None] >= landmarks))
    at = landmarks[landmark]
    band = np.empty_like(unit)
    for number in range(len(landmarks)):
        rows = landmark == number
        band[rows] = _band(followed.activity[unit[rows], number])
    converted = followed.macro[unit] < at + design.horizon
    codes = {name: pd.factorize(covariates[name])[0][unit] for name in covariates}
    in_value = target == "value"
    return Risk(
        unit=unit,
        landmark=landmark,
        exposed=followed.micros[unit] < at[:, None],
        outcome=followed.values[unit, landmark] if in_value else converted.astype(np.float64),
        band=band,
        covariates=pd.DataFrame(codes, index=range(len(unit))),
        cluster=None if followed.cluster is None else followed.cluster[unit],
        spending=converted if in_value else None,
    )


def _band(activity: Ints) -> Ints:
    """Band activity as finely as the data carry: by its exact count, or by quantiles when there are too many counts."""
    if len(pd.unique(activity)) <= MOST_BANDS:
        return activity
    edges = np.unique(np.quantile(activity, np.linspace(0, 1, MOST_BANDS + 1)[1:-1]))
    return np.searchsorted(edges, activity, side="right")


def find_landmarks(
    log: EventLog, goal: Macro, *, exposure: str | Sequence[str] = "auto", entry: str | None, unit: Unit
) -> tuple[str, ...]:
    """Take the given landmarks, else the plan's, else one set for all segments from the whole log's converters.

    Raises:
        ParamError: A duration can't be read.
        EventDataError: None are given and no unit of the whole log has the macro after its entry.
    """
    if exposure and exposure != "auto":
        return _sort_durations(list_columns(exposure))
    clock = goal.correlation or Clock()
    if clock.exposure:
        return clock.exposure
    return _choose_landmarks(_Asked(log.whole(), goal, Design((0,), 0), entry, unit, ()))


def _sort_durations(texts: Sequence[str]) -> tuple[str, ...]:
    """Put landmarks in order, each length once however it is written."""
    lengths = {parse_duration(text, name="exposure"): text for text in reversed(texts)}
    return tuple(lengths[length] for length in sorted(lengths))


def read_design(landmarks: Sequence[str], horizon: str) -> Design:
    """Read a design as it is written."""
    parsed = tuple(parse_duration(text, name="exposure") for text in landmarks)
    return Design(parsed, parse_duration(horizon, name="horizon"))


def check_followed(log: EventLog, design: Design, *, entry: str | None, unit: Unit) -> None:
    """Refuse a period in which nobody of any segment can be followed to the end.

    Raises:
        EventDataError: It is so.
    """
    start = log.everyone().entries(unit=unit, entry=entry)["time"].to_numpy(np.int64)
    first, last = log.period
    needed = design.landmarks[0] + design.horizon
    if not len(start):
        msg = f"No unit enters from {first} to {last}. Widen the period."
        raise EventDataError(msg)
    if not (start + needed <= microseconds(log.last)).any():
        lengths = " + ".join(write_duration(each) for each in (design.landmarks[0], design.horizon))
        msg = (
            f"None of the {len(start):,} units that enter from {first} to {last} has {lengths} of follow-up "
            f"before the end of the data, {log.last:%Y-%m-%d}. Choose earlier entries or a shorter horizon."
        )
        raise EventDataError(msg)


def follow(
    log: EventLog,
    goal: Macro,
    design: Design,
    *,
    entry: str | None = None,
    unit: Unit = "user",
    columns: Sequence[str] = (),
    candidates: Sequence[Step] | None = None,
) -> tuple[pd.DataFrame, Followed]:
    """Follow the units of the segment that enter in the period.

    All segments' units are followed at once, and the answer is kept for the next segment.

    Args:
        log: The log, seen through a segment and a period of entries.
        goal: The macro, with its micros and losses.
        design: The clock.
        entry: What starts the clock; None for a unit's first event in the period.
        unit: What is counted.
        columns: Columns to take from the entry event, as text.
        candidates: What to follow in place of the macro's micros.

    Returns:
        The entries, as `EventLog.entries` gives them, and what these units did.
    """
    steps = tuple([Step(micro.id) for micro in goal.micros] if candidates is None else candidates)
    entries = log.entries(unit=unit, entry=entry, columns=columns)
    codes, everyone = _follow_all(
        _Asked(dataclasses.replace(log, segment_name="all", rule=None), goal, design, entry, unit, steps)
    )
    return entries, everyone.take(np.searchsorted(codes, entries.index.to_numpy(np.int64)))


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is followed, known by what decides the answer."""

    log: EventLog = dataclasses.field(compare=False)
    goal: Macro = dataclasses.field(compare=False)
    design: Design
    entry: str | None
    unit: Unit
    steps: tuple[Step, ...] = dataclasses.field(compare=False)
    key: tuple[object, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (*self.log.key, self.goal.id, *map(str, self.steps)))


@functools.lru_cache(maxsize=4)
def _choose_landmarks(asked: _Asked) -> tuple[str, ...]:
    times = _follow_all(asked)[1].macro
    times = times[(times > 0) & (times < NEVER)]
    if not times.size:
        msg = (
            f"`exposure` can't be chosen: no unit has `{asked.goal.id}` after its entry. "
            "Give landmarks such as ['1D', '7D']."
        )
        raise EventDataError(msg)
    points = np.quantile(times, AUTO_LANDMARKS, method="higher")
    return _sort_durations([write_duration(int(point)) for point in points])


@functools.lru_cache(maxsize=4)
def _follow_all(asked: _Asked) -> tuple[Ints, Followed]:
    log, design = asked.log, asked.design
    entries = log.entries(unit=asked.unit, entry=asked.entry)
    codes, start = entries.index.to_numpy(np.int64), entries["time"].to_numpy(np.int64)
    place = np.full(int(codes[-1]) + 2 if len(codes) else 1, -1, np.int64)
    place[codes] = np.arange(len(codes))
    landmarks = np.asarray(design.landmarks, np.int64)
    steps = [Step(asked.goal.id), *asked.steps, *(Step(loss.id) for loss in asked.goal.losses)]
    firsts, earlier = np.full((len(codes), len(steps)), NEVER), np.zeros((len(codes), len(steps)), bool)
    values, spent = np.zeros((len(codes), len(landmarks))), np.zeros((len(codes), 2))
    for unit, time, number, value in _read_steps(log, steps, asked.unit):
        _note_firsts(place, start, unit, time, number, firsts, earlier)
        _add_values(place, start, unit, time, number, value, landmarks, design.horizon, values, spent)
    activity = np.zeros((len(codes), len(landmarks)), np.int64)
    _count_activity(place, start, *_read_activity(log, asked.unit), landmarks, activity)
    micros = 1 + len(asked.steps)
    return codes, Followed(
        start=start,
        macro=firsts[:, 0],
        micros=firsts[:, 1:micros],
        losses=firsts[:, micros:].min(axis=1, initial=NEVER),
        activity=activity,
        values=values,
        spent=spent,
        end=microseconds(log.last),
        earlier=earlier[:, 1:micros],
        cluster=_find_users(log, asked.entry) if asked.unit == "session" else None,
    )


def _find_users(log: EventLog, entry: str | None) -> Ints:
    """Number the user of each session; sessions are in the order of their users."""
    entries = log.entries(unit="session", entry=entry, columns=["user_id"])
    return pd.factorize(entries["user_id"])[0].astype(np.int64)


def _read_steps(log: EventLog, steps: Sequence[Step], unit: Unit) -> list[tuple[Ints, Ints, Ints, Floats]]:
    """Read the rows that are a step as unit, time, number of the step, and value."""
    stored = [] if log.is_filtered else [k for k, step in enumerate(steps) if _is_planned(log, step)]
    parts: list[tuple[Ints, Ints, Ints, Floats]] = []
    for k, step in enumerate(steps):
        if k not in stored:
            narrowed = log.keep(parse_rule(step.where)) if step.where else log
            rows = narrowed.fetch(step.name, unit=unit)
            unit_of, time, value = (rows[name].to_numpy() for name in ("unit", "time", "value"))
            parts.append((unit_of, time, np.full(len(rows), k), value.astype(np.float64)))
    if stored:
        path = log.prepared.find("conversions.parquet", log.plan)
        found, names = read_texts(path, "conversion")
        number_of = {steps[k].name: k for k in stored}
        numbers = np.array([number_of.get(name, -1) for name in names], np.int64)
        unit_of, time, value = (read_numbers(path, name) for name in (unit, "time", "value"))
        parts.append((unit_of, time, numbers[found], value))
    return parts


def _is_planned(log: EventLog, step: Step) -> bool:
    return bool(log.plan and step.name in log.plan and not step.where)


def _read_activity(log: EventLog, unit: Unit) -> tuple[Ints, Ints]:
    """Read the events that fire with no conversion as unit and time."""
    if log.is_filtered:
        rows = log.read(log.rows("activity"), unit=unit)
        return rows["unit"].to_numpy(), rows["time"].to_numpy()
    path = log.prepared.find("activity.parquet", log.plan)
    return read_numbers(path, unit), read_numbers(path, "time")


@numba.njit(cache=True, nogil=True)
def _note_firsts(place: Ints, start: Ints, unit: Ints, time: Ints, number: Ints, firsts: Ints, earlier: Bools) -> None:
    """Note the time from each unit's entry to its first row of each step, and which came before the entry too."""
    for i in range(len(unit)):
        if number[i] < 0 or unit[i] < 0 or unit[i] >= len(place) or place[unit[i]] < 0:
            continue
        u = place[unit[i]]
        since = time[i] - start[u]
        if since < 0:
            earlier[u, number[i]] = True
        elif since < firsts[u, number[i]]:
            firsts[u, number[i]] = since


@numba.njit(cache=True, nogil=True)
def _add_values(
    place: Ints,
    start: Ints,
    unit: Ints,
    time: Ints,
    number: Ints,
    value: Floats,
    landmarks: Ints,
    horizon: int,
    values: Floats,
    spent: Floats,
) -> None:
    """Add up what the macros, step 0, are worth: within each horizon, and over the whole follow-up."""
    for i in range(len(unit)):
        if number[i] != 0 or unit[i] < 0 or unit[i] >= len(place) or place[unit[i]] < 0 or np.isnan(value[i]):
            continue
        u = place[unit[i]]
        since = time[i] - start[u]
        if 0 <= since < landmarks[-1] + horizon:
            spent[u, 0] += value[i]
            spent[u, 1] += 1
        for k in range(len(landmarks)):
            if landmarks[k] <= since < landmarks[k] + horizon:
                values[u, k] += value[i]


@numba.njit(cache=True, nogil=True)
def _count_activity(place: Ints, start: Ints, unit: Ints, time: Ints, landmarks: Ints, activity: Ints) -> None:
    """Count each unit's rows from its entry to each landmark."""
    for i in range(len(unit)):
        if unit[i] < 0 or unit[i] >= len(place) or place[unit[i]] < 0:
            continue
        u = place[unit[i]]
        since = time[i] - start[u]
        if since < 0:
            continue
        for k in range(len(landmarks) - 1, -1, -1):
            if since >= landmarks[k]:
                break
            activity[u, k] += 1
