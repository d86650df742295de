import datetime as dt

import pandas as pd
import pytest

from convlib.errors import ParamError
from convlib.periods import Calendar, find_day

HOUR = 3_600_000_000


def list_hours(calendar: Calendar, first: str, last: str) -> list[float]:
    days = calendar.list_days(dt.date.fromisoformat(first), dt.date.fromisoformat(last))
    starts = calendar.find_starts(days)
    return [float(length) / HOUR for length in starts[1:] - starts[:-1]]


def test_days_have_23_and_25_hours_when_clocks_change() -> None:
    # Berlin: forward on 29 March 2026, back on 25 October 2026.
    berlin = Calendar("D", timezone="Europe/Berlin")
    assert list_hours(berlin, "2026-03-28", "2026-03-30") == [24, 23, 24]
    assert list_hours(berlin, "2026-10-24", "2026-10-26") == [24, 25, 24]
    assert list_hours(Calendar("W", timezone="Europe/Berlin"), "2026-03-23", "2026-03-23") == [7 * 24 - 1]


def test_a_day_whose_midnight_does_not_exist_begins_at_one() -> None:
    # Beirut went forward at midnight, on 26 March 2023 by law and on 30 March in fact (the list knows the latter).
    days = pd.DatetimeIndex(["2024-03-31"])
    start = Calendar("D", timezone="Asia/Beirut").find_starts(days)[0]
    assert pd.Timestamp(start, unit="us") == pd.Timestamp("2024-03-30 22:00")  # one o'clock, three hours ahead of UTC


def test_a_day_with_two_midnights_begins_at_the_first() -> None:
    # Havana goes back from one o'clock to midnight, on 3 November 2024.
    start = Calendar("D", timezone="America/Havana").find_starts(pd.DatetimeIndex(["2024-11-03"]))[0]
    assert pd.Timestamp(start, unit="us") == pd.Timestamp("2024-11-03 04:00")


@pytest.mark.parametrize(
    ("calendar", "days"),
    [
        (Calendar("W"), ["2026-06-01", "2026-06-08", "2026-06-15"]),  # Mondays
        (Calendar("W", "sunday"), ["2026-05-31", "2026-06-07", "2026-06-14"]),
        (Calendar("W", "thursday"), ["2026-05-28", "2026-06-04", "2026-06-11"]),
        (Calendar("M"), ["2026-06-01", "2026-07-01"]),
        (Calendar("D"), [f"2026-06-0{day}" for day in range(3, 10)] + ["2026-06-10"]),
    ],
)
def test_list_days_gives_the_first_day_of_each_period(calendar: Calendar, days: list[str]) -> None:
    found = calendar.list_days(dt.date(2026, 6, 3), dt.date(2026, 6, 9))
    assert found.strftime("%Y-%m-%d").tolist() == days


def test_find_day_is_that_of_the_zone() -> None:
    moment = pd.Timestamp("2026-06-01 22:30")
    assert find_day(moment, "Europe/Berlin") == dt.date(2026, 6, 2)
    assert find_day(moment, "America/New_York") == dt.date(2026, 6, 1)


def test_calendar_lists_all_that_is_wrong() -> None:
    with pytest.raises(ParamError) as caught:
        Calendar("Q", "Mondays", "Europe/Berlni")
    assert caught.value.problems == (
        "`every` is 'Q'; it must be one of 'D', 'W', 'M' (day, week, month).",
        "`week_start` is 'Mondays'; it must be one of 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', "
        "'saturday', 'sunday'. Did you mean 'monday'?",
        "`timezone` is 'Europe/Berlni'; it must be a name of the IANA list, such as 'Europe/Berlin' or 'UTC'. "
        "Did you mean 'Europe/Berlin'?",
    )
