"""The history of all runs, in one file beside them: what each made, measured and raised."""

import contextlib
import datetime as dt
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from convlib.engine import quote
from convlib.errors import RunError
from convlib.reports.locks import hold, is_held
from convlib.reports.manifest import MANIFEST, Manifest, read_manifest, read_outcome

HISTORY, LOCK = "history.duckdb", ".lock"
#: How long to wait for another run that writes its own.
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.05
KEY = ("run", "period_start", "period_end")
REPORT = ("audience", "segment", "notebook")
#: What makes two measures the same one.
SAME = ("kind", "id", "definition")
#: So many runs are a trend.
TREND = 12
#: A month has 28 to 31 days, a quarter 90 to 92: periods are alike that differ by less than this share.
ALIKE = 0.1
COLUMNS = (
    *KEY, "title", "started", "finished", "seconds", "status", "reports", "made", "failed", "alerts", "new_alerts",
)  # fmt: skip
#: Columns without a number where no report looks for alerts.
COUNTED = dict.fromkeys(("alerts", "new_alerts"), "Int64")


@dataclass(frozen=True)
class PreviousRun:
    """An earlier run of the same kind: its period, and what its reports measured.

    Attributes:
        period: First and last day.
        measures: By audience, segment and notebook.
    """

    period: tuple[str, str]
    measures: Mapping[tuple[str, str, str], tuple[Mapping[str, Any], ...]] = field(default_factory=dict)


def record_run(path: Path, manifest: Manifest, measures: pd.DataFrame, alerts: pd.DataFrame | None = None) -> None:
    """Write a run into the history, in place of an earlier one of the same period; all of it or nothing.

    Args:
        path: The history's file.
        manifest: The run's record.
        measures: What its reports measured, with audience, segment and notebook.
        alerts: Its table of alerts.

    Raises:
        RunError: The file is damaged, can't be written, or another program holds it.
    """
    reports = pd.DataFrame([asdict(report) for report in manifest.reports])
    tables = {
        "runs": pd.DataFrame([_list_facts(manifest)]),
        "reports": reports.drop(columns=["parameters", "changes"], errors="ignore"),
        "measures": measures,
        "alerts": pd.DataFrame() if alerts is None else alerts,
    }
    identity = dict(zip(KEY, (manifest.run, *manifest.period), strict=True))
    with _open(path) as connection:
        connection.begin()
        for name, table in tables.items():
            _replace(connection, name, table, identity)
        connection.commit()


def read_runs(path: Path, run: str = "") -> pd.DataFrame:
    """Read which runs have ended: one row a run and period, newest last.

    Args:
        path: The history's file.
        run: The run's name; "" for all.

    Raises:
        RunError: The file is damaged, or another program holds it.
    """
    rows = _read(path, "runs").reindex(columns=list(COLUMNS))
    rows = (rows[rows["run"] == run] if run else rows).astype(COUNTED)
    return rows.sort_values(["started", *KEY], kind="stable", ignore_index=True)


def read_measures(path: Path, run: str, period: tuple[str, str]) -> pd.DataFrame:
    """Read what the reports of one run measured: audience, segment, notebook, and the columns of a measure.

    Args:
        path: The history's file.
        run: The run's name.
        period: First and last day.

    Raises:
        RunError: The file is damaged, or another program holds it.
    """
    rows = _read(path, "measures", dict(zip(KEY, (run, *period), strict=True)))
    return rows.drop(columns=list(KEY), errors="ignore")


def find_previous(path: Path, run: str, period: tuple[dt.date, dt.date]) -> PreviousRun | None:
    """Find the last complete run whose period is as long and ends earlier; a week is not compared with three days.

    Args:
        path: The history's file.
        run: The run's name.
        period: First and last day of the period to compare.

    Raises:
        RunError: The file is damaged, or another program holds it.
    """
    runs = read_runs(path, run)
    earlier = runs[(runs["status"] == "complete") & (runs["period_end"] < period[1].isoformat())]
    ends, starts = (pd.to_datetime(earlier[name]) for name in ("period_end", "period_start"))
    days, own = (ends - starts).dt.days + 1, (period[1] - period[0]).days + 1
    earlier = earlier[(days - own).abs() < ALIKE * days.clip(lower=own)]
    if earlier.empty:
        return None
    last = earlier.sort_values(["period_end", "started"], kind="stable").iloc[-1]
    found = (last["period_start"], last["period_end"])
    rows = read_measures(path, run, found)
    grouped = rows.groupby(list(REPORT)) if len(rows) else ()
    measures = {
        (str(audience), str(segment), str(notebook)): _list_rows(group)
        for (audience, segment, notebook), group in grouped
    }
    return PreviousRun(found, measures)


def read_trend(path: Path, manifest: Manifest, measures: pd.DataFrame) -> pd.DataFrame:
    """Read how a run's first rate went over its runs, this one included: the numbers behind the index page's trend.

    Args:
        path: The history's file.
        manifest: The run's record.
        measures: What this run's reports measured.

    Returns:
        One row for each of the latest runs, oldest first: sample (its first day), name, unit, units, value, lower,
        upper. Empty without two runs that measured the same thing.
    """
    rates = measures[(measures["audience"] == "") & (measures["kind"] == "rate")] if len(measures) else measures
    if rates.empty:
        return rates
    lead = rates.iloc[0]
    same = {"run": manifest.run, **{name: str(lead[name]) for name in (*REPORT, *SAME)}}
    earlier = _read(path, "measures", same)
    if len(earlier):
        earlier = earlier[earlier["period_end"] < manifest.period[1]].sort_values("period_end")
    trend = pd.concat([earlier, rates.head(1)], ignore_index=True).drop_duplicates("sample", keep="last")
    return trend.tail(TREND) if len(trend) > 1 else trend.iloc[:0]


def _list_rows(measures: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    rows = measures.drop(columns=list(REPORT)).to_dict("records")
    return tuple({str(name): value for name, value in row.items()} for row in rows)


def list_runs(reports: Path) -> pd.DataFrame:
    """List all runs: those that have ended, and those under way or stopped before their end.

    Args:
        reports: The folder of reports.

    Returns:
        One row a run and period, newest last; a run whose process is gone has the status `stopped`.

    Raises:
        RunError: The history is damaged, or another program holds it.
    """
    ended = read_runs(reports / HISTORY)
    found = [_find_unfinished(path.parent) for path in sorted(reports.glob(f"*/*/{MANIFEST}"))]
    others = [_list_facts(each) for each in found if each]
    if not others:
        return ended
    rows = pd.DataFrame([*ended.to_dict("records"), *others], columns=list(COLUMNS)).astype(COUNTED)
    return rows.drop_duplicates(list(KEY), keep="last").sort_values("started", kind="stable", ignore_index=True)


def _find_unfinished(folder: Path) -> Manifest | None:
    """Read the record of a run that did not end; of one that was killed, each report's own record says more."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.status not in {"running", "interrupted"}:
        return None
    if manifest.status == "interrupted" or is_held(folder.parent / LOCK):
        return manifest
    reports = tuple(replace(each, **(read_outcome(folder, each) or {})) for each in manifest.reports)
    return replace(manifest, status="stopped", reports=reports)


def _list_facts(manifest: Manifest) -> dict[str, Any]:
    states = [report.status for report in manifest.reports]
    found = (manifest.run, *manifest.period, manifest.title, manifest.started, manifest.finished, manifest.seconds)
    counts = (len(states), states.count("made"), states.count("failed"))
    alerts = (manifest.alerts.get("open"), manifest.alerts.get("new"))
    return dict(zip(COLUMNS, (*found, manifest.status, *counts, *alerts), strict=True))


def _replace(
    connection: duckdb.DuckDBPyConnection, name: str, table: pd.DataFrame, identity: Mapping[str, str]
) -> None:
    rows = table.drop(columns=list(KEY), errors="ignore")
    for number, (column, value) in enumerate(identity.items()):
        rows.insert(number, column, value)
    connection.register("given", rows)
    # A table is as wide as what was ever written to it: another version may measure more.
    connection.execute(f"CREATE TABLE IF NOT EXISTS {quote(name)} AS FROM given LIMIT 0")
    known = {column for column, *_ in connection.execute(f"DESCRIBE {quote(name)}").fetchall()}
    for column, kind, *_ in connection.execute("DESCRIBE given").fetchall():
        if column not in known:
            connection.execute(f"ALTER TABLE {quote(name)} ADD COLUMN {quote(column)} {kind}")
    where = " AND ".join(f"{quote(column)} = ?" for column in identity)
    values = list(identity.values())
    connection.execute(f"DELETE FROM {quote(name)} WHERE {where}", values)  # noqa: S608  # our own names
    connection.execute(f"INSERT INTO {quote(name)} BY NAME FROM given")
    connection.unregister("given")


def _read(path: Path, name: str, identity: Mapping[str, str] | None = None) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=list(KEY))
    where = " AND ".join(f"{quote(column)} = ?" for column in identity or ()) or "true"
    with _open(path, read_only=True) as connection:
        tables = [table for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        if name not in tables:
            return pd.DataFrame(columns=list(KEY))
        return connection.execute(f"FROM {quote(name)} WHERE {where}", list((identity or {}).values())).df()


@contextlib.contextmanager
def _open(path: Path, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the file under a lock; whoever may only read it leaves nothing beside it, and waits for who writes."""
    try:
        with contextlib.ExitStack() as stack:
            if not read_only or os.access(path.parent, os.W_OK):
                stack.enter_context(hold(path.with_name(f".{HISTORY}.lock"), wait_seconds=WAIT_SECONDS))
            yield stack.enter_context(_connect(path, read_only=read_only))
    except OSError as error:
        if not read_only:  # the run's own, which says what is kept
            raise
        raise RunError(f"`{path}`, the history of runs, can't be used: {error.strerror or error}.") from None
    except duckdb.Error as error:
        says = str(error).splitlines()[0]
        advice = "Close the program that has it open, or, if it is damaged, move it away: the next run begins a new one"
        raise RunError(
            f"`{path}`, the history of runs, can't be used: {says} {advice}, without anything to compare itself with."
        ) from None


def _connect(path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return duckdb.connect(str(path), read_only=read_only)
        except duckdb.IOException as error:
            if "lock" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(POLL_SECONDS)
