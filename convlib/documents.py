"""YAML files as plain data that remembers the line of every field, so that each problem can name its place."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from convlib.errors import ConvlibError, PlanError

FieldPath = tuple[str | int, ...]
MOST_FIELDS, MOST_LEVELS = 100_000, 1_000
MOST_SHOWN = 80


class FieldError(ValueError):
    """Problems inside one field: where in it, and what is wrong, as `is 6; it must be ...`."""

    def __init__(self, problems: Iterable[tuple[FieldPath, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(text for _, text in self.problems))


@dataclass(frozen=True)
class Document:
    """A YAML file: its plain data, and the line of every field in it.

    Args:
        path: The file as the user named it.
        data: Mappings, lists, text, numbers, true/false and None; keys are text as written.
        lines: The line of each field, by its path from the top.
    """

    path: str
    data: Any
    lines: dict[FieldPath, int] = field(repr=False)

    def line(self, where: FieldPath) -> int:
        """Return the line of a field, or of the nearest field that holds it."""
        while where not in self.lines:
            where = where[:-1]
        return self.lines[where]

    def locate(self, where: FieldPath) -> str:
        """Return the place of a field as `file:line`."""
        return f"{self.path}:{self.line(where)}"

    def present(self, where: FieldPath) -> FieldPath:
        """Return the part of a path that the data have, without the names that only a schema has."""
        found: FieldPath = ()
        data = self.data
        for part in where:
            if part in data if isinstance(data, dict) else _child(data, part) is not None:
                found, data = (*found, part), _child(data, part)
        return found

    def name(self, where: FieldPath) -> str:
        """Return a field's name as a reader would say it: `macros[purchase].micros[add_to_cart].stage`."""
        return name_field(where, self.data)

    def problem(self, where: FieldPath, text: str, *, key: str | None = None) -> str:
        """Return one problem as a sentence with file, line and field.

        Args:
            where: The field that the sentence is about.
            text: What is wrong with it, as `is 6; it must be ...`.
            key: The key in that field whose line is meant, if it has one.
        """
        place = self.locate(where if key is None else (*where, key))
        return f"{place}: {self.name(where) or 'the file'} {text}"


def read_document(path: str | Path, *, error: type[ConvlibError] = PlanError) -> Document:
    """Read one YAML file with the line of every field.

    Only `true` and `false` are truth values, dates stay text and `007` stays text (YAML 1.2): `geo: NO` is Norway.

    Args:
        path: The file.
        error: The class to raise.

    Returns:
        The file's plain data and lines.

    Raises:
        ConvlibError: The file is missing, empty, not YAML, or names a key twice (every such key is listed).
    """
    if not isinstance(path, str | Path):
        raise error(f"The path of a YAML file is {show_value(path)}; it must be text or a `Path`.")
    text = _read_text(Path(path), shown=str(path), error=error)
    try:
        node = _compose(text)
        reader = _NodeReader(path=str(path))
        data = reader.read(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as problem:
        raise error(_word_yaml_error(problem, path=str(path))) from None
    except yaml.reader.ReaderError as problem:
        line = text.count("\n", 0, problem.position) + 1
        code = f"U+{ord(text[problem.position]):04X}"
        raise error(f"{path}:{line}: the character {code} is not allowed in YAML. Delete it.") from None
    except RecursionError:
        raise error(f"{path}: the fields are nested too deeply, or an alias contains itself. Write them out.") from None
    if reader.problems:
        raise error(*reader.problems)
    if data is None:
        raise error(f"{path}:1: the file is empty. Write its fields, or name another file.")
    return Document(path=str(path), data=data, lines=reader.lines)


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` with the nearest allowed name, or nothing when none is near."""
    by_folded = {each.casefold(): each for each in allowed}
    near = difflib.get_close_matches(str(name).casefold(), by_folded, n=1)
    return f" Did you mean {by_folded[near[0]]!r}?" if near else ""


def word_choice(value: object, allowed: Iterable[str]) -> str:
    """Say of a value that it must be one of a closed set: `is 'x'; it must be one of ...`."""
    known = list(allowed)
    return f"is {show_value(value)}; it must be one of {quote_names(known)}.{did_you_mean(value, known)}"


def find_wrong_choice(name: str, value: object, allowed: Iterable[str]) -> list[str]:
    """Say what is wrong with a parameter that must be one of a closed set, if anything."""
    known = list(allowed)
    return [] if isinstance(value, str) and value in known else [f"`{name}` {word_choice(value, known)}"]


def find_wrong_number(name: str, value: object, *, least: int, most: int | None = None) -> list[str]:
    """Say what is wrong with a parameter that must be a whole number, if anything."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= (value if most is None else most):
        return []
    right = f", at least {least}" if most is None else f" from {least} to {most}"
    return [f"`{name}` is {show_value(value)}; it must be a whole number{right}."]


def word_columns(name: object, columns: Iterable[str]) -> str:
    """Follow a sentence on a column that is not there with the nearest, and those that are."""
    known = list(columns)
    return f"{did_you_mean(name, known)} Its columns are {', '.join(known)}."


def quote_names(names: Iterable[str]) -> str:
    """Return names as a list for a sentence: `'a', 'b', 'c'`."""
    return ", ".join(repr(name) for name in names)


def show_value(value: object) -> str:
    """Return a value's repr, cut when it is long."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def name_field(where: FieldPath, data: Any, *, root: str = "") -> str:
    """Return a field's name as a reader would say it, list entries by their `id` where they have one."""
    name = root
    for part in where:
        data = _child(data, part)
        if isinstance(part, int):
            named = data.get("id") if isinstance(data, dict) else None
            name += f"[{named if isinstance(named, str) else part}]"
        else:
            name += f".{part}" if name else part
    return name


def _child(data: Any, part: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(part)
    return data[part] if isinstance(data, list | tuple) and isinstance(part, int) else None


def _compose(text: str) -> yaml.Node | None:
    """Parse with libyaml, which is quick; what it refuses is for PyYAML's own parser, whose errors name more."""
    # Each level takes a bracket or a column, and libyaml's parser crashes when there are too many.
    deepest = text.count("[") + text.count("{") + max(map(len, text.splitlines()), default=0)
    if deepest <= MOST_LEVELS:
        with contextlib.suppress(yaml.YAMLError):
            return yaml.compose(text, Loader=_QuickLoader)
    return yaml.compose(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core types: what people type as text stays text."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}  # type: ignore[misc]


for _tag, _pattern, _first in [
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+)", "-+.0123456789"),
    ("merge", r"<<", "<"),
]:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


class _QuickLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same by libyaml, where PyYAML has it."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


@dataclass
class _NodeReader:
    """Turns YAML nodes into plain data and notes the line of each."""

    path: str
    lines: dict[FieldPath, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    constructor: yaml.constructor.SafeConstructor = field(default_factory=yaml.constructor.SafeConstructor)

    def read(self, node: yaml.Node, where: FieldPath) -> Any:
        self.lines.setdefault(where, _line(node))
        if len(self.lines) > MOST_FIELDS:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_FIELDS:,} fields", problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return dict(self._read_pairs(node, where))
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*where, i)) for i, child in enumerate(node.value)]
        return self.constructor.construct_object(node)

    def _read_pairs(self, node: yaml.MappingNode, where: FieldPath) -> Iterator[tuple[str, Any]]:
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.endswith(":merge"):
                self.problems.append(
                    f"{self.path}:{line}: a key must be plain text, not a list, a mapping or <<. Write the fields out."
                )
            elif key in first_lines:
                self.problems.append(
                    f"{self.path}:{line}: the key {key!r} stands twice in one mapping, first on line "
                    f"{first_lines[key]}. Remove or rename one of them."
                )
            else:
                first_lines[key] = line
                self.lines[*where, key] = line
                yield key, self.read(value_node, (*where, key))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _read_text(path: Path, *, shown: str, error: type[ConvlibError]) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        near = did_you_mean(path.name, list_siblings(path)) or " Check its name and folder."
        raise error(f"{shown} does not exist.{near}") from None
    except IsADirectoryError:
        raise error(f"{shown} is a folder; it must be a YAML file. Name one in it.") from None
    except UnicodeDecodeError as problem:
        line = problem.object.count(b"\n", 0, problem.start) + 1
        raise error(f"{shown}:{line}: the file is not UTF-8 text. Save it as UTF-8.") from None
    except OSError as problem:
        raise error(f"{shown} can't be read: {problem.strerror}. Check who may read it.") from None


def list_siblings(path: Path) -> list[str]:
    """List the names beside a path that is not there, to choose the nearest from."""
    return sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []


def _word_yaml_error(problem: yaml.MarkedYAMLError, *, path: str) -> str:
    mark = problem.problem_mark or problem.context_mark
    place = f"{path}:{mark.line + 1}" if mark else path
    reason = ", ".join(part for part in (problem.context, problem.problem) if part)
    advice = " Indent with spaces, not tabs." if "'\\t'" in reason else ""
    if re.search("expected '?<(block end|document start)>|mapping values are not allowed", reason):
        advice = " Check the indentation of this line and the one before; text with `: ` in it needs quotes."
    return f"{place}: the file can't be read as YAML: {reason}.{advice}"
