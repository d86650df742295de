"""The live dashboard's server: the overview notebook, the live cell on top, behind a token on this machine."""

import contextlib
import dataclasses
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from convlib.errors import ParamError, RunError
from convlib.files import write_text
from convlib.reports.execute import ENVIRONMENT
from convlib.reports.preparation import Preparation

OVERVIEW, TOKEN = "00_overview", "token"
#: Seconds after which a page's Python process ends when nobody looks at it.
IDLE_SECONDS = 120
#: Seconds that the dashboard of a watcher that was killed has to end, and that this one has.
END_SECONDS = 10.0
#: The controls of `explore` stand below an overview that calls its log and plan so, as the shipped one does.
CHECKED = "params = cv.check_parameters("
EXPLORE_HEADING = "## Explore\nA funnel of the chosen segment; the controls change it at once."
EXPLORE = 'cv.explore(params.log, params.plan, window=window or "7D")'
#: Voilà, until the watcher that started it is gone: then the other end of the pipe closes, also when it was killed.
VOILA = """\
import os, runpy, signal, sys, threading
def end():
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end, daemon=True).start()
sys.argv[0] = "voila"
runpy.run_module("voila", run_name="__main__")
"""


def write_dashboard(preparation: Preparation, folder: Path) -> Path:
    """Write the notebook that the dashboard serves: the overview with the run's parameters and the live cell.

    Args:
        preparation: The run.
        folder: The watcher's folder.

    Raises:
        RunError: The run has no overview notebook.
    """
    template = next((each for each in preparation.notebooks.templates if each.name == OVERVIEW), None)
    if template is None:
        raise RunError(
            f"{preparation.run_file.path}: the dashboard shows `{OVERVIEW}`, which is not among the run's notebooks. "
            "Add it, or watch with --no-dashboard."
        )
    here = dataclasses.replace(preparation, notebooks=dataclasses.replace(preparation.notebooks, folder=folder))
    segments = list(preparation.segments)
    filled = here.fill(template, segment=segments[0], tables=folder)
    # The log grows: its end is not the end of the day on which the watcher began.
    filled |= {"output": "", "end": str(preparation.run_file.period.end or "")}
    alerts = {"history": "../alerts.json", "rules": list(preparation.run_file.alerts.rules)}
    filled |= {name: value for name, value in alerts.items() if name in template.parameters}
    notebook = nbformat.read(template.path, as_version=4)
    where = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells[where + 1 : where + 1] = _write_cells(filled, segments)
    if any(CHECKED in cell.source for cell in notebook.cells) and "window" in template.parameters:
        notebook.cells.append(nbformat.v4.new_markdown_cell(EXPLORE_HEADING, id="explore-heading"))
        notebook.cells.append(nbformat.v4.new_code_cell(EXPLORE, id="explore"))
    path = folder / "overview.ipynb"
    write_text(path, nbformat.writes(notebook) + "\n")
    return path


def _write_cells(filled: Mapping[str, Any], segments: Sequence[str]) -> list[NotebookNode]:
    parameters = "\n".join(f"{name} = {value!r}" for name, value in filled.items())
    live = (
        "from convlib.reports.live import choose_segment, show_live\n\n"
        f"segment = choose_segment({list(segments)!r})\n"
        f'show_live(".", segment=segment, segments={list(segments)!r})'
    )
    return [nbformat.v4.new_code_cell(text, id=name) for name, text in {"filled": parameters, "live": live}.items()]


def read_token(folder: Path) -> str:
    """Give the dashboard's token, made once for a run, so that its address survives a restart."""
    path = folder / TOKEN
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24), encoding="ascii")
    return path.read_text(encoding="ascii").strip()


@contextlib.contextmanager
def serve_dashboard(notebook: Path, *, port: int, token: str, cache: Path) -> Iterator[str]:
    """Serve a notebook on this machine until the block is left, however this process ends.

    Args:
        notebook: What is served.
        port: The port, on loopback.
        token: What a reader must know.
        cache: Where the notebook's prepared logs lie.

    Returns:
        The address to open.

    Raises:
        ParamError: Voilà is not installed, or the port is taken.
    """
    if importlib.util.find_spec("voila") is None:
        raise ParamError('The dashboard needs the package `voila`: pip install "convlib[live]", or add --no-dashboard.')
    # By the environment, because every user of the machine can read a command line.
    secret = {"JUPYTER_TOKEN": token, "CONVLIB_CACHE": str(cache.resolve()), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-c", VOILA, *_list_options(port), str(notebook.resolve())]
    _wait_for_port(port)
    with (
        (notebook.parent / "dashboard.log").open("w", encoding="utf-8") as log,
        subprocess.Popen(  # noqa: S603  # our own command
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **ENVIRONMENT, **secret},
            start_new_session=True,
        ) as child,
    ):
        try:
            yield f"http://127.0.0.1:{port}/?token={token}"
        finally:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=END_SECONDS)
            child.kill()


def _wait_for_port(port: int) -> None:
    """Wait until a port is free: Voilà would take another one, and say so in its log alone."""
    end = time.monotonic() + END_SECONDS
    while True:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError as error:
            if time.monotonic() > end:
                raise ParamError(f"The dashboard can't have port {port}: {error}. Give another with --port.") from None
            time.sleep(0.2)
        else:
            return


def _list_options(port: int) -> list[str]:
    return [
        "--no-browser",
        "--Voila.ip=127.0.0.1",
        f"--port={port}",
        "--Voila.port_retries=0",
        "--Voila.auto_token=True",  # reads JUPYTER_TOKEN
        "--strip_sources=True",
        "--VoilaConfiguration.progressive_rendering=True",  # the live cell before the slow ones
        "--VoilaConfiguration.show_tracebacks=False",
        f"--MappingKernelManager.cull_idle_timeout={IDLE_SECONDS}",
        f"--MappingKernelManager.cull_interval={IDLE_SECONDS // 2}",
    ]
