"""Which touches get the credit for the macro-conversions that came after them, by seven models side by side."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib import plots, stats, takeaways
from convlib.canonical import NO_VALUE
from convlib.columns import read_numbers, read_texts
from convlib.conversions import Ints, Step, gather, microseconds
from convlib.credit import (
    MODELS,
    Floats,
    Journeys,
    Model,
    Sums,
    draw_credit,
    find_journeys,
    prepare_model,
    share_credit,
)
from convlib.documents import did_you_mean, find_wrong_choice, find_wrong_number
from convlib.durations import parse_duration
from convlib.engine import quote
from convlib.errors import EventDataError, ParamError, check_made, list_problems
from convlib.events import UNITS, EventLog, Unit, check_log
from convlib.plan import Plan
from convlib.plan_entries import Macro
from convlib.redaction import check_shared
from convlib.results import Kind, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "touch",
    "model",
    "touches",
    "units",
    "conversions",
    "conversions_ci_lower",
    "conversions_ci_upper",
    "share",
    "value",
    "value_ci_lower",
    "value_ci_upper",
    "seconds_to_conversion_p25",
    "seconds_to_conversion_p50",
    "seconds_to_conversion_p75",
    "note",
)
#: `touch` for the plan's micros, and the row of conversions without a touch.
MICRO, NO_TOUCH = "micro", "(no touch)"
#: Intervals and learnt models need so many paths with a touch that convert.
FEWEST_PATHS = 30
#: A set of touches is a number of as many bits.
MOST_TOUCHES = 60
MOST_ORDER, FEWEST_DRAWS, MOST_DRAWS = 3, 100, 10_000
QUANTILES = (25, 50, 75)


@dataclasses.dataclass(frozen=True)
class Attribution(Result):
    """The credit of each touch for the macro-conversions, by one model, and by all of them.

    Attributes:
        macro: The macro-conversion.
        model: The model of `table`.
        touch: What counts as a touch: `micro`, or the column whose value each session brings.
        window: How long before the macro a touch still counts.
        conversions: How many macro-conversions are credited.
        converting: Paths with a touch that end in the macro.
        unconverted: Paths whose window is over without it.
        pending: Paths without it whose window is not over; they are in nothing else.
        comparison: Conversions credited to each touch by each of the seven models.
        confidence: Level of the intervals.
    """

    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = (
        ("touch", "Touch", "text"),
        ("conversions", "Conversions credited", "number"),
        ("share", "Of all", "percent"),
        ("value", "Value credited", "number"),
        ("touches", "Touches before one", "count"),
        ("units", "Units", "count"),
        ("seconds_to_conversion_p50", "Median time to conversion", "seconds"),
        ("note", "Note", "text"),
    )

    macro: str
    model: Model
    touch: str
    window: str
    conversions: int
    converting: int
    unconverted: int
    pending: int
    comparison: pd.DataFrame
    confidence: float

    @property
    def named(self) -> pd.DataFrame:
        """Give the table with names for people in place of the touches' ids."""
        return self.table.assign(touch=self.table["touch"].replace(self.names))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the conversions credited to each touch with their intervals."""
        macro, model = self.names[self.macro], takeaways.MODEL_NAMES[self.model]
        return plots.draw_credit(self.named, macro=macro, model=model, segment=self.segment, ax=ax)

    def plot_models(self, ax: "Axes | None" = None) -> "Axes":
        """Draw what each model credits to each touch."""
        table = self.comparison.assign(touch=self.comparison["touch"].replace(self.names))
        table = table.rename(columns=takeaways.MODEL_NAMES)
        return plots.draw_models(table, macro=self.names[self.macro], segment=self.segment, ax=ax)


#: Unit, time, kind (the macro's is the last) and value of touches and macros, in order of unit, time and kind.
_Rows = tuple[Ints, Ints, Ints, Floats]


def attribute(
    log: EventLog,
    plan: Plan,
    *,
    macro: str,
    window: str = "30D",
    model: Model = "markov",
    touch: str = MICRO,
    order: int = 1,
    half_life: str = "7D",
    unit: Unit = "user",
    draws: int = 200,
    confidence: float = stats.CONFIDENCE,
) -> Attribution:
    """Say which touches the macro-conversions are credited to: how they are shared out, not what causes them.

    Each macro from a unit's entry on is credited to the touches since the unit's macro before, and at most `window`
    before it, both ends counted; at one instant micros come first, in the plan's order. An event that is itself the
    macro is no touch. Touches that no macro follows within `window` make unconverted paths, each of the touches within
    `window` of its first. `markov` and `shapley` learn from the paths that open from the entry on and whose window,
    counted from their first touch, is over, converted or not: all are watched for the same time.

    Args:
        log: The log, seen through a segment and a period of entries.
        plan: The plan of the macro and its micros.
        macro: Id of the macro-conversion.
        window: How long before the macro a touch still counts.
        model: `first`, `last`, `linear`, `time_decay`, `position` (40% first, 40% last, 20% between), `markov` (removal
            effect), or `shapley` (the value of a set of touches is the conversion rate of the paths within it).
        touch: `micro`, or a column: each session is a touch, at its first event and of that event's value.
        order: How many touches back `markov` looks: 1 to 3.
        half_life: How long before the path's last touch one counts half as much by `time_decay`.
        unit: What is counted.
        draws: How many samples of units the intervals come from, at least 100; 0 for none.
        confidence: Level of the intervals.

    Returns:
        One row a touch, and `(no touch)`. `touches` and `units` count those before a macro, `conversions` and `value`
        are credited (`share` of all conversions), with percentile intervals of a bootstrap over units; the quantiles
        are seconds from touch to macro. Credits sum exactly (`math.fsum`) to the macros and to their value.

    Raises:
        ParamError: A parameter is wrong; all problems are listed.
        EventDataError: In the whole log the macro never happens.

    Source: Anderl et al. (2016), IJRM 33:457 (Markov); Shapley (1953), Zhao et al. (2018), arXiv:1804.05327.
    """
    check_log(log)
    check_made("plan", plan, Plan, maker="read_plan")
    problems = _find_problems(log, touch, window=window, half_life=half_life, confidence=confidence)
    problems += _find_wrong_choices(model=model, unit=unit, order=order, draws=draws)
    goal = _find_macro(plan, macro, touch, problems)
    check_shared(log.fewest, "Credit may be that of single units")
    log.check_plan(plan)
    rows, entry, names = fetch_touches(log, goal, touch, unit)
    journeys = find_journeys(
        *rows,
        macro=len(names),
        window=parse_duration(window),
        entry=entry,
        end=microseconds(log.last),
    )
    if log.segment_name == "all" and not journeys.converted.any():
        msg = f"The macro `{goal.id}` never happens in the log. Check its match rule, {goal.match}."
        raise EventDataError(msg)
    credits = {}
    for each in (*(other for other in MODELS if other != model), model):  # the one that is drawn again comes last
        sums = prepare_model(each, journeys, len(names), order=order, half_life=parse_duration(half_life))
        credits[each] = share_credit(sums, journeys)
    bounds = _bound(sums, journeys, draws, confidence, credits[model].shape)
    table = _tabulate(journeys, [*names, NO_TOUCH], model, credits[model], bounds)
    if not np.isfinite(rows[3][rows[2] == len(names)]).any():
        table[["value", "value_ci_lower", "value_ci_upper"]] = np.nan
    comparison = pd.DataFrame({"touch": [*names, NO_TOUCH]} | {name: credits[name][:, 0] for name in MODELS})
    comparison = comparison.loc[table.index].reset_index(drop=True)
    table, names = table.reset_index(drop=True), {goal.id: goal.name, **names}
    counts = {
        "conversions": int(journeys.converted.sum()),
        "converting": int(journeys.touched.sum()),
        "unconverted": int((~journeys.converted).sum()),
        "pending": journeys.pending,
    }
    return Attribution(
        table=table,
        takeaways=takeaways.word_attribution(
            table.assign(touch=table["touch"].replace(names)),
            comparison.assign(touch=comparison["touch"].replace(names)),
            macro=goal.name,
            window=window,
            counts=counts,
            segment=log.segment_name,
        ),
        segment=log.segment_name,
        names=names,
        macro=goal.id,
        model=model,
        touch=touch,
        window=window,
        **counts,
        comparison=comparison,
        confidence=confidence,
    )


def _find_problems(log: EventLog, touch: str, *, window: str, half_life: str, confidence: float) -> list[str]:
    problems = list_problems(
        lambda: parse_duration(window, name="window"),
        lambda: parse_duration(half_life, name="half_life"),
        lambda: stats.check_confidence(confidence),
    )
    if touch != MICRO and touch not in log.columns:
        known = (MICRO, *log.columns)
        problems.append(
            f"`touch` is {touch!r}; it must be {MICRO!r}, for the plan's micros, or a column of the log: "
            f"{', '.join(log.columns)}.{did_you_mean(touch, known)}"
        )
    return problems


def _find_wrong_choices(*, model: str, unit: str, order: int, draws: int) -> list[str]:
    problems = [*find_wrong_choice("model", model, MODELS), *find_wrong_choice("unit", unit, UNITS)]
    problems += find_wrong_number("order", order, least=1, most=MOST_ORDER)
    if type(draws) is not int or (draws and not FEWEST_DRAWS <= draws <= MOST_DRAWS):
        right = f"from {FEWEST_DRAWS} to {MOST_DRAWS:,}, or 0 for no intervals"
        problems.append(f"`draws` is {draws!r}; it must be a whole number {right}.")
    return problems


def _find_macro(plan: Plan, macro: str, touch: str, problems: list[str]) -> Macro:
    """Find the macro, or refuse what is asked with every problem."""
    problems += list_problems(lambda: plan.find_macro(macro))
    count = sum(len(goal.micros) for goal in plan.macros if goal.id == macro)
    if macro in [goal.id for goal in plan.macros] and touch == MICRO and not 0 < count <= MOST_TOUCHES:
        problems.append(
            f"The plan has {count} micros for `{macro}`; credit can be shared among 1 to {MOST_TOUCHES}. Change the "
            "plan, or make `touch` a column such as 'medium'."
        )
    if problems:
        raise ParamError(*problems)
    return plan.find_macro(macro)


def fetch_touches(log: EventLog, goal: Macro, touch: str, unit: Unit) -> tuple[_Rows, Ints, dict[str, str]]:
    """Fetch the rows of the segment's units, each unit's entry, and the name of each kind of touch by its id."""
    micros = {micro.id: micro.name for micro in goal.micros}
    ids = [*micros, goal.id]
    is_stored = unit == "user" and touch == MICRO and not log.is_filtered
    if is_stored and not (log.rule or log.start or log.end):
        rows = _read_stored(log, ids, None)
        # Everyone's entry is their first event, which no macro comes before.
        return rows, np.full(1 + rows[0].max(initial=0), np.iinfo(np.int64).min), micros
    entries = log.entries(unit=unit)
    codes, entry = entries.index.to_numpy(np.int64), entries["time"].to_numpy(np.int64)
    if is_stored:
        return _read_stored(log, ids, codes), entry, micros
    if touch == MICRO:
        found = gather(log, [Step(each) for each in ids], codes=codes, unit=unit)
        kept = ~_fire_with(found.step, found.event, len(micros))
        return (found.unit[kept], found.time[kept], found.step[kept], found.value[kept]), entry, micros
    rows, kinds = _read_sessions(log, goal, touch, unit, codes)
    return rows, entry, {kind: kind for kind in kinds}


def _read_stored(log: EventLog, ids: list[str], codes: Ints | None) -> _Rows:
    """Read the rows of some users, or of all, from the prepared conversions: on disk in order of user and time."""
    path = log.prepared.find("conversions.parquet", log.plan)
    user, time, event, value = (read_numbers(path, name) for name in ("user", "time", "event", "value"))
    places, known = read_texts(path, "conversion")
    numbers = np.array([ids.index(name) if name in ids else -1 for name in known], np.int8)
    kind = numbers[places]
    rows, unit = kind >= 0, user
    if codes is not None:
        place = np.full(1 + max(codes.max(initial=0), user.max(initial=0)), -1, np.int32)
        place[codes] = np.arange(len(codes))
        unit = place[user]
        rows &= unit >= 0
    rows &= ~_fire_with(kind, event, len(ids) - 1)
    unit, time, kind, event, value = (each[rows] for each in (unit, time, kind, event, value))
    # What happens at one instant stands in the order of events there.
    alike = (np.diff(unit) == 0) & (np.diff(time) == 0)
    tied = np.flatnonzero(np.append(alike, False) | np.append(False, alike)) if len(unit) else kind
    order = tied[np.lexsort((event[tied], kind[tied], time[tied], unit[tied]))]
    kind[tied], value[tied] = kind[order], value[order]
    return unit, time, kind, value


def _fire_with(kind: Ints, event: Ints, macro: int) -> NDArray[np.bool_]:
    """Say which rows are touches of an event that is itself the macro."""
    is_macro = kind == macro
    fired = np.zeros(1 + event.max(initial=0), bool)
    fired[event[is_macro]] = True
    fires: NDArray[np.bool_] = fired[event] & ~is_macro
    return fires


def _read_sessions(log: EventLog, goal: Macro, column: str, unit: Unit, codes: Ints) -> tuple[_Rows, list[str]]:
    """Read each session as a touch, at its first event and of that event's value."""
    text = f"coalesce(CAST({quote(column)} AS VARCHAR), '{NO_VALUE}')"
    first = f"{unit} AS unit, epoch_us(min(timestamp)) AS time, arg_min({text}, event) AS kind"
    begun = log.rows().filter("session IS NOT NULL").aggregate(first, f"{unit}, session").df()
    begun = begun[begun["unit"].isin(codes)]
    kinds, kind = np.unique(begun["kind"].to_numpy(str), return_inverse=True)
    if len(kinds) > MOST_TOUCHES:
        msg = (
            f"`touch` is {column!r}, of which sessions have {len(kinds):,} values; credit can be shared among at most "
            f"{MOST_TOUCHES}. Choose a coarser column, or group its values in a mapping."
        )
        raise ParamError(msg)
    macros = gather(log, [Step(goal.id)], codes=codes, unit=unit)
    units = np.concatenate([np.searchsorted(codes, begun["unit"]), macros.unit])
    time = np.concatenate([begun["time"].to_numpy(np.int64), macros.time])
    kind = np.concatenate([kind, np.full(len(macros.unit), len(kinds))])
    value = np.concatenate([np.full(len(begun), np.nan), macros.value])
    order = np.lexsort((kind, time, units))
    return (units[order], time[order], kind[order], value[order]), kinds.tolist()


def _bound(sums: Sums, journeys: Journeys, draws: int, confidence: float, shape: tuple[int, ...]) -> Floats:
    """Give both ends of the intervals of conversions and value (2 x touches + 1 x 2); NaN for too few paths."""
    if not draws or journeys.touched.sum() < FEWEST_PATHS:
        return np.full((2, *shape), np.nan)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    bounds: Floats = np.nanquantile(draw_credit(sums, journeys, draws=draws), ends, axis=0)
    return bounds


def _tabulate(journeys: Journeys, touches: list[str], model: Model, credit: Floats, bounds: Floats) -> pd.DataFrame:
    """Make the table, most credit first; its index says which touch a row is."""
    path, kind, before = journeys.leading
    mine = [np.flatnonzero(kind == touch) for touch in range(len(touches))]
    seconds = np.full((len(touches), len(QUANTILES)), np.nan)
    for touch, rows in enumerate(mine):
        if len(rows):
            seconds[touch] = np.quantile(before[rows], np.array(QUANTILES) / 100) / 1_000_000
    bare = journeys.unit[journeys.converted & ~journeys.touched]
    # Units are in order, so each one's rows stand together.
    whose = [journeys.unit[path[rows]] for rows in mine[:-1]]
    units = [np.count_nonzero(np.diff(each, prepend=-1)) for each in (*whose, bare)]
    table = pd.DataFrame(
        {
            "touch": pd.Series(touches, dtype="str"),
            "model": pd.Series([model] * len(touches), dtype="str"),
            "touches": [len(each) for each in mine],
            "units": units,
            "conversions": credit[:, 0],
            "share": stats.divide(credit[:, 0], journeys.converted.sum()),
            "value": credit[:, 1],
            "note": pd.Series([_note(journeys, model)] * len(touches), dtype="str"),
        }
    )
    for number, name in enumerate(("conversions", "value")):
        table[f"{name}_ci_lower"], table[f"{name}_ci_upper"] = bounds[:, :, number]
    for number, percent in enumerate(QUANTILES):
        table[f"seconds_to_conversion_p{percent}"] = seconds[:, number]
    order = np.argsort(-credit[:-1, 0], kind="stable")
    return table.loc[[*order, len(touches) - 1], list(COLUMNS)]


def _note(journeys: Journeys, model: Model) -> str:
    count, notes = int(journeys.touched.sum()), []
    if count < FEWEST_PATHS:
        notes.append(f"{count} converting paths, needs {FEWEST_PATHS}")
    if journeys.is_young and model in ("markov", "shapley"):
        notes.append("no converting path's window is over, so those that are not are learnt from")
    return "; ".join(notes)
