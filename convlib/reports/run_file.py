"""The run file: which events, plan, segments, period, notebooks and parameters one command turns into reports."""

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    Strict,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from convlib.alert_files import RULES
from convlib.documents import Document, FieldError, FieldPath, did_you_mean, quote_names, read_document, word_choice
from convlib.durations import parse_duration
from convlib.elsewhere import EngineName
from convlib.errors import ParamError, RunError
from convlib.mapping import list_presets
from convlib.periods import WEEKDAYS, Calendar, find_day, find_timezone_problems
from convlib.plan_entries import Date, Duration, Entry
from convlib.validation import word_errors
from convlib.watch import Watch

SOURCE_SCHEMES = re.compile(r"[a-z][a-z0-9+.-]+:")
DAY = dt.timedelta(days=1)
#: Complete periods of the calendar, by what pandas calls them; weeks follow `week_start`.
UNITS = {"day": "D", "week": "W", "month": "M", "quarter": "Q"}
COMPLETE = re.compile(rf"(?:([1-9]\d{{0,3}}) )?complete ({'|'.join(UNITS)})s?")
#: A log exported by days ends with the day's last event, not at midnight: that near to it the day counts as over.
GRACE = pd.Timedelta("1h")
#: Days of a month that every month has.
MONTH_DAYS = 28
ROLES = ("analyst", "stakeholder", "owner")
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


def _check_span(text: str) -> str:
    if COMPLETE.fullmatch(text):
        return text
    try:
        return _check_days(text)
    except ValueError:
        raise ValueError(
            "it must be whole days or weeks, such as '56D' or '8W', or periods of the calendar, such as "
            "'11 complete weeks' (days, weeks, months, quarters)."
        ) from None


def _check_weekday(name: str) -> str:
    if name not in WEEKDAYS:
        raise FieldError([((), word_choice(name, WEEKDAYS))])
    return name


def _check_timezone(name: str) -> str:
    for problem in find_timezone_problems(name):
        raise FieldError([((), problem.removeprefix("`timezone` "))])
    return name


Days = Annotated[str, AfterValidator(_check_days)]
Span = Annotated[str, AfterValidator(_check_span)]
Timezone = Annotated[str, AfterValidator(_check_timezone)]
Weekday = Annotated[str, AfterValidator(_check_weekday)]


class Period(Entry):
    """Which days of entries a run covers: from `start` to `end`, or the `last` days that have `follow_up`.

    `last` is a number of days that ends with the data, or of complete weeks (days, months, quarters) of the calendar.
    """

    start: Date | None = None
    end: Date | None = None
    last: Span | None = None
    follow_up: Days | None = None
    timezone: Timezone = "UTC"
    week_start: Weekday = "monday"

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, raw: Any) -> Any:
        """Read `last complete week` as `{last: complete week}`."""
        if not isinstance(raw, str):
            return raw
        found = re.fullmatch("last (.*)", raw)
        if not found or not COMPLETE.fullmatch(found[1]):
            forms = [f"last complete {unit}" for unit in UNITS]
            raise ValueError(
                f"it must be one of {quote_names(forms)}, the last several of them, such as 'last 11 complete weeks', "
                f"or a mapping such as {{last: 77D}}.{did_you_mean(raw, forms)}"
            )
        return {"last": found[1]}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.last and (self.start or self.end):
            raise FieldError([(("last",), "stands beside `start` or `end`; give one or the other.")])
        if self.follow_up and not self.last:
            forms = "A period has `start` and `end`, or `last` and `follow_up`, such as {last: 77D, follow_up: 14D}."
            raise FieldError([(("follow_up",), f"needs `last`, the number of days that the run covers. {forms}")])
        if "week_start" in self.model_fields_set and self.unit != "week":
            raise FieldError([(("week_start",), "needs `last` in complete weeks. Remove it, or change `last`.")])
        if self.start and self.end and self.end < self.start:
            raise FieldError([(("end",), f"is {self.end}, before `start` {self.start}. Swap them.")])
        return self

    @property
    def calendar(self) -> dict[str, str]:
        """What is said of time zone and weeks, by the names of the notebooks' parameters."""
        said = self.model_fields_set & {"timezone", "week_start"}
        return {name: str(getattr(self, name)) for name in sorted(said)}

    @property
    def unit(self) -> str:
        """The period of the calendar that `last` counts: day, week, month or quarter; "" when it counts none."""
        return self._count[1]

    @property
    def _count(self) -> tuple[int, str]:
        found = COMPLETE.fullmatch(self.last or "")
        return (int(found[1] or 1), found[2]) if found else (0, "")

    def resolve(self, *, first: pd.Timestamp, last: pd.Timestamp) -> tuple[dt.date, dt.date]:
        """Tell the first and the last day of entries, both included.

        Args:
            first: Time of the log's first event, UTC.
            last: The end of the data, UTC.
        """
        if not self.last:
            return self.start or find_day(first, self.timezone), self.end or find_day(last, self.timezone)
        if self.unit:
            return self._span(self._find_latest(last))
        # The day on which the data minus the follow-up end is not over: its later entries lack some follow-up.
        end = find_day(last - _read_days(self.follow_up), self.timezone) - (DAY if self.follow_up else DAY * 0)
        return end - _read_days(self.last) + DAY, end

    def list_periods(self, after: dt.date, first: pd.Timestamp, last: pd.Timestamp) -> list[tuple[dt.date, dt.date]]:
        """List the periods that were to be reported since an earlier one: each that is complete in the data.

        Args:
            after: The last day of the earlier period.
            first: Time of the log's first event, UTC.
            last: The end of the data, UTC.

        Returns:
            First and last day of each, oldest first; none when `last` counts no periods of the calendar.
        """
        if not self.unit:
            return []
        begin = max(after + DAY, find_day(first, self.timezone))
        whole = pd.period_range(self._hold(begin), self._find_latest(last))
        return [self._span(period) for period in whole if period.start_time.date() >= begin]

    def _find_latest(self, last: pd.Timestamp) -> pd.Period:
        """Find the latest period of the calendar that is over, and its follow-up too."""
        return self._hold(find_day(last + GRACE - _read_days(self.follow_up), self.timezone)) - 1

    def _hold(self, day: dt.date) -> pd.Period:
        weekly = self.unit == "week"
        return pd.Period(day, freq=Calendar(week_start=self.week_start).frequency if weekly else UNITS[self.unit])

    def _span(self, latest: pd.Period) -> tuple[dt.date, dt.date]:
        return (latest - (self._count[0] - 1)).start_time.date(), latest.end_time.date()


class Schedule(Entry):
    """When a run is started, by the clock of a time zone."""

    every: Literal["day", "week", "month", "quarter"] = Field(description="day, week, month or quarter")
    on: str | Annotated[int, Strict()] | None = None
    at: str = "06:00"
    timezone: Timezone = "UTC"

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems: list[tuple[FieldPath, str]] = []
        if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", self.at):
            problems.append((("at",), f'is {self.at!r}; it must be a time of the day in quotes, such as "06:00".'))
        if self.on is not None and (problem := self._find_day_problem()):
            problems.append((("on",), problem))
        if problems:
            raise FieldError(problems)
        return self

    def _find_day_problem(self) -> str:
        if self.every == "day":
            return f"is {self.on!r}, and the run is made every day. Remove it."
        if self.every == "week":
            return "" if self.on in WEEKDAYS else word_choice(self.on, WEEKDAYS)
        known = isinstance(self.on, int) and 1 <= self.on <= MONTH_DAYS
        return "" if known else f"is {self.on!r}; it must be a day that each month has, 1 to {MONTH_DAYS}."

    @property
    def weekday(self) -> int:
        """The weekday of a weekly run, 0 for Monday."""
        return WEEKDAYS.index(self.on) if isinstance(self.on, str) else 0

    @property
    def month_day(self) -> int:
        """The day of the month of a monthly or quarterly run."""
        return self.on if isinstance(self.on, int) else 1


def _check_rules(rules: tuple[str, ...]) -> tuple[str, ...]:
    problems: list[tuple[FieldPath, str]] = [
        ((i,), word_choice(rule, RULES)) for i, rule in enumerate(rules) if rule not in RULES
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


Format = Literal["html", "pdf", "xlsx", "zip", "ipynb", "tables"]


def _check_whole(value: object, info: ValidationInfo) -> object:
    least = LEAST[str(info.field_name)]
    if type(value) is not int or value < least:
        raise ValueError(f"it must be a whole number, at least {least}.")
    return value


#: The smallest number that each field may have.
LEAST = {"retries": 0, "keep": 1, "fewest": 1}
Whole = Annotated[int, BeforeValidator(_check_whole)]


class Audience(Entry):
    """Who is to receive what of a run: segments and notebooks (None: all of the run's), in which formats, and where.

    `recipients` and `upload` name environment variables: those hold addresses of apprise, and folders of fsspec.
    """

    segments: tuple[str, ...] | None = None
    notebooks: tuple[str, ...] | None = None
    fewest: Whole = 10
    formats: tuple[Format, ...] = ("html",)
    recipients: Annotated[tuple[str, ...], BeforeValidator(_check_variables)] = ()
    upload: Annotated[tuple[str, ...], BeforeValidator(_check_variables)] = ()


def name_folder(audience: str) -> str:
    """Name an audience's folder: `owner:growth` is `owner-growth`; a name that a folder can't have gets a digest."""
    plain = re.sub(r"[^a-z0-9_-]+", "-", audience.casefold()).strip("-")
    same = plain == audience.replace(":", "-", 1)
    return plain if same else f"{plain}-{hashlib.sha256(audience.encode()).hexdigest()[:8]}"


def _check_audiences(audiences: dict[str, Audience]) -> dict[str, Audience]:
    problems: list[tuple[FieldPath, str]] = []
    for name, audience in audiences.items():
        role, colon, team = name.partition(":")
        if role not in ROLES or bool(colon) != (role == "owner") or (colon and not team.strip()):
            near = did_you_mean(role, ROLES).replace("'owner'", "'owner:TEAM'")
            known = "'analyst', 'stakeholder' or 'owner:TEAM' with an owner of the plan"
            problems.append(((name,), f"is no audience; it must be {known}.{near}"))
        if role != "stakeholder" and "fewest" in audience.model_fields_set:
            text = "is only for the stakeholder, whose reports show no smaller group. Remove it."
            problems.append(((name, "fewest"), text))
        if role == "stakeholder" and "ipynb" in audience.formats:
            text = "names 'ipynb', and a stakeholder's report has no code. Remove it."
            problems.append(((name, "formats"), text))
    if problems:
        raise FieldError(problems)
    return audiences


def _fill_empty(raw: object) -> object:
    """Take `analyst:` with nothing after it as an audience with the defaults."""
    return {name: {} if each is None else each for name, each in raw.items()} if isinstance(raw, dict) else raw


Audiences = Annotated[dict[str, Audience], BeforeValidator(_fill_empty), AfterValidator(_check_audiences)]


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
    timeout: Duration = "30min"
    retries: Whole = 0
    keep: Whole | None = None
    fresh: Duration | None = None
    schedule: Schedule | None = None
    audiences: Audiences = Field(default_factory=dict)
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

    @property
    def timeout_seconds(self) -> float:
        """The longest time of one notebook."""
        return parse_duration(self.timeout) / 1e6

    def check_fresh(self, last: pd.Timestamp, *, now: dt.datetime) -> None:
        """Refuse data that end too long ago.

        Args:
            last: The end of the data, UTC.
            now: The time, with its zone.

        Raises:
            RunError: The data end longer ago than `fresh`.
        """
        age = pd.Timestamp(now).tz_convert("UTC").tz_localize(None) - last
        if self.fresh and age > pd.Timedelta(microseconds=parse_duration(self.fresh)):
            days = f"{age / pd.Timedelta(days=1):,.1f} days"
            raise RunError(
                f"{self.locate('fresh')}: the data end on {last:%Y-%m-%d %H:%M} UTC, {days} ago, and `fresh` allows "
                f"{self.fresh}. See why no newer events arrive, or change `fresh`."
            )

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
