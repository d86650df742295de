"""The segments file: named sets of units, or of rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from convlib.documents import FieldError, FieldPath, read_document, show_value, word_choice
from convlib.errors import PlanError
from convlib.rules import Rule, read_rule

Scope = Literal["unit", "event"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Segment:
    """A named set.

    Args:
        name: Its name in the file.
        rule: Which entry events (or, with scope `event`, rows) belong to it; None for every one.
        scope: `unit` keeps all events of the units whose entry event matches, `event` keeps matching rows.
        by: A column that makes one segment of each of its values.
        path: The file that it stands in; empty for one made in Python.
        place: Where it stands there, as `file:line`.
    """

    name: str
    rule: Rule | None = None
    scope: Scope = "unit"
    by: str | None = None
    path: str = field(default="", compare=False, repr=False)
    place: str = field(default="", compare=False, repr=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the log that it reads."""
        return tuple(sorted({*(self.rule.columns if self.rule else ()), *([self.by] if self.by else [])}))


def read_segments(path: str | Path) -> dict[str, Segment]:
    """Read which segments there are.

    Args:
        path: A YAML file of `name: {column: value, ...}`, with `scope: event` or `by: column` beside the rule.

    Returns:
        Segments by name, `all` (everything) first.

    Raises:
        PlanError: The file can't be read or a segment is wrong; every problem is listed.
    """
    document = read_document(path)
    if not isinstance(document.data, dict):
        text = f"is {show_value(document.data)}; it must hold segments such as `mobile: {{device_type: mobile}}`."
        raise PlanError(document.problem((), text))
    segments = {"all": Segment("all")}
    problems: list[tuple[FieldPath, str]] = []
    for name, raw in document.data.items():
        try:
            segments[name] = _read_segment(name, raw)
        except FieldError as error:
            problems += [((name, *where), text) for where, text in error.problems]
    if problems:
        raise PlanError(*(document.problem(where, text) for where, text in problems))
    return {
        name: replace(segment, path=str(path), place=document.locate((name, "by")))
        for name, segment in segments.items()
    }


def _read_segment(name: str, raw: Any) -> Segment:
    problems = find_name_problems(name, raw)
    if not isinstance(raw, Mapping):
        raise FieldError(
            [*problems, ((), f"is {show_value(raw)}; it must be a mapping such as {{device_type: mobile}}.")]
        )
    scope, by = raw.get("scope", "unit"), raw.get("by")
    if scope not in SCOPES:
        problems.append((("scope",), word_choice(scope, SCOPES)))
    if "by" in raw and (not isinstance(by, str) or not by):
        problems.append((("by",), f"is {show_value(by)}; it must be the name of one column."))
    rule = None
    columns = {key: value for key, value in raw.items() if key not in {"scope", "by"}}
    if columns or ("by" not in raw and name != "all"):
        try:
            rule = read_rule(columns)
        except FieldError as error:
            problems += error.problems
    if problems:
        raise FieldError(problems)
    return Segment(name, rule, scope, by)


def find_name_problems(name: str, raw: object) -> list[tuple[FieldPath, str]]:
    """Say what is wrong with a segment's name."""
    if name == "all" and raw:
        return [((), "means every unit and can't be changed. Give this segment another name.")]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_. -]*", name) or ".." in name:
        return [((), "is not a name for a segment; use letters, digits, _, and inside it also - . and space.")]
    return []
