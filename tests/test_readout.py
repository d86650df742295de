"""The tables of an experiment: scipy, statsmodels, and contrasts of means written out by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from unit_samples import make_rate, make_revenue, make_sample

from convlib import stats
from convlib.arms import compare_arms
from convlib.plan_experiments import Margin
from convlib.readout import (
    COLUMNS,
    DAY_COLUMNS,
    FACTOR_COLUMNS,
    SEGMENT_COLUMNS,
    TOO_FEW,
    Reading,
    compare_all,
    tabulate_days,
    tabulate_factors,
    tabulate_metrics,
    tabulate_segments,
)
from convlib.samples import Sample

FINAL, RUNNING = Reading(running=False, planned=1_000), Reading(running=True, planned=1_000)
RNG = np.random.default_rng(11)
SIZE = 3_000
ARM = np.arange(SIZE) % 3
SIGNUPS = (RNG.random(SIZE) < 0.3 + 0.03 * ARM).astype(float)
REVENUE = np.where(RNG.random(SIZE) < 0.4, RNG.lognormal(3, 0.5, SIZE), 0.0)
DEVICE = RNG.choice(["mobile", "desktop", "tablet"], SIZE, p=[0.6, 0.35, 0.05])
FORM = {"form": ["old", "new"]}


def make_table(size: int = SIZE, arms: int = 2, **known: Any) -> Sample:
    guardrail = make_revenue(REVENUE[:size], margin=Margin(relative=0.2))
    return make_sample(ARM[:size] % arms, make_rate(SIGNUPS[:size]), guardrail, **known)


def test_tabulate_metrics_is_welchs_test_with_two_arms() -> None:
    found = tabulate_metrics(make_table(), FINAL)
    assert list(found.columns) == list(COLUMNS)
    arm = ARM % 2
    for (_, row), values in zip(found.iterrows(), (SIGNUPS, REVENUE), strict=True):
        test = scipy_stats.ttest_ind(values[arm == 1], values[arm == 0], equal_var=False)
        assert row["p_value"] == pytest.approx(test.pvalue, rel=1e-10)
        np.testing.assert_allclose([row["effect_ci_lower"], row["effect_ci_upper"]], test.confidence_interval())
    assert found[["arm", "role", "conversion", "metric"]].to_numpy().tolist() == [
        ["short", "primary", "signup", "rate"],
        ["short", "guardrail", "signup", "sum of value"],
    ]
    np.testing.assert_array_equal(found["margin"], [np.nan, -0.2])
    assert found["note"].tolist() == ["", ""]


def test_tabulate_metrics_gives_margins_with_the_sign_of_worse() -> None:
    guardrail = make_revenue(REVENUE, margin=Margin(absolute=0.5), direction="down")
    found = tabulate_metrics(make_sample(ARM % 2, make_rate(SIGNUPS), guardrail), FINAL)
    assert (np.isnan(found["margin"].iloc[1]), found["margin_absolute"].iloc[1]) == (True, 0.5)
    guardrail = make_revenue(REVENUE, margin=Margin(relative=0.1))
    found = tabulate_metrics(make_sample(ARM % 2, make_rate(SIGNUPS), guardrail), FINAL)
    assert (found["margin"].iloc[1], np.isnan(found["margin_absolute"].iloc[1])) == (-0.1, True)


def test_tabulate_metrics_is_scipys_dunnett_with_three_arms_of_equal_variance() -> None:
    drawn = pd.Series(RNG.normal(size=SIZE)).groupby(ARM)
    # Scipy pools the arms' variances, so these are made equal here.
    values = drawn.transform(scipy_stats.zscore).to_numpy() + 10 + 0.08 * (ARM == 1)
    found = tabulate_metrics(make_sample(ARM, make_rate(values)), FINAL)
    control, *arms = (values[code == ARM] for code in range(3))
    expected = scipy_stats.dunnett(*arms, control=control, rng=np.random.default_rng(2))
    interval = expected.confidence_interval()
    assert found["arm"].tolist() == ["short", "long"]
    np.testing.assert_allclose(found["p_value"], expected.pvalue, atol=1e-3)
    np.testing.assert_allclose(found["effect_ci_lower"], interval.low, atol=1e-3)
    np.testing.assert_allclose(found["effect_ci_upper"], interval.high, atol=1e-3)


def test_tabulate_metrics_reaches_as_far_as_dunnetts_critical_value() -> None:
    found = compare_all(make_rate(SIGNUPS), make_table(arms=3), FINAL)
    for each in found:
        # Welch's t at Dunnett's level is wider than the normal's by less than 2 in 1,000 with 1,000 units an arm.
        assert (each.effect_ci_upper - each.effect) / each.error == pytest.approx(2.212, abs=6e-3)


def test_tabulate_metrics_leaves_out_of_the_family_what_can_not_be_compared() -> None:
    arm = np.where(np.arange(SIZE) < 10, 2, ARM % 2)
    found = tabulate_metrics(make_sample(arm, make_rate(SIGNUPS)), FINAL)
    test = scipy_stats.ttest_ind(SIGNUPS[arm == 1], SIGNUPS[arm == 0], equal_var=False)
    assert found["p_value"].iloc[0] == pytest.approx(test.pvalue, rel=1e-10)
    assert found[["units", "status", "note"]].iloc[1].tolist() == [10, "too few", TOO_FEW]


@pytest.mark.parametrize("arms", [2, 3])
def test_tabulate_metrics_gives_confidence_sequences_while_running(arms: int) -> None:
    sample = make_table(arms=arms)
    found = tabulate_metrics(sample, RUNNING)
    # Bonferroni over the arms; planned are the units of the two arms that are compared.
    confidence, planned = 1 - 0.05 / (arms - 1), 1_000 * 2 / arms
    for place, measure in enumerate(sample.measurements):
        row, alone = found.iloc[place], compare_arms(measure, sample.arm, 1)
        units = alone.units + alone.units_control
        reach = stats.sequence_reach(units, planned, confidence=confidence) * alone.error
        np.testing.assert_allclose(row["effect_ci_upper"] - row["effect"], reach, rtol=1e-12)
        p_value = stats.sequence_p_value(alone.effect / alone.error, units, planned, confidence=confidence)
        assert row["p_value"] == pytest.approx(min(1, (arms - 1) * float(p_value)))


def test_tabulate_days_compares_each_part_of_the_window() -> None:
    arm = ARM % 2
    days = np.stack([SIGNUPS * (RNG.random(SIZE) < share) for share in (0.6, 0.3, 0.001)], axis=1)
    found = tabulate_days(make_table(days=days, starts=(0, 1, 2, 7)), FINAL)
    assert list(found.columns) == list(DAY_COLUMNS)
    assert found[["arm", "day", "units"]].to_numpy().tolist() == [["short", day, 1_000] for day in (0, 1, 2)]
    control, treated = (days[arm == code].mean(axis=0) for code in (0, 1))
    np.testing.assert_allclose(found["effect"], [*(treated - control)[:2], np.nan])


def test_tabulate_days_is_empty_when_nothing_is_known_of_days() -> None:
    found = tabulate_days(make_table(), FINAL)
    assert (list(found.columns), len(found)) == (list(DAY_COLUMNS), 0)


def test_tabulate_segments_compares_within_groups() -> None:
    arm = ARM % 2
    sample = make_table(segments=pd.DataFrame({"device": DEVICE, "half": np.where(np.arange(SIZE) % 4 < 2, "a", "b")}))
    found = tabulate_segments(sample, FINAL)
    assert list(found.columns) == list(SEGMENT_COLUMNS)
    primary = found[found["role"] == "primary"]
    groups = [("device", "desktop"), ("device", "mobile"), ("device", "tablet"), ("half", "a"), ("half", "b")]
    assert list(zip(primary["column"], primary["group"], strict=True)) == groups
    expected = []
    for column, group in groups:
        inside = (sample.segments[column] == group).to_numpy()
        test = scipy_stats.ttest_ind(SIGNUPS[inside & (arm == 1)], SIGNUPS[inside & (arm == 0)], equal_var=False)
        expected.append(test.pvalue)
    np.testing.assert_allclose(primary["p_value"], expected, rtol=1e-10)
    np.testing.assert_allclose(primary["q_value"], multipletests(expected, method="fdr_bh")[1], rtol=1e-10)


def test_tabulate_segments_tests_whether_groups_differ_by_cochrans_q() -> None:
    arm, found = ARM % 2, tabulate_segments(make_table(segments=pd.DataFrame({"device": DEVICE})), FINAL)
    logs, errors = [], []
    for group in sorted(set(DEVICE)):
        parts = [SIGNUPS[(group == DEVICE) & (arm == code)] for code in (0, 1)]
        logs.append(np.log(parts[1].mean() / parts[0].mean()))
        errors.append(np.sqrt(sum(part.var(ddof=1) / len(part) / part.mean() ** 2 for part in parts)))
    weights = 1 / np.square(errors)
    q = weights @ np.square(logs - weights @ logs / weights.sum())
    expected = scipy_stats.chi2.sf(q, 2)
    np.testing.assert_allclose(found.loc[found["role"] == "primary", "homogeneity_p_value"], expected, rtol=1e-9)


def test_tabulate_segments_keeps_groups_that_are_empty_in_an_arm() -> None:
    arm = ARM % 2
    device = np.where(np.arange(SIZE) < 3, "rare", np.where(arm == 0, "here", DEVICE))
    found = tabulate_segments(make_table(segments=pd.DataFrame({"device": device})), FINAL)
    primary = found[found["role"] == "primary"].set_index("group")
    units = primary[["units", "units_control"]].T
    assert units["here"].tolist() == [0, (device == "here").sum()]
    assert units["rare"].tolist() == [1, 2]
    assert set(primary["note"]) == {TOO_FEW}
    assert primary[["p_value", "q_value", "homogeneity_p_value"]].isna().all(axis=None)


def test_tabulate_segments_leaves_further_metrics_out_and_is_empty_without_columns() -> None:
    segments = pd.DataFrame({"device": DEVICE})
    sample = make_sample(ARM % 2, make_rate(SIGNUPS), make_rate(REVENUE, role="metric"), segments=segments)
    assert set(tabulate_segments(sample, FINAL)["role"]) == {"primary"}
    found = tabulate_segments(make_table(), FINAL)
    assert (list(found.columns), len(found)) == (list(SEGMENT_COLUMNS), 0)


def make_factorial(cells: np.ndarray, levels: int) -> tuple[Sample, dict[str, list[str]], pd.DataFrame]:
    """Units in the cells of `form` (2 levels) x `button`, the last one fastest, with effects of both."""
    rng = np.random.default_rng(5)
    names = ["grey", "green", "blue"][:levels]
    form, button = np.array(["old", "new"])[cells // levels], np.array(names)[cells % levels]
    values = rng.normal(10 + (form == "new") - 0.5 * (button == "green"), 1 + 0.3 * cells)
    arms = tuple(f"{a} + {b}" for a in ("old", "new") for b in names)
    sample = make_sample(cells % 2, make_rate(values), arms=arms)
    return (
        replace(sample, arm=cells),
        FORM | {"button": names},
        pd.DataFrame({"form": form, "button": button, "y": values}),
    )


@pytest.mark.parametrize("levels", [2, 3])
def test_tabulate_factors_gives_the_coefficients_of_a_balanced_regression(levels: int) -> None:
    sample, factors, frame = make_factorial(np.repeat(np.arange(2 * levels), 50), levels)
    found = tabulate_factors(sample, FINAL, factors).set_index("effect_of")
    assert [*found.columns.insert(0, "effect_of")] == list(FACTOR_COLUMNS)
    others = ["green", "blue"][: levels - 1]
    names = ["form: new", *(f"button: {each}" for each in others), *(f"form: new x button: {each}" for each in others)]
    assert found.index.tolist() == names
    # Sum coding gives deviations from the mean of all levels: a difference of levels is one of coefficients.
    main = smf.ols("y ~ C(form, Sum) * C(button, Sum)", frame).fit()
    means = [main.predict(frame.assign(form=form)).mean() for form in ("new", "old")]
    assert found.loc["form: new", "effect"] == pytest.approx(means[0] - means[1])
    treated = smf.ols("y ~ C(form, Treatment('old')) * C(button, Treatment('grey'))", frame).fit(cov_type="HC2")
    for each in others:
        name = f"C(form, Treatment('old'))[T.new]:C(button, Treatment('grey'))[T.{each}]"
        row = found.loc[f"form: new x button: {each}"]
        assert row["effect"] == pytest.approx(treated.params[name])
        # HC2 in a model of all cells is each cell's own variance: the sum of var / n.
        assert row["p_value"] == pytest.approx(treated.pvalues[name], rel=1e-8)
        np.testing.assert_allclose([row["effect_ci_lower"], row["effect_ci_upper"]], treated.conf_int().loc[name])


@pytest.mark.parametrize("running", [False, True])
def test_tabulate_factors_weighs_cells_alike_however_large(running: bool) -> None:
    sizes = [40, 200, 90, 60, 35, 120]
    sample, factors, frame = make_factorial(np.repeat(np.arange(6), sizes), 3)
    reading = RUNNING if running else FINAL
    found = tabulate_factors(sample, reading, factors).set_index("effect_of")
    cells = [frame["y"][sample.arm == code] for code in range(6)]
    mean, square = np.array([each.mean() for each in cells]), np.array([each.var() / len(each) for each in cells])
    # In the order old+grey, old+green, old+blue, new+grey, new+green, new+blue.
    contrasts = {
        "form: new": np.array([-1, -1, -1, 1, 1, 1]) / 3,
        "button: green": np.array([-1, 1, 0, -1, 1, 0]) / 2,
        "button: blue": np.array([-1, 0, 1, -1, 0, 1]) / 2,
        "form: new x button: green": np.array([1, -1, 0, -1, 1, 0]),
        "form: new x button: blue": np.array([1, 0, -1, -1, 0, 1]),
    }
    units = sum(sizes)
    for name, weights in contrasts.items():
        effect, error = weights @ mean, np.sqrt(weights**2 @ square)
        reach = float(stats.sequence_reach(units, 1_000)) if running else scipy_stats.norm.ppf(0.975)
        row = found.loc[name]
        np.testing.assert_allclose(
            [row["effect"], row["effect_ci_lower"], row["effect_ci_upper"]],
            [effect, effect - reach * error, effect + reach * error],
            rtol=1e-9,
        )


def test_tabulate_factors_says_nothing_when_a_cell_is_too_small() -> None:
    sample, factors, _ = make_factorial(np.repeat(np.arange(4), [50, 50, 50, 3]), 2)
    found = tabulate_factors(sample, FINAL, factors)
    assert set(found["note"]) == {TOO_FEW}
    assert found[["effect", "effect_ci_lower", "effect_ci_upper", "p_value"]].isna().all(axis=None)


def test_tabulate_factors_is_empty_without_factors() -> None:
    found = tabulate_factors(make_table(), FINAL, {})
    assert (list(found.columns), len(found)) == (list(FACTOR_COLUMNS), 0)


def test_tabulate_factors_names_three_factors_pairs() -> None:
    factors = {"a": ["0", "1"], "b": ["0", "1"], "c": ["0", "1"]}
    arm = np.repeat(np.arange(8), 40)
    sample = make_sample(arm % 2, make_rate(SIGNUPS[:320]), arms=tuple("abcdefgh"))
    found = tabulate_factors(replace(sample, arm=arm), FINAL, factors)
    pairs = ["a: 1 x b: 1", "a: 1 x c: 1", "b: 1 x c: 1"]
    assert found["effect_of"].tolist() == ["a: 1", "b: 1", "c: 1", *pairs]


def test_tabulate_segments_bears_a_group_in_which_an_arm_does_nothing() -> None:
    arm, group = np.tile([0, 1], 300), np.repeat(["a", "b", "c"], 200)
    did = (np.arange(600) % 4 < 2) & ~((arm == 1) & (group == "c"))
    sample = make_sample(arm, make_rate(did.astype(float)), segments=pd.DataFrame({"place": group}))
    table = tabulate_segments(sample, FINAL)
    assert table["relative_effect"].tolist() == pytest.approx([0.0, 0.0, -1.0])
    # Equal in the two groups where there is a ratio.
    assert table["homogeneity_p_value"].tolist() == pytest.approx([1.0, 1.0, 1.0])
