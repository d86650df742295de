"""Which micro-conversions go with the macro-conversion, by how much, and how sure that is: a landmark design."""

import dataclasses
import datetime as dt
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import pandas as pd

from convlib import plots, stats, strata, takeaways
from convlib.canonical import NO_VALUE
from convlib.conversions import Step
from convlib.documents import find_wrong_choice
from convlib.durations import MICROSECONDS, write_duration
from convlib.errors import EventDataError, ParamError, list_problems
from convlib.events import EventLog, Unit, check_log, list_columns
from convlib.landmarks import (
    AUTO_LANDMARKS,
    DEFAULT_HORIZON,
    NEVER,
    Design,
    Followed,
    check_followed,
    find_landmarks,
    follow,
    read_design,
)
from convlib.lifts import ADJUSTED, FEWEST_CONVERTED, FEWEST_UNITS, LIFT, ODDS, SIDES, judge_micros
from convlib.plan import Plan
from convlib.plan_entries import Clock, Macro
from convlib.redaction import find_hidden, find_small, measure_gaps
from convlib.results import Kind, Result, Shown, Takeaways, show_table
from convlib.sequences import find_sequences

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Target = Literal["conversion", "value"]
Model = Literal["strata", "regression"]
TESTS = ("p_value", "q_value", "homogeneity_p_value", "e_value", "verdict", "note")
COLUMNS = ("micro", "stage", *SIDES, *LIFT, *ODDS, *ADJUSTED, *TESTS)
NAIVE_COLUMNS = ("micro", *SIDES, "lift", "gone_without", "late_with")
OPINION = (*LIFT, "verdict")
MODEL_COLUMNS = ("micro", *(f"{model}_{name}" for model in ("strata", "regression") for name in OPINION), "agree")
#: As many values of a property as make candidates of one micro, the most frequent first.
MOST_VALUES = 20
#: A horizon that misses a larger share of the converters is too short; one that counts `ENOUGH` of them is proposed.
#: A larger share of pending units is told.
MUCH, ENOUGH = 0.10, 0.90
#: A column without a value at entry for a larger share of the units adjusts for nothing.
MOSTLY_EMPTY = 0.90


@dataclasses.dataclass(frozen=True)
class Correlation(Result):
    """The association of each micro with the macro among units still at risk at the landmark.

    Attributes:
        macro: The macro-conversion.
        entry: What starts each unit's clock; None is its first event in the period.
        exposure: The landmarks: a micro counts when done before it.
        horizon: How long after a landmark the macro counts.
        adjust: Columns that `adjusted_lift` is adjusted for, beside activity.
        target: `conversion`, or `value` for lifts in value per unit.
        model: Where `adjusted_lift` is from: `strata`, or `regression` for one model of all micros.
        conversions_used: Mature converters that the design counts, over all that convert by the end of the data.
        pending: Units whose outcome window is not over.
        matrix: Phi between each two micros.
        groups: For each micro, adjusted column and value with at least 30 units and 5 conversions on both sides: the
            lift there. `differs` says that lifts are not equal over the micro's groups, beyond chance.
        models: With `model="regression"`: the lift within strata beside that of the model, and whether they `agree`.
        naive: For each micro what most products count: units whose whole follow-up is over that did it before
            converting, or at any time if they did not convert, against the rest. `gone_without` are those of the rest
            that had converted, or left for good, before the last landmark; `late_with` are those that did it after it.
        followed: For each micro: `units` whose follow-up is over, those that `could` do it (did what its rate is over),
            those of them that `did`, and those that `converted`, within exposure and horizon.
        errors: For each micro, the standard error of its adjusted lift.
        confidence: Level of the intervals.
        value_per_conversion: Mean value of the macro-conversions that are followed; NaN without values.
        entries_per_day: How many units enter a day.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("micro", "Micro-conversion", "text"),
        ("adjusted_lift", "Adjusted lift", "points"),
        ("verdict", "Verdict", "text"),
        ("q_value", "q", "p_value"),
        ("lift", "Raw lift", "points"),
        ("units_with", "Did it", "count"),
        ("rate_with", "Rate with", "percent"),
        ("units_without", "Did not", "count"),
        ("rate_without", "Rate without", "percent"),
        ("e_value", "E-value", "number"),
        ("note", "Note", "text"),
    )

    macro: str
    entry: str | None
    exposure: tuple[str, ...]
    horizon: str
    adjust: tuple[str, ...]
    target: Target
    model: Model
    conversions_used: float
    pending: int
    matrix: pd.DataFrame
    groups: pd.DataFrame
    models: pd.DataFrame
    naive: pd.DataFrame
    followed: pd.DataFrame
    errors: pd.Series
    confidence: float
    value_per_conversion: float
    entries_per_day: float
    _units: tuple[Followed, Design] = dataclasses.field(repr=False)

    def _repr_html_(self) -> str:
        # With several landmarks a unit may stand on both sides, so the two rates do not differ by the lift.
        hidden = ("rate_with", "rate_without") if len(self.exposure) > 1 else ()
        shown = self._show(self.named, [column for column in self.SHOWN if column[0] not in hidden])
        return show_table(shown.table, shown.columns)

    def _show(self, table: pd.DataFrame, columns: Sequence[tuple[str, str, Kind]]) -> Shown:
        """Show a table; a value has no percentages."""
        kinds: dict[Kind, Kind] = {"points": "number", "percent": "number"} if self.target == "value" else {}
        return Shown(table, tuple((name, heading, kinds.get(kind, kind)) for name, heading, kind in columns))

    @property
    def differing(self) -> Shown:
        """Show the three micros whose groups disagree most, in the column where they are furthest apart."""
        rows = self.groups[self.groups["differs"].astype(bool)]
        lifts = rows.groupby(["micro", "column"])["lift"]
        apart = (lifts.max() - lifts.min()).sort_values(ascending=False, kind="stable").reset_index()
        chosen = apart.drop_duplicates("micro").head(3)[["micro", "column"]].rename_axis("place").reset_index()
        shown = chosen.merge(rows, on=["micro", "column"]).sort_values(["place", "lift"], ascending=[True, False])
        columns: tuple[tuple[str, str, Kind], ...] = (
            ("micro", "Micro-conversion", "text"),
            ("column", "Column", "text"),
            ("value", "Value", "text"),
            ("lift", "Lift there", "points"),
            ("units_with", "Did it", "count"),
            ("units_without", "Did not", "count"),
        )
        return self._show(shown.replace({"micro": self.names}), columns)

    @functools.cached_property
    def sequences(self) -> pd.DataFrame:
        """Give ordered pairs and triples of micros, with their lift over their parts; see `find_sequences`."""
        micros = [str(micro) for micro in self.followed["micro"]]
        found = find_sequences(*self._units, micros, confidence=self.confidence)
        return found.head(0) if self.fewest else found

    @property
    def orders(self) -> Shown:
        """Show the ten sequences that most units did, of those that enough did in another order too."""
        rows = self.sequences[self.sequences["lift_of_order"].notna()].nlargest(10, "units")
        named = rows[["first", "second", "third"]].replace(self.names)
        path = named.apply(lambda row: " → ".join(filter(None, row)), axis=1) if len(rows) else pd.Series(dtype="str")
        columns: tuple[tuple[str, str, Kind], ...] = (
            ("path", "Sequence", "text"),
            ("units", "Did it", "count"),
            ("rate", "Then converted", "percent"),
            ("lift_over_parts", "Over some of its parts", "points"),
            ("q_value", "q", "p_value"),
            ("lift_of_order", "Over another order", "points"),
            ("units_other_order", "In another order", "count"),
        )
        return Shown(rows.assign(path=path), columns)

    @property
    def gap(self) -> Shown:
        """Show the lift that most products would report beside the lift at the landmark; of conversions only."""
        ends = ("", "_ci_lower", "_ci_upper")
        lifts = self.table[["micro", *(f"{name}{end}" for name in ("lift", "adjusted_lift") for end in ends)]]
        rows = self.naive.rename(columns={"lift": "naive_lift"}).merge(lifts, on="micro")
        columns: tuple[tuple[str, str, Kind], ...] = (
            ("micro", "Micro-conversion", "text"),
            ("naive_lift", "Ever did it, against the rest", "points"),
            ("lift", "At the landmark", "points"),
            ("adjusted_lift", "Adjusted", "points"),
            ("units_without", "The rest", "count"),
            ("gone_without", "Of these, converted or gone by the landmark", "count"),
            ("units_with", "Did it", "count"),
            ("late_with", "Of these, after the landmark", "count"),
        )
        return Shown((rows.iloc[:0] if self.target == "value" else rows).replace({"micro": self.names}), columns)

    @property
    def gap_explained(self) -> Takeaways:
        """Say why the two differ, for the micro where they are furthest apart."""
        naive = self.naive.head(0) if self.target == "value" else self.naive
        return takeaways.word_gap(naive, self.table, macro=self.names[self.macro], names=self.names)

    @property
    def opinions(self) -> Shown:
        """Show the lift within strata beside that of one model of all micros."""
        columns: tuple[tuple[str, str, Kind], ...] = (
            ("micro", "Micro-conversion", "text"),
            ("strata_lift", "Each alone", "points"),
            ("strata_verdict", "Verdict", "text"),
            ("regression_lift", "All together", "points"),
            ("regression_verdict", "Verdict together", "text"),
        )
        return self._show(self.models.replace({"micro": self.names}), columns)

    @property
    def second_opinion(self) -> Takeaways:
        """Say for which micros one model of all gives another verdict, or far less, than each alone."""
        return takeaways.word_models(self.models, self.names, in_value=self.target == "value")

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the raw and the adjusted lift of each micro with their intervals."""
        worth = self.target == "value"
        return plots.draw_lifts(self.named, macro=self.names[self.macro], segment=self.segment, worth=worth, ax=ax)

    def plot_matrix(self, ax: "Axes | None" = None) -> "Axes":
        """Draw which micros come together, as phi."""
        matrix = self.matrix.rename(index=self.names, columns=self.names)
        return plots.draw_matrix(matrix, segment=self.segment, ax=ax)

    def plot_groups(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the lifts of the three micros whose groups disagree most."""
        comparable = (self.groups.groupby(["micro", "column"]).size() > 1).any()
        alike = "alike in all groups, as far as can be told"
        none = alike if comparable else "no column has two groups with enough units"
        worth = self.target == "value"
        return plots.draw_groups(self.differing.table, none=none, segment=self.segment, worth=worth, ax=ax)


def correlate(
    log: EventLog,
    plan: Plan,
    *,
    macro: str,
    exposure: str | Sequence[str] = "auto",
    horizon: str = "",
    entry: str | None = None,
    adjust: str | Sequence[str] = (),
    unit: Unit = "user",
    target: Target = "conversion",
    model: Model = "strata",
    properties: str | Sequence[str] = (),
    confidence: float = stats.CONFIDENCE,
) -> Correlation:
    """Say which micro-conversions are associated with the macro-conversion, and by how much.

    Each unit's clock starts at its entry. *Exposure*: the micro happened before the landmark. *At risk*: units that
    by the landmark have neither converted nor left for good. *Outcome*: the macro within `horizon` after the
    landmark. So those who convert fast are not watched for a shorter time than the others (landmarking: van
    Houwelingen 2007). Several landmarks stack: a unit has a row at each until it converts.

    Args:
        log: The log, seen through a segment and a period of entries.
        plan: The plan whose micros are scored.
        macro: Id of the macro-conversion.
        exposure: Landmarks after entry, such as `1D` or `["1h", "1D"]`; `auto` takes the plan's, else the times by
            which 10, 25, 50 and 75% of the whole log's converters have converted.
        horizon: How long after the landmark the macro counts; empty takes the plan's, else 14 days.
        entry: Conversion or event that starts the clock; None takes the plan's, else the first event in the period.
        adjust: Columns of the entry event to adjust for, beside activity.
        unit: What is counted.
        target: `conversion` compares how many convert; `value` what they spend: lifts and rates are then in value per
            unit, and there are no odds ratios.
        model: `strata` adjusts each micro by itself; `regression` takes adjusted lifts from one model of all micros
            (a second opinion, in which micros that come together share the credit; see `joint.fit_joint`).
        properties: Columns whose values make candidates of their own beside each micro (`apply_promo: plan_type=pro`),
            with at least 30 units each and at most the 20 most frequent.
        confidence: Level of the intervals.

    Returns:
        One row a micro. `lift` is the difference of conversion probabilities: raw with Newcombe's interval for one
        landmark, Mantel-Haenszel over several. `adjusted_lift` is the Mantel-Haenszel difference over strata of
        `adjust` and of activity up to the landmark; `p_value` tests it and `q_value` controls false discoveries over
        the micros (Benjamini and Hochberg 1995). `homogeneity_p_value` tests equal association over the values of
        each `adjust` column (Breslow-Day; over several landmarks Wald), times the number of columns. Intervals of
        lifts over strata are Newcombe's too, for samples that say as much as the strata do (`strata.find_sides`).
        `e_value` is
        VanderWeele and Ding's (2017) for the adjusted risk ratio.

    Raises:
        ParamError: An unknown macro, entry, column, target or model, or a duration that can't be read.
        EventDataError: In the whole log the macro never happens, or no unit's follow-up is over.
    """
    goal = _check_arguments(
        log,
        plan,
        macro,
        (*list_columns(adjust), *list_columns(properties)),
        confidence,
        {"target": (target, get_args(Target)), "model": (model, get_args(Model))},
    )
    adjust = list_columns(adjust)
    if properties and model == "regression":
        msg = "`properties` are parts of a micro, which one model of all can't tell from it. Leave one of the two out."
        raise ParamError(msg)
    clock = goal.correlation or Clock()
    entry, horizon = entry or clock.entry, horizon or clock.horizon or DEFAULT_HORIZON
    landmarks = find_landmarks(log, goal, exposure=exposure, entry=entry, unit=unit)
    design = read_design(landmarks, horizon)
    candidates = [Step(micro.id) for micro in goal.micros]
    candidates += _find_properties(log, goal, list_columns(properties), unit)
    # What a rate is over may be a conversion of another macro: followed too, and not scored.
    known = {goal.id, *(micro.id for micro in goal.micros)}
    others = sorted({micro.metric.over_id for micro in goal.micros if micro.metric.over_id} - known)
    steps = [*candidates, *map(Step, others)]
    entries, everything = follow(log, goal, design, entry=entry, unit=unit, columns=adjust, candidates=steps)
    followed = everything.drop_micros(len(candidates))
    mature = followed.is_mature(design, design.landmarks[0])
    if not mature.any():  # a segment alone may be empty or pending; a whole period that is so is a mistake
        check_followed(log, design, entry=entry, unit=unit)
    if log.segment_name == "all" and not (followed.macro < NEVER).any():
        _check_macro(log, goal)
    titles = {c.id: c.name for c in (goal, *goal.micros)}
    micros = [_write_candidate(each) for each in candidates]
    named = [_write_candidate(each, titles[each.name]) for each in candidates]
    judge = functools.partial(
        judge_micros,
        followed,
        design,
        entries[adjust],
        micros,
        titles=named,
        over=_find_over(goal, candidates),
        target=target,
        confidence=confidence,
    )
    numbers, groups, risk = judge(model=model)
    stages = {micro.id: micro.stage for micro in goal.micros}
    table = numbers.assign(micro=micros, stage=[stages[each.name] for each in candidates])
    table = table.astype({"micro": "str", "stage": "str"})[list(COLUMNS)]
    models = _compare_models(judge()[0] if model == "regression" else table.iloc[:0], table)
    table = table.sort_values("adjusted_lift", ascending=False, kind="stable", ignore_index=True)
    converters = mature & (followed.macro < NEVER)
    used = len(np.unique(risk.unit[risk.converted]))
    spent = followed.spent.sum(axis=0)
    names = titles | dict(zip(micros, named, strict=True))
    naive, pending = _count_naively(followed, design, micros), int((~mature).sum())
    matrix = pd.DataFrame(
        strata.correlate_columns(risk.exposed, risk.landmark, len(landmarks)),
        index=pd.Index(micros, name="micro"),
        columns=micros,
    )
    counts = _follow(goal, everything, [goal.id, *map(_write_candidate, steps)], design)
    if log.fewest:
        sets = (risk.exposed, risk.exposed & risk.converted[:, None])
        gaps = pd.DataFrame(np.column_stack([measure_gaps(each) for each in sets]), index=micros)
        shown = _list_shown(table, counts, gaps, log.fewest)
        table, models, counts = (each[each["micro"].isin(shown)] for each in (table, models, counts))
        table, models, counts = (each.reset_index(drop=True) for each in (table, models, counts))
        at_risk = table.set_index("micro")["units_with"].astype(float)
        naive = _keep_naive(naive[naive["micro"].isin(shown)].reset_index(drop=True), at_risk, log.fewest)
        # Notes tell counts.
        table = table.assign(note=table["note"].where(~table["note"].str.contains(r"\d"), ""))
        # Phi and the sides of both micros give away how many did both.
        groups, matrix = groups.head(0), matrix.iloc[:0, :0]
        pending = 0 if find_small(pending, fewest=log.fewest) else pending
    missed = find_unfollowed(followed, design) if len(landmarks) > 1 and mature.any() else []
    missed += _find_empty(entries[adjust])
    missed += _find_missed(followed, design, used, macro=goal.name, landmark=landmarks[0], horizon=horizon)
    said = takeaways.word_nothing_left(log.fewest, what="The associations", segment=log.segment_name)
    return Correlation(
        table=table,
        takeaways=takeaways.word_correlation(
            table,
            macro=goal.name,
            names=names,
            segment=log.segment_name,
            exposure=landmarks,
            horizon=horizon,
            units=len(entries),
            pending=pending,
            groups=groups,
            worth=(goal.currency or "in value") if target == "value" else "",
        )
        + ([] if log.fewest else missed)
        if len(table) or not log.fewest
        else Takeaways((said,)),
        segment=log.segment_name,
        names=names,
        macro=goal.id,
        entry=entry,
        exposure=landmarks,
        horizon=horizon,
        adjust=tuple(adjust),
        target=target,
        model=model,
        conversions_used=float(stats.divide(used, converters.sum())),
        pending=pending,
        matrix=matrix,
        groups=groups,
        models=models,
        naive=naive,
        followed=counts,
        errors=pd.Series(numbers["adjusted_error"].to_numpy(), index=micros),
        confidence=confidence,
        value_per_conversion=float(stats.divide(*spent)),
        entries_per_day=len(entries) / _count_days(log),
        _units=(followed, design),
        fewest=log.fewest,
    )


def _list_shown(table: pd.DataFrame, counts: pd.DataFrame, gaps: pd.DataFrame, fewest: int) -> "pd.Series[str]":
    """List the micros of which no side is small: who did it or not, and converted or not; values are parts of one.

    Nor do few more have done another that all of them did.
    """
    sides = table[["units_with", "units_without", "converted_with", "converted_without"]].astype(float)
    rest = [sides[f"units_{side}"] - sides[f"converted_{side}"] for side in ("with", "without")]
    hidden = find_hidden(
        np.column_stack([sides, *rest, gaps.loc[table["micro"]]]),
        fewest=fewest,
        families=[table["micro"].str.split(": ").str[0]],
    )
    could, did, converted = (counts[name].astype(float) for name in ("could", "did", "converted"))
    small = [could, did, could - did, converted, could - converted, counts["units"] - could]
    few = counts["micro"][np.any(find_small(np.column_stack(small), fewest=fewest), axis=1)]
    shown: pd.Series[str] = table.loc[~hidden & ~table["micro"].str.split(": ").str[0].isin(few), "micro"]
    return shown


def _keep_naive(naive: pd.DataFrame, at_risk: "pd.Series[float]", fewest: int) -> pd.DataFrame:
    """Keep the micros whose counts without a landmark are not small either."""
    units = [naive[f"units_{side}"] - naive[f"converted_{side}"] for side in ("with", "without")]
    early = naive["units_with"] - naive["late_with"]
    # Who did it early and is not at risk at the landmark had converted or gone by then.
    parts = [naive["units_without"] - naive["gone_without"], early, early - naive["micro"].map(at_risk)]
    names = ["units_with", "units_without", "converted_with", "converted_without", "gone_without", "late_with"]
    small = find_small(np.column_stack([naive[names], *units, *parts]), fewest=fewest).any(axis=1)
    return naive.loc[np.flatnonzero(~small)].reset_index(drop=True)


def _check_arguments(
    log: EventLog,
    plan: Plan,
    macro: str,
    columns: Sequence[str],
    confidence: float,
    choices: dict[str, tuple[str, tuple[str, ...]]],
) -> Macro:
    """Find the macro, and refuse what is wrong, all at once."""
    check_log(log)
    log.check_plan(plan)
    problems = list_problems(
        lambda: plan.find_macro(macro),
        lambda: log.check_breakdown(columns),
        lambda: stats.check_confidence(confidence),
    )
    for name, (value, known) in choices.items():
        problems += find_wrong_choice(name, value, known)
    if problems:
        raise ParamError(*problems)
    return plan.find_macro(macro)


def _check_macro(log: EventLog, goal: Macro) -> None:
    """Refuse a macro that never happens; one that happens before every entry of the period only is no mistake."""
    if not log.stream(goal.id).limit(1).fetchall():
        filtered = bool(log.whole().stream(goal.id).limit(1).fetchall())
        where = "among the rows that the filters keep" if filtered else "in the log"
        hint = "They hide it" if filtered else f"Check its match rule, {goal.match}"
        msg = f"The macro `{goal.id}` never happens {where}. {hint}."
        raise EventDataError(msg)


def _find_properties(log: EventLog, goal: Macro, columns: Sequence[str], unit: Unit) -> list[Step]:
    """List the values of properties that enough units of the whole log have in a micro's events."""
    found: list[Step] = []
    for micro in goal.micros if columns else ():
        rows = log.everyone().fetch(micro.id, unit=unit, columns=columns)
        for column in columns:
            units = rows[rows[column] != NO_VALUE].groupby(column)["unit"].nunique()
            chosen = units[units >= FEWEST_UNITS].sort_values(ascending=False, kind="stable").head(MOST_VALUES)
            found += [Step(micro.id, {column: value}) for value in chosen.index]
    return found


def _find_over(goal: Macro, candidates: Sequence[Step]) -> list[int | None]:
    """Find which micro each candidate's rate is over."""
    places = {micro.id: number for number, micro in enumerate(goal.micros)}
    overs = {micro.id: places.get(micro.metric.over_id or "") for micro in goal.micros}
    return [overs[each.name] for each in candidates]


def _write_candidate(step: Step, name: str = "") -> str:
    """Name a candidate: a micro, or a micro with a property's value."""
    properties = ", ".join(f"{column}={value}" for column, value in step.where.items())
    return f"{name or step.name}: {properties}" if properties else name or step.name


def _count_days(log: EventLog) -> int:
    """Count the days of the period in which the log has data."""
    first, after = log.bounds
    last = log.last.date() + dt.timedelta(days=1)
    return (min(after, last) - max(first, log.first.date())).days


def _compare_models(alone: pd.DataFrame, together: pd.DataFrame) -> pd.DataFrame:
    """Set each micro alone beside all together, whose rows are in the same order."""
    parts: dict[str, pd.Series] = {"micro": together["micro"]}
    for name, each in (("strata", alone), ("regression", together)):
        parts[f"{name}_verdict"] = each["verdict"]
        parts |= {f"{name}_lift{end}": each[f"adjusted_lift{end}"] for end in ("", "_ci_lower", "_ci_upper")}
    frame = pd.DataFrame(parts).loc[alone.index]
    return frame.assign(agree=frame["strata_verdict"] == frame["regression_verdict"])[list(MODEL_COLUMNS)]


def find_unfollowed(followed: Followed, design: Design) -> list[str]:
    """Say how many units are pending at the last landmark, where they are many."""
    pending, units = int((~followed.is_mature(design, design.landmarks[-1])).sum()), len(followed.start)
    return [takeaways.word_unfollowed(pending, units)] if pending > MUCH * units else []


def _find_missed(
    followed: Followed, design: Design, used: int, *, macro: str, landmark: str, horizon: str
) -> list[str]:
    """Say how many convert before the first landmark or after the horizon, where they are many."""
    landmarks = np.asarray(design.landmarks)
    converters = followed.is_mature(design, design.landmarks[0]) & (followed.macro < NEVER)
    early = int((converters & (followed.macro < landmarks[0])).sum())
    times = followed.macro[converters & (np.minimum(followed.macro, followed.losses) >= landmarks[0])]
    late, said = len(times) - used, []
    # `auto` itself leaves out its first share.
    if early >= FEWEST_CONVERTED and early > 2 * AUTO_LANDMARKS[0] * converters.sum():
        said.append(takeaways.word_early(early, int(converters.sum()), macro=macro, landmark=landmark))
    if late >= FEWEST_CONVERTED and late > MUCH * len(times):
        since = times - landmarks[np.searchsorted(landmarks, times, side="right") - 1]
        enough = _round_up(int(np.quantile(since, ENOUGH, method="higher")))
        said.append(
            takeaways.word_late(late, len(times), macro=macro, landmark=landmark, horizon=horizon, enough=enough)
        )
    return said


def _round_up(length: int) -> str:
    """Write a horizon that holds what happens so long after a landmark, in whole days, hours, minutes or seconds."""
    steps = [MICROSECONDS[unit] for unit in ("s", "min", "h", "D") if MICROSECONDS[unit] <= length]
    step = max(steps, default=MICROSECONDS["s"])
    return write_duration((length // step + 1) * step)


def _find_empty(columns: pd.DataFrame) -> list[str]:
    """Say which columns adjust for nothing, as hardly any unit has a value at entry."""
    empty = (columns == NO_VALUE).sum()
    return [
        takeaways.word_empty(str(name), int(count), len(columns))
        for name, count in empty.items()
        if count > MOSTLY_EMPTY * len(columns)
    ]


def _count_naively(followed: Followed, design: Design, micros: list[str]) -> pd.DataFrame:
    """Count as most products do: whoever did it before converting, or ever, against the rest."""
    mature = followed.is_mature(design, design.landmarks[-1])
    macro, losses, times = (each[mature] for each in (followed.macro, followed.losses, followed.micros))
    converted = macro < design.follow_up
    did = times <= np.minimum(macro, design.follow_up - 1)[:, None]
    gone = np.minimum(macro, losses) < design.landmarks[-1]
    late = did & (times >= design.landmarks[-1])
    counted = (did, ~did, did & converted[:, None], ~did & converted[:, None], ~did & gone[:, None], late)
    sides = [hits.sum(axis=0) for hits in counted]
    rates = [stats.divide(sides[2], sides[0]), stats.divide(sides[3], sides[1])]
    columns = [micros, *sides[:4], *rates, rates[0] - rates[1], *sides[4:]]
    return pd.DataFrame(dict(zip(NAIVE_COLUMNS, columns, strict=True)))


def _follow(goal: Macro, followed: Followed, names: Sequence[str], design: Design) -> pd.DataFrame:
    """Count, for each micro, the units that could do it by the plan and those that did, over the whole follow-up."""
    mature = followed.is_mature(design, design.landmarks[-1])
    times = np.column_stack([followed.macro, followed.micros])[mature] < design.follow_up
    did = dict(zip(names, times.T, strict=True))
    rows = []
    for micro in goal.micros:
        could = did[micro.metric.over_id] if micro.metric.over_id else np.ones(len(times), bool)
        counts = {"could": could, "did": could & did[micro.id], "converted": could & did[goal.id]}
        rows.append(
            {"micro": micro.id, "units": len(times), **{name: int(each.sum()) for name, each in counts.items()}}
        )
    return pd.DataFrame(rows, columns=["micro", "units", "could", "did", "converted"])
