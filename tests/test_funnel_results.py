import dataclasses
from collections.abc import Sequence
from math import comb, nan

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal
from scipy import stats as scipy_stats
from small_logs import START, pick

from convlib import stats
from convlib.funnel_results import LEAK_COLUMNS, Counted, count_steps, count_trend

DAY = 86_400
#: The minutes at which each step was reached, and the value.
Attempt = tuple[Sequence[float], float]


def count(
    attempts: Sequence[Attempt],
    *,
    groups: Sequence[str] | None = None,
    clusters: Sequence[int] | None = None,
    entered: Sequence[float] | None = None,
    compared_from: int = 1,
    window_days: float = 1,
    days: tuple[float, float, float] = (0, 7, 30),
) -> Counted:
    """Write attempts at A, B, ... by their minutes; `days` are those of the period and the end of the data."""
    steps = max(len(minutes) for minutes, _ in attempts)
    origin = START.timestamp()
    times = [[*minutes, *[nan] * (steps - len(minutes))] for minutes, _ in attempts]
    frame = pd.DataFrame(np.array(times) * 60 + origin, columns=[f"time_{k}" for k in range(steps)])
    frame = frame.assign(unit=range(len(frame)), value=[value for _, value in attempts], pending=False)
    frame["entered"] = frame["time_0"] if entered is None else np.array(entered) * 60 + origin
    if groups is not None:
        frame["device"] = pd.Categorical(list(groups))
    if clusters is not None:
        frame["cluster"] = clusters
    return Counted(
        attempts=frame,
        names=tuple("ABCDE"[:steps]),
        required=(True,) * steps,
        by=("device",) * (groups is not None),
        counted="units",
        compared_from=compared_from,
        window=window_days * DAY,
        period=(origin + days[0] * DAY, origin + days[1] * DAY),
        end=origin + days[2] * DAY,
        confidence=0.95,
    )


def lose(lost: int, stayed: int) -> list[Attempt]:
    return [*[([0.0], nan)] * lost, *[([0.0, 1.0], 5.0)] * stayed]


def leaks_of(*groups: tuple[str, int, int], compared_from: int = 1) -> pd.DataFrame:
    """Lose some units of each group before B, and keep others."""
    attempts = [each for _, lost, stayed in groups for each in lose(lost, stayed)]
    names = [name for name, lost, stayed in groups for _ in range(lost + stayed)]
    return count_steps(count(attempts, groups=names, compared_from=compared_from))[1]


def test_count_steps_gives_the_share_lost_with_wilsons_interval() -> None:
    leaks = count_steps(count([*lose(3, 2), ([0, 1, 2], 9)]))[1]
    assert tuple(leaks.columns) == LEAK_COLUMNS
    assert pick(leaks, "previous name units_before lost lost_rate") == [("A", "B", 6, 3, 0.5), ("B", "C", 3, 2, 2 / 3)]
    low, high = stats.wilson_interval([3, 2], [6, 3])
    np.testing.assert_allclose(leaks[["lost_rate_ci_lower", "lost_rate_ci_upper"]], np.transpose([low, high]))
    assert leaks[["leak_difference", "p_value", "q_value"]].isna().all(axis=None)
    assert list(leaks["verdict"]) == ["", ""]


def test_count_steps_has_no_share_lost_at_an_optional_step() -> None:
    counted = count([([0, 1, 2], 9), ([0, nan, 3], 9), ([0], nan)])
    optional = dataclasses.replace(counted, required=(True, False, True))
    leaks = count_steps(optional)[1]
    assert pick(leaks, "previous name units_before lost") == [("A", "C", 3, 1), ("A", "B", 3, 0)]
    np.testing.assert_array_equal(leaks["lost_rate"], [1 / 3, nan])


VALUED: list[Attempt] = [
    *[([0.0], nan)] * 7,
    *[([0.0, 1.0], nan)] * 5,
    *[([0.0, 1.0, 2.0], value) for value in (10, 25, 40, nan, 15)],
]


def lost_value(attempts: Sequence[Attempt], weights: np.ndarray, step: int) -> float:
    """Count the value lost with a weight for each attempt, by the words of the docs."""
    depth = np.array([len(minutes) for minutes, _ in attempts])
    values = np.array([value for _, value in attempts])
    before, passed, last = (weights[depth >= each].sum() for each in (step, step + 1, depth.max()))
    known = ~np.isnan(values)
    mean = (weights[known] * values[known]).sum() / weights[known].sum()
    return float((before - passed) * last / passed * mean)


@pytest.mark.parametrize("clustered", [False, True])
def test_count_steps_gives_the_value_lost_an_interval_by_the_delta_method(clustered: bool) -> None:
    # The infinitesimal jackknife (Jaeckel 1972) is the delta method without derivatives: a cluster weighs a bit more.
    clusters = np.arange(len(VALUED)) // 3 if clustered else np.arange(len(VALUED))
    leaks = count_steps(count(VALUED, clusters=list(clusters) if clustered else None))[1].set_index("name")
    samples, ones = clusters.max() + 1, np.ones(len(VALUED))
    for step, name in ((1, "B"), (2, "C")):
        value = lost_value(VALUED, ones, step)
        assert leaks.loc[name, "value"] == pytest.approx(value)
        pull = [(lost_value(VALUED, ones + 1e-6 * (clusters == k), step) - value) / 1e-6 for k in range(samples)]
        error = np.sqrt(samples) * np.std(pull, ddof=1)
        bounds = value * np.exp(np.array([-1, 1]) * 1.959963984540054 * error / value)
        found = leaks.loc[[name], ["value_ci_lower", "value_ci_upper"]].to_numpy(float)
        np.testing.assert_allclose(found[0], bounds, rtol=1e-5)


def test_count_steps_has_no_interval_of_a_value_where_none_is_lost_or_known() -> None:
    for attempts in ([([0, 1], 5.0)] * 3, [*lose(2, 0), ([0, 1], nan)]):
        leaks = count_steps(count(attempts))[1]
        assert leaks[["value_ci_lower", "value_ci_upper"]].isna().all(axis=None)


def test_count_steps_tests_each_group_against_all_others_and_controls_the_false_discoveries() -> None:
    groups = [("desktop", 20, 80), ("mobile", 80, 40), ("tablet", 30, 30)]
    leaks = leaks_of(*groups).set_index("device").loc[["desktop", "mobile", "tablet"]]
    sides = [(20, 80, 110, 70), (80, 40, 50, 110), (30, 30, 100, 120)]
    p_values = [scipy_stats.chi2_contingency([[a, b], [c, d]], correction=False).pvalue for a, b, c, d in sides]
    np.testing.assert_allclose(leaks["p_value"], p_values)
    np.testing.assert_allclose(leaks["q_value"], scipy_stats.false_discovery_control(p_values))
    differences = [a / (a + b) - c / (c + d) for a, b, c, d in sides]
    np.testing.assert_allclose(leaks["leak_difference"], differences)
    for (a, b, c, d), (_, row) in zip(sides, leaks.iterrows(), strict=True):
        bounds = stats.newcombe_interval((a, c), (a + b, c + d))
        assert (row["leak_difference_ci_lower"], row["leak_difference_ci_upper"]) == pytest.approx(bounds)
    assert list(leaks["verdict"]) == ["leaks less", "leaks more", "no evidence"]


def test_count_steps_tests_small_counts_exactly() -> None:
    leaks = leaks_of(("desktop", 0, 30), ("mobile", 6, 24))
    assert list(leaks["p_value"]) == pytest.approx([2 * comb(30, 6) / comb(60, 6)] * 2)
    assert pick(leaks, "device verdict") == [("mobile", "leaks more"), ("desktop", "leaks less")]


def test_count_steps_tests_no_group_of_few_units_nor_against_few() -> None:
    few = leaks_of(("desktop", 20, 9), ("mobile", 100, 100))
    assert few["p_value"].isna().all()
    assert list(few["verdict"]) == ["too few", "too few"]
    alone = leaks_of(("mobile", 100, 100))
    assert list(alone["verdict"]) == [""]


def test_count_steps_compares_groups_only_where_being_in_one_does_not_depend_on_staying() -> None:
    groups = [("desktop", 20, 80), ("mobile", 80, 40)]
    assert list(leaks_of(*groups, compared_from=2)["verdict"]) == ["", ""]
    assert list(leaks_of(*groups, compared_from=1)["verdict"]) == ["leaks more", "leaks less"]


def test_count_steps_divides_the_counts_of_clusters_by_their_design_effect() -> None:
    # Each unit of 2 attempts does the same both times, so 100 attempts say as much as 50 independent ones, and a bit
    # less: a sample variance has one degree of freedom less (Kish).
    attempts = [*lose(40, 60), *lose(60, 40)]
    names, clusters = ["desktop"] * 100 + ["mobile"] * 100, [k // 2 for k in range(200)]
    counted = count(attempts, groups=names, clusters=clusters)
    leaks = count_steps(counted)[1].set_index("device")
    effect = 2 * 50 / 49
    hits, trials = np.array([40, 60]) / effect, 100 / effect
    pooled = 0.5 * 0.5 * 2 / trials
    z = (hits[1] - hits[0]) / trials / np.sqrt(pooled)
    assert leaks.loc["mobile", "p_value"] == pytest.approx(2 * scipy_stats.norm.sf(z))
    low = stats.wilson_interval(hits, [trials] * 2)[0]
    np.testing.assert_allclose(leaks.loc[["desktop", "mobile"], "lost_rate_ci_lower"], low)


def test_count_steps_does_not_test_few_losses_of_clusters() -> None:
    attempts, names = [*lose(0, 50), *lose(4, 46)], ["desktop"] * 50 + ["mobile"] * 50
    leaks = count_steps(count(attempts, groups=names, clusters=list(range(100))))[1]
    assert list(leaks["verdict"]) == ["too few", "too few"]
    assert count_steps(count(attempts, groups=names))[1]["p_value"].notna().all()


@pytest.mark.parametrize("clustered", [False, True])
def test_count_steps_and_trend_are_equal_to_the_last_digit_for_any_order_of_attempts_and_units(clustered: bool) -> None:
    rng = np.random.default_rng(3)
    drawn = [rng.exponential(500, rng.integers(1, 5)).cumsum() for _ in range(400)]
    attempts = [(list(minutes), rng.lognormal(3) if len(minutes) == 4 else nan) for minutes in drawn]
    names, clusters = list(rng.choice(["a", "b", "c"], 400)), list(rng.integers(90, size=400))
    counted = count(attempts, groups=names, clusters=clusters if clustered else None)
    table, leaks = count_steps(counted)
    for seed in range(5):
        shuffled = counted.attempts.sample(frac=1, random_state=seed)
        if clustered:
            shuffled["cluster"] = np.random.default_rng(seed).permutation(90)[shuffled["cluster"]]
        again = dataclasses.replace(counted, attempts=shuffled)
        assert_frame_equal(count_steps(again)[0], table, check_exact=True)
        assert_frame_equal(count_steps(again)[1], leaks, check_exact=True)
        assert_frame_equal(count_trend(again), count_trend(counted), check_exact=True)


def test_count_steps_of_no_attempt_keeps_columns_and_types() -> None:
    some = count(lose(2, 2), groups=["a", "a", "b", "b"])
    none = dataclasses.replace(some, attempts=some.attempts.head(0))
    for full, empty in zip(count_steps(some), count_steps(none), strict=True):
        assert len(empty) == 0
        assert_series_equal(full.dtypes, empty.dtypes)
    assert_series_equal(count_trend(some).dtypes, count_trend(none).dtypes)


def test_count_trend_marks_the_weeks_that_are_not_whole() -> None:
    # The period is from Wednesday of the first week to Tuesday of the fourth; weeks begin on Monday, day 0.
    attempts = [([day * 24 * 60], nan) for day in (2, 7, 14, 22) for _ in range(30)]
    trend = count_trend(count(attempts, days=(2, 23, 60)))
    assert list(trend["note"]) == ["partial week", "", "", "partial week"]
    # The data end on day 20: the windows of those who entered in the last hours of the third week are not over.
    trend = count_trend(count(attempts[:90], days=(2, 23, 21.5)))
    assert list(trend["note"]) == ["partial week", "", "partial week"]


def test_count_trend_says_of_a_small_partial_week_both() -> None:
    trend = count_trend(count([([60], nan)], days=(0, 5, 30)))
    assert list(trend["note"]) == ["partial week; 1 units, fewer than 30"]


def test_count_trend_gives_every_week_the_same_time_to_convert() -> None:
    # Both enter on day 0; the second one comes back on day 3, and its later attempt is the one that counts.
    counted = count([([0, 60], 5), ([3 * 24 * 60, 3 * 24 * 60 + 60], 5)], entered=[0, 0])
    assert list(count_steps(counted)[0]["units"]) == [2, 2]
    assert pick(count_trend(counted), "units converted rate") == [(2, 1, 0.5)]
