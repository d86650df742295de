import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import StratifiedTable

from convlib.landmarks import NEVER, Design, Followed
from convlib.lifts import GROUP_COLUMNS, NUMBERS, judge_micros, score_micros
from convlib.stats import compare_effects

DESIGN = Design((10,), 10)
STACKED = Design((10, 20), 10)


def make_units(cells: list[tuple[int, int, int, str]]) -> tuple[Followed, pd.DataFrame]:
    """Make units from cells of count, exposed, converted and group; they do it at 1 and convert at 15."""
    counts = [cell[0] for cell in cells]
    exposed, converted, group = (np.repeat([cell[k] for cell in cells], counts) for k in (1, 2, 3))
    units = len(exposed)
    followed = Followed(
        start=np.zeros(units, np.int64),
        macro=np.where(converted.astype(int) == 1, 15, NEVER),
        micros=np.where(exposed.astype(int) == 1, 1, NEVER)[:, None],
        losses=np.full(units, NEVER),
        activity=np.zeros((units, 1), np.int64),
        values=np.where(converted.astype(int) == 1, 20.0, 0.0)[:, None],
        spent=np.zeros((units, 2)),
        end=100,
    )
    return followed, pd.DataFrame({"device": group})


#: A lift of +30 points on mobile and of -20 on desktop.
OPPOSED = [
    *((60, 1, 1, "mobile"), (40, 1, 0, "mobile"), (30, 0, 1, "mobile"), (70, 0, 0, "mobile")),
    *((20, 1, 1, "desktop"), (80, 1, 0, "desktop"), (40, 0, 1, "desktop"), (60, 0, 0, "desktop")),
]


def test_judge_micros_names_the_groups_that_disagree() -> None:
    followed, covariates = make_units(OPPOSED)
    table, groups, _ = judge_micros(followed, DESIGN, covariates, ["save"])
    assert tuple(groups.columns) == GROUP_COLUMNS
    assert dict(zip(groups["value"], groups["lift"], strict=True)) == pytest.approx(
        {"mobile": 0.3, "desktop": -0.2}, abs=1e-12
    )
    mobile = groups.iloc[0]
    counts = ["units_with", "units_without", "converted_with", "converted_without"]
    assert mobile[counts].tolist() == [100, 100, 60, 30]
    # Welch: the error of a difference of two shares whose variance is over n - 1.
    error = np.sqrt(0.6 * 0.4 / 99 + 0.3 * 0.7 / 99)
    assert mobile["lift_ci_upper"] == pytest.approx(0.3 + 1.959963984540054 * error, rel=1e-10)
    assert groups["differs"].tolist() == [True, True]
    tables = [np.array([[60, 40], [30, 70]], float), np.array([[20, 80], [40, 60]], float)]
    expected = StratifiedTable(tables).test_equal_odds().pvalue
    assert table.iloc[0]["homogeneity_p_value"] == pytest.approx(expected, rel=1e-10)


def test_judge_micros_marks_no_group_where_all_agree() -> None:
    cells = [(n, x, y, group) for group in ("mobile", "desktop") for n, x, y, _ in OPPOSED[:4]]
    followed, covariates = make_units(cells)
    assert judge_micros(followed, DESIGN, covariates, ["save"])[1]["differs"].tolist() == [False, False]


def test_score_micros_tests_equal_lifts_over_stacked_landmarks_by_wald() -> None:
    followed, covariates = make_units(OPPOSED)
    twice = Followed(**{**vars(followed), "activity": np.zeros((400, 2), np.int64), "values": np.zeros((400, 2))})
    table, groups = judge_micros(twice, STACKED, covariates, ["save"])[:2]
    errors = (groups["lift_ci_upper"] - groups["lift"]) / 1.959963984540054
    assert table.iloc[0]["homogeneity_p_value"] == pytest.approx(compare_effects(groups["lift"], errors), rel=1e-10)


def test_judge_micros_knows_the_macro_itself() -> None:
    followed, covariates = make_units(OPPOSED)
    same = Followed(**{**vars(followed), "micros": followed.macro[:, None]})
    table = judge_micros(same, DESIGN, covariates, ["save"])[0]
    assert table.iloc[0][["verdict", "note"]].tolist() == [
        "follows the macro",
        "comes at the very instant of each of 150 conversions: it is the macro itself",
    ]


def test_judge_micros_says_how_few_have_somebody_alike() -> None:
    # 100 units of one group have both sides; 150 units have a group each.
    alone = [(1, n % 2, n % 3 == 0, f"g{n}") for n in range(150)]
    followed, covariates = make_units([(30, 1, 1, "x"), (20, 1, 0, "x"), (10, 0, 1, "x"), (40, 0, 0, "x"), *alone])
    table, groups, _ = judge_micros(followed, DESIGN, covariates, ["save"])
    assert table.iloc[0]["compared"] == 0.4
    assert table.iloc[0]["verdict"] == "positive"
    assert table.iloc[0]["note"] == "adjusted over 40% of those at risk: the others have nobody alike to compare with"
    assert table.iloc[0]["adjusted_lift"] == pytest.approx(0.6 - 0.2, abs=1e-12)
    assert groups["value"].tolist() == ["x"]


def test_judge_micros_bears_a_covariate_of_ten_thousand_values() -> None:
    followed, covariates = make_units([(5_000, 1, 1, ""), (5_000, 0, 0, "")])
    covariates["device"] = [f"v{n}" for n in range(10_000)]
    table, groups, _ = judge_micros(followed, DESIGN, covariates, ["save"])
    assert table.iloc[0]["verdict"] == "precondition"
    followed, covariates = make_units([(2_500, x, y, "") for x in (0, 1) for y in (0, 1)])
    covariates["device"] = [f"v{n}" for n in range(10_000)]
    table, groups, _ = judge_micros(followed, DESIGN, covariates, ["save"])
    assert table.iloc[0][["verdict", "note"]].tolist() == ["too few", "no stratum has units with and without it"]
    assert table.iloc[0]["lift"] == 0
    assert groups.empty


@pytest.mark.parametrize("converted", [0, 1])
def test_judge_micros_of_one_outcome_only_finds_nothing(converted: int) -> None:
    followed, covariates = make_units([(50, 1, converted, "x"), (50, 0, converted, "x")])
    row = judge_micros(followed, DESIGN, covariates, ["save"])[0].iloc[0]
    assert row["lift"] == 0
    assert row["verdict"] == ("no evidence" if converted else "too few")
    assert np.isnan(row["odds_ratio"])


def test_judge_micros_compares_what_units_spend() -> None:
    followed, covariates = make_units(OPPOSED)
    row = judge_micros(followed, DESIGN, covariates, ["save"], target="value")[0].iloc[0]
    # Everybody who converts spends 20: with 80 of 200, without 70 of 200.
    assert row[["rate_with", "rate_without", "converted_with"]].tolist() == [8, 7, 80]
    error = 20 * np.sqrt((0.4 * 0.6 + 0.35 * 0.65) / 199)
    assert (row["lift"], row["lift_ci_upper"]) == pytest.approx((1, 1 + 1.959963984540054 * error), rel=1e-10)
    assert row["relative_lift"] == pytest.approx(1 / 7, rel=1e-12)
    assert row[["odds_ratio", "e_value"]].isna().all()


def test_judge_micros_takes_the_lift_from_one_model_of_all() -> None:
    followed, covariates = make_units(OPPOSED)
    alone = judge_micros(followed, DESIGN, covariates.iloc[:, :0], ["save"])[0]
    together = judge_micros(followed, DESIGN, covariates.iloc[:, :0], ["save"], model="regression")[0]
    # Of one micro the saturated model has the plain difference.
    assert together.iloc[0]["adjusted_lift"] == pytest.approx(alone.iloc[0]["adjusted_lift"], rel=1e-9)
    assert together.iloc[0]["lift"] == alone.iloc[0]["lift"]


def test_score_micros_of_nobody_has_the_columns() -> None:
    followed, covariates = make_units([(1, 1, 1, "x")])
    risk = judge_micros(followed.take(np.array([], np.int64)), DESIGN, covariates.iloc[:0], ["save"])[2]
    table, groups = score_micros(risk)
    assert tuple(table.columns) == NUMBERS
    assert table[["units_with", "units_without"]].to_numpy().tolist() == [[0, 0]]
    assert groups.empty


def test_judge_micros_says_who_could_not_do_it() -> None:
    # 400 units begin the form or not; only who begins can err, and 100 of the 200 that begin do.
    followed, covariates = make_units([(50, 1, 1, "x"), (50, 1, 0, "x"), (150, 0, 1, "x"), (150, 0, 0, "x")])
    begun = np.where(np.arange(400) < 200, 1, NEVER)
    both = Followed(**{**vars(followed), "micros": np.column_stack([followed.micros, begun])})
    table = judge_micros(both, DESIGN, covariates, ["error", "begin"], over=[1, None])[0]
    assert table["note"].tolist() == ["200 of those without it had not done begin either, so could not", ""]
