"""Quiet years: how often a weekly run raises an alert of a rate though nothing happens, and which changes it finds.

Fifty metrics, week by week, of 5,000 to 30,000 units. The true shares, 1% to 60%, never change; half of the metrics
vary more than chance makes them (beta-binomial, 1.5 standard errors at the usual number of units, more in large weeks).
Targets and benchmarks are the true share itself, the hardest case. In the second scenario the metrics' weeks are
correlated (0.5, a Gaussian copula).

python -m benchmarks.quiet_years [YEARS]
"""

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from convlib import stats
from convlib.alerts import LEVELS, find_alerts
from convlib.control import compare_periods, find_limits
from convlib.rates import Rates

METRICS, WEEKS, YEARS = 50, 52, 100
LEAST_UNITS, MOST_UNITS = 5_000, 30_000
#: A beta-binomial whose standard deviation at the usual number of units is 1.5 of the binomial's.
CORRELATION_OF_UNITS = (1.5**2 - 1) / 17_500
WEEKS_CORRELATED = 0.5
Floats = NDArray[np.float64]


def draw_counts(
    rng: np.random.Generator, shares: Floats, units: NDArray[np.int64], *, correlated: float, dispersed: bool = True
) -> NDArray[np.int64]:
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
    counts: NDArray[np.int64] = scipy_stats.binom.ppf(draws[1], units, truth).astype(np.int64)
    return counts


def make_rates(counts: NDArray[np.int64], units: NDArray[np.int64], shares: Floats) -> Rates:
    """Put counts into the form of `measure_rates`; the first metric is the macro."""
    metrics, weeks = counts.shape
    names = [f"metric_{number:02}" for number in range(metrics)]
    low, high = stats.wilson_interval(counts.ravel(), np.tile(units, metrics))
    days = pd.date_range("2025-01-06", periods=weeks, freq="7D").as_unit("us")
    table = pd.DataFrame(
        {
            "period": np.tile(days, metrics),
            "tier": np.repeat(["macro"] + ["micro"] * (metrics - 1), weeks),
            "conversion": np.repeat(names, weeks),
            "metric": "rate",
            "units": counts.ravel(),
            "exposed": np.tile(units, metrics),
            "value": counts.ravel() / np.tile(units, metrics),
            "ci_lower": low,
            "ci_upper": high,
            "target": np.repeat(shares, weeks),
            "benchmark_low": np.repeat(shares, weeks),
            "benchmark_high": np.nan,
            "owner": "",
            "note": "",
        }
    )
    limits = find_limits(table, by=(), every="W")
    goals = pd.DataFrame({"conversion": names, "metric": "rate", "title": names, "direction": "up", "macro": names[0]})
    rates = SimpleNamespace(
        table=table.join(compare_periods(table, limits, by=())),
        limits=limits,
        goals=goals,
        names=dict(zip(names, names, strict=True)),
        by=(),
        every="W",
        confidence=0.95,
        segment="all",
        end=days[-1] + pd.Timedelta(days=7),
    )
    return cast(Rates, rates)


def count_alarms(rates: Rates) -> tuple[int, int]:
    """Run week by week, each run with the alerts of the one before; give the runs with a new alert, and all runs."""
    history, raised = None, 0
    weeks = sorted(rates.table["period"].unique())
    for week in weeks:
        until = rates.table["period"] <= week
        known = {**vars(rates), "table": rates.table[until], "limits": rates.limits[until]}
        known["end"] = week + pd.Timedelta(days=7)
        history = find_alerts(cast(Rates, SimpleNamespace(**known)), history=history).table
        raised += bool(history["is_new"].any())
    return raised, len(weeks)


def simulate_quiet_years(seed: int, years: int, *, correlated: float) -> float:
    """Give the share of weekly runs that raise a new alert of a rate though nothing happens."""
    rng = np.random.default_rng(seed)
    totals = np.zeros(2)
    for _ in range(years):
        shares, units = rng.uniform(0.01, 0.6, METRICS), rng.integers(LEAST_UNITS, MOST_UNITS + 1, WEEKS)
        counts = draw_counts(rng, shares, units, correlated=correlated)
        totals += count_alarms(make_rates(counts, units, shares))
    return float(totals[0] / totals[1])


def measure_power(seed: int, years: int, *, week: int, share: float, dispersed: bool) -> float:
    """Give how often a change by 15% of a rate, of 20,000 units a week, is found in the week in which it comes.

    Half of the other metrics vary more than chance, or none; the rate that moves does not.
    """
    rng = np.random.default_rng(seed)
    found = 0
    for year in range(years):
        shares, units = rng.uniform(0.01, 0.6, METRICS), np.full(week, 20_000)
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
        print(f"{years} quiet years, weeks correlated {correlated}: {share:.2%} of runs raise an alert", flush=True)
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
