import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_logs import make_log, make_plan, pick
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from convlib import stats
from convlib.reports.comparison import (
    Before,
    Changes,
    compare_measures,
    compare_report,
    measure_overlap,
)

PERIOD = ("2026-06-01", "2026-06-07")
LAST_RUN = "with the last run (1 June 2026 to 7 June 2026)"


def rates(*rows: tuple[str, int, int], kind: str = "rate", **columns: str) -> pd.DataFrame:
    """Write shares as (id, how many did it, units)."""
    frame = pd.DataFrame(rows, columns=["id", "count", "units"]).assign(kind=kind, unit="percent", **columns)
    low, high = stats.wilson_interval(frame["count"], frame["units"])
    share = frame["count"] / frame["units"]
    error = np.sqrt(share * (1 - share) / frame["units"])
    return frame.assign(name=frame["id"].str.capitalize(), value=share, error=error, lower=low, upper=high)


def scores(*rows: tuple[str, float, float], units: int = 400, **columns: str) -> pd.DataFrame:
    """Write estimates as (id, value, standard error)."""
    frame = pd.DataFrame(rows, columns=["id", "value", "error"]).assign(kind="score", units=units, unit="number")
    reach = 1.959964 * frame["error"]
    return frame.assign(
        name=frame["id"].str.capitalize(), lower=frame["value"] - reach, upper=frame["value"] + reach, **columns
    )


def ranks(**places: float) -> pd.DataFrame:
    named = {"id": list(places), "name": list(places), "value": list(places.values())}
    return pd.DataFrame(named).assign(kind="rank", unit="count")


def compare(now: pd.DataFrame, before: pd.DataFrame, *, shared: tuple[float, float] = (0.0, 0.0)) -> Changes:
    return compare_measures(now, Before(PERIOD, list_rows(before), *shared))


def list_rows(frame: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    return tuple({str(name): value for name, value in row.items()} for row in frame.to_dict("records"))


def test_compare_measures_without_overlap_is_the_two_sample_test_with_newcombes_interval() -> None:
    row = compare(rates(("purchase", 130, 1000)), rates(("purchase", 90, 900))).table.iloc[0]
    assert row["p_value"] == pytest.approx(proportions_ztest([130, 90], [1000, 900])[1])
    interval = confint_proportions_2indep(130, 1000, 90, 900, method="newcomb", compare="diff")
    assert (row["ci_lower"], row["ci_upper"]) == pytest.approx(interval)
    assert (row["difference"], row["units"], row["units_before"]) == (pytest.approx(0.03), 1000, 900)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("share", [0.05, 0.4])
def test_compare_measures_of_equal_shares_gives_one_false_alarm_in_twenty_at_any_overlap(
    overlap: float, share: float
) -> None:
    runs, units = 4000, 3000
    generator = np.random.default_rng(7)
    both = round(overlap * units)
    same = generator.binomial(both, share, runs)
    now, before = (same + generator.binomial(units - both, share, runs) for _ in range(2))
    ids = [f"run {number}" for number in range(runs)]
    table = compare(
        rates(*zip(ids, now, [units] * runs, strict=True)),
        rates(*zip(ids, before, [units] * runs, strict=True)),
        shared=(overlap, overlap),
    ).table
    # Three standard errors of a share of 4,000 that is 5%.
    assert np.mean(table["p_value"] < 0.05) == pytest.approx(0.05, abs=0.0104)
    missed = (table["ci_lower"] > 0) | (table["ci_upper"] < 0)
    assert np.mean(missed) == pytest.approx(0.05, abs=0.0104)
    assert not table["verdict"].isin(["up", "down"]).any()


@pytest.mark.parametrize("overlap", [0.0, 0.6, 0.95])
def test_compare_measures_of_equal_means_gives_one_false_alarm_in_twenty_at_any_overlap(overlap: float) -> None:
    runs, units = 4000, 200
    generator = np.random.default_rng(11)
    both = round(overlap * units)
    same = generator.exponential(size=(runs, both))
    now, before = (np.hstack([same, generator.exponential(size=(runs, units - both))]) for _ in range(2))
    ids = [f"run {number}" for number in range(runs)]
    told = [
        scores(*zip(ids, values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(units), strict=True), units=units)
        for values in (now, before)
    ]
    table = compare(*told, shared=(overlap, overlap)).table
    assert np.mean(table["p_value"] < 0.05) == pytest.approx(0.05, abs=0.0104)


def test_compare_measures_sees_more_where_runs_share_units() -> None:
    now, before = rates(("purchase", 110, 1000)), rates(("purchase", 90, 1000))
    apart, together = (compare(now, before, shared=each).table["p_value"][0] for each in ((0.0, 0.0), (0.9, 0.9)))
    # z = 0.02 / sqrt(0.1 x 0.9 x (1/1000 + 1/1000 - 2 x 900 / 1000²)) = 0.02 / sqrt(0.000018)
    assert together == pytest.approx(stats.compare_normal(0.02, np.sqrt(0.000018)))
    assert apart == pytest.approx(stats.compare_normal(0.02, np.sqrt(0.00018)))


def test_compare_measures_takes_the_smaller_of_both_overlaps() -> None:
    now, before = rates(("purchase", 110, 1000)), rates(("purchase", 90, 1000))
    assert compare(now, before, shared=(0.9, 0.5)).table.equals(compare(now, before, shared=(0.5, 0.8)).table)


def test_compare_measures_counts_clustered_units_for_less() -> None:
    now, before = rates(("purchase", 110, 1000)), rates(("purchase", 90, 1000))
    doubled = [frame.assign(error=2 * frame["error"]) for frame in (now, before)]
    # An error twice as large is one of a quarter of the units.
    quarter = proportions_ztest([110 / 4, 90 / 4], [250, 250])[1]
    assert compare(*doubled).table["p_value"][0] == pytest.approx(quarter)


def test_compare_measures_of_one_period_counts_the_same_units_once() -> None:
    now = rates(("purchase", 91, 1000), sample="2026-06-01")
    same = compare(now, rates(("purchase", 90, 1000), sample="2026-06-01")).table.iloc[0]
    assert (same["verdict"], same["note"]) == ("within chance", "the same units in both runs")
    other = compare(now, rates(("purchase", 90, 1000), sample="2026-05-25"), shared=(0.9, 0.9)).table.iloc[0]
    assert other["p_value"] == pytest.approx(proportions_ztest([91, 90], [1000, 1000])[1])


def test_compare_measures_of_a_growing_sample_tests_what_came_in_since() -> None:
    then = scores(("effect", 1.0, 0.2), units=100, sample="since the start")
    row = compare(scores(("effect", 1.6, 0.1), units=400, sample="since the start"), then).table.iloc[0]
    # All 100 are among the 400, so the errors correlate by sqrt(100 / 400).
    error = np.sqrt(0.1**2 + 0.2**2 - 2 * 0.5 * 0.1 * 0.2)
    assert row["p_value"] == pytest.approx(stats.compare_normal(0.6, error))


@pytest.mark.parametrize(
    ("now", "before", "shared"),
    [
        pytest.param(("purchase", 10, 29), ("purchase", 10, 300), 0.0, id="29 units"),
        pytest.param(("purchase", 1, 100), ("purchase", 8, 100), 0.0, id="4.5 expected"),
        pytest.param(
            ("purchase", 70, 1000), ("purchase", 50, 1000), 0.95, id="3 expected of the 50 that are not shared"
        ),
    ],
)
def test_compare_measures_gives_no_verdict_on_too_little(
    now: tuple[str, int, int], before: tuple[str, int, int], shared: float
) -> None:
    changes = compare(rates(now), rates(before), shared=(shared, shared))
    assert pick(changes.table, "verdict better") == [("too few", "")]
    assert np.isnan(changes.table["p_value"][0])
    assert changes.sentences == (f"0 comparisons {LAST_RUN} are within chance; 1 has too little data.",)


def test_compare_measures_controls_false_discoveries_over_the_report() -> None:
    quiet = [(f"quiet {number}", 500, 1000) for number in range(19)]
    now, before = rates(("purchase", 550, 1000), *quiet), rates(("purchase", 500, 1000), *quiet)
    table = compare(now, before).table.set_index("id")
    p_value = proportions_ztest([550, 500], [1000, 1000])[1]  # 0.025
    assert table.loc["purchase", "q_value"] == pytest.approx(20 * p_value)
    assert table.loc["purchase", "verdict"] == "within chance"
    alone = compare(now[:1], before[:1]).table
    assert pick(alone, "verdict") == [("up",)]


def test_compare_measures_says_which_changes_are_better() -> None:
    def many(first: int, second: int) -> pd.DataFrame:
        return pd.concat(
            [
                rates(("purchase", first, 1000), better="up"),
                rates(("a > b", first, 1000), kind="leak", better="down"),
                rates(("error", second, 1000), better="down"),
                rates(("unknown", first, 1000)),
            ]
        )

    table = compare(many(500, 300), many(300, 500)).table.set_index("id")
    assert pick(table.loc[["purchase", "a > b", "error", "unknown"]], "verdict better") == [
        ("up", "improved"),
        ("up", "worsened"),
        ("down", "improved"),
        ("up", ""),
    ]


def test_compare_measures_puts_changes_first_and_keeps_the_reports_order() -> None:
    now = pd.concat([scores(("lift", 9.0, 0.1)), rates(("view", 50, 1000), ("cart", 500, 1000), ("buy", 40, 1000))])
    before = pd.concat([scores(("lift", 5.0, 0.1)), rates(("view", 50, 1000), ("cart", 100, 1000), ("buy", 40, 1000))])
    assert list(compare(now, before).table["id"]) == ["cart", "lift", "view", "buy"]


def test_compare_measures_calls_a_rank_changed_only_where_its_score_is() -> None:
    order = ranks(a=1, b=2, c=3, d=4, e=5, f=float("nan"))
    now = pd.concat([ranks(a=1, b=2, d=3, c=4, e=5, f=6), scores(("score: c", 1, 0.1), ("score: d", 2, 0.1))])
    before = pd.concat([order, scores(("score: c", 2, 0.1), ("score: d", 1.9, 0.1))])
    changes = compare(now, before)
    table = changes.table[changes.table["kind"] == "rank"].set_index("id").sort_index()
    assert pick(table, "before now verdict note")[:5] == [
        (1, 1, "within chance", ""),
        (2, 2, "within chance", ""),
        (3, 4, "down", "no longer among the first 3"),
        (4, 3, "within chance", ""),
        (5, 5, "within chance", ""),
    ]
    assert pick(table, "verdict note")[5] == ("too few", "not ranked before")
    assert changes.sentences[0] == "c: rank 4 after 3; no longer among the first 3."


@pytest.mark.parametrize(
    ("lost", "note"),
    [
        pytest.param(700, "the largest leak now (was: A > b)", id="beyond chance"),
        pytest.param(510, "the largest leak now (was: A > b), within chance", id="within chance"),
        pytest.param(490, "", id="not the largest"),
    ],
)
def test_compare_measures_says_that_another_step_loses_most(lost: int, note: str) -> None:
    now = rates(("a > b", 500, 1000), ("b > c", lost, 1000), kind="leak", better="down")
    before = rates(("a > b", 500, 1000), ("b > c", 480, 1000), kind="leak", better="down")
    assert compare(now, before).table.set_index("id").loc["b > c", "note"] == note


def test_compare_measures_tells_what_is_new_gone_or_defined_in_another_way() -> None:
    now = rates(("new", 10, 100), ("changed", 90, 100), ("same", 10, 100), definition="one")
    before = rates(("gone", 10, 100), ("changed", 10, 100), ("same", 10, 100), definition="one")
    changes = compare(now, before.assign(definition=["one", "two", ""]))
    assert pick(changes.table, "id verdict note") == [
        ("new", "new", ""),
        ("changed", "new", "defined in another way than in the last run"),
        ("same", "within chance", ""),
        ("gone", "gone", ""),
    ]
    assert changes.table.set_index("id").loc["changed", ["before", "difference"]].isna().all()
    assert changes.sentences == (
        "New in this report: New.",
        "No longer in it: Gone.",
        "Not compared, as defined otherwise now: Changed.",
        f"1 comparison {LAST_RUN} is within chance.",
    )


def test_compare_measures_calls_nothing_new_or_gone_where_small_numbers_were_left_out() -> None:
    now, before = rates(("buy", 50, 100), ("look", 60, 100)), rates(("buy", 50, 100), ("save", 60, 100))
    found = compare_measures(now, Before(PERIOD, list_rows(before), redacted=True))
    assert found.table[["id", "verdict"]].to_numpy().tolist() == [["buy", "within chance"]]
    assert len(found.sentences) == 1


def test_compare_measures_tells_what_an_experiment_says_now() -> None:
    now = scores(("short: checkout", 0.03, 0.01), status="better", sample="since the start").assign(unit="points")
    before = scores(("short: checkout", 0.02, 0.02), status="no evidence", sample="since the start", units=100)
    changes = compare(now, before)
    assert pick(changes.table, "verdict restated") == [("within chance", True)]
    assert changes.sentences == (
        "Short: checkout: +3.0 pts (n = 400); better, was no evidence.",
        f"1 other comparison {LAST_RUN} is within chance.",
    )


def test_compare_measures_words_each_kind_of_change_with_n_and_interval() -> None:
    now = pd.concat([rates(("buy", 400, 10_000)), scores(("value", 12.0, 0.1))])
    before = pd.concat([rates(("buy", 600, 10_000)), scores(("value", 10.0, 0.1))])
    # Newcombe's interval from statsmodels; 2 -+ 1.96 x sqrt(2) x 0.1.
    assert compare(now, before).sentences == (
        "Buy: 4.0% (n = 10,000) after 6.0%, down 2.0 points (95% CI -2.6 to -1.4).",
        "Value: 12.0 (n = 400) after 10.0, up 2.00 (95% CI +1.72 to +2.28).",
        f"0 other comparisons {LAST_RUN} are within chance.",
    )


def test_compare_measures_tells_five_changes_and_counts_the_others() -> None:
    many = [f"rate {number}" for number in range(7)]
    now, before = (rates(*((name, count, 1000) for name in many)) for count in (500, 300))
    sentences = compare(now, before).sentences
    assert [sentence.split(":")[0] for sentence in sentences[:5]] == [f"Rate {number}" for number in range(5)]
    assert sentences[5:] == (
        "2 more changes beyond chance stand in the table of changes.",
        f"0 other comparisons {LAST_RUN} are within chance.",
    )


def test_compare_measures_takes_an_older_runs_rows_with_fewer_columns() -> None:
    older = rates(("purchase", 90, 900)).drop(columns=["unit"])
    assert pick(compare(rates(("purchase", 130, 1000)), older).table, "id unit") == [("purchase", "percent")]


def test_compare_measures_takes_what_a_database_gives_for_missing() -> None:
    now = scores(("purchase", 1.0, 0.1))
    before = {**list_rows(now)[0], "count": None, "status": None, "notebook": "04_impact"}
    assert compare_measures(now, Before(PERIOD, (before,))).table["verdict"][0] == "within chance"


def test_compare_measures_leaves_its_tables_as_they_are() -> None:
    now, before = rates(("purchase", 130, 1000)), rates(("purchase", 90, 900))
    copies = now.copy(), before.copy()
    compare(now, before)
    pd.testing.assert_frame_equal(now, copies[0])
    pd.testing.assert_frame_equal(before, copies[1])


def save_lifts(folder: Path, lift: float) -> None:
    row = {"micro": "=filter", "units_with": 100, "units_without": 300, "adjusted_lift": lift}
    row |= {"adjusted_lift_ci_lower": lift - 0.01, "adjusted_lift_ci_upper": lift + 0.01}
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([row]).to_parquet(folder / "correlation.parquet")


def test_compare_report_writes_measures_for_the_next_run_and_changes_since_the_last(tmp_path: Path) -> None:
    save_lifts(tmp_path / "first", 0.1)
    assert compare_report(tmp_path / "first", None) == ()
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["correlation.parquet", "measures.parquet"]
    measures = list_rows(pd.read_parquet(tmp_path / "first" / "measures.parquet"))
    before = pickle.loads(pickle.dumps(Before(PERIOD, measures)))  # our own, as a pool sends it
    save_lifts(tmp_path / "second", 0.2)
    assert compare_report(tmp_path / "second", before) == (
        "Adjusted lift associated with =filter: +20.0 pts (n = 400) after +10.0 pts, up 10.0 points (95% CI +8.6 to "
        "+11.4).",
        f"0 other comparisons {LAST_RUN} are within chance.",
    )
    assert pick(pd.read_parquet(tmp_path / "second" / "changes.parquet"), "id verdict") == [("lift: =filter", "up")]
    assert pick(pd.read_csv(tmp_path / "second" / "changes.csv"), "id verdict") == [("lift: =filter", "up")]
    assert not list(tmp_path.rglob(".*"))


def test_compare_report_writes_no_cell_that_a_spreadsheet_would_run(tmp_path: Path) -> None:
    row = {"rank": 1, "micro": "=cmd()", "units_with": 100, "reach": 300, "score": 5.0}
    row |= {"score_ci_lower": 4.0, "score_ci_upper": 6.0}
    pd.DataFrame([row]).to_parquet(tmp_path / "impact.parquet")
    compare_report(tmp_path, Before(PERIOD, list_rows(ranks(**{"=cmd()": 1}))))
    assert pick(pd.read_csv(tmp_path / "changes.csv")[:1], "kind id name") == [("rank", "'=cmd()", "'=cmd()")]
    assert pick(pd.read_parquet(tmp_path / "changes.parquet")[:1], "id") == [("=cmd()",)]


def test_compare_report_has_nothing_to_say_without_measures(tmp_path: Path) -> None:
    pd.DataFrame({"event": ["visit"]}).to_parquet(tmp_path / "event_map.parquet")
    assert compare_report(tmp_path, Before(PERIOD, ({"kind": "rate", "id": "purchase"},))) == ()
    save_lifts(tmp_path, 0.1)
    assert compare_report(tmp_path, Before(PERIOD, ())) == ()
    assert not (tmp_path / "changes.csv").exists()


LOG = """
ann visit 0h
ann visit 80h
bob visit 30h
cat visit 50h
cat visit 90h
dan visit 100h
"""


def test_measure_overlap_counts_units_that_entered_both_periods_with_one_event(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "macros: [{id: visit, match: {event_name: visit}}]")
    log = make_log(LOG, plan)
    # Ann enters the second period again, with another event; bob and cat enter both with the same one.
    assert measure_overlap(log, ("2024-01-02", "2024-01-05"), ("2024-01-01", "2024-01-03")) == (2 / 4, 2 / 3)


@pytest.mark.parametrize(
    ("period", "before"),
    [
        pytest.param(("2024-01-03", "2024-01-05"), ("2024-01-01", "2024-01-02"), id="one after the other"),
        pytest.param(("2023-12-01", "2024-01-05"), ("2023-11-01", "2023-12-05"), id="days that the log no longer has"),
    ],
)
def test_measure_overlap_is_none_where_no_day_is_shared(
    tmp_path: Path, period: tuple[str, str], before: tuple[str, str]
) -> None:
    plan = make_plan(tmp_path, "macros: [{id: visit, match: {event_name: visit}}]")
    assert measure_overlap(make_log(LOG, plan), period, before) == (0.0, 0.0)
