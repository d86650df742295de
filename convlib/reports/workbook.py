"""Result tables as one Excel workbook: a sheet a table, typed cells, and a first sheet that says what is where."""

import datetime as dt
import io
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from xlsxwriter import Workbook
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from convlib.files import write_bytes
from convlib.plan_entries import is_share
from convlib.spreadsheets import is_run

#: What a sheet, a row and a cell of Excel can hold.
MAX_ROWS, MAX_COLUMNS, MAX_TEXT, MAX_NAME = 1_048_576, 16_384, 32_767, 31
#: Above it Excel would round the last digits away.
MAX_WHOLE = 10**15
CONTENTS = "Contents"
CUT = " … (cut)"
MAX_WIDTH = 60
#: The longest shown text of a link.
MAX_LINK = 255
#: Days before it Excel counts wrongly.
FIRST_DAY = pd.Timestamp(1900, 3, 1)
#: Always the same, so that equal tables give equal files.
CREATED = dt.datetime(2000, 1, 1)
CODES = {
    "count": "#,##0",
    "number": "General",
    "percent": "0.0%",
    "day": "yyyy-mm-dd",
    "time": "yyyy-mm-dd hh:mm:ss",
    "truth": "General",
}
WIDTHS = {"number": 9, "count": 7, "percent": 7, "day": 10, "time": 19, "truth": 6}
OPTIONS = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
#: By their names: which columns hold shares, and which of these hold something else about them.
SHARES = re.compile(r"(^|_)(rate|share|lift|probability)(_|$)")
WHOLE = re.compile(r"(p|q)_value$")
OF_METRIC = {"value", "ci_lower", "ci_upper", "previous", "change", "target", "benchmark_low", "benchmark_high"}
OF_CHANGE = {"before", "now", "difference", "ci_lower", "ci_upper"}
MEANINGS = {
    "units": "users (or sessions) that are counted",
    "units_with": "units that did the micro-conversion",
    "units_without": "units that did not",
    "exposed": "what the rate is out of",
    "pending": "units whose window is not over: in no rate",
    "period": "first day of the period of entry",
    "value": "the metric's value in its own unit",
    "previous": "the value one period before",
    "change": "value less previous",
    "lost": "units that came to the step before and not to this one",
    "rate_from_start": "share of the units of the first step",
    "rate_from_previous": "share of the units of the step before",
    "lift": "difference between the conversion rates with and without",
    "adjusted_lift": "the lift among units alike in the adjusted columns and in activity",
    "score": "value of one more unit that does it, if the association held",
    "reach": "units that could still do it",
    "opportunity": "score times the units that reaching the target would add",
    "effort": "the plan's estimate of the work",
    "verdict": "what the numbers allow to say",
    "status": "against target and benchmark",
    "note": "what limits the row",
}
ENDINGS = {
    "ci_lower": "lower end of the 95% interval",
    "ci_upper": "upper end of the 95% interval",
    "p_value": "probability of so large a difference by chance alone",
    "q_value": "the same, for all rows of the table together (Benjamini-Hochberg)",
    "p25": "a quarter is below",
    "p50": "half is below",
    "p75": "three quarters are below",
}


def write_workbook(path: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write tables as the sheets of one Excel workbook, equal for equal tables.

    Dates, numbers and shares are typed; what is not known is an empty cell; no text is run as a formula or a link. What
    is beyond Excel's limits is cut, and the first sheet says so.

    Args:
        path: The `.xlsx` file.
        tables: The tables by title, in order.
    """
    content = io.BytesIO()
    with Workbook(content, OPTIONS) as book:
        book.set_properties({"created": CREATED})
        look = _Look(book)
        contents = book.add_worksheet(CONTENTS)
        sheets = name_sheets(tables)
        notes = {title: _write_sheet(book.add_worksheet(sheets[title]), tables[title], look) for title in tables}
        _write_contents(contents, tables, sheets, notes, look)
    write_bytes(path, content.getvalue())


def name_sheets(titles: Iterable[str]) -> dict[str, str]:
    """Give each title a sheet name that Excel takes: short, without its reserved characters, and no two alike."""
    taken = {CONTENTS.casefold(), "history"}
    names: dict[str, str] = {}
    for title in titles:
        plain = re.sub(r"[\s\[\]:*?/\\\x00-\x1f]+", " ", title).strip("' ") or "Table"
        name, number = plain[:MAX_NAME].rstrip("' "), 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain[: MAX_NAME - len(str(number)) - 1]} {number}"
        taken.add(name.casefold())
        names[title] = name
    return names


def explain_column(name: str) -> str:
    """Say what a column of any result means ("" where only its own documentation can)."""
    ending = next((meaning for end, meaning in ENDINGS.items() if name == end or name.endswith(f"_{end}")), "")
    return MEANINGS.get(name) or ending


class _Look:
    """The formats of a workbook, each made once."""

    def __init__(self, book: Workbook) -> None:
        self.of_kind = {kind: book.add_format({"num_format": code}) for kind, code in CODES.items()}
        # Excel reads a text again when somebody edits its cell: quoted, it stays text then as well.
        self.of_kind["quoted"] = book.add_format({"quote_prefix": True})
        self.head = book.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top"})
        self.title = book.add_format({"bold": True, "font_size": 14})
        self.link = book.add_format({"font_color": "#1D5A80", "underline": 1})


def _write_sheet(sheet: Worksheet, table: pd.DataFrame, look: _Look) -> str:
    """Write one table, and say what of it is cut."""
    shown = table.iloc[: MAX_ROWS - 1, :MAX_COLUMNS]
    cut = sum([_write_column(sheet, shown, position, look) for position in range(shown.shape[1])])
    sheet.freeze_panes(1, 0)
    sheet.repeat_rows(0)
    sheet.set_landscape()
    sheet.fit_to_pages(1, 0)
    if shown.shape[1]:
        sheet.autofilter(0, 0, len(shown), shown.shape[1] - 1)
    notes = [f"{cut:,} texts of more than {MAX_TEXT:,} characters are cut."] if cut else []
    if len(shown) < len(table):
        notes.append(f"A sheet holds the first {len(shown):,} rows.")
    if shown.shape[1] < table.shape[1]:
        notes.append(f"A sheet holds the first {shown.shape[1]:,} of {table.shape[1]:,} columns.")
    return " ".join(notes)


def _write_column(sheet: Worksheet, table: pd.DataFrame, position: int, look: _Look) -> int:
    """Write one column with its heading, as wide as it needs, and count its texts that are cut."""
    heading, cells = str(table.columns[position]), table.iloc[:, position]
    shares = _find_shares(heading, table)
    _, width = _write_text(sheet, 0, position, heading, look.head)
    cut = 0
    for row, (value, is_share_of) in enumerate(zip(cells.astype("object"), shares, strict=True), start=1):
        kind, content = _type_cell(value, is_share=is_share_of)
        if kind == "text":
            quoted = look.of_kind["quoted"] if is_run(content) else None
            is_cut, needed = _write_text(sheet, row, position, content, quoted)
            cut, width = cut + is_cut, max(width, needed)
        elif kind:
            sheet.write(row, position, content, look.of_kind[kind])
            width = max(width, WIDTHS.get(kind, 0))
    sheet.set_column(position, position, min(width + 3, MAX_WIDTH))
    return cut


def _write_text(sheet: Worksheet, row: int, column: int, text: str, look: Format | None) -> tuple[bool, int]:
    """Write a text as far as a cell holds it; say whether it is cut, and how wide its longest line is."""
    units = text.encode("utf-16-le", "replace")
    is_cut = len(units) > 2 * MAX_TEXT
    shown = units[: 2 * (MAX_TEXT - len(CUT))].decode("utf-16-le", "ignore") + CUT if is_cut else text
    sheet.write_string(row, column, shown, look)
    return is_cut, max(map(len, shown.splitlines()), default=0)


def _type_cell(value: Any, *, is_share: bool) -> tuple[str, Any]:
    """Say what kind of cell a value needs ("": none), and give the value as the cell takes it."""
    if isinstance(value, bool | np.bool_):
        return "truth", bool(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if math.isnan(number):
            return "", None
        if math.isinf(number) or abs(number) >= MAX_WHOLE:
            return "text", str(value)
        return "percent" if is_share else "count" if isinstance(value, numbers.Integral) else "number", number
    if not isinstance(value, list | tuple | dict | set | np.ndarray) and (pd.isna(value) or value == ""):
        return "", None
    return _type_time(value) if isinstance(value, dt.date) else ("text", str(value))


def _type_time(value: dt.date) -> tuple[str, Any]:
    """Give a day or a time, in UTC, unless it is before Excel's first."""
    time = pd.Timestamp(value)
    time = time.tz_convert("UTC").tz_localize(None) if time.tzinfo else time
    if time < FIRST_DAY:
        return "text", str(value)
    return "day" if time == time.normalize() else "time", time.to_pydatetime(warn=False)


def _find_shares(heading: str, table: pd.DataFrame) -> Iterable[bool]:
    """Say for each row whether the column's number is a share, by its metric or unit where rows differ in these."""
    if heading in OF_METRIC and "metric" in table:
        return [is_share(str(metric)) for metric in table["metric"]]
    if heading in OF_CHANGE and "unit" in table:
        return table["unit"].isin(["percent", "points"])
    return [SHARES.search(heading) is not None and not WHOLE.search(heading)] * len(table)


def _write_contents(
    sheet: Worksheet,
    tables: Mapping[str, pd.DataFrame],
    sheets: Mapping[str, str],
    notes: Mapping[str, str],
    look: _Look,
) -> None:
    sheet.write_string(0, 0, CONTENTS, look.title)
    for column, heading in enumerate(("Table", "Rows", "Note")):
        sheet.write_string(2, column, heading, look.head)
    for row, (title, table) in enumerate(tables.items(), start=3):
        target = sheets[title].replace("'", "''")
        sheet.write_url(row, 0, f"internal:'{target}'!A1", look.link, string=title[:MAX_LINK])
        sheet.write_number(row, 1, len(table), look.of_kind["count"])
        sheet.write(row, 2, notes[title])
    start = len(tables) + 5
    sheet.write_string(start, 0, "Column", look.head)
    sheet.write_string(start, 1, "", look.head)
    sheet.write_string(start, 2, "What it means", look.head)
    columns = dict.fromkeys(str(name) for table in tables.values() for name in table.columns)
    known = [(name, meaning) for name in columns if (meaning := explain_column(name))]
    for row, (name, meaning) in enumerate(known, start=start + 1):
        sheet.write_string(row, 0, name)
        sheet.write_string(row, 2, meaning)
    sheet.fit_to_pages(1, 0)
    sheet.set_column(0, 0, 44)
    sheet.set_column(1, 1, 10)
    sheet.set_column(2, 2, MAX_WIDTH + 20)
