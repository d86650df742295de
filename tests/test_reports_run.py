import errno
import json
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pytest
from reports_project import RUN, TAKEAWAYS, write_notebook, write_project

from convlib.errors import RunError, StoppedError
from convlib.files import write_text
from convlib.reports import run as run_module
from convlib.reports.comparison import Before
from convlib.reports.execute import Job, Outcome
from convlib.reports.history import list_runs, read_runs
from convlib.reports.locks import hold
from convlib.reports.run import COLUMNS, Run, catch_up, list_reports, run_reports

ONE_SEGMENT = RUN + "run_segments: [all]\n"


@dataclass(frozen=True)
class Made:
    """A run in which one notebook of two failed."""

    run: Run
    run_file: Path
    reports: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("project")
    run_file = write_project(folder, a_overview=TAKEAWAYS, b_broken="raise ValueError('first\\nlast')")
    return Made(run_reports(run_file, workers=2, reports=folder / "reports"), run_file, folder / "reports")


def test_run_reports_makes_every_notebook_of_every_segment_and_goes_on_after_a_failure(made: Made) -> None:
    assert made.run.status == "incomplete"
    assert list(made.run.table.columns) == list(COLUMNS)
    assert made.run.table[["segment", "notebook", "status"]].to_numpy().tolist() == [
        ["all", "a_overview", "made"],
        ["all", "b_broken", "failed"],
        ["device=desktop", "a_overview", "made"],
        ["device=desktop", "b_broken", "failed"],
        ["device=mobile", "a_overview", "made"],
        ["device=mobile", "b_broken", "failed"],
    ]
    assert made.run.table["error"].unique().tolist() == ["", "ValueError: first\nlast"]


def test_run_reports_writes_pages_notebooks_tables_rejects_and_an_index(made: Made) -> None:
    folder = made.reports / "shop" / "2024-03-01_2024-03-10"
    assert made.run.folder == folder
    assert made.run.index == folder / "index.html"
    assert sorted(path.name for path in (folder / "device-mobile").iterdir()) == [
        "a_overview.html",
        "a_overview.ipynb",
        "b_broken.html",
        "b_broken.ipynb",
        "tables",
    ]
    assert "25% of 4 units bought in device=mobile." in made.run.index.read_text()
    assert pd.read_parquet(folder / "private" / "rejects.parquet")["row"].tolist() == [5]
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_run_reports_records_the_run_without_a_path_of_this_machine(made: Made) -> None:
    text = (made.run.folder / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["status"] == "incomplete"
    assert manifest["period"] == ["2024-03-01", "2024-03-10"]
    assert (manifest["data"]["rows_read"], manifest["data"]["rows_used"], manifest["data"]["rows_rejected"]) == (
        6,
        5,
        1,
    )
    assert [report["status"] for report in manifest["reports"]] == ["made", "failed"] * 3
    assert manifest["reports"][0]["parameters"]["output"].startswith("../reports/shop/")
    assert str(made.reports.parent) not in text


def test_run_reports_resumes_what_is_missing_or_changed(made: Made) -> None:
    page = made.run.folder / "device-mobile" / "a_overview.html"
    page.unlink()
    write_notebook(made.run_file.parents[1] / "notebooks" / "b_broken.ipynb", "print('mended')", title="B")
    resumed = run_reports(made.run_file, resume=True, workers=2, reports=made.reports)
    assert resumed.status == "complete"
    assert page.exists()
    # The title of b stands on a's pages as the next report: they are made anew too.
    assert resumed.table["status"].tolist() == ["made"] * 6
    again = run_reports(made.run_file, resume=True, reports=made.reports)
    assert again.table["status"].tolist() == ["kept"] * 6


def test_run_reports_says_how_far_it_is_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_reports(write_project(tmp_path, run=ONE_SEGMENT, only="1"), reports=tmp_path / "reports")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("[1/1] all · only · ")
    assert printed.err.endswith(" s · made\n")


def test_run_reports_refuses_no_workers(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        run_reports(tmp_path / "weekly.yaml", workers=0)
    assert str(caught.value) == "`workers` is 0; it must be a whole number, at least 1."


def test_run_reports_makes_nothing_when_a_parameter_is_unknown(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN + "parameters: {windw: 7D}\n")
    with pytest.raises(RunError):
        run_reports(run_file, reports=tmp_path / "reports")
    assert not (tmp_path / "reports").exists()


COMPLETE_WEEKS = RUN.replace("period: {start: 2024-03-01, end: 2024-03-10}", "period: last complete week")


def make_at_once(job: Job) -> Outcome:
    """Stand in for the execution of a notebook: its files, and the record that a worker writes."""
    outcome = Outcome(0.1, "Error: x" if "broken" in job.ipynb.stem else "", kernel="warm")
    for path in (job.html, job.ipynb):
        write_text(path, "made")
    record = {**asdict(outcome), "key": job.key, "status": "failed" if outcome.error else "made"}
    write_text(job.tables / "record.json", json.dumps(record))
    return outcome


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    monkeypatch.setattr(run_module, "execute_job", make_at_once)
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_run_reports_makes_one_report_and_a_later_run_collects_it(
    tmp_path: Path, at_once: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "RECORD_SECONDS", -1.0)
    run_file = write_project(tmp_path, a="1", b="1")
    one = run_reports(run_file, only=["device=mobile/b"], reports=tmp_path / "r", executor=at_once)
    folder = tmp_path / "r" / "shop" / "2024-03-01_2024-03-10"
    assert (one.index, one.status) == (folder / "device-mobile" / "b.html", "complete")
    assert one.table[["segment", "notebook", "status"]].to_numpy().tolist() == [["device=mobile", "b", "made"]]
    assert not (folder / "manifest.json").exists()
    run = run_reports(run_file, resume=True, reports=tmp_path / "r", executor=at_once)
    assert run.table["status"].tolist() == ["made", "made", "made", "made", "made", "kept"]


def test_run_reports_refuses_a_report_that_is_none_of_its_own(tmp_path: Path, at_once: Executor) -> None:
    with pytest.raises(RunError) as caught:
        run_reports(write_project(tmp_path, a="1"), only=["all/b", "all/a"], reports=tmp_path / "r", executor=at_once)
    assert str(caught.value) == (
        "--only is 'all/b', which is no report of this run. Did you mean 'all/a'? `convlib run --list` lists all."
    )


def test_list_reports_names_each_and_the_command_that_makes_it(tmp_path: Path) -> None:
    run = ONE_SEGMENT + "audiences: {stakeholder: {fewest: 2, notebooks: [b]}}\n"
    listed = list_reports(write_project(tmp_path, run=run, a="1", b="1"), reports="out")
    run_file = str(tmp_path / "params" / "weekly.yaml")
    command = ["convlib", "run", run_file, "--reports", "out", "--period", "2024-03-01_2024-03-10", "--only"]
    same = {"run": "shop", "period": "2024-03-01_2024-03-10", "segment": "all"}
    assert listed == [
        {**same, "notebook": "a", "audience": "", "only": "all/a", "command": [*command, "all/a"]},
        {**same, "notebook": "b", "audience": "", "only": "all/b", "command": [*command, "all/b"]},
        {
            **same,
            "notebook": "b",
            "audience": "stakeholder",
            "only": "stakeholder:all/b",
            "command": [*command, "stakeholder:all/b"],
        },
    ]


def test_run_reports_makes_a_stakeholders_reports_apart_without_small_groups(tmp_path: Path, at_once: Executor) -> None:
    run_file = write_project(tmp_path, run=ONE_SEGMENT + "audiences: {stakeholder: {fewest: 2}}\n", a="1")
    run = run_reports(run_file, reports=tmp_path / "r", executor=at_once)
    assert run.table[["audience", "status"]].to_numpy().tolist() == [["", "made"], ["stakeholder", "made"]]
    reports = json.loads((run.folder / "manifest.json").read_text())["reports"]
    assert [report["parameters"]["fewest"] for report in reports] == [0, 2]
    assert [report["html"] for report in reports] == ["all/a.html", "private/stakeholder/all/a.html"]


def test_run_reports_takes_another_period(tmp_path: Path, at_once: Executor) -> None:
    run_file = write_project(tmp_path, run=ONE_SEGMENT, a="1")
    run = run_reports(run_file, period=("2024-03-02", "2024-03-04"), reports=tmp_path / "r", executor=at_once)
    assert run.folder.name == "2024-03-02_2024-03-04"
    for days in (("2024-03-04", "2024-03-02"), ("soon",)):
        with pytest.raises(RunError) as caught:
            run_reports(run_file, period=days, reports=tmp_path / "r", executor=at_once)
        assert str(caught.value) == (
            f"--period is {'_'.join(days)!r}; it must be two days in their order, such as '2026-01-05_2026-03-22'."
        )


def test_run_reports_waits_for_no_run_that_writes_the_same_folder(
    tmp_path: Path, at_once: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convlib.reports.locks.WAIT_SECONDS", 0.0)
    run_file, reports = write_project(tmp_path, run=ONE_SEGMENT, a="1"), tmp_path / "r"
    with hold(reports / "shop" / ".lock"), pytest.raises(RunError, match="is held by process"):
        run_reports(run_file, reports=reports, executor=at_once)
    assert list(reports.rglob("*")) == [reports / "shop"]


def test_run_reports_records_the_run_in_the_history_and_compares_the_next_with_it(
    tmp_path: Path, at_once: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    befores: list[Before | None] = []

    def measure(job: Job) -> Outcome:
        befores.append(job.before)
        outcome = make_at_once(job)
        known = {"kind": "rate", "id": "buy", "name": "Buy", "unit": "percent", "units": 4, "value": 0.25}
        rows = pd.DataFrame([{**known, "lower": 0.1, "upper": 0.4, "sample": job.page.period, "definition": "d"}])
        rows.to_parquet(job.tables / "measures.parquet")
        return outcome

    monkeypatch.setattr(run_module, "execute_job", measure)
    run_file, reports = write_project(tmp_path, run=ONE_SEGMENT, a="1"), tmp_path / "r"
    first = run_reports(run_file, period=("2024-03-01", "2024-03-03"), reports=reports, executor=at_once)
    second = run_reports(run_file, period=("2024-03-02", "2024-03-04"), reports=reports, executor=at_once)
    assert befores[0] is None
    assert befores[1] is not None
    assert befores[1].period == ("2024-03-01", "2024-03-03")
    assert befores[1].measures[0]["value"] == 0.25
    # Ann and Ben entered in the first period; Ann, with another event, Ben and Eva in the second.
    assert befores[1].shared_now == pytest.approx(1 / 3)
    assert befores[1].shared_before == 0.5
    rows = read_runs(reports / "history.duckdb", "shop")
    assert rows["period_end"].tolist() == ["2024-03-03", "2024-03-04"]
    assert [first.folder.name, second.folder.name] == ["2024-03-01_2024-03-03", "2024-03-02_2024-03-04"]
    assert "Run by run" in second.index.read_text()


def test_catch_up_makes_what_was_missed_oldest_first(tmp_path: Path, at_once: Executor) -> None:
    run_file = write_project(tmp_path, run=COMPLETE_WEEKS + "run_segments: [all]\n", a="1")
    events = tmp_path / "data" / "events.csv"
    days = "".join(f"visit,2024-03-{day:02} 10:00,leo,mobile\n" for day in range(5, 30, 5))
    events.write_text(events.read_text() + days)
    reports = tmp_path / "r"
    only = catch_up(run_file, reports=reports, executor=at_once)
    assert [run.folder.name for run in only] == ["2024-03-18_2024-03-24"]
    run_reports(run_file, period=("2024-03-04", "2024-03-10"), reports=reports, executor=at_once)
    runs = catch_up(run_file, resume=True, reports=reports, executor=at_once)
    assert [run.folder.name for run in runs] == ["2024-03-11_2024-03-17", "2024-03-18_2024-03-24"]
    # The last one is made anew, since there is an earlier week now to compare it with.
    assert [run.table["status"].tolist() for run in runs] == [["made"], ["made"]]
    again = catch_up(run_file, resume=True, reports=reports, executor=at_once)
    assert [run.table["status"].tolist() for run in again] == [["kept"]]


def test_catch_up_passes_over_a_week_without_entries(tmp_path: Path, at_once: Executor) -> None:
    run_file = write_project(tmp_path, run=COMPLETE_WEEKS + "run_segments: [all]\n", a="1")
    reports = tmp_path / "r"
    run_reports(run_file, period=("2024-03-04", "2024-03-10"), reports=reports, executor=at_once)
    events = tmp_path / "data" / "events.csv"
    events.write_text(events.read_text() + "visit,2024-03-20 10:00,leo,mobile\n")
    runs = catch_up(run_file, reports=reports, executor=at_once)
    assert [run.folder.name for run in runs] == ["2024-03-18_2024-03-24"]
    assert runs[0].notes[0] == (
        "2024-03-11 to 2024-03-17 was passed over: --period: `period` is 2024-03-11 to 2024-03-17, in which the log "
        "has no event; it has events from 2024-03-01 to 2024-03-31. Choose days among these."
    )


@pytest.mark.parametrize("what", ["prune_periods", "deliver_audiences"])
def test_run_reports_stays_complete_when_pruning_or_sending_is_interrupted(
    tmp_path: Path, at_once: Executor, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def interrupt(*_: object) -> tuple[str, ...]:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"convlib.reports.run.{what}", interrupt)
    run_file = write_project(tmp_path, run=ONE_SEGMENT, a="1")
    with pytest.raises(KeyboardInterrupt):
        run_reports(run_file, reports=tmp_path / "r", executor=at_once)
    assert [row.status for row in list_runs(tmp_path / "r").itertuples()] == ["complete"]
    manifest = json.loads(next((tmp_path / "r").rglob("manifest.json")).read_text())
    assert manifest["status"] == "complete"


def test_run_reports_removes_reports_that_the_run_has_no_more(tmp_path: Path, at_once: Executor) -> None:
    run_file = write_project(tmp_path, a="1", b="2")
    before = run_reports(run_file, reports=tmp_path / "r", executor=at_once)
    assert {path.name for path in before.folder.iterdir() if path.is_dir()} >= {"all", "device-mobile"}
    run_file.write_text(run_file.read_text() + "run_segments: [all]\nnotebooks: [b]\n")
    after = run_reports(run_file, resume=True, reports=tmp_path / "r", executor=at_once)
    assert {path.name for path in after.folder.iterdir() if path.is_dir()} == {"all", "private"}
    assert sorted(path.name for path in (after.folder / "all").iterdir()) == ["b.html", "b.ipynb", "tables"]
    assert [path.name for path in (after.folder / "all" / "tables").iterdir()] == ["b"]


def test_catch_up_needs_periods_of_the_calendar(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, a="1")
    with pytest.raises(RunError) as caught:
        catch_up(run_file, reports=tmp_path / "r")
    assert str(caught.value) == (
        f"{run_file}:6: `period` counts no complete periods of the calendar, so nothing says which were missed. Write "
        "one such as `last complete week`, or run without --catch-up."
    )


def test_run_reports_keeps_so_many_periods_and_the_last_complete_one(tmp_path: Path, at_once: Executor) -> None:
    run_file = write_project(tmp_path, run=ONE_SEGMENT + "keep: 2\n", a="1")
    reports = tmp_path / "r"
    (reports / "shop" / "2020-01-01_2020-01-07").mkdir(parents=True)  # without a record: nobody knows whose it is
    days = ["2024-03-01", "2024-03-02", "2024-03-03", "2024-03-04"]
    run_reports(run_file, period=(days[0], days[0]), reports=reports, executor=at_once)
    write_notebook(tmp_path / "notebooks" / "broken.ipynb", "1", title="B")
    for day in days[1:]:
        run = run_reports(run_file, period=(days[0], day), reports=reports, executor=at_once)
        assert run.status == "incomplete"
    assert sorted(path.name for path in (reports / "shop").iterdir()) == [
        "2020-01-01_2020-01-07",
        "2024-03-01_2024-03-01",
        "2024-03-01_2024-03-03",
        "2024-03-01_2024-03-04",
    ]
    assert run.notes[0] == "Removed 1 old period, since `keep` is 2: 2024-03-01_2024-03-02."
    assert len(read_runs(reports / "history.duckdb")) == 4


def test_run_reports_leaves_what_a_killed_run_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def look(job: Job) -> Outcome:
        seen.append(json.loads((job.html.parents[1] / "manifest.json").read_text())["status"])
        seen.append((job.html.parents[1] / "index.html").read_text()[-8:].strip())
        return make_at_once(job)

    monkeypatch.setattr(run_module, "execute_job", look)
    with ThreadPoolExecutor(1) as executor:
        run_reports(write_project(tmp_path, run=ONE_SEGMENT, a="1"), reports=tmp_path / "r", executor=executor)
    assert seen == ["running", "</html>"]


def test_run_reports_says_what_is_kept_when_the_disk_is_full(
    tmp_path: Path, at_once: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run_file = write_project(tmp_path, run=ONE_SEGMENT, a="1")
    monkeypatch.setattr(run_module, "record_alerts", fail)
    with pytest.raises(StoppedError) as caught:
        run_reports(run_file, reports=tmp_path / "r", executor=at_once)
    folder = tmp_path / "r" / "shop" / "2024-03-01_2024-03-10"
    assert str(caught.value) == (
        f"The run stopped, because `{folder}` can't be written to: No space left on device. 1 of 1 reports are made "
        "and kept. See to that, and continue with --resume."
    )
    assert json.loads((folder / "manifest.json").read_text())["status"] == "running"
