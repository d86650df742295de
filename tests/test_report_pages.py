"""The pages as a reader meets them: in a browser, on a phone and on a desk."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, sync_playwright
from reports_project import RUN, write_project

from convlib.reports import export
from convlib.reports.run import run_reports

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
WIDE = """\
import json, pathlib
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display
display(HTML("<ul><li>25% of 4 users bought.</li></ul>"))
plt.figure(figsize=(7.2, 4)); plt.plot([1, 2]); plt.show()
display(HTML(pd.DataFrame([range(30)], columns=[f"column {n}" for n in range(30)]).to_html()))
display(HTML("<script>document.title = 'taken over'</script><img src='https://example.org/x.png' alt='x'>"))
print("x" * 500)
pathlib.Path(output).mkdir(parents=True)
facts = {"takeaways": [f"<script>alert(1)</script> {segment} " + "y" * 300]}
_ = pathlib.Path(output, "takeaways.json").write_text(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("pages")
    run = RUN + "run_segments: [all, device]\n"
    run_file = write_project(project, run=run, a_overview=WIDE, b_broken="raise ValueError('z' * 500)")
    made = run_reports(run_file, workers=2, reports=project / "reports").folder
    notebook = nbformat.read(made / "all" / "a_overview.ipynb", as_version=4)
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell("## Key takeaways"))
    around = export.Page("Shop, weekly", "All units", "March", "a_overview.ipynb", title="For analysts", code=True)
    around = replace(around, compared="February", changes=("Up 3 points.",))
    (made / "all" / "analyst.html").write_text(export.export_page(notebook, around))
    return made


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        yield opened
        opened.close()


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")], ids=str)
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    yield context.new_page()
    context.close()


PAGES = ["index.html", "all/a_overview.html", "all/b_broken.html", "all/analyst.html"]


@pytest.mark.parametrize("name", PAGES)
def test_page_has_no_serious_fault_of_accessibility(page: Page, folder: Path, name: str) -> None:
    page.goto((folder / name).as_uri())
    faults = Axe().run(page).response["violations"]
    assert [fault["id"] for fault in faults if fault["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_the_screen_loads_nothing_and_describes_its_images(page: Page, folder: Path, name: str) -> None:
    asked: set[str] = set()
    refused: set[str] = set()
    page.on("request", lambda request: asked.add(request.url))
    page.on("requestfailed", lambda request: refused.add(request.url) if request.failure == "csp" else None)
    page.goto((folder / name).as_uri())
    # The browser also reports what the page's own policy stopped it from asking for.
    assert [url for url in asked - refused if not url.startswith(("file:", "data:"))] == []
    width = page.viewport_size or {"width": 0}
    assert page.evaluate("document.documentElement.scrollWidth") <= width["width"]
    assert page.evaluate("[...document.images].every(image => image.alt !== '')")
    assert page.evaluate("document.title") != "taken over"
    assert page.evaluate("document.documentElement.lang") == "en"


def test_wide_tables_scroll_in_a_box_that_the_keyboard_reaches(page: Page, folder: Path) -> None:
    page.goto((folder / "all" / "a_overview.html").as_uri())
    box = page.locator(".scroll").first
    assert box.get_attribute("tabindex") == "0"
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")


@pytest.mark.parametrize("name", ["index.html", "all/analyst.html"])
def test_headings_go_down_by_one(page: Page, folder: Path, name: str) -> None:
    page.goto((folder / name).as_uri())
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_index_search_hides_what_does_not_match(page: Page, folder: Path) -> None:
    page.goto((folder / "index.html").as_uri())
    cards = page.locator(".segment")
    assert cards.count() == 3
    page.get_by_role("searchbox").fill("device desk")
    assert [card.is_visible() for card in cards.all()] == [False, True, False]
    page.get_by_role("searchbox").fill("nowhere")
    assert page.get_by_text("No segment matches.").is_visible()


def test_links_lead_to_the_reports_and_back(page: Page, folder: Path) -> None:
    page.goto((folder / "index.html").as_uri())
    page.locator(".segment", has_text="mobile").get_by_role("link", name="B broken (incomplete)").click()
    assert page.url.endswith("device-mobile/b_broken.html")
    page.get_by_role("link", name="Previous").click()
    assert page.url.endswith("device-mobile/a_overview.html")
    page.get_by_role("link", name="Shop, weekly").click()
    assert page.url.endswith("/index.html")


def test_a_reader_on_a_phone_can_enlarge_a_figure_in_its_own_box(browser: Browser, folder: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((folder / "all" / "a_overview.html").as_uri())
    figure = page.locator("figure").first
    assert figure.evaluate("figure => figure.scrollWidth <= figure.clientWidth")
    page.get_by_label("Larger").first.check()
    assert figure.evaluate("figure => figure.scrollWidth > 1.5 * figure.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


def test_dark_pages_print_light(browser: Browser, folder: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto((folder / "all" / "a_overview.html").as_uri())
    ink = "getComputedStyle(document.body).color"
    assert page.evaluate(ink) == "rgb(230, 234, 239)"
    page.emulate_media(media="print")
    assert page.evaluate(ink) == "rgb(0, 0, 0)"
    page.close()


def test_code_is_closed_until_an_analyst_opens_it(browser: Browser, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "all" / "analyst.html").as_uri())
    code = page.locator("details.code", has_text="import matplotlib")
    assert not code.locator("pre").is_visible()
    code.get_by_text("Code", exact=True).click()
    assert code.locator("pre").is_visible()
    page.close()
