"""Both tiers period by period: each conversion's metric with its n, interval, target, benchmark and change."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from convlib import control, plots, stats, takeaways
from convlib.conversions import microseconds
from convlib.durations import parse_duration
from convlib.events import EventLog, Unit, check_log, list_columns
from convlib.metrics import Reader, Tally, tally
from convlib.periods import Calendar, find_day, find_midnights
from convlib.plan import Plan
from convlib.plan_entries import Macro, Measure, Metric, Micro, Range, is_share
from convlib.redaction import blank, find_hidden, measure_gaps, split_counts
from convlib.results import Kind, Result, Shown, Takeaways, show_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
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
ESTIMATE = ("value", "ci_lower", "ci_upper")
FORECAST: tuple[tuple[str, str, Kind], ...] = (
    ("conversion", "Conversion", "text"),
    ("value", "Value", "text"),
    ("target", "Target", "text"),
    ("distance", "Distance", "text"),
    ("due", "By", "text"),
    ("expected", "Expected then", "text"),
    ("probability", "Probability to reach it", "percent"),
    ("forecast_note", "Note", "text"),
)
PARTIAL, OPEN = "partial period", "partial, open until "
#: Marks a row without numbers until all are compared.
LEFT_OUT = "(left out)"
NO_DATA = "no data"
#: A log rarely ends at midnight: its last day is whole when it has events in the evening.
EVENING = pd.Timedelta(hours=6)


@dataclasses.dataclass(frozen=True)
class Rates(Result):
    """Each conversion's metric in each period of entry.

    Attributes:
        every: Length of a period: `D`, `W` or `M`.
        window: How long after entry a conversion counts; None counts until the period ends.
        by: Breakdown columns.
        pending: For each period, `units` that entered and how many are `pending`: their window is not over.
        plan: The plan that was measured.
        end: The end of the data, UTC.
        goals: What each metric is for: `conversion`, `metric`, `title` (its name for people), `direction`, `due` (the
            day by which the target is to be reached), `macro`, and whether it `leads`: is the conversion's own metric,
            which figures show.
        limits: For each row of the table, between which limits its value lies when nothing happens, judged by the
            periods before it: `expected`, `limit_low`, `limit_high`, `dispersion`, `sampling_error`, `history`,
            `p_value`, `q_value`, `limit_note`.
        confidence: Level of the intervals.
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
        ("owner", "Owner", "text"),
        ("note", "Note", "text"),
    )

    every: str
    window: str | None
    by: tuple[str, ...]
    pending: pd.DataFrame
    plan: Plan
    end: pd.Timestamp
    goals: pd.DataFrame
    limits: pd.DataFrame
    confidence: float

    @property
    def named(self) -> pd.DataFrame:
        """Give the table with each metric's name for people in place of the conversion's id."""
        titles = self.goals.set_index(["conversion", "metric"])["title"]
        places = pd.MultiIndex.from_frame(self.table[["conversion", "metric"]])
        return self.table.assign(conversion=titles.reindex(places).to_numpy())

    @property
    def _groups(self) -> tuple[tuple[str, str, Kind], ...]:
        return tuple((name, name.replace("_", " ").capitalize(), "text") for name in self.by)

    @property
    def leading(self) -> pd.DataFrame:
        """Give the named rows of the metrics that conversions are known by."""
        leads = pd.MultiIndex.from_frame(self.goals.loc[self.goals["leads"], ["conversion", "metric"]])
        return self.named[pd.MultiIndex.from_frame(self.table[["conversion", "metric"]]).isin(leads)]

    @property
    def latest(self) -> pd.DataFrame:
        """Give the rows of the latest complete period that has units."""
        return latest_rows(self.table)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the macro's rate and its micros' period by period, each with its interval and target."""
        return plots.draw_rates(self.leading, self.limits, by=self.by, every=self.every, segment=self.segment, ax=ax)

    def plot_targets(self, ax: "Axes | None" = None) -> "Axes":
        """Draw where each rate of the latest period stands against its target and benchmark."""
        return plots.draw_targets(latest_rows(self.named), segment=self.segment, ax=ax)

    def plot_status(self, ax: "Axes | None" = None) -> "Axes":
        """Draw where each metric of each group stands in the latest period: a heat map of the breakdown."""
        return plots.draw_status(latest_rows(self.leading), by=self.by, segment=self.segment, ax=ax)

    def forecast(self) -> pd.DataFrame:
        """Say how probable it is that each target is reached by its date: `control.forecast_targets`, by row."""
        return control.forecast_targets(
            self.table, by=self.by, every=self.every, goals=self.goals, confidence=self.confidence
        )

    def show_targets(self) -> Shown:
        """Show how far each metric is from its target, and whether its trend reaches it by its date."""
        rows = self.forecast()
        words = {name: takeaways.word_values(rows, name) for name in ("value", "target", "expected")}
        shown = rows.assign(
            conversion=self.named["conversion"].reindex(rows.index),
            distance=takeaways.word_values(rows, "distance", signed=True),
            due=rows["due"].dt.strftime("%Y-%m-%d"),
            **words,
        )
        return Shown(shown, (*self._groups, *FORECAST))

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
        rows = latest_rows(self.named)
        shown = rows.assign(
            shown=takeaways.word_values(rows, "value", with_interval=True),
            shown_change=takeaways.word_values(rows, "change", signed=True),
            shown_target=takeaways.word_values(rows, "target"),
            shown_benchmark=takeaways.word_benchmarks(rows),
        )
        caption = (
            f"Latest complete period: {takeaways.word_period(rows['period'].iloc[0], self.every)}" if len(rows) else ""
        )
        if self.table["exposed"].isna().any():
            caption += "; " * bool(caption) + takeaways.word_missing_rows(self.fewest)
        return show_table(shown, (*self._groups, *self.SHOWN), caption=caption)


def latest_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Pick the rows of the latest complete period in which enough units could reach a macro.

    Of how many units is not known where numbers are left out: of some, and such rows are not picked.
    """
    known = table["exposed"].fillna(np.inf)
    whole = table[(known > 0) & ~table["note"].str.startswith("partial")]
    enough = whole[(whole["tier"] == "macro") & (known[whole.index] >= stats.FEW_UNITS)]
    latest = (enough if len(enough) else whole)["period"].max()
    rows: pd.DataFrame = whole[(whole["period"] == latest) & whole["exposed"].notna()]
    return rows.reset_index(drop=True).astype({"units": np.int64, "exposed": np.int64})


def measure_rates(
    log: EventLog,
    plan: Plan,
    *,
    by: str | Sequence[str] = (),
    every: str = "W",
    week_start: str = "monday",
    timezone: str | None = None,
    lag: str | None = None,
    window: str | None = None,
    entry: str | None = None,
    unit: Unit = "user",
    confidence: float = stats.CONFIDENCE,
) -> Rates:
    """Say how each macro- and micro-conversion did in each period, and where it stands against target and benchmark.

    A unit enters a period with its first event in it (or with its first `entry` event). What it does from then until
    the period ends counts, or within `window` when that is given; units whose window is not over are pending. A metric
    by session counts the visits that begin in that time, each as a whole.

    Args:
        log: The log, seen through a segment and a period of entries.
        plan: The plan whose metrics are measured; docs/rates.md defines each.
        by: Columns of the entry event to break down by.
        every: Length of a period: `D`, `W` or `M`.
        week_start: The weekday with which weeks begin.
        timezone: Zone in which periods begin and end, by its IANA name; None for the log's (UTC, if nothing chose one).
        lag: How long events may come late, such as `2D`: until then a period stays open; None for no time.
        window: How long after entry a conversion counts, such as `7D`; None counts until the period ends.
        entry: Conversion or event with which units enter; None is any event.
        unit: What is counted.
        confidence: Level of the intervals.

    Returns:
        One row for each group, period and metric, also for a period without data. `exposed` units (visits of a metric
        by session) could do it, `units` did. `value` by metric: shares with Wilson intervals (of visits: with their
        design effect by unit); `per_unit`, `mean` and `depth` means with errors by unit; `sum` of a column;
        `time_between` median seconds. `change` is `value` less the period before; `change_q_value` tests it, with false
        discoveries controlled over a period's metrics. A period that the data cut, or that is still open, is marked
        partial and not compared; amounts in more than the plan's currency are NaN with a note.

    Raises:
        ParamError: An unknown period, weekday, zone, column or entry, or a duration that is none.
    """
    check_log(log)
    calendar = Calendar(every, week_start, log.timezone if timezone is None else timezone)
    stats.check_confidence(confidence)
    log.check_plan(plan)
    log = log.between(log.start, log.end, timezone=calendar.timezone)
    length = parse_duration(window, name="window") if window else None
    wait = parse_duration(lag, name="lag") if lag else 0
    groups = list_columns(by)
    entries = _enter(log, unit, entry, groups, calendar, length=length, wait=wait)
    grid = _lay_grid(log, entries, groups, calendar, length=length, wait=wait)
    measured = [
        (each, measure) for each in plan.conversions if isinstance(each, Macro | Micro) for measure in each.measures
    ]
    mature = entries[~entries["pending"]].reset_index(drop=True)
    reader = Reader(log, unit, mature, end=microseconds(log.last) - wait)
    table = _measure(reader, grid, measured, plan, groups, confidence)
    limits = control.find_limits(table, by=groups, every=every, confidence=confidence)
    compared = control.compare_periods(table, limits, by=groups, every=every, confidence=confidence)
    table = _mark_left_out(table.join(compared), log.fewest)
    goals = _list_goals(measured, plan)
    rates = Rates(
        table=table[[*groups, *COLUMNS]],
        takeaways=Takeaways(()),
        segment=log.segment_name,
        names={each.id: each.name for each, _ in measured},
        every=every,
        window=window,
        by=tuple(groups),
        pending=_count_pending(entries, table.loc[table["exposed"].isna(), "period"], log.fewest),
        plan=plan,
        end=log.last,
        goals=goals,
        limits=limits,
        confidence=confidence,
        fewest=log.fewest,
    )
    return dataclasses.replace(rates, takeaways=_word(rates, compared["compared_with"]))


def _measure(
    reader: Reader,
    grid: pd.DataFrame,
    measured: Sequence[tuple[Macro | Micro, Measure]],
    plan: Plan,
    by: list[str],
    confidence: float,
) -> pd.DataFrame:
    """Give each metric's rows with its goals, by group, period and the plan's order."""
    places = grid.reset_index(names="place")
    place = reader.entries.merge(places, on=[*by, "period"], how="left")["place"].to_numpy(np.int64)
    known: list[dict[str, Any]] = []
    people: list[NDArray[np.bool_]] = []
    for order, (each, measure) in enumerate(measured):
        macro = plan.macro_of(each.id)
        found = tally(reader, each, measure.metric, macro)
        tier, owner = "macro" if isinstance(each, Macro) else "micro", measure.owner or each.owner or ""
        names = {"tier": tier, "conversion": each.id, "metric": str(measure.metric), "owner": owner, "order": order}
        numbers = _estimate(place, found, measure.metric, confidence, len(grid))
        money = _word_money(place, found, macro.currency, len(grid))
        goals = _set_goals(grid, measure, reader.log.fixed)
        known.append({**names, **numbers, "money": money, **goals, "up": measure.direction == "up"})
        people += _find_people(found, len(place)) if reader.log.fewest else []
    # One frame of all metrics: a frame for each takes longer than what is in it.
    columns = {name: np.concatenate([np.broadcast_to(part[name], len(grid)) for part in known]) for name in known[0]}
    table = pd.concat([grid] * len(known), ignore_index=True).assign(**columns)
    table = _judge(_note(table))
    if reader.log.fewest:
        hidden = _find_hidden(np.array(people), place, grid, by, reader.log.fewest)
        table = _leave_out(table, np.concatenate(hidden))
    return table.sort_values([*by, "period", "order"], kind="stable", ignore_index=True)


def _find_people(found: Tally, entries: int) -> list[NDArray[np.bool_]]:
    """Mark the entries that could, and those that ever did it: a metric by session counts visits, many of one entry."""
    did = np.asarray(found.did, bool)
    return [np.bincount(found.entry, each, entries) > 0 for each in (np.ones(len(did)), did)]


def _find_hidden(
    people: NDArray[np.bool_], place: NDArray[np.int64], grid: pd.DataFrame, by: list[str], fewest: int
) -> list[NDArray[np.bool_]]:
    """Find the rows of each metric that may not be shown: groups add up to all units, and periods nearly so.

    Who could do one thing is often who did another, so what is hidden of a number is hidden wherever it stands; and
    where all who did one thing did another, few did only that.
    """
    families = [stats.number_groups(grid[by]), *([grid["period"]] if by else [])]
    counts = np.array([np.bincount(place, each, len(grid)) for each in people])
    rows = np.split(np.argsort(place, kind="stable"), np.bincount(place, minlength=len(grid)).cumsum()[:-1])
    gaps = np.array([measure_gaps(people[:, own].T) for own in rows]).reshape(len(grid), len(people)).T
    wanted: dict[bytes, NDArray[np.bool_]] = {}
    pairs = list(zip(counts[::2], counts[1::2], gaps[::2], gaps[1::2], strict=True))
    for could, did, more_could, more_did in pairs:
        for number, cells in ((could, [could, more_could]), (did, [did, could - did, more_did])):
            key = number.tobytes()
            wanted[key] = find_hidden(np.column_stack(cells), fewest=fewest, families=families) | wanted.get(key, False)
    return [wanted[could.tobytes()] | wanted[did.tobytes()] for could, did, *_ in pairs]


def _leave_out(table: pd.DataFrame, hidden: NDArray[np.bool_]) -> pd.DataFrame:
    """Empty the rows that may not be shown."""
    # How many are pending is nothing to say either.
    note = table["note"].str.replace(r"partial, [\d,]+ pending", "partial, some pending", regex=True)
    left_out = note.where(note.str.startswith("partial"), "").str.cat([LEFT_OUT] * len(note), sep=" ").str.strip()
    table = table.assign(note=note.mask(hidden, left_out), status=table["status"].mask(hidden, ""))
    zero = {name: table[name].mask(hidden, 0) for name in ("units", "exposed")}
    return table.assign(**zero, **blank(table, ESTIMATE, hidden))


def _mark_left_out(table: pd.DataFrame, fewest: int) -> pd.DataFrame:
    """Tell what is left out from what is zero."""
    hidden = table["note"].str.endswith(LEFT_OUT)
    if not fewest or not hidden.any():
        return table
    note = table["note"].str.replace(LEFT_OUT, takeaways.word_left_out(fewest), regex=False)
    return table.assign(note=note, **blank(table, ("units", "exposed"), hidden))


def _word(rates: Rates, compared_with: pd.Series) -> Takeaways:
    """Say where things stand; of a breakdown, which groups a change beyond noise came from."""
    latest = latest_rows(rates.named.join(compared_with))
    left_out = rates.table["exposed"].isna()
    if latest.empty and left_out.any():
        nothing = takeaways.word_nothing_left(rates.fewest, what="The latest period", segment=rates.segment)
        return Takeaways((nothing,))
    if not rates.by or latest.empty:
        said = takeaways.word_rates(latest, every=rates.every, segment=rates.segment)
        return said + ([] if latest.empty else _find_open(rates, latest["period"].iloc[0]))
    # Without all groups there is no total to split.
    names = ["conversion", "metric"]
    whole = ~left_out.groupby([rates.table[name] for name in names]).transform("any")
    leading = rates.leading
    split = control.split_change(leading[whole[leading.index]], by=rates.by, every=rates.every)
    return takeaways.word_split(split, by=rates.by, every=rates.every)


def _find_open(rates: Rates, latest: pd.Timestamp) -> list[str]:
    """Say which newer periods have entries and are still open."""
    rows = rates.table[(rates.table["period"] > latest) & rates.table["period"].isin(rates.pending["period"])]
    until = rows.set_index("period")["note"].str.extract(rf"^{OPEN}(\S+)", expand=False).dropna().sort_index()
    if until.empty:
        return []
    opened, first = until.index.unique(), pd.Timestamp(until.iloc[0])
    return [takeaways.word_open(opened, first, every=rates.every, window=rates.window)]


def _list_goals(measured: Sequence[tuple[Macro | Micro, Measure]], plan: Plan) -> pd.DataFrame:
    """Say what each metric is for."""
    rows = [
        (
            each.id,
            str(measure.metric),
            measure.name,
            measure.direction,
            measure.target and measure.target.by,
            plan.macro_of(each.id).id,
            measure not in each.metrics,
        )
        for each, measure in measured
    ]
    frame = pd.DataFrame(rows, columns=["conversion", "metric", "title", "direction", "due", "macro", "leads"])
    return frame.astype({"due": "datetime64[us]"})


def _count_pending(entries: pd.DataFrame, left_out: pd.Series, fewest: int) -> pd.DataFrame:
    groups = entries.groupby("period")["pending"]
    counts = pd.DataFrame({"units": groups.size(), "pending": groups.sum()})
    cells = split_counts(counts["pending"], counts["units"])
    hidden = find_hidden(cells, fewest=fewest, families=[np.zeros(len(counts))]) | counts.index.isin(left_out)
    return counts.assign(**blank(counts, ("units", "pending"), hidden) if hidden.any() else {}).reset_index()


def _enter(
    log: EventLog, unit: Unit, entry: str | None, by: list[str], calendar: Calendar, *, length: int | None, wait: int
) -> pd.DataFrame:
    """Give one row for each unit and period: when it entered, until when conversions count, and if that is pending."""
    frame = log.entries(unit=unit, entry=entry, columns=by, calendar=calendar).reset_index()
    days = calendar.list_days(*log.period)
    starts = calendar.find_starts(days)
    if unit == "session":
        # A visit over midnight is one of the day on which it begins.
        begun = log.list_visits().set_index("session")["start"].reindex(frame["unit"]).to_numpy()
        own = starts[days.get_indexer(pd.DatetimeIndex(frame["period"]))] <= begun
        frame = frame[own].reset_index(drop=True)
    place = days.get_indexer(pd.DatetimeIndex(frame["period"]))
    frame = frame.assign(begin=starts[place])
    if length is None:
        return frame.assign(until=starts[place + 1] - 1, pending=False)
    until = frame["time"] + length
    return frame.assign(until=until, pending=until + wait > microseconds(log.last))


def _lay_grid(
    log: EventLog, entries: pd.DataFrame, by: list[str], calendar: Calendar, *, length: int | None, wait: int
) -> pd.DataFrame:
    """List every period of every group, with a note on those that are cut, open or empty."""
    first, last = find_day(log.first, calendar.timezone), find_day(log.last, calendar.timezone)
    days = calendar.list_days(max(first, log.period[0]), min(last, log.period[1]))
    starts = calendar.find_starts(days)
    data = find_midnights(pd.DatetimeIndex([first, find_day(log.last + EVENING, calendar.timezone)]), calendar.timezone)
    begins, ends = starts[:-1], starts[1:]
    cut = (begins < max(log.span[0], data[0])) | (ends > min(log.span[1], data[1]))
    closes = ends + (length or 0) + wait
    is_open = (closes > microseconds(log.last)) & bool(length or wait)
    note = np.select([is_open, cut], [[_word_open(moment) for moment in closes], PARTIAL], default="")
    periods = pd.DataFrame({"period": days[:-1], "note": note})
    known = entries[by].drop_duplicates().sort_values(by) if by else pd.DataFrame(index=range(1 if len(entries) else 0))
    grid = known.merge(periods, how="cross")
    there = pd.MultiIndex.from_frame(entries[[*by, "period"]])
    empty = ~pd.MultiIndex.from_frame(grid[[*by, "period"]]).isin(there) & (grid["note"] == "")
    return grid.assign(note=grid["note"].mask(empty, NO_DATA))


def _word_open(closes: int) -> str:
    return f"{OPEN}{pd.Timestamp(closes, unit='us'):%Y-%m-%d %H:%M} UTC"


def _estimate(
    place: NDArray[np.int64], found: Tally, metric: Metric, confidence: float, size: int
) -> dict[str, NDArray[Any]]:
    """Give the metric of each group and period, with its interval."""
    where = place[found.entry]
    units, exposed = (np.bincount(where, each, size).astype(float) for each in (found.did, np.ones(len(where))))
    # What a time or an amount is known from is those that have one.
    enough = np.where(metric.type in {"time_between", "sum"} or metric.column is not None, units, exposed)
    pending = np.bincount(place[found.pending], minlength=size)
    known: dict[str, NDArray[Any]] = {
        **{"units": units.astype(np.int64), "exposed": exposed.astype(np.int64)},
        **{"enough": enough, "waiting": pending},
    }
    if metric.type == "time_between":
        seconds = pd.Series(found.amount).dropna().groupby(where[~np.isnan(found.amount)])
        medians = [_median(seconds.get_group(n) if n in seconds.groups else None, confidence) for n in range(size)]
        return known | dict(zip(ESTIMATE, np.array(medians).reshape(size, len(ESTIMATE)).T, strict=True))
    value, error, samples = _ratio(found, place, size)
    if metric.column and metric.window:
        # What those bring who did it last is not known, and those who did not do it bring nothing.
        value = np.where(pending > 0, np.nan, value)
    if is_share(str(metric)):
        return known | _share(units, exposed, value, error if metric.unit else None, confidence)
    if metric.type == "sum":
        # The number of units varies too: the sum of so many amounts has the variance of a compound Poisson variable.
        value = np.where(exposed > 0, np.bincount(where, found.amount, size), np.nan)
        error, samples = np.sqrt(np.bincount(where, found.amount**2, size)), units
    # Where nothing varies, how much it would is not known.
    error = np.where(error > 0, error, np.nan)
    reach = scipy.stats.t.ppf((1 + confidence) / 2, np.maximum(samples - 1, 1)) * error
    low = np.maximum(value - reach, 0.0) if (found.amount >= 0).all() else value - reach
    return known | {"value": value, "ci_lower": low, "ci_upper": value + reach}


def _note(table: pd.DataFrame) -> pd.DataFrame:
    """Say what is wrong with each row: its period, a window that is not over, too few units, or several currencies."""
    note, enough, waiting, money = (table[name] for name in ("note", "enough", "waiting", "money"))
    few = pd.Series([f"n = {n:,.0f}, needs {stats.FEW_UNITS}" for n in enough], dtype="str")
    wait = pd.Series([f"partial, {n:,} pending" for n in waiting], dtype="str")
    said = note.mask((note == "") & (enough < stats.FEW_UNITS), few).mask(money != "", money).mask(waiting > 0, wait)
    said = said.where(~note.str.startswith("partial"), note)
    return table.assign(note=said, **blank(table, ESTIMATE, (money != "").to_numpy()))


def _ratio(found: Tally, place: NDArray[np.int64], size: int) -> tuple[Floats, Floats, Floats]:
    """Divide what was added by what it is out of, with the standard error of a ratio over units, and their number.

    Source: the delta method (Cochran 1977, Sampling Techniques, 6.5).
    """
    amount, base = (np.bincount(found.entry, each, len(place)) for each in (found.amount, found.base))
    total = np.bincount(place, base, size)
    value = stats.divide(np.bincount(place, amount, size), total)
    counted = np.bincount(place, base > 0, size)
    residual = np.where(base > 0, amount - np.nan_to_num(value)[place] * base, 0.0)
    spread = np.bincount(place, residual**2, size)
    error = stats.divide(np.sqrt(stats.divide(counted, counted - 1) * spread), total)
    return value, np.where(counted > 1, error, np.nan), counted.astype(float)


def _share(units: Floats, exposed: Floats, value: Floats, error: Floats | None, confidence: float) -> dict[str, Floats]:
    """Give a share's interval: Wilson's; of a unit's visits as many count as are worth independent ones (Kish)."""
    effect = np.ones(len(units))
    if error is not None:
        effect = np.fmax(1.0, stats.divide(error**2 * exposed, value * (1 - value)))
    low, high = stats.wilson_interval(units / effect, exposed / effect, confidence=confidence)
    return {"value": value, "ci_lower": low, "ci_upper": high}


def _median(seconds: pd.Series | None, confidence: float) -> tuple[float, float, float]:
    """Give the median and its distribution-free interval (Conover 1999, through scipy)."""
    if seconds is None:
        return np.nan, np.nan, np.nan
    interval: Any = scipy.stats.quantile_test(seconds, p=0.5).confidence_interval(confidence)
    return float(seconds.median()), float(interval.low), float(interval.high)


def _word_money(place: NDArray[np.int64], found: Tally, currency: str | None, size: int) -> NDArray[np.object_]:
    """Say which rows add up amounts of several currencies, or of another one than the plan's; "" where none do."""
    words = np.full(size, "", dtype=object)
    if found.money is not None and len(found.money):
        places = found.money.assign(place=place[found.money["entry"]]).groupby("place")["currency"]
        used = places.agg(lambda names: sorted(set(names)))
        for row, names in zip(used.index, used, strict=True):
            if len(names) > 1 or (currency and names != [currency]):
                said = f", and the plan says {currency}" if currency else ""
                words[row] = f"amounts in {' and '.join(names)}{said}"
    return words


def _set_goals(grid: pd.DataFrame, measure: Measure, fixed: dict[str, str]) -> dict[str, Floats]:
    """Give each row's target and benchmark, its group's or segment's own if it has one."""
    target, bench = measure.target, measure.benchmark
    goals = {"target": np.array(target.value if target else np.nan), **_ends(bench)}
    own = [(name, value, {"target": np.array(goal)}) for name, value, goal in _list_own(target.per if target else {})]
    own += [(name, value, _ends(each)) for name, value, each in _list_own(bench.by if bench else {})]
    for name, value, numbers in own:
        held = grid[name] == value if name in grid else fixed.get(name) == value
        goals |= {goal: np.where(held, number, goals[goal]) for goal, number in numbers.items()}
    return goals


def _list_own(goals: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, Any]]:
    return [(name, value, goal) for name, values in goals.items() for value, goal in values.items()]


def _ends(bench: Range | None) -> dict[str, Floats]:
    ends = {"benchmark_low": bench and bench.low, "benchmark_high": bench and bench.high}
    return {name: np.array(np.nan if end is None else end) for name, end in ends.items()}


def _judge(table: pd.DataFrame) -> pd.DataFrame:
    """Say where each value stands by its entry's direction: a target first, else the benchmark."""
    value, target = table["value"], table["target"]
    outside = (value < table["benchmark_low"]) | (value > table["benchmark_high"])
    cases = [
        (table["note"].str.endswith(f"needs {stats.FEW_UNITS}") | (table["exposed"] < stats.FEW_UNITS), "too few"),
        (value.isna(), ""),
        ((value >= target).where(table["up"], value <= target), "met"),
        (target.notna(), "missed"),
        (outside, "outside benchmark"),
    ]
    return table.assign(status=np.select([case for case, _ in cases], [status for _, status in cases], default=""))
