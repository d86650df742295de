"""The documentation site: built without a warning, with every public name, and read from a folder without network."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_pages import ROOT
from playwright.sync_api import Page, sync_playwright

import convlib as cv

#: What browsers fetch when a page is shown; links that a reader may follow are no part of it.
LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]*\bsrc=["']?(https?:)?//|<link[^>]*\bhref=["']?(https?:)?//""")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"]
METHODS = (
    "rates",
    "funnel",
    "paths",
    "correlation",
    "impact",
    "attribution",
    "scorecard",
    "experiments",
    "friction",
    "quality",
    "upkeep",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; every warning (a dead link or heading, a page in no menu, a name not found) is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > len(METHODS)
    assert [page.name for page in pages if LOADED.search(page.read_text("utf-8"))] == []
    styles = [style.read_text("utf-8") for style in site.rglob("*.css")]
    assert [text for text in styles if re.search(r"url\([\"']?(https?:)?//|@import", text)] == []


def test_reference_has_every_public_name(site: Path) -> None:
    text = "".join(page.read_text("utf-8") for page in (site / "reference").glob("*.html"))
    assert [name for name in cv.__all__ if f'id="convlib.{name}"' not in text] == []
    index = (site / "reference" / "index.html").read_text("utf-8")
    assert [name for name in cv.__all__ if f"#convlib.{name}" not in index] == []


@pytest.mark.parametrize("name", METHODS)
def test_a_method_page_has_an_example_and_says_what_it_cannot(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    assert re.search("worked example|^## Five|counted by hand", text, flags=re.MULTILINE | re.IGNORECASE)
    assert re.search("^## .*(can't|cannot|none of this) (show|say)", text, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def page(chromium: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser.new_page()
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "correlation", "reference/where"])
def test_pages_open_from_a_folder_on_a_phone(site: Path, page: Page, name: str, scheme: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto((site / f"{name}.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.body.dataset.mdColorScheme") == ("slate" if scheme == "dark" else "default")
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


def test_search_works_from_a_folder(site: Path, page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto((site / "reference" / "index.html").as_uri())
    page.keyboard.press("f")
    page.keyboard.type("exclusion", delay=20)
    page.wait_for_selector(".md-search-result__meta:has-text('matching')", timeout=20_000)
    assert "Where do people leave?" in page.inner_text(".md-search-result__list")
