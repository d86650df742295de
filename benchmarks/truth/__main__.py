"""Measures, on logs with known effects, how far the scores can be trusted.

python -m benchmarks.truth [--logs N] [--only WORDS] [--processes P] [--figure PATH]

`--only order,coverage` runs the parts with one of these words in their names; `--logs` draws at most so many logs of
each scenario. Each log has a seed of its own, so every number comes out the same again.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.truth import measures, scenarios
from benchmarks.truth.figure import draw_order
from benchmarks.truth.scenarios import SCENARIOS, Scenario
from benchmarks.truth.scores import SCORES
from benchmarks.truth.study import Task, compare_readings, score_logs

ORDER_LOGS, NULL_LOGS, COVERAGE_LOGS, SHRUNK_LOGS = 200, 200, 5_000, 1_000
NULL_UNITS, COVERAGE_UNITS, RARE_UNITS = 10_000, 3_000, 20_000
#: What confounds is counted exactly in these, so that an interval can be held to its word.
COVERED = (
    *(scenarios.CLEAN, scenarios.STACKED, scenarios.IMMORTAL, scenarios.LEAVING),
    *(scenarios.SEGMENTS, scenarios.COUNTED, scenarios.SIMPSON),
)
#: The activity that confounds is seen with noise here: what is left of the bias is shown, and no interval can know it.
NOISY = scenarios.ACTIVITY
#: Scenarios whose order convlib must find better than every product does.
MUST_LEAD = {s.name for s in (scenarios.IMMORTAL, scenarios.SEGMENTS, NOISY, scenarios.COUNTED, scenarios.SIMPSON)}
LEAST_ORDER, LEVEL, LOWEST, HIGHEST = 0.8, 0.05, 0.94, 0.96
SAME = 1e-12


@dataclasses.dataclass
class Study:
    """One run.

    Attributes:
        logs: At most so many logs of each scenario; 0 for as many as each part needs.
        processes: How many work at once.
        figure: Where the figure goes; None for none.
        failed: The criteria that were not met.
    """

    logs: int
    processes: int
    figure: Path | None
    failed: list[str] = dataclasses.field(default_factory=list)

    def score(
        self,
        chosen: Sequence[Scenario],
        logs: int,
        *,
        units: int = 0,
        products: bool = False,
        model: str = "strata",
    ) -> pd.DataFrame:
        """Score so many logs of each scenario."""
        seeds = range(min(logs, self.logs or logs))
        tasks = [Task(s, seed, units or s.units, products, model) for s in chosen for seed in seeds]
        return score_logs(tasks, processes=self.processes)

    def check(self, met: bool, criterion: str) -> None:
        """Print whether a criterion is met."""
        print(f"- {'PASS' if met else 'FAIL'}: {criterion}")
        if not met:
            self.failed.append(criterion)


def study_events(study: Study) -> None:
    """Read a log of each scenario as events, and compare it with the arrays that the other parts score."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CONVLIB_CACHE"] = cache
        gaps = {s.name: compare_readings(s, 0, units=NULL_UNITS) for s in SCENARIOS}
    for name, gap in gaps.items():
        study.check(gap <= SAME, f"{name}: same verdicts, numbers differ by {gap:.0e} at most")


def study_order(study: Study) -> None:
    """Compare the order of the micros with the planted one, and count what is found."""
    alone, paired = ([s for s in SCENARIOS if bool(s.pairs) == wanted] for wanted in (False, True))
    parts = [
        study.score(alone, ORDER_LOGS, products=True),
        study.score(paired, ORDER_LOGS, products=True, model="regression"),
    ]
    scored = pd.concat(parts, ignore_index=True)
    names = ["convlib", *SCORES]
    ranked = scored[scored["scenario"] != scenarios.PRECONDITION.name]
    table = measures.summarise_order(measures.measure_order(ranked, names))
    if study.figure:
        draw_order(table, study.figure, logs=scored["seed"].nunique())
    leads = table.drop("convlib", level="score")
    for shown, mean, error, sign in ((table, "mean", "error", ""), (leads, "lead", "lead_error", "+")):
        cells = [f"{m:{sign}.2f} ± {e:.3f}" for m, e in zip(shown[mean], shown[error], strict=True)]
        wide = pd.Series(cells, shown.index).unstack("score")
        show(wide.loc[list(dict.fromkeys(ranked["scenario"])), [name for name in names if name in wide]])
    print("Found, with the right sign, by planted effect (of 0: found at all):\n")
    power = measures.measure_power(scored).sort_index(ascending=False)
    show(power.apply(percent).where(power.notna(), ""))
    agreement = table.xs("convlib", level="score")["mean"].mean()
    study.check(agreement >= LEAST_ORDER, f"rank agreement {agreement:.2f} on average (at least {LEAST_ORDER})")
    check_leads(study, leads)
    check_precondition(study, scored[scored["scenario"] == scenarios.PRECONDITION.name])


def check_leads(study: Study, leads: pd.DataFrame) -> None:
    """Hold convlib's smallest lead in each scenario against its simulation error."""
    known = leads.assign(errors=(leads["lead"] / leads["lead_error"]).fillna(0.0)).reset_index()
    least = known.sort_values("errors").groupby("scenario").head(1).sort_index()
    for row in least.to_dict("records"):
        above = row["scenario"] in MUST_LEAD
        text = f"{row['scenario']}: {'above' if above else 'not below'} every score; "
        text += f"least {row['lead']:+.3f} ± {row['lead_error']:.3f}, {row['score']}"
        study.check(row["errors"] > (measures.REACH if above else -measures.REACH), text)


def check_precondition(study: Study, scored: pd.DataFrame) -> None:
    """Count the logs in which the precondition, and nothing else, is called so."""
    called = scored["verdict"] == "precondition"
    named, wrongly = (float(called[rows].mean()) for rows in (scored["truth"].isna(), scored["truth"].notna()))
    text = f"precondition: called so in {named:.0%} of the logs, another micro in {wrongly:.0%}"
    study.check(named == 1 and wrongly == 0, text)


def study_false_discoveries(study: Study) -> None:
    """Plant nothing: how many calls report a finding."""
    empty = [dataclasses.replace(s, effects=(0.0,) * len(s.effects)) for s in SCENARIOS]
    table = measures.measure_false_discoveries(study.score(empty, NULL_LOGS, units=NULL_UNITS))
    show(table.assign(share=percent(table["share"]), error=percent(table["error"])))
    allowed = LEVEL + measures.REACH * (LEVEL * (1 - LEVEL) / table["logs"]) ** 0.5
    for row in table.assign(allowed=allowed).drop(NOISY.name).reset_index().to_dict("records"):
        text = f"{row['scenario']}: {row['share']:.1%} of calls find something (at most {row['allowed']:.1%})"
        study.check(row["share"] <= row["allowed"], text)


def study_shrunk(study: Study) -> None:
    """Count how often the shrunk intervals hold the truth, on average over effects drawn anew."""
    scored = study.score(scenarios.DRAWN, SHRUNK_LOGS, units=COVERAGE_UNITS, model="")
    covered = (scored["shrunk_ci_lower"] <= scored["truth"]) & (scored["truth"] <= scored["shrunk_ci_upper"])
    logs = covered.groupby([scored["scenario"], scored["seed"]], sort=False).mean().groupby("scenario", sort=False)
    for row in logs.agg(["mean", "sem"]).reset_index().to_dict("records"):
        text = f"{row['scenario']}: covers {row['mean']:.1%} ± {row['sem']:.1%} on average (at least {LOWEST:.0%})"
        study.check(row["mean"] + measures.REACH * row["sem"] >= LOWEST, text)


def study_coverage(study: Study) -> None:
    """Count how often the intervals hold the truth."""
    parts = [
        study.score([*COVERED, NOISY], COVERAGE_LOGS, units=COVERAGE_UNITS, model=""),
        study.score([scenarios.RARE], COVERAGE_LOGS, units=RARE_UNITS, model=""),
    ]
    scored = pd.concat(parts, ignore_index=True)
    fair = scored["scenario"].isin([NOISY.name, *[s.name for s in SCENARIOS if s.raw_is_fair]])
    lifts = {
        "raw": measures.measure_coverage(scored[fair], "lift"),
        "adjusted": measures.measure_coverage(scored, "adjusted_lift"),
    }
    table = pd.concat(lifts, names=["lift"]).reset_index()
    for name, columns in table.assign(share=percent(table["share"])).groupby("lift", sort=False):
        print(f"The {name} lift, by planted effect:\n")
        show(columns.pivot(index="scenario", columns="truth", values="share").fillna(""))
    summary = table.groupby(["lift", "scenario"], sort=False).agg(
        lowest=("share", "min"),
        highest=("share", "max"),
        error=("error", "max"),
        bias=("bias", lambda each: each.abs().max()),
    )
    for row in summary.reset_index().to_dict("records"):
        text = f"{row['scenario']}, {row['lift']}: covers {row['lowest']:.1%} to {row['highest']:.1%} "
        text += f"± {row['error']:.1%} (94 to 96%); bias at most {100 * row['bias']:.2f} points"
        if row["scenario"] == NOISY.name:
            print(f"- seen with noise, so not judged: {text}")
        else:
            study.check(row["lowest"] >= LOWEST and row["highest"] <= HIGHEST, text)


PARTS: dict[str, Callable[[Study], None]] = {
    "events": study_events,
    "order": study_order,
    "false": study_false_discoveries,
    "shrunk": study_shrunk,
    "coverage": study_coverage,
}


def percent(shares: "pd.Series[float]") -> "pd.Series[str]":
    """Write shares as a reader wants them."""
    return shares.map("{:.1%}".format)


def show(table: pd.DataFrame) -> None:
    """Print a table as Markdown."""
    rows = table.reset_index().astype("str")
    print("| " + " | ".join(map(str, rows.columns)) + " |\n|" + "---|" * len(rows.columns))
    print("\n".join("| " + " | ".join(row) + " |" for row in rows.itertuples(index=False, name=None)), end="\n\n")


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--logs", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    study = Study(given.logs, given.processes, given.figure)
    for name, part in PARTS.items():
        if any(word in name for word in given.only.split(",")):
            start = time.perf_counter()
            print(f"\n## {(part.__doc__ or '').splitlines()[0]}\n", flush=True)
            part(study)
            print(f"\n({name}: {time.perf_counter() - start:.0f} s)", flush=True)
    print("\nEvery criterion is met." if not study.failed else "\nNot met:\n- " + "\n- ".join(study.failed))


if __name__ == "__main__":
    main()
