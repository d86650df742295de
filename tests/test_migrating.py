"""The tables of docs/migrating against the products' documented rules in plain SQL over the raw events."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from docs_pages import ROOT, PageRun, make_checkout, read_blocks

import convlib as cv
from benchmarks.truth import scores
from benchmarks.truth.scenarios import DAY, Log
from convlib.datasets.files import dataset_path
from convlib.landmarks import NEVER

GOAL = "(event_name = 'purchase' OR event_name = 'Order Completed' AND platform = 'server')"

#: Each person's opening and, if there is one, its conversion within the window: first by its attempt that converts.
ATTEMPTS = """
CREATE OR REPLACE TEMP TABLE people AS
SELECT o.user_id, o.timestamp AS start, min(g.timestamp) AS finish
FROM events o LEFT JOIN events g ON g.user_id = o.user_id AND g.goal
  AND g.timestamp BETWEEN o.timestamp AND o.timestamp + $window::INTERVAL
WHERE o.event_name = $opening GROUP BY o.user_id, o.timestamp
QUALIFY row_number() OVER (PARTITION BY o.user_id ORDER BY $again AND finish IS NULL, start) = 1
"""

#: PostHog's funnel_correlation_query_runner: strictly between the first step and the last, or the window's end.
ODDS = """
WITH done AS (
  SELECT event_name, count(DISTINCT p.user_id) FILTER (finish IS NOT NULL) AS completed,
    count(DISTINCT p.user_id) FILTER (finish IS NULL) AS dropped
  FROM events e JOIN people p ON e.user_id = p.user_id AND e.timestamp > start
    AND e.timestamp < coalesce(finish, start + $window::INTERVAL)
  WHERE NOT list_contains($steps, event_name) GROUP BY ALL),
totals AS (SELECT count(finish) AS won, count(*) - count(finish) AS lost FROM people)
SELECT event_name, completed, dropped,
  (completed + 1) * (lost - dropped + 1) / ((won - completed + 1) * (dropped + 1)) AS odds_ratio
FROM done, totals WHERE completed + dropped >= least(25, 0.02 * (won + lost))
"""

#: Compass and Signal: at least so many times within so many days of the first event, against a goal in [since, until).
CELLS = """
WITH users AS (
  SELECT user_id, min(timestamp) AS start, min(timestamp) FILTER (goal) - min(timestamp) AS took
  FROM events GROUP BY ALL),
marked AS (
  SELECT u.user_id, coalesce(took < $until::INTERVAL, false) AS won, count(e.user_id) >= $times AS did
  FROM users u LEFT JOIN events e ON e.user_id = u.user_id AND e.event_name = $event
    AND e.timestamp < u.start + $within::INTERVAL
  WHERE coalesce(took >= $since::INTERVAL, true) AND u.start <= $latest GROUP BY ALL)
SELECT count(*) FILTER (did AND won), count(*) FILTER (did AND NOT won), count(*) FILTER (NOT did AND won),
  count(*) FILTER (NOT did AND NOT won) FROM marked
"""


@pytest.fixture(scope="module")
def small() -> Iterator[duckdb.DuckDBPyConnection]:
    """The eight people of the pages, their events typed here once more."""
    histories = {
        "ann": {0: "signed up", 1: "watched video", 2: "purchase"},
        "bob": {0: "signed up", 2: "purchase", 3: "watched video"},
        "cat": {0: "signed up", 5: "watched video"},
        "dan": {0: "signed up", 30: "opened app"},
        "eve": {0: "signed up", 1: "invited friend", 20: "purchase"},
        "fay": {0: "signed up", 15: "watched video"},
        "gus": {0: "signed up", 16: "signed up", 17: "watched video", 18: "purchase"},
        "hal": {0: "watched video", 1: "signed up", 3: "purchase"},
    }
    rows = [(user, day, event) for user, history in histories.items() for day, event in history.items()]
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE events (user_id TEXT, timestamp TIMESTAMP, event_name TEXT, goal BOOLEAN)")
        insert = "INSERT INTO events SELECT $1, TIMESTAMP '2026-01-05' + to_days($2), $3, $3 = 'purchase'"
        connection.executemany(insert, rows)
        yield connection


@pytest.fixture(scope="module")
def shop() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        rows = f"SELECT user_id, timestamp, event_name, {GOAL} AS goal FROM read_parquet($1)"
        connection.execute(f"CREATE TABLE events AS {rows}", [str(dataset_path("shop"))])
        yield connection


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the code of each page has made."""
    return {name: run(name, tmp_path_factory.mktemp(name)) for name in ("posthog", "amplitude", "mixpanel")}


def run(name: str, folder: Path) -> dict[str, Any]:
    page = PageRun(make_checkout(folder))
    with contextlib.chdir(folder):
        for block in read_blocks(ROOT / "docs" / "migrating" / f"{name}.md"):
            page.run(block)
    return page.names


def follow(events: duckdb.DuckDBPyConnection, opening: str, window: str, *, again: bool) -> list[int]:
    """Count a funnel of two steps: by the first opening, or also by later ones."""
    events.execute(ATTEMPTS, {"opening": opening, "window": window, "again": again})
    return list(events.execute("SELECT count(*), count(finish) FROM people").fetchall()[0])


def count_cells(events: duckdb.DuckDBPyConnection, event: str, times: int, days: int, **limits: Any) -> list[int]:
    limits = {"since": "-1 day", "until": "1000 days", "latest": "2100-01-01", **limits}
    found = {"event": event, "times": times, "within": f"{days} days", **limits}
    return list(events.execute(CELLS, found).fetchall()[0])


def correlate_cells(cells: list[int]) -> float:
    (a, b, c, d) = cells
    return float((a * d - b * c) / np.sqrt(float((a + b) * (c + d) * (a + c) * (b + d))))


@pytest.mark.parametrize(("log", "opening", "steps", "name"), [
    ("small", "signed up", ["signed up", "purchase"], "table"),
    ("shop", "first_visit", ["first_visit", "purchase", "Order Completed"], "as_posthog"),
])  # fmt: skip
def test_posthog_table_is_that_of_its_source(
    request: pytest.FixtureRequest,
    pages: dict[str, dict[str, Any]],
    log: str,
    opening: str,
    steps: list[str],
    name: str,
) -> None:
    events = request.getfixturevalue(log)
    follow(events, opening, "14 days", again=True)
    expected = events.execute(ODDS, {"window": "14 days", "steps": steps}).df().set_index("event_name")
    found = pages["posthog"][name]
    assert found.columns.tolist() == ["completed", "dropped_off", "odds_ratio"]
    np.testing.assert_array_equal(found.sort_index().to_numpy(), expected.sort_index().to_numpy())


@pytest.mark.parametrize(("anchor", "again"), [("best", True), ("first", False)], ids=["every entry", "first entry"])
def test_funnel_counts_as_posthog_and_mixpanel_enter_it(
    shop: duckdb.DuckDBPyConnection, small: duckdb.DuckDBPyConnection, anchor: str, again: bool
) -> None:
    log, _ = cv.load_dataset("shop")
    found = cv.measure_funnel(log, ["page_view", "purchase"], window="1D", anchor=anchor, mature_only=False)  # type: ignore[arg-type]
    assert found.table["units"].tolist() == follow(shop, "page_view", "1 day", again=again)
    assert follow(small, "signed up", "14 days", again=again) == [8, 4 if again else 3]


def test_naive_is_posthog_count_from_the_first_entry_of_whole_windows(shop: duckdb.DuckDBPyConnection) -> None:
    log, plan = cv.load_dataset("shop")
    found = cv.correlate(log, plan, macro="purchase", exposure="1D", horizon="13D").naive.set_index("micro")
    follow(shop, "first_visit", "1209599999 milliseconds", again=False)
    shop.execute("DELETE FROM people WHERE start > (SELECT max(timestamp) FROM events) - INTERVAL 14 DAY")
    for micro in ("field_error", "apply_promo", "add_to_wishlist"):
        query = """SELECT count(DISTINCT p.user_id), count(DISTINCT p.user_id) FILTER (finish IS NOT NULL)
            FROM people p JOIN events e ON e.user_id = p.user_id AND event_name = $1 AND e.timestamp >= start
            AND e.timestamp <= coalesce(finish, start + INTERVAL 14 DAY)"""
        counts = found[["units_with", "converted_with"]].to_numpy()[found.index.get_loc(micro)]
        assert tuple(counts) == shop.execute(query, [micro]).fetchall()[0]


@pytest.mark.parametrize("days", [1, 7])
@pytest.mark.parametrize("times", [1, 2])
def test_compass_table_is_that_of_its_documents(
    shop: duckdb.DuckDBPyConnection,
    small: duckdb.DuckDBPyConnection,
    pages: dict[str, dict[str, Any]],
    times: int,
    days: int,
) -> None:
    page = pages["amplitude"]
    for events, target, log in (("shop_events", "buyers", shop), ("events", "target", small)):
        for event in ("add_to_wishlist", "apply_promo") if log is shop else ("watched video",):
            *cells, phi = page["read_compass"](page[events], page[target], event, times, days)
            assert cells == count_cells(log, event, times, days)
            assert np.isnan(phi) or phi == pytest.approx(correlate_cells(cells), abs=0.0005)


def test_threshold_is_compass_among_those_not_converted_by_then(
    shop: duckdb.DuckDBPyConnection, pages: dict[str, dict[str, Any]]
) -> None:
    latest = shop.execute("SELECT max(timestamp) - INTERVAL 21 DAY FROM events").fetchall()[0][0]
    page = pages["amplitude"]
    for event, rule in zip(page["names"], page["rules"], strict=True):
        cells = count_cells(shop, event, 1, 7, since="7 days", until="21 days", latest=latest)
        row = rule.table.iloc[0]
        assert cells[0] + cells[1] == row["units_with"]
        assert cells[2] + cells[3] == row["units_without"]
        assert cells[0::2] == [row["converted_with"], row["converted_without"]]
        assert row["phi"] == pytest.approx(correlate_cells(cells), rel=1e-12)


@pytest.mark.parametrize(("times", "days"), [(1, 1), (1, 15), (2, 15)])
def test_signal_shares_are_those_of_its_documents(
    shop: duckdb.DuckDBPyConnection, pages: dict[str, dict[str, Any]], times: int, days: int
) -> None:
    page = pages["mixpanel"]
    (a, b, c, d) = cells = count_cells(shop, "apply_promo", times, days)
    found = page["read_signal"](page["shop_events"], page["buyers"], "apply_promo", times, days)
    shares = [a / (a + b), c / (c + d), a / (a + c), b / (b + d)] if a else []
    assert list(found.values())[: len(shares)] == pytest.approx(shares, rel=1e-12)
    assert found["correlation"] == pytest.approx(correlate_cells(cells), rel=1e-9)


def test_the_study_of_known_effects_scores_as_the_compass_page() -> None:
    # The first purchase and the first video of the eight, by day.
    days = [(2, 1), (2, 3), (NEVER, 5), (NEVER, NEVER), (20, NEVER), (NEVER, 15), (18, 17), (3, 0)]
    times = np.array([[day if day == NEVER else day * DAY for day in row] for row in days])
    none = np.zeros(len(times), np.int64)
    log = Log(none, times[:, 0], times[:, 1:], none + NEVER, none[:, None], none, np.array([0.0]), 0)
    assert scores.score_first_days(log) == pytest.approx([4 / np.sqrt(240)], rel=1e-15)
