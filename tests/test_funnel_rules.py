from collections.abc import Sequence

import pandas as pd
import pytest

from convlib.attempts import Rules
from convlib.conversions import Exclusion, Step
from convlib.errors import ParamError
from convlib.events import EventLog, read_events
from convlib.funnel import measure_funnel
from convlib.funnel_rules import check_kinds, read_rules

SECOND = 1_000_000
NAMES = ("view", "cart", "buy")
KNOWN = "the steps are 1 'view', 2 'cart', 3 'buy'."


@pytest.fixture(scope="module")
def log() -> EventLog:
    names = [*NAMES, "x"]
    return read_events(pd.DataFrame({"user_id": "a", "event_name": names, "timestamp": pd.Timestamp("2026-01-05")}))


def read(log: EventLog, options: dict[str, object], steps: Sequence[str] = NAMES) -> Rules:
    given: dict[str, object] = {
        **{"window": "7D", "order": "ordered", "anchor": "best", "exclude": [], "excluded": "stop_attempt"},
        **{"optional": [], "step_windows": None, "min_gap": None, "tie_tolerance": "0s", "first_time": False},
        **{"count": "uniques", "breakdown": "first_touch", "columns": []},
    }
    return read_rules(log, [Step(step) for step in steps], **given | options)  # type: ignore[arg-type]


def test_read_rules_of_the_defaults_are_default(log: EventLog) -> None:
    assert read(log, {}) == Rules((True, True, True), 7 * 86_400 * SECOND)
    assert read(log, {}).are_default
    assert read(log, {"first_time": True}).are_default


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        pytest.param({"exclude": [Exclusion("x")]}, "barred", ((0, 2),), id="an exclusion of the whole funnel"),
        pytest.param({"exclude": [Exclusion("x", 2, "buy")]}, "barred", ((1, 2),), id="steps by number and name"),
        pytest.param({"optional": ["cart"]}, "required", (True, False, True), id="an optional step by name"),
        pytest.param({"optional": [2]}, "required", (True, False, True), id="an optional step by number"),
        pytest.param({"step_windows": {"buy": "2s"}}, "step_windows", (2**62, 2**62, 2 * SECOND), id="a step window"),
        pytest.param({"min_gap": "1s"}, "gap", SECOND, id="a gap"),
        pytest.param({"tie_tolerance": "0.0min"}, "tolerance", 0, id="no tolerance"),
        pytest.param({"tie_tolerance": "2s"}, "tolerance", 2 * SECOND, id="a tolerance"),
        pytest.param({"count": "totals"}, "totals", True, id="totals"),
    ],
)
def test_read_rules_resolves_steps_and_durations(
    log: EventLog, options: dict[str, object], field: str, value: object
) -> None:
    rules = read(log, options)
    assert getattr(rules, field) == value
    assert not rules.are_default or field == "tolerance"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"order": "Ordred"},
            "`order` is 'Ordred'; it must be one of 'ordered', 'strict', 'unordered'. Did you mean 'ordered'?",
        ),
        ({"anchor": "last"}, "`anchor` is 'last'; it must be one of 'best', 'first'."),
        (
            {"excluded": "drop"},
            "`excluded` is 'drop'; it must be one of 'stop_attempt', 'drop_unit'. Did you mean 'drop_unit'?",
        ),
        (
            {"count": "total"},
            "`count` is 'total'; it must be one of 'uniques', 'totals', 'sessions'. Did you mean 'totals'?",
        ),
        (
            {"breakdown": "step:4"},
            "`breakdown` is 'step:4'; it must be one of 'first_touch', 'last_touch', or a step from 'step:1' "
            "to 'step:3'.",
        ),
        ({"window": "0D"}, "`window` is '0D'; it must be longer than zero, such as '30min' or '7D'."),
        (
            {"window": "-7D"},
            "`window` is '-7D'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'.",
        ),
        ({"min_gap": "0s"}, "`min_gap` is '0s'; it must be longer than zero, such as '30min' or '7D'."),
        (
            {"step_windows": {"buy": "1x"}},
            "`step_windows['buy']` is '1x'; it must be a number and one of the units s, min, h, D, W, such as"
            " '30min' or '7D'.",
        ),
        ({"step_windows": "1h"}, "`step_windows` is '1h'; it must map steps to durations, such as {2: '1h'}."),
        (
            {"step_windows": {1: "1h"}},
            "`step_windows` names the first step, which has no step before it; leave it out.",
        ),
        ({"optional": ["crat"]}, f"`optional` names 'crat', which is no step; {KNOWN} Did you mean 'cart'?"),
        ({"optional": [4]}, f"`optional` names step 4; {KNOWN}"),
        ({"optional": [1]}, "`optional` names the first step, which opens the window; leave it out of the funnel."),
        (
            {"exclude": [Exclusion("x", after=2, before=2)]},
            "The exclusion of 'x' is after step 2 and before step 2; `after` must name a step that comes "
            "before that of `before`.",
        ),
        (
            {"exclude": [Exclusion("x", after=3)]},
            "The exclusion of 'x' is after step 3 and before step 3; `after` must name a step that comes "
            "before that of `before`.",
        ),
        ({"exclude": [Exclusion("x", after=0)]}, f"The exclusion of 'x': `after` names step 0; {KNOWN}"),
        (
            {"exclude": [Exclusion("x", before=2)], "optional": [2]},
            "An exclusion begins or ends at step 2, which is optional; name a required step.",
        ),
        (
            {"excluded": "drop_unit"},
            "`excluded` is 'drop_unit' but `exclude` names no event; name one, or leave `excluded` out.",
        ),
        (
            {"excluded": "drop_unit", "exclude": [Exclusion("x")], "count": "totals"},
            "`excluded` 'drop_unit' drops units, so it can't go with `count` 'totals', which counts attempts.",
        ),
        (
            {"order": "strict", "optional": [2]},
            "`order` 'strict' allows nothing between steps, so it can't go with `optional`; leave one of them out.",
        ),
        (
            {"min_gap": "1s", "tie_tolerance": "1s"},
            "`min_gap` keeps steps apart, so it can't go with `tie_tolerance`; leave one of them out.",
        ),
        (
            {"order": "unordered", "exclude": [Exclusion("x", after=1)]},
            "`order` 'unordered' has no step before another, so it can't go with exclusions with `after` or "
            "`before`; leave one of them out.",
        ),
        (
            {"order": "unordered", "optional": [2]},
            "`order` 'unordered' has no step before another, so it can't go with `optional`; leave one of them out.",
        ),
    ],
)
def test_read_rules_refuses(log: EventLog, options: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError) as caught:
        read(log, options)
    assert str(caught.value) == message


def test_check_kinds_refuses_more_than_64_steps_and_exclusions() -> None:
    check_kinds(["view"] * 64, [], "user")
    with pytest.raises(ParamError) as caught:
        check_kinds(["view"] * 64, [Exclusion("cart")], "user")
    assert str(caught.value) == (
        "`steps` and `exclude` name 64 steps and 1 exclusions; a funnel has at most 64 together."
    )


def test_read_rules_refuses_an_optional_last_step(log: EventLog) -> None:
    with pytest.raises(ParamError) as caught:
        read(log, {"optional": [3]}, ["view", "cart", "buy"])
    assert str(caught.value) == (
        "`optional` names the last step, which everybody may reach or not; leave it out of it."
    )


def test_read_rules_asks_for_a_number_when_a_name_is_several_steps(log: EventLog) -> None:
    with pytest.raises(ParamError) as caught:
        read(log, {"optional": ["cart"]}, ["view", "cart", "cart", "buy"])
    assert str(caught.value) == (
        "`optional` names 'cart', which is several steps; say which by its number: "
        "1 'view', 2 'cart', 3 'cart', 4 'buy'."
    )


def test_measure_funnel_lists_every_problem_at_once(log: EventLog) -> None:
    with pytest.raises(ParamError) as caught:
        measure_funnel(log, ["view", "byu"], window="0s", hold="product", exclude=Exclusion("y"), optional="cart")
    known = "Known are buy, cart, view, x."
    unknown = "is neither a conversion of the plan nor an event of the log."
    columns = f"Its columns are {', '.join(log.filled_columns)}."
    assert caught.value.problems == (
        "`optional` names 'cart', which is no step; the steps are 1 'view', 2 'byu'.",
        "`window` is '0s'; it must be longer than zero, such as '30min' or '7D'.",
        f"The log has no column `product`. {columns}",
        f"`byu` {unknown} Did you mean 'buy'? {known}",
        f"`y` {unknown} {known}",
    )
