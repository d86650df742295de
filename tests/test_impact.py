import dataclasses
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from small_logs import make_log, make_plan, pick, repeat
from statsmodels.stats.power import NormalIndPower

import convlib as cv
from convlib.correlation import Correlation, correlate
from convlib.errors import ParamError
from convlib.impact import COLUMNS, TEST_COLUMNS, Impact, score_impact
from convlib.measured import MeasuredEffect
from convlib.plan import Plan
from convlib.sizes import least_moves, size_rates
from convlib.stats import fieller_interval

PLAN = """
macros:
  - id: buy
    match: {event_name: buy}
    value: {column: value}
    currency: USD
    micros:
      - {id: save, match: {event_name: save}, stage: decision, kind: secondary_action, target: 0.5, effort: 4,
         owner: web}
      - {id: read, match: {event_name: read}, stage: awareness, kind: secondary_action}
      - {id: form, match: {event_name: form}, stage: decision, kind: process_milestone, target: 0.2}
      - {id: error, match: {event_name: error}, stage: decision, kind: secondary_action, target: 0.1, direction: down}
      - {id: cart, match: {event_name: cart}, stage: decision, kind: process_milestone, target: 0.9,
         metric: {type: rate, over: form}}
"""
#: Exact lifts: shrinking does not move them, so opportunities can be worked out by hand.
TINY = 1e-6
Rows = list[tuple[str, float, int, int, int, int]]
Make = Callable[..., Correlation]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, PLAN)


@pytest.fixture
def make(plan: Plan) -> Make:
    log = make_log("ann visit 0h\nann save 1h\nann buy 30h value=5\nann visit 10D", plan)
    base = correlate(log, plan, macro="buy", exposure="1D", horizon="2D")

    def build(
        rows: Rows, *, error: float = TINY, verdicts: tuple[str, ...] = (), value: float = 50.0, units: int = 0
    ) -> Correlation:
        """Make a correlation of micro, adjusted lift, units with, units without, could, did."""
        names = ["micro", "adjusted_lift", "units_with", "units_without", "could", "did"]
        frame = pd.DataFrame(rows, columns=names)
        table = frame.assign(
            verdict=list(verdicts) or "positive",
            note="",
            stage="decision",
        )
        return dataclasses.replace(
            base,
            table=table.reindex(columns=base.table.columns),
            followed=frame[["micro", "could", "did"]].assign(
                units=units or frame["could"], converted=frame["could"] // 10
            ),
            errors=pd.Series(error, index=frame["micro"]),
            value_per_conversion=value,
            entries_per_day=100.0,
        )

    return build


def row_of(impact: Impact, micro: str) -> pd.Series:
    return impact.table.set_index("micro").T[micro]


# lift, with, without, could, did -> units that reaching the target would add
@pytest.mark.parametrize(
    ("micro", "lift", "counts", "added"),
    [
        ("save", 0.10, (300, 700, 1000, 300), 200),  # target 50% of 1,000 less 300
        ("save", 0.10, (600, 400, 1000, 600), 0),  # target met
        ("read", 0.02, (300, 700, 1000, 300), 30),  # no target: 10% more of 300
        ("error", -0.05, (200, 800, 1000, 200), -100),  # down: from 200 to 100 of 1,000
        ("error", -0.05, (50, 950, 1000, 50), 0),  # down: met
        ("cart", 0.10, (120, 880, 200, 120), 60),  # 90% of the 200 that could, less 120
    ],
    ids=["target", "met", "no target", "down", "down met", "over"],
)
def test_score_impact_works_out_the_opportunity(
    plan: Plan, make: Make, micro: str, lift: float, counts: tuple[int, int, int, int], added: int
) -> None:
    # A second micro with as exact a lift keeps the prior honest.
    other = "form" if micro != "form" else "read"
    impact = score_impact(make([(micro, lift, *counts), (other, 0.07, 300, 700, 1000, 300)]), plan)
    row = row_of(impact, micro)
    assert row["score"] == pytest.approx(lift * 50, rel=1e-4)
    assert row["opportunity"] == pytest.approx(lift * 50 * added, rel=1e-4, abs=1e-9)
    assert (row["units_with"], row["value_per_conversion"]) == (counts[0], 50)
    could, did = counts[2:]
    assert row["reach"] == (did if micro == "error" else could - did)


def test_score_impact_waits_for_the_units_that_could_do_it(plan: Plan, make: Make) -> None:
    # 200 of 2,000 followed units could: of 100 entries a day ten are of use.
    row = row_of(score_impact(make([("cart", 0.10, 120, 1880, 200, 120)], units=2_000), plan), "cart")
    assert row["days_to_test"] == np.ceil(row["sample_size_to_test"] / 10)


def test_score_impact_has_one_row_a_micro_ranked_by_opportunity(plan: Plan, make: Make) -> None:
    rows: Rows = [
        ("read", 0.02, 300, 700, 1000, 300),  # 0.02 * 50 * 30 = 30
        ("save", 0.10, 300, 700, 1000, 300),  # 0.10 * 50 * 200 = 1,000
        ("form", 0.07, 100, 900, 1000, 100),  # precondition: no rank
        ("error", -0.05, 200, 800, 1000, 200),  # -0.05 * 50 * -100 = 250
        ("cart", 0.10, 120, 880, 200, 120),  # 0.10 * 50 * 60 = 300
    ]
    verdicts = ("positive", "positive", "precondition", "negative", "no evidence")
    impact = score_impact(make(rows, verdicts=verdicts), plan)
    assert tuple(impact.table.columns) == COLUMNS
    assert impact.table["micro"].tolist() == ["save", "cart", "error", "read", "form"]
    assert impact.table["rank"].tolist()[:4] == [1, 2, 3, 4]
    assert impact.table["rank"].isna().tolist() == [False] * 4 + [True]
    np.testing.assert_allclose(impact.table["opportunity"], [1000, 300, 250, 30, np.nan], rtol=1e-3)
    assert (impact.macro, impact.worth, impact.segment) == ("buy", "USD", "all")


def test_score_impact_gives_effort_its_share(plan: Plan, make: Make) -> None:
    impact = score_impact(make([("save", 0.10, 300, 700, 1000, 300), ("read", 0.02, 300, 700, 1000, 300)]), plan)
    assert row_of(impact, "save")["opportunity_per_effort"] == pytest.approx(1000 / 4, rel=1e-4)
    assert np.isnan(row_of(impact, "read")["opportunity_per_effort"])
    assert pick(impact.table, "micro owner")[0] == ("save", "web")
    assert row_of(impact, "read")["owner"] == ""


def test_score_impact_says_how_probably_each_is_in_the_top_3(plan: Plan, make: Make) -> None:
    rows: Rows = [
        ("save", 0.10, 300, 700, 1000, 300),
        ("read", 0.02, 300, 700, 1000, 300),
        ("form", 0.07, 100, 900, 1000, 100),
        ("error", -0.05, 200, 800, 1000, 200),
        ("cart", 0.00, 120, 880, 200, 120),
    ]
    table = score_impact(make(rows), plan).table.set_index("micro")
    # Without any doubt: 1,000, 350, 250, then 30 and 0.
    assert table.loc[["save", "form", "error"], "probability_top_3"].tolist() == [1, 1, 1]
    assert table.loc[["read", "cart"], "probability_top_3"].tolist() == [0, 0]
    doubtful = score_impact(make(rows, error=0.03), plan).table["probability_top_3"]
    assert doubtful.between(0, 1).all()
    assert doubtful.sum() <= 3
    assert 0 < doubtful.iloc[-1] < 1 or doubtful.iloc[-1] == 0


def test_impact_shows_no_probability_as_certain_that_is_not(plan: Plan, make: Make) -> None:
    impact = score_impact(make(SAVE), plan)
    doubtful = dataclasses.replace(impact, table=impact.table.assign(probability_top_3=[0.99995, 1.0]))
    page = doubtful._repr_html_()
    assert (page.count("&gt;99%"), page.count(">100%<")) == (1, 1)


def test_score_impact_leaves_unranked_micros_unknown(plan: Plan, make: Make) -> None:
    rows: Rows = [("save", 0.10, 300, 700, 1000, 300), ("form", 0.2, 3, 997, 1000, 3)]
    row = row_of(score_impact(make(rows, verdicts=("positive", "too few")), plan), "form")
    unknown = ["lift", "score", "score_ci_lower", "opportunity", "opportunity_ci_upper", "probability_top_3"]
    assert row[unknown].isna().all()
    assert pd.isna(row["rank"])
    assert row["verdict"] == "too few"


def test_score_impact_shrinks_what_is_uncertain(plan: Plan, make: Make) -> None:
    rows: Rows = [("save", 0.10, 300, 700, 1000, 300), ("read", 0.02, 300, 700, 1000, 300)]
    row = row_of(score_impact(make(rows, error=0.05), plan), "save")
    assert 0 <= row["lift"] < 0.10
    assert row["score_ci_lower"] <= row["score"] <= row["score_ci_upper"]
    assert row["score"] == pytest.approx(row["lift"] * 50, rel=1e-12)


def test_score_impact_says_how_large_a_test_must_be(plan: Plan, make: Make) -> None:
    # From 300 to 500 of 1,000, two-sided 5%, power 80%; the variances are 0.21 and 0.25.
    arm = NormalIndPower().solve_power(effect_size=0.2 / np.sqrt(0.23), alpha=0.05, power=0.8, ratio=1)
    impact = score_impact(make([("save", 0.10, 300, 700, 1000, 300), ("form", 0.02, 300, 700, 1000, 300)]), plan)
    row = row_of(impact, "save")
    assert row["sample_size_to_test"] == 2 * np.ceil(arm)
    assert row["days_to_test"] == np.ceil(2 * np.ceil(arm) / 100)
    assert row_of(impact, "form")[["sample_size_to_test", "days_to_test"]].isna().all()  # met: no move to find


def test_score_impact_counts_conversions_without_a_value(plan: Plan, make: Make) -> None:
    row = row_of(score_impact(make([("save", 0.10, 300, 700, 1000, 300)], value=np.nan), plan), "save")
    assert row["value_per_conversion"] == 1
    assert row["opportunity"] == pytest.approx(0.10 * 200, rel=1e-4)


def test_score_impact_is_the_same_each_time(plan: Plan, make: Make) -> None:
    rows: Rows = [("save", 0.10, 300, 700, 1000, 300), ("read", 0.02, 300, 700, 1000, 300)]
    first, second = (score_impact(make(rows, error=0.05), plan).table for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_score_impact_of_no_usable_micro_ranks_nothing(plan: Plan, make: Make) -> None:
    impact = score_impact(make([("save", np.nan, 3, 4, 7, 3)], verdicts=("too few",)), plan)
    assert impact.table["rank"].isna().all()
    assert impact.takeaways[0] == "Segment all has too few units or conversions to judge any micro-conversion."


def test_score_impact_takes_the_lifts_errors_whatever_the_correlations_confidence(plan: Plan) -> None:
    rows = (
        repeat("a", 20, "visit 0h", "save 1h", "buy 30h value=5")
        + repeat("b", 20, "visit 0h", "save 1h")
        + repeat("c", 5, "visit 0h", "buy 30h value=5")
        + repeat("d", 35, "visit 0h")
        + "end visit 10D"
    )
    log = make_log(rows, plan)
    wide, usual = (
        score_impact(correlate(log, plan, macro="buy", exposure="1D", horizon="2D", confidence=level), plan).table
        for level in (0.8, 0.95)
    )
    pd.testing.assert_frame_equal(wide, usual)


@pytest.fixture(scope="module")
def shop_impact() -> tuple[pd.DataFrame, cv.Impact]:
    log, plan, truth = cv.simulate_shop(units=20_000, seed=1)
    return truth, score_impact(correlate(log, plan, macro="purchase", adjust=["device_type", "medium"]), plan)


def test_score_impact_ranks_the_shop_as_planted(shop_impact: tuple[pd.DataFrame, cv.Impact]) -> None:
    truth, impact = shop_impact
    table = impact.table.merge(truth, on="micro")
    planted = table[table["planted"].isin(["positive", "negative"])].sort_values("true_lift")
    assert planted["score"].is_monotonic_increasing
    # What is planted comes before every null; preconditions and followers have no rank.
    ranks = table.groupby("planted")["rank"]
    assert set(table.loc[table["rank"] <= 4, "planted"]) == {"positive", "negative"}
    assert ranks.count()[["precondition", "follows"]].tolist() == [0, 0]
    nulls = table[table["planted"] == "null"]
    assert (nulls["score"].abs() < planted["score"].abs().min()).all()
    assert (nulls["probability_top_3"] < 0.05).all()


SAVE: Rows = [("save", 0.10, 300, 700, 1000, 300), ("read", 0.02, 300, 700, 1000, 300)]


@pytest.mark.parametrize(
    ("goal", "added", "note"),
    [(0.4, 100, "goal: 40.0%"), (1.0, 700, "goal: 100.0%"), (0.2, 0, "goal: 20.0%"), (0, 0, "goal: 0.0%")],
)
def test_impact_at_another_goal_changes_what_depends_on_it(
    plan: Plan, make: Make, goal: float, added: int, note: str
) -> None:
    impact = score_impact(make(SAVE, error=0.03), plan)
    row, before = row_of(impact.at(save=goal), "save"), row_of(impact, "save")
    assert row["opportunity"] == pytest.approx(row["score"] * added)
    assert row["opportunity_ci_upper"] == pytest.approx(row["score_ci_upper"] * added)
    assert row["note"] == note
    same = ["lift", "score", "score_ci_lower", "score_ci_upper", "reach", "units_with", "verdict"]
    assert row[same].tolist() == before[same].tolist()


def test_impact_at_ranks_and_words_anew_and_keeps_earlier_goals(plan: Plan, make: Make) -> None:
    impact = score_impact(make(SAVE), plan)
    moved = impact.at(read=0.9).at(save=0.31)
    assert (impact.table["micro"].iloc[0], moved.table["micro"].iloc[0]) == ("save", "read")
    assert moved.goals == {"read": 0.9, "save": 0.31}
    assert row_of(moved, "read")["opportunity"] == pytest.approx(0.02 * 50 * 600, rel=1e-3)
    assert moved.takeaways[0].startswith("Rank 1, Read: reaching 90.0% would go with 600 more USD")
    assert moved._repr_html_().count("Opportunity, USD") == moved._repr_html_().count("one more unit, USD") == 1
    assert moved.tests["micro"].tolist() == ["read", "save"]
    pd.testing.assert_frame_equal(impact.at(save=0.5).table.drop(columns="note"), impact.table.drop(columns="note"))


def test_impact_at_names_every_wrong_goal(plan: Plan, make: Make) -> None:
    with pytest.raises(ParamError) as caught:
        score_impact(make(SAVE), plan).at(sav=0.2, save=12, read=np.nan, form=True)
    assert caught.value.problems == (
        "`sav` is no micro-conversion of `buy`; its micro-conversions are 'save', 'read', 'form', 'error', 'cart'. "
        "Did you mean 'save'?",
        "The goal of `save` is 12; it must be a share from 0 to 1.",
        "The goal of `read` is nan; it must be a share from 0 to 1.",
        "The goal of `form` is True; it must be a share from 0 to 1.",
    )


def test_score_impact_moves_more_units_where_direction_is_not_about_doing_it(tmp_path: Path, make: Make) -> None:
    # Carts are to be abandoned less often, not to be opened less often.
    text = PLAN.replace("metric: {type: rate, over: form}", "metric: {type: abandonment}, direction: down")
    row = row_of(score_impact(make([("cart", 0.10, 120, 880, 200, 120)]), make_plan(tmp_path, text)), "cart")
    assert row["opportunity"] == pytest.approx(0.10 * 50 * 12, rel=1e-4)
    assert (row["reach"], row["note"]) == (80, "goal: a tenth more")


CLEAR = MeasuredEffect("read", 0.05, 0.01, 0.02, 0.004, name="teaser")


def test_score_impact_takes_a_clearly_measured_ratio_in_the_lifts_place(plan: Plan, make: Make) -> None:
    plain, impact = (score_impact(make(SAVE, error=0.03), plan, measured=each) for each in ((), [CLEAR]))
    row = row_of(impact, "read")
    low, high = fieller_interval((0.02, 0.004), (0.05, 0.01))
    assert (row["lift"], row["verdict"]) == (pytest.approx(0.4), "measured")
    assert row[["score", "score_ci_lower", "score_ci_upper"]].tolist() == pytest.approx([20, 50 * low, 50 * high])
    assert row[["opportunity", "opportunity_ci_lower", "opportunity_ci_upper"]].tolist() == pytest.approx(
        [20 * 30, 50 * low * 30, 50 * high * 30]
    )
    assert row["note"] == (
        "measured in teaser, assuming that the change acts on Buy only through it; goal: a tenth more"
    )
    pd.testing.assert_series_equal(
        row_of(impact, "save").drop(["rank", "probability_top_3"]),
        row_of(plain, "save").drop(["rank", "probability_top_3"]),
    )


def test_score_impact_ranks_a_precondition_that_was_measured(plan: Plan, make: Make) -> None:
    impact = score_impact(make(SAVE, verdicts=("positive", "precondition")), plan, measured=[CLEAR])
    assert pick(impact.table, "rank micro verdict") == [(1, "save", "positive"), (2, "read", "measured")]
    assert impact.table["probability_top_3"].gt(0.99).all()


def test_score_impact_keeps_the_association_where_the_test_says_too_little(plan: Plan, make: Make) -> None:
    weak = MeasuredEffect("read", 0.01, 0.01, 0.02, 0.004)
    plain, impact = (score_impact(make(SAVE, error=0.03), plan, measured=each) for each in ((), [weak]))
    pd.testing.assert_frame_equal(impact.table.drop(columns="note"), plain.table.drop(columns="note"))
    assert row_of(impact, "read")["note"] == "tested, inconclusive; goal: a tenth more"
    assert impact.takeaways == plain.takeaways


def test_score_impact_says_what_an_experiment_caused(plan: Plan, make: Make) -> None:
    said = score_impact(make(SAVE), plan, measured=[CLEAR]).takeaways
    assert said[1] == (
        "Rank 2, Read: a tenth more units doing it would bring 600 more USD (331 to 1,087) among the 1,000 units "
        "followed, who entered over 1 day, by the effect that an experiment caused, if that came only through it; in "
        "the top 3 with probability 100%."
    )
    assert said[3].startswith("Test Save first: ")
    assert said[-1] == (
        "Apart from what experiments measured, these are associations in observed events; only a randomised test can "
        "show what a change causes."
    )


def test_score_impact_refuses_measured_rates_beside_lifts_in_value(plan: Plan, make: Make) -> None:
    in_value = dataclasses.replace(make(SAVE), target="value")
    with pytest.raises(ParamError) as caught:
        score_impact(in_value, plan, measured=[CLEAR])
    assert str(caught.value) == (
        "`measured` has effects on how many convert, the lifts are in value. Correlate with target='conversion'."
    )
    with pytest.raises(ParamError, match="`raed` is no micro-conversion of `buy`"):
        score_impact(make(SAVE), plan, measured=[dataclasses.replace(CLEAR, micro="raed")])
    with pytest.raises(ParamError, match="`confidence` is 95"):
        score_impact(make(SAVE), plan, confidence=95)


def test_score_impact_takes_lifts_in_value_as_they_are(plan: Plan, make: Make) -> None:
    impact = score_impact(dataclasses.replace(make(SAVE), target="value"), plan)
    row = row_of(impact, "save")
    assert (row["value_per_conversion"], impact.worth) == (1, "USD")
    assert row["opportunity"] == pytest.approx(0.10 * 200, rel=1e-4)
    assert impact.tests["macro_sample_size"].isna().all()


def test_impact_plans_the_tests_of_the_first_three(plan: Plan, make: Make) -> None:
    rows: Rows = [
        ("save", 0.10, 300, 700, 1000, 300),
        ("form", 0.07, 100, 900, 1000, 100),
        ("error", -0.05, 200, 800, 1000, 200),
        ("read", 0.02, 300, 700, 1000, 300),
    ]
    tests = score_impact(make(rows), plan).tests
    assert tuple(tests.columns) == TEST_COLUMNS
    assert pick(tests, "rank micro baseline_rate goal_rate") == [
        (1, "save", 0.3, 0.5),
        (2, "form", 0.1, 0.2),
        (3, "error", 0.2, 0.1),
    ]
    first = tests.iloc[0]
    # 100 of the 1,000 that could convert, and the macro moves by a tenth of the 20 points: from 10% to 12%.
    assert first[["macro_rate", "macro_effect"]].tolist() == pytest.approx([0.1, 0.02], rel=1e-4)
    assert first["macro_sample_size"] == pytest.approx(size_rates([0.1], [0.12])[0], rel=1e-3)
    assert first["macro_days"] == np.ceil(first["macro_sample_size"] / 100)
    # 100 units a day in two arms.
    assert first["detectable_2_weeks"] == least_moves([0.3], [0.5], [1_400])[0]
    assert first["detectable_4_weeks"] == least_moves([0.3], [0.5], [2_800])[0]
    assert tests["detectable_2_weeks"].iloc[2] < 0


def test_impact_shows_tests_and_says_how_long_the_macro_would_take(plan: Plan, make: Make) -> None:
    impact = score_impact(make(SAVE), plan)
    assert impact.takeaways[4:-1] == (
        "To show Buy itself move by the +2.0 points that this predicts would take 7,678 units, about 77 days of "
        "entries.",
    )
    page = impact.show_tests()._repr_html_()
    for shown in ("Rate now", "30.0%", "Units to test the macro", "7,678", "+2.0 pts"):
        assert shown in page
    # 182 units in two arms find the micro's move, at 100 a day.
    cells = page.split("<tbody>")[1].split("</tr>")[0]
    assert [cells.count(f">{days}<") for days in (2, 77)] == [1, 1]


def test_plan_test_says_of_a_micro_what_the_table_says_and_guards_the_macro(plan: Plan, make: Make) -> None:
    impact = score_impact(make([("save", 0.10, 300, 700, 1000, 300), ("cart", 0.10, 120, 1880, 200, 120)]), plan)
    planned, row = impact.plan_test("save"), row_of(impact, "save")
    assert pick(planned.table, "role conversion metric units_measured value effect margin note") == [
        ("primary", "save", "rate", 1000, 0.3, pytest.approx(2 / 3), pytest.approx(np.nan, nan_ok=True), ""),
        ("guardrail", "buy", "rate", 1000, 0.1, pytest.approx(np.nan, nan_ok=True), 0.05, ""),
    ]
    first = planned.table.iloc[0]
    assert first["units_needed"] == row["sample_size_to_test"] == 182
    assert (first["days_needed"], row["days_to_test"]) == (7, 2)  # a test takes a week at least
    # The table of tests has points: 0.3 times the relative change.
    tests = impact.tests.set_index("micro").T["save"]
    assert 0.3 * first["detectable_2_weeks"] == pytest.approx(tests["detectable_2_weeks"], rel=1e-9)
    assert 0.3 * first["detectable_4_weeks"] == pytest.approx(tests["detectable_4_weeks"], rel=1e-9)
    # The macro, 10%: (z + z)^2 0.09 (1 + 0.95^2), over the square of 0.005, in each of two arms.
    assert planned.units == 2 * np.ceil(2.801585**2 * 0.09 * (1 + 0.95**2) / 0.005**2)
    assert (planned.per_day, planned.follow_up, planned.shares) == (100, "3D", (0.5, 0.5))


def test_plan_test_follows_the_goals_and_waits_for_the_units_that_could(plan: Plan, make: Make) -> None:
    rows: Rows = [("cart", 0.10, 120, 1880, 200, 120), ("error", -0.05, 200, 800, 1000, 200)]
    impact = score_impact(make(rows, units=2_000), plan)
    assert impact.plan_test("cart").per_day == 10  # 200 of 2,000
    assert impact.plan_test("error").table["effect"].iloc[0] == pytest.approx(-0.5)  # 20% to 10%
    assert impact.at(error=0.18).plan_test("error").table["effect"].iloc[0] == pytest.approx(-0.1)
    met = impact.at(error=0.2).plan_test("error")
    assert np.isnan(met.units)
    assert met.takeaways == (
        "Error can't be planned: its goal of 20.0% is met, 20.0% of 1,000 units do it now; give another, such as "
        '`impact.at(error=0.18).plan_test("error")`.',
    )


def test_plan_test_says_that_the_target_of_the_plan_is_met_and_how_to_go_on(plan: Plan, make: Make) -> None:
    impact = score_impact(make([("save", 0.10, 960, 40, 1000, 960)]), plan)
    note = impact.plan_test("save").table["note"].iloc[0]
    assert note == (
        "its target of 50.0% is met, 96.0% of 1,000 units do it now; give another, such as "
        '`impact.at(save=0.98).plan_test("save")`'
    )
    assert np.isfinite(impact.at(save=0.98).plan_test("save").units)


def test_plan_test_refuses_what_makes_no_sense(plan: Plan, make: Make) -> None:
    impact = score_impact(make(SAVE), plan)
    with pytest.raises(ParamError) as caught:
        impact.plan_test("safe", margin=5, arms=1)
    assert caught.value.problems == (
        "`safe` is no micro-conversion of `buy`; its micro-conversions are 'save', 'read', 'form', 'error', 'cart'. "
        "Did you mean 'save'?",
        "`margin` is 5; it must be a tolerated worsening above 0 and below 1, such as 0.05 for 5%. Did you mean 0.05?",
        "`arms` is 1; it must be a whole number, at least 2: the control is one of them.",
    )


def test_impact_plans_no_test_without_an_opportunity(plan: Plan, make: Make) -> None:
    rows: Rows = [
        ("save", 0.10, 300, 700, 1000, 300),
        ("form", 0.07, 300, 700, 1000, 300),  # met
        ("read", -0.02, 300, 700, 1000, 300),  # more of it would go with less
        ("error", -0.05, 200, 800, 1000, 200),  # too few to be ranked
    ]
    impact = score_impact(make(rows, verdicts=("positive", "positive", "negative", "too few")), plan)
    assert impact.tests["micro"].tolist() == ["save"]
    assert row_of(impact, "error")[["sample_size_to_test", "days_to_test"]].isna().all()


def test_score_impact_names_the_days_over_which_the_units_entered(plan: Plan) -> None:
    rows = (
        repeat("a", 40, "visit 0h", "save 1h", "buy 30h value=5")
        + repeat("b", 40, "visit 5D", "save 5.1D")
        + repeat("c", 40, "visit 2D", "buy 4D value=5")
        + repeat("d", 120, "visit 2D")
        + repeat("open", 9, "visit 8.5D")
        + "end visit 10D"
    )
    correlation = correlate(make_log(rows, plan), plan, macro="buy", exposure="1D", horizon="2D")
    said = score_impact(correlation, plan).takeaways[0]
    # From 1 to 6 January; who entered on the 9th can't be followed to the end.
    assert "among the 240 units followed, who entered over 6 days, if" in said


def turn(correlation: Correlation, *others: tuple[str, float]) -> Correlation:
    """Make the second opinion, with other verdicts and lifts in the same order."""
    verdicts, lifts = zip(*others, strict=True)
    table = correlation.table.assign(verdict=verdicts, adjusted_lift=lifts, note="like another")
    return dataclasses.replace(correlation, table=table, model="regression")


def test_score_impact_notes_where_all_together_say_something_else(plan: Plan, make: Make) -> None:
    correlation = make([*SAVE, ("form", 0.07, 100, 900, 1000, 100)])
    second = turn(correlation, ("no evidence", -0.016), ("positive", 0.004), ("too few", np.nan))
    impact = score_impact(correlation, plan, second_opinion=second)
    said = "no evidence when all micro-conversions are looked at together (-1.6 pts)"
    faded = "only +0.4 pts when all micro-conversions are looked at together (+2.0 pts alone)"
    assert pick(impact.table, "micro note") == [
        ("save", said),
        ("form", "like another when all micro-conversions are looked at together"),
        ("read", f"{faded}; goal: a tenth more"),
    ]
    assert impact.takeaways[0].endswith(f"; in the top 3 with probability 100%; {said}.")
    assert impact.takeaways[2].endswith(f"; in the top 3 with probability 100%; {faded}.")
    pd.testing.assert_frame_equal(
        impact.table.drop(columns="note"), score_impact(correlation, plan).table.drop(columns="note")
    )
    # An experiment says more than either.
    measured = score_impact(correlation, plan, second_opinion=second, measured=dataclasses.replace(CLEAR, micro="save"))
    assert row_of(measured, "save")["note"].startswith("measured in teaser")
    assert "together" not in measured.takeaways[0]


def test_score_impact_refuses_what_does_not_belong_together(tmp_path: Path, plan: Plan, make: Make) -> None:
    correlation = make(SAVE)
    with pytest.raises(ParamError) as caught:
        score_impact(correlation.table, "plan.yaml", second_opinion=plan)  # type: ignore[arg-type]
    assert caught.value.problems == (
        "`correlation` is of type DataFrame; it must be what `correlate` gives.",
        "`plan` is of type str; it must be what `read_plan` gives.",
        "`second_opinion` is of type Plan; it must be what `correlate` gives.",
    )
    other = make_plan(tmp_path, PLAN.replace("- id: buy", "- id: sell"))
    with pytest.raises(ParamError) as caught:
        score_impact(correlation, other, second_opinion=dataclasses.replace(correlation, macro="sell"))
    assert caught.value.problems == (
        "The plan has no macro `buy`, which the correlation is of; it has 'sell'. Give the plan that the correlation "
        "was made with.",
        "`second_opinion` has macro 'sell'; it must be 'buy'.",
        "`second_opinion` has model 'strata'; it must be 'regression'.",
    )


def test_impact_of_nothing_usable_has_no_tests_and_draws(plan: Plan, make: Make) -> None:
    impact = score_impact(make([("save", np.nan, 3, 4, 7, 3)], verdicts=("too few",)), plan)
    assert tuple(impact.tests.columns) == TEST_COLUMNS
    assert len(impact.tests) == 0
    title = " ".join(impact.plot_values().get_title(loc="left").split())
    assert title == "No micro-conversion has a goal still to reach (all)"


def test_plot_values_draws_each_from_now_over_its_goal(plan: Plan, make: Make) -> None:
    rows: Rows = [
        ("save", 0.10, 300, 700, 1000, 300),
        ("form", 0.07, 300, 700, 1000, 300),  # met: no line
        ("error", -0.05, 200, 800, 1000, 200),
    ]
    impact = score_impact(make(rows, error=0.01), plan)
    figure = impact.plot_values().get_figure(root=True)
    assert figure is not None
    panels = [ax for ax in figure.axes if ax.axison]
    assert [" ".join(ax.get_title(loc="left").split()) for ax in panels] == [
        "1. Save (n = 300)",
        "2. Error (n = 200)",
    ]
    for ax, micro, rates in zip(panels, ("save", "error"), ([0.3, 0.5, 0.6], [0.2, 0.1, 0.05]), strict=True):
        row = row_of(impact, micro)
        np.testing.assert_allclose(np.asarray(ax.lines[0].get_xdata(), float), rates)
        np.testing.assert_allclose(
            np.asarray(ax.lines[0].get_ydata(), float), row["opportunity"] * np.array([0, 1, 1.5])
        )
        band = ax.collections[0].get_paths()[0].get_extents()
        assert (band.y0, band.y1) == pytest.approx(
            (min(0, 1.5 * row["opportunity_ci_lower"]), 1.5 * row["opportunity_ci_upper"])
        )


def test_plot_values_on_given_axes_draws_the_first_and_stops_at_everybody(plan: Plan, make: Make) -> None:
    axes = plt.subplots()[1]
    assert score_impact(make(SAVE), plan).at(save=0.9).plot_values(axes) is axes
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_xdata(), float), [0.3, 0.9, 1.0])
    assert axes.get_ylabel() == "USD"


def test_plot_effort_without_efforts_draws_the_opportunity_alone(tmp_path: Path, plan: Plan, make: Make) -> None:
    free = make_plan(tmp_path, PLAN.replace(" effort: 4,", ""))
    with_effort, without = (score_impact(make(SAVE), each).plot_effort() for each in (plan, free))
    assert with_effort.get_xlabel().startswith("effort")
    assert without.get_title(loc="left") == score_impact(make(SAVE), free).plot().get_title(loc="left")


def test_plot_marks_what_was_measured(plan: Plan, make: Make) -> None:
    impact = score_impact(make(SAVE), plan, measured=[CLEAR])
    label = " ".join(impact.plot().get_xlabel().split())
    assert label == "USD at its goal, with 95% interval; grey, hatched: no evidence; green: measured in an experiment"
