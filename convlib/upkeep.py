"""What keeps a plan true: owners' actions, targets that follow what was reached, and what has gone stale."""

import dataclasses
import datetime as dt
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from convlib import plots, takeaways
from convlib.alert_files import SEVERITIES
from convlib.errors import ParamError, check_made, list_problems
from convlib.events import EventLog
from convlib.lazy import LazyModule
from convlib.periods import PERIODS, read_day
from convlib.plan import Plan
from convlib.plan_edits import PlanEdit, TargetChange, edit_targets
from convlib.plan_entries import Loss, Macro, Measure, Micro, is_share
from convlib.rates import Rates
from convlib.results import Kind, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from convlib import correlation as correlations
else:
    correlations = LazyModule("convlib.correlation")

#: From so many of the latest usable periods a target is judged.
LAST_PERIODS = 4
#: A new target lies so far beyond the level that was reached; a miss by no more than this is near.
AMBITION = 0.1
STALE_AFTER = pd.DateOffset(years=1)
ACTION_COLUMNS = {
    "conversion": "str",
    "macro": "str",
    "text": "str",
    "owner": "str",
    "due": "datetime64[us]",
    "done": "bool",
    "overdue_days": "int64",
}
PROPOSAL_COLUMNS = {
    "conversion": "str",
    "metric": "str",
    "current": "float64",
    "proposed": "float64",
    "periods": "int64",
    "level": "float64",
    "level_ci_lower": "float64",
    "level_ci_upper": "float64",
    "reason": "str",
    "by": "datetime64[us]",
    "proposed_by": "datetime64[us]",
    "title": "str",
}
REVIEW_COLUMNS = dict.fromkeys(("conversion", "finding", "severity", "evidence", "advice"), "str")
#: Fields that every entry should have: how bad it is when one is open, and what to do.
OPEN_FIELDS = {
    "owner": ("warning", "Name who acts when it falls."),
    "target": ("info", "Set one, or take what the monthly recalibration proposes."),
    "benchmark": ("info", "Look up what is usual elsewhere."),
    "effort": ("info", "Let its owner estimate it, so that opportunities can be set against it."),
}


@dataclasses.dataclass(frozen=True)
class Actions(Result):
    """What owners have promised to do.

    Attributes:
        on: The day on which it is judged what is overdue.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("text", "Action", "text"),
        ("conversion", "For", "text"),
        ("owner", "Owner", "text"),
        ("day", "Due", "text"),
        ("state", "State", "text"),
    )

    on: dt.date

    @property
    def named(self) -> pd.DataFrame:
        """Give the table with names for people, the due day as text, and the state in words."""
        late = self.table["overdue_days"].map("{} days overdue".format).where(self.table["overdue_days"] > 0, "open")
        state = late.where(~self.table["done"], "done")
        return super().named.assign(day=self.table["due"].dt.strftime("%Y-%m-%d"), state=state)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw when the open actions are due, against the day that they are judged on."""
        return plots.draw_actions(self.table, on=self.on, ax=ax)


@dataclasses.dataclass(frozen=True)
class Recalibration(Result):
    """Targets that the plan should change, each with its reason.

    Attributes:
        edit: The change of the plan's file.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("title", "Metric", "text"),
        ("shown_current", "Target", "text"),
        ("shown_proposed", "Proposed", "text"),
        ("shown_by", "By", "text"),
        ("shown_level", "Level", "text"),
        ("periods", "Periods", "count"),
        ("reason", "Reason", "text"),
    )

    edit: PlanEdit = dataclasses.field(repr=False)

    @property
    def path(self) -> str:
        """Name the plan's file."""
        return self.edit.path

    @property
    def diff(self) -> str:
        """Give the change as a unified diff for `patch -p1` or `git apply`; empty without proposals."""
        return self.edit.diff

    @property
    def by_hand(self) -> tuple[str, ...]:
        """List the proposals that have no line of their own in the file."""
        return self.edit.by_hand

    @property
    def proposals(self) -> pd.DataFrame:
        """Give the rows that propose something, with names for people and values in words."""
        rows = self.named
        return rows[rows["proposed"].notna() | rows["proposed_by"].notna()].reset_index(drop=True)

    @property
    def named(self) -> pd.DataFrame:
        """Give the table with names for people and values in words."""
        return super().named.assign(
            shown_current=takeaways.word_values(self.table, "current"),
            shown_proposed=takeaways.word_values(self.table, "proposed"),
            shown_level=takeaways.word_values(
                self.table.rename(columns={"level_ci_lower": "ci_lower", "level_ci_upper": "ci_upper"}),
                "level",
                with_interval=True,
            ),
            shown_by=self.table["proposed_by"].dt.strftime("%Y-%m-%d"),
        )

    def accept(self) -> None:
        """Write the proposals into the plan's file, which keeps its comments and layout.

        Raises:
            PlanError: The file has changed since the proposals were made, or can't be written.
        """
        self.edit.write()


@dataclasses.dataclass(frozen=True)
class PlanReview(Result):
    """What has gone stale in a plan or was never filled in, worst first.

    Attributes:
        on: The day that dates are judged by.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = tuple(
        (name, name.capitalize(), "text") for name in ("severity", "finding", "conversion", "evidence", "advice")
    )

    on: dt.date


def list_actions(plan: Plan, *, on: dt.date) -> Actions:
    """Say which promised actions are open, and which of them are overdue.

    Args:
        plan: The plan with the actions.
        on: The day to judge by, such as the end of the data; what is due on it is not overdue.

    Returns:
        One row an action: open ones first, by due date (those without one last); then those that are done. `owner` is
        the action's, else its conversion's; `overdue_days` is 0 when it is not overdue.

    Raises:
        ParamError: `on` is no day, or the plan is none.
    """
    check_made("plan", plan, Plan, maker="read_plan")
    on = read_day(on, name="on")
    rows = [
        (each.id, plan.macro_of(each.id).id, action.text, action.owner or each.owner or "", action.due, action.done)
        for each in plan.conversions
        if isinstance(each, Micro)
        for action in each.actions
    ]
    listed = pd.DataFrame([(*row, 0) for row in rows], columns=list(ACTION_COLUMNS)).astype(ACTION_COLUMNS)
    late = (pd.Timestamp(on) - listed["due"]).dt.days
    listed["overdue_days"] = late.where((late > 0) & ~listed["done"], 0).astype("int64")
    table = listed.sort_values(["done", "due"], kind="stable", na_position="last", ignore_index=True)
    names = _name(plan)
    return Actions(
        table=table, takeaways=takeaways.word_actions(table, names=names, on=on), segment="all", names=names, on=on
    )


def recalibrate(rates: Rates, plan: Plan) -> Recalibration:
    """Propose targets from what the latest periods reached, each with its reason, as a diff of the plan's file.

    Judged are the last 4 usable periods. A target that each period's interval met is moved to 10% beyond their pooled
    level, in the direction that is better; so is one that all missed and whose best interval ends more than 10% short
    of it, and one that is not there yet. Others stay. A date that has passed moves on by quarters.

    Args:
        rates: The rates of all units, without breakdown.
        plan: The plan, as it was read from its file.

    Returns:
        One row for each target that the plan has or could have, with its metric's `title`: `current` and `proposed` in
        the metric's unit (NaN: none), `level` pooled over `periods` with its interval, and why. The level is the
        periods' mean, weighted by their units (a sum's by nothing); its interval joins theirs by MOVER (Zou, Huang and
        Zhang 2009, Computational Statistics & Data Analysis 53:1080).

    Raises:
        ParamError: An argument is of another kind, or the rates are of a segment or broken down.
        PlanError: The plan's file has changed since it was read, or a target is shared by a YAML anchor.
    """
    problems = list_problems(
        lambda: check_made("rates", rates, Rates, maker="measure_rates"),
        lambda: check_made("plan", plan, Plan, maker="read_plan"),
    )
    if problems:
        raise ParamError(*problems)
    if rates.by or rates.segment != "all":
        what = f"broken down by {', '.join(rates.by)}" if rates.by else f"of the segment {rates.segment!r}"
        raise ParamError(f"`rates` are {what}; a target is for all units. Measure the rates of all, without `by`.")
    goals = [(each, place, holder) for each in plan.conversions for place, holder in _list_holders(each)]
    rows = [_judge(*goal, rates) for goal in goals]
    table = pd.DataFrame(rows, columns=list(PROPOSAL_COLUMNS)).astype(PROPOSAL_COLUMNS)
    changes = [_change(*goal, row) for goal, row in zip(goals, rows, strict=True) if _is_proposed(row)]
    return Recalibration(
        table=table,
        takeaways=takeaways.word_recalibration(table, every=PERIODS[rates.every], needed=LAST_PERIODS),
        segment=rates.segment,
        names=_name(plan),
        edit=edit_targets(plan, changes),
    )


def review_plan(
    plan: Plan, *, log: EventLog | None = None, correlation: "correlations.Correlation | None" = None, on: dt.date
) -> PlanReview:
    """Say what in a plan has gone stale, was never filled in, or no longer earns its place.

    Args:
        plan: The plan to check.
        log: Tells which micros never fire; None leaves that out.
        correlation: Tells which micros show no association, and which are preconditions; None leaves that out.
        on: The day to judge dates by, such as the end of the data.

    Returns:
        One row a finding, worst first: `severity` is `critical`, `warning` or `info`.

    Raises:
        ParamError: An argument is of another kind, or the log was read with another plan.
    """
    kind = type(None) if correlation is None else correlations.Correlation
    problems = list_problems(
        lambda: check_made("plan", plan, Plan, maker="read_plan"),
        lambda: check_made("log", log, EventLog | None, maker="read_events"),
        lambda: check_made("correlation", correlation, kind, maker="correlate"),
    )
    if problems:
        raise ParamError(*problems)
    on = read_day(on, name="on")
    found = [
        *(_find_silent(plan, log) if log is not None else []),
        *(_find_verdicts(correlation) if correlation is not None else []),
        *_find_dates(plan, pd.Timestamp(on)),
        *_find_overdue(plan, on),
        *_find_open(plan),
    ]
    order = {each.id: number for number, each in enumerate(plan.conversions)}
    found.sort(key=lambda row: (SEVERITIES.index(row[2]), order.get(row[0], 0)))
    table = pd.DataFrame(found, columns=list(REVIEW_COLUMNS)).astype(REVIEW_COLUMNS)
    names = _name(plan)
    return PlanReview(
        table=table, takeaways=takeaways.word_review(table, names=names, on=on), segment="all", names=names, on=on
    )


Finding = tuple[str, str, str, str, str]


def _name(plan: Plan) -> dict[str, str]:
    return {each.id: each.name for each in plan.conversions}


def _find_silent(plan: Plan, log: EventLog) -> Iterator[Finding]:
    log.check_plan(plan)
    first, last = log.period
    fired = set(log.count("conversions", "conversion")["conversion"])
    for each in plan.conversions:
        if isinstance(each, Micro) and each.id not in fired:
            advice = "Check its rule and its tracking; drop it when nobody can do it any more."
            yield each.id, "never fires", "critical", f"nobody did it from {first} to {last}", advice


def _find_verdicts(correlation: "correlations.Correlation") -> Iterator[Finding]:
    for _, row in correlation.table.iterrows():
        if row["verdict"] == "no evidence":
            evidence = takeaways.word_no_association(row, in_value=correlation.target == "value")
            advice = "Ask whether it should stay in the plan: test it, or make room for another."
            yield row["micro"], "no association left", "warning", evidence, advice
        if row["verdict"] == "precondition":
            advice = "It is no lever: keep it as a step of the funnel, and give its effort to others."
            yield row["micro"], "precondition", "info", str(row["note"]), advice


def _find_dates(plan: Plan, on: pd.Timestamp) -> Iterator[Finding]:
    holders = ((each, holder) for each in plan.conversions for _, holder in _list_holders(each))
    for each, holder in holders:
        of = "" if holder is each else f" of {holder.name}"
        if holder.target and holder.target.by and pd.Timestamp(holder.target.by) < on:
            evidence = f"the target{of} was to be reached by {holder.target.by}"
            yield each.id, "target date passed", "warning", evidence, "Set a new date, or a new target."
        usual = holder.benchmark
        if usual and usual.as_of is None:
            advice = "Add `as_of:` the day on which it was looked up."
            yield each.id, "undated benchmark", "info", f"nobody knows how old the benchmark{of} is", advice
        elif usual and usual.as_of and pd.Timestamp(usual.as_of) < on - STALE_AFTER:
            evidence = f"the benchmark{of} was looked up on {usual.as_of}, more than a year ago"
            yield each.id, "stale benchmark", "warning", evidence, "Look it up again."


def _find_overdue(plan: Plan, on: dt.date) -> Iterator[Finding]:
    for row in list_actions(plan, on=on).table.query("overdue_days > 0").to_dict("records"):
        evidence = f"{row['text']} ({row['owner'] or 'no owner'}) was due on {row['due']:%Y-%m-%d}"
        yield row["conversion"], "overdue action", "warning", evidence, "Do it, move its date, or strike it."


def _find_open(plan: Plan) -> Iterator[Finding]:
    for conversion, field in plan.gaps:
        if field in OPEN_FIELDS:
            severity, advice = OPEN_FIELDS[field]
            yield conversion, f"no {field}", severity, f"`{field}` is not filled in", advice
    for warning in plan.warnings:
        named = re.search(r"macros\[(\w+)\]", warning)
        evidence, _, advice = warning.partition(": ")[2].rstrip(".").rpartition(". ")
        yield named[1] if named else "", "size of a stage", "info", evidence, f"{advice}."


Goal = Macro | Micro | Measure


def _list_holders(each: Macro | Micro | Loss) -> Iterator[tuple[int | None, Goal]]:
    """List what has a target and a benchmark: the conversion, then its further metrics with their places."""
    if not isinstance(each, Loss):
        yield None, each
        yield from enumerate(each.metrics)


def _name_metric(goal: Goal) -> str:
    return "rate" if isinstance(goal, Macro) else str(goal.metric)


def _judge(each: Macro | Micro | Loss, _: int | None, goal: Goal, rates: Rates) -> dict[str, Any]:
    table, target, metric = rates.table, goal.target, _name_metric(goal)
    mine = (table["conversion"] == each.id) & (table["metric"] == metric)
    usable = table[mine & (table["note"] == "") & table["value"].notna()].nlargest(LAST_PERIODS, "period")
    current = target.value if target else np.nan
    pooled = _pool(usable, metric)
    proposed, reason = _propose(usable, pooled, current, goal, f"{PERIODS[rates.every]}s")
    by = pd.Timestamp(target.by) if target and target.by else pd.NaT
    if target and target.per and not np.isnan(proposed):
        reason += "; what `per` says stays"
    end = rates.end.tz_localize(None).normalize()
    moved = _move_on(by, end) if isinstance(by, pd.Timestamp) and by < end else pd.NaT
    return {
        "conversion": each.id,
        "metric": metric,
        "current": current,
        "proposed": proposed,
        "periods": len(usable),
        **dict(zip(("level", "level_ci_lower", "level_ci_upper"), pooled, strict=True)),
        "reason": f"{reason}; its date has passed" if not pd.isna(moved) else reason,
        "by": by,
        "proposed_by": moved,
        "title": goal.name,
    }


def _is_proposed(row: dict[str, Any]) -> bool:
    return not np.isnan(row["proposed"]) or not pd.isna(row["proposed_by"])


def _change(each: Macro | Micro | Loss, place: int | None, goal: Goal, row: dict[str, Any]) -> TargetChange:
    return TargetChange(
        conversion=each.id,
        place=place,
        title=goal.name,
        old=goal.target,
        value=None if np.isnan(row["proposed"]) else row["proposed"],
        by=None if pd.isna(row["proposed_by"]) else row["proposed_by"].date(),
        reason=row["reason"],
    )


def _pool(rows: pd.DataFrame, metric: str) -> tuple[float, float, float]:
    """Give the periods' weighted mean, with the interval that their intervals make (MOVER)."""
    if rows.empty:
        return np.nan, np.nan, np.nan
    value = rows["value"].to_numpy(float)
    sizes = np.ones(len(rows)) if metric.split()[0] == "sum" else rows["exposed"].to_numpy(float)
    weights = sizes / sizes.sum()
    level = float(weights @ value)
    below, above = (weights * (value - rows[end].to_numpy(float)) for end in ("ci_lower", "ci_upper"))
    return level, level - float(np.linalg.norm(below)), level + float(np.linalg.norm(above))


def _propose(
    rows: pd.DataFrame, pooled: tuple[float, float, float], current: float, goal: Goal, periods: str
) -> tuple[float, str]:
    """Give the proposed target, or NaN, and why."""
    if len(rows) < LAST_PERIODS:
        return np.nan, f"{len(rows)} usable {periods}, needs {LAST_PERIODS}"
    level, low, high = pooled
    if level == 0 or not low < high:
        return np.nan, f"the level of the last {LAST_PERIODS} {periods} {'has no interval' if level else 'is 0'}"
    up = goal.direction == "up"
    sign = 1 if up else -1
    value, surest, best = (
        sign * rows[name] for name in ("value", *(("ci_lower", "ci_upper") if up else ("ci_upper", "ci_lower")))
    )
    wanted, last = sign * current, f"the last {LAST_PERIODS} {periods}"
    beyond = float(f"{level + sign * AMBITION * abs(level):.2g}")
    proposed = min(beyond, 1.0) if is_share(_name_metric(goal)) else beyond
    if np.isnan(current):
        above = sign * proposed > sign * level
        return (
            (proposed, f"10% beyond the level of {last}") if above else (np.nan, f"no way beyond the level of {last}")
        )
    met, missed = bool((surest >= wanted).all()), bool((value < wanted).all())
    if met and sign * proposed > wanted:
        return proposed, f"met in each of {last}"
    if missed and best.max() < wanted - AMBITION * abs(wanted) and sign * proposed < wanted:
        return proposed, f"missed in each of {last}, by more than 10% at best"
    if missed:
        return np.nan, f"missed in each of {last}, but near"
    clearly = int((surest >= wanted).sum())
    return np.nan, f"clearly met in {clearly} of {last}"


def _move_on(by: pd.Timestamp, end: pd.Timestamp) -> pd.Timestamp:
    """Give the date some quarters on, the first that is not over; the end of a month stays one."""
    moved = by
    while moved < end:
        moved = moved + pd.DateOffset(months=3)
        moved = moved + pd.offsets.MonthEnd(0) if by.is_month_end else moved
    return moved
