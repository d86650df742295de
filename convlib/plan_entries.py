"""The entries of a measurement plan, each checked field by field."""

import itertools
import re
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal, get_args

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
from convlib.periods import NO_SUCH_DAY, is_written_as_day
from convlib.rules import Rule, read_rule

SHARE_METRICS = frozenset({"rate", "follow_up", "abandonment", "return_rate", "churn"})
#: Metrics that are times, in seconds, besides the depths of this name.
TIME_METRICS = frozenset({"time_between", "depth seconds_on_page", "depth seconds_after"})
METRIC_OPTIONS = {
    "rate": {"over", "unit"},
    "per_unit": {"over", "unit"},
    "sum": {"over", "column"},
    "mean": {"over", "column"},
    "time_between": {"from", "unit"},
    "follow_up": {"window", "column", "over"},
    "abandonment": {"over", "unit"},
    "depth": {"of"},
    "return_rate": {"window"},
    "churn": {"window"},
}
Depth = Literal["interactions", "next_actions", "seconds_on_page", "seconds_after"]


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


def _read_origin(raw: object, info: ValidationInfo) -> object:
    return read_rule(raw) if isinstance(raw, dict) else _check_known_id(str(raw), info)


def _check_currency(text: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        hint = f" Did you mean {text.upper()!r}?" if re.fullmatch(r"[A-Za-z]{3}", text) else ""
        raise ValueError(f"it must be three capital letters (ISO 4217), such as 'USD'.{hint}")
    return text


def _read_date(raw: object) -> object:
    """Pydantic would read a number as seconds since 1970."""
    if isinstance(raw, str) and is_written_as_day(raw):
        try:
            return date.fromisoformat(raw)
        except ValueError:
            raise ValueError(NO_SUCH_DAY) from None
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
#: Where a metric begins or what it is a share of: a conversion of the plan, or the events that match a rule.
Origin = Annotated[str | Rule, PlainValidator(_read_origin), PlainSerializer(str)]
Direction = Literal["up", "down"]


class Entry(BaseModel):
    """A mapping of a plan or a run file: unknown fields are refused, a field left empty counts as left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {key: value for key, value in raw.items() if value is not None or key not in known}


def or_plain(field: str) -> BeforeValidator:
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
    """A number to reach, perhaps by a date; `per` gives the values of a column (channel, device, page) their own."""

    value: Number = Field(description="the number to reach")
    by: Date | None = None
    per: dict[str, dict[str, Number]] = {}


class Range(Entry):
    """The usual range of a metric; an end may be open."""

    low: Number | None = None
    high: Number | None = None


class Benchmark(Range):
    """What is usual elsewhere, in general and by the values of a column (channel, device), looked up `as_of` a day."""

    by: dict[str, dict[str, Range]] = {}
    as_of: Date | None = None

    @property
    def ranges(self) -> list[tuple[FieldPath, Range]]:
        """Each range with its place in the benchmark."""
        listed: list[tuple[FieldPath, Range]] = [((), self)]
        for column, values in self.by.items():
            listed += [(("by", column, value), each) for value, each in values.items()]
        return listed


class Metric(Entry):
    """How a micro is measured."""

    type: Literal[
        "rate",
        "per_unit",
        "sum",
        "mean",
        "time_between",
        "follow_up",
        "abandonment",
        "depth",
        "return_rate",
        "churn",
    ] = Field(description="the kind of metric, such as rate")
    of: Depth | None = None
    column: str | None = None
    over: Origin | None = None
    from_: Origin | None = Field(default=None, alias="from")
    window: Duration | None = None
    unit: Literal["session"] | None = None

    @model_validator(mode="after")
    def _check_options(self) -> "Metric":
        allowed = METRIC_OPTIONS[self.type]
        given = {
            **{name: getattr(self, name) for name in ("of", "column", "over", "window", "unit")},
            "from": self.from_,
        }
        problems: list[tuple[FieldPath, str]] = [
            ((name,), f"has no meaning for a metric of type {self.type!r}, which takes {quote_names(sorted(allowed))}.")
            for name, value in given.items()
            if value is not None and name not in allowed
        ]
        if self.type == "time_between" and self.from_ is None:
            problems.append(((), "has no `from`. Add `from:` the id of the conversion where the time begins."))
        if self.type == "depth" and self.of is None:
            problems.append(((), f"has no `of`. Add `of:` one of {quote_names(get_args(Depth))}."))
        if self.type == "follow_up" and self.over is not None and self.column is None:
            problems.append((("over",), "needs `column`, whose sum is taken over these events. Add it."))
        refuse(problems)
        return self

    @property
    def value_column(self) -> str | None:
        """The column that is added up or averaged, `value` when the plan names none."""
        return (self.column or "value") if self.type in {"sum", "mean"} else self.column

    @property
    def over_id(self) -> str | None:
        """The conversion that the metric is a share of, where it is one."""
        return self.over if isinstance(self.over, str) else None

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that it reads."""
        rules = [each.columns for each in (self.over, self.from_) if each is not None and not isinstance(each, str)]
        return frozenset[str]().union(*rules, {self.value_column} if self.value_column else ())

    @property
    def label(self) -> str:
        """What is measured, for people: a name for a conversion's own metric, where it is more than a rate."""
        labels = {
            "rate": "rate",
            "per_unit": "how often",
            "sum": f"total {self.value_column}",
            "mean": f"mean {self.value_column}",
            "time_between": f"time from {str(self.from_).replace('_', ' ')}",
            "follow_up": f"{self.column} after it" if self.column else "followed by the macro",
            "abandonment": "abandonment",
            "depth": str(self.of).replace("_", " "),
            "return_rate": "return visits",
            "churn": "churn",
        }
        return labels[self.type] + (" per visit" if self.unit else "")

    def __str__(self) -> str:
        """Return the metric in words."""
        options = {
            "of": self.value_column,
            "over": self.over,
            "from": self.from_,
            "within": self.window,
            "by": self.unit,
        }
        listed = [f"{name} {value}" for name, value in options.items() if value is not None]
        return " ".join([self.type, *([self.of] if self.of else []), *listed])


def is_share(metric: str) -> bool:
    """Say whether a metric, in words, is a share of units: of what a follow-up is worth, it is not."""
    return metric.split()[0] in SHARE_METRICS and not metric.startswith("follow_up of ")


def is_time(metric: str) -> bool:
    """Say whether a metric, in words, is in seconds."""
    return metric.startswith(tuple(TIME_METRICS))


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


class Identified(Entry):
    """What has an id, and a name for people."""

    id: Id = Field(description="a short name in lower-case letters, digits and _")
    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def _name_by_id(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("id"), str) and not raw.get("name"):
            words = raw["id"].replace("_", " ")
            return {**raw, "name": words[:1].upper() + words[1:]}
        return raw


class Named(Identified):
    """What has an id, a name, and a rule that says which events it means."""

    match: Match = Field(description="the events that are meant, such as {event_name: purchase}")

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that it reads."""
        return self.match.columns


class LeaveOut(Named):
    """Traffic that is no customer's: the rows that match, or every row of a user with one that matches."""

    scope: Literal["row", "user"] = "row"


class Friction(Named):
    """What may slow people down on a page: a number that its events carry, or events to count."""

    column: str | None = None
    unit: str | None = None

    @model_validator(mode="after")
    def _check_unit(self) -> "Friction":
        if self.unit is not None and self.column is None:
            refuse([(("unit",), "has no meaning without `column`: events are counted. Remove it, or add `column`.")])
        return self

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that the rule and the number are read from."""
        return super().columns.union({self.column} if self.column else ())


class Conversion(Named):
    """What every conversion has: the events it means, and which of them are the same one reported twice."""

    dedupe: Annotated[Dedupe, or_plain("within")] | None = None

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
    own = [(("per", column, value), number) for column, each in target.per.items() for value, number in each.items()]
    refuse(_find_share_problems([(("value",), target.value), *own]))
    return target


def _check_share_benchmark(benchmark: Benchmark) -> Benchmark:
    ends = [((*where, end), getattr(each, end)) for where, each in benchmark.ranges for end in ("low", "high")]
    refuse(_find_range_problems(benchmark) + _find_share_problems(ends))
    return benchmark


def _check_target(target: Target, info: ValidationInfo) -> Target:
    return _check_share_target(target) if _is_share(info) else target


def _check_benchmark(benchmark: Benchmark, info: ValidationInfo) -> Benchmark:
    if _is_share(info):
        return _check_share_benchmark(benchmark)
    refuse(_find_range_problems(benchmark))
    return benchmark


def _is_share(info: ValidationInfo) -> bool:
    """A metric that is itself wrong is not there, and decides nothing."""
    metric = info.data.get("metric")
    return isinstance(metric, Metric) and is_share(str(metric))


def refuse(problems: list[tuple[FieldPath, str]]) -> None:
    """Raise the problems of one field, if there are any."""
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


PlainOrTarget = Annotated[Target, or_plain("value")]
PlainOrMetric = Annotated[Metric, BeforeValidator(_accept_plain_metric)]


class Measure(Entry):
    """One more metric of a conversion, with a name and goals of its own."""

    name: str = Field(description="what the metric is called, such as Items in cart")
    metric: PlainOrMetric = Field(description="how it is measured, such as {type: per_unit, over: view_cart}")
    owner: str | None = None
    target: Annotated[PlainOrTarget, AfterValidator(_check_target)] | None = None
    benchmark: Annotated[Benchmark, AfterValidator(_check_benchmark)] | None = None
    direction: Direction = "up"
    notes: str | None = None


class Measured(Conversion):
    """A conversion that metrics are taken of."""

    metrics: tuple[Measure, ...] = ()

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that the rule, `dedupe` and the metrics read."""
        return super().columns.union(*(each.metric.columns for each in self.metrics))


def _as_measure(entry: "Macro | Micro", metric: Metric, *, name: str = "") -> Measure:
    """Give the entry's own metric the form of the others; its goals are its rate's or its own metric's."""
    goals = (None, None) if name else (entry.target, entry.benchmark)
    return Measure.model_construct(
        name=name or (entry.name if metric.type == "rate" and not metric.unit else f"{entry.name}: {metric.label}"),
        metric=metric,
        owner=entry.owner,
        target=goals[0],
        benchmark=goals[1],
        direction=entry.direction,
    )


class Micro(Measured):
    """A step or signal on the way to a macro-conversion."""

    stage: Annotated[str, AfterValidator(_check_stage)] = Field(
        description="where on the way it happens, such as decision"
    )
    kind: Literal["process_milestone", "secondary_action"] = Field(
        description="process_milestone (leads straight to the macro) or secondary_action (signals interest)"
    )
    touchpoint: str | None = None
    metric: PlainOrMetric = Metric(type="rate")
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
        return super().columns | _value_columns(self.value) | self.metric.columns

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What is measured of it: its own metric first."""
        own = _as_measure(self, self.metric)
        return own, *self.metrics


class Macro(Measured):
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

    @model_validator(mode="after")
    def _check_metrics(self) -> "Macro":
        places: list[tuple[FieldPath, Macro | Micro]] = [((), self)]
        places += [(("micros", i), micro) for i, micro in enumerate(self.micros)]
        refuse([problem for where, each in places for problem in _find_metric_problems(each, where, self.losses)])
        return self

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What is measured of it: its rate, its value where it has a currency, and what the plan adds."""
        rate = _as_measure(self, Metric(type="rate"))
        value = [_as_measure(self, Metric(type="sum"), name=f"{self.name}: value")] if self.currency else []
        return rate, *value, *self.metrics

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that the rule, `dedupe` and the value read."""
        return super().columns | _value_columns(self.value)


def _find_metric_problems(
    each: Macro | Micro, where: FieldPath, losses: tuple[Loss, ...]
) -> list[tuple[FieldPath, str]]:
    """Find metrics that a conversion has twice, that compare it with itself, and churn where nobody can leave."""
    problems: list[tuple[FieldPath, str]] = []
    first = len(each.measures) - len(each.metrics)
    places = [(*where, "metric")] * first + [(*where, "metrics", i, "metric") for i in range(len(each.metrics))]
    known: set[str] = set()
    for place, measure in zip(places, each.measures, strict=True):
        words = str(measure.metric)
        if words in known:
            problems.append((place, f"is {words!r}, which {each.id!r} has already. Remove one of them."))
        if measure.metric.type == "churn" and not losses:
            problems.append(
                (place, "is churn, and its macro has no `losses`, the events with which units leave. Add them.")
            )
        itself = find_itself(measure.metric, each.id, is_macro=isinstance(each, Macro))
        problems += [((*place, *inner), text) for inner, text in itself]
        known.add(words)
    return problems


def find_itself(metric: Metric, conversion: str, *, is_macro: bool) -> Iterator[tuple[FieldPath, str]]:
    """Find where a metric compares a conversion with itself, as places in the metric and what is wrong there."""
    # How often those do it who do it at all is a question of its own.
    if metric.over == conversion and metric.type not in {"per_unit", "sum"}:
        yield ("over",), f"is {conversion!r}, the conversion itself; it must be another one."
    if metric.from_ == conversion:
        yield ("from",), f"is {conversion!r}, the conversion itself; it must be another one."
    if metric.type == "abandonment" and metric.over is None and is_macro:
        yield (), "has no `over`, so it is always 0% of a macro. Add `over:` what comes before it."
