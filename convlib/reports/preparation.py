"""Everything that can be wrong with a run, found before any notebook runs, and what the run will make."""

import datetime as dt
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from convlib.documents import did_you_mean, quote_names, word_columns
from convlib.errors import ConvlibError, PlanError, RunError
from convlib.events import EventLog, read_events
from convlib.notify import Channel, find_channel_problem, read_channels
from convlib.parameters import ANALYSIS, check_parameters
from convlib.periods import find_day
from convlib.plan import Clock, Macro, Plan, PlannedExperiment, Segment, read_plan, read_segments
from convlib.reports.audiences import check_audiences, leave_out_small
from convlib.reports.delivery import check_delivery
from convlib.reports.manifest import AUDIENCES, PRIVATE, STAKEHOLDER, Report
from convlib.reports.notebooks import (
    FOLDER,
    OWN_PARAMETERS,
    Template,
    check_names,
    check_value,
    find_notebooks_folder,
    read_templates,
)
from convlib.reports.run_file import Audience, RunFile, read_run_file
from convlib.samples import check_experiment

SLUG_LENGTH = 80
#: The parameter that makes one report a value; the plan has the values.
EXPERIMENT = "experiment"
#: What a run file names for every notebook.
SOURCES = ("events", "mapping", "plan", "segments")
#: First and last day.
Days = tuple[dt.date, dt.date]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Notebooks:
    """The notebooks of a run, in order, with the parameters that the run file gives to each, and why some are not."""

    folder: Path
    templates: tuple[Template, ...]
    parameters: Mapping[str, Mapping[str, Any]]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """A run that may start. `segments` maps each segment's name to its folder."""

    run_file: RunFile
    notebooks: Notebooks
    plan: Plan
    log: EventLog
    segments: Mapping[str, str]
    period: tuple[dt.date, dt.date]
    channels: tuple[Channel, ...] = ()

    @property
    def folder(self) -> Path:
        """The run's and the period's folder, from the reports folder."""
        start, end = self.period
        return Path(self.run_file.run) / f"{start}_{end}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Say which reports the run leaves out, and whether any is left."""
        nothing = () if self.notebooks.templates else ("No notebook is left, so the run makes no report.",)
        return (*self.notebooks.left_out, *nothing)

    def list_audiences(self) -> list[tuple[str, list[str], tuple[Template, ...]]]:
        """List for whom notebooks are executed, with which segments and notebooks; the first is the run itself ("")."""
        templates = self.notebooks.templates
        everything = ("", list(self.segments), templates)
        stakeholder = self.run_file.audiences.get(STAKEHOLDER)
        if stakeholder is None:
            return [everything]
        log, wanted = self.log.between(*self.period), self.choose_segments(stakeholder)
        segments = leave_out_small(log, wanted, fewest=stakeholder.fewest)
        return [everything, (STAKEHOLDER, segments, _choose_templates(self.notebooks, stakeholder))]

    def choose_segments(self, audience: Audience) -> list[str]:
        """Choose the run's segments that an audience names, by name or by what they are a value of."""
        return [each for each in self.segments if _is_named(audience.segments, each, each.partition("=")[0])]

    def choose_reports(self, name: str, reports: Iterable[Report]) -> tuple[Report, ...]:
        """Choose the reports that an audience's folder is made from: its own, else those of whoever runs it.

        Args:
            name: The audience, as the run file names it.
            reports: The reports of the run's record.
        """
        audience = self.run_file.audiences[name]
        made_for = STAKEHOLDER if name == STAKEHOLDER else ""
        segments = self.choose_segments(audience)
        notebooks = {template.name for template in _choose_templates(self.notebooks, audience)}
        return tuple(
            each
            for each in reports
            if each.audience == made_for and each.segment in segments and each.notebook in notebooks
        )

    def fill(
        self, template: Template, *, segment: str, tables: Path, history: Path | None = None, audience: str = ""
    ) -> dict[str, Any]:
        """Give the parameters of one notebook for one segment, with paths as the notebooks folder sees them.

        Args:
            template: The notebook.
            segment: Its segment.
            tables: The folder for its results.
            history: The file of earlier alerts, for a notebook that raises alerts.
            audience: Whom the report is for; "" for whoever runs it.
        """
        start, end = self.period
        of_some = {
            "fewest": self.run_file.audiences[audience].fewest if audience else 0,
            "rules": list(self.run_file.alerts.rules),
            "history": _relate(history, self.notebooks.folder) if history else "",
        }
        return {
            **{name: self._see(getattr(self.run_file, name)) for name in SOURCES},
            "engine": self.run_file.engine,
            "segment": segment,
            "start": start.isoformat(),
            "end": end.isoformat(),
            "output": _relate(tables, self.notebooks.folder),
            **{name: value for name, value in of_some.items() if name in template.parameters},
            **self.notebooks.parameters[template.name],
        }

    def _see(self, value: str) -> str:
        if not self.run_file.is_relative(value):
            return value
        return _relate(Path(self.run_file.resolve(value)), self.notebooks.folder)


def prepare_run(path: str | Path, *, period: Days | None = None, now: dt.datetime | None = None) -> Preparation:
    """Check all that a run needs and read its log, without running any notebook.

    Args:
        path: The run file.
        period: First and last day of entries; None for the run file's.
        now: The time that `fresh` is measured to, with its zone; None for the clock's.

    Returns:
        What the run will make.

    Raises:
        RunError: The run file, plan, segments, data, period or parameters are wrong; every problem is listed.
    """
    run_file = read_run_file(path)
    checks = Checks()
    notebooks = checks.attempt(_choose_notebooks, run_file)
    plan = checks.attempt(read_plan, run_file.resolve(run_file.plan))
    notebooks = checks.attempt(_list_experiments, run_file, notebooks, plan) if notebooks and plan else notebooks
    segments = checks.attempt(_read_segments, run_file)
    channels = checks.attempt(_read_channels, run_file)
    checks.attempt(check_delivery, run_file)
    log = checks.attempt(_read_log, run_file, plan, segments) if plan and segments else None
    if notebooks and plan and log:
        notebooks = checks.attempt(_check_experiments, run_file, notebooks, plan, log)
    if log:
        checks.attempt(run_file.check_fresh, log.last, now=now or dt.datetime.now(dt.UTC))
    period = checks.attempt(_choose_period, run_file, log, period) if log else None
    names = checks.attempt(_choose_segments, run_file, log.between(*period) if period else log) if log else None
    if notebooks and plan:
        checks.attempt(_check_audiences, run_file, plan, notebooks)
        checks.attempt(_check_fewest, run_file, notebooks)
    if log and names:
        checks.attempt(_check_values, run_file, log)
    if checks.problems or not (notebooks and plan and log and names and period and channels is not None):
        raise RunError(*checks.problems)
    preparation = Preparation(run_file, notebooks, plan, log, names, period, channels)
    for template in notebooks.templates:
        checks.attempt(_check_analysis, preparation, template)
    if checks.problems:
        raise RunError(*checks.problems)
    return preparation


class Checks:
    """Goes on after a problem, so that all of them are told at once."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def attempt(self, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Do a check, and keep what it raises."""
        try:
            return check(*args, **kwargs)
        except ConvlibError as error:
            self.problems += [problem for problem in error.problems if problem not in self.problems]
        return None


def _choose_notebooks(run_file: RunFile) -> Notebooks:
    folder = find_notebooks_folder(run_file.folder)
    templates = read_templates(folder)
    wanted = {name: own or {} for name, own in (run_file.notebooks or dict.fromkeys(templates)).items()}
    chosen = [templates[name] for name in wanted if name in templates]
    problems = [
        f"{run_file.locate('notebooks', name)}: {FOLDER}/ has no notebook {name!r}.{did_you_mean(name, templates)}"
        for name in wanted
        if name not in templates
    ]
    # A parameter that only notebooks have which don't run is no mistake.
    problems += _check_shared(run_file, [*templates.values(), *chosen])
    problems += [problem for template in chosen for problem in _check_own(run_file, template, wanted[template.name])]
    if problems:
        raise RunError(*problems)
    shared = run_file.period.calendar | run_file.parameters
    parameters = {t.name: {n: v for n, v in shared.items() if n in t.parameters} | wanted[t.name] for t in chosen}
    return Notebooks(folder, tuple(chosen), parameters)


def _list_experiments(run_file: RunFile, notebooks: Notebooks, plan: Plan) -> Notebooks:
    """Make of a notebook about one experiment one for each that the run file names, else for each of the plan."""
    checks = Checks()
    templates: list[Template] = []
    parameters: dict[str, Mapping[str, Any]] = {}
    for template in notebooks.templates:
        own = notebooks.parameters[template.name]
        if EXPERIMENT not in template.parameters:
            templates.append(template)
            parameters[template.name] = own
            continue
        given = own.get(EXPERIMENT) or [each.id for each in plan.experiments]
        for wanted in dict.fromkeys([given] if isinstance(given, str) else given):
            if found := checks.attempt(_find_experiment, run_file, plan, template, wanted):
                name = f"{template.name}_{found.id}"
                templates.append(replace(template, name=name, title=f"{template.title}: {found.name}"))
                parameters[name] = {**own, EXPERIMENT: found.id}
    if not templates and not checks.problems:
        checks.problems.append(f"{run_file.locate('notebooks')}: the plan has no `experiments` to report on. Add one.")
    if checks.problems:
        raise RunError(*checks.problems)
    return Notebooks(notebooks.folder, tuple(templates), parameters)


def _find_experiment(run_file: RunFile, plan: Plan, template: Template, wanted: str) -> PlannedExperiment:
    try:
        return plan.find_experiment(wanted)
    except ConvlibError as error:
        own = (run_file.notebooks or {}).get(template.name) or {}
        place = ("notebooks", template.name) if EXPERIMENT in own else ("parameters",)
        where = run_file.locate(*place, EXPERIMENT)
        raise RunError(*(f"{where}: {problem}" for problem in error.problems)) from None


def _check_experiments(run_file: RunFile, notebooks: Notebooks, plan: Plan, log: EventLog) -> Notebooks:
    """Leave out the experiments that begin after the end of the data; the log must have what the others read."""
    checks = Checks()
    chosen: list[Template] = []
    left_out: list[str] = []
    for template in notebooks.templates:
        own = {**template.parameters, **notebooks.parameters[template.name]}
        planned = plan.find_experiment(own[EXPERIMENT]) if EXPERIMENT in own else None
        seen = checks.attempt(_set_timezone, run_file, log, own) if planned else None
        if planned and seen and planned.start > find_day(seen.last, seen.timezone):
            begins = f"the experiment begins on {planned.start}, after the end of the data"
            left_out.append(f"{template.name} is left out: {begins}.")
            continue
        if planned and seen:
            checks.attempt(check_experiment, seen, plan, planned)
        chosen.append(template)
    if checks.problems:
        raise RunError(*checks.problems)
    return replace(notebooks, templates=tuple(chosen), left_out=tuple(left_out))


def _set_timezone(run_file: RunFile, log: EventLog, own: Mapping[str, Any]) -> EventLog:
    try:
        return log.between(timezone=own.get("timezone") or None)
    except ConvlibError as error:
        raise RunError(*(f"{run_file.path}: {problem}" for problem in error.problems)) from None


def _check_shared(run_file: RunFile, templates: Iterable[Template]) -> list[str]:
    """Check the parameters for all notebooks: one in the folder has each, and its value is of the right kind."""
    defaults = {name: value for template in templates for name, value in template.parameters.items()}
    return _check_parameters(run_file, run_file.parameters, defaults, "the notebooks have", ("parameters",))


def _check_own(run_file: RunFile, template: Template, own: Mapping[str, Any]) -> list[str]:
    place = ("notebooks", template.name)
    return _check_parameters(run_file, own, template.parameters, f"{template.name} has", place)


def _check_parameters(
    run_file: RunFile, given: Mapping[str, Any], defaults: Mapping[str, Any], owner: str, place: tuple[str, ...]
) -> list[str]:
    problems = check_names(given, defaults, owner=owner)
    misnamed = {name for name, _ in problems}
    for name, value in given.items():
        each = value if name == EXPERIMENT and isinstance(value, list) else [value]
        wrong = [check_value(item, defaults[name]) for item in each] if name not in misnamed else []
        of = f" of {place[1]}" if len(place) > 1 else ""
        problems += [(name, f"parameter `{name}`{of} {problem}") for problem in wrong if problem]
    return [f"{run_file.locate(*place, name)}: {problem}" for name, problem in problems]


def _read_segments(run_file: RunFile) -> dict[str, Segment]:
    path = run_file.resolve(run_file.segments)
    return read_segments(path) if path else {"all": Segment("all")}


def _read_channels(run_file: RunFile) -> tuple[Channel, ...]:
    names = run_file.alerts.notify
    problems = {name: find_channel_problem(name) for name in names}
    if any(problems.values()):
        places = {name: run_file.locate("alerts", "notify", number) for number, name in enumerate(names)}
        raise RunError(*(f"{places[name]}: {problem}" for name, problem in problems.items() if problem))
    return read_channels(names)


def _read_log(run_file: RunFile, plan: Plan, segments: Mapping[str, Segment]) -> EventLog:
    mapping = run_file.resolve(run_file.mapping) or None
    events = run_file.resolve(run_file.events)
    return read_events(events, plan=plan, segments=segments, mapping=mapping, engine=run_file.engine)


def _choose_segments(run_file: RunFile, log: EventLog) -> dict[str, str]:
    checks = Checks()
    wanted = log.segments if run_file.run_segments is None else run_file.run_segments
    names = [checks.attempt(_expand_segment, run_file, log, number, name) for number, name in enumerate(wanted)]
    if checks.problems:
        raise RunError(*checks.problems)
    return name_folders(name for each in names for name in each or ())


def _expand_segment(run_file: RunFile, log: EventLog, number: int, name: str) -> list[str]:
    where = run_file.locate("run_segments", number)
    segment = log.segments.get(name.partition("=")[0])
    if segment is None:
        known = f"The segments are {quote_names(log.segments)}."
        raise RunError(f"{where}: There is no segment `{name}`.{did_you_mean(name, log.segments)} {known}")
    if problems := find_lacking(log, segment, log.columns):
        raise RunError(*problems)
    try:
        names = log.expand_segments([name])
        for each in names:
            log.segment(each)
        return names
    except ConvlibError as error:
        place = where if "=" in name else segment.place
        raise RunError(*(f"{place}: {problem}" for problem in error.problems)) from None


def find_lacking(log: EventLog, segment: Segment, columns: Iterable[str]) -> list[str]:
    """Say which columns a segment reads that are not among some."""
    return [
        f"{segment.place}: the segment `{segment.name}` reads the column `{column}`, which the log does not "
        f"have.{word_columns(column, log.prepared.given)}"
        for column in segment.columns
        if column not in columns
    ]


def _check_audiences(run_file: RunFile, plan: Plan, notebooks: Notebooks) -> None:
    if problems := check_audiences(run_file, plan, notebooks):
        raise RunError(*problems)


def _check_fewest(run_file: RunFile, notebooks: Notebooks) -> None:
    """Refuse to show stakeholders what a notebook that knows nothing of small numbers would show."""
    if STAKEHOLDER not in run_file.audiences:
        return
    where = run_file.locate("audiences", STAKEHOLDER)
    chosen = _choose_templates(notebooks, run_file.audiences[STAKEHOLDER])
    lacking = dict.fromkeys(each.path.name for each in chosen if "fewest" not in each.parameters)
    if lacking:
        raise RunError(
            *(
                f"{where}: the stakeholder gets the notebook {FOLDER}/{name}, which would show small numbers: its "
                "parameters cell lacks `fewest`. Add `fewest: int = 0` there and give it to check_parameters, or name "
                "the stakeholder's `notebooks` without it."
                for name in lacking
            )
        )


def _check_values(run_file: RunFile, log: EventLog) -> None:
    """Find the values in audiences' segments (`device=mobile`) that no segment of the run has, whatever the period."""
    named = [
        (key, number, name)
        for key, audience in run_file.audiences.items()
        for number, name in enumerate(audience.segments or ())
        if "=" in name
    ]
    if not named:
        return
    known = log.expand_segments(None if run_file.run_segments is None else list(run_file.run_segments))
    columns = {each.partition("=")[0] for each in known}
    problems = [
        f"{run_file.locate('audiences', key, 'segments', number)}: the run has no segment "
        f"{name!r}.{did_you_mean(name, known)}"
        for key, number, name in named
        # A name that is no segment at all is told by `check_audiences`.
        if name not in known and name.partition("=")[0] in columns
    ]
    if problems:
        raise RunError(*problems)


def _choose_templates(notebooks: Notebooks, audience: Audience) -> tuple[Template, ...]:
    """Choose the notebooks that an audience names; one about experiments is several reports with one name."""
    return tuple(each for each in notebooks.templates if _is_named(audience.notebooks, each.name, each.path.stem))


def _is_named(names: tuple[str, ...] | None, *any_of: str) -> bool:
    return names is None or not set(names).isdisjoint(any_of)


def _choose_period(run_file: RunFile, log: EventLog, period: Days | None) -> Days:
    start, end = period or run_file.period.resolve(first=log.first, last=log.last)
    where = "--period" if period else run_file.locate("period")
    problem = f"{where}: `period` is {start} to {end}, in which the log has no event; it has events "
    problem += f"from {log.first.date()} to {log.last.date()}. Choose days among these."
    if end < log.first.date() or start > log.last.date() or log.between(start, end).entries().empty:
        raise RunError(problem)
    return start, end


def _check_analysis(preparation: Preparation, template: Template) -> None:
    """Check a notebook's parameters as its own first cell does, for a first segment that stands for all."""
    run_file, (start, end) = preparation.run_file, preparation.period
    places = {name: run_file.resolve(getattr(run_file, name)) for name in SOURCES}
    own = {**template.parameters, **preparation.notebooks.parameters[template.name]}
    places["engine"] = run_file.engine
    of_run = {"segment": next(iter(preparation.segments)), "start": f"{start}", "end": f"{end}", "output": "", **places}
    try:
        # A notebook of one's own may have parameters that no analysis takes.
        check_parameters(**{name: value for name, value in own.items() if name in ANALYSIS} | of_run)
    except ConvlibError as error:
        raise RunError(*(_place_problem(run_file, template, problem) for problem in error.problems)) from None
    if has_clock(own) and not own["entry"]:
        check_clock(preparation, preparation.plan.find_macro(own["macro"]))


def _place_problem(run_file: RunFile, template: Template, problem: str) -> str:
    """Put before what is wrong with a parameter where its value stands."""
    name, notebook = problem.split("`")[1] if problem.startswith("`") else "", template.path.stem
    if name in ((run_file.notebooks or {}).get(notebook) or {}):
        return f"{run_file.locate('notebooks', notebook, name)}: in {notebook}, {problem}"
    if name in run_file.parameters:
        return f"{run_file.locate('parameters', name)}: {problem}"
    if name in template.parameters and name not in OWN_PARAMETERS:
        own = f"That is the notebook's own value; give `{name}` in the run file."
        return f"{run_file.locate('notebooks', notebook)}: in {notebook}, {problem} {own}"
    return f"{run_file.path}: {problem}"


def has_clock(own: Mapping[str, Any]) -> bool:
    """Say whether a notebook's parameters start the clock of a correlation."""
    return {"macro", "entry", "exposure", "horizon"} <= own.keys()


def check_clock(preparation: Preparation, macro: Macro) -> None:
    """Refuse an `entry` in the plan that is neither a conversion nor an event."""
    entry = (macro.correlation or Clock()).entry
    try:
        if entry:
            preparation.log.check_event(entry)
    except ConvlibError as error:
        where = preparation.plan.locate(macro.id, "correlation")
        raise PlanError(*(f"{where}: the `entry` of `{macro.id}`: {problem}" for problem in error.problems)) from None


def name_folders(names: Iterable[str]) -> dict[str, str]:
    """Give each segment a folder name of its own that is safe on any file system: `module=AAA` is `module-AAA`."""
    folders: dict[str, str] = {}
    # Beside the segments lie folders that are no segment's.
    taken = {AUDIENCES, PRIVATE}
    for name in names:
        folder = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:SLUG_LENGTH]
        if not folder or folder.casefold() in taken:
            folder = f"{folder}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")
        taken.add(folder.casefold())
        folders[name] = folder
    return folders


def _relate(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
