"""What spoils an experiment: each check against hand or scipy, its level by simulation, and planted faults."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from unit_samples import make_rate, make_revenue, make_sample

from convlib.plan_experiments import Margin
from convlib.samples import Sample
from convlib.validity import check_validity

CHECKS = [
    "sample ratio",
    "units in other arms",
    "units in two arms",
    "assignment after exposure",
    "pre-period difference",
    "novelty",
    "outliers",
    "whole weeks",
    "sample size",
]
DAY = 86_400_000_000
#: 1 June 2026 is a Monday.
MONDAY = int(pd.Timestamp("2026-06-01").value // 1_000)


def find_row(sample: Sample, check: str, **settings: Any) -> pd.Series:
    return check_validity(sample, **settings).set_index("check").T[check]


def test_check_validity_lists_every_check_when_nothing_is_known() -> None:
    found = check_validity(make_sample([0, 1] * 10, make_rate([0] * 20)))
    assert found.dtypes.astype(str).to_dict() == {
        "check": "str",
        "status": "str",
        "p_value": "float64",
        "evidence": "str",
    }
    assert found["check"].tolist() == CHECKS
    assert found["status"].tolist() == ["passed"] + ["not checked"] * 7 + ["waiting"]
    assert found["evidence"].tolist() == [
        "Assigned units: “control” 10 (50.00%, planned 50.00%) and “short” 10 (50.00%, planned 50.00%); p = 1.000.",
        "Every arm of the table is compared.",
        "Not known: each unit of the table has one arm.",
        "No event is named with which a unit first sees the change.",
        "Not known what units did before the test: no time before it, and no column of it, is named.",
        "Not known when in their window units did it.",
        "No metric adds up values, so no single unit can pull it.",
        "Not known when units were assigned.",
        "20 units were followed to the end; at least 1,000 are needed.",
    ]


def test_check_validity_survives_a_sample_without_units() -> None:
    none = np.zeros(0)
    measurement = make_rate(none, before=none)
    sample = make_sample([], measurement, entered=none.astype(np.int64), early=none, late=none, crossed=0)
    found = check_validity(sample).set_index("check")
    assert found["status"].tolist() == ["not checked", "not checked", "passed", *["not checked"] * 5, "waiting"]
    assert found.loc["sample ratio", "evidence"] == "No unit was assigned."


def test_sample_ratio_is_the_chi_square_of_all_assigned_units() -> None:
    # 4,700 + 5,300 against 5,000 each: 2 x 300**2 / 5,000 = 36 on one degree of freedom.
    sample = make_sample([0, 1], assigned=np.array([4_700, 5_300]), pending=np.array([4_699, 5_299]))
    row = find_row(sample, "sample ratio")
    assert row["status"] == "failed"
    assert row["p_value"] == pytest.approx(scipy_stats.chi2.sf(36, 1), rel=1e-10)
    assert row["evidence"] == (
        "Assigned units: “control” 4,700 (47.00%, planned 50.00%) and “short” 5,300 (53.00%, planned 50.00%); "
        "p < 0.001."
    )


def test_sample_ratio_knows_the_planned_shares() -> None:
    # Against 800, 100, 100: 10**2 / 800 + 20**2 / 100 + 10**2 / 100 = 5.125 on two degrees.
    sample = make_sample([0, 1, 2], assigned=np.array([810, 80, 110]), shares=(0.8, 0.1, 0.1))
    row = find_row(sample, "sample ratio")
    assert (row["status"], row["p_value"]) == ("passed", pytest.approx(scipy_stats.chi2.sf(5.125, 2), rel=1e-10))


def test_sample_ratio_fails_for_an_arm_that_nobody_entered() -> None:
    assert find_row(make_sample([0] * 40), "sample ratio")["status"] == "failed"


@pytest.mark.parametrize(
    ("misplaced", "status"), [(None, "not checked"), (0, "passed"), (1, "warning"), (10, "warning"), (11, "failed")]
)
def test_misplaced_units_fail_above_one_in_a_hundred(misplaced: int | None, status: str) -> None:
    assigned = np.array([500, 500])
    sample = make_sample([0, 1], assigned=assigned, crossed=misplaced, exposed_early=misplaced)
    found = check_validity(sample, exposure_named=True).set_index("check")
    assert found.loc[["units in two arms", "assignment after exposure"], "status"].tolist() == [status, status]


def test_misplaced_units_are_counted_in_the_evidence() -> None:
    sample = make_sample([0, 1], assigned=np.array([500, 500]), crossed=11, exposed_early=0)
    found = check_validity(sample, exposure_named=True).set_index("check")["evidence"]
    assert found["units in two arms"] == (
        "11 of 1,000 assigned units (1.10%) were seen in two arms; they stay in their first."
    )
    assert found["assignment after exposure"] == ("0 of 1,000 assigned units saw the change before they were assigned.")
    unknown = find_row(make_sample([0, 1]), "assignment after exposure", exposure_named=True)
    assert unknown["evidence"] == "Not known when units first saw the change."


def test_pre_period_difference_is_the_permutation_test_of_a_skewed_metric_in_unequal_arms() -> None:
    rng = np.random.default_rng(5)
    arm = np.repeat([0, 1], [900, 100])
    paid = rng.lognormal(0, 1, 1000) * (1 + 0.3 * arm)
    found = find_row(make_sample(arm, make_rate(paid, before=paid)), "pre-period difference")["p_value"]
    dealt = np.array([rng.permutation(paid)[900:].sum() for _ in range(10_000)])
    # One side is about 0.01, so that the simulated value has an error of 2 x 0.001.
    assert found == pytest.approx(2 * (dealt >= paid[900:].sum()).mean(), abs=0.006)


def test_pre_period_difference_of_equal_arms_is_the_z_test_times_the_number_of_tests() -> None:
    rng = np.random.default_rng(1)
    arm = np.repeat([0, 1, 2], 250)
    bought, paid = rng.integers(0, 2, 750).astype(float), rng.lognormal(0, 1, 750)
    visits = 1.0 + rng.poisson(2, 750)
    sample = make_sample(
        arm,
        make_rate(bought, before=bought),
        make_revenue(paid, denominator=visits, before=paid, before_denominator=visits),
        make_revenue(rng.lognormal(0, 1, 750), role="metric", before=paid + 1000 * arm),
    )
    p_values = []
    for which in (1, 2):
        pair = (arm == 0) | (arm == which)
        linear = paid - paid[pair].sum() / visits[pair].sum() * visits
        for values in (bought, linear):
            # Dealt anew, a mean's variance is that of all the units, without replacement: n - 1.
            change = values[arm == which].mean() - values[arm == 0].mean()
            error = np.sqrt(values[pair].var(ddof=1) * 2 / 250)
            p_values.append(2 * scipy_stats.norm.sf(abs(change) / error))
    expected = min(1, 4 * min(p_values))
    assert find_row(sample, "pre-period difference")["p_value"] == pytest.approx(expected, rel=1e-8)


def test_pre_period_difference_is_found_and_told() -> None:
    # 60 of 200 against 120 of 200: z is about 6.3.
    before = np.concatenate([np.repeat([1, 0], [60, 140]), np.repeat([1, 0], [120, 80])])
    sample = make_sample(np.repeat([0, 1], 200), make_rate(before, before=before.astype(float)))
    row = find_row(sample, "pre-period difference")
    assert row["status"] == "failed"
    # The log ratio's error is sqrt(0.7 / 0.3 / 199 + 0.4 / 0.6 / 199) = 0.12278, t about 1.968: 2 x exp(-+0.2416).
    assert row["evidence"] == (
        "Before the test, Signup: +100.0% (+59.2% to +159.8%), done by 120 of 200 units in “short” and "
        "60 of 200 units in “control”; p < 0.001."
    )


def test_pre_period_difference_is_found_where_one_arm_did_nothing() -> None:
    before = np.repeat([0.0, 1.0, 0.0], [200, 40, 160])
    sample = make_sample(np.repeat([0, 1], 200), make_rate(before, before=before))
    row = find_row(sample, "pre-period difference")
    # 0.2 with an error of sqrt(0.1 x 0.9 x 400 / 399 x 2 / 200) = 0.030037: z is 6.658.
    assert row["status"] == "failed"
    assert row["p_value"] == pytest.approx(2 * scipy_stats.norm.sf(0.2 / np.sqrt(0.0009 * 400 / 399)), rel=1e-9)
    assert row["evidence"] == (
        "Before the test, Signup: done by 40 of 200 units in “short” and 0 of 200 units in “control”; p < 0.001."
    )


def test_pre_period_difference_is_not_checked_when_nobody_did_anything_before() -> None:
    row = find_row(make_sample([0, 1] * 50, make_rate([0, 1] * 50, before=np.zeros(100))), "pre-period difference")
    assert row["status"] == "not checked"
    assert row["evidence"] == "Before the test no unit did what the primary metric and the guardrails count."


def make_halves(first: Sequence[int], last: Sequence[int], units: int = 1000) -> Sample:
    """Make arms of which the first so many units did it early, and the next so many late."""
    early = [np.arange(units) < count for count in first]
    late = [
        (np.arange(units) >= one) & (np.arange(units) < one + other) for one, other in zip(first, last, strict=True)
    ]
    halves = [np.concatenate(half).astype(float) for half in (early, late)]
    arm = np.repeat(np.arange(len(first)), units)
    return make_sample(arm, make_rate(sum(halves)), early=halves[0], late=halves[1])


def test_novelty_is_the_ratio_of_the_halves_ratios() -> None:
    row = find_row(make_halves([100, 150], [100, 100]), "novelty", window="14D")
    # No unit is in both halves, so that an arm's variance is 1/100 + 1/100 (or 1/150), but for n - 1; means fall out.
    error = np.sqrt((1 / 100 + 1 / 100 + 1 / 150 + 1 / 100) * 1000 / 999)
    assert row["p_value"] == pytest.approx(2 * scipy_stats.norm.sf(np.log(1.5) / error), rel=1e-9)
    assert row["status"] == "passed"
    assert row["evidence"] == "“short”: +50.0% in the first 7 days, +0.0% in the last 7 days; p = 0.034."


def test_novelty_warns_and_never_fails() -> None:
    row = find_row(make_halves([100, 400], [200, 100]), "novelty")
    assert row["status"] == "warning"
    assert row["evidence"] == "“short”: +300.0% in the first half, -50.0% in the last half; p < 0.001."


def test_novelty_of_several_arms_is_that_of_the_most_striking_one() -> None:
    one, both = make_halves([100, 150], [100, 100]), make_halves([100, 101, 150], [100, 99, 100])
    assert find_row(both, "novelty")["p_value"] == pytest.approx(2 * find_row(one, "novelty")["p_value"], rel=1e-9)


def test_novelty_knows_that_halves_are_of_the_same_units() -> None:
    rng = np.random.default_rng(3)
    often = rng.gamma(0.5, 2, 2000)
    early, late = rng.poisson(often).astype(float), rng.poisson(often).astype(float)
    visits, arm = 1.0 + rng.poisson(often), np.repeat([0, 1], 1000)
    sample = make_sample(arm, make_rate(early + late, denominator=visits), early=early, late=late)
    logs, variances = [], []
    for code in (0, 1):
        pair = np.array([early[arm == code], late[arm == code]])
        gradient = np.array([1, -1]) / pair.mean(axis=1)
        logs.append(np.log(pair.mean(axis=1)))
        variances.append(gradient @ np.cov(pair) @ gradient / 1000)
    change = (logs[1][0] - logs[0][0]) - (logs[1][1] - logs[0][1])
    expected = 2 * scipy_stats.norm.sf(abs(change) / np.sqrt(sum(variances)))
    assert find_row(sample, "novelty")["p_value"] == pytest.approx(expected, rel=1e-9)


def test_novelty_is_not_checked_on_few() -> None:
    row = find_row(make_halves([4, 50], [50, 50]), "novelty")
    assert (row["status"], row["evidence"]) == (
        "not checked",
        "Too few units did it in a half of the window: each arm needs 5.",
    )


def make_orders(largest: float, *, control: float = 10.0, treated: float = 11.0) -> np.ndarray:
    """Make 1,000 units an arm that spend about the same, and one in the second arm that spends most."""
    wave = np.tile([-1.0, 1.0], 500)
    paid = np.concatenate([control + wave, treated + wave])
    paid[1000] = largest
    return paid


def test_outliers_warn_when_capping_them_changes_the_conclusion() -> None:
    # A difference of 1 with an error of 0.045 is shown; one unit of -3,000 or 4,000 has an error of 4 or so.
    arm = np.repeat([0, 1], 1000)
    row = find_row(make_sample(arm, make_revenue(make_orders(4_000.0))), "outliers")
    assert row["status"] == "warning"
    # Of 10,000 + 10,990 - 10 ... the second arm's first unit had 10: 10,000 + 11,000 - 10 + 4,000 = 24,990 in all; the
    # largest two hold 4,000 + 12 of them. Capped at 12: the arm's mean is 11 + (12 - 10) / 1,000 = 11.002.
    assert row["evidence"].startswith("The largest 2 units hold 16.1% of Purchase: value per unit (n = 2,000). ")
    assert "Effect in “short”: 4.99 (-2.84 to 12.8); with the largest capped 1.00 (0.914 to 1.09)." in row["evidence"]


def test_outliers_pass_when_nothing_else_is_concluded() -> None:
    arm = np.repeat([0, 1], 1000)
    assert find_row(make_sample(arm, make_revenue(make_orders(13.0))), "outliers")["status"] == "passed"
    assert find_row(make_sample(arm, make_rate([0, 1] * 1000)), "outliers")["status"] == "not checked"


def test_outliers_look_at_the_side_of_the_margin() -> None:
    # No effect but that of one unit, which spends 300: 0.29 a unit with an error of 0.3, without it 0.002 and 0.045.
    arm = np.repeat([0, 1], 1000)
    paid = make_orders(300.0, treated=10.0)
    guarded = make_revenue(paid, margin=Margin(relative=0.02))
    assert find_row(make_sample(arm, guarded), "outliers")["status"] == "warning"
    assert find_row(make_sample(arm, replace(guarded, margin=Margin(absolute=0.2))), "outliers")["status"] == "warning"
    assert find_row(make_sample(arm, replace(guarded, margin=Margin(relative=0.5))), "outliers")["status"] == "passed"


@pytest.mark.parametrize(
    ("days", "minimum", "status", "evidence"),
    [
        (13, 14, "waiting", "Units followed to the end were assigned over 13 days; at least 14 are needed."),
        (14, 14, "passed", "Units followed to the end were assigned over 14 days."),
        (
            16,
            14,
            "warning",
            "Units followed to the end were assigned over 16 days, which are not whole weeks: some weekdays count more "
            "than others.",
        ),
    ],
)
def test_whole_weeks_counts_both_ends(days: int, minimum: int, status: str, evidence: str) -> None:
    # The first late in the evening, the last early in the morning.
    entered = np.array([MONDAY + DAY - 1, MONDAY + (days - 1) * DAY])
    row = find_row(make_sample([0, 1], entered=entered), "whole weeks", minimum_days=minimum)
    assert (row["status"], row["evidence"]) == (status, evidence)


def test_whole_weeks_counts_days_of_the_time_zone() -> None:
    # In Berlin the first is on Monday 1 June at 0:30, the last on Sunday 14 June at noon; in UTC 15 days.
    entered = np.array([MONDAY - 3 * DAY // 48, MONDAY + 13 * DAY + DAY // 2])
    sample = make_sample([0, 1], entered=entered)
    assert find_row(sample, "whole weeks", timezone="Europe/Berlin")["status"] == "passed"
    assert find_row(sample, "whole weeks")["status"] == "warning"


def test_sample_size_counts_units_that_were_followed() -> None:
    sample = make_sample([0, 1] * 30, assigned=np.array([50, 50]), pending=np.array([20, 20]))
    row = find_row(sample, "sample size", minimum_units=61)
    assert (row["status"], row["evidence"]) == (
        "waiting",
        "60 units were followed to the end, 40 more are pending; at least 61 are needed.",
    )
    assert find_row(sample, "sample size", minimum_units=60)["status"] == "passed"


def draw_quiet_sample(rng: np.random.Generator, units: int, *, with_before: bool = True) -> Sample:
    """Draw an A/A test: units that differ in how active they are, before the test and in both halves of it."""
    active = rng.beta(1, 4, units)
    early, late, before = [(rng.random(units) < share).astype(float) for share in (active / 2, active / 2, active)]
    signup = make_rate(np.maximum(early, late), before=before if with_before else None)
    arm = (rng.random(units) < 0.5).astype(int)
    return make_sample(arm, signup, early=early, late=late)


def test_levels_of_quiet_experiments() -> None:
    rng = np.random.default_rng(20260601)
    # The pre-period's test is slow: a quarter of the samples have one.
    samples = (draw_quiet_sample(rng, 1_000, with_before=number % 4 == 0) for number in range(2_000))
    found = pd.concat([check_validity(sample) for sample in samples])
    p_values = {check: rows.dropna().to_numpy() for check, rows in found.groupby("check")["p_value"]}
    for check, samples_with in (("sample ratio", 2_000), ("novelty", 2_000), ("pre-period difference", 500)):
        assert len(p_values[check]) == samples_with
        # Each bound is passed by chance once in 1,000 times when the level is held.
        for level in (0.001, 0.01, 0.05):
            low, high = scipy_stats.binom.interval(0.998, samples_with, level)
            assert low <= (p_values[check] < level).sum() <= high, (check, level)


@pytest.mark.parametrize("fault", ["sample ratio", "pre-period difference", "novelty"])
def test_planted_faults_are_found(fault: str) -> None:
    rng = np.random.default_rng(7)
    sample = draw_quiet_sample(rng, 10_000)
    if fault == "sample ratio":  # 8% of the control are lost
        sample = replace(sample, assigned=sample.assigned - np.array([400, 0]))
    if fault == "pre-period difference":  # a quarter of those who had signed up before are kept out of the new arm
        earlier = sample.primary.earlier.numerator
        kept_out = (sample.arm == 1) & (rng.random(10_000) < 0.25)
        sample = replace(sample, measurements=(replace(sample.primary, before=np.where(kept_out, 0.0, earlier)),))
    if fault == "novelty":  # half as many more in the first half, none in the second
        assert sample.early is not None
        more = (sample.arm == 1) & (rng.random(10_000) < 0.06)
        sample = replace(sample, early=np.maximum(sample.early, more))
    status = check_validity(sample, window="14D").set_index("check")["status"]
    assert status[fault] == ("warning" if fault == "novelty" else "failed")
    assert (status.drop([fault, "sample size"]).isin(["passed", "not checked"])).all()


def test_sample_ratio_may_be_looked_at_every_day_while_units_come() -> None:
    rng = np.random.default_rng(8)
    alarms = {True: 0, False: 0}
    for _ in range(300):
        counts = np.cumsum(rng.multinomial(100, [0.5, 0.5], size=42), axis=0)
        for running in alarms:
            looks = (
                find_row(make_sample([0, 1], make_rate([0, 1]), assigned=each), "sample ratio", running=running)
                for each in counts[::6]
            )
            alarms[running] += any(look["status"] == "failed" for look in looks)
    assert alarms[True] <= 2


def test_sample_ratio_of_a_running_test_is_the_mixture_of_lindon_and_malek() -> None:
    # With one unit the mean of a Dirichlet's share is the planned share: the ratio is 1.
    assert find_row(make_sample([0], assigned=np.array([1, 0])), "sample ratio", running=True)["p_value"] == 1.0
    # Beta-binomial against binomial: prior 500 and 500, 300 and 100 units.
    wanted = scipy_stats.binom.pmf(300, 400, 0.5) / scipy_stats.betabinom.pmf(300, 400, 500, 500)
    found = find_row(make_sample([0, 1], assigned=np.array([300, 100])), "sample ratio", running=True)
    assert found["p_value"] == pytest.approx(wanted)
    assert found["status"] == "failed"


def test_units_in_arms_without_a_plan_are_told() -> None:
    sample = make_sample([0, 1] * 10, others=(12, ["third", "fourth"]))
    row = find_row(sample, "units in other arms")
    assert (row["status"], row["evidence"]) == (
        "warning",
        "12 units were in “third” and “fourth”, which are no arms of the plan; they are left out.",
    )
    assert find_row(make_sample([0, 1] * 10, others=(0, [])), "units in other arms")["status"] == "passed"
