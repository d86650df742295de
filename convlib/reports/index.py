"""The index page and the mail: what changed, what to do, how every segment stands, and the way to each report."""

import base64
import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from convlib import results
from convlib.alert_files import SEVERITIES
from convlib.files import write_text
from convlib.reports.export import TEMPLATES, frame_tables, settle_direction
from convlib.reports.manifest import AUDIENCES, OWN_ALERTS, OWNER, PRIVATE, STAKEHOLDER, WORKBOOK, Manifest, Report
from convlib.reports.run_file import name_folder
from convlib.reports.withheld import WITHHELD
from convlib.takeaways import DECISIONS, UNDECIDED, word_rows

INDEX = "index.html"
#: As what a report is in an audience's folder.
PAGES = (".html", ".pdf")
SHORT_FINGERPRINT = 12
UNUSED = {"rows_read", "rows_rejected", "rows_left_out"}
#: So many changes of the first segment with any, and of each other one, are shown before the rest is counted.
FIRST_CHANGES, OTHER_CHANGES = 5, 2
#: A mail has so many characters a sentence, and so many lines a section; mail clients cut what is over 100 KB.
MAIL_CHARACTERS, MAIL_LINES = 400, 10
RESUME = "run it again with --resume: it makes what is missing and keeps the rest."
#: What a reader is told of a run that did not end well: a heading, and what to do.
BANNERS = {
    "running": ("This run has not finished", f"Reload this page later. If no run is under way any more, {RESUME}"),
    "stopped": ("This run was stopped before it finished", f"To finish it, {RESUME}"),
    "interrupted": ("This run was interrupted", f"To finish it, {RESUME}"),
    "incomplete": ("This run is incomplete", f"Mend what the reports below say, then {RESUME}"),
}
#: The sentence that each report's changes end with.
_WITHIN_CHANCE = re.compile(r"with the last run \((.+?)\) (?:is|are) within chance")
_DECISIONS = tuple({text.partition("{")[0] for text in (*DECISIONS.values(), UNDECIDED)})


@dataclass(frozen=True)
class Card:
    """What one report found, in its own sentences."""

    title: str
    html: str
    units: int | None = None
    takeaways: tuple[str, ...] = ()

    @property
    def decision(self) -> str:
        """What an experiment's page decides; "" for any other page."""
        first = self.takeaways[0] if self.takeaways else ""
        return first.partition(". ")[0].rstrip(".") + "." if first.startswith(_DECISIONS) else ""


@dataclass(frozen=True)
class ReportLine:
    """One report in the list: `href` is "" when there is no page, `pdf` when there is no PDF."""

    title: str
    name: str
    note: str
    href: str
    pdf: str


@dataclass(frozen=True)
class SegmentCard:
    """One segment with its headline, what its experiments decided, and its reports."""

    name: str
    units: int | None
    headline: str
    decisions: tuple[tuple[str, str], ...]
    reports: tuple[ReportLine, ...]
    workbook: str


@dataclass(frozen=True)
class SegmentChanges:
    """What changed in one segment: the most important sentences, and how many more its reports have."""

    name: str
    sentences: tuple[str, ...]
    more: int
    href: str


@dataclass(frozen=True)
class AlertLine:
    """One open alert as a reader meets it."""

    severity: str
    segment: str
    evidence: str
    owner: str
    since: str
    is_new: bool


@dataclass(frozen=True)
class QualityLine:
    """One rule of data quality that failed as an error."""

    name: str
    evidence: str
    owner: str
    href: str


@dataclass(frozen=True)
class Summary:
    """All that the index, a mail and a chat message tell of a run; `compared` is the earlier run's period."""

    title: str
    period: str
    provenance: tuple[str, ...]
    status: str
    banner: tuple[str, str] | None
    failed: tuple[Report, ...]
    changes: tuple[SegmentChanges, ...]
    compared: str
    alerts: tuple[AlertLine, ...] | None
    ended: int
    quality: tuple[QualityLine, ...]
    lead: Card | None
    headlines: tuple[Card, ...]
    segments: tuple[SegmentCard, ...]
    archive: str


def write_index(
    folder: Path,
    manifest: Manifest,
    alerts: pd.DataFrame | None = None,
    *,
    audience: str = "",
    left_out: Sequence[str] = (),
    trend: pd.DataFrame | None = None,
) -> Path:
    """Write the page that leads a reader to what changed and to each report.

    Args:
        folder: The folder of the period, or of an audience, with the reports' tables and takeaways.
        manifest: The run's record, with the reports that the page is to list and their paths from `folder`.
        alerts: The table of alerts; None when no report looks for any.
        audience: Whose page it is; "" for whoever makes the reports.
        left_out: What this audience does not get, since it would reveal few units.
        trend: The first rate, run by run, as `read_trend` gives it.

    Returns:
        The page's path.
    """
    script = (TEMPLATES / "run_index.js").read_text(encoding="utf-8")
    context = {
        "run": summarise_run(folder, manifest, alerts, audience=audience),
        "audience": audience,
        "left_out": left_out,
        "trend": _show_trend(trend),
        "css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "script": script,
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    write_text(folder / INDEX, _render("run_index.html.j2", context))
    return folder / INDEX


def _show_trend(trend: pd.DataFrame | None) -> str:
    """Show the first rate of the latest runs as a table; "" without two of them."""
    if trend is None or trend.empty:
        return ""
    rows = trend.rename(columns={"lower": "value_ci_lower", "upper": "value_ci_upper"})
    shown: tuple[tuple[str, str, results.Kind], ...] = (
        ("sample", "Period from", "text"),
        ("value", str(rows["name"].iloc[-1]), rows["unit"].iloc[-1]),
        ("units", "n", "count"),
    )
    return frame_tables(results.show_table(rows, shown, caption="Run by run"))


def render_mail(folder: Path, manifest: Manifest, alerts: pd.DataFrame | None, *, audience: str) -> str:
    """Tell an audience what a run found, as the HTML of a mail: no script, no style sheet, no picture, under 100 KB.

    Args:
        folder: The period's folder.
        manifest: The run's record; only what the audience may see is told.
        alerts: The table of alerts; None when no report looks for any.
        audience: `analyst`, `stakeholder` or `owner:TEAM`.
    """
    return _render("mail.html.j2", _tell(folder, manifest, alerts, audience))


def render_text(folder: Path, manifest: Manifest, alerts: pd.DataFrame | None, *, audience: str) -> str:
    """Tell an audience the same as `render_mail` in plain text, for a chat.

    Args:
        folder: The period's folder.
        manifest: The run's record; only what the audience may see is told.
        alerts: The table of alerts; None when no report looks for any.
        audience: `analyst`, `stakeholder` or `owner:TEAM`.
    """
    return _render("mail.txt.j2", _tell(folder, manifest, alerts, audience), escape=False).strip() + "\n"


def _render(template: str, context: Mapping[str, object], *, escape: bool = True) -> str:
    # Plain text has nothing to escape; everything else is escaped.
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=escape, undefined=StrictUndefined)  # noqa: S701
    environment.filters |= {"address": quote, "notebook_name": name_notebook, "segment_name": name_segment}
    environment.filters |= {"cut": cut_text}
    return settle_direction(environment.get_template(template).render(context))


def cut_text(text: str) -> str:
    """Cut a sentence to what a mail has room for, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= MAIL_CHARACTERS else text[: MAIL_CHARACTERS - 1] + "…"


def _tell(folder: Path, manifest: Manifest, alerts: pd.DataFrame | None, audience: str) -> dict[str, object]:
    """Choose what a mail may tell: the reports in the audience's folder, and the alerts on them or of the team."""
    role, _, team = audience.partition(":")
    own = folder / AUDIENCES / name_folder(audience)
    marker = folder / PRIVATE / STAKEHOLDER / WITHHELD
    withheld = json.loads(marker.read_text(encoding="utf-8")) if role == STAKEHOLDER and marker.exists() else []
    reports = tuple(
        report
        for report in manifest.reports
        if report.audience == (STAKEHOLDER if role == STAKEHOLDER else "")
        and role != OWNER
        and report.html not in withheld
        and any((own / Path(*Path(report.html).parts[-2:])).with_suffix(kind).exists() for kind in PAGES)
    )
    if role == STAKEHOLDER:  # the run's own alerts may count fewer units than a stakeholder is to see
        places = [place for report in reports if (place := folder / report.tables / OWN_ALERTS).exists()]
        alerts = pd.concat(map(pd.read_parquet, places), ignore_index=True) if places else None
    elif alerts is not None:
        is_own = alerts["owner"] == team if role == OWNER else alerts["segment"].isin({r.segment for r in reports})
        alerts = alerts[is_own]
    shown = manifest if role == OWNER else replace(manifest, reports=reports)
    shown = hide_rejected(shown) if role == STAKEHOLDER else shown
    summary = summarise_run(folder, shown, alerts, audience=audience)
    if role == OWNER:
        summary = replace(summary, changes=(), compared="", quality=(), lead=None, headlines=(), segments=())
    facts = folder / PRIVATE / f"{name_folder(audience)}.json"
    owned = json.loads(facts.read_text(encoding="utf-8")) if role == OWNER and facts.exists() else []
    return {"run": summary, "lines": MAIL_LINES, "attached": _list_pdfs(own), "owned": owned}


def _list_pdfs(folder: Path) -> list[str]:
    """List the PDF files that go with a mail by name: an owner's one, or those of the first segment."""
    pdfs = sorted(folder.glob("*.pdf")) or sorted(folder.glob("all/*.pdf")) or sorted(folder.glob("*/*.pdf"))
    return [path.name for path in pdfs if path.parent == pdfs[0].parent]


def summarise_run(
    folder: Path, manifest: Manifest, alerts: pd.DataFrame | None = None, *, audience: str = ""
) -> Summary:
    """Collect what a reader of a run has to know first.

    Args:
        folder: The folder that the reports' paths start at.
        manifest: The run's record with the reports that the reader may see.
        alerts: The table of alerts; None when no report looks for any.
        audience: Who reads; "" for whoever makes the reports.
    """
    by_segment: dict[str, list[Report]] = {}
    for report in manifest.reports:
        # An audience's own manifest has its reports as if they were the run's.
        if not report.audience or audience:
            by_segment.setdefault(report.segment, []).append(report)
    leading = by_segment.get("all") or next(iter(by_segment.values()), [])
    cards = [card for report in leading if (card := _read_card(folder, report)).takeaways]
    changes, compared = list_changes(by_segment)
    is_whole = all(report.status == "made" for report in manifest.reports)
    banner = None if audience and is_whole else BANNERS.get(manifest.status)
    return Summary(
        title=manifest.title,
        period=word_period(*manifest.period),
        provenance=word_provenance(manifest),
        status=word_status(manifest),
        # A reader who can't run anything is told what is missing, and not what to run.
        banner=(banner[0], "What is missing is marked below.") if banner and audience else banner,
        failed=tuple(report for report in manifest.reports if report.status == "failed"),
        changes=changes,
        compared=compared,
        alerts=None if alerts is None else tuple(list_alerts(alerts)),
        ended=0 if alerts is None else int((~alerts["still_open"]).sum()),
        quality=tuple(chain.from_iterable(_read_quality(folder, report) for report in leading)),
        lead=cards[0] if cards else None,
        headlines=tuple(cards[1:]),
        segments=tuple(_read_segment(folder, name, entries) for name, entries in by_segment.items()),
        archive=next((path.name for path in sorted(folder.glob("*.zip"))), ""),
    )


def list_changes(by_segment: Mapping[str, Sequence[Report]]) -> tuple[tuple[SegmentChanges, ...], str]:
    """List what changed, segment by segment, the most important first, and tell the period that it is compared with.

    Args:
        by_segment: The reports of each segment.

    Returns:
        The segments with changes beyond chance, and the earlier period in words ("" when nothing was compared).
    """
    changes: list[SegmentChanges] = []
    compared = ""
    for name, reports in by_segment.items():
        # Each report has its most important change first, so the first of each comes before the second of any.
        ranked = chain.from_iterable(zip_longest(*(report.changes for report in reports)))
        said = dict.fromkeys(sentence for sentence in ranked if sentence)
        quiet = {sentence: found[1] for sentence in said if (found := _WITHIN_CHANCE.search(sentence))}
        compared = compared or next(iter(quiet.values()), "")
        told = [sentence for sentence in said if sentence not in quiet]
        room = OTHER_CHANGES if changes else FIRST_CHANGES
        if told:
            href = next(report.html for report in reports if set(report.changes) & set(told))
            changes.append(SegmentChanges(name, tuple(told[:room]), max(len(told) - room, 0), href))
    return tuple(changes), compared


def list_alerts(alerts: pd.DataFrame) -> list[AlertLine]:
    """List the open alerts for readers: new ones first, then the most severe."""
    table = alerts[alerts["still_open"]]
    table = table.assign(old=~table["is_new"], rank=table["severity"].map(SEVERITIES.index))
    return [
        AlertLine(
            severity=alert["severity"],
            segment=name_segment(alert["segment"]),
            evidence=results.cut_text(alert["evidence"]),
            owner=results.cut_text(alert["owner"]),
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
    counts = {fate: data[f"rows_{fate}"] for fate in ("read", "used", "rejected", "left_out") if f"rows_{fate}" in data}
    rows = word_rows(counts, rejected_because=data["rejected_because"], left_out_because=data["left_out_because"])
    return (
        f"The data end on {last.day} {last:%B %Y}.",
        f"{Path(data['source']).name}: {rows}. Data fingerprint {data['fingerprint'][:SHORT_FINGERPRINT]}.",
        f"Made with convlib {versions['convlib']}, Python {versions['python']}, pandas {versions['pandas']}, "
        f"DuckDB {versions['duckdb']}.",
    )


def hide_rejected(manifest: Manifest) -> Manifest:
    """Take out of a run's record how many rows were not used: they may be few, and of few units."""
    kept = {name: value for name, value in manifest.data.items() if name not in UNUSED}
    return replace(manifest, data=kept | {"rejected_because": {}, "left_out_because": {}})


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


def _read_segment(folder: Path, name: str, reports: Sequence[Report]) -> SegmentCard:
    cards = [_read_card(folder, report) for report in reports]
    workbook = str(Path(reports[0].html).with_name(WORKBOOK))
    return SegmentCard(
        name=name,
        units=next((card.units for card in cards if card.units is not None), None),
        headline=next((card.takeaways[0] for card in cards if card.takeaways), ""),
        decisions=tuple((card.title, card.decision) for card in cards if card.decision),
        reports=tuple(_read_line(folder, report) for report in reports),
        workbook=workbook if (folder / workbook).exists() else "",
    )


def _read_line(folder: Path, report: Report) -> ReportLine:
    pdf = str(Path(report.html).with_suffix(".pdf"))
    return ReportLine(
        title=report.title,
        name=name_notebook(report.notebook),
        note={"failed": "incomplete", "pending": "not made"}.get(report.status, "left out" if report.error else ""),
        href=report.html if report.status != "pending" and (folder / report.html).exists() else "",
        pdf=pdf if (folder / pdf).exists() else "",
    )


def _read_card(folder: Path, report: Report) -> Card:
    path = folder / report.tables / "takeaways.json"
    if not path.exists():
        return Card(title=report.title, html=report.html)
    found = json.loads(path.read_text(encoding="utf-8"))
    return Card(
        title=report.title,
        html=report.html,
        units=found.get("units"),
        takeaways=tuple(results.cut_text(sentence, results.MOST_SENTENCE) for sentence in found.get("takeaways", ())),
    )


def _read_quality(folder: Path, report: Report) -> list[QualityLine]:
    """Read the rules that failed as errors; no example, since that may be a user's."""
    path = folder / report.tables / "quality.parquet"
    if not path.exists():
        return []
    table = pd.read_parquet(path)
    rows = table[(table["severity"] == "error") & (table["status"] == "failed")].to_dict("records")
    return [
        QualityLine(
            name=row["name"],
            evidence="" if pd.isna(row["failed"]) else f"{row['failed']:,.0f} of {row['tried']:,.0f} failed",
            owner=row["owner"] or "",
            href=report.html,
        )
        for row in rows
    ]
