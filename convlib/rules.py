"""Match rules: which rows of a log a conversion or a segment means, as a small tree."""

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convlib.documents import FieldError, FieldPath, did_you_mean, name_field, quote_names, show_value
from convlib.errors import PlanError

Scalar = str | int | float | bool
Operator = Literal["in", "regex", "gte", "gt", "lte", "lt", "is_null"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
MAPPING_OPERATORS = OPERATORS[1:]
_SIGNS = {"regex": "matches", "gte": "≥", "gt": ">", "lte": "≤", "lt": "<"}


@dataclass(frozen=True)
class Test:
    """One column tested.

    Args:
        column: The column's name.
        op: `in` (equal to one of the values), `regex` (found in the text), `gte`, `gt`, `lte`, `lt` or `is_null`.
        value: A tuple of values for `in`, the pattern for `regex`, True or False for `is_null`, else a number or text.
    """

    __test__ = False  # pytest would collect a class of this name

    column: str
    op: Operator
    value: Any

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the rule reads."""
        return frozenset({self.column})

    def __str__(self) -> str:
        """Return the rule in words."""
        if self.op == "in":
            return f"{self.column} = {' or '.join(map(str, self.value))}"
        if self.op == "is_null":
            return f"{self.column} is {'empty' if self.value else 'not empty'}"
        return f"{self.column} {_SIGNS[self.op]} {self.value}"


@dataclass(frozen=True)
class All:
    """Every one of its rules must hold."""

    rules: tuple["Rule", ...]

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the rules read."""
        return frozenset[str]().union(*(rule.columns for rule in self.rules))

    def __str__(self) -> str:
        """Return the rules in words."""
        return " and ".join(f"({rule})" if isinstance(rule, Any_) else str(rule) for rule in self.rules)


@dataclass(frozen=True)
class Any_:  # noqa: N801 - `Any` is typing's
    """At least one of its rules must hold."""

    rules: tuple["Rule", ...]

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the rules read."""
        return frozenset[str]().union(*(rule.columns for rule in self.rules))

    def __str__(self) -> str:
        """Return the rules in words."""
        return " or ".join(f"({rule})" if isinstance(rule, All) else str(rule) for rule in self.rules)


Rule = Test | All | Any_


def list_tests(rule: Rule) -> list[Test]:
    """List the tests of single columns that a rule is made of."""
    return [rule] if isinstance(rule, Test) else [test for part in rule.rules for test in list_tests(part)]


def parse_rule(raw: Mapping[str, Any]) -> Rule:
    """Read which rows are meant from a mapping of columns to values.

    Several keys must all hold; a list is "any of"; `all` and `any` hold lists of rules; a column may be given a mapping
    with `regex` (RE2, found anywhere in the text), `gte`, `gt`, `lte`, `lt`, `is_null`.

    Args:
        raw: Such as `{"event_name": ["purchase", "Order Completed"], "value": {"gte": 10}}`.

    Returns:
        The rule as a tree of `Test`, `All` and `Any_`.

    Raises:
        PlanError: The rule is empty or has a wrong value or operator; every problem is listed.
    """
    try:
        return read_rule(raw)
    except FieldError as error:
        raise PlanError(*(f"{name_field(where, raw, root='rule')} {text}" for where, text in error.problems)) from None


def read_rule(raw: object) -> Rule:
    """Do as `parse_rule`, but raise `FieldError`, for a caller that knows where the rule stands."""
    problems: list[tuple[FieldPath, str]] = []
    rule = _read_mapping(raw, (), problems)
    if problems or rule is None:
        raise FieldError(problems)
    return rule


Problems = list[tuple[FieldPath, str]]


def _read_mapping(raw: object, where: FieldPath, problems: Problems) -> Rule | None:
    if not isinstance(raw, Mapping):
        problems.append((where, f"is {show_value(raw)}; it must be a mapping such as {{event_name: purchase}}."))
        return None
    if not raw:
        problems.append((where, "is empty; name at least one column, such as {event_name: purchase}."))
        return None
    rules = [_read_entry(str(key), value, (*where, str(key)), problems) for key, value in raw.items()]
    return _join(All, rules)


def _read_entry(key: str, value: object, where: FieldPath, problems: Problems) -> Rule | None:
    if key in {"all", "any"}:
        return _read_group(key, value, where, problems)
    if isinstance(value, Mapping):
        return _read_operators(key, value, where, problems)
    values = [_plain(each) for each in value] if isinstance(value, list | tuple) else [_plain(value)]
    if not values:
        problems.append((where, "is an empty list; it must hold at least one value."))
    for i, each in enumerate(values):
        place = (*where, i) if isinstance(value, list | tuple) else where
        problems.extend((place, text) for text in _find_value_problems(each))
    return Test(key, "in", tuple(values))


def _read_group(key: str, value: object, where: FieldPath, problems: Problems) -> Rule | None:
    if not isinstance(value, list | tuple) or not value:
        problems.append((where, f"is {show_value(value)}; it must be a list of at least one rule."))
        return None
    rules = [_read_mapping(each, (*where, i), problems) for i, each in enumerate(value)]
    return _join(All if key == "all" else Any_, rules)


def _read_operators(column: str, raw: Mapping[Any, Any], where: FieldPath, problems: Problems) -> Rule | None:
    if not raw:
        problems.append((where, f"is empty; it must be a value, a list or one of {quote_names(MAPPING_OPERATORS)}."))
    tests: list[Rule | None] = []
    for name, value in raw.items():
        op = next((each for each in MAPPING_OPERATORS if each == name), None)
        if op is None:
            near = did_you_mean(name, MAPPING_OPERATORS)
            text = f"has an unknown operator {name!r}; it may be {quote_names(MAPPING_OPERATORS)}.{near}"
            problems.append((where, text))
            continue
        operand = _plain(value)
        problems.extend(((*where, op), text) for text in _find_operand_problems(op, operand))
        tests.append(Test(column, op, operand))
    return _join(All, tests)


def _join(kind: type[All] | type[Any_], rules: list[Rule | None]) -> Rule | None:
    found = tuple(rule for rule in rules if rule is not None)
    if len(found) == 1:
        return found[0]
    return kind(found) if found else None


def _find_value_problems(value: object) -> list[str]:
    if value is None:
        return ["is empty; write {is_null: true} for rows without a value."]
    if not isinstance(value, Scalar) or _is_not_finite(value):
        return [f"is {show_value(value)}; it must be text, a number, true or false."]
    return []


def _find_operand_problems(op: Operator, value: object) -> list[str]:
    if op == "is_null":
        return [] if isinstance(value, bool) else [f"is {show_value(value)}; it must be true or false."]
    if op == "regex":
        return _find_regex_problems(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or _is_not_finite(value):
        return [f"is {show_value(value)}; it must be one number, date or text."]
    return []


def _find_regex_problems(value: object) -> list[str]:
    """Ask RE2 itself, the engine that DuckDB matches with."""
    if not isinstance(value, str) or not value:
        return [f"is {show_value(value)}; it must be a regular expression as text, such as ^/product/."]
    try:
        pc.match_substring_regex(pa.array([""]), value)
    except pa.ArrowInvalid as error:
        reason = str(error).removeprefix("Invalid regular expression: ")
        return [f"is {show_value(value)}; it is not a regular expression of RE2's syntax ({reason})."]
    return []


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _plain(value: Any) -> Any:
    """Turn numpy's scalars into Python's, and dates into text."""
    value = value.item() if isinstance(value, np.generic) else value
    return value.isoformat() if isinstance(value, datetime.date) else value
