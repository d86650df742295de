"""Where units leave on an ordered path: counts, rates, times and value lost at each step."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from convlib import plots, takeaways
from convlib.attempts import Anchor, Count, Excluded, Order, Task, count_parts
from convlib.conversions import Exclusion, Step, microseconds
from convlib.documents import find_wrong_number
from convlib.errors import ParamError
from convlib.events import EventLog, Unit, check_log, list_columns
from convlib.funnel_results import Counted, count_steps, count_trend, leave_out
from convlib.funnel_rules import StepName, check_kinds, read_rules
from convlib.funnel_units import State, bin_times, estimate_conversion, find_next, list_units
from convlib.plan_entries import Macro
from convlib.redaction import check_shared
from convlib.results import Kind, Result, Shown, Takeaways, show_table
from convlib.stats import CONFIDENCE, check_confidence
from convlib.step_rows import Ask, check_ask, fetch_parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class NextEvents(Result):
    """What those that stopped at a step did next.

    Attributes:
        counted: What is counted: `units`, `attempts` or `sessions`.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("name", "Stopped at", "text"),
        ("next", "Next event", "text"),
        ("units", "Units", "count"),
        ("share", "Of those that stopped", "percent"),
        ("median_seconds", "Median time", "seconds"),
    )

    counted: str

    @property
    def named(self) -> pd.DataFrame:
        """Give the table with names for people in place of the conversions' ids."""
        return self.table.assign(**{name: self.table[name].replace(self.names) for name in ("name", "next")})

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw what came next at the step at which most stopped."""
        return plots.draw_next(self.named, counted=self.counted, segment=self.segment, ax=ax)

    def _repr_html_(self) -> str:
        return show_table(self.named, _head_units(self.SHOWN, self.counted))


@dataclasses.dataclass(frozen=True)
class Funnel(Result):
    """How many units reached each step within the window, and what those that left would have been worth.

    Attributes:
        steps: The steps' names, in order.
        window: How long after the first step a later one counts.
        by: Breakdown columns.
        counted: What is counted: `units`, `attempts` or `sessions`.
        leaks: One row a step and group, the most units lost first: the table's columns, an interval of the value lost,
            `units_before` and of these the `lost_rate`; with `by` the `leak_difference` from all other groups, its
            test and the `verdict`; `units_rank`, `value_rank`.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("name", "Step", "text"),
        ("units", "Units", "count"),
        ("rate_from_start", "Of the first step", "percent"),
        ("rate_from_previous", "Of the step before", "percent"),
        ("lost", "Lost", "count"),
        ("seconds_from_previous_p50", "Median time", "seconds"),
        ("value", "Value lost", "number"),
        ("pending", "Pending", "count"),
        ("note", "Note", "text"),
    )
    LEAKS: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("name", "Lost before", "text"),
        ("units_before", "Units", "count"),
        ("lost", "Lost", "count"),
        ("lost_rate", "Share lost", "percent"),
    )
    TESTED: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("leak_difference", "Against the others", "points"),
        ("q_value", "q", "p_value"),
        ("verdict", "Verdict", "text"),
    )

    steps: tuple[str, ...]
    window: str
    by: tuple[str, ...]
    counted: str
    leaks: pd.DataFrame
    _counted: Counted = dataclasses.field(repr=False)
    _log: EventLog = dataclasses.field(repr=False)
    _unit: Unit = dataclasses.field(repr=False)

    @functools.cached_property
    def trend(self) -> pd.DataFrame:
        """Give a row for each week of entry: units, those converted within the window, their rate with its interval."""
        return count_trend(self._counted)

    @functools.cached_property
    def times(self) -> pd.DataFrame:
        """Spread the seconds from the last required step over bins.

        Returns:
            For each step (and group) `seconds_low`, `seconds_high`, the `units` within, as a `share` of those that
            reached the step, and its quantiles `seconds_p10` to `seconds_p90`.
        """
        return bin_times(self._counted)

    @functools.cached_property
    def time_to_convert(self) -> pd.DataFrame:
        """Estimate which share has converted some time after entry, also from those who are pending (Kaplan-Meier).

        Returns:
            For each group `seconds` since entry, how many were `at_risk` just before, how many `converted` then, and
            the `share` that has by then, with its interval (Greenwood's variance, log-log).
        """
        return estimate_conversion(self._counted)

    def next_events(self, top: int = 10) -> NextEvents:
        """Say what those that stopped at each step did next: the first later event within the window.

        Args:
            top: How many events are listed for each step, the most frequent first; the others are counted together.

        Raises:
            ParamError: `top` is no whole number, at least 1.
        """
        _check_top(top)
        table = find_next(self._counted, self._log, self._unit, top=top)
        planned = self._log.plan.conversions if self._log.plan else ()
        names = {**{each.id: each.name for each in planned}, **self.names}
        return NextEvents(
            table=table,
            takeaways=takeaways.word_next(
                table.replace({"name": names, "next": names}),
                counted=self.counted, window=self.window, segment=self.segment,
            ),
            segment=self.segment,
            names=names,
            counted=self.counted,
        )  # fmt: skip

    def units(self, step: int | str = 1, state: State = "reached") -> pd.DataFrame:
        """List the units that a number of the table counts.

        Args:
            step: A step by its number, from 1, or its name.
            state: `reached` the step; `lost`: reached the last required step before, and not this one; `converted`:
                reached the step and the last one; `pending`: reached the step, and their window is not over.

        Returns:
            One row an attempt, in order of entry: `user_id`, `session_id` of sessions, the groups, when it `entered`
            and when it reached each step (`time_1`, ...; UTC), and the `value` of its last step.

        Raises:
            ParamError: There is no such step or state, or the report is not to show single units.
        """
        check_shared(self._log.fewest, "`units` lists single units")
        known = [tuple(dict.fromkeys((name, self.names.get(name, name)))) for name in self._counted.names]
        return list_units(self._counted, self._log, self._unit, step=step, state=state, names=known)

    def show_leaks(self, top: int = 10) -> Shown:
        """Show where most are lost, and which groups leave more often than the others."""
        _check_top(top)
        worth: tuple[str, str, Kind] = ("value", "Value lost", "number")
        columns = (*_name_groups(self.by), *self.LEAKS, *(self.TESTED if self.by else ()), worth)
        return Shown(self._named_leaks.head(top), _head_units(columns, self.counted))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the share of the first step's units that reached each step, with n and interval."""
        return plots.draw_funnel(
            self.named,
            by=self.by,
            window=takeaways.word_duration(self.window),
            counted=self.counted,
            segment=self.segment,
            ax=ax,
        )

    def plot_leaks(self, ax: "Axes | None" = None) -> "Axes":
        """Draw which groups leave more or less often than all others together, and where."""
        return plots.draw_leaks(self._named_leaks, by=self.by, segment=self.segment, ax=ax)

    def plot_times(self, ax: "Axes | None" = None) -> "Axes":
        """Draw how the time to each step is spread, with the median."""
        times = self.times.assign(name=self.times["name"].replace(self.names))
        return plots.draw_times(times, by=self.by, segment=self.segment, ax=ax)

    def plot_time_to_convert(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the share converted by time since entry, with its interval."""
        return plots.draw_curve(self.time_to_convert, by=self.by, counted=self.counted, segment=self.segment, ax=ax)

    def plot_trend(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the completion rate by week of entry, with its interval."""
        return plots.draw_trend(self.trend, segment=self.segment, ax=ax)

    @property
    def _named_leaks(self) -> pd.DataFrame:
        return self.leaks.replace({"name": self.names, "previous": self.names})

    def _repr_html_(self) -> str:
        return show_table(self.named, _head_units((*_name_groups(self.by), *self.SHOWN), self.counted))


def _name_groups(by: Sequence[str]) -> tuple[tuple[str, str, Kind], ...]:
    return tuple((name, name.replace("_", " ").capitalize(), "text") for name in by)


def _head_units(columns: Sequence[tuple[str, str, Kind]], counted: str) -> tuple[tuple[str, str, Kind], ...]:
    """Head columns of units by what is counted."""
    return tuple((name, counted.capitalize() if head == "Units" else head, kind) for name, head, kind in columns)


def measure_funnel(
    log: EventLog,
    steps: Sequence[str | Step],
    *,
    window: str = "7D",
    order: Order = "ordered",
    unit: Unit = "user",
    anchor: Anchor = "best",
    by: str | Sequence[str] = (),
    breakdown: str = "first_touch",
    exclude: Exclusion | Sequence[Exclusion] = (),
    excluded: Excluded = "stop_attempt",
    hold: str | Sequence[str] = (),
    optional: StepName | Sequence[StepName] = (),
    step_windows: Mapping[StepName, str] | None = None,
    min_gap: str | None = None,
    tie_tolerance: str = "0s",
    first_time: bool = False,
    count: Count = "uniques",
    mature_only: bool = True,
    confidence: float = CONFIDENCE,
) -> Funnel:
    """Say how many units get from each step to the next, within a window from the first, and where they leave.

    By default a unit's best attempt counts: the one that gets furthest, and of those the earliest. Other events may lie
    between; both ends of the window count; events at the same instant count in step order; each event counts once.
    `docs/funnel.md` has every rule in words, with examples. Steps are named by number, from 1, or by name.

    Args:
        log: The log, seen through a segment and a period; attempts open in the period.
        steps: Conversions of the plan, event names, or `Step`s, in order; 2 to 64.
        window: How long after the first step a later one counts, such as `7D`.
        order: `ordered`; `strict`: no other used event between two steps; `unordered`: the steps in any order.
        unit: What is counted.
        anchor: Which first step opens the window: that of the `best` attempt, or the unit's `first` in the period.
        by: Columns that break the funnel down.
        breakdown: Where they are read: at the counted attempt's first step (`first_touch`), at the last one that it
            reached (`last_touch`), or at `step:k`.
        exclude: Events that must not happen between two steps.
        excluded: What an excluded event does: `stop_attempt`, or `drop_unit` if the furthest attempt met it.
        hold: Columns that must keep one value through an attempt.
        optional: Steps that may be skipped.
        step_windows: For a step the longest time from the one before, such as `{2: "1h"}`.
        min_gap: The least time between two steps.
        tie_tolerance: How much too early a step may be and still count.
        first_time: Whether only a unit's first event of the first step, in the whole log, opens an attempt.
        count: `uniques`, `totals` (every attempt, one after another) or `sessions` (each session once).
        mature_only: Leave out of every count the units whose first entry and window reach past the end of the data;
            for totals and sessions the attempts and sessions.
        confidence: Level of the intervals.

    Returns:
        The funnel; `.table` has a row for each step (and group): units, pending units, rates with Wilson intervals
        (clustered by unit for totals and sessions), units lost since the last required step, seconds (quantiles), and
        the value lost: units lost x completion rate of those who passed x mean value of the last step.

    Raises:
        ParamError: Too few or too many steps, an unknown step, event or column, a window that is not a duration, or
            rules that have no meaning together; every problem at once.
    """
    check_log(log)
    check_confidence(confidence)
    barred: list[Any] = list(exclude) if isinstance(exclude, list | tuple) else [exclude]
    skipped: list[Any] = list(optional) if isinstance(optional, list | tuple) else [optional]
    check_kinds(steps, barred, unit)
    chosen = [Step(step) if isinstance(step, str) else step for step in steps]
    groups, holds = list_columns(by), list_columns(hold)
    rules = read_rules(
        log, chosen, window=window, order=order, anchor=anchor, exclude=barred, excluded=excluded,
        optional=skipped, step_windows=step_windows,
        min_gap=min_gap, tie_tolerance=tie_tolerance, first_time=first_time, count=count, breakdown=breakdown,
        columns=[*groups, *holds],
    )  # fmt: skip
    log.check_breakdown([*groups, *holds])
    if count != "uniques":
        check_shared(log.fewest, f"`count` is {count!r}, which counts some units several times")
    task = Task(rules, tuple(groups), tuple(holds), breakdown, log.span, microseconds(log.last))
    ask = frame_ask(log, task, chosen, barred, unit=unit, count=count)
    check_ask(log, ask)
    attempts = log.engine.count(log, ask, task).to_pandas() if log.engine else count_parts(*fetch_parts(log, ask), task)
    if count == "totals":
        attempts = attempts.assign(cluster=attempts["unit"])
    if not mature_only:
        attempts = attempts.assign(pending=False)
    steps_named = _name_steps(chosen)
    names = list(steps_named) if order != "unordered" else _name_counts(len(chosen))
    every = Counted(
        attempts=attempts,
        names=tuple(names),
        required=rules.required,
        by=tuple(groups),
        counted="attempts" if count == "totals" else f"{ask.unit}s".replace("users", "units"),
        compared_from=_find_comparable(breakdown, len(chosen)),
        window=rules.window / 1e6,
        period=(task.period[0] / 1e6, task.period[1] / 1e6),
        end=task.end / 1e6,
        confidence=confidence,
    )
    counted = leave_out(every, fewest=log.fewest)
    table, leaks = count_steps(counted)
    shown = {name: name.replace(str(step), _name(log, step), 1) for name, step in steps_named.items()}
    funnel = Funnel(
        table=table,
        takeaways=takeaways.word_funnel(
            _keep_required(table, counted.required).replace({"name": shown}),
            leaks.replace({"name": shown, "previous": shown}),
            by=tuple(groups),
            window=window,
            counted=counted.counted,
            seconds_to_most=counted.seconds_to_most,
            segment=log.segment_name,
            worth=_worth(log, chosen[-1]) if counted.names[-1] == names[-1] else None,
            compared=counted.compared_from == 1,
        ),
        segment=log.segment_name,
        names=shown,
        steps=counted.names if order != "unordered" else tuple(steps_named),
        window=window,
        by=tuple(groups),
        counted=counted.counted,
        leaks=leaks,
        _counted=counted,
        _log=log,
        _unit=ask.unit,
        fewest=log.fewest,
    )
    return _blank(funnel, every) if log.fewest else funnel


def _blank(funnel: Funnel, every: Counted) -> Funnel:
    """Show that something is left out, where zero would be wrong: of the pending, or of everything."""
    table, counted = funnel.table, funnel._counted
    if counted.attempts.empty and len(every.attempts):
        numbers = [str(name) for name in table if name != "step" and pd.api.types.is_numeric_dtype(table[name])]
        nothing = takeaways.word_nothing_left(funnel.fewest, what="The funnel", segment=funnel.segment)
        table = table.astype(dict.fromkeys(numbers, float)).assign(
            **dict.fromkeys(numbers, np.nan), note=takeaways.word_left_out(funnel.fewest)
        )
        return dataclasses.replace(funnel, table=table, leaks=funnel.leaks.head(0), takeaways=Takeaways((nothing,)))
    if counted.mature.all() and not every.mature.all():
        unknown = {"pending": np.nan}
        return dataclasses.replace(funnel, table=table.assign(**unknown), leaks=funnel.leaks.assign(**unknown))
    return funnel


def frame_ask(
    log: EventLog, task: Task, steps: Sequence[Step], exclude: Sequence[Exclusion], *, unit: Unit, count: Count
) -> Ask:
    """Say what a funnel needs of a log; another engine finds the segment's units itself."""
    return Ask(
        steps=(*steps, *(each.step for each in exclude)),
        last=len(steps) - 1,
        unit="session" if count == "sessions" else unit,
        columns=task.columns,
        clusters=count == "sessions" and unit != "session",
        every_event=task.rules.order == "strict",
        members=log.entries(unit=unit).index.to_numpy(np.int64) if log.rule and not log.engine else None,
    )


def _find_comparable(breakdown: str, steps: int) -> int:
    """Give the first step, from 0, at which groups may be compared: before it, being in one depends on staying."""
    if breakdown == "last_touch":
        return steps
    return int(breakdown.removeprefix("step:")) if breakdown.startswith("step:") else 1


def _check_top(top: int) -> None:
    if problems := find_wrong_number("top", top, least=1):
        raise ParamError(*problems)


def _name_steps(steps: Sequence[Step]) -> dict[str, Step]:
    """Name the steps, one that comes again with a number: `view`, `view (2)`."""
    counts = [sum(str(each) == str(step) for each in steps[:k]) for k, step in enumerate(steps)]
    return {f"{step} ({k + 1})" if k else str(step): step for k, step in zip(counts, steps, strict=True)}


def _name_counts(steps: int) -> list[str]:
    """Name the rows of steps in any order."""
    return ["any step", *(f"any {k} steps" for k in range(2, steps)), f"all {steps} steps"]


def _name(log: EventLog, step: Step) -> str:
    """Name a step for people: as the plan does, where it knows it."""
    name = log.plan[step.name].name if log.plan and step.name in log.plan else step.name
    return str(step).replace(step.name, name, 1)


def _worth(log: EventLog, step: Step) -> str | None:
    """Name the unit of the value lost; None where the plan does not say."""
    goal = log.plan[step.name] if log.plan and step.name in log.plan else None
    if not isinstance(goal, Macro):
        return None
    return "conversions" if goal.value == 1 else goal.currency


def _keep_required(table: pd.DataFrame, required: Sequence[bool]) -> pd.DataFrame:
    """Leave the optional steps out, and number the others anew."""
    kept = table[np.array(required)[table["step"] - 1]]
    return kept.assign(step=np.cumsum(required)[kept["step"] - 1]).reset_index(drop=True)
