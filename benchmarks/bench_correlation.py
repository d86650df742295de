"""Scores all micros of a plan against the macro, beside other engines that count the same tables of one landmark.

python -m benchmarks.bench_correlation [ROWS] [RUNS]

Micros within seven days of a user's first event, purchases in the fourteen days after, among those without one before:
every engine's counts must be equal. The others stop there; convlib also adjusts for activity and device, tests, and
correlates the micros. Then the same for 20 segments (country and source), beside scans of the file.
"""

import functools
import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import convlib as cv
from benchmarks.bench_quality import scan
from benchmarks.logs import write_log
from benchmarks.measure import Work, measure, run_apart, show

PLAN = Path(__file__).with_name("plan.yaml")
MICROS = ("view_item", "use_filter", "add_to_wishlist", "add_to_cart", "begin_checkout", "field_error")
LANDMARK, HORIZON = 7 * 86_400, 14 * 86_400
COUNTRIES, SOURCES = ("DE", "US", "FR", "GB", "NO"), ("search", "social", "direct", "mail")
#: Micro; users with and without it; the converted of both.
Counts = list[tuple[str, int, int, int, int]]

#: `{first}` is the dialect's way to take the earliest time of one event.
UNITS = "SELECT min({time}) AS entry, {firsts} FROM {rows} GROUP BY user_id"
COUNT = """
WITH units AS ({units}),
     risk AS (SELECT *, coalesce(purchase - entry < {landmark} + {horizon}, FALSE) AS converted FROM units
              WHERE entry + {landmark} + {horizon} <= (SELECT max({time}) FROM {rows})
                AND coalesce(purchase - entry >= {landmark}, TRUE))
{counts}"""
ONE = """
SELECT '{micro}' AS micro, sum(did), sum(1 - did), sum(did * hit), sum((1 - did) * hit) FROM (
  SELECT CAST(coalesce({micro} - entry < {landmark}, FALSE) AS INTEGER) AS did, CAST(converted AS INTEGER) AS hit
  FROM risk)"""


def write_query(rows: str, time: str, first: str) -> str:
    """Write the query in one dialect."""
    firsts = ", ".join(f"{first.format(time=time, name=name)} AS {name}" for name in ("purchase", *MICROS))
    known = {"landmark": LANDMARK, "horizon": HORIZON, "time": time, "rows": rows}
    counts = " UNION ALL ".join(ONE.format(micro=micro, **known) for micro in MICROS)
    return COUNT.format(units=UNITS.format(time=time, firsts=firsts, rows=rows), counts=counts, **known)


def count_with_duckdb(path: Path) -> Counts:
    """Count with one aggregate a micro."""
    import duckdb

    query = write_query(
        f"read_parquet('{path}')", "epoch(timestamp)::BIGINT", "min({time}) FILTER (event_name = '{name}')"
    )
    with duckdb.connect() as engine:
        engine.execute("SET enable_progress_bar = false")
        return sort(engine.execute(query).fetchall())


def count_with_clickhouse(path: Path) -> Counts:
    """Count with `minOrNullIf`, in this process."""
    import chdb

    schema = "event_name LowCardinality(String), timestamp DateTime64(6), user_id String"
    rows, time = f"file('{path}', Parquet, '{schema}')", "toUnixTimestamp(timestamp)"
    query = write_query(rows, time, "minOrNullIf({time}, event_name = '{name}')")
    return sort([tuple(row.values()) for row in chdb.query(query, "ArrowTable").to_pylist()])


def count_with_polars(path: Path) -> Counts:
    """Count with one aggregate a micro, streaming."""
    import polars as pl

    time, name = pl.col("timestamp").dt.epoch("s"), pl.col("event_name")
    rows = pl.scan_parquet(path)
    firsts = [time.filter(name == each).min().alias(each) for each in ("purchase", *MICROS)]
    units = rows.group_by("user_id").agg(time.min().alias("entry"), *firsts).collect(engine="streaming")
    end = rows.select(time.max()).collect().item()
    until = pl.col("purchase") - pl.col("entry")
    risk = units.filter((pl.col("entry") + LANDMARK + HORIZON <= end) & (until >= LANDMARK).fill_null(value=True))
    hit = (until < LANDMARK + HORIZON).fill_null(value=False)
    counts = []
    for micro in MICROS:
        did = (pl.col(micro) - pl.col("entry") < LANDMARK).fill_null(value=False)
        cells = [did.sum(), (~did).sum(), (did & hit).sum(), (~did & hit).sum()]
        counts.append((micro, *risk.select(cell.alias(str(k)) for k, cell in enumerate(cells)).row(0)))
    return sort(counts)


def count_with_pandas(path: Path) -> Counts:
    """Count with one grouped minimum over dictionary columns."""
    import numpy as np
    import pandas as pd

    texts = ["event_name", "user_id"]
    rows = pd.read_parquet(path, columns=[*texts, "timestamp"], read_dictionary=texts)
    seconds = rows["timestamp"].to_numpy().astype("datetime64[s]").astype(np.int64)
    times = pd.Series(seconds).groupby([rows["user_id"].cat.codes, rows["event_name"]], observed=True).min().unstack()
    entry = times.min(axis=1)
    until = times["purchase"] - entry
    risk = (entry + LANDMARK + HORIZON <= seconds.max()) & ~(until < LANDMARK)
    hit = until[risk] < LANDMARK + HORIZON
    counts = []
    for micro in MICROS:
        did = (times[micro] - entry)[risk] < LANDMARK
        counts.append((micro, did.sum(), (~did).sum(), (did & hit).sum(), (~did & hit).sum()))
    return sort(counts)


def sort(counts: list[tuple[object, ...]]) -> Counts:
    """Put the counts in one order and type."""
    return sorted((str(micro), *map(int, cells)) for micro, *cells in counts)  # type: ignore[misc]


def prepare(path: Path) -> None:
    """Write what the analyses start from, and the arrays that a first correlation adds."""
    correlate(cv.read_events(path, plan=PLAN))


def correlate(log: cv.EventLog) -> cv.Correlation:
    """Score all micros."""
    return cv.correlate(log, cv.read_plan(PLAN), macro="purchase", exposure="7D", horizon="14D", adjust="device_type")


def correlate_all(path: Path) -> Counts:
    """Do what a notebook does."""
    table = correlate(cv.read_events(path, plan=PLAN)).table
    cells = ["micro", "units_with", "units_without", "converted_with", "converted_without"]
    return sort([*table[cells].itertuples(index=False, name=None)])


def correlate_segments(path: Path) -> int:
    """Score all micros of 20 segments."""
    log = cv.read_events(path, plan=PLAN)
    segments = itertools.product(COUNTRIES, SOURCES)
    tables = [correlate(log.segment({"geo": geo, "source": source})).table for geo, source in segments]
    return sum(map(len, tables))


def run_prepared(work: Callable[[Path], object], path: Path) -> Callable[[], object]:
    """Make ready to read a log that another process has prepared."""
    os.environ["CONVLIB_CACHE"] = str(path.parent / "prepared")
    run_apart(functools.partial(prepare, path))
    return functools.partial(work, path)


def main(rows: int = 10_000_000, runs: int = 5) -> None:
    """Print the seconds of each, and their ratios."""
    path = write_log(Path(tempfile.gettempdir()) / "convlib-benchmarks", rows)
    peers: dict[str, Work] = {
        "DuckDB SQL": functools.partial(count_with_duckdb, path),
        "ClickHouse": functools.partial(count_with_clickhouse, path),
        "Polars": functools.partial(count_with_polars, path),
        "pandas": functools.partial(count_with_pandas, path),
    }
    own: dict[str, Work] = {"convlib, prepared": functools.partial(run_prepared, correlate_all, path)}
    print(f"{rows:,} events, {runs} runs each, in turn; {os.cpu_count()} cores\n")
    found = measure({**peers, **own}, runs=runs)
    show(found, against=min(peers, key=lambda name: found[name].median))
    first, *others = (one.result for one in found.values())
    if any(other != first for other in others):
        raise SystemExit(f"They count differently: { {name: one.result for name, one in found.items()} }")
    print(f"\nEqual counts of {len(MICROS)} micros in {len(found)} works.\n")
    scanning = "DuckDB: one scan of the columns"
    works: dict[str, Work] = {
        scanning: functools.partial(scan, path),
        "convlib, prepared: 20 segments": functools.partial(run_prepared, correlate_segments, path),
    }
    show(measure(works, runs=runs), against=scanning)


if __name__ == "__main__":
    main(*(int(float(argument)) for argument in sys.argv[1:]))
