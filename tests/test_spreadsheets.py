import pandas as pd
import pytest

from convlib.spreadsheets import is_run, neutralise_table, neutralise_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        pytest.param("=1+1", "'=1+1", id="a formula"),
        pytest.param("+1", "'+1", id="plus"),
        pytest.param("-1", "'-1", id="minus"),
        pytest.param("@SUM(1)", "'@SUM(1)", id="at"),
        pytest.param("\t=1", "'\t'=1", id="a tab"),
        pytest.param("\rpurchase", "'\rpurchase", id="a carriage return"),
        pytest.param(' " =cmd', "' \" =cmd", id="after space and quote"),
        pytest.param("\uff1d1+1", "'\uff1d1+1", id="in full width"),
        pytest.param("a;=1+1", "a;'=1+1", id="a second cell where ; separates"),
        pytest.param("a\n=1+1", "a\n'=1+1", id="a second line"),
        pytest.param("add_to_cart", "add_to_cart", id="a name"),
        pytest.param("a-b=c", "a-b=c", id="signs inside"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_neutralise_text_puts_an_apostrophe_before_what_would_run(text: str, plain: str) -> None:
    assert neutralise_text(text) == plain


def test_is_run_sees_only_what_a_cell_begins_with() -> None:
    assert [is_run(text) for text in ("=1", " -x", "x=1", "x;=1")] == [True, True, False, False]


def test_neutralise_table_changes_texts_and_headings_and_no_number() -> None:
    table = pd.DataFrame(
        {
            "=name": ["=1", "safe"],
            "kind": pd.Categorical(["+a", "b"]),
            "change": [-0.5, 1.0],
            "day": pd.to_datetime(["2024-03-01", "NaT"]),
            "mixed": ["-x", -3],
        }
    )
    before = table.copy(deep=True)
    text = neutralise_table(table).to_csv(index=False)
    assert text == "'=name,kind,change,day,mixed\n'=1,'+a,-0.5,2024-03-01,'-x\nsafe,b,1.0,,-3\n"
    pd.testing.assert_frame_equal(table, before)


def test_neutralise_table_keeps_an_empty_table_and_columns_of_one_name() -> None:
    twice = pd.DataFrame([["=1", "=2"]], columns=["a", "a"])
    assert neutralise_table(twice).to_csv(index=False) == "a,a\n'=1,'=2\n"
    assert neutralise_table(pd.DataFrame(columns=["x"])).to_csv(index=False) == "x\n"
