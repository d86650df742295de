"""The watcher: rows counted once whatever ends it, units of the period so far, and alerts that outlive it."""

import os
from contextlib import AbstractContextManager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from reports_project import PLAN, SEGMENTS, write_notebook

from convlib.errors import RunError
from convlib.reports.watcher import Watcher, clean_cache, open_watcher

NOTEBOOK = """\
events: str = ""
mapping: str = ""
engine: str = "duckdb"
plan: str = ""
segments: str = ""
segment: str = "all"
start: str = ""
end: str = ""
output: str = ""
every: str = "W"
week_start: str = "monday"
"""
LINES = """\
event_name,timestamp,user_id,device_type
visit,2024-03-04 10:00:00,ann,mobile
purchase,2024-03-05 10:00:00,ann,desktop
visit,2024-03-05 11:00:00,ben,desktop
visit,2024-03-05 12:00:00,bot,desktop
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Write a project: its run file."""
    (tmp_path / "params").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "params" / "plan.yaml").write_text(
        PLAN + "leave_out: [{id: bots, name: Bots, match: {user_id: bot}, scope: user}]\n"
    )
    (tmp_path / "params" / "segments.yaml").write_text(SEGMENTS)
    (tmp_path / "params" / "run.yaml").write_text(
        "run: shop\nevents: ../data\nplan: plan.yaml\nsegments: segments.yaml\nnotebooks: {00_overview: {every: W}}\n"
    )
    write_notebook(tmp_path / "notebooks" / "00_overview.ipynb", "1", parameters=NOTEBOOK)
    (tmp_path / "data" / "a.csv").write_text(LINES)
    return tmp_path / "params" / "run.yaml"


def open_shop(run: Path) -> AbstractContextManager[Watcher]:
    return open_watcher(run, reports=run.parent.parent / "reports", say=lambda _: None)


def append(run: Path, *lines: str) -> None:
    with (run.parent.parent / "data" / "a.csv").open("a") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def progress(watcher: Watcher, period: str) -> dict[tuple[str, str], int]:
    table = watcher.state.read_progress(pd.Timestamp(period))
    return {(str(row["segment"]), str(row["conversion"])): int(row["units"]) for row in table.to_dict("records")}


def test_look_counts_each_row_once_over_restarts(run: Path) -> None:
    with open_shop(run) as watcher:
        assert watcher.look() == 4
        append(run, "visit,2024-03-06 10:00:00,eva,mobile")
        assert watcher.look() == 1
    append(run, "purchase,2024-03-06 11:00:00,eva,mobile")
    with open_shop(run) as watcher:
        assert watcher.look() == 1
        assert watcher.state.recall("rows") == 6


def test_look_counts_units_of_the_period_by_the_segment_that_they_entered_in(run: Path) -> None:
    with open_shop(run) as watcher:
        watcher.look()
        expected = {("all", ""): 2, ("all", "visit"): 2, ("all", "purchase"): 1}  # the bot is left out
        expected |= {("device=mobile", ""): 1, ("device=mobile", "visit"): 1, ("device=mobile", "purchase"): 1}
        expected |= {("device=desktop", ""): 1, ("device=desktop", "visit"): 1}
        assert progress(watcher, "2024-03-04") == expected
        # Ben came earlier than was known, on a phone; Ann's visit of the week before counts there.
        append(run, "visit,2024-03-04 09:00:00,ben,mobile", "visit,2024-03-03 09:00:00,ann,mobile")
        watcher.look()
        assert progress(watcher, "2024-03-04")["device=mobile", ""] == 2
        assert ("device=desktop", "") not in progress(watcher, "2024-03-04")


def test_look_that_fails_on_the_way_leaves_nothing_half_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_shop(run) as watcher:
        with monkeypatch.context() as patch:
            patch.setattr(Watcher, "_judge_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                watcher.look()
        assert watcher.state.recall("rows") is None
        assert watcher.look() == 4


def test_alerts_survive_a_restart_with_their_ids(run: Path) -> None:
    begin = pd.Timestamp("2024-03-06")
    visits = [f"visit,{begin + pd.Timedelta(30 * n, 's')},u{n},mobile" for n in range(600)]
    carts = [f"cart,{begin + pd.Timedelta(30 * n, 's')},u{n},mobile" for n in range(500)]
    append(run, *visits, *carts)
    with open_shop(run) as watcher:
        watcher.look()
        first = watcher.alerts
    assert first[["rule", "conversion", "is_new"]].to_numpy().tolist() == [["event_stopped", "cart", True]]
    with open_shop(run) as watcher:
        watcher.look()
        again = watcher.alerts
        assert again["id"].tolist() == first["id"].tolist()
        assert not again["is_new"].any()
        append(
            run,
            f"cart,{begin + pd.Timedelta(18_000, 's')},u1,mobile",
            f"visit,{begin + pd.Timedelta(18_060, 's')},u1,x",
        )
        watcher.look()
        assert watcher.alerts["still_open"].tolist() == [False]


def test_a_closed_period_is_judged_once(run: Path) -> None:
    with open_shop(run) as watcher:
        asked: list[Connection] = []

        def judge() -> Connection:
            receiver, sender = Pipe(duplex=False)
            asked.append(sender)
            return receiver

        watcher.judge = judge
        watcher.look()
        append(run, "visit,2024-03-12 10:00:00,eva,mobile")
        watcher.look()
        watcher.look()
        assert len(asked) == 1
        with asked[0] as first:
            first.send(RunError("No."))
        watcher.look()
        assert list(watcher.warnings) == ["The closed period could not be judged: No. It is tried again."]
        row = {"rule": "change", "severity": "warning", "segment": "all", "conversion": "visit", "metric": "rate"}
        with asked[1] as second:
            second.send(pd.DataFrame([{**row, "evidence": "It fell.", "still_open": True}]))
        watcher.look()
        assert watcher.alerts["evidence"].tolist() == ["It fell."]
        watcher.look()
        assert watcher.alerts["still_open"].tolist() == [True]
        assert len(asked) == 2


def test_a_changed_plan_counts_anew(run: Path) -> None:
    with open_shop(run) as watcher:
        watcher.look()
    plan = run.parent / "plan.yaml"
    plan.write_text(plan.read_text().replace("user_id: bot", "user_id: robot"))
    said: list[str] = []
    with open_watcher(run, reports=run.parent.parent / "reports", say=said.append) as watcher:
        assert watcher.look() == 4
        assert progress(watcher, "2024-03-04")["all", ""] == 3
    assert said == ["The plan, the segments, the mapping or the calendar changed: everything is counted anew."]


def test_rows_of_a_database_are_counted_once_though_asked_for_again(run: Path) -> None:
    place = run.parent.parent / "shop.duckdb"
    insert = (
        "INSERT INTO events VALUES ('visit', TIMESTAMP '2024-03-05 10:00:00' + INTERVAL {} SECOND, 'u{}', 'mobile')"
    )
    with duckdb.connect(str(place)) as base:
        base.execute(
            "CREATE TABLE events (event_name VARCHAR, timestamp TIMESTAMP, user_id VARCHAR, device_type VARCHAR)"
        )
        for second in (0, 0, 1):  # the first twice: two rows that are alike
            base.execute(insert.format(second, second))
        base.execute("INSERT INTO events VALUES ('purchase', TIMESTAMP '2024-03-05 10:00:00', 'u1', 'mobile')")
    run.write_text(run.read_text().replace("../data", "../shop.duckdb"))
    with open_shop(run) as watcher:
        assert [watcher.look(), watcher.look()] == [4, 0]
        with duckdb.connect(str(place)) as base:
            for second in (0, 2):  # one more that is alike and comes late, and a new one
                base.execute(insert.format(second, second))
        assert [watcher.look(), watcher.look()] == [2, 0]


def test_rows_that_come_too_late_to_a_database_are_not_counted_twice(run: Path) -> None:
    place = run.parent.parent / "shop.duckdb"
    with duckdb.connect(str(place)) as base:
        base.execute(
            "CREATE TABLE events AS SELECT 'visit' AS event_name, '2024-03-05 10:00:00' AS timestamp, 'ann' AS user_id,"
            " 'mobile' AS device_type UNION ALL SELECT 'purchase', '2024-03-05 15:00:00+00', 'ann', 'mobile'"
        )
    (run.parent / "map.yaml").write_text("timezone: America/New_York\n")
    run.write_text(run.read_text().replace("../data", "../shop.duckdb\nmapping: map.yaml"))
    with open_shop(run) as watcher:  # both at 15:00 UTC
        assert [watcher.look(), watcher.look(), watcher.look()] == [2, 0, 0]


def test_clean_cache_keeps_the_newest_and_what_a_page_may_need(tmp_path: Path) -> None:
    for name, age in (("log-a", 2_000), ("log-b", 1_000), ("log-c", 900)):
        (tmp_path / name).mkdir()
        when = pd.Timestamp.now("UTC").timestamp() - age
        os.utime(tmp_path / name, (when, when))
    clean_cache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log-c"]


def test_open_watcher_lists_what_is_wrong_with_the_run_file(run: Path) -> None:
    run.write_text(run.read_text() + "watch: {interval: soon, errors: {event_name: {like: x}}}\n")
    with pytest.raises(RunError) as error, open_shop(run):
        pass
    assert len(error.value.problems) == 2
