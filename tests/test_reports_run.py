import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from reports_project import RUN, TAKEAWAYS, write_notebook, write_project

from convlib.errors import RunError
from convlib.reports.run import COLUMNS, Run, run_reports

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
    assert str(caught.value) == "`workers` is 0; it must be 1 or more, or left out."


def test_run_reports_makes_nothing_when_a_parameter_is_unknown(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN + "parameters: {windw: 7D}\n")
    with pytest.raises(RunError):
        run_reports(run_file, reports=tmp_path / "reports")
    assert not (tmp_path / "reports").exists()
