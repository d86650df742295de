"""The prepared rows as arrays on disk, one file a column: read again and again without an engine."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from convlib.canonical import NO_VALUE
from convlib.engine import quote, scan

#: The columns of numbers, and how the engine gives them.
NUMBERS: dict[str, tuple[str, np.dtype[Any]]] = {
    "user": ("CAST(user AS INTEGER)", np.dtype(np.int32)),
    "session": ("coalesce(CAST(session AS INTEGER), -1)", np.dtype(np.int32)),
    "time": ("epoch_us(timestamp)", np.dtype(np.int64)),
    "event": ("CAST(event AS BIGINT)", np.dtype(np.int64)),
    "value": ("coalesce(value, 'NaN'::DOUBLE)", np.dtype(np.float64)),
}
#: Rows that are on their way at a time.
BATCH = 1_000_000


def read_numbers(rows: Path, name: str) -> NDArray[Any]:
    """Open one of `NUMBERS` of the prepared rows, in their order.

    Args:
        rows: The file of the prepared conversions or of other activity, beside which the arrays are kept.
        name: The column.
    """
    path = rows.with_name(f"{rows.stem}.{name}.npy")
    if not path.exists():
        expression, kind = NUMBERS[name]
        _write(path, rows, expression, kind, None)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def read_texts(rows: Path, name: str) -> tuple[NDArray[Any], "pd.Series[str]"]:
    """Open a column as places in the list of its values as text, which is in order."""
    # A column may have any name, and a file may not.
    path = rows.with_name(f"{rows.stem}.text-{hashlib.sha256(name.encode()).hexdigest()[:16]}.npy")
    text = f"coalesce(CAST({quote(name)} AS VARCHAR), '{NO_VALUE}')"
    values = path.with_suffix(".parquet")
    if not path.exists():
        distinct = scan(rows).project(f"{text} AS x").distinct().order("x").to_arrow_table()
        with _whole(values) as scratch:
            pq.write_table(distinct, scratch)
    known = pq.read_table(values).column("x").combine_chunks()
    if not path.exists():
        _write(path, rows, text, np.min_scalar_type(len(known)), known)
    return np.load(path, mmap_mode="r"), known.to_pandas()


@numba.njit(cache=True, nogil=True)
def find_first_rows(unit: NDArray[Any], time: NDArray[Any], low: int, high: int) -> NDArray[np.int64]:
    """Find the first row of each unit from `low` until before `high`; a unit below 0 is none.

    Args:
        unit: The rows' units; the rows of one are in order of time.
        time: The rows' times.
        low: The first time that counts.
        high: The first that does not count any more.

    Returns:
        The rows' places, in order of unit.
    """
    first = np.full(max(unit.max(), -1) + 1 if len(unit) else 0, -1)
    for row in range(len(unit)):
        if unit[row] >= 0 and first[unit[row]] < 0 and low <= time[row] < high:
            first[unit[row]] = row
    return first[first >= 0]


def _write(path: Path, rows: Path, expression: str, kind: np.dtype[Any], known: pa.Array | None) -> None:
    """Write a column batch by batch."""
    with _whole(path) as scratch:
        shape = (pq.read_metadata(rows).num_rows,)
        values = np.lib.format.open_memmap(scratch, mode="w+", dtype=kind, shape=shape)
        low = 0
        for batch in scan(rows).project(f"{expression} AS x").to_arrow_reader(BATCH):
            found = batch.column(0) if known is None else pc.index_in(batch.column(0), value_set=known)
            values[low : low + len(found)] = found.to_numpy(zero_copy_only=False)
            low += len(found)
        values.flush()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Write a file beside its place and put it there whole."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        scratch = Path(folder) / path.name
        yield scratch
        scratch.replace(path)
