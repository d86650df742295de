from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from convlib.errors import PlanError
from convlib.plan import Plan, read_plan
from convlib.plan_entries import Metric
from convlib.plan_experiments import Margin, Minimum, Outcome

#: Entries begin on line 9.
CONVERSIONS = """\
macros:
  - id: purchase
    match: {event_name: purchase}
    micros:
      - {id: cart, match: {event_name: cart}, stage: decision, kind: process_milestone}
      - {id: form, match: {event_name: form}, stage: decision, kind: process_milestone}
  - {id: visit, match: {event_name: visit}, losses: [{id: left, match: {event_name: left}}]}
experiments:
"""
SHORTEST = {
    "id": "test",
    "assignment": "{column: arm}",
    "arms": "[old, new]",
    "start": "2026-07-06",
    "primary": "form",
    "guardrails": "[{conversion: purchase, margin: 0.05}]",
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_plan(*entries: dict[str, str]) -> Path:
        path = tmp_path / "plan.yaml"
        listed = ["  - " + "\n    ".join(f"{key}: {value}" for key, value in each.items()) for each in entries]
        path.write_text(CONVERSIONS + "\n".join(listed) + "\n")
        return path

    return write_plan


def change(**fields: str | None) -> dict[str, str]:
    """Give the shortest experiment with other fields; None leaves one out."""
    return {key: value for key, value in {**SHORTEST, **fields}.items() if value is not None}


def find_problems(path: Path) -> list[str]:
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    return [each.removeprefix(f"{path}:") for each in caught.value.problems]


def test_an_experiment_has_defaults_for_what_need_not_be_said(write: Write) -> None:
    [found] = read_plan(write(SHORTEST)).experiments
    assert (found.name, found.unit, found.window, found.end) == ("Test", "user", "14D", None)
    assert found.minimum == Minimum(days=14, units=1000)
    assert (found.arm_names, found.shares) == (("old", "new"), (0.5, 0.5))
    assert found.primary == Outcome.model_construct(conversion="form", metric=Metric(type="rate"), direction=None)
    assert [each.margin for each in found.guardrails] == [Margin(relative=0.05)]
    assert (found.metrics, found.segments, found.factors) == ((), (), {})
    assert (found.exposure, found.pre_period, found.owner, found.notes) == (None, None, None, None)
    assert found.columns == {"arm"}


def test_an_experiment_keeps_all_that_is_said(write: Write) -> None:
    entry = change(
        name="Short form",
        assignment="{match: {event_name: seen, experiment: form}, column: variant}",
        arms="{old: 0.5, short: 0.3, shorter: 0.2}",
        unit="user",
        end="2026-08-16",
        window="7D",
        minimum="{days: 28, units: 2000}",
        primary="{conversion: form, metric: {type: time_between, from: cart}, direction: down}",
        guardrails="[{conversion: purchase, metric: {type: sum, column: paid}, margin: {absolute: 0.5}}]",
        metrics="[cart, {conversion: left, metric: rate}]",
        exposure="{page_path: /checkout}",
        pre_period="28D",
        segments="[device_type, geo]",
        owner="web-team",
        notes="Two fields less",
    )
    [found] = read_plan(write(entry)).experiments
    assert (found.arm_names, found.shares) == (("old", "short", "shorter"), (0.5, 0.3, 0.2))
    assert (found.start, found.end) == (date(2026, 7, 6), date(2026, 8, 16))
    assert (str(found.primary.metric), found.primary.direction) == ("time_between from cart", "down")
    assert found.guardrails[0].margin == Margin(absolute=0.5)
    assert [(each.conversion, str(each.metric)) for each in found.metrics] == [("cart", "rate"), ("left", "rate")]
    assert str(found.exposure) == "page_path = /checkout"
    columns = {"event_name", "experiment", "variant", "paid", "page_path", "device_type", "geo"}
    assert found.columns == columns


def test_factors_make_an_arm_of_each_combination_the_first_levels_together_the_control(write: Write) -> None:
    entry = change(arms=None, assignment=None, factors="{form: [old, new], button: [grey, green, red]}")
    [found] = read_plan(write(entry)).experiments
    assert found.arm_names == (
        *("old + grey", "old + green", "old + red"),
        *("new + grey", "new + green", "new + red"),
    )
    assert found.shares == pytest.approx((1 / 6,) * 6)
    assert found.columns == {"form", "button"}


@pytest.mark.parametrize(
    ("written", "names"),
    [("[0, 1]", ("0", "1")), ("[false, true]", ("false", "true")), ("{0: 0.9, 1: 0.1}", ("0", "1"))],
)
def test_arms_are_text_as_their_column_shows_it(write: Write, written: str, names: tuple[str, ...]) -> None:
    assert read_plan(write(change(arms=written))).experiments[0].arm_names == names


@pytest.mark.parametrize(
    "metric",
    [
        "rate",
        "per_unit",
        "sum",
        "mean",
        "{type: rate, over: cart}",
        "{type: time_between, from: cart}",
        "{type: follow_up, window: 7D}",
        "{type: abandonment, over: cart}",
        "{type: depth, of: interactions}",
        "{type: return_rate, window: 7D}",
    ],
)
def test_every_metric_may_be_compared(write: Write, metric: str) -> None:
    assert read_plan(write(change(primary=f"{{conversion: form, metric: {metric}}}"))).experiments


NO_MACRO = (
    "has no guardrail of a macro; an experiment without a guardrail on a macro-conversion can win while the outcome "
    "that pays falls. Name one under `guardrails`, such as {conversion: purchase, margin: 0.05}."
)
SIGN = "write the tolerated worsening as a positive share; which way is worse comes from the direction."
PRIMARY = "the primary is a micro, which the change is to move. Name a micro, and this under `guardrails`."
KNOWN = "it must be the id of a conversion of this plan."
COUNT = "it must be a whole number, at least 1."
ONE = "Give one of them: {absolute: 0.005}, or 0.02."


def margin(written: str) -> dict[str, str]:
    return {"guardrails": f"[{{conversion: purchase, margin: {written}}}]"}


@pytest.mark.parametrize(
    ("fields", "place", "text"),
    [
        ({"arms": "[new]"}, "arms", "is ['new']; there must be at least two arms, the control first."),
        ({"arms": "[a, b, a]"}, "arms[2]", "is 'a' once more; each may stand once. Remove one of them."),
        ({"arms": "[a, '']"}, "arms[1]", "is ''; it must be a value of the column."),
        ({"arms": "new"}, "arms", "is 'new'; it must be a list of at least two arms, the control first."),
        ({"arms": "{a: 1}"}, "arms", "is ['a']; there must be at least two arms, the control first."),
        ({"arms": "{a: 1, b: 0}"}, "arms.b", "is 0; an arm's share of the traffic must be a number above 0."),
        ({"arms": "{a: 1.5, b: -0.5}"}, "arms.b", "is -0.5; an arm's share of the traffic must be a number above 0."),
        (
            {"arms": "{a: 50, b: 50}"},
            "arms",
            "has shares that sum to 100; they must sum to 1. Correct them, or list the arms alone.",
        ),
        (
            {"assignment": None},
            "arms",
            "needs the column of the log that says which arm a unit is in. Add `assignment: {column: ...}`.",
        ),
        (
            {"arms": None},
            "",
            "has neither `arms`, with the column that says them, nor `factors`. Add `arms: [control, ...]` and "
            "`assignment: {column: ...}`.",
        ),
        (
            {"factors": "{form: [a, b]}"},
            "arms",
            "stands beside `factors`, whose levels make the arms. Remove one of the two.",
        ),
        (
            {"arms": None, "factors": "{form: [a, b]}"},
            "",
            "has `factors`, whose names are the columns to read, and 'arm' in `assignment`. Remove `column`.",
        ),
        ({"end": "2026-07-05"}, "end", "is '2026-07-05'; it must not be before `start`, 2026-07-06."),
        (
            {"end": "2026-07-18"},
            "end",
            "is '2026-07-18'; from `start` on these are 13 days, fewer than `minimum.days`, which is 14. Move `end`, "
            "or lower `minimum: {days: ...}`.",
        ),
        ({"minimum": "{days: 0}"}, "minimum.days", f"is 0; {COUNT}"),
        ({"minimum": "{units: 99.5}"}, "minimum.units", f"is 99.5; {COUNT}"),
        ({"primary": "purchase"}, "primary", f"is 'purchase', a macro; {PRIMARY}"),
        ({"primary": "left"}, "primary", f"is 'left', a loss; {PRIMARY}"),
        ({"primary": "fomr"}, "primary", f"is 'fomr'; {KNOWN} Did you mean 'form'?"),
        ({"exposure": "fomr"}, "exposure", f"is 'fomr'; {KNOWN} Did you mean 'form'?"),
        ({"metrics": "[cart, fomr]"}, "metrics[1]", f"is 'fomr'; {KNOWN} Did you mean 'form'?"),
        ({"metrics": "[cart, cart]"}, "metrics[1]", "is the rate of 'cart' once more. Remove one of them."),
        (
            {"primary": "{conversion: form, metric: {type: rate, over: form}}"},
            "primary.metric.over",
            "is 'form', the conversion itself; it must be another one.",
        ),
        (
            {"primary": "{conversion: form, metric: {type: churn, window: 7D}}"},
            "primary.metric",
            "is churn, and its macro has no `losses`, the events with which units leave.",
        ),
        ({"guardrails": None}, "", NO_MACRO),
        ({"guardrails": "[{conversion: cart, margin: 0.05}]"}, "guardrails", NO_MACRO),
        (
            {"guardrails": "[{conversion: purchase, margin: 0.05}, {conversion: purchase, margin: 0.1}]"},
            "guardrails[1]",
            "is the rate of 'purchase' once more. Remove one of them.",
        ),
        (
            {"guardrails": "[purchase]"},
            "guardrails[0]",
            "has no `margin`. Add `margin:` the tolerated worsening as a share of the control's value, such as 0.02.",
        ),
        (margin("-0.05"), "guardrails[0].margin", f"is -0.05; {SIGN} Did you mean 0.05?"),
        (margin("0"), "guardrails[0].margin", f"is 0; {SIGN}"),
        (
            margin("{absolute: -0.5}"),
            "guardrails[0].margin.absolute",
            f"is -0.5; {SIGN.replace('share', 'number')} Did you mean 0.5?",
        ),
        (
            margin("2"),
            "guardrails[0].margin",
            "is 2; a share of the control's value lies between 0 and 1. Did you mean 0.02?",
        ),
        (
            margin("{absolute: 3}"),
            "guardrails[0].margin.absolute",
            "is 3; the metric is a share, which lies between 0 and 1. Did you mean 0.03?",
        ),
        (margin("{}"), "guardrails[0].margin", f"has neither `relative` nor `absolute`. {ONE}"),
        (
            margin("{relative: 0.1, absolute: 0.1}"),
            "guardrails[0].margin",
            f"has both `relative` and `absolute`. {ONE}",
        ),
        ({"segments": "[geo, geo]"}, "segments[1]", "is 'geo' once more. Remove it."),
        ({"pre_period": "28"}, "pre_period", "is 28; it must be a number and one of the units s, min, h, D, W, such as "
         "'30min' or '7D'."),
        ({"arm": "[a, b]"}, "", "has an unknown field 'arm'; the fields are 'id', 'name', 'assignment', 'factors', "
         "'arms', 'unit', 'start', 'minimum', 'end', 'window', 'primary', 'guardrails', 'metrics', 'exposure', "
         "'pre_period', 'segments', 'owner', 'notes'. Did you mean 'arms'?"),
    ],
)  # fmt: skip
def test_one_wrong_thing_is_one_problem(write: Write, fields: dict[str, str | None], place: str, text: str) -> None:
    entry = change(**fields)
    name = f"experiments[test].{place}" if place else "experiments[test]"
    first = "arm" if "arm" in fields else place.split(".")[0].split("[")[0]
    line = 9 + list(entry).index(first) if first else 9
    assert find_problems(write(entry)) == [f"{line}: {name} {text}"]


def test_factors_need_two_levels_each(write: Write) -> None:
    entry = change(assignment=None, arms=None, factors="{form: [new], button: [grey, grey], font: big}")
    text = "the control first."
    assert find_problems(write(entry)) == [
        f"13: experiments[test].factors.form is ['new']; there must be at least two levels, {text}",
        "13: experiments[test].factors.button[1] is 'grey' once more; each may stand once. Remove one of them.",
        f"13: experiments[test].factors.font is 'big'; it must be a list of at least two levels, {text}",
    ]


def test_a_share_may_miss_one_by_rounding(write: Write) -> None:
    thirds = "{a: 0.3333333, b: 0.3333333, c: 0.3333333}"
    assert read_plan(write(change(arms=thirds))).experiments
    assert len(find_problems(write(change(arms="{a: 0.333, b: 0.333, c: 0.333}")))) == 1


def test_every_problem_of_every_experiment_is_listed_at_once(write: Write) -> None:
    first = change(arms="[a]", start="1", primary="purchase", guardrails="[{conversion: cart, margin: -1}]")
    second = change(id="test", window="x", unit="visit")
    problems = find_problems(write(first, second))
    assert [each.split(" ")[:3] for each in problems] == [
        ["11:", "experiments[test].arms", "is"],
        ["12:", "experiments[test].start", "is"],
        ["13:", "experiments[test].primary", "is"],
        ["14:", "experiments[test].guardrails[0].margin", "is"],
        ["15:", "experiments[test].id", "is"],
        ["21:", "experiments[test].window", "is"],
        ["22:", "experiments[test].unit", "is"],
    ]


def test_an_experiment_that_lasts_its_minimum_is_long_enough(write: Write) -> None:
    plan: Plan = read_plan(write(change(end="2026-07-19")))
    assert plan.experiments[0].end == date(2026, 7, 19)


def test_churn_may_guard_a_macro_that_units_can_leave(write: Write) -> None:
    guardrails = "[{conversion: visit, metric: {type: churn, window: 7D}, margin: 0.1}]"
    [found] = read_plan(write(change(guardrails=guardrails))).experiments
    assert str(found.guardrails[0].metric) == "churn within 7D"


def test_a_visit_has_no_time_before_it(write: Write) -> None:
    with pytest.raises(PlanError) as error:
        read_plan(write(change(unit="session", pre_period="28D")))
    assert error.value.problems[0].partition("pre_period is ")[2] == (
        "'28D'; a visit has no time before it. Remove it, or count users (`unit: user`)."
    )


def test_a_metric_stands_once_in_an_experiment(write: Write) -> None:
    entry = change(
        guardrails="[{conversion: purchase, margin: 0.05}, {conversion: form, margin: 0.1}]", metrics="[purchase, cart]"
    )
    with pytest.raises(PlanError) as error:
        read_plan(write(entry))
    assert [
        problem.partition("guardrails[1] ")[2] or problem.partition("metrics[0] ")[2]
        for problem in error.value.problems
    ] == [
        "is the rate of 'form', which is the primary. Remove it.",
    ]
    with pytest.raises(PlanError) as error:
        read_plan(write(change(metrics="[purchase, cart]")))
    assert [problem.partition("metrics[0] ")[2] for problem in error.value.problems] == [
        "is the rate of 'purchase', which the experiment has already. Remove it."
    ]
