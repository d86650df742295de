from pathlib import Path
from typing import Any

import pytest

from convlib.errors import ConvlibError
from convlib.rules import parse_rule
from convlib.segment_edits import add_segment, describe_rule


@pytest.mark.parametrize(
    "raw",
    [
        {"device": "phone"},
        {"device": ["phone", "desk"], "visits": 3},
        {"value": {"gte": 10, "lt": 20}},
        {"any": [{"geo": "NO"}, {"page": {"regex": "^/a"}, "paid": True}]},
        {"campaign": {"is_null": True}, "code": "007"},
    ],
    ids=str,
)
def test_describe_rule_is_read_back_as_the_same_rule(raw: dict[str, Any]) -> None:
    assert parse_rule(describe_rule(parse_rule(raw))) == parse_rule(raw)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: {x: 1}  # one\n", "a: {x: 1}  # one\nnew: {geo: 'NO'}\n"),
        ("# none\na:\n  x: 1", "# none\na:\n  x: 1\nnew: {geo: 'NO'}\n"),
        ("a: {x: 1}\r\n", "a: {x: 1}\r\nnew: {geo: 'NO'}\r\n"),
    ],
    ids=["a comment", "no last line end", "Windows"],
)
def test_add_segment_changes_nothing_else(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "segments.yaml"
    path.write_bytes(before.encode())
    assert list(add_segment(str(path), "new", {"geo": "NO"})) == ["all", "a", "new"]
    assert path.read_bytes().decode() == after


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("a: {x: 1}\n", "a", "`a` is in {path} already. Choose another name."),
        ("a: {x: 1}\n", "all", "`all` means every unit and can't be changed. Give this segment another name."),
        (
            "a: {x: 1}\n",
            "-",
            "`-` is not a name for a segment; use letters, digits, _, and inside it also - . and space.",
        ),
        (
            "{a: {x: 1}}\n",
            "new",
            "{path}: its layout does not allow adding a segment. Add it by hand: new: {{geo: 'NO'}}",
        ),
    ],
    ids=["taken", "all", "none", "a layout of braces"],
)
def test_add_segment_says_why_not(tmp_path: Path, text: str, name: str, message: str) -> None:
    path = tmp_path / "segments.yaml"
    path.write_text(text)
    with pytest.raises(ConvlibError) as caught:
        add_segment(str(path), name, {"geo": "NO"})
    assert str(caught.value) == message.format(path=path)
    assert path.read_text() == text


def test_add_segment_needs_a_file() -> None:
    with pytest.raises(ConvlibError) as caught:
        add_segment("", "new", {"geo": "NO"})
    assert str(caught.value) == (
        'The log has no segments file. Read it with read_events(..., segments="segments.yaml").'
    )
