"""The live page: what it says, which segment it shows, and the whole show with real processes and a real browser."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from convlib.reports.live import choose_segment, show_live

FACTS = {
    "looked": "2024-03-06 10:00:00 UTC",
    "clock": "2024-03-06 09:59:58 UTC",
    "interval": 60,
    "window": "15min",
    "in_window": 1234,
    "rows": 5678,
    "rejected": 9,
    "period": "Week from 2024-03-04",
    "progress": {"all": {"": 200, "purchase": 50}, "<b>": {}},
    "conversions": {"purchase": "Purchase <now>"},
    "alerts": [
        {
            "id": "0123456789abcdef",
            "severity": "critical",
            "segment": "all",
            "evidence": "`a<b` stopped.",
            "owner": "shop",
            "first_seen": "2024-03-06 09:58:00 UTC",
        }
    ],
    "warnings": [],
}


def write_facts(folder: Path) -> None:
    (folder / "live.json").write_text(json.dumps(FACTS))


def test_show_live_says_what_the_watcher_knows(tmp_path: Path) -> None:
    write_facts(tmp_path)
    page = show_live(tmp_path, segment="all", segments=["all", "<b>"])._repr_html_()
    for part in (
        "<b>As of 2024-03-06 10:00:00 UTC</b>: events to 2024-03-06 09:59:58 UTC. 1,234 events in the last 15min; "
        "5,678 rows used since the watcher's first look, 9 rejected.",
        "<h2>Open alerts: 1</h2>",
        "<b>critical</b> `a&lt;b` stopped.<br><small>since 2024-03-06 09:58:00 UTC · shop · 0123456789abcdef</small>",
        "<h2>Week from 2024-03-04 so far</h2><p>200 units entered, with an event of any kind.</p>",
        "<td>Purchase &lt;now&gt;</td><td class='n'>50</td><td class='n'>25.0%</td>",
        '<button name="segment" value="&lt;b&gt;">&lt;b&gt;</button>',
    ):
        assert part in page


def test_show_live_knows_a_segment_without_units_and_one_of_rows(tmp_path: Path) -> None:
    write_facts(tmp_path)
    assert "0 units entered" in show_live(tmp_path, segment="<b>", segments=["all", "<b>"])._repr_html_()
    assert "This segment is one of rows" in show_live(tmp_path, segment="app", segments=["app"])._repr_html_()


def test_show_live_waits_for_the_first_look(tmp_path: Path) -> None:
    assert "has not looked at the source yet" in show_live(tmp_path, segment="all", segments=["all"])._repr_html_()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "all"),
        ("segment=device%3Dmobile", "device=mobile"),
        ("segment=../x", "all"),
        ("token=1&segment=all", "all"),
    ],
)
def test_choose_segment_takes_none_but_those_of_the_run(query: str, expected: str) -> None:
    assert choose_segment(["all", "device=mobile"], query=query) == expected


@pytest.fixture(scope="module")
def show() -> ModuleType:
    """Load the benchmark, whose short form is a test."""
    path = Path(__file__).parent.parent / "benchmarks" / "watch_writer.py"
    spec = importlib.util.spec_from_file_location("watch_writer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(importlib.util.find_spec("voila") is None, reason="voila is not installed")
def test_watch_beside_a_writer_loses_and_repeats_nothing(show: ModuleType, tmp_path: Path, chromium: str) -> None:
    assert chromium
    found = show.measure(tmp_path / "project", seconds=30, interval=2, window=1, port=8879, look_at=show.look_at_page)
    assert found["all counted"]
    assert found["exit code"] == 0
    assert found["alerts heard"] == list(show.STOPS)
    assert found["alerts told"] == found["alerts by id"]
    assert found["page"]["refused without token"]
    assert not found["page"]["broken"]
    assert found["page"]["width"] <= 390
    assert found["page"]["segment"] == "device=desktop"
