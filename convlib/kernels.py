"""The counting rules, compiled: each sees one unit's conversions in time order and nothing of their origin."""

import numba
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
#: Stands for "never" in arrays of times and positions.
NEVER = -(2**63)


@numba.njit(cache=True, nogil=True)
def _holds(values: Ints, count: int, wanted: int) -> bool:
    for i in range(count):
        if values[i] == wanted:
            return True
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
    start = np.empty(steps, np.int64)
    used = np.full((steps, steps), NEVER, np.int64)
    for unit in range(units):
        low, high = offsets[unit], offsets[unit + 1]
        # Pass 1: for every level the latest start that reaches it; the deepest level is the best attempt's depth.
        start[:] = NEVER
        best, done = 0, NEVER
        for row in range(low, high):
            k = step[row]
            if k == 0:
                if not opens[row]:
                    continue
                if entry[unit] == NEVER:
                    entry[unit] = row
                start[0] = time[row]
            elif (
                start[k - 1] != NEVER and time[row] - start[k - 1] <= window and not _holds(used[k - 1], k, event[row])
            ):
                start[k] = start[k - 1]
                used[k, :k] = used[k - 1, :k]
            else:
                continue
            used[k, k] = event[row]
            if k + 1 > best:
                best, done = k + 1, time[row]
        if best == 0:
            continue
        depth[unit] = best
        # Pass 2: `done` is the first time this depth is reached, so the earliest start from which it lies within the
        # window reaches it then too (an earlier start is never later at any step); follow that one.
        k = 0
        for row in range(low, high):
            if step[row] != k or (k == 0 and not (opens[row] and done - time[row] <= window)):
                continue
            if _holds(used[best - 1], k, event[row]):
                continue
            used[best - 1, k] = event[row]
            reached[unit, k] = row
            k += 1
            if k == best:
                break
    return depth, reached, entry
