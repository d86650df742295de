import datetime
from typing import Any

import numpy as np
import pytest

from convlib.errors import PlanError
from convlib.rules import All, Any_, Rule, Test, parse_rule

PURCHASE = Test("event_name", "in", ("purchase",))


@pytest.mark.parametrize(
    ("raw", "rule", "words"),
    [
        ({"event_name": "purchase"}, PURCHASE, "event_name = purchase"),
        ({"device": ["phone", 7, True]}, Test("device", "in", ("phone", 7, True)), "device = phone or 7 or True"),
        (
            {"event_name": "purchase", "source": "app"},
            All((PURCHASE, Test("source", "in", ("app",)))),
            "event_name = purchase and source = app",
        ),
        ({"page": {"regex": "^/p"}}, Test("page", "regex", "^/p"), "page matches ^/p"),
        (
            {"value": {"gte": 1, "lt": 5.5}},
            All((Test("value", "gte", 1), Test("value", "lt", 5.5))),
            "value ≥ 1 and value < 5.5",
        ),
        ({"geo": {"is_null": True}}, Test("geo", "is_null", True), "geo is empty"),
        ({"geo": {"is_null": False}}, Test("geo", "is_null", False), "geo is not empty"),
        ({"any": [{"event_name": "purchase"}]}, PURCHASE, "event_name = purchase"),
        (
            {"any": [{"event_name": "purchase"}, {"a": 1, "b": 2}]},
            Any_((PURCHASE, All((Test("a", "in", (1,)), Test("b", "in", (2,)))))),
            "event_name = purchase or (a = 1 and b = 2)",
        ),
        (
            {"c": 3, "any": [{"a": 1}, {"b": 2}]},
            All((Test("c", "in", (3,)), Any_((Test("a", "in", (1,)), Test("b", "in", (2,)))))),
            "c = 3 and (a = 1 or b = 2)",
        ),
        ({"all": [{"a": 1}, {"a": {"gt": 2}}]}, All((Test("a", "in", (1,)), Test("a", "gt", 2))), "a = 1 and a > 2"),
        ({"day": {"lte": datetime.date(2026, 1, 31)}}, Test("day", "lte", "2026-01-31"), "day ≤ 2026-01-31"),
        ({"a": np.int64(1)}, Test("a", "in", (1,)), "a = 1"),
    ],
)
def test_parse_rule_reads(raw: dict[str, Any], rule: Rule, words: str) -> None:
    assert parse_rule(raw) == rule
    assert str(parse_rule(raw)) == words


def test_parse_rule_gives_python_numbers_for_numpy_ones() -> None:
    rule = parse_rule({"a": np.int64(1)})
    assert isinstance(rule, Test)
    assert type(rule.value[0]) is int


def test_columns_are_those_of_every_nested_rule() -> None:
    rule = parse_rule({"a": 1, "any": [{"b": 2}, {"all": [{"c": 3}, {"d": {"is_null": True}}]}]})
    assert rule.columns == {"a", "b", "c", "d"}


OPERATORS = "'regex', 'gte', 'gt', 'lte', 'lt', 'is_null'"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "rule is empty; name at least one column, such as {event_name: purchase}."),
        ("purchase", "rule is 'purchase'; it must be a mapping such as {event_name: purchase}."),
        ({"a": None}, "rule.a is empty; write {is_null: true} for rows without a value."),
        ({"a": []}, "rule.a is an empty list; it must hold at least one value."),
        ({"a": [1, None]}, "rule.a[1] is empty; write {is_null: true} for rows without a value."),
        ({"a": [[1]]}, "rule.a[0] is [1]; it must be text, a number, true or false."),
        ({"a": float("nan")}, "rule.a is nan; it must be text, a number, true or false."),
        ({"a": {}}, f"rule.a is empty; it must be a value, a list or one of {OPERATORS}."),
        (
            {"a": {"regexp": "x"}},
            f"rule.a has an unknown operator 'regexp'; it may be {OPERATORS}. Did you mean 'regex'?",
        ),
        ({"a": {"gte": True}}, "rule.a.gte is True; it must be one number, date or text."),
        ({"a": {"lt": [1]}}, "rule.a.lt is [1]; it must be one number, date or text."),
        ({"a": {"is_null": "yes"}}, "rule.a.is_null is 'yes'; it must be true or false."),
        ({"a": {"regex": 1}}, "rule.a.regex is 1; it must be a regular expression as text, such as ^/product/."),
        (
            {"a": {"regex": "x(?=y)"}},
            "rule.a.regex is 'x(?=y)'; it is not a regular expression of RE2's syntax (invalid perl operator: (?=).",
        ),
        ({"any": []}, "rule.any is []; it must be a list of at least one rule."),
        ({"all": {"a": 1}}, "rule.all is {'a': 1}; it must be a list of at least one rule."),
        ({"any": [{"a": 1}, {}]}, "rule.any[1] is empty; name at least one column, such as {event_name: purchase}."),
    ],
)
def test_parse_rule_says_what_would_be_right(raw: Any, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_rule(raw)
    assert str(caught.value) == message


def test_parse_rule_lists_every_problem() -> None:
    with pytest.raises(PlanError) as caught:
        parse_rule({"a": None, "any": [{"b": {"gt": None}}]})
    assert caught.value.problems == (
        "rule.a is empty; write {is_null: true} for rows without a value.",
        "rule.any[0].b.gt is None; it must be one number, date or text.",
    )
