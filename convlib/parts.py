"""What the analyses read of a log: events in order with codes, the plan's conversions, and other activity."""

from collections.abc import Sequence
from pathlib import Path

import duckdb
from duckdb import CaseExpression, ColumnExpression, ConstantExpression, Expression, FunctionExpression, SQLExpression
from duckdb import StarExpression as Star

from convlib.durations import parse_duration
from convlib.engine import compile_rule, connect, quote, scan, text
from convlib.plan import Plan
from convlib.plan_entries import Conversion, Macro, ValueColumn

#: Columns that are derived where the source has none.
DERIVED = ("session_id", "land")
#: Columns on the way, under names that no log has.
NAMES, BEGINS, AGAIN = "convlib names", "convlib begins", "convlib again"


def write_parts(
    rows: duckdb.DuckDBPyRelation, folder: Path, *, plan: Plan | None, given: Sequence[str], session_gap: str
) -> None:
    """Write `events.parquet`, `conversions.parquet`, `activity.parquet` and `double_fired.parquet`.

    Args:
        rows: The used rows.
        folder: Where to write.
        plan: The measurement plan.
        given: The columns that the source itself has; `session_id` and `land` are derived when they are not among them.
        session_gap: Inactivity that ends a derived session.
    """
    events = folder / "events.parquet"
    _derive(rows, given, session_gap).create_view("used", replace=True)
    connect().sql(_sort(rows.columns)).write_parquet(str(events), compression="zstd")
    mapped = _map(events, plan)
    _write_conversions(mapped, plan, folder)
    _write_activity(events, mapped, folder)


def _derive(rows: duckdb.DuckDBPyRelation, given: Sequence[str], session_gap: str) -> duckdb.DuckDBPyRelation:
    """Give sessions by inactivity and the landing page of each, where the source has no such column.

    A session ends when the user does nothing for longer than `session_gap`, as in Google Analytics; it lands on its
    first page.
    """
    missing = [name for name in DERIVED if name not in given]
    order = ", ".join(["timestamp", *(quote(c) for c in rows.columns if c not in ("user_id", "timestamp", *DERIVED))])
    if "session_id" in missing:
        gap = f"epoch_us(timestamp) - epoch_us(lag(timestamp) OVER visits) > {parse_duration(session_gap)}"
        ordered = f"WINDOW visits AS (PARTITION BY user_id ORDER BY {order} ROWS UNBOUNDED PRECEDING)"
        begun = rows.query("loose", f"SELECT *, coalesce({gap}, TRUE) AS {quote(BEGINS)} FROM loose {ordered}")
        visit = f"user_id || ':' || sum({quote(BEGINS)}::INTEGER) OVER visits"
        rows = begun.query(
            "begun", f"SELECT * EXCLUDE ({quote(BEGINS)}) REPLACE ({visit} AS session_id) FROM begun {ordered}"
        )
    if "land" in missing and "page_path" in given:
        first = (
            "CASE WHEN session_id IS NOT NULL THEN first_value(page_path IGNORE NULLS) OVER (PARTITION BY user_id, "
            f"session_id ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) END"
        )
        rows = rows.query("visited", f"SELECT * REPLACE ({first} AS land) FROM visited")
    return rows


def _sort(columns: Sequence[str]) -> str:
    """Sort by user, time and content, so that the order of the source's rows never changes a result."""
    rest = [quote(name) for name in columns if name not in ("user_id", "timestamp", "event_name")]
    return f"""
        WITH users AS (SELECT user_id, CAST(row_number() OVER (ORDER BY user_id) - 1 AS INTEGER) AS user
                       FROM (SELECT DISTINCT user_id FROM used)),
             visits AS (SELECT user_id, session_id,
                               CAST(row_number() OVER (ORDER BY user_id, session_id) - 1 AS INTEGER) AS session
                        FROM (SELECT DISTINCT user_id, session_id FROM used WHERE session_id IS NOT NULL)),
             sorted AS (SELECT users.user, visits.session, used.*
                        FROM used JOIN users USING (user_id) LEFT JOIN visits USING (user_id, session_id)
                        ORDER BY users.user, timestamp, event_name, {", ".join(rest)})
        SELECT row_number() OVER () - 1 AS event, * FROM sorted"""


def _map(events: Path, plan: Plan | None) -> duckdb.DuckDBPyRelation:
    """Give one row for each event and conversion of the plan that it is."""
    conversions = plan.conversions if plan else ()
    hits = [CaseExpression(compile_rule(c.match), ConstantExpression(c.id)) for c in conversions]
    names = FunctionExpression("list_value", *hits) if hits else ConstantExpression([])
    listed = scan(events).select(Star(), names.alias(NAMES))
    one = f"CAST(unnest(list_filter({quote(NAMES)}, name -> name IS NOT NULL)) AS VARCHAR) AS conversion"
    named = listed.query("listed", f"SELECT * EXCLUDE ({quote(NAMES)}), {one} FROM listed")
    value = _value_of([c for c in conversions if isinstance(c, Macro)])
    return named.select(Star(exclude=["value"]), value.alias("value"))


def _write_conversions(mapped: duckdb.DuckDBPyRelation, plan: Plan | None, folder: Path) -> None:
    """Write the conversions, a double-fired one once, and how many rows were not counted again."""
    again = _write_again(plan.conversions if plan else ())
    marked = mapped.query("mapped", f"SELECT *, {again} AS {quote(AGAIN)} FROM mapped")
    once = marked.filter(f"NOT {quote(AGAIN)}").project(f"* EXCLUDE ({quote(AGAIN)})").order("event, conversion")
    once.write_parquet(str(folder / "conversions.parquet"), compression="zstd")
    repeated = marked.filter(quote(AGAIN)).aggregate("conversion, count(*) AS rows").order("conversion")
    repeated.write_parquet(str(folder / "double_fired.parquet"))


def _write_again(conversions: Sequence[Conversion]) -> str:
    """Write when a row only repeats the conversion before it: the same user and columns, within the stated time."""
    cases = []
    for each in conversions:
        if each.dedupe:
            same = ", ".join(["user", "conversion", *map(quote, each.dedupe.same)])
            before = f"lag(timestamp) OVER (PARTITION BY {same} ORDER BY timestamp, event)"
            near = f"epoch_us(timestamp) - epoch_us({before}) <= {parse_duration(each.dedupe.within)}"
            cases.append(f"WHEN conversion = {text(each.id)} THEN coalesce({near}, FALSE)")
    return f"CASE {' '.join(cases)} ELSE FALSE END" if cases else "FALSE"


def _value_of(conversions: Sequence[Macro]) -> Expression:
    """Give each macro the value that its plan entry names; everything else keeps the event's own."""
    value: Expression = ColumnExpression("value")
    for conversion in conversions:
        if conversion.value is not None:
            is_it = ColumnExpression("conversion") == ConstantExpression(conversion.id)
            value = CaseExpression(is_it, named_value(conversion.value)).otherwise(value)
    return value


def named_value(value: float | ValueColumn) -> Expression:
    """Give what a plan entry says that each of its conversions is worth."""
    if isinstance(value, ValueColumn):
        return FunctionExpression("to_number", SQLExpression(quote(value.column)))
    return ConstantExpression(float(value)).cast("DOUBLE")


def _write_activity(events: Path, mapped: duckdb.DuckDBPyRelation, folder: Path) -> None:
    """Write the events that are no conversion and fire with none: what active users do more of."""
    mapped.create_view("every_mapped", replace=True)
    query = "SELECT * FROM events ANTI JOIN every_mapped USING (user, timestamp) ORDER BY event"
    scan(events).query("events", query).write_parquet(str(folder / "activity.parquet"), compression="zstd")
