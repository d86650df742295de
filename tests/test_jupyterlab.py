"""The notebooks in JupyterLab, as people open them, in a real browser; `-s` prints the times."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, sync_playwright
from test_report_pages import FLAGS

ROOT = Path(__file__).parent.parent
TEMPLATES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
CURRENT = "window.jupyterapp?.shell.currentWidget"
READY = f"{CURRENT}?.sessionContext?.session?.kernel?.status === 'idle' && {CURRENT}.content.widgets.length > 1"
CODE = f"{CURRENT}.content.widgets.filter(each => each.model.type === 'code')"
RUN = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
DONE = f"{CODE}.every(each => each.model.executionCount !== null && each.model.executionState === 'idle')"
#: A figure is there once its output is: cells out of sight are not drawn.
FIGURE = (
    f"{CODE}.some(each => each.model.outputs.toJSON().some(one => one.data?.['image/png'])"
    " || each.node.querySelector('.jp-OutputArea img'))"
)
ERRORS = f"{CODE}.flatMap(each => each.model.outputs.toJSON()).filter(each => each.output_type === 'error')"
MOVED = "before => document.querySelector('img.figure')?.getAttribute('src') !== before"
EXPLORE = """\
import convlib as cv
log, plan = cv.load_dataset("shop")
shown = cv.explore(log, plan, steps=["view_item", "add_to_cart", "view_cart", "begin_checkout", "purchase"])
shown"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab on a folder with copies of the templates."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "params"):
        shutil.copytree(ROOT / name, folder / name)
    cells = [nbformat.v4.new_code_cell(text) for text in (EXPLORE, "print(shown.result.table.units.tolist())")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "explore.ipynb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [
        *("--no-browser", "--allow-root", "--expose-app-in-browser", f"--port={port}", "--ServerApp.port_retries=0"),
        *("--IdentityProvider.token=", f"--ServerApp.root_dir={folder}", "--LabApp.news_url="),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    homes = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    command = [sys.executable, "-m", "jupyterlab", *options]
    apart = {**os.environ, **{name: str(folder / "home") for name in homes}}
    with (folder / "lab.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, env=apart) as server:
        try:
            wait_for_port(port)
            yield f"http://127.0.0.1:{port}/lab/tree/"
        finally:
            server.terminate()
            server.wait(20)


def wait_for_port(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail("JupyterLab does not answer")


@pytest.fixture(scope="module")
def page(chromium: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        yield browser.new_page(viewport={"width": 1280, "height": 1000})
        browser.close()


def run_all(page: Page, address: str) -> tuple[float, float]:
    """Open a notebook and run all cells; give the seconds to the first figure and to the end."""
    page.goto(f"{address}?reset", wait_until="commit", timeout=60_000)
    page.wait_for_function(READY, timeout=60_000)
    began = time.monotonic()
    page.evaluate(RUN)
    page.wait_for_function(FIGURE, timeout=90_000)
    figure = time.monotonic() - began
    page.wait_for_function(DONE, timeout=90_000)
    return figure, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_template_runs_in_jupyterlab_without_error(lab: str, page: Page, name: str) -> None:
    figure, whole = run_all(page, f"{lab}notebooks/{name}.ipynb")
    print(f"\n{name}: first figure after {figure:.1f} s, all cells after {whole:.1f} s")
    assert page.evaluate(ERRORS) == []


def test_explore_changes_the_figure_when_a_control_moves(lab: str, page: Page) -> None:
    first, _ = run_all(page, f"{lab}explore.ipynb")
    assert page.evaluate(ERRORS) == []
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    figure, takeaway = page.locator("img.figure"), page.locator("ul.takeaways li").first
    before, said = figure.get_attribute("src"), takeaway.inner_text()
    began = time.monotonic()
    page.get_by_label("Segment", exact=True).select_option("device=mobile")
    page.wait_for_function(MOVED, arg=before)
    print(f"\nexplore: first figure after {first:.1f} s, another {time.monotonic() - began:.2f} s after a move")
    assert takeaway.inner_text() != said
    assert "log.segment('device=mobile')" in page.get_by_label("Copy as code").input_value()
    page.get_by_label("Compare by").select_option("geo")
    page.locator(".convlib-explore input[type=search]").fill("FR")
    page.wait_for_function("document.querySelectorAll('table.dataTable tbody tr').length === 5")
    if place := os.environ.get("CONVLIB_SHOT"):
        page.screenshot(path=place)
    assert [url for url in asked if url.startswith("http") and not url.startswith(lab.removesuffix("lab/tree/"))] == []
