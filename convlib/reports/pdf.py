"""A report page as a PDF: tagged, with page numbers. Typst is left out on purpose: it needs pandoc to read HTML."""

import importlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from convlib.errors import RunError

WEASYPRINT = "weasyprint"
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
    "microsoft-edge",
)
BROWSER_SECONDS = 120
PRINT = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions",
    "--no-pdf-header-footer", "--export-tagged-pdf", "--generate-pdf-document-outline",
)  # fmt: skip
NO_RENDERER = (
    "No PDF can be made: WeasyPrint can't be loaded, and none of these browsers is on the PATH: {browsers}. Install "
    "WeasyPrint with `pip install 'convlib[pdf]'` (it needs the system's Pango), or one of the browsers."
)
NOT_MADE = "The browser `{browser}` made no PDF{reason}. Install WeasyPrint with `pip install 'convlib[pdf]'`."

_TIME = re.compile(rb"(/(?:CreationDate|ModDate) \(D:)(\d{14})")
_FIRST_DAY = b"20000101000000"


def find_renderer() -> str:
    """Tell what makes PDFs here: `weasyprint`, or the path of a browser.

    Raises:
        RunError: Neither is installed.
    """
    if _load_weasyprint():
        return WEASYPRINT
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        raise RunError(NO_RENDERER.format(browsers=", ".join(BROWSERS)))
    return found


def render_pdf(html: str) -> bytes:
    """Print a page: equal bytes for an equal page by the same renderer, and nothing loaded from elsewhere.

    Args:
        html: A self-contained page, as `export_page` or the index makes it.

    Returns:
        The PDF, tagged for screen readers.

    Raises:
        RunError: No renderer is installed, or the browser made nothing.
    """
    renderer = find_renderer()
    return _print_with_weasyprint(html) if renderer == WEASYPRINT else _print_with_browser(html, renderer)


def _load_weasyprint() -> ModuleType | None:
    try:
        return importlib.import_module(WEASYPRINT)
    except (ImportError, OSError):  # OSError: the system's Pango is missing
        return None


def _print_with_weasyprint(html: str) -> bytes:
    # Its remarks, such as on links between pages that a PDF can't have, tell a reader nothing.
    for name in (WEASYPRINT, "fontTools"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    weasyprint = importlib.import_module(WEASYPRINT)
    fetcher = importlib.import_module("weasyprint.urls").URLFetcher(allowed_protocols=("data",))
    document = weasyprint.HTML(string=html, url_fetcher=fetcher)
    content: bytes = document.write_pdf(pdf_variant="pdf/ua-1", optimize_images=False)
    return content


def _print_with_browser(html: str, browser: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="convlib-") as folder:
        page, target = Path(folder, "page.html"), Path(folder, "page.pdf")
        page.write_text(html, encoding="utf-8")
        # Chromium's own sandbox refuses to start as the root of a container; the page may run no script anyway.
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        command = [browser, *PRINT, *sandbox, f"--user-data-dir={folder}/profile", f"--print-to-pdf={target}"]
        reason = _run(
            [*command, page.as_uri()], environment={**os.environ, "XDG_CONFIG_HOME": folder, "XDG_CACHE_HOME": folder}
        )
        if not target.exists():
            raise RunError(NOT_MADE.format(browser=browser, reason=reason))
        return _TIME.sub(lambda match: match[1] + _FIRST_DAY, target.read_bytes())


def _run(command: list[str], *, environment: Mapping[str, str]) -> str:
    """Run a browser and word what went wrong ("" when nothing did)."""
    try:
        ended = subprocess.run(  # noqa: S603  # a browser found on the PATH, given a page of our own
            command, env=environment, capture_output=True, timeout=BROWSER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f" within {BROWSER_SECONDS} s"
    except OSError as error:
        return f": {error.strerror}"
    return f" (it ended with status {ended.returncode})" if ended.returncode else ""
