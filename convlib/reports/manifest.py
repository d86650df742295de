"""The record of a run: what was made from which data, with which parameters and versions, and how it ended."""

import dataclasses
import datetime as dt
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from convlib.reports.files import write_text

Status = Literal["pending", "made", "failed"]
MANIFEST = "manifest.json"
PACKAGES = (
    "convlib", "pandas", "numpy", "scipy", "statsmodels", "duckdb", "pyarrow", "matplotlib", "seaborn",
    "papermill", "nbclient", "nbconvert", "ipykernel",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Report:
    """One notebook of one segment. Paths start at the period's folder; `key` names all that its content depends on."""

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

    def record(self, number: int, **outcome: Any) -> Self:
        """Return the manifest with one report's outcome filled in."""
        reports = list(self.reports)
        reports[number] = dataclasses.replace(reports[number], **outcome)
        return dataclasses.replace(self, reports=tuple(reports))

    def finish(self, *, status: str, seconds: float) -> Self:
        """Return the manifest of a run that has ended."""
        return dataclasses.replace(self, status=status, seconds=round(seconds, 2), finished=tell_time())

    def write(self, folder: Path) -> None:
        """Write `manifest.json` whole."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, default=str)
        write_text(folder / MANIFEST, text + "\n")


def read_made(folder: Path) -> dict[str, Report]:
    """Tell which reports a folder's last run made, by their content key; empty without a readable manifest."""
    try:
        recorded = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        reports = [Report(**entry) for entry in recorded["reports"]]
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return {report.key: report for report in reports if report.status == "made"}


def read_versions() -> dict[str, str]:
    """Tell the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def tell_time() -> str:
    """Tell the time now, UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
