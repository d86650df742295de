import itertools

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from convlib.landmarks import NEVER, Design, Followed
from convlib.sequences import COLUMNS, find_sequences, list_sequences

HOUR = 3_600_000_000
N = NEVER


def follow(rows: list[tuple[int, int, list[int]]], *, end: int = 250) -> Followed:
    """Make units that enter at 0 h from the hours of their macro, of leaving, and of each micro."""
    macro, losses, micros = (np.array(each, np.int64) for each in zip(*rows, strict=True))
    hours = [np.where(each == N, N, each * HOUR) if len(each) else each for each in (macro, losses, micros)]
    nothing = np.zeros((len(rows), 1))
    return Followed(
        start=np.zeros(len(rows), np.int64),
        macro=hours[0],
        losses=hours[1],
        micros=hours[2],
        activity=nothing.astype(np.int64),
        values=nothing,
        spent=np.zeros((len(rows), 2)),
        end=end * HOUR,
    )


def test_find_sequences_counts_orders_among_units_at_risk() -> None:
    # Landmark after a day, horizon of two: view, cart, help of each unit.
    rows = [
        (30, N, [0, 1, 3]),  # view, cart, help, then the macro
        (71, N, [1, 0, N]),  # cart, view, then the macro
        (73, N, [0, 1, 25]),  # help and the macro come too late
        (N, N, [0, 0, N]),  # two at one instant are in no order
        (2, N, [0, 1, N]),  # has converted
        (N, 2, [0, 1, N]),  # has left
    ]
    design = Design((1 * HOUR, 24 * HOUR), 48 * HOUR)
    table = find_sequences(follow(rows), design, ["view", "cart", "help"])
    assert tuple(table.columns) == COLUMNS
    counts = ["first", "second", "third", "units", "converted", "units_parts", "converted_parts"]
    counts += ["units_other_order", "converted_other_order"]
    assert [*table[counts].itertuples(index=False, name=None)] == [
        ("view", "cart", "", 2, 1, 2, 1, 2, 1),
        ("view", "help", "", 1, 1, 3, 1, 0, 0),
        ("cart", "view", "", 1, 1, 3, 1, 3, 1),
        ("cart", "help", "", 1, 1, 3, 1, 0, 0),
        ("view", "cart", "help", 1, 1, 3, 1, 0, 0),
    ]
    assert table[["lift_over_parts", "lift_of_order", "q_value"]].isna().all(axis=None)
    assert set(table["note"]) == {"fewer than 30 units with it or with its parts alone"}


def test_find_sequences_leaves_out_the_pending() -> None:
    rows = [(30, N, [0, 1]), (N, N, [0, 1])]
    assert find_sequences(follow(rows, end=71), Design((24 * HOUR,), 48 * HOUR), ["view", "cart"]).empty


def test_list_sequences_counts_what_looking_at_each_unit_finds() -> None:
    rng = np.random.default_rng(1)
    times = np.where(rng.random((300, 5)) < 0.4, NEVER, rng.integers(0, 6, (300, 5)))
    converted = rng.random(300) < 0.3
    table = list_sequences(times, converted, list("abcde")).set_index(["first", "second", "third"]).T
    for size in (2, 3):
        for chosen in itertools.permutations(range(5), size):
            did = np.array([[row[k] < NEVER for k in chosen] for row in times])
            order = np.array([all(row[a] < row[b] for a, b in itertools.pairwise(chosen)) for row in times])
            inside = did.all(axis=1) & order
            row = table[(*("abcde"[k] for k in chosen), *[""] * (3 - size))]
            for name, members in (("", inside), ("_parts", did.any(axis=1) & ~inside)):
                assert (row[f"units{name}"], row[f"converted{name}"]) == (members.sum(), (members & converted).sum())
            others = did.all(axis=1) & ~inside
            assert (row["units_other_order"], row["converted_other_order"]) == (
                others.sum(),
                (others & converted).sum(),
            )


def test_list_sequences_compares_rates_with_newcombes_interval() -> None:
    # 40 of 100 with view then cart convert, 10 of 50 the other way round, 5 of 50 with one of them alone.
    times = np.array([[0, 1]] * 100 + [[1, 0]] * 50 + [[0, NEVER]] * 50)
    converted = np.repeat([True, False, True, False, True, False], [40, 60, 10, 40, 5, 45])
    row = list_sequences(times, converted, ["view", "cart"]).iloc[0]
    assert row["rate"] == 0.4
    assert row["lift_over_parts"] == pytest.approx(0.4 - 15 / 100, abs=1e-12)
    assert row["lift_of_order"] == pytest.approx(0.4 - 0.2, abs=1e-12)
    low, high = confint_proportions_2indep(40, 100, 15, 100, method="newcomb", compare="diff")
    assert (row["lift_over_parts_ci_lower"], row["lift_over_parts_ci_upper"]) == pytest.approx((low, high), rel=1e-10)
    assert row["q_value"] < 0.001


def test_list_sequences_does_not_depend_on_the_order_of_units() -> None:
    rng = np.random.default_rng(2)
    times, converted = rng.integers(0, 9, (50, 4)), rng.random(50) < 0.5
    turned = rng.permutation(50)
    first = list_sequences(times, converted, list("abcd"))
    pd.testing.assert_frame_equal(first, list_sequences(times[turned], converted[turned], list("abcd")))


def test_list_sequences_of_one_micro_is_empty() -> None:
    table = list_sequences(np.zeros((3, 1), np.int64), np.ones(3, bool), ["view"])
    assert (len(table), tuple(table.columns)) == (0, COLUMNS)
