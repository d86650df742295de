"""A notebook's parameters, checked once and all together before any data is read."""

import dataclasses
import datetime as dt
import hashlib
import html
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pandas as pd

from convlib.documents import did_you_mean, quote_names, word_columns
from convlib.durations import find_duration_problem
from convlib.elsewhere import EngineName
from convlib.errors import ConvlibError, EventDataError, ParamError
from convlib.events import EventLog, find_mapping, read_events
from convlib.files import write_bytes, write_text
from convlib.periods import Calendar, find_timezone_problems, read_day
from convlib.plan import Plan, read_plan
from convlib.plan_entries import Macro, Micro
from convlib.results import Result
from convlib.segments import Segment, read_segments
from convlib.sources import find_source
from convlib.spreadsheets import neutralise_table
from convlib.takeaways import word_fewest, word_provenance, word_reasons, word_rows

T = TypeVar("T")
#: What a plan says about an entry that changes none of its numbers.
UNMEASURED = {
    *("name", "owner", "notes", "actions", "benchmark", "stage", "touchpoint", "ux_outcome", "data_source", "effort"),
    *("micros", "metrics", "hypothesis"),
}
ANALYSIS = (
    *("macro", "steps", "window", "horizon", "exposure", "every", "week_start", "lag", "entry", "by", "adjust"),
    *("properties", "rules", "history", "experiment"),
)


@dataclasses.dataclass(frozen=True)
class Parameters:
    """What a notebook needs to begin: the plan, and the log through its segment and period.

    Attributes:
        plan: The measurement plan.
        log: The log, with the segment and the period of entries applied.
        output: Folder for the results' tables; None when nothing is to be written.
        analysis: What the analyses take, as it was given.
    """

    plan: Plan
    log: EventLog
    output: Path | None
    analysis: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def save(self, **results: Result) -> None:
        """Write each result's table as CSV and Parquet, and all takeaways, when the notebook has an `output` folder.

        Texts that a spreadsheet would run as formulas get an apostrophe in the CSV; Parquet keeps them as they are.
        """
        if self.output is None:
            return
        for name, result in results.items():
            write_text(self.output / f"{name}.csv", neutralise_table(result.table).to_csv(index=False))
            write_bytes(self.output / f"{name}.parquet", result.table.to_parquet(index=False))
        said = [sentence for result in results.values() for sentence in result.takeaways]
        log = self.log
        measured = {**self.analysis, "population": f"{log.rule} {log.row_rule} {log.timezone} {self.plan.leave_out}"}
        known = {"parameters": measured, "entries": _describe_entries(self.plan)}
        told = {"segment": log.segment_name, "takeaways": said, **known}
        text = json.dumps(told, ensure_ascii=False, indent=1, default=str)
        write_text(self.output / "takeaways.json", text)

    def _repr_html_(self) -> str:
        log = self.log
        shared = log.fewest > 0
        sentence = word_provenance(
            log.prepared.source,
            segment=log.segment_name,
            period=log.period,
            rows=word_rows(
                {"used": log.row_counts["used"]} if shared else log.row_counts,
                rejected_because={} if shared else log.rejected_because,
                left_out_because={} if shared else log.left_out_because,
            ),
            identities=0 if shared else log.prepared.identities,
            fingerprint=log.fingerprint,
            end=log.last,
            timezone=log.timezone,
        )
        sentence += f" {word_fewest(log.fewest)}" if shared else ""
        return f'<p class="provenance">{html.escape(sentence)}</p>'


def check_parameters(
    *,
    events: str | Path | pd.DataFrame,
    plan: str | Path,
    segments: str | Path = "",
    segment: str = "all",
    start: dt.date | str = "",
    end: dt.date | str = "",
    output: str | Path = "",
    mapping: str | Path = "",
    engine: EngineName = "duckdb",
    timezone: str = "UTC",
    fewest: int = 0,
    **analysis: object,
) -> Parameters:
    """Check a notebook's parameters together, then read the log and check the names that only it can tell.

    Args:
        events: The log: a file, a folder, a glob, `dataset:NAME`, or a DataFrame.
        plan: The measurement plan's file.
        segments: The segments' file; empty knows only `all`.
        segment: Name of a segment, or `NAME=VALUE` for one value of a `by` segment.
        start: First day of entries, YYYY-MM-DD, included; empty is the log's first.
        end: Last day of entries, YYYY-MM-DD, included; empty is the log's last.
        output: Folder for the results' tables; empty writes nothing.
        mapping: How the log's columns become the canonical ones: a preset such as `ga4`, or a YAML file; empty takes
            them as they are.
        engine: Where funnels are counted: `duckdb`, here; `ibis` or `spark`, where the events are.
        timezone: Zone in which days, weeks and months begin and end, by its IANA name.
        fewest: Results leave out numbers of fewer units than this, and what would reveal one; 0 leaves out nothing.
        analysis: What the analyses of the notebook take: `macro`, `steps`, `window`, `horizon`, `exposure`, `every`,
            `week_start`, `lag`, `entry`, `by`, `adjust`, `properties`, `rules`, `history`, `experiment`.

    Returns:
        The plan and the log, ready to use.

    Raises:
        ParamError: One or more parameters are wrong.
        EventDataError: The log can't be read, or none of the plan's macros happens in it.
    """
    problems = [
        f"`{name}` is not a parameter of any analysis; they are {quote_names(ANALYSIS)}.{did_you_mean(name, ANALYSIS)}"
        for name in analysis
        if name not in ANALYSIS
    ]
    found_plan = _collect(problems, lambda: read_plan(plan))
    found_segments = _collect(problems, lambda: read_segments(segments) if segments else {"all": Segment("all")})
    how = _collect(problems, lambda: find_mapping(mapping or None))
    if engine == "duckdb":
        _collect(problems, lambda: find_source(events))
    problems += _find_dates(start, end) + find_timezone_problems(timezone) + _find_fewest(fewest)
    problems += _find_output(output)
    problems += _find_analysis(analysis, found_plan)
    if found_segments is not None:
        problems += _find_segment(segment, found_segments)
    if problems or found_plan is None:
        raise ParamError(*problems)
    log = read_events(events, plan=found_plan, segments=found_segments, mapping=how, engine=engine)
    _check_names(log, analysis)
    _check_macros(log, found_plan)
    chosen = log.segment(segment).between(start, end, timezone=timezone)
    chosen = dataclasses.replace(chosen, fewest=fewest)
    return Parameters(found_plan, chosen, Path(output) if output else None, analysis)


def _describe_entries(plan: Plan) -> dict[str, dict[str, object]]:
    """Name each entry of the plan and fingerprint how it is measured, so that runs compare like with like."""
    entries: dict[str, dict[str, object]] = {}
    for each in (*plan.conversions, *plan.experiments):
        content = json.dumps(each.model_dump(mode="json", exclude=UNMEASURED), sort_keys=True)
        metrics = {
            str(measure.metric): {"name": measure.name, "direction": measure.direction}
            for measure in (each.measures if isinstance(each, Macro | Micro) else ())
        }
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        entries[each.id] = {"name": each.name, "metrics": metrics, "definition": digest}
    return entries


def _collect(problems: list[str], read: Callable[[], T], *, prefix: str = "") -> T | None:
    try:
        return read()
    except ConvlibError as error:
        problems.extend(prefix + problem for problem in error.problems)
        return None


def _find_dates(start: dt.date | str, end: dt.date | str) -> list[str]:
    problems: list[str] = []
    days = []
    for name, text in (("start", start), ("end", end)):
        days.append(_collect(problems, partial(read_day, text, name=name)) if text else None)
    if not problems and days[0] and days[1] and days[1] < days[0]:
        problems.append(f"`end` {end} is before `start` {start}; swap them.")
    return problems


def _find_fewest(fewest: object) -> list[str]:
    if isinstance(fewest, int) and not isinstance(fewest, bool) and fewest >= 0 and fewest != 1:
        return []
    return [f"`fewest` is {fewest!r}; it must be a whole number, at least 2, or 0 to leave out nothing."]


def _find_output(output: object) -> list[str]:
    if isinstance(output, str | Path):
        return []
    return [f"`output` is {output!r}; it must be the path of a folder, or empty to write nothing."]


def _find_analysis(analysis: dict[str, object], plan: Plan | None) -> list[str]:
    """Check the analyses' parameters by name; an empty text means "not given"."""
    problems: list[str] = []
    for name in ("window", "horizon", "exposure", "lag"):
        for text in _texts(analysis.get(name)):
            problem = None if text == "auto" and name == "exposure" else find_duration_problem(text)
            if problem:
                problems.append(f"`{name}` is {text!r}; {problem}")
    named = {name: str(analysis[name]) for name in ("every", "week_start") if analysis.get(name)}
    _collect(problems, lambda: Calendar(**named))
    macro = analysis.get("macro")
    if plan and macro:
        _collect(problems, lambda: plan.find_macro(str(macro)))
    experiment = analysis.get("experiment")
    if plan and experiment:
        _collect(problems, lambda: plan.find_experiment(str(experiment)))
    if "steps" in analysis and len(_texts(analysis["steps"])) < 2:
        problems.append(f"`steps` is {analysis['steps']!r}; a funnel needs at least two.")
    return problems


def _find_segment(segment: str, segments: dict[str, Segment]) -> list[str]:
    name, is_value, _ = str(segment).partition("=")
    if name not in segments or (is_value and not segments[name].by):
        return [f"`segment` is {segment!r}; the segments are {quote_names(segments)}.{did_you_mean(name, segments)}"]
    if segments[name].by and not is_value:
        return [
            f"`segment` is {segment!r}, which stands for one segment a value of `{segments[name].by}`; write "
            f"{segment}=VALUE."
        ]
    return []


def _check_names(log: EventLog, analysis: dict[str, object]) -> None:
    """Check what only the log can tell: its events and its columns."""
    problems: list[str] = []
    for name in ("steps", "entry"):
        for event in _texts(analysis.get(name)):
            _collect(problems, partial(log.stream, event), prefix=f"`{name}`: ")
    problems += [
        f"`{name}` names the column `{column}`, which the log does not have.{word_columns(column, log.prepared.given)}"
        for name in ("by", "adjust", "properties")
        for column in _texts(analysis.get(name))
        if column not in log.columns
    ]
    if problems:
        raise ParamError(*problems)


def _check_macros(log: EventLog, plan: Plan) -> None:
    found = set(log.count("conversions", "conversion")["conversion"])
    if not found & {macro.id for macro in plan.macros}:
        frequent = ", ".join(log.count("events", "event_name")["event_name"].head(10))
        places = "; ".join(f"{plan.locate(macro.id)}: `{macro.id}` matches {macro.match}" for macro in plan.macros)
        msg = (
            f"None of the plan's macro-conversions happens in the log. {places}. The log's most frequent "
            f"events are {frequent}; {log.rows_rejected:,} rows were rejected{word_reasons(log.rejected_because)}."
        )
        raise EventDataError(msg)


def _texts(value: object) -> Sequence[str]:
    if not value:
        return []
    return [str(each) for each in value] if isinstance(value, Sequence) and not isinstance(value, str) else [str(value)]
