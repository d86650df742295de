"""Notebook templates: which parameters each has, and which of a run's parameters do not fit."""

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convlib.documents import did_you_mean, quote_names, show_value
from convlib.errors import RunError
from convlib.files import digest_files

FOLDER = "notebooks"
RUN_PARAMETERS = ("events", "mapping", "engine", "plan", "segments", "segment", "start", "end", "output")
#: What no run file sets: those, and what the run sets for an audience.
OWN_PARAMETERS = (*RUN_PARAMETERS, "fewest")


@dataclass(frozen=True)
class Template:
    """A notebook as it stands in the notebooks folder, with the literals of its parameters cell."""

    name: str
    path: Path
    title: str
    parameters: Mapping[str, Any]
    digest: str


def find_notebooks_folder(start: Path) -> Path:
    """Find the nearest `notebooks` folder beside a run file or above it.

    Raises:
        RunError: There is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / FOLDER).is_dir():
            return folder / FOLDER
    raise RunError(f"There is no folder `{FOLDER}` beside {start} or above it. Keep the run file inside the project.")


def read_templates(folder: Path) -> dict[str, Template]:
    """Read every notebook of a folder, in name order.

    Raises:
        RunError: The folder is empty, or a notebook has no usable parameters cell; every problem is listed.
    """
    templates: dict[str, Template] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("[!._]*.ipynb")):
        try:
            templates[path.stem] = _read_template(path)
        except RunError as error:
            problems += error.problems
    if not templates and not problems:
        problems.append(f"There is no notebook in {folder.name}/. Add one.")
    if problems:
        raise RunError(*problems)
    return templates


def check_value(value: Any, default: Any) -> str:
    """Say what a parameter must be when a value clearly is not of its default's kind ("" when it fits)."""
    kinds: dict[type, tuple[type | tuple[type, ...], str]] = {
        bool: (bool, "true or false"),
        int: ((int, float), "a number"),
        float: ((int, float), "a number"),
        str: (str, "text"),
        list: (list, "a list"),
        dict: (dict, "a mapping"),
    }
    if type(default) not in kinds:
        return ""
    kind, wanted = kinds[type(default)]
    fits = isinstance(value, kind) and (isinstance(value, bool) == isinstance(default, bool))
    example = [value] if isinstance(default, list) else default
    return "" if fits else f"is {show_value(value)}; it must be {wanted}, such as {show_value(example)}."


def check_names(given: Mapping[str, Any], allowed: Iterable[str], *, owner: str) -> list[tuple[str, str]]:
    """List the parameters that are not among the allowed ones, or that only the run may set, as (name, problem)."""
    allowed = [name for name in allowed if name not in OWN_PARAMETERS]
    problems: list[tuple[str, str]] = []
    for name in given:
        if name in OWN_PARAMETERS:
            problems.append((name, f"parameter `{name}` is set by the run itself. Remove it here."))
        elif name not in allowed:
            have = f"; the parameters are {quote_names(allowed)}" if allowed else "; there are none to set"
            problems.append((name, f"{owner} no parameter `{name}`{have}.{did_you_mean(name, allowed)}"))
    return problems


def _read_template(path: Path) -> Template:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{FOLDER}/{path.name} is not a notebook: it is not JSON with cells. Save it again.") from None
    sources = [("".join(cell["source"]), cell) for cell in cells]
    tagged = [source for source, cell in sources if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise RunError(f"{FOLDER}/{path.name} has {len(tagged)} cells tagged `parameters`; it must have one. Tag it.")
    parameters = _read_parameters(tagged[0], path)
    prose = "\n".join(source for source, cell in sources if cell["cell_type"] == "markdown")
    headings = [line[2:].strip() for line in prose.splitlines() if line.startswith("# ")]
    return Template(
        name=path.stem,
        path=path,
        title=headings[0] if headings else path.stem,
        parameters=parameters,
        digest=digest_files([path]),
    )


def _read_parameters(source: str, path: Path) -> dict[str, Any]:
    """Read names and literals from the code itself: papermill's own inspection misses some annotations."""
    found: dict[str, Any] = {}
    problems: list[str] = []
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise RunError(f"{FOLDER}/{path.name}: the parameters cell is not Python: {error.msg}. Correct it.") from None
    for statement in statements:
        try:
            name, value = _read_assignment(statement)
            found[name] = value
        except ValueError:
            code = ast.unparse(statement)
            problems.append(f"{FOLDER}/{path.name}: `{code}` in the parameters cell must be `name = literal`.")
    missing = [name for name in RUN_PARAMETERS if name not in found]
    if missing:
        problems.append(f"{FOLDER}/{path.name}: the parameters cell lacks {quote_names(missing)}; every run sets them.")
    if problems:
        raise RunError(*problems)
    return found


def _read_assignment(statement: ast.stmt) -> tuple[str, Any]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, ast.literal_eval(value)
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            return name, ast.literal_eval(value)
    raise ValueError(ast.unparse(statement))
