"""A report run: every notebook of every segment, executed and written as pages, with a record of how it went."""

import contextlib
import datetime as dt
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from concurrent.futures import wait as futures_wait
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from convlib.documents import did_you_mean, find_wrong_number
from convlib.errors import RunError, StoppedError
from convlib.files import sweep_scratch, write_bytes
from convlib.reports.alerting import Alerting, check_alert_files, record_alerts, send_messages
from convlib.reports.audiences import write_audiences
from convlib.reports.delivery import deliver_audiences
from convlib.reports.execute import Job, KernelKind, Outcome, execute_job
from convlib.reports.history import HISTORY, LOCK, find_previous, read_runs, read_trend, record_run
from convlib.reports.index import write_index
from convlib.reports.locks import hold, is_held
from convlib.reports.manifest import MEASURES, PRIVATE, Manifest, Report, prune_periods, read_outcome, remove_others
from convlib.reports.planning import Planned, plan_reports, start_manifest
from convlib.reports.preparation import Days, Preparation, prepare_run
from convlib.reports.progress import show_progress
from convlib.reports.workers import Terminated as Terminated
from convlib.reports.workers import WorkerDied, listen, open_workers

COLUMNS = ("segment", "notebook", "status", "seconds", "error", "path", "audience")
#: Beside the reports, and not among them: its rows are those of users.
REJECTS = Path(PRIVATE) / "rejects.parquet"
#: How often the record is written while reports are made; each report keeps a record of its own.
RECORD_SECONDS = 10.0
DIED = "The process that made the report ended in the middle of it: it was killed, or memory ran out."
Submit = Callable[..., "Future[Any]"]


@dataclass(frozen=True)
class Run:
    """A finished report run.

    Attributes:
        folder: The period's folder.
        index: The page to open first.
        status: `complete` when every report was made, else `incomplete`.
        table: One row a notebook: segment, notebook, status (made, kept, failed or pending), seconds, error, path,
            and the audience that the report is for ("" for whoever runs it).
        notes: Which reports are left out, what became of the alerts, and what could not be sent.
    """

    folder: Path
    index: Path
    status: str
    table: pd.DataFrame
    notes: tuple[str, ...] = ()


@dataclass
class _Making:
    """A run under way; `manifest` always holds what is known by now."""

    preparation: Preparation
    folder: Path
    planned: list[Planned]
    manifest: Manifest
    kept: frozenset[int]
    started: float
    alerting: Alerting = field(default_factory=Alerting)
    recorded: bool = False

    @property
    def own(self) -> Manifest:
        """The record without the reports that were made for an audience."""
        return replace(self.manifest, reports=tuple(each for each in self.manifest.reports if not each.audience))

    def fill(self, number: int, outcome: Mapping[str, Any]) -> Report:
        reports = [*self.manifest.reports]
        reports[number] = replace(reports[number], **outcome)
        self.manifest = replace(self.manifest, reports=tuple(reports))
        return reports[number]


def run_reports(
    path: str | Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    kernel: KernelKind = "warm",
    reports: str | Path = "reports",
    only: Sequence[str] = (),
    period: Sequence[dt.date | str] | None = None,
    executor: Executor | None = None,
) -> Run:
    """Make the reports that a run file asks for, and go on when one of them fails.

    Args:
        path: The run file.
        resume: Keep the reports of this period whose data, plan, parameters, notebook and versions have not changed.
        workers: How many notebooks run at a time; None for one a processor.
        kernel: `warm` forks the notebooks' processes from one that has everything loaded; `cold` starts each anew.
        reports: The folder to write to.
        only: Make just these reports, such as `all/02_funnel`; without index and record, which a later run with
            `resume` makes. Several processes may do so at a time.
        period: First and last day of entries; None for the run file's.
        executor: Who carries the work, instead of processes on this machine: any executor of `concurrent.futures`
            whose workers see the same folders and execute one work at a time each.

    Returns:
        Where the reports are, and how each went.

    Raises:
        RunError: The run file, or anything that it names, is wrong, or another run writes the same folder; every
            problem is listed, and nothing was made.
        StoppedError: The disk is full, or the folder can't be written to; what was made is kept.
    """
    if problems := [] if workers is None else find_wrong_number("workers", workers, least=1):
        raise RunError(*problems)
    started = time.time()
    preparation = prepare_run(path, period=_read_period(period))
    folder = Path(reports) / preparation.folder
    try:
        if not only:
            with hold(folder.parent / LOCK):
                making = _plan(preparation, folder, kernel=kernel, resume=resume, started=started)
                with _carry(executor, workers, len(making.planned)) as submit:
                    made = _make(making, submit)
                # The run is whole by now: a receiver that hangs or fails, or an interrupt, can't harm it.
                return replace(made, notes=(*made.notes, *_send(making)))
        making = _plan(preparation, folder, kernel=kernel, resume=resume, started=started, only=only)
        chosen = _choose(making, only)
        with _carry(executor, workers, len(chosen)) as submit:
            jobs = {n: making.planned[n].job for n in chosen if n not in making.kept}
            _execute(making, jobs, submit, is_whole=False)
    except OSError as error:
        raise RunError(
            f"The reports can't be written to `{folder}`: {error.strerror or error}. Nothing was made. Choose another "
            "--reports, or see to it that this one can be written to."
        ) from None
    table = _tabulate(making).loc[chosen].reset_index(drop=True)
    return Run(folder, Path(table["path"].iloc[0]), _judge(table["status"]), table, preparation.notes)


def catch_up(
    path: str | Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    kernel: KernelKind = "warm",
    reports: str | Path = "reports",
    executor: Executor | None = None,
) -> list[Run]:
    """Make each period that was missed since the first complete run, oldest first, and then the run file's own.

    Args:
        path: The run file; its `period` counts complete days, weeks, months or quarters.
        resume: As for `run_reports`.
        workers: As for `run_reports`.
        kernel: As for `run_reports`.
        reports: The folder to write to.
        executor: As for `run_reports`.

    Raises:
        RunError: As for `run_reports`, or the period of the run file is not one of the calendar.
    """
    preparation = prepare_run(path)
    run_file, log = preparation.run_file, preparation.log
    if not run_file.period.unit:
        raise RunError(
            f"{run_file.locate('period')}: `period` counts no complete periods of the calendar, so nothing says which "
            "were missed. Write one such as `last complete week`, or run without --catch-up."
        )
    runs = read_runs(Path(reports) / HISTORY, run_file.run)
    ends = runs.loc[runs["status"] == "complete", "period_end"]
    missed = run_file.period.list_periods(dt.date.fromisoformat(ends.min()), log.first, log.last) if len(ends) else []
    periods = [each for each in missed if each[1].isoformat() not in set(ends) and each != preparation.period]
    options: dict[str, Any] = {"resume": resume, "workers": workers, "kernel": kernel}
    make = partial(run_reports, path, reports=reports, executor=executor, **options)
    made, passed_over = [], []
    for period in periods:
        try:
            made.append(make(period=period))
        except StoppedError:
            raise
        except RunError as error:  # a week without any entry, say; it must not hold up those after it for ever
            passed_over += [f"{period[0]} to {period[1]} was passed over: {problem}" for problem in error.problems]
    last = make()
    return [*made, replace(last, notes=(*passed_over, *last.notes))]


def list_reports(
    path: str | Path, *, reports: str | Path = "reports", period: Sequence[dt.date | str] | None = None
) -> list[dict[str, Any]]:
    """List the reports that a run would make, each with the command that makes it alone.

    Args:
        path: The run file.
        reports: The folder to write to.
        period: First and last day of entries; None for the run file's.

    Returns:
        For each: run, period, segment, notebook, audience, only (its name), command (a list of arguments).
    """
    preparation = prepare_run(path, period=_read_period(period))
    manifest, folder = start_manifest(preparation), Path(reports) / preparation.folder
    command = ["convlib", "run", str(path), "--reports", str(reports), "--period", folder.name, "--only"]
    return [
        {
            "run": manifest.run,
            "period": folder.name,
            "segment": each.report.segment,
            "notebook": each.report.notebook,
            "audience": each.report.audience,
            "only": each.name,
            "command": [*command, each.name],
        }
        for each in plan_reports(preparation, manifest, folder)
    ]


def _read_period(period: Sequence[dt.date | str] | None) -> Days | None:
    if period is None:
        return None
    try:
        start, end = (dt.date.fromisoformat(str(day)) for day in period)
    except ValueError:
        start, end = dt.date.max, dt.date.min
    if end < start:
        said = "_".join(str(day) for day in period)
        raise RunError(f"--period is {said!r}; it must be two days in their order, such as '2026-01-05_2026-03-22'.")
    return start, end


def _plan(
    preparation: Preparation,
    folder: Path,
    *,
    kernel: KernelKind,
    resume: bool,
    started: float,
    only: Sequence[str] = (),
) -> _Making:
    check_alert_files(folder.parent)
    manifest = start_manifest(preparation)
    history = folder.parent.parent / HISTORY
    previous = find_previous(history, manifest.run, preparation.period)
    planned = plan_reports(preparation, manifest, folder, kernel=kernel, previous=previous, only=only)
    manifest = replace(manifest, reports=tuple(each.report for each in planned))
    making = _Making(preparation, folder, planned, manifest, frozenset(), started)
    kept = {number: read_outcome(folder, each.report) for number, each in enumerate(planned)} if resume else {}
    for number, outcome in kept.items():
        if outcome and outcome["status"] == "made":
            making.fill(number, outcome)
            making.kept |= {number}
    return making


def _choose(making: _Making, only: Sequence[str]) -> list[int]:
    numbers = {each.name: number for number, each in enumerate(making.planned)}
    problems = [
        f"--only is {name!r}, which is no report of this run.{did_you_mean(name, numbers)} "
        "`convlib run --list` lists all."
        for name in only
        if name not in numbers
    ]
    if problems:
        raise RunError(*problems)
    return [numbers[name] for name in only]


@contextlib.contextmanager
def _carry(executor: Executor | None, workers: int | None, reports: int) -> Iterator[Submit]:
    """Give what carries the work, and take SIGTERM for an interrupt meanwhile."""
    with listen():
        if executor is not None:
            with _cancel(executor) as submit:
                yield submit
            return
        with open_workers(min(workers or os.cpu_count() or 1, max(reports, 1))) as pool:
            yield pool.submit


@contextlib.contextmanager
def _cancel(executor: Executor) -> Iterator[Submit]:
    """Hand work to somebody's executor; a run that ends early takes back what has not begun and waits for the rest."""
    futures: list[Future[Any]] = []

    def submit(*work: Any, **options: Any) -> "Future[Any]":
        futures.append(executor.submit(*work, **options))
        return futures[-1]

    try:
        yield submit
    except BaseException:
        for future in futures:
            future.cancel()
        futures_wait(future for future in futures if not future.cancelled())
        raise


def _make(making: _Making, submit: Submit) -> Run:
    _open_record(making)
    try:
        jobs = {number: each.job for number, each in enumerate(making.planned) if number not in making.kept}
        _execute(making, jobs, submit)
        return _finish(making, submit)
    except KeyboardInterrupt:
        if not making.recorded:
            _end(making, "interrupted")
        raise
    except OSError as error:
        made = sum(report.status == "made" for report in making.manifest.reports)
        raise StoppedError(
            f"The run stopped, because `{making.folder}` can't be written to: {error.strerror or error}. {made} of "
            f"{len(making.planned)} reports are made and kept. See to that, and continue with --resume."
        ) from None


def _open_record(making: _Making) -> None:
    """Write what a run that is killed leaves: which reports there are to be. It also finds a folder that is shut."""
    making.manifest.write(making.folder)
    write_bytes(making.folder / REJECTS, making.preparation.log.rejects.to_parquet(index=False))
    write_index(making.folder, making.own)


def _execute(making: _Making, jobs: Mapping[int, Job], submit: Submit, *, is_whole: bool = True) -> None:
    left, attempts, written = dict(jobs), 0, time.monotonic()
    with show_progress(len(jobs)) as tick:
        while left:
            attempts += 1
            futures = {submit(execute_job, job): number for number, job in left.items()}
            left = {}
            for future in as_completed(futures):
                number = futures[future]
                died = isinstance(future.exception(), WorkerDied)
                if died and attempts <= jobs[number].retries:
                    left[number] = jobs[number]
                    continue
                outcome = {"error": DIED, "status": "failed", "attempts": attempts} if died else _read(future)
                tick(_word_outcome(making.fill(number, outcome)))
                # The record is the whole run's: single reports, made beside one another, leave it as it is.
                if is_whole and time.monotonic() - written > RECORD_SECONDS:
                    written = time.monotonic()
                    # A disk that is full now may have room again; the end of the run says so if it has not.
                    with contextlib.suppress(OSError):
                        making.manifest.write(making.folder)


def _read(future: "Future[Outcome]") -> dict[str, Any]:
    error = future.exception()
    if error is not None:
        # Nobody's cell: the record, the page or the comparison, or a disk.
        return {"status": "failed", "error": f"The report could not be finished: {type(error).__name__}: {error}"}
    outcome = future.result()
    return {"status": "failed" if outcome.error else "made", **asdict(outcome)}


def _word_outcome(report: Report) -> str:
    how = "made" if report.status == "made" else f"FAILED: {report.reason}"
    audience = f"{report.audience} · " if report.audience else ""
    return f"{audience}{report.segment} · {report.notebook} · {report.seconds:.1f} s · {how}"


def _finish(making: _Making, submit: Submit) -> Run:
    """Do all that needs every report: alerts, index, audiences, history, pruning."""
    folder, preparation = making.folder, making.preparation
    status = _judge([report.status for report in making.manifest.reports])
    finished = making.manifest.finish(status=status, seconds=time.time() - making.started)
    making.manifest = replace(finished, status="running")
    making.alerting = record_alerts(folder, making.own, preparation)
    making.manifest = replace(finished, alerts=making.alerting.record)
    measures, history = _collect_measures(making), folder.parent.parent / HISTORY
    trend = read_trend(history, making.manifest, measures)
    index = write_index(folder, making.own, making.alerting.table, trend=trend)
    compared = making.planned[0].job.page.compared if making.planned else ""
    packed = write_audiences(folder, making.manifest, preparation, submit, compared=compared)
    if packed:
        status = "incomplete"
        making.manifest = replace(making.manifest, status=status)
    notes = [*preparation.notes, *_note_kernels(making), *packed]
    record_run(history, making.manifest, measures, making.alerting.table)
    making.manifest.write(folder)
    making.recorded = True  # an interrupt from here on finds a whole run
    remove_others(folder, making.manifest)
    notes += prune_periods(folder, preparation.run_file.keep)
    _sweep(folder.parent, before=making.started)
    return Run(folder, index, status, _tabulate(making), tuple(notes))


def _send(making: _Making) -> tuple[str, ...]:
    folder, preparation = making.folder, making.preparation
    alerting = send_messages(folder, preparation, making.alerting)
    replace(making.manifest, alerts=alerting.record).write(folder)
    return (*alerting.notes, *deliver_audiences(folder, making.manifest, preparation))


def _end(making: _Making, status: str) -> None:
    """Write how far a run came that was asked to end; there may be no room for it."""
    making.manifest = making.manifest.finish(status=status, seconds=time.time() - making.started)
    with contextlib.suppress(OSError):
        making.manifest.write(making.folder)
        write_index(making.folder, making.own)


def _judge(states: Sequence[str] | pd.Series) -> str:
    return "complete" if all(status in {"made", "kept"} for status in states) else "incomplete"


def _note_kernels(making: _Making) -> list[str]:
    reports = enumerate(making.manifest.reports)
    cold = sum(report.kernel == "cold" for number, report in reports if number not in making.kept)
    wanted = making.planned and making.planned[0].job.kernel == "warm" and os.name == "posix"
    return (
        [f"{cold} reports were made in cold kernels, which is slower: no warm one could be had."]
        if (cold and wanted)
        else []
    )


def _collect_measures(making: _Making) -> pd.DataFrame:
    tables = []
    for report in making.manifest.reports:
        path = making.folder / report.tables / MEASURES
        if report.status == "made" and path.exists():
            identity = {"audience": report.audience, "segment": report.segment, "notebook": report.notebook}
            tables.append(pd.read_parquet(path).assign(**identity))
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def _sweep(folder: Path, *, before: float) -> None:
    sweep_scratch(folder, before=before)
    for lock in folder.rglob(f"*/{LOCK[0]}*{LOCK}"):
        is_held(lock)  # which removes what a killed process left


def _tabulate(making: _Making) -> pd.DataFrame:
    rows = [
        (
            each.segment,
            each.notebook,
            "kept" if number in making.kept else each.status,
            each.seconds,
            each.error,
            str(making.folder / each.html),
            each.audience,
        )
        for number, each in enumerate(making.manifest.reports)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
