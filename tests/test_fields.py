import pytest
from duckdb import SQLExpression

from convlib.engine import connect
from convlib.errors import EventDataError
from convlib.fields import Fields

#: One row with fields nested in every way, as text and in the engine's own types.
NESTED = """
    SELECT 'u1' AS user, '' AS empty, 7 AS number, '{"a": {"b c": 1, "d": [5, 6]}, "n": null, "$x": "y"}' AS text,
           '[{"key": "k", "value": {"string_value": null, "int_value": "3"}}, {"key": "p", "value": "plain"}]' AS pairs,
           {'a': {'b c': 1, 'd': [5, 6]}} AS struct, MAP {'b.c': 'm'} AS map, [{'key': 'k', 'value': 3}] AS list,
           'exact' AS "text.a", 'q' AS "odd ""name' --"
"""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param("user", "u1", id="a column"),
        pytest.param("USER", "u1", id="a column whatever its case"),
        pytest.param("text.n", None, id="null in JSON"),
        pytest.param("text.$x", "y", id="JSON text"),
        pytest.param('text."$x"', "y", id="a quoted name"),
        pytest.param("text.a", "exact", id="an exact name before a path"),
        pytest.param('text."a".d', "[5,6]", id="a list in JSON"),
        pytest.param('text."a".b c', "1", id="JSON text, deeper"),
        pytest.param('text."a".d[1]', "6", id="an index in JSON"),
        pytest.param("text.unknown", None, id="a field that JSON text lacks"),
        pytest.param("pairs[k]", "3", id="key and value in JSON"),
        pytest.param("pairs[p]", "plain", id="key and plain value in JSON"),
        pytest.param("pairs[k].int_value", "3", id="inside a value in JSON"),
        pytest.param("pairs[x]", None, id="a key that JSON text lacks"),
        pytest.param("struct.a.b c", 1, id="a struct"),
        pytest.param("struct.a.d[0]", 5, id="a list in a struct"),
        pytest.param("map[b.c]", "m", id="a map"),
        pytest.param("map.x", None, id="a key that a map lacks"),
        pytest.param("list[k]", 3, id="key and value in a list"),
        pytest.param("list[0].value", 3, id="an entry of a list"),
        pytest.param("odd \"name' --", "q", id="a name with quotes and SQL"),
    ],
)
def test_fields_find_reads(path: str, value: object) -> None:
    fields = Fields("log", connect().sql(NESTED))
    assert read(fields, path) == [value]


def read(fields: Fields, path: str) -> list[object]:
    field = fields.find(path, reader="x")
    return [value for (value,) in fields.select([SQLExpression(field.sql)]).fetchall()]


def test_fields_find_reads_broken_json_as_null() -> None:
    fields = Fields("log", connect().sql("""SELECT unnest(['{"a": 1}', '{bad', '', '[1]', 'null', NULL]) AS json"""))
    assert read(fields, "json.a") == ["1", None, None, None, None, None]
    assert read(fields, "json[a]") == [None] * 6


def test_fields_find_reads_the_same_from_every_form_of_a_list() -> None:
    pairs = "[{'key': 'k', 'value': {'text': NULL, 'number': 3}}, {'key': 'l', 'value': {'text': 't', 'number': NULL}}]"
    wrapped = f"{{'list': list_transform({pairs}, lambda e: {{'element': e}})}}"
    fields = Fields(
        "log", connect().sql(f"SELECT {pairs} AS a, {wrapped} AS b, CAST(to_json({pairs}) AS VARCHAR) AS c")
    )
    assert [read(fields, f"{name}[{key}]") for name in "abc" for key in "klm"] == [["3"], ["t"], [None]] * 3


def test_fields_parse_each_json_text_once() -> None:
    fields = Fields("log", connect().sql("""SELECT '{"a": 1, "b": 2}' AS json"""))
    wanted = [SQLExpression(fields.find(path, reader="x").sql) for path in ("json.a", "json.b", "json.a")]
    found = fields.select(wanted)
    assert found.fetchall() == [("1", "2", "1")]
    assert found.sql_query().count("json_extract_string") == 1


@pytest.mark.parametrize("actions", ["[{'type': 'x'}, {'type': 'y'}]", """'[{"type": "x"}, {"type": "y"}]'"""])
def test_fields_unnest_gives_a_row_for_each_entry(actions: str) -> None:
    fields = Fields("log", connect().sql(f"SELECT {actions} AS actions UNION ALL SELECT NULL")).unnest("actions")
    assert read(fields, "actions.type") == ["x", "y", None]


def test_fields_unnest_keeps_a_row_whose_list_is_empty_or_broken() -> None:
    fields = Fields("log", connect().sql("SELECT unnest(['[{', '[]', '{}', 'x']) AS actions")).unnest("actions")
    assert read(fields, "actions.type") == [None] * 4


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("usr", "there is no 'usr'; there are 'user', 'struct', 'number', 'list'. Did you mean 'user'?"),
        ("struct.a.d2", "there is no 'd2'; there are 'd'. Did you mean 'd'?"),
        ("struct.a[0]", "there is no '[0]'; there are 'd'."),
        ("number.x", "there is no 'x'; it holds no fields."),
        ("list[k]", "there is no '[k]'; it holds no fields."),
        ("user..x", "there is no '..x'; there are 'user', 'struct', 'number', 'list'."),
    ],
)
def test_fields_find_names_what_is_not_there(path: str, problem: str) -> None:
    rows = "SELECT 'u' AS user, {'a': {'d': 1}} AS struct, 7 AS number, [1] AS list, 'f' AS \"convlib file\""
    with pytest.raises(EventDataError) as caught:
        Fields("log.csv", connect().sql(rows)).find(path, reader="geo")
    assert str(caught.value) == f"`log.csv`: `geo` reads {path!r}, but {problem}"
