import json
from pathlib import Path

from convlib.reports.manifest import Manifest, Report, read_made, read_versions, tell_time

REPORT = Report("all", "funnel", "Funnel", "key1", {"window": "7D"}, "all/f.html", "all/f.ipynb", "all/tables/f")
DATA = {"source": "events.csv", "fingerprint": "abc", "rows_read": 6}
MANIFEST = Manifest("shop", "Shop", ("2024-03-01", "2024-03-10"), DATA, "p", "s", {"python": "3.11"}, (REPORT, REPORT))


def test_record_fills_in_one_report_and_leaves_the_rest() -> None:
    recorded = MANIFEST.record(1, status="failed", seconds=2.5, error="two\nlines")
    assert [report.status for report in recorded.reports] == ["pending", "failed"]
    assert recorded.reports[1].reason == "lines"
    assert [report.status for report in MANIFEST.reports] == ["pending", "pending"]
    assert MANIFEST.reports[0].reason == ""


def test_finish_notes_how_and_when_a_run_ended() -> None:
    finished = MANIFEST.finish(status="complete", seconds=1.234)
    assert (finished.status, finished.seconds) == ("complete", 1.23)
    assert finished.finished[:10] == tell_time()[:10]


def test_write_gives_one_readable_file(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["data"]["rows_read"] == 6
    assert written["reports"][0]["parameters"] == {"window": "7D"}
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_read_made_gives_the_finished_reports_by_key(tmp_path: Path) -> None:
    MANIFEST.record(0, status="made").write(tmp_path)
    assert list(read_made(tmp_path)) == ["key1"]


def test_read_made_is_empty_without_a_readable_manifest(tmp_path: Path) -> None:
    assert read_made(tmp_path) == {}
    for text in ("{", "{}", '{"reports": [{"unknown": 1}]}'):
        (tmp_path / "manifest.json").write_text(text)
        assert read_made(tmp_path) == {}


def test_read_versions_names_python_and_the_packages() -> None:
    versions = read_versions()
    assert {"python", "convlib", "pandas", "duckdb", "papermill"} <= set(versions)
