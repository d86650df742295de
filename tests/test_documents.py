from pathlib import Path

import pytest

from convlib.documents import did_you_mean, read_document, show_value
from convlib.errors import PlanError, RunError


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "plan.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_read_document_knows_the_line_of_every_field(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, "a: 1\nb:\n  - id: x\n    c: 2\n  - {d: 3}\n"))
    assert document.data == {"a": 1, "b": [{"id": "x", "c": 2}, {"d": 3}]}
    assert document.lines == {
        (): 1,
        ("a",): 1,
        ("b",): 2,
        ("b", 0): 3,
        ("b", 0, "id"): 3,
        ("b", 0, "c"): 4,
        ("b", 1): 5,
        ("b", 1, "d"): 5,
    }


def test_document_names_a_field_by_the_id_of_its_entry(tmp_path: Path) -> None:
    path = write(tmp_path, "b:\n  - id: x\n    c: 2\n  - {d: 3}\n")
    document = read_document(path)
    assert document.problem(("b", 0, "c"), "is 2; it must be 1.") == f"{path}:3: b[x].c is 2; it must be 1."
    assert document.problem(("b", 1, "e"), "is missing.") == f"{path}:4: b[1].e is missing."
    assert document.problem((), "is wrong.") == f"{path}:1: the file is wrong."


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("007", "007"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-12-31", "2026-12-31"),
        ("0x1F", "0x1F"),
        ("-5", -5),
        ("0", 0),
        ("0.10", 0.1),
        (".5", 0.5),
        ("1e-3", 0.001),
        (".inf", ".inf"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'5'", "5"),
        ("!!str 5", "5"),
    ],
)
def test_read_document_takes_only_what_is_meant_for_numbers_and_truth(tmp_path: Path, text: str, value: object) -> None:
    read = read_document(write(tmp_path, f"a: {text}\n")).data["a"]
    assert read == value
    assert type(read) is type(value)


def test_read_document_keeps_keys_as_they_are_written(tmp_path: Path) -> None:
    assert read_document(write(tmp_path, "2013: 1\ntrue: 2\n007: 3\n")).data == {"2013": 1, "true": 2, "007": 3}


def test_read_document_follows_aliases_and_skips_a_byte_order_mark(tmp_path: Path) -> None:
    assert read_document(write(tmp_path, "\ufeffa: &x [1]\nb: *x\n")).data == {"a": [1], "b": [1]}


DEEP = "the fields are nested too deeply, or an alias contains itself. Write them out."
INDENT = "Check the indentation of this line and the one before; text with `: ` in it needs quotes."
NOT_TEXT = "a key must be plain text, not a list, a mapping or <<. Write the fields out."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ":1: the file is empty. Write its fields, or name another file."),
        ("# nothing\n", ":1: the file is empty. Write its fields, or name another file."),
        ("a: 1\n\tb: 2\n", ":2: the file can't be read as YAML: while scanning for the next token, "
         "found character '\\t' that cannot start any token. Indent with spaces, not tabs."),
        ("a: [1\nb: 2\n", ":2: the file can't be read as YAML: while parsing a flow sequence, "
         "expected ',' or ']', but got ':'."),
        ("a: 1\n---\nb: 2\n", ":2: the file can't be read as YAML: expected a single document in the stream, "
         "but found another document."),
        ("a:\n  b: 1\n c: 2\n", ":3: the file can't be read as YAML: while parsing a block mapping, "
         f"expected <block end>, but found '<block mapping start>'. {INDENT}"),
        ("a: 1\n b: 2\n", f":2: the file can't be read as YAML: mapping values are not allowed here. {INDENT}"),
        ("a: *b\n", ":1: the file can't be read as YAML: found undefined alias 'b'."),
        ("a: !!python/name:os.system x\n", ":1: the file can't be read as YAML: could not determine a constructor "
         "for the tag 'tag:yaml.org,2002:python/name:os.system'."),
        ("a: &a [*a]\n", f": {DEEP}"),
        ("[" * 100_000, f": {DEEP}"),  # which crashes libyaml
        (b"a: 1\nb: \xff\n", ":2: the file is not UTF-8 text. Save it as UTF-8."),
        ('a: 1\nb: "\x01"\n', ":2: the character U+0001 is not allowed in YAML. Delete it."),
        ("? [a]\n: b\n", f":1: {NOT_TEXT}"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", f":3: {NOT_TEXT}"),
    ],
)  # fmt: skip
def test_read_document_says_where_a_file_is_broken(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(PlanError) as caught:
        read_document(path)
    assert str(caught.value) == f"{path}{message}"


def test_read_document_stops_at_aliases_that_multiply(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    path = write(tmp_path, "\n".join(lines))
    with pytest.raises(PlanError) as caught:
        read_document(path)
    assert str(caught.value) == f"{path}:1: the file can't be read as YAML: more than 100,000 fields."


def test_read_document_lists_every_key_that_stands_twice(tmp_path: Path) -> None:
    path = write(tmp_path, "a:\n  b: 1\n  c: 2\n  b: 3\na: 4\n")
    with pytest.raises(RunError) as caught:
        read_document(path, error=RunError)
    assert caught.value.problems == (
        f"{path}:4: the key 'b' stands twice in one mapping, first on line 2. Remove or rename one of them.",
        f"{path}:5: the key 'a' stands twice in one mapping, first on line 1. Remove or rename one of them.",
    )


def test_read_document_names_a_file_like_the_missing_one(tmp_path: Path) -> None:
    write(tmp_path, "a: 1\n")
    with pytest.raises(PlanError) as caught:
        read_document(tmp_path / "plna.yaml")
    assert str(caught.value) == f"{tmp_path / 'plna.yaml'} does not exist. Did you mean 'plan.yaml'?"


@pytest.mark.parametrize("missing", ["nowhere/plan.yaml", "plan.yaml/plan.yaml"])
def test_read_document_says_that_a_file_is_missing(tmp_path: Path, missing: str) -> None:
    write(tmp_path, "a: 1\n")
    with pytest.raises(PlanError) as caught:
        read_document(tmp_path / missing)
    assert str(caught.value) == f"{tmp_path / missing} does not exist. Check its name and folder."


def test_read_document_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(PlanError) as caught:
        read_document(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a folder; it must be a YAML file. Name one in it."


def test_read_document_passes_on_why_a_file_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    with pytest.raises(PlanError) as caught:
        read_document(path)
    assert str(caught.value) == f"{path} can't be read: File name too long. Check who may read it."


def test_did_you_mean_ignores_case_and_finds_nothing_far() -> None:
    assert did_you_mean("MODULE", ["module", "region"]) == " Did you mean 'module'?"
    assert did_you_mean("zzz", ["module", "region"]) == ""


def test_show_value_cuts_long_values() -> None:
    assert show_value("x" * 200) == "'" + "x" * 78 + "…"
