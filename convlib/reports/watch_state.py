"""What a watcher knows between two looks, in one DuckDB file: what was read, counts, units so far, open alerts."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import duckdb
import pandas as pd
from duckdb import CaseExpression, ConstantExpression, Expression, FunctionExpression, SQLExpression, StarExpression

from convlib.canonical import NO_VALUE
from convlib.engine import compile_rule, connect, quote, text
from convlib.errors import RunError
from convlib.periods import PERIODS, WEEKDAYS, Calendar
from convlib.plan import Plan
from convlib.segments import Segment
from convlib.watch import KEPT_BINS, Watch

#: The name of the file among the engine's databases.
BASE = "convlib_watch"
#: A list of the values that are there, out of one that has nulls.
FILLED = "list_filter({}, each -> each IS NOT NULL)"
TABLES = """
CREATE TABLE IF NOT EXISTS files (name VARCHAR PRIMARY KEY, facts VARCHAR);
CREATE TABLE IF NOT EXISTS counts (bin BIGINT, event_name VARCHAR, rows BIGINT, errors BIGINT);
CREATE TABLE IF NOT EXISTS units (period DATE, unit UBIGINT, first TIMESTAMP, segments VARCHAR[]);
CREATE TABLE IF NOT EXISTS did (period DATE, conversion VARCHAR, unit UBIGINT);
CREATE TABLE IF NOT EXISTS left_out (unit UBIGINT);
CREATE TABLE IF NOT EXISTS conversions (event_name VARCHAR, conversion VARCHAR);
CREATE TABLE IF NOT EXISTS recent (row_hash UBIGINT, timestamp TIMESTAMP, copies BIGINT);
CREATE TABLE IF NOT EXISTS facts (name VARCHAR PRIMARY KEY, value VARCHAR);
CREATE OR REPLACE TABLE memory.convlib_arrived (unit UBIGINT, timestamp TIMESTAMP, event_name VARCHAR, bin BIGINT,
    period DATE, segments VARCHAR[], is_error BOOLEAN, conversions VARCHAR[], leaves BOOLEAN, row_hash UBIGINT);
"""
FORGET = "".join(f"DELETE FROM {name};" for name in re.findall(r"EXISTS (\w+)", TABLES))  # noqa: S608  # our own names


class State:
    """The watcher's memory. Rows are staged first; `commit` then writes all of one look in one transaction.

    Args:
        path: The file.
        plan: The measurement plan.
        segments: The run's segments by name, those `by` a column as one.
        watch: The rules.
        calendar: The calendar of the periods.
    """

    def __init__(
        self, path: Path, *, plan: Plan, segments: Mapping[str, Segment], watch: Watch, calendar: Calendar
    ) -> None:
        self.plan, self.watch, self.calendar = plan, watch, calendar
        self.segments = {name: each for name, each in segments.items() if each.scope == "unit"}
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connect().execute(f"ATTACH {text(str(path))} AS {BASE}")
        except duckdb.Error as error:
            says = "another watcher of this run holds it" if "lock" in str(error) else str(error).splitlines()[0]
            raise RunError(f"`{path}` can't be opened: {says}. End that watcher, or delete the file.") from None
        # A connection of its own: what is open here does not bind whoever else reads with the engine.
        self.base = connect().cursor()
        self.base.execute("SET TimeZone = 'UTC'; USE convlib_watch")
        self.base.execute(TABLES)

    def __enter__(self) -> Self:
        """Keep the file open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; what was not committed is forgotten."""
        self.base.close()
        connect().execute(f"DROP TABLE IF EXISTS convlib_arrived; DETACH {BASE}")

    def forget_other(self, key: str) -> bool:
        """Begin anew when the file counts by another plan, other segments or another calendar; alerts are kept.

        Returns:
            Whether something was forgotten.
        """
        known = self.recall("key")
        if known == key:
            return False
        alerts = self.recall("alerts")
        self.base.execute("BEGIN")
        self.base.execute(FORGET)
        self.remember(key=key, **({"alerts": alerts} if alerts else {}))
        self.base.execute("COMMIT")
        return known is not None

    def recall(self, name: str, default: Any = None) -> Any:
        """Give a fact that was remembered."""
        found = self.base.execute("SELECT value FROM facts WHERE name = ?", [name]).fetchall()
        return json.loads(found[0][0]) if found else default

    def remember(self, **facts: object) -> None:
        """Note facts, as part of the open transaction."""
        rows = [[name, json.dumps(value)] for name, value in facts.items()]
        self.base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Give what is known of each file that was read."""
        found = self.base.execute("SELECT name, facts FROM files").fetchall()
        return {name: json.loads(facts) for name, facts in found}

    def stage(self, rows: duckdb.DuckDBPyRelation) -> None:
        """Hold the used rows of what was just read, mapped, until they are committed."""
        self._map(_fill(rows, self._columns)).create_view("convlib_arriving", replace=True)
        connect().execute("INSERT INTO convlib_arrived FROM convlib_arriving")

    def drop_known(self, since: pd.Timestamp | None) -> None:
        """Drop staged rows that an earlier look at a database has brought already, copy by copy.

        Args:
            since: What is older comes too late: whether it was counted is not known any more.
        """
        if since is not None:
            self.base.execute("DELETE FROM memory.convlib_arrived WHERE timestamp < ?", [since.to_pydatetime()])
        self.base.execute("""
            CREATE OR REPLACE TABLE memory.convlib_arrived AS SELECT * EXCLUDE (number, copies) FROM (
                SELECT arrived.*, coalesce(known.copies, 0) AS copies,
                       row_number() OVER (PARTITION BY arrived.row_hash) AS number
                FROM memory.convlib_arrived arrived LEFT JOIN (
                    SELECT row_hash, sum(copies) AS copies FROM recent GROUP BY ALL) known USING (row_hash))
            WHERE number > copies""")

    def count_staged(self) -> tuple[int, pd.Timestamp | None]:
        """Count the staged rows, and tell the time of the last one that is not in the future."""
        query = """
            SELECT count(*), max(timestamp) FILTER (timestamp <= now()::TIMESTAMP + INTERVAL 1 HOUR)
            FROM memory.convlib_arrived"""
        count, last = self.base.execute(query).fetchall()[0]
        return int(count), pd.Timestamp(last) if last else None

    def begin(self) -> None:
        """Begin the one transaction of a look."""
        self.base.execute("BEGIN")

    def abandon(self) -> None:
        """Forget what was staged, and the open transaction."""
        self.base.execute("ROLLBACK")
        self.base.execute("DELETE FROM memory.convlib_arrived")

    def add(self, files: Mapping[str, Mapping[str, object]], *, keeps_rows: bool) -> None:
        """Count the staged rows, and note the files that they are from.

        Args:
            files: What is now known of each file that was read.
            keeps_rows: Whether a later look may bring the same rows again.
        """
        if files:
            rows = [[name, json.dumps(facts)] for name, facts in files.items()]
            self.base.executemany("INSERT OR REPLACE INTO files VALUES (?, ?)", rows)
        self.base.execute("""
            INSERT INTO left_out SELECT DISTINCT unit FROM memory.convlib_arrived WHERE leaves
                AND unit NOT IN (FROM left_out);
            INSERT INTO counts SELECT bin, event_name, count(*), count(*) FILTER (is_error)
                FROM memory.convlib_arrived WHERE unit NOT IN (FROM left_out) GROUP BY ALL;
            INSERT INTO units SELECT new.* FROM (
                    SELECT period, unit, min(timestamp) AS first, arg_min(segments, timestamp) AS segments
                    FROM memory.convlib_arrived GROUP BY ALL) new
                LEFT JOIN (SELECT period, unit, min(first) AS first FROM units GROUP BY ALL) known
                    USING (period, unit)
                WHERE known.first IS NULL OR new.first < known.first;
            INSERT INTO did SELECT DISTINCT period, unnest(conversions) AS conversion, unit FROM memory.convlib_arrived
                EXCEPT SELECT period, conversion, unit FROM did;
            INSERT INTO conversions SELECT DISTINCT event_name, unnest(conversions) FROM memory.convlib_arrived
                EXCEPT FROM conversions""")
        if keeps_rows:
            self.base.execute("""
                INSERT INTO recent
                SELECT row_hash, min(timestamp), count(*) FROM memory.convlib_arrived GROUP BY row_hash""")

    def prune(self, *, clock: pd.Timestamp, first_period: pd.Timestamp, late_microseconds: int) -> None:
        """Drop counts that no rule looks at any more, units of closed periods, and rows that can't come again."""
        oldest = clock.value // 1_000 // self.watch.bin_microseconds - KEPT_BINS
        self.base.execute("DELETE FROM counts WHERE bin < ?", [oldest])
        self.base.execute("DELETE FROM units WHERE period < ?", [first_period.date()])
        self.base.execute("DELETE FROM did WHERE period < ?", [first_period.date()])
        since = clock - pd.Timedelta(late_microseconds, "us")
        self.base.execute("DELETE FROM recent WHERE timestamp < ?", [since.to_pydatetime()])

    def commit(self) -> None:
        """Make the look's changes last, all or none."""
        self.base.execute("COMMIT")
        self.base.execute("DELETE FROM memory.convlib_arrived")

    def read_counts(self) -> pd.DataFrame:
        """Give the events by `bin` and `event_name`: `rows`, `errors`."""
        query = (
            "SELECT bin, event_name, sum(rows)::BIGINT AS rows, sum(errors)::BIGINT AS errors FROM counts GROUP BY ALL"
        )
        return self.base.execute(query).df()

    def read_conversions(self) -> dict[str, list[str]]:
        """Tell which conversions each event name has been."""
        found = self.base.execute("SELECT event_name, conversion FROM conversions ORDER BY ALL").fetchall()
        known: dict[str, list[str]] = {}
        for event, conversion in found:
            known.setdefault(event, []).append(conversion)
        return known

    def read_progress(self, period: pd.Timestamp) -> pd.DataFrame:
        """Count a period's units so far: `segment`, `conversion` (empty: entered), `units`."""
        query = """
            WITH members AS (
                SELECT unit, unnest(list_concat(['all'], arg_min(segments, first))) AS segment FROM units
                WHERE period = $period AND unit NOT IN (FROM left_out) GROUP BY unit),
            acts AS (SELECT '' AS conversion, unit FROM members WHERE segment = 'all'
                     UNION ALL SELECT conversion, unit FROM did WHERE period = $period)
            SELECT segment, conversion, count(*) AS units
            FROM members JOIN acts USING (unit) GROUP BY ALL ORDER BY ALL"""
        return self.base.execute(query, {"period": period.date()}).df()

    @property
    def _columns(self) -> set[str]:
        rules = [each.rule for each in self.segments.values()] + [self.watch.error_rule]
        named = {each.by for each in self.segments.values() if each.by}
        return set(self.plan.columns) | named | {name for rule in rules if rule for name in rule.columns}

    def _map(self, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        leave_out = self.plan.leave_out
        for rule in (each.match for each in leave_out if each.scope != "user"):
            rows = rows.filter(~_is_true(compile_rule(rule)))
        leaves = [_is_true(compile_rule(each.match)) for each in leave_out if each.scope == "user"]
        hits = [CaseExpression(compile_rule(c.match), ConstantExpression(c.id)) for c in self.plan.conversions]
        error = self.watch.error_rule
        listed = rows.select(
            StarExpression(),
            FunctionExpression("list_value", *hits).alias("convlib conversions"),
            FunctionExpression("list_value", *map(_name_segment, self._divided)).alias("convlib segments"),
            (_is_true(compile_rule(error)) if error else ConstantExpression(value=False)).alias("convlib error"),
            FunctionExpression("list_bool_or", FunctionExpression("list_value", *leaves)).alias("convlib leaves")
            if leaves
            else ConstantExpression(value=False).alias("convlib leaves"),
        )
        given = ", ".join(quote(name) for name in rows.columns)
        return listed.project(
            f"hash(user_id), timestamp, event_name, epoch_us(timestamp) // {self.watch.bin_microseconds}, "
            f"{write_period(self.calendar, 'timestamp')}, {FILLED.format(quote('convlib segments'))}, "
            f"{quote('convlib error')}, {FILLED.format(quote('convlib conversions'))}, {quote('convlib leaves')}, "
            f"hash({given})"
        )

    @property
    def _divided(self) -> Sequence[Segment]:
        return [each for name, each in self.segments.items() if name != "all"]


def write_period(calendar: Calendar, column: str) -> str:
    """Write the first day of the period in which a moment, UTC, lies, for the engine."""
    local = f"timezone({text(calendar.timezone)}, timezone('UTC', {column}))"
    shift = -WEEKDAYS.index(calendar.week_start) % 7 if calendar.every == "W" else 0
    days = f"INTERVAL {shift} DAY"
    return f"CAST(date_trunc('{PERIODS[calendar.every]}', {local} + {days}) - {days} AS DATE)"


def _fill(rows: duckdb.DuckDBPyRelation, columns: set[str]) -> duckdb.DuckDBPyRelation:
    """Add the columns that rules read and these rows, which may be few, do not have."""
    known = {name.lower() for name in rows.columns}
    missing = [f"NULL::VARCHAR AS {quote(name)}" for name in sorted(columns) if name.lower() not in known]
    return rows.project(", ".join(["*", *missing]))


def _name_segment(segment: Segment) -> Expression:
    """Name the segment that a unit which enters with a row belongs to, or nothing."""
    name: Expression = ConstantExpression(segment.name)
    if segment.by:
        value = f"coalesce(CAST({quote(segment.by)} AS VARCHAR), {text(NO_VALUE)})"
        name = SQLExpression(f"{text(segment.name + '=')} || {value}")
    return CaseExpression(compile_rule(segment.rule), name) if segment.rule else name.cast("VARCHAR")


def _is_true(rule: Expression) -> Expression:
    return CaseExpression(rule, ConstantExpression(value=True)).otherwise(ConstantExpression(value=False))
