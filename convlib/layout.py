"""Rows of whole units in any order, laid out by unit, time and step: what every engine hands to the kernels."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib.conversions import Conversions, Ints

#: Units with more rows than this that are not in order of time are sorted by merging instead of inserting.
FEW = 64
NOTHING = pd.DataFrame()


@dataclasses.dataclass(frozen=True)
class StepRows:
    """Rows of whole units, in any order.

    Attributes:
        unit: Key of each row's unit.
        time: Microseconds since 1970, UTC.
        steps: Bit k says that the row is step k; no bit, that it is another used event.
        group: Number of the row's values in the columns that were asked for.
        value: What the row is worth as the last step; NaN when nothing.
        event: Identity of the row's event, where several rows may be of one.
        cluster: Key of what the unit belongs to, where units are not independent.
    """

    unit: NDArray[Any]
    time: Ints
    steps: NDArray[Any]
    group: NDArray[np.int32]
    value: NDArray[np.float64]
    event: Ints | None = None
    cluster: NDArray[Any] | None = None


NO_ROWS = StepRows(
    np.empty(0, np.uint64),
    np.empty(0, np.int64),
    np.empty(0, np.uint64),
    np.empty(0, np.int32),
    np.empty(0, np.float64),
)


@dataclasses.dataclass(frozen=True)
class Part:
    """What some whole units did, laid out for the kernels.

    Attributes:
        conversions: Their rows, one a step, by unit, time, step, group and value.
        group: Gives the groups of chosen conversions.
        used: Unit and time of every row, be it a step or not.
        clusters: For each unit the key of what it belongs to, where units are not independent.
    """

    conversions: Conversions
    group: Callable[[Ints], NDArray[Any]]
    used: tuple[Ints, Ints]
    clusters: NDArray[Any] | None = None


def lay_out(rows: StepRows) -> Part:
    """Sort rows of whole units."""
    order, unit, keys, time, step, plain, tied = _arrange(rows.unit, rows.time, rows.steps)
    used = unit, time
    if not plain:  # a row is no step, or several
        place, step = _expand(rows.steps[order])
        order, unit, time = order[place], unit[place], time[place]
    value, event = rows.value[order], order if rows.event is None else rows.event[order]
    if tied:
        ties = _order_ties(unit, time, step, lambda some: rows.group[order[some]], value, event)
        order, step, value, event = order[ties], step[ties], value[ties], event[ties]
    clusters = None
    if rows.cluster is not None:
        clusters = np.empty(len(keys), rows.cluster.dtype)
        clusters[unit] = rows.cluster[order]
    conversions = Conversions(unit, time, step, value, event, keys, NOTHING, 0)
    return Part(conversions, lambda some: rows.group[order[some]], used, clusters)


def lay_out_stored(
    stored: Mapping[str, NDArray[Any]],
    groups: Callable[[Ints], NDArray[Any]],
    *,
    steps: Ints,
    last: int,
    members: NDArray[np.bool_] | None,
) -> Part:
    """Choose the steps among rows that are in order of unit and time already.

    Args:
        stored: `user`, `time`, `conversion`, `event` and `value` of the rows of whole units.
        groups: Gives the groups of chosen rows.
        steps: The step that each conversion is; -1 for none.
        last: The last step, whose rows are worth something.
        members: Whether each user may be counted; None for all.
    """
    user, time, conversion, event, value = (stored[name] for name in ("user", "time", "conversion", "event", "value"))
    known = np.empty(0, bool) if members is None else members
    row, unit, keys, time, step, event, value, tied = _choose(user, time, conversion, event, value, steps, last, known)
    if tied:
        ties = _order_ties(unit, time, step, lambda some: groups(row[some]), value, event)
        row, step, event, value = row[ties], step[ties], event[ties], value[ties]
    conversions = Conversions(unit, time, step, value, event, keys, NOTHING, 0)
    return Part(conversions, lambda some: groups(row[some]), (unit, time))


@numba.njit(cache=True, nogil=True)
def _choose(
    user: NDArray[np.int32],
    time: Ints,
    conversion: NDArray[Any],
    event: Ints,
    value: NDArray[np.float64],
    steps: Ints,
    last: int,
    members: NDArray[np.bool_],
) -> tuple[Ints, Ints, NDArray[np.uint64], Ints, Ints, Ints, NDArray[np.float64], bool]:
    most = user.size
    rows, units, keys = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.uint64)
    times, chosen, events = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    values = np.empty(most, np.float64)
    count, known, tied = 0, 0, False
    for row in range(most):
        step = steps[conversion[row]]
        if step < 0 or (members.size and not members[user[row]]):
            continue
        if known == 0 or keys[known - 1] != np.uint64(user[row]):
            keys[known] = np.uint64(user[row])
            known += 1
        elif times[count - 1] == time[row]:
            tied = True
        rows[count], units[count], times[count], chosen[count] = row, known - 1, time[row], step
        events[count] = event[row]
        values[count] = value[row] if step == last else np.nan
        count += 1
    return (
        rows[:count], units[:count], keys[:known], times[:count], chosen[:count], events[:count], values[:count], tied
    )  # fmt: skip


def _order_ties(
    unit: Ints, time: Ints, step: Ints, group: Callable[[Ints], NDArray[Any]], value: NDArray[np.float64], event: Ints
) -> Ints:
    """Order rows that share unit and time by step, group, and what else tells their events apart.

    That is which steps the event is, and its value. What is alike in all of it can be exchanged, so that no number
    depends on the order in which rows came.
    """
    same = (unit[1:] == unit[:-1]) & (time[1:] == time[:-1])
    ties = np.flatnonzero(np.append(same, False) | np.append(False, same))
    number = np.unique(event[ties], return_inverse=True)[1]
    steps, worth = np.zeros(len(ties), np.uint64), np.full(len(ties), np.nan)
    np.bitwise_or.at(steps, number, np.uint64(1) << step[ties].astype(np.uint64))
    np.fmax.at(worth, number, value[ties])
    worth = worth[number]
    told = np.isnan(worth), np.nan_to_num(worth), steps[number], group(ties), step[ties], time[ties], unit[ties]
    order = np.arange(len(unit))
    order[ties] = ties[np.lexsort(told)]
    return order


def _expand(steps: NDArray[Any]) -> tuple[Ints, Ints]:
    """Give the place and the step of every set bit."""
    counts = np.bitwise_count(steps)
    place = np.repeat(np.arange(len(steps)), counts)
    number = np.arange(len(place)) - np.repeat(np.cumsum(counts, dtype=np.int64) - counts, counts)
    steps = steps[place]
    one = np.ones(1, steps.dtype)
    while number.any():  # drop the lower bits of the rows that stand for a higher one
        steps = np.where(number > 0, steps & (steps - one), steps)
        number = np.maximum(number - 1, 0)
    return place, np.bitwise_count((steps & (~steps + one)) - one).astype(np.int64)


@numba.njit(cache=True, nogil=True)
def _arrange(
    keys: NDArray[Any], time: Ints, steps: NDArray[Any]
) -> tuple[Ints, Ints, NDArray[Any], Ints, Ints, bool, bool]:
    """Order rows by unit, in order of appearance, and time.

    Returns:
        The rows in order; the number of each one's unit; the units' keys; the rows' times; their lowest steps; whether
        each row is just one step; whether some rows share unit and time.
    """
    rows = keys.size
    size = 16
    while size < 2 * rows:
        size *= 2
    table = np.full(size, -1, np.int32)
    number = np.empty(rows, np.int32)
    found = np.empty(rows, keys.dtype)
    count = 0
    for row in range(rows):
        slot = np.int64((np.uint64(keys[row]) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & (size - 1)
        while table[slot] >= 0 and found[table[slot]] != keys[row]:
            slot = (slot + 1) & (size - 1)
        if table[slot] < 0:
            table[slot], found[count] = count, keys[row]
            count += 1
        number[row] = table[slot]
    place = np.zeros(count + 1, np.int64)
    for row in range(rows):
        place[number[row] + 1] += 1
    place = np.cumsum(place)
    starts = place.copy()
    order, unit = np.empty(rows, np.int64), np.empty(rows, np.int64)
    for row in range(rows):
        at = place[number[row]]
        order[at], unit[at] = row, number[row]
        place[number[row]] += 1
    times, lowest, plain, tied = np.empty(rows, np.int64), np.empty(rows, np.int64), True, False
    for one in range(count):
        _sort(order[starts[one] : starts[one + 1]], time)
        for at in range(starts[one], starts[one + 1]):
            times[at], step = time[order[at]], 0
            mask = np.uint64(steps[order[at]])
            plain = plain and mask != 0 and mask & (mask - np.uint64(1)) == 0
            while step < 63 and not (mask >> np.uint64(step)) & np.uint64(1):
                step += 1
            lowest[at] = step
            tied = tied or (at > starts[one] and times[at] == times[at - 1])
    return order, unit, found[:count].copy(), times, lowest, plain, tied


@numba.njit(cache=True, nogil=True)
def _sort(order: Ints, time: Ints) -> None:
    """Sort some rows by time, in place; most are in order already."""
    if order.size > FEW:
        for i in range(1, order.size):
            if time[order[i]] < time[order[i - 1]]:
                order[:] = order[np.argsort(time[order], kind="mergesort")]
                return
        return
    for i in range(1, order.size):
        row, j = order[i], i
        while j > 0 and time[order[j - 1]] > time[row]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = row


@numba.njit(cache=True, nogil=True)
def divide(
    unit: NDArray[np.uint64],
    time: Ints,
    steps: NDArray[Any],
    group: NDArray[np.int32],
    value: NDArray[np.float64],
    parts: int,
) -> tuple[Ints, NDArray[np.uint64], Ints, NDArray[Any], NDArray[np.int32], Ints, Ints, NDArray[np.float64], Ints]:
    """Put the rows of each unit into one of so many parts, a power of two.

    Returns:
        Where each part begins; its units, times, steps and groups; where the values of each part begin; the place in
        the part of each row that has a value, and the values; and the rows.
    """
    part = np.empty(unit.size, np.uint16)
    starts, valued = np.zeros(parts + 1, np.int64), np.zeros(parts + 1, np.int64)
    for row in range(unit.size):
        mine = np.int64((unit[row] * np.uint64(0xD6E8FEB86659FD93)) >> np.uint64(40)) & (parts - 1)
        part[row] = mine
        starts[mine + 1] += 1
        valued[mine + 1] += not np.isnan(value[row])
    starts, valued = np.cumsum(starts), np.cumsum(valued)
    place, next_value = starts.copy(), valued.copy()
    units, times, masks = np.empty_like(unit), np.empty_like(time), np.empty_like(steps)
    groups, order = np.empty_like(group), np.empty(unit.size, np.int64)
    places, values = np.empty(valued[-1], np.int64), np.empty(valued[-1], np.float64)
    for row in range(unit.size):
        mine = part[row]
        at = place[mine]
        units[at], times[at], masks[at], groups[at], order[at] = unit[row], time[row], steps[row], group[row], row
        if not np.isnan(value[row]):
            places[next_value[mine]], values[next_value[mine]] = at - starts[mine], value[row]
            next_value[mine] += 1
        place[mine] += 1
    return starts, units, times, masks, groups, valued, places, values, order


@numba.njit(cache=True, nogil=True)
def look_up(keys: NDArray[np.uint64], known: NDArray[np.uint64], numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give the number of each key, by those that are known.

    Raises:
        KeyError: A key is not among them: the rows have changed since the keys were listed.
    """
    size = 16
    while size < 4 * known.size:
        size *= 2
    table = np.full(size, -1, np.int64)
    for place in range(known.size):
        slot = np.int64(known[place] >> np.uint64(20)) & (size - 1)
        while table[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        table[slot] = place
    found = np.empty(keys.size, np.int32)
    for row in range(keys.size):
        slot = np.int64(keys[row] >> np.uint64(20)) & (size - 1)
        while table[slot] >= 0 and known[table[slot]] != keys[row]:
            slot = (slot + 1) & (size - 1)
        if table[slot] < 0:
            raise KeyError("a group that was not listed")
        found[row] = numbers[table[slot]]
    return found
