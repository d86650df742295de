"""What a source of events means: which files, table or frame it is, how it is opened, and what it cannot be."""

import dataclasses
import glob
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import duckdb
import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from convlib.datasets.files import dataset_path
from convlib.documents import did_you_mean, list_siblings, quote_names
from convlib.engine import connect, place, quote, text
from convlib.errors import EventDataError
from convlib.text_files import (
    ENCODINGS,
    PACKED,
    begins_with,
    find_delimiter,
    find_line_fault,
    find_start_faults,
    find_twins,
    list_keys,
    read_rows,
    recode,
    word_bad_line,
    word_encoding,
)

Kind = Literal["parquet", "csv", "json", "duckdb"]
READERS: dict[str, Kind] = {
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    **dict.fromkeys((".duckdb", ".ddb", ".db"), "duckdb"),
}
ADDRESS = re.compile(r"[a-z][a-z0-9+]+://")
#: Columns that opening adds: the file that a row is from and, of Parquet, its number there. No source has such names.
FILE, ROW = "convlib file", "convlib row"
#: Where the engine notes the lines of a CSV file that it can't split into fields.
BAD_LINES = "convlib_bad_lines"
#: So much of a line is shown of what the engine says.
LONGEST = 200
#: What pandas calls columns of Python objects that the engine has no one type for.
MIXED = ("mixed", "mixed-integer", "bytes", "period", "complex", "interval")


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
        folder: Where files that were fetched from an address lie.
    """

    given: EventSource
    files: tuple[str, ...] = ()
    kind: Kind | None = None
    encoding: str = "utf-8"
    query: str = ""
    folder: str = ""

    @property
    def label(self) -> str:
        """Name the source as the user did."""
        return str(self.given) if isinstance(self.given, str | Path) else type(self.given).__name__

    def shorten(self, name: str) -> str:
        """Name one of the source's files as briefly as tells it from the others."""
        folder = Path(self.folder or str(self.given)).resolve()
        if name in self.files and folder.is_dir() and len(self.files) > 1:
            return Path(name).relative_to(folder).as_posix()
        return Path(name).name if name in self.files and len(self.files) == 1 else name

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
            return [[name, *_find_version(name)] for name in self.files]
        # Size and times of change stand for a file's content: hashing 5 GB in every notebook would cost too much.
        logs = [f"{name}.wal" for name in self.files if self.kind == "duckdb" and Path(f"{name}.wal").exists()]
        facts = [(name, Path(name).stat()) for name in (*self.files, *logs)]
        return [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in facts] + [self.query]

    def fetch(self, folder: Path) -> Self:
        """Copy what lies at an address, or in an encoding that the engine lacks, into a folder: then it is any file.

        Raises:
            EventDataError: An object can't be fetched, or a file is not in the stated encoding.
        """
        if self.kind == "csv" and self.is_local and self.encoding not in ENCODINGS:
            return self._recode(folder)
        if self.is_local or not self.files:
            return self
        system, _ = fsspec.core.url_to_fs(self.files[0])
        paths = [system._strip_protocol(name) for name in self.files]
        root = os.path.commonpath([path.rpartition("/")[0] for path in paths])
        local = [str(folder / path.removeprefix(root).lstrip("/")) for path in paths]
        try:
            system.get(paths, local)
        except OSError as error:
            raise EventDataError(f"`{self.label}` can't be fetched: {error}.") from error
        return dataclasses.replace(self, files=tuple(local), folder=str(folder))

    def _recode(self, folder: Path) -> Self:
        local = [
            folder / str(number) / Path(name).name.removesuffix(".gz").removesuffix(".zst")
            for number, name in enumerate(self.files)
        ]
        for name, path in zip(self.files, local, strict=True):
            path.parent.mkdir()
            recode(Path(name), path, self.encoding)
        return dataclasses.replace(self, files=tuple(map(str, local)), folder=str(folder), encoding="utf-8")

    def digest(self) -> str:
        """Hash the content."""
        digest = hashlib.sha256()
        for name in self.files:
            with Path(name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        if isinstance(self.given, pd.DataFrame):
            digest.update(",".join(f"{name} {kind}" for name, kind in self.given.dtypes.items()).encode())
            texts = self.given.copy(deep=False)
            for name in texts.columns[texts.dtypes == "object"]:
                texts[name] = texts[name].map(repr)  # lists can't be hashed
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
        if isinstance(self.given, pd.DataFrame):
            return connect().from_df(_simplify(self.given)).project(f"*, {text(self.label)} AS {quote(FILE)}")
        # A stream: it can be read once.
        return connect().from_arrow(self._stream()).project(f"*, {text(self.label)} AS {quote(FILE)}")

    def _stream(self) -> pa.RecordBatchReader:
        if self.kind != "duckdb":
            return _stream(self.given)
        base = duckdb.connect(self.files[0], read_only=True)
        chosen = self.query if _is_query(self.query) else f"FROM {_choose_table(base, self)}"
        return _stream(base.sql(chosen))

    def _read_csv(self, name: str) -> str:
        delimiter = text(find_delimiter(Path(name), self.encoding))
        options = (
            f"""header=true, all_varchar=true, quote='"', escape='"', encoding={text(self.encoding)}, """
            f"hive_partitioning=true, hive_types_autocast=false, store_rejects=true, "
            f"rejects_table='{BAD_LINES}', rejects_scan='{BAD_LINES}_scans', delim={delimiter}"
        )
        return f"(SELECT *, {text(name)} AS {quote(FILE)} FROM read_csv({place(name)}, {options}))"

    def _read_json(self, name: str) -> str:
        # As text, like CSV: a guessed type fails the whole log at its first odd row, and drops the times' offsets.
        layout = "auto" if begins_with(Path(name), b"[") else "newline_delimited"
        options = f"ignore_errors=true, format='{layout}', hive_partitioning=true, hive_types_autocast=false"
        found = connect().sql(f"FROM read_json({place(name)}, {options}, sample_size=-1)").columns
        if found == ["json"]:  # a line that is JSON, but no object, hides the columns of all others
            found = list_keys(Path(name)) or found
        columns = ", ".join(f"{text(column)}: 'VARCHAR'" for column in found)
        return (
            f"(SELECT *, {text(name)} AS {quote(FILE)} FROM read_json({place(name)}, {options}, columns={{{columns}}}))"
        )

    def read_statistics(self) -> pd.DataFrame:
        """Read what Parquet files say of their columns: by `column` the `values`, `nulls` and `least` value as text.

        `least` is null where a file says nothing of it.
        """
        names = ", ".join(map(place, self.files))
        known = "coalesce(bool_and(stats_min_value IS NOT NULL OR stats_null_count = num_values), FALSE)"
        nulls = "coalesce(sum(coalesce(stats_null_count, num_values)), 0)"
        least = f"CASE WHEN {known} THEN coalesce(min(stats_min_value), 'none') END"
        counts = f"sum(num_values) AS values, {nulls} AS nulls, {least} AS least"
        query = f'SELECT path_in_schema AS "column", {counts} FROM parquet_metadata([{names}])'
        return connect().sql(f"{query} GROUP BY ALL").df().set_index("column")

    def check(self) -> None:
        """Refuse what the engine would read as something else, with every problem found.

        Raises:
            EventDataError: A file is empty, is not in the stated encoding, or names a column twice.
        """
        problems: list[str] = []
        if not self.files:
            frame = self.given if isinstance(self.given, pd.DataFrame) else None
            names = self._stream().schema.names if frame is None else frame.columns.map(str)
            problems += find_twins(self.label, list(names))
        for name in self.files if self.kind == "parquet" else ():
            problems += find_twins(Path(name).name, self._read_schema(name))
        for name in self.files if self.is_text else ():
            problems += find_start_faults(Path(name), kind=str(self.kind), encoding=self.encoding)
        if self.files and not any(Path(name).stat().st_size for name in self.files):
            problems = [f"`{self.label}` is empty: it has no rows. Check the export."]
        if problems:
            raise EventDataError(*problems)

    def _read_schema(self, name: str) -> list[str]:
        try:
            names: list[str] = pq.read_schema(name).names
        except (OSError, pa.ArrowException):
            return []  # the engine says what is wrong with it
        return names

    def explain(self, error: Exception) -> str:
        """Say what the engine could not read, with the line where one can be found."""
        for name in self.files if self.is_text else ():
            found = find_line_fault(Path(name), kind=str(self.kind), encoding=self.encoding)
            if found:
                return found
        said = str(error).split("\nLINE 1:")[0]  # what follows shows the engine's query
        lines = [line.strip()[:LONGEST] for line in said.splitlines() if line.strip()]
        what = " ".join(lines[:4]).removesuffix(".")
        return f"`{self.label}` can't be read: {what}. Check it, or export it again."

    def read_garbled(self, name: str, rows: Sequence[int]) -> list[str | None]:
        """Read lines of a JSON file as they stand there, by the number of the row; blank lines have none."""
        return read_rows(Path(name), rows) if self.kind == "json" else [None] * len(rows)

    def list_bad_lines(self) -> pd.DataFrame:
        """List the CSV lines that could not be split into fields: `source`, `row` (the line), `reason`, `text`.

        Raises:
            EventDataError: A line is not in the stated encoding, or leaves a quotation mark open: rows would have been
                lost or changed without a word.
        """
        names = ["source", "row", "reason", "text"]
        if self.kind != "csv":
            return pd.DataFrame(columns=names)
        query = f"""
            SELECT file_path, line, any_value(error_type::VARCHAR), any_value(csv_line),
                   list(error_message ORDER BY column_idx)
            FROM {BAD_LINES} JOIN {BAD_LINES}_scans USING (scan_id, file_id) GROUP BY ALL ORDER BY ALL"""
        found = connect().execute(query).fetchall()
        for file, line, kind, _, said in found:
            if kind == "INVALID ENCODING":
                where = f"line {line} holds other bytes"
                raise EventDataError(word_encoding(Path(file).name, "csv", self.encoding, where))
            if kind == "UNQUOTED VALUE":  # what follows it was read as one field
                raise EventDataError(self.explain(ValueError(said[0])))
        rows = [(str(f), line, f"line can't be split: {word_bad_line(said)}", raw) for f, line, _, raw, said in found]
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
        if isinstance(given, pa.RecordBatchReader):
            given = given.read_all()  # it gives its rows once, and they are needed twice
        if isinstance(given, pd.DataFrame) or hasattr(given, "__arrow_c_stream__"):
            return Source(given)
        msg = (
            f"`events` is of type {type(given).__name__}; give a file, a folder, a DataFrame or a table that exports "
            "Arrow."
        )
        raise EventDataError(msg)
    place, _, query = re.sub(r"(\.(duckdb|ddb|db))#", r"\1\0", str(given), count=1).partition("\0")
    files = _find_files(place)
    kinds = {_kind(name) for name in files}
    if len(kinds) != 1 or None in kinds:
        found = sorted({Path(name).suffix or Path(name).name for name in files})
        msg = (
            f"`{given}` can't be read: its files end in {quote_names(found)}; give files of one kind among "
            f"{quote_names(sorted(READERS))}, CSV and JSON also packed as .gz or .zst."
        )
        raise EventDataError(msg)
    return Source(given, tuple(files), kinds.pop(), encoding, query)


def _find_files(place: str) -> list[str]:
    """List the files that a path, folder, glob, address or `dataset:NAME` means, in name order."""
    if not place:
        raise EventDataError("`events` is ''; give a file, a folder, a glob or `dataset:NAME`.")
    if place.startswith("dataset:"):
        return [str(dataset_path(place.removeprefix("dataset:")))]
    if ADDRESS.match(place):
        return _find_remote(place)
    path = Path(place)
    if path.is_dir():
        found = [each for each in sorted(path.rglob("*")) if _kind(str(each)) and each.is_file()]
    else:
        found = [path] if path.exists() else [Path(each) for each in sorted(glob.glob(place, recursive=True))]
    if not found:
        near = did_you_mean(path.name, list_siblings(path))
        msg = (
            f"No events at `{place}`: there is no such file, folder or match.{near} Check `events`; in a run file "
            "a relative path starts at the run file's folder, in a notebook at the notebook's."
        )
        raise EventDataError(msg)
    return [str(each.resolve()) for each in found]  # the prepared form may be opened from another folder


def _find_remote(place: str) -> list[str]:
    """List the objects that an address means."""
    try:
        system, path = fsspec.core.url_to_fs(place)
        listed = system.glob(path) if "*" in path else system.find(path)
    except (ImportError, OSError, ValueError) as error:
        raise EventDataError(f"`{place}` can't be reached: {error}. Check the address and its credentials.") from error
    found = [system.unstrip_protocol(name) for name in sorted(listed) if _kind(name)]
    if not found:
        kinds = quote_names(sorted(READERS))
        raise EventDataError(f"No events at `{place}`: no object of a kind among {kinds} is there. Check the address.")
    return found


def _find_version(address: str) -> list[str]:
    """Say which version of an object lies at an address; where nobody says, every reading is a new one."""
    system, path = fsspec.core.url_to_fs(address)
    info = system.info(path)
    known = [str(info[key]) for key in ("ETag", "etag", "LastModified", "mtime", "updated", "created") if info.get(key)]
    return [str(info.get("size")), *(known or [str(time.time_ns())])]


def _kind(name: str) -> Kind | None:
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
        packed = READERS.get(suffixes[-1]) if suffixes else None
        return packed if packed in ("csv", "json") else None
    return READERS.get(suffixes[-1]) if suffixes else None


def read_parquet(files: Sequence[str]) -> str:
    """Write the query for Parquet files with `FILE` and `ROW`."""
    names = ", ".join(map(place, files))
    options = (
        "filename=true, file_row_number=true, union_by_name=true, hive_partitioning=true, hive_types_autocast=false"
    )
    added = f"filename AS {quote(FILE)}, file_row_number + 1 AS {quote(ROW)}"
    return f"SELECT * EXCLUDE (filename, file_row_number), {added} FROM read_parquet([{names}], {options})"


def _simplify(frame: pd.DataFrame) -> pd.DataFrame:
    """Give columns of mixed Python objects as text, nested ones as JSON: the engine would choose a type by a sample."""
    mixed = [name for name in frame.columns if pd.api.types.infer_dtype(frame[name], skipna=True) in MIXED]
    return frame.assign(**{name: frame[name].map(_write_plain, na_action="ignore") for name in mixed})


def _write_plain(value: object) -> str:
    return json.dumps(value, default=str) if isinstance(value, dict | list | tuple) else str(value)


def _stream(table: Any) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_stream(table)


def _is_query(query: str) -> bool:
    return bool(re.match(r"\s*(select|from|with)\s", query, re.IGNORECASE))


def _choose_table(base: duckdb.DuckDBPyConnection, source: Source) -> str:
    found = base.sql("SELECT table_schema, table_name FROM information_schema.tables ORDER BY ALL").fetchall()
    tables = {name if schema == "main" else f"{schema}.{name}": (schema, name) for schema, name in found}
    only = next(iter(tables)) if len(tables) == 1 else ""
    wanted = source.query or ("events" if "events" in tables else only)
    if wanted not in tables:
        listed = ", ".join(map(repr, tables))
        msg = f"`{source.label}`: the file has the tables {listed}; name one: `{source.files[0]}#TABLE`, or a SELECT."
        raise EventDataError(msg)
    return ".".join(map(quote, tables[wanted]))
