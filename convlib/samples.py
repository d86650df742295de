"""The units of an experiment: who is in which arm since when, and what each adds to every metric."""

import dataclasses
import datetime as dt
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib.conversions import microseconds
from convlib.documents import quote_names, word_columns
from convlib.durations import MICROSECONDS, parse_duration
from convlib.errors import EventDataError, ParamError
from convlib.events import EventLog
from convlib.metrics import NEVER, Reader, tally
from convlib.periods import find_day
from convlib.plan import Plan
from convlib.plan_entries import Direction, Loss, Macro, Metric, Micro
from convlib.plan_experiments import Guardrail, Margin, Outcome, PlannedExperiment

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Role = Literal["primary", "guardrail", "metric"]
DAY = MICROSECONDS["D"]
#: Into so many parts of whole days the window is divided at most.
MOST_DAYS = 14
#: So unlikely a gap at the beginning or end of an arm's time must be before the arms' times are called unequal.
SURPRISING = 1e-6
#: Metrics of how many do it, and those that are better low.
COUNTING = frozenset({"rate", "per_unit"})
FEWER_IS_BETTER = frozenset({"abandonment", "churn", "time_between"})


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One metric of every unit of a sample: the sum of the numerator over the sum of the denominator.

    Attributes:
        role: What it is for.
        conversion: The conversion's id, or the column of a table of units.
        metric: The metric in words.
        name: The metric's name for people.
        direction: Which way is better.
        margin: By how much a guardrail may be worse.
        numerator: What each unit adds.
        denominator: Out of how many; None: each unit counts once.
        before: The numerator in the time before the experiment; None when not known.
        before_denominator: The denominator then.
    """

    role: Role
    conversion: str
    metric: str
    name: str
    direction: Direction
    margin: Margin | None
    numerator: Floats
    denominator: Floats | None = None
    before: Floats | None = None
    before_denominator: Floats | None = None

    @property
    def earlier(self) -> "Measurement":
        """The same metric before the experiment."""
        return dataclasses.replace(
            self,
            numerator=np.zeros(0) if self.before is None else self.before,
            denominator=self.before_denominator,
            before=None,
            before_denominator=None,
        )

    @property
    def limits(self) -> tuple[float, float]:
        """Give the change that a guardrail may show, with its sign: as a share of the control's value, or as it is."""
        sign = -1 if self.direction == "up" else 1
        given = (None, None) if self.margin is None else (self.margin.relative, self.margin.absolute)
        relative, absolute = (np.nan if each is None else sign * each for each in given)
        return relative, absolute

    @functools.cached_property
    def is_share(self) -> bool:
        """Whether it is a share of units."""
        return self.denominator is None and bool(np.isin(self.numerator, (0, 1)).all())


@dataclasses.dataclass(frozen=True)
class Sample:
    """The units of an experiment that are followed to the end of their window.

    Attributes:
        arms: The arms' names, the control first.
        shares: The planned share of each.
        arm: The code of each unit's arm.
        entered: When each was assigned, microseconds since 1970; None when not known.
        segments: Texts known when it was assigned, a column each.
        measurements: The metrics: the primary one, then guardrails, then others.
        assigned: How many units were assigned to each arm, those still pending too.
        pending: How many of these are pending.
        dates: The times of the first and the last assignment; None when not known.
        others: How many units were in arms that the plan does not name, and these; None when not known.
        crossed: How many units were seen in two arms; they stay in their first. None when not known.
        exposed_early: How many had seen the change before they were assigned; None when not known.
        early: The primary metric's numerator in the first half of the window; None when not known.
        late: In the second half.
        days: Units x parts of the window: the primary metric's numerator in each.
        starts: The day since assignment on which each part begins, from 0, and the day after the last.
        did: Whether each unit did the primary metric's micro, and whether its macro; None when not known.
    """

    arms: tuple[str, ...]
    shares: tuple[float, ...]
    arm: Ints
    entered: Ints | None
    segments: pd.DataFrame
    measurements: tuple[Measurement, ...]
    assigned: Ints
    pending: Ints
    dates: tuple[int, int] | None = None
    others: tuple[int, list[str]] | None = None
    crossed: int | None = None
    exposed_early: int | None = None
    early: Floats | None = None
    late: Floats | None = None
    days: Floats | None = None
    starts: tuple[int, ...] = ()
    did: tuple[Floats, Floats] | None = None

    @property
    def primary(self) -> Measurement:
        """The metric that the experiment is to move."""
        return self.measurements[0]


def check_experiment(log: EventLog, plan: Plan, planned: PlannedExperiment) -> None:
    """Refuse an experiment that can't be read from a log: it has not begun there, or columns are missing.

    Raises:
        ParamError: Every such thing, with its place in the plan.
    """
    last = find_day(log.last, log.timezone)
    problems = []
    if planned.start > last:
        problems.append(
            f"{plan.locate(planned.id, 'start')}: the experiment {planned.id!r} begins on {planned.start}, after the "
            f"end of the data, {last}. Wait for its data, or correct `start`."
        )
    problems += [
        f"{plan.locate(planned.id, 'id')}: the experiment {planned.id!r} reads the column `{name}`, which the log does "
        f"not have.{word_columns(name, log.filled_columns)}"
        for name in sorted(planned.columns - set(log.columns))
    ]
    if problems:
        raise ParamError(*problems)


def read_sample(log: EventLog, plan: Plan, planned: PlannedExperiment) -> Sample:
    """Read who was assigned to which arm, and what each unit did from then until its window was over.

    Args:
        log: The log, of which the segment and the filters count; the experiment has days of its own.
        plan: The log's plan.
        planned: The experiment.

    Raises:
        EventDataError: An arm has no units, the arms ran at different times, or amounts are negative or in several
            currencies; every such problem.
        ParamError: The log lacks a column that the experiment reads.
    """
    chosen = log.between(planned.start, planned.end)
    found, others = _find_assigned(chosen, planned)
    arm, time = (found[name].to_numpy(np.int64) for name in ("arm", "time"))
    is_followed = (found["until"] <= microseconds(log.last)).to_numpy()
    if chosen.segment_name == "all":
        # In a small segment an arm may be empty by chance.
        check_arms(planned.arm_names, planned.shares, arm, time, what=planned.name, others=others[1])
    whole = dataclasses.replace(chosen, start=None, end=None)
    rows = found[is_followed].reset_index(drop=True)
    followed = _Followed(whole, plan, planned, rows, low=chosen.span[0])
    size = len(planned.arm_names)
    return Sample(
        arms=planned.arm_names,
        shares=planned.shares,
        arm=arm[is_followed],
        entered=rows["time"].to_numpy(np.int64),
        segments=pd.DataFrame({name: whole.read_texts(name, rows["event"].to_numpy()) for name in planned.segments}),
        measurements=check_measurements(followed.measure(), what=planned.name),
        assigned=np.bincount(arm, minlength=size),
        pending=np.bincount(arm[~is_followed], minlength=size),
        dates=(int(time.min()), int(time.max())) if len(time) else None,
        others=others,
        crossed=int(found["several"].sum()),
        exposed_early=followed.count_exposed(found),
        did=followed.find_doers(),
        **followed.split_window(),
    )


def _find_assigned(chosen: EventLog, planned: PlannedExperiment) -> tuple[pd.DataFrame, tuple[int, list[str]]]:
    """Give a row for each unit assigned: the code of its first arm, its window, and whether it was in several.

    Also give how many units were in other arms, and these.
    """
    factors = planned.factors or {str(planned.assignment.column): planned.arm_names}
    asked: dict[str, Any] = {"rule": planned.assignment.match, "unit": planned.unit}
    found = chosen.find_assignments(factors, **asked)
    # The arms are the combinations of the levels, the last factor's fastest.
    levels = [pd.Categorical(found[name], list(names)).codes.astype(np.int64) for name, names in factors.items()]
    length = parse_duration(planned.window)
    # Until their windows are over, units may still come into another arm.
    later = planned.end and planned.end + dt.timedelta(microseconds=length)
    seen = dataclasses.replace(chosen, end=later).find_assignments(factors, **asked)
    found = found.assign(
        arm=np.ravel_multi_index(levels, [len(names) for names in factors.values()]),
        until=found["time"] + length,
        several=found["unit"].isin(seen.loc[seen["several"], "unit"]),
    )
    return found, chosen.find_other_arms(factors, **asked)


def check_arms(
    arms: Sequence[str],
    shares: Sequence[float],
    arm: Ints,
    time: Ints | None,
    *,
    what: str,
    others: Sequence[str] = (),
) -> None:
    """Refuse arms that nobody entered, and arms that ran at different times: what differs may then be the season.

    A time without units of an arm is too long when chance would leave it so, at the arm's share, less than once in a
    million.

    Raises:
        EventDataError: Every such arm.
    """
    counts = np.bincount(arm, minlength=len(arms))
    held = ", ".join(f"{name} {count:,}" for name, count in zip(arms, counts, strict=True))
    seen = f" The log also has {quote_names(others)}." if others else ""
    problems = [
        f"Nobody entered the arm `{name}` of {what!r} ({held}). Check how the log names it, and its days.{seen}"
        for name, count in zip(arms, counts, strict=True)
        if count == 0
    ]
    if not problems and time is not None:
        problems = [
            f"The arm `{arms[code]}` of {what!r} has units from {_word_time(own.min())} to {_word_time(own.max())}, "
            f"and the others from {_word_time(time.min())} to {_word_time(time.max())}: {outside:,} of their units "
            "entered when it had none. Arms are only alike at equal times: take the days on which all of them "
            "ran (in a plan `start` and `end`)."
            for code, own, outside in _list_outside(arm, time, len(arms))
            if (1 - shares[code]) ** outside < SURPRISING
        ]
    if problems:
        raise EventDataError(*problems)


def _list_outside(arm: Ints, time: Ints, size: int) -> Iterator[tuple[int, Ints, int]]:
    """Give each arm's times, and how many units of others entered before the first or, if more, after the last."""
    for code in range(size):
        own = time[arm == code]
        yield code, own, max(int((time < own.min()).sum()), int((time > own.max()).sum()))


def _word_time(time: int) -> str:
    return f"{pd.Timestamp(int(time), unit='us'):%Y-%m-%d %H:%M} UTC"


def check_measurements(measurements: Iterable[Measurement], *, what: str) -> tuple[Measurement, ...]:
    """Refuse values below zero: what a unit brings in is compared, and a refund may be of a time before.

    Raises:
        EventDataError: Every metric with such values.
    """
    listed = tuple(measurements)
    problems = [
        f"{each.name!r} of {what!r} is negative for {(each.numerator < 0).sum():,} of {len(each.numerator):,} units "
        f"(the lowest: {each.numerator.min():g}). Refunds may be of purchases from before the experiment: leave them "
        "out (in a plan by `match`, such as `value: {gte: 0}`), and count them on their own."
        for each in listed
        if (each.numerator < 0).any()
    ]
    if problems:
        raise EventDataError(*problems)
    return listed


def check_counts(sample: Sample, *, what: str) -> None:
    """Refuse a finished experiment in which nobody did what it is about, or what guards it.

    Raises:
        EventDataError: Every such metric.
    """
    problems = [
        f"None of the {len(sample.arm):,} units of {what!r} adds anything to {each.name!r}. Check what it counts, or "
        "take another metric."
        for each in sample.measurements
        if each.role != "metric" and not each.numerator.any()
    ]
    if problems:
        raise EventDataError(*problems)


@dataclasses.dataclass(frozen=True)
class _Followed:
    """The units of an experiment whose window is over.

    Attributes:
        log: The log.
        plan: Its plan.
        planned: The experiment.
        rows: One row a unit: `unit`, `time` of its assignment and `until` its window lasts, microseconds since 1970.
        low: When the experiment began.
    """

    log: EventLog
    plan: Plan
    planned: PlannedExperiment
    rows: pd.DataFrame
    low: int

    @functools.cached_property
    def reader(self) -> Reader:
        """What the units did in their windows."""
        # A visit that holds the assignment may have begun a day before it.
        entries = self.rows.assign(begin=self.rows["time"] - DAY)
        return Reader(self.log, self.planned.unit, entries, end=microseconds(self.log.last), clip=True)

    def measure(self) -> Iterator[Measurement]:
        """Measure everything that the experiment names, also in the time before it."""
        planned = self.planned
        listed: list[tuple[Role, Outcome]] = [("primary", planned.primary)]
        listed += [("guardrail", each) for each in planned.guardrails]
        listed += [("metric", each) for each in planned.metrics]
        earlier = None
        if planned.pre_period:
            begin = self.low - parse_duration(planned.pre_period)
            earlier = self.reader.over(self.rows.assign(time=begin, begin=begin, until=self.low - 1))
        for role, outcome in listed:
            before = measure_units(earlier, self.plan, outcome) if earlier else (None, None)
            numerator, denominator = measure_units(self.reader, self.plan, outcome)
            conversion = self.plan[outcome.conversion]
            yield Measurement(
                role=role,
                conversion=outcome.conversion,
                metric=str(outcome.metric),
                name=name_outcome(self.plan, outcome),
                direction=outcome.direction or find_direction(conversion, outcome.metric),
                margin=outcome.margin if isinstance(outcome, Guardrail) else None,
                numerator=numerator,
                denominator=denominator,
                before=before[0],
                # What each unit did before needs no denominator where one now does not.
                before_denominator=None if denominator is None else before[1],
            )

    def count_exposed(self, found: pd.DataFrame) -> int | None:
        """Count the assigned units that had seen the change since the experiment began and before that."""
        exposure = self.planned.exposure
        if exposure is None:
            return None
        entries = found.assign(begin=self.low, until=found["time"] - 1, time=self.low)
        reader = self.reader.over(entries)
        return int((reader.read(exposure, per=self.planned.unit).first(reader.units) < NEVER).sum())

    def split_window(self) -> dict[str, Any]:
        """Measure the primary metric in the halves of the window, and in up to 14 parts of whole days."""
        if self.planned.unit == "session":
            return {}  # a visit is over long before
        length = parse_duration(self.planned.window)
        start = self.rows["time"]
        days = -(-length // DAY)
        starts = [round(each) for each in np.linspace(0, days, min(days, MOST_DAYS) + 1)]
        middle, until = start + length // 2, self.rows["until"]
        halves = [self._measure_part(start, middle), self._measure_part(middle + 1, until)]
        parts = [
            # The very last moment belongs to the window, and so to its last part.
            self._measure_part(start + low * DAY, until if high >= days else start + high * DAY - 1)
            for low, high in itertools.pairwise(starts)
        ]
        return {"early": halves[0], "late": halves[1], "days": np.stack(parts, axis=1), "starts": tuple(starts)}

    def _measure_part(self, low: pd.Series, high: pd.Series) -> Floats:
        entries = self.rows.assign(time=low, begin=low, until=high)
        return measure_units(self.reader.over(entries), self.plan, self.planned.primary)[0]

    def find_doers(self) -> tuple[Floats, Floats] | None:
        """Say of each unit whether it did the primary metric's micro, and its macro; None where that is no micro."""
        micro = self.planned.primary.conversion
        if not isinstance(self.plan[micro], Micro):
            return None
        macro = self.plan.macro_of(micro).id
        did = [measure_units(self.reader, self.plan, Outcome(conversion=each))[0] for each in (micro, macro)]
        return did[0], did[1]


def measure_units(reader: Reader, plan: Plan, outcome: Outcome) -> tuple[Floats, Floats | None]:
    """Give what each entry's unit adds to a metric, and out of how many; None where each counts once.

    Raises:
        EventDataError: Amounts are in several currencies, or in another one than the plan's.
    """
    conversion = plan[outcome.conversion]
    macro = plan.macro_of(outcome.conversion)
    found = tally(reader, conversion, outcome.metric, macro)
    _check_money(found.money, macro, name_outcome(plan, outcome))
    known = ~np.isnan(found.amount)
    size = len(reader.entries)
    numerator, denominator = (
        np.bincount(found.entry[known], each[known], minlength=size).astype(float)
        for each in (found.amount, found.base)
    )
    return numerator, None if (denominator == 1).all() else denominator


def _check_money(money: pd.DataFrame | None, macro: Macro, name: str) -> None:
    used = sorted(money["currency"].unique()) if money is not None else []
    if len(used) > 1 or (used and macro.currency and used != [macro.currency]):
        plan = f", and the plan says {macro.currency}" if macro.currency else ""
        msg = (
            f"{name!r} has amounts in {' and '.join(used)}{plan}: they can't be added up. Convert them to one currency "
            "in the source, or match the rows of one alone."
        )
        raise EventDataError(msg)


def name_outcome(plan: Plan, outcome: Outcome) -> str:
    """Name what is measured, for people."""
    name, metric = plan[outcome.conversion].name, outcome.metric
    if metric.type == "rate" and not (metric.unit or metric.over):
        return name
    label = f"{metric.value_column} per unit" if metric.type == "sum" else metric.label
    return f"{name}: {label}"


def find_direction(conversion: Macro | Micro | Loss, metric: Metric) -> Direction:
    """Say which way a metric is better: as the plan says of it, else fewer losses, and less time and abandonment."""
    if isinstance(conversion, Loss) or metric.type in FEWER_IS_BETTER:
        usual: Direction = "down"
    else:
        # Of an error less is better however it is counted; that a form's time is to fall says nothing of its rate.
        counts = isinstance(conversion, Macro) or conversion.metric.type in COUNTING
        usual = conversion.direction if counts and metric.type in COUNTING else "up"
    known = () if isinstance(conversion, Loss) else conversion.measures
    return next((each.direction for each in known if str(each.metric) == str(metric)), usual)
