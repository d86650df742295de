"""What is wrong within minutes: events that stopped, odd volumes and errors, from counts in short rolling windows."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from convlib import takeaways
from convlib.documents import FieldError
from convlib.durations import MICROSECONDS, parse_duration, write_duration
from convlib.plan_entries import Duration
from convlib.rules import Rule, read_rule
from convlib.stats import wilson_interval

#: A window is counted in so many bins; windows before it that tell what is usual: at least, and at most.
BINS, FEWEST_WINDOWS, MOST_WINDOWS = 15, 8, 24
#: Bins that are kept: eight days of the usual ones of a minute.
KEPT_BINS = 8 * 24 * 60
DAYS = 7
#: Events, corrected for their dispersion, from which a usual rate is known well enough to miss them.
FEWEST_EVENTS = 30
FEWEST_ERRORS = 5
#: The probability of a share of errors below which it is odd.
ERROR_LEVEL = 1e-6
#: What is judged every minute, for many events, must be far out in size too, and not only beyond chance.
FAR = 2.0
COLUMNS = ("rule", "severity", "conversion", "metric", "period", "evidence")
ALL_EVENTS = "(all events)"
Ints = NDArray[np.int64]


def _check_rule(raw: dict[str, Any]) -> dict[str, Any]:
    try:
        read_rule(raw)
    except FieldError as error:
        raise ValueError(str(error)) from None
    return raw


Level = Annotated[float, Field(gt=0, le=0.01)]


class Watch(BaseModel):
    """How a growing source is watched: the run file's `watch:` section.

    Attributes:
        interval: Time between two looks at the source.
        window: Length of the rolling windows; they move by a fifteenth of it, at least a second.
        late: How far back a database is asked again for rows that come late.
        stopped: Probability of a silence below which an event has stopped; None for no such alert.
        volume: Probability of a window's events below which their number is odd; None for no such alert.
        errors: Which events are errors, as a match rule; empty for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    interval: Duration = "60s"
    window: Duration = "15min"
    late: Duration = "15min"
    stopped: Level | None = 1e-6
    volume: Level | None = 1e-6
    errors: Annotated[dict[str, Any], AfterValidator(_check_rule)] = {"event_name": ["error", "field_error"]}

    @property
    def bin_microseconds(self) -> int:
        """Give the length of a bin in whole seconds."""
        seconds = parse_duration(self.window) // BINS // MICROSECONDS["s"]
        return max(seconds, 1) * MICROSECONDS["s"]

    @property
    def error_rule(self) -> Rule | None:
        """Give the match rule of errors."""
        return read_rule(self.errors) if self.errors else None


@dataclasses.dataclass(frozen=True)
class _Counts:
    """How many events fell into each bin that has any, in order; a bin may come several times."""

    bins: Ints
    total: Ints

    @classmethod
    def of(cls, rows: pd.DataFrame, column: str = "rows") -> "_Counts":
        counted = np.cumsum(rows[column].to_numpy(np.int64))
        return cls(rows["bin"].to_numpy(np.int64), np.concatenate([[0], counted]))

    def between(self, start: Ints | int, end: Ints | int) -> Ints:
        """Count from one bin to before another."""
        found: Ints = self.total[np.searchsorted(self.bins, end)] - self.total[np.searchsorted(self.bins, start)]
        return found

    def before(self, end: int, length: int, first: int) -> Ints:
        """Count in the windows before a bin, the latest first, as far back as there are data."""
        number = min((end - first) // length, MOST_WINDOWS)
        ends = end - length * np.arange(number)
        return self.between(ends - length, ends)

    def on_like_days(self, start: int, end: int, *, watch: Watch, first: int) -> Ints:
        """Count in the same hours of the days on which about as much as now came in the windows before."""
        length, day = _lengths(watch)
        begin = start - FEWEST_WINDOWS * length
        shifts = day * np.arange(1, DAYS + 1)
        shifts = shifts[begin - shifts >= first]
        now, then = self.between(begin, start), self.between(begin - shifts, start - shifts)
        shifts = shifts[(then * FAR >= now) & (then <= now * FAR)]
        return self.between(start - shifts, end - shifts)


def find_oddities(counts: pd.DataFrame, watch: Watch, *, until: int) -> pd.DataFrame:
    """Say what is out of the ordinary in the latest rolling window.

    Args:
        counts: Events by `bin` (its number since 1970) and `event_name`: `rows`, and how many of them are `errors`.
        watch: The rules.
        until: The first bin that is not over.

    Returns:
        One row an alert, with `COLUMNS`. `period` is the start of the window in which it shows.
    """
    counts = counts[counts["bin"] < until].sort_values("bin")
    found = [*_find_stopped(counts, watch, until), *_find_volume(counts, watch, until)]
    found += _find_errors(counts, watch, until)
    table = pd.DataFrame(found, columns=list(COLUMNS))
    return table.assign(period=table["period"].astype("datetime64[us]"))


def dispersion(windows: Ints) -> float:
    """Say how much more windows vary than Poisson counts would: variance over mean, not below 1."""
    mean = windows.mean()
    return max(float(windows.var(ddof=1) / mean), 1.0) if mean > 0 else 1.0


def silence_probability(windows: Ints, silence: float) -> float:
    """Give the probability that nothing comes for so many windows, after windows with these counts.

    The predictive probability of none when the rate itself is known only from the counts (a gamma distribution):
    (J / (J + s)) ** (N / dispersion), for N events in J windows and a silence of s windows.
    """
    number = len(windows)
    return float((number / (number + silence)) ** (windows.sum() / dispersion(windows)))


def volume_probability(windows: Ints, count: int) -> float:
    """Give the probability of a count as far out as this one, after windows with these counts, both sides counted.

    Negative binomial: the mean of the latest `FEWEST_WINDOWS`, and that times the dispersion, raised by the uncertainty
    of the mean, as variance.
    """
    if not windows[:FEWEST_WINDOWS].any():
        return 1.0
    law = _find_law(windows)
    return min(1.0, 2 * float(min(law.cdf(count), law.sf(count - 1))))


def error_probability(errors: Ints, events: Ints, *, count: int, total: int) -> float:
    """Give the probability of at least so many errors among so many events, after windows with these.

    Beta-binomial: the usual share has a Beta distribution (Jeffreys' prior); all counts are divided by the dispersion
    of the windows' shares (Pearson's chi-squared over its degrees of freedom, not below 1).
    """
    share = errors.sum() / max(events.sum(), 1)
    used = events > 0
    spread = 1.0
    if 0 < share < 1 and used.sum() > 1:
        chi = (errors[used] - share * events[used]) ** 2 / (share * (1 - share) * events[used])
        spread = max(float(chi.sum() / (used.sum() - 1)), 1.0)
    usual = (errors.sum() / spread + 0.5, (events.sum() - errors.sum()) / spread + 0.5)
    return float(scipy.stats.betabinom(round(total / spread), *usual).sf(round(count / spread) - 1))


def _find_stopped(counts: pd.DataFrame, watch: Watch, until: int) -> Iterator[tuple[object, ...]]:
    if watch.stopped is None or counts.empty:
        return
    size, first = watch.bin_microseconds, int(counts["bin"].min())
    length, _ = _lengths(watch)
    for name, rows in counts.groupby("event_name"):
        known = _Counts.of(rows)
        since = int(known.bins[-1]) + 1
        usual = known.before(since, length, first)[:FEWEST_WINDOWS]
        if since >= until or len(usual) < FEWEST_WINDOWS or usual.sum() / dispersion(usual) < FEWEST_EVENTS:
            continue
        chance = silence_probability(usual, (until - since) / length)
        if chance < watch.stopped and (known.on_like_days(since, until, watch=watch, first=first) > 0).all():
            evidence = takeaways.word_stopped(
                str(name),
                usual.tolist(),
                silence=write_duration((until - since) * size),
                since=_time(since * size),
                window=watch.window,
                odds=chance,
            )
            yield "event_stopped", "critical", name, "events", _time(since * size), evidence


def _find_volume(counts: pd.DataFrame, watch: Watch, until: int) -> Iterator[tuple[object, ...]]:
    if watch.volume is None or counts.empty:
        return
    (length, _), known, first = _lengths(watch), _Counts.of(counts), int(counts["bin"].min())
    start = until - length
    usual, count = known.before(start, length, first), int(known.between(start, until))
    if len(usual) < FEWEST_WINDOWS:
        return
    mean = usual[:FEWEST_WINDOWS].mean()
    is_low = count * FAR <= mean
    if not (is_low or count >= FAR * mean) or volume_probability(usual, count) >= watch.volume:
        return
    earlier = known.on_like_days(start, until, watch=watch, first=first)
    if ((earlier <= count) if is_low else (earlier >= count)).any():
        return
    begin = _time(start * watch.bin_microseconds)
    likely = _find_law(usual).interval(0.95)
    evidence = takeaways.word_volume(count, usual.tolist(), begin=begin, window=watch.window, mean=mean, likely=likely)
    yield "volume", "warning", ALL_EVENTS, "events", _begin(start, watch), evidence


def _find_errors(counts: pd.DataFrame, watch: Watch, until: int) -> Iterator[tuple[object, ...]]:
    if not watch.errors or counts.empty:
        return
    (length, _), first = _lengths(watch), int(counts["bin"].min())
    known, wrong = _Counts.of(counts), _Counts.of(counts, "errors")
    start = until - length
    usual, errors = known.before(start, length, first), wrong.before(start, length, first)
    count, total = int(wrong.between(start, until)), int(known.between(start, until))
    if len(usual) < FEWEST_WINDOWS or count < FEWEST_ERRORS:
        return
    share = errors.sum() / max(usual.sum(), 1)
    if count < FAR * share * total or error_probability(errors, usual, count=count, total=total) >= ERROR_LEVEL:
        return
    (low,), (high,) = wilson_interval(count, total)
    evidence = takeaways.word_errors(
        count,
        total,
        begin=_time(start * watch.bin_microseconds),
        window=watch.window,
        interval=(low, high),
        usual=share,
        among=int(usual.sum()),
    )
    yield "errors", "warning", ALL_EVENTS, "share of errors", _begin(start, watch), evidence


def _lengths(watch: Watch) -> tuple[int, int]:
    """Give the length of a window and of a day in bins."""
    size = watch.bin_microseconds
    return max(parse_duration(watch.window) // size, 1), MICROSECONDS["D"] // size


def _begin(start: int, watch: Watch) -> pd.Timestamp:
    """Give the start of the fixed window in which a bin lies: what comes and goes within it is one alert."""
    length, _ = _lengths(watch)
    return _time(start // length * length * watch.bin_microseconds)


def _find_law(windows: Ints) -> Any:
    """Give the distribution of the next window's count."""
    mean = float(windows[:FEWEST_WINDOWS].mean())
    spread = dispersion(windows) * (1 + 1 / FEWEST_WINDOWS)
    return scipy.stats.nbinom(mean / (spread - 1), 1 / spread)


def _time(microseconds: int) -> pd.Timestamp:
    return pd.Timestamp(microseconds, unit="us")


def find_quiet_source(arrivals: Sequence[float], now: float, *, interval: float) -> pd.DataFrame:
    """Say whether a source that brought rows regularly has brought none for far too long, by the clock on the wall.

    Args:
        arrivals: When rows came, in seconds, in order.
        now: The time now, in seconds.
        interval: Seconds between two looks.

    Returns:
        One row when it has gone quiet, as `find_oddities` gives it.
    """
    pauses, rows = np.diff(arrivals), list[tuple[object, ...]]()
    if len(arrivals) >= FEWEST_WINDOWS and now - arrivals[-1] > max(5 * interval, 3 * float(pauses.max())):
        since = (pd.Timestamp.now("UTC").tz_localize(None) - pd.Timedelta(now - arrivals[-1], "s")).floor("s")
        evidence = takeaways.word_quiet_source(since, longest=float(pauses.max()), looks=len(arrivals))
        rows.append(("no_data", "critical", ALL_EVENTS, "events", since, evidence))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"period": "datetime64[us]"})
