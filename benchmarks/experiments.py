"""Experiments whose truth is known: how often a change is seen that is none, a real one found, and what is decided.

Tables of units as `cv.Experiment.from_units` takes them: a fifth sign up (the micro), three tenths buy (the macro), and
what they pay is skewed (log-normal, of 100 orders 5 bring a sixth of the revenue). Units enter on 28 days.

python -m benchmarks.experiments [TESTS]
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from convlib import stats
from convlib.experiment import Experiment
from convlib.sizes import Baseline, Layout, plan_metrics

Floats = NDArray[np.float64]
TESTS, DECIDED = 2_000, 200
UNITS, DAYS, START = 4_000, 28, "2026-06-01"
SIGNED, BOUGHT = 0.2, 0.3
#: Standard deviation of the logarithms of amounts, whose mean is 1.
SPREAD = 0.8
REVENUE_VARIANCE = BOUGHT * np.exp(SPREAD**2) - BOUGHT**2
MEASURED = ("signed", "revenue")
#: No interval that may be looked at at any time is as short as this, in standard errors.
SHORTEST = 2.0
MARGIN = 0.05
#: How sure we are that a level that is held stays within its bounds.
SURE = 0.99


class Row(NamedTuple):
    """What was measured, and between which bounds it should lie."""

    criterion: str
    measured: float
    low: float = 0.0
    high: float = 1.0

    @property
    def verdict(self) -> str:
        """Whether it does; empty where nothing is asked of it."""
        if (self.low, self.high) == (0.0, 1.0):
            return ""
        return "met" if self.low <= self.measured <= self.high else "MISSED"


def draw_units(
    rng: np.random.Generator,
    units: int,
    *,
    signed: float = 0.0,
    bought: float = 0.0,
    amount: float = 0.0,
    share: float = 0.5,
) -> pd.DataFrame:
    """Draw units, a share of them in the second arm, where shares and amounts are changed by so much of themselves."""
    is_new = rng.random(units) < share
    buys = rng.random(units) < BOUGHT * (1 + bought * is_new)
    paid = rng.lognormal(-(SPREAD**2) / 2, SPREAD, units) * (1 + amount * is_new)
    return pd.DataFrame(
        {
            "arm": np.where(is_new, "new", "control"),
            "entered": pd.Timestamp(START) + pd.to_timedelta(rng.integers(0, DAYS, units), unit="D"),
            "signed": (rng.random(units) < SIGNED * (1 + signed * is_new)).astype(int),
            "bought": buys.astype(int),
            "revenue": np.where(buys, paid, 0.0),
        }
    )


def read(
    units: pd.DataFrame,
    *,
    guardrails: Sequence[str],
    margin: float = MARGIN,
    running: bool = False,
    share: float = 0.5,
) -> Experiment:
    """Read an experiment on sign-ups."""
    return Experiment.from_units(
        units,
        arm="arm",
        control="control",
        primary="signed",
        guardrails=dict.fromkeys(guardrails, margin),
        metrics=[name for name in MEASURED[1:] if name not in guardrails],
        entered="entered",
        shares={"control": 1 - share, "new": share},
        running=running,
    )


def simulate_quiet(seed: np.random.SeedSequence, *, share: float = 0.5) -> dict[str, float]:
    """Give the p-values of a test of two arms that are alike, and whether looking every day ever showed a change."""
    rng = np.random.default_rng(seed)
    units = draw_units(rng, int(rng.poisson(UNITS)), share=share)
    found = read(units, guardrails=["bought"], share=share)
    table, validity = found.table.set_index("conversion"), found.validity.set_index("check")
    known = {"ratio": float(validity["status"]["sample ratio"] == "failed")}
    for name in MEASURED:
        known |= {name: table["p_value"][name], f"{name} watched": 0.0, f"{name} peeked": 0.0}
    for day in range(2, DAYS + 1):
        _look(units[units["entered"] < pd.Timestamp(START) + pd.Timedelta(days=day)], known, share=share)
    return known


def _look(units: pd.DataFrame, known: dict[str, float], *, share: float) -> None:
    """Note what is shown by the units so far."""
    is_new = (units["arm"] == "new").to_numpy()
    distances = {name: _measure_distance(units[name].to_numpy(float), is_new) for name in MEASURED}
    for name, distance in distances.items():
        known[f"{name} peeked"] += distance > stats.normal_quantile(stats.CONFIDENCE)
    # Of the other looks none can show anything, and each costs as much as a read-out.
    if max(distances.values()) < SHORTEST:
        return
    table = read(units, guardrails=["bought"], running=True, share=share).table.set_index("conversion")
    for name in MEASURED:
        low, high = table["effect_ci_lower"][name], table["effect_ci_upper"][name]
        known[f"{name} watched"] += low > 0 or high < 0


def _measure_distance(values: Floats, is_new: NDArray[np.bool_]) -> float:
    """Give by how many standard errors two arms differ."""
    sides = [values[is_new], values[~is_new]]
    error = np.sqrt(sum(side.var(ddof=1) / len(side) for side in sides))
    return float(abs(sides[0].mean() - sides[1].mean()) / error)


def plan_units(power: float, *, signed: float, margin: float, amount: float = 0.0) -> "pd.Series[float]":
    """Plan how many units in two arms show a change of sign-ups or revenue, or that a guardrail keeps its margin."""
    revenue = partial(Baseline, conversion="revenue", metric="per_unit", name="", units=UNITS, value=BOUGHT)
    share = partial(Baseline, metric="rate", name="", units=UNITS, is_share=True)
    described = {
        "signed": share("primary", "signed", value=SIGNED, variance=SIGNED * (1 - SIGNED), change=signed),
        "bought": share(
            "guardrail",
            "bought",
            value=BOUGHT,
            variance=BOUGHT * (1 - BOUGHT),
            change=-margin,
            is_margin_relative=True,
        ),
        "revenue": revenue(
            "guardrail", variance=REVENUE_VARIANCE, is_share=False, change=-margin, is_margin_relative=True
        ),
    }
    if amount:
        described["revenue up"] = revenue("metric", variance=REVENUE_VARIANCE, is_share=False, change=amount)
    planned = plan_metrics(described.values(), Layout((0.5, 0.5), np.nan, "", power=power))
    return planned.set_axis(list(described))["units_needed"]


def find_status(
    seed: np.random.SeedSequence, *, units: int, metric: str, margin: float, changes: Mapping[str, float]
) -> str:
    """Give a metric's status in a test of so many units; a guardrail's, when it is one."""
    table = draw_units(np.random.default_rng(seed), units, **changes)
    guardrails = ["bought", "revenue"] if metric != "revenue up" else ["bought"]
    found = read(table, guardrails=guardrails, margin=margin).table.set_index("conversion")
    return str(found["status"][metric.removesuffix(" up")])


def find_decision(seed: np.random.SeedSequence, *, units: int, changes: Mapping[str, float]) -> str:
    """Give the decision of a test of so many units, with both guardrails."""
    table = draw_units(np.random.default_rng(seed), units, **changes)
    return read(table, guardrails=["bought", "revenue"]).decision


def measure_quiet(tests: int, repeat: Callable[..., Iterable[dict[str, float]]]) -> list[Row]:
    """Measure how often a change is seen that is none."""
    found = pd.DataFrame(repeat(simulate_quiet, seed=1, times=tests))
    rows = []
    for name in MEASURED:
        shown = float((found[name] < stats.SIGNIFICANCE).mean())
        rows += [
            Row(f"A/A, {name}: fixed-horizon false positives, 4% to 6%", shown, 0.04, 0.06),
            Row(
                f"A/A, {name}: always-valid, looked at daily, at most 5%",
                float((found[f"{name} watched"] > 0).mean()),
                0,
                0.05,
            ),
            Row(
                f"A/A, {name}: (fixed-horizon intervals, looked at daily)", float((found[f"{name} peeked"] > 0).mean())
            ),
        ]
    low, high = (count / tests for count in scipy_stats.binom.interval(SURE, tests, 0.001))
    alarms = float(found["ratio"].mean())
    return [*rows, Row(f"A/A: sample-ratio alarms, 0.1% ({low:.2%} to {high:.2%} by chance)", alarms, low, high)]


def measure_uneven(tests: int, repeat: Callable[..., Iterable[dict[str, float]]]) -> list[Row]:
    """Measure the same with a tenth of the units in the new arm, where skewed amounts are read only if they can be."""
    found = pd.DataFrame(repeat(simulate_quiet, seed=20, times=tests, share=0.1))
    rows = []
    for name in MEASURED:
        read_out = found[name].dropna()
        shown = float((read_out < stats.SIGNIFICANCE).mean()) if len(read_out) else 0.0
        watched = float((found[f"{name} watched"] > 0).mean())
        rows += [
            Row(f"A/A, new arm 10%, {name}: read out at all", len(read_out) / tests),
            Row(f"A/A, new arm 10%, {name}: of these fixed-horizon false positives, at most 6.5%", shown, 0, 0.065),
            Row(f"A/A, new arm 10%, {name}: always-valid, looked at daily, at most 5%", watched, 0, 0.05),
        ]
    return rows


def measure_power(tests: int, repeat: Callable[..., Iterable[str]]) -> list[Row]:
    """Measure how often tests of the planned size show what they were planned for."""
    planned = plan_units(stats.POWER, signed=0.1, margin=0.1, amount=0.1)
    changes = {"signed": {"signed": 0.1}, "revenue up": {"amount": 0.1}, "bought": {}, "revenue": {}}
    rows = []
    for place, (metric, change) in enumerate(changes.items()):
        units = int(planned[metric])
        settings = {"units": units, "metric": metric, "margin": 0.1, "changes": change}
        shown = pd.Series(list(repeat(find_status, seed=2 + place, times=tests, **settings)))
        share = float(shown.isin(["better", "within margin"]).mean())
        what = "+10%" if change else "within a margin of 10%"
        rows.append(Row(f"Power of {units:,} units, {metric.split()[0]} {what}: 77% to 83%", share, 0.77, 0.83))
    return rows


def measure_decisions(times: int, repeat: Callable[..., Iterable[str]]) -> list[Row]:
    """Measure what is decided, at a size with 95% power for the micro and each guardrail."""
    units = int(plan_units(0.95, signed=0.1, margin=MARGIN).max())
    cases = (
        ("roll back", {"signed": 0.1, "amount": -0.05}, "revenue -5%", 0.9),
        ("ship", {"signed": 0.1}, "nothing else", 0.8),
    )
    rows = []
    for place, (decision, changes, what, least) in enumerate(cases):
        found = list(repeat(find_decision, seed=10 + place, times=times, units=units, changes=changes))
        criterion = f"{units:,} units, sign-ups +10%, {what}: `{decision}`, at least {least:.0%}"
        rows.append(Row(criterion, found.count(decision) / times, least))
    return rows


def main(arguments: Sequence[str]) -> int:
    """Print what was measured against its criterion; 1 when one is missed."""
    tests = int(arguments[0]) if arguments else TESTS
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:

        def repeat(simulate: Callable[..., Any], *, seed: int, times: int, **settings: object) -> Iterable[Any]:
            seeds = np.random.SeedSequence(seed).spawn(times)
            return pool.map(partial(simulate, **settings), seeds, chunksize=10)

        rows: list[Row] = []
        for measure, times in (
            (measure_quiet, tests),
            (measure_uneven, tests // 2),
            (measure_power, tests),
            (measure_decisions, min(tests, DECIDED)),
        ):
            found = measure(times, repeat)
            for row in found:
                print(f"{row.criterion:<80} {row.measured:>7.2%}  {row.verdict}", flush=True)
            rows += found
    return int(any(row.verdict == "MISSED" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
