import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from benchmarks.truth import __main__ as truth
from benchmarks.truth import measures, scenarios, scores, study
from benchmarks.truth.figure import draw_order
from benchmarks.truth.scenarios import DAY, HORIZON, LANDMARKS, Log, Scenario, simulate
from convlib.landmarks import NEVER

#: Whoever buys does so at noon of the day given; - for never. Then the day on which each does one and two.
HISTORIES = """
2 1 -
4 1 3
5 - 1
9 1 10
- 1 8
- - 2
- - -
- 9 -
"""


@pytest.fixture
def log() -> Log:
    days = [[NEVER if day == "-" else int(day) * DAY for day in line.split()] for line in HISTORIES.split("\n") if line]
    times = np.array(days)
    macro = np.where(times[:, 0] < NEVER, times[:, 0] + DAY // 2, NEVER)
    nothing = np.zeros(len(times), np.int64)
    return Log(nothing, macro, times[:, 1:], nothing + NEVER, nothing[:, None], nothing, np.array([0.1, 0.0]), 0)


def test_score_phi_counts_what_came_before_the_conversion(log: Log) -> None:
    # One: 3 of 4 buyers, and 2 of the 4 others. Two: 2 of 4 buyers (one only after buying), and 2 of the others.
    expected = [(3 * 2 - 2 * 1) / np.sqrt(5 * 3 * 4 * 4), 0]
    assert scores.score_phi(log) == pytest.approx(expected, abs=1e-15)


def test_score_odds_ratio_adds_one_to_each_cell(log: Log) -> None:
    assert scores.score_odds_ratio(log) == pytest.approx([(4 * 3) / (2 * 3), 1], rel=1e-15)


def test_score_first_days_counts_seven_days_whatever_comes_first(log: Log) -> None:
    # One within seven days: 3 of 4 buyers, 1 of the 4 others. Two: 2 of 4, 1 of 4.
    expected = [(3 * 3 - 1 * 1) / 16, (2 * 3 - 1 * 2) / np.sqrt(3 * 5 * 4 * 4)]
    assert scores.score_first_days(log) == pytest.approx(expected, rel=1e-15)


def test_score_last_touch_gives_all_to_the_last_before_buying(log: Log) -> None:
    # One is the last of the first and the fourth buyer, two of the second and the third.
    assert scores.score_last_touch(log).tolist() == [1 / 2, 1 / 2]


def test_divide_risk_adds_the_effects_at_either_landmark() -> None:
    first, second, third = scenarios.divide_risk(np.array([[0.04, 0.16, 0.10]]), np.array([0.05]), np.array([0.07]))[0]
    assert first + second == pytest.approx(0.04 + 0.16 + 0.05, rel=1e-15)
    assert (second + third) / (1 - first) == pytest.approx((0.16 + 0.10) / (1 - 0.04) + 0.07, rel=1e-15)


def test_divide_risk_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match=r"^The effects lead to probabilities from -0\.040 to 0\.108\.$"):
        scenarios.divide_risk(np.array([[0.04, 0.16, 0.1]]), np.array([-0.2]), np.array([-0.2]))


@pytest.mark.parametrize(
    "scenario",
    [scenarios.CLEAN, scenarios.STACKED, scenarios.IMMORTAL, scenarios.LEAVING, scenarios.SEGMENTS, scenarios.SIMPSON],
    ids=lambda scenario: scenario.name,
)
@pytest.mark.parametrize("landmark", LANDMARKS, ids=["first", "second"])
def test_simulate_plants_the_effects_in_every_segment(scenario: Scenario, landmark: int) -> None:
    log = simulate(scenario, 1, units=100_000)
    at_risk = (np.minimum(log.macro, log.losses) >= landmark) & (
        log.start + landmark + HORIZON <= scenarios.START + scenarios.END
    )
    for segment in np.unique(log.segment):
        rows = at_risk & (log.segment == segment)
        outcome = log.macro[rows] < landmark + HORIZON
        for effect, times in zip(scenario.effects, log.micros[rows].T, strict=True):
            did, did_not = outcome[times < landmark], outcome[times >= landmark]
            error = np.sqrt(did.var() / len(did) + did_not.var() / len(did_not))
            assert did.mean() - did_not.mean() == pytest.approx(effect, abs=4.5 * error)


def test_simulate_lets_nobody_convert_without_the_precondition() -> None:
    log = simulate(scenarios.PRECONDITION, 1, units=5_000)
    converted = log.macro < NEVER
    assert (log.micros[converted, -1] < log.macro[converted]).all()
    assert np.isnan(log.truth[-1])


def test_simulate_gives_the_same_log_for_the_same_seed() -> None:
    first, same, other = (simulate(scenarios.SEGMENTS, seed, units=100) for seed in (1, 1, 2))
    assert first.to_events().equals(same.to_events())
    assert not first.to_events().equals(other.to_events())


@pytest.mark.parametrize("scenario", [scenarios.ACTIVITY, scenarios.LEAVING], ids=lambda scenario: scenario.name)
def test_compare_readings_finds_the_same_numbers_in_events_and_arrays(scenario: Scenario) -> None:
    assert study.compare_readings(scenario, 1, units=1_000) < 1e-12


def test_score_logs_does_not_depend_on_the_order_of_the_logs() -> None:
    tasks = [study.Task(scenarios.CLEAN, seed, 500, products=True) for seed in (1, 2)]
    straight, reverse = study.score_logs(tasks, processes=1), [study.score_log(task) for task in tasks[::-1]]
    assert straight.equals(pd.concat(reverse[::-1], ignore_index=True))


def test_measure_coverage_counts_the_intervals_that_hold_the_truth() -> None:
    scored = pd.DataFrame({"scenario": "a", "truth": 0.1, "lift": [0.1, 0.2, 0.0, 0.1]})
    scored = scored.assign(lift_ci_lower=[0.0, 0.15, -0.1, 0.1], lift_ci_upper=[0.2, 0.25, 0.05, 0.3])
    assert measures.measure_coverage(scored, "lift").iloc[0].to_dict() == pytest.approx(
        {"share": 0.5, "error": 0.25, "logs": 4, "bias": 0}, abs=1e-15
    )


def test_measure_power_wants_the_right_sign() -> None:
    scored = pd.DataFrame(
        {"scenario": "a", "truth": [0.1, 0.1, -0.1, 0.0], "verdict": ["positive", "negative", "negative", "positive"]}
    )
    assert measures.measure_power(scored)["a"].to_dict() == {0.1: 0.5, -0.1: 1, 0.0: 1}


def test_summarise_order_pairs_the_scores_by_log() -> None:
    scored = pd.DataFrame(
        {
            "scenario": "a",
            "seed": [1, 1, 1, 2, 2, 2],
            "truth": [1, 2, 3] * 2,
            "convlib": [1, 2, 3, 1, 3, 2],
            "phi": [3, 2, 1, 2, 1, 3],
        }
    )
    order = measures.measure_order(scored, ["convlib", "phi"])
    assert order.to_numpy() == pytest.approx(np.array([[1, -1], [1 / 3, 1 / 3]]))
    row = measures.summarise_order(order).xs("phi", level="score").iloc[0]
    # The leads are 2 and 0: their standard deviation over the root of 2 is 1.
    assert row.to_dict() == pytest.approx({"mean": -1 / 3, "error": 2 / 3, "lead": 1, "lead_error": 1})


def test_check_leads_fails_what_simulation_error_does_not_explain(capsys: pytest.CaptureFixture[str]) -> None:
    index = pd.MultiIndex.from_product(
        [["clean", "immortal time"], ["phi", "last-touch share"]], names=["scenario", "score"]
    )
    leads = pd.DataFrame({"lead": [-0.02, -0.03, 0.5, 0.1], "lead_error": [0.02, 0.01, 0.1, 0.06]}, index)
    judged = truth.Study(logs=1, processes=1, figure=None)
    truth.check_leads(judged, leads)
    assert capsys.readouterr().out.splitlines() == [
        "- FAIL: clean: not below every score; least -0.030 ± 0.010, last-touch share",
        "- FAIL: immortal time: above every score; least +0.100 ± 0.060, last-touch share",
    ]


def score_here(tasks: Sequence[study.Task], **_: object) -> pd.DataFrame:
    return pd.concat(map(study.score_log, tasks), ignore_index=True)


def test_parts_run_with_few_logs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = tuple(dataclasses.replace(s, units=500) for s in (truth.NOISY, scenarios.PRECONDITION, scenarios.COLLINEAR))
    for name, value in {"SCENARIOS": small, "COVERED": (scenarios.CLEAN,), "score_logs": score_here}.items():
        monkeypatch.setattr(truth, name, value)
    for name in ("NULL_UNITS", "COVERAGE_UNITS", "RARE_UNITS"):
        monkeypatch.setattr(truth, name, 500)
    monkeypatch.setattr("sys.argv", ["truth", "--logs", "2", "--figure", str(tmp_path / "truth.png")])
    truth.main()
    printed = capsys.readouterr().out
    assert printed.count("## ") == len(truth.PARTS)
    assert "| collinear micros | " in printed
    assert (tmp_path / "truth.png").read_bytes().startswith(b"\x89PNG")


def test_draw_order_names_every_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr("benchmarks.truth.figure.plt.close", kept.append)
    names = ["convlib", *scores.SCORES]
    index = pd.MultiIndex.from_product([["immortal time", "clean"], names], names=["scenario", "score"])
    draw_order(pd.DataFrame({"mean": 0.5, "error": 0.1}, index), tmp_path / "truth.png", logs=3)
    labels = [label.get_text() for label in kept[0].axes[0].get_yticklabels()]
    assert labels == ["immortal time", "clean"]
