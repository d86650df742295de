from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_logs import make_log, make_plan, pick, repeat, write_rows
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.multitest import multipletests

import convlib as cv
from convlib.correlation import COLUMNS, Correlation, correlate
from convlib.events import EventLog
from convlib.plan import Plan

PLAN = """
macros:
  - id: buy
    match: {event_name: buy}
    micros:
      - {id: save, match: {event_name: save}, stage: decision, kind: secondary_action}
      - {id: read, match: {event_name: read}, stage: awareness, kind: secondary_action}
      - {id: form, match: {event_name: form}, stage: decision, kind: process_milestone}
    losses: [{id: leave, match: {event_name: leave}}]
"""
# Landmark 1D, horizon 2D: at risk until 24h, the outcome counts from 24h until before 72h.
ROWS = """
ann visit 0h
ann save 2h
ann buy 30h value=10
ben visit 0h
ben save 3h
ben buy 48h value=20
cat visit 0h
cat save 23h
dan visit 0h
dan save 24h
dan buy 25h value=30
eve visit 0h
eve buy 24h value=40
fay visit 0h
fay buy 71.9h value=50
gus visit 0h
gus buy 72h value=60
hal visit 0h
hal buy 23h value=70
ian visit 0h
ian leave 5h
jan visit 0h
jan leave 30h
kim visit 0h
leo visit 0h
leo save 1h
leo leave 24h
max visit 8D
max save 8.1D
mia visit 0h
mia save 10h
mia buy 40h value=80
kim visit 10D
"""
score = partial(correlate, macro="buy", exposure="1D", horizon="2D")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, PLAN)


@pytest.fixture
def log(plan: Plan) -> EventLog:
    return make_log(ROWS, plan)


@pytest.fixture(scope="module")
def shop() -> tuple[EventLog, Plan, pd.DataFrame]:
    return cv.simulate_shop(units=20_000, seed=1)


@pytest.fixture(scope="module")
def shop_table(shop: tuple[EventLog, Plan, pd.DataFrame]) -> pd.DataFrame:
    log, plan, truth = shop
    table = correlate(log, plan, macro="purchase", adjust=["device_type", "medium"]).table
    return table.merge(truth, on="micro").set_index("micro")


def row_of(result: Correlation, micro: str = "save") -> pd.Series:
    return result.table.set_index("micro").T[micro]


def sides(with_yes: int, with_no: int, without_yes: int, without_no: int) -> str:
    """Write a log whose 2x2 table for `save` is given; everyone enters alike, and the data go on to day 10."""
    return (
        repeat("a", with_yes, "visit 0h", "save 1h", "buy 30h")
        + repeat("b", with_no, "visit 0h", "save 1h")
        + repeat("c", without_yes, "visit 0h", "buy 30h")
        + repeat("d", without_no, "visit 0h")
        + "end visit 10D"
    )


def close_newcombe(first: float, size: float, second: float, other_size: float) -> tuple[float, float]:
    """Give Newcombe's interval of a difference of two rates, from Wilson's formula."""

    def wilson(rate: float, size: float) -> tuple[float, float]:
        z2 = 1.959963984540054**2
        reach = np.sqrt(z2 * (rate * (1 - rate) / size + z2 / (4 * size**2)))
        return tuple((rate + z2 / (2 * size) + sign * reach) / (1 + z2 / size) for sign in (-1, 1))

    (low, high), (other_low, other_high) = wilson(first, size), wilson(second, other_size)
    middle = first - second
    return middle - np.hypot(first - low, other_high - second), middle + np.hypot(high - first, second - other_low)


def test_correlate_counts_the_whole_table_of_a_small_log(log: EventLog, plan: Plan) -> None:
    # With: ann, ben, cat, leo, mia, of whom ann, ben and mia buy. Without: dan (saves at the landmark), eve, fay, gus,
    # jan, kim, of whom dan, eve (at the landmark) and fay buy in time. Out: hal (bought), ian (left), max (pending).
    row = row_of(score(log, plan))
    assert row[["units_with", "units_without", "converted_with", "converted_without"]].tolist() == [5, 6, 3, 3]
    expected = {
        "rate_with": 3 / 5,
        "rate_without": 3 / 6,
        "lift": 0.6 - 0.5,
        "relative_lift": 0.6 / 0.5 - 1,
        "odds_ratio": (3 * 3) / (2 * 3),
        "phi": (3 * 3 - 2 * 3) / np.sqrt(5 * 6 * 6 * 5),
        "adjusted_lift": 0.1,  # all have one visit and no other activity: one stratum
    }
    assert row[list(expected)].to_dict() == pytest.approx(expected, rel=1e-12)
    # Woolf: 1/3 + 1/2 + 1/3 + 1/3 = 1.5. HC2 is Welch's 0.06 + 0.05 here, where two samples would have 0.048 + 1/24.
    woolf, effect = 1.959964 * np.sqrt(1.5), 0.11 / (0.048 + 1 / 24)
    low, high = close_newcombe(0.6, 5 / effect, 0.5, 6 / effect)
    intervals = {
        "odds_ratio_ci_lower": 1.5 * np.exp(-woolf),
        "odds_ratio_ci_upper": 1.5 * np.exp(woolf),
        "adjusted_lift_ci_lower": low,
        "adjusted_lift_ci_upper": high,
        "e_value": 1.2 + np.sqrt(1.2 * 0.2),
    }
    assert row[list(intervals)].to_dict() == pytest.approx(intervals, rel=1e-6)


def test_correlate_gives_newcombes_interval_for_one_landmark(log: EventLog, plan: Plan) -> None:
    row = row_of(score(log, plan))
    low, high = close_newcombe(3 / 5, 5, 3 / 6, 6)
    assert (row["lift_ci_lower"], row["lift_ci_upper"]) == pytest.approx((low, high), rel=1e-12)


def test_correlate_counts_what_impact_needs(log: EventLog, plan: Plan) -> None:
    result = score(log, plan)
    # Mature: all but max. Of the eight buyers (ann, ben, dan, eve, fay, gus, hal, mia) hal bought before the landmark,
    # and gus, at 72h, after the horizon.
    assert result.pending == 1
    assert result.conversions_used == pytest.approx(6 / 8)
    # Six of the 13 mature units save within 72h: ann, ben, cat, dan, leo, mia.
    assert pick(result.followed, "micro could did") == [("save", 13, 6), ("read", 13, 0), ("form", 13, 0)]
    # The seven purchases within 72h: 10 + 20 + 30 + 40 + 50 + 70 + 80; that of gus, at 72h, is too late.
    assert result.value_per_conversion == pytest.approx(300 / 7)
    assert result.entries_per_day == pytest.approx(14 / 11)
    assert (result.exposure, result.horizon, result.entry) == (("1D",), "2D", None)


def test_correlate_has_the_same_columns_and_one_row_a_micro(log: EventLog, plan: Plan) -> None:
    table = score(log, plan).table
    assert tuple(table.columns) == COLUMNS
    assert sorted(table["micro"]) == ["form", "read", "save"]
    assert pick(table[table["micro"] == "form"], "units_with note") == [(0, "0 units with it, needs 30")]


def test_correlate_starts_the_clock_at_the_entry_event(plan: Plan) -> None:
    rows = """
ann visit 0h
ann save 1h
ann start 2D
ann buy 3.5D
ben visit 0h
ben start 2D
ben save 2.5D
cat visit 0h
ben visit 10D
"""
    row = row_of(score(make_log(rows, plan), plan, entry="start"))
    # ann saved before her start, so without; she buys 1.5 days after it. cat never starts.
    assert row[["units_with", "units_without", "converted_with", "converted_without"]].tolist() == [1, 1, 0, 1]


MISSED = (
    repeat("a", 10, "visit 0h", "buy 30h")
    + repeat("b", 10, "visit 0h", "buy 5D")
    + repeat("c", 20, "visit 0h", "buy 1h")
    + repeat("d", 5, "visit 0h")
    + "end visit 10D"
)


def test_correlate_says_how_many_convert_too_early_or_too_late_to_count(plan: Plan) -> None:
    log = make_log(MISSED, plan)
    result = score(log, plan)
    assert result.conversions_used == 10 / 40
    assert result.takeaways[-2:] == (
        "20 of 40 units that got to Buy did so within 1 day of entry, before the first landmark, and are not compared; "
        "an earlier landmark would count more of them.",
        "10 of 20 units that got to Buy later than 1 day after entry did so after the horizon of 2 days, and count as "
        "not converted; a horizon of 5 days would count 90% of them.",
    )
    better = score(log, plan, exposure="1h", horizon="5D")  # those at 5D are 119 hours after the landmark
    assert better.conversions_used == 1
    assert "landmark" not in " ".join(better.takeaways)
    # Between two landmarks: at 5D neither the first horizon, over at 72h, nor the second, from 6D, counts.
    stacked = score(log, plan, exposure=["1D", "6D"])
    assert stacked.conversions_used == 10 / 40
    assert stacked.takeaways[-1] == result.takeaways[-1]


def test_correlate_says_how_many_are_pending_at_the_last_landmark(plan: Plan) -> None:
    log = make_log(MISSED, plan)
    said = (
        "46 of 46 units are pending at the last landmark: their follow-up is not over, and they are not counted there."
    )
    assert said in score(log, plan, exposure=["1D", "9D"]).takeaways
    # At 6D only the unit that ends the data is.
    assert "last landmark" not in " ".join(score(log, plan, exposure=["1D", "6D"]).takeaways)


def test_correlate_says_that_an_empty_column_adjusts_for_nothing(plan: Plan) -> None:
    rows = write_rows(sides(20, 20, 5, 35))
    log = make_log(rows.assign(geo=None, medium=pd.Series(["mail"]).reindex(rows.index), device_type="tv"), plan)
    said = score(log, plan, adjust=["geo", "medium", "device_type"]).takeaways
    assert said[-2:] == (
        "Adjusted by geo, which is empty at entry for 81 of 81 units: it adjusts for nothing.",
        "Adjusted by medium, which is empty at entry for 80 of 81 units: it adjusts for next to nothing.",
    )


STACKED = """
ann visit 0h
ann save 2h
ann buy 60h
ben visit 0h
ben save 30h
ben buy 60h
cat visit 0h
cat buy 30h
dan visit 0h
eve visit 0h
eve save 1h
fay visit 0h
fay buy 80h
dan visit 10D
"""


def test_correlate_stacks_landmarks_and_counts_a_unit_once_a_side(plan: Plan) -> None:
    log = make_log(STACKED, plan)
    result = correlate(log, plan, macro="buy", exposure=["2D", "1D"], horizon="2D")
    # 1D: with ann (buys), eve; without ben, cat (buy), dan, fay (80h is past 72h). 2D: with ann, ben (buy), eve;
    # without dan, fay (buys); cat has left the risk. ben is on both sides.
    row = row_of(result)
    assert result.exposure == ("1D", "2D")
    assert row[["units_with", "units_without", "converted_with", "converted_without"]].tolist() == [3, 4, 2, 3]
    # Lift: (1*4 - 2*2)/6 + (2*2 - 1*3)/5 over 2*4/6 + 3*2/5 = 3/38. Odds: (2/6 + 2/5) / (2/6 + 1/5) = 11/8.
    assert row["lift"] == pytest.approx(3 / 38, rel=1e-12)
    assert row["odds_ratio"] == pytest.approx(11 / 8, rel=1e-12)
    assert result.conversions_used == 1


def test_correlate_clusters_the_error_by_unit(plan: Plan) -> None:
    log = make_log(STACKED, plan)
    row = row_of(correlate(log, plan, macro="buy", exposure=["1D", "2D"], horizon="2D"))
    units = ["ann", "eve", "ben", "cat", "dan", "fay", "ann", "ben", "eve", "dan", "fay"]
    landmark = np.array([0] * 6 + [1] * 5)
    exposed = np.array([1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0])
    outcome = np.array([1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1])
    x = np.column_stack([exposed, landmark == 0, landmark == 1]).astype(float)
    bread = np.linalg.inv(x.T @ x)
    residual = outcome - x @ bread @ x.T @ outcome
    scores = x * (residual / np.sqrt(1 - np.diag(x @ bread @ x.T)))[:, None]
    summed = pd.DataFrame(scores).groupby(units).sum().to_numpy()
    error = (bread @ summed.T @ summed @ bread)[0, 0]
    # Rates over landmarks with weights 8/6 and 6/5, and the sizes that two samples with that error would have.
    weight = np.array([8 / 6, 6 / 5]) / (8 / 6 + 6 / 5)
    first, second = weight @ [1 / 2, 2 / 3], weight @ [2 / 4, 1 / 2]
    size, other = 1 / (weight**2 @ [1 / 2, 1 / 3]), 1 / (weight**2 @ [1 / 4, 1 / 2])
    effect = error / (first * (1 - first) / size + second * (1 - second) / other)
    expected = close_newcombe(*map(float, (first, size / effect, second, other / effect)))
    assert (row["lift_ci_lower"], row["lift_ci_upper"]) == pytest.approx(expected, rel=1e-10)


def test_correlate_says_who_is_followed_only_of_those_followed_to_the_end(plan: Plan) -> None:
    # The data end at 6D: b's first landmark is mature (2 + 1 + 1), the last is not (2 + 4 + 1).
    rows = "a visit 0h\na buy 30h\nb visit 2D\na visit 6D"
    result = correlate(make_log(rows, plan), plan, macro="buy", exposure=["1D", "4D"], horizon="1D")
    assert pick(result.followed, "micro could did")[0] == ("save", 1, 0)


@pytest.mark.parametrize(
    ("table", "verdict", "note"),
    [
        ((20, 20, 5, 35), "positive", ""),
        ((5, 35, 20, 20), "negative", ""),
        ((10, 30, 10, 30), "no evidence", ""),
        ((20, 9, 5, 35), "too few", "29 units with it, needs 30"),
        ((20, 20, 6, 23), "too few", "29 units without it, needs 30"),
        ((4, 36, 20, 20), "too few", "4 conversions with it, needs 5"),
        ((20, 20, 4, 36), "too few", "4 conversions without it, needs 5"),
        ((29, 11, 0, 40), "too few", "0 conversions without it, needs 5"),
        ((30, 10, 0, 40), "precondition", "none of 30 converters converted without it"),
    ],
)
def test_correlate_gives_each_verdict(plan: Plan, table: tuple[int, int, int, int], verdict: str, note: str) -> None:
    # The last unit, which only ends the data, is pending.
    row = row_of(score(make_log(sides(*table), plan), plan))
    assert row[["units_with", "units_without"]].tolist() == [
        table[0] + table[1],
        table[2] + table[3],
    ]
    assert (row["verdict"], row["note"]) == (verdict, note)


def test_correlate_does_not_call_it_too_few_when_everybody_converts(plan: Plan) -> None:
    row = row_of(score(make_log(sides(40, 0, 40, 0), plan), plan))
    assert (row["lift"], row["adjusted_lift"], row["verdict"]) == (0, 0, "no evidence")


def test_correlate_sees_a_precondition_over_the_whole_follow_up(plan: Plan) -> None:
    rows = (
        repeat("a", 10, "visit 0h", "save 1h", "buy 30h")
        + repeat("b", 20, "visit 0h", "save 28h", "buy 30h")  # after the landmark, before the macro
        + repeat("c", 40, "visit 0h")
        + "end visit 10D"
    )
    row = row_of(score(make_log(rows, plan), plan))
    assert (row["converted_without"], row["verdict"]) == (20, "precondition")
    assert row["note"] == "none of 30 converters converted without it"


@pytest.mark.parametrize(("after", "follows"), [(21, True), (20, False)], ids=["more than half", "half"])
def test_correlate_sees_what_follows_the_macro(plan: Plan, after: int, follows: bool) -> None:
    rows = (
        repeat("a", after, "visit 0h", "buy 30h", "save 31h")
        + repeat("b", 20, "visit 0h", "save 1h", "buy 30h")
        + repeat("c", 20, "visit 0h", "save 1h")
        + repeat("d", 40, "visit 0h")
        + "end visit 10D"
    )
    row = row_of(score(make_log(rows, plan), plan))
    assert (row["verdict"] == "follows the macro") == follows
    if follows:
        assert row["note"] == "21 of 41 converters who did it did so first after converting"


def test_correlate_controls_false_discoveries_over_judged_micros_only(plan: Plan) -> None:
    # `form` is a precondition; `save` and `read` are judged.
    rows = (
        repeat("a", 20, "visit 0h", "save 1h", "form 2h", "buy 30h")
        + repeat("b", 15, "visit 0h", "read 1h", "form 2h", "buy 30h")
        + repeat("c", 20, "visit 0h", "save 1h")
        + repeat("d", 25, "visit 0h", "read 1h")
        + repeat("e", 10, "visit 0h", "form 2h")
        + repeat("f", 30, "visit 0h")
        + "end visit 10D"
    )
    table = score(make_log(rows, plan), plan).table.set_index("micro")
    assert table.loc["form", "verdict"] == "precondition"
    assert table.loc[["form"], "q_value"].isna().all()
    p = table.loc[["save", "read"], "p_value"]
    np.testing.assert_allclose(table.loc[["save", "read"], "q_value"], multipletests(p, method="fdr_bh")[1], rtol=1e-10)


def test_correlate_adjusts_for_activity(plan: Plan) -> None:
    # Those with two more page views save and buy more: among units alike, saving tells nothing.
    rows = (
        repeat("a", 20, "visit 0h", "page 1h", "page 2h", "save 3h", "buy 30h")
        + repeat("b", 20, "visit 0h", "page 1h", "page 2h", "save 3h")
        + repeat("c", 10, "visit 0h", "page 1h", "page 2h", "buy 30h")
        + repeat("d", 10, "visit 0h", "page 1h", "page 2h")
        + repeat("e", 2, "visit 0h", "save 3h", "buy 30h")
        + repeat("f", 8, "visit 0h", "save 3h")
        + repeat("g", 8, "visit 0h", "buy 30h")
        + repeat("h", 32, "visit 0h")
        + "end visit 10D"
    )
    row = row_of(score(make_log(rows, plan), plan))
    # Active: 20 of 40 against 10 of 20. Others: 2 of 10 against 8 of 40. Raw: 22 of 50 against 18 of 60.
    assert row["lift"] == pytest.approx(22 / 50 - 18 / 60, rel=1e-12)
    assert row["adjusted_lift"] == pytest.approx(0, abs=1e-12)
    assert row["verdict"] == "no evidence"


def test_correlate_leaves_what_fires_with_a_conversion_out_of_activity(plan: Plan) -> None:
    # Each save comes with a page view at the same instant: counted, it could not be told from saving.
    rows = (
        repeat("a", 20, "visit 0h", "save 1h", "page 1h", "buy 30h")
        + repeat("b", 20, "visit 0h", "save 1h", "page 1h")
        + repeat("c", 10, "visit 0h", "buy 30h")
        + repeat("d", 30, "visit 0h")
        + "end visit 10D"
    )
    row = row_of(score(make_log(rows, plan), plan))
    assert row["adjusted_lift"] == pytest.approx(20 / 40 - 10 / 40, rel=1e-12)


def two_devices() -> str:
    parts: list[tuple[str, int, *tuple[str, ...]]] = [
        ("m1", 24, "visit 0h device_type=mobile", "save 1h device_type=mobile", "buy 30h device_type=mobile"),
        ("m2", 16, "visit 0h device_type=mobile", "save 1h device_type=mobile"),
        ("m3", 10, "visit 0h device_type=mobile", "buy 30h device_type=mobile"),
        ("m4", 30, "visit 0h device_type=mobile"),
        ("d1", 12, "visit 0h device_type=desktop", "save 1h device_type=desktop", "buy 30h device_type=desktop"),
        ("d2", 28, "visit 0h device_type=desktop", "save 1h device_type=desktop"),
        ("d3", 18, "visit 0h device_type=desktop", "buy 30h device_type=desktop"),
        ("d4", 26, "visit 0h device_type=desktop"),
    ]
    return "".join(repeat(*part) for part in parts) + "end visit 10D device_type=desktop"


def test_correlate_tests_equal_odds_over_groups_as_statsmodels_does(plan: Plan) -> None:
    log = make_log(two_devices(), plan)
    result = score(log, plan, adjust="device_type")
    tables = [np.array([[24, 16], [10, 30]], float), np.array([[12, 28], [18, 26]], float)]
    row = row_of(result)
    assert row["homogeneity_p_value"] == pytest.approx(StratifiedTable(tables).test_equal_odds().pvalue, rel=1e-10)
    # (24*40 - 10*40)/80 + (12*44 - 18*40)/84 over 40*40/80 + 40*44/84
    lift = (560 / 80 - 192 / 84) / (20 + 1760 / 84)
    assert row["adjusted_lift"] == pytest.approx(lift, rel=1e-12)
    assert result.adjust == ("device_type",)
    assert np.isnan(row_of(score(log, plan))["homogeneity_p_value"])


def test_correlate_compares_no_small_groups(plan: Plan) -> None:
    # Ten units a side: a test of equal odds would not keep its level.
    rows = [f"visit 0h device_type={device}" for device in ("mobile", "desktop")]
    parts = [
        repeat(f"{side}{n}", 5, row, *done)
        for n, row in enumerate(rows)
        for side, done in enumerate((["save 1h", "buy 30h"], ["save 1h"], ["buy 30h"], []))
    ]
    log = make_log("".join(parts) + "end visit 10D", plan)
    assert np.isnan(row_of(score(log, plan, adjust="device_type"))["homogeneity_p_value"])


def test_correlate_is_not_changed_by_a_constant_covariate(plan: Plan) -> None:
    rows = write_rows(sides(20, 20, 5, 35)).assign(geo="US")
    log = make_log(rows, plan)
    plain, adjusted = (score(log, plan, adjust=adjust).table for adjust in ([], ["geo"]))
    pd.testing.assert_frame_equal(plain, adjusted)


def test_correlate_matrix_is_phi_between_micros(plan: Plan) -> None:
    rows = (
        repeat("a", 4, "visit 0h", "save 1h", "read 2h")
        + repeat("b", 2, "visit 0h", "save 1h")
        + repeat("c", 1, "visit 0h", "read 1h")
        + repeat("d", 3, "visit 0h", "read 25h")  # after the landmark
        + "e visit 0h\ne buy 30h\nend visit 10D"
    )
    matrix = score(make_log(rows, plan), plan).matrix
    save, read = [1] * 6 + [0] * 5, [1] * 4 + [0] * 2 + [1] + [0] * 4
    assert matrix.loc["save", "read"] == pytest.approx(np.corrcoef(save, read)[0, 1], rel=1e-12)
    pd.testing.assert_frame_equal(matrix, matrix.T, check_names=False)
    assert matrix.loc["save", "save"] == pytest.approx(1)
    assert matrix["form"].isna().all()


def test_correlate_does_not_depend_on_order_or_names_and_leaves_its_input_alone(plan: Plan) -> None:
    rows = write_rows(two_devices())
    kept = rows.copy()
    first = score(make_log(rows, plan), plan, adjust="device_type")
    changed = rows.assign(user_id=rows["user_id"].map(lambda name: name[::-1] + "x")).sample(frac=1, random_state=3)
    second = score(make_log(changed, plan), plan, adjust="device_type")
    pd.testing.assert_frame_equal(first.table, second.table, rtol=1e-9)
    pd.testing.assert_frame_equal(rows, kept)


def test_correlate_sees_the_log_through_segment_and_period(plan: Plan) -> None:
    log = make_log(two_devices(), plan)
    row = row_of(score(log.segment({"device_type": "mobile"}), plan))
    assert row[["units_with", "units_without", "converted_with", "converted_without"]].tolist() == [40, 40, 24, 10]
    later = make_log(sides(20, 20, 5, 35) + "\nzoe visit 4D\nzoe save 4.1D\nzoe buy 5.5D", plan)
    row = row_of(score(later.between("2024-01-05", "2024-01-05"), plan))
    assert row[["units_with", "units_without", "converted_with"]].tolist() == [1, 0, 1]


def test_correlate_chooses_landmarks_from_the_whole_log(plan: Plan) -> None:
    # Ten buyers, after 1 to 10 hours: 10, 25, 50 and 75% points (the higher one) are 2, 4, 6 and 8 hours.
    rows = "".join(f"u{n} visit {5 * (n > 5)}D\nu{n} buy {n + 120 * (n > 5)}h\n" for n in range(1, 11))
    log = make_log(write_rows(rows + "end visit 10D device_type=mobile"), plan)
    result = correlate(log, plan, macro="buy", horizon="1D")
    assert result.exposure == ("2h", "4h", "6h", "8h")
    # Five of them enter on the first day.
    assert (
        correlate(log.between("2024-01-01", "2024-01-01"), plan, macro="buy", horizon="1D").exposure == result.exposure
    )


def test_correlate_takes_entry_exposure_and_horizon_from_the_plan(tmp_path: Path) -> None:
    clock = "    correlation: {entry: start, exposure: [1D], horizon: 2D}\n"
    plan = make_plan(tmp_path, PLAN + clock)
    log = make_log("ann visit 0h\nann start 1h\nann buy 30h\nann visit 10D", plan)
    left_out: list[dict[str, Any]] = [{}, {"exposure": [], "horizon": "", "entry": ""}]  # as a notebook gives nothing
    for given in left_out:
        result = correlate(log, plan, macro="buy", **given)
        assert (result.entry, result.exposure, result.horizon) == ("start", ("1D",), "2D")


def test_correlate_of_a_macro_without_micros_is_empty(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "macros: [{id: buy, match: {event_name: buy}}]")
    result = score(make_log("ann visit 0h\nann buy 30h\nann visit 10D", plan), plan)
    assert tuple(result.table.columns) == COLUMNS
    assert len(result.table) == len(result.matrix) == 0


def test_correlate_keeps_one_unit_and_says_too_few(plan: Plan) -> None:
    row = row_of(score(make_log("ann visit 0h\nann save 1h\nann buy 30h\nann visit 10D", plan), plan))
    assert row[["units_with", "units_without", "converted_with"]].tolist() == [1, 0, 1]
    assert (row["verdict"], row["note"]) == ("too few", "1 units with it, needs 30")
    assert row[["lift", "adjusted_lift", "phi", "odds_ratio", "p_value", "q_value"]].isna().all()


def test_correlate_keeps_rows_when_all_converted_before_the_landmark(plan: Plan) -> None:
    rows = repeat("a", 40, "visit 0h", "save 1h", "buy 2h") + "end visit 10D"
    result = score(make_log(rows, plan), plan)
    row = row_of(result)
    assert row[["units_with", "units_without"]].tolist() == [0, 0]
    assert result.conversions_used == 0
    assert row["verdict"] == "precondition"


def test_correlate_refuses_an_unknown_macro(log: EventLog, plan: Plan) -> None:
    with pytest.raises(cv.ParamError) as caught:
        correlate(log, plan, macro="bye")
    assert str(caught.value) == "`macro` is 'bye'; the plan's macros are 'buy'. Did you mean 'buy'?"


def test_correlate_refuses_a_horizon_longer_than_the_data(log: EventLog, plan: Plan) -> None:
    with pytest.raises(cv.EventDataError) as caught:
        correlate(log, plan, macro="buy", exposure="1D", horizon="20D")
    assert str(caught.value) == (
        "None of the 14 units that enter from 2024-01-01 to 2024-01-11 has 1D + 20D of follow-up "
        "before the end of the data, 2024-01-11. Choose earlier entries or a shorter horizon."
    )


def test_correlate_refuses_a_log_without_the_macro(plan: Plan) -> None:
    with pytest.raises(cv.EventDataError) as caught:
        score(make_log("ann visit 0h\nann visit 10D", plan), plan)
    assert str(caught.value) == ("The macro `buy` never happens in the log. Check its match rule, event_name = buy.")


def test_correlate_refuses_a_period_without_entries(log: EventLog, plan: Plan) -> None:
    with pytest.raises(cv.EventDataError) as caught:
        score(log.between("2024-01-03", "2024-01-04"), plan, entry="save")
    assert str(caught.value) == ("No unit enters from 2024-01-03 to 2024-01-04. Widen the period.")


def test_correlate_refuses_landmarks_from_no_conversion(plan: Plan) -> None:
    with pytest.raises(cv.EventDataError) as caught:
        correlate(make_log("ann visit 0h\nann visit 10D", plan), plan, macro="buy")
    assert str(caught.value) == (
        "`exposure` can't be chosen: no unit has `buy` after its entry. Give landmarks such as ['1D', '7D']."
    )


def test_correlate_finds_what_is_planted_in_the_shop(shop_table: pd.DataFrame) -> None:
    known = shop_table.dropna(subset="true_lift")
    error = (known["adjusted_lift_ci_upper"] - known["adjusted_lift_ci_lower"]) / (2 * 1.959964)
    assert ((known["adjusted_lift"] - known["true_lift"]).abs() < 3.5 * error).all()
    planted = known[known["planted"] != "null"].sort_values("true_lift")
    assert planted["adjusted_lift"].is_monotonic_increasing
    ranked = known.sort_values("adjusted_lift", ascending=False).index.tolist()
    assert ranked[:3] == ["add_to_wishlist", "save_payment_method", "newsletter_signup"]
    assert ranked[-1] == "field_error"


def test_correlate_judges_the_shop_as_planted(shop_table: pd.DataFrame) -> None:
    words = {"null": "no evidence", "follows": "follows the macro"}
    assert shop_table["verdict"].tolist() == shop_table["planted"].replace(words).tolist()


def test_correlate_needs_adjusting_because_active_visitors_do_more_of_everything(shop_table: pd.DataFrame) -> None:
    # What is planted as null, but is done by active visitors, looks clearly good before adjusting.
    confounded = shop_table.loc[["select_category", "use_filter", "email_click", "apply_promo"]]
    assert (confounded["lift_ci_lower"] > 0).all()
    assert (confounded["adjusted_lift_ci_lower"] < 0).all()


def test_correlate_of_a_segment_without_units_is_a_result_with_notes(log: EventLog, plan: Plan) -> None:
    result = score(log.segment({"event_name": "leave"}), plan, entry="save")
    assert pick(result.table, "units_with units_without verdict") == [(0, 0, "too few")] * 3
    assert result.table["adjusted_lift"].isna().all()
    assert result.takeaways[0] == "Segment custom has too few units or conversions to judge any micro-conversion."


def test_correlate_says_what_most_products_would_count(log: EventLog, plan: Plan) -> None:
    # Followed to the end are all but max. Of them ann, ben, dan and mia save before they buy, cat and leo do not buy.
    # Bought within 72h without it: eve, fay, hal. Without it and not buying: gus (at 72h), ian, jan, kim.
    naive = score(log, plan).naive.set_index("micro").T["save"]
    counts = ["units_with", "units_without", "converted_with", "converted_without", "gone_without", "late_with"]
    # Gone before the landmark: hal (bought), ian (left). dan saves at the landmark, so late.
    assert naive[counts].tolist() == [6, 7, 4, 3, 2, 1]
    assert naive["lift"] == pytest.approx(4 / 6 - 3 / 7, rel=1e-12)


def test_correlate_explains_the_gap_to_what_most_products_count(plan: Plan) -> None:
    # 40 who leave within an hour have no time to save: the usual count takes them for units that needed it.
    rows = sides(20, 20, 20, 20) + "\n" + repeat("g", 40, "visit 0h", "leave 1h")
    result = score(make_log(rows, plan), plan)
    assert row_of(result)["lift"] == 0
    assert result.gap_explained == (
        "Counted as most products do (done before converting, or ever without converting, against the rest), Save goes "
        "with +25.0 percentage points of Buy; by what units still at risk had done by the landmark, with +0.0.",
        "By the last landmark 40 of the 80 units of the rest (50%) had converted or left for good. Who is gone can't "
        "do it any more, and who does it late has stayed so long already: the first number takes both for the "
        "micro-conversion's doing.",
    )


def test_correlate_takes_properties_as_candidates(plan: Plan) -> None:
    rows = (
        repeat("a", 40, "visit 0h", "save 1h kind=big", "buy 30h")
        + repeat("b", 40, "visit 0h", "save 1h kind=small")
        + repeat("c", 29, "visit 0h", "save 1h kind=rare")
        + repeat("d", 40, "visit 0h", "buy 30h")
        + repeat("e", 40, "visit 0h")
        + "end visit 10D"
    )
    result = score(make_log(rows, plan), plan, properties="kind")
    assert sorted(result.table["micro"]) == ["form", "read", "save", "save: kind=big", "save: kind=small"]
    assert result.names["save: kind=big"] == "Save: kind=big"
    big = row_of(result, "save: kind=big")
    assert big[["units_with", "converted_with", "stage"]].tolist() == [40, 40, "decision"]
    assert row_of(result, "save: kind=small")["lift"] == pytest.approx(0 - 80 / 149, rel=1e-12)
    alone = row_of(score(make_log(rows, plan), plan))
    assert row_of(result)["adjusted_lift"] == alone["adjusted_lift"]
    assert row_of(result)["q_value"] >= alone["q_value"]
    assert list(result.matrix) == ["save", "read", "form", "save: kind=big", "save: kind=small"]


def test_correlate_gives_the_second_opinion_beside_the_first(plan: Plan) -> None:
    # Reading does nothing, and comes with saving.
    rows = (
        repeat("a", 90, "visit 0h", "save 1h", "read 2h", "buy 30h")
        + repeat("b", 90, "visit 0h", "save 1h", "read 2h")
        + repeat("c", 10, "visit 0h", "save 1h", "buy 30h")
        + repeat("d", 10, "visit 0h", "save 1h")
        + repeat("e", 2, "visit 0h", "read 2h", "buy 30h")
        + repeat("f", 18, "visit 0h", "read 2h")
        + repeat("g", 18, "visit 0h", "buy 30h")
        + repeat("h", 162, "visit 0h")
        + "end visit 10D"
    )
    log = make_log(rows, plan)
    alone, together = (score(log, plan, model=model) for model in ("strata", "regression"))
    assert alone.models.empty
    assert row_of(alone, "read")["verdict"] == "positive"
    row = together.models.set_index("micro").T["read"]
    assert row[["strata_verdict", "regression_verdict", "agree"]].tolist() == ["positive", "no evidence", False]
    assert row["strata_lift"] == row_of(alone, "read")["adjusted_lift"]
    assert row["regression_lift"] == row_of(together, "read")["adjusted_lift"] == pytest.approx(0, abs=1e-9)
    assert row_of(together)["adjusted_lift"] == pytest.approx(0.4, abs=1e-9)
    assert together.second_opinion == (
        "All micro-conversions in one model give another verdict for Read (positive alone, no evidence together). "
        "There, what comes with others shows only what it adds to them, and what can't be told from them is not "
        "judged.",
    )
    assert alone.second_opinion == ()


def test_correlate_says_where_groups_disagree(plan: Plan) -> None:
    result = score(make_log(two_devices(), plan), plan, adjust="device_type")
    assert result.groups["differs"].all()
    assert (
        "Save does not go with it alike everywhere: +35.0 points for device_type mobile and -10.9 points for "
        "device_type desktop."
    ) in result.takeaways
    assert result.differing.table["value"].tolist() == ["mobile", "desktop"]


def test_correlate_names_every_wrong_choice(log: EventLog, plan: Plan) -> None:
    with pytest.raises(cv.ParamError) as caught:
        score(log, plan, target="money", model="regresion")  # type: ignore[arg-type]
    assert caught.value.problems == (
        "`target` is 'money'; it must be one of 'conversion', 'value'.",
        "`model` is 'regresion'; it must be one of 'strata', 'regression'. Did you mean 'regression'?",
    )


def test_correlate_refuses_a_landmark_that_is_no_duration(log: EventLog, plan: Plan) -> None:
    with pytest.raises(cv.ParamError, match="`exposure` is 1"):
        correlate(log, plan, macro="buy", exposure=1)  # type: ignore[arg-type]


def test_correlate_takes_sessions_as_units(plan: Plan) -> None:
    rows = repeat("a", 3, "visit 0h session_id=s", "save 1h session_id=s", "buy 2h session_id=s") + "end visit 10D"
    log = make_log(rows, plan)
    result = correlate(log, plan, macro="buy", exposure="2h", horizon="1D", unit="session")
    # One session id for each of the three users, and none for `end`.
    assert row_of(result)[["units_with", "converted_with"]].tolist() == [3, 3]


def test_correlate_treats_a_missing_covariate_as_a_value_of_its_own(plan: Plan) -> None:
    rows = "".join(
        repeat(f"a{n}", 20, visit, "save 1h", "buy 30h")
        + repeat(f"b{n}", 20, visit, "save 1h")
        + repeat(f"c{n}", 5, visit, "buy 30h")
        + repeat(f"d{n}", 35, visit)
        for n, visit in enumerate(("visit 0h geo=US", "visit 0h"))
    )
    result = score(make_log(rows + "end visit 10D", plan), plan, adjust="geo")
    assert result.groups["value"].tolist() == ["US", "(none)"]
    assert result.groups["lift"].tolist() == pytest.approx([0.5 - 0.125] * 2, rel=1e-12)


def test_correlate_takes_a_users_sessions_for_one_sample(plan: Plan) -> None:
    # The same session a hundred times by each of four users says no more than once by each.
    def write(users: list[str], sessions: int) -> str:
        kinds = {"a": ["save 1h", "buy 2.5h"], "b": ["save 1h"], "c": ["buy 2.5h"], "d": []}
        return "\n".join(
            f"{user} {event.split()[0]} {24 * n}h{int(60 * float(event.split()[1][:-1]))}min session_id={user}{n}"
            for user in users
            for n in range(sessions)
            for event in ["visit 0h", *kinds[user[0]]]
        )

    once = [f"{kind}{k}" for kind in "aabcdd" for k in range(9)]
    logs = [make_log(write(once, n) + "\nend visit 300D session_id=end", plan) for n in (1, 3)]
    first, third = (
        row_of(correlate(each, plan, macro="buy", exposure="2h", horizon="1h", unit="session")) for each in logs
    )
    assert third["units_with"] == 3 * first["units_with"]
    assert third["adjusted_lift"] == pytest.approx(first["adjusted_lift"], rel=1e-9)
    assert third["p_value"] == pytest.approx(first["p_value"], rel=0.3)


def test_correlate_of_one_outcome_a_side_still_tests(plan: Plan) -> None:
    row = row_of(score(make_log(sides(40, 0, 5, 35), plan), plan))
    assert row["p_value"] < 0.001
    # All 40 with it buy, and of those without it none: the estimated error is 0, and chance alone decides.
    parts = sides(40, 0, 0, 40) + "\n" + repeat("e", 10, "visit 0h", "look 1h", "buy 30h")
    result = score(make_log(parts, plan), plan)
    table = np.array([[40, 0], [0, 40]])
    expected = StratifiedTable([table.astype(float), np.array([[0.0, 0], [10, 0]])]).test_null_odds().pvalue
    assert row_of(result)["adjusted_lift"] == 1
    assert row_of(result)["p_value"] == pytest.approx(expected, rel=1e-9)
    assert row_of(result)["verdict"] == "positive"


def test_correlate_counts_a_precondition_done_before_the_period(plan: Plan) -> None:
    early = repeat("a", 20, "form 0h", "visit 3D", "buy 4.5D") + repeat("b", 20, "visit 3D", "form 3.1D", "buy 4.5D")
    rows = early + repeat("c", 40, "visit 3D") + "end visit 20D"
    log = make_log(rows, plan).between("2024-01-04", None)
    assert row_of(score(log, plan), "form")["verdict"] == "precondition"


def test_correlate_counts_activity_from_the_entry_on(plan: Plan) -> None:
    # Those who save were busy before the period; in it all are alike.
    busy = ["look 1h", "look 2h", "look 3h"]
    kinds = {"a": (20, ["save 3.1D", "buy 4.5D"]), "b": (20, ["save 3.1D"]), "c": (5, ["buy 4.5D"]), "d": (35, [])}
    rows = "".join(
        repeat(name, count, *(busy if name in "ab" else []), "visit 3D", *done) for name, (count, done) in kinds.items()
    )
    row = row_of(score(make_log(rows + "end visit 20D", plan).between("2024-01-04", "2024-01-04"), plan))
    assert row["adjusted_lift"] == pytest.approx(0.5 - 0.125, rel=1e-12)


def test_correlate_marks_the_columns_whose_groups_disagree_and_no_other(plan: Plan) -> None:
    rows = two_devices().replace("device_type=mobile", "device_type=mobile geo=US")
    lines = rows.replace("device_type=desktop", "device_type=desktop geo=US").split("\n")
    turned = [line.replace("geo=US", "geo=DE") if n % 3 else line for n, line in enumerate(lines)]
    result = score(make_log("\n".join(turned), plan), plan, adjust=["device_type", "geo"])
    differs = result.groups[result.groups["micro"] == "save"].groupby("column")["differs"].any().to_dict()
    assert differs == {"device_type": True, "geo": False}


def test_correlate_calls_equal_lifts_alike_whatever_their_odds(plan: Plan) -> None:
    # 14% against 4%, and 60% against 50%: the same lift, other odds ratios.
    cells = [("m", 28, 172, 8, 192), ("d", 120, 80, 100, 100)]
    rows = "".join(
        repeat(f"a{g}", a, f"visit 0h geo={g}", "save 1h", "buy 30h")
        + repeat(f"b{g}", b, f"visit 0h geo={g}", "save 1h")
        + repeat(f"c{g}", c, f"visit 0h geo={g}", "buy 30h")
        + repeat(f"d{g}", d, f"visit 0h geo={g}")
        for g, a, b, c, d in cells
    )
    log = make_log(rows + "end visit 10D", plan)
    table = score(log, plan, adjust="geo")
    tables = [np.reshape(each[1:], (2, 2)).astype(float) for each in cells]
    expected = StratifiedTable(tables).test_equal_odds().pvalue
    assert row_of(table)["homogeneity_p_value"] == pytest.approx(expected, rel=1e-10)
    assert not table.groups["differs"].any()


def test_correlate_follows_what_a_rate_is_over_even_of_another_macro(tmp_path: Path) -> None:
    text = PLAN.replace("match: {event_name: save}", "match: {event_name: save}, metric: {type: rate, over: demo}")
    text += """  - id: sign
    match: {event_name: sign}
    micros: [{id: demo, match: {event_name: demo}, stage: decision, kind: secondary_action}]
"""
    plan = make_plan(tmp_path, text)
    parts = repeat("a", 3, "visit 0h", "demo 1h", "save 2h", "buy 30h") + repeat("b", 2, "visit 0h", "demo 1h")
    rows = parts + repeat("c", 4, "visit 0h", "save 2h") + "end visit 10D"
    result = score(make_log(rows, plan), plan)
    assert sorted(result.table["micro"]) == ["form", "read", "save"]
    assert pick(result.followed, "micro units could did converted")[0] == ("save", 9, 5, 3, 3)


def test_correlate_keeps_calls_apart_that_differ_in_filter_or_candidates(plan: Plan) -> None:
    rows = repeat("a", 40, "visit 0h geo=US", "save 1h geo=US kind=x", "buy 30h geo=US")
    rows += repeat("b", 40, "visit 0h geo=DE", "save 1h geo=DE kind=y", "buy 30h geo=DE") + "end visit 10D geo=US"
    log = make_log(rows, plan)
    with_kinds = score(log, plan, properties="kind")
    plain = score(log, plan)
    assert (len(with_kinds.table), len(plain.table)) == (5, 3)
    assert [row_of(score(log.where(geo=geo), plan))["units_with"] for geo in ("US", "DE")] == [40, 40]
    assert row_of(score(log.where(geo={"regex": "U"}), plan, properties="kind"), "save: kind=x")["units_with"] == 40
    assert row_of(plain)["units_with"] == 80


def test_correlate_says_that_filters_hide_the_macro(plan: Plan) -> None:
    log = make_log("ann visit 0h geo=US\nann buy 30h geo=DE\nann visit 10D geo=US", plan)
    with pytest.raises(cv.EventDataError) as caught:
        score(log.where(geo="US"), plan)
    assert str(caught.value) == "The macro `buy` never happens among the rows that the filters keep. They hide it."


def test_correlate_of_values_shows_them_as_such(plan: Plan) -> None:
    rows = (
        repeat("a", 30, "visit 0h", "save 1h", "buy 30h value=5")
        + repeat("b", 30, "visit 0h", "save 1h")
        + repeat("c", 30, "visit 0h", "buy 30h value=-3")
        + repeat("d", 30, "visit 0h")
        + "end visit 10D"
    )
    result = score(make_log(rows, plan), plan, target="value")
    row = row_of(result)
    # Refunds are conversions too.
    assert row[["converted_with", "converted_without", "rate_with", "rate_without"]].tolist() == [30, 30, 2.5, -1.5]
    assert result.conversions_used == 1
    assert "pts" not in result._repr_html_()
    assert result.gap.table.empty
    assert result.gap_explained == ()
