import json
from pathlib import Path
from typing import Any

import pytest

from convlib.errors import RunError
from convlib.merging import compare, fill_parameters, join, list_keys, merge, read_pieces, split


def keys(text: str) -> list[str]:
    return list_keys(split("a.txt", "".join(f"{line}\n" for line in text)))


def put_together(base: str, ours: str, theirs: str) -> str | None:
    """Merges three texts whose lines are one letter each."""
    texts = ["".join(f"{line}\n" for line in text) for text in (ours, theirs)]
    merged = merge(keys(base), *(split("a.txt", text) for text in texts))
    return None if merged is None else join("a.txt", "", merged).replace("\n", "")


@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        pytest.param("abcd", "abcd", "abcd", id="nobody changed anything"),
        pytest.param("aXcd", "abcd", "aXcd", id="only we changed a line"),
        pytest.param("abcd", "abYd", "abYd", id="only they changed a line"),
        pytest.param("aXcd", "abcY", "aXcY", id="two lines apart"),
        pytest.param("aXcd", "abYd", "aXYd", id="two lines side by side"),
        pytest.param("aXcd", "aXcd", "aXcd", id="both changed the same in the same way"),
        pytest.param("aXcd", "aYcd", None, id="both changed one line differently"),
        pytest.param("abXcd", "abYcd", None, id="both added at one place"),
        pytest.param("abXcd", "abXcd", "abXcd", id="both added the same"),
        pytest.param("acd", "abcdY", "acdY", id="we deleted, they added elsewhere"),
        pytest.param("ad", "abYd", None, id="we deleted what they changed"),
        pytest.param("Xabcd", "abcdY", "XabcdY", id="added at both ends"),
        pytest.param("", "abcd", "", id="we deleted all"),
    ],
)
def test_merge_keeps_both_changes_or_says_that_it_cannot(ours: str, theirs: str, merged: str | None) -> None:
    assert put_together("abcd", ours, theirs) == merged


def notebook(*cells: dict[str, Any]) -> str:
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def code(source: str, name: str = "1", **more: Any) -> dict[str, Any]:
    return {"cell_type": "code", "id": name, "metadata": {}, "source": source.splitlines(keepends=True), **more}


def parameters(source: str) -> dict[str, Any]:
    return code(source) | {"metadata": {"tags": ["parameters"]}}


def test_split_takes_outputs_counts_and_metadata_for_no_change() -> None:
    plain = split("a.ipynb", notebook(code("x = 1\n")))
    run = split("a.ipynb", notebook(code("x = 1\n", outputs=[{"text": "1"}], execution_count=3)))
    assert list_keys(plain) == list_keys(run)
    assert list_keys(plain) != list_keys(split("a.ipynb", notebook(code("x = 2\n"))))


def test_split_takes_values_of_parameters_for_no_change_but_their_comments_for_one() -> None:
    keys = [
        list_keys(split("a.ipynb", notebook(parameters(source))))
        for source in (
            'window: str = "7D"  # how long',
            'window: str = "1D"  # how long',
            'window: str = "7D"  # how much',
        )
    ]
    assert keys[0] == keys[1] != keys[2]


def test_fill_parameters_changes_values_and_nothing_else() -> None:
    source = 'by: list = ["a"]  # columns\nwindow: str = "7D"  # how long\nfewest: int = 0'
    filled = fill_parameters(notebook(code("by = 1"), parameters(source)), {"by": [], "window": 'a "b"', "other": 1})
    first, second = ("".join(cell["source"]) for cell in json.loads(filled)["cells"])
    assert first == "by = 1"
    assert second == 'by: list = []  # columns\nwindow: str = "a \\"b\\""  # how long\nfewest: int = 0'


def test_join_gives_each_cell_an_id_of_its_own() -> None:
    pieces = split("a.ipynb", notebook(code("x", "7"), code("y", "7"), code("z", "7")))
    assert [cell["id"] for cell in json.loads(join("a.ipynb", notebook(), pieces))["cells"]] == ["7", "7-2", "7-2-2"]


def test_compare_shows_cells_as_text() -> None:
    before, after = (split("a.ipynb", notebook(code(source))) for source in ("x = 1\ny", "x = 2\ny"))
    said = "".join(compare(before, after, "a/n.ipynb", "b/n.ipynb"))
    assert said == "--- a/n.ipynb\n+++ b/n.ipynb\n@@ -1,3 +1,3 @@\n %% code\n-x = 1\n+x = 2\n y\n"


def test_read_pieces_refuses_what_is_no_notebook(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text('{"cells": 1}')
    with pytest.raises(RunError) as error:
        read_pieces(path)
    assert str(error.value) == (
        f"{path} can't be read: no notebook: 'int' object is not iterable. Restore it, or delete it to do without."
    )
