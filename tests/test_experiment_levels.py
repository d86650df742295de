"""A short run of `make experiments`: what simulated experiments show, and what is decided about them."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmarks.experiments import Row, draw_units, measure_decisions, measure_power, measure_quiet, plan_units

ONCE_IN_A_THOUSAND = 0.998


def repeat(simulate: Callable[..., Any], *, seed: int, times: int, **settings: object) -> Iterable[Any]:
    return [simulate(each, **settings) for each in np.random.SeedSequence(seed).spawn(times)]


def find_bounds(times: int, share: float) -> list[float]:
    return [count / times for count in scipy_stats.binom.interval(ONCE_IN_A_THOUSAND, times, share)]


def test_measure_quiet_keeps_its_levels() -> None:
    found = {row.criterion: row.measured for row in measure_quiet(25, repeat)}
    for name in ("signed", "revenue"):
        low, high = find_bounds(25, 0.05)
        assert low <= found[f"A/A, {name}: fixed-horizon false positives, 4% to 6%"] <= high
        assert found[f"A/A, {name}: always-valid, looked at daily, at most 5%"] <= high
    assert found["A/A: sample-ratio alarms, 0.1% (0.00% to 4.00% by chance)"] <= 0.04


def test_measure_power_is_what_was_planned() -> None:
    low, high = find_bounds(30, 0.8)
    rows = measure_power(30, repeat)
    assert len(rows) == 4
    assert all(low <= row.measured <= high for row in rows)


def test_measure_decisions_rolls_back_and_ships() -> None:
    rows = measure_decisions(10, repeat)
    # Of 10, fewer than 7 at 90% and than 5 at 80% come by chance in 1% of cases.
    assert [row.low for row in rows] == [0.9, 0.8]
    assert rows[0].measured >= 0.7
    assert rows[1].measured >= 0.5


def test_plan_units_is_the_textbook_formula() -> None:
    reach = (scipy_stats.norm.isf(0.025) + scipy_stats.norm.isf(0.2)) ** 2
    planned = plan_units(0.8, signed=0.1, margin=0.1)
    # Twice the units of an arm: (variance + variance) / difference**2; of a margin the control counts 0.9 times.
    assert planned["signed"] == pytest.approx(2 * reach * (0.2 * 0.8 + 0.22 * 0.78) / 0.02**2, rel=0.002)
    assert planned["bought"] == pytest.approx(2 * reach * 0.21 * (1 + 0.9**2) / 0.03**2, rel=0.002)


def test_draw_units_changes_what_is_asked() -> None:
    units = draw_units(np.random.default_rng(1), 200_000, signed=0.1, amount=-0.05).groupby("arm")[
        ["signed", "bought", "revenue"]
    ]
    ratio = units.mean().loc["new"] / units.mean().loc["control"]
    assert ratio.to_numpy() == pytest.approx([1.1, 1.0, 0.95], abs=0.03)


@pytest.mark.parametrize(("measured", "verdict"), [(0.039, "MISSED"), (0.04, "met"), (0.06, "met"), (0.061, "MISSED")])
def test_row_is_met_within_its_bounds(measured: float, verdict: str) -> None:
    assert Row("false positives", measured, 0.04, 0.06).verdict == verdict
