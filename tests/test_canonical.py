from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from source_files import (
    HEADER,
    ROWS,
    TYPED,
    read_lines,
    refuse,
    rejected,
    write,
    write_csv,
    write_json,
    write_plan,
)

from convlib.errors import ParamError
from convlib.events import TAKEN, EventLog, read_events

#: Every column that a log of `ROWS` may be asked for.
KNOWN = (
    "user_id, event_name, timestamp, device_type, value, colour, session_id, land, page_path, referrer, source, "
    "medium, campaign, geo, product_id, currency"
)


def moments(log: EventLog) -> list[str]:
    return list(log.to_pandas()["timestamp"].dt.strftime("%m-%d %H:%M"))


def test_type_rows_takes_a_dataframe_of_any_types() -> None:
    odd = TYPED.assign(
        timestamp=TYPED["timestamp"].astype("datetime64[ns]"),
        device_type=TYPED["device_type"].astype("category"),
        user_id=TYPED["user_id"].astype(object),
    ).set_index(pd.Index([7, 7, 7, 7]))
    assert_frame_equal(read_events(odd).to_pandas(), read_events(ROWS).to_pandas())


def test_type_rows_trims_text_and_takes_empty_as_missing(tmp_path: Path) -> None:
    source = write_csv(tmp_path, " u1 , view ,2026-01-01,,  ,a", header=f"{HEADER},device_type,value,geo")
    row = read_events(source).to_pandas().iloc[0]
    assert row[["user_id", "event_name", "geo"]].tolist() == ["u1", "view", "a"]
    assert row[["device_type", "value"]].isna().all()


def test_type_rows_reads_numbers_as_ids() -> None:
    rows = pd.DataFrame({"user_id": [10, 9], "event_name": ["x", "x"], "timestamp": ["2026-01-01", "2026-01-02"]})
    assert read_events(rows).to_pandas()["user_id"].tolist() == ["10", "9"]


NAIVE = ["u1,x,2026-01-15 12:00", "u2,x,2026-07-15 12:00", "u3,x,2026-07-15"]


def test_type_rows_takes_naive_times_in_the_given_zone(tmp_path: Path) -> None:
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
def test_type_rows_takes_naive_times_of_every_source_in_the_given_zone(kind: str, tmp_path: Path) -> None:
    log = read_events(save_naive(tmp_path, kind), timezone="Europe/Berlin")
    assert moments(log) == ["01-15 11:00", "07-15 10:00", "07-14 22:00"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(("offset", "expected"), [("Z", "07-15 12:00"), ("+02:00", "07-15 10:00")])
def test_type_rows_keeps_offsets_whatever_the_given_zone(
    suffix: str, offset: str, expected: str, tmp_path: Path
) -> None:
    time = f"2026-07-15T12:00:00{offset}"
    line = f'{{"user_id": "u1", "event_name": "x", "timestamp": "{time}"}}'
    source = write_csv(tmp_path, f"u1,x,{time}") if suffix == "csv" else write_json(tmp_path, line)
    assert moments(read_events(source, timezone="America/New_York")) == [expected]


def test_type_rows_keeps_the_zone_of_a_dataframe() -> None:
    rows = pd.DataFrame(
        {"user_id": "u", "event_name": "x", "timestamp": [pd.Timestamp("2026-07-15 12:00", tz="Europe/Berlin")]}
    )
    assert moments(read_events(rows, timezone="America/New_York")) == ["07-15 10:00"]


def test_read_events_refuses_an_unknown_zone(tmp_path: Path) -> None:
    with pytest.raises(ParamError) as caught:
        read_events(write_csv(tmp_path, *NAIVE), timezone="Mars")
    assert str(caught.value) == (
        "`timezone` is 'Mars'; it must be a name of the IANA list, such as 'Europe/Berlin' or 'UTC'."
    )


def test_type_rows_rejects_what_is_no_iso_time_among_several_formats(tmp_path: Path) -> None:
    times = [
        "2026-01-02T10:00:00Z",
        "2026-01-02 11:00",
        "2026-01-02T14:00:00.123456+02:00",
        "01/02/2026 10:00",  # whose second of January, or first of February?
        '"Jan 2, 2026"',
        "1767348000",
        "20260102",
    ]
    log = read_events(write_csv(tmp_path, *(f"u1,x,{time}" for time in times)))
    assert moments(log) == ["01-02 10:00", "01-02 11:00", "01-02 12:00"]
    assert rejected(log) == [["log.csv", row, "timestamp is not a date and time"] for row in (4, 5, 6, 7)]
    assert log.rejects["timestamp"].tolist() == ["01/02/2026 10:00", "Jan 2, 2026", "1767348000", "20260102"]


@pytest.mark.parametrize("time", ["0001-01-01", "1899-12-31 23:59", "2200-01-02", "infinity"])
def test_type_rows_rejects_times_that_stand_for_unknown(time: str, tmp_path: Path) -> None:
    log = read_events(write_csv(tmp_path, "u1,x,2026-01-01", f"u1,x,{time}"))
    assert rejected(log) == [["log.csv", 2, "timestamp is out of range"]]


FAULTY = [
    "u1,view,2026-01-01,1",
    ",view,2026-01-01,1",
    "u1,  ,2026-01-01,1",
    "u1,view,,1",
    "u1,view,soon,1",
    "u1,view,2026-02-30,1",
    "u1,view,2026-01-01,much",
    ",,soon,much",
    ",,,",
    "u1,view,2026-01-01,",
    "u1,view,2026-01-01,1e3",
]


def test_type_rows_rejects_with_source_row_and_reason(tmp_path: Path) -> None:
    log = read_events(write_csv(tmp_path, *FAULTY, header=f"{HEADER},value"))
    assert rejected(log) == [
        ["log.csv", 2, "user_id is missing"],
        ["log.csv", 3, "event_name is missing"],
        ["log.csv", 4, "timestamp is missing"],
        ["log.csv", 5, "timestamp is not a date and time"],
        ["log.csv", 6, "timestamp is not a date and time"],
        ["log.csv", 7, "value is not a number"],
        ["log.csv", 8, "user_id is missing"],
        ["log.csv", 9, "the row is empty or garbled"],
    ]
    assert log.row_counts == {"read": 11, "used": 3, "rejected": 8, "left_out": 0}
    assert log.rejected_because == {
        "user_id is missing": 2,
        "timestamp is not a date and time": 2,
        "event_name is missing": 1,
        "timestamp is missing": 1,
        "value is not a number": 1,
        "the row is empty or garbled": 1,
    }
    assert sorted(log.to_pandas()["value"].fillna(0)) == [0, 1, 1000]


def test_type_rows_keeps_rejected_rows_as_they_came(tmp_path: Path) -> None:
    log = read_events(write_csv(tmp_path, *FAULTY, header=f"{HEADER},value"))
    assert log.rejects.columns.tolist() == ["source", "row", "reason", "user_id", "event_name", "timestamp", "value"]
    assert list(log.rejects.loc[5])[3:] == ["u1", "view", "2026-01-01", "much"]


def test_type_rows_keeps_apart_what_the_log_calls_reason_and_source() -> None:
    log = read_lines(f"{HEADER},reason,source,row,text", "u1,x,2026-01-01,a,b,c,d", "u1,x,soon,a,b,c,d")
    own = log.rejects[["log_reason", "log_source", "log_row", "log_text"]]
    assert own.to_numpy().tolist() == [["a", "b", "c", "d"]]
    assert rejected(log) == [["DataFrame", 2, "timestamp is not a date and time"]]


@pytest.mark.parametrize("value", ["inf", "-Infinity", "1,5", "12 USD"])
def test_type_rows_rejects_values_that_cannot_be_added_up(value: str, tmp_path: Path) -> None:
    source = write_csv(tmp_path, f'u1,view,2026-01-01,"{value}"', "u2,view,2026-01-01,3", header=f"{HEADER},value")
    assert rejected(read_events(source)) == [["log.csv", 1, "value is not a number"]]


@pytest.mark.parametrize("missing", ["nan", ""])
def test_type_rows_takes_not_a_number_as_a_missing_value(missing: str, tmp_path: Path) -> None:
    source = write_csv(tmp_path, f"u1,view,2026-01-01,{missing}", "u2,view,2026-01-01,3", header=f"{HEADER},value")
    log = read_events(source)
    assert log.rows_rejected == 0
    assert log.stream("view").aggregate("sum(value), count(value)").fetchall() == [(3, 1)]


def test_type_rows_takes_a_missing_value_of_a_dataframe_as_none() -> None:
    log = read_events(ROWS)
    assert log.rows_rejected == 0
    assert log.stream("view").aggregate("sum(value), count(value)").fetchall() == [(1.5, 1)]


def test_type_rows_numbers_rejects_by_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "logs", "u1,x,2026-01-01", "u1,x,soon", name="a.csv")
    write_csv(tmp_path / "logs", ",x,2026-01-01", name="b.csv")
    assert rejected(read_events(tmp_path / "logs")) == [
        ["a.csv", 2, "timestamp is not a date and time"],
        ["b.csv", 1, "user_id is missing"],
    ]


def test_type_rows_rejects_the_rows_of_a_file_that_lacks_a_needed_column(tmp_path: Path) -> None:
    write_csv(tmp_path / "logs", "u1,x,2026-01-01", name="a.csv")
    write_csv(tmp_path / "logs", "x,2026-01-01", header="event_name,timestamp", name="b.csv")
    assert rejected(read_events(tmp_path / "logs")) == [["b.csv", 1, "user_id is missing"]]


@pytest.mark.parametrize("form", ["DataFrame", "jsonl", "parquet"])
def test_type_rows_rejects_rows_of_every_source(form: str, tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"user_id": ["u1", None], "event_name": ["x", "x"], "timestamp": ["2026-01-01", "2026-01-01"], "value": [1, 2]}
    )
    path = tmp_path / f"log.{form}"
    if form == "jsonl":
        rows.to_json(path, orient="records", lines=True)
    elif form == "parquet":
        rows.to_parquet(path)
    source = rows if form == "DataFrame" else path
    assert rejected(read_events(source)) == [[path.name.replace("log.DataFrame", form), 2, "user_id is missing"]]


def test_type_rows_finds_the_bad_timestamp_in_row_one_million(tmp_path: Path) -> None:
    lines = [f"{i % 1000},x,2026-01-01 10:00:00" for i in range(1_000_002)]
    lines[999_999] = "999,x,not a time"
    log = read_events(write_csv(tmp_path, *lines))
    assert rejected(log) == [["log.csv", 1_000_000, "timestamp is not a date and time"]]
    assert (log.rows_read, log.rows_used) == (1_000_002, 1_000_001)
    assert list(log.rejects.loc[0, ["user_id", "timestamp"]]) == ["999", "not a time"]


def test_type_rows_takes_mixed_types_of_a_dataframe_as_text() -> None:
    rows = pd.DataFrame(
        {
            "user_id": [1, "a", 2.5] + ["b"] * 3_000,
            "event_name": "x",
            "timestamp": [pd.Timestamp("2026-01-01"), "2026-01-02", "soon"] + ["2026-01-03"] * 3_000,
            "value": [1, "2", "3"] + [4] * 2_999 + ["many"],
            "mixed": [1, {"k": 2}, "text"] + [None] * 3_000,
        }
    )
    log = read_events(rows)
    assert rejected(log) == [
        ["DataFrame", 3, "timestamp is not a date and time"],
        ["DataFrame", 3_003, "value is not a number"],
    ]
    found = log.to_pandas()
    assert found["user_id"].drop_duplicates().tolist() == ["1", "a", "b"]
    assert found["value"].head(2).tolist() == [1, 2]
    assert found["mixed"].notna().sum() == 2


def test_type_rows_takes_mixed_types_of_json_as_text(tmp_path: Path) -> None:
    line = '{{"user_id": {}, "event_name": "x", "timestamp": "2026-01-01", "value": {}}}'
    values = [("1", "3"), ('"b"', '"4"'), ('"c"', '"much"'), ('"d"', "null"), ('"e"', "[5]")]
    log = read_events(write_json(tmp_path, *(line.format(*each) for each in values)))
    assert rejected(log) == [["log.jsonl", row, "value is not a number"] for row in (3, 5)]
    assert log.to_pandas()["user_id"].tolist() == ["1", "b", "d"]
    assert log.to_pandas()["value"].sum() == 7
    assert log.rejects["value"].tolist() == ["much", "[5]"]


def test_check_columns_names_every_missing_column(tmp_path: Path) -> None:
    source = write_csv(tmp_path, "u1,x", header="user_id,event")
    assert refuse(source).problems == (
        f"`{source}` has no column `event_name`, `timestamp`, which every log needs. Did you mean 'event'? Its columns "
        "are user_id, event. Rename what holds them, or map them.",
        f"`{source}`: the column name `event` is taken by convlib; rename it.",
    )


def test_check_columns_refuses_bare_numbers_as_times() -> None:
    rows = pd.DataFrame({"user_id": ["u"], "event_name": ["x"], "timestamp": [1_767_225_600]})
    assert str(refuse(rows)) == (
        "`DataFrame`: `timestamp` holds BIGINT; give dates with times (2026-11-21 09:30:00), not bare numbers, or map "
        "it with `format: epoch_s` (or epoch_ms, epoch_us)."
    )


def test_check_columns_names_unknown_columns_of_the_plan_with_their_lines(tmp_path: Path) -> None:
    plan = write_plan(
        tmp_path,
        "macros:\n"
        "  - id: purchase\n"
        "    match: {event_name: buy, colour: red}\n"
        "    value: {column: amount}\n"
        "    losses:\n"
        "      - id: left\n"
        "        match: {reason: {is_null: false}}\n"
        "leave_out:\n"
        "  - id: bots\n"
        "    match: {user_agent: bot}\n",
    )
    source = write_csv(tmp_path, "u1,x,2026-01-01")
    columns = f"which `{source}` does not have. Its columns are user_id, event_name, timestamp."
    assert refuse(source, plan=plan).problems == (
        f"{plan}:3: `purchase` reads the column `amount`, {columns}",
        f"{plan}:3: `purchase` reads the column `colour`, {columns}",
        f"{plan}:7: `left` reads the column `reason`, {columns}",
        f"{plan}:10: `bots` reads the column `user_agent`, {columns}",
    )


def test_check_columns_refuses_goals_for_values_of_a_column_that_is_missing(tmp_path: Path) -> None:
    plan = write_plan(
        tmp_path,
        "macros:\n"
        "  - id: purchase\n"
        "    match: {event_name: buy}\n"
        "    target: {value: 0.2, per: {device_type: {mobile: 0.1}, devicetype: {mobile: 0.1}}}\n"
        "    metrics:\n"
        "      - name: Often\n"
        "        metric: {type: per_unit, over: {tone: red}}\n"
        "        benchmark: {by: {Colour: {red: {low: 1}}}}\n",
    )
    assert refuse(ROWS, plan=plan).problems == (
        f"{plan}:3: `purchase` reads the column `tone`, which `DataFrame` does not have. Its columns are "
        "user_id, event_name, timestamp, device_type, value, colour.",
        f"{plan}:4: macros[purchase].target.per.devicetype is for the values of a column that the log does not have. "
        f"Did you mean 'device_type'? Its columns are {KNOWN}.",
        f"{plan}:8: macros[purchase].metrics[0].benchmark.by.Colour is for the values of a column that the log does "
        f"not have. Did you mean 'colour'? Its columns are {KNOWN}.",
    )


def test_check_columns_takes_a_canonical_column_that_is_missing_as_empty(tmp_path: Path) -> None:
    plan = write_plan(tmp_path, "macros:\n  - {id: purchase, match: {event_name: buy, geo: NO}}\n")
    assert read_events(ROWS, plan=plan).stream("purchase").fetchall() == []


@pytest.mark.parametrize("name", ["event", "Event", "USER", "Session", "conversion"])
def test_check_columns_refuses_names_of_convlib_in_any_case(name: str) -> None:
    rows = pd.DataFrame({"user_id": ["u1"], "event_name": ["x"], "timestamp": ["2026-01-01"], name: ["a"]})
    assert str(refuse(rows)) == f"`DataFrame`: the column name `{name}` is taken by convlib; rename it."


def test_canonical_columns_are_known_in_any_case(tmp_path: Path) -> None:
    source = write(tmp_path / "log.csv", "User_ID,EVENT_NAME,Timestamp,Source\nu1,x,2026-01-01,news\nu2,x,soon,news\n")
    log = read_events(source)
    assert log.columns[0:3] == ("event_name", "timestamp", "user_id")
    assert log.values("source") == ["news"]
    assert len(log.columns) == 15


HOSTILE_VALUES = [
    'buy "now"',
    '"; DROP TABLE events; --',
    "' OR 1=1 --",
    "two\nlines",
    "<script>alert(1)</script>",
    "%_.*[",
    "$1 {0} \\",
    "ünïcödé 🛒",
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
INNER_COLUMNS = ["names", "period", "unit", "time", "v", "row", "reason", "reject_row", "clean", "starts", "again"]


@pytest.mark.parametrize("form", ["DataFrame", "csv", "jsonl"])
@pytest.mark.parametrize("value", HOSTILE_VALUES)
def test_hostile_values_are_values(value: str, form: str, tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"user_id": [value, "other"], "event_name": [value, "x"], "timestamp": "2026-01-01", "custom": [value, "x"]}
    )
    path = tmp_path / f"log.{form}"
    if form == "csv":
        rows.to_csv(path, index=False)
    elif form == "jsonl":
        rows.to_json(path, orient="records", lines=True)
    log = read_events(rows if form == "DataFrame" else path)
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
    if column not in TAKEN:
        assert log.entries(columns=[column])[column].tolist() == ["yes", "no"]


@pytest.mark.parametrize("nobody", ["null", "undefined", "None", "(not set)"])
def test_type_rows_takes_ids_that_stand_for_nobody_as_missing(nobody: str) -> None:
    rows = pd.DataFrame({"user_id": ["u1", nobody], "event_name": "x", "timestamp": "2026-01-01"})
    assert rejected(read_events(rows)) == [["DataFrame", 2, "user_id is missing"]]
    known = read_events(rows.assign(anonymous_id=["a1", "a2"]))
    assert known.to_pandas()["user_id"].tolist() == ["a2", "u1"]


def test_type_rows_takes_an_id_for_nobody_in_a_file_read_in_place_as_missing(tmp_path: Path) -> None:
    times = pd.to_datetime(["2026-01-01", "2026-01-02", "1970-01-01"])
    rows = pd.DataFrame({"user_id": ["u1", "null", "u2"], "event_name": "x", "timestamp": times})
    rows.to_parquet(tmp_path / "log.parquet", index=False)
    log = read_events(tmp_path / "log.parquet")
    assert not (log.prepared.folder / "rows.parquet").exists()
    assert rejected(log) == [
        ["log.parquet", 2, "user_id is missing"],
        ["log.parquet", 3, "timestamp is out of range"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01T10:00Z",
        "2026-01-01 10:00+00",
        "2026-01-01 12:00:00 +0200",
        "2026-01-01T10:00:00,000Z",
        "2026-01-01 10:00",
    ],
)
def test_type_rows_reads_times_as_programs_write_them(text: str) -> None:
    rows = pd.DataFrame({"user_id": ["u"], "event_name": "x", "timestamp": [text]})
    assert read_events(rows).to_pandas()["timestamp"].tolist() == [pd.Timestamp("2026-01-01 10:00")]
