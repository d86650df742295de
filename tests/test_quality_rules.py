"""A clean log on which every rule passes, and one fault planted at a time: its own rule fails, and no other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_logs import make_log, make_plan

from convlib.oddities import BUSY
from convlib.plan import Plan
from convlib.quality import Quality, check_quality
from convlib.quality_rules import RULES

START = pd.Timestamp("2024-01-01")  # a Monday
DAYS = 63
#: Sessions begin mostly in the evening, hardly at night.
CURVE = np.array([4, 2, 1, 1, 1, 1, 2, 4, 6, 7, 8, 8, 9, 8, 8, 9, 10, 12, 14, 16, 17, 15, 11, 7], float)
PLAN = """
macros:
  - id: purchase
    match: {event_name: purchase}
    owner: shop-team
    micros:
      - {id: page_view, match: {event_name: page_view}, stage: awareness, kind: secondary_action}
      - {id: view_item, match: {event_name: view_item}, stage: consideration, kind: process_milestone}
      - {id: add_to_cart, match: {event_name: add_to_cart}, stage: decision, kind: process_milestone, owner: web-team}
      - {id: field_error, match: {event_name: field_error}, stage: decision, kind: secondary_action}
"""
NEVER = """
      - {id: chat, name: Chat begun, match: {event_name: chat}, stage: decision, kind: secondary_action, owner: crm}
"""
Plant = Callable[[pd.DataFrame], pd.DataFrame]


def make_clean(seed: int = 7) -> pd.DataFrame:
    """Sessions over nine weeks on two platforms, each a few events a minute apart, in order of time."""
    rng = np.random.default_rng(seed)
    sessions = 10_000
    busy = np.where(np.arange(DAYS) % 7 >= 5, 0.7, 1.0)
    frame = pd.DataFrame(
        {
            "session_id": [f"s{n}" for n in range(sessions)],
            "user_id": [f"u{n}" for n in rng.integers(0, 2_500, sessions)],
            "platform": rng.choice(["web", "app"], sessions, p=[0.6, 0.4]),
            "day": rng.choice(DAYS, sessions, p=busy / busy.sum()),
            "hour": rng.choice(24, sessions, p=CURVE / CURVE.sum()),
            "second": rng.uniform(0, 3_600, sessions),
            "until": rng.choice(4, sessions, p=[0.2, 0.2, 0.5, 0.1]),
        }
    )
    names = ["page_view", "view_item", "add_to_cart", "purchase"]
    steps = [frame[frame["until"] >= place].assign(event_name=name, place=place) for place, name in enumerate(names)]
    steps.append(frame.sample(300, random_state=seed).assign(event_name="field_error", place=5))
    rows = pd.concat(steps, ignore_index=True)
    seconds = rows["day"] * 86_400 + rows["hour"] * 3_600 + rows["second"] + rows["place"] * 67.3
    is_purchase = rows["event_name"] == "purchase"
    rows = rows.assign(
        timestamp=START + pd.to_timedelta(seconds.round(3), unit="s"),
        product_id=("p" + rows["second"].astype(int).mod(40).astype(str)).where(rows["place"].between(1, 3)),
        page_type=np.where(rows["place"] > 1, "cart", "item"),
        search_term=np.where(rows["hour"] > 12, "red shoes", "blue coat"),
        value=rows["second"].mod(100).round(2).where(is_purchase),
        currency=pd.Series("USD", rows.index).where(is_purchase),
    )
    columns = ["event_name", "timestamp", "user_id", "session_id", "platform", "product_id", "page_type", "search_term"]
    return rows[[*columns, "value", "currency"]].sort_values("timestamp", kind="stable", ignore_index=True)


def blank(column: str, every: int) -> Plant:
    """Take the value from each so-manieth row."""
    return lambda rows: rows.assign(**{column: rows[column].where(rows.index % every != 0)})


def write_times(text: str) -> Plant:
    def plant(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(timestamp=rows["timestamp"].astype("str").where(rows.index % 400 != 0, text))

    return plant


def move_far(time: str) -> Plant:
    return lambda rows: rows.assign(timestamp=rows["timestamp"].where(rows.index % 400 != 0, pd.Timestamp(time)))


def shift_hours(rows: pd.DataFrame) -> pd.DataFrame:
    """Write the local time of six hours further east for two weeks on the app."""
    off = (rows["platform"] == "app") & rows["timestamp"].between("2024-01-29", "2024-02-12")
    moved = rows["timestamp"].where(~off, rows["timestamp"] + pd.Timedelta("6h"))
    return rows.assign(timestamp=moved).sort_values("timestamp", ignore_index=True)


def swap_neighbours(rows: pd.DataFrame) -> pd.DataFrame:
    order = np.arange(len(rows))
    first = np.arange(0, len(rows) - 1, 50)
    order[first], order[first + 1] = first + 1, first
    return rows.iloc[order].reset_index(drop=True)


def send_late(rows: pd.DataFrame) -> pd.DataFrame:
    """Put each 300th row three days further down."""
    late = rows.index % 300 == 150
    arrived = rows["timestamp"] + pd.to_timedelta(np.where(late, 3, 0), unit="D")
    return rows.assign(arrived=arrived).sort_values("arrived", kind="stable", ignore_index=True).drop(columns="arrived")


def repeat_rows(seconds: float) -> Plant:
    def plant(rows: pd.DataFrame) -> pd.DataFrame:
        again = rows.iloc[::200]
        again = again.assign(timestamp=again["timestamp"] + pd.Timedelta(seconds=seconds))
        return pd.concat([rows, again]).sort_values("timestamp", kind="stable", ignore_index=True)

    return plant


def set_purchases(column: str, value: object, every: int = 20) -> Plant:
    def plant(rows: pd.DataFrame) -> pd.DataFrame:
        chosen = rows.index[rows["event_name"] == "purchase"][::every]
        values = rows[column].astype("object")
        values[chosen] = value
        return rows.assign(**{column: values})

    return plant


def write_values(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the values as text, one in ten of them with a sign of its own."""
    texts = rows["value"].map("{:.2f}".format).where(rows["value"].notna(), None)
    return set_purchases("value", "12 dollars", 10)(rows.assign(value=texts))


def drop_day(rows: pd.DataFrame) -> pd.DataFrame:
    gone = (rows["event_name"] == "add_to_cart") & rows["timestamp"].between("2024-02-07", "2024-02-08")
    return rows[~gone].reset_index(drop=True)


def crowd_day(rows: pd.DataFrame) -> pd.DataFrame:
    """Give one day the carts of the three days before it as well."""
    carts = rows[rows["event_name"] == "add_to_cart"]
    moved = [carts.assign(timestamp=carts["timestamp"] + pd.Timedelta(days=n)) for n in (1, 2, 3)]
    days = [rows[rows["timestamp"].between("2024-02-08", "2024-02-09")] for rows in moved]
    return pd.concat([rows, *days]).sort_values("timestamp", ignore_index=True)


def lose_property(rows: pd.DataFrame) -> pd.DataFrame:
    lost = (rows["event_name"] == "view_item") & rows["timestamp"].between("2024-02-12", "2024-02-15")
    return rows.assign(page_type=rows["page_type"].where(~lost))


def stop_on_app(rows: pd.DataFrame) -> pd.DataFrame:
    is_cart = (rows["event_name"] == "add_to_cart") & (rows["platform"] == "app")
    return rows[~(is_cart & (rows["timestamp"] > "2024-02-20"))].reset_index(drop=True)


def add_bot(rows: pd.DataFrame) -> pd.DataFrame:
    times = pd.Timestamp("2024-02-01") + pd.to_timedelta(np.linspace(0, 86_399, BUSY + 500).round(3), unit="s")
    bot = {"event_name": "field_error", "user_id": "bot", "session_id": "bot-1", "platform": "web", "page_type": "cart"}
    return pd.concat([rows, pd.DataFrame({"timestamp": times, **bot})]).sort_values("timestamp", ignore_index=True)


def add_unmapped(rows: pd.DataFrame) -> pd.DataFrame:
    more = rows.iloc[::50].assign(event_name="AddToBasket")
    return pd.concat([rows, more]).sort_values("timestamp", kind="stable", ignore_index=True)


def share_sessions(rows: pd.DataFrame) -> pd.DataFrame:
    last = rows.drop_duplicates("session_id", keep="last").loc[lambda some: some["event_name"] != "page_view"]
    chosen = last.index[::50]
    users = rows["user_id"].copy()
    users[chosen] = "signed-in-" + users[chosen]
    return rows.assign(user_id=users)


def write_address(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(search_term=rows["search_term"].where(rows.index != 5_000, "for ann.lee@example.com"))


def garble(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.astype("object")
    rows.loc[:49] = None
    return rows


PLANTS: dict[str, Plant] = {
    "unreadable_row": garble,
    "missing_user_id": blank("user_id", 200),
    "missing_event_name": blank("event_name", 200),
    "missing_session_id": blank("session_id", 20),
    "unreadable_timestamp": write_times("last Tuesday"),
    "timestamp_out_of_range": move_far("1850-01-01"),
    "future_timestamp": move_far("2199-01-01"),
    "shifted_hours": shift_hours,
    "out_of_order": swap_neighbours,
    "late_rows": send_late,
    "exact_duplicates": repeat_rows(0),
    "near_duplicates": repeat_rows(0.4),
    "unknown_currency": set_purchases("currency", "BTX"),
    "mixed_currencies": set_purchases("currency", "EUR"),
    "negative_value": set_purchases("value", -9.5),
    "value_not_a_number": write_values,
    "volume_gap": drop_day,
    "volume_jump": crowd_day,
    "lost_property": lose_property,
    "stopped_event": stop_on_app,
    "busy_user": add_bot,
    "never_fires": lambda rows: rows,
    "unmapped_event": add_unmapped,
    "shared_session": share_sessions,
    "personal_data": write_address,
}


@pytest.fixture(scope="module")
def clean() -> pd.DataFrame:
    return make_clean()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


def check(rows: pd.DataFrame, folder: Path, plan: str = PLAN) -> Quality:
    checked: Plan = make_plan(folder, plan)
    log = make_log(rows, checked)
    assert log.rows_read == len(rows) == log.rows_used + log.rows_rejected + log.rows_left_out
    return check_quality(log, checked)


def test_check_quality_passes_a_clean_log_by_every_rule(clean: pd.DataFrame, folder: Path) -> None:
    table = check(clean, folder).table
    assert table.loc[table["status"] != "passed", ["rule", "status", "failed", "note"]].to_dict("records") == []


def test_plants_has_a_fault_for_each_rule() -> None:
    assert set(PLANTS) == set(RULES)


def test_days_on_which_all_events_often_pause_are_a_note(clean: pd.DataFrame, folder: Path) -> None:
    views = clean[clean["event_name"] == "view_item"]
    rests = (views["timestamp"] - START).dt.days.isin([16, 30, 44])  # three Wednesdays of nine
    table = check(views.loc[~rests, ["user_id", "event_name", "timestamp"]], folder).table.set_index("rule")
    row = table.loc["volume_gap"]
    assert (row["status"], row["severity"], row["failed"]) == ("failed", "info", 3)
    assert row["note"] == (
        "All events pause together on 3 days, as on such days before: a holiday or a calendar, if you know it; else an "
        "outage."
    )


def test_the_arms_of_an_experiment_are_no_lost_property(clean: pd.DataFrame, folder: Path) -> None:
    experiment = """
experiments:
  - id: pages
    assignment: {column: page_type}
    arms: [a, b]
    start: 2024-01-01
    primary: add_to_cart
    guardrails: [{conversion: purchase, margin: 0.1}]
"""
    table = check(lose_property(clean), folder, PLAN.rstrip() + experiment).table.set_index("rule")
    assert table.loc["lost_property", "status"] != "failed"


@pytest.mark.parametrize("rule", PLANTS)
def test_check_quality_finds_the_planted_fault_and_no_other(clean: pd.DataFrame, folder: Path, rule: str) -> None:
    quality = check(PLANTS[rule](clean), folder, PLAN.rstrip() + NEVER if rule == "never_fires" else PLAN)
    status = quality.table.set_index("rule")["status"]
    assert status[status != "passed"].to_dict() == {rule: "failed"}
    assert quality.table["rule"].iloc[0] == rule
