"""What a report for many readers leaves out: numbers of fewer units than agreed, and what would reveal one."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from convlib.errors import ParamError
from convlib.stats import number_groups

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
OTHER = "(other)"
#: A unit's own vector lies in the span of what is known when its projection on that is itself.
KNOWN = 1 - 1e-6


def find_small(counts: ArrayLike, *, fewest: int) -> Bools:
    """Say which counts are of some units, but of fewer than `fewest`: nobody is nobody's number."""
    known = np.asarray(counts, float)
    return np.asarray((known > 0) & (known < fewest), bool)


def find_hidden(cells: ArrayLike, *, fewest: int, families: Sequence[Any] = ()) -> Bools:
    """Say which rows a reader must not see, so that no count of fewer than `fewest` units is shown or can be derived.

    Args:
        cells: Counts of units, rows x cells; a row is shown or hidden whole.
        fewest: The fewest units of a count that may be shown; 0 hides nothing.
        families: For each way in which rows add up to totals that are known elsewhere, the rows' labels: those of one
            label have a known total.

    Returns:
        One value a row: rows with a small count; then, where a known total less the rows shown would be a small count,
        or the totals together determine one, the smallest other row of that family, until nothing can be derived.

    Source: complementary cell suppression, Hundepool et al. (2012), Statistical Disclosure Control, section 4.4.
    """
    counts = np.asarray(cells, float)
    counts = counts if counts.ndim > 1 else counts[:, None]
    hidden = np.asarray(find_small(counts, fewest=fewest).any(axis=1), bool)
    members = _list_members(families, len(counts))
    while hidden.any() and (helper := next(_list_helpers(counts, hidden, members, fewest), None)) is not None:
        hidden[helper] = True
    return hidden


def _list_members(families: Sequence[Any], rows: int) -> Bools:
    """Give families x rows: who belongs to which."""
    codes = [pd.factorize(np.asarray(each))[0] for each in families]
    parts = [each == np.arange(each.max(initial=-1) + 1)[:, None] for each in codes]
    return np.vstack([np.zeros((0, rows), bool), *parts])


def _list_helpers(counts: Floats, hidden: Bools, members: Bools, fewest: int) -> Iterator[int]:
    """Find rows to hide, so that a small count can no longer be derived."""
    size = counts.sum(axis=1)
    derived = find_small(members.astype(float) @ np.where(hidden[:, None], counts, 0.0), fewest=fewest)
    for family, cell in np.argwhere(derived):
        others = np.flatnonzero(members[family] & ~hidden & (counts[:, cell] > 0))
        if len(others):
            yield int(others[size[others].argmin()])
    # Several totals together may determine a row that none of them does alone.
    rows = np.flatnonzero(hidden)
    known = members[:, rows].astype(float)
    is_known = (np.linalg.pinv(known) @ known).diagonal() > KNOWN
    if find_small(counts[rows[is_known]], fewest=fewest).any():
        others = np.flatnonzero(members[members[:, rows].any(axis=1)].any(axis=0) & ~hidden & (size > 0))
        if len(others):
            yield int(others[size[others].argmin()])


def measure_gaps(sets: ArrayLike) -> Floats:
    """Say of each set how many units more the next larger one has that holds it; 0 where none does.

    Whoever knows that all who did one thing did another subtracts the two numbers.

    Args:
        sets: For each unit, in which sets it is: units x sets.
    """
    held = np.asarray(sets, np.float32)
    overlap, size = held.T @ held, held.sum(axis=0)
    larger = (overlap == size[:, None]) & (size > size[:, None]) & (size > 0)[:, None]
    gaps = np.where(larger, size - size[:, None], np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(gaps), gaps, 0.0)


def split_counts(counts: ArrayLike, totals: ArrayLike) -> Floats:
    """Give the cells of a share: its units, those that did it, and those that did not."""
    did, units = np.broadcast_arrays(np.asarray(counts, float), np.asarray(totals, float))
    return np.column_stack([units, did, units - did])


def keep_steps(units: Sequence[int], required: Sequence[bool], *, fewest: int) -> list[int]:
    """Choose the steps of a funnel that may be shown: what is lost between two of them is not small either.

    Args:
        units: How many reached each step.
        required: For each step, whether it is required.
        fewest: The fewest units of a count that may be shown.

    Returns:
        The steps' places, from 0; none when fewer than two can be shown.
    """
    kept: list[int] = []
    before = units[0] if units else 0
    for step, count in enumerate(units):
        if not find_small([count, before - count], fewest=fewest).any():
            kept.append(step)
            before = count if required[step] else before
    return kept if len(kept) > 1 and kept[0] == 0 else []


def pool_groups(groups: pd.DataFrame, reached: Bools, *, fewest: int) -> pd.DataFrame:
    """Put the units of groups that may not be shown into one group that may.

    Args:
        groups: The columns that make the groups, a row a unit.
        reached: For each unit, which steps it reached.
        fewest: The fewest units of a count that may be shown.

    Returns:
        The columns as texts; `(other)` in all of them for the groups that have a step which few reached, or few did not
        go on from, and the next smallest where the others would reveal these.
    """
    texts = groups.astype("str")
    codes = number_groups(texts)
    size = int(codes.max(initial=-1)) + 1
    counts = np.column_stack([np.bincount(codes, column, size) for column in reached.T.astype(float)])
    one, other = np.triu_indices(reached.shape[1], k=1)
    cells = np.column_stack([counts, np.abs(counts[:, one] - counts[:, other])])
    hidden = find_hidden(cells, fewest=fewest, families=[np.zeros(size)])
    return texts.mask(pd.Series(hidden[codes], index=texts.index), OTHER)


def blank(table: pd.DataFrame, columns: Sequence[str], hidden: ArrayLike) -> dict[str, "pd.Series[float]"]:
    """Give columns of numbers without those of the hidden rows."""
    rows = np.asarray(hidden, bool)
    return {name: table[name].astype(float).mask(rows) for name in columns}


def merge_bins(units: ArrayLike, *, fewest: int) -> NDArray[np.int64]:
    """Number the bins anew, so that neighbours of few units are one; the last may be larger."""
    counts = np.asarray(units, float)
    total, before, number = counts.sum(), 0.0, 0
    numbers = np.zeros(len(counts), np.int64)
    for place, reached in enumerate(np.cumsum(counts)):
        numbers[place] = number
        if reached - before >= fewest and total - reached >= fewest:
            before, number = reached, number + 1
    return numbers


def hide_quantiles(table: pd.DataFrame, units: str, *, fewest: int) -> pd.DataFrame:
    """Leave out the quantiles with fewer than `fewest` units on one side of them (`seconds_p25`: 25%)."""
    percents = table.columns.to_series().str.extract(r"^seconds.*_p(\d+)$")[0].dropna().astype(int)
    hidden = {
        str(name): table[name].where(table[units].astype(float) * min(percent, 100 - percent) >= 100 * fewest)
        for name, percent in percents.items()
    }
    return table.assign(**hidden)


def check_shared(fewest: int, what: str) -> None:
    """Refuse what lists single units, or can't be made safe, in a report that leaves out small numbers.

    Raises:
        ParamError: `fewest` is on.
    """
    if fewest:
        msg = f"{what}, and the report leaves out numbers of fewer than {fewest} units (`fewest`). Use fewest=0."
        raise ParamError(msg)
