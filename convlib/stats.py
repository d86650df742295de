"""The statistics that the analyses share, from statsmodels and scipy, for whole columns at once."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats as scipy_stats
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from convlib.errors import ParamError

Floats = NDArray[np.float64]
#: The one confidence level of reports.
CONFIDENCE = 0.95
#: What counts as evidence after the control for multiple tests.
SIGNIFICANCE = 0.05
#: A rate on fewer units is marked as too few.
FEW_UNITS = 30
#: A table with fewer in a cell than this, by expectation, needs an exact test.
FEW_EXPECTED = 5
#: Less variation than this is none, but for rounding.
TINY = 1e-9


def check_confidence(confidence: float) -> None:
    """Refuse a level of confidence that is not between 0 and 1.

    Raises:
        ParamError: It is not.
    """
    if not 0 < confidence < 1:
        msg = f"`confidence` is {confidence!r}; it must lie between 0 and 1, such as 0.95."
        raise ParamError(msg)


def divide(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Divide, with NaN where the denominator is zero: an undefined rate, not 0."""
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    result: Floats = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=result, where=bottom != 0)
    return result


def wilson_interval(
    successes: ArrayLike, trials: ArrayLike, *, confidence: float = CONFIDENCE
) -> tuple[Floats, Floats]:
    """Give Wilson's score interval of each proportion; NaN without trials.

    Source: Wilson (1927), through statsmodels `proportion_confint(method="wilson")`.
    """
    hits, total = np.atleast_1d(np.asarray(successes, float)), np.atleast_1d(np.asarray(trials, float))
    low, high = np.full(total.shape, np.nan), np.full(total.shape, np.nan)
    some = total > 0
    if some.any():
        low[some], high[some] = proportion_confint(hits[some], total[some], alpha=1 - confidence, method="wilson")
    # The formula's rounding leaves 5e-17 where the bound is exactly 0 (no success) or 1 (all successes).
    return np.where(hits == 0, low * 0, low), np.where(hits == total, high * 0 + 1, high)


def newcombe_interval(
    successes: tuple[float, float], trials: tuple[float, float], *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Give Newcombe's hybrid score interval of the difference of two proportions, first minus second."""
    pair = ([successes[0]], [trials[0]], [successes[1]], [trials[1]])
    low, high = newcombe_intervals(*pair, confidence=confidence)
    return float(low[0]), float(high[0])


def newcombe_intervals(
    successes: ArrayLike,
    trials: ArrayLike,
    others: ArrayLike,
    other_trials: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
) -> tuple[Floats, Floats]:
    """Give Newcombe's hybrid score intervals of differences of two proportions; NaN where a side has no trials.

    Source: Newcombe (1998), method 10, through statsmodels `confint_proportions_2indep(method="newcomb")`.
    """
    sides = np.array([successes, trials, others, other_trials], float)
    low, high = np.full(sides.shape[1], np.nan), np.full(sides.shape[1], np.nan)
    some = (sides[1] > 0) & (sides[3] > 0)
    if some.any():
        low[some], high[some] = confint_proportions_2indep(
            *sides[:, some], method="newcomb", compare="diff", alpha=1 - confidence
        )
    return low, high


def compare_shares(successes: ArrayLike, trials: ArrayLike, others: ArrayLike, other_trials: ArrayLike) -> Floats:
    """Give the two-sided p-value of each pair of equal proportions; NaN where a side has no trials.

    Source: the two-sample z-test (Pearson's chi-square, 1900); where a cell of the table is expected to hold fewer than
        5 (Cochran 1954), Fisher's (1935) exact test, through `scipy.stats.fisher_exact`.
    """
    hits, total, more, more_total = sides = np.array([successes, trials, others, other_trials], float)
    p_values = compare_normal(divide(hits, total) - divide(more, more_total), pooled_error(*sides))
    for cell in np.flatnonzero((smallest_expected(*sides) < FEW_EXPECTED) & (total > 0) & (more_total > 0)):
        table = [[hits[cell], total[cell] - hits[cell]], [more[cell], more_total[cell] - more[cell]]]
        p_values[cell] = scipy_stats.fisher_exact(np.array(table, np.int64)).pvalue
    return p_values


def smallest_expected(successes: ArrayLike, trials: ArrayLike, others: ArrayLike, other_trials: ArrayLike) -> Floats:
    """Give the least count that a cell of the table of two equal proportions is expected to hold."""
    hits, total, more, more_total = np.array([successes, trials, others, other_trials], float)
    share = divide(hits + more, total + more_total)
    smallest: Floats = np.minimum(total, more_total) * np.minimum(share, 1 - share)
    return smallest


def design_effect(successes: ArrayLike, trials: ArrayLike) -> float:
    """Say how much more a rate varies than one of as many independent trials, by the sums of each cluster; at least 1.

    Source: Kish (1965), Survey Sampling, 5.4; the variance is that of a ratio of totals over clusters. Counts divided
        by it may be used as if independent: Rao and Scott (1992), Biometrics 48:577.
    """
    hits, tried = np.asarray(successes, float), np.asarray(trials, float)
    total, clusters = float(tried.sum()), np.count_nonzero(tried)
    if total == 0:
        return 1.0
    rate = float(hits.sum()) / total
    if clusters < 2 or rate in (0, 1):
        return total / clusters  # nothing varies, so each cluster says one thing
    # Sums of whole numbers are exact, whatever the order of the clusters.
    errors = float((hits * hits).sum() - 2 * rate * (hits * tried).sum() + rate**2 * (tried * tried).sum())
    return max(1.0, clusters / (clusters - 1) * errors / (total * rate * (1 - rate)))


def delta_error(gradient: ArrayLike, totals: ArrayLike, moments: ArrayLike, samples: int) -> float:
    """Give the standard error of a smooth function of sums over independent samples; NaN for fewer than two.

    Args:
        gradient: The function's derivative by each sum.
        totals: The sums.
        moments: For each two sums, the sum over samples of the product of their parts.
        samples: How many samples there are.

    Source: the delta method (Oehlert 1992, The American Statistician 46:27).
    """
    if samples < 2:
        return np.nan
    slope, sums = np.asarray(gradient, float), np.asarray(totals, float)
    spread = float(slope @ np.asarray(moments, float) @ slope - (slope @ sums) ** 2 / samples)
    return float(np.sqrt(max(spread, 0.0) * samples / (samples - 1)))


def estimate_curve(
    seconds: ArrayLike, happened: ArrayLike, *, effect: float = 1.0, confidence: float = CONFIDENCE
) -> pd.DataFrame:
    """Estimate which share has done something after some time, when others are watched for a part of the time only.

    Args:
        seconds: Until it happened, or until nobody looked any more.
        happened: Whether it did.
        effect: How much more the share varies than one of independent units.
        confidence: Level of the intervals.

    Returns:
        One row for each time at which it happened: `seconds`, `at_risk` just before, `converted`, `share`, and its
        interval, which is NaN once it has happened to all.

    Source: Kaplan and Meier (1958) with Greenwood's variance, through statsmodels `SurvfuncRight`; the interval is that
        of log(-log(1 - share)) (Kalbfleisch and Prentice 1980), so it stays within 0 and 1.
    """
    curve = SurvfuncRight(np.asarray(seconds, float), np.asarray(happened, float))
    left = np.asarray(curve.surv_prob)
    # Where nobody is left, neither the logarithm nor Greenwood's variance exists.
    log_left = np.log(np.where(left > 0, left, np.nan))
    reach = normal_quantile(confidence) * np.sqrt(effect) * divide(curve.surv_prob_se, left * -log_left)
    return pd.DataFrame(
        {
            "seconds": curve.surv_times,
            "at_risk": np.asarray(curve.n_risk, np.int64),
            "converted": np.asarray(curve.n_events, np.int64),
            "share": 1 - left,
            "share_ci_lower": 1 - np.exp(log_left * np.exp(-reach)),
            "share_ci_upper": 1 - np.exp(log_left * np.exp(reach)),
        }
    )


def control_false_discoveries(p_values: ArrayLike) -> Floats:
    """Give Benjamini and Hochberg's (1995) q-value of each p-value, leaving NaN out of the family."""
    p = np.asarray(p_values, float)
    q = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    if known.any():
        q[known] = scipy_stats.false_discovery_control(np.clip(p[known], 0, 1), method="bh")
    return q


def compare_normal(estimates: ArrayLike, standard_errors: ArrayLike) -> Floats:
    """Give the two-sided p-value of each estimate against zero; NaN where the standard error is not positive."""
    return 2 * scipy_stats.norm.sf(np.abs(_safe_ratio(estimates, standard_errors)))


def pooled_error(successes: ArrayLike, trials: ArrayLike, others: ArrayLike, other_trials: ArrayLike) -> Floats:
    """Give the standard error of the difference of two proportions when they are equal (the two-sample z-test)."""
    hits, total = np.asarray(successes, float), np.asarray(trials, float)
    more, more_total = np.asarray(others, float), np.asarray(other_trials, float)
    share = divide(hits + more, total + more_total)
    return np.sqrt(share * (1 - share) * (divide(1, total) + divide(1, more_total)))


def normal_quantile(confidence: float) -> float:
    """Give how many standard errors a two-sided interval reaches.

    Raises:
        ParamError: The confidence is not between 0 and 1.
    """
    check_confidence(confidence)
    return float(scipy_stats.norm.ppf(0.5 + confidence / 2))


def e_value(risk_ratio: ArrayLike) -> Floats:
    """Say how strong an unmeasured confounder would have to be, as a risk ratio, to explain the association away.

    Source: VanderWeele and Ding (2017), Annals of Internal Medicine 167:268.
    """
    ratio = np.asarray(risk_ratio, float)
    above = np.where(ratio >= 1, ratio, divide(1, ratio))
    return np.where(above >= 1, above + np.sqrt(np.maximum(above * (above - 1), 0)), np.nan)


def mantel_haenszel_difference(
    exposed: ArrayLike, outcome: ArrayLike, strata: ArrayLike, clusters: ArrayLike
) -> tuple[float, float]:
    """Estimate the common difference of risks over strata, with a standard error that holds for sparse strata.

    The Mantel-Haenszel risk difference equals the coefficient of the exposure in a linear model with one intercept a
    stratum, so its sandwich variance (HC2: squared residuals over one minus their leverage, summed within clusters)
    is the least-squares one. Strata where all or none are exposed say nothing and drop out.

    Args:
        exposed: 0 or 1 for each row.
        outcome: 0 or 1, or any number, for each row.
        strata: Stratum of each row, from 0.
        clusters: Unit of each row, from 0; rows of one unit are not independent.

    Returns:
        The difference and its standard error; NaN when no stratum has both sides.

    Source: Greenland and Robins (1985), Biometrics 41:55; MacKinnon and White (1985) for HC2; Bell and McCaffrey
        (2002) for clusters.
    """
    x, y = np.asarray(exposed, float), np.asarray(outcome, float)
    codes, groups = np.unique(np.asarray(strata), return_inverse=True)
    size = np.bincount(groups, minlength=len(codes))
    centred_x = x - (np.bincount(groups, x) / size)[groups]
    centred_y = y - (np.bincount(groups, y) / size)[groups]
    spread = float(centred_x @ centred_x)
    if spread <= TINY:
        return np.nan, np.nan
    difference = float(centred_x @ centred_y) / spread
    leverage = 1 / size[groups] + centred_x**2 / spread
    residual = (centred_y - difference * centred_x) / np.sqrt(np.maximum(1 - leverage, 1e-9))
    scores = np.bincount(np.unique(np.asarray(clusters), return_inverse=True)[1], centred_x * residual)
    return difference, float(np.sqrt(scores @ scores)) / spread


def mantel_haenszel_ratio(exposed: ArrayLike, outcome: ArrayLike, strata: ArrayLike) -> float:
    """Estimate the common ratio of risks over strata; NaN when nobody unexposed has the outcome.

    Source: Mantel and Haenszel's weights for the risk ratio (Nurminen 1981; Greenland and Robins 1985).
    """
    a, b, c, d = _count_cells(exposed, outcome, strata)[0]
    total = a + b + c + d
    return float(divide((a * (c + d) / total).sum(), (c * (a + b) / total).sum()))


def partial_phi(left: ArrayLike, right: ArrayLike, strata: ArrayLike) -> float:
    """Correlate two yes/no columns within strata (phi, for one stratum); NaN when one of them does not vary."""
    x, y = np.asarray(left, float), np.asarray(right, float)
    groups = np.unique(np.asarray(strata), return_inverse=True)[1]
    size = np.bincount(groups)
    x, y = x - (np.bincount(groups, x) / size)[groups], y - (np.bincount(groups, y) / size)[groups]
    spread = float((x @ x) * (y @ y))
    return float(x @ y) / np.sqrt(spread) if spread > TINY else np.nan


def mantel_haenszel_odds(
    exposed: ArrayLike, outcome: ArrayLike, strata: ArrayLike, clusters: ArrayLike
) -> tuple[float, float]:
    """Estimate the common odds ratio over strata, with the standard error of its logarithm, summed within clusters.

    For one stratum these are the cross ratio and Woolf's standard error.

    Returns:
        The odds ratio and the standard error of its logarithm; NaN when a cell of the pooled table is empty.

    Source: Mantel and Haenszel (1959); the variance is the sandwich of its estimating function.
    """
    (a, b, c, d), groups = _count_cells(exposed, outcome, strata)
    x, y = np.asarray(exposed, bool), np.asarray(outcome, bool)
    total = a + b + c + d
    agree, differ = float((a * d / total).sum()), float((b * c / total).sum())
    if agree == 0 or differ == 0:
        return np.nan, np.nan
    ratio = agree / differ
    pull = np.stack([d, -ratio * c, -ratio * b, a]) - (a * d - ratio * b * c) / total
    scores = np.choose(2 * ~x + ~y, (pull / total)[:, groups])
    summed = np.bincount(np.unique(np.asarray(clusters), return_inverse=True)[1], scores)
    return ratio, float(np.sqrt(summed @ summed)) / (ratio * differ)


def _count_cells(exposed: ArrayLike, outcome: ArrayLike, strata: ArrayLike) -> tuple[list[Floats], NDArray[np.int64]]:
    """Count each stratum's table, exposed with and without the outcome, then the others; number the rows' strata."""
    x, y = np.asarray(exposed, bool), np.asarray(outcome, bool)
    codes, groups = np.unique(np.asarray(strata), return_inverse=True)
    sides = (x & y, x & ~y, ~x & y, ~x & ~y)
    return [np.bincount(groups[side], minlength=len(codes)).astype(float) for side in sides], groups.astype(np.int64)


def compare_effects(effects: ArrayLike, standard_errors: ArrayLike) -> float:
    """Give the p-value of equal effects over independent groups (Wald; Cochran's Q); NaN with fewer than two."""
    effect, error = np.asarray(effects, float), np.asarray(standard_errors, float)
    known = np.isfinite(effect) & (error > 0)
    if known.sum() < 2:
        return np.nan
    weight = 1 / error[known] ** 2
    mean = np.average(effect[known], weights=weight)
    return float(scipy_stats.chi2.sf(weight @ (effect[known] - mean) ** 2, known.sum() - 1))


def shrink(estimates: ArrayLike, standard_errors: ArrayLike, *, draws: int, seed: int) -> Floats:
    """Draw from what is known of each effect once it is shrunk towards zero by its own uncertainty.

    The prior is a mixture of normals centred at zero, one of them a point mass, with weights fitted to the estimates by
    maximum penalised likelihood (penalty 10 on the point mass), as in `ash`.

    Returns:
        Posterior draws, estimates x draws; NaN rows where an estimate or its error is unknown.

    Source: Stephens (2017), Biostatistics 18:275.
    """
    effect, error = np.asarray(estimates, float), np.asarray(standard_errors, float)
    sample = np.full((len(effect), draws), np.nan)
    known = np.isfinite(effect) & (error > 0)
    if not known.any():
        return sample
    effect, error = effect[known], error[known]
    scales = _prior_scales(effect, error)
    likelihood = scipy_stats.norm.pdf(effect[:, None], 0, np.sqrt(error[:, None] ** 2 + scales**2))
    weights = _fit_weights(likelihood)
    rng = np.random.default_rng(seed)
    posterior = likelihood * weights
    posterior /= posterior.sum(axis=1, keepdims=True)
    part = (rng.random((len(effect), draws))[:, :, None] > np.cumsum(posterior, axis=1)[:, None, :-1]).sum(axis=2)
    share = scales[part] ** 2 / (scales[part] ** 2 + error[:, None] ** 2)
    sample[known] = share * effect[:, None] + np.sqrt(share) * error[:, None] * rng.standard_normal(part.shape)
    return sample


def _prior_scales(effect: Floats, error: Floats) -> Floats:
    largest = 2 * np.sqrt(max(float(np.max(effect**2 - error**2)), float(np.min(error)) ** 2 / 16))
    smallest = float(np.min(error)) / 10
    steps = max(1, int(np.ceil(2 * np.log2(max(largest / smallest, 2)))))
    return np.concatenate([[0.0], largest / np.sqrt(2) ** np.arange(steps, -1, -1)])


def _fit_weights(likelihood: Floats) -> Floats:
    penalty = np.zeros(likelihood.shape[1])
    penalty[0] = 9.0
    weights = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(2_000):
        shares = likelihood * weights
        counts = (shares / shares.sum(axis=1, keepdims=True)).sum(axis=0) + penalty
        updated = counts / counts.sum()
        if np.max(np.abs(updated - weights)) < 1e-8:
            break
        weights = updated
    return weights


def number_groups(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Number the distinct rows of a frame, from 0, in order of appearance."""
    if not len(frame.columns):
        return np.zeros(len(frame), np.int64)
    return np.asarray(frame.groupby(list(frame.columns), sort=False, dropna=False).ngroup(), np.int64)


def _safe_ratio(top: ArrayLike, bottom: ArrayLike) -> Floats:
    errors = np.asarray(bottom, float)
    return divide(top, np.where(errors > 0, errors, 0))
