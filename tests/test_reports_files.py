from pathlib import Path

from convlib.reports.files import digest_files, write_bytes, write_text


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
