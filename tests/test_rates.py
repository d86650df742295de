from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from small_logs import make_log, make_plan, pick, repeat, write_rows

import convlib as cv
from convlib.errors import ParamError
from convlib.events import EventLog
from convlib.plan import Plan
from convlib.rates import COLUMNS, Rates, measure_rates

PLAN = """
macros:
  - id: buy
    name: Bought
    match: {event_name: buy}
    value: {column: value}
    currency: USD
    owner: shop
    micros:
      - {id: view, match: {event_name: view}, stage: awareness, kind: process_milestone}
      - {id: cart, match: {event_name: cart}, stage: decision, kind: process_milestone,
         metric: {type: rate, over: view}}
      - {id: filters, match: {event_name: filter}, stage: awareness, kind: secondary_action,
         metric: per_unit}
      - {id: spent, match: {event_name: promo}, stage: decision, kind: secondary_action,
         metric: {type: sum, column: discount}}
      - {id: promo, match: {event_name: promo}, stage: decision, kind: secondary_action,
         metric: {type: mean, column: discount}}
      - {id: form, match: {event_name: cart}, stage: decision, kind: process_milestone,
         metric: {type: time_between, from: view}}
      - {id: click, match: {event_name: click}, stage: awareness, kind: secondary_action,
         metric: {type: follow_up, window: 2D}}
      - {id: left, match: {event_name: cart}, stage: decision, kind: secondary_action,
         metric: abandonment}
      - {id: lost, match: {event_name: cart}, stage: decision, kind: secondary_action,
         metric: {type: abandonment, over: view}}
"""
# Two weeks from Monday, 1 January; the second begins after 168h. eve's view is in the second.
ROWS = """
ann visit 0h
ann view 1h
ann cart 2h
ann filter 3h
ann filter 4h
ann promo 5h discount=2
ann click 6h
ann buy 30h value=10
bob visit 0h
bob view 2h
bob promo 3h discount=4
bob promo 4h discount=6
bob click 5h
bob cart 8h
cat visit 10h
cat view 11h
cat filter 12h
dan visit 20h
eve visit 160h
eve view 170h
fay visit 200h
zed visit 335.5h
"""
WEEK_1, WEEK_2 = pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-08")
SMALL_PLAN = """
macros:
  - id: buy
    name: Bought
    match: {event_name: buy}
    target: 0.30
    micros:
      - {id: view, match: {event_name: view}, stage: awareness, kind: process_milestone,
         benchmark: {low: 0.6, high: 0.9, by: {device_type: {mobile: {low: 0.4, high: 0.55}}}}}
      - {id: error, match: {event_name: error}, stage: decision, kind: secondary_action, target: 0.25, direction: down}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, PLAN)


@pytest.fixture
def log(plan: Plan) -> EventLog:
    return make_log(ROWS, plan)


@pytest.fixture
def small_plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, SMALL_PLAN)


def row_of(rates: Rates, conversion: str, period: pd.Timestamp = WEEK_1, metric: str = "") -> pd.Series:
    table = rates.table
    rows = table[(table["conversion"] == conversion) & (table["period"] == period)]
    return (rows[rows["metric"] == metric] if metric else rows).iloc[0]


# In week 1: ann, bob, cat, dan and eve.
@pytest.mark.parametrize(
    ("conversion", "metric", "units", "exposed", "value"),
    [
        ("buy", "rate", 1, 5, 1 / 5),  # ann
        ("buy", "sum of value", 1, 5, 10),
        ("view", "rate", 3, 5, 3 / 5),  # ann, bob, cat; eve's is in the next week
        ("cart", "rate over view", 2, 3, 2 / 3),  # ann, bob of those who viewed
        ("filters", "per_unit", 2, 5, 3 / 5),  # ann 2, cat 1
        ("spent", "sum of discount", 2, 5, 12),  # 2 + 4 + 6
        ("promo", "mean of discount", 2, 2, 4),  # 12 over three promos
        ("form", "time_between from view", 2, 3, 12_600),  # ann 1h, bob 6h: the median is 3.5h; cat never gets there
        ("click", "follow_up within 2D", 1, 2, 1 / 2),  # ann buys 24h after the click, bob does not
        ("left", "abandonment", 1, 2, 1 / 2),  # bob's cart comes to no purchase
        ("lost", "abandonment over view", 1, 3, 1 / 3),  # cat viewed and has no cart
    ],
)
def test_measure_rates_measures_each_type(
    log: EventLog, plan: Plan, conversion: str, metric: str, units: int, exposed: int, value: float
) -> None:
    row = row_of(measure_rates(log, plan), conversion, metric=metric)
    assert row[["metric", "units", "exposed"]].tolist() == [metric, units, exposed]
    assert row["value"] == pytest.approx(value, rel=1e-12)


def test_measure_rates_has_each_conversion_in_the_plans_order(log: EventLog, plan: Plan) -> None:
    rates = measure_rates(log, plan)
    assert tuple(rates.table.columns) == COLUMNS
    order = ["buy", "buy", "view", "cart", "filters", "spent", "promo", "form", "click", "left", "lost"]
    assert rates.table["conversion"].tolist() == order * 2
    assert rates.table["tier"].tolist() == (["macro"] * 2 + ["micro"] * 9) * 2
    assert rates.table["period"].tolist() == [WEEK_1] * 11 + [WEEK_2] * 11
    assert rates.table["owner"].tolist()[:3] == ["shop", "shop", ""]


def test_measure_rates_gives_shares_wilsons_interval(log: EventLog, plan: Plan) -> None:
    rates = measure_rates(log, plan)
    for conversion, hits, total in (("view", 3, 5), ("click", 1, 2), ("lost", 1, 3)):
        expected = scipy_stats.binomtest(hits, total).proportion_ci(method="wilson")
        row = row_of(rates, conversion)
        assert (row["ci_lower"], row["ci_upper"]) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_measure_rates_gives_sums_and_means_their_interval(log: EventLog, plan: Plan) -> None:
    rates = measure_rates(log, plan)
    # Discounts of the five: 2, 10, 0, 0, 0. The number of units varies too: compound Poisson, variance 2^2 + 10^2.
    # Two units tell how amounts vary, so t has one degree of freedom; nothing below 0 can come of such amounts.
    t = np.tan(0.475 * np.pi)
    row = row_of(rates, "spent")
    assert (row["ci_lower"], row["ci_upper"]) == pytest.approx((0, 12 + t * np.sqrt(104)), rel=1e-9)
    # A mean over events of 2 units, 4 a promo: residuals 2 - 4 and 10 - 8 over 3 promos, by the delta method.
    reach = t * np.sqrt(2 * np.var([-2, 2], ddof=1)) / 3
    row = row_of(rates, "promo")
    assert (row["ci_lower"], row["ci_upper"]) == pytest.approx((0, 4 + reach), rel=1e-9)


def test_measure_rates_takes_a_mean_over_the_events_that_hold_a_value(plan: Plan) -> None:
    rows = "ann visit 0h\nann promo 1h discount=10\nann promo 2h\nbob promo 3h discount=20\nann visit 167.5h"
    row = row_of(measure_rates(make_log(rows, plan), plan), "promo")
    assert row["value"] == 15


def test_measure_rates_leaves_out_follow_ups_that_are_not_over(plan: Plan) -> None:
    # bob clicks an hour before the data end: whether he buys within two days is not known.
    rows = "ann visit 0h\nann click 1h\nann buy 2h\nbob visit 1h\nbob click 166h\ncat visit 167h discount=0"
    row = row_of(measure_rates(make_log(rows, plan), plan), "click")
    assert row[["units", "exposed", "value"]].tolist() == [1, 1, 1]


def test_measure_rates_within_a_window_follows_each_entry_past_the_period(log: EventLog, plan: Plan) -> None:
    rates = measure_rates(log, plan, window="2D")
    # Week 1: eve's view, 10h after her entry, counts now. Week 2: eve (from 170h) and fay; zed's two days are not over.
    assert row_of(rates, "view")[["units", "exposed"]].tolist() == [4, 5]
    assert row_of(rates, "view", WEEK_2)[["units", "exposed"]].tolist() == [1, 2]
    assert pick(rates.pending, "period pending") == [(WEEK_1, 0), (WEEK_2, 1)]
    assert pick(rates.pending, "units") == [(5,), (3,)]
    assert "in the week from 8 January 2024" in rates.show_pending()._repr_html_()
    assert rates.window == "2D"
    assert rates.takeaways[-1] == (
        "The newest period with entries, those in the week from 8 January 2024, is left out until its window is over "
        "(17 January 2024)."
    )


def test_measure_rates_counts_the_windows_last_instant(plan: Plan) -> None:
    rows = "ann visit 0h\nann view 48h\nbob visit 0h\nbob view 48.001h\ncat visit 167h discount=0"
    row = row_of(measure_rates(make_log(rows, plan), plan, window="2D"), "view")
    assert row[["units", "exposed"]].tolist() == [1, 2]


def test_measure_rates_enters_at_the_entry_event(log: EventLog, plan: Plan) -> None:
    rates = measure_rates(log, plan, entry="view")
    # Week 1: ann, bob, cat view; eve in week 2. Only what comes from then on counts.
    assert row_of(rates, "cart")[["units", "exposed"]].tolist() == [2, 3]
    assert row_of(rates, "view", WEEK_2)[["units", "exposed"]].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("every", "periods", "views"),
    [
        ("D", [f"2024-01-{day:02}" for day in range(1, 15) if day != 2], [3, 0, 0, 0, 0, 0, 1, *[0] * 6]),
        ("W", ["2024-01-01", "2024-01-08"], [3, 1]),
        ("M", ["2024-01-01"], [4]),
    ],
)
def test_measure_rates_by_day_week_and_month(
    log: EventLog, plan: Plan, every: str, periods: list[str], views: list[int]
) -> None:
    # Entries by day: four on the 1st (dan's 20h too), ann's purchase on the 2nd.
    table = measure_rates(log, plan, every=every).table
    rows = table[table["conversion"] == "view"]
    rows = rows[rows["period"] != pd.Timestamp("2024-01-02")]
    assert rows["period"].astype(str).tolist() == periods
    assert rows["units"].tolist() == views


def weeks(*views: int, size: int = 40, event: str = "view", more: str = "") -> str:
    """Write weeks of 40 units each, of whom some view (or do another event); the data end on the last Sunday."""
    parts = []
    for number, did in enumerate(views):
        start = 168 * number
        parts.append(repeat(f"w{number}a", did, f"visit {start}h{more}", f"{event} {start + 1}h{more}"))
        parts.append(repeat(f"w{number}b", size - did, f"visit {start}h{more}"))
    return "".join(parts) + f"w0b0 visit {168 * len(views) - 0.5}h{more}\n"


def test_measure_rates_sets_a_period_against_the_one_before(small_plan: Plan) -> None:
    table = measure_rates(make_log(weeks(10, 30), small_plan), small_plan).table
    views = table[table["conversion"] == "view"]
    # The unit that ends the data enters the second week too: 30 of 41.
    np.testing.assert_allclose(views["value"], [10 / 40, 30 / 41])
    np.testing.assert_allclose(views["previous"], [np.nan, 10 / 40])
    np.testing.assert_allclose(views["change"], [np.nan, 30 / 41 - 10 / 40])
    assert views["change_q_value"].iloc[1] < 0.001
    # The others stayed at nothing: no change to test.
    assert table.loc[table["conversion"] != "view", "change"].tolist()[2:] == [0, 0]


def test_measure_rates_sees_a_change_from_nobody_to_everybody(small_plan: Plan) -> None:
    rows = weeks(0, 40) + "w0b0 view 334h\n"
    row = row_of(measure_rates(make_log(rows, small_plan), small_plan), "view", WEEK_2)
    assert (row["previous"], row["value"]) == (0, 1)
    assert row["change_q_value"] < 0.001


def test_measure_rates_finds_no_change_where_there_is_none(small_plan: Plan) -> None:
    table = measure_rates(make_log(weeks(20, 20), small_plan), small_plan).table
    assert not (table["change_q_value"] < 0.5).any()


@pytest.mark.parametrize(
    ("shift", "end", "notes"),
    [
        (0, 335.5, ["", ""]),  # Monday to the second Sunday
        (26, 335.5, ["partial period", ""]),  # from Tuesday on
        (0, 300, ["", "partial period"]),  # until the second Saturday
        (0, 329, ["", "partial period"]),  # until the second Sunday at 17:00
        (0, 330, ["", ""]),
    ],
    ids=["whole", "begins late", "ends early", "no evening", "an evening"],
)
def test_measure_rates_marks_what_the_data_cut(small_plan: Plan, shift: float, end: float, notes: list[str]) -> None:
    rows = repeat("a", 40, f"visit {shift}h") + repeat("b", 40, "visit 170h") + f"z visit {end}h"
    rates = measure_rates(make_log(rows, small_plan), small_plan)
    views = rates.table[rates.table["conversion"] == "view"]
    assert views["note"].tolist() == notes
    assert views["change"].isna().tolist() == [True, notes != ["", ""]]
    whole = [period for period, note in zip((WEEK_1, WEEK_2), notes, strict=True) if not note]
    assert rates.latest["period"].unique().tolist() == whole[-1:]


def test_measure_rates_marks_what_the_chosen_dates_cut(small_plan: Plan) -> None:
    log = make_log(weeks(20, 20, 20), small_plan).between("2024-01-03", "2024-01-19")
    notes = measure_rates(log, small_plan).table.drop_duplicates("period")[["period", "note"]]
    # The dates cut the first week; the third ends on the 21st.
    assert pick(notes, "period note") == [
        (WEEK_1, "partial period"),
        (WEEK_2, ""),
        (pd.Timestamp("2024-01-15"), "partial period"),
    ]


def test_measure_rates_says_too_few(log: EventLog, plan: Plan) -> None:
    row = row_of(measure_rates(log, plan), "view")
    assert (row["status"], row["note"]) == ("too few", "n = 5, needs 30")


@pytest.mark.parametrize(
    ("event", "did", "status"),
    [
        ("buy", 13, "met"),  # 32.5% against 30%
        ("buy", 12, "met"),  # exactly 30%
        ("buy", 11, "missed"),
        ("error", 10, "met"),  # 25% against at most 25%
        ("error", 11, "missed"),
        ("view", 24, ""),  # 60% is inside 60 to 90%
        ("view", 23, "outside benchmark"),
        ("view", 37, "outside benchmark"),
    ],
)
def test_measure_rates_gives_a_status_by_direction(small_plan: Plan, event: str, did: int, status: str) -> None:
    rows = weeks(did, event=event) + "zed visit 200h\nzed visit 335h"
    row = row_of(measure_rates(make_log(rows.replace("w0b0 visit 167.5h\n", ""), small_plan), small_plan), event)
    assert row[["units", "exposed"]].tolist() == [did, 40]
    assert row["status"] == status


def test_measure_rates_uses_the_devices_own_benchmark(small_plan: Plan) -> None:
    rows = weeks(20, more=" device_type=mobile") + weeks(20, more=" device_type=desktop").replace("w0", "d0")
    table = measure_rates(make_log(rows, small_plan), small_plan, by="device_type").table
    views = table[table["conversion"] == "view"]
    assert pick(views, "device_type benchmark_low benchmark_high status") == [
        ("desktop", 0.6, 0.9, "outside benchmark"),
        ("mobile", 0.4, 0.55, ""),
    ]


def test_measure_rates_keeps_the_devices_benchmark_off_the_macros_value(tmp_path: Path) -> None:
    text = """
macros:
  - id: buy
    match: {event_name: buy}
    value: {column: value}
    currency: USD
    benchmark: {low: 0.1, high: 0.2, by: {device_type: {mobile: {low: 0.05, high: 0.1}}}}
"""
    plan = make_plan(tmp_path, text)
    rows = weeks(2, event="buy", more=" device_type=mobile value=90")
    table = measure_rates(make_log(rows, plan), plan, by="device_type").table
    assert pick(table.fillna(-1), "metric value benchmark_high status") == [
        ("rate", 2 / 40, 0.1, ""),
        ("sum of value", 180, -1, "too few"),  # two purchases say too little of how orders vary
    ]


def test_measure_rates_by_groups_sums_to_the_whole(plan: Plan) -> None:
    rows = write_rows(ROWS)
    rows = rows.assign(geo=rows["user_id"].map({"ann": "US", "bob": "DE", "cat": "US", "dan": "DE"}))
    log = make_log(rows, plan)
    whole, parts = measure_rates(log, plan), measure_rates(log, plan, by="geo")
    assert sorted(parts.table["geo"].unique()) == ["(none)", "DE", "US"]
    summed = parts.table.groupby(["period", "conversion", "metric"])[["units", "exposed"]].sum()
    expected = whole.table.set_index(["period", "conversion", "metric"])[["units", "exposed"]]
    pd.testing.assert_frame_equal(summed.sort_index(), expected.sort_index())
    assert (
        parts.takeaways == ("No period of segment all is complete and has units yet.",)
        or "By geo" in parts.takeaways[0]
    )


def test_measure_rates_agrees_with_the_funnel(log: EventLog, plan: Plan) -> None:
    # cart over view within two days of the view, for all who enter with a view.
    funnel = cv.measure_funnel(log, ["view", "cart"], window="2D").table
    rates = measure_rates(log, plan, entry="view", window="2D", every="M")
    row = rates.table[rates.table["conversion"] == "cart"].iloc[0]
    assert row[["exposed", "units"]].tolist() == funnel["units"].tolist()


def test_measure_rates_of_an_empty_segment_has_columns_and_says_so(log: EventLog, plan: Plan) -> None:
    rates = measure_rates(log.segment({"user_id": "nobody"}), plan)
    assert tuple(rates.table.columns) == COLUMNS
    assert len(rates.table) == 0
    assert rates.takeaways == ("No period of segment custom is complete and has units yet.",)


def test_measure_rates_does_not_depend_on_order_or_names(plan: Plan) -> None:
    rows = write_rows(ROWS)
    kept = rows.copy()
    first = measure_rates(make_log(rows, plan), plan).table
    changed = rows.assign(user_id="x" + rows["user_id"].str[::-1]).sample(frac=1, random_state=5)
    pd.testing.assert_frame_equal(first, measure_rates(make_log(changed, plan), plan).table)
    pd.testing.assert_frame_equal(rows, kept)


def test_measure_rates_refuses_an_unknown_period(log: EventLog, plan: Plan) -> None:
    with pytest.raises(cv.ParamError) as caught:
        measure_rates(log, plan, every="Q")
    assert str(caught.value) == "`every` is 'Q'; it must be one of 'D', 'W', 'M' (day, week, month)."


def test_measure_rates_refuses_a_window_that_is_no_duration(log: EventLog, plan: Plan) -> None:
    with pytest.raises(cv.ParamError) as caught:
        measure_rates(log, plan, window="7 days")
    assert str(caught.value) == (
        "`window` is '7 days'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'. "
        "Did you mean '7D'?"
    )


def test_measure_rates_uses_the_segments_own_benchmark(tmp_path: Path) -> None:
    text = """
macros:
  - id: buy
    match: {event_name: buy}
    benchmark: {low: 0.1, high: 0.2, by: {device_type: {mobile: {low: 0.3, high: 0.4}}}}
"""
    own = make_plan(tmp_path, text)
    rows = "ann visit 0h device_type=mobile\nbob visit 1h device_type=desktop\nbob buy 2h\nann visit 167h"
    log = make_log(rows, own)
    whole, mobile = (measure_rates(each, own).table.iloc[0] for each in (log, log.segment({"device_type": "mobile"})))
    assert (whole["benchmark_low"], whole["benchmark_high"]) == (0.1, 0.2)
    assert (mobile["benchmark_low"], mobile["benchmark_high"]) == (0.3, 0.4)


def test_measure_rates_refuses_another_plan_than_the_logs(log: EventLog, tmp_path: Path) -> None:
    other = make_plan(tmp_path, "macros:\n  - {id: buy, match: {event_name: view}}\n")
    with pytest.raises(ParamError) as caught:
        measure_rates(log, other)
    assert str(caught.value) == (
        "The log was read with another plan, so it lacks this one's conversions. Use read_events(..., plan=plan)."
    )
