import re
import time
from collections.abc import Sequence
from functools import partial
from math import nan, sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal

from convlib.conversions import Exclusion, Step
from convlib.errors import ParamError
from convlib.events import EventLog, read_events
from convlib.funnel import Funnel, measure_funnel
from convlib.funnel_results import COLUMNS, TREND_COLUMNS

MONDAY = pd.Timestamp("2026-01-05")
STEPS = ("view", "cart", "buy")
PLAN = """\
macros:
  - id: purchase
    match: {event_name: buy}
    micros:
      - {id: added, match: {event_name: cart}, stage: decision, kind: process_milestone}
"""
#: user, event, minute, device, value
SHOP = [
    ("a", "view", 0, "mobile", None),
    ("a", "cart", 1, "mobile", None),
    ("a", "buy", 3, "desktop", 40),
    ("b", "view", 0, "mobile", None),
    ("b", "cart", 5, "mobile", None),
    ("c", "view", 0, "desktop", None),
    ("c", "cart", 3, "desktop", None),
    ("c", "buy", 11, "desktop", 1000),  # one minute after the window
    ("d", "view", 0, None, None),
    ("e", "cart", 0, "desktop", None),  # in the wrong order
    ("e", "view", 2, "desktop", None),
    ("e", "buy", 3, "desktop", 1000),
    ("f", "view", 0, "mobile", None),  # the second attempt gets furthest
    ("f", "view", 20, "desktop", None),
    ("f", "cart", 22, "mobile", None),
    ("f", "buy", 25, "mobile", 60),
    ("z", "ping", 1000, "mobile", None),  # the end of the data
]
Row = tuple[str, str, float, str | None, float | None]


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["user_id", "event_name", "minute", "device_type", "value"])
    table["value"] = table["value"].astype(float)
    return table.assign(timestamp=MONDAY + pd.to_timedelta(table["minute"], unit="min")).drop(columns="minute")


def read(rows: Sequence[Row]) -> EventLog:
    return read_events(frame(rows))


def shop_funnel(window: str = "10min", **options: object) -> Funnel:
    return measure_funnel(read(SHOP), STEPS, window=window, **options)  # type: ignore[arg-type]


def units(funnel: Funnel) -> list[int]:
    return list(funnel.table["units"])


def plain(funnel: Funnel) -> pd.DataFrame:
    return funnel.table.drop(columns=[name for name in COLUMNS if "_ci_" in name])


def test_measure_funnel_counts_times_and_value_lost() -> None:
    # cart after 60 (a), 300 (b), 180 (c), 120 (f) seconds; buy 120 (a), 180 (f) after cart and 180, 300 after view.
    # Both buyers' mean value is 50: 2 lost at cart x 2/4 of those who passed it x 50; 2 lost at buy x 2/2 x 50.
    expected = pd.DataFrame(
        {
            "step": [1, 2, 3],
            "name": ["view", "cart", "buy"],
            "units": [6, 4, 2],
            "pending": [0, 0, 0],
            "rate_from_start": [1, 4 / 6, 2 / 6],
            "rate_from_previous": [1, 4 / 6, 2 / 4],
            "lost": [0, 2, 2],
            "seconds_from_previous_p25": [nan, 105, 135],
            "seconds_from_previous_p50": [nan, 150, 150],
            "seconds_from_previous_p75": [nan, 210, 165],
            "seconds_from_start_p50": [nan, 150, 240],
            "value": [0.0, 50, 100],
            "note": ["6 units, fewer than 30"] * 3,
        }
    )
    assert_frame_equal(plain(shop_funnel()), expected, check_dtype=False)


def test_measure_funnel_keeps_what_it_was_made_with() -> None:
    funnel = shop_funnel(by="device_type")
    assert (funnel.steps, funnel.window, funnel.by, funnel.segment) == (STEPS, "10min", ("device_type",), "all")
    assert tuple(funnel.table.columns) == ("device_type", *COLUMNS)
    assert tuple(funnel.trend.columns) == TREND_COLUMNS
    assert "<th" in funnel._repr_html_()
    assert "Device type" in funnel._repr_html_()


def test_measure_funnel_gives_wilson_intervals_of_start_and_previous() -> None:
    table = shop_funnel().table
    from_start = [wilson(6, 6), wilson(4, 6), wilson(2, 6)]
    from_previous = [wilson(6, 6), wilson(4, 6), wilson(2, 4)]
    for name, expected in (("rate_from_start", from_start), ("rate_from_previous", from_previous)):
        found = table[[f"{name}_ci_lower", f"{name}_ci_upper"]].to_numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_measure_funnel_narrows_intervals_at_lower_confidence() -> None:
    table = shop_funnel(confidence=0.5).table
    found = list(table.loc[1, ["rate_from_start_ci_lower", "rate_from_start_ci_upper"]])
    np.testing.assert_allclose(found, wilson(4, 6, z=0.6744897501960817), rtol=0, atol=1e-12)


def wilson(successes: float, trials: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's (1927) score interval in closed form."""
    rate = successes / trials
    centre = rate + z**2 / (2 * trials)
    half = z * sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return (centre - half) / scale, (centre + half) / scale


@pytest.mark.parametrize(
    ("window", "expected"),
    [("11min", [6, 4, 3]), ("659s", [6, 4, 2]), ("3min", [6, 3, 1]), ("179s", [6, 2, 0]), ("1W", [6, 4, 3])],
)
def test_measure_funnel_counts_both_ends_of_the_window(window: str, expected: list[int]) -> None:
    assert units(shop_funnel(window, mature_only=False)) == expected


PENDING = [
    ("early", "view", 0, None, None),
    ("early", "buy", 1, None, 7),
    ("edge", "view", 990, None, None),  # its 10 minutes end with the data
    ("quick", "view", 991, None, None),
    ("quick", "buy", 992, None, 9),
    ("late", "view", 1000, None, None),
    ("again", "view", 100, None, None),  # entered long ago: a later attempt counts
    ("again", "view", 998, None, None),
    ("again", "buy", 999, None, 5),
]


def test_measure_funnel_leaves_pending_units_out_of_every_count() -> None:
    table = measure_funnel(read(PENDING), ["view", "buy"], window="10min").table
    assert table[["units", "pending", "lost"]].to_numpy().tolist() == [[3, 2, 0], [2, 2, 1]]
    assert table.loc[1, "value"] == 1 * 1 * (7 + 5) / 2


def test_measure_funnel_counts_everyone_when_asked() -> None:
    table = measure_funnel(read(PENDING), ["view", "buy"], window="10min", mature_only=False).table
    assert table[["units", "pending", "lost"]].to_numpy().tolist() == [[5, 0, 0], [3, 0, 2]]


def test_measure_funnel_notes_when_all_units_are_pending() -> None:
    table = measure_funnel(read(PENDING), ["view", "buy"], window="7D").table
    assert table[["units", "pending", "lost", "note"]].to_numpy().tolist() == [[0, 5, 0, "no mature unit"]] * 2
    rates = [name for name in COLUMNS if name.startswith(("rate", "seconds", "value"))]
    assert table[rates].isna().all(axis=None)


def test_measure_funnel_breaks_down_by_the_counted_attempts_first_step() -> None:
    # d has no device; f's counted attempt began on the desktop though it entered and went on with the phone.
    table = shop_funnel(by="device_type").table
    found = table.pivot(index="device_type", columns="step", values="units")
    assert found.to_dict("index") == {
        "(none)": {1: 1, 2: 0, 3: 0},
        "desktop": {1: 3, 2: 2, 3: 1},
        "mobile": {1: 2, 2: 2, 3: 1},
    }


def test_measure_funnel_groups_sum_to_the_whole() -> None:
    counts = ["units", "pending", "lost"]
    groups = shop_funnel("10min", by=["device_type"]).table.groupby("step")[counts].sum().reset_index(drop=True)
    assert_frame_equal(groups, shop_funnel().table[counts])


def test_measure_funnel_breaks_down_by_two_columns() -> None:
    table = measure_funnel(read(SHOP), STEPS, window="10min", by=["device_type", "event_name"]).table
    assert tuple(table.columns) == ("device_type", "event_name", *COLUMNS)
    assert set(table["event_name"]) == {"view"}


@pytest.mark.parametrize("column", ["time", "unit", "name", "step", "value"])
def test_measure_funnel_refuses_a_breakdown_named_like_a_column_of_its_table(column: str) -> None:
    rows = frame(SHOP).assign(**{column: 7.0})
    with pytest.raises(ParamError) as caught:
        measure_funnel(read_events(rows), STEPS, by=column)
    assert str(caught.value) == (
        f"The column `{column}` can't break results down: their own tables have a column of that name. "
        "Rename it in the log."
    )


def test_measure_funnel_narrows_a_step_by_its_row() -> None:
    steps = [Step("view", where={"device_type": "mobile"}), Step("buy", where={"value": {"gte": 50}})]
    funnel = measure_funnel(read(SHOP), steps, window="1h")
    assert funnel.steps == ("view (device_type = mobile)", "buy (value ≥ 50)")
    assert units(funnel) == [3, 1]  # a, b and f viewed on a phone; only f then bought for 50 or more


def test_measure_funnel_takes_ids_of_the_plan_before_event_names(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN, encoding="utf-8")
    log = read_events(frame(SHOP), plan=path)
    assert units(measure_funnel(log, ["view", "added", "purchase"], window="10min")) == [6, 4, 2]


def test_measure_funnel_needs_two_events_for_the_same_name_twice() -> None:
    rows: list[Row] = [
        ("once", "view", 0, None, None),
        ("twice", "view", 0, None, None),
        ("twice", "view", 4, None, None),
        ("slow", "view", 0, None, None),
        ("slow", "view", 11, None, None),
        ("at one instant", "view", 3, None, None),
        ("at one instant", "view", 3, None, None),
        ("z", "ping", 1000, None, None),
    ]
    table = measure_funnel(read(rows), ["view", "view"], window="10min").table
    assert list(table["units"]) == [4, 2]
    assert table.loc[1, "seconds_from_previous_p50"] == 120  # of 240 and 0


def test_measure_funnel_needs_two_events_for_a_name_and_a_part_of_it() -> None:
    rows: list[Row] = [
        ("one", "view", 0, "mobile", None),
        ("two", "view", 0, "desktop", None),
        ("two", "view", 1, "mobile", None),
        ("both", "view", 0, "mobile", None),
        ("both", "view", 1, "mobile", None),
        ("z", "ping", 1000, None, None),
    ]
    steps: list[str | Step] = ["view", Step("view", where={"device_type": "mobile"})]
    assert units(measure_funnel(read(rows), steps, window="10min")) == [3, 2]


def test_measure_funnel_counts_ties_in_step_order() -> None:
    rows: list[Row] = [("a", name, 5, None, None) for name in ("buy", "cart", "view")]
    assert units(measure_funnel(read(rows), STEPS, mature_only=False)) == [1, 1, 1]


def test_measure_funnel_counts_duplicate_events_of_a_unit_once() -> None:
    assert units(measure_funnel(read([*SHOP, *SHOP]), STEPS, window="10min")) == [6, 4, 2]


def test_measure_funnel_counts_sessions() -> None:
    rows = frame([("a", "view", 0, None, None), ("a", "view", 5, None, None), ("a", "buy", 6, None, None)])
    log = read_events(rows.assign(session_id=["s1", "s2", "s2"]))
    assert units(measure_funnel(log, ["view", "buy"], unit="session", mature_only=False)) == [2, 1]
    assert units(measure_funnel(log, ["view", "buy"], mature_only=False)) == [1, 1]


def test_measure_funnel_tells_sessions_of_two_users_with_one_id_apart() -> None:
    rows = frame([("a", "view", 0, None, None), ("b", "buy", 1, None, None)]).assign(session_id="1")
    assert units(measure_funnel(read_events(rows), ["view", "buy"], unit="session", mature_only=False)) == [1, 0]


def test_measure_funnel_opens_attempts_in_the_period_and_looks_past_it() -> None:
    day = 24 * 60
    rows: list[Row] = [
        ("before", "view", -1, None, None),
        ("before", "buy", 1, None, None),
        ("over the end", "view", day - 1, None, None),
        ("over the end", "buy", day + 5, None, None),
        ("after", "view", day, None, None),
        ("after", "buy", day + 1, None, None),
        ("z", "ping", 10 * day, None, None),
    ]
    log = read(rows).between("2026-01-05", "2026-01-05")
    table = measure_funnel(log, ["view", "buy"], window="1h").table
    assert table[["units", "pending"]].to_numpy().tolist() == [[1, 0], [1, 0]]


def test_measure_funnel_counts_only_units_of_the_segment() -> None:
    log = read(SHOP).segment({"device_type": "mobile"})
    assert units(measure_funnel(log, STEPS, window="10min")) == [3, 3, 2]  # a, b, f entered on a phone


def test_measure_funnel_of_a_segment_without_units_keeps_columns_and_types() -> None:
    log, empty = read(SHOP), read(SHOP).segment({"device_type": "tv"})
    for by in ((), ("device_type",)):
        some, none = (measure_funnel(each, STEPS, window="10min", by=by) for each in (log, empty))
        assert none.table["units"].sum() == 0
        assert_series_equal(none.table.dtypes, some.table.dtypes)
        assert_series_equal(none.leaks.dtypes, some.leaks.dtypes)
        assert_series_equal(none.trend.dtypes, some.trend.dtypes)


def test_measure_funnel_of_rows_without_any_step_counts_nobody() -> None:
    log = read(SHOP).where(device_type="tv")
    assert units(measure_funnel(log, STEPS, window="10min")) == [0, 0, 0]


@pytest.mark.parametrize(
    ("rows", "expected", "value"),
    [
        pytest.param([("a", "view", 0, None, None), ("a", "buy", 1, None, 8)], [1, 1], 0, id="one unit converts"),
        pytest.param([("a", "view", 0, None, None), ("b", "buy", 1, None, 8)], [1, 0], nan, id="none converts"),
        pytest.param(
            [(u, name, 0, None, 8) for u in "abc" for name in ("view", "buy")], [3, 3], 0, id="all convert at once"
        ),
        pytest.param([("a", "view", 0, None, 3), ("a", "buy", 1, None, None)], [1, 1], nan, id="no value is known"),
    ],
)
def test_measure_funnel_holds_at_the_edges(rows: list[Row], expected: list[int], value: float) -> None:
    table = measure_funnel(read(rows), ["view", "buy"], mature_only=False).table
    assert list(table["units"]) == expected
    np.testing.assert_equal(table.loc[1, "value"], value)


def test_measure_funnel_ranks_leaks_by_units_and_by_value() -> None:
    # view to add: 1 of 4 lost; to cart: 2 of 3 lost; to buy: none lost. Each lost at cart is worth more too.
    rows: list[Row] = [(u, "view", 0, None, None) for u in "abcd"]
    rows += [(u, "add", 1, None, None) for u in "abc"]
    rows += [("a", "cart", 2, None, None), ("a", "buy", 3, None, 90)]
    leaks = measure_funnel(read(rows), ["view", "add", "cart", "buy"], mature_only=False).leaks
    assert leaks[["name", "lost", "units_rank", "value_rank"]].to_numpy().tolist() == [
        ["cart", 2, 1, 1],
        ["add", 1, 2, 2],
        ["buy", 0, 3, 3],
    ]
    assert list(leaks["value"]) == [2 * 1 * 90, 1 * (1 / 3) * 90, 0]


def test_measure_funnel_ranks_leaks_differently_by_value_than_by_units() -> None:
    # 4 lost at cart, where 2 of 4 who passed buy: 4 x 1/2 x 10 = 20; 2 lost at buy: 2 x 1 x 10 = 20: a tie.
    # One unit more lost at the cart and it leads: 5 x 2/4 x 10 = 25.
    for lost, ranks in ((4, [["cart", 1, 1], ["buy", 2, 1]]), (5, [["cart", 1, 1], ["buy", 2, 2]])):
        rows: list[Row] = [(f"gone {i}", "view", 0, None, None) for i in range(lost)]
        rows += [(u, name, 0, None, None) for u in "abcd" for name in ("view", "cart")]
        rows += [(u, "buy", 1, None, 10) for u in "ab"]
        leaks = measure_funnel(read(rows), STEPS, mature_only=False).leaks
        assert leaks[["name", "units_rank", "value_rank"]].to_numpy().tolist() == ranks


def test_measure_funnel_trends_by_week_from_monday() -> None:
    week = 7 * 24 * 60
    rows: list[Row] = [
        ("sunday", "view", -1, None, None),
        ("monday", "view", 0, None, None),
        ("monday", "buy", 1, None, None),
        ("next sunday", "view", week - 1, None, None),
        ("third week", "view", 2 * week, None, None),
        ("z", "view", 4 * week, None, None),  # pending: in no week
    ]
    trend = measure_funnel(read(rows), ["view", "buy"], window="1D").trend
    expected = pd.DataFrame(
        {
            "period": pd.to_datetime(["2025-12-29", "2026-01-05", "2026-01-19"]),
            "units": [1, 2, 1],
            "converted": [0, 1, 0],
            "rate": [0.0, 0.5, 0.0],
            # The log begins on the Sunday of the first week.
            "note": [
                "partial week; 1 units, fewer than 30",
                "2 units, fewer than 30",
                "1 units, fewer than 30",
            ],
        }
    )
    assert_frame_equal(trend.drop(columns=["rate_ci_lower", "rate_ci_upper"]), expected, check_dtype=False)
    intervals = trend[["rate_ci_lower", "rate_ci_upper"]].to_numpy()
    np.testing.assert_allclose(intervals, [wilson(0, 1), wilson(1, 2), wilson(0, 1)], rtol=0, atol=1e-12)


def random_rows(seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    names = ["view", "cart", "buy", "ping"]
    return [
        (f"u{rng.integers(40)}", names[rng.integers(4)], int(rng.integers(60)), ["m", "d", None][rng.integers(3)], 1.0)
        for _ in range(300)
    ]


def test_measure_funnel_does_not_depend_on_the_order_of_rows_or_the_names_of_users() -> None:
    rows = random_rows(5)
    first = measure_funnel(read(rows), STEPS, window="10min", by="device_type")
    shuffled = frame(rows).sample(frac=1, random_state=1)
    renamed = shuffled.assign(user_id=["v" + str(99 - int(u[1:])) for u in shuffled["user_id"]])
    second = measure_funnel(read_events(renamed), STEPS, window="10min", by="device_type")
    assert_frame_equal(first.table, second.table)
    assert_frame_equal(first.trend, second.trend)


def test_measure_funnel_never_rises_and_keeps_rates_between_0_and_1() -> None:
    for seed in range(5):
        table = measure_funnel(read(random_rows(seed)), STEPS, window="10min").table
        assert (table["units"].diff().dropna() <= 0).all()
        rates = table[[name for name in COLUMNS if name.startswith("rate")]]
        assert rates.min().min() >= 0
        assert rates.max().max() <= 1


def test_measure_funnel_leaves_the_given_table_unchanged() -> None:
    given = frame(SHOP)
    copy = given.copy()
    measure_funnel(read_events(given), STEPS)
    assert_frame_equal(given, copy)


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        pytest.param(
            ["vieww", "buy"],
            {},
            "`vieww` is neither a conversion of the plan nor an event of the log. Did you mean 'view'? "
            "Known are buy, cart, ping, view.",
            id="an unknown step",
        ),
        pytest.param(
            ["vieww", "byu"],
            {},
            "2 problems:\n"
            "1. `vieww` is neither a conversion of the plan nor an event of the log. Did you mean 'view'? "
            "Known are buy, cart, ping, view.\n"
            "2. `byu` is neither a conversion of the plan nor an event of the log. Did you mean 'buy'? "
            "Known are buy, cart, ping, view.",
            id="two unknown steps",
        ),
        pytest.param(
            STEPS,
            {"window": "7 days"},
            "`window` is '7 days'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'. "
            "Did you mean '7D'?",
            id="a bad window",
        ),
        pytest.param(["view"], {}, "`steps` names 1 step; a funnel needs at least two.", id="one step"),
        pytest.param(
            ["view"],
            {"confidence": 95},
            "`confidence` is 95; it must lie between 0 and 1, such as 0.95.",
            id="one step at a bad confidence",
        ),
        pytest.param(
            STEPS,
            {"by": "devicetype"},
            "The log has no column `devicetype`. Did you mean 'device_type'? Its columns are event_name, timestamp, "
            "user_id, session_id, land, device_type, value.",
            id="an unknown breakdown",
        ),
        pytest.param(
            [Step("view", where={"devicetype": "tv"}), "buy"],
            {},
            "The log has no column `devicetype`. Did you mean 'device_type'? Its columns are event_name, timestamp, "
            "user_id, session_id, land, device_type, value.",
            id="an unknown column of a step",
        ),
    ],
)
def test_measure_funnel_refuses(steps: Sequence[str | Step], options: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError) as caught:
        measure_funnel(read(SHOP), steps, **options)  # type: ignore[arg-type]
    assert str(caught.value) == message


DOCS = Path(__file__).parent.parent / "docs" / "funnel.md"
EXAMPLES = re.findall(r"```\n(measure_funnel\(.*\))\n((?:.+\n)+?)```", DOCS.read_text("utf-8"))


def test_docs_have_an_example_of_five_units_for_each_rule() -> None:
    assert len(EXAMPLES) == 13
    assert {text.count("\n") for _, text in EXAMPLES} == {5}


@pytest.mark.parametrize(("call", "text"), EXAMPLES)
def test_measure_funnel_counts_the_examples_of_the_docs(call: str, text: str) -> None:
    lines = [line.split("->") for line in text.splitlines()]
    rows = [row for unit, _ in lines for row in read_example(*unit.split())]
    known = {"measure_funnel": partial(measure_funnel, mature_only=False), "Exclusion": Exclusion}
    log = read_events(pd.DataFrame([*rows, *read_example("z", "A99", "B98", "C97", "x99")])).between("2026-01-05")
    log = log.segment({"user_id": [unit.split()[0] for unit, _ in lines]})
    table = eval(call, known | {"log": log}).table
    expected = [expect_counts(counted.split(), len(table)) for _, counted in lines]
    assert list(table["units"]) == np.sum(expected, axis=0).tolist()
    for (unit, _), steps in zip(lines, expected, strict=True):
        alone = eval(call, known | {"log": log.segment({"user_id": unit.split()[0]})}).table
        assert list(alone["units"]) == steps, unit


def read_example(unit: str, *events: str) -> list[dict[str, object]]:
    """Read `A0:p` as event A at minute 0, of product p."""
    found = [re.fullmatch(r"([A-Za-z])(-?\d+)(?::(\w))?", event) for event in events]
    return [
        {"user_id": unit, "event_name": m[1], "timestamp": MONDAY + pd.Timedelta(f"{m[2]}min"), "product_id": m[3]}
        for m in found
        if m
    ]


def expect_counts(counted: Sequence[str], steps: int) -> list[int]:
    if all(each.isdigit() for each in counted):
        numbers = [int(each) for each in counted]
        return numbers if len(numbers) == steps else [int(k < numbers[0]) for k in range(steps)]
    return [int(name in counted) for name in "ABC"[:steps]]


def funnel_of(rows: Sequence[Row], steps: Sequence[str | Step] = STEPS, **options: object) -> Funnel:
    return measure_funnel(read(rows), steps, window="10min", mature_only=False, **options)  # type: ignore[arg-type]


def test_measure_funnel_numbers_a_step_that_comes_twice() -> None:
    rows: list[Row] = [("a", "view", 0, None, None), ("a", "view", 1, None, None), ("b", "view", 0, None, None)]
    funnel = funnel_of(rows, ["view", "view"])
    assert pick_units(funnel) == {"view": 2, "view (2)": 1}
    assert funnel.units("view (2)", "lost")["user_id"].tolist() == ["b"]
    funnel.plot()


def pick_units(funnel: Funnel) -> dict[str, int]:
    return dict(zip(funnel.table["name"], funnel.table["units"], strict=True))


def test_measure_funnel_names_no_best_group_where_all_are_alike() -> None:
    rows: list[Row] = [(f"{d}{n}", "view", 0, d, None) for d in ("mobile", "desktop") for n in range(30)]
    funnel = funnel_of([*rows, ("z", "cart", 9, None, None), ("z", "buy", 9, None, 1)], by="device_type")
    assert funnel.takeaways[0] == (
        "By device_type, no group gets through more often than another: 0.0% of each within 10 minutes."
    )


def test_measure_funnel_does_not_compare_groups_that_depend_on_who_stays() -> None:
    funnel = funnel_of(SHOP, by="device_type", breakdown="last_touch")
    assert funnel.takeaways[0] == (
        "Groups by device_type at a later step depend on who stays until then: they are not compared."
    )


def test_measure_funnel_names_what_is_no_step_exclusion_or_unit_at_once() -> None:
    with pytest.raises(ParamError) as caught:
        funnel_of(SHOP, ["view", 3], exclude="cart", unit="users")  # type: ignore[list-item]
    assert caught.value.problems == (
        "`steps` holds 3; a step is the name of a conversion or event, or a Step.",
        "`exclude` holds 'cart'; write it as Exclusion('cart').",
        "`unit` is 'users'; it must be one of 'user', 'session'. Did you mean 'user'?",
    )


def test_measure_funnel_values_an_attempt_that_skips_a_step_by_its_own_last_one() -> None:
    rows: list[Row] = [("a", "buy", 0, None, 99), ("b", "view", 1, None, None), ("b", "buy", 2, None, 5)]
    rows += [("c", "view", 1, None, None), ("z", "cart", 1000, None, None)]
    # One of two is lost before the last step, everybody who got past it converts, and a conversion is worth 5.
    assert funnel_of(rows, optional="cart").table["value"].tolist()[-1] == 5


def test_measure_funnel_looks_past_optional_steps_for_rates_times_and_losses() -> None:
    # Of 4 units 1 puts into the cart; 2 buy, after 2 (a) and 4 (b) minutes from the view.
    rows: list[Row] = [(u, "view", 0, None, None) for u in "abcd"]
    rows += [("a", "cart", 1, None, None), ("a", "buy", 2, None, 10), ("b", "buy", 4, None, 30)]
    funnel = funnel_of(rows, optional="cart")
    columns = ["units", "rate_from_previous", "lost", "seconds_from_previous_p50", "value"]
    expected = [[4, 1, 0, nan, 0], [1, 1 / 4, 0, 60, 0], [2, 2 / 4, 2, 180, 2 * 1 * 20]]
    np.testing.assert_array_equal(funnel.table[columns].to_numpy(float), expected)
    low, high = wilson(2, 4)
    np.testing.assert_allclose(
        funnel.table.loc[2, ["rate_from_previous_ci_lower", "rate_from_previous_ci_upper"]].to_numpy(float), [low, high]
    )
    assert funnel.takeaways[1].startswith("Most leave between view and buy: 2 of 4 units (50.0%)")


def test_measure_funnel_names_the_rows_of_unordered_steps_by_how_many_were_done() -> None:
    table = funnel_of(SHOP, order="unordered").table
    # a, e (in another order) and f do all; b has no purchase, c's lies beyond the window of its view; d only looks.
    assert list(table["name"]) == ["any step", "any 2 steps", "all 3 steps"]
    assert list(table["units"]) == [6, 5, 3]


def test_measure_funnel_breaks_down_by_the_last_step_or_a_given_one() -> None:
    def split(breakdown: str) -> dict[str, list[int]]:
        table = shop_funnel(by="device_type", breakdown=breakdown).table
        return {str(key): list(rows["units"]) for key, rows in table.groupby("device_type")}

    # Last on the desktop: a buys, c has a cart, e a view; on the phone: b has a cart, f buys; d has no device.
    assert split("last_touch") == {"(none)": [1, 0, 0], "desktop": [3, 2, 1], "mobile": [2, 2, 1]}
    assert split("step:2") == {"(not reached)": [2, 0, 0], "desktop": [1, 1, 0], "mobile": [3, 3, 2]}


def test_measure_funnel_clusters_the_intervals_of_totals_by_unit() -> None:
    # Three units with 2, 2 and 1 attempts, of which 2, 0 and 1 convert: 3 of 5. Residuals from 3/5 are 0.8, -1.2, 0.4
    # a unit: the design effect is 3/2 x (0.64 + 1.44 + 0.16) / (5 x 0.6 x 0.4) = 2.8.
    rows: list[Row] = []
    for user, bought in (("a", (1, 1)), ("b", (0, 0)), ("c", (1,))):
        for number, is_bought in enumerate(bought):
            rows += [(user, "view", 20 * number, None, None)]
            rows += [(user, "buy", 20 * number + 1, None, None)] * is_bought
    funnel = funnel_of(rows, ["view", "buy"], count="totals")
    assert units(funnel) == [5, 3]
    found = funnel.table.loc[1, ["rate_from_start_ci_lower", "rate_from_start_ci_upper"]].to_numpy(float)
    np.testing.assert_allclose(found, wilson(3 / 2.8, 5 / 2.8), rtol=0, atol=1e-12)
    assert funnel.trend[["units", "converted"]].to_numpy().tolist() == [[5, 3]]
    np.testing.assert_allclose(funnel.trend[["rate_ci_lower", "rate_ci_upper"]].to_numpy()[0], found)
    # All 5 attempts open, which says no more than that all 3 units do.
    assert funnel.table.loc[0, "rate_from_start_ci_lower"] == pytest.approx(wilson(3, 3)[0])


def test_measure_funnel_counts_each_session_once_and_clusters_by_user() -> None:
    rows = frame([("a", "view", 0, None, None), ("a", "view", 5, None, None), ("a", "buy", 6, None, None)] * 2)
    log = read_events(rows.assign(session_id=["s1", "s2", "s2"] * 2))
    steps = ["view", "buy"]
    clustered = measure_funnel(log, steps, count="sessions", mature_only=False).table
    plain = measure_funnel(log, steps, unit="session", mature_only=False).table
    assert list(clustered["units"]) == list(plain["units"]) == [2, 1]
    assert clustered.loc[1, "rate_from_start_ci_lower"] == pytest.approx(wilson(0.5, 1)[0])  # one user: one trial
    assert plain.loc[1, "rate_from_start_ci_lower"] == pytest.approx(wilson(1, 2)[0])


def test_measure_funnel_takes_each_attempt_of_totals_as_pending_alone() -> None:
    # The data end at minute 100, before the window of the second attempt does.
    rows: list[Row] = [("a", "view", 0, None, None), ("a", "view", 95, None, None), ("z", "buy", 100, None, None)]
    funnel = measure_funnel(read(rows), ["view", "buy"], window="10min", count="totals")
    assert funnel.table[["units", "pending"]].to_numpy().tolist() == [[1, 1], [0, 1]]


def test_measure_funnel_takes_an_exclusion_narrowed_by_its_row() -> None:
    bar = Exclusion(Step("cart", where={"device_type": "desktop"}))
    assert units(funnel_of(SHOP, ["view", "buy"], exclude=[bar])) == [6, 3]
    assert units(funnel_of(SHOP, ["view", "buy"], exclude=Exclusion("cart"))) == [6, 1]  # e alone: the cart came first


@pytest.mark.parametrize(
    "options",
    [
        {"order": "strict"},
        {"order": "unordered"},
        {"hold": "device_type", "count": "totals"},
        {"exclude": Exclusion("ping"), "excluded": "drop_unit"},
        {"optional": 2, "step_windows": {3: "5min"}, "breakdown": "last_touch", "by": "device_type"},
        {"tie_tolerance": "1min", "anchor": "first", "first_time": True},
    ],
)
def test_measure_funnel_by_any_rule_holds_for_shuffled_rows_and_empty_segments(options: dict[str, object]) -> None:
    rows = frame(random_rows(3))
    first = measure_funnel(read_events(rows), STEPS, window="10min", **options)  # type: ignore[arg-type]
    log = read_events(rows.sample(frac=1, random_state=2))
    assert_frame_equal(measure_funnel(log, STEPS, window="10min", **options).table, first.table)  # type: ignore[arg-type]
    empty = measure_funnel(log.segment({"device_type": "tv"}), STEPS, window="10min", **options)  # type: ignore[arg-type]
    assert empty.table["units"].sum() == 0
    assert_series_equal(empty.table.dtypes, first.table.dtypes)


@pytest.mark.parametrize("span", [0, 1], ids=["all at one instant", "one a second"])
def test_measure_funnel_is_quick_for_a_unit_of_many_events(span: int) -> None:
    count = 200_000
    seconds = pd.to_timedelta(np.arange(count) * span, unit="s")
    names = np.array(["view", "cart", "x"])[np.arange(count) % 3]
    log = read_events(pd.DataFrame({"user_id": "a", "event_name": names, "timestamp": MONDAY + seconds}))
    for options in ({}, {"order": "strict"}, {"count": "totals"}, {"min_gap": "1s"}, {"order": "unordered"}):
        began = time.perf_counter()
        measure_funnel(log, ["view", "cart", "x"], window="7D", mature_only=False, **options)  # type: ignore[arg-type]
        assert time.perf_counter() - began < 20


def test_funnel_shows_leaks_with_their_tests_where_there_are_groups() -> None:
    heads = ["Lost before", "Attempts", "Lost", "Share lost", "Value lost"]
    assert read_heads(funnel_of(SHOP, count="totals").show_leaks()._repr_html_()) == heads
    groups = shop_funnel(by="device_type").show_leaks(1)
    tested = [
        "Device type",
        "Lost before",
        "Units",
        "Lost",
        "Share lost",
        "Against the others",
        "q",
        "Verdict",
        "Value lost",
    ]
    assert read_heads(groups._repr_html_()) == tested
    assert len(groups.table) == 1


def read_heads(html: str) -> list[str]:
    return re.findall(r"<th[^>]*>([^<]*)</th>", html)
