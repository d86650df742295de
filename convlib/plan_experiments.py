"""The experiments of a measurement plan: who is compared with whom, by what, and how much worse a guardrail may get."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    model_validator,
)

from convlib.documents import FieldError, FieldPath, show_value
from convlib.plan_entries import (
    Date,
    Direction,
    Duration,
    Entry,
    Identified,
    KnownId,
    Match,
    Metric,
    Number,
    Origin,
    PlainOrMetric,
    find_itself,
    is_share,
    or_plain,
    refuse,
)

SHARE_TOLERANCE = 1e-6
TIERS = {"macros": "a macro", "micros": "a micro", "losses": "a loss"}
NO_GUARDRAIL = (
    "has no guardrail of a macro; an experiment without a guardrail on a macro-conversion can win while the outcome "
    "that pays falls. Name one under `guardrails`, such as {conversion: purchase, margin: 0.05}."
)

Arms = tuple[str, ...] | dict[str, float]
Factors = dict[str, tuple[str, ...]]


def _check_count(raw: object) -> object:
    if not isinstance(raw, int) or isinstance(raw, bool) or raw < 1:
        raise ValueError("it must be a whole number, at least 1.")
    return raw


Count = Annotated[int, BeforeValidator(_check_count)]


class Minimum(Entry):
    """How long and how large an experiment has to be before it is read."""

    days: Count = 14
    units: Count = 1000


class Assignment(Entry):
    """Where the log says which arm a unit is in: the events that say so (left out: any), and their column."""

    match: Match | None = None
    column: str | None = None

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that it reads."""
        rule = self.match.columns if self.match else frozenset[str]()
        return rule.union({self.column} if self.column else ())


class Outcome(Entry):
    """What is measured of each unit: a conversion, its rate where the plan says nothing else."""

    conversion: KnownId = Field(description="the id of a conversion of this plan")
    metric: PlainOrMetric = Metric(type="rate")
    direction: Direction | None = None

    @model_validator(mode="after")
    def _check_metric(self, info: ValidationInfo) -> "Outcome":
        places = _find_places(info)
        where = places.get(self.conversion, ())
        problems = list(find_itself(self.metric, self.conversion, is_macro=_name_tier(where) == "a macro"))
        has_losses = any(_name_tier(each) == "a loss" and each[1] == where[1] for each in places.values() if where)
        if self.metric.type == "churn" and places and not has_losses:
            problems.append(((), "is churn, and its macro has no `losses`, the events with which units leave."))
        refuse([(("metric", *inner), text) for inner, text in problems])
        return self

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that the metric reads, besides those of its conversion."""
        return self.metric.columns


def _find_places(info: ValidationInfo) -> dict[str, FieldPath]:
    """Return the place of each conversion of the plan by its id, nothing when the plan isn't known."""
    return (info.context or {}).get("ids") or {}


def _name_tier(where: FieldPath) -> str:
    return TIERS[str(where[-3])] if where else ""


class Margin(Entry):
    """How much worse a guardrail may get: a share of the control's value, or an amount in the metric's own unit."""

    relative: Number | None = None
    absolute: Number | None = None

    @model_validator(mode="after")
    def _check_one(self) -> "Margin":
        both = {"relative": self.relative, "absolute": self.absolute}
        given = [(name, number) for name, number in both.items() if number is not None]
        if len(given) != 1:
            has = "has both" if given else "has neither"
            joint = "and" if given else "nor"
            refuse([((), f"{has} `relative` {joint} `absolute`. Give one of them: {{absolute: 0.005}}, or 0.02.")])
        refuse([((name,), text) for name, number in given for text in find_margin_problems(name, number)])
        return self


def find_margin_problems(name: str, number: float) -> Iterator[str]:
    """Find what is wrong with a margin that is `relative` or `absolute`."""
    if number <= 0:
        kind = "share" if name == "relative" else "number"
        near = f" Did you mean {-number:g}?" if number else ""
        text = f"write the tolerated worsening as a positive {kind}; which way is worse comes from the direction."
        yield f"is {number:g}; {text}{near}"
    if name == "relative" and number >= 1:
        yield f"is {number:g}; a share of the control's value lies between 0 and 1.{_suggest_share(number)}"


def _suggest_share(number: float) -> str:
    return f" Did you mean {number / 100:g}?" if number < 100 else ""


class Guardrail(Outcome):
    """What must not get worse by more than its margin."""

    margin: Annotated[Margin, or_plain("relative")] = Field(
        description="the tolerated worsening as a share of the control's value, such as 0.02"
    )

    @model_validator(mode="after")
    def _check_absolute(self) -> "Guardrail":
        absolute = self.margin.absolute
        if absolute is not None and absolute >= 1 and is_share(str(self.metric)):
            text = f"is {absolute:g}; the metric is a share, which lies between 0 and 1.{_suggest_share(absolute)}"
            refuse([(("margin", "absolute"), text)])
        return self


def _check_primary(primary: Outcome, info: ValidationInfo) -> Outcome:
    tier = _name_tier(_find_places(info).get(primary.conversion, ()))
    if tier not in {"", "a micro"}:
        text = f"is {primary.conversion!r}, {tier}; the primary is a micro, which the change is to move. "
        refuse([(("conversion",), f"{text}Name a micro, and this under `guardrails`.")])
    return primary


def _check_outcomes(outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    known: set[tuple[str, str]] = set()
    problems: list[tuple[FieldPath, str]] = []
    for i, each in enumerate(outcomes):
        key = each.conversion, str(each.metric)
        if key in known:
            problems.append(((i,), f"is the {key[1]} of {key[0]!r} once more. Remove one of them."))
        known.add(key)
    refuse(problems)
    return outcomes


def _check_guardrails(guardrails: tuple[Guardrail, ...], info: ValidationInfo) -> tuple[Guardrail, ...]:
    places = _find_places(info)
    if places and not any(_name_tier(places.get(each.conversion, ())) == "a macro" for each in guardrails):
        refuse([((), NO_GUARDRAIL)])
    _check_outcomes(guardrails)
    primary = info.data.get("primary")
    refuse(
        [
            ((i,), f"is the {each.metric} of {each.conversion!r}, which is the primary. Remove it.")
            for i, each in enumerate(guardrails)
            if primary and (each.conversion, str(each.metric)) == (primary.conversion, str(primary.metric))
        ]
    )
    return guardrails


def _write_level(raw: object) -> str:
    """Write an arm as its column has it: keys of a mapping are text as written, those of a list may be numbers."""
    return str(raw).lower() if isinstance(raw, bool) else str(raw)


def _read_levels(raw: object, where: FieldPath, *, what: str) -> tuple[str, ...]:
    if not isinstance(raw, list | tuple):
        text = f"is {show_value(raw)}; it must be a list of at least two {what}, the control first."
        raise FieldError([(where, text)])
    problems: list[tuple[FieldPath, str]] = [
        ((*where, i), f"is {show_value(each)}; it must be a value of the column.")
        for i, each in enumerate(raw)
        if not isinstance(each, str | int | float) or each == ""
    ]
    levels = tuple(map(_write_level, raw))
    if len(levels) < 2:
        problems.append((where, f"is {show_value(raw)}; there must be at least two {what}, the control first."))
    problems += [
        ((*where, i), f"is {level!r} once more; each may stand once. Remove one of them.")
        for i, level in enumerate(levels)
        if level in levels[:i]
    ]
    refuse(problems)
    return levels


def _read_arms(raw: object) -> Arms:
    if raw == ():  # left out: a plan's own list is never a tuple
        return ()
    if not isinstance(raw, Mapping):
        return _read_levels(raw, (), what="arms")
    _read_levels(list(raw), (), what="arms")
    refuse(
        [
            ((arm,), f"is {show_value(share)}; an arm's share of the traffic must be a number above 0.")
            for arm, share in raw.items()
            if not isinstance(share, int | float) or isinstance(share, bool) or not share > 0
        ]
    )
    total = sum(raw.values())
    if not abs(total - 1) <= SHARE_TOLERANCE:
        refuse([((), f"has shares that sum to {total:g}; they must sum to 1. Correct them, or list the arms alone.")])
    return dict(raw)


def _read_factors(raw: object) -> Factors:
    if not isinstance(raw, Mapping) or not raw:
        raise FieldError([((), f"is {show_value(raw)}; it must be a mapping such as {{form: [old, new]}}.")])
    read: Factors = {}
    problems: list[tuple[FieldPath, str]] = []
    for column, levels in raw.items():
        try:
            read[str(column)] = _read_levels(levels, (column,), what="levels")
        except FieldError as error:
            problems += error.problems
    refuse(problems)
    return read


def _check_arms(arms: Arms, info: ValidationInfo) -> Arms:
    """Compare what names the arms; fields that are wrong themselves are not there, and decide nothing."""
    if "factors" not in info.data or "assignment" not in info.data:
        return arms
    factors, column = info.data["factors"], info.data["assignment"].column
    if arms and factors:
        refuse([((), "stands beside `factors`, whose levels make the arms. Remove one of the two.")])
    if arms and column is None:
        text = "needs the column of the log that says which arm a unit is in. Add `assignment: {column: ...}`."
        refuse([((), text)])
    if factors and column is not None:
        text = f"has `factors`, whose names are the columns to read, and {column!r} in `assignment`. Remove `column`."
        refuse([((), text)])
    if not arms and not factors:
        text = "has neither `arms`, with the column that says them, nor `factors`. Add `arms: [control, ...]` and "
        refuse([((), f"{text}`assignment: {{column: ...}}`.")])
    return arms


def _check_end(end: Date | None, info: ValidationInfo) -> Date | None:
    start, minimum = info.data.get("start"), info.data.get("minimum")
    if end is None or start is None:
        return end
    if end < start:
        raise ValueError(f"it must not be before `start`, {start}.")
    days = (end - start).days + 1
    if minimum and days < minimum.days:
        short = f"from `start` on these are {days} day{'s' if days > 1 else ''}, fewer than `minimum.days`, which is"
        raise ValueError(f"{short} {minimum.days}. Move `end`, or lower `minimum: {{days: ...}}`.")
    return end


def _check_pre_period(pre_period: str | None, info: ValidationInfo) -> str | None:
    if pre_period is not None and info.data.get("unit") == "session":
        raise ValueError("a visit has no time before it. Remove it, or count users (`unit: user`).")
    return pre_period


def _check_others(outcomes: tuple[Outcome, ...], info: ValidationInfo) -> tuple[Outcome, ...]:
    _check_outcomes(outcomes)
    named = [info.data[name] for name in ("primary",) if name in info.data] + list(info.data.get("guardrails", ()))
    known = {(each.conversion, str(each.metric)) for each in named}
    repeated: list[tuple[FieldPath, str]] = [
        ((i,), f"is the {each.metric} of {each.conversion!r}, which the experiment has already. Remove it.")
        for i, each in enumerate(outcomes)
        if (each.conversion, str(each.metric)) in known
    ]
    refuse(repeated)
    return outcomes


def _check_segments(segments: tuple[str, ...]) -> tuple[str, ...]:
    refuse([((i,), f"is {each!r} once more. Remove it.") for i, each in enumerate(segments) if each in segments[:i]])
    return segments


PlainOrOutcome = Annotated[Outcome, or_plain("conversion")]
#: The first arm or level is the control, so a plan's digest has to follow their order.
InOrder = PlainSerializer(lambda raw: list(raw.items() if isinstance(raw, dict) else raw))


class PlannedExperiment(Identified):
    """A comparison of arms that units are assigned to by chance."""

    assignment: Assignment = Assignment()
    factors: Annotated[Factors, PlainValidator(_read_factors), InOrder] = Field(default={})
    arms: Annotated[Arms, PlainValidator(_read_arms), AfterValidator(_check_arms), InOrder] = Field(
        default=(), validate_default=True
    )
    unit: Literal["user", "session"] = "user"
    start: Date = Field(description="the first day of the assignment, such as 2026-07-06")
    minimum: Minimum = Minimum()
    end: Annotated[Date | None, AfterValidator(_check_end)] = None
    window: Duration = "14D"
    primary: Annotated[PlainOrOutcome, AfterValidator(_check_primary)] = Field(
        description="the id of the micro that the change is to move"
    )
    guardrails: Annotated[
        tuple[Annotated[Guardrail, or_plain("conversion")], ...], AfterValidator(_check_guardrails)
    ] = Field(default=(), validate_default=True)
    metrics: Annotated[tuple[PlainOrOutcome, ...], AfterValidator(_check_others)] = ()
    exposure: Origin | None = None
    pre_period: Annotated[Duration | None, AfterValidator(_check_pre_period)] = None
    segments: Annotated[tuple[str, ...], AfterValidator(_check_segments)] = ()
    owner: str | None = None
    notes: str | None = None

    @property
    def arm_names(self) -> tuple[str, ...]:
        """The arms, the control first; of factors every combination of their levels, such as `old + grey`."""
        return tuple(self.arms or map(" + ".join, itertools.product(*self.factors.values())))

    @property
    def shares(self) -> tuple[float, ...]:
        """The planned share of the traffic of each arm."""
        if isinstance(self.arms, dict):
            return tuple(self.arms.values())
        return (1 / len(self.arm_names),) * len(self.arm_names)

    @property
    def days(self) -> int | None:
        """On how many days units are assigned; None when the end is open."""
        return None if self.end is None else (self.end - self.start).days + 1

    @property
    def arm_columns(self) -> tuple[str, ...]:
        """The columns of the log that say which arm a unit is in: they come and go with the experiment."""
        return tuple(self.factors) or (str(self.assignment.column),)

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that it reads, besides those of its conversions."""
        exposure = self.exposure.columns if self.exposure and not isinstance(self.exposure, str) else frozenset[str]()
        outcomes = (each.columns for each in (self.primary, *self.guardrails, *self.metrics))
        return self.assignment.columns.union(self.factors, self.segments, exposure, *outcomes)
