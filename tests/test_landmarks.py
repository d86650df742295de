from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_logs import START, make_log, make_plan, write_rows

from convlib.conversions import Step
from convlib.events import UNITS, EventLog
from convlib.landmarks import MOST_BANDS, NEVER, Design, Followed, find_landmarks, find_risk, follow, read_design
from convlib.plan import Plan

PLAN = """
macros:
  - id: buy
    match: {event_name: buy}
    micros:
      - {id: save, match: {event_name: save}, stage: decision, kind: secondary_action}
      - {id: read, match: {event_name: read}, stage: awareness, kind: secondary_action}
    losses: [{id: leave, match: {event_name: leave}}]
"""
HOUR = 3_600_000_000
ROWS = """
ann visit 0h session_id=a1 device_type=mobile
ann save 2h session_id=a1
ann look 3h session_id=a1
ann buy 30h session_id=a2 value=10
ann buy 60h session_id=a2 value=5
ann look 61h session_id=a2
ben look 1h session_id=b1 device_type=desktop
ben read 2h session_id=b1
ben look 2h session_id=b1
ben leave 50h session_id=b1
cat visit 100h session_id=c1 device_type=mobile
"""
DESIGN = Design((24 * HOUR, 48 * HOUR), 24 * HOUR)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, PLAN)


@pytest.fixture
def log(plan: Plan) -> EventLog:
    return make_log(ROWS, plan)


def test_follow_notes_what_each_unit_did_since_its_entry(log: EventLog, plan: Plan) -> None:
    entries, found = follow(log, plan.macros[0], DESIGN, columns=["device_type"])
    assert entries["device_type"].tolist() == ["mobile", "desktop", "mobile"]
    start = START.value // 1000
    assert (found.start - start).tolist() == [0, HOUR, 100 * HOUR]
    assert found.end - start == 100 * HOUR
    assert found.macro.tolist() == [30 * HOUR, NEVER, NEVER]
    assert found.micros.tolist() == [[2 * HOUR, NEVER], [NEVER, HOUR], [NEVER, NEVER]]
    assert found.losses.tolist() == [NEVER, 49 * HOUR, NEVER]
    # Activity: visits and looks but those at the instant of a conversion, as ben's second.
    assert found.activity.tolist() == [[2, 2], [1, 1], [1, 1]]
    # 10 lies within 24 to 48 h, 5 within 48 to 72 h; both within the follow-up.
    assert found.values.tolist() == [[10, 5], [0, 0], [0, 0]]
    assert found.spent.tolist() == [[15, 2], [0, 0], [0, 0]]


def test_follow_gives_the_same_through_stored_arrays_and_through_rows(log: EventLog, plan: Plan) -> None:
    # A filter that every row passes takes the rows in place of the arrays.
    seen = log.where(user_id={"regex": "."})
    for unit in UNITS:
        first, second = (follow(each, plan.macros[0], DESIGN, unit=unit)[1] for each in (log, seen))
        for field in ("start", "macro", "micros", "losses", "activity", "values", "spent"):
            np.testing.assert_array_equal(getattr(first, field), getattr(second, field))


def test_follow_takes_sessions_as_units(log: EventLog, plan: Plan) -> None:
    entries, found = follow(log, plan.macros[0], DESIGN, unit="session")
    assert len(entries) == 4
    assert found.macro.tolist() == [NEVER, 0, NEVER, NEVER]  # ann's second session begins with a purchase


def test_follow_gives_a_segment_its_units_of_the_whole(log: EventLog, plan: Plan) -> None:
    everyone = follow(log, plan.macros[0], DESIGN)[1]
    for device, units in (("mobile", [0, 2]), ("desktop", [1])):
        entries, found = follow(log.segment({"device_type": device}), plan.macros[0], DESIGN)
        assert entries.index.tolist() == units
        np.testing.assert_array_equal(found.micros, everyone.micros[units])
    period = follow(log.between("2024-01-02", None), plan.macros[0], DESIGN)[1]
    # In that period ann enters by buying and ben by leaving.
    assert (period.macro.tolist(), period.losses.tolist()) == ([0, NEVER, NEVER], [NEVER, 0, NEVER])


def test_follow_takes_events_and_properties_as_candidates(plan: Plan) -> None:
    log = make_log("ann visit 0h\nann save 1h kind=a\nann save 5h kind=b\nann look 7h", plan)
    candidates = [Step("save", {"kind": "b"}), Step("look"), Step("save")]
    found = follow(log, plan.macros[0], DESIGN, candidates=candidates)[1]
    assert found.micros.tolist() == [[5 * HOUR, 7 * HOUR, HOUR]]


def make_followed(macro: list[int], losses: list[int], activity: list[int], end: int) -> Followed:
    units = len(macro)
    return Followed(
        start=np.zeros(units, np.int64),
        macro=np.array(macro),
        micros=np.array([[1]] * units),
        losses=np.array(losses),
        activity=np.tile(np.array(activity)[:, None], 2),
        values=np.arange(2.0 * units).reshape(units, 2),
        spent=np.zeros((units, 2)),
        end=end,
    )


def test_find_risk_keeps_who_has_neither_converted_nor_left() -> None:
    # Landmarks 10 and 20, horizon 10: converts at 9, 10, 19, 20, 30; leaves at 9, 10; never.
    macro = [9, 10, 19, 20, 30, NEVER, NEVER, NEVER]
    losses = [NEVER] * 5 + [9, 10, NEVER]
    followed = make_followed(macro, losses, [0] * 8, 30)
    risk = find_risk(followed, Design((10, 20), 10), pd.DataFrame(index=range(8)))
    rows = [(1, 0, 1), (2, 0, 1), (3, 0, 0), (3, 1, 1), (4, 0, 0), (4, 1, 0), (6, 0, 0), (7, 0, 0), (7, 1, 0)]
    assert [*zip(risk.unit.tolist(), risk.landmark.tolist(), risk.outcome.tolist(), strict=True)] == rows
    spent = find_risk(followed, Design((10, 20), 10), pd.DataFrame(index=range(8)), target="value").outcome
    assert spent.tolist() == [2.0 * unit + landmark for unit, landmark, _ in rows]


def test_find_risk_leaves_out_landmarks_whose_window_is_not_over() -> None:
    followed = make_followed([NEVER] * 2, [NEVER] * 2, [0] * 2, 29)
    assert find_risk(followed, Design((10, 20), 10), pd.DataFrame(index=range(2))).landmark.tolist() == [0, 0]


def test_find_risk_bands_activity_by_its_count_then_by_quantiles() -> None:
    few = make_followed([NEVER] * 100, [NEVER] * 100, [n % 40 for n in range(100)], 30)
    risk = find_risk(few, Design((10, 20), 10), pd.DataFrame(index=range(100)))
    assert risk.band.tolist() == [n % 40 for n in range(100) for _ in range(2)]
    many = make_followed([NEVER] * 1000, [NEVER] * 1000, [*range(1000)], 30)
    bands = np.unique(find_risk(many, Design((10, 20), 10), pd.DataFrame(index=range(1000))).band, return_counts=True)
    assert len(bands[0]) == MOST_BANDS
    assert set(bands[1]) == {40}  # twenty units at two landmarks


def test_risk_numbers_strata_by_landmark_columns_and_band() -> None:
    followed = make_followed([NEVER] * 4, [NEVER] * 4, [0, 0, 1, 0], 30)
    covariates = pd.DataFrame({"device": ["mobile", "desktop", "mobile", "mobile"]})
    risk = find_risk(followed, Design((10, 20), 10), covariates)
    first, second = risk.strata[::2], risk.strata[1::2]
    assert (first[0] == first[3], len({*first[:3]}), len({*risk.strata})) == (True, 3, 6)
    assert not {*first} & {*second}


def test_find_landmarks_puts_the_given_ones_in_order(log: EventLog, plan: Plan) -> None:
    goal = plan.macros[0]
    assert find_landmarks(log, goal, exposure=["7D", "1D", "24h"], entry=None, unit="user") == ("1D", "7D")
    assert find_landmarks(log, goal, exposure="auto", entry=None, unit="user") == ("1.25D",)
    assert read_design(["1D"], "2D") == Design((24 * HOUR,), 48 * HOUR)


def test_follow_does_not_depend_on_the_order_of_rows(plan: Plan) -> None:
    rows = write_rows(ROWS)
    first, second = (
        follow(make_log(each, plan), plan.macros[0], DESIGN)[1] for each in (rows, rows.sample(frac=1, random_state=1))
    )
    for field in ("macro", "micros", "losses", "activity", "values"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
