"""Which micro-conversions go with the macro-conversion, by how much, and how sure that is: a landmark design."""

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsmodels.stats.contingency_tables import StratifiedTable

from convlib import plots, stats, takeaways
from convlib.conversions import Conversions, Ints, Step, gather
from convlib.documents import did_you_mean, quote_names
from convlib.durations import parse_duration, write_duration
from convlib.errors import EventDataError, ParamError
from convlib.events import EventLog, Unit, list_columns
from convlib.plan import Plan
from convlib.plan_entries import Clock, Macro
from convlib.results import Kind, Result, show_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "micro",
    "stage",
    "units_with",
    "units_without",
    "converted_with",
    "converted_without",
    "rate_with",
    "rate_without",
    "lift",
    "lift_ci_lower",
    "lift_ci_upper",
    "relative_lift",
    "odds_ratio",
    "odds_ratio_ci_lower",
    "odds_ratio_ci_upper",
    "phi",
    "adjusted_lift",
    "adjusted_lift_ci_lower",
    "adjusted_lift_ci_upper",
    "p_value",
    "q_value",
    "homogeneity_p_value",
    "e_value",
    "verdict",
    "note",
)
#: Fewer units or conversions than this on a side is too few for a verdict.
FEWEST_UNITS, FEWEST_CONVERTED = 30, 5
#: `exposure="auto"` sets landmarks where these shares of the whole log's converters have converted.
AUTO_LANDMARKS = (0.10, 0.25, 0.50, 0.75)
DEFAULT_HORIZON = "14D"
#: Activity is banded by its exact count up to this many bands, then by quantiles.
MOST_BANDS = 50
NEVER = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class Correlation(Result):
    """The association of each micro with the macro among units still at risk at the landmark.

    Attributes:
        macro: The macro-conversion.
        entry: What starts each unit's clock; None is its first event in the period.
        exposure: The landmarks: a micro counts when done before it.
        horizon: How long after a landmark the macro counts.
        adjust: Columns that `adjusted_lift` is adjusted for, beside activity.
        conversions_used: Mature converters that the design counts, over all mature converters.
        pending: Units whose outcome window is not over.
        matrix: Phi between each two micros.
        followed: For each micro: `units` whose follow-up is over, those that `could` do it (did what its rate is over),
            and those that `did`, within exposure and horizon.
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
    conversions_used: float
    pending: int
    matrix: pd.DataFrame
    followed: pd.DataFrame
    confidence: float
    value_per_conversion: float
    entries_per_day: float

    def _repr_html_(self) -> str:
        # With several landmarks a unit may stand on both sides, so the two rates do not differ by the lift.
        hidden = ("rate_with", "rate_without") if len(self.exposure) > 1 else ()
        return show_table(self.named, [column for column in self.SHOWN if column[0] not in hidden])

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the raw and the adjusted lift of each micro with their intervals."""
        return plots.draw_lifts(self.named, macro=self.names[self.macro], segment=self.segment, ax=ax)

    def plot_matrix(self, ax: "Axes | None" = None) -> "Axes":
        """Draw which micros come together, as phi."""
        matrix = self.matrix.rename(index=self.names, columns=self.names)
        return plots.draw_matrix(matrix, segment=self.segment, ax=ax)


@dataclasses.dataclass(frozen=True)
class _Design:
    """The clock of one macro, in microseconds since each unit's entry."""

    landmarks: tuple[int, ...]
    horizon: int
    start: Ints
    end: int

    @property
    def follow_up(self) -> int:
        return self.landmarks[-1] + self.horizon

    def mature(self, landmark: int) -> NDArray[np.bool_]:
        done: NDArray[np.bool_] = self.start + landmark + self.horizon <= self.end
        return done


@dataclasses.dataclass(frozen=True)
class _Risk:
    """One row for each unit at risk at each landmark, by the landmark's number."""

    unit: Ints
    landmark: Ints
    outcome: NDArray[np.bool_]
    covariates: Ints
    strata: Ints


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
    confidence: float = stats.CONFIDENCE,
) -> Correlation:
    """Say which micro-conversions are associated with the macro-conversion, and by how much.

    Each unit's clock starts at its entry. *Exposure*: the micro happened before the landmark. *At risk*: units that
    by the landmark have neither converted nor left for good. *Outcome*: the macro within `horizon` after the
    landmark. So those who convert fast are not watched for a shorter time than the others (landmarking: van
    Houwelingen 2007). Several landmarks
    stack: a unit has a row at each until it converts.

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
        confidence: Level of the intervals.

    Returns:
        One row a micro. `lift` is the difference of conversion probabilities: raw with Newcombe's interval for one
        landmark, Mantel-Haenszel over several. `adjusted_lift` is the Mantel-Haenszel difference over strata of
        `adjust` and of activity up to the landmark; `p_value` tests it and `q_value` controls false discoveries over
        the micros (Benjamini and Hochberg 1995). `homogeneity_p_value` tests equal association over the values of
        each `adjust` column (Breslow-Day; over several landmarks Wald), times the number of columns. `e_value` is
        VanderWeele and Ding's (2017) for the adjusted risk ratio.

    Raises:
        ParamError: An unknown macro, entry or column, or a duration that can't be read.
        EventDataError: In the whole log the macro never happens, or no unit's follow-up is over.
    """
    stats.check_confidence(confidence)
    log.check_plan(plan)
    goal, adjust = _find_macro(plan, macro), list_columns(adjust)
    clock = goal.correlation or Clock()
    entry = entry or clock.entry
    steps = [Step(c.id) for c in (goal, *goal.micros, *goal.losses)]
    landmarks = _landmarks(log, exposure, clock, goal, entry, unit)
    horizon = horizon or clock.horizon or DEFAULT_HORIZON
    entries = log.entries(unit=unit, entry=entry, columns=adjust)
    conversions = gather(log, steps, codes=entries.index.to_numpy(np.int64), unit=unit)
    design = _Design(
        landmarks=tuple(parse_duration(text, name="exposure") for text in landmarks),
        horizon=parse_duration(horizon, name="horizon"),
        start=entries["time"].to_numpy(np.int64),
        end=conversions.end,
    )
    firsts = _first_times(conversions, design.start, len(steps))
    losses = firsts[:, 1 + len(goal.micros) :].min(axis=1, initial=NEVER)
    mature = design.mature(design.landmarks[0])
    if not mature.any():
        # A segment alone may be empty or pending; a whole period that is so is a mistake.
        everyone = log.everyone().entries(unit=unit, entry=entry)["time"].to_numpy(np.int64)
        _check_data(log, dataclasses.replace(design, start=everyone), landmarks, horizon)
    if log.segment_name == "all" and not (conversions.step == 0).any():
        msg = f"The macro `{goal.id}` never happens in the log. Check its match rule, {goal.match}."
        raise EventDataError(msg)
    risk = _at_risk(log, design, firsts[:, 0], losses, entries[adjust], unit)
    exposed = firsts[risk.unit, 1 : 1 + len(goal.micros)] < np.asarray(design.landmarks)[risk.landmark, None]
    converters = firsts[mature & (firsts[:, 0] < design.follow_up)]
    table = _score_all(goal, exposed, risk, converters, confidence)
    since = conversions.time - design.start[conversions.unit]
    values = conversions.value[(conversions.step == 0) & (since >= 0) & (since < design.follow_up)]
    names = {c.id: c.name for c in (goal, *goal.micros)}
    pending = int((~mature).sum())
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
        ),
        segment=log.segment_name,
        names=names,
        macro=goal.id,
        entry=entry,
        exposure=landmarks,
        horizon=horizon,
        adjust=tuple(adjust),
        conversions_used=float(stats.divide(len(np.unique(risk.unit[risk.outcome])), len(converters))),
        pending=pending,
        matrix=_correlate_micros(exposed, risk.landmark, [m.id for m in goal.micros]),
        followed=_follow(goal, firsts[design.mature(design.landmarks[-1])] < design.follow_up),
        value_per_conversion=float(np.nanmean(values)) if np.isfinite(values).any() else np.nan,
        confidence=confidence,
        entries_per_day=len(entries) / _count_days(log),
    )


def _find_macro(plan: Plan, macro: str) -> Macro:
    goals = {goal.id: goal for goal in plan.macros}
    if macro not in goals:
        msg = f"`macro` is {macro!r}; the plan's macros are {quote_names(goals)}.{did_you_mean(macro, goals)}"
        raise ParamError(msg)
    return goals[macro]


def _count_days(log: EventLog) -> int:
    """Count the days of the period in which the log has data."""
    first, after = log.bounds
    last = log.last.date() + dt.timedelta(days=1)
    return (min(after, last) - max(first, log.first.date())).days


def _landmarks(
    log: EventLog, exposure: str | Sequence[str], clock: Clock, goal: Macro, entry: str | None, unit: Unit
) -> tuple[str, ...]:
    """Take the given landmarks, else the plan's, else one set for all segments from the whole log's converters."""
    if exposure and exposure != "auto":
        return _sort_durations(list_columns(exposure))
    if clock.exposure:
        return clock.exposure
    whole = log.whole()
    entries = whole.entries(unit=unit, entry=entry)
    conversions = gather(whole, [Step(goal.id)], codes=entries.index.to_numpy(np.int64), unit=unit)
    times = _first_times(conversions, entries["time"].to_numpy(np.int64), 1)[:, 0]
    times = times[(times > 0) & (times < NEVER)]
    if not times.size:
        msg = (
            f"`exposure` can't be chosen: no unit has `{goal.id}` after its entry. Give landmarks such as ['1D', '7D']."
        )
        raise EventDataError(msg)
    points = np.quantile(times, AUTO_LANDMARKS, method="higher")
    return _sort_durations([write_duration(int(point)) for point in points])


def _sort_durations(texts: Sequence[str]) -> tuple[str, ...]:
    """Put landmarks in order, each length once however it is written."""
    lengths = {parse_duration(text, name="exposure"): text for text in reversed(texts)}
    return tuple(lengths[length] for length in sorted(lengths))


def _first_times(conversions: Conversions, start: Ints, steps: int) -> Ints:
    """Give the time from each unit's entry to its first conversion of each kind (units x steps), else NEVER."""
    firsts = np.full((len(start), steps), NEVER)
    since = conversions.time - start[conversions.unit]
    after = since >= 0
    np.minimum.at(firsts, (conversions.unit[after], conversions.step[after]), since[after])
    return firsts


def _check_data(log: EventLog, design: _Design, landmarks: tuple[str, ...], horizon: str) -> None:
    """Refuse a period in which nobody can be followed up."""
    if design.mature(design.landmarks[0]).any():
        return
    count, (first, last) = len(design.start), log.period
    if not count:
        msg = f"No unit enters from {first} to {last}. Widen the period."
        raise EventDataError(msg)
    msg = (
        f"None of the {count:,} units that enter from {first} to {last} has {landmarks[0]} + {horizon} of follow-up "
        f"before the end of the data, {log.last:%Y-%m-%d}. Choose earlier entries or a shorter horizon."
    )
    raise EventDataError(msg)


def _at_risk(log: EventLog, design: _Design, macro: Ints, losses: Ints, covariates: pd.DataFrame, unit: Unit) -> _Risk:
    codes = np.column_stack(
        [pd.factorize(covariates[c])[0] for c in covariates] or [np.empty((len(covariates), 0), int)]
    )
    groups = stats.number_groups(covariates)
    active = log.read(log.rows("activity"), unit=unit)
    position = np.searchsorted(covariates.index, active["unit"])
    known = position < len(covariates)
    known[known] = covariates.index.to_numpy()[position[known]] == active["unit"].to_numpy()[known]
    unit_of, since = position[known], active["time"].to_numpy()[known] - design.start[position[known]]
    parts = []
    for number, landmark in enumerate(design.landmarks):
        rows = np.flatnonzero(design.mature(landmark) & (macro >= landmark) & (losses >= landmark))
        before = (since >= 0) & (since < landmark)
        activity = np.bincount(unit_of[before], minlength=len(macro))[rows]
        parts.append(
            pd.DataFrame(
                {
                    "unit": rows,
                    "landmark": number,
                    "outcome": macro[rows] < landmark + design.horizon,
                    "group": groups[rows],
                    "band": _band(activity),
                }
            )
        )
    risk = pd.concat(parts, ignore_index=True)
    strata = stats.number_groups(risk[["landmark", "group", "band"]])
    unit_rows, landmarks, outcome = (risk[name].to_numpy() for name in ("unit", "landmark", "outcome"))
    return _Risk(unit_rows, landmarks, outcome, codes[unit_rows], strata)


def _band(activity: Ints) -> Ints:
    """Band activity as finely as the data carry: by its exact count, or by quantiles when there are too many counts."""
    if len(np.unique(activity)) <= MOST_BANDS:
        return activity
    edges = np.unique(np.quantile(activity, np.linspace(0, 1, MOST_BANDS + 1)[1:-1]))
    return np.searchsorted(edges, activity, side="right")


def _score_all(
    goal: Macro,
    exposed: NDArray[np.bool_],
    risk: _Risk,
    converters: Ints,
    confidence: float,
) -> pd.DataFrame:
    """Score every micro, then control the false discoveries over those that can be judged."""
    rows = []
    for number, micro in enumerate(goal.micros):
        row = _score(exposed[:, number], risk, confidence)
        verdict, note = _judge(row, converters[:, 1 + number], converters[:, 0])
        rows.append({"micro": micro.id, "stage": micro.stage, **row, "verdict": verdict, "note": note})
    return _finish(pd.DataFrame(rows, columns=[c for c in COLUMNS if c != "q_value"]))


def _score(exposed: NDArray[np.bool_], risk: _Risk, confidence: float) -> dict[str, float]:
    """Measure one micro: the raw and the adjusted difference, the odds ratio, phi and the tests."""
    units, converted = _count_sides(risk.unit, exposed), _count_sides(risk.unit[risk.outcome], exposed[risk.outcome])
    reach = stats.normal_quantile(confidence)
    one_landmark = len(np.unique(risk.landmark)) <= 1
    lift, error = stats.mantel_haenszel_difference(exposed, risk.outcome, risk.landmark, risk.unit)
    low, high = lift - reach * error, lift + reach * error
    if one_landmark:
        low, high = stats.newcombe_interval(converted, units, confidence=confidence)
    adjusted, adjusted_error = stats.mantel_haenszel_difference(exposed, risk.outcome, risk.strata, risk.unit)
    odds, log_error = stats.mantel_haenszel_odds(exposed, risk.outcome, risk.landmark, risk.unit)
    rates = stats.divide(converted, units)
    return {
        "units_with": units[0],
        "units_without": units[1],
        "converted_with": converted[0],
        "converted_without": converted[1],
        "rate_with": rates[0],
        "rate_without": rates[1],
        "lift": lift,
        "lift_ci_lower": low,
        "lift_ci_upper": high,
        "relative_lift": stats.mantel_haenszel_ratio(exposed, risk.outcome, risk.landmark) - 1,
        "odds_ratio": odds,
        "odds_ratio_ci_lower": odds * np.exp(-reach * log_error),
        "odds_ratio_ci_upper": odds * np.exp(reach * log_error),
        "phi": stats.partial_phi(exposed, risk.outcome, risk.landmark),
        "adjusted_lift": adjusted,
        "adjusted_lift_ci_lower": adjusted - reach * adjusted_error,
        "adjusted_lift_ci_upper": adjusted + reach * adjusted_error,
        "p_value": float(stats.compare_normal(adjusted, adjusted_error)),
        "homogeneity_p_value": _test_homogeneity(exposed, risk),
        "e_value": float(stats.e_value(stats.mantel_haenszel_ratio(exposed, risk.outcome, risk.strata))),
    }


def _count_sides(units: Ints, exposed: NDArray[np.bool_]) -> tuple[int, int]:
    return len(np.unique(units[exposed])), len(np.unique(units[~exposed]))


def _test_homogeneity(exposed: NDArray[np.bool_], risk: _Risk) -> float:
    """Test equal association over the values of each covariate alone, and give the smallest p-value times their number.

    Over all combinations of several covariates the groups are too small for either test to keep its level.
    """
    found = [_test_groups(exposed, risk, column) for column in risk.covariates.T]
    known = [p for p in found if not np.isnan(p)]
    return min(1.0, min(known) * len(known)) if known else np.nan


def _test_groups(exposed: NDArray[np.bool_], risk: _Risk, groups: Ints) -> float:
    """Compare the groups with enough units and conversions on both sides (Breslow-Day; several landmarks: Wald)."""
    tables, differences = [], []
    for group in np.unique(groups):
        inside = groups == group
        x, y, unit = exposed[inside], risk.outcome[inside], risk.unit[inside]
        if min(_count_sides(unit, x)) < FEWEST_UNITS or min(_count_sides(unit[y], x[y])) < FEWEST_CONVERTED:
            continue
        tables.append(np.array([[(x & y).sum(), (x & ~y).sum()], [(~x & y).sum(), (~x & ~y).sum()]]))
        differences.append(stats.mantel_haenszel_difference(x, y, risk.strata[inside], unit))
    if len(tables) < 2:
        return np.nan
    if len(np.unique(risk.landmark)) == 1:
        return float(StratifiedTable(tables).test_equal_odds().pvalue)
    return stats.compare_effects(*np.transpose(differences))


def _judge(row: dict[str, float], micro: Ints, macro: Ints) -> tuple[str, str]:
    """Give the verdict that needs no comparison with the other micros, or none, and why."""
    before = micro <= macro
    did = micro < NEVER
    if len(macro) >= FEWEST_UNITS and before.all():
        return "precondition", f"none of {len(macro):,} converters converted without it"
    if did.any() and (~before & did).sum() > did.sum() / 2:
        return (
            "follows the macro",
            f"{(~before & did).sum():,} of {did.sum():,} converters who did it did so first after converting",
        )
    for side, word in (("with", "with it"), ("without", "without it")):
        if row[f"units_{side}"] < FEWEST_UNITS:
            return "too few", f"{row[f'units_{side}']:,} units {word}, needs {FEWEST_UNITS}"
        if row[f"converted_{side}"] < FEWEST_CONVERTED:
            return "too few", f"{row[f'converted_{side}']:,} conversions {word}, needs {FEWEST_CONVERTED}"
    if np.isnan(row["adjusted_lift"]):
        return "too few", "no stratum has units with and without it"
    return "", ""


def _finish(table: pd.DataFrame) -> pd.DataFrame:
    """Control the false discoveries over the micros that can be judged, and give their verdicts."""
    open_rows = table["verdict"] == ""
    q = stats.control_false_discoveries(table["p_value"].where(open_rows).astype(float))
    direction = np.where(table["adjusted_lift"] > 0, "positive", "negative")
    found = np.where(q < stats.SIGNIFICANCE, direction, "no evidence")
    verdicts = pd.Series(np.where(open_rows, found, table["verdict"]), index=table.index, dtype="str")
    return table.assign(q_value=q, verdict=verdicts)[list(COLUMNS)].sort_values(
        "adjusted_lift", ascending=False, kind="stable", ignore_index=True
    )


def _correlate_micros(exposed: NDArray[np.bool_], landmark: Ints, names: list[str]) -> pd.DataFrame:
    pairs = [[stats.partial_phi(left, right, landmark) for right in exposed.T] for left in exposed.T]
    return pd.DataFrame(pairs, index=pd.Index(names, name="micro"), columns=names)


def _follow(goal: Macro, did: NDArray[np.bool_]) -> pd.DataFrame:
    """Count, for each micro, the units that could do it by the plan and those that did, over the whole follow-up."""
    position = {c.id: n for n, c in enumerate((goal, *goal.micros))}
    rows = []
    for micro in goal.micros:
        over = position.get(micro.metric.over or "")
        could = did[:, over] if over is not None else np.ones(len(did), bool)
        done = int((could & did[:, position[micro.id]]).sum())
        rows.append({"micro": micro.id, "units": len(did), "could": int(could.sum()), "did": done})
    return pd.DataFrame(rows, columns=["micro", "units", "could", "did"])
