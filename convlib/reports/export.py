"""An executed notebook as one HTML page: figures embedded, nothing loaded from elsewhere, code only for analysts."""

import base64
import html
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
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
_HEADING_OR_TABLE = re.compile(
    r"<h[1-6]\b[^>]*>(?P<heading>.*?)</h[1-6]>|<table\b.*?</table>", re.DOTALL | re.IGNORECASE
)
_TABLE_START = re.compile(r"<table\b[^>]*>", re.IGNORECASE)
_CAPTION = re.compile(r"<caption[^>]*>(.*?)</caption>", re.DOTALL | re.IGNORECASE)
_TABLE_HEAD = re.compile(r"<thead\b.*?</thead>", re.DOTALL | re.IGNORECASE)
_PLAIN_HEADING_CELL = re.compile(r"<th\b(?![^>]*\bscope=)", re.IGNORECASE)
_PLOTTED = re.compile(r"(\w+)\.plot\w*\(")
_LEADING = re.compile(r"(\w+)\.takeaways")
_FIRST_ITEM = re.compile(r"<li[^>]*>(.*?)</li>", re.DOTALL | re.IGNORECASE)

#: Characters that turn the direction of all text after them.
_TURNING = dict.fromkeys(map(ord, "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"))
_RIGHT_TO_LEFT = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]"
_RIGHT_TO_LEFT_RUN = re.compile(rf"{_RIGHT_TO_LEFT}(?:[^<>&\"=\nA-Za-z0-9]*{_RIGHT_TO_LEFT})?")


@dataclass(frozen=True)
class Link:
    """A neighbouring page: its title and its address relative to this one."""

    title: str
    href: str


@dataclass(frozen=True)
class Page:
    """What stands around a notebook's content on its page.

    Attributes:
        run_title: The run, in words.
        segment: The segment, in words.
        period: The days of entries, in words.
        notebook: The executed notebook's file beside the page; "" where the reader does not get it.
        provenance: Where the numbers come from.
        previous: The page before this one.
        following: The page after this one.
        title: The page's title; "" for the notebook's own.
        changes: What changed since the earlier report, in sentences.
        compared: The earlier report's period in words; "" when there is none.
        code: Whether the page has the code, closed.
        index: The address of the page that lists all reports.
    """

    run_title: str
    segment: str
    period: str
    notebook: str
    provenance: tuple[str, ...] = ()
    previous: Link | None = None
    following: Link | None = None
    title: str = ""
    changes: tuple[str, ...] = ()
    compared: str = ""
    code: bool = False
    index: str = "../index.html"


def export_page(notebook: NotebookNode, page: Page) -> str:
    """Show what an executed notebook found, as one self-contained HTML page for readers without Python.

    Args:
        notebook: The executed notebook; figures get their alternative text and size as output metadata.
        page: What to show around it.

    Returns:
        The page: no script, no request to anywhere, prompts left out.
    """
    for cell_number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            _describe_figure(output, notebook.cells, cell_number)
    shown = NotebookNode({**notebook, "cells": _lead_with_takeaways(notebook.cells)})
    found = find_title(notebook)
    key = _find_takeaways(shown.cells)
    resources = {
        "page": page,
        "title": page.title or found or page.notebook,
        "css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "highlight": key,
        "changes_after": max(key[1], 0),
    }
    body, _ = _make_exporter().from_notebook_node(shown, resources=resources)
    # One notebook may be several pages, each with a title of its own.
    shown_page = frame_tables(str(body)).replace(f">{found}</h1>", f">{html.escape(page.title or found)}</h1>", 1)
    return settle_direction(shown_page)


def settle_direction(text: str) -> str:
    """Keep names that run from right to left, or that turn the text, from moving the numbers around them."""
    return _RIGHT_TO_LEFT_RUN.sub(lambda run: f"\u2068{run[0]}\u2069", text.translate(_TURNING))


@cache
def _make_exporter() -> HTMLExporter:
    """Make the exporter once: reading and compiling its templates takes longer than a page does."""
    exporter = HTMLExporter(template_name="convlib_report", extra_template_basedirs=[str(TEMPLATES)])
    exporter.exclude_anchor_links = True
    exporter.register_filter("css_text", quote_css)
    return exporter


def find_title(notebook: NotebookNode) -> str:
    """Tell the text of a notebook's first top heading ("" when it has none)."""
    headings = (heading for cell in notebook.cells for heading in _find_headings(cell))
    return next((text for level, text in headings if level == 1), "")


def quote_css(text: str) -> str:
    """Write a text as a string of a style sheet, whatever it holds."""
    return '"' + "".join(c if c.isalnum() or c == " " else f"\\{ord(c):x} " for c in text) + '"'


def frame_tables(page: str) -> str:
    """Name each table of a page, say what its heads are about, and let it scroll sideways, also by keyboard.

    Args:
        page: A page's HTML. A table without a caption gets the heading above it as one, for screen readers.
    """
    heading, used = "Table", Counter[str]()

    def frame(match: re.Match[str]) -> str:
        nonlocal heading
        if match["heading"] is not None:
            heading = _read_text(match["heading"])
            return match[0]
        caption = _CAPTION.search(match[0])
        label = _read_text(caption[1]) if caption else heading
        used[label] += 1
        # Two regions of one name can't be told apart by ear.
        label = html.escape(label if used[label] == 1 else f"{label} ({used[label]})")
        hidden = "" if caption else f'<caption class="unseen">{label}</caption>'
        table = _TABLE_START.sub(lambda start: start[0] + hidden, _scope_heads(match[0]), count=1)
        return f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">{table}</div>'

    return _HEADING_OR_TABLE.sub(frame, page)


def _scope_heads(table: str) -> str:
    table = _TABLE_HEAD.sub(lambda head: _PLAIN_HEADING_CELL.sub('<th scope="col"', head[0]), table)
    return _PLAIN_HEADING_CELL.sub('<th scope="row"', table)


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
    """Give the sentences about a figure: of its own section, else of the takeaways that its result leads."""
    for cell in cells[cell_number:]:
        if _find_headings(cell):
            break
        yield from _read_first_item(cell)
    result = _PLOTTED.match(cells[cell_number].get("source", ""))
    first, last = _find_takeaways(cells)
    for cell in cells[first : last + 1] if result and first >= 0 else []:
        leading = _LEADING.search(cell.source)
        if leading and result and leading[1] == result[1]:
            yield from _read_first_item(cell)


def _read_first_item(cell: NotebookNode) -> Iterator[str]:
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
