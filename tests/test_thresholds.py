from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_logs import START, make_log, make_plan, pick

from convlib.correlation import correlate
from convlib.errors import EventDataError, ParamError
from convlib.events import EventLog, read_events
from convlib.plan import Plan
from convlib.thresholds import COLUMNS, Threshold, _choose, _count_sides, _judge_parts, find_threshold

PLAN = """
macros:
  - id: buy
    match: {event_name: buy}
    micros:
      - {id: view, name: Page viewed, match: {event_name: view}, stage: awareness, kind: secondary_action}
      - {id: save, match: {event_name: save}, stage: decision, kind: secondary_action}
    losses: [{id: leave, match: {event_name: leave}}]
"""
#: Pending: fay and end. Not at risk after two days: eve, who has bought, and gus, who has left.
ROWS = """
ann view 0h
ann view 5h
ann buy 60h
bob view 0h
bob view 30h
cid visit 0h
cid view 30h
cid buy 70h
dan visit 0h
dan view 48h
eve view 0h
eve buy 10h
gus view 0h
gus leave 20h
fay view 8D
end visit 10D
"""
HOW = {"macro": "buy", "micro": "view", "counts": (2, 1), "within": ("2D", "1D"), "horizon": "2D"}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, PLAN)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[EventLog, Plan]:
    """6,000 units; three or more views within two days bring purchases from 4% to 14%."""
    plan = make_plan(tmp_path_factory.mktemp("shop"), PLAN)
    return read_events(draw_events(), plan=plan), plan


def draw_events(units: int = 6_000, seed: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rate = rng.gamma(1.2, 1.0, units)
    views = rng.poisson(rate)
    owner = np.repeat(np.arange(units), views)
    after = rng.uniform(0, 4, len(owner))
    soon = np.bincount(owner[after < 2], minlength=units)
    buyers = np.flatnonzero(rng.random(units) < np.where(soon >= 3, 0.14, 0.04))
    parts = {
        "visit": (np.arange(units), np.zeros(units)),
        "view": (owner, after),
        "buy": (buyers, rng.uniform(4.1, 8, len(buyers))),
        "end": (np.array([units]), np.array([40.0])),
    }
    start = rng.uniform(0, 20, units + 1)
    frames = [
        pd.DataFrame({"user_id": who, "event_name": name, "timestamp": START + pd.to_timedelta(start[who] + when, "D")})
        for name, (who, when) in parts.items()
    ]
    return pd.concat(frames, ignore_index=True).assign(user_id=lambda rows: "u" + rows["user_id"].astype("str"))


def find(log: EventLog, plan: Plan, **more: object) -> Threshold:
    how = {"macro": "buy", "micro": "view", "counts": (1, 2, 3, 5), "within": ("1D", "2D", "4D"), "horizon": "5D"}
    return find_threshold(log, plan, **{**how, **more})  # type: ignore[arg-type]


def test_find_threshold_counts_each_rule_among_those_at_risk_after_the_longest_time(plan: Plan) -> None:
    found = find_threshold(make_log(ROWS, plan), plan, **HOW)  # type: ignore[arg-type]
    assert tuple(found.table.columns) == COLUMNS
    sides = "count within units_with units_without converted_with converted_without"
    assert pick(found.table, sides) == [
        (1, "1D", 2, 2, 1, 1),  # ann, bob against cid, dan; dan's view at 48h is too late for any
        (2, "1D", 1, 3, 1, 1),  # ann
        (1, "2D", 3, 1, 2, 0),  # ann, bob, cid
        (2, "2D", 2, 2, 1, 1),  # ann, bob
    ]
    np.testing.assert_allclose(found.table["lift"], [0, 1 - 1 / 3, 2 / 3, 0])
    # phi of (1, 2D): (2*1 - 0*1) / sqrt(3 * 1 * 2 * 2).
    assert found.table["phi"].iloc[2] == pytest.approx(2 / np.sqrt(12))
    assert found.table["note"].tolist() == [f"{n} units with it, needs 30" for n in (2, 1, 3, 2)]
    assert (found.units, found.pending, found.horizon) == (4, 2, "2D")
    assert found.conversions_used == pytest.approx(2 / 3)  # ann and cid, but not eve, who bought within two days


def test_find_threshold_refuses_a_period_in_which_nobody_can_be_followed(plan: Plan) -> None:
    with pytest.raises(EventDataError) as caught:
        find_threshold(make_log(ROWS, plan), plan, **{**HOW, "horizon": "30D"})  # type: ignore[arg-type]
    assert str(caught.value) == (
        "None of the 8 units that enter from 2024-01-01 to 2024-01-11 has 2D + 30D of follow-up before the end of the "
        "data, 2024-01-11. Choose earlier entries or a shorter horizon."
    )


def test_find_threshold_of_too_few_chooses_nothing(plan: Plan) -> None:
    found = find_threshold(make_log(ROWS, plan), plan, **HOW)  # type: ignore[arg-type]
    assert (found.count, found.within, found.held_out) == (0, "", 0)
    assert np.isnan([found.lift, found.lift_ci_lower, found.apparent_lift, found.optimism]).all()
    assert found.table["chosen_in_folds"].sum() == 0
    assert found.takeaways == (
        "Segment all has too few units or conversions to judge any number of Page viewed.",
        "Counted among the 4 units that had not converted 2 days after entry; Buy counted for 2 days after that. 2 "
        "units are pending. Nothing is adjusted for: who is more active does more of everything.",
    )


def test_find_threshold_finds_the_planted_rule(shop: tuple[EventLog, Plan]) -> None:
    found = find(*shop)
    assert (found.count, found.within) == (3, "2D")
    assert found.lift_ci_lower < 0.10 < found.lift_ci_upper
    assert found.lift_ci_lower > 0.03
    assert found.optimism == pytest.approx(found.apparent_lift - found.lift)
    # Nine parts have parts before them; the first judges nothing.
    assert found.table["chosen_in_folds"].sum() == 9
    assert 0.85 * found.units < found.held_out < 0.95 * found.units


def test_find_threshold_counts_as_correlate_does(shop: tuple[EventLog, Plan]) -> None:
    rows = find(*shop).table
    table = correlate(*shop, macro="buy", exposure="4D", horizon="5D").table.set_index("micro")
    same = ["units_with", "units_without", "converted_with", "converted_without", "lift", "lift_ci_lower", "phi"]
    once = rows[(rows["count"] == 1) & (rows["within"] == "4D")]
    np.testing.assert_allclose(once[same].to_numpy(float), table.loc[["view"], same].to_numpy(float))


def test_find_threshold_does_not_depend_on_the_order_of_rows(shop: tuple[EventLog, Plan]) -> None:
    log, plan = shop
    shuffled = read_events(draw_events().sample(frac=1, random_state=1), plan=plan)
    pd.testing.assert_frame_equal(find(log, plan).table, find(shuffled, plan).table)
    assert find(log, plan).lift == find(shuffled, plan).lift


def test_find_threshold_says_what_is_left_on_other_units(shop: tuple[EventLog, Plan]) -> None:
    found = find(*shop)
    (row,) = found.table[(found.table["count"] == 3) & (found.table["within"] == "2D")].to_dict("records")
    assert found.takeaways[0] == (
        f"Page viewed 3 times or more within 2 days of entry is associated most with Buy: {row['rate_with']:.1%} of "
        f"{row['units_with']:,} units against {row['rate_without']:.1%} of {row['units_without']:,}, "
        f"{100 * row['lift']:+.1f} points in sample; {100 * found.lift:+.1f} ({100 * found.lift_ci_lower:+.1f} to "
        f"{100 * found.lift_ci_upper:+.1f}) on {found.held_out:,} units that had no part in the choice."
    )


def test_find_threshold_says_when_no_number_goes_beyond_chance(shop: tuple[EventLog, Plan]) -> None:
    rows, rng = draw_events(), np.random.default_rng(8)
    start = rows[rows["event_name"] == "visit"].set_index("user_id")["timestamp"]
    bought = start[rng.choice(start.index, 400, replace=False)] + pd.Timedelta("5D")
    buys = bought.reset_index().assign(event_name="buy")
    log = read_events(pd.concat([rows[rows["event_name"] != "buy"], buys]), plan=shop[1])
    found = find(log, shop[1])
    assert found.lift_ci_lower < 0 < found.lift_ci_upper
    assert found.takeaways[0].startswith(
        "No number of Page viewed goes with more of Buy beyond chance. Best: Page viewed "
    )


def test_the_held_out_interval_covers_nothing_where_nothing_is() -> None:
    rng = np.random.default_rng(5)
    covered, lifts, apparent = [], [], []
    for _ in range(400):
        views = np.cumsum(rng.poisson(rng.gamma(1, 1.5, 2_000)[:, None] * [0.5, 0.5, 0.7]), axis=1)
        met = np.column_stack([column >= count for column in views.T for count in (1, 2, 3, 5, 8)])
        converted, part = rng.random(2_000) < 0.1, rng.integers(0, 10, 2_000)
        tables = np.stack([_count_sides(met[part == each], converted[part == each]) for each in range(10)])
        chosen = [_choose(before) for before in np.cumsum(tables, axis=0)[:-1]]
        found = _judge_parts(tables[1:], chosen, 0.95)
        covered.append(found["lift_ci_lower"] <= 0 <= found["lift_ci_upper"])
        lifts.append(found["lift"])
        hits, units, more, others = tables.sum(axis=0)[:, _choose(tables.sum(axis=0))]
        apparent.append(hits / units - more / others)
    # Four standard errors of a share of 95% over 400 are 4.4 points, of the mean lift 0.4 points.
    assert 0.906 <= np.mean(covered) <= 0.994
    assert abs(np.mean(lifts)) < 0.004
    assert np.mean(apparent) > 0.02


def test_choose_takes_the_largest_phi_of_the_rules_with_enough_units() -> None:
    # Conversions and units with it, then without it.
    sides = np.array([[20, 60, 9], [100, 200, 29], [80, 40, 91], [900, 800, 971]])
    assert _choose(sides) == 1
    assert _choose(sides[:, [2]]) == -1
    assert _choose(np.array([[50], [50], [50], [50]])) == -1  # all convert: phi is unknown


def test_find_threshold_names_every_wrong_argument(shop: tuple[EventLog, Plan]) -> None:
    log, plan = shop
    with pytest.raises(ParamError) as caught:
        find(log, plan, micro="veiw", counts=(0, 2), within=("1D", "2days"), folds=1)
    assert caught.value.problems == (
        "`veiw` is no micro-conversion of `buy`; its micro-conversions are 'view', 'save'. Did you mean 'view'?",
        "`counts` is (0, 2); it must hold whole numbers from 1 on, such as (1, 2, 3).",
        "`within` has '2days'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'. Did "
        "you mean '2D'?",
        "`folds` is 1; it must be a whole number from 2 to 100.",
    )
    with pytest.raises(ParamError, match=r"^`macro` is 'by'; the plan's macros are 'buy'\. Did you mean 'buy'\?$"):
        find(log, plan, macro="by")
    with pytest.raises(ParamError, match=r"^`within` has ''; it must be a number and one of the units"):
        find(log, plan, within=())
    with pytest.raises(
        ParamError, match=r"^`counts` is 3; it must hold whole numbers from 1 on, such as \(1, 2, 3\)\.$"
    ):
        find(log, plan, counts=3)
    with pytest.raises(ParamError, match="`confidence` is 2"):
        find(log, plan, confidence=2)


def test_find_threshold_of_a_segment_of_nobody_is_empty(shop: tuple[EventLog, Plan]) -> None:
    log, plan = shop
    found, whole = find(log.segment({"user_id": "nobody"}), plan), find(log, plan)
    assert found.units == 0
    assert found.table.dtypes.tolist() == whole.table.dtypes.tolist()
    found.plot().figure.canvas.draw()


def test_find_threshold_counts_sessions(shop: tuple[EventLog, Plan]) -> None:
    log, plan = shop
    assert find(log, plan, unit="session").units > find(log, plan).units


def test_draw_thresholds_shows_lift_and_n_of_rules_with_enough_units(shop: tuple[EventLog, Plan]) -> None:
    found = find(*shop, counts=(1, 3, 40))
    axes = found.plot()
    rows = found.table[found.table["note"] == ""]
    shown = {text.get_text(): text.get_fontweight() for text in axes.texts}
    written = rows.sort_values(["count", "within"])
    assert list(shown) == [
        f"{100 * lift:+.1f} pts\nn = {n:,}" for lift, n in zip(written["lift"], written["units_with"], strict=True)
    ]
    assert list(shown.values()).count("bold") == 1
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1 or more", "3 or more", "40 or more"]
    title = " ".join(axes.get_title(loc="left").split())
    assert title == "How often and how soon does Page viewed go with Buy? (all)"
