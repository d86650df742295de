"""Where a field stands in a source: a column, a nested one, or inside JSON text, and how the engine reads it."""

import dataclasses
import itertools
import re
from collections.abc import Iterable
from typing import Any

import duckdb
from duckdb import Expression, SQLExpression, StarExpression
from duckdb.sqltypes import VARCHAR, DuckDBPyType

from convlib.documents import did_you_mean, quote_names
from convlib.engine import quote
from convlib.engine import text as literal
from convlib.errors import EventDataError

#: A step into a nested field: its name, or what stands in brackets (an index, or the key of a key-value list).
Step = tuple[str, str]
STEP = re.compile(r'\."([^"]+)"|\.([^.\[\]]+)|\[([^\[\]]+)\]')


@dataclasses.dataclass(frozen=True)
class Field:
    """A field as the engine's SQL, with its type."""

    sql: str
    kind: DuckDBPyType = VARCHAR

    @property
    def text(self) -> str:
        """Write the field as text, null where it is blank."""
        return f"NULLIF(TRIM(CAST({self.sql} AS VARCHAR)), '')"


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields of one source, found by their path.

    Args:
        label: The source's name for messages.
        relation: The source.
        paths: The paths that are read in each JSON text.
        lists: The lists of keys and values that are read from JSON text.
    """

    label: str
    relation: duckdb.DuckDBPyRelation
    paths: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    lists: list[str] = dataclasses.field(default_factory=list)

    def select(self, expressions: Iterable[Expression]) -> duckdb.DuckDBPyRelation:
        """Compute expressions over the fields found so far; each JSON text is parsed once for all of them."""
        once = {j: f"TRY(json_extract_string({j}, [{', '.join(map(literal, p))}]))" for j, p in self.paths.items()}
        once |= {pairs: pairs for pairs in self.lists}
        read = [SQLExpression(sql).alias(_name(key)) for key, sql in once.items()]
        return self.relation.select(StarExpression(), *read).select(*expressions)

    def unnest(self, column: str) -> "Fields":
        """Make one row for each entry of a list; a row whose list is empty or can't be read stays, with no entry."""
        field = self.find(column, reader="each")
        entries = field.sql if field.kind.id == "list" else f"TRY(json_extract({field.sql}, '$[*]'))"
        filled = f"CASE WHEN len({entries}) > 0 THEN {entries} ELSE [NULL] END"
        return Fields(self.label, self.relation.project(f"* REPLACE (unnest({filled}) AS {field.sql})"))

    def find(self, path: str, *, reader: str) -> Field:
        """Find a field: the column of just this name, else one inside the longest column that the path begins with.

        Args:
            path: Such as `event`, `properties.$current_url`, `items[0].id`, `event_params[page_location]`, `a."b.c"`.
            reader: The name of what is read from it, for messages.

        Raises:
            EventDataError: There is no such field; inside JSON text it is null instead.
        """
        columns = self.relation.columns
        longest_first = sorted(columns, key=len, reverse=True)
        column = next((name for name in longest_first if _begins(path, name)), None)
        if column is None:
            raise self._miss(path, reader, re.split(r"[.\[]", path)[0], columns)
        rest = path[len(column) :]
        if not re.fullmatch(f"(?:{STEP.pattern})*", rest):
            raise self._miss(path, reader, rest, columns)
        field = Field(quote(column), self.relation.types[columns.index(column)])
        steps = [(quoted or dotted, bracket) for quoted, dotted, bracket in STEP.findall(rest)]
        for done, (name, bracket) in enumerate(steps):
            if field.kind.id == "varchar":
                return self._read_json(field.sql, steps[done:])
            inside = _step_into(field, (name, bracket))
            if inside is None:
                known = [*_children(field.kind)] if field.kind.id == "struct" else []
                raise self._miss(path, reader, name or f"[{bracket}]", known)
            field = inside
        return field

    def _read_json(self, json: str, steps: list[Step]) -> Field:
        plain = list(itertools.takewhile(lambda step: step[0] or step[1].isdigit(), steps))
        path = _write_path(plain)
        if plain == steps:
            paths = self.paths.setdefault(json, [])
            paths += [] if path in paths else [path]
            return Field(f"{quote(_name(json))}[{paths.index(path) + 1}]")
        (_, key), *rest = steps[len(plain) :]
        text = f"json_extract({json}, {literal(path)})" if plain else json
        pairs = f"""TRY(json_transform({text}, '[{{"key": "VARCHAR", "value": "JSON"}}]'))"""
        self.lists.extend([] if pairs in self.lists else [pairs])
        value = f"list_filter({quote(_name(pairs))}, lambda pair: pair.key = {literal(key)})[1].value"
        if rest:
            return Field(f"json_extract_string({value}, {literal(_write_path(rest))})")
        # The value is one of `string_value`, `int_value`, ... or stands alone.
        typed = f"list_filter(json_extract_string({value}, '$.*'), lambda one: one IS NOT NULL)[1]"
        alone = f"CASE WHEN json_type({value}) <> 'OBJECT' THEN json_extract_string({value}, '$') END"
        return Field(f"COALESCE({typed}, {alone})")

    def _miss(self, path: str, reader: str, missing: str, known: list[str]) -> EventDataError:
        there = f"there are {quote_columns(known)}" if known else "it holds no fields"
        near = did_you_mean(missing, known)
        return EventDataError(f"`{self.label}`: `{reader}` reads {path!r}, but there is no {missing!r}; {there}.{near}")


def quote_columns(names: Iterable[str]) -> str:
    """Show the columns that the source itself has: opening it adds its files and rows."""
    return quote_names(name for name in names if not name.startswith("convlib "))


def _begins(path: str, column: str) -> bool:
    return path.lower().startswith(column.lower()) and path[len(column) :][:1] in ("", ".", "[")


def _name(sql: str) -> str:
    return f"convlib {sql}"


def _write_path(steps: list[Step]) -> str:
    escaped = [(name.replace("\\", "\\\\").replace('"', '\\"'), index) for name, index in steps]
    return "$" + "".join(f'."{name}"' if name else f"[{index}]" for name, index in escaped)


def _step_into(field: Field, step: Step) -> Field | None:
    """Go one step into a nested column; None when there is no such field."""
    field = _unwrap(field)
    inside = _children(field.kind)
    name, bracket = step
    if field.kind.id == "struct":
        return Field(f"struct_extract({field.sql}, {literal(name)})", inside[name]) if name in inside else None
    if field.kind.id == "map":
        return Field(f"map_extract_value({field.sql}, {literal(name or bracket)})", inside["value"])
    if field.kind.id == "list" and bracket.isdigit():
        return Field(f"list_extract({field.sql}, {int(bracket) + 1})", inside["child"])
    if field.kind.id == "list" and bracket and {"key", "value"} <= set(_children(inside["child"])):
        value = f"list_filter({field.sql}, lambda pair: pair.key = {literal(bracket)})[1].value"
        return _pick_filled(Field(value, _children(inside["child"])["value"]))
    return None


def _pick_filled(value: Field) -> Field:
    """Read a value that stands in the one filled field of `string_value`, `int_value`, ..."""
    if value.kind.id != "struct":
        return value
    texts = [f"CAST(struct_extract({value.sql}, {literal(name)}) AS VARCHAR)" for name in _children(value.kind)]
    return Field(f"COALESCE({', '.join(texts)})")


def _unwrap(field: Field) -> Field:
    """Take the list out of the form that BigQuery's Parquet export gives it: `{list: [{element: ...}]}`."""
    wrapped = _children(field.kind).get("list", VARCHAR)
    element = _children(_children(wrapped).get("child", VARCHAR)).get("element")
    if element is None:
        return field
    sql = f"list_transform(struct_extract({field.sql}, 'list'), lambda entry: entry.element)"
    return Field(sql, duckdb.list_type(element))


def _children(kind: DuckDBPyType) -> dict[str, DuckDBPyType]:
    """Give the types inside: a struct's by name, a map's `key` and `value`, a list's `child`."""
    nested: Any = kind.children if kind.id in ("struct", "map", "list") else []
    return dict(nested)
