"""The history of all runs, in one file beside them: what each made, measured and raised."""

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from convlib.engine import quote
from convlib.errors import RunError
from convlib.reports.locks import hold, is_held
from convlib.reports.manifest import MANIFEST, Manifest, read_manifest

HISTORY, LOCK = "history.duckdb", ".lock"
#: How long to wait for another run that writes its own.
WAIT_SECONDS = 60.0
KEY = ("run", "period_start", "period_end")
REPORT = ("audience", "segment", "notebook")
COLUMNS = (
    *KEY, "title", "started", "finished", "seconds", "status", "reports", "made", "failed", "alerts", "new_alerts",
)  # fmt: skip


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
    rows = (rows[rows["run"] == run] if run else rows).astype(dict.fromkeys(("alerts", "new_alerts"), "Int64"))
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


def find_previous(path: Path, run: str, *, before: dt.date) -> PreviousRun | None:
    """Find the last complete run with an earlier end of its period.

    Args:
        path: The history's file.
        run: The run's name.
        before: The end of the period to compare.

    Raises:
        RunError: The file is damaged, or another program holds it.
    """
    runs = read_runs(path, run)
    earlier = runs[(runs["status"] == "complete") & (runs["period_end"] < before.isoformat())]
    if earlier.empty:
        return None
    last = earlier.sort_values(["period_end", "started"], kind="stable").iloc[-1]
    period = (last["period_start"], last["period_end"])
    rows = read_measures(path, run, period)
    grouped = rows.groupby(list(REPORT)) if len(rows) else ()
    measures = {
        (str(audience), str(segment), str(notebook)): _list_rows(found)
        for (audience, segment, notebook), found in grouped
    }
    return PreviousRun(period, measures)


def _list_rows(measures: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    rows = measures.drop(columns=list(REPORT)).to_dict("records")
    return tuple({str(name): value for name, value in row.items()} for row in rows)


def list_runs(reports: Path, run: str = "") -> pd.DataFrame:
    """List all runs: those that have ended, and those under way or stopped before their end.

    Args:
        reports: The folder of reports.
        run: The run's name; "" for all.

    Returns:
        One row a run and period, newest last; a run whose process is gone has the status `stopped`.

    Raises:
        RunError: The history is damaged, or another program holds it.
    """
    ended = read_runs(reports / HISTORY, run)
    found = [read_manifest(path.parent) for path in sorted(reports.glob(f"{run or '*'}/*/{MANIFEST}"))]
    others = [_list_facts(each) for each in found if each and each.status in {"running", "interrupted"}]
    for row in others:
        if row["status"] == "running" and not is_held(reports / row["run"] / LOCK):
            row["status"] = "stopped"
    if not others:
        return ended
    rows = pd.concat([ended, pd.DataFrame(others).astype(ended.dtypes)], ignore_index=True)
    return rows.drop_duplicates(list(KEY), keep="last").sort_values("started", kind="stable", ignore_index=True)


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
    with _open(path) as connection:
        tables = [table for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        if name not in tables:
            return pd.DataFrame(columns=list(KEY))
        return connection.execute(f"FROM {quote(name)} WHERE {where}", list((identity or {}).values())).df()


@contextlib.contextmanager
def _open(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        with (
            hold(path.with_name(f".{HISTORY}.lock"), wait_seconds=WAIT_SECONDS),
            duckdb.connect(str(path)) as connection,
        ):
            yield connection
    except duckdb.Error as error:
        says = str(error).splitlines()[0]
        advice = "Close the program that has it open, or, if it is damaged, move it away: the next run begins a new one"
        raise RunError(
            f"`{path}`, the history of runs, can't be used: {says} {advice}, without anything to compare itself with."
        ) from None
