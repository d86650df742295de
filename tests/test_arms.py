"""One arm against the control: scipy and statsmodels to 10 digits, ratios and CUPED written out in numpy."""

from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.optimize import brentq
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW
from unit_samples import make_rate, make_revenue

from convlib.arms import Comparison, Contrast, compare_arms, estimate_cells, find_detectable, find_power, size_arms
from convlib.samples import Measurement

RNG = np.random.default_rng(7)
SIZE = 400
ARM = RNG.integers(0, 2, SIZE)
CLICKS = RNG.poisson(2, SIZE).astype(float) + ARM * RNG.integers(0, 2, SIZE)
VIEWS = CLICKS + RNG.poisson(4, SIZE) + 1
BEFORE = CLICKS + RNG.poisson(1, SIZE)
VIEWS_BEFORE = BEFORE + RNG.poisson(5, SIZE) + 1
PURCHASES = (RNG.random(SIZE) < 0.2 + 0.1 * ARM).astype(float)
REVENUE = np.where(PURCHASES > 0, RNG.lognormal(3, 1, SIZE), 0.0)


def split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values[ARM == 1], values[ARM == 0]


def list_relative(found: Comparison) -> tuple[float, float, float, float]:
    bounds = found.relative_effect_ci_lower, found.relative_effect_ci_upper
    return found.relative_effect, found.relative_error, *bounds


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(
    "measure", [make_rate(PURCHASES), make_rate(CLICKS), make_revenue(REVENUE)], ids=["proportion", "mean", "value"]
)
def test_compare_arms_equals_scipy_and_statsmodels(measure: Measurement, confidence: float) -> None:
    found = compare_arms(measure, ARM, 1, confidence=confidence)
    treated, control = split(measure.numerator)
    test = scipy_stats.ttest_ind(treated, control, equal_var=False)
    other = CompareMeans(DescrStatsW(treated), DescrStatsW(control))
    assert (found.units, found.units_control) == (len(treated), len(control))
    np.testing.assert_allclose([found.value, found.value_control], [treated.mean(), control.mean()], rtol=1e-12)
    assert found.p_value == pytest.approx(test.pvalue, rel=1e-10)
    assert found.p_value == pytest.approx(other.ttest_ind(usevar="unequal")[1], rel=1e-10)
    bounds = found.effect_ci_lower, found.effect_ci_upper
    np.testing.assert_allclose(bounds, test.confidence_interval(confidence), rtol=1e-10)
    np.testing.assert_allclose(bounds, other.tconfint_diff(alpha=1 - confidence, usevar="unequal"), rtol=1e-10)
    errors = [each.var(ddof=1) / len(each) for each in (control, treated)]
    np.testing.assert_allclose([found.error, found.shared], [np.sqrt(sum(errors)), errors[0] / sum(errors)], rtol=1e-12)
    assert np.isnan(found.variance_reduction)


def test_compare_arms_gives_the_ratios_that_a_test_would_not_reject() -> None:
    found = compare_arms(make_revenue(REVENUE), ARM, 1)
    treated, control = split(REVENUE)
    variances = [each.var(ddof=1) / len(each) for each in (treated, control)]
    degrees = sum(variances) ** 2 / sum(v**2 / (n - 1) for v, n in zip(variances, np.bincount(ARM)[::-1], strict=True))
    reach = scipy_stats.t.ppf(0.975, degrees)

    def miss(ratio: float) -> float:
        """By how much treated - ratio x control is further from zero than its errors reach."""
        error = np.sqrt(variances[0] + ratio**2 * variances[1])
        return float(abs(treated.mean() - ratio * control.mean()) - reach * error)

    ratio = treated.mean() / control.mean()
    ends = [brentq(miss, low, high, xtol=1e-14) for low, high in ((0.0, ratio), (ratio, 10.0))]
    spread = np.sqrt(variances[0] / treated.mean() ** 2 + variances[1] / control.mean() ** 2)
    expected = [ratio - 1, spread, ends[0] - 1, ends[1] - 1]
    np.testing.assert_allclose(list_relative(found), expected, rtol=1e-9)


def test_compare_arms_has_a_relative_interval_that_leaves_zero_out_where_the_effect_does() -> None:
    rng = np.random.default_rng(3)
    outcomes = set()
    for _ in range(300):
        arm = rng.permutation(np.repeat([0, 1], [150, 90]))
        found = compare_arms(make_revenue(rng.lognormal(0, 0.4, 240) + 0.06 * arm), arm, 1)
        excludes = found.effect_ci_lower > 0 or found.effect_ci_upper < 0
        assert excludes == (found.relative_effect_ci_lower > 0 or found.relative_effect_ci_upper < 0)
        assert excludes == (found.p_value < 0.05)
        outcomes.add(excludes)
    assert outcomes == {True, False}


def linearise(values: np.ndarray, base: np.ndarray) -> np.ndarray:
    """What each unit adds to its arm's ratio (delta method): the variance of its mean is the ratio's."""
    return np.asarray((values - values.mean() / base.mean() * base) / base.mean())


def test_compare_arms_gives_the_delta_method_for_ratios() -> None:
    found = compare_arms(make_rate(CLICKS, denominator=VIEWS), ARM, 1)
    ratios, variances = [], []
    for clicks, views in zip(split(CLICKS), split(VIEWS), strict=True):
        ratios.append(clicks.sum() / views.sum())
        variances.append(linearise(clicks, views).var(ddof=1) / len(clicks))
    effect, error = ratios[0] - ratios[1], np.sqrt(sum(variances))
    degrees = sum(variances) ** 2 / sum(v**2 / (n - 1) for v, n in zip(variances, np.bincount(ARM)[::-1], strict=True))
    reach = scipy_stats.t.ppf(0.975, degrees) * error
    expected = [*ratios, effect, error, effect - reach, effect + reach]
    np.testing.assert_allclose(found[2:8], expected, rtol=1e-10)
    assert found.p_value == pytest.approx(2 * scipy_stats.t.sf(abs(effect) / error, degrees), rel=1e-10)


def adjust_by_hand(parts: list[np.ndarray], befores: list[np.ndarray], slope: float) -> tuple[float, float]:
    """The difference of means less the slope's share of the covariates', and its error."""
    own = [part - slope * before for part, before in zip(parts, befores, strict=True)]
    return own[0].mean() - own[1].mean(), np.sqrt(sum(each.var(ddof=1) / len(each) for each in own))


def test_compare_arms_adjusts_by_what_was_before() -> None:
    found = compare_arms(make_rate(CLICKS, before=BEFORE), ARM, 1)
    slope = np.cov(CLICKS, BEFORE)[0, 1] / np.var(BEFORE, ddof=1)
    effect, error = adjust_by_hand([*split(CLICKS)], [*split(BEFORE)], slope)
    plain = compare_arms(make_rate(CLICKS), ARM, 1)
    value = CLICKS[ARM == 1].mean() - slope * (BEFORE[ARM == 1].mean() - BEFORE.mean())
    np.testing.assert_allclose([found.value, found.effect, found.error], [value, effect, error], rtol=1e-10)
    assert found.variance_reduction == pytest.approx(1 - error**2 / plain.error**2, rel=1e-10)
    assert 0.4 < found.variance_reduction < 0.9
    test = scipy_stats.ttest_ind(*split(CLICKS - slope * BEFORE), equal_var=False)
    assert found.p_value == pytest.approx(test.pvalue, rel=1e-10)
    assert compare_arms(make_rate(CLICKS, before=BEFORE), ARM, 1, adjust=False) == pytest.approx(plain, nan_ok=True)


def test_compare_arms_adjusts_ratios_by_ratios() -> None:
    measure = make_rate(CLICKS, denominator=VIEWS, before=BEFORE, before_denominator=VIEWS_BEFORE)
    found = compare_arms(measure, ARM, 1)
    now, then = linearise(CLICKS, VIEWS), linearise(BEFORE, VIEWS_BEFORE)
    slope = np.cov(now, then)[0, 1] / np.var(then, ddof=1)
    ratios = [a.sum() / b.sum() for a, b in zip(split(CLICKS), split(VIEWS), strict=True)]
    before = [a.sum() / b.sum() for a, b in zip(split(BEFORE), split(VIEWS_BEFORE), strict=True)]
    effect = ratios[0] - ratios[1] - slope * (before[0] - before[1])
    now_parts = [linearise(a, b) for a, b in zip(split(CLICKS), split(VIEWS), strict=True)]
    then_parts = [linearise(a, b) for a, b in zip(split(BEFORE), split(VIEWS_BEFORE), strict=True)]
    _, error = adjust_by_hand(now_parts, then_parts, slope)
    np.testing.assert_allclose([found.effect, found.error], [effect, error], rtol=1e-10)


def test_compare_arms_looks_at_the_chosen_units_and_arms() -> None:
    arm, chosen = np.where(np.arange(SIZE) % 3 == 0, 2, ARM), np.arange(SIZE) % 2 == 0
    found = compare_arms(make_rate(CLICKS), arm, 2, chosen=chosen)
    test = scipy_stats.ttest_ind(CLICKS[chosen & (arm == 2)], CLICKS[chosen & (arm == 0)], equal_var=False)
    assert found.p_value == pytest.approx(test.pvalue, rel=1e-10)


def lay(*counts: tuple[int, int]) -> dict[str, Any]:
    """Units of each arm, of which so many did it."""
    numerator = np.concatenate([np.repeat([1.0, 0.0], (did, units - did)) for units, did in counts])
    return {"numerator": numerator, "arm": np.repeat(np.arange(len(counts)), [units for units, _ in counts])}


@pytest.mark.parametrize(
    ("control", "treated"),
    [
        ((0, 0), (0, 0)),
        ((100, 20), (0, 0)),
        ((100, 20), (1, 1)),
        ((100, 20), (2, 1)),
        ((100, 20), (29, 10)),
        # 22 of 130 did it: 30 of the arm are expected to hold 5.08; 21 are 4.8.
        ((100, 21), (30, 0)),
        ((100, 0), (100, 9)),
        ((100, 100), (100, 100)),
        ((100, 98), (100, 93)),
    ],
)
def test_compare_arms_says_nothing_of_too_few(control: tuple[int, int], treated: tuple[int, int]) -> None:
    known = lay(control, treated)
    found = compare_arms(make_rate(known["numerator"]), known["arm"], 1)
    assert found == pytest.approx(Comparison(treated[0], control[0]), nan_ok=True)


@pytest.mark.parametrize(("control", "treated"), [((100, 22), (30, 0)), ((100, 10), (100, 0)), ((100, 0), (100, 10))])
def test_compare_arms_sees_that_one_arm_does_nothing(control: tuple[int, int], treated: tuple[int, int]) -> None:
    known = lay(control, treated)
    found = compare_arms(make_rate(known["numerator"]), known["arm"], 1)
    own, other = (known["numerator"][known["arm"] == arm] for arm in (1, 0))
    wanted = scipy_stats.ttest_ind(own, other, equal_var=False)
    assert found.p_value == pytest.approx(wanted.pvalue)
    assert (found.effect_ci_lower, found.effect_ci_upper) == pytest.approx(tuple(wanted.confidence_interval()))


def test_compare_arms_gives_no_ratio_to_what_may_be_nothing() -> None:
    # One of 500 in the control: its value is one standard error above zero.
    known = lay((500, 1), (500, 30))
    found = compare_arms(make_rate(known["numerator"]), known["arm"], 1)
    assert found.effect == pytest.approx(0.058)
    assert found.effect_ci_lower > 0
    assert np.isnan([found.relative_effect, found.relative_effect_ci_lower, found.relative_effect_ci_upper]).all()


def test_compare_arms_needs_more_units_where_skewed_values_are_in_arms_of_unequal_size() -> None:
    rng = np.random.default_rng(1)
    values = rng.lognormal(3, 1.0, 4000) * (rng.random(4000) < 0.1)
    even, uneven = np.arange(4000) % 2, (np.arange(4000) % 20 == 0).astype(np.int64)
    assert np.isfinite(compare_arms(make_revenue(values), even, 1).error)
    assert np.isnan(compare_arms(make_revenue(values), uneven, 1).error)
    many = np.tile(values, 50)
    assert np.isfinite(compare_arms(make_revenue(many), np.tile(uneven, 50), 1).error)


def test_compare_arms_speaks_from_30_units_and_5_that_did_and_5_that_did_not() -> None:
    known = lay((30, 5), (30, 25))
    assert np.isfinite(compare_arms(make_rate(known["numerator"]), known["arm"], 1)).sum() == 14


@pytest.mark.parametrize("level", [5.0, 0.1, 1e12])
def test_compare_arms_says_nothing_where_nothing_varies(level: float) -> None:
    found = compare_arms(make_revenue(np.full(SIZE, level)), ARM, 1)
    assert np.isnan(found[2:]).all()


@pytest.mark.parametrize("denominator", [np.zeros(SIZE), VIEWS * ARM, CLICKS], ids=["none", "none in one arm", "same"])
def test_compare_arms_says_nothing_of_ratios_without_a_spread_or_a_denominator(denominator: np.ndarray) -> None:
    assert np.isnan(compare_arms(make_rate(CLICKS, denominator=denominator), ARM, 1)[2:]).all()


@pytest.mark.parametrize(
    "known",
    [
        {"before": np.ones(SIZE)},
        {"before": np.zeros(SIZE)},
        {"before": 2 * CLICKS},
        {"before": BEFORE * 0, "before_denominator": BEFORE * 0},
        {"before": BEFORE, "before_denominator": VIEWS_BEFORE * ARM},
    ],
    ids=["constant", "zero", "the metric itself", "no visits", "no visits in one arm"],
)
def test_compare_arms_does_not_adjust_by_what_tells_nothing(known: dict[str, np.ndarray]) -> None:
    measure = {"numerator": CLICKS} | ({"denominator": VIEWS} if len(known) > 1 else {})
    plain = compare_arms(make_rate(**measure), ARM, 1)
    found = compare_arms(make_rate(**measure, **known), ARM, 1)
    assert found == pytest.approx(plain, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("scale", [1e-9, 1e12, 1e60])
def test_compare_arms_does_not_depend_on_the_currency(scale: float) -> None:
    plain, found = (compare_arms(make_revenue(REVENUE * by), ARM, 1) for by in (1, scale))
    np.testing.assert_allclose(found[2:8], np.array(plain[2:8]) * scale, rtol=1e-9)
    np.testing.assert_allclose(found[8:13], plain[8:13], rtol=1e-9)


def test_compare_arms_gives_no_relative_effect_of_a_value_below_zero() -> None:
    found = compare_arms(make_revenue(REVENUE - REVENUE.max()), ARM, 1)
    assert np.isfinite([found.effect, found.error, found.p_value]).all()
    assert np.isnan(list_relative(found)).all()


def test_compare_arms_turns_around_with_its_arms() -> None:
    there, back = (compare_arms(make_revenue(REVENUE), arm, 1) for arm in (ARM, 1 - ARM))
    assert there.effect == pytest.approx(-back.effect)
    assert there.effect_ci_lower == pytest.approx(-back.effect_ci_upper)
    assert 1 + there.relative_effect_ci_lower == pytest.approx(1 / (1 + back.relative_effect_ci_upper))


def test_widen_reaches_so_many_errors() -> None:
    # Half of the variance is the control's: both values have an error of 0.02.
    found = Comparison(100, 100, 0.3, 0.2, 0.1, error=0.02 * 2**0.5, relative_effect=0.5, p_value=0.01, shared=0.5)
    wide = found.widen(3, 0.2)
    # 0.1 -+ 3 x 0.0283; the roots of (0.3 - r 0.2)^2 = 9 x 0.0004 (1 + r^2): 0.0364 r^2 - 0.12 r + 0.0864 = 0.
    np.testing.assert_allclose([wide.effect_ci_lower, wide.effect_ci_upper], 0.1 + np.array([-1, 1]) * 0.06 * 2**0.5)
    roots = np.sort(np.roots([0.0364, -0.12, 0.0864]))
    np.testing.assert_allclose([wide.relative_effect_ci_lower, wide.relative_effect_ci_upper], roots - 1)
    assert wide.p_value == 0.2


def test_estimate_cells_gives_each_arms_mean_and_error() -> None:
    arm = np.where(np.arange(SIZE) < 10, 2, ARM)
    values, errors = estimate_cells(make_rate(CLICKS), arm, 3)
    own = [CLICKS[arm == code] for code in (0, 1)]
    np.testing.assert_allclose(values, [own[0].mean(), own[1].mean(), np.nan])
    np.testing.assert_allclose(errors, [*(scipy_stats.sem(each) for each in own), np.nan])


def test_estimate_cells_gives_the_delta_error_of_ratios() -> None:
    values, errors = estimate_cells(make_rate(CLICKS, denominator=VIEWS), ARM * 0, 1)
    assert values[0] == pytest.approx(CLICKS.sum() / VIEWS.sum())
    assert errors[0] == pytest.approx(scipy_stats.sem(linearise(CLICKS, VIEWS)))


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_size_arms_and_its_inverses_agree_with_statsmodels(share: float) -> None:
    contrast = Contrast(share=share)
    ratio = share / (1 - share)
    # An effect of 0.3 at a variance of 4 is 0.15 standard deviations.
    control = NormalIndPower().solve_power(0.15, power=0.8, alpha=0.05, ratio=ratio)
    assert size_arms(0.3, 4, contrast) == pytest.approx(control * (1 + ratio), abs=1)
    expected = NormalIndPower().power(0.15, 1_000 * (1 - share), 0.05, ratio=ratio)
    assert find_power(0.3, 4, 1_000, contrast) == pytest.approx(expected, abs=1e-9)
    least = NormalIndPower().solve_power(nobs1=1_000 * (1 - share), power=0.8, alpha=0.05, ratio=ratio)
    assert find_detectable(1_000, contrast) == pytest.approx(least, abs=1e-6)


def test_size_arms_of_a_bound_that_is_to_clear_a_margin_looks_one_way() -> None:
    # (z(0.975) + z(0.8))^2 x 2 x 4 / 0.3^2 an arm.
    arm = (scipy_stats.norm.ppf(0.975) + scipy_stats.norm.ppf(0.8)) ** 2 * 2 * 4 / 0.09
    assert size_arms(0.3, 4, Contrast(0.025, one_sided=True)) == pytest.approx(2 * arm, abs=1)


def test_size_arms_asks_for_as_many_units_as_a_comparison_needs() -> None:
    assert size_arms(50, 1, Contrast(share=0.1)) == 300
