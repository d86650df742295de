"""A log that stays with another engine, in the place of a prepared one: a copy is fetched when an analysis needs it."""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import pyarrow as pa

from convlib.documents import find_wrong_choice
from convlib.errors import ParamError
from convlib.mapping import Mapping
from convlib.plan import Plan
from convlib.prepare import Prepared, prepare
from convlib.sources import find_source

if TYPE_CHECKING:
    from convlib.attempts import Task
    from convlib.events import EventLog
    from convlib.remote import RemoteLog
    from convlib.step_rows import Ask

EngineName = Literal["duckdb", "ibis", "spark"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
#: Where the other engines are; their packages are not installed with convlib.
OPENERS = {"ibis": ("convlib.warehouse", "open_warehouse"), "spark": ("convlib.spark", "open_spark")}


class Engine(Protocol):
    """What counts funnels where the events are."""

    @property
    def log(self) -> "RemoteLog":
        """Give the log as the engine knows it."""

    def count(self, log: "EventLog", ask: "Ask", task: "Task") -> pa.Table:
        """Count a funnel's attempts, as `attempts.count_attempts` gives them."""


class Elsewhere:
    """A log as `Prepared` shows one, of which an engine knows the counts, and a copy here everything else."""

    def __init__(self, engine: Engine, *, plan: Plan | None, mapping: Mapping) -> None:
        self.engine = engine
        self._copy: Callable[[], Prepared] = functools.cache(
            lambda: prepare(find_source(engine.log.read()), plan=plan, mapping=mapping)
        )

    def __getattr__(self, name: str) -> Any:
        """Ask the engine for what it has counted, else the copy."""
        if name.startswith("_"):  # a protocol that this class does not have, such as pickling
            raise AttributeError(name)
        facts = {**self.engine.log.facts, "columns": self.engine.log.columns, "given": self.engine.log.given}
        return facts[name] if name in facts else getattr(self._copy(), name)


def open_elsewhere(name: str, events: object, *, plan: Plan | None, mapping: Mapping) -> Elsewhere:
    """Open a log that Ibis or Spark reads.

    Raises:
        ParamError: There is no such engine, its packages are not installed, or it can't read the log as asked.
        EventDataError: The log lacks columns, or none of its rows can be used.
    """
    if problems := find_wrong_choice("engine", name, ENGINES):
        raise ParamError(*problems)
    place, opener = OPENERS[name]
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        msg = f'`engine` is {name!r}, which needs the package {error.name!r}: pip install "convlib[{name}]".'
        raise ParamError(msg) from error
    events = str(events) if isinstance(events, Path) else events
    return Elsewhere(getattr(module, opener)(events, plan=plan, mapping=mapping), plan=plan, mapping=mapping)
