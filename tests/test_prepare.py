import os
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from source_files import (
    HEADER,
    PLAN,
    ROWS,
    TYPED,
    as_csv,
    put,
    read_lines,
    refuse,
    rejected,
    save_parquet,
    write,
    write_csv,
    write_json,
    write_mapping,
    write_plan,
)

from convlib import prepare
from convlib.engine import connect
from convlib.events import EventLog, read_events
from convlib.plan import read_plan

LEAVE_OUT = f"""\
{PLAN}leave_out:
  - {{id: bots, match: {{device_type: [bot, crawler]}}}}
  - {{id: staff, match: {{event_name: staff_login}}, scope: user}}
"""
COLUMNS = f"{HEADER},device_type"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, to look into."""
    monkeypatch.setenv("CONVLIB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def list_stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_prepare_reads_a_log_once(cache: Path, tmp_path: Path) -> None:
    source, plan = write_csv(tmp_path, "u1,buy,2026-01-01", "u1,x,soon"), write_plan(tmp_path)
    first = read_events(source, plan=plan)
    first.entries()
    stamps = list_stamps(cache)
    second = read_events(source, plan=plan)
    second.entries()
    assert second == first
    assert second.prepared.folder.parent == cache
    assert list_stamps(cache) == stamps
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


def test_prepare_reads_again_in_another_way(cache: Path, tmp_path: Path) -> None:
    source = write_csv(tmp_path, "u1,buy,2026-01-01", "bot,x,2026-01-01")
    leave_out = "leave_out: [{id: bots, match: {user_id: bot}}]\n"
    logs = [
        read_events(source),
        read_events(source, timezone="Europe/Berlin"),
        read_events(source, plan=write_plan(tmp_path, PLAN + leave_out)),
        read_events(source, mapping=write_mapping(tmp_path, "session_gap: 5min\n")),
        read_events(source, identity=pd.DataFrame({"anonymous_id": ["u1"], "user_id": ["ann"]})),
        read_events(ROWS),
        read_events(ROWS.rename(columns={"colour": "color"})),
        read_events(ROWS.assign(value=5.0)),
    ]
    assert len({log.prepared.folder for log in logs}) == len(logs) == len(list(cache.iterdir()))


def test_prepare_reads_once_for_several_plans(cache: Path, tmp_path: Path) -> None:
    source = write_csv(tmp_path, "u1,buy,2026-01-01")
    plans = [PLAN, PLAN.replace("buy", "order"), f"# what pays\n{PLAN}"]
    logs = [read_events(source, plan=write_plan(tmp_path / str(i), text)) for i, text in enumerate(plans)]
    assert [len(log.rows("conversions").fetchall()) for log in logs] == [1, 0, 1]
    (folder,) = cache.iterdir()
    assert len([path for path in folder.iterdir() if path.name.startswith("plan-")]) == 2


def test_prepare_counts_what_became_of_rows(tmp_path: Path) -> None:
    log = read_events(write_csv(tmp_path, "u1,buy,2026-01-01", "u1,x,soon", ",x,2026-01-01", "u2,x,2026-01-02"))
    assert log.row_counts == {"read": 4, "used": 2, "rejected": 2, "left_out": 0}
    assert log.rejected_because == {"timestamp is not a date and time": 1, "user_id is missing": 1}
    assert (log.first, log.last) == (pd.Timestamp("2026-01-01"), pd.Timestamp("2026-01-02"))


def test_prepare_says_why_no_row_can_be_used(tmp_path: Path) -> None:
    source = write_csv(tmp_path, ",x,2026-01-01", "u1,x,soon", "u1,x,later")
    assert str(refuse(source)) == (
        f"`{source}` has no usable row: 3 read (timestamp is not a date and time: 2 rows; "
        "user_id is missing: 1 rows). For example source = log.csv, row = 1, event_name = x, timestamp = 2026-01-01. "
        "Say under `columns:` of the mapping how times are written: such as `timestamp: {column: timestamp, format: "
        '"%d/%m/%Y %H:%M"}`. Its `timezone` is that of times that carry none.'
    )


@pytest.mark.parametrize(
    ("times", "formats"),
    [
        (["28/03/2012 00:00", "02/04/2012 09:30"], ["%d/%m/%Y %H:%M"]),
        (["03/28/2012", "04/02/2012"], ["%m/%d/%Y"]),
        (["28.03.2012 00:00:10"], ["%d.%m.%Y %H:%M:%S"]),
        (["03/04/2012"], ["%d/%m/%Y", "%m/%d/%Y"]),
        (["1333354014163", "1334710283370"], ["epoch_ms"]),
    ],
)
def test_prepare_proposes_how_times_are_written(tmp_path: Path, times: list[str], formats: list[str]) -> None:
    source = write_csv(tmp_path, *(f"u1,x,{time}" for time in times), header="user_id,event_name,at")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("columns: {timestamp: at}\n")
    said = str(refuse(source, mapping=mapping))
    assert re.findall(r"`timestamp: {column: at, format: \"([^\"]*)\"}`", said) == formats
    mapping.write_text(f'columns: {{timestamp: {{column: at, format: "{formats[0]}"}}}}\n')
    assert read_events(source, mapping=mapping).row_counts["used"] == len(times)


def test_prepare_says_that_rules_leave_nothing(tmp_path: Path) -> None:
    rows = pd.DataFrame([("u1", "x", "2026-01-01", "bot"), ("u1", "x", "soon", "")], columns=COLUMNS.split(","))
    assert str(refuse(rows, plan=write_plan(tmp_path, LEAVE_OUT))) == (
        "`DataFrame` has no usable row: 2 read (timestamp is not a date and time: 1 rows; left out by `bots`: 1 rows). "
        "For example source = DataFrame, row = 2, user_id = u1, event_name = x, timestamp = soon. Say under "
        "`columns:` of the mapping how times are written: such as `timestamp: {column: timestamp, format: "
        '"%d/%m/%Y %H:%M"}`. Its `timezone` is that of times that carry none.'
    )


#: Which rows a rule leaves out: by row, by user, by the first of both; never a rejected row.
TRAFFIC = [
    "a,buy,2026-01-01,mobile",
    "a,view,2026-01-02,bot",
    "s,staff_login,2026-01-01,crawler",
    "s,buy,2026-01-03,mobile",
    "s,buy,soon,mobile",
    ",staff_login,2026-01-01,mobile",
    "b,staff_login,,mobile",
    "b,buy,2026-01-04,",
]


@pytest.mark.parametrize("form", ["DataFrame", "csv", "jsonl", "parquet"])
def test_prepare_leaves_out_by_rule(form: str, tmp_path: Path) -> None:
    rows = pd.DataFrame([line.split(",") for line in TRAFFIC], columns=COLUMNS.split(",")).replace("", None)
    plan = read_plan(write_plan(tmp_path, LEAVE_OUT))
    path = tmp_path / f"log.{form}"
    if form == "csv":
        write_csv(tmp_path, *TRAFFIC, header=COLUMNS)
    elif form == "jsonl":
        rows.to_json(path, orient="records", lines=True)
    elif form == "parquet":
        save_parquet(tmp_path, rows)
    log = read_events(rows if form == "DataFrame" else path, plan=plan)
    assert log.to_pandas()[["user_id", "event_name"]].to_numpy().tolist() == [["a", "buy"], ["b", "buy"]]
    assert log.row_counts == {"read": 8, "used": 2, "rejected": 3, "left_out": 3}
    assert log.left_out_because == {"bots": 2, "staff": 1}
    assert [row for _, row, _ in rejected(log)] == [5, 6, 7]


def test_prepare_leaves_out_by_rules_on_numbers_and_patterns(tmp_path: Path) -> None:
    plan = write_plan(
        tmp_path,
        f"{PLAN}leave_out:\n"
        "  - {id: load, match: {any: [{value: {gte: 1000}}, {referrer: {is_null: true}}]}}\n"
        "  - {id: own, match: {user_id: {regex: '@shop[.]org$'}}, scope: user}\n",
    )
    lines = ["a,x,2026-01-01,999,r", "a,x,2026-01-02,1000,r", "a,x,2026-01-03,,", "me@shop.org,x,2026-01-04,,r"]
    log = read_lines(f"{HEADER},value,referrer", *lines, plan=plan)
    assert log.left_out_because == {"load": 2, "own": 1}
    assert log.to_pandas()["value"].tolist() == [999]


def test_prepare_leaves_out_all_rows_of_a_user_that_an_identity_joins(tmp_path: Path) -> None:
    identity = pd.DataFrame({"anonymous_id": ["pc"], "user_id": ["boss"]})
    lines = ["pc,x,2026-01-01,web", "boss,staff_login,2026-01-02,web", "ann,x,2026-01-03,web"]
    log = read_lines(COLUMNS, *lines, plan=write_plan(tmp_path, LEAVE_OUT), identity=identity)
    assert log.to_pandas()["user_id"].tolist() == ["ann"]
    assert log.left_out_because == {"staff": 2}


FATES = {
    "used": "u{i},view,2026-01-01,web",
    "rejected: no user": ",view,2026-01-01,web",
    "rejected: no time": "u{i},view,soon,web",
    "rejected: a bot without a time": "u{i},view,,bot",
    "left out: a bot": "u{i},view,2026-01-01,bot",
    "left out: staff": "boss,staff_login,2026-01-01,web",
    "left out: more of the staff": "boss,view,2026-01-01,web",
}


def save_lines(folder: Path, suffix: str, lines: Sequence[str]) -> Path:
    if suffix == "csv":
        return write_csv(folder, *lines, header=COLUMNS)
    rows = pd.DataFrame([line.split(",") for line in lines], columns=COLUMNS.split(",")).replace("", None)
    if suffix == "parquet":
        return save_parquet(folder, rows)
    return write_json(folder, *rows.to_json(orient="records", lines=True).split())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    fates=st.lists(st.sampled_from(list(FATES)), max_size=12),
    broken=st.integers(0, 3),
    suffix=st.sampled_from(["csv", "jsonl", "parquet"]),
)
def test_prepare_balances_the_rows_of_any_log(fates: list[str], broken: int, suffix: str) -> None:
    fates = ["used", "left out: staff", *fates]
    lines = [FATES[fate].format(i=i) for i, fate in enumerate(fates)]
    broken_lines = {"csv": ["u1,view"] * broken, "jsonl": ["{oops"] * broken, "parquet": []}[suffix]
    with tempfile.TemporaryDirectory() as folder:
        source = save_lines(Path(folder), suffix, lines)
        if broken_lines:
            write(source, source.read_text() + "\n".join(broken_lines) + "\n")
        log = read_events(source, plan=write_plan(Path(folder), LEAVE_OUT))
    counts = Counter(fate.partition(":")[0] for fate in fates)
    used, refused, left_out = (counts[fate] for fate in ("used", "rejected", "left out"))
    assert log.row_counts == {
        "read": len(fates) + len(broken_lines),
        "used": used,
        "rejected": refused + len(broken_lines),
        "left_out": left_out,
    }
    assert len(log.rejects) == sum(log.rejected_because.values()) == log.rows_rejected
    assert sum(log.left_out_because.values()) == left_out
    assert len(log.rows().fetchall()) == used


def test_prepare_refuses_counts_that_do_not_add_up(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_csv(tmp_path, "u1,x,2026-01-01", "u2,x,soon", "u3,x,2026-01-01")
    # Stands for a fault of our own, or a source that changes while it is read.
    monkeypatch.setattr(prepare._Reading, "_count_read", lambda *_args, **_named: 4)
    assert str(refuse(source)) == (
        f"`{source}`: the rows do not add up: 4 read, but 2 used + 1 rejected + 0 left out. The source may have "
        "changed while it was read; read it again."
    )
    assert list(cache.iterdir()) == []


def is_in_place(log: EventLog) -> bool:
    return not (log.prepared.folder / "rows.parquet").exists()


FAULTY = TYPED.assign(value=pd.Series(["1", "much", None, "3"]), user_id=pd.Series(["a", "b", "c", None]))


@pytest.mark.parametrize("rows", [TYPED, FAULTY], ids=["good", "faulty"])
def test_prepare_reads_typed_parquet_in_place(rows: pd.DataFrame, tmp_path: Path) -> None:
    log, copied = read_events(save_parquet(tmp_path, rows)), read_events(rows)
    assert is_in_place(log)
    assert not is_in_place(copied)
    assert_frame_equal(log.to_pandas(), copied.to_pandas())
    assert log.row_counts == copied.row_counts
    assert_frame_equal(log.rejects.drop(columns="source"), copied.rejects.drop(columns="source"))


def test_prepare_reads_several_parquet_files_in_place(tmp_path: Path) -> None:
    for name, half in (("b", TYPED[2:]), ("a", TYPED[:2])):
        save_parquet(tmp_path / "log" / f"part={name}", half)
    log = read_events(tmp_path / "log")
    assert is_in_place(log)
    assert log.to_pandas()["part"].tolist() == ["a", "a", "b", "b"]


def test_prepare_copies_parquet_that_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVLIB_HASH_KEY", "a key that nobody guesses")
    source = save_parquet(tmp_path, TYPED)
    text = save_parquet(tmp_path, ROWS, "text.parquet")
    ids = save_parquet(tmp_path, TYPED.assign(anonymous_id="a"), "ids.parquet")
    mapping = write_mapping(tmp_path, "columns: {geo: colour}\n")
    identity = pd.DataFrame({"anonymous_id": ["u1"], "user_id": ["ann"]})
    logs = [
        read_events(source, plan=write_plan(tmp_path, LEAVE_OUT)),
        read_events(source, mapping=mapping),
        read_events(source, identity=identity),
        read_events(source, hash_ids=True),
        read_events(text),
        read_events(ids),
        read_events(put(f"memory://{tmp_path.name}/log.parquet", source.read_bytes())),
    ]
    assert [is_in_place(log) for log in logs] == [False] * len(logs)
    assert is_in_place(read_events(source, mapping=write_mapping(tmp_path, "session_gap: 1h\ntimezone: Asia/Tokyo\n")))


def test_prepare_reads_a_changed_file_in_place_again(tmp_path: Path) -> None:
    source = save_parquet(tmp_path, TYPED)
    before = read_events(source).to_pandas()
    save_parquet(tmp_path, TYPED[:2])
    assert (len(before), len(read_events(source).to_pandas())) == (4, 2)


def test_prepare_that_fails_leaves_nothing_behind(cache: Path, tmp_path: Path) -> None:
    refuse(write_csv(tmp_path, "u1,x,soon"))
    refuse(write_csv(tmp_path, *["u1,x,2026-01-01"] * 30_000, 'u1,"x,2026-01-01'))
    refuse(put(f"memory://{tmp_path.name}/log.csv", as_csv(ROWS.assign(timestamp="soon"))))
    assert list(cache.iterdir()) == []


def test_prepare_leaves_the_engines_zone_as_it_was(tmp_path: Path) -> None:
    read_events(write_csv(tmp_path, "u1,x,2026-01-01", "u1,x,soon"), timezone="Europe/Berlin")
    refuse(write_csv(tmp_path, "u1,x,soon"), timezone="Europe/Berlin")
    assert connect().execute("SELECT current_setting('TimeZone')").fetchall() == [("UTC",)]


def test_prepare_leaves_the_given_table_as_it_was() -> None:
    rows = ROWS.assign(user_id=pd.Series(["a", None, "b", "c"]))
    before = rows.copy()
    read_events(rows, identity=pd.DataFrame({"anonymous_id": ["a"], "user_id": ["ann"]}))
    assert_frame_equal(rows, before)


def test_prepare_takes_what_another_process_has_put_there_meanwhile(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_csv(tmp_path, "u1,x,2026-01-01")
    rename = Path.rename

    def come_second(self: Path, target: Path) -> Path:
        if self.name.startswith("preparing-"):
            rename(self, target)
            self.mkdir()
            write(self / "log.json", "not looked at")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", come_second)
    assert read_events(source).rows_used == 1
    assert [path.name[:4] for path in cache.iterdir()] == ["log-"]


def test_prepare_hides_no_other_fault_of_moving(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_csv(tmp_path, "u1,x,2026-01-01")

    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.startswith("preparing-"):
            raise PermissionError(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError):
        read_events(source)
    assert list(cache.iterdir()) == []
