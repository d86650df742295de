"""A first run file and segments that fit a log and its plan, for a person to edit."""

import re
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from convlib.canonical import CANONICAL, NO_VALUE
from convlib.errors import ParamError
from convlib.events import EventLog
from convlib.identity import IDS
from convlib.periods import find_day
from convlib.personal import count_personal
from convlib.plan import Macro, Plan
from convlib.plan_entries import Clock
from convlib.reports.run_file import Period, RunFile
from convlib.stats import FEW_UNITS

#: Whose values say most often who enters; columns of the log's own come after them.
BACKGROUND = ("device_type", "medium", "source", "geo")
MOST_COLUMNS, MOST_OTHERS = 3, 30
FEWEST_VALUES, MOST_VALUES = 2, 12
#: A column has a value at most entries, and no value has nearly all of them.
MOST_WITHOUT, MOST_ALIKE = 0.5, 0.95
#: Days in which a conversion counts: the fewest that hold this share of those who convert, within a quarter of the log;
#: from an entry within half, as nothing before it is counted.
WINDOWS, HELD = (1, 7, 14, 28, 90, 180, 270, 365, 540), 0.9
MOST_STEPS = 4
#: Complete periods that a report covers, and days of a window from which they are months.
MOST_WEEKS, MOST_MONTHS, LONG = 11, 6, 28


def choose_columns(log: EventLog) -> tuple[str, ...]:
    """Choose which columns tell groups of units apart at their entry: few values, hardly any missing, none personal."""
    others = [name for name in log.columns if name not in {*CANONICAL, *IDS}][:MOST_OTHERS]
    chosen: list[str] = []
    for name in (*(each for each in BACKGROUND if each in log.columns), *others):
        if len(chosen) < MOST_COLUMNS and re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) and _tells_apart(log, name):
            chosen.append(name)
    return tuple(chosen)


def _tells_apart(log: EventLog, column: str) -> bool:
    try:
        shares = log.entries(columns=[column])[column].value_counts(normalize=True)
    except ParamError:  # a name that the tables of results need
        return False
    known = shares.drop(NO_VALUE, errors="ignore")
    if known.index.str.startswith("{").any():  # a field with fields of its own
        return False
    few = FEWEST_VALUES <= len(known) <= MOST_VALUES and shares.max() <= MOST_ALIKE
    return few and 1 - known.sum() <= MOST_WITHOUT and not any(count_personal(known.index, numbers=False).values())


def write_clock(log: EventLog, macro: Macro) -> str:
    """Write when it is looked at who did what, and how long the macro counts after that, as a line of a plan's macro.

    Where it takes weeks, units are looked at after a tenth and a quarter of that time.
    """
    days, entry = choose_window(log, macro), _find_entry(macro)
    clock: dict[str, Any] = {"entry": entry} if entry else {}
    if days < LONG:
        return f"correlation: {_write(clock | {'horizon': f'{days}D'})}  # how long the macro counts"
    looks = days // 10, days // 4
    clock |= {"exposure": [f"{each}D" for each in looks], "horizon": f"{days - looks[1]}D"}
    return f"correlation: {_write(clock)}  # landmarks; how long the macro counts"


def _find_entry(macro: Macro) -> str:
    return (macro.correlation or Clock()).entry or ""


def write_segments(columns: Sequence[str]) -> str:
    """Write a segments file with one segment for each value of some columns."""
    named = [f"{name}: {{by: {name}}}" for name in columns] or ["all: {}"]
    return "\n".join(
        [
            "# Named sets of users, by how they entered: all their events count. `by` makes one segment of each value;",
            "# they sum to the whole. A rule makes one segment: `mobile_paid: {device_type: mobile, medium: cpc}`.",
            *named,
            "",
        ]
    )


def write_run_file(
    log: EventLog, plan: Plan, *, events: str, mapping: str, columns: Sequence[str], timezone: str = "UTC"
) -> str:
    """Write a weekly run file whose window, period, steps and columns are those of a log.

    Args:
        log: The log, read with the plan.
        plan: Its plan.
        events: What the file is to name as its events.
        mapping: What it is to name as their mapping; empty for none.
        columns: The columns that tell groups apart.
        timezone: Zone of the log's days, and of the schedule.

    Returns:
        The file as YAML.
    """
    macro = plan.macros[0]
    days, entry = choose_window(log, macro), _find_entry(macro)
    period = _choose_period(log, macro, days, timezone)
    every = {"week": "W", "month": "M"}[period.unit] if period else "D"
    adjust, by, window = list(columns[:2]), list(columns[:1]), f"{days}D"
    overview = {"every": every, "entry": entry, "window": window if entry else "", "adjust": adjust, "by": by}
    funnel = {"steps": _choose_steps(log, macro), "window": window, "by": by, "adjust": by}
    scored = {"adjust": adjust}  # the plan says how long the macro counts
    chosen = {"last": period.last, "follow_up": period.follow_up} if period else {}
    zone = {"timezone": timezone} if timezone != "UTC" else {}
    return f"""\
# What `convlib run` makes of your log. Paths begin at this file. Window, period, steps and columns were chosen from
# the log, for you to edit.
run: weekly
title: Weekly report
events: {_write(events)}
{f"mapping: {_write(mapping)}" if mapping else "# mapping: ga4              # a preset or a file"}
plan: plan.yaml
segments: segments.yaml
run_segments: {_write(["all", *by])}
period: {_write(chosen | zone)}     # which entries; {{}} is all of the log
retries: 1                    # a notebook that fails is tried once more
keep: 26                      # so many periods stay under reports/weekly/
schedule: {{every: week, on: monday, at: "06:00", timezone: {timezone}}}     # read by `convlib schedule`
parameters: {_write({"macro": macro.id})}
notebooks:
  00_overview: {_write(overview)}
  01_event_map: {{}}
  02_funnel: {_write(funnel)}
  03_correlation: {_write(scored)}
  04_impact: {_write(scored)}
  05_experiments: {{}}             # a page for each experiment, once the plan has `experiments`
"""


def name_path(value: str, base: Path | None) -> str:
    """Name a path from a folder, or whole (None); names, addresses and paths that are whole already stay."""
    if not RunFile.is_relative(value):
        return value
    whole = Path(value).parent.resolve() / Path(value).name
    return whole.as_posix() if base is None else Path(relpath(whole, base)).as_posix()


def choose_window(log: EventLog, macro: Macro) -> int:
    """Choose in how many days of entry a conversion counts, by how long it takes."""
    entry = _find_entry(macro)
    reached = log.keep(macro.match).entries()["time"] - log.entries(entry=entry)["time"]
    took = pd.to_timedelta(reached[reached >= 0], unit="us")
    covered = (log.last - log.first) / (2 if entry else 4)
    fitting = [days for days in WINDOWS if pd.Timedelta(days=days) <= covered] or [WINDOWS[0]]
    return next((days for days in fitting if (took <= pd.Timedelta(days=days)).mean() >= HELD), fitting[-1])


def _choose_period(log: EventLog, macro: Macro, window: int, timezone: str) -> Period | None:
    """Choose the most complete weeks or months that lie in the log, have their window after them, and have entries.

    Where the log has conversions enough to be judged, so have they; else all of the log is taken.
    """
    converted = log.keep(macro.match).entries().index
    needed = FEW_UNITS if len(converted) >= FEW_UNITS else 0
    most, unit = (MOST_MONTHS, "month") if window >= LONG else (MOST_WEEKS, "week")
    for count in range(most, 1, -1):
        period = Period(last=f"{count} complete {unit}s", follow_up=f"{window + 1}D", timezone=timezone)
        start, end = period.resolve(first=log.first, last=log.last)
        if start < find_day(log.first, timezone):
            continue
        entered = log.between(start, end, timezone=timezone).entries(entry=_find_entry(macro)).index
        if len(entered) and entered.isin(converted).sum() >= needed:
            return period
    return None


def _choose_steps(log: EventLog, macro: Macro) -> list[str]:
    """Choose the entry and the plan's last milestones before the macro; without any, what most users do."""
    steps = [micro.id for micro in macro.micros if micro.kind == "process_milestone"][-MOST_STEPS:]
    if entry := _find_entry(macro):
        return [entry, *steps, macro.id]
    if not steps:
        own = set(log.keep(macro.match).count("events", "event_name")["event_name"])
        counted = log.count("events", "event_name").sort_values("units", ascending=False, kind="stable")
        steps = [name for name in counted["event_name"] if name not in own][:1] or [macro.id]
    return [*steps, macro.id]


def _write(value: Any) -> str:
    """Write a value as YAML on one line."""
    text = yaml.dump(value, Dumper=_Plain, default_flow_style=True, allow_unicode=True, sort_keys=False, width=100_000)
    return text.removesuffix("\n").removesuffix("\n...")


class _Plain(yaml.SafeDumper):
    """Writes a list that stands in two places twice, not as a reference."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's own signature
        return True
