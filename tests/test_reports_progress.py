import io

import pytest
from rich.console import Console

from convlib.reports import progress
from convlib.reports.progress import show_progress


def test_show_progress_prints_one_plain_line_a_notebook_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(2) as tick:
        tick("all · funnel [x] · made")
        tick("all · impact · made")
    assert capsys.readouterr().err == "[1/2] all · funnel [x] · made\n[2/2] all · impact · made\n"


def test_show_progress_draws_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    with show_progress(2) as tick:
        tick("all · funnel [x] · made")
    assert "1/2" in screen.getvalue()
    assert "all · funnel [x] · made" in screen.getvalue()
