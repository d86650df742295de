"""How the columns of any product's export become the canonical ones: mappings in YAML, and the shipped presets."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import duckdb
import pandas as pd
import pydantic
from duckdb import ConstantExpression, Expression, SQLExpression
from pydantic import AfterValidator, BeforeValidator, Strict, ValidationError, model_validator

from convlib.documents import FieldError, did_you_mean, quote_names, read_document, word_columns
from convlib.engine import quote
from convlib.engine import text as literal
from convlib.errors import EventDataError, ParamError, PlanError
from convlib.fields import Field, Fields, quote_columns
from convlib.plan_entries import Duration, Entry
from convlib.validation import word_errors

PRESETS = Path(__file__).with_name("presets")
#: Bare numbers as times, with their microseconds.
EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
#: How exports write times that are not ISO 8601, the day first or the month first.
PATTERNS = tuple(f"{day}{time}" for day in ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y") for time in ("", " %H:%M", " %H:%M:%S"))
#: `{path}` in an expression; a quantifier such as {2} and a struct such as {'a': 1} are left alone.
PLACEHOLDER = re.compile(r"\{([A-Za-z_$][^{}':,]*)\}")


def _to_text(raw: object) -> object:
    if isinstance(raw, bool):
        return str(raw).lower()
    return str(raw) if isinstance(raw, int | float) else raw


def _to_list(raw: object) -> object:
    return raw if isinstance(raw, list | tuple) else (raw,)


def _accept_plain(raw: object) -> object:
    return raw if isinstance(raw, dict | ColumnSource) else {"column": raw}


def _check_format(text: str) -> str:
    if text not in EPOCHS and "%" not in text:
        hint = did_you_mean(text, EPOCHS)
        raise ValueError(f"it must be one of {quote_names(EPOCHS)} or a pattern such as '%d/%m/%Y %H:%M'.{hint}")
    return text


def _check_preset(name: str) -> str:
    known = list_presets()
    if name not in known:
        raise ValueError(f"it must be one of {quote_names(known)}.{did_you_mean(name, known)}")
    return name


Text = Annotated[str, BeforeValidator(_to_text)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_to_list)]
Formats = Annotated[tuple[Annotated[str, AfterValidator(_check_format)], ...], BeforeValidator(_to_list)]


class ColumnSource(Entry):
    """Where one column comes from: columns of the source, a constant or an expression.

    Attributes:
        column: Columns or paths (`properties.$current_url`, `items[0].id`, `event_params[page_location]`); the first
            that is filled counts.
        default: What stands where none is filled.
        format: How a time is written: `epoch_s`, `epoch_ms`, `epoch_us` or strptime patterns, tried in their order;
            what fits none of them is read as ISO 8601, and rejected if it is not.
        decimal: `,` where numbers are written as 1.234,50.
        constant: The same text or number in every row.
        expression: A DuckDB expression over the source's columns; `{path}` in it is that field as text.
        optional: Fields that the source does not have are left out instead of refused.
    """

    column: Texts = ()
    default: Text | None = None
    format: Formats = ()
    decimal: Literal[".", ","] = "."
    constant: Text | None = None
    expression: str | None = None
    optional: Annotated[bool, Strict()] = False

    @model_validator(mode="after")
    def _check_one_source(self) -> "ColumnSource":
        given = [name for name in ("column", "constant", "expression") if getattr(self, name) not in ((), None)]
        if len(given) != 1:
            has = f"has {quote_names(given)}" if given else "is empty"
            raise FieldError([((), f"{has}; give one of 'column', 'constant' and 'expression'.")])
        idle = [name for name in ("default", "format") if getattr(self, name) not in ((), None)]
        if idle and not self.column:
            raise FieldError(
                [((name,), f"has no meaning without 'column', but there is {given[0]!r}.") for name in idle]
            )
        return self


class Mapping(Entry):
    """How a source is read.

    Attributes:
        preset: The shipped preset that it starts from; what it says itself goes before.
        title: The product and the export that a preset reads.
        documentation: Where the product describes the shape of that export.
        expect: Columns by which an export of this kind is known.
        each: A column that holds a list: one row is made for each entry, whose fields are reached as `<each>.field`.
        encoding: Of a text file.
        timezone: Zone of the times that carry none.
        session_gap: Inactivity after which a new session begins where there is no `session_id`.
        identity: A file with `anonymous_id` and `user_id`; relative to the mapping's file.
        hash_ids: Whether ids are hashed on reading.
        drop: Columns of the source that are left out of the log, such as those with personal data.
        columns: The columns, canonical or the log's own, with where they come from.
    """

    preset: Annotated[str, AfterValidator(_check_preset)] | None = None
    title: str = ""
    documentation: str = ""
    expect: Texts = ()
    each: Text | None = None
    encoding: str = "utf-8"
    timezone: str = "UTC"
    session_gap: Duration = "30min"
    identity: str | None = None
    hash_ids: Annotated[bool, Strict()] = False
    drop: Texts = ()
    columns: dict[str, Annotated[ColumnSource, BeforeValidator(_accept_plain)]] = pydantic.Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, raw: Any) -> Any:
        name = raw.get("preset") if isinstance(raw, dict) else None
        if not isinstance(name, str) or name not in list_presets():
            return raw
        base = _read_preset(name)
        own = raw.get("columns") or {}
        columns = {**base.columns, **own} if isinstance(own, dict) else own
        return {**{field: getattr(base, field) for field in base.model_fields_set}, **raw, "columns": columns}


def read_mapping(which: str | Path) -> Mapping:
    """Read how a source's columns become the canonical ones.

    Args:
        which: The name of a preset, or a YAML file, which may start from one with `preset:`.

    Raises:
        ParamError: There is no such preset.
        PlanError: The file can't be read or is wrong; every problem is listed with its line.
    """
    text = str(which)
    if isinstance(which, str) and which in list_presets():
        return Mapping(preset=which)
    if isinstance(which, str) and Path(text).suffix.lower() not in (".yaml", ".yml"):
        known = quote_names(list_presets())
        hint = did_you_mean(which, list_presets())
        raise ParamError(f"`preset` is {which!r}; it must be one of {known}, or a YAML file.{hint}")
    mapping = _read_file(Path(text))
    if mapping.identity is None:
        return mapping
    return mapping.model_copy(update={"identity": str(Path(text).parent / mapping.identity)})


@functools.cache
def list_presets() -> dict[str, str]:
    """List the shipped presets with the export that each reads."""
    return {file.stem: _read_file(file).title for file in sorted(PRESETS.glob("*.yaml"))}


def _read_file(path: Path) -> Mapping:
    document = read_document(path)
    try:
        return Mapping.model_validate(document.data)
    except ValidationError as error:
        raise PlanError(*[text for _, text in sorted(word_errors(error, document, Mapping))]) from None


@functools.cache
def _read_preset(name: str) -> Mapping:
    """Read a preset; a column that an export lacks is empty there, as most fields of every product are optional."""
    preset = _read_file(PRESETS / f"{name}.yaml")
    columns = {column: source.model_copy(update={"optional": True}) for column, source in preset.columns.items()}
    return preset.model_copy(update={"columns": columns})


def apply_mapping(relation: duckdb.DuckDBPyRelation, mapping: Mapping, *, label: str) -> duckdb.DuckDBPyRelation:
    """Lay a mapping over a source, without reading it.

    A column that the mapping does not name stays as it is; the one that a name reads first is renamed.

    Args:
        relation: The source, nested fields as they are or as JSON text.
        mapping: Where the columns come from.
        label: The source's name for messages.

    Returns:
        The mapped columns, then the source's other ones. JSON text that can't be read counts as null.

    Raises:
        EventDataError: The preset does not fit, a column is missing, or the engine refuses an expression; every problem
            is listed.
    """
    problems = _find_misfit(relation.columns, mapping, label)
    problems += [
        f"`{label}`: `drop` names the column `{name}`, which is not "
        f"there.{word_columns(name, (each for each in relation.columns if not each.startswith('convlib ')))}"
        for name in _find_missing(relation.columns, mapping.drop)
    ]
    fields = Fields(label, relation)
    try:
        fields = fields.unnest(mapping.each) if mapping.each is not None else fields
    except EventDataError as error:
        problems += error.problems
    mapped: list[Expression] = []
    for name, source in mapping.columns.items():
        try:
            mapped += _compile(fields, name, source)
        except EventDataError as error:
            problems += error.problems
    if problems:
        raise EventDataError(*dict.fromkeys(problems))
    renamed = {source.column[0].lower() for source in mapping.columns.values() if source.column}
    gone = renamed | {name.lower() for name in (*mapping.columns, *mapping.drop)}
    return fields.select([*mapped, *(SQLExpression(quote(c)) for c in relation.columns if c.lower() not in gone)])


def word_format(mapping: Mapping, times: Iterable[str]) -> str:
    """Say how a mapping tells in what form times are written, with the common patterns that fit all of these."""
    known = pd.Series(times, dtype="str").drop_duplicates()
    fitting = [each for each in PATTERNS if pd.to_datetime(known, format=each, errors="coerce").notna().all()]
    digits = dict(zip(EPOCHS, (10, 13, 16), strict=True))  # from 2001 to 2286
    fitting += [each for each in EPOCHS if known.str.fullmatch(rf"\d{{{digits[each]}}}").all()]
    source = mapping.columns.get("timestamp", ColumnSource(column=("timestamp",)))
    column = source.column[0] if source.column else "timestamp"
    lines = [f'`timestamp: {{column: {column}, format: "{each}"}}`' for each in fitting or PATTERNS[1:2]]
    fits = {0: "such as {}", 1: "{} fits them all"}.get(len(fitting), "{} both fit, so you must know")
    return (
        f"Say under `columns:` of the mapping how times are written: {fits.format(' and '.join(lines))}. "
        "Its `timezone` is that of times that carry none."
    )


def find_id_fields(mapping: Mapping, columns: Iterable[str], ids: Iterable[str]) -> list[str]:
    """Find the columns that ids are read from and that a mapping leaves in the log: they hold the ids in clear."""
    sources = [mapping.columns[name] for name in ids if name in mapping.columns]
    texts = [text for source in sources for text in (*source.column, source.expression or "")]
    named = {name.lower() for name in mapping.columns}
    return [
        name
        for name in columns
        if name.lower() not in named
        and any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) for text in texts)
    ]


def _find_misfit(columns: list[str], mapping: Mapping, label: str) -> list[str]:
    missing = _find_missing(columns, mapping.expect)
    if not missing:
        return []
    best = find_preset(columns)
    what = f"the preset {mapping.preset!r} ({mapping.title})" if mapping.preset else "the mapping"
    advice = f"The preset {best!r} would fit." if best else "No preset fits: write a mapping file."
    return [
        f"`{label}` does not fit {what}: it has no column {quote_names(missing)}. {advice} Its columns are "
        f"{quote_columns(columns)}."
    ]


def find_preset(columns: list[str]) -> str | None:
    """Find the preset that an export with these columns is known by."""
    fitting = [name for name in list_presets() if not _find_missing(columns, _read_preset(name).expect)]
    return max(fitting, key=lambda name: len(_read_preset(name).expect), default=None)


def _find_missing(columns: list[str], expected: Iterable[str]) -> list[str]:
    known = {name.lower() for name in columns}
    return [name for name in expected if name.lower() not in known]


def _compile(fields: Fields, name: str, source: ColumnSource) -> list[Expression]:
    """Translate where a column comes from; an optional column of which the source has nothing gives no expression."""
    try:
        expressions = [SQLExpression(sql).alias(name) for sql in _write(fields, name, source)]
        fields.select([*expressions, ConstantExpression(0)])
    except duckdb.Error as error:
        said = " ".join(str(error).split("\nLINE 1:")[0].split())
        given = source.expression or quote_names(source.format or source.column)
        raise EventDataError(f"`{fields.label}`: `{name}` can't be read by {given}: {said}") from None
    return expressions


def _write(fields: Fields, name: str, source: ColumnSource) -> list[str]:
    if source.constant is not None:
        return [literal(source.constant)]
    if source.expression is not None:
        paths = {p: _find(fields, p, name, optional=source.optional) for p in PLACEHOLDER.findall(source.expression)}
        texts = {path: field.text if field else "NULL" for path, field in paths.items()}
        absent = bool(paths) and not any(paths.values())
        return [] if absent else [PLACEHOLDER.sub(lambda match: texts[match[1]], source.expression)]
    found = [field for path in source.column if (field := _find(fields, path, name, optional=source.optional))]
    if not found and source.default is None:
        return []
    if len(found) == 1 and source.default is None:
        field = found[0]
    else:
        default = [] if source.default is None else [literal(source.default)]
        field = Field(f"COALESCE({', '.join([*(each.text for each in found), *default])})")
    if source.decimal == ",":
        return [f"replace(replace({field.text}, '.', ''), ',', '.')"]
    return [_read_time(field, source.format) if source.format else field.sql]


def _find(fields: Fields, path: str, name: str, *, optional: bool) -> Field | None:
    try:
        return fields.find(path, reader=name)
    except EventDataError:
        if optional:
            return None
        raise


def _read_time(field: Field, formats: Iterable[str]) -> str:
    """Write a time as ISO text; one in no stated format stays as it came, for the reader to accept as ISO or reject."""
    parsed = [_read_epoch(field, EPOCHS[f]) if f in EPOCHS else _read_pattern(field, f) for f in formats]
    return f"COALESCE({', '.join([*parsed, field.text])})"


def _read_epoch(field: Field, scale: int) -> str:
    # Through text, for one type beside what can't be read. Beyond the year 2255 it is no time, and overflows.
    number = f"to_number({field.sql}) * {scale}"
    return f"CASE WHEN abs({number}) < 9e15 THEN CAST(make_timestamp(CAST({number} AS BIGINT)) AS VARCHAR) || '+00' END"


def _read_pattern(field: Field, pattern: str) -> str:
    return f"CAST(try_strptime({field.text}, {literal(pattern)}) AS VARCHAR)"
