import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from math import nan, sqrt
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from scipy import stats
from small_logs import START as MONDAY
from small_logs import make_log, make_plan, pick, repeat

from convlib.datasets.load import simulate_shop
from convlib.errors import ParamError
from convlib.events import EventLog, read_events
from convlib.paths import COLUMNS, PATH_COLUMNS, Paths, trace_paths

PLAN = """\
macros:
  - id: buy
    name: Bought
    match: {event_name: buy}
    micros:
      - {id: view, name: Viewed, match: {event_name: [view, both]}, stage: awareness, kind: process_milestone}
      - {id: cart, match: {event_name: [cart, both]}, stage: decision, kind: process_milestone}
    losses:
      - {id: gone, match: {event_name: leave}}
"""
FIVE = """\
ann visit 0min
ann view 1min
ann view 2min
ann cart 5min
ann buy 10min
ann view 30min
bob visit 0min
bob view 3min
bob cart 4min
bob view 6min
cid visit 0min
cid buy 2min
cid cart 2min
dan visit 0min
eve visit 30D
eve buy 30D1min
eve visit 31D
"""
SHARES = ["share_of_source", "median_seconds"]


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return read(tmp_path, FIVE)


def read(folder: Path, rows: str | pd.DataFrame) -> EventLog:
    return make_log(rows, make_plan(folder, PLAN))


def transitions(paths: Paths) -> set[tuple[object, ...]]:
    return set(pick(paths.table, "source target units transitions"))


def texts(paths: Paths) -> dict[str, tuple[int, int]]:
    """Give the units and the converted ones of each whole path."""
    found = paths.paths
    return dict(zip(found["path"], zip(found["units"], found["converted"], strict=True), strict=True))


def test_trace_paths_counts_transitions_of_converted_and_lost_units(log: EventLog) -> None:
    table = trace_paths(log, window="7D").table
    found = table[["source", "target", "units", "transitions", "converted_units", "lost_units", *SHARES]]
    expected = [
        ("view", "cart", 2, 2, 1, 1, 2 / 2, 150.0),
        ("cart", "buy", 2, 2, 2, 0, 2 / 3, 150.0),
        ("buy", "(end)", 2, 2, 2, 0, 2 / 2, nan),
        ("(start)", "view", 2, 2, 1, 1, 2 / 4, 120.0),
        ("view", "(end)", 1, 1, 0, 1, 1 / 2, nan),
        ("cart", "view", 1, 1, 0, 1, 1 / 3, 120.0),
        ("(start)", "cart", 1, 1, 1, 0, 1 / 4, 120.0),
        ("(start)", "(end)", 1, 1, 0, 1, 1 / 4, nan),
    ]
    assert_frame_equal(found, pd.DataFrame(expected, columns=found.columns), check_dtype=False)


def test_trace_paths_counts_whole_paths_and_visits(log: EventLog) -> None:
    paths = trace_paths(log)
    assert (paths.units, paths.pending, paths.converted) == (4, 1, 2)
    assert texts(paths) == {
        "view → cart → buy": (1, 1),
        "view → cart → view": (1, 0),
        "cart → buy": (1, 1),
        "(no conversion)": (1, 0),
    }
    assert pick(paths.nodes, "conversion units visits events") == [
        ("cart", 3, 3, 3),
        ("view", 2, 3, 4),
        ("buy", 2, 2, 2),
    ]
    assert pick(paths.flow, "place source target units converted") == [
        (1, "(start)", "view", 2, 1),
        (1, "(start)", "cart", 1, 1),
        (1, "(start)", "(end)", 1, 0),
        (2, "view", "cart", 2, 1),
        (2, "cart", "buy", 1, 1),
        (3, "cart", "view", 1, 0),
        (3, "cart", "buy", 1, 1),
        (3, "buy", "(end)", 1, 1),
        (4, "view", "(end)", 1, 0),
        (4, "buy", "(end)", 1, 1),
    ]


def test_trace_paths_gives_wilson_intervals_of_shares_and_rates(log: EventLog) -> None:
    paths = trace_paths(log, confidence=0.9)
    row = paths.table[paths.table["target"] == "buy"].iloc[0]
    found = row[["share_of_source_ci_lower", "share_of_source_ci_upper"]].to_numpy(float)
    np.testing.assert_allclose(found, wilson(2, 3, 0.9), atol=1e-12)
    first = paths.paths.iloc[0]
    np.testing.assert_allclose(first[["share_ci_lower", "share_ci_upper"]].to_numpy(float), wilson(1, 4, 0.9))
    assert set(paths.paths["note"]) == {"1 units, fewer than 30"}


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's (1927) score interval in closed form."""
    z, rate = float(stats.norm.ppf(0.5 + confidence / 2)), successes / trials
    centre, scale = rate + z**2 / (2 * trials), 1 + z**2 / trials
    half = z * sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return (centre - half) / scale, (centre + half) / scale


def test_trace_paths_after_an_event_starts_with_its_first(log: EventLog) -> None:
    paths = trace_paths(log, start="cart")
    assert texts(paths) == {"cart → buy": (2, 2), "cart → view": (1, 0)}
    assert (paths.units, paths.pending) == (3, 0)
    assert ("(start)", "cart", 3, 3) in transitions(paths)


def test_trace_paths_before_an_event_looks_back(tmp_path: Path) -> None:
    rows = "old visit -8D\n" + FIVE + "fay view -8D\nfay cart -7D\n"
    paths = trace_paths(read(tmp_path, rows), end="cart")
    assert texts(paths) == {"view → cart": (2, 1), "cart": (1, 1)}
    assert (paths.units, paths.pending) == (3, 1)  # fay's week before begins before the data
    assert transitions(paths) == {
        ("(start)", "view", 2, 2),
        ("(start)", "cart", 1, 1),
        ("view", "cart", 2, 2),
        ("cart", "(end)", 3, 3),
    }
    assert pick(paths.flow, "place source target units") == [
        (-1, "(start)", "view", 2),
        (0, "view", "cart", 2),
        (0, "(start)", "cart", 1),
        (1, "cart", "(end)", 3),
    ]


def test_trace_paths_between_two_events_goes_on_past_the_macro(tmp_path: Path) -> None:
    rows = "a view 0min\na buy 1min\na cart 2min\na view 3min\nb view 0min\nb view 1min\nb visit 9D\n"
    paths = trace_paths(read(tmp_path, rows), start="view", end="cart")
    assert texts(paths) == {"view → buy → cart": (1, 1), "view": (1, 0)}


def test_trace_paths_counts_a_macro_after_the_end_as_converted(tmp_path: Path) -> None:
    rows = "a view 0min\na cart 2min\na buy 3min\nb view 0min\nb visit 9D\n"
    paths = trace_paths(read(tmp_path, rows), end="cart", start="view")
    assert texts(paths) == {"view → cart": (1, 1), "view": (1, 0)}


def test_trace_paths_from_the_macro_asks_for_another(tmp_path: Path) -> None:
    rows = "a buy 0min\na buy 5min\nb buy 0min\nb view 1min\nc view 0min\nc visit 9D\n"
    paths = trace_paths(read(tmp_path, rows), start="buy")
    assert texts(paths) == {"buy → buy": (1, 1), "buy → view": (1, 0)}


def test_trace_paths_takes_an_event_outside_the_plan_as_start(log: EventLog) -> None:
    paths = trace_paths(log, start="visit")
    assert texts(paths)["visit → view → cart → buy"] == (1, 1)
    assert texts(paths)["visit"] == (1, 0)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(3, {"view → cart → buy": (1, 1)}), (2, {"view → cart → (more)": (1, 1)}), (1, {"view → (more)": (1, 1)})],
)
def test_trace_paths_cuts_long_paths_where_they_are_far_from_the_entry(
    tmp_path: Path, steps: int, expected: dict[str, tuple[int, int]]
) -> None:
    rows = "a view 0min\na cart 1min\na buy 2min\nb visit 9D\n"
    assert texts(trace_paths(read(tmp_path, rows), steps=steps)) == expected


def test_trace_paths_backwards_cuts_what_is_far_from_the_end(tmp_path: Path) -> None:
    rows = "z visit -9D\na view 0min\na cart 1min\na buy 2min\n"
    paths = trace_paths(read(tmp_path, rows), end="buy", steps=2)
    assert texts(paths) == {"(more) → cart → buy": (1, 1)}
    assert ("(more)", "cart", 1, 1) in transitions(paths)


@pytest.mark.parametrize(
    ("collapse", "path", "events"), [(True, "view → cart", 4), (False, "view → view → view → cart", 4)]
)
def test_trace_paths_collapses_loops_on_request(tmp_path: Path, collapse: bool, path: str, events: int) -> None:
    rows = "a view 0min\na view 1min\na view 2min\na cart 3min\nb visit 9D\n"
    paths = trace_paths(read(tmp_path, rows), collapse_loops=collapse)
    assert texts(paths) == {path: (1, 0)}
    assert paths.nodes["events"].sum() == events


def test_trace_paths_orders_an_instant_by_the_plan_and_ends_it_with_the_macro(tmp_path: Path) -> None:
    rows = "a buy 1min\na leave 1min\na both 1min\na view 0min\nb visit 9D\n"
    assert texts(trace_paths(read(tmp_path, rows))) == {"view → cart → gone → buy": (1, 1)}


@pytest.mark.parametrize(("window", "expected"), [("10min", (1, 1)), ("599s", (1, 0))])
def test_trace_paths_counts_both_ends_of_the_window(tmp_path: Path, window: str, expected: tuple[int, int]) -> None:
    rows = "a view 0min\na buy 10min\nb visit 9D\n"
    path = "view → buy" if expected[1] else "view"
    assert texts(trace_paths(read(tmp_path, rows), window=window)) == {path: expected}


def test_trace_paths_of_all_events_names_those_outside_the_plan(tmp_path: Path) -> None:
    # "gone" is an event that no rule matches, with the id of a conversion; "ping" fires with a conversion.
    rows = "a visit 0min\na gone 1min\na view 2min\na ping 2min\na leave 3min\nb visit 9D\n"
    paths = trace_paths(read(tmp_path, rows), events="all")
    assert texts(paths) == {"visit → gone (event) → view → gone": (1, 0)}


def test_trace_paths_starts_in_the_period_and_looks_past_its_end(tmp_path: Path) -> None:
    rows = "a view -1D\na view 0min\na buy 25h\nb visit 9D\n"
    paths = trace_paths(read(tmp_path, rows).between("2024-01-01", "2024-01-01"))
    assert texts(paths) == {"view → buy": (1, 1)}


def test_trace_paths_of_sessions_counts_visits(tmp_path: Path) -> None:
    rows = "a view 0min\na buy 1min\na view 120min\nb visit 9D\n"
    assert texts(trace_paths(read(tmp_path, rows), unit="session")) == {"view → buy": (1, 1), "view": (1, 0)}


MANY = repeat("won", 40, "visit 0min", "view 1min", "cart 2min", "buy 3min") + repeat(
    "ran", 20, "visit 0min", "view 1min", "buy 4min"
)
MANY += repeat("bad", 10, "visit 0min", "view 1min", "cart 2min") + repeat("out", 50, "visit 0min", "view 1min")
MANY += "end visit 9D\n"


def test_trace_paths_compares_converted_and_lost_units_at_a_source(tmp_path: Path) -> None:
    table = trace_paths(read(tmp_path, MANY)).table
    row = table[(table["source"] == "view") & (table["target"] == "cart")].iloc[0]
    shares = row[["share_converted", "share_lost", "difference"]].to_numpy(float)
    np.testing.assert_allclose(shares, [40 / 60, 10 / 60, 30 / 60])
    (low, high), (other_low, other_high) = wilson(40, 60), wilson(10, 60)
    expected = [
        0.5 - sqrt((40 / 60 - low) ** 2 + (other_high - 10 / 60) ** 2),
        0.5 + sqrt((high - 40 / 60) ** 2 + (10 / 60 - other_low) ** 2),
    ]  # Newcombe (1998), method 10
    found = row[["difference_ci_lower", "difference_ci_upper"]].to_numpy(float)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    z = 0.5 / sqrt(50 / 120 * 70 / 120 * (2 / 60))
    # The other transition that can be tested is from the start to view, which all make.
    np.testing.assert_allclose(row["q_value"], 2 * stats.norm.sf(z), rtol=1e-9)


def test_trace_paths_says_why_it_does_not_compare(tmp_path: Path) -> None:
    table = trace_paths(read(tmp_path, MANY)).table
    notes = dict(zip(zip(table["source"], table["target"], strict=True), table["note"], strict=True))
    assert notes == {
        ("(start)", "view"): "",
        ("view", "cart"): "",
        ("view", "(end)"): "decides who is converted, so not compared",
        ("cart", "buy"): "decides who is converted, so not compared",
        ("buy", "(end)"): "decides who is converted, so not compared",
        ("view", "buy"): "decides who is converted, so not compared",
        ("cart", "(end)"): "decides who is converted, so not compared",
    }
    few = trace_paths(read(tmp_path, MANY), start="cart", end="view").table.iloc[0]
    assert few["note"] == "10 lost units at the source, fewer than 30"
    assert np.isnan(few[["share_converted", "share_lost", "difference", "q_value"]].to_numpy(float)).all()


def test_trace_paths_lists_the_most_common_paths_and_counts_the_rest(tmp_path: Path) -> None:
    codes = itertools.islice(itertools.product(["view", "cart"], repeat=6), 60)
    rows = "".join(f"u{n} {event} {k}min\n" for n, path in enumerate(codes) for k, event in enumerate(path))
    paths = trace_paths(read(tmp_path, rows + "z visit 9D\n"), collapse_loops=False)
    assert len(paths.paths) == 51
    assert pick(paths.paths.tail(1), "path units converted") == [("(other paths): 10", 10, 0)]
    assert paths.paths["units"].sum() == paths.units == 60


def test_trace_paths_of_nobody_has_the_same_columns(log: EventLog) -> None:
    whole, nobody = trace_paths(log), trace_paths(log, window="100D")
    assert (nobody.units, nobody.pending) == (0, 5)
    assert (tuple(nobody.table.columns), tuple(nobody.paths.columns)) == (COLUMNS, PATH_COLUMNS)
    for name in ("table", "paths", "nodes", "flow"):
        assert_frame_equal(getattr(nobody, name), getattr(whole, name).head(0))
    assert len(trace_paths(log.segment({"event_name": "none"})).table) == 0


def test_trace_paths_shows_names_for_people(log: EventLog) -> None:
    paths = trace_paths(log)
    assert {"Viewed", "Cart", "Bought", "(start)", "(end)"} == {*paths.named["source"], *paths.named["target"]}
    assert "Viewed → Cart → Bought" in paths.show_paths()._repr_html_()
    assert "Of those at the source" in paths._repr_html_()


def test_trace_paths_keeps_what_it_was_made_with(log: EventLog) -> None:
    paths = trace_paths(log, start="view", end="cart", window="3D", steps=4)
    assert (paths.start, paths.end, paths.window, paths.steps, paths.macro) == ("view", "cart", "3D", 4, "buy")


def test_trace_paths_names_every_problem_at_once(log: EventLog) -> None:
    with pytest.raises(ParamError) as caught:
        trace_paths(log, start="vew", macro="by", window="7", steps=0, events="some", confidence=2)  # type: ignore[arg-type]
    assert caught.value.problems == (
        "`vew` is neither a conversion of the plan nor an event of the log. Did you mean 'view'? Known are buy, view, "
        "cart, gone, visit.",
        "`macro` is 'by'; the plan's macros are 'buy'. Did you mean 'buy'?",
        "`window` is '7'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'.",
        "`confidence` is 2; it must lie between 0 and 1, such as 0.95.",
        "`steps` is 0; it must be a whole number from 1 to 100.",
        "`events` is 'some'; it must be one of 'conversions', 'all'.",
    )


def test_trace_paths_needs_a_plan() -> None:
    log = read_events(pd.DataFrame({"user_id": ["a"], "event_name": ["view"], "timestamp": [MONDAY]}))
    with pytest.raises(ParamError) as caught:
        trace_paths(log)
    message = "The log was read without a plan, so it has no conversions. Use read_events(..., plan=plan)."
    assert caught.value.problems == (message,)


@pytest.fixture(scope="module")
def shop() -> EventLog:
    return simulate_shop(units=1_500, seed=4)[0]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"steps": 3, "window": "1D"},
    {"start": "add_to_cart", "collapse_loops": False},
    {"end": "purchase", "steps": 4},
    {"end": "add_to_cart"},
    {"events": "all"},
    {"unit": "session", "window": "1h"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_trace_paths_sums_to_visits_and_units(shop: EventLog, options: dict[str, Any]) -> None:
    paths = trace_paths(shop, **options)
    visits = paths.nodes.set_index("conversion")["visits"]
    for side in ("source", "target"):
        sums = paths.table.groupby(side)["transitions"].sum()
        assert sums[sums.index.isin(visits.index)].sort_index().to_dict() == visits.sort_index().to_dict()
        markers = sums[~sums.index.isin(visits.index)]
        assert markers.sum() == paths.units
    assert paths.paths["units"].sum() == paths.units > 100
    assert paths.paths["converted"].sum() == paths.converted
    assert paths.flow.groupby(["source", "target"])["units"].sum().sum() == paths.table["transitions"].sum()
    assert (paths.table["converted_units"] + paths.table["lost_units"] == paths.table["units"]).all()


def test_trace_paths_says_nothing_of_single_users(shop: EventLog) -> None:
    users = set(shop.to_pandas()["user_id"])
    paths = trace_paths(shop)
    for frame in (paths.table, paths.paths, paths.nodes, paths.flow):
        assert users.isdisjoint(frame.astype("str").to_numpy().ravel())


def random_rows(seed: int, users: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    size = users * 6
    names = rng.choice(
        ["visit", "view", "cart", "both", "buy", "leave", "ping"], size, p=[0.1, 0.25, 0.2, 0.1, 0.15, 0.1, 0.1]
    )
    minutes = np.repeat(rng.integers(0, 40, users), 6) + rng.integers(0, 14, size)
    who = np.repeat([f"u{n}" for n in range(users)], 6)
    return pd.DataFrame({"user_id": who, "event_name": names, "timestamp": MONDAY + pd.to_timedelta(minutes, "min")})


def test_trace_paths_does_not_depend_on_row_order_and_names(tmp_path: Path) -> None:
    rows = random_rows(1)
    renamed = rows.assign(user_id="x" + rows["user_id"].str[::-1]).sample(frac=1, random_state=2)
    for options in ({}, {"end": "cart"}, {"start": "both", "events": "all", "steps": 3}):
        first, second = (trace_paths(read(tmp_path, each), window="9min", **options) for each in (rows, renamed))
        for name in ("table", "paths", "nodes", "flow"):
            assert_frame_equal(getattr(first, name), getattr(second, name))
        assert first.takeaways == second.takeaways


CONVERSIONS = {"view": ["view"], "cart": ["cart"], "both": ["view", "cart"], "buy": ["buy"], "leave": ["gone"]}


def walk_slowly(
    rows: pd.DataFrame, options: dict[str, Any]
) -> Iterator[tuple[str, list[tuple[float, str, int]] | None, bool, bool, float]]:
    """Follow each unit by the words of the documentation: its visits (None when pending), if cut, if converted."""
    start, end, window = options.get("start"), options.get("end"), 9
    rows = rows.assign(minute=(rows["timestamp"] - MONDAY) / pd.Timedelta("1min"))
    first, last = rows["minute"].min(), rows["minute"].max()
    others = sorted({*rows["event_name"]} - {"view", "cart", "gone", "buy"})
    order = [*filter(None, [start]), "view", "cart", *others, "gone", "buy"]
    for user, own in rows.groupby("user_id"):
        events = list(zip(own["minute"], own["event_name"], strict=True))
        done = [(t, name) for t, event in events for name in CONVERSIONS.get(event, [])]
        extra = {name for name in (start, end) if name and name not in ("view", "cart", "gone", "buy")}
        busy = {t for t, event in events if event in CONVERSIONS}
        done += [(t, event) for t, event in events if event in extra]
        if options.get("events") == "all":
            done += [(t, event) for t, event in events if event not in extra and t not in busy]
        done.sort(key=lambda item: (item[0], order.index(item[1])))
        opening = [t for t, name in done if name == (start or end)] if start or end else [t for t, _ in events]
        if not opening:
            continue
        entry = min(opening)
        backwards = end is not None and start is None
        until = entry if backwards and end == "buy" else entry + window
        if until > last or (backwards and entry - window < first):
            yield str(user), None, False, False, entry
            continue
        bought = sum(name == "buy" and entry <= t <= until for t, name in done)
        visits = take_visits(done, options, entry)
        steps = options.get("steps", 10)
        kept = visits[-steps:] if backwards else visits[:steps]
        yield str(user), kept, len(visits) > steps, bought > (start == "buy"), entry


def take_visits(done: list[tuple[float, str]], options: dict[str, Any], entry: float) -> list[tuple[float, str, int]]:
    start, end, window = options.get("start"), options.get("end"), 9
    backwards, stop = end is not None and start is None, end or "buy"
    visits: list[tuple[float, str, int]] = []
    for t, name in done:
        if not (entry - window <= t <= entry if backwards else entry <= t <= entry + window):
            continue
        stopping = name == stop and t >= entry and not (start == stop and not visits)
        if visits and visits[-1][1] == name and not stopping and options.get("collapse_loops", True):
            visits[-1] = (visits[-1][0], name, visits[-1][2] + 1)
        else:
            visits.append((t, name, 1))
        if stopping:
            break
    return visits


def count_slowly(rows: pd.DataFrame, options: dict[str, Any]) -> dict[str, Any]:
    """Count what `walk_slowly` finds, in dictionaries."""
    backwards = options.get("end") is not None and options.get("start") is None
    who: dict[tuple[str, str], list[tuple[str, bool]]] = defaultdict(list)
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    paths: Counter[str] = Counter()
    visits: dict[str, list[int]] = defaultdict(list)
    pending = units = converted = 0
    for user, path, cut, won, entry in walk_slowly(rows, options):
        if path is None:
            pending += 1
            continue
        units, converted = units + 1, converted + won
        head, tail = ("(more)" if cut and backwards else "(start)"), ("(more)" if cut and not backwards else "(end)")
        names = [head, *(name for _, name, _ in path), tail]
        times = [nan if backwards else entry, *(t for t, _, _ in path), nan]
        for (a, b), (s, t) in zip(itertools.pairwise(names), itertools.pairwise(times), strict=True):
            who[a, b].append((user, won))
            seconds[a, b] += [60 * (t - s)] if t - s == t - s else []
        shown = [name for name in names if name not in ("(start)", "(end)")]
        paths[" → ".join(shown) or "(no conversion)"] += 1
        for _, name, events in path:
            visits[name].append(events)
    return {
        "counts": (units, pending, converted),
        "table": {
            pair: (
                len({u for u, _ in made}),
                len(made),
                len({u for u, won in made if won}),
                median(seconds[pair]) if seconds[pair] else None,
            )
            for pair, made in who.items()
        },
        "paths": paths,
        "nodes": {name: (len(events), sum(events)) for name, events in visits.items()},
    }


BRUTE: list[dict[str, Any]] = [
    {"start": start, "end": end, "collapse_loops": collapse, "steps": steps, "events": events}
    for start, end in [
        *((None, None), ("cart", None), ("buy", None), ("visit", None), ("both", None), (None, "buy"), (None, "cart")),
        *((None, "visit"), ("view", "cart"), ("cart", "cart"), ("buy", "view"), ("view", "ping"), (None, "gone")),
    ]
    for collapse, steps, events in [(True, 10, "conversions"), (False, 3, "all"), (True, 2, "all")]
]


@pytest.mark.parametrize("seed", range(6))
def test_trace_paths_counts_what_following_each_unit_finds(tmp_path: Path, seed: int) -> None:
    rows = random_rows(seed)
    log = read(tmp_path, rows)
    for options in BRUTE:
        paths, slow = trace_paths(log, window="9min", **options), count_slowly(rows, options)
        assert (paths.units, paths.pending, paths.converted) == slow["counts"], options
        numbers = pick(paths.table, "source target units transitions converted_units median_seconds")
        found = {(a, b): (*n, None if s != s else s) for a, b, *n, s in numbers}
        assert found == slow["table"], options
        listed = {path: n for path, n in pick(paths.paths, "path units") if "other paths" not in str(path)}
        assert all(slow["paths"][path] == n for path, n in listed.items()), options
        assert len(listed) == min(50, len(slow["paths"])), options
        assert {a: tuple(n) for a, *n in pick(paths.nodes, "conversion visits events")} == slow["nodes"], options
