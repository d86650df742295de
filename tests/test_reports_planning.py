from dataclasses import replace
from pathlib import Path

import pytest
from reports_project import RUN, write_project

from convlib.events import EventLog
from convlib.reports.comparison import Before
from convlib.reports.history import PreviousRun
from convlib.reports.planning import digest_source, plan_reports, start_manifest
from convlib.reports.preparation import prepare_run

RUN_OF_ONE = RUN + "run_segments: [all]\ntimeout: 2min\nretries: 3\naudiences: {stakeholder: {fewest: 2}}\n"


def test_plan_reports_gives_each_report_its_job_and_a_key_of_its_own(tmp_path: Path) -> None:
    preparation = prepare_run(write_project(tmp_path, run=RUN_OF_ONE, a="1", b="1"))
    manifest = start_manifest(preparation)
    planned = plan_reports(preparation, manifest, tmp_path / "out", kernel="cold")
    assert [each.name for each in planned] == ["all/a", "all/b", "stakeholder:all/a", "stakeholder:all/b"]
    job = planned[0].job
    assert (job.timeout_seconds, job.retries, job.kernel, job.before) == (120.0, 3, "cold", None)
    assert (job.html, job.key) == (tmp_path / "out" / "all" / "a.html", planned[0].report.key)
    assert len({each.report.key for each in planned}) == 4
    again = plan_reports(preparation, manifest, tmp_path / "out")
    assert [each.report.key for each in again] == [each.report.key for each in planned]
    other = plan_reports(preparation, replace(manifest, plan_digest="other"), tmp_path / "out")
    assert not {each.report.key for each in other} & {each.report.key for each in planned}


def test_digest_source_is_a_fingerprint() -> None:
    assert len(digest_source()) == 64


def test_plan_reports_counts_what_periods_share_once_a_segment_and_for_no_report_that_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparation = prepare_run(write_project(tmp_path, run=RUN, a="1", b="1"))
    manifest, counted = start_manifest(preparation), []

    def count(log: EventLog, *_: object) -> tuple[float, float]:
        counted.append(log.segment_name)
        return 0.5, 0.25

    monkeypatch.setattr("convlib.reports.planning.measure_overlap", count)
    measures = {("", segment, name): ({"id": "x"},) for segment in preparation.segments for name in "ab"}
    previous = PreviousRun(("2024-02-20", "2024-02-29"), measures)
    planned = plan_reports(preparation, manifest, tmp_path / "out", previous=previous, only=["all/b"])
    before = Before(previous.period, ({"id": "x"},), 0.5, 0.25)
    assert {each.name: each.job.before for each in planned if each.job.before} == {"all/b": before}
    assert counted == ["all"]
    assert all(each.job.before for each in plan_reports(preparation, manifest, tmp_path / "out", previous=previous))
    assert counted == ["all", "all", "device=desktop", "device=mobile"]


def test_plan_reports_hides_addresses_from_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARE", str(tmp_path))
    monkeypatch.setenv("HOOK", "json://user:secret@127.0.0.1/x")
    told = "alerts: {notify: [HOOK]}\naudiences: {analyst: {upload: [SHARE]}}\n"
    preparation = prepare_run(write_project(tmp_path, run=RUN + told))
    planned = plan_reports(preparation, start_manifest(preparation), tmp_path / "out")
    assert {each.job.hidden for each in planned} == {("HOOK", "SHARE")}
