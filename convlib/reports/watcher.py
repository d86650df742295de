"""Watches a growing source: new rows counted once, alerts within an interval, periods judged when they close."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd

from convlib.alert_files import SEVERITIES, merge_alerts, read_alerts, write_alerts
from convlib.durations import MICROSECONDS, parse_duration
from convlib.errors import ConvlibError
from convlib.files import digest_files, write_text
from convlib.notify import Channel, deliver, queue_message, read_channels
from convlib.periods import Calendar, find_day
from convlib.reports.arrivals import Batch, Database, disconnect, open_source
from convlib.reports.dashboard import read_token, serve_dashboard, write_dashboard
from convlib.reports.judging import read_calendar, receive_judged, start_judging
from convlib.reports.live import LIVE
from convlib.reports.manifest import ALERTS
from convlib.reports.preparation import Preparation, prepare_run
from convlib.reports.watch_state import State
from convlib.watch import ALL_EVENTS, find_oddities, find_quiet_source

ROLLING = ("event_stopped", "volume", "errors")
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
        judge: Judges the closed periods, in the background: what gives their alerts, or what went wrong.
        channels: Who is told of alerts.
        say: Takes one line for the person who started the watcher.
    """

    preparation: Preparation
    state: State
    folder: Path
    judge: Callable[[], Connection]
    channels: tuple[Channel, ...] = ()
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        """Find out how the source grows."""
        run_file = self.preparation.run_file
        self.watch = run_file.watch
        self.source = open_source(run_file, late=self.watch.late)
        self.calendar, self.lag = read_calendar(self.preparation)
        self.arrivals: deque[float] = deque(maxlen=50)
        self.judging: Connection | None = None
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
        if isinstance(self.source, Database):
            self.state.drop_known(clock and clock - self.source.late)
        count, last = self.state.count_staged()
        if count:
            self.arrivals.append(time.monotonic())
        clock = max(filter(None, (clock, last)), default=None)
        self.state.begin()
        try:
            self.state.add(batch.files, keeps_rows=isinstance(self.source, Database))
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
        odd = find_oddities(self.state.read_counts(), self.watch, until=until)
        quiet = find_quiet_source(self.arrivals, time.monotonic(), interval=self.interval)
        found = pd.concat([odd, quiet], ignore_index=True)
        owners = {c.id: getattr(c, "owner", None) or "" for c in self.preparation.plan.conversions}
        known = self.state.read_conversions()
        named = [
            next((owners[each] for each in known.get(name, []) if owners[each]), "") for name in found["conversion"]
        ]
        return found.assign(segment="all", owner=pd.Series(named, index=found.index, dtype="str"))

    def _take_judged(self, known: pd.DataFrame, clock: pd.Timestamp) -> pd.DataFrame:
        """Take over what the judging of closed periods found, once it is done."""
        if self.judging is None or not self.judging.poll():
            return known
        with self.judging as receiver:
            self.judging, found = None, receive_judged(receiver)
        if isinstance(found, ConvlibError):
            self._warn(f"The closed period could not be judged: {found} It is tried again.")
            return known
        self.state.remember(judged=self.judges.isoformat())
        return merge_alerts(found.query("still_open"), known, clock)

    @property
    def alerts(self) -> pd.DataFrame:
        """Give the alerts as of the last look."""
        text = self.state.recall("alerts")
        write_text(self._place, text or '{"alerts": []}')
        return read_alerts(self._place)

    @property
    def _place(self) -> Path:
        return self.folder / ALERTS

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
        counted = {
            segment: dict(zip(rows["conversion"], map(int, rows["units"]), strict=True))
            for segment, rows in self.state.read_progress(period).groupby("segment")
        }
        size = self.watch.bin_microseconds
        since = clock.value // 1_000 // size - parse_duration(self.watch.window) // size
        still_open = self.alerts.query("still_open").sort_values("severity", key=lambda s: s.map(SEVERITIES.index))
        facts = {
            "looked": f"{pd.Timestamp.now('UTC'):%Y-%m-%d %H:%M:%S} UTC",
            "clock": f"{clock:%Y-%m-%d %H:%M:%S} UTC",
            "interval": self.interval,
            "window": self.watch.window,
            "in_window": int(counts.loc[counts["bin"] > since, "rows"].sum()),
            "rows": self.state.recall("rows", 0),
            "rejected": self.state.recall("rejected", 0),
            "period": f"{ {'D': 'Day', 'W': 'Week', 'M': 'Month'}[self.calendar.every] } from {period.date()}",
            "progress": {name: counted.get(name, {}) for name in self.preparation.segments if self._is_counted(name)},
            "conversions": {c.id: c.name for c in self.preparation.plan.conversions},
            "alerts": json.loads(
                still_open[["id", "severity", "segment", "evidence", "owner", "first_seen"]]
                .assign(first_seen=still_open["first_seen"].dt.strftime("%Y-%m-%d %H:%M:%S UTC"))
                .to_json(orient="records")
            ),
            "warnings": list(self.warnings),
        }
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
            self.judging.close()


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
        given, cache = os.environ.get("CONVLIB_CACHE"), Path(reports).resolve() / ".watch-cache"
        stack.callback(_set_cache, given)
        _set_cache(str(cache))
        preparation = prepare_run(path)
        stack.callback(disconnect, preparation.log)
        run_file = preparation.run_file
        if interval:
            parse_duration(interval, name="--interval")
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
        judge = functools.partial(start_judging, str(path), str(reports))
        watcher = Watcher(preparation, state, folder, judge, channels, say)
        stack.callback(watcher.close)
        yield watcher


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
