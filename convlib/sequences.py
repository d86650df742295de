"""Which micro-conversions come in which order before a landmark, with counts by outcome."""

import itertools

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib.conversions import Conversions, Ints, Step, gather
from convlib.documents import did_you_mean, quote_names
from convlib.durations import parse_duration
from convlib.errors import ParamError
from convlib.events import EventLog, Unit
from convlib.plan import Plan
from convlib.plan_entries import Clock

COLUMNS = (
    "first",
    "second",
    "third",
    "units",
    "converted",
    "lost",
    "units_any_order",
    "converted_any_order",
    "lost_any_order",
)
#: The landmark and the horizon where neither the call nor the plan names one.
DEFAULT_EXPOSURE, DEFAULT_HORIZON = "7D", "14D"
NEVER = np.iinfo(np.int64).max


def count_sequences(
    log: EventLog,
    plan: Plan,
    *,
    macro: str,
    exposure: str = "",
    horizon: str = "",
    entry: str | None = None,
    unit: Unit = "user",
) -> pd.DataFrame:
    """Count which micros come in which order before a landmark, and how many of those units convert after it.

    The design is that of `correlate` with one landmark: micros count before `exposure` after entry, for units that by
    then have neither converted nor left for good; the macro counts within `horizon` from there. The first time of each
    micro counts; two at one instant are in no order.

    Args:
        log: The log, seen through a segment and a period of entries.
        plan: The plan whose micros are counted.
        macro: Id of the macro-conversion.
        exposure: Landmark after entry; empty takes the plan's last, else 7 days.
        horizon: How long after the landmark the macro counts; empty takes the plan's, else 14 days.
        entry: Conversion or event that starts the clock; None takes the plan's, else the first event in the period.
        unit: What is counted.

    Returns:
        One row for each ordered pair and triple of micros that some unit did all of: `first`, `second`, `third` (empty
        for a pair); `units` that did them in this order, of which `converted` and `lost`; and the same three for units
        that did them in any order, also at one instant (`units_any_order`, ...).

    Raises:
        ParamError: An unknown macro or entry, or a duration that can't be read.
    """
    log.check_plan(plan)
    goals = {goal.id: goal for goal in plan.macros}
    if macro not in goals:
        msg = f"`macro` is {macro!r}; the plan's macros are {quote_names(goals)}.{did_you_mean(macro, goals)}"
        raise ParamError(msg)
    goal = goals[macro]
    clock = goal.correlation or Clock()
    landmark = parse_duration(exposure or [DEFAULT_EXPOSURE, *clock.exposure][-1], name="exposure")
    until = landmark + parse_duration(horizon or clock.horizon or DEFAULT_HORIZON, name="horizon")
    entries = log.entries(unit=unit, entry=entry or clock.entry)
    listed = [Step(each.id) for each in (*goal.micros, goal, *goal.losses)]
    conversions = gather(log, listed, codes=entries.index.to_numpy(np.int64), unit=unit)
    origin, size = entries["time"].to_numpy(np.int64), len(goal.micros)
    firsts = _first_times(conversions, origin, len(listed))
    at_risk = (origin + until <= conversions.end) & (firsts[:, size:] >= landmark).all(axis=1)
    times, reached = firsts[at_risk, :size], firsts[at_risk, size] < until
    return list_orders(np.where(times < landmark, times, NEVER), reached, [micro.id for micro in goal.micros])


def list_orders(times: Ints, converted: NDArray[np.bool_], micros: list[str]) -> pd.DataFrame:
    """List pairs and triples of micros with their counts, those left out that nobody did.

    Args:
        times: When each unit did each micro first (units x micros); NEVER where it did not.
        converted: Whether each unit converted.
        micros: The micros' ids.

    Returns:
        The table of `count_sequences`.
    """
    everyone, some = _count_orders(times), _count_orders(times[converted])
    frames = []
    for size in (2, 3):
        chosen = np.array([*itertools.permutations(range(len(micros)), size)], int).reshape(-1, size).T
        names = np.array([*micros, ""], dtype=object)[[*chosen, *[np.full(chosen.shape[1], -1)] * (3 - size)]]
        counts: dict[str, Ints] = {}
        for number, order in enumerate(("", "_any_order")):
            units, reached = (found[size][number][tuple(chosen)].astype(np.int64) for found in (everyone, some))
            counts |= {f"units{order}": units, f"converted{order}": reached, f"lost{order}": units - reached}
        frames.append(pd.DataFrame(dict(zip(COLUMNS, names, strict=False))).astype("str").assign(**counts))
    table = pd.concat(frames, ignore_index=True)
    return table[table["units_any_order"] > 0].reset_index(drop=True)


def _first_times(conversions: Conversions, origin: Ints, steps: int) -> Ints:
    """Give the time from each unit's entry to its first conversion of each kind (units x steps), else NEVER."""
    firsts = np.full((len(origin), steps), NEVER)
    since = conversions.time - origin[conversions.unit]
    after = since >= 0
    np.minimum.at(firsts, (conversions.unit[after], conversions.step[after]), since[after])
    return firsts


def _count_orders(times: Ints) -> dict[int, NDArray[np.float64]]:
    """Count the units that did two, and three, micros in order, then in any order (one axis more a micro)."""
    size = times.shape[1]
    did = (times < NEVER).astype(float)
    pairs, triples = np.zeros((2, size, size)), np.zeros((2, size, size, size))
    for middle in range(size):
        both = did * did[:, [middle]]
        before, after = both * (times < times[:, [middle]]), both * (times > times[:, [middle]])
        pairs[:, middle] = after.sum(axis=0), both.sum(axis=0)
        triples[:, :, middle] = before.T @ after, both.T @ both
    return {2: pairs, 3: triples}
