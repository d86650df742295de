"""Funnels counted on Spark: the same wanted rows, with the kernel at work in the executors."""

import dataclasses
import itertools
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from convlib.mapping import Mapping
from convlib.plan import Plan
from convlib.remote import RemoteLog
from convlib.warehouse import PART, Warehouse, cut


@dataclasses.dataclass(frozen=True)
class Spark(Warehouse):
    """Counts funnels in Spark's executors.

    Args:
        log: The log.
        most: Rows that an executor counts at once.
        partitions: Into how many parts the units go; None for the session's own number of shuffle partitions.
    """

    partitions: int | None = None

    def _run(self, rows: ir.Table, part: Callable[[pa.Table], pa.Table]) -> Iterable[pa.Table]:
        """Count parts of whole units where they are, and fetch the attempts alone."""
        connection = rows.get_backend()
        wanted = connection.raw_sql(connection.compile(rows))
        schema = part(rows.schema().to_pyarrow().empty_table()).schema
        moved = wanted.repartition(*([self.partitions] if self.partitions else []), "unit").sortWithinPartitions("unit")
        counted = moved.mapInArrow(
            partial(count_partition, part=part, schema=schema, most=self.most), from_arrow_schema(schema)
        )
        return [counted.toArrow().cast(schema)]


def open_spark(
    events: str | DataFrame, *, plan: Plan | None = None, mapping: Mapping | None = None, most: int = PART
) -> Spark:
    """Open a log that Spark reads, in the session that is there, or a new one as Spark's own configuration says.

    Args:
        events: A DataFrame, an address of Parquet files (with a `/` or the ending `.parquet`), or a table that the
            session knows, such as `shop.events`.
        plan: The measurement plan.
        mapping: How the columns become the canonical ones.
        most: Rows that an executor counts at once.

    Raises:
        ParamError: Spark can't read the log as the mapping says.
        EventDataError: The log lacks columns.
    """
    # PySpark warns of pandas 3 at every step, but nothing but Arrow data passes here.
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
    session = SparkSession.getActiveSession() or _start()
    if isinstance(events, str):
        is_file = "/" in events or events.endswith(".parquet")
        frame = session.read.parquet(events) if is_file else session.table(events)
    else:
        frame, session = events, events.sparkSession
    name = f"convlib_{uuid.uuid4().hex}"
    frame.createOrReplaceTempView(name)
    table = ibis.pyspark.connect(session).table(name)
    label = events if isinstance(events, str) else "events"
    return Spark(RemoteLog(table, plan=plan, mapping=mapping or Mapping(), label=label), most=most)


def _start() -> SparkSession:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else executors take any python3 that they find
    builder = SparkSession.builder.appName("convlib").config("spark.log.level", "ERROR")
    return builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()


def count_partition(
    batches: Iterable[pa.RecordBatch], *, part: Callable[[pa.Table], pa.Table], schema: pa.Schema, most: int
) -> Iterator[pa.RecordBatch]:
    """Count one partition, in an executor: its rows come in order of units."""
    rows = iter(batches)
    first = next(rows, None)
    if first is not None:
        for table in cut(itertools.chain([first], rows), first.schema, most):
            yield from part(table).cast(schema).to_batches()
