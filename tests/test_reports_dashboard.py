"""The dashboard's notebook, its token and its port."""

import importlib.util
import socket
from pathlib import Path

import nbformat
import pytest
from test_reports_watcher import run

from convlib.errors import ParamError, RunError
from convlib.reports import dashboard
from convlib.reports.dashboard import read_token, serve_dashboard, write_dashboard
from convlib.reports.preparation import prepare_run

__all__ = ["run"]


def test_read_token_is_made_once_and_private(tmp_path: Path) -> None:
    token = read_token(tmp_path)
    assert len(token) == 32
    assert read_token(tmp_path) == token
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def test_write_dashboard_fills_the_overview_and_puts_the_live_cell_on_top(run: Path) -> None:
    folder = run.parent.parent / "reports" / "shop" / "watch"
    folder.mkdir(parents=True)
    cells = nbformat.read(write_dashboard(prepare_run(run), folder), as_version=4).cells
    assert 'segment = "all"' not in cells[2].source
    assert "events = '../../../data'" in cells[2].source
    assert "end = ''" in cells[2].source
    assert cells[3].source.splitlines()[-1] == (
        "show_live(\".\", segment=segment, segments=['all', 'device=desktop', 'device=mobile'])"
    )


def test_write_dashboard_needs_the_overview(run: Path) -> None:
    (run.parent.parent / "notebooks" / "00_overview.ipynb").rename(run.parent.parent / "notebooks" / "01_other.ipynb")
    run.write_text(run.read_text().replace("00_overview: {every: W}", "01_other: {}"))
    with pytest.raises(RunError) as error:
        write_dashboard(prepare_run(run), run.parent)
    assert str(error.value) == (
        f"{run}: the dashboard shows `00_overview`, which is not among the run's notebooks. Add it, or watch with "
        "--no-dashboard."
    )


@pytest.mark.skipif(importlib.util.find_spec("voila") is None, reason="voila is not installed")
def test_serve_dashboard_does_not_share_a_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "END_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        served = serve_dashboard(tmp_path / "a.ipynb", port=taken.getsockname()[1], token="x", cache=tmp_path)
        with pytest.raises(ParamError, match="can't have port"):
            served.__enter__()
