from math import comb
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_ztest

from convlib import stats
from convlib.errors import ParamError

Z = 1.959963984540054


def close_wilson(hits: float, total: float) -> tuple[float, float]:
    share, z2 = hits / total, Z**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    reach = Z / (1 + z2 / total) * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return middle - reach, middle + reach


def test_divide_gives_nan_where_nothing_can_be_divided() -> None:
    np.testing.assert_array_equal(stats.divide([1, 0, 3], [2, 0, 0]), [0.5, np.nan, np.nan])


# Newcombe (1998), Statistics in Medicine 17:857, table I, method 3 (score).
@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_gives_the_published_intervals(hits: int, total: int, low: float, high: float) -> None:
    found = np.ravel(stats.wilson_interval(hits, total))
    np.testing.assert_allclose(found, [low, high], atol=5e-5)


def test_wilson_interval_is_the_closed_form_for_whole_columns() -> None:
    hits, total = np.array([3.0, 50, 7]), np.array([10.0, 80, 1000])
    expected = np.transpose([close_wilson(h, n) for h, n in zip(hits, total, strict=True)])
    np.testing.assert_allclose(stats.wilson_interval(hits, total), expected, rtol=1e-12)


def test_wilson_interval_ends_at_0_and_1_and_is_unknown_without_trials() -> None:
    low, high = stats.wilson_interval([0, 5, 0], [5, 5, 0])
    assert low[0] == 0
    assert high[1] == 1
    assert np.isnan([low[2], high[2]]).all()


def test_newcombe_interval_gives_the_published_interval() -> None:
    # Newcombe (1998), Statistics in Medicine 17:873, table II, example a, method 10.
    assert stats.newcombe_interval((56, 48), (70, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_newcombe_interval_is_the_closed_form() -> None:
    (a, n), (b, m) = (7, 25), (20, 31)
    (l1, u1), (l0, u0) = close_wilson(a, n), close_wilson(b, m)
    p, q = a / n, b / m
    low = p - q - np.hypot(p - l1, u0 - q)
    high = p - q + np.hypot(u1 - p, q - l0)
    assert stats.newcombe_interval((a, b), (n, m)) == pytest.approx((low, high), rel=1e-12)


def test_newcombe_interval_is_unknown_when_a_side_is_empty() -> None:
    assert np.isnan(stats.newcombe_interval((0, 3), (0, 9))).all()


def test_control_false_discoveries_agrees_with_statsmodels_and_leaves_nan_out() -> None:
    p = np.array([0.001, 0.04, np.nan, 0.03, 0.2, 0.9])
    q = stats.control_false_discoveries(p)
    known = ~np.isnan(p)
    np.testing.assert_allclose(q[known], multipletests(p[known], method="fdr_bh")[1], rtol=1e-12)
    assert np.isnan(q[2])


def test_control_false_discoveries_gives_nothing_for_nothing() -> None:
    assert stats.control_false_discoveries([]).size == 0
    assert np.isnan(stats.control_false_discoveries([np.nan])).all()


def test_compare_normal_is_two_sided_and_unknown_without_error() -> None:
    p = stats.compare_normal([Z, -Z, 0, 1, 1], [1, 1, 1, 0, np.nan])
    np.testing.assert_allclose(p, [0.05, 0.05, 1, np.nan, np.nan], rtol=1e-12)


def test_normal_quantile_knows_the_usual_levels() -> None:
    assert stats.normal_quantile(0.95) == pytest.approx(1.959964, abs=1e-6)
    assert stats.normal_quantile(0.90) == pytest.approx(1.644854, abs=1e-6)


def test_e_value_gives_the_published_values() -> None:
    # VanderWeele and Ding (2017): RR 3.9 -> 7.26; below 1 the ratio is turned round: 0.8 -> 1.25 + sqrt(1.25 * 0.25).
    np.testing.assert_allclose(stats.e_value([3.9, 0.8, 1, 0, np.nan]), [7.26, 1.809, 1, np.nan, np.nan], atol=5e-3)


def test_compare_effects_is_cochrans_q() -> None:
    # Effects 0, 1, 2 with errors 1: mean 1, Q = 2 on 2 degrees of freedom, p = exp(-1).
    assert stats.compare_effects([0, 1, 2], [1, 1, 1]) == pytest.approx(np.exp(-1), rel=1e-12)
    # Two effects: Q = 0.2^2 / (0.1^2 + 0.3^2) on 1 degree of freedom.
    expected = scipy_stats.chi2.sf(0.04 / 0.10, 1)
    assert stats.compare_effects([0.1, 0.3, np.nan, 5], [0.1, 0.3, 1, 0]) == pytest.approx(expected, rel=1e-12)


def test_compare_effects_needs_two_groups() -> None:
    assert np.isnan(stats.compare_effects([0.1, 0.2], [0.1, np.nan]))


def test_shrink_takes_what_is_mostly_noise_to_zero() -> None:
    draws = stats.shrink([0.1, -0.2, 0.05], [10, 10, 10], draws=4_000, seed=1)
    assert (draws == 0).mean() > 0.25
    assert np.abs(draws.mean(axis=1)).max() < 0.05 * 10
    assert draws.std(axis=1).max() < 0.6 * 10


def test_shrink_leaves_what_is_known_exactly() -> None:
    effects = [0.12, -0.03, 0.08]
    draws = stats.shrink(effects, [1e-6] * 3, draws=2_000, seed=1)
    np.testing.assert_allclose(draws.mean(axis=1), effects, atol=1e-6)
    np.testing.assert_allclose(draws.std(axis=1), 1e-6, rtol=0.1)


def test_shrink_moves_every_mean_towards_zero() -> None:
    effects, errors = np.array([0.10, 0.06, 0.02, -0.05, 0.001]), np.full(5, 0.02)
    means = stats.shrink(effects, errors, draws=20_000, seed=2).mean(axis=1)
    noise = 4 * errors / np.sqrt(20_000)
    assert (np.abs(means) <= np.abs(effects) + noise).all()
    assert (means * np.sign(effects) >= -noise).all()
    # The surer an effect is, the smaller the part of it that is taken away.
    assert (np.abs(means[0]) / 0.10) > (np.abs(means[2]) / 0.02)


def test_shrink_draws_the_same_for_the_same_seed_and_keeps_unknown_rows() -> None:
    first, again, other = (
        stats.shrink([0.8, np.nan, 0.2, 0.3], [0.1, 0.1, 0, np.nan], draws=50, seed=s) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first[0] != other[0]).any()
    assert np.isnan(first[1:]).all()
    assert np.isfinite(first[0]).all()


def test_shrink_of_one_effect_is_the_posterior_mean_of_its_mixture() -> None:
    # An effect of 8 errors is a finding under any prior of this family: at least 85% of it stays.
    means = stats.shrink([0.8], [0.1], draws=20_000, seed=3).mean(axis=1)
    assert 0.68 < means[0] < 0.8


def test_number_groups_numbers_distinct_rows_in_order_of_appearance() -> None:
    frame = pd.DataFrame({"a": ["x", "y", "x", None, None], "b": [1, 1, 1, 2, 2]})
    assert stats.number_groups(frame).tolist() == [0, 1, 0, 2, 2]
    assert stats.number_groups(frame[[]]).tolist() == [0] * 5


def test_pooled_error_is_that_of_the_two_sample_z_test() -> None:
    statistic, _ = proportions_ztest([30, 20], [100, 110])
    difference = 30 / 100 - 20 / 110
    error = stats.pooled_error([30], [100], [20], [110])
    assert difference / error[0] == pytest.approx(statistic, rel=1e-10)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5])
def test_check_confidence_refuses_what_is_not_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ParamError) as caught:
        stats.normal_quantile(confidence)
    assert str(caught.value) == f"`confidence` is {confidence!r}; it must lie between 0 and 1, such as 0.95."


def test_newcombe_intervals_are_those_of_each_pair() -> None:
    hits, trials, others, other_trials = [56, 7, 0], [70, 25, 0], [48, 20, 3], [80, 31, 9]
    low, high = stats.newcombe_intervals(hits, trials, others, other_trials, confidence=0.9)
    for k in (0, 1):
        pair = stats.newcombe_interval((hits[k], others[k]), (trials[k], other_trials[k]), confidence=0.9)
        assert (low[k], high[k]) == pytest.approx(pair)
    assert np.isnan([low[2], high[2]]).all()


def test_compare_shares_is_the_chi_square_test_of_large_tables() -> None:
    tables = [[(40, 60), (30, 90)], [(400, 9_600), (380, 9_620)]]
    expected = [scipy_stats.chi2_contingency(table, correction=False).pvalue for table in tables]
    found = stats.compare_shares([40, 400], [100, 10_000], [30, 380], [120, 10_000])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


# Fisher (1935): the lady tasting tea names 3 of 4 cups rightly, one-sided 0.243 and two-sided 0.486.
@pytest.mark.parametrize(
    ("hits", "trials", "others", "other_trials", "p_value"),
    [(3, 4, 1, 4, 17 / 35), (0, 30, 0, 50, 1.0), (0, 30, 6, 30, 2 * comb(30, 6) / comb(60, 6))],
)
def test_compare_shares_is_exact_for_small_tables(
    hits: int, trials: int, others: int, other_trials: int, p_value: float
) -> None:
    assert stats.compare_shares([hits], [trials], [others], [other_trials])[0] == pytest.approx(p_value)


def test_compare_shares_is_unknown_when_a_side_is_empty() -> None:
    assert np.isnan(stats.compare_shares([0, 3], [0, 9], [3, 0], [9, 0])).all()


def test_smallest_expected_is_that_of_the_contingency_table() -> None:
    expected = scipy_stats.contingency.expected_freq([[3, 17], [9, 91]]).min()
    assert stats.smallest_expected([3], [20], [9], [100])[0] == pytest.approx(expected)


def test_design_effect_is_the_clustered_variance_of_a_mean_over_the_independent_one() -> None:
    rng = np.random.default_rng(2)
    clusters = rng.integers(40, size=300)
    hits = rng.random(300) < (0.2 + 0.6 * rng.random(40))[clusters]
    model = sm.OLS(hits.astype(float), np.ones(300))
    robust = model.fit(cov_type="cluster", cov_kwds={"groups": clusters}).bse[0] ** 2
    independent = hits.mean() * (1 - hits.mean()) / 300
    found = stats.design_effect(np.bincount(clusters, hits), np.bincount(clusters))
    assert found == pytest.approx(robust / independent)


@pytest.mark.parametrize(
    ("hits", "trials", "effect"),
    [
        ([2, 0, 1], [2, 2, 1], 2.8),  # residuals 0.8, -1.2, 0.4: 3/2 x 2.24 / (5 x 0.6 x 0.4)
        ([2, 2, 1], [2, 2, 1], 5 / 3),  # all do it: 3 clusters say it
        ([1, 1, 0, 0], [2, 2, 1, 1], 1),  # less than independent trials vary
        ([0, 0], [0, 0], 1),
        ([1], [4], 4),
    ],
)
def test_design_effect_holds_for_cases_counted_by_hand(hits: list[int], trials: list[int], effect: float) -> None:
    assert stats.design_effect(hits, trials) == pytest.approx(effect)


def test_delta_error_is_that_of_a_sum_and_of_a_ratio() -> None:
    rng = np.random.default_rng(4)
    parts = rng.gamma(2, size=(2, 50))
    (top, bottom), totals, moments = parts, parts.sum(axis=1), parts @ parts.T
    assert stats.delta_error([1, 0], totals, moments, 50) == pytest.approx(np.sqrt(50) * top.std(ddof=1))
    ratio = totals[0] / totals[1]
    residual = np.sqrt(50 / 49 * ((top - ratio * bottom) ** 2).sum()) / totals[1]
    assert stats.delta_error([1 / totals[1], -ratio / totals[1]], totals, moments, 50) == pytest.approx(residual)
    assert np.isnan(stats.delta_error([1, 0], totals, moments, 1))


def test_estimate_curve_is_that_of_scipy_with_its_log_log_interval() -> None:
    rng = np.random.default_rng(6)
    seconds, happened = rng.integers(1, 60, 200).astype(float), rng.random(200) < 0.6
    curve = stats.estimate_curve(seconds, happened, confidence=0.9)
    data = scipy_stats.CensoredData(uncensored=seconds[happened], right=seconds[~happened])
    left = scipy_stats.ecdf(data).sf
    with pytest.warns(RuntimeWarning, match="undefined at some observations"):
        bounds: Any = left.confidence_interval(0.9, method="log-log")  # scipy's types take its bounds for numbers
    at = curve["seconds"]
    np.testing.assert_allclose(curve["share"], 1 - left.evaluate(at))
    known = (left.evaluate(at) > 0) & (left.evaluate(at) < 1)
    np.testing.assert_allclose(curve["share_ci_lower"][known], 1 - bounds.high.evaluate(at)[known])
    np.testing.assert_allclose(curve["share_ci_upper"][known], 1 - bounds.low.evaluate(at)[known])
    assert list(curve["at_risk"]) == [(seconds >= second).sum() for second in at]
    assert list(curve["converted"]) == [((seconds == second) & happened).sum() for second in at]


def test_estimate_curve_widens_by_the_design_effect_and_has_no_interval_once_all_have_done_it() -> None:
    curve = stats.estimate_curve([1, 2, 3, 4], [True] * 4, effect=2.5)
    left = np.array([3, 2, 1]) / 4
    error = np.sqrt(2.5 * (1 - left) / (4 * left))  # Greenwood's variance without censoring is binomial
    reach = Z * error / -np.log(left)
    np.testing.assert_allclose(curve["share_ci_upper"][:3], 1 - left ** np.exp(reach))
    np.testing.assert_allclose(curve["share_ci_lower"][:3], 1 - left ** np.exp(-reach))
    assert curve.loc[3, "share"] == 1
    assert curve.loc[3, ["share_ci_lower", "share_ci_upper"]].isna().all()


def posterior_mean(effects: tuple[float, float], errors: tuple[float, float]) -> tuple[float, float]:
    """Work out the shrunk means of two effects by integrating over both, for flat weights of the prior's parts.

    Under flat Dirichlet weights two effects have the same part with twice the chance of any other pair.
    """
    (first, second), least = effects, min(errors)
    largest = max(2 * np.sqrt(max(first**2 - errors[0] ** 2, second**2 - errors[1] ** 2)), *errors)
    steps = int(np.ceil(2 * np.log2(largest / (least / 2))))
    spreads = [
        1e-5,
        *(largest / 2 ** (step / 2) for step in range(steps + 1)),
    ]  # the first stands for the point at zero
    grid = np.linspace(-3, 3, 300_001)
    pieces = np.array(
        [
            [
                [np.trapezoid(scipy_stats.norm.pdf(grid, 0, s) * seen * power, grid) for power in (1, grid)]
                for s in spreads
            ]
            for seen in (scipy_stats.norm.pdf(e, grid, d) for e, d in zip(effects, errors, strict=True))
        ]
    )
    pairs = 1 + np.eye(len(spreads))
    total = pieces[0, :, 0] @ pairs @ pieces[1, :, 0]
    return (
        float(pieces[0, :, 1] @ pairs @ pieces[1, :, 0] / total),
        float(pieces[0, :, 0] @ pairs @ pieces[1, :, 1] / total),
    )


@pytest.mark.parametrize("effects", [(0.25, -0.05), (0.08, 0.12), (-0.3, 0.6)])
def test_shrink_is_the_posterior_integrated_over_effects_and_weights(effects: tuple[float, float]) -> None:
    errors = (0.1, 0.07)
    means = stats.shrink(effects, errors, draws=200_000, seed=6).mean(axis=1)
    np.testing.assert_allclose(means, posterior_mean(effects, errors), atol=0.001)


def test_shrink_covers_true_effects_as_often_as_it_says_on_average() -> None:
    rng = np.random.default_rng(11)
    covered, closer = [], []
    for seed in range(400):
        kinds = (
            rng.normal(0, 0.03, 10),
            rng.normal(0, 0.01, 10),
            rng.laplace(0, 0.02, 10),
            np.where(rng.random(10) < 0.7, 0, rng.normal(0, 0.05, 10)),
            np.where(rng.random(10) < 0.5, 0, rng.exponential(0.04, 10)),
        )
        truth, error = kinds[seed % 5], rng.uniform(0.005, 0.03, 10)
        seen = truth + error * rng.standard_normal(10)
        draws = stats.shrink(seen, error, draws=2_000, seed=seed)
        low, high = np.quantile(draws, [0.025, 0.975], axis=1)
        covered.append((low <= truth) & (truth <= high))
        closer.append([((draws.mean(axis=1) - truth) ** 2).sum(), ((seen - truth) ** 2).sum()])
    # 4,000 effects: four standard errors of a share of 95% are 1.4 points.
    assert 0.936 <= np.mean(covered) <= 0.964
    shrunk, plain = np.sum(closer, axis=0)
    assert shrunk < 0.75 * plain


def test_shrink_finds_nothing_where_nothing_is() -> None:
    rng = np.random.default_rng(13)
    found = []
    for seed in range(100):
        error = rng.uniform(0.005, 0.03, 10)
        draws = stats.shrink(error * rng.standard_normal(10), error, draws=2_000, seed=seed)
        low, high = np.quantile(draws, [0.025, 0.975], axis=1)
        found.append(((low > 0) | (high < 0)).any())
    assert np.mean(found) <= 0.05


def solve_fieller(top: tuple[float, float], bottom: tuple[float, float], covariance: float) -> list[float]:
    """Solve (a - r b)^2 = z^2 var(a - r b) for r."""
    (a, a_error), (b, b_error) = top, bottom
    square = [b**2, -2 * a * b, a**2]
    spread = [b_error**2, -2 * covariance, a_error**2]
    return sorted(float(root) for root in np.roots(np.array(square) - Z**2 * np.array(spread)))


@pytest.mark.parametrize("covariance", [0.0, 0.0004, -0.0004])
def test_fieller_interval_solves_its_equation(covariance: float) -> None:
    top, bottom = (0.15, 0.02), (0.25, 0.05)
    found = stats.fieller_interval(top, bottom, covariance=covariance)
    np.testing.assert_allclose(found, solve_fieller(top, bottom, covariance), rtol=1e-12)
    # The ratio changes its sign with one of the two, and its ends change places.
    turned = stats.fieller_interval((-0.15, 0.02), bottom, covariance=-covariance)
    np.testing.assert_allclose(turned, [-found[1], -found[0]], rtol=1e-12)


def test_fieller_interval_of_an_exact_denominator_is_the_plain_one() -> None:
    np.testing.assert_allclose(
        stats.fieller_interval((0.2, 0.03), (0.5, 0.0)), [(0.2 - Z * 0.03) / 0.5, (0.2 + Z * 0.03) / 0.5], rtol=1e-12
    )


@pytest.mark.parametrize("bottom", [(0.0, 0.01), (0.019, 0.01), (-0.01, 0.01)])
def test_fieller_interval_has_no_bounds_where_the_denominator_may_be_zero(bottom: tuple[float, float]) -> None:
    assert np.isnan(stats.fieller_interval((0.2, 0.03), bottom)).all()


def test_fieller_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    rng = np.random.default_rng(12)
    spread = np.array([[0.01**2, 0.00002], [0.00002, 0.005**2]])
    inside = []
    for bottom, top in rng.multivariate_normal([0.06, 0.02], spread, 4_000):
        low, high = stats.fieller_interval((top, 0.005), (bottom, 0.01), covariance=0.00002)
        inside.append(low <= 1 / 3 <= high)
    assert 0.94 <= np.mean(inside) <= 0.96


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_sequence_reach_is_the_closed_form(confidence: float) -> None:
    # Theorem 2.2 of Waudby-Smith et al. (2024): sqrt(2 (n r^2 + 1) / (n^2 r^2) log(sqrt(n r^2 + 1) / a)) standard
    # deviations, so the root of n times that in standard errors; with r^2 = (-2 log a + log(1 - 2 log a)) / n*.
    level, units, planned = 1 - confidence, 400, 1_000
    rho = np.sqrt((-2 * np.log(level) + np.log(1 - 2 * np.log(level))) / planned)
    spread = 2 * (units * rho**2 + 1) / (units**2 * rho**2) * np.log(np.sqrt(units * rho**2 + 1) / level)
    found = stats.sequence_reach([units, 0], planned, confidence=confidence)
    assert found[0] == pytest.approx(np.sqrt(units) * np.sqrt(spread), rel=1e-12)
    assert not np.isfinite(found[1])


def test_sequence_reach_makes_intervals_shortest_near_the_planned_units() -> None:
    # With a fixed number of units the best of all scales is that of the planned number.
    planned = np.arange(200, 5_000, 10)
    reach = [float(stats.sequence_reach(1_000, float(each))) for each in planned]
    assert planned[np.argmin(reach)] == pytest.approx(1_000, rel=0.05)
    assert Z < min(reach) < 1.55 * Z


def test_sequence_p_value_is_the_level_at_which_the_interval_ends_at_zero() -> None:
    units = np.array([50, 1_000, 20_000])
    reach = stats.sequence_reach(units, 1_000)
    np.testing.assert_allclose(stats.sequence_p_value(reach, units, 1_000), 0.05, rtol=1e-12)
    np.testing.assert_allclose(stats.sequence_p_value(-reach, units, 1_000), 0.05, rtol=1e-12)
    np.testing.assert_array_equal(stats.sequence_p_value(0, units, 1_000), 1)


def test_sequence_reach_holds_at_all_of_100_looks_together() -> None:
    rng = np.random.default_rng(3)
    sums = rng.normal(scale=np.sqrt(50), size=(2_000, 100)).cumsum(axis=1)
    units = 50 * np.arange(1, 101)
    z = sums / np.sqrt(units)
    assert (np.abs(z) > stats.sequence_reach(units, 2_500)).any(axis=1).mean() <= 0.05
    assert (stats.sequence_p_value(z, units, 2_500) < 0.05).any(axis=1).mean() <= 0.05
    # What the usual interval does when looked at as often.
    assert (np.abs(z) > Z).any(axis=1).mean() > 0.3


# Dunnett (1964), Biometrics 20:482, table II, two-sided 5%, infinite degrees of freedom, arms of equal size.
@pytest.mark.parametrize(("arms", "critical"), [(2, 2.212), (3, 2.349), (4, 2.442), (5, 2.511), (9, 2.686)])
def test_simultaneous_level_is_that_of_dunnetts_table(arms: int, critical: float) -> None:
    level = stats.simultaneous_level([0.5] * arms)
    assert scipy_stats.norm.ppf((1 + level) / 2) == pytest.approx(critical, abs=6e-4)


def test_simultaneous_level_of_one_comparison_is_its_own() -> None:
    assert stats.simultaneous_level([0.5]) == 0.95
    assert stats.simultaneous_level([0.3, np.nan], confidence=0.9) == 0.9
    np.testing.assert_array_equal(stats.adjust_for_control([0.03], [0.5]), [0.03])


def test_simultaneous_level_of_unrelated_comparisons_is_sidaks() -> None:
    assert stats.simultaneous_level([0, 0, 0]) == pytest.approx(0.95 ** (1 / 3), abs=1e-9)
    np.testing.assert_allclose(stats.adjust_for_control([0.01, 0.2], [0, 0]), [1 - 0.99**2, 1 - 0.8**2], rtol=1e-9)


@pytest.mark.parametrize("shared", [(0.5, 0.5), (0.5, 0.5, 0.5), (0.1, 0.9), (0.95, 0.95)])
def test_adjust_for_control_is_the_chance_outside_a_box_of_normals(shared: tuple[float, ...]) -> None:
    loading = np.sqrt(shared)
    spread = np.outer(loading, loading)
    np.fill_diagonal(spread, 1)
    p_values = np.array([0.02, 0.2, 0.6])[: len(shared)]
    normal: Any = scipy_stats.multivariate_normal
    edges = [np.full(len(shared), reach) for reach in scipy_stats.norm.isf(p_values / 2)]
    exact = {"mean": np.zeros(len(shared)), "cov": spread, "abseps": 1e-9, "releps": 1e-9}
    expected = [1 - normal.cdf(edge, lower_limit=-edge, **exact) for edge in edges]
    np.testing.assert_allclose(stats.adjust_for_control(p_values, shared), expected, atol=1e-7)


def test_adjust_for_control_is_scipys_dunnett_for_large_samples() -> None:
    rng = np.random.default_rng(8)
    control, *arms = (rng.normal(loc, size=20_000) for loc in (0, 0.01, 0.02, 0.03))
    expected = scipy_stats.dunnett(*arms, control=control, rng=np.random.default_rng(1))
    alone = 2 * scipy_stats.norm.sf(np.abs(expected.statistic))
    np.testing.assert_allclose(stats.adjust_for_control(alone, [0.5] * 3), expected.pvalue, atol=5e-4)


def test_adjust_for_control_agrees_with_the_level_and_leaves_the_unknown() -> None:
    shared = [0.5, np.nan, 0.3]
    alone = 1 - stats.simultaneous_level(shared)
    found = stats.adjust_for_control([alone, np.nan, 0.0], shared)
    np.testing.assert_allclose(found, [0.05, np.nan, 0], atol=1e-9)
