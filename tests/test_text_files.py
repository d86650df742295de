import gzip
from pathlib import Path

import pytest
from source_files import (
    GOOD,
    GOOD_JSON,
    HEADER,
    put,
    refuse,
    rejected,
    write,
    write_csv,
    write_json,
    write_mapping,
    write_zst,
)

from convlib.events import read_events


@pytest.mark.parametrize("good_rows", [2, 30_000], ids=["in a small file", "late in a large file"])
@pytest.mark.parametrize(("bad", "fields"), [("u2,x", 2), ("u2,x,2026-01-02,more,and more", 5)])
def test_list_bad_lines_rejects_what_has_too_few_or_many_fields(
    bad: str, fields: int, good_rows: int, tmp_path: Path
) -> None:
    log = read_events(write_csv(tmp_path, *[GOOD] * good_rows, bad, "u3,x,2026-01-03"))
    assert log.rejects.to_dict("list") == {
        "source": ["log.csv"],
        "row": [good_rows + 2],  # the line: its header is the first
        "reason": [f"line can't be split: {fields} fields instead of 3"],
        "text": [bad],
    }
    assert log.row_counts == {"read": good_rows + 2, "used": good_rows + 1, "rejected": 1, "left_out": 0}


def test_list_bad_lines_stands_beside_other_rejects_of_several_files(tmp_path: Path) -> None:
    write_csv(tmp_path / "logs", GOOD, "u2,x", name="a.csv")
    write_csv(tmp_path / "logs", GOOD, "u3,x,soon", GOOD, "u4,x,2026-01-01,more", name="b/b.csv")
    log = read_events(tmp_path / "logs")
    assert sorted(rejected(log)) == [
        ["a.csv", 3, "line can't be split: 2 fields instead of 3"],
        ["b/b.csv", 2, "timestamp is not a date and time"],
        ["b/b.csv", 5, "line can't be split: 4 fields instead of 3"],
    ]
    assert log.row_counts == {"read": 6, "used": 3, "rejected": 3, "left_out": 0}


def test_list_bad_lines_rejects_a_line_of_more_than_the_engine_reads(tmp_path: Path) -> None:
    log = read_events(write_csv(tmp_path, *[GOOD] * 30_000, f"{'u' * 3_000_000},x,2026-01-01", GOOD))
    assert (log.rows_read, log.rows_used, log.rejects["row"].tolist()) == (30_002, 30_001, [30_002])
    assert log.rejects["reason"].str.len().max() < 200


def test_explain_does_not_repeat_a_line_of_more_than_the_engine_reads(tmp_path: Path) -> None:
    message = str(refuse(write_csv(tmp_path, GOOD, f"{'u' * 3_000_000},x,2026-01-01", GOOD)))
    assert len(message) < 1_000  # not compared as text: a failure would print it all
    assert "Maximum line size of 2000000 bytes exceeded" in message


def test_list_bad_lines_numbers_lines_in_whole_numbers(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / "logs", GOOD, "u2,x", name=name)
    assert read_events(tmp_path / "logs").rejects["row"].astype("str").tolist() == ["3", "3"]


@pytest.mark.parametrize("lines", [["{oops", GOOD_JSON], [*[GOOD_JSON] * 30_000, '{"user_id": "u2'], ["null"]])
def test_read_events_rejects_garbled_json_lines(lines: list[str], tmp_path: Path) -> None:
    log = read_events(write_json(tmp_path, GOOD_JSON, *lines))
    number = next(i for i, line in enumerate(lines, start=2) if line != GOOD_JSON)
    assert rejected(log) == [["log.jsonl", number, "the row is empty or garbled"]]
    assert (log.rows_read, log.rows_used) == (len(lines) + 1, len(lines))


@pytest.mark.parametrize("line", ["7", "[1]", '"text"'])
def test_read_events_rejects_json_lines_that_are_no_object(line: str, tmp_path: Path) -> None:
    log = read_events(write_json(tmp_path, GOOD_JSON, line, GOOD_JSON))
    assert rejected(log) == [["log.jsonl", 2, "the row is empty or garbled"]]
    assert log.rejects["text"].tolist() == [line]
    assert log.to_pandas()["geo"].tolist() == ["NO", "NO"]


def test_read_events_rejects_garbled_json_lines_of_the_needed_columns_only(tmp_path: Path) -> None:
    log = read_events(write_json(tmp_path, GOOD_JSON.replace(', "geo": "NO"', ""), "{oops"))
    assert rejected(log) == [["log.jsonl", 2, "the row is empty or garbled"]]


def test_read_events_refuses_a_json_array_that_was_cut_off(tmp_path: Path) -> None:
    source = write(tmp_path / "log.json", f"[{GOOD_JSON},\n{GOOD_JSON[:40]}")
    message = str(refuse(source))
    assert message.startswith("`log.json` can't be read: line 1 is no JSON object: ")


OTHERS = "Save it as UTF-8, or state `encoding: utf-16`, `encoding: latin-1`, `encoding: cp1252` in a mapping file."


@pytest.mark.parametrize("good_rows", [1, 40_000], ids=["early", "late"])
@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "csv.zst"])
def test_read_events_refuses_another_encoding(suffix: str, good_rows: int, tmp_path: Path) -> None:
    data = "\n".join([HEADER, *[GOOD] * good_rows, "Jürgen,x,2026-01-01\n"]).encode("latin-1")
    source = tmp_path / f"log.{suffix}"
    if suffix.endswith("zst"):
        write_zst(source, data)
    else:
        write(source, gzip.compress(data) if suffix.endswith("gz") else data)
    assert str(refuse(source)) == f"`log.{suffix}` is not UTF-8: line {good_rows + 2} holds other bytes. {OTHERS}"


def test_read_events_refuses_json_in_another_encoding(tmp_path: Path) -> None:
    source = write(tmp_path / "log.jsonl", GOOD_JSON.replace("NO", "Österreich").encode("latin-1"))
    assert str(refuse(source)) == "`log.jsonl` is not UTF-8: line 1 holds other bytes. Save it as UTF-8."


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_read_events_takes_a_stated_encoding(encoding: str, tmp_path: Path) -> None:
    source = write(tmp_path / "log.csv", f"{HEADER}\nJürgen,x,2026-01-01\n".encode(encoding))
    mapping = write_mapping(tmp_path, f"encoding: {encoding}\n")
    assert read_events(source, mapping=mapping).to_pandas()["user_id"].tolist() == ["Jürgen"]


@pytest.mark.parametrize("at", ["file", "address"])
def test_read_events_refuses_utf_16_that_is_not_stated(at: str, tmp_path: Path) -> None:
    data = f"{HEADER}\n{GOOD}\n".encode("utf-16")
    address = f"memory://{tmp_path.name}/log.csv"
    source = write(tmp_path / "log.csv", data) if at == "file" else put(address, data)
    assert str(refuse(source)) == f"`log.csv` is not UTF-8: it begins with the mark of UTF-16. {OTHERS}"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_read_events_refuses_utf_16_without_its_mark(suffix: str, tmp_path: Path) -> None:
    source = write(tmp_path / f"log.{suffix}", f"{HEADER}\n{GOOD}\n".encode("utf-16-le"))
    assert str(refuse(source)).startswith(f"`log.{suffix}` is not UTF-8: it holds NUL bytes, as UTF-16 does. Save it")


@pytest.mark.parametrize("good_rows", [1, 50_000], ids=["early", "late"])
@pytest.mark.parametrize(("ends", "found"), [(("\n", "\r\n"), "CRLF"), (("\r\n", "\n"), "LF")])
def test_read_events_refuses_mixed_line_ends(ends: tuple[str, str], found: str, good_rows: int, tmp_path: Path) -> None:
    lines = [f"{line}{ends[0]}" for line in (HEADER, *[GOOD] * good_rows)]
    source = write(tmp_path / "log.csv", "".join(lines) + f"{GOOD}{ends[1]}" + f"{GOOD}{ends[0]}")
    assert str(refuse(source)) == (
        f"`log.csv` can't be read: line {good_rows + 2} ends in {found} and the lines before it do not. Save it with "
        "one kind of line end."
    )


@pytest.mark.parametrize("good_rows", [1, 50_000], ids=["early", "late"])
def test_read_events_refuses_a_quotation_mark_that_is_never_closed(good_rows: int, tmp_path: Path) -> None:
    source = write_csv(tmp_path, *[GOOD] * good_rows, 'u2,"two', 'lines",2026-01-01', 'u2,"x,2026-01-01', GOOD, GOOD)
    assert str(refuse(source)) == (
        f"`log.csv` can't be read: line {good_rows + 4} opens a quotation mark that is never closed: "
        "'u2,\"x,2026-01-01'. Close it, or double it inside a quoted field."
    )


@pytest.mark.parametrize("suffix", ["csv.gz", "csv.zst", "jsonl.gz"])
def test_read_events_refuses_a_packed_file_that_was_cut_off(suffix: str, tmp_path: Path) -> None:
    lines = [HEADER, *(f"u{i},x,2026-01-01" for i in range(20_000))] if "csv" in suffix else [GOOD_JSON] * 20_000
    data, whole = "\n".join(lines).encode(), tmp_path / f"log.{suffix}"
    write_zst(whole, data) if suffix.endswith("zst") else write(whole, gzip.compress(data))
    whole.write_bytes(whole.read_bytes()[:-50])
    message = str(refuse(whole))
    assert message.startswith(f"`log.{suffix}` can't be unpacked: ")
    assert message.endswith(" It may have been cut off; copy or export it again.")


@pytest.mark.parametrize("suffix", ["csv.gz", "jsonl.zst"])
def test_read_events_refuses_a_file_that_is_not_packed_as_its_name_says(suffix: str, tmp_path: Path) -> None:
    source = write(tmp_path / f"log.{suffix}", f"{HEADER}\n{GOOD}\n")
    assert str(refuse(source)).startswith(f"`log.{suffix}` can't be unpacked: ")


@pytest.mark.parametrize("suffix", ["csv", "csv.zst"])
def test_read_events_refuses_a_column_twice_in_csv(suffix: str, tmp_path: Path) -> None:
    data = f"{HEADER},User_ID\n{GOOD},u2\n".encode()
    source = tmp_path / f"log.{suffix}"
    write_zst(source, data) if suffix == "csv.zst" else write(source, data)
    message = f"`log.{suffix}` has the column `user_id` 2 times; rename or remove all but one."
    assert str(refuse(source)) == message


def test_read_events_rejects_a_first_line_that_is_no_json(tmp_path: Path) -> None:
    log = read_events(write_json(tmp_path, "log rotated", GOOD_JSON))
    assert rejected(log) == [["log.jsonl", 1, "the row is empty or garbled"]]


@pytest.mark.parametrize("good_rows", [1, 50_000], ids=["early", "late"])
def test_read_events_names_a_line_with_text_beside_a_quoted_field(good_rows: int, tmp_path: Path) -> None:
    source = write_csv(tmp_path, *[GOOD] * good_rows, 'u2,"a"b,2026-01-01', GOOD)
    if good_rows == 1:
        assert str(refuse(source)) == (
            f"`log.csv` can't be read: line {good_rows + 2} has text beside a quoted field: 'u2,\"a\"b,2026-01-01'. "
            "Close it, or double it inside a quoted field."
        )
    else:
        assert f"line {good_rows + 2}" in str(refuse(source))
