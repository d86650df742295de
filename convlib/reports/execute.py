"""One notebook through papermill: an executed copy and its page, equal for equal inputs, honest about failure."""

import copy
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from convlib.reports.export import ERROR_TAG, Page, export_page
from convlib.reports.files import write_text

TIMEOUT_SECONDS = 600
START_TIMEOUT_SECONDS = 60
PAPERMILL_ERROR_TAG = "papermill-error-cell-tag"
ENVIRONMENT = {"PYTHONHASHSEED": "0", "JUPYTER_PLATFORM_DIRS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_CELL_FILE = re.compile(r"[^\s'\"]*ipykernel_\d+[/\\]\d+\.py")


@dataclass(frozen=True)
class Job:
    """One notebook to execute for one segment, and where its files go."""

    template: Path
    ipynb: Path
    html: Path
    tables: Path
    parameters: Mapping[str, Any]
    page: Page
    timeout_seconds: int = TIMEOUT_SECONDS


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `error` is "" when its report was made."""

    seconds: float
    error: str = ""


class OwnKernelManager(AsyncKernelManager):
    """Starts kernels of this very Python, whatever kernels the user's folders name `python3`."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel of the running interpreter."""
        return KernelSpec(resource_dir="", **get_kernel_dict(extra_arguments=["--log-level=ERROR"]))


def execute_job(job: Job) -> Outcome:
    """Execute a job's notebook and write the executed copy and its page, also when the notebook fails.

    Args:
        job: What to execute. It has to run in a process of its own: papermill changes the working folder.

    Returns:
        How it ended. Files appear whole or not at all.
    """
    started = time.monotonic()
    shutil.rmtree(job.tables, ignore_errors=True)
    job.ipynb.parent.mkdir(parents=True, exist_ok=True)
    scratch = job.ipynb.with_name(f".{job.ipynb.stem}.part.ipynb")
    scratch.unlink(missing_ok=True)
    error = _run_papermill(job, scratch)
    source = scratch if scratch.exists() else job.template
    notebook = tidy_notebook(nbformat.read(source, as_version=4), folder=job.template.parent)
    error = hide_paths(error, folder=job.template.parent)
    if error:
        add_banner(notebook, error)
    write_text(job.ipynb, nbformat.writes(notebook) + "\n")
    write_text(job.html, export_page(notebook, job.page))
    scratch.unlink(missing_ok=True)
    return Outcome(seconds=round(time.monotonic() - started, 2), error=error)


def _run_papermill(job: Job, scratch: Path) -> str:
    """Execute into the scratch file and word what went wrong ("" when nothing did)."""
    os.environ.update(ENVIRONMENT)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    try:
        papermill.execute_notebook(
            job.template,
            scratch,
            parameters=dict(job.parameters),
            cwd=job.template.parent,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=START_TIMEOUT_SECONDS,
            execution_timeout=job.timeout_seconds,
            kernel_manager_class=OwnKernelManager,
            record_timing=False,
            shutdown_kernel="immediate",
        )
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}".rstrip(": ")
    except CellTimeoutError:
        return f"A cell ran longer than {job.timeout_seconds:,} s and was stopped."
    except DeadKernelError:
        return "The notebook's Python process ended without finishing (killed, out of memory, or it left by itself)."
    except (RuntimeError, OSError) as error:
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
