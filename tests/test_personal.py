import pytest

from convlib.personal import count_personal, is_card


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ann.lee+shop@mail.example.co.uk", {"e-mail addresses": 1}),
        ("/reset?mail=ann@example.com&x=1", {"e-mail addresses": 1}),
        ("logo@2x.png", {}),
        ("/@ann/posts", {}),
        ("+49 30 1234567", {"telephone numbers": 1}),
        ("call (030) 123-4567", {"telephone numbers": 1}),
        ("+1-202-555-0143", {"telephone numbers": 1}),
        ("20241121093000", {}),
        ("order 4711-0815", {}),
        ("2024-11-21 09:30:00", {}),
        ("4111 1111 1111 1111", {"card numbers": 1}),
        ("5500-0000-0000-0004", {"card numbers": 1}),
        ("4111 1111 1111 1112", {}),
        ("52.520006599999997", {}),
        ("1e-05", {}),
    ],
)
def test_count_personal_tells_a_persons_data_from_ids_and_numbers(text: str, found: dict[str, int]) -> None:
    assert count_personal([text]) == found


def test_count_personal_takes_a_column_of_long_ids_for_no_cards() -> None:
    # One in ten passes the check digit by chance.
    assert count_personal([str(4_000_000_000_000_000 + n) for n in range(200)]) == {}


def test_count_personal_looks_for_addresses_alone_among_ids() -> None:
    texts = ["4111111111111111", "ann@example.com"]
    assert count_personal(texts, numbers=False) == {"e-mail addresses": 1}


@pytest.mark.parametrize(
    ("number", "valid"),
    [("79927398713", True), ("79927398710", False), ("378282246310005", True), ("0000000000000", False)],
)
def test_is_card_checks_the_last_digit(number: str, valid: bool) -> None:
    assert is_card(number) is valid


def test_count_personal_finds_addresses_as_urls_write_them() -> None:
    assert count_personal(["/leave?mail=ann%40example.com"], numbers=False) == {"e-mail addresses": 1}
