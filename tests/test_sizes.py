from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.power import NormalIndPower, TTestIndPower

from convlib import stats
from convlib.arms import Contrast, find_detectable, find_power, size_arms
from convlib.sizes import (
    COLUMNS,
    CURVE_COLUMNS,
    Baseline,
    Floats,
    Layout,
    count_days,
    describe_share,
    draw_out,
    find_obstacle,
    least_moves,
    plan_metrics,
    size_rates,
)

PAIR = Layout((0.5, 0.5), 100.0, "14D")
#: z(0.975) + z(0.8) and z(0.975), from a table.
REACH, Z = 1.959964 + 0.841621, 1.959964
DRAWS = 2_000


def rate(value: float, change: float) -> Baseline:
    return describe_share("primary", "save", "Save", did=round(10_000 * value), units=10_000, change=change)


def kept(value: float, margin: float) -> Baseline:
    return describe_share("guardrail", "buy", "Buy", did=round(10_000 * value), units=10_000, change=-margin)


def mean(value: float, deviation: float, change: float) -> Baseline:
    return Baseline("primary", "save", "sum of value", "Value", 500, value, deviation**2, False, change)


def needed(baseline: Baseline, layout: Layout = PAIR) -> float:
    return float(plan_metrics([baseline], layout)["units_needed"].iloc[0])


# A t-test needs the square of z(0.975) over 4 more units an arm, about one.
@pytest.mark.parametrize(("deviations", "more"), [(0.1, 3), (0.3, 3)])
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_size_arms_agrees_with_statsmodels(deviations: float, more: float, share: float) -> None:
    ratio = share / (1 - share)
    known = {"effect_size": deviations, "alpha": 0.05, "power": 0.8, "ratio": ratio}
    normal, student = (solver().solve_power(**known) * (1 + ratio) for solver in (NormalIndPower, TTestIndPower))
    found = size_arms(deviations * 3, 9.0, Contrast(share=share))
    assert found == np.ceil(normal)
    assert student - found < more / min(share, 1 - share)


def test_size_arms_looks_one_way_for_a_margin() -> None:
    known = {"effect_size": 0.1, "alpha": 0.025, "power": 0.9, "ratio": 1, "alternative": "larger"}
    arm = NormalIndPower().solve_power(**known)
    assert size_arms(0.1, 1.0, Contrast(0.025, one_sided=True), power=0.9) == np.ceil(2 * arm)


def test_size_arms_asks_for_as_many_units_as_a_result_needs_at_least() -> None:
    assert size_arms(10.0, 1.0, Contrast()) == 60
    assert size_arms(10.0, 1.0, Contrast(share=0.1)) == 300  # 30 of them in the small arm


@pytest.mark.parametrize("contrast", [Contrast(), Contrast(0.025, one_sided=True), Contrast(0.0125, share=0.25)])
def test_find_power_and_find_detectable_are_the_inverse_of_the_size(contrast: Contrast) -> None:
    units = size_arms(0.05, 1.0, contrast)
    assert find_power(0.05, 1.0, units, contrast) == pytest.approx(0.8, abs=1e-3)
    assert find_detectable(units, contrast) == pytest.approx(0.05, rel=1e-3)


def test_plan_metrics_sizes_a_rate_by_the_variances_of_both_rates() -> None:
    # From 10% to 12%: (z + z)^2 (0.09 + 0.1056) / 0.02^2 in each arm.
    arm = np.ceil(REACH**2 * (0.09 + 0.1056) / 0.02**2)
    assert needed(rate(0.10, 0.20)) == 2 * arm
    # Down to 8%: 0.0736.
    assert needed(rate(0.10, -0.20)) == 2 * np.ceil(REACH**2 * (0.09 + 0.0736) / 0.02**2)


def test_plan_metrics_sizes_a_mean_by_the_variances_of_amounts_that_change_alike() -> None:
    assert needed(mean(20.0, 60.0, 0.10)) == 2 * np.ceil(REACH**2 * (1 + 1.1**2) * 60**2 / 2**2)


def test_plan_metrics_sizes_a_relative_margin_by_the_arm_less_a_part_of_the_control() -> None:
    # 0.10 - 0.95 x 0.10, with the variance 0.09 (1 + 0.95^2).
    assert needed(kept(0.10, 0.05)) == 2 * np.ceil(REACH**2 * 0.09 * (1 + 0.95**2) / 0.005**2)
    absolute = replace(kept(0.10, 0.05), is_margin_relative=False)
    assert needed(absolute) == 2 * np.ceil(REACH**2 * 2 * 0.09 / 0.005**2)
    # Of what is better rare.
    assert needed(kept(0.10, -0.05)) == 2 * np.ceil(REACH**2 * 0.09 * (1 + 1.05**2) / 0.005**2)


def test_plan_metrics_sizes_several_arms_by_dunnetts_level() -> None:
    # Dunnett's (1955) table, two-sided 5%, two treatments, infinite degrees of freedom: 2.21.
    each = REACH - Z + 2.2121
    arm = each**2 * (1 + 1.1**2) * 60**2 / 2**2
    thirds = Layout((1 / 3, 1 / 3, 1 / 3), 100.0, "14D")
    assert needed(mean(20.0, 60.0, 0.10), thirds) == pytest.approx(3 * arm, rel=1e-3)


def test_plan_metrics_sizes_the_smallest_arm() -> None:
    # 80% and 20%: each unit of variance counts 1 / 0.8 + 1 / 0.2 times.
    uneven = Layout((0.8, 0.2), 100.0, "14D")
    units = REACH**2 * 60**2 / 2**2 * (1 / 0.8 + 1.1**2 / 0.2)
    assert needed(mean(20.0, 60.0, 0.10), uneven) == pytest.approx(units, abs=2)


def test_plan_metrics_has_one_row_a_metric_with_days_and_what_is_detectable() -> None:
    table = plan_metrics([rate(0.10, 0.20), kept(0.10, 0.05)], PAIR)
    assert tuple(table.columns) == COLUMNS
    assert table["role"].tolist() == ["primary", "guardrail"]
    assert table["effect"].tolist() == pytest.approx([0.20, np.nan], nan_ok=True)
    assert table["margin"].tolist() == pytest.approx([np.nan, 0.05], nan_ok=True)
    assert table["days_needed"].tolist() == np.ceil(table["units_needed"] / 100).tolist()
    shown = table[["detectable_1_week", "detectable_2_weeks", "detectable_4_weeks", "detectable_8_weeks"]]
    assert (shown.diff(axis=1).iloc[:, 1:] < 0).all(axis=None)


@pytest.mark.parametrize(
    "baseline",
    [rate(0.10, 0.20), rate(0.10, -0.20), mean(20.0, 60.0, 0.10), kept(0.10, 0.05), kept(0.10, -0.05)],
    ids=["rate up", "rate down", "mean", "margin", "margin of what is better rare"],
)
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.7, 0.3), (0.4, 0.3, 0.3)], ids=["two", "uneven", "three"])
def test_draw_out_passes_through_size_and_change(baseline: Baseline, shares: tuple[float, ...]) -> None:
    units = needed(baseline, Layout(shares, 100.0, "14D"))
    week = draw_out([baseline], Layout(shares, units / 7, "14D"), weeks=1).iloc[0]
    assert tuple(week.index) == CURVE_COLUMNS
    assert week["units"] == pytest.approx(units, abs=1)
    assert week["power"] == pytest.approx(0.8, abs=2e-3)
    size = abs(baseline.change) if baseline.role == "guardrail" else baseline.change
    assert week["detectable"] == pytest.approx(size, rel=2e-3)


def test_draw_out_says_nothing_of_a_rate_that_can_not_move_so_far() -> None:
    few = Layout((0.5, 0.5), 10.0, "14D")
    assert np.isnan(draw_out([rate(0.10, -0.5)], few, weeks=1)["detectable"].iloc[0])  # below none
    assert np.isnan(draw_out([rate(0.90, 0.1)], few, weeks=1)["detectable"].iloc[0])  # above all


@pytest.mark.parametrize(
    ("did", "units", "change", "note"),
    [
        (10, 29, 0.1, "n = 29, needs 30"),
        (0, 100, 0.1, "nobody did it"),
        (4, 100, 0.1, "4 did it, needs 5"),
        (96, 100, 0.01, "4 did not do it, needs 5"),
        (95, 100, 0.1, "10% more than 95.0% is more than all"),
        (50, 100, 0.0, "no change to find"),
        (50, 100, 0.1, ""),
    ],
)
def test_describe_share_notes_what_can_not_be_planned(did: int, units: int, change: float, note: str) -> None:
    baseline = describe_share("primary", "save", "Save", did=did, units=units, change=change)
    assert baseline.note == note
    row = plan_metrics([baseline], PAIR).iloc[0]
    assert np.isnan(row["units_needed"]) == np.isnan(row["detectable_8_weeks"]) == bool(note)


def test_find_obstacle_notes_amounts_that_sum_to_nothing_and_margins_of_everything() -> None:
    nothing = find_obstacle(mean(0.0, 1.0, 0.1), did=100)
    assert nothing.note == "is not above zero, or does not vary"
    assert find_obstacle(mean(1.0, 0.0, 0.1), did=100).note == "is not above zero, or does not vary"
    assert find_obstacle(replace(kept(0.5, 0.05), change=-1.0), did=100).note == "its margin is more than all of it"


def test_count_days_is_at_least_a_week() -> None:
    assert [count_days(units, PAIR) for units in (60, 701, 1_000)] == [7, 8, 10]
    assert np.isnan(count_days(np.nan, PAIR))


def test_size_rates_says_nothing_without_a_move() -> None:
    assert np.isnan(size_rates([0.1, 0.0, 0.1, np.nan], [0.1, 0.1, 1.2, 0.2])).all()


def test_size_rates_is_close_to_cohens_formula() -> None:
    arcsines = 2 * (np.arcsin(np.sqrt(0.11)) - np.arcsin(np.sqrt(0.10)))
    assert size_rates([0.10], [0.11])[0] == pytest.approx(2 * 2 * (REACH / arcsines) ** 2, rel=1e-3)


def test_least_moves_is_what_a_test_of_that_size_finds() -> None:
    up, down = least_moves([0.10, 0.10], [0.2, 0.05], [4_000, 4_000])
    assert up > 0 > down
    np.testing.assert_allclose(size_rates([0.10, 0.10], [0.10 + up, 0.10 + down]), 4_000, atol=2)


def test_least_moves_says_nothing_without_a_direction_or_with_too_few_units() -> None:
    assert np.isnan(least_moves([0.1, 0.1, 0.01], [0.1, 0.2, 0.005], [4_000, 1, 10])).all()


def simulate_z(control: Floats, treated: Floats) -> Floats:
    """Welch's statistic of each row's difference, without a look at the code."""
    errors = [rows.var(axis=1, ddof=1) / rows.shape[1] for rows in (control, treated)]
    z: Floats = (treated.mean(axis=1) - control.mean(axis=1)) / np.sqrt(sum(errors))
    return z


def test_planned_sizes_have_their_power_in_simulations() -> None:
    rng = np.random.default_rng(20_170_417)
    arm = int(needed(rate(0.20, 0.25)) / 2)
    found = [rng.binomial(1, share, (DRAWS, arm)).astype(float) for share in (0.20, 0.25)]
    assert np.mean(np.abs(simulate_z(*found)) > Z) == pytest.approx(0.8, abs=0.03)

    arm = int(needed(mean(20.0, 30.0, 0.25)) / 2)
    # A lognormal of mean 20 and standard deviation 30, then a quarter more.
    width = np.sqrt(np.log(1 + 1.5**2))
    found = [times * rng.lognormal(np.log(20) - width**2 / 2, width, (DRAWS, arm)) for times in (1, 1.25)]
    assert np.mean(np.abs(simulate_z(*found)) > Z) == pytest.approx(0.8, abs=0.03)

    arm = int(needed(kept(0.20, 0.15)) / 2)
    control, treated = (rng.binomial(arm, 0.20, DRAWS) / arm for _ in range(2))
    error = np.sqrt((treated * (1 - treated) + 0.85**2 * control * (1 - control)) / arm)
    assert np.mean(treated - 0.85 * control > Z * error) == pytest.approx(0.8, abs=0.03)


def test_layout_uses_the_level_asked_for() -> None:
    assert PAIR.contrast("primary").level == pytest.approx(1 - stats.CONFIDENCE)
    level, one_sided, share = replace(PAIR, confidence=0.9).contrast("guardrail")
    assert level == pytest.approx(0.05)
    assert (one_sided, share) == (True, 0.5)
