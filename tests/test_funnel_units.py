import re
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from scipy import stats as scipy_stats
from small_logs import START, make_log, make_plan, pick, repeat

from convlib import stats
from convlib.errors import ParamError
from convlib.events import EventLog, read_events
from convlib.funnel import Funnel, measure_funnel
from convlib.funnel_units import CURVE_COLUMNS, NEXT_COLUMNS, TIME_COLUMNS

PLAN = """\
macros:
  - id: purchase
    name: Bought
    match: {event_name: buy}
    value: {column: value}
    micros:
      - {id: item, name: Item viewed, match: {event_name: view}, stage: awareness, kind: process_milestone}
      - {id: cart, name: In the cart, match: {event_name: [cart, both]}, stage: decision, kind: process_milestone}
      - {id: wish, name: Wished, match: {event_name: [wish, both]}, stage: decision, kind: secondary_action}
"""
STEPS = ["item", "cart", "purchase"]
#: The data end at minute 1000.
SHOP = """\
ann view 0min device_type=mobile
ann cart 1min
ann buy 4min value=40
bob view 0min device_type=mobile
bob cart 2min
bob wish 3min
bob cart 5min
cid view 0min device_type=desktop
cid both 20min
dan view 0min device_type=desktop
dan both 0min
dan help 3min
dan both 9min
eve view 995min device_type=mobile
eve cart 996min
zoe ping 1000min
"""


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return make_log(SHOP, make_plan(tmp_path, PLAN))


@pytest.fixture
def funnel(log: EventLog) -> Funnel:
    return measure_funnel(log, STEPS, window="10min")


def test_times_spread_the_seconds_to_each_step_over_bins(funnel: Funnel) -> None:
    times = funnel.times
    assert tuple(times.columns) == TIME_COLUMNS
    filled = times[times["units"] > 0]
    # To the cart 0 (dan), 60 (ann) and 120 (bob) seconds; to the purchase 180 (ann). The bins grow from 60 to 180.
    assert pick(filled, "step name units share seconds_p50") == [
        (2, "cart", 2, 2 / 3, 60),
        (2, "cart", 1, 1 / 3, 60),
        (3, "purchase", 1, 1, 180),
    ]
    assert filled.iloc[0][["seconds_low", "seconds_high"]].to_list() == pytest.approx([0, 60 * 3 ** (1 / 24)])
    assert filled.iloc[2]["seconds_high"] == pytest.approx(180)
    cart = times[times["step"] == 2]
    np.testing.assert_allclose(cart["seconds_high"].iloc[:-1], cart["seconds_low"].iloc[1:])
    np.testing.assert_allclose(cart["seconds_high"].iloc[2:] / cart["seconds_low"].iloc[2:], 3 ** (1 / 24))


def test_times_have_the_quantiles_of_numpy_for_each_group(log: EventLog) -> None:
    times = measure_funnel(log, STEPS, window="10min", by="device_type").times
    mobile = times[(times["device_type"] == "mobile") & (times["step"] == 2)]
    assert mobile["units"].sum() == 2
    for q in (10, 25, 50, 75, 90):
        assert set(mobile[f"seconds_p{q}"]) == {np.quantile([60, 120], q / 100)}
    desktop = times[(times["device_type"] == "desktop") & (times["step"] == 3)]
    assert desktop["units"].sum() == 0
    assert desktop[["share", "seconds_p50"]].isna().all(axis=None)


def test_time_to_convert_counts_the_pending_for_as_long_as_they_were_watched(funnel: Funnel) -> None:
    # eve is watched for 5 minutes, the others for 10: ann converts after 4.
    curve = funnel.time_to_convert
    assert tuple(curve.columns) == CURVE_COLUMNS
    assert pick(curve, "seconds at_risk converted share") == [
        (0, 5, 0, 0),
        (240, 5, 1, pytest.approx(1 / 5)),
        (600, 3, 0, pytest.approx(1 / 5)),
    ]


def random_funnel(seed: int, **options: object) -> tuple[Funnel, pd.DataFrame]:
    """Draw a log in which everyone enters once, and give its funnel and when each entered and bought (or not)."""
    rng = np.random.default_rng(seed)
    entered = rng.integers(0, 5_000, 150)
    bought = entered + rng.integers(0, 900, 150)
    device = rng.choice(["mobile", "desktop"], 150)
    units = pd.DataFrame(
        {"user_id": [f"u{k}" for k in range(150)], "view": entered, "buy": bought, "device_type": device}
    )
    rows = units.melt(["user_id", "device_type"], ["view", "buy"], "event_name", "second")
    rows = rows[rows["second"] <= 5_000].assign(timestamp=START + pd.to_timedelta(rows["second"], unit="s"))
    log = read_events(
        pd.concat(
            [rows, pd.DataFrame([{"user_id": "z", "event_name": "x", "timestamp": START + pd.Timedelta("5000s")}])]
        )
    )
    return measure_funnel(log, ["view", "buy"], window="600s", **options), units  # type: ignore[arg-type]


def test_time_to_convert_is_the_kaplan_meier_estimate_of_scipy_for_each_group() -> None:
    funnel, units = random_funnel(8, by="device_type")
    curves = funnel.time_to_convert
    for device, rows in units.groupby("device_type"):
        taken = (rows["buy"] - rows["view"]).to_numpy(float)
        watched = np.minimum(5_000 - rows["view"].to_numpy(float), 600)
        done = taken <= watched
        data = scipy_stats.CensoredData(uncensored=taken[done], right=watched[~done])
        left = scipy_stats.ecdf(data).sf
        curve = curves[curves["device_type"] == device]
        np.testing.assert_allclose(curve["share"], 1 - left.evaluate(curve["seconds"]))
        assert curve["at_risk"].max() == len(rows)


def test_time_to_convert_starts_at_the_first_entry_not_at_the_attempt_that_counts(tmp_path: Path) -> None:
    rows = "ann view 0min\nann view 6min\nann buy 8min\nbob view 0min\nbob view 20min\nbob buy 21min\nzoe ping 99min"
    funnel = measure_funnel(make_log(rows, make_plan(tmp_path, PLAN)), ["item", "purchase"], window="7min")
    assert list(funnel.table["units"]) == [2, 2]
    # ann's attempt that counts takes 2 minutes, but she came 8 minutes before: after the window of 7, like bob.
    assert pick(funnel.time_to_convert, "seconds at_risk share") == [(0, 2, 0), (420, 2, 0)]


def test_time_to_convert_widens_intervals_of_attempts_that_are_not_independent(tmp_path: Path) -> None:
    # 30 units buy on both of two attempts and 30 on none: the design effect is 2 x 60/59.
    lines = repeat("a", 30, "view 0min", "buy 1min", "view 20min", "buy 21min") + repeat(
        "b", 30, "view 0min", "view 20min"
    )
    log = make_log(f"{lines}zoe ping 99min", make_plan(tmp_path, PLAN))
    curve = measure_funnel(log, ["item", "purchase"], window="10min", count="totals").time_to_convert
    assert pick(curve, "seconds at_risk converted share") == [(0, 120, 0, 0), (60, 120, 60, 0.5), (600, 60, 0, 0.5)]
    expected = stats.estimate_curve([60] * 60 + [600] * 60, [1] * 60 + [0] * 60, effect=120 / 59)
    found = curve.loc[1:1, ["share_ci_lower", "share_ci_upper"]].to_numpy()
    np.testing.assert_allclose(found, expected[["share_ci_lower", "share_ci_upper"]])


def test_next_events_are_the_first_after_the_stop_within_the_window(funnel: Funnel) -> None:
    # cid: both, after his window. dan: two conversions at once are the cart, where he stops; then help.
    found = funnel.next_events().table
    assert tuple(found.columns) == NEXT_COLUMNS
    assert pick(found, "step name next units share median_seconds")[1:] == [
        (2, "cart", "help", 1, 0.5, 180),
        (2, "cart", "wish", 1, 0.5, 60),
    ]
    first = found.iloc[0]
    assert first[["step", "name", "next", "units", "share"]].to_list() == [1, "item", "(nothing)", 1, 1]
    assert np.isnan(first["median_seconds"])
    low, high = stats.wilson_interval([1], [2])
    assert pick(found, "share_ci_lower share_ci_upper")[1] == (low[0], high[0])


def test_next_events_are_named_for_people_and_worded(funnel: Funnel) -> None:
    found = funnel.next_events()
    assert list(found.named["next"]) == ["(nothing)", "help", "Wished"]
    assert "<td" in found._repr_html_()
    assert found.takeaways == (
        "Of the 2 units that stopped at In the cart, all did something more within 10 minutes of the first step; most "
        "often help came next: 50.0% (9.5% to 90.5%), half of the time within 3 min of the stop.",
    )


def test_next_events_count_those_beyond_the_top_together(tmp_path: Path) -> None:
    after = ["one", "one", "two", "two", "cart", "cart", "cart", "three", None]
    rows = "\n".join(
        f"u{k} view 0min\nu{k} {name} {k + 1}min" if name else f"u{k} view 0min" for k, name in enumerate(after)
    )
    log = make_log(f"{rows}\nz view 0min\nz cart 0min\nz buy 0min\nz ping 99min", make_plan(tmp_path, PLAN))
    table = measure_funnel(log, ["item", "purchase"], window="60min").next_events(top=2).table
    assert pick(table, "next units median_seconds")[:3] == [("cart", 3, 360), ("one", 2, 90), ("(other)", 3, 240)]
    assert list(table["next"])[3:] == ["(nothing)"]
    assert table["share"].sum() == pytest.approx(1)


def test_next_events_of_nobody_have_the_same_columns(tmp_path: Path) -> None:
    log = make_log("ann view 0min\nann buy 1min\nz ping 99min", make_plan(tmp_path, PLAN))
    found = measure_funnel(log, ["item", "purchase"], window="10min").next_events()
    assert len(found.table) == 0
    assert tuple(found.table.columns) == NEXT_COLUMNS
    assert found.takeaways == ("None of the units of segment all stopped on the way.",)


def test_next_events_tell_an_event_from_the_conversion_of_its_name(tmp_path: Path) -> None:
    log = make_log("ann view 0min\nann item 1min\nz view 0min\nz buy 0min\nz x 99min", make_plan(tmp_path, PLAN))
    table = measure_funnel(log, ["item", "purchase"], window="10min").next_events().table
    assert list(table["next"]) == ["item (event)"]


def test_next_events_take_the_plans_first_conversion_of_an_event_that_is_two(tmp_path: Path) -> None:
    log = make_log("ann view 0min\nann both 1min\nz view 0min\nz buy 0min\nz x 99min", make_plan(tmp_path, PLAN))
    table = measure_funnel(log, ["item", "purchase"], window="10min").next_events().table
    assert list(table["next"]) == ["cart"]


def test_next_events_and_units_do_not_need_a_plan() -> None:
    rows = [("ann", "view", 0), ("ann", "help", 1), ("z", "view", 0), ("z", "buy", 99)]
    frame = pd.DataFrame(rows, columns=["user_id", "event_name", "minute"])
    log = read_events(frame.assign(timestamp=START + pd.to_timedelta(frame["minute"], unit="min")))
    funnel = measure_funnel(log, ["view", "buy"], window="10min", mature_only=False)
    assert pick(funnel.next_events().table, "name next units") == [("view", "help", 1), ("view", "(nothing)", 1)]
    assert list(funnel.units()["user_id"]) == ["ann", "z"]


def test_next_events_look_only_at_the_sessions_own_events(tmp_path: Path) -> None:
    rows = "ann view 0min session_id=a1\nann help 1min session_id=a2\nann wish 2min session_id=a1\n"
    log = make_log(f"{rows}z buy 99min session_id=z1", make_plan(tmp_path, PLAN))
    for options in ({"count": "sessions"}, {"unit": "session"}):
        funnel = measure_funnel(log, ["item", "purchase"], window="10min", **options)  # type: ignore[arg-type]
        assert funnel.counted == "sessions"
        assert pick(funnel.next_events().table, "next units") == [("wish", 1)]


def test_next_events_divide_the_counts_of_totals_by_their_design_effect(tmp_path: Path) -> None:
    # Both attempts of each of 2 units end alike: 4 attempts say what 2 units do, and sample variance takes one more.
    rows = "".join(
        f"{u} view {m}min\n{u} {name} {m + 1}min\n" for u, name in (("ann", "help"), ("bob", "wish")) for m in (0, 20)
    )
    log = make_log(f"{rows}z buy 99min", make_plan(tmp_path, PLAN))
    table = measure_funnel(log, ["item", "purchase"], window="10min", count="totals").next_events().table
    low = stats.wilson_interval([2 / 4], [4 / 4])[0][0]
    assert pick(table, "next units share share_ci_lower") == [("help", 2, 0.5, low), ("wish", 2, 0.5, low)]


@pytest.mark.parametrize(
    ("step", "state", "users"),
    [
        (1, "reached", ["ann", "bob", "cid", "dan"]),
        ("cart", "reached", ["ann", "bob", "dan"]),
        ("In the cart", "lost", ["cid"]),
        (3, "lost", ["bob", "dan"]),
        (1, "converted", ["ann"]),
        (2, "pending", ["eve"]),
        (3, "pending", []),
    ],
)
def test_units_are_those_that_the_table_counts(funnel: Funnel, step: int | str, state: str, users: list[str]) -> None:
    assert list(funnel.units(step, state)["user_id"]) == users  # type: ignore[arg-type]


def test_units_have_their_times_value_and_groups(log: EventLog) -> None:
    funnel = measure_funnel(log, STEPS, window="10min", by="device_type")
    found = funnel.units("purchase", "converted")
    minute = pd.Timedelta("1min")
    times = {f"time_{k}": [START + m * minute] for k, m in ((1, 0), (2, 1), (3, 4))}
    expected = pd.DataFrame(
        {"user_id": ["ann"], "device_type": ["mobile"], "entered": [START], **times, "value": [40.0]}
    )
    assert_frame_equal(found, expected, check_dtype=False)
    lost = funnel.units(2, "lost")
    assert lost["time_2"].isna().all()
    assert lost["time_2"].dtype == found["time_2"].dtype == "datetime64[us]"
    assert list(lost["value"].isna()) == [True]


def test_units_agree_with_the_table_and_do_not_depend_on_how_the_log_is_read(log: EventLog) -> None:
    # The first funnel takes its rows from the source; `units` then prepares the log, and the second one uses that.
    first = measure_funnel(log, STEPS, window="10min")
    listed = first.units()
    second = measure_funnel(log, STEPS, window="10min")
    assert_frame_equal(second.units(), listed)
    assert [len(first.units(step)) for step in (1, 2, 3)] == list(first.table["units"])
    assert [len(first.units(step, "lost")) for step in (2, 3)] == list(first.table["lost"])[1:]


def test_units_of_sessions_have_both_ids(tmp_path: Path) -> None:
    rows = "ann view 0min session_id=s\nann view 9min session_id=t\nbob view 0min session_id=s\n"
    rows += "bob buy 99min session_id=s"
    log = make_log(rows, make_plan(tmp_path, PLAN))
    found = measure_funnel(log, ["item", "purchase"], window="10min", count="sessions").units()
    assert pick(found, "user_id session_id") == [("ann", "s"), ("bob", "s"), ("ann", "t")]


def test_units_lose_nobody_at_an_optional_step(log: EventLog) -> None:
    funnel = measure_funnel(log, STEPS, window="10min", optional="cart")
    assert len(funnel.units("cart", "lost")) == 0
    assert list(funnel.units("purchase", "lost")["user_id"]) == ["bob", "cid", "dan"]


@pytest.mark.parametrize(
    ("step", "state", "message"),
    [
        ("crat", "lost", "`step` is 'crat'; the steps are 1 'item', 2 'cart', 3 'purchase'. Did you mean 'cart'?"),
        (0, "lost", "`step` is 0; the steps are 1 'item', 2 'cart', 3 'purchase'."),
        (
            9,
            "lots",
            "2 problems:\n1. `step` is 9; the steps are 1 'item', 2 'cart', 3 'purchase'.\n"
            "2. `state` is 'lots'; it must be one of 'reached', 'lost', 'converted', 'pending'. Did you mean 'lost'?",
        ),
        (1, "lost", "Nobody is lost at the first step, with which attempts begin; `step` must name a later one."),
    ],
)
def test_units_refuse_what_is_no_step_or_state(funnel: Funnel, step: int | str, state: str, message: str) -> None:
    with pytest.raises(ParamError) as caught:
        funnel.units(step, state)  # type: ignore[arg-type]
    assert str(caught.value) == message


DOCS = (Path(__file__).parent.parent / "docs" / "funnel.md").read_text("utf-8")


def test_docs_have_an_example_of_the_results_that_holds() -> None:
    found = re.search(r"```\nfunnel = (measure_funnel\(.*\))\n((?:.+\n)+?)```", DOCS)
    assert found
    lines = found[2].splitlines()
    rows = [row for line in lines if "->" not in line for row in read_example(*line.split())]
    rows.append({"user_id": "zoe", "event_name": "x", "timestamp": START + pd.Timedelta("100min"), "value": nan})
    known = {"measure_funnel": measure_funnel, "log": read_events(pd.DataFrame(rows))}
    known["funnel"] = eval(found[1], known)
    shown = [line.split("->") for line in lines if "->" in line]
    assert len(shown) == 9
    for told, expected in shown:
        assert eval(told, known) == pytest.approx(eval(expected)), told


def read_example(unit: str, *events: str) -> list[dict[str, object]]:
    """Read `A0=10` as event A at minute 0, worth 10."""
    found = [re.fullmatch(r"([A-Za-z])(\d+)(?:=(\d+))?", event) for event in events]
    return [
        {
            "user_id": unit,
            "event_name": m[1],
            "timestamp": START + pd.Timedelta(f"{m[2]}min"),
            "value": float(m[3] or nan),
        }
        for m in found
        if m
    ]
