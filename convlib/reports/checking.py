"""What does not stop a run, but makes its reports say little: `convlib check` tells it before."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from convlib.documents import did_you_mean
from convlib.errors import RunError
from convlib.events import EventLog, list_columns
from convlib.first_run import WINDOWS
from convlib.landmarks import DEFAULT_HORIZON, find_landmarks, find_risk, follow, read_design
from convlib.lifts import FEWEST_CONVERTED, FEWEST_UNITS
from convlib.plan import Clock, Rule, Segment, Test
from convlib.reports.preparation import Checks, Preparation, check_clock, find_lacking, has_clock
from convlib.rules import list_tests

#: Among more values of a column none is looked for that is near to a wrong one.
MOST_VALUES = 1_000


def find_warnings(preparation: Preparation) -> list[str]:
    """Say what of a run's plan and segments does not happen in its log, and where its clocks leave too few units.

    Nothing of it stops a run: the reports say it too, but later.
    """
    log, plan, checks = preparation.log, preparation.plan, Checks()
    checks.problems += [problem for each in log.segments.values() for problem in _find_idle(log, each)]
    found = set(log.count("conversions", "conversion")["conversion"])
    for each in plan.conversions:
        if each.id not in found:
            why = " ".join(_find_absent(log, each.match)) or f"No event has {each.match}."
            checks.problems.append(f"{plan.locate(each.id)}: `{each.id}` matches no event of the log. {why}")
    for macro in plan.macros:
        checks.attempt(check_clock, preparation, macro)
    for template in preparation.notebooks.templates:
        own = {**template.parameters, **preparation.notebooks.parameters[template.name]}
        if has_clock(own):
            checks.attempt(_check_followed, preparation, own)
    return [*checks.problems, *_find_unlike(preparation)]


def _find_unlike(preparation: Preparation) -> list[str]:
    """Say which notebooks score the same macro-conversion after adjusting for different columns."""
    first: dict[str, tuple[str, list[str]]] = {}
    problems = []
    for template in preparation.notebooks.templates:
        own = {**template.parameters, **preparation.notebooks.parameters[template.name]}
        if {"macro", "adjust"} <= own.keys():
            adjust = sorted(list_columns(own["adjust"]))
            other, known = first.setdefault(preparation.plan.find_macro(own["macro"]).id, (template.name, adjust))
            if adjust != known:
                place = preparation.run_file.locate("notebooks")
                problems.append(
                    f"{place}: {template.name} adjusts for {_word(adjust)}, {other} for {_word(known)}: they may rank "
                    "the same micro-conversions differently. Give both one `adjust`."
                )
    return problems


def _word(columns: list[str]) -> str:
    return ", ".join(f"`{column}`" for column in columns) or "no column"


def _find_idle(log: EventLog, segment: Segment) -> list[str]:
    """Say which columns, or else which values, of a segment the log does not hold."""
    if problems := find_lacking(log, segment, (*log.prepared.given, *log.derived)):
        return problems
    absent = _find_absent(log, segment.rule) if segment.rule else []
    return [f"{segment.place}: the segment `{segment.name}`: {problem}" for problem in absent]


def _find_absent(log: EventLog, rule: Rule) -> list[str]:
    """Say which values of a rule's columns no row has, with the nearest that one has."""
    problems = []
    for test in list_tests(rule):
        for value in test.value if test.op == "in" else ():
            if not log.keep(Test(test.column, "in", (value,))).rows().limit(1).fetchall():
                known = log.values(test.column)
                near = did_you_mean(value, known) if len(known) <= MOST_VALUES else ""
                problems.append(f"`{test.column}` is never {value!r}.{near}")
    return problems


def _check_followed(preparation: Preparation, own: Mapping[str, Any]) -> None:
    """Refuse a clock that leaves fewer units or conversions in the period than one micro needs on its two sides."""
    macro = preparation.plan.find_macro(own["macro"])
    clock = macro.correlation or Clock()
    entry, horizon = own["entry"] or clock.entry, own["horizon"] or clock.horizon or DEFAULT_HORIZON
    log = preparation.log.between(*preparation.period, timezone=own.get("timezone") or None)
    landmarks = find_landmarks(log, macro, exposure=own["exposure"], entry=entry, unit="user")
    design = read_design(landmarks[:1], horizon)
    entries, followed = follow(log, macro, design, entry=entry, candidates=())

    def count(days: int) -> tuple[int, int]:
        risk = find_risk(followed, read_design(landmarks[:1], f"{days}D") if days else design, pd.DataFrame())
        return len(risk.unit), int(risk.outcome.sum())

    start, end = preparation.period
    if entries.empty:
        times = pd.to_datetime(log.between().entries(entry=entry)["time"], unit="us", utc=True)
        days = sorted({*times.dt.tz_convert(log.timezone).dt.date})
        nearest = [day for day in days if day < start][-1:] + [day for day in days if day > end][:1]
        raise RunError(
            f"{preparation.run_file.locate('period')}: no unit enters from {start} to {end} with `{entry}`, so reports "
            f"have nobody to follow. The log has entries from {days[0]} to {days[-1]}, nearest on "
            f"{' and '.join(map(str, nearest))}. Choose a `period` with such days."
        )
    needed = (2 * FEWEST_UNITS, 2 * FEWEST_CONVERTED)
    units, converted = count(0)
    if units >= needed[0] and converted >= needed[1]:
        return
    better = [(f"{days}D", *count(days)) for days in reversed(WINDOWS)]
    fitting = [each for each in better if each[1] >= needed[0] and each[2] >= needed[1]]
    advice = "A horizon of {} would leave {:,} and {:,}.".format(*fitting[0]) if fitting else "Take a longer `period`."
    raise RunError(
        f"{preparation.plan.locate(macro.id, 'correlation')}: of {len(entries):,} units that enter from {start} to "
        f"{end}, {units:,} can still convert {landmarks[0]} after entry and have {horizon} of follow-up from there; "
        f"{converted:,} of them do `{macro.id}`. To compare doers with others takes at least {needed[0]} and "
        f"{needed[1]}. {advice}"
    )
