"""Which ways units take between conversions: transitions, whole paths, and what those that convert do otherwise."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from convlib import plots, stats, takeaways
from convlib.conversions import Ints, microseconds
from convlib.documents import find_wrong_choice, find_wrong_number
from convlib.durations import parse_duration
from convlib.errors import ParamError, list_problems
from convlib.events import EventLog, Unit, check_log
from convlib.plan_entries import Conversion, Loss, Macro
from convlib.redaction import check_shared
from convlib.results import Kind, Result, Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "source",
    "target",
    "units",
    "transitions",
    "share_of_source",
    "share_of_source_ci_lower",
    "share_of_source_ci_upper",
    "median_seconds",
    "converted_units",
    "lost_units",
    "share_converted",
    "share_lost",
    "difference",
    "difference_ci_lower",
    "difference_ci_upper",
    "q_value",
    "note",
)
PATH_COLUMNS = (
    "path",
    "units",
    "share",
    "share_ci_lower",
    "share_ci_upper",
    "converted",
    "conversion_rate",
    "conversion_rate_ci_lower",
    "conversion_rate_ci_upper",
    "note",
)
Events = Literal["conversions", "all"]
#: Nodes that are no conversion, numbered after them: before the first one, after the last one, cut by `steps`.
MARKERS = START, END, MORE = "(start)", "(end)", "(more)"
ARROW = " → "
NOTHING, OTHER = "(no conversion)", "(other paths)"
#: So many whole paths are listed; the rest are counted together.
MOST_PATHS = 50
MOST_STEPS = 100
Bools = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Paths(Result):
    """The transitions between conversions, and the paths they make up.

    Attributes:
        macro: What a unit has to reach to be converted.
        start: What the paths start with; None starts them with the unit's entry.
        end: What the paths end with; None ends them with the macro.
        window: How long a path is followed; backwards when `end` is given alone.
        steps: How many conversions of a path are looked at.
        units: Units whose window is over: those in every share.
        pending: Units whose window is not over.
        converted: How many of `units` reached the macro.
        paths: The most common whole paths: `path`, `units`, `share`, `converted`, `conversion_rate` (both with their
            intervals), `note`; the last row counts the paths that are not listed.
        nodes: One row for each conversion: `conversion`, `units`, `visits` and `events`: a visit is one conversion, or
            with `collapse_loops` all of a kind in a row.
        flow: Units between two nodes at each place of a path: `place` of the target (1 is the first conversion of the
            path; backwards 0 is the end, -1 what comes before it), `source`, `target`, `units`, `converted`.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("source", "From", "text"),
        ("target", "To", "text"),
        ("units", "Units", "count"),
        ("share_of_source", "Of those at the source", "percent"),
        ("median_seconds", "Median time", "seconds"),
        ("share_converted", "Of the converted", "percent"),
        ("share_lost", "Of the lost", "percent"),
        ("difference", "Difference", "points"),
        ("q_value", "q", "p_value"),
        ("note", "Note", "text"),
    )

    macro: str
    start: str | None
    end: str | None
    window: str
    steps: int
    units: int
    pending: int
    converted: int
    paths: pd.DataFrame
    nodes: pd.DataFrame
    flow: pd.DataFrame

    @property
    def named(self) -> pd.DataFrame:
        """Give the table with names for people in place of the conversions' ids."""
        return self._name(self.table)

    def show_paths(self) -> Shown:
        """Show the most common whole paths."""
        columns: tuple[tuple[str, str, Kind], ...] = (
            ("path", "Path", "text"),
            ("units", "Units", "count"),
            ("share", "Of all units", "percent"),
            ("converted", "Converted", "count"),
            ("conversion_rate", "Conversion rate", "percent"),
            ("note", "Note", "text"),
        )
        return Shown(_name_paths(self.paths, self.names), columns)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the flow of units from place to place of their paths, the converted apart from the lost."""
        # What a path was traced to ends it well: drawn on, it would look like leaving.
        done = (self.flow["source"] == (self.end or self.macro)) & (self.flow["target"] == END)
        back = (self.start == (self.end or self.macro)) & (self.flow["place"] == 2)
        return plots.draw_flow(
            self._name(self.flow[~done | back]),
            macro=self.names[self.macro],
            window=takeaways.word_duration(self.window),
            backwards=bool(self.end and not self.start),
            segment=self.segment,
            ax=ax,
        )

    def _name(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(source=table["source"].replace(self.names), target=table["target"].replace(self.names))


def trace_paths(
    log: EventLog,
    *,
    start: str | None = None,
    end: str | None = None,
    macro: str | None = None,
    window: str = "7D",
    steps: int = 10,
    collapse_loops: bool = True,
    events: Events = "conversions",
    unit: Unit = "user",
    confidence: float = stats.CONFIDENCE,
) -> Paths:
    """Say which ways units take between conversions, and which ways those that convert take more often.

    A path is a unit's conversions in order of time, from its entry (or its first `start`) until it reaches `end` (by
    default the macro) or `window` is over, both ends counted. With `end` alone the path is what came within `window`
    before the unit's first `end` in the period. At one instant `start` comes first, then micros in the plan's order,
    other events, losses and macros.

    Args:
        log: The log, seen through a segment and a period of entries; read with a plan.
        start: Conversion or event that paths start with.
        end: Conversion or event that paths end with.
        macro: What a unit has to reach within the window to be converted; None is the plan's first macro.
        window: How long a path is followed, such as `7D`.
        steps: How many conversions of a path are looked at, nearest to `start` (or to `end` alone): 1 to 100.
        collapse_loops: Take the same conversion several times in a row as one visit.
        events: `conversions` of the plan, or `all`: also the events that fire with none.
        unit: What is counted.
        confidence: Level of the intervals.

    Returns:
        One row a transition, the most frequent first. `units` made it, `transitions` times; `share_of_source` of the
        units that were at the source (Wilson); `median_seconds` from reaching the source to reaching the target.
        `share_converted` of the converted units at the source made it, `share_lost` of the lost ones; their
        `difference` has Newcombe's interval, and `q_value` tests it (two-sample z-test, false discoveries controlled:
        Benjamini and Hochberg 1995), where both sides have 30 units at the source.

    Raises:
        ParamError: The log was read without a plan, or a parameter is wrong; all problems are listed.
    """
    check_log(log)
    check_shared(log.fewest, "Paths are often those of single units")
    goal = _check(log, (start, end), macro, window=window, steps=steps, events=events, confidence=confidence)
    stop, entries = end or goal.id, log.entries(unit=unit, entry=start or end)
    rows, nodes = _fetch(log, entries.index.to_numpy(np.int64), unit, ends=(start, end), events=events)
    watch = _watch(entries["time"].to_numpy(np.int64), parse_duration(window, name="window"), start, end, goal.id)
    pending = (watch.low < microseconds(log.first)) | (watch.until > microseconds(log.last))
    rows, units = rows[~pending[rows["unit"]]], np.flatnonzero(~pending)
    # What a path starts with is not what it has to reach, also when both are the same conversion.
    converted = _count_hits(rows, watch, nodes.index(goal.id)) > (start == goal.id)
    visits = _find_visits(rows, watch, nodes.index(stop), again=start == stop, collapse=collapse_loops)
    trail = _cut(visits, len(entries), steps, backwards=watch.backwards)
    edges, known = _join(trail, units, watch, len(nodes)), np.array([*nodes, *MARKERS], dtype=object)
    only = () if watch.backwards else (goal.id, END) if stop == goal.id else (goal.id,)
    table = _compare(_count_transitions(edges, converted, known, confidence), only, confidence)
    paths = _count_paths(trail, units, converted, known, confidence)
    names = {name: log.plan[name].name if log.plan and name in log.plan else name for name in nodes}
    counts = {"units": len(units), "pending": int(pending.sum()), "converted": int(converted[units].sum())}
    return Paths(
        table=table,
        takeaways=takeaways.word_paths(
            table.replace({"source": names, "target": names}),
            _name_paths(paths, names),
            macro=names[goal.id],
            start=names.get(start or ""),
            end=names.get(end or ""),
            window=window,
            counts=counts,
            segment=log.segment_name,
        ),
        segment=log.segment_name,
        names=names,
        macro=goal.id,
        start=start,
        end=end,
        window=window,
        steps=steps,
        **counts,
        paths=paths,
        nodes=_count_nodes(trail.rows, known),
        flow=_count_flow(edges, converted, known),
    )


@dataclasses.dataclass(frozen=True)
class _Watch:
    """How each unit is watched, in microseconds: its path lies from `low` to `high`, its outcome from `origin` on."""

    origin: Ints
    low: Ints
    high: Ints
    until: Ints
    backwards: bool


@dataclasses.dataclass(frozen=True)
class _Trail:
    """The visits of the paths in order, how many each unit has, and whose are cut by `steps`."""

    rows: pd.DataFrame
    counts: Ints
    cut: Bools
    backwards: bool

    @property
    def place(self) -> Ints:
        """Give each visit's place in its unit's path, from 0."""
        firsts = np.cumsum(self.counts) - self.counts
        return np.arange(len(self.rows)) - firsts[self.rows["unit"]]


def _watch(origin: Ints, length: int, start: str | None, end: str | None, goal: str) -> _Watch:
    if start or not end:
        return _Watch(origin, origin, origin + length, origin + length, backwards=False)
    # Paths to the macro have their outcome already; those to another conversion wait for it.
    return _Watch(origin, origin - length, origin, origin if end == goal else origin + length, backwards=True)


def _check(
    log: EventLog,
    ends: Sequence[str | None],
    macro: str | None,
    *,
    window: str,
    steps: int,
    events: str,
    confidence: float,
) -> Macro:
    """Find the macro, and refuse what can't be traced, every problem at once."""
    if log.plan is None:
        msg = "The log was read without a plan, so it has no conversions. Use read_events(..., plan=plan)."
        raise ParamError(msg)
    plan = log.plan
    name = macro or log.plan.macros[0].id
    problems = list_problems(
        *(lambda end=end: log.stream(end) for end in ends if end is not None),
        lambda: plan.find_macro(name),
        lambda: parse_duration(window, name="window"),
        lambda: stats.check_confidence(confidence),
    )
    problems += find_wrong_number("steps", steps, least=1, most=MOST_STEPS)
    problems += find_wrong_choice("events", events, get_args(Events))
    if problems:
        raise ParamError(*dict.fromkeys(problems))
    return plan.find_macro(name)


def _fetch(
    log: EventLog, codes: Ints, unit: Unit, *, ends: Sequence[str | None], events: Events
) -> tuple[pd.DataFrame, list[str]]:
    """Fetch the rows of some units as `unit` (its position), `time`, `code`, in order, with the name of each code."""
    planned = log.plan.conversions if log.plan else ()
    ids = [each.id for each in planned]
    known = f"{unit} AS unit, epoch_us(timestamp) AS time, event"
    extra = [name for name in dict.fromkeys(ends) if name and name not in ids]
    parts = [log.rows("conversions").project(f"{known}, conversion AS name")]
    parts += [log.stream(name).project(f"{known}, event_name AS name") for name in extra]
    frames = [part.filter("unit IS NOT NULL").df() for part in parts]
    if events == "all":
        others = log.rows("activity").project(f"{known}, event_name AS name").filter("unit IS NOT NULL").df()
        others = others[~others["name"].isin(extra)]
        # An event that no rule matches may have the very name of a conversion.
        frames.append(others.assign(name=others["name"].mask(others["name"].isin(ids), others["name"] + " (event)")))
    rows = pd.concat(frames, ignore_index=True)
    position = np.searchsorted(codes, rows["unit"])
    member = np.append(codes, -1)[position] == rows["unit"]
    found, seen = pd.factorize(rows["name"])
    nodes = _order_nodes(planned, sorted({*extra, *seen} - {*ids}), ends[0])
    rows = pd.DataFrame(
        {
            "unit": position,
            "time": rows["time"],
            "code": np.array([nodes.index(name) for name in seen], np.int64)[found],
            "event": rows["event"],
        }
    )[member]
    order = np.lexsort([rows[name] for name in ("event", "code", "time", "unit")])
    return rows[["unit", "time", "code"]].iloc[order].reset_index(drop=True), nodes


def _order_nodes(planned: Sequence[Conversion], others: list[str], start: str | None) -> list[str]:
    """Put the names in the order in which they count at one instant."""
    kinds = {each.id: isinstance(each, Loss) + 2 * isinstance(each, Macro) for each in planned}
    names = sorted([*kinds, *others], key=lambda name: kinds.get(name, 0.5))
    return sorted(names, key=lambda name: name != start)


def _count_hits(rows: pd.DataFrame, watch: _Watch, code: int) -> Ints:
    """Count how often each unit did something from its origin until it is watched no more."""
    unit, time = rows["unit"].to_numpy(), rows["time"].to_numpy()
    hit = (rows["code"].to_numpy() == code) & (time >= watch.origin[unit]) & (time <= watch.until[unit])
    return np.bincount(unit[hit], minlength=len(watch.origin))


def _find_visits(rows: pd.DataFrame, watch: _Watch, stop: int, *, again: bool, collapse: bool) -> pd.DataFrame:
    """Keep each path until it stops (the first time, or when it starts with the same the second), a row a visit."""
    rows = rows[(rows["time"] >= watch.low[rows["unit"]]) & (rows["time"] <= watch.high[rows["unit"]])]
    stops = (rows["code"] == stop) & (rows["time"] >= watch.origin[rows["unit"]])
    before = stops.astype(int).groupby(rows["unit"]).cumsum() - stops.astype(int)
    rows, stops = rows[before <= again], stops[before <= again]
    # What ends a path is a visit of its own, also right after another of its kind.
    new = stops | (rows["unit"] != rows["unit"].shift()) | (rows["code"] != rows["code"].shift()) | (not collapse)
    sizes = np.diff(np.append(np.flatnonzero(new), len(rows)))
    return rows[new].assign(events=sizes).reset_index(drop=True)


def _cut(visits: pd.DataFrame, units: int, steps: int, *, backwards: bool) -> _Trail:
    """Keep the visits nearest to what the path is traced from."""
    counts = np.bincount(visits["unit"], minlength=units)
    whole = _Trail(visits, counts, counts > steps, backwards)
    place = counts[visits["unit"]] - 1 - whole.place if backwards else whole.place
    kept = visits[place < steps].reset_index(drop=True)
    return dataclasses.replace(whole, rows=kept, counts=np.minimum(counts, steps))


def _join(trail: _Trail, units: Ints, watch: _Watch, nodes: int) -> pd.DataFrame:
    """Give one row for each step from a node to the next, with those from the start and to the end of each path."""
    unit, code, time = (trail.rows[name].to_numpy() for name in ("unit", "code", "time"))
    start, end, more = nodes, nodes + 1, nodes + 2
    head = np.where(trail.cut & watch.backwards, more, start)
    tail = np.where(trail.cut & (not watch.backwards), more, end)
    first = trail.place == 0
    before, since = np.roll(code, 1), (time - np.roll(time, 1)) / 1e6
    entry = np.full(len(first), np.nan) if watch.backwards else (time - watch.origin[unit]) / 1e6
    shift = trail.counts if watch.backwards else np.zeros_like(trail.counts)
    inner = {
        "unit": unit,
        "source": np.where(first, head[unit], before),
        "target": code,
        "seconds": np.where(first, entry, since),
        "place": trail.place + 1 - shift[unit],
    }
    last = np.cumsum(trail.counts)[units] - 1
    some = trail.counts[units] > 0
    reached = np.append(code, 0)[np.where(some, last, -1)]
    outer = {
        "unit": units,
        "source": np.where(some, reached, head[units]),
        "target": tail[units],
        "seconds": np.nan,
        "place": (trail.counts + 1 - shift)[units],
    }
    return pd.concat([pd.DataFrame(inner), pd.DataFrame(outer)], ignore_index=True)


def _count_transitions(
    edges: pd.DataFrame, converted: Bools, known: NDArray[np.object_], confidence: float
) -> pd.DataFrame:
    """Count each transition and who made it, beside who was at its source (columns `at_*`, for the comparison)."""
    key = edges["source"].to_numpy() * len(known) + edges["target"].to_numpy()
    number, keys = pd.factorize(key, sort=True)
    source, target = np.divmod(np.asarray(keys, np.int64), len(known))
    units, reached = _count_units(number, edges["unit"], converted, len(keys))
    at, at_reached = (each[source] for each in _count_units(edges["source"], edges["unit"], converted, len(known)))
    low, high = stats.wilson_interval(units, at, confidence=confidence)
    table = pd.DataFrame(
        {
            "source": pd.Series(known[source], dtype="str"),
            "target": pd.Series(known[target], dtype="str"),
            "units": units,
            "transitions": np.bincount(number, minlength=len(keys)),
            "share_of_source": stats.divide(units, at),
            "share_of_source_ci_lower": low,
            "share_of_source_ci_upper": high,
            "median_seconds": edges["seconds"].groupby(number).median().to_numpy(float),
            "converted_units": reached,
            "lost_units": units - reached,
            "at_converted": at_reached,
            "at_lost": at - at_reached,
        }
    )
    return table.sort_values(["units", "transitions"], ascending=False, kind="stable", ignore_index=True)


def _count_units(group: ArrayLike, unit: pd.Series, converted: Bools, groups: int) -> tuple[Ints, Ints]:
    """Count the distinct units of each group, and the converted ones."""
    each, who = np.divmod(pd.unique(np.asarray(group) * len(converted) + unit.to_numpy()), max(len(converted), 1))
    return np.bincount(each, minlength=groups), np.bincount(each[converted[who]], minlength=groups)


def _compare(table: pd.DataFrame, only_converted: Sequence[str], confidence: float) -> pd.DataFrame:
    """Set the converted units at a source against the lost ones there, where there are enough of both."""
    made, missed = table["converted_units"].to_numpy(), table["lost_units"].to_numpy()
    at, at_lost = table["at_converted"].to_numpy(), table["at_lost"].to_numpy()
    notes = [_note(*row, only_converted) for row in zip(table["target"], at, at_lost, strict=True)]
    told = np.array([not note for note in notes], bool)
    share, other = np.where(told, stats.divide(made, at), np.nan), np.where(told, stats.divide(missed, at_lost), np.nan)
    bounds = np.full((len(table), 2), np.nan)
    for row in np.flatnonzero(told):
        sides = (made[row], missed[row]), (at[row], at_lost[row])
        bounds[row] = stats.newcombe_interval(*sides, confidence=confidence)
    p_values = stats.compare_normal(share - other, stats.pooled_error(made, at, missed, at_lost))
    return table.assign(
        share_converted=share,
        share_lost=other,
        difference=share - other,
        difference_ci_lower=bounds[:, 0],
        difference_ci_upper=bounds[:, 1],
        q_value=stats.control_false_discoveries(p_values),
        note=pd.Series(notes, index=table.index, dtype="str"),
    )[list(COLUMNS)]


def _note(target: str, converted: int, lost: int, only_converted: Sequence[str]) -> str:
    """Say why converted and lost units are not compared; nothing when they are."""
    if target in only_converted:
        return "decides who is converted, so not compared"
    for count, side in ((converted, "converted"), (lost, "lost")):
        if count < stats.FEW_UNITS:
            return f"{count:,} {side} units at the source, fewer than {stats.FEW_UNITS}"
    return ""


def _count_paths(
    trail: _Trail, units: Ints, converted: Bools, known: NDArray[np.object_], confidence: float
) -> pd.DataFrame:
    """Count the whole paths, the most common first, the rest in one row."""
    codes = np.full((len(trail.counts), max(trail.counts.max(initial=0), 1)), -1)
    codes[trail.rows["unit"], trail.place] = trail.rows["code"]
    codes = np.column_stack([codes, trail.cut])[units]
    number = np.zeros(len(units), np.int64)
    for column in codes.T:
        number = pd.factorize(number * (len(known) + 1) + column + 1)[0]
    firsts = np.unique(number, return_index=True)[1]
    counts, reached = np.bincount(number), np.bincount(number, converted[units])
    order = np.lexsort([*codes[firsts].T[::-1], -counts])
    listed, rest = order[:MOST_PATHS], order[MOST_PATHS:]
    texts = [_write_path(codes[each], known, backwards=trail.backwards) for each in firsts[listed]]
    rows = [*zip(texts, counts[listed], reached[listed], strict=True)]
    if len(rest):
        rows.append((f"{OTHER}: {len(rest):,}", counts[rest].sum(), reached[rest].sum()))
    table = pd.DataFrame(rows, columns=["path", "units", "converted"])
    table = table.astype({"path": "str", "units": "int64", "converted": "int64"})
    few = [f"{n:,} units, fewer than {stats.FEW_UNITS}" if n < stats.FEW_UNITS else "" for n in table["units"]]
    shares = _add_share(table, "share", "units", np.full(len(table), len(units)), confidence)
    rates = _add_share(shares, "conversion_rate", "converted", table["units"], confidence)
    return rates.assign(note=pd.Series(few, dtype="str"))[list(PATH_COLUMNS)]


def _add_share(table: pd.DataFrame, name: str, part: str, whole: ArrayLike, confidence: float) -> pd.DataFrame:
    low, high = stats.wilson_interval(table[part], whole, confidence=confidence)
    share = stats.divide(table[part], whole)
    return table.assign(**{name: share, f"{name}_ci_lower": low, f"{name}_ci_upper": high})


def _write_path(codes: Ints, known: NDArray[np.object_], *, backwards: bool) -> str:
    names = [str(known[code]) for code in codes[:-1] if code >= 0]
    if codes[-1]:
        names = [MORE, *names] if backwards else [*names, MORE]
    return ARROW.join(names) or NOTHING


def _name_paths(paths: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Write the paths with names for people."""
    named = [ARROW.join(names.get(each, each) for each in path.split(ARROW)) for path in paths["path"]]
    return paths.assign(path=pd.Series(named, index=paths.index, dtype="str"))


def _count_nodes(visits: pd.DataFrame, known: NDArray[np.object_]) -> pd.DataFrame:
    groups = visits.groupby("code")
    counts = groups.agg(units=("unit", "nunique"), visits=("unit", "size"), events=("events", "sum")).astype("int64")
    table = counts.assign(conversion=pd.Series(known[counts.index], index=counts.index, dtype="str"))
    table = table.sort_values("units", ascending=False, kind="stable", ignore_index=True)
    return table[["conversion", "units", "visits", "events"]]


def _count_flow(edges: pd.DataFrame, converted: Bools, known: NDArray[np.object_]) -> pd.DataFrame:
    """Count units between two nodes at each place; a unit is once at each."""
    reached = converted[edges["unit"]].astype("int64")
    groups = edges.assign(converted=reached).groupby(["place", "source", "target"])
    flow = groups.agg(units=("unit", "size"), converted=("converted", "sum")).reset_index()
    texts = {name: pd.Series(known[flow[name]], dtype="str") for name in ("source", "target")}
    return flow.assign(**texts)
