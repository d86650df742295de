"""One notebook through a kernel: an executed copy and its page, equal for equal inputs, honest about failure."""

import asyncio
import contextlib
import copy
import html
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import Empty
from typing import Any, Literal

import nbformat
import papermill
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.client import KernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets import Type

from convlib.files import write_text
from convlib.reports.comparison import Before, compare_report
from convlib.reports.export import ERROR_TAG, Page, export_page
from convlib.reports.locks import hold
from convlib.reports.manifest import RECORD
from convlib.reports.provisioner import WarmProvisioner

KernelKind = Literal["warm", "cold"]
TIMEOUT_SECONDS = 1800.0
START_TIMEOUT_SECONDS = 120
LONGEST_SOCKET_PATH = 90
RECONNECT_MILLISECONDS = 5
#: Characters that one cell may print; what goes beyond fills disks and stops browsers.
MOST_PRINTED = 1_000_000
ENVIRONMENT = {"PYTHONHASHSEED": "0", "JUPYTER_PLATFORM_DIRS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
DEAD = "The notebook's Python process ended without finishing (killed, out of memory, or it left by itself)."
PAPERMILL_ERROR_TAG = "papermill-error-cell-tag"
UNFINISHED = "This report was not finished: its run is still going on, or was ended in the middle of it."

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_CELL_FILE = re.compile(r"(?<![^\s'\"])[^\s'\"]*ipykernel_\d+[/\\]\d+\.py")


@dataclass(frozen=True)
class Job:
    """One notebook to execute for one segment, and where its files go.

    Attributes:
        template: The notebook.
        ipynb: The executed copy.
        html: Its page.
        tables: The folder of its results, and of the record of how it went.
        parameters: What is filled in.
        page: What stands around it.
        timeout_seconds: The longest time of all cells together, from when the kernel is ready; also how long to wait
            for another process that makes this very report.
        retries: How often it is tried again after a failure.
        kernel: `warm` forks the notebook's process from one that has imported all, where that can be.
        before: The results of the run before, to compare with.
        key: Names all that the report's content depends on.
        hidden: The environment variables that its notebook has no use for: addresses to send to, with their passwords.
    """

    template: Path
    ipynb: Path
    html: Path
    tables: Path
    parameters: Mapping[str, Any]
    page: Page
    timeout_seconds: float = TIMEOUT_SECONDS
    retries: int = 0
    kernel: KernelKind = "warm"
    before: Before | None = None
    key: str = ""
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `error` is "" when its report was made.

    `kernel` is how the last attempt's process was started, and `changes` what differs from the run before.
    """

    seconds: float
    error: str = ""
    attempts: int = 1
    kernel: str = "cold"
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Attempt:
    """A notebook that was executed, as far as it came."""

    notebook: NotebookNode
    error: str
    kernel: KernelKind
    parent_died: bool = False


def execute_job(job: Job) -> Outcome:
    """Execute a job's notebook and write the executed copy and its page, also when the notebook fails.

    Args:
        job: What to execute. It has to run in a process of its own: the environment is set for the notebook.

    Returns:
        How it ended. Files appear whole or not at all; until they do, they say that the report is not finished.

    Raises:
        RunError: Another process makes this very report, and goes on doing so for as long as a notebook may take.
    """
    started = time.monotonic()
    try:
        with hold(job.ipynb.with_name(f".{job.ipynb.stem}.lock"), wait_seconds=job.timeout_seconds):
            return _make_report(job, started)
    except OSError as error:
        reason = f"The report could not be written: {error.strerror or error}."
        return Outcome(_tell_seconds(started), reason, kernel=job.kernel)


def _make_report(job: Job, started: float) -> Outcome:
    (job.tables / RECORD).unlink(missing_ok=True)
    write_placeholder(job)
    attempts = 0
    while True:
        attempts += 1
        shutil.rmtree(job.tables, ignore_errors=True)
        attempt = run_notebook(job)
        if attempt.parent_died:
            # Not the notebook's fault, and not one of its retries.
            job = replace(job, kernel="cold")
            shutil.rmtree(job.tables, ignore_errors=True)
            attempt = run_notebook(job)
        if not attempt.error or attempts > job.retries:
            break
    notebook = tidy_notebook(attempt.notebook, folder=job.template.parent)
    error = hide_paths(attempt.error, folder=job.template.parent)
    changes: tuple[str, ...] = ()
    if error:
        add_banner(notebook, error)
    else:
        changes = compare_report(job.tables, job.before)
    write_text(job.ipynb, nbformat.writes(notebook) + "\n")
    write_text(job.html, export_page(notebook, replace(job.page, changes=changes)))
    outcome = Outcome(_tell_seconds(started), error, attempts, attempt.kernel, changes)
    record = {"key": job.key, "status": "failed" if error else "made", **asdict(outcome)}
    write_text(job.tables / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return outcome


def _tell_seconds(started: float) -> float:
    return round(time.monotonic() - started, 2)


def write_placeholder(job: Job) -> None:
    """Write what is left of a report when its making is cut off: pages that say so."""
    title = job.page.title or job.page.notebook
    cell = nbformat.v4.new_markdown_cell(f"# {title}\n\n{UNFINISHED}", id=ERROR_TAG, metadata={"tags": [ERROR_TAG]})
    write_text(job.ipynb, nbformat.writes(nbformat.v4.new_notebook(cells=[cell])) + "\n")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
    body = f"<h1>{html.escape(title)}</h1><p>{UNFINISHED}</p>"
    write_text(job.html, f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n')


class OwnKernelManager(AsyncKernelManager):
    """Starts kernels of this very Python, whatever kernels the user's folders name `python3`."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel of the running interpreter."""
        command = [sys.executable, "-m", "convlib.reports.warm", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=command, display_name="convlib", language="python")


class ReadyClient(AsyncKernelClient):
    """Talks with a kernel as soon as it answers."""

    def _context_default(self) -> zmq.asyncio.Context:
        context = super()._context_default()
        context.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MILLISECONDS)  # a new kernel listens a moment later
        return context

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Wait for a kernel's first answer, without the fifth of a second of silence that others wait for after it.

        Raises:
            RuntimeError: The kernel died, or did not answer in time.
        """
        deadline = time.monotonic() + (timeout or START_TIMEOUT_SECONDS)
        while time.monotonic() < deadline:
            self.kernel_info()
            try:
                await self.shell_channel.get_msg(timeout=1)
                await self.iopub_channel.get_msg(timeout=0.2)
                return
            except Empty:
                if not await self.is_alive():
                    raise RuntimeError(DEAD) from None
        raise RuntimeError(f"Its Python process gave no answer for {timeout:,} s.")


class ReportClient(NotebookClient):
    """Executes a notebook within one time for all cells, and keeps no more of what it prints than anyone reads."""

    client_class = Type(ReadyClient)

    def __init__(self, notebook: NotebookNode, *, timeout_seconds: float, **options: Any) -> None:
        super().__init__(notebook, **options)
        self.timeout_seconds = timeout_seconds
        self.deadline = time.monotonic() + timeout_seconds
        # Less than a second is time, too; nbclient only promises whole ones.
        self.timeout_func = lambda _: max(self.deadline - time.monotonic(), 0.001)  # type: ignore[assignment]
        self._printed: dict[int, int] = {}

    async def async_start_new_kernel_client(self) -> KernelClient:
        """Wait for the kernel, which has a time of its own; the notebook's begins when it is ready."""
        client = await super().async_start_new_kernel_client()
        self.deadline = time.monotonic() + self.timeout_seconds
        return client

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        """Take over one message of the kernel into a cell's outputs."""
        if msg["msg_type"] != "stream":
            return super().output(outs, msg, display_id, cell_index)
        content = msg["content"]
        before = self._printed.get(cell_index, 0)
        self._printed[cell_index] = before + len(content["text"])
        content["text"] = content["text"][: max(MOST_PRINTED - before, 0)]
        made = super().output(outs, msg, display_id, cell_index)
        # Where a kernel cuts its stream depends on the clock; neighbours become one, so that equal runs are equal.
        if len(outs) > 1 and outs[-2].output_type == "stream" and outs[-2].name == content["name"]:
            outs[-2].text += outs.pop().text
            return outs[-1]
        return made

    def note_cuts(self) -> None:
        """Say below each cell that printed too much how much of it is left out."""
        for number, printed in self._printed.items():
            if printed > MOST_PRINTED:
                text = f"\n… {printed - MOST_PRINTED:,} more characters were printed here, and are left out.\n"
                self.nb.cells[number].outputs.append(nbformat.v4.new_output("stream", name="stderr", text=text))


class ReportEngine(Engine):  # type: ignore[misc]  # papermill has no types
    """Lets papermill hand a parameterised notebook to a client of our own, and write nothing while it runs."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, _name: str, *, execute: Callable[[NotebookNode], None], **_: object
    ) -> None:
        """Execute all cells."""
        execute(nb_man.nb)


papermill_engines.register("convlib", ReportEngine)


def run_notebook(job: Job) -> _Attempt:
    """Execute a job's notebook once, and word what went wrong ("" when nothing did)."""
    os.environ.update(ENVIRONMENT)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    attempts: list[_Attempt] = []
    # The error is worded already; papermill raises it once more from the cell's output.
    with contextlib.suppress(PapermillExecutionError):
        papermill.execute_notebook(
            job.template,
            None,
            parameters=dict(job.parameters),
            cwd=job.template.parent,
            kernel_name="python3",
            language="python",
            engine_name="convlib",
            progress_bar=False,
            execute=lambda notebook: attempts.append(_run_cells(notebook, job)),
        )
    return attempts[0]


def _run_cells(notebook: NotebookNode, job: Job) -> _Attempt:
    with tempfile.TemporaryDirectory(prefix="convlib-") as scratch:
        manager = _prepare_kernel(job.kernel, Path(scratch))
        client = ReportClient(
            notebook,
            km=manager,
            timeout_seconds=job.timeout_seconds,
            startup_timeout=START_TIMEOUT_SECONDS,
            iopub_timeout=START_TIMEOUT_SECONDS,
            raise_on_iopub_timeout=True,
            record_timing=False,
            shutdown_kernel="immediate",
            resources={"metadata": {"path": str(job.template.parent)}},
        )
        client.log.setLevel(logging.CRITICAL)
        error = _execute(client, job)
    client.note_cuts()
    parent = getattr(manager.provisioner, "warm_parent", None)
    died = bool(error and parent and not parent.is_alive())
    return _Attempt(notebook, error, "warm" if parent else "cold", parent_died=died)


def _prepare_kernel(kernel: KernelKind, scratch: Path) -> OwnKernelManager:
    manager = OwnKernelManager(connection_file=str(scratch / "kernel.json"))
    manager.client_factory = ReadyClient
    if sys.platform != "win32" and len(str(scratch)) < LONGEST_SOCKET_PATH:
        manager.transport = "ipc"  # two kernels that start at once never want the same port
    if kernel == "warm":
        manager.provisioner = WarmProvisioner(
            kernel_id=scratch.name, kernel_spec=manager.kernel_spec, parent=manager, own_code=True
        )
    return manager


def _execute(client: ReportClient, job: Job) -> str:
    try:
        client.execute(cleanup_kc=True, env={name: os.environ[name] for name in os.environ if name not in job.hidden})
    except CellExecutionError as error:
        return f"{error.ename}: {error.evalue}".rstrip(": ")
    except CellTimeoutError:
        return f"The notebook ran longer than {job.timeout_seconds:,.0f} s and was stopped."
    except DeadKernelError:
        return DEAD
    except (RuntimeError, OSError, asyncio.CancelledError) as error:
        return f"The notebook could not be run: {type(error).__name__}: {error}"
    return ""


def tidy_notebook(notebook: NotebookNode, *, folder: Path) -> NotebookNode:
    """Take out of an executed notebook what differs between equal runs: times, random ids, paths of this machine.

    Args:
        notebook: The executed notebook; it is left as it is.
        folder: The folder that it ran in.

    Returns:
        The tidied copy.
    """
    tidy = copy.deepcopy(notebook)
    tidy.metadata.pop("papermill", None)
    tidy.cells = [cell for cell in tidy.cells if PAPERMILL_ERROR_TAG not in cell.metadata.get("tags", [])]
    for cell in tidy.cells:
        for name in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(name, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        for output in cell.get("outputs", []):
            _tidy_output(output, folder)
    return tidy


def _tidy_output(output: NotebookNode, folder: Path) -> None:
    if output.output_type == "stream":
        output.text = hide_paths(output.text, folder=folder)
    data = output.get("data", {})
    if len(data) > 1:
        # Nobody sees a result's plain repr beside its richer form; it is long and names folders of this machine.
        data.pop("text/plain", None)
    elif data.get("text/plain"):
        data["text/plain"] = hide_paths(data["text/plain"], folder=folder)
    if output.output_type == "error":
        output.evalue = hide_paths(output.evalue, folder=folder)
        output.traceback = [hide_paths(_ANSI.sub("", line), folder=folder) for line in output.traceback]


def hide_paths(text: str, *, folder: Path) -> str:
    """Shorten the paths of this machine in a text: below the project, the environment or the home folder."""
    text = _CELL_FILE.sub("a cell", text)
    package = Path(__file__).parents[2]
    places = {folder.resolve().parent: "", Path(sys.prefix): "", package: "", Path.home(): "~/"}
    for place in sorted(places, key=lambda path: len(str(path)), reverse=True):
        if len(place.parts) > 1:
            text = text.replace(f"{place}{os.sep}", places[place])
    return text


def add_banner(notebook: NotebookNode, error: str) -> None:
    """Put on top of a notebook that it did not finish, where it stopped, and why."""
    stopped = _find_stop(notebook)
    heading = f" It stopped in the section “{stopped}”; everything below that is missing." if stopped else ""
    fence = "`" * (max((len(run) for run in re.findall("`+", error)), default=0) + 3)
    text = f"## This report is incomplete\n\nIts notebook failed.{heading}\n\n{fence}text\n{error}\n{fence}"
    cell = nbformat.v4.new_markdown_cell(text, id=ERROR_TAG, metadata={"tags": [ERROR_TAG]})
    first_heading = next((n for n, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"), -1)
    notebook.cells.insert(first_heading + 1, cell)


def _find_stop(notebook: NotebookNode) -> str:
    """Tell the heading above the last cell that began to run."""
    heading, stopped = "", ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#{2,3}\s+(.+)$", cell.source, re.MULTILINE)
            heading = found[-1] if found else heading
        elif cell.get("execution_count"):
            stopped = heading
    return stopped
