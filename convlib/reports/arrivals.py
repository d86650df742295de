"""What is new of a growing source since the last look: files, lines at the end of files, rows of a database."""

import contextlib
import dataclasses
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from convlib.durations import parse_duration
from convlib.engine import quote
from convlib.errors import ConvlibError, EventDataError, RunError
from convlib.events import EventLog, find_mapping, read_events
from convlib.mapping import Mapping as SourceMapping
from convlib.prepare import Prepared, prepare
from convlib.reports.run_file import RunFile
from convlib.sources import ADDRESS, Source, find_source

#: Text files without packing, of which the lines at the end may be read alone.
GROWING = (".jsonl", ".ndjson", ".csv", ".tsv")
#: So much of a file is read at one look, and so much before the place reached tells that the file is still the same.
MOST_BYTES, TAIL_BYTES = 64_000_000, 4_096
Facts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A file, or the part of one, that has not been read.

    Attributes:
        name: The file.
        start: The first byte that is new.
        stop: The byte after the last one that is taken.
        facts: What is to be known of the file once it is read: `size`, `changed`, `read_to`, `tail`.
    """

    name: str
    start: int
    stop: int
    facts: Facts

    @property
    def is_whole(self) -> bool:
        """Say whether it is the file as it stands."""
        return self.start == 0 and self.stop == self.facts["size"]


@dataclasses.dataclass
class Batch:
    """What one look brought: the prepared rows, what is known of each file now, and what went wrong."""

    logs: list[Prepared] = dataclasses.field(default_factory=list)
    files: dict[str, Facts] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def read(self, source: Source, mapping: SourceMapping, explain: Callable[[str], str] = str) -> bool:
        """Read a source as any log is read; what can't be read is a warning.

        Returns:
            Whether it was there: what has gone, or can't be opened now, is to be tried again.
        """
        try:
            self.logs.append(prepare(source, plan=None, mapping=mapping))
        except ConvlibError as error:
            self.warnings += map(explain, error.problems)
        except OSError as error:
            self.warnings.append(f"`{error.filename}` can't be read now: {error.strerror}. It is tried again.")
            return False
        return True

    def remove(self) -> None:
        """Delete what reading wrote."""
        for log in self.logs:
            shutil.rmtree(log.folder, ignore_errors=True)


class Files:
    """A folder or glob to which files are added, or text files that grow at their end.

    A file is taken when its size and its time of change are what they were at the last look. Of a growing text file
    all whole lines are taken at once, and a last line without an end as soon as the file rests.
    """

    def __init__(self, run_file: RunFile, mapping: SourceMapping) -> None:
        self.place, self.mapping = run_file.resolve(run_file.events), mapping
        self.seen: dict[str, tuple[int, int]] = {}

    @contextlib.contextmanager
    def look(self, known: Mapping[str, Facts], _since: pd.Timestamp | None) -> Iterator[Batch]:
        """Read what is new; what was written for it is gone afterwards.

        Args:
            known: What is known of each file that was read.
        """
        batch = Batch()
        with tempfile.TemporaryDirectory(prefix="convlib-watch-") as folder:
            try:
                source = find_source(self.place, encoding=self.mapping.encoding)
            except EventDataError as error:
                batch.warnings += error.problems
                yield batch
                return
            self._read(batch, source, known, Path(folder))
            try:
                yield batch
            finally:
                batch.remove()

    def _read(self, batch: Batch, source: Source, known: Mapping[str, Facts], folder: Path) -> None:
        arrivals = [each for name in source.files if (each := self._find(name, known.get(name), batch)) is not None]
        self._read_together(batch, source, [each for each in arrivals if each.is_whole])
        for number, each in enumerate(each for each in arrivals if not each.is_whole):
            place = folder / str(number) / Path(each.name).name
            place.parent.mkdir()
            skipped = f"`{place.name}` from byte {each.start:,} on is not counted: {{}}".format
            with contextlib.suppress(FileNotFoundError):  # it has just gone
                _copy_lines(each, place)
                batch.read(dataclasses.replace(source, files=(str(place),)), self.mapping, skipped)
                batch.files[each.name] = each.facts

    def _read_together(self, batch: Batch, source: Source, arrivals: list[Arrival]) -> None:
        """Read files at once; when that fails, one by one, so that a broken one does not hold the others up."""
        if not arrivals:
            return
        tried, first = Batch(), Path(arrivals[0].name).name
        files = tuple(each.name for each in arrivals)
        was_there = tried.read(
            dataclasses.replace(source, files=files), self.mapping, f"`{first}` is not counted: {{}}".format
        )
        if tried.warnings and len(arrivals) > 1:
            for each in arrivals:
                self._read_together(batch, source, [each])
            return
        batch.logs += tried.logs
        batch.warnings += tried.warnings
        batch.files |= {each.name: each.facts for each in arrivals if was_there}

    def _find(self, name: str, known: Facts | None, batch: Batch) -> Arrival | None:
        try:
            return self._judge(name, known, batch)
        except FileNotFoundError:  # it has just gone
            return None

    def _judge(self, name: str, known: Facts | None, batch: Batch) -> Arrival | None:
        path = Path(name)
        if path.name.startswith((".", "_")):
            return None
        size, changed = path.stat().st_size, path.stat().st_mtime_ns
        if known and (known["size"], known["changed"]) == (size, changed) and known["read_to"] == size:
            return None
        rests = self.seen.get(name) == (size, changed)
        self.seen[name] = (size, changed)
        if path.suffix.lower() in GROWING and self.mapping.encoding == "utf-8":
            return self._find_lines(path, known, size, changed, rests, batch)
        if known:
            if known["changed"] != changed:
                batch.warnings.append(f"`{name}` changed after it was read; that is not counted. Add files instead.")
                batch.files[name] = {**known, "size": size, "changed": changed, "read_to": size}
            return None
        if not (rests and size):
            return None
        return Arrival(name, 0, size, {"size": size, "changed": changed, "read_to": size})

    def _find_lines(
        self, path: Path, known: Facts | None, size: int, changed: int, rests: bool, batch: Batch
    ) -> Arrival | None:
        known = known or {"read_to": 0, "tail": hash_tail(path, 0), "ends_line": True}
        start = int(known["read_to"])
        facts: Facts = {"size": size, "changed": changed}
        if "tail" not in known:  # said already
            return None
        if size < start or hash_tail(path, start) != known["tail"] or (size > start and not known["ends_line"]):
            batch.warnings.append(
                f"`{path}` changed where it was read already; what is new in it is not counted. Append whole lines, or "
                "add files."
            )
            batch.files[str(path)] = {**facts, "read_to": size}
            return None
        stop, ends_line = _find_end(path, start, size, takes_rest=rests)
        if stop == start:
            return None
        facts |= {"read_to": stop, "tail": hash_tail(path, stop), "ends_line": ends_line}
        return Arrival(str(path), start, stop, facts)


class Database:
    """A table of a DuckDB file or of a database that Ibis reads, whose latest rows are asked for again and again."""

    def __init__(self, run_file: RunFile, mapping: SourceMapping, late: str) -> None:
        self.place, self.mapping, self.engine = run_file.resolve(run_file.events), mapping, run_file.engine
        self.late = pd.Timedelta(parse_duration(late), "us")
        read = mapping.columns.get("timestamp")
        if read is not None and (len(read.column) != 1 or read.format or read.expression):
            raise RunError(
                f"{run_file.locate('mapping')}: to watch a database, `timestamp` must be one column of times there, "
                "because only its latest rows are asked for. Map it without `format` and `expression`."
            )
        self.column = read.column[0] if read else "timestamp"

    @contextlib.contextmanager
    def look(self, _known: Mapping[str, Facts], since: pd.Timestamp | None) -> Iterator[Batch]:
        """Read the rows from the time of the last one on, less the allowance for late ones.

        Args:
            since: The time of the last row that was read; None reads all.
        """
        batch = Batch()
        try:
            source = self._open(None if since is None else since - self.late)
            if source is not None:
                batch.read(source, self.mapping)
        except ConvlibError as error:
            batch.warnings += error.problems
        try:
            yield batch
        finally:
            batch.remove()

    def _open(self, since: pd.Timestamp | None) -> Source | None:
        if self.engine == "duckdb":
            source = find_source(self.place)
            table = source.query or "events"
            origin = f"({table})" if re.match(r"\s*(select|from|with)\s", table, re.IGNORECASE) else table
            after = "" if since is None else f" WHERE {self._write_test(since)}"
            return dataclasses.replace(source, query=f"SELECT * FROM {origin}{after}")  # noqa: S608  # the user's own query
        try:
            return self._fetch(since)
        except ConvlibError:
            raise
        except Exception as error:  # noqa: BLE001  # drivers have no error in common
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise EventDataError(f"`{self.place}` can't be read now: {said[0]}. It is tried again.") from None

    def _localize(self, moment: pd.Timestamp) -> pd.Timestamp:
        """Give a moment, UTC, as a column without a zone has it."""
        return moment.tz_localize("UTC").tz_convert(self.mapping.timezone).tz_localize(None)

    def _write_test(self, since: pd.Timestamp) -> str:
        """Write which rows are new enough, for a column of times with or without a zone, or of texts."""
        name = quote(self.column)
        # Texts may carry a zone or not.
        zoned, plain = (t.value // 1_000 for t in (since, min(since, self._localize(since))))
        return (
            f"CASE typeof({name}) WHEN 'TIMESTAMP WITH TIME ZONE' "
            f"THEN epoch_us(TRY_CAST({name} AS TIMESTAMPTZ)) >= {zoned} "
            f"ELSE epoch_us(TRY_CAST({name} AS TIMESTAMP)) >= {plain} END"
        )

    def _fetch(self, since: pd.Timestamp | None) -> Source | None:
        log = read_events(self.place, mapping=self.mapping, engine=self.engine)
        table: Any = log.engine.log.table if log.engine else None
        try:
            if since is not None:
                zone = getattr(table[self.column].type(), "timezone", None)
                after = since.tz_localize("UTC") if zone else self._localize(since)
                table = table.filter(table[self.column] >= after.to_pydatetime())
            rows = table.to_pyarrow()
        finally:
            disconnect(log)
        return find_source(rows) if rows.num_rows else None


def open_source(run_file: RunFile, *, late: str) -> Files | Database:
    """Tell how a run file's source grows.

    Raises:
        RunError: It is one that can't be watched.
    """
    mapping = find_mapping(run_file.resolve(run_file.mapping) or None)
    if run_file.engine == "ibis":
        return Database(run_file, mapping, late)
    if run_file.engine != "duckdb":
        raise RunError(
            f"{run_file.locate('engine')}: `engine` is {run_file.engine!r}, which can't be watched: give 'duckdb', or "
            "'ibis' for a database."
        )
    place = run_file.resolve(run_file.events)
    if place.startswith("dataset:") or ADDRESS.match(place):
        raise RunError(
            f"{run_file.locate('events')}: `events` is {run_file.events!r}, which can't be watched: give a folder or "
            "glob to which files are added, a DuckDB file, or a database with `engine: ibis`."
        )
    if mapping.identity is not None:
        raise RunError(f"{run_file.locate('mapping')}: `identity` needs the whole log, so it can't be watched.")
    is_database = re.search(r"\.(duckdb|ddb|db)(#|$)", place)
    return Database(run_file, mapping, late) if is_database else Files(run_file, mapping)


def disconnect(log: EventLog) -> None:
    """Close the connection of a log that stays in its database."""
    if log.engine:
        log.engine.log.table.get_backend().disconnect()


def hash_tail(path: Path, end: int) -> str:
    """Fingerprint what lies before a place in a file."""
    start = max(end - TAIL_BYTES, 0)
    with path.open("rb") as stream:
        stream.seek(start)
        return hashlib.sha256(stream.read(end - start)).hexdigest()


def _find_end(path: Path, start: int, size: int, *, takes_rest: bool) -> tuple[int, bool]:
    """Tell up to where a text file can be read, and whether a line ends there."""
    with path.open("rb") as stream:
        stream.seek(start)
        content = stream.read(min(size - start, MOST_BYTES))
    if takes_rest and start + len(content) == size:
        return size, content.endswith(b"\n")
    end = content.rfind(b"\n") + 1
    # A line's end within quotation marks is part of a value.
    while end and path.suffix.lower() in (".csv", ".tsv") and content.count(b'"', 0, end) % 2:
        end = content.rfind(b"\n", 0, end - 1) + 1
    return start + end, True


def _copy_lines(arrival: Arrival, place: Path) -> None:
    """Copy the new lines, those of a CSV file under its heading."""
    path = Path(arrival.name)
    with path.open("rb") as stream, place.open("wb") as copy:
        if arrival.start and path.suffix.lower() in (".csv", ".tsv"):
            copy.write(stream.readline())
        stream.seek(arrival.start)
        copy.write(stream.read(arrival.stop - arrival.start))
