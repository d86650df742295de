"""The event log: one prepared log seen through a segment, row filters and a period of entries."""

import dataclasses
import datetime as dt
import functools
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import ColumnExpression, ConstantExpression, FunctionExpression, SQLExpression
from numpy.typing import NDArray

from convlib.canonical import NO_VALUE
from convlib.columns import find_first_rows, read_numbers, read_texts
from convlib.documents import did_you_mean, find_wrong_choice, word_columns
from convlib.elsewhere import Elsewhere, Engine, EngineName, open_elsewhere
from convlib.engine import compile_rule, connect, quote, scan
from convlib.errors import ParamError, check_made
from convlib.identity import IDS
from convlib.mapping import Mapping as SourceMapping
from convlib.mapping import read_mapping
from convlib.parts import DERIVED
from convlib.periods import Calendar, find_day, find_midnights, find_timezone_problems, read_day
from convlib.personal import count_personal
from convlib.plan import Plan, Segment, read_plan, read_segments
from convlib.prepare import Prepared, prepare
from convlib.profile import Profile, profile_rows
from convlib.results import cut_text
from convlib.rules import All, Rule, Test, parse_rule
from convlib.sources import EventSource, find_source
from convlib.takeaways import word_rows

Unit = Literal["user", "session"]
UNITS: tuple[Unit, ...] = get_args(Unit)
#: As many segments as one column may make, and as many as a message lists.
MOST_SEGMENTS, MOST_SHOWN = 200, 20
#: A column on the way, under a name that no log has.
UNIT = "convlib unit"
#: Columns of the tables that breakdowns stand in, those of results and those on the way there.
TAKEN = frozenset(
    {
        *("benchmark_high", "benchmark_low", "change", "change_q_value", "ci_lower", "ci_upper", "compared_with"),
        *("conversion", "count", "could", "depth", "did", "end", "entered", "error", "event", "exposed", "lost"),
        *("measured", "metric", "name", "note", "owner", "pending", "period", "previous", "status", "step"),
        *("target", "tier", "time", "unit", "units", "until", "value"),
        *(
            "at_risk",
            "cluster",
            "converted",
            "group",
            "key",
            "leak_difference",
            "lost_rate",
            "number",
            "p_value",
            "q_value",
        ),
        *(
            "seconds",
            "steps",
            "seconds_high",
            "seconds_low",
            "share",
            "share_ci_lower",
            "share_ci_upper",
            "units_before",
        ),
        *("units_rank", "value_rank", "verdict"),
    }
)


@dataclasses.dataclass(frozen=True)
class EventLog:
    """A log of events, prepared once, with the plan, the segment and the period that it is read through.

    Attributes:
        prepared: Where the prepared form is, and its counts of rows.
        plan: The measurement plan that maps events to conversions.
        segments: The named segments that `segment` knows.
        segment_name: Name of the segment in use.
        rule: What a unit's entry event must match to belong to the segment.
        row_rule: What a row must match to belong to the segment, when it is one of rows (`scope: event`).
        filters: What every row must match besides.
        start: First day of entries, included; None is the log's first.
        end: Last day of entries, included; None is the log's last.
        timezone: Zone in which these days, and the weeks and months of rates, begin and end.
        fewest: Results leave out numbers of fewer units than this, and what would reveal one; 0 leaves out nothing.
    """

    prepared: Prepared | Elsewhere
    plan: Plan | None = None
    segments: Mapping[str, Segment] = dataclasses.field(default_factory=dict, repr=False)
    segment_name: str = "all"
    rule: Rule | None = dataclasses.field(default=None, repr=False)
    row_rule: Rule | None = dataclasses.field(default=None, repr=False)
    filters: tuple[Rule, ...] = dataclasses.field(default=(), repr=False)
    start: dt.date | None = None
    end: dt.date | None = None
    timezone: str = "UTC"
    fewest: int = 0

    def __repr__(self) -> str:
        """Say in short what the log is."""
        return self._describe()

    def _repr_html_(self) -> str:
        users = ""
        if not (self.engine or self.fewest):
            (count,) = self.prepared.open().aggregate("count(DISTINCT user_id)").fetchall()[0]
            users = f" {count:,} users in the whole log."
        return f'<p class="provenance">{html.escape(self._describe(users))}</p>'

    def _describe(self, users: str = "") -> str:
        shared = self.fewest > 0
        rows = word_rows(
            {"used": self.rows_used} if shared else self.row_counts,
            rejected_because={} if shared else self.rejected_because,
            left_out_because={} if shared else self.left_out_because,
        )
        first, last = self.period
        seen = f"Segment {self.segment_name}, entries from {first} to {last}"
        return f"{seen}. {self.prepared.source}: {rows}.{users} Columns: {cut_text(', '.join(self.columns))}."

    @property
    def engine(self) -> Engine | None:
        """Give the engine that counts this log's funnels; None when that is done here."""
        return self.prepared.engine if isinstance(self.prepared, Elsewhere) else None

    @property
    def columns(self) -> tuple[str, ...]:
        """Name the columns that rules, breakdowns and covariates may use."""
        return self.prepared.columns

    @property
    def filled_columns(self) -> list[str]:
        """Name the columns that hold something: those that the source has, and those derived from them."""
        return [name for name in self.columns if name in (*self.prepared.given, *self.derived)]

    @property
    def derived(self) -> tuple[str, ...]:
        """Name the columns that the source lacks and that are derived from the others: `session_id`, `land`."""
        return tuple(name for name in DERIVED if name not in self.prepared.given)

    @property
    def rows_read(self) -> int:
        """Give how many rows the source has: those used, those rejected and those left out by rule."""
        return self.prepared.rows_read

    @property
    def rows_used(self) -> int:
        """Give how many rows are used."""
        return self.prepared.rows_used

    @property
    def rows_rejected(self) -> int:
        """Give how many rows could not be used; `rejects` holds them."""
        return self.prepared.rows_rejected

    @property
    def rows_left_out(self) -> int:
        """Give how many rows the plan's `leave_out` rules leave out."""
        return self.prepared.rows_left_out

    @property
    def row_counts(self) -> dict[str, int]:
        """Count the source's rows: `read` = `used` + `rejected` + `left_out`."""
        return {fate: getattr(self.prepared, f"rows_{fate}") for fate in ("read", "used", "rejected", "left_out")}

    @property
    def left_out_because(self) -> dict[str, int]:
        """Count the rows left out by rule, the most frequent first."""
        return self.prepared.left_out_because

    @property
    def double_fired(self) -> dict[str, int]:
        """Count, for each conversion with a `dedupe` time, the rows that only repeat the one before."""
        if not self.plan or not any(each.dedupe for each in self.plan.conversions):
            return {}
        return dict(scan(self.prepared.find("double_fired.parquet", self.plan)).fetchall())

    @property
    def rejected_because(self) -> dict[str, int]:
        """Count the rejected rows by reason, the most frequent first."""
        return self.prepared.rejected_because

    @property
    def fingerprint(self) -> str:
        """Give the SHA-256 of the source's content."""
        return self.prepared.fingerprint

    @property
    def first(self) -> pd.Timestamp:
        """Give the time of the whole log's first event, UTC."""
        return self.prepared.first

    @property
    def last(self) -> pd.Timestamp:
        """Give the end of the data: the time of the whole log's last event, UTC."""
        return self.prepared.last

    @property
    def period(self) -> tuple[dt.date, dt.date]:
        """Give the first and last day of entries, both included."""
        return self.start or find_day(self.first, self.timezone), self.end or find_day(self.last, self.timezone)

    @property
    def fixed(self) -> dict[str, str]:
        """Give the columns that the segment holds at one value, with that value as text."""
        rules = [r for r in (self.rule, self.row_rule, *self.filters) if r is not None]
        tests = [test for rule in rules for test in (rule.rules if isinstance(rule, All) else (rule,))]
        single = [t for t in tests if isinstance(t, Test) and t.op == "in" and len(t.value) == 1]
        return {test.column: str(test.value[0]) for test in single}

    def check_plan(self, plan: Plan) -> None:
        """Refuse a plan that is not the one by which the log was prepared: its rules would count nothing.

        Raises:
            ParamError: The log was read without a plan, or with another one, or what is given is no plan.
        """
        check_made("plan", plan, Plan, maker="read_plan")
        if self.plan is None or self.plan.digest != plan.digest:
            how = "without a plan" if self.plan is None else "with another plan"
            msg = f"The log was read {how}, so it lacks this one's conversions. Use read_events(..., plan=plan)."
            raise ParamError(msg)

    @property
    def rejects(self) -> pd.DataFrame:
        """Show the rows that could not be used: `source`, `row`, `reason`, and the row as it came.

        `row` is the number of the row, the first being 1, and for a line that can't be split (`text`) that of the line.
        """
        return pd.read_parquet(self.prepared.folder / "rejects.parquet")

    def segment(self, which: str | Mapping[str, object]) -> Self:
        """Keep the units whose entry event in the period matches.

        Args:
            which: A name in the segments file, `COLUMN_SEGMENT=VALUE` for one value of a `by` segment, or a match rule.

        Raises:
            ParamError: There is no such segment, or it uses a column that the log does not have.
        """
        log = self.everyone()
        if not isinstance(which, str | Mapping):
            raise ParamError(self._unknown_segment(which))
        if not isinstance(which, str):
            return log._restrict("custom", parse_rule(dict(which)), "unit")
        name, _, value = which.partition("=")
        chosen = self.segments.get(name, Segment(name="all") if name == "all" else None)
        if chosen is None or bool(chosen.by) != ("=" in which):
            raise ParamError(self._unknown_segment(which))
        if chosen.by:
            if value not in self.whole().values(chosen.by):
                raise ParamError(self._unknown_segment(which))
            own = parse_rule({chosen.by: {"is_null": True} if value == NO_VALUE else value})
            return log._restrict(which, All((chosen.rule, own)) if chosen.rule else own, chosen.scope)
        return log._restrict(which, chosen.rule, chosen.scope)

    def whole(self) -> Self:
        """Give the log without segment, filters and period."""
        return dataclasses.replace(self.everyone(), filters=(), start=None, end=None)

    def everyone(self) -> Self:
        """Give the log without its segment; row filters and the period stay."""
        return dataclasses.replace(self, segment_name="all", rule=None, row_rule=None)

    def where(self, **columns: object) -> Self:
        """Keep the rows whose columns match, and nothing else of their units: `where(device_type="mobile")`."""
        return self.keep(parse_rule(columns))

    def keep(self, rule: Rule) -> Self:
        """Keep the rows that match a rule.

        Raises:
            ParamError: It tests a column that the log does not have.
        """
        self._check_columns(sorted(rule.columns))
        return dataclasses.replace(self, filters=(*self.filters, rule))

    def between(
        self, start: dt.date | str | None = None, end: dt.date | str | None = None, *, timezone: str | None = None
    ) -> Self:
        """Choose entries from `start` to `end`, both days included; earlier and later events stay visible.

        Args:
            start: The first day; None is the log's first.
            end: The last day; None is the log's last.
            timezone: Zone in which the days begin and end, by its IANA name; None keeps the log's, UTC at first.

        Raises:
            ParamError: A date can't be read, the end is before the start, or there is no such zone.
        """
        if timezone is not None:
            if problems := find_timezone_problems(timezone):
                raise ParamError(*problems)
            return dataclasses.replace(self, timezone=timezone).between(start, end)
        first, last = _date(start, "start"), _date(end, "end")
        if first and last and last < first:
            msg = f"`end` {last} is before `start` {first}; swap them."
            raise ParamError(msg)
        begun, ended = (find_day(moment, self.timezone) for moment in (self.first, self.last))
        if (first and first > ended) or (last and last < begun):
            msg = (
                f"No event lies from `start` {first or 'the first day'} to `end` {last or 'the last day'}: the log has "
                f"events from {begun} to {ended}. Choose days among these."
            )
            raise ParamError(msg)
        return dataclasses.replace(self, start=first, end=last)

    def expand_segments(self, names: Sequence[str] | None = None) -> list[str]:
        """List segments with each `by` segment as one name a value (`module=AAA`), in the order of the segments file.

        The values are those of the entry events in the period, so that every listed segment has units.

        Args:
            names: Which segments; None for all.

        Raises:
            ParamError: A name is not in the segments file.
        """
        chosen = list_columns(names) if names is not None else ["all", *(n for n in self.segments if n != "all")]
        unknown = [n for n in chosen if str(n).partition("=")[0] not in (*self.segments, "all")]
        if unknown:
            raise ParamError(*[self._unknown_segment(name) for name in unknown])
        expanded: list[str] = []
        for name in chosen:
            if "=" in name:
                expanded.append(self.segment(name).segment_name)
                continue
            segment = self.segments.get(name)
            values = self._entry_values(segment, segment.by) if segment and segment.by else None
            expanded += [name] if values is None else [f"{name}={value}" for value in values]
        return expanded

    def _entry_values(self, segment: Segment, by: str) -> list[str]:
        if segment.scope == "event":
            found = set(self.values(by))
        else:
            found = set(dataclasses.replace(self, rule=segment.rule).entries(columns=[by])[by])
        # The values become names of folders and pages.
        if by in IDS:
            fault = "it names users"
        elif len(found) > MOST_SEGMENTS:
            fault = f"it has {len(found):,} values, and at most {MOST_SEGMENTS} make segments"
        else:
            fault = "it holds personal data" if count_personal(found, numbers=False) else ""
        if fault:
            msg = f"`by: {by}` can't make segments: {fault}. Choose a column of few values, or map it to one."
            raise ParamError(msg)
        return [*sorted(found - {NO_VALUE}), *(found & {NO_VALUE})]

    def values(self, column: str) -> list[str]:
        """List the values of a column, as text, with `(none)` last when some rows have none."""
        self._check_columns([column])
        if not (self.engine or self.is_filtered):
            known = set(read_texts(self.prepared.find("events.parquet", self.plan), column)[1])
            return [*sorted(known - {NO_VALUE}), *(known & {NO_VALUE})]
        found = (
            self.rows().project(f"CAST({quote(column)} AS VARCHAR) AS v").distinct().order("v NULLS LAST").fetchall()
        )
        return [NO_VALUE if value is None else value for (value,) in found]

    def to_pandas(self) -> pd.DataFrame:
        """Give the rows of the segment's units, as a frame in order of user and time."""
        units = self.entries().index
        rows = self.rows().project(f"user, {', '.join(map(quote, self.columns))}").df()
        return rows[rows["user"].isin(units)].drop(columns="user").reset_index(drop=True)

    def rows(self, name: str = "events") -> duckdb.DuckDBPyRelation:
        """Open one part of the prepared form (`events`, `conversions` or `activity`) with the row filters applied."""
        return self._filter(scan(self.prepared.find(f"{name}.parquet", self.plan)))

    def slices(self, most: int) -> Iterator[duckdb.DuckDBPyRelation]:
        """Open the used rows in the source's order, in slices of about so many, with the row filters applied."""
        yield from map(self._filter, self.prepared.open_slices(most))

    @property
    def is_ordered(self) -> bool:
        """Say whether the prepared form is there: the rows in order of user and time, mapped and with codes."""
        return self.prepared.has(self.plan)

    @property
    def is_filtered(self) -> bool:
        """Say whether some rows are not seen at all, by a filter or by a segment of rows."""
        return bool(self.filters or self.row_rule)

    @property
    def key(self) -> tuple[object, ...]:
        """Give what decides which rows are seen and who enters, for what is kept from one call to the next.

        The prepared log is told by its identity: whoever keeps a key keeps the log too.
        """
        seen = (self.filters, self.row_rule, self.rule, self.start, self.end, self.timezone)
        return id(self.prepared), self.plan.digest if self.plan else "", repr(seen)

    def _filter(self, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        for rule in (*self.filters, *([self.row_rule] if self.row_rule else [])):
            rows = rows.filter(compile_rule(rule))
        return rows

    def scan(self) -> duckdb.DuckDBPyRelation:
        """Open the used rows of the segment's units in the period: the canonical columns, then the log's own."""
        reads = self.plan.columns if self.plan else frozenset[str]()
        is_whole = self.rule is None and self.row_rule is None and not (self.filters or self.start or self.end)
        if is_whole and not reads & set(self.derived):
            return self.prepared.open()  # in the source's own order, and without the sort that the analyses need
        return self._members("events").project(", ".join(map(quote, self.columns)))

    @functools.cached_property
    def profile(self) -> Profile:
        """Reduce the rows to the counts that the event map and the quality rules judge, once for both."""
        return profile_rows(self)

    def stream(self, name: str) -> duckdb.DuckDBPyRelation:
        """Open the rows that are one conversion of the plan, or else that have this event name.

        Raises:
            ParamError: The plan has no such conversion and the log no such event.
        """
        self.check_event(name)
        if self.plan and name in self.plan:
            return self.rows("conversions").filter(ColumnExpression("conversion") == ConstantExpression(name))
        return self.rows().filter(ColumnExpression("event_name") == ConstantExpression(name))

    def check_event(self, name: str) -> None:
        """Refuse a name that is neither a conversion of the plan nor an event of the log.

        Raises:
            ParamError: It is so; the message has the nearest name.
        """
        if self.plan and name in self.plan:
            return
        if self.engine:
            if name not in self.engine.log.event_names:
                raise ParamError(self._unknown_event(name, sorted(self.engine.log.event_names)))
            return
        rows = self.whole().rows() if self.is_ordered else self.prepared.open()
        is_it = ColumnExpression("event_name") == ConstantExpression(name if isinstance(name, str) else None)
        if not rows.filter(is_it).limit(1).fetchall():
            names = rows.project("event_name").distinct().order("event_name").fetchall()
            raise ParamError(self._unknown_event(name, [event for (event,) in names]))

    def entries(
        self,
        *,
        unit: Unit = "user",
        entry: str | None = None,
        columns: Sequence[str] = (),
        calendar: Calendar | None = None,
    ) -> pd.DataFrame:
        """Find when and how each unit of the segment entered in the period.

        Args:
            unit: What is counted.
            entry: Conversion or event that starts the clock; None for the unit's first event of any name.
            columns: Columns to take from the entry event, as text.
            calendar: One entry for each unit and period of this calendar; None for one entry a unit.

        Returns:
            A frame indexed by unit code, with `time` (microseconds since 1970, UTC), `period` (its first day in the
            log's zone) and the columns.
        """
        columns = list_columns(columns)
        check_made("calendar", calendar, Calendar | None, maker="Calendar")
        self.check_breakdown(columns)
        self._check_unit(unit)
        if entry:
            self.check_event(entry)
        everyone = dataclasses.replace(self, segment_name="all", rule=None)
        firsts = _find_entries(_Entries(everyone, unit, entry or None, calendar))
        if self.rule:
            # One set of units for every analysis, whatever it starts their clock with.
            tested = _read_tested(_Entries(everyone, unit, None, None), tuple(sorted(self.rule.columns)))
            members = connect().from_arrow(tested).filter(compile_rule(self.rule)).project(quote(UNIT)).fetchnumpy()
            firsts = firsts[np.isin(firsts["unit"], members[UNIT])]
        place, path = firsts["event"].to_numpy(), self.prepared.find("events.parquet", self.plan)
        read = {column: read_texts(path, column) for column in columns}
        texts = {column: values.take(codes[place]).array for column, (codes, values) in read.items()}
        known = {name: firsts[name].array for name in ("time", "period")}
        return pd.DataFrame(known | texts, index=pd.Index(firsts["unit"], name="unit"))

    def read(
        self, relation: duckdb.DuckDBPyRelation, *, unit: Unit = "user", columns: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Fetch rows as `unit`, `time` (microseconds), `value`, `event` and the columns as text."""
        self.check_breakdown(columns)
        known = [f"{unit} AS unit", "epoch_us(timestamp) AS time", "value", "event"]
        return relation.filter(f"{unit} IS NOT NULL").project(", ".join([*known, *_texts(columns)])).df()

    def fetch(self, name: str, *, unit: Unit = "user", columns: Sequence[str] = ()) -> pd.DataFrame:
        """Fetch the rows that are one conversion of the plan, or else that have this event name, as `read` gives them.

        Raises:
            ParamError: As `stream`, or a column is missing.
        """
        if self.engine or self.is_filtered or not (self.plan and name in self.plan):
            return self.read(self.stream(name), unit=unit, columns=columns)
        self.check_breakdown(columns)
        path, rows = self._find_conversion(name)
        rows = rows[read_numbers(path, unit)[rows] >= 0]
        known = {"unit": unit, "time": "time", "value": "value", "event": "event"}
        numbers = {as_: read_numbers(path, column)[rows] for as_, column in known.items()}
        read = {column: read_texts(path, column) for column in columns}
        texts = {column: values.take(codes[rows]).array for column, (codes, values) in read.items()}
        return pd.DataFrame(numbers | texts)

    def _find_conversion(self, name: str) -> tuple[Path, NDArray[np.int64]]:
        """Give the file of the prepared conversions, and which of its rows are this one."""
        path = self.prepared.find("conversions.parquet", self.plan)
        found, names = read_texts(path, "conversion")
        return path, np.flatnonzero(np.isin(found, np.flatnonzero(names == name)))

    def find_assignments(
        self, arms: Mapping[str, Sequence[str]], *, rule: Rule | None = None, unit: Unit = "user"
    ) -> pd.DataFrame:
        """Find the first arm of each unit among the rows of the period.

        Args:
            arms: For each column that names an arm, the values that do; rows without one of each assign nobody.
            rule: What a row must match besides; None for any row.
            unit: What is assigned.

        Returns:
            One row a unit: `unit` (code), `time` (microseconds since 1970) and `event` of its first assignment, the
            columns' values then, and `several`: whether it was seen in more than one arm.
        """
        self._check_columns([*arms, *sorted(rule.columns if rule else ())])
        self._check_unit(unit)
        rows = self._assigning(rule, unit)
        for name, values in arms.items():
            rows = rows.filter(_read_text(name).isin(*map(ConstantExpression, values)))
        names = [str(_read_text(name)) for name in arms]
        firsts = [f"arg_min({value}, event) AS {quote(name)}" for value, name in zip(names, arms, strict=True)]
        known = ["min(epoch_us(timestamp)) AS time", "min(event) AS event", *firsts]
        several = f"count(DISTINCT ({', '.join(names)})) > 1 AS several"
        found = rows.aggregate(", ".join([f"{unit} AS unit", *known, several]), unit).order("unit")
        return found.df()

    def find_other_arms(
        self, arms: Mapping[str, Sequence[str]], *, rule: Rule | None = None, unit: Unit = "user"
    ) -> tuple[int, list[str]]:
        """Count the units of the period that such rows put into another arm, and name the arms, at most 10.

        Args:
            arms: As for `find_assignments`.
            rule: As there.
            unit: As there.
        """
        rows, others = self._assigning(rule, unit), []
        for name, values in arms.items():
            text = _read_text(name)
            other = rows.filter(text.isnotnull() & text.isnotin(*map(ConstantExpression, values)))
            others.append(other.select(ColumnExpression(unit).alias("unit"), text.alias("arm")))
        found = functools.reduce(duckdb.DuckDBPyRelation.union, others)
        (units,) = found.aggregate("count(DISTINCT unit)").fetchall()[0]
        names = (
            found.aggregate("arm, count(DISTINCT unit) AS units", "arm").order("units DESC, arm").limit(10).fetchall()
        )
        return int(units), [name for name, _ in names]

    def _assigning(self, rule: Rule | None, unit: Unit) -> duckdb.DuckDBPyRelation:
        """Open the rows of the period that may assign a unit to an arm."""
        rows = self._members("events").filter(f"{unit} IS NOT NULL")
        return rows.filter(compile_rule(rule)) if rule else rows

    def read_texts(self, column: str, events: NDArray[np.int64]) -> NDArray[np.object_]:
        """Read a column of some events, as text."""
        codes, names = read_texts(self.prepared.find("events.parquet", self.plan), column)
        texts: NDArray[np.object_] = np.asarray(names, object)[codes[events]]
        return texts

    def list_visits(self) -> pd.DataFrame:
        """List the visits: `session` and `user` (codes), `start` and `end` (microseconds since 1970)."""
        rows = self.rows().filter("session IS NOT NULL")
        known = "session, min(user) AS user, min(epoch_us(timestamp)) AS start, max(epoch_us(timestamp)) AS end"
        return rows.aggregate(known, "session").df()

    def count(self, part: str, *groups: str) -> pd.DataFrame:
        """Count the segment's events in the period, and their users, for each group of columns.

        Args:
            part: `events` or `conversions`.
            groups: Columns, or `day`.

        Returns:
            The groups, `events`, `units`, `first`, `last`, the most frequent first.
        """
        names = ", ".join(map(quote, groups))
        counts = "count(*) AS events, count(DISTINCT user) AS units, min(timestamp) AS first, max(timestamp) AS last"
        members = self._members(part)
        known = ", ".join(quote(name) for name in members.columns if name != "day")
        dated = members.project(f"{known}, CAST(date_trunc('day', timestamp) AS TIMESTAMP) AS day")
        return (
            dated.aggregate(", ".join(filter(None, [names, counts])), names)
            .order(", ".join(filter(None, ["events DESC", names])))
            .df()
        )

    def _members(self, part: str) -> duckdb.DuckDBPyRelation:
        """Open the rows of the segment's units that lie in the period."""
        low, high = self.span
        rows = self.rows(part).filter(f"epoch_us(timestamp) >= {low} AND epoch_us(timestamp) < {high}")
        if self.rule is None:
            return rows
        units = connect().from_df(pd.DataFrame({"user": self.entries().index})).set_alias("units")
        return rows.set_alias("members").join(units, "user", how="semi")

    @property
    def bounds(self) -> tuple[dt.date, dt.date]:
        """Give the period as its first day and the day after its last."""
        first, last = self.period
        return first, last + dt.timedelta(days=1)

    @property
    def span(self) -> tuple[int, int]:
        """Give the instants at which the period begins and is over, as microseconds since 1970, UTC."""
        low, high = find_midnights(pd.DatetimeIndex(self.bounds), self.timezone)
        return int(low), int(high)

    def _restrict(self, name: str, rule: Rule | None, scope: str) -> Self:
        if rule is None:
            return dataclasses.replace(self, segment_name=name)
        self._check_columns(sorted(rule.columns))
        if scope == "event":
            return dataclasses.replace(self, segment_name=name, row_rule=rule)
        return dataclasses.replace(self, segment_name=name, rule=rule)

    def _check_columns(self, columns: Sequence[str]) -> None:
        unknown = [name for name in columns if name not in self.columns]
        if unknown:
            problems = [f"The log has no column `{name}`.{word_columns(name, self.filled_columns)}" for name in unknown]
            raise ParamError(*problems)

    def check_breakdown(self, columns: Sequence[str]) -> None:
        """Refuse columns that the log does not have, or whose names the tables of results need.

        Raises:
            ParamError: Every such column.
        """
        self._check_columns(columns)
        taken = [name for name in columns if name.casefold() in TAKEN or re.fullmatch(r"time_\d+", name.casefold())]
        if taken:
            raise ParamError(
                *[
                    f"The column `{name}` can't break results down: their own tables have a column of that name. "
                    "Rename it in the log."
                    for name in taken
                ]
            )

    def _check_unit(self, unit: str) -> None:
        if problems := find_wrong_choice("unit", unit, UNITS):
            raise ParamError(*problems)

    def _unknown_segment(self, name: object) -> str:
        known = self.expand_segments()
        more = f" and {len(known) - MOST_SHOWN} more" if len(known) > MOST_SHOWN else ""
        listed = ", ".join(known[:MOST_SHOWN])
        return f"There is no segment `{name}`.{did_you_mean(name, known)} The segments are {listed}{more}."

    def _unknown_event(self, name: object, events: Sequence[str]) -> str:
        known = [*(c.id for c in (self.plan.conversions if self.plan else ())), *events]
        return (
            f"`{name}` is neither a conversion of the plan nor an event of the "
            f"log.{did_you_mean(name, known)} Known are {', '.join(dict.fromkeys(known))}."
        )


def read_events(
    source: EventSource,
    *,
    plan: Plan | str | Path | None = None,
    segments: Mapping[str, Segment] | str | Path | None = None,
    preset: str | None = None,
    mapping: SourceMapping | str | Path | None = None,
    timezone: str | None = None,
    identity: pd.DataFrame | str | Path | None = None,
    hash_ids: bool | None = None,
    engine: EngineName = "duckdb",
) -> EventLog:
    """Read a log of events once, and keep its prepared form in the cache.

    Args:
        source: A Parquet, CSV or JSON-lines file, a glob, a folder (also partitioned by date), an address that fsspec
            knows, a DuckDB file (`shop.duckdb#table`), `dataset:NAME`, a DataFrame, or a table of Ibis, DuckDB, Polars
            or PyArrow.
        plan: The measurement plan, or its file; it maps events to conversions and says which rows are left out.
        segments: Named segments, or their file.
        preset: The product whose export it is: `ga4`, `segment`, `snowplow`, `posthog`, `amplitude`, `mixpanel` or
            `matomo`.
        mapping: How the source's columns become the canonical ones, a YAML file or a preset's name; None takes them as
            they are.
        timezone: Zone of the timestamps that carry none; all are UTC afterwards. None for the mapping's, else UTC.
        identity: A table or file of `anonymous_id` and `user_id`, joined before anything is counted; rows that have
            both ids teach it too. None for the mapping's.
        hash_ids: Whether ids are replaced by a keyed hash (HMAC-SHA-256, with the key in the environment variable
            `CONVLIB_HASH_KEY`) before anything is written. None for the mapping's choice, else not.
        engine: Where funnels are counted: `duckdb`, here; `ibis`, in the database of the table or address
            (`postgres://analyst@host/shop#events`); `spark`, in Spark's executors. Other analyses of such a log read a
            copy, fetched at the first need; docs/engines.md.

    Returns:
        The log. Rows that can't be used stand in `.rejects` with a reason.

    Raises:
        EventDataError: The source is missing, empty or unreadable, or lacks `event_name`, `timestamp` or `user_id`.
        ParamError: There is no such preset, or the hash key is missing.
        PlanError: The plan, the segments file or the mapping file is wrong.
    """
    plan = read_plan(plan) if isinstance(plan, str | Path) else plan
    check_made("plan", plan, Plan | None, maker="read_plan")
    named = read_segments(segments) if isinstance(segments, str | Path) else (segments or {})
    check_made("segments", named, Mapping, maker="read_segments")
    how = find_mapping(mapping, preset=preset, timezone=timezone, hash_ids=hash_ids)
    if engine != "duckdb":
        return EventLog(open_elsewhere(engine, source, plan=plan, mapping=how), plan=plan, segments=named)
    found = find_source(source, encoding=how.encoding)
    known = how.identity if identity is None else identity
    return EventLog(prepare(found, plan=plan, mapping=how, identity=known), plan=plan, segments=named)


def find_mapping(
    mapping: SourceMapping | str | Path | None = None,
    *,
    preset: str | None = None,
    timezone: str | None = None,
    hash_ids: bool | None = None,
) -> SourceMapping:
    """Put what a caller gives over what the mapping says.

    Raises:
        ParamError: Both a preset and a mapping are given, or there is no such preset.
        PlanError: The mapping file is wrong.
    """
    if problems := [] if timezone is None else find_timezone_problems(timezone):
        raise ParamError(*problems)
    if not isinstance(hash_ids, bool | None):
        raise ParamError(f"`hash_ids` is {hash_ids!r}; it must be True, False or None.")
    if preset and mapping:
        raise ParamError(
            f"`preset` is {preset!r} and `mapping` is {str(mapping)!r}; name the preset in the mapping file."
        )
    named = preset or mapping or SourceMapping()
    found = named if isinstance(named, SourceMapping) else read_mapping(named)
    given = {"timezone": timezone, "hash_ids": hash_ids}
    return found.model_copy(update={name: value for name, value in given.items() if value is not None})


def _read_text(column: str) -> duckdb.Expression:
    """Read a column as text; whole numbers of a column with gaps, which pandas makes fractions, as whole numbers."""
    text = SQLExpression(quote(column)).cast("VARCHAR")
    return FunctionExpression("regexp_replace", text, ConstantExpression(r"^(-?\d+)\.0$"), ConstantExpression(r"\1"))


def check_log(log: object) -> None:
    """Refuse what is no event log, such as the DataFrame that one is read from.

    Raises:
        ParamError: It is of another type.
    """
    check_made("log", log, EventLog, maker="read_events")


def _date(text: dt.date | str | None, name: str) -> dt.date | None:
    return None if text is None or text == "" else read_day(text, name=name)


@dataclasses.dataclass(frozen=True)
class _Entries:
    """What is asked of a log's entries, known by what decides the answer."""

    log: EventLog = dataclasses.field(compare=False)
    unit: Unit
    entry: str | None
    calendar: Calendar | None
    key: tuple[object, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.log.key)


@functools.lru_cache(maxsize=4)
def _find_entries(asked: _Entries) -> pd.DataFrame:
    """Find the first event of each unit, or of each unit and period, in order of unit and time."""
    log, unit, name, calendar = asked.log, asked.unit, asked.entry, asked.calendar
    low, high = log.span
    units, times, events = _read_moments(log, unit, name)
    if calendar is None:
        first = find_first_rows(units, times, low, high)
        period = pd.Timestamp(log.period[0]).as_unit("us")
        return pd.DataFrame(
            {"unit": units[first].astype(np.int64), "time": times[first], "event": events[first]}
        ).assign(period=period)
    days = calendar.list_days(*log.period)
    used = np.flatnonzero((units >= 0) & (times >= low) & (times < high))
    number = np.searchsorted(calendar.find_starts(days), times[used], side="right") - 1
    # The first of equal keys is the first in time: the rows of a unit are in order.
    first = used[np.unique(units[used].astype(np.int64) * len(days) + number, return_index=True)[1]]
    number = np.searchsorted(calendar.find_starts(days), times[first], side="right") - 1
    return pd.DataFrame(
        {"unit": units[first].astype(np.int64), "time": times[first], "event": events[first], "period": days[number]}
    )


def _read_moments(log: EventLog, unit: Unit, name: str | None) -> tuple[NDArray[Any], ...]:
    """Read the unit (-1 for none), time and event of the rows with which units can enter, in order of user and time."""
    if log.is_filtered or not (name is None or (log.plan and name in log.plan)):
        rows = log.stream(name) if name else log.rows()
        known = rows.project(f"CAST(coalesce({unit}, -1) AS BIGINT) AS unit, epoch_us(timestamp) AS time, event")
        read = known.order("event").fetchnumpy()
        return tuple(np.asarray(read[each]) for each in ("unit", "time", "event"))
    if not name:
        path = log.prepared.find("events.parquet", log.plan)
        return tuple(read_numbers(path, column) for column in (unit, "time", "event"))
    path, places = log._find_conversion(name)
    return tuple(read_numbers(path, column)[places] for column in (unit, "time", "event"))


@functools.lru_cache(maxsize=4)
def _read_tested(asked: _Entries, columns: tuple[str, ...]) -> pa.Table:
    """Read, of each unit's first event, the columns that a segment's rule tests, as they are."""
    firsts = _find_entries(asked).sort_values("event")
    units, events = (firsts[name].to_numpy() for name in ("unit", "event"))
    path = asked.log.prepared.find("events.parquet", asked.log.plan)
    # Dictionaries, so that a text is not made of every row.
    file, low, tables = pq.ParquetFile(path, read_dictionary=list(columns)), 0, []
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, list(columns))
        mine = slice(*np.searchsorted(events, [low, low + len(rows)]))  # an event's number is its row
        tables.append(rows.take(events[mine] - low).append_column(UNIT, pa.array(units[mine])))
        low += len(rows)
    return pa.concat_tables(tables)


def _texts(columns: Sequence[str]) -> list[str]:
    return [f"coalesce(CAST({quote(c)} AS VARCHAR), '{NO_VALUE}') AS {quote(c)}" for c in columns]


def list_columns(columns: str | Sequence[str]) -> list[str]:
    """Give one column or several as a list, each once; what is neither is left to whoever reads the names."""
    several = isinstance(columns, Iterable) and not isinstance(columns, str)
    return list(dict.fromkeys(columns)) if several else [columns]  # type: ignore[list-item]
