"""Whether a change worked, and whether it hurt what pays: arms compared, guardrails judged, one decision."""

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from convlib import plots, stats, takeaways
from convlib.decisions import choose_arm, decide
from convlib.durations import parse_duration
from convlib.errors import EventDataError, ParamError
from convlib.events import EventLog, check_log
from convlib.measured import MeasuredEffect
from convlib.periods import find_day
from convlib.plan import Plan
from convlib.plan_entries import Direction
from convlib.plan_experiments import Margin, Minimum, PlannedExperiment
from convlib.readout import READ_OUT, Reading, tabulate_days, tabulate_factors, tabulate_metrics, tabulate_segments
from convlib.redaction import blank, find_small, measure_gaps
from convlib.results import MISSING, Kind, Result, Shown, Takeaways, find_kind, format_value, show_table
from convlib.samples import Sample, check_counts, check_experiment, read_sample
from convlib.unit_tables import UnitTable
from convlib.validity import check_validity, hide_effects

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Columns = tuple[tuple[str, str, Kind], ...]
#: In more groups nobody looks.
MOST_GROUPS = 50
EFFECTS: Columns = (
    ("conversion", "Metric", "text"),
    ("arm", "Arm", "text"),
    ("status", "Result", "text"),
    ("change", "Change", "text"),
    ("limit", "Limit", "text"),
    ("values", "Arm / control", "text"),
    ("counts", "Units", "text"),
    ("p_value", "p", "p_value"),
)
GROUPS: Columns = (
    ("group", "Group", "text"),
    ("arm", "Arm", "text"),
    ("conversion", "Metric", "text"),
    ("change", "Change", "text"),
    ("counts", "Units", "text"),
    ("q_value", "q", "p_value"),
    ("homogeneity_p_value", "p, same in all groups", "p_value"),
)
FACTORS: Columns = (
    ("effect_of", "Effect of", "text"),
    ("conversion", "Metric", "text"),
    ("change", "Difference", "text"),
    ("p_value", "p", "p_value"),
)
CHECKS: Columns = (("check", "Check", "text"), ("status", "Result", "text"), ("evidence", "Evidence", "text"))
ARMS: Columns = (
    ("arm", "Arm", "text"),
    ("decision", "Decision", "text"),
    ("rule", "Why", "text"),
    ("share", "Planned", "percent"),
    ("assigned", "Assigned", "count"),
    ("pending", "Pending", "count"),
    ("units", "Counted", "count"),
)


@dataclasses.dataclass(frozen=True)
class _Design:
    """How a sample is read."""

    name: str
    window: str
    running: bool
    minimum: Minimum
    confidence: float
    factors: Mapping[str, Sequence[str]]
    exposure_named: bool = False
    timezone: str = "UTC"
    end: dt.date | None = None
    days: int | None = None

    @property
    def reading(self) -> Reading:
        """How the arms are compared."""
        return Reading(running=self.running, planned=self.minimum.units, confidence=self.confidence)


@dataclasses.dataclass(frozen=True)
class Experiment(Result):
    """What an experiment's arms changed against the control, and what to do.

    Attributes:
        name: The experiment's name.
        decision: `ship`, `keep running`, `no effect`, `roll back` or `invalid`.
        arm: The arm to ship; empty if none.
        rule: Why, in a sentence.
        decisions: For each arm its `arm`, `decision` and `rule`.
        validity: What was checked before any result: `check`, `status`, `p_value`, `evidence`.
        assigned: For each arm its planned `share`, units `assigned`, `pending`, and `units` followed to the end.
        days: The effect on the primary metric by days since a unit was assigned.
        segments: The effect on the primary metric and the guardrails in each group.
        factors: Main effects and interactions, when the arms combine factors.
        reading: `running` (intervals that may be looked at every day) or `final` (fixed horizon, read once).
        measured: What the score of impact takes in an association's place; None while running or if not valid.
        dates: The first and last day of assignment; None when not known.
        window: How long each unit is followed.
        end: The planned last day of assignment; None when not known.
        confidence: Level of the intervals.
    """

    name: str
    decision: str
    arm: str
    rule: str
    decisions: pd.DataFrame
    validity: pd.DataFrame
    assigned: pd.DataFrame
    days: pd.DataFrame
    segments: pd.DataFrame
    factors: pd.DataFrame
    reading: str
    measured: MeasuredEffect | None
    dates: tuple[dt.date, dt.date] | None
    window: str
    end: dt.date | None
    confidence: float
    _titles: Mapping[tuple[str, str], str] = dataclasses.field(repr=False)

    @classmethod
    def from_units(
        cls,
        units: pd.DataFrame,
        *,
        arm: str,
        control: str | float,
        primary: str | tuple[str, str],
        guardrails: Mapping[str | tuple[str, str], float | Margin],
        metrics: Sequence[str | tuple[str, str]] = (),
        covariates: Mapping[str, str] | None = None,
        directions: Mapping[str, Direction] | None = None,
        shares: Mapping[Any, float] | None = None,
        unit: str | None = None,
        entered: str | None = None,
        segments: Sequence[str] = (),
        minimum_days: int = 14,
        minimum_units: int = 1000,
        running: bool = False,
        name: str = "Experiment",
        confidence: float = stats.CONFIDENCE,
    ) -> Self:
        """Read an experiment from a table with one row a unit, as many teams and public data sets have it.

        Args:
            units: The table; each unit must have been followed for an equal time.
            arm: The column that says which arm a unit is in.
            control: The control's value in it.
            primary: The column of the metric to move (1 or 0 for a rate, an amount for a mean a unit), or a pair
                (numerator, denominator) for a ratio such as ("clicks", "views").
            guardrails: For each column or pair that must not get worse, its margin: a share of the control's value, or
                a `Margin`.
            metrics: Further columns or pairs.
            covariates: For a column, the one that holds the same before the experiment (CUPED).
            directions: Which way is better, `up` or `down`, for columns where that is not up.
            shares: The planned share of each arm; None for equal ones.
            unit: The column that names the unit, so that one in two arms is found; None: each row is a unit.
            entered: The column with the time of assignment.
            segments: Columns, known at the assignment, to compare within.
            minimum_days: Days of assignment before which nothing is decided; needs `entered`.
            minimum_units: Units before which nothing is decided.
            running: Whether more units are to come: intervals may then be looked at every day.
            name: The experiment's name.
            confidence: Level of the intervals.

        Returns:
            As `analyse_experiment`; what a table can't tell (days in the window, exposure) is marked as not checked.

        Raises:
            ParamError: The arguments or columns don't fit together; every problem.
            EventDataError: An arm ran at another time, or values are negative.
        """
        stats.check_confidence(confidence)
        _check_lists(metrics=metrics, segments=segments)
        table = UnitTable(
            units=units,
            arm=arm,
            control=control,
            primary=primary,
            guardrails=guardrails,
            metrics=tuple(metrics),
            covariates=covariates or {},
            directions=directions or {},
            shares=shares,
            unit=unit,
            entered=entered,
            segments=tuple(segments),
            name=name,
        )
        minimum = Minimum.model_construct(days=minimum_days, units=minimum_units)
        design = _Design(
            name=name,
            window="",
            running=running,
            minimum=minimum,
            confidence=confidence,
            factors={},
            exposure_named=True,
        )
        return cls(**_conclude(table.read(), design, segment="all"))

    @property
    def named(self) -> pd.DataFrame:
        """Give the table with the metrics' names for people in place of the conversions' ids."""
        return _name(self.table, self._titles)

    def _repr_html_(self) -> str:
        saved = self.table["variance_reduction"].max()
        caption = takeaways.word_variance(saved) if np.isfinite(saved) else ""
        return show_table(self._write(self.table), EFFECTS, caption=caption) + self._show_factors()

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw how much the primary metric and the further ones changed in each arm."""
        return self._draw(("primary", "metric"), "What changed against the control?", ax)

    def plot_guardrails(self, ax: "Axes | None" = None) -> "Axes":
        """Draw how much the guardrails changed in each arm, against their margins."""
        return self._draw(("guardrail",), "Do the guardrails hold?", ax)

    def plot_days(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the effect on the primary metric by days since a unit was assigned."""
        first = self.named.iloc[0]
        kind = find_kind(first["metric"])
        return plots.draw_effect_days(
            self.days,
            name=first["conversion"],
            kind=kind,
            segment=self.segment,
            confidence=self.confidence,
            valid=self._is_valid,
            ax=ax,
        )

    def plot_segments(self, ax: "Axes | None" = None) -> "Axes":
        """Draw how much the primary metric changed in each group."""
        name = self.named.iloc[0]["conversion"]
        return plots.draw_effect_segments(
            self.segments,
            name=name,
            segment=self.segment,
            confidence=self.confidence,
            valid=self._is_valid,
            ax=ax,
        )

    def show_guardrails(self) -> Shown:
        """Show how each guardrail stands against its margin."""
        return Shown(self._write(self.table[self.table["role"] == "guardrail"]), EFFECTS)

    def show_arms(self) -> Shown:
        """Show each arm's decision, with the rule that decided, and its units."""
        return Shown(self.assigned.merge(self.decisions, on="arm", how="left"), ARMS)

    def show_validity(self) -> Shown:
        """Show what was checked before any result."""
        return Shown(self.validity, CHECKS)

    def show_segments(self) -> Shown:
        """Show the effects in each group; q controls for how many there are (Benjamini and Hochberg)."""
        groups = self.segments["column"].str.replace("_", " ") + ": " + self.segments["group"].astype("str")
        return Shown(self._write(self.segments.assign(group=groups)), GROUPS)

    @property
    def next_steps(self) -> Takeaways:
        """Say what follows from the decision."""
        until = None if self.end is None else self.end + _read_days(self.window)
        of_all = Takeaways(() if self.segment == "all" else (takeaways.DECIDE_BY_ALL,))
        return of_all + takeaways.word_experiment_steps(
            self.named,
            self.validity,
            self.decisions,
            decision=self.decision,
            arm=self.arm,
            rule=self.rule,
            control=self.assigned["arm"].iloc[0],
            reading=self.reading,
            until=until,
            in_groups=len(self.segments) > 0,
        )

    @property
    def _is_valid(self) -> bool:
        return self.decision != "invalid"

    def _draw(self, roles: Collection[str], title: str, ax: "Axes | None") -> "Axes":
        return plots.draw_effects(
            self.named[self.table["role"].isin(roles)],
            title=title,
            segment=self.segment,
            confidence=self.confidence,
            valid=self._is_valid,
            ax=ax,
        )

    def _show_factors(self) -> str:
        known = len(self.factors) > 0
        return show_table(self._write(self.factors), FACTORS, caption=takeaways.FACTORS) if known else ""

    def _write(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Write values, changes and limits as texts, each in its metric's unit; leave out columns that say nothing."""
        # An interval stays on one line.
        changes = [takeaways.word_effect(row).replace(" to ", "\u00a0to\u00a0") for _, row in rows.iterrows()]
        texts: dict[str, list[str]] = {"change": changes}
        if "units" in rows:
            counts = zip(rows["units"], rows["units_control"], strict=True)
            pairs = zip(*(takeaways.word_values(rows, name) for name in ("value", "value_control")), strict=True)
            texts["counts"] = [" / ".join(format_value(each, "count") for each in pair) for pair in counts]
            texts["values"] = [MISSING if set(pair) == {MISSING} else " / ".join(pair) for pair in pairs]
        if "status" in rows:
            texts["status"] = list(rows["status"].replace(takeaways.STATUSES))
            texts["limit"] = [takeaways.word_limit(row) for _, row in rows.iterrows()]
        needless = {"arm": rows["arm"].nunique() == 1} if "arm" in rows else {}
        needless |= {"p_value": bool(rows["p_value"].isna().all())}
        return _name(rows, self._titles).assign(**texts).drop(columns=[name for name, gone in needless.items() if gone])


def analyse_experiment(
    log: EventLog, plan: Plan, experiment: str, *, confidence: float = stats.CONFIDENCE
) -> Experiment:
    """Say whether an experiment of the plan worked, and whether it hurt what pays.

    Units are compared as assigned, by their first arm (intent to treat), over `window` from their assignment; those
    whose window is not over are pending. docs/experiments.md defines metrics, intervals, checks and decisions.

    Args:
        log: The log; of its period nothing is used, since the experiment has days of its own.
        plan: The plan by which the log was prepared.
        experiment: The id of the experiment in the plan.
        confidence: Level of the intervals.

    Returns:
        One row for each arm but the control, and metric: `role` (`primary`, `guardrail`, `metric`), `units` of the arm
        and `units_control`, `value` and `value_control` (a share, a mean a unit, or a ratio; adjusted by the pre-period
        when the plan names one), `effect` (their difference), `relative_effect` (as a share of the control's value),
        `p_value` (two-sided, of no effect), `margin` (of a guardrail: the relative change that is tolerated, with its
        sign; `margin_absolute` where the plan gives an amount), `variance_reduction` by the pre-period, `status`
        (`better`, `worse`, `no evidence`; of guardrails `within margin`, `worse`, `undecided`; `too few`, and `invalid`
        when a check failed). With several arms, intervals and p-values hold for all together.

    Raises:
        ParamError: There is no such experiment, the log lacks its columns, or the plan is another one.
        EventDataError: An arm has no units, arms ran at different times, amounts are negative or of several currencies.

    Source: Kohavi, Tang and Xu (2020), Trustworthy Online Controlled Experiments; decisions with guardrails as in
        Schultzberg, Ankargren and Frånberg (2024), arXiv:2402.11609.
    """
    check_log(log)
    log.check_plan(plan)
    stats.check_confidence(confidence)
    planned = plan.find_experiment(experiment)
    check_experiment(log, plan, planned)
    sample, design = _read(log, plan, planned, confidence)
    found = _conclude(sample, design, segment=log.segment_name)
    if log.fewest:
        found = _leave_out(found, sample, log.fewest)
    names = {each.conversion: plan[each.conversion].name for each in sample.measurements}
    measured = _measure_effect(sample, planned, found["validity"], found["arm"], running=design.running)
    return Experiment(**{**found, "names": names, "measured": measured, "fewest": log.fewest})


def _read(log: EventLog, plan: Plan, planned: PlannedExperiment, confidence: float) -> tuple[Sample, _Design]:
    """Read who was in which arm and did what, and say what was planned."""
    sample = read_sample(log, plan, planned)
    last = find_day(log.last, log.timezone)
    is_over = planned.end is not None and last >= planned.end + _read_days(planned.window)
    design = _Design(
        name=planned.name,
        window=planned.window,
        running=not is_over or bool(sample.pending.any()),
        minimum=planned.minimum,
        confidence=confidence,
        factors=planned.factors,
        exposure_named=planned.exposure is not None,
        timezone=log.timezone,
        end=planned.end,
        days=planned.days,
    )
    return sample, design


def _leave_out(found: dict[str, Any], sample: Sample, fewest: int) -> dict[str, Any]:
    """Leave out metrics that few units of an arm did or did not, days and groups, and what checks counted.

    What is decided is decided by all numbers.
    """
    assigned, table = found["assigned"].astype({"assigned": float, "pending": float, "units": float}), found["table"]
    if find_small(assigned[["assigned", "units"]], fewest=fewest).any():
        assigned = assigned.assign(assigned=np.nan, pending=np.nan, units=np.nan)
        table = table.assign(units=np.nan, units_control=np.nan)
    if find_small(assigned["pending"], fewest=fewest).any():
        assigned = assigned.assign(assigned=np.nan, pending=np.nan)
    hidden = table["metric"].isna()
    everyone = np.column_stack([np.asarray(each.numerator) != 0 for each in sample.measurements])
    gaps = np.array([measure_gaps(everyone[sample.arm == arm]) for arm in range(len(sample.arms))])
    for place, each in enumerate(sample.measurements):
        did = np.array([np.count_nonzero(each.numerator[sample.arm == arm]) for arm in range(len(sample.arms))])
        others = np.bincount(sample.arm, minlength=len(did)) - did
        small = find_small(np.column_stack([did, others, gaps[:, place]]), fewest=fewest)
        hidden |= (table["conversion"] == each.conversion) & (table["metric"] == each.metric) & bool(small.any())
    hidden |= assigned["units"].isna().any()
    numbers = [name for name in table if pd.api.types.is_float_dtype(table[name]) and "margin" not in name]
    table = table.assign(
        **blank(table, numbers, hidden), note=table["note"].mask(hidden, takeaways.word_left_out(fewest))
    )
    evidence = map(takeaways.word_check, found["validity"]["check"], found["validity"]["status"])
    validity = found["validity"].assign(evidence=list(evidence))
    decisions = found["decisions"]
    rules = decide(_name(table, found["_titles"]), validity, running=found["reading"] == "running").set_index("arm")[
        "rule"
    ]
    rule = rules[decisions.loc[decisions["rule"] == found["rule"], "arm"].iloc[0]]
    known = found | {
        "table": table,
        "assigned": assigned,
        "validity": validity,
        "decisions": decisions.assign(rule=decisions["arm"].map(rules)),
        "rule": rule,
        **{name: found[name].head(0) for name in ("days", "segments", "factors")},
    }
    if assigned["assigned"].isna().any():
        what = "How many units were assigned"
        nothing = takeaways.word_nothing_left(fewest, what=what, segment=found["segment"])
        return known | {"takeaways": Takeaways((nothing,))}
    words = (
        "decisions",
        "validity",
        "name",
        "decision",
        "arm",
        "rule",
        "reading",
        "dates",
        "window",
        "segment",
        "confidence",
    )
    said = takeaways.word_experiment_result(
        _name(table, found["_titles"]),
        arms=sample.arms,
        assigned=assigned.astype({"assigned": np.int64, "units": np.int64}),
        **{name: known[name] for name in words},
    )
    return known | {"takeaways": said}


def _check_lists(**given: Sequence[object]) -> None:
    problems = [
        f"`{name}` is {value!r}; it must be a list, such as [{value!r}]."
        for name, value in given.items()
        if isinstance(value, str)
    ]
    if problems:
        raise ParamError(*problems)


def measure_experiments(log: EventLog, plan: Plan, macro: str) -> list[MeasuredEffect]:
    """Collect what the plan's experiments caused, for `score_impact(..., measured=...)`.

    Args:
        log: The log; effects are those on everybody, whatever its segment.
        plan: The plan by which the log was prepared.
        macro: The macro-conversion that the experiments' micros lead to.

    Returns:
        For each micro the effect of the latest experiment that is over, valid and has it as its primary metric.
        Experiments that can't be analysed with this log are left out; `analyse_experiment` says why.
    """
    check_log(log)
    log.check_plan(plan)
    goal = plan.find_macro(macro)
    micros = {micro.id for micro in goal.micros}
    planned = [each for each in plan.experiments if each.primary.conversion in micros and each.end is not None]
    found: dict[str, MeasuredEffect] = {}
    for each in sorted(planned, key=lambda each: str(each.end)):
        with contextlib.suppress(ParamError, EventDataError):
            check_experiment(log.whole(), plan, each)
            sample, design = _read(log.whole(), plan, each, stats.CONFIDENCE)
            _, validity, _, chosen = _judge_arms(sample, design, segment="all")
            measured = _measure_effect(sample, each, validity, _name_shipped(chosen), running=design.running)
            found |= {measured.micro: measured} if measured else {}
    return list(found.values())


def _judge_arms(
    sample: Sample, design: _Design, *, segment: str
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.Series]:
    """Compare the arms and decide: the metrics, the checks, each arm's decision, and the one that holds."""
    _check_groups(sample)
    if not design.running and segment == "all":
        check_counts(sample, what=design.name)
    table = tabulate_metrics(sample, design.reading)
    validity = check_validity(
        sample,
        window=design.window,
        minimum_days=design.minimum.days,
        minimum_units=design.minimum.units if segment == "all" else None,
        exposure_named=design.exposure_named,
        running=design.running,
        planned_days=None if design.running else design.days,
        timezone=design.timezone,
    )
    decisions = decide(_name(table, _list_titles(sample)), validity, running=design.running)
    return table, validity, decisions, choose_arm(decisions, table)


def _list_titles(sample: Sample) -> dict[tuple[str, str], str]:
    return {(each.conversion, each.metric): each.name for each in sample.measurements}


def _name_shipped(chosen: pd.Series) -> str:
    return str(chosen["arm"]) if chosen["decision"] == "ship" else ""


def _conclude(sample: Sample, design: _Design, *, segment: str) -> dict[str, Any]:
    """Compare the arms and decide: the fields of an `Experiment`."""
    table, validity, decisions, chosen = _judge_arms(sample, design, segment=segment)
    titles = _list_titles(sample)
    parts = {
        "days": tabulate_days(sample, design.reading),
        "segments": tabulate_segments(sample, design.reading),
        "factors": tabulate_factors(sample, design.reading, design.factors),
    }
    if chosen["decision"] == "invalid":
        # What is not to be read is not shown.
        table = table.assign(status="invalid", **dict.fromkeys(READ_OUT, np.nan))
        parts = {name: part.head(0) for name, part in parts.items()}
        validity = hide_effects(validity)
    known: dict[str, Any] = {
        "name": design.name,
        "decision": str(chosen["decision"]),
        "arm": _name_shipped(chosen),
        "rule": str(chosen["rule"]),
        "decisions": decisions,
        "validity": validity,
        "assigned": _count_assigned(sample),
        "reading": "running" if design.running else "final",
        "dates": _find_dates(sample, design.timezone),
        "window": design.window,
        "segment": segment,
        "confidence": design.confidence,
    }
    return known | {
        "table": table,
        "takeaways": takeaways.word_experiment_result(
            _name(table, titles), arms=sample.arms, factors=_name(parts["factors"], titles), **known
        ),
        "names": {},
        **parts,
        "measured": None,
        "end": design.end,
        "_titles": titles,
    }


def _read_days(window: str) -> dt.timedelta:
    return dt.timedelta(microseconds=parse_duration(window))


def _check_groups(sample: Sample) -> None:
    sizes = {str(name): sample.segments[name].nunique() for name in sample.segments}
    problems = [
        f"The column {name!r} of `segments` has {size:,} values; at most {MOST_GROUPS} can be compared. Map "
        "it to fewer."
        for name, size in sizes.items()
        if size > MOST_GROUPS
    ]
    if problems:
        raise ParamError(*problems)


def _name(table: pd.DataFrame, titles: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """Put the metrics' names for people in the place of the conversions' ids."""
    pairs = zip(table["conversion"], table["metric"], strict=True)
    return table.assign(conversion=[titles[pair] for pair in pairs])


def _count_assigned(sample: Sample) -> pd.DataFrame:
    followed = np.bincount(sample.arm, minlength=len(sample.arms))
    columns = {"arm": sample.arms, "share": sample.shares, "assigned": sample.assigned, "pending": sample.pending}
    return pd.DataFrame({**columns, "units": followed})


def _find_dates(sample: Sample, timezone: str) -> tuple[dt.date, dt.date] | None:
    if sample.dates is None:
        return None
    ends = pd.to_datetime(list(sample.dates), unit="us")
    return find_day(ends[0], timezone), find_day(ends[1], timezone)


def _measure_effect(
    sample: Sample, planned: PlannedExperiment, validity: pd.DataFrame, arm: str, *, running: bool
) -> MeasuredEffect | None:
    """Give the effects on the shares of units that do the micro and the macro: of the arm that is shipped, or the only.

    Of several arms the one that moves the micro most would move it by chance more often than one alone. There is none
    while the experiment runs, when a check failed, or of other units than users.
    """
    if running or planned.unit != "user" or validity["status"].isin(["failed", "waiting"]).any():
        return None
    if sample.did is None or not (arm or len(sample.arms) == 2):
        return None
    sides = [np.stack(sample.did)[:, sample.arm == code] for code in (0, sample.arms.index(arm or sample.arms[1]))]
    effect = sides[1].mean(axis=1) - sides[0].mean(axis=1)
    spread = sum(np.cov(side) / side.shape[1] for side in sides)
    if not (np.diag(spread) > 0).all():
        return None
    errors = np.sqrt(np.diag(spread))
    return MeasuredEffect(
        micro=planned.primary.conversion,
        micro_effect=float(effect[0]),
        micro_error=float(errors[0]),
        macro_effect=float(effect[1]),
        macro_error=float(errors[1]),
        covariance=float(spread[0, 1]),
        name=planned.name,
    )
