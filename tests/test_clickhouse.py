"""The default rule of the funnel against ClickHouse's `windowFunnel`, on random small logs with many ties."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_logs import START, pick

from convlib.events import read_events
from convlib.funnel import measure_funnel

chdb = pytest.importorskip("chdb", reason="ClickHouse comes with the package chdb, which is not installed")

LOGS = 50
QUERY = """
SELECT user_id, arrayJoin(range(1, level + 1)) AS step
FROM (SELECT user_id, windowFunnel({window})(toDateTime(timestamp), {conditions}) AS level
      FROM file('{path}', Parquet) GROUP BY user_id)
ORDER BY user_id, step"""


def draw_logs(seed: int) -> pd.DataFrame:
    """Draw logs of up to sixty events in fifteen seconds, of up to three users each, in no order."""
    random = np.random.default_rng(seed)
    log = np.repeat(np.arange(LOGS), random.integers(1, 61, LOGS))
    user = random.integers(0, random.integers(1, 4, LOGS)[log])
    seconds = random.integers(0, 15, len(log))
    rows = pd.DataFrame(
        {
            "user_id": [f"{number:02}-{which}" for number, which in zip(log, user, strict=True)],
            "timestamp": START + pd.to_timedelta(seconds, unit="s"),
            "event_name": random.choice(list("AABBCDExy"), len(log)),
        }
    )
    return rows.sample(frac=1, random_state=seed)


@pytest.mark.parametrize("seed", range(20))
def test_measure_funnel_counts_each_user_as_clickhouse_does(seed: int, tmp_path: Path) -> None:
    rows, steps, window = draw_logs(seed), list("ABCDE")[: 3 + seed % 3], 2 + seed % 7
    rows.to_parquet(tmp_path / "logs.parquet")
    conditions = ", ".join(f"event_name = '{step}'" for step in steps)
    query = QUERY.format(window=window, conditions=conditions, path=tmp_path / "logs.parquet")
    expected = chdb.query(query, "ArrowTable").to_pandas()

    table = measure_funnel(read_events(rows), steps, window=f"{window}s", by="user_id", mature_only=False).table

    assert pick(table[table["units"] == 1], "user_id step") == pick(expected, "user_id step")
    assert expected["step"].max() == len(steps)
