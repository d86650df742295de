"""Which micro-conversions come in which order before a landmark, and whether the order matters."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib import stats
from convlib.landmarks import NEVER, Bools, Design, Floats, Followed, Ints

COLUMNS = (
    "first",
    "second",
    "third",
    "units",
    "converted",
    "rate",
    "rate_ci_lower",
    "rate_ci_upper",
    "units_parts",
    "converted_parts",
    "lift_over_parts",
    "lift_over_parts_ci_lower",
    "lift_over_parts_ci_upper",
    "units_other_order",
    "converted_other_order",
    "lift_of_order",
    "lift_of_order_ci_lower",
    "lift_of_order_ci_upper",
    "q_value",
    "note",
)


def find_sequences(
    followed: Followed, design: Design, micros: list[str], *, confidence: float = stats.CONFIDENCE
) -> pd.DataFrame:
    """Say how often the units convert that did two or three micros in one order before the last landmark.

    The first time of each micro counts; two at one instant are in no order.

    Args:
        followed: What each unit did; of more candidates than `micros` the first ones count.
        design: The clock; of several landmarks the last.
        micros: The micros' ids.
        confidence: Level of the intervals.

    Returns:
        One row for each ordered pair and triple that some unit at risk did: `first`, `second`, `third` (empty for a
        pair); `units` that did them in this order, how many `converted`, and the `rate`. *Parts* are units that did
        some of its micros but not the sequence: `lift_over_parts` is the difference of the rates. *Other order* are
        those of them that did all its micros: `lift_of_order`. Newcombe's intervals; `q_value` is that of the lift over
        the parts over all rows with at least 30 units on both sides (the others have NaN lifts and a note).
    """
    landmark = design.landmarks[-1]
    at_risk = followed.is_mature(design, landmark) & (np.minimum(followed.macro, followed.losses) >= landmark)
    times, converted = followed.micros[at_risk, : len(micros)], followed.macro[at_risk] < design.follow_up
    return list_sequences(np.where(times < landmark, times, NEVER), converted, micros, confidence=confidence)


def list_sequences(
    times: Ints, converted: Bools, micros: list[str], *, confidence: float = stats.CONFIDENCE
) -> pd.DataFrame:
    """List the sequences that some unit did.

    Args:
        times: When each unit did each micro first (units x micros); NEVER where it did not.
        converted: Whether each unit converted.
        micros: The micros' ids.
        confidence: Level of the intervals.

    Returns:
        The table of `find_sequences`.
    """
    counts = {"units": _count_orders(times), "converted": _count_orders(times[converted])}
    parts: dict[str, list[NDArray[Any]]] = {}
    for size in (2, 3):
        chosen = np.array([*itertools.permutations(range(len(micros)), size)], int).reshape(-1, size).T
        did = counts["units"][size][0][tuple(chosen)] > 0
        order = chosen[:, did]
        names = np.array([*micros, ""], dtype=object)[[*order, *[np.full(order.shape[1], -1)] * (3 - size)]]
        columns = dict(zip(COLUMNS, names, strict=False))
        for name, found in counts.items():
            in_order, together, either = (found[size][kind][tuple(order)].astype(np.int64) for kind in range(3))
            columns |= {name: in_order, f"{name}_parts": either - in_order, f"{name}_other_order": together - in_order}
        for name, values in columns.items():
            parts.setdefault(name, []).append(values)
    return _compare({name: np.concatenate(each) for name, each in parts.items()}, confidence)


def _compare(counts: dict[str, NDArray[Any]], confidence: float) -> pd.DataFrame:
    units, converted = counts["units"], counts["converted"]
    low, high = stats.wilson_interval(converted, units, confidence=confidence)
    rate = stats.divide(converted, units)
    columns = {**counts, "rate": rate, "rate_ci_lower": low, "rate_ci_upper": high}
    for other, name in (("parts", "lift_over_parts"), ("other_order", "lift_of_order")):
        sides = converted, units, counts[f"converted_{other}"], counts[f"units_{other}"]
        enough = np.minimum(sides[1], sides[3]) >= stats.FEW_UNITS
        low, high = stats.newcombe_intervals(*sides, confidence=confidence)
        lift = rate - stats.divide(sides[2], sides[3])
        for column, values in ((name, lift), (f"{name}_ci_lower", low), (f"{name}_ci_upper", high)):
            columns[column] = np.where(enough, values, np.nan)
        if other == "parts":
            p_values = np.full(len(units), np.nan)
            p_values[enough] = stats.compare_shares(*(side[enough] for side in sides))
            few = f"fewer than {stats.FEW_UNITS} units with it or with its parts alone"
            columns |= {"q_value": stats.control_false_discoveries(p_values), "note": np.where(enough, "", few)}
    texts = dict.fromkeys(("first", "second", "third", "note"), "str")
    return pd.DataFrame(columns, columns=list(COLUMNS)).astype(texts)


def _count_orders(times: Ints) -> dict[int, Floats]:
    """Count the units that did two, and three, micros in order; all of them in any order; at least one of them."""
    size = times.shape[1]
    did = (times < NEVER).astype(float)
    pairs, triples = np.zeros((3, size, size)), np.zeros((3, size, size, size))
    for middle in range(size):
        both = did * did[:, [middle]]
        before, after = both * (times < times[:, [middle]]), both * (times > times[:, [middle]])
        pairs[0, middle], pairs[1, middle] = after.sum(axis=0), both.sum(axis=0)
        triples[0, :, middle], triples[1, :, middle] = before.T @ after, both.T @ both
    single = did.sum(axis=0)
    pairs[2] = single[:, None] + single - pairs[1]
    two = pairs[1]
    alone = single[:, None, None] + single[:, None] + single
    triples[2] = alone - two[:, :, None] - two[:, None, :] - two + triples[1]
    return {2: pairs, 3: triples}
