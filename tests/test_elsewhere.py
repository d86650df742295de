from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pyarrow as pa
import pytest
from engine_cases import CASES, STEPS, make_rows, read_shop_plan, see
from reports_project import EVENTS, RUN, write_project

from convlib import elsewhere
from convlib.errors import ParamError
from convlib.events import EventLog, read_events
from convlib.funnel import Funnel, measure_funnel
from convlib.plan import Plan
from convlib.quality import check_quality
from convlib.reports.preparation import prepare_run

pytestmark = pytest.mark.filterwarnings("ignore:fetch_record_batch:DeprecationWarning")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return read_shop_plan(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def here(plan: Plan) -> EventLog:
    return read_events(make_rows(), plan=plan)


@pytest.fixture
def there(plan: Plan) -> EventLog:
    connection = ibis.duckdb.connect()
    table = connection.create_table("events", pa.Table.from_pandas(make_rows(), preserve_index=False))
    return read_events(table, plan=plan, engine="ibis")


def count(log: EventLog, case: str) -> Funnel:
    view, steps, options = CASES[case]
    return measure_funnel(see(log, **view), steps, **options)


@pytest.mark.parametrize("case", CASES)
def test_measure_funnel_is_the_same_elsewhere_to_the_last_digit(here: EventLog, there: EventLog, case: str) -> None:
    found, wanted = count(there, case), count(here, case)
    for name in ("table", "leaks", "trend"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(wanted, name), check_exact=True)
    assert found.takeaways == wanted.takeaways


@pytest.mark.parametrize("case", ["ordered by device", "totals", "sessions"])
def test_units_and_what_they_do_next_are_the_same_elsewhere(here: EventLog, there: EventLog, case: str) -> None:
    found, wanted = count(there, case), count(here, case)
    pd.testing.assert_frame_equal(found.units(2, "lost"), wanted.units(2, "lost"), check_exact=True)
    pd.testing.assert_frame_equal(found.next_events().table, wanted.next_events().table, check_exact=True)
    pd.testing.assert_frame_equal(found.times, wanted.times, check_exact=True)
    pd.testing.assert_frame_equal(found.time_to_convert, wanted.time_to_convert, check_exact=True)


def test_a_log_elsewhere_knows_its_counts_and_columns_without_a_copy(
    here: EventLog, there: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a copy was made")

    monkeypatch.setattr(elsewhere, "prepare", refuse)
    for name in ("columns", "derived", "row_counts", "rejected_because", "left_out_because", "first", "last", "period"):
        assert getattr(there, name) == getattr(here, name), name
    measure_funnel(there.segment({"device_type": "mobile"}), STEPS, by="source")


def test_other_analyses_of_a_log_elsewhere_read_a_copy(here: EventLog, there: EventLog) -> None:
    assert here.plan is not None
    found, wanted = check_quality(there, here.plan), check_quality(here, here.plan)
    # An example names the source: here a frame, there a table.
    pd.testing.assert_frame_equal(found.table.drop(columns="example"), wanted.table.drop(columns="example"))
    assert len(there.rejects) == there.rows_rejected


def test_measure_funnel_names_everything_unknown_elsewhere_at_once(there: EventLog) -> None:
    with pytest.raises(ParamError) as caught:
        measure_funnel(there, ["vew", "carts"])
    known = "Known are purchase, added, guide, Order Completed, View, cart, chat, pay, view."
    assert caught.value.problems == (
        f"`vew` is neither a conversion of the plan nor an event of the log. Did you mean 'view'? {known}",
        f"`carts` is neither a conversion of the plan nor an event of the log. Did you mean 'cart'? {known}",
    )


def test_read_events_refuses_an_unknown_engine() -> None:
    with pytest.raises(ParamError) as caught:
        read_events("events.parquet", engine="sparc")  # type: ignore[arg-type]
    assert caught.value.problems == (
        "`engine` is 'sparc'; it must be one of 'duckdb', 'ibis', 'spark'. Did you mean 'spark'?",
    )


def test_read_events_says_how_to_install_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(elsewhere.OPENERS, "spark", ("convlib_spark_of_nobody.spark", "open_spark"))
    with pytest.raises(ParamError) as caught:
        read_events("events.parquet", engine="spark")
    assert caught.value.problems == (
        "`engine` is 'spark', which needs the package 'convlib_spark_of_nobody': pip install \"convlib[spark]\".",
    )


def test_prepare_run_reads_the_log_with_the_run_files_engine(tmp_path: Path) -> None:
    address = f"duckdb://{tmp_path / 'shop.duckdb'}"
    connection = ibis.connect(address)
    lines = [line.split(",") for line in EVENTS.splitlines()]
    rows = pd.DataFrame(lines[1:], columns=lines[0])
    rows = rows.assign(timestamp=pd.to_datetime(rows["timestamp"], errors="coerce"))
    connection.create_table("visits", pa.Table.from_pandas(rows, preserve_index=False))
    connection.disconnect()
    run = RUN.replace("../data/events.csv", f"{address}#visits") + "engine: ibis\n"
    preparation = prepare_run(write_project(tmp_path, run=run, a="1"))
    assert preparation.log.engine is not None
    assert (preparation.log.rows_read, preparation.log.rows_used, preparation.log.rows_rejected) == (6, 5, 1)
    filled = preparation.fill(preparation.notebooks.templates[0], segment="all", tables=tmp_path)
    assert (filled["events"], filled["engine"]) == (f"{address}#visits", "ibis")
