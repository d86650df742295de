"""The measurement plan: which conversions count, what they are worth, who owns them, and where the plan has gaps."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import AfterValidator, Field, PrivateAttr, ValidationError

from convlib.documents import Document, FieldPath, did_you_mean, quote_names, read_document, word_columns
from convlib.errors import ParamError, PlanError
from convlib.plan_entries import (
    Action,
    Benchmark,
    Clock,
    Dedupe,
    Entry,
    Friction,
    LeaveOut,
    Loss,
    Macro,
    Metric,
    Micro,
    Range,
    Target,
    ValueColumn,
)
from convlib.plan_experiments import PlannedExperiment
from convlib.rules import All, Any_, Rule, Test, parse_rule
from convlib.segments import Segment, read_segments
from convlib.validation import word_errors

__all__ = [
    "Action",
    "All",
    "Any_",
    "Benchmark",
    "Clock",
    "Dedupe",
    "Friction",
    "LeaveOut",
    "Loss",
    "Macro",
    "Metric",
    "Micro",
    "Plan",
    "PlannedExperiment",
    "Range",
    "Rule",
    "Segment",
    "Target",
    "Test",
    "ValueColumn",
    "parse_rule",
    "read_plan",
    "read_segments",
]

STAGES = ("awareness", "consideration", "decision")
FEWEST_MICROS, MOST_MICROS = 3, 5
#: What else of a plan has entries with ids; only those of `leave_out` may be a conversion's too.
OTHERS = ("leave_out", "friction", "experiments")
GAP_FIELDS = ("owner", "target", "benchmark", "effort", "ux_outcome", "data_source", "touchpoint")
PLAN_COLUMNS = {
    "tier": "str",
    "macro": "str",
    "id": "str",
    "name": "str",
    "stage": "str",
    "kind": "str",
    "touchpoint": "str",
    "match": "str",
    "metric": "str",
    "owner": "str",
    "target": "float64",
    "target_by": "datetime64[us]",
    "benchmark_low": "float64",
    "benchmark_high": "float64",
    "direction": "str",
    "value": "float64",
    "value_column": "str",
    "effort": "float64",
    "ux_outcome": "str",
    "data_source": "str",
    "notes": "str",
}


def _check_stages(stages: tuple[str, ...]) -> tuple[str, ...]:
    if not stages or any(not stage for stage in stages) or len(set(stages)) < len(stages):
        raise ValueError("it must list at least one stage, each once and by a name.")
    return stages


def _check_macros(macros: tuple[Macro, ...]) -> tuple[Macro, ...]:
    if not macros:
        raise ValueError("it must list at least one macro-conversion.")
    return macros


class Plan(Entry):
    """A checked measurement plan.

    Args:
        stages: The stages' names, in order.
        macros: The macro-conversions, each with its micros and losses.
        leave_out: Traffic that is no customer's, such as bots and test accounts.
        friction: What may slow people down on a page.
        experiments: Which arms are compared, by what.
    """

    stages: Annotated[tuple[str, ...], AfterValidator(_check_stages)] = STAGES
    macros: Annotated[tuple[Macro, ...], AfterValidator(_check_macros)] = Field(description="the macro-conversions")
    leave_out: tuple[LeaveOut, ...] = ()
    friction: tuple[Friction, ...] = ()
    experiments: tuple[PlannedExperiment, ...] = ()
    _document: Document = PrivateAttr()

    @property
    def path(self) -> str:
        """The file that the plan was read from, as the user named it."""
        return self._document.path

    @property
    def conversions(self) -> tuple[Macro | Micro | Loss, ...]:
        """Every conversion, in the plan's order: each macro, then its micros and losses."""
        listed: list[Macro | Micro | Loss] = []
        for macro in self.macros:
            listed += [macro, *macro.micros, *macro.losses]
        return tuple(listed)

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the log that conversions and `leave_out` read."""
        return frozenset[str]().union(*(each.columns for each in (*self.conversions, *self.leave_out)))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed but unwise: a macro's stage with fewer than 3 or more than 5 micros."""
        return tuple(self._warn_of_stages())

    @property
    def gaps(self) -> list[tuple[str, str]]:
        """The optional fields that nobody has filled in, as (id, field); losses have none."""
        entries = [each for each in self.conversions if isinstance(each, Macro | Micro)]
        return [
            (each.id, name)
            for each in entries
            for name in GAP_FIELDS
            if name in type(each).model_fields and not getattr(each, name)
        ]

    @property
    def table(self) -> pd.DataFrame:
        """The plan as one row for each conversion, in the plan's order (columns: `PLAN_COLUMNS`)."""
        rows = [_tabulate(each, self.macro_of(each.id)) for each in self.conversions]
        return pd.DataFrame(rows, columns=list(PLAN_COLUMNS)).astype(PLAN_COLUMNS)

    @property
    def digest(self) -> str:
        """A SHA-256 of what the plan says; comments, layout and the file's name do not change it."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def find_macro(self, macro: str) -> Macro:
        """Return a macro by its id.

        Raises:
            ParamError: The plan has no such macro; the message has the nearest id.
        """
        goals = {goal.id: goal for goal in self.macros}
        if not isinstance(macro, str) or macro not in goals:
            msg = f"`macro` is {macro!r}; the plan's macros are {quote_names(goals)}.{did_you_mean(macro, goals)}"
            raise ParamError(msg)
        return goals[macro]

    def find_experiment(self, experiment: str) -> PlannedExperiment:
        """Return an experiment by its id.

        Raises:
            ParamError: The plan has no such experiment; the message has the nearest id.
        """
        known = {each.id: each for each in self.experiments}
        if not isinstance(experiment, str) or experiment not in known:
            listed = f"the plan's experiments are {quote_names(known)}" if known else "the plan has no `experiments`"
            raise ParamError(f"`experiment` is {experiment!r}; {listed}.{did_you_mean(experiment, known)}")
        return known[experiment]

    def macro_of(self, conversion_id: str) -> Macro:
        """Return the macro that a conversion belongs to; a macro belongs to itself.

        Raises:
            PlanError: The plan has no such conversion.
        """
        wanted = self[conversion_id]
        return next(macro for macro in self.macros if wanted in (macro, *macro.micros, *macro.losses))

    def find_unknown_goals(self, columns: Collection[str]) -> list[str]:
        """Say which targets and benchmarks are for values of a column that a log does not have, each with its line."""
        text = "is for the values of a column that the log does not have."
        return [
            self._document.problem(where, text + word_columns(where[-1], columns))
            for place, each in list_ids(self._document.data)
            for where in _list_goal_columns(self[each], place[:-1])
            if where[-1] not in columns
        ]

    def locate(self, entry_id: str, field: str = "match") -> str:
        """Return where a field of a conversion, or of another entry, stands, as `file:line`.

        A field that is left out stands where its entry begins.

        Raises:
            PlanError: The plan has no such entry.
        """
        data = self._document.data
        others = (each for key in OTHERS for each in _ids(_list_entries(data, (), key)))
        places = {found: where for where, found in (*others, *list_ids(data))}
        if entry_id not in places:
            raise self._miss(entry_id)
        return self._document.locate((*places[entry_id][:-1], field))

    def __getitem__(self, conversion_id: str) -> Macro | Micro | Loss:
        """Return a conversion by its id; PlanError names the nearest id when there is none."""
        found = {each.id: each for each in self.conversions}
        if not isinstance(conversion_id, str) or conversion_id not in found:
            raise self._miss(conversion_id)
        return found[conversion_id]

    def __contains__(self, conversion_id: object) -> bool:
        """Say whether the plan has a conversion of this id."""
        return any(each.id == conversion_id for each in self.conversions)

    def _miss(self, entry_id: str) -> PlanError:
        known = [each.id for each in self.conversions]
        near = did_you_mean(entry_id, known)
        return PlanError(f"{self.path} has no conversion {entry_id!r}; it has {quote_names(known)}.{near}")

    def _warn_of_stages(self) -> Iterator[str]:
        for i, macro in enumerate(self.macros):
            counts = Counter(micro.stage for micro in macro.micros)
            odd = {s: n for s in self.stages if (n := counts[s]) and not FEWEST_MICROS <= n <= MOST_MICROS}
            if odd:
                listed = ", ".join(f"{count} in {stage!r}" for stage, count in odd.items())
                ways = {
                    "add some": min(odd.values()) < FEWEST_MICROS,
                    "merge or drop some": max(odd.values()) > MOST_MICROS,
                }
                yield self._document.problem(
                    ("macros", i),
                    f"has stages with few or many micros ({listed}); {FEWEST_MICROS} to {MOST_MICROS} keep a stage "
                    f"telling and readable. {'; '.join(way for way, fits in ways.items() if fits).capitalize()}.",
                )


def read_plan(path: str | Path) -> Plan:
    """Read what is to be measured.

    Args:
        path: The plan's YAML file.

    Returns:
        The checked plan.

    Raises:
        PlanError: The file can't be read or the plan is wrong; every problem is listed, with its line.
    """
    document = read_document(path)
    ids = list_ids(document.data)
    context = {"ids": {each: where for where, each in ids}, "stages": _list_stages(document.data)}
    left_out, *others = (_ids(_list_entries(document.data, (), key)) for key in OTHERS)
    problems = _find_twins(document, [*ids, *itertools.chain(*others)], within="a plan")
    problems += _find_twins(document, left_out, within="`leave_out`")
    try:
        plan = Plan.model_validate(document.data, context=context)
    except ValidationError as error:
        problems += word_errors(error, document, Plan)
    if problems:
        raise PlanError(*(text for _, text in sorted(problems, key=itemgetter(0))))
    plan._document = document
    return plan


def list_ids(data: Any) -> list[tuple[FieldPath, str]]:
    """List every conversion's id with its path, also in a plan that has other faults."""
    found: list[tuple[FieldPath, str]] = []
    for where, macro in _list_entries(data, (), "macros"):
        entries = [(where, macro), *_list_entries(macro, where, "micros"), *_list_entries(macro, where, "losses")]
        found += _ids(entries)
    return found


def _ids(entries: list[tuple[FieldPath, dict[str, Any]]]) -> list[tuple[FieldPath, str]]:
    return [((*place, "id"), entry["id"]) for place, entry in entries if isinstance(entry.get("id"), str)]


def _list_entries(data: Any, where: FieldPath, key: str) -> list[tuple[FieldPath, dict[str, Any]]]:
    entries = data.get(key) if isinstance(data, dict) else None
    if not isinstance(entries, list):
        return []
    return [((*where, key, i), entry) for i, entry in enumerate(entries) if isinstance(entry, dict)]


def _list_stages(data: Any) -> list[str] | None:
    """Return the stages that micros may name, or None when the plan's own list is wrong itself."""
    stages = data.get("stages") if isinstance(data, dict) else None
    if stages is None:
        return list(STAGES)
    if isinstance(stages, list) and all(isinstance(stage, str) for stage in stages):
        return stages
    return None


def _find_twins(document: Document, ids: list[tuple[FieldPath, str]], *, within: str) -> list[tuple[int, str]]:
    first_lines: dict[str, int] = {}
    problems: list[tuple[int, str]] = []
    for where, each in ids:
        line = document.line(where)
        if each in first_lines:
            text = (
                f"is {each!r}, as on line {first_lines[each]}; each id may stand once in {within}. Rename one of them."
            )
            problems.append((line, document.problem(where, text)))
        first_lines.setdefault(each, line)
    return problems


def _list_goal_columns(entry: Macro | Micro | Loss, where: FieldPath) -> Iterator[FieldPath]:
    """List the places of columns whose values have a target or benchmark of their own."""
    if isinstance(entry, Loss):
        return
    holders = [(where, entry), *(((*where, "metrics", i), each) for i, each in enumerate(entry.metrics))]
    for place, holder in holders:
        yield from ((*place, "target", "per", column) for column in (holder.target.per if holder.target else ()))
        yield from ((*place, "benchmark", "by", column) for column in (holder.benchmark.by if holder.benchmark else ()))


def _tabulate(entry: Macro | Micro | Loss, macro: Macro) -> dict[str, object]:
    value = getattr(entry, "value", None)
    target = getattr(entry, "target", None)
    benchmark = getattr(entry, "benchmark", None) or Range()
    same = ("id", "name", "stage", "kind", "touchpoint", "owner", "direction", "effort", "ux_outcome", "data_source")
    return {
        **{name: getattr(entry, name, None) for name in (*same, "notes")},
        "tier": type(entry).__name__.casefold(),
        "macro": macro.id,
        "match": str(entry.match),
        "metric": _name_metric(entry),
        "target": target.value if target else None,
        "target_by": target.by if target else None,
        "benchmark_low": benchmark.low,
        "benchmark_high": benchmark.high,
        "value": None if isinstance(value, ValueColumn) else value,
        "value_column": value.column if isinstance(value, ValueColumn) else None,
    }


def _name_metric(entry: Macro | Micro | Loss) -> str | None:
    if isinstance(entry, Micro):
        return str(entry.metric)
    return "rate" if isinstance(entry, Macro) else None
