"""Outcomes with and without an exposure compared within strata, with errors that hold for repeated rows; compiled."""

import dataclasses

import numba
import numpy as np
from numpy.typing import NDArray

from convlib.stats import TINY, compare_normal, divide

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Cells:
    """The sums of each stratum.

    Attributes:
        rows: How many rows.
        exposed: Rows with the exposure.
        outcome: Sum of the outcome.
        both: Sum of the outcome over the rows with the exposure.
        squares: Sum of the squared outcome.
    """

    rows: Floats
    exposed: Floats
    outcome: Floats
    both: Floats
    squares: Floats

    def merge(self, group: Ints, groups: int) -> "Cells":
        """Add strata up to coarser ones."""
        return Cells(*(add_up(group, each, groups) for each in dataclasses.astuple(self)))

    @property
    def table(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Give each stratum's table of a yes/no outcome: exposed with and without it, then the others."""
        neither = self.rows - self.exposed - self.outcome + self.both
        return self.both, self.exposed - self.both, self.outcome - self.both, neither

    @property
    def spread(self) -> Floats:
        """Give how much the exposure varies in each stratum: its sum of squares about the mean."""
        return self.exposed - divide_counts(self.exposed**2, self.rows)

    @property
    def joint_spread(self) -> Floats:
        """Give the sum of products of exposure and outcome about their means."""
        return self.both - divide_counts(self.exposed * self.outcome, self.rows)


def add_up(group: Ints, values: Floats, groups: int) -> Floats:
    """Add up the values of each group."""
    return np.bincount(group, values, minlength=groups).astype(np.float64)


def divide_counts(numerator: Floats, denominator: Floats) -> Floats:
    """Divide sums by counts; nothing over nothing is 0."""
    result: Floats = np.zeros(np.shape(numerator))
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


def tabulate(exposed: Bools, outcome: Floats, stratum: Ints, strata: int) -> Cells:
    """Add up each stratum; `stratum` numbers each row's, from 0."""
    return Cells(*_tabulate(exposed, outcome, stratum, strata))


@numba.njit(cache=True, nogil=True)
def _tabulate(exposed: Bools, outcome: Floats, stratum: Ints, strata: int) -> Floats:
    sums = np.zeros((5, strata))
    for i in range(len(stratum)):
        s, y = stratum[i], outcome[i]
        sums[0, s] += 1
        sums[2, s] += y
        sums[4, s] += y * y
        if exposed[i]:
            sums[1, s] += 1
            sums[3, s] += y
    return sums


def compare(
    cells: Cells,
    exposed: Bools,
    outcome: Floats,
    stratum: Ints,
    unit: Ints,
    *,
    group: Ints | None = None,
    groups: int = 1,
) -> tuple[Floats, Floats]:
    """Estimate each group's common difference of risks over its strata, with an error that holds for sparse strata.

    The Mantel-Haenszel risk difference equals the coefficient of the exposure in a linear model with one intercept a
    stratum, so its sandwich variance (HC2: squared residuals over one minus their leverage, summed within units)
    is the least-squares one. Strata where all or none are exposed say nothing and drop out.

    Args:
        cells: The strata, added up.
        exposed: Whether each row is exposed.
        outcome: 0 or 1, or any number, for each row.
        stratum: Stratum of each row, from 0.
        unit: Unit of each row, whose rows stand together: they are not independent.
        group: Group of each stratum, from 0; None for one group. A unit's rows lie in one group.
        groups: How many groups there are.

    Returns:
        The differences and their standard errors; NaN where no stratum has both sides.

    Source: Greenland and Robins (1985), Biometrics 41:55; MacKinnon and White (1985) for HC2; Bell and McCaffrey
        (2002) for clusters.
    """
    group = np.zeros(len(cells.rows), np.int64) if group is None else group
    spread = add_up(group, cells.spread, groups)
    difference = divide(add_up(group, cells.joint_spread, groups), np.where(spread > TINY, spread, 0))
    least = TINY * np.sqrt(divide(cells.squares.sum(), cells.rows.sum()))  # what rounding leaves of nothing
    difference = np.where(np.abs(difference) <= least, 0.0, difference)
    means = divide_counts(cells.exposed, cells.rows), divide_counts(cells.outcome, cells.rows)
    pieces = (exposed, outcome, stratum, unit, cells.rows, *means)
    squares = _sum_squares(*pieces, np.nan_to_num(difference), spread, group)
    error = divide(np.sqrt(squares), spread)
    return difference, np.where(np.isnan(difference), np.nan, np.where(error <= least, 0.0, error))


def judge_none(cells: Cells) -> float:
    """Give the p-value of no difference in any stratum, whatever the spread of the outcome on the two sides.

    Source: Mantel and Haenszel (1959), with the variance of the hypergeometric distribution (for any outcome: of
        permutations within strata), without continuity correction.
    """
    outcomes = cells.squares - divide_counts(cells.outcome**2, cells.rows)
    variance = divide_counts(cells.spread * outcomes, cells.rows - 1).sum()
    return float(compare_normal(cells.joint_spread.sum(), np.sqrt(variance)))


@numba.njit(cache=True, nogil=True)
def _sum_squares(
    exposed: Bools,
    outcome: Floats,
    stratum: Ints,
    unit: Ints,
    size: Floats,
    mean_exposed: Floats,
    mean_outcome: Floats,
    difference: Floats,
    spread: Floats,
    group: Ints,
) -> Floats:
    """Add up each group's squared scores of units."""
    total = np.zeros(len(spread))
    i = 0
    while i < len(unit):
        this, g, score = unit[i], group[stratum[i]], 0.0
        while i < len(unit) and unit[i] == this:
            s = stratum[i]
            x = exposed[i] - mean_exposed[s]
            if x != 0.0 and spread[g] > 0.0:
                residual = outcome[i] - mean_outcome[s] - difference[g] * x
                leverage = 1 / size[s] + x * x / spread[g]
                score += x * residual / np.sqrt(max(1 - leverage, 1e-9))
            i += 1
        total[g] += score * score
    return total


def find_sides(cells: Cells, error: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Give two independent samples, exposed and others, that say as much of a difference of risks as the strata do.

    Their rates are those of the strata, weighted as Mantel and Haenszel do, so that they differ by the common
    difference; their sizes are divided by how much more it varies than one of such independent samples.

    Args:
        cells: The strata, added up, of a yes/no outcome.
        error: Standard error of the common difference.

    Returns:
        The samples' outcomes and sizes, not whole numbers; NaN where no stratum has both sides.

    Source: Rao and Scott (1992), Biometrics 48:577; for strata Yan and Su (2010), Statistics in Biopharmaceutical
        Research 2:329.
    """
    exposed, others = cells.exposed, cells.rows - cells.exposed
    weight = divide_counts(exposed * others, cells.rows)
    weight = divide(weight, weight.sum())
    sides = (cells.both, exposed), (cells.outcome - cells.both, others)
    rate = np.array([weight @ divide_counts(top, size) for top, size in sides])
    sizes = divide(1, [weight @ divide_counts(weight, size) for _, size in sides])
    effect = float(divide(error**2, (rate * (1 - rate) / sizes).sum()))
    sizes = sizes / effect if effect > 0 else sizes
    hits = rate * sizes
    return (float(hits[0]), float(hits[1])), (float(sizes[0]), float(sizes[1]))


def find_ratio(cells: Cells) -> float:
    """Estimate the common ratio of risks over strata; NaN when nobody unexposed has the outcome.

    Source: Mantel and Haenszel's weights for the risk ratio (Nurminen 1981; Greenland and Robins 1985).
    """
    others = cells.rows - cells.exposed
    top = divide_counts(cells.both * others, cells.rows).sum()
    bottom = divide_counts((cells.outcome - cells.both) * cells.exposed, cells.rows).sum()
    return float(divide(top, bottom))


def find_phi(cells: Cells) -> float:
    """Correlate exposure and outcome within strata (phi, for one stratum of yes/no); NaN when one does not vary."""
    varies = (cells.squares - divide_counts(cells.outcome**2, cells.rows)).sum() * cells.spread.sum()
    return float(cells.joint_spread.sum() / np.sqrt(varies)) if varies > TINY else np.nan


def correlate_columns(columns: Bools, stratum: Ints, strata: int) -> Floats:
    """Correlate each two yes/no columns within strata (phi, for one stratum); NaN where one of them does not vary."""
    joint = np.zeros((columns.shape[1], columns.shape[1]))
    for number in range(strata):
        some = columns[stratum == number].astype(np.float64)
        if len(some):
            sums = some.sum(axis=0)
            joint += some.T @ some - np.outer(sums, sums) / len(some)
    spread = np.diag(joint)
    varies = np.outer(spread, spread)
    return np.where(varies > TINY, divide(joint, np.sqrt(np.maximum(varies, 0))), np.nan)


def find_odds_ratio(cells: Cells, exposed: Bools, outcome: Floats, stratum: Ints, unit: Ints) -> tuple[float, float]:
    """Estimate the common odds ratio over strata, with the standard error of its logarithm, summed within units.

    For one stratum these are the cross ratio and Woolf's standard error.

    Returns:
        The odds ratio and the standard error of its logarithm; NaN when a cell of the pooled table is empty.

    Source: Mantel and Haenszel (1959); the variance is the sandwich of its estimating function.
    """
    a, b, c, d = cells.table
    agree, differ = (float(divide_counts(product, cells.rows).sum()) for product in (a * d, b * c))
    if agree == 0 or differ == 0:
        return np.nan, np.nan
    ratio = agree / differ
    pull = np.stack([d, -ratio * c, -ratio * b, a]) - divide_counts(a * d - ratio * b * c, cells.rows)
    squares = _sum_pulls(exposed, outcome, stratum, unit, np.stack([divide_counts(p, cells.rows) for p in pull]))
    return ratio, float(np.sqrt(squares)) / (ratio * differ)


@numba.njit(cache=True, nogil=True)
def _sum_pulls(exposed: Bools, outcome: Floats, stratum: Ints, unit: Ints, pull: Floats) -> float:
    total = 0.0
    i = 0
    while i < len(unit):
        this, score = unit[i], 0.0
        while i < len(unit) and unit[i] == this:
            cell = (0 if exposed[i] else 2) + (0 if outcome[i] > 0 else 1)
            score += pull[cell, stratum[i]]
            i += 1
        total += score * score
    return total


@numba.njit(cache=True, nogil=True)
def count_sides(exposed: Bools, converted: Bools, unit: Ints, group: Ints, groups: int) -> Ints:
    """Count each group's distinct units with and without the exposure, then those with the outcome there.

    Args:
        exposed: Whether each row is exposed.
        converted: Whether each row has the outcome.
        unit: Unit of each row, whose rows stand together.
        group: Group of each row, from 0.
        groups: How many groups there are.

    Returns:
        Units with, units without, converted with, converted without (4 x groups); a unit may be on both sides.
    """
    counts = np.zeros((4, groups), np.int64)
    i = 0
    while i < len(unit):
        this, g = unit[i], group[i]
        seen = np.zeros(4, np.bool_)
        while i < len(unit) and unit[i] == this:
            side = 0 if exposed[i] else 1
            seen[side] = True
            if converted[i]:
                seen[2 + side] = True
            i += 1
        for cell in range(4):
            counts[cell, g] += seen[cell]
    return counts
