import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from convlib.reports.index import (
    cut_text,
    hide_rejected,
    list_changes,
    name_notebook,
    name_segment,
    render_mail,
    render_text,
    word_period,
    word_provenance,
    word_status,
    write_index,
)
from convlib.reports.manifest import Manifest, Report
from convlib.takeaways import word_compared

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


WITHIN = "4 comparisons with the last run (1 February 2024 to 10 February 2024) are within chance."


def report(segment: str, notebook: str, **outcome: object) -> Report:
    place = f"{segment.replace('=', '-')}"
    files = (f"{place}/{notebook}.html", f"{place}/{notebook}.ipynb", f"{place}/tables/{notebook}")
    made = Report(segment, notebook, f"About {notebook}", f"{segment} {notebook}", {}, *files, status="made")
    return replace(made, **outcome)  # type: ignore[arg-type]  # any field


def manifest(*reports: Report, status: str = "complete") -> Manifest:
    period = ("2024-03-01", "2024-03-10")
    return Manifest("shop", "Shop <weekly>", period, DATA, "", "", VERSIONS, reports, status=status)


def write_takeaways(folder: Path, made: Report, *sentences: str) -> None:
    (folder / made.tables).mkdir(parents=True)
    facts = {"title": "t", "units": 4321, "takeaways": sentences}
    (folder / made.tables / "takeaways.json").write_text(json.dumps(facts))


def write_pages(folder: Path, *reports: Report) -> None:
    for made in reports:
        (folder / made.html).parent.mkdir(parents=True, exist_ok=True)
        (folder / made.html).write_text("a page")


def read_page(folder: Path, *reports: Report, status: str = "complete", audience: str = "") -> str:
    write_pages(folder, *(each for each in reports if each.status != "pending"))
    return write_index(folder, manifest(*reports, status=status), audience=audience).read_text()


def read_text(page: str) -> str:
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_write_index_without_a_last_report_begins_with_what_was_found(tmp_path: Path) -> None:
    overview, funnel = report("all", "00_overview"), report("all", "02_funnel")
    write_takeaways(tmp_path, overview, "25% bought.", "Up 3 points.")
    write_takeaways(tmp_path, funnel, "Most leave at the cart.", "Second.", "Third.")
    text = read_text(read_page(tmp_path, overview, funnel))
    assert "In short 25% bought. Up 3 points. Read on: About 00_overview About 02_funnel Most leave at the" in text
    assert "Most leave at the cart. Second. Segments" in text
    assert "What changed" not in text
    assert "Shop &lt;weekly&gt; Entries from 1 March 2024 to 10 March 2024. The data end on 31 March 2024." in text


def test_write_index_shows_the_first_rate_run_by_run(tmp_path: Path) -> None:
    trend = pd.DataFrame(
        {
            "sample": ["2024-03-04", "2024-03-11"], "name": "Purchase", "unit": "percent", "units": [200.0, 1250.0],
            "value": [0.25, 0.2], "lower": [0.2, 0.18], "upper": [0.3, 0.22],
        }
    )  # fmt: skip
    page = write_index(tmp_path, manifest(), trend=trend).read_text()
    text = " ".join(re.sub(r"<[^>]+>", " ", page.partition("<body")[2]).split())
    assert "Period from Purchase n 2024-03-04 25.0% (20.0 to 30.0) 200 2024-03-11 20.0% (18.0 to 22.0) 1,250" in text
    assert "Run by run" not in write_index(tmp_path, manifest(), trend=trend.iloc[:0]).read_text()


def test_write_index_says_what_changed_by_segment_the_most_important_first(tmp_path: Path) -> None:
    page = read_page(
        tmp_path,
        report("all", "00_overview", changes=("Up <3>.", "Second.", WITHIN)),
        report("all", "02_funnel", changes=("Leak.", WITHIN)),
        report("device=mobile", "00_overview", changes=("A.", "B.", "C.", WITHIN)),
    )
    assert (
        "What changed since the last report Compared with 1 February 2024 to 10 February 2024. "
        "All units Up &lt;3&gt;. Leak. Second. device: mobile A. B. and 1 more Segments"
    ) in read_text(page)


def test_write_index_folds_the_changes_of_all_but_four_segments(tmp_path: Path) -> None:
    page = read_page(tmp_path, *(report(f"s{i}", "00_overview", changes=(f"In s{i}.",)) for i in range(6)))
    shown, _, folded = page.partition("<details><summary>and 2 more segments</summary>")
    assert ("In s3." in shown, "In s4." in shown, "In s4." in folded) == (True, False, True)


def test_write_index_says_that_nothing_changed_only_where_it_was_compared(tmp_path: Path) -> None:
    quiet = read_text(read_page(tmp_path, report("all", "00_overview", changes=(WITHIN,))))
    assert "Compared with 1 February 2024 to 10 February 2024. Nothing changed beyond chance. Segments" in quiet


def test_list_changes_reads_the_period_from_the_sentence_that_comparisons_end_with() -> None:
    sentences = word_compared(pd.DataFrame(columns=["verdict"]), period=("2024-02-01", "2024-02-10"))
    compared = list_changes({"all": [report("all", "00_overview", changes=sentences)]})
    assert compared == ((), "1 February 2024 to 10 February 2024")


@pytest.mark.parametrize(
    ("status", "heading", "advice"),
    [
        ("running", "This run has not finished", "Reload this page later. If no run is under way any more, run it"),
        ("stopped", "This run was stopped before it finished", "To finish it, run it again with --resume: it makes"),
        ("interrupted", "This run was interrupted", "To finish it, run it again with --resume: it makes what is"),
        ("incomplete", "This run is incomplete", "Mend what the reports below say, then run it again with --resume"),
    ],
)
def test_write_index_says_how_a_run_stands_and_what_to_do(
    tmp_path: Path, status: str, heading: str, advice: str
) -> None:
    page = read_page(tmp_path, report("all", "00_overview", status="pending"), status=status)
    assert f"{heading} {advice}" in read_text(page)


def test_write_index_for_an_audience_tells_nobody_what_to_run(tmp_path: Path) -> None:
    made, missing = report("all", "00_overview"), report("all", "02_funnel", status="pending")
    page = read_page(tmp_path, made, missing, status="incomplete", audience="stakeholder")
    assert "This run is incomplete What is missing is marked below." in read_text(page)
    assert "manifest.json" not in page
    whole = read_page(tmp_path, made, status="incomplete", audience="stakeholder")
    assert "incomplete" not in read_text(whole)


def test_write_index_links_only_to_files_that_are_there(tmp_path: Path) -> None:
    made = report("all", "00_overview")
    write_pages(tmp_path, made)
    for name in ("all/00_overview.pdf", "all/tables.xlsx", "shop-march.zip"):
        (tmp_path / name).write_text("a file")
    page = read_page(tmp_path, made, report("all", "02_funnel"))
    (tmp_path / "all" / "02_funnel.html").unlink()
    page = write_index(tmp_path, manifest(made, report("all", "02_funnel"))).read_text()
    links = re.findall(r'href="([^"]*)"', page)
    assert links == [
        "shop-march.zip",
        "all/00_overview.html",
        "all/00_overview.pdf",
        "all/tables.xlsx",
        "manifest.json",
    ]


def test_write_index_shows_what_an_experiment_decided_in_each_segment(tmp_path: Path) -> None:
    test = report("all", "05_experiments_form")
    write_takeaways(tmp_path, test, "Ship “short”. Checkout form: more go on.", "Second.")
    assert "<p><b>About 05_experiments_form</b>: Ship “short”.</p>" in read_page(tmp_path, test)


def test_write_index_lists_errors_in_the_data_without_an_example(tmp_path: Path) -> None:
    events = report("all", "01_event_map")
    write_takeaways(tmp_path, events, "Said.")
    columns = ["name", "severity", "status", "tried", "failed", "example", "owner"]
    rows = [
        ("Rows <twice>", "error", "failed", 1200, 30.0, "ann", "web"),
        ("Mild", "info", "failed", 9, 9, "", ""),
        ("Fine", "error", "passed", 9, 0, "", ""),
        ("Withheld", "error", "failed", 9, None, "", ""),
    ]
    pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / events.tables / "quality.parquet")
    page = read_page(tmp_path, events)
    assert "Errors in the data Rows &lt;twice&gt; : 30 of 1,200 failed · web Withheld In short" in read_text(page)
    assert "ann" not in read_text(page)


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


def test_hide_rejected_leaves_only_the_rows_that_count() -> None:
    assert hide_rejected(manifest()).data["rows_used"] == manifest().data["rows_used"]
    said = " ".join(word_provenance(hide_rejected(manifest())))
    assert "rows used. Data fingerprint" in said
    assert "rejected" not in said


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


def write_audience(folder: Path, name: str, *reports: Report) -> None:
    write_pages(folder / "audiences" / name, *reports)


def test_render_mail_and_text_tell_an_analyst_of_the_reports_that_are_theirs(tmp_path: Path) -> None:
    mine = report("all", "00_overview", changes=("Up <3>.", WITHIN))
    other = report("device=mobile", "00_overview", changes=("Not mine.",))
    write_takeaways(tmp_path, mine, "25% bought.")
    write_takeaways(tmp_path, other, "30% bought.")
    write_audience(tmp_path, "analyst", mine)
    (tmp_path / "audiences" / "analyst" / "all" / "00_overview.pdf").write_text("a PDF")
    alerts = pd.DataFrame([alert("critical", "all", "Bad."), alert("critical", "device=mobile", "Not mine.")])
    told = (tmp_path, manifest(mine, other), alerts)
    assert render_text(*told, audience="analyst") == (
        "Shop <weekly>\nEntries from 1 March 2024 to 10 March 2024. The data end on 31 March 2024.\n"
        "The report was made.\n\n"
        "What changed since the last report (1 February 2024 to 10 February 2024)\n- All units · Up <3>.\n\n"
        "1 open alert\n- critical, All units · Bad.\n\n"
        "In short\n- All units · 25% bought.\n"
    )
    mail = read_text(render_mail(*told, audience="analyst"))
    assert "What changed since the last report Compared with 1 February 2024 to 10 February 2024. All units Up" in mail
    assert "Up &lt;3&gt;. 1 open alert critical · All units Bad. since 3 March 2024 In short" in mail
    assert "In short All units 25% bought. Attached: 00_overview.pdf" in mail
    assert "Not mine" not in mail


def test_render_text_tells_an_owner_of_their_alerts_alone(tmp_path: Path) -> None:
    made = report("all", "00_overview", changes=("Of another.",))
    write_takeaways(tmp_path, made, "25% bought.")
    rows = [alert("critical", "all", "Mine.", owner="growth"), alert("critical", "all", "Of another.", owner="web")]
    text = render_text(tmp_path, manifest(made), pd.DataFrame(rows), audience="owner:growth")
    assert text == (
        "Shop <weekly>\nEntries from 1 March 2024 to 10 March 2024. The data end on 31 March 2024.\n\n"
        "1 open alert\n- critical, All units · Mine. (growth)\n"
    )


def test_render_text_tells_a_stakeholder_only_what_their_own_reports_say(tmp_path: Path) -> None:
    full = report("all", "00_overview", changes=("1 of 3 bought.",))
    own = replace(full, audience="stakeholder", tables="private/tables", changes=("Up 3 points.",))
    write_takeaways(tmp_path, full, "1 of 3 bought.")
    write_takeaways(tmp_path, own, "Few bought.")
    write_audience(tmp_path, "stakeholder", own)
    alerts = pd.DataFrame([alert("critical", "all", "1 of 3 bought.")])
    text = render_text(tmp_path, manifest(full, own), alerts, audience="stakeholder")
    assert "1 of 3" not in text
    assert "- All units · Up 3 points." in text
    assert "- All units · Few bought." in text
    pd.DataFrame([alert("critical", "all", "Redacted.")]).to_parquet(tmp_path / own.tables / "alerts.parquet")
    assert "1 open alert\n- critical, All units · Redacted." in render_text(
        tmp_path, manifest(full, own), alerts, audience="stakeholder"
    )


def test_render_mail_stays_under_100_kb_and_loads_nothing(tmp_path: Path) -> None:
    long = '<"ж">' * 3000
    many = [report(f"s{i}-{long[:40]}", "00_overview", changes=(f"{i} {long}",) * 3) for i in range(60)]
    many = [replace(each, html=f"s{i}/a.html", tables=f"s{i}/tables/a") for i, each in enumerate(many)]
    for each in many:
        write_takeaways(tmp_path, each, long)
    write_audience(tmp_path, "analyst", *many)
    alerts = pd.DataFrame([alert("info", each.segment, long, owner=long) for each in many])
    mail = render_mail(tmp_path, manifest(*many), alerts, audience="analyst")
    assert len(mail.encode()) <= 100_000
    assert not re.findall(r"<(?:script|img|link|style)|src=|url\(", mail)
    assert "and 50 more segments" in mail


def test_render_text_knows_an_audience_that_gets_pdf_alone(tmp_path: Path) -> None:
    made = report("all", "00_overview")
    write_takeaways(tmp_path, made, "25% bought.")
    pdf = tmp_path / "audiences" / "analyst" / "all" / "00_overview.pdf"
    pdf.parent.mkdir(parents=True)
    pdf.write_text("a PDF")
    assert "- All units · 25% bought." in render_text(tmp_path, manifest(made), None, audience="analyst")


def test_cut_text_leaves_short_sentences_and_ends_long_ones() -> None:
    assert cut_text("one\n two") == "one two"
    assert cut_text("x" * 400) == "x" * 400
    assert cut_text("x" * 401) == "x" * 399 + "…"
