"""Columns and match rules as Ibis expressions that mean the same in every engine, or a refusal that says what to do."""

import datetime as dt
import operator
import re
from collections.abc import Mapping
from typing import Any

import ibis
import ibis.expr.types as ir

from convlib.errors import ParamError
from convlib.fields import STEP
from convlib.mapping import EPOCHS, ColumnSource
from convlib.rules import All, Any_, Rule, Test

ADVICE = 'Change it in the table (a view, or `.mutate` in Ibis), or read with `engine="duckdb"`.'
#: Texts that every engine casts to the same number; twice as long ones overflow in some.
NUMBER = "^ *[+-]?([0-9]{1,200}[.]?[0-9]{0,200}|[.][0-9]{1,200})([eE][+-]?[0-9]{1,2})? *$"
#: Numbers beyond are infinite.
LARGEST = 1e308
#: Microseconds of no time that a log can have: the year 2255.
BEYOND = 9 * 10**15
#: What regular expressions of RE2, PostgreSQL and Java have in common, piece by piece, and how all of them write it.
PIECE = re.compile(r"\\[dw]|\(\?:|\\[^\w\s]|\[\^?[^\[\]\\^]+\]|\((?!\?)|[^\\\[(]", re.DOTALL)
COMMON = {r"\d": "[0-9]", r"\w": "[0-9A-Za-z_]", "(?:": "("}
COMPARE = {"gte": operator.ge, "gt": operator.gt, "lte": operator.le, "lt": operator.lt}


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def convert_to(text: str, encoding: str) -> bytes:  # type: ignore[empty-body]  # it is PostgreSQL's own
    """Give a text's bytes: PostgreSQL orders texts by its collation, everyone else by these."""


def compile_rule(rule: Rule, columns: Mapping[str, ir.Value], *, backend: str) -> ir.BooleanValue:
    """Translate a match rule as `engine.compile_rule` does; null where it can't be told.

    Args:
        rule: The rule.
        columns: The columns that it reads, by their names in lower case.
        backend: Ibis' name of the engine.

    Raises:
        ParamError: Engines would not agree on a test.
    """
    if isinstance(rule, All | Any_):
        join = ibis.and_ if isinstance(rule, All) else ibis.or_
        return join(*(compile_rule(each, columns, backend=backend) for each in rule.rules))
    return _compile_test(rule, columns[rule.column.lower()], backend)


def _compile_test(test: Test, column: ir.Value, backend: str) -> ir.BooleanValue:
    if test.op == "is_null":
        return column.isnull() if test.value else column.notnull()
    if test.op == "in":
        return ibis.or_(*(_equals(test.column, column, value) for value in test.value))
    if test.op == "regex":
        return _search(test, as_text(test.column, column))
    if isinstance(test.value, int | float):
        return COMPARE[test.op](as_number(test.column, column), test.value)
    texts: list[Any] = [as_text(test.column, column), ibis.literal(test.value)]
    return COMPARE[test.op](*([convert_to(text, "UTF8") for text in texts] if backend == "postgres" else texts))


def _equals(name: str, column: ir.Value, value: object) -> ir.BooleanValue:
    if isinstance(value, bool):
        return as_text(name, column).lower() == str(value).lower()
    if isinstance(value, int | float):
        return as_number(name, column) == value
    return as_text(name, column) == str(value)


def _search(test: Test, text: ir.StringValue) -> ir.BooleanValue:
    pattern = test.value.removeprefix("(?i)")
    pieces = PIECE.findall(pattern)
    if "".join(pieces) != pattern:
        raise ParamError(
            f"The pattern {test.value!r} of `{test.column}` has signs that engines read in different ways. Plain ones, "
            "`. ^ $ | ( ) [ ] * + ? { } \\d \\w`, an escaped sign and `(?i)` at its start are the same in all; use "
            'these, or read with `engine="duckdb"`.'
        )
    common = "".join(COMMON.get(piece, piece) for piece in pieces)
    if pattern != test.value:
        text, common = text.lower(), common.lower()
    return text.re_search(f"({common})")


def as_text(name: str, value: ir.Value) -> ir.StringValue:
    """Give a column as text.

    Raises:
        ParamError: Its type has no text that all engines share.
    """
    kind = value.type()
    if kind.is_string():
        return value
    if kind.is_decimal() and kind.scale == 0:
        return value.cast("int64").cast("string")
    if not (kind.is_integer() or kind.is_boolean() or kind.is_date() or kind.is_uuid() or kind.is_null()):
        raise ParamError(f"`{name}` holds {kind}, which engines write as text in different ways. {ADVICE}")
    return value.cast("string")


def as_number(name: str, value: ir.Value) -> ir.FloatingValue:
    """Give a column as numbers, null where it holds none or an infinite one.

    Raises:
        ParamError: Its type is no number's.
    """
    kind = value.type()
    if kind.is_string():
        return ibis.ifelse(value.re_search(NUMBER), value, ibis.null("string")).cast("float64")
    if kind.is_boolean():
        return ibis.cases((value, 1.0), (~value, 0.0))
    if kind.is_integer() or kind.is_null():
        return value.cast("float64")
    if not kind.is_numeric():
        raise ParamError(f"`{name}` holds {kind}, which is no number. {ADVICE}")
    number = value.cast("float64")
    return ibis.ifelse(is_finite(number), number, ibis.null("float64"))


def is_finite(number: ir.FloatingValue) -> ir.BooleanValue:
    """Say which numbers are neither NaN nor infinite; Ibis' own `isinf` is always false on Spark."""
    return number.between(-LARGEST, LARGEST)


def as_time(name: str, value: ir.Value, zone: str) -> ir.Value:
    """Give a column as times, or as whole microseconds since 1970 where it came as a bare number.

    Raises:
        ParamError: It holds text, or times of a zone that it does not carry.
    """
    kind = value.type()
    if kind.is_timestamp() and (kind.timezone or zone == "UTC"):
        return value
    if kind.is_date() and zone == "UTC":
        return value.cast("timestamp")
    if kind.is_integer():
        return value
    what = f"times without a zone, and the mapping says {zone}" if kind.is_timestamp() or kind.is_date() else str(kind)
    raise ParamError(f"`{name}` holds {what}; engines agree only on times with a zone or in UTC. {ADVICE}")


def at(time: ir.Value, microseconds: int) -> ir.Scalar:
    """Write a moment to compare a column of `as_time` with."""
    kind = time.type()
    if kind.is_integer():
        return ibis.literal(microseconds, type="int64")
    moment = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(microseconds=microseconds)
    return ibis.literal(
        moment if kind.timezone else moment.replace(tzinfo=None),
        type=f"timestamp({'UTC'!r})" if kind.timezone else "timestamp",
    )


def read_column(table: ir.Table, name: str, source: ColumnSource) -> ir.Value | None:
    """Read a column as a mapping says; None where an optional one has nothing to be read from.

    Raises:
        ParamError: What the mapping says can't be said in every engine.
    """
    if source.constant is not None:
        return ibis.literal(source.constant)
    if source.expression is not None:
        raise ParamError(f"`{name}` is read by an expression of DuckDB ({source.expression!r}). {ADVICE}")
    found = [field for path in source.column if (field := _find_field(table, path, name)) is not None]
    if not found and source.default is None:
        return None
    if source.format:
        return _read_epoch(name, found, source.format)
    if len(found) == 1 and source.default is None:
        column = found[0]
    else:
        texts = [as_text(name, field).strip().nullif("") for field in found]
        column = ibis.coalesce(*texts, *([] if source.default is None else [ibis.literal(source.default)]))
    return as_text(name, column).replace(".", "").replace(",", ".") if source.decimal == "," else column


def _find_field(table: ir.Table, path: str, name: str) -> ir.Value | None:
    """Find a column, or a field of a structure or an entry of a list inside it."""
    columns = [each for each in table.columns if re.match(rf"{re.escape(each)}($|[.\[])", path, re.IGNORECASE)]
    if not columns:
        return None
    column = max(columns, key=len)
    value = table[column]
    for quoted, dotted, bracket in STEP.findall(path[len(column) :]):
        kind = value.type()
        if kind.is_struct() and not bracket:
            value = value[quoted or dotted]
        elif kind.is_array() and bracket.isdigit():
            value = value[int(bracket)]
        else:
            raise ParamError(f"`{name}` reads {path!r} inside {kind}, which engines do in different ways. {ADVICE}")
    return value


def _read_epoch(name: str, found: list[ir.Value], formats: tuple[str, ...]) -> ir.IntegerValue:
    if len(formats) > 1 or formats[0] not in EPOCHS or not all(each.type().is_integer() for each in found):
        raise ParamError(
            f"`{name}` is read by the format {', '.join(formats)}; in every engine only whole numbers of epoch_s, "
            f"epoch_ms or epoch_us are. {ADVICE}"
        )
    scale = EPOCHS[formats[0]]
    number = ibis.coalesce(*found).cast("int64")
    known = number.between(-BEYOND // scale, BEYOND // scale)
    return ibis.cases((known, number * scale), (number.notnull(), BEYOND))
