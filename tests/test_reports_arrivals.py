"""What is new of a source: files, appended lines, rows of a database; each once, and what can't be is said."""

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from convlib.errors import RunError
from convlib.reports.arrivals import Database, Facts, Files, hash_tail, open_source
from convlib.reports.run_file import RunFile, read_run_file

LINE = '{{"event_name": "visit", "timestamp": "2024-03-01T10:00:{:02}Z", "user_id": "ann"}}\n'


def write_run(folder: Path, events: str = "data", more: str = "") -> RunFile:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(f"run: shop\nevents: {events}\nplan: plan.yaml\n{more}")
    return read_run_file(folder / "run.yaml")


def look(source: Any, known: dict[str, Facts], since: pd.Timestamp | None = None) -> tuple[list[str], list[str]]:
    """Take one look; give the seconds of the rows that are new, and the warnings."""
    with source.look(known, since) as batch:
        rows = [row for log in batch.logs for row in log.open().project("timestamp").order("timestamp").fetchall()]
        known |= batch.files
        folders = [log.folder for log in batch.logs]
        assert all(folder.exists() for folder in folders)
    assert not any(folder.exists() for folder in folders)
    return [f"{time:%S}" for (time,) in rows], batch.warnings


def test_look_takes_lines_once_and_an_unfinished_line_when_the_file_rests(tmp_path: Path) -> None:
    source, known = open_source(write_run(tmp_path), late="15min"), dict[str, Facts]()
    file = tmp_path / "data" / "a.jsonl"
    file.write_text(LINE.format(1) + LINE.format(2)[:20])
    assert look(source, known) == (["01"], [])
    with file.open("a") as stream:
        stream.write(LINE.format(2)[20:] + LINE.format(3).rstrip())
    assert look(source, known) == (["02"], [])
    assert look(source, known) == (["03"], [])  # the file rests
    assert look(source, known) == ([], [])


def test_look_reads_appended_csv_lines_under_their_heading_and_leaves_open_quotes(tmp_path: Path) -> None:
    source, known = open_source(write_run(tmp_path), late="15min"), dict[str, Facts]()
    file = tmp_path / "data" / "a.csv"
    file.write_text("event_name,timestamp,user_id\nvisit,2024-03-01 10:00:01,ann\n")
    assert look(source, known) == (["01"], [])
    with file.open("a") as stream:
        stream.write('visit,2024-03-01 10:00:02,ben\n"a\nb')
    assert look(source, known) == (["02"], [])
    with file.open("a") as stream:
        stream.write('",2024-03-01 10:00:03,eva\n')
    assert look(source, known) == (["03"], [])


@pytest.mark.parametrize("change", ["shorter", "other", "after an unfinished line"])
def test_look_says_that_a_file_changed_where_it_was_read(tmp_path: Path, change: str) -> None:
    source, known = open_source(write_run(tmp_path), late="15min"), dict[str, Facts]()
    file = tmp_path / "data" / "a.jsonl"
    file.write_text((LINE.format(1) + LINE.format(2)).rstrip() if change.startswith("after") else LINE.format(1) * 2)
    look(source, known)
    look(source, known)
    texts = {"shorter": LINE.format(1), "other": LINE.format(5) * 3}
    file.write_text(texts.get(change, file.read_text() + LINE.format(3)))
    said = f"`{file}` changed where it was read already; what is new in it is not counted. "
    said += "Append whole lines, or add files."
    assert look(source, known) == ([], [said])
    assert look(source, known) == ([], [])


def test_look_takes_a_parquet_file_when_it_rests_and_says_that_it_changed(tmp_path: Path) -> None:
    source, known = open_source(write_run(tmp_path), late="15min"), dict[str, Facts]()
    rows = pd.DataFrame(
        {"event_name": ["visit"], "timestamp": [pd.Timestamp("2024-03-01 10:00:01")], "user_id": ["ann"]}
    )
    file = tmp_path / "data" / "a.parquet"
    rows.to_parquet(file)
    assert look(source, known) == ([], [])
    assert look(source, known) == (["01"], [])
    pd.concat([rows, rows]).to_parquet(file)
    assert look(source, known) == ([], [f"`{file}` changed after it was read; that is not counted. Add files instead."])
    assert look(source, known) == ([], [])


def test_look_leaves_hidden_files_and_reads_others_beside_a_broken_one(tmp_path: Path) -> None:
    source, known = open_source(write_run(tmp_path), late="15min"), dict[str, Facts]()
    rows = pd.DataFrame({"event_name": "visit", "timestamp": [pd.Timestamp("2024-03-01 10:00:01")], "user_id": "ann"})
    for name in (".b", "_c", "a"):
        rows.to_parquet(tmp_path / "data" / f"{name}.parquet")
    rows.drop(columns="user_id").to_parquet(tmp_path / "data" / "b.parquet")
    (tmp_path / "data" / "c.parquet").write_bytes(b"broken")
    assert look(source, known) == ([], [])
    seconds, warnings = look(source, known)
    assert seconds == ["01"]
    assert [text.partition(":")[0] for text in warnings] == ["`b.parquet` is not counted", "`c.parquet` is not counted"]
    assert look(source, known) == ([], [])


def test_look_says_that_there_are_no_files_and_goes_on(tmp_path: Path) -> None:
    source = open_source(write_run(tmp_path, "data/*.jsonl"), late="15min")
    (warning,) = look(source, {})[1]
    assert warning.startswith(f"No events at `{tmp_path}/data/*.jsonl`")


def test_look_asks_a_database_for_rows_since_the_last_less_the_late_ones(tmp_path: Path) -> None:
    place = tmp_path / "shop.duckdb"
    with duckdb.connect(str(place)) as base:
        base.execute("CREATE TABLE events (event_name VARCHAR, timestamp TIMESTAMP, user_id VARCHAR)")
        base.execute(
            "INSERT INTO events SELECT 'visit', TIMESTAMP '2024-03-01 10:00:00' + INTERVAL (n) SECOND, 'ann'"
            " FROM range(5) t(n)"
        )
    source = open_source(write_run(tmp_path, "shop.duckdb#events"), late="2s")
    assert isinstance(source, Database)
    assert look(source, {})[0] == ["00", "01", "02", "03", "04"]
    assert look(source, {}, pd.Timestamp("2024-03-01 10:00:04"))[0] == ["02", "03", "04"]


def test_open_source_refuses_what_does_not_grow(tmp_path: Path) -> None:
    run_file = write_run(tmp_path, "dataset:shop")
    with pytest.raises(RunError) as error:
        open_source(run_file, late="15min")
    assert str(error.value) == (
        f"{run_file.path}:2: `events` is 'dataset:shop', which can't be watched: give a folder or glob to which files "
        "are added, a DuckDB file, or a database with `engine: ibis`."
    )


def test_open_source_refuses_times_that_a_database_can_not_compare(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("columns: {timestamp: {column: at, format: epoch_s}}\n")
    run_file = write_run(tmp_path, "shop.duckdb", "mapping: map.yaml\n")
    with pytest.raises(RunError) as error:
        open_source(run_file, late="15min")
    assert str(error.value) == (
        f"{run_file.path}:4: to watch a database, `timestamp` must be one column of times there, because only its "
        "latest rows are asked for. Map it without `format` and `expression`."
    )


def test_open_source_knows_files_by_their_place(tmp_path: Path) -> None:
    assert isinstance(open_source(write_run(tmp_path), late="15min"), Files)


def test_hash_tail_tells_what_lies_before_a_place(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("abcdef")
    before = hash_tail(file, 3)
    file.write_text("abcxyz")
    assert hash_tail(file, 3) == before
    assert hash_tail(file, 6) != before
