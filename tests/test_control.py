from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from small_logs import make_log, make_plan

from benchmarks.quiet_years import measure_power, simulate_year
from convlib.control import compare_periods, find_limits, forecast_targets, split_change
from convlib.rates import measure_rates
from convlib.stats import divide, wilson_interval
from convlib.takeaways import word_split

MONDAY = pd.Timestamp("2026-01-05")


def share_rows(counts: list[int], exposed: list[int] | int = 1_000, *, every: int = 7, **more: Any) -> pd.DataFrame:
    """Give one series, a row a period."""
    sizes = [exposed] * len(counts) if isinstance(exposed, int) else exposed
    low, high = wilson_interval(counts, sizes)
    known = {
        "period": [MONDAY + pd.Timedelta(days=every * n) for n in range(len(counts))],
        "conversion": "buy",
        "metric": "rate",
        "units": counts,
        "exposed": sizes,
        "value": divide(counts, sizes),
        "ci_lower": low,
        "ci_upper": high,
        "target": np.nan,
        "note": "",
    }
    return pd.DataFrame(known | more).astype({"period": "datetime64[us]"})


def mean_rows(values: list[float], error: float, exposed: int = 100, **more: Any) -> pd.DataFrame:
    reach = scipy_stats.norm.ppf(0.975) * error
    value = np.array(values)
    known: dict[str, Any] = {"value": value, "ci_lower": value - reach, "ci_upper": value + reach, "metric": "per_unit"}
    return share_rows([exposed] * len(values), exposed).assign(**(known | more))


def goal(direction: str = "up", due: str | None = "2026-12-31", metric: str = "rate") -> pd.DataFrame:
    row = {"conversion": "buy", "metric": metric, "direction": direction, "due": pd.Timestamp(due) if due else pd.NaT}
    return pd.DataFrame([row]).astype({"due": "datetime64[us]"})


def forecast(table: pd.DataFrame, every: str = "W", **more: Any) -> pd.Series:
    found = forecast_targets(table, by=(), every=every, goals=goal(**more))
    assert len(found) == 1
    return found.iloc[0]


def test_find_limits_are_laneys_for_one_series() -> None:
    # 8 periods of 1,000: 90 and 110 in turn. The share is 10%, its error sqrt(.1 * .9 / 1,000); each moving range is
    # 20/1,000 of it, so the dispersion is .02 / .0094868 / 1.128 = 1.869.
    table = share_rows([90, 110] * 4 + [150])
    limits = find_limits(table, by=(), every="W").iloc[-1]
    dispersion = 0.02 / np.sqrt(0.1 * 0.9 / 1_000) / 1.128
    assert limits["expected"] == pytest.approx(0.1)
    assert limits["dispersion"] == pytest.approx(dispersion)
    assert limits["dispersion_df"] == pytest.approx(0.62 * 7)
    assert limits["history"] == 8
    # 950 of 9,000 together; the difference is .05.
    error = np.sqrt(950 / 9_000 * 8_050 / 9_000 * (1 / 1_000 + 1 / 8_000)) * dispersion
    assert limits["p_value"] == pytest.approx(2 * scipy_stats.t.sf(0.05 / error, 0.62 * 7))
    assert limits["q_value"] == limits["p_value"]


@pytest.mark.parametrize("end", ["limit_low", "limit_high"])
def test_find_limits_lie_where_the_test_has_its_level(end: str) -> None:
    table = share_rows([900, 1_100] * 6 + [1_000], 10_000)
    limit = find_limits(table, by=(), every="W").iloc[-1][end]
    at_limit = share_rows([900, 1_100] * 6 + [round(limit * 10_000)], 10_000)
    found = find_limits(at_limit, by=(), every="W").iloc[-1]
    assert found["p_value"] == pytest.approx(0.0125, rel=0.02)


def test_find_limits_share_the_chance_of_a_false_alarm_among_the_series_of_a_period() -> None:
    one = mean_rows([1.0, 1.2] * 4 + [1.1], 0.1)
    many = pd.concat([one.assign(conversion=name) for name in "abcde"], ignore_index=True)
    limits = find_limits(many, by=(), every="W").iloc[-1]
    # All five vary alike, so each knows what all do: five times the degrees of freedom of one.
    assert limits["dispersion_df"] == pytest.approx(5 * 0.62 * 7)
    reach = scipy_stats.t.isf(0.0125 / 5 / 2, 5 * 0.62 * 7)
    assert 1.1 - limits["limit_low"] == pytest.approx(reach * limits["dispersion"] * 0.1 * np.sqrt(1 + 1 / 8))


def test_find_limits_use_only_usable_periods_before() -> None:
    table = share_rows([100] * 12)
    table.loc[3, "note"] = "partial period"
    table.loc[4, "note"] = "no data"
    table.loc[4, "value"] = np.nan
    limits = find_limits(table, by=(), every="W")
    assert limits["history"].tolist() == [0, 1, 2, 0, 0, 3, 4, 5, 6, 7, 8, 9]
    notes = [f"{n} earlier periods, needs 8" for n in range(8)]
    assert limits["limit_note"].tolist() == [*notes[:3], "", "", *notes[3:], "", ""]
    assert limits["expected"].notna().tolist() == [False] * 10 + [True] * 2


def test_find_limits_do_not_change_with_later_data() -> None:
    rng = np.random.default_rng(1)
    series = [share_rows(rng.binomial(1_000, 0.1, 20).tolist(), conversion=name) for name in ("a", "b", "c")]
    table = pd.concat(series, ignore_index=True)
    early = table[table["period"] < table["period"].iloc[14]]
    pd.testing.assert_frame_equal(
        find_limits(table, by=(), every="W").loc[early.index], find_limits(early, by=(), every="W")
    )


def test_find_limits_of_a_day_look_at_the_same_weekdays() -> None:
    # Twelve weeks; 50% on Sundays, 10% on all other days.
    counts = [500 if day % 7 == 6 else 100 for day in range(84)]
    limits = find_limits(share_rows(counts, every=1), by=(), every="D")
    assert limits["expected"].iloc[-1] == pytest.approx(0.5)
    assert limits["expected"].iloc[-2] == pytest.approx(0.1)
    assert limits["history"].iloc[-1] == 11


def test_find_limits_of_what_never_happened_stay_at_zero() -> None:
    limits = find_limits(share_rows([0] * 9 + [1, 12]), by=(), every="W")
    assert limits["limit_low"].iloc[8] == 0
    assert limits["p_value"].iloc[8] == 1
    # One of 1,000 after none of 9,000 has a probability of 1/10: the exact test must agree, and does not.
    assert limits["p_value"].iloc[9] == pytest.approx(0.1)
    assert limits["p_value"].iloc[10] < 0.001


def test_find_limits_of_a_mean_use_its_interval() -> None:
    # Values 1 and 1.2 in turn, errors .1: each moving range is 2 errors, the dispersion 2 / 1.128.
    limits = find_limits(mean_rows([1.0, 1.2] * 4 + [3.0], 0.1), by=(), every="W").iloc[-1]
    error = 0.1 * np.sqrt(1 + 1 / 8) * 2 / 1.128
    reach = scipy_stats.t.isf(0.0125 / 2, 0.62 * 7) * error
    assert limits["expected"] == pytest.approx(1.1)
    assert limits["limit_low"] == pytest.approx(1.1 - reach)
    # Amounts have a long tail away from zero, where the limit is as far in logarithms.
    assert limits["limit_high"] == pytest.approx(1.1 * np.exp(reach / 1.1))
    assert limits["sampling_error"] == pytest.approx(0.1)


@pytest.mark.parametrize("end", ["limit_low", "limit_high"])
@pytest.mark.parametrize("sign", [1, -1])
def test_find_limits_of_amounts_lie_where_the_test_has_its_level(end: str, sign: int) -> None:
    values = [sign * each for each in [1.0, 1.1] * 4]
    limit = find_limits(mean_rows([*values, 1.0], 0.1), by=(), every="W").iloc[-1][end]
    found = find_limits(mean_rows([*values, limit], 0.1), by=(), every="W").iloc[-1]
    assert found["p_value"] == pytest.approx(0.0125)


def test_find_limits_of_amounts_of_either_sign_are_plain() -> None:
    # The error is ten times the mean, so nothing says on which side the long tail would be.
    limits = find_limits(mean_rows([0.0, 0.2] * 4 + [0.1], 1.0), by=(), every="W").iloc[-1]
    assert limits["limit_high"] - 0.1 == pytest.approx(0.1 - limits["limit_low"])


@pytest.mark.parametrize("end", [0.0, np.nan])
@pytest.mark.parametrize("note", ["", "n = 0, needs 30"])
def test_find_limits_judge_a_total_that_falls_to_zero_by_the_variance_of_before(end: float, note: str) -> None:
    # The sum is 360 a week with an error of 30, then nothing comes: no amount, so no interval.
    table = mean_rows([350.0, 370.0] * 4 + [0.0], 30.0, metric="sum of value")
    table.loc[8, ["ci_lower", "ci_upper"]] = end
    table.loc[8, "note"] = note
    limits = find_limits(table, by=(), every="W")
    assert limits["expected"].iloc[-1] == pytest.approx(360)
    assert limits["p_value"].iloc[-1] == pytest.approx(2 * scipy_stats.t.sf(360 / (30 * np.sqrt(9 / 8)), 0.62 * 7))
    compared = compare_periods(table, limits, by=()).iloc[-1]
    assert compared["change"] == -370
    assert compared["change_q_value"] == pytest.approx(2 * scipy_stats.t.sf(370 / (30 * np.sqrt(2)), 0.62 * 7))


def test_find_limits_take_no_interval_from_too_few_amounts_and_no_mean() -> None:
    table = mean_rows([350.0, 370.0] * 4 + [10.0], 30.0, metric="sum of value")
    table.loc[8, "note"] = "n = 1, needs 30"
    assert find_limits(table, by=(), every="W")["limit_low"].notna().iloc[-1]
    assert find_limits(table.assign(metric="mean of value"), by=(), every="W")["limit_low"].isna().iloc[-1]
    assert find_limits(table.assign(exposed=29), by=(), every="W")["limit_low"].isna().iloc[-1]


def visit_rows(counts: list[int], effect: float, exposed: int = 1_000, **more: Any) -> pd.DataFrame:
    """Give a share of visits, of which so many are worth one independent visit."""
    low, high = wilson_interval(np.array(counts) / effect, np.full(len(counts), exposed / effect))
    known: dict[str, Any] = {"metric": "rate by session", "ci_lower": low, "ci_upper": high}
    return share_rows(counts, exposed, **known | more)


@pytest.mark.parametrize("effect", [1.0, 10.0])
def test_find_limits_count_visits_as_many_as_are_worth_independent_ones(effect: float) -> None:
    # A share of 1,000 visits, ten of which tell as much as one, is one of 100 visits.
    counts = [300, 320, 280, 300, 310, 290, 300, 300, 450]
    visits = find_limits(visit_rows(counts, effect), by=(), every="W").iloc[-1]
    few = [round(count / effect) for count in counts]
    units = find_limits(share_rows(few, round(1_000 / effect)), by=(), every="W").iloc[-1]
    names = ["expected", "limit_low", "limit_high", "p_value", "sampling_error"]
    assert visits[names].tolist() == pytest.approx(units[names].tolist())


def test_find_limits_of_visits_stay_within_zero_and_one_and_need_variation() -> None:
    limits = find_limits(visit_rows([10, 0] * 4 + [1_000], 10.0), by=(), every="W").iloc[-1]
    assert limits["limit_low"] == 0
    assert limits["limit_high"] < 1
    assert limits["p_value"] < 0.0125
    never = find_limits(visit_rows([0] * 8 + [10], 10.0), by=(), every="W").iloc[-1]
    assert never["limit_note"] == "it never varied"
    assert np.isnan(never["p_value"])


def test_compare_periods_counts_visits_as_many_as_are_worth_independent_ones() -> None:
    # 300, 360 and no visit of 1,000: as 30, 36 and none of 100; who does nothing does not tell how alike visits are.
    table = visit_rows([300, 360, 0], 10.0)
    compared = compare_periods(table, find_limits(table, by=(), every="W"), by=())
    for row, hits in ((1, 66), (2, 36)):
        share = hits / 200
        error = np.sqrt(share * (1 - share) * 2 / 100)
        change = abs(compared["change"].iloc[row])
        assert compared["change_q_value"].iloc[row] == pytest.approx(2 * scipy_stats.norm.sf(change / error))


def test_compare_periods_raises_no_alarm_of_users_who_are_alike_in_all_their_visits() -> None:
    # 200 users of about ten visits each, in all of which they convert, or in none; each log in two weeks of its own.
    rng = np.random.default_rng(1)
    tables = []
    for log in range(400):
        visits, did = rng.poisson(9, (2, 200)) + 1, rng.random((2, 200)) < 0.3
        hits, total = (visits * did).sum(axis=1), visits.sum(axis=1)
        share = hits / total
        squares = (visits**2 * (did - share[:, None]) ** 2).sum(axis=1)
        effect = squares / (total * share * (1 - share))
        low, high = wilson_interval(hits / effect, total / effect)
        rows = share_rows(hits.tolist(), total.tolist(), metric="rate by session", ci_lower=low, ci_upper=high)
        tables.append(rows.assign(conversion=f"log {log}", period=rows["period"] + pd.Timedelta(weeks=2 * log)))
    table = pd.concat(tables, ignore_index=True)
    compared = compare_periods(table, find_limits(table, by=(), every="W"), by=())
    found = compared["change_q_value"].dropna() < 0.05
    assert len(found) == 400
    assert 0.02 < found.mean() < 0.08


def test_find_limits_say_when_a_mean_never_varied() -> None:
    limits = find_limits(mean_rows([1.0] * 9, 0.0), by=(), every="W")
    assert limits["limit_note"].iloc[-1] == "it never varied"
    assert np.isnan(limits["limit_low"].iloc[-1])


def test_find_limits_has_its_columns_without_rows() -> None:
    limits = find_limits(share_rows([1]).iloc[:0], by=(), every="W")
    assert limits.empty
    assert list(limits) == [
        *("expected", "limit_low", "limit_high", "dispersion", "dispersion_df", "sampling_error", "history"),
        *("p_value", "q_value", "limit_note"),
    ]


def test_find_limits_keep_a_false_alarm_rare_and_find_a_change() -> None:
    assert simulate_year(np.random.SeedSequence(3), correlated=0.0)["period"].nunique() <= 0.05 * 52
    for week in (13, 30):
        assert measure_power(4, 20, week=week, share=0.1, dispersed=True) >= 0.9


def test_compare_periods_tests_shares_with_their_pooled_error() -> None:
    # 100 and 150 of 1,000: 250 of 2,000 together.
    table = share_rows([100, 150])
    compared = compare_periods(table, find_limits(table, by=(), every="W"), by=())
    error = np.sqrt(0.125 * 0.875 * 2 / 1_000)
    assert compared["change"].iloc[1] == pytest.approx(0.05)
    assert compared["previous"].iloc[1] == 0.1
    assert compared["change_q_value"].iloc[1] == pytest.approx(2 * scipy_stats.norm.sf(0.05 / error))
    assert compared["compared_with"].iloc[1] == MONDAY
    assert compared.iloc[0].isna().all()


def test_compare_periods_goes_back_over_a_week_without_data_and_a_partial_one() -> None:
    table = share_rows([100, 0, 90, 150])
    table.loc[1, "note"] = "no data"
    table.loc[1, "value"] = np.nan
    table.loc[2, "note"] = "partial period"
    compared = compare_periods(table, find_limits(table, by=(), every="W"), by=())
    assert compared["compared_with"].tolist()[3] == MONDAY
    assert compared["change"].iloc[3] == pytest.approx(0.05)
    assert compared["change"].iloc[:3].isna().all()


def test_compare_periods_counts_the_dispersion_once_it_is_known() -> None:
    table = share_rows([90, 110] * 5)
    limits = find_limits(table, by=(), every="W")
    compared = compare_periods(table, limits, by=()).iloc[-1]
    error = np.sqrt(0.1 * 0.9 * 2 / 1_000) * limits["dispersion"].iloc[-1]
    expected = 2 * scipy_stats.t.sf(0.02 / error, limits["dispersion_df"].iloc[-1])
    assert compared["change_q_value"] == pytest.approx(expected)


def test_compare_periods_sets_a_day_against_the_same_weekday() -> None:
    table = share_rows([500 if day % 7 == 6 else 100 for day in range(14)], every=1)
    compared = compare_periods(table, find_limits(table, by=(), every="D"), by=(), every="D")
    assert compared["change"].iloc[7:].tolist() == [0.0] * 7
    assert compared["compared_with"].iloc[13] == MONDAY + pd.Timedelta(days=6)


def device_rows(phone: tuple[list[int], list[int]], desk: tuple[list[int], list[int]]) -> pd.DataFrame:
    parts = [share_rows(*phone).assign(device="phone"), share_rows(*desk).assign(device="desk")]
    return pd.concat(parts, ignore_index=True)


def test_split_change_adds_up_and_tells_mix_from_rates() -> None:
    # Phones 10%, then 9%; desks 30%, then 29%; phones grow from half to three quarters of 10,000.
    table = device_rows(([500, 675], [5_000, 7_500]), ([1_500, 725], [5_000, 2_500]))
    split = split_change(table, by=["device"])
    first = split.iloc[0]
    assert (first["before"], first["after"]) == (pytest.approx(0.2), pytest.approx(0.14))
    assert first["change"] == pytest.approx(-0.06)
    # The mix moves a quarter from 29.5% to 9.5%; each rate falls by one point.
    assert first["from_mix"] == pytest.approx(-0.05)
    assert first["from_rate"] == pytest.approx(-0.01)
    assert split["group_from_mix"].sum() == pytest.approx(-0.05)
    assert split["group_from_rate"].sum() == pytest.approx(-0.01)
    assert first["change_q_value"] < 1e-6


def test_word_split_says_how_much_is_mix() -> None:
    table = device_rows(([500, 675], [5_000, 7_500]), ([1_500, 725], [5_000, 2_500]))
    split = split_change(table, by=["device"])
    # Desks: a quarter less of what is 12.5 points above the average of 17%, and 1 point of three eighths of all.
    assert word_split(split.assign(conversion="Bought"), by=["device"], every="W") == (
        "Bought in the week from 12 January 2026: a fall of 6.0 pts, 83% from a different mix by device and 17% from "
        "lower values within the groups; desk contributes most (-3.5 pts).",
    )
    assert word_split(split.assign(change_q_value=0.5), by=["device"], every="W") == (
        "By device there is no change beyond noise to explain.",
    )
    # Mix and rates that pull in opposite directions are no shares of the change.
    table = device_rows(([500, 675], [5_000, 7_500]), ([1_500, 1_000], [5_000, 2_500]))
    split = split_change(table, by=["device"])
    assert "pts from" in word_split(split.assign(conversion="Bought", change_q_value=0.01), by=["device"], every="W")[0]


def test_split_change_counts_a_new_and_a_gone_group_as_mix() -> None:
    table = pd.concat(
        [
            share_rows([200, 200], [1_000, 1_000]).assign(device="desk"),
            share_rows([100, 0], [1_000, 0]).assign(device="fax"),
            share_rows([0, 50], [0, 1_000]).assign(device="tv"),
        ],
        ignore_index=True,
    )
    split = split_change(table, by=["device"]).set_index("device")
    assert split.loc["tv", "note"] == "new group"
    assert split.loc["fax", "note"] == "no units any more"
    assert split["from_rate"].iloc[0] == 0
    assert split["from_mix"].iloc[0] == pytest.approx(0.125 - 0.15)
    assert split["value_before"].isna().tolist() == (split.index == "tv").tolist()


def test_split_change_leaves_out_sums_and_a_single_period() -> None:
    table = device_rows(([10, 20], [100, 100]), ([10, 20], [100, 100]))
    assert split_change(table.assign(metric="sum of value"), by=["device"]).empty
    alone = split_change(table[table["period"] == MONDAY], by=["device"])
    assert alone.empty
    assert "device" in alone
    whole = split_change(device_rows(([100, 90], [1_000] * 2), ([10, 20], [1_000] * 2)), by=["device"])
    assert alone.dtypes.to_dict() == whole.dtypes.to_dict()


def test_forecast_targets_is_the_predictive_t_of_a_straight_line() -> None:
    # 10%, 11%, 12%, 12%, 14% of 1,000; ordinary least squares by hand: mean 11.8%, slope .9 points a week.
    counts = [100, 110, 120, 120, 140]
    found = forecast(share_rows(counts, target=0.15), due="2026-02-22")
    y, x = np.array(counts) / 1_000, np.arange(5.0)
    fit = scipy_stats.linregress(x, y)
    at = fit.intercept + fit.slope * 6
    residual = y - fit.intercept - fit.slope * x
    unit = 0.118 * 0.882
    scale = max((residual**2).sum() / 3 / (unit / 1_000), 1)
    error = np.sqrt(scale * unit / 1_000 * (1 + 1 / 5 + 16 / 10))
    assert found["periods_left"] == 2
    assert found["expected"] == pytest.approx(at)
    assert found["probability"] == pytest.approx(scipy_stats.t.sf((0.15 - at) / error, 3))
    assert found["distance"] == pytest.approx(-0.01)
    assert found["forecast_note"] == ""


def test_forecast_targets_turns_with_the_direction() -> None:
    up = forecast(share_rows([100, 110, 120, 120, 140], target=0.15), due="2026-02-22")
    down = forecast(share_rows([100, 110, 120, 120, 140], target=0.15), due="2026-02-22", direction="down")
    assert up["probability"] + down["probability"] == pytest.approx(1)
    assert down["distance"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("due", "note"),
    [
        (None, "no date"),
        ("2026-03-31", "3 periods, needs 4"),
        ("2026-01-27", "is due on 2026-01-27: missed"),
        ("2026-01-19", "was due on 2026-01-19: met"),
        ("2026-01-04", "was due on 2026-01-04: no data by then"),
    ],
)
def test_forecast_targets_says_why_there_is_no_probability(due: str | None, note: str) -> None:
    # Weeks from 5, 12 and 19 January; the target is met in the second alone.
    found = forecast(share_rows([100, 130, 110], target=0.12), due=due)
    assert found["forecast_note"] == note
    assert np.isnan(found["probability"])


@pytest.mark.parametrize(
    ("every", "due", "left"), [("M", "2026-07-30", 1), ("M", "2026-07-31", 2), ("D", "2026-06-02", 1)]
)
def test_forecast_targets_counts_whole_periods(every: str, due: str, left: int) -> None:
    periods = pd.date_range(
        end="2026-05-01" if every == "M" else "2026-06-01", periods=5, freq="MS" if every == "M" else "D"
    )
    table = share_rows([100, 110, 105, 100, 110], target=0.2).assign(period=periods.as_unit("us"))
    found = forecast(table, every, due=due)
    assert found["periods_left"] == left
    assert found["probability"] < 0.05


def test_forecast_targets_are_calibrated() -> None:
    # The truth rises by a quarter of a point a week; a target at the truth of week 16 is reached half the time, and
    # probabilities are spread evenly.
    rng = np.random.default_rng(5)
    shares, targets = 0.2 + 0.0025 * np.arange(17), 0.24 + rng.normal(0, 0.01, 200)
    counts = rng.binomial(2_000, shares, (200, 17))
    parts = [
        share_rows(each[:12].tolist(), 2_000, target=target).assign(number=number)
        for number, (each, target) in enumerate(zip(counts, targets, strict=True))
    ]
    table = pd.concat(parts, ignore_index=True)
    found = forecast_targets(table, by=["number"], every="W", goals=goal(due="2026-05-03")).set_index("number")
    probability, outcome = found["probability"].to_numpy(), counts[:, 16] / 2_000 >= targets
    for low, high in ((0, 0.35), (0.35, 0.65), (0.65, 1)):
        rows = (probability >= low) & (probability <= high)
        error = np.sqrt((probability[rows] * (1 - probability[rows])).sum()) / rows.sum()
        assert abs(outcome[rows].mean() - probability[rows].mean()) < 4 * error


def test_forecast_targets_counts_visits_as_many_as_are_worth_independent_ones() -> None:
    counts = [200, 220, 240, 230, 250]
    visits = forecast(visit_rows(counts, 10.0, target=0.3), metric="rate by session", due="2026-02-22")
    units = forecast(share_rows([count // 10 for count in counts], 100, target=0.3), due="2026-02-22")
    assert visits["probability"] == pytest.approx(units["probability"])


def test_forecast_targets_looks_past_a_period_in_which_nothing_varied() -> None:
    table = mean_rows([350.0, 370.0, 340.0, 360.0, 0.0], 30.0, metric="sum of value", target=300.0)
    table.loc[4, ["ci_lower", "ci_upper"]] = np.nan
    assert forecast(table, metric="sum of value")["forecast_note"] == ""
    table[["ci_lower", "ci_upper"]] = np.nan
    assert forecast(table, metric="sum of value")["forecast_note"] == "it never varied"


@pytest.mark.parametrize("rows", [0, 2])
def test_forecast_targets_has_its_columns_without_targets(rows: int) -> None:
    found = forecast_targets(share_rows([1, 2]).iloc[:rows], by=(), every="W", goals=goal())
    full = forecast_targets(share_rows([1, 2], target=0.1), by=(), every="W", goals=goal())
    assert found.empty
    assert found.dtypes.to_dict() == full.dtypes.to_dict()
    assert str(found["due"].dtype) == "datetime64[us]"


def test_rates_without_targets_or_units_show_no_targets(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "macros:\n  - {id: buy, match: {event_name: buy}}\n")
    log = make_log("a visit 1h\na buy 2h\nb visit 8D\n", plan)
    for seen in (log, log.segment({"event_name": "none"})):
        assert measure_rates(seen, plan).show_targets()._repr_html_() == '<p class="empty">Nothing to show.</p>'
