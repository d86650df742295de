import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from convlib.reports.index import name_notebook, name_segment, word_period, word_provenance, word_status, write_index
from convlib.reports.manifest import Manifest, Report

DATA = {
    "source": "data/events.csv",
    "fingerprint": "0123456789abcdef",
    "rows_read": 1234,
    "rows_used": 1230,
    "rows_rejected": 3,
    "rows_left_out": 1,
    "rejected_because": {"user_id is missing": 3},
    "left_out_because": {"bots": 1},
    "last": "2024-03-31T10:00:00",
}
VERSIONS = {"python": "3.11.7", "convlib": "0.1.0", "pandas": "3.1.1", "duckdb": "1.5.6"}


def report(segment: str, notebook: str, **outcome: str) -> Report:
    place = f"{segment.replace('=', '-')}"
    files = (f"{place}/{notebook}.html", f"{place}/{notebook}.ipynb", f"{place}/tables/{notebook}")
    made = Report(segment, notebook, f"About {notebook}", f"{segment} {notebook}", {}, *files, status="made")
    return replace(made, **outcome)  # type: ignore[arg-type]  # status and error are text


def manifest(*reports: Report) -> Manifest:
    return Manifest("shop", "Shop <weekly>", ("2024-03-01", "2024-03-10"), DATA, "", "", VERSIONS, reports)


def write_takeaways(folder: Path, made: Report, *sentences: str, changes: tuple[str, ...] = ()) -> None:
    (folder / made.tables).mkdir(parents=True)
    facts = {"title": "t", "units": 4321, "takeaways": sentences, "changes": changes}
    (folder / made.tables / "takeaways.json").write_text(json.dumps(facts))


def read_page(folder: Path, *reports: Report) -> str:
    return write_index(folder, manifest(*reports)).read_text()


def read_text(page: str) -> str:
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_write_index_leads_with_what_changed(tmp_path: Path) -> None:
    overview, funnel = report("all", "00_overview"), report("all", "02_funnel")
    write_takeaways(tmp_path, overview, "25% bought.", "Up 3 points.")
    write_takeaways(tmp_path, funnel, "Most leave at the cart.", "Second.", "Third.")
    text = read_text(read_page(tmp_path, overview, funnel))
    assert "What changed 25% bought. Up 3 points. Read on: About 00_overview In short About 02_funnel" in text
    assert "Most leave at the cart. Second." in text
    assert "Third." not in text
    assert "Shop &lt;weekly&gt; Entries from 1 March 2024 to 10 March 2024. The data end on 31 March 2024." in text


def test_write_index_prefers_sentences_about_changes(tmp_path: Path) -> None:
    overview = report("all", "00_overview")
    write_takeaways(tmp_path, overview, "25% bought.", changes=("Up 3 points.",))
    assert "What changed Up 3 points. Read on" in read_text(read_page(tmp_path, overview))


def test_write_index_shows_each_segment_with_units_headline_and_reports(tmp_path: Path) -> None:
    mobile = report("device=mobile", "00_overview")
    write_takeaways(tmp_path, mobile, "30% bought.")
    page = read_page(tmp_path, mobile, report("device=mobile", "01_event_map", status="pending"))
    assert "device: mobile 4,321 units 30% bought. Overview Event map (not made)" in read_text(page)
    assert 'href="device-mobile/00_overview.html"' in page
    assert 'href="device-mobile/01_event_map.html"' not in page


def test_write_index_puts_failures_on_top_with_the_last_line_of_the_error(tmp_path: Path) -> None:
    failed = report("all", "02_funnel", status="failed", error="ParamError: 2 problems:\n1. one\n2. <b>two</b>")
    page = read_page(tmp_path, report("all", "00_overview"), failed)
    assert "Reports that are incomplete All units: About 02_funnel 2. &lt;b&gt;two&lt;/b&gt;" in read_text(page)
    assert "1 of 2 reports made, 1 incomplete" in read_text(page)
    assert "What changed" not in page


def test_write_index_escapes_what_came_from_data(tmp_path: Path) -> None:
    hostile = report("source=<script>alert(1)</script>", "00_overview")
    write_takeaways(tmp_path, hostile, "<img src=x onerror=alert(1)>")
    page = read_page(tmp_path, hostile)
    assert "<img" not in page
    assert page.count("<script>") == 1


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        (["made"], "The report was made"),
        (["made", "made"], "All 2 reports made"),
        (["made", "failed", "pending"], "1 of 3 reports made, 1 incomplete, 1 not made"),
    ],
)
def test_word_status_counts_reports(statuses: list[str], words: str) -> None:
    assert word_status(manifest(*(report("all", "a", status=status) for status in statuses))) == words


def test_word_provenance_balances_the_rows() -> None:
    assert word_provenance(manifest()) == (
        "The data end on 31 March 2024.",
        "events.csv: 1,234 rows read = 1,230 used + 3 rejected (3: user_id is missing) + 1 left out by rule (1: bots). "
        "Data fingerprint 0123456789ab.",
        "Made with convlib 0.1.0, Python 3.11.7, pandas 3.1.1, DuckDB 1.5.6.",
    )


def test_names_and_periods_are_said_in_words() -> None:
    assert word_period("2013-02-01", "2014-11-30") == "1 February 2013 to 30 November 2014"
    assert [name_notebook(n) for n in ("01_event_map", "2024", "my-notes")] == ["Event map", "2024", "My notes"]
    assert [name_segment(n) for n in ("all", "device_type=mobile", "mobile_paid")] == [
        "All units",
        "device type: mobile",
        "mobile paid",
    ]


def alert(severity: str, segment: str, evidence: str, *, owner: str = "", **state: bool) -> dict[str, object]:
    fixed = {"severity": severity, "segment": segment, "evidence": evidence, "owner": owner}
    return {**fixed, "first_seen": pd.Timestamp("2024-03-03 10:00"), "still_open": True, "is_new": False, **state}


def test_write_index_lists_open_alerts_new_ones_first_then_the_worst(tmp_path: Path) -> None:
    rows = [
        alert("critical", "all", "Old and bad."),
        alert("info", "device=mobile", "New <b>and</b> mild.", owner="web-team", is_new=True),
        alert("critical", "all", "New and bad.", is_new=True),
        alert("critical", "all", "It is over.", still_open=False),
    ]
    page = write_index(tmp_path, manifest(report("all", "00_overview")), pd.DataFrame(rows)).read_text()
    assert (
        "Alerts 3 open, 2 new critical new All units New and bad. since 3 March 2024 info new device: mobile New "
        "&lt;b&gt;and&lt;/b&gt; mild. web-team · since 3 March 2024 critical All units Old and bad. since 3 March 2024 "
        "1 alert has ended since the last report."
    ) in read_text(page)


def test_write_index_folds_all_but_five_alerts(tmp_path: Path) -> None:
    rows = [alert("info", "all", f"Number {i}.") for i in range(7)]
    page = write_index(tmp_path, manifest(report("all", "00_overview")), pd.DataFrame(rows)).read_text()
    shown, _, folded = page.partition("<details><summary>2 more</summary>")
    assert ("Number 4." in shown, "Number 5." in shown, "Number 5." in folded) == (True, False, True)


def test_write_index_says_that_no_alert_is_open_only_when_one_was_looked_for(tmp_path: Path) -> None:
    made = manifest(report("all", "00_overview"))
    none = pd.DataFrame([alert("info", "all", "x")])[:0]
    assert "Alerts No alert is open." in read_text(write_index(tmp_path, made, none).read_text())
    assert "Alerts" not in read_text(write_index(tmp_path, made).read_text())
