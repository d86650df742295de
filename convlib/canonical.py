"""The canonical columns: what a source must have, the type of each, and what makes a row unusable."""

import datetime as dt
from collections.abc import Collection, Sequence
from functools import partial

import duckdb

from convlib.documents import did_you_mean, word_columns
from convlib.engine import quote, text
from convlib.errors import EventDataError
from convlib.mapping import find_preset
from convlib.plan import Plan
from convlib.sources import FILE, ROW

REQUIRED = ("event_name", "timestamp", "user_id")
CANONICAL = {
    "event_name": "VARCHAR",
    "timestamp": "TIMESTAMP",
    "user_id": "VARCHAR",
    "session_id": "VARCHAR",
    "land": "VARCHAR",
    "page_path": "VARCHAR",
    "referrer": "VARCHAR",
    "source": "VARCHAR",
    "medium": "VARCHAR",
    "campaign": "VARCHAR",
    "device_type": "VARCHAR",
    "geo": "VARCHAR",
    "product_id": "VARCHAR",
    "value": "DOUBLE",
    "currency": "VARCHAR",
}
#: How a null stands in segment names and breakdowns.
NO_VALUE = "(none)"
#: Columns that preparing adds: the row's place in the prepared order, and dense codes of its user and session.
ADDED = ("event", "user", "session", "conversion")
#: A time outside these stands for "unknown" in most systems (1970 is the zero of Unix time), and overflows in some.
EARLIEST, LATEST = dt.datetime(1990, 1, 1), dt.datetime(2200, 1, 1)
#: Ids that programs write for nobody; one user of all of them would have done everything. PostHog refuses the same.
NOBODY = ("null", "NULL", "None", "undefined", "nan", "NaN", "(not set)", "[object Object]", "anonymous", "guest")
#: Columns that typing adds: why a row can't be used, the rule that leaves it out, and an unusable row as it came.
GARBLED, UNDATED = "the row is empty or garbled", "timestamp is not a date and time"
REASON, LEFT_OUT, RAW = "convlib reason", "convlib left out", "convlib raw"


def check_columns(rows: duckdb.DuckDBPyRelation, label: str, plan: Plan | None) -> None:
    """Refuse a source without the required columns, with reserved names, or without what the plan reads.

    Raises:
        EventDataError: Every such problem.
    """
    types = list_types(rows)
    shown = [name for name in rows.columns if name not in (FILE, ROW)]
    missing = [name for name in REQUIRED if name not in types]
    problems = [_word_missing(missing, shown, label)] if missing else []
    kind = types.get("timestamp", "VARCHAR")
    if kind not in ("VARCHAR", "DATE", '"NULL"') and not kind.startswith("TIMESTAMP"):
        problems.append(
            f"`{label}`: `timestamp` holds {kind}; give dates with times (2026-11-21 09:30:00), not bare numbers, or "
            "map it with `format: epoch_s` (or epoch_ms, epoch_us)."
        )
    problems += [
        f"`{label}`: the column name `{name}` is taken by convlib; rename it."
        for name in shown
        if name.lower() in ADDED
    ]
    problems += list_unknown_columns(shown, label, plan)
    if problems:
        raise EventDataError(*problems)


def _word_missing(missing: Sequence[str], columns: Sequence[str], label: str) -> str:
    """Say which required columns a log lacks, what might hold them, and what to do."""
    names = ", ".join(f"`{name}`" for name in missing)
    hints = "".join(did_you_mean(name, columns) for name in missing[:-1])
    preset = find_preset([*columns])
    it = "them" if len(missing) > 1 else "it"
    fits = f"It looks like an export for the mapping `{preset}`."
    advice = fits if preset else f"Rename what holds {it}, or map {it}."
    return (
        f"`{label}` has no column {names}, which every log needs.{hints}{word_columns(missing[-1], columns)} {advice}"
    )


def list_unknown_columns(columns: Sequence[str], label: str, plan: Plan | None) -> list[str]:
    """Say which columns a plan reads that a log does not have, each with the plan's line."""
    if plan is None:
        return []
    known = {*map(str.lower, columns), *CANONICAL}
    return [
        f"{plan.locate(entry.id)}: `{entry.id}` reads the column `{column}`, which `{label}` "
        f"does not have.{word_columns(column, columns)}"
        for entry in (*plan.conversions, *plan.leave_out)
        for column in sorted(entry.columns)
        if column.lower() not in known
    ] + plan.find_unknown_goals(list(dict.fromkeys([*rename_columns(columns), *CANONICAL])))


def rename_columns(columns: Sequence[str]) -> list[str]:
    """Give the columns that convlib knows their own spelling; custom columns keep theirs."""
    known = {*CANONICAL, "anonymous_id"}
    return [name.lower() if name.lower() in known else name for name in columns]


def list_types(rows: duckdb.DuckDBPyRelation) -> dict[str, str]:
    """Give each column's engine type, by its name in lower case."""
    return dict(zip(map(str.lower, rows.columns), map(str, rows.types), strict=True))


def type_rows(
    rows: duckdb.DuckDBPyRelation, *, zone: str, trim: bool, never_blank: Collection[str] = ()
) -> duckdb.DuckDBPyRelation:
    """Give every row with each canonical column in its type, the custom ones as they are, and whether it can be used.

    Args:
        rows: The source's rows, mapped.
        zone: Zone of times that carry none.
        trim: Whether blanks around a text mean nothing, as in text files.
        never_blank: Columns of which the source itself says that no text is empty: they are taken as they are.

    Returns:
        The columns, with `REASON`, `LEFT_OUT` and `RAW`.
    """
    types = list_types(rows)
    own = [name for name in rows.columns if name not in (FILE, ROW)]
    read = partial(_read, types=types, zone=zone, trim=trim)
    canonical = [
        f"{name} AS {name}"
        if name in never_blank and types.get(name) == kind == "VARCHAR"
        else f"{read(name) if name in types else 'NULL'}::{kind} AS {name}"
        for name, kind in CANONICAL.items()
    ]
    custom = [
        f"{quote(name)} AS {quote(known)}"
        for name, known in zip(own, rename_columns(own), strict=True)
        if name.lower() not in CANONICAL
    ]
    reason = _word_reason(types, zone)
    raw = ", ".join(f"{text(name)}: CAST({quote(name)} AS VARCHAR)" for name in own)
    added = [
        f"{reason} AS {quote(REASON)}",
        f"NULL::VARCHAR AS {quote(LEFT_OUT)}",
        f"CASE WHEN ({reason}) IS NOT NULL THEN to_json({{{raw}}}) END AS {quote(RAW)}",
    ]
    places = [quote(name) for name in (FILE, ROW) if name in rows.columns]
    return rows.project(", ".join([*canonical, *custom, *added, *places]))


def _read(name: str, *, types: dict[str, str], zone: str, trim: bool) -> str:
    kind = CANONICAL.get(name, "VARCHAR")
    if kind == "TIMESTAMP":
        return f"CAST({_moment(types, zone)} AS TIMESTAMP)"
    if kind == "DOUBLE":
        return f"to_number({name})"
    plain = name if types[name] == "VARCHAR" else f"CAST({name} AS VARCHAR)"
    filled = f"NULLIF({f'TRIM({plain})' if trim else plain}, '')"
    if name in ("user_id", "anonymous_id"):
        filled = f"CASE WHEN NOT {_is_listed(filled)} THEN {filled} END"
    # Who has not signed in is known by the anonymous id alone.
    is_user = name == "user_id" and "anonymous_id" in types
    return f"coalesce({filled}, {_read('anonymous_id', types=types, zone=zone, trim=trim)})" if is_user else filled


def _moment(types: dict[str, str], zone: str) -> str:
    kind = types["timestamp"]
    if kind == "VARCHAR":
        # A text with an offset keeps it; one without is wall time in the engine's zone, which reading sets.
        # ISO 8601 may leave the seconds out before an offset; programs also write a blank there, or a decimal comma.
        tidy = r"regexp_replace(replace(timestamp, ',', '.'), '\s+([+-]\d)', '\1')"
        tidy = rf"regexp_replace({tidy}, '([T ]\d\d:\d\d)\s*(Z|[+-]\d)', '\1:00\2')"
        return f"timezone('UTC', coalesce(TRY_CAST(timestamp AS TIMESTAMPTZ), TRY_CAST({tidy} AS TIMESTAMPTZ)))"
    if kind == "TIMESTAMP WITH TIME ZONE":
        return "timezone('UTC', timestamp)"
    plain = "CAST(timestamp AS TIMESTAMP)"
    return plain if zone == "UTC" else f"timezone('UTC', timezone({text(zone)}, {plain}))"


def _word_reason(types: dict[str, str], zone: str) -> str:
    """Word why a row can't be used: the first fault found, or null."""
    empty = " AND ".join(f"{quote(name)} IS NULL" for name in types if name not in (FILE, ROW))
    cases = [f"WHEN user_id IS NULL AND {empty} THEN '{GARBLED}'"]
    nobody = " AND ".join(_is_nobody(name, types) for name in ("user_id", "anonymous_id") if name in types)
    cases.append(f"WHEN {nobody} THEN 'user_id is missing'")
    cases += [f"WHEN {_is_blank(name, types)} THEN '{name} is missing'" for name in ("event_name", "timestamp")]
    if types["timestamp"] == "VARCHAR":
        cases.append(f"WHEN {_moment(types, zone)} IS NULL THEN '{UNDATED}'")
    cases.append(
        f"WHEN {_moment(types, zone)} NOT BETWEEN '{EARLIEST}' AND '{LATEST}' THEN 'timestamp is out of range'"
    )
    if "value" in types:
        cases.append(
            "WHEN to_number(value) IS NULL AND value IS NOT NULL AND LOWER(TRIM(CAST(value AS VARCHAR))) NOT IN "
            "('', 'nan') THEN 'value is not a number'"
        )
    return f"CASE {' '.join(cases)} END"


def _is_blank(name: str, types: dict[str, str]) -> str:
    if types[name] != "VARCHAR":
        return f"{name} IS NULL"
    return f"({name} IS NULL OR ({name} < '!' AND TRIM({name}) = ''))"  # the comparison spares trimming every text


def _is_nobody(name: str, types: dict[str, str]) -> str:
    """Write when an id names no user."""
    return f"({_is_blank(name, types)} OR {_is_listed(f'CAST({name} AS VARCHAR)')})"


def find_nobody(types: dict[str, str]) -> str:
    """Write when a user's id that is not blank names nobody, so that files whose statistics exclude it are not read."""
    plain = types["user_id"] == "VARCHAR"
    return f"{'user_id' if plain else 'CAST(user_id AS VARCHAR)'} IN ({', '.join(map(text, NOBODY))})"


def _is_listed(name: str) -> str:
    """Write whether an id stands for nobody; of `IN` the engine would make a join, which every query carries."""
    return f"list_contains([{', '.join(map(text, NOBODY))}], {name})"
