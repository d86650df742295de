import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_logs import make_log, make_plan, pick

from convlib.errors import ParamError
from convlib.plan import Plan
from convlib.sequences import COLUMNS, NEVER, count_sequences, list_orders

PLAN = """\
macros:
  - id: buy
    match: {event_name: buy}
    micros:
      - {id: view, match: {event_name: view}, stage: awareness, kind: process_milestone}
      - {id: cart, match: {event_name: cart}, stage: decision, kind: process_milestone}
      - {id: help, match: {event_name: help}, stage: decision, kind: secondary_action}
    losses:
      - {id: gone, match: {event_name: leave}}
"""
#: Landmark after a day, horizon of two; ann and bob convert after it.
ROWS = """\
ann view 0h
ann cart 1h
ann view 2h
ann help 3h
ann buy 30h
bob cart 0h
bob view 1h
bob buy 71h
cid view 0h
cid cart 1h
cid help 25h
cid buy 73h
dan view 0h
dan cart 0h
eva view 0h
eva cart 1h
eva buy 2h
fay view 0h
fay cart 1h
fay leave 2h
gus view 240h
gus cart 241h
end visit 250h
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, PLAN)


def test_count_sequences_counts_orders_among_units_at_risk(plan: Plan) -> None:
    # cid's help and macro come too late, dan's two have no order, eva has converted, fay has left, gus is pending.
    table = count_sequences(make_log(ROWS, plan), plan, macro="buy", exposure="1D", horizon="2D")
    assert tuple(table.columns) == COLUMNS
    assert [row for row in table.itertuples(index=False, name=None) if row[3]] == [
        ("view", "cart", "", 2, 1, 1, 4, 2, 2),
        ("view", "help", "", 1, 1, 0, 1, 1, 0),
        ("cart", "view", "", 1, 1, 0, 4, 2, 2),
        ("cart", "help", "", 1, 1, 0, 1, 1, 0),
        ("view", "cart", "help", 1, 1, 0, 1, 1, 0),
    ]
    assert pick(table[table["third"] != ""], "units_any_order") == [(1,)] * 6


def test_count_sequences_takes_the_clock_of_the_plan(tmp_path: Path) -> None:
    clock = "    correlation: {entry: view, exposure: [1h, 1D], horizon: 2D}\n"
    timed = make_plan(tmp_path, PLAN + clock)
    found = count_sequences(make_log(ROWS, timed), timed, macro="buy")
    # From their view on: bob's cart came before.
    assert pick(found[found["third"] == ""], "first second units converted") == [
        ("view", "cart", 2, 1),
        ("view", "help", 1, 1),
        ("cart", "view", 0, 0),
        ("cart", "help", 1, 1),
        ("help", "view", 0, 0),
        ("help", "cart", 0, 0),
    ]


def test_count_sequences_of_nobody_is_empty(plan: Plan) -> None:
    table = count_sequences(make_log("a visit 0h\n", plan), plan, macro="buy")
    assert (len(table), tuple(table.columns)) == (0, COLUMNS)


def test_count_sequences_names_the_nearest_macro(plan: Plan) -> None:
    with pytest.raises(ParamError) as caught:
        count_sequences(make_log(ROWS, plan), plan, macro="buyy")
    assert caught.value.problems == ("`macro` is 'buyy'; the plan's macros are 'buy'. Did you mean 'buy'?",)


def test_list_orders_counts_what_looking_at_each_unit_finds() -> None:
    rng = np.random.default_rng(1)
    times = np.where(rng.random((300, 5)) < 0.4, NEVER, rng.integers(0, 6, (300, 5)))
    converted = rng.random(300) < 0.3
    names = list("abcde")
    found = {row[:3]: row[3:] for row in list_orders(times, converted, names).itertuples(index=False, name=None)}
    for size in (2, 3):
        for chosen in itertools.permutations(range(5), size):
            did = [all(row[k] < NEVER for k in chosen) for row in times]
            order = [all(row[a] < row[b] for a, b in itertools.pairwise(chosen)) for row in times]
            inside = [d and o for d, o in zip(did, order, strict=True)]
            expected = [
                sum(e and (w is None or c == w) for e, c in zip(each, converted, strict=True))
                for each in (inside, did)
                for w in (None, True, False)
            ]
            key = (*(names[k] for k in chosen), *[""] * (3 - size))
            assert found[key] == tuple(expected)


def test_list_orders_does_not_depend_on_the_order_of_units() -> None:
    rng = np.random.default_rng(2)
    times = rng.integers(0, 9, (50, 4))
    converted = rng.random(50) < 0.5
    turned = rng.permutation(50)
    first, second = (
        list_orders(times, converted, list("abcd")),
        list_orders(times[turned], converted[turned], list("abcd")),
    )
    pd.testing.assert_frame_equal(first, second)
