"""The rows that are a funnel's steps, fetched from the log in parts of whole units."""

import dataclasses
import itertools
import math
import operator
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from duckdb import CaseExpression, CoalesceOperator, ColumnExpression, ConstantExpression, Expression, SQLExpression
from numpy.typing import NDArray

from convlib.canonical import NO_VALUE
from convlib.columns import read_numbers, read_texts
from convlib.conversions import Ints, Step
from convlib.engine import compile_rule, connect, quote
from convlib.errors import ParamError
from convlib.events import EventLog, Unit
from convlib.layout import Part, StepRows, divide, lay_out, lay_out_stored, look_up
from convlib.parts import named_value
from convlib.plan_entries import Macro
from convlib.rules import All, Rule, Test, parse_rule

#: About so many rows make a part: few enough for a processor's cache.
PART = 2**18
#: So many rows of the source are fetched at once, and the steps among so many are held in memory.
MOST_FETCHED, MOST_HELD = 5_000_000, 64_000_000
#: So many are put in order by one processor at a time.
DIVIDED = 2**20


#: So many groups are numbered without a look at which of them there are.
MOST_GROUPS = 100_000
#: Keys of groups, and the number of each.
Keys = tuple[NDArray[np.uint64], NDArray[np.int32]]


@dataclasses.dataclass(frozen=True)
class Ask:
    """What a funnel needs of a log.

    Attributes:
        steps: The steps, and after them what is excluded.
        last: Place of the last step, whose rows are worth something.
        unit: What is counted.
        columns: Columns whose values are needed.
        clusters: Whether the units are sessions that belong to users.
        every_event: Whether every used event is needed.
        members: Codes of the users, or sessions, that may be counted; None for all.
    """

    steps: tuple[Step, ...]
    last: int
    unit: Unit = "user"
    columns: tuple[str, ...] = ()
    clusters: bool = False
    every_event: bool = False
    members: Ints | None = None


def fetch_parts(log: EventLog, ask: Ask) -> tuple[Iterator[Callable[[], Part]], pd.DataFrame]:
    """Fetch the rows that a funnel needs.

    Returns:
        The rows, in parts of whole units, each laid out when it is called for; and the values that the columns have
        together, as text, in order: a row's `group` is a place there.
    """
    if _is_stored(log, ask):
        return _read_stored(log, ask)
    groups, keys = _list_groups(log, ask)
    return _fetch(log, ask, (keys.index.to_numpy(np.uint64), keys.to_numpy(np.int32))), groups


def check_ask(log: EventLog, ask: Ask) -> None:
    """Refuse events and columns that the log does not have, all at once.

    Raises:
        ParamError: Every such event and column.
    """
    problems: list[str] = []
    for step in ask.steps:
        try:
            log.check_event(step.name)
        except ParamError as error:
            problems += error.problems
        try:
            log.where(**step.where) if step.where else log
        except ParamError as error:
            problems += error.problems
    if problems:
        raise ParamError(*dict.fromkeys(problems))


def _streams(log: EventLog, ask: Ask) -> bool:
    """Say whether the rows can be taken from the source as they come, without the prepared form."""
    plan = log.plan
    chosen = [plan[step.name] for step in ask.steps if plan and step.name in plan]
    read = {*ask.columns, *(name for each in chosen for name in each.columns)}
    read |= {name for step in ask.steps if step.where for name in parse_rule(step.where).columns}
    read |= {name for rule in (*log.filters, log.row_rule) if rule for name in rule.columns}
    filtered = any("value" in rule.columns for rule in (*log.filters, log.row_rule) if rule)
    filtered = filtered or any("value" in step.where for step in ask.steps)
    read |= {"session_id"} if ask.unit == "session" else set()
    return (
        not log.is_ordered
        and ask.members is None
        and not read & set(log.derived)
        and not any(each.dedupe for each in chosen)
        # The plan's value of a macro stands in the prepared form alone.
        and not (filtered and any(isinstance(each, Macro) and each.value is not None for each in chosen))
    )


def _is_stored(log: EventLog, ask: Ask) -> bool:
    """Say whether the rows are among the prepared conversions as they are, already in order."""
    named = all(log.plan and step.name in log.plan and not step.where for step in ask.steps)
    named = named and len({step.name for step in ask.steps}) == len(ask.steps)
    whole = not (log.filters or log.row_rule or ask.every_event)
    if not (log.is_ordered and named and whole and ask.unit == "user"):
        return False
    conversions = log.prepared.find("conversions.parquet", log.plan)
    return math.prod(len(read_texts(conversions, name)[1]) for name in ask.columns) <= MOST_GROUPS


def _read_stored(log: EventLog, ask: Ask) -> tuple[Iterator[Callable[[], Part]], pd.DataFrame]:
    """Read the rows from the prepared conversions, which lie on disk in order of user and time."""
    conversions = log.prepared.find("conversions.parquet", log.plan)
    stored = {name: read_numbers(conversions, name) for name in ("user", "time", "event", "value")}
    stored["conversion"], names = read_texts(conversions, "conversion")
    columns = [read_texts(conversions, name) for name in ask.columns]
    groups = pd.DataFrame(itertools.product(*(texts for _, texts in columns)), columns=list(ask.columns), dtype="str")
    numbers = {step.name: k for k, step in enumerate(ask.steps)}
    steps = np.array([numbers.get(name, -1) for name in names])
    members = None
    if ask.members is not None:
        last = max([*stored["user"][-1:], *ask.members[-1:]], default=-1)
        members = np.zeros(int(last) + 1, bool)
        members[ask.members] = True

    def read(low: int, high: int) -> Part:
        def number(rows: Ints) -> NDArray[Any]:
            places = [(codes[low:high][rows], len(texts)) for codes, texts in columns]
            return reduce(lambda number, place: number * place[1] + place[0], places, np.zeros(len(rows), np.int64))

        mine = {name: values[low:high] for name, values in stored.items()}
        return lay_out_stored(mine, number, steps=steps, last=ask.last, members=members)

    bounds = np.unique(np.searchsorted(stored["user"], stored["user"][::PART]))
    return (partial(read, *ends) for ends in itertools.pairwise([*bounds.tolist(), len(stored["user"])])), groups


def _list_groups(log: EventLog, ask: Ask) -> tuple[pd.DataFrame, pd.Series]:
    """List the groups, and the number of the group that each of the engine's keys stands for."""
    if not ask.columns:
        return pd.DataFrame(index=range(1)), pd.Series([0], index=[0])
    # A null and the text that it is shown as are one group with two keys.
    named = ", ".join(map(quote, ask.columns))
    texts = [f"coalesce(CAST({quote(c)} AS VARCHAR), '{NO_VALUE}') AS {quote(c)}" for c in ask.columns]
    rows = next(log.slices(log.rows_read)) if _streams(log, ask) else log.rows()
    # The key is made of few rows so; all at once it would be made of every row.
    found = rows.project(named).distinct().project(", ".join([*texts, f"{_key(ask.columns)} AS key"])).df()
    groups = found[list(ask.columns)].drop_duplicates().sort_values(list(ask.columns), ignore_index=True)
    numbers = found.merge(groups.reset_index(names="number"), on=list(ask.columns))
    return groups, numbers.set_index("key")["number"]


def _key(columns: Sequence[str]) -> str:
    return f"hash({', '.join(map(quote, columns))})" if columns else "0::UBIGINT"


def _fetch(log: EventLog, ask: Ask, known: Keys) -> Iterator[Callable[[], Part]]:
    """Fetch everything, in several passes if the units are too many to be held together."""
    passes = -(-log.rows_used // MOST_HELD)
    parts = 2 ** max(0, (log.rows_used // passes // PART).bit_length() - 1)
    for number in range(passes):
        pieces: list[list[_Piece]] = [[] for _ in range(parts)]
        for rows in _open(log, ask):
            some = rows.filter(f"unit % {passes} = {number}") if passes > 1 else rows
            _divide_all(some.to_arrow_table(), known, pieces)
        while pieces:
            mine = pieces.pop()
            if mine:
                yield partial(_lay_out, mine)


#: Some rows of one part, by the names of their columns; of the values only those that are there, which are few.
_Piece = dict[str, NDArray[Any]]


def _divide_all(table: pa.Table, known: Keys, pieces: list[list[_Piece]]) -> None:
    """Put rows into the parts of their units, a piece to each from some rows at a time."""
    some = [table.slice(low, DIVIDED) for low in range(0, len(table), DIVIDED)]
    with ThreadPoolExecutor() as pool:
        deque(pool.map(partial(_divide, known=known, pieces=pieces), some), maxlen=0)


def _divide(table: pa.Table, known: Keys, pieces: list[list[_Piece]]) -> None:
    found = {name: table.column(name).to_numpy() for name in table.column_names}
    group = look_up(found.pop("group"), *known)
    unit, time, steps, value = (found.pop(name) for name in ("unit", "time", "steps", "value"))
    starts, unit, time, steps, group, valued, place, value, order = divide(unit, time, steps, group, value, len(pieces))
    rows = {"unit": unit, "time": time, "steps": steps, "group": group}
    rows |= {name: values[order] for name, values in found.items()}
    for number in np.flatnonzero(np.diff(starts)):
        piece = {name: values[starts[number] : starts[number + 1]] for name, values in rows.items()}
        some = slice(valued[number], valued[number + 1])
        pieces[number].append({**piece, "place": place[some], "value": value[some]})


def _lay_out(pieces: list[_Piece]) -> Part:
    """Join the pieces of one part."""
    starts = np.cumsum([0, *(len(piece["unit"]) for piece in pieces)])
    places = np.concatenate([piece["place"] + start for piece, start in zip(pieces, starts[:-1], strict=True)])
    columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0] if name != "place"}
    value = np.full(starts[-1], np.nan)
    value[places] = columns["value"]
    return lay_out(StepRows(**{**columns, "value": value}))


def _open(log: EventLog, ask: Ask) -> Iterator[duckdb.DuckDBPyRelation]:
    """Open the rows as the columns of `StepRows`, in slices that fit in memory."""
    if _streams(log, ask):
        for rows in log.slices(MOST_FETCHED):
            keys = {"user": "hash(user_id)", "session": "hash(user_id, session_id)"}
            yield _project(log, ask, rows, keys, range(len(ask.steps)), from_source=True)
        return
    keys = {"user": "CAST(user AS UBIGINT)", "session": "CAST(session AS UBIGINT)"}
    mapped = [k for k, step in enumerate(ask.steps) if log.plan and step.name in log.plan]
    plain = [k for k in range(len(ask.steps)) if k not in mapped]
    for low in range(0, log.rows_used, MOST_FETCHED):
        some = f"event >= {low} AND event < {low + MOST_FETCHED}"
        if mapped:
            yield _project(log, ask, log.rows("conversions").filter(some), keys, mapped, from_source=False)
        if plain or ask.every_event:
            yield _project(log, ask, log.rows().filter(some), keys, plain, from_source=False)


def _project(
    log: EventLog,
    ask: Ask,
    rows: duckdb.DuckDBPyRelation,
    keys: dict[str, str],
    numbers: Sequence[int],
    *,
    from_source: bool,
) -> duckdb.DuckDBPyRelation:
    if ask.unit == "session":
        rows = rows.filter("session_id IS NOT NULL")
    if ask.members is not None:
        known = "user" if ask.clusters else ask.unit
        members = connect().from_df(pd.DataFrame({known: ask.members})).set_alias("members")
        rows = rows.set_alias("rows").join(members, known, how="semi")
    rules = {k: _rule(log, ask.steps[k], from_source=from_source) for k in numbers}
    value = SQLExpression("'NaN'::DOUBLE")
    if ask.last in rules:  # of the other rows it is not even read
        value = CaseExpression(rules[ask.last], _value(log, ask, from_source=from_source)).otherwise(value)
    kind = "UTINYINT" if len(ask.steps) <= 8 else "UBIGINT"
    apart = _are_apart(log, [ask.steps[k] for k in numbers], from_source=from_source)
    columns = [
        SQLExpression(keys[ask.unit]).alias("unit"),
        SQLExpression("epoch_us(timestamp)").alias("time"),
        _mask(rules, kind, apart=apart).alias("steps"),
        SQLExpression(_key(ask.columns)).alias("group"),
        value.alias("value"),
        *([] if from_source else [ColumnExpression("event")]),
        *([SQLExpression(keys["user"]).alias("cluster")] if ask.clusters else []),
    ]
    projected = rows.select(*columns)
    return projected if ask.every_event else projected.filter("steps <> 0")


def _rule(log: EventLog, step: Step, *, from_source: bool) -> Expression:
    """Say when a row is the step."""
    is_it = ColumnExpression("event_name") == ConstantExpression(step.name)
    if log.plan and step.name in log.plan:
        named = ColumnExpression("conversion") == ConstantExpression(step.name)
        is_it = compile_rule(log.plan[step.name].match) if from_source else named
    return is_it & compile_rule(parse_rule(step.where)) if step.where else is_it


def _mask(rules: Mapping[int, Expression], kind: str, *, apart: bool) -> Expression:
    """Give a row's bits; if no row can be two steps, one look at the event's name is enough."""
    bits = {k: ConstantExpression(1 << k).cast(kind) for k in rules}
    none = ConstantExpression(0).cast(kind)
    if apart and rules:
        first, *others = rules
        chosen = CaseExpression(rules[first], bits[first])
        for k in others:
            chosen = chosen.when(rules[k], bits[k])
        return chosen.otherwise(none)
    singles = [CaseExpression(rule, bits[k]).otherwise(none) for k, rule in rules.items()]
    return reduce(operator.add, singles, none).cast(kind)


def _are_apart(log: EventLog, steps: Sequence[Step], *, from_source: bool) -> bool:
    """Say whether no row can be two of the steps, by the events' names alone."""
    names = []
    for step in steps:
        known = log.plan[step.name].match if from_source and log.plan and step.name in log.plan else None
        names.append(_list_names(known) if known else {step.name})
    return all(names) and sum(map(len, names)) == len(set().union(*names))


def _list_names(rule: Rule) -> set[str]:
    """List the names that an event must have to match; none if it may have any."""
    if isinstance(rule, Test):
        return set(map(str, rule.value)) if (rule.column, rule.op) == ("event_name", "in") else set()
    names = [_list_names(each) for each in rule.rules]
    if isinstance(rule, All):
        return next(filter(None, names), set())
    return set().union(*names) if all(names) else set()


def _value(log: EventLog, ask: Ask, *, from_source: bool) -> Expression:
    """Give what a row is worth as the last step; NaN for nothing, which needs no mask."""
    step = ask.steps[ask.last]
    goal = log.plan[step.name] if log.plan and step.name in log.plan else None
    value: Expression = ColumnExpression("value")
    if from_source and isinstance(goal, Macro) and goal.value is not None:
        value = named_value(goal.value)
    return CoalesceOperator(value, SQLExpression("'NaN'::DOUBLE"))
