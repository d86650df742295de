"""How many times, and how soon: the number of a micro that goes best with the macro, judged on other units."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib import plots, stats, takeaways
from convlib.conversions import Ints, Step, gather
from convlib.documents import find_wrong_number
from convlib.durations import find_duration_problem, parse_duration
from convlib.errors import ParamError, list_problems
from convlib.events import EventLog, Unit, check_log, list_columns
from convlib.landmarks import DEFAULT_HORIZON, Design, check_followed, find_risk, follow
from convlib.lifts import FEWEST_CONVERTED, FEWEST_UNITS, score_micros
from convlib.measured import unknown_micro
from convlib.plan import Plan
from convlib.plan_entries import Clock, Macro
from convlib.redaction import check_shared
from convlib.results import Kind, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    *("count", "within", "units_with", "units_without", "converted_with", "converted_without", "rate_with"),
    *("rate_without", "lift", "lift_ci_lower", "lift_ci_upper", "phi", "chosen_in_folds", "note"),
)
MOST_FOLDS = 100


@dataclasses.dataclass(frozen=True)
class Threshold(Result):
    """The rule "so many times within such a time" that goes best with the macro, and what it is worth on other units.

    Attributes:
        macro: The macro-conversion.
        micro: The micro-conversion that is counted.
        count: So many times or more; 0 when no rule has enough units to be judged.
        within: Within such a time from the entry.
        horizon: How long after the longest time the macro counts.
        lift: Difference of conversion rates on units that had no part in the choice.
        lift_ci_lower: Lower end of its interval.
        lift_ci_upper: Upper end.
        held_out: How many units these are.
        units: Units at risk at the end of the longest time.
        pending: Units whose outcome window is not over.
        conversions_used: Mature converters that count, over all: who converts before the longest time does not.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("count", "Times or more", "count"),
        ("within", "Within", "text"),
        ("units_with", "Did it", "count"),
        ("rate_with", "Rate with", "percent"),
        ("units_without", "Did not", "count"),
        ("rate_without", "Rate without", "percent"),
        ("lift", "Lift, in sample", "points"),
        ("phi", "phi", "number"),
        ("chosen_in_folds", "Times chosen", "count"),
        ("note", "Note", "text"),
    )

    macro: str
    micro: str
    count: int
    within: str
    horizon: str
    lift: float
    lift_ci_lower: float
    lift_ci_upper: float
    held_out: int
    units: int
    pending: int
    conversions_used: float

    @property
    def apparent_lift(self) -> float:
        """Give the rule's difference on the units that it was chosen on; NaN without a rule."""
        rows = self.table[(self.table["count"] == self.count) & (self.table["within"] == self.within)]
        return float(rows["lift"].iloc[0]) if len(rows) else np.nan

    @property
    def optimism(self) -> float:
        """Say by how much the apparent lift flatters."""
        return self.apparent_lift - self.lift

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the lift of each number and time, with the units that reach it; the chosen one in bold."""
        chosen, micro, macro = (self.count, self.within), self.names[self.micro], self.names[self.macro]
        return plots.draw_thresholds(self.table, chosen, macro=macro, micro=micro, segment=self.segment, ax=ax)


def find_threshold(
    log: EventLog,
    plan: Plan,
    *,
    macro: str,
    micro: str,
    counts: Sequence[int] = (1, 2, 3, 5, 8),
    within: str | Sequence[str] = ("1D", "3D", "7D"),
    horizon: str = "",
    entry: str | None = None,
    unit: Unit = "user",
    folds: int = 10,
    confidence: float = stats.CONFIDENCE,
) -> Threshold:
    """Say from how many times, within which time, a micro-conversion goes best with the macro-conversion.

    All rules share one landmark, the longest time: the units at risk there, and their outcome, are those of
    `correlate`. The best rule has the largest phi. The best of many looks better than it is (Efron 1983), so units are
    divided into parts by a hash of their id, and each part is judged by the rule that is best in the parts before it,
    the whole choice anew (Varma and Simon 2006). Going forward through the parts, and not around, keeps the interval
    honest also where no rule is truly best (Luedtke and van der Laan 2016, Annals of Statistics 44:713).

    Args:
        log: The log, seen through a segment and a period of entries.
        plan: The plan.
        macro: Id of the macro-conversion.
        micro: Id of one of its micros.
        counts: So many times or more.
        within: Durations from the entry.
        horizon: How long after the longest of them the macro counts; empty takes the plan's, else 14 days.
        entry: Conversion or event that starts the clock; None takes the plan's, else the first event in the period.
        unit: What is counted.
        folds: Into how many parts units are divided, from 2 to 100.
        confidence: Level of the intervals.

    Returns:
        One row a rule: units and conversions with and without, rates, `lift` in sample with Newcombe's interval, `phi`,
        and how many parts it was chosen to judge. Rules with fewer than 30 units or 5 conversions on a side can't be
        chosen, and say so in `note`.

    Raises:
        ParamError: An argument is wrong; all are named at once.
        EventDataError: Nobody in the period has a complete window.
    """
    check_log(log)
    stats.check_confidence(confidence)
    check_shared(log.fewest, "`find_threshold` counts few units")
    log.check_plan(plan)
    times = list_columns(within)
    goal = _check_arguments(plan, macro, micro, counts, times, folds)
    clock = goal.correlation or Clock()
    entry, horizon = entry or clock.entry, horizon or clock.horizon or DEFAULT_HORIZON
    rules = [(count, time) for time in sorted(times, key=parse_duration) for count in sorted(set(counts))]
    design = Design((parse_duration(rules[-1][1]),), parse_duration(horizon, name="horizon"))
    columns = ["user_id"]  # a user's sessions lie in one part
    entries, followed = follow(log, goal, design, entry=entry, unit=unit, columns=columns, candidates=[])
    mature = followed.is_mature(design, design.landmarks[0])
    if not mature.any():
        check_followed(log, design, entry=entry, unit=unit)
    done = gather(log, [Step(micro)], codes=entries.index.to_numpy(np.int64), unit=unit)
    met = _meet(rules, done.unit, done.time - followed.start[done.unit], len(entries))
    risk = find_risk(followed, design, entries[[]])
    risk = dataclasses.replace(risk, exposed=met[risk.unit])
    parts = pd.util.hash_array(entries[columns[0]].to_numpy(object), categorize=False)[risk.unit] % folds
    tables = np.stack([_count_sides(risk.exposed[parts == n], risk.outcome[parts == n] > 0) for n in range(folds)])
    chosen, best = [_choose(before) for before in np.cumsum(tables, axis=0)[:-1]], _choose(tables.sum(axis=0))
    table = score_micros(risk, confidence=confidence)[0].assign(
        **pd.DataFrame(rules, columns=["count", "within"]),
        chosen_in_folds=[chosen.count(number) for number in range(len(rules))],
        note=pd.Series([_note(*sides) for sides in tables.sum(axis=0).T], dtype="str"),
    )
    found: dict[str, Any] = {
        **_judge_parts(tables[1:], chosen, confidence),
        "units": len(risk.unit),
        "pending": int((~mature).sum()),
        "conversions_used": float(
            stats.divide(risk.outcome.sum(), (mature & (followed.macro < design.follow_up)).sum())
        ),
    }
    titles = {each.id: each.name for each in (goal, *goal.micros)}
    words = {"macro": titles[macro], "micro": titles[micro], "landmark": rules[-1][1], "horizon": horizon}
    rule = table.iloc[best] if best >= 0 else None
    said = takeaways.word_threshold(rule, found, **words, segment=log.segment_name)
    count, time = rules[best] if best >= 0 else (0, "")
    return Threshold(table[list(COLUMNS)], said, log.segment_name, titles, macro, micro, count, time, horizon, **found)


def _check_arguments(
    plan: Plan, macro: str, micro: str, counts: Sequence[int], within: Sequence[str], folds: int
) -> Macro:
    problems = list_problems(lambda: plan.find_macro(macro))
    if not problems and micro not in (micros := [each.id for each in plan.find_macro(macro).micros]):
        problems.append(unknown_micro(micro, micros, macro=macro))
    if not isinstance(counts, Sequence) or not counts or not all(type(each) is int and each >= 1 for each in counts):
        problems.append(f"`counts` is {counts!r}; it must hold whole numbers from 1 on, such as (1, 2, 3).")
    faults = [(text, find_duration_problem(text)) for text in within or [""]]
    problems += [f"`within` has {text!r}; {fault}" for text, fault in faults if fault]
    problems += find_wrong_number("folds", folds, least=2, most=MOST_FOLDS)
    if problems:
        raise ParamError(*problems)
    return plan.find_macro(macro)


def _meet(rules: Sequence[tuple[int, str]], unit: Ints, since: Ints, units: int) -> NDArray[np.bool_]:
    """Say which units did it often enough, soon enough (units x rules)."""
    met = np.zeros((units, len(rules)), bool)
    for number, (count, time) in enumerate(rules):
        soon = (since >= 0) & (since < parse_duration(time))
        met[:, number] = np.bincount(unit[soon], minlength=units) >= count
    return met


def _count_sides(met: NDArray[np.bool_], converted: NDArray[np.bool_]) -> Ints:
    """Count by each rule the conversions and units with it, and those without it."""
    with_it = np.array([met[converted].sum(axis=0), met.sum(axis=0)])
    return np.concatenate([with_it, np.array([[converted.sum()], [len(converted)]]) - with_it])


def _choose(sides: Ints) -> int:
    """Give the rule with the largest phi of those with enough units; -1 when there is none."""
    hits, units, more, others = sides.astype(float)
    product = units * others * (hits + more) * (units + others - hits - more)
    phi = stats.divide(hits * others - more * units, np.sqrt(product))
    possible = np.array([not _note(*each) for each in sides.T]) & np.isfinite(phi)
    return int(np.argmax(np.where(possible, phi, -np.inf))) if possible.any() else -1


def _note(hits: int, units: int, more: int, others: int) -> str:
    for side, converted, count in (("with", hits, units), ("without", more, others)):
        if count < FEWEST_UNITS:
            return f"{count:,} units {side} it, needs {FEWEST_UNITS}"
        if converted < FEWEST_CONVERTED:
            return f"{converted:,} conversions {side} it, needs {FEWEST_CONVERTED}"
    return ""


def _judge_parts(tables: Ints, chosen: Sequence[int], confidence: float) -> dict[str, float]:
    """Judge each part by the rule chosen for it."""
    rule = np.asarray(chosen)
    hits, units, more, others = tables[np.arange(len(rule)), :, rule][rule >= 0].sum(axis=0)
    low, high = stats.newcombe_interval((hits, more), (units, others), confidence=confidence)
    lift = float(stats.divide(hits, units) - stats.divide(more, others))
    return {"lift": lift, "lift_ci_lower": low, "lift_ci_upper": high, "held_out": int(units + others)}
