import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from convlib.layout import StepRows, divide, lay_out, lay_out_stored, look_up

Ints = NDArray[np.int64]


def make(unit: list[int], time: list[int], steps: list[int], group: list[int], value: list[float]) -> StepRows:
    return StepRows(
        np.array(unit, np.uint64), np.array(time), np.array(steps, np.uint8), np.array(group, np.int32), np.array(value)
    )


def test_lay_out_sorts_by_unit_time_step_group_and_value() -> None:
    nan = np.nan
    rows = make(
        unit=[7, 5, 7, 7, 7, 7],
        time=[3, 9, 1, 3, 3, 3],
        steps=[2, 1, 1, 1, 2, 2],
        group=[1, 0, 0, 2, 0, 1],
        value=[4.0, nan, nan, nan, nan, 2.0],
    )
    part = lay_out(rows)
    found = part.conversions
    assert found.codes.tolist() == [7, 5]  # in order of appearance
    assert found.unit.tolist() == [0, 0, 0, 0, 0, 1]
    assert found.time.tolist() == [1, 3, 3, 3, 3, 9]
    assert found.step.tolist() == [0, 0, 1, 1, 1, 0]
    assert part.group(np.arange(6)).tolist() == [0, 2, 0, 1, 1, 0]
    assert found.event.tolist() == [2, 3, 4, 5, 0, 1]
    np.testing.assert_array_equal(found.value, [nan, nan, nan, 2, 4, nan])
    assert found.offsets.tolist() == [0, 5, 6]


def test_lay_out_gives_an_event_of_several_steps_a_row_for_each_and_leaves_others_out() -> None:
    rows = make(unit=[1, 1, 1], time=[2, 1, 3], steps=[0b101, 0, 0b110], group=[0, 0, 0], value=[np.nan] * 3)
    part = lay_out(rows)
    assert part.conversions.step.tolist() == [0, 2, 1, 2]
    assert part.conversions.event.tolist() == [0, 0, 2, 2]
    assert part.used[1].tolist() == [1, 2, 3]  # also the event that is no step


def test_lay_out_knows_64_steps() -> None:
    steps = np.array([1 << 63, 1, (1 << 63) + (1 << 31)], np.uint64)
    rows = StepRows(np.zeros(3, np.uint64), np.arange(3), steps, np.zeros(3, np.int32), np.full(3, np.nan))
    assert lay_out(rows).conversions.step.tolist() == [63, 0, 31, 63]


@pytest.mark.parametrize("count", [3, 64, 65, 5000])
def test_lay_out_sorts_units_of_any_size_as_numpy_does(count: int) -> None:
    rng = np.random.default_rng(count)
    unit, time = rng.integers(0, 3, count), rng.integers(0, count, count)
    rows = StepRows(
        unit.astype(np.uint64), time, np.ones(count, np.uint8), np.zeros(count, np.int32), np.full(count, np.nan)
    )
    found = lay_out(rows).conversions
    for number, key in enumerate(found.codes):
        assert found.time[found.unit == number].tolist() == sorted(time[unit == key].tolist())
    assert sorted(found.codes) == sorted(set(unit))


def test_lay_out_keeps_the_cluster_of_each_unit() -> None:
    rows = make(unit=[4, 9, 4], time=[1, 1, 2], steps=[1, 1, 1], group=[0, 0, 0], value=[np.nan] * 3)
    part = lay_out(StepRows(**{**vars(rows), "cluster": np.array([70, 80, 70], np.uint64)}))
    assert part.clusters is not None
    assert dict(zip(part.conversions.codes.tolist(), part.clusters.tolist(), strict=True)) == {4: 70, 9: 80}


def test_lay_out_stored_chooses_steps_and_members_and_orders_ties() -> None:
    stored = {
        "user": np.array([0, 0, 0, 1, 2, 2], np.int32),
        "time": np.array([5, 5, 6, 1, 3, 3]),
        "conversion": np.array([1, 0, 2, 0, 0, 0], np.uint8),
        "event": np.array([10, 11, 12, 13, 14, 15]),
        "value": np.array([1.0, 2, 3, 4, 5, 6]),
    }
    groups = np.array([0, 0, 0, 0, 9, 8])
    part = lay_out_stored(
        stored, groups.__getitem__, steps=np.array([0, 1, -1]), last=1, members=np.array([True, False, True])
    )
    assert part.conversions.codes.tolist() == [0, 2]
    assert part.conversions.event.tolist() == [11, 10, 15, 14]
    assert part.conversions.step.tolist() == [0, 1, 0, 0]
    assert part.group(np.arange(4)).tolist() == [0, 0, 8, 9]
    np.testing.assert_array_equal(part.conversions.value, [np.nan, 1, np.nan, np.nan])


def test_divide_keeps_units_together_and_rows_in_order() -> None:
    rng = np.random.default_rng(1)
    unit, time, group = rng.integers(0, 500, 10_000).astype(np.uint64), np.arange(10_000), np.arange(10_000)
    value = np.where(time % 10 == 0, time / 7, np.nan)
    steps = (time % 5).astype(np.uint8)
    starts, units, times, masks, groups, valued, places, values, order = divide(
        unit, time, steps, group.astype(np.int32), value, 8
    )
    assert sorted(times) == list(range(10_000))
    for found, given in ((units, unit), (masks, steps), (groups, group), (order, time)):
        assert found.tolist() == given[times].tolist()
    ends = list(itertools.pairwise(starts))
    assert all((np.diff(times[low:high]) > 0).all() for low, high in ends)
    assert sum(len(set(units[low:high])) for low, high in ends) == len(set(unit))
    assert max(high - low for low, high in ends) < 2 * 10_000 / 8
    for (low, _), (first, after) in zip(ends, itertools.pairwise(valued), strict=True):
        assert values[first:after].tolist() == value[times[low + places[first:after]]].tolist()
    assert valued[-1] == 1000


def test_look_up_finds_the_number_of_each_key() -> None:
    known = np.random.default_rng(2).integers(0, 2**63, 1000).astype(np.uint64)
    numbers = np.arange(1000, dtype=np.int32)[::-1].copy()
    some = np.array([3, 3, 999, 0])
    assert look_up(known[some], known, numbers).tolist() == numbers[some].tolist()
    with pytest.raises(KeyError):
        look_up(np.array([5], np.uint64), known, numbers)
