"""What is left out, and an attacker who adds and subtracts all that is shown."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

import convlib as cv
from convlib import redaction
from convlib.errors import ParamError
from convlib.redaction import (
    check_shared,
    find_hidden,
    find_small,
    hide_quantiles,
    keep_steps,
    measure_gaps,
    merge_bins,
    pool_groups,
    split_counts,
)

FEWEST = 10
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PLAN = """\
macros:
  - id: purchase
    name: Purchase
    match: {event_name: purchase}
    micros:
      - {id: view, name: View, match: {event_name: view}, stage: awareness, kind: process_milestone}
      - {id: cart, match: {event_name: cart}, stage: decision, kind: secondary_action, metric: {type: rate, over: view}}
      - {id: save, name: Save, match: {event_name: save}, stage: decision, kind: secondary_action}
"""
#: For each device: who viewed, put into the cart, saved, bought. One mobile buyer, who is to stay unknown.
PEOPLE = {"mobile": (60, 30, 14, 1), "tablet": (40, 26, 20, 12), "desktop": (150, 90, 40, 45)}
COUNTS = {"units", "exposed", "converted", "lost", "pending", "units_before", "units_with", "units_without", "reach"}
COUNTS |= {"converted_with", "converted_without", "events"}
STEPS = ["view", "cart", "purchase"]


def plant_log() -> pd.DataFrame:
    """Write the log of the people above: each enters on a day of six weeks, and acts minutes later."""
    rows = []
    for device, (views, carts, saves, buys) in PEOPLE.items():
        for number in range(views):
            start = pd.Timestamp("2024-01-01 09:00") + pd.Timedelta(days=(number * 7 + len(device)) % 42)
            did = {"view": views, "cart": carts, "save": saves, "purchase": buys}
            rows += [
                (f"{device}{number}", name, start + pd.Timedelta(minutes=5 * place), device)
                for place, (name, most) in enumerate(did.items())
                if number < most
            ]
    rows += [("desktop7", "rare_event", pd.Timestamp("2024-01-20 12:00"), "desktop")]
    rows += [("last", "end", pd.Timestamp("2024-03-20 12:00"), "desktop")]
    return pd.DataFrame(rows, columns=["user_id", "event_name", "timestamp", "device_type"])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    (folder / "plan.yaml").write_text(PLAN)
    plant_log().to_csv(folder / "events.csv", index=False)
    return folder


def read(project: Path, fewest: int) -> cv.Parameters:
    return cv.check_parameters(events=project / "events.csv", plan=project / "plan.yaml", fewest=fewest)


def derive(numbers: pd.Series, families: list[pd.Series], totals: list[pd.Series]) -> Iterator[float]:
    """Give all that follows from the numbers shown (NaN are not) and the families' totals, by linear algebra."""
    hidden = np.flatnonzero(numbers.isna())
    rows, right = [], []
    for labels, known in zip(families, totals, strict=True):
        for label, total in known.items():
            if is_small(total):  # which is not shown
                continue
            own = (labels == label).to_numpy()
            rest = total - numbers[own].sum()
            yield float(rest)
            rows.append(own[hidden].astype(float))
            right.append(rest)
    if len(hidden) and rows:
        matrix = np.array(rows)
        solved = np.linalg.lstsq(matrix, np.array(right), rcond=None)[0]
        loose = np.linalg.svd(matrix)[2][np.linalg.matrix_rank(matrix) :]
        yield from solved[~(np.abs(loose) > 1e-9).any(axis=0)]
    yield from numbers.dropna()


def attack_rates(project: Path, every: str) -> list[tuple[object, ...]]:
    """Derive what can be of the rates by group and period, from all totals of groups and of periods."""
    found: list[tuple[object, ...]] = []
    log, plan = read(project, FEWEST).log, read(project, FEWEST).plan
    measure = partial(cv.measure_rates, plan=plan, by="device_type", every=every, window="7D", entry="view")
    shown, truth = measure(log).table, measure(read(project, 0).log).table
    key = ["device_type", "period"]
    # A number that is shown for one metric is known for all that count the same.
    columns: dict[bytes, pd.DataFrame] = {}
    pairs = []
    for (conversion, metric), rows in truth.groupby(["conversion", "metric"]):
        own = shown[(shown["conversion"] == conversion) & (shown["metric"] == metric)].reset_index(drop=True)
        real = rows.reset_index(drop=True)
        for name in ("units", "exposed"):
            each = real[key].assign(real=real[name].astype(float), shown=own[name].astype(float))
            before = columns.setdefault(each["real"].to_numpy().tobytes(), each)
            before["shown"] = before["shown"].fillna(each["shown"])
        pairs.append([real[name].to_numpy(float).tobytes() for name in ("exposed", "units")])
    for could, did in pairs:  # and who did not do it are those who could less those who did
        rest = columns[could][["real", "shown"]] - columns[did][["real", "shown"]]
        columns[could + did] = columns[could][key].join(rest)
    for number, each in columns.items():
        families = [each["device_type"], each["period"]]
        totals = [each.groupby(family)["real"].sum() for family in ("device_type", "period")]
        found += [(number[:20], value) for value in derive(each["shown"], families, totals) if is_small(value)]
    return found


def attack_funnel(project: Path) -> list[tuple[object, ...]]:
    """Derive what can be of a funnel's groups from the whole, its weeks and its next events."""
    log = read(project, FEWEST).log
    whole, groups = (cv.measure_funnel(log, STEPS, by=by) for by in ((), "device_type"))
    found: list[tuple[object, ...]] = []
    for name in ("units", "lost"):
        total = whole.table.set_index("step")[name].astype(float)
        for value in derive(groups.table[name].astype(float), [groups.table["step"]], [total]):
            found += [(name, value)] if is_small(value) else []
    weeks = whole.trend
    entered = pd.Series([float(weeks["units"].sum())]) if weeks["units"].notna().all() else None
    truth = cv.measure_funnel(read(project, 0).log, STEPS).trend
    for name in ("units", "converted"):
        total = pd.Series([float(truth[name].sum())]) if entered is None else pd.Series([float(weeks[name].sum())])
        zeros = pd.Series(0, index=weeks.index)
        found += [("week", value) for value in derive(weeks[name].astype(float), [zeros], [total]) if is_small(value)]
    after = whole.next_events().table["units"]
    found += [("next", value) for value in after if is_small(value)]
    found += [("bin", value) for value in whole.times["units"] if is_small(value)]
    curve = whole.time_to_convert["converted"].cumsum()
    return found + [
        ("curve", value) for value in [*curve, whole.table["units"].iloc[-1] - curve.iloc[-1]] if is_small(value)
    ]


def is_small(value: float) -> bool:
    return 0.5 < value < FEWEST - 0.5


Attack = Callable[[Path], list[tuple[object, ...]]]
ATTACKS = [partial(attack_rates, every="W"), partial(attack_rates, every="M"), attack_funnel]


@pytest.mark.parametrize("attack", ATTACKS, ids=["weeks", "months", "funnel"])
def test_nothing_small_can_be_derived_from_what_is_shown(project: Path, attack: Attack) -> None:
    assert attack(project) == []


@pytest.mark.parametrize("attack", ATTACKS, ids=["weeks", "months", "funnel"])
def test_the_attack_succeeds_without_complementary_suppression(
    project: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_list_helpers", lambda *_: iter(()))
    assert attack(project) != []


def test_rates_show_what_reveals_nobody(project: Path) -> None:
    params = read(project, FEWEST)
    table = cv.measure_rates(params.log, params.plan, by="device_type", every="M", window="7D", entry="view").table
    first: Any = table[table["period"] == "2024-01-01"].set_index(["device_type", "conversion"])
    assert first.loc[("mobile", "purchase"), "note"] == "left out: fewer than 10 units, or would reveal so few"
    assert first.loc[("mobile", "purchase"), ["units", "exposed", "value", "ci_lower", "change"]].isna().all()
    assert (first.loc[("desktop", "view"), ["units", "exposed"]] >= FEWEST).all()


def test_funnel_puts_the_group_of_one_buyer_and_the_next_into_one(project: Path) -> None:
    table = cv.measure_funnel(read(project, FEWEST).log, STEPS, by="device_type").table
    assert table[["device_type", "name", "units", "lost"]].values.tolist() == [
        ["(other)", "view", 100, 0],
        ["(other)", "cart", 56, 44],
        ["(other)", "purchase", 13, 43],
        ["desktop", "view", 150, 0],
        ["desktop", "cart", 90, 60],
        ["desktop", "purchase", 45, 45],
    ]


def test_funnel_of_too_few_units_shows_nothing(project: Path) -> None:
    params = read(project, 300)
    funnel = cv.measure_funnel(params.log, STEPS)
    assert funnel.table["units"].isna().all()
    assert funnel.takeaways == (
        "The funnel of segment all can't be shown without numbers of fewer than 300 units: left out.",
    )
    assert funnel.leaks.empty
    funnel.plot(), funnel.plot_times(), funnel.plot_time_to_convert(), funnel.plot_trend()


def test_funnel_units_are_not_listed(project: Path) -> None:
    funnel = cv.measure_funnel(read(project, FEWEST).log, STEPS)
    with pytest.raises(ParamError) as error:
        funnel.units(1)
    assert str(error.value) == (
        "`units` lists single units, and the report leaves out numbers of fewer than 10 units (`fewest`). Use fewest=0."
    )


@pytest.mark.parametrize(
    ("cells", "families", "hidden"),
    [
        ([[5], [20], [30]], [], [True, False, False]),
        ([[5], [20], [30]], [[0, 0, 0]], [True, True, False]),
        ([[0], [20], [30]], [[0, 0, 0]], [False, False, False]),
        ([[4], [6], [30]], [[0, 0, 0]], [True, True, False]),  # together they are ten
        ([[4], [5], [30]], [[0, 0, 0]], [True, True, True]),
        ([[50, 5], [20, 0], [80, 40]], [[0, 0, 0]], [True, False, True]),  # a zero hides nothing
        ([[5], [20], [30], [40]], [["a", "a", "b", "b"]], [True, True, False, False]),
        # Two rows and two columns: one small cell takes the other three with it.
        ([[5], [20], [30], [40]], [[0, 0, 1, 1], [0, 1, 0, 1]], [True, True, True, True]),
    ],
    ids=["alone", "next", "zero", "enough", "too few", "cell", "family", "cross"],
)  # fmt: skip
def test_find_hidden_hides_the_small_and_what_reveals_them(
    cells: list[list[int]], families: list[list[object]], hidden: list[bool]
) -> None:
    assert find_hidden(cells, fewest=10, families=families).tolist() == hidden


def test_find_hidden_finds_what_totals_determine_together() -> None:
    # Hidden at first: the corners of two squares that share one cell's row and column through (2, 2), a bridge.
    sizes = np.full((5, 5), 50)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (3, 2), (3, 3), (4, 2), (4, 3)):
        sizes[row, column] = 9
    rows, columns = np.indices(sizes.shape).reshape(2, -1)
    hidden = find_hidden(sizes.reshape(-1, 1), fewest=10, families=[rows, columns])
    known = [*(rows == row for row in range(5)), *(columns == column for column in range(5))]
    matrix = np.array(known)[:, hidden].astype(float)
    determined = (np.linalg.pinv(matrix) @ matrix).diagonal() > 0.999
    assert not (determined & (sizes.reshape(-1)[hidden] < 10)).any()


def test_find_hidden_hides_nothing_by_default() -> None:
    assert find_hidden([[1], [2]], fewest=0, families=[[0, 0]]).tolist() == [False, False]
    assert find_hidden(np.zeros((0, 2)), fewest=10).tolist() == []


def test_find_small_takes_zero_for_nobody() -> None:
    assert find_small([0, 1, 9, 10], fewest=10).tolist() == [False, True, True, False]


def test_split_counts_gives_those_that_did_and_did_not() -> None:
    assert split_counts([1, 4], 5).tolist() == [[5, 1, 4], [5, 4, 1]]


def test_measure_gaps_gives_what_the_next_larger_set_has_more() -> None:
    everyone, some, fewer, others = range(10), range(6), range(4), range(5, 8)
    sets = [[unit in each for each in (everyone, some, fewer, others, ())] for unit in range(10)]
    assert measure_gaps(sets).tolist() == [0, 4, 2, 7, 0]


def test_rates_hide_who_did_one_thing_but_not_the_other(project: Path, tmp_path: Path) -> None:
    # All 47 who save put something into the cart; three who do that don't save.
    number = pd.RangeIndex(100).astype("str")
    did = {"view": number, "cart": number[:50], "save": number[:47], "purchase": number[50:70]}
    rows = pd.concat([pd.DataFrame({"user_id": who, "event_name": name}) for name, who in did.items()])
    rows["timestamp"] = pd.Timestamp("2024-01-01 09:00") + pd.to_timedelta(
        rows["event_name"].ne("view").astype(int), unit="h"
    )
    last = pd.DataFrame({"user_id": ["last"], "event_name": ["end"], "timestamp": [pd.Timestamp("2024-03-01")]})
    log_file = tmp_path / "events.csv"
    pd.concat([rows, last]).to_csv(log_file, index=False)
    params = cv.check_parameters(events=log_file, plan=project / "plan.yaml", fewest=FEWEST)
    table = cv.measure_rates(params.log, params.plan, every="M", entry="view", window="7D").table
    shown = table[table["period"] == "2024-01-01"].set_index("conversion")["units"]
    assert shown[["purchase", "cart"]].tolist() == [20, 50]
    assert np.isnan(shown["save"])


def test_weeks_of_a_funnel_do_not_tell_how_few_converted_on_a_later_attempt(project: Path, tmp_path: Path) -> None:
    rows = []
    for week in (0, 1):
        for number in range(40):
            who, start = f"{week}-{number}", pd.Timestamp("2024-01-01 09:00") + pd.Timedelta(weeks=week)
            rows.append((who, "view", start))
            if number < 20:
                rows.append((who, "purchase", start + pd.Timedelta("1h")))
            elif number < 23 and not week:  # three buy ten days later, within the window of a second view
                rows += [(who, "view", start + pd.Timedelta("10D")), (who, "purchase", start + pd.Timedelta("11D"))]
    rows.append(("last", "end", pd.Timestamp("2024-03-01")))
    pd.DataFrame(rows, columns=["user_id", "event_name", "timestamp"]).to_csv(tmp_path / "events.csv", index=False)
    found = {}
    for fewest in (0, FEWEST):
        params = cv.check_parameters(events=tmp_path / "events.csv", plan=project / "plan.yaml", fewest=fewest)
        funnel = cv.measure_funnel(params.log, ["view", "purchase"], window="7D")
        assert funnel.table["units"].tolist() == [80, 43]
        found[fewest] = funnel.trend["converted"]
    assert found[0].tolist() == [20, 20]
    assert found[FEWEST].isna().sum() == 1


SIGNALS = "friction: [{id: load, name: Load time, match: {event_name: view}, column: seconds, unit: s}]\n"


def test_friction_leaves_out_pages_that_few_left(tmp_path: Path) -> None:
    rows = []
    #: So many of the slow, and of the fast visits of each page end there, of 40 and 120.
    for page, left in {"/few": (3, 30), "/many": (20, 30)}.items():
        for side, (visits, seconds) in enumerate([(40, 9.0), (120, 1.0)]):
            for number in range(visits):
                who, start = f"{page}{side}{number}", pd.Timestamp("2024-01-01 09:00") + pd.Timedelta(hours=number)
                rows.append((who, "view", start, page, seconds))
                if number >= left[side]:
                    rows.append((who, "view", start + pd.Timedelta("1min"), "/next", 1.0))
    rows.append(("last", "purchase", pd.Timestamp("2024-02-01"), "/", 1.0))
    events, plan = tmp_path / "events.csv", tmp_path / "plan.yaml"
    columns = ["user_id", "event_name", "timestamp", "page_path", "seconds"]
    pd.DataFrame(rows, columns=columns).to_csv(events, index=False)
    plan.write_text("macros: [{id: purchase, match: {event_name: purchase}}]\n" + SIGNALS)
    pages = {}
    for fewest in (0, FEWEST):
        params = cv.check_parameters(events=events, plan=plan, fewest=fewest)
        found = cv.measure_friction(params.log, params.plan).table
        pages[fewest] = found.loc[found["page"].isin(["/few", "/many"]), "page"].tolist()
    assert sorted(pages[0]) == ["/few", "/many"]
    assert "/few" not in pages[FEWEST]


@pytest.mark.parametrize(
    ("units", "required", "kept"),
    [
        ([100, 50, 20], [True] * 3, [0, 1, 2]),
        ([100, 95, 20], [True] * 3, [0, 2]),  # five were lost
        ([100, 50, 4], [True] * 3, [0, 1]),
        ([100, 100, 0], [True] * 3, [0, 1, 2]),
        ([100, 40, 50], [True, False, True], [0, 1, 2]),
        ([9, 0, 0], [True] * 3, []),
        ([100, 3, 2], [True] * 3, []),
    ],
)
def test_keep_steps_keeps_those_that_lose_enough_or_nobody(
    units: list[int], required: list[bool], kept: list[int]
) -> None:
    assert keep_steps(units, required, fewest=10) == kept


def test_pool_groups_takes_the_smallest_other_group_along() -> None:
    groups = pd.DataFrame({"device": ["a"] * 5 + ["b"] * 20 + ["c"] * 30})
    pooled = pool_groups(groups, np.ones((55, 1), bool), fewest=10)
    assert pooled["device"].value_counts().to_dict() == {"c": 30, "(other)": 25}


def test_merge_bins_joins_neighbours_of_few() -> None:
    assert merge_bins([12, 3, 8, 0, 11, 4], fewest=10).tolist() == [0, 1, 1, 2, 2, 2]
    assert merge_bins([3, 4], fewest=10).tolist() == [0, 0]


def test_hide_quantiles_needs_enough_units_on_both_sides() -> None:
    table = pd.DataFrame({"units": [20, 40], "seconds_p50": [1.0, 2.0], "seconds_from_start_p25": [1.0, 2.0]})
    shown = hide_quantiles(table, "units", fewest=10)
    assert shown["seconds_p50"].tolist() == [1.0, 2.0]
    assert shown["seconds_from_start_p25"].isna().tolist() == [True, False]


def test_check_shared_allows_everything_by_default() -> None:
    check_shared(0, "This lists units")


def execute(project: Path, folder: Path, name: str, **own: object) -> str:
    import papermill

    params: dict[str, object] = {
        "events": str(project / "events.csv"),
        "plan": str(project / "plan.yaml"),
        "segments": "",
    }
    params |= {"output": str(folder / name), "fewest": FEWEST, **own}
    page = folder / f"{name}.ipynb"
    papermill.execute_notebook(
        NOTEBOOKS / f"{name}.ipynb", page, parameters=params, cwd=NOTEBOOKS, progress_bar=False, log_output=False
    )
    outputs = [output for cell in nbformat.read(page, 4).cells for output in cell.get("outputs", [])]
    return " ".join(
        text for output in outputs for kind, text in output.get("data", {}).items() if kind.startswith("text")
    )


PAGES: dict[str, dict[str, object]] = {
    "00_overview": {
        "macro": "purchase",
        "entry": "view",
        "window": "7D",
        "every": "W",
        "by": ["device_type"],
        "adjust": [],
    },
    "01_event_map": {},
    "02_funnel": {"steps": STEPS, "window": "7D", "by": ["device_type"]},
    "03_correlation": {"macro": "purchase", "adjust": [], "exposure": ["1D"]},
    "04_impact": {"macro": "purchase", "adjust": [], "exposure": ["1D"]},
}
TRIAL = """\
experiments:
  - id: form
    name: Form test
    assignment: {match: {event_name: seen}, column: arm}
    arms: [old, new]
    start: 2024-01-01
    end: 2024-01-14
    window: 7D
    minimum: {days: 14, units: 200}
    primary: save
    guardrails: [{conversion: purchase, margin: 0.5}]
"""


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", PAGES)
def test_a_page_and_its_tables_show_no_small_count(project: Path, tmp_path: Path, name: str) -> None:
    text = re.sub(r"<style.*?</style>|<[^>]+>", " ", execute(project, tmp_path, name, **PAGES[name]), flags=re.DOTALL)
    assert re.findall(r"n = [1-9]\b(?![,.])|\b[1-9] (?:units|users|are pending|pending|of \d)", text) == []
    assert "rare_event" not in text
    tables = {path.name: pd.read_parquet(path) for path in (tmp_path / name).glob("*.parquet")}
    assert tables
    for table in tables.values():
        assert "rare_event" not in table.to_csv()
        for column in COUNTS & {*table}:
            assert not find_small(table[column].astype(float).fillna(0), fewest=FEWEST).any(), column


@pytest.mark.filterwarnings("default")
def test_the_page_of_an_experiment_shows_no_metric_that_few_of_an_arm_did(tmp_path: Path) -> None:
    rows = []
    for arm, did in {"old": {"save": 60, "purchase": 43}, "new": {"save": 90, "purchase": 3}}.items():
        for number in range(200):
            start = pd.Timestamp("2024-01-01 08:00") + pd.Timedelta(days=number % 14)
            names = ["seen", *(name for name, most in did.items() if number < most)]
            rows += [
                (f"{arm}{number}", name, start + pd.Timedelta(hours=place), arm) for place, name in enumerate(names)
            ]
    rows.append(("last", "end", pd.Timestamp("2024-02-01"), ""))
    columns = ["user_id", "event_name", "timestamp", "arm"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "events.csv", index=False)
    (tmp_path / "plan.yaml").write_text(PLAN + TRIAL)
    text = re.sub(r"<[^>]+>", " ", execute(tmp_path, tmp_path, "05_experiments", experiment="form"))
    text = text.replace(str(tmp_path), "")  # which has a number of its own
    table = pd.read_parquet(tmp_path / "05_experiments" / "experiment.parquet").set_index("conversion")
    numbers = ["value", "value_control", "effect", "relative_effect", "relative_effect_ci_lower", "p_value"]
    assert table.loc["purchase", numbers].isna().all()
    assert table.loc["save", "value"] == 0.45
    assert "1.5%" not in text  # three of 200
    assert "21.5%" not in text
    assert "-93" not in text
    assert "Shown worse than no change: Purchase (its numbers are left out)." in text
    assert "45.0%" in text
