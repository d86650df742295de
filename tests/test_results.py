import numpy as np
import pandas as pd
import pytest

from convlib.results import (
    Kind,
    Result,
    Takeaways,
    cut_text,
    format_number,
    format_seconds,
    format_value,
    show_table,
)


class Rows(Result):
    """A result of two columns."""

    SHOWN = (("name", "Step", "text"), ("units", "Units", "count"))


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (1234567, "count", "1,234,567"),
        (np.int64(12), "count", "12"),
        (0.1234, "percent", "12.3%"),
        (np.float64(0), "percent", "0.0%"),
        (0.0314, "points", "+3.1 pts"),
        (-0.0314, "points", "-3.1 pts"),
        (0.0004, "p_value", "<0.001"),
        (0.0456, "p_value", "0.046"),
        (1.0, "p_value", "1.000"),
        (45, "seconds", "45 s"),
        (90, "seconds", "1.5 min"),
        (7_200, "seconds", "2 h"),
        (129_600, "seconds", "1.5 d"),
        ("shop", "text", "shop"),
        (3, "text", "3"),
        ("shop", "count", "shop"),
        (np.inf, "number", "∞"),
        (-np.inf, "number", "-∞"),
    ],
)
def test_format_value_writes_each_kind(value: object, kind: Kind, text: str) -> None:
    assert format_value(value, kind) == text


@pytest.mark.parametrize("value", [None, np.nan, np.float64("nan"), pd.NaT, pd.NA, ""])
@pytest.mark.parametrize("kind", ["text", "count", "number", "percent", "seconds"])
def test_format_value_writes_a_dash_for_what_is_not_known(value: object, kind: Kind) -> None:
    assert format_value(value, kind) == "-"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (1234.5, "1,234"),
        (-1234.5, "-1,234"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.01234, "0.0123"),
    ],
)
def test_format_number_keeps_three_meaningful_digits(number: float, text: str) -> None:
    assert format_number(number) == text


def test_format_seconds_changes_unit_where_the_next_fits() -> None:
    assert [format_seconds(s) for s in (0, 59, 60, 3_599, 3_600, 86_400)] == [
        "0 s",
        "59 s",
        "1 min",
        "60 min",
        "1 h",
        "1 d",
    ]


def test_show_table_escapes_everything_that_comes_from_data() -> None:
    table = pd.DataFrame({"name": ["<script>alert(1)</script>", "a & b"]})
    text = show_table(table, [("name", "<b>Heading</b>", "text")], caption="<i>caption</i>")
    assert "<script>" not in text
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "a &amp; b" in text
    assert "&lt;i&gt;caption&lt;/i&gt;" in text


def test_show_table_shows_an_interval_beside_its_number() -> None:
    table = pd.DataFrame(
        {
            "rate": [0.5, 0.25, np.nan],
            "rate_ci_lower": [0.4, np.nan, np.nan],
            "rate_ci_upper": [0.6, np.nan, np.nan],
            "lift": [0.03, -0.02, np.nan],
            "lift_ci_lower": [0.01, -0.03, np.nan],
            "lift_ci_upper": [0.05, 0.01, np.nan],
        }
    )
    text = show_table(table, [("rate", "Rate", "percent"), ("lift", "Lift", "points")])
    for cell in ("50.0% (40.0 to 60.0)", "25.0% (-)", "+3.0 pts (+1.0 to +5.0)", "-2.0 pts (-3.0 to +1.0)"):
        assert f">{cell}</td>" in text.replace("\u00a0", " ")
    assert text.count(">-</td>") == 2


def test_show_table_shows_the_columns_that_are_there_in_the_order_asked() -> None:
    table = pd.DataFrame({"b": [2], "a": [1], "hidden": [3]})
    text = show_table(table, [("a", "First", "count"), ("gone", "Gone", "count"), ("b", "Second", "count")])
    assert text.index("First") < text.index("Second")
    assert "Gone" not in text
    assert ">3<" not in text


def test_show_table_marks_numbers_and_text() -> None:
    text = show_table(pd.DataFrame({"n": [1], "t": ["x"]}), [("n", "N", "count"), ("t", "T", "text")])
    assert text.count('class="data row0 col0 number"') == 1
    assert text.count('class="data row0 col1 text"') == 1


def test_show_table_of_no_rows_says_so() -> None:
    text = show_table(pd.DataFrame({"n": pd.Series([], dtype=float)}), [("n", "Number", "count")])
    assert text == '<p class="empty">Nothing to show.</p>'


def test_show_table_takes_an_index_with_repeated_labels() -> None:
    text = show_table(pd.DataFrame({"n": [1, 2]}, index=[0, 0]), [("n", "N", "count")])
    assert text.count("<td") == 2


def test_takeaways_are_an_escaped_list() -> None:
    takeaways = Takeaways(("Rate < 5%.", "Second.")) + Takeaways(("Third.",))
    assert takeaways._repr_html_() == (
        '<ul class="takeaways"><li>Rate &lt; 5%.</li><li>Second.</li><li>Third.</li></ul>'
    )
    assert isinstance(takeaways, Takeaways)
    assert takeaways.first(2)._repr_html_() == '<ul class="takeaways"><li>Rate &lt; 5%.</li><li>Second.</li></ul>'


def test_result_is_frozen_and_shows_its_table() -> None:
    result = Rows(pd.DataFrame({"name": ["view"], "units": [7]}), Takeaways(()), "all", {})
    with pytest.raises(AttributeError):
        result.segment = "other"  # type: ignore[misc]
    assert "<table" in result._repr_html_()
    assert ">7<" in result._repr_html_()


def test_result_puts_names_in_place_of_ids_and_leaves_its_table_alone() -> None:
    table = pd.DataFrame({"micro": ["save", "view"], "owner": ["save", "web"]})
    result = Result(table, Takeaways(()), "all", {"save": "Saved", "view": "Viewed"})
    assert result.named["micro"].tolist() == ["Saved", "Viewed"]
    assert result.named["owner"].tolist() == ["save", "web"]
    assert result.table["micro"].tolist() == ["save", "view"]


def test_show_table_marks_the_headings_of_words() -> None:
    text = show_table(pd.DataFrame({"a": ["x"], "b": [1]}), [("a", "Name", "text"), ("b", "Number", "count")])
    assert 'class="col_heading level0 col0 text" >Name<' in text
    assert 'class="col_heading level0 col1" >Number<' in text


def test_format_number_writes_minus_zero_as_zero() -> None:
    assert format_number(-0.0) == "0"


def test_show_table_refuses_two_columns_of_one_heading() -> None:
    table = pd.DataFrame({"days": [1], "macro_days": [2]})
    with pytest.raises(ValueError, match=r"^Two columns of a table can't have one heading: \['Days', 'Days'\]\.$"):
        show_table(table, [("days", "Days", "count"), ("macro_days", "Days", "count")])


def test_cut_text_leaves_out_the_middle_of_what_is_too_long() -> None:
    assert cut_text("short", 12) == "short"
    assert cut_text("abcdefgh12345xyz", 12) == "abcdefgh … xyz"


def test_long_texts_are_cut_in_cells_and_sentences() -> None:
    assert format_value("x" * 401, "text") == f"{'x' * 266} … {'x' * 100}"
    assert Takeaways(["y" * 1001])._repr_html_() == f'<ul class="takeaways"><li>{"y" * 666} … {"y" * 250}</li></ul>'
