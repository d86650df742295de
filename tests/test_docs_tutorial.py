"""The tutorial, the longest page: every block run in order."""

from pathlib import Path

import pytest
from docs_pages import ROOT, list_kind, run_page


@pytest.mark.parametrize("page", list_kind("tutorial"), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(page, tmp_path, monkeypatch)
