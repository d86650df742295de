"""Where units leave on an ordered path: counts, rates, times and value lost at each step."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib import plots, takeaways
from convlib.attempts import Anchor, Count, Excluded, Order, Task, count_parts
from convlib.conversions import Exclusion, Ints, Step, microseconds
from convlib.events import EventLog, Unit, list_columns
from convlib.funnel_rules import StepName, read_rules
from convlib.plan_entries import Macro
from convlib.results import Kind, Result, show_table
from convlib.stats import CONFIDENCE, FEW_UNITS, check_confidence, divide, wilson_interval
from convlib.step_rows import Ask, fetch_parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "step",
    "name",
    "units",
    "pending",
    "rate_from_start",
    "rate_from_start_ci_lower",
    "rate_from_start_ci_upper",
    "rate_from_previous",
    "rate_from_previous_ci_lower",
    "rate_from_previous_ci_upper",
    "lost",
    "seconds_from_previous_p25",
    "seconds_from_previous_p50",
    "seconds_from_previous_p75",
    "seconds_from_start_p50",
    "value",
    "note",
)
TREND_COLUMNS = ("period", "units", "converted", "rate", "rate_ci_lower", "rate_ci_upper", "note")


@dataclasses.dataclass(frozen=True)
class Funnel(Result):
    """How many units reached each step within the window, and what those that left would have been worth.

    Attributes:
        steps: The steps' names, in order.
        window: How long after the first step a later one counts.
        by: Breakdown columns.
        leaks: One row a step and group, the most units lost first: `units_rank`, `value_rank`.
        trend: One row a week of entry: units, converted, rate with its interval.
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

    steps: tuple[str, ...]
    window: str
    by: tuple[str, ...]
    leaks: pd.DataFrame
    trend: pd.DataFrame

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the share of the first step's units that reached each step, with n and interval."""
        return plots.draw_funnel(self.named, by=self.by, window=self.window, segment=self.segment, ax=ax)

    def plot_trend(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the completion rate by week of entry, with its interval."""
        return plots.draw_trend(self.trend, segment=self.segment, ax=ax)

    def _repr_html_(self) -> str:
        shown: tuple[tuple[str, str, Kind], ...] = tuple(
            (name, name.replace("_", " ").capitalize(), "text") for name in self.by
        )
        return show_table(self.named, (*shown, *self.SHOWN))


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
    check_confidence(confidence)
    chosen = [Step(step) if isinstance(step, str) else step for step in steps]
    barred = [exclude] if isinstance(exclude, Exclusion) else list(exclude)
    groups, holds = list_columns(by), list_columns(hold)
    rules = read_rules(
        log, chosen, window=window, order=order, anchor=anchor, exclude=barred, excluded=excluded,
        optional=[optional] if isinstance(optional, int | str) else optional, step_windows=step_windows,
        min_gap=min_gap, tie_tolerance=tie_tolerance, first_time=first_time, count=count, breakdown=breakdown,
        columns=[*groups, *holds],
    )  # fmt: skip
    start, end = (microseconds(pd.Timestamp(day)) for day in log.bounds)
    task = Task(rules, tuple(groups), tuple(holds), breakdown, (start, end), microseconds(log.last))
    ask = Ask(
        steps=(*chosen, *(each.step for each in barred)),
        last=len(chosen) - 1,
        unit="session" if count == "sessions" else unit,
        columns=task.columns,
        clusters=count == "sessions" and unit != "session",
        every_event=order == "strict",
        members=log.entries(unit=unit).index.to_numpy(np.int64) if log.rule else None,
    )
    attempts = count_parts(*fetch_parts(log, ask), task)
    if count == "totals":
        attempts = attempts.assign(cluster=attempts["unit"])
    if not mature_only:
        attempts = attempts.assign(pending=False)
    names = [str(step) for step in chosen] if order != "unordered" else _name_counts(len(chosen))
    table = _count_steps(attempts, names, rules.required, groups, confidence)
    shown = {str(step): _name(log, step) for step in chosen}
    trend = _count_trend(attempts, len(names), confidence)
    return Funnel(
        table=table,
        takeaways=takeaways.word_funnel(
            _keep_required(table, rules.required).replace({"name": shown}),
            by=tuple(groups),
            window=window,
            segment=log.segment_name,
            worth=_worth(log, chosen[-1]),
        ),
        segment=log.segment_name,
        names=shown,
        steps=tuple(str(step) for step in chosen),
        window=window,
        by=tuple(groups),
        leaks=_rank_leaks(table),
        trend=trend,
    )


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


def _count_steps(
    attempts: pd.DataFrame, names: list[str], required: Sequence[bool], by: list[str], confidence: float
) -> pd.DataFrame:
    groups = [(None, attempts)] if not by else list(attempts.groupby(by, sort=True))
    parts = [
        _count_group(group, names, required, confidence).assign(**group[by].iloc[0])
        for _, group in groups
        if len(group)
    ]
    if not parts:
        empty = _count_group(attempts, names, required, confidence)
        parts = [empty if not by else empty.head(0).assign(**dict.fromkeys(by, ""))]
    return pd.concat(parts, ignore_index=True)[[*by, *COLUMNS]]


def _count_group(group: pd.DataFrame, names: list[str], required: Sequence[bool], confidence: float) -> pd.DataFrame:
    mature = group[~group["pending"]]
    times = mature[[f"time_{k}" for k in range(len(names))]].to_numpy(float)
    reached = ~np.isnan(times)
    previous = _find_previous(required)
    units = reached.sum(axis=0)
    before = units[previous]
    clusters = mature["cluster"].to_numpy() if "cluster" in mature else None
    low, high = _interval(reached, reached[:, [0] * len(names)], clusters, confidence)
    step_low, step_high = _interval(reached, reached[:, previous], clusters, confidence)
    lost = np.where(required, before - units, 0)
    value = lost * divide(units[-1], units) * mature["value"].mean()
    table = pd.DataFrame(
        {
            "step": np.arange(1, len(names) + 1),
            "name": names,
            "units": units,
            "pending": int(group["pending"].sum()),
            "rate_from_start": divide(units, units[0]),
            "rate_from_start_ci_lower": low,
            "rate_from_start_ci_upper": high,
            "rate_from_previous": divide(units, before),
            "rate_from_previous_ci_lower": step_low,
            "rate_from_previous_ci_upper": step_high,
            "lost": lost,
            "value": value,
            "note": _note(units[0]),
        }
    )
    columns = _time_columns(times, previous)
    return table.assign(**columns)


def _find_previous(required: Sequence[bool]) -> list[int]:
    """Give for each step the last required one before it; for the first itself."""
    return [max((k for k in range(step) if required[k]), default=0) for step in range(len(required))]


def _keep_required(table: pd.DataFrame, required: Sequence[bool]) -> pd.DataFrame:
    """Leave the optional steps out, and number the others anew."""
    kept = table[np.array(required)[table["step"] - 1]]
    return kept.assign(step=np.cumsum(required)[kept["step"] - 1]).reset_index(drop=True)


def _interval(
    hits: NDArray[np.bool_], trials: NDArray[np.bool_], clusters: NDArray[Any] | None, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give Wilson's interval of each column's rate, with fewer trials where those of one cluster are alike."""
    effects = np.ones(hits.shape[1])
    if clusters is not None and len(clusters):
        numbers = np.unique(clusters, return_inverse=True)[1]
        effects = np.array([_design_effect(*pair, numbers) for pair in zip(hits.T, trials.T, strict=True)])
    successes, total = hits.sum(axis=0), trials.sum(axis=0)
    return wilson_interval(successes / effects, total / effects, confidence=confidence)


def _design_effect(hits: NDArray[np.bool_], trials: NDArray[np.bool_], clusters: Ints) -> float:
    """Compare the variance of a rate, summed within clusters, with that of as many independent trials.

    Source: Kish (1965), Survey Sampling, 5.4; the variance is that of a ratio of totals over clusters.
    """
    total, groups = trials.sum(), len(np.unique(clusters[trials]))
    if total == 0:
        return 1.0
    rate = hits.sum() / total
    if groups < 2 or rate in (0, 1):
        return float(total / groups)  # nothing varies, so each cluster says one thing
    errors = np.bincount(clusters, hits - rate * trials)
    return max(1.0, float(groups / (groups - 1) * (errors @ errors) / (total * rate * (1 - rate))))


def _note(units: int) -> str:
    if units == 0:
        return "no mature unit"
    return f"{units} units, fewer than {FEW_UNITS}" if units < FEW_UNITS else ""


def _time_columns(times: NDArray[np.float64], previous: list[int]) -> dict[str, list[float]]:
    since_previous = times - times[:, previous]
    columns = {f"seconds_from_previous_p{q}": _quantiles(since_previous, q / 100) for q in (25, 50, 75)}
    return columns | {"seconds_from_start_p50": _quantiles(times - times[:, :1], 0.5)}


def _quantiles(seconds: NDArray[np.float64], q: float) -> list[float]:
    columns = [column[~np.isnan(column)] for column in seconds.T]
    values = [float(np.quantile(column, q)) if column.size else np.nan for column in columns]
    return [np.nan, *values[1:]]


def _rank_leaks(table: pd.DataFrame) -> pd.DataFrame:
    leaks = table[table["step"] > 1]
    ranks = {
        "units_rank": leaks["lost"].rank(ascending=False, method="min").astype("Int64"),
        "value_rank": leaks["value"].rank(ascending=False, method="min").astype("Int64"),
    }
    return leaks.assign(**ranks).sort_values(["units_rank", "step"], kind="stable", ignore_index=True)


def _count_trend(attempts: pd.DataFrame, steps: int, confidence: float) -> pd.DataFrame:
    mature = attempts[~attempts["pending"]]
    # By the first entry, not by the counted attempt's: who comes back and converts later stays in the week of coming.
    moments = pd.to_datetime(mature["entered"], unit="s")
    weeks = moments.dt.floor("D") - pd.to_timedelta(moments.dt.day_of_week, unit="D")
    converted = mature[f"time_{steps - 1}"].notna()
    counts = converted.groupby(weeks).agg(["size", "sum"])
    low, high = _trend_interval(converted, weeks, mature.get("cluster"), confidence)
    frame = pd.DataFrame(
        {
            "period": counts.index,
            "units": counts["size"].to_numpy(np.int64),
            "converted": counts["sum"].to_numpy(np.int64),
            "rate": divide(counts["sum"], counts["size"]),
            "rate_ci_lower": low,
            "rate_ci_upper": high,
            "note": pd.Series([_note(units) for units in counts["size"]], dtype="str"),
        }
    )
    return frame[list(TREND_COLUMNS)]


def _trend_interval(
    converted: pd.Series, weeks: pd.Series, clusters: pd.Series | None, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    parts = []
    for _, hits in converted.groupby(weeks):
        within = None if clusters is None else clusters[hits.index].to_numpy()
        column = hits.to_numpy()[:, None]
        parts.append(np.concatenate(_interval(column, np.ones_like(column), within, confidence)))
    low, high = np.array(parts).reshape(-1, 2).T
    return low, high
