"""What an experiment's numbers mean: the smallest table that triggers each rule, and the rules' order."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from unit_samples import make_rate

from convlib.arms import Comparison
from convlib.decisions import choose_arm, decide, judge
from convlib.plan_experiments import Margin

RELATIVE, ABSOLUTE = Margin(relative=0.05), Margin(absolute=0.01)
NOTHING = pd.DataFrame({"check": ["outliers"], "status": ["passed"], "evidence": ["No."]})


def compare(low: float, high: float, control: float = 0.2) -> Comparison:
    """An effect with its interval, and the same as a share of the control's value."""
    middle = (low + high) / 2
    relative = {
        "relative_effect": middle / control,
        "relative_effect_ci_lower": low / control,
        "relative_effect_ci_upper": high / control,
    }
    known = {"effect": middle, "error": (high - low) / 4, "effect_ci_lower": low, "effect_ci_upper": high}
    return Comparison(100, 100, value_control=control, **known, **relative)


@pytest.mark.parametrize(
    ("low", "high", "up", "down"),
    [
        (0.01, 0.03, "better", "worse"),
        (-0.03, -0.01, "worse", "better"),
        (-0.01, 0.03, "no evidence", "no evidence"),
        (0.0, 0.02, "no evidence", "no evidence"),
        (-0.02, 0.0, "no evidence", "no evidence"),
    ],
)
def test_judge_says_what_an_interval_beside_zero_shows(low: float, high: float, up: str, down: str) -> None:
    assert judge(make_rate([]), compare(low, high)) == up
    assert judge(make_rate([], direction="down"), compare(low, high)) == down


# With a control of 0.2, 5% are 0.01: both margins are alike.
@pytest.mark.parametrize("margin", [RELATIVE, ABSOLUTE], ids=["relative", "absolute"])
@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (-0.009, 0.02, "within margin"),
        (0.01, 0.02, "within margin"),
        (-0.011, 0.02, "undecided"),
        (-0.009, -0.001, "worse"),
        (-0.05, -0.02, "worse"),
        (-0.05, 0.001, "undecided"),
    ],
    ids=["holds", "gains", "open", "within the margin, but shown worse", "beyond the margin", "wide"],
)
def test_judge_holds_guardrails_against_their_margin(margin: Margin, low: float, high: float, status: str) -> None:
    assert judge(make_rate([], role="guardrail", margin=margin), compare(low, high)) == status
    turned = make_rate([], role="guardrail", margin=margin, direction="down")
    assert judge(turned, compare(-high, -low)) == status


def test_judge_reads_absolute_margins_in_the_metrics_own_unit() -> None:
    # A fall by at most 0.008 is 40% of 0.02: an absolute margin of 0.01 holds, a relative one of 5% does not.
    found = compare(-0.008, 0.02, control=0.02)
    assert judge(make_rate([], role="guardrail", margin=ABSOLUTE), found) == "within margin"
    assert judge(make_rate([], role="guardrail", margin=RELATIVE), found) == "undecided"


def test_judge_leaves_open_what_has_no_relative_effect() -> None:
    found = compare(-0.001, 0.02)._replace(relative_effect_ci_lower=np.nan, relative_effect_ci_upper=np.nan)
    assert judge(make_rate([], role="guardrail", margin=RELATIVE), found) == "undecided"


@pytest.mark.parametrize("margin", [None, RELATIVE])
def test_judge_says_too_few_without_an_error(margin: Margin | None) -> None:
    assert judge(make_rate([], margin=margin), Comparison(3, 100)) == "too few"


def make_row(role: str, status: str, effect: float = 0.1, **known: Any) -> dict[str, Any]:
    """A row of the table of metrics, an effect of 10% by default with 5 points each way."""
    name = {"primary": "Signup", "guardrail": "Purchase", "metric": "Search"}[role]
    found = {"arm": "short", "role": role, "conversion": name, "metric": "rate", "status": status, "effect": effect}
    bounds = {"relative_effect_ci_lower": effect - 0.05, "relative_effect_ci_upper": effect + 0.05}
    return {**found, "relative_effect": effect, **bounds, **known}


def make_checks(**statuses: str) -> pd.DataFrame:
    rows = [(name, status, f"About {name}.") for name, status in statuses.items()]
    return pd.DataFrame(rows, columns=["check", "status", "evidence"])


BETTER, OPEN, WORSE = (make_row("primary", each) for each in ("better", "no evidence", "worse"))
KEPT, UNSURE = make_row("guardrail", "within margin"), make_row("guardrail", "undecided")
HURT = make_row("guardrail", "worse", -0.2)
FEW = make_row("primary", "too few", np.nan)
BAD, EARLY = make_checks(ratio="failed", size="waiting"), make_checks(size="waiting", days="waiting")
NOT_SHOWN = "No difference in Signup is shown"


@pytest.mark.parametrize(
    ("rows", "checks", "running", "decision", "rule"),
    [
        ([BETTER, KEPT], BAD, False, "invalid", "About ratio."),
        ([BETTER, HURT], BAD, False, "invalid", "About ratio."),
        ([BETTER, HURT], EARLY, True, "roll back", "Shown worse than no change: Purchase -20.0% (-25.0% to -15.0%)."),
        (
            [BETTER, HURT],
            NOTHING,
            False,
            "roll back",
            "Shown worse than no change: Purchase -20.0% (-25.0% to -15.0%).",
        ),
        ([WORSE, KEPT], NOTHING, True, "roll back", "Shown worse than no change: Signup +10.0% (+5.0% to +15.0%)."),
        (
            [WORSE, HURT],
            NOTHING,
            False,
            "roll back",
            "Shown worse than no change: Purchase -20.0% (-25.0% to -15.0%); Signup +10.0% (+5.0% to +15.0%).",
        ),
        ([BETTER, KEPT], EARLY, False, "keep running", "About size. About days."),
        (
            [BETTER, KEPT, make_row("metric", "worse")],
            NOTHING,
            True,
            "ship",
            "Signup is shown better, and every guardrail keeps its limit.",
        ),
        ([BETTER, KEPT, UNSURE], NOTHING, False, "keep running", "It is not shown that Purchase keeps its limit."),
        (
            [BETTER, make_row("guardrail", "too few", np.nan)],
            NOTHING,
            True,
            "keep running",
            "It is not shown that Purchase keeps its limit.",
        ),
        ([FEW, KEPT], NOTHING, False, "keep running", "Too few units or conversions to compare Signup."),
        ([OPEN, KEPT], NOTHING, True, "keep running", f"{NOT_SHOWN} yet, and there is time left."),
        ([OPEN, UNSURE], NOTHING, False, "no effect", f"{NOT_SHOWN}."),
        ([OPEN, KEPT], make_checks(novelty="warning", days="not checked"), False, "no effect", f"{NOT_SHOWN}."),
    ],
)
def test_decide_follows_the_first_rule_that_holds(
    rows: list[dict[str, Any]], checks: pd.DataFrame, running: bool, decision: str, rule: str
) -> None:
    found = decide(pd.DataFrame(rows), checks, running=running)
    assert found.to_dict("records") == [{"arm": "short", "decision": decision, "rule": rule}]


def test_decide_decides_for_each_arm_in_their_order() -> None:
    rows = [OPEN, KEPT, BETTER | {"arm": "long"}, KEPT | {"arm": "long"}, WORSE | {"arm": "bare"}]
    found = decide(pd.DataFrame(rows), NOTHING, running=False)
    expected = [["short", "no effect"], ["long", "ship"], ["bare", "roll back"]]
    assert found[["arm", "decision"]].to_numpy().tolist() == expected


@pytest.mark.parametrize(
    ("decisions", "effects", "chosen"),
    [
        (["ship", "ship", "roll back"], [0.1, 0.3, -0.9], "b"),
        (["ship", "ship", "ship"], [-0.4, -0.3, -0.1], "a"),
        (["no effect", "roll back", "ship"], [0.0, -0.5, 0.1], "c"),
        (["no effect", "roll back", "keep running"], [0.0, -0.5, np.nan], "c"),
        (["no effect", "roll back", "roll back"], [0.0, -0.1, -0.5], "c"),
        (["invalid", "invalid", "invalid"], [np.nan, np.nan, np.nan], "a"),
        (["no effect", "no effect", "no effect"], [0.1, 0.1, 0.1], "a"),
    ],
)
def test_choose_arm_follows_the_most_urgent_decision_and_the_largest_effect(
    decisions: list[str], effects: list[float], chosen: str
) -> None:
    table = pd.DataFrame({"arm": [*"abc"], "role": "primary", "relative_effect": effects})
    other = table.assign(role="guardrail", relative_effect=9)
    given = pd.DataFrame({"arm": [*"abc"], "decision": decisions, "rule": ""})
    assert choose_arm(given, pd.concat([table, other]))["arm"] == chosen
