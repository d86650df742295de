"""Micro-conversion analysis: which small actions go with the outcome that pays, from your own event log."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convlib.alerts import Alerts as Alerts
    from convlib.alerts import find_alerts as find_alerts
    from convlib.attribution import Attribution as Attribution
    from convlib.attribution import attribute as attribute
    from convlib.conversions import Exclusion as Exclusion
    from convlib.conversions import Step as Step
    from convlib.correlation import Correlation as Correlation
    from convlib.correlation import correlate as correlate
    from convlib.datasets.load import list_datasets as list_datasets
    from convlib.datasets.load import load_dataset as load_dataset
    from convlib.datasets.load import simulate_shop as simulate_shop
    from convlib.errors import ConvlibError as ConvlibError
    from convlib.errors import EventDataError as EventDataError
    from convlib.errors import ParamError as ParamError
    from convlib.errors import PlanError as PlanError
    from convlib.errors import RunError as RunError
    from convlib.event_map import EventMap as EventMap
    from convlib.event_map import map_events as map_events
    from convlib.events import EventLog as EventLog
    from convlib.events import read_events as read_events
    from convlib.experiment import Experiment as Experiment
    from convlib.experiment import analyse_experiment as analyse_experiment
    from convlib.experiment import measure_experiments as measure_experiments
    from convlib.explorer import Explorer as Explorer
    from convlib.explorer import explore as explore
    from convlib.friction import PageFriction as PageFriction
    from convlib.friction import measure_friction as measure_friction
    from convlib.funnel import Funnel as Funnel
    from convlib.funnel import measure_funnel as measure_funnel
    from convlib.impact import Impact as Impact
    from convlib.impact import score_impact as score_impact
    from convlib.mapping import list_presets as list_presets
    from convlib.mapping import read_mapping as read_mapping
    from convlib.measured import MeasuredEffect as MeasuredEffect
    from convlib.parameters import Parameters as Parameters
    from convlib.parameters import check_parameters as check_parameters
    from convlib.paths import Paths as Paths
    from convlib.paths import trace_paths as trace_paths
    from convlib.plan import Plan as Plan
    from convlib.plan import read_plan as read_plan
    from convlib.plan_experiments import Guardrail as Guardrail
    from convlib.plan_experiments import Margin as Margin
    from convlib.plan_experiments import Outcome as Outcome
    from convlib.power import ExperimentPlan as ExperimentPlan
    from convlib.power import plan_experiment as plan_experiment
    from convlib.quality import Quality as Quality
    from convlib.quality import check_quality as check_quality
    from convlib.rates import Rates as Rates
    from convlib.rates import measure_rates as measure_rates
    from convlib.reports.run import Run as Run
    from convlib.reports.run import run_reports as run_reports
    from convlib.scorecard import Scorecard as Scorecard
    from convlib.scorecard import score_units as score_units
    from convlib.segments import Segment as Segment
    from convlib.segments import read_segments as read_segments
    from convlib.suggest import suggest_plan as suggest_plan
    from convlib.thresholds import Threshold as Threshold
    from convlib.thresholds import find_threshold as find_threshold
    from convlib.upkeep import Actions as Actions
    from convlib.upkeep import PlanReview as PlanReview
    from convlib.upkeep import Recalibration as Recalibration
    from convlib.upkeep import list_actions as list_actions
    from convlib.upkeep import recalibrate as recalibrate
    from convlib.upkeep import review_plan as review_plan

__version__ = "0.1.0"

#: Where each public name lives; a module is imported when one of its names is first used.
_HOMES = {
    "alerts": ["Alerts", "find_alerts"],
    "attribution": ["Attribution", "attribute"],
    "conversions": ["Exclusion", "Step"],
    "correlation": ["Correlation", "correlate"],
    "datasets.load": ["list_datasets", "load_dataset", "simulate_shop"],
    "errors": ["ConvlibError", "EventDataError", "ParamError", "PlanError", "RunError"],
    "event_map": ["EventMap", "map_events"],
    "events": ["EventLog", "read_events"],
    "experiment": ["Experiment", "analyse_experiment", "measure_experiments"],
    "explorer": ["Explorer", "explore"],
    "friction": ["PageFriction", "measure_friction"],
    "funnel": ["Funnel", "measure_funnel"],
    "impact": ["Impact", "score_impact"],
    "mapping": ["list_presets", "read_mapping"],
    "measured": ["MeasuredEffect"],
    "parameters": ["Parameters", "check_parameters"],
    "paths": ["Paths", "trace_paths"],
    "plan": ["Plan", "read_plan"],
    "plan_experiments": ["Guardrail", "Margin", "Outcome"],
    "power": ["ExperimentPlan", "plan_experiment"],
    "quality": ["Quality", "check_quality"],
    "rates": ["Rates", "measure_rates"],
    "reports.run": ["Run", "run_reports"],
    "scorecard": ["Scorecard", "score_units"],
    "segments": ["Segment", "read_segments"],
    "suggest": ["suggest_plan"],
    "thresholds": ["Threshold", "find_threshold"],
    "upkeep": ["Actions", "PlanReview", "Recalibration", "list_actions", "recalibrate", "review_plan"],
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        msg = f"module 'convlib' has no attribute {name!r}; it has {', '.join(__all__)}."
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"convlib.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
