"""What every analysis returns: a frozen table with its takeaways, shown the same way everywhere."""

import dataclasses
import hashlib
import html
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from convlib.plan_entries import is_share, is_time

Kind = Literal["text", "count", "number", "percent", "points", "seconds", "p_value"]
MISSING = "-"
LONG_TEXT = 60
#: A name out of the data may be of any length: so many characters of a cell and of a sentence are shown.
MOST_TEXT, MOST_SENTENCE = 400, 1_000
#: Columns that hold a conversion's id.
ID_COLUMNS = ("micro", "conversion", "name")


class Takeaways(tuple[str, ...]):
    """Sentences computed from a result, shown as a list."""

    __slots__ = ()

    def __add__(self, other: Sequence[str]) -> "Takeaways":  # type: ignore[override]
        """Join two results' sentences."""
        return Takeaways((*self, *other))

    def first(self, count: int) -> "Takeaways":
        """Give the first sentences alone."""
        return Takeaways(self[:count])

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(cut_text(sentence, MOST_SENTENCE))}</li>" for sentence in self)
        return f'<ul class="takeaways">{items}</ul>'


@dataclasses.dataclass(frozen=True)
class Result:
    """The table of one analysis, tidy and unrounded, with the same columns for every input.

    Attributes:
        table: The numbers.
        takeaways: What they say, in computed sentences.
        segment: Name of the segment that they are about.
        names: For each conversion's id, its name for people.
        fewest: Numbers of fewer units than this are left out, and what would reveal one; 0 leaves out nothing.
    """

    #: What a reader sees, in order: column, heading and kind; an interval beside a number is shown with it.
    SHOWN: ClassVar[tuple[tuple[str, str, Kind], ...]] = ()

    table: pd.DataFrame
    takeaways: Takeaways
    segment: str
    names: dict[str, str]
    fewest: int = dataclasses.field(default=0, kw_only=True)

    def _repr_html_(self) -> str:
        return show_table(self.named, self.SHOWN)

    @property
    def named(self) -> pd.DataFrame:
        """Give the table with names for people in place of the conversions' ids."""
        ids = [column for column in ID_COLUMNS if column in self.table]
        return self.table.assign(**{column: self.table[column].replace(self.names) for column in ids})


@dataclasses.dataclass(frozen=True)
class Shown:
    """A table as people see it in a notebook."""

    table: pd.DataFrame
    columns: tuple[tuple[str, str, Kind], ...]

    def _repr_html_(self) -> str:
        return show_table(self.table, self.columns)


def show_table(table: pd.DataFrame, shown: Sequence[tuple[str, str, Kind]], *, caption: str = "") -> str:
    """Render a table for people: rounded, with units, intervals beside their numbers, and `-` for what is not known."""
    columns = [(name, heading, kind) for name, heading, kind in shown if name in table]
    headings = [heading for _, heading, _ in columns]
    if len(set(headings)) < len(headings):
        msg = f"Two columns of a table can't have one heading: {headings!r}."
        raise ValueError(msg)
    cells = pd.DataFrame({heading: _format_column(table, name, kind) for name, heading, kind in columns})
    if cells.empty:
        return '<p class="empty">Nothing to show.</p>'
    classes = pd.DataFrame({heading: _cell_class(cells[heading], kind) for _, heading, kind in columns})
    # The id that the Styler gives a table comes from its content: no two on a page, and the same in every run.
    digest = hashlib.sha256(cells.to_csv().encode()).hexdigest()[:12]
    style = Styler(cells, uuid=digest, cell_ids=False, escape="html").hide(axis="index").set_td_classes(classes)
    style = style.format_index(escape="html", axis="columns").set_table_attributes('class="convlib"')
    style = style.set_caption(html.escape(caption)) if caption else style
    text = style.to_html()
    for number, (_, _, kind) in enumerate(columns):
        if kind == "text":  # the Styler gives classes to cells only, and a heading stands over its column
            text = text.replace(f'col_heading level0 col{number}"', f'col_heading level0 col{number} text"', 1)
    return text


def find_kind(metric: str) -> Kind:
    """Say how the values of a metric, given in words, are written."""
    return "percent" if is_share(metric) else "seconds" if is_time(metric) else "number"


def format_value(value: object, kind: Kind) -> str:
    """Write one value for people, with its unit."""
    if (
        value is None
        or value is pd.NaT
        or value is pd.NA
        or (isinstance(value, float) and np.isnan(value))
        or value == ""
    ):
        return MISSING
    if isinstance(value, str) or kind == "text":
        return cut_text(str(value))
    number = float(value)  # type: ignore[arg-type]  # numpy and pandas scalars
    if np.isinf(number):
        return "∞" if number > 0 else "-∞"
    writers = {
        "count": lambda: f"{number:,.0f}",
        "number": lambda: format_number(number),
        "percent": lambda: f"{number:z.1%}",
        "points": lambda: f"{100 * number:+z.1f} pts",
        "seconds": lambda: format_seconds(number),
        "p_value": lambda: "<0.001" if number < 0.001 else f"{number:.3f}",
    }
    return writers[kind]()


def cut_text(text: str, most: int = MOST_TEXT) -> str:
    """Leave out the middle of a text that is too long for people; tables keep it whole."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} … {text[-most // 4 :]}"


def format_number(number: float) -> str:
    """Write a number with three or four meaningful digits."""
    number += 0.0  # minus zero is zero
    if number == 0 or abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.{max(0, 2 - int(np.floor(np.log10(abs(number)))))}f}"


def format_seconds(seconds: float) -> str:
    """Write a duration in the largest unit that fits."""
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {name}"
    return f"{seconds:.0f} s"


def _cell_class(cells: pd.Series, kind: Kind) -> pd.Series:
    """Name the class of each cell; a column of long texts is kept wide, so that its rows do not grow tall."""
    if kind != "text":
        return pd.Series("number", index=cells.index)
    long = cells.str.len().max() > LONG_TEXT
    return pd.Series("text long" if long else "text", index=cells.index)


def _format_column(table: pd.DataFrame, name: str, kind: Kind) -> list[str]:
    values = [format_value(value, kind) for value in table[name]]
    lower, upper = f"{name}_ci_lower", f"{name}_ci_upper"
    if name == "value" and "ci_lower" in table:
        lower, upper = "ci_lower", "ci_upper"
    if lower not in table:
        return values
    plain: Kind = kind
    intervals = zip(table[lower], table[upper], strict=True)
    return [
        v if v == MISSING else f"{v} ({_format_interval(low, high, plain)})"
        for v, (low, high) in zip(values, intervals, strict=True)
    ]


def _format_interval(low: float, high: float, kind: Kind) -> str:
    if np.isnan(low) or np.isnan(high):
        return MISSING
    texts = [format_value(bound, kind).removesuffix(" pts").removesuffix("%") for bound in (low, high)]
    return "\u00a0to\u00a0".join(texts)  # an interval stays on one line
