"""Reads a log once: every row is used, rejected or left out by rule, and the counts close to the row."""

import contextlib
import dataclasses
import hashlib
import hmac
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from duckdb import (
    CaseExpression,
    ColumnExpression,
    ConstantExpression,
    SQLExpression,
    StarExpression,
)

from convlib.cache import cache_folder
from convlib.canonical import (
    CANONICAL,
    EARLIEST,
    GARBLED,
    LATEST,
    LEFT_OUT,
    RAW,
    REASON,
    REQUIRED,
    UNDATED,
    check_columns,
    find_nobody,
    list_types,
    list_unknown_columns,
    rename_columns,
    type_rows,
)
from convlib.engine import compile_rule, connect, copy, place, quote, scan
from convlib.errors import EventDataError
from convlib.identity import (
    IDS,
    add_identities,
    hash_frame,
    hash_ids,
    join_identities,
    learn_identities,
    read_hash_key,
    read_identities,
)
from convlib.mapping import Mapping, apply_mapping, find_id_fields, word_format
from convlib.parts import write_parts
from convlib.plan import Plan
from convlib.plan_entries import LeaveOut
from convlib.sources import FILE, ROW, Source

#: Raise when the prepared form changes, so that older caches are left aside.
FORMAT = 8
STAGED = "staged.parquet"
#: Stands in a query for the place of the rows, which are moved after writing; no name can hold it.
ROWS = "\0rows\0"
#: Which rows are used.
USABLE = f" WHERE {quote(REASON)} IS NULL AND {quote(LEFT_OUT)} IS NULL"
Counts = list[tuple[Any, ...]]
#: Settings of a mapping under which a Parquet file can still be read as it is.
HARMLESS = {"timezone", "session_gap", "title", "documentation"}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A log after its one reading: where its rows are and what was counted on the way.

    Attributes:
        folder: Holds what was written: `rejects`, the used `rows` unless the source is read in place, and one folder a
            plan with the parts that analyses read, as Parquet.
        source: The source as it was named.
        fingerprint: SHA-256 of the source's content.
        reading: A digest of how it was read: mapping, identities, rules that leave rows out, and the hash key.
        columns: The canonical columns, then the log's own.
        given: The columns that the source itself has.
        select: The engine's query for the used rows, in the source's order.
        session_gap: Inactivity that ends a session, where sessions are derived.
        rows_read: Rows of the source: those used, those rejected and those left out.
        rows_used: Rows that every analysis sees.
        rows_rejected: Rows that could not be used.
        rows_left_out: Rows that a rule of the plan leaves out.
        rejected_because: How many were rejected for each reason, the most frequent first.
        left_out_because: How many each rule leaves out.
        identities: Anonymous ids that were joined to a user.
        hashed: Whether ids were hashed on reading.
        first: Time of the first event, UTC.
        last: Time of the last event, UTC: the end of the data.
    """

    folder: Path
    source: str
    fingerprint: str
    reading: str
    columns: tuple[str, ...]
    given: tuple[str, ...]
    select: str
    session_gap: str
    rows_read: int
    rows_used: int
    rows_rejected: int
    rows_left_out: int
    rejected_because: dict[str, int]
    left_out_because: dict[str, int]
    identities: int
    hashed: bool
    first: pd.Timestamp
    last: pd.Timestamp

    def open(self) -> duckdb.DuckDBPyRelation:
        """Open the used rows in the source's order: the canonical columns, then the log's own."""
        return self._open(self.select.replace(ROWS, place(self.folder / "rows.parquet")))

    def _open(self, query: str) -> duckdb.DuckDBPyRelation:
        try:
            return connect().sql(query)
        except duckdb.IOException as error:
            msg = f"`{self.source}` has gone or changed since it was read; read it again."
            raise EventDataError(msg) from error

    def open_slices(self, most: int) -> Iterator[duckdb.DuckDBPyRelation]:
        """Open the used rows in slices of about so many, where the source is read in place; else all at once."""
        if self.rows_read <= most or ROWS in self.select:
            yield self.open()
            return
        origin = self.select.partition(" FROM (")[2]
        longest = self._open(f"SELECT max({quote(ROW)}) FROM ({origin}").fetchall()[0][0]
        step = -(-longest * most // self.rows_read)
        also = " AND " if self.select.endswith(USABLE) else " WHERE "
        for first in range(1, longest + 1, step):
            yield self._open(f"{self.select}{also}{quote(ROW)} >= {first} AND {quote(ROW)} < {first + step}")

    def find(self, part: str, plan: Plan | None) -> Path:
        """Give the file of one part of what analyses read, written at the first need (see `parts.write_parts`)."""
        folder = self._place(plan)
        if not folder.exists():
            with _write_whole(folder) as scratch:
                write_parts(self.open(), scratch, plan=plan, given=self.given, session_gap=self.session_gap)
        return folder / part

    def has(self, plan: Plan | None) -> bool:
        """Say whether the parts that analyses read are written already."""
        return self._place(plan).exists()

    def _place(self, plan: Plan | None) -> Path:
        return self.folder / f"plan-{plan.digest[:16] if plan else 'none'}"


def prepare(
    source: Source, *, plan: Plan | None, mapping: Mapping, identity: pd.DataFrame | str | Path | None = None
) -> Prepared:
    """Give the prepared form of a log, from the cache when the same source was read in the same way before.

    Args:
        source: The source.
        plan: The measurement plan, whose `leave_out` rules say which rows are left out.
        mapping: How the source's columns become the canonical ones, and how it is read.
        identity: A table or file of `anonymous_id` and `user_id`.

    Raises:
        EventDataError: The source is empty, can't be read, lacks columns, or none of its rows can be used.
    """
    reading = _Reading(source, plan, mapping, read_identities(identity))
    folder = cache_folder() / f"log-{reading.key[:32]}"
    if not folder.exists():
        try:
            with _write_whole(folder) as scratch, tempfile.TemporaryDirectory(dir=scratch.parent) as fetched:
                source = source.fetch(Path(fetched))
                source.check()
                dataclasses.replace(reading, source=source).write(scratch)
        except duckdb.Error as error:
            raise EventDataError(source.explain(error)) from error
    facts = json.loads((folder / "log.json").read_text(encoding="utf-8"))
    first, last = (pd.Timestamp(facts.pop(name)) for name in ("first", "last"))
    columns, given = (tuple(facts.pop(name)) for name in ("columns", "given"))
    problems = list_unknown_columns(given, source.label, plan)
    if problems:  # the plan may be newer than the prepared form
        raise EventDataError(*problems)
    return Prepared(folder, source.label, columns=columns, given=given, first=first, last=last, **facts)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """One source with everything that decides what its rows become."""

    source: Source
    plan: Plan | None
    mapping: Mapping
    identities: pd.DataFrame | None

    @property
    def leave_out(self) -> tuple[LeaveOut, ...]:
        return self.plan.leave_out if self.plan else ()

    @property
    def digest(self) -> str:
        rules = [each.model_dump(mode="json") for each in self.leave_out]
        pairs = None if self.identities is None else self.identities.to_csv(index=False)
        how = [FORMAT, self.mapping.model_dump(mode="json"), rules, pairs]
        secret = read_hash_key() if self.mapping.hash_ids else b""
        return hmac.new(secret, json.dumps(how).encode(), hashlib.sha256).hexdigest()

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps([self.digest, self.source.identify()]).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Read the source, and write the rejects, the counts and, unless it can stay as it is, the rows."""
        connect().execute("SET TimeZone = ?", [self.mapping.timezone])
        try:
            rows = self.source.open()
            if self.mapping.columns or self.mapping.drop or self.mapping.each or self.mapping.expect:
                rows = apply_mapping(rows, self.mapping, label=self.source.label)
            if self.mapping.hash_ids:
                hidden = find_id_fields(self.mapping, rows.columns, IDS)
                rows = rows.select(StarExpression(exclude=hidden)) if hidden else rows
            check_columns(rows, self.source.label, self.plan)
            typed = self._stage(self._type(rows), folder)
            in_place = self._stays(list_types(rows))
            joined, identities = (typed, 0) if in_place else self._join(typed)
            final = joined if in_place else self._finish(self._leave_out(joined), folder, changed=joined is not typed)
            counts = (self._count_by_statistics(rows) if in_place else None) or _count(final)
            lines = self.source.list_bad_lines()
            rejects = self._write_rejects(joined if self.mapping.hash_ids else final, counts, lines, folder)
            (folder / STAGED).unlink(missing_ok=True)
            given = [name for name in rename_columns(rows.columns) if name not in (FILE, ROW)]
            facts = {"given": given, "identities": identities, "hashed": self.mapping.hash_ids}
            facts |= self._settle(counts, rejects, broken=len(lines))
            names = [*CANONICAL, *(name for name in given if name.lower() not in CANONICAL)]
            origin = f"({final.sql_query()})" if in_place else f"read_parquet({ROWS})"
            facts |= {
                "columns": names,
                "select": _select(names, origin, whole=facts["rows_used"] == facts["rows_read"]),
            }
            (folder / "log.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        finally:
            connect().execute(f"SET TimeZone = 'UTC'; DROP TABLE IF EXISTS {quote(STAGED)}")

    def _type(self, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        filled = self.source.read_statistics() if self._stays(list_types(rows)) else None
        never_blank = () if filled is None else filled.index[filled["least"].fillna("") != ""]
        return type_rows(rows, zone=self.mapping.timezone, trim=self.source.is_text, never_blank=never_blank)

    def _stage(self, typed: duckdb.DuckDBPyRelation, folder: Path) -> duckdb.DuckDBPyRelation:
        """Turn what is slow to read twice into Parquet."""
        if self.source.kind == "parquet":
            return typed
        if self.mapping.hash_ids:  # nothing in clear is written
            connect().execute(f"DROP TABLE IF EXISTS {quote(STAGED)}")
            typed.project(f"*, row_number() OVER () AS {quote(ROW)}").create(quote(STAGED))
            return connect().sql(f"FROM {quote(STAGED)}")
        copy(typed, folder / STAGED)
        return _number_rows(folder / STAGED)

    def _stays(self, types: dict[str, str]) -> bool:
        """Say whether the source can be read again and again as it is: then nothing is copied."""
        return (
            self.source.kind == "parquet"
            and self.source.is_local
            and not self.source.folder
            and self.mapping.model_dump(exclude_defaults=True).keys() <= HARMLESS
            and not (self.leave_out or self.identities is not None or "anonymous_id" in types)
            and types["timestamp"].startswith("TIMESTAMP")
            # Files of both kinds read as one: then the zone of the plain ones is the engine's at that moment.
            and (self.mapping.timezone == "UTC" or types["timestamp"] == "TIMESTAMP")
        )

    def _join(self, typed: duckdb.DuckDBPyRelation) -> tuple[duckdb.DuckDBPyRelation, int]:
        pairs = self.identities
        if "anonymous_id" in typed.columns:
            pairs = add_identities(pairs, learn_identities(typed.filter(f"{quote(REASON)} IS NULL")))
        return (typed, 0) if pairs is None or pairs.empty else (join_identities(typed, pairs), len(pairs))

    def _leave_out(self, typed: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        """Note the first rule that leaves a row out; a rule on users leaves out all their rows."""
        usable = typed.filter(f"{quote(REASON)} IS NULL")
        for number, rule in enumerate(self.leave_out):
            matches = compile_rule(rule.match)
            if rule.scope == "user":
                view = f"convlib left out {number}"
                connect().register(view, usable.filter(matches).project("user_id").distinct().df())
                matches = SQLExpression(f"user_id IN (SELECT user_id FROM {quote(view)})")
            free = ColumnExpression(REASON).isnull() & ColumnExpression(LEFT_OUT).isnull()
            noted = CaseExpression(free & matches, ConstantExpression(rule.id)).otherwise(ColumnExpression(LEFT_OUT))
            typed = typed.select(StarExpression(exclude=[LEFT_OUT]), noted.alias(LEFT_OUT))
        return typed

    def _finish(self, noted: duckdb.DuckDBPyRelation, folder: Path, *, changed: bool) -> duckdb.DuckDBPyRelation:
        """Write the rows as they will be read from now on."""
        if self.source.kind != "parquet" and not (changed or self.leave_out or self.mapping.hash_ids):
            (folder / STAGED).rename(folder / "rows.parquet")
            return _number_rows(folder / "rows.parquet")
        path = folder / "rows.parquet"
        # The raw form of a rejected row holds its ids in clear.
        if changed:  # a join does not keep the order
            noted = noted.order(f"{quote(FILE)}, {quote(ROW)}")
        hidden = f"* EXCLUDE ({quote(RAW)}), NULL::VARCHAR AS {quote(RAW)}"
        copy(hash_ids(noted.project(hidden)) if self.mapping.hash_ids else noted, path)
        return scan(path)

    def _write_rejects(
        self, typed: duckdb.DuckDBPyRelation, counts: Counts, lines: pd.DataFrame, folder: Path
    ) -> pd.DataFrame:
        """Write the unusable rows as they came, each with its source, its row (the first is 1) and the reason."""
        columns = {FILE: "source", ROW: "row", REASON: "reason", RAW: "raw"}
        unusable = typed.filter(f"{quote(REASON)} IS NOT NULL" if any(not usable for usable, *_ in counts) else "FALSE")
        found = unusable.project(", ".join(map(quote, columns))).order(f"{quote(FILE)}, {quote(ROW)}").df()
        found = found.rename(columns=columns)
        if self.source.is_text and len(self.source.files) > 1:
            firsts = dict(typed.aggregate(f"{quote(FILE)}, min({quote(ROW)})").fetchall()) if len(found) else {}
            found["row"] -= found["source"].map(firsts) - 1
        raw = pd.DataFrame([json.loads(each) for each in found.pop("raw")], dtype="str")
        own = {name: f"log_{name}" for name in ("source", "row", "reason", "text")}
        rejects = found.join(raw.rename(columns=own)).assign(text=self._find_garbled(found))
        rejects = pd.concat([rejects, lines], ignore_index=True)
        rejects = rejects.assign(source=rejects["source"].map(self.source.shorten))
        rejects = rejects if rejects["text"].notna().any() else rejects.drop(columns="text")
        if self.mapping.hash_ids:
            rejects = hash_frame(rejects.drop(columns="text", errors="ignore"), IDS)
        rejects = rejects.astype({"row": "int64"})
        rejects.to_parquet(folder / "rejects.parquet", index=False)
        return rejects

    def _find_garbled(self, found: pd.DataFrame) -> pd.Series:
        """Find the text of rows of which nothing could be read."""
        texts = pd.Series(None, index=found.index, dtype="str")
        garbled = found[found["reason"] == GARBLED]
        for name, rows in garbled.groupby("source"):
            texts[rows.index] = self.source.read_garbled(str(name), rows["row"].tolist())
        return texts

    def _count_by_statistics(self, rows: duckdb.DuckDBPyRelation) -> Counts | None:
        """Count without a scan when the files' statistics show that every row can be used; None when they do not."""
        known = self.source.read_statistics().reindex(REQUIRED)
        complete = ((known["nulls"] == 0) & (known["least"].fillna("") > "!")).all()
        kind = list_types(rows).get("value", "INTEGER")
        doubtful = kind == "VARCHAR" or (
            kind in ("DOUBLE", "FLOAT") and rows.filter("isinf(value)").limit(1).fetchall()
        )
        doubtful = doubtful or rows.filter(find_nobody(list_types(rows))).limit(1).fetchall()
        moments = type_rows(rows, zone=self.mapping.timezone, trim=False)
        in_range = f"min(timestamp) >= '{EARLIEST}' AND max(timestamp) <= '{LATEST}'"
        counted = moments.aggregate(f"count(*), {in_range}, min(timestamp), max(timestamp)").fetchall()
        count, fits, first, last = counted[0]
        if not (complete and fits and (known["values"] == count).all()) or doubtful:
            return None
        return [(True, None, count, first, last)]

    def _settle(self, counts: Counts, rejects: pd.DataFrame, *, broken: int) -> dict[str, Any]:
        """Say what became of the rows, and refuse counts that don't close."""
        used = [row for row in counts if row[0] and row[1] is None]
        left_out = {str(rule): int(count) for _, rule, count, *_ in counts if rule is not None}
        facts: dict[str, Any] = {
            "fingerprint": self.source.digest(),
            "reading": self.digest,
            "session_gap": self.mapping.session_gap,
            "rows_read": self._count_read(sum(row[2] for row in counts) + broken),
            "rows_used": sum(row[2] for row in used),
            "rows_rejected": len(rejects),
            "rows_left_out": sum(left_out.values()),
            "rejected_because": {str(why): int(count) for why, count in rejects["reason"].value_counts().items()},
            "left_out_because": left_out,
        }
        _check_counts(facts, self.source.label, rejects, self.mapping)
        return facts | {"first": used[0][3].isoformat(), "last": used[0][4].isoformat()}

    def _count_read(self, seen: int) -> int:
        """Count the source's rows by another way than the one that sorted them, where there is one."""
        if isinstance(self.source.given, pd.DataFrame) and not self.mapping.each:
            return len(self.source.given)
        if self.source.kind == "parquet" and not self.mapping.each:
            names = ", ".join(map(place, self.source.files))
            return int(connect().sql(f"SELECT sum(num_rows) FROM parquet_file_metadata([{names}])").fetchall()[0][0])
        return seen


def _number_rows(path: Path) -> duckdb.DuckDBPyRelation:
    query = f"SELECT * EXCLUDE (file_row_number), file_row_number + 1 AS {quote(ROW)} FROM "
    return connect().sql(f"{query} read_parquet({place(path)}, file_row_number=true)")


def _count(typed: duckdb.DuckDBPyRelation) -> Counts:
    """Count the rows that can and can't be used and that each rule leaves out, with their first and last time."""
    kinds = f"{quote(REASON)} IS NULL AS usable, {quote(LEFT_OUT)} AS rule"
    return typed.aggregate(f"{kinds}, count(*) AS rows, min(timestamp), max(timestamp)").order("rows DESC").fetchall()


def _select(columns: Sequence[str], origin: str, *, whole: bool) -> str:
    return f"SELECT {', '.join(map(quote, columns))} FROM {origin}{'' if whole else USABLE}"


def _check_counts(facts: dict[str, Any], label: str, rejects: pd.DataFrame, mapping: Mapping) -> None:
    read, used, rejected, left_out = (facts[f"rows_{name}"] for name in ("read", "used", "rejected", "left_out"))
    if not read:
        raise EventDataError(f"`{label}` is empty: it has no rows. Check the export.")
    if not used:
        faults = [f"{why}: {count:,} rows" for why, count in facts["rejected_because"].items()]
        faults += [f"left out by `{rule}`: {count:,} rows" for rule, count in facts["left_out_because"].items()]
        first = rejects.head(1).drop(columns="reason").to_dict("records")
        filled = [(name, value) for row in first for name, value in row.items() if pd.notna(value) and value != ""]
        shown = ", ".join(f"{name} = {value}" for name, value in filled)
        example = f" For example {shown}." if shown else ""
        undated = rejects[rejects["reason"] == UNDATED]
        advice = f" {word_format(mapping, undated['timestamp'])}" if len(undated) else ""
        raise EventDataError(f"`{label}` has no usable row: {read:,} read ({'; '.join(faults)}).{example}{advice}")
    if read != used + rejected + left_out:
        msg = (
            f"`{label}`: the rows do not add up: {read:,} read, but {used:,} used + {rejected:,} rejected + "
            f"{left_out:,} left out. The source may have changed while it was read; read it again."
        )
        raise EventDataError(msg)


@contextlib.contextmanager
def _write_whole(folder: Path) -> Iterator[Path]:
    """Write beside the final place and move there whole, so that no reader sees half of it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="preparing-", dir=folder.parent))
    except OSError as error:
        msg = (
            f"The cache folder `{folder.parent}` can't be written to: {error.strerror}. Name another in CONVLIB_CACHE."
        )
        raise EventDataError(msg) from error
    try:
        yield scratch
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.exists():  # else another process has just put the same there
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
