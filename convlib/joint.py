"""One model of all micros together, so that micros that come together share the credit."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import expit

from convlib import stats
from convlib.conversions import Ints
from convlib.landmarks import Risk
from convlib.stats import Floats

#: A level of activity or of a column stands alone with so many rows of either outcome; smaller ones join a neighbour.
FEWEST_ROWS = 5
#: So many units of either outcome are needed for a model at all.
FEWEST_UNITS = 5
#: A column has so many levels, the largest; all others are one.
MOST_LEVELS = 50
#: A log-odds beyond this is on its way to infinity: an odds ratio above 20,000.
MOST_LOG_ODDS = 10.0
#: So small a part of one undecided row says nothing.
NO_INFORMATION = 1e-6
#: What varies less than this share of itself, all else given, does not vary; a curvature below `FLAT` is none.
NO_VARIATION, FLAT = 1e-9, 1e-13
#: The log-likelihood is at its top when a step adds less than this, or this share of it.
PRECISION = 1e-13


@dataclasses.dataclass(frozen=True)
class Joint:
    """All micros in one model; NaN, and a note why, where the log can't tell a micro's part.

    Attributes:
        coefficients: Of each micro: its log-odds; for another outcome than yes or no, what it adds.
        covariance: Of the coefficients, clustered by unit.
        effects: By how much the mean outcome of the units at risk differs between all doing it and none.
        errors: Standard errors of the effects.
        notes: Why a micro has no estimate; empty where it has one.
    """

    coefficients: Floats
    covariance: Floats
    effects: Floats
    errors: Floats
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Cells:
    """Rows that are alike in the whole model, each kind once."""

    strata: Ints  # landmark and band of activity
    columns: Floats  # cells x (levels of the adjusted columns, micros)
    size: Floats
    total: Floats  # of the outcome
    cell: Ints  # of each row
    levels: int  # so many columns before the micros

    @property
    def first(self) -> int:
        """Give the first micro's place among all coefficients: the strata's come first."""
        return int(self.strata.max()) + 1 + self.levels

    def predict(self, coefficients: Floats) -> Floats:
        """Add up what is linear."""
        known = self.first - self.levels
        linear: Floats = coefficients[:known][self.strata] + self.columns @ coefficients[known:]
        return linear

    def gather(self, values: Floats) -> Floats:
        """Sum values of the cells for each coefficient."""
        return np.concatenate([np.bincount(self.strata, values), self.columns.T @ values])


def fit_joint(risk: Risk, *, confidence: float = stats.CONFIDENCE, names: Sequence[str] = ()) -> pd.DataFrame:
    """Say how much each micro goes with the outcome when all others are held alike.

    Args:
        risk: The units at risk at each landmark.
        confidence: Level of the intervals.
        names: The micros' names, for notes; empty calls them by number.

    Returns:
        One row a micro, in order: `effect`, its interval, the `p_value` against no effect, and a `note` where they are
        NaN. The effect is the difference of the mean outcome (a probability, or a value) between all units at risk
        doing it and none, by `fit_model`, with the delta method's interval.

    Source: average marginal effects as in Bartus (2005), The Stata Journal 5:309.
    """
    model = fit_model(risk, names=names)
    reach = stats.normal_quantile(confidence) * model.errors
    return pd.DataFrame(
        {
            "effect": model.effects,
            "effect_ci_lower": model.effects - reach,
            "effect_ci_upper": model.effects + reach,
            "p_value": stats.compare_normal(model.effects, model.errors),
            "note": pd.Series(model.notes, dtype="str"),
        }
    )


def fit_model(risk: Risk, *, names: Sequence[str] = ()) -> Joint:
    """Fit one model of the outcome by all micros, the landmark, activity, and the columns adjusted for.

    A yes/no outcome has a logistic model, any other a linear one. Each band of activity within a landmark is a stratum
    of its own; for the logistic model bands and levels with fewer than 5 rows of either outcome join a neighbour. Rows
    that are alike count as one kind, so that the time goes with the kinds and hardly with the rows. Covariances are
    sandwiches summed within units, with the usual correction G/(G-1) (N-1)/(N-k).

    Args:
        risk: The units at risk at each landmark.
        names: The micros' names, for notes; empty calls them by number.

    Returns:
        The model. A micro is NaN with a note where too few units have either outcome, where it does not vary, where it
        can't be told apart from others, or where one of its sides has one outcome only (separation). The others are
        then what they are in the limit, with that micro held alike.

    Source: McCullagh and Nelder (1989), Generalized Linear Models, 4.4; Liang and Zeger (1986), Biometrika 73:13, for
        the covariance.
    """
    names = names or [f"micro {number + 1}" for number in range(risk.exposed.shape[1])]
    binary = bool(np.isin(risk.outcome, (0, 1)).all())
    if note := _find_too_few(risk, binary=binary):
        nothing = np.full(len(names), np.nan)
        return Joint(nothing, np.full((len(names),) * 2, np.nan), nothing, nothing, (note,) * len(names))
    cells = _group(risk, binary=binary)
    coefficients, expected = _fit_logistic(cells) if binary else _fit_linear(cells)
    weights = expected * (1 - expected) if binary else np.ones(len(expected))
    covariance = _estimate_covariance(risk, cells, expected, weights)
    micros = slice(cells.first, None)
    effects, slopes = coefficients[micros], np.eye(len(coefficients))[micros]
    notes = _find_flat(cells, names)
    if binary:
        effects, slopes = _average_effects(cells, coefficients)
        notes = [flat or one for flat, one in zip(notes, _find_separated(cells, coefficients, weights), strict=True)]
    unknown = np.array([note != "" for note in notes], bool)
    masked = np.where(unknown[:, None] | unknown, np.nan, covariance[micros, micros])
    errors = np.sqrt(np.clip(((slopes @ covariance) * slopes).sum(axis=1), 0, None))
    found, effects, errors = (np.where(unknown, np.nan, each) for each in (coefficients[micros], effects, errors))
    return Joint(found, masked, effects, errors, tuple(notes))


def _find_too_few(risk: Risk, *, binary: bool) -> str:
    """Say why there is no model at all."""
    if not binary:
        units = len(np.unique(risk.unit))
        return f"{units:,} units, needs {FEWEST_UNITS}" if units < FEWEST_UNITS else ""
    for outcome, words in ((1, "units convert"), (0, "units do not convert")):
        units = len(np.unique(risk.unit[risk.outcome == outcome]))
        if units < FEWEST_UNITS:
            return f"{units:,} {words}, needs {FEWEST_UNITS}"
    return ""


def _group(risk: Risk, *, binary: bool) -> _Cells:
    """Count the rows of each kind, and lay out the model's columns."""
    levels = [_find_strata(risk, binary=binary)]
    levels += [_find_levels(risk.covariates[name].to_numpy(), risk.outcome, binary=binary) for name in risk.covariates]
    packed = np.packbits(risk.exposed, axis=1)  # eight micros a column
    cell = stats.number_groups(pd.DataFrame(np.column_stack([*levels, packed])))
    kinds = np.flatnonzero(~pd.Series(cell).duplicated())
    strata, *others = (each[kinds] for each in levels)
    # The strata sum to one, so of each column one level, the largest, is left out.
    spread = [each[:, None] == np.arange(1, each.max() + 1) for each in others]
    columns = np.column_stack([*spread, risk.exposed[kinds]]).astype(float)
    return _Cells(
        strata=strata,
        columns=columns,
        size=np.bincount(cell).astype(float),
        total=np.bincount(cell, risk.outcome).astype(float),
        cell=cell,
        levels=columns.shape[1] - risk.exposed.shape[1],
    )


def _find_strata(risk: Risk, *, binary: bool) -> Ints:
    landmark = _join(risk.landmark, risk.outcome, binary=binary)
    strata, known = np.zeros(len(landmark), np.int64), 0
    for each in np.unique(landmark):
        rows = landmark == each
        strata[rows] = known + _join(risk.band[rows], risk.outcome[rows], binary=binary)
        known = int(strata.max()) + 1
    return strata


def _find_levels(codes: Ints, outcome: Floats, *, binary: bool) -> Ints:
    """Order a column's levels by size, so that the small ones come last and join one another."""
    _, level, size = np.unique(codes, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(-size, kind="stable"), kind="stable")
    return _join(np.minimum(rank, MOST_LEVELS - 1)[level], outcome, binary=binary)


def _join(levels: Ints, outcome: Floats, *, binary: bool) -> Ints:
    """Number levels in order; where the outcome is yes or no, each is joined to the next until it has enough of both.

    A level with one outcome only has no finite coefficient, and one with few a poor one. Least squares needs neither.
    """
    values, level = np.unique(levels, return_inverse=True)
    if not binary:
        return np.asarray(level, np.int64)
    hits = np.bincount(level, outcome)
    counts = np.stack([hits, np.bincount(level) - hits])
    joined, number, gathered = np.zeros(len(values), np.int64), 0, np.zeros(2)
    for each in range(len(values)):
        joined[each] = number
        gathered = gathered + counts[:, each]
        if gathered.min() >= FEWEST_ROWS:
            number, gathered = number + 1, np.zeros(2)
    return np.minimum(joined, max(number - 1, 0))[level]  # what is left at the end joins the one before


def _fit_logistic(cells: _Cells) -> tuple[Floats, Floats]:
    """Climb to the top of the likelihood by Newton's steps, halved where they overshoot."""
    found, gain = np.zeros(cells.first + cells.columns.shape[1] - cells.levels), np.inf
    now = _log_likelihood(cells, found)
    while gain > PRECISION * (1 + abs(now)):
        share = expit(cells.predict(found))
        step = _invert(cells, share * (1 - share)) @ cells.gather(cells.total - cells.size * share)
        while (then := _log_likelihood(cells, found + step)) < now:
            step = step / 2
        found, gain, now = found + step, then - now, then
    return found, expit(cells.predict(found))


def _log_likelihood(cells: _Cells, coefficients: Floats) -> float:
    log_odds = cells.predict(coefficients)
    return float(cells.total @ log_odds - cells.size @ np.logaddexp(0, log_odds))


def _fit_linear(cells: _Cells) -> tuple[Floats, Floats]:
    found = _invert(cells, np.ones(len(cells.size))) @ cells.gather(cells.total)
    return found, cells.predict(found)


def _invert(cells: _Cells, weights: Floats) -> Floats:
    """Invert the information; directions without any (columns that say the same, separation) stay where they are."""
    scale, across, left = _sweep(cells, weights)
    inner = np.linalg.pinv(left, rcond=FLAT, hermitian=True)
    outer = -across.T @ inner
    return np.block([[np.diag(scale) - outer @ across, outer], [outer.T, inner]])


def _sweep(cells: _Cells, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Take the strata, each with a column of its own, out of the information: what is left is small.

    Returns:
        One over the strata's information, the other columns' regression on the strata, and the others' information.
    """
    weights = cells.size * np.maximum(weights, FLAT)  # none where all is separated, and strata divide by theirs
    weighted = cells.columns * weights[:, None]
    scale = 1 / np.bincount(cells.strata, weights)
    sums = (_spread(cells.strata).T @ weighted).T
    across = sums * scale
    return scale, across, cells.columns.T @ weighted - across @ sums.T


def _spread(levels: Ints) -> sparse.csr_array:
    """Give each level a column."""
    rows = np.arange(len(levels) + 1)
    return sparse.csr_array((np.ones(len(levels)), levels, rows), shape=(len(levels), int(levels.max()) + 1))


def _estimate_covariance(risk: Risk, cells: _Cells, expected: Floats, weights: Floats) -> Floats:
    """Estimate the coefficients' covariance from the sums of each unit's scores."""
    unit, codes = pd.factorize(risk.samples)
    residual = risk.outcome - expected[cells.cell]
    summed = sparse.csr_array((residual, (unit, cells.cell)), shape=(len(codes), len(cells.size)))
    strata, columns = summed @ _spread(cells.strata), summed @ cells.columns
    mixed = strata.T @ columns
    meat = np.block([[(strata.T @ strata).toarray(), mixed], [mixed.T, columns.T @ columns]])
    bread, rows, units = _invert(cells, weights), len(residual), len(codes)
    covariance: Floats = bread @ meat @ bread * units / (units - 1) * (rows - 1) / max(rows - len(bread), 1)
    return covariance


def _average_effects(cells: _Cells, coefficients: Floats) -> tuple[Floats, Floats]:
    """Average over all rows the difference of probability that each micro makes, with its slope by each coefficient."""
    log_odds, share = cells.predict(coefficients), cells.size / cells.size.sum()
    effects, slopes = [], []
    for micro, did in enumerate(cells.columns[:, cells.levels :].T, start=cells.first):
        without = log_odds - did * coefficients[micro]
        chances = expit([without + coefficients[micro], without])
        rise, fall = chances * (1 - chances) * share
        slope = cells.gather(rise - fall)
        slope[micro] = rise.sum()
        effects.append(float(share @ (chances[0] - chances[1])))
        slopes.append(slope)
    return np.array(effects), np.array(slopes).reshape(-1, len(coefficients))


def _find_flat(cells: _Cells, names: Sequence[str]) -> list[str]:
    """Note the micros that do not vary within the strata and columns, and those that others tell exactly."""
    columns = cells.levels
    left = _sweep(cells, np.ones(len(cells.size)))[2]
    across = left[columns:, :columns]
    left = left[columns:, columns:] - across @ np.linalg.pinv(left[:columns, :columns], hermitian=True) @ across.T
    spread, did = np.diag(left), cells.columns[:, columns:].T @ cells.size
    varies = spread > NO_VARIATION * np.maximum(did, 1)
    notes = ["" if each else "does not vary among units of like activity and columns" for each in varies]
    scale = np.sqrt(spread[varies])
    values, vectors = np.linalg.eigh(left[np.ix_(varies, varies)] / np.outer(scale, scale))
    null = vectors[:, values < NO_VARIATION]
    places, tied = np.flatnonzero(varies), np.abs(null @ null.T) > np.sqrt(NO_VARIATION)
    for row, place in enumerate(places):
        others = [names[other] for other in places[tied[row]] if other != place]
        if others:
            notes[place] = f"can't be told apart from {', '.join(others)}"
    return notes


def _find_separated(cells: _Cells, coefficients: Floats, weights: Floats) -> list[str]:
    """Note the micros with one outcome only on a side: their log-odds are infinite."""
    did = cells.columns[:, cells.levels :].T
    is_far = np.abs(coefficients[cells.first :]) > MOST_LOG_ODDS
    is_settled = np.diag(_sweep(cells, weights)[2])[cells.levels :] < NO_INFORMATION
    size, hits = did @ cells.size, did @ cells.total
    sides = {
        "nobody with it converts": hits == 0,
        "all with it convert": hits == size,
        "nobody without it converts": hits == cells.total.sum(),
        "all without it convert": cells.size.sum() - size == cells.total.sum() - hits,
        "the other columns and micros leave it one outcome only": is_far | is_settled,
    }
    columns = zip(*sides.values(), strict=True)
    return [next((words for words, so in zip(sides, found, strict=True) if so), "") for found in columns]
