"""The pages as a reader meets them: in a browser, on a phone and on a desk."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from reports_project import RUN, write_project

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
    return run_reports(run_file, workers=2, reports=project / "reports").folder


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        yield opened
        opened.close()


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light")], ids=str)
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", ["index.html", "all/a_overview.html", "all/b_broken.html"])
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


def test_headings_go_down_by_one(page: Page, folder: Path) -> None:
    page.goto((folder / "index.html").as_uri())
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
