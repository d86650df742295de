"""Which micro-conversion to work on first, what is not known about that, and what testing the first three takes."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib import plots, sizes, stats, takeaways
from convlib.correlation import Correlation, find_unfollowed
from convlib.documents import quote_names
from convlib.durations import MICROSECONDS, parse_duration, write_duration
from convlib.errors import ParamError, check_made, list_problems
from convlib.measured import MeasuredEffect, check_measured, unknown_micro
from convlib.plan import Plan
from convlib.plan_entries import Macro, Micro
from convlib.power import ARMS, MARGIN, ExperimentPlan, find_layout_problems, size_experiment
from convlib.results import Kind, Result, Shown, show_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    *("rank", "micro", "stage", "owner", "units_with", "reach", "lift", "value_per_conversion"),
    *("score", "score_ci_lower", "score_ci_upper", "opportunity", "opportunity_ci_lower", "opportunity_ci_upper"),
    *("effort", "opportunity_per_effort", "probability_top_3", "sample_size_to_test", "days_to_test", "verdict"),
    "note",
)
TEST_COLUMNS = (
    *("rank", "micro", "baseline_rate", "goal_rate", "sample_size_to_test", "days_to_test", "detectable_2_weeks"),
    *("detectable_4_weeks", "macro_rate", "macro_effect", "macro_sample_size", "macro_days", "note"),
)
Floats = NDArray[np.float64]
RANKED = ("positive", "negative", "no evidence", "measured")
COUNTING = ("rate", "per_unit", "sum")
#: Without a target: one tenth more units than do it now.
RELATIVE_GOAL = 0.10
DRAWS, SEED = 20_000, 20_170_417
#: So many are in the test plan; so many stand in the figure of values, which goes on beyond the goal by so much.
MOST_TESTS, MOST_LINES, BEYOND = 3, 5, 1.5


@dataclasses.dataclass(frozen=True)
class _Evidence:
    """What does not depend on the goals: one row a micro, and draws of its lift (micros x draws)."""

    table: pd.DataFrame
    draws: Floats
    macro: Macro
    correlation: Correlation


@dataclasses.dataclass(frozen=True)
class Impact(Result):
    """The micros ranked by what reaching their targets would be worth, if the associations held.

    Attributes:
        macro: The macro-conversion.
        worth: Unit of score and opportunity: the plan's currency, `conversions`, or `in value`.
        goals: What-if goals in place of the plan's targets, as shares of the units that could.
        tests: The test plan of the first three ranks that have an opportunity above zero: `baseline_rate` and
            `goal_rate` of the micro, the units in two arms and the days of entries that find that move, the least move
            of the rate that 2 and 4 weeks of the traffic find (all with 80% power at 5% two-sided), and what a test of
            the macro itself would need: its rate among the units that could do the micro, each counted once, the effect
            that the lift predicts, units and days of entries.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("rank", "Rank", "count"),
        ("micro", "Micro-conversion", "text"),
        ("opportunity", "Opportunity", "number"),
        ("verdict", "Verdict", "text"),
        ("probability_top_3", "In the top 3", "percent"),
        ("score", "Value of one more unit", "number"),
        ("reach", "Have not done it", "count"),
        ("effort", "Effort", "number"),
        ("owner", "Owner", "text"),
        ("sample_size_to_test", "Units to test", "count"),
        ("days_to_test", "Days of entries to test", "count"),
        ("note", "Note", "text"),
    )

    macro: str
    worth: str
    goals: Mapping[str, float]
    tests: pd.DataFrame
    _evidence: _Evidence = dataclasses.field(repr=False)

    def _repr_html_(self) -> str:
        priced = ("score", "opportunity")
        shown = [(n, f"{heading}, {self.worth}" if n in priced else heading, kind) for n, heading, kind in self.SHOWN]
        often = self.table["probability_top_3"].map(takeaways.word_probability, na_action="ignore")
        return show_table(self.named.assign(probability_top_3=often), shown)

    def at(self, **goals: float) -> "Impact":
        """Say what other goals would be worth: `impact.at(add_to_cart=0.12)`.

        Args:
            goals: For a micro's id, the share of the units that could do it that is to do it, from 0 to 1.

        Returns:
            A new result. Only what depends on the goals differs: opportunities, ranks, tests, notes and takeaways.

        Raises:
            ParamError: A name is no micro of the macro, or a goal is not a share.
        """
        known = [micro.id for micro in self._evidence.macro.micros]
        wrong = {name: goal for name, goal in goals.items() if not _is_share(goal)}
        problems = [
            *(unknown_micro(name, known, macro=self.macro) for name in goals if name not in known),
            *(f"The goal of `{name}` is {goal!r}; it must be a share from 0 to 1." for name, goal in wrong.items()),
        ]
        if problems:
            raise ParamError(*problems)
        return _rank_micros(self._evidence, {**self.goals, **goals})

    def plan_test(
        self,
        micro: str,
        *,
        margin: float = MARGIN,
        arms: int = ARMS,
        power: float = stats.POWER,
        confidence: float = stats.CONFIDENCE,
    ) -> ExperimentPlan:
        """Say how many units and days a test needs to show that a micro got to its goal and did not hurt the macro.

        The micro's size and traffic are those of the table; units are those that could do it, each followed as long as
        for the associations. `plan_experiment` plans any other test.

        Args:
            micro: A micro of the macro; what is to be found is the way from its rate to its goal.
            margin: By how much the macro's rate among these units may be worse, as a share of it.
            arms: How many arms share the units equally.
            power: With which both are to be shown.
            confidence: Level of the intervals.

        Returns:
            As of `plan_experiment`; where the goal is met NaN, and a note on how to give another.

        Raises:
            ParamError: The name is no micro of the macro, or a number makes no sense.
        """
        macro, correlation = self._evidence.macro, self._evidence.correlation
        table = _set_goals(self._evidence, self.goals).set_index("micro")
        known = [each.id for each in macro.micros]
        problems = [] if micro in known and micro in table.index else [unknown_micro(micro, known, macro=self.macro)]
        problems += find_layout_problems(arms=arms, power=power, confidence=confidence, margin=margin)
        if problems:
            raise ParamError(*problems)
        row: dict[Any, Any] = table.loc[micro].to_dict()
        change = float(stats.divide(row["added"], row["did"]))
        worse = -margin if macro.direction == "up" else margin
        primary = sizes.describe_share(
            "primary", micro, self.names[micro], did=row["did"], units=row["could"], change=change
        )
        if primary.note == sizes.NO_CHANGE:
            primary = dataclasses.replace(primary, note=self._note_met(micro, primary))
        baselines = [
            primary,
            sizes.describe_share(
                "guardrail", macro.id, macro.name, did=row["converted"], units=row["could"], change=worse
            ),
        ]
        length = parse_duration(correlation.exposure[-1]) + parse_duration(correlation.horizon)
        per_day = correlation.entries_per_day * float(stats.divide(row["could"], row["units"]))
        layout = sizes.Layout((1 / arms,) * arms, per_day, write_duration(length), power, confidence)
        return size_experiment(baselines, layout, segment=self.segment)

    def _note_met(self, micro: str, now: sizes.Baseline) -> str:
        """Say what is met, and how to give a goal beyond it."""
        planned = next(each for each in self._evidence.macro.micros if each.id == micro)
        aim = self.goals.get(micro, _target(planned))
        other = now.value * (1 - RELATIVE_GOAL)
        if _is_better_done(planned):
            other = min(now.value * (1 + RELATIVE_GOAL), (1 + now.value) / 2)
        which = "goal" if micro in self.goals else "target"
        met = f"its {which} of {aim:.1%} is met, {now.value:.1%} of {now.units:,} units do it now"
        return f'{met}; give another, such as `impact.at({micro}={other:.3g}).plan_test("{micro}")`'

    def show_tests(self) -> Shown:
        """Show what testing the first three would take, beside what the macro itself would."""
        columns: tuple[tuple[str, str, Kind], ...] = (
            ("rank", "Rank", "count"),
            ("micro", "Micro-conversion", "text"),
            ("baseline_rate", "Rate now", "percent"),
            ("goal_rate", "Goal", "percent"),
            ("sample_size_to_test", "Units to test", "count"),
            ("days_to_test", "Days of entries", "count"),
            ("detectable_2_weeks", "Least move found in 2 weeks", "points"),
            ("detectable_4_weeks", "in 4 weeks", "points"),
            ("macro_rate", "Macro now", "percent"),
            ("macro_effect", "Macro's predicted move", "points"),
            ("macro_sample_size", "Units to test the macro", "count"),
            ("macro_days", "Days of entries to test the macro", "count"),
            ("note", "Note", "text"),
        )
        return Shown(self.tests.assign(micro=self.tests["micro"].replace(self.names)), columns)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the opportunity of each ranked micro with its interval."""
        return plots.draw_opportunities(self.named, worth=self.worth, segment=self.segment, ax=ax)

    def plot_effort(self, ax: "Axes | None" = None) -> "Axes":
        """Draw opportunity against effort; without any effort in the plan, opportunity alone."""
        if self.table.loc[self.table["rank"].notna(), "effort"].isna().all():
            return self.plot(ax)
        return plots.draw_effort(self.named, worth=self.worth, segment=self.segment, ax=ax)

    def plot_values(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the opportunity of the first micros from now to their goal and beyond, with its interval."""
        rates = _set_goals(self._evidence, self.goals)[["micro", "baseline_rate", "goal_rate"]]
        rows = self.table.merge(rates, on="micro")
        rows = rows[rows["rank"].notna() & (rows["baseline_rate"] != rows["goal_rate"])].head(MOST_LINES)
        rows = rows.assign(micro=rows["micro"].replace(self.names))
        return plots.draw_values(rows, beyond=BEYOND, worth=self.worth, segment=self.segment, ax=ax)


def score_impact(
    correlation: Correlation,
    plan: Plan,
    *,
    second_opinion: Correlation | None = None,
    measured: MeasuredEffect | Sequence[MeasuredEffect] = (),
    confidence: float = stats.CONFIDENCE,
) -> Impact:
    """Rank the micros by what getting each to its target would be worth, if the association held.

    Adjusted lifts are shrunk towards zero by their own uncertainty (a prior unimodal at zero: Stephens 2017), so that
    one lucky signal never leads. *Score*: shrunk lift x value of a macro-conversion. *Opportunity*: score x the units
    that reaching the target would add (without a target 10% more than now; none where it is met; never above `reach`).
    Where an experiment moved the micro clearly, the ratio of its two effects, with Fieller's interval, takes the
    lift's place, unshrunk; that assumes that the change acts on the macro only through this micro.

    Args:
        correlation: The associations of one macro.
        plan: The plan, for targets, owners, effort and value.
        second_opinion: The same correlation with `model="regression"`: where its verdict is another, or its lift less
            than half, the note says so.
        measured: What experiments changed, at most one for a micro.
        confidence: Level of the intervals.

    Returns:
        One row a micro, by `rank`; preconditions, followers and micros with too few units have none.
        `probability_top_3` is the share of 20,000 draws of the lifts in which it is among the three largest
        opportunities. `sample_size_to_test` units in two arms find the micro's move to its target with 80% power at 5%
        two-sided; `days_to_test` is that at the segment's traffic, without the follow-up. `verdict` is `measured` where
        an experiment decides. Intervals are quantiles of the draws, or Fieller's.

    Raises:
        ParamError: An argument is of another kind or macro, the confidence is not between 0 and 1, or a measured effect
            can't be used.
    """
    goal = _check_arguments(correlation, plan, second_opinion)
    micros = [micro.id for micro in goal.micros]
    stats.check_confidence(confidence)
    effects = check_measured(measured, micros, macro=goal.id)
    if effects and correlation.target == "value":
        msg = "`measured` has effects on how many convert, the lifts are in value. Correlate with target='conversion'."
        raise ParamError(msg)
    table = correlation.table[correlation.table["micro"].isin(micros)].merge(correlation.followed, on="micro")
    lifts, errors = table["adjusted_lift"].where(table["verdict"].isin(RANKED)), table["micro"].map(correlation.errors)
    draws = stats.shrink(lifts, errors, draws=DRAWS, seed=SEED)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=1)
    table = table.assign(lift=draws.mean(axis=1), lift_ci_lower=low, lift_ci_upper=high)
    table = table.assign(together=_compare(table, second_opinion))
    table["note"] = [_join(*notes) for notes in zip(table["note"], table["together"], strict=True)]
    _replace_measured(table, draws, effects, goal.name, confidence)
    return _rank_micros(_Evidence(table, draws, goal, correlation), {})


def _check_arguments(correlation: Correlation, plan: Plan, second: Correlation | None) -> Macro:
    problems = list_problems(
        lambda: check_made("correlation", correlation, Correlation, maker="correlate"),
        lambda: check_made("plan", plan, Plan, maker="read_plan"),
        lambda: check_made("second_opinion", second, Correlation | None, maker="correlate"),
    )
    if problems:
        raise ParamError(*problems)
    goals = {goal.id: goal for goal in plan.macros}
    if correlation.macro not in goals:
        problems = [
            f"The plan has no macro `{correlation.macro}`, which the correlation is of; it has {quote_names(goals)}. "
            "Give the plan that the correlation was made with."
        ]
    wanted = {name: getattr(correlation, name) for name in ("macro", "segment", "target")} | {"model": "regression"}
    problems += [
        f"`second_opinion` has {name} {getattr(second, name)!r}; it must be {value!r}."
        for name, value in wanted.items()
        if second is not None and getattr(second, name) != value
    ]
    if problems:
        raise ParamError(*problems)
    return goals[correlation.macro]


def _compare(table: pd.DataFrame, second: Correlation | None) -> list[str]:
    """Say of each ranked micro what all together give, where that is another verdict or far less."""
    if second is None:
        return [""] * len(table)
    others = second.table.set_index("micro").T
    return [
        takeaways.word_together(others[micro], verdict=verdict, alone=alone, in_value=second.target == "value")
        if verdict in RANKED and micro in others
        else ""
        for micro, verdict, alone in zip(table["micro"], table["verdict"], table["adjusted_lift"], strict=True)
    ]


def _replace_measured(
    table: pd.DataFrame, draws: Floats, measured: Iterable[MeasuredEffect], macro: str, confidence: float
) -> None:
    """Put clearly measured ratios in the place of the shrunk lifts, and note which experiments say too little."""
    rng = np.random.default_rng(SEED)
    for each in measured:
        row = np.flatnonzero(table["micro"] == each.micro)
        low, high = each.bound_ratio(confidence)
        if np.isnan(low):
            table.loc[row, "note"] = [_join(note, "tested, inconclusive") for note in table["note"].iloc[row]]
            continue
        draws[row] = each.draw_ratio(rng, DRAWS)
        table.loc[row, ["lift", "lift_ci_lower", "lift_ci_upper"]] = each.ratio, low, high
        said = takeaways.word_experiment(each.name, macro)
        table.loc[row, ["verdict", "note", "together"]] = "measured", said, ""


def _rank_micros(evidence: _Evidence, goals: Mapping[str, float]) -> Impact:
    """Put the micros in order of what their goals are worth."""
    correlation = evidence.correlation
    table = _set_goals(evidence, goals)
    usable = (table["verdict"].isin(RANKED) & table["lift"].notna()).to_numpy()
    value, worth = _value(correlation, evidence.macro)
    gains = value * table["added"].to_numpy()
    frame = table.assign(
        value_per_conversion=value,
        **_multiply(table, "score", value),
        **_multiply(table, "opportunity", gains),
        probability_top_3=_probability_top_3(evidence.draws * gains[:, None], usable),
        sample_size_to_test=sizes.size_rates(table["baseline_rate"].where(usable), table["goal_rate"]),
        per_day=correlation.entries_per_day * stats.divide(table["could"], table["units"]),
    )
    frame["opportunity_per_effort"] = stats.divide(frame["opportunity"], frame["effort"])
    frame["days_to_test"] = np.ceil(stats.divide(frame["sample_size_to_test"], frame["per_day"]))
    frame = _rank(frame, usable)
    worthy = frame[frame["rank"].notna() & (frame["opportunity"] > 0)]
    tests = _plan_tests(worthy.head(MOST_TESTS), in_value=correlation.target == "value")
    said = takeaways.word_impact(
        frame,
        macro=evidence.macro.name,
        names=correlation.names,
        worth=worth,
        followed=int(table["units"].max()) if len(table) else 0,
        days=_count_days(correlation),
        segment=correlation.segment,
        tests=tests,
    )
    said += [] if correlation.fewest else find_unfollowed(*correlation._units)
    if correlation.fewest and frame.empty:
        said = correlation.takeaways
    return Impact(
        table=frame[list(COLUMNS)],
        takeaways=said,
        segment=correlation.segment,
        names=correlation.names,
        macro=correlation.macro,
        worth=worth,
        goals=goals,
        tests=tests,
        _evidence=evidence,
        fewest=correlation.fewest,
    )


def _count_days(correlation: Correlation) -> int:
    """Count the days over which the units that are followed to the end entered."""
    followed, design = correlation._units
    day = followed.start[followed.is_mature(design, design.landmarks[-1])] // MICROSECONDS["D"]
    return int(np.ptp(day)) + 1 if len(day) else 0


def _set_goals(evidence: _Evidence, goals: Mapping[str, float]) -> pd.DataFrame:
    """Say for each micro what the goal is, how many units it adds (fewer where less is better), and a note."""
    table = evidence.table
    micros = [next(micro for micro in evidence.macro.micros if micro.id == name) for name in table["micro"]]
    sign = np.array([1 if _is_better_done(micro) else -1 for micro in micros])
    aims = [goals.get(micro.id, _target(micro)) for micro in micros]
    aim = np.array([np.nan if each is None else each for each in aims], float)
    could, did = table["could"].to_numpy(float), table["did"].to_numpy(float)
    reach = np.where(sign > 0, could - did, did)
    wanted = np.where(np.isnan(aim), RELATIVE_GOAL * did, sign * (aim * could - did))
    added = sign * np.clip(wanted, 0, reach) + 0.0
    named = [
        takeaways.word_goal(goals.get(micro.id), target=_target(micro) is not None, up=_is_better_done(micro))
        for micro in micros
    ]
    notes = zip(table["note"], table["verdict"], named, added, strict=True)
    return table.assign(
        owner=[micro.owner or "" for micro in micros],
        effort=[np.nan if micro.effort is None else float(micro.effort) for micro in micros],
        reach=reach.astype(np.int64),
        goal=named,
        added=added,
        baseline_rate=stats.divide(did, could),
        goal_rate=stats.divide(did + added, could),
        note=[
            _join(note, _note_goal(name, extra) if verdict in RANKED else "") for note, verdict, name, extra in notes
        ],
    )


def _target(micro: Micro) -> float | None:
    """Give the share that the plan wants to do it; None without a target for that."""
    counts_units = micro.metric.type == "rate" and not micro.metric.unit
    return micro.target.value if micro.target and counts_units else None


def _is_better_done(micro: Micro) -> bool:
    """Say whether more units should do it; of other metrics, `direction` says nothing about how often it is done."""
    return micro.direction == "up" or micro.metric.type not in COUNTING


def _note_goal(name: str, added: float) -> str:
    if name == takeaways.TARGET:
        return "" if added else "target met"
    return f"goal: {name}"


def _join(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _value(correlation: Correlation, macro: Macro) -> tuple[float, str]:
    """Give what a unit of the lift is worth, and in what; without values conversions are counted."""
    if correlation.target == "value":
        return 1.0, macro.currency or "in value"
    if not np.isfinite(correlation.value_per_conversion) or macro.value == 1:
        return 1.0, "conversions"
    return correlation.value_per_conversion, macro.currency or "in value"


def _multiply(table: pd.DataFrame, name: str, factor: Floats | float) -> dict[str, Floats]:
    """Give the lift times something, with its interval."""
    bounds = [table[column].to_numpy() * factor for column in ("lift_ci_lower", "lift_ci_upper")]
    low, high = np.sort(bounds, axis=0)
    # Adding zero takes the sign from minus zero.
    return {
        name: table["lift"].to_numpy() * factor + 0.0,
        f"{name}_ci_lower": low + 0.0,
        f"{name}_ci_upper": high + 0.0,
    }


def _probability_top_3(opportunities: Floats, usable: NDArray[np.bool_]) -> Floats:
    share = np.full(len(opportunities), np.nan)
    if usable.any():
        drawn = opportunities[usable]
        third = np.sort(drawn, axis=0)[-min(3, len(drawn))]
        # Ties (micros whose target is met add nothing) are in the top 3 only by being worth something.
        share[usable] = ((drawn >= third) & (drawn > 0)).mean(axis=1)
    return share


def _rank(frame: pd.DataFrame, usable: NDArray[np.bool_]) -> pd.DataFrame:
    ordered = frame.assign(known=usable).sort_values(
        ["known", "opportunity", "score", "micro"],
        ascending=[False, False, False, True],
        kind="stable",
        ignore_index=True,
    )
    position = pd.Series(np.arange(1, len(ordered) + 1), dtype="Int64").where(ordered["known"])
    return ordered.assign(rank=position)


def _plan_tests(rows: pd.DataFrame, *, in_value: bool) -> pd.DataFrame:
    """Say what testing each micro takes, and what the macro, which moves far less, would."""
    macro_rate = stats.divide(rows["converted"], rows["could"])
    effect = (rows["lift"] * (rows["goal_rate"] - rows["baseline_rate"])).to_numpy() * (np.nan if in_value else 1)
    needed = sizes.size_rates(macro_rate, macro_rate + effect)
    return rows.assign(
        detectable_2_weeks=sizes.least_moves(rows["baseline_rate"], rows["goal_rate"], 14 * rows["per_day"]),
        detectable_4_weeks=sizes.least_moves(rows["baseline_rate"], rows["goal_rate"], 28 * rows["per_day"]),
        macro_rate=macro_rate,
        macro_effect=effect,
        macro_sample_size=needed,
        macro_days=np.ceil(stats.divide(needed, rows["per_day"])),
    )[list(TEST_COLUMNS)]


def _is_share(goal: object) -> bool:
    return isinstance(goal, int | float) and not isinstance(goal, bool) and 0 <= goal <= 1
