import itertools
import math

import numpy as np
import pytest

from convlib.credit import Journeys, draw_credit, find_journeys, prepare_model, share_credit
from convlib.errors import ParamError

MODELS = ("first", "last", "linear", "time_decay", "position", "markov", "shapley")


def make_journeys(*paths: str, values: dict[int, float] | None = None, units: list[int] | None = None) -> Journeys:
    """Write paths as `ABx` (converted, by the last letter) or `AB` (not), each of its own unit."""
    touches = [path.removesuffix("x") for path in paths]
    converted = np.array([path.endswith("x") for path in paths], bool)
    worth = np.array([(values or {}).get(number, 1.0) for number in range(len(paths))])
    return Journeys(
        kind=np.array(["ABCDEFGHIJKLMNOP".index(letter) for path in touches for letter in path], np.int64),
        path=np.repeat(np.arange(len(paths)), np.array([len(path) for path in touches], int)),
        before=np.zeros(sum(map(len, touches)), np.int64),
        unit=np.arange(len(paths)) if units is None else np.array(units),
        converted=converted,
        value=np.where(converted, worth, 0.0),
        learnt=np.array([len(path) > 0 for path in touches], bool),
        is_young=False,
        pending=0,
    )


def credit(model: str, journeys: Journeys, kinds: int, order: int = 1) -> np.ndarray:
    return share_credit(prepare_model(model, journeys, kinds, order=order, half_life=1), journeys)  # type: ignore[arg-type]


def test_markov_equals_the_worked_example() -> None:
    # A to B half of the time; B converts half of the time; A alone never: 1/4 in all, nothing without either.
    journeys = make_journeys("ABx", "AB", "A", "A")
    assert credit("markov", journeys, 2)[:, 0].tolist() == [0.5, 0.5, 0.0]
    # Start at A (2 of 3) or B (1 of 3); A converts half of the time, B always.
    journeys = make_journeys("Ax", "A", "Bx")
    effects = np.array([1 / 3, 1 / 3])
    assert credit("markov", journeys, 2)[:2, 0] == pytest.approx(2 * effects / effects.sum())


def test_markov_values_what_a_removal_would_lose() -> None:
    journeys = make_journeys("Ax", "A", "Bx", values={0: 10.0, 2: 30.0})
    assert credit("markov", journeys, 2)[:, 1] == pytest.approx([10.0, 30.0, 0.0])


def test_markov_of_a_higher_order_looks_back() -> None:
    # B converts after A and never after C; the first order mixes both.
    journeys = make_journeys("ABx", "ABx", "CB", "CB")
    assert credit("markov", journeys, 3, order=2)[:3, 0] == pytest.approx([1.0, 1.0, 0.0])
    assert credit("markov", journeys, 3, order=1)[:3, 0] == pytest.approx([0.5, 1.0, 0.5])


def test_markov_refuses_a_chain_too_large_to_solve() -> None:
    rng = np.random.default_rng(0)
    paths = ["".join(rng.choice([*"ABCDEFGHIJKLMNOP"], 200)) for _ in range(80)]
    with pytest.raises(ParamError) as caught:
        prepare_model("markov", make_journeys(*paths), 16, order=3, half_life=1)
    states = len({path[max(0, k - 2) : k + 1] for path in paths for k in range(200)})
    assert str(caught.value) == (
        f"`order` is 3, which makes a chain of {states:,} states out of 16 touches; at most 3,000 can be solved. "
        "Choose a lower order."
    )


def test_shapley_equals_the_worked_example() -> None:
    # v(A) = 1/2, v(B) = 0, v(AB) = 2/4.
    journeys = make_journeys("Ax", "A", "B", "ABx")
    shares = np.array([(1 / 2 + 1 / 2) / 2, (0 + 0) / 2])
    assert credit("shapley", journeys, 2)[:2, 0] == pytest.approx(2 * shares / shares.sum())


def test_shapley_above_twelve_touches_is_near_the_exact_values() -> None:
    rng = np.random.default_rng(3)
    letters = [*"ABCDEFGHIJKLM"]
    paths = []
    for _ in range(3_000):
        touches = sorted(rng.choice(letters, rng.integers(1, 4), replace=False))
        chance = 0.1 + 0.2 * ("A" in touches) + 0.1 * ("B" in touches)
        paths.append("".join(touches) + "x" * (rng.random() < chance))
    found = credit("shapley", make_journeys(*paths), 13)[:13, 0]
    expected = enumerate_shapley(paths, 13)
    total = sum(path.endswith("x") for path in paths)
    assert found == pytest.approx(expected / expected.sum() * total, abs=0.03 * total)
    assert np.corrcoef(found, expected)[0, 1] > 0.99


def enumerate_shapley(paths: list[str], players: int) -> np.ndarray:
    masks = np.array([sum(1 << "ABCDEFGHIJKLM".index(c) for c in set(path.removesuffix("x"))) for path in paths])
    won = np.array([path.endswith("x") for path in paths])
    rates = np.zeros(1 << players)
    for every in range(1, 1 << players):
        inside = (masks & ~every) == 0
        rates[every] = won[inside].mean() if inside.any() else 0
    values = np.zeros(players)
    for player in range(players):
        for every in range(1 << players):
            if not every >> player & 1:
                weight = 1 / (players * math.comb(players - 1, every.bit_count()))
                values[player] += weight * (rates[every | 1 << player] - rates[every])
    return values


@pytest.mark.parametrize("model", MODELS)
def test_share_credit_sums_exactly_and_keeps_what_had_no_touch(model: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        paths = ["".join(rng.choice([*"ABCD"], rng.integers(0, 6))) + "x" * int(rng.integers(0, 2)) for _ in range(60)]
        values = dict(enumerate(rng.lognormal(3, 2, 60)))
        journeys = make_journeys(*paths, values=values)
        found = credit(model, journeys, 4)
        assert math.fsum(found[:, 0]) == journeys.converted.sum()
        assert math.fsum(found[:, 1]) == math.fsum(journeys.value)
        assert found[-1, 0] == paths.count("x")


@pytest.mark.parametrize("model", MODELS)
def test_share_credit_of_worthless_or_no_conversions_is_zero(model: str) -> None:
    found = credit(model, make_journeys("ABx", "B", values={0: 0.0}), 2)
    assert found[:, 1].tolist() == [0, 0, 0]
    assert credit(model, make_journeys("A", "B"), 2).tolist() == [[0, 0]] * 3
    assert credit(model, make_journeys(), 2).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("model", MODELS)
def test_draw_credit_keeps_each_units_paths_together(model: str) -> None:
    journeys = make_journeys("Ax", "Bx", "Ax", "B", "ABx", "x", units=[0, 0, 1, 2, 2, 3])
    sums = prepare_model(model, journeys, 2, order=1, half_life=1)  # type: ignore[arg-type]
    drawn = draw_credit(sums, journeys, draws=300)
    # Four units drawn with replacement, with 2, 1, 1 conversions and 1 without a touch.
    possible = {sum(pick) for pick in itertools.product((2, 1, 1, 1), repeat=4)}
    whole = drawn[:, :, 0].sum(axis=1)
    assert set(np.round(whole[~np.isnan(whole)])) <= possible
    assert np.nanmean(whole) == pytest.approx(5, abs=0.2)
    assert np.array_equal(drawn, draw_credit(sums, journeys, draws=300), equal_nan=True)


def test_draw_credit_of_linear_weights_is_the_bootstrap_of_a_sum() -> None:
    rng = np.random.default_rng(2)
    paths = ["A" * int(a) + "B" * int(b) + "x" for a, b in rng.integers(1, 5, (400, 2))]
    journeys = make_journeys(*paths)
    sums = prepare_model("linear", journeys, 2, order=1, half_life=1)
    drawn = draw_credit(sums, journeys, draws=2_000)[:, 0, 0]
    shares = np.array([path.count("A") / (len(path) - 1) for path in paths])
    assert drawn.mean() == pytest.approx(shares.sum(), rel=0.01)
    assert drawn.std() == pytest.approx(shares.std() * math.sqrt(400), rel=0.06)


def test_find_journeys_cuts_unconverted_touches_by_window_and_macro() -> None:
    unit = np.array([0, 0, 0, 0, 0, 1, 1])
    time = np.array([0, 5, 6, 20, 21, 0, 30])
    kind = np.array([0, 1, 0, 2, 0, 1, 1])  # 2 is the macro
    value = np.array([np.nan, np.nan, np.nan, 7.0, np.nan, np.nan, np.nan])
    found = find_journeys(unit, time, kind, value, macro=2, window=5, entry=np.array([0, 0]), end=34)
    assert found.path.tolist() == [0, 0, 1, 3, 4]  # path 2 is the macro, without a touch
    assert found.converted.tolist() == [False, False, True, False, False]
    assert found.value.tolist() == [0, 0, 7.0, 0, 0]
    assert (found.learnt.tolist(), found.pending) == ([True, True, False, True, True], 1)
