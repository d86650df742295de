"""Where units leave on an ordered path: counts, rates, times and value lost at each step."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib import kernels, plots, takeaways
from convlib.conversions import Conversions, Step, gather, microseconds
from convlib.durations import parse_duration
from convlib.errors import ParamError
from convlib.events import EventLog, Unit, list_columns
from convlib.plan_entries import Macro
from convlib.results import Kind, Result, show_table
from convlib.stats import CONFIDENCE, FEW_UNITS, check_confidence, divide, wilson_interval

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
    unit: Unit = "user",
    by: str | Sequence[str] = (),
    mature_only: bool = True,
    confidence: float = CONFIDENCE,
) -> Funnel:
    """Say how many units get from each step to the next in order, within a window from the first, and where they leave.

    A unit's best attempt counts: the one that gets furthest, and of those the earliest. Other events may lie between;
    both ends of the window count; events at the same instant count in step order; each event counts once.

    Args:
        log: The log, seen through a segment and a period; attempts open in the period.
        steps: Conversions of the plan, event names, or `Step`s, in order; at least two.
        window: How long after the first step a later one counts, such as `7D`.
        unit: What is counted.
        by: Columns that break the funnel down, by their value at the counted attempt's first step.
        mature_only: Leave out of every count the units whose first entry and window reach past the end of the data.
        confidence: Level of the intervals.

    Returns:
        The funnel; `.table` has a row for each step (and group): units, pending units, rates with Wilson intervals,
        units lost since the step before, seconds (quantiles), and the value lost: units lost x completion rate of
        those who passed x mean value of the last step.

    Raises:
        ParamError: Fewer than two steps, an unknown step or column, or a window that is not a duration.
    """
    chosen = [Step(step) if isinstance(step, str) else step for step in steps]
    _check(chosen, confidence)
    length, groups = parse_duration(window, name="window"), list_columns(by)
    conversions = gather(log, chosen, codes=log.entries(unit=unit).index.to_numpy(np.int64), unit=unit, columns=groups)
    attempts = _match(log, conversions, len(chosen), length, groups)
    if not mature_only:
        attempts = attempts.assign(pending=False)
    names = [str(step) for step in chosen]
    table = _count_steps(attempts, names, groups, confidence)
    shown = {str(step): _name(log, step) for step in chosen}
    trend = _count_trend(attempts, len(names), confidence)
    return Funnel(
        table=table,
        takeaways=takeaways.word_funnel(
            table.replace({"name": shown}),
            by=tuple(groups),
            window=window,
            segment=log.segment_name,
            worth=_worth(log, chosen[-1]),
        ),
        segment=log.segment_name,
        names=shown,
        steps=tuple(names),
        window=window,
        by=tuple(groups),
        leaks=_rank_leaks(table),
        trend=trend,
    )


def _check(steps: Sequence[Step], confidence: float) -> None:
    check_confidence(confidence)
    if len(steps) < 2:
        msg = f"`steps` names {len(steps)} step; a funnel needs at least two."
        raise ParamError(msg)


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


def _match(log: EventLog, conversions: Conversions, steps: int, window: int, by: list[str]) -> pd.DataFrame:
    """Give one row for each unit that entered: its depth, its time at each step, its groups, and if it is pending."""
    start, end = (microseconds(pd.Timestamp(day)) for day in log.bounds)
    opens = (conversions.step == 0) & (conversions.time >= start) & (conversions.time < end)
    depth, rows, entry = kernels.match_funnel(
        conversions.offsets, conversions.time, conversions.step, conversions.event, opens, steps, window
    )
    entered = depth > 0
    depth, rows, entry = depth[entered], rows[entered], entry[entered]
    reached = rows != kernels.NEVER
    times = np.where(reached, conversions.time[np.where(reached, rows, 0)], np.nan) / 1e6
    frame = pd.DataFrame({f"time_{k}": times[:, k] for k in range(steps)})
    values = conversions.value[np.where(reached[:, -1], rows[:, -1], 0)]
    groups = conversions.columns.iloc[rows[:, 0]].reset_index(drop=True) if by else frame[[]]
    pending = conversions.time[entry] + window > conversions.end
    known = {"depth": depth, "value": np.where(reached[:, -1], values, np.nan), "pending": pending}
    return frame.assign(entered=conversions.time[entry] / 1e6, **known, **groups)


def _count_steps(attempts: pd.DataFrame, names: list[str], by: list[str], confidence: float) -> pd.DataFrame:
    groups = [(None, attempts)] if not by else list(attempts.groupby(by, sort=True))
    parts = [_count_group(group, names, confidence).assign(**group[by].iloc[0]) for _, group in groups if len(group)]
    if not parts:
        empty = _count_group(attempts, names, confidence)
        parts = [empty if not by else empty.head(0).assign(**dict.fromkeys(by, ""))]
    return pd.concat(parts, ignore_index=True)[[*by, *COLUMNS]]


def _count_group(group: pd.DataFrame, names: list[str], confidence: float) -> pd.DataFrame:
    mature = group[~group["pending"]]
    depth = mature["depth"].to_numpy()
    units = np.array([(depth > k).sum() for k in range(len(names))])
    before = np.concatenate([units[:1], units[:-1]])
    low, high = wilson_interval(units, np.full_like(units, units[0]), confidence=confidence)
    step_low, step_high = wilson_interval(units, before, confidence=confidence)
    lost = before - units
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
    return table.assign(**_time_columns(mature, len(names)))


def _note(units: int) -> str:
    if units == 0:
        return "no mature unit"
    return f"{units} units, fewer than {FEW_UNITS}" if units < FEW_UNITS else ""


def _time_columns(mature: pd.DataFrame, steps: int) -> dict[str, list[float]]:
    times = mature[[f"time_{k}" for k in range(steps)]].to_numpy(float)
    since_previous = np.diff(times, axis=1, prepend=times[:, :1])
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
    counts = (mature["depth"] == steps).groupby(weeks).agg(["size", "sum"])
    low, high = wilson_interval(counts["sum"], counts["size"], confidence=confidence)
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
