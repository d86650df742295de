from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray

from convlib import stats
from convlib.joint import fit_joint, fit_model
from convlib.landmarks import Risk

REACH = 1.959963984540054


def make_risk(
    exposed: object,
    outcome: object,
    *,
    unit: object = None,
    landmark: object = 0,
    band: object = 0,
    covariates: dict[str, NDArray[np.int64]] | None = None,
) -> Risk:
    """Fill in what a test does not say: units of one row each, one landmark, one band, no columns."""
    did = np.atleast_2d(np.asarray(exposed, bool).T).T
    rows = len(did)
    whole = {"unit": np.arange(rows) if unit is None else unit, "landmark": landmark, "band": band}
    filled: dict[str, Any] = {n: np.broadcast_to(np.asarray(each, np.int64), rows) for n, each in whole.items()}
    return Risk(
        exposed=did,
        outcome=np.asarray(outcome, float),
        covariates=pd.DataFrame(covariates or {}, index=range(rows)),
        **filled,
    )


def count_out(*cells: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write rows from (micros ..., outcome, how many)."""
    rows = np.array([each[:-1] for each in cells for _ in range(each[-1])])
    return rows[:, :-1], rows[:, -1]


def simulate(seed: int, *, values: bool = False) -> Risk:
    """Units on two landmarks, with bands and two columns that matter, and rows of one unit alike."""
    rng = np.random.default_rng(seed)
    units = 900
    unit = np.repeat(np.arange(units), rng.integers(1, 3, units))
    landmark = np.concatenate([np.arange(n) for n in np.unique(unit, return_counts=True)[1]])
    kind, source, taste = rng.integers(0, 3, units)[unit], rng.integers(0, 2, units)[unit], rng.normal(size=units)[unit]
    band = np.clip(np.round(taste + rng.normal(size=len(unit)) + 1), 0, 3).astype(np.int64)
    exposed = rng.random((len(unit), 3)) < 0.2 + 0.1 * band[:, None] + 0.05 * kind[:, None]
    log_odds = -1 + 0.3 * band + 0.4 * kind - 0.3 * landmark + exposed @ [0.8, 0.0, -0.5] + taste / 2
    outcome = rng.random(len(unit)) < 1 / (1 + np.exp(-log_odds))
    worth = outcome * rng.gamma(2, 10, len(unit)) if values else outcome
    return make_risk(
        exposed, worth, unit=unit, landmark=landmark, band=band, covariates={"kind": kind, "source": source}
    )


def write_design(risk: Risk) -> pd.DataFrame:
    """Write the model's columns row by row, as one would for statsmodels."""
    strata = pd.get_dummies(pd.Series([*zip(risk.landmark, risk.band, strict=True)]))
    columns = [pd.get_dummies(risk.covariates[name], drop_first=True) for name in risk.covariates]
    design = np.column_stack([strata, *columns, risk.exposed]).astype(float)
    return pd.DataFrame(design).add_prefix("x")


def test_fit_model_is_the_cross_ratio_and_the_difference_of_a_saturated_table() -> None:
    # With 30 of 100, without 20 of 200. The sandwich of a saturated model is Woolf's and Wald's variance; 300/298 is
    # the correction for two coefficients.
    model = fit_model(make_risk(*count_out((1, 1, 30), (1, 0, 70), (0, 1, 20), (0, 0, 180))))
    assert model.coefficients == pytest.approx([np.log(30 * 180 / (70 * 20))], rel=1e-10)
    woolf = (1 / 30 + 1 / 70 + 1 / 20 + 1 / 180) * 300 / 298
    assert model.covariance == pytest.approx(np.array([[woolf]]), rel=1e-10)
    assert model.effects == pytest.approx([0.30 - 0.10], rel=1e-10)
    assert model.errors == pytest.approx([np.sqrt((0.3 * 0.7 / 100 + 0.1 * 0.9 / 200) * 300 / 298)], rel=1e-10)
    assert model.notes == ("",)


@pytest.mark.parametrize("seed", [1, 2])
def test_fit_model_equals_statsmodels_on_the_rows_clustered_by_unit(seed: int) -> None:
    risk = simulate(seed)
    model = fit_model(risk)
    raw = sm.GLM(risk.outcome, write_design(risk), family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": risk.unit}, tol=1e-14
    )
    assert model.coefficients == pytest.approx(raw.params.to_numpy()[-3:], rel=1e-8)
    assert model.covariance == pytest.approx(raw.cov_params().to_numpy()[-3:, -3:], rel=1e-8, abs=1e-12)


def test_fit_model_has_the_marginal_effects_of_statsmodels() -> None:
    risk = simulate(3)
    model = fit_model(risk)
    raw = sm.Logit(risk.outcome, write_design(risk)).fit(
        disp=0, cov_type="cluster", cov_kwds={"groups": risk.unit}, tol=1e-14
    )
    margins = raw.get_margeff(at="overall", dummy=True)
    assert model.effects == pytest.approx(margins.margeff[-3:], rel=1e-8)
    assert model.errors == pytest.approx(margins.margeff_se[-3:], rel=1e-7)


def test_fit_model_of_values_equals_least_squares_clustered_by_unit() -> None:
    risk = simulate(4, values=True)
    model = fit_model(risk)
    raw = sm.OLS(risk.outcome, write_design(risk)).fit(cov_type="cluster", cov_kwds={"groups": risk.unit})
    assert model.effects == pytest.approx(raw.params.to_numpy()[-3:], rel=1e-8)
    assert model.coefficients.tolist() == model.effects.tolist()
    assert model.errors == pytest.approx(raw.bse.to_numpy()[-3:], rel=1e-8)


def test_fit_joint_writes_the_effect_with_its_interval_and_test() -> None:
    table = fit_joint(make_risk(*count_out((1, 1, 30), (1, 0, 70), (0, 1, 20), (0, 0, 180))))
    assert list(table) == ["effect", "effect_ci_lower", "effect_ci_upper", "p_value", "note"]
    error = np.sqrt((0.3 * 0.7 / 100 + 0.1 * 0.9 / 200) * 300 / 298)
    expected = [0.2, 0.2 - REACH * error, 0.2 + REACH * error, float(stats.compare_normal(0.2, error))]
    assert table.iloc[0, :4].tolist() == pytest.approx(expected, rel=1e-9)


def test_fit_joint_gives_the_credit_to_the_micro_that_has_the_effect() -> None:
    # The first doubles the chance from 20% to 40%; the second is done by 90% of those who do the first and by 10% of
    # the others, and changes nothing. Alone it has the lift 0.9 x 0.2 - 0.1 x 0.2.
    cells = count_out(
        *((1, 1, 1, 3600), (1, 1, 0, 5400), (1, 0, 1, 400), (1, 0, 0, 600)),
        *((0, 1, 1, 200), (0, 1, 0, 800), (0, 0, 1, 1800), (0, 0, 0, 7200)),
    )
    risk = make_risk(*cells)
    second = risk.exposed[:, 1]
    assert risk.outcome[second].mean() - risk.outcome[~second].mean() == pytest.approx(0.16, abs=1e-12)
    assert fit_joint(risk)["effect"].tolist() == pytest.approx([0.2, 0.0], abs=1e-9)


def test_fit_joint_holds_bands_within_landmarks_and_columns_alike() -> None:
    # Within each band the micro changes nothing; those of the second do it more and convert more.
    first = [(1, 1, 10), (1, 0, 90), (0, 1, 90), (0, 0, 810)]
    second = [(1, 1, 400), (1, 0, 400), (0, 1, 100), (0, 0, 100)]
    exposed, outcome = count_out(*first, *second)
    group = np.repeat([0, 1], 1000)
    raw = make_risk(exposed, outcome)
    assert fit_joint(raw)["effect"].item() > 0.25
    for told in (
        make_risk(exposed, outcome, band=group),
        make_risk(exposed, outcome, landmark=group),
        make_risk(exposed, outcome, covariates={"kind": group}),
    ):
        assert fit_joint(told)["effect"].item() == pytest.approx(0, abs=1e-9)


def test_fit_model_joins_bands_with_few_rows_of_an_outcome_to_their_neighbour() -> None:
    # 12, 3, 2 and 4 conversions in the bands 0, 1, 5 and 9: the second and third make one, the last joins them.
    rng = np.random.default_rng(5)
    band = np.repeat([0, 1, 5, 9], 50)
    outcome = np.concatenate([np.arange(50) < hits for hits in (12, 3, 2, 4)])
    exposed = rng.random(200) < 0.5
    joined = fit_model(make_risk(exposed, outcome, band=np.repeat([0, 1, 1, 1], 50)))
    assert fit_model(make_risk(exposed, outcome, band=band)).coefficients == pytest.approx(joined.coefficients)


def test_fit_model_joins_small_levels_of_a_column_whatever_their_codes() -> None:
    # By size: 7 stands alone with 12 conversions, 1 and 0 have 3 and 2, and 3, with 4, joins them.
    rng = np.random.default_rng(5)
    sizes, hits = [90, 50, 40, 20], [12, 3, 2, 4]
    outcome = np.concatenate([np.arange(size) < some for size, some in zip(sizes, hits, strict=True)])
    exposed = rng.random(200) < 0.5
    kind, joined = (np.repeat(codes, sizes) for codes in ([7, 1, 0, 3], [0, 1, 1, 1]))
    apart = fit_model(make_risk(exposed, outcome, covariates={"kind": kind}))
    together = fit_model(make_risk(exposed, outcome, covariates={"kind": joined}))
    assert apart.coefficients == pytest.approx(together.coefficients, rel=1e-9)


def test_fit_model_takes_a_column_with_thousands_of_values() -> None:
    rng = np.random.default_rng(6)
    exposed, outcome = rng.random(20_000) < 0.4, rng.random(20_000) < 0.3
    many = make_risk(exposed, outcome, covariates={"city": rng.integers(0, 10_000, 20_000)})
    assert abs(fit_joint(many)["effect"].item()) < 0.03


def test_fit_model_can_be_told_the_same_twice_by_the_columns() -> None:
    risk = simulate(1)
    twice = make_risk(
        risk.exposed,
        risk.outcome,
        unit=risk.unit,
        landmark=risk.landmark,
        band=risk.band,
        covariates={
            **{str(name): risk.covariates[name].to_numpy() for name in risk.covariates},
            "again": risk.covariates["kind"].to_numpy(),
        },
    )
    assert fit_model(twice).effects == pytest.approx(fit_model(risk).effects, rel=1e-8)


def test_fit_model_says_which_micros_it_cannot_tell_apart() -> None:
    risk = simulate(1)
    # The third is the second's opposite.
    micros = np.column_stack([risk.exposed[:, :2], ~risk.exposed[:, 1]])
    told = make_risk(micros, risk.outcome)
    model = fit_model(told, names=["save", "read", "skip"])
    assert model.notes == ("", "can't be told apart from skip", "can't be told apart from read")
    assert np.isnan(model.effects).tolist() == [False, True, True]
    assert np.isnan(model.covariance).tolist() == [[False, True, True], [True, True, True], [True, True, True]]
    alone = fit_model(make_risk(micros[:, :2], risk.outcome))
    assert model.effects[0] == pytest.approx(alone.effects[0], rel=1e-8)


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        ([(1, 0, 20), (0, 1, 20), (0, 0, 20)], "nobody with it converts"),
        ([(1, 1, 20), (0, 1, 20), (0, 0, 20)], "all with it convert"),
        ([(1, 1, 20), (1, 0, 20), (0, 0, 20)], "nobody without it converts"),
        ([(1, 1, 20), (1, 0, 20), (0, 1, 20)], "all without it convert"),
        ([(1, 1, 20), (1, 0, 20)], "does not vary among units of like activity and columns"),
        ([(0, 1, 20), (0, 0, 20)], "does not vary among units of like activity and columns"),
    ],
)
def test_fit_joint_notes_micros_without_variation_or_with_one_outcome(cells: list[tuple[int, ...]], note: str) -> None:
    table = fit_joint(make_risk(*count_out(*cells)))
    assert table["note"].tolist() == [note]
    assert table.drop(columns="note").isna().all(axis=None)


@pytest.mark.parametrize("times", [1, 20_000])
def test_fit_model_notes_a_micro_that_is_the_outcome(times: int) -> None:
    # The second says nothing, and has no estimate either: no outcome is left for it to go with.
    cells = [(1, 0, 1, 6 * times), (1, 1, 1, 4 * times), (0, 0, 0, 12 * times), (0, 1, 0, 8 * times)]
    model = fit_model(make_risk(*count_out(*cells)))
    assert model.notes == ("all with it convert", "the other columns and micros leave it one outcome only")
    assert np.isnan(model.effects).all()


def test_fit_model_leaves_the_others_as_if_only_units_with_a_precondition_were_there() -> None:
    # Nobody converts without the first; among those with it the second's table is 40 of 100 against 60 of 300.
    cells = count_out((1, 1, 1, 40), (1, 1, 0, 60), (1, 0, 1, 60), (1, 0, 0, 240), (0, 1, 0, 30), (0, 0, 0, 500))
    model = fit_model(make_risk(*cells))
    assert model.notes == ("nobody without it converts", "")
    assert model.coefficients[1] == pytest.approx(np.log(40 * 240 / (60 * 60)), rel=1e-6)


def test_fit_model_notes_what_is_separated_only_given_the_others() -> None:
    # Both sides of the second have both outcomes, but among those without the first all that do it convert, and among
    # those with it nobody converts without it.
    cells = count_out((1, 1, 1, 30), (1, 0, 0, 30), (1, 1, 0, 20), (0, 1, 1, 10), (0, 0, 1, 20), (0, 0, 0, 30))
    model = fit_model(make_risk(*cells))
    assert model.notes == ("the other columns and micros leave it one outcome only",) * 2


@pytest.mark.parametrize(
    ("outcome", "note"),
    [
        pytest.param([0] * 20, "0 units convert, needs 5", id="no converters"),
        pytest.param([1] * 20, "0 units do not convert, needs 5", id="all converters"),
        pytest.param([1] * 4 + [0] * 16, "4 units convert, needs 5", id="too few"),
        pytest.param([], "0 units convert, needs 5", id="no rows"),
    ],
)
def test_fit_joint_notes_too_few_units(outcome: list[int], note: str) -> None:
    did = np.zeros((len(outcome), 2), bool)
    did[::2] = True
    table = fit_joint(make_risk(did.reshape(-1, 2), outcome))
    assert table["note"].tolist() == [note, note]
    assert table.drop(columns="note").isna().all(axis=None)


def test_fit_joint_notes_too_few_units_with_values() -> None:
    table = fit_joint(make_risk([[1], [0], [1]], [5.0, 2.5, 0.0]))
    assert table["note"].tolist() == ["3 units, needs 5"]


def test_fit_joint_without_micros_has_no_rows() -> None:
    assert len(fit_joint(make_risk(np.zeros((40, 0), bool), [0, 1] * 20))) == 0
