"""What pydantic finds wrong in a document, as sentences with file, line, value and remedy."""

import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from convlib.documents import Document, FieldError, FieldPath, did_you_mean, quote_names, show_value, word_choice

_TYPES = {
    "string_type": "it must be text (in quotes if it looks like a number).",
    "float_type": "it must be a number.",
    "finite_number": "it must be a finite number.",
    "bool_type": "it must be true or false.",
    "tuple_type": "it must be a list.",
    "dict_type": "it must be a mapping.",
    "mapping_type": "it must be a mapping.",
    "model_type": "it must be a mapping of fields.",
}


def word_errors(error: ValidationError, document: Document, schema: type[BaseModel]) -> list[tuple[int, str]]:
    """Say everything that is wrong in a document.

    Args:
        error: What pydantic found.
        document: The document it was found in.
        schema: The model of the whole document.

    Returns:
        For each problem its line and one sentence or two, in pydantic's order.
    """
    return [each for detail in error.errors(include_url=False) for each in _word_detail(detail, document, schema)]


def _word_detail(detail: ErrorDetails, document: Document, schema: type[BaseModel]) -> list[tuple[int, str]]:
    loc, kind = detail["loc"], detail["type"]
    if kind in {"missing", "extra_forbidden"}:
        parent, key = document.present(loc[:-1]), str(loc[-1])
        text = _word_missing(loc, schema) if kind == "missing" else _word_unknown(loc, schema)
        return [(document.line((*parent, key)), document.problem(parent, text, key=key))]
    cause = detail.get("ctx", {}).get("error")
    problems = cause.problems if isinstance(cause, FieldError) else [((), _word_value(detail, cause))]
    places = [(document.present((*loc, *inner)), text) for inner, text in problems]
    return [(document.line(where), document.problem(where, text)) for where, text in places]


def _word_value(detail: ErrorDetails, cause: ValueError | None) -> str:
    value = show_value(detail["input"])
    if detail["type"] == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))
        return word_choice(detail["input"], allowed)
    return f"is {value}; {cause or _TYPES.get(detail['type'], detail['msg'] + '.')}"


def _word_missing(where: FieldPath, schema: type[BaseModel]) -> str:
    name = str(where[-1])
    field = _fields(_model_at(schema, where[:-1]))[name]
    return f"has no `{name}`. Add `{name}:` {field.description or ''}".rstrip() + "."


def _word_unknown(where: FieldPath, schema: type[BaseModel]) -> str:
    allowed = list(_fields(_model_at(schema, where[:-1])))
    return (
        f"has an unknown field {where[-1]!r}; the fields are {quote_names(allowed)}.{did_you_mean(where[-1], allowed)}"
    )


def _fields(model: type[BaseModel]) -> Mapping[str, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_at(model: type[BaseModel], where: FieldPath) -> type[BaseModel]:
    """Follow a path down the models; names that no model has are keys of a free mapping."""
    for part in where:
        field = _fields(model).get(str(part))
        model = (_model_in(field.annotation) if field else None) or model
    return model


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
