"""Funnels counted where the events are: the wanted rows as one Ibis expression, streamed by unit to the kernel."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol
from urllib.parse import urlsplit

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc
from ibis.common.exceptions import TableNotFound

from convlib import engine
from convlib.attempts import Task, count_attempts
from convlib.conversions import Step
from convlib.documents import did_you_mean, quote_names
from convlib.errors import EventDataError, ParamError
from convlib.events import Unit
from convlib.mapping import Mapping
from convlib.plan import Plan
from convlib.plan_entries import Conversion, Macro, ValueColumn
from convlib.portable import as_number, as_text, at
from convlib.remote import RemoteLog, do_all, fetch, to_microseconds
from convlib.rules import All, Rule, Test, parse_rule
from convlib.step_rows import Ask

#: Rows that are counted at once, a unit never split, and rows that come in one batch.
PART, BATCH = 250_000, 50_000
#: As many steps and exclusions as there are bits in a number that every engine has.
MOST_BITS = 62
#: Between the ids of a user and of a session, which together name a session.
BETWEEN = "\t"
#: Whose first event decides, and whether all that it may be do match the segment.
MEMBER, SURE = "convlib_member", "convlib_sure"

#: The rule of a log without a segment.
EVERYONE = Test("user_id", "is_null", value=False)


class View(Protocol):
    """What a log is seen through."""

    @property
    def rule(self) -> Rule | None:
        """What a unit's entry event must match."""

    @property
    def row_rule(self) -> Rule | None:
        """What a row must match, when the segment is one of rows."""

    @property
    def filters(self) -> tuple[Rule, ...]:
        """What every row must match besides."""


@dataclasses.dataclass(frozen=True)
class Warehouse:
    """Counts funnels of a log that stays in its database.

    Args:
        log: The log.
        most: Rows that are counted at once.
    """

    log: RemoteLog
    most: int = PART

    def count(self, view: View, ask: Ask, task: Task) -> pa.Table:
        """Count a funnel's attempts.

        Args:
            view: The segment and filters that the log is seen through.
            ask: What the funnel needs of the log; `members` are found here, by the view.
            task: How to count.

        Returns:
            What `count_attempts` gives, in order of units; a session is named by its user's id, a tab and its own.

        Raises:
            ParamError: Engines would not agree on a step, a filter or a column; every problem is listed.
        """
        rows = self.want(view, ask, task)
        chosen = self._choose(view, task, _name_entry(ask)) if SURE in rows.columns else None
        part = partial(count_part, task=task, chosen=chosen, clusters=ask.clusters)
        attempts = pa.concat_tables(self._run(rows, part)).sort_by("unit")
        return attempts.append_column("cluster", _name_users(attempts["unit"])) if ask.clusters else attempts

    def want(self, view: View, ask: Ask, task: Task) -> ir.Table:
        """Write which rows a funnel wants, settled as far as an engine can: what `count_part` takes."""
        plan, filters = self.log.plan, _list_filters(view)
        known = [plan[step.name] if plan and step.name in plan else None for step in ask.steps]
        matches = [_find_match(each, step) for each, step in zip(known, ask.steps, strict=True)]
        wheres = [All((*filters, parse_rule(step.where)) if step.where else filters) for step in ask.steps]
        columns = [name for rule in (*matches, *wheres) for name in rule.columns]
        columns += [e.value.column for e in known if isinstance(e, Macro) and isinstance(e.value, ValueColumn)]
        columns += ["session_id"] if ask.unit == "session" else []
        rows = self.log.open([*ask.columns, *columns, "value"], problems=_find_unfit(known))
        rows = self._keep_members(rows, view, task, _name_entry(ask))
        worths = [_find_worth(each, rows) for each in known]

        def hit(number: int) -> ir.BooleanValue:
            match = self.log.match(matches[number], rows)
            return match & self.log.match(wheres[number], rows, value=worths[number])

        hits: list[ir.BooleanValue] = do_all([partial(hit, number) for number in range(len(known))])
        texts: list[ir.StringValue] = do_all([partial(as_text, name, rows[name.lower()]) for name in ask.columns])
        wanted = [*hits, self.log.match(All(filters), rows)] if ask.every_event else hits
        bits = [ibis.ifelse(each, ibis.literal(1 << k, "int64"), 0) for k, each in enumerate(hits)]
        unit = _name_unit(rows, ask.unit)
        return rows.filter(ibis.or_(*wanted), unit.notnull(), *_reach(rows, task)).select(
            unit.name("unit"),
            rows.timestamp.name("time"),
            functools.reduce(operator.add, bits).name("steps"),
            ibis.ifelse(hits[ask.last], worths[ask.last], ibis.null("float64")).name("value"),
            *(text.name(name) for name, text in zip(ask.columns, texts, strict=True)),
            *([rows[SURE]] if SURE in rows.columns else []),
        )

    def _run(self, rows: ir.Table, part: Callable[[pa.Table], pa.Table]) -> Iterable[pa.Table]:
        """Count parts of whole units as they come from the database, in order of units.

        The database sorts, with as little memory as it has, and keeps in a cursor what was not fetched yet. So one
        query is enough, and `most` rows, or the largest unit, bound the memory here.
        """
        reader = rows.order_by("unit").to_pyarrow_batches(chunk_size=min(self.most, BATCH))
        return map(part, cut(reader, reader.schema, self.most))

    def _keep_members(self, rows: ir.Table, view: View, task: Task, entry: Unit) -> ir.Table:
        """Keep the rows of the segment's units, and say of which of these it is not sure yet.

        Without a segment whoever has a step in the period belongs to it, as the filters are the steps' own; but for
        those of a value that the plan changes.
        """
        if view.rule is None and not any("value" in rule.columns for rule in view.filters):
            return rows
        decided = self._decide(self._enter(view, task, entry), view)
        members = decided.filter(decided.some).drop("some")
        return rows.mutate(_name_unit(rows, entry).name(MEMBER)).inner_join(members, MEMBER)

    def _choose(self, view: View, task: Task, entry: Unit) -> pa.Array:
        """Settle the units of whose first events, at one instant, some match the segment and some don't.

        The first is the first by all columns, in the order of this machine's engine: databases order texts and nulls
        each in their own way.
        """
        decided = self._decide(self._enter(view, task, entry), view)
        tied = decided.filter(decided.some & ~decided[SURE]).select(MEMBER)
        if not fetch(tied.limit(1)).num_rows:
            return pa.array([], pa.string())
        names = [name for name in self.log.readable if name.lower() not in ("user_id", "timestamp", "event_name")]
        rows = self._enter(view, task, entry, names).inner_join(tied, MEMBER)
        order = ", ".join(map(engine.quote, ("event_name", *names)))
        place = f"*, row_number() OVER (PARTITION BY {MEMBER} ORDER BY {order}) AS convlib_place"
        firsts = engine.connect().from_arrow(fetch(rows)).project(place).filter("convlib_place = 1")
        return firsts.filter(engine.compile_rule(view.rule or EVERYONE)).project(MEMBER).to_arrow_table()[MEMBER]

    def _enter(self, view: View, task: Task, entry: Unit, names: Sequence[str] = ()) -> ir.Table:
        """Open each unit's rows at the instant of its first in the period, with the named columns."""
        filters = _list_filters(view)
        read = [name for rule in (*filters, view.rule or EVERYONE) for name in rule.columns]
        rows = self.log.open([*names, *read, "event_name", *(["session_id"] if entry == "session" else [])])
        low, high = (at(rows.timestamp, moment) for moment in task.period)
        inside = rows.filter(rows.timestamp >= low, rows.timestamp < high, self.log.match(All(filters), rows))
        named = inside.mutate(_name_unit(inside, entry).name(MEMBER))
        first = named.group_by(MEMBER).agg(timestamp=named.timestamp.min())
        return named.inner_join(
            first, [MEMBER, "timestamp"]
        )  # of semi joins Ibis writes some that PostgreSQL can't read

    def _decide(self, rows: ir.Table, view: View) -> ir.Table:
        """Say of each unit whether some and whether all of its first events match the segment."""
        hit = self.log.match(view.rule or EVERYONE, rows).fill_null(False)
        return rows.group_by(MEMBER).agg(some=hit.any(), **{SURE: hit.all()})


def open_warehouse(
    events: str | ir.Table, *, plan: Plan | None = None, mapping: Mapping | None = None, most: int = PART
) -> Warehouse:
    """Open a log that stays in its database.

    Args:
        events: An Ibis table, or an address that Ibis connects to and the table in it, such as
            `postgres://analyst@db.example.com/shop#events`; without one the table is `events`.
        plan: The measurement plan.
        mapping: How the table's columns become the canonical ones.
        most: Rows that are counted at once.

    Raises:
        ParamError: The address holds a password, or the engine can't read the log as the mapping says.
        EventDataError: There is no such table, or it lacks columns.
    """
    table = _connect(events) if isinstance(events, str) else events
    label = events if isinstance(events, str) else "events"
    connection = table.get_backend()
    if connection.name == "postgres":
        # It takes most filters to keep hardly a row, and a cursor to be left early: one joins by loops then, for hours.
        connection.raw_sql("SET enable_nestloop = off; SET cursor_tuple_fraction = 1").close()
    return Warehouse(RemoteLog(table, plan=plan, mapping=mapping or Mapping(), label=label), most=most)


def write_sql(rows: ir.Table, dialect: str) -> str:
    """Write a query as an engine is asked it; a table by its columns alone (`ibis.table`) needs no connection."""
    return str(ibis.to_sql(rows.order_by("unit"), dialect=dialect))


def count_part(rows: pa.Table, *, task: Task, chosen: pa.Array | None, clusters: bool) -> pa.Table:
    """Count some whole units' attempts from the rows that `Warehouse.want` names.

    Args:
        rows: The rows.
        task: How to count.
        chosen: The members of the segment besides those that are sure to be; None without a segment.
        clusters: Whether the units are sessions and the members their users.
    """
    rows = rows.set_column(1, "time", to_microseconds(rows["time"]))
    if chosen is not None:
        members = _name_users(rows["unit"]) if clusters else rows["unit"]
        rows = rows.filter(pc.or_(rows[SURE], pc.is_in(members, chosen))).drop_columns(SURE)
    return count_attempts(rows, task)


def cut(batches: Iterable[pa.RecordBatch], schema: pa.Schema, most: int) -> Iterator[pa.Table]:
    """Join batches that come in order of `unit` to tables of whole units with some `most` rows; at least one table."""
    held = schema.empty_table()
    for batch in batches:
        held = pa.concat_tables([held, pa.Table.from_batches([batch]).cast(schema)])  # engines choose smaller types
        if held.num_rows >= most:
            end = pc.index(held["unit"], held["unit"][-1]).as_py()
            if end:
                yield held.slice(0, end)
                held = held.slice(end)
    yield held


def _connect(address: str) -> ir.Table:
    place, _, name = address.partition("#")
    if urlsplit(place).password:
        shown = place.replace(f":{urlsplit(place).password}@", "@")
        msg = f"`events` holds a password. Write {shown!r}, and give it in the environment (PGPASSWORD for PostgreSQL)."
        raise ParamError(msg)
    connection = ibis.connect(place)
    schema, _, table = (name or "events").rpartition(".")
    try:
        return connection.table(table, database=schema or None)
    except TableNotFound:
        known = connection.list_tables(database=schema or None)
        connection.disconnect()
        has = f"its tables are {quote_names(known)}" if known else "there is none"
        raise EventDataError(f"`{place}` has no table {name!r}; {has}.{did_you_mean(table, known)}") from None


def _list_filters(view: View) -> tuple[Rule, ...]:
    return (*view.filters, *([view.row_rule] if view.row_rule else []))


def _find_worth(entry: Conversion | None, rows: ir.Table) -> ir.Value:
    """Give what a row is worth as a conversion: what the plan says for a macro, or else the event's own value."""
    value = entry.value if isinstance(entry, Macro) else None
    if isinstance(value, ValueColumn):
        return as_number(value.column, rows[value.column.lower()])
    return rows["value"] if value is None else ibis.literal(float(value))


def _find_match(entry: Conversion | None, step: Step) -> Rule:
    return entry.match if entry else Test("event_name", "in", (step.name,))


def _find_unfit(known: Sequence[Conversion | None]) -> list[str]:
    instead = 'or read with `engine="duckdb"`.'
    problems = [
        f"`{each.id}` has `dedupe`, which needs each user's rows in order. Keep rows that fire twice out of the table, "
        f"{instead}"
        for each in known
        if each and each.dedupe
    ]
    many = f"{len(known)} steps and exclusions are more than the {MOST_BITS} that an engine can mark. Leave some out, "
    return [*problems, *([many + instead] if len(known) > MOST_BITS else [])]


def _name_entry(ask: Ask) -> Unit:
    """Say of what the first event decides whether it belongs to a segment."""
    return "user" if ask.clusters else ask.unit


def _name_unit(rows: ir.Table, unit: Unit) -> ir.StringValue:
    """Name each row's unit; null without one."""
    return rows.user_id if unit == "user" else rows.user_id + BETWEEN + rows.session_id


def _name_users(sessions: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.list_element(pc.split_pattern(sessions, BETWEEN), 0)


def _reach(rows: ir.Table, task: Task) -> list[ir.BooleanValue]:
    """Say which rows an attempt that opens in the period can reach; a unit's very first one may lie before."""
    rules, (start, end) = task.rules, task.period
    low, high = (at(rows.timestamp, moment) for moment in (start - rules.tolerance, end + rules.window))
    return [rows.timestamp <= high, *([] if rules.first_time else [rows.timestamp >= low])]
