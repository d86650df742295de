"""What keeps a plan true: owners' actions, targets that follow what was reached, and what has gone stale."""

import copy
import dataclasses
import datetime as dt
import difflib
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import yaml

from convlib import plots, takeaways
from convlib.documents import Document, FieldPath, read_document
from convlib.errors import ParamError, PlanError
from convlib.periods import PERIODS
from convlib.plan import Plan, list_ids, read_plan
from convlib.plan_entries import Loss, Macro, Measure, Micro, is_share
from convlib.reports.files import write_text
from convlib.results import Kind, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from convlib.correlation import Correlation
    from convlib.rates import Rates

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
SEVERITIES = ("critical", "warning", "info")
#: Fields that every entry should have: how bad it is when one is open, and what to do.
OPEN_FIELDS = {
    "owner": ("warning", "Name who acts when it falls."),
    "target": ("info", "Set one, or take what the monthly recalibration proposes."),
    "benchmark": ("info", "Look up what is usual elsewhere."),
    "effort": ("info", "Let its owner estimate it, so that opportunities can be set against it."),
}
#: Metrics that only those who did the conversion are exposed to, unless `over` names somebody else.
OF_DOERS = ("follow_up", "abandonment", "return_rate", "churn")
#: What an earlier proposal wrote at the end of a line, and nobody else would.
FORMER_COMMENT = re.compile(
    r"\s*[;#]\s*(?:was (?:by [-\d]{10}|[-+.\de]+(?: by [-\d]{10})?): |proposed: \d+% beyond the level ).*$"
)


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
        path: The plan's file.
        diff: The change to the file as a unified diff for `patch -p1` or `git apply`; empty without proposals.
        by_hand: Proposals that have no line of their own in the file, in words.
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

    path: str
    diff: str
    by_hand: tuple[str, ...]
    before: str = dataclasses.field(repr=False)
    after: str = dataclasses.field(repr=False)

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
        file = Path(self.path).resolve()
        if _read_text(file, shown=self.path) != self.before:
            raise PlanError(f"{self.path} has changed since the proposals were made. Make them again.")
        if not os.access(file, os.W_OK):
            raise PlanError(f"{self.path} can't be written: it is read-only. Apply the diff where it can be.")
        mode = file.stat().st_mode
        try:
            write_text(file, self.after)
            file.chmod(mode)
        except OSError as problem:
            raise PlanError(f"{self.path} can't be written: {problem.strerror}.") from None


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
    """
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


def recalibrate(rates: "Rates", plan: Plan) -> Recalibration:
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
        ParamError: The rates are of a segment or broken down.
        PlanError: The plan's file has changed since it was read, or a target is shared by a YAML anchor.
    """
    if rates.by or rates.segment != "all":
        what = f"broken down by {', '.join(rates.by)}" if rates.by else f"of the segment {rates.segment!r}"
        raise ParamError(f"`rates` are {what}; a target is for all units. Measure the rates of all, without `by`.")
    text = _read_text(Path(plan.path), shown=plan.path)
    if read_plan(plan.path).digest != plan.digest:
        raise PlanError(f"{plan.path} has changed since it was read. Read it again.")
    document = read_document(plan.path)
    goals = list(_list_goals(plan, document.data))
    judged = [_judge(goal, rates) for goal in goals]
    table = pd.DataFrame(judged, columns=list(PROPOSAL_COLUMNS)).astype(PROPOSAL_COLUMNS)
    after, by_hand = _PlanFile(document, text).change(zip(goals, judged, strict=True))
    return Recalibration(
        table=table,
        takeaways=takeaways.word_recalibration(table, every=PERIODS[rates.every], needed=LAST_PERIODS),
        segment=rates.segment,
        names=_name(plan),
        path=plan.path,
        diff=_compare(text, after, plan.path),
        by_hand=tuple(by_hand),
        before=text,
        after=after,
    )


def review_plan(
    plan: Plan, *, rates: "Rates | None" = None, correlation: "Correlation | None" = None, on: dt.date
) -> PlanReview:
    """Say what in a plan has gone stale, was never filled in, or no longer earns its place.

    Args:
        plan: The plan to check.
        rates: Tells which micros never fire; None leaves that out.
        correlation: Tells which micros show no association, and which are preconditions; None leaves that out.
        on: The day to judge dates by, such as the end of the data.

    Returns:
        One row a finding, worst first: `severity` is `critical`, `warning` or `info`.
    """
    found = [
        *(_find_silent(rates.table) if rates is not None else []),
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


def _find_silent(rates: pd.DataFrame) -> Iterator[Finding]:
    micros = rates[rates["tier"] == "micro"]
    of_doers = micros["metric"].str.split().str[0].isin(OF_DOERS) & ~micros["metric"].str.contains(" over ")
    fired = micros["units"].where(~of_doers, micros["exposed"])
    for micro, rows in micros.assign(fired=fired).groupby("conversion", sort=False):
        if not rows["fired"].sum():
            most, periods = int(rows.groupby("metric")["exposed"].sum().max()), rows["period"].nunique()
            evidence = f"none of {most:,} units did it in {periods} period{'s' if periods != 1 else ''}"
            advice = "Check its rule and its tracking; drop it when nobody can do it any more."
            yield str(micro), "never fires", "critical", evidence, advice


def _find_verdicts(correlation: "Correlation") -> Iterator[Finding]:
    for _, row in correlation.table.iterrows():
        if row["verdict"] == "no evidence":
            evidence = takeaways.word_no_association(row, in_value=correlation.target == "value")
            advice = "Ask whether it should stay in the plan: test it, or make room for another."
            yield row["micro"], "no association left", "warning", evidence, advice
        if row["verdict"] == "precondition":
            advice = "It is no lever: keep it as a step of the funnel, and give its effort to others."
            yield row["micro"], "precondition", "info", str(row["note"]), advice


def _find_dates(plan: Plan, on: pd.Timestamp) -> Iterator[Finding]:
    for each, holder in _list_holders(plan):
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


def _list_holders(plan: Plan) -> Iterator[tuple[Macro | Micro, Macro | Micro | Measure]]:
    """List what has a target and a benchmark: each conversion, then its further metrics."""
    for each in plan.conversions:
        if not isinstance(each, Loss):
            yield each, each
            yield from ((each, measure) for measure in each.metrics)


@dataclasses.dataclass(frozen=True)
class _Goal:
    """Something that has a target or could have one, with its place in the plan's file."""

    conversion: str
    holder: Macro | Micro | Measure
    where: FieldPath

    @property
    def metric(self) -> str:
        return "rate" if isinstance(self.holder, Macro) else str(self.holder.metric)


def _list_goals(plan: Plan, data: Any) -> Iterator[_Goal]:
    places = {name: where[:-1] for where, name in list_ids(data)}
    for each, holder in _list_holders(plan):
        own = holder is each
        number = 0 if own else next(i for i, measure in enumerate(each.metrics) if measure is holder)
        yield _Goal(each.id, holder, places[each.id] if own else (*places[each.id], "metrics", number))


def _judge(goal: _Goal, rates: "Rates") -> dict[str, Any]:
    table, target = rates.table, goal.holder.target
    mine = (table["conversion"] == goal.conversion) & (table["metric"] == goal.metric)
    usable = table[mine & (table["note"] == "") & table["value"].notna()].nlargest(LAST_PERIODS, "period")
    current = target.value if target else np.nan
    level, low, high = _pool(usable, goal.metric)
    proposed, reason = _propose(usable, level, current, goal, f"{PERIODS[rates.every]}s")
    by = pd.Timestamp(target.by) if target and target.by else pd.NaT
    if target and target.per and not np.isnan(proposed):
        reason += "; what `per` says stays"
    end = rates.end.tz_localize(None).normalize()
    moved = _move_on(by, end) if isinstance(by, pd.Timestamp) and by < end else pd.NaT
    return {
        "conversion": goal.conversion,
        "metric": goal.metric,
        "current": current,
        "proposed": proposed,
        "periods": len(usable),
        "level": level,
        "level_ci_lower": low,
        "level_ci_upper": high,
        "reason": f"{reason}; its date has passed" if not pd.isna(moved) else reason,
        "by": by,
        "proposed_by": moved,
        "title": goal.holder.name,
    }


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


def _propose(rows: pd.DataFrame, level: float, current: float, goal: _Goal, periods: str) -> tuple[float, str]:
    """Give the proposed target, or NaN, and why."""
    if len(rows) < LAST_PERIODS:
        return np.nan, f"{len(rows)} usable {periods}, needs {LAST_PERIODS}"
    up = goal.holder.direction == "up"
    sign = 1 if up else -1
    value, surest, best = (
        sign * rows[name] for name in ("value", *(("ci_lower", "ci_upper") if up else ("ci_upper", "ci_lower")))
    )
    wanted, last = sign * current, f"the last {LAST_PERIODS} {periods}"
    beyond = float(f"{level + sign * AMBITION * abs(level):.2g}")
    proposed = min(beyond, 1.0) if is_share(goal.metric) else beyond
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


class _PlanFile:
    """A plan's text, in which single values can be changed and all else stays."""

    def __init__(self, document: Document, text: str) -> None:
        self.document, self.text = document, text
        self.root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
        self.shared = _find_shared(self.root)
        self.tokens = [
            token
            for token in yaml.scan(text, Loader=yaml.SafeLoader)
            if token.end_mark.index > token.start_mark.index and not isinstance(token, yaml.BlockEndToken)
        ]
        self.data = copy.deepcopy(document.data)
        self.edits: list[tuple[int, int, int, str]] = []  # start, order at one start, end, new text
        self.comments: dict[int, list[str]] = {}
        self.problems: list[str] = []
        self.by_hand: list[str] = []

    def change(self, judged: Iterable[tuple[_Goal, dict[str, Any]]]) -> tuple[str, list[str]]:
        """Give the text with what was proposed, and what has to be added by hand."""
        for goal, row in judged:
            if not np.isnan(row["proposed"]) or not pd.isna(row["proposed_by"]):
                self._change_target(goal, row)
        if self.problems:
            raise PlanError(*self.problems)
        after = self._apply()
        self._check(after)
        return after, self.by_hand

    def _change_target(self, goal: _Goal, row: dict[str, Any]) -> None:
        where: FieldPath = (*goal.where, "target")
        number, day = f"{row['proposed']:.15g}", str(row["proposed_by"])[:10]
        if np.isnan(row["current"]):
            self._add_target(goal, number, row, present=len(self._find(where)) > len(where))
            return
        given = isinstance(self._find(where)[-1], yaml.MappingNode)
        changes: list[tuple[FieldPath, str, object]] = []
        if not np.isnan(row["proposed"]):
            changes.append(((*where, "value") if given else where, number, row["proposed"]))
        if not pd.isna(row["proposed_by"]):
            changes.append(((*where, "by"), day, day))
        if [self._replace(*change) for change in changes].count(True) < len(changes):
            return
        was = [] if np.isnan(row["proposed"]) else [f"{row['current']:g}"]
        was += [] if pd.isna(row["proposed_by"]) else [f"by {row['by']:%Y-%m-%d}"]
        self._comment(self._line(changes[0][0]), f"was {' '.join(was)}: {row['reason']}")

    def _add_target(self, goal: _Goal, number: str, row: dict[str, Any], *, present: bool) -> None:
        """Write a target where none was: in its empty field, or as a new line in its entry."""
        where: FieldPath = (*goal.where, "target")
        comment = f"proposed: {row['reason']}"
        if present:
            if self._replace(where, number, row["proposed"]):
                self._comment(self._line(where), comment)
            return
        nodes = self._find(goal.where)
        entry = nodes[-1]
        fields = [] if entry.flow_style else [pair for pair in entry.value if _is_one_line(*pair)]
        if not fields:
            place = self.document.locate(goal.where)
            name = self.document.name(goal.where)
            self.by_hand.append(f"{place}: add `target: {number}` to {name}  # {comment}")
        elif self._check_shared(nodes, where):
            key, value = fields[-1]
            end = self._line_end(value.end_mark.index)
            newline = "\r\n" if "\r\n" in self.text else "\n"
            self.edits.append((end, 2, end, f"{newline}{' ' * key.start_mark.column}target: {number}  # {comment}"))
            _put(self.data, where, row["proposed"])

    def _find(self, where: FieldPath) -> list[Any]:
        """List the nodes from the top of the file down to a field, or to the nearest one that holds it."""
        nodes: list[Any] = [self.root]
        for part in where:
            node = nodes[-1]
            if isinstance(node, yaml.MappingNode):
                found = [value for key, value in node.value if key.value == part]
            else:
                found = [node.value[part]] if isinstance(node, yaml.SequenceNode) and isinstance(part, int) else []
            if not found:
                break
            nodes.append(found[0])
        return nodes

    def _line(self, where: FieldPath) -> int:
        return int(self._find(where)[-1].start_mark.line)

    def _check_shared(self, nodes: list[Any], where: FieldPath) -> bool:
        free = self.shared.isdisjoint(map(id, nodes))
        if not free:
            text = "stands under a YAML anchor that is used elsewhere too; changing it would change both. Write it out."
            self.problems.append(self.document.problem(where, text))
        return free

    def _replace(self, where: FieldPath, text: str, value: object) -> bool:
        nodes = self._find(where)
        node = nodes[-1]
        start, end, quote = node.start_mark.index, node.end_mark.index, node.style or ""
        if not self._check_shared(nodes, where):
            return False
        if self.text[start:end] != f"{quote}{node.value}{quote}":
            text = "is written with a YAML anchor or tag, so it can't be changed safely. Write the plain value."
            self.problems.append(self.document.problem(where, text))
            return False
        space = " " if start == end else ""
        self.edits.append((start, 0, end, f"{space}{quote}{text}{quote}"))
        _put(self.data, where, value)
        return True

    def _comment(self, line: int, text: str) -> None:
        self.comments.setdefault(line, []).append(text)

    def _line_end(self, index: int) -> int:
        end = self.text.find("\n", index)
        end = len(self.text) if end < 0 else end
        return end - 1 if self.text[end - 1 : end] == "\r" else end

    def _add_comment(self, line: int, texts: list[str]) -> None:
        """Put the reasons at the end of a line, after its own comment, in place of what an earlier proposal said."""
        touching = [token for token in self.tokens if token.start_mark.line <= line <= token.end_mark.line]
        if any(token.end_mark.line > line for token in touching):
            return  # a text goes on in the next line: a comment would become part of it
        start = max(token.end_mark.index for token in touching)
        end = self._line_end(start)
        kept = FORMER_COMMENT.sub("", self.text[start:end]).rstrip()
        joint = f"{kept}; " if kept else "  # "
        self.edits.append((start, 1, end, joint + "; ".join(texts)))

    def _apply(self) -> str:
        for line, texts in self.comments.items():
            self._add_comment(line, texts)
        parts, place = [], 0
        for start, _, end, text in sorted(self.edits):
            parts += [self.text[place:start], text]
            place = end
        return "".join([*parts, self.text[place:]])

    def _check(self, after: str) -> None:
        """Make sure that the new text is a plan, and the old one but for what was proposed."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "plan.yaml")
            write_text(file, after)
            read_plan(file)
            same = read_document(file).data == self.data
        if not same:
            msg = f"{self.document.path}: its layout does not allow changing targets in place. Change them by hand."
            raise PlanError(msg)


def _find_shared(root: Any) -> set[int]:
    """Find the nodes that an anchor puts in more than one place."""
    seen: set[int] = set()
    shared: set[int] = set()
    left = [root]
    while left:
        node = left.pop()
        if id(node) in seen:
            shared.add(id(node))
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            left += [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value
    return shared


def _is_one_line(key: yaml.Node, value: yaml.Node) -> bool:
    return bool(key.start_mark.line == value.start_mark.line == value.end_mark.line)


def _put(data: Any, where: FieldPath, value: object) -> None:
    for part in where[:-1]:
        data = data[part]
    data[where[-1]] = value


def _read_text(file: Path, *, shown: str) -> str:
    """Read a file with its line ends as they are."""
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise PlanError(f"{shown} can't be read: {problem}.") from None


def _compare(before: str, after: str, path: str) -> str:
    """Write a diff for `patch -p1` and `git apply`, from the folder that the path starts at."""
    relative = Path(os.path.relpath(path))
    name = relative.name if ".." in relative.parts else relative.as_posix()
    lines = difflib.unified_diff(_split_lines(before), _split_lines(after), f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _split_lines(text: str) -> list[str]:
    return list(io.StringIO(text, newline="\n"))
