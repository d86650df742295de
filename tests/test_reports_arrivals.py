"""What is new of a source: files, appended lines, rows of a database; each once, and what can't be is said."""

import errno
import gc
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from test_reports_watcher import open_shop, run
from test_warehouse import postgres

from convlib.errors import RunError
from convlib.reports import arrivals
from convlib.reports.arrivals import Database, Facts, Files, hash_tail, open_source
from convlib.reports.run_file import RunFile, read_run_file

__all__ = ["postgres", "run"]
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


def test_open_source_refuses_an_engine_that_has_no_latest_rows(tmp_path: Path) -> None:
    run_file = write_run(tmp_path, more="engine: spark\n")
    with pytest.raises(RunError) as error:
        open_source(run_file, late="15min")
    assert str(error.value) == (
        f"{run_file.path}:4: `engine` is 'spark', which can't be watched: give 'duckdb', or 'ibis' for a database."
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


def test_look_tries_a_locked_database_again(tmp_path: Path) -> None:
    place = tmp_path / "shop.duckdb"
    query = "SELECT 'visit' AS event_name, TIMESTAMP '2024-03-01 10:00:01' AS timestamp, 'ann' AS user_id"
    write = (
        f"import duckdb; base = duckdb.connect({str(place)!r}); base.execute({f'CREATE TABLE events AS {query}'!r}); "
        "base.execute('CHECKPOINT'); print('there', flush=True); input()"
    )
    source, known = open_source(write_run(tmp_path, "shop.duckdb"), late="2s"), dict[str, Facts]()
    with subprocess.Popen(
        [sys.executable, "-c", write], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "there\n"
        seconds, (warning,) = look(source, known)
        writer.communicate("\n", timeout=30)
    assert seconds == []
    assert warning.startswith(f"`{place}` can't be read: IO Error: Could not set lock on file")
    assert "\n" not in warning
    assert look(source, known) == (["01"], [])


def test_look_tries_a_database_that_has_gone_again(tmp_path: Path) -> None:
    place, away = tmp_path / "shop.duckdb", tmp_path / "away"
    with duckdb.connect(str(place)) as base:
        base.execute(
            "CREATE TABLE events AS SELECT 'visit' AS event_name, TIMESTAMP '2024-03-01 10:00:01' AS timestamp, "
            "'ann' AS user_id"
        )
    source = open_source(write_run(tmp_path, "shop.duckdb"), late="2s")
    place.rename(away)
    seconds, (warning,) = look(source, {})
    assert seconds == []
    assert warning.startswith(f"No events at `{place}`")
    away.rename(place)
    assert look(source, {}) == (["01"], [])


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_look_tries_a_file_that_goes_while_it_is_read_again(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, known = open_source(write_run(tmp_path), late="15min"), dict[str, Facts]()
    file = tmp_path / "data" / name
    if name == "a.jsonl":
        file.write_text(LINE.format(1))
    else:
        pd.read_json(StringIO(LINE.format(1)), lines=True).to_parquet(file)
    look(source, {})  # it rests from now on

    def go(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(file))

    with monkeypatch.context() as patch:
        patch.setattr(arrivals, "prepare", go)
        assert look(source, known) == (
            [],
            [f"`{file}` can't be read now: No such file or directory. It is tried again."],
        )
    assert known == {}
    assert look(source, known) == (["01"], [])


def test_look_asks_a_database_in_its_own_zone(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as base:
        base.execute(
            "CREATE TABLE events AS SELECT 'visit' AS event_name, 'ann' AS user_id, "
            "TIMESTAMP '2024-03-01 05:00:00' + INTERVAL (n) SECOND AS timestamp FROM range(5) t(n)"
        )
    (tmp_path / "map.yaml").write_text("timezone: America/New_York\n")
    source = open_source(write_run(tmp_path, "shop.duckdb", "mapping: map.yaml\n"), late="2s")
    assert look(source, {}, pd.Timestamp("2024-03-01 10:00:04"))[0] == ["02", "03", "04"]


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ"])
@pytest.mark.filterwarnings("ignore:fetch_record_batch:DeprecationWarning")
def test_look_asks_postgresql_for_rows_since_the_last_and_tries_again(tmp_path: Path, postgres: Any, kind: str) -> None:
    host = postgres.raw_sql("SHOW unix_socket_directories").fetchone()[0]
    zone = "+00" if kind == "TIMESTAMPTZ" else ""
    postgres.raw_sql(
        f"DROP TABLE IF EXISTS watched; CREATE TABLE watched AS SELECT 'visit' AS event_name, 'ann' AS user_id, "
        f"{kind} '2024-03-01 10:00:00{zone}' + n * INTERVAL '1 second' AS timestamp FROM generate_series(0, 4) n"
    ).close()
    postgres.con.commit()
    address = f"postgres://analyst@/postgres?host={host}#watched"
    source = open_source(write_run(tmp_path, f"'{address}'", "engine: ibis\n"), late="2s")
    assert look(source, {}) == (["00", "01", "02", "03", "04"], [])
    assert look(source, {}, pd.Timestamp("2024-03-01 10:00:04")) == (["02", "03", "04"], [])
    assert look(source, {}, pd.Timestamp("2024-03-01 11:00:00")) == ([], [])
    postgres.raw_sql("ALTER TABLE watched RENAME TO away").close()
    postgres.con.commit()
    seconds, (warning,) = look(source, {})
    assert seconds == []
    assert "has no table 'watched'" in warning
    postgres.raw_sql("DROP TABLE away").close()
    postgres.con.commit()


@pytest.mark.filterwarnings("ignore:fetch_record_batch:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:<psycopg.Connection:ResourceWarning")  # those that check a run's notebooks
def test_rows_of_postgresql_are_counted_once_though_asked_for_again(run: Path, postgres: Any) -> None:
    host = postgres.raw_sql("SHOW unix_socket_directories").fetchone()[0]
    insert = "INSERT INTO grown VALUES ('visit', TIMESTAMP '2024-03-05 10:00:00' + {0} * INTERVAL '1 s', 'u{0}', 'x')"

    def tell(*commands: str) -> None:
        for command in commands:
            postgres.raw_sql(command).close()
        postgres.con.commit()

    columns = "event_name TEXT, timestamp TIMESTAMP, user_id TEXT, device_type TEXT"
    tell(f"DROP TABLE IF EXISTS grown; CREATE TABLE grown ({columns})", *map(insert.format, (0, 0, 1)))
    tell("INSERT INTO grown VALUES ('purchase', '2024-03-05 10:00:00', 'u1', 'x')")
    place = f"'postgres://analyst@/postgres?host={host}#grown'\nengine: ibis"
    run.write_text(run.read_text().replace("../data", place))
    with open_shop(run) as watcher:
        assert [watcher.look(), watcher.look()] == [4, 0]
        tell(*map(insert.format, (0, 2)))
        assert [watcher.look(), watcher.look()] == [2, 0]
    with open_shop(run) as watcher:
        assert watcher.look() == 0
        assert list(watcher.warnings) == []
    gc.collect()


def test_look_tries_a_database_that_does_not_answer_again(tmp_path: Path) -> None:
    address = f"postgres://analyst@/postgres?host={tmp_path}#events"
    source = open_source(write_run(tmp_path, f"'{address}'", "engine: ibis\n"), late="2s")
    seconds, (warning,) = look(source, {})
    assert seconds == []
    assert warning.startswith(f"`{address}` can't be read now: ")
    assert warning.endswith(". It is tried again.")
