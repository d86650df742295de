"""Experiments read from logs and from tables of units: effects, checks and decisions, against scipy and pandas."""

import datetime as dt
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from small_logs import make_log, make_plan, pick

import convlib as cv
from convlib.errors import EventDataError, ParamError
from convlib.events import EventLog
from convlib.experiment import Experiment, analyse_experiment, measure_experiments
from convlib.measured import MeasuredEffect
from convlib.plan import Plan

PLAN = """
macros:
  - id: buy
    match: {event_name: buy}
    micros:
      - {id: save, match: {event_name: save}, stage: decision, kind: process_milestone}
      - {id: view, match: {event_name: view}, stage: awareness, kind: process_milestone}
experiments:
  - id: form
    name: Form test
    assignment: {match: {event_name: seen}, column: arm}
    arms: [old, new]
    start: 2024-01-01
    end: 2024-01-14
    window: 7D
    minimum: {days: 14, units: 200}
    primary: save
    guardrails: [{conversion: buy, margin: 0.5}]
    MORE
"""
Make = Callable[..., tuple[EventLog, Plan]]


def write_units(saves: tuple[int, int], buys: tuple[int, int], *, units: int = 200, days: int = 14) -> pd.DataFrame:
    """Write a log in which so many of each arm's units save, and so many buy, an hour after they were assigned."""
    rows = []
    for arm, saved, bought in zip(("old", "new"), saves, buys, strict=True):
        for number in range(units):
            seen = pd.Timestamp("2024-01-01 08:00") + pd.Timedelta(days=number % days)
            events = [
                ("seen", 0),
                *([("save", 1)] if number < saved else []),
                *([("buy", 2)] if number < bought else []),
            ]
            rows += [(f"{arm}{number}", name, seen + pd.Timedelta(hours=hour), arm) for name, hour in events]
    return pd.DataFrame(rows, columns=["user_id", "event_name", "timestamp", "arm"])


def ends_on(frame: pd.DataFrame, day: str) -> pd.DataFrame:
    """Cut a log at the beginning of a day, at which something is seen."""
    last = pd.DataFrame({"user_id": ["zoe"], "event_name": ["view"], "timestamp": [pd.Timestamp(day)]})
    return pd.concat([frame[frame["timestamp"] < day], last], ignore_index=True)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_both(frame: pd.DataFrame, *, more: str = "", day: str = "2024-01-22") -> tuple[EventLog, Plan]:
        plan = make_plan(tmp_path, PLAN.replace("MORE", more))
        return make_log(ends_on(frame, day), plan), plan

    return make_both


@cache
def shop() -> tuple[EventLog, Plan]:
    return cv.load_dataset("shop")


@cache
def shop_experiment(name: str) -> Experiment:
    return analyse_experiment(*shop(), name)


def test_analyse_experiment_agrees_with_pandas_and_scipy_on_the_shop() -> None:
    log, _ = shop()
    events = log.to_pandas()
    named = events[
        events["form_test"].notna() & events["timestamp"].between("2026-06-08", "2026-08-09 23:59:59.999999")
    ]
    first = (
        named.sort_values("timestamp").groupby("user_id").agg(entry=("timestamp", "first"), arm=("form_test", "first"))
    )
    joined = events.merge(first, left_on="user_id", right_index=True)
    followed = joined[joined["timestamp"].between(joined["entry"], joined["entry"] + pd.Timedelta("14D"))]
    is_purchase = followed["event_name"].isin(["purchase", "Order Completed"])
    units = first.assign(
        shipped=first.index.isin(followed.loc[followed["event_name"] == "add_shipping_info", "user_id"]),
        bought=first.index.isin(followed.loc[is_purchase, "user_id"]),
        revenue=followed[is_purchase].groupby("user_id")["value"].sum(),
    ).fillna({"revenue": 0.0})
    table = shop_experiment("checkout_form").table
    for row, column in ((0, "shipped"), (1, "bought"), (2, "revenue")):
        own, other = (units.loc[units["arm"] == arm, column].astype(float) for arm in ("short", "control"))
        wanted = scipy_stats.ttest_ind(own, other, equal_var=False)
        low, high = wanted.confidence_interval(0.95)
        found = table.iloc[row]
        assert (found["units"], found["units_control"]) == (len(own), len(other))
        np.testing.assert_allclose(found["p_value"], wanted.pvalue, rtol=1e-10)
        np.testing.assert_allclose([found["effect_ci_lower"], found["effect_ci_upper"]], [low, high], rtol=1e-10)


def test_analyse_experiment_finds_what_is_planted_in_the_shop() -> None:
    form, banner = shop_experiment("checkout_form"), shop_experiment("promo_banner")
    assert (form.decision, form.arm, form.reading) == ("ship", "short", "final")
    assert form.dates == (dt.date(2026, 6, 8), dt.date(2026, 8, 9))
    assert (banner.decision, banner.arm) == ("roll back", "")
    assert banner.table["status"].tolist()[:3] == ["better", "worse", "worse"]
    assert banner.rule.startswith("Shown worse than no change: Purchase completed ")


def test_analyse_experiment_ships_what_is_better_and_keeps_its_guardrail(make: Make) -> None:
    experiment = analyse_experiment(*make(write_units((60, 100), (50, 54))), "form")
    assert pick(experiment.table, "arm role conversion metric units value_control value effect status") == [
        ("new", "primary", "save", "rate", 200, 0.3, 0.5, 0.2, "better"),
        ("new", "guardrail", "buy", "rate", 200, 0.25, 0.27, pytest.approx(0.02), "within margin"),
    ]
    assert (experiment.decision, experiment.arm) == ("ship", "new")
    assert experiment.rule == "Save is shown better, and every guardrail keeps its limit."
    assert pick(experiment.assigned, "arm share assigned pending units") == [
        ("old", 0.5, 200, 0, 200),
        ("new", 0.5, 200, 0, 200),
    ]


@pytest.mark.parametrize(
    ("saves", "buys", "more", "day", "decision", "rule"),
    [
        (
            (60, 100),
            (90, 50),
            "",
            "2024-01-22",
            "roll back",
            "Shown worse than no change: Buy -44.4% (-59.3% to -26.9%).",
        ),
        ((60, 64), (50, 54), "", "2024-01-22", "no effect", "No difference in Save is shown."),
        (
            *((60, 100), (50, 50), "", "2024-01-12"),
            *("keep running", "Units followed to the end were assigned over 4 days; at least 14 are needed."),
        ),
        ((60, 100), (50, 36), "", "2024-01-22", "keep running", "It is not shown that Buy keeps its limit."),
        ((0, 4), (50, 50), "", "2024-01-22", "keep running", "Too few units or conversions to compare Save."),
    ],
)
def test_analyse_experiment_decides_by_the_first_rule_that_holds(
    make: Make, saves: tuple[int, int], buys: tuple[int, int], more: str, day: str, decision: str, rule: str
) -> None:
    experiment = analyse_experiment(*make(write_units(saves, buys), more=more, day=day), "form")
    assert (experiment.decision, experiment.arm) == (decision, "")
    assert experiment.rule.startswith(rule)


def test_analyse_experiment_shows_no_winner_of_an_invalid_test(make: Make) -> None:
    frame = write_units((60, 100), (50, 54))
    lost = frame[~frame["user_id"].isin([f"new{number}" for number in range(150, 200)])]
    experiment = analyse_experiment(*make(lost.pipe(lambda rows: rows[rows["user_id"] != "new0"])), "form")
    # 149 against 200 in equal shares: chi-square 7.45, p = 0.006, is not enough; 120 are.
    assert experiment.decision == "ship"
    lost = frame[~frame["user_id"].isin([f"new{number}" for number in range(120, 200)])]
    experiment = analyse_experiment(*make(lost), "form")
    assert (experiment.decision, experiment.arm) == ("invalid", "")
    assert experiment.table["status"].tolist() == ["invalid", "invalid"]
    assert not any("caused" in said for said in experiment.takeaways)
    assert experiment.measured is None


def test_analyse_experiment_is_final_once_the_last_window_is_over(make: Make) -> None:
    frame = write_units((60, 100), (50, 54))
    early = analyse_experiment(*make(frame, day="2024-01-20"), "form")
    late = analyse_experiment(*make(frame, day="2024-01-22"), "form")
    endless = make_plan_without_end(make, frame)
    assert [each.reading for each in (early, late, endless)] == ["running", "final", "running"]
    assert (early.assigned["pending"].sum(), late.assigned["pending"].sum()) == (56, 0)
    # An interval that may be looked at every day is wider than one that is read once.
    width = [float(each.table["effect_ci_upper"][0] - each.table["effect_ci_lower"][0]) for each in (endless, late)]
    assert width[0] > 1.4 * width[1]


def make_plan_without_end(make: Make, frame: pd.DataFrame) -> Experiment:
    _, plan = make(frame)
    path = Path(plan.path)
    path.write_text(path.read_text("utf-8").replace("    end: 2024-01-14\n", ""), encoding="utf-8")
    plan = cv.read_plan(path)
    return analyse_experiment(make_log(ends_on(frame, "2024-01-22"), plan), plan, "form")


def test_analyse_experiment_gives_the_effects_that_impact_takes(make: Make) -> None:
    measured = analyse_experiment(*make(write_units((60, 100), (50, 70))), "form").measured
    assert measured is not None
    # The first units save, and the first of these buy: in `old` 50 of the 60, in `new` 70 of the 100.
    saved = [np.arange(200) < count for count in (60, 100)]
    bought = [np.arange(200) < count for count in (50, 70)]
    spread = [np.cov(one, other) / 200 for one, other in zip(saved, bought, strict=True)]
    wanted = spread[0] + spread[1]
    assert (measured.micro, measured.name) == ("save", "Form test")
    assert measured.micro_effect == pytest.approx(0.2)
    assert measured.macro_effect == pytest.approx(0.1)
    assert measured.micro_error**2 == pytest.approx(wanted[0, 0])
    assert measured.macro_error**2 == pytest.approx(wanted[1, 1])
    assert measured.covariance == pytest.approx(wanted[0, 1])
    assert list(measured.find_problems()) == []


def test_measure_experiments_takes_what_is_over_and_valid(make: Make) -> None:
    frame = write_units((60, 100), (50, 70))
    log, plan = make(frame)
    found = measure_experiments(log.segment({"arm": "new"}), plan, "buy")
    # On everybody, whatever the segment.
    assert [(each.micro, round(each.micro_effect, 3)) for each in found] == [("save", 0.2)]
    assert measure_experiments(*make(frame, day="2024-01-20"), "buy") == []
    one_arm = frame[frame["arm"] == "old"]
    assert measure_experiments(*make(one_arm), "buy") == []


def test_measure_experiments_takes_the_latest_of_a_micro(tmp_path: Path) -> None:
    second = PLAN.split("experiments:\n")[1].replace("id: form", "id: later").replace("Form test", "Later test")
    text = (PLAN + second.replace("2024-01-14", "2024-01-15")).replace("    MORE\n", "")
    plan = make_plan(tmp_path, text)
    log = make_log(ends_on(write_units((60, 100), (50, 70)), "2024-01-23"), plan)
    assert [each.name for each in measure_experiments(log, plan, "buy")] == ["Later test"]


def test_measured_effects_replace_associations_in_impact() -> None:
    log, plan = shop()
    correlation = cv.correlate(log, plan, macro="purchase", adjust=["device_type", "medium"])
    impact = cv.score_impact(correlation, plan, measured=measure_experiments(log, plan, "purchase"))
    rows = impact.table.set_index("micro")
    assert rows.loc["add_shipping_info", "verdict"] == "measured"
    measured = shop_experiment("checkout_form").measured
    assert isinstance(measured, MeasuredEffect)
    assert rows.loc["add_shipping_info", "lift"] == pytest.approx(measured.ratio)


def test_analyse_experiment_names_columns_that_the_log_lacks(make: Make) -> None:
    frame = write_units((60, 100), (50, 54)).rename(columns={"arm": "arms"})
    log, plan = make(frame, more="segments: [devise_type]")
    with pytest.raises(ParamError) as error:
        analyse_experiment(log, plan, "form")
    columns = f"Its columns are {', '.join(log.filled_columns)}."
    assert [problem.removeprefix(str(Path(plan.path))) for problem in error.value.problems] == [
        f":9: the experiment 'form' reads the column `arm`, which the log does not have. "
        f"Did you mean 'arms'? {columns}",
        f":9: the experiment 'form' reads the column `devise_type`, which the log does not have. {columns}",
    ]


def test_analyse_experiment_names_the_nearest_experiment(make: Make) -> None:
    log, plan = make(write_units((60, 100), (50, 54)))
    with pytest.raises(ParamError) as error:
        analyse_experiment(log, plan, "from")
    assert str(error.value) == "`experiment` is 'from'; the plan's experiments are 'form'. Did you mean 'form'?"


def test_analyse_experiment_refuses_a_primary_that_nobody_does(make: Make) -> None:
    log, plan = make(write_units((0, 0), (50, 54)))
    with pytest.raises(EventDataError) as error:
        analyse_experiment(log, plan, "form")
    assert str(error.value) == (
        "None of the 400 units of 'Form test' adds anything to 'Save'. Check what it counts, or take another metric."
    )
    # While it is running that may still come.
    log, plan = make(write_units((0, 0), (50, 54)), day="2024-01-16")
    assert analyse_experiment(log, plan, "form").table["status"][0] == "too few"


def draw_units(size: int = 3_000, *, effect: float = 0.08, loss: float = 0.0, arms: int = 2) -> pd.DataFrame:
    """Units of arms `a` (control), `b`, ..., of which each later one does more signups, and brings in less."""
    rng = np.random.default_rng(21)
    arm = np.arange(size) % arms
    return pd.DataFrame(
        {
            "arm": np.array([*"abc"])[arm],
            "signup": (rng.random(size) < 0.2 + effect * arm).astype(int),
            "revenue": rng.gamma(4, 5, size) * (1 - loss * arm),
            "before": rng.gamma(4, 5, size),
            "device": rng.choice(["mobile", "desktop"], size),
            "entered": pd.Timestamp("2026-06-01") + pd.to_timedelta(rng.permutation(size) % 14, "D"),
        }
    )


def read_units(units: pd.DataFrame, **known: Any) -> Experiment:
    fields: dict[str, Any] = {"arm": "arm", "control": "a", "primary": "signup", "guardrails": {"revenue": 0.1}}
    return Experiment.from_units(units, **{**fields, **known})


def test_from_units_equals_scipy() -> None:
    units = draw_units()
    found = read_units(units)
    for (_, row), name in zip(found.table.iterrows(), ("signup", "revenue"), strict=True):
        treated, control = (units.loc[units["arm"] == arm, name] for arm in "ba")
        test = scipy_stats.ttest_ind(treated, control, equal_var=False)
        low, high = test.confidence_interval()
        known = [row["value"], row["value_control"], row["effect_ci_lower"], row["effect_ci_upper"], row["p_value"]]
        np.testing.assert_allclose(known, [treated.mean(), control.mean(), low, high, test.pvalue], rtol=1e-10)
    assert (found.decision, found.arm, found.reading, found.measured) == ("ship", "b", "final", None)
    assert found.rule == "signup is shown better, and every guardrail keeps its limit."


def test_from_units_rolls_back_what_hurts_a_guardrail_although_the_primary_is_up() -> None:
    # Revenue falls by 6%: within the limit of 10%, and shown to be worse than no change all the same.
    found = read_units(draw_units(loss=0.06))
    assert (found.decision, found.arm) == ("roll back", "")
    assert found.table["status"].tolist() == ["better", "worse"]
    assert found.table["relative_effect_ci_lower"][1] > -0.1


def test_from_units_ships_the_better_of_two_arms() -> None:
    found = read_units(draw_units(arms=3), segments=["device"])
    assert found.decisions["decision"].tolist() == ["ship", "ship"]
    assert found.arm == "c"


def test_from_units_is_wider_while_running() -> None:
    units = draw_units()
    final, running = (read_units(units, running=running).table for running in (False, True))
    np.testing.assert_allclose(final["effect"], running["effect"])
    assert (final["effect_ci_lower"] > running["effect_ci_lower"]).all()
    assert (final["p_value"] < running["p_value"]).all()


def test_from_units_knows_days_when_it_knows_times() -> None:
    found = read_units(draw_units(), entered="entered")
    assert found.dates == (dt.date(2026, 6, 1), dt.date(2026, 6, 14))
    assert found.decision == "ship"
    early = read_units(draw_units(), entered="entered", minimum_days=21)
    assert early.decision == "keep running"
    assert early.rule == "Units followed to the end were assigned over 14 days; at least 21 are needed."


def test_from_units_is_invalid_when_shares_are_not_those_planned() -> None:
    found = read_units(draw_units(), shares={"a": 0.6, "b": 0.4})
    assert (found.decision, found.arm) == ("invalid", "")
    assert found.validity["status"][0] == "failed"


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("size", [2, 3, 10, 61])
def test_from_units_says_too_few_of_a_handful(size: int, running: bool) -> None:
    units = draw_units(size).assign(signup=1)
    found = read_units(units, segments=["device"], covariates={"revenue": "before"}, running=running)
    assert found.table["status"].tolist()[0] == "too few"
    assert found.decision == "keep running"
    assert found.rule == f"{size} units were followed to the end; at least 1,000 are needed."


@pytest.mark.parametrize(
    "columns",
    [
        {"signup": 1},
        {"revenue": 5},
        {"before": 0},
        {"device": None},
        {"device": pd.Categorical(["mobile"] * 3_000, ["mobile", "tablet"])},
        {"device": np.arange(3_000) // 1_000},
    ],
    ids=["all did it", "no spread", "nothing before", "no groups", "one group", "numbers"],
)
@pytest.mark.parametrize("running", [False, True])
def test_from_units_survives_what_does_not_vary(columns: dict[str, Any], running: bool) -> None:
    units = draw_units().assign(**columns)
    found = read_units(units, segments=["device"], covariates={"revenue": "before"}, running=running)
    assert found.table["variance_reduction"].notna().sum() == (columns.keys() & {"revenue", "before"} == set())
    assert found.segments["group"].notna().all()
    assert found.decision == ("keep running" if "signup" in columns or "revenue" in columns else "ship")


def test_from_units_refuses_a_primary_that_nobody_did_once_it_is_over() -> None:
    units = draw_units().assign(signup=0)
    with pytest.raises(EventDataError) as error:
        read_units(units)
    assert str(error.value).startswith("None of the 3,000 units of 'Experiment' adds anything to 'signup'.")
    assert read_units(units, running=True).table["status"][0] == "too few"


def test_analyse_experiment_rolls_back_what_kills_the_macro(make: Make) -> None:
    experiment = analyse_experiment(*make(write_units((60, 120), (40, 0))), "form")
    assert (experiment.decision, experiment.table["status"].tolist()) == ("roll back", ["better", "worse"])


def test_analyse_experiment_shows_no_effect_of_an_invalid_test(make: Make) -> None:
    frame = write_units((60, 100), (50, 54))
    lost = frame[~frame["user_id"].isin([f"new{number}" for number in range(120, 200)])]
    experiment = analyse_experiment(*make(lost, more="segments: [device_type]"), "form")
    assert experiment.table[["value", "effect", "relative_effect", "p_value"]].isna().all(axis=None)
    assert [len(each) for each in (experiment.days, experiment.segments, experiment.factors)] == [0, 0, 0]
    assert experiment.table["units"].tolist() == [120, 120]
    for draw in (experiment.plot, experiment.plot_guardrails, experiment.plot_days, experiment.plot_segments):
        draw()


def test_analyse_experiment_of_a_segment_needs_no_minimum_of_its_own(make: Make) -> None:
    frame = write_units((60, 100), (50, 54)).assign(device_type="mobile")
    frame.loc[frame["user_id"].str[-1].isin(list("123456789")), "device_type"] = "desktop"
    log, plan = make(frame)
    small = analyse_experiment(log.segment({"device_type": "mobile"}), plan, "form")
    assert (int(small.assigned["units"].sum()), small.reading) == (40, "final")
    assert "waiting" not in set(small.validity["status"])
    assert small.next_steps[0].startswith("Decide by the page of all units.")


def test_analyse_experiment_of_a_segment_bears_an_empty_arm(make: Make) -> None:
    frame = write_units((60, 100), (50, 54)).assign(device_type="mobile")
    frame.loc[frame["arm"] == "new", "device_type"] = "desktop"
    log, plan = make(frame)
    found = analyse_experiment(log.segment({"device_type": "mobile"}), plan, "form")
    assert found.table["status"].tolist() == ["invalid", "invalid"]
    assert found.assigned["units"].tolist() == [200, 0]


def test_analyse_experiment_says_that_it_has_not_begun(make: Make) -> None:
    log, plan = make(write_units((60, 100), (50, 54)))
    early = make_log(pd.DataFrame({"user_id": ["zoe"], "event_name": ["buy"], "timestamp": ["2023-12-30"]}), plan)
    with pytest.raises(ParamError) as error:
        analyse_experiment(early, plan, "form")
    assert error.value.problems[0].partition("plan.yaml")[2] == (
        ":13: the experiment 'form' begins on 2024-01-01, after the end of the data, 2023-12-30. Wait for its data, or "
        "correct `start`."
    )
    assert measure_experiments(early, plan, "buy") == []
    assert len(measure_experiments(log, plan, "buy")) == 1


def test_analyse_experiment_counts_the_planned_days_of_a_finished_test(make: Make) -> None:
    frame = write_units((60, 100), (50, 54))
    # Nobody comes on the last day.
    shifted = frame[~frame["timestamp"].dt.strftime("%m-%d").eq("01-14")]
    experiment = analyse_experiment(*make(shifted), "form")
    weeks = experiment.validity.set_index("check").loc["whole weeks", "status"]
    assert (experiment.dates, weeks) == ((dt.date(2024, 1, 1), dt.date(2024, 1, 13)), "passed")


def test_analyse_experiment_measures_nothing_before_its_minimum(make: Make) -> None:
    log, plan = make(write_units((60, 100), (50, 70)))
    path = Path(plan.path)
    path.write_text(path.read_text("utf-8").replace("units: 200", "units: 20000"), encoding="utf-8")
    plan = cv.read_plan(path)
    log = make_log(ends_on(write_units((60, 100), (50, 70)), "2024-01-22"), plan)
    experiment = analyse_experiment(log, plan, "form")
    assert (experiment.decision, experiment.measured) == ("keep running", None)


def test_analyse_experiment_of_several_arms_measures_the_one_that_ships(tmp_path: Path) -> None:
    text = PLAN.replace("MORE", "").replace("arms: [old, new]", "arms: [old, new, third]")
    plan = make_plan(tmp_path, text)
    frame = write_units((60, 100), (50, 54))
    third = write_units((60, 64), (50, 50)).query("arm == 'new'").replace({"new": "third"})
    third["user_id"] = "third" + third["user_id"]
    log = make_log(ends_on(pd.concat([frame, third]), "2024-01-22"), plan)
    experiment = analyse_experiment(log, plan, "form")
    assert (experiment.decision, experiment.arm) == ("ship", "new")
    assert experiment.decisions["decision"].tolist() == ["ship", "no effect"]
    assert experiment.measured is not None
    assert experiment.measured.micro_effect == pytest.approx(0.2)
    harmless = frame.replace({"arm": {"new": "third", "third": "new"}})
    assert (
        analyse_experiment(
            make_log(
                ends_on(
                    pd.concat(
                        [harmless.query("arm == 'old'"), third, third.assign(arm="new", user_id="x" + third["user_id"])]
                    ),
                    "2024-01-22",
                ),
                plan,
            ),
            plan,
            "form",
        ).measured
        is None
    )


def test_analyse_experiment_of_visits_has_no_days(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, PLAN.replace("MORE", "unit: session"))
    frame = write_units((60, 120), (40, 42)).assign(session_id=lambda rows: rows["user_id"])
    experiment = analyse_experiment(make_log(ends_on(frame, "2024-01-22"), plan), plan, "form")
    assert (len(experiment.days), experiment.measured) == (0, None)
    assert pick(experiment.table.head(1), "value value_control status") == [(0.6, 0.3, "better")]


def read_headings(shown: str) -> list[str]:
    return re.findall(r"<th [^>]*>([^<]+)</th>", shown)


def test_experiment_shows_tables_that_fit_a_page() -> None:
    two, three = read_units(draw_units(), covariates={"revenue": "before"}), read_units(draw_units(arms=3))
    named = ["Metric", "Result", "Change", "Limit", "Arm / control", "Units", "p"]
    assert read_headings(two._repr_html_()) == named
    assert read_headings(three._repr_html_()) == [named[0], "Arm", *named[1:]]
    assert "keeps its limit" in two.show_guardrails()._repr_html_()
    assert "1,500 / 1,500" in two._repr_html_()
    assert "Values are adjusted by what units did before" in two._repr_html_()
    invalid = read_units(draw_units(), shares={"a": 0.6, "b": 0.4})
    assert read_headings(invalid._repr_html_()) == named[:-1]


def test_experiment_shows_the_effects_of_combined_factors(tmp_path: Path) -> None:
    arms = "factors: {form: [old, new], button: [grey, green]}"
    text = PLAN.replace(", column: arm}\n    arms: [old, new]", "}\n    " + arms).replace("    MORE\n", "")
    plan = make_plan(tmp_path, text)
    frame = write_units((60, 100), (50, 54))
    number = frame["user_id"].str.extract(r"(\d+)")[0].astype(int)
    both = frame.assign(form=frame["arm"], button=np.where(number // 14 % 2, "green", "grey"))
    experiment = analyse_experiment(make_log(ends_on(both, "2024-01-22"), plan), plan, "form")
    headings = read_headings(experiment._repr_html_())
    assert headings[-4:] == ["Effect of", "Metric", "Difference", "p"]
    assert "form: new x button: green" in experiment._repr_html_()


def test_from_units_shows_differences_where_there_is_no_ratio() -> None:
    arm = np.repeat(["old", "new"], 500)
    did = np.concatenate([np.arange(500) < 1, np.arange(500) < 30]).astype(int)
    units = pd.DataFrame({"arm": arm, "did": did, "paid": np.tile([0, 1, 2, 3], 250)})
    found = Experiment.from_units(units, arm="arm", control="old", primary="did", guardrails={"paid": 0.5})
    assert found.decision == "ship"
    assert found.takeaways[1].startswith("“new” caused did to rise: +5.8 pts (+3.7 pts to +7.9 pts); 6.0% (n = 500)")
    assert not [said for said in (*found.takeaways, *found.next_steps) if "nan" in said]
