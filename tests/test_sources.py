import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from convlib.engine import connect
from convlib.errors import EventDataError, ParamError
from convlib.events import EventLog, read_events
from convlib.sources import _move, _read, find_files

HEADER = "user_id,event_name,timestamp"
ROWS = pd.DataFrame(
    [
        ("u1", "view", "2026-01-01 10:00:00", "mobile", 1.5, "red"),
        ("u1", "buy", "2026-01-01 10:00:30", "mobile", 20.0, None),
        ("u2", "view", "2026-07-01 23:59:59.25", None, None, 'b"lue, or\nnot'),
        ("u3", "ping", "2026-07-02 00:00:00", "desktop", -3.0, "grün"),
    ],
    columns=["user_id", "event_name", "timestamp", "device_type", "value", "colour"],
)
PLAN = """\
macros:
  - id: purchase
    match: {event_name: buy}
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, to look into."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("CONVLIB_CACHE", str(folder))
    return folder


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_csv(folder: Path, *lines: str, header: str = HEADER) -> Path:
    return write(folder / "log.csv", "\n".join([header, *lines]) + "\n")


def write_plan(folder: Path, text: str = PLAN) -> Path:
    return write(folder / "plan.yaml", text)


def refuse(source: Path | str | pd.DataFrame, **options: object) -> EventDataError:
    with pytest.raises(EventDataError) as caught:
        read_events(source, **options)  # type: ignore[arg-type]
    return caught.value


def rejected(log: EventLog) -> list[list[object]]:
    return log.rejects[["source", "row", "reason"]].to_numpy().tolist()


def moments(log: EventLog) -> list[str]:
    return list(log.to_pandas()["timestamp"].dt.strftime("%m-%d %H:%M"))


def save_parquet(folder: Path) -> Path:
    ROWS.to_parquet(folder / "log.parquet", index=False)
    return folder / "log.parquet"


def save_typed_parquet(folder: Path) -> Path:
    ROWS.assign(timestamp=pd.to_datetime(ROWS["timestamp"], format="ISO8601")).to_parquet(
        folder / "log.pq", index=False
    )
    return folder / "log.pq"


def save_csv(folder: Path) -> Path:
    ROWS.to_csv(folder / "log.csv", index=False)
    return folder / "log.csv"


def save_tsv(folder: Path) -> Path:
    ROWS.to_csv(folder / "log.tsv", index=False, sep="\t")
    return folder / "log.tsv"


def save_zipped_csv(folder: Path) -> Path:
    with gzip.open(folder / "log.csv.gz", "wt", encoding="utf-8", newline="") as stream:
        ROWS.to_csv(stream, index=False)
    return folder / "log.csv.gz"


def save_json(folder: Path) -> Path:
    ROWS.to_json(folder / "log.jsonl", orient="records", lines=True)
    return folder / "log.jsonl"


def save_zipped_json(folder: Path) -> Path:
    ROWS.to_json(folder / "log.jsonl.gz", orient="records", lines=True)
    return folder / "log.jsonl.gz"


def save_folder(folder: Path) -> Path:
    for i, half in enumerate((ROWS[:2], ROWS[2:])):
        part = folder / "logs" / f"day={i}" / "part.csv"
        part.parent.mkdir(parents=True)
        half.to_csv(part, index=False)
    write(folder / "logs" / "README.md", "not events")
    return folder / "logs"


def save_glob(folder: Path) -> str:
    save_folder(folder)
    return f"{folder}/logs/**/*.csv"


def save_reordered(folder: Path) -> Path:
    ROWS.iloc[::-1, ::-1].to_csv(folder / "log.csv", index=False)
    return folder / "log.csv"


@pytest.mark.parametrize(
    "save",
    [
        save_parquet,
        save_typed_parquet,
        save_csv,
        save_tsv,
        save_zipped_csv,
        save_json,
        save_zipped_json,
        save_folder,
        save_glob,
        save_reordered,
    ],
)
def test_read_events_gives_equal_tables_from_every_source(save: Callable[[Path], Path], tmp_path: Path) -> None:
    log, given = read_events(save(tmp_path)), read_events(ROWS)
    columns = list(given.columns)
    assert_frame_equal(log.to_pandas()[columns], given.to_pandas())
    assert (log.rows_read, log.rows_used, log.rows_rejected) == (4, 4, 0)
    assert log.to_pandas()["colour"].tolist()[2:] == ['b"lue, or\nnot', "grün"]
    assert log.to_pandas()["value"].fillna(0).tolist() == [1.5, 20, 0, -3]


@pytest.mark.parametrize("save", [save_parquet, save_csv, save_zipped_csv, save_json])
def test_read_events_opens_files_without_loading_them(save: Callable[[Path], Path], tmp_path: Path) -> None:
    plan = _read([save(tmp_path)]).explain()
    assert "COLUMN_DATA_SCAN" not in plan  # the engine's word for a table that it holds in memory


def test_read_events_takes_a_dataframe_of_any_types() -> None:
    typed = ROWS.assign(
        timestamp=pd.to_datetime(ROWS["timestamp"], format="ISO8601").astype("datetime64[ns]"),
        device_type=ROWS["device_type"].astype("category"),
        user_id=ROWS["user_id"].astype(object),
    ).set_index(pd.Index([7, 7, 7, 7]))
    assert_frame_equal(read_events(typed).to_pandas(), read_events(ROWS).to_pandas())


def test_read_events_trims_text_and_takes_empty_as_missing(tmp_path: Path) -> None:
    source = write_csv(tmp_path, " u1 , view ,2026-01-01,,  ,a", header=f"{HEADER},device_type,value,geo")
    row = read_events(source).to_pandas().iloc[0]
    assert row[["user_id", "event_name", "geo"]].tolist() == ["u1", "view", "a"]
    assert row[["device_type", "value"]].isna().all()


def test_read_events_reads_numbers_as_ids() -> None:
    rows = pd.DataFrame({"user_id": [10, 9], "event_name": ["x", "x"], "timestamp": ["2026-01-01", "2026-01-02"]})
    assert read_events(rows).to_pandas()["user_id"].tolist() == ["10", "9"]


NAIVE = ["u1,x,2026-01-15 12:00", "u2,x,2026-07-15 12:00", "u3,x,2026-07-15"]


def test_read_events_takes_naive_times_in_the_given_zone(tmp_path: Path) -> None:
    source = write_csv(tmp_path, *NAIVE)
    assert moments(read_events(source)) == ["01-15 12:00", "07-15 12:00", "07-15 00:00"]
    assert moments(read_events(source, timezone="Europe/Berlin")) == ["01-15 11:00", "07-15 10:00", "07-14 22:00"]
    assert moments(read_events(source)) == ["01-15 12:00", "07-15 12:00", "07-15 00:00"]


def save_naive(folder: Path, kind: str) -> Path | pd.DataFrame:
    rows = pd.DataFrame([line.split(",") for line in NAIVE], columns=HEADER.split(","))
    typed = rows.assign(timestamp=pd.to_datetime(rows["timestamp"], format="ISO8601"))
    if kind == "DataFrame":
        return typed
    path = folder / f"log.{kind}"
    if kind == "parquet":
        typed.to_parquet(path, index=False)
    else:
        rows.to_json(path, orient="records", lines=True)
    return path


@pytest.mark.parametrize("kind", ["DataFrame", "parquet", "jsonl"])
def test_read_events_takes_naive_times_of_every_source_in_the_given_zone(kind: str, tmp_path: Path) -> None:
    log = read_events(save_naive(tmp_path, kind), timezone="Europe/Berlin")
    assert moments(log) == ["01-15 11:00", "07-15 10:00", "07-14 22:00"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("offset", ["Z", "+02:00"])
def test_read_events_keeps_offsets_whatever_the_given_zone(suffix: str, offset: str, tmp_path: Path) -> None:
    rows = pd.DataFrame({"user_id": ["u1", "u2"], "event_name": "x", "timestamp": f"2026-07-15T12:00:00{offset}"})
    path = tmp_path / f"log.{suffix}"
    if suffix == "csv":
        rows.to_csv(path, index=False)
    else:
        rows.to_json(path, orient="records", lines=True)
    expected = {"Z": "07-15 12:00", "+02:00": "07-15 10:00"}[offset]
    assert moments(read_events(path, timezone="America/New_York")) == [expected] * 2


def test_read_events_keeps_the_zone_of_a_dataframe() -> None:
    rows = pd.DataFrame(
        {"user_id": "u", "event_name": "x", "timestamp": [pd.Timestamp("2026-07-15 12:00", tz="Europe/Berlin")]}
    )
    assert moments(read_events(rows, timezone="America/New_York")) == ["07-15 10:00"]


def test_read_events_refuses_an_unknown_zone(tmp_path: Path) -> None:
    error = refuse(write_csv(tmp_path, *NAIVE), timezone="Mars")
    assert len(error.problems) == 1
    assert "Unknown TimeZone 'Mars'" in str(error)


FAULTY = [
    "u1,view,2026-01-01,1",
    ",view,2026-01-01,1",
    "u1,  ,2026-01-01,1",
    "u1,view,,1",
    "u1,view,soon,1",
    "u1,view,2026-02-30,1",
    "u1,view,2026-01-01,much",
    ",,soon,much",
    "u1,view,2026-01-01,",
    "u1,view,2026-01-01,1e3",
]


def test_read_events_keeps_rejects_with_source_row_and_reason(tmp_path: Path) -> None:
    log = read_events(write_csv(tmp_path, *FAULTY, header=f"{HEADER},value"))
    assert rejected(log) == [
        ["log.csv", 2, "user_id is missing"],
        ["log.csv", 3, "event_name is missing"],
        ["log.csv", 4, "timestamp is missing"],
        ["log.csv", 5, "timestamp is not a date and time"],
        ["log.csv", 6, "timestamp is not a date and time"],
        ["log.csv", 7, "value is not a number"],
        ["log.csv", 8, "user_id is missing"],
    ]
    assert (log.rows_read, log.rows_used, log.rows_rejected) == (10, 3, 7)
    assert sorted(log.to_pandas()["value"].fillna(0)) == [0, 1, 1000]


def test_read_events_shows_rejected_rows_as_they_came(tmp_path: Path) -> None:
    log = read_events(write_csv(tmp_path, *FAULTY, header=f"{HEADER},value"))
    assert log.rejects.columns.tolist() == ["source", "row", "reason", "user_id", "event_name", "timestamp", "value"]
    assert list(log.rejects.loc[5])[3:] == ["u1", "view", "2026-01-01", "much"]


@pytest.mark.parametrize("value", ["inf", "-Infinity", "1,5", "12 USD"])
def test_read_events_rejects_values_that_cannot_be_added_up(value: str, tmp_path: Path) -> None:
    source = write_csv(tmp_path, f'u1,view,2026-01-01,"{value}"', "u2,view,2026-01-01,3", header=f"{HEADER},value")
    assert rejected(read_events(source)) == [["log.csv", 1, "value is not a number"]]


def test_read_events_takes_not_a_number_as_a_missing_value(tmp_path: Path) -> None:
    source = write_csv(tmp_path, "u1,view,2026-01-01,nan", "u2,view,2026-01-01,3", header=f"{HEADER},value")
    log = read_events(source)
    assert log.rows_rejected == 0
    assert log.stream("view").aggregate("sum(value), count(value)").fetchall() == [(3, 1)]


def test_read_events_takes_a_missing_value_of_a_dataframe_as_none() -> None:
    log = read_events(ROWS)
    assert log.rows_rejected == 0
    assert log.stream("view").aggregate("sum(value), count(value)").fetchall() == [(1.5, 1)]


def test_read_events_numbers_rejects_by_file(tmp_path: Path) -> None:
    write(tmp_path / "logs" / "a.csv", f"{HEADER}\nu1,x,2026-01-01\nu1,x,soon\n")
    write(tmp_path / "logs" / "b.csv", f"{HEADER}\n,x,2026-01-01\n")
    assert rejected(read_events(tmp_path / "logs")) == [
        ["a.csv", 2, "timestamp is not a date and time"],
        ["b.csv", 1, "user_id is missing"],
    ]


def test_read_events_rejects_the_rows_of_a_file_that_lacks_a_needed_column(tmp_path: Path) -> None:
    write(tmp_path / "logs" / "a.csv", f"{HEADER}\nu1,x,2026-01-01\n")
    write(tmp_path / "logs" / "b.csv", "event_name,timestamp\nx,2026-01-01\n")
    assert rejected(read_events(tmp_path / "logs")) == [["b.csv", 1, "user_id is missing"]]


def test_read_events_takes_files_with_different_columns_together(tmp_path: Path) -> None:
    write(tmp_path / "logs" / "a.csv", f"{HEADER},value\nu1,x,2026-01-01,2\n")
    write(tmp_path / "logs" / "b.csv", f"{HEADER},colour\nu2,x,2026-01-01,red\nu2,x,soon,red\n")
    log = read_events(tmp_path / "logs")
    table = log.to_pandas().set_index("user_id")
    assert table["value"].dropna().to_dict() == {"u1": 2}
    assert table["colour"].dropna().to_dict() == {"u2": "red"}
    assert rejected(log) == [["b.csv", 2, "timestamp is not a date and time"]]


def test_read_events_rejects_rows_of_a_dataframe_and_of_json(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"user_id": ["u1", None], "event_name": ["x", "x"], "timestamp": ["2026-01-01", "2026-01-01"], "value": [1, 2]}
    )
    assert rejected(read_events(rows)) == [["DataFrame", 2, "user_id is missing"]]
    rows.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    assert rejected(read_events(tmp_path / "log.jsonl")) == [["log.jsonl", 2, "user_id is missing"]]


def test_read_events_finds_the_bad_timestamp_in_row_one_million(tmp_path: Path) -> None:
    lines = [f"{i % 1000},x,2026-01-01 10:00:00" for i in range(1_000_002)]
    lines[999_999] = "999,x,not a time"
    log = read_events(write_csv(tmp_path, *lines))
    assert rejected(log) == [["log.csv", 1_000_000, "timestamp is not a date and time"]]
    assert (log.rows_read, log.rows_used) == (1_000_002, 1_000_001)
    assert list(log.rejects.loc[0, ["user_id", "timestamp"]]) == ["999", "not a time"]


def test_read_events_rejects_a_late_bad_timestamp_in_json(tmp_path: Path) -> None:
    rows = pd.DataFrame({"user_id": "u", "event_name": "x", "timestamp": ["2026-01-01 10:00:00"] * 30_000})
    rows.loc[24_999, "timestamp"] = "soon"
    rows.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    assert rejected(read_events(tmp_path / "log.jsonl")) == [["log.jsonl", 25_000, "timestamp is not a date and time"]]


def test_read_events_reads_text_values_of_json_like_those_of_csv(tmp_path: Path) -> None:
    line = '{{"user_id": "u", "event_name": "x", "timestamp": "2026-01-01", "value": {}}}\n'
    source = write(tmp_path / "log.jsonl", "".join(map(line.format, ["3", '"4"', '"much"', "null"])))
    log = read_events(source)
    assert rejected(log) == [["log.jsonl", 3, "value is not a number"]]
    assert log.to_pandas()["value"].sum() == 7
    assert log.rejects.loc[0, "value"] == "much"


def test_read_events_says_that_a_log_is_empty(tmp_path: Path) -> None:
    for name, text in (("no_rows.csv", f"{HEADER}\n"), ("no_bytes.csv", ""), ("no_bytes.jsonl", "")):
        source = write(tmp_path / name, text)
        assert str(refuse(source)) == f"`{source}` is empty: it has no rows. Check the export."
    assert str(refuse(ROWS.head(0))) == "`DataFrame` is empty: it has no rows. Check the export."


def test_read_events_says_why_no_row_can_be_used(tmp_path: Path) -> None:
    source = write_csv(tmp_path, ",x,2026-01-01", "u1,x,soon", "u1,x,later")
    assert str(refuse(source)) == (
        f"`{source}` has no usable row: 3 read, 3 rejected (timestamp is not a date and time: 2 rows; "
        "user_id is missing: 1 rows). For example {'source': 'log.csv', 'row': '1', 'reason': 'user_id is missing', "
        "'event_name': 'x', 'timestamp': '2026-01-01'}."
    )


def test_read_events_names_every_missing_column(tmp_path: Path) -> None:
    source = write_csv(tmp_path, "u1,x", header="user_id,event")
    columns = "which every log needs; its columns are ['user_id', 'event']. Rename the column that holds it."
    assert refuse(source).problems == (
        f"`{source}` has no column `event_name`, {columns}",
        f"`{source}` has no column `timestamp`, {columns}",
        f"`{source}`: the column name `event` is taken by convlib; rename it.",
    )


def test_read_events_refuses_bare_numbers_as_times() -> None:
    rows = pd.DataFrame({"user_id": ["u"], "event_name": ["x"], "timestamp": [1_767_225_600]})
    assert str(refuse(rows)) == (
        "`DataFrame`: `timestamp` holds BIGINT; give dates with times (2026-11-21 09:30:00), not bare numbers."
    )


def test_read_events_names_unknown_columns_of_the_plan_with_their_lines(tmp_path: Path) -> None:
    plan = write_plan(
        tmp_path,
        "macros:\n"
        "  - id: purchase\n"
        "    match: {event_name: buy, colour: red}\n"
        "    value: {column: amount}\n"
        "    losses:\n"
        "      - id: left\n"
        "        match: {reason: {is_null: false}}\n",
    )
    source = write_csv(tmp_path, "u1,x,2026-01-01")
    columns = f"which `{source}` does not have; its columns are ['user_id', 'event_name', 'timestamp']."
    assert refuse(source, plan=plan).problems == (
        f"{plan}:3: `purchase` reads the column `amount`, {columns}",
        f"{plan}:3: `purchase` reads the column `colour`, {columns}",
        f"{plan}:7: `left` reads the column `reason`, {columns}",
    )


def test_read_events_takes_a_canonical_column_that_is_missing_as_empty(tmp_path: Path) -> None:
    plan = write_plan(tmp_path, "macros:\n  - {id: purchase, match: {event_name: buy, geo: NO}}\n")
    log = read_events(ROWS, plan=plan)
    assert log.stream("purchase").fetchall() == []


def test_read_events_says_that_a_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("log.csv", "logs/*.parquet"):
        assert str(refuse(text)) == (
            f"No events at `{text}`: there is no such file, folder or match. Check `events`; in a run file a relative "
            "path starts at the run file's folder, in a notebook at the notebook's."
        )


def test_read_events_refuses_an_unknown_dataset() -> None:
    with pytest.raises(ParamError) as caught:
        read_events("dataset:shopp")
    assert str(caught.value) == "`name` is 'shopp'; it must be one of 'oulad', 'shop'. Did you mean 'shop'?"


KINDS = "['.csv', '.csv.gz', '.jsonl', '.jsonl.gz', '.ndjson', '.parquet', '.pq', '.tsv']"


def test_find_files_refuses_files_of_unknown_or_mixed_kinds(tmp_path: Path) -> None:
    sheet = write(tmp_path / "log.xlsx", "x")
    save_csv(tmp_path)
    save_parquet(tmp_path)
    for source, endings in ((sheet, ["xlsx"]), (f"{tmp_path}/log.[cp]*", ["csv", "parquet"])):
        with pytest.raises(EventDataError) as caught:
            find_files(source)
        shown = [f".{ending}" for ending in endings]
        assert str(caught.value) == (
            f"`{source}` can't be read: its files end in {shown}; give files of one kind among {KINDS}."
        )


def test_find_files_lists_files_in_name_order(tmp_path: Path) -> None:
    source = save_folder(tmp_path)
    assert [path.parent.name for path in find_files(source)] == ["day=0", "day=1"]
    assert find_files(source / "day=0" / "part.csv") == [source / "day=0" / "part.csv"]


def test_read_events_refuses_a_corrupt_parquet_file(tmp_path: Path) -> None:
    source = write(tmp_path / "log.parquet", "PAR1 but nothing more of it PAR1")
    error = refuse(source)
    assert len(error.problems) == 1
    assert str(error).startswith("`log.parquet` can't be read: ")
    assert "LINE 1" not in str(error)  # the engine's own query is nothing to a reader


@pytest.mark.parametrize("bad", ["u2,x", "u2,x,2026-01-02,more,and more"])
@pytest.mark.parametrize("good_rows", [2, 30_000], ids=["in a small file", "late in a large file"])
def test_read_events_says_that_a_csv_is_ragged(bad: str, good_rows: int, tmp_path: Path) -> None:
    source = write_csv(tmp_path, *["u1,x,2026-01-01"] * good_rows, bad, "u3,x,2026-01-03")
    error = refuse(source)
    assert len(error.problems) == 1
    assert "log.csv` can't be read: " in str(error)
    assert str(good_rows + 2) in str(error).replace(",", "")


def test_read_events_says_where_json_is_broken(tmp_path: Path) -> None:
    good = '{"user_id": "u", "event_name": "x", "timestamp": "2026-01-01"}\n'
    error = refuse(write(tmp_path / "log.jsonl", good + "{oops\n"))
    assert len(error.problems) == 1
    assert str(error).startswith("`log.jsonl` can't be read: Invalid Input Error: Malformed JSON in file \"")
    assert "LINE 1" not in str(error)


def test_prepare_reads_a_log_once(cache: Path, tmp_path: Path) -> None:
    source, plan = write_csv(tmp_path, "u1,buy,2026-01-01", "u1,x,soon"), write_plan(tmp_path)
    first = read_events(source, plan=plan)
    folder = first.prepared.folder
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    second = read_events(source, plan=plan)
    assert second == first
    assert second.prepared.folder.parent == cache
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    assert list(cache.iterdir()) == [folder]
    assert rejected(second) == [["log.csv", 2, "timestamp is not a date and time"]]


def test_prepare_reads_a_changed_log_again(cache: Path, tmp_path: Path) -> None:
    first = read_events(write_csv(tmp_path, "u1,buy,2026-01-01"))
    second = read_events(write_csv(tmp_path, "u1,buy,2026-01-01", "u1,buy,2026-01-02"))
    assert (first.rows_used, second.rows_used) == (1, 2)
    assert first.fingerprint != second.fingerprint
    touched = tmp_path / "log.csv"
    os.utime(touched, ns=(0, 0))
    third = read_events(touched)
    assert third.fingerprint == second.fingerprint
    assert len(list(cache.iterdir())) == 3


def test_prepare_reads_again_for_another_plan_zone_or_frame(cache: Path, tmp_path: Path) -> None:
    source = write_csv(tmp_path, "u1,buy,2026-01-01")
    logs = [
        read_events(source),
        read_events(source, timezone="Europe/Berlin"),
        read_events(source, plan=write_plan(tmp_path)),
        read_events(source, plan=write_plan(tmp_path, PLAN.replace("buy", "order"))),
        read_events(ROWS),
        read_events(ROWS.rename(columns={"colour": "color"})),
        read_events(ROWS.assign(value=5.0)),
    ]
    assert len({log.prepared.folder for log in logs}) == len(logs) == len(list(cache.iterdir()))
    assert [len(log.rows("conversions").fetchall()) for log in logs[2:4]] == [1, 0]


def test_prepare_keeps_its_form_when_only_comments_of_the_plan_change(cache: Path, tmp_path: Path) -> None:
    source = write_csv(tmp_path, "u1,buy,2026-01-01")
    read_events(source, plan=write_plan(tmp_path))
    read_events(source, plan=write_plan(tmp_path, f"# what pays\n{PLAN}"))
    assert len(list(cache.iterdir())) == 1


def test_move_takes_what_another_process_has_put_there_and_hides_no_other_fault(tmp_path: Path) -> None:
    scratch, taken = tmp_path / "scratch", tmp_path / "taken"
    for folder in (scratch, taken):
        folder.mkdir()
        (folder / "log.json").write_text(folder.name)
    _move(scratch, taken)
    assert (taken / "log.json").read_text() == "taken"
    with pytest.raises(FileNotFoundError):
        _move(scratch, tmp_path / "missing" / "log")


def test_prepare_that_fails_leaves_nothing_behind(cache: Path, tmp_path: Path) -> None:
    refuse(write_csv(tmp_path, "u1,x,soon"))
    refuse(write_csv(tmp_path, *["u1,x,2026-01-01"] * 30_000, "u1,x,2026-01-01,more"))
    refuse(write_csv(tmp_path, "u1,x,2026-01-01"), timezone="Mars")
    assert list(cache.iterdir()) == []


def test_prepare_leaves_the_engines_zone_as_it_was(cache: Path, tmp_path: Path) -> None:
    source = write_csv(tmp_path, "u1,x,2026-01-01", "u1,x,soon")
    read_events(source, timezone="Europe/Berlin")
    refuse(write_csv(tmp_path, "u1,x,soon"), timezone="Europe/Berlin")
    assert connect().execute("SELECT current_setting('TimeZone')").fetchall() == [("UTC",)]
    assert list(cache.iterdir())


def test_conversions_take_the_value_that_the_plan_names(tmp_path: Path) -> None:
    plan = write_plan(
        tmp_path,
        "macros:\n"
        "  - id: purchase\n"
        "    match: {event_name: buy}\n"
        "    value: {column: amount}\n"
        "    micros:\n"
        "      - {id: fixed, match: {event_name: buy}, stage: decision, kind: process_milestone, value: 2.5}\n"
        "      - {id: own, match: {event_name: buy}, stage: decision, kind: process_milestone}\n",
    )
    source = write_csv(tmp_path, "u1,buy,2026-01-01,7,9", "u2,buy,2026-01-01,7,none", header=f"{HEADER},value,amount")
    log = read_events(source, plan=plan)
    found = {name: [row[0] for row in log.stream(name).project("value").fetchall()] for name in plan_ids(log)}
    assert found == {"purchase": [9, None], "fixed": [7, 7], "own": [7, 7]}


def plan_ids(log: EventLog) -> list[str]:
    assert log.plan is not None
    return [each.id for each in log.plan.conversions]


def test_activity_is_what_is_no_conversion_and_fires_with_none(tmp_path: Path) -> None:
    source = write_csv(
        tmp_path,
        "u1,buy,2026-01-01 10:00",
        "u1,tracked,2026-01-01 10:00",
        "u1,x,2026-01-01 10:01",
        "u2,x,2026-01-01 10:00",
    )
    log = read_events(source, plan=write_plan(tmp_path))
    assert log.rows("activity").project("event_name, user").fetchall() == [("x", 0), ("x", 1)]


HOSTILE_VALUES = [
    "it's",
    '"; DROP TABLE events; --',
    "' OR 1=1 --",
    "two\nlines",
    "%_.*[",
    "$1 {0} \\",
    "ünïcödé 🛒",
    "NULL",
    "=1+1",
]
HOSTILE_COLUMNS = [
    'a "quoted" name',
    "it's",
    "a.b",
    "x; DROP TABLE events; --",
    "two\nlines",
    "select",
    "user_ID2",
    "ünïcödé",
    "$1 {0} %s",
    "a b",
]
#: Names that queries and results use themselves.
INNER_COLUMNS = ["names", "period", "unit", "time", "v", "row", "reason", "reject_row", "clean"]
#: Those of them that stand beside a breakdown in a table.
TAKEN_COLUMNS = ["period", "unit", "time"]


@pytest.mark.parametrize("value", HOSTILE_VALUES)
def test_hostile_values_are_values(value: str) -> None:
    rows = pd.DataFrame(
        {"user_id": [value, "other"], "event_name": [value, "x"], "timestamp": "2026-01-01", "custom": [value, "x"]}
    )
    log = read_events(rows)
    assert log.where(custom=value).to_pandas()["user_id"].tolist() == [value]
    assert log.segment({"custom": [value]}).to_pandas()["custom"].tolist() == [value]
    assert len(log.stream(value).fetchall()) == 1
    assert value in log.values("custom")


@pytest.mark.parametrize("column", [*HOSTILE_COLUMNS, *INNER_COLUMNS])
def test_hostile_column_names_are_names(column: str, tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "user_id": ["u1", "u2", None],
            "event_name": ["buy", "buy", "x"],
            "timestamp": ["2026-01-01", "2026-01-02", "2026-01-03"],
            column: ["yes", "no", "yes"],
        }
    )
    log = read_events(rows, plan=write_plan(tmp_path))
    assert column in log.columns
    assert log.values(column) == ["no", "yes"]
    assert log.to_pandas()[column].tolist() == ["yes", "no"]
    assert log.segment({column: "no"}).to_pandas()["user_id"].tolist() == ["u2"]
    assert log.where(**{column: "no"}).to_pandas()["user_id"].tolist() == ["u2"]
    assert log.count("conversions", column)[column].tolist() == ["no", "yes"]
    assert len(log.stream("purchase").fetchall()) == 2
    assert len(log.rejects) == 1
    if column not in TAKEN_COLUMNS:
        assert log.entries(columns=[column])[column].tolist() == ["yes", "no"]


@pytest.mark.parametrize("column", TAKEN_COLUMNS)
def test_breakdowns_by_a_taken_column_name_are_refused(column: str) -> None:
    log = read_events(ROWS.assign(**{column: "x"}))
    with pytest.raises(ParamError) as caught:
        log.entries(columns=[column])
    assert str(caught.value) == (
        f"The column `{column}` can't break results down: their own tables have a column of that name. "
        "Rename it in the log."
    )


def test_count_by_day_counts_days_also_when_the_log_has_a_column_of_that_name() -> None:
    table = read_events(ROWS.assign(day="Thursday")).count("events", "day")
    assert table["day"].tolist() == [pd.Timestamp(f"2026-{day}") for day in ("01-01", "07-01", "07-02")]


def test_column_names_that_differ_only_in_case_keep_their_values() -> None:
    rows = pd.DataFrame({"user_id": ["u1"], "event_name": ["x"], "timestamp": ["2026-01-01"], "Source": ["news"]})
    log = read_events(rows)
    assert "news" in (log.values("source") if "Source" not in log.columns else log.values("Source"))


@pytest.mark.parametrize("name", ["event", "Event", "USER", "Session", "conversion"])
def test_column_names_of_convlib_are_refused_in_any_case(name: str) -> None:
    rows = pd.DataFrame({"user_id": ["u1"], "event_name": ["x"], "timestamp": ["2026-01-01"], name: ["a"]})
    assert str(refuse(rows)) == f"`DataFrame`: the column name `{name}` is taken by convlib; rename it."
