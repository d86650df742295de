"""What a source of events means: which files, table or frame it is, how it is opened, and what it cannot be."""

import csv
import dataclasses
import glob
import gzip
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import duckdb
import fsspec
import pandas as pd
import pyarrow as pa

from convlib.datasets.files import dataset_path
from convlib.engine import connect, quote, text
from convlib.errors import EventDataError

Kind = Literal["parquet", "csv", "json", "duckdb"]
READERS: dict[str, Kind] = {
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    **dict.fromkeys((".duckdb", ".ddb", ".db"), "duckdb"),
}
PACKED = {".gz", ".zst"}
ADDRESS = re.compile(r"[a-z][a-z0-9+]+://")
#: Columns that opening adds: the file that a row is from and, of Parquet, its number there. No source has such names.
FILE, ROW = "convlib file", "convlib row"
#: Where the engine notes the lines of a CSV file that it can't split into fields.
BAD_LINES = "convlib_bad_lines"
ENCODINGS = {"utf-8": "UTF-8", "utf-16": "UTF-16", "latin-1": "Latin-1"}


class ArrowStream(Protocol):
    """Any table that hands itself over as Arrow data: of Ibis, DuckDB, Polars or PyArrow."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the table as a stream of Arrow batches."""


EventSource = str | Path | pd.DataFrame | ArrowStream


@dataclasses.dataclass(frozen=True)
class Source:
    """A source as given, with what it resolves to.

    Attributes:
        given: What the caller named or handed over.
        files: Its files or addresses, in name order; none for a table.
        kind: How they are read; None for a table.
        encoding: Of CSV files.
        query: Table or SELECT to take from a DuckDB file; empty takes its only table, or `events`.
    """

    given: EventSource
    files: tuple[str, ...] = ()
    kind: Kind | None = None
    encoding: str = "utf-8"
    query: str = ""

    @property
    def label(self) -> str:
        """Name the source as the user did."""
        return str(self.given) if isinstance(self.given, str | Path) else type(self.given).__name__

    def shorten(self, name: str) -> str:
        """Name one of the source's files as briefly as tells it from the others."""
        if name not in self.files:
            return name
        folder = Path(str(self.given))
        if self.is_local and folder.is_dir():
            return Path(name).relative_to(folder).as_posix()
        return Path(name).name if len(self.files) == 1 else name

    @property
    def is_local(self) -> bool:
        """Say whether the source is files of this machine."""
        return bool(self.files) and not any(map(ADDRESS.match, self.files))

    @property
    def is_text(self) -> bool:
        """Say whether values come as text, in lines that may be broken."""
        return self.kind in ("csv", "json")

    def identify(self) -> list[object]:
        """Say what tells this content from another without reading it, or, for a table, its content."""
        if not self.files:
            return [self.digest()]
        if not self.is_local:
            return [[name, fsspec.core.url_to_fs(name)[0].ukey(name)] for name in self.files]
        # Size and times of change stand for a file's content: hashing 5 GB in every notebook would cost too much.
        facts = [(str(Path(f).resolve()), Path(f).stat()) for f in self.files]
        return [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in facts] + [self.query]

    def digest(self) -> str:
        """Hash the content."""
        digest = hashlib.sha256()
        for name in self.files:
            with fsspec.open(name, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        if isinstance(self.given, pd.DataFrame):
            digest.update(",".join(f"{name} {kind}" for name, kind in self.given.dtypes.items()).encode())
            mixed = [name for name, kind in self.given.dtypes.items() if str(kind) == "object"]  # lists can't be hashed
            texts = self.given.astype(dict.fromkeys(mixed, "str"))
            digest.update(pd.util.hash_pandas_object(texts, index=False).to_numpy().tobytes())
        elif not self.files:
            for batch in _stream(self.given):
                sink = io.BytesIO()
                with pa.ipc.new_stream(sink, batch.schema) as writer:
                    writer.write_batch(batch)
                digest.update(sink.getbuffer())
        return digest.hexdigest()

    def open(self) -> duckdb.DuckDBPyRelation:
        """Open the source without reading it: its columns in its own order, with `FILE` and, of Parquet, `ROW`.

        Raises:
            EventDataError: The engine can't make sense of it.
        """
        try:
            return self._open()
        except duckdb.Error as error:
            raise EventDataError(self.explain(error)) from error

    def _open(self) -> duckdb.DuckDBPyRelation:
        if self.kind == "parquet":
            return connect().sql(read_parquet(self.files))
        if self.kind == "csv":
            connect().execute(f"DROP TABLE IF EXISTS {BAD_LINES}")
            return connect().sql(" UNION ALL BY NAME ".join(self._read_csv(name) for name in self.files))
        if self.kind == "json":
            return connect().sql(" UNION ALL BY NAME ".join(self._read_json(name) for name in self.files))
        # Registered, not handed over: a stream can be read once, and preparing reads more than once.
        table = self._fetch() if not isinstance(self.given, pd.DataFrame) else self.given
        rows = connect().from_df(table) if isinstance(table, pd.DataFrame) else connect().from_arrow(table)
        return rows.project(f"*, {text(self.label)} AS {quote(FILE)}")

    def _fetch(self) -> pa.Table:
        if self.kind != "duckdb":
            return _stream(self.given).read_all()
        with duckdb.connect(self.files[0], read_only=True) as base:
            return base.sql(
                self.query if _is_query(self.query) else f"FROM {_choose_table(base, self)}"
            ).to_arrow_table()

    def _read_csv(self, name: str) -> str:
        delimiter = ", delim='\t'" if ".tsv" in Path(name).suffixes else ""
        options = (
            f"""header=true, all_varchar=true, quote='"', escape='"', encoding={text(self.encoding)}, """
            f"hive_partitioning=true, hive_types_autocast=false, store_rejects=true, "
            f"rejects_table='{BAD_LINES}', rejects_scan='{BAD_LINES}_scans'{delimiter}"
        )
        return f"(SELECT *, {text(name)} AS {quote(FILE)} FROM read_csv({text(name)}, {options}))"

    def _read_json(self, name: str) -> str:
        # As text, like CSV: a guessed type fails the whole log at its first odd row, and drops the times' offsets.
        options = "ignore_errors=true, hive_partitioning=true, hive_types_autocast=false"
        found = connect().sql(f"FROM read_json({text(name)}, {options}, sample_size=-1)").columns
        columns = ", ".join(f"{text(column)}: 'VARCHAR'" for column in found)
        return (
            f"(SELECT *, {text(name)} AS {quote(FILE)} FROM read_json({text(name)}, {options}, columns={{{columns}}}))"
        )

    def check(self) -> None:
        """Refuse what the engine would read as something else, with every problem found.

        Raises:
            EventDataError: A file is empty, is not in the stated encoding, or names a column twice.
        """
        problems: list[str] = []
        if isinstance(self.given, pd.DataFrame):
            problems += _name_twins(self.label, [str(column) for column in self.given.columns])
        for name in self.files if self.is_local and self.kind in ("csv", "json") else ():
            problems += self._check_file(Path(name))
        if self.is_local and not any(Path(name).stat().st_size for name in self.files):
            problems = [f"`{self.label}` is empty: it has no rows. Check the export."]
        if problems:
            raise EventDataError(*problems)

    def _check_file(self, path: Path) -> list[str]:
        """Look at a file's beginning; what lies further in, the engine finds."""
        if ".zst" in path.suffixes or not path.stat().st_size:
            return []
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            start = stream.read(1 << 16)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")) and self.encoding != "utf-16":
            return [_wrong_encoding(path.name, self.encoding, "it begins with the mark of UTF-16")]
        if self.kind == "json":
            return []
        header = next(_split(start.decode(self.encoding, "replace"), path), [])
        return _name_twins(path.name, header)

    def explain(self, error: Exception) -> str:
        """Say what the engine could not read, with the line where one can be found."""
        for name in self.files if self.is_local and self.kind in ("csv", "json") else ():
            for found in _find_line_faults(Path(name), self.encoding, self.kind or "csv"):
                return f"`{Path(name).name}` can't be read: {found}"
        said = str(error).split("\nLINE 1:")[0]  # what follows shows the engine's query
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return f"`{self.label}` can't be read: {' '.join(lines[:4])}"

    def list_bad_lines(self) -> pd.DataFrame:
        """List the CSV lines that could not be split into fields: `source`, `row` (the line), `reason`, `text`.

        Raises:
            EventDataError: A line is not in the stated encoding: other letters would have been lost without a word.
        """
        names = ["source", "row", "reason", "text"]
        if self.kind != "csv":
            return pd.DataFrame(columns=names)
        query = f"""
            SELECT file_path, line, any_value(error_type::VARCHAR ORDER BY column_idx DESC), any_value(csv_line),
                   any_value(error_message ORDER BY column_idx DESC)
            FROM {BAD_LINES} JOIN {BAD_LINES}_scans USING (scan_id, file_id) GROUP BY ALL ORDER BY ALL"""
        found = connect().execute(query).fetchall()
        garbled = [row for row in found if row[2] == "INVALID ENCODING"]
        if garbled:
            file, line = garbled[0][:2]
            where = f"line {line} holds bytes that are no {ENCODINGS[self.encoding]}"
            raise EventDataError(_wrong_encoding(Path(file).name, self.encoding, where))
        rows = [(str(file), line, f"line can't be split: {_plainly(said)}", raw) for file, line, _, raw, said in found]
        return pd.DataFrame(rows, columns=names)


def find_source(given: EventSource, *, encoding: str = "utf-8") -> Source:
    """Find out what a source means.

    Args:
        given: A file, folder, glob or address of Parquet, CSV or JSON lines (also `.gz`, `.zst`), a DuckDB file
            (`shop.duckdb`, `shop.duckdb#table`, `shop.duckdb#SELECT ...`), `dataset:NAME`, a DataFrame, or any table
            that exports Arrow data: of Ibis, DuckDB, Polars or PyArrow.
        encoding: `utf-8`, `utf-16` or `latin-1`, for CSV files.

    Raises:
        EventDataError: There is no such thing, or its files are of several kinds.
    """
    if not isinstance(given, str | Path):
        if isinstance(given, pd.DataFrame) or hasattr(given, "__arrow_c_stream__"):
            return Source(given)
        msg = f"`events` is a {type(given).__name__}; give a file, a folder, a DataFrame or a table that exports Arrow."
        raise EventDataError(msg)
    place, _, query = re.sub(r"(\.(duckdb|ddb|db))#", r"\1\0", str(given), count=1).partition("\0")
    files = _find_files(place)
    kinds = {_kind(name) for name in files}
    if len(kinds) != 1 or None in kinds:
        found = sorted({Path(name).suffix or Path(name).name for name in files})
        msg = (
            f"`{given}` can't be read: its files end in {found}; give files of one kind among {sorted(READERS)}, CSV "
            "and JSON also packed as .gz or .zst."
        )
        raise EventDataError(msg)
    return Source(given, tuple(files), kinds.pop(), encoding, query)


def _find_files(place: str) -> list[str]:
    """List the files that a path, folder, glob, address or `dataset:NAME` means, in name order."""
    if place.startswith("dataset:"):
        return [str(dataset_path(place.removeprefix("dataset:")))]
    if ADDRESS.match(place):
        return _find_remote(place)
    path = Path(place)
    if path.is_dir():
        found = [str(each) for each in sorted(path.rglob("*")) if _kind(str(each)) and each.is_file()]
    else:
        found = [place] if path.exists() else sorted(glob.glob(place, recursive=True))
    if not found:
        msg = (
            f"No events at `{place}`: there is no such file, folder or match. Check `events`; in a run file a relative "
            "path starts at the run file's folder, in a notebook at the notebook's."
        )
        raise EventDataError(msg)
    return found


def _find_remote(place: str) -> list[str]:
    """List the objects that an address means, and let the engine read them through fsspec, with its credentials."""
    try:
        system, path = fsspec.core.url_to_fs(place)
        listed = system.glob(path) if "*" in path else system.find(path)
    except (ImportError, OSError, ValueError) as error:
        raise EventDataError(f"`{place}` can't be reached: {error}. Check the address and its credentials.") from error
    found = [system.unstrip_protocol(name) for name in sorted(listed) if _kind(name)]
    if not found:
        raise EventDataError(f"No events at `{place}`: no object of a kind among {sorted(READERS)} is there.")
    name = system.protocol if isinstance(system.protocol, str) else system.protocol[0]
    if not connect().filesystem_is_registered(name):
        connect().register_filesystem(system)
    return found


def _kind(name: str) -> Kind | None:
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
        packed = READERS.get(suffixes[-1]) if suffixes else None
        return packed if packed in ("csv", "json") else None
    return READERS.get(suffixes[-1]) if suffixes else None


def read_parquet(files: Sequence[str]) -> str:
    """Write the query for Parquet files with `FILE` and `ROW`."""
    names = ", ".join(map(text, files))
    options = (
        "filename=true, file_row_number=true, union_by_name=true, hive_partitioning=true, hive_types_autocast=false"
    )
    added = f"filename AS {quote(FILE)}, file_row_number + 1 AS {quote(ROW)}"
    return f"SELECT * EXCLUDE (filename, file_row_number), {added} FROM read_parquet([{names}], {options})"


def _stream(table: Any) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_stream(table)


def _is_query(query: str) -> bool:
    return bool(re.match(r"\s*(select|from|with)\s", query, re.IGNORECASE))


def _choose_table(base: duckdb.DuckDBPyConnection, source: Source) -> str:
    tables = [row[0] for row in base.sql("SELECT table_name FROM information_schema.tables ORDER BY ALL").fetchall()]
    wanted = source.query or ("events" if "events" in tables else tables[0] if len(tables) == 1 else "")
    if wanted not in tables:
        msg = f"`{source.label}`: the file has the tables {tables}; name one: `{source.files[0]}#TABLE`, or a SELECT."
        raise EventDataError(msg)
    return quote(wanted)


def _split(start: str, path: Path) -> Iterator[list[str]]:
    first = start.splitlines()[0].lstrip("﻿") if start.splitlines() else ""
    delimiter = "\t" if ".tsv" in path.suffixes else max(",;|\t", key=first.count)
    return csv.reader([first], delimiter=delimiter)


def _name_twins(label: str, columns: Sequence[str]) -> list[str]:
    counts = Counter(name.strip().lower() for name in columns)
    twins = [name for name, count in counts.items() if count > 1]
    return [f"`{label}` has the column `{name}` {counts[name]} times; rename or remove all but one." for name in twins]


def _wrong_encoding(name: str, encoding: str, found: str) -> str:
    others = ", ".join(f"`encoding: {other}`" for other in ENCODINGS if other != encoding)
    return f"`{name}` is not {ENCODINGS[encoding]}: {found}. Save it as UTF-8, or state {others} in a mapping file."


def _plainly(message: str) -> str:
    """Reword the engine's note on a line: `Expected Number of Columns: 4 Found: 6`."""
    counts = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    return f"{counts[2]} fields instead of {counts[1]}" if counts else message.splitlines()[0]


def _find_line_faults(path: Path, encoding: str, kind: str) -> Iterator[str]:
    """Find the line that the engine stumbled over, when it does not say: read only after it has failed."""
    if ".zst" in path.suffixes:
        return
    ends: dict[bytes, int] = {}
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                yield _wrong_encoding(path.name, encoding, f"line {number}").partition(" is ")[2]
                return
            if kind == "json" and line.strip() and not _is_object(line):
                yield f"line {number} is no JSON object: {line[:60].decode(encoding, 'replace').strip()!r}."
                return
            ends.setdefault(b"\r\n" if line.endswith(b"\r\n") else b"\n", number)
    if kind == "csv" and len(ends) > 1:
        change = max(ends.values())
        yield (
            f"line {change} ends otherwise than the lines before it (CRLF and LF are mixed). Save it with one kind of "
            "line end."
        )
    elif kind == "csv":
        yield from _find_open_quote(path, encoding)


def _find_open_quote(path: Path, encoding: str) -> Iterator[str]:
    with gzip.open(path, "rt", encoding=encoding) if path.suffix == ".gz" else path.open(encoding=encoding) as stream:
        for number, line in enumerate(stream, start=1):
            if line.count('"') % 2:
                yield f"line {number} opens a quotation mark that is not closed on it: {line[:60].strip()!r}."
                return


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
