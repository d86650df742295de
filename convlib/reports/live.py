"""The live dashboard: the overview notebook behind a token, with what the watcher knows on top of it."""

import contextlib
import dataclasses
import html
import importlib.util
import json
import os
import runpy
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import nbformat
from nbformat import NotebookNode

from convlib.errors import ParamError, RunError
from convlib.reports.execute import ENVIRONMENT
from convlib.reports.files import write_text
from convlib.reports.preparation import Preparation

OVERVIEW, LIVE, TOKEN = "00_overview", "live.json", "token"
#: The page is made anew so often, or at every look at the source when that is rarer: it takes seconds to make.
REFRESH_SECONDS = 300
#: Seconds after which a page's Python process ends when nobody looks at it.
IDLE_SECONDS = 120
STYLE = """\
.live {font: 15px/1.45 system-ui, sans-serif; max-width: 60rem}
.live h2 {font-size: 1.15rem; margin: 1.2em 0 .4em}
.live nav button, .live nav b {display: inline-block; margin: 0 .6em .4em 0; padding: .3em .7em; border: 1px solid #bbb;
  border-radius: 1em; font: inherit; background: none; color: #0b5394}
.live nav b {background: #0b5394; color: #fff}
.live table {border-collapse: collapse; width: 100%}
.live table td, .live table th {text-align: left !important; padding: .3em .8em .3em 0; border-bottom: 1px solid #ddd;
  vertical-align: top}
.live table td.n, .live table th.n {text-align: right !important; font-variant-numeric: tabular-nums}
.live .critical {border-left: 4px solid #b00020; padding-left: .7em; margin: .6em 0}
.live .warning {border-left: 4px solid #c77700; padding-left: .7em; margin: .6em 0}
.live .info {border-left: 4px solid #777; padding-left: .7em; margin: .6em 0}
.live small {color: #555}
body, .jp-Notebook, .jp-Cell, #rendered_cells {max-width: 100vw; box-sizing: border-box}
.jp-RenderedHTMLCommon, .jp-OutputArea-output {overflow-x: auto; max-width: 100%}
.jp-RenderedHTMLCommon img, .jp-OutputArea-output img {max-width: 100%; height: auto}
.jp-InputPrompt, .jp-OutputPrompt {display: none !important}
"""


@dataclasses.dataclass(frozen=True)
class Live:
    """What the watcher last wrote, seen for one segment."""

    facts: Mapping[str, Any]
    segment: str
    segments: tuple[str, ...]

    def _repr_html_(self) -> str:
        return (
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>'
            f'<section class="live" aria-label="Live">{self._word_state()}{self._link_segments()}{self._list_alerts()}'
            f"{self._tabulate()}</section><script>{self._write_script()}</script>"
        )

    def _word_state(self) -> str:
        facts = self.facts
        if not facts:
            return "<p>The watcher has not looked at the source yet; this page reloads itself.</p>"
        warned = "".join(f"<p class='warning'>{html.escape(text)}</p>" for text in facts["warnings"])
        return (
            f"<p><b>As of {html.escape(facts['looked'])}</b>: events to {html.escape(facts['clock'])}. "
            f"{facts['in_window']:,} events in the last {html.escape(facts['window'])}; {facts['rows']:,} rows used "
            f"since the watcher's first look, {facts['rejected']:,} rejected.</p>{warned}"
        )

    def _link_segments(self) -> str:
        links = [
            f"<b>{html.escape(name)}</b>"
            if name == self.segment
            else f'<button name="segment" value="{html.escape(name)}">{html.escape(name)}</button>'
            for name in self.segments
        ]
        # A form, because the page's own scripts take links over.
        return f'<nav aria-label="Segments"><form>{"".join(links)}</form></nav>'

    def _list_alerts(self) -> str:
        alerts = [each for each in self.facts.get("alerts", []) if each["segment"] in ("all", self.segment)]
        items = [
            f"<div class='{html.escape(each['severity'])}'><b>{html.escape(each['severity'])}</b> "
            f"{html.escape(each['evidence'])}<br><small>since {html.escape(each['first_seen'])}"
            f"{html.escape(' · ' + each['owner'] if each['owner'] else '')} · {html.escape(each['id'])}</small></div>"
            for each in alerts
        ]
        return f"<h2>Open alerts: {len(items)}</h2>{''.join(items)}"

    def _tabulate(self) -> str:
        if not self.facts:
            return ""
        known = self.facts["progress"].get(self.segment)
        if known is None:
            return "<p>This segment is one of rows: its numbers are in the overview below.</p>"
        entered = known.get("", 0)
        rows = [
            f"<tr><td>{html.escape(name)}</td><td class='n'>{known.get(key, 0):,}</td>"
            f"<td class='n'>{_word_share(known.get(key, 0), entered)}</td></tr>"
            for key, name in self.facts["conversions"].items()
        ]
        return (
            f"<h2>{html.escape(self.facts['period'])} so far</h2>"
            f"<p>{entered:,} units entered, with an event of any kind.</p>"
            "<table><thead><tr><th>Conversion</th><th class='n'>Units</th><th class='n'>of entered</th></tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>"
        )

    def _write_script(self) -> str:
        seconds = max(REFRESH_SECONDS, float(self.facts.get("interval", 0))) if self.facts else 10
        return f"setTimeout(() => location.reload(), {seconds * 1000:.0f})"


def show_live(folder: str | Path, *, segment: str, segments: Sequence[str]) -> Live:
    """Show what the watcher last wrote: as of when, events in the window, open alerts, the period so far."""
    path = Path(folder) / LIVE
    facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return Live(facts, segment, tuple(segments))


def choose_segment(segments: Sequence[str], *, query: str | None = None) -> str:
    """Give the segment that the page's address names, if the run has it; else the run's first.

    Args:
        segments: The run's segments.
        query: What follows `?` in the address; None for what Voilà says of the page being made.
    """
    asked = parse_qs(os.environ.get("QUERY_STRING", "") if query is None else query).get("segment", [""])[0]
    return asked if asked in segments else segments[0]


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
        ParamError: Voilà is not installed.
    """
    if importlib.util.find_spec("voila") is None:
        raise ParamError('The dashboard needs the package `voila`: pip install "convlib[live]", or add --no-dashboard.')
    # By the environment, because every user of the machine can read a command line.
    secret = {"JUPYTER_TOKEN": token, "CONVLIB_CACHE": str(cache.resolve()), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-c", "from convlib.reports.live import run_voila; run_voila()", *_list_options(port)]
    with (notebook.parent / "dashboard.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(  # noqa: S603  # our own command
            [*command, str(notebook.resolve())],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **ENVIRONMENT, **secret},
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}/?token={token}"
    finally:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _list_options(port: int) -> list[str]:
    return [
        "--no-browser",
        "--Voila.ip=127.0.0.1",
        f"--port={port}",
        "--Voila.auto_token=True",  # reads JUPYTER_TOKEN
        "--strip_sources=True",
        "--VoilaConfiguration.progressive_rendering=True",  # the live cell before the slow ones
        "--VoilaConfiguration.show_tracebacks=False",
        f"--MappingKernelManager.cull_idle_timeout={IDLE_SECONDS}",
        f"--MappingKernelManager.cull_interval={IDLE_SECONDS // 2}",
    ]


def run_voila() -> None:
    """Be the dashboard's process: Voilà, until the watcher that started it is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv[0] = "voila"
    runpy.run_module("voila", run_name="__main__")


def _end_with_parent() -> None:
    sys.stdin.read()  # the pipe's other end closes when the watcher ends, also when it is killed
    os.kill(os.getpid(), signal.SIGTERM)


def _word_share(units: int, entered: int) -> str:
    return f"{units / entered:.1%}" if entered else "-"
