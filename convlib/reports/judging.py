"""Closed periods of a watched source: the whole log measured once, in a process of its own."""

import contextlib
import dataclasses
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd

from convlib.alerts import find_alerts
from convlib.durations import parse_duration
from convlib.errors import ConvlibError, RunError
from convlib.periods import Calendar
from convlib.quality import check_quality
from convlib.rates import measure_rates
from convlib.reports.dashboard import OVERVIEW
from convlib.reports.manifest import ALERTS
from convlib.reports.preparation import Preparation, prepare_run
from convlib.upkeep import list_actions

CALENDAR = ("every", "week_start", "timezone")


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
    history = Path(reports) / run_file.run / ALERTS
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


def start_judging(path: str, reports: str) -> Connection:
    """Judge in a process of its own, as the engine is one a process; it ends by itself even when this one is killed.

    Args:
        path: The run file.
        reports: The reports folder.

    Returns:
        What gives the alerts, or the error, once they are there.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    context.Process(target=send_judged, args=(path, reports, sender), daemon=True).start()
    sender.close()
    return receiver


def send_judged(path: str, reports: str, sender: Connection) -> None:
    """Judge, and send the alerts or the error."""
    try:
        found: object = judge_periods(path, reports)
    except ConvlibError as error:
        found = error
    with contextlib.suppress(BrokenPipeError):  # the watcher has ended
        sender.send(found)


def receive_judged(receiver: Connection) -> Any:
    """Take what judging found: the alerts, or a `ConvlibError`."""
    try:
        return receiver.recv()
    except EOFError:
        return RunError("its process ended early.")
