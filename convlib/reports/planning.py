"""What a run makes: each report's entry in the record, the key of all that it depends on, and its job."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from convlib.files import digest_files
from convlib.periods import tell_time
from convlib.reports.comparison import Before, measure_overlap
from convlib.reports.execute import Job, KernelKind
from convlib.reports.export import Link, Page
from convlib.reports.history import PreviousRun
from convlib.reports.index import hide_rejected, name_segment, word_period, word_provenance
from convlib.reports.manifest import ALERTS, PRIVATE, Manifest, Report, read_versions
from convlib.reports.notebooks import Template
from convlib.reports.preparation import Preparation
from convlib.reports.schedule import list_variables


@dataclass(frozen=True)
class Planned:
    """One report that a run makes."""

    report: Report
    job: Job

    @property
    def name(self) -> str:
        """What `--only` calls it: `all/02_funnel`, for an audience `stakeholder:all/02_funnel`."""
        return _name_report(self.report.audience, self.report.segment, self.report.notebook)


def _name_report(audience: str, segment: str, notebook: str) -> str:
    name = f"{segment}/{notebook}"
    return f"{audience}:{name}" if audience else name


@dataclass(frozen=True)
class _Plan:
    """What all reports of a run share."""

    preparation: Preparation
    manifest: Manifest
    folder: Path
    kernel: KernelKind
    previous: PreviousRun | None
    only: Sequence[str]
    overlaps: dict[str, tuple[float, float]] = field(default_factory=dict)


def start_manifest(preparation: Preparation) -> Manifest:
    """Begin the record of a run: its data, plan, period and versions, without reports."""
    run_file, log, (start, end) = preparation.run_file, preparation.log, preparation.period
    data = {
        "source": run_file.events,
        "fingerprint": log.fingerprint,
        "reading": log.prepared.reading,
        **{f"rows_{fate}": count for fate, count in log.row_counts.items()},
        "rejected_because": log.rejected_because,
        "left_out_because": log.left_out_because,
        "first": log.first.isoformat(),
        "last": log.last.isoformat(),
    }
    segments = Path(run_file.resolve(run_file.segments)) if run_file.segments else None
    return Manifest(
        run=run_file.run,
        title=run_file.title or run_file.run,
        period=(start.isoformat(), end.isoformat()),
        data=data,
        plan_digest=preparation.plan.digest,
        segments_digest=digest_files([segments]) if segments else "",
        versions=read_versions(),
        started=tell_time(),
    )


def plan_reports(
    preparation: Preparation,
    manifest: Manifest,
    folder: Path,
    *,
    kernel: KernelKind = "warm",
    previous: PreviousRun | None = None,
    only: Sequence[str] = (),
) -> list[Planned]:
    """List what a run makes, segment by segment, and after that what its stakeholders get.

    Args:
        preparation: The checked run.
        manifest: The run's record, without reports.
        folder: The period's folder.
        kernel: How the notebooks' processes are started.
        previous: The run before, to compare with.
        only: The names of those that will be made, for the others are compared with nothing; () for all.
    """
    plan = _Plan(preparation, manifest, folder, kernel, previous, only)
    return [
        _plan_report(plan, audience=audience, segment=segment, position=position, templates=templates)
        for audience, segments, templates in preparation.list_audiences()
        for segment in segments
        for position in range(len(templates))
    ]


def _plan_report(
    plan: _Plan, *, audience: str, segment: str, position: int, templates: tuple[Template, ...]
) -> Planned:
    template, preparation, folder = templates[position], plan.preparation, plan.folder
    place = f"{preparation.segments[segment]}/{template.name}"
    tables = f"{preparation.segments[segment]}/tables/{template.name}"
    if audience:
        place, tables = (f"{PRIVATE}/{audience}/{path}" for path in (place, tables))
    page = _frame_page(plan, segment=segment, position=position, templates=templates)
    if audience:  # it gets the page without the notebook
        page = replace(page, notebook="", provenance=word_provenance(hide_rejected(plan.manifest)))
    parameters = preparation.fill(
        template, segment=segment, tables=folder / tables, history=folder.parent / ALERTS, audience=audience
    )
    before = _find_before(plan, audience=audience, segment=segment, notebook=template.name)
    key = _make_key(template, parameters, page, plan.manifest, before)
    report = Report(
        segment=segment,
        notebook=template.name,
        title=template.title,
        key=key,
        parameters=parameters,
        html=f"{place}.html",
        ipynb=f"{place}.ipynb",
        tables=tables,
        audience=audience,
    )
    # Workers change their working folder: what they get must not depend on it.
    base = folder.resolve()
    job = Job(
        template=template.path,
        ipynb=base / report.ipynb,
        html=base / report.html,
        tables=base / tables,
        parameters=parameters,
        page=page,
        timeout_seconds=preparation.run_file.timeout_seconds,
        retries=preparation.run_file.retries,
        kernel=plan.kernel,
        before=before,
        key=key,
        hidden=list_variables(preparation.run_file),
    )
    return Planned(report, job)


def _frame_page(plan: _Plan, *, segment: str, position: int, templates: tuple[Template, ...]) -> Page:
    links = [Link(template.title, f"{template.name}.html") for template in templates]
    return Page(
        run_title=plan.manifest.title,
        segment=name_segment(segment),
        period=word_period(*plan.manifest.period),
        notebook=f"{templates[position].name}.ipynb",
        provenance=word_provenance(plan.manifest),
        previous=links[position - 1] if position else None,
        following=links[position + 1] if position + 1 < len(links) else None,
        title=templates[position].title,
        compared=word_period(*plan.previous.period) if plan.previous else "",
    )


def _find_before(plan: _Plan, *, audience: str, segment: str, notebook: str) -> Before | None:
    if plan.previous is None or (plan.only and _name_report(audience, segment, notebook) not in plan.only):
        return None
    measures = plan.previous.measures.get((audience, segment, notebook), ())
    if not measures:
        return None
    if segment not in plan.overlaps:
        log, period = plan.preparation.log.segment(segment), plan.preparation.period
        plan.overlaps[segment] = measure_overlap(log, period, plan.previous.period)
    shared_now, shared_before = plan.overlaps[segment]
    return Before(plan.previous.period, measures, shared_now, shared_before, redacted=audience != "")


def _make_key(
    template: Template, parameters: Mapping[str, Any], page: Page, manifest: Manifest, before: Before | None
) -> str:
    """Fingerprint all that a report's content depends on."""
    parts = {
        "source": digest_source(),
        "template": template.digest,
        "parameters": parameters,
        "page": asdict(page),
        "data": [manifest.data["fingerprint"], manifest.data["reading"]],
        "plan": manifest.plan_digest,
        "segments": manifest.segments_digest,
        "versions": manifest.versions,
        "before": asdict(before) if before else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@cache
def digest_source() -> str:
    """Fingerprint this package's code and templates, so that reports made by other code are made anew."""
    package = Path(__file__).parents[1]
    return digest_files(path for path in package.rglob("*") if path.suffix in {".py", ".j2", ".css", ".js"})
