"""One arm of an experiment against the control: effects and their errors, from aggregates, by tea-tasting."""

import functools
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from convlib import stats
from convlib.lazy import LazyModule
from convlib.samples import Floats, Ints, Measurement

if TYPE_CHECKING:
    import tea_tasting
    from tea_tasting.aggr import Aggregates
else:
    tea_tasting = LazyModule("tea_tasting")

Flags = NDArray[np.bool_]
#: At least so many units of an arm must have added something for a rate of its own.
FEW_CONVERSIONS = 5
#: The most skewness of a difference of means: then a bound of 2.5% fails in up to 5%. Looked at again and again, less.
MOST_SKEW, MOST_SKEW_WATCHED = 0.3, 0.15
#: Variance below this share of what it is compared with comes from rounding.
ROUNDING = 1e-12


class Comparison(NamedTuple):
    """A metric of one arm set against the control.

    Attributes:
        units: Units of the arm.
        units_control: Units of the control.
        value: The metric in the arm, adjusted by what its units did before.
        value_control: In the control.
        effect: Their difference.
        error: Its standard error.
        effect_ci_lower: Its interval.
        effect_ci_upper: Its interval.
        relative_effect: The difference as a share of the control's value; NaN unless that is clearly above zero.
        relative_error: Standard error of the logarithm of the values' ratio.
        relative_effect_ci_lower: Its interval.
        relative_effect_ci_upper: Its interval.
        p_value: Of no effect, two-sided.
        variance_reduction: By which share adjusting made the effect's variance smaller; NaN without adjusting.
        shared: The share of the effect's variance that comes from the control.
    """

    units: int
    units_control: int
    value: float = np.nan
    value_control: float = np.nan
    effect: float = np.nan
    error: float = np.nan
    effect_ci_lower: float = np.nan
    effect_ci_upper: float = np.nan
    relative_effect: float = np.nan
    relative_error: float = np.nan
    relative_effect_ci_lower: float = np.nan
    relative_effect_ci_upper: float = np.nan
    p_value: float = np.nan
    variance_reduction: float = np.nan
    shared: float = np.nan

    def widen(self, multiplier: float, p_value: float) -> "Comparison":
        """Give the intervals that reach so many standard errors, with another p-value."""
        own, other = np.sqrt(1 - self.shared) * self.error, np.sqrt(self.shared) * self.error
        low, high = stats.fieller_interval((self.value, own), (self.value_control, other), reach=multiplier)
        if np.isnan(self.relative_effect):
            low, high = np.nan, np.nan
        return self._replace(
            # A ratio to what may be nothing is no number to show.
            relative_effect=self.relative_effect if np.isfinite(low) else np.nan,
            effect_ci_lower=self.effect - multiplier * self.error,
            effect_ci_upper=self.effect + multiplier * self.error,
            relative_effect_ci_lower=low - 1,
            relative_effect_ci_upper=high - 1,
            p_value=p_value,
        )


def compare_arms(
    measure: Measurement,
    arm: Ints,
    which: int,
    *,
    confidence: float = stats.CONFIDENCE,
    adjust: bool = True,
    watched: bool = False,
    chosen: Flags | None = None,
) -> Comparison:
    """Set a metric of one arm against the control; NaN where a side has too few units or conversions.

    Args:
        measure: The metric.
        arm: The code of each unit's arm.
        which: The arm that is set against the control, whose code is 0.
        confidence: Level of the intervals.
        adjust: Whether what the units did before the experiment takes its part of the variance away (CUPED).
        watched: Whether the numbers are looked at again and again, which reaches far into the tails.
        chosen: The units to look at; None for all.

    Source: Welch (1947); for ratios the delta method of Deng, Knoblich and Lu (2018); CUPED by Deng, Xu, Kohavi and
        Walker (2013). Through tea-tasting `RatioOfMeans`. The relative effect's interval is that of the values' ratio
        (Fieller 1954), which leaves 0 out exactly where the effect's does.
    """
    sides = [(arm == code) if chosen is None else (arm == code) & chosen for code in (0, which)]
    counts = [int(side.sum()) for side in sides]
    if not _is_enough(measure, sides) or _is_lopsided(measure, sides, MOST_SKEW_WATCHED if watched else MOST_SKEW):
        return Comparison(counts[1], counts[0])
    plain = _list_columns(measure)
    columns = _list_columns(measure, adjusted=adjust and _is_known_before(measure, sides))
    first, second = (aggregate(columns, side) for side in sides)
    raw, own = (_find_variances((first, second), each) for each in (plain, columns))
    if max(raw) <= 0:
        return Comparison(counts[1], counts[0])
    # What tells the metric to the last digit holds the metric itself, and no time before it.
    if max(own) <= ROUNDING * max(raw):
        columns, own = plain, raw
    found = _compare(first, second, columns, own, confidence)
    return found if len(columns) == len(plain) else found._replace(variance_reduction=1 - sum(own) / sum(raw))


def estimate_cells(measure: Measurement, arm: Ints, size: int) -> tuple[Floats, Floats]:
    """Give the metric in each arm and its standard error; NaN where an arm has too few units or conversions."""
    columns = _list_columns(measure)
    denominator = "denom" if "denom" in columns else None
    found = np.full((2, size), np.nan)
    for code in range(size):
        if _is_enough(measure, [arm == code]):
            own = aggregate(columns, arm == code)
            variance = own.ratio_var("numer", denominator) / own.count()
            found[:, code] = own.mean("numer") / own.mean(denominator), np.sqrt(variance)
    return found[0], found[1]


def aggregate(columns: dict[str, Floats], chosen: Flags) -> "Aggregates":
    """Reduce the chosen units' columns to what tea-tasting takes: their number, means and covariances."""
    values = np.stack([column[chosen] for column in columns.values()])
    spread = np.atleast_2d(np.cov(values))
    names = list(columns)
    return tea_tasting.aggr.Aggregates(
        count_=values.shape[1],
        mean_=dict(zip(names, values.mean(axis=1).tolist(), strict=True)),
        var_=dict(zip(names, np.diag(spread).tolist(), strict=True)),
        cov_={
            (one, other): float(spread[i, j])
            for i, one in enumerate(names)
            for j, other in enumerate(names)
            if one < other
        },
    )


def _is_enough(measure: Measurement, sides: list[Flags]) -> bool:
    """Say whether enough units of the arms have added something, and of a share enough have not.

    Each arm is to have 5 by what both show (Cochran 1954): an arm in which nobody does it any more is not too little.
    """
    counts = np.array([side.sum() for side in sides])
    if counts.min() < stats.FEW_UNITS or not all(_has_base(measure, side) for side in sides):
        return False
    did = sum(int(np.count_nonzero(measure.numerator[side])) for side in sides)
    others = int(counts.sum()) - did if measure.is_share else did
    return bool(min(did, others) * counts.min() >= stats.FEW_EXPECTED * counts.sum())


def _has_base(measure: Measurement, side: Flags) -> bool:
    return measure.denominator is None or bool(measure.denominator[side].any())


def _is_lopsided(measure: Measurement, sides: list[Flags], most: float) -> bool:
    """Say whether values are too skewed for arms of such unequal size: their skews don't cancel in the difference.

    Source: the skewness of a difference of two means; Kohavi, Deng, Longbotham and Xu (2014, KDD) ask for far more.
    """
    if measure.is_share:
        return False
    both = sides[0] | sides[1]
    parts = measure.numerator[both]
    if measure.denominator is not None:
        base = measure.denominator[both]
        parts = parts - parts.sum() / base.sum() * base
    one, other = (1 / side.sum() for side in sides)
    skew = 0.0 if np.ptp(parts) == 0 else abs(float(scipy.stats.skew(parts)))
    return bool(skew * abs(one - other) > most * np.sqrt(one + other))


def _is_known_before(measure: Measurement, sides: list[Flags]) -> bool:
    """Say whether what the units did before tells anything: of a ratio, on either side."""
    if measure.before is None or np.ptp(measure.before[sides[0] | sides[1]]) == 0:
        return False
    base = measure.before_denominator
    return base is None or all(bool(base[side].any()) for side in sides)


def _list_columns(measure: Measurement, *, adjusted: bool = False) -> dict[str, Floats]:
    """List a metric's columns by the names of tea-tasting's arguments."""
    known = {"numer": measure.numerator, "denom": measure.denominator}
    if adjusted:
        known |= {"numer_covariate": measure.before, "denom_covariate": measure.before_denominator}
    return {name: column for name, column in known.items() if column is not None}


def _find_variances(sides: "tuple[Aggregates, Aggregates]", columns: Collection[str]) -> list[float]:
    """Give the variance of the metric's estimate in each of two arms; 0 where nothing but rounding varies."""
    numer, denom, before, base = (
        name if name in columns else None for name in ("numer", "denom", "numer_covariate", "denom_covariate")
    )
    total = sides[0] + sides[1]
    spread = total.ratio_var(before, base)
    slope = total.ratio_cov(numer, denom, before, base) / spread if spread else 0
    found = []
    for side in sides:
        variance = side.ratio_var(numer, denom) + slope**2 * side.ratio_var(before, base)
        variance -= 2 * slope * side.ratio_cov(numer, denom, before, base)
        varies = variance > ROUNDING * (side.mean(numer) / side.mean(denom)) ** 2
        found.append(variance / side.count() if varies else 0.0)
    return found


def _compare(
    control: "Aggregates", treated: "Aggregates", columns: Collection[str], variances: list[float], confidence: float
) -> Comparison:
    arguments = {name: name for name in columns}
    metric = tea_tasting.RatioOfMeans(**arguments, use_t=True, equal_var=False, confidence_level=confidence)
    found = metric.analyze_aggregates(control, treated)
    error = float(np.sqrt(sum(variances)))
    comparison = Comparison(
        treated.count(),
        control.count(),
        float(found.treatment),
        float(found.control),
        float(found.effect_size),
        error,
        shared=variances[0] / sum(variances),
    )
    if found.control > 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.sqrt(np.divide(variances, np.square([found.control, found.treatment])).sum())
        comparison = comparison._replace(
            relative_effect=float(found.effect_size / found.control),
            relative_error=float(spread) if found.treatment > 0 else np.nan,
        )
    return comparison.widen(float(found.effect_size_ci_upper - found.effect_size) / error, float(found.pvalue))


class Contrast(NamedTuple):
    """How two arms are compared, for planning.

    Attributes:
        level: At which a difference counts as shown: of a two-sided test, or of one that looks one way.
        one_sided: Whether it looks one way, as the bound of an interval that is to clear a margin does.
        share: The arm's share of the units of both.
    """

    level: float = stats.SIGNIFICANCE
    one_sided: bool = False
    share: float = 0.5


def size_arms(effect: float, variance: float, contrast: Contrast, *, power: float = stats.POWER) -> int:
    """Say how many units control and arm need together to show an effect, at least `FEW_UNITS` each.

    Args:
        effect: The difference to show, above zero.
        variance: Of the metric, for one unit.
        contrast: How the arms are compared.
        power: With which it is shown.

    Source: large-sample power through tea-tasting `Mean.solve_power_from_aggregates`.
    """
    least = int(np.ceil(stats.FEW_UNITS / min(contrast.share, 1 - contrast.share)))
    # The solver wants a size at which the power is still too small.
    if find_power(effect, variance, least, contrast) >= power:
        return least
    return int(_solve(contrast, variance, "n_obs", effect_size=effect, power=power))


def find_power(effect: float, variance: float, units: int, contrast: Contrast) -> float:
    """Give the chance that control and arm of so many units together show an effect."""
    return _solve(contrast, variance, "power", effect_size=effect, n_obs=units)


@functools.lru_cache(maxsize=64)
def find_detectable(units: int, contrast: Contrast, *, power: float = stats.POWER) -> float:
    """Give the effect that so many units show with a power, in standard deviations of one unit."""
    return _solve(contrast, 1.0, "effect_size", n_obs=units, power=power)


def _solve(
    contrast: Contrast, variance: float, what: Literal["n_obs", "power", "effect_size"], **known: float
) -> float:
    side: Literal["greater", "two-sided"] = "greater" if contrast.one_sided else "two-sided"
    ratio = contrast.share / (1 - contrast.share)
    given: dict[str, Any] = known
    metric = tea_tasting.Mean(
        "value", alternative=side, use_t=False, equal_var=False, alpha=contrast.level, ratio=ratio, **given
    )
    # The mean only says how large an effect is in relation to it.
    data = tea_tasting.aggr.Aggregates(count_=2, mean_={"value": 1.0}, var_={"value": variance})
    return float(getattr(metric.solve_power_from_aggregates(data, what)[0], what))
