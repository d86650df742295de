from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from conftest import find_program
from engine_cases import CASES, STEPS, arrange, count_here, frame_question, make_rows, read_shop_plan, see
from pyspark.sql import DataFrame, SparkSession

from convlib.errors import ParamError
from convlib.events import EventLog, read_events
from convlib.funnel import measure_funnel
from convlib.mapping import Mapping
from convlib.remote import fetch
from convlib.spark import Spark, count_partition, open_spark

#: PySpark 4.3 has not caught up with pandas 3, through which nothing goes here.
pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")
#: Real executors would come in the same way: by Spark's own configuration.
CONFIGURATION = {
    "spark.master": "local[2]",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
    "spark.sql.session.timeZone": "America/New_York",
}


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("events") / "events.parquet"
    make_rows().to_parquet(path, index=False)
    return path


@pytest.fixture(scope="module")
def shop(events: Path, tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    return read_events(events, plan=read_shop_plan(tmp_path_factory.mktemp("shop")))


@pytest.fixture(scope="module")
def spark(events: Path, shop: EventLog) -> Iterator[Spark]:
    find_program("java")
    given = " ".join(f'--conf "{name}={value}"' for name, value in CONFIGURATION.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_SUBMIT_ARGS", f"{given} pyspark-shell")
        yield open_spark(str(events), plan=shop.plan)
        SparkSession.builder.getOrCreate().stop()


@pytest.mark.parametrize(
    "case",
    [
        *("ordered by device", "strict", "unordered", "exclusion stops", "exclusion drops", "hold", "first time"),
        *("totals", "step 2", "sessions of a segment", "narrowed steps", "no such event"),
    ],
)
def test_count_equals_this_machines_to_the_last_digit(spark: Spark, shop: EventLog, case: str) -> None:
    view, steps, options = CASES[case]
    log = see(shop, **view)
    question = frame_question(log, steps, **options)
    ours = arrange(count_here(log, *question))
    pd.testing.assert_frame_equal(arrange(spark.count(log, *question).to_pandas()), ours, check_exact=True)


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_count_does_not_depend_on_the_order_of_rows_nor_on_partitions(
    shop: EventLog, tmp_path: Path, partitions: int
) -> None:
    make_rows().sample(frac=1, random_state=partitions).to_parquet(tmp_path / "shuffled.parquet", index=False)
    opened = open_spark(str(tmp_path / "shuffled.parquet"), plan=shop.plan, most=500)
    split = Spark(opened.log, most=500, partitions=partitions)
    question = frame_question(shop, STEPS, count="totals", by=["device_type"])
    whole = arrange(count_here(shop, *question))
    pd.testing.assert_frame_equal(arrange(split.count(shop, *question).to_pandas()), whole, check_exact=True)


def test_an_executor_counts_whole_units_of_its_partition() -> None:
    rows = pa.table({"unit": list("aabbbc"), "row": range(6)})
    seen: list[list[str]] = []

    def part(table: pa.Table) -> pa.Table:
        seen.append(table["unit"].to_pylist())
        return table.select(["row"])

    batches = rows.to_batches(max_chunksize=2)
    counted = list(count_partition(batches, part=part, schema=pa.schema({"row": pa.int32()}), most=2))
    assert seen == [["a", "a"], ["b", "b", "b"], ["c"]]
    assert pa.Table.from_batches(counted)["row"].to_pylist() == list(range(6))
    assert list(count_partition([], part=part, schema=rows.schema, most=2)) == []


def test_facts_equal_this_machines(spark: Spark, shop: EventLog) -> None:
    facts = spark.log.facts
    assert {name: facts[f"rows_{name}"] for name in shop.row_counts} == shop.row_counts
    assert facts["rejected_because"] == shop.rejected_because
    assert (facts["first"], facts["last"]) == (shop.first, shop.last)


def test_open_spark_takes_a_frame_and_a_table(spark: Spark) -> None:
    session = SparkSession.builder.getOrCreate()
    frame: DataFrame = session.sql("SELECT 'ann' AS user_id, 'view' AS event_name, TIMESTAMP '2024-01-01' AS timestamp")
    frame.createOrReplaceTempView("visits")
    for given in (frame, "visits"):
        opened = open_spark(given)
        assert opened.log.columns == spark.log.columns[:15]
        assert fetch(opened.log.open())["user_id"].to_pylist() == ["ann"]


@pytest.mark.usefixtures("spark")
def test_open_spark_refuses_what_it_can_not_read(events: Path) -> None:
    mapping = Mapping.model_validate({"columns": {"value": {"expression": "seats * 2"}}})
    with pytest.raises(ParamError, match=r"`value` is read by an expression of DuckDB \('seats \* 2'\)"):
        open_spark(str(events), mapping=mapping)


@pytest.mark.usefixtures("spark")
def test_measure_funnel_counts_in_spark(events: Path, shop: EventLog) -> None:
    log = read_events(events, plan=shop.plan, engine="spark")
    found = measure_funnel(log.segment({"device_type": "mobile"}), STEPS, by="source", count="totals")
    wanted = measure_funnel(shop.segment({"device_type": "mobile"}), STEPS, by="source", count="totals")
    pd.testing.assert_frame_equal(found.table, wanted.table, check_exact=True)
    assert len(log.to_pandas()) == len(shop.to_pandas())  # a copy, fetched from Spark
