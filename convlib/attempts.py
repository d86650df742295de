"""From conversions to attempts: the rules of one funnel, laid out for the kernel that counts by them."""

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from convlib import kernels
from convlib.canonical import NO_VALUE
from convlib.conversions import Conversions, Ints
from convlib.layout import NO_ROWS, Part, StepRows, lay_out

Order = Literal["ordered", "strict", "unordered"]
Anchor = Literal["best", "first"]
Excluded = Literal["stop_attempt", "drop_unit"]
Count = Literal["uniques", "totals", "sessions"]
#: Where a unit stands that does not reach the step whose value is asked for.
NOT_REACHED = "(not reached)"
#: So many parts wait for a free processor.
MOST_WAITING = 8
ORDERS: tuple[Order, ...] = get_args(Order)
Bools = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a funnel counts; `docs/funnel.md` has the words.

    Attributes:
        required: For each step, whether it is required.
        window: Microseconds from the first step.
        order: How the steps follow one another.
        anchor: Which openings count.
        barred: For each exclusion the steps, from 0, after and before which it holds.
        drops: Whether a unit whose furthest attempt met an exclusion is in no step.
        step_windows: For each step the most microseconds since the one taken before.
        gap: The least microseconds between two steps.
        tolerance: Microseconds by which a step may be too early.
        first_time: Whether only a unit's first event of the first step opens.
        totals: Whether all attempts count that follow one another.
    """

    required: tuple[bool, ...]
    window: int
    order: Order = "ordered"
    anchor: Anchor = "best"
    barred: tuple[tuple[int, int], ...] = ()
    drops: bool = False
    step_windows: tuple[int, ...] = ()
    gap: int = 0
    tolerance: int = 0
    first_time: bool = False
    totals: bool = False

    @property
    def are_default(self) -> bool:
        """Say whether the quick kernel knows these rules."""
        return self == Rules(self.required, self.window, first_time=self.first_time) and all(self.required)


@dataclasses.dataclass(frozen=True)
class Attempts:
    """The attempts that count.

    Attributes:
        unit: Position of each attempt's unit.
        rows: The conversion at which each step was reached, attempts x steps; NEVER where not.
        entered: Microseconds from which the window runs that makes the attempt pending.
    """

    unit: Ints
    rows: Ints
    entered: Ints


@dataclasses.dataclass(frozen=True)
class Task:
    """All that counting one part of whole units needs, wherever it is done.

    Attributes:
        rules: How the funnel counts.
        by: Columns that break it down.
        hold: Columns that keep one value through an attempt.
        breakdown: The step whose row has an attempt's group: `first_touch`, `last_touch` or `step:k`.
        period: Microseconds from which, and before which, attempts open.
        end: The end of the data, microseconds.
    """

    rules: Rules
    by: tuple[str, ...]
    hold: tuple[str, ...]
    breakdown: str
    period: tuple[int, int]
    end: int

    @property
    def columns(self) -> tuple[str, ...]:
        """Name the columns of which values are needed."""
        return tuple(dict.fromkeys([*self.by, *self.hold]))


def count_parts(parts: Iterable[Callable[[], Part]], groups: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Count the attempts of units that come in parts.

    Args:
        parts: Each lays out the rows of some units.
        groups: The values of `task.columns`, in order, as text; a row's `group` is a place there.
        task: What is counted.

    Returns:
        One row an attempt: `unit` (its key), `cluster` if the rows have one, `time_0`, ... and `entered` in seconds
        since 1970, `value`, `pending`, and the columns of `task.by`.
    """
    held = _number_held(groups[list(task.hold)]) if task.hold else None
    counted = [_count_part(lambda: lay_out(NO_ROWS), held, task)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # more of them would wait for each other
        running: deque[Future[dict[str, NDArray[Any]]]] = deque()
        for part in parts:
            running.append(pool.submit(_count_part, part, held, task))
            if len(running) > MOST_WAITING:
                counted.append(running.popleft().result())
        counted += [each.result() for each in running]
    columns = {name: np.concatenate([each[name] for each in counted if name in each]) for name in counted[-1]}
    number = columns.pop("group")
    texts = {}
    for name in task.by:
        values = pd.Index(sorted({*groups[name], NOT_REACHED}), dtype="str")
        codes = values.get_indexer(pd.Index(groups[name]))
        place = np.where(number < 0, values.searchsorted(NOT_REACHED), codes[number])
        texts[name] = pd.Categorical.from_codes(place.astype(np.int64), values)
    return pd.DataFrame(columns | texts, copy=False)


def _count_part(lay_out: Callable[[], Part], held: Ints | None, task: Task) -> dict[str, NDArray[Any]]:
    part = lay_out()
    conversions = part.conversions
    holds = None if held is None else held[part.group(np.arange(len(conversions.time)))]
    found = find_attempts(conversions, task.rules, period=task.period, held=holds, used=part.used)
    attempts = describe_attempts(conversions, found, task, part.group)
    return attempts if part.clusters is None else attempts | {"cluster": part.clusters[found.unit]}


def _number_held(held: pd.DataFrame) -> Ints:
    """Number the held values of groups in their order; -1 where one is missing."""
    missing = (held == NO_VALUE).any(axis=1).to_numpy()
    return np.where(missing, -1, held.groupby(list(held.columns), sort=True).ngroup().to_numpy(np.int64))


def count_attempts(rows: pa.Table, task: Task) -> pa.Table:
    """Count the attempts of units whose rows come as a table, from any engine.

    Args:
        rows: The rows of whole units, in any order: `unit`; `time`, microseconds; `steps`, of which bit k says that the
            row is step k, the exclusions standing after the steps; `value`; the columns of `task.columns` as text or
            null; and `cluster`, if the units are not independent. A row that is no step is another used event.
        task: What is counted.

    Returns:
        As `count_parts`, with text in the columns of `task.by`.
    """
    texts = {name: rows.column(name).to_pandas().fillna(NO_VALUE) for name in task.columns}
    frame = pd.DataFrame({"": np.zeros(len(rows)), **texts})
    groups = frame.drop_duplicates().sort_values(list(frame.columns), ignore_index=True)
    number = frame.merge(groups.reset_index(names="group"), how="left")["group"]
    units = rows.column("unit").combine_chunks().dictionary_encode()
    part = StepRows(
        unit=units.indices.to_numpy().astype(np.uint64),
        time=rows.column("time").to_numpy().astype(np.int64),
        steps=rows.column("steps").to_numpy().astype(np.uint64),
        group=number.to_numpy(np.int32),
        value=rows.column("value").to_pandas().to_numpy(np.float64),
        cluster=rows.column("cluster").to_numpy() if "cluster" in rows.column_names else None,
    )
    attempts = count_parts([lambda: lay_out(part)], groups, task)
    named = {"unit": units.dictionary.take(pa.array(attempts["unit"]))}
    for name in attempts.columns.drop("unit"):
        named[name] = pa.array(attempts[name].astype(str) if name in task.by else attempts[name], from_pandas=False)
    return pa.table(named)


def find_attempts(
    conversions: Conversions,
    rules: Rules,
    *,
    period: tuple[int, int],
    held: Ints | None = None,
    used: tuple[Ints, Ints] | None = None,
) -> Attempts:
    """Find the attempts that count by some rules.

    Args:
        conversions: The steps' rows, and after them those of exclusions, numbered on.
        rules: The rules.
        period: Microseconds from which, and before which, attempts open.
        held: Number of the value of each row that stays through an attempt, in order; -1 where it has none.
        used: Unit and time of every used event, in order, for strict order.

    Returns:
        Attempts, by unit and opening.
    """
    units, steps = len(conversions.codes), len(rules.required)
    time, step = conversions.time, conversions.step
    opens = step < steps if rules.order == "unordered" else step == 0
    in_period = (time >= period[0]) & (time < period[1])
    if rules.first_time:
        in_period &= time == _first_times(conversions, opens)[conversions.unit]
    opens = opens & in_period
    if rules.are_default and held is None:
        depth, rows, entry = kernels.match_funnel(
            conversions.offsets, time, step, conversions.event, opens, steps, rules.window
        )
        some = np.flatnonzero(depth)
        return Attempts(some, rows[some], time[entry[some]])
    entered = _first_times(conversions, opens)
    if rules.anchor == "first" and not rules.totals:
        opens &= time == entered[conversions.unit]
    unit, rows, start = _match(conversions, rules, opens, held, used or (np.empty(0, np.int64),) * 2)
    order = np.lexsort((start, unit))
    unit, rows, start = unit[order], rows[order], start[order]
    return Attempts(unit, rows, start if rules.totals else entered[unit] if units else start)


def describe_attempts(
    conversions: Conversions, found: Attempts, task: Task, group: Callable[[Ints], NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Give for each attempt its times, its value, its group, and if it is pending.

    Args:
        conversions: What the attempts were found in.
        found: The attempts.
        task: What is counted.
        group: Gives the groups of chosen conversions.

    Returns:
        `unit` (its key), `time_0`, ... and `entered` in seconds, `value`, `pending`, and `group`, -1 where the step was
        not reached.
    """
    place = {"first_touch": 0, "last_touch": -1}.get(task.breakdown)
    place = int(task.breakdown.removeprefix("step:")) - 1 if place is None else place
    times = np.empty(found.rows.T.shape)
    columns = conversions.time, conversions.step, conversions.value
    row, values = kernels.date_attempts(found.rows, *columns, place, times)
    known = {
        "value": values,
        "pending": found.entered + task.rules.window > task.end,
        "entered": found.entered / 1e6,
        "group": np.where(row == kernels.NEVER, -1, group(row.clip(0)) if len(conversions.time) else -1),
    }
    dated = {f"time_{k}": each for k, each in enumerate(times)}
    return {"unit": conversions.codes[found.unit], **dated, **known}


def _match(
    conversions: Conversions, rules: Rules, opens: Bools, held: Ints | None, used: tuple[Ints, Ints]
) -> tuple[Ints, Ints, Ints]:
    """Lay the rows out by block and step, and give them to the kernel."""
    units, steps, bars = len(conversions.codes), len(rules.required), len(rules.barred)
    values = np.zeros(len(conversions.time), np.int64) if held is None else held
    block = conversions.unit * (int(values.max(initial=0)) + 2) + values + 1
    mine = np.flatnonzero(conversions.step < steps)
    mine = mine[np.argsort(block[mine] * steps + conversions.step[mine], kind="stable")]
    offsets = np.flatnonzero(_changes(block[mine]))
    blocks = block[mine[offsets]]
    openings = np.flatnonzero(opens)
    if held is not None:
        openings = openings[np.argsort(block[openings], kind="stable")]
    openings = openings[_changes(block[openings], conversions.time[openings])]
    key = conversions.unit * max(bars, 1) + conversions.step - steps
    others = np.flatnonzero(conversions.step >= steps)
    others = others[np.argsort(key[others], kind="stable")]
    after, before = np.array(rules.barred, np.int64).reshape(-1, 2).T.copy()
    unit, rows, start = kernels.match_attempts(
        np.append(offsets, len(mine)),
        conversions.unit[mine[offsets]],
        values[mine[offsets]] < 0,
        conversions.time[mine],
        conversions.step[mine],
        conversions.event[mine],
        np.searchsorted(block[openings], np.append(blocks, blocks[-1:] + 1)),
        conversions.time[openings],
        np.searchsorted(used[0], np.arange(units + 1)),
        used[1],
        np.searchsorted(key[others], np.arange(units * bars + 1)),
        conversions.time[others],
        after,
        before,
        ORDERS.index(rules.order),
        rules.drops,
        rules.window,
        np.array(rules.step_windows or (rules.window,) * steps, np.int64),
        np.array(rules.required),
        rules.gap,
        rules.tolerance,
        _have_shared_events(conversions, steps),
        rules.totals,
        rules.anchor == "best",
    )
    return unit, np.where(rows == kernels.NEVER, kernels.NEVER, mine[rows.clip(0)] if len(mine) else rows), start


def _first_times(conversions: Conversions, mask: Bools) -> Ints:
    """Give when each unit has its first marked row, FOREVER without one: rows are in order of time."""
    rows = np.flatnonzero(mask)
    rows = rows[_changes(conversions.unit[rows])]
    times = np.full(len(conversions.codes), kernels.FOREVER)
    times[conversions.unit[rows]] = conversions.time[rows]
    return times


def _changes(*columns: Ints) -> Bools:
    """Mark the rows that differ from the one before; the first does."""
    new = np.ones(len(columns[0]), bool)
    new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return new


def _have_shared_events(conversions: Conversions, steps: int) -> bool:
    """Say whether an event is several steps; its rows are then at one instant of one unit."""
    new = _changes(conversions.unit, conversions.time)
    tied = ~new | np.append(~new[1:], False)[: len(new)]
    event = conversions.event[tied & (conversions.step < steps)]
    return len(np.unique(event)) < len(event)
