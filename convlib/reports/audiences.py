"""A folder for each audience of a run, with its own segments, notebooks and formats, and nothing else."""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from convlib.alert_files import read_alerts
from convlib.documents import did_you_mean, quote_names
from convlib.errors import ConvlibError
from convlib.files import OLD, SCRATCH, remove_folder, write_bytes, write_text
from convlib.plan import Plan
from convlib.reports.export import Link, Page, export_page
from convlib.reports.index import (
    INDEX,
    hide_rejected,
    name_notebook,
    name_segment,
    word_period,
    word_provenance,
    write_index,
)
from convlib.reports.manifest import (
    ALERTS,
    ANALYST,
    AUDIENCES,
    OWN_ALERTS,
    OWNER,
    PRIVATE,
    STAKEHOLDER,
    WORKBOOK,
    Manifest,
    Report,
)
from convlib.reports.owner_page import render_missing, render_owner, tabulate_owner
from convlib.reports.pdf import find_renderer, render_pdf
from convlib.reports.run_file import Audience, RunFile, name_folder
from convlib.reports.withheld import WITHHELD, find_withheld
from convlib.reports.workbook import write_workbook
from convlib.segments import read_segments
from convlib.spreadsheets import neutralise_table

if TYPE_CHECKING:
    from convlib.events import EventLog
    from convlib.reports.preparation import Notebooks, Preparation

#: Beside a report's results: what the runner keeps for itself.
RUNNERS = {"record", "measures"}
#: Columns that say that a table's rows are single units.
IDS = {"user_id", "session_id", "anonymous_id", "unit"}
#: Every entry of an archive has it, so that equal files give equal archives.
ZIP_TIME = (2000, 1, 1, 0, 0, 0)
NOT_MADE = "It could not be made this time."
Submit = Callable[..., "Future[None]"]


def check_audiences(run_file: RunFile, plan: Plan, notebooks: "Notebooks") -> list[str]:
    """Find the audiences that ask for what the run does not have.

    Args:
        run_file: The run file.
        plan: The plan with the owners.
        notebooks: The run's notebooks.

    Returns:
        One sentence a problem, with its line.
    """
    owners = sorted(list_owners(plan))
    names = {name: None for each in notebooks.templates for name in (each.name, each.path.stem)}
    segments = _list_segments(run_file)
    problems = []
    for key, audience in run_file.audiences.items():
        role, _, team = key.partition(":")
        where = ("audiences", key)
        if role == OWNER and team not in owners:
            known = f"The owners are {quote_names(owners)}." if owners else "The plan names no `owner`."
            near = did_you_mean(team, owners)
            problems.append(f"{run_file.locate(*where)}: {team!r} owns nothing in the plan. {known}{near}")
        problems += [
            f"{run_file.locate(*where, 'notebooks', i)}: the run has no notebook {name!r}.{did_you_mean(name, names)}"
            for i, name in enumerate(audience.notebooks or ())
            if name not in names
        ]
        problems += [
            f"{run_file.locate(*where, 'segments', i)}: the run has no segment {name!r}.{did_you_mean(name, segments)}"
            for i, name in enumerate(audience.segments or ())
            if segments and name.partition("=")[0] not in segments
        ]
        problems += [f"{run_file.locate(*where, 'formats')}: {each}" for each in _find_pdf_problems(audience)]
    return problems


def list_owners(plan: Plan) -> set[str]:
    """List who owns a conversion, one of its metrics or an action of a plan."""
    holders = [(each, *getattr(each, "metrics", ()), *getattr(each, "actions", ())) for each in plan.conversions]
    return {owner for group in holders for one in group if (owner := getattr(one, "owner", None))}


def _list_segments(run_file: RunFile) -> list[str]:
    """List the names of the run's segments; none where their file is wrong, which is another check's problem."""
    if run_file.run_segments is not None:
        return [name.partition("=")[0] for name in run_file.run_segments]
    if not run_file.segments:
        return ["all"]
    try:
        return ["all", *read_segments(run_file.resolve(run_file.segments))]
    except ConvlibError:
        return []


def _find_pdf_problems(audience: Audience) -> Iterable[str]:
    if "pdf" not in audience.formats:
        return ()
    try:
        find_renderer()
    except ConvlibError as error:
        return error.problems
    return ()


def leave_out_small(log: "EventLog", segments: Sequence[str], *, fewest: int) -> list[str]:
    """Choose the segments that may be shown: none of fewer units, nor any that the others would give away.

    Of the values of a column, those left out are together at least `fewest` units and more than one value, since the
    whole is known; a named segment is left out too where it lacks fewer units of the whole (Hundepool et al. 2012,
    Statistical Disclosure Control, ch. 4: secondary suppression).

    Args:
        log: The log of the run's period.
        segments: Names of segments, in order.
        fewest: So many units a shown group has at least.
    """
    units = {name: len(log.segment(name).entries()) for name in segments}
    whole = len(log.segment("all").entries())
    hidden = {name for name, count in units.items() if count < fewest or 0 < whole - count < fewest}
    families = {name.partition("=")[0] for name in segments if "=" in name}
    for family in families:
        members = sorted((name for name in segments if name.startswith(f"{family}=")), key=lambda name: units[name])
        out = [name for name in members if units[name] < fewest]
        rest = [name for name in members if name not in out]
        while out and rest and (len(out) < 2 or sum(units[name] for name in out) < fewest):
            out.append(rest.pop(0))
        hidden |= set(out)
    return [name for name in segments if name not in hidden]


@dataclass(frozen=True)
class _Package:
    """What one audience gets. Paths of `reports` start at the period's folder, those of its manifest at its own."""

    name: str
    audience: Audience
    folder: Path
    scratch: Path
    manifest: Manifest
    reports: tuple[Report, ...]
    compared: str
    left_out: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        return self.name.partition(":")[0]

    def wants(self, *formats: str) -> bool:
        return bool(set(formats) & set(self.audience.formats))

    @property
    def pairs(self) -> Iterator[tuple[Report, Report]]:
        """Each report as it was made, and as this audience has it."""
        yield from zip(self.reports, self.manifest.reports, strict=True)


def write_audiences(
    folder: Path, manifest: Manifest, preparation: "Preparation", submit: Submit, *, compared: str = ""
) -> tuple[str, ...]:
    """Give each audience of the run file its folder: built beside it, and swapped in whole.

    Args:
        folder: The period's folder, with the finished reports.
        manifest: The run's record.
        preparation: The checked run.
        submit: Starts a function in a process of its own, as an executor does; pages and PDF are made there.
        compared: The earlier run's period in words; "" when there is none.

    Returns:
        Sentences for whoever started the run: what is missing.
    """
    base = folder / AUDIENCES
    names = {name: name_folder(name) for name in preparation.run_file.audiences}
    for old in base.glob("*") if base.exists() else ():
        if old.is_dir() and old.name not in names.values():
            remove_folder(old)
    packages = [_start(folder, manifest, preparation, name, compared) for name in names]
    started = [(package, what, future) for package in packages for what, future in _fill(package, preparation, submit)]
    notes = {package.name: "" for package in packages}
    for package, what, future in started:
        notes[package.name] = notes[package.name] or _wait(package, what, future)
    for package in packages:
        place = base / names[package.name]
        if notes[package.name]:  # half a folder is none: nothing of it is sent until --resume has made it
            shutil.rmtree(package.scratch)
            if place.exists():
                remove_folder(place)
            continue
        _finish(package)
        _swap(package.scratch, place)
    return tuple(note for note in notes.values() if note)


def _start(folder: Path, manifest: Manifest, preparation: "Preparation", name: str, compared: str) -> _Package:
    audience = preparation.run_file.audiences[name]
    reports = preparation.choose_reports(name, manifest.reports)
    scratch = folder / AUDIENCES / f".{name_folder(name)}{SCRATCH}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    own = tuple(_place(report, preparation.segments[report.segment], name) for report in reports)
    package = _Package(name, audience, folder, scratch, replace(manifest, reports=own), reports, compared)
    return _withhold(package, preparation) if name == STAKEHOLDER else package


def _withhold(package: _Package, preparation: "Preparation") -> _Package:
    """Take out of a stakeholder's reports those that would reveal small numbers beside the others."""
    columns = {name: each.by for name, each in preparation.log.segments.items() if each.by}
    withheld = find_withheld(package.folder, package.reports, columns, fewest=package.audience.fewest)
    paths = [made.html for made in package.reports if (made.segment, made.notebook) in withheld]
    write_text(package.folder / PRIVATE / STAKEHOLDER / WITHHELD, json.dumps(paths))
    own = tuple(
        replace(each, error=withheld[each.segment, each.notebook], changes=())
        if (each.segment, each.notebook) in withheld
        else each
        for each in package.manifest.reports
    )
    few = len(preparation.choose_segments(package.audience)) - len({each.segment for each in own})
    notebooks = dict.fromkeys(notebook for _, notebook in withheld)
    said = [
        f"{name_notebook(notebook)}: {', '.join(name_segment(name) for name, other in withheld if other == notebook)}"
        for notebook in notebooks
    ]
    said += [f"Small segments, with those that would reveal them: {few}"] if few else []
    return replace(package, manifest=hide_rejected(replace(package.manifest, reports=own)), left_out=tuple(said))


def _place(report: Report, segment: str, name: str) -> Report:
    """Give a report as its audience sees it: with paths in its own folder, and for a stakeholder without any trace."""
    place = f"{segment}/{report.notebook}"
    moved = replace(
        report, html=f"{place}.html", ipynb=f"{place}.ipynb", tables=f"{segment}/tables/{report.notebook}", audience=""
    )
    if name != STAKEHOLDER:
        return moved
    return replace(moved, parameters={}, error="" if report.status == "made" else NOT_MADE)


def _fill(package: _Package, preparation: "Preparation", submit: Submit) -> Iterator[tuple[str, "Future[None]"]]:
    """Write an audience's files, and start what takes time: pages with code and PDF."""
    if package.role == OWNER:
        yield from _fill_owner(package, preparation, submit)
        return
    for made, own in package.pairs:
        yield from _fill_report(package, made, own, submit)
    if package.wants("xlsx"):
        for place, sheets in _list_sheets(package).items():
            yield place.relative_to(package.scratch).as_posix(), submit(write_sheets, place, sheets)


def _fill_report(package: _Package, made: Report, own: Report, submit: Submit) -> Iterator[tuple[str, "Future[None]"]]:
    """Write one report's files; what could not be made is said on its page, and to stakeholders nothing else."""
    source, target = package.folder / made.html, package.scratch / own.html
    notebook = package.folder / made.ipynb
    if made.status == "made" and own.error:
        if package.wants("html"):
            write_text(target, render_missing(package.manifest, own, notice=own.error))
        return
    _copy_tables(package, made, own)
    is_made = made.status == "made" and source.exists()
    is_shown = is_made or (package.role == ANALYST and made.status == "failed" and notebook.exists())
    if package.wants("ipynb") and is_shown:
        _copy(notebook, package.scratch / own.ipynb)
    if package.wants("pdf") and is_made:
        yield own.html, submit(print_page, source, target.with_suffix(".pdf"))
    if not package.wants("html"):
        return
    if not is_shown:
        write_text(target, render_missing(package.manifest, own))
    elif package.role == ANALYST:
        yield own.html, submit(export_with_code, notebook, _frame_page(package, own), target)
    else:
        _copy(source, target)


def _copy_tables(package: _Package, made: Report, own: Report) -> None:
    """Copy a report's results, of which the index reads the takeaways; single units are no stakeholder's."""
    for source in sorted((package.folder / made.tables).glob("*")):
        if made.status != "made" or source.stem in RUNNERS:
            continue
        if package.role == STAKEHOLDER and (source.stem == "changes" or _has_units(source)):
            continue
        _copy(source, package.scratch / own.tables / source.name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _has_units(path: Path) -> bool:
    """Say whether a table holds single units; one that can't be read may."""
    table = path.with_suffix(".parquet")
    try:
        return table.exists() and bool(IDS & set(pq.read_schema(table).names))
    except (OSError, pa.ArrowInvalid):
        return True


def _list_sheets(package: _Package) -> dict[Path, dict[str, Path]]:
    """List the tables of each segment's workbook, by their titles."""
    by_segment: dict[Path, dict[str, Path]] = {}
    for report in package.manifest.reports:
        place = package.scratch / Path(report.html).parent / WORKBOOK
        for path in sorted((package.scratch / report.tables).glob("*.parquet")):
            title = f"{name_notebook(report.notebook)}: {path.stem.replace('_', ' ')}"
            by_segment.setdefault(place, {})[title] = path
    return by_segment


def write_sheets(target: Path, tables: Mapping[str, Path]) -> None:
    """Write tables that lie in files as one workbook, each under its title."""
    write_workbook(target, {title: pd.read_parquet(path) for title, path in tables.items()})


def export_with_code(ipynb: Path, page: Page, target: Path) -> None:
    """Write an executed notebook's page again, with its code."""
    write_text(target, export_page(nbformat.read(ipynb, as_version=4), page))


def print_page(source: Path, target: Path) -> None:
    """Write a page as PDF."""
    write_bytes(target, render_pdf(source.read_text(encoding="utf-8")))


def _frame_page(package: _Package, report: Report) -> Page:
    others = [each for each in package.manifest.reports if each.segment == report.segment]
    links = [Link(each.title, f"{each.notebook}.html") for each in others]
    position = others.index(report)
    return Page(
        run_title=package.manifest.title,
        segment=name_segment(report.segment),
        period=word_period(*package.manifest.period),
        notebook=f"{report.notebook}.ipynb" if package.wants("ipynb") else "",
        provenance=word_provenance(package.manifest),
        previous=links[position - 1] if position else None,
        following=links[position + 1] if position + 1 < len(links) else None,
        title=report.title,
        changes=report.changes,
        compared=package.compared,
        code=True,
    )


def _fill_owner(package: _Package, preparation: "Preparation", submit: Submit) -> Iterator[tuple[str, "Future[None]"]]:
    team = package.name.partition(":")[2]
    on, alerts = preparation.log.last.date(), _read_alerts(package)
    tables = tabulate_owner(package.folder, package.reports, preparation.plan, team, on=on, alerts=alerts)
    page = package.scratch / INDEX
    write_text(page, render_owner(package.manifest, team, tables))
    write_text(package.folder / PRIVATE / f"{name_folder(package.name)}.json", json.dumps(tables.as_lines()))
    plain = {title: table for title, table in tables.as_sheets().items() if len(table)}
    if package.wants("xlsx"):
        write_workbook(package.scratch / WORKBOOK, plain)
    if package.wants("tables"):
        for title, table in plain.items():
            content = neutralise_table(table).to_csv(index=False).encode()
            write_bytes(package.scratch / "tables" / f"{title.casefold()}.csv", content)
    if package.wants("pdf"):
        yield INDEX, submit(print_page, page, page.with_name(f"{_name_archive(package.manifest)}.pdf"))


def _wait(package: _Package, what: str, future: "Future[None]") -> str:
    error = future.exception()
    if not error:
        return ""
    return f"{package.name}: {what} could not be made, so there is no folder for it: {error or type(error).__name__}"


def _finish(package: _Package) -> None:
    """Write the index once all files are there, and the archive; the index reads takeaways, so tables go last."""
    has_tables = package.wants("tables")
    if package.role != OWNER:
        write_index(
            package.scratch, package.manifest, _read_alerts(package), audience=package.name, left_out=package.left_out
        )
    if package.wants("zip"):
        name = _name_archive(package.manifest)
        tables = () if has_tables or package.role == OWNER else {r.tables for r in package.manifest.reports}
        write_archive(package.scratch / f"{name}.zip", package.scratch, within=name, without=tables)
        if package.role != OWNER:  # once more, now that there is an archive to name
            write_index(
                package.scratch,
                package.manifest,
                _read_alerts(package),
                audience=package.name,
                left_out=package.left_out,
            )
    if not has_tables and package.role != OWNER:
        for folder in {str(Path(report.tables).parent) for report in package.manifest.reports}:
            shutil.rmtree(package.scratch / folder, ignore_errors=True)


def _name_archive(manifest: Manifest) -> str:
    return f"{manifest.run}-{manifest.period[0]}_{manifest.period[1]}"


def _read_alerts(package: _Package) -> pd.DataFrame | None:
    """Read the alerts on an audience's segments; a stakeholder's are those of its own reports."""
    if package.role == STAKEHOLDER:
        places = [package.folder / made.tables / OWN_ALERTS for made, own in package.pairs if not own.error]
        found = [pd.read_parquet(place) for place in places if place.exists()]
        return pd.concat(found, ignore_index=True) if found else None
    if not (package.folder / ALERTS).exists():
        return None
    table = read_alerts(package.folder / ALERTS)
    chosen: pd.DataFrame = table[table["segment"].isin({report.segment for report in package.reports})]
    return chosen.reset_index(drop=True)


def write_archive(path: Path, folder: Path, *, within: str, without: Iterable[str] = ()) -> None:
    """Write a folder as one ZIP file, equal for equal files.

    Args:
        path: The archive; what is at its place is not part of it.
        folder: What goes in.
        within: The one folder that the archive unpacks to.
        without: Folders that stay out.
    """
    out = [folder / name for name in without]
    scratch = path.with_name(f".{path.name}{SCRATCH}")
    files = sorted(each for each in folder.rglob("*") if each.is_file() and each not in {path, scratch})
    with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            if any(file.is_relative_to(each) for each in out):
                continue
            entry = zipfile.ZipInfo(f"{within}/{file.relative_to(folder).as_posix()}", ZIP_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    scratch.replace(path)


def _swap(scratch: Path, place: Path) -> None:
    old = place.with_name(f".{place.name}{OLD}")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.replace(old)
    scratch.replace(place)
    shutil.rmtree(old, ignore_errors=True)
