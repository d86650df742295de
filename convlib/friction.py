"""What slows people down on a page, how it is spread, and whether more of their visits end there."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from convlib import plots, stats, strata, takeaways
from convlib.canonical import NO_VALUE
from convlib.columns import read_numbers, read_texts
from convlib.documents import find_wrong_choice, find_wrong_number, word_columns
from convlib.durations import parse_duration
from convlib.engine import compile_rule, quote
from convlib.errors import ParamError, PlanError, list_problems
from convlib.events import EventLog, check_log, list_columns
from convlib.plan import Plan
from convlib.plan_entries import Friction
from convlib.redaction import find_hidden
from convlib.results import Kind, Result
from convlib.strata import Bools, Floats, Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A visit without an event for longer than this is over, as in Google Analytics.
SESSION_GAP = "30min"
#: A visit that meets a number among its page's highest quarter, or that often, has the signal.
WORST = 0.75
PERCENTILES = {"p50": 0.5, "p75": WORST, "p95": 0.95}
LIFT = ("lift", "lift_ci_lower", "lift_ci_upper")
ADJUSTED = tuple(f"adjusted_{name}" for name in LIFT)
EXTRA = ("extra_exits", "extra_exits_ci_lower", "extra_exits_ci_upper")
COLUMNS = {
    **dict.fromkeys(("signal", "page"), "str"),
    "visits": "int64",
    **dict.fromkeys((*PERCENTILES, "threshold"), "float64"),
    **dict.fromkeys(("visits_with", "visits_without", "left_with", "left_without"), "int64"),
    **dict.fromkeys(("leave_rate_with", "leave_rate_without", *LIFT, *ADJUSTED, "p_value", "q_value"), "float64"),
    **dict.fromkeys(EXTRA, "float64"),
    **dict.fromkeys(("verdict", "note"), "str"),
}
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class PageFriction(Result):
    """Each signal of friction on each of the most visited pages, the worst first.

    Attributes:
        adjust: The columns within whose values visits are compared.
        units: For each signal's id, the unit of its numbers; empty for what is counted.
        running: Page visits of sessions that may still go on at the end of the data; they are in no number.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("signal", "Signal", "text"),
        ("page", "Page", "text"),
        ("visits", "Visits", "count"),
        ("p50", "Median", "number"),
        ("p95", "95%", "number"),
        ("threshold", "With it from", "number"),
        ("visits_with", "Visits with it", "count"),
        ("leave_rate_with", "Left with it", "percent"),
        ("leave_rate_without", "Left without", "percent"),
        ("adjusted_lift", "Adjusted lift", "points"),
        ("q_value", "q", "p_value"),
        ("extra_exits", "Exits more", "count"),
        ("verdict", "Verdict", "text"),
        ("note", "Note", "text"),
    )

    adjust: tuple[str, ...]
    units: dict[str, str]
    running: int

    @property
    def named(self) -> pd.DataFrame:
        """Give the table with the signals' names for people in place of their ids."""
        return self.table.assign(signal=self.table["signal"].replace(self.names))

    def plot(self, ax: "Axes | None" = None, *, signal: str | None = None) -> "Axes":
        """Draw one signal's spread on the worst pages, and the visits that end there with and without it.

        Args:
            ax: Where to draw the shares of visits alone; None makes a figure.
            signal: Id of the signal; None is that of the worst page.

        Raises:
            ParamError: There is no such signal.
        """
        if problems := [] if signal is None else find_wrong_choice("signal", signal, self.names):
            raise ParamError(*problems)
        chosen = signal or next(iter([*self.table["signal"], *self.names]))
        rows = self.table[self.table["signal"] == chosen]
        name, unit = self.names[chosen], self.units[chosen]
        return plots.draw_friction(rows, name=name, unit=unit, segment=self.segment, ax=ax)


@dataclasses.dataclass(frozen=True)
class _Visits:
    """The rows of the log in order of user and time, and the pages in visits that they make up, in order of user.

    Attributes:
        event: Each row's number in the log.
        time: Each row's time.
        visit: Each row's page in a visit; -1 where there is none or the visit may go on.
        first: For each page in a visit its first row.
        user: Its user.
        page: Its page's place in `pages`.
        left: 1 where the visit ends there, else 0.
        pages: The pages.
        running: Pages in visits that may go on.
    """

    event: Ints
    time: Ints
    visit: Ints
    first: Ints
    user: Ints
    page: Ints
    left: Floats
    pages: Sequence[str]
    running: int


def measure_friction(
    log: EventLog,
    plan: Plan,
    *,
    adjust: str | Sequence[str] = ("device_type",),
    pages: int = 10,
    min_visits: int = 100,
    confidence: float = stats.CONFIDENCE,
) -> PageFriction:
    """Say which pages are slow, long or faulty, and whether more visits end on them when they are.

    What is counted is a page in a visit, all its views as one. A visit leaves the page when the last event of the visit
    that has a page has this one (an exit). Visits that may still go on (an event in the last 30 minutes of the data)
    are left out and counted. A number (`column`) is that of the page's last view in the visit, the one after which
    people went on or left; a visit has the signal when its number is in the page's highest quarter. Without `column`
    the matching events on the page are counted; a visit has the signal from the first on, and is compared with the
    page's other visits only if another event showed the page by then. A rule that tests `page_path` alone means the
    pages themselves: they are compared with all other pages.

    Args:
        log: The log, seen through a segment and a period in which visits begin.
        plan: The plan, whose `friction` entries are the signals.
        adjust: Columns of the page visit's first event; visits are compared within equal values.
        pages: How many pages are looked at for each signal: the most visited that have it.
        min_visits: Pages with fewer visits are left out.
        confidence: Level of the intervals.

    Returns:
        One row for each signal and page, by `extra_exits`; none if the plan has no `friction`. `visits` whose signal is
        known; the number's (or count's) `p50`, `p75`, `p95`; `threshold`, from which on a visit has the signal; visits
        and those that left on both sides and their rates; `lift`, the difference of the rates; `adjusted_lift`, the
        same within strata of `adjust` (Mantel-Haenszel), both with intervals that hold for users with several visits
        (Newcombe's, for samples that say as much); its `p_value`, and `q_value` over the table (Benjamini and Hochberg
        1995); `extra_exits`, the adjusted lift times the visits with the signal; `verdict` (`leaves more`, `leaves
        less`, `no evidence`, `too few`) and `note`.

    Raises:
        ParamError: A parameter is wrong.
        PlanError: The plan names a column that the log does not have.

    Source: the exit rate of web analytics, exits over visits of the page; Greenland and Robins (1985), Biometrics
        41:55, for the difference within strata.
    """
    adjust = list_columns(adjust)
    _check(log, plan, adjust, pages=pages, min_visits=min_visits, confidence=confidence)
    if not plan.friction:
        return PageFriction(
            table=_judge(pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)),
            takeaways=takeaways.word_no_friction(),
            segment=log.segment_name,
            names={},
            adjust=tuple(adjust),
            units={},
            running=0,
        )
    visits = _find_visits(log)
    alike = stats.number_groups(_read_covariates(log, visits, adjust))
    limits: Row = {"pages": pages, "min_visits": min_visits, "confidence": confidence}
    rows = [
        {"signal": signal.id, **row}
        for signal, counted in zip(plan.friction, _count_signals(log, visits, plan.friction), strict=True)
        for row in _measure_signal(visits, signal, *counted, alike, **limits)
    ]
    table = _judge(_leave_out(pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS), log.fewest))
    names = {signal.id: signal.name for signal in plan.friction}
    units = {signal.id: signal.unit or "" for signal in plan.friction}
    return PageFriction(
        table=table,
        takeaways=takeaways.word_friction(
            table,
            names=names,
            units=units,
            adjust=adjust,
            running=0 if log.fewest else visits.running,
            segment=log.segment_name,
        ),
        segment=log.segment_name,
        names=names,
        adjust=tuple(adjust),
        units=units,
        running=0 if log.fewest else visits.running,
        fewest=log.fewest,
    )


def _leave_out(table: pd.DataFrame, fewest: int) -> pd.DataFrame:
    """Leave out pages that too few users met, or of whose visits few ended there, and percentiles of few visits.

    Where nothing is noted, each side has `FEW_UNITS` users or more.
    """
    if not fewest:
        return table
    sides = [(table[f"visits_{side}"], table[f"left_{side}"]) for side in ("with", "without")]
    cells = np.column_stack([each for visits, left in sides for each in (visits, left, visits - left)])
    hidden = find_hidden(cells, fewest=fewest, families=[table["signal"]]) | (table["note"] != "").to_numpy()
    hidden |= fewest > stats.FEW_UNITS
    kept = table[~hidden].reset_index(drop=True)
    shown = {
        name: kept[name].where(kept["visits"] * min(part, 1 - part) >= fewest) for name, part in PERCENTILES.items()
    }
    return kept.assign(**shown)


def _check(
    log: EventLog, plan: Plan, adjust: list[str], *, pages: object, min_visits: object, confidence: float
) -> None:
    check_log(log)
    checks = [
        lambda: log.check_plan(plan),
        lambda: log.check_breakdown(adjust),
        lambda: stats.check_confidence(confidence),
    ]
    problems = list_problems(*checks)
    for name, value in (("pages", pages), ("min_visits", min_visits)):
        problems += find_wrong_number(name, value, least=1)
    if problems:
        raise ParamError(*problems)
    unknown = [
        f"{plan.locate(signal.id, 'match')}: `{signal.id}` reads the column `{column}`, which the log does not "
        f"have.{word_columns(column, log.filled_columns)}"
        for signal in plan.friction
        for column in sorted(signal.columns - set(log.columns))
    ]
    if unknown:
        raise PlanError(*unknown)


def _find_visits(log: EventLog) -> _Visits:
    """Put the rows together to pages in visits; rows without a page only tell when a visit ends."""
    path = log.prepared.find("events.parquet", log.plan)
    codes, names = read_texts(path, "page_path")
    event = np.sort(log.rows().project("event").fetchnumpy()["event"]) if log.is_filtered else np.arange(len(codes))
    time, session = (read_numbers(path, name)[event].astype(np.int64) for name in ("time", "session"))
    page, none = codes[event].astype(np.int64), names.index[names == NO_VALUE]
    in_visit, sessions = session >= 0, int(session.max(initial=-1)) + 1
    rows = np.flatnonzero(in_visit & ~np.isin(page, none))
    # Of several values given to one place the last stays, here the latest.
    until, end = np.full((2, sessions), -1)
    until[session[in_visit]], end[session[rows]] = time[in_visit], rows
    entered = np.zeros(sessions, bool)
    entered[log.entries(unit="session").index] = True
    rows = rows[entered[session[rows]]]
    key = session[rows] * max(1, len(names)) + page[rows]
    order = np.argsort(key, kind="stable")
    begin = np.flatnonzero(np.diff(key[order], prepend=-1))
    size = np.diff(begin, append=len(rows))
    first, last = rows[order[begin]], rows[order[begin + size - 1]]
    runs = until[session[first]] >= log.last.value // 1_000 - parse_duration(SESSION_GAP)
    visit = np.full(len(event), -1)
    visit[rows[order]] = np.repeat(np.where(runs, -1, np.cumsum(~runs) - 1), size)
    first, last = first[~runs], last[~runs]
    user = read_numbers(path, "user")[event[first]].astype(np.int64)
    left = (last == end[session[first]]).astype(np.float64)
    return _Visits(event, time, visit, first, user, page[first], left, list(names), int(runs.sum()))


def _read_covariates(log: EventLog, visits: _Visits, columns: Sequence[str]) -> pd.DataFrame:
    """Give the values of columns at the first row of each page in a visit, as numbers."""
    path, place = log.prepared.find("events.parquet", log.plan), visits.event[visits.first]
    return pd.DataFrame({name: read_texts(path, name)[0][place] for name in columns}, index=range(len(place)))


def _count_signals(log: EventLog, visits: _Visits, signals: Sequence[Friction]) -> list[tuple[Floats, Bools]]:
    """Give each signal's number or count for each page in a visit, and whether it can be judged there."""
    rows = log.rows()
    marks = [compile_rule(signal.match).alias(f"convlib {i}") for i, signal in enumerate(signals)]
    numbers = [
        f'{f"to_number({quote(signal.column)})" if signal.column else "1"} AS "number {i}"'
        for i, signal in enumerate(signals)
    ]
    names = [quote(f"convlib {i}") for i in range(len(signals))]
    marked = rows.select(*rows.columns, *marks).filter(" OR ".join(names))
    wanted = [f'coalesce({name}, FALSE) AS "is {i}"' for i, name in enumerate(names)]
    found = marked.project(", ".join(["event", *wanted, *numbers])).fetchnumpy()
    order = np.argsort(found["event"], kind="stable")
    place = np.searchsorted(visits.event, found["event"][order])
    counted = []
    for i, signal in enumerate(signals):
        number = np.ma.filled(np.ma.asarray(found[f"number {i}"], np.float64)[order], np.nan)
        is_it = found[f"is {i}"][order] & (visits.visit[place] >= 0) & ~np.isnan(number)
        counted.append(_count_signal(visits, signal, place[is_it], number[is_it]))
    return counted


def _count_signal(visits: _Visits, signal: Friction, rows: Ints, numbers: Floats) -> tuple[Floats, Bools]:
    size = len(visits.first)
    if signal.column:
        last = np.full(size, np.nan)
        last[visits.visit[rows]] = numbers
        return last, ~np.isnan(last)
    count = np.bincount(visits.visit[rows], minlength=size).astype(np.float64)
    if _means_pages(signal):
        return count, np.ones(size, bool)
    is_other = visits.visit >= 0
    is_other[rows] = False
    seen, hit = np.full((2, size), np.iinfo(np.int64).max)
    for first, some in ((seen, np.flatnonzero(is_other)), (hit, rows)):
        first[visits.visit[some[::-1]]] = visits.time[some[::-1]]
    return count, seen <= hit


def _means_pages(signal: Friction) -> bool:
    return signal.column is None and signal.match.columns == {"page_path"}


def _measure_signal(
    visits: _Visits,
    signal: Friction,
    count: Floats,
    known: Bools,
    alike: Ints,
    *,
    pages: int,
    min_visits: int,
    confidence: float,
) -> Iterator[Row]:
    has_it = known if signal.column else count > 0
    totals = np.bincount(visits.page[known], minlength=len(visits.pages))
    totals[np.bincount(visits.page[has_it], minlength=len(visits.pages)) == 0] = 0
    for page in np.argsort(-totals, kind="stable")[:pages]:
        if totals[page] < min_visits:
            return
        is_here = visits.page == page
        values = count[is_here & known]
        threshold = _find_threshold(values) if signal.column else 1.0
        sample = np.flatnonzero(is_here | (count == 0) if _means_pages(signal) else is_here & known)
        spread = dict(zip(PERCENTILES, np.quantile(values, list(PERCENTILES.values())), strict=True))
        exposed, left = count[sample] >= threshold, visits.left[sample]
        row = _compare(exposed, left, alike[sample], visits.user[sample], confidence=confidence)
        row["note"] = "every visit has the same number" if np.isnan(threshold) else row["note"]
        unseen = int((is_here & has_it & ~known).sum())
        if unseen:
            row["note"] = "; ".join(filter(None, [row["note"], f"{unseen:,} with it left out: no event before it"]))
        yield {"page": visits.pages[page], "visits": len(values), **spread, "threshold": threshold, **row}


def _find_threshold(values: Floats) -> float:
    """Give from which number on a visit is among the highest quarter; NaN when all have the same.

    Where three quarters or more share the lowest number, that is the next one.
    """
    high, least = np.quantile(values, WORST), values.min()
    among = values[values >= high] if high > least else values[values > least]
    return float(among.min()) if len(among) else np.nan


def _compare(exposed: Bools, left: Floats, stratum: Ints, user: Ints, *, confidence: float) -> Row:
    """Compare the visits on both sides, raw and within strata, as far as their number allows."""
    whole = np.zeros(len(exposed), np.int64)
    users = strata.count_sides(exposed, left > 0, user, whole, 1)[:2, 0]
    size = np.array([exposed.sum(), (~exposed).sum()])
    exits = np.array([left[exposed].sum(), left[~exposed].sum()])
    rates = np.where(users < stats.FEW_UNITS, np.nan, stats.divide(exits, size))
    row: Row = dict(zip(("visits_with", "visits_without", "left_with", "left_without"), [*size, *exits], strict=True))
    row |= {"leave_rate_with": rates[0], "leave_rate_without": rates[1], "verdict": "too few"}
    row |= dict.fromkeys((*LIFT, *ADJUSTED, "p_value", *EXTRA), np.nan)
    row["note"] = _find_lack(users, size, exits)
    if row["note"]:
        return row
    numbers: list[float] = []
    for each in (whole, stratum):
        cells = strata.tabulate(exposed, left, each, int(each.max()) + 1)
        lift, error = (float(found[0]) for found in strata.compare(cells, exposed, left, each, user))
        sides = strata.find_sides(cells, error)
        numbers += [lift, *stats.newcombe_interval(*sides, confidence=confidence)]
    if np.isnan(lift):
        return row | {"note": "no visits with and without it are alike in what is adjusted for"}
    p_value = float(stats.compare_normal(lift, error)) if error > 0 else strata.judge_none(cells)
    extra = dict(zip(EXTRA, size[0] * np.array(numbers[3:]), strict=True))
    return row | dict(zip((*LIFT, *ADJUSTED), numbers, strict=True)) | extra | {"p_value": p_value, "verdict": ""}


def _find_lack(users: Ints, visits: Ints, left: Floats) -> str:
    """Say what is too little for a comparison; empty when nothing is."""
    if not visits.all():
        return "every visit has it" if visits[0] else "no visit has it"
    for count, side in zip(users, ("with", "without"), strict=True):
        if count < stats.FEW_UNITS:
            return f"{count:,} users {side} it, needs {stats.FEW_UNITS}"
    expected = float(stats.smallest_expected(left[:1], visits[:1], left[1:], visits[1:])[0])
    if expected < stats.FEW_EXPECTED:
        which = "leave" if 2 * left.sum() <= visits.sum() else "stay"
        return f"{expected:.1f} visits with or without it would {which} by chance, needs {stats.FEW_EXPECTED}"
    return ""


def _judge(table: pd.DataFrame) -> pd.DataFrame:
    """Control the false discoveries, give the verdicts, and put the pages with most exits first."""
    q = stats.control_false_discoveries(table["p_value"])
    direction = np.where(table["adjusted_lift"] > 0, "leaves more", "leaves less")
    verdict = np.where(q < stats.SIGNIFICANCE, direction, "no evidence")
    verdict = np.where(table["verdict"] == "", verdict, table["verdict"])
    judged = table.assign(q_value=q, verdict=pd.Series(verdict, index=table.index, dtype="str"))
    return judged.sort_values("extra_exits", ascending=False, kind="stable", ignore_index=True)
