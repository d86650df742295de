"""What each unit or visit adds to a metric: how much, out of how many, and whether it could at all."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Self

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib.canonical import NO_VALUE
from convlib.columns import read_texts
from convlib.durations import parse_duration
from convlib.events import EventLog, Unit
from convlib.plan_entries import Loss, Macro, Metric, Micro
from convlib.rules import Rule

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
NEVER = np.iinfo(np.int64).max
SECOND = 1_000_000


@numba.njit(cache=True, nogil=True)
def find_slices(key: Ints, time: Ints, wanted: Ints, low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Find, for each wanted key, the rows from a time to another, both included.

    Args:
        key: The rows' keys, codes from 0, in order.
        time: The rows' times, in order within a key.
        wanted: Keys.
        low: The first time that counts, for each wanted key.
        high: The last.

    Returns:
        Where the rows begin, and where they are over.
    """
    begin, end = np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.int64)
    # Keys are codes, so a list of where each begins is shorter than the rows.
    begins = np.zeros((key[-1] if len(key) else -1) + 2, np.int64)
    for row in range(len(key)):
        begins[key[row] + 1] = row + 1
    for code in range(1, len(begins)):
        begins[code] = max(begins[code], begins[code - 1])
    for i in range(len(wanted)):
        if not 0 <= wanted[i] < len(begins) - 1:
            continue
        first, last = begins[wanted[i]], begins[wanted[i] + 1]
        begin[i] = first + np.searchsorted(time[first:last], low[i], side="left")
        end[i] = max(begin[i], first + np.searchsorted(time[first:last], high[i], side="right"))
    return begin, end


@dataclasses.dataclass(frozen=True)
class Stream:
    """The events of one conversion or rule, in order of key (a unit or a visit) and time."""

    rows: pd.DataFrame

    @functools.cached_property
    def _keys(self) -> tuple[Ints, Ints]:
        return self.rows["unit"].to_numpy(np.int64), self.rows["time"].to_numpy(np.int64)

    def find(self, cells: "Cells", low: Ints | None = None, high: Ints | None = None) -> tuple[Ints, Ints]:
        """Find each cell's rows between two times, both included, those of the cell if none are given."""
        start, until = cells.low if low is None else low, cells.high if high is None else high
        return find_slices(*self._keys, cells.key, start, until)

    def first(self, cells: "Cells", low: Ints | None = None, high: Ints | None = None) -> Ints:
        """Give the time of each cell's first row between two times, NEVER without one."""
        begin, end = self.find(cells, low, high)
        times = np.append(self._keys[1], NEVER)
        return np.where(end > begin, times[np.minimum(begin, len(times) - 1)], NEVER)

    def count(self, cells: "Cells") -> Ints:
        """Count each cell's rows."""
        begin, end = self.find(cells)
        return end - begin


@dataclasses.dataclass(frozen=True)
class Cells:
    """What a metric is counted over: a unit from its entry on, or one visit.

    Attributes:
        entry: The entry that it belongs to, as a row of the entries.
        key: The unit's or the visit's code.
        low: From when its events count, microseconds since 1970.
        high: Until when, included.
    """

    entry: Ints
    key: Ints
    low: Ints
    high: Ints

    def take(self, chosen: Flags) -> "Cells":
        """Keep some cells."""
        return Cells(self.entry[chosen], self.key[chosen], self.low[chosen], self.high[chosen])


@dataclasses.dataclass(frozen=True)
class Tally:
    """What each cell that could adds to a metric.

    Attributes:
        entry: The cell's entry.
        amount: How much it adds.
        base: Out of how many: 1 for each cell, or its events.
        did: Whether it did it.
        money: The entries and the currencies of what was added up, each pair once.
        pending: The entries that did it and whose window after it is not over.
    """

    entry: Ints
    amount: Floats
    base: Floats
    did: Flags
    money: pd.DataFrame | None = None
    pending: Ints = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))


class Reader:
    """Reads what the metrics of one call need, each stream of events once."""

    def __init__(self, log: EventLog, unit: Unit, entries: pd.DataFrame, *, end: int, clip: bool = False) -> None:
        """Keep what is asked.

        Args:
            log: The log.
            unit: What is counted.
            entries: One row an entry: `unit`, `time`, `until` (microseconds) and `begin`, when its period began.
            end: Until when the data are complete, microseconds.
            clip: Whether of a visit only what lies between `time` and `until` counts.
        """
        self.log, self.unit, self.entries, self.end, self.clip = log, unit, entries, end, clip
        self._streams: dict[tuple[str, Unit, tuple[str, ...]], Stream] = {}

    def over(self, entries: pd.DataFrame) -> Self:
        """Give a reader of other entries of the same log, which reads no stream again."""
        other = type(self)(self.log, self.unit, entries, end=self.end, clip=self.clip)
        other._streams = self._streams
        return other

    def read(self, what: str | Rule, *, per: Unit, columns: Sequence[str] = ()) -> Stream:
        """Read the events of a conversion, or those that match a rule, in order of key and time."""
        key = (str(what), per, tuple(columns))
        if key not in self._streams:
            if isinstance(what, str):
                rows = self.log.fetch(what, unit=per, columns=columns)
            else:
                rows = self.log.read(self.log.keep(what).rows(), unit=per, columns=columns)
            self._streams[key] = self._sort(rows)
        return self._streams[key]

    def read_amounts(self, conversion: str, column: str) -> Stream:
        """Read a conversion's events with a column's `amount`, and the currency of a `value`."""
        more = ["currency"] if column == "value" else [column]
        stream = self.read(conversion, per=self.unit, columns=more)
        return Stream(stream.rows.assign(amount=pd.to_numeric(stream.rows[column], errors="coerce")))

    def last_times(self, sessions: Ints) -> Ints:
        """Give the time of each visit's last event."""
        ends = self.visits.set_index("session")["end"].reindex(sessions)
        return np.asarray(ends, np.int64)

    def _sort(self, rows: pd.DataFrame) -> Stream:
        order = np.lexsort([rows["event"], rows["time"], rows["unit"]])
        return Stream(rows.take(order).reset_index(drop=True))

    @functools.cached_property
    def everything(self) -> Stream:
        """Every event by visit."""
        return self._sort(self.log.read(self.log.rows(), unit="session"))

    @functools.cached_property
    def pages(self) -> tuple[Ints, int]:
        """The page of each of these events, as a code, and the code of none."""
        codes, names = read_texts(self.log.prepared.find("events.parquet", self.log.plan), "page_path")
        none = np.flatnonzero(names == NO_VALUE)
        return codes[self.everything.rows["event"].to_numpy()].astype(np.int64), int(none[0]) if len(none) else -1

    @functools.cached_property
    def units(self) -> Cells:
        """Each entry's unit, from its entry on."""
        rows = self.entries
        entry = np.arange(len(rows))
        return Cells(entry, *(rows[name].to_numpy(np.int64) for name in ("unit", "time", "until")))

    @functools.cached_property
    def visits(self) -> pd.DataFrame:
        """Every visit of the log: `session`, `user`, `start`, `end`, in order of user and start."""
        return self.log.list_visits().sort_values(["user", "start", "session"], ignore_index=True)

    @functools.cached_property
    def sessions(self) -> Cells:
        """The visits of each entry that begin in its period, from the one that holds the entry on, each as a whole."""
        if self.unit == "session":
            rows = self.visits.set_index("session").loc[self.units.key]
            times = (rows[name].to_numpy(np.int64) for name in ("start", "end"))
            return self._bound(Cells(self.units.entry, self.units.key, *times))
        users, starts = (self.visits[name].to_numpy(np.int64) for name in ("user", "start"))
        units, begins = self.units, self.entries["begin"].to_numpy(np.int64)
        first, last = find_slices(users, starts, units.key, begins, units.high)
        entry, place = np.repeat(units.entry, last - first), _spread(first, last)
        rows = self.visits.iloc[place]
        ends = rows["end"].to_numpy(np.int64)
        cells = Cells(entry, rows["session"].to_numpy(np.int64), rows["start"].to_numpy(np.int64), ends)
        return self._bound(cells.take(ends >= units.low[entry]))

    def _bound(self, cells: Cells) -> Cells:
        """Cut visits to their entry's time, where only that counts."""
        if not self.clip:
            return cells
        low, high = (each[cells.entry] for each in (self.units.low, self.units.high))
        return dataclasses.replace(cells, low=np.maximum(cells.low, low), high=np.minimum(cells.high, high))

    def cells(self, per: Unit) -> Cells:
        """Give what a metric is counted over."""
        return self.sessions if per == "session" else self.units


def tally(reader: Reader, conversion: Macro | Micro | Loss, metric: Metric, macro: Macro) -> Tally:
    """Say what each unit or visit adds to a metric.

    Args:
        reader: Reads the log.
        conversion: Whose metric it is.
        metric: The metric.
        macro: The macro that the conversion leads to.
    """
    if metric.type == "depth":
        return _measure_depth(reader, conversion.id, metric)
    if metric.type in {"follow_up", "churn", "return_rate"}:
        return _follow(reader, conversion.id, metric, macro)
    if metric.type == "time_between":
        return _time(reader, conversion.id, metric)
    if metric.type == "abandonment":
        return _abandon(reader, conversion.id, metric, macro.id)
    if metric.value_column:
        return _add_up(reader, conversion.id, metric)
    per = metric.unit or reader.unit
    cells = reader.cells(per)
    could = _could(reader, metric, cells, per)
    count = reader.read(conversion.id, per=per).count(cells)
    amount = count if metric.type == "per_unit" else count > 0
    return Tally(cells.entry[could], amount[could].astype(float), np.ones(could.sum()), count[could] > 0)


def _could(reader: Reader, metric: Metric, cells: Cells, per: Unit) -> Flags:
    """Say which cells could: all, or those that did what the metric is taken over."""
    if metric.over is None:
        return np.ones(len(cells.key), bool)
    return reader.read(metric.over, per=per).first(cells) < NEVER


def _add_up(reader: Reader, conversion: str, metric: Metric) -> Tally:
    """Add up a column of the conversion's events; a mean is taken over the events that have a value."""
    cells = reader.units
    stream = reader.read_amounts(conversion, str(metric.value_column))
    slices = stream.find(cells)
    amount, count = _sum(stream, *slices)
    money = _list_money(stream, cells, *slices)
    did = stream.count(cells) > 0
    if metric.type == "mean":
        could = count > 0
        return Tally(cells.entry[could], amount[could], count[could], did[could], money)
    could = _could(reader, metric, cells, reader.unit)
    return Tally(cells.entry[could], amount[could], np.ones(could.sum()), did[could], money)


def _sum(stream: Stream, begin: Ints, end: Ints) -> tuple[Floats, Floats]:
    """Add up each slice's amounts, and count those that are there."""
    amounts = stream.rows["amount"].to_numpy(float)
    known = ~np.isnan(amounts)
    # One row more, so that a slice may end behind the last; an empty slice would give the row at its beginning.
    padded = np.append(np.where(known, amounts, 0.0), 0.0)
    ends = np.column_stack([begin, end]).ravel()
    some = end > begin
    total = np.where(some, np.add.reduceat(padded, ends)[::2], 0.0) if len(begin) else np.zeros(0)
    seen = np.concatenate([[0], np.cumsum(known)])
    return total, (seen[end] - seen[begin]).astype(float)


def _list_money(stream: Stream, cells: Cells, begin: Ints, end: Ints) -> pd.DataFrame | None:
    """List the currencies of each entry's amounts; None where they are no values."""
    if "currency" not in stream.rows:
        return None
    place = _spread(begin, end)
    entry = np.repeat(cells.entry, end - begin)
    found = pd.DataFrame({"entry": entry, "currency": stream.rows["currency"].to_numpy()[place]})
    known = stream.rows["amount"].notna().to_numpy()[place] & (found["currency"] != NO_VALUE)
    return found[known].drop_duplicates()


def _spread(begin: Ints, end: Ints) -> Ints:
    """List the rows of slices, one slice after another."""
    length = end - begin
    return np.asarray(np.arange(length.sum()) + np.repeat(begin - np.cumsum(length) + length, length), np.int64)


def _time(reader: Reader, conversion: str, metric: Metric) -> Tally:
    """Measure the seconds from the first event of where the time begins to the first of the conversion from then on."""
    assert metric.from_ is not None  # noqa: S101 - the plan has checked it
    per = metric.unit or reader.unit
    cells = reader.cells(per)
    start = reader.read(metric.from_, per=per).first(cells)
    came = reader.read(conversion, per=per).first(cells, low=start)
    could, did = start < NEVER, came < NEVER
    seconds = np.where(did, (came - np.where(could, start, 0)) / SECOND, np.nan)
    return Tally(cells.entry[could], seconds[could], np.ones(could.sum()), did[could])


def _abandon(reader: Reader, conversion: str, metric: Metric, macro: str) -> Tally:
    """Find who got to a point, and of those who never came to the goal after it."""
    per = metric.unit or reader.unit
    cells = reader.cells(per)
    point, goal = (metric.over, conversion) if metric.over else (conversion, macro)
    left = reader.read(point, per=per).first(cells)
    could = left < NEVER
    did = reader.read(goal, per=per).first(cells, low=left) == NEVER
    return Tally(cells.entry[could], did[could].astype(float), np.ones(could.sum()), did[could])


def _follow(reader: Reader, conversion: str, metric: Metric, macro: Macro) -> Tally:
    """Look at what comes after the first conversion: the macro, a loss, another visit, or what the macro is worth.

    Of those whose window is not over, nothing is known yet.
    """
    cells = reader.units
    first = reader.read(conversion, per=reader.unit).first(cells)
    did = first < NEVER
    until = first + parse_duration(metric.window) if metric.window else cells.high
    until = np.where(did, until, cells.low)
    over = until <= reader.end if metric.window else np.ones(len(did), bool)
    after = np.where(did, first + 1, NEVER)
    if metric.column:
        return _follow_value(reader, metric, macro.id, cells, after, until, over)
    if metric.type == "return_rate":
        visits = reader.visits
        owner = visits.set_index("session")["user"].reindex(cells.key) if reader.unit == "session" else cells.key
        users, starts = (visits[name].to_numpy(np.int64) for name in ("user", "start"))
        came = np.less(*find_slices(users, starts, np.asarray(owner, np.int64), after, until))
    else:
        goals = [loss.id for loss in macro.losses] if metric.type == "churn" else [macro.id]
        came = np.zeros(len(did), bool)
        for goal in goals:
            came |= reader.read(goal, per=reader.unit).first(cells, after, until) < NEVER
    could = did & over
    waiting = cells.entry[did & ~over]
    return Tally(cells.entry[could], came[could].astype(float), np.ones(could.sum()), came[could], pending=waiting)


def _follow_value(
    reader: Reader, metric: Metric, macro: str, cells: Cells, after: Ints, until: Ints, over: Flags
) -> Tally:
    """Add up what the macro is worth after the conversion, for each who did it or each event of `over`."""
    stream = reader.read_amounts(macro, str(metric.column))
    slices = stream.find(cells, after, until)
    amount, _ = _sum(stream, *slices)
    base = np.where(after < NEVER, 1, 0)
    if metric.over is not None:
        base = reader.read(metric.over, per=reader.unit).count(cells)
    could = over & (base > 0)
    money, waiting = _list_money(stream, cells, *slices), cells.entry[~over]
    return Tally(cells.entry[could], amount[could], base[could].astype(float), amount[could] > 0, money, waiting)


def _measure_depth(reader: Reader, conversion: str, metric: Metric) -> Tally:
    """Measure how deep the visits with the conversion go; what the last page of a visit took is not known."""
    everything = reader.sessions
    first = reader.read(conversion, per="session").first(everything)
    cells, first = everything.take(first < NEVER), first[first < NEVER]
    if metric.of == "seconds_on_page":
        return _time_pages(reader, conversion, cells)
    if metric.of == "seconds_after":
        seconds = (reader.last_times(cells.key) - first) / SECOND
        known = seconds > 0
        return Tally(cells.entry[known], seconds[known], np.ones(known.sum()), known[known])
    low = cells.low if metric.of == "interactions" else first + 1
    begin, end = reader.everything.find(cells, low, np.full(len(first), NEVER))
    return Tally(cells.entry, (end - begin).astype(float), np.ones(len(first)), end > begin)


def _time_pages(reader: Reader, conversion: str, cells: Cells) -> Tally:
    """Measure how long the page of each conversion was looked at: until the visit's first event on another page."""
    page, none = reader.pages
    rows = reader.everything.rows[page != none]
    page = page[page != none]
    session, time, event = (rows[name].to_numpy(np.int64) for name in ("unit", "time", "event"))
    turns = np.ones(len(rows), bool)
    turns[1:] = (session[1:] != session[:-1]) | (page[1:] != page[:-1])
    start = np.flatnonzero(turns)
    seconds = np.full(len(start), np.nan)
    goes_on = session[start[1:]] == session[start[:-1]]
    seconds[:-1][goes_on] = (time[start[1:]] - time[start[:-1]])[goes_on] / SECOND
    is_seen = np.isin(event, reader.read(conversion, per="session").rows["event"].to_numpy())
    views = np.unique((np.cumsum(turns) - 1)[is_seen])
    found = pd.DataFrame({"unit": session[start[views]], "seconds": seconds[views]}).dropna()
    totals = found.groupby("unit")["seconds"].agg(["sum", "size"]).reindex(cells.key)
    known = totals["size"].notna().to_numpy()
    return Tally(
        cells.entry[known],
        totals["sum"].to_numpy(float)[known],
        totals["size"].to_numpy(float)[known],
        known[known],
    )
