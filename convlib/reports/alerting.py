"""After a run's notebooks: which alerts are open, since when, and who is told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from convlib.alert_files import KEY, merge_alerts, read_alerts, write_alerts
from convlib.errors import ConvlibError, RunError
from convlib.notify import deliver, queue_message, read_outbox
from convlib.reports.index import name_segment
from convlib.reports.manifest import ALERTS, OWN_ALERTS, Manifest, Report
from convlib.reports.preparation import Preparation

OUTBOX = "outbox.json"


@dataclass(frozen=True)
class Alerting:
    """What a run did about alerts.

    Attributes:
        table: The alerts of this run's report; None when no notebook looks for any.
        notes: Sentences for whoever started the run.
        record: What the run's record keeps.
    """

    table: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


def check_alert_files(folder: Path) -> None:
    """Find damaged files of earlier alerts and messages before a run makes anything.

    Args:
        folder: The run's folder, above its periods.

    Raises:
        RunError: A file can't be read.
    """
    try:
        read_alerts(folder / ALERTS)
        read_outbox(folder / OUTBOX)
    except ConvlibError as error:
        raise RunError(*error.problems) from None


def record_alerts(folder: Path, manifest: Manifest, preparation: Preparation) -> Alerting:
    """Write the alerts of a run's segments, joined with what was open before, and queue a message about new ones.

    Args:
        folder: The period's folder.
        manifest: The run's record, with how its reports ended.
        preparation: The checked run.

    Returns:
        What happened; nothing was sent yet.
    """
    found = _collect(folder, manifest.reports)
    if not found:
        return Alerting()
    judged = pd.concat(found.values(), ignore_index=True)
    newest = max((path.parent.name[-len("2026-12-31") :] for path in folder.parent.glob(f"*/{ALERTS}")), default="")
    if manifest.period[1] < newest:
        return _record_old(folder, judged[judged["still_open"]].assign(is_new=False), manifest.period[1], newest)
    history = read_alerts(folder.parent / ALERTS)
    table = _merge(judged, history, now=preparation.log.last)
    # The message first: a run that is killed between the two finds its alerts new again, and the message there.
    queue_message(
        folder.parent / OUTBOX,
        table.assign(segment=table["segment"].map(name_segment)),
        title=manifest.title,
        channels=[channel.name for channel in preparation.channels],
        severity=preparation.run_file.alerts.severity,
    )
    for place in (folder.parent, folder):
        write_alerts(place / ALERTS, table)
    count, new = int(table["still_open"].sum()), int(table["is_new"].sum())
    said = f"{count} alert{' is' if count == 1 else 's are'} open, {new} new." if count else "No alert is open."
    return Alerting(table, (said,), {"open": count, "new": new})


def _record_old(folder: Path, table: pd.DataFrame, end: str, newest: str) -> Alerting:
    """Keep the alerts of a period before others that were judged already: for its own report, and nothing else."""
    write_alerts(folder / ALERTS, table)
    note = (
        f"The period ends on {end}, before the newest one with alerts, {newest}: no alert was raised, closed or sent."
    )
    return Alerting(table, (note,), {"open": len(table), "new": 0, "note": note})


def send_messages(folder: Path, preparation: Preparation, alerting: Alerting) -> Alerting:
    """Send what waits in a run's outbox; what fails is kept for the next run and never fails this one.

    Args:
        folder: The period's folder.
        preparation: The checked run.
        alerting: What was recorded.
    """
    problems = deliver(folder.parent / OUTBOX, preparation.channels)
    notes = tuple(
        f"{name}: {problem}. The message is kept and sent again at the next run."
        for name, problem in problems.items()
        if problem
    )
    delivery = {name: problem or "delivered" for name, problem in problems.items()}
    record = {**alerting.record, "delivery": delivery} if delivery else alerting.record
    return replace(alerting, notes=alerting.notes + notes, record=record)


def _collect(folder: Path, reports: Iterable[Report]) -> dict[str, pd.DataFrame]:
    """Read each segment's alerts; a segment whose report failed is not among them."""
    made = [(r.segment, folder / r.tables / OWN_ALERTS) for r in reports if r.status == "made"]
    return {segment: pd.read_parquet(path) for segment, path in made if path.exists()}


def _merge(judged: pd.DataFrame, history: pd.DataFrame, *, now: pd.Timestamp) -> pd.DataFrame:
    """Join what the run found or closed with what was open; all that it did not look at stays as it was."""
    known, looked_at = (pd.MultiIndex.from_frame(table[list(KEY)]) for table in (history, judged))
    same = known.isin(looked_at)
    others: pd.DataFrame = history[~same & history["still_open"]].assign(is_new=False)
    merged = merge_alerts(judged[judged["still_open"]], history[same], now)
    # A report that is made again shows as new what it showed as new before.
    merged["is_new"] |= merged["still_open"] & (merged["first_seen"] >= now)
    return pd.concat([merged, others], ignore_index=True)
