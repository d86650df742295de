import pandas as pd
import pytest

from convlib.engine import compile_rule, connect, quote
from convlib.rules import parse_rule

RULED = pd.DataFrame(
    {
        "row": range(6),
        "text": ["10", "9", "abc", "true", None, "10.0"],
        "number": [10.0, 9, -1, 1, None, 10],
        "flag": [True, False, True, True, None, False],
        "moment": ["2026-01-10", "2026-01-09", "2025-12-31", "2026-02-01", None, "2026-01-10"],
    }
)


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ({"text": "abc"}, [2]),
        ({"text": ["abc", "9"]}, [1, 2]),
        ({"text": 10}, [0, 5]),
        ({"text": True}, [3]),
        ({"flag": True}, [0, 2, 3]),
        ({"flag": False}, [1, 5]),
        ({"number": 10}, [0, 5]),
        ({"number": {"gte": 9, "lt": 10}}, [1]),
        ({"number": {"gt": 9}}, [0, 5]),
        ({"number": {"lte": 1}}, [2, 3]),
        ({"text": {"gte": 9.5}}, [0, 5]),
        ({"moment": {"gte": "2026-01-10"}}, [0, 3, 5]),
        ({"text": {"regex": "^[a-z]+$"}}, [2, 3]),
        ({"number": {"regex": "^1"}}, [0, 3, 5]),
        ({"text": {"is_null": True}}, [4]),
        ({"text": {"is_null": False}, "number": 10}, [0, 5]),
        ({"any": [{"text": "abc"}, {"all": [{"number": 10}, {"flag": True}]}]}, [0, 2]),
    ],
)
def test_compile_rule_chooses_rows(rule: dict[str, object], rows: list[int]) -> None:
    relation = connect().from_df(RULED).filter(compile_rule(parse_rule(rule))).project('"row"')
    assert sorted(row for (row,) in relation.fetchall()) == rows


def test_quote_makes_one_name_of_anything() -> None:
    name = 'a "b"; DROP TABLE x --'
    relation = connect().from_df(pd.DataFrame({name: [7]})).project(quote(name))
    assert relation.columns == [name]
    assert relation.fetchall() == [(7,)]


def test_to_number_takes_finite_numbers_only() -> None:
    texts = pd.DataFrame({"x": ["1.5", "1e3", "abc", "inf", "nan", "", None]})
    found = connect().from_df(texts).project("to_number(x)").fetchall()
    assert found == [(1.5,), (1000.0,), (None,), (None,), (None,), (None,), (None,)]
