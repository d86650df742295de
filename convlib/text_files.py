"""What is wrong with a text file: its encoding, its columns, its lines, its packing."""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from convlib.errors import EventDataError

ENCODINGS = {"utf-8": "UTF-8", "utf-16": "UTF-16", "latin-1": "Latin-1"}
PACKED = {".gz", ".zst"}
MARKS = (b"\xff\xfe", b"\xfe\xff")
START = 1 << 16
SHOWN = 60


def find_start_faults(path: Path, *, kind: str, encoding: str) -> list[str]:
    """Say what the engine would read as something else: a broken packing, another encoding, a column twice."""
    if not path.stat().st_size:
        return []
    try:
        with _open(path) as stream:
            start = stream.read(START)
            while path.suffix in PACKED and stream.read(START):
                pass  # the engine would read what is there of a file that was cut off
    except OSError as error:
        return [f"`{path.name}` can't be unpacked: {error}. It may have been cut off; copy or export it again."]
    if start.startswith(MARKS) and encoding != "utf-16":
        return [word_encoding(path.name, kind, encoding, "it begins with the mark of UTF-16")]
    if encoding != "utf-16" and b"\0" in start:
        return [word_encoding(path.name, kind, encoding, "it holds NUL bytes, as UTF-16 does")]
    if kind == "json":
        return _find_garbled(start, path.name)
    first = _first_line(start, encoding)
    return find_twins(path.name, next(csv.reader([first], delimiter=_delimiter(first, path)), []))


def _find_garbled(start: bytes, name: str) -> list[str]:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)  # a letter cut in two at the end is no fault
    except UnicodeDecodeError as error:
        line = start.count(b"\n", 0, error.start) + 1
        return [word_encoding(name, "json", "utf-8", f"line {line} holds other bytes")]
    return []


def recode(source: Path, target: Path, encoding: str) -> None:
    """Write a text file again as UTF-8.

    Raises:
        EventDataError: There is no such encoding, or the file is not in it.
    """
    try:
        with _open(source) as stream, target.open("w", encoding="utf-8", newline="") as written:
            for line in codecs.getreader(encoding)(stream):
                written.write(line)
    except LookupError:
        known = ", ".join(map(repr, (*ENCODINGS, "cp1252")))
        msg = f"`encoding` is {encoding!r}; it must be one that Python knows, such as {known}."
        raise EventDataError(msg) from None
    except UnicodeDecodeError as error:
        msg = f"`{source.name}` is not {encoding}: {error.reason} at byte {error.start:,}. State its true encoding."
        raise EventDataError(msg) from None


def find_delimiter(path: Path, encoding: str) -> str:
    """Find what parts the fields, by the first line."""
    with _open(path) as stream:
        return _delimiter(_first_line(stream.read(START), encoding), path)


def find_twins(label: str, columns: Sequence[str]) -> list[str]:
    """Name the columns that a table has more than once."""
    counts = Counter(name.strip().lower() for name in columns)
    twins = [name for name, count in counts.items() if count > 1]
    return [f"`{label}` has the column `{name}` {counts[name]} times; rename or remove all but one." for name in twins]


def find_line_fault(path: Path, *, kind: str, encoding: str) -> str | None:
    """Find the line that the engine stumbled over, when it does not say: read only after it has failed."""
    ends: dict[str, int] = {}
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                return word_encoding(path.name, kind, encoding, f"line {number} holds other bytes")
            if kind == "json" and line.strip() and not _is_object(line):
                return f"`{path.name}` can't be read: line {number} is no JSON object: {_show(line, encoding)}."
            ends.setdefault("CRLF" if line.endswith(b"\r\n") else "LF", number)
    if kind == "csv" and len(ends) > 1:
        name, number = max(ends.items(), key=lambda end: end[1])
        return (
            f"`{path.name}` can't be read: line {number} ends in {name} and the lines before it do not. Save it with "
            "one kind of line end."
        )
    return _find_open_quote(path, encoding) if kind == "csv" else None


def begins_with(path: Path, mark: bytes) -> bool:
    """Say whether the first thing in a file, blanks apart, is this mark."""
    with _open(path) as stream:
        return stream.read(START).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(mark)


def word_encoding(name: str, kind: str, encoding: str, found: str) -> str:
    """Say that a file is not in the encoding that was stated."""
    others = ", ".join(f"`encoding: {other}`" for other in (*ENCODINGS, "cp1252") if other != encoding)
    stated = f", or state {others} in a mapping file" if kind == "csv" else ""
    return f"`{name}` is not {ENCODINGS.get(encoding, encoding)}: {found}. Save it as UTF-8{stated}."


def read_rows(path: Path, rows: Sequence[int]) -> list[str | None]:
    """Read some of a file's lines that are not blank, by their number from 1."""
    wanted = dict.fromkeys(rows)
    with _open(path) as stream:
        for number, line in enumerate((line for line in stream if line.strip()), start=1):
            if number in wanted:
                wanted[number] = line.decode("utf-8", "replace").rstrip("\r\n")
    return [wanted[row] for row in rows]


def list_keys(path: Path) -> list[str]:
    """List the keys of a JSON-lines file's objects, in the order of their first use."""
    with _open(path) as stream:
        return list(dict.fromkeys(key for line in stream if _is_object(line) for key in json.loads(line)))


def word_bad_line(messages: Sequence[str]) -> str:
    """Reword the engine's notes on a line, one a field: `Expected Number of Columns: 4 Found: 6`."""
    counts = [re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message) for message in messages]
    found = [(int(each[2]), int(each[1])) for each in counts if each]
    if not found:
        return messages[0].splitlines()[0]
    most, expected = max(found)
    count = most if most > expected else min(found)[0]
    return f"{count} field{'' if count == 1 else 's'} instead of {expected}"


def _find_open_quote(path: Path, encoding: str) -> str | None:
    """Find the line from which a quotation mark is left open, or the first with text beside a closed one."""
    opened, shown, stray = 0, b"", 0
    part = re.escape(find_delimiter(path, encoding).encode())
    beside = re.compile(rb'(?:^|%b)"(?:[^"]|"")*"[^%b\r\n]' % (part, part))
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.count(b'"') % 2:
                opened, shown = (0, shown) if opened else (number, line)
            elif not opened and not stray and beside.search(line):
                stray, shown = number, line
    if not (opened or stray):
        return None
    fault = (
        f"line {opened} opens a quotation mark that is never closed"
        if opened
        else f"line {stray} has text beside a quoted field"
    )
    return (
        f"`{path.name}` can't be read: {fault}: {_show(shown, encoding)}. Close it, or double it inside a quoted field."
    )


def _open(path: Path) -> io.BufferedReader:
    return io.BufferedReader(pa.input_stream(str(path), compression="detect"))


def _first_line(start: bytes, encoding: str) -> str:
    return (start.decode(encoding, "replace").splitlines() or [""])[0].lstrip("\ufeff")


def _delimiter(first: str, path: Path) -> str:
    return "\t" if ".tsv" in path.suffixes else max(",;|\t", key=first.count)


def _show(line: bytes, encoding: str) -> str:
    return repr(line[:SHOWN].decode(encoding, "replace").strip())


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
