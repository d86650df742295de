from pathlib import Path

import pandas as pd
import pytest
from small_logs import START, make_plan, repeat, write_rows

from convlib import suggest
from convlib.datasets.load import load_dataset, simulate_shop
from convlib.errors import EventDataError, ParamError
from convlib.events import read_events
from convlib.plan import Macro, Plan, Test
from convlib.suggest import suggest_plan

SHOP = """\
ann page_view 0h page_path=/
ann view_item 1h page_path=/product/1
ann AddToCart 2h
ann purchase 3h value=10 currency=EUR
bob page_view 0h page_path=/
bob view_item 1h page_path=/product/2
bob add_to_cart 2h
bob add_to_cart 3h
bob purchase 4h value=20 currency=EUR
bob rate_item 5h
cid page_view 0h page_path=/
cid view_item 1h page_path=/product/1
cid form_error 2h
cid delete_account 3h
dan page_view 0h page_path=/
dan email_sent 1h
"""


def suggest_for(folder: Path, rows: str | pd.DataFrame) -> tuple[str, Plan]:
    """Suggest a plan and read it back."""
    text = suggest_plan(read_events(write_rows(rows) if isinstance(rows, str) else rows))
    return text, make_plan(folder, text)


def list_stages(plan: Plan) -> list[tuple[str, str]]:
    return [(micro.id, micro.stage) for micro in plan.macros[0].micros]


def test_suggest_plan_writes_entries_with_their_evidence(tmp_path: Path) -> None:
    text, _ = suggest_for(tmp_path, SHOP)
    assert (
        text
        == """\
# A first measurement plan to make your own, suggested from "DataFrame":
# 16 events from 2024-01-01 to 2024-01-01, 4 users looked at.
# Names, counts and order chose the entries: check what each event means. The shares say what went with
# what, not what leads to what. Owners and targets are left open: `convlib plan show` counts what is.
macros:
  # Chosen because its name is that of a purchase, a subscription or an upgrade.
  # 2 events by 2 users (50.0%).
  - id: purchase
    match: {event_name: "purchase"}
    value: {column: value}
    currency: EUR
    # owner:
    # target:
    micros:
      # 3 events by 3 users (75.0%); 66.7% of them reached purchase later.
      # Of those who reached purchase, 100.0% had done it before.
      - id: view_item
        match: {event_name: "view_item"}
        stage: awareness
        kind: process_milestone
        touchpoint: product_page
        # owner:
        # target:
      # 3 events by 2 users (50.0%); 100.0% of them reached purchase later.
      # Of those who reached purchase, 100.0% had done it before.
      # "AddToCart" is counted as "add_to_cart": the same words.
      - id: add_to_cart
        match: {event_name: ["add_to_cart", "AddToCart"]}
        stage: consideration
        kind: process_milestone
        touchpoint: cart
        # owner:
        # target:
      # 1 event by 1 user (25.0%); 0.0% of them reached purchase later.
      # Of those who reached purchase, 0.0% had done it before.
      # Of those with both, 100.0% did it first after purchase: it may only follow.
      - id: rate_item
        match: {event_name: "rate_item"}
        stage: decision
        kind: secondary_action
        touchpoint: product_page
        # owner:
        # target:
      # 1 event by 1 user (25.0%); 0.0% of them reached purchase later.
      # Of those who reached purchase, 0.0% had done it before.
      - id: form_error
        match: {event_name: "form_error"}
        stage: decision
        kind: secondary_action
        direction: down
        # owner:
        # target:
    losses:
      # 1 event by 1 user (25.0%).
      - id: delete_account
        match: {event_name: "delete_account"}
# Left out: "page_view", 4 events by 4 users (100.0%): moving about.
# Left out: "email_sent", 1 event by 1 user (25.0%): done to users, not by them.
"""
    )


@pytest.mark.parametrize(("failed", "after", "loss"), [(30, "0h", True), (30, "3h", False), (5, "0h", False)])
def test_suggest_plan_takes_a_failure_after_which_nobody_converts_for_a_loss(
    tmp_path: Path, failed: int, after: str, *, loss: bool
) -> None:
    """Of 100 users 40 buy; some fail, who buy no more but one of them, or are too few to tell."""
    events = [(f"u{number}", "visit", "0h") for number in range(100)]
    events += [(f"u{number}", "fail", "2h") for number in range(failed)]
    events += [(f"u{number}", "purchase", "1h") for number in range(60, 99)] + [("u0", "purchase", after)]
    text, plan = suggest_for(tmp_path, "\n".join(map(" ".join, events)))
    assert [each.id for each in plan.macros[0].losses] == ["fail"] * loss
    assert [each.id for each in plan.macros[0].micros] == ["fail"] * (not loss)
    assert ("# It sounds like failing or leaving, and nobody reached purchase after it." in text) == loss


def test_suggest_plan_leaves_owners_and_targets_open(tmp_path: Path) -> None:
    _, plan = suggest_for(tmp_path, SHOP)
    assert plan.table["owner"].isna().all()
    assert plan.table["target"].isna().all()


def test_suggest_plan_does_not_depend_on_the_order_of_rows_and_names_of_users(tmp_path: Path) -> None:
    rows = write_rows(SHOP)
    shuffled = rows.sample(frac=1, random_state=1).assign(user_id=rows["user_id"].str.replace("ann", "zoe"))
    assert suggest_for(tmp_path, shuffled)[0] == suggest_for(tmp_path, rows)[0]


ODD_NAMES = [
    'say "hi"',
    "it's",
    "line\nbreak",
    "key: value",
    "<script>alert(1)</script>",
    "x'; DROP TABLE events; --",
    " padded ",
    "NO",
    "null",
    "123",
    "# no comment",
    "{a: [b]}",
    "购买",
    "🎉",
    "tab\tand \x85 more\u2028",
]


def test_suggest_plan_survives_odd_event_names(tmp_path: Path) -> None:
    pairs = [(user, name) for user in ("ann", "bob") for name in ODD_NAMES]
    rows = pd.DataFrame([*pairs, ("bob", "purchase"), ("cid", "visit")], columns=["user_id", "event_name"])
    rows = rows.assign(timestamp=[START + pd.Timedelta(f"{minute}min") for minute in range(len(rows))])
    _, plan = suggest_for(tmp_path, rows)
    matched = [each.match for each in plan.conversions]
    names = {name for each in matched if isinstance(each, Test) for name in each.value}
    assert names == {*ODD_NAMES, "purchase"}
    counted = read_events(rows, plan=plan).count("conversions", "event_name").set_index("event_name")["events"]
    assert counted.to_dict() == {**dict.fromkeys(ODD_NAMES, 2), "purchase": 1}
    named = {each.id: each.name for each in plan.conversions}
    assert named["event_123"] == "123"
    assert {named["event"], named["event_2"]} == {"购买", "🎉"}


def test_suggest_plan_numbers_ids_that_would_be_equal(tmp_path: Path) -> None:
    rows = "ann a-b-c 0h\nann c_b_a 1h\nann a_b_c_ 2h\nann 1 3h\nann ?1 4h\nann purchase 5h\nbob visit 0h\n"
    plan = suggest_for(tmp_path, rows)[1]
    assert {each.id: str(each.match) for each in plan.conversions} == {
        "purchase": "event_name = purchase",
        "a_b_c": "event_name = a-b-c or a_b_c_",
        "c_b_a": "event_name = c_b_a",
        "event_1": "event_name = 1 or ?1",
        "visit": "event_name = visit",
    }


def test_suggest_plan_prefers_what_pays_and_then_what_comes_last(tmp_path: Path) -> None:
    rows = "ann sign_up 0h\nann request_quote 1h\nann subscribe 2h\nann upgrade 3h\nbob visit 0h\n"
    text, plan = suggest_for(tmp_path, rows)
    assert plan.macros[0].id == "upgrade"
    assert '# It could also be the macro: "subscribe", "request_quote", "sign_up".\n' in text
    _, plan = suggest_for(tmp_path, rows.replace("upgrade", "other"))
    assert plan.macros[0].id == "subscribe"


def test_suggest_plan_takes_what_carries_a_value_when_no_name_tells(tmp_path: Path) -> None:
    rows = "ann look 0h\nann kauf 1h value=5\nbob look 0h\nbob korb 1h\nbob korb 2h value=5\nbob korb 3h\n"
    text, plan = suggest_for(tmp_path, rows)
    assert (plan.macros[0].id, str(plan.macros[0].match)) == ("kauf", "event_name = kauf")
    assert "  # Chosen because it carries a value.\n" in text
    assert "currency" not in text


def test_suggest_plan_narrows_an_outcome_that_everyone_comes_to(tmp_path: Path) -> None:
    rows = "\n".join(
        f"u{n} work {n}h\nu{n} finish 30h result={'Passed' if n % 2 else 'Failed'} grade={n}" for n in range(10)
    )
    text, plan = suggest_for(tmp_path, rows)
    macro = plan.macros[0]
    assert str(macro.match) == "event_name = finish and result = Passed"
    assert '  # Nearly everyone has the event; "result" says how it ended: check its other values.\n' in text
    assert "  # 5 events by 5 users (50.0%).\n" in text
    assert '# Left out: "work", 10 events by 10 users (100.0%): nearly everyone does it.\n' in text


def test_suggest_plan_says_when_no_event_is_an_outcome() -> None:
    rows = "ann look 0h\nann purchase 1h\nbob look 0h\nbob purchase 1h\n"
    with pytest.raises(EventDataError) as caught:
        suggest_plan(read_events(write_rows(rows)))
    assert str(caught.value) == (
        "No plan can be suggested for `DataFrame`: no event that at most 90% of users have is named like a purchase, a "
        "subscription, an enquiry, joining or an end reached, or carries a `value`. The events are 'purchase', 'look'. "
        "Name the event that pays: `--macro EVENT` (in Python `macro=`)."
    )


def test_suggest_plan_lists_at_most_20_events_when_there_is_no_outcome() -> None:
    rows = "".join(f"ann e{number:02} {number}h\n" for number in range(23))
    with pytest.raises(EventDataError, match=r"'e04', 'e03' and 3 more\. Name"):
        suggest_plan(read_events(write_rows(rows)))


def test_suggest_plan_takes_the_macro_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "MOST_NAMES", 1)
    log = read_events(write_rows("ann look 0h\nann Done 1h\nbob look 0h\nbob x 1h\n"))
    text = suggest_plan(log, macro="Done")
    assert [each.id for each in make_plan(tmp_path, text).macros] == ["done"]
    assert "  # Chosen because you named it.\n" in text
    # Everyone has it, which is for whoever names it to know.
    assert make_plan(tmp_path, suggest_plan(log, macro="look")).macros[0].id == "look"


def test_suggest_plan_names_the_nearest_of_an_unknown_macro() -> None:
    with pytest.raises(ParamError) as caught:
        suggest_plan(read_events(write_rows("ann look 0h\nbob look 0h\nann done 1h\n")), macro="dome")
    assert str(caught.value) == (
        "`macro` is 'dome', which none of the 2 users looked at has. Did you mean 'done'? "
        "The events are 'look', 'done'."
    )


@pytest.mark.parametrize(
    ("rows", "entry"),
    [
        pytest.param(repeat("u", 40, "enrolled 2h", "mail 1h", "buy 3D"), "enrolled", id="on the first day"),
        pytest.param(repeat("u", 40, "enrolled 26h", "mail 1h", "buy 3D"), None, id="later"),
        pytest.param(repeat("u", 40, "enrolled 0h", "enrolled 1h"), None, id="not once"),
        pytest.param(repeat("u", 20, "enrolled 0h"), None, id="few users"),
        pytest.param(repeat("u", 40, "enrolled 0h") + repeat("v", 9, "mail 1h"), None, id="not everyone"),
    ],
)
def test_suggest_plan_finds_the_entry(tmp_path: Path, rows: str, entry: str | None) -> None:
    """Mail, which comes before, is no entry: users have it several times."""
    rows += rows.replace("enrolled", "mail") + "u1 purchase 2D\n"
    clock = suggest_for(tmp_path, rows)[1].macros[0].correlation
    assert (clock.entry if clock else None) == entry


def test_suggest_plan_leaves_out_what_few_users_do(tmp_path: Path) -> None:
    rows = "".join(f"u{number} look 0h\nu{number} {'purchase' if number < 9 else 'x'} 1h\n" for number in range(101))
    text, plan = suggest_for(tmp_path, rows + "u0 rare 0h\n")
    assert "rare" not in plan
    assert '# Left out: "rare", 1 event by 1 user (1.0%): fewer than 1% of users do it.\n' in text


def test_suggest_plan_keeps_a_stage_readable(tmp_path: Path) -> None:
    steps = "".join(f"ann s{number:02} {number}h\n" for number in range(16))
    text, plan = suggest_for(tmp_path, f"{steps}ann purchase 20h\nbob s15 0h\nbob visit 1h\n")
    assert plan.warnings == ()
    assert list_stages(plan)[::5] == [("s00", "awareness"), ("s05", "consideration"), ("s10", "decision")]
    assert "others went more often with the macro" in text


@pytest.mark.parametrize(("count", "last"), [(1, ["decision"]), (2, ["consideration", "decision"])])
def test_suggest_plan_puts_few_micros_near_the_macro(tmp_path: Path, count: int, last: list[str]) -> None:
    steps = "".join(f"ann s{number} {number}h\n" for number in range(count))
    plan = suggest_for(tmp_path, f"{steps}ann purchase 20h\nbob page_view 0h\n")[1]
    assert [stage for _, stage in list_stages(plan)] == last


def test_suggest_plan_needs_no_micro(tmp_path: Path) -> None:
    plan = suggest_for(tmp_path, "ann purchase 1h\nbob page_view 0h\n")[1]
    assert [each.id for each in plan.conversions] == ["purchase"]


def test_suggest_plan_says_that_it_looked_at_some_names_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "MOST_NAMES", 2)
    text, plan = suggest_for(tmp_path, "ann purchase 1h\nann b 2h\nann b 3h\nann c 4h\nbob b 0h\ncid purchase 0h\n")
    assert "# Only the 2 event names that most users have were looked at, of 3.\n" in text
    assert [each.id for each in plan.conversions] == ["purchase", "b"]


def test_suggest_plan_says_that_it_looked_at_some_users_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "MOST_USERS", 2)
    text, _ = suggest_for(
        tmp_path, "".join(f"u{n} look 0h\nu{n} {'purchase' if n < 2 else 'x'} 1h\n" for n in range(4))
    )
    assert "# 8 events from 2024-01-01 to 2024-01-01, 2 users looked at.\n# One user in 2 was looked at.\n" in text
    assert "  # 1 event by 1 user (50.0%).\n" in text


def test_suggest_plan_looks_at_the_whole_log() -> None:
    log = read_events(write_rows(SHOP))
    assert suggest_plan(log.where(user_id="ann").between("2024-01-01", "2024-01-01")) == suggest_plan(log)


def test_suggest_plan_finds_the_plan_of_the_example_shop(tmp_path: Path) -> None:
    log, written, _ = simulate_shop(units=2_000, seed=1)
    plan = make_plan(tmp_path, suggest_plan(log))
    macro = plan.macros[0]
    assert isinstance(macro, Macro)
    assert (macro.id, str(macro.match), macro.currency) == (
        "purchase",
        "event_name = purchase or Order Completed",
        "USD",
    )
    assert {each.id for each in macro.micros} == {each.id for each in written.macros[0].micros}
    assert str(plan["add_to_cart"].match) == "event_name = add_to_cart or AddToCart or Product Added"
    steps = ("view_item", "add_to_cart", "view_cart", "begin_checkout", "add_shipping_info")
    assert [each.id for each in macro.micros if each.kind == "process_milestone"] == list(steps)
    assert macro.micros[-1].id == "track_order"
    assert plan.warnings == ()


def test_suggest_plan_finds_the_outcome_of_the_real_example(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, suggest_plan(load_dataset("oulad")[0]))
    assert str(plan.macros[0].match) == "event_name = finish_module and final_result = Pass"
    assert [each.id for each in plan.conversions[1:]] == ["start_module", "submit_assessment", "unregister"]
