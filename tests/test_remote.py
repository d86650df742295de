from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pyarrow as pa
import pytest
from small_logs import make_plan, write_rows

from convlib.errors import EventDataError, ParamError
from convlib.mapping import Mapping
from convlib.portable import ADVICE
from convlib.remote import RemoteLog, do_all, fetch
from convlib.rules import parse_rule

LOG = """
ann visit 0h source=ads value=1
ann pay 1h source=ads value=20
bob visit 2h source=bot
cat visit 3h source=ads page_path=/admin
cat pay 4h source=bot
undefined visit 5h source=ads
dan visit 6h source=ads page_path=/home
"""
LEAVE_OUT = """
macros: [{id: purchase, match: {event_name: pay}}]
leave_out:
  - {id: bots, match: {source: bot}}
  - {id: staff, match: {page_path: {regex: ^/admin}}, scope: user}
"""
Connection = Callable[..., Any]


@pytest.fixture
def make_table() -> Iterator[Connection]:
    """Makes a table of rows, with columns in place of some of theirs."""
    connection = ibis.duckdb.connect()

    def make(rows: str | pd.DataFrame = LOG, **columns: list[Any]) -> Any:
        table = (write_rows(rows) if isinstance(rows, str) else rows).assign(**columns)
        return connection.create_table("events", pa.Table.from_pandas(table, preserve_index=False), overwrite=True)

    yield make
    connection.disconnect()


def test_facts_count_every_row_once(make_table: Connection, tmp_path: Path) -> None:
    log = RemoteLog(make_table(), plan=make_plan(tmp_path, LEAVE_OUT))
    assert log.facts == {
        "first": pd.Timestamp("2024-01-01 00:00"),
        "last": pd.Timestamp("2024-01-01 06:00"),
        "rows_read": 7,
        "rows_used": 3,
        "rows_rejected": 1,
        "rows_left_out": 3,
        "rejected_because": {"user_id is missing": 1},
        "left_out_because": {"bots": 2, "staff": 1},
    }


def test_facts_without_rules_leave_nothing_out(make_table: Connection) -> None:
    facts = RemoteLog(make_table()).facts
    assert (facts["rows_used"], facts["rows_left_out"], facts["left_out_because"]) == (6, 0, {})


def test_facts_name_each_fault(make_table: Connection) -> None:
    days = ["2024-01-01", "1970-01-01", "", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05"]
    table = make_table(
        user_id=["a", "b", "c", "d", None, " ", "e"],
        event_name=["x", "x", "x", "", "x", "x", "x"],
        timestamp=pd.to_datetime(pd.Series(days), errors="coerce"),
        value=["1", "2", "3", "4", "5", "6", "much"],
    )
    assert RemoteLog(table).facts["rejected_because"] == {
        "user_id is missing": 2,
        "event_name is missing": 1,
        "timestamp is missing": 1,
        "timestamp is out of range": 1,
        "value is not a number": 1,
    }


def test_facts_call_a_row_of_nothing_garbled(make_table: Connection) -> None:
    rows = pd.DataFrame(
        {"user_id": ["a", None], "event_name": ["x", None], "timestamp": [pd.Timestamp("2024-01-01"), None]}
    )
    assert RemoteLog(make_table(rows)).facts["rejected_because"] == {"the row is empty or garbled": 1}


def test_facts_refuse_a_log_without_usable_rows(make_table: Connection, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, LEAVE_OUT)
    with pytest.raises(EventDataError) as caught:
        _ = RemoteLog(make_table("None visit 0h source=ads\nbob visit 1h source=bot"), plan=plan, label="shop").facts
    assert str(caught.value) == (
        "`shop` has no usable row (user_id is missing: 1 rows; bots: 1 rows). Check the table."
    )
    with pytest.raises(EventDataError) as caught:
        _ = RemoteLog(make_table().limit(0)).facts
    assert str(caught.value) == "`events` has no usable row (it is empty). Check the table."


def test_open_gives_the_used_rows_typed(make_table: Connection, tmp_path: Path) -> None:
    log = RemoteLog(make_table(seats=range(7)), plan=make_plan(tmp_path, LEAVE_OUT))
    rows = fetch(log.open(["value", "seats", "Event_Name", "campaign"]).order_by("timestamp"))
    assert rows.drop_columns(["timestamp", "source", "page_path"]).to_pylist() == [
        {"user_id": "ann", "value": 1.0, "seats": 0, "event_name": "visit", "campaign": None},
        {"user_id": "ann", "value": 20.0, "seats": 1, "event_name": "pay", "campaign": None},
        {"user_id": "dan", "value": None, "seats": 6, "event_name": "visit", "campaign": None},
    ]


def test_event_names_are_those_of_used_rows(make_table: Connection) -> None:
    assert RemoteLog(make_table("ann visit 0h\nundefined pay 1h")).event_names == {"visit"}


def test_match_means_the_rows_of_a_rule(make_table: Connection) -> None:
    log = RemoteLog(make_table())
    rows = log.open(["value"])
    assert fetch(rows.filter(log.match(parse_rule({"value": {"gte": 20}}), rows))).num_rows == 1
    assert fetch(rows.filter(log.match(parse_rule({"value": 3}), rows, value=ibis.literal(3.0)))).num_rows == 6


def test_columns_are_the_mapped_ones(make_table: Connection) -> None:
    mapping = Mapping.model_validate(
        {"columns": {"geo": "country", "user_id": ["user_id", "visitor"], "campaign": {"expression": "upper(source)"}}}
    )
    log = RemoteLog(
        make_table(country="IT", visitor="v", drop_me=1), mapping=mapping.model_copy(update={"drop": ("drop_me",)})
    )
    assert log.columns[15:] == ("page_path", "visitor")[1:]
    assert "campaign" not in log.readable
    assert fetch(log.open(["geo"]).limit(1))["geo"].to_pylist() == ["IT"]
    with pytest.raises(ParamError, match="`campaign` is read by an expression of DuckDB"):
        log.open(["campaign"])


def test_each_makes_one_row_an_entry(make_table: Connection) -> None:
    table = make_table("ann visit 0h\nbob visit 1h", items=[[{"id": "p"}, {"id": "q"}], []])
    log = RemoteLog(table, mapping=Mapping.model_validate({"each": "items", "columns": {"product_id": "items.id"}}))
    rows = fetch(log.open(["product_id"]).order_by("user_id", "product_id"))
    assert rows.select(["user_id", "product_id"]).to_pylist() == [
        {"user_id": "ann", "product_id": "p"},
        {"user_id": "ann", "product_id": "q"},
        {"user_id": "bob", "product_id": None},
    ]


def test_epochs_are_times(make_table: Connection) -> None:
    mapping = Mapping.model_validate({"columns": {"timestamp": {"column": "at", "format": "epoch_ms"}}})
    at = pd.array([1_704_067_200_000, -1, 10**18, None], dtype="Int64")
    rows = pd.DataFrame({"user_id": "ann", "event_name": "visit", "at": at})
    facts = RemoteLog(make_table(rows), mapping=mapping).facts
    assert (facts["first"], facts["rows_used"]) == (pd.Timestamp("2024-01-01"), 1)
    assert facts["rejected_because"] == {"timestamp is missing": 1, "timestamp is out of range": 2}


def test_a_log_that_engines_would_not_agree_on_is_refused_with_every_problem(make_table: Connection) -> None:
    table = make_table(anonymous_id="x", timestamp="2024-01-01 10:00")
    with pytest.raises(ParamError) as caught:
        RemoteLog(table, mapping=Mapping(hash_ids=True, identity="ids.csv"), label="shop")
    assert caught.value.problems == (
        f"`shop`: `hash_ids` needs a key that no engine has; hash the ids in the table. {ADVICE}",
        f"`shop`: `identity` is a table of this machine; join it in the engine. {ADVICE}",
        f"`shop`: `anonymous_id` joins ids over the whole log; join them in the table. {ADVICE}",
        f"`timestamp` holds string; engines agree only on times with a zone or in UTC. {ADVICE}",
    )


def test_a_database_that_takes_capitals_for_small_letters_is_refused(
    make_table: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convlib.remote.CASELESS", ("duckdb",))
    with pytest.raises(ParamError) as caught:
        RemoteLog(make_table())
    assert str(caught.value) == f"`events`: duckdb takes 'A' and 'a' for the same text. {ADVICE}"


def test_each_of_no_list_is_refused(make_table: Connection) -> None:
    with pytest.raises(ParamError) as caught:
        RemoteLog(make_table(), mapping=Mapping(each="source"))
    assert str(caught.value) == f"`events`: `each` is 'source', which is no column with a list. {ADVICE}"


def test_open_names_every_column_that_is_missing(make_table: Connection) -> None:
    log = RemoteLog(make_table("ann visit 0h"))
    with pytest.raises(ParamError) as caught:
        log.open(["session_id", "device", "land"], problems=["This too."])
    derived = 'to a column that holds it, or read with `engine="duckdb"`, which derives it.'
    assert caught.value.problems == (
        "This too.",
        f"`events` has no column `session_id`. Map `session_id` {derived}",
        "`events` has no column `device`. Did you mean 'device_type'? Its columns are event_name, timestamp, user_id, "
        "session_id, land, page_path, referrer, source, medium, campaign, device_type, geo, product_id, value, "
        "currency.",
        f"`events` has no column `land`. Map `land` {derived}",
    )


def test_do_all_gives_results_in_order() -> None:
    assert do_all([lambda: 1, lambda: 2]) == [1, 2]
