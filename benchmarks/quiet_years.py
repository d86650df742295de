"""Quiet years: how often a weekly run raises an alert of a rate though nothing happens, and which changes it finds.

Fifty metrics, week by week. Two thirds are shares of 5,000 to 30,000 units; the true ones, 1% to 60%, never change, and
half of them vary more than chance makes them (beta-binomial, 1.5 standard errors at the usual number of units, more in
large weeks). The others are known from little: shares of the visits of some 400 users, who are alike in all their
visits; means and sums of 40 to 120 amounts, which are skewed (log-normal). Targets and benchmarks are the true value
itself, the hardest case. In the second scenario the shares' weeks are correlated (0.5, a Gaussian copula).

python -m benchmarks.quiet_years [YEARS]
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from convlib import stats
from convlib.alerts import LEVELS, find_alerts
from convlib.control import compare_periods, find_limits
from convlib.plan import Plan
from convlib.rates import Rates
from convlib.results import Takeaways

SHARES, OTHERS, WEEKS, YEARS = 34, 16, 52, 100
LEAST_UNITS, MOST_UNITS = 5_000, 30_000
#: A beta-binomial whose standard deviation at the usual number of units is 1.5 of the binomial's.
CORRELATION_OF_UNITS = (1.5**2 - 1) / 17_500
WEEKS_CORRELATED = 0.5
KINDS = ("rate", "rate by session", "mean value", "sum value")
#: Users of a week, their visits, and how much users differ (the parameter of a beta distribution of their shares).
USERS, VISITS, ALIKE = 400, 4, 1.0
LEAST_AMOUNTS, MOST_AMOUNTS = 40, 120
#: Standard deviation of the logarithms of amounts: of 100 orders, 5 bring a quarter of the revenue.
SPREAD_OF_AMOUNTS = 1.0
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def draw_counts(
    rng: np.random.Generator, shares: Floats, units: Counts, *, correlated: float, dispersed: bool = True
) -> Counts:
    """Draw how many of each week's units did what each metric counts; every second metric varies more than chance."""
    draws = []
    for _ in range(2):
        common, own = rng.standard_normal(len(units)), rng.standard_normal((len(shares), len(units)))
        draws.append(scipy_stats.norm.cdf(np.sqrt(correlated) * common + np.sqrt(1 - correlated) * own))
    strength = 1 / CORRELATION_OF_UNITS - 1
    truth = np.repeat(shares[:, None], len(units), axis=1)
    if dispersed:
        odd = shares[1::2, None]
        truth[1::2] = scipy_stats.beta.ppf(draws[0][1::2], odd * strength, (1 - odd) * strength)
    return np.asarray(scipy_stats.binom.ppf(draws[1], units, truth), np.int64)


def draw_others(rng: np.random.Generator, weeks: int) -> list[pd.DataFrame]:
    """Draw the weeks of shares of visits, means and sums, each with its true value."""
    kinds = (_draw_visits, _draw_mean, _draw_sum)
    return [kinds[number % 3](rng, weeks) for number in range(OTHERS)]


def _draw_visits(rng: np.random.Generator, weeks: int) -> pd.DataFrame:
    share = rng.uniform(0.1, 0.6)
    visits = 1 + rng.poisson(VISITS - 1, (weeks, USERS))
    hits = rng.binomial(visits, rng.beta(share * ALIKE, (1 - share) * ALIKE, visits.shape))
    units, exposed = hits.sum(axis=1), visits.sum(axis=1)
    value = units / exposed
    residual = ((hits - value[:, None] * visits) ** 2).sum(axis=1) * USERS / (USERS - 1)
    effect = np.maximum(residual / (exposed * value * (1 - value)), 1)
    low, high = stats.wilson_interval(units / effect, exposed / effect)
    return _frame("rate by session", units, exposed, value, low, high, truth=share)


def _draw_mean(rng: np.random.Generator, weeks: int) -> pd.DataFrame:
    counts, amounts = _draw_amounts(rng, weeks)
    value = amounts.sum(axis=1) / counts
    squares = np.where(amounts > 0, (amounts - value[:, None]) ** 2, 0.0).sum(axis=1)
    reach = scipy_stats.t.ppf(0.975, counts - 1) * np.sqrt(squares / (counts - 1) / counts)
    low = np.maximum(value - reach, 0)
    return _frame("mean value", counts, counts, value, low, value + reach, truth=np.exp(SPREAD_OF_AMOUNTS**2 / 2))


def _draw_sum(rng: np.random.Generator, weeks: int) -> pd.DataFrame:
    counts, amounts = _draw_amounts(rng, weeks)
    value = amounts.sum(axis=1)
    reach = scipy_stats.t.ppf(0.975, counts - 1) * np.sqrt((amounts**2).sum(axis=1))
    units, low = np.full(weeks, 2_000), np.maximum(value - reach, 0)
    truth = counts.mean() * np.exp(SPREAD_OF_AMOUNTS**2 / 2)
    return _frame("sum value", counts, units, value, low, value + reach, truth=truth)


def _draw_amounts(rng: np.random.Generator, weeks: int) -> tuple[Counts, Floats]:
    """Draw the amounts of each week, 0 where there are no more."""
    counts = np.maximum(rng.poisson(rng.uniform(LEAST_AMOUNTS, MOST_AMOUNTS), weeks), 2)
    amounts = rng.lognormal(0, SPREAD_OF_AMOUNTS, (weeks, counts.max()))
    return counts, np.where(np.arange(counts.max()) < counts[:, None], amounts, 0.0)


def _frame(
    metric: str, units: Counts, exposed: Counts, value: Floats, low: Floats, high: Floats, *, truth: float
) -> pd.DataFrame:
    known = {"units": units, "exposed": exposed, "value": value, "ci_lower": low, "ci_upper": high}
    note = np.where(units < stats.FEW_UNITS, "n = few, needs 30", "")
    return pd.DataFrame({"metric": metric, **known, "target": truth, "benchmark_low": truth, "note": note})


def make_rates(counts: Counts, units: Counts, shares: Floats, others: Sequence[pd.DataFrame] = ()) -> Rates:
    """Put counts into the form of `measure_rates`; the first metric is the macro."""
    series = [
        _frame("rate", row, units, row / units, *stats.wilson_interval(row, units), truth=share)
        for row, share in zip(counts, shares, strict=True)
    ]
    series += others
    days = pd.date_range("2025-01-06", periods=len(units), freq="7D").as_unit("us")
    names = [f"metric_{number:02}" for number in range(len(series))]
    table = pd.concat(series, ignore_index=True).assign(
        period=np.tile(days, len(series)),
        tier=np.repeat(["macro"] + ["micro"] * (len(series) - 1), len(days)),
        conversion=np.repeat(names, len(days)),
        benchmark_high=np.nan,
        owner="",
    )
    limits = find_limits(table, by=(), every="W")
    goals = table.drop_duplicates("conversion")[["conversion", "metric"]].assign(
        title=names, direction=np.where(np.arange(len(names)) % 2, "down", "up"), macro=names[0]
    )
    return Rates(
        table=table.join(compare_periods(table, limits, by=())),
        limits=limits,
        goals=goals,
        names=dict(zip(names, names, strict=True)),
        by=(),
        every="W",
        confidence=0.95,
        segment="all",
        fewest=0,
        end=days[-1] + pd.Timedelta(days=7),
        takeaways=Takeaways(),
        window=None,
        pending=pd.DataFrame(),
        plan=cast(Plan, None),
    )


def list_alarms(rates: Rates) -> pd.DataFrame:
    """Run week by week, each run with the alerts of the one before, and list what is new in each."""
    history, new = None, []
    for week in sorted(rates.table["period"].unique()):
        # A run looks at its own week and the one before; what it knows of older ones is in the limits.
        until = rates.table["period"].isin([week, week - pd.Timedelta(days=7)])
        table, limits, end = rates.table[until], rates.limits[until], week + pd.Timedelta(days=7)
        seen = dataclasses.replace(rates, table=table, limits=limits, end=end)
        history = find_alerts(seen, history=history).table
        new.append(history.loc[history["is_new"], ["rule", "metric", "period"]])
    return pd.concat(new, ignore_index=True)


def simulate_quiet_years(seed: int, years: int, *, correlated: float) -> "pd.Series[float]":
    """Give the share of weekly runs that raise a new alert though nothing happens: any, by rule, and by kind."""
    seeds = np.random.SeedSequence(seed).spawn(years)
    with ProcessPoolExecutor(min(years, os.cpu_count() or 1), get_context("spawn")) as pool:
        found = pool.map(partial(simulate_year, correlated=correlated), seeds)
        alarms = pd.concat([each.assign(year=year) for year, each in enumerate(found)], ignore_index=True)
    ways = {"any": alarms.assign(any="any"), "rule": alarms, "metric": alarms}
    counted = [each.drop_duplicates(["year", "period", name])[name].value_counts() for name, each in ways.items()]
    return pd.concat(counted).reindex(["any", *LEVELS, "macro_down", *KINDS], fill_value=0) / (years * WEEKS)


def simulate_year(seed: np.random.SeedSequence, *, correlated: float) -> pd.DataFrame:
    """Give the new alerts of one year."""
    rng = np.random.default_rng(seed)
    shares, units = rng.uniform(0.01, 0.6, SHARES), rng.integers(LEAST_UNITS, MOST_UNITS + 1, WEEKS)
    counts = draw_counts(rng, shares, units, correlated=correlated)
    return list_alarms(make_rates(counts, units, shares, draw_others(rng, WEEKS)))


def measure_power(seed: int, years: int, *, week: int, share: float, dispersed: bool) -> float:
    """Give how often a change by 15% of a rate, of 20,000 units a week, is found in the week in which it comes.

    Half of the other metrics vary more than chance, or none; the rate that moves does not.
    """
    rng = np.random.default_rng(seed)
    found = 0
    for year in range(years):
        shares, units = rng.uniform(0.01, 0.6, SHARES + OTHERS), np.full(week, 20_000)
        shares[2] = share
        counts = draw_counts(rng, shares, units, correlated=0.0, dispersed=dispersed)
        counts[2, -1] = rng.binomial(20_000, share * (1.15 if year % 2 else 0.85))
        rates = make_rates(counts, units, shares)
        row, limits = rates.table.iloc[3 * week - 1], rates.limits.iloc[3 * week - 1]
        outside = not limits["limit_low"] <= row["value"] <= limits["limit_high"]
        found += outside or row["change_q_value"] < LEVELS["change"]
    return found / years


def main(arguments: Sequence[str]) -> None:
    """Print all measurements."""
    years = int(arguments[0]) if arguments else YEARS
    for correlated in (0.0, WEEKS_CORRELATED):
        share = simulate_quiet_years(1, years, correlated=correlated)
        print(f"{years} quiet years, weeks correlated {correlated}: runs that raise an alert", flush=True)
        print(share.map("{:.2%}".format).to_string(), flush=True)
    cases: list[dict[str, Any]] = [
        {"week": week, "share": share, "dispersed": dispersed}
        for week in (13, 40)
        for share in (0.1, 0.3)
        for dispersed in (False, True)
    ]
    for case in cases:
        print(f"a change by 15%, {case}: found in {measure_power(2, 2 * years, **case):.1%}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
