"""A log and a plan by somebody who means harm: names that are markup, script, SQL, formulas, paths, or too long."""

import csv
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import openpyxl
import pandas as pd
import pytest
import yaml
from playwright.sync_api import Browser, Dialog, sync_playwright
from pypdf import PdfReader
from reports_project import RUN, write_project
from test_report_pages import FLAGS

from convlib.errors import RunError
from convlib.reports.run import Run, run_reports
from convlib.reports.run_file import read_run_file
from convlib.spreadsheets import is_run

SCRIPT = "</td></script><script>window.hacked=1;alert(1)</script><img src=x onerror='window.hacked=1'>"
FORMULA = '=HYPERLINK("http://example.org/?"&A1,"click")'
SQL = "'; DROP TABLE events; COPY (SELECT 1) TO 'stolen.csv'; --\""
TEMPLATE = "{{ 7*7 }}{% raw %}${7*7}$\\href{javascript:alert(1)}{x}$"
PATH = "../../x"
LINES = 'two\nlines, "quoted"\t\\ `code` [link](javascript:alert(1)) **bold**'
TURNED = "abc\u202e%1.99 :etar \u2066\u05d0\u05d1\u05d2"
LONG = ("long " * 2_000).strip()
NAMES = (SCRIPT, FORMULA, SQL, TEMPLATE, PATH, LINES, TURNED, LONG)
#: A column that every user has.
PROPERTY = "=1+1\"><script>window.hacked=1</script>'; --"
COLUMNS = ("event_name", "timestamp", "user_id", "campaign", "page_path", "device_type", PROPERTY)


def write_log(path: Path) -> None:
    """Write 320 users: all visit, two of three do one of the named events, a third of these buy."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for user in range(320):
            name = NAMES[user % 8]
            more = (f"=u{user}", name, f"/{name}", ("mobile", "desktop")[user % 2], NAMES[user % 4])
            day = 1 + user % 20
            writer.writerow(["visit", f"2024-03-{day:02} 10:00", *more])
            if user % 3:
                writer.writerow([name, f"2024-03-{day:02} 10:05", *more])
            if user % 9 in {1, 2, 3}:
                writer.writerow(["purchase", f"2024-03-{day:02} 11:00", *more])
        writer.writerow(["visit", "2024-03-30 10:00", "last", "", "/", "mobile", ""])


PARAMETERS = {"macro": "purchase", "adjust": ["device_type"], "by": [PROPERTY]}
RUN_FILE = {
    "run": "hostile",
    "title": f"{SCRIPT} {TURNED}",
    "events": "../data/events.csv",
    "plan": "plan.yaml",
    "segments": "segments.yaml",
    "run_segments": ["all", f"campaign={PATH}"],
    "period": {"start": "2024-03-01", "end": "2024-03-20"},
    "parameters": PARAMETERS,
    "notebooks": {
        "00_overview": {"every": "M", "entry": "", "window": "", "adjust": ["device_type"]},
        "01_event_map": {},
        "02_funnel": {"steps": ["visit", "micro0", "purchase"], "window": "7D", "adjust": []},
        "03_correlation": {},
    },
    "audiences": {
        "analyst": {"segments": ["all"], "formats": ["html", "ipynb", "tables", "xlsx"]},
        f"owner:{SCRIPT}": {"formats": ["html", "xlsx", "pdf"]},
        "stakeholder": {"segments": ["all"], "notebooks": ["02_funnel"], "formats": ["html", "pdf", "xlsx", "zip"]},
    },
}


def write_plan() -> str:
    actions = [{"text": f"{name} {SCRIPT}", "owner": SCRIPT, "due": "2024-03-05"} for name in NAMES[:3]]
    micros = [
        {
            "id": f"micro{number}",
            "name": name,
            "match": {"event_name": name},
            "stage": "awareness",
            "kind": "process_milestone",
            "owner": SCRIPT,
            "target": 0.5,
            "actions": actions if number == 0 else [],
            "ux_outcome": name,
            "data_source": name,
        }
        for number, name in enumerate(NAMES)
    ]
    visit = {"id": "visit", "name": "Visit", "match": {"event_name": "visit"}, "stage": "awareness"}
    visit["kind"] = "process_milestone"
    macro = {"id": "purchase", "name": FORMULA, "match": {"event_name": "purchase"}, "micros": [visit, *micros]}
    return yaml.safe_dump({"macros": [macro]}, allow_unicode=True)


def list_tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    run_file = write_project(folder)
    run_file.write_text(yaml.safe_dump(RUN_FILE, allow_unicode=True), encoding="utf-8")
    (folder / "params" / "plan.yaml").write_text(write_plan(), encoding="utf-8")
    segments = {"all": {}, "campaign": {"by": "campaign"}}
    (folder / "params" / "segments.yaml").write_text(yaml.safe_dump(segments), encoding="utf-8")
    write_log(folder / "data" / "events.csv")
    (folder / "notebooks" / "overview.ipynb").unlink()
    for template in Path(__file__).parent.parent.joinpath("notebooks").glob("0[0-3]*.ipynb"):
        shutil.copy(template, folder / "notebooks")
    return folder


@pytest.fixture(scope="module")
def before(project: Path) -> set[str]:
    return list_tree(project)


@pytest.fixture(scope="module")
def run(project: Path, before: set[str]) -> Run:
    assert before
    made = run_reports(project / "params" / "weekly.yaml", workers=2, reports=project / "reports")
    assert made.table.loc[made.table["error"] != "", "error"].tolist() == []
    return made


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        yield opened
        opened.close()


def test_a_hostile_run_writes_nothing_outside_its_reports(project: Path, before: set[str], run: Run) -> None:
    new = list_tree(project) - before
    assert {path.split("/")[0] for path in new} == {"reports"}
    assert not list(project.parent.glob("x*"))
    assert run.status == "complete"


def test_no_script_runs_in_any_page_and_nothing_is_loaded(project: Path, run: Run, browser: Browser) -> None:
    # What stakeholders get is made in `private`, and seen where it was copied to.
    pages = [path for path in sorted((project / "reports").rglob("*.html")) if "private" not in path.parts]
    assert len(pages) > 12
    for path in pages:
        asked, links = visit(browser, path)
        # The page itself, and its figures, which it holds.
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()], path
        for link in links:
            place = Path(unquote(urlparse(link).path))
            assert urlparse(link).scheme == "file", (path, link)
            assert place.is_relative_to(find_root(path, run.folder)), (path, link)
            assert place.exists(), (path, link)


def visit(browser: Browser, path: Path) -> tuple[list[str], list[str]]:
    """Open a page in which no script may run, and tell what it asked for and where it leads."""
    page = browser.new_page()
    dialogs: list[Dialog] = []
    asked: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert page.evaluate("window.hacked") is None, path
    assert dialogs == [], path
    links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
    page.close()
    return asked, links


def find_root(page: Path, period: Path) -> Path:
    """The folder that a page's readers have: its audience's, or the period's."""
    audiences = period / "audiences"
    return audiences / page.relative_to(audiences).parts[0] if page.is_relative_to(audiences) else period


def test_no_name_turns_the_text_around_it_or_fills_a_page(project: Path, run: Run) -> None:
    for path in (project / "reports").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "\u202e" not in text, path
        assert "long " * 200 not in text, path
    assert run.status == "complete"


def test_no_cell_of_a_table_is_run_by_a_spreadsheet(project: Path, run: Run) -> None:
    files = sorted((project / "reports").rglob("*.csv"))
    assert len(files) > 12
    for path in files:
        with path.open(newline="", encoding="utf-8") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert [cell for cell in cells if is_run(cell) and not is_number(cell)] == [], path
    assert run.status == "complete"


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_parquet_keeps_the_names_as_they_are(run: Run) -> None:
    table = pd.read_parquet(run.folder / "all" / "tables" / "01_event_map" / "event_map.parquet")
    assert set(NAMES) <= set(table["event_name"])


def test_no_cell_of_a_workbook_is_a_formula_or_a_link(project: Path, run: Run) -> None:
    books = sorted((project / "reports").rglob("*.xlsx"))
    assert len(books) == 3
    for path in books:
        for sheet in openpyxl.load_workbook(path).worksheets:
            cells = [cell for row in sheet.iter_rows() for cell in row]
            assert [cell.value for cell in cells if cell.data_type == "f"] == []
            assert [cell.value for cell in cells if cell.hyperlink and not cell.hyperlink.location] == []
    assert run.status == "complete"


def test_pdf_and_archive_are_made_with_harmless_names(run: Run) -> None:
    own = run.folder / "audiences" / "stakeholder"
    reader = PdfReader(own / "all" / "02_funnel.pdf")
    assert len(reader.pages) > 0
    assert "/OpenAction" not in reader.root_object
    with zipfile.ZipFile(next(own.glob("*.zip"))) as archive:
        assert not [name for name in archive.namelist() if name.startswith("/") or ".." in name.split("/")]


def test_a_run_can_not_be_named_out_of_its_folder(tmp_path: Path) -> None:
    run_file = write_project(tmp_path, run=RUN.replace("run: shop", "run: ../x"))
    with pytest.raises(RunError) as caught:
        read_run_file(run_file)
    assert caught.value.problems == (
        f"{run_file}:1: run is '../x'; it must be a folder name: letters, digits and _ . - only, beginning with a "
        "letter or digit.",
    )


@pytest.mark.parametrize("value", ["!!python/object/apply:os.mkdir [hacked]", "!!python/name:os.system x"])
def test_yaml_makes_no_objects(tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_file = write_project(tmp_path, run=RUN.replace("title: Shop, weekly", f"title: {value}"))
    with pytest.raises(RunError):
        read_run_file(run_file)
    assert not (tmp_path / "hacked").exists()
