"""Whether an experiment may be read at all: what is checked before any result is shown."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy

from convlib import stats, takeaways
from convlib.arms import FEW_CONVERSIONS, Comparison, compare_arms
from convlib.decisions import judge
from convlib.durations import parse_duration, write_duration
from convlib.samples import Floats, Ints, Measurement, Sample

COLUMNS = ("check", "status", "p_value", "evidence")
#: A fault that chance makes in one of 1,000 sound tests stops the read-out; one of 100 is worth a look.
FAILED, WARNED = 0.001, 0.01
#: Up to this share of the units may be misplaced.
MISPLACED = 0.01
#: How closely around the planned shares others are looked for, in units.
CONCENTRATION = 1_000
#: The largest one of so many values are capped for a second look.
LARGEST = 1_000


class Finding(NamedTuple):
    """What one check found."""

    status: str
    evidence: str
    p_value: float = np.nan


def check_validity(
    sample: Sample,
    *,
    window: str = "",
    minimum_days: int = 14,
    minimum_units: int | None = 1000,
    exposure_named: bool = False,
    running: bool = False,
    planned_days: int | None = None,
    timezone: str = "UTC",
) -> pd.DataFrame:
    """Say for each thing that spoils an experiment whether it happened; one that failed makes the test invalid.

    Args:
        sample: The experiment's units, their arms, and what they did.
        window: How long each unit is followed, such as `14D`.
        minimum_days: Days between the first and the last assignment, both counted, from which the test may be read.
        minimum_units: Units, over all arms, from which it may be read; None where these are a part of them.
        running: Whether more units are to come.
        planned_days: Over how many days a finished test was to assign; None to count those on which it did.
        exposure_named: Whether the plan says with which event a unit first sees the change.
        timezone: Whose days are counted.

    Returns:
        One row for each check, always all of them: `check`, `status` (`passed`, `failed`, `warning`, `waiting`,
        `not checked`), `p_value` (NaN for what is counted; of several comparisons the smallest, times their number) and
        `evidence`.

    Source: Fabijan et al. (2019, KDD) on the sample ratio; Kohavi, Tang and Xu (2020, chapters 19, 21 and 23) on A/A
        tests, sample ratios and novelty.
    """
    findings = {
        "sample ratio": _check_ratio(sample, running=running),
        "units in other arms": _check_others(sample),
        "units in two arms": _check_misplaced(
            sample, sample.crossed, "were seen in two arms; they stay in their first", "crossed"
        ),
        "assignment after exposure": _check_misplaced(
            sample,
            sample.exposed_early,
            "saw the change before they were assigned",
            "exposure" if exposure_named else "unnamed exposure",
        ),
        "pre-period difference": _check_before(sample),
        "novelty": _check_novelty(sample, window),
        "outliers": _check_outliers(sample),
        "whole weeks": _check_days(sample, minimum_days, timezone, running=running, planned=planned_days),
        "sample size": _check_size(sample, minimum_units),
    }
    rows = [{"check": check, **finding._asdict()} for check, finding in findings.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _check_ratio(sample: Sample, *, running: bool) -> Finding:
    assigned, shares = np.asarray(sample.assigned, float), np.asarray(sample.shares, float) / sum(sample.shares)
    units = assigned.sum()
    test = _watch_ratio if running else _test_ratio
    p_value = test(assigned, shares) if units else np.nan
    status = "failed" if p_value < FAILED else "passed" if units else "not checked"
    evidence = takeaways.word_sample_ratio(sample.arms, sample.assigned.tolist(), sample.shares, p_value)
    return Finding(status, evidence, p_value)


def _test_ratio(assigned: Floats, shares: Floats) -> float:
    return float(scipy.stats.chisquare(assigned, assigned.sum() * shares).pvalue)


def _watch_ratio(assigned: Floats, shares: Floats) -> float:
    """Give a p-value of the planned shares that may be looked at every day.

    Source: Lindon and Malek (2022, NeurIPS): the multinomial's likelihood at the planned shares against its mean over
        a Dirichlet distribution around them.
    """
    prior = CONCENTRATION * shares
    mixed = scipy.special.gammaln(prior.sum()) - scipy.special.gammaln(prior.sum() + assigned.sum())
    mixed += (scipy.special.gammaln(prior + assigned) - scipy.special.gammaln(prior)).sum()
    return float(min(1.0, np.exp(assigned @ np.log(shares) - mixed)))


def _check_others(sample: Sample) -> Finding:
    if sample.others is None:
        return Finding("not checked", takeaways.NOT_CHECKED["others"])
    units, names = sample.others
    return Finding("warning" if units else "passed", takeaways.word_other_arms(units, names))


def _check_misplaced(sample: Sample, misplaced: int | None, what: str, unknown: str) -> Finding:
    if misplaced is None:
        return Finding("not checked", takeaways.NOT_CHECKED[unknown])
    assigned = int(sample.assigned.sum())
    status = "failed" if misplaced > MISPLACED * assigned else "warning" if misplaced else "passed"
    return Finding(status, takeaways.word_misplaced(misplaced, assigned, what))


def _check_before(sample: Sample) -> Finding:
    known = [each for each in sample.measurements if each.role != "metric" and each.before is not None]
    if not known:
        return Finding("not checked", takeaways.NOT_CHECKED["no pre-period"])
    pairs = [(each.earlier, which) for each in known for which in range(1, len(sample.arms))]
    tested = [(each, which, *_compare_before(each, sample.arm, which)) for each, which in pairs]
    tested = [test for test in tested if any(test[3]) and np.isfinite(test[-1])]
    if not tested:
        return Finding("not checked", takeaways.NOT_CHECKED["nobody before"])
    earlier, which, compared, did, smallest = min(tested, key=lambda test: test[-1])
    p_value = min(1.0, smallest * len(tested))
    status = "failed" if p_value < FAILED else "warning" if p_value < WARNED else "passed"
    arms = (sample.arms[which], sample.arms[0])
    evidence = takeaways.word_before(earlier.name, arms, compared._asdict(), did, p_value=p_value, tests=len(tested))
    return Finding(status, evidence, p_value)


def _compare_before(earlier: Measurement, arm: Ints, which: int) -> tuple[Comparison, list[int], float]:
    """Give the comparison of what was before the test, how many units of each arm did it, and the p-value."""
    did = [int(np.count_nonzero(earlier.numerator[arm == code])) for code in (which, 0)]
    return compare_arms(earlier, arm, which, adjust=False), did, _shuffle(earlier, arm, which)


def _shuffle(earlier: Measurement, arm: Ints, which: int) -> float:
    """Give the two-sided p-value of a difference as large when units are dealt to the two arms anew.

    Before the test arms differ by the draw alone, so that a skewed metric keeps its level also where one arm is small,
    which Welch's test does not.

    Source: the permutation distribution's first three moments, as a Pearson type III (Berry and Mielke 1983,
        Communications in Statistics - Simulation and Computation 12:213); a ratio is made linear (the delta method).
    """
    chosen = (arm == 0) | (arm == which)
    parts, is_new = earlier.numerator[chosen], arm[chosen] == which
    base = np.ones(len(parts)) if earlier.denominator is None else earlier.denominator[chosen]
    parts = parts - stats.divide(parts.sum(), base.sum()) * base
    units, new = len(parts), int(is_new.sum())
    old = units - new
    spread = np.sqrt(old * new * np.mean(parts**2) / (units - 1)) if min(old, new) > 1 else 0.0
    if not spread > stats.TINY:
        return np.nan
    skew = old * new * (old - new) * np.mean(parts**3) / ((units - 1) * (units - 2)) / spread**3
    law = scipy.stats.pearson3(skew, scale=spread)
    return float(min(1.0, 2 * min(law.cdf(parts[is_new].sum()), law.sf(parts[is_new].sum()))))


def _check_novelty(sample: Sample, window: str) -> Finding:
    if sample.early is None or sample.late is None:
        return Finding("not checked", takeaways.NOT_CHECKED["halves"])
    first, last, error = np.array([_measure_halves(sample, code) for code in range(len(sample.arms))]).T
    effects = np.array([first[1:] - first[0], last[1:] - last[0]])
    p_values = stats.compare_normal(effects[0] - effects[1], np.hypot(error[1:], error[0]))
    if np.isnan(p_values).all():
        return Finding("not checked", takeaways.NOT_CHECKED["few in a half"])
    which = int(np.nanargmin(p_values))
    p_value = min(1.0, float(p_values[which]) * int(np.isfinite(p_values).sum()))
    half = write_duration(parse_duration(window) // 2) if window else ""
    evidence = takeaways.word_novelty(
        sample.arms[which + 1], *np.expm1(effects[:, which]).tolist(), half=half, p_value=p_value
    )
    return Finding("warning" if p_value < WARNED else "passed", evidence, p_value)


def _measure_halves(sample: Sample, code: int) -> tuple[float, float, float]:
    """Give the logarithms of an arm's values in the two halves, and the standard error of their difference.

    The same units are in both halves, so the error is that of the difference of their parts (the delta method; the
    denominator is the same and falls out). NaN where too few did it.
    """
    chosen, base = sample.arm == code, sample.primary.denominator
    units = float(chosen.sum() if base is None else base[chosen].sum())
    halves = [half[chosen] for half in (sample.early, sample.late) if half is not None]
    if min(np.count_nonzero(half) for half in halves) < FEW_CONVERSIONS or min(half.sum() for half in halves) <= 0:
        return np.nan, np.nan, np.nan
    parts = halves[0] / halves[0].mean() - halves[1] / halves[1].mean()
    first, last = (float(np.log(half.sum() / units)) for half in halves)
    return first, last, float(parts.std(ddof=1) / np.sqrt(len(parts)))


def _check_outliers(sample: Sample) -> Finding:
    found = [_cap(each, sample, which) for each in sample.measurements for which in range(1, len(sample.arms))]
    capped = [each for each in found if each is not None]
    if not capped:
        return Finding("not checked", takeaways.NOT_CHECKED["values"])
    # One that changes what is concluded is told first, else the metric of which most is held by few.
    changes, _, evidence = max(capped)
    return Finding("warning" if changes else "passed", evidence)


def _cap(measure: Measurement, sample: Sample, which: int) -> tuple[bool, float, str] | None:
    """Cap the largest values, in all arms alike: is something else concluded, and which share do the largest hold?"""
    above = np.sort(measure.numerator[measure.numerator > 0])
    if measure.is_share or not len(above) or above[0] == above[-1]:
        return None
    capped = replace(
        measure, numerator=np.minimum(measure.numerator, np.quantile(above, 1 - 1 / LARGEST, method="lower"))
    )
    effects = [compare_arms(each, sample.arm, which) for each in (measure, capped)]
    if not np.isfinite([each.effect for each in effects]).all():
        return None
    largest = -(-len(sample.arm) // LARGEST)
    held = float(above[-largest:].sum() / above.sum())
    evidence = takeaways.word_outliers(
        measure.name,
        sample.arms[which],
        [each._asdict() for each in effects],
        largest=min(largest, len(above)),
        units=len(sample.arm),
        held=held,
    )
    return judge(measure, effects[0]) != judge(measure, effects[1]), held, evidence


def _check_days(sample: Sample, minimum: int, timezone: str, *, running: bool, planned: int | None) -> Finding:
    days = planned
    if days is None:
        if sample.entered is None or not len(sample.entered):
            return Finding("not checked", takeaways.NOT_CHECKED["entered"])
        ends = pd.to_datetime([sample.entered.min(), sample.entered.max()], unit="us", utc=True).tz_convert(timezone)
        days = (ends[1].date() - ends[0].date()).days + 1
    status = "waiting" if days < minimum else "warning" if days % 7 and not running else "passed"
    return Finding(status, takeaways.word_days(days, minimum))


def _check_size(sample: Sample, minimum: int | None) -> Finding:
    units = len(sample.arm)
    evidence = takeaways.word_sample_size(units, int(sample.pending.sum()), minimum)
    return Finding("waiting" if minimum is not None and units < minimum else "passed", evidence)


def hide_effects(validity: pd.DataFrame) -> pd.DataFrame:
    """Leave out what checks say of effects, when none is to be read."""
    tells = validity["check"].isin(["novelty", "outliers"])
    hidden = {"status": "not checked", "p_value": np.nan, "evidence": takeaways.NOT_CHECKED["invalid"]}
    return validity.assign(**{name: validity[name].mask(tells, value) for name, value in hidden.items()})
