from dataclasses import replace
from pathlib import Path

from reports_project import RUN, write_project

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
