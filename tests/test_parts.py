import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from source_files import HEADER, PLAN, read_lines, refuse, save_parquet, write_csv, write_mapping, write_plan

from convlib.events import EventLog, read_events

DAY = "2026-01-01"
FEW = f"{HEADER},product_id"


def read(tmp_path: Path, plan: str, header: str, *lines: str) -> EventLog:
    """Read lines such as `a,buy,10:00` of one day, by a plan."""
    split = [line.split(",", 2) for line in lines]
    dated = [f"{user},{name},{DAY} {rest}" for user, name, rest in split]
    return read_lines(header, *dated, plan=write_plan(tmp_path, plan))


def column(log: EventLog, name: str) -> list[str | None]:
    """Give a column's values in order of user and time; None for none."""
    values = log.to_pandas()[name]
    return list(values.astype(object).where(values.notna(), None))


def counted(log: EventLog, name: str) -> list[str]:
    """Give a conversion's rows as `a buy 10:00:00`."""
    rows = log.stream(name).project("user_id, event_name, strftime(timestamp, '%H:%M:%S')").fetchall()
    return [" ".join(row) for row in rows]


def write_micro(match: str, more: str = "") -> str:
    return f"      - {{id: look, match: {match}, stage: decision, kind: process_milestone{more}}}\n"


# sessions and landing pages


def test_sessions_end_after_more_than_half_an_hour_without_an_event() -> None:
    lines = [
        "a,x,2026-01-01 10:00",
        "a,x,2026-01-01 10:30",  # exactly 30 minutes later: the same visit
        "a,x,2026-01-01 11:00:00.000001",
        "a,x,2026-01-02 11:00",
        "b,x,2026-01-01 10:15",
        "b,x,2026-01-01 10:45",
    ]
    log = read_lines(HEADER, *lines)
    assert column(log, "session_id") == ["a:1", "a:1", "a:2", "a:3", "b:1", "b:1"]
    assert len(log.entries(unit="session")) == 4
    assert len(log.entries(unit="user")) == 2


def test_sessions_keep_events_of_one_moment_together() -> None:
    log = read_lines(HEADER, *["a,x,2026-01-01 10:00", "a,y,2026-01-01 10:00", "a,z,2026-01-01 10:30"] * 2)
    assert column(log, "session_id") == ["a:1"] * 6


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(("gap", "sessions"), [("10min", ["a:1", "a:1", "a:2"]), ("1h", ["a:1", "a:1", "a:1"])])
def test_sessions_end_after_the_gap_of_a_mapping(gap: str, sessions: list[str], form: str, tmp_path: Path) -> None:
    times = ["2026-01-01 10:00", "2026-01-01 10:10", "2026-01-01 10:21"]
    rows = pd.DataFrame({"user_id": "a", "event_name": "x", "timestamp": pd.to_datetime(times)})
    mapping = write_mapping(tmp_path, f"session_gap: {gap}\n")
    source = save_parquet(tmp_path, rows) if form == "parquet" else write_csv(tmp_path, *(f"a,x,{t}" for t in times))
    assert column(read_events(source, mapping=mapping), "session_id") == sessions


def test_sessions_given_are_left_as_they_are() -> None:
    log = read_lines(f"{HEADER},session_id", "a,x,2026-01-01,s1", "a,x,2026-01-03,s1", "a,x,2026-01-03,")
    assert column(log, "session_id") == ["s1", "s1", None]


def test_sessions_of_one_id_belong_to_their_user() -> None:
    log = read_lines(f"{HEADER},session_id", "a,x,2026-01-01,1", "b,x,2026-01-01,1", "b,x,2026-01-01,2")
    assert log.entries(unit="session", columns=["user_id"])["user_id"].tolist() == ["a", "b", "b"]


PAGES = [
    "a,x,2026-01-01 10:00,",
    "a,x,2026-01-01 10:01,/home",
    "a,x,2026-01-01 10:02,/cart",
    "a,x,2026-01-01 11:00,/cart",
    "b,x,2026-01-01 10:00,",
]


@pytest.mark.parametrize("name", ["page_path", "Page_Path"])
def test_land_is_the_first_page_of_the_session(name: str) -> None:
    assert column(read_lines(f"{HEADER},{name}", *PAGES), "land") == ["/home", "/home", "/home", "/cart", None]


def test_land_is_the_first_page_of_a_given_session() -> None:
    lines = ["a,x,2026-01-01,/p,s1", "a,x,2026-01-03,/q,s1", "a,x,2026-01-02,/r,s2", "a,x,2026-01-04,/t,"]
    log = read_lines(f"{HEADER},page_path,session_id", *lines)
    found = dict(zip(column(log, "page_path"), column(log, "land"), strict=True))
    assert found == {"/p": "/p", "/q": "/p", "/r": "/r", "/t": None}


def test_land_given_is_left_as_it_is() -> None:
    log = read_lines(f"{HEADER},page_path,land", "a,x,2026-01-01 10:00,/p,", "a,x,2026-01-01 10:01,/q,/campaign")
    assert column(log, "land") == [None, "/campaign"]


def test_rules_may_read_what_is_derived(tmp_path: Path) -> None:
    plan = "macros: [{id: campaign_visit, match: {land: /home, session_id: {regex: ':1$'}}}]\n"
    log = read_lines(f"{HEADER},page_path", *PAGES, plan=write_plan(tmp_path, plan))
    assert counted(log, "campaign_visit") == ["a x 10:00:00", "a x 10:01:00", "a x 10:02:00"]


# one action, one conversion

ONE_ACTION = """\
macros:
  - id: purchase
    match: {event_name: buy}
    micros:
      - id: add_to_cart
        match:
          any:
            - {event_name: add_to_cart, platform: web}
            - {event_name: AddToCart, platform: {regex: "^(ios|android)"}}
            - {event_name: Product Added, platform: server}
        dedupe: 2s
        stage: decision
        kind: process_milestone
"""
ACTIONS = f"{HEADER},platform"


def test_one_action_of_several_platforms_is_one_conversion(tmp_path: Path) -> None:
    lines = [
        "a,add_to_cart,10:00:00,web",
        "a,Product Added,10:00:01,server",  # the same action, said again
        "b,AddToCart,10:00:00,ios 17",
        "b,AddToCart,10:05:00,android",
        "b,AddToCart,10:10:00,web",  # no such name on this platform
        "c,Product Added,10:00:00,server",
    ]
    log = read(tmp_path, ONE_ACTION, ACTIONS, *lines)
    assert counted(log, "add_to_cart") == [
        "a add_to_cart 10:00:00",
        "b AddToCart 10:00:00",
        "b AddToCart 10:05:00",
        "c Product Added 10:00:00",
    ]
    assert log.double_fired == {"add_to_cart": 1}


@pytest.mark.parametrize(
    ("match", "found"),
    [
        ("{any: [{event_name: buy}, {event_name: pay}]}", [0, 1, 2, 3]),
        ("{event_name: [buy, pay]}", [0, 1, 2, 3]),
        ("{event_name: pay, value: {gte: 10}}", [2]),
        ("{event_name: pay, value: {lt: 10, gt: 8}}", [1]),
        ("{all: [{event_name: {regex: 'a'}}, {any: [{platform: app}, {value: {lte: 9}}]}]}", [1, 2]),
        ("{value: {is_null: true}}", [0, 3, 4]),
        ("{value: 9}", [1]),
    ],
)
def test_a_conversion_may_be_a_composite(match: str, found: list[int], tmp_path: Path) -> None:
    lines = ["a,buy,10:00,web,", "b,pay,10:01,web,9", "c,pay,10:02,app,10.0", "d,pay,10:03,web,", "e,view,10:04,web,"]
    log = read(tmp_path, f"macros: [{{id: purchase, match: {match}}}]\n", f"{ACTIONS},value", *lines)
    assert counted(log, "purchase") == [
        f"{line.split(',')[0]} {line.split(',')[1]} 10:0{i}:00" for i, line in enumerate(lines) if i in found
    ]


def test_an_event_may_be_several_conversions(tmp_path: Path) -> None:
    plan = f"{PLAN}    micros:\n{write_micro('{event_name: {is_null: false}}')}"
    log = read(tmp_path, plan, HEADER, "a,buy,10:00", "a,view,10:01")
    assert counted(log, "purchase") == ["a buy 10:00:00"]
    assert counted(log, "look") == ["a buy 10:00:00", "a view 10:01:00"]


HOSTILE = ['buy "now"', "two\nlines", "<script>alert(1)</script>", "'; DROP TABLE events; --", "50% off\\{0}"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_conversion_may_have_an_event_name_of_any_letters(name: str, tmp_path: Path) -> None:
    quoted = json.dumps(name)  # as YAML writes it too
    plan = write_plan(tmp_path, f"macros: [{{id: purchase, match: {{event_name: {quoted}}}}}]\n")
    rows = pd.DataFrame({"user_id": "a", "event_name": [*HOSTILE, "x"], "timestamp": DAY})
    log = read_events(rows, plan=plan)
    assert log.stream("purchase").project("event_name").fetchall() == [(name,)]
    names = log.profile.names
    assert sorted(names.loc[names["mapped"] == 0, "event_name"]) == sorted({*HOSTILE, "x"} - {name})


def test_conversions_take_the_value_that_the_plan_names(tmp_path: Path) -> None:
    plan = (
        f"{PLAN}    value: {{column: amount}}\n    micros:\n"
        "      - {id: fixed, match: {event_name: buy}, stage: decision, kind: process_milestone, value: 2.5}\n"
        "      - {id: own, match: {event_name: buy}, stage: decision, kind: process_milestone}\n"
    )
    log = read(tmp_path, plan, f"{HEADER},value,amount", "u1,buy,10:00,7,9", "u2,buy,10:00,7,none")
    found = {name: log.stream(name).project("value").fetchall() for name in ("purchase", "fixed", "own")}
    assert found == {"purchase": [(9,), (None,)], "fixed": [(7,), (7,)], "own": [(7,), (7,)]}


def test_conversions_take_one_value_of_all_that_the_plan_states(tmp_path: Path) -> None:
    log = read(tmp_path, f"{PLAN}    value: 30\n", f"{HEADER},value", "a,buy,10:00,7", "b,buy,10:00,")
    assert log.stream("purchase").project("value").fetchall() == [(30,), (30,)]


def test_activity_is_what_is_no_conversion_and_fires_with_none(tmp_path: Path) -> None:
    log = read(tmp_path, PLAN, HEADER, "u1,buy,10:00", "u1,tracked,10:00", "u1,x,10:01", "u2,x,10:00")
    assert log.rows("activity").project("event_name, user").fetchall() == [("x", 0), ("x", 1)]


# double-fired events

DEDUPED = f"{PLAN}    dedupe: 2s\n"
SAME = f"{PLAN}    dedupe: {{within: 2s, same: [product_id]}}\n"


def test_double_fired_is_what_follows_within_the_time(tmp_path: Path) -> None:
    lines = ["a,buy,10:00:00", "a,buy,10:00:02", "a,buy,10:00:04.000001", "b,buy,10:00:01", "a,view,10:00:05"]
    log = read(tmp_path, DEDUPED, HEADER, *lines)
    assert counted(log, "purchase") == ["a buy 10:00:00", "a buy 10:00:04", "b buy 10:00:01"]
    assert log.double_fired == {"purchase": 1}


def test_double_fired_events_in_a_chain_count_once(tmp_path: Path) -> None:
    log = read(tmp_path, DEDUPED, HEADER, *(f"a,buy,10:00:0{second}" for second in range(0, 9, 2)))
    assert counted(log, "purchase") == ["a buy 10:00:00"]
    assert log.double_fired == {"purchase": 4}


def test_double_fired_events_of_one_moment_count_once(tmp_path: Path) -> None:
    log = read(tmp_path, DEDUPED, HEADER, "a,buy,10:00:00", "a,buy,10:00:00", "a,buy,10:00:03")
    assert counted(log, "purchase") == ["a buy 10:00:00", "a buy 10:00:03"]


def test_double_fired_asks_for_equal_columns(tmp_path: Path) -> None:
    lines = ["a,buy,10:00:00,p", "a,buy,10:00:01,q", "a,buy,10:00:02,p", "a,buy,10:00:00,", "a,buy,10:00:01,"]
    log = read(tmp_path, SAME, FEW, *lines)
    assert sorted(log.stream("purchase").project("coalesce(product_id, '-')").fetchall()) == [("-",), ("p",), ("q",)]
    assert log.double_fired == {"purchase": 2}


def test_double_fired_stays_in_the_log_and_is_neither_activity_nor_unmapped(tmp_path: Path) -> None:
    log = read(tmp_path, DEDUPED, HEADER, "a,buy,10:00:00", "a,buy,10:00:01", "a,view,10:00:01", "a,view,10:00:09")
    assert (log.rows_used, len(log.to_pandas())) == (4, 4)
    assert log.rows("activity").project("event_name, strftime(timestamp, '%S')").fetchall() == [("view", "09")]
    names = log.profile.names
    assert names.loc[names["mapped"] == 0, ["event_name", "rows"]].to_numpy().tolist() == [["view", 2]]


def test_double_fired_once_stays_another_conversion(tmp_path: Path) -> None:
    log = read(tmp_path, f"{DEDUPED}    micros:\n{write_micro('{event_name: buy}')}", HEADER, *["a,buy,10:00:00"] * 2)
    assert (len(counted(log, "purchase")), len(counted(log, "look"))) == (1, 2)


def test_double_fired_is_empty_without_dedupe(tmp_path: Path) -> None:
    assert read(tmp_path, PLAN, HEADER, "a,buy,10:00", "a,buy,10:00").double_fired == {}
    assert read_lines(HEADER, "a,buy,2026-01-01").double_fired == {}


def test_double_fired_refuses_columns_that_the_log_lacks(tmp_path: Path) -> None:
    plan = write_plan(tmp_path, SAME.replace("product_id", "order"))
    source = write_csv(tmp_path, "a,buy,2026-01-01")
    assert str(refuse(source, plan=plan)) == (
        f"{plan}:3: `purchase` reads the column `order`, which `{source}` does not have. Its columns are user_id, "
        "event_name, timestamp."
    )


def test_parts_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    lines = ["a,buy,10:00:00,p", "a,buy,10:00:00,q", "a,buy,10:00:01,", "b,view,10:00:00,p", "b,view,11:00:00,"]
    plan = f"{DEDUPED}    micros:\n{write_micro('{event_name: view}')}"
    logs = [read(tmp_path, plan, FEW, *order) for order in (lines, lines[::-1])]
    for part in ("events", "conversions", "activity", "double_fired"):
        first, second = (log.rows(part).fetchall() for log in logs)
        assert first == second


def test_write_parts_numbers_events_by_their_place_in_the_file() -> None:
    # Columns of an entry are looked up by its event's number; more rows than the engine writes in one piece.
    rows = pd.DataFrame({"user_id": [f"u{n % 977}" for n in range(300_000)], "event_name": "x"})
    rows["timestamp"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(300_000)[::-1] % 4_001, unit="s")
    events = read_events(rows).prepared.find("events.parquet", None)
    np.testing.assert_array_equal(pd.read_parquet(events, columns=["event"])["event"], np.arange(300_000))
