import time
from pathlib import Path

import pytest

from convlib.files import digest_files, remove_folder, sweep_scratch, write_bytes, write_text


def test_write_text_makes_folders_and_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "one\ntwo €\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"one\ntwo \xe2\x82\xac\n"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_write_bytes_replaces_what_was_there(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"a long first content")
    write_bytes(tmp_path / "a", b"short")
    assert (tmp_path / "a").read_bytes() == b"short"


def test_digest_files_depends_on_names_and_contents_and_not_on_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    digest = digest_files([one, two])
    assert digest == digest_files([two, one])
    two.write_text("3")
    assert digest != digest_files([one, two])
    assert digest_files([one]) != digest_files([one.rename(tmp_path / "three")])


def test_write_bytes_leaves_nothing_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "a" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_bytes(tmp_path / "a", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_remove_folder_removes_all_below(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".a.part").mkdir()
    remove_folder(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_sweep_scratch_removes_what_killed_processes_left_and_no_more(tmp_path: Path) -> None:
    for name in ("page.html", ".page.html.part", "all/.f.part.ipynb", ".a.part/b/c", ".a.old/b", "all/.keep"):
        write_bytes(tmp_path / name, b"1")
    sweep_scratch(tmp_path, before=time.time() - 60)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "page.html", ".page.html.part", ".f.part.ipynb", ".keep",
    }  # fmt: skip
    sweep_scratch(tmp_path, before=time.time() + 60)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"page.html", ".keep"}
