import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.stats.contingency_tables import StratifiedTable, Table2x2

from convlib import stats, strata

Z = 1.959963984540054
#: Oesophageal cancer by 80 g of alcohol a day or more, in six age groups: cases and controls with, then without.
#: Breslow and Day (1980), Statistical Methods in Cancer Research I, 4.4.
ALCOHOL = [(1, 9, 0, 106), (4, 26, 5, 164), (25, 29, 21, 138), (42, 27, 34, 139), (19, 18, 36, 88), (5, 0, 8, 31)]
SIDES = ((1, 1), (1, 0), (0, 1), (0, 0))
#: Deaths with tolbutamide and with placebo, below 55 years and above (University Group Diabetes Program).
#: Rothman (2002), Epidemiology: An Introduction, chapter 8.
DIABETES = [(8, 98, 5, 115), (22, 76, 16, 69)]


def draw_strata(seed: int, rows: int = 240, strata: int = 6) -> tuple[np.ndarray, ...]:
    """Draw exposure, outcome and stratum of each row; every stratum has both sides."""
    rng = np.random.default_rng(seed)
    stratum = np.arange(rows) % strata
    exposed = rng.random(rows) < 0.2 + 0.1 * stratum
    outcome = rng.random(rows) < 0.15 + 0.05 * stratum + 0.1 * exposed
    return exposed, outcome, stratum


def list_tables(exposed: np.ndarray, outcome: np.ndarray, stratum: np.ndarray) -> list[np.ndarray]:
    """Count [[exposed cases, exposed others], [other cases, others]] in each stratum."""
    return [
        np.array([[(inside & x & y).sum() for y in (outcome, ~outcome)] for x in (exposed, ~exposed)])
        for inside in (stratum == each for each in np.unique(stratum))
    ]


def lay_out_tables(tables: list[tuple[int, int, int, int]]) -> tuple[np.ndarray, ...]:
    """Give exposure, outcome and stratum of each row of some tables."""
    cells = [(x, y, s, n) for s, table in enumerate(tables) for (x, y), n in zip(SIDES, table, strict=True)]
    return tuple(np.repeat([cell[k] for cell in cells], [n for *_, n in cells]) for k in range(3))


def as_rows(tables: list[tuple[int, int, int, int]]) -> tuple[np.ndarray, ...]:
    exposed, outcome, stratum = lay_out_tables(tables)
    return exposed.astype(bool), outcome.astype(float), stratum


def find_difference(exposed: object, outcome: object, stratum: object, unit: object) -> tuple[float, float]:
    x, y, groups, units = lay_out(exposed, outcome, stratum, unit)
    cells = strata.tabulate(x, y, groups, int(groups.max(initial=-1)) + 1)
    difference, error = strata.compare(cells, x, y, groups, units)
    return float(difference[0]), float(error[0])


def find_odds(exposed: object, outcome: object, stratum: object, unit: object) -> tuple[float, float]:
    x, y, groups, units = lay_out(exposed, outcome, stratum, unit)
    cells = strata.tabulate(x, y, groups, int(groups.max(initial=-1)) + 1)
    return strata.find_odds_ratio(cells, x, y, groups, units)


def lay_out(exposed: object, outcome: object, stratum: object, unit: object) -> tuple[np.ndarray, ...]:
    """Number strata, and put the rows of a unit together."""
    order = np.argsort(np.asarray(unit), kind="stable")
    groups = pd.factorize(np.asarray(stratum))[0].astype(np.int64)
    columns = np.asarray(exposed, bool), np.asarray(outcome, float), groups, np.asarray(unit, np.int64)
    return tuple(np.ascontiguousarray(each[order]) for each in columns)


def test_tabulate_counts_the_table_of_each_stratum() -> None:
    x, y, stratum = lay_out_tables(DIABETES)
    cells = strata.tabulate(x.astype(bool), y.astype(float), stratum, 2)
    assert np.transpose(cells.table).tolist() == [list(map(float, table)) for table in DIABETES]
    merged = cells.merge(np.zeros(2, np.int64), 1)
    assert np.ravel(merged.table).tolist() == [30, 174, 21, 184]


def test_published_examples_to_all_printed_digits() -> None:
    x, y, stratum = lay_out_tables(ALCOHOL)
    assert find_odds(x, y, stratum, np.arange(len(x)))[0] == pytest.approx(5.158, abs=5e-4)
    x, y, stratum = lay_out_tables(DIABETES)
    cells = strata.tabulate(x.astype(bool), y.astype(float), stratum, 2)
    assert find_difference(x, y, stratum, np.arange(len(x)))[0] == pytest.approx(0.035, abs=5e-4)
    assert strata.find_ratio(cells) == pytest.approx(1.33, abs=5e-3)
    pooled = StratifiedTable([np.reshape(table, (2, 2)).astype(float) for table in DIABETES])
    assert strata.find_ratio(cells) == pytest.approx(pooled.riskratio_pooled, rel=1e-10)


def test_compare_gives_each_group_what_it_has_alone() -> None:
    exposed, outcome, stratum = draw_strata(12)
    unit = np.arange(len(exposed)) // 2 * 2 + stratum % 2  # rows of a unit lie in strata of one parity
    x, y, groups, units = lay_out(exposed, outcome, stratum, unit)
    cells = strata.tabulate(x, y, groups, 6)
    parity = np.bincount(groups, (stratum % 2)[np.argsort(unit, kind="stable")], minlength=6) > 0
    found = strata.compare(cells, x, y, groups, units, group=parity.astype(np.int64), groups=2)
    for side in (0, 1):
        inside = np.asarray(stratum) % 2 == side
        alone = find_difference(*(np.asarray(each)[inside] for each in (exposed, outcome, stratum, unit)))
        assert (found[0][side], found[1][side]) == pytest.approx(alone, rel=1e-12)


def test_compare_takes_any_outcome_as_least_squares_does() -> None:
    exposed, _, stratum = draw_strata(13)
    spent = np.random.default_rng(13).gamma(2, 10, len(exposed)) * (stratum + 1)
    design = np.column_stack([exposed, stratum[:, None] == np.unique(stratum)]).astype(float)
    fit = sm.OLS(spent, design).fit(cov_type="HC2")
    found = find_difference(exposed, spent, stratum, np.arange(len(exposed)))
    np.testing.assert_allclose(found, (fit.params[0], fit.bse[0]), rtol=1e-10)


def test_find_phi_is_the_correlation_within_strata() -> None:
    exposed, outcome, stratum = draw_strata(14)
    x, y, groups, _ = lay_out(exposed, outcome, stratum, np.arange(len(exposed)))
    centred = pd.DataFrame({"x": x.astype(float), "y": y})
    centred -= centred.groupby(groups).transform("mean")
    expected = np.corrcoef(centred["x"], centred["y"])[0, 1]
    assert strata.find_phi(strata.tabulate(x, y, groups, 6)) == pytest.approx(expected, rel=1e-10)
    pairs = strata.correlate_columns(np.column_stack([x, y > 0]), groups, 6)
    np.testing.assert_allclose(pairs, [[1, expected], [expected, 1]], rtol=1e-10)


def test_find_phi_is_unknown_where_nothing_varies() -> None:
    same, differs, nothing = np.ones(4, bool), np.array([True, False] * 2), np.zeros(4, np.int64)
    assert np.isnan(strata.find_phi(strata.tabulate(same, differs.astype(float), nothing, 1)))
    pairs = strata.correlate_columns(np.column_stack([same, differs]), nothing, 1)
    np.testing.assert_array_equal(pairs, [[np.nan, np.nan], [np.nan, 1]])


def test_count_sides_counts_a_unit_once_a_side() -> None:
    # Unit 0 does it between its rows and converts after both; unit 1 never does it; unit 2, of group 1, does, in vain.
    exposed = np.array([False, True, False, False, True])
    outcome = np.array([True, True, False, True, False])
    unit, group = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 0, 0, 1])
    assert strata.count_sides(exposed, outcome, unit, group, 2).tolist() == [[1, 1], [2, 0], [1, 0], [2, 0]]


def test_compare_is_the_classical_formula() -> None:
    exposed, outcome, stratum = draw_strata(3)
    top = bottom = 0.0
    for (a, not_a), (b, not_b) in list_tables(exposed, outcome, stratum):
        n1, n0 = a + not_a, b + not_b
        top += (a * n0 - b * n1) / (n1 + n0)
        bottom += n1 * n0 / (n1 + n0)
    found = find_difference(exposed, outcome, stratum, np.arange(len(exposed)))[0]
    assert found == pytest.approx(top / bottom, rel=1e-12)


def test_compare_is_least_squares_with_hc2() -> None:
    exposed, outcome, stratum = draw_strata(4)
    design = np.column_stack([exposed, stratum[:, None] == np.unique(stratum)]).astype(float)
    fit = sm.OLS(outcome.astype(float), design).fit(cov_type="HC2")
    found = find_difference(exposed, outcome, stratum, np.arange(len(exposed)))
    np.testing.assert_allclose(found, (fit.params[0], fit.bse[0]), rtol=1e-10)


def test_compare_sums_scores_within_clusters() -> None:
    exposed, outcome, stratum = draw_strata(5)
    cluster = np.arange(len(exposed)) // 3
    x = np.column_stack([exposed, stratum[:, None] == np.unique(stratum)]).astype(float)
    y = outcome.astype(float)
    bread = np.linalg.inv(x.T @ x)
    leverage = np.diag(x @ bread @ x.T)
    scores = x * ((y - x @ bread @ x.T @ y) / np.sqrt(1 - leverage))[:, None]
    summed = np.stack([scores[cluster == each].sum(axis=0) for each in np.unique(cluster)])
    expected = np.sqrt((bread @ summed.T @ summed @ bread)[0, 0])
    found = find_difference(exposed, outcome, stratum, cluster)[1]
    assert found == pytest.approx(expected, rel=1e-10)


def test_compare_of_one_stratum_is_the_plain_difference_with_welchs_error() -> None:
    # With: 3 of 5; without: 3 of 6. Welch: 5*0.6*0.4/4/5 + 6*0.5*0.5/5/6 = 0.06 + 0.05.
    exposed = np.array([1] * 5 + [0] * 6)
    outcome = np.array([1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0])
    found = find_difference(exposed, outcome, np.zeros(11), np.arange(11))
    assert found == pytest.approx((0.1, np.sqrt(0.11)), rel=1e-12)


def test_compare_leaves_out_strata_with_one_side() -> None:
    exposed, outcome, stratum = draw_strata(6, rows=60, strata=2)
    base = find_difference(exposed, outcome, stratum, np.arange(60))
    x, y, groups = (np.append(each, [last] * 10) for each, last in ((exposed, True), (outcome, True), (stratum, 7)))
    assert find_difference(x, y, groups, np.arange(70)) == pytest.approx(base, rel=1e-12)


@pytest.mark.parametrize("exposed", [[], [0, 0, 0], [1, 1, 1]], ids=["no rows", "nobody did it", "all did it"])
def test_compare_is_unknown_with_one_side(exposed: list[int]) -> None:
    nothing = np.zeros(len(exposed), int)
    assert np.isnan(find_difference(exposed, nothing, nothing, np.arange(len(exposed)))).all()


def test_compare_tests_at_its_level_in_sparse_strata() -> None:
    # 1,000 logs without any effect, about 5 rows a stratum; 5% +- 3 standard errors of a share of 1,000.
    rng = np.random.default_rng(8)
    p = []
    for _ in range(1_000):
        stratum = rng.integers(0, 40, 200)
        tendency = rng.random(40)[stratum]
        exposed, outcome = rng.random(200) < 0.1 + 0.6 * tendency, rng.random(200) < 0.1 + 0.5 * tendency
        p.append(stats.compare_normal(*find_difference(exposed, outcome, stratum, np.arange(200))))
    assert 0.05 - 0.021 < np.mean(np.array(p) < 0.05) < 0.05 + 0.021


def test_find_odds_ratio_of_one_stratum_is_the_cross_ratio_with_woolfs_error() -> None:
    exposed, outcome, stratum = draw_strata(9, strata=1)
    table = Table2x2(list_tables(exposed, outcome, stratum)[0])
    ratio, error = find_odds(exposed, outcome, stratum, np.arange(len(exposed)))
    assert ratio == pytest.approx(table.oddsratio, rel=1e-10)
    assert error == pytest.approx(table.log_oddsratio_se, rel=1e-10)
    interval = (ratio * np.exp(-Z * error), ratio * np.exp(Z * error))
    assert interval == pytest.approx(table.oddsratio_confint(), rel=1e-10)


def test_find_odds_ratio_over_strata_agrees_with_statsmodels() -> None:
    exposed, outcome, stratum = draw_strata(10, rows=1_200)
    pooled = StratifiedTable([t.astype(float) for t in list_tables(exposed, outcome, stratum)])
    ratio, error = find_odds(exposed, outcome, stratum, np.arange(len(exposed)))
    assert ratio == pytest.approx(pooled.oddsratio_pooled, rel=1e-10)
    # Another variance of the same estimate (Robins, Breslow and Greenland): equal in large samples only.
    assert error == pytest.approx(pooled.logodds_pooled_se, rel=0.03)


def test_find_odds_ratio_does_not_gain_from_rows_that_repeat_within_a_unit() -> None:
    exposed, outcome, stratum = draw_strata(11)
    units = np.arange(len(exposed))
    once = find_odds(exposed, outcome, stratum, units)
    twice = find_odds(*(np.tile(each, 2) for each in (exposed, outcome, stratum, units)))
    assert twice == pytest.approx(once, rel=1e-10)


def test_find_odds_ratio_is_unknown_when_a_product_is_empty() -> None:
    assert np.isnan(find_odds([1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, range(4))).all()


def test_find_sides_of_one_stratum_are_its_own_samples() -> None:
    x, y, stratum = as_rows(DIABETES[:1])
    cells = strata.tabulate(x, y, stratum, 1)
    error = np.sqrt(8 * 98 / 106**3 + 5 * 115 / 120**3)
    hits, sizes = strata.find_sides(cells, float(error))
    np.testing.assert_allclose([hits, sizes], [[8, 5], [106, 120]], rtol=1e-12)


def test_find_sides_differ_by_the_common_difference_with_its_error() -> None:
    x, y, stratum = as_rows(ALCOHOL)
    cells = strata.tabulate(x, y, stratum, 6)
    difference, error = find_difference(x, y, stratum, np.arange(len(x)))
    hits, sizes = np.array(strata.find_sides(cells, error))
    rates = hits / sizes
    assert rates[0] - rates[1] == pytest.approx(difference, rel=1e-12)
    assert (rates * (1 - rates) / sizes).sum() == pytest.approx(error**2, rel=1e-12)


def test_find_ratio_is_the_ratio_of_risks_in_one_stratum_and_weighted_over_several() -> None:
    # Stratum 0: 3 of 4 against 2 of 5; stratum 1: 1 of 2 against 1 of 3.
    exposed, outcome, stratum = lay_out_tables([(3, 1, 2, 3), (1, 1, 1, 2)])
    x, y = exposed.astype(bool), outcome.astype(float)
    first = stratum == 0
    assert strata.find_ratio(strata.tabulate(x[first], y[first], stratum[first], 1)) == pytest.approx(1.875, rel=1e-12)
    weighted = (3 * 5 / 9 + 1 * 3 / 5) / (2 * 4 / 9 + 1 * 2 / 5)
    assert strata.find_ratio(strata.tabulate(x, y, stratum, 2)) == pytest.approx(weighted, rel=1e-12)
    assert np.isnan(strata.find_ratio(strata.tabulate(x, x.astype(float), stratum, 2)))
