"""An executed notebook as one HTML page: code hidden, figures embedded, nothing loaded from elsewhere."""

import base64
import html
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nbconvert import HTMLExporter
from nbformat import NotebookNode

TEMPLATES = Path(__file__).parent / "templates"
TAKEAWAYS_HEADING = "Key takeaways"
ERROR_TAG = "run-error"
ALT_TEXT_LENGTH = 300
PNG_HEADER_LENGTH = 24

_TAG = re.compile(r"<[^>]+>")
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$", re.MULTILINE)
_TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL | re.IGNORECASE)
_CAPTION = re.compile(r"<caption[^>]*>(.*?)</caption>", re.DOTALL | re.IGNORECASE)
_FIRST_ITEM = re.compile(r"<li[^>]*>(.*?)</li>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Link:
    """A neighbouring page: its title and its address relative to this one."""

    title: str
    href: str


@dataclass(frozen=True)
class Page:
    """What stands around a notebook's content on its page."""

    run_title: str
    segment: str
    period: str
    notebook: str
    provenance: tuple[str, ...] = ()
    previous: Link | None = None
    following: Link | None = None
    title: str = ""


def export_page(notebook: NotebookNode, page: Page) -> str:
    """Show what an executed notebook found, as one self-contained HTML page for readers without Python.

    Args:
        notebook: The executed notebook; figures get their alternative text and size as output metadata.
        page: Title (empty: the notebook's), segment, period, provenance and neighbours to show around it.

    Returns:
        The page: no script, no request to anywhere, prompts and code left out.
    """
    for cell_number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            _describe_figure(output, notebook.cells, cell_number)
    shown = NotebookNode({**notebook, "cells": _lead_with_takeaways(notebook.cells)})
    exporter = HTMLExporter(template_name="convlib_report", extra_template_basedirs=[str(TEMPLATES)])
    exporter.exclude_anchor_links = True
    exporter.register_filter("scroll_tables", scroll_tables)
    found = find_title(notebook)
    resources = {
        "page": page,
        "title": page.title or found or page.notebook,
        "css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "highlight": _find_takeaways(shown.cells),
    }
    body, _ = exporter.from_notebook_node(shown, resources=resources)
    # One notebook may be several pages, each with a title of its own.
    return str(body).replace(f">{found}</h1>", f">{html.escape(page.title or found)}</h1>", 1)


def find_title(notebook: NotebookNode) -> str:
    """Tell the text of a notebook's first top heading ("" when it has none)."""
    headings = (heading for cell in notebook.cells for heading in _find_headings(cell))
    return next((text for level, text in headings if level == 1), "")


def scroll_tables(fragment: str) -> str:
    """Put each table of an HTML fragment into a box of its own that scrolls sideways, also by keyboard."""
    return _TABLE.sub(_wrap_table, fragment)


def _wrap_table(match: re.Match[str]) -> str:
    caption = _CAPTION.search(match[0])
    label = html.escape(_read_text(caption[1])) if caption else "Table"
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">{match[0]}</div>'


def _find_headings(cell: NotebookNode) -> list[tuple[int, str]]:
    if cell.cell_type != "markdown":
        return []
    return [(len(marks), text.replace("`", "").replace("*", "")) for marks, text in _HEADING.findall(cell.source)]


def _find_takeaways(cells: list[NotebookNode]) -> tuple[int, int]:
    """Find the first and the last cell of the section that the page highlights ((-1, -1) without one)."""
    start = -1
    for number, cell in enumerate(cells):
        headings = [text for level, text in _find_headings(cell) if level <= 2]
        if start >= 0 and headings:
            return start, number - 1
        if TAKEAWAYS_HEADING in headings:
            start = number
    return (start, len(cells) - 1) if start >= 0 else (-1, -1)


def _lead_with_takeaways(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Move the takeaways up to the second heading: what a notebook must say first, a reader need not read first."""
    first, last = _find_takeaways(cells)
    begin = next((n for n, cell in enumerate(cells) if any(level == 2 for level, _ in _find_headings(cell))), 0)
    if ERROR_TAG in cells[begin].metadata.get("tags", []):
        begin += 1
    if begin >= first:
        return cells
    return [*cells[:begin], *cells[first : last + 1], *cells[begin:first], *cells[last + 1 :]]


def _describe_figure(output: NotebookNode, cells: list[NotebookNode], cell_number: int) -> None:
    for mimetype in {"image/png", "image/jpeg", "image/svg+xml"} & set(output.get("data", {})):
        details = output.metadata.setdefault(mimetype, NotebookNode())
        details.setdefault("alt", _word_figure(cells, cell_number))
        if mimetype == "image/png" and "width" not in details:
            details.update(_measure_png(output.data[mimetype]))


def _word_figure(cells: list[NotebookNode], cell_number: int) -> str:
    before = [text for cell in cells[:cell_number] for _, text in _find_headings(cell)]
    parts = [f"Figure: {before[-1]}" if before else "Figure", next(_read_takeaways(cells, cell_number), "")]
    return ". ".join(part.rstrip(".") for part in parts if part)[:ALT_TEXT_LENGTH]


def _read_takeaways(cells: list[NotebookNode], cell_number: int) -> Iterator[str]:
    for cell in cells[cell_number:]:
        if _find_headings(cell):
            return
        for output in cell.get("outputs", []):
            item = _FIRST_ITEM.search(output.get("data", {}).get("text/html", ""))
            if item:
                yield _read_text(item[1])


def _read_text(fragment: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", fragment)).split())


def _measure_png(content: str) -> dict[str, int]:
    header = base64.b64decode(content[: PNG_HEADER_LENGTH * 2])[:PNG_HEADER_LENGTH]
    if len(header) < PNG_HEADER_LENGTH:
        return {}
    width, height = struct.unpack(">II", header[16:24])
    return {"width": width, "height": height}
