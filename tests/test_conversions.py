from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from convlib.conversions import Conversions, Step, gather, microseconds
from convlib.errors import ParamError
from convlib.events import EventLog, Unit, read_events

PLAN = """\
macros:
  - id: purchase
    match: {event_name: [buy, order]}
    value: {column: amount}
    micros:
      - {id: paid, match: {event_name: order}, stage: decision, kind: process_milestone, value: 3}
      - {id: look, match: {event_name: view}, stage: decision, kind: process_milestone}
"""
#: Deliberately out of order.
ROWS = pd.DataFrame(
    [
        ("b", "order", "2026-01-01 00:00:05", "s1", "mobile", 1.0, 20),
        ("a", "view", "2026-01-01 00:00:00", "s1", None, 2.0, None),
        ("a", "buy", "2026-01-01 00:00:09", "s2", "mobile", None, 30),
        ("a", "view", "2026-01-01 00:00:09", None, "desktop", None, None),
        ("c", "view", "2026-01-02 12:00:00", "s1", "desktop", 4.0, None),
    ],
    columns=["user_id", "event_name", "timestamp", "session_id", "device_type", "value", "amount"],
)
A, B, C = 0, 1, 2
SECOND = 1_000_000
START = 1_767_225_600 * SECOND  # 2026-01-01 00:00 UTC


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(PLAN, encoding="utf-8")
    return read_events(ROWS, plan=path)


def fetch(log: EventLog, *names: str | Step, unit: Unit = "user", columns: tuple[str, ...] = ()) -> Conversions:
    steps = [Step(name) if isinstance(name, str) else name for name in names]
    codes = log.entries(unit=unit).index.to_numpy(np.int64)
    return gather(log, steps, codes=codes, unit=unit, columns=columns)


def rows(found: Conversions) -> list[tuple[int, float, int, float]]:
    """Unit, seconds since the start, step and value."""
    seconds = (found.time - START) / SECOND
    return list(zip(found.unit.tolist(), seconds.tolist(), found.step.tolist(), found.value.tolist(), strict=True))


def test_gather_sorts_rows_by_unit_time_and_step(log: EventLog) -> None:
    found = fetch(log, "purchase", "view")
    assert np.array_equal(
        rows(found),
        [(A, 0, 1, 2.0), (A, 9, 0, 30.0), (A, 9, 1, np.nan), (B, 5, 0, 20.0), (C, 129_600, 1, 4.0)],
        equal_nan=True,
    )
    assert found.offsets.tolist() == [0, 3, 4, 5]


def test_gather_gives_the_value_that_the_plan_names_else_the_events_own(log: EventLog) -> None:
    assert rows(fetch(log, "paid")) == [(B, 5, 0, 1.0)]
    assert rows(fetch(log, "order")) == [(B, 5, 0, 1.0)]
    assert rows(fetch(log, "look"))[0] == (A, 0, 0, 2.0)


def test_gather_gives_one_event_that_is_two_conversions_one_identity(log: EventLog) -> None:
    found = fetch(log, "purchase", "paid", "order")
    order = found.unit == B
    assert found.step[order].tolist() == [0, 1, 2]
    assert len(set(found.event[order].tolist())) == 1
    assert len(set(found.event.tolist())) == 2


def test_gather_narrows_a_step_by_its_row(log: EventLog) -> None:
    assert rows(fetch(log, Step("view", where={"device_type": "desktop", "value": {"gt": 3}}))) == [
        (C, 129_600, 0, 4.0)
    ]


def test_gather_leaves_out_events_of_other_units(log: EventLog) -> None:
    assert rows(fetch(log.segment({"event_name": "order"}), "purchase", "view")) == [(0, 5, 0, 20.0)]


def test_gather_looks_past_the_period_on_both_sides(log: EventLog) -> None:
    only_c = log.between("2026-01-02", "2026-01-02")
    assert rows(fetch(only_c, "view")) == [(0, 129_600, 0, 4.0)]
    assert [unit for unit, *_ in rows(fetch(log.between(end="2026-01-01"), "view"))] == [A, A]


def test_gather_tells_sessions_of_two_users_with_one_id_apart(log: EventLog) -> None:
    found = fetch(log, "view", "purchase", unit="session")
    assert len(found.codes) == 4
    assert [(unit, step) for unit, _, step, _ in rows(found)] == [(0, 0), (1, 1), (2, 1), (3, 0)]


def test_gather_takes_columns_as_text(log: EventLog) -> None:
    found = fetch(log, "view", columns=("device_type", "amount"))
    assert found.columns.to_numpy().tolist() == [["(none)", "(none)"], ["desktop", "(none)"], ["desktop", "(none)"]]


def test_gather_without_units_gives_no_rows(log: EventLog) -> None:
    found = fetch(log.segment({"device_type": "tv"}), "purchase", "view", columns=("device_type",))
    assert rows(found) == []
    assert found.offsets.tolist() == [0]
    assert list(found.columns) == ["device_type"]


def test_gather_ends_with_the_whole_logs_last_event(log: EventLog) -> None:
    early = log.segment({"event_name": "order"}).between("2026-01-01", "2026-01-01")
    assert fetch(early, "view").end == START + 129_600 * SECOND


def test_gather_refuses_an_unknown_name(log: EventLog) -> None:
    with pytest.raises(ParamError) as caught:
        fetch(log, "purchases")
    assert str(caught.value) == (
        "`purchases` is neither a conversion of the plan nor an event of the log. Did you mean 'purchase'? "
        "Known are purchase, paid, look, buy, order, view."
    )


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (pd.Timestamp("1970-01-01 00:00:01.5"), 1_500_000),
        (pd.Timestamp("2026-01-01").as_unit("s"), START),
        (pd.Timestamp("2026-01-01").as_unit("ns"), START),
        (pd.Timestamp("2026-01-01 01:00", tz="Europe/Berlin"), START),
    ],
)
def test_microseconds_does_not_depend_on_the_unit_of_the_timestamp(moment: pd.Timestamp, expected: int) -> None:
    assert microseconds(moment) == expected


def test_step_names_itself_with_its_condition() -> None:
    assert str(Step("view")) == "view"
    assert str(Step("view", where={"device_type": ["tv", "mobile"]})) == "view (device_type = tv or mobile)"


def test_gather_reads_the_same_rows_from_a_file(log: EventLog, tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "log.csv", index=False)
    from_file = fetch(read_events(tmp_path / "log.csv", plan=log.plan), "purchase", "view")
    assert np.array_equal(rows(from_file), rows(fetch(log, "purchase", "view")), equal_nan=True)
