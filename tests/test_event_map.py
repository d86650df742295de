import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from small_logs import make_log, make_plan, pick, write_rows

from convlib.errors import ParamError
from convlib.event_map import COLUMNS, EventMap, map_events
from convlib.plan import Plan

PLAN = """
macros:
  - id: buy
    name: Bought
    match: {event_name: [purchase, Order Completed]}
    owner: shop
    target: 0.3
    benchmark: {low: 0.1}
    micros:
      - {id: view, match: {event_name: view}, stage: awareness, kind: process_milestone, owner: web, target: 0.5,
         effort: 2, benchmark: {low: 0.4}, ux_outcome: Finds it, data_source: web, touchpoint: page}
      - {id: late_view, match: {event_name: view, geo: DE}, stage: awareness, kind: secondary_action, owner: web}
      - {id: chat, name: Chat begun, match: {event_name: chat}, stage: decision, kind: secondary_action}
    losses: [{id: leave, match: {event_name: leave}}]
"""
ROWS = """
ann view 0h geo=US
ann view 1h geo=DE
ann purchase 2h geo=US
ben view 1D geo=US
ben OrderCompleted 2D geo=US
cat scroll 1D geo=US
cat scroll 2D
dan scroll 2D geo=US
dan ping 3D
dan leave 4D geo=US
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, PLAN)


@pytest.fixture
def rows() -> pd.DataFrame:
    return write_rows(ROWS).replace({"event_name": {"OrderCompleted": "Order Completed"}})


@pytest.fixture
def event_map(plan: Plan, rows: pd.DataFrame) -> EventMap:
    return map_events(make_log(rows, plan), plan)


def test_map_events_counts_each_conversion_and_event_name(event_map: EventMap) -> None:
    # Four users. ann's German view is two conversions.
    assert tuple(event_map.table.columns) == COLUMNS
    found = pick(
        event_map.table.fillna({"conversion": "", "event_name": ""}), "conversion event_name events units status"
    )
    assert found == [
        ("buy", "Order Completed", 1, 1, "tracked"),
        ("buy", "purchase", 1, 1, "tracked"),
        ("view", "view", 3, 2, "tracked"),
        ("late_view", "view", 1, 1, "tracked"),
        ("chat", "", 0, 0, "never fires"),
        ("leave", "leave", 1, 1, "tracked"),
        ("", "scroll", 3, 2, "not in the plan"),
        ("", "ping", 1, 1, "not in the plan"),
    ]
    assert event_map.table["share_of_units"].tolist() == [0.25, 0.25, 0.5, 0.25, 0, 0.25, 0.5, 0.25]


def test_map_events_knows_the_event_with_which_the_clock_starts(tmp_path: Path, rows: pd.DataFrame) -> None:
    plan = make_plan(tmp_path, PLAN.replace("    losses:", "    correlation: {entry: scroll}\n    losses:"))
    found = map_events(make_log(rows, plan), plan)
    assert pick(found.table.tail(2), "event_name status") == [("scroll", "entry"), ("ping", "not in the plan")]
    assert "Rows of 1 event name match no conversion of the plan; the most frequent: ping (1)." in found.takeaways


def test_map_events_keeps_what_the_plan_says_and_when_it_fired(event_map: EventMap) -> None:
    table = event_map.table.set_index("event_name").T
    assert table["purchase"][["tier", "macro", "owner", "target"]].tolist() == ["macro", "buy", "shop", 0.3]
    assert table["leave"][["tier", "macro"]].tolist() == ["loss", "buy"]
    assert table["scroll"]["tier"] == ""
    assert table["ping"][["first", "last"]].tolist() == [pd.Timestamp("2024-01-04")] * 2
    views = event_map.table[event_map.table["conversion"] == "view"].iloc[0]
    assert (views["first"], views["last"]) == (pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-02"))


def test_map_events_counts_rows_and_how_full_the_columns_are(event_map: EventMap) -> None:
    assert event_map.rows == {"read": 10, "used": 10, "rejected": 0, "left_out": 0}
    fill = event_map.fill.set_index("column")
    assert pick(fill.loc[["user_id", "geo", "campaign"]], "filled share") == [(10, 1.0), (8, 0.8), (0, 0.0)]


def test_map_events_counts_volume_by_day_and_tier(event_map: EventMap) -> None:
    volume = event_map.volume.set_index(["day", "tier"])["events"]
    days = [pd.Timestamp("2024-01-01") + pd.Timedelta(days=n) for n in range(5)]
    expected = {
        (days[0], "macro"): 1,
        (days[0], "micro"): 3,  # two views, one of them also the German one
        (days[1], "micro"): 1,
        (days[2], "macro"): 1,
        (days[4], "loss"): 1,
        (days[1], "not in the plan"): 1,
        (days[2], "not in the plan"): 2,
        (days[3], "not in the plan"): 1,
    }
    assert volume.to_dict() == expected


def test_map_events_lists_what_the_plan_leaves_open(event_map: EventMap) -> None:
    assert pick(event_map.gaps, "conversion missing") == [
        ("late_view", "target, benchmark, effort, ux_outcome, data_source, touchpoint"),
        ("chat", "owner, target, benchmark, effort, ux_outcome, data_source, touchpoint"),
    ]


def test_map_events_says_what_it_found(event_map: EventMap) -> None:
    assert event_map.takeaways == (
        "4 users of segment all; 10 rows read = 10 used + 0 rejected (whole log).",
        "4 of the plan's 5 conversions are tracked; never seen: Chat begun.",
        "Rows of 2 event names match no conversion of the plan; the most frequent: scroll (3), ping (1).",
        "Nobody owns Chat begun.",
        "The plan leaves something open for 2 conversions, such as target, benchmark, effort, ux_outcome, data_source, "
        "touchpoint of Late view.",
    )


def test_map_events_counts_the_segments_units_in_the_period(plan: Plan, rows: pd.DataFrame) -> None:
    log = make_log(rows, plan).between("2024-01-02", "2024-01-03").segment({"geo": "US"})
    table = map_events(log, plan).table
    # Entries with geo US on the 2nd or 3rd: ben, cat (both on the 2nd), dan; ann has no event there.
    found = pick(table[table["events"] > 0], "event_name events units")
    assert found == [("Order Completed", 1, 1), ("view", 1, 1), ("scroll", 3, 2)]


def test_map_events_tells_what_only_the_period_lacks_from_what_never_fires(plan: Plan, rows: pd.DataFrame) -> None:
    log = make_log(rows, plan).between("2024-01-02", "2024-01-03")
    event_map = map_events(log, plan)
    silent = event_map.table[event_map.table["events"] == 0]
    assert pick(silent, "conversion status note") == [
        ("late_view", "not seen here", "1 in the whole log, last on 2024-01-01"),
        ("chat", "never fires", ""),
        ("leave", "not seen here", "1 in the whole log, last on 2024-01-05"),
    ]
    assert event_map.takeaways[1] == (
        "2 of the plan's 5 conversions are tracked; not in this period: Late view (1 in the whole log, last on "
        "2024-01-01), Leave (1 in the whole log, last on 2024-01-05); never seen: Chat begun."
    )
    where = event_map.coverage.set_index("conversion")["where"]
    assert where[["chat", "leave", "view"]].tolist() == ["never fires", "not seen here", "awareness"]
    shared = map_events(dataclasses.replace(log, fewest=2), plan)  # these rows may be one user's
    assert "not seen here" in shared._repr_html_()
    assert "in the whole log" not in shared._repr_html_()


def test_map_events_of_an_empty_segment_has_every_conversion(plan: Plan, rows: pd.DataFrame) -> None:
    event_map = map_events(make_log(rows, plan).segment({"geo": "FR"}), plan)
    assert tuple(event_map.table.columns) == COLUMNS
    assert event_map.table["conversion"].tolist() == ["buy", "view", "late_view", "chat", "leave"]
    assert event_map.table["share_of_units"].isna().all()
    assert event_map.fill["share"].isna().all()


def test_event_map_shows_its_tables(event_map: EventMap) -> None:
    assert "<td" in event_map.show_fill()._repr_html_()
    assert "Missing in the plan" in event_map.show_gaps()._repr_html_()
    assert "never fires" in event_map._repr_html_()


def test_event_map_covers_each_conversion_once(event_map: EventMap) -> None:
    # ann and ben bought, by two event names: half of the four users.
    found = pick(event_map.coverage, "conversion units share_of_units")
    assert found == [("buy", 2, 0.5), ("view", 2, 0.5), ("late_view", 1, 0.25), ("chat", 0, 0.0), ("leave", 1, 0.25)]


def test_event_map_lists_the_values_that_several_users_have(event_map: EventMap) -> None:
    # Only ann was seen in Germany.
    fill = event_map.fill.set_index("column")
    assert pick(fill.loc[["geo", "campaign"]], "filled distinct most_frequent") == [(8, 2, "US (7)"), (0, 0, "")]


def test_event_map_lists_no_values_of_ids(event_map: EventMap) -> None:
    fill = event_map.fill.set_index("column")
    assert fill.loc[["user_id", "session_id"], "most_frequent"].tolist() == ["", "derived"]
    assert fill["distinct"].isna()["user_id"]


def test_event_map_draws_the_plan_with_owners_and_targets(event_map: EventMap) -> None:
    texts = [text.get_text() for text in event_map.plot_plan().texts]
    assert texts[:8] == ["Bought", "", "shop", "30.0%", "View", "awareness", "web", "50.0%"]
    assert texts[12:16] == ["Chat begun", "never fires", "nobody", "-"]


def test_map_events_says_how_many_rows_only_repeat_the_one_before(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "macros: [{id: buy, match: {event_name: buy}, dedupe: 2s}]")
    table = map_events(make_log("ann buy 1s\nann buy 2s\nben buy 1s\n", plan), plan).table
    assert pick(table, "conversion events units note") == [
        ("buy", 3, 2, "rows that only repeat the one before: 1 (whole log)")
    ]


def test_map_events_refuses_a_plan_the_log_was_not_read_with(plan: Plan, rows: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ParamError) as caught:
        map_events(make_log(rows, plan), make_plan(tmp_path, PLAN.replace("Chat begun", "Chat")))
    assert str(caught.value) == (
        "The log was read with another plan, so it lacks this one's conversions. Use read_events(..., plan=plan)."
    )
