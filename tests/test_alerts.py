import hashlib
import json
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pytest

from convlib.alert_files import COLUMNS
from convlib.alerts import FALSE_ALARMS, LEVELS, Alerts, find_alerts
from convlib.control import compare_periods, find_limits
from convlib.errors import ParamError
from convlib.quality import Quality
from convlib.rates import Rates
from convlib.results import Result
from convlib.stats import divide, wilson_interval
from convlib.upkeep import Actions

Made = TypeVar("Made", bound=Result)
MONDAY = pd.Timestamp("2026-01-05")
GOALS = pd.DataFrame(
    [("buy", "Bought", "up", "buy"), ("cart", "Add to cart", "up", "buy"), ("error", "Error", "down", "buy")],
    columns=["conversion", "title", "direction", "macro"],
).assign(metric="rate")
STEADY = [990, 1_010, 1_000, 995, 1_005, 1_000, 990, 1_010, 1_000]


def make(kind: type[Made], **fields: object) -> Made:
    """Make a result that has only what alerts look at."""
    made = object.__new__(kind)
    vars(made).update(fields)
    return made


def series(conversion: str, counts: list[int], exposed: int = 10_000, **more: Any) -> pd.DataFrame:
    """Give one metric's weeks from 5 January 2026."""
    sizes = [exposed if count >= 0 else 0 for count in counts]
    counts = [max(count, 0) for count in counts]
    low, high = wilson_interval(counts, sizes)
    known = {
        "period": [MONDAY + pd.Timedelta(weeks=n) for n in range(len(counts))],
        "tier": "macro" if conversion == "buy" else "micro",
        "conversion": conversion,
        "metric": "rate",
        "units": counts,
        "exposed": sizes,
        "value": divide(counts, sizes),
        "ci_lower": low,
        "ci_upper": high,
        "target": np.nan,
        "benchmark_low": np.nan,
        "benchmark_high": np.nan,
        "owner": "ann",
        "note": ["" if size else "no data" for size in sizes],
    }
    return pd.DataFrame(known | more).astype({"period": "datetime64[us]"})


def make_rates(*parts: pd.DataFrame, by: tuple[str, ...] = (), segment: str = "mobile", metric: str = "rate") -> Rates:
    table = pd.concat(parts, ignore_index=True)
    limits = find_limits(table, by=by, every="W")
    known = {
        "table": table.join(compare_periods(table, limits, by=by)),
        "limits": limits,
        "goals": GOALS.assign(metric=metric),
        "names": dict(zip(GOALS["conversion"], GOALS["title"], strict=True)),
        "by": by,
        "every": "W",
        "confidence": 0.95,
        "segment": segment,
        "end": table["period"].max() + pd.Timedelta(days=7),
    }
    return make(Rates, **known, fewest=0)


def list_alerts(alerts: Alerts) -> list[tuple[str, str, str]]:
    return list(alerts.table[["rule", "severity", "conversion"]].itertuples(index=False, name=None))


def test_the_rules_share_one_chance_of_a_false_alarm() -> None:
    assert sum(LEVELS.values()) == pytest.approx(FALSE_ALARMS)


def test_find_alerts_raises_nothing_in_a_quiet_week() -> None:
    alerts = find_alerts(make_rates(series("buy", STEADY), series("cart", STEADY)))
    assert alerts.table.empty
    assert list(alerts.table) == list(COLUMNS)
    assert alerts.table.dtypes.astype(str).to_dict() == COLUMNS
    assert alerts.takeaways == ("No alert is open in segment mobile.",)
    assert alerts._repr_html_() == '<p class="empty">Nothing to show.</p>'


@pytest.mark.parametrize(
    ("conversion", "last", "severity"),
    [
        ("buy", 700, "critical"),
        ("buy", 1_300, "info"),
        ("cart", 700, "warning"),
        ("cart", 1_300, "info"),
        ("error", 1_300, "warning"),
        ("error", 700, "info"),
    ],
)
def test_find_alerts_judges_a_move_by_tier_and_direction_and_tells_it_once(
    conversion: str, last: int, severity: str
) -> None:
    alerts = find_alerts(make_rates(series(conversion, [*STEADY, last])))
    assert list_alerts(alerts) == [("control_limit", severity, conversion)]


def test_find_alerts_says_what_was_seen() -> None:
    rates = make_rates(series("cart", [*STEADY, 700]))
    limits = rates.limits.iloc[-1]
    low, high = wilson_interval(700, 10_000)
    alerts = find_alerts(rates)
    row = alerts.table.iloc[0]
    assert row["evidence"] == (
        f"Add to cart: 7.0% ({low[0]:.1%} to {high[0]:.1%}), n = 10,000, in the week from 9 March 2026, below its "
        f"control limits of {limits['limit_low']:.1%} to {limits['limit_high']:.1%}, where 10.0% was expected from 9 "
        "periods."
    )
    words = ["control_limit", "mobile", "", "cart", "rate", "2026-03-09T00:00:00"]
    assert row["id"] == hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
    assert (row["owner"], row["segment"], row["period"]) == ("ann", "mobile", pd.Timestamp("2026-03-09"))
    assert row["first_seen"] == pd.Timestamp("2026-03-16")
    assert row["is_new"]
    assert alerts.takeaways[0] == "1 alert is open in segment mobile, and new: 1 warning."
    assert "2026-03-16" in alerts._repr_html_()
    assert alerts.plot().get_title(loc="left") == "What is open, and since when? (mobile)"


def test_find_alerts_needs_history_for_limits_and_says_so() -> None:
    alerts = find_alerts(make_rates(series("buy", [1_000, 1_000, 500])))
    assert alerts.table.empty
    assert alerts.takeaways[1] == "The only metric has no control limits yet: too few earlier periods."


def test_find_alerts_raises_a_change_within_the_limits() -> None:
    # The level wanders, so its limits are wide; they are left out here, and the change stands alone.
    rates = make_rates(series("cart", [*STEADY, 700]))
    rates.limits["limit_low"] = 0.0
    alerts = find_alerts(rates)
    assert list_alerts(alerts) == [("change", "warning", "cart")]
    assert ", -3.0 pts against 10.0% in the period before (q < 0.001)." in alerts.table["evidence"].iloc[0]


@pytest.mark.parametrize(("last", "missed"), [(1_000, False), (950, False), (800, True)])
def test_find_alerts_misses_a_target_only_beyond_noise(last: int, missed: bool) -> None:
    alerts = find_alerts(make_rates(series("cart", [last], target=0.1)))
    assert (list_alerts(alerts) == [("target_missed", "warning", "cart")]) is missed


def test_find_alerts_turns_a_target_with_the_direction() -> None:
    assert find_alerts(make_rates(series("error", [800], target=0.1))).table.empty
    alerts = find_alerts(make_rates(series("error", [1_200], target=0.1)))
    assert ", misses its target of 10.0% beyond noise (q < 0.001)." in alerts.table["evidence"].iloc[0]


@pytest.mark.parametrize(
    ("conversion", "count", "severity"),
    [("cart", 800, "warning"), ("cart", 1_600, "info"), ("error", 1_600, "warning"), ("error", 800, "info")],
)
def test_find_alerts_says_on_which_side_of_its_benchmark_a_rate_lies(
    conversion: str, count: int, severity: str
) -> None:
    alerts = find_alerts(make_rates(series(conversion, [count], benchmark_low=0.1, benchmark_high=0.14)))
    assert list_alerts(alerts) == [("outside_benchmark", severity, conversion)]
    assert ", outside its benchmark (10.0% to 14.0%) beyond noise." in alerts.table["evidence"].iloc[0]


def test_find_alerts_warns_of_a_micro_that_rises_while_its_macro_falls() -> None:
    alerts = find_alerts(make_rates(series("buy", [*STEADY, 700]), series("cart", [*STEADY, 1_300])))
    assert list_alerts(alerts) == [
        ("control_limit", "critical", "buy"),
        ("macro_down", "critical", "buy"),
        ("control_limit", "info", "cart"),
    ]
    evidence = alerts.table["evidence"].iloc[1]
    assert evidence.startswith(
        "Bought: 7.0% (6.5% to 7.5%), n = 10,000, in the week from 9 March 2026, got worse while "
    )
    assert evidence.endswith("got better, all beyond noise: the micros may not lead to it.")


def test_find_alerts_says_when_a_group_has_no_data() -> None:
    phone = series("buy", [1_000, 1_000, -1]).assign(device="phone")
    desk = series("buy", [1_000, 1_000, 1_000]).assign(device="desk")
    alerts = find_alerts(make_rates(phone, desk, by=("device",)))
    assert list_alerts(alerts) == [("no_data", "critical", "")]
    assert alerts.table["group"].tolist() == ["device=phone"]
    assert alerts.table["evidence"].tolist() == [
        "Nothing came of device=phone in the week from 19 January 2026 (n = 0); the last data are in the week from "
        "12 January 2026."
    ]


@pytest.mark.parametrize(
    ("before", "raised"), [([29], False), ([30], True), ([30, 12], False), ([1_000, -1], False), ([-1, 1_000], False)]
)
def test_find_alerts_takes_an_empty_period_for_a_gap_only_beyond_chance(before: list[int], raised: bool) -> None:
    # As many units as did it entered; a period without units is written -1.
    table = pd.concat([series("buy", [each], max(each, 1)) for each in [1_000, *before, -1]], ignore_index=True)
    table = table.assign(period=[MONDAY + pd.Timedelta(weeks=n) for n in range(len(table))], device="phone")
    alerts = find_alerts(make_rates(table, by=("device",)), rules=["no_data"])
    assert list_alerts(alerts) == [("no_data", "critical", "")] * raised


def test_find_alerts_keeps_a_gap_open_until_data_come_back() -> None:
    history, seen = None, []
    for weeks in ([1_000, -1], [1_000, -1, -1], [1_000, -1, -1, 1_000]):
        history = find_alerts(make_rates(series("buy", weeks)), history=history).table
        seen.append(history[["still_open", "is_new"]].to_numpy().tolist())
    assert seen == [[[True, True]], [[True, False]], [[False, False]]]


def test_find_alerts_counts_a_metric_that_never_varied_apart() -> None:
    rates = make_rates(series("buy", STEADY), series("cart", [0] * 9, metric="per_unit", value=1.0, ci_lower=np.nan))
    assert find_alerts(rates).takeaways[1] == "1 of 2 metrics has no control limits: nothing ever varied."


def test_find_alerts_raises_revenue_that_falls_to_zero() -> None:
    amounts = {"metric": "sum of value", "value": [360.0] * 9 + [0.0], "target": 300.0}
    ends = {"ci_lower": [300.0] * 9 + [np.nan], "ci_upper": [420.0] * 9 + [np.nan]}
    revenue = series("buy", [180] * 9 + [0], 200, **amounts, **ends, note=[""] * 9 + ["n = 0, needs 30"])
    rates = make_rates(revenue, metric="sum of value")
    assert list_alerts(find_alerts(rates)) == [
        ("control_limit", "critical", "buy"),
        ("target_missed", "warning", "buy"),
    ]


def test_find_alerts_tests_a_target_of_visits_with_as_many_as_are_worth_independent_ones() -> None:
    # 800 of 10,000 visits, of which 25 are worth one, are 32 of 400: no evidence against 10%.
    low, high = wilson_interval([32], [400])
    visits = series("cart", [800], metric="rate by session", ci_lower=low, ci_upper=high, target=0.1)
    assert find_alerts(make_rates(visits, metric="rate by session")).table.empty
    assert len(find_alerts(make_rates(series("cart", [800], target=0.1))).table) == 1


def test_find_alerts_judges_the_latest_closed_period() -> None:
    part = series("cart", [*STEADY, 700, 100])
    part.loc[10, "note"] = "partial, open until 2026-03-23 00:00 UTC"
    assert find_alerts(make_rates(part)).table["period"].tolist() == [pd.Timestamp("2026-03-09")]


def test_find_alerts_raises_failed_rules_of_quality_and_overdue_actions() -> None:
    known = {
        "status": "failed",
        "tried": 100,
        "failed": 5,
        "share": 0.05,
        "note": "Why.",
        "example": "",
        "owner": "bob",
    }
    rows = [
        known | {"rule": "volume_gap", "name": "Days without an event", "severity": "error"},
        known | {"rule": "late_rows", "name": "Late", "severity": "warning"},
    ]
    promised = {"conversion": "cart", "text": "Fix it", "owner": "eve", "due": pd.Timestamp("2026-03-01")}
    late = pd.DataFrame([promised | {"overdue_days": 2}, promised | {"text": "Other", "overdue_days": 0}])
    alerts = find_alerts(
        make_rates(series("buy", STEADY)),
        quality=make(Quality, table=pd.DataFrame(rows)),
        actions=make(Actions, table=late),
    )
    assert list_alerts(alerts) == [("quality", "warning", ""), ("action_overdue", "info", "cart")]
    assert alerts.table["evidence"].tolist() == [
        "Days without an event (error): 5 of 100 (5.0%). Why. Owner: bob.",
        "Fix it: was due on 2026-03-01, 2 days ago.",
    ]
    assert alerts.table["metric"].tolist() == ["volume_gap", "Fix it"]
    assert alerts.table["owner"].tolist() == ["bob", "eve"]


def test_find_alerts_applies_the_rules_asked_for() -> None:
    rates = make_rates(series("cart", [*STEADY, 700], target=0.1))
    assert list_alerts(find_alerts(rates, rules=["target_missed"])) == [("target_missed", "warning", "cart")]
    with pytest.raises(ParamError) as caught:
        find_alerts(rates, rules=["target_mised"])
    assert str(caught.value) == (
        "`rules` has 'target_mised'; it must be one of 'control_limit', 'change', 'target_missed', "
        "'outside_benchmark', 'macro_down', 'no_data', 'quality', 'action_overdue'. Did you mean 'target_missed'?"
    )
    with pytest.raises(ParamError) as caught:
        find_alerts(rates, rules="change")
    assert str(caught.value) == "`rules` is 'change'; it must be a list, such as ['change', 'no_data']."


def test_find_alerts_takes_what_is_empty_for_not_given() -> None:
    rates = make_rates(series("cart", [*STEADY, 700], target=0.1))
    pd.testing.assert_frame_equal(find_alerts(rates, rules=[], history="").table, find_alerts(rates).table)


def test_find_alerts_keeps_an_open_alert_and_closes_it_once() -> None:
    first = find_alerts(make_rates(series("cart", [*STEADY, 700]))).table
    second = find_alerts(make_rates(series("cart", [*STEADY, 700, 690])), history=first).table
    third = find_alerts(make_rates(series("cart", [*STEADY, 700, 690, 1_000])), history=second).table
    fourth = find_alerts(make_rates(series("cart", [*STEADY, 700, 690, 1_000, 1_000])), history=third).table
    assert second["id"].tolist() == first["id"].tolist()
    assert second["first_seen"].tolist() == first["first_seen"].tolist()
    assert second["last_seen"].tolist() == [pd.Timestamp("2026-03-23")]
    assert second[["still_open", "is_new"]].to_numpy().tolist() == [[True, False]]
    gone = third[third["id"].isin(first["id"])]
    assert gone[["still_open", "is_new"]].to_numpy().tolist() == [[False, False]]
    assert not fourth["id"].isin(first["id"]).any()


def test_find_alerts_leaves_other_segments_and_rules_of_its_history_alone() -> None:
    before = find_alerts(make_rates(series("cart", [*STEADY, 700]))).table
    quiet = series("cart", [*STEADY, 1_000])
    assert find_alerts(make_rates(quiet, segment="web"), history=before).table.empty
    assert find_alerts(make_rates(quiet), history=before, rules=["no_data"]).table.empty
    assert find_alerts(make_rates(quiet.assign(device="tv"), by=("device",)), history=before).table.empty
    assert len(find_alerts(make_rates(quiet), history=before).table) == 1


def test_find_alerts_refuses_what_other_analyses_give() -> None:
    rates = make_rates(series("cart", STEADY))
    with pytest.raises(ParamError) as caught:
        find_alerts(rates.table, quality=rates, actions="late")  # type: ignore[arg-type]
    assert caught.value.problems == (
        "`rates` is of type DataFrame; it must be what `measure_rates` gives.",
        "`quality` is of type Rates; it must be what `check_quality` gives.",
        "`actions` is of type str; it must be what `list_actions` gives.",
    )


def test_find_alerts_refuses_a_history_that_is_none() -> None:
    with pytest.raises(ParamError) as caught:
        find_alerts(make_rates(series("cart", STEADY)), history=pd.DataFrame({"rule": ["change"]}))
    assert str(caught.value) == (
        "`history` has no 'segment', 'conversion', 'metric', 'id', 'still_open'. Give the table of earlier alerts, or "
        "the file that holds them."
    )
