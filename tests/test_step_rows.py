"""A funnel's rows come on three ways, in slices, passes and parts: the same numbers, to the last digit."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from convlib import step_rows
from convlib.conversions import Exclusion, Step
from convlib.errors import ParamError
from convlib.events import EventLog, read_events
from convlib.funnel import measure_funnel
from convlib.plan import Plan, read_plan

PLAN = """
macros:
  - id: pay
    match: {event_name: pay}
    value: {column: value}
    micros:
      - {id: look, match: {event_name: [look, peek]}, stage: consideration, kind: process_milestone}
      - {id: cheap, match: {event_name: [look, cart], price: {lt: 5}}, stage: consideration, kind: secondary_action}
      - {id: cart, match: {event_name: cart}, stage: decision, kind: process_milestone}
      - {id: leave, match: {event_name: leave}, stage: decision, kind: secondary_action}
"""
STEPS = ["look", "cart", "pay"]
RULES: dict[str, dict[str, Any]] = {
    "default": {},
    "by": {"by": ["device_type", "source"]},
    "last touch": {"by": "source", "breakdown": "last_touch"},
    "step": {"by": "source", "breakdown": "step:2"},
    "strict": {"order": "strict", "by": "device_type"},
    "unordered": {"order": "unordered", "by": "source"},
    "excluded": {"exclude": Exclusion("leave"), "by": "source"},
    "dropped": {"exclude": Exclusion("leave", 1, 2), "excluded": "drop_unit"},
    "hold": {"hold": "product_id", "by": "product_id"},
    "first time": {"first_time": True, "anchor": "first"},
    "totals": {"count": "totals", "by": "source"},
    "sessions": {"count": "sessions", "by": "source"},
    "session": {"unit": "session"},
    "optional": {"optional": [2], "step_windows": {3: "6h"}},
    "everyone": {"mature_only": False},
}
MORE_STEPS: dict[str, list[str | Step]] = {
    "shared events": ["look", "cheap", "cart", "pay"],
    "the same twice": ["look", "look", "pay"],
    "where": [Step("look", where={"device_type": "mobile"}), "cart", "pay"],
    "event names": ["peek", "cart", "pay"],
}


def draw_rows(seed: int = 1, users: int = 400) -> pd.DataFrame:
    """Draw a log with many ties, whose columns tell tied rows apart."""
    rng = np.random.default_rng(seed)
    count = users * 12
    names = np.array(["look", "peek", "cart", "leave", "pay", "other"])[rng.integers(0, 6, count)]
    user = rng.integers(0, users, count)
    hours = rng.integers(0, 24 * 21, count)
    return pd.DataFrame(
        {
            "event_name": names,
            "timestamp": pd.Timestamp("2026-03-02") + pd.to_timedelta(hours, unit="h"),
            "user_id": [f"u{number}" for number in user],
            "session_id": [f"s{number}" for number in hours // 24],
            "device_type": np.array(["mobile", "desktop", None], object)[user % 3],
            "source": np.array(["mail", "(none)", None, "ads"], object)[rng.integers(0, 4, count)],
            "product_id": np.array(["p1", "p2", None], object)[rng.integers(0, 3, count)],
            "price": rng.integers(1, 10, count),
            "value": np.where(names == "pay", rng.integers(1, 10_000, count) / 7, np.nan),
        }
    )


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(PLAN, encoding="utf-8")
    return read_plan(path)


@pytest.fixture
def rows() -> pd.DataFrame:
    return draw_rows()


def open_log(rows: pd.DataFrame, plan: Plan, folder: Path, name: str = "log") -> EventLog:
    path = folder / f"{name}.parquet"
    rows.to_parquet(path, index=False)
    return read_events(path, plan=plan)


def prepare(log: EventLog) -> EventLog:
    log.prepared.find("conversions.parquet", log.plan)
    assert log.is_ordered
    return log


def measure(log: EventLog, rules: dict[str, Any], steps: Any = STEPS) -> pd.DataFrame:
    return measure_funnel(log, steps, window="2D", **rules).table


def check(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)
    assert wanted["units"].sum() > 0


@pytest.mark.parametrize("name", RULES)
def test_fetch_parts_gives_the_same_from_the_source_the_prepared_form_and_the_arrays(
    name: str, rows: pd.DataFrame, plan: Plan, tmp_path: Path
) -> None:
    log = open_log(rows, plan, tmp_path)
    from_source = measure(log, RULES[name])
    assert not log.is_ordered  # so nothing was prepared for it
    from_arrays = measure(prepare(log), RULES[name])
    # A filter that every row passes: the arrays know no filters.
    from_engine = measure(log.where(price={"gte": 0}), RULES[name])
    check(from_arrays, from_source)
    check(from_engine, from_source)


@pytest.mark.parametrize("name", MORE_STEPS)
def test_fetch_parts_gives_the_same_for_steps_of_every_kind(
    name: str, rows: pd.DataFrame, plan: Plan, tmp_path: Path
) -> None:
    log = open_log(rows, plan, tmp_path)
    from_source = measure(log, RULES["by"], MORE_STEPS[name])
    assert not log.is_ordered
    check(measure(prepare(log), RULES["by"], MORE_STEPS[name]), from_source)


@pytest.mark.parametrize("name", ["by", "strict", "hold", "totals", "sessions"])
def test_fetch_parts_does_not_depend_on_order_names_slices_passes_and_parts(
    name: str, rows: pd.DataFrame, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = measure(open_log(rows, plan, tmp_path), RULES[name])
    shuffled = rows.sample(frac=1, random_state=3).reset_index(drop=True)
    check(measure(open_log(shuffled, plan, tmp_path, "shuffled"), RULES[name]), wanted)
    renamed = rows.assign(user_id=rows["user_id"].map(lambda name: f"{len(name) + int(name[1:]) % 7}-{name}"))
    check(measure(open_log(renamed, plan, tmp_path, "renamed"), RULES[name]), wanted)
    monkeypatch.setattr(step_rows, "PART", 64)
    check(measure(open_log(rows, plan, tmp_path, "parts"), RULES[name]), wanted)
    check(measure(prepare(open_log(rows, plan, tmp_path, "stored")), RULES[name]), wanted)
    monkeypatch.setattr(step_rows, "MOST_FETCHED", 700)
    monkeypatch.setattr(step_rows, "MOST_HELD", 1500)
    check(measure(open_log(shuffled, plan, tmp_path, "slices"), RULES[name]), wanted)


def test_fetch_parts_reads_slices_of_several_files(
    rows: pd.DataFrame, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = measure(open_log(rows, plan, tmp_path), RULES["by"])
    folder = tmp_path / "files"
    folder.mkdir()
    for number, part in enumerate((rows[:100], rows[100:3000], rows[3000:])):
        part.to_parquet(folder / f"{number}.parquet", index=False)
    monkeypatch.setattr(step_rows, "MOST_FETCHED", 500)
    check(measure(read_events(folder, plan=plan), RULES["by"]), wanted)


def test_fetch_parts_lists_only_the_groups_that_are_there_when_they_are_many(
    rows: pd.DataFrame, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = prepare(open_log(rows, plan, tmp_path))
    wanted = measure(log, RULES["by"])
    monkeypatch.setattr(step_rows, "MOST_GROUPS", 3)
    check(measure(log, RULES["by"]), wanted)


def test_fetch_parts_counts_the_members_of_a_segment(rows: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    log = open_log(rows, plan, tmp_path)
    of_mobile = rows[rows["device_type"] == "mobile"]  # the device is the user's, so the segment is these rows
    wanted = measure(open_log(of_mobile, plan, tmp_path, "mobile"), RULES["by"])
    check(measure(log.segment({"device_type": "mobile"}), RULES["by"]), wanted)
    in_filter = log.where(price={"gte": 0}).segment({"device_type": "mobile"})
    check(measure(in_filter, RULES["by"]), wanted)


def test_fetch_parts_counts_members_who_have_no_conversion(rows: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    last = rows[:1].assign(user_id="zed", event_name="other", device_type="mobile")
    log = prepare(open_log(pd.concat([rows, last]), plan, tmp_path))
    wanted = measure(open_log(rows[rows["device_type"] == "mobile"], plan, tmp_path, "mobile"), RULES["by"])
    check(measure(log.segment({"device_type": "mobile"}), RULES["by"]), wanted)
    # A plan whose conversions never fire.
    others = prepare(open_log(rows[rows["event_name"] == "other"], plan, tmp_path, "others"))
    assert measure(others.segment({"device_type": "mobile"}), {})["units"].tolist() == [0, 0, 0]


def test_fetch_parts_takes_double_fired_events_once(rows: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "once.yaml"
    path.write_text(PLAN.replace("{event_name: pay}\n", "{event_name: pay}\n    dedupe: {within: 1min}\n"), "utf-8")
    twice = pd.concat([rows, rows[rows["event_name"] == "pay"]])
    found = measure(open_log(twice, read_plan(path), tmp_path, "twice"), {"count": "totals"}, ["pay", "pay"])
    single = rows.drop_duplicates(["user_id", "event_name", "timestamp"])
    check(found, measure(open_log(single, plan, tmp_path), {"count": "totals"}, ["pay", "pay"]))


def test_fetch_parts_needs_no_column_that_is_derived(rows: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    log = open_log(rows.drop(columns="session_id"), plan, tmp_path)
    measure(log, {"count": "sessions"})
    assert log.is_ordered  # sessions are derived with the prepared form


def test_fetch_parts_names_everything_unknown_at_once(rows: pd.DataFrame, plan: Plan, tmp_path: Path) -> None:
    log = open_log(rows, plan, tmp_path)
    with pytest.raises(ParamError) as caught:
        measure(log, {}, [Step("loook", where={"device": "x"}), "cart"])
    columns = ", ".join(log.filled_columns)
    assert {"device_type", "price"} <= set(log.filled_columns)
    assert caught.value.problems == (
        "`loook` is neither a conversion of the plan nor an event of the log. Did you mean 'look'? Known are pay, "
        "look, cheap, cart, leave, other, peek.",
        f"The log has no column `device`. Did you mean 'device_type'? Its columns are {columns}.",
    )
