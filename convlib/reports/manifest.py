"""The record of a run: what was made from which data, with which parameters and versions, and how it ended."""

import dataclasses
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from convlib.files import remove_folder, write_text
from convlib.periods import tell_time

Status = Literal["pending", "made", "failed"]
MANIFEST = "manifest.json"
#: Among a report's tables: how its making ended, written last.
RECORD = "record.json"
#: Among a report's tables: what a later run compares itself with.
MEASURES = "measures.parquet"
#: In a period's folder: what others get, and what nobody gets (rows that were left out, notebooks behind the
#: stakeholder's pages).
AUDIENCES, PRIVATE = "audiences", "private"
#: In a run's folder the alerts over all periods, in a period's those that its report shows; and among the tables of a
#: notebook that raises alerts, its own.
ALERTS, OWN_ALERTS = "alerts.json", "alerts.parquet"
#: A segment's tables for a spreadsheet.
WORKBOOK = "tables.xlsx"
ANALYST, STAKEHOLDER, OWNER = "analyst", "stakeholder", "owner"
PACKAGES = (
    "convlib", "pandas", "numpy", "scipy", "statsmodels", "duckdb", "pyarrow", "matplotlib", "seaborn",
    "papermill", "nbclient", "nbconvert", "ipykernel",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Report:
    """One notebook of one segment. Paths start at the period's folder; `key` names all that its content depends on.

    `audience` is "" for the run's own reports, and else whose report was made apart.
    """

    segment: str
    notebook: str
    title: str
    key: str
    parameters: Mapping[str, Any]
    html: str
    ipynb: str
    tables: str
    status: Status = "pending"
    seconds: float = 0.0
    error: str = ""
    audience: str = ""
    attempts: int = 0
    kernel: str = ""
    changes: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The error in one line: its last, since the lines before lead up to it."""
        return self.error.splitlines()[-1] if self.error else ""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A run's record, as `manifest.json` holds it."""

    run: str
    title: str
    period: tuple[str, str]
    data: Mapping[str, Any]
    plan_digest: str
    segments_digest: str
    versions: Mapping[str, str]
    reports: tuple[Report, ...] = ()
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    status: str = "running"
    alerts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def finish(self, *, status: str, seconds: float) -> Self:
        """Return the manifest of a run that has ended."""
        return dataclasses.replace(self, status=status, seconds=round(seconds, 2), finished=tell_time())

    def write(self, folder: Path) -> None:
        """Write `manifest.json` whole."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, default=str)
        write_text(folder / MANIFEST, text + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """Read the record of a folder's last run; None when there is none that can be read."""
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        reports = tuple(Report(**entry | {"changes": tuple(entry["changes"])}) for entry in entries.pop("reports"))
        return Manifest(**entries | {"period": tuple(entries["period"]), "reports": reports})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def read_outcome(folder: Path, report: Report) -> dict[str, Any] | None:
    """Read how a report was last made; None when it was not, by other contents, or when a file of it is gone.

    Args:
        folder: The period's folder.
        report: The report as it is to be.
    """
    try:
        found = json.loads((folder / report.tables / RECORD).read_text(encoding="utf-8"))
        outcome = {name: found[name] for name in ("status", "seconds", "error", "attempts", "kernel")}
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if found.get("key") != report.key or not all((folder / path).exists() for path in (report.html, report.ipynb)):
        return None
    return {**outcome, "changes": tuple(found.get("changes", ()))}


def remove_others(folder: Path, manifest: Manifest) -> None:
    """Remove the reports of a period that its run does not have any more: nobody lists them, and their numbers are old.

    Args:
        folder: The period's folder.
        manifest: The run's record.
    """
    listed = {folder / path for each in manifest.reports for path in (each.html, each.ipynb, each.tables)}
    parents = {parent for path in listed for parent in path.parents}
    places = [path for path in folder.iterdir() if path.name not in {AUDIENCES, PRIVATE}]
    for place in [*places, *folder.glob(f"{PRIVATE}/*/*")]:
        if place.is_dir() and place not in parents:
            remove_folder(place)
            continue
        for path in [*place.glob("*.html"), *place.glob("*.ipynb")]:
            if path not in listed:
                path.unlink()
        for path in place.glob("tables/*"):
            if path not in listed:
                remove_folder(path)


def prune_periods(folder: Path, keep: int | None) -> list[str]:
    """Remove a run's oldest periods, but never the last complete one, and nothing that is not a run's.

    Args:
        folder: The folder of the period that was made just now, which stays.
        keep: How many periods stay; None for all.

    Returns:
        A sentence about what is gone.
    """
    found = [(path, read_manifest(path)) for path in folder.parent.iterdir() if path.is_dir()]
    named = {path: made for path, made in found if made and path.name == "_".join(made.period)}
    newest = sorted(named, key=lambda path: named[path].period[::-1], reverse=True)
    complete = [path for path in newest if named[path].status == "complete"]
    old = [path for path in newest[keep:] if path not in {folder, *complete[:1]}] if keep else []
    for path in old:
        remove_folder(path)
    if not old:
        return []
    names = ", ".join(path.name for path in reversed(old))
    return [f"Removed {len(old)} old period{'s' * (len(old) > 1)}, since `keep` is {keep}: {names}."]


def read_versions() -> dict[str, str]:
    """Tell the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions
