import dataclasses
import datetime as dt
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from convlib.errors import ParamError, PlanError
from convlib.events import EventLog, list_columns, read_events
from convlib.periods import Calendar
from convlib.rules import parse_rule
from convlib.segments import Segment

PLAN = """\
macros:
  - id: purchase
    match: {event_name: buy}
    micros:
      - {id: look, match: {event_name: view}, stage: decision, kind: process_milestone}
"""
SEGMENTS = """\
mobile: {device_type: mobile}
device: {by: device_type}
paid by device: {medium: cpc, by: device_type}
on mobile: {device_type: mobile, scope: event}
device rows: {by: device_type, scope: event}
"""
#: a enters on a phone and buys on the desktop; b has no device; c comes back in the second week; d enters in the third.
ROWS = pd.DataFrame(
    [
        ("a", "view", "2026-01-05 10:00", "s1", "mobile", "cpc"),
        ("a", "buy", "2026-01-05 10:05", "s1", "desktop", None),
        ("b", "view", "2026-01-06 23:59:59", "s1", None, "cpc"),
        ("c", "view", "2026-01-07 00:00", "s1", "desktop", "cpc"),
        ("c", "view", "2026-01-12 00:00", "s2", "mobile", None),
        ("c", "buy", "2026-01-12 00:01", "s2", "mobile", None),
        ("d", "ping", "2026-01-20 08:00", None, "desktop", None),
    ],
    columns=["user_id", "event_name", "timestamp", "session_id", "device_type", "medium"],
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    folder = tmp_path_factory.mktemp("params")
    (folder / "plan.yaml").write_text(PLAN, encoding="utf-8")
    (folder / "segments.yaml").write_text(SEGMENTS, encoding="utf-8")
    return read_events(ROWS, plan=folder / "plan.yaml", segments=folder / "segments.yaml")


def users(log: EventLog, **options: object) -> list[str]:
    """The users of the log's entries, by their codes: a is 0."""
    return ["abcd"[code] for code in log.entries(**options).index]  # type: ignore[arg-type]


def events(log: EventLog) -> list[str]:
    table = log.to_pandas()
    return [f"{user} {name}" for user, name in zip(table["user_id"], table["event_name"], strict=True)]


def count(log: EventLog, part: str, *groups: str) -> dict[object, list[int]]:
    table = log.count(part, *groups)
    keys = table[groups[0]] if groups else ["all"]
    return dict(zip(keys, table[["events", "units"]].to_numpy().tolist(), strict=True))


def test_read_events_says_what_it_read(log: EventLog) -> None:
    assert (log.rows_read, log.rows_used, log.rows_rejected) == (7, 7, 0)
    assert (log.first, log.last) == (pd.Timestamp("2026-01-05 10:00"), pd.Timestamp("2026-01-20 08:00"))
    assert log.period == (dt.date(2026, 1, 5), dt.date(2026, 1, 20))
    assert {"user_id", "device_type", "value"} <= set(log.columns)
    assert not {"event", "user", "session"} & set(log.columns)
    assert len(log.fingerprint) == 64
    assert log.rejects.to_dict("list") == {"source": [], "row": [], "reason": []}


def test_segment_keeps_all_events_of_units_whose_entry_matches(log: EventLog) -> None:
    mobile = log.segment("mobile")
    assert mobile.segment_name == "mobile"
    assert users(mobile) == ["a"]  # c's entry was on the desktop
    assert events(mobile) == ["a view", "a buy"]
    assert list(mobile.to_pandas()["device_type"]) == ["mobile", "desktop"]


def test_segment_looks_at_the_entry_in_the_period(log: EventLog) -> None:
    second_week = log.between("2026-01-12", "2026-01-18").segment("mobile")
    assert users(second_week) == ["c"]
    assert events(second_week) == ["c view", "c view", "c buy"]


def test_segment_by_a_column_sums_to_the_whole(log: EventLog) -> None:
    parts = {name: users(log.segment(name)) for name in log.expand_segments(["device"])}
    assert parts == {"device=desktop": ["c", "d"], "device=mobile": ["a"], "device=(none)": ["b"]}
    assert sum(len(events(log.segment(name))) for name in parts) == len(events(log)) == 7


def test_segment_by_a_column_within_a_rule(log: EventLog) -> None:
    names = log.expand_segments(["paid by device"])
    assert {name: users(log.segment(name)) for name in names} == {
        "paid by device=desktop": ["c"],
        "paid by device=mobile": ["a"],
        "paid by device=(none)": ["b"],
    }


def test_segment_of_events_filters_rows(log: EventLog) -> None:
    assert events(log.segment("on mobile")) == ["a view", "c view", "c buy"]
    assert events(log.segment("device rows=(none)")) == ["b view"]
    assert users(log.segment("on mobile")) == ["a", "c"]


def test_segment_takes_a_match_rule(log: EventLog) -> None:
    custom = log.segment({"any": [{"event_name": "ping"}, {"device_type": {"is_null": True}}]})
    assert custom.segment_name == "custom"
    assert users(custom) == ["b", "d"]


def test_segment_all_is_everyone_also_without_a_file(log: EventLog) -> None:
    assert users(log.segment("all")) == ["a", "b", "c", "d"]
    assert users(read_events(ROWS).segment("all")) == ["a", "b", "c", "d"]


def test_segment_replaces_another_segment(log: EventLog) -> None:
    for name in ("all", "device=desktop"):
        after = log.segment("mobile").segment(name)
        assert (after.segment_name, users(after)) == (name, users(log.segment(name)))


def test_whole_drops_segment_filters_and_period(log: EventLog) -> None:
    narrow = log.segment("mobile").where(medium="cpc").between("2026-01-05", "2026-01-05")
    assert narrow.whole() == log


def test_where_keeps_rows_and_adds_up(log: EventLog) -> None:
    assert events(log.where(event_name=["view", "buy"], device_type="mobile")) == ["a view", "c view", "c buy"]
    assert events(log.where(device_type="mobile").where(event_name="view")) == ["a view", "c view"]
    assert log.where(device_type="mobile").segment_name == "all"


def test_where_leaves_the_end_of_the_data(log: EventLog) -> None:
    assert log.where(event_name="view").last == pd.Timestamp("2026-01-20 08:00")


def test_between_chooses_entries_and_leaves_other_events_visible(log: EventLog) -> None:
    chosen = log.between("2026-01-07", "2026-01-07")
    assert chosen.period == (dt.date(2026, 1, 7), dt.date(2026, 1, 7))
    assert users(chosen) == ["c"]
    assert events(chosen) == ["c view", "c view", "c buy"]
    assert chosen.last == pd.Timestamp("2026-01-20 08:00")


def test_between_includes_both_days_and_leaves_ends_open(log: EventLog) -> None:
    assert users(log.between("2026-01-06", dt.date(2026, 1, 7))) == ["b", "c"]
    assert users(log.between(end="2026-01-06")) == ["a", "b"]
    assert users(log.between("2026-01-12", "")) == ["c", "d"]
    with pytest.raises(ParamError) as caught:
        log.between("2026-02-01", "2026-02-28")
    assert str(caught.value) == (
        "No event lies from `start` 2026-02-01 to `end` 2026-02-28: the log has events from 2026-01-05 to 2026-01-20. "
        "Choose days among these."
    )


def test_entries_are_the_first_events_of_units(log: EventLog) -> None:
    found = log.entries(columns=["event_name", "device_type"])
    assert found.index.tolist() == [0, 1, 2, 3]
    moments = pd.to_datetime(found["time"], unit="us").tolist()
    assert moments == [pd.Timestamp(ROWS["timestamp"][i]) for i in (0, 2, 3, 6)]
    assert found["event_name"].tolist() == ["view", "view", "view", "ping"]
    assert found["device_type"].tolist() == ["mobile", "(none)", "desktop", "desktop"]
    assert set(found["period"]) == {pd.Timestamp("2026-01-05")}


def test_entries_may_start_at_a_conversion_or_event(log: EventLog) -> None:
    for name in ("purchase", "buy"):
        found = log.entries(entry=name)
        assert pd.to_datetime(found["time"], unit="us").tolist() == [
            pd.Timestamp("2026-01-05 10:05"),
            pd.Timestamp("2026-01-12 00:01"),
        ]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("D", [(0, "01-05"), (1, "01-06"), (2, "01-07"), (2, "01-12"), (3, "01-20")]),
        ("W", [(0, "01-05"), (1, "01-05"), (2, "01-05"), (2, "01-12"), (3, "01-19")]),
        ("M", [(0, "01-01"), (1, "01-01"), (2, "01-01"), (3, "01-01")]),
    ],
)
def test_entries_every_period_are_one_for_each_unit(log: EventLog, every: str, expected: list[tuple[int, str]]) -> None:
    found = log.entries(calendar=Calendar(every))
    assert list(zip(found.index, found["period"].dt.strftime("%m-%d"), strict=True)) == expected


def test_entries_count_users_or_sessions(log: EventLog) -> None:
    assert users(log) == ["a", "b", "c", "d"]
    assert log.entries(unit="session", columns=["user_id"])["user_id"].tolist() == ["a", "b", "c", "c"]


def test_entries_do_not_depend_on_the_order_of_tied_rows() -> None:
    tied = ROWS.assign(timestamp="2026-01-05")
    first, second = (
        read_events(rows).entries(columns=["event_name", "device_type"]) for rows in (tied, tied.iloc[::-1])
    )
    assert_frame_equal(first, second)


def test_values_are_text_in_order_with_none_last(log: EventLog) -> None:
    assert log.values("device_type") == ["desktop", "mobile", "(none)"]
    assert log.values("value") == ["(none)"]
    assert log.where(event_name="ping").values("device_type") == ["desktop"]


def test_expand_segments_gives_by_segments_one_name_a_value(log: EventLog) -> None:
    devices = ["desktop", "mobile", "(none)"]
    assert log.expand_segments() == [
        "all",
        "mobile",
        *(f"device={value}" for value in devices),
        *(f"paid by device={value}" for value in devices),
        "on mobile",
        *(f"device rows={value}" for value in devices),
    ]
    assert log.expand_segments(["on mobile", "all"]) == ["on mobile", "all"]
    assert read_events(ROWS).expand_segments() == ["all"]


def test_to_pandas_gives_rows_in_order_of_user_and_time(log: EventLog) -> None:
    table = read_events(ROWS.sample(frac=1, random_state=1)).to_pandas()
    assert tuple(table.columns) == log.columns
    assert_frame_equal(table, log.to_pandas())
    assert list(table["timestamp"]) == [pd.Timestamp(text) for text in ROWS["timestamp"]]


def test_count_counts_events_and_users_in_the_period(log: EventLog) -> None:
    assert count(log, "events", "event_name") == {"view": [4, 3], "buy": [2, 2], "ping": [1, 1]}
    assert count(log, "conversions", "conversion") == {"look": [4, 3], "purchase": [2, 2]}
    assert count(log, "events") == {"all": [7, 4]}
    first_week = log.between("2026-01-05", "2026-01-11")
    assert count(first_week, "events", "event_name") == {"view": [3, 3], "buy": [1, 1]}
    assert count(first_week, "events", "day") == {
        pd.Timestamp("2026-01-05"): [2, 1],
        pd.Timestamp("2026-01-06"): [1, 1],
        pd.Timestamp("2026-01-07"): [1, 1],
    }


def test_count_counts_only_units_of_the_segment(log: EventLog) -> None:
    assert count(log.segment("mobile"), "events", "event_name") == {"buy": [1, 1], "view": [1, 1]}
    assert count(log.segment("on mobile"), "conversions", "conversion") == {"look": [2, 2], "purchase": [1, 1]}


def test_count_of_two_groups_gives_the_most_frequent_first(log: EventLog) -> None:
    table = log.count("events", "event_name", "device_type")
    assert table[["event_name", "device_type", "events"]].fillna("-").to_numpy().tolist() == [
        ["view", "mobile", 2],
        ["buy", "desktop", 1],
        ["buy", "mobile", 1],
        ["ping", "desktop", 1],
        ["view", "desktop", 1],
        ["view", "-", 1],
    ]


def test_stream_opens_a_conversion_or_an_event(log: EventLog) -> None:
    assert len(log.stream("purchase").fetchall()) == 2
    assert len(log.stream("ping").fetchall()) == 1
    assert len(log.where(device_type="desktop").stream("purchase").fetchall()) == 1


def test_stream_of_an_event_that_the_filter_leaves_out_is_empty(log: EventLog) -> None:
    assert log.where(device_type="mobile").stream("ping").fetchall() == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mobil",
            "There is no segment `mobil`. Did you mean 'mobile'? The segments are all, mobile, device=desktop, "
            "device=mobile, device=(none).",
        ),
        (
            "device",
            "There is no segment `device`. Did you mean 'device=mobile'? The segments are all, mobile, device=desktop, "
            "device=mobile, device=(none).",
        ),
        (
            "mobile=yes",
            "There is no segment `mobile=yes`. Did you mean 'mobile'? The segments are all, mobile, device=desktop, "
            "device=mobile, device=(none).",
        ),
        (
            "device=phone",
            "There is no segment `device=phone`. Did you mean 'device=(none)'? The segments are all, mobile, "
            "device=desktop, device=mobile, device=(none).",
        ),
    ],
)
def test_segment_refuses_an_unknown_name(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "segments.yaml").write_text("mobile: {device_type: mobile}\ndevice: {by: device_type}\n")
    log = read_events(ROWS, segments=tmp_path / "segments.yaml")
    with pytest.raises(ParamError) as caught:
        log.segment(name)
    assert str(caught.value) == message


def test_expand_segments_refuses_every_unknown_name(tmp_path: Path) -> None:
    (tmp_path / "segments.yaml").write_text("mobile: {device_type: mobile}\n")
    with pytest.raises(ParamError) as caught:
        read_events(ROWS, segments=tmp_path / "segments.yaml").expand_segments(["mobil", "all", "x"])
    assert str(caught.value) == (
        "2 problems:\n"
        "1. There is no segment `mobil`. Did you mean 'mobile'? The segments are all, mobile.\n"
        "2. There is no segment `x`. The segments are all, mobile."
    )


COLUMNS = "Its columns are event_name, timestamp, user_id, session_id, land, medium, device_type."


def test_unknown_columns_are_named_all_at_once(log: EventLog) -> None:
    with pytest.raises(ParamError) as caught:
        log.entries(columns=["devicetype", "x"])
    assert str(caught.value) == (
        "2 problems:\n"
        f"1. The log has no column `devicetype`. Did you mean 'device_type'? {COLUMNS}\n"
        f"2. The log has no column `x`. {COLUMNS}"
    )


def test_unknown_columns_are_refused_wherever_they_are_named(log: EventLog) -> None:
    message = f"The log has no column `devicetype`. Did you mean 'device_type'? {COLUMNS}"
    with pytest.raises(ParamError) as caught:
        log.where(devicetype="tv")
    assert str(caught.value) == message
    with pytest.raises(ParamError) as caught:
        log.segment({"devicetype": "tv"})
    assert str(caught.value) == message
    with pytest.raises(ParamError) as caught:
        log.values("devicetype")
    assert str(caught.value) == message


def test_what_is_no_name_column_or_calendar_is_refused(log: EventLog) -> None:
    with pytest.raises(ParamError, match="There is no segment `1`"):
        log.expand_segments(1)  # type: ignore[arg-type]
    with pytest.raises(ParamError, match="The log has no column `1`"):
        log.entries(columns=1)  # type: ignore[arg-type]
    with pytest.raises(ParamError, match="`calendar` is of type str; it must be what `Calendar` gives"):
        log.entries(calendar="W")  # type: ignore[arg-type]
    with pytest.raises(ParamError, match="`hash_ids` is 'no'; it must be True, False or None"):
        read_events("dataset:shop", hash_ids="no")  # type: ignore[arg-type]


def test_segments_file_with_an_unknown_column_is_refused_when_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "segments.yaml").write_text("kind: {by: devicetype}\n")
    log = read_events(ROWS, segments=tmp_path / "segments.yaml")
    with pytest.raises(ParamError) as caught:
        log.expand_segments()
    assert str(caught.value) == f"The log has no column `devicetype`. Did you mean 'device_type'? {COLUMNS}"


def test_stream_refuses_an_unknown_name(log: EventLog) -> None:
    with pytest.raises(ParamError) as caught:
        log.stream("purchas")
    assert str(caught.value) == (
        "`purchas` is neither a conversion of the plan nor an event of the log. Did you mean 'purchase'? "
        "Known are purchase, look, buy, ping, view."
    )


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("05/01/2026", None, "`start` is '05/01/2026', which is not a date; write it as YYYY-MM-DD."),
        (None, "2026-02-30", "`end` is '2026-02-30'; the calendar has no such day."),
        ("2026-01-05x", None, "`start` is '2026-01-05x', which is not a date; write it as YYYY-MM-DD."),
        ("2026-01-06", "2026-01-05", "`end` 2026-01-05 is before `start` 2026-01-06; swap them."),
    ],
)
def test_between_refuses(log: EventLog, start: str | None, end: str | None, message: str) -> None:
    with pytest.raises(ParamError) as caught:
        log.between(start, end)
    assert str(caught.value) == message


def test_read_events_refuses_a_wrong_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError) as caught:
        read_events(ROWS, plan=tmp_path / "plan.yaml")
    assert str(caught.value) == f"{tmp_path / 'plan.yaml'} does not exist. Check its name and folder."


def test_list_columns_takes_one_or_several() -> None:
    assert list_columns("geo") == ["geo"]
    assert list_columns(("geo", "source")) == ["geo", "source"]


def test_entries_refuse_an_unknown_unit(log: EventLog) -> None:
    with pytest.raises(ParamError) as caught:
        log.entries(unit="visit")  # type: ignore[arg-type]
    assert str(caught.value) == "`unit` is 'visit'; it must be one of 'user', 'session'."


def test_segments_are_one_set_of_units_whatever_starts_their_clock() -> None:
    rows = pd.DataFrame(
        [
            ("a", "view", "2026-01-05 10:00", "mobile"),
            ("a", "view", "2026-01-12 10:00", "desktop"),
            ("b", "view", "2026-01-05 10:00", "desktop"),
            ("b", "buy", "2026-01-12 10:00", "mobile"),
        ],
        columns=["user_id", "event_name", "timestamp", "device_type"],
    )
    mobile = read_events(rows).segment({"device_type": "mobile"})
    weekly = mobile.entries(calendar=Calendar("W"), columns=["device_type"])
    assert weekly.index.tolist() == [0, 0]
    assert weekly["device_type"].tolist() == ["mobile", "desktop"]
    assert mobile.entries(entry="buy").empty


def test_segment_takes_the_place_of_a_segment_of_rows(log: EventLog) -> None:
    rows = dataclasses.replace(log, segments={"pings": Segment("pings", parse_rule({"event_name": "ping"}), "event")})
    assert len(rows.segment("pings").to_pandas()) < len(rows.segment("pings").segment("all").to_pandas())
    assert len(rows.segment("pings").segment("all").to_pandas()) == len(rows.to_pandas())


@pytest.mark.parametrize("column", ["period", "unit", "time"])
def test_breakdowns_by_a_taken_column_name_are_refused(column: str) -> None:
    with pytest.raises(ParamError) as caught:
        read_events(ROWS.assign(**{column: "x"})).entries(columns=[column])
    assert str(caught.value) == (
        f"The column `{column}` can't break results down: their own tables have a column of that name. "
        "Rename it in the log."
    )


def test_a_log_shows_its_rows_users_period_and_columns() -> None:
    log = read_events(ROWS).between("2026-01-06")
    seen, columns = "Segment all, entries from 2026-01-06 to 2026-01-20. DataFrame: ", ", ".join(log.columns)
    assert repr(log) == f"{seen}7 rows read = 7 used + 0 rejected. Columns: {columns}."
    assert "+ 0 rejected. 4 users in the whole log. Columns: event_name" in log._repr_html_()
    shared = dataclasses.replace(log, fewest=10)
    assert repr(shared) == f"{seen}7 rows used. Columns: {columns}."


def test_count_by_day_counts_days_also_when_the_log_has_a_column_of_that_name() -> None:
    days = read_events(ROWS.assign(day="Thursday")).count("events", "day")["day"]
    assert sorted(days) == [pd.Timestamp(f"2026-01-{day}") for day in ("05", "06", "07", "12", "20")]


@pytest.mark.parametrize(
    ("column", "fault"),
    [
        ("user_id", "it names users"),
        ("page_path", "it has 201 values, and at most 200 make segments"),
        ("referrer", "it holds personal data"),
    ],
)
def test_expand_segments_refuses_columns_that_name_users_or_have_too_many_values(column: str, fault: str) -> None:
    rows = pd.DataFrame(
        {
            "user_id": [f"u{n}" for n in range(201)],
            "page_path": [f"/{n}" for n in range(201)],
            "referrer": "https://shop.example/?mail=ann%40example.com",
            "event_name": "view",
            "timestamp": "2026-01-01",
        }
    )
    log = read_events(rows, segments={"each": Segment("each", by=column)})
    with pytest.raises(ParamError) as caught:
        log.expand_segments()
    assert str(caught.value) == (
        f"`by: {column}` can't make segments: {fault}. Choose a column of few values, or map it to one."
    )
