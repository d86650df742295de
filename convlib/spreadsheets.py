"""Text that a spreadsheet would run as a formula, made plain."""

import re

import pandas as pd

# OWASP, "CSV Injection": a cell is run when it begins so, also in full width or after spaces and quotes. With another
# separator than the file's, a cell also begins inside the text.
_BEGINS = r"[\s\"]*[=+\-@\uff1d\uff0b\uff0d\uff20]"
_RUN = re.compile(rf"{_BEGINS}|[\t\r\n]")
_INSIDE = re.compile(rf"([;|\t\r\n])(?={_BEGINS})")


def is_run(text: str) -> bool:
    """Say whether a spreadsheet might run a text as a formula, or hide its beginning."""
    return _RUN.match(text) is not None


def neutralise_text(text: str) -> str:
    """Give the text as one that no spreadsheet runs: an apostrophe before what it would take for a formula."""
    plain = _INSIDE.sub(r"\1'", text)
    return f"'{plain}" if is_run(text) else plain


def neutralise_table(table: pd.DataFrame) -> pd.DataFrame:
    """Give a table whose text cells and headings no spreadsheet runs; numbers stay what they are.

    Source: OWASP, "CSV Injection".

    Args:
        table: Any table.
    """
    plain = table.rename(columns=_neutralise)
    for position, kind in enumerate(table.dtypes):
        if not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_datetime64_any_dtype(kind)):
            cells = [_neutralise(value) for value in table.iloc[:, position].astype("object")]
            plain.isetitem(position, pd.array(cells, dtype="object"))
    return plain


def _neutralise(value: object) -> object:
    return neutralise_text(value) if isinstance(value, str) else value
