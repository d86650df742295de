import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from reports_project import RUN, TAKEAWAYS, write_project
from typer.testing import CliRunner, Result

from convlib.cli import app
from convlib.errors import RunError
from convlib.reports import run as run_module
from convlib.reports.run import Run

ONE_SEGMENT = RUN + "run_segments: [all]\n"


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def replace_run(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> Run:
        raise error

    monkeypatch.setattr(run_module, "run_reports", fail)


def test_help_teaches_with_an_example_and_the_exit_codes() -> None:
    shown = call("--help")
    assert shown.exit_code == 0
    assert "convlib run params/oulad/weekly.yaml" in shown.stdout
    for words in (
        "0 all reports were made",
        "1 at least one notebook failed",
        "2 the input is wrong",
        "130 interrupted",
    ):
        assert words in shown.stdout


def test_version_is_the_packages() -> None:
    assert call("--version").stdout == f"convlib {version('convlib')}\n"


def test_module_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "convlib", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"convlib {version('convlib')}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from convlib.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'pandas', 'duckdb', 'papermill', 'matplotlib'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_run_ends_with_the_path_of_the_index(tmp_path: Path) -> None:
    made = call("run", write_project(tmp_path, run=ONE_SEGMENT), "--reports", tmp_path / "out", "--workers", "1")
    assert made.exit_code == 0
    assert made.stdout == f"{tmp_path}/out/shop/2024-03-01_2024-03-10/index.html\n"


def test_run_ends_with_1_when_a_notebook_failed(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=ONE_SEGMENT, a=TAKEAWAYS, b="raise ValueError('no [bold]markup[/]')")
    made = call("run", run_file, "--reports", tmp_path / "out")
    assert made.exit_code == 1
    assert made.stdout.endswith("index.html\n")
    summary = "1 of 2 reports are incomplete:\n  all · b: ValueError: no [bold]markup[/]\n"
    assert made.stderr.endswith(summary)


def test_run_ends_with_2_and_a_numbered_list_when_the_input_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_run(monkeypatch, RunError("`a` is [red]1[/].", "`b` is 2."))
    made = call("run", tmp_path / "weekly.yaml")
    assert made.exit_code == 2
    assert made.stdout == ""
    assert made.stderr == "2 problems:\n  1. `a` is [red]1[/].\n  2. `b` is 2.\n"


def test_run_ends_with_130_when_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_run(monkeypatch, KeyboardInterrupt())
    made = call("run", tmp_path / "weekly.yaml")
    assert made.exit_code == 130
    assert made.stderr == "Interrupted. Continue with --resume.\n"


def test_check_tells_what_would_run(tmp_path: Path) -> None:
    shown = call("check", write_project(tmp_path, run=RUN + "parameters: {limit: 5}\n"))
    assert shown.exit_code == 0
    lines = [line.rstrip() for line in shown.stdout.splitlines()]
    assert (
        "6 rows read = 5 used + 1 rejected (1: timestamp is not a date and time). Entries from 2024-03-01 to "
        "2024-03-10, data to 2024-03-31." in lines
    )
    assert "3 segments: all, device=desktop, device=mobile." in lines
    assert "overview  Overview  limit=5" in lines
    assert lines[-1] == "Nothing is wrong. `convlib run` makes 3 reports."
    assert lines[0].startswith("Warning: ")
    assert not (tmp_path / "reports").exists()


def test_check_ends_with_2_when_something_is_wrong(tmp_path: Path) -> None:
    shown = call("check", tmp_path / "weekly.yaml")
    assert shown.exit_code == 2
    assert shown.stderr == f"1 problem:\n  1. {tmp_path}/weekly.yaml does not exist.\n"


def test_datasets_lists_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame([("shop", 12345, 678, "BSD [x]", "p")], columns=["name", "rows", "units", "licence", "path"])
    monkeypatch.setattr("convlib.datasets.load.list_datasets", lambda: table)
    shown = call("datasets")
    assert shown.exit_code == 0
    row = [cell.strip() for cell in shown.stdout.splitlines()[1].split("  ") if cell]
    assert row == ["shop", "12,345", "678", "BSD [x]", "convlib run params/shop/weekly.yaml"]
