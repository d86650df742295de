"""Times the attribution window against other engines, and Markov's removal effects against other packages.

python -m benchmarks.bench_attribution [ROWS] [RUNS] [--only WORDS] [--channel-attribution PYTHON]

The window: which micros come within 30 days before a purchase, since the one before, and how long before. Counts and
median times must be equal. convlib starts from the prepared log, the others from the file. ChannelAttribution and
marketing-attribution-models are in no list of dependencies: name a Python that has both (and matplotlib, which the
former needs without saying so).
"""

import argparse
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import convlib as cv
from benchmarks.bench_funnel import FOLDER
from benchmarks.logs import write_log
from benchmarks.measure import Measured, Script, Work, measure, run_apart, show
from convlib.attribution import fetch_touches
from convlib.conversions import microseconds
from convlib.credit import Journeys, find_journeys, prepare_model, share_credit

PLAN = Path(__file__).with_name("funnel.yaml")
MICROS = ("page_view", "view_item", "add_to_cart", "begin_checkout")
MICROSECONDS = 30 * 86_400 * 1_000_000
#: Micro, touches before a purchase, median seconds to it.
Touches = list[tuple[str, int, float]]

SELECT = "SELECT event_name, count(*), median(epoch(until) - epoch(timestamp)) FROM ({rows}) GROUP BY event_name"
ROWS = "SELECT hash(user_id) AS unit, timestamp, event_name FROM read_parquet('{path}') WHERE event_name {which}"
#: Only the touches of users who purchase can count.
RANGE = """
SELECT touches.event_name, touches.timestamp, min(buys.timestamp) AS until
FROM ({touches}) AS touches JOIN ({buys}) AS buys
ON touches.unit = buys.unit AND buys.timestamp BETWEEN touches.timestamp AND touches.timestamp + INTERVAL 30 DAY
GROUP BY touches.event_name, touches.timestamp, touches.unit, touches.number"""
NEAREST = """
SELECT touches.event_name, touches.timestamp, buys.timestamp AS until
FROM ({touches}) AS touches ASOF JOIN ({buys}) AS buys
ON touches.unit = buys.unit AND buys.timestamp >= touches.timestamp
WHERE buys.timestamp <= touches.timestamp + INTERVAL 30 DAY"""
CLICKHOUSE = """
WITH touches AS (SELECT cityHash64(user_id) AS unit, timestamp, event_name FROM file('{path}', Parquet, '{schema}')
                 WHERE event_name IN {micros}),
     buys AS (SELECT cityHash64(user_id) AS unit, timestamp AS until FROM file('{path}', Parquet, '{schema}')
              WHERE event_name = 'purchase')
SELECT event_name, count(), quantileExactInclusive(0.5)(dateDiff('second', timestamp, until))
FROM touches ASOF JOIN buys ON touches.unit = buys.unit AND buys.until >= touches.timestamp
WHERE until <= timestamp + INTERVAL 30 DAY GROUP BY event_name"""
SCHEMA = "event_name LowCardinality(String), timestamp DateTime64(6), user_id String"

CHANNELS = ("search", "social", "mail", "display", "video", "partner", "press", "push", "fair", "call")


def join_with_duckdb(path: Path, *, query: str) -> Touches:
    """Join by range (`RANGE`) or to the nearest purchase (`NEAREST`)."""
    import duckdb

    rows = ROWS.format(path=path, which=f"IN {MICROS}")
    touches = rows.replace("hash(user_id) AS unit", "hash(user_id) AS unit, file_row_number AS number", 1)
    touches = touches.replace(f"'{path}'", f"'{path}', file_row_number = true")
    buys = ROWS.format(path=path, which="= 'purchase'")
    with duckdb.connect(config={"preserve_insertion_order": False}) as engine:
        engine.execute("SET enable_progress_bar = false")
        return sorted(engine.execute(SELECT.format(rows=query.format(touches=touches, buys=buys))).fetchall())


def join_with_clickhouse(path: Path) -> Touches:
    """Join to the nearest purchase, in this process."""
    import chdb

    rows: list[dict[str, Any]] = chdb.query(
        CLICKHOUSE.format(path=path, schema=SCHEMA, micros=MICROS), "ArrowTable"
    ).to_pylist()  # type: ignore[no-untyped-call]
    return sorted((str(name), int(count), float(middle)) for name, count, middle in (row.values() for row in rows))


def join_with_polars(path: Path) -> Touches:
    """Join to the nearest purchase, over rows in order of time."""
    import polars as pl

    rows = pl.scan_parquet(path).select("event_name", "timestamp", unit=pl.col("user_id").hash())
    buys = rows.filter(pl.col("event_name") == "purchase").select("unit", "timestamp", until="timestamp")
    touches = rows.filter(pl.col("event_name").is_in(MICROS)).join(buys.select("unit").unique(), on="unit", how="semi")
    joined = touches.sort("timestamp").join_asof(
        buys.sort("timestamp"),
        on="timestamp",
        by="unit",
        strategy="forward",
        tolerance="30d",
        check_sortedness=False,
    )
    seconds = (pl.col("until") - pl.col("timestamp")).dt.total_seconds()
    found = joined.drop_nulls("until").group_by("event_name").agg(pl.len(), seconds.median().alias("middle"))
    return sorted(found.collect().rows())


def attribute_all(path: Path) -> Touches:
    """Read the prepared log, and share the credit."""
    log = cv.read_events(path, plan=PLAN)
    assert log.plan is not None  # noqa: S101 - read with one
    table = cv.attribute(log, log.plan, macro="purchase", window="30D", draws=0).table
    columns = ["touch", "touches", "seconds_to_conversion_p50"]
    return sorted(table.loc[table["touches"] > 0, columns].itertuples(index=False, name=None))


def find_touches(path: Path) -> Touches:
    """Read the prepared log, and find what comes before each purchase, without sharing the credit."""
    log = cv.read_events(path, plan=PLAN)
    assert log.plan is not None  # noqa: S101 - read with one
    rows, entry, names = fetch_touches(log, log.plan.macros[0], "micro", "user")
    end = microseconds(log.last)
    journeys = find_journeys(*rows, macro=len(names), window=MICROSECONDS, entry=entry, end=end)
    _, kind, before = journeys.leading
    mine = {name: before[kind == number] for number, name in enumerate(names)}
    return sorted((name, len(each), float(np.median(each)) / 1e6) for name, each in mine.items())


def compare_windows(rows: int, runs: int, only: list[str]) -> None:
    """Time the window on a log of so many rows."""
    path = write_log(FOLDER, rows)
    os.environ["CONVLIB_CACHE"] = str(FOLDER / "attribution-cache")
    works: dict[str, Work] = {
        "convlib, prepared": functools.partial(find_touches, path),
        "convlib, prepared, and all seven models": functools.partial(attribute_all, path),
        "Polars, nearest join": functools.partial(join_with_polars, path),
        "DuckDB, nearest join": functools.partial(join_with_duckdb, path, query=NEAREST),
        "DuckDB, range join": functools.partial(join_with_duckdb, path, query=RANGE),
        "ClickHouse, nearest join": functools.partial(join_with_clickhouse, path),
    }
    chosen = {name: work for name, work in works.items() if any(word in name for word in only)}
    run_apart(works["convlib, prepared"])  # it prepares the log, once for all
    print(f"\n{rows:,} events, {runs} runs each, in turn\n")
    found = measure(chosen, runs=runs)
    show(found, against=find_best(found))
    first, *others = found.values()
    if any(each.result != first.result for each in others):
        raise SystemExit(f"Different counts: { {name: each.result for name, each in found.items()} }")
    print(f"\nEqual counts and median times of {len(first.result)} micros in {len(found)} works.")


def find_best(found: Mapping[str, Measured]) -> str | None:
    """Name the quickest of the others."""
    others = [name for name in found if not name.startswith("convlib")]
    return min(others, key=lambda name: found[name].median, default=None)


def draw_paths(count: int) -> tuple[Journeys, list[str]]:
    """Draw paths of ten channels, some of them rare, that convert more or less often."""
    rng = np.random.default_rng(11)
    popular = 0.75 ** np.arange(len(CHANNELS))
    size = np.minimum(rng.geometric(0.3, count), 15)
    kind = rng.choice(len(CHANNELS), size.sum(), p=popular / popular.sum())
    path = np.repeat(np.arange(count), size)
    effect = np.bincount(path, np.linspace(0.02, 0.1, len(CHANNELS))[kind])
    converted = rng.random(count) < effect
    names = np.array(CHANNELS, object)[kind]
    texts = [" > ".join(part) for part in np.split(names, np.cumsum(size)[:-1])]
    journeys = Journeys(
        kind=kind,
        path=path,
        before=np.zeros(len(kind), np.int64),
        unit=np.arange(count),
        converted=converted,
        value=converted.astype(float),
        learnt=np.ones(count, bool),
        is_young=False,
        pending=0,
    )
    return journeys, texts


def run_markov(count: int) -> Callable[[], dict[str, float]]:
    """Make ready to credit paths that lie in memory as numbers."""
    journeys, _ = draw_paths(count)

    def credit() -> dict[str, float]:
        sums = prepare_model("markov", journeys, len(CHANNELS), order=1, half_life=1)
        return dict(zip(CHANNELS, share_credit(sums, journeys)[:-1, 0].tolist(), strict=True))

    return credit


def compare_removals(count: int, runs: int, python: str | None) -> None:
    """Time removal effects, and print how far apart they are."""
    works: dict[str, Work] = {"convlib": functools.partial(run_markov, count)}
    if python:
        journeys, texts = draw_paths(count)
        rows = pd.DataFrame({"path": texts, "conversions": journeys.converted, "nulls": ~journeys.converted})
        path, distinct = FOLDER / f"paths-{count}.csv", FOLDER / f"paths-{count}-distinct.csv"
        rows.astype({"conversions": int, "nulls": int}).to_csv(path, index=False)
        rows.groupby("path", as_index=False).sum().to_csv(distinct, index=False)
        for package in ("ChannelAttribution", "ChannelAttribution, 10 million walks", "marketing-attribution-models"):
            works[package] = Script(python, "benchmarks.markov_peers", f"{package}:{path}")
            again = f"{package}, each distinct path once"
            works[again] = Script(python, "benchmarks.markov_peers", f"{package}:{distinct}")
    print(f"\nMarkov removal effects of {count:,} paths, {runs} runs each, in turn\n")
    found = measure(works, runs=runs)
    show(found, against=find_best(found))
    own: dict[str, Any] = found["convlib"].result
    for name, one in list(found.items())[1:]:
        differences = [abs(one.result[channel] / credit - 1) for channel, credit in own.items()]
        print(f"\n{name}: the largest relative difference of a channel's credit is {max(differences):.2%}.")


def main() -> None:
    """Read what to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", default=10_000_000, type=lambda text: int(float(text)))
    parser.add_argument("runs", nargs="?", default=5, type=int)
    parser.add_argument("--only", default="", help="words of the works to run, with commas between")
    parser.add_argument("--channel-attribution", metavar="PYTHON", help="a Python that has both packages")
    asked = parser.parse_args()
    compare_windows(asked.rows, asked.runs, asked.only.split(","))
    compare_removals(100_000, asked.runs, asked.channel_attribution)


if __name__ == "__main__":
    main()
