import numpy as np
import pandas as pd
import pytest

from convlib import drift

#: Twelve weeks from a Monday.
DAYS = pd.date_range("2024-01-01", periods=84, unit="us")


def make_days(counts: list[int], *, event: str = "view", platform: str | None = None) -> pd.DataFrame:
    """Write a day's count for each day; days without rows have no line, as in a profile."""
    frame = pd.DataFrame({"day": DAYS[: len(counts)], "event_name": event, "platform": platform, "rows": counts})
    return frame.astype({"platform": "str"})[frame["rows"] > 0].reset_index(drop=True)


def week(count: int, *, weekend: int | None = None) -> list[int]:
    return [count] * 5 + [count if weekend is None else weekend] * 2


def noisy(counts: list[int], seed: int = 1) -> list[int]:
    found: list[int] = np.random.default_rng(seed).poisson(counts).tolist()
    return found


@pytest.mark.parametrize(
    ("changed", "gaps", "jumps"),
    [
        pytest.param({}, [], [], id="a weekly pattern alone is nothing"),
        pytest.param({30: 0}, [30], [], id="a day without any"),
        pytest.param({30: 900}, [], [30], id="three times as many"),
        pytest.param({30: 60}, [], [30], id="a fifth"),
        pytest.param({30: 500}, [], [], id="half as many again"),
        pytest.param({54: 450}, [], [54], id="three times as many on the last Saturday"),
        pytest.param({51: 90, 52: 90, 53: 90}, [], [51, 52, 53], id="a third in the last days"),
        pytest.param({0: 20, 55: 20}, [], [], id="partial days at both ends"),
    ],
)
def test_find_unusual_days_finds_gaps_and_jumps(changed: dict[int, int], gaps: list[int], jumps: list[int]) -> None:
    counts = noisy(8 * week(300, weekend=150))
    for day, count in changed.items():
        counts[day] = count
    found = drift.find_unusual_days(make_days(counts))
    assert found.loc[found["gap"], "day"].tolist() == DAYS[gaps].tolist()
    assert found.loc[found["jump"], "day"].tolist() == DAYS[jumps].tolist()


def test_find_unusual_days_knows_an_event_that_rests_on_sundays() -> None:
    found = drift.find_unusual_days(make_days(8 * [200, 210, 190, 205, 195, 200, 0]))
    assert not found[["gap", "jump"]].any().any()
    assert len(found) == 53  # to the last Saturday, without the first day and that one


#: Three Wednesdays of eight, and a day without a like.
RESTS, OUTAGE = [30, 37, 44], 26


@pytest.mark.parametrize("others", [0, 5])
def test_find_unusual_days_takes_days_that_all_events_often_rest_on_for_a_pause(others: int) -> None:
    counts = noisy(8 * week(300))
    for day in [*RESTS, OUTAGE]:
        counts[day] = 0
    # What else goes on through the rests makes them gaps.
    found = drift.find_unusual_days(
        pd.concat([make_days(counts), make_days([others] * 56, event="ping")], ignore_index=True)
    )
    expected = {"gap": [OUTAGE], "pause": RESTS} if not others else {"gap": sorted([*RESTS, OUTAGE]), "pause": []}
    assert {name: found.loc[found[name], "day"].tolist() for name in expected} == {
        name: DAYS[days].tolist() for name, days in expected.items()
    }


def test_find_unusual_days_takes_the_same_date_of_two_years_for_a_pause() -> None:
    days = pd.date_range("2022-12-01", "2024-12-31")
    frame = pd.DataFrame({"day": days, "event_name": "view", "platform": None, "rows": noisy([300] * len(days))})
    rests = pd.to_datetime(["2022-12-25", "2023-12-26", "2024-03-06"])  # the last has no other year
    found = drift.find_unusual_days(frame[~frame["day"].isin(rests)])
    assert found.loc[found["pause"], "day"].tolist() == rests[:2].tolist()
    assert found.loc[found["gap"], "day"].tolist() == rests[2:].tolist()


@pytest.mark.parametrize("factor", [4, 0.35])
def test_find_unusual_days_names_the_first_day_of_a_lasting_change(factor: float) -> None:
    found = drift.find_unusual_days(make_days(noisy(5 * week(300) + 4 * week(int(300 * factor)))))
    assert found.loc[found["gap"] | found["jump"], "day"].tolist() == [pd.Timestamp("2024-02-05")]


def test_find_unusual_days_takes_growth_and_quiet_weekends_as_they_are() -> None:
    growing = [int(count * 1.1**number) for number in range(12) for count in week(300)]
    business = 10 * week(60, weekend=1)
    business[6::14] = [0] * 5  # nothing on every other Sunday
    for counts in (growing, business):
        found = drift.find_unusual_days(make_days(noisy(counts)))
        assert len(found) > 50
        assert not found[["gap", "jump"]].any().any()


def test_find_unusual_days_finds_days_without_a_small_event() -> None:
    counts = noisy(8 * week(30))
    counts[30:33] = [0, 0, 0]
    found = drift.find_unusual_days(make_days(counts))
    assert found.loc[found["gap"], "day"].dt.strftime("%m-%d").tolist() == ["01-31", "02-01", "02-02"]


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param(2 * week(300), id="two weeks"),
        pytest.param(8 * week(10), id="few events"),
        pytest.param([10, 900, 60, 300] * 14, id="days unlike one another"),
    ],
)
def test_find_unusual_days_judges_only_what_it_can(counts: list[int]) -> None:
    assert drift.find_unusual_days(make_days(counts)).empty


def test_keep_body_leaves_out_rows_far_from_all_others() -> None:
    far = pd.DataFrame({"day": pd.to_datetime(["1970-01-01", "2099-01-01"]), "event_name": "view", "rows": [3, 1]})
    daily = pd.concat([make_days(8 * week(300)), far], ignore_index=True)
    assert drift.keep_body(daily)["day"].tolist() == DAYS[:56].tolist()


def make_hours(curve: list[int], *, platform: str, weeks: range, late: int = 0) -> pd.DataFrame:
    hours = pd.date_range("2024-01-01", periods=24 * 7, freq="h", unit="us")
    return pd.concat(
        [
            pd.DataFrame(
                {"hour": hours + pd.Timedelta(days=7 * n), "platform": platform, "rows": np.roll(7 * curve, late)}
            )
            for n in weeks
        ]
    )


CURVE = [4, 2, 1, 1, 1, 1, 2, 4, 6, 7, 8, 8, 9, 8, 8, 9, 10, 12, 14, 16, 17, 15, 11, 7]


@pytest.mark.parametrize("late", [-6, 1, 5, 11])
def test_find_shifted_hours_tells_by_how_much(late: int) -> None:
    parts = [
        make_hours(CURVE, platform="web", weeks=range(6)),
        make_hours(CURVE, platform="app", weeks=range(4)),
        make_hours(CURVE, platform="app", weeks=range(4, 6), late=late),
    ]
    found = drift.find_shifted_hours(pd.concat(parts, ignore_index=True))
    assert not isinstance(found, str)
    off = found[found["hours"] != 0]
    # An hour is daylight saving, or habit.
    assert list(zip(off["platform"], off["hours"], strict=True)) == ([("app", late)] * 2 if abs(late) > 1 else [])


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        pytest.param(
            [10] * 24,
            "The log has no daily curve: its events lie evenly over the day, or carry dates without times.",
            id="flat",
        ),
        pytest.param(
            [240] + [0] * 23,
            "The log has no daily curve: its events lie evenly over the day, or carry dates without times.",
            id="dates",
        ),
        pytest.param([1] * 24, "Needs three weeks (or platforms) of 500 events.", id="few"),
    ],
)
def test_find_shifted_hours_says_why_not(curve: list[int], reason: str) -> None:
    assert drift.find_shifted_hours(make_hours(curve, platform="web", weeks=range(6))) == reason


def fill(daily: pd.DataFrame, shares: dict[int, float], usual: float = 0.9) -> pd.DataFrame:
    share = [shares.get(n, usual) for n in range(len(daily))]
    return pd.DataFrame({"geo": (daily["rows"] * share).astype(int), "user_id": daily["rows"]})


@pytest.mark.parametrize(
    ("shares", "usual", "low"),
    [
        pytest.param({}, 0.9, [], id="steady"),
        pytest.param({30: 0.1, 31: 0.1, 32: 0.2}, 0.9, [30, 31, 32], id="three days"),
        pytest.param({30: 0.1}, 0.9, [], id="one day alone"),
        pytest.param({30: 0.75, 31: 0.75}, 0.9, [], id="less than 20 points"),
        pytest.param(dict.fromkeys(range(50, 56), 0.0), 0.9, list(range(50, 56)), id="lost for good"),
        pytest.param(dict.fromkeys(range(30, 56), 0.95), 0.0, [], id="a new property is no loss"),
    ],
)
def test_find_lost_properties_finds_the_days(shares: dict[int, float], usual: float, low: list[int]) -> None:
    daily = make_days(8 * week(300))
    found = drift.find_lost_properties(daily, fill(daily, shares, usual))
    assert found.loc[found["low"], "day"].tolist() == DAYS[low].tolist()
    assert set(found.loc[found["low"], "column"]) <= {"geo"}


def platforms(app: list[int], web: list[int]) -> pd.DataFrame:
    carts = [make_days(app, event="cart", platform="app"), make_days(web, event="cart", platform="web")]
    views = [make_days(56 * [200], platform=name) for name in ("app", "web")]
    return pd.concat([*carts, *views], ignore_index=True)


@pytest.mark.parametrize(
    ("app", "web", "mapped", "stopped"),
    [
        pytest.param(56 * [20], 56 * [20], set(), [], id="both go on"),
        pytest.param(46 * [20] + 10 * [0], 56 * [20], set(), [("app", "cart")], id="one stops"),
        pytest.param(54 * [20] + 2 * [0], 56 * [20], set(), [], id="two days say nothing yet"),
        pytest.param(46 * [1] + 10 * [0], 56 * [20], set(), [], id="too rare to be missed"),
        pytest.param(23 * [40, 0] + 10 * [0], 56 * [20], set(), [], id="never steady"),
        pytest.param(
            46 * [20] + 10 * [0], 46 * [20] + 10 * [0], set(), [], id="an end everywhere of what nobody mapped"
        ),
        pytest.param(
            46 * [20] + 10 * [0],
            46 * [20] + 10 * [0],
            {"cart"},
            [("app", "cart"), ("web", "cart")],
            id="and of a conversion",
        ),
    ],
)
def test_find_stopped_events_needs_a_steady_event_and_enough_days(
    app: list[int], web: list[int], mapped: set[str], stopped: list[tuple[str, str]]
) -> None:
    found = drift.find_stopped_events(platforms(app, web), mapped)
    gone = found[found["stopped"].astype(bool)]
    assert list(zip(gone["platform"], gone["event_name"], strict=True)) == stopped


def test_find_stopped_events_finds_a_platform_that_fell_silent() -> None:
    web, app = make_days(8 * week(100), platform="web"), make_days(6 * week(100), platform="app")
    found = drift.find_stopped_events(pd.concat([web, app], ignore_index=True), set())
    assert found.set_index("platform")["stopped"].to_dict() == {"app": True, "web": False}


def test_find_stopped_events_judges_a_log_without_platforms_as_one() -> None:
    view, buy = make_days(8 * week(100)), make_days(6 * week(20), event="buy")
    found = drift.find_stopped_events(pd.concat([view, buy], ignore_index=True), {"buy"})
    assert found.loc[found["stopped"].astype(bool), ["platform", "event_name"]].to_numpy().tolist() == [["", "buy"]]


def test_find_stopped_events_says_how_many_were_expected() -> None:
    # The app goes on with 200 views a day for ten days; a cart came with each ten of them.
    found = drift.find_stopped_events(platforms(46 * [20] + 10 * [0], 56 * [20]), set())
    row = found[found["stopped"].astype(bool)].iloc[0]
    assert (row["last"], row["expected"]) == (DAYS[45], pytest.approx(20 / 220 * 2_000))
