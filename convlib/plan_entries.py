"""The entries of a measurement plan, each checked field by field."""

import contextlib
import itertools
import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    Strict,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from convlib.documents import FieldError, FieldPath, did_you_mean, quote_names
from convlib.durations import find_duration_problem, parse_duration
from convlib.rules import Rule, read_rule

SHARE_METRICS = frozenset({"rate", "follow_up", "abandonment"})
METRIC_OPTIONS = {
    "rate": {"over"},
    "per_unit": {"over"},
    "sum": {"over", "column"},
    "mean": {"over", "column"},
    "time_between": {"from"},
    "follow_up": {"window"},
    "abandonment": {"over"},
}


def _check_duration(text: object) -> object:
    problem = find_duration_problem(text)
    if problem:
        raise ValueError(problem)
    return text


def _check_id(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", text):
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
        near = re.sub(r"[^a-z0-9]+", "_", words.casefold()).strip("_")
        hint = f" Did you mean {near!r}?" if re.match(r"[a-z]", near) else ""
        raise ValueError(f"it must be lower-case letters, digits and _, beginning with a letter.{hint}")
    return text


def _check_known_id(text: str, info: ValidationInfo) -> str:
    known = (info.context or {}).get("ids")
    if known is not None and text not in known:
        raise ValueError(f"it must be the id of a conversion of this plan.{did_you_mean(text, known)}")
    return text


def _check_currency(text: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        hint = f" Did you mean {text.upper()!r}?" if re.fullmatch(r"[A-Za-z]{3}", text) else ""
        raise ValueError(f"it must be three capital letters (ISO 4217), such as 'USD'.{hint}")
    return text


def _read_date(raw: object) -> object:
    """Pydantic would read a number as seconds since 1970."""
    if isinstance(raw, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", raw):
        with contextlib.suppress(ValueError):
            return date.fromisoformat(raw)
    raise ValueError("it must be a date such as 2026-12-31.")


def _list_exposures(raw: object) -> object:
    if raw == "auto":
        return ()
    return (raw,) if isinstance(raw, str) else raw


Number = Annotated[float, Strict(), AllowInfNan(allow_inf_nan=False)]
Date = Annotated[date, BeforeValidator(_read_date)]
Duration = Annotated[str, BeforeValidator(_check_duration)]
Id = Annotated[str, AfterValidator(_check_id)]
KnownId = Annotated[str, AfterValidator(_check_known_id)]
Match = Annotated[Rule, PlainValidator(read_rule), PlainSerializer(repr)]
Direction = Literal["up", "down"]


class Entry(BaseModel):
    """A mapping of the plan file: unknown fields are refused, a field left empty counts as left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {key: value for key, value in raw.items() if value is not None or key not in known}


def _or_plain(field: str) -> BeforeValidator:
    """Take a plain value for a mapping with this one field."""
    return BeforeValidator(lambda raw: raw if isinstance(raw, dict | Entry) else {field: raw})


class ValueColumn(Entry):
    """A value that stands in a column of the log."""

    column: str = Field(description="the column that holds the value")


def _tag_value(raw: object) -> str:
    return "column" if isinstance(raw, dict | ValueColumn) else "number"


Value = Annotated[
    Annotated[Number, Tag("number")] | Annotated[ValueColumn, Tag("column")],
    Discriminator(_tag_value),
]


class Target(Entry):
    """A number to reach, perhaps by a date."""

    value: Number = Field(description="the number to reach")
    by: Date | None = None


class Range(Entry):
    """The usual range of a metric; an end may be open."""

    low: Number | None = None
    high: Number | None = None


class Benchmark(Range):
    """What is usual elsewhere, in general and by the values of a column (channel, device)."""

    by: dict[str, dict[str, Range]] = {}

    @property
    def ranges(self) -> list[tuple[FieldPath, Range]]:
        """Each range with its place in the benchmark."""
        listed: list[tuple[FieldPath, Range]] = [((), self)]
        for column, values in self.by.items():
            listed += [(("by", column, value), each) for value, each in values.items()]
        return listed


class Metric(Entry):
    """How a micro is measured."""

    type: Literal["rate", "per_unit", "sum", "mean", "time_between", "follow_up", "abandonment"] = Field(
        description="the kind of metric, such as rate"
    )
    over: KnownId | None = None
    from_: KnownId | None = Field(default=None, alias="from")
    window: Duration | None = None
    column: str | None = None

    @model_validator(mode="after")
    def _check_options(self) -> "Metric":
        allowed = METRIC_OPTIONS[self.type]
        given = {"over": self.over, "from": self.from_, "window": self.window, "column": self.column}
        problems: list[tuple[FieldPath, str]] = [
            ((name,), f"has no meaning for a metric of type {self.type!r}, which takes {quote_names(sorted(allowed))}.")
            for name, value in given.items()
            if value is not None and name not in allowed
        ]
        if self.type == "time_between" and self.from_ is None:
            problems.append(((), "has no `from`. Add `from:` the id of the conversion where the time begins."))
        _refuse(problems)
        return self

    @property
    def value_column(self) -> str | None:
        """The column that is added up or averaged, `value` when the plan names none."""
        return (self.column or "value") if self.type in {"sum", "mean"} else None

    def __str__(self) -> str:
        """Return the metric in words."""
        options = {"over": self.over, "from": self.from_, "within": self.window, "of": self.value_column}
        return " ".join([self.type, *(f"{name} {value}" for name, value in options.items() if value is not None)])


class Action(Entry):
    """Something an owner has promised to do."""

    text: str = Field(description="what is to be done")
    owner: str | None = None
    due: Date | None = None
    done: Annotated[bool, Strict()] = False


class Clock(Entry):
    """The correlation's clock for one macro: where it starts, the landmarks, how long outcomes count."""

    entry: str | None = None
    exposure: Annotated[tuple[Duration, ...], BeforeValidator(_list_exposures)] = ()
    horizon: Duration | None = None

    @field_validator("exposure")
    @classmethod
    def _check_rising(cls, exposure: tuple[str, ...]) -> tuple[str, ...]:
        lengths = [parse_duration(text) for text in exposure]
        if any(later <= earlier for earlier, later in itertools.pairwise(lengths)):
            raise ValueError("the durations must rise, each once.")
        return exposure


class Dedupe(Entry):
    """How close two of a user's events must be in time to be the same conversion, reported twice."""

    within: Duration = Field(description="how long after the one before it does not count, such as 2s")
    same: tuple[str, ...] = ()


class Named(Entry):
    """What has an id, a name, and a rule that says which events it means."""

    id: Id = Field(description="a short name in lower-case letters, digits and _")
    name: str = ""
    match: Match = Field(description="the events that are meant, such as {event_name: purchase}")

    @model_validator(mode="before")
    @classmethod
    def _name_by_id(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("id"), str) and not raw.get("name"):
            words = raw["id"].replace("_", " ")
            return {**raw, "name": words[:1].upper() + words[1:]}
        return raw

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that it reads."""
        return self.match.columns


class LeaveOut(Named):
    """Traffic that is no customer's: the rows that match, or every row of a user with one that matches."""

    scope: Literal["row", "user"] = "row"


class Conversion(Named):
    """What every conversion has: the events it means, and which of them are the same one reported twice."""

    dedupe: Annotated[Dedupe, _or_plain("within")] | None = None

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that the rule and `dedupe` read."""
        return super().columns.union(self.dedupe.same if self.dedupe else ())


class Loss(Conversion):
    """Leaving for good: churn, cancellation."""


def _find_share_problems(numbers: list[tuple[FieldPath, float | None]]) -> list[tuple[FieldPath, str]]:
    problems: list[tuple[FieldPath, str]] = []
    for where, number in numbers:
        if number is not None and not 0 <= number <= 1:
            hint = f" Did you mean {number / 100:g}?" if 1 < number <= 100 else ""
            problems.append((where, f"is {number:g}; a share lies between 0 and 1.{hint}"))
    return problems


def _check_share_target(target: Target) -> Target:
    _refuse(_find_share_problems([(("value",), target.value)]))
    return target


def _check_share_benchmark(benchmark: Benchmark) -> Benchmark:
    ends = [((*where, end), getattr(each, end)) for where, each in benchmark.ranges for end in ("low", "high")]
    _refuse(_find_range_problems(benchmark) + _find_share_problems(ends))
    return benchmark


def _check_target(target: Target, info: ValidationInfo) -> Target:
    return _check_share_target(target) if _is_share(info) else target


def _check_benchmark(benchmark: Benchmark, info: ValidationInfo) -> Benchmark:
    if _is_share(info):
        return _check_share_benchmark(benchmark)
    _refuse(_find_range_problems(benchmark))
    return benchmark


def _is_share(info: ValidationInfo) -> bool:
    """A metric that is itself wrong is not there, and decides nothing."""
    metric = info.data.get("metric")
    return isinstance(metric, Metric) and metric.type in SHARE_METRICS


def _refuse(problems: list[tuple[FieldPath, str]]) -> None:
    if problems:
        raise FieldError(problems)


def _find_range_problems(benchmark: Benchmark) -> list[tuple[FieldPath, str]]:
    problems: list[tuple[FieldPath, str]] = []
    for where, each in benchmark.ranges:
        if each.low is None and each.high is None and (where or not benchmark.by):
            problems.append((where, "has neither `low` nor `high`. Add one of them or both."))
        if each.low is not None and each.high is not None and each.low > each.high:
            problems.append(((*where, "low"), f"is {each.low:g}, above `high`, which is {each.high:g}. Swap them."))
    return problems


def _accept_plain_metric(raw: object) -> object:
    return {"type": raw} if isinstance(raw, str) else raw


def _check_not_itself(metric: Metric, info: ValidationInfo) -> Metric:
    own = info.data.get("id")
    named = {"over": metric.over, "from": metric.from_}
    text = f"is {own!r}, the conversion itself; it must be another one."
    _refuse([((name,), text) for name, other in named.items() if own is not None and other == own])
    return metric


def _value_columns(value: float | ValueColumn | None) -> set[str]:
    return {value.column} if isinstance(value, ValueColumn) else set()


def _check_effort(effort: float) -> float:
    if effort <= 0:
        raise ValueError("it must be above 0, in whatever unit all efforts of the plan share.")
    return effort


def _check_stage(stage: str, info: ValidationInfo) -> str:
    stages = (info.context or {}).get("stages")
    if stages is not None and stage not in stages:
        raise ValueError(f"it must be one of {quote_names(stages)}.{did_you_mean(stage, stages)}")
    return stage


PlainOrTarget = Annotated[Target, _or_plain("value")]


class Micro(Conversion):
    """A step or signal on the way to a macro-conversion."""

    stage: Annotated[str, AfterValidator(_check_stage)] = Field(
        description="where on the way it happens, such as decision"
    )
    kind: Literal["process_milestone", "secondary_action"] = Field(
        description="process_milestone (leads straight to the macro) or secondary_action (signals interest)"
    )
    touchpoint: str | None = None
    metric: Annotated[Metric, BeforeValidator(_accept_plain_metric), AfterValidator(_check_not_itself)] = Metric(
        type="rate"
    )
    ux_outcome: str | None = None
    data_source: str | None = None
    owner: str | None = None
    target: Annotated[PlainOrTarget, AfterValidator(_check_target)] | None = None
    benchmark: Annotated[Benchmark, AfterValidator(_check_benchmark)] | None = None
    direction: Direction = "up"
    value: Value | None = None
    effort: Annotated[Number, AfterValidator(_check_effort)] | None = None
    actions: tuple[Action, ...] = ()
    notes: str | None = None

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that the rule, `dedupe`, the value and the metric read."""
        averaged = {self.metric.value_column} if self.metric.value_column else set()
        return super().columns | _value_columns(self.value) | averaged


class Macro(Conversion):
    """The outcome that pays, with the micros that lead to it."""

    value: Value | None = None
    currency: Annotated[str, AfterValidator(_check_currency)] | None = None
    owner: str | None = None
    target: Annotated[PlainOrTarget, AfterValidator(_check_share_target)] | None = None
    benchmark: Annotated[Benchmark, AfterValidator(_check_share_benchmark)] | None = None
    direction: Direction = "up"
    notes: str | None = None
    micros: tuple[Micro, ...] = ()
    losses: tuple[Loss, ...] = ()
    correlation: Clock | None = None

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that the rule, `dedupe` and the value read."""
        return super().columns | _value_columns(self.value)
