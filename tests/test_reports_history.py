import datetime as dt
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from convlib.errors import RunError
from convlib.files import write_text
from convlib.reports.history import HISTORY, find_previous, list_runs, read_measures, read_runs, read_trend, record_run
from convlib.reports.locks import hold
from convlib.reports.manifest import Manifest, Report

REPORT = Report("all", "funnel", "Funnel", "k", {"window": "7D"}, "all/f.html", "all/f.ipynb", "all/t/f", status="made")
WEEK = Manifest(
    "shop", "Shop", ("2024-03-04", "2024-03-10"), {}, "p", "s", {}, (REPORT, replace(REPORT, status="failed")),
    started="2024-03-11T06:00:00+00:00", finished="2024-03-11T06:01:00+00:00", seconds=60.0, status="complete",
    alerts={"open": 2, "new": 1},
)  # fmt: skip
NEXT = replace(WEEK, period=("2024-03-11", "2024-03-17"), started="2024-03-18T06:00:00+00:00")
MEASURES = pd.DataFrame(
    {"audience": [""], "segment": ["all"], "notebook": ["funnel"], "kind": ["rate"], "id": ["buy"], "value": [0.25]}
)
EMPTY = pd.DataFrame()
THIRD = (dt.date(2024, 3, 18), dt.date(2024, 3, 24))


def test_record_run_keeps_one_row_a_run_and_period(tmp_path: Path) -> None:
    path = tmp_path / HISTORY
    record_run(path, replace(WEEK, status="incomplete"), EMPTY)
    record_run(path, NEXT, EMPTY)
    record_run(path, WEEK, EMPTY)
    record_run(path, replace(WEEK, run="other"), EMPTY)
    rows = read_runs(path, "shop")
    assert rows.drop(columns=["title", "started", "finished"]).to_dict("list") == {
        "run": ["shop", "shop"],
        "period_start": ["2024-03-04", "2024-03-11"],
        "period_end": ["2024-03-10", "2024-03-17"],
        "seconds": [60.0, 60.0],
        "status": ["complete", "complete"],
        "reports": [2, 2],
        "made": [1, 1],
        "failed": [1, 1],
        "alerts": [2, 2],
        "new_alerts": [1, 1],
    }
    assert len(read_runs(path)) == 3
    assert [path.name for path in tmp_path.iterdir()] == [HISTORY]


def test_record_run_takes_columns_that_an_earlier_version_did_not_have(tmp_path: Path) -> None:
    path = tmp_path / HISTORY
    record_run(path, WEEK, MEASURES)
    record_run(path, NEXT, MEASURES.assign(error=0.1))
    assert read_measures(path, "shop", WEEK.period)["error"].isna().tolist() == [True]
    assert read_measures(path, "shop", NEXT.period)["error"].tolist() == [0.1]
    assert read_measures(path, "shop", ("2020-01-01", "2020-01-07")).empty


def test_record_run_keeps_the_alerts(tmp_path: Path) -> None:
    alerts = pd.DataFrame({"segment": ["all"], "evidence": ["Fewer buy."], "is_new": [True]})
    record_run(tmp_path / HISTORY, WEEK, EMPTY, alerts)
    with duckdb.connect(str(tmp_path / HISTORY)) as base:
        found = base.execute("SELECT run, period_end, evidence, is_new FROM alerts").fetchall()
    assert found == [("shop", "2024-03-10", "Fewer buy.", True)]


def test_find_previous_gives_the_last_complete_run_before(tmp_path: Path) -> None:
    path = tmp_path / HISTORY
    assert find_previous(path, "shop", THIRD) is None
    record_run(path, WEEK, MEASURES)
    record_run(path, replace(NEXT, status="incomplete"), MEASURES.assign(value=0.5))
    found = find_previous(path, "shop", THIRD)
    assert found is not None
    assert found.period == ("2024-03-04", "2024-03-10")
    assert found.measures == {("", "all", "funnel"): ({"kind": "rate", "id": "buy", "value": 0.25},)}
    assert find_previous(path, "shop", (dt.date(2024, 3, 4), dt.date(2024, 3, 10))) is None
    assert find_previous(path, "other", THIRD) is None


def test_history_that_is_damaged_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / HISTORY
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(RunError) as caught:
        read_runs(path)
    message = str(caught.value)
    assert message.startswith(f"`{path}`, the history of runs, can't be used: ")
    assert message.endswith(
        " Close the program that has it open, or, if it is damaged, move it away: the next run begins a new one, "
        "without anything to compare itself with."
    )


def test_list_runs_tells_a_run_that_goes_on_from_one_that_stopped(tmp_path: Path) -> None:
    record_run(tmp_path / HISTORY, WEEK, EMPTY)
    going = replace(NEXT, status="running", finished="", alerts={})
    going.write(tmp_path / "shop" / "2024-03-11_2024-03-17")
    WEEK.write(tmp_path / "shop" / "2024-03-04_2024-03-10")
    with hold(tmp_path / "shop" / ".lock"):
        assert list_runs(tmp_path)["status"].tolist() == ["complete", "running"]
    stopped = list_runs(tmp_path)
    assert stopped["status"].tolist() == ["complete", "stopped"]
    assert stopped["period_end"].tolist() == ["2024-03-10", "2024-03-17"]
    assert list_runs(tmp_path / "nothing").empty


def test_list_runs_tells_of_a_first_run_that_was_stopped(tmp_path: Path) -> None:
    replace(NEXT, status="interrupted", alerts={}).write(tmp_path / "shop" / "2024-03-11_2024-03-17")
    assert list_runs(tmp_path)[["status", "reports", "made"]].to_numpy().tolist() == [["interrupted", 2, 1]]


def test_list_runs_counts_the_reports_that_a_killed_run_left(tmp_path: Path) -> None:
    folder = tmp_path / "shop" / "2024-03-11_2024-03-17"
    reports = tuple(replace(REPORT, notebook=name, key=name, tables=name, status="pending") for name in "abc")
    for name, key in {"a": "a", "b": "other"}.items():  # what was made from other input is not this run's
        record = {"key": key, "status": "made", "seconds": 1.0, "error": "", "attempts": 1, "kernel": "warm"}
        write_text(folder / name / "record.json", json.dumps(record))
    write_text(folder / REPORT.html, "")
    write_text(folder / REPORT.ipynb, "")
    replace(NEXT, status="running", reports=reports, alerts={}).write(folder)
    assert list_runs(tmp_path)[["status", "reports", "made"]].to_numpy().tolist() == [["stopped", 3, 1]]


def test_read_trend_follows_the_first_rate_while_it_is_defined_alike(tmp_path: Path) -> None:
    path = tmp_path / HISTORY
    now = MEASURES.assign(definition="d", sample="2024-03-18", value=0.3)
    assert read_trend(path, WEEK, now).empty
    record_run(path, WEEK, now.assign(definition="other", sample="2024-03-04"))
    record_run(path, NEXT, now.assign(sample="2024-03-11", value=0.2))
    third = replace(WEEK, period=("2024-03-18", "2024-03-24"))
    trend = read_trend(path, third, pd.concat([now, now.assign(id="look", value=0.9)]))
    assert trend[["sample", "value"]].to_dict("list") == {"sample": ["2024-03-11", "2024-03-18"], "value": [0.2, 0.3]}
    assert read_trend(path, third, now.assign(audience="stakeholder")).empty
    assert read_trend(path, third, EMPTY).empty


@pytest.mark.parametrize(
    ("period", "own", "is_like"),
    [
        pytest.param(("2024-03-15", "2024-03-17"), ("2024-03-18", "2024-03-24"), False, id="three days, a week"),
        pytest.param(("2024-03-11", "2024-03-17"), ("2024-03-18", "2024-03-20"), False, id="a week, three days"),
        pytest.param(("2024-03-11", "2024-03-18"), ("2024-03-18", "2024-03-24"), False, id="eight days, a week"),
        pytest.param(("2024-03-04", "2024-03-10"), ("2024-03-18", "2024-03-24"), True, id="a week"),
        pytest.param(("2023-02-01", "2023-02-28"), ("2023-03-01", "2023-03-31"), True, id="months"),
        pytest.param(("2023-01-01", "2023-03-31"), ("2023-07-01", "2023-09-30"), True, id="quarters"),
    ],
)
def test_find_previous_compares_periods_of_the_same_length(
    tmp_path: Path, period: tuple[str, str], own: tuple[str, str], is_like: bool
) -> None:
    record_run(tmp_path / HISTORY, replace(WEEK, period=period), MEASURES)
    start, end = map(dt.date.fromisoformat, own)
    assert (find_previous(tmp_path / HISTORY, "shop", (start, end)) is not None) is is_like


def test_reading_leaves_nothing_in_a_folder_that_one_may_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_run(tmp_path / HISTORY, WEEK, MEASURES)

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("convlib.reports.history.hold", refuse)
    with pytest.raises(RunError) as caught:
        read_runs(tmp_path / HISTORY)
    assert str(caught.value) == f"`{tmp_path / HISTORY}`, the history of runs, can't be used: Permission denied."
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK)
    assert len(read_runs(tmp_path / HISTORY)) == 1
    assert read_measures(tmp_path / HISTORY, "shop", WEEK.period)["value"].tolist() == [0.25]


HOLD = """\
import sys, time, duckdb
with duckdb.connect(sys.argv[1]):
    print("held", flush=True)
    time.sleep(1)
"""


def test_reading_waits_for_another_process_that_writes(tmp_path: Path) -> None:
    record_run(tmp_path / HISTORY, WEEK, MEASURES)
    command = [sys.executable, "-c", HOLD, str(tmp_path / HISTORY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "held\n"
        assert len(read_runs(tmp_path / HISTORY)) == 1
    assert writer.wait() == 0


def test_readers_and_writers_at_once_do_not_fail(tmp_path: Path) -> None:
    path = tmp_path / HISTORY
    record_run(path, WEEK, MEASURES)
    found: list[int] = []

    def read() -> None:
        found.extend(len(read_runs(path)) for _ in range(10))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(10):
        record_run(path, WEEK, MEASURES)
    for reader in readers:
        reader.join()
    assert found == [1] * 20
