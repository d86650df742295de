"""The run file: which events, plan, segments, period, notebooks and parameters one command turns into reports."""

import datetime as dt
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from convlib.alerts import RULES
from convlib.documents import Document, FieldError, FieldPath, did_you_mean, quote_names, read_document
from convlib.durations import parse_duration
from convlib.elsewhere import EngineName
from convlib.errors import ParamError, RunError
from convlib.mapping import list_presets
from convlib.plan_entries import Date, Entry
from convlib.validation import word_errors
from convlib.watch import Watch

SOURCE_SCHEMES = re.compile(r"[a-z][a-z0-9+.-]+:")
DAY = dt.timedelta(days=1)
ADDRESS = (
    "is not the name of an environment variable. Put the address into a variable, such as CONVLIB_ALERTS_URL, and "
    "name the variable here: addresses hold secrets, which must not stand in a file."
)


def _check_folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError("it must be a folder name: letters, digits and _ . - only, beginning with a letter or digit.")
    return name


def _check_days(text: str) -> str:
    try:
        microseconds = parse_duration(text)
    except ParamError as error:
        raise ValueError(str(error).partition("; ")[2]) from None
    if dt.timedelta(microseconds=microseconds) % DAY:
        raise ValueError("it must be whole days or weeks, such as '56D' or '8W'.")
    return text


Days = Annotated[str, AfterValidator(_check_days)]


class Period(Entry):
    """Which days of entries a run covers: from `start` to `end`, or the `last` days that have `follow_up`."""

    start: Date | None = None
    end: Date | None = None
    last: Days | None = None
    follow_up: Days | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.last and (self.start or self.end):
            raise FieldError([(("last",), "stands beside `start` or `end`; give one or the other.")])
        if self.follow_up and not self.last:
            raise FieldError([(("follow_up",), "needs `last`, the number of days that the run covers. Add it.")])
        if self.start and self.end and self.end < self.start:
            raise FieldError([(("end",), f"is {self.end}, before `start` {self.start}. Swap them.")])
        return self

    def resolve(self, *, first: pd.Timestamp, last: pd.Timestamp) -> tuple[dt.date, dt.date]:
        """Tell the first and the last day of entries, both included.

        Args:
            first: Time of the log's first event.
            last: The end of the data.
        """
        if not self.last:
            return self.start or first.date(), self.end or last.date()
        # The day on which the data minus the follow-up end is not over: its later entries lack some follow-up.
        end = (last - _read_days(self.follow_up)).date() - DAY if self.follow_up else last.date()
        return end - _read_days(self.last) + DAY, end


def _check_rules(rules: tuple[str, ...]) -> tuple[str, ...]:
    problems: list[tuple[FieldPath, str]] = [
        ((i,), f"is {rule!r}; it must be one of {quote_names(RULES)}.{did_you_mean(rule, RULES)}")
        for i, rule in enumerate(rules)
        if rule not in RULES
    ]
    if problems:
        raise FieldError(problems)
    if not rules:
        raise FieldError([((), "names no rule. Name those that are to raise alerts, or leave `rules` out for all.")])
    return tuple(dict.fromkeys(rules))


def _check_variables(names: object) -> list[str]:
    """Look before the schema does: it would show the value, and an address holds secrets."""
    listed = names if isinstance(names, list) else [names]
    wrong = [i for i, name in enumerate(listed) if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name))]
    if wrong:
        raise FieldError([((i,), ADDRESS) for i in wrong])
    return list(dict.fromkeys(str(name) for name in listed))


class AlertSettings(Entry):
    """Which alerts a run raises, and who is told."""

    rules: Annotated[tuple[str, ...], AfterValidator(_check_rules)] = RULES
    notify: Annotated[tuple[str, ...], BeforeValidator(_check_variables)] = ()
    severity: Literal["info", "warning", "critical"] = "warning"


class RunFile(Entry):
    """A checked run file."""

    run: Annotated[str, AfterValidator(_check_folder_name)] = Field(description="the run's folder under reports/")
    title: str = ""
    events: str = Field(description="the file, folder or dataset:NAME with the events")
    mapping: str = ""
    engine: EngineName = "duckdb"
    plan: str = Field(description="the measurement plan's file")
    segments: str = ""
    run_segments: tuple[str, ...] | None = None
    period: Period = Period()
    parameters: dict[str, Any] = Field(default_factory=dict)
    notebooks: dict[str, dict[str, Any] | None] | None = None
    alerts: AlertSettings = AlertSettings()
    watch: Watch = Watch()
    _document: Document = PrivateAttr()

    @property
    def path(self) -> str:
        """The file as the user named it."""
        return self._document.path

    @property
    def folder(self) -> Path:
        """The folder that the file's own paths start at."""
        return Path(self.path).parent

    def locate(self, *where: str | int) -> str:
        """Return the place of a field as `file:line`."""
        return self._document.locate(where)

    def resolve(self, value: str) -> str:
        """Turn a path as the file writes it into one from the working folder; names and addresses stay."""
        return str(self.folder / value) if self.is_relative(value) else value

    @staticmethod
    def is_relative(value: str) -> bool:
        """Say whether a value is a path that starts at the file's folder, and no name, address or whole path."""
        is_other = not value or SOURCE_SCHEMES.match(value) or value in list_presets()
        return not is_other and not Path(value).is_absolute()


def read_run_file(path: str | Path) -> RunFile:
    """Read which reports a run file asks for.

    Args:
        path: The YAML file.

    Returns:
        The checked run file.

    Raises:
        RunError: The file can't be read or a field is wrong; every problem is listed with file and line.
    """
    document = read_document(path, error=RunError)
    if isinstance(document.data, dict) and isinstance(document.data.get("notebooks"), list):
        document = _name_notebooks(document)
    try:
        found = RunFile.model_validate(document.data)
    except ValidationError as error:
        raise RunError(*(text for _, text in sorted(word_errors(error, document, RunFile)))) from None
    found._document = document
    return found


def _name_notebooks(document: Document) -> Document:
    """Read a plain list of notebooks as notebooks without parameters of their own."""
    names = document.data["notebooks"]
    if not all(isinstance(name, str) for name in names):
        raise RunError(document.problem(("notebooks",), "must list notebooks by name, such as `- 02_funnel`."))
    lines: dict[FieldPath, int] = dict(document.lines)
    lines |= {("notebooks", name): document.line(("notebooks", i)) for i, name in enumerate(names)}
    named: Mapping[str, Any] = {**document.data, "notebooks": dict.fromkeys(names)}
    return Document(path=document.path, data=named, lines=lines)


def _read_days(text: str | None) -> dt.timedelta:
    return dt.timedelta(microseconds=parse_duration(text)) if text else dt.timedelta()
