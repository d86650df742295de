import json
import zipfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import nbformat
import openpyxl
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from reports_project import PARAMETERS, PLAN, RUN, write_notebook, write_project

from convlib.errors import RunError
from convlib.events import read_events
from convlib.reports import audiences
from convlib.reports.audiences import leave_out_small, write_archive, write_audiences
from convlib.reports.index import render_mail
from convlib.reports.manifest import Manifest, Report, Status
from convlib.reports.planning import start_manifest
from convlib.reports.preparation import Preparation, prepare_run
from convlib.segments import Segment

NOTEBOOKS = ("a_overview", "b_funnel")
OWNED = PLAN.replace("kind: process_milestone", "kind: process_milestone, owner: growth")
RATES = pd.DataFrame(
    {
        "period": pd.to_datetime(["2024-03-01"] * 2),
        "tier": ["micro", "macro"],
        "conversion": ["visit", "purchase"],
        "metric": ["rate", "rate"],
        "units": [40, 10],
        "exposed": [50, 50],
        "value": [0.8, 0.2],
        "ci_lower": [0.7, 0.1],
        "ci_upper": [0.9, 0.3],
        "target": [0.9, float("nan")],
        "status": ["missed", ""],
        "owner": ["growth", "sales"],
        "note": ["", ""],
    }
)


def submit(work: Callable[..., None], *given: object) -> "Future[None]":
    done: Future[None] = Future()
    try:
        work(*given)
        done.set_result(None)
    except RunError as error:
        done.set_exception(error)
    return done


def prepare(folder: Path, text: str) -> Preparation:
    run_file = write_project(folder, run=RUN + "run_segments: [all, device]\naudiences:\n" + text)
    (folder / "notebooks" / "overview.ipynb").unlink()
    (folder / "params" / "plan.yaml").write_text(OWNED)
    for name in NOTEBOOKS:
        write_notebook(
            folder / "notebooks" / f"{name}.ipynb", "1", title=name, parameters=PARAMETERS + "fewest: int = 0\n"
        )
    return prepare_run(run_file)


def make(folder: Path, preparation: Preparation, **failed: str) -> Manifest:
    """Write what a run makes, page by page, with the audience's name in each."""
    manifest = start_manifest(preparation)
    reports = [
        write_report(folder, audience, segment, place, name, failed.get(name, ""))
        for audience in ("", "stakeholder")
        for segment, place in preparation.segments.items()
        for name in NOTEBOOKS
        if not audience or segment == "all"
    ]
    return replace(manifest, reports=tuple(reports), status="complete")


def write_report(folder: Path, audience: str, segment: str, place: str, name: str, error: str) -> Report:
    place = f"private/{audience}/{place}" if audience else place
    tables = folder / place / "tables" / name
    tables.mkdir(parents=True, exist_ok=True)
    heading = new_markdown_cell(f"# {name}\n\n## One", id="a")
    code = new_code_cell("secret_code = 1", id="b")
    nbformat.write(new_notebook(cells=[heading, code]), folder / place / f"{name}.ipynb")
    (folder / place / f"{name}.html").write_text(f"<p>{audience or 'run'} {segment} {name}</p>")
    for stem, table in {"rates": RATES, "people": pd.DataFrame({"user_id": ["ann"]}), "measures": RATES}.items():
        table.to_parquet(tables / f"{stem}.parquet")
        table.to_csv(tables / f"{stem}.csv", index=False)
    (tables / "takeaways.json").write_text(json.dumps({"takeaways": [f"{name} says so."]}))
    (tables / "record.json").write_text("{}")
    paths = (f"{place}/{name}.html", f"{place}/{name}.ipynb", f"{place}/tables/{name}")
    status: Status = "failed" if error else "made"
    return Report(segment, name, f"About {name}", "k", {}, *paths, status=status, error=error, audience=audience)


def list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def _printer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audiences, "render_pdf", lambda page: b"%PDF " + page.encode())
    monkeypatch.setattr(audiences, "find_renderer", lambda: "a printer")


@pytest.fixture
def period(tmp_path: Path) -> Path:
    return tmp_path / "reports" / "shop" / "period"


def test_write_audiences_gives_each_its_segments_notebooks_and_formats_and_nothing_else(
    tmp_path: Path, period: Path
) -> None:
    text = """\
  analyst: {segments: [device=mobile], formats: [html, ipynb, tables, xlsx]}
  stakeholder: {segments: [all], notebooks: [b_funnel], fewest: 1, formats: [html, pdf, xlsx, zip]}
  owner:growth: {segments: [all], formats: [html, xlsx]}
"""
    preparation = prepare(tmp_path, text)
    (period / "audiences" / "owner-gone").mkdir(parents=True)
    (period / "audiences" / "analyst").mkdir()
    (period / "audiences" / "analyst" / "old.html").write_text("of an earlier run")
    assert write_audiences(period, make(period, preparation), preparation, submit) == ()
    kinds = [f"{stem}.{kind}" for stem in ("people", "rates") for kind in ("csv", "parquet")] + ["takeaways.json"]
    assert list_files(period / "audiences") == sorted(
        [
            "analyst/index.html",
            "analyst/device-mobile/tables.xlsx",
            *(f"analyst/device-mobile/{name}.{kind}" for name in NOTEBOOKS for kind in ("html", "ipynb")),
            *(f"analyst/device-mobile/tables/{name}/{file}" for name in NOTEBOOKS for file in kinds),
            "owner-growth/index.html",
            "owner-growth/tables.xlsx",
            "stakeholder/index.html",
            "stakeholder/all/b_funnel.html",
            "stakeholder/all/b_funnel.pdf",
            "stakeholder/all/tables.xlsx",
            "stakeholder/shop-2024-03-01_2024-03-10.zip",
        ]
    )
    assert (period / "audiences/stakeholder/all/b_funnel.html").read_text() == "<p>stakeholder all b_funnel</p>"
    assert "secret_code" in (period / "audiences/analyst/device-mobile/a_overview.html").read_text()
    assert openpyxl.load_workbook(period / "audiences/stakeholder/all/tables.xlsx").sheetnames == [
        "Contents",
        "B funnel rates",
    ]


def test_write_audiences_tells_a_stakeholder_only_that_a_report_is_missing(tmp_path: Path, period: Path) -> None:
    preparation = prepare(tmp_path, "  stakeholder: {segments: [all], fewest: 1}\n")
    manifest = make(period, preparation, b_funnel="Traceback: /home/ann/secret.py")
    write_audiences(period, manifest, preparation, submit)
    own = period / "audiences" / "stakeholder"
    assert list_files(own) == ["all/a_overview.html", "all/b_funnel.html", "index.html"]
    page = (own / "all" / "b_funnel.html").read_text()
    assert "This report could not be made this time." in page
    for text in (page, (own / "index.html").read_text()):
        assert "Traceback" not in text
        assert "secret" not in text
        assert "manifest.json" not in text
        assert ".ipynb" not in text


def test_write_audiences_gives_no_stakeholder_what_would_reveal_few(
    tmp_path: Path, period: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = "Left out: so few."
    monkeypatch.setattr(audiences, "find_withheld", lambda *_, **__: {("device=mobile", "b_funnel"): given})
    text = "  stakeholder: {segments: [all, device], fewest: 2, formats: [html, pdf, xlsx]}\n"
    preparation = prepare(tmp_path, text)
    manifest = make(period, preparation)
    also = [write_report(period, "stakeholder", "device=mobile", "device-mobile", name, "") for name in NOTEBOOKS]
    also[1] = replace(also[1], changes=("Up by three.",))
    data = dict(manifest.data) | {"rows_rejected": 3, "rejected_because": {"no time": 3}}
    manifest = replace(manifest, data=data, reports=(*manifest.reports, *also))
    assert write_audiences(period, manifest, preparation, submit) == ()
    own = period / "audiences" / "stakeholder"
    assert [file for file in list_files(own) if file.startswith("device-mobile")] == [
        "device-mobile/a_overview.html",
        "device-mobile/a_overview.pdf",
        "device-mobile/b_funnel.html",
        "device-mobile/tables.xlsx",
    ]
    sheets = openpyxl.load_workbook(own / "device-mobile" / "tables.xlsx").sheetnames
    assert sheets == ["Contents", "A overview rates"]
    assert given in (own / "device-mobile" / "b_funnel.html").read_text()
    index = (own / "index.html").read_text()
    assert "<li>B funnel: device: mobile</li>" in index
    mail = render_mail(period, manifest, None, audience="stakeholder")
    for page in (index, mail, (own / "device-mobile" / "b_funnel.html").read_text()):
        assert "Up by three" not in page
        assert "rejected" not in page
    assert "device: mobile · b_funnel says so." not in mail


def test_write_audiences_packs_its_own_files_into_an_archive_that_is_equal_for_equal_files(
    tmp_path: Path, period: Path
) -> None:
    preparation = prepare(
        tmp_path, "  stakeholder: {segments: [all], notebooks: [a_overview], formats: [html, zip], fewest: 1}\n"
    )
    manifest = make(period, preparation)
    place = period / "audiences" / "stakeholder" / "shop-2024-03-01_2024-03-10.zip"
    contents = []
    for _ in range(2):
        write_audiences(period, manifest, preparation, submit)
        contents.append(place.read_bytes())
    assert contents[0] == contents[1]
    within = "shop-2024-03-01_2024-03-10"
    with zipfile.ZipFile(place) as archive:
        assert archive.namelist() == [f"{within}/all/a_overview.html", f"{within}/index.html"]


def test_write_audiences_says_what_could_not_be_printed(
    tmp_path: Path, period: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(page: str) -> bytes:
        raise RunError(f"No paper for {len(page)} letters.")

    monkeypatch.setattr(audiences, "render_pdf", fail)
    preparation = prepare(tmp_path, "  analyst: {segments: [all], notebooks: [a_overview], formats: [pdf]}\n")
    notes = write_audiences(period, make(period, preparation), preparation, submit)
    said = "analyst: all/a_overview.html could not be made, so there is no folder for it: No paper for 25 letters."
    assert notes == (said,)
    assert list_files(period / "audiences") == []


def test_check_audiences_lists_all_that_the_run_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise RunError("No PDF can be made.")

    monkeypatch.setattr(audiences, "find_renderer", fail)
    text = """\
  owner:grwth: {}
  analyst:
    segments: [devise]
    notebooks: [a_overview, b_funel]
    formats: [pdf]
"""
    with pytest.raises(RunError) as caught:
        prepare(tmp_path, text)
    place = tmp_path / "params" / "weekly.yaml"
    assert caught.value.problems == (
        f"{place}:9: 'grwth' owns nothing in the plan. The owners are 'growth'. Did you mean 'growth'?",
        f"{place}:12: the run has no notebook 'b_funel'. Did you mean 'b_funnel'?",
        f"{place}:11: the run has no segment 'devise'. Did you mean 'device'?",
        f"{place}:13: No PDF can be made.",
    )


@pytest.mark.parametrize(
    ("counts", "fewest", "shown"),
    [
        pytest.param({"a": 30, "b": 20}, 10, ["all", "device=a", "device=b"], id="none is small"),
        pytest.param({"a": 30, "b": 20, "c": 3}, 10, ["all", "device=a"], id="the next smallest goes too"),
        pytest.param({"a": 30, "b": 8, "c": 7}, 10, ["all", "device=a"], id="two together are enough"),
        pytest.param({"a": 30, "b": 20, "c": 4, "d": 3}, 10, ["all", "device=a"], id="two together are too few"),
        pytest.param({"a": 30, "b": 2}, 10, ["all"], id="nothing is left"),
        pytest.param({"a": 4, "b": 2}, 10, [], id="all are too few"),
        pytest.param({"a": 30, "b": 2}, 1, ["all", "device=a", "device=b"], id="one is enough"),
    ],
)
def test_leave_out_small_hides_small_segments_and_what_would_reveal_them(
    counts: dict[str, int], fewest: int, shown: list[str]
) -> None:
    rows = [("visit", "2024-03-01 10:00", f"{name}{n}", name) for name, count in counts.items() for n in range(count)]
    events = pd.DataFrame(rows, columns=["event_name", "timestamp", "user_id", "device_type"])
    log = read_events(events, segments={"device": Segment("device", by="device_type")})
    assert leave_out_small(log, log.expand_segments(), fewest=fewest) == shown


def test_leave_out_small_counts_a_single_value_against_the_whole() -> None:
    devices = ["mobile"] * 198 + ["desktop"] * 5
    rows = [("visit", "2024-03-01 10:00", f"u{n}", device) for n, device in enumerate(devices)]
    events = pd.DataFrame(rows, columns=["event_name", "timestamp", "user_id", "device_type"])
    log = read_events(events, segments={"device": Segment("device", by="device_type")})
    assert leave_out_small(log, ["all", "device=mobile"], fewest=10) == ["all"]


def test_write_archive_leaves_out_itself_and_what_is_asked(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.txt", "out/d.txt", "x.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_archive(tmp_path / "x.zip", tmp_path, within="r", without=["out"])
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert [(each.filename, each.date_time[:3]) for each in archive.infolist()] == [
            ("r/a/c.txt", (2000, 1, 1)),
            ("r/b.txt", (2000, 1, 1)),
        ]
