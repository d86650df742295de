"""Calendar periods: days, weeks and months of a time zone, and the instants at which they begin."""

import dataclasses
import datetime as dt
import functools
import re
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib.documents import did_you_mean, find_wrong_choice, quote_names
from convlib.errors import ParamError

#: Calendar periods, by their letters.
PERIODS = {"D": "day", "W": "week", "M": "month"}
NO_SUCH_DAY = "the calendar has no such day."
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclasses.dataclass(frozen=True)
class Calendar:
    """How time is cut into periods.

    Args:
        every: `D`, `W` or `M`: days, weeks or months.
        week_start: The weekday with which weeks begin.
        timezone: The zone, by its IANA name, whose midnights the periods begin at: a day in which the clocks change has
            23 or 25 hours.

    Raises:
        ParamError: Every wrong argument.
    """

    every: str = "W"
    week_start: str = "monday"
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        problems = [*self._find_problems()]
        if problems:
            raise ParamError(*problems)

    def _find_problems(self) -> list[str]:
        problems = []
        if not isinstance(self.every, str) or self.every not in PERIODS:
            initial = str(self.every)[:1].upper()
            near = f" Did you mean {initial!r}?" if initial in PERIODS else ""
            known = f"{quote_names(PERIODS)} (day, week, month)"
            problems.append(f"`every` is {self.every!r}; it must be one of {known}.{near}")
        problems += find_wrong_choice("week_start", self.week_start, WEEKDAYS)
        return [*problems, *find_timezone_problems(self.timezone)]

    @property
    def frequency(self) -> str:
        """The periods as pandas calls them, weeks by the day on which they end."""
        last = WEEKDAYS[WEEKDAYS.index(self.week_start) - 1]
        return f"W-{last[:3].upper()}" if self.every == "W" else self.every

    def list_days(self, first: dt.date, last: dt.date) -> pd.DatetimeIndex:
        """List the first day of each period from the one of `first` to the one after that of `last`."""
        periods = pd.period_range(pd.Timestamp(first), pd.Timestamp(last), freq=self.frequency)
        return pd.PeriodIndex([*periods, periods[-1] + 1]).start_time.as_unit("us")

    def find_starts(self, days: pd.DatetimeIndex) -> NDArray[np.int64]:
        """Give the instants at which days begin, as microseconds since 1970, UTC."""
        return find_midnights(days, self.timezone)


_list_timezones = functools.cache(available_timezones)


def find_timezone_problems(timezone: str) -> list[str]:
    """Say what is wrong with the name of a time zone, if anything."""
    known = _list_timezones()
    if isinstance(timezone, str) and timezone in known:
        return []
    near = did_you_mean(str(timezone), sorted(known))
    return [f"`timezone` is {timezone!r}; it must be a name of the IANA list, such as 'Europe/Berlin' or 'UTC'.{near}"]


def read_day(value: object, *, name: str) -> dt.date:
    """Read a parameter that is a day, as a date or as `2026-12-31`.

    Raises:
        ParamError: It is none.
    """
    text = value.isoformat()[:10] if isinstance(value, dt.date) else str(value)
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        wrong = f"; {NO_SUCH_DAY}" if is_written_as_day(text) else ", which is not a date; write it as YYYY-MM-DD."
        raise ParamError(f"`{name}` is {value!r}{wrong}") from None


def is_written_as_day(text: str) -> bool:
    """Say whether a text has the form of a date, whether or not the calendar has that day."""
    return re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) is not None


def find_midnights(days: pd.DatetimeIndex, timezone: str) -> NDArray[np.int64]:
    """Give the instants at which days begin in a zone, as microseconds since 1970, UTC.

    Where clocks go forward at midnight the day begins at one o'clock; where they go back to it, at the first midnight.
    """
    local = days.as_unit("us").tz_localize(timezone, nonexistent="shift_forward", ambiguous=np.ones(len(days), bool))
    return local.tz_convert("UTC").tz_localize(None).to_numpy().astype("int64")


def find_day(moment: pd.Timestamp, timezone: str) -> dt.date:
    """Give the calendar day on which a moment, UTC, falls in a zone."""
    return moment.tz_localize("UTC").tz_convert(ZoneInfo(timezone)).date()


def tell_time() -> str:
    """Tell the time now, UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
