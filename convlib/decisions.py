"""What an experiment's numbers mean: each metric's status, and for each arm the first rule that holds."""

import numpy as np
import pandas as pd

from convlib import takeaways
from convlib.arms import Comparison
from convlib.samples import Measurement

#: Decisions of several arms, the one to follow first.
URGENCY = ("invalid", "ship", "keep running", "roll back", "no effect")


def judge(measure: Measurement, found: Comparison) -> str:
    """Say whether a metric got better or worse, and of a guardrail whether it keeps its margin.

    A guardrail that is shown worse than no change is `worse`, also within its margin; `within margin` is a test of
    non-inferiority: the whole interval lies on the good side of the margin.
    """
    if not np.isfinite(found.error):
        return "too few"
    low, high = _turn(measure, found.effect_ci_lower, found.effect_ci_upper)
    if measure.margin is None:
        return "better" if low > 0 else "worse" if high < 0 else "no evidence"
    if high < 0:
        return "worse"
    if measure.margin.relative is None:
        limit = measure.margin.absolute
    else:
        limit = measure.margin.relative
        low, _ = _turn(measure, found.relative_effect_ci_lower, found.relative_effect_ci_upper)
    return "within margin" if limit is not None and low > -limit else "undecided"


def _turn(measure: Measurement, low: float, high: float) -> tuple[float, float]:
    """Turn an interval so that up is better."""
    return (low, high) if measure.direction == "up" else (-high, -low)


def decide(table: pd.DataFrame, validity: pd.DataFrame, *, running: bool) -> pd.DataFrame:
    """Decide for each arm by the first rule that holds.

    1. `invalid`: a check of validity failed.
    2. `roll back`: a guardrail, or the primary metric itself, is shown worse than no change.
    3. `keep running`: fewer days or units than the plan's minimum.
    4. `ship`: the primary metric is shown better, and every guardrail keeps its margin.
    5. `keep running`: the primary metric is shown better and a guardrail is open, or there is too little to compare,
       or time is left.
    6. `no effect`.

    Args:
        table: The experiment's metrics by arm.
        validity: Its checks.
        running: Whether more units are to come.

    Returns:
        One row an arm: `arm`, `decision`, `rule`.
    """
    rows = []
    for arm, own in table.groupby("arm", sort=False):
        decision, reason, which = _decide(own, validity, running=running)
        rows.append((arm, decision, takeaways.word_rule(reason, which)))
    return pd.DataFrame(rows, columns=["arm", "decision", "rule"])


def _decide(own: pd.DataFrame, validity: pd.DataFrame, *, running: bool) -> tuple[str, str, pd.DataFrame]:
    """Give the decision, the rule that made it, and the rows that it rests on."""
    failed, waiting = (validity[validity["status"] == status] for status in ("failed", "waiting"))
    primary, guardrails = (own[own["role"] == role] for role in ("primary", "guardrail"))
    worse = pd.concat([guardrails, primary])
    worse = worse[worse["status"] == "worse"]
    is_better = bool((primary["status"] == "better").all())
    open_ones = guardrails[guardrails["status"] != "within margin"]
    rules = (
        ("invalid", "invalid", failed, len(failed) > 0),
        ("roll back", "worse", worse, len(worse) > 0),
        ("keep running", "waiting", waiting, len(waiting) > 0),
        ("ship", "better", pd.concat([primary, guardrails]), is_better and open_ones.empty),
        ("keep running", "open", open_ones, is_better),
        ("keep running", "too few", primary, bool((primary["status"] == "too few").all())),
        ("keep running", "running", primary, running),
        ("no effect", "nothing", primary, True),
    )
    return next((decision, reason, which) for decision, reason, which, holds in rules if holds)


def choose_arm(decisions: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    """Choose the arm whose decision stands for the experiment: of those to ship the one with the largest effect."""
    primary = table[table["role"] == "primary"].set_index("arm")["relative_effect"].abs()
    ordered = decisions.assign(
        urgency=decisions["decision"].map(URGENCY.index), gain=-decisions["arm"].map(primary).fillna(0)
    ).sort_values(["urgency", "gain"], kind="stable")
    return ordered.iloc[0]
