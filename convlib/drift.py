"""Changes in a log's daily counts that look like broken tracking: gaps, jumps, shifted hours, what was lost."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib.stats import compare_normal, divide, normal_quantile, pooled_error

#: Days that a weekly pattern takes to show: three of each weekday.
FEWEST_DAYS = 21
#: Rows so far from the others, and fewer than this share of all, carry a wrong time.
APART, STRAY = pd.Timedelta("60D"), 0.01
#: Events a day below which chance alone makes days differ by half.
STEADY = 50
#: A weekday rests when it is silent this often, and so many times; a date, when another year's is, within so many days.
OFTEN, FEWEST_RESTS, NEAR_DATE, YEAR = 0.25, 3, 3, 365.25
#: Events expected of a day by which none is no chance: e to the minus 14 is less than one in a million.
SURE = 14
#: Robust standard deviations beyond which a day stands out; in normal noise fewer than one day in a million does.
FAR = 6.0
#: Robust standard deviation of the logarithms beyond which days are too unlike one another to judge one.
IRREGULAR = 0.5
#: A day stands out only when it has at least twice or at most half of what was expected.
JUMP = np.log(2)
#: Events in a week by which a daily curve is known well enough to be compared.
FEWEST_HOURLY = 500
#: Smaller shifts than this are daylight saving, habit and chance.
FEWEST_HOURS = 2
#: How well a shifted curve must fit, and how many times further from a fit it must be unshifted.
FIT, BETTER = 0.9, 4
#: A curve whose busiest hour has less than this times the mean of all hours tells no time of day.
CURVE = 1.3
#: Days before, of which a property's usual fill rate is the median, and the fewest that tell it.
BEFORE, FEWEST_BEFORE = 28, 7
#: A fall of the fill rate worth a person's time, and its level of chance; many events and columns are looked at.
FALL, CHANCE = 0.2, 1e-6
#: Columns that say where a visitor came from.
ORIGINS = ("source", "medium", "campaign", "referrer")
#: Rows a day that a fill rate needs.
FEWEST_ROWS = 30
#: Days without an event before it counts as stopped, and how many events had to be expected in them.
SILENT_DAYS, EXPECTED = 3, 20
#: An event was steady on a platform when it came on this share of the days.
STEADY_DAYS = 0.8


def count_days(daily: pd.DataFrame) -> pd.DataFrame:
    """Count each event name's rows on each whole day of the log, with zeros: one column a name.

    The first and the last day are left out, for most logs begin and end within a day.
    """
    known = keep_body(daily)
    wide = known.groupby(["day", "event_name"])["rows"].sum().unstack(fill_value=0).asfreq("D", fill_value=0)
    return wide.iloc[1:-1]


def keep_body(daily: pd.DataFrame) -> pd.DataFrame:
    """Leave out the few rows far from all others, whose clocks are wrong: they would stretch the log by years."""
    total = daily.groupby("day")["rows"].sum()
    part = (total.index.diff() > APART).cumsum()
    sizes = total.groupby(part).transform("sum")
    return daily[daily["day"].isin(total.index[sizes >= STRAY * total.sum()])]


def find_unusual_days(daily: pd.DataFrame) -> pd.DataFrame:
    """Set each day of the steady events against what their trend and their weekdays expect.

    Logarithms of the counts, less the median of each weekday and a running median of 15 days; what is left is held
    against its median absolute deviation (the rule of Hampel, 1974). A change that lasts is found by the median of a
    week against that of the four weeks before, and stands at its first day.

    Returns:
        `event_name`, `day`, `rows`, `expected`, `gap` (none at all), `pause` (none of any event, as on such days
        before: a holiday or a calendar, and no gap), `jump` (far more or fewer).
    """
    rows = count_days(daily)
    resting = _find_rests(rows)
    alive, level, habit, spread = _expect(rows)
    steady = ((rows.where(alive).median() >= SURE) & (spread <= IRREGULAR)).to_numpy()
    rows, alive, level, habit = (table.loc[:, steady] for table in (rows, alive, level, habit))
    spread = spread[steady]
    # No event at all counts as half of one. An event that rests every Sunday has no gap there.
    off = (rows.clip(lower=0.5).apply(np.log) - level).abs()
    rests = rows.where(alive).groupby(_weekday(rows)).transform("median") == 0
    expected = level.apply(np.exp)
    gap = (rows == 0) & ~rests & (expected >= SURE) & (off > FAR * spread)
    before = _find_level_before(rows, alive, habit, spread)
    expected = before.fillna(expected)
    jump = (off > np.maximum(JUMP, FAR * spread)) | before.notna()
    jump &= (rows > 0) & (expected.where(expected > rows, rows) >= STEADY)
    found = rows.melt(var_name="event_name", value_name="rows", ignore_index=False).reset_index(names="day")
    judged = {"expected": expected, "gap": gap & ~resting[:, None], "pause": gap & resting[:, None], "jump": jump}
    found = found.assign(**{name: table.to_numpy().ravel("F") for name, table in judged.items()})
    return found[["event_name", "day", "rows", *judged]][alive.to_numpy().ravel("F")].reset_index(drop=True)


def _find_rests(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark the days on which all events pause, as they often do on that weekday, or do on that date in another year."""
    silent = rows.sum(axis=1) == 0
    weekday = silent.groupby(_weekday(rows))
    often = (weekday.transform("mean") >= OFTEN) & (weekday.transform("sum") >= FEWEST_RESTS)
    number = np.arange(len(rows))
    apart = np.abs(number[:, None] - number[silent])
    years = np.rint(apart / YEAR)
    yearly = ((years >= 1) & (np.abs(apart - years * YEAR) <= NEAR_DATE)).any(axis=1)
    rests: NDArray[np.bool_] = (silent & (often | yearly)).to_numpy(bool)
    return rests


def _find_level_before(rows: pd.DataFrame, alive: pd.DataFrame, habit: pd.DataFrame, spread: pd.Series) -> pd.DataFrame:
    """Give, at the first day of a lasting change, what the four weeks before it promised; NaN on all other days."""
    rest = rows.where(rows > 0).apply(np.log) - habit
    week = rest.rolling(7, min_periods=5).median().shift(-6).where(alive.shift(-6, fill_value=False))
    before = rest.rolling(BEFORE, min_periods=BEFORE // 2).median().shift()
    differs = (week - before).abs() > np.maximum(JUMP, FAR * spread / np.sqrt(7))
    begins = differs & ~differs.shift(fill_value=False)
    # The week that holds four days of the change differs first: the change begins on the last of its first four.
    promised = before.where(begins).shift(3) + habit
    return promised.apply(np.exp).where(alive)


def _weekday(rows: pd.DataFrame) -> "pd.Index[int]":
    return pd.DatetimeIndex(rows.index).day_of_week


def _find_life(rows: pd.DataFrame) -> pd.DataFrame:
    """Mark the days of each event from its first to its last."""
    there = rows > 0
    return there.cummax() & there[::-1].cummax()[::-1]


def _expect(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.Series]:
    """Give each event's life, the logarithm expected of each day, its weekday's part, and how far days lie from it.

    The last is a robust standard deviation, NaN for too few days.
    """
    alive = _find_life(rows)
    logs = rows.where(rows > 0).apply(np.log)
    week = logs.rolling(7, center=True, min_periods=4).median()
    habit = (logs - week).groupby(_weekday(rows)).transform("median").where(alive)
    # Medians keep the edge of a lasting change where it is; a smooth trend would blame the days around it.
    trend = (logs - habit).rolling(15, center=True, min_periods=6).median()
    left = alive[::-1].cumsum()[::-1]  # the last week has no days after it to be compared with
    trend = trend.mask(alive & (left <= 7), (logs - habit).where((left > 7) & (left <= 22)).median(), axis=1)
    level = trend + habit
    rest = logs - level
    spread = (rest - rest.median()).abs().median() / normal_quantile(0.5)
    return alive, level, habit, spread.where(alive.sum() >= FEWEST_DAYS)


def find_shifted_hours(hourly: pd.DataFrame) -> pd.DataFrame | str:
    """Compare each platform's daily curve, week by week, with the usual one, shifted by every number of hours.

    Returns:
        `platform`, `week`, `rows`, `hours` (by which the curve lies late; 0 when it fits as it is); or why nothing can
        be said.
    """
    hour = hourly["hour"].dt
    weeks = hourly.assign(week=hour.to_period("W-SUN").dt.start_time, clock=hour.hour)
    curves = weeks.assign(platform=weeks["platform"].fillna("")).pivot_table(
        index=["platform", "week"], columns="clock", values="rows", aggfunc="sum", fill_value=0
    )
    curves = curves.reindex(columns=range(24), fill_value=0)
    curves = curves[curves.sum(axis=1) >= FEWEST_HOURLY]
    if len(curves) < 3:
        return f"Needs three weeks (or platforms) of {FEWEST_HOURLY} events."
    shares = curves.div(curves.sum(axis=1), axis=0)
    everyone = shares.median()
    if everyone.max() < CURVE * everyone.mean() or (everyone > 0).sum() < 24 / 2:
        return "The log has no daily curve: its events lie evenly over the day, or carry dates without times."
    # A platform may have hours of its own: off in every week is habit as well as a wrong zone.
    own = shares.groupby("platform").transform("median").to_numpy()
    hours = [_best_shift(curve, usual) for curve, usual in zip(shares.to_numpy(), own, strict=True)]
    found = curves.sum(axis=1).rename("rows").reset_index()
    return found.assign(hours=hours)


def _best_shift(curve: NDArray[np.float64], usual: NDArray[np.float64]) -> int:
    fits = np.array([np.corrcoef(np.roll(curve, -hours), usual)[0, 1] for hours in range(24)])
    best = int(np.nanargmax(fits)) if np.isfinite(fits).any() else 0
    hours = best if best <= 12 else best - 24
    clear = fits[best] >= FIT and 1 - fits[0] >= BETTER * (1 - fits[best])
    return hours if abs(hours) >= FEWEST_HOURS and clear else 0


def find_lost_properties(daily: pd.DataFrame, filled: pd.DataFrame) -> pd.DataFrame:
    """Set each day's fill rate of each event's properties against the median of the four weeks before.

    Only events whose days are alike are judged: where they are not, another kind of row comes on another day. Where
    visitors come from is not judged: it changes with every campaign.

    A day is `low` when the rate fell by at least 20 points, beyond chance (two-proportion z-test), and so did the
    day beside it.

    Returns:
        `event_name`, `column`, `day`, `rows`, `filled`, `usual`, `low`; only properties that were filled before.
    """
    *_, spread = _expect(count_days(daily))
    alike = spread.index[spread <= IRREGULAR]
    daily = daily[daily["event_name"].isin(alike)]
    index = pd.MultiIndex.from_frame(daily[["event_name", "day"]], names=["event", "date"])
    by = ["event", "date"]
    rows, counts = (
        daily["rows"].set_axis(index).groupby(by).sum(),
        filled.loc[daily.index].set_axis(index).groupby(by).sum(),
    )
    enough = rows >= FEWEST_ROWS
    rows, counts = rows[enough], counts[enough]
    shares = counts.div(rows, axis=0)
    before = shares.groupby("event").rolling(BEFORE, min_periods=FEWEST_BEFORE).median().droplevel(0)
    usual = before.groupby("event").shift()
    names = [name for name in usual if name not in ORIGINS]
    tables = {"filled": counts[names], "usual": usual.reindex(rows.index)[names]}
    keys = rows.rename("rows").rename_axis(["event_name", "day"]).reset_index()
    frame = keys.take(np.tile(np.arange(len(keys)), len(names))).reset_index(drop=True)
    frame = frame.assign(
        column=[str(name) for name in names for _ in range(len(keys))],
        **{name: table.to_numpy(float).ravel("F") for name, table in tables.items()},
    )
    frame = frame[frame["usual"] >= FALL].reset_index(drop=True)
    share = divide(frame["filled"], frame["rows"])
    # What was usual is a median of days, each of about so many rows.
    error = pooled_error(frame["filled"], frame["rows"], frame["usual"] * frame["rows"], frame["rows"])
    low = (frame["usual"] - share >= FALL) & (compare_normal(frame["usual"] - share, error) < CHANCE)
    series = low.groupby([frame["column"], frame["event_name"]])
    frame = frame.assign(low=low & (series.shift(fill_value=False) | series.shift(-1, fill_value=False)))
    return frame[["event_name", "column", "day", "rows", "filled", "usual", "low"]]


def find_stopped_events(daily: pd.DataFrame, mapped: Collection[str]) -> pd.DataFrame:
    """Find events that came steadily on a platform and then no more, while the platform, or the log, went on.

    An event that ends on every platform counts when it is mapped: no number is lost with another.

    Returns:
        `platform`, `event_name`, `last` (day), `expected` (how many events its share of the platform's promised
        since), `stopped`; only events that were steady.
    """
    known = keep_body(daily)
    known = known.assign(platform=known["platform"].fillna(""))
    everyone = known.groupby("day")["rows"].sum().asfreq("D", fill_value=0)
    counts = known.groupby(["platform", "event_name", "day"])["rows"].sum()
    parts = [
        _judge_silence(
            rows.droplevel("platform").unstack(fill_value=0).T.reindex(everyone.index, fill_value=0),
            everyone,
            str(platform),
        )
        for platform, rows in counts.groupby("platform")
    ]
    if not parts:
        return pd.DataFrame(columns=["platform", "event_name", "last", "expected", "stopped"])
    found = pd.concat(parts, ignore_index=True)
    goes_on = found["event_name"].isin(mapped) | (~found["stopped"]).groupby(found["event_name"]).transform("any")
    return found.assign(stopped=found["stopped"] & goes_on)


def _judge_silence(wide: pd.DataFrame, everyone: pd.Series, platform: str) -> pd.DataFrame:
    own, found = wide.sum(axis=1), []
    for name, rows in wide.items():
        days = np.flatnonzero(rows)
        first, last = int(days[0]), int(days[-1])
        lived = last - first + 1
        if lived < FEWEST_BEFORE * 2 or len(days) < STEADY_DAYS * lived:
            continue
        total = own if own.iloc[last + 1 :].any() else everyone  # a whole platform may have stopped
        before, after = total.iloc[first : last + 1].sum(), total.iloc[last + 1 :].sum()
        expected = rows.sum() / before * after
        silent = len(wide) - 1 - last
        longest = max(SILENT_DAYS, 3 * int(np.diff(days).max()) - 2)
        stopped = silent >= longest and expected >= EXPECTED
        found.append((platform, name, wide.index[last], expected, stopped))
    return pd.DataFrame(found, columns=["platform", "event_name", "last", "expected", "stopped"])
