"""Rolling windows: each formula against scipy, each rule on counts typed here, and quiet days without alerts."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy import stats

from convlib.watch import (
    Watch,
    dispersion,
    error_probability,
    find_oddities,
    find_quiet_source,
    silence_probability,
    volume_probability,
)

MINUTES = Watch()  # windows of 15 min in bins of 1 min
START = int(pd.Timestamp("2024-01-01").timestamp()) // 60


def count(rows: dict[str, list[int]], errors: list[int] | None = None) -> pd.DataFrame:
    """Write counts of some events, minute by minute from `START`; those of errors are part of the first event's."""
    frames = [
        pd.DataFrame({"bin": START + np.arange(len(each)), "event_name": name, "rows": each, "errors": 0})
        for name, each in rows.items()
    ]
    if errors:
        frames[0]["errors"] = errors
    table = pd.concat(frames, ignore_index=True)
    return table[table["rows"] > 0]


def pick(found: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(found[["rule", "severity", "conversion"]].itertuples(index=False, name=None))


def test_dispersion_is_variance_over_mean_and_not_below_one() -> None:
    assert dispersion(np.array([10, 10, 10])) == 1  # no variance at all
    assert dispersion(np.array([0, 10, 20])) == 10  # variance 100 over mean 10


def test_silence_probability_is_the_gamma_poisson_probability_of_none() -> None:
    # 4 windows of 5 events: the rate is Gamma(20, 1/4); none in 2 windows is NegBin(20, 4 / (4 + 2)) at 0.
    assert silence_probability(np.array([5, 5, 5, 5]), 2) == pytest.approx(stats.nbinom(20, 4 / 6).pmf(0))


def test_silence_probability_of_clumped_events_counts_fewer() -> None:
    # Variance 100 over mean 10: 30 events say as much as 3.
    assert silence_probability(np.array([0, 10, 20]), 1) == pytest.approx((3 / 4) ** 3)


def test_volume_probability_is_twice_the_tail_of_a_negative_binomial() -> None:
    # Eight windows of 80: mean 80, dispersion 1, variance 80 * (1 + 1/8) = 90.
    law = stats.nbinom(*_moments(80, 90))
    assert volume_probability(np.full(8, 80), 40) == pytest.approx(2 * law.cdf(40))
    assert volume_probability(np.full(8, 80), 160) == pytest.approx(2 * law.sf(159))


def _moments(mean: float, variance: float) -> tuple[float, float]:
    return mean**2 / (variance - mean), mean / variance


def test_error_probability_is_the_tail_of_a_beta_binomial() -> None:
    # 10 of 1,000 in each of 8 windows: dispersion below 1, so 1; Beta(80.5, 7920.5).
    usual, events = np.full(8, 10), np.full(8, 1_000)
    expected = stats.betabinom(1_000, 80.5, 7_920.5).sf(29)
    assert error_probability(usual, events, count=30, total=1_000) == pytest.approx(expected)


def test_find_oddities_tells_of_an_event_that_stopped() -> None:
    rows = {"purchase": [10] * 120 + [0] * 15, "visit": [50] * 135}
    found = find_oddities(count(rows), MINUTES, until=START + 135)
    assert pick(found) == [("event_stopped", "critical", "purchase")]
    assert found["period"].iloc[0] == pd.Timestamp("2024-01-01 02:00")
    # (8 / 9) ** 1200
    assert found["evidence"].iloc[0] == (
        "`purchase` has not come for 15min, since 2024-01-01 02:00:00 UTC; at its usual 150.0 in 15min (n = 1,200 in 8 "
        "windows) such a silence has a probability of less than 1 in 1,000,000,000."
    )


def test_find_oddities_waits_until_a_silence_is_unlikely() -> None:
    # One a minute: 120 in 8 windows; (8 / (8 + s)) ** 120 is below 1e-6 from s = 0.98 windows on, 15 min.
    for silence, expected in ((14, 0), (15, 1)):
        rows = {"purchase": [1] * 120 + [0] * silence, "visit": [50] * (120 + silence)}
        assert len(find_oddities(count(rows), MINUTES, until=START + 120 + silence)) == expected


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        ({"rare": ([1] + [0] * 9) * 12 + [0] * 60, "visit": [50] * 180}, 180),
        ({"new": [10] * 60 + [0] * 15, "visit": [50] * 75}, 75),
        ({}, 0),
    ],
    ids=["a rare event", "too short a history", "no events"],
)
def test_find_oddities_does_not_miss_what_it_does_not_know(rows: dict[str, list[int]], length: int) -> None:
    counts = count(rows) if rows else pd.DataFrame(columns=["bin", "event_name", "rows", "errors"])
    assert find_oddities(counts, MINUTES, until=START + length).empty


def test_find_oddities_accepts_a_silence_that_comes_every_day() -> None:
    day = [10] * 1_000 + [0] * 440
    rows = {"batch": day + day[:1_060], "visit": [50] * 2_500}
    assert find_oddities(count(rows), MINUTES, until=START + 2_500).empty


@pytest.mark.parametrize(("last", "expected"), [(49, "below"), (51, ""), (199, ""), (201, "above")])
def test_find_oddities_tells_of_volume_that_is_half_or_double(last: int, expected: str) -> None:
    found = find_oddities(count({"visit": [100] * 120 + [last] * 15}), MINUTES, until=START + 135)
    assert pick(found) == ([("volume", "warning", "(all events)")] if expected else [])
    assert all(f"{expected} the usual 1,500 " in text for text in found["evidence"])


def test_find_oddities_tells_of_errors() -> None:
    rows, errors = {"visit": [100] * 135}, [1] * 120 + [5] * 15
    found = find_oddities(count(rows, errors), MINUTES, until=START + 135)
    assert pick(found) == [("errors", "warning", "(all events)")]
    # 75 of 1,500; Wilson's interval by hand: 0.0401 to 0.0622.
    assert found["evidence"].iloc[0] == (
        "5.0% of 1,500 events in the 15min from 2024-01-01 02:00:00 UTC are errors (75; 95% interval 4.0% to 6.2%), "
        "above the usual 1.0% (n = 12,000)."
    )


def test_find_oddities_judges_no_bin_that_is_not_over() -> None:
    rows = {"visit": [100] * 120 + [100] * 15 + [1_000]}
    assert find_oddities(count(rows), MINUTES, until=START + 135).empty


@pytest.mark.parametrize("dispersed", [1.0, 3.0], ids=["Poisson", "three times its variance"])
def test_find_oddities_is_silent_on_quiet_days(dispersed: float) -> None:
    random, minutes = np.random.default_rng(1), np.arange(2 * 1_440)
    daily = 1 + 0.8 * np.sin(2 * np.pi * minutes / 1_440)  # nine times as many at the peak as at night
    rows = {}
    for name, mean in (("visit", 200), ("view", 60), ("cart", 10), ("purchase", 2), ("error", 1)):
        rate = mean * daily
        drawn = random.negative_binomial(rate / (dispersed - 1), 1 / dispersed) if dispersed > 1 else None
        rows[name] = list(random.poisson(rate) if drawn is None else drawn)
    counts = count(rows)
    counts.loc[counts["event_name"] == "error", "errors"] = counts["rows"]
    found = [find_oddities(counts, MINUTES, until=START + end) for end in range(130, 2_880, 10)]
    assert pd.concat(found)["evidence"].tolist() == []


def test_watch_moves_its_window_by_whole_seconds() -> None:
    assert [Watch(window=text).bin_microseconds for text in ("15min", "5s", "1h")] == [
        60_000_000,
        1_000_000,
        240_000_000,
    ]


def test_watch_refuses_a_rule_that_means_nothing() -> None:
    with pytest.raises(ValidationError, match="has an unknown operator"):
        Watch(errors={"event_name": {"like": "x"}})


def test_find_quiet_source_asks_for_more_than_any_pause_so_far() -> None:
    regular = [float(10 * n) for n in range(20)]
    assert find_quiet_source(regular, 190 + 50, interval=10).empty
    found = find_quiet_source(regular, 190 + 51, interval=10)
    assert pick(found) == [("no_data", "critical", "(all events)")]
    assert found["evidence"].iloc[0].endswith("before, they came at least every 10 s (n = 20 looks with rows).")
    assert find_quiet_source([0, *regular[5:]], 190 + 150, interval=10).empty  # a pause of 50 s is known
    assert find_quiet_source(regular[:7], 1_000, interval=10).empty
