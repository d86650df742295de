"""The index page: what changed, how every segment stands, and the way to each report."""

import base64
import datetime as dt
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from convlib.alerts import SEVERITIES
from convlib.reports.export import TEMPLATES
from convlib.reports.files import write_text
from convlib.reports.manifest import Manifest, Report
from convlib.takeaways import word_rows

INDEX = "index.html"
SHORT_FINGERPRINT = 12


@dataclass(frozen=True)
class Card:
    """What one report found, in its own sentences."""

    title: str
    html: str
    units: int | None = None
    takeaways: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SegmentCard:
    """One segment with its headline and its reports."""

    name: str
    units: int | None
    headline: str
    reports: tuple[Report, ...]


@dataclass(frozen=True)
class AlertLine:
    """One open alert as a reader meets it."""

    severity: str
    segment: str
    evidence: str
    owner: str
    since: str
    is_new: bool


def write_index(folder: Path, manifest: Manifest, alerts: pd.DataFrame | None = None) -> Path:
    """Write the page that leads a reader to what changed and to each report.

    Args:
        folder: The period's folder, with the reports' tables and takeaways.
        manifest: The run's record.
        alerts: The table of alerts; None when no report looks for any.

    Returns:
        The page's path.
    """
    script = (TEMPLATES / "run_index.js").read_text(encoding="utf-8")
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"address": quote, "notebook_name": name_notebook, "segment_name": name_segment}
    text = environment.get_template("run_index.html.j2").render(
        run=manifest,
        period=word_period(*manifest.period),
        provenance=word_provenance(manifest),
        status=word_status(manifest),
        alerts=None if alerts is None else list_alerts(alerts),
        ended=0 if alerts is None else int((~alerts["still_open"]).sum()),
        failed=[report for report in manifest.reports if report.status == "failed"],
        css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **_collect(folder, manifest.reports),
    )
    write_text(folder / INDEX, text)
    return folder / INDEX


def list_alerts(alerts: pd.DataFrame) -> list[AlertLine]:
    """List the open alerts for readers: new ones first, then the most severe."""
    table = alerts[alerts["still_open"]]
    table = table.assign(old=~table["is_new"], rank=table["severity"].map(SEVERITIES.index))
    return [
        AlertLine(
            severity=alert["severity"],
            segment=name_segment(alert["segment"]),
            evidence=alert["evidence"],
            owner=alert["owner"],
            since=_word_day(alert["first_seen"]),
            is_new=bool(alert["is_new"]),
        )
        for alert in table.sort_values(["old", "rank"], kind="stable").to_dict("records")
    ]


def word_status(manifest: Manifest) -> str:
    """Say how many of the reports were made."""
    total, made = len(manifest.reports), sum(report.status == "made" for report in manifest.reports)
    if not total:
        return "There is no report to make yet"
    if made == total:
        return f"All {total} reports made" if total > 1 else "The report was made"
    failed = sum(report.status == "failed" for report in manifest.reports)
    missing = [f"{failed} incomplete"] if failed else []
    missing += [f"{total - made - failed} not made"] if total > made + failed else []
    return f"{made} of {total} reports made, {', '.join(missing)}"


def word_period(start: str, end: str) -> str:
    """Say a period of days in words: `1 February 2013 to 30 November 2014`."""
    return " to ".join(_word_day(dt.date.fromisoformat(day)) for day in (start, end))


def _word_day(day: dt.date) -> str:
    return f"{day.day} {day:%B %Y}"


def word_provenance(manifest: Manifest) -> tuple[str, ...]:
    """Say where the numbers come from: the data's end and rows, its fingerprint, and the versions that counted."""
    data, versions = manifest.data, manifest.versions
    last = dt.date.fromisoformat(str(data["last"])[:10])
    counts = {fate: data[f"rows_{fate}"] for fate in ("read", "used", "rejected", "left_out")}
    rows = word_rows(counts, rejected_because=data["rejected_because"], left_out_because=data["left_out_because"])
    return (
        f"The data end on {last.day} {last:%B %Y}.",
        f"{Path(data['source']).name}: {rows}. Data fingerprint {data['fingerprint'][:SHORT_FINGERPRINT]}.",
        f"Made with convlib {versions['convlib']}, Python {versions['python']}, pandas {versions['pandas']}, "
        f"DuckDB {versions['duckdb']}.",
    )


def name_notebook(name: str) -> str:
    """Name a notebook for readers: `02_funnel` is `Funnel`."""
    number, _, rest = name.partition("_")
    words = (rest if number.isdigit() and rest else name).replace("_", " ").replace("-", " ")
    return words[:1].upper() + words[1:]


def name_segment(name: str) -> str:
    """Name a segment for readers: `device_type=mobile` is `device type: mobile`."""
    column, equals, value = name.partition("=")
    if equals:
        return f"{column.replace('_', ' ')}: {value}"
    return "All units" if name == "all" else name.replace("_", " ")


def _collect(folder: Path, reports: Iterable[Report]) -> dict[str, object]:
    by_segment: dict[str, list[Report]] = {}
    for report in reports:
        by_segment.setdefault(report.segment, []).append(report)
    leading = by_segment.get("all") or next(iter(by_segment.values()), [])
    cards = [card for report in leading if (card := _read_card(folder, report)).takeaways]
    return {
        "lead": cards[0] if cards else None,
        "headlines": cards[1:],
        "segments": [_read_segment(folder, name, entries) for name, entries in by_segment.items()],
    }


def _read_segment(folder: Path, name: str, reports: list[Report]) -> SegmentCard:
    cards = [_read_card(folder, report) for report in reports]
    headline = next((card.takeaways[0] for card in cards if card.takeaways), "")
    units = next((card.units for card in cards if card.units is not None), None)
    return SegmentCard(name=name, units=units, headline=headline, reports=tuple(reports))


def _read_card(folder: Path, report: Report) -> Card:
    path = folder / report.tables / "takeaways.json"
    if not path.exists():
        return Card(title=report.title, html=report.html)
    found = json.loads(path.read_text(encoding="utf-8"))
    return Card(
        title=report.title,
        html=report.html,
        units=found.get("units"),
        takeaways=tuple(found.get("takeaways", ())),
        changes=tuple(found.get("changes", ())),
    )
