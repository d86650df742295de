from pathlib import Path

import pandas as pd
import pytest
from small_logs import make_log, make_plan, pick

from convlib.errors import ParamError
from convlib.plan import Plan
from convlib.quality import COLUMNS, Quality, check_quality
from convlib.quality_rules import RULES

PLAN = """
macros:
  - id: buy
    name: Bought
    match: {event_name: purchase}
    owner: shop
    micros:
      - {id: view, match: {event_name: view}, stage: awareness, kind: process_milestone, owner: web}
      - {id: chat, name: Chat begun, match: {event_name: chat}, stage: decision, kind: secondary_action, owner: crm}
"""
#: Refunded, in another currency, in a session of two users, with an address typed into a search; nobody chatted.
ROWS = """
ann view 0h search=shoes session_id=s1
ann purchase 1h value=20 currency=USD session_id=s1
ben view 1D search=ben@example.com session_id=s1
ben purchase 2D value=-5 currency=EUR session_id=s2
cat ViewDetails 3D session_id=s3
cat PURCHASES 4D session_id=s4
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, PLAN)


@pytest.fixture
def quality(plan: Plan) -> Quality:
    return check_quality(make_log(ROWS, plan), plan)


def test_check_quality_gives_one_row_for_each_rule_worst_first(quality: Quality) -> None:
    assert tuple(quality.table.columns) == COLUMNS
    assert sorted(quality.table["rule"]) == sorted(RULES)
    failed = quality.table[quality.table["status"] == "failed"]
    assert pick(failed, "rule severity tried failed owner") == [
        ("mixed_currencies", "error", 2, 1, "shop"),
        ("never_fires", "error", 3, 1, "crm"),
        ("personal_data", "error", 16, 1, ""),
        ("negative_value", "warning", 2, 1, ""),
        ("shared_session", "warning", 4, 1, ""),
        ("unmapped_event", "info", 4, 2, ""),
    ]
    assert (quality.table["status"].iloc[6:].map({"passed": 1, "not applicable": 2}).diff().dropna() >= 0).all()


def test_check_quality_says_where_to_look_and_what_it_means(quality: Quality) -> None:
    table = quality.table.set_index("rule")
    assert pick(table.loc[["negative_value", "never_fires", "unmapped_event"]], "example note") == [
        (
            "purchase, 2024-01-03",
            "Refunds need an event of their own, or they lower the mean value of a conversion.",
        ),
        ("Chat begun", "Never seen: Chat begun. The tag is missing, or the plan's rule matches nothing."),
        (
            "PURCHASES",
            "PURCHASES (1; perhaps Bought), ViewDetails (1; perhaps View). Add them to the plan, or leave them out "
            "knowingly.",
        ),
    ]


def test_check_quality_never_shows_a_persons_data(quality: Quality) -> None:
    row = quality.table.set_index("rule").loc["personal_data"]
    assert row["example"] == "column `search`"
    assert row["note"].startswith("1 e-mail addresses in `search`.")
    assert "ben" not in quality.table.to_csv() + "".join(quality.takeaways) + quality._repr_html_()


def test_check_quality_says_why_a_rule_can_not_be_tried(quality: Quality) -> None:
    untried = quality.table[quality.table["status"] == "not applicable"].set_index("rule")
    unsteady = (
        "In this period no event comes 14 times on a usual day, most days within 65% of what is expected, over 21 "
        "whole days or more."
    )
    assert untried["note"].to_dict() == {
        "shifted_hours": "Needs three weeks (or platforms) of 500 events.",
        "exact_duplicates": "Times are whole minutes or days, so that equal rows may be several events.",
        "near_duplicates": "Times are whole minutes or days, so that equal rows may be several events.",
        "volume_gap": unsteady,
        "volume_jump": unsteady,
        "lost_property": "No property is filled in 30 rows a day, with days alike, over 21 whole days or more.",
        "stopped_event": "No event comes steadily, day by day, on any platform for two weeks.",
    }
    assert untried["share"].isna().all()
    assert (untried["tried"] == 0).all()


def test_check_quality_counts_by_day(quality: Quality) -> None:
    daily = quality.daily[quality.daily["rule"] == "negative_value"]
    assert daily.loc[daily["tried"] > 0, ["tried", "failed"]].to_numpy().tolist() == [[1, 0], [1, 1]]


def test_check_quality_of_an_empty_segment_has_every_rule(plan: Plan) -> None:
    table = check_quality(make_log(ROWS, plan).segment({"search": "none"}), plan).table
    assert tuple(table.columns) == COLUMNS
    assert sorted(table["rule"]) == sorted(RULES)


def test_check_quality_blames_no_conversion_that_only_the_period_lacks(plan: Plan) -> None:
    log = make_log(ROWS + "dan chat 9D\n", plan)
    for part in (log, log.between("2024-01-01", "2024-01-05")):
        assert check_quality(part, plan).table.set_index("rule").loc["never_fires", "status"] == "passed"


def test_check_quality_refuses_a_plan_the_log_was_not_read_with(plan: Plan) -> None:
    with pytest.raises(ParamError) as caught:
        check_quality(make_log(ROWS, plan), make_plan(Path(plan.path).parent, PLAN.replace("Bought", "Paid")))
    assert str(caught.value) == (
        "The log was read with another plan, so it lacks this one's conversions. Use read_events(..., plan=plan)."
    )


def test_quality_draws_its_failed_rules(quality: Quality) -> None:
    labels = [label.get_text() for label in quality.plot().get_yticklabels()]
    assert labels[0].replace("\n", " ").startswith("Values in several currencies")
    assert len(labels) == 2  # the others fail on no days


def test_check_quality_leaves_the_order_of_rows_to_the_whole_log(plan: Plan) -> None:
    backwards = pd.DataFrame(
        {
            "event_name": "view",
            "user_id": [f"u{n % 2}" for n in range(40)],
            "timestamp": pd.Timestamp("2024-01-01") + pd.to_timedelta([*range(20), 18, *range(21, 40)], unit="h"),
        }
    )
    log = make_log(backwards, plan)
    for part in (log, log.where(user_id="u1")):
        row = check_quality(part, plan).table.set_index("rule").loc["out_of_order"]
        assert (row["tried"], row["failed"], row["example"]) == (40, 1, "row 21 of those used")


def test_quality_of_a_segment_without_rows_draws_and_shows_itself(plan: Plan) -> None:
    quality = check_quality(make_log(ROWS, plan).segment({"search": "none"}), plan)
    assert list(quality.daily.columns) == ["rule", "day", "tried", "failed"]
    assert [text.get_text() for text in quality.plot().texts] == ["No failed rule points to particular days."]
    assert "not tried" in quality._repr_html_()
