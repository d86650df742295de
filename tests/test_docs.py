"""The docs as text: no block that nothing runs or reads, YAML that convlib takes, links that lead somewhere."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from docs_pages import ROOT, Block, expect_value, list_pages, list_unmarked, read_blocks, read_yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from convlib.documents import read_document
from convlib.reports.run_file import RunFile

BLOCKS = [block for page in list_pages() for block in read_blocks(page)]
YAML = [block for block in BLOCKS if block.mark == "reads"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_every_block_is_run_or_read_or_says_why_not() -> None:
    assert list(list_unmarked(BLOCKS)) == []


def test_what_is_not_run_needs_something_takes_long_or_changes_the_machine() -> None:
    reasons = {f"{block.place}: {block.text}" for block in BLOCKS if block.mark == "not run"}
    assert [each for each in reasons if not re.search(r": (needs|takes|changes) ", each)] == []


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.place)
def test_every_yaml_block_is_taken_by_its_reader(block: Block, tmp_path: Path) -> None:
    read_yaml(block, tmp_path)


def test_the_table_of_a_run_file_has_every_field_its_default_and_an_example_that_is_taken(tmp_path: Path) -> None:
    section = (ROOT / "docs" / "runs.md").read_text("utf-8").split("## Every field of a run file")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| .+ \| (.+) \| `(.+)` \|$", section, flags=re.MULTILINE)
    fields = list_fields(RunFile)
    assert [name for name, *_ in rows] == list(fields)
    for name, default, example in rows:
        (tmp_path / "run.yaml").write_text(example, "utf-8")
        RunFile.model_validate({"run": "r", "events": "e", "plan": "p", **read_document(tmp_path / "run.yaml").data})
        if default.startswith("`"):
            said, known = yaml.safe_load(default.strip("`")), fields[name].default
            assert said == (list(known) if isinstance(known, tuple) else known), name
        assert fields[name].is_required() == default.startswith("needed"), name


def list_fields(model: type[BaseModel], above: str = "") -> dict[str, FieldInfo]:
    """List the fields that hold values, with the names of the mappings around them."""
    fields: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inner = find_model(field.annotation)
        within = f"{above}{name}." + "NAME." * str(field.annotation).startswith("dict")
        fields |= list_fields(inner, within) if inner else {above + name: field}
    return fields


def find_model(kind: object) -> type[BaseModel] | None:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next(filter(None, map(find_model, get_args(kind))), None)


@pytest.mark.parametrize("page", list_pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files_and_headings_lead_there(page: Path) -> None:
    assert [link for link in LINK.findall(page.read_text("utf-8")) if not leads_somewhere(page, link)] == []


def leads_somewhere(page: Path, link: str) -> bool:
    """Judge addresses elsewhere by their form alone: no test looks at the network."""
    if re.match(r"[a-z]+:", link):
        return bool(re.fullmatch(r"https://[\w.-]+\.[a-z]+(/\S*)?", link))
    path, _, heading = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if "reference" in target.parts or target.name == "reference":
        return True  # headings of names come from docstrings: the site's own check holds them
    return target.exists() and (not heading or heading in list_headings(target))


def list_headings(page: Path) -> set[str]:
    """Slugs as GitHub and the site make them alike."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("found", "said"), [(0.1239, "0.124"), (3, "3"), ("a", "'a'"), ([1, 2], "[1, 2]")])
def test_a_value_is_compared_as_far_as_its_digits_go(found: object, said: str) -> None:
    expect_value(found, said, "page:1")


def test_a_wrong_value_names_its_place() -> None:
    with pytest.raises(AssertionError, match=r"page:1: found 0.1251"):
        expect_value(0.1251, "0.124", "page:1")
