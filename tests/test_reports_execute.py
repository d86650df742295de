import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from reports_project import write_notebook

from convlib.errors import RunError
from convlib.reports.execute import Job, KernelKind, Outcome, add_banner, execute_job, hide_paths, tidy_notebook
from convlib.reports.export import ERROR_TAG, Page
from convlib.reports.locks import hold

ROOT = Path(__file__).parent.parent
PAGE = Page("Shop", "All units", "March 2024", "a.ipynb")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Papermill changes the working folder and the environment of its process."""
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONHASHSEED", "JUPYTER_PLATFORM_DIRS", "PYDEVD_DISABLE_FILE_VALIDATION"):
        monkeypatch.setenv(name, "0")


def execute(folder: Path, *cells: str, out: str = "out", **options: Any) -> tuple[Outcome, Path, Path]:
    template = write_notebook(folder / "notebooks" / "a.ipynb", *cells)
    ipynb, html = folder / out / "a.ipynb", folder / out / "a.html"
    parameters = {"segment": "mobile", "by": ["geo"]}
    job = Job(template, ipynb, html, folder / out / "tables", parameters, PAGE, **({"timeout_seconds": 60} | options))
    return execute_job(job), ipynb, html


def banner(ipynb: Path) -> str:
    (cell,) = [c for c in nbformat.read(ipynb, as_version=4).cells if ERROR_TAG in c.metadata.get("tags", [])]
    return str(cell.source)


def test_execute_job_runs_this_python_in_the_notebooks_folder_with_the_parameters(tmp_path: Path) -> None:
    code = "import sys, pathlib; print(sys.executable, pathlib.Path.cwd().name, segment, by, limit, sep='|')"
    outcome, ipynb, html = execute(tmp_path, code)
    assert outcome.error == ""
    notebook = nbformat.read(ipynb, as_version=4)
    printed = f"{sys.executable}|notebooks|mobile|['geo']|3\n"
    assert notebook.cells[-1].outputs[0].text == hide_paths(printed, folder=tmp_path / "notebooks")
    assert "|notebooks|mobile|" in html.read_text()
    assert sorted(path.name for path in ipynb.parent.iterdir()) == ["a.html", "a.ipynb", "tables"]


def test_execute_job_gives_equal_files_for_equal_input(tmp_path: Path) -> None:
    code = "import warnings; warnings.warn('noise'); print({'b', 'a', 'c'}); display(1)"
    first = [path.read_bytes() for path in execute(tmp_path, code, out="one")[1:]]
    second = [path.read_bytes() for path in execute(tmp_path, code, out="two")[1:]]
    assert first == second
    assert str(tmp_path).encode() not in first[0]


def test_execute_job_keeps_a_failing_notebook_with_its_error_on_top(tmp_path: Path) -> None:
    outcome, ipynb, html = execute(
        tmp_path, "print('before')", "## 1. Broken", "raise ValueError('no `x`')", "print(9)"
    )
    assert outcome.error == "ValueError: no `x`"
    assert banner(ipynb) == (
        "## This report is incomplete\n\nIts notebook failed. It stopped in the section “1. Broken”; everything below "
        "that is missing.\n\n````text\nValueError: no `x`\n````"
    )
    assert "before" in html.read_text()
    assert "This report is incomplete" in html.read_text()


def test_execute_job_tells_a_dead_kernel(tmp_path: Path) -> None:
    outcome, ipynb, _ = execute(tmp_path, "import os; os._exit(3)", "print(9)")
    dead = "The notebook's Python process ended without finishing (killed, out of memory, or it left by itself)."
    assert outcome.error == dead
    assert dead in banner(ipynb)


def test_execute_job_stops_a_notebook_that_hangs(tmp_path: Path) -> None:
    outcome, ipynb, _ = execute(tmp_path, "import time; time.sleep(60)", "print(9)", timeout_seconds=2)
    assert outcome.error == "The notebook ran longer than 2 s and was stopped."
    assert outcome.error in banner(ipynb)
    assert outcome.seconds < 30


def test_execute_job_removes_tables_of_an_earlier_run(tmp_path: Path) -> None:
    old = tmp_path / "out" / "tables" / "old.csv"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    execute(tmp_path, "1/0")
    assert not old.exists()


COUNT = "import pathlib; tries = pathlib.Path('tries'); n = len(tries.read_text()) if tries.exists() else 0"


def test_execute_job_tries_again_as_often_as_it_may(tmp_path: Path) -> None:
    cells = (COUNT, "_ = tries.write_text('x' * (n + 1))", "assert n == 2, n")
    outcome, ipynb, _ = execute(tmp_path, *cells, retries=1)
    assert (outcome.attempts, outcome.error) == (2, "AssertionError: 1")
    outcome, ipynb, _ = execute(tmp_path, *cells, retries=1)
    assert (outcome.attempts, outcome.error) == (1, "")
    assert "incomplete" not in ipynb.read_text()


def test_execute_job_records_last_how_it_ended(tmp_path: Path) -> None:
    outcome, _, _ = execute(tmp_path, "1", key="k", kernel="cold")
    record = json.loads((tmp_path / "out" / "tables" / "record.json").read_text())
    assert record == {
        "key": "k", "status": "made", "seconds": outcome.seconds, "error": "", "attempts": 1, "kernel": "cold",
        "changes": [],
    }  # fmt: skip
    execute(tmp_path, "1/0", key="k")
    record = json.loads((tmp_path / "out" / "tables" / "record.json").read_text())
    assert (record["status"], record["error"]) == ("failed", "ZeroDivisionError: division by zero")


def test_execute_job_leaves_pages_that_say_so_until_it_has_finished(tmp_path: Path) -> None:
    execute(tmp_path, "1")
    look = (
        "import pathlib; out = pathlib.Path('../out'); "
        "print(*(('not finished' in (out / name).read_text()) for name in ('a.html', 'a.ipynb')), "
        "(out / 'tables').exists())"
    )
    _, ipynb, _ = execute(tmp_path, look)
    assert nbformat.read(ipynb, as_version=4).cells[-1].outputs[0].text == "True True False\n"


def test_execute_job_keeps_of_100_megabytes_of_print_what_a_browser_can_show(tmp_path: Path) -> None:
    outcome, ipynb, _ = execute(tmp_path, "line = 'x' * 999\nfor _ in range(100_000): print(line)", "print('after')")
    assert outcome.error == ""
    cells = nbformat.read(ipynb, as_version=4).cells
    shown = [output.text for output in cells[-2].outputs]
    assert shown[0] == ("x" * 999 + "\n") * 1000
    assert shown[1] == "\n… 99,000,000 more characters were printed here, and are left out.\n"
    assert cells[-1].outputs[0].text == "after\n"


def test_execute_job_keeps_what_a_cell_shows_last_when_it_clears_before(tmp_path: Path) -> None:
    loop = "for n in range(3):\n    clear_output(wait=True)\n    print('step', n)"
    code = f"from IPython.display import clear_output\n{loop}"
    _, ipynb, _ = execute(tmp_path, code)
    assert [each.text for each in nbformat.read(ipynb, as_version=4).cells[-1].outputs] == ["step 2\n"]


def test_execute_job_tells_that_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    outcome, _, _ = execute(tmp_path, "1")
    assert outcome.error == "The report could not be written: File exists."


def test_execute_job_refuses_a_report_that_another_process_makes(
    tmp_path: Path,
) -> None:
    with hold(tmp_path / "out" / ".a.lock"), pytest.raises(RunError, match=r"a\.lock` is held by process"):
        execute(tmp_path, "1", timeout_seconds=0.1)


def test_execute_job_waits_for_another_process_that_makes_the_report(tmp_path: Path) -> None:
    holds = threading.Event()

    def make() -> list[str]:
        with hold(tmp_path / "out" / ".a.lock"):
            holds.set()
            time.sleep(1)
            return sorted(path.name for path in (tmp_path / "out").iterdir())

    with ThreadPoolExecutor(1) as other:
        made = other.submit(make)
        holds.wait()
        assert execute(tmp_path, "1")[0].error == ""
    # Nothing of it is touched while somebody else makes it.
    assert made.result() == [".a.lock", ".a.lock.json"]


def test_execute_job_makes_the_report_cold_when_the_warm_process_dies(tmp_path: Path) -> None:
    cell = (
        "import os, time\nif not tries.exists():\n    tries.write_text('x')\n    os.kill(os.getppid(), 9)\n"
        "    time.sleep(60)"
    )
    outcome, _, _ = execute(tmp_path, COUNT, cell)
    assert (outcome.error, outcome.attempts, outcome.kernel) == ("", 1, "cold")
    assert execute(tmp_path, "1")[0].kernel == "warm"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kernels are warm on Linux only")
def test_execute_job_gives_equal_files_from_warm_and_cold_kernels(tmp_path: Path) -> None:
    shop = ROOT / "params" / "shop"
    parameters = {
        "events": "dataset:shop", "plan": str(shop / "plan.yaml"), "segments": str(shop / "segments.yaml"),
        "steps": ["view_item", "add_to_cart", "purchase"], "window": "7D", "by": ["device_type"],
        "output": str(tmp_path / "out" / "tables"),
    }  # fmt: skip
    ipynb, html, tables = (tmp_path / "out" / name for name in ("02_funnel.ipynb", "02_funnel.html", "tables"))
    job = Job(ROOT / "notebooks" / "02_funnel.ipynb", ipynb, html, tables, parameters, PAGE)
    made = {}
    kinds: list[KernelKind] = ["cold", "warm"]
    for kernel in kinds:
        outcome = execute_job(replace(job, kernel=kernel))
        assert (outcome.error, outcome.kernel) == ("", kernel)
        made[kernel] = {
            path.name: path.read_bytes()
            for path in (tmp_path / "out").rglob("*.*")
            if path.is_file() and path.name != "record.json"
        }
    assert made["warm"] == made["cold"]
    assert len(made["warm"]) > 5
    assert made["warm"]["02_funnel.ipynb"].count(b"image/png") > 5


def test_tidy_notebook_removes_times_random_ids_and_paths(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "a.ipynb", "1")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["papermill"] = {"output_path": "/home/x/a.ipynb"}
    notebook.cells[1].metadata.update(papermill={"start_time": "now"}, tags=["injected-parameters"])
    notebook.cells[2].metadata.update(tags=["papermill-error-cell-tag"])
    tidy = tidy_notebook(notebook, folder=tmp_path)
    assert "papermill" not in json.dumps(tidy)
    assert [cell.id for cell in tidy.cells] == ["cell-0", "injected-parameters"]
    assert "papermill" in notebook.metadata


def test_tidy_notebook_drops_the_plain_form_of_a_rich_result(tmp_path: Path) -> None:
    notebook = nbformat.read(write_notebook(tmp_path / "a.ipynb", "1"), as_version=4)
    rich = {"text/html": "<p>1</p>", "text/plain": "Result(folder='/x')"}
    plain = {"text/plain": f"{tmp_path}/x"}
    outputs = [nbformat.v4.new_output("execute_result", data=data) for data in (rich, plain)]
    notebook.cells[2].outputs = outputs
    tidy = tidy_notebook(notebook, folder=tmp_path / "notebooks").cells[2].outputs
    assert [output.data for output in tidy] == [{"text/html": "<p>1</p>"}, {"text/plain": "x"}]


def test_hide_paths_shortens_the_project_the_environment_and_cells(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    text = f"File {tmp_path}/convlib/x.py, {sys.prefix}/lib/y.py, /tmp/ipykernel_12/34.py:3, {Path.home()}/z"
    assert hide_paths(text, folder=folder) == "File convlib/x.py, lib/y.py, a cell:3, ~/z"


def test_add_banner_says_nothing_of_a_section_when_there_was_none(tmp_path: Path) -> None:
    notebook = nbformat.read(write_notebook(tmp_path / "a.ipynb", "1"), as_version=4)
    add_banner(notebook, "Oops: x")
    assert notebook.cells[1].source == ("## This report is incomplete\n\nIts notebook failed.\n\n```text\nOops: x\n```")


@pytest.mark.parametrize("kernel", ["warm", "cold"])
def test_execute_job_keeps_addresses_from_the_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: KernelKind
) -> None:
    monkeypatch.setenv("HOOK", "json://user:secret@127.0.0.1/x")
    monkeypatch.setenv("OTHER", "seen")
    look = "import os; print(os.environ.get('HOOK'), os.environ.get('OTHER'))"
    _, ipynb, _ = execute(tmp_path, look, kernel=kernel, hidden=("HOOK", "UNSET"))
    assert nbformat.read(ipynb, as_version=4).cells[-1].outputs[0].text == "None seen\n"
    assert os.environ["HOOK"].startswith("json://")  # the run itself needs it to send
