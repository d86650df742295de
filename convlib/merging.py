"""Two changes of one file put together: by cells where it is a notebook, by lines elsewhere."""

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convlib.errors import RunError

NOTEBOOK = ".ipynb"
#: An assignment in a notebook's parameters cell: `name: kind = value  # what it means`.
ASSIGNMENT = re.compile(r"^(\w+(?:: *\w+)?) = (.*?)(  # .*)?$", re.MULTILINE)
#: A range of the base, and the keys that stand in its place.
Change = tuple[int, int, tuple[str, ...]]


@dataclass(frozen=True)
class Piece:
    """One cell or line.

    Attributes:
        key: A digest of what counts as it: no outputs of a cell, no values of parameters.
        content: The cell as in the file, or the line with its end.
    """

    key: str
    content: Any

    @property
    def lines(self) -> list[str]:
        """Give it as lines for a person."""
        if isinstance(self.content, str):
            return [self.content]
        return [f"%% {self.content['cell_type']}\n", *(f"{line}\n" for line in _read_source(self.content).splitlines())]


def read_pieces(path: Path) -> list[Piece]:
    """Read a file's cells or lines.

    Raises:
        RunError: A notebook is none.
    """
    try:
        return split(path.name, path.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path} can't be read: {error}. Restore it, or delete it to do without.") from None


def split(name: str, text: str) -> list[Piece]:
    """Split a file into its cells or lines.

    Raises:
        ValueError: A notebook is none.
    """
    if not name.endswith(NOTEBOOK):
        return [Piece(_digest(line), line) for line in text.splitlines(keepends=True)]
    try:
        return [Piece(_digest(cell["cell_type"] + _strip_values(cell)), cell) for cell in json.loads(text)["cells"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no notebook: {error}") from None


def join(name: str, text: str, pieces: Sequence[Piece]) -> str:
    """Make a file of pieces; a notebook takes all but its cells from `text`."""
    if not name.endswith(NOTEBOOK):
        return "".join(piece.content for piece in pieces)
    taken: set[str] = set()
    cells = []
    for cell in (dict(piece.content) for piece in pieces):
        while cell.get("id") in taken:  # two changes may have added a cell of one id
            cell["id"] += "-2"
        taken.add(cell.get("id", ""))
        cells.append(cell)
    return json.dumps(json.loads(text) | {"cells": cells}, ensure_ascii=False, indent=1) + "\n"


def merge(base: Sequence[str], ours: Sequence[Piece], theirs: Sequence[Piece]) -> list[Piece] | None:
    """Put two changes of one file together.

    Args:
        base: The keys of the pieces before either change.
        ours: The pieces after the one change; what neither changed is taken from here.
        theirs: The pieces after the other.

    Returns:
        The pieces with both changes; None when both changed the same place in different ways.
    """
    changes = sorted({*_find_changes(base, ours), *_find_changes(base, theirs)}, key=lambda change: change[:2])
    if any(start < end or (start, end) == (begin, end) for (begin, end, _), (start, *_) in itertools.pairwise(changes)):
        return None
    known = {piece.key: piece for piece in (*theirs, *ours)}
    merged: list[str] = []
    place = 0
    for begin, end, keys in changes:
        merged += [*base[place:begin], *keys]
        place = end
    return [known[key] for key in (*merged, *base[place:])]


def _find_changes(base: Sequence[str], pieces: Sequence[Piece]) -> list[Change]:
    """List which ranges of the base became which keys."""
    keys = list_keys(pieces)
    codes = difflib.SequenceMatcher(None, base, keys, autojunk=False).get_opcodes()
    return [(a, b, tuple(keys[c:d])) for kind, a, b, c, d in codes if kind != "equal"]


def list_keys(pieces: Sequence[Piece]) -> list[str]:
    """List the pieces' keys, which a record keeps to know later what was changed."""
    return [piece.key for piece in pieces]


def compare(before: Sequence[Piece], after: Sequence[Piece], name: str, new: str) -> Iterator[str]:
    """Give the lines of a unified diff; of a notebook, of its cells' texts."""
    one, other = ([line for piece in each for line in piece.lines] for each in (before, after))
    return difflib.unified_diff(one, other, name, new)


def fill_parameters(text: str, values: Mapping[str, Any]) -> str:
    """Give a notebook's parameters cell other values; what each means stays beside it."""
    notebook = json.loads(text)

    def fill(found: re.Match[str]) -> str:
        name = found[1].partition(":")[0]
        value = _write_literal(values[name]) if name in values else found[2]
        return f"{found[1]} = {value}{found[3] or ''}"

    for cell in notebook["cells"]:
        if _holds_parameters(cell):
            cell["source"] = ASSIGNMENT.sub(fill, _read_source(cell)).splitlines(keepends=True)
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def _read_source(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"])


def _strip_values(cell: Mapping[str, Any]) -> str:
    source = _read_source(cell)
    return ASSIGNMENT.sub(r"\1\3", source) if _holds_parameters(cell) else source


def _holds_parameters(cell: Mapping[str, Any]) -> bool:
    return "parameters" in cell.get("metadata", {}).get("tags", [])


def _write_literal(value: Any) -> str:
    # JSON writes texts and lists as Python does, with the quotes of the templates.
    plain = isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
    return json.dumps(value, ensure_ascii=False) if plain else repr(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
