import pickle
from pathlib import Path

import pandas as pd
import pytest

from convlib.errors import PlanError
from convlib.plan import PLAN_COLUMNS, Macro, Micro, Test, read_plan

SHOP = """\
macros:
  - id: purchase
    match: {event_name: [purchase, Order Completed]}
    value: {column: value}
    currency: USD
    owner: shop
    target: {value: 0.05, by: 2026-12-31}
    micros:
      - id: view_item
        match: {event_name: view_item}
        stage: consideration
        kind: process_milestone
      - id: add_to_cart
        name: Added to the cart
        match: {event_name: add_to_cart, source: app}
        stage: decision
        kind: process_milestone
        touchpoint: product_page
        metric: {type: rate, over: view_item}
        ux_outcome: The item is easy to keep
        data_source: analytics
        owner: web-team
        target: 0.10
        benchmark: {low: 0.08, high: 0.15, by: {device_type: {mobile: {low: 0.06, high: 0.12}}}}
        effort: 2
        notes: Buttons count
      - id: spend
        match: {event_name: pay}
        stage: decision
        kind: secondary_action
        metric: {type: sum, column: amount}
        direction: down
        value: 3
    losses: [{id: left, match: {event_name: unregister}}]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def micros(*stages: str) -> str:
    entry = "{{id: micro_{i}, match: {{event_name: e{i}}}, stage: {stage}, kind: secondary_action}}"
    return ", ".join(entry.format(i=i, stage=stage) for i, stage in enumerate(stages))


def test_read_plan_lists_conversions_in_the_order_of_the_plan(tmp_path: Path) -> None:
    path = write(tmp_path, SHOP)
    plan = read_plan(path)
    assert plan.path == str(path)
    assert plan.stages == ("awareness", "consideration", "decision")
    assert [each.id for each in plan.conversions] == ["purchase", "view_item", "add_to_cart", "spend", "left"]
    assert plan.columns == {"event_name", "source", "value", "amount"}


def test_plan_finds_a_conversion_and_its_macro(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, SHOP))
    assert isinstance(plan["purchase"], Macro)
    assert isinstance(plan["spend"], Micro)
    assert plan["left"].match == Test("event_name", "in", ("unregister",))
    assert [plan.macro_of(each.id).id for each in plan.conversions] == ["purchase"] * 5
    assert "spend" in plan
    assert "spent" not in plan


def test_plan_names_the_nearest_conversion(tmp_path: Path) -> None:
    path = write(tmp_path, SHOP)
    with pytest.raises(PlanError) as caught:
        read_plan(path).macro_of("add_to_card")
    assert str(caught.value) == (
        f"{path} has no conversion 'add_to_card'; it has 'purchase', 'view_item', 'add_to_cart', 'spend', 'left'. "
        "Did you mean 'add_to_cart'?"
    )


def test_plan_locates_a_field_or_its_conversion(tmp_path: Path) -> None:
    path = write(tmp_path, SHOP)
    plan = read_plan(path)
    assert plan.locate("purchase") == f"{path}:3"
    assert plan.locate("add_to_cart", "target") == f"{path}:23"
    assert plan.locate("view_item", "target") == f"{path}:9"
    assert plan.locate("left") == f"{path}:34"


def test_plan_gaps_are_the_optional_fields_nobody_filled_in(tmp_path: Path) -> None:
    every = ["owner", "target", "benchmark", "effort", "ux_outcome", "data_source", "touchpoint"]
    assert read_plan(write(tmp_path, SHOP)).gaps == [
        ("purchase", "benchmark"),
        *(("view_item", name) for name in every),
        *(("spend", name) for name in every),
    ]


def test_plan_table_has_one_row_for_each_conversion(tmp_path: Path) -> None:
    table = read_plan(write(tmp_path, SHOP)).table
    assert list(table.columns) == list(PLAN_COLUMNS)
    assert list(table["tier"]) == ["macro", "micro", "micro", "micro", "loss"]
    assert list(table["macro"]) == ["purchase"] * 5
    assert list(table["name"]) == ["Purchase", "View item", "Added to the cart", "Spend", "Left"]
    assert list(table["metric"][:4]) == ["rate", "rate", "rate over view_item", "sum of amount"]
    assert list(table["metric"].isna()) == [False, False, False, False, True]
    assert table.loc[0, "target_by"] == pd.Timestamp("2026-12-31")
    assert table.loc[0, "value_column"] == "value"
    row = {str(name): value for name, value in table.to_dict("records")[2].items()}
    assert row | {"target_by": None, "value": None, "value_column": None} == {
        "tier": "micro",
        "macro": "purchase",
        "id": "add_to_cart",
        "name": "Added to the cart",
        "stage": "decision",
        "kind": "process_milestone",
        "touchpoint": "product_page",
        "match": "event_name = add_to_cart and source = app",
        "metric": "rate over view_item",
        "owner": "web-team",
        "target": 0.1,
        "target_by": None,
        "benchmark_low": 0.08,
        "benchmark_high": 0.15,
        "direction": "up",
        "value": None,
        "value_column": None,
        "effort": 2.0,
        "ux_outcome": "The item is easy to keep",
        "data_source": "analytics",
        "notes": "Buttons count",
    }
    assert [table.loc[3, "direction"], table.loc[3, "value"]] == ["down", 3.0]


def test_plan_table_has_the_same_types_when_nothing_is_filled_in(tmp_path: Path) -> None:
    full = read_plan(write(tmp_path, SHOP)).table
    bare = read_plan(write(tmp_path, "macros: [{id: purchase, match: {event_name: purchase}}]\n")).table
    pd.testing.assert_series_equal(full.dtypes, bare.dtypes)


def test_plan_digest_follows_the_meaning_and_not_the_layout(tmp_path: Path) -> None:
    digest = read_plan(write(tmp_path, SHOP)).digest
    spaced = SHOP.replace("target: 0.10", "target: {value: 0.1}  # reached by spring").replace(
        "owner: shop", "owner: 'shop'"
    )
    assert read_plan(write(tmp_path, spaced)).digest == digest
    for old, new in [
        ("name: view_item}", "name: view_page}"),
        ("0.10", "0.11"),
        ("notes: B", "notes: b"),
        ("id: left", "id: gone"),
    ]:
        assert read_plan(write(tmp_path, SHOP.replace(old, new))).digest != digest


def test_plan_digest_tells_any_from_all(tmp_path: Path) -> None:
    text = "macros: [{id: a, match: {any: [{b: 1}, {c: 2}]}}]\n"
    digest = read_plan(write(tmp_path, text)).digest
    assert read_plan(write(tmp_path, text.replace("any", "all"))).digest != digest


def test_plan_survives_the_way_to_another_process(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, SHOP))
    copy = pickle.loads(pickle.dumps(plan))
    assert copy == plan
    assert copy.locate("spend") == plan.locate("spend")


def test_read_plan_warns_of_stages_with_too_few_or_too_many_micros(tmp_path: Path) -> None:
    listed = micros("early", *["late"] * 6, *["middle"] * 3)
    path = write(tmp_path, f"stages: [early, middle, late]\nmacros: [{{id: a, match: {{b: 1}}, micros: [{listed}]}}]\n")
    assert read_plan(path).warnings == (
        f"{path}:2: macros[a] has 1 micro in the stage 'early'; 3 to 5 keep a stage telling and readable. Add some.",
        f"{path}:2: macros[a] has 6 micros in the stage 'late'; 3 to 5 keep a stage telling and readable. "
        "Merge or drop some.",
    )


@pytest.mark.parametrize("count", [3, 5])
def test_read_plan_does_not_warn_of_three_to_five_micros(tmp_path: Path, count: int) -> None:
    path = write(tmp_path, f"macros: [{{id: a, match: {{b: 1}}, micros: [{micros(*['decision'] * count)}]}}]\n")
    assert read_plan(path).warnings == ()


def test_read_plan_names_both_lines_of_an_id_that_stands_twice(tmp_path: Path) -> None:
    path = write(tmp_path, SHOP.replace("id: spend", "id: view_item").replace("id: left", "id: purchase"))
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    advice = "each id may stand once in a plan. Rename one of them."
    assert caught.value.problems == (
        f"{path}:27: macros[purchase].micros[view_item].id is 'view_item', as on line 9; {advice}",
        f"{path}:34: macros[purchase].losses[purchase].id is 'purchase', as on line 2; {advice}",
    )


def test_read_plan_lists_problems_of_every_kind_at_once_by_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "macros:\n"
        "  - id: purchase\n"
        "    match: {event_name: purchase, page: {regex: '('}}\n"
        "    micros:\n"
        "      - id: cart\n"
        "        match: {event_name: cart}\n"
        "        stage: desicion\n"
        "        ownr: web\n"
        "        metric: {type: rate, over: purchas}\n"
        "        target: 6\n"
        "      - id: cart\n"
        "        match:\n"
        "        stage: decision\n"
        "        kind: process_milestone\n",
    )
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    cart = "macros[purchase].micros[cart]"
    assert caught.value.problems == (
        f"{path}:3: macros[purchase].match.page.regex is '('; it is not a regular expression of RE2's syntax "
        "(missing ): ().",
        f"{path}:5: {cart} has no `kind`. Add `kind:` process_milestone (leads straight to the macro) or "
        "secondary_action (signals interest).",
        f"{path}:7: {cart}.stage is 'desicion'; it must be one of 'awareness', 'consideration', 'decision'. "
        "Did you mean 'decision'?",
        f"{path}:8: {cart} has an unknown field 'ownr'; the fields are 'id', 'name', 'match', 'stage', 'kind', "
        "'touchpoint', 'metric', 'ux_outcome', 'data_source', 'owner', 'target', 'benchmark', 'direction', 'value', "
        "'effort', 'actions', 'notes'. Did you mean 'owner'?",
        f"{path}:9: {cart}.metric.over is 'purchas'; it must be the id of a conversion of this plan. "
        "Did you mean 'purchase'?",
        f"{path}:11: {cart}.id is 'cart', as on line 5; each id may stand once in a plan. Rename one of them.",
        f"{path}:12: {cart} has no `match`. Add `match:` the events that are meant, such as {{event_name: purchase}}.",
    )


STAGES = "it must list at least one stage, each once and by a name."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", ":1: the file is ['a']; it must be a mapping of fields."),
        ("stages: [a]\n", ":1: the file has no `macros`. Add `macros:` the macro-conversions."),
        ("macros: []\n", ":1: macros is []; it must list at least one macro-conversion."),
        ("macros: purchase\n", ":1: macros is 'purchase'; it must be a list."),
        ("macros: [purchase]\n", ":1: macros[0] is 'purchase'; it must be a mapping of fields."),
        ("macros: [{id: a, match: {b: 1}}]\nstages: []\n", f":2: stages is []; {STAGES}"),
        ("macros: [{id: a, match: {b: 1}}]\nstages: [x, x]\n", f":2: stages is ['x', 'x']; {STAGES}"),
        ("macros: [{id: a, match: {b: 1}}]\nstages: x\n", ":2: stages is 'x'; it must be a list."),
        (
            "macros: [{id: a, match: {b: 1}}]\nexperiments: []\n",
            ":2: the file has an unknown field 'experiments'; the fields are 'stages', 'macros'.",
        ),
    ],
)
def test_read_plan_says_what_a_plan_must_hold(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert str(caught.value) == f"{path}{message}"


def test_read_plan_does_not_judge_stages_by_a_list_that_is_wrong_itself(tmp_path: Path) -> None:
    path = write(tmp_path, f"stages: 5\nmacros: [{{id: a, match: {{b: 1}}, micros: [{micros('early')}]}}]\n")
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert str(caught.value) == f"{path}:1: stages is 5; it must be a list."
