"""Which micro-conversion is worth working on first, with what is not known about it."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize

from convlib import plots, stats, takeaways
from convlib.correlation import Correlation
from convlib.plan import Plan
from convlib.plan_entries import Macro, Micro
from convlib.results import Kind, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "rank",
    "micro",
    "stage",
    "owner",
    "units_with",
    "reach",
    "lift",
    "value_per_conversion",
    "score",
    "score_ci_lower",
    "score_ci_upper",
    "opportunity",
    "opportunity_ci_lower",
    "opportunity_ci_upper",
    "effort",
    "opportunity_per_effort",
    "probability_top_3",
    "sample_size_to_test",
    "days_to_test",
    "verdict",
    "note",
)
RANKED = ("positive", "negative", "no evidence")
#: Without a target: one tenth more units than do it now.
RELATIVE_GOAL = 0.10
DRAWS, SEED = 20_000, 20_170_417
POWER = 0.8


@dataclasses.dataclass(frozen=True)
class Impact(Result):
    """The micros ranked by what reaching their targets would be worth, if the associations held.

    Attributes:
        macro: The macro-conversion.
        worth: Unit of score and opportunity: the plan's currency, `conversions`, or `in value`.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("rank", "Rank", "count"),
        ("micro", "Micro-conversion", "text"),
        ("opportunity", "Opportunity", "number"),
        ("probability_top_3", "In the top 3", "percent"),
        ("score", "Value of one more unit", "number"),
        ("reach", "Could still do it", "count"),
        ("effort", "Effort", "number"),
        ("owner", "Owner", "text"),
        ("sample_size_to_test", "Units to test", "count"),
        ("days_to_test", "Days to test", "count"),
        ("verdict", "Verdict", "text"),
        ("note", "Note", "text"),
    )

    macro: str
    worth: str

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the opportunity of each ranked micro with its interval."""
        return plots.draw_opportunities(self.named, worth=self.worth, segment=self.segment, ax=ax)

    def plot_effort(self, ax: "Axes | None" = None) -> "Axes":
        """Draw opportunity against effort."""
        return plots.draw_effort(self.named, worth=self.worth, segment=self.segment, ax=ax)


def score_impact(correlation: Correlation, plan: Plan, *, confidence: float = stats.CONFIDENCE) -> Impact:
    """Rank the micros by what getting each to its target would be worth, if the association held.

    Adjusted lifts are shrunk towards zero by their own uncertainty (empirical Bayes with a prior unimodal at zero:
    Stephens 2017), so that one lucky signal never leads. *Score*: shrunk lift x value of a macro-conversion.
    *Opportunity*: score x the units that reaching the target would add (without a target 10% more than now; none
    where it is met; never above `reach`).

    Args:
        correlation: The associations of one macro.
        plan: The plan, for targets, owners, effort and value.
        confidence: Level of the intervals.

    Returns:
        One row a micro, by `rank`; preconditions, followers and micros with too few units have none.
        `probability_top_3` is the share of 20,000 draws of the shrunk lifts in which it is among the three largest
        opportunities. `sample_size_to_test` units in two arms find the micro's move to its target with 80% power at
        5% two-sided; `days_to_test` is that at the segment's traffic. Intervals are quantiles of the draws.
    """
    goal = next(macro for macro in plan.macros if macro.id == correlation.macro)
    micros = {micro.id: micro for micro in goal.micros}
    table = correlation.table[correlation.table["micro"].isin(micros)].merge(correlation.followed, on="micro")
    usable = table["verdict"].isin(RANKED).to_numpy()
    reach = stats.normal_quantile(correlation.confidence)
    error = (table["adjusted_lift_ci_upper"] - table["adjusted_lift_ci_lower"]).to_numpy(float) / (2 * reach)
    lifts = stats.shrink(np.where(usable, table["adjusted_lift"], np.nan), error, draws=DRAWS, seed=SEED)
    value, worth = _value(correlation.value_per_conversion, goal)
    added = np.array([_added_units(row, micros[row["micro"]]) for _, row in table.iterrows()])
    scores = lifts * value
    opportunities = scores * added[:, None]
    effort = table["micro"].map(lambda name: micros[name].effort).astype(float).to_numpy()
    sizes = [_sample_size(row, extra) for (_, row), extra in zip(table.iterrows(), added, strict=True)]
    able = stats.divide(table["could"], table["units"])
    frame = table.assign(
        owner=table["micro"].map(lambda name: micros[name].owner or ""),
        reach=_reach(table, micros),
        lift=_row_means(lifts),
        value_per_conversion=value,
        **_describe("score", scores, confidence),
        **_describe("opportunity", opportunities, confidence),
        effort=effort,
        opportunity_per_effort=stats.divide(_row_means(opportunities), effort),
        probability_top_3=_probability_top_3(opportunities, usable),
        sample_size_to_test=sizes,
        days_to_test=np.ceil(stats.divide(sizes, correlation.entries_per_day * able)),
    )
    frame = _rank(frame.assign(note=_notes(table, micros, added)), usable)
    return Impact(
        table=frame,
        takeaways=takeaways.word_impact(
            frame,
            macro=goal.name,
            names=correlation.names,
            targets={m.id: _has_target(m) for m in goal.micros},
            worth=worth,
            followed=int(table["units"].max()) if len(table) else 0,
            segment=correlation.segment,
        ),
        segment=correlation.segment,
        names=correlation.names,
        macro=correlation.macro,
        worth=worth,
    )


def _value(mean: float, goal: Macro) -> tuple[float, str]:
    """Give the value of a macro-conversion and its unit; without values conversions are counted."""
    if not np.isfinite(mean) or goal.value == 1:
        return 1.0, "conversions"
    return mean, goal.currency or "in value"


def _reach(table: pd.DataFrame, micros: dict[str, Micro]) -> pd.Series:
    """Count the units that could still do it, or stop doing it where less is better."""
    up = table["micro"].map(lambda name: micros[name].direction == "up")
    return (table["could"] - table["did"]).where(up, table["did"])


def _notes(table: pd.DataFrame, micros: dict[str, Micro], added: NDArray[np.float64]) -> list[str]:
    """Say which goal the opportunity is for, where it is not a target still to reach."""
    rows = zip(table["micro"], table["note"], added, strict=True)
    return [
        note or ("" if extra and _has_target(micros[name]) else "target met" if not extra else "goal: a tenth more")
        for name, note, extra in rows
    ]


def _has_target(micro: Micro) -> bool:
    return micro.target is not None and micro.metric.type == "rate"


def _added_units(row: pd.Series, micro: Micro) -> float:
    """Count the units that reaching the target would add; +10% where the target is missing or is not a rate."""
    if micro.target and _has_target(micro):
        wanted = micro.target.value * row["could"] - row["did"]
        wanted = wanted if micro.direction == "up" else -wanted
    else:
        wanted = RELATIVE_GOAL * row["did"]
    up = micro.direction == "up"
    size = float(np.clip(wanted, 0, row["could"] - row["did"] if up else row["did"]))
    return size if up else -size


def _sample_size(row: pd.Series, added: float) -> float:
    """Say how many units two equal arms need to find the micro's move."""
    now = float(stats.divide(row["did"], row["could"]))
    then = now + float(stats.divide(added, row["could"]))
    if not 0 < now < 1 or not 0 < then < 1 or now == then:
        return np.nan
    effect = abs(proportion_effectsize(then, now))
    arm = NormalIndPower().solve_power(effect_size=effect, alpha=stats.SIGNIFICANCE, power=POWER)
    return 2 * float(np.ceil(arm))


def _describe(name: str, draws: NDArray[np.float64], confidence: float) -> dict[str, NDArray[np.float64]]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=1)
    return {name: _row_means(draws), f"{name}_ci_lower": low, f"{name}_ci_upper": high}


def _row_means(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = draws.mean(axis=1)
    return means


def _probability_top_3(opportunities: NDArray[np.float64], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    share = np.full(len(opportunities), np.nan)
    if usable.any():
        # Ties (micros whose target is met add nothing) are in the top 3 only by being worth something.
        drawn = opportunities[usable]
        better = (drawn[:, None, :] < drawn[None, :, :]).sum(axis=1)
        share[usable] = ((better < 3) & (drawn > 0)).mean(axis=1)
    return share


def _rank(frame: pd.DataFrame, usable: NDArray[np.bool_]) -> pd.DataFrame:
    ordered = frame.assign(known=usable).sort_values(
        ["known", "opportunity", "score", "micro"],
        ascending=[False, False, False, True],
        kind="stable",
        ignore_index=True,
    )
    position = pd.Series(np.arange(1, len(ordered) + 1), dtype="Int64").where(ordered["known"])
    return ordered.assign(rank=position)[list(COLUMNS)]
