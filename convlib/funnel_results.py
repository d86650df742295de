"""From a funnel's attempts to its tables: steps, leaks and weeks."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from convlib import stats
from convlib.conversions import Ints
from convlib.redaction import blank, find_hidden, find_small, hide_quantiles, keep_steps, pool_groups, split_counts
from convlib.stats import FEW_UNITS, Floats, divide
from convlib.takeaways import word_left_out

COLUMNS = (
    "step",
    "name",
    "units",
    "pending",
    "rate_from_start",
    "rate_from_start_ci_lower",
    "rate_from_start_ci_upper",
    "rate_from_previous",
    "rate_from_previous_ci_lower",
    "rate_from_previous_ci_upper",
    "lost",
    "seconds_from_previous_p25",
    "seconds_from_previous_p50",
    "seconds_from_previous_p75",
    "seconds_from_start_p50",
    "value",
    "note",
)
LEAK_COLUMNS = (
    *COLUMNS,
    "previous",
    "value_ci_lower",
    "value_ci_upper",
    "units_before",
    "lost_rate",
    "lost_rate_ci_lower",
    "lost_rate_ci_upper",
    "leak_difference",
    "leak_difference_ci_lower",
    "leak_difference_ci_upper",
    "p_value",
    "q_value",
    "verdict",
    "units_rank",
    "value_rank",
)
TREND_COLUMNS = ("period", "units", "converted", "rate", "rate_ci_lower", "rate_ci_upper", "note")
PARTIAL = "partial week"
#: A row for each step; without clusters each attempt is one, and its sums are yes or no.
Sums = NDArray[np.float64] | NDArray[np.bool_]
#: Seconds; and days from Monday, when weeks begin, to the first day of 1970, a Thursday.
DAY, WEEK, THURSDAY = 86_400, 604_800, 3


@dataclasses.dataclass(frozen=True)
class Counted:
    """The attempts behind a funnel, and how they are counted.

    Attributes:
        attempts: One row an attempt: `unit`, `time_0`, ... and `entered` in seconds since 1970, `value`, `pending`, the
            columns of `by`, and `cluster`, if attempts are not independent.
        names: The steps' names.
        required: For each step, whether it is required.
        by: Columns that break the funnel down.
        counted: What is counted, in plain words: `units`, `attempts` or `sessions`.
        compared_from: The first step, from 0, at which groups may be compared: no group is defined by reaching it.
        window: Seconds.
        period: Seconds since 1970 from which, and before which, attempts open.
        end: The end of the data, seconds since 1970.
        confidence: Level of the intervals.
        fewest: Numbers of fewer units than this are left out, and what would reveal one.
    """

    attempts: pd.DataFrame
    names: tuple[str, ...]
    required: tuple[bool, ...]
    by: tuple[str, ...]
    counted: str
    compared_from: int
    window: float
    period: tuple[float, float]
    end: float
    confidence: float
    fewest: int = 0

    @functools.cached_property
    def times(self) -> Floats:
        """Give when each step was reached, steps x attempts; NaN where not."""
        columns = [f"time_{k}" for k in range(len(self.names))]
        return np.ascontiguousarray(self.attempts[columns].to_numpy(float).T)

    @functools.cached_property
    def previous(self) -> Ints:
        """Give for each step the last required one before it; for the first itself."""
        steps = range(len(self.required))
        return np.array([max((k for k in range(step) if self.required[k]), default=0) for step in steps], np.int64)

    @functools.cached_property
    def mature(self) -> NDArray[np.bool_]:
        """Mark the attempts that count."""
        return ~self.attempts["pending"].to_numpy(bool)

    @functools.cached_property
    def clusters(self) -> Ints | None:
        """Number the unit that each attempt belongs to; None where attempts are independent."""
        return pd.factorize(self.attempts["cluster"])[0] if "cluster" in self.attempts else None

    @property
    def taken(self) -> Floats:
        """Give the seconds from entry, the first opening, to the last step; NaN where it was not reached."""
        taken: Floats = np.round(self.times[-1] - self.attempts["entered"].to_numpy(float), 6)
        return taken

    @property
    def seconds_to_most(self) -> float:
        """Give the seconds from the first step within which 90% of the mature converted attempts reached the last."""
        taken = (self.times[-1] - self.times[0])[self.mature]
        known = taken[~np.isnan(taken)]
        # Of as many as are to be left out, a tenth took longer.
        return float(np.quantile(known, 0.9)) if known.size >= max(1, 10 * self.fewest) else np.nan

    def split(self) -> tuple[pd.DataFrame, list[Ints]]:
        """Give the values of the groups, in order, and the rows of each; without `by` one group of all."""
        number = np.zeros(len(self.attempts), np.int64)
        for name in self.by:
            codes, texts = _rank(self.attempts[name])
            number = codes if name == self.by[0] else _rank(number * len(texts) + codes)[0]
        groups = int(number.max(initial=-1)) + 1 if self.by else 1
        # A stable sort of small numbers is quick.
        order = np.argsort(number.astype(np.min_scalar_type(groups)), kind="stable")
        rows = np.split(order, np.cumsum(np.bincount(number, minlength=groups))[:-1])[:groups]
        firsts = [each[0] for each in rows] if self.by else []
        return self.attempts[list(self.by)].iloc[firsts].astype("str").reset_index(drop=True), rows

    def few(self, count: int) -> str:
        """Say that a count is too small to rely on."""
        if count == 0:
            return f"no mature {self.counted.removesuffix('s')}"
        return f"{count} {self.counted}, fewer than {FEW_UNITS}" if count < FEW_UNITS else ""


def leave_out(counted: Counted, *, fewest: int) -> Counted:
    """Leave out the steps that few reach or few do not, and put the groups where that is so into one.

    Nothing can then be counted of fewer than `fewest` attempts. Where not even two steps are left, no attempt is.
    """
    if not fewest:
        return counted
    attempts, mature = counted.attempts, counted.mature
    reached = (~np.isnan(counted.times) & mature).T
    kept = keep_steps(list(reached.sum(axis=0)), counted.required, fewest=fewest)
    if not kept:
        return dataclasses.replace(counted, attempts=attempts.iloc[:0], fewest=fewest)
    steps = attempts[[f"time_{k}" for k in kept]].set_axis([f"time_{k}" for k in range(len(kept))], axis=1)
    attempts = attempts.drop(columns=[f"time_{k}" for k in range(len(counted.names))]).join(steps)
    if counted.by:
        attempts = attempts.assign(**pool_groups(attempts[list(counted.by)], reached[:, kept], fewest=fewest))
    if kept[-1] < len(counted.names) - 1:  # the values are those of the last step
        attempts = attempts.assign(value=np.nan)
    waiting = ~mature if not counted.by else attempts[~mature].groupby(list(counted.by)).size()
    if find_small(waiting.sum() if not counted.by else waiting, fewest=fewest).any():
        attempts = attempts[mature].reset_index(drop=True)
    return dataclasses.replace(
        counted,
        attempts=attempts,
        names=tuple(counted.names[k] for k in kept),
        required=tuple(counted.required[k] for k in kept),
        compared_from=sum(k < counted.compared_from for k in kept),
        fewest=fewest,
    )


def _rank(values: "pd.Series | Ints") -> tuple[Ints, NDArray[np.generic]]:
    """Number the distinct values in their order."""
    codes, seen = pd.factorize(pd.Series(values))
    found = np.asarray(seen)
    order = np.argsort(found)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes], found[order]


class _Group(NamedTuple):
    """One group's numbers, a row for each; a column for each step."""

    units: Floats
    start_effect: Floats
    effect: Floats
    value: Floats
    value_error: Floats
    p25: Floats
    p50: Floats
    p75: Floats
    start_p50: Floats


def count_steps(counted: Counted) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count the attempts at each step, and those that leave.

    Returns:
        The step table, and the leaks, the most units lost first.
    """
    labels, groups = counted.split()
    mature, times, steps = counted.mature, counted.times, len(counted.names)
    cells = [_measure(counted, rows[mature[rows]], times) for rows in groups]
    numbers = _Group(*np.array(cells, float).reshape(-1, len(_Group._fields), steps).transpose(1, 0, 2))
    before = numbers.units[:, counted.previous]
    lost = np.where(counted.required, before - numbers.units, 0)
    low, high = _interval(numbers.units, numbers.units[:, :1], numbers.start_effect, counted)
    step_low, step_high = _interval(numbers.units, before, numbers.effect, counted)
    first = numbers.units[:, :1].astype(np.int64)
    pending = np.array([[(~mature[rows]).sum()] for rows in groups], np.int64).reshape(-1, 1)
    notes = np.array([[counted.few(n)] for (n,) in first], dtype=object).reshape(-1, 1)
    columns = {
        "step": np.arange(1, steps + 1),
        "name": np.array(counted.names, dtype=object),
        "units": numbers.units.astype(np.int64),
        "pending": pending,
        "rate_from_start": divide(numbers.units, first),
        "rate_from_start_ci_lower": low,
        "rate_from_start_ci_upper": high,
        "rate_from_previous": divide(numbers.units, before),
        "rate_from_previous_ci_lower": step_low,
        "rate_from_previous_ci_upper": step_high,
        "lost": lost.astype(np.int64),
        "seconds_from_previous_p25": numbers.p25,
        "seconds_from_previous_p50": numbers.p50,
        "seconds_from_previous_p75": numbers.p75,
        "seconds_from_start_p50": numbers.start_p50,
        "value": numbers.value,
        "note": notes,
    }
    known = labels.loc[labels.index.repeat(steps)].reset_index(drop=True) if counted.by else pd.DataFrame()
    flat = {name: np.broadcast_to(values, lost.shape).ravel() for name, values in columns.items()}
    table = known.assign(**flat).astype({"name": "str", "note": "str"})
    if counted.fewest:
        table = hide_quantiles(table, "units", fewest=counted.fewest)
    return table, _rank_leaks(table, numbers, before, lost, counted)


def _measure(counted: Counted, rows: Ints, times: Floats) -> _Group:
    """Reduce the mature attempts of one group."""
    times, previous = times.take(rows, axis=1), counted.previous
    reached, steps = ~np.isnan(times), range(len(times))
    values = counted.attempts["value"].to_numpy(float)[rows]
    clusters = counted.clusters
    sums, worth = _sum_clusters(reached, values, None if clusters is None else clusters[rows])
    units, ones = np.array([np.count_nonzero(each) for each in reached]), np.ones(len(times))
    lost = np.where(counted.required, units[previous] - units, 0)
    value, error = _value_lost(sums, worth, previous, lost)
    return _Group(
        units,
        ones if clusters is None else np.array([stats.design_effect(sums[k], sums[0]) for k in steps]),
        ones if clusters is None else np.array([stats.design_effect(sums[k], sums[previous[k]]) for k in steps]),
        value,
        error,
        *_time_steps(times, reached, previous),
    )


def _sum_clusters(reached: NDArray[np.bool_], values: Floats, clusters: Ints | None) -> tuple[Sums, Floats]:
    """Sum the attempts of each cluster: how many reached each step, then how many have a value; and the value.

    The sums do not depend on the order of attempts, to the last digit.
    """
    known = ~np.isnan(values)
    counts, worth = np.vstack([reached, known]), np.where(known, values, 0.0)
    if clusters is None:
        return counts, worth
    number = pd.factorize(clusters)[0]
    order, size = np.argsort(worth, kind="stable"), int(number.max(initial=-1)) + 1
    sums = np.array([np.bincount(number, each, minlength=size) for each in counts], float)
    return sums, np.asarray(np.bincount(number[order], worth[order], minlength=size), float)


def _value_lost(sums: Sums, worth: Floats, previous: Ints, lost: ArrayLike) -> tuple[Floats, Floats]:
    """Give what the attempts lost at each step would have been worth, with its standard error.

    That is lost x completion rate of those who passed x mean value: a smooth function of five sums over clusters.
    """
    some = np.flatnonzero(worth)
    # Sorted before they are summed, so that the order of units is no matter.
    with_value = np.sort(sums[:, some] * worth[some], axis=1).sum(axis=1)
    squares = np.sort(worth[some] ** 2).sum()
    crossed = _cross(sums)
    total, last = crossed.diagonal() if sums.dtype == bool else sums.sum(axis=1), len(sums) - 2
    value = np.sort(worth[some]).sum()
    passed, valued = total[:-1], total[-1]
    found = np.asarray(lost) * divide(total[last], passed) * divide(value, valued)
    totals = np.append(total, value)
    moments = np.block([[crossed, with_value[:, None]], [with_value[None, :], np.array([[squares]])]])
    errors = np.full(len(passed), np.nan)
    for step in np.flatnonzero(found > 0):
        gradient = np.zeros(len(totals))
        gradient[previous[step]] += found[step] / np.asarray(lost)[step]
        gradient[step] -= found[step] * (1 / np.asarray(lost)[step] + 1 / passed[step])
        gradient[[last, -1, -2]] += found[step] / np.array([total[last], value, -valued])
        errors[step] = stats.delta_error(gradient, totals, moments, sums.shape[1])
    return found, errors


def _cross(sums: Sums) -> Floats:
    """Sum the products of each two rows."""
    if sums.dtype == bool:  # to count is quicker than to multiply
        return np.array([[np.count_nonzero(one & other) for other in sums] for one in sums], float)
    return np.asarray(sums @ sums.T, float)


def _time_steps(times: Floats, reached: NDArray[np.bool_], previous: Ints) -> Floats:
    """Give for each step the quartiles of the seconds from the step before, and the median from the first one."""
    found = np.full((4, len(times)), np.nan)
    for step in range(1, len(times)):
        rows = np.flatnonzero(reached[step])
        if len(rows):
            now = times[step, rows]
            found[:3, step] = np.quantile(now - times[previous[step], rows], (0.25, 0.5, 0.75), overwrite_input=True)
            is_second = previous[step] == 0
            found[3, step] = found[1, step] if is_second else np.median(now - times[0, rows], overwrite_input=True)
    return np.round(found, 6)  # times are in microseconds, and the difference of two as seconds is not quite


def _interval(hits: ArrayLike, trials: ArrayLike, effects: Floats, counted: Counted) -> tuple[Floats, Floats]:
    """Give Wilson's interval of each rate, with fewer trials where those of one cluster are alike."""
    made, tried = (np.broadcast_to(each, effects.shape) / effects for each in (hits, trials))
    low, high = stats.wilson_interval(made.ravel(), tried.ravel(), confidence=counted.confidence)
    return low.reshape(effects.shape), high.reshape(effects.shape)


def _rank_leaks(
    table: pd.DataFrame, numbers: _Group, before: Floats, lost: NDArray[np.float64], counted: Counted
) -> pd.DataFrame:
    """Rank the steps and groups at which most are lost, and compare each group with all others there."""
    reach = stats.normal_quantile(counted.confidence)
    factor = np.exp(reach * divide(numbers.value_error, numbers.value)).ravel()
    required = np.tile(counted.required, len(before))
    names = np.array(counted.names, dtype=object)
    columns = {
        "previous": pd.array(np.tile(names[counted.previous], len(before)), dtype="str"),
        "value_ci_lower": table["value"] / factor,
        "value_ci_upper": table["value"] * factor,
        "units_before": before.astype(np.int64).ravel(),
        "lost_rate": np.where(required, divide(lost, before).ravel(), np.nan),
        "lost_rate_ci_lower": np.where(required, 1 - table["rate_from_previous_ci_upper"], np.nan),
        "lost_rate_ci_upper": np.where(required, 1 - table["rate_from_previous_ci_lower"], np.nan),
        **_compare_groups(before, lost, numbers.effect, counted),
    }
    leaks = pd.concat([table, pd.DataFrame(columns)], axis=1)[table["step"] > 1]
    ranks = {
        "units_rank": leaks["lost"].rank(ascending=False, method="min").astype("Int64"),
        "value_rank": leaks["value"].rank(ascending=False, method="min").astype("Int64"),
    }
    ranked = leaks.assign(**ranks).sort_values(["units_rank", "step"], kind="stable", ignore_index=True)
    return ranked[[*counted.by, *LEAK_COLUMNS]]


def _compare_groups(
    before: Floats, lost: NDArray[np.float64], effects: Floats, counted: Counted
) -> dict[str, NDArray[np.generic]]:
    """Compare the share lost in each group with that of all other groups together, wherever that has a meaning."""
    own, own_lost = before / effects, lost / effects
    sides = [each.ravel() for each in (own_lost, own, own_lost.sum(axis=0) - own_lost, own.sum(axis=0) - own)]
    step = np.arange(before.shape[1])
    asked = np.array(counted.required) & (step >= max(counted.compared_from, 1)) & (len(before) > 1)
    large = np.minimum(before, before.sum(axis=0) - before) >= FEW_UNITS
    if counted.clusters is not None:  # no exact test is known for attempts that are not independent
        large &= stats.smallest_expected(*sides).reshape(before.shape) >= stats.FEW_EXPECTED
    tested = (asked & large).ravel()
    told = np.full((4, tested.size), np.nan)
    some = [each[tested] for each in sides]
    told[0, tested] = divide(some[0], some[1]) - divide(some[2], some[3])
    told[1:3, tested] = stats.newcombe_intervals(*some, confidence=counted.confidence)
    told[3, tested] = stats.compare_shares(*some)
    q_values = stats.control_false_discoveries(told[3])
    verdict = np.where(np.broadcast_to(asked, before.shape).ravel(), "too few", "").astype(object)
    verdict[tested] = "no evidence"
    verdict[q_values < stats.SIGNIFICANCE] = "leaks more"
    verdict[(q_values < stats.SIGNIFICANCE) & (told[0] < 0)] = "leaks less"
    return {
        "leak_difference": told[0],
        "leak_difference_ci_lower": told[1],
        "leak_difference_ci_upper": told[2],
        "p_value": told[3],
        "q_value": q_values,
        "verdict": pd.array(verdict, dtype="str"),
    }


def count_trend(counted: Counted) -> pd.DataFrame:
    """Count by week of entry how many mature attempts reach the last step within the window of entry.

    Entry is the first one, not that of the counted attempt, and who converts later than the window after it is not
    counted: else earlier weeks, with more time to come back, would look better. A week is partial when the period
    begins or ends within it, or when the windows of its later entries are not over.
    """
    mature = counted.mature
    entered = counted.attempts["entered"].to_numpy(float)[mature]
    converted = counted.taken[mature] <= counted.window
    clusters = counted.clusters
    # Bins are quicker than `np.unique`, and there are few weeks.
    number = np.floor((entered + THURSDAY * DAY) / WEEK).astype(np.int64)
    first = int(number.min(initial=0))
    sizes = np.bincount(number - first)
    weeks = np.flatnonzero(sizes)
    hits, units = np.bincount(number - first, converted, minlength=len(sizes))[weeks], sizes[weeks]
    starts = (weeks + first) * WEEK - THURSDAY * DAY
    effects = np.ones(len(weeks))
    if clusters is not None:
        own = clusters[mature]
        effects = np.array([_week_effect(converted[number == k + first], own[number == k + first]) for k in weeks])
    low, high = _interval(hits, units, effects, counted)
    whole = (starts >= counted.period[0]) & (starts + WEEK <= min(counted.period[1], counted.end - counted.window))
    notes = [[PARTIAL] * (not ok) + [few] * bool(few) for ok, few in zip(whole, map(counted.few, units), strict=True)]
    frame = pd.DataFrame(
        {
            "period": pd.to_datetime(starts, unit="s"),
            "units": units.astype(np.int64),
            "converted": hits.astype(np.int64),
            "rate": divide(hits, units),
            "rate_ci_lower": low,
            "rate_ci_upper": high,
            "note": pd.Series(["; ".join(each) for each in notes], dtype="str"),
        }
    )
    later = int(np.count_nonzero(~np.isnan(counted.taken[mature])) - np.count_nonzero(converted))
    return _hide_weeks(frame[list(TREND_COLUMNS)], later, counted.fewest)


def _hide_weeks(trend: pd.DataFrame, later: int, fewest: int) -> pd.DataFrame:
    """Leave out the numbers of weeks of few units; all weeks and who converted later add up to the funnel."""
    cells = split_counts(trend["converted"], trend["units"])
    hidden = find_hidden(cells, fewest=fewest, families=[np.zeros(len(trend))])
    if find_small(later, fewest=fewest) and not hidden.any():
        hidden[trend["units"].to_numpy(float).argmin()] = True
    if not hidden.any():
        return trend
    numbers = blank(trend, TREND_COLUMNS[1:-1], hidden)
    return trend.assign(**numbers, note=trend["note"].mask(hidden, word_left_out(fewest)))


def _week_effect(converted: NDArray[np.bool_], clusters: Ints) -> float:
    number = pd.factorize(clusters)[0]
    return stats.design_effect(np.bincount(number, converted), np.bincount(number))
