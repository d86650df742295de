from collections.abc import Iterator
from typing import Any

import ibis
import pandas as pd
import pyarrow as pa
import pytest

from convlib import engine
from convlib.errors import ParamError
from convlib.mapping import Mapping, apply_mapping
from convlib.portable import ADVICE, as_number, as_text, as_time, at, compile_rule, read_column
from convlib.rules import Test, parse_rule

ROWS = pd.DataFrame(
    {
        "row": range(8),
        "word": ["pay", "Pay", "", None, "a.b", "axb", "ümlaut", "/p/12"],
        "digits": ["1", " 1.50 ", "1e2", "free", None, "", "-.5", "inf"],
        "amount": [1.0, 1.5, None, float("nan"), float("inf"), -0.5, 100.0, 1e307],
        "count": [1, 2, 3, 4, 5, 6, 7, 8],
        "flag": pd.array([True, False, None, True, False, None, True, False], dtype="boolean"),
    }
)
RULES: list[dict[str, Any]] = [
    {"word": "pay"},
    {"word": ["pay", "Pay", "nothing"]},
    {"word": {"regex": "^[a-z][.]?"}},
    {"word": {"regex": r"a\.b|^/p/\d+$"}},
    {"word": {"regex": "(?i)^PA(?:Y|IN)"}},
    {"word": {"regex": r"^\w+$"}},
    {"word": {"is_null": True}},
    {"word": {"is_null": False}},
    {"word": {"gte": "b"}},
    {"word": {"lt": "Q"}},
    {"digits": 1},
    {"digits": {"gt": 0.5, "lte": 100}},
    {"digits": {"lt": 0}},
    {"amount": {"gte": 1.5}},
    {"amount": [1, 100]},
    {"count": {"gt": 2, "lt": 5}},
    {"count": ["3", "4"]},
    {"count": {"gte": "5"}},
    {"flag": True},
    {"flag": "false"},
    {"flag": {"gt": 0}},
    {"any": [{"word": "pay"}, {"count": 3, "flag": {"is_null": True}}]},
    {"all": [{"any": [{"count": {"lte": 4}}, {"word": "axb"}]}, {"amount": {"gt": 0}}]},
]


@pytest.fixture(scope="module")
def table() -> Iterator[Any]:
    connection = ibis.duckdb.connect()
    yield connection.create_table("rows", pa.Table.from_pandas(ROWS))
    connection.disconnect()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_compile_rule_means_what_it_means_to_this_machines_engine(table: Any, rule: dict[str, Any]) -> None:
    columns = {name: table[name] for name in table.columns}
    meant = table.filter(compile_rule(parse_rule(rule), columns, backend="duckdb"))
    ours = engine.connect().from_df(ROWS).filter(engine.compile_rule(parse_rule(rule))).project("row").fetchall()
    assert sorted(meant.to_pyarrow()["row"].to_pylist()) == sorted(row for (row,) in ours)


def test_compile_rule_compares_bytes_where_a_database_has_an_order_of_its_own(table: Any) -> None:
    rule = compile_rule(Test("word", "gte", "b"), {"word": table.word}, backend="postgres")
    assert "CONVERT_TO(\"t0\".\"word\", 'UTF8') >= CONVERT_TO('b', 'UTF8')" in ibis.to_sql(
        table.filter(rule), dialect="postgres"
    )


@pytest.mark.parametrize("pattern", [r"\bpay\b", r"^\s", "(?s)a.b", "[[:alpha:]]", r"[\d_]"])
def test_compile_rule_refuses_a_pattern_that_engines_read_in_different_ways(table: Any, pattern: str) -> None:
    with pytest.raises(ParamError) as caught:
        compile_rule(Test("word", "regex", pattern), {"word": table.word}, backend="duckdb")
    assert str(caught.value) == (
        f"The pattern {pattern!r} of `word` has signs that engines read in different ways. Plain ones, "
        "`. ^ $ | ( ) [ ] * + ? { } \\d \\w`, an escaped sign and `(?i)` at its start are the same in all; use these, "
        'or read with `engine="duckdb"`.'
    )


TYPES = ibis.table(
    {
        "text": "string",
        "day": "date",
        "price": "float64",
        "id": "decimal(38, 0)",
        "moment": "timestamp",
        "zoned": "timestamp('UTC')",
        "micros": "int64",
        "about": "json",
    },
    name="types",
)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: as_text("price", TYPES.price),
            "`price` holds float64, which engines write as text in different ways.",
        ),
        (lambda: as_text("about", TYPES.about), "`about` holds json, which engines write as text in different ways."),
        (lambda: as_number("day", TYPES.day), "`day` holds date, which is no number."),
        (
            lambda: as_time("timestamp", TYPES.text, "UTC"),
            "`timestamp` holds string; engines agree only on times with a zone or in UTC.",
        ),
        (
            lambda: as_time("timestamp", TYPES.moment, "Europe/Paris"),
            "`timestamp` holds times without a zone, and the mapping says Europe/Paris; engines agree only on times "
            "with a zone or in UTC.",
        ),
    ],
)
def test_columns_of_other_types_are_refused(call: Any, said: str) -> None:
    with pytest.raises(ParamError) as caught:
        call()
    assert str(caught.value) == f"{said} {ADVICE}"


def test_as_text_gives_whole_decimals_as_digits_alone() -> None:
    assert 'CAST(CAST("t0"."id" AS BIGINT) AS VARCHAR)' in str(ibis.to_sql(as_text("id", TYPES.id), dialect="postgres"))


@pytest.mark.parametrize(
    ("column", "sql"),
    [
        ("moment", "CAST('2024-01-01T00:00:00.000001' AS TIMESTAMP)"),
        ("zoned", "CAST('2024-01-01T00:00:00.000001+00:00' AS TIMESTAMPTZ)"),
        ("micros", "1704067200000001"),
    ],
)
def test_at_writes_a_moment_in_the_columns_own_type(column: str, sql: str) -> None:
    moment = at(as_time(column, TYPES[column], "UTC"), 1_704_067_200_000_001)
    assert sql in str(ibis.to_sql(TYPES.filter(TYPES[column] < moment), dialect="postgres"))


NESTED = """
    SELECT * FROM (VALUES
        ('a', ' x ', {'city': 'Rome', 'at': {'zip': 7}}, ['p', 'q'], '1.234,50', 1704067200, 1704067200500),
        ('b', '', {'city': '', 'at': {'zip': 8}}, [], '7', NULL, -1)
    ) AS rows(word, other, place, items, price, seconds, millis)
"""
#: Where a column comes from, and what it holds in the two rows.
SOURCES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "a column": ({"column": "word"}, ["a", "b"]),
    "the first one filled": ({"column": ["other", "word"]}, ["x", "b"]),
    "a default": ({"column": "place.city", "default": "nowhere"}, ["Rome", "nowhere"]),
    "a field of a field": ({"column": "place.at.zip"}, [7, 8]),
    "an entry of a list": ({"column": "items[1]"}, ["q", None]),
    "a constant": ({"constant": "web"}, ["web", "web"]),
    "a decimal comma": ({"column": "price", "decimal": ","}, ["1234.50", "7"]),
    "a missing optional column": ({"column": ["nothing", "word"], "optional": True}, ["a", "b"]),
}


@pytest.fixture(scope="module")
def nested() -> Iterator[Any]:
    connection = ibis.duckdb.connect()
    connection.raw_sql(f"CREATE TABLE nested AS {NESTED}")
    yield connection.table("nested")
    connection.disconnect()


@pytest.mark.parametrize("case", SOURCES)
def test_read_column_reads_what_the_mapping_reads_here(nested: Any, case: str) -> None:
    given, values = SOURCES[case]
    source = Mapping.model_validate({"columns": {"found": given}}).columns["found"]
    column = read_column(nested, "found", source)
    assert nested.select(found=column).to_pyarrow()["found"].to_pylist() == values
    here = apply_mapping(engine.connect().sql(NESTED), Mapping(columns={"found": source}), label="nested")
    assert [each for (each,) in here.project("found").fetchall()] == values


@pytest.mark.parametrize(
    ("given", "micros"),
    [
        ({"column": "seconds", "format": "epoch_s"}, [1_704_067_200_000_000, None]),
        ({"column": ["seconds", "millis"], "format": "epoch_ms"}, [1_704_067_200_000, -1000]),
        ({"column": "millis", "format": "epoch_us"}, [1_704_067_200_500, -1]),
    ],
)
def test_read_column_gives_bare_numbers_as_microseconds(nested: Any, given: Any, micros: list[int | None]) -> None:
    source = Mapping.model_validate({"columns": {"timestamp": given}}).columns["timestamp"]
    found = nested.select(time=read_column(nested, "timestamp", source)).to_pyarrow()
    assert found["time"].to_pylist() == micros


def test_read_column_gives_nothing_where_an_optional_column_is_missing(nested: Any) -> None:
    source = Mapping.model_validate({"columns": {"geo": {"column": "nothing", "optional": True}}}).columns["geo"]
    assert read_column(nested, "geo", source) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"expression": "upper(word)"}, "`geo` is read by an expression of DuckDB ('upper(word)')."),
        (
            {"column": "word", "format": "%d/%m/%Y"},
            "`geo` is read by the format %d/%m/%Y; in every engine only whole numbers of epoch_s, epoch_ms or epoch_us "
            "are.",
        ),
        (
            {"column": "word.city"},
            "`geo` reads 'word.city' inside string, which engines do in different ways.",
        ),
    ],
)
def test_read_column_refuses_what_engines_can_not_share(nested: Any, given: Any, said: str) -> None:
    source = Mapping.model_validate({"columns": {"geo": given}}).columns["geo"]
    with pytest.raises(ParamError) as caught:
        read_column(nested, "geo", source)
    assert str(caught.value) == f"{said} {ADVICE}"
