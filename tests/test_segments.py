from pathlib import Path

import pytest

from convlib.errors import PlanError
from convlib.rules import All, Test
from convlib.segments import Segment, read_segments


def write(folder: Path, text: str) -> Path:
    path = folder / "segments.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_read_segments_reads_rules_scopes_and_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "mobile_paid: {device_type: mobile, medium: cpc}\n"
        "module: {by: module}\n"
        "norway: {geo: NO, scope: event}\n"
        "paid by device: {medium: cpc, by: device_type}\n",
    )
    paid = Test("medium", "in", ("cpc",))
    assert read_segments(path) == {
        "all": Segment("all", None, "unit", None),
        "mobile_paid": Segment("mobile_paid", All((Test("device_type", "in", ("mobile",)), paid)), "unit", None),
        "module": Segment("module", None, "unit", "module"),
        "norway": Segment("norway", Test("geo", "in", ("NO",)), "event", None),
        "paid by device": Segment("paid by device", paid, "unit", "device_type"),
    }


def test_read_segments_accepts_all_written_out_and_puts_it_first(tmp_path: Path) -> None:
    assert list(read_segments(write(tmp_path, "x: {a: 1}\nall: {}\n"))) == ["all", "x"]


def test_read_segments_lists_every_problem(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "all: {device_type: mobile}\n"
        "../up: {a: 1}\n"
        "a..b: {a: 1}\n"
        "module=AAA: {a: 1}\n"
        "empty: {}\n"
        "text: mobile\n"
        "bad:\n"
        "  scope: events\n"
        "  by: [a, b]\n"
        "  page: {regex: '['}\n",
    )
    with pytest.raises(PlanError) as caught:
        read_segments(path)
    named = "is not a name for a segment; use letters, digits, _, and inside it also - . and space."
    assert caught.value.problems == (
        f"{path}:1: all means every unit and can't be changed. Give this segment another name.",
        f"{path}:2: ../up {named}",
        f"{path}:3: a..b {named}",
        f"{path}:4: module=AAA {named}",
        f"{path}:5: empty is empty; name at least one column, such as {{event_name: purchase}}.",
        f"{path}:6: text is 'mobile'; it must be a mapping such as {{device_type: mobile}}.",
        f"{path}:8: bad.scope is 'events'; it must be one of 'unit', 'event'. Did you mean 'event'?",
        f"{path}:9: bad.by is ['a', 'b']; it must be the name of one column.",
        f"{path}:10: bad.page.regex is '['; it is not a regular expression of RE2's syntax (missing ]: [).",
    )


def test_read_segments_needs_a_mapping(tmp_path: Path) -> None:
    path = write(tmp_path, "- mobile\n")
    with pytest.raises(PlanError) as caught:
        read_segments(path)
    assert str(caught.value) == (
        f"{path}:1: the file is ['mobile']; it must hold segments such as `mobile: {{device_type: mobile}}`."
    )
