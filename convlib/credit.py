"""How credit for macro-conversions is shared among the touches before them: paths, the seven models, the bootstrap."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Literal, get_args

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from convlib import stats
from convlib.conversions import Ints
from convlib.errors import ParamError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Model = Literal["first", "last", "linear", "time_decay", "position", "markov", "shapley"]
MODELS: tuple[Model, ...] = get_args(Model)
#: The shares of the first and of the last touch by `position`.
ENDS = 0.4
#: Shapley's values are exact up to so many touches; above, they are means over so many orders, and as many reversed.
MOST_EXACT, ORDERS = 12, 250
#: So many states of a Markov chain are solved at once.
MOST_STATES = 3_000
SEED = 20_170_801


@dataclasses.dataclass(frozen=True)
class Journeys:
    """Paths of touches: those that end in each macro-conversion, perhaps without a touch, and those that end in none.

    Attributes:
        kind: Kind of each touch, from 0; touches are in order of path and time.
        path: Path of each touch, from 0.
        before: Microseconds from each touch to the macro; 0 where none came.
        unit: Unit of each path.
        converted: Whether each path ends in the macro.
        value: What its macro is worth, 0 where that is not known.
        learnt: Whether `markov` and `shapley` learn from the path.
        is_young: Whether they learn from converted paths whose window is not over, for want of others.
        pending: Paths without a macro whose window is not over; they are in nothing else.
    """

    kind: Ints
    path: Ints
    before: Ints
    unit: Ints
    converted: Bools
    value: Floats
    learnt: Bools
    is_young: bool
    pending: int

    @functools.cached_property
    def touched(self) -> Bools:
        """Say which paths end in a macro and have a touch."""
        return self.converted & (np.bincount(self.path, minlength=len(self.unit)) > 0)

    @functools.cached_property
    def leading(self) -> tuple[Ints, Ints, Ints]:
        """Give path, kind and microseconds before of the touches that lead to a macro."""
        rows = np.flatnonzero(self.converted[self.path])
        return self.path[rows], self.kind[rows], self.before[rows]

    @functools.cached_property
    def totals(self) -> Floats:
        """Sum up conversions and value (rows): those with a touch, those without, and all."""
        sides = (self.touched, self.converted & ~self.touched, self.converted)
        return np.array([[each.sum() for each in sides], [math.fsum(self.value[each].tolist()) for each in sides]])


@numba.njit(cache=True, nogil=True)  # pragma: no cover - compiled, so never traced
def _own(unit: Ints, time: Ints, kind: Ints, macro: int, window: int) -> Ints:
    """Name each row's path by one of its rows: the macro that it leads to, else the first touch."""
    owner = np.full(kind.size, -1, np.int64)
    ahead = -1
    for row in range(kind.size - 1, -1, -1):
        if ahead >= 0 and unit[ahead] != unit[row]:
            ahead = -1
        if kind[row] == macro:
            ahead = owner[row] = row
        elif ahead >= 0 and time[ahead] - time[row] <= window:
            owner[row] = ahead
    opened = -1
    for row in range(kind.size):
        if kind[row] == macro:
            opened = -1
        elif owner[row] < 0:
            if opened < 0 or unit[opened] != unit[row] or time[row] - time[opened] > window:
                opened = row
            owner[row] = opened
    return owner


def find_journeys(
    unit: Ints, time: Ints, kind: Ints, value: Floats, *, macro: int, window: int, entry: Ints, end: int
) -> Journeys:
    """Cut what each unit did into paths.

    Args:
        unit: Unit of each row, from 0; rows are sorted by unit, time and kind.
        time: Microseconds.
        kind: Which touch a row is, or the macro.
        value: What each row is worth as the macro; NaN for nothing.
        macro: The kind that is the macro, above all touches.
        window: Microseconds.
        entry: Each unit's entry: macros count from it on.
        end: The end of the data.
    """
    owner = _own(unit, time, kind, macro, window)
    since, is_macro = entry[unit], kind == macro
    opens = (owner == np.arange(len(kind))) & ~is_macro & (time >= since)
    closed = time + window <= end
    kept = (is_macro & (time >= since)) | (opens & closed)
    touch = np.flatnonzero(~is_macro & kept[owner])
    path, rows = (np.cumsum(kept) - 1)[owner[touch]], np.flatnonzero(kept)
    converted = is_macro[rows]
    counts = np.bincount(path, minlength=len(rows))
    first = rows.copy()
    first[counts > 0] = touch[(np.cumsum(counts) - counts)[counts > 0]]
    learnt = (counts > 0) & closed[first] & (time[first] >= since[first])
    is_young = bool(converted[counts > 0].any() and not converted[learnt].any())
    return Journeys(
        kind=kind[touch].astype(np.int64),
        path=path,
        before=time[owner[touch]] - time[touch] if len(touch) else touch,
        unit=unit[rows],
        converted=converted,
        value=np.where(converted, np.nan_to_num(value[rows]), 0.0),
        learnt=learnt | (converted & (counts > 0)) if is_young else learnt,
        is_young=is_young,
        pending=int((opens & ~closed).sum()),
    )


@dataclasses.dataclass(frozen=True)
class Sums:
    """What a model needs of the paths: sums over them, so that a path may count several times, or never.

    Attributes:
        path: Path of each entry.
        cell: Which sum it adds to.
        amount: What it adds.
        cells: How many sums there are.
        share: From the sums to the share of each touch in conversions and in value (touches x 2).
    """

    path: Ints
    cell: Ints
    amount: Floats
    cells: int
    share: Callable[[Floats], Floats]


def prepare_model(model: Model, journeys: Journeys, kinds: int, *, order: int, half_life: int) -> Sums:
    """List what a model adds up over paths, and how shares follow from it.

    Args:
        model: The model.
        journeys: The paths.
        kinds: How many kinds of touches there are.
        order: How many touches back `markov` looks.
        half_life: Microseconds after which a touch counts half by `time_decay`.

    Raises:
        ParamError: The chain has too many states.
    """
    if model == "markov":
        return _prepare_markov(journeys, kinds, order)
    if model == "shapley":
        return _prepare_shapley(journeys, kinds)
    return _prepare_weights(model, journeys, kinds, half_life)


@numba.njit(cache=True, nogil=True)  # pragma: no cover - compiled, so never traced
def _weigh(path: Ints, before: Ints, rule: int, half_life: float) -> Floats:
    """Give the touches of each path weights that sum to one, by the number of a rule in `MODELS`."""
    weight = np.empty(path.size)
    low = 0
    while low < path.size:
        high = low
        while high < path.size and path[high] == path[low]:
            high += 1
        total, size = 0.0, high - low
        for row in range(low, high):
            if rule == 2 or (rule == 4 and size < 3):
                weight[row] = 1.0
            elif rule == 3:
                # Counted from the last touch: no weight of a whole path is too small for a number.
                weight[row] = 2.0 ** (-(before[row] - before[high - 1]) / half_life)
            elif rule == 4:
                weight[row] = ENDS if row in (low, high - 1) else (1 - 2 * ENDS) / (size - 2)
            else:
                weight[row] = 1.0 if row == (low if rule == 0 else high - 1) else 0.0
            total += weight[row]
        weight[low:high] /= total
        low = high
    return weight


def _prepare_weights(model: Model, journeys: Journeys, kinds: int, half_life: int) -> Sums:
    """Share each conversion out among the touches of its path."""
    path, kind, before = journeys.leading
    weight = _weigh(path, before, MODELS.index(model), float(half_life))
    amount = np.concatenate([weight, weight * journeys.value[path]])

    def share(sums: Floats) -> Floats:
        return _normalise(sums.reshape(2, kinds).T)

    return Sums(np.tile(path, 2), np.concatenate([kind, kind + kinds]), amount, 2 * kinds, share)


def _prepare_markov(journeys: Journeys, kinds: int, order: int) -> Sums:
    """Count the steps of an absorbing chain whose states are the last `order` touches of a path."""
    rows = journeys.learnt[journeys.path]
    path, kind = journeys.path[rows], journeys.kind[rows]
    is_first = np.diff(path, prepend=-1) > 0
    is_last = np.roll(is_first, -1) if len(path) else is_first
    state, last = _number_states(kind, path, kinds, order)
    states = len(last)
    source = np.where(is_first, states, np.roll(state, 1))
    cell, step = _number(source * states + state)
    ends, final = path[is_last], state[is_last]
    won = journeys.converted[ends]
    cells = [cell, *(len(step) + part * states + final for part in range(3))]
    amounts = [np.ones(len(path)), won, ~won, journeys.value[ends]]

    def share(sums: Floats) -> Floats:
        steps, (converted, lost, worth) = sums[: len(step)], sums[len(step) :].reshape(3, states)
        chain = np.zeros((states + 1, states))
        chain[step // states, step % states] = steps
        leaving = np.append(converted + lost, 0) + chain.sum(axis=1)
        chain = np.nan_to_num(stats.divide(chain, leaving[:, None]))
        reward = np.nan_to_num(stats.divide(np.stack([converted, worth], axis=1), leaving[:states, None]))
        return _normalise(_remove(chain, reward, last, kinds))

    paths = np.concatenate([path, np.tile(ends, 3)])
    return Sums(paths, np.concatenate(cells), np.concatenate(amounts), len(step) + 3 * states, share)


def _number_states(kind: Ints, path: Ints, kinds: int, order: int) -> tuple[Ints, Ints]:
    """Number the last `order` touches at each touch, and give the latest of them for each number."""
    code = kind.copy()
    for back in range(1, order):
        earlier = np.full(len(kind), kinds)
        earlier[back:] = np.where(path[back:] == path[:-back], kind[:-back], kinds)
        code = code + earlier * (kinds + 1) ** back
    state, known = _number(code)
    if len(known) > MOST_STATES:
        msg = (
            f"`order` is {order}, which makes a chain of {len(known):,} states out of {kinds} touches; at most "
            f"{MOST_STATES:,} can be solved. Choose a lower order."
        )
        raise ParamError(msg)
    return state, known % (kinds + 1)


def _number(codes: Ints) -> tuple[Ints, Ints]:
    """Number the codes that occur, in order; there are few enough for a table of all."""
    known = np.flatnonzero(np.bincount(codes))
    places = np.zeros(codes.max(initial=0) + 1, np.int64)
    places[known] = np.arange(len(known))
    return places[codes], known


def _remove(chain: Floats, reward: Floats, last: Ints, kinds: int) -> Floats:
    """Give what is lost of conversions and value when all that comes to a touch ends there (touches x 2).

    With N, the inverse of I - Q, one solution serves all removals: what the start's visits to a touch's states bring is
    the chance to come to each of them first, times what follows from there.
    """
    visits = np.linalg.inv(np.eye(len(last)) - chain[:-1])
    reached, follows = chain[-1] @ visits, visits @ reward
    lost = np.zeros((kinds, 2))
    for touch in range(kinds):
        mine = np.flatnonzero(last == touch)
        if len(mine) == 1:  # what a small system would give, without solving it
            lost[touch] = reached[mine] / visits[mine, mine] * follows[mine[0]]
        elif len(mine):
            lost[touch] = np.linalg.solve(visits[np.ix_(mine, mine)].T, reached[mine]) @ follows[mine]
    return lost


def _prepare_shapley(journeys: Journeys, kinds: int) -> Sums:
    """Count paths, conversions and value by the set of touches of a path."""
    rows = journeys.learnt[journeys.path]
    kind, present = _number(journeys.kind[rows])
    starts = np.flatnonzero(np.diff(journeys.path[rows], prepend=-1))
    path = journeys.path[rows][starts]
    members = np.bitwise_or.reduceat(np.left_shift(1, kind), starts) if len(starts) else starts
    cell, sets = pd.factorize(members, sort=True)
    gain = _list_exact(sets, len(present)) if len(present) <= MOST_EXACT else _list_sampled(sets, len(present))

    def share(sums: Floats) -> Floats:
        credits = np.zeros((kinds, 2))
        credits[present] = gain(sums.reshape(3, len(sets)).T)
        return _normalise(credits)

    amount = np.concatenate([np.ones(len(path)), journeys.converted[path], journeys.value[path]])
    cells = np.concatenate([cell + part * len(sets) for part in range(3)])
    return Sums(np.tile(path, 3), cells, amount, 3 * len(sets), share)


def _list_exact(sets: Ints, players: int) -> Callable[[Floats], Floats]:
    """Prepare Shapley's values over all sets of touches."""
    every = np.arange(1 << players)
    size = np.bitwise_count(every).astype(np.int64)
    factorial = [math.factorial(count) for count in range(players + 1)]
    weight = np.array([factorial[n] * factorial[players - n - 1] / factorial[players] for n in range(players)])

    def gain(sums: Floats) -> Floats:
        within = np.zeros((1 << players, 3))
        within[sets] = sums
        for player in range(players):  # what lies in a set: its own sums and those of all its subsets
            pairs = within.reshape(-1, 2, 1 << player, 3)
            pairs[:, 1] += pairs[:, 0]
        rate = _rate(within)
        without = [every[every >> player & 1 == 0] for player in range(players)]
        gains = [weight[size[s]] @ (rate[s | 1 << player] - rate[s]) for player, s in enumerate(without)]
        return np.array(gains).reshape(players, 2)

    return gain


def _list_sampled(sets: Ints, players: int) -> Callable[[Floats], Floats]:
    """Prepare means of what each touch adds to those before it, over drawn orders of all touches and their reverses."""
    rng = np.random.default_rng(SEED)
    drawn = np.array([rng.permutation(players) for _ in range(ORDERS)])
    orders = np.concatenate([drawn, drawn[:, ::-1]])
    places = np.argsort(orders, axis=1)
    has = (sets[:, None] >> np.arange(players) & 1).astype(bool)
    # A set is complete with the last of its touches.
    complete = np.array([np.where(has, place, -1).max(axis=1) for place in places])
    cell = complete + np.arange(len(orders))[:, None] * players
    column = np.broadcast_to(np.arange(len(sets)), cell.shape)
    entries = (np.ones(cell.size), (cell.ravel(), column.ravel()))
    adds = csr_array(entries, shape=(len(orders) * players, len(sets)))

    def gain(sums: Floats) -> Floats:
        rate = _rate(np.cumsum(np.asarray(adds @ sums).reshape(len(orders), players, 3), axis=1))
        gains = np.diff(rate, axis=1, prepend=0.0)
        mean: Floats = np.take_along_axis(gains, places[:, :, None], axis=1).mean(axis=0)
        return mean

    return gain


def _rate(sums: Floats) -> Floats:
    """Divide conversions and value by paths; what no path lies in converts nobody."""
    return np.nan_to_num(stats.divide(sums[..., 1:], sums[..., :1]))


def _normalise(credits: Floats) -> Floats:
    """Turn credits into shares; value that none of the touches makes a difference to goes as the conversions do."""
    shares = stats.divide(credits, credits.sum(axis=0))
    none = np.abs(credits.sum(axis=0)) <= stats.TINY * np.abs(credits).max(axis=0, initial=0)
    return np.where(none, shares[:, :1], shares)


def share_credit(sums: Sums, journeys: Journeys) -> Floats:
    """Credit conversions and value to the touches, and in a last row those that came without a touch.

    Returns:
        Touches + 1 x 2; each column sums exactly (`math.fsum`) to the conversions and their value.
    """
    shares = sums.share(np.asarray(np.bincount(sums.cell, sums.amount, minlength=sums.cells), np.float64))
    columns = []
    for share, (touched, bare, total) in zip(shares.T, journeys.totals, strict=True):
        own = share * touched if touched else np.zeros(len(share))
        columns.append(_close(np.append(own, bare), total))
    return np.stack(columns, axis=1)


def _close(credits: Floats, total: float) -> Floats:
    """Put what rounding left over with the touch that is credited most, or if that is too coarse with the next."""
    places = [place for place in np.argsort(-np.abs(credits[:-1]), kind="stable") if credits[place]]
    rests = ((place, math.fsum([total, *-np.delete(credits, place)])) for place in (*places, len(credits) - 1))
    closed = (np.where(np.arange(len(credits)) == place, rest, credits) for place, rest in rests)
    return next((each for each in itertools.chain([credits], closed) if math.fsum(each) == total), credits)


def draw_credit(sums: Sums, journeys: Journeys, *, draws: int) -> Floats:
    """Share the credit again for units drawn with replacement, all paths of a unit together.

    Returns:
        Draws x touches + 1 x 2. The same for the same data, whatever the units are called.

    Source: Efron (1979); units as clusters: Davison and Hinkley (1997), 3.8.
    """
    patterns, counts = _fold_units(sums, journeys)
    rng = np.random.default_rng(SEED)
    member = np.repeat(np.arange(len(counts)), counts)
    sampled = []
    for _ in range(draws):
        chosen = np.bincount(member[rng.integers(0, len(member), len(member))], minlength=len(counts))
        totals: Floats = chosen.astype(np.float64) @ patterns
        with_touch, without = totals[:4].reshape(2, 2)
        shares = sums.share(totals[4:])
        sampled.append(np.concatenate([shares * with_touch, without[None]]))
    return np.array(sampled)


def _fold_units(sums: Sums, journeys: Journeys) -> tuple[csr_array, Ints]:
    """Add up each unit's sums, after its totals; units that are alike are one row, with their number.

    Rows are told apart, and put in order, by a hash of what they hold: names of units change nothing.
    """
    won = np.flatnonzero(journeys.converted)
    bare = 2 * ~journeys.touched[won]
    path = np.concatenate([won, won, sums.path])
    cell = np.concatenate([bare, bare + 1, sums.cell + 4])
    amount = np.concatenate([np.ones(len(won)), journeys.value[won], sums.amount])
    unit, known = pd.factorize(journeys.unit)
    units = csr_array((amount, (unit[path], cell)), shape=(len(known), sums.cells + 4))
    units.sum_duplicates()
    units.eliminate_zeros()
    hashed = pd.util.hash_array(units.indices.astype(np.uint64)) * np.uint64(3) + pd.util.hash_array(units.data)
    ends = np.concatenate([np.zeros(1, np.uint64), np.cumsum(pd.util.hash_array(hashed), dtype=np.uint64)])
    row, counts = np.unique(np.diff(ends[units.indptr]), return_index=True, return_counts=True)[1:]
    return units[row], counts
