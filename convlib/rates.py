"""Both tiers period by period: each conversion's metric with its n, interval, target, benchmark and change."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from convlib import plots, stats, takeaways
from convlib.conversions import Step, gather, microseconds
from convlib.documents import quote_names
from convlib.durations import parse_duration
from convlib.errors import ParamError
from convlib.events import EventLog, Unit, list_columns
from convlib.plan import Plan
from convlib.plan_entries import SHARE_METRICS, Macro, Metric, Micro, Range
from convlib.results import Kind, Result, Shown, show_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "period",
    "tier",
    "conversion",
    "metric",
    "units",
    "exposed",
    "value",
    "ci_lower",
    "ci_upper",
    "previous",
    "change",
    "change_q_value",
    "target",
    "benchmark_low",
    "benchmark_high",
    "status",
    "owner",
    "note",
)
FREQUENCIES = {"D": "D", "W": "W-SUN", "M": "M"}
PARTIAL = "partial period"


@dataclasses.dataclass(frozen=True)
class Rates(Result):
    """Each conversion's metric in each period of entry.

    Attributes:
        every: Length of a period: `D`, `W` (from Monday) or `M`.
        window: How long after entry a conversion counts; None counts until the period ends.
        by: Breakdown columns.
        pending: For each period, `units` that entered and how many are `pending`: their window is not over.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("conversion", "Conversion", "text"),
        ("shown", "Value", "text"),
        ("exposed", "n", "count"),
        ("shown_target", "Target", "text"),
        ("status", "Status", "text"),
        ("shown_change", "Change", "text"),
        ("change_q_value", "q", "p_value"),
        ("shown_benchmark", "Benchmark", "text"),
        ("metric", "Metric", "text"),
        ("owner", "Owner", "text"),
        ("note", "Note", "text"),
    )

    every: str
    window: str | None
    by: tuple[str, ...]
    pending: pd.DataFrame

    @property
    def latest(self) -> pd.DataFrame:
        """Give the rows of the latest complete period that has units."""
        return latest_rows(self.table)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the macro's rate and its micros' period by period, each with its interval and target."""
        return plots.draw_rates(self.named, by=self.by, every=self.every, segment=self.segment, ax=ax)

    def plot_targets(self, ax: "Axes | None" = None) -> "Axes":
        """Draw where each rate of the latest period stands against its target and benchmark."""
        return plots.draw_targets(latest_rows(self.named), segment=self.segment, ax=ax)

    def show_pending(self) -> Shown:
        """Show how many units of each period are pending."""
        when = [takeaways.word_period(period, self.every) for period in self.pending["period"]]
        columns: tuple[tuple[str, str, Kind], ...] = (
            ("when", "Entered", "text"),
            ("units", "Units", "count"),
            ("pending", "Pending", "count"),
        )
        return Shown(self.pending.assign(when=when), columns)

    def _repr_html_(self) -> str:
        by: tuple[tuple[str, str, Kind], ...] = tuple(
            (name, name.replace("_", " ").capitalize(), "text") for name in self.by
        )
        rows = self.latest
        shown = rows.assign(
            shown=takeaways.word_values(rows, "value", with_interval=True),
            shown_change=takeaways.word_values(rows, "change", signed=True),
            shown_target=takeaways.word_values(rows, "target"),
            shown_benchmark=takeaways.word_benchmarks(rows),
            conversion=rows["conversion"].map(self.names),
        )
        caption = (
            f"Latest complete period: {takeaways.word_period(rows['period'].iloc[0], self.every)}" if len(rows) else ""
        )
        return show_table(shown, (*by, *self.SHOWN), caption=caption)


def latest_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Pick the rows of the latest complete period in which enough units could reach a macro."""
    whole = table[(table["exposed"] > 0) & (table["note"] != PARTIAL)]
    enough = whole[(whole["tier"] == "macro") & (whole["exposed"] >= stats.FEW_UNITS)]
    latest = (enough if len(enough) else whole)["period"].max()
    rows: pd.DataFrame = whole[whole["period"] == latest]
    return rows.reset_index(drop=True)


def measure_rates(
    log: EventLog,
    plan: Plan,
    *,
    by: str | Sequence[str] = (),
    every: str = "W",
    window: str | None = None,
    entry: str | None = None,
    unit: Unit = "user",
    confidence: float = stats.CONFIDENCE,
) -> Rates:
    """Say how each macro- and micro-conversion did in each period, and where it stands against target and benchmark.

    A unit enters a period with its first event in it (or with its first `entry` event). What it does from then until
    the period ends counts, or within `window` when that is given; units whose window is not over are pending.

    Args:
        log: The log, seen through a segment and a period of entries.
        plan: The plan whose metrics are measured.
        by: Columns of the entry event to break down by.
        every: Length of a period: `D`, `W` (from Monday, UTC) or `M`.
        window: How long after entry a conversion counts, such as `7D`; None counts until the period ends.
        entry: Conversion or event with which units enter; None is any event.
        unit: What is counted.
        confidence: Level of the intervals.

    Returns:
        One row for each group, period and conversion. `exposed` units could do it, `units` did. `value` by metric:
        `rate`, `follow_up`, `abandonment` shares with Wilson intervals; `per_unit` conversions a unit; `sum` and
        `mean` of a column; `time_between` median seconds. `change` is `value` less the period before;
        `change_q_value` tests it, with false discoveries controlled over a period's metrics. A period that the data
        cut is marked partial and not compared.

    Raises:
        ParamError: An unknown period, column or entry, or a window that is not a duration.
    """
    if every not in FREQUENCIES:
        msg = f"`every` is {every!r}; it must be one of {quote_names(FREQUENCIES)} (day, week, month)."
        raise ParamError(msg)
    stats.check_confidence(confidence)
    log.check_plan(plan)
    length = parse_duration(window, name="window") if window else None
    groups = list_columns(by)
    entries = _entries(log, unit, entry, groups, every, length)
    listed = [c for c in plan.conversions if isinstance(c, Macro | Micro)]
    hits = _hits(log, unit, entries, listed)
    mature = entries[~entries["pending"]]
    parts = [
        _summarise(
            _amounts(mature, hits, conversion, metric, plan.macro_of(conversion.id).id), metric, groups, confidence
        ).assign(
            tier="macro" if isinstance(conversion, Macro) else "micro",
            conversion=conversion.id,
            metric=str(metric),
            owner=conversion.owner or "",
            **_goals(conversion, metric),
        )
        for conversion in listed
        for metric in _metrics(conversion)
    ]
    table = _mark_partial(pd.concat(parts, ignore_index=True), log, every, whole=length is not None)
    table = _judge(_compare(table, groups), plan, groups, log.fixed)
    names = {c.id: c.name for c in listed}
    return Rates(
        table=table[[*groups, *COLUMNS]],
        takeaways=takeaways.word_rates(
            latest_rows(table), names=names, every=every, segment=log.segment_name, by=tuple(groups)
        ),
        segment=log.segment_name,
        names=names,
        every=every,
        window=window,
        by=tuple(groups),
        pending=_count_pending(entries),
    )


def _count_pending(entries: pd.DataFrame) -> pd.DataFrame:
    groups = entries.groupby("period")["pending"]
    return pd.DataFrame({"units": groups.size(), "pending": groups.sum()}).reset_index()


def _entries(
    log: EventLog, unit: Unit, entry: str | None, by: list[str], every: str, length: int | None
) -> pd.DataFrame:
    """Give one row for each unit and period: when it entered, until when conversions count, and if that is pending."""
    end = microseconds(log.last)
    frame = log.entries(unit=unit, entry=entry, columns=by, every=every).reset_index().assign(end=end)
    if length is None:
        ends = frame["period"].dt.to_period(FREQUENCIES[every]).dt.end_time.astype("datetime64[us]")
        return frame.assign(until=ends.astype("int64"), pending=False)
    until = frame["time"] + length
    return frame.assign(until=until, pending=until > end)


def _hits(log: EventLog, unit: Unit, entries: pd.DataFrame, listed: Sequence[Macro | Micro]) -> pd.DataFrame:
    """Pair every entry with its unit's conversions from then on: `pair` (the entry's row), `conversion`, `time`, ..."""
    amounts = sorted({m.value_column for c in listed for m in _metrics(c) if m.value_column} - {"value"})
    codes = np.unique(entries["unit"].to_numpy(np.int64))
    rows = gather(log, [Step(c.id) for c in listed], codes=codes, unit=unit, columns=amounts)
    frame = rows.columns.apply(pd.to_numeric, errors="coerce").assign(
        unit=rows.codes[rows.unit],
        conversion=np.array([c.id for c in listed], dtype=object)[rows.step],
        time=rows.time,
        value=rows.value,
    )
    pairs = entries[["unit", "time", "until"]].rename(columns={"time": "entered"}).reset_index(names="pair")
    merged = frame.merge(pairs, on="unit")
    later: pd.DataFrame = merged[merged["time"] >= merged["entered"]]
    return later.sort_values(["pair", "time"], kind="stable", ignore_index=True)


def _metrics(conversion: Macro | Micro) -> list[Metric]:
    """List what is measured: a micro's own metric; a macro's rate and, where it has a currency, its value."""
    if isinstance(conversion, Micro):
        return [conversion.metric]
    return [Metric(type="rate"), *([Metric(type="sum")] if conversion.currency else [])]


def _goals(conversion: Macro | Micro, metric: Metric) -> dict[str, float]:
    """Give target and benchmark, which a macro's value metric does not have."""
    if isinstance(conversion, Macro) and metric.type != "rate":
        return {"target": np.nan, "benchmark_low": np.nan, "benchmark_high": np.nan}
    bench = conversion.benchmark
    return {"target": conversion.target.value if conversion.target else np.nan, **_ends(bench)}


def _ends(bench: Range | None) -> dict[str, float]:
    low, high = (bench.low, bench.high) if bench else (None, None)
    return {"benchmark_low": np.nan if low is None else low, "benchmark_high": np.nan if high is None else high}


def _amounts(
    entries: pd.DataFrame, hits: pd.DataFrame, conversion: Macro | Micro, metric: Metric, macro: str
) -> pd.DataFrame:
    """Say for each entry whether it could (`could`), whether it did (`did`), and how much (`measured` over `count`)."""
    within = hits[hits["time"] <= hits["until"]]
    mine = within[within["conversion"] == conversion.id]
    if metric.type == "mean" and metric.value_column:
        mine = mine.dropna(subset=metric.value_column)
    first = mine.groupby("pair")["time"].first().reindex(entries.index)
    count = mine.groupby("pair").size().reindex(entries.index, fill_value=0)
    could = pd.Series(data=True, index=entries.index)
    if metric.over:
        could = could & entries.index.isin(within.loc[within["conversion"] == metric.over, "pair"])
    did = count > 0
    amount = did.astype(float)
    if metric.type == "mean":
        could = could & did
    if metric.type == "per_unit":
        amount = count.astype(float)
    elif metric.value_column:
        amount = mine.groupby("pair")[metric.value_column].sum().reindex(entries.index, fill_value=0.0)
    elif metric.type == "time_between":
        start = within[within["conversion"] == metric.from_].groupby("pair")["time"].first().reindex(entries.index)
        after = mine[mine["time"] >= mine["pair"].map(start)]
        amount = (after.groupby("pair")["time"].first().reindex(entries.index) - start) / 1e6
        could, did = start.notna(), amount.notna()
    elif metric.type == "follow_up":
        could, did = _followed(hits, entries, first, macro, metric.window)
    elif metric.type == "abandonment":
        left_at = (
            within[within["conversion"] == metric.over].groupby("pair")["time"].first().reindex(entries.index)
            if metric.over
            else first
        )
        could, did = _abandoned(within, left_at, conversion.id if metric.over else macro)
    return entries.assign(could=could, did=did & could, measured=amount, count=count)


def _followed(
    hits: pd.DataFrame, entries: pd.DataFrame, first: pd.Series, macro: str, window: str | None
) -> tuple[pd.Series, pd.Series]:
    """Say who did the micro, and of those who did the macro after it, within the metric's window or else the rate's."""
    until = first + parse_duration(window) if window else entries["until"]
    macros = hits[hits["conversion"] == macro]
    came = macros[(macros["time"] > macros["pair"].map(first)) & (macros["time"] <= macros["pair"].map(until))]
    could = first.notna() & (until <= entries["end"]) if window else first.notna()
    return could, pd.Series(entries.index.isin(came["pair"]), index=entries.index)


def _abandoned(within: pd.DataFrame, left_at: pd.Series, goal: str) -> tuple[pd.Series, pd.Series]:
    """Say who got to a point, and of those who never came to the goal after it."""
    goals = within[within["conversion"] == goal]
    came = goals.loc[goals["time"] >= goals["pair"].map(left_at), "pair"]
    return left_at.notna(), pd.Series(~left_at.index.isin(came), index=left_at.index)


def _summarise(amounts: pd.DataFrame, metric: Metric, by: list[str], confidence: float) -> pd.DataFrame:
    """Give the metric of each group and period, with its interval and standard error."""
    rows = [
        {**dict(zip([*by, "period"], key, strict=True)), **_estimate(group, metric, confidence)}
        for key, group in amounts.groupby([*by, "period"], sort=True)
    ]
    frame = pd.DataFrame(rows, columns=[*by, "period", "units", "exposed", "value", "ci_lower", "ci_upper", "error"])
    return frame.astype({"period": "datetime64[us]"})


def _estimate(group: pd.DataFrame, metric: Metric, confidence: float) -> dict[str, float]:
    able = group[group["could"]]
    units, exposed = int(able["did"].sum()), len(able)
    counts = {"units": units, "exposed": exposed}
    if metric.type in SHARE_METRICS:
        low, high = stats.wilson_interval(units, exposed, confidence=confidence)
        share = float(stats.divide(units, exposed))
        return {**counts, "value": share, "ci_lower": low[0], "ci_upper": high[0], "error": np.nan}
    if metric.type == "time_between":
        return {**counts, **_median(able["measured"].dropna(), confidence)}
    value, error = _mean(able, per_event=metric.type == "mean")
    if metric.type == "sum":
        # The number of units varies too: the sum of so many amounts has the variance of a compound Poisson variable.
        value, error = able["measured"].sum(), float(np.sqrt((able["measured"] ** 2).sum())) or np.nan
    reach = stats.normal_quantile(confidence) * error
    return {**counts, "value": value, "ci_lower": value - reach, "ci_upper": value + reach, "error": error}


def _mean(able: pd.DataFrame, *, per_event: bool) -> tuple[float, float]:
    """Give the mean a unit, or an event (a ratio; delta method), with its standard error over units."""
    base = able["count"].to_numpy(float) if per_event else np.ones(len(able))
    amount = able["measured"].to_numpy(float)
    mean = float(stats.divide(amount.sum(), base.sum()))
    if len(able) < 2 or base.sum() == 0:
        return mean, np.nan
    error = np.sqrt(len(able) * np.var(amount - mean * base, ddof=1)) / base.sum()
    return mean, float(error)


def _median(seconds: pd.Series, confidence: float) -> dict[str, float]:
    """Give the median, its distribution-free interval (Conover 1999, through scipy) and the error that spans it."""
    if seconds.empty:
        return dict.fromkeys(("value", "ci_lower", "ci_upper", "error"), np.nan)
    interval: Any = scipy_stats.quantile_test(seconds, p=0.5).confidence_interval(confidence)
    low, high = float(interval.low), float(interval.high)
    error = (high - low) / (2 * stats.normal_quantile(confidence))
    return {"value": float(seconds.median()), "ci_lower": low, "ci_upper": high, "error": error}


def _mark_partial(table: pd.DataFrame, log: EventLog, every: str, *, whole: bool) -> pd.DataFrame:
    """Mark the periods that the data or the chosen dates cut; those can't be compared."""
    periods = table["period"].dt.to_period(FREQUENCIES[every])
    first, after = (pd.Timestamp(day) for day in log.bounds)
    # A day is whole when the log has any event in it: a log rarely ends at midnight.
    ends = min(after, log.last.normalize() + pd.Timedelta(days=1)) if not whole else after
    cut = (periods.dt.start_time < max(first, log.first.normalize())) | (periods.dt.end_time >= ends)
    few = table["exposed"].lt(stats.FEW_UNITS)
    counted = table["exposed"].map("n = {:,}, needs ".format) + str(stats.FEW_UNITS)
    note = np.where(cut, PARTIAL, np.where(few, counted, ""))
    return table.assign(note=note)


def _compare(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Set each complete period with enough units against the one before it."""
    keys = [*by, "conversion", "metric"]
    table = table.sort_values([*keys, "period"], kind="stable", ignore_index=True)
    usable = table[table["note"] == ""]
    columns = ["value", "error", "units", "exposed", "period"]
    before = usable.groupby(keys, sort=False)[columns].shift().reindex(table.index)
    previous = before["value"]
    change = table["value"] - previous
    # Two shares are tested with their pooled error: each share's own is zero at 0% and at 100%.
    pooled = stats.pooled_error(table["units"], table["exposed"], before["units"], before["exposed"])
    is_share = table["metric"].str.split().str[0].isin(SHARE_METRICS)
    error = np.where(is_share, pooled, np.sqrt(table["error"] ** 2 + before["error"] ** 2))
    p = pd.Series(stats.compare_normal(change, error), index=table.index)
    q = p.groupby(table["period"]).transform(stats.control_false_discoveries)
    return table.assign(previous=previous, change=change, change_q_value=q, compared_with=before["period"])


def _judge(table: pd.DataFrame, plan: Plan, by: list[str], fixed: dict[str, str]) -> pd.DataFrame:
    """Set each row against target and benchmark (its group's or segment's own, if any), in the plan's order."""
    measured = [c for c in plan.conversions if isinstance(c, Macro | Micro)]
    benches = {c.id: c.benchmark for c in measured if c.benchmark}
    rises = {c.id: c.direction == "up" for c in measured}
    for name in (*fixed, *by):
        held = table[name] if name in by else fixed[name]
        for conversion, bench in benches.items():
            for value, own in bench.by.get(name, {}).items():
                rows = (table["conversion"] == conversion) & (held == value)
                rows &= (table["tier"] == "micro") | (table["metric"] == "rate")
                for column, end in _ends(own).items():
                    table.loc[rows, column] = end
    order = {c.id: n for n, c in enumerate(measured)}
    status = [_status(row, up=rises[row["conversion"]]) for _, row in table.iterrows()]
    ordered = table.assign(status=status, order=table["conversion"].map(order))
    return ordered.sort_values([*by, "period", "order"], kind="stable", ignore_index=True)


def _status(row: pd.Series, *, up: bool) -> str:
    """Say where a value stands by its entry's direction: a target first, else the benchmark."""
    if not row["exposed"] >= stats.FEW_UNITS:
        return "too few"
    if not np.isnan(row["target"]):
        return "met" if (row["value"] >= row["target"] if up else row["value"] <= row["target"]) else "missed"
    outside = row["value"] < row["benchmark_low"] or row["value"] > row["benchmark_high"]
    return "outside benchmark" if outside else ""
