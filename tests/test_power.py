import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from small_logs import make_log, make_plan, pick

from convlib.errors import ParamError
from convlib.events import EventLog
from convlib.plan import Plan
from convlib.plan_entries import Metric
from convlib.plan_experiments import Guardrail, Margin, Outcome
from convlib.power import ExperimentPlan, plan_experiment

PLAN = """
macros:
  - id: buy
    name: Purchase
    match: {event_name: buy}
    value: {column: value}
    currency: USD
    micros:
      - {id: save, match: {event_name: save}, stage: decision, kind: secondary_action}
      - {id: error, match: {event_name: error}, stage: decision, kind: secondary_action, direction: down}
    losses:
      - {id: leave, match: {event_name: leave}}
experiments:
  - id: stars
    assignment: {match: {event_name: seen}, column: arm}
    arms: {control: 0.6, one: 0.2, two: 0.2}
    start: 2024-03-01
    window: 2D
    primary: {conversion: error, metric: per_unit}
    guardrails: [{conversion: buy, margin: {absolute: 0.01}}]
  - id: short
    assignment: {match: {event_name: never}, column: arm}
    arms: [control, new]
    start: 2024-03-01
    end: 2024-04-04
    primary: save
    guardrails: [{conversion: buy, margin: 0.5}]
  - id: later
    assignment: {match: {event_name: never}, column: arm}
    arms: [control, new]
    start: 2024-03-01
    primary: save
    guardrails: [{conversion: buy, margin: 0.1}]
"""
#: z(0.975) + z(0.8), from a table.
REACH = 1.959964 + 0.841621


def list_events() -> str:
    """Ten units enter a day for 40 days; of each ten 4 save, 2 buy for 10 and for 30, and 1 has two errors."""
    rows = []
    for day in range(40):
        for number in range(10):
            who = f"u{day}x{number}"
            rows += [f"{who} visit {day * 24 + 1}h", f"{who} save {day * 24 + 2}h" if number < 4 else ""]
            rows += [f"{who} buy {day * 24 + 3}h value={10 + 20 * number} currency=USD" if number < 2 else ""]
            rows += [f"{who} error {day * 24 + hour}h" for hour in (4, 5) if number == 9]
            rows += [f"{who} seen {day * 24 + 1.5}h arm=control" if number >= 5 else ""]
    return "\n".join(rows)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(tmp_path_factory.mktemp("plan"), PLAN)


@pytest.fixture(scope="module")
def log(plan: Plan) -> EventLog:
    return make_log(list_events(), plan)


def test_plan_experiment_measures_the_units_whose_window_is_over(log: EventLog, plan: Plan) -> None:
    planned = plan_experiment(log, plan, primary="save")
    # The last event is on day 39 at 5:00; who entered at 1:00 on day 25 or before is followed for 14 days: 26 x 10.
    rows = pick(planned.table, "role conversion metric units_measured value note")
    assert rows == [
        ("primary", "save", "rate", 260, 0.4, ""),
        ("guardrail", "buy", "rate", 260, 0.2, ""),
        ("guardrail", "buy", "sum of value", 260, 4.0, ""),  # 10 and 30 of each ten
    ]
    assert (planned.per_day, planned.follow_up, planned.shares) == (10, "14D", (0.5, 0.5))


def test_plan_experiment_needs_what_its_largest_metric_needs(log: EventLog, plan: Plan) -> None:
    planned = plan_experiment(log, plan, primary="save")
    save, buy, value = planned.table["units_needed"]
    assert save == 2 * np.ceil(REACH**2 * (0.4 * 0.6 + 0.44 * 0.56) / 0.04**2)
    assert buy == 2 * np.ceil(REACH**2 * 0.16 * (1 + 0.95**2) / 0.01**2)
    # Of each ten two have 10 and 30: the mean of squares is 100, so the variance 84 (260 / 259 of it in a sample).
    assert value == 2 * np.ceil(REACH**2 * 84 * 260 / 259 * (1 + 0.95**2) / 0.2**2)
    assert (planned.units, planned.days) == (value, np.ceil(value / 10))
    assert planned.takeaways[0] == (
        f"At 10 units a day, the test needs {value:,.0f} units in 2 arms: {planned.days:,.0f} days of assignment and "
        "14 days to follow the last of them."
    )


def test_plan_experiment_words_what_each_metric_needs(log: EventLog, plan: Plan) -> None:
    margin = Guardrail(conversion="buy", margin=Margin(relative=0.5))
    planned = plan_experiment(log, plan, primary="save", effect=1.0, guardrails=[margin], window="2D")
    # From 40% to 80%: (z + z)^2 (0.24 + 0.16) / 0.16 is 20 units, and an arm needs 30.
    arm = int(np.ceil(REACH**2 * 0.16 * (1 + 0.5**2) / 0.1**2))
    assert planned.takeaways == (
        f"At 10 units a day, the test needs {2 * arm} units in 2 arms: {np.ceil(2 * arm / 10):.0f} days of assignment "
        "and 2 days to follow the last of them.",
        "Rounded up to whole weeks, so that each weekday counts alike: 5 weeks of assignment.",
        f"{2 * arm} units are needed to show that Purchase, now 20.0% (n = 380), gets no worse by 50.0%, if nothing "
        "changes, with 80% power.",
        "60 units are needed to find a change of +100.0% of Save, now 40.0% (n = 380), with 80% power.",
        planned.takeaways[4],
    )
    shown = planned.table.iloc[0]
    two, four, eight = (shown[f"detectable_{weeks}_weeks"] for weeks in (2, 4, 8))
    assert planned.takeaways[4] == (
        "Change of Save that would be found by time of assignment: "
        f"{two:+.1%} in 2 weeks, {four:+.1%} in 4 weeks, {eight:+.1%} in 8 weeks."
    )


def test_plan_experiment_takes_everything_from_the_plan(log: EventLog, plan: Plan) -> None:
    planned = plan_experiment(log, plan, experiment="stars")
    # Five of each ten see it, one of these has two errors, and nobody of them buys.
    assert planned.per_day == 5
    assert planned.shares == (0.6, 0.2, 0.2)
    assert planned.follow_up == "2D"
    first, second = planned.table.to_dict("records")
    assert (first["metric"], first["value"], first["effect"]) == ("per_unit", 0.4, -0.1)
    assert (second["value"], second["note"]) == (0.0, "nobody did it")
    # Days 0 to 37 are over by day 39, 5:00, for who saw it at 1:30.
    assert first["units_measured"] == 190
    # A fifth has 2 errors: the variance is 0.64; in 0.6 and 0.2 of all, at Dunnett's level of three arms.
    assert first["units_needed"] > REACH**2 * 0.64 * 190 / 189 / 0.04**2 * (1 / 0.6 + 0.9**2 / 0.2)
    assert planned.units == first["units_needed"]
    assert "Purchase can't be planned: nobody did it." in planned.takeaways


def test_plan_experiment_plans_one_that_nobody_was_assigned_to_yet(log: EventLog, plan: Plan) -> None:
    planned = plan_experiment(log, plan, experiment="later")
    assert planned.per_day == 10
    assert planned.takeaways[-1] == "Nobody has been assigned yet, so these are numbers of all who entered."
    assert pick(planned.table, "role value margin") == [
        ("primary", 0.4, pytest.approx(np.nan, nan_ok=True)),
        ("guardrail", 0.2, 0.1),
    ]


def test_plan_experiment_says_what_would_make_it_shorter(log: EventLog, plan: Plan) -> None:
    """A value per unit with a margin of 5% needs most; then the primary; fewer arms are no way with two."""
    advice = "needs the most units: a wider margin of this guardrail would take less."
    assert f"Purchase: value per unit {advice}" in plan_experiment(log, plan, primary="save").takeaways
    loose = [Guardrail(conversion="buy", margin=Margin(relative=0.9))]
    two = plan_experiment(log, plan, primary="save", guardrails=loose).takeaways
    three = plan_experiment(log, plan, primary="save", guardrails=loose, arms=3).takeaways
    assert two[2] == "Save needs the most units: a larger change to find would take less."
    assert three[2] == "Save needs the most units: a larger change to find or fewer arms would take less."


def test_plan_experiment_says_when_the_planned_days_are_too_few(log: EventLog, plan: Plan) -> None:
    planned = plan_experiment(log, plan, experiment="short")
    # From 40% to 44%: (z + z)^2 (0.24 + 0.2464) / 0.04^2 is 2,386.1 in each arm, 4,774 at 10 a day.
    assert planned.days == 478
    assert planned.takeaways[2:4] == (
        "The plan has 35 days of assignment (`start` to `end`), 443 too few: move `end`, or ask for less.",
        "Save needs the most units: a larger change to find would take less.",
    )
    enough = plan_experiment(log, plan, experiment="short", effect=0.5)
    # To 60%: (z + z)^2 (0.24 + 0.24) / 0.2^2 is 94.2; of the guardrail 0.16 (1 + 0.5^2) / 0.1^2, 157 in an arm: 32 days
    # at 10 a day.
    assert enough.days == 32
    assert not [sentence for sentence in enough.takeaways if "too few" in sentence or "take less" in sentence]


def test_plan_experiment_starts_with_the_entry_that_is_named(log: EventLog, plan: Plan) -> None:
    planned = plan_experiment(log, plan, primary="save", entry="buy", window="1D")
    assert planned.per_day == 2
    assert planned.table["note"].tolist() == ["nobody did it", "0 did not do it, needs 5", ""]
    assert np.isnan(planned.units)
    assert planned.takeaways[0] == "Save can't be planned: nobody did it."


def test_plan_experiment_takes_outcomes_of_any_metric(log: EventLog, plan: Plan) -> None:
    primary = Outcome(conversion="save", metric=Metric(type="rate", over="buy"), direction="up")
    guardrail = Guardrail(conversion="buy", metric=Metric(type="mean"), margin=Margin(relative=0.1))
    table = plan_experiment(log, plan, primary=primary, guardrails=[guardrail, "buy", "leave"]).table
    # Everybody who buys saves; the mean purchase is 20; nobody leaves.
    assert pick(table, "metric value note") == [
        ("rate over buy", 1.0, "is not above zero, or does not vary"),
        ("mean of value", 20.0, ""),
        ("rate", 0.2, ""),
        ("rate", 0.0, "nobody did it"),
    ]
    # A fifth of all have a purchase of 20 and more or less 10: (0.2 x 100) / 0.2^2.
    size = REACH**2 * 500 * 260 / 259 * (1 + 0.9**2) / 2**2
    assert table["units_needed"].iloc[1] == 2 * np.ceil(size)


def test_plan_experiment_says_what_is_too_little(plan: Plan) -> None:
    rows = "\n".join(f"u{n} visit {n}h\nu{n} buy {n}h value=5" for n in range(20)) + "\nz visit 30D"
    planned = plan_experiment(make_log(rows, plan), plan, primary="save")
    assert planned.table["note"].tolist() == ["n = 20, needs 30"] * 3
    assert planned.table[["units_needed", "days_needed", "detectable_8_weeks"]].isna().all(axis=None)
    assert planned.curve.empty
    assert isinstance(planned.plot(), Axes)
    plt.close("all")


def test_plan_experiment_lists_all_that_is_wrong(log: EventLog, plan: Plan) -> None:
    with pytest.raises(ParamError) as caught:
        plan_experiment(
            log, plan, primary="buy", effect=10, guardrails=["leav"], arms=1, window="2 weeks", entry="vist", power=80
        )
    assert caught.value.problems == (
        "`effect` is 10; it must be a relative change above 0 and at most 1, such as 0.1 for 10%. Its direction is the "
        "plan's. Did you mean 0.1?",
        "`power` is 80; it must lie from 0.5 to below 1, such as 0.8.",
        "`arms` is 1; it must be a whole number, at least 2: the control is one of them.",
        "`primary` is 'buy'; it must be a micro of the plan: 'save', 'error'.",
        "`guardrails` has 'leav'; each must be a conversion of the plan or a `Guardrail` of one. Did you mean 'leave'?",
        "`window` is '2 weeks'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'. Did "
        "you mean '2W'?",
        "`vist` is neither a conversion of the plan nor an event of the log. Did you mean 'visit'? Known are buy, "
        "save, error, leave, seen, visit.",
    )


@pytest.mark.parametrize("effect", [0, -0.1, True, "10%"])
def test_plan_experiment_refuses_an_effect_that_is_none(log: EventLog, plan: Plan, effect: float) -> None:
    with pytest.raises(ParamError) as caught:
        plan_experiment(log, plan, primary="save", effect=effect)
    assert str(caught.value).startswith(f"`effect` is {effect!r}; it must be a relative change above 0")


def test_plan_experiment_refuses_guardrails_without_a_macro_and_a_primary_that_is_missing(
    log: EventLog, plan: Plan
) -> None:
    with pytest.raises(ParamError) as caught:
        plan_experiment(log, plan, guardrails=["save"])
    first, second = caught.value.problems
    assert first == "`primary` is missing; name the micro that the change is to move: 'save', 'error'."
    assert second.startswith("`guardrails` has no guardrail of a macro; an experiment without a guardrail")


def test_plan_experiment_refuses_to_be_told_twice(log: EventLog, plan: Plan) -> None:
    with pytest.raises(ParamError) as caught:
        plan_experiment(log, plan, experiment="star", primary="save", arms=3)
    assert caught.value.problems == (
        "`primary` is 'save', and the plan's experiment 'star' has its own. Remove one of the two.",
        "`arms` is 3, and the plan's experiment 'star' has its own. Remove one of the two.",
        "`experiment` is 'star'; the plan's experiments are 'stars', 'short', 'later'. Did you mean 'stars'?",
    )


def test_plan_experiment_refuses_a_period_without_traffic(log: EventLog, plan: Plan) -> None:
    with pytest.raises(ParamError) as caught:
        plan_experiment(log.where(event_name="save"), plan, primary="save", entry="buy")
    assert str(caught.value) == (
        "Nobody enters with `buy` from 2024-01-01 to 2024-02-09 in segment all, so there is no traffic to plan with. "
        "Choose other days, another segment or another `entry`."
    )


def test_experiment_plan_shows_and_draws_its_metrics(log: EventLog, plan: Plan) -> None:
    planned = plan_experiment(log, plan, primary="save")
    page = planned._repr_html_()
    for shown in ("Purchase: value per unit", "40.0%", "Units in all arms", "Shown in 8 w"):
        assert shown in page
    ax = planned.plot()
    assert [line.get_label() for line in ax.get_lines()][:3] == ["Save", "Purchase", "Purchase: value per unit"]
    assert ax.get_title(loc="left") == "How long does the test take? (all)"
    curve = planned.curve[planned.curve["conversion"] == "save"]
    np.testing.assert_allclose(np.asarray(ax.get_lines()[0].get_ydata(), float), curve["power"])
    plt.close("all")


def test_experiment_plan_has_its_columns_for_every_input(log: EventLog, plan: Plan) -> None:
    planned: ExperimentPlan = plan_experiment(log, plan, primary="save")
    weeks = planned.curve.groupby(["conversion", "metric"], sort=False)["weeks"].agg(list)
    assert [each == list(range(1, 27)) for each in weeks] == [True] * 3
    assert isinstance(planned.table, pd.DataFrame)
    assert (planned.curve.groupby(["conversion", "metric"])["power"].diff().dropna() > 0).all()
