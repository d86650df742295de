"""The embedded engine: one connection a process, and match rules as its expressions."""

import functools
import glob
import operator
from pathlib import Path

import duckdb
from duckdb import ConstantExpression, Expression, FunctionExpression, SQLExpression

from convlib.rules import All, Any_, Rule, Test


@functools.cache
def connect() -> duckdb.DuckDBPyConnection:
    """One in-memory engine a process, opened at first use so that a forked process opens its own."""
    connection = duckdb.connect()
    # A file that is rewritten within the same second would be read from the engine's own cache: old rows, or none.
    connection.execute("SET TimeZone = 'UTC'; SET enable_external_file_cache = false")
    if connection.execute("SELECT current_setting('enable_progress_bar')").fetchall()[0][0]:
        # Off already in a notebook without widgets, where to set it is an error.
        connection.execute("SET enable_progress_bar = false")
    number = "TRY_CAST(x AS DOUBLE)"
    connection.execute(f"CREATE MACRO to_number(x) AS CASE WHEN isfinite({number}) THEN {number} END")
    return connection


def quote(name: str) -> str:
    """Write a column's name so that the engine reads it as one, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Write a text so that the engine reads it as one constant, whatever it holds."""
    return "'" + value.replace("'", "''") + "'"


def place(path: str | Path) -> str:
    """Write a file's place so that the engine reads that file alone, whatever its name holds."""
    return text(glob.escape(str(path)))


def scan(path: Path) -> duckdb.DuckDBPyRelation:
    """Open one Parquet file."""
    return connect().sql(f"FROM read_parquet({place(path)})")


def copy(rows: duckdb.DuckDBPyRelation, path: Path) -> None:
    """Write rows as one Parquet file in their own order, which `write_parquet` does not keep for text files."""
    rows.create_view("convlib_copied", replace=True)
    options = "FORMAT parquet, COMPRESSION zstd, PRESERVE_ORDER true"
    connect().execute(f"COPY (FROM convlib_copied) TO {text(str(path))} ({options})")


def compile_rule(rule: Rule) -> Expression:
    """Translate a match rule into an engine expression, with every value passed as a constant, never as SQL text."""
    if isinstance(rule, All):
        return functools.reduce(lambda a, b: a & b, [compile_rule(r) for r in rule.rules])
    if isinstance(rule, Any_):
        return functools.reduce(lambda a, b: a | b, [compile_rule(r) for r in rule.rules])
    return _compile_test(rule)


def _compile_test(test: Test) -> Expression:
    column = SQLExpression(quote(test.column))
    if test.op == "is_null":
        return column.isnull() if test.value else column.isnotnull()
    if test.op == "in":
        hits = [_equals(column, value) for value in test.value]
        return functools.reduce(lambda a, b: a | b, hits)
    if test.op == "regex":
        return FunctionExpression("regexp_matches", column.cast("VARCHAR"), ConstantExpression(test.value))
    is_number = isinstance(test.value, int | float)
    value = FunctionExpression("to_number", column) if is_number else column.cast("VARCHAR")
    compare = {"gte": operator.ge, "gt": operator.gt, "lte": operator.le, "lt": operator.lt}[test.op]
    result: Expression = compare(value, ConstantExpression(test.value))
    return result


def _equals(column: Expression, value: object) -> Expression:
    if isinstance(value, bool):
        return FunctionExpression("lower", column.cast("VARCHAR")) == ConstantExpression(str(value).lower())
    if isinstance(value, int | float):
        return FunctionExpression("to_number", column) == ConstantExpression(value)
    return column.cast("VARCHAR") == ConstantExpression(str(value))
