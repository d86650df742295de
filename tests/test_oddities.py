import numpy as np
import pandas as pd
import pytest
from small_logs import pick

from convlib.engine import connect
from convlib.oddities import BUSY, Rows, check_keys, check_order, find_busiest, has_seconds

START = pd.Timestamp("2024-01-01")
COLUMNS = {
    name: name for name in ("user_id", "event_name", "product_id", "page_path", "timestamp", "session_id", "value")
}


def open_rows(seconds: list[float], **columns: object) -> Rows:
    """Open rows at so many seconds, with their day; the rest as given, or alike."""
    known = {"user_id": "ann", "event_name": "view", "product_id": None, "page_path": "/", "session_id": "s1"}
    times = START + pd.to_timedelta(pd.Series(seconds), unit="s")
    frame = pd.DataFrame(
        {"timestamp": times.astype("datetime64[us]"), **known, "value": 1.0, "platform": "web", **columns}
    )
    frame["day"] = frame["timestamp"].dt.floor("D")
    return connect().from_df(frame.astype({"product_id": "str"}))


@pytest.mark.parametrize(
    ("seconds", "columns", "copies", "near"),
    [
        pytest.param([5, 5], {}, 1, 0, id="equal rows are copies"),
        pytest.param([5, 5, 5], {}, 2, 0, id="each beyond the first"),
        pytest.param([5, 5], {"value": [1, 2]}, 0, 1, id="the same event with another content is near"),
        pytest.param([5, 6], {}, 0, 1, id="a second apart is near"),
        pytest.param([5, 6.01], {}, 0, 0, id="more is not"),
        pytest.param([5.9, 6.1, 6.9, 8], {}, 0, 2, id="across the second's edge"),
        pytest.param([5, 5.2], {"user_id": ["ann", "ben"]}, 0, 0, id="another user"),
        pytest.param([5, 5.2], {"event_name": ["view", "buy"]}, 0, 0, id="another event"),
        pytest.param([5, 5.2], {"product_id": ["p1", "p2"]}, 0, 0, id="another product"),
        pytest.param([5, 5.2], {"page_path": ["/a", "/b"]}, 0, 0, id="another page"),
        pytest.param([5, 5, 5.5], {}, 1, 1, id="a copy, and a near one"),
    ],
)
def test_find_repeats_tells_copies_from_near_ones(
    seconds: list[float], columns: dict[str, object], copies: int, near: int
) -> None:
    found = check_keys(open_rows(seconds, **columns), COLUMNS, timed=True)["repeats"]
    assert (found["copies"].sum(), found["near"].sum()) == (copies, near)


def test_find_repeats_finds_what_a_plain_count_finds() -> None:
    rng = np.random.default_rng(3)
    seconds = rng.integers(0, 3_000, 5_000).astype(float)
    users = rng.integers(0, 20, 5_000)
    rows = open_rows(list(seconds), user_id=[f"u{n}" for n in users])
    found = check_keys(rows, COLUMNS, timed=True)["repeats"]
    frame = pd.DataFrame({"user": users, "second": seconds})
    once = frame.drop_duplicates().sort_values(["user", "second"])
    apart = once.groupby("user")["second"].diff()
    assert (found["copies"].sum(), found["near"].sum()) == (5_000 - len(once), (apart <= 1).sum())


@pytest.mark.parametrize(
    ("sessions", "users", "total", "shared"),
    [
        (["s1", "s1", "s2"], ["ann", "ann", "ben"], 2, 0),
        (["s1", "s1", "s2"], ["ann", "ben", "ben"], 2, 1),
        (["s1", None, None], ["ann", "ann", "ben"], 1, 0),
        ([None, None, None], ["ann", "ann", "ben"], 0, 0),
    ],
)
def test_check_sessions_counts_those_of_several_users(
    sessions: list[str | None], users: list[str], total: int, shared: int
) -> None:
    rows = open_rows([0, 1, 2], session_id=pd.Series(sessions, dtype="str"), user_id=users)
    found = check_keys(rows, COLUMNS, timed=True)
    assert (found["sessions"], found["shared"]) == (total, shared)
    assert found["shared_day"] == (START if shared else None)


def test_check_order_finds_rows_before_the_one_above_them() -> None:
    seconds = [*range(50), 47, *range(51, 100)]
    found = check_order(open_rows([float(n) for n in seconds]))
    assert pick(found["order"], "day rows backwards late") == [(START, 100, 1, 0)]
    assert (found["first_backwards"], found["file_rows"], found["ordered"]) == (51, 100, 1 - 1 / 99)


def test_check_order_of_a_file_in_order_lists_no_day() -> None:
    found = check_order(open_rows([0.0, 1, 1, 5]))
    assert (len(found["order"]), found["ordered"], found["file_rows"]) == (0, 1, 4)


def test_check_order_of_a_file_sorted_by_user_lists_no_day() -> None:
    found = check_order(open_rows([0.0, 5, 1, 6, 2, 7]))
    assert (len(found["order"]), found["ordered"]) == (0, 1 - 2 / 5)


def test_check_order_knows_late_rows_from_a_clock_that_is_wrong() -> None:
    hours = [float(n) for n in range(400)]
    hours[200] = 100  # a row of four days ago
    hours[50] = 24 * 3_650  # one of ten years ahead: no other row is late for it
    found = check_order(open_rows([3_600 * n for n in hours]))
    assert pick(found["order"].query("late > 0"), "day late") == [(START + pd.Timedelta("100h").floor("D"), 1)]


@pytest.mark.parametrize(("seconds", "timed"), [([5.0, 61, 122], True), ([0.0, 60, 120], False), ([0.0, 0, 7], False)])
def test_has_seconds_asks_whether_most_rows_stand_beside_the_minute(seconds: list[float], timed: bool) -> None:
    assert has_seconds(open_rows(seconds), COLUMNS) is timed


def test_find_busiest_gives_the_fullest_day_of_each_busy_user() -> None:
    seconds = [*np.linspace(0, 86_399, BUSY), 86_400.0, *np.linspace(0, 100, 10), 1.0]
    users = ["bot"] * (BUSY + 1) + ["ann"] * 10 + ["ben"]
    totals = pd.DataFrame({"events": [1, 10, BUSY + 1], "users": [1, 1, 1]})
    found = find_busiest(open_rows(seconds, user_id=users), COLUMNS, totals)
    assert pick(found["busiest"], "day events") == [(START, BUSY)]
    assert found["usual"] == 10
