"""The code blocks of README and docs, and how each is run.

Sybil would find the Python; that a page's Python, shell and files share a folder, that output is compared, and that a
block left out says why, it would leave to us. A comment on the line before a block says what it is:

    <!-- not run: needs Snowflake -->       this block and its output are left out, and the reason is listed
    <!-- file: params/own.yaml -->          the block is written to that file
    <!-- reads: plan -->                    YAML that convlib's reader of plans (mapping, run, segments, …) must take
    <!-- output -->                         what the block before printed; `...` stands for anything
"""

import ast
import contextlib
import doctest
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from convlib.documents import read_document
from convlib.mapping import read_mapping
from convlib.plan import read_plan
from convlib.reports.run_file import read_run_file
from convlib.segments import read_segments

ROOT = Path(__file__).parent.parent
FENCE = re.compile(
    r"(?:^[ ]*<!-- (?P<mark>[a-z ]+)(?:: (?P<text>[^\n]*?))? -->\n+)?"
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<code>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
#: Blocks that only show something. Those without a language are held by the tests of `funnel` that read the page.
SHOWN = {"text", "diff"}
RUN = {"python", "sh"}
EXPECTED = re.compile(r"#\s*->\s*(.+)$")


#: Pages that a reader works through from top to bottom; those in `how-to` do one task; the others explain.
GUIDES = ("README", "index", "install", "case-study-oulad", "comparison", "gallery", "explore")


@dataclass
class Block:
    """A fenced block: where it stands, what it is, and the comment before it."""

    page: Path
    line: int
    language: str
    code: str
    mark: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def list_pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def list_kind(kind: str) -> list[Path]:
    """List the pages of a kind; each has a test file of its own, so that they run at once."""
    return [page for page in list_pages() if _name_kind(page) == kind]


def _name_kind(page: Path) -> str:
    if page.stem == "tutorial":
        return "tutorial"
    if page.parent.name == "how-to":
        return "how-to"
    return "guide" if page.stem in GUIDES or page.parent.name == "migrating" else "method"


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")),
            found["language"],
            re.sub(rf"^{found['indent']}", "", found["code"], flags=re.MULTILINE),
            found["mark"] or "",
            found["text"] or "",
        )
        for found in FENCE.finditer(text)
    ]


def make_checkout(folder: Path) -> Path:
    """Copy what commands of the docs need of a checkout; what they write stays there."""
    for name in ("notebooks", "params"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return folder


def run_page(page: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Run a page's blocks in order in a copy of the checkout, without a screen."""
    patch.chdir(make_checkout(folder))
    patch.setenv("MPLBACKEND", "agg")
    run = PageRun(folder)
    for block in read_blocks(page):
        run.run(block)


@dataclass
class PageRun:
    """One page's blocks, run in order in one folder: Python in one namespace, shell with this environment."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    printed: str | None = None

    def run(self, block: Block) -> None:
        if block.mark == "output":
            self._compare(block)
        elif block.mark == "file":
            (self.folder / block.text).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.text).write_text(block.code, "utf-8")
        elif block.mark == "not run":
            self.printed = None
        elif block.language == "python":
            self.printed = self._run_python(block)
            if pyplot := sys.modules.get("matplotlib.pyplot"):  # as a notebook does after each cell
                pyplot.close("all")
        elif block.language == "sh":
            self.printed = self._run_shell(block)

    def _run_python(self, block: Block) -> str:
        printed = io.StringIO()
        lines = block.code.splitlines()
        with contextlib.redirect_stdout(printed):
            for statement in ast.parse(block.code).body:
                said = EXPECTED.search(lines[(statement.end_lineno or 1) - 1])
                ast.increment_lineno(statement, block.line)
                if isinstance(statement, ast.Expr):
                    found = eval(compile(ast.Expression(statement.value), block.page, "eval"), self.names)
                    if said:
                        expect_value(found, said[1], f"{block.place}, {lines[statement.lineno - block.line - 1]}")
                else:
                    exec(compile(ast.Module([statement], []), block.page, "exec"), self.names)
        return printed.getvalue()

    def _run_shell(self, block: Block) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code],
            cwd=self.folder,
            env=os.environ | {"PATH": path, "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{block.place}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _compare(self, block: Block) -> None:
        if self.printed is not None:
            same = doctest.OutputChecker().check_output(
                block.code, self.printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            )
            assert same, f"{block.place} shows\n{block.code}\nbut this was printed:\n{self.printed}"


def expect_value(found: Any, said: str, place: str) -> None:
    """Compare a value with the literal after `# ->`; a number with a point as far as its digits go."""
    expected = ast.literal_eval(said)
    if isinstance(expected, float):
        digits = len(said.partition(".")[2])
        assert round(float(found), digits) == expected, f"{place}: found {found!r}"
    else:
        plain = found.tolist() if hasattr(found, "tolist") else found
        assert plain == expected, f"{place}: found {plain!r}"


def list_unmarked(blocks: list[Block]) -> Iterator[str]:
    """Name each block that nothing runs, reads or compares, and that does not say why."""
    for block in blocks:
        if block.mark not in {"", "not run", "file", "reads", "output"}:
            yield f"{block.place}: unknown mark {block.mark!r}"
        elif block.mark == "not run" and not block.text:
            yield f"{block.place}: `not run` without a reason"
        elif not block.mark and block.language == "yaml":
            yield f"{block.place}: YAML that nothing reads"
        elif not block.mark and block.language not in RUN | SHOWN | {"yaml"} and not is_funnel_example(block):
            yield f"{block.place}: a block of {block.language or 'no language'}"


def is_funnel_example(block: Block) -> bool:
    return not block.language and "measure_funnel(log, [" in block.code.partition("\n")[0]


def read_yaml(block: Block, folder: Path) -> None:
    """Read a YAML block by the reader of its kind, in its place in a file that is complete without it."""
    params = make_checkout(folder) / "params"
    path = params / "block.yaml"
    path.write_text(block.code, "utf-8")
    if block.text == "mapping":
        read_mapping(path)
    elif block.text == "segments":
        read_segments(path)
    elif block.text == "run":
        read_run_file(_fill(path, read_document(params / "weekly.yaml").data, read_document(path).data))
    elif block.text == "plan":
        read_plan(_fill(path, read_document(params / "shop" / "plan.yaml").data, read_document(path).data))
    elif block.text == "micros":
        plan = read_document(params / "shop" / "plan.yaml").data
        macro = plan["macros"][0]
        known = {micro["id"]: micro for micro in macro["micros"]}
        new = {micro["id"]: known.get(micro["id"], {}) | micro for micro in read_document(path).data}
        read_plan(_fill(path, plan, {"macros": [macro | {"micros": [*(known | new).values()]}, *plan["macros"][1:]]}))
    else:
        pytest.fail(f"{block.place}: no reader is called {block.text!r}")


def _fill(path: Path, complete: dict[str, Any], part: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(complete | part), "utf-8")
    return path
