import datetime as dt
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pyarrow as pa
import pytest
import sqlglot
from conftest import find_program
from engine_cases import CASES, STEPS, arrange, count_here, frame_question, make_rows, read_shop_plan, see
from small_logs import make_plan, write_rows
from sqlglot import exp

from convlib.conversions import Exclusion
from convlib.errors import EventDataError, ParamError
from convlib.events import EventLog, read_events
from convlib.mapping import Mapping
from convlib.remote import RemoteLog, fetch
from convlib.warehouse import Warehouse, cut, open_warehouse, write_sql

#: Ibis 12 has not caught up with DuckDB 1.5.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_record_batch:DeprecationWarning")
TYPES = {"timestamp": "timestamp[us]", "is_member": "bool"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL of the tests' own, reached by a socket in its folder; its texts are not in order of their bytes."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv(
            "PATH", os.pathsep.join([os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
        )
        owner = (
            ["setpriv", "--reuid=nobody", "--clear-groups"] if os.geteuid() == 0 else []
        )  # it refuses to run as root
        if owner:
            shutil.chown(folder, "nobody")
        data = ["-D", f"{folder}/data"]
        order = ["--locale=C.utf8", "--locale-provider=icu", "--icu-locale=en-US"]
        socket = ["-o", f"-c listen_addresses='' -k {folder} -c timezone=America/New_York"]
        run([*owner, find_program("initdb"), *data, "-U", "analyst", "-E", "UTF8", "--auth=trust", *order])
        run([*owner, find_program("pg_ctl"), *data, *socket, "-l", f"{folder}/log", "-w", "start"])
        connection = ibis.connect(f"postgres://analyst@/postgres?host={folder}")
        yield connection
        connection.disconnect()
        run([*owner, find_program("pg_ctl"), *data, "-m", "immediate", "-w", "stop"])


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    return read_events(make_rows(), plan=read_shop_plan(tmp_path_factory.mktemp("shop")))


@pytest.fixture(scope="module", params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest, shop: EventLog) -> Iterator[Warehouse]:
    connection = request.getfixturevalue("postgres") if request.param == "postgres" else ibis.duckdb.connect()
    table = connection.create_table("shop", pa.Table.from_pandas(make_rows(), preserve_index=False))
    yield open_warehouse(table, plan=shop.plan)
    connection.drop_table("shop")


@pytest.mark.parametrize("case", CASES)
def test_count_equals_this_machines_to_the_last_digit(warehouse: Warehouse, shop: EventLog, case: str) -> None:
    view, steps, options = CASES[case]
    log = see(shop, **view)
    question = frame_question(log, steps, **options)
    ours = arrange(count_here(log, *question))
    pd.testing.assert_frame_equal(arrange(warehouse.count(log, *question).to_pandas()), ours, check_exact=True)
    assert len(ours) > 10 or case == "no such event"


def test_facts_equal_this_machines(warehouse: Warehouse, shop: EventLog) -> None:
    names = ("first", "last", "rows_read", "rows_used", "rows_rejected", "rows_left_out")
    kinds = ("rejected_because", "left_out_because")
    assert warehouse.log.facts == {name: getattr(shop, name) for name in (*names, *kinds)}
    assert warehouse.log.columns == shop.columns


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_count_does_not_depend_on_the_order_of_rows_nor_on_parts(shop: EventLog, parts: int) -> None:
    rows = make_rows().sample(frac=1, random_state=parts)
    connection = ibis.duckdb.connect()
    table = connection.create_table("shop", pa.Table.from_pandas(rows, preserve_index=False))
    question = frame_question(shop, STEPS, count="totals", by=["device_type"])
    split = open_warehouse(table, plan=shop.plan, most=len(rows) // parts)
    whole = arrange(count_here(shop, *question))
    pd.testing.assert_frame_equal(arrange(split.count(shop, *question).to_pandas()), whole, check_exact=True)
    connection.disconnect()


@pytest.mark.parametrize(
    "times",
    ["TIMESTAMPTZ '{}+00'", "DATE '{}'", "EXTRACT(epoch FROM TIMESTAMP '{}')::BIGINT"],
    ids=["with a zone", "days", "seconds"],
)
def test_count_reads_every_kind_of_time(postgres: Any, times: str) -> None:
    days = {"view": "2024-01-01 00:00:00", "pay": "2024-01-03 00:00:00"}
    selects = [
        f"SELECT 'ann' AS user_id, '{name}' AS event_name, {times.format(day)} AS timestamp"
        for name, day in days.items()
    ]
    postgres.raw_sql(f"DROP VIEW IF EXISTS times; CREATE VIEW times AS {' UNION ALL '.join(selects)}").close()
    postgres.con.commit()
    bare = {"columns": {"timestamp": {"column": "timestamp", "format": "epoch_s"}}} if "epoch" in times else {}
    found = open_warehouse(postgres.table("times"), mapping=Mapping.model_validate(bare))
    assert (found.log.facts["first"], found.log.facts["last"]) == (
        pd.Timestamp("2024-01-01"),
        pd.Timestamp("2024-01-03"),
    )
    log = read_events(write_rows("ann view 0D\nann pay 2D"))
    for window, reached in (("2D", 2), ("1D", 1)):
        counted = found.count(log, *frame_question(log, ("view", "pay"), window=window)).to_pylist()
        assert [sum(row[name] == row[name] for name in ("time_0", "time_1")) for row in counted] == [reached]


def small_log(text: str, folder: Path, plan: str = "") -> tuple[EventLog, Warehouse]:
    rows = write_rows(text)
    read = make_plan(folder, plan or "macros: [{id: purchase, match: {event_name: pay}}]")
    table = ibis.duckdb.connect().create_table("events", pa.Table.from_pandas(rows, preserve_index=False))
    return read_events(rows, plan=read), open_warehouse(table, plan=read)


def test_count_gives_attempts_in_order_of_units(tmp_path: Path) -> None:
    log, warehouse = small_log("bob view 1h\nann view 0h\nbob pay 3h value=20\ncat pay 9h", tmp_path)
    counted = warehouse.count(log, *frame_question(log, ("view", "purchase"), window="2h"))
    start = pd.Timestamp("2024-01-01").timestamp()
    assert counted.column_names == ["unit", "time_0", "time_1", "value", "pending", "entered"]
    assert counted.to_pandas().fillna(-1).to_numpy().tolist() == [
        ["ann", start, -1, -1, False, start],
        ["bob", start + 3600, start + 10800, 20, False, start + 3600],
    ]


def test_count_names_sessions_by_their_users(tmp_path: Path) -> None:
    log, warehouse = small_log("ann view 0h session_id=s\nbob view 0h session_id=s\nbob view 1h", tmp_path)
    counted = warehouse.count(log, *frame_question(log, ("view", "purchase"), count="sessions"))
    assert counted.select(["unit", "cluster"]).to_pylist() == [
        {"unit": "ann\ts", "cluster": "ann"},
        {"unit": "bob\ts", "cluster": "bob"},
    ]


def test_count_settles_first_events_at_one_instant_by_all_their_columns(tmp_path: Path) -> None:
    text = """
ann view 0h device_type=mobile page_path=/b
ann view 0h device_type=desktop page_path=/a
bob view 0h device_type=mobile page_path=/a
bob view 0h device_type=desktop page_path=/b
cat view 0h device_type=mobile
cat a_view 0h device_type=desktop
dan view 0h device_type=mobile
"""
    log, warehouse = small_log(text, tmp_path)
    mobile = log.segment({"device_type": "mobile"})
    assert warehouse.count(mobile, *frame_question(mobile, ("view", "purchase")))["unit"].to_pylist() == ["bob", "dan"]
    assert set(mobile.to_pandas()["user_id"]) == {"bob", "dan"}


def test_count_gives_a_macro_the_value_of_the_plan(tmp_path: Path) -> None:
    plan = "macros: [{id: purchase, match: {event_name: pay}, value: 7}]"
    log, warehouse = small_log("ann view 0h\nann pay 1h value=20", tmp_path, plan)
    assert warehouse.count(log, *frame_question(log, ("view", "purchase")))["value"].to_pylist() == [7]
    assert warehouse.count(log, *frame_question(log, ("view", "pay")))["value"].to_pylist() == [20]
    cheap = log.where(value={"lt": 10})
    assert len(warehouse.count(cheap, *frame_question(cheap, ("purchase", "purchase")))) == 0  # nobody entered


def test_count_names_every_problem(tmp_path: Path) -> None:
    plan = """
macros:
  - {id: purchase, match: {event_name: pay}, dedupe: 2s}
  - {id: long_read, match: {page_path: {regex: "\\\\bguide"}}}
"""
    log, warehouse = small_log("ann view 0h page_path=/a price=1.5", tmp_path, plan)
    with pytest.raises(ParamError) as caught:
        warehouse.count(log, *frame_question(log, ("view", "purchase"), count="sessions"))
    assert caught.value.problems == (
        "`purchase` has `dedupe`, which needs each user's rows in order. Keep rows that fire twice out of the table, "
        'or read with `engine="duckdb"`.',
        "`events` has no column `session_id`. Map `session_id` to a column that holds it, or read with "
        '`engine="duckdb"`, which derives it.',
    )
    with pytest.raises(ParamError) as caught:
        warehouse.count(log, *frame_question(log, ("long_read", "long_read")))
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(r"The pattern '\\bguide' of `page_path` has signs")
    with pytest.raises(ParamError, match="`price` holds float64, which engines write as text in different ways"):
        warehouse.count(log, *frame_question(log, ("view", "view"), by=["price"]))


def test_count_refuses_more_steps_than_a_number_has_bits(tmp_path: Path) -> None:
    log, warehouse = small_log("ann view 0h", tmp_path)
    question = frame_question(log, ["view"] * 60, exclude=[Exclusion("view")] * 3)
    with pytest.raises(ParamError) as caught:
        warehouse.count(log, *question)
    assert str(caught.value) == (
        "63 steps and exclusions are more than the 62 that an engine can mark. Leave some out, or read with "
        '`engine="duckdb"`.'
    )


def test_cut_gives_whole_units() -> None:
    table = pa.table({"unit": list("aabbbbbc"), "row": range(8)})
    batches = table.to_batches(max_chunksize=2)
    assert [part["unit"].to_pylist() for part in cut(batches, table.schema, 2)] == [list("aa"), list("bbbbb"), ["c"]]
    assert [part.num_rows for part in cut(batches, table.schema, 100)] == [8]
    assert [part.num_rows for part in cut([], table.schema, 2)] == [0]


def test_open_warehouse_takes_an_address_and_its_table(postgres: Any) -> None:
    host = fetch(postgres.sql("SELECT current_setting('unix_socket_directories') AS host"))["host"][0].as_py()
    postgres.raw_sql(
        "DROP TABLE IF EXISTS visits; CREATE TABLE visits (user_id INT, event_name TEXT, timestamp TIMESTAMP)"
    ).close()
    postgres.con.commit()
    address = f"postgres://analyst@/postgres?host={host}"
    opened = open_warehouse(f"{address}#public.visits")
    assert opened.log.columns[:3] == ("event_name", "timestamp", "user_id")
    opened.log.table.get_backend().disconnect()
    with pytest.raises(EventDataError) as caught:
        open_warehouse(f"{address}#visit")
    assert str(caught.value).startswith(f"`{address}` has no table 'visit'; its tables are ")
    assert str(caught.value).endswith(" Did you mean 'visits'?")


def test_open_warehouse_refuses_a_password_in_the_address() -> None:
    with pytest.raises(ParamError) as caught:
        open_warehouse("postgres://ann:secret@db.example.com/shop#events")
    assert str(caught.value) == (
        "`events` holds a password. Write 'postgres://ann@db.example.com/shop', and give it in the environment "
        "(PGPASSWORD for PostgreSQL)."
    )


COLUMNS = {
    **dict.fromkeys(("event_name", "user_id", "device_type", "page_path", "note", "referrer"), "string"),
    "timestamp": "timestamp('UTC')",
    "value": "float64",
}


@pytest.mark.parametrize("dialect", ["bigquery", "snowflake", "postgres", "duckdb"])
def test_write_sql_reads_the_needed_columns_and_filters_in_the_engine(dialect: str, tmp_path: Path) -> None:
    log, _ = small_log("ann view 0h device_type=mobile page_path=/\nann pay 1h device_type=mobile value=1", tmp_path)
    seen = log.where(page_path={"regex": "^/(a|b)"})
    ask, task = frame_question(seen, ("view", "purchase"), by=["device_type"])
    unbound = Warehouse(RemoteLog(ibis.table(COLUMNS, name="events"), plan=log.plan))
    query = sqlglot.parse_one(write_sql(unbound.want(seen, ask, task), dialect), dialect=dialect)
    read = {column.name.lower() for column in query.find_all(exp.Column)}
    assert read - {"unit", "time", "steps"} == {
        "event_name",
        "user_id",
        "device_type",
        "page_path",
        "timestamp",
        "value",
    }
    assert not list(query.find_all(exp.Star))
    where = " ".join(each.sql() for each in query.find_all(exp.Where))
    assert re.search("'view'.*'pay'", where)
    assert "'^/(a|b)'" in where.replace("(^/(a|b))", "^/(a|b)")
    assert [column.name for order in query.find_all(exp.Order) for column in order.find_all(exp.Column)] == ["user_id"]


@pytest.mark.parametrize("dialect", ["bigquery", "snowflake"])
def test_write_sql_finds_a_segments_units_in_the_engine(dialect: str, tmp_path: Path) -> None:
    log, _ = small_log("ann view 0h device_type=mobile", tmp_path)
    seen = log.segment({"device_type": "mobile"}).between(dt.date(2024, 1, 1), dt.date(2024, 1, 1))
    unbound = Warehouse(RemoteLog(ibis.table(COLUMNS, name="events"), plan=log.plan))
    question = frame_question(seen, ("view", "purchase"))
    query = sqlglot.parse_one(write_sql(unbound.want(seen, *question), dialect), dialect=dialect)
    assert {column.name.lower() for column in query.find_all(exp.Column)} & set(COLUMNS) == {
        *("event_name", "user_id", "device_type", "timestamp", "value"),
    }
    assert len(list(query.find_all(exp.Group))) == 2
    assert "'mobile'" in query.sql()
