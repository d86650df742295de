"""Rows of whole units in any order, laid out by unit, time and step: what every engine hands to the kernels."""

import dataclasses
from typing import Any

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib.conversions import Conversions, Ints

#: Units with more rows than this that are not in order of time are sorted by merging instead of inserting.
FEW = 64


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

    def take(self, rows: NDArray[Any] | slice) -> "StepRows":
        """Choose rows."""
        taken: dict[str, Any] = {name: None if each is None else each[rows] for name, each in vars(self).items()}
        return StepRows(**taken)


NO_ROWS = StepRows(
    np.empty(0, np.uint64),
    np.empty(0, np.int64),
    np.empty(0, np.uint64),
    np.empty(0, np.int32),
    np.empty(0, np.float64),
)


def lay_out(rows: StepRows, *, end: int) -> tuple[Conversions, NDArray[np.int32], tuple[Ints, Ints]]:
    """Sort rows by unit, time, step, group and value, one row a step.

    Args:
        rows: The rows.
        end: The end of the data, microseconds.

    Returns:
        The conversions; the group of each; unit and time of every row, be it a step or not.
    """
    event = np.arange(len(rows.unit)) if rows.event is None else rows.event
    order, unit, keys = _order(rows.unit, rows.time)
    used = unit, rows.time[order]
    place, step = _expand(rows.steps[order])
    if place is not None:
        order, unit = order[place], unit[place]
    time = rows.time[order]
    ties = _find_ties(unit, time)
    if len(ties):
        tied = order[ties]
        # `value` is NaN for most rows, which would be equal to nothing.
        within = np.lexsort((np.nan_to_num(rows.value[tied]), rows.group[tied], step[ties], time[ties], unit[ties]))
        order[ties], step[ties] = tied[within], step[ties][within]
    columns = pd.DataFrame(index=range(0))
    conversions = Conversions(unit, time, step, rows.value[order], event[order], keys, columns, end)
    return conversions, rows.group[order], used


def _expand(steps: NDArray[Any]) -> tuple[Ints | None, Ints]:
    """Give the place and the step of every set bit; no places when each row has just one."""
    counts = np.bitwise_count(steps)
    place = None
    if (counts != 1).any():
        place = np.repeat(np.arange(len(steps)), counts)
        number = np.arange(len(place)) - np.repeat(np.cumsum(counts, dtype=np.int64) - counts, counts)
        steps = steps[place]
        while number.any():  # drop the lower bits of the rows that stand for a higher one
            steps = np.where(number > 0, steps & (steps - np.ones_like(steps)), steps)
            number = np.maximum(number - 1, 0)
    lowest = steps & (~steps + np.ones_like(steps))
    return place, np.bitwise_count(lowest - np.ones_like(lowest)).astype(np.int64)


def _find_ties(unit: Ints, time: Ints) -> Ints:
    """Find the rows that share unit and time with a neighbour."""
    same = (unit[1:] == unit[:-1]) & (time[1:] == time[:-1])
    if not same.any():
        return np.empty(0, np.int64)
    return np.flatnonzero(np.append(same, False) | np.append(False, same))


@numba.njit(cache=True, nogil=True)
def _order(keys: NDArray[Any], time: Ints) -> tuple[Ints, Ints, NDArray[Any]]:
    """Order rows by unit, in order of appearance, and time.

    Returns:
        The rows in order, the number of each one's unit, and the units' keys.
    """
    rows = keys.size
    size = 16
    while size < 2 * rows:
        size *= 2
    table = np.full(size, -1, np.int64)
    number = np.empty(rows, np.int64)
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
    for one in range(count):
        _sort(order[starts[one] : starts[one + 1]], time)
    return order, unit, found[:count].copy()


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
def split(unit: NDArray[Any], parts: int) -> tuple[Ints, Ints]:
    """Give an order of rows in which each unit lies in one of so many parts, a power of two, and where each begins."""
    mask, part = parts - 1, np.empty(unit.size, np.int64)
    starts = np.zeros(parts + 1, np.int64)
    for row in range(unit.size):
        part[row] = np.int64((np.uint64(unit[row]) * np.uint64(0xD6E8FEB86659FD93)) >> np.uint64(40)) & mask
        starts[part[row] + 1] += 1
    starts = np.cumsum(starts)
    place, order = starts.copy(), np.empty(unit.size, np.int64)
    for row in range(unit.size):
        order[place[part[row]]] = row
        place[part[row]] += 1
    return starts, order


@numba.njit(cache=True, nogil=True)
def look_up(keys: NDArray[np.uint64], known: NDArray[np.uint64], numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give the number of each key, by those that are known; all of them are."""
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
        while known[table[slot]] != keys[row]:
            slot = (slot + 1) & (size - 1)
        found[row] = numbers[table[slot]]
    return found
