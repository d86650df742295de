import itertools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from convlib.datasets import shop as shop_module
from convlib.datasets.build_oulad import build_events
from convlib.datasets.files import dataset_path, params_folder
from convlib.datasets.load import list_datasets, load_dataset, simulate_shop
from convlib.datasets.shop import shop_events
from convlib.datasets.shop_model import list_experiments, list_friction, list_planted
from convlib.errors import ParamError
from convlib.plan import read_plan, read_segments

SYNONYMS = {
    "AddToCart": "add_to_cart",
    "Product Added": "add_to_cart",
    "BeginCheckout": "begin_checkout",
    "Order Completed": "purchase",
}
UNPLANNED = ["first_visit", "page_view", "email_sent", "push_sent"]
DAY = pd.Timedelta(days=1)


@pytest.fixture(scope="module")
def shop() -> pd.DataFrame:
    events, _ = shop_events(20_000, seed=1)
    return events.assign(event_name=events["event_name"].astype("str").replace(SYNONYMS))


@pytest.fixture(scope="module")
def first_days() -> pd.DataFrame:
    events, _ = shop_events(60_000, seed=11)
    return _first_days(events.assign(event_name=events["event_name"].astype("str").replace(SYNONYMS)))


@pytest.fixture(scope="module")
def oulad() -> pd.DataFrame:
    return pd.read_parquet(dataset_path("oulad"))


# --- shop ---


def test_shop_events_repeats_itself_for_the_same_units_and_seed() -> None:
    first, _ = shop_events(300, seed=7)
    second, _ = shop_events(300, seed=7)
    other, _ = shop_events(300, seed=8)
    pd.testing.assert_frame_equal(first, second)
    assert not first["timestamp"].equals(other["timestamp"])


def test_shop_events_are_in_time_order_and_end_two_weeks_after_the_entries(shop: pd.DataFrame) -> None:
    assert shop["timestamp"].is_monotonic_increasing
    entries = shop.loc[shop["event_name"] == "first_visit", "timestamp"]
    assert entries.min() >= pd.Timestamp("2026-06-01")
    assert entries.max() < pd.Timestamp("2026-06-01") + 84 * DAY
    assert shop["timestamp"].max() < pd.Timestamp("2026-06-01") + 98 * DAY


def test_shop_events_begin_each_unit_with_one_first_visit(shop: pd.DataFrame) -> None:
    assert shop["user_id"].nunique() == 20_000
    firsts = shop.drop_duplicates("user_id")
    assert set(firsts["event_name"]) == {"first_visit"}
    assert (shop["event_name"] == "first_visit").sum() == 20_000


def test_shop_events_put_the_funnel_before_every_purchase(shop: pd.DataFrame) -> None:
    steps = ["view_item", "add_to_cart", "view_cart", "begin_checkout", "add_shipping_info", "purchase"]
    rows = shop[shop["event_name"].isin(steps)]
    times = rows.pivot_table(index="session_id", columns="event_name", values="timestamp", observed=True)[steps]
    bought = times[times["purchase"].notna()]
    assert len(bought) == (shop["event_name"] == "purchase").sum()
    assert all((bought[a] < bought[b]).all() for a, b in itertools.pairwise(steps))


def test_shop_events_name_the_same_thing_differently_by_platform() -> None:
    events, _ = shop_events(5_000, seed=2)
    seen = {(p, n) for p, n in zip(events["platform"], events["event_name"], strict=True)}
    named = {(p, n) for p, n in seen if SYNONYMS.get(n, n) in {"add_to_cart", "purchase"}}
    assert named == {
        ("web", "add_to_cart"),
        ("app", "AddToCart"),
        ("server", "Product Added"),
        ("web", "purchase"),
        ("app", "purchase"),
        ("server", "Order Completed"),
    }


def test_shop_events_give_purchases_a_value_after_the_discount(shop: pd.DataFrame) -> None:
    orders = shop[shop["event_name"] == "purchase"]
    assert (orders["value"] > 0).all()
    assert set(orders["currency"]) == {"USD"}
    with_code = orders[orders["discount"] > 0]
    # A code takes a tenth off: 9 is left for each 1 of discount, to the cent.
    assert np.allclose(with_code["value"], 9 * with_code["discount"], atol=0.10)
    assert 0.1 < len(with_code) / len(orders) < 0.35


def test_shop_events_let_the_form_take_as_long_as_they_say(shop: pd.DataFrame) -> None:
    rows = shop[shop["event_name"].isin(["begin_checkout", "add_shipping_info"])]
    times = rows.pivot_table(index="session_id", columns="event_name", values="timestamp", observed=True).dropna()
    said = shop[shop["event_name"] == "add_shipping_info"].set_index("session_id")["fill_seconds"]
    taken = (times["add_shipping_info"] - times["begin_checkout"]).dt.total_seconds()
    assert np.allclose(taken, said.reindex(times.index), atol=0.001)


def test_shop_events_follow_most_orders_with_tracking(shop: pd.DataFrame) -> None:
    bought = shop[shop["event_name"] == "purchase"].groupby("user_id", observed=True)["timestamp"].min()
    tracked = shop[shop["event_name"] == "track_order"].groupby("user_id", observed=True)["timestamp"].min()
    both = bought.index.intersection(tracked.index)
    assert (tracked[both] > bought[both]).mean() > 0.9


def test_shop_events_recover_the_planted_lifts(first_days: pd.DataFrame) -> None:
    for micro, lift in list_planted().dropna().set_index("micro")["true_lift"].items():
        fit = _regress(first_days, [str(micro)])
        assert abs(fit.params[micro] - lift) < 3.5 * fit.bse[micro], micro


def test_shop_events_make_nulls_look_good_until_activity_is_held_equal(first_days: pd.DataFrame) -> None:
    for micro in ("select_category", "use_filter", "apply_promo", "email_click"):
        bought = [rows["bought"] for _, rows in first_days.groupby(micro)]
        error = np.sqrt(sum(side.var() / len(side) for side in bought))
        assert bought[1].mean() - bought[0].mean() > 3 * error, micro


def test_shop_events_space_the_planted_effects_wider_than_their_noise(shop: pd.DataFrame) -> None:
    planted = list_planted().query("planted in ['positive', 'negative']").sort_values("true_lift")
    fit = _regress(_first_days(shop), planted["micro"].tolist())
    assert fit.params.is_monotonic_increasing
    errors = fit.bse.to_numpy()
    assert (np.diff(planted["true_lift"]) > 3 * np.hypot(errors[1:], errors[:-1])).all()


def _regress(days: pd.DataFrame, micros: list[str]) -> Any:
    """Least squares with a dummy for each stratum: centring within strata gives the same coefficients."""
    columns = days[["bought", *micros]]
    centred = columns - columns.groupby(days["stratum"]).transform("mean")
    return sm.OLS(centred["bought"], centred[micros]).fit(cov_type="HC1")


def _first_days(events: pd.DataFrame) -> pd.DataFrame:
    """What each unit that did not buy on its first day did on it, and whether it bought in the 14 days after."""
    entry = events[events["event_name"] == "first_visit"].set_index("user_id")[["timestamp", "device_type", "source"]]
    age = events["timestamp"] - events["user_id"].astype("str").map(entry["timestamp"].rename(index=str))
    bought = age[events["event_name"] == "purchase"].groupby(events["user_id"], observed=False).min()
    day = entry.assign(bought_after=bought.reindex(entry.index))
    is_mature = day["timestamp"] + 15 * DAY <= events["timestamp"].max()
    day = day[is_mature & ~(day["bought_after"] < DAY)]
    first = events[age < DAY]
    planned = first[~first["event_name"].isin(UNPLANNED)]
    did = pd.crosstab(planned["user_id"], planned["event_name"]).clip(upper=1).astype(float)
    pages = _count_plain_pages(first, planned)
    stratum = day["device_type"].astype("str") + day["source"].astype("str") + pages.reindex(day.index).astype("str")
    outcome = (day["bought_after"] < 15 * DAY).astype(float)
    return did.reindex(day.index, fill_value=0.0).assign(bought=outcome, stratum=stratum)


def _count_plain_pages(first: pd.DataFrame, planned: pd.DataFrame) -> pd.Series:
    """Page views that did not fire at the same moment as a conversion."""
    pages = first[first["event_name"] == "page_view"]
    moments = pd.MultiIndex.from_frame(pages[["user_id", "timestamp"]])
    is_plain = ~moments.isin(pd.MultiIndex.from_frame(planned[["user_id", "timestamp"]]))
    return pages[is_plain].groupby("user_id", observed=False).size()


def test_shop_events_draw_friction_apart_from_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    events, _ = shop_events(300, seed=7)
    none = {"load_seconds": np.nan, "form_fields": np.nan}
    monkeypatch.setattr(shop_module, "draw_friction", lambda _rng, _rows: none)
    without, _ = shop_events(300, seed=7)
    pd.testing.assert_frame_equal(events.drop(columns=list(none)), without.drop(columns=list(none)))


def test_shop_events_give_load_times_to_page_views_and_fields_to_forms(shop: pd.DataFrame) -> None:
    timed, forms = (set(shop.loc[shop[name].notna(), "event_name"]) for name in ("load_seconds", "form_fields"))
    assert (timed, forms) == ({"page_view"}, {"begin_checkout"})
    assert shop.loc[shop["event_name"].isin(timed), "load_seconds"].gt(0).all()
    assert set(shop["form_fields"].dropna()) == {9, 14}


def test_shop_events_are_slower_before_leaving_as_the_truth_says(shop: pd.DataFrame) -> None:
    # A page that fires with the last event of a visit is where it ends.
    ends = shop["page_path"].astype("str").groupby(shop["session_id"], observed=True).transform("last")
    leaves = ends == shop["page_path"].astype("str")
    views = shop.assign(leaves=leaves).query("event_name == 'page_view'").astype({"page_path": "str"})
    medians = views.groupby(["page_path", "leaves", "device_type"], observed=True)["load_seconds"].median()
    ratio = (medians.xs(True, level="leaves") / medians.xs(False, level="leaves")).xs("mobile", level="device_type")
    planted = list_friction().query("signal == 'page_load'").set_index("page")["factor"]
    assert planted.to_dict() == {"/category/bags": 1.35, "/help/sizes": 1.2}
    for page in ("/", "/new", "/category/shoes", "/category/bags", "/blog/care", "/help/sizes"):
        assert ratio[page] == pytest.approx(planted.get(page, 1.0), rel=0.06)
    forms = shop.assign(leaves=leaves)[shop["form_fields"].notna()].groupby("leaves")["form_fields"]
    assert forms.apply(lambda fields: (fields == 14).mean()).tolist() == pytest.approx([0.30, 0.45], abs=0.04)


def test_shop_events_draw_arms_apart_from_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    events, _ = shop_events(300, seed=7)
    monkeypatch.setattr(shop_module, "draw_arms", lambda _rng, outcomes, *_: np.zeros(len(outcomes), dtype=bool))
    without, _ = shop_events(300, seed=7)
    arms = ["form_test", "promo_test"]
    pd.testing.assert_frame_equal(events.drop(columns=arms), without.drop(columns=arms))
    assert [set(without[column].dropna()) for column in arms] == [{"control"}, {"control"}]


@pytest.mark.parametrize(
    ("column", "arms", "first", "end"),
    [
        ("form_test", {"control", "short"}, "2026-06-08", "2026-08-10"),
        ("promo_test", {"control", "banner"}, "2026-07-06", "2026-08-17"),
    ],
)
def test_shop_events_carry_one_arm_from_the_first_event_in_the_days_of_the_test(
    shop: pd.DataFrame, column: str, arms: set[str], first: str, end: str
) -> None:
    during = shop[(shop["timestamp"] >= first) & (shop["timestamp"] < end)]
    assigned = during.groupby("user_id", observed=False)["timestamp"].min()
    assert assigned.isna().any()
    is_after = shop["timestamp"] >= shop["user_id"].map(assigned)  # false where there is none
    assert (shop[column].notna() == is_after).all()
    assert set(shop[column].dropna()) == arms
    assert shop[is_after].groupby("user_id", observed=True)[column].nunique().eq(1).all()


@pytest.mark.parametrize(("units", "seed"), [(20_000, 1), (100_000, 2)])
def test_shop_events_differ_between_arms_as_planted(units: int, seed: int) -> None:
    events, _ = shop_events(units, seed)
    events = events.assign(event_name=events["event_name"].astype("str").replace(SYNONYMS))
    planted = list_experiments().set_index("experiment")
    for column, experiment in {"form_test": "checkout_form", "promo_test": "promo_banner"}.items():
        entered = events[events[column].notna()].drop_duplicates("user_id").set_index("user_id")
        arm = entered[column].astype("str")
        assert stats.chisquare(arm.value_counts()).pvalue > 0.001
        for before in ("device_type", "source"):
            assert stats.chi2_contingency(pd.crosstab(entered[before], arm)).pvalue > 0.001
        since = events["timestamp"] - events["user_id"].map(entered["timestamp"])
        window = events[(since >= pd.Timedelta(0)) & (since <= 14 * DAY)]
        for _, _, conversion, metric, effect in planted.loc[experiment].itertuples():
            done = window[window["event_name"] == conversion].groupby("user_id", observed=True)["value"]
            value = done.size().clip(upper=1) if metric == "rate" else done.sum()
            value = value.reindex(arm.index, fill_value=0)
            expected = (1 + effect) * value[arm == "control"]
            assert stats.ttest_ind(value[arm != "control"], expected, equal_var=False).pvalue > 0.001, conversion


def test_list_experiments_says_what_the_arms_change() -> None:
    truth = list_experiments()
    assert truth.columns.tolist() == ["experiment", "arm", "conversion", "metric", "true_relative_effect"]
    assert list(truth.itertuples(index=False, name=None)) == [
        ("checkout_form", "short", "begin_checkout", "rate", 0.0),
        ("checkout_form", "short", "add_shipping_info", "rate", 0.12),
        ("checkout_form", "short", "purchase", "rate", 0.05),
        ("checkout_form", "short", "purchase", "sum of value", 0.05),
        ("promo_banner", "banner", "view_cart", "rate", 0.0),
        ("promo_banner", "banner", "apply_promo", "rate", 0.30),
        ("promo_banner", "banner", "purchase", "rate", -0.14),
        ("promo_banner", "banner", "purchase", "sum of value", -0.20),
    ]


def test_list_experiments_lists_those_of_the_plan() -> None:
    plan = read_plan(params_folder("shop") / "plan.yaml")
    truth = list_experiments().drop_duplicates("experiment")
    assert [each.id for each in plan.experiments] == truth["experiment"].tolist()
    assert [each.arm_names for each in plan.experiments] == [("control", arm) for arm in truth["arm"]]


@pytest.mark.parametrize("units", [1, 2, 5, 40])
def test_shop_events_can_be_few(units: int) -> None:
    events, _ = shop_events(units, seed=3)
    assert events["user_id"].nunique() == units


def test_shop_events_list_the_truth_of_every_micro_of_the_plan() -> None:
    _, truth = shop_events(1)
    assert truth.columns.tolist() == ["micro", "planted", "true_lift"]
    assert set(truth["micro"]) == {m.id for m in read_plan(params_folder("shop") / "plan.yaml").macros[0].micros}
    lifts = truth.dropna().query("true_lift != 0").set_index("micro")["true_lift"].to_dict()
    assert lifts == {
        "add_to_wishlist": 0.12,
        "save_payment_method": 0.08,
        "newsletter_signup": 0.035,
        "field_error": -0.045,
    }
    assert truth["planted"].value_counts().to_dict() == {
        "precondition": 5,
        "null": 5,
        "positive": 3,
        "negative": 1,
        "follows": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "`units` is 0; it must be a whole number, at least 1."),
        (
            {"units": 2.5, "seed": -1},
            "2 problems:\n1. `units` is 2.5; it must be a whole number, at least 1.\n"
            "2. `seed` is -1; it must be a whole number, at least 0.",
        ),
    ],
    ids=["no units", "both wrong"],
)
def test_shop_events_refuses_what_is_no_number_of_units(arguments: Mapping[str, int], message: str) -> None:
    with pytest.raises(ParamError) as caught:
        shop_events(**arguments)
    assert str(caught.value) == message


def test_simulate_shop_maps_every_conversion_of_its_plan() -> None:
    log, plan, truth = simulate_shop(units=2_000, seed=3)
    mapped = log.rows("conversions").project("conversion").distinct().df()["conversion"]
    assert set(mapped) == {conversion.id for conversion in plan.conversions}
    assert len(truth) == 15


# --- oulad: the numbers are the published ones ---


def test_oulad_holds_every_enrolment_with_its_result(oulad: pd.DataFrame) -> None:
    assert oulad["user_id"].nunique() == 32_593
    results = oulad[oulad["event_name"] == "finish_module"]
    assert not results["user_id"].duplicated().any()
    expected = {"Pass": 12_361, "Distinction": 3_024, "Fail": 7_052, "Withdrawn": 10_156}
    assert results["final_result"].value_counts().to_dict() == expected


def test_oulad_holds_every_submission_and_registration(oulad: pd.DataFrame) -> None:
    counts = oulad["event_name"].value_counts()
    assert counts["submit_assessment"] == 173_912
    assert counts["register"] == 32_593
    assert (oulad["date_imputed"] == True).sum() == 45  # noqa: E712  a nullable column
    assert oulad.groupby(["module", "presentation"]).ngroups == 22
    assert oulad["user_id"].str.split("-").str[0].nunique() == 28_785


def test_oulad_starts_only_those_who_had_not_withdrawn(oulad: pd.DataFrame) -> None:
    started = set(oulad.loc[oulad["event_name"] == "start_module", "user_id"])
    results = oulad[oulad["event_name"] == "finish_module"]
    absent = results[~results["user_id"].isin(started)]["final_result"].value_counts()
    assert absent["Withdrawn"] == 3_089
    assert absent.index.isin(["Withdrawn", "Fail"]).all()


def test_oulad_is_small_and_in_time_order(oulad: pd.DataFrame) -> None:
    assert oulad["timestamp"].is_monotonic_increasing
    assert dataset_path("oulad").stat().st_size < 4_000_000
    assert (dataset_path("oulad").parent / "ATTRIBUTION.md").exists()


def test_build_events_lays_the_tables_out_as_one_log() -> None:
    events = build_events(_given_tables())
    found = [(row.event_name, str(row.timestamp), row.user_id) for row in events.itertuples()]
    assert found == [
        ("unregister", "2013-01-27 18:00:00", "2-AAA-2013B"),
        ("submit_assessment", "2013-01-31 12:00:00", "1-AAA-2013B"),
        ("register", "2013-02-01 00:00:00", "2-AAA-2013B"),
        ("register", "2013-02-04 00:00:00", "1-AAA-2013B"),
        ("start_module", "2013-02-04 00:00:01", "1-AAA-2013B"),
        ("submit_assessment", "2013-02-23 12:00:00", "1-AAA-2013B"),
        ("finish_module", "2013-09-29 23:00:00", "1-AAA-2013B"),
        ("finish_module", "2013-09-29 23:00:00", "2-AAA-2013B"),
    ]


def test_build_events_numbers_and_dates_submissions() -> None:
    events = build_events(_given_tables())
    submitted = events[events["event_name"] == "submit_assessment"]
    assert submitted["assessment_number"].tolist() == [1, 2]
    assert submitted["days_late"].tolist() == [-20, 3]
    assert submitted["score"].tolist() == [80, 55]
    assert submitted["is_banked"].tolist() == [True, False]


def test_build_events_keeps_attributes_on_every_row_and_flags_what_it_filled_in() -> None:
    events = build_events(_given_tables())
    assert set(events.loc[events["user_id"] == "1-AAA-2013B", "imd_band"]) == {"10-20%"}
    assert events["imd_band"].isna().sum() == 3
    registered = events[events["event_name"] == "register"].set_index("user_id")["date_imputed"]
    assert registered.to_dict() == {"1-AAA-2013B": False, "2-AAA-2013B": True}


def _given_tables() -> dict[str, pd.DataFrame]:
    """Student 1 registers on day 3 and passes; student 2 has no registration date and leaves on day -5."""
    presentation = {"code_module": "AAA", "code_presentation": "2013B"}
    person = {
        **presentation,
        "gender": "F",
        "region": "Wales",
        "highest_education": "HE Qualification",
        "age_band": "0-35",
        "num_of_prev_attempts": 0,
        "studied_credits": 60,
        "disability": False,
    }
    return {
        "course": pd.DataFrame([{**presentation, "module_presentation_length": 240}]),
        "student": pd.DataFrame(
            [
                {**person, "id_student": 1, "imd_band": "10-20", "final_result": "Pass"},
                {**person, "id_student": 2, "imd_band": None, "final_result": "Withdrawn"},
            ]
        ),
        "student_registration": pd.DataFrame(
            [
                {**presentation, "id_student": 1, "date_registration": 3.0, "date_unregistration": None},
                {**presentation, "id_student": 2, "date_registration": None, "date_unregistration": -5.0},
            ]
        ),
        "assessment": pd.DataFrame(
            [
                {**presentation, "id_assessment": 20, "assessment_type": "TMA", "date": 19.0, "weight": 50.0},
                {**presentation, "id_assessment": 10, "assessment_type": "TMA", "date": 19.0, "weight": 50.0},
            ]
        ),
        "student_assessment": pd.DataFrame(
            [
                {"id_assessment": 10, "id_student": 1, "date_submitted": -1, "is_banked": True, "score": 80.0},
                {"id_assessment": 20, "id_student": 1, "date_submitted": 22, "is_banked": False, "score": 55.0},
            ]
        ),
    }


# --- names, files, plans ---


@pytest.mark.parametrize("name", ["oulad", "shop"])
def test_params_folder_holds_a_full_plan_without_gaps(name: str) -> None:
    plan = read_plan(params_folder(name) / "plan.yaml")
    assert plan.warnings == ()
    assert plan.gaps == []
    micros = plan.macros[0].micros
    assert all(micro.actions and micro.notes and micro.value is not None for micro in micros)
    assert "all" in read_segments(params_folder(name) / "segments.yaml")


@pytest.mark.parametrize("name", ["oulad", "shop"])
def test_load_dataset_maps_every_conversion_of_its_plan(name: str) -> None:
    log, plan = load_dataset(name)
    mapped = log.rows("conversions").project("conversion").distinct().df()["conversion"]
    assert set(mapped) == {conversion.id for conversion in plan.conversions}


def test_load_dataset_leaves_banked_submissions_out_of_the_micros() -> None:
    log, _ = load_dataset("oulad")
    submitted = log.rows("conversions").filter("event_name = 'submit_assessment'")
    assert submitted.project("is_banked").distinct().fetchall() == [(False,)]


def test_dataset_path_gives_the_same_file_again_and_leaves_no_scraps() -> None:
    path = dataset_path("shop")
    changed = path.stat().st_mtime_ns
    assert dataset_path("shop").stat().st_mtime_ns == changed
    assert [p for p in path.parent.iterdir() if p.name.startswith("tmp")] == []


def test_dataset_path_names_the_examples_and_the_nearest_name() -> None:
    with pytest.raises(ParamError) as caught:
        dataset_path("oulat")
    assert str(caught.value) == "`name` is 'oulat'; it must be one of 'oulad', 'shop'. Did you mean 'oulad'?"


def test_list_datasets_counts_rows_and_units() -> None:
    listed = list_datasets().set_index("name")
    assert listed.columns.tolist() == ["rows", "units", "licence", "path"]
    assert listed.loc["oulad", "rows"] == 278_666  # 2 x 32,593 + 173,912 + 29,496 starts + 10,072 unregistrations
    assert listed["units"].to_dict() == {"oulad": 32_593, "shop": 20_000}
    assert listed["licence"].str.contains("CC BY 4.0|BSD-3-Clause").all()


@pytest.mark.parametrize("module", ["convlib.datasets.files", "convlib.events", "convlib.datasets.load"])
def test_datasets_can_be_imported_first(module: str) -> None:
    command = [sys.executable, "-W", "error", "-c", f"import {module}"]
    assert subprocess.run(command, check=False, cwd=Path(__file__).parents[1]).returncode == 0
