import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from reports_project import RUN, TAKEAWAYS, write_experiments, write_project
from test_notify import receive
from typer.testing import CliRunner, Result

from convlib.cli import app
from convlib.errors import RunError, StoppedError
from convlib.plan import read_plan
from convlib.reports import run as run_module
from convlib.reports.history import record_run
from convlib.reports.manifest import Manifest, Report
from convlib.reports.run import Run
from convlib.suggest import HEAD

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
        "130 interrupted, 143 ended from outside",
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


def test_run_ends_with_143_when_terminated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_run(monkeypatch, run_module.Terminated())
    made = call("run", tmp_path / "weekly.yaml")
    assert made.exit_code == 143
    assert made.stderr == "Ended. Continue with --resume.\n"


def test_run_ends_with_1_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_run(monkeypatch, StoppedError("No space left."))
    made = call("run", tmp_path / "weekly.yaml")
    assert (made.exit_code, made.stderr) == (1, "1 problem:\n  1. No space left.\n")


@pytest.mark.parametrize(
    ("error", "title", "message"),
    [
        (RunError("No plan."), "the reports were not made", "No plan."),
        (StoppedError("No space left."), "the run stopped", "No space left."),
        (KeyboardInterrupt(), "the run stopped", "Interrupted. Continue with --resume."),
        (run_module.Terminated(), "the run stopped", "Ended. Continue with --resume."),
    ],
)
def test_run_tells_who_gets_alerts_that_it_ended_too_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, title: str, message: str
) -> None:
    replace_run(monkeypatch, error)
    with receive() as receiver:
        monkeypatch.setenv("HOOK", receiver.address)
        run_file = write_project(tmp_path, run=RUN + "alerts: {notify: [HOOK]}\n")
        call("run", run_file)
        call("run", run_file, "--only", "all/overview")
    assert [(body["title"], body["message"]) for body in receiver.bodies] == [(f"Shop, weekly: {title}", message)]


def test_run_lists_its_reports_as_json_lines(tmp_path: Path) -> None:
    listed = call("run", write_project(tmp_path), "--list", "--reports", tmp_path / "out")
    assert listed.exit_code == 0
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [row["only"] for row in rows] == ["all/overview", "device=desktop/overview", "device=mobile/overview"]
    assert not (tmp_path / "out").exists()


def test_run_refuses_options_that_exclude_one_another(tmp_path: Path) -> None:
    refused = call("run", tmp_path / "weekly.yaml", "--catch-up", "--list")
    assert refused.exit_code == 2
    text = "--catch-up stands beside --period, --only or --list; give one or the other."
    assert refused.stderr == f"1 problem:\n  1. {text}\n"


def test_runs_lists_the_runs_so_far(tmp_path: Path) -> None:
    assert call("runs", "--reports", tmp_path).stdout == "No run yet. Begin with `convlib run FILE`.\n"
    report = Report("all", "a", "A", "k", {}, "a.html", "a.ipynb", "a", status="made")
    period = ("2024-03-04", "2024-03-10")
    manifest = Manifest("shop", "Shop", period, {}, "p", "s", {}, (report,), started="2024-03-11T06:00:00+00:00")
    ended = replace(manifest, seconds=61.2, status="complete", alerts={"open": 2, "new": 1})
    record_run(tmp_path / "history.duckdb", ended, pd.DataFrame())
    record_run(tmp_path / "history.duckdb", replace(manifest, run="site", status="incomplete"), pd.DataFrame())
    shown = call("runs", "--reports", tmp_path)
    assert [" ".join(line.split()) for line in shown.stdout.splitlines()] == [
        "Run Period Started Seconds Status Reports Failed Alerts",
        "shop 2024-03-04 to 2024-03-10 2024-03-11T06:00:00+00:00 61 complete 1 of 1 0 2 open, 1 new",
        "site 2024-03-04 to 2024-03-10 2024-03-11T06:00:00+00:00 0 incomplete 1 of 1 0 -",
    ]
    lines = call("runs", "site", "--json", "--reports", tmp_path).stdout.splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["incomplete"]


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
    said = "The run file can be run, with the warnings above; the event map judges the log."
    assert lines[-1] == f"{said} `convlib run` makes 3 reports."
    assert lines[0].startswith("Warning: ")
    assert not (tmp_path / "reports").exists()


def test_check_and_run_say_when_no_experiment_has_begun(tmp_path: Path) -> None:
    tests = "run_segments: [all]\nnotebooks: [tests]\n"
    run_file = write_experiments(tmp_path, tests, first="2024-04-01", second="2024-12-08")
    notes = (
        "tests_form is left out: the experiment begins on 2024-04-01, after the end of the data.",
        "tests_page is left out: the experiment begins on 2024-12-08, after the end of the data.",
        "No notebook is left, so the run makes no report.",
    )
    shown = call("check", run_file)
    assert shown.exit_code == 0
    assert "".join(f"Note: {note}\n" for note in notes) in shown.stdout
    made = call("run", run_file, "--reports", tmp_path / "out")
    index = tmp_path / "out" / "shop" / "2024-03-01_2024-03-10" / "index.html"
    assert (made.exit_code, made.stdout) == (0, f"{index}\n")
    assert made.stderr.endswith("".join(f"{note}\n" for note in notes))
    assert "There is no report to make yet" in index.read_text()


def test_check_ends_with_2_when_something_is_wrong(tmp_path: Path) -> None:
    shown = call("check", tmp_path / "weekly.yaml")
    assert shown.exit_code == 2
    assert shown.stderr == f"1 problem:\n  1. {tmp_path}/weekly.yaml does not exist. Check its name and folder.\n"


def test_datasets_lists_the_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = pd.DataFrame([("shop", 12345, 678, "BSD [x]", "p")], columns=["name", "rows", "units", "licence", "path"])
    monkeypatch.setattr("convlib.datasets.load.list_datasets", lambda: table)
    shown = call("datasets")
    assert shown.exit_code == 0
    row = [cell.strip() for cell in shown.stdout.splitlines()[1].split("  ") if cell]
    assert row == ["shop", "12,345", "678", "BSD [x]", "convlib run params/shop/weekly.yaml"]
    monkeypatch.chdir(tmp_path)
    assert call("datasets").stdout.rstrip().endswith("convlib new shop --from dataset:shop")


PLAN = """\
leave_out: [{id: staff, match: {email: "[b]@x.com"}, scope: user}, {id: bots, match: {agent: bot}}]
macros:
  - id: purchase
    match: {event_name: purchase}
    dedupe: 2s
    owner: shop
    target: 0.05
    benchmark: {low: 0.02, high: 0.06}
    micros:
      - id: cart
        match: {event_name: cart}
        dedupe: {within: 2s, same: [sku]}
        stage: decision
        kind: process_milestone
        benchmark: {high: 0.09}
      - id: form
        match: {event_name: form}
        stage: decision
        kind: secondary_action
        metric: {type: time_between, from: cart}
        target: 90
        benchmark: {low: 45}
    losses: [{id: left, match: {event_name: "[red]leave[/]"}}]
"""
EVENTS = """\
event_name,timestamp,user_id,value
view,2024-01-01 10:00,ann,
purchase,2024-01-01 11:00,ann,5
view,2024-01-01 10:00,bob,
visit,2024-01-01 09:00,cid,
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_plan_show_prints_the_plan_as_a_table(tmp_path: Path) -> None:
    path = write(tmp_path, "plan.yaml", PLAN)
    shown = call("plan", "show", path)
    assert shown.exit_code == 0
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in shown.stdout.splitlines()]
    assert rows == [
        ["Conversion", "Match", "Metric", "Owner", "Target", "Benchmark"],
        ["Purchase", "event_name = purchase; once in 2s", "rate", "shop", "5.0%", "2.0% to 6.0%"],
        ["decision"],
        ["Cart", "event_name = cart; once in 2s for the same sku", "rate", "-", "-", "at most 9.0%"],
        ["Form", "event_name = form", "time_between from cart", "-", "1.5 min", "at least 45 s"],
        ["losses"],
        ["Left", "event_name = [red]leave[/]"],
        ["Staff", "email = [b]@x.com; every row of the user", "left out"],
        ["Bots", "agent = bot", "left out"],
        [
            f"Warning: {path}:3: macros[purchase] has stages with few or many micros (2 in 'decision'); 3 to 5 keep a "
            "stage telling and readable. Add some."
        ],
        ["Gaps: 11 fields left open (owner 2, effort 2, ux_outcome 2, data_source 2, touchpoint 2, target 1)."],
    ]


def test_plan_show_fits_80_columns_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = "a_column_with_a_very_long_name_that_fits_nowhere"
    shown = call("plan", "show", write(tmp_path, "plan.yaml", f"macros: [{{id: a, match: {{{long}: b}}}}]\n"))
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) == 80
    start, end = lines[0].index("Match"), lines[0].index("Metric")
    assert "".join(line[start:end].strip() for line in lines[1:-1]) == f"{long} = b"


def test_plan_show_ends_with_2_when_the_plan_is_wrong(tmp_path: Path) -> None:
    shown = call("plan", "show", write(tmp_path, "plan.yaml", "macros: []\n"))
    assert shown.exit_code == 2
    assert shown.stderr == (
        f"1 problem:\n  1. {tmp_path}/plan.yaml:1: macros is []; it must list at least one macro-conversion.\n"
    )


def test_plan_suggest_prints_a_plan(tmp_path: Path) -> None:
    shown = call("plan", "suggest", write(tmp_path, "events.csv", EVENTS))
    assert shown.exit_code == 0
    plan = read_plan(write(tmp_path, "plan.yaml", shown.stdout))
    assert [each.id for each in plan.conversions] == ["purchase", "view", "visit"]


def test_check_and_show_do_not_judge_the_stages_of_a_plan_that_was_suggested(tmp_path: Path) -> None:
    run_file = write_project(tmp_path)
    plan = run_file.with_name("plan.yaml")
    assert "keep a stage telling" in call("check", run_file).stdout
    plan.write_text(f"{HEAD} x\n{plan.read_text()}")
    assert "keep a stage telling" not in call("check", run_file).stdout + call("plan", "show", plan).stdout


def test_plan_suggest_writes_a_file_but_never_over_one(tmp_path: Path) -> None:
    events, output = write(tmp_path, "events.csv", EVENTS), tmp_path / "plan.yaml"
    written = call("plan", "suggest", events, "--output", output)
    assert (written.exit_code, written.stdout) == (0, f"{output}\n")
    assert output.read_text("utf-8") == call("plan", "suggest", events).stdout
    output.write_text("mine", encoding="utf-8")
    refused = call("plan", "suggest", events, "--output", output)
    assert refused.exit_code == 2
    assert refused.stderr == (
        f"1 problem:\n  1. `--output` is '{output}', which exists already. Name another file, or delete it.\n"
    )
    assert output.read_text("utf-8") == "mine"


def test_plan_suggest_ends_with_2_when_the_file_cannot_be_written(tmp_path: Path) -> None:
    output = tmp_path / "none" / "plan.yaml"
    refused = call("plan", "suggest", write(tmp_path, "events.csv", EVENTS), "--output", output)
    assert refused.exit_code == 2
    assert refused.stderr == (
        f"1 problem:\n  1. `--output` is '{output}', which can't be written: No such file or directory.\n"
    )


def test_plan_suggest_ends_with_2_when_there_are_no_events(tmp_path: Path) -> None:
    shown = call("plan", "suggest", tmp_path / "events.csv", "--output", tmp_path / "plan.yaml")
    assert shown.exit_code == 2
    assert shown.stderr.startswith(f"1 problem:\n  1. No events at `{tmp_path}/events.csv`")
    assert not (tmp_path / "plan.yaml").exists()


def test_plan_suggest_reads_columns_by_a_mapping(tmp_path: Path) -> None:
    events = write(tmp_path, "events.csv", EVENTS.replace("event_name,timestamp,user_id", "action,at,who"))
    mapping = write(tmp_path, "own.yaml", "columns: {event_name: action, timestamp: at, user_id: who}\n")
    shown = call("plan", "suggest", events, "--mapping", mapping)
    assert shown.exit_code == 0
    assert "  - id: purchase\n" in shown.stdout
