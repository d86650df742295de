import pytest

from convlib.event_names import (
    find_outcome,
    find_touchpoint,
    is_loss,
    list_terms,
    name_action,
    spell,
    split_words,
)

PAYING = "its name is that of a purchase, a subscription or an upgrade"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("add_to_cart", ["ad", "to", "cart"]),
        ("AddToCart", ["ad", "to", "cart"]),
        ("Added to cart", ["ad", "to", "cart"]),
        ("PDFViewed", ["pdf", "view"]),
        ("2nd-step", ["2nd", "step"]),
        ("Café öffnen", ["café", "öffnen"]),
        ("!?", []),
    ],
)
def test_split_words_cuts_at_separators_and_capitals(name: str, words: list[str]) -> None:
    assert split_words(name) == words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("add_to_cart", "Add To Cart"),
        ("add_to_cart", "addToCart"),
        ("purchase", "Purchases"),
        ("Trial Started", "start_trial"),
        ("cancel_order", "order-cancelled"),
    ],
)
def test_spell_takes_the_same_words_for_the_same(one: str, other: str) -> None:
    assert spell(one) == spell(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("add_to_cart", "add_to_wishlist"), ("a_to_b", "b_to_a"), ("view_item", "view_item_list"), ("!", "?")],
)
def test_spell_keeps_other_words_apart(one: str, other: str) -> None:
    assert spell(one) != spell(other)


def test_name_action_knows_the_events_of_segment_and_ga4() -> None:
    assert name_action("Product Added") == name_action("AddToCart") == spell("add_to_cart")
    assert name_action("Order Completed") == name_action("purchase")
    assert name_action("Product Shared") != name_action("add_to_cart")


def test_list_terms_joins_words_that_follow_one_another() -> None:
    assert list_terms(["Sign Up", "join"]) == {"sign", "up", "signup", "join"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("purchase", PAYING),
        ("Subscription Started", PAYING),
        ("quote_requested", "its name is that of an enquiry"),
        ("Signed Up", "its name is that of joining"),
        ("finish_module", "its name is that of an end reached"),
        ("certificate issued", "its name is that of an end reached"),
        ("issue_reported", None),
        ("purchase_failed", None),
        ("save_payment_method", None),
        ("track_order", None),
        ("view_item", None),
    ],
)
def test_find_outcome_says_why(name: str, why: str | None) -> None:
    assert find_outcome([name]) == why


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("unsubscribe", True),
        ("Subscription Cancelled", True),
        ("delete_my_account", True),
        ("cancel", True),
        ("dropped out", True),
        ("Dropout", True),
        ("drop", False),
        ("delete", False),
        ("cancel_order", False),
        ("delete_item", False),
        ("close_account_menu", False),
        ("subscribe", False),
    ],
)
def test_is_loss_means_leaving_for_good(name: str, loss: bool) -> None:
    assert is_loss(name) is loss


@pytest.mark.parametrize(
    ("name", "folder", "place"),
    [
        ("use_filter", None, "product_listing"),
        ("add_to_cart", None, "cart"),
        ("add_to_cart", "product", "product_page"),
        ("save", "", "home"),
        ("email_click", "cart", "email"),
        ("filter_cart", None, None),
        ("share", "blog", None),
        ("share", None, None),
    ],
)
def test_find_touchpoint_answers_only_when_it_is_clear(name: str, folder: str | None, place: str | None) -> None:
    assert find_touchpoint(name, folder) == place
