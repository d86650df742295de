"""A report run: every notebook of every segment, executed and written as pages, with a record of how it went."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from convlib.errors import RunError
from convlib.reports.alerting import ALERTS, check_alert_files, record_alerts, send_messages
from convlib.reports.execute import Job, Outcome, execute_job
from convlib.reports.export import Link, Page
from convlib.reports.files import digest_files, write_bytes
from convlib.reports.index import name_segment, word_period, word_provenance, write_index
from convlib.reports.manifest import Manifest, Report, read_made, read_versions, tell_time
from convlib.reports.notebooks import Template
from convlib.reports.preparation import Preparation, prepare_run
from convlib.reports.progress import show_progress

COLUMNS = ("segment", "notebook", "status", "seconds", "error", "path")
#: Beside the reports, and not among them: its rows are those of users.
REJECTS = Path("private") / "rejects.parquet"


@dataclass(frozen=True)
class Run:
    """A finished report run.

    Attributes:
        folder: The period's folder.
        index: The page to open first.
        status: `complete` when every report was made, else `incomplete`.
        table: One row a notebook: segment, notebook, status (made, kept, failed or pending), seconds, error, path.
        notes: Which reports are left out, what became of the alerts, and what could not be sent.
    """

    folder: Path
    index: Path
    status: str
    table: pd.DataFrame
    notes: tuple[str, ...] = ()


def run_reports(
    path: str | Path, *, resume: bool = False, workers: int | None = None, reports: str | Path = "reports"
) -> Run:
    """Make the reports that a run file asks for, and go on when one of them fails.

    Args:
        path: The run file.
        resume: Keep the reports of the last run of this period whose data, plan, parameters, notebook and versions
            have not changed.
        workers: How many notebooks run at a time; None for one a processor.
        reports: The folder to write to.

    Returns:
        Where the reports are, and how each went.

    Raises:
        RunError: The run file, or anything that it names, is wrong; every problem is listed, and nothing was made.
    """
    if workers is not None and workers < 1:
        raise RunError(f"`workers` is {workers!r}; it must be 1 or more, or left out.")
    started = time.monotonic()
    preparation = prepare_run(path)
    folder = Path(reports) / preparation.folder
    check_alert_files(folder.parent)
    manifest = start_manifest(preparation)
    planned = plan_reports(preparation, manifest, folder)
    kept = _find_kept(folder, planned) if resume else {}
    manifest = replace(manifest, reports=tuple(kept.get(number, report) for number, (report, _) in enumerate(planned)))
    _write_rejects(folder, preparation)
    jobs = {number: job for number, (_, job) in enumerate(planned) if number not in kept}
    manifest = _execute(jobs, manifest, folder, workers=min(workers or os.cpu_count() or 1, max(len(jobs), 1)))
    status = "complete" if all(report.status == "made" for report in manifest.reports) else "incomplete"
    manifest = manifest.finish(status=status, seconds=time.monotonic() - started)
    alerting = record_alerts(folder, manifest, preparation)
    replace(manifest, alerts=alerting.record).write(folder)
    index = write_index(folder, manifest, alerting.table)
    # The run is whole by now: a receiver that hangs or fails can't harm it.
    alerting = send_messages(folder, preparation, alerting)
    replace(manifest, alerts=alerting.record).write(folder)
    notes = (*preparation.notes, *alerting.notes)
    return Run(folder, index, status, _tabulate(manifest, kept, folder), notes)


def _write_rejects(folder: Path, preparation: Preparation) -> None:
    """Write what the log had to leave out: the run's first file, so it also finds a folder that can't be written to."""
    try:
        write_bytes(folder / REJECTS, preparation.log.rejects.to_parquet(index=False))
    except OSError as error:
        raise RunError(
            f"The reports can't be written to `{folder}`: {error.strerror}. Choose another --reports."
        ) from None


def start_manifest(preparation: Preparation) -> Manifest:
    """Begin the record of a run: its data, plan, period and versions, without reports."""
    run_file, log, (start, end) = preparation.run_file, preparation.log, preparation.period
    data = {
        "source": run_file.events,
        "fingerprint": log.fingerprint,
        "reading": log.prepared.reading,
        **{f"rows_{fate}": count for fate, count in log.row_counts.items()},
        "rejected_because": log.rejected_because,
        "left_out_because": log.left_out_because,
        "first": log.first.isoformat(),
        "last": log.last.isoformat(),
    }
    segments = Path(run_file.resolve(run_file.segments)) if run_file.segments else None
    return Manifest(
        run=run_file.run,
        title=run_file.title or run_file.run,
        period=(start.isoformat(), end.isoformat()),
        data=data,
        plan_digest=preparation.plan.digest,
        segments_digest=digest_files([segments]) if segments else "",
        versions=read_versions(),
        started=tell_time(),
    )


def plan_reports(preparation: Preparation, manifest: Manifest, folder: Path) -> list[tuple[Report, Job]]:
    """List what a run makes, segment by segment: each report's entry in the record and its job.

    Args:
        preparation: The checked run.
        manifest: The run's record, without reports.
        folder: The period's folder.
    """
    return [
        _plan_report(preparation, manifest, folder, segment=segment, position=position)
        for segment in preparation.segments
        for position in range(len(preparation.notebooks.templates))
    ]


def _plan_report(
    preparation: Preparation, manifest: Manifest, folder: Path, *, segment: str, position: int
) -> tuple[Report, Job]:
    template = preparation.notebooks.templates[position]
    place = f"{preparation.segments[segment]}/{template.name}"
    tables = f"{preparation.segments[segment]}/tables/{template.name}"
    page = _frame_page(preparation, manifest, segment=segment, position=position)
    parameters = preparation.fill(template, segment=segment, tables=folder / tables, history=folder.parent / ALERTS)
    report = Report(
        segment=segment,
        notebook=template.name,
        title=template.title,
        key=_make_key(template, parameters, page, manifest),
        parameters=parameters,
        html=f"{place}.html",
        ipynb=f"{place}.ipynb",
        tables=tables,
    )
    # Workers change their working folder: what they get must not depend on it.
    base = folder.resolve()
    job = Job(
        template=template.path,
        ipynb=base / report.ipynb,
        html=base / report.html,
        tables=base / tables,
        parameters=parameters,
        page=page,
    )
    return report, job


def _frame_page(preparation: Preparation, manifest: Manifest, *, segment: str, position: int) -> Page:
    templates = preparation.notebooks.templates
    links = [Link(template.title, f"{template.name}.html") for template in templates]
    return Page(
        run_title=manifest.title,
        segment=name_segment(segment),
        period=word_period(*manifest.period),
        notebook=f"{templates[position].name}.ipynb",
        provenance=word_provenance(manifest),
        previous=links[position - 1] if position else None,
        following=links[position + 1] if position + 1 < len(links) else None,
        title=templates[position].title,
    )


def _make_key(template: Template, parameters: Mapping[str, Any], page: Page, manifest: Manifest) -> str:
    """Fingerprint all that a report's content depends on."""
    parts = {
        "source": digest_source(),
        "template": template.digest,
        "parameters": parameters,
        "page": asdict(page),
        "data": [manifest.data["fingerprint"], manifest.data["reading"]],
        "plan": manifest.plan_digest,
        "segments": manifest.segments_digest,
        "versions": manifest.versions,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def digest_source() -> str:
    """Fingerprint this package's code and templates, so that reports made by other code are made anew."""
    package = Path(__file__).parents[1]
    return digest_files(path for path in package.rglob("*") if path.suffix in {".py", ".j2", ".css", ".js"})


def _find_kept(folder: Path, planned: list[tuple[Report, Job]]) -> dict[int, Report]:
    """Find the reports of the folder's last run that would come out the same."""
    made = read_made(folder)
    return {
        number: made[report.key]
        for number, (report, job) in enumerate(planned)
        if report.key in made and job.html.exists() and job.ipynb.exists()
    }


def _execute(jobs: Mapping[int, Job], manifest: Manifest, folder: Path, *, workers: int) -> Manifest:
    manifest.write(folder)
    # Spawned processes: papermill changes the working folder of its process, and a fork would share engine threads.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    futures = {pool.submit(execute_job, job): number for number, job in jobs.items()}
    if threading.current_thread() is threading.main_thread():
        # Polars, which statsmodels loads where it is installed, takes the interrupt away from Python; take it back.
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT) or signal.default_int_handler)
    try:
        with show_progress(len(futures)) as tick:
            for future in as_completed(futures):
                manifest = manifest.record(futures[future], **_read_outcome(future))
                manifest.write(folder)
                tick(_word_outcome(manifest.reports[futures[future]]))
    except KeyboardInterrupt:
        manifest.finish(status="interrupted", seconds=0.0).write(folder)
        _stop(pool)
        raise
    pool.shutdown()
    return manifest


def _stop(pool: ProcessPoolExecutor) -> None:
    children = multiprocessing.active_children()
    pool.shutdown(wait=False, cancel_futures=True)
    for child in children:
        child.terminate()


def _read_outcome(future: "Future[Outcome]") -> dict[str, Any]:
    error = future.exception()
    if error is not None:
        return {"status": "pending", "error": f"The report could not be written: {type(error).__name__}: {error}"}
    outcome = future.result()
    return {"status": "failed" if outcome.error else "made", **asdict(outcome)}


def _word_outcome(report: Report) -> str:
    how = "made" if report.status == "made" else f"FAILED: {report.reason}"
    return f"{report.segment} · {report.notebook} · {report.seconds:.1f} s · {how}"


def _tabulate(manifest: Manifest, kept: Mapping[int, Report], folder: Path) -> pd.DataFrame:
    rows = [
        (r.segment, r.notebook, "kept" if number in kept else r.status, r.seconds, r.error, str(folder / r.html))
        for number, r in enumerate(manifest.reports)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
