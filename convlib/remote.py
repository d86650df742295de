"""A log that stays in its database: which of its rows can be used, as one Ibis expression, and how many."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import ibis
import ibis.expr.types as ir
import pandas as pd
import pyarrow as pa
from ibis.common.exceptions import IbisError

from convlib import engine
from convlib.canonical import CANONICAL, EARLIEST, GARBLED, LATEST, NOBODY, REQUIRED, check_columns, rename_columns
from convlib.conversions import microseconds
from convlib.documents import word_columns
from convlib.errors import EventDataError, ParamError
from convlib.mapping import Mapping as SourceMapping
from convlib.mapping import apply_mapping
from convlib.parts import DERIVED
from convlib.plan import Plan
from convlib.plan_entries import LeaveOut
from convlib.portable import ADVICE, as_number, as_text, as_time, at, compile_rule, is_finite, read_column
from convlib.rules import Rule

T = TypeVar("T")
REASON, LEFT_OUT = "convlib_reason", "convlib_left_out"
#: Databases that take `A` and `a` for the same text unless a column says otherwise.
CASELESS = ("mssql", "mysql", "singlestoredb")


@dataclasses.dataclass(frozen=True)
class RemoteLog:
    """Events in a table of any Ibis connection, with what makes them a log.

    Args:
        table: The events.
        plan: The measurement plan.
        mapping: How the table's columns become the canonical ones.
        label: The table's name, for messages.
    """

    table: ir.Table
    plan: Plan | None = None
    mapping: SourceMapping = dataclasses.field(default_factory=SourceMapping)
    label: str = "events"

    def __post_init__(self) -> None:
        """Refuse what can't be read, or would not count the same everywhere, with every problem found."""
        check_columns(self._shape, self.label, self.plan)
        cases = (
            (self._backend in CASELESS, f"{self._backend} takes 'A' and 'a' for the same text."),
            (self.mapping.hash_ids, "`hash_ids` needs a key that no engine has; hash the ids in the table."),
            (self.mapping.identity is not None, "`identity` is a table of this machine; join it in the engine."),
            ("anonymous_id" in self._raw, "`anonymous_id` joins ids over the whole log; join them in the table."),
        )
        problems = [f"`{self.label}`: {what} {ADVICE}" for is_so, what in cases if is_so]
        self._read((*REQUIRED, "value"), problems)

    @cached_property
    def given(self) -> tuple[str, ...]:
        """Name the columns that the table has."""
        return tuple(rename_columns(self._shape.columns))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Name the canonical columns, then the log's own."""
        return (*CANONICAL, *(name for name in self.given if name.lower() not in CANONICAL))

    def read(self) -> pa.Table:
        """Fetch the whole table as it is."""
        return fetch(self.table)

    @property
    def readable(self) -> tuple[str, ...]:
        """Name the columns that the table has and that every engine reads in the same way."""
        return tuple(name for name in self.columns if isinstance(self._raw.get(name.lower()), ir.Value))

    @cached_property
    def event_names(self) -> frozenset[str]:
        """Name the used events."""
        return frozenset(fetch(self.open(["event_name"]).select("event_name").distinct())[0].to_pylist())

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Count the rows by what becomes of them, in one query.

        Returns:
            `first` and `last` time, `rows_read`, `rows_used`, `rows_rejected`, `rows_left_out`, `rejected_because` and
            `left_out_because`, as `Prepared` has them.

        Raises:
            EventDataError: No row can be used.
        """
        rows = self._source.select(**self._read(()), **{REASON: self._reason})
        rows = self._note(rows, rows.filter(rows[REASON].isnull())).group_by(REASON, LEFT_OUT)
        found = fetch(rows.agg(rows=ibis._.count(), first=ibis._.timestamp.min(), last=ibis._.timestamp.max()))
        ends = {name: to_microseconds(found[name]).to_numpy() for name in ("first", "last")}
        counts = found.select([REASON, LEFT_OUT, "rows"]).to_pandas().assign(**ends).sort_values("rows")[::-1]
        rejected = counts[counts[REASON].notna()].groupby(REASON, sort=False)["rows"].sum().to_dict()
        usable = counts[counts[REASON].isna()]
        left_out = usable[usable[LEFT_OUT].notna()].set_index(LEFT_OUT)["rows"].to_dict()
        used = usable[usable[LEFT_OUT].isna()]
        if used.empty:
            faults = "; ".join(f"{why}: {rows:,} rows" for why, rows in {**rejected, **left_out}.items())
            raise EventDataError(f"`{self.label}` has no usable row ({faults or 'it is empty'}). Check the table.")
        return {
            **{name: pd.Timestamp(int(used[name].iloc[0]), unit="us") for name in ends},
            "rows_read": int(counts["rows"].sum()),
            "rows_used": int(used["rows"].iloc[0]),
            "rows_rejected": sum(rejected.values()),
            "rows_left_out": sum(left_out.values()),
            "rejected_because": rejected,
            "left_out_because": left_out,
        }

    def open(self, names: Iterable[str] = (), *, problems: Sequence[str] = ()) -> ir.Table:
        """Open the used rows: `user_id`, `timestamp` and the named columns, typed, by their names in lower case.

        Args:
            names: What is to be read.
            problems: What is wrong already.

        Raises:
            ParamError: With these problems, and those of columns that engines would read in different ways.
        """
        read = self._read(names, problems)
        rows = self._source.filter(*(~fault for fault, _ in self._faults)).select(**read)
        if not self._leave_out:
            return rows
        noted = self._note(rows, rows)
        return noted.filter(noted[LEFT_OUT].isnull()).select(*read)

    def match(self, rule: Rule, rows: ir.Table, **instead: ir.Value) -> ir.BooleanValue:
        """Write which of the rows a rule means, some columns perhaps with other values; null counts as not meant."""
        return compile_rule(rule, {name: rows[name] for name in rows.columns} | instead, backend=self._backend)

    @property
    def _backend(self) -> str:
        try:
            return str(self.table.get_backend().name)
        except IbisError:  # a table by its columns alone, to write queries for
            return ""

    @property
    def _leave_out(self) -> tuple[LeaveOut, ...]:
        return self.plan.leave_out if self.plan else ()

    @cached_property
    def _shape(self) -> Any:
        """An empty log of the same columns for this machine's engine, which knows what is wrong with them."""
        empty = self.table.schema().to_pyarrow().empty_table()
        return apply_mapping(engine.connect().from_arrow(empty), self.mapping, label=self.label)

    @cached_property
    def _source(self) -> ir.Table:
        each = self.mapping.each
        if each is None:
            return self.table
        if each not in self.table.columns or not self.table[each].type().is_array():
            raise ParamError(f"`{self.label}`: `each` is {each!r}, which is no column with a list. {ADVICE}")
        return self.table.unnest(each, keep_empty=True)

    @cached_property
    def _raw(self) -> dict[str, Any]:
        """Each column that there is as the mapping reads it, or the error that says why it can't."""
        found: dict[str, Any] = {}
        for name in self._shape.columns:
            try:
                source = self.mapping.columns.get(name)
                value = read_column(self._source, name, source) if source else self._source[name]
            except ParamError as error:
                value = error
            found[name.lower()] = value
        return found

    def _read(self, names: Iterable[str], problems: Sequence[str] = ()) -> dict[str, ir.Value]:
        """Type `user_id`, `timestamp`, what leaves rows out, and the named columns."""
        left_out = (name for rule in self._leave_out for name in rule.columns)
        wanted = list(dict.fromkeys(name.lower() for name in ("user_id", "timestamp", *left_out, *names)))
        return dict(zip(wanted, do_all([partial(self._type, name) for name in wanted], problems), strict=True))

    def _type(self, name: str) -> ir.Value:
        raw, kind = self._raw.get(name), CANONICAL.get(name)
        if isinstance(raw, ParamError):
            raise raw
        if raw is None and name in DERIVED:
            do = f'Map `{name}` to a column that holds it, or read with `engine="duckdb"`, which derives it.'
            raise ParamError(f"`{self.label}` has no column `{name}`. {do}")
        if raw is None and kind is None:
            raise ParamError(f"`{self.label}` has no column `{name}`.{word_columns(name, self.columns)}")
        if raw is None:
            return ibis.null("float64" if kind == "DOUBLE" else "string")
        if kind == "TIMESTAMP":
            return as_time(name, raw, self.mapping.timezone)
        if kind == "DOUBLE":
            return as_number(name, raw)
        return as_text(name, raw).nullif("") if kind else raw

    @cached_property
    def _faults(self) -> list[tuple[ir.BooleanValue, str]]:
        """Say what makes a row unusable, as `canonical` does; the first fault counts."""
        time, users = self._type("timestamp"), self._raw["user_id"]
        nobody = _is_blank(users) | as_text("user_id", users).isin(NOBODY)
        early, late = (at(time, microseconds(pd.Timestamp(moment))) for moment in (EARLIEST, LATEST))
        faults = [
            (nobody, "user_id is missing"),
            (_is_blank(self._raw["event_name"]), "event_name is missing"),
            (self._raw["timestamp"].isnull(), "timestamp is missing"),
            (~time.between(early, late), "timestamp is out of range"),
        ]
        value = self._raw.get("value")
        if value is not None and value.type().is_string():
            no_number = self._type("value").isnull() & value.notnull() & ~value.strip().lower().isin(("", "nan"))
            faults.append((no_number, "value is not a number"))
        if value is not None and value.type().is_floating():
            infinite = value.notnull() & ~value.isnan() & ~is_finite(value)
            faults.append((infinite, "value is not a number"))
        return faults

    @property
    def _reason(self) -> ir.StringValue:
        empty = ibis.and_(*(value.isnull() for value in self._raw.values() if isinstance(value, ir.Value)))
        return ibis.cases((empty, GARBLED), *self._faults)

    def _note(self, rows: ir.Table, usable: ir.Table) -> ir.Table:
        """Note the first rule of the plan that leaves a row out; a rule on users leaves out all their rows."""
        names = [f"convlib_user_{number}" for number in range(len(self._leave_out))]
        for name, rule in zip(names, self._leave_out, strict=True):
            if rule.scope == "user":
                users = usable.filter(self.match(rule.match, usable)).select(usable.user_id.name(name)).distinct()
                rows = rows.left_join(users, [("user_id", name)])
        hits = [
            (rows[name].notnull() if rule.scope == "user" else self.match(rule.match, rows), rule.id)
            for name, rule in zip(names, self._leave_out, strict=True)
        ]
        return rows.mutate(**{LEFT_OUT: ibis.cases(*hits) if hits else ibis.null("string")})


def fetch(rows: ir.Table) -> pa.Table:
    """Fetch a small result; Ibis' own way of doing so from Spark takes a detour that needs an older pandas."""
    connection = rows.get_backend()
    if connection.name == "pyspark":
        return connection.raw_sql(connection.compile(rows)).toArrow()
    return rows.to_pyarrow()


def do_all(calls: Iterable[Callable[[], T]], problems: Sequence[str] = ()) -> list[T]:
    """Do several things, and raise what is wrong with any of them at once, after the problems known before."""
    done, found = [], list(problems)
    for call in calls:
        try:
            done.append(call())
        except ParamError as error:
            found += error.problems
    if found:
        raise ParamError(*dict.fromkeys(found))
    return done


def to_microseconds(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give times, or whole microseconds as they are, as microseconds since 1970."""
    if not pa.types.is_timestamp(times.type):
        return times
    return times.cast(pa.timestamp("us", tz=times.type.tz), safe=False).cast(pa.int64())


def _is_blank(value: ir.Value) -> ir.BooleanValue:
    """Say which values are missing, or text of nothing but blanks."""
    return value.isnull() | (value.replace(" ", "") == "") if value.type().is_string() else value.isnull()
