"""The counting rules, compiled: each sees one unit's conversions in time order and nothing of their origin."""

import numba
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
#: Stands for "never" in arrays of times and positions.
NEVER = -(2**63)


@numba.njit(cache=True, nogil=True)
def _assign(
    low: int,
    high: int,
    first: int,
    wanted: int,
    step: Ints,
    event: Ints,
    opens: NDArray[np.bool_],
    chosen: Ints,
    asked: Ints,
    via: Ints,
) -> bool:
    """Give step `wanted` a row of one instant; steps `first` to `wanted - 1` may move to another row of it.

    The usual augmenting path: without it, one event that matches two steps could block both.
    """
    count = 1
    asked[0], chosen[wanted] = wanted, NEVER
    i = 0
    while i < count:
        k = asked[i]
        for row in range(low, high):
            if step[row] != k or (k == 0 and not opens[row]):
                continue
            holder = wanted
            for other in range(first, wanted):
                if event[chosen[other]] == event[row]:
                    holder = other
            if holder == wanted:
                while k != wanted:
                    chosen[k], row, k = row, via[k, 0], via[k, 1]
                chosen[wanted] = row
                return True
            known = False
            for j in range(count):
                known = known or asked[j] == holder
            if not known:
                asked[count], via[holder, 0], via[holder, 1] = holder, row, k
                count += 1
        i += 1
    return False


@numba.njit(cache=True, nogil=True)
def match_funnel(
    offsets: Ints, time: Ints, step: Ints, event: Ints, opens: NDArray[np.bool_], steps: int, window: int
) -> tuple[Ints, Ints, Ints]:
    """Find each unit's best attempt at an ordered funnel: the one that gets furthest, and of those the earliest.

    An attempt opens at a row of step 0 that `opens` allows, and takes the earliest next step each time, up to `window`
    after its start, both ends counted. Rows are sorted by time, then step, so that ties count in step order; one event
    that matches two steps has a row for each and counts in one of them.

    Args:
        offsets: Where each unit's rows start, and the end.
        time: Microseconds.
        step: Step of each row, from 0.
        event: Identity of each row's event.
        opens: Whether a row of step 0 may open an attempt.
        steps: Number of steps.
        window: Microseconds.

    Returns:
        Steps reached by each unit; the row at which each was reached (units x steps; NEVER where not); the first
        opening row.
    """
    units = offsets.size - 1
    depth = np.zeros(units, np.int64)
    reached = np.full((units, steps), NEVER, np.int64)
    entry = np.full(units, NEVER, np.int64)
    start = np.empty(steps + 1, np.int64)  # start[k]: the latest start that has k steps
    chosen, asked, via = np.empty(steps, np.int64), np.empty(steps, np.int64), np.empty((steps, 2), np.int64)
    for unit in range(units):
        low, end = offsets[unit], offsets[unit + 1]
        start[:] = NEVER
        best, done = 0, NEVER
        # Pass 1: instant by instant, for every level the latest start that reaches it; the deepest level is the best.
        while low < end:
            now, high = time[low], low
            while high < end and time[high] == now:
                if step[high] == 0 and opens[high] and entry[unit] == NEVER:
                    entry[unit] = high
                high += 1
            start[0] = now
            if high - low == 1:  # nothing shares the instant: the usual case, and the quick one
                k = step[low]
                if start[k] != NEVER and now - start[k] <= window and (k > 0 or opens[low]):
                    start[k + 1] = start[k]
                    if k + 1 > best:
                        best, done = k + 1, now
                low = high
                continue
            # Deeper attempts first: what an attempt reaches at this instant must not be carried on at it again.
            for level in range(steps - 1, -1, -1):
                if start[level] == NEVER or now - start[level] > window:
                    continue
                k = level
                while k < steps and _assign(low, high, level, k, step, event, opens, chosen, asked, via):
                    k += 1
                    start[k] = max(start[k], start[level])
                    if k > best:
                        best, done = k, now
            low = high
        depth[unit] = best
        # Pass 2: `done` is the first time this depth is reached, so the earliest start from which it lies within the
        # window reaches it then too (an earlier start is never later at any step); follow that one.
        k, low = 0, offsets[unit]
        while k < best:
            now, high = time[low], low
            while high < end and time[high] == now:
                high += 1
            first = k
            if high - low == 1 and step[low] != k:
                low = high
                continue
            if k > 0 or done - now <= window:
                while k < best and _assign(low, high, first, k, step, event, opens, reached[unit], asked, via):
                    k += 1
            low = high
    return depth, reached, entry
