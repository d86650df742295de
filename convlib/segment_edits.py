"""A segment added to a segments file as if by hand: its comments and layout stay."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from convlib.documents import read_document
from convlib.errors import ParamError, PlanError, list_problems
from convlib.files import write_text
from convlib.plan_edits import PlanEdit
from convlib.rules import All, Rule, Test
from convlib.segments import Segment, find_name_problems, read_segments


def add_segment(path: str, name: str, raw: Mapping[str, Any]) -> dict[str, Segment]:
    """Write a segment at the end of a segments file, whose comments and layout stay.

    Args:
        path: The file.
        name: The new segment's name.
        raw: What it says, as in the file.

    Returns:
        The file's segments.

    Raises:
        ParamError: The name is none or taken, or the log has no segments file.
        PlanError: The file can't be changed.
    """
    if not path:
        raise ParamError('The log has no segments file. Read it with read_events(..., segments="segments.yaml").')
    document = read_document(path)
    if problems := find_name_problems(name, raw):
        raise ParamError(*(f"`{name}` {text}" for _, text in problems))
    if name in document.data or name == "all":
        raise ParamError(f"`{name}` is in {path} already. Choose another name.")
    before = Path(path).read_bytes().decode("utf-8")
    newline = "\r\n" if "\r\n" in before else "\n"
    entry = yaml.safe_dump({name: dict(raw)}, default_flow_style=None, sort_keys=False, allow_unicode=True, width=1000)
    joint = "" if before.endswith("\n") else newline
    after = before + joint + entry.replace("\n", newline)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder, "segments.yaml")
        write_text(scratch, after)
        wrong = list_problems(lambda: read_segments(scratch))
        same = not wrong and read_document(scratch).data == {**document.data, name: dict(raw)}
    if not same:
        raise PlanError(f"{path}: its layout does not allow adding a segment. Add it by hand: {entry.strip()}")
    PlanEdit(path, before, after, ()).write()
    return read_segments(path)


def describe_rule(rule: Rule) -> dict[str, Any]:
    """Give a rule as it stands in a file; `parse_rule` reads it back."""
    if isinstance(rule, Test):
        if rule.op != "in":
            return {rule.column: {rule.op: rule.value}}
        return {rule.column: rule.value[0] if len(rule.value) == 1 else list(rule.value)}
    parts = [describe_rule(each) for each in rule.rules]
    if not isinstance(rule, All):
        return {"any": parts}
    joint = {key: value for part in parts for key, value in part.items()}
    return joint if len(joint) == sum(map(len, parts)) else {"all": parts}
