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
            now, high = time[low], low + 1
            if high == end or time[high] != now:  # nothing shares the instant: the usual case, and the quick one
                k = step[low]
                if k > 0:
                    if start[k] != NEVER and now - start[k] <= window:
                        start[k + 1] = start[k]
                        if k + 1 > best:
                            best, done = k + 1, now
                elif opens[low]:
                    start[1] = now
                    if best == 0:
                        best, done, entry[unit] = 1, now, low
                low = high
                continue
            while high < end and time[high] == now:
                high += 1
            if entry[unit] == NEVER:
                for row in range(low, high):
                    if step[row] == 0 and opens[row] and entry[unit] == NEVER:
                        entry[unit] = row
            start[0] = now
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
        if best == 1:
            reached[unit, 0] = entry[unit]
            continue
        # Pass 2: `done` is the first time this depth is reached, so the earliest start from which it lies within the
        # window reaches it then too (an earlier start is never later at any step); follow that one.
        k, low = 0, entry[unit]
        while k < best:
            now, high = time[low], low + 1
            if high == end or time[high] != now:
                if step[low] == k and (k > 0 or (opens[low] and done - now <= window)):
                    reached[unit, k] = low
                    k += 1
                low = high
                continue
            while high < end and time[high] == now:
                high += 1
            first = k
            if k > 0 or done - now <= window:
                while k < best and _assign(low, high, first, k, step, event, opens, reached[unit], asked, via):
                    k += 1
            low = high
    return depth, reached, entry


#: Orders of `match_attempts`.
ORDERED, STRICT, UNORDERED = 0, 1, 2
#: Stands for "not any more" in arrays of times.
FOREVER = 2**63 - 1


@numba.njit(cache=True, nogil=True)
def _find(values: Ints, low: int, high: int, least: int) -> int:
    """Find the first place in a sorted part of an array whose value is at least `least`."""
    while low < high:
        middle = (low + high) // 2
        if values[middle] < least:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True, nogil=True)
def _take(
    wanted: int,
    at: Ints,
    time: Ints,
    event: Ints,
    earliest: Ints,
    latest: Ints,
    chosen: Ints,
    asked: Ints,
    via: Ints,
) -> int:
    """Give step `wanted` a row with a time from its `earliest` to its `latest`; other steps may move to another row.

    As `_assign`, with a span of times for each step, and rows found by search. A free row is among the first ones, as
    many as there are steps, so spans of any length are quick.

    Returns:
        The row that no step had before; NEVER without one.
    """
    count, i = 1, 0
    asked[0] = wanted
    while i < count:
        k = asked[i]
        row = _find(time, at[k], at[k + 1], earliest[k])
        while row < at[k + 1] and time[row] <= latest[k]:
            holder = -1
            for other in range(chosen.size):
                if chosen[other] != NEVER and event[chosen[other]] == event[row]:
                    holder = other
            if holder == -1:
                found = row
                while k != wanted:
                    chosen[k], row, k = row, via[k, 0], via[k, 1]
                chosen[wanted] = row
                return found
            known = False
            for j in range(count):
                known = known or asked[j] == holder
            if not known:
                asked[count], via[holder, 0], via[holder, 1] = holder, row, k
                count += 1
            row += 1
        i += 1
    return NEVER


@numba.njit(cache=True, nogil=True)
def _follow(
    start: int,
    floor: int,
    only_first: bool,
    at: Ints,
    time: Ints,
    event: Ints,
    used: Ints,
    used_low: int,
    used_high: int,
    barred: Ints,
    barred_at: Ints,
    after: Ints,
    before: Ints,
    drops: bool,
    strict: bool,
    window: int,
    step_windows: Ints,
    required: NDArray[np.bool_],
    gap: int,
    tolerance: int,
    chosen: Ints,
    moment: Ints,
    earliest: Ints,
    asked: Ints,
    via: Ints,
) -> tuple[int, bool, int]:
    """Follow the ordered attempt that opens at `start`: its depth, whether it met an exclusion, when it was over.

    `moment` is the time at which each step counts: its row's, or that of the step before, where that is later.
    """
    steps, last, over = required.size, 0, start + window
    chosen[:] = NEVER
    moment[0] = earliest[0] = start
    _take(0, at, time, event, earliest, moment, chosen, asked, via)
    met = False
    while last < steps - 1:
        now = moment[last]
        furthest = last + 1
        while furthest < steps - 1 and not required[furthest]:
            furthest += 1
        # When the next thing that stops the attempt happens: an excluded event, or in strict order any event.
        stop = FOREVER
        for number in range(after.size):
            if after[number] <= last < before[number]:
                row = _find(barred, barred_at[number], barred_at[number + 1], moment[after[number]] + 1)
                if row < barred_at[number + 1]:
                    stop = min(stop, barred[row])
        breaks = FOREVER
        if strict:
            row = _find(used, used_low, used_high, now + 1)
            if row < used_high:
                breaks = used[row]
        alive, step, then = now, -1, FOREVER
        for k in range(last + 1, furthest + 1):
            until = min(start + window, now + step_windows[k])
            alive = max(alive, until)
            if only_first:
                continue
            if gap == 0:
                earliest[k], moment[k] = max(now - tolerance, floor + 1), now
                if _take(k, at, time, event, earliest, moment, chosen, asked, via) != NEVER:
                    step, then = k, now
                    break
            row = _find(time, at[k], at[k + 1], now + max(gap, 1))
            if row < at[k + 1] and time[row] <= until and time[row] < then:
                step, then = k, time[row]
        if step == -1 or then > breaks or (then > stop and not drops):
            over = min(alive, breaks - 1)
            if drops:
                met = met or stop <= min(alive, breaks)
            else:
                over = min(over, stop - 1)
            return last + 1, met, over
        met = met or stop < then
        if then > now:
            chosen[step] = _find(time, at[step], at[step + 1], then)
            earliest[step] = moment[step] = then
        last = step
    return last + 1, met, moment[last]


@numba.njit(cache=True, nogil=True)
def _cover(
    start: int,
    only_first: bool,
    at: Ints,
    time: Ints,
    event: Ints,
    barred: Ints,
    barred_at: Ints,
    drops: bool,
    window: int,
    shared: bool,
    chosen: Ints,
    reached: Ints,
    earliest: Ints,
    latest: Ints,
    asked: Ints,
    via: Ints,
) -> tuple[int, bool, int]:
    """Follow the attempt of any order that opens at `start`; `reached` is the row by which each step more was done."""
    steps, depth, now, stop = chosen.size, 0, start, FOREVER
    chosen[:], reached[:] = NEVER, NEVER
    earliest[:] = start
    for number in range(barred_at.size - 1):
        row = _find(barred, barred_at[number], barred_at[number + 1], start + 1)
        if row < barred_at[number + 1]:
            stop = min(stop, barred[row])
    until = start + window if drops else min(start + window, stop)
    while True:
        latest[:] = now
        grown = True
        while grown and depth < steps and not (only_first and depth):
            grown = False
            for k in range(steps):
                if chosen[k] == NEVER and not (only_first and depth):
                    row = _take(k, at, time, event, earliest, latest, chosen, asked, via)
                    if row != NEVER:
                        reached[depth], grown = row, shared
                        depth += 1
        if depth == steps:
            return depth, stop < now, now
        # Only the first rows of a step matter, as many as there are steps; one, if no event matches several.
        then = FOREVER
        for k in range(steps):
            if shared or chosen[k] == NEVER:
                first = _find(time, at[k], at[k + 1], start)
                end = min(first + steps, at[k + 1])
                row = _find(time, first, end, now + 1)
                if row < end:
                    then = min(then, time[row])
        if then > until:
            over = start + window
            return depth, stop <= over, over if drops else min(over, stop - 1)
        now = then


@numba.njit(cache=True, nogil=True)
def match_attempts(
    offsets: Ints,
    unit: Ints,
    is_null: NDArray[np.bool_],
    time: Ints,
    step: Ints,
    event: Ints,
    opening_offsets: Ints,
    openings: Ints,
    used_offsets: Ints,
    used: Ints,
    barred_offsets: Ints,
    barred: Ints,
    after: Ints,
    before: Ints,
    order: int,
    drops: bool,
    window: int,
    step_windows: Ints,
    required: NDArray[np.bool_],
    gap: int,
    tolerance: int,
    shared: bool,
    totals: bool,
    replaces: bool,
) -> tuple[Ints, Ints, Ints]:
    """Count attempts by any rule of the funnel: for each unit its best one, or all that follow one another.

    A block is what one unit did with one held value; without `hold` it is the unit.

    Args:
        offsets: Where each block's rows start, and the end.
        unit: Unit of each block, in order.
        is_null: Whether a block has no held value, so that its attempts end at the first step.
        time: Microseconds; rows are sorted by block, step, time and event.
        step: Step of each row, from 0.
        event: Identity of each row's event.
        opening_offsets: Where each block's openings start, and the end.
        openings: The instants at which an attempt may open, in order.
        used_offsets: Where each unit's used events start, and the end; for strict order.
        used: Their times, in order.
        barred_offsets: Where the events of each unit and exclusion start, and the end.
        barred: Their times, in order.
        after: Step after which each exclusion holds.
        before: Step before which it holds.
        order: ORDERED, STRICT or UNORDERED.
        drops: Whether a unit whose furthest attempt met an exclusion is dropped.
        window: Microseconds.
        step_windows: Microseconds for each step, from the one taken before.
        required: Whether each step is required.
        gap: Least microseconds between two steps.
        tolerance: Microseconds by which a step may be too early.
        shared: Whether some event matches several steps.
        totals: Whether all attempts count.
        replaces: Whether a running attempt gives way to one that gets further, for totals.

    Returns:
        Unit of each attempt; the row at which each step was reached (attempts x steps; NEVER where not; for any order,
        the row by which each step more was done); when it opened.
    """
    steps, bars = required.size, after.size
    blocks = unit.size
    most = openings.size if totals else blocks
    owner, start = np.empty(most, np.int64), np.empty(most, np.int64)
    rows = np.empty((most, steps), np.int64)
    at = np.empty(steps + 1, np.int64)
    chosen, reached, moment = np.empty(steps, np.int64), np.empty(steps, np.int64), np.empty(steps, np.int64)
    earliest, asked, via = np.empty(steps, np.int64), np.empty(steps, np.int64), np.empty((steps, 2), np.int64)
    barred_at = np.zeros(bars + 1, np.int64)
    count, block = 0, 0
    best, best_met = 0, False
    while block < blocks:
        mine, opening, end = unit[block], opening_offsets[block], opening_offsets[block + 1]
        if opening < end:
            at[:] = offsets[block + 1]
            row = offsets[block + 1] - 1
            while row >= offsets[block]:
                at[step[row]] = row
                row -= 1
            for k in range(steps - 1, -1, -1):
                at[k] = min(at[k], at[k + 1])
            for number in range(bars + 1):
                barred_at[number] = barred_offsets[mine * bars + number]
        floor, running, over = NEVER, False, NEVER
        while opening < end:
            now = openings[opening]
            if totals and running and (now > over or best == steps or not replaces):
                if now <= over:
                    opening += 1
                    continue
                running, floor = False, over
            if not totals and best == steps and not best_met and start[count] <= now:
                break
            opening += 1
            # Most openings can't get further than the best so far: no later step lies in their window.
            if best and not totals and not drops and start[count] <= now:
                hopeful = 0
                for k in range(0 if order == UNORDERED else best, steps):
                    row = _find(time, at[k], at[k + 1], now - tolerance)
                    hopeful += row < at[k + 1] and time[row] <= now + window
                if hopeful <= (best if order == UNORDERED and not is_null[block] else 0):
                    continue
            if order == UNORDERED:
                depth, met, ended = _cover(
                    now, is_null[block], at, time, event, barred, barred_at, drops, window, shared, chosen, reached,
                    earliest, moment, asked, via,
                )  # fmt: skip
            else:
                depth, met, ended = _follow(
                    now, floor, is_null[block], at, time, event, used, used_offsets[mine], used_offsets[mine + 1],
                    barred, barred_at, after, before, drops, order == STRICT, window, step_windows, required, gap,
                    tolerance, chosen, moment, earliest, asked, via,
                )  # fmt: skip
                reached[:] = chosen
            if totals:
                if not running:
                    running, best = True, 0
                    count += 1
                if depth <= best:
                    continue
                best, over = depth, ended
                place = count - 1
            else:
                if depth < best or (depth == best and (met > best_met or (met == best_met and now >= start[count]))):
                    continue
                best, best_met = depth, met
                place = count
            owner[place], start[place], rows[place] = mine, now, reached
        block += 1
        if totals:
            best = 0
        elif block == blocks or unit[block] != mine:
            if best and not (drops and best_met):
                count += 1
            best, best_met = 0, False
    return owner[:count], rows[:count], start[:count]


@numba.njit(cache=True, nogil=True)
def date_attempts(
    rows: Ints, time: Ints, step: Ints, value: NDArray[np.float64], place: int, times: NDArray[np.float64]
) -> tuple[Ints, NDArray[np.float64]]:
    """Write the times of attempts, in seconds, and give the row of each that names its group, and its value.

    Args:
        rows: The row of each attempt's steps, `NEVER` where one was not reached.
        time: Microseconds of each row.
        step: The step of each row.
        value: The value of each row.
        place: The step, from 0, whose row names the group; -1 for the last that was reached.
        times: Where the times go: one row a step, NaN where it was not reached.
    """
    many, steps = rows.shape
    chosen, values = np.empty(many, np.int64), np.full(many, np.nan)
    for attempt in range(many):
        latest, last, paid = -np.inf, steps - 1, False
        for k in range(steps):
            row = rows[attempt, k]
            if row == NEVER:
                times[k, attempt] = np.nan
                continue
            # A step that came a little too early, within the tolerance, counts as if at the time of the one before.
            latest = max(latest, time[row] / 1e6)
            times[k, attempt], last = latest, k
            if not paid and step[row] == steps - 1 and rows[attempt, steps - 1] != NEVER:
                values[attempt], paid = value[row], True
        chosen[attempt] = rows[attempt, last if place < 0 else place]
    return chosen, values
