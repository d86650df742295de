from pathlib import Path

import pytest
from reports_project import PARAMETERS, write_notebook

from convlib.errors import RunError
from convlib.reports.notebooks import check_names, check_value, find_notebooks_folder, read_templates


def test_read_templates_gives_titles_and_literals_in_name_order(tmp_path: Path) -> None:
    write_notebook(tmp_path / "02_b.ipynb", title="Where they leave")
    write_notebook(tmp_path / "01_a.ipynb", parameters=PARAMETERS + "top: int | None = None  # x = 1\n")
    write_notebook(tmp_path / "_draft.ipynb")
    templates = read_templates(tmp_path)
    assert list(templates) == ["01_a", "02_b"]
    assert templates["02_b"].title == "Where they leave"
    assert dict(templates["01_a"].parameters) == {
        **dict.fromkeys(("events", "mapping", "plan", "segments", "start", "end", "output"), ""),
        "engine": "duckdb",
        "segment": "all",
        "window": "7D",
        "limit": 3,
        "fewest": 0,
        "by": [],
        "top": None,
    }


def test_read_templates_lists_the_faults_of_all_notebooks(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    write_notebook(folder / "a.ipynb", parameters='days = 7\nhours = days * 24\nsegment = "all"')
    write_notebook(folder / "b.ipynb", parameters="x = (")
    (folder / "c.ipynb").write_text("not JSON")
    (folder / "d.ipynb").write_text('{"cells": []}')
    with pytest.raises(RunError) as caught:
        read_templates(folder)
    assert caught.value.problems == (
        "notebooks/a.ipynb: `hours = days * 24` in the parameters cell must be `name = literal`.",
        "notebooks/a.ipynb: the parameters cell lacks 'events', 'mapping', 'engine', 'plan', 'segments', 'start', "
        "'end', 'output'; every run sets them.",
        "notebooks/b.ipynb: the parameters cell is not Python: '(' was never closed. Correct it.",
        "notebooks/c.ipynb is not a notebook: it is not JSON with cells. Save it again.",
        "notebooks/d.ipynb has 0 cells tagged `parameters`; it must have one. Tag it.",
    )


def test_read_templates_needs_a_notebook(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        read_templates(tmp_path)
    assert str(caught.value) == f"There is no notebook in {tmp_path.name}/. Add one."


def test_find_notebooks_folder_takes_the_nearest_above(tmp_path: Path) -> None:
    (tmp_path / "params" / "shop").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    assert find_notebooks_folder(tmp_path / "params" / "shop") == tmp_path / "notebooks"


def test_find_notebooks_folder_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        find_notebooks_folder(tmp_path)
    text = f"There is no folder `notebooks` beside {tmp_path} or above it. Keep the run file inside the project."
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("value", "default", "problem"),
    [
        ("7D", "14D", ""),
        (7, "14D", "is 7; it must be text, such as '14D'."),
        (0.5, 3, ""),
        ("3", 3, "is '3'; it must be a number, such as 3."),
        (True, 3, "is True; it must be a number, such as 3."),
        (1, False, "is 1; it must be true or false, such as False."),
        ("a", [], "is 'a'; it must be a list, such as ['a']."),
        (["a"], "a", "is ['a']; it must be text, such as 'a'."),
        ([], {}, "is []; it must be a mapping, such as {}."),
        ("anything", None, ""),
    ],
)
def test_check_value_compares_kinds(value: object, default: object, problem: str) -> None:
    assert check_value(value, default) == problem


def test_check_names_suggests_the_nearest_and_guards_what_the_run_sets() -> None:
    given = {"windw": "7D", "segment": "all", "limit": 3}
    assert check_names(given, ["segment", "window", "limit"], owner="a has") == [
        ("windw", "a has no parameter `windw`; the parameters are 'window', 'limit'. Did you mean 'window'?"),
        ("segment", "parameter `segment` is set by the run itself. Remove it here."),
    ]
    assert check_names({"x": 1}, [], owner="a has") == [("x", "a has no parameter `x`; there are none to set.")]
