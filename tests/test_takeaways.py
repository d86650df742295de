import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from convlib import takeaways
from convlib.results import Takeaways

NAMES = {"buy": "Bought", "view": "Item viewed", "error": "Field error", "fill": "Form filled"}


def funnel_row(step: int, name: str, units: int, before: int, start: int, **more: Any) -> dict[str, Any]:
    rate, previous = units / start, units / before
    known = {
        "step": step,
        "name": name,
        "units": units,
        "pending": 0,
        "rate_from_start": rate,
        "rate_from_start_ci_lower": rate - 0.05,
        "rate_from_start_ci_upper": rate + 0.05,
        "rate_from_previous": previous,
        "lost": before - units,
        "seconds_from_previous_p50": np.nan,
        "seconds_from_start_p50": np.nan,
    }
    return known | more


def rate_row(conversion: str, value: float, **more: Any) -> dict[str, Any]:
    known = {
        "period": pd.Timestamp("2026-03-02"),
        "tier": "micro",
        "conversion": conversion,
        "metric": "rate",
        "exposed": 1_200,
        "value": value,
        "ci_lower": value - 0.01,
        "ci_upper": value + 0.01,
        "change": np.nan,
        "change_q_value": np.nan,
        "compared_with": pd.Timestamp("2026-02-23"),
        "target": np.nan,
        "benchmark_low": np.nan,
        "benchmark_high": np.nan,
        "status": "",
    }
    return known | more


def say_rates(*rows: dict[str, Any], every: str = "W") -> Takeaways:
    named = pd.DataFrame(rows)
    named = named.assign(conversion=named["conversion"].replace(NAMES)) if rows else named
    return takeaways.word_rates(named, every=every, segment="mobile")


def micro_row(micro: str, lift: float, verdict: str) -> dict[str, Any]:
    return {
        "micro": micro,
        "verdict": verdict,
        "lift": lift + 0.01,
        "adjusted_lift": lift,
        "adjusted_lift_ci_lower": lift - 0.02,
        "adjusted_lift_ci_upper": lift + 0.02,
        "units_with": 1_000,
        "units_without": 9_000,
    }


def say_correlation(
    *rows: dict[str, Any],
    exposure: tuple[str, ...] = ("1D",),
    pending: int = 0,
    groups: Sequence[tuple[Any, ...]] = (),
    worth: str = "",
) -> Takeaways:
    return takeaways.word_correlation(
        pd.DataFrame(rows),
        macro="Bought",
        names=NAMES,
        segment="mobile",
        exposure=exposure,
        horizon="14D",
        units=10_000,
        pending=pending,
        groups=pd.DataFrame(groups, columns=["micro", "column", "value", "lift", "differs"]),
        worth=worth,
    )


def impact_row(rank: int, micro: str, opportunity: float, verdict: str = "positive", **more: Any) -> dict[str, Any]:
    known = {
        "rank": rank,
        "micro": micro,
        "opportunity": opportunity,
        "opportunity_ci_lower": opportunity - 100,
        "opportunity_ci_upper": opportunity + 100,
        "probability_top_3": 0.914,
        "sample_size_to_test": 4_321.0,
        "days_to_test": 47.0,
        "verdict": verdict,
        "goal": "its target",
        "macro_effect": 0.0123,
        "macro_sample_size": 98_765.0,
        "macro_days": 1_074.0,
        "together": "",
        "effort": 3.0,
    }
    return known | more


def say_impact(*rows: dict[str, Any], worth: str = "USD", tested: int = 3) -> Takeaways:
    return takeaways.word_impact(
        pd.DataFrame(rows),
        macro="Bought",
        names=NAMES,
        worth=worth,
        followed=20_000,
        days=56,
        segment="mobile",
        tests=pd.DataFrame(rows).head(tested),
    )


THREE = pd.DataFrame(
    [
        funnel_row(1, "Item viewed", 1_000, 1_000, 1_000, pending=50),
        funnel_row(2, "In cart", 400, 1_000, 1_000, seconds_from_previous_p50=90.0),
        funnel_row(3, "Bought", 250, 400, 1_000, seconds_from_previous_p50=7_200.0, seconds_from_start_p50=9_000.0),
    ]
)


def say_funnel(table: pd.DataFrame, *leaks: dict[str, Any], by: tuple[str, ...] = (), **options: Any) -> Takeaways:
    columns = [*leak_row("", "", 1, 1), *by]
    known = {"window": "7D", "segment": "all"} | options
    return takeaways.word_funnel(table, pd.DataFrame(leaks, columns=columns), by=by, **known)


def leak_row(previous: str, name: str, lost: int, before: int, **more: Any) -> dict[str, Any]:
    known = {
        "step": 2,
        "previous": previous,
        "name": name,
        "units_before": before,
        "lost": lost,
        "lost_rate": lost / before,
        "value": np.nan,
        "value_ci_lower": np.nan,
        "value_ci_upper": np.nan,
        "value_rank": 1,
        "leak_difference": np.nan,
        "leak_difference_ci_lower": np.nan,
        "leak_difference_ci_upper": np.nan,
        "q_value": np.nan,
        "verdict": "",
    }
    return known | more


def test_word_funnel_names_the_rate_the_leak_the_slowest_step_the_time_and_the_pending() -> None:
    leaks = (
        leak_row("Item viewed", "In cart", 600, 1_000, value=1234.5, value_ci_lower=1_000, value_ci_upper=1_500),
        leak_row("In cart", "Bought", 150, 400, value=600.0, value_rank=2),
    )
    assert say_funnel(THREE, *leaks, seconds_to_most=86_400.0) == (
        "25.0% (20.0% to 30.0%) of the 1,000 units that entered at Item viewed reached Bought within 7 days.",
        "Most leave between Item viewed and In cart: 600 of 1,000 units (60.0%), worth at most about 1,234 "
        "(1,000 to 1,500) in value.",
        "The slowest step is Bought: half of those who reach it take longer than 2 h.",
        "Of the 250 that reached Bought, half did within 2.5 h of the first step, and 90% within 1 d.",
        "50 more units are pending: their 7 days are not over, so they are in no rate.",
    )


def test_word_funnel_names_the_leak_of_most_value_when_it_is_another() -> None:
    leaks = (
        leak_row("Item viewed", "In cart", 600, 1_000, value=200.0, value_rank=2),
        leak_row("In cart", "Bought", 150, 400, value=600.0, value_ci_lower=500.0, value_ci_upper=720.0),
    )
    said = say_funnel(THREE, *leaks, worth="USD", counted="attempts", seconds_to_most=86_400.0)
    assert said[1:3] == (
        "Most leave between Item viewed and In cart: 600 of 1,000 attempts (60.0%), worth at most about 200 USD.",
        "The most value is lost between In cart and Bought: 150 of 400 attempts (37.5%), worth at most about 600 "
        "(500 to 720) USD.",
    )


def test_word_funnel_does_not_tell_conversions_lost_at_the_last_step_twice() -> None:
    row = leak_row("In cart", "Bought", 150, 400, value=150.0, value_ci_lower=140.0, value_ci_upper=160.0)
    last = "Most leave between In cart and Bought: 150 of 400 units (37.5%)"
    assert say_funnel(THREE, row, worth="conversions")[1] == f"{last}."
    assert say_funnel(THREE, row, worth="USD")[1] == f"{last}, worth at most about 150 (140 to 160) USD."
    before = row | {"name": "In cart", "value": 9.89, "value_ci_lower": 8.6, "value_ci_upper": 11.2}
    assert say_funnel(THREE, before, worth="conversions")[1].endswith(", worth at most about 10 (9 to 11) conversions.")


def test_word_funnel_speaks_of_what_is_counted() -> None:
    said = say_funnel(THREE, counted="sessions", seconds_to_most=86_400.0)
    assert said[0].startswith("25.0% (20.0% to 30.0%) of the 1,000 sessions that entered at Item viewed")
    assert said[-1] == "50 more sessions are pending: their 7 days are not over, so they are in no rate."


def test_word_funnel_says_less_when_less_is_known() -> None:
    table = pd.DataFrame([funnel_row(1, "Item viewed", 10, 10, 10), funnel_row(2, "Bought", 0, 10, 10)])
    assert say_funnel(table, leak_row("Item viewed", "Bought", 10, 10)) == (
        "0.0% (-5.0% to 5.0%) of the 10 units that entered at Item viewed reached Bought within 7 days.",
        "Most leave between Item viewed and Bought: 10 of 10 units (100.0%).",
    )


def test_word_funnel_names_no_leak_where_nobody_leaves() -> None:
    table = pd.DataFrame([funnel_row(n, name, 9, 9, 9) for n, name in ((1, "Item viewed"), (2, "Bought"))])
    said = say_funnel(table, leak_row("Item viewed", "Bought", 0, 9))
    assert not [sentence for sentence in said if "leave" in sentence]


def test_word_funnel_of_nobody_says_so() -> None:
    table = pd.DataFrame([funnel_row(n, name, 0, 1, 1, pending=7) for n, name in ((1, "Item viewed"), (2, "Bought"))])
    assert say_funnel(table, segment="mobile") == (
        "No unit of segment mobile has a complete window of 7 days after Item viewed; 7 are pending.",
    )
    assert say_funnel(table, counted="attempts") == (
        "No attempt of segment all has a complete window of 7 days after Item viewed; 7 are pending.",
    )


def group_rows(*groups: tuple[str, int, int]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            funnel_row(step, name, units, start, start, device_type=device)
            for device, start, last in groups
            for step, name, units in ((1, "Item viewed", start), (2, "Bought", last))
        ]
    )


@pytest.mark.parametrize(
    ("desktop", "doubt"),
    [
        (60, "their intervals do not overlap"),
        (45, "their intervals overlap, so the order may be chance"),
    ],
)
def test_word_funnel_by_groups_compares_best_and_worst(desktop: int, doubt: str) -> None:
    table = group_rows(("desktop", 100, desktop), ("mobile", 100, 40), ("tablet", 29, 29))  # the tablets are too few
    share = f"{desktop}.0% ({desktop - 5}.0% to {desktop + 5}.0%)"
    assert say_funnel(table, by=("device_type",)) == (
        f"By device_type, desktop gets through most often ({share}, n = 100) and mobile least (40.0% (35.0% to 45.0%), "
        f"n = 100) within 7 days; {doubt}.",
    )


def test_word_funnel_by_groups_needs_two_large_ones() -> None:
    table = pd.DataFrame([funnel_row(n, "Bought", 20, 20, 20, device="mobile") for n in (1, 2)])
    assert say_funnel(table, by=("device",), counted="attempts") == (
        "Segment all has too few groups of 30 attempts or more to compare by device.",
    )


def compared_row(
    device: str, lost: int, before: int, difference: float, q_value: float, verdict: str
) -> dict[str, Any]:
    return leak_row("Item viewed", "Bought", lost, before) | {
        "device_type": device,
        "leak_difference": difference,
        "leak_difference_ci_lower": difference - 0.02,
        "leak_difference_ci_upper": difference + 0.02,
        "q_value": q_value,
        "verdict": verdict,
    }


def test_word_funnel_by_groups_names_those_that_leave_more_often_beyond_chance() -> None:
    table = group_rows(("desktop", 1_000, 900), ("mobile", 600, 420), ("tablet", 100, 50))
    rows = (
        compared_row("mobile", 180, 600, 0.164, 0.0004, "leaks more"),
        compared_row("desktop", 100, 1_000, -0.229, 0.0004, "leaks less"),
        compared_row("tablet", 50, 100, 0.325, 0.012, "leaks more"),
    )
    said = say_funnel(table, *rows, by=("device_type",), counted="attempts")
    # The phones first: 16.4 points of 600 are more attempts than 32.5 points of 100.
    assert said[1:] == (
        "Being in device type mobile is associated with leaving more often between Item viewed and Bought: 30.0% of "
        "600 attempts leave, +16.4 percentage points against the other 1,100 (+14.4 to +18.4; q < 0.001).",
        "Being in device type tablet is associated with leaving more often between Item viewed and Bought: 50.0% of "
        "100 attempts leave, +32.5 percentage points against the other 1,600 (+30.5 to +34.5; q = 0.012).",
    )
    more = say_funnel(table, *rows, *rows, by=("device_type",))
    assert more[-1] == "2 more such differences stand in the table of leaks."
    one = say_funnel(table, *rows, rows[0], by=("device_type",))
    assert one[-1] == "1 more such difference stands in the table of leaks."


def test_word_funnel_by_groups_says_when_no_group_leaves_more_often() -> None:
    table = group_rows(("desktop", 100, 60), ("mobile", 100, 55))
    rows = (
        compared_row("mobile", 45, 100, 0.05, 0.47, "no evidence"),
        compared_row("desktop", 40, 100, -0.05, 0.47, "no evidence"),
    )
    said = say_funnel(table, *rows, by=("device_type",))
    assert said[1] == "No group leaves more often than the others at any step beyond chance (2 comparisons)."


def next_row(name: str, units: int, share: float, seconds: float = 90.0, step: int = 1) -> dict[str, Any]:
    interval = {"share_ci_lower": share - 0.01, "share_ci_upper": share + 0.01}
    return {"step": step, "name": "Item viewed", "next": name, "units": units, "share": share, **interval} | {
        "median_seconds": seconds
    }


def say_next(*rows: dict[str, Any]) -> Takeaways:
    table = pd.DataFrame(rows, columns=list(next_row("", 1, 1)))
    return takeaways.word_next(table, counted="units", window="7D", segment="all")


def test_word_next_tells_of_the_step_at_which_most_stop() -> None:
    few = next_row("Search", 10, 1.0, step=2)
    rows = (next_row("Search", 50, 0.5), next_row("(other)", 10, 0.1), next_row("(nothing)", 40, 0.4, np.nan))
    assert say_next(few, *rows) == (
        "Of the 100 units that stopped at Item viewed, 40.0% (39.0% to 41.0%) did nothing more within 7 days of the "
        "first step; most often Search came next: 50.0% (49.0% to 51.0%), half of the time within 1.5 min of the stop.",
    )


def test_word_next_says_when_all_or_none_did_something_or_nobody_stopped() -> None:
    assert say_next(next_row("(nothing)", 40, 1.0, np.nan)) == (
        "Of the 40 units that stopped at Item viewed, 100.0% (99.0% to 101.0%) did nothing more within 7 days of the "
        "first step.",
    )
    assert "all did something more within 7 days of the first step" in say_next(next_row("Search", 5, 1.0))[0]
    assert say_next() == ("None of the units of segment all stopped on the way.",)


def test_word_rates_says_where_things_stand_and_what_changed() -> None:
    said = say_rates(
        rate_row("buy", 0.12, tier="macro", target=0.14, status="missed", change=-0.03, change_q_value=0.01),
        rate_row("Bought: value", 4_100.0, tier="macro", metric="sum of value", change=-900.0, change_q_value=0.04),
        rate_row("view", 0.50, target=0.45, status="met", change=0.001, change_q_value=0.8),
        rate_row("fill", 90.0, metric="time_between from buy", target=60, status="missed", ci_lower=80, ci_upper=100),
    )
    assert said == (
        "Bought: 12.0% (11.0% to 13.0%) in the week from 2 March 2026, n = 1,200, target 14.0% (missed).",
        "2 of 3 metrics changed beyond noise against the numbers in the week from 23 February 2026: Bought -3.0 pts, "
        "Bought: value -900.",
        "1 of 2 targets of micro-conversions are met; furthest from it: Form filled (1.5 min (1.3 min to 1.7 min), "
        "target 1 min).",
    )


def test_word_rates_without_change_or_targets() -> None:
    assert say_rates(rate_row("buy", 0.12, tier="macro", change=0.01, change_q_value=0.4)) == (
        "Bought: 12.0% (11.0% to 13.0%) in the week from 2 March 2026, n = 1,200.",
        "None of the 1 metrics changed beyond noise against the numbers in the week from 23 February 2026.",
    )
    assert say_rates(rate_row("view", 0.5, target=0.4, status="met"), every="M") == (
        "There is no complete period before it to compare with.",
        "1 of 1 targets of micro-conversions are met.",
    )


def test_word_rates_names_what_is_furthest_from_its_target_in_either_direction() -> None:
    # Errors at three times what is allowed are further off than a rate at 95% of its target.
    said = say_rates(
        rate_row("view", 0.38, target=0.40, status="missed"),
        rate_row("fill", 0.39, target=0.40, status="missed"),
        rate_row("error", 0.30, target=0.10, status="missed"),
    )
    assert said[-1] == (
        "0 of 3 targets of micro-conversions are met; furthest from it: Field error (30.0% (29.0% to 31.0%), target "
        "10.0%), Item viewed (38.0% (37.0% to 39.0%), target 40.0%)."
    )


@pytest.mark.parametrize(
    ("days", "window", "said"),
    [
        (
            ["2026-03-09"],
            "7D",
            "those in the week from 9 March 2026, is left out until its window is over (23 March 2026)",
        ),
        (
            ["2026-03-09"],
            None,
            "those in the week from 9 March 2026, is left out until late events are in (23 March 2026)",
        ),
        (
            ["2026-03-09", "2026-03-16"],
            "7D",
            "the first in the week from 9 March 2026, are left out until their windows are over (of the first on 23 "
            "March 2026)",
        ),
    ],
)
def test_word_open_says_which_periods_are_too_new(days: list[str], window: str | None, said: str) -> None:
    words = takeaways.word_open(pd.DatetimeIndex(days), pd.Timestamp("2026-03-23"), every="W", window=window)
    assert words.endswith(f"{said}.")
    assert words.startswith("The newest period with" if len(days) == 1 else "The 2 newest periods with")


def test_word_rates_of_nothing() -> None:
    assert say_rates() == ("No period of segment mobile is complete and has units yet.",)


def test_word_correlation_names_the_three_largest_and_what_shows_nothing() -> None:
    said = say_correlation(
        micro_row("view", 0.05, "positive"),
        micro_row("fill", 0.004, "no evidence"),
        micro_row("error", -0.08, "negative"),
        pending=1_234,
    )
    assert said == (
        "Field error is associated with -8.0 percentage points of Bought (-10.0 to -6.0) after adjustment; raw -7.0; "
        "n = 1,000 with and 9,000 without.",
        "Item viewed is associated with +5.0 percentage points of Bought (+3.0 to +7.0) after adjustment; raw +6.0; "
        "n = 1,000 with and 9,000 without.",
        "No evidence of an association, at this size, for Form filled.",
        "Done within 1 day of entry, Bought counted for 14 days after that, among units that had neither converted "
        "nor left for good by then. 1,234 units are pending.",
    )


def test_word_correlation_leaves_no_micro_out() -> None:
    found = [micro_row("view", lift, "positive") for lift in (0.09, 0.08, 0.07, 0.06)]
    said = say_correlation(
        *found,
        micro_row("error", -0.05, "negative"),
        micro_row("fill", 0.1, "precondition"),
        micro_row("buy", 0.1, "follows the macro"),
    )
    assert said[3:6] == (
        "Also associated with it: Item viewed (+6.0), Field error (-5.0).",
        "Steps that nobody converts without, so not ranked: Form filled.",
        "Mostly done after converting, so not ranked: Bought.",
    )


def test_word_correlation_without_a_finding() -> None:
    assert say_correlation(micro_row("view", 0.3, "too few"), exposure=("1h", "1D", "3D")) == (
        "Segment mobile has too few units or conversions to judge any micro-conversion.",
        "Done within 1 hour, 1 day and 3 days of entry, Bought counted for 14 days after that, among units that had "
        "neither converted nor left for good by then. A unit counts once at each of these times, and may do so on both "
        "sides: without it first, with it later.",
    )


def test_word_correlation_over_several_landmarks_counts_unit_landmarks() -> None:
    said = say_correlation(micro_row("view", 0.05, "positive"), exposure=("1h", "1D"))
    assert said[0].endswith("; n = 1,000 unit-landmarks with and 9,000 without.")


def say_models(*rows: tuple[str, float, str, float, str], in_value: bool = False) -> Takeaways:
    columns = ["micro", "strata_lift", "strata_verdict", "regression_lift", "regression_verdict"]
    models = pd.DataFrame(rows, columns=columns)
    agree = models["strata_verdict"] == models["regression_verdict"]
    return takeaways.word_models(models.assign(agree=agree), NAMES, in_value=in_value)


def test_word_models_tells_of_effects_that_fade_though_the_verdict_stays() -> None:
    faded = ("view", 0.537, "positive", 0.064, "positive")
    whole = ("fill", 0.5, "positive", 0.3, "positive")
    nothing = ("buy", 0.02, "no evidence", 0.001, "no evidence")
    kept = "Looked at all together, every micro-conversion keeps the verdict that it has alone"
    left = "less than half of the effect is left for Item viewed"
    assert say_models(whole, nothing) == (f"{kept}.",)
    assert say_models(faded, whole) == (f"{kept}, but {left} (+53.7 pts alone, +6.4 pts together).",)
    assert say_models(faded, in_value=True) == (f"{kept}, but {left} (+0.537 alone, +0.0640 together).",)
    said = say_models(faded, ("error", 0.2, "positive", -0.1, "negative"))
    assert said[0].startswith("All micro-conversions in one model give another verdict for Field error (positive")
    assert said[1:] == (f"With the same verdict, {left} (+53.7 pts alone, +6.4 pts together).",)


def test_word_correlation_names_the_groups_that_are_furthest_apart() -> None:
    groups = [
        ("view", "device", "mobile", 0.12, True),
        ("view", "device", "desktop", -0.03, True),
        ("view", "medium", "cpc", 0.05, True),
        ("view", "medium", "email", 0.04, True),
        ("error", "device", "mobile", 0.5, False),
    ]
    said = say_correlation(micro_row("view", 0.05, "positive"), groups=groups)
    assert said[1] == (
        "Item viewed does not go with it alike everywhere: +12.0 points for device mobile and -3.0 points for device "
        "desktop."
    )
    assert "Field error" not in " ".join(said)


def test_word_correlation_of_values_names_the_currency() -> None:
    said = say_correlation(micro_row("view", 7.5, "positive"), worth="USD")
    assert said[0].startswith("Item viewed is associated with +7.50 USD per unit (+7.48 to +7.52) after adjustment")


def test_word_correlation_never_speaks_of_causes() -> None:
    said = " ".join(say_correlation(micro_row("view", 0.05, "positive"), micro_row("error", -0.1, "negative")))
    assert not {"cause", "causes", "drives", "because"} & set(said.lower().replace(".", "").split())


def test_word_impact_names_what_to_work_on_and_the_test() -> None:
    said = say_impact(
        impact_row(1, "view", 3_170.0),
        impact_row(2, "error", 682.0, "negative"),
        impact_row(3, "fill", 50.0, "no evidence"),
    )
    assert said == (
        "Rank 1, Item viewed: reaching its target would go with 3,170 more USD (3,070 to 3,270) among the 20,000 units "
        "followed, who entered over 56 days, if the association held; in the top 3 with probability 91%.",
        "Rank 2, Field error: reaching its target would go with 682 more USD (582 to 782) among the 20,000 units "
        "followed, who entered over 56 days, if the association held; in the top 3 with probability 91%.",
        "Test Item viewed first: 4,321 units in two arms would show it move, about 47 days of entries at this traffic.",
        "To show Bought itself move by the +1.2 points that this predicts would take 98,765 units, about 1,074 days of "
        "entries.",
        "These are associations in observed events; only a randomised test can show what a change causes.",
    )


def test_word_impact_counts_conversions_and_names_no_test_that_nobody_can_plan() -> None:
    assert say_impact(impact_row(1, "view", 200.0, days_to_test=np.nan), worth="conversions") == (
        "Rank 1, Item viewed: reaching its target would go with 200 more conversions (100 to 300) among the 20,000 "
        "units followed, who entered over 56 days, if the association held; in the top 3 with probability 91%.",
        "These are associations in observed events; only a randomised test can show what a change causes.",
    )


def test_word_impact_tests_what_one_model_of_all_bears_out_too() -> None:
    alone = "no evidence when all micro-conversions are looked at together (-1.6 pts)"
    doubted, second = impact_row(1, "view", 3_170.0, together=alone), impact_row(2, "error", 682.0, "negative")
    assert say_impact(doubted, second)[2].startswith(
        "Test Field error first, the highest rank that one model of all micro-conversions bears out: 4,321 units"
    )
    faded = "only +6.4 pts when all micro-conversions are looked at together (+53.7 pts alone)"
    said = say_impact(impact_row(1, "view", 3_170.0, together=faded), second)
    assert said[0].endswith(f"; {faded}.")
    assert said[2].startswith("Test Item viewed first: 4,321 units")
    assert said[2].endswith(f"; but {faded}.")
    assert say_impact(doubted)[1] == (
        "Test Item viewed first: 4,321 units in two arms would show it move, about 47 days of entries at this traffic; "
        f"but {alone}."
    )


def test_word_impact_begins_with_the_doubt_where_one_model_of_all_has_the_opposite_sign() -> None:
    doubt = "negative when all micro-conversions are looked at together (-8.7 pts)"
    said = say_impact(impact_row(1, "view", 3_170.0, together=doubt))[0]
    assert said.startswith(
        f"Rank 1, Item viewed: {doubt}, so in doubt; alone, reaching its target would go with 3,170 "
    )
    assert said.count(doubt) == 1


def test_word_impact_says_when_ranks_compare_unlike_goals() -> None:
    met, tenth = impact_row(2, "error", 0.0), impact_row(1, "view", 200.0, goal="a tenth more")
    said = "The ranks compare unlike goals: the plan's target, which may be near, or without one a tenth more units "
    assert f"{said}(Item viewed)." in say_impact(tenth, met)
    assert said not in " ".join([*say_impact(tenth), *say_impact(met, impact_row(1, "view", 200.0))])


def test_word_impact_rounds_what_nobody_reads_to_the_digit() -> None:
    row = impact_row(1, "view", 109.89, days_to_test=3_651.0, macro_days=11_842.0)
    said = say_impact(row, worth="conversions")
    assert "110 more conversions (10 to 210)" in said[0]
    assert said[1].endswith("would show it move, more than 10 years of entries at this traffic.")
    assert said[2].endswith("98,765 units, more than 10 years of entries.")


def test_word_impact_says_that_efforts_are_missing() -> None:
    said = "The plan gives no efforts, so what is to gain is not set against what it takes."
    rows = impact_row(1, "view", 200.0, effort=np.nan), impact_row(2, "error", 100.0)
    assert said in say_impact(rows[0])
    assert said not in say_impact(*rows)


def test_word_impact_without_an_opportunity() -> None:
    assert say_impact(impact_row(1, "view", 90.0, "no evidence"), impact_row(2, "error", -50.0)) == (
        "No micro-conversion of segment mobile shows an opportunity beyond chance for Bought.",
        "These are associations in observed events; only a randomised test can show what a change causes.",
    )


def test_word_event_map_of_a_complete_plan() -> None:
    table = pd.DataFrame(
        {
            "tier": ["macro", "micro"],
            "conversion": ["buy", "view"],
            "name": ["Bought", "Item viewed"],
            "event_name": ["buy", "view"],
            "events": [10, 20],
            "status": ["tracked", "tracked"],
            "owner": ["shop", "web"],
        }
    )
    rows = {"read": 1_015, "used": 1_000, "rejected": 10, "left_out": 5}
    gaps = pd.DataFrame({"conversion": [], "missing": []})
    assert takeaways.word_event_map(table, units=1_234, rows=rows, gaps=gaps, segment="all") == (
        "1,234 users of segment all; 1,015 rows read = 1,000 used + 10 rejected + 5 left out by rule (whole log).",
        "2 of the plan's 2 conversions are tracked.",
    )


def test_word_provenance_says_where_the_numbers_come_from() -> None:
    said = takeaways.word_provenance(
        "events.csv",
        segment="mobile",
        period=("2026-01-01", "2026-01-31"),
        rows="1,010 rows read = 1,010 used + 0 rejected",
        identities=12,
        fingerprint="0123456789abcdef",
        end=pd.Timestamp("2026-02-14 13:05"),
    )
    assert said == (
        "Segment mobile, entries from 2026-01-01 to 2026-01-31. events.csv: 1,010 rows read = 1,010 used + 0 rejected; "
        "12 anonymous ids joined to users; data end on 2026-02-14 13:05 UTC; fingerprint 0123456789ab."
    )


@pytest.mark.parametrize(
    ("every", "text"),
    [("D", "on 2 March 2026"), ("W", "in the week from 2 March 2026"), ("M", "in March 2026")],
)
def test_word_period_names_a_day_a_week_and_a_month(every: str, text: str) -> None:
    assert takeaways.word_period(pd.Timestamp("2026-03-02"), every) == text


def test_word_values_writes_each_metric_in_its_unit() -> None:
    rows = pd.DataFrame(
        {
            "metric": ["rate over view", "follow_up within 7D", "time_between from view", "mean of discount", "rate"],
            "value": [0.5, 0.25, 90.0, 12.34, np.nan],
            "ci_lower": [0.4, 0.2, 60.0, np.nan, np.nan],
            "ci_upper": [0.6, 0.3, 7_200.0, np.nan, np.nan],
            "change": [0.05, -0.05, -30.0, 2.0, np.nan],
        }
    )
    assert takeaways.word_values(rows, "value", with_interval=True) == [
        "50.0% (40.0% to 60.0%)",
        "25.0% (20.0% to 30.0%)",
        "1.5 min (1 min to 2 h)",
        "12.3",
        "-",
    ]
    assert takeaways.word_values(rows, "change", signed=True) == ["+5.0 pts", "-5.0 pts", "-30 s", "+2.00", "-"]


def test_word_benchmarks_writes_both_ends() -> None:
    rows = pd.DataFrame(
        {
            "metric": ["rate", "time_between from view", "rate", "rate"],
            "benchmark_low": [0.06, 45, np.nan, 0.1],
            "benchmark_high": [0.12, 120, np.nan, np.nan],
        }
    )
    assert takeaways.word_benchmarks(rows) == ["6.0% to 12.0%", "45 s to 2 min", "-", "at least 10.0%"]


def quality_row(name: str, severity: str, status: str, **more: Any) -> dict[str, Any]:
    known = {"tried": 2_000, "failed": 30, "share": 0.015, "example": "buy, 2026-03-02", "owner": ""}
    return {"name": name, "severity": severity, "status": status} | known | more


def test_word_quality_says_what_to_fix_first_and_who_owns_it() -> None:
    table = pd.DataFrame(
        [
            quality_row("Values in several currencies", "error", "failed", owner="shop"),
            quality_row("Rows equal to another", "error", "failed", failed=1, share=0.0005, example=""),
            quality_row("Negative values", "warning", "failed"),
            quality_row("Rows out of order", "info", "failed"),
            quality_row("Conversions that never fire", "error", "passed"),
            quality_row("Weeks with shifted hours", "error", "not applicable"),
        ]
    )
    assert takeaways.word_quality(table, segment="mobile") == (
        "4 of 5 quality rules failed in segment mobile: 2 errors, 1 warning and 1 note. 1 could not be tried; "
        "the table says why.",
        "Fix first: values in several currencies, 30 of 2,000 (1.5%), such as buy, 2026-03-02. Owner: shop.",
        "Then: rows equal to another, 1 of 2,000 (less than 0.1%).",
        "Then: negative values, 30 of 2,000 (1.5%), such as buy, 2026-03-02.",
    )


def test_word_quality_of_a_clean_log() -> None:
    table = pd.DataFrame([quality_row("Negative values", "warning", "passed")] * 2)
    assert takeaways.word_quality(table, segment="all") == ("All 2 quality rules that apply to segment all passed.",)


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (0, "10 rows read = 7 used + 3 rejected (2: user_id is missing; 1: timestamp is missing)"),
        (
            4,
            "14 rows read = 7 used + 3 rejected (2: user_id is missing; 1: timestamp is missing) + 4 left out by rule "
            "(4: bots)",
        ),
    ],
)
def test_word_rows_says_what_became_of_them(left_out: int, said: str) -> None:
    counts = {"read": 10 + left_out, "used": 7, "rejected": 3, "left_out": left_out}
    rejected = {"user_id is missing": 2, "timestamp is missing": 1}
    assert takeaways.word_rows(counts, rejected_because=rejected, left_out_because={"bots": 4}) == said


def test_word_failed_rules_say_how_much_what_it_means_where_and_whose() -> None:
    row = {
        "name": "Values in several currencies",
        "status": "failed",
        "severity": "error",
        "failed": 274,
        "tried": 2_432,
        "share": 274 / 2_432,
        "note": "Values are added as if they were one currency.",
        "example": "purchase, 2024-01-03",
        "owner": "commerce",
    }
    assert takeaways.word_failed_rules(pd.DataFrame([row, row | {"status": "passed"}])) == [
        "Values in several currencies (error): 274 of 2,432 (11.3%). Values are added as if they were one currency. "
        "For example: purchase, 2024-01-03. Owner: commerce."
    ]


def test_word_other_rules_names_what_passed_and_why_others_were_not_tried() -> None:
    table = pd.DataFrame(
        {
            "name": ["Rows without a user", "Negative values", "Late rows"],
            "status": ["passed", "passed", "not applicable"],
            "note": ["", "", "Needs three weeks."],
        }
    )
    assert takeaways.word_other_rules(table) == [
        "2 rules passed: Rows without a user; Negative values.",
        "1 rule not tried: Late rows (Needs three weeks).",
    ]


def test_word_other_rules_says_each_reason_once() -> None:
    notes = ["No value.", "No day.", "No value."]
    table = pd.DataFrame({"name": ["A", "B", "C"], "status": "not applicable", "note": notes})
    assert takeaways.word_other_rules(table) == ["3 rules not tried: A, C (No value); B (No day)."]


def path_row(source: str, target: str, difference: float, **more: Any) -> dict[str, Any]:
    known = {
        "source": source,
        "target": target,
        "units": 500,
        "share_converted": 0.5 + difference,
        "share_lost": 0.5,
        "difference": difference,
        "difference_ci_lower": difference - 0.1,
        "difference_ci_upper": difference + 0.1,
        "q_value": 0.001,
    }
    return known | more


def say_paths(*rows: dict[str, Any], path: str = "View → Cart", **more: Any) -> Takeaways:
    paths = pd.DataFrame(
        {
            "path": ["(no conversion)", path, "(other paths): 7"],
            "units": [400, 100, 300],
            "share": [0.5, 0.125, 0.375],
            "share_ci_lower": [0.45, 0.1, 0.35],
            "share_ci_upper": [0.55, 0.15, 0.4],
        }
    )
    known: dict[str, Any] = {
        "macro": "Bought",
        "start": None,
        "end": None,
        "window": "7D",
        "counts": {"units": 800, "pending": 0, "converted": 200},
        "segment": "mobile",
    }
    table = pd.DataFrame(rows, columns=list(path_row("", "", 0)))
    return takeaways.word_paths(table, paths, **(known | more))


def test_word_paths_says_how_many_convert_and_where_they_part() -> None:
    rows = [
        path_row("View", "Cart", 0.2),
        path_row("Cart", "Help", -0.3),
        path_row("Cart", "Wish", 0.4, units=20),  # the largest difference, of few units
        path_row("View", "Wish", 0.3, q_value=0.2),
    ]
    assert say_paths(*rows) == (
        "200 of 800 units (25.0%) reached Bought within 7 days.",
        "The most common path is View → Cart: 12.5% (10.0% to 15.0%), n = 100; 50.0% (45.0% to 55.0%) have no "
        "conversion in that time.",
        "Going on from Cart to Help is associated with not converting: 20.0% of the converted units at Cart did, 50.0% "
        "of the lost (-30.0 points, -40.0 to -20.0).",
        "Going on from View to Cart is associated with converting: 70.0% of the converted units at View did, 50.0% "
        "of the lost (+20.0 points, +10.0 to +30.0).",
    )


def test_word_paths_names_the_ends_and_shortens_a_long_path() -> None:
    counts = {"units": 800, "pending": 12, "converted": 200}
    assert say_paths(path="A → B → C → D → E → F → G", start="Cart", counts=counts) == (
        "200 of 800 units that came to Cart (25.0%) reached Bought within 7 days.",
        "The most common path is A → B → C → … → F → G: 12.5% (10.0% to 15.0%), n = 100; 50.0% (45.0% to 55.0%) have "
        "no conversion in that time.",
        "Pending, as their 7 days reach past the data, and in no share: 12.",
    )


def test_word_paths_before_the_macro_gives_no_rate() -> None:
    assert say_paths(end="Bought")[0] == "800 units that came to Bought are traced back over 7 days."


def test_word_paths_of_nobody_says_who_is_pending() -> None:
    counts = {"units": 0, "pending": 3, "converted": 0}
    assert say_paths(counts=counts) == (
        "None of the units of segment mobile has all its 7 days in the data. Pending, as their 7 days reach past the "
        "data, and in no share: 3.",
    )


def test_word_impact_says_caused_of_experiments_alone_and_tests_what_is_untested() -> None:
    rows = impact_row(1, "view", 3_170.0, "measured"), impact_row(2, "error", 682.0, "negative", goal="a tenth fewer")
    assert say_impact(*rows, tested=1) == (
        "Rank 1, Item viewed: reaching its target would bring 3,170 more USD (3,070 to 3,270) among the 20,000 units "
        "followed, who entered over 56 days, by the effect that an experiment caused, if that came only through it; in "
        "the top 3 with probability 91%.",
        "Rank 2, Field error: a tenth fewer units doing it would go with 682 more USD (582 to 782) among the 20,000 "
        "units followed, who entered over 56 days, if the association held; in the top 3 with probability 91%.",
        "The ranks compare unlike goals: the plan's target, which may be near, or without one a tenth fewer units "
        "(Field error).",
        "Test Field error first: 4,321 units in two arms would show it move, about 47 days of entries at this traffic.",
        "Apart from what experiments measured, these are associations in observed events; only a randomised test can "
        "show what a change causes.",
    )


@pytest.mark.parametrize(
    ("goal", "target", "up", "said"),
    [
        (0.125, True, True, "12.5%"),
        (None, True, False, "its target"),
        (None, False, True, "a tenth more"),
        (None, False, False, "a tenth fewer"),
    ],
)
def test_word_goal_names_what_is_aimed_at(goal: float | None, target: bool, up: bool, said: str) -> None:
    assert takeaways.word_goal(goal, target=target, up=up) == said


@pytest.mark.parametrize(
    ("probability", "said"),
    [(0, "0%"), (0.005, "<1%"), (0.006, "1%"), (0.5, "50%"), (0.994, "99%"), (0.99995, ">99%"), (1, "100%")],
)
def test_word_probability_says_certain_of_certainty_alone(probability: float, said: str) -> None:
    assert takeaways.word_probability(probability) == said


def test_word_experiment_states_the_assumption() -> None:
    said = "assuming that the change acts on Bought only through it"
    assert takeaways.word_experiment("cart_test", "Bought") == f"measured in cart_test, {said}"
    assert takeaways.word_experiment("", "Bought") == f"measured, {said}"


def effect_row(role: str, conversion: str, change: float, status: str, **more: Any) -> dict[str, Any]:
    """Give a row of an experiment: a tenth of 1,010 units in the arm, whose interval reaches 0.02 to both sides."""
    known = {
        "arm": "short",
        "role": role,
        "conversion": conversion,
        "metric": "rate",
        "units": 1_010,
        "units_control": 990,
        "value": 0.1,
        "value_control": 0.1 / (1 + change),
        "effect": 0.01 * np.sign(change),
        "margin": -0.1 if role == "guardrail" else np.nan,
        "status": status,
        "note": "",
    }
    return known | dict(zip(RELATIVE, (change, change - 0.02, change + 0.02), strict=True)) | more


RELATIVE = ("relative_effect", "relative_effect_ci_lower", "relative_effect_ci_upper")
NO_EFFECT = dict.fromkeys((*RELATIVE, "effect"), np.nan)
SHIPPED = (
    effect_row("primary", "Form filled", 0.083, "better"),
    effect_row("guardrail", "Bought", 0.01, "within margin"),
)
CHECKS = ("sample ratio", "novelty", "sample size")


def check_rows(*statuses: str) -> pd.DataFrame:
    evidence = [f"Evidence of {check}." for check in CHECKS]
    return pd.DataFrame({"check": CHECKS, "status": statuses, "evidence": evidence})


def say_experiment(*rows: dict[str, Any], checks: Sequence[str] = ("passed",) * 3, **more: Any) -> Takeaways:
    table = pd.DataFrame(rows)
    known: dict[str, Any] = {
        "name": "Shorter form",
        "decision": "ship",
        "arm": "short",
        "rule": "Why.",
        "reading": "final",
        "arms": ("control", "short"),
        "dates": (dt.date(2026, 6, 8), dt.date(2026, 8, 9)),
        "window": "14D",
        "segment": "all",
        "confidence": 0.95,
    }
    own = known | more
    alike = pd.DataFrame({"arm": table["arm"].unique(), "decision": own["decision"], "rule": own["rule"]})
    decisions = own.pop("decisions", alike)
    assigned = pd.DataFrame({"arm": ["control", "short"], "assigned": [1_000, 1_020], "pending": [10, 10]})
    return takeaways.word_experiment_result(table, decisions, check_rows(*checks), assigned, **own)


ASSIGNED = (
    "2,020 units were assigned from 8 June 2026 to 9 August 2026, each followed for 14 days; 20 of them are still "
    "being followed and in no number."
)
FINAL = " Final: to be read once. The ranges in brackets hold the true change in 95% of such tests."


def test_word_experiment_result_says_the_decision_what_was_caused_and_how_to_read_it() -> None:
    assert say_experiment(*SHIPPED) == (
        "Ship “short”. Shorter form: Why.",
        "“short” caused Form filled to rise: +8.3% (+6.3% to +10.3%); 10.0% (n = 1,010) against 9.2% (n = 990).",
        "Guardrails of “short” (n = 1,010 against 990): Bought changed by +1.0% (-1.0% to +3.0%), safely above its "
        "limit of -10.0%.",
        ASSIGNED + FINAL,
    )


def test_word_experiment_result_says_no_effect_of_an_invalid_test() -> None:
    said = say_experiment(*SHIPPED, checks=("failed", "warning", "passed"), decision="invalid", arm="")
    assert said == (
        "Not valid: no winner. Shorter form: Why.",
        f"{ASSIGNED} Its effects are not shown.",
    )


def test_word_experiment_result_says_that_a_running_test_may_be_looked_at() -> None:
    rows = (
        effect_row("primary", "Form filled", 0.01, "no evidence"),
        effect_row("guardrail", "Bought", -0.09, "undecided"),
        effect_row("guardrail", "Left", np.nan, "too few", **NO_EFFECT),
        effect_row("guardrail", "Given up", 0.01, "within margin", margin=0.05),
        effect_row("guardrail", "Sent back", 0.04, "undecided", margin=0.05),
        effect_row("guardrail", "Paid", -0.04, "worse"),
    )
    said = say_experiment(
        *rows, checks=("passed", "warning", "passed"), decision="keep running", arm="", reading="running"
    )
    assert said == (
        "Keep running. Shorter form: Why.",
        "No effect of “short” on Form filled is shown: +1.0% (-1.0% to +3.0%); 10.0% (n = 1,010) against 9.9% "
        "(n = 990).",
        "Guardrails of “short” (n = 1,010 against 990): Bought changed by -9.0% (-11.0% to -7.0%), and may be below "
        "its limit of -10.0%; Left has too little to tell; Given up changed by +1.0% (-1.0% to +3.0%), safely below "
        "its limit of +5.0%; Sent back changed by +4.0% (+2.0% to +6.0%), and may be above its limit of +5.0%; Paid is "
        "shown worse than no change, -4.0% (-6.0% to -2.0%).",
        "A doubt: Novelty: Evidence of novelty.",
        f"{ASSIGNED} Still running. The ranges in brackets hold the true change in 95% of such tests, however often "
        "you look.",
    )


def test_word_experiment_result_begins_with_the_arm_that_the_decision_is_about() -> None:
    other = effect_row("primary", "Form filled", -0.05, "worse", arm="long")
    known: dict[str, Any] = {"arms": ("control", "long", "short"), "segment": "mobile", "dates": None, "window": ""}
    decisions = pd.DataFrame({"arm": ["long", "short"], "decision": ["roll back", "ship"], "rule": ["Worse.", "Why."]})
    said = say_experiment(other, *SHIPPED, decisions=decisions, **known)
    assert said[0] == "Ship “short”. Shorter form (segment mobile): Why."
    assert said[1].startswith("“short” caused Form filled to rise: ")
    assert said[2].startswith("Guardrails of “short” (n = 1,010 against 990): Bought changed")
    assert said[3] == "Form filled in the other arms: “long” -5.0% (-7.0% to -3.0%), roll back."
    assert said[4].startswith("2,020 units were assigned; 20 of them")
    # A decision without an arm's name says whose rule it is.
    waiting = decisions.assign(decision=["no effect", "keep running"])
    head = say_experiment(other, *SHIPPED, decisions=waiting, decision="keep running", arm="", **known)[0]
    assert head == "Not decided: the test is over, and it can't tell. Shorter form (segment mobile), arm “short”: Why."
    both = decisions.assign(decision="no effect", rule="Why.")
    head = say_experiment(other, *SHIPPED, decisions=both, decision="no effect", arm="", **known)[0]
    assert head == "No effect shown. Shorter form (segment mobile), arms “long” and “short”: Why."


def test_word_experiment_result_says_what_each_factor_does() -> None:
    found = {"role": "primary", "conversion": "Form filled", "metric": "rate", "note": ""}
    effects = [("form: new", 0.02, 0.001), ("button: green", -0.0001, 0.9), ("form: new x button: green", 0.01, 0.2)]
    rows = [
        {"effect_of": name, "effect": effect, "p_value": p_value, **found}
        | {"effect_ci_lower": effect - 0.01, "effect_ci_upper": effect + 0.01}
        for name, effect, p_value in effects
    ]
    table = pd.DataFrame(rows)
    alone = "Form filled, by factor: “form: new” +2.0 pts (+1.0 pts to +3.0 pts); “button: green” "
    said = say_experiment(*SHIPPED, factors=table)[3]
    assert said.startswith(alone)
    assert said.endswith(
        ". No change of one another's effect is shown: “form: new x button: green” +1.0 pts (+0.0 pts to +2.0 pts)."
    )
    said = say_experiment(*SHIPPED, factors=table.assign(p_value=0.01))[3]
    assert said.endswith(
        ". They change one another's effect: “form: new x button: green” +1.0 pts (+0.0 pts to +2.0 pts)."
    )
    too_few = table.assign(effect=np.nan)
    assert say_experiment(*SHIPPED, factors=too_few) == say_experiment(*SHIPPED, factors=table.head(0))


def test_word_experiment_result_says_of_a_test_that_is_too_small_how_small_it_is() -> None:
    row = effect_row("primary", "Form filled", np.nan, "too few", note="too few units", **NO_EFFECT)
    assert say_experiment(row, decision="keep running", arm="")[1] == (
        "Form filled: too little to compare “short” (n = 1,010) with the control: too few units."
    )


def test_word_effect_writes_the_difference_where_the_control_has_nothing() -> None:
    row = {"metric": "rate", "effect": 0.02, "effect_ci_lower": -0.01, "effect_ci_upper": 0.05}
    nothing = dict.fromkeys(RELATIVE, np.nan)
    assert takeaways.word_effect(row | nothing) == "+2.0 pts (-1.0 pts to +5.0 pts)"
    assert takeaways.word_effect(row | nothing | {"effect": np.nan}) == "-"
    # Nothing is written as less than nothing.
    assert takeaways.word_effect(row | dict.fromkeys(RELATIVE, -0.0001)) == "+0.0% (+0.0% to +0.0%)"


@pytest.mark.parametrize(
    ("decision", "more", "said"),
    [
        (
            "ship",
            {},
            (
                "Give “short” to everybody and retire “control”.",
                "Go on watching Bought by week: a guardrail that keeps its limit may still get a little worse.",
            ),
        ),
        (
            "roll back",
            {},
            (
                "Switch “short” off: everybody gets “control”.",
                "See in the groups below where it hurt, before another try.",
            ),
        ),
        (
            "invalid",
            {},
            ("Find out why this failed: sample ratio.", "Then start again, with units that were in no arm."),
        ),
        (
            "keep running",
            {"until": dt.date(2026, 8, 23)},
            (
                "Evidence of sample size.",
                "Go on until 23 August 2026.",
                "Meanwhile leave the arms, their shares and the metrics as they are.",
            ),
        ),
        (
            "no effect",
            {},
            (
                "Keep “control”, the simpler choice.",
                "Changes of Form filled beyond +6.3% to +10.3% are unlikely; if a smaller one pays, plan a larger "
                "test.",
            ),
        ),
    ],
)
def test_word_experiment_steps_follow_from_the_decision(decision: str, more: Any, said: Sequence[str]) -> None:
    assert say_steps(decision, **more) == said


def say_steps(decision: str, **more: Any) -> Takeaways:
    arm = "short" if decision == "ship" else ""
    known: dict[str, Any] = {"arm": arm, "rule": "Why.", "control": "control", "reading": "running"}
    own = known | {"until": None, "in_groups": True} | more
    table, checks = pd.DataFrame(SHIPPED), check_rows("failed", "passed", "waiting")
    alike = pd.DataFrame({"arm": ["short"], "decision": decision, "rule": "Why."})
    return takeaways.word_experiment_steps(table, checks, own.pop("decisions", alike), decision=decision, **own)


def test_word_experiment_steps_say_how_long_a_test_goes_on() -> None:
    assert say_steps("keep running")[1] == "Go on until the primary metric and every guardrail are decided."
    assert say_steps("keep running", reading="final") == (
        "Evidence of sample size.",
        "Extend the test, or plan a longer one: cv.plan_experiment says how many units it takes.",
    )


def test_word_experiment_steps_send_nobody_to_groups_that_are_not_there() -> None:
    assert say_steps("roll back", in_groups=False) == ("Switch “short” off: everybody gets “control”.",)


def test_word_experiment_steps_name_every_arm() -> None:
    decisions = pd.DataFrame({"arm": ["long", "short"], "decision": ["roll back", "ship"], "rule": ["Worse.", "Why."]})
    assert say_steps("ship", decisions=decisions)[0] == "Give “short” to everybody and retire “control” and “long”."
    waiting = decisions.assign(decision=["roll back", "keep running"])
    assert say_steps("keep running", decisions=waiting)[-1] == "Shown to hurt: give “control” to those in “long”."
    both = decisions.assign(decision="roll back", rule="Why.")
    assert say_steps("roll back", decisions=both)[0] == "Switch “long” and “short” off: everybody gets “control”."


def test_word_other_arms_counts_who_is_in_no_arm_of_the_plan() -> None:
    assert takeaways.word_other_arms(0, []) == "Every unit that was assigned is in an arm of the plan."
    assert takeaways.word_other_arms(1, ["c"]) == "1 unit was in “c”, which is no arm of the plan; it is left out."
    assert takeaways.word_other_arms(3_016, ["c", "d"]) == (
        "3,016 units were in “c” and “d”, which are no arms of the plan; they are left out."
    )
    assert "in “a”, “b”, “c”, “d”, “e” and 2 more, which" in takeaways.word_other_arms(9, [*"abcdefg"])


def say_threshold(best: dict[str, Any] | None, **found: float) -> Takeaways:
    known = {"lift": 0.087, "lift_ci_lower": 0.06, "lift_ci_upper": 0.115, "held_out": 3_600, "units": 4_000}
    return takeaways.word_threshold(
        None if best is None else pd.Series(best),
        known | {"pending": 0} | found,
        macro="Bought",
        micro="Item viewed",
        landmark="7D",
        horizon="14D",
        segment="mobile",
    )


BEST = {
    "count": 3,
    "within": "2D",
    "rate_with": 0.121,
    "units_with": 812,
    "rate_without": 0.03,
    "units_without": 3_188,
    "lift": 0.094,
}


def test_word_threshold_names_the_rule_and_what_is_left_of_it_on_other_units() -> None:
    assert say_threshold(BEST) == (
        "Item viewed 3 times or more within 2 days of entry is associated most with Bought: 12.1% of 812 units against "
        "3.0% of 3,188, +9.4 points in sample; +8.7 (+6.0 to +11.5) on 3,600 units that had no part in the choice.",
        "Counted among the 4,000 units that had not converted 7 days after entry; Bought counted for 14 days after "
        "that. Nothing is adjusted for: who is more active does more of everything.",
    )


def test_word_threshold_says_so_when_chance_would_do_as_well_or_nothing_can_be_said() -> None:
    assert say_threshold(BEST | {"count": 1}, lift_ci_lower=-0.01)[0] == (
        "No number of Item viewed goes with more of Bought beyond chance. Best: Item viewed at least once within 2 "
        "days of entry, 12.1% of 812 units against 3.0% of 3,188, +9.4 points in sample; +8.7 (-1.0 to +11.5) on 3,600 "
        "units that had no part in the choice."
    )
    assert say_threshold(BEST, lift=np.nan, lift_ci_lower=np.nan)[0].endswith("; too few other units to judge it on.")
    assert say_threshold(None, pending=12) == (
        "Segment mobile has too few units or conversions to judge any number of Item viewed.",
        "Counted among the 4,000 units that had not converted 7 days after entry; Bought counted for 14 days after "
        "that. 12 units are pending. Nothing is adjusted for: who is more active does more of everything.",
    )


def test_word_together_names_verdict_and_lift() -> None:
    row = {"verdict": "negative", "adjusted_lift": -0.016, "note": ""}
    together = "when all micro-conversions are looked at together"
    other: dict[str, Any] = {"verdict": "positive", "alone": 0.05}
    assert takeaways.word_together(row, in_value=False, **other) == f"negative {together} (-1.6 pts)"
    assert takeaways.word_together(row, in_value=True, **other) == f"negative {together} (-0.0160)"
    # The same verdict is told only where less than half of the lift is left.
    said = [takeaways.word_together(row, verdict="negative", alone=lift, in_value=False) for lift in (-0.03, -0.04)]
    assert said == ["", f"only -1.6 pts {together} (-4.0 pts alone)"]
