"""The statistics that the analyses share, from statsmodels and scipy, for whole columns at once."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike, NDArray

from convlib.errors import ParamError
from convlib.lazy import LazyModule

if TYPE_CHECKING:
    from statsmodels.duration import survfunc
    from statsmodels.stats import proportion
else:
    survfunc, proportion = map(LazyModule, ("statsmodels.duration.survfunc", "statsmodels.stats.proportion"))

Floats = NDArray[np.float64]
#: The one confidence level of reports.
CONFIDENCE = 0.95
#: What counts as evidence after the control for multiple tests.
SIGNIFICANCE = 0.05
#: What a test is to find an effect with.
POWER = 0.8
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
    if not isinstance(confidence, int | float) or not 0 < confidence < 1:
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
        low[some], high[some] = proportion.proportion_confint(
            hits[some], total[some], alpha=1 - confidence, method="wilson"
        )
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
        low[some], high[some] = proportion.confint_proportions_2indep(
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
        p_values[cell] = scipy.stats.fisher_exact(np.array(table, np.int64)).pvalue
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
    curve = survfunc.SurvfuncRight(np.asarray(seconds, float), np.asarray(happened, float))
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
        q[known] = scipy.stats.false_discovery_control(np.clip(p[known], 0, 1), method="bh")
    return q


def compare_normal(estimates: ArrayLike, standard_errors: ArrayLike) -> Floats:
    """Give the two-sided p-value of each estimate against zero; NaN where the standard error is not positive."""
    return 2 * scipy.stats.norm.sf(np.abs(_safe_ratio(estimates, standard_errors)))


def pooled_error(successes: ArrayLike, trials: ArrayLike, others: ArrayLike, other_trials: ArrayLike) -> Floats:
    """Give the standard error of the difference of two proportions when they are equal (the two-sample z-test)."""
    hits, total = np.asarray(successes, float), np.asarray(trials, float)
    more, more_total = np.asarray(others, float), np.asarray(other_trials, float)
    share = divide(hits + more, total + more_total)
    # Rounding may leave a share a little above 1.
    return np.sqrt(np.maximum(share * (1 - share), 0.0) * (divide(1, total) + divide(1, more_total)))


def normal_quantile(confidence: float) -> float:
    """Give how many standard errors a two-sided interval reaches.

    Raises:
        ParamError: The confidence is not between 0 and 1.
    """
    check_confidence(confidence)
    return float(scipy.stats.norm.ppf(0.5 + confidence / 2))


def e_value(risk_ratio: ArrayLike) -> Floats:
    """Say how strong an unmeasured confounder would have to be, as a risk ratio, to explain the association away.

    Source: VanderWeele and Ding (2017), Annals of Internal Medicine 167:268.
    """
    ratio = np.asarray(risk_ratio, float)
    above = np.where(ratio >= 1, ratio, divide(1, ratio))
    return np.where(above >= 1, above + np.sqrt(np.maximum(above * (above - 1), 0)), np.nan)


def compare_effects(effects: ArrayLike, standard_errors: ArrayLike) -> float:
    """Give the p-value of equal effects over independent groups (Wald; Cochran's Q); NaN with fewer than two."""
    effect, error = np.asarray(effects, float), np.asarray(standard_errors, float)
    known = np.isfinite(effect) & (error > 0)
    if known.sum() < 2:
        return np.nan
    weight = 1 / error[known] ** 2
    mean = np.average(effect[known], weights=weight)
    return float(scipy.stats.chi2.sf(weight @ (effect[known] - mean) ** 2, known.sum() - 1))


def shrink(estimates: ArrayLike, standard_errors: ArrayLike, *, draws: int, seed: int) -> Floats:
    """Draw from what is known of each effect once it is shrunk towards zero by its own uncertainty.

    The prior of all effects is a mixture of normals centred at zero, one of them a point mass, so it is unimodal at
    zero. Its weights are drawn along with the effects, not fixed at their best fit: a handful of estimates leaves them
    so open that intervals which take them as known would be far too short.

    Returns:
        Posterior draws, estimates x draws; NaN rows where an estimate or its error is unknown.

    Source: the prior is that of Stephens (2017), Biostatistics 18:275; the weights have a flat Dirichlet prior, by
        importance resampling (Rubin 1988).
    """
    effect, error = np.asarray(estimates, float), np.asarray(standard_errors, float)
    sample = np.full((len(effect), draws), np.nan)
    known = np.flatnonzero(np.isfinite(effect) & (error > 0))
    if not len(known):
        return sample
    rng = np.random.default_rng(seed)
    scales = _prior_scales(effect[known], error[known])
    spread = np.hypot(error[known, None], scales)
    fit = -0.5 * (effect[known, None] / spread) ** 2 - np.log(spread)
    likelihood = np.exp(fit - fit.max(axis=1, keepdims=True))
    weights = rng.dirichlet(np.ones(len(scales)), draws)
    chance = np.log(weights @ likelihood.T).sum(axis=1)
    chance = np.exp(chance - chance.max())
    weights = weights[rng.choice(draws, draws, p=chance / chance.sum())]
    for row, parts in zip(known, likelihood, strict=True):
        reached = np.cumsum(weights * parts, axis=1)
        part = (rng.random((draws, 1)) * reached[:, -1:] > reached[:, :-1]).sum(axis=1)
        share = scales[part] ** 2 / (scales[part] ** 2 + error[row] ** 2)
        sample[row] = share * effect[row] + np.sqrt(share) * error[row] * rng.standard_normal(draws)
    return sample


def _prior_scales(effect: Floats, error: Floats) -> Floats:
    """Give the spreads of the prior's parts: none, then from half the least error to beyond the largest effect."""
    largest = max(2 * np.sqrt(max(float(np.max(effect**2 - error**2)), 0)), float(np.max(error)))
    smallest = float(np.min(error)) / 2
    steps = int(np.ceil(2 * np.log2(largest / smallest)))
    return np.concatenate([[0.0], largest / np.sqrt(2) ** np.arange(steps, -1, -1)])


def fieller_interval(
    ratio_of: tuple[float, float],
    to: tuple[float, float],
    *,
    covariance: float = 0.0,
    confidence: float = CONFIDENCE,
    reach: float | None = None,
) -> tuple[float, float]:
    """Give the interval of the ratio of two normal estimates; NaN unless the second clearly differs from zero.

    Args:
        ratio_of: The numerator and its standard error.
        to: The denominator and its standard error.
        covariance: Of the two.
        confidence: Level of the interval.
        reach: How many standard errors it reaches instead, such as those of Student's distribution.

    Source: Fieller (1954), Journal of the Royal Statistical Society B 16:175. Where his `g`, the squared critical value
        over the denominator's squared z, reaches 1, the ratio is not bounded.
    """
    (top, top_error), (bottom, bottom_error) = ratio_of, to
    square = (normal_quantile(confidence) if reach is None else reach) ** 2
    divisor = bottom**2 - square * bottom_error**2
    if divisor <= 0:
        return np.nan, np.nan
    middle = top * bottom - square * covariance
    reach = np.sqrt(max(middle**2 - divisor * (top**2 - square * top_error**2), 0))
    return float((middle - reach) / divisor), float((middle + reach) / divisor)


def measure_area(
    scores: ArrayLike, happened: ArrayLike, *, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Say how often what happened has the higher score than what did not, ties counted half, with its interval.

    That is the area under the ROC curve, and Mann and Whitney's U over its largest value.

    Returns:
        The area and both ends of its interval, kept within 0 and 1; NaN without two of either kind.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837; by ranks as in Sun and Xu (2014), IEEE Signal
        Processing Letters 21:1389.
    """
    score, is_one = np.asarray(scores, float), np.asarray(happened, bool)
    ones, others = score[is_one], score[~is_one]
    if min(len(ones), len(others)) < 2:
        return np.nan, np.nan, np.nan
    rank = scipy.stats.rankdata(score)
    below = (rank[is_one] - scipy.stats.rankdata(ones)) / len(others)
    above = 1 - (rank[~is_one] - scipy.stats.rankdata(others)) / len(ones)
    area = float(below.mean())
    error = np.sqrt(below.var(ddof=1) / len(ones) + above.var(ddof=1) / len(others))
    low, high = np.clip(area + normal_quantile(confidence) * error * np.array([-1, 1]), 0, 1)
    return area, float(low), float(high)


def sequence_reach(units: ArrayLike, planned: float, *, confidence: float = CONFIDENCE) -> Floats:
    """Say how many standard errors an interval reaches that may be looked at as often as one likes; infinite at none.

    Args:
        units: How many units the estimate rests on.
        planned: At how many it is to be as short as it can be.
        confidence: With which it holds at all times together.

    Source: the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), Annals of
        Statistics 52:2613, theorem 2.2: the mixture of Robbins (1970), with its scale as in Howard, Ramdas, McAuliffe
        and Sekhon (2021), Annals of Statistics 49:1055, proposition 3.
    """
    check_confidence(confidence)
    level = 1 - confidence
    time = np.asarray(units, float) * _mixture_scale(planned, level)
    reach: Floats = np.sqrt(divide(2 * (time + 1), time) * np.log(np.sqrt(time + 1) / level))
    return reach


def sequence_p_value(z: ArrayLike, units: ArrayLike, planned: float, *, confidence: float = CONFIDENCE) -> Floats:
    """Give the least level at which such an interval leaves zero out: a p-value that may be looked at at any time.

    Args:
        z: The estimate in standard errors.
        units: As for `sequence_reach`.
        planned: As for `sequence_reach`.
        confidence: The one for which the intervals are made as short as they can be.
    """
    time = np.asarray(units, float) * _mixture_scale(planned, 1 - confidence)
    exponent = divide(np.square(np.asarray(z, float)) * time, 2 * (time + 1))
    p_value: Floats = np.minimum(np.sqrt(time + 1) * np.exp(-exponent), 1.0)
    return p_value


def _mixture_scale(planned: float, level: float) -> float:
    """Give the variance of the mixing normal that makes the interval short after so many units."""
    once = 2 * np.log(1 / level)
    return float((once + np.log(1 + once)) / planned)


def simultaneous_level(shared: ArrayLike, *, confidence: float = CONFIDENCE) -> float:
    """Give the level of each of several comparisons with one control at which all hold together.

    Args:
        shared: For each comparison, the share of its variance that comes from the control.
        confidence: With which all hold.

    Source: Dunnett (1955), Journal of the American Statistical Association 50:1096, for large samples.
    """
    shares = _check_shared(shared)
    if len(shares) < 2:
        return confidence
    reach = scipy.optimize.brentq(lambda reach: float(_hold_together(reach, shares)) - confidence, 0.5, 12)
    return float(1 - 2 * scipy.stats.norm.sf(reach))


def adjust_for_control(p_values: ArrayLike, shared: ArrayLike) -> Floats:
    """Give the p-values of comparisons with one control, each adjusted for all of them; NaN stays.

    Args:
        p_values: Of each comparison alone, two-sided.
        shared: As for `simultaneous_level`.
    """
    alone = np.asarray(p_values, float)
    known = np.isfinite(alone)
    shares = _check_shared(np.asarray(shared, float)[known])
    adjusted = alone.copy()
    if len(shares) > 1:
        reach = scipy.stats.norm.isf(alone[known] / 2)
        adjusted[known] = np.maximum([1 - _hold_together(each, shares) for each in reach], alone[known])
    return adjusted


def _check_shared(shared: ArrayLike) -> Floats:
    shares = np.asarray(shared, float)
    # A correlation of one has no density; so near to it nothing changes any more.
    known: Floats = np.minimum(shares[np.isfinite(shares)], 0.999)
    return known


def _hold_together(reach: float, shared: Floats) -> float:
    """Give the chance that no comparison is off by more than so many standard errors, over the control's error."""
    # Nine standard errors to either side, in steps in which also steep edges are followed.
    nodes = np.linspace(-9, 9, 361)
    weights = np.exp(-(nodes**2) / 2)
    centre, spread = np.sqrt(shared)[:, None] * nodes, np.sqrt(1 - shared)[:, None]
    normal = scipy.stats.norm.cdf
    inside = normal((reach - centre) / spread) - normal((-reach - centre) / spread)
    return float(inside.prod(axis=0) @ weights / weights.sum())


def number_groups(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Number the distinct rows of a frame, from 0, in order of appearance."""
    if not len(frame.columns):
        return np.zeros(len(frame), np.int64)
    return np.asarray(frame.groupby(list(frame.columns), sort=False, dropna=False).ngroup(), np.int64)


def _safe_ratio(top: ArrayLike, bottom: ArrayLike) -> Floats:
    errors = np.asarray(bottom, float)
    return divide(top, np.where(errors > 0, errors, 0))
