import base64
import io
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.image
import numpy as np
import pypdf
import pytest

from convlib.errors import RunError
from convlib.reports import pdf
from convlib.reports.export import TEMPLATES
from convlib.reports.pdf import find_renderer, render_pdf

CSS = (TEMPLATES / "report.css").read_text()
ROWS = "".join(f"<tr><td>row {i}</td><td>{i}</td></tr>" for i in range(110))
BODY = f"""<h1>Funnel</h1><h2>Table</h2><table><thead><tr><th scope="col">Step of it</th><th scope="col">Units</th></tr>
</thead><tbody>{ROWS}</tbody></table><h2>Last heading</h2><p>Its text.</p>"""
PAGE = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Shop</title><style>{CSS}
@page {{ @top-left {{ content: "Shop, weekly" }} }}</style></head>
<body class="report"><main>{BODY}</main></body></html>"""


def draw_png() -> str:
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, np.zeros((30, 70, 3)), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


PNG = draw_png()


@pytest.fixture(params=["weasyprint", "browser"])
def renderer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to make a PDF, in turn."""
    if request.param == "weasyprint":
        pytest.importorskip("weasyprint")
    else:
        browser = request.getfixturevalue("chromium")
        monkeypatch.setitem(sys.modules, "weasyprint", None)
        monkeypatch.setattr(pdf, "BROWSERS", (browser,))
    return str(request.param)


def read_pages(content: bytes) -> list[str]:
    return [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages]


def test_render_pdf_numbers_pages_and_names_the_run_on_all_but_the_first(renderer: str) -> None:
    assert renderer
    pages = read_pages(render_pdf(PAGE))
    numbers = [re.findall(r"\d+ of \d+", text) for text in pages]
    assert numbers == [[f"{number} of {len(pages)}"] for number in range(1, len(pages) + 1)]
    assert len(pages) > 2
    assert ["Shop, weekly" in text for text in pages] == [False, *[True] * (len(pages) - 1)]


def test_render_pdf_repeats_the_heads_of_a_table(renderer: str) -> None:
    assert renderer
    pages = read_pages(render_pdf(PAGE))
    assert ["Step of it" in text for text in pages if "row " in text] == [True] * len(pages)


def test_render_pdf_is_tagged_and_equal_for_an_equal_page(renderer: str) -> None:
    assert renderer
    content = render_pdf(PAGE)
    assert content.startswith(b"%PDF-")
    assert render_pdf(PAGE) == content
    catalog: Any = pypdf.PdfReader(io.BytesIO(content)).trailer["/Root"]
    assert catalog["/MarkInfo"]["/Marked"].value is True
    assert catalog["/Lang"] == "en"
    assert "/StructTreeRoot" in catalog


@pytest.mark.parametrize("filling", range(34, 48))
def test_render_pdf_leaves_no_heading_alone_at_the_foot_of_a_page(filling: int) -> None:
    pytest.importorskip("weasyprint")
    lines = "<p>line</p>" * filling
    figure = f"<figure><img alt='A' width='700' height='300' src='{PNG}'></figure>"
    body = f"{lines}<div class='prose'><h2>Next heading</h2></div><div class='output'>{figure}</div>"
    pages = pypdf.PdfReader(io.BytesIO(render_pdf(PAGE.replace(BODY, body)))).pages
    (page,) = (page for page in pages if "Next heading" in page.extract_text())
    assert len(page.images) == 1


def test_render_pdf_loads_nothing_from_this_machine_or_elsewhere(renderer: str, tmp_path: Path) -> None:
    assert renderer
    secret = tmp_path / "secret.svg"
    secret.write_text("<svg xmlns='http://www.w3.org/2000/svg' width='90' height='90'><text y='50'>secret</text></svg>")
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    page = PAGE.replace("<title>", f"{policy}<title>").replace(
        BODY, f"<p>1234</p><img alt='x' src='{secret.as_uri()}'>"
    )
    (text,) = read_pages(render_pdf(page))
    assert "1234" in text
    assert "secret" not in text


def test_find_renderer_prefers_weasyprint_then_a_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", ModuleType("weasyprint"))
    assert find_renderer() == "weasyprint"
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "chrome" else None)
    assert find_renderer() == "/bin/chrome"


def test_find_renderer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    monkeypatch.setattr(pdf, "BROWSERS", ("no-such-browser", "nor-this"))
    with pytest.raises(RunError) as caught:
        find_renderer()
    assert str(caught.value) == (
        "No PDF can be made: WeasyPrint can't be loaded, and none of these browsers is on the PATH: no-such-browser, "
        "nor-this. Install WeasyPrint with `pip install 'convlib[pdf]'` (it needs the system's Pango), or one of the "
        "browsers."
    )


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", " (it ended with status 3)"),
        ("exit 0", ""),
        ("sleep 9", " within 1 s"),
        (None, ": Permission denied"),
    ],
)
def test_render_pdf_says_when_a_browser_makes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None, reason: str
) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\n{script}\n")
    browser.chmod(0o755 if script else 0o644)
    monkeypatch.setattr(pdf, "find_renderer", lambda: str(browser))
    monkeypatch.setattr(pdf, "BROWSER_SECONDS", 1)
    with pytest.raises(RunError) as caught:
        render_pdf(PAGE)
    assert str(caught.value) == (
        f"The browser `{browser}` made no PDF{reason}. Install WeasyPrint with `pip install 'convlib[pdf]'`."
    )
