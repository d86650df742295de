"""What an event's name says: its words, whether it is an outcome, a loss or noise, and where it happens."""

import itertools
import re
from collections.abc import Iterable

#: Where a word begins in `addToCart` and `PDFViewed`.
CAPITALS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def split_words(name: str) -> list[str]:
    """Split a name at its separators and capitals, and cut the words' endings: `ItemsViewed` is `item`, `view`."""
    return [_stem(word) for word in re.findall(r"[^\W_]+", CAPITALS.sub(" ", name).casefold())]


def _stem(word: str) -> str:
    cut = re.sub(r"(?<=\w{3})(ing|ed|es|s|e)$", "", word)
    return re.sub(r"([^\W\d_])\1$", r"\1", cut)


def spell(name: str) -> str:
    """Give names of the same words the same spelling; of two words either may come first (`Trial Started`)."""
    words = split_words(name)
    return " ".join(sorted(words) if len(words) == 2 else words) or name


def _table(words: str) -> frozenset[str]:
    return frozenset(map(_stem, words.split()))


#: Kinds of outcome, with their words: what pays comes first, what only carries a value last.
OUTCOMES = {
    "its name is that of a purchase, a subscription or an upgrade": _table(
        "purchase buy bought order transaction payment paid subscribe subscription upgrade donate donation book "
        "booking reserve reservation deposit renew renewal"
    ),
    "its name is that of an enquiry": _table("quote enquiry inquiry lead demo contact application"),
    "its name is that of joining": _table("signup register registration join trial"),
    "its name is that of an end reached": _table(
        "complete finish pass graduate graduation certificate certify award diploma win won convert submit"
    ),
    "it carries a value": frozenset[str](),
}
NO_OUTCOME = _table(
    "abandon add begin button cancel click detail error fail history info list method modal open page refund remind "
    "remove send sent show status track view"
)
SUCCESS = _table("pass success succeed complete win won accept approve paid convert")
PROBLEMS = _table("error fail failure exception decline reject abandon crash lose lost loss")
DONE_TO_USERS = _table("sent deliver impression bounce")
#: Words of leaving, those that say so only with what is left, and what can be left.
LEAVING = _table("unsubscribe cancel cancellation churn uninstall unregister deactivate terminate withdrawn dropout")
ENDING = _table("delete close")
LEFT = _table("user account subscription membership plan trial customer app profile my drop out")
NAVIGATION = {
    spell(name)
    for name in (
        *("page_view", "pageview", "page", "screen_view", "screen", "page_leave", "pageleave", "session_start"),
        *("session_end", "first_visit", "first_open", "user_engagement", "scroll", "click", "autocapture", "identify"),
        *("heartbeat", "ping", "app_update", "os_update"),
    )
}
#: Events of Segment's e-commerce specification, and the recommended events of GA4 that mean the same.
SAME_ACTION = {
    spell(segment): spell(ga4)
    for segment, ga4 in {
        "Product Added": "add_to_cart",
        "Product Removed": "remove_from_cart",
        "Product Viewed": "view_item",
        "Product List Viewed": "view_item_list",
        "Product Added to Wishlist": "add_to_wishlist",
        "Products Searched": "search",
        "Checkout Started": "begin_checkout",
        "Payment Info Entered": "add_payment_info",
        "Order Completed": "purchase",
    }.items()
}
#: Where it happens: channels by their name alone, whatever page they lead to.
CHANNELS = {"email": _table("email"), "push": _table("push"), "chatbot": _table("chat chatbot")}
PAGES = {
    "home": _table("home"),
    "product_listing": _table("category filter search"),
    "product_page": _table("product item wishlist"),
    "cart": _table("cart promo coupon"),
    "checkout": _table("checkout shipping payment"),
    "pricing_page": _table("pricing"),
    "onboarding": _table("onboarding"),
}


def name_action(name: str) -> str:
    """Give one key to all spellings of an action, and to what GA4's and Segment's e-commerce events call it."""
    return SAME_ACTION.get(spell(name), spell(name))


def list_terms(names: Iterable[str]) -> frozenset[str]:
    """List the words of names, and each two that follow one another as one (`Sign Up`)."""
    listed = [split_words(name) for name in names]
    pairs = [first + second for words in listed for first, second in itertools.pairwise(words)]
    return frozenset([*itertools.chain(*listed), *pairs])


def find_outcome(names: Iterable[str]) -> str | None:
    """Say why names sound like an outcome that pays, or None."""
    terms = list_terms(names)
    return None if terms & NO_OUTCOME else next((kind for kind, words in OUTCOMES.items() if terms & words), None)


def is_loss(name: str) -> bool:
    """Say whether a name means leaving for good, such as `delete_account`, and not `delete_item`."""
    words = {*split_words(name), *list_terms([name]) & LEAVING}  # those of `dropped out` are one
    rest = words - LEAVING - ENDING
    return bool(words & LEAVING or (words & ENDING and rest)) and rest <= LEFT


def find_touchpoint(name: str, folder: str | None = None) -> str | None:
    """Name where an event happens, if its name or the folder of its pages says so clearly.

    Args:
        name: The event's name.
        folder: The first folder of the pages that nearly all of its rows stand on; empty for the home page.
    """
    page = None if folder is None else _find_place(folder or "home", PAGES)
    return _find_place(name, CHANNELS) or page or _find_place(name, PAGES)


def _find_place(name: str, places: dict[str, frozenset[str]]) -> str | None:
    found = [place for place, words in places.items() if words & list_terms([name])]
    return found[0] if len(found) == 1 else None
