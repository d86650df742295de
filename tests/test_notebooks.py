"""The templates as they stand, and each one run through papermill as a user would."""

import ast
import json
import os
import warnings
from concurrent.futures import ProcessPoolExecutor, wait
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml

from convlib.datasets.shop import shop_events
from convlib.reports.notebooks import check_value

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NAMES = ["00_overview", "01_event_map", "02_funnel", "03_correlation", "04_impact", "05_experiments"]
SHARED = ["events", "mapping", "engine", "plan", "segments", "segment", "start", "end", "timezone", "output", "fewest"]
RUN_FILES = sorted((ROOT / "params").glob("**/[!_]*.yaml"))
SEGMENTS = ["all", "device=mobile"]
#: Every notebook for all units; the funnel, whose tables are compared, for a segment too.
RUNS = [*((name, "all") for name in NAMES), ("02_funnel", "device=mobile")]
MOST_LINES = 10


def read_cells(name: str) -> list[Any]:
    cells: list[Any] = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    return cells


def read_code(name: str) -> list[Any]:
    return [cell for cell in read_cells(name) if cell.cell_type == "code"]


def read_parameters_cell(name: str) -> str:
    tagged = [cell.source for cell in read_cells(name) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    return str(tagged[0])


def read_parameters(name: str) -> dict[str, Any]:
    lines = ast.parse(read_parameters_cell(name)).body
    return {line.target.id: ast.literal_eval(line.value) for line in lines}  # type: ignore[attr-defined]


def read_run_files() -> list[tuple[str, dict[str, Any]]]:
    texts = [(str(path.relative_to(ROOT)), yaml.safe_load(path.read_text("utf-8"))) for path in RUN_FILES]
    return [(name, data) for name, data in texts if "run" in data]


def test_notebooks_are_the_six_templates() -> None:
    assert [path.stem for path in sorted(FOLDER.glob("*.ipynb"))] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_valid_and_for_any_python_3(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text("utf-8")
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert json.loads(text)["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("name", NAMES)
def test_notebook_has_no_saved_outputs(name: str) -> None:
    for cell in read_code(name):
        assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_opens_with_its_one_title_its_question_its_reader_and_its_decision(name: str) -> None:
    prose = [cell.source for cell in read_cells(name) if cell.cell_type == "markdown"]
    titles = [line for text in prose for line in text.splitlines() if line.startswith("# ")]
    assert len(titles) == 1
    assert prose[0].startswith(titles[0])
    for word in ("**Question**:", "**For**", "**Decides**"):
        assert word in prose[0]


@pytest.mark.parametrize("name", NAMES)
def test_notebook_has_takeaways_first_then_numbered_sections_then_limits_and_next_steps(name: str) -> None:
    prose = "\n".join(cell.source for cell in read_cells(name) if cell.cell_type == "markdown")
    headings = [line.removeprefix("## ") for line in prose.splitlines() if line.startswith("## ")]
    assert headings[:2] == ["Data", "Key takeaways"]
    assert headings[-2:] == ["Data quality and limits", "Next steps"]
    numbers = [heading.split(".")[0] for heading in headings[2:-2]]
    assert numbers == [str(n) for n in range(1, len(numbers) + 1)]


@pytest.mark.parametrize("name", NAMES)
def test_notebook_sections_ask_a_question_and_say_what_they_cannot_show(name: str) -> None:
    prose = [cell.source.split("\n", 1) for cell in read_cells(name) if cell.cell_type == "markdown"]
    for heading, *text in prose:
        if heading.startswith("## ") and heading[3].isdigit():
            assert "?" in text[0].split("\n")[0], heading
            assert text[0].split("\n")[-1].startswith("**Can't show**: "), heading


@pytest.mark.parametrize("name", NAMES)
def test_notebook_explains_each_code_cell_before_it(name: str) -> None:
    kinds = [cell.cell_type for cell in read_cells(name)]
    assert kinds[0] == "markdown"
    assert all(before == "markdown" for before, kind in pairwise(kinds) if kind == "code")


@pytest.mark.parametrize("name", NAMES)
def test_notebook_has_short_cells_without_logic(name: str) -> None:
    forbidden = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.If, ast.Try, ast.comprehension)
    for cell in read_code(name):
        lines = cell.source.splitlines()
        if "parameters" not in cell.metadata.get("tags", []):
            assert len(lines) <= MOST_LINES
        tree = ast.parse(cell.source)
        assert not [node for node in ast.walk(tree) if isinstance(node, forbidden)]
        imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert set(imported) <= {"convlib"}
        assert "warnings" not in cell.source
        assert not cell.source.lstrip().startswith("%")


@pytest.mark.parametrize("name", NAMES)
def test_notebook_parameters_are_annotated_literals_with_a_comment_one_a_line(name: str) -> None:
    source = read_parameters_cell(name)
    body = ast.parse(source).body
    assert len(body) == len(source.splitlines())
    for statement, line in zip(body, source.splitlines(), strict=True):
        assert isinstance(statement, ast.AnnAssign)
        assert statement.value is not None
        ast.literal_eval(statement.value)
        assert "|" not in ast.unparse(statement.annotation)
        assert "  # " in line
    assert list(read_parameters(name))[: len(SHARED)] == SHARED


@pytest.mark.parametrize("name", NAMES)
def test_notebook_parameters_are_all_seen_by_papermill(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # papermill's own imports
        import papermill

    found = papermill.inspect_notebook(FOLDER / f"{name}.ipynb")
    assert {key: ast.literal_eval(each["default"]) for key, each in found.items()} == read_parameters(name)
    # A comment that papermill takes over whole shows that nothing else on the line hid the parameter.
    assert all(each["help"] for each in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_notebook_hands_every_parameter_to_the_check(name: str) -> None:
    code = "\n".join(cell.source for cell in read_code(name)[1:])
    tree = ast.parse(code)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    check = next(c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "check_parameters")
    assert sorted(str(keyword.arg) for keyword in check.keywords) == sorted(read_parameters(name))
    assert all(isinstance(k.value, ast.Name) and k.value.id == k.arg for k in check.keywords)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_saves_what_it_shows(name: str) -> None:
    assert read_code(name)[-1].source.startswith("params.save(")


def test_notebooks_adjust_what_they_say_of_micros_for_the_same_columns() -> None:
    defaults = [read_parameters(name)["adjust"] for name in ("00_overview", "03_correlation", "04_impact")]
    assert defaults == defaults[:1] * 3
    for _, run in read_run_files():
        given = [own["adjust"] for name, own in run["notebooks"].items() if name != "02_funnel" and "adjust" in own]
        assert given == given[:1] * len(given)


def test_there_is_a_run_file_for_each_example() -> None:
    assert [name for name, _ in read_run_files()] == [
        "params/monthly.yaml",
        "params/oulad/weekly.yaml",
        "params/quarterly.yaml",
        "params/shop/weekly.yaml",
        "params/weekly.yaml",
    ]


@pytest.mark.parametrize(("file", "run"), read_run_files(), ids=[name for name, _ in read_run_files()])
def test_run_file_names_notebooks_and_parameters_that_exist(file: str, run: dict[str, Any]) -> None:
    known = {name: read_parameters(name) for name in NAMES}
    problems = [
        f"{file}: {notebook}: {parameter} {check_value(value, known[notebook].get(parameter))}"
        for notebook, parameters in run["notebooks"].items()
        for parameter, value in parameters.items()
        if parameter not in set(known[notebook]) - set(SHARED) or check_value(value, known[notebook][parameter])
    ]
    assert problems == []
    assert set(run.get("parameters", {})) <= {each for parameters in known.values() for each in parameters}


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Run every notebook for two segments on a small shop, with the shop's own run file; give each one's folder."""
    folder = tmp_path_factory.mktemp("runs")
    shop_events(2_000, 5)[0].to_parquet(folder / "events.parquet")
    run = yaml.safe_load((ROOT / "params" / "shop" / "weekly.yaml").read_text("utf-8"))
    jobs = {(name, segment): folder / f"{name}-{number}" for number, (name, segment) in enumerate(RUNS)}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(run_notebook, name, place, make_parameters(name, segment, folder, place, run))
            for (name, segment), place in jobs.items()
        ]
        # One that fails leaves its notebook with the error, which its own tests find.
        wait(waiting)
    return jobs


def make_parameters(name: str, segment: str, folder: Path, place: Path, run: dict[str, Any]) -> dict[str, Any]:
    own = {**run["parameters"], **run["notebooks"][name]}
    shared = {
        "events": str(folder / "events.parquet"),
        "plan": "../params/shop/plan.yaml",
        "segments": "../params/shop/segments.yaml",
        "segment": segment,
        "output": str(place),
    }
    return shared | {key: value for key, value in own.items() if key in read_parameters(name)}


def run_notebook(name: str, place: Path, parameters: dict[str, Any]) -> None:
    """Run one notebook in a process of its own: papermill changes the working directory."""
    os.environ["PYTHONWARNINGS"] = "ignore"
    import papermill

    place.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        FOLDER / f"{name}.ipynb",
        place / f"{name}.ipynb",
        parameters=parameters,
        cwd=FOLDER,
        progress_bar=False,
        kernel_name="python3",
        shutdown_kernel="immediate",
    )


@pytest.mark.parametrize(("name", "segment"), RUNS)
def test_notebook_runs_without_an_error_or_a_warning(
    executed: dict[tuple[str, str], Path], name: str, segment: str
) -> None:
    cells = nbformat.read(executed[name, segment] / f"{name}.ipynb", as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type in {"error", "stream"}] == []
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize(("name", "segment"), RUNS)
def test_notebook_shows_takeaways_figures_and_tables(
    executed: dict[tuple[str, str], Path], name: str, segment: str
) -> None:
    cells = nbformat.read(executed[name, segment] / f"{name}.ipynb", as_version=4).cells
    shown = [output.data for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    html = "".join("".join(data.get("text/html", "")) for data in shown)
    assert html.count('<ul class="takeaways">') >= 1
    assert f"Segment {segment}, entries from" in html
    plots = sum(".plot" in cell.source for cell in cells if cell.cell_type == "code")
    assert sum("image/png" in data for data in shown) == plots > 0
    assert "<table" in html


@pytest.mark.parametrize(("name", "segment"), RUNS)
def test_notebook_writes_its_tables_and_takeaways(
    executed: dict[tuple[str, str], Path], name: str, segment: str
) -> None:
    folder = executed[name, segment]
    said = json.loads((folder / "takeaways.json").read_text("utf-8"))
    assert all(sentence.endswith(".") for sentence in said["takeaways"])
    tables = sorted(folder.glob("*.parquet"))
    assert tables
    for path in tables:
        table = pd.read_parquet(path)
        assert len(table) > 0
        assert len(pd.read_csv(path.with_suffix(".csv"))) == len(table)


def test_notebooks_of_a_segment_count_fewer_than_the_whole(executed: dict[tuple[str, str], Path]) -> None:
    whole, mobile = (
        pd.read_parquet(executed["02_funnel", segment] / "funnel.parquet")["units"] for segment in SEGMENTS
    )
    assert (mobile < whole).all()
