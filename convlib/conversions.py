"""What every analysis starts from: the segment's units with their entries, and their conversions in time order."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlib.errors import ParamError
from convlib.events import EventLog, Unit
from convlib.rules import parse_rule

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a funnel or path: a conversion or event, narrowed by what its row must match.

    Args:
        name: A conversion of the plan, or else an event name.
        where: Columns and values that the row must match, as in the plan's match rules.
    """

    name: str
    where: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """Name the step as tables show it."""
        return f"{self.name} ({parse_rule(self.where)})" if self.where else self.name


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """An event that must not happen strictly between two steps of a funnel.

    Args:
        event: A conversion of the plan, an event name, or a `Step`.
        after: Number, from 1, or name of the step after which it counts; None for the first.
        before: The step before which it counts; None for the last.
    """

    event: str | Step
    after: int | str | None = None
    before: int | str | None = None

    @property
    def step(self) -> Step:
        """Give the event as what its row must match."""
        return Step(self.event) if isinstance(self.event, str) else self.event


@dataclasses.dataclass(frozen=True)
class Conversions:
    """Conversions of the segment's units, sorted by unit, time and step.

    Attributes:
        unit: Position of the unit in `codes`.
        time: Microseconds since 1970, UTC.
        step: Which of the asked names the row is, from 0.
        value: The event's value; NaN when it has none.
        event: The event's place in the prepared log: the same for two steps that one event matches.
        codes: The segment's units in the log, in order.
        columns: Breakdown columns of each row, as text.
        end: The end of the data, microseconds.
    """

    unit: Ints
    time: Ints
    step: Ints
    value: NDArray[np.float64]
    event: Ints
    codes: NDArray[Any]
    columns: pd.DataFrame
    end: int

    @property
    def offsets(self) -> Ints:
        """Give where each unit's rows start, with one more entry for the end."""
        return np.searchsorted(self.unit, np.arange(len(self.codes) + 1))


def gather(
    log: EventLog, steps: Sequence[Step], *, codes: Ints, unit: Unit = "user", columns: Sequence[str] = ()
) -> Conversions:
    """Fetch the named conversions of some units, whatever the period: windows look past it on both sides.

    Args:
        log: The log.
        steps: What to fetch.
        codes: The units, from `EventLog.entries`, in order.
        unit: What is counted.
        columns: Columns to take from each row, as text.

    Raises:
        ParamError: A step is neither in the plan nor in the log, or a column is missing.
    """
    problems: list[str] = []
    frames = []
    for number, step in enumerate(steps):
        try:
            frames.append(_fetch(log, step, unit, columns).assign(step=number))
        except ParamError as error:
            problems += error.problems
    if problems:
        raise ParamError(*dict.fromkeys(problems))
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    position, known = _place(rows, codes)
    rows = rows.assign(unit=position)[known].sort_values(
        ["unit", "time", "step", "event"], kind="stable", ignore_index=True
    )
    return Conversions(
        unit=rows["unit"].to_numpy(np.int64),
        time=rows["time"].to_numpy(np.int64),
        step=rows["step"].to_numpy(np.int64),
        value=rows["value"].to_numpy(np.float64),
        event=rows["event"].to_numpy(np.int64),
        codes=codes,
        columns=rows[list(columns)],
        end=microseconds(log.last),
    )


def microseconds(moment: pd.Timestamp) -> int:
    """Give a moment as microseconds since 1970, UTC."""
    return moment.value // 1_000  # `value` is in nanoseconds whatever the timestamp's own unit


def _place(rows: pd.DataFrame, codes: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Find each row's unit among the codes, and whether it is there at all."""
    unit = rows["unit"].to_numpy(np.int64)
    position = np.searchsorted(codes, unit)
    if not len(codes):
        return position, np.zeros(len(rows), bool)
    return position, codes[np.minimum(position, len(codes) - 1)] == unit


def _fetch(log: EventLog, step: Step, unit: Unit, columns: Sequence[str]) -> pd.DataFrame:
    log = log.keep(parse_rule(step.where)) if step.where else log
    return log.fetch(step.name, unit=unit, columns=columns)
