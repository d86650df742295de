import datetime as dt
import re
from pathlib import Path

import pandas as pd
import pytest
from test_reports_audiences import RATES
from test_reports_index import manifest, report

from convlib.plan import Plan, read_plan
from convlib.reports.owner_page import OwnerTables, render_missing, render_owner, tabulate_owner

PLAN = """\
macros:
  - id: purchase
    name: Purchase
    match: {event_name: purchase}
    owner: sales
    micros:
      - id: visit
        name: Visit <b>home</b>
        match: {event_name: visit}
        stage: awareness
        kind: process_milestone
        owner: growth
        actions:
          - {text: Mend the form, due: 2024-03-05}
          - {text: Not theirs, owner: sales}
"""
ALERTS = pd.DataFrame(
    {
        "severity": ["warning", "info", "warning"],
        "segment": ["all"] * 3,
        "evidence": ["Visit fell.", "Purchase fell.", "Visit was low."],
        "owner": ["growth", "sales", "growth"],
        "first_seen": pd.to_datetime(["2024-03-01"] * 3),
        "still_open": [True, True, False],
        "is_new": [True, False, False],
    }
)
CHANGES = pd.DataFrame({"kind": ["rate"], "id": ["visit: rate"], "difference": [0.05], "verdict": ["up"]})
IMPACT = pd.DataFrame({"micro": ["visit"], "rank": pd.array([1], "Int64")})


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "plan.yaml").write_text(PLAN)
    return read_plan(tmp_path / "plan.yaml")


@pytest.fixture
def tables(tmp_path: Path, plan: Plan) -> OwnerTables:
    made = [report("all", "00_overview"), report("all", "04_impact"), report("device=mobile", "00_overview")]
    for each, name, table in ((made[0], "rates", RATES), (made[0], "changes", CHANGES), (made[1], "impact", IMPACT)):
        (tmp_path / each.tables).mkdir(parents=True, exist_ok=True)
        table.to_parquet(tmp_path / each.tables / f"{name}.parquet")
    return tabulate_owner(tmp_path, made, plan, "growth", on=dt.date(2024, 3, 10), alerts=ALERTS)


def test_tabulate_owner_takes_only_what_the_team_owns(tables: OwnerTables) -> None:
    columns = ["segment", "name", "value", "target", "difference", "verdict", "rank"]
    assert tables.metrics[columns].to_dict("records") == [
        {
            "segment": "all", "name": "Visit <b>home</b>", "value": 0.8, "target": 0.9,
            "difference": 0.05, "verdict": "up", "rank": 1,
        }
    ]  # fmt: skip
    assert tables.alerts is not None
    assert tables.alerts["evidence"].tolist() == ["Visit fell."]
    assert tables.actions[["text", "overdue_days"]].to_numpy().tolist() == [["Mend the form", 5]]


def test_tabulate_owner_has_the_same_columns_without_reports(tmp_path: Path, plan: Plan, tables: OwnerTables) -> None:
    empty = tabulate_owner(tmp_path, [], plan, "nobody", on=dt.date(2024, 3, 10), alerts=None)
    assert list(empty.metrics.columns) == list(tables.metrics.columns)
    assert (len(empty.metrics), len(empty.actions), empty.alerts) == (0, 0, None)


def test_render_owner_says_value_target_change_rank_alerts_and_actions(tables: OwnerTables) -> None:
    page = render_owner(manifest(), "growth", tables)
    text = " ".join(re.sub(r"<[^>]+>", " ", page.partition("<body")[2]).split())
    assert "growth: metrics, alerts and actions" in text
    assert "Visit &lt;b&gt;home&lt;/b&gt; 80.0% (70.0% to 90.0%) 50 90.0% missed +5.0 pts, up 1" in text
    assert "warning new All units Visit fell. since 1 March 2024" in text
    assert "5 days overdue 2024-03-05 Mend the form Visit &lt;b&gt;home&lt;/b&gt;" in text
    assert "Purchase" not in text
    assert "Not theirs" not in text


def test_as_lines_says_what_to_do_and_which_targets_are_missed(tables: OwnerTables) -> None:
    assert tables.as_lines() == [
        "Mend the form (Visit <b>home</b>): 5 days overdue, due 2024-03-05",
        "All units: Visit <b>home</b> 80.0% (70.0% to 90.0%), target 90.0%",
    ]


def test_render_owner_says_that_there_is_nothing(tmp_path: Path, plan: Plan) -> None:
    empty = tabulate_owner(tmp_path, [], plan, "nobody", on=dt.date(2024, 3, 10), alerts=ALERTS)
    page = render_owner(manifest(), "nobody", empty)
    for sentence in ("No alert is open.", "No action is planned.", "No report of this run measured them."):
        assert sentence in page


def test_render_missing_keeps_the_reason_to_itself() -> None:
    page = render_missing(manifest(), report("all", "02_funnel", error="Traceback: secret.py"))
    assert "This report could not be made this time." in page
    assert 'href="../index.html"' in page
    assert "secret" not in page
