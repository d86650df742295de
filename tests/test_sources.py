import dataclasses
import gzip
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal
from source_files import (
    FORMS,
    GOOD,
    GOOD_JSON,
    HEADER,
    ROWS,
    Stream,
    put,
    refuse,
    rejected,
    save_halves,
    save_parquet,
    write,
    write_base,
    write_csv,
    write_json,
    write_mapping,
)

from convlib.errors import EventDataError, ParamError
from convlib.events import read_events
from convlib.sources import find_source

KINDS = (
    "'.csv', '.db', '.ddb', '.duckdb', '.json', '.jsonl', '.ndjson', '.parquet', '.pq', '.tsv', CSV and JSON also "
    "packed as .gz or .zst"
)


@pytest.mark.parametrize("form", FORMS)
def test_read_events_gives_equal_rows_from_every_source(form: str, tmp_path: Path) -> None:
    log, given = read_events(FORMS[form](tmp_path)), read_events(ROWS)
    assert_frame_equal(log.to_pandas()[list(given.columns)], given.to_pandas())
    assert (log.rows_read, log.rows_used, log.rows_rejected) == (4, 4, 0)
    assert log.to_pandas()["colour"].tolist()[2:] == ['b"lue, or\nnot', "grün"]
    assert log.to_pandas()["value"].fillna(0).tolist() == [1.5, 20, 0, -3]


def test_read_events_reads_a_frame_of_polars() -> None:
    polars = pytest.importorskip("polars")
    given = polars.from_pandas(ROWS)
    assert_frame_equal(read_events(given).to_pandas(), read_events(ROWS).to_pandas())


@pytest.mark.parametrize("form", ["parquet", "csv", "csv.gz", "jsonl", "duckdb, its only table"])
def test_open_loads_no_rows(form: str, tmp_path: Path) -> None:
    opened = find_source(FORMS[form](tmp_path)).open().explain()
    assert "COLUMN_DATA_SCAN" not in opened  # the engine's word for a table that it holds in memory


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_read_events_gives_the_column_by_which_a_folder_is_parted(suffix: str, tmp_path: Path) -> None:
    for day, row in (("2026-01-01", ROWS[:1]), ("2026-07-01", ROWS[2:3])):
        part = write(tmp_path / "log" / f"date={day}" / f"x.{suffix}", "")
        if suffix == "parquet":
            row.to_parquet(part, index=False)
        else:
            row.to_csv(part, index=False) if suffix == "csv" else row.to_json(part, orient="records", lines=True)
    found = read_events(tmp_path / "log").to_pandas()
    assert found[["user_id", "date"]].to_numpy().tolist() == [["u1", "2026-01-01"], ["u2", "2026-07-01"]]


@pytest.mark.parametrize("packed", [False, True])
def test_read_events_reads_nested_fields_by_a_mapping(packed: bool, tmp_path: Path) -> None:
    line = '{"who": {"id": "u1"}, "event": "buy", "at": "2026-01-01T10:00:00Z", "p": {"price": 5, "tags": ["a"]}}\n'
    source = write(
        tmp_path / ("log.json.gz" if packed else "log.json"), gzip.compress(line.encode()) if packed else line
    )
    columns = "columns: {user_id: who.id, event_name: event, timestamp: at, value: p.price, tag: 'p.tags[0]'}\n"
    row = read_events(source, mapping=write_mapping(tmp_path, columns)).to_pandas().iloc[0]
    assert row[["user_id", "event_name", "value", "tag"]].tolist() == ["u1", "buy", 5, "a"]


def test_read_events_keeps_nested_fields_as_json_text(tmp_path: Path) -> None:
    source = write_json(tmp_path, GOOD_JSON.replace('"NO"', '{"a": [1, "b"]}'))
    assert read_events(source).to_pandas()["geo"].tolist() == ['{"a":[1,"b"]}']


def test_read_events_takes_files_with_different_columns_together(tmp_path: Path) -> None:
    write_csv(tmp_path / "logs", "u1,x,2026-01-01,2", header=f"{HEADER},value", name="a.csv")
    write_csv(tmp_path / "logs", "u2,x,2026-01-01,red", "u2,x,soon,red", header=f"{HEADER},colour", name="b.csv")
    log = read_events(tmp_path / "logs")
    table = log.to_pandas().set_index("user_id")
    assert table["value"].dropna().to_dict() == {"u1": 2}
    assert table["colour"].dropna().to_dict() == {"u2": "red"}
    assert rejected(log) == [["b.csv", 2, "timestamp is not a date and time"]]


def test_read_events_reads_a_column_that_only_a_late_row_has(tmp_path: Path) -> None:
    log = read_events(write_json(tmp_path, *[GOOD_JSON] * 30_000, GOOD_JSON.replace("geo", "late")))
    assert log.to_pandas()["late"].value_counts().to_dict() == {"NO": 1}


def test_find_source_lists_files_in_name_order(tmp_path: Path) -> None:
    folder = save_halves(tmp_path)
    assert find_source(folder).files == (str(folder / "a" / "part.csv"), str(folder / "b" / "part.csv"))
    assert find_source(folder / "a" / "part.csv").files == (str(folder / "a" / "part.csv"),)


@pytest.mark.parametrize("name", ["log[1]", "log*", "it's a log", "log?"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_find_source_takes_a_file_whose_name_holds_signs_of_a_glob(name: str, form: str, tmp_path: Path) -> None:
    for stem, user in (("log1", "wrong"), ("log22", "wrong"), (name, "right")):
        row = pd.DataFrame([[user, "x", "2026-01-01"]], columns=HEADER.split(","))
        path = tmp_path / f"{stem}.{form}"
        if form == "csv":
            row.to_csv(path, index=False)
        elif form == "jsonl":
            row.to_json(path, orient="records", lines=True)
        else:
            row.to_parquet(path)
    assert read_events(path).to_pandas()["user_id"].tolist() == ["right"]
    assert sorted(read_events(tmp_path).to_pandas()["user_id"]) == ["right", "wrong", "wrong"]


def test_find_source_refuses_files_of_unknown_or_mixed_kinds(tmp_path: Path) -> None:
    sheet = write(tmp_path / "log.xlsx", "x")
    write_csv(tmp_path)
    save_parquet(tmp_path)
    for source, endings in ((sheet, ["xlsx"]), (f"{tmp_path}/log.[cp]*", ["csv", "parquet"])):
        with pytest.raises(EventDataError) as caught:
            find_source(source)
        shown = ", ".join(f"'.{ending}'" for ending in endings)
        assert str(caught.value) == (
            f"`{source}` can't be read: its files end in {shown}; give files of one kind among {KINDS}."
        )


def test_find_source_says_that_a_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("log.csv", "logs/*.parquet"):
        assert str(refuse(text)) == (
            f"No events at `{text}`: there is no such file, folder or match. Check `events`; in a run file a relative "
            "path starts at the run file's folder, in a notebook at the notebook's."
        )


def test_find_source_refuses_what_is_no_table() -> None:
    assert str(refuse([1])) == (  # type: ignore[arg-type]
        "`events` is of type list; give a file, a folder, a DataFrame or a table that exports Arrow."
    )


def test_read_events_refuses_an_unknown_dataset() -> None:
    with pytest.raises(ParamError) as caught:
        read_events("dataset:shopp")
    assert str(caught.value) == "`name` is 'shopp'; it must be one of 'oulad', 'shop'. Did you mean 'shop'?"


@pytest.mark.parametrize("query", ["", "#c"])
def test_read_events_asks_which_table_of_a_duckdb_file(query: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "shop.duckdb", a=ROWS, b=ROWS)
    assert str(refuse(f"{base}{query}")) == (
        f"`{base}{query}`: the file has the tables 'a', 'b'; name one: `{base}#TABLE`, or a SELECT."
    )


def test_read_events_says_what_a_query_got_wrong(tmp_path: Path) -> None:
    source = f"{write_base(tmp_path / 'shop.duckdb', a=ROWS)}#SELECT colr FROM a"
    message = str(refuse(source))
    assert message.startswith(f'`{source}` can\'t be read: Binder Error: Referenced column "colr" not found')
    assert "LINE 1" not in message


def test_read_events_refuses_a_file_that_is_no_duckdb_file(tmp_path: Path) -> None:
    source = write(tmp_path / "shop.duckdb", "no")
    assert str(refuse(source)).startswith(f"`{source}` can't be read: IO Error: ")


def test_read_events_refuses_an_address_that_leads_nowhere(tmp_path: Path) -> None:
    nowhere = f"memory://{tmp_path.name}/log.csv"
    kinds = KINDS.partition(", CSV and")[0]
    assert str(refuse(nowhere)) == (
        f"No events at `{nowhere}`: no object of a kind among {kinds} is there. Check the address."
    )
    assert str(refuse("nosuch://bucket/log.csv")) == (
        "`nosuch://bucket/log.csv` can't be reached: Protocol not known: nosuch. Check the address and its credentials."
    )


def test_fetch_says_that_an_object_has_gone(tmp_path: Path) -> None:
    address = put(f"memory://{tmp_path.name}/log.csv", f"{HEADER}\n{GOOD}\n".encode())
    source = find_source(address)
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}/log.csv")
    with pytest.raises(EventDataError) as caught:
        source.fetch(tmp_path)
    assert str(caught.value).startswith(f"`{address}` can't be fetched: ")


def test_read_events_reads_a_changed_object_again(tmp_path: Path) -> None:
    address = f"memory://{tmp_path.name}/log.csv"
    users = []
    for user in ("ann", "ben"):
        put(address, f"{HEADER}\n{user},x,2026-01-01\n".encode())
        users += read_events(address).to_pandas()["user_id"].tolist()
    assert users == ["ann", "ben"]


def test_read_events_names_the_object_of_a_rejected_row(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(f"memory://{tmp_path.name}/day={name}/log.csv", f"{HEADER}\n{GOOD}\n,x,2026-01-01\n".encode())
    log = read_events(f"memory://{tmp_path.name}")
    assert rejected(log) == [[f"day={name}/log.csv", 2, "user_id is missing"] for name in ("a", "b")]
    assert sorted(log.to_pandas()["day"]) == ["a", "b"]


def test_read_events_refuses_a_column_twice_in_a_table() -> None:
    twice = ROWS.rename(columns={"colour": "value", "device_type": "Value"})
    message = "has the column `value` 3 times; rename or remove all but one."
    assert str(refuse(twice)) == f"`DataFrame` {message}"
    table = pa.Table.from_arrays([pa.array(["x"])] * 6, names=list(twice.columns))
    assert str(refuse(table)) == f"`Table` {message}"


@pytest.mark.parametrize(
    ("name", "text"), [("rows.csv", f"{HEADER}\n"), ("line.csv", HEADER), ("bytes.csv", ""), ("bytes.jsonl", "")]
)
def test_read_events_says_that_a_log_is_empty(name: str, text: str, tmp_path: Path) -> None:
    source = write(tmp_path / name, text)
    assert str(refuse(source)) == f"`{source}` is empty: it has no rows. Check the export."


def test_read_events_says_that_a_table_is_empty() -> None:
    for source, name in ((ROWS.head(0), "DataFrame"), (Stream(ROWS.head(0)), "Stream")):
        assert str(refuse(source)) == f"`{name}` is empty: it has no rows. Check the export."


def test_read_events_refuses_a_corrupt_parquet_file(tmp_path: Path) -> None:
    source = write(tmp_path / "log.parquet", "PAR1 but nothing more of it PAR1")
    error = refuse(source)
    assert len(error.problems) == 1
    assert str(error).startswith(f"`{source}` can't be read: ")
    assert "LINE 1" not in str(error)  # the engine's own query is nothing to a reader


def test_digest_tells_contents_apart_and_not_names_or_forms(tmp_path: Path) -> None:
    source = find_source(write_csv(tmp_path, GOOD))
    same = find_source(write_csv(tmp_path, GOOD, name="other.csv"))
    other = find_source(write_csv(tmp_path, "u2,x,2026-01-01", name="third.csv"))
    assert source.digest() == same.digest() != other.digest()
    assert dataclasses.replace(source, encoding="latin-1").digest() == source.digest()


@pytest.mark.parametrize("table", [pd.DataFrame, Stream])
def test_digest_of_a_table_tells_its_values_names_and_types(table: type) -> None:
    number = pd.DataFrame({"a": [1, 2]})
    others = [number, number.rename(columns={"a": "b"}), number.astype(float), number[::-1]]
    assert len({find_source(table(each)).digest() for each in others}) == 4
    assert find_source(table(number)).digest() == find_source(table(number.copy())).digest()


def test_digest_of_a_frame_takes_columns_of_anything() -> None:
    mixed = pd.DataFrame({"a": [1, "x", None], "b": [[1], {"k": 2}, b"\xff"]})
    assert find_source(mixed).digest() == find_source(mixed.copy()).digest()
    assert find_source(mixed).digest() != find_source(mixed.assign(b=0)).digest()


def test_read_events_reads_a_file_anew_that_is_rewritten_at_once(tmp_path: Path) -> None:
    for count in range(1, 20):
        times = pd.Timestamp("2026-01-01") + pd.to_timedelta(range(count), unit="s")
        rows = pd.DataFrame({"user_id": [f"u{n}" for n in range(count)], "event_name": "x", "timestamp": times})
        rows.to_parquet(tmp_path / "log.parquet", index=False)
        log = read_events(tmp_path / "log.parquet")
        assert (log.rows_used, len(log.to_pandas())) == (count, count)


def test_read_events_refuses_a_parquet_file_with_a_column_in_two_spellings(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"user_id": ["u"], "USER_ID": ["v"], "event_name": "x", "timestamp": pd.Timestamp("2026-01-01")}
    )
    rows.to_parquet(tmp_path / "log.parquet", index=False)
    assert str(refuse(tmp_path / "log.parquet")) == (
        "`log.parquet` has the column `user_id` 2 times; rename or remove all but one."
    )
