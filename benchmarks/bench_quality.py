"""Reads, maps and checks a log with every quality rule, against one scan of the same columns by DuckDB.

python -m benchmarks.bench_quality [ROWS] [RUNS]
"""

import functools
import os
import sys
import tempfile
from pathlib import Path

import duckdb

import convlib as cv
from benchmarks.logs import write_log
from benchmarks.measure import measure, show

PLAN = Path(__file__).with_name("plan.yaml")


def scan(path: Path) -> None:
    """Read every value of every column once."""
    with duckdb.connect() as engine:
        engine.execute("SET enable_progress_bar = false")
        rows = engine.read_parquet(str(path))
        rows.aggregate(", ".join(f"min({name})" for name in rows.columns)).fetchall()


def check(path: Path) -> None:
    """Read, map and check as in a first notebook: nothing is in the cache."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CONVLIB_CACHE"] = cache
        plan = cv.read_plan(PLAN)
        log = cv.read_events(path, plan=plan)
        cv.map_events(log, plan)
        cv.check_quality(log, plan)


def main(rows: int = 10_000_000, runs: int = 5) -> None:
    """Print the seconds of both, and their ratio."""
    path = write_log(Path(tempfile.gettempdir()) / "convlib-benchmarks", rows)
    scanning = "DuckDB: one scan of the columns"
    works = {scanning: functools.partial(scan, path), "read, map, check with all rules": functools.partial(check, path)}
    print(f"{rows:,} events, {runs} runs each")
    show(measure(works, runs=runs), against=scanning)


if __name__ == "__main__":
    main(*(int(float(argument)) for argument in sys.argv[1:]))
