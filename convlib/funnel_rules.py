"""The arguments of a funnel, checked together and made into the rules that the kernel counts by."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from convlib.attempts import ORDERS, Anchor, Count, Excluded, Order, Rules
from convlib.conversions import Exclusion, Step
from convlib.documents import did_you_mean, find_wrong_choice, quote_names, show_value, word_columns
from convlib.durations import parse_duration
from convlib.errors import ParamError
from convlib.events import UNITS, EventLog

MOST_STEPS = 64
BREAKDOWNS = ("first_touch", "last_touch")
_NO_TIME = re.compile(r"0+(\.0*)?(s|min|h|D|W)")
StepName = int | str


def read_rules(
    log: EventLog,
    steps: Sequence[Step],
    *,
    window: str,
    order: Order,
    anchor: Anchor,
    exclude: Sequence[Exclusion],
    excluded: Excluded,
    optional: Sequence[StepName],
    step_windows: Mapping[StepName, str] | None,
    min_gap: str | None,
    tie_tolerance: str,
    first_time: bool,
    count: Count,
    breakdown: str,
    columns: Sequence[str],
) -> Rules:
    """Check what `measure_funnel` is given, and give its rules.

    Raises:
        ParamError: With every problem at once.
    """
    reader = _Reader(steps)
    reader.choose("order", order, ORDERS)
    reader.choose("anchor", anchor, get_args(Anchor))
    reader.choose("excluded", excluded, get_args(Excluded))
    reader.choose("count", count, get_args(Count))
    reader.check_breakdown(breakdown)
    rules = Rules(
        required=reader.read_optional(optional),
        window=reader.read_duration("window", window),
        order=order,
        anchor=anchor,
        barred=tuple(reader.read_exclusion(each) for each in exclude),
        drops=excluded == "drop_unit",
        step_windows=reader.read_step_windows(step_windows),
        gap=reader.read_duration("min_gap", min_gap) if min_gap is not None else 0,
        tolerance=reader.read_duration("tie_tolerance", tie_tolerance, zero=True),
        first_time=first_time,
        totals=count == "totals",
    )
    numbered = any(each.after is not None or each.before is not None for each in exclude)
    problems = [*reader.problems, *_find_conflicts(rules, numbered), *_find_unknown(log, columns)]
    if problems:
        names = [*steps, *(each.step for each in exclude)]
        raise ParamError(*dict.fromkeys([*problems, *_find_unknown_events(log, names)]))
    return rules


def check_kinds(steps: Sequence[object], exclude: Sequence[object], unit: str) -> None:
    """Refuse what is no step, exclusion or unit at all, before anything is made of it.

    Raises:
        ParamError: With every such problem.
    """
    if not isinstance(steps, Sequence) or isinstance(steps, str | bytes):
        raise ParamError(f"`steps` is {show_value(steps)}; it must be a list, such as ['view_item', 'purchase'].")
    problems = [
        f"`steps` holds {show_value(step)}; a step is the name of a conversion or event, or a Step."
        for step in steps
        if not isinstance(step, str | Step)
    ]
    problems += [
        f"`exclude` holds {show_value(each)}; write it as Exclusion({show_value(each)})."
        for each in exclude
        if not isinstance(each, Exclusion)
    ]
    problems += find_wrong_choice("unit", unit, UNITS)
    if len(steps) + len(exclude) > MOST_STEPS:
        problems.append(
            f"`steps` and `exclude` name {len(steps)} steps and {len(exclude)} exclusions; a funnel has at most "
            f"{MOST_STEPS} together."
        )
    if problems:
        raise ParamError(*problems)


class _Reader:
    """Reads arguments and keeps what is wrong with them."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.names = [(str(step), step.name) for step in steps]
        self.problems: list[str] = []
        if len(steps) < 2:
            self.problems.append(f"`steps` names {len(steps)} step{'s' * (not steps)}; a funnel needs at least two.")

    def choose(self, name: str, value: str, allowed: Sequence[str]) -> None:
        self.problems += find_wrong_choice(name, value, allowed)

    def check_breakdown(self, value: str) -> None:
        number = re.fullmatch(r"step:([0-9]+)", value) if isinstance(value, str) else None
        if value not in BREAKDOWNS and not (number and 1 <= int(number[1]) <= len(self.names)):
            self.problems.append(
                f"`breakdown` is {value!r}; it must be one of {quote_names(BREAKDOWNS)}, or a step from 'step:1' to "
                f"'step:{len(self.names)}'.{did_you_mean(value, BREAKDOWNS)}"
            )

    def read_duration(self, name: str, text: str, *, zero: bool = False) -> int:
        if zero and isinstance(text, str) and _NO_TIME.fullmatch(text):
            return 0
        try:
            return parse_duration(text, name=name)
        except ParamError as error:
            self.problems += error.problems
            return 1

    def read_optional(self, optional: Sequence[StepName]) -> tuple[bool, ...]:
        skipped = {self.find("optional", each) for each in optional}
        if 0 in skipped:
            self.problems.append("`optional` names the first step, which opens the window; leave it out of the funnel.")
        if len(self.names) - 1 in skipped:
            self.problems.append(
                "`optional` names the last step, which everybody may reach or not; leave it out of it."
            )
        return tuple(k not in skipped for k in range(len(self.names)))

    def read_step_windows(self, windows: Any) -> tuple[int, ...]:
        if not windows:
            return ()
        if not isinstance(windows, Mapping):
            self.problems.append(
                f"`step_windows` is {show_value(windows)}; it must map steps to durations, such as {{2: '1h'}}."
            )
            return ()
        found = {self.find("step_windows", step): (step, text) for step, text in windows.items()}
        if 0 in found:
            self.problems.append("`step_windows` names the first step, which has no step before it; leave it out.")
        longest = 2**62
        return tuple(
            self.read_duration(f"step_windows[{found[k][0]!r}]", found[k][1]) if k in found else longest
            for k in range(len(self.names))
        )

    def read_exclusion(self, exclusion: Exclusion) -> tuple[int, int]:
        what = f"The exclusion of {str(exclusion.step)!r}"
        last = len(self.names) - 1
        after = 0 if exclusion.after is None else self.find(f"{what}: `after`", exclusion.after)
        before = last if exclusion.before is None else self.find(f"{what}: `before`", exclusion.before)
        if after is not None and before is not None and after >= before and last > 0:
            self.problems.append(
                f"{what} is after step {after + 1} and before step {before + 1}; `after` must name a step that comes "
                "before that of `before`."
            )
        return after or 0, last if before is None else before

    def find(self, what: str, step: StepName) -> int | None:
        """Find a step by its number, from 1, or its name."""
        what = what if what.endswith("`") else f"`{what}`"
        known = ", ".join(f"{number} {name!r}" for number, (name, _) in enumerate(self.names, start=1))
        if isinstance(step, int) and not isinstance(step, bool):
            if 1 <= step <= len(self.names):
                return step - 1
            self.problems.append(f"{what} names step {step}; the steps are {known}.")
            return None
        found = [k for k, names in enumerate(self.names) if step in names]
        if len(found) == 1:
            return found[0]
        if found:
            self.problems.append(f"{what} names {step!r}, which is several steps; say which by its number: {known}.")
        else:
            near = did_you_mean(step, [name for name, _ in self.names])
            self.problems.append(f"{what} names {step!r}, which is no step; the steps are {known}.{near}")
        return None


def _find_conflicts(rules: Rules, numbered: bool) -> Iterable[str]:
    """Name the combinations that have no meaning."""
    if rules.order == "unordered":
        given = {
            "optional": not all(rules.required),
            "step_windows": bool(rules.step_windows),
            "min_gap": bool(rules.gap),
            "tie_tolerance": bool(rules.tolerance),
            "exclusions with `after` or `before`": numbered,
        }
        for name in (name for name, is_given in given.items() if is_given):
            shown = name if "`" in name else f"`{name}`"
            yield f"`order` 'unordered' has no step before another, so it can't go with {shown}; leave one of them out."
    if rules.order == "strict" and not all(rules.required):
        yield "`order` 'strict' allows nothing between steps, so it can't go with `optional`; leave one of them out."
    if rules.gap and rules.tolerance:
        yield "`min_gap` keeps steps apart, so it can't go with `tie_tolerance`; leave one of them out."
    if rules.drops and not rules.barred:
        yield "`excluded` is 'drop_unit' but `exclude` names no event; name one, or leave `excluded` out."
    if rules.drops and rules.totals:
        yield "`excluded` 'drop_unit' drops units, so it can't go with `count` 'totals', which counts attempts."
    for after, before in rules.barred:
        for k in {after, before}:
            if k < len(rules.required) - 1 and not rules.required[k]:
                yield f"An exclusion begins or ends at step {k + 1}, which is optional; name a required step."


def _find_unknown(log: EventLog, columns: Sequence[str]) -> Iterable[str]:
    for name in columns:
        if name not in log.columns:
            yield f"The log has no column `{name}`.{word_columns(name, log.filled_columns)}"


def _find_unknown_events(log: EventLog, steps: Sequence[Step]) -> Iterable[str]:
    for step in steps:
        try:
            log.check_event(step.name)
        except ParamError as error:
            yield from error.problems
