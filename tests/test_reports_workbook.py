import datetime as dt
import itertools
import shutil
import subprocess
import zipfile
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from convlib.reports import workbook
from convlib.reports.workbook import explain_column, name_sheets, write_workbook

RATES = pd.DataFrame(
    {
        "period": pd.to_datetime(["2024-03-04", "2024-03-11"]),
        "metric": ["rate", "sum of value"],
        "units": [12, 1_234],
        "value": [0.25, 310.5],
        "target": [0.3, float("nan")],
        "rate_from_start": [0.5, 1.0],
        "seen": pd.to_datetime(["2024-03-04 10:30", "NaT"], utc=True),
        "usable": [True, False],
        "note": ["", "=HYPERLINK(1)"],
    }
)


def read(path: Path, sheet: str) -> list[tuple[object, ...]]:
    return list(openpyxl.load_workbook(path)[sheet].iter_rows(values_only=True))


def test_write_workbook_types_its_cells(tmp_path: Path) -> None:
    write_workbook(tmp_path / "a.xlsx", {"Overview: rates": RATES})
    sheet = openpyxl.load_workbook(tmp_path / "a.xlsx")["Overview rates"]
    rows = [[cell.value for cell in row] for row in sheet.iter_rows()]
    assert rows[0] == list(RATES.columns)
    assert rows[1][:6] == [dt.datetime(2024, 3, 4), "rate", 12, 0.25, 0.3, 0.5]  # Excel knows no zones
    assert rows[1][6:] == [dt.datetime(2024, 3, 4, 10, 30), True, None]
    assert rows[2][4:] == [None, 1, None, False, "=HYPERLINK(1)"]
    formats = [cell.number_format for cell in sheet[2]]
    assert formats[:6] == ["yyyy-mm-dd", "General", "#,##0", "0.0%", "0.0%", "0.0%"]
    assert sheet["D3"].number_format == "General"  # a sum is no share
    assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("A2", "A1:I3")


def test_write_workbook_shows_changes_of_shares_as_percent_and_of_others_as_numbers(tmp_path: Path) -> None:
    numbers = {name: [0.25, 0.02, 2.5] for name in ("before", "now", "difference", "ci_lower", "ci_upper")}
    changes = pd.DataFrame({"unit": ["percent", "points", "number"], **numbers, "p_value": 0.03})
    write_workbook(tmp_path / "a.xlsx", {"c": changes})
    sheet = openpyxl.load_workbook(tmp_path / "a.xlsx")["c"]
    formats = [{cell.number_format for cell in row[1:6]} for row in sheet.iter_rows(min_row=2)]
    assert formats == [{"0.0%"}, {"0.0%"}, {"General"}]
    assert sheet["G2"].number_format == "General"


def test_write_workbook_runs_no_text_and_follows_none(tmp_path: Path) -> None:
    texts = ["=1+1", "https://example.org", "mailto:a@example.org", "-5", "internal:x!A1", "a\x00\x07b", "\u202eabc"]
    write_workbook(tmp_path / "a.xlsx", {"t": pd.DataFrame({"=text": texts})})
    sheet = openpyxl.load_workbook(tmp_path / "a.xlsx")["t"]
    cells = [row[0] for row in sheet.iter_rows()]
    assert {cell.data_type for cell in cells} == {"s"}
    assert [cell.hyperlink for cell in cells] == [None] * 8
    assert [cell.value for cell in cells][:5] == ["=text", *texts[:4]]
    assert [cell.quotePrefix for cell in cells][:5] == [False, True, False, False, True]


def test_write_workbook_lists_its_tables_and_explains_their_columns(tmp_path: Path) -> None:
    write_workbook(tmp_path / "a.xlsx", {"Overview: rates": RATES, "None": pd.DataFrame({"x": []})})
    rows = read(tmp_path / "a.xlsx", "Contents")
    assert rows[2:5] == [("Table", "Rows", "Note"), ("Overview: rates", 2, None), ("None", 0, None)]
    assert ("value", None, "the metric's value in its own unit") in rows
    link = openpyxl.load_workbook(tmp_path / "a.xlsx")["Contents"]["A4"].hyperlink
    assert link is not None
    assert link.location == "'Overview rates'!A1"


def test_write_workbook_is_equal_for_equal_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_workbook(tmp_path / "a.xlsx", {"r": RATES})
    monkeypatch.setattr("time.time", itertools.count(2e9).__next__)
    write_workbook(tmp_path / "b.xlsx", {"r": RATES})
    assert (tmp_path / "a.xlsx").read_bytes() == (tmp_path / "b.xlsx").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.xlsx") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_write_workbook_cuts_what_excel_can_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbook, "MAX_ROWS", 4)
    monkeypatch.setattr(workbook, "MAX_COLUMNS", 2)
    table = pd.DataFrame({"a": ["x" * 40_000, "\U0001f600" * 20_000, "y", "z"], "b": 1, "c": 2})
    write_workbook(tmp_path / "a.xlsx", {"t": table})
    rows = read(tmp_path / "a.xlsx", "t")
    assert len(rows) == 4
    assert rows[0] == ("a", "b")
    assert [len(str(row[0]).encode("utf-16-le")) // 2 <= 32_767 for row in rows] == [True] * 4
    assert str(rows[1][0]).endswith("x … (cut)")
    note = "2 texts of more than 32,767 characters are cut. A sheet holds the first 3 rows. "
    assert read(tmp_path / "a.xlsx", "Contents")[3] == ("t", 4, note + "A sheet holds the first 2 of 3 columns.")


def test_write_workbook_writes_what_is_no_number_of_excel_as_text(tmp_path: Path) -> None:
    odd = [float("inf"), 10**17, dt.date(1850, 1, 1), ["a", 1], pd.Timedelta("1h"), pd.NA, None]
    write_workbook(tmp_path / "a.xlsx", {"t": pd.DataFrame({"a": pd.Series(odd, dtype="object")})})
    cells = [row[0] for row in read(tmp_path / "a.xlsx", "t")]
    assert cells == ["a", "inf", "100000000000000000", "1850-01-01", "['a', 1]", "0 days 01:00:00"]


def test_name_sheets_makes_names_that_excel_takes() -> None:
    long = "Experiments checkout form: arms by device"
    titles = ["contents", "a/b:c*[d]?", "'quoted'", long, f"{long} too", "", "History", "A B C D"]
    assert list(name_sheets(titles).values()) == [
        "contents 2",
        "a b c d",
        "quoted",
        "Experiments checkout form arms",
        "Experiments checkout form arm 2",
        "Table",
        "History 2",
        "A B C D 2",
    ]


def test_explain_column_knows_names_and_endings() -> None:
    names = ("units", "lift_ci_lower", "p_value", "weather")
    explained = [explain_column(name) for name in names]
    assert explained[1:2] == ["lower end of the 95% interval"]
    assert explained[2:] == ["probability of so large a difference by chance alone", ""]


def test_write_workbook_opens_in_libreoffice(tmp_path: Path) -> None:
    soffice = shutil.which("soffice")
    if not soffice:  # half a gigabyte is too much to ask of everyone who runs the tests
        pytest.skip("LibreOffice is not installed")
    write_workbook(tmp_path / "a.xlsx", {"Overview: rates": RATES})
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    # Sheet 2 alone, as people see it.
    option = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,false,false,false,2"
    command = [
        soffice,
        profile,
        "--headless",
        "--convert-to",
        option,
        "--outdir",
        str(tmp_path),
        str(tmp_path / "a.xlsx"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    shown = next(tmp_path.glob("a*.csv")).read_text().splitlines()
    assert shown[1] == "2024-03-04,rate,12,25%,30%,50%,2024-03-04 10:30:00,TRUE,"
    assert shown[2].endswith(",FALSE,=HYPERLINK(1)")
