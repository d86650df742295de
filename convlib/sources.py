"""Reads any log that DuckDB reads, checks each row once, and keeps the prepared form in a cache folder."""

import csv
import dataclasses
import glob
import gzip
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from duckdb import (
    CaseExpression,
    ColumnExpression,
    ConstantExpression,
    Expression,
    FunctionExpression,
    SQLExpression,
    StarExpression,
)

from convlib.cache import cache_folder
from convlib.datasets.files import dataset_path
from convlib.engine import compile_rule, connect, quote
from convlib.errors import EventDataError
from convlib.plan import Plan
from convlib.plan_entries import Macro, ValueColumn

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
#: Columns that preparing adds: the row's place in the prepared order, and dense codes of its user and session.
ADDED = ("event", "user", "session", "conversion")
READERS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".jsonl.gz": "json",
}
#: A time outside these stands for "unknown" in most systems, and overflows in some.
EARLIEST, LATEST = "1900-01-01", "2200-01-01"
#: Raise when the prepared form changes, so that older caches are left aside.
FORMAT = 4


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A log after its one reading: where its files are and what was counted on the way.

    Attributes:
        folder: Holds `events`, `conversions`, `activity` and `rejects` as Parquet.
        source: The source as it was named.
        fingerprint: SHA-256 of the source's content.
        columns: The canonical columns, then the log's own.
        given: The columns that the source itself has.
        rows_read: Rows of the source: those used and those rejected.
        rows_used: Rows that every analysis sees.
        rows_rejected: Rows that could not be used.
        rejected_because: How many of them for each reason, the most frequent first.
        first: Time of the first event, UTC.
        last: Time of the last event, UTC: the end of the data.
    """

    folder: Path
    source: str
    fingerprint: str
    columns: tuple[str, ...]
    given: tuple[str, ...]
    rows_read: int
    rows_used: int
    rows_rejected: int
    rejected_because: dict[str, int]
    first: pd.Timestamp
    last: pd.Timestamp


def prepare(source: str | Path | pd.DataFrame, *, plan: Plan | None, timezone: str) -> Prepared:
    """Give the prepared form of a log, from the cache when the same source and plan were prepared before.

    Args:
        source: A Parquet, CSV or JSON-lines file, a glob, a folder, `dataset:NAME`, or a DataFrame.
        plan: The measurement plan whose rules map events to conversions.
        timezone: Zone of timestamps that carry none.

    Raises:
        EventDataError: The source is missing, empty, can't be read, or lacks columns.
    """
    files = () if isinstance(source, pd.DataFrame) else tuple(find_files(source))
    found = _Found(source, files, timezone)
    folder = cache_folder() / f"log-{found.key(plan)[:32]}"
    if not folder.exists():
        if files and not any(file.stat().st_size for file in files):
            raise EventDataError(_nothing_usable(found.label, 0, pd.DataFrame()))
        relation = found.open()
        _check_shape(relation, files)
        _check_columns(relation, found.label, plan)
        _write(relation, found, plan, folder)
    return _load(folder, found.label)


def find_files(source: str | Path) -> list[Path]:
    """List the files that a path, folder, glob or `dataset:NAME` means, in name order."""
    text = str(source)
    if text.startswith("dataset:"):
        return [dataset_path(text.removeprefix("dataset:"))]
    path = Path(text)
    if path.is_dir():
        found = [p for p in sorted(path.rglob("*")) if _kind(p)]
    else:
        found = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(text, recursive=True))]
    if not found:
        msg = (
            f"No events at `{text}`: there is no such file, folder or match. Check `events`; in a run file a relative "
            "path starts at the run file's folder, in a notebook at the notebook's."
        )
        raise EventDataError(msg)
    kinds = {_kind(p) for p in found}
    if len(kinds) != 1 or "" in kinds:
        msg = (
            f"`{text}` can't be read: its files end in {sorted({p.suffix for p in found})}; give files of "
            f"one kind among {sorted(READERS)}."
        )
        raise EventDataError(msg)
    return found


@dataclasses.dataclass(frozen=True)
class _Found:
    """A source as given, with what it resolves to."""

    source: str | Path | pd.DataFrame
    files: tuple[Path, ...]
    timezone: str

    @property
    def label(self) -> str:
        return "DataFrame" if isinstance(self.source, pd.DataFrame) else str(self.source)

    def key(self, plan: Plan | None) -> str:
        # Size and time of change stand for a file's content: hashing 5 GB in every notebook would cost too much.
        facts = [(str(f.resolve()), f.stat()) for f in self.files]
        stats = [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in facts]
        parts = [FORMAT, stats or self.digest(), plan.digest if plan else "", self.timezone]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def digest(self) -> str:
        """Hash the content."""
        digest = hashlib.sha256()
        if isinstance(self.source, pd.DataFrame):
            types = [f"{name} {kind}" for name, kind in self.source.dtypes.items()]
            digest.update(",".join(types).encode())
            mixed = [
                name for name, kind in self.source.dtypes.items() if str(kind) == "object"
            ]  # lists can't be hashed
            texts = self.source.astype(dict.fromkeys(mixed, "str"))
            digest.update(pd.util.hash_pandas_object(texts, index=False).to_numpy().tobytes())
        for file in self.files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def open(self) -> duckdb.DuckDBPyRelation:
        if isinstance(self.source, pd.DataFrame):
            return connect().from_df(self.source)
        return _read(self.files)

    def parts(self) -> list[tuple[str, duckdb.DuckDBPyRelation]]:
        """Give each file alone, as a row is found again by its file and number."""
        return [(f.name, _read((f,))) for f in self.files] or [(self.label, self.open())]


def _read(files: Sequence[Path]) -> duckdb.DuckDBPyRelation:
    """Open files without reading them: `sql` with parameters would hold their whole content in memory."""
    names: Any = [str(f) for f in files]  # the engine's stubs know one file only
    engine, kind = connect(), _kind(files[0])
    try:
        if kind == "parquet":
            return engine.read_parquet(names, union_by_name=True)
        if kind == "csv":
            return engine.read_csv(names, all_varchar=True, union_by_name=True)
        # As text, like CSV: a guessed type fails the whole log at its first odd row, and drops the times' offsets.
        found = engine.read_json(names, format="newline_delimited", union_by_name=True, sample_size=-1).columns
        return engine.read_json(names, format="newline_delimited", columns=dict.fromkeys(found, "VARCHAR"))
    except duckdb.Error as error:
        raise EventDataError(_engine_problem(files[0].name, error)) from error


def _kind(path: Path) -> str:
    return READERS.get("".join(path.suffixes[-2:]).lower()) or READERS.get(path.suffix.lower(), "")


def _engine_problem(label: str, error: Exception) -> str:
    said = str(error).split("\nLINE 1:")[0]  # what follows shows the engine's query
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"`{label}` can't be read: {' '.join(lines[:4])}"


def _check_shape(relation: duckdb.DuckDBPyRelation, files: Sequence[Path]) -> None:
    """Refuse a small CSV with ragged lines, which the engine takes for a table of one column."""
    if len(relation.columns) > 1 or not files or _kind(files[0]) != "csv":
        return
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as stream:
            rows = csv.reader(stream, delimiter="\t" if file.suffix == ".tsv" else ",")
            first = next(rows, [])
            for row in rows:
                if row and len(row) != len(first):
                    msg = (
                        f"`{file.name}` can't be read: line {rows.line_num} has {len(row)} fields and the first line "
                        f"has {len(first)}. Check for missing or unquoted separators."
                    )
                    raise EventDataError(msg)


def _check_columns(relation: duckdb.DuckDBPyRelation, label: str, plan: Plan | None) -> None:
    problems = [
        f"`{label}` has no column `{name}`, which every log needs; its columns are {relation.columns}. "
        "Rename the column that holds it."
        for name in REQUIRED
        if name not in map(str.lower, relation.columns)
    ]
    types = dict(zip(map(str.lower, relation.columns), map(str, relation.types), strict=True))
    if types.get("timestamp", "VARCHAR") not in ("VARCHAR", "DATE", '"NULL"') and not types["timestamp"].startswith(
        "TIMESTAMP"
    ):
        problems.append(
            f"`{label}`: `timestamp` holds {types['timestamp']}; give dates with times (2026-11-21 "
            "09:30:00), not bare numbers."
        )
    problems += [
        f"`{label}`: the column name `{name}` is taken by convlib; rename it."
        for name in relation.columns
        if name.lower() in ADDED
    ]
    if plan:
        problems += _unknown_columns(relation, label, plan)
    if problems:
        raise EventDataError(*problems)


def _unknown_columns(relation: duckdb.DuckDBPyRelation, label: str, plan: Plan) -> list[str]:
    known = {*relation.columns, *CANONICAL}
    return [
        f"{plan.locate(conversion.id)}: `{conversion.id}` reads the column `{column}`, which `{label}` "
        f"does not have; its columns are {relation.columns}."
        for conversion in plan.conversions
        for column in sorted(conversion.columns - known)
    ]


def _moment(types: dict[str, str]) -> str:
    if types["timestamp"] == "VARCHAR":
        # A text with an offset keeps it; one without is wall time in the engine's zone, which `_write` sets.
        return "timezone('UTC', TRY_CAST(timestamp AS TIMESTAMPTZ))"
    return "timezone('UTC', CAST(timestamp AS TIMESTAMPTZ))"


def _reason(types: dict[str, str]) -> str:
    """Word why a row can't be used: the first fault found, or null."""
    absent = [f"WHEN TRUE THEN '{column} is missing'" for column in REQUIRED if column not in types]
    if absent:
        return f"CASE {absent[0]} END"
    cases = [
        f"WHEN {column} IS NULL OR TRIM(CAST({column} AS VARCHAR)) = '' THEN '{column} is missing'"
        for column in ("user_id", "event_name", "timestamp")
    ]
    cases.append(f"WHEN {_moment(types)} IS NULL THEN 'timestamp is not a date and time'")
    cases.append(f"WHEN {_moment(types)} NOT BETWEEN '{EARLIEST}' AND '{LATEST}' THEN 'timestamp is out of range'")
    if "value" in types:
        cases.append(
            "WHEN LOWER(TRIM(CAST(value AS VARCHAR))) NOT IN ('', 'nan') AND to_number(value) IS NULL "
            "THEN 'value is not a number'"
        )
    return f"CASE {' '.join(cases)} END"


def _clean(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Keep the usable rows, with every canonical column in its type and the custom ones as they are."""
    types = dict(zip(map(str.lower, relation.columns), map(str, relation.types), strict=True))
    known = {
        name: f"NULLIF(TRIM(CAST({name} AS VARCHAR)), '')" for name, kind in CANONICAL.items() if kind == "VARCHAR"
    }
    known |= {"timestamp": f"CAST({_moment(types)} AS TIMESTAMP)", "value": "to_number(value)"}
    canonical = [f"{known[n] if n in types else 'NULL'}::{kind} AS {n}" for n, kind in CANONICAL.items()]
    custom = [quote(name) for name in relation.columns if name.lower() not in CANONICAL]
    return relation.filter(f"({_reason(types)}) IS NULL").project(", ".join([*canonical, *custom]))


def _write(relation: duckdb.DuckDBPyRelation, found: "_Found", plan: Plan | None, folder: Path) -> None:
    """Write the prepared form beside its final place and move it there whole, so that no reader sees half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="preparing-", dir=folder.parent))
    try:
        connect().execute("SET TimeZone = ?", [found.timezone])
        _write_parts(relation, found, plan, scratch)
        _move(scratch, folder)
    except duckdb.Error as error:
        raise EventDataError(_engine_problem(found.label, error)) from error
    finally:
        connect().execute("SET TimeZone = 'UTC'")
        shutil.rmtree(scratch, ignore_errors=True)


def _move(scratch: Path, folder: Path) -> None:
    try:
        scratch.rename(folder)
    except OSError:
        if not folder.exists():  # else another process has just put the same there
            raise


def _write_parts(relation: duckdb.DuckDBPyRelation, found: "_Found", plan: Plan | None, scratch: Path) -> None:
    events, columns = scratch / "events.parquet", _write_events(_clean(relation), scratch / "events.parquet")
    _write_conversions(events, plan, scratch / "conversions.parquet")
    _write_activity(scratch)
    rows_read = _count(relation)
    rejects = _write_rejects(found, scratch / "rejects.parquet", any_rejected=rows_read > _count(_scan(events)))
    rows_used = _count(_scan(events))
    if not rows_used:
        raise EventDataError(_nothing_usable(found.label, rows_read, rejects))
    first, last = _scan(events).aggregate("min(timestamp), max(timestamp)").fetchall()[0]
    facts = {
        "fingerprint": found.digest(),
        "columns": columns,
        "given": relation.columns,
        "rows_read": rows_read,
        "rows_used": rows_used,
        "rows_rejected": len(rejects),
        "rejected_because": {str(reason): int(count) for reason, count in rejects["reason"].value_counts().items()},
        "first": first.isoformat(),
        "last": last.isoformat(),
    }
    (scratch / "log.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _write_events(clean: duckdb.DuckDBPyRelation, path: Path) -> list[str]:
    """Sort by user, time and content, so that the order of the source's rows never changes a result."""
    clean.create_view("clean", replace=True)
    rest = [quote(name) for name in clean.columns if name not in ("user_id", "timestamp", "event_name")]
    query = f"""
        WITH users AS (SELECT user_id, CAST(row_number() OVER (ORDER BY user_id) - 1 AS INTEGER) AS user
                       FROM (SELECT DISTINCT user_id FROM clean)),
             visits AS (SELECT user_id, session_id,
                               CAST(row_number() OVER (ORDER BY user_id, session_id) - 1 AS INTEGER) AS session
                        FROM (SELECT DISTINCT user_id, session_id FROM clean WHERE session_id IS NOT NULL)),
             sorted AS (SELECT users.user, visits.session, clean.*
                        FROM clean JOIN users USING (user_id) LEFT JOIN visits USING (user_id, session_id)
                        ORDER BY users.user, timestamp, event_name, {", ".join(rest)})
        SELECT row_number() OVER () - 1 AS event, * FROM sorted"""
    connect().sql(query).write_parquet(str(path), compression="zstd")
    return list(clean.columns)


def _write_conversions(events: Path, plan: Plan | None, path: Path) -> None:
    """Write one row for each event and conversion of the plan that it is."""
    conversions = plan.conversions if plan else ()
    hits = [CaseExpression(compile_rule(c.match), ConstantExpression(c.id)) for c in conversions]
    names = FunctionExpression("list_value", *hits) if hits else ConstantExpression([])
    mapped = _scan(events).select(StarExpression(), names.alias("convlib names"))
    query = """
        SELECT * EXCLUDE ("convlib names"),
               CAST(unnest(list_filter("convlib names", name -> name IS NOT NULL)) AS VARCHAR) AS conversion
        FROM mapped"""
    relation = mapped.query("mapped", query)
    values = _value_of([c for c in conversions if isinstance(c, Macro)])
    relation.select(StarExpression(exclude=["value"]), values.alias("value")).write_parquet(
        str(path), compression="zstd"
    )


def _value_of(conversions: Sequence[Macro]) -> Expression:
    """Give each macro the value that its plan entry names; everything else keeps the event's own."""
    value: Expression = ColumnExpression("value")
    for conversion in conversions:
        if conversion.value is not None:
            is_it = ColumnExpression("conversion") == ConstantExpression(conversion.id)
            value = CaseExpression(is_it, _named_value(conversion.value)).otherwise(value)
    return value


def _named_value(value: float | ValueColumn) -> Expression:
    if isinstance(value, ValueColumn):
        return FunctionExpression("to_number", SQLExpression(quote(value.column)))
    return ConstantExpression(float(value)).cast("DOUBLE")


def _write_activity(parts: Path) -> None:
    """Write the events that are no conversion and fire with none: what active users do more of."""
    events, conversions = _scan(parts / "events.parquet"), _scan(parts / "conversions.parquet")
    conversions.create_view("conversions", replace=True)
    query = "SELECT * EXCLUDE (user_id) FROM events ANTI JOIN conversions USING (user, timestamp) ORDER BY event"
    events.query("events", query).write_parquet(str(parts / "activity.parquet"), compression="zstd")


def _write_rejects(found: "_Found", path: Path, *, any_rejected: bool) -> pd.DataFrame:
    """Write the unusable rows as they came, each with its source, its row (the first is 1) and the reason."""
    parts = [_rejected(relation, label) for label, relation in found.parts()] if any_rejected else []
    rejects = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["source", "row", "reason"])
    rejects.to_parquet(path, index=False)
    return rejects


def _rejected(relation: duckdb.DuckDBPyRelation, label: str) -> pd.DataFrame:
    types = dict(zip(map(str.lower, relation.columns), map(str, relation.types), strict=True))
    numbered = relation.project(f"row_number() OVER () AS reject_row, {_reason(types)} AS reject_reason, *")
    own = ("source", "row", "reason")
    raw = [
        f"CAST({quote(name)} AS VARCHAR) AS {quote(f'log_{name}' if name in own else name)}"
        for name in relation.columns
    ]
    rows = numbered.filter("reject_reason IS NOT NULL").project(", ".join(["reject_row", "reject_reason", *raw])).df()
    return (
        rows.rename(columns={"reject_row": "row", "reject_reason": "reason"})
        .assign(source=label)
        .set_index("source")
        .reset_index()
    )


def _nothing_usable(label: str, rows_read: int, rejects: pd.DataFrame) -> str:
    if not rows_read:
        return f"`{label}` is empty: it has no rows. Check the export."
    faults = "; ".join(f"{reason}: {count:,} rows" for reason, count in rejects["reason"].value_counts().items())
    example = rejects.iloc[0].dropna().astype(str).to_dict()
    return (
        f"`{label}` has no usable row: {rows_read:,} read, {len(rejects):,} rejected ({faults}). For example {example}."
    )


def _scan(path: Path) -> duckdb.DuckDBPyRelation:
    return connect().read_parquet(str(path))


def _count(relation: duckdb.DuckDBPyRelation) -> int:
    return int(relation.aggregate("count(*)").fetchall()[0][0])


def _load(folder: Path, label: str) -> Prepared:
    facts = json.loads((folder / "log.json").read_text(encoding="utf-8"))
    first, last = (pd.Timestamp(facts.pop(name)) for name in ("first", "last"))
    columns, given = (tuple(facts.pop(name)) for name in ("columns", "given"))
    return Prepared(folder, label, columns=columns, given=given, first=first, last=last, **facts)
