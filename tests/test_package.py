import importlib
import inspect
import subprocess
import sys

import pytest

import convlib as cv

# The public names that the design promises and that exist so far.
PROMISED = [
    "Actions",
    "Alerts",
    "Experiment",
    "ExperimentPlan",
    "Explorer",
    "explore",
    "analyse_experiment",
    "measure_experiments",
    "plan_experiment",
    "PageFriction",
    "PlanReview",
    "Recalibration",
    "find_alerts",
    "list_actions",
    "measure_friction",
    "recalibrate",
    "review_plan",
    "Attribution",
    "Guardrail",
    "Margin",
    "MeasuredEffect",
    "Outcome",
    "Scorecard",
    "Threshold",
    "attribute",
    "find_threshold",
    "score_units",
    "Correlation",
    "Funnel",
    "EventLog",
    "EventMap",
    "Exclusion",
    "Impact",
    "Parameters",
    "Paths",
    "Plan",
    "Quality",
    "Rates",
    "Run",
    "Segment",
    "Step",
    "ConvlibError",
    "EventDataError",
    "ParamError",
    "PlanError",
    "RunError",
    "check_parameters",
    "check_quality",
    "correlate",
    "list_datasets",
    "list_presets",
    "load_dataset",
    "map_events",
    "measure_funnel",
    "measure_rates",
    "read_events",
    "read_mapping",
    "read_plan",
    "read_segments",
    "run_reports",
    "score_impact",
    "simulate_shop",
    "suggest_plan",
    "trace_paths",
]
HEAVY = [
    "pandas",
    "numpy",
    "matplotlib",
    "seaborn",
    "duckdb",
    "papermill",
    "nbconvert",
    "scipy",
    "statsmodels",
    "numba",
]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_package_has_the_public_names() -> None:
    assert sorted(cv.__all__) == sorted(PROMISED)
    assert dir(cv) == sorted(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_package_gives_each_name_from_its_module(name: str) -> None:
    found = getattr(cv, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)
    assert found.__module__.startswith("convlib.")
    assert getattr(importlib.import_module(found.__module__), name) is found


def test_package_has_a_version() -> None:
    assert cv.__version__.count(".") == 2


def test_package_names_what_it_has_when_a_name_is_wrong() -> None:
    with pytest.raises(AttributeError) as caught:
        _ = cv.measure_rate
    assert (
        str(caught.value) == f"module 'convlib' has no attribute 'measure_rate'; it has {', '.join(sorted(PROMISED))}."
    )


def test_import_is_silent_and_loads_nothing_heavy() -> None:
    done = run_python(f"import sys, convlib; print(sorted(set({HEAVY}) & set(sys.modules)))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_import_of_every_name_is_silent_and_keeps_pandas_options() -> None:
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "import pandas as pd; before = pd.get_option('display.max_rows'), pd.get_option('display.width')\n"
        "import convlib\n"
        "for name in set(convlib.__all__) - {'run_reports', 'Run'}: getattr(convlib, name)\n"
        "assert before == (pd.get_option('display.max_rows'), pd.get_option('display.width'))\n"
    )
    done = run_python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
