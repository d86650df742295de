"""The borders that ARCHITECTURE.md draws, read from the imports. Each check is also tried on a planted fault."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
READING = ("sources", "mapping", "fields", "canonical", "identity", "prepare", "parts", "events", "profile", "oddities")
ENGINES = {f"convlib.{name}" for name in ("engine", *READING, "step_rows", "reports.watch_state", "reports.history")}
BORDERS = {
    "duckdb": ENGINES,
    "ibis": {f"convlib.{name}" for name in ("portable", "remote", "warehouse", "spark")},
    "pyspark": {"convlib.spark"},
    "matplotlib": {"convlib.plots", "convlib.figures"},
    "seaborn": {"convlib.plots"},
    "ipywidgets": {"convlib.explorer"},
    "itables": {"convlib.explorer"},
    "nbclient": {"convlib.reports"},
    "nbconvert": {"convlib.reports"},
    "papermill": {"convlib.reports"},
    "tea_tasting": {"convlib.arms"},
}
# `impact` and `alerts` are not among them: they read other results, as the flow says.
ANALYSES = {
    f"convlib.{name}"
    for name in (
        "event_map",
        "quality",
        "rates",
        "friction",
        "funnel",
        "paths",
        "correlation",
        "thresholds",
        "scorecard",
        "attribution",
        "experiment",
    )
}


@dataclass(frozen=True)
class Import:
    module: str
    target: str
    function: str = ""  # the function that the import stands in
    for_types: bool = False  # under `if TYPE_CHECKING`, so never executed


def read_sources() -> dict[str, str]:
    files = (ROOT / "convlib").rglob("*.py")
    return {name_module(file.relative_to(ROOT)): file.read_text("utf-8") for file in files}


def name_module(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def read_imports(sources: Mapping[str, str]) -> list[Import]:
    return [
        Import(module, target, function, for_types)
        for module, text in sources.items()
        for node, function, for_types in walk_imports(ast.parse(text))
        for target in find_targets(node, set(sources))
    ]


def walk_imports(
    parent: ast.AST, function: str = "", for_types: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, str, bool]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, function, for_types
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        yield from walk_imports(node, inside, for_types or typing_only)


def find_targets(node: ast.Import | ast.ImportFrom, modules: set[str]) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    names = {f"{node.module}.{alias.name}" for alias in node.names}
    return {name if name in modules else str(node.module) for name in names}


def belongs(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def find_border_breaks(imports: list[Import]) -> list[str]:
    return [
        f"{item.module} imports {item.target}"
        for item in imports
        for owners in [BORDERS.get(item.target.split(".")[0])]
        if owners and not item.for_types and not belongs(item.module, owners)
    ]


def find_ties_between_analyses(imports: list[Import]) -> list[str]:
    return [
        f"{item.module} imports {item.target}"
        for item in imports
        if {item.module, item.target} <= ANALYSES and item.module != item.target
    ]


def find_local_imports(imports: list[Import]) -> list[str]:
    return [
        f"{item.module}.{item.function} imports {item.target}"
        for item in imports
        if item.function and item.function != "__getattr__" and item.module != "convlib.cli"
    ]


def find_cycle(imports: list[Import]) -> list[str]:
    graph: dict[str, set[str]] = {}
    for item in imports:
        if not (item.function or item.for_types):
            graph.setdefault(item.module, set()).update(list_executed(item))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def list_executed(item: Import) -> Iterator[str]:
    """The target, and the packages around it: Python runs their `__init__` first, unless the module is inside them."""
    parts = item.target.split(".")
    packages = (".".join(parts[:length]) for length in range(1, len(parts)))
    yield item.target
    yield from (package for package in packages if not belongs(item.module, {package}))


def test_only_their_owners_import_the_engines_the_plots_and_the_runner() -> None:
    assert find_border_breaks(read_imports(read_sources())) == []


def test_analyses_never_import_one_another() -> None:
    assert find_ties_between_analyses(read_imports(read_sources())) == []


def test_imports_stand_at_the_top() -> None:
    assert find_local_imports(read_imports(read_sources())) == []


def test_imports_make_no_cycle() -> None:
    assert find_cycle(read_imports(read_sources())) == []


def test_architecture_lists_each_module_once() -> None:
    rows = re.findall(r"^\| `(\w+)/?` \|", (ROOT / "ARCHITECTURE.md").read_text("utf-8"), re.MULTILINE)
    modules = {name.split(".")[1] for name in read_sources() if "." in name} - {"__main__"}
    assert sorted(rows) == sorted(modules)
    inner = {name.removeprefix("convlib.") for name in read_sources() if name.startswith("convlib.reports.")}
    assert inner - set(re.findall(r"`(reports\.\w+)`", (ROOT / "ARCHITECTURE.md").read_text("utf-8"))) == set()


def test_each_module_has_its_own_tests() -> None:
    tests = {file.stem.removeprefix("test_") for file in (ROOT / "tests").glob("test_*.py")}
    names = [name.split(".")[1:] for name in read_sources() if "." in name and not name.endswith("__main__")]
    assert [".".join(parts) for parts in names if tests.isdisjoint({parts[-1], "_".join(parts), parts[0]})] == []


@pytest.mark.parametrize(
    ("sources", "breaks"),
    [
        pytest.param(
            {"convlib.rates": "import matplotlib.pyplot"}, ["convlib.rates imports matplotlib.pyplot"], id="plots"
        ),
        pytest.param(
            {"convlib.runs": "from papermill import execute"}, ["convlib.runs imports papermill"], id="papermill"
        ),
        pytest.param({"convlib.plots": "import seaborn"}, [], id="the owner"),
        pytest.param({"convlib.rates": "if TYPE_CHECKING:\n    from matplotlib.axes import Axes"}, [], id="a type"),
        pytest.param({"convlib.reports.execute": "import papermill"}, [], id="inside the owning package"),
    ],
)
def test_find_border_breaks_names_who_imports_what(sources: dict[str, str], breaks: list[str]) -> None:
    assert find_border_breaks(read_imports(sources)) == breaks


def test_find_ties_between_analyses_sees_both_forms_of_import() -> None:
    sources = {
        "convlib.impact": "from convlib import correlation",
        "convlib.rates": "from convlib import correlation",
        "convlib.correlation": "",
        "convlib.funnel": "from convlib.correlation import correlate",
    }
    ties = ["convlib.rates imports convlib.correlation", "convlib.funnel imports convlib.correlation"]
    assert find_ties_between_analyses(read_imports(sources)) == ties


def test_find_local_imports_allows_only_lazy_packages_and_commands() -> None:
    sources = {
        "convlib": "def __getattr__(name):\n    import importlib",
        "convlib.cli": "def run():\n    import pandas",
        "convlib.plan": "class Plan:\n    def table(self):\n        if True:\n            import pandas",
    }
    assert find_local_imports(read_imports(sources)) == ["convlib.plan.table imports pandas"]


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        pytest.param({"a": "import b", "b": "import a"}, {"a", "b"}, id="two modules"),
        pytest.param({"a": "import b", "b": "def late():\n    import a"}, set(), id="a late import closes none"),
        pytest.param({"a": "import b", "b": "if TYPE_CHECKING:\n    import a"}, set(), id="nor does one for types"),
        pytest.param({"a": "import p.x", "p": "import a", "p.x": ""}, {"a", "p"}, id="through a package's __init__"),
        pytest.param({"p": "import p.x", "p.x": "import p.y", "p.y": ""}, set(), id="inside a package"),
    ],
)
def test_find_cycle_follows_what_python_executes(sources: dict[str, str], found: set[str]) -> None:
    assert set(find_cycle(read_imports(sources))) == found
