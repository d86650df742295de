import pickle
from pathlib import Path

import pandas as pd
import pytest

from convlib.errors import ParamError, PlanError
from convlib.plan import PLAN_COLUMNS, Dedupe, LeaveOut, Macro, Micro, Test, read_plan

PARAMS = Path(__file__).parent.parent / "params"

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
        f"{path}:2: macros[a] has stages with few or many micros (1 in 'early', 6 in 'late'); 3 to 5 keep a stage "
        "telling and readable. Add some; merge or drop some.",
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
        f"{path}:8: {cart} has an unknown field 'ownr'; the fields are 'id', 'name', 'match', 'dedupe', 'metrics', "
        "'stage', 'kind', 'touchpoint', 'metric', 'ux_outcome', 'data_source', 'owner', 'target', 'benchmark', "
        "'direction', 'value', 'effort', 'actions', 'notes'. Did you mean 'owner'?",
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
            "macros: [{id: a, match: {b: 1}}]\nexperiment: []\n",
            ":2: the file has an unknown field 'experiment'; the fields are 'stages', 'macros', 'leave_out', "
            "'friction', 'experiments'. Did you mean 'experiments'?",
        ),
    ],
)
def test_read_plan_says_what_a_plan_must_hold(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert str(caught.value) == f"{path}{message}"


LEFT_OUT = """\
leave_out:
  - {id: bots, match: {user_agent: {regex: bot|crawler}}}
  - {id: test_accounts, match: {email_domain: example.com}, scope: user}
macros:
  - id: purchase
    match: {event_name: purchase}
    dedupe: 2s
    micros:
      - id: cart
        match: {event_name: cart}
        stage: decision
        kind: process_milestone
        dedupe: {within: 1min, same: [product_id]}
    losses: [{id: left, match: {event_name: unregister}, dedupe: 1h}]
"""


def test_read_plan_reads_what_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, LEFT_OUT)
    plan = read_plan(path)
    bots = LeaveOut(id="bots", match={"user_agent": {"regex": "bot|crawler"}})
    staff = LeaveOut(id="test_accounts", match={"email_domain": "example.com"}, scope="user")
    assert plan.leave_out == (bots, staff)
    assert [each.name for each in plan.leave_out] == ["Bots", "Test accounts"]
    assert [set(each.columns) for each in plan.leave_out] == [{"user_agent"}, {"email_domain"}]
    assert plan.columns == {"event_name", "product_id", "user_agent", "email_domain"}
    assert (plan.locate("bots"), plan.locate("test_accounts", "id")) == (f"{path}:2", f"{path}:3")
    assert "bots" not in plan
    assert list(plan.table["id"]) == ["purchase", "cart", "left"]


def test_read_plan_reads_which_conversions_are_the_same_one_twice(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, LEFT_OUT))
    assert [each.dedupe for each in plan.conversions] == [
        Dedupe(within="2s"),
        Dedupe(within="1min", same=["product_id"]),
        Dedupe(within="1h"),
    ]
    assert read_plan(write(tmp_path, SHOP))["purchase"].dedupe is None


@pytest.mark.parametrize(
    ("old", "new"),
    [("scope: user", "scope: row"), ("bot|", "bots|"), ("dedupe: 2s", "dedupe: 3s"), ("[product_id]", "[page_path]")],
)
def test_plan_digest_follows_what_is_left_out_and_counted_once(tmp_path: Path, old: str, new: str) -> None:
    digest = read_plan(write(tmp_path, LEFT_OUT)).digest
    assert read_plan(write(tmp_path, LEFT_OUT.replace(old, new))).digest != digest


def test_plan_survives_the_way_to_another_process_with_what_it_leaves_out(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, LEFT_OUT))
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_an_entry_left_out_may_have_the_id_of_a_conversion(tmp_path: Path) -> None:
    path = write(tmp_path, LEFT_OUT.replace("id: bots", "id: cart"))
    plan = read_plan(path)
    assert plan.leave_out[0].id == "cart"
    assert plan.locate("cart") == f"{path}:10"


def test_read_plan_lists_what_is_wrong_with_what_is_left_out(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "leave_out:\n"
        "  - {id: bots, match: {agent: {regex: '('}}}\n"
        "  - {id: bots, match: {email: a}, scope: usr}\n"
        "  - {match: {}, dedupe: 2s}\n"
        "macros: [{id: a, match: {b: 1}}]\n",
    )
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert caught.value.problems == (
        f"{path}:2: leave_out[bots].match.agent.regex is '('; it is not a regular expression of RE2's syntax "
        "(missing ): ().",
        f"{path}:3: leave_out[bots].id is 'bots', as on line 2; each id may stand once in `leave_out`. "
        "Rename one of them.",
        f"{path}:3: leave_out[bots].scope is 'usr'; it must be one of 'row', 'user'. Did you mean 'user'?",
        f"{path}:4: leave_out[2] has no `id`. Add `id:` a short name in lower-case letters, digits and _.",
        f"{path}:4: leave_out[2].match is empty; name at least one column, such as {{event_name: purchase}}.",
        f"{path}:4: leave_out[2] has an unknown field 'dedupe'; the fields are 'id', 'name', 'match', 'scope'.",
    )


@pytest.mark.parametrize(
    ("name", "tiers", "owners"),
    [
        (
            "saas",
            ["upgrade", "pricing_view", "demo_request", "trial_signup", "onboarding_finished", "tutorial_watched",
             "integration_connected", "invitation_sent", "cancellation"],
            {"growth-team", "marketing", "sales", "product-team"},
        ),
        (
            "leads",
            ["quote_request", "content_download", "video_play", "chatbot", "enquiry_form_start", "enquiry_form_error",
             "enquiry", "opt_out"],
            {"sales", "content-team", "support", "web-team"},
        ),
    ],
)  # fmt: skip
def test_read_plan_reads_the_templates(name: str, tiers: list[str], owners: set[str]) -> None:
    plan = read_plan(PARAMS / name / "plan.yaml")
    assert plan.warnings == ()
    assert [each.id for each in plan.conversions] == tiers
    assert set(plan.table["owner"].dropna()) == owners
    assert {field for _, field in plan.gaps} == {"benchmark"}


@pytest.mark.parametrize(
    ("template", "conversion", "low", "high"),
    [
        ("shop", "newsletter_signup", 0.06, 0.12),
        ("saas", "trial_signup", 0.06, 0.12),
        ("saas", "onboarding_finished", 0.20, 0.25),
        ("leads", "content_download", 0.08, 0.15),
    ],
)
def test_the_templates_start_from_usual_benchmarks(template: str, conversion: str, low: float, high: float) -> None:
    found = read_plan(PARAMS / template / "plan.yaml")[conversion]
    assert isinstance(found, Micro)
    assert found.benchmark
    assert (found.benchmark.low, found.benchmark.high) == (low, high)


EXPERIMENTS = """\
experiments:
  - id: cart_test
    assignment: {column: arm}
    arms: {old: 0.5, new: 0.5}
    start: 2026-07-06
    primary: add_to_cart
    guardrails: [{conversion: purchase, margin: 0.05}]
    segments: [device_type]
"""


def test_plan_finds_an_experiment_and_its_fields(tmp_path: Path) -> None:
    path = write(tmp_path, EXPERIMENTS + SHOP)
    plan = read_plan(path)
    assert plan.find_experiment("cart_test") is plan.experiments[0]
    assert (plan.locate("cart_test"), plan.locate("cart_test", "primary")) == (f"{path}:2", f"{path}:6")
    assert "cart_test" not in plan
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_plan_does_not_need_the_columns_of_experiments_for_anything_else(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, EXPERIMENTS + SHOP))
    assert plan.columns == {"event_name", "source", "value", "amount"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            EXPERIMENTS + SHOP,
            "`experiment` is 'cart_tset'; the plan's experiments are 'cart_test'. Did you mean 'cart_test'?",
        ),
        (SHOP, "`experiment` is 'cart_tset'; the plan has no `experiments`."),
    ],
    ids=["another one", "none"],
)
def test_plan_names_the_nearest_experiment(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ParamError) as caught:
        read_plan(write(tmp_path, text)).find_experiment("cart_tset")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("old", "new"),
    [("{old: 0.5, new: 0.5}", "{new: 0.5, old: 0.5}"), ("margin: 0.05", "margin: 0.06"), ("column: arm", "column: a")],
)
def test_plan_digest_follows_the_experiments_and_which_arm_is_the_control(tmp_path: Path, old: str, new: str) -> None:
    digest = read_plan(write(tmp_path, EXPERIMENTS + SHOP)).digest
    assert read_plan(write(tmp_path, EXPERIMENTS.replace(old, new) + SHOP)).digest != digest


@pytest.mark.parametrize("taken", ["add_to_cart", "slow"])
def test_an_experiment_has_an_id_of_its_own(tmp_path: Path, taken: str) -> None:
    friction = "friction: [{id: slow, match: {event_name: page_view}}]\n"
    path = write(tmp_path, friction + SHOP + EXPERIMENTS.replace("id: cart_test", f"id: {taken}"))
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    line = {"add_to_cart": 14, "slow": 1}[taken]
    assert str(caught.value) == (
        f"{path}:37: experiments[{taken}].id is '{taken}', as on line {line}; each id may stand once in a plan. "
        "Rename one of them."
    )


def test_read_plan_does_not_judge_stages_by_a_list_that_is_wrong_itself(tmp_path: Path) -> None:
    path = write(tmp_path, f"stages: 5\nmacros: [{{id: a, match: {{b: 1}}, micros: [{micros('early')}]}}]\n")
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert str(caught.value) == f"{path}:1: stages is 5; it must be a list."
