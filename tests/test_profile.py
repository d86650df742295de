import json
from pathlib import Path

import pandas as pd
import pytest
from small_logs import START, make_log, make_plan, pick, write_rows

from convlib import profile
from convlib.plan import Plan
from convlib.profile import Profile, profile_rows

PLAN = """
macros:
  - id: buy
    match: {event_name: [purchase, Order]}
    micros:
      - {id: view, match: {event_name: view}, stage: awareness, kind: process_milestone}
      - {id: app_view, match: {event_name: view, device_type: app}, stage: awareness, kind: process_milestone}
      - {id: far, match: {geo: NO}, stage: decision, kind: secondary_action}
      - {id: chat, match: {event_name: chat}, stage: decision, kind: secondary_action}
"""
ROWS = """
ann view 1h device_type=web geo=NO who=Ann
ann view 2h device_type=app geo=SE who=Ann
ann purchase 26h device_type=app geo=SE value=10 currency=USD who=Ann
ben view 3h device_type=web geo=SE who=Ben
ben Order 27h device_type=web geo=NO value=-2 currency=EUR who=Ben
cat scroll 28h device_type=web geo=SE
"""
NEXT = START + pd.Timedelta(days=1)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, PLAN)


@pytest.fixture
def found(plan: Plan) -> Profile:
    return profile_rows(make_log(ROWS, plan))


def test_profile_rows_counts_by_day_event_and_platform(found: Profile) -> None:
    assert (found.rows, found.users, found.platform) == (6, 3, "device_type")
    # The web's views of ann and ben are apart: one is `far`.
    daily = found.daily.groupby(["day", "event_name", "platform"], as_index=False)[["rows", "negative"]].sum()
    assert pick(daily, "day event_name platform rows negative") == [
        (START, "view", "app", 1, 0),
        (START, "view", "web", 2, 0),
        (NEXT, "Order", "web", 1, 1),
        (NEXT, "purchase", "app", 1, 0),
        (NEXT, "scroll", "web", 1, 0),
    ]
    assert found.filled[["user_id", "value", "who", "campaign"]].sum().tolist() == [6, 2, 5, 0]


def test_profile_rows_counts_by_hour(found: Profile) -> None:
    assert pick(found.hourly.head(2), "hour platform rows") == [
        (START + pd.Timedelta("1h"), "web", 1),
        (START + pd.Timedelta("2h"), "app", 1),
    ]


def test_profile_rows_counts_rows_and_users_of_each_conversion_and_event(found: Profile) -> None:
    assert sorted(pick(found.conversions, "conversion event_name events users")) == [
        ("app_view", "view", 1, 1),
        ("buy", "Order", 1, 1),
        ("buy", "purchase", 1, 1),
        ("far", "Order", 1, 1),
        ("far", "view", 1, 1),
        ("view", "view", 3, 2),
    ]
    # ann and ben did `buy`, each by another event; both were `far` once.
    assert found.covered == {"buy": 2, "view": 2, "app_view": 1, "far": 2, "chat": 0}
    views = found.conversions.set_index("conversion").loc["view"]
    assert (views["first"], views["last"]) == (START + pd.Timedelta("1h"), START + pd.Timedelta("3h"))


def test_profile_rows_counts_names_and_what_of_them_is_mapped(found: Profile) -> None:
    assert pick(found.names, "event_name rows users mapped") == [
        ("view", 3, 2, 3),
        ("Order", 1, 1, 1),
        ("purchase", 1, 1, 1),
        ("scroll", 1, 1, 0),
    ]


def test_profile_rows_counts_currencies_of_all_rows_and_of_each_conversions_values(found: Profile) -> None:
    counts = found.currencies.groupby(["conversion", "currency"])["rows"].sum()
    assert counts.to_dict() == {("", "EUR"): 1, ("", "USD"): 1, ("buy", "EUR"): 1, ("buy", "USD"): 1, ("far", "EUR"): 1}


def test_profile_rows_says_which_values_one_user_alone_has(found: Profile) -> None:
    values = found.values[found.values["column"].isin(["geo", "who"])]
    assert pick(values, "column value rows shared") == [
        ("geo", "SE", 4, True),
        ("geo", "NO", 2, True),
        ("who", "Ann", 3, False),
        ("who", "Ben", 2, False),
    ]


def test_profile_rows_describes_no_values_of_ids_nor_of_a_column_of_many(plan: Plan) -> None:
    rows = write_rows(ROWS).assign(product_id="p1", note=[f"note {n}" for n in range(6)])
    many = pd.concat([rows, *[rows.assign(note=f"more {n}") for n in range(12)]], ignore_index=True)
    columns = set(profile_rows(make_log(many, plan)).values["column"])
    assert columns == {"event_name", "device_type", "geo", "value", "currency", "who"}
    # Few in a segment, but many in the whole log.
    segment = make_log(many, plan).where(event_name="scroll")
    assert "note" not in set(profile_rows(segment).values["column"])


def test_profile_rows_names_columns_with_personal_data(plan: Plan) -> None:
    rows = write_rows(ROWS).assign(
        user_id=["ann@example.com"] * 3 + ["ben"] * 2 + ["cat"], note=["+49 30 1234567", *["-"] * 5], plain="shoes"
    )
    found = profile_rows(make_log(rows, plan))
    assert pick(found.personal, "column kind values") == [
        ("note", "telephone numbers", 1),
        ("user_id", "e-mail addresses", 1),
    ]
    assert "note" not in set(found.values["column"])


def test_profile_rows_finds_an_address_beyond_the_values_searched_for_numbers(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "MOST_SEARCHED", 2)
    rows = write_rows(ROWS).assign(note=["a", "b", "c", "d", "e", "ann@example.com"])
    assert pick(profile_rows(make_log(rows, plan)).personal, "column kind values") == [("note", "e-mail addresses", 1)]


def test_profile_rows_puts_rare_names_together_when_there_are_too_many(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "MOST_NAMES", 1)
    found = profile_rows(make_log(ROWS, plan))
    # The names of the plan's own rules stay; `far` reads another column.
    assert pick(found.names, "event_name rows users") == [
        ("view", 3, 2),
        ("(other names)", 1, 1),
        ("Order", 1, 1),
        ("purchase", 1, 1),
    ]
    assert found.covered["buy"] == 2


def test_profile_rows_takes_columns_and_names_of_any_kind(tmp_path: Path) -> None:
    odd = 'it\'s "quoted"; DROP TABLE x\n<b>'
    match = {"event_name": odd, 'a "b"': "x"}
    plan = make_plan(tmp_path, json.dumps({"macros": [{"id": "buy", "match": match}]}))
    rows = write_rows(ROWS).assign(day="Monday", name=1, rows=2, match0=True, c0=None)
    rows['a "b"'] = "x"
    rows.loc[0, "event_name"] = odd
    found = profile_rows(make_log(rows, plan))
    assert found.covered == {"buy": 1}
    assert found.filled[["day", "name", "rows", "match0", "c0"]].sum().tolist() == [6, 6, 6, 6, 0]


def test_profile_rows_counts_as_many_masks_as_it_needs(tmp_path: Path) -> None:
    # A hundred names do not fit into one whole number.
    names = "\n".join(f"u{n % 7} e{n} {n}h geo={'NO' if n % 2 else 'SE'}" for n in range(100))
    plan = make_plan(tmp_path, "macros: [{id: buy, match: {geo: NO}}]")
    found = profile_rows(make_log(names, plan))
    assert found.covered == {"buy": 7}
    assert (found.users, found.names["users"].sum(), len(found.conversions)) == (7, 100, 50)


def test_profile_rows_reads_when_rows_arrived(plan: Plan) -> None:
    rows = write_rows(ROWS)
    late = pd.to_timedelta([1, 1, 25, 23, 0, 700], unit="h")
    found = profile_rows(make_log(rows.assign(received_at=rows["timestamp"] + late), plan))
    assert (found.received, found.daily["late"].sum()) == ("received_at", 2)


def test_profile_rows_counts_the_segments_rows_in_the_period(plan: Plan) -> None:
    log = make_log(ROWS, plan).between("2024-01-02", "2024-01-02").segment({"geo": "NO"})
    found = profile_rows(log)  # ben alone enters on the 2nd with NO
    assert (found.rows, found.users) == (1, 1)
    assert found.file_rows == 6
