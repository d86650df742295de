"""One page for the team that owns some of a plan's conversions: how they stand, what is wrong, what is promised."""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from convlib.plan import Loss, Plan
from convlib.rates import latest_rows
from convlib.reports.export import TEMPLATES, frame_tables, settle_direction
from convlib.reports.index import list_alerts, name_segment, word_period, word_provenance
from convlib.reports.manifest import Manifest, Report
from convlib.results import MISSING, Kind, find_kind, format_value, show_table
from convlib.takeaways import word_values
from convlib.upkeep import list_actions

TEMPLATE = "owner.html.j2"
SHOWN: tuple[tuple[str, str, Kind], ...] = (
    ("name", "Metric", "text"),
    ("shown", "Value", "text"),
    ("exposed", "n", "count"),
    ("shown_target", "Target", "text"),
    ("status", "Status", "text"),
    ("shown_change", "Since the last run", "text"),
    ("rank", "Rank", "count"),
)
METRICS = (
    *("segment", "name", "conversion", "metric", "period", "units", "exposed", "value", "ci_lower", "ci_upper"),
    *("target", "status", "difference", "verdict", "rank"),
)
ACTIONS: tuple[tuple[str, str, Kind], ...] = (
    ("state", "State", "text"),
    ("due", "Due", "text"),
    ("text", "Action", "text"),
    ("name", "For", "text"),
)


@dataclass(frozen=True)
class OwnerTables:
    """What one team owns.

    Attributes:
        metrics: One row a segment and metric of the team, of the latest complete period: `METRICS`.
        alerts: The open alerts on the team's metrics; None when no report looks for any.
        actions: What the team has promised, as `list_actions` gives it, with the conversion's `name`.
    """

    metrics: pd.DataFrame
    alerts: pd.DataFrame | None
    actions: pd.DataFrame

    def as_lines(self) -> list[str]:
        """Say for a message what is promised, the overdue first, and which targets are missed in the first segment."""
        promised = _word_actions(self.actions[~self.actions["done"]])
        promised = promised.sort_values("overdue_days", ascending=False, kind="stable")
        lines = [
            f"{row['text']} ({row['name']}): {row['state']}, due {row['due']}" for row in promised.to_dict("records")
        ]
        missed = self.metrics[self.metrics["status"] == "missed"]
        missed = missed[missed["segment"] == missed["segment"].iloc[0]] if len(missed) else missed
        values, targets = word_values(missed, "value", with_interval=True), word_values(missed, "target")
        found = zip(missed["segment"], missed["name"], values, targets, strict=True)
        return lines + [f"{name_segment(each)}: {name} {value}, target {target}" for each, name, value, target in found]

    def as_sheets(self) -> dict[str, pd.DataFrame]:
        """Give the tables by the titles of a workbook's sheets."""
        none = pd.DataFrame()
        return {
            "Metrics": self.metrics,
            "Alerts": none if self.alerts is None else self.alerts,
            "Actions": self.actions,
        }


def tabulate_owner(
    folder: Path, reports: Iterable[Report], plan: Plan, team: str, *, on: dt.date, alerts: pd.DataFrame | None
) -> OwnerTables:
    """Gather what a team owns from the tables of a run's reports.

    Args:
        folder: The period's folder.
        reports: The reports of the team's segments.
        plan: The plan.
        team: The owner.
        on: The day to judge by what is overdue.
        alerts: The alerts of these segments; None when no report looks for any.
    """
    segments: dict[str, list[Path]] = {}
    for report in reports:
        segments.setdefault(report.segment, []).extend([folder / report.tables] if report.status == "made" else [])
    parts = [_read_metrics(name, places, team) for name, places in segments.items()]
    metrics = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    titles = {(e.id, str(m.metric)): m.name for e in plan.conversions if not isinstance(e, Loss) for m in e.measures}
    names = {each.id: each.name for each in plan.conversions}
    pairs = zip(metrics.get("conversion", ()), metrics.get("metric", ()), strict=True)
    metrics = metrics.assign(name=[titles.get(pair, names.get(pair[0], pair[0])) for pair in pairs])
    actions = list_actions(plan, on=on).table
    own = actions[actions["owner"] == team].reset_index(drop=True)
    mine = None if alerts is None else alerts[(alerts["owner"] == team) & alerts["still_open"]].reset_index(drop=True)
    return OwnerTables(metrics.reindex(columns=list(METRICS)), mine, own.assign(name=own["conversion"].map(names)))


def _read_metrics(segment: str, places: Iterable[Path], team: str) -> pd.DataFrame:
    """Read one segment's rates of the latest complete period, with what changed and the ranks."""
    rates, changes, impact = (_find_table(places, name) for name in ("rates", "changes", "impact"))
    if rates.empty:
        return pd.DataFrame()
    mine = latest_rows(rates)
    mine = mine[mine["owner"] == team].assign(segment=segment)
    mine["id"] = mine["conversion"] + ": " + mine["metric"]
    if len(changes):
        compared = changes[changes["kind"].isin(["rate", "score"])].drop_duplicates("id")
        mine = mine.merge(compared[["id", "difference", "verdict"]], on="id", how="left")
    if len(impact):
        mine["rank"] = mine["conversion"].map(impact.drop_duplicates("micro").set_index("micro")["rank"])
    return mine


def _find_table(places: Iterable[Path], name: str) -> pd.DataFrame:
    """Read the first table of a name among a segment's reports; empty when none saved it."""
    found = next((path for place in places if (path := place / f"{name}.parquet").exists()), None)
    return pd.read_parquet(found) if found else pd.DataFrame()


def render_owner(manifest: Manifest, team: str, tables: OwnerTables) -> str:
    """Show what a team owns as one self-contained page.

    Args:
        manifest: The run's record.
        team: The owner.
        tables: What it owns.
    """
    sections = [
        (name_segment(str(name)), _show_metrics(rows)) for name, rows in tables.metrics.groupby("segment", sort=False)
    ]
    return _render(
        manifest,
        title=f"{team}: metrics, alerts and actions",
        sections=sections,
        alerts=None if tables.alerts is None else list_alerts(tables.alerts),
        actions=_show_actions(tables.actions) if len(tables.actions) else "",
    )


NOT_MADE = "This report could not be made this time. Whoever runs the reports can see why."


def render_missing(manifest: Manifest, report: Report, *, notice: str = NOT_MADE) -> str:
    """Say on a report's own page that it is not there; why it failed is not for its reader."""
    return _render(manifest, title=report.title, segment=name_segment(report.segment), notice=notice)


def _render(manifest: Manifest, *, title: str, **content: object) -> str:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    empty = {"segment": "", "notice": "", "sections": (), "alerts": None, "actions": None}
    page = environment.get_template(TEMPLATE).render(
        run=manifest,
        title=title,
        period=word_period(*manifest.period),
        provenance=word_provenance(manifest),
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704  # this package's own file
        **{**empty, **content},
    )
    return settle_direction(frame_tables(page))


def _show_metrics(rows: pd.DataFrame) -> Markup:
    shown = rows.assign(
        shown=word_values(rows, "value", with_interval=True),
        shown_target=word_values(rows, "target"),
        shown_change=rows.apply(_word_change, axis="columns"),
    )
    return Markup(show_table(shown, SHOWN))  # noqa: S704  # it escapes its cells


def _word_change(row: "pd.Series[Any]") -> str:
    """Say the change as `+1.2 pts, up`; what chance alone may have done is said to be within chance."""
    if not isinstance(row["verdict"], str):
        return ""
    kind = find_kind(str(row["metric"]))
    change = format_value(row["difference"], "points" if kind == "percent" else kind)
    return row["verdict"] if change == MISSING else f"{change}, {row['verdict']}"


def _show_actions(actions: pd.DataFrame) -> Markup:
    return Markup(show_table(_word_actions(actions), ACTIONS))  # noqa: S704  # it escapes its cells


def _word_actions(actions: pd.DataFrame) -> pd.DataFrame:
    late = actions["overdue_days"].map("{} days overdue".format).where(actions["overdue_days"] > 0, "open")
    return actions.assign(due=actions["due"].dt.strftime("%Y-%m-%d"), state=late.where(~actions["done"], "done"))
