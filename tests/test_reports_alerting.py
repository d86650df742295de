import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from reports_project import PARAMETERS, RUN, write_notebook, write_project
from test_notify import Receiver, receive
from typer.testing import CliRunner

from convlib.alert_files import read_alerts
from convlib.cli import app
from convlib.errors import RunError
from convlib.reports.run import Run, run_reports

#: Raises what the test's file lists for the segment, as the overview does; None makes the report fail.
RAISE = """\
import json, pathlib
import pandas as pd
from convlib.alert_files import merge_alerts, read_alerts
told = json.loads(pathlib.Path("../raised.json").read_text())
raised = told[segment]
names = ["rule", "severity", "evidence"]
found = pd.DataFrame([*raised], columns=names).assign(segment=segment, period=pd.Timestamp(end), conversion="visit")
earlier = read_alerts(history)
earlier = earlier[(earlier["segment"] == segment) & earlier["rule"].isin(told["looked"])]
table = merge_alerts(found, earlier, pd.Timestamp("2024-03-31 10:00"))
pathlib.Path(output).mkdir(parents=True, exist_ok=True)
table.to_parquet(pathlib.Path(output, "alerts.parquet"))
"""
FELL = ["change", "critical", "Visits fell."]
ROSE = ["change", "info", "Visits rose."]
MISSED = ["target_missed", "warning", "Visits miss the target."]
NOTIFY = "run_segments: [all, device=mobile]\nalerts: {notify: [CONVLIB_TEST_HOOK]}\n"


class Project:
    """A project whose one notebook raises alerts, and a webhook that is told."""

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        self.folder, self.receiver = folder, receiver
        self.run_file = write_project(folder, run=RUN + NOTIFY)
        parameters = PARAMETERS + 'rules: list = []\nhistory: str = ""\n'
        write_notebook(folder / "notebooks" / "overview.ipynb", RAISE, parameters=parameters)
        self.reports = folder / "reports"

    def run(self, *, period: str = "{start: 2024-03-01, end: 2024-03-10}", **raised: object) -> Run:
        self.prepare(period=period, **raised)
        return run_reports(self.run_file, reports=self.reports, workers=1, kernel="cold")

    def prepare(self, *, period: str = "{start: 2024-03-01, end: 2024-03-10}", **raised: object) -> None:
        looked = raised.get("looked", ["change", "target_missed"])
        found = {"all": raised["all"], "device=mobile": raised["mobile"], "looked": looked}
        (self.folder / "raised.json").write_text(json.dumps(found))
        text = (RUN + NOTIFY).replace("{start: 2024-03-01, end: 2024-03-10}", period)
        self.run_file.write_text(text)

    def list_open(self) -> list[tuple[str, str, bool]]:
        table = read_alerts(self.reports / "shop" / "alerts.json")
        rows = table.loc[table["still_open"], ["segment", "evidence", "is_new"]]
        return sorted(rows.itertuples(index=False, name=None))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    with receive() as receiver:
        monkeypatch.setenv("CONVLIB_TEST_HOOK", receiver.address)
        yield Project(tmp_path, receiver)


def test_runs_raise_send_and_close_each_alert_once(project: Project) -> None:
    made = project.run(all=[FELL], mobile=[ROSE, MISSED])
    assert project.list_open() == [
        ("all", "Visits fell.", True),
        ("device=mobile", "Visits miss the target.", True),
        ("device=mobile", "Visits rose.", True),
    ]
    [told] = project.receiver.bodies
    assert told["title"] == "Shop, weekly: 2 new alerts (1 critical)"
    assert told["message"].startswith("critical · All units · Visits fell. [")
    assert made.notes == ("3 alerts are open, 3 new.",)
    assert "Alerts <span" in made.index.read_text()
    assert (made.folder / "alerts.json").read_text() == (project.reports / "shop" / "alerts.json").read_text()
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest["alerts"] == {"open": 3, "new": 3, "delivery": {"CONVLIB_TEST_HOOK": "delivered"}}
    again = project.run(all=[FELL], mobile=[ROSE, MISSED])
    assert len(project.receiver.bodies) == 1
    # The report of the same data shows what it showed.
    assert again.notes == ("3 alerts are open, 3 new.",)
    # A failed report leaves its segment's alerts as they were.
    failed = project.run(all=[FELL], mobile=None)
    assert failed.status == "incomplete"
    assert project.receiver.bodies.pop()["message"] == "Not made: device=mobile/overview. Continue with --resume."
    still_open = ["Visits fell.", "Visits miss the target.", "Visits rose."]
    assert [evidence for _, evidence, _ in project.list_open()] == still_open
    # A run closes only what its notebooks looked at.
    project.run(all=[], mobile=[ROSE, MISSED], looked=[])
    assert [evidence for _, evidence, _ in project.list_open()] == still_open
    project.run(all=[], mobile=[ROSE, MISSED], looked=["change"])
    assert [evidence for _, evidence, _ in project.list_open()] == still_open[1:]
    # A run of an older period raises, closes and sends nothing.
    before = (project.reports / "shop" / "alerts.json").read_text()
    made = project.run(all=[FELL], mobile=[], period="{start: 2024-03-01, end: 2024-03-03}")
    assert made.notes == (
        "The period ends on 2024-03-03, before the newest one with alerts, 2024-03-10: no alert was raised, closed or "
        "sent.",
    )
    assert (project.reports / "shop" / "alerts.json").read_text() == before
    assert len(project.receiver.bodies) == 1
    assert read_alerts(made.folder / "alerts.json")["evidence"].tolist() == ["Visits fell."]


def test_a_failed_delivery_is_said_and_made_up_for_at_the_next_run(project: Project) -> None:
    project.receiver.answers = [500, 500, 500]
    project.prepare(all=[FELL], mobile=[])
    made = CliRunner().invoke(app, ["run", str(project.run_file), "--reports", str(project.reports)])
    assert made.exit_code == 0
    assert made.stderr.endswith(
        "1 alert is open, 1 new.\n"
        "CONVLIB_TEST_HOOK: it answered 500 (Internal Server Error). The message is kept and sent again at the next "
        "run.\n"
    )
    manifest = json.loads((project.reports / "shop" / "2024-03-01_2024-03-10" / "manifest.json").read_text())
    assert manifest["alerts"]["delivery"] == {"CONVLIB_TEST_HOOK": "it answered 500 (Internal Server Error)"}
    project.run(all=[], mobile=[])
    assert len({body["message_id"] for body in project.receiver.bodies}) == 1
    assert len(project.receiver.bodies) == 4


@pytest.mark.parametrize("name", ["alerts.json", "outbox.json"])
def test_a_run_makes_nothing_when_earlier_alerts_cannot_be_read(project: Project, name: str) -> None:
    (project.reports / "shop").mkdir(parents=True)
    (project.reports / "shop" / name).write_text("{")
    with pytest.raises(RunError) as caught:
        project.run(all=[], mobile=[])
    assert name in str(caught.value)
    assert [path.name for path in (project.reports / "shop").iterdir()] == [name]
