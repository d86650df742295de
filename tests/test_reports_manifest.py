import json
from dataclasses import replace
from pathlib import Path

from convlib.periods import tell_time
from convlib.reports.manifest import Manifest, Report, read_manifest, read_outcome, read_versions

REPORT = Report("all", "funnel", "Funnel", "key1", {"window": "7D"}, "all/f.html", "all/f.ipynb", "all/tables/f")
DATA = {"source": "events.csv", "fingerprint": "abc", "rows_read": 6}
MANIFEST = Manifest("shop", "Shop", ("2024-03-01", "2024-03-10"), DATA, "p", "s", {"python": "3.11"}, (REPORT, REPORT))


def test_reason_is_the_last_line_of_an_error() -> None:
    assert replace(REPORT, error="two\nlines").reason == "lines"
    assert REPORT.reason == ""


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


def test_read_manifest_gives_what_was_written(tmp_path: Path) -> None:
    made = replace(MANIFEST, reports=(replace(REPORT, status="made", changes=("Up.",)),))
    made.write(tmp_path)
    assert read_manifest(tmp_path) == made


def test_read_manifest_is_none_without_a_readable_one(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    for text in ("{", "{}", "[]", '{"reports": [{"unknown": 1}]}'):
        (tmp_path / "manifest.json").write_text(text)
        assert read_manifest(tmp_path) is None


def write_report(folder: Path, **record: object) -> None:
    (folder / "all" / "tables" / "f").mkdir(parents=True)
    for name in ("f.html", "f.ipynb"):
        (folder / "all" / name).write_text("")
    (folder / "all" / "tables" / "f" / "record.json").write_text(json.dumps(record))


OUTCOME = {"status": "made", "seconds": 2.5, "error": "", "attempts": 2, "kernel": "warm"}


def test_read_outcome_tells_how_a_report_ended(tmp_path: Path) -> None:
    write_report(tmp_path, key="key1", changes=["Up."], **OUTCOME)
    assert read_outcome(tmp_path, REPORT) == {**OUTCOME, "changes": ("Up.",)}


def test_read_outcome_is_none_when_something_changed_or_is_gone(tmp_path: Path) -> None:
    assert read_outcome(tmp_path, REPORT) is None
    write_report(tmp_path, key="key1", **OUTCOME)
    assert read_outcome(tmp_path, replace(REPORT, key="key2")) is None
    (tmp_path / "all" / "f.html").unlink()
    assert read_outcome(tmp_path, REPORT) is None


def test_read_outcome_is_none_when_half_is_written(tmp_path: Path) -> None:
    write_report(tmp_path, key="key1")
    assert read_outcome(tmp_path, REPORT) is None


def test_read_versions_names_python_and_the_packages() -> None:
    versions = read_versions()
    assert {"python", "convlib", "pandas", "duckdb", "papermill"} <= set(versions)
