"""Targets changed in a plan's file as if by hand: one number or date at a time, comments and layout stay."""

import copy
import dataclasses
import datetime as dt
import difflib
import io
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from convlib.documents import Document, FieldPath, read_document
from convlib.errors import PlanError
from convlib.files import write_text
from convlib.plan import Plan, list_ids, read_plan
from convlib.plan_entries import Target

#: What an earlier proposal wrote at the end of a line, and nobody else would.
FORMER_COMMENT = re.compile(
    r"\s*[;#]\s*(?:was (?:by [-\d]{10}|[-+.\de]+(?: by [-\d]{10})?): |proposed: \d+% beyond the level ).*$"
)


@dataclasses.dataclass(frozen=True)
class TargetChange:
    """A target to change, or to add where there is none.

    Attributes:
        conversion: The conversion's id.
        place: Which of its further metrics the target is for; None for its own.
        title: What the target is for, in words.
        old: The target as it is; None where there is none.
        value: The new number; None leaves it as it is.
        by: The new date; None leaves it as it is.
        reason: Why, for a comment.
    """

    conversion: str
    place: int | None
    title: str
    old: Target | None
    value: float | None
    by: dt.date | None
    reason: str


@dataclasses.dataclass(frozen=True)
class PlanEdit:
    """A changed text of a plan's file, not yet written.

    Attributes:
        path: The plan's file.
        before: Its text.
        after: Its new text.
        by_hand: Targets that have no line of their own in the file, in words.
    """

    path: str
    before: str
    after: str
    by_hand: tuple[str, ...]

    @property
    def diff(self) -> str:
        """Give the change as a unified diff for `patch -p1` or `git apply`, from the folder that the path starts at."""
        relative = Path(os.path.relpath(self.path))
        name = relative.name if ".." in relative.parts else relative.as_posix()
        before, after = (list(io.StringIO(text, newline="\n")) for text in (self.before, self.after))
        lines = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    def write(self) -> None:
        """Write the new text into the file.

        Raises:
            PlanError: The file has changed since, or can't be written.
        """
        file = Path(self.path).resolve()
        if _read_text(file, shown=self.path) != self.before:
            raise PlanError(f"{self.path} has changed since the proposals were made. Make them again.")
        if not os.access(file, os.W_OK):
            raise PlanError(f"{self.path} can't be written: it is read-only. Apply the diff where it can be.")
        mode = file.stat().st_mode
        try:
            write_text(file, self.after)
            file.chmod(mode)
        except OSError as problem:
            raise PlanError(f"{self.path} can't be written: {problem.strerror}.") from None


def edit_targets(plan: Plan, changes: Iterable[TargetChange]) -> PlanEdit:
    """Change targets in a plan's file.

    Args:
        plan: The plan, as it was read from its file.
        changes: The targets to change or add.

    Returns:
        The new text, which was read as a plan and differs from the old one in these targets alone.

    Raises:
        PlanError: The file has changed since it was read, or a target is shared by a YAML anchor.
    """
    text = _read_text(Path(plan.path), shown=plan.path)
    if read_plan(plan.path).digest != plan.digest:
        raise PlanError(f"{plan.path} has changed since it was read. Read it again.")
    file = _PlanFile(read_document(plan.path), text)
    for change in changes:
        file.change(change)
    return PlanEdit(plan.path, text, file.finish(), tuple(file.by_hand))


class _PlanFile:
    """A plan's text, in which single values can be changed and all else stays."""

    def __init__(self, document: Document, text: str) -> None:
        self.document, self.text = document, text
        self.entries = {name: where[:-1] for where, name in list_ids(document.data)}
        self.root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
        self.shared = _find_shared(self.root)
        self.tokens = [
            token
            for token in yaml.scan(text, Loader=yaml.SafeLoader)
            if token.end_mark.index > token.start_mark.index and not isinstance(token, yaml.BlockEndToken)
        ]
        self.data = copy.deepcopy(document.data)
        self.edits: list[tuple[int, int, int, str]] = []  # start, order at one start, end, new text
        self.comments: dict[int, list[str]] = {}
        self.problems: list[str] = []
        self.by_hand: list[str] = []

    def change(self, change: TargetChange) -> None:
        entry = self.entries[change.conversion]
        entry = entry if change.place is None else (*entry, "metrics", change.place)
        where: FieldPath = (*entry, "target")
        if change.old is None:
            self._add(entry, change, present=len(self._find(where)) > len(where))
            return
        given = isinstance(self._find(where)[-1], yaml.MappingNode)
        parts: list[tuple[FieldPath, str, object]] = []
        was = []
        if change.value is not None:
            parts.append(((*where, "value") if given else where, f"{change.value:.15g}", change.value))
            was.append(f"{change.old.value:g}")
        if change.by is not None:
            parts.append(((*where, "by"), f"{change.by}", f"{change.by}"))
            was.append(f"by {change.old.by}")
        replaced = [self._replace(*part) for part in parts]
        if all(replaced):
            self._comment(parts[0][0], f"was {' '.join(was)}: {change.reason}")

    def _add(self, entry: FieldPath, change: TargetChange, *, present: bool) -> None:
        """Write a target where none was: in its empty field, or as a new line in its entry."""
        where: FieldPath = (*entry, "target")
        number, comment = f"{change.value:.15g}", f"proposed: {change.reason}"
        if present:
            if self._replace(where, number, change.value):
                self._comment(where, comment)
            return
        nodes = self._find(entry)
        fields = [] if nodes[-1].flow_style else [pair for pair in nodes[-1].value if _is_one_line(*pair)]
        if not fields:
            self.by_hand.append(f"{self.document.locate(entry)}: `target: {number}` for {change.title}")
        elif self._check_shared(nodes, where):
            key, value = fields[-1]
            end = self._line_end(value.end_mark.index)
            newline = "\r\n" if "\r\n" in self.text else "\n"
            self.edits.append((end, 2, end, f"{newline}{' ' * key.start_mark.column}target: {number}  # {comment}"))
            _put(self.data, where, change.value)

    def _find(self, where: FieldPath) -> list[Any]:
        """List the nodes from the top of the file down to a field, or to the nearest one that holds it."""
        nodes: list[Any] = [self.root]
        for part in where:
            node = nodes[-1]
            if isinstance(node, yaml.MappingNode):
                found = [value for key, value in node.value if key.value == part]
            else:
                found = [node.value[part]] if isinstance(node, yaml.SequenceNode) and isinstance(part, int) else []
            if not found:
                break
            nodes.append(found[0])
        return nodes

    def _check_shared(self, nodes: list[Any], where: FieldPath) -> bool:
        free = self.shared.isdisjoint(map(id, nodes))
        if not free:
            text = "stands under a YAML anchor that is used elsewhere too; changing it would change both. Write it out."
            self.problems.append(self.document.problem(where, text))
        return free

    def _replace(self, where: FieldPath, text: str, value: object) -> bool:
        nodes = self._find(where)
        node = nodes[-1]
        start, end, quote = node.start_mark.index, node.end_mark.index, node.style or ""
        if not self._check_shared(nodes, where):
            return False
        if self.text[start:end] != f"{quote}{node.value}{quote}":
            text = "is written with a YAML anchor or tag, so it can't be changed safely. Write the plain value."
            self.problems.append(self.document.problem(where, text))
            return False
        space = " " if start == end else ""
        self.edits.append((start, 0, end, f"{space}{quote}{text}{quote}"))
        _put(self.data, where, value)
        return True

    def _comment(self, where: FieldPath, text: str) -> None:
        self.comments.setdefault(int(self._find(where)[-1].start_mark.line), []).append(text)

    def _line_end(self, index: int) -> int:
        end = self.text.find("\n", index)
        end = len(self.text) if end < 0 else end
        return end - 1 if self.text[end - 1 : end] == "\r" else end

    def _add_comment(self, line: int, texts: list[str]) -> None:
        """Put the reasons at the end of a line, after its own comment, in place of what an earlier proposal said."""
        touching = [token for token in self.tokens if token.start_mark.line <= line <= token.end_mark.line]
        if any(token.end_mark.line > line for token in touching):
            return  # a text goes on in the next line: a comment would become part of it
        start = max(token.end_mark.index for token in touching)
        end = self._line_end(start)
        kept = FORMER_COMMENT.sub("", self.text[start:end]).rstrip()
        joint = f"{kept}; " if kept else "  # "
        self.edits.append((start, 1, end, joint + "; ".join(texts)))

    def finish(self) -> str:
        """Give the new text; make sure that it is a plan, and the old one but for what was changed."""
        if self.problems:
            raise PlanError(*self.problems)
        for line, texts in self.comments.items():
            self._add_comment(line, texts)
        after = self.text
        for start, _, end, text in sorted(self.edits, reverse=True):
            after = after[:start] + text + after[end:]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "plan.yaml")
            write_text(file, after)
            read_plan(file)
            same = read_document(file).data == self.data
        if not same:
            msg = f"{self.document.path}: its layout does not allow changing targets in place. Change them by hand."
            raise PlanError(msg)
        return after


def _find_shared(root: Any) -> set[int]:
    """Find the nodes that an anchor puts in more than one place."""
    seen: set[int] = set()
    shared: set[int] = set()
    left = [root]
    while left:
        node = left.pop()
        if id(node) in seen:
            shared.add(id(node))
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            left += [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value
    return shared


def _is_one_line(key: yaml.Node, value: yaml.Node) -> bool:
    return bool(key.start_mark.line == value.start_mark.line == value.end_mark.line)


def _put(data: Any, where: FieldPath, value: object) -> None:
    for part in where[:-1]:
        data = data[part]
    data[where[-1]] = value


def _read_text(file: Path, *, shown: str) -> str:
    """Read a file with its line ends as they are."""
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise PlanError(f"{shown} can't be read: {problem}.") from None
