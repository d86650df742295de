"""From rows at risk to each micro's lift: raw, within strata, over groups, with the tests and the verdict."""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import StratifiedTable

from convlib import stats, strata
from convlib.joint import fit_joint
from convlib.landmarks import NEVER, Bools, Design, Floats, Followed, Ints, Risk, find_risk
from convlib.strata import Cells

Row = dict[str, Any]
#: The two sides of a comparison.
SIDES = ("units_with", "units_without", "converted_with", "converted_without", "rate_with", "rate_without")
LIFT = ("lift", "lift_ci_lower", "lift_ci_upper")
ADJUSTED = tuple(f"adjusted_{name}" for name in LIFT)
ODDS = ("relative_lift", "odds_ratio", "odds_ratio_ci_lower", "odds_ratio_ci_upper", "phi")
NUMBERS = (*SIDES, *LIFT, *ODDS, *ADJUSTED, "adjusted_error", "p_value", "homogeneity_p_value", "e_value", "compared")
GROUP_COLUMNS = ("micro", "column", "value", *SIDES[:4], *LIFT, "differs")
#: Fewer units or conversions than this on a side is too few for a verdict.
FEWEST_UNITS, FEWEST_CONVERTED = 30, 5
#: Verdicts that compare with the other micros.
JUDGED = ("positive", "negative", "no evidence")
#: Fewer rows than this are not worth a second thread.
FEW_ROWS = 100_000
#: Where fewer of the rows than this have somebody alike on the other side, a note says so.
FEW_COMPARED = 0.5


def judge_micros(
    followed: Followed,
    design: Design,
    covariates: pd.DataFrame,
    names: Sequence[str],
    *,
    titles: Sequence[str] = (),
    over: Sequence[int | None] = (),
    target: str = "conversion",
    model: str = "strata",
    confidence: float = stats.CONFIDENCE,
) -> tuple[pd.DataFrame, pd.DataFrame, Risk]:
    """Score every micro, then control the false discoveries over those that can be judged.

    Args:
        followed: What each unit did.
        design: The clock.
        covariates: Columns to adjust for, one row a unit.
        names: The micros' ids.
        titles: Their names, for notes; empty takes the ids.
        over: For each micro the number of the one that its rate is over, or None; empty for none.
        target: `conversion` or `value`.
        model: `strata`, or `regression` for adjusted lifts from one model of all micros.
        confidence: Level of the intervals.

    Returns:
        One row a micro, in order, with `NUMBERS`, `q_value`, `verdict` and `note`; one row for each micro and group
        with `GROUP_COLUMNS`; and the rows at risk.
    """
    risk = find_risk(followed, design, covariates, target=target)
    table, groups = score_micros(risk, confidence=confidence, labels=covariates)
    notes = pd.Series("", index=table.index)
    if model == "regression":
        joint = fit_joint(risk, confidence=confidence, names=titles or names)
        adjusted = {f"adjusted_lift{end}": joint[f"effect{end}"] for end in ("", "_ci_lower", "_ci_upper")}
        error = (joint["effect_ci_upper"] - joint["effect"]) / stats.normal_quantile(confidence)
        # The E-value is for the ratio of risks over strata, which is not this model's.
        table = table.assign(**adjusted, adjusted_error=error, p_value=joint["p_value"], compared=1.0, e_value=np.nan)
        notes = joint["note"]
    mature = followed.is_mature(design, design.landmarks[0])
    converters = mature & (followed.macro < design.follow_up)
    earlier = np.zeros(followed.micros.shape, bool) if followed.earlier is None else followed.earlier
    times, macro = np.where(earlier, -1, followed.micros)[converters], followed.macro[converters]
    judged = [
        _judge(row, note, times[:, number], macro)
        for number, (row, note) in enumerate(zip(_list_rows(table), notes, strict=True))
    ]
    table = table.assign(**pd.DataFrame(judged, columns=["verdict", "note"], index=table.index, dtype="str"))
    for number, other in enumerate(over):
        if other is not None and not table["note"].iloc[number]:
            unable = len(np.unique(risk.unit[~risk.exposed[:, number] & ~risk.exposed[:, other]]))
            table.loc[number, "note"] = (
                f"{unable:,} of those without it had not done {(titles or names)[other]} either, so could not"
            )
    table = _finish(table)
    return table, _find_differing(groups, table, names), risk


def score_micros(
    risk: Risk, *, confidence: float = stats.CONFIDENCE, labels: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure every micro: raw and adjusted differences, ratio, odds ratio, phi, the tests, and its lift by group.

    Args:
        risk: The rows at risk.
        confidence: Level of the intervals.
        labels: The adjusted columns as they are, one row a unit; None names groups by number.

    Returns:
        One row a micro, in order, with `NUMBERS`; one row for each micro (by number) and group that has enough units.
    """
    layout = _Layout.of(risk)
    score = functools.partial(_score, risk, layout, confidence)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() if len(risk.unit) > FEW_ROWS else 1) as pool:
        found = [*pool.map(score, range(risk.exposed.shape[1]))]
    groups = [row for _, rows in found for row in rows]
    values = {name: list(pd.factorize(labels[name])[1]) for name in labels} if labels is not None else {}
    for row in groups if values else ():
        row["value"] = values[row["column"]][row["value"]]
    return pd.DataFrame([row for row, _ in found], columns=list(NUMBERS)), pd.DataFrame(groups)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How the strata lie in landmarks and groups."""

    count: int
    landmarks: int
    landmark: Ints
    groups: dict[str, tuple[Ints, int]]
    binary: bool

    @classmethod
    def of(cls, risk: Risk) -> "_Layout":
        count = int(risk.strata.max(initial=-1)) + 1

        def lift(values: Ints) -> Ints:
            of_stratum = np.zeros(count, np.int64)
            of_stratum[risk.strata] = values
            return of_stratum

        codes = {str(name): risk.covariates[name].to_numpy(np.int64) for name in risk.covariates}
        return cls(
            count=count,
            landmarks=int(risk.landmark.max(initial=-1)) + 1,
            landmark=lift(risk.landmark),
            groups={name: (lift(each), int(each.max(initial=-1)) + 1) for name, each in codes.items()},
            binary=risk.spending is None,
        )


def _score(risk: Risk, layout: _Layout, confidence: float, number: int) -> tuple[Row, list[Row]]:
    exposed = np.ascontiguousarray(risk.exposed[:, number])
    fine = strata.tabulate(exposed, risk.outcome, risk.strata, layout.count)
    whole = fine.merge(layout.landmark, layout.landmarks)
    sides = strata.count_sides(exposed, risk.converted, risk.unit, np.zeros_like(risk.unit), 1)[:, 0]
    raw, adjusted = (
        [float(each[0]) for each in strata.compare(cells, exposed, risk.outcome, stratum, risk.samples)]
        for cells, stratum in ((whole, risk.landmark), (fine, risk.strata))
    )
    reach = stats.normal_quantile(confidence)
    (low, high), (adjusted_low, adjusted_high) = ((d - reach * e, d + reach * e) for d, e in (raw, adjusted))
    if layout.binary:  # close to 0 or 1 a difference of rates lies off the middle of its interval
        own = (float(sides[2]), float(sides[3])), (float(sides[0]), float(sides[1]))
        alone = layout.landmarks == 1 and risk.cluster is None
        samples = own if alone else strata.find_sides(whole, raw[1])
        low, high = stats.newcombe_interval(*samples, confidence=confidence)
        samples = strata.find_sides(fine, adjusted[1])
        adjusted_low, adjusted_high = stats.newcombe_interval(*samples, confidence=confidence)
    odds, log_error, e_value = np.nan, np.nan, np.nan
    if layout.binary:
        odds, log_error = strata.find_odds_ratio(whole, exposed, risk.outcome, risk.landmark, risk.samples)
        e_value = float(stats.e_value(strata.find_ratio(fine)))
    groups = [each for name in layout.groups for each in _compare_groups(risk, layout, fine, exposed, name)]
    rates = stats.divide(sides[2:], sides[:2]) if layout.binary else _mean_outcomes(whole)
    return {
        **dict(zip(NUMBERS[:4], sides.tolist(), strict=True)),
        "rate_with": rates[0],
        "rate_without": rates[1],
        "lift": raw[0],
        "lift_ci_lower": low,
        "lift_ci_upper": high,
        "relative_lift": strata.find_ratio(whole) - 1,
        "odds_ratio": odds,
        "odds_ratio_ci_lower": odds * np.exp(-reach * log_error),
        "odds_ratio_ci_upper": odds * np.exp(reach * log_error),
        "phi": strata.find_phi(whole),
        "adjusted_lift": adjusted[0],
        "adjusted_lift_ci_lower": adjusted_low,
        "adjusted_lift_ci_upper": adjusted_high,
        "adjusted_error": adjusted[1],
        # Where each side has one outcome only the estimated error is 0; then what chance alone would give decides.
        "p_value": float(stats.compare_normal(*adjusted)) if adjusted[1] > 0 else strata.judge_none(fine),
        "homogeneity_p_value": _test_homogeneity(groups, one_landmark=layout.landmarks == 1 and layout.binary),
        "e_value": e_value,
        "compared": float(stats.divide(fine.rows[fine.spread > 0].sum(), fine.rows.sum())),
    }, [
        {
            "number": number,
            **each,
            "lift_ci_lower": each["lift"] - reach * each["error"],
            "lift_ci_upper": each["lift"] + reach * each["error"],
        }
        for each in groups
    ]


def _mean_outcomes(cells: Cells) -> Floats:
    """Give the mean outcome of rows with and without."""
    top = cells.both.sum(), (cells.outcome - cells.both).sum()
    return stats.divide(top, [cells.exposed.sum(), (cells.rows - cells.exposed).sum()])


def _compare_groups(risk: Risk, layout: _Layout, fine: Cells, exposed: Bools, column: str) -> list[Row]:
    """Measure the lift in each group that has enough units and conversions on both sides."""
    group, count = layout.groups[column]
    sides = strata.count_sides(exposed, risk.converted, risk.unit, risk.covariates[column].to_numpy(np.int64), count)
    enough = np.flatnonzero((sides[:2].min(axis=0) >= FEWEST_UNITS) & (sides[2:].min(axis=0) >= FEWEST_CONVERTED))
    if not len(enough):
        return []
    differences, errors = strata.compare(
        fine, exposed, risk.outcome, risk.strata, risk.samples, group=group, groups=count
    )
    apart = stats.compare_effects(differences[enough], errors[enough])
    tables = np.array(fine.merge(group, count).table)
    return [
        {
            "column": column,
            "value": each,
            **dict(zip(NUMBERS[:4], sides[:, each].tolist(), strict=True)),
            "lift": differences[each],
            "error": errors[each],
            "table": tables[:, each],
            "apart": apart,
        }
        for each in enough
    ]


def _test_homogeneity(groups: list[Row], *, one_landmark: bool) -> float:
    """Test equal association over the values of each covariate alone, and give the smallest p-value times their number.

    Over all combinations of several covariates the groups are too small for either test to keep its level.
    Breslow and Day's (1980) test for one landmark; over several a Wald test of equal lifts, whose errors are by unit.
    """
    by_column: dict[str, list[Row]] = {}
    for each in groups:
        by_column.setdefault(each["column"], []).append(each)
    found = []
    for members in by_column.values():
        if len(members) < 2:
            continue
        if one_landmark:
            tables = [np.reshape(each["table"], (2, 2)) for each in members]
            found.append(float(StratifiedTable(tables).test_equal_odds().pvalue))
        else:
            found.append(stats.compare_effects([m["lift"] for m in members], [m["error"] for m in members]))
    known = [p for p in found if not np.isnan(p)]
    return min(1.0, min(known) * len(known)) if known else np.nan


def _judge(row: Row, note: str, micro: Ints, macro: Ints) -> tuple[str, str]:
    """Give the verdict that needs no comparison with the other micros, or none, and why."""
    did, count = micro < NEVER, len(macro)
    late = micro > macro
    if count >= FEWEST_UNITS and (micro == macro).all():
        return (
            "follows the macro",
            f"comes at the very instant of each of {count:,} conversions: it is the macro itself",
        )
    if count >= FEWEST_UNITS and not late.any():
        return "precondition", f"none of {count:,} converters converted without it"
    if did.sum() >= FEWEST_CONVERTED and (late & did).sum() > did.sum() / 2:
        return (
            "follows the macro",
            f"{(late & did).sum():,} of {did.sum():,} converters who did it did so first after converting",
        )
    for side, word in (("with", "with it"), ("without", "without it")):
        if row[f"units_{side}"] < FEWEST_UNITS:
            before = int((did & ~late).sum())
            later = f": {before:,} of {count:,} converters did it before converting; try other landmarks"
            is_later = side == "with" and before >= 2 * FEWEST_UNITS
            return "too few", f"{row[f'units_{side}']:,} units {word}, needs {FEWEST_UNITS}{later if is_later else ''}"
        if row[f"converted_{side}"] < FEWEST_CONVERTED:
            return "too few", f"{row[f'converted_{side}']:,} conversions {word}, needs {FEWEST_CONVERTED}"
    if np.isnan(row["adjusted_lift"]):
        return "too few", note or "no stratum has units with and without it"
    if row["compared"] < FEW_COMPARED:
        return "", f"adjusted over {row['compared']:.0%} of those at risk: the others have nobody alike to compare with"
    return "", note


def _list_rows(table: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _finish(table: pd.DataFrame) -> pd.DataFrame:
    """Control the false discoveries over the micros that can be judged, and give their verdicts."""
    open_rows = table["verdict"] == ""
    q = stats.control_false_discoveries(table["p_value"].where(open_rows).astype(float))
    direction = np.where(table["adjusted_lift"] > 0, "positive", "negative")
    found = np.where(q < stats.SIGNIFICANCE, direction, "no evidence")
    verdicts = pd.Series(np.where(open_rows, found, table["verdict"]), index=table.index, dtype="str")
    return table.assign(q_value=q, verdict=verdicts)


def _find_differing(groups: pd.DataFrame, table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Name the micros, and mark those whose lift differs over a column's groups beyond chance.

    That is for the lifts as they are shown (Wald, false discoveries controlled over judged micros and columns), where
    Breslow and Day's test is for odds ratios of the raw tables.
    """
    if groups.empty:
        return pd.DataFrame(columns=list(GROUP_COLUMNS))
    number = groups["number"].to_numpy(np.int64)
    judged = table["verdict"].isin(JUDGED).to_numpy()[number]
    single = ~groups.duplicated(["number", "column"]).to_numpy()
    tests = groups.assign(apart=groups["apart"].where(judged))[single]
    q = tests[["number", "column"]].assign(q=stats.control_false_discoveries(tests["apart"]))
    differs = groups.merge(q, on=["number", "column"])["q"].to_numpy() < stats.SIGNIFICANCE
    named = groups.assign(micro=np.asarray(names, object)[number], differs=differs)
    return named.astype({"micro": "str"})[list(GROUP_COLUMNS)]
