"""The same five-step funnel as other engines count it: the quickest way found for each, with the same numbers.

Each step at most seven days after the first, ties in step order, the attempt that gets furthest; devices and sources
are those of the first page view (convlib's are those of the counted attempt: the same here, as they never change).
Every function imports its own engine, so that no process holds another's memory.
"""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

STEPS = ("page_view", "view_item", "add_to_cart", "begin_checkout", "purchase")
WINDOW_SECONDS = 7 * 86_400
#: Device, source, step (from 1) and the users that reached it.
Counts = list[tuple[str, str, int, int]]

#: A user's level is how far they got; the default schema reads strings that may be null.
CLICKHOUSE = """
SELECT device_type, source, level, count() FROM (
  SELECT argMinIf(device_type, timestamp, event_name = '{first}') AS device_type,
         argMinIf(source, timestamp, event_name = '{first}') AS source,
         windowFunnel({window})(toDateTime(timestamp), {conditions}) AS level
  FROM file('{path}', Parquet{schema}) WHERE event_name IN {steps} GROUP BY user_id)
WHERE level > 0 GROUP BY ALL"""
SCHEMA = ", ".join(
    f"{name} {kind}"
    for name, kind in {
        "event_name": "LowCardinality(String)",
        "timestamp": "DateTime64(6)",
        "user_id": "String",
        "device_type": "LowCardinality(String)",
        "source": "LowCardinality(String)",
    }.items()
)

#: Each level's rows keep the latest start that reaches them, which is that of the last row of the level before.
DUCKDB = """
WITH steps AS MATERIALIZED (
  SELECT hash(user_id) AS unit, epoch(timestamp)::BIGINT AS t, list_position([{names}], event_name) AS step,
         device_type, source
  FROM read_parquet('{path}') WHERE event_name IN {steps}),
level_1 AS (SELECT unit, t, t AS start FROM steps WHERE step = 1),
{levels},
deep AS (SELECT unit, max(level) AS level FROM ({deep}) GROUP BY unit),
entered AS (SELECT unit, arg_min(device_type, t) AS device_type, arg_min(source, t) AS source
            FROM steps WHERE step = 1 GROUP BY unit)
SELECT device_type, source, coalesce(level, 1) AS level, count(*)
FROM entered LEFT JOIN deep USING (unit) GROUP BY ALL"""
REACHED = "SELECT unit, {level} AS level FROM level_{level}"
NEAREST = """
level_{level} AS MATERIALIZED (
  SELECT later.unit, later.t, earlier.start
  FROM (FROM steps WHERE step = {level}) AS later
  ASOF JOIN level_{before} AS earlier ON earlier.unit = later.unit AND earlier.t <= later.t
  WHERE later.t - earlier.start <= {window})"""
WINDOWS = """
level_{level} AS MATERIALIZED (
  SELECT unit, t, latest AS start
  FROM (SELECT unit, t, start, max(start) OVER (PARTITION BY unit ORDER BY t, start IS NULL
                                                ROWS UNBOUNDED PRECEDING) AS latest
        FROM (FROM level_{before} UNION ALL SELECT unit, t, NULL FROM steps WHERE step = {level}))
  WHERE start IS NULL AND t - latest <= {window})"""

SPARK = """
SELECT device_type, source, level, count(*) FROM (
  SELECT user_id, max(level) AS level, min_by(device_type, t) AS device_type, min_by(source, t) AS source
  FROM ({rows}) WHERE level > 0 GROUP BY user_id)
GROUP BY device_type, source, level"""
SPARK_STEPS = """
SELECT *, if(step = 1, t, NULL) AS start, if(step = 1, 1, 0) AS level
FROM (SELECT user_id, device_type, source, unix_timestamp(CAST(timestamp AS TIMESTAMP)) AS t,
             array_position(array{steps}, event_name) AS step
      FROM parquet.`{path}` WHERE event_name IN {steps})"""
SPARK_LEVEL = """
SELECT user_id, device_type, source, t, step, if(step = {level} AND t - latest <= {window}, latest, NULL) AS start,
       if(step = {level} AND t - latest <= {window}, {level}, level) AS level
FROM (SELECT *, max(start) OVER (PARTITION BY user_id ORDER BY t, step ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
             AS latest
      FROM ({rows}))"""


def count_with_clickhouse(path: Path, *, schema: str = SCHEMA) -> Counts:
    """Count with `windowFunnel`, in this process."""
    import chdb

    query = CLICKHOUSE.format(
        first=STEPS[0],
        window=WINDOW_SECONDS,
        conditions=", ".join(f"event_name = '{step}'" for step in STEPS),
        path=path,
        schema=f", '{schema}'" if schema else "",
        steps=STEPS,
    )
    rows = chdb.query(query, "ArrowTable")
    return add_up(tuple(row.values()) for row in rows.to_pylist())


def read_clickhouse_version() -> str:
    """Ask which ClickHouse it is."""
    import chdb

    return str(chdb.query("SELECT version()", "TabSeparated")).strip()


def count_with_duckdb(path: Path, *, level: str) -> Counts:
    """Count with one join (`NEAREST`) or window function (`WINDOWS`) a level, over hashed ids."""
    import duckdb

    levels = range(2, len(STEPS) + 1)
    query = DUCKDB.format(
        steps=STEPS,
        names=", ".join(f"'{step}'" for step in STEPS),
        path=path,
        levels=",".join(level.format(level=k, before=k - 1, window=WINDOW_SECONDS) for k in levels),
        deep=" UNION ALL ".join(REACHED.format(level=k) for k in levels),
    )
    with duckdb.connect(config={"preserve_insertion_order": False}) as engine:
        engine.execute("SET enable_progress_bar = false")
        return add_up(engine.execute(query).fetchall())


def count_with_polars(path: Path) -> Counts:
    """Count with running maxima over rows in order of one number that holds user, time and step."""
    import polars as pl

    step = pl.col("event_name").replace_strict(STEPS, range(len(STEPS)), return_dtype=pl.Int64)
    unit = pl.col("user_id").cast(pl.Categorical).to_physical().cast(pl.Int64)
    # Users lie further apart than any window.
    place = (unit * 2**31 + pl.col("timestamp").dt.epoch("s")) * 8 + step
    rows = pl.scan_parquet(path).filter(pl.col("event_name").is_in(STEPS))
    rows = rows.select(place.alias("place"), unit.alias("unit"), "device_type", "source").sort("place")
    rows = rows.with_columns(t=pl.col("place") // 8, step=pl.col("place") % 8)
    opens = pl.col("step") == 0
    rows = rows.with_columns(start=pl.when(opens).then("t"), level=pl.when(opens).then(1))
    for k in range(1, len(STEPS)):
        latest = pl.col("start").forward_fill()
        reached = (pl.col("step") == k) & (pl.col("t") - latest <= WINDOW_SECONDS)
        level = pl.when(reached).then(k + 1).otherwise("level")
        rows = rows.with_columns(start=pl.when(reached).then(latest), level=level)
    units = rows.filter(pl.col("level").is_not_null()).group_by("unit")
    best = units.agg(pl.col("device_type").first(), pl.col("source").first(), pl.col("level").max())
    return add_up(best.group_by("device_type", "source", "level").len().collect(engine="streaming").rows())


def count_with_pandas(path: Path) -> Counts:
    """Count as with Polars, over dictionary columns."""
    import numpy as np
    import pandas as pd

    texts = ["event_name", "user_id", "device_type", "source"]
    rows = pd.read_parquet(
        path, columns=[*texts, "timestamp"], filters=[("event_name", "in", STEPS)], read_dictionary=texts
    )
    unit = rows["user_id"].cat.codes.to_numpy(np.int64)
    step = rows["event_name"].cat.set_categories(STEPS).cat.codes.to_numpy(np.int64)
    seconds = rows["timestamp"].to_numpy().astype("datetime64[s]").astype(np.int64)
    place = (unit * 2**31 + seconds) * 8 + step
    order = np.argsort(place)
    t, step = place[order] // 8, step[order]
    start, level = np.where(step == 0, t, 0), np.where(step == 0, 1, 0)
    for k in range(1, len(STEPS)):
        latest = np.maximum.accumulate(start)
        reached = (step == k) & (t - latest <= WINDOW_SECONDS)
        start, level = np.where(reached, latest, 0), np.where(reached, k + 1, level)
    some = level > 0
    units = pd.DataFrame({"row": order[some], "level": level[some]}).groupby(unit[order[some]])
    best = units.agg(row=("row", "first"), level=("level", "max"))
    groups = rows[["device_type", "source"]].take(best["row"].to_numpy()).assign(level=best["level"].to_numpy())
    counts = groups.groupby([*groups], observed=True).size().reset_index()
    return add_up(counts.itertuples(index=False, name=None))


@cache
def start_spark() -> Any:
    """Start a session on two cores of this machine, once a process: its start is not timed."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.memory", "8g").config("spark.sql.session.timeZone", "UTC")
    return builder.config("spark.ui.showConsoleProgress", "false").config("spark.log.level", "ERROR").getOrCreate()


def count_with_spark(path: Path) -> Counts:
    """Count with one window function a level; all share one sort."""
    rows = SPARK_STEPS.format(steps=STEPS, path=path)
    for k in range(2, len(STEPS) + 1):
        rows = SPARK_LEVEL.format(level=k, window=WINDOW_SECONDS, rows=rows)
    return add_up(tuple(row) for row in start_spark().sql(SPARK.format(rows=rows)).collect())


def add_up(levels: Iterable[tuple[Any, ...]]) -> Counts:
    """Turn users by how far they got into users by the steps that they reached."""
    counts: Counter[tuple[str, str, int]] = Counter()
    for device, source, level, users in levels:
        for step in range(1, int(level) + 1):
            counts[device, source, step] += int(users)
    return sorted((*key, users) for key, users in counts.items())
