"""Counts a funnel of five steps within seven days, by device and source, against other engines on the same file.

python -m benchmarks.bench_funnel [ROWS] [RUNS] [--only WORDS] [--retentioneering PYTHON] [--growth]

Every engine's counts must be equal. `--only prepared,ClickHouse` runs the works with one of these words in their names.
retentioneering is in no list of dependencies: name a Python that has it and pyarrow. `--growth` times convlib alone, at
1, 10 and 50 million events, up to ROWS.
"""

import argparse
import functools
import importlib.metadata
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import convlib as cv
from benchmarks import peers
from benchmarks.logs import write_log
from benchmarks.measure import Measured, Script, Work, measure, run_apart, show

FOLDER = Path(tempfile.gettempdir()) / "convlib-benchmarks"
PLAN = Path(__file__).with_name("funnel.yaml")
#: More rows than these engines are asked for, which would take minutes and most of the memory.
SLOW, MOST_ROWS = ("pandas", "retentioneering", "Spark"), 20_000_000
GROWTH = (1_000_000, 10_000_000, 50_000_000)
_caches: list[tempfile.TemporaryDirectory[str]] = []


def clear_cache() -> None:
    """Begin with an empty cache, and remove the one before."""
    while _caches:
        _caches.pop().cleanup()
    _caches.append(tempfile.TemporaryDirectory())
    os.environ["CONVLIB_CACHE"] = _caches[0].name


def read(path: Path) -> cv.EventLog:
    """Read the log."""
    return cv.read_events(path, plan=PLAN)


def prepare(path: Path) -> None:
    """Read the log, and write what the analyses start from; the arrays are written by a first funnel."""
    log = read(path)
    log.prepared.find("conversions.parquet", log.plan)
    count(log)


def count(log: cv.EventLog) -> peers.Counts:
    """Count the funnel."""
    groups = ["device_type", "source"]
    table = cv.measure_funnel(log, peers.STEPS, window="7D", by=groups, mature_only=False).table
    reached = table[table["units"] > 0]
    return sorted(reached[[*groups, "step", "units"]].itertuples(index=False, name=None))


def read_and_count(path: Path) -> peers.Counts:
    """Do all that a notebook does for its first funnel."""
    return count(read(path))


def run_cold(path: Path) -> Callable[[], peers.Counts]:
    """Make ready to read and count with nothing in the cache."""
    clear_cache()
    return functools.partial(read_and_count, path)


def run_read(path: Path) -> Callable[[], peers.Counts]:
    """Make ready to count a log just read."""
    clear_cache()
    return functools.partial(count, read(path))


def run_preparing(path: Path) -> Callable[[], None]:
    """Make ready to prepare the log."""
    clear_cache()
    return functools.partial(prepare, path)


def run_prepared(path: Path) -> Callable[[], peers.Counts]:
    """Make ready to read and count a log that another process has prepared."""
    clear_cache()
    run_apart(functools.partial(prepare, path))
    return functools.partial(read_and_count, path)


def list_works(rows: int, python: str | None) -> dict[str, Work]:
    """Name what is timed on a log of so many rows, and write the log."""
    path = write_log(FOLDER, rows)
    works: dict[str, Work] = {
        "ClickHouse `windowFunnel`, explicit schema": functools.partial(peers.count_with_clickhouse, path),
        "ClickHouse `windowFunnel`, default schema": functools.partial(peers.count_with_clickhouse, path, schema=""),
        "DuckDB SQL, ASOF joins": functools.partial(peers.count_with_duckdb, path, level=peers.NEAREST),
        "DuckDB SQL, window functions": functools.partial(peers.count_with_duckdb, path, level=peers.WINDOWS),
        "Polars": functools.partial(peers.count_with_polars, path),
        "pandas": functools.partial(peers.count_with_pandas, path),
        "Spark SQL, local[2], without its start": functools.partial(peers.count_with_spark, path),
        **list_own_works(rows),
    }
    if python:
        works["retentioneering (no window, no groups)"] = Script(python, "benchmarks.retentioneering_funnel", str(path))
    return works


def list_own_works(rows: int) -> dict[str, Work]:
    """Name convlib's works on such a log."""
    path, shuffled = write_log(FOLDER, rows), write_log(FOLDER, rows, shuffled=True)
    return {
        "convlib, cold": functools.partial(run_cold, path),
        "convlib, the funnel of a log just read": functools.partial(run_read, path),
        "convlib, preparing the log": functools.partial(run_preparing, path),
        "convlib, prepared": functools.partial(run_prepared, path),
        "convlib, cold, rows in any order": functools.partial(run_cold, shuffled),
    }


def check_counts(found: Mapping[str, Measured]) -> None:
    """Stop if two works count differently."""
    results = {name: one.result for name, one in found.items() if one.result is not None}
    if not results:
        return
    first, *others = results
    different = [name for name in others if results[name] != results[first]]
    if different:
        raise SystemExit(f"These count otherwise than {first}: {', '.join(different)}.")
    print(f"\nEqual counts of {len(results[first])} groups and steps in {len(results)} works.")


def describe_machine(python: str | None) -> str:
    """Name the versions and the machine."""
    names = ("convlib", "duckdb", "chdb", "polars", "pandas", "pyspark", "numba")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    versions.append(f"ClickHouse {run_apart(peers.read_clickhouse_version).result}")
    if python:
        code = "import importlib.metadata; print(importlib.metadata.version('retentioneering'))"
        known = subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
        versions.append(f"retentioneering {known.strip()}")
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(versions)}"


def compare(rows: int, runs: int, only: list[str], python: str | None) -> None:
    """Time everybody on one log."""
    works = list_works(rows, python)
    slow = [name for name in works if name.startswith(SLOW) and rows > MOST_ROWS]
    chosen = {name: work for name, work in works.items() if name not in slow and any(word in name for word in only)}
    print(f"{rows:,} events, {runs} runs each, in turn; {describe_machine(python)}\n")
    found = measure(chosen, runs=runs)
    best = min((name for name in found if "ClickHouse" in name), key=lambda name: found[name].median, default=None)
    show(found, against=best)
    for name in slow:
        print(f"| {name} | not asked beyond {MOST_ROWS:,} events | | | | |")
    if python is None and "" in only:
        print("| retentioneering | not installed | | | | |")
    check_counts(found)


def show_growth(most: int, runs: int) -> None:
    """Print convlib's seconds for a million events, at growing sizes."""
    sizes = [rows for rows in GROWTH if rows <= most]
    works = {(name, rows): work for rows in sizes for name, work in list_own_works(rows).items()}
    found = measure({f"{name}, {rows:,} events": work for (name, rows), work in works.items()}, runs=runs)
    show(found, against=None)
    print("\n| work | events | seconds a million |\n|---|---:|---:|")
    for (name, rows), one in zip(works, found.values(), strict=True):
        print(f"| {name} | {rows:,} | {one.median / rows * 1e6:.3f} |")


def main() -> None:
    """Read what to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", default=10_000_000, type=lambda text: int(float(text)))
    parser.add_argument("runs", nargs="?", default=5, type=int)
    parser.add_argument("--only", default="", help="words of the works to run, with commas between")
    parser.add_argument("--retentioneering", metavar="PYTHON", help="a Python that has retentioneering")
    parser.add_argument("--growth", action="store_true", help="convlib alone, at 1, 10 and 50 million events")
    asked = parser.parse_args()
    if asked.growth:
        show_growth(asked.rows, asked.runs)
    else:
        compare(asked.rows, asked.runs, asked.only.split(","), asked.retentioneering)


if __name__ == "__main__":
    main()
