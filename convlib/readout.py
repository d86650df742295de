"""The tables of an experiment: every metric of every arm, by day, in groups, and the effects of combined factors."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib import stats
from convlib.arms import Comparison, compare_arms, estimate_cells
from convlib.decisions import judge
from convlib.samples import Floats, Measurement, Sample

Flags = NDArray[np.bool_]
EFFECT = ("effect", "effect_ci_lower", "effect_ci_upper")
RELATIVE = ("relative_effect", "relative_effect_ci_lower", "relative_effect_ci_upper")
MEASURED = ("units", "units_control", "value", "value_control", *EFFECT, *RELATIVE, "p_value")
#: What says anything about a metric in the arms.
READ_OUT = ("value", "value_control", *EFFECT, *RELATIVE, "p_value", "variance_reduction")
METRIC = ("role", "conversion", "metric")
COLUMNS = ("arm", *METRIC, *MEASURED, "margin", "margin_absolute", "variance_reduction", "status", "note")
SEGMENT_COLUMNS = ("column", "group", "arm", *METRIC, *MEASURED, "q_value", "homogeneity_p_value", "note")
FACTOR_COLUMNS = ("effect_of", *METRIC, *EFFECT, "p_value", "note")
DAY_COLUMNS = ("arm", "day", "units", *EFFECT)
TOO_FEW = "too few units or conversions; skewed values in arms of unequal size need many"
#: Of values that are not as they were counted.
ADJUSTED = "values adjusted by what units did before"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How an experiment's numbers are to be read.

    Attributes:
        running: Whether they are looked at again and again, so that intervals have to hold at all times together.
        planned: At how many units, over all arms, such intervals are to be shortest.
        confidence: Level of the intervals.
    """

    running: bool
    planned: int
    confidence: float = stats.CONFIDENCE


def compare_all(
    measure: Measurement, sample: Sample, reading: Reading, *, chosen: Flags | None = None
) -> list[Comparison]:
    """Set each arm against the control so that the intervals of all arms hold together.

    Source: while running Bonferroni over confidence sequences; at the end Dunnett (1955).
    """
    arms = range(1, len(sample.arms))
    alone = [
        compare_arms(measure, sample.arm, arm, confidence=reading.confidence, watched=reading.running, chosen=chosen)
        for arm in arms
    ]
    if reading.running:
        return [_watch(each, sample, reading, arm) for arm, each in zip(arms, alone, strict=True)]
    shared = [each.shared for each in alone]
    level = stats.simultaneous_level(shared, confidence=reading.confidence)
    if level == reading.confidence:
        return alone
    p_values = stats.adjust_for_control([each.p_value for each in alone], shared)
    together = [compare_arms(measure, sample.arm, arm, confidence=level, chosen=chosen) for arm in arms]
    return [each._replace(p_value=float(p_value)) for each, p_value in zip(together, p_values, strict=True)]


def _watch(alone: Comparison, sample: Sample, reading: Reading, arm: int) -> Comparison:
    """Give the interval that may be looked at at any time."""
    if not np.isfinite(alone.error):
        return alone
    several, units = len(sample.arms) - 1, alone.units + alone.units_control
    planned = reading.planned * (sample.shares[0] + sample.shares[arm]) / sum(sample.shares)
    confidence = 1 - (1 - reading.confidence) / several
    reach = float(stats.sequence_reach(units, planned, confidence=confidence))
    p_value = stats.sequence_p_value(alone.effect / alone.error, units, planned, confidence=confidence)
    return alone.widen(reach, min(1.0, several * float(p_value)))


def tabulate_metrics(sample: Sample, reading: Reading) -> pd.DataFrame:
    """Give one row for each arm but the control, and metric (`COLUMNS`)."""
    compared = [compare_all(each, sample, reading) for each in sample.measurements]
    rows = [
        _describe(measure, sample.arms[arm]) | _measured(found[arm - 1]) | _conclude(measure, found[arm - 1])
        for arm in range(1, len(sample.arms))
        for measure, found in zip(sample.measurements, compared, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _describe(measure: Measurement, arm: str) -> dict[str, object]:
    return {"arm": arm, "role": measure.role, "conversion": measure.conversion, "metric": measure.metric}


def _measured(found: Comparison) -> dict[str, object]:
    known = found._asdict()
    return {name: known[name] for name in MEASURED}


def _conclude(measure: Measurement, found: Comparison) -> dict[str, object]:
    return {
        "margin": measure.limits[0],
        "margin_absolute": measure.limits[1],
        "variance_reduction": found.variance_reduction,
        "status": judge(measure, found),
        "note": TOO_FEW if np.isnan(found.error) else "" if np.isnan(found.variance_reduction) else ADJUSTED,
    }


def tabulate_days(sample: Sample, reading: Reading) -> pd.DataFrame:
    """Give the effect on the primary metric, for each unit, in each part of the window (`DAY_COLUMNS`)."""
    rows: list[dict[str, object]] = []
    days = np.zeros((len(sample.arm), 0)) if sample.days is None else sample.days
    for place, day in enumerate(sample.starts[:-1]):
        part = dataclasses.replace(
            sample.primary, numerator=days[:, place], denominator=None, before=None, before_denominator=None
        )
        for arm, found in enumerate(compare_all(part, sample, reading), start=1):
            rows.append({"arm": sample.arms[arm], "day": day, **_measured(found)})
    return pd.DataFrame(rows, columns=list(DAY_COLUMNS))


def tabulate_segments(sample: Sample, reading: Reading) -> pd.DataFrame:
    """Give the primary metric and the guardrails in each group of each column (`SEGMENT_COLUMNS`).

    `q_value` controls false discoveries over a metric's groups (Benjamini and Hochberg 1995); `homogeneity_p_value` is
    that of equal relative effects over a column's groups in which both values are above zero (Cochran 1954).
    """
    parts = [
        _list_groups(sample, reading, column, measure)
        for measure in sample.measurements
        if measure.role != "metric"
        for column in map(str, sample.segments)
    ]
    if not parts:
        return pd.DataFrame(columns=list(SEGMENT_COLUMNS))
    table = pd.concat(parts, ignore_index=True)
    tested = table.groupby(["role", "conversion", "metric"], sort=False)["p_value"]
    return table.assign(q_value=tested.transform(stats.control_false_discoveries))[list(SEGMENT_COLUMNS)]


def _list_groups(sample: Sample, reading: Reading, column: str, measure: Measurement) -> pd.DataFrame:
    values = sample.segments[column]
    found = {
        group: compare_all(measure, sample, reading, chosen=(values == group).to_numpy())
        for group in sorted(set(values))
    }
    rows = []
    for arm in range(1, len(sample.arms)):
        own = [each[arm - 1] for each in found.values()]
        # Where nobody of an arm does it any more, the ratio has no logarithm.
        known = [each for each in own if np.isfinite(each.relative_error)]
        effects = np.log1p([each.relative_effect for each in known])
        unlike = stats.compare_effects(effects, [each.relative_error for each in known])
        for group, each in zip(found, own, strict=True):
            note = "" if np.isfinite(each.error) else TOO_FEW
            place = {"column": column, "group": group, "homogeneity_p_value": unlike, "note": note}
            rows.append(place | _describe(measure, sample.arms[arm]) | _measured(each))
    return pd.DataFrame(rows)


def tabulate_factors(sample: Sample, reading: Reading, factors: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Give the main effect of each factor's levels and the interactions of each two (`FACTOR_COLUMNS`).

    A main effect is the difference from the factor's first level, each combination of the others counted alike; an
    interaction the difference of such differences. Each is a contrast of the arms' own means (Yates 1937), so that
    their variances may differ.
    """
    rows = []
    for measure in sample.measurements if factors else ():
        values, errors = estimate_cells(measure, sample.arm, len(sample.arms))
        units = np.bincount(sample.arm, minlength=len(sample.arms)).sum()
        for effect_of, weights in _list_contrasts(factors):
            effect, error = float(weights @ values), float(np.sqrt(weights**2 @ errors**2))
            rows.append(
                {"effect_of": effect_of, **_describe(measure, ""), **_bound(effect, error, int(units), reading)}
            )
    return pd.DataFrame(rows, columns=list(FACTOR_COLUMNS))


def _list_contrasts(factors: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Floats]]:
    """Give each effect's name and the weights of the arms, which are the combinations in the order of the factors."""
    changes = [[(name, place) for place in range(1, len(levels))] for name, levels in factors.items()]
    pairs = (pair for one, other in itertools.combinations(changes, 2) for pair in itertools.product(one, other))
    for active in (*((each,) for own in changes for each in own), *pairs):
        chosen = dict(active)
        weights = np.ones(1)
        for name, levels in factors.items():
            vector = np.full(len(levels), 1 / len(levels))
            if name in chosen:
                vector = np.zeros(len(levels))
                vector[[0, chosen[name]]] = -1, 1
            weights = np.kron(weights, vector)
        yield (
            " x ".join(f"{name}: {factors[name][place]}" for name, place in active),
            weights,
        )


def _bound(effect: float, error: float, units: int, reading: Reading) -> dict[str, object]:
    if not error > 0:
        return dict.fromkeys((*EFFECT, "p_value"), np.nan) | {"note": TOO_FEW}
    reach, p_value = stats.normal_quantile(reading.confidence), float(stats.compare_normal(effect, error))
    if reading.running:
        reach = float(stats.sequence_reach(units, reading.planned, confidence=reading.confidence))
        p_value = float(stats.sequence_p_value(effect / error, units, reading.planned, confidence=reading.confidence))
    low, high = effect - reach * error, effect + reach * error
    return {"effect": effect, "effect_ci_lower": low, "effect_ci_upper": high, "p_value": p_value, "note": ""}
