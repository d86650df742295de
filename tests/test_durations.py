import pytest

from convlib.durations import find_duration_problem, parse_duration, write_duration
from convlib.errors import ParamError


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1s", 1_000_000),
        ("0.1s", 100_000),
        ("0.000001s", 1),
        ("30min", 1_800_000_000),
        ("1.5h", 5_400_000_000),
        ("1D", 86_400_000_000),
        ("2W", 1_209_600_000_000),
        ("36525D", 36_525 * 86_400_000_000),
    ],
)
def test_parse_duration_counts_microseconds_exactly(text: str, microseconds: int) -> None:
    assert parse_duration(text) == microseconds


UNITS = "it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'."


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("7 days", f"{UNITS} Did you mean '7D'?"),
        ("7d", f"{UNITS} Did you mean '7D'?"),
        ("90 seconds", f"{UNITS} Did you mean '90s'?"),
        ("1.5H", f"{UNITS} Did you mean '1.5h'?"),
        ("5 minutes", f"{UNITS} Did you mean '5min'?"),
        ("3m", UNITS),
        ("-7D", UNITS),
        ("7D ago", UNITS),
        ("", UNITS),
        ("\N{ARABIC-INDIC DIGIT SEVEN}D", UNITS),
        ("0D", "it must be longer than zero, such as '30min' or '7D'."),
        ("0.0000001s", "it must be longer than zero, such as '30min' or '7D'."),
        ("36526D", "it must not be longer than 100 years ('36525D')."),
    ],
)
def test_parse_duration_says_what_would_be_right(text: str, problem: str) -> None:
    with pytest.raises(ParamError) as caught:
        parse_duration(text, name="window")
    assert str(caught.value) == f"`window` is {text!r}; {problem}"


@pytest.mark.parametrize("value", [7, None, ["7D"]])
def test_find_duration_problem_refuses_what_is_not_text(value: object) -> None:
    assert find_duration_problem(value) == UNITS


def test_find_duration_problem_finds_nothing_wrong_with_a_duration() -> None:
    assert find_duration_problem("7D") is None


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (129_600_000_000, "1.5D"),
        (3_600_000_000, "1h"),
        (3_599_000_000, "1h"),
        (1_500_000, "1.5s"),
        (1, "0.01s"),
    ],
)
def test_write_duration_uses_the_largest_unit_that_fits(microseconds: int, text: str) -> None:
    assert write_duration(microseconds) == text
