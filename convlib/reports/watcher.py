"""Watches a growing source: new rows counted once, alerts within an interval, periods judged when they close."""

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from convlib.alerts import find_alerts, merge_alerts, read_alerts, write_alerts
from convlib.durations import MICROSECONDS, parse_duration
from convlib.notify import Channel, deliver, queue_message, read_channels
from convlib.periods import Calendar, find_day
from convlib.quality import check_quality
from convlib.rates import measure_rates
from convlib.reports.arrivals import Batch, open_source
from convlib.reports.dashboard import OVERVIEW, read_token, serve_dashboard, write_dashboard
from convlib.reports.files import digest_files, write_text
from convlib.reports.live import LIVE
from convlib.reports.preparation import Preparation, prepare_run
from convlib.reports.watch_state import State
from convlib.upkeep import list_actions
from convlib.watch import ALL_EVENTS, find_oddities, has_gone_quiet, word_quiet_source

ROLLING = ("event_stopped", "volume", "errors")
CALENDAR = ("every", "week_start", "timezone")
#: Prepared logs that no page needs any more are deleted after so many seconds.
CACHE_SECONDS = 600
#: The state's fact that says up to which period alerts were judged.
JUDGED = "judged"


@dataclasses.dataclass
class Watcher:
    """One run's source, what is known of it, and who is told.

    Attributes:
        preparation: The checked run.
        state: What is known from earlier looks.
        folder: The watcher's folder.
        judge: Judges the closed periods, in the background.
        channels: Who is told of alerts.
        say: Takes one line for the person who started the watcher.
    """

    preparation: Preparation
    state: State
    folder: Path
    judge: Callable[[], "Future[pd.DataFrame]"]
    channels: tuple[Channel, ...] = ()
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        """Find out how the source grows."""
        run_file = self.preparation.run_file
        self.watch = run_file.watch
        self.source = open_source(run_file, late=self.watch.late)
        self.calendar, self.lag = read_calendar(self.preparation)
        self.arrivals: deque[float] = deque(maxlen=50)
        self.judging: Future[pd.DataFrame] | None = None
        self.sending: Future[dict[str, str]] | None = None
        self.sender = ThreadPoolExecutor(1, thread_name_prefix="convlib deliveries")
        self.warnings: deque[str] = deque(maxlen=5)

    def look(self) -> int:
        """Read what is new, count it, raise alerts, write the live page's facts, and send what is to be sent.

        Returns:
            How many rows were new.
        """
        clock = self._clock
        with self.source.look(self.state.files, clock) as batch:
            for log in batch.logs:
                self.state.stage(log.open())
            count = self._count(batch, clock)
        for warning in batch.warnings:
            self._warn(warning)
        self._write_live()
        self._send()
        return count

    def _count(self, batch: Batch, clock: pd.Timestamp | None) -> int:
        """Commit one look: its rows, files and alerts, or nothing of it."""
        if self.source.keeps_rows:
            self.state.drop_known()
        count, last = self.state.count_staged()
        if count:
            self.arrivals.append(time.monotonic())
        clock = max(filter(None, (clock, last)), default=None)
        self.state.begin()
        try:
            self.state.add(batch.files, keeps_rows=self.source.keeps_rows)
            if clock is not None:
                self._judge_all(clock)
                self.state.remember(clock=clock.isoformat(), rows=self.state.recall("rows", 0) + count)
                rejected = self.state.recall("rejected", 0) + sum(log.rows_rejected for log in batch.logs)
                self.state.remember(rejected=rejected)
            self.state.commit()
        except BaseException:
            self.state.abandon()
            raise
        return count

    def _judge_all(self, clock: pd.Timestamp) -> None:
        known = self.alerts
        # A source that brings nothing is told by the clock on the wall, a period without data when it is over.
        is_rolling = known["rule"].isin(ROLLING) | (known["conversion"] == ALL_EVENTS)
        rolling = merge_alerts(self._find_rolling(clock), known[is_rolling], clock)
        by_period = self._take_judged(known[~is_rolling], clock)
        alerts = pd.concat([rolling, by_period], ignore_index=True)
        write_alerts(self._place, alerts)
        self.state.remember(alerts=self._place.read_text(encoding="utf-8"))
        still_open = self._period(clock - self.lag)
        self.state.prune(clock=clock, first_period=still_open, late_microseconds=2 * parse_duration(self.watch.late))
        judged = self.state.recall(JUDGED)
        if judged is None:
            self.state.remember(judged=still_open.isoformat())
        elif judged != still_open.isoformat() and self.judging is None:
            self.judging, self.judges = self.judge(), still_open

    def _find_rolling(self, clock: pd.Timestamp) -> pd.DataFrame:
        until = clock.value // 1_000 // self.watch.bin_microseconds
        found = find_oddities(self.state.read_counts(), self.watch, until=until)
        if has_gone_quiet(list(self.arrivals), time.monotonic(), interval=self.interval):
            found = pd.concat([found, word_quiet_source(list(self.arrivals), time.monotonic())], ignore_index=True)
        owners = {c.id: getattr(c, "owner", None) or "" for c in self.preparation.plan.conversions}
        known = self.state.read_conversions()
        named = [
            next((owners[each] for each in known.get(name, []) if owners[each]), "") for name in found["conversion"]
        ]
        return found.assign(segment="all", owner=pd.Series(named, index=found.index, dtype="str"))

    def _take_judged(self, known: pd.DataFrame, clock: pd.Timestamp) -> pd.DataFrame:
        """Take over what the judging of closed periods found, once it is done."""
        if self.judging is None or not self.judging.done():
            return known
        done, self.judging = self.judging, None
        error = done.exception()
        if error is not None:
            self._warn(f"The closed period could not be judged: {error}; it is tried again.")
            return known
        self.state.remember(judged=self.judges.isoformat())
        return merge_alerts(done.result().query("still_open"), known, clock)

    @property
    def alerts(self) -> pd.DataFrame:
        """Give the alerts as of the last look."""
        text = self.state.recall("alerts")
        write_text(self._place, text or '{"alerts": []}')
        return read_alerts(self._place)

    @property
    def _place(self) -> Path:
        return self.folder / "alerts.json"

    @property
    def interval(self) -> float:
        """Give the seconds between two looks."""
        return parse_duration(self.watch.interval) / MICROSECONDS["s"]

    @property
    def _clock(self) -> pd.Timestamp | None:
        """Give the time of the last event, the end of the data."""
        known = self.state.recall("clock")
        return pd.Timestamp(known) if known else None

    def _period(self, moment: pd.Timestamp) -> pd.Timestamp:
        day = find_day(moment, self.calendar.timezone)
        return self.calendar.list_days(day, day)[0]

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            self.say(f"Warning: {text}")

    def _write_live(self) -> None:
        clock = self._clock
        if clock is None:
            return
        period, counts = self._period(clock), self.state.read_counts()
        progress = self.state.read_progress(period)
        size = self.watch.bin_microseconds
        since = clock.value // 1_000 // size - parse_duration(self.watch.window) // size
        still_open = self.alerts.query("still_open").sort_values("severity", key=lambda s: s.map(_rank))
        facts = {
            "looked": f"{pd.Timestamp.now('UTC'):%Y-%m-%d %H:%M:%S} UTC",
            "clock": f"{clock:%Y-%m-%d %H:%M:%S} UTC",
            "interval": self.interval,
            "window": self.watch.window,
            "in_window": int(counts.loc[counts["bin"] > since, "rows"].sum()),
            "rows": self.state.recall("rows", 0),
            "rejected": self.state.recall("rejected", 0),
            "period": f"{ {'D': 'Day', 'W': 'Week', 'M': 'Month'}[self.calendar.every] } from {period.date()}",
            "progress": {
                segment: dict(zip(rows["conversion"], map(int, rows["units"]), strict=True))
                for segment, rows in progress.groupby("segment")
            },
            "conversions": {c.id: c.name for c in self.preparation.plan.conversions},
            "alerts": json.loads(
                still_open[["id", "severity", "segment", "evidence", "owner", "first_seen"]]
                .assign(first_seen=still_open["first_seen"].dt.strftime("%Y-%m-%d %H:%M:%S UTC"))
                .to_json(orient="records")
            ),
            "warnings": list(self.warnings),
        }
        names = self.preparation.segments
        facts["progress"] = {n: facts["progress"].get(n, {}) for n in names if self._is_counted(n)}
        write_text(self.folder / LIVE, json.dumps(facts, ensure_ascii=False, indent=1))

    def _is_counted(self, segment: str) -> bool:
        name = segment.partition("=")[0]
        return name == "all" or name in self.state.segments

    def _send(self) -> None:
        """Put new alerts into the outbox, which outlives this process, and send without holding up the next look."""
        outbox, alerting = self.folder / "outbox.json", self.preparation.run_file.alerts
        if not self.channels:
            return
        if self.sending is not None:
            if not self.sending.done():
                return
            for name, problem in self.sending.result().items():
                if problem:
                    self.say(f"Warning: alerts could not be sent to {name}: {problem}. They are sent at a later look.")
        title = self.preparation.run_file.title or self.preparation.run_file.run
        names = [channel.name for channel in self.channels]
        queue_message(outbox, self.alerts, title=title, channels=names, severity=alerting.severity)
        self.sending = self.sender.submit(deliver, outbox, self.channels, pauses=(1.0,), deadline=30.0)

    def close(self) -> None:
        """Give up what runs in the background; it is begun anew after the next start."""
        self.sender.shutdown(wait=False, cancel_futures=True)
        if self.judging is not None:
            self.judging.cancel()


def _rank(severity: str) -> int:
    return ("critical", "warning", "info").index(severity)


def read_calendar(preparation: Preparation) -> tuple[Calendar, pd.Timedelta]:
    """Give the calendar of the run's overview, and how long its periods stay open for late events."""
    given = _overview(preparation)
    calendar = Calendar(**{name: given[name] for name in CALENDAR if given.get(name)})
    lag = given.get("lag")
    return calendar, pd.Timedelta(parse_duration(lag) if lag else 0, "us")


def _overview(preparation: Preparation) -> dict[str, Any]:
    """Give the parameters of the run's overview notebook."""
    template = next((t for t in preparation.notebooks.templates if t.name == OVERVIEW), None)
    return {**template.parameters, **preparation.notebooks.parameters[OVERVIEW]} if template else {}


def judge_periods(path: str, reports: str) -> pd.DataFrame:
    """Raise the alerts on periods, for every segment of a run, from the whole log.

    Args:
        path: The run file.
        reports: The reports folder, with the alerts of the run's reports.

    Returns:
        Alerts, as `find_alerts` gives them.
    """
    preparation = prepare_run(path)
    run_file, given = preparation.run_file, _overview(preparation)
    calendar, _ = read_calendar(preparation)
    history = Path(reports) / run_file.run / "alerts.json"
    found = []
    actions = list_actions(preparation.plan, on=preparation.log.last.date())
    for segment in preparation.segments:
        log = preparation.log.segment(segment)
        lag, window, entry = (given.get(name) or None for name in ("lag", "window", "entry"))
        clock = dataclasses.asdict(calendar)
        rates = measure_rates(log, preparation.plan, **clock, lag=lag, window=window, entry=entry)
        quality, rules = check_quality(log, preparation.plan), list(run_file.alerts.rules)
        found.append(find_alerts(rates, quality=quality, actions=actions, history=history, rules=rules).table)
    return pd.concat(found, ignore_index=True)


@contextlib.contextmanager
def open_watcher(
    path: str | Path,
    *,
    reports: str | Path = "reports",
    interval: str | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[Watcher]:
    """Check a run file and open what its watcher knows; the cache of the process lies in the watcher's folder.

    Args:
        path: The run file.
        reports: The folder to write to.
        interval: Time between two looks, instead of the run file's.
        say: Takes one line for the person who started it.

    Raises:
        RunError: The run file, or anything that it names, is wrong, or another watcher runs.
    """
    with contextlib.ExitStack() as stack:
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1)
        stack.callback(_end_pool, pool)
        given, cache = os.environ.get("CONVLIB_CACHE"), Path(reports).resolve() / ".watch-cache"
        stack.callback(_set_cache, given)
        _set_cache(str(cache))
        preparation = prepare_run(path)
        run_file = preparation.run_file
        if interval:
            watch = type(run_file.watch).model_validate({**run_file.watch.model_dump(), "interval": interval})
            run_file = run_file.model_copy(update={"watch": watch})
            preparation = dataclasses.replace(preparation, run_file=run_file)
        channels = read_channels(run_file.alerts.notify)
        folder = Path(reports) / run_file.run / "watch"
        calendar, _ = read_calendar(preparation)
        asked = {name.partition("=")[0] for name in preparation.segments}
        segments = {name: each for name, each in preparation.log.segments.items() if name in asked}
        state = stack.enter_context(
            State(
                folder / "state.duckdb",
                plan=preparation.plan,
                segments=segments,
                watch=run_file.watch,
                calendar=calendar,
            )
        )
        if state.forget_other(_digest(preparation, calendar)):
            say("The plan, the segments, the mapping or the calendar changed: everything is counted anew.")
        judge = lambda: pool.submit(judge_periods, str(path), str(reports))  # noqa: E731
        watcher = Watcher(preparation, state, folder, judge, channels, say)
        stack.callback(watcher.close)
        yield watcher


def _end_pool(pool: ProcessPoolExecutor) -> None:
    """End judging under way: it is begun anew after the next start."""
    children = multiprocessing.active_children()
    pool.shutdown(wait=False, cancel_futures=True)
    for child in children:
        child.terminate()


def _set_cache(folder: str | None) -> None:
    if folder is None:
        os.environ.pop("CONVLIB_CACHE", None)
    else:
        os.environ["CONVLIB_CACHE"] = folder


def _digest(preparation: Preparation, calendar: Calendar) -> str:
    run_file = preparation.run_file
    watch = run_file.watch
    files = [Path(place) for name in ("mapping", "segments") if (place := run_file.resolve(getattr(run_file, name)))]
    parts = [
        preparation.plan.digest,
        digest_files(each for each in files if each.exists()),
        sorted(preparation.log.segments),
        run_file.events,
        dataclasses.astuple(calendar),
        watch.bin_microseconds,
        watch.errors,
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def watch_source(
    path: str | Path,
    *,
    stop: threading.Event,
    reports: str | Path = "reports",
    interval: str | None = None,
    port: int | None = 8866,
    say: Callable[[str], None] = print,
) -> None:
    """Watch a growing source until told to stop.

    Args:
        path: The run file.
        stop: Set when it is to end.
        reports: The folder to write to.
        interval: Time between two looks, instead of the run file's.
        port: Port of the dashboard on loopback; None for no dashboard.
        say: Takes one line for the person who started it.

    Raises:
        RunError: The run file, or anything that it names, is wrong, or another watcher runs.
    """
    with contextlib.ExitStack() as stack:
        watcher = stack.enter_context(open_watcher(path, reports=reports, interval=interval, say=say))
        cache = Path(os.environ["CONVLIB_CACHE"])
        if port is not None:
            notebook = write_dashboard(watcher.preparation, watcher.folder)
            dashboard = serve_dashboard(notebook, port=port, token=read_token(watcher.folder), cache=cache)
            say(f"Dashboard: {stack.enter_context(dashboard)}")
        say(f"Watching {watcher.preparation.run_file.events} every {watcher.watch.interval}.")
        while not stop.is_set():
            began = time.monotonic()
            watcher.look()
            clean_cache(cache)
            stop.wait(max(watcher.interval - (time.monotonic() - began), 0.1))


def clean_cache(folder: Path) -> None:
    """Delete prepared logs that are older than any page takes to be made, but the newest."""
    found = sorted(folder.glob("log-*"), key=lambda path: path.stat().st_mtime)
    for each in found[:-1]:
        if time.time() - each.stat().st_mtime > CACHE_SECONDS:
            shutil.rmtree(each, ignore_errors=True)
