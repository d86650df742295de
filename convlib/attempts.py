"""From conversions to attempts: the rules of one funnel, laid out for the kernel that counts by them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib import kernels
from convlib.conversions import Conversions, Ints
from convlib.events import NO_VALUE

Order = Literal["ordered", "strict", "unordered"]
Anchor = Literal["best", "first"]
Excluded = Literal["stop_attempt", "drop_unit"]
Count = Literal["uniques", "totals", "sessions"]
#: Where a unit stands that does not reach the step whose value is asked for.
NOT_REACHED = "(not reached)"
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


def find_attempts(
    conversions: Conversions,
    rules: Rules,
    *,
    period: tuple[int, int],
    held: pd.DataFrame | None = None,
    used: tuple[Ints, Ints] | None = None,
) -> Attempts:
    """Find the attempts that count by some rules.

    Args:
        conversions: The steps' rows, and after them those of exclusions, numbered on.
        rules: The rules.
        period: Microseconds from which, and before which, attempts open.
        held: Columns of each row that keep one value through an attempt, as text.
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
    conversions: Conversions, found: Attempts, window: int, by: Sequence[str], breakdown: str
) -> pd.DataFrame:
    """Give one row for each attempt: its time at each step, its value, its groups, and if it is pending.

    Args:
        conversions: What the attempts were found in.
        found: The attempts.
        window: Microseconds.
        by: Columns of its groups.
        breakdown: The step whose row has the groups' values: `first_touch`, `last_touch` or `step:k`.

    Returns:
        `time_0`, ... and `entered` in seconds, `value`, `pending`, and the groups.
    """
    rows, reached = found.rows, found.rows != kernels.NEVER
    steps = rows.shape[1]
    times = np.where(reached, _take(conversions.time, rows), np.nan) / 1e6
    # A step that came a little too early, within the tolerance, counts as if at the time of the one before.
    times = np.where(reached, np.fmax.accumulate(times, axis=1), np.nan)
    paid = reached[:, -1:] & (_take(conversions.step, rows) == steps - 1)
    values = np.where(paid.any(axis=1), _take(conversions.value, _pick(rows, paid.argmax(axis=1))), np.nan)
    last = steps - 1 - reached[:, ::-1].argmax(axis=1)
    place = {"first_touch": np.zeros_like(last), "last_touch": last}.get(breakdown)
    row = _pick(rows, np.full_like(last, int(breakdown.removeprefix("step:")) - 1) if place is None else place)
    chosen = conversions.columns[list(by)].iloc[row.clip(0)].reset_index(drop=True)
    groups = chosen.where(pd.Series(row != kernels.NEVER), NOT_REACHED)
    known = {"value": values, "pending": found.entered + window > conversions.end, "entered": found.entered / 1e6}
    return pd.DataFrame({**{f"time_{k}": times[:, k] for k in range(steps)}, **known}).assign(**groups)


def _pick(rows: Ints, columns: Ints) -> Ints:
    return rows[np.arange(len(rows)), columns]


def _take(values: NDArray[Any], rows: Ints) -> NDArray[Any]:
    """Read a column at rows, with any value where there is none."""
    return values[rows.clip(0)] if len(values) else np.zeros(rows.shape, values.dtype)


def _match(
    conversions: Conversions, rules: Rules, opens: Bools, held: pd.DataFrame | None, used: tuple[Ints, Ints]
) -> tuple[Ints, Ints, Ints]:
    """Lay the rows out by block and step, and give them to the kernel."""
    units, steps, bars = len(conversions.codes), len(rules.required), len(rules.barred)
    values = _number_held(held) if held is not None else np.zeros(len(conversions.time), np.int64)
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


def _number_held(held: pd.DataFrame) -> Ints:
    """Number the held values of rows in their order; -1 where one is missing."""
    missing = (held == NO_VALUE).any(axis=1).to_numpy()
    return np.where(missing, -1, held.groupby(list(held.columns), sort=True).ngroup().to_numpy(np.int64))


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
