import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from small_logs import START, make_log, make_plan, pick, repeat, write_rows

from convlib.attribution import COLUMNS, Attribution, attribute
from convlib.datasets.load import simulate_shop
from convlib.errors import EventDataError, ParamError
from convlib.events import EventLog, read_events
from convlib.plan import Plan

PLAN = """\
macros:
  - id: buy
    name: Bought
    match: {event_name: [buy, own]}
    value: {column: value}
    micros:
      - {id: mail, name: Mail opened, match: {event_name: [mail, both]}, stage: awareness, kind: secondary_action}
      - {id: view, match: {event_name: [view, both, own]}, stage: awareness, kind: process_milestone}
      - {id: cart, match: {event_name: cart}, stage: decision, kind: process_milestone}
      - {id: wish, match: {event_name: wish}, stage: decision, kind: secondary_action}
  - id: join
    match: {event_name: join}
"""
#: The log of the docs; `far` closes all windows but eve's.
FIVE = """\
ann mail 0D
ann view 1D
ann cart 9D
ann buy 9D1h value=60.0
ann buy 10D value=40.0
bob mail 0D
bob view 31D
bob cart 32D
bob buy 33D value=20.0
cid view 2D
cid wish 3D
cid mail 40D
dan buy 5D value=10.0
eve view 95D
far visit 100D
"""
MODELS = ("first", "last", "linear", "time_decay", "position", "markov", "shapley")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, PLAN)


@pytest.fixture
def log(plan: Plan) -> EventLog:
    return make_log(FIVE, plan)


def credits(result: Attribution, model: str) -> dict[str, float]:
    return dict(zip(result.comparison["touch"], result.comparison[model], strict=True))


def test_attribute_counts_touches_since_the_macro_before_and_within_the_window(log: EventLog, plan: Plan) -> None:
    result = attribute(log, plan, macro="buy", model="linear")
    table = result.table.sort_values("touch")
    # ann's second purchase and dan's have no touch; bob's mail is 33 days old.
    assert pick(table, "touch touches units conversions value") == [
        ("(no touch)", 0, 2, 2.0, 50.0),
        ("cart", 2, 2, pytest.approx(1 / 3 + 1 / 2), pytest.approx(60 / 3 + 20 / 2)),
        ("mail", 1, 1, pytest.approx(1 / 3), pytest.approx(60 / 3)),
        ("view", 2, 2, pytest.approx(1 / 3 + 1 / 2), pytest.approx(60 / 3 + 20 / 2)),
        ("wish", 0, 0, 0.0, 0.0),
    ]
    # bob's first mail, cid's two first and cid's last; eve's window is not over.
    counts = (result.conversions, result.converting, result.unconverted, result.pending)
    assert counts == (4, 2, 3, 1)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("first", {"mail": 1, "view": 1, "cart": 0}),
        ("last", {"mail": 0, "view": 0, "cart": 2}),
        ("linear", {"mail": 1 / 3, "view": 1 / 3 + 1 / 2, "cart": 1 / 3 + 1 / 2}),
        ("position", {"mail": 0.4, "view": 0.2 + 0.5, "cart": 0.4 + 0.5}),
    ],
)
def test_attribute_gives_the_credit_that_each_rule_says(
    log: EventLog, plan: Plan, model: str, expected: dict[str, float]
) -> None:
    found = credits(attribute(log, plan, macro="buy"), model)
    assert {touch: found[touch] for touch in expected} == pytest.approx(expected)


def test_attribute_halves_credit_with_each_half_life(log: EventLog, plan: Plan) -> None:
    found = credits(attribute(log, plan, macro="buy", half_life="8D"), "time_decay")
    # ann: 9, 8 and 0 days before the last touch; bob: 1 and 0.
    ann, bob = [2 ** (-9 / 8), 1 / 2, 1], [2 ** (-1 / 8), 1]
    assert found["mail"] == pytest.approx(ann[0] / sum(ann))
    assert found["cart"] == pytest.approx(ann[2] / sum(ann) + bob[1] / sum(bob))


def test_attribute_gives_the_time_to_conversion(log: EventLog, plan: Plan) -> None:
    table = attribute(log, plan, macro="buy").table.sort_values("touch")
    found = table[[f"seconds_to_conversion_p{percent}" for percent in (25, 50, 75)]].to_numpy()
    # Carts: an hour and a day before.
    assert found[1].tolist() == [3600 + 23 * 900, 3600 + 23 * 1800, 3600 + 23 * 2700]
    assert np.isnan(found[[0, 4]]).all()


def test_attribute_counts_both_ends_of_the_window_and_a_touch_at_the_instant(plan: Plan) -> None:
    rows = "ann mail 0D\nann view 1s\nann buy 30D\nann cart 30D\nbob buy 1D\nbob own 2D\nfar visit 99D\n"
    table = attribute(make_log(rows, plan), plan, macro="buy").table.set_index("touch")
    # bob's `own` is a view and the macro: it is no touch.
    assert table["touches"].to_dict() == {"mail": 1, "view": 1, "cart": 1, "wish": 0, "(no touch)": 0}
    assert table.loc["(no touch)", "conversions"] == 2


def test_attribute_learns_only_from_paths_watched_for_the_whole_window(plan: Plan) -> None:
    old = "a1 mail 0D\na1 buy 1D\na2 view 0D\n"
    young = "b1 view 80D\nb1 buy 81D\nb2 mail 80D\n"
    result = attribute(make_log(old + young + "far visit 100D\n", plan), plan, macro="buy")
    # In the months that count, mail always converts and a view never: 1 for mail, 0 for a view, 1/2 for both.
    assert credits(result, "markov")["mail"] == 2.0
    assert (credits(result, "shapley")["mail"], credits(result, "shapley")["view"]) == (3.0, -1.0)
    assert credits(result, "linear")["view"] == 1.0
    assert (result.pending, set(result.table["note"])) == (1, {"2 converting paths, needs 30"})


def test_attribute_says_when_no_window_is_over(plan: Plan) -> None:
    rows = repeat("u", 30, "mail 0D", "cart 1D", "buy 2D value=1.0") + "v view 0D\n"
    result = attribute(make_log(rows, plan), plan, macro="buy", draws=100)
    note = "no converting path's window is over, so those that are not are learnt from"
    assert set(result.table["note"]) == {note}
    assert credits(result, "markov") == {"mail": 15.0, "cart": 15.0, "view": 0, "wish": 0, "(no touch)": 0}
    assert result.pending == 1


def test_attribute_counts_macros_from_the_entry_and_looks_back_before_it(log: EventLog, plan: Plan) -> None:
    february = log.between("2024-02-01", "2024-02-29")  # from day 31 on
    table = attribute(february, plan, macro="buy", model="last").table.set_index("touch")
    assert table["conversions"].to_dict() == {"cart": 1, "mail": 0, "view": 0, "wish": 0, "(no touch)": 0}
    later = log.between("2024-02-02", "2024-02-29")  # bob enters with the cart; the view of the day before counts
    assert attribute(later, plan, macro="buy").table.set_index("touch").loc["view", "touches"] == 1


def test_attribute_takes_the_units_of_a_segment(plan: Plan) -> None:
    rows = write_rows(FIVE).assign(geo=lambda f: np.where(f["user_id"] == "bob", "DE", "US"))
    log = read_events(rows, plan=plan).segment({"geo": "DE"})
    result = attribute(log, plan, macro="buy")
    assert (result.segment, result.conversions, result.pending) == ("custom", 1, 0)
    assert_frame_equal(result.table, attribute(log.everyone().where(geo="DE"), plan, macro="buy").table)


def test_attribute_takes_each_sessions_column_as_a_touch(plan: Plan) -> None:
    rows = pd.DataFrame(
        [
            ("ann", "s1", "visit", 0, "cpc"),
            ("ann", "s1", "view", 1, "mail"),  # the session's first event decides
            ("ann", "s2", "visit", 5, None),
            ("ann", "s2", "buy", 6, None),
            ("bob", "s3", "buy", 0, "mail"),  # a visit that begins with the purchase is a touch before it
            ("cid", "s4", "visit", 0, "cpc"),
            ("far", "s5", "visit", 99, "mail"),
        ],
        columns=["user_id", "session_id", "event_name", "day", "medium"],
    )
    rows["timestamp"] = START + pd.to_timedelta(rows.pop("day"), unit="D")
    result = attribute(read_events(rows, plan=plan), plan, macro="buy", model="linear", touch="medium")
    assert pick(result.table, "touch touches conversions") == [
        ("mail", 1, 1.0),
        ("(none)", 1, 0.5),
        ("cpc", 1, 0.5),
        ("(no touch)", 0, 0.0),
    ]
    assert (result.unconverted, result.pending) == (1, 1)
    assert result.table["value"].isna().all()


def test_attribute_by_session_credits_the_touches_of_the_visit(plan: Plan) -> None:
    rows = write_rows("ann mail 0min\nann view 60min\nann cart 61min\nann buy 62min\nfar visit 99D\n")
    table = attribute(read_events(rows, plan=plan), plan, macro="buy", unit="session", model="linear").table
    assert dict(zip(table["touch"], table["conversions"], strict=True)) == {
        "mail": 0.0,
        "view": 0.5,
        "cart": 0.5,
        "wish": 0.0,
        "(no touch)": 0.0,
    }


# Random logs against an enumeration written from the words of the docs.

MATCHES = {
    "mail": ("mail",),
    "view": ("view",),
    "cart": ("cart",),
    "wish": ("wish",),
    "both": ("mail", "view"),
    "own": ("buy",),
    "buy": ("buy",),
    "visit": (),
}
ORDER = ("mail", "view", "cart", "wish", "buy")
MINUTE, WINDOW, HALF_LIFE = 60, 5, 2


@dataclass
class Traced:
    user: str
    touches: list[tuple[int, str]] = field(default_factory=list)  # minute and kind
    macro: int | None = None
    value: float = 0.0


def enumerate_paths(rows: pd.DataFrame) -> tuple[list[Traced], list[Traced]]:
    """Give the paths with a macro, and the closed ones without."""
    won, lost = [], []
    end = rows["minute"].max()
    for user, mine in rows.groupby("user_id"):
        marks = [
            (minute, ORDER.index(kind), event, value)
            for event, minute, value in zip(mine["event_name"], mine["minute"], mine["value"], strict=True)
            for kind in MATCHES[event]
        ]
        waiting: list[tuple[int, str]] = []
        for minute, place, _, value in [*sorted(marks), (10**6, 4, "", nan)]:
            if ORDER[place] != "buy":
                waiting.append((minute, ORDER[place]))
                continue
            near = [touch for touch in waiting if minute - touch[0] <= WINDOW]
            if minute < 10**6:
                won.append(Traced(str(user), near, minute, value))
            rest = [touch for touch in waiting if touch not in near]
            while rest:
                opened = [touch for touch in rest if touch[0] <= rest[0][0] + WINDOW]
                rest = rest[len(opened) :]
                if opened[0][0] + WINDOW <= end:
                    lost.append(Traced(str(user), opened))
            waiting = []
    return won, lost


def credit_by_rule(paths: list[Traced], weigh: Callable[[list[int]], list[float]]) -> dict[str, float]:
    total: defaultdict[str, float] = defaultdict(float)
    for path in paths:
        weights = weigh([(path.macro or 0) - minute for minute, _ in path.touches])
        for weight, (_, kind) in zip(weights, path.touches, strict=True):
            total[kind] += weight / sum(weights)
    return dict(total)


def weigh_position(ages: list[int]) -> list[float]:
    if len(ages) < 3:
        return [1.0] * len(ages)
    return [0.4, *[0.2 / (len(ages) - 2)] * (len(ages) - 2), 0.4]


RULES: dict[str, Callable[[list[int]], list[float]]] = {
    "first": lambda ages: [1.0, *[0.0] * (len(ages) - 1)],
    "last": lambda ages: [*[0.0] * (len(ages) - 1), 1.0],
    "linear": lambda ages: [1.0] * len(ages),
    "time_decay": lambda ages: [0.5 ** (age / HALF_LIFE) for age in ages],
    "position": weigh_position,
}


def follow_chain(paths: list[Traced], order: int, removed: str | None, *, worth: bool) -> float:
    """Push probability through the chain, step by step, until next to none is left on the way."""
    steps: dict[tuple[str, ...], Counter[tuple[str, ...]]] = defaultdict(Counter)
    gains: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for path in paths:
        kinds = [kind for _, kind in path.touches]
        states = [tuple(kinds[max(0, k + 1 - order) : k + 1]) for k in range(len(kinds))]
        for left, right in itertools.pairwise([(), *states, ("END",)]):
            steps[left][right] += 1
        if path.macro is not None:
            gains[states[-1]] += path.value if worth else 1
    mass: dict[tuple[str, ...], float] = {(): 1.0}
    total = 0.0
    while sum(mass.values()) > 1e-15:
        pushed: dict[tuple[str, ...], float] = defaultdict(float)
        for state, amount in mass.items():
            leaving = steps[state].total()
            total += amount * gains[state] / leaving
            for target, count in steps[state].items():
                if target not in {("END",)} and target[-1] != removed:
                    pushed[target] += amount * count / leaving
        mass = dict(pushed)
    return total


def credit_by_removal(paths: list[Traced], order: int, *, worth: bool = False) -> dict[str, float]:
    whole = follow_chain(paths, order, None, worth=worth)
    kinds = {kind for path in paths for _, kind in path.touches}
    return {kind: whole - follow_chain(paths, order, kind, worth=worth) for kind in kinds}


def credit_by_permutations(paths: list[Traced], *, worth: bool = False) -> dict[str, float]:
    def value(players: frozenset[str]) -> float:
        mine = [path for path in paths if {kind for _, kind in path.touches} <= players]
        gain = sum(path.value if worth else 1.0 for path in mine if path.macro is not None)
        return gain / len(mine) if mine else 0.0

    total: defaultdict[str, float] = defaultdict(float)
    for order in itertools.permutations({kind for path in paths for _, kind in path.touches}):
        for k, kind in enumerate(order):
            total[kind] += value(frozenset(order[: k + 1])) - value(frozenset(order[:k]))
    return dict(total)


def scale(shares: dict[str, float], total: float) -> dict[str, float]:
    whole = sum(shares.values())
    return {kind: share / whole * total for kind, share in shares.items()}


def draw_rows(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(40, 90))
    names = rng.choice([*MATCHES], size, p=[0.17, 0.17, 0.17, 0.12, 0.05, 0.04, 0.18, 0.1])
    rows = pd.DataFrame(
        {
            "user_id": rng.choice([*"abcdefgh"], size),
            "event_name": names,
            "minute": rng.integers(0, 25, size),
            "value": np.where(np.isin(names, ["buy", "own"]), rng.integers(1, 9, size), np.nan),
        }
    )
    return rows.assign(timestamp=START + pd.to_timedelta(rows["minute"], unit="min"))


@pytest.mark.parametrize("seed", range(40))
def test_attribute_equals_an_enumeration(plan: Plan, seed: int) -> None:
    rows, order = draw_rows(seed), 1 + seed % 3
    log = read_events(rows.drop(columns="minute"), plan=plan)
    asked = {"macro": "buy", "window": "5min", "half_life": "2min", "order": order}
    result = attribute(log, plan, model="markov", **asked)  # type: ignore[arg-type]
    won, lost = enumerate_paths(rows)
    touched = [path for path in won if path.touches]
    learnt = [path for path in [*touched, *lost] if path.touches[0][0] + WINDOW <= rows["minute"].max()]
    assert (result.conversions, result.converting, result.unconverted) == (len(won), len(touched), len(lost))
    expected = {name: credit_by_rule(touched, weigh) for name, weigh in RULES.items()}
    expected["markov"] = scale(credit_by_removal(learnt, order), len(touched))
    expected["shapley"] = scale(credit_by_permutations(learnt), len(touched))
    for model, shares in expected.items():
        found = credits(result, model)
        assert found == pytest.approx(dict.fromkeys(found, 0) | shares | {"(no touch)": len(won) - len(touched)})
    worth = sum(path.value for path in touched)
    for model, shares in (
        ("markov", credit_by_removal(learnt, order, worth=True)),
        ("shapley", credit_by_permutations(learnt, worth=True)),
    ):
        table = attribute(log, plan, model=model, **asked).table.set_index("touch")  # type: ignore[arg-type]
        values = scale(shares, worth)
        assert table["value"].loc[[*values]].to_dict() == pytest.approx(values)


def test_attribute_sums_exactly() -> None:
    log, plan, _ = simulate_shop(units=3_000, seed=4)
    values = log.to_pandas().query("event_name in ['purchase', 'Order Completed']")["value"]
    for model in MODELS:
        result = attribute(log, plan, macro="purchase", model=model, draws=0)  # type: ignore[arg-type]
        assert math.fsum(result.table["conversions"]) == math.fsum(result.comparison[model]) == result.conversions
        assert math.fsum(result.table["value"]) == math.fsum(values)
        assert result.table["share"].sum() == pytest.approx(1)


def test_attribute_does_not_depend_on_the_order_of_rows_or_on_names() -> None:
    log, plan, _ = simulate_shop(units=1_500, seed=5)
    rows = log.to_pandas()
    result = attribute(log, plan, macro="purchase", draws=100)
    shuffled = rows.sample(frac=1, random_state=1)
    again = attribute(read_events(shuffled, plan=plan), plan, macro="purchase", draws=100)
    assert_frame_equal(again.table, result.table, check_exact=True)
    renamed = rows.assign(user_id=rows["user_id"].str[::-1], session_id=rows["session_id"] + "x")
    again = attribute(read_events(renamed, plan=plan), plan, macro="purchase", draws=100)
    assert_frame_equal(again.table, result.table, rtol=1e-12)


def test_attribute_reads_the_same_from_arrays_and_through_filters() -> None:
    log, plan, _ = simulate_shop(units=1_500, seed=6)
    result = attribute(log, plan, macro="purchase", draws=100)
    filtered = attribute(log.where(user_id={"regex": "."}), plan, macro="purchase", draws=100)
    period = attribute(log.between("2026-06-01", "2026-12-31"), plan, macro="purchase", draws=100)
    assert_frame_equal(filtered.table, result.table, check_exact=True)
    assert_frame_equal(period.table, result.table, check_exact=True)


def test_attribute_bounds_credit_by_drawing_units(plan: Plan) -> None:
    # 40 units with a purchase after mail, 60 with one after a view, 20 with three after a cart.
    rows = repeat("m", 40, "mail 0D", "buy 1D value=2.0") + repeat("v", 60, "view 0D", "buy 1D value=3.0")
    thrice = [f"{event} {3 * k + day}D" for k in range(3) for day, event in enumerate(("cart", "buy"))]
    log = make_log(rows + repeat("c", 20, *thrice) + "far visit 99D\n", plan)
    table = attribute(log, plan, macro="buy", model="last", draws=2_000).table.set_index("touch")
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(120, [40 / 120, 60 / 120, 20 / 120], 20_000) * [1, 1, 3]
    for place, touch in enumerate(("mail", "view", "cart")):
        low, high = np.quantile(drawn[:, place], [0.025, 0.975])
        assert table.loc[touch, "conversions_ci_lower"] == pytest.approx(low, abs=2)
        assert table.loc[touch, "conversions_ci_upper"] == pytest.approx(high, abs=3)
    mail = table.loc["mail"].to_dict()
    assert mail["value_ci_upper"] == 2 * mail["conversions_ci_upper"]
    assert not table["note"].any()


def test_attribute_gives_no_interval_on_few_paths_or_without_draws(log: EventLog, plan: Plan) -> None:
    table = attribute(log, plan, macro="buy").table
    assert table[["conversions_ci_lower", "conversions_ci_upper", "value_ci_lower"]].isna().all(axis=None)
    assert set(table["note"]) == {"2 converting paths, needs 30"}
    rows = repeat("u", 30, "mail 0D", "buy 1D") + "far visit 99D\n"
    table = attribute(make_log(rows, plan), plan, macro="buy", draws=0).table
    assert table["conversions_ci_lower"].isna().all()
    assert set(table["note"]) == {""}


def test_attribute_of_a_segment_without_macros_is_empty(log: EventLog, plan: Plan) -> None:
    result = attribute(log.segment({"user_id": "cid"}), plan, macro="buy")
    assert pick(result.table, "touch conversions share note")[0] == (
        "mail",
        0.0,
        pytest.approx(nan, nan_ok=True),
        "0 converting paths, needs 30",
    )
    assert result.takeaways == ("No Bought of segment custom to credit.",)
    assert tuple(result.table) == COLUMNS
    nobody = attribute(log.segment({"user_id": "zoe"}), plan, macro="buy")
    assert_frame_equal(nobody.table, result.table)


def test_attribute_does_not_take_a_touchs_value_for_the_macros(plan: Plan) -> None:
    log = make_log("ann mail 0D value=5.0\nann buy 1D\n", plan)
    for each in (log, log.where(user_id="ann")):
        assert attribute(each, plan, macro="buy").table["value"].isna().all()


def test_attribute_without_any_touch_credits_none(plan: Plan) -> None:
    log = make_log("ann buy 0D value=0.1\nbob buy 1D value=0.2\ncid buy 2D value=0.3\n", plan)
    result = attribute(log, plan, macro="buy")
    assert pick(result.table.tail(1), "touch conversions value") == [("(no touch)", 3.0, 0.6)]
    assert result.table["conversions"].head(4).tolist() == [0.0] * 4


def test_attribute_of_a_log_without_the_macro_says_so(plan: Plan) -> None:
    with pytest.raises(EventDataError) as caught:
        attribute(make_log("ann mail 0D\n", plan), plan, macro="buy")
    rule = plan.macros[0].match
    assert str(caught.value) == f"The macro `buy` never happens in the log. Check its match rule, {rule}."


def test_attribute_lists_every_wrong_parameter(log: EventLog, plan: Plan) -> None:
    with pytest.raises(ParamError) as caught:
        attribute(
            log,
            plan,
            macro="bye",
            window="30",
            model="markow",  # type: ignore[arg-type]
            touch="geos",
            order=4,
            half_life="0D",
            unit="visit",  # type: ignore[arg-type]
            draws=99,
            confidence=95,
        )
    assert caught.value.problems == (
        "`window` is '30'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'.",
        "`half_life` is '0D'; it must be longer than zero, such as '30min' or '7D'.",
        "`confidence` is 95; it must lie between 0 and 1, such as 0.95.",
        "`touch` is 'geos'; it must be 'micro', for the plan's micros, or a column of the log: "
        f"{', '.join(log.columns)}. Did you mean 'geo'?",
        "`model` is 'markow'; it must be one of 'first', 'last', 'linear', 'time_decay', 'position', 'markov', "
        "'shapley'. Did you mean 'markov'?",
        "`unit` is 'visit'; it must be one of 'user', 'session'.",
        "`order` is 4; it must be a whole number from 1 to 3.",
        "`draws` is 99; it must be a whole number from 100 to 10,000, or 0 for no intervals.",
        "`macro` is 'bye'; the plan's macros are 'buy', 'join'. Did you mean 'buy'?",
    )


def test_attribute_needs_touches_and_not_too_many(log: EventLog, plan: Plan) -> None:
    with pytest.raises(ParamError) as caught:
        attribute(log, plan, macro="join")
    assert str(caught.value) == (
        "The plan has 0 micros for `join`; credit can be shared among 1 to 60. Change the plan, or make `touch` a "
        "column such as 'medium'."
    )
    rows = repeat("u", 61, "visit 0D").splitlines()
    many = make_log("".join(f"{row} medium=m{k}x\n" for k, row in enumerate(rows)) + "ann buy 1D medium=m0x\n", plan)
    with pytest.raises(ParamError) as caught:
        attribute(many, plan, macro="buy", touch="medium")
    assert str(caught.value) == (
        "`touch` is 'medium', of which sessions have 61 values; credit can be shared among at most 60. Choose a "
        "coarser column, or group its values in a mapping."
    )


def test_attribution_plots_credit_and_models(plan: Plan) -> None:
    rows = repeat("m", 40, "mail 0D", "cart 12h", "buy 1D") + repeat("v", 20, "view 0D") + "far visit 99D\n"
    result = attribute(make_log(rows, plan), plan, macro="buy", model="last", draws=100)
    axes = result.plot()
    assert [bar.get_width() for bar in axes.patches] == [40, 0, 0, 0, 0]  # type: ignore[attr-defined]
    assert " ".join(axes.get_title(loc="left").split()) == "Which touches get the credit for Bought? (Last touch; all)"
    models = result.plot_models()
    drawn = [np.asarray(collection.get_offsets())[:, 0].tolist() for collection in models.collections[1:]]
    assert drawn == [result.comparison[name].head(4).tolist() for name in MODELS]


def test_attribution_says_who_is_credited_how_the_models_differ_and_what_is_left_out(plan: Plan) -> None:
    rows = repeat("m", 40, "mail 0D", "cart 12h", "buy 1D") + repeat("v", 20, "view 0D")
    rows += repeat("b", 10, "buy 0D") + repeat("p", 3, "cart 98D") + "far visit 99D\n"
    result = attribute(make_log(rows, plan), plan, macro="buy", model="last", draws=0)
    assert result.takeaways == (
        "Last touch credits Cart with 40.0 of 50 conversions (80.0%); half of its touches before one came in the last "
        "12 h.",
        "Last touch credits Mail opened with 0 of 50 conversions (0.0%); half of its touches before one came in the "
        "last 1 d.",
        "10 of 50 conversions (20.0%) came without any touch in the 30 days before.",
        "The models differ most on Cart: from 0 (First touch) to 40.0 (Last touch).",
        "Credit shares out what happened on 40 paths to Bought and 20 paths without it; it does not say what would "
        "happen without a touch. Pending paths, in neither: 3.",
    )
    assert "Mail opened" in result._repr_html_()


def test_attribution_explains_a_share_that_is_negative(log: EventLog, plan: Plan) -> None:
    said = attribute(log, plan, macro="buy", model="shapley", draws=0).takeaways
    assert said[3] == (
        "Where a share is below zero (Mail opened, Wish), paths with the touch convert less often than those without; "
        "what it lacks goes to the other touches, so that one may have more than 100%."
    )
    assert "below zero" not in " ".join(attribute(log, plan, macro="buy", draws=0).takeaways)
