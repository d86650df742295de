"""Scores many logs with known effects: with convlib, and as products do."""

import dataclasses
import multiprocessing
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import convlib as cv
from benchmarks.truth.scenarios import Log, Scenario, simulate
from benchmarks.truth.scores import SCORES
from convlib import stats
from convlib.durations import write_duration
from convlib.landmarks import find_risk
from convlib.lifts import judge_micros, score_micros

#: Effects that are drawn anew in each log are normal, up to the largest.
SPREAD, LARGEST = 0.025, 0.05
DRAWS = 2_000


@dataclasses.dataclass(frozen=True)
class Task:
    """One log to score.

    Attributes:
        scenario: What is planted.
        seed: Each log of a scenario has its own.
        units: How many.
        products: Whether the products' scores are wanted too.
        model: What convlib adjusts by; empty for intervals without verdicts.
    """

    scenario: Scenario
    seed: int
    units: int
    products: bool = False
    model: str = "strata"


def score_logs(tasks: Sequence[Task], *, processes: int) -> pd.DataFrame:
    """Score many logs, each in one process."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pd.concat(pool.imap(score_log, tasks, chunksize=10), ignore_index=True)


def score_log(task: Task) -> pd.DataFrame:
    """Draw a log and score its micros.

    Returns:
        One row a micro: `scenario, seed, micro, truth`, the lifts with their intervals, `verdict`, `convlib` and the
        products' scores by name, and the shrunk interval.
    """
    scenario = draw_effects(task.scenario, task.seed)
    log = simulate(scenario, task.seed, units=task.units)
    table = score_arrays(log, scenario, model=task.model)
    table = table.assign(scenario=scenario.name, seed=task.seed, micro=log.names, truth=log.truth)
    if task.products:
        table = table.assign(convlib=table["adjusted_lift"], **{name: score(log) for name, score in SCORES.items()})
    if scenario.null_share is not None:
        error = (table["adjusted_lift_ci_upper"] - table["adjusted_lift"]) / stats.normal_quantile(stats.CONFIDENCE)
        draws = stats.shrink(table["adjusted_lift"], error, draws=DRAWS, seed=task.seed)
        low, high = np.quantile(draws, [0.025, 0.975], axis=1)
        table = table.assign(shrunk_ci_lower=low, shrunk_ci_upper=high)
    return table


def draw_effects(scenario: Scenario, seed: int) -> Scenario:
    """Plant new effects, where the scenario says so."""
    if scenario.null_share is None:
        return scenario
    rng = np.random.default_rng(seed)
    drawn = np.clip(SPREAD * rng.standard_normal(len(scenario.effects)), -LARGEST, LARGEST)
    effects = np.where(rng.random(len(drawn)) < scenario.null_share, 0.0, drawn)
    return dataclasses.replace(scenario, effects=tuple(effects))


def read_log(log: Log, scenario: Scenario) -> cv.Correlation:
    """Score the same log as an analyst would: read as events, with a plan."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.yaml"
        path.write_text(log.write_plan(), encoding="utf-8")
        plan = cv.read_plan(path)
    return cv.correlate(
        cv.read_events(log.to_events(), plan=plan),
        plan,
        macro="buy",
        exposure=[write_duration(landmark) for landmark in scenario.design.landmarks],
        horizon=write_duration(scenario.design.horizon),
        adjust=["segment"],
    )


def score_arrays(log: Log, scenario: Scenario, *, model: str = "strata") -> pd.DataFrame:
    """Score a log as `correlate` does once it has read it; without a model, leave out the verdicts, which take long."""
    if not model:
        return score_micros(find_risk(log.follow(scenario), scenario.design, log.covariates))[0]
    return judge_micros(log.follow(scenario), scenario.design, log.covariates, log.names, model=model)[0]


def compare_readings(scenario: Scenario, seed: int, *, units: int) -> float:
    """Give the largest difference between a log scored as arrays and read as events; infinite by verdict or note."""
    log = simulate(scenario, seed, units=units)
    scores = score_arrays(log, scenario)
    read = read_log(log, scenario).table.set_index("micro").loc[log.names].reset_index()
    if not read[["verdict", "note"]].equals(scores[["verdict", "note"]]):
        return np.inf
    names = [name for name in scores.select_dtypes("number") if name in read]
    left, right = (table[names].to_numpy(np.float64) for table in (scores, read))
    # What is undefined must be so in both.
    return float(np.where(np.isnan(left) & np.isnan(right), 0, np.abs(left - right)).max())
