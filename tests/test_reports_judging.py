"""Closed periods: every segment judged, apart from the process that watches."""

from multiprocessing import Pipe
from pathlib import Path

import pandas as pd
import pytest
from test_reports_watcher import append, run

from convlib.errors import RunError
from convlib.reports.judging import judge_periods, read_calendar, receive_judged, send_judged, start_judging
from convlib.reports.preparation import prepare_run

__all__ = ["run"]


def test_judge_periods_looks_at_every_segment_of_the_run(run: Path) -> None:
    append(run, "purchase,2024-03-20 10:00:00,ann,mobile")
    found = judge_periods(str(run), "reports")
    assert set(found["segment"]) <= {"all", "device=mobile", "device=desktop"}


def test_start_judging_gives_the_alerts_of_another_process(run: Path, tmp_path: Path) -> None:
    with start_judging(str(run), str(tmp_path)) as receiver:
        assert receiver.poll(120)
        found = receive_judged(receiver)
    pd.testing.assert_frame_equal(found, judge_periods(str(run), str(tmp_path)))


def test_send_judged_says_what_is_wrong(run: Path, tmp_path: Path) -> None:
    run.write_text("run: shop\n")
    receiver, sender = Pipe(duplex=False)
    with sender:
        send_judged(str(run), str(tmp_path), sender)
    with receiver:
        assert isinstance(receive_judged(receiver), RunError)


def test_receive_judged_says_that_nothing_came() -> None:
    receiver, sender = Pipe(duplex=False)
    sender.close()
    with receiver:
        assert str(receive_judged(receiver)) == "its process ended early."


@pytest.mark.parametrize(("lag", "expected"), [("", 0), (", lag: 2D", 2)])
def test_read_calendar_takes_the_overview_s(run: Path, lag: str, expected: int) -> None:
    notebook = run.parent.parent / "notebooks" / "00_overview.ipynb"
    notebook.write_text(notebook.read_text().replace("week_start: str", 'lag: str = \\"\\"\\nweek_start: str'))
    run.write_text(run.read_text().replace("{every: W}", f"{{every: W, week_start: sunday{lag}}}"))
    calendar, open_for = read_calendar(prepare_run(run))
    assert (calendar.every, calendar.week_start, calendar.timezone) == ("W", "sunday", "UTC")
    assert open_for == pd.Timedelta(expected, "D")
