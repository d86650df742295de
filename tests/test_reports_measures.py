import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_logs import pick

from convlib import stats
from convlib.reports.measures import extract_measures

RATES = "period tier conversion metric units exposed value ci_lower ci_upper note"
FUNNEL = (
    "step name units lost rate_from_previous rate_from_previous_ci_lower rate_from_previous_ci_upper "
    "rate_from_start rate_from_start_ci_lower rate_from_start_ci_upper"
)
LIFTS = "micro units_with units_without adjusted_lift adjusted_lift_ci_lower adjusted_lift_ci_upper"
IMPACT = "rank micro units_with reach score score_ci_lower score_ci_upper"
EFFECTS = "arm conversion metric units units_control effect effect_ci_lower effect_ci_upper status"


def save(folder: Path, name: str, columns: str, *rows: tuple[object, ...]) -> Path:
    pd.DataFrame(rows, columns=columns.split()).to_parquet(folder / f"{name}.parquet")
    return folder


def say(folder: Path, parameters: dict[str, Any], **entries: dict[str, Any]) -> None:
    text = json.dumps({"takeaways": [], "parameters": parameters, "entries": entries})
    (folder / "takeaways.json").write_text(text, encoding="utf-8")


def week(
    day: int, conversion: str, units: int, exposed: int, *, note: str = "", tier: str = "micro"
) -> tuple[Any, ...]:
    low, high = stats.wilson_interval([units], [exposed])
    period = pd.Timestamp(2026, 6, day)
    return period, tier, conversion, "rate", units, exposed, units / exposed, low[0], high[0], note


def step(number: int, name: str, units: int, before: int, start: int, *, lost: int | None = None) -> tuple[Any, ...]:
    bounds = [stats.wilson_interval([units], [whole]) for whole in (before, start)]
    (low,), (high,), (first_low,), (first_high,) = (bound for pair in bounds for bound in pair)
    gone = before - units if lost is None else lost
    return number, name, units, gone, units / before, low, high, units / start, first_low, first_high


def test_extract_measures_takes_the_latest_complete_period_of_rates(tmp_path: Path) -> None:
    rows = [
        week(1, "buy", 10, 100, tier="macro"),
        week(8, "buy", 20, 100, tier="macro"),
        week(8, "view", 50, 100),
        week(15, "buy", 5, 100, tier="macro", note="partial, 9 pending"),
    ]
    found = extract_measures(save(tmp_path, "rates", RATES, *rows))
    assert pick(found, "kind id name units count value unit sample") == [
        ("rate", "buy: rate", "buy", 100, 20, 0.2, "percent", "2026-06-08"),
        ("rate", "view: rate", "view", 100, 50, 0.5, "percent", "2026-06-08"),
    ]
    assert list(found["error"]) == pytest.approx([np.sqrt(0.2 * 0.8 / 100), 0.05])


def test_extract_measures_passes_over_a_period_of_few_units(tmp_path: Path) -> None:
    rows = [week(1, "buy", 10, 30, tier="macro"), week(8, "buy", 10, 29, tier="macro", note="n = 29, needs 30")]
    assert pick(extract_measures(save(tmp_path, "rates", RATES, *rows)), "sample") == [("2026-06-01",)]


def test_extract_measures_of_amounts_and_times_are_scores(tmp_path: Path) -> None:
    money = (pd.Timestamp("2026-06-01"), "macro", "buy", "sum of value", 10, 100, 500.0, 400.0, 600.0, "")
    time = (pd.Timestamp("2026-06-01"), "macro", "buy", "time_between", 10, 100, 60.0, 50.0, 90.0, "")
    found = extract_measures(save(tmp_path, "rates", RATES, money, time))
    assert pick(found, "kind id name units value unit") == [
        ("score", "buy: sum of value", "buy: sum of value", 100, 500, "number"),
        ("score", "buy: time_between", "buy: time_between", 100, 60, "seconds"),
    ]
    assert list(found["error"]) == pytest.approx([200 / (2 * 1.959964), 40 / (2 * 1.959964)])
    assert found["count"].isna().all()


def test_extract_measures_knows_the_larger_error_of_a_longer_interval(tmp_path: Path) -> None:
    *known, low, high, note = week(1, "buy", 50, 100, tier="macro")
    row = (*known, 0.5 - 2 * (0.5 - low), 0.5 + 2 * (high - 0.5), note)
    assert list(extract_measures(save(tmp_path, "rates", RATES, row))["error"]) == pytest.approx([2 * 0.05])


def test_extract_measures_takes_a_funnels_leaks_and_what_gets_through(tmp_path: Path) -> None:
    steps = [step(1, "view", 100, 100, 100), step(2, "cart", 60, 100, 100), step(3, "buy", 45, 60, 100)]
    found = extract_measures(save(tmp_path, "funnel", FUNNEL, *steps))
    assert pick(found, "kind id name units count better unit") == [
        ("rate", "view ... buy", "view to buy", 100, 45, "up", "percent"),
        ("leak", "view > cart", "Lost between view and cart", 100, 40, "down", "percent"),
        ("leak", "cart > buy", "Lost between cart and buy", 60, 15, "down", "percent"),
    ]
    assert list(found["value"]) == pytest.approx([0.45, 0.4, 0.25])
    low, high = stats.wilson_interval([45, 40, 15], [100, 100, 60])
    assert list(found["lower"]) == pytest.approx(list(low))
    assert list(found["upper"]) == pytest.approx(list(high))


def test_extract_measures_passes_over_optional_steps(tmp_path: Path) -> None:
    steps = [
        step(1, "view", 100, 100, 100),
        step(2, "promo", 30, 100, 100, lost=0),
        step(3, "buy", 20, 100, 100),
    ]
    found = extract_measures(save(tmp_path, "funnel", FUNNEL, *steps))
    assert pick(found[found["kind"] == "leak"], "id units count") == [("view > buy", 100, 80)]


def test_extract_measures_takes_adjusted_lifts(tmp_path: Path) -> None:
    found = extract_measures(save(tmp_path, "correlation", LIFTS, ("filter", 100, 300, 0.05, 0.03, 0.07)))
    assert pick(found, "kind id name units value lower upper better unit sample") == [
        ("score", "lift: filter", "Adjusted lift associated with filter", 400, 0.05, 0.03, 0.07, "", "points", "")
    ]


def test_extract_measures_takes_ranks_and_scores(tmp_path: Path) -> None:
    rows = [(1, "filter", 100, 300, 5.0, 4.0, 6.0), (None, "cart", 200, 200, np.nan, np.nan, np.nan)]
    found = extract_measures(save(tmp_path, "impact", IMPACT, *rows)).fillna({"value": -1})
    assert pick(found, "kind id value unit") == [
        ("rank", "filter", 1, "count"),
        ("rank", "cart", -1, "count"),
        ("score", "score: filter", 5, "number"),
        ("score", "score: cart", -1, "number"),
    ]


def test_extract_measures_takes_what_experiments_say(tmp_path: Path) -> None:
    rows = [
        ("short", "buy", "rate", 100, 90, 0.02, 0.01, 0.03, "better"),
        ("short", "buy", "sum of value", 100, 90, 2.0, 1.0, 3.0, "no evidence"),
    ]
    found = extract_measures(save(tmp_path, "experiment", EFFECTS, *rows))
    assert pick(found, "id name units value unit status") == [
        ("short: buy: rate", "Effect of “short” on buy", 190, 0.02, "points", "better"),
        ("short: buy: sum of value", "Effect of “short” on buy: sum of value", 190, 2.0, "number", "no evidence"),
    ]
    assert set(found["sample"]) == {"since the start"}


def test_extract_measures_knows_names_and_directions_from_the_plan(tmp_path: Path) -> None:
    save(tmp_path, "rates", RATES, week(1, "error", 10, 100, tier="macro"))
    say(
        tmp_path,
        {},
        error={"name": "Form error", "metrics": {"rate": {"name": "Error in a form", "direction": "down"}}},
    )
    assert pick(extract_measures(tmp_path), "name better") == [("Error in a form", "down")]
    save(tmp_path, "impact", IMPACT, (1, "error", 100, 300, 5.0, 4.0, 6.0))
    assert pick(extract_measures(tmp_path)[1:], "name") == [
        ("Form error",),
        ("Estimated value of one more unit that does Form error, if the association holds",),
    ]


@pytest.mark.parametrize(
    ("parameters", "definitions", "same"),
    [
        pytest.param({"macro": "buy", "window": "7D"}, ("a", "b", "c"), True, id="nothing"),
        pytest.param({"macro": "buy", "window": "7D", "by": ["device"]}, ("a", "b", "c"), True, id="what is shown"),
        pytest.param({"macro": "buy", "window": "14D"}, ("a", "b", "c"), False, id="the window"),
        pytest.param({"macro": "buy", "window": "7D"}, ("A", "b", "c"), False, id="the micro"),
        pytest.param({"macro": "buy", "window": "7D"}, ("a", "B", "c"), False, id="the macro"),
        pytest.param({"macro": "buy", "window": "7D"}, ("a", "b", "C"), True, id="another micro"),
    ],
)
def test_extract_measures_fingerprints_how_each_is_measured(
    tmp_path: Path, parameters: dict[str, Any], definitions: tuple[str, str, str], same: bool
) -> None:
    save(tmp_path, "correlation", LIFTS, ("filter", 100, 300, 0.05, 0.03, 0.07))

    def fingerprint(given: dict[str, Any], *texts: str) -> str:
        entries = {name: {"definition": text} for name, text in zip(("filter", "buy", "cart"), texts, strict=True)}
        say(tmp_path, given, **entries)
        return str(extract_measures(tmp_path)["definition"][0])

    first = fingerprint({"macro": "buy", "window": "7D"}, "a", "b", "c")
    assert (fingerprint(parameters, *definitions) == first) is same


def test_extract_measures_of_tables_of_ones_own_are_none(tmp_path: Path) -> None:
    save(tmp_path, "rates", "period rate", ("2026-06-01", 0.5))
    save(tmp_path, "funnel", FUNNEL)
    save(tmp_path, "mine", "a b", (1, 2))
    (tmp_path / "impact.parquet").write_text("not a table", encoding="utf-8")
    (tmp_path / "takeaways.json").write_text('{"takeaways": []}', encoding="utf-8")
    found = extract_measures(tmp_path)
    assert found.empty
    assert list(found) == [
        *("kind", "id", "name", "units", "count", "value", "error", "lower", "upper", "better", "unit", "sample"),
        *("status", "definition"),
    ]


def test_extract_measures_takes_no_group_for_the_whole(tmp_path: Path) -> None:
    rows = [week(1, "buy", 10, 100, tier="macro"), week(1, "buy", 20, 100, tier="macro"), week(1, "view", 50, 100)]
    assert pick(extract_measures(save(tmp_path, "rates", RATES, *rows)), "id") == [("view: rate",)]


def test_extract_measures_takes_left_out_numbers_as_unknown(tmp_path: Path) -> None:
    row = (pd.Timestamp("2026-06-01"), "macro", "buy", "rate", None, 100, None, None, None, "")
    found = extract_measures(save(tmp_path, "rates", RATES, row))
    assert pick(found, "id units") == [("buy: rate", 100)]
    assert found[["count", "value", "error", "lower", "upper"]].isna().all(axis=None)
