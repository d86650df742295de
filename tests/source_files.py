"""Sources of events: the same four rows in every form that a log can have, and files written line by line."""

import gzip
from collections.abc import Callable
from pathlib import Path

import duckdb
import fsspec
import pandas as pd
import pyarrow as pa
import pytest

from convlib.errors import EventDataError
from convlib.events import EventLog, read_events
from convlib.sources import EventSource

GOOD = "u1,x,2026-01-01"
GOOD_JSON = '{"user_id": "u", "event_name": "x", "timestamp": "2026-01-01", "geo": "NO"}'
HEADER = "user_id,event_name,timestamp"
ROWS = pd.DataFrame(
    [
        ("u1", "view", "2026-01-01 10:00:00", "mobile", 1.5, "red"),
        ("u1", "buy", "2026-01-01 10:00:30", "mobile", 20.0, None),
        ("u2", "view", "2026-07-01 23:59:59.25", None, None, 'b"lue, or\nnot'),
        ("u3", "ping", "2026-07-02 00:00:00", "desktop", -3.0, "grün"),
    ],
    columns=["user_id", "event_name", "timestamp", "device_type", "value", "colour"],
)
TYPED = ROWS.assign(timestamp=pd.to_datetime(ROWS["timestamp"], format="ISO8601"))
PLAN = """\
macros:
  - id: purchase
    match: {event_name: buy}
"""


class Stream:
    """A table of another library, as Ibis or Polars have them: it can do nothing but export Arrow data."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.table = pa.Table.from_pandas(frame, preserve_index=False)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def write_csv(folder: Path, *lines: str, header: str = HEADER, name: str = "log.csv") -> Path:
    return write(folder / name, "\n".join([header, *lines]) + "\n")


def write_json(folder: Path, *lines: str) -> Path:
    return write(folder / "log.jsonl", "\n".join(lines) + "\n")


def write_plan(folder: Path, text: str = PLAN) -> Path:
    return write(folder / "plan.yaml", text)


def write_mapping(folder: Path, text: str) -> Path:
    return write(folder / "mapping.yaml", text)


def write_zst(path: Path, data: bytes) -> Path:
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(data)
    return path


def write_base(path: Path, **tables: pd.DataFrame) -> Path:
    with duckdb.connect(str(path)) as base:
        for name, table in tables.items():
            base.from_df(table).create(name)
    return path


def put(address: str, data: bytes) -> str:
    """Put an object where an address says."""
    with fsspec.open(address, "wb") as stream:
        stream.write(data)
    return address


def read_lines(header: str, *lines: str, **options: object) -> EventLog:
    """Read a log from lines such as `a,view,2026-01-01`; an empty field is none."""
    rows = pd.DataFrame([line.split(",") for line in lines], columns=header.split(","))
    return read_events(rows.replace("", None), **options)  # type: ignore[arg-type]


def refuse(source: EventSource, **options: object) -> EventDataError:
    with pytest.raises(EventDataError) as caught:
        read_events(source, **options)  # type: ignore[arg-type]
    return caught.value


def rejected(log: EventLog) -> list[list[object]]:
    return log.rejects[["source", "row", "reason"]].to_numpy().tolist()


def as_json(rows: pd.DataFrame = ROWS, *, lines: bool = True) -> bytes:
    return str(rows.to_json(orient="records", lines=lines)).encode()


def as_csv(rows: pd.DataFrame = ROWS, *, delimiter: str = ",") -> bytes:
    return rows.to_csv(index=False, sep=delimiter).encode()


def save_parquet(folder: Path, rows: pd.DataFrame = ROWS, name: str = "log.parquet") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / name, index=False)
    return folder / name


def save_halves(folder: Path) -> Path:
    for name, half in (("a", ROWS[:2]), ("b", ROWS[2:])):
        write(folder / "logs" / name / "part.csv", as_csv(half))
    write(folder / "logs" / "README.md", "not events")
    return folder / "logs"


def put_halves(folder: Path) -> str:
    for name, half in (("a", ROWS[:2]), ("b", ROWS[2:])):
        put(f"memory://{folder.name}/{name}.parquet", half.to_parquet(index=False))
    put(f"memory://{folder.name}/notes.txt", b"not events")
    return f"memory://{folder.name}"


#: Every form of a log that `read_events` takes.
FORMS: dict[str, Callable[[Path], EventSource]] = {
    "parquet": save_parquet,
    "typed parquet": lambda folder: save_parquet(folder, TYPED, "log.pq"),
    "csv": lambda folder: write(folder / "log.csv", as_csv()),
    "csv by semicolons": lambda folder: write(folder / "log.csv", as_csv(delimiter=";")),
    "csv in another order": lambda folder: write(folder / "log.csv", as_csv(ROWS.iloc[::-1, ::-1])),
    "csv with a mark": lambda folder: write(folder / "log.csv", b"\xef\xbb\xbf" + as_csv()),
    "tsv": lambda folder: write(folder / "log.tsv", as_csv(delimiter="\t")),
    "csv.gz": lambda folder: write(folder / "log.csv.gz", gzip.compress(as_csv())),
    "csv.zst": lambda folder: write_zst(folder / "log.csv.zst", as_csv()),
    "jsonl": lambda folder: write(folder / "log.jsonl", as_json()),
    "ndjson.gz": lambda folder: write(folder / "log.ndjson.gz", gzip.compress(as_json())),
    "jsonl.zst": lambda folder: write_zst(folder / "log.jsonl.zst", as_json()),
    "json array": lambda folder: write(folder / "log.json", as_json(lines=False)),
    "folder": save_halves,
    "glob": lambda folder: f"{save_halves(folder)}/**/*.csv",
    "duckdb, its only table": lambda folder: write_base(folder / "shop.duckdb", log=ROWS),
    "duckdb, the table events": lambda folder: write_base(folder / "shop.db", events=ROWS, users=ROWS[:1]),
    "duckdb#table": lambda folder: f"{write_base(folder / 'shop.ddb', log=ROWS, users=ROWS[:1])}#log",
    "duckdb#SELECT": lambda folder: f"{write_base(folder / 'shop.duckdb', a=ROWS, b=ROWS)}#SELECT * FROM a",
    "relation of DuckDB": lambda _: duckdb.from_df(ROWS),
    "table of PyArrow": lambda _: pa.Table.from_pandas(ROWS, preserve_index=False),
    "any table that exports Arrow": lambda _: Stream(ROWS),
    "address of csv": lambda folder: put(f"memory://{folder.name}/log.csv", as_csv()),
    "address of csv.gz": lambda folder: put(f"memory://{folder.name}/log.csv.gz", gzip.compress(as_csv())),
    "address of jsonl": lambda folder: put(f"memory://{folder.name}/log.jsonl", as_json()),
    "address of parquet": lambda folder: put(f"memory://{folder.name}/log.parquet", TYPED.to_parquet(index=False)),
    "address of a folder": put_halves,
    "address with *": lambda folder: f"{put_halves(folder)}/*.parquet",
}
