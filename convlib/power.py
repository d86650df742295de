"""How many units and days an experiment needs, from what the log's metrics and traffic are now."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib import plots, stats, takeaways
from convlib.conversions import microseconds
from convlib.documents import did_you_mean, quote_names
from convlib.durations import find_duration_problem, parse_duration
from convlib.errors import ParamError
from convlib.events import EventLog, Unit, check_log
from convlib.metrics import Reader
from convlib.periods import find_day
from convlib.plan import Plan
from convlib.plan_entries import Macro, Metric, Micro, ValueColumn
from convlib.plan_experiments import NO_GUARDRAIL, Guardrail, Margin, Outcome, PlannedExperiment
from convlib.results import Kind, Result, Takeaways
from convlib.rules import Rule
from convlib.samples import DAY, Role, find_direction, measure_units, name_outcome
from convlib.sizes import DETECTABLE, WEEK, WEEKS, Baseline, Layout, count_days, draw_out, find_obstacle, plan_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
#: The margin of a guardrail that names none.
MARGIN = 0.05
EFFECT, ARMS, WINDOW = 0.10, 2, "14D"
#: So many weeks are in the curve, or up to so many when the test takes longer.
LEAST_WEEKS, MOST_WEEKS = 8, 26


@dataclasses.dataclass(frozen=True)
class ExperimentPlan(Result):
    """How many units and days a test needs.

    Attributes:
        curve: For each metric and number of weeks of assignment: `role`, `conversion`, `metric`, `weeks`, `units`,
            `power` and the relative change that is `detectable`.
        units: Units in all arms that the whole test needs: the most that one of its metrics does; NaN where the
            primary metric can't be planned.
        days: Days on which units are assigned, at least 7.
        follow_up: For how long each unit is followed after that.
        per_day: How many units enter a day.
        shares: The share of the units in each arm, the control's first.
        power: With which the changes are shown.
        confidence: Level of the intervals that show them.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("conversion", "Metric", "text"),
        ("role", "For", "text"),
        ("shown_value", "Now", "text"),
        ("units_measured", "n", "count"),
        ("effect", "Change to find", "percent"),
        ("margin", "Margin", "percent"),
        ("units_needed", "Units in all arms", "count"),
        ("days_needed", "Days of assignment", "count"),
        *((name, f"Shown in {weeks} w", "percent") for name, weeks in zip(DETECTABLE, WEEKS, strict=True)),
        ("note", "Note", "text"),
    )

    curve: pd.DataFrame
    units: float
    days: float
    follow_up: str
    per_day: float
    shares: tuple[float, ...]
    power: float
    confidence: float
    _titles: tuple[str, ...] = dataclasses.field(repr=False)

    @property
    def named(self) -> pd.DataFrame:
        """Give the table with each metric's name for people in place of the conversion's id."""
        return self.table.assign(conversion=list(self._titles), shown_value=takeaways.word_values(self.table, "value"))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the power of each metric against the weeks of assignment."""
        titles = dict(zip(zip(self.table["conversion"], self.table["metric"], strict=True), self._titles, strict=True))
        names = [titles[key] for key in zip(self.curve["conversion"], self.curve["metric"], strict=True)]
        return plots.draw_power(self.curve.assign(name=names), power=self.power, segment=self.segment, ax=ax)


def plan_experiment(
    log: EventLog,
    plan: Plan,
    *,
    experiment: str | None = None,
    primary: str | Outcome | None = None,
    effect: float = EFFECT,
    guardrails: Sequence[str | Guardrail] | None = None,
    arms: int = ARMS,
    window: str = WINDOW,
    entry: str | None = None,
    power: float = stats.POWER,
    confidence: float = stats.CONFIDENCE,
) -> ExperimentPlan:
    """Say how many units and days a test needs to show a change of a micro, and that the macro is not hurt.

    Each metric is measured on the units that entered in the log's period and whose window is over. The primary needs
    the units with which a change of `effect` is found; a guardrail those with which its interval clears the margin when
    nothing changes; the test the larger. The read-out at the end is meant, without an adjustment by what units did
    before: that makes a test shorter, and intervals that may be looked at while it runs are wider.

    Args:
        log: The log, seen through a segment and a period of entries, from which metrics and traffic are taken.
        plan: The log's plan.
        experiment: An experiment of the plan, which then says what is measured, of whom, in which arms.
        primary: The micro that the change is to move: its id (its rate among all units), or an `Outcome`.
        effect: The change to find, as a share of the metric's value now: 0.10 is 10%. Its direction is the plan's.
        guardrails: What must not get worse: ids of conversions, with a margin of 5%, or `Guardrail`s. None for the
            macro of the primary: its rate, and its value per unit where it has a column of values.
        arms: How many arms share the units equally.
        window: How long after their entry units are followed.
        entry: Conversion or event with which units would be assigned; None for their first event of the period, or
            what the experiment's `assignment` matches, if that has happened yet.
        power: With which a change is to be shown.
        confidence: Level of the intervals that show it; of several arms, for all of them together.

    Returns:
        One row a metric: `value` on `units_measured`, the relative `effect` or `margin`, `units_needed` in all arms and
        `days_needed` at the log's traffic, at least 7, without the follow-up. `detectable_N_weeks` is the relative
        change (of a guardrail: the margin) shown with that power by so many weeks of traffic. Too little data: NaN and
        a note. A share's variance is that of the two rates; other amounts are taken to change alike.

    Raises:
        ParamError: Every argument that makes no sense, an experiment or conversion that the plan does not have, or
            nobody entered.
    """
    check_log(log)
    log.check_plan(plan)
    given = {"primary": primary, "guardrails": guardrails, "arms": arms, "window": window}
    problems = [
        *find_layout_problems(arms=arms, power=power, confidence=confidence, effect=effect),
        *_find_twice(experiment, given),
        *(_find_outcome_problems(plan, primary, guardrails) if experiment is None else ()),
        *_find_window_problems(window),
        *_list_problems(lambda: plan.find_experiment(str(experiment)) if experiment is not None else None),
        *_list_problems(lambda: log.check_event(entry) if entry is not None else None),
    ]
    if problems:
        raise ParamError(*problems)
    if experiment is None:
        design = _make_design(plan, primary, guardrails, arms=arms, window=window)
    else:
        design = _read_design(plan.find_experiment(experiment))
    entries, is_assigned = _enter(log, design, entry)
    layout = Layout(design.shares, len(entries) / _count_log_days(log), design.window, power, confidence)
    baselines = list(_measure(log, plan, design, entries, effect))
    return size_experiment(
        baselines, layout, segment=log.segment_name, is_assigned=is_assigned, planned_days=design.days
    )


def size_experiment(
    baselines: Sequence[Baseline],
    layout: Layout,
    *,
    segment: str,
    is_assigned: bool = True,
    planned_days: int | None = None,
) -> ExperimentPlan:
    """Plan a test from what its metrics are now.

    Args:
        baselines: The metrics, the primary first.
        layout: How the test is laid out.
        segment: Name of the segment that it is about.
        is_assigned: Whether the traffic is that of the experiment's own assignment.
        planned_days: On how many days the plan has units assigned; None when that is open.
    """
    table = plan_metrics(baselines, layout)
    needed = table["units_needed"]
    units = float(needed.max()) if np.isfinite(needed.iloc[0]) else np.nan
    days = count_days(units, layout)
    weeks = int(np.clip(np.ceil(1.25 * np.nan_to_num(days) / WEEK), LEAST_WEEKS, MOST_WEEKS))
    titles = tuple(each.name for each in baselines)
    made = ExperimentPlan(
        table=table,
        takeaways=Takeaways(()),
        segment=segment,
        names=dict(zip(table["conversion"], titles, strict=True)),
        curve=draw_out(baselines, layout, weeks=weeks),
        units=units,
        days=days,
        follow_up=layout.follow_up,
        per_day=layout.per_day,
        shares=layout.shares,
        power=layout.power,
        confidence=layout.confidence,
        _titles=titles,
    )
    said = takeaways.word_plan(
        made.named,
        units=units,
        days=days,
        per_day=layout.per_day,
        follow_up=layout.follow_up,
        arms=len(layout.shares),
        power=layout.power,
        is_assigned=is_assigned,
        planned_days=planned_days,
    )
    return dataclasses.replace(made, takeaways=said)


@dataclasses.dataclass(frozen=True)
class _Design:
    """What is measured of whom."""

    primary: Outcome
    guardrails: tuple[Guardrail, ...]
    shares: tuple[float, ...]
    window: str
    unit: Unit = "user"
    match: Rule | None = None
    days: int | None = None


def _make_design(
    plan: Plan, primary: str | Outcome | None, guardrails: Sequence[str | Guardrail] | None, *, arms: int, window: str
) -> _Design:
    outcome = primary if isinstance(primary, Outcome) else Outcome(conversion=str(primary))
    macro = plan.macro_of(outcome.conversion)
    if guardrails is None:
        value = macro.value.column if isinstance(macro.value, ValueColumn) else None
        metrics = [Metric(type="rate"), *([Metric(type="sum", column=value)] if value else [])]
        chosen = [Guardrail(conversion=macro.id, metric=metric, margin=Margin(relative=MARGIN)) for metric in metrics]
    else:
        chosen = [
            Guardrail(conversion=each, margin=Margin(relative=MARGIN)) if isinstance(each, str) else each
            for each in guardrails
        ]
    return _Design(outcome, tuple(chosen), (1 / arms,) * arms, window)


def _read_design(planned: PlannedExperiment) -> _Design:
    return _Design(
        primary=planned.primary,
        guardrails=planned.guardrails,
        shares=planned.shares,
        window=planned.window,
        unit=planned.unit,
        match=planned.assignment.match,
        days=planned.days,
    )


def _enter(log: EventLog, design: _Design, entry: str | None) -> tuple[pd.DataFrame, bool]:
    """Find who would be assigned and when, and say whether the experiment's own assignment has been seen yet."""
    if entry is None and design.match is not None:
        found = log.keep(design.match).entries(unit=design.unit)
        if len(found):
            return found.reset_index(), True
    found = log.entries(unit=design.unit, entry=entry).reset_index()
    if found.empty:
        first, last = log.period
        how = f" with `{entry}`" if entry else ""
        msg = (
            f"Nobody enters{how} from {first} to {last} in segment {log.segment_name}, so there is no traffic to plan "
        )
        raise ParamError(f"{msg}with. Choose other days, another segment or another `entry`.")
    return found, design.match is None


def _count_log_days(log: EventLog) -> int:
    """Count the days of the period in which the log has data."""
    first, last = log.period
    begun, ended = (find_day(moment, log.timezone) for moment in (log.first, log.last))
    return (min(last, ended) - max(first, begun)).days + 1


def _measure(log: EventLog, plan: Plan, design: _Design, entries: pd.DataFrame, effect: float) -> Iterator[Baseline]:
    """Measure each metric on the units whose window is over."""
    end = microseconds(log.last)
    until = entries["time"] + parse_duration(design.window)
    # A visit that holds the entry may have begun a day before it.
    followed = entries.assign(until=until, begin=entries["time"] - DAY)[until <= end].reset_index(drop=True)
    reader = Reader(log, design.unit, followed, end=end, clip=True)
    yield _describe(reader, plan, design.primary, "primary", effect)
    for each in design.guardrails:
        yield _describe(reader, plan, each, "guardrail", each.margin)


def _describe(reader: Reader, plan: Plan, outcome: Outcome, role: Role, size: float | Margin) -> Baseline:
    """Measure one metric, and say which change of it is to be shown."""
    numerator, denominator = measure_units(reader, plan, outcome)
    units = len(numerator)
    base = np.ones(units) if denominator is None else denominator
    value = float(stats.divide(numerator.sum(), base.sum()))
    is_share = denominator is None and bool(np.isin(numerator, (0, 1)).all())
    variance = value * (1 - value) if is_share else _vary(numerator, base, value)
    direction = outcome.direction or find_direction(plan[outcome.conversion], outcome.metric)
    is_better = 1 if direction == "up" else -1
    if isinstance(size, Margin):
        margin = size.relative or float(stats.divide(size.absolute or np.nan, abs(value)))
        change, is_relative = -is_better * margin, size.relative is not None
    else:
        change, is_relative = is_better * size, False
    found = Baseline(
        role=role,
        conversion=outcome.conversion,
        metric=str(outcome.metric),
        name=name_outcome(plan, outcome),
        units=units,
        value=value,
        variance=variance,
        is_share=is_share,
        change=change,
        is_margin_relative=is_relative,
    )
    return find_obstacle(found, did=int(np.count_nonzero(numerator)))


def _vary(numerator: Floats, base: Floats, value: float) -> float:
    """Give the variance of a ratio of totals for one unit (the delta method: Deng, Knoblich and Lu 2018)."""
    if len(base) < 2 or not base.any():
        return np.nan
    return float(np.var(numerator - value * base, ddof=1) / base.mean() ** 2)


def find_layout_problems(
    *, arms: object, power: object, confidence: object, effect: object = EFFECT, margin: object = MARGIN
) -> Iterator[str]:
    """Say which numbers make no sense."""
    for name, share, such, hint in (
        (
            "effect",
            effect,
            "a relative change above 0 and at most 1, such as 0.1 for 10%",
            "Its direction is the plan's.",
        ),
        ("margin", margin, "a tolerated worsening above 0 and below 1, such as 0.05 for 5%", ""),
    ):
        if not _is_number(share) or not 0 < share <= (1 if name == "effect" else 0.999):
            near = f"Did you mean {share / 100:g}?" if _is_number(share) and 1 < share <= 100 else ""
            yield " ".join(filter(None, [f"`{name}` is {share!r}; it must be {such}.", hint, near]))
    for name, share, usual in (("power", power, stats.POWER), ("confidence", confidence, stats.CONFIDENCE)):
        if not _is_number(share) or not 0.5 <= share < 1:
            yield f"`{name}` is {share!r}; it must lie from 0.5 to below 1, such as {usual}."
    if not isinstance(arms, int) or isinstance(arms, bool) or arms < ARMS:
        yield f"`arms` is {arms!r}; it must be a whole number, at least {ARMS}: the control is one of them."


def _find_twice(experiment: str | None, given: Mapping[str, object]) -> Iterator[str]:
    """Name the arguments that the plan's experiment says already."""
    usual = {"primary": None, "guardrails": None, "arms": ARMS, "window": WINDOW}
    for name, value in given.items():
        if experiment is not None and value != usual[name]:
            yield f"`{name}` is {value!r}, and the plan's experiment {experiment!r} has its own. Remove one of the two."


def _find_outcome_problems(plan: Plan, primary: object, guardrails: object) -> Iterator[str]:
    micros = [each.id for each in plan.conversions if isinstance(each, Micro)]
    if primary is None:
        yield f"`primary` is missing; name the micro that the change is to move: {quote_names(micros)}."
    else:
        found = primary.conversion if isinstance(primary, Outcome) else primary
        if found not in micros:
            near = did_you_mean(found, micros) if isinstance(found, str) else ""
            yield f"`primary` is {found!r}; it must be a micro of the plan: {quote_names(micros)}.{near}"
    if guardrails is None:
        return
    listed = list(guardrails) if isinstance(guardrails, list | tuple) else [guardrails]
    ids = [each.conversion if isinstance(each, Guardrail) else each for each in listed]
    known = [each.id for each in plan.conversions]
    unknown = [each for each in ids if each not in known]
    for each in unknown:
        near = did_you_mean(each, known) if isinstance(each, str) else ""
        yield f"`guardrails` has {each!r}; each must be a conversion of the plan or a `Guardrail` of one.{near}"
    if not unknown and not any(isinstance(plan[str(each)], Macro) for each in ids):
        yield f"`guardrails` {NO_GUARDRAIL}"


def _find_window_problems(window: object) -> Iterator[str]:
    if problem := find_duration_problem(window):
        yield f"`window` is {window!r}; {problem}"


def _list_problems(check: Callable[[], object]) -> tuple[str, ...]:
    try:
        check()
    except ParamError as error:
        return tuple(error.problems)
    return ()


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
