from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from small_logs import START, make_log, make_plan, pick
from statsmodels.stats.multitest import multipletests

from convlib.datasets.load import simulate_shop
from convlib.datasets.shop_model import list_friction
from convlib.errors import ParamError, PlanError
from convlib.events import EventLog, read_events
from convlib.friction import COLUMNS, measure_friction
from convlib.plan import Plan, read_plan

PLAN = """
macros: [{id: purchase, match: {event_name: purchase}}]
friction:
"""
LOAD = "  - {id: load, name: Load time, match: {event_name: view}, column: seconds, unit: s}\n"
ERRORS = "  - {id: errors, name: Field errors, match: {event_name: field_error}}\n"
BROKEN = "  - {id: broken, name: Error page, match: {page_path: {regex: ^/error}}}\n"
SIDES = "page visits visits_with visits_without left_with left_without"
DEVICE = ("device_type",)


def prepare(folder: Path, entries: str, rows: str | pd.DataFrame) -> tuple[EventLog, Plan]:
    plan = make_plan(folder, PLAN + entries)
    return make_log(rows, plan), plan


def write_visits(*visits: tuple[int, str, float, str]) -> pd.DataFrame:
    """Write `(how many, pages, seconds on the first page, device)`, each a user's one visit, and a last event."""
    rows = [
        (f"{number}-{copy}", "view", START + pd.Timedelta(minutes=step), page, seconds, device)
        for number, (count, pages, seconds, device) in enumerate(visits)
        for copy in range(count)
        for step, page in enumerate(pages.split())
    ]
    rows.append(("zoe", "view", START + pd.Timedelta("1D"), "/", 1.0, "tv"))
    return pd.DataFrame(rows, columns=["user_id", "event_name", "timestamp", "page_path", "seconds", "device_type"])


# --- what counts ---

ERROR_ROWS = """
ann view 0min session_id=1 page_path=/form device_type=phone
ann field_error 1min session_id=1 page_path=/form device_type=phone
ann field_error 2min session_id=1 page_path=/form device_type=phone
ann view 3min session_id=1 page_path=/done device_type=phone
ann view 2h session_id=2 page_path=/form device_type=phone
ann field_error 121min session_id=2 page_path=/form device_type=phone
bob view 0min session_id=3 page_path=/form device_type=phone
bob view 1min session_id=3 page_path=/help device_type=phone
bob view 2min session_id=3 page_path=/form device_type=phone
bob scroll 3min session_id=3 device_type=phone
cid field_error 0min session_id=4 page_path=/form device_type=phone
cid view 1min session_id=4 page_path=/form device_type=phone
dan view 570min session_id=5 page_path=/form device_type=phone
eve view 600min session_id=6 page_path=/home device_type=phone
"""


def test_measure_friction_counts_pages_in_visits_by_hand(tmp_path: Path) -> None:
    # /form: ann's first visit has two errors and goes on to /done, her second has one and ends there; bob's visits it
    # twice, once counted, and ends there (a scroll has no page). cid's page is first seen by its error; dan's visit,
    # 30 minutes before the end of the data, and eve's may go on.
    found = measure_friction(*prepare(tmp_path, ERRORS, ERROR_ROWS), min_visits=1)
    assert pick(found.table, SIDES) == [("/form", 3, 2, 1, 1, 1)]
    assert pick(found.table, "p50 p75 p95 threshold") == [(1.0, 1.5, 1.9, 1.0)]
    assert found.running == 2
    assert pick(found.table, "verdict note") == [
        ("too few", "1 users with it, needs 30; 1 with it left out: no event before it")
    ]
    assert found.table["leave_rate_with"].isna().all()
    assert found.table.dtypes.map(str).to_dict() == COLUMNS


def test_measure_friction_takes_the_number_of_the_pages_last_view(tmp_path: Path) -> None:
    rows = """
ann view 0min session_id=1 page_path=/a seconds=9 device_type=phone
ann view 1min session_id=1 page_path=/b seconds=1 device_type=phone
ann view 2min session_id=1 page_path=/a seconds=2 device_type=phone
ann click 3min session_id=1 page_path=/a seconds=50 device_type=phone
bob view 0min session_id=2 page_path=/a seconds=4 device_type=phone
bob view 1min session_id=2 page_path=/b seconds=slow device_type=phone
eve view 600min session_id=6 page_path=/b seconds=7 device_type=phone
"""
    found = measure_friction(*prepare(tmp_path, LOAD, rows), min_visits=1)
    # /a: 2 (ann left) and 4 (bob went on); /b: 1 alone, as `slow` is no number and eve's visit may go on.
    assert pick(found.table, f"{SIDES} p50 p75 threshold") == [
        ("/a", 2, 1, 1, 0, 1, 3.0, 3.5, 4.0),
        ("/b", 1, 0, 1, 0, 0, 1.0, 1.0, pytest.approx(np.nan, nan_ok=True)),
    ]
    assert found.table["note"].tolist() == ["1 users with it, needs 30", "every visit has the same number"]


def test_measure_friction_compares_error_pages_with_all_other_pages(tmp_path: Path) -> None:
    rows = write_visits(
        (60, "/a /error/404", 1, "phone"), (40, "/a /error/404 /b", 1, "phone"), (100, "/a", 1, "phone")
    )
    found = measure_friction(*prepare(tmp_path, BROKEN, rows))
    # Other pages: /a of all 200 visits, left by 100, and /b of 40, left by all; zoe's visit may go on.
    assert pick(found.table, SIDES) == [("/error/404", 100, 100, 240, 60, 140)]
    assert found.table["lift"].tolist() == [pytest.approx(60 / 100 - 140 / 240)]


def test_measure_friction_takes_the_next_number_where_most_share_the_lowest(tmp_path: Path) -> None:
    rows = write_visits((80, "/a /b", 9, "phone"), (20, "/a /b", 14, "phone"), (20, "/a", 14, "phone"))
    rows.loc[rows["page_path"] == "/b", "seconds"] = np.nan
    log, plan = prepare(tmp_path, LOAD, pd.concat([rows, write_visits((200, "/a /b", 9, "phone"))]))
    found = measure_friction(log, plan, pages=1)
    assert pick(found.table, "page p75 threshold visits_with left_with") == [("/a", 9.0, 14.0, 40, 20)]


def test_measure_friction_looks_at_the_most_visited_pages(tmp_path: Path) -> None:
    rows = write_visits((120, "/a /b", 1, "phone"), (110, "/b /c", 2, "phone"), (90, "/d", 2, "phone"))
    log, plan = prepare(tmp_path, LOAD, rows)
    assert set(measure_friction(log, plan).table["page"]) == {"/a", "/b", "/c"}
    assert set(measure_friction(log, plan, pages=1).table["page"]) == {"/b"}
    assert set(measure_friction(log, plan, pages=9, min_visits=90).table["page"]) == {"/a", "/b", "/c", "/d"}


def test_measure_friction_of_a_segment_counts_its_visits_alone(tmp_path: Path) -> None:
    rows = write_visits((120, "/a /b", 1, "phone"), (110, "/a", 2, "desktop"))
    log, plan = prepare(tmp_path, LOAD, rows)
    desktop = measure_friction(log.segment({"device_type": "desktop"}), plan)
    assert pick(desktop.table, "page visits left_without") == [("/a", 110, 110)]
    # In the rows of /a alone, everybody leaves there.
    alone = measure_friction(log.where(page_path="/a"), plan)
    assert pick(alone.table, "page visits left_with left_without") == [("/a", 230, 110, 120)]


# --- independent answers ---


def draw_visits(seed: int, *, users: int, effect: float) -> pd.DataFrame:
    """Draw users with up to five visits each of /a: phones are slower and leave more; slowness adds `effect`."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.integers(1, 6, users))
    phone, own = rng.random(users)[user] < 0.5, rng.normal(0, 0.1, users)[user]
    seconds = np.where(phone, 2.0, 1.0) * rng.lognormal(0, 0.5, len(user))
    slow = seconds >= np.quantile(seconds, 0.75)
    left = rng.random(len(user)) < 0.3 + 0.2 * phone + own + effect * slow
    number = np.arange(len(user))
    frame = pd.DataFrame(
        {
            "user_id": [f"u{u}" for u in user],
            "event_name": "view",
            "timestamp": START + pd.to_timedelta(number, unit="min"),
            "session_id": number.astype(str),
            "page_path": "/a",
            "seconds": seconds,
            "device_type": np.where(phone, "phone", "desktop"),
            "left": left,
        }
    )
    ahead = frame[~left].assign(page_path="/b", timestamp=lambda rows: rows["timestamp"] + pd.Timedelta("10s"))
    end = frame.tail(1).assign(user_id="zoe", session_id="z", timestamp=START + pd.Timedelta("99D"))
    return pd.concat([frame, ahead, end], ignore_index=True)


def test_measure_friction_agrees_with_regression_clustered_by_user(tmp_path: Path) -> None:
    rows = draw_visits(3, users=600, effect=0.15)
    log, plan = prepare(tmp_path, LOAD, rows.drop(columns="left"))
    row = measure_friction(log, plan, pages=1).table.iloc[0]
    visits = rows[(rows["page_path"] == "/a") & (rows["user_id"] != "zoe")].astype({"left": float})
    visits = visits.assign(slow=(visits["seconds"] >= np.quantile(visits["seconds"], 0.75)).astype(float))
    for formula, name in (("left ~ slow", "lift"), ("left ~ slow + C(device_type)", "adjusted_lift")):
        model = smf.ols(formula, visits)
        groups = pd.factorize(visits["user_id"])[0]
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups})
        assert row[name] == pytest.approx(fit.params["slow"], abs=1e-12)
        width = row[f"{name}_ci_upper"] - row[f"{name}_ci_lower"]
        assert width == pytest.approx(2 * 1.959964 * fit.bse["slow"], rel=0.01)
    assert row["p_value"] == pytest.approx(fit.pvalues["slow"], rel=0.1)
    ends = row[[f"adjusted_lift{end}" for end in ("", "_ci_lower", "_ci_upper")]].to_numpy(float)
    extra = row[["extra_exits", "extra_exits_ci_lower", "extra_exits_ci_upper"]].to_numpy(float)
    assert extra == pytest.approx(ends * row["visits_with"])


def test_measure_friction_adjusts_for_the_device(tmp_path: Path) -> None:
    # On the phone 60 of 120 leave, fast or slow; on the desktop 20 of 100. Phones alone are slow more often.
    rows = write_visits(
        *((40, "/a", 5, "phone"), (40, "/a /b", 5, "phone"), (20, "/a", 1, "phone"), (20, "/a /b", 1, "phone")),
        *((4, "/a", 5, "desktop"), (16, "/a /b", 5, "desktop"), (56, "/a", 1, "desktop"), (224, "/a /b", 1, "desktop")),
    )
    log, plan = prepare(tmp_path, LOAD, rows)
    adjusted, raw = (measure_friction(log, plan, adjust=by, pages=1).table.iloc[0] for by in (DEVICE, ()))
    assert adjusted["lift"] == pytest.approx(44 / 100 - 76 / 320)
    assert adjusted["adjusted_lift"] == pytest.approx(0, abs=1e-12)
    assert raw["adjusted_lift"] == raw["lift"] == adjusted["lift"]
    assert (adjusted["verdict"], raw["verdict"]) == ("no evidence", "leaves more")


def test_measure_friction_without_an_effect_finds_one_in_few_logs(tmp_path: Path) -> None:
    found = [
        measure_friction(*prepare(tmp_path, LOAD, draw_visits(seed, users=150, effect=0).drop(columns="left")), pages=1)
        for seed in range(20)
    ]
    # Of 20 with a chance of 5% each, 5 or more come by chance 3 times in a thousand.
    assert sum(each.table["verdict"].iloc[0] != "no evidence" for each in found) <= 4


def test_measure_friction_controls_false_discoveries_over_the_table(shop: tuple[EventLog, Plan]) -> None:
    table = measure_friction(*shop).table.dropna(subset="p_value")
    assert table["q_value"].to_numpy() == pytest.approx(multipletests(table["p_value"], method="fdr_bh")[1])


# --- the shop ---


@pytest.fixture(scope="module")
def shop() -> tuple[EventLog, Plan]:
    log, plan, _ = simulate_shop(units=12_000, seed=4)
    return log, plan


def test_measure_friction_finds_what_is_planted_in_the_shop_and_nothing_else(shop: tuple[EventLog, Plan]) -> None:
    table = measure_friction(*shop).table
    worse = table[table["verdict"] == "leaves more"]
    planted = list_friction()
    assert set(pick(worse, "signal page")) == set(pick(planted, "signal page"))
    assert set(table["verdict"]) == {"leaves more", "no evidence", "too few"}  # nobody stays on /checkout/done
    assert worse["page"].iloc[0] == "/category/bags"
    assert table["extra_exits"].dropna().is_monotonic_decreasing


def test_measure_friction_of_the_shop_would_blame_phones_pages_unadjusted(shop: tuple[EventLog, Plan]) -> None:
    adjusted, raw = (measure_friction(*shop, adjust=by).table for by in (DEVICE, ()))
    assert len(raw[raw["verdict"] == "leaves more"]) > len(adjusted[adjusted["verdict"] == "leaves more"])


def test_page_friction_draws_the_numbers_of_its_table(shop: tuple[EventLog, Plan]) -> None:
    found = measure_friction(*shop)
    rows = found.table[found.table["signal"] == "page_load"].query("page != '/checkout/done'")
    ax = found.plot()  # the page that can't be judged comes last
    places, bases = (np.asarray(each.get_offsets()) for each in ax.collections[1:])
    assert places[:-1, 0] == pytest.approx((rows["leave_rate_without"] + rows["adjusted_lift"]).to_numpy())
    assert bases[:-1, 0] == pytest.approx(rows["leave_rate_without"].to_numpy())
    spread = ax.figure.axes[0]
    assert np.asarray(spread.lines[0].get_xdata())[:-1] == pytest.approx(rows["p50"].to_numpy())
    assert spread.get_yticklabels()[0].get_text() == f"/category/bags (n\xa0=\xa0{rows['visits'].iloc[0]:,})"
    assert len(found.plot(signal="form_length").get_yticks()) == 1
    with pytest.raises(ParamError) as caught:
        found.plot(signal="page_lod")
    message = "`signal` is 'page_lod'; it must be one of 'page_load', 'form_length'. Did you mean 'page_load'?"
    assert str(caught.value) == message


# --- sentences ---


def test_takeaways_name_the_worst_page_with_its_numbers(tmp_path: Path) -> None:
    rows = write_visits(
        *((60, "/a", 5, "phone"), (40, "/a /b", 5, "phone"), (60, "/a", 1, "phone"), (240, "/a /b", 1, "phone"))
    )
    rows.loc[rows["page_path"] == "/b", "seconds"] = np.nan
    found = measure_friction(*prepare(tmp_path, LOAD + ERRORS, rows))
    row = found.table.iloc[0]
    # 0.6 - 0.2 with Newcombe's interval of two independent samples, 60 of 100 and 60 of 300, nearly.
    assert (row["adjusted_lift_ci_lower"], row["adjusted_lift_ci_upper"]) == pytest.approx((0.291, 0.500), abs=0.003)
    assert list(found.takeaways) == [
        "Load time on /a (5 s or more) is associated with leaving: 60.0% of 100 visits with it end there against 20.0% "
        "of 300 others, +40.0 points (+29.0 to +50.0) adjusted for device_type; that is 40 exits more (29 to 50).",
        "1 of 1 pairs of signal and page could be judged in segment all; 1 page visits that may still go on are left "
        "out.",
        "No page has enough visits to show Field errors.",
    ]


def test_takeaways_say_when_nothing_is_found(tmp_path: Path) -> None:
    rows = write_visits(*((count, pages, s, "phone") for count, pages in ((60, "/a"), (60, "/a /b")) for s in (1, 5)))
    rows.loc[rows["page_path"] == "/b", "seconds"] = np.nan
    found = measure_friction(*prepare(tmp_path, LOAD, rows), adjust=())
    assert found.takeaways[0] == "None of the signals is associated with leaving a page more often beyond chance."


# --- bad input ---


def test_measure_friction_of_a_log_without_pages_is_empty_and_drawable(tmp_path: Path) -> None:
    found = measure_friction(*prepare(tmp_path, ERRORS, "ann field_error 0h\nbob view 5h"))
    assert len(found.table) == 0
    assert found.table.dtypes.map(str).to_dict() == COLUMNS
    assert found.takeaways[-1] == "No page has enough visits to show Field errors."
    assert len(found.plot().get_yticks()) == 0
    assert "Nothing to show" in found._repr_html_()


def test_measure_friction_names_every_wrong_parameter(tmp_path: Path) -> None:
    log, plan = prepare(tmp_path, ERRORS, "ann view 0h device_type=phone")
    with pytest.raises(ParamError) as caught:
        measure_friction(log, plan, adjust="devise_type", pages=0, min_visits=2.5, confidence=2)  # type: ignore[arg-type]
    columns = "event_name, timestamp, user_id, session_id, land, device_type"
    assert str(caught.value) == (
        "4 problems:\n"
        f"1. The log has no column `devise_type`. Did you mean 'device_type'? Its columns are {columns}.\n"
        "2. `confidence` is 2; it must lie between 0 and 1, such as 0.95.\n"
        "3. `pages` is 0; it must be a whole number, at least 1.\n"
        "4. `min_visits` is 2.5; it must be a whole number, at least 1."
    )


def test_measure_friction_of_a_plan_without_signals_says_so(tmp_path: Path) -> None:
    log, plan = prepare(tmp_path, " []\n", "ann view 0h device_type=mobile")
    found = measure_friction(log, plan)
    assert tuple(found.table.columns) == tuple(COLUMNS)
    assert found.takeaways == (
        "The plan names no signals of friction, such as slow pages or errors: none are looked for.",
    )


def test_measure_friction_refuses_unknown_columns(tmp_path: Path) -> None:
    rows = "ann view 0h secnds=2"
    log, plan = prepare(tmp_path, LOAD, rows)
    with pytest.raises(PlanError) as caught:
        measure_friction(log, plan)
    assert str(caught.value) == (
        f"{plan.path}:4: `load` reads the column `seconds`, which the log does not have. Did you mean 'secnds'? Its "
        f"columns are {', '.join(log.filled_columns)}."
    )


def test_read_plan_refuses_friction_of_a_taken_id_or_a_unit_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN + "  - {id: purchase, match: {event_name: error}, unit: s}\n", "utf-8")
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert str(caught.value) == (
        "2 problems:\n"
        f"1. {path}:4: friction[purchase].id is 'purchase', as on line 2; each id may stand once in a plan. Rename "
        "one of them.\n"
        f"2. {path}:4: friction[purchase].unit has no meaning without `column`: events are counted. Remove it, or add "
        "`column`."
    )


def test_measure_friction_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = draw_visits(5, users=100, effect=0.1).drop(columns="left")
    plan = make_plan(tmp_path, PLAN + LOAD)
    shuffled = rows.sample(frac=1, random_state=1)
    first, second = (measure_friction(read_events(each, plan=plan), plan).table for each in (rows, shuffled))
    pd.testing.assert_frame_equal(first, second)


def test_measure_friction_without_visits_alike_leaves_the_adjusted_lift_open(tmp_path: Path) -> None:
    rows = write_visits(*((40, p, s, d) for p in ("/a", "/a /b") for s, d in ((9, "phone"), (1, "desktop"))))
    rows.loc[rows["page_path"] == "/b", "seconds"] = np.nan
    found = measure_friction(*prepare(tmp_path, LOAD, rows), min_visits=50)
    assert pick(found.table, "leave_rate_with leave_rate_without verdict note") == [
        (0.5, 0.5, "too few", "no visits with and without it are alike in what is adjusted for")
    ]
    assert found.table[["lift", "adjusted_lift", "q_value"]].isna().to_numpy().all()


@pytest.mark.parametrize(
    ("leaving", "note"),
    [
        ((2, 3), "2.5 visits with or without it would leave by chance, needs 5"),
        ((38, 39), "1.5 visits with or without it would stay by chance, needs 5"),
    ],
    ids=["few leave", "few stay"],
)
def test_measure_friction_of_too_few_exits_says_so(tmp_path: Path, leaving: tuple[int, int], note: str) -> None:
    visits = [
        (n, p, s, "phone") for k, s in zip(leaving, (9, 1), strict=True) for n, p in ((k, "/a"), (40 - k, "/a /b"))
    ]
    rows = write_visits(*visits)
    rows.loc[rows["page_path"] == "/b", "seconds"] = np.nan
    found = measure_friction(*prepare(tmp_path, LOAD, rows), min_visits=50)
    assert pick(found.table, "left_with left_without verdict note") == [(*leaving, "too few", note)]
