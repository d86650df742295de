"""One choice of a funnel's segment, window, steps and days: what it counts, and the calls that count the same."""

import dataclasses
import datetime as dt
from typing import Any

from convlib.errors import ParamError
from convlib.events import EventLog
from convlib.funnel import Funnel, measure_funnel
from convlib.rules import All
from convlib.segment_edits import describe_rule


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the controls say.

    Attributes:
        segment: A segment's name.
        also: Another one: units count that are in both; `all` for none.
        window: How long after the first step a later one counts.
        steps: The steps, in order.
        by: A column whose groups are set side by side; empty for none.
        start: First day of entries; None for the log's first.
        end: Last day of entries; None for the log's last.
    """

    segment: str
    also: str
    window: str
    steps: tuple[str, ...]
    by: str
    start: dt.date | None
    end: dt.date | None

    def see(self, log: EventLog) -> EventLog:
        """See a log through the chosen segment and days."""
        for method, arguments in self._list_calls(log):
            log = getattr(log, method)(*arguments)
        return log

    def measure(self, log: EventLog) -> Funnel:
        """Measure the funnel."""
        return measure_funnel(self.see(log), self.steps, window=self.window, by=self.by or ())

    def write_code(self, log: EventLog) -> str:
        """Write the calls that do the same to a log of the name `log`."""
        calls = [f".{method}({', '.join(map(repr, arguments))})" for method, arguments in self._list_calls(log)]
        by = f", by={self.by!r}" if self.by else ""
        measured = f"    chosen, {list(self.steps)!r}, window={self.window!r}{by}"
        return f"chosen = log{''.join(calls)}\nfunnel = cv.measure_funnel(\n{measured}\n)"

    def describe_segment(self, log: EventLog) -> dict[str, Any]:
        """Give the chosen segment as it stands in a segments file.

        Raises:
            ParamError: It is everyone, or two that can't be one.
        """
        seen = self.see(log)
        if seen.row_rule:
            return {**describe_rule(seen.row_rule), "scope": "event"}
        if seen.rule is None:
            raise ParamError("The segment in use is `all`, which is there already. Choose another one first.")
        return describe_rule(seen.rule)

    def _list_calls(self, log: EventLog) -> list[tuple[str, tuple[Any, ...]]]:
        calls: list[tuple[str, tuple[Any, ...]]] = []
        if self.also != "all":
            mine = log if self.segment == log.segment_name else log.segment(self.segment)
            calls.append(("segment", (_join(mine, log.segment(self.also)),)))
        elif self.segment != log.segment_name:
            calls.append(("segment", (self.segment,)))
        if (self.start, self.end) != (log.start, log.end):
            calls.append(("between", tuple(day.isoformat() if day else None for day in (self.start, self.end))))
        return calls


def _join(one: EventLog, other: EventLog) -> dict[str, Any]:
    """Describe the units that are in two segments."""
    for log in (one, other):
        if log.row_rule:
            text = f"`{log.segment_name}` keeps rows (`scope: event`), so it can't be joined with another segment."
            raise ParamError(f"{text} Choose it alone.")
    return describe_rule(All(tuple(rule for rule in (one.rule, other.rule) if rule)))
