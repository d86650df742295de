"""What is true in the simulated shop: who comes, what they do on the first day, and who buys.

Clock: a unit's `first_visit`. What it does on the first day (24 hours) depends only on its device, its medium and on
how many plain pages it looked at. Whether it buys in the 14 days after that is drawn from a sum of risks: a base by
device and medium, a share for each plain page, and the planted effect of each micro-conversion done on the first day.
So among units of equal device, medium and number of plain pages, the difference in the share of buyers is the planted
number, whatever the weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
ENTRY_DAYS = 84
HORIZON_DAYS = 14
MOST_PAGES = 10
WEEKDAY_WEIGHTS = np.array([1.0, 0.95, 0.95, 1.0, 1.1, 1.35, 1.4])
HOUR_WEIGHTS = np.array([2, 1, 1, 1, 1, 2, 4, 6, 8, 9, 9, 9, 10, 9, 8, 8, 9, 11, 13, 15, 16, 14, 9, 5], dtype=float)
GROWTH_A_DAY = 0.003

DEVICES = ("mobile", "desktop", "tablet")
DEVICE_SHARES = (0.55, 0.38, 0.07)
DEVICE_APPETITE = np.array([0.85, 1.15, 1.0])
DEVICE_RISK = np.array([0.0, 0.02, 0.01])
# source, medium, campaign, referrer; a source has one medium, so adjusting for either is enough
CHANNELS = (
    ("google_ads", "cpc", "summer_sale", "https://www.google.com/"),
    ("facebook", "cpc", "summer_sale", "https://www.facebook.com/"),
    ("google", "organic", None, "https://www.google.com/"),
    ("bing", "organic", None, "https://www.bing.com/"),
    ("newsletter", "email", "weekly_news", None),
    ("(direct)", "(none)", None, None),
)
CHANNEL_SHARES = (0.20, 0.12, 0.22, 0.05, 0.20, 0.21)
CHANNEL_APPETITE = np.array([0.85, 0.85, 1.0, 1.0, 1.25, 1.1])
CHANNEL_RISK = np.array([0.0, 0.0, 0.01, 0.01, 0.03, 0.02])
MOBILE, EMAIL, DIRECT = 0, 4, 5
GEOS = ("US", "GB", "DE", "FR", "CA")
GEO_SHARES = (0.52, 0.18, 0.14, 0.08, 0.08)
APP_SHARE = 0.3
BASE_RISK = 0.05
PAGE_RISK = 0.012

#: Median seconds until a page has loaded, by device, and the spread of their logarithm.
LOAD_SECONDS, LOAD_SPREAD = np.array([2.6, 1.4, 1.9]), 0.5
#: How many times as long a page took to load for those whose visit ends there; elsewhere leaving has no part in it.
SLOWER_BEFORE_LEAVING = {"/category/bags": 1.35, "/help/sizes": 1.2}
#: The form's fields, the longer one's share of those who begin the checkout, and of those whose visit ends there.
FORM_FIELDS, LONG_FORM_SHARE, LONG_FORM_SHARE_LEFT = (9, 14), 0.3, 0.45

#: How long after their assignment the planted differences between the arms hold, both ends included.
TEST_WINDOW = 14 * DAY


@dataclass(frozen=True)
class Test:
    """What is planted for one experiment: by which share the second arm has more of each outcome, revenue last."""

    __test__ = False  # pytest would collect a class of this name

    experiment: str
    column: str
    arms: tuple[str, str]
    days: tuple[str, str]
    effects: tuple[tuple[str, str, float], ...]


# The step before what changes is planted to stay, and so do all before it, since every later one implies it.
TESTS = (
    Test(
        "checkout_form",
        "form_test",
        ("control", "short"),
        ("2026-06-08", "2026-08-09"),
        (
            ("begin_checkout", "rate", 0.0),
            ("add_shipping_info", "rate", 0.12),
            ("purchase", "rate", 0.05),
            ("purchase", "sum of value", 0.05),
        ),
    ),
    # People leave the cart to look for a code, and those who find one pay less.
    Test(
        "promo_banner",
        "promo_test",
        ("control", "banner"),
        ("2026-07-06", "2026-08-16"),
        (
            ("view_cart", "rate", 0.0),
            ("apply_promo", "rate", 0.30),
            ("purchase", "rate", -0.14),
            ("purchase", "sum of value", -0.20),
        ),
    ),
)


@dataclass(frozen=True)
class Micro:
    """What is planted for one micro: how often it happens and what it adds to the chance of a later purchase."""

    name: str
    rate: float
    planted: str = "null"
    effect: float = 0.0


MICROS = (
    Micro("newsletter_signup", 0.11, "positive", 0.035),
    Micro("select_category", 0.26),
    Micro("use_filter", 0.16),
    Micro("email_click", 0.20),
    Micro("app_open", 0.16),
    Micro("view_item", 0.30, "precondition"),
    Micro("add_to_wishlist", 0.13, "positive", 0.12),
    Micro("add_to_cart", 0.05, "precondition"),
    Micro("view_cart", 0.04, "precondition"),
    Micro("apply_promo", 0.09),
    Micro("begin_checkout", 0.02, "precondition"),
    Micro("field_error", 0.08, "negative", -0.045),
    Micro("add_shipping_info", 0.02, "precondition"),
    Micro("save_payment_method", 0.09, "positive", 0.08),
    Micro("track_order", 0.01, "follows"),
)
# Doing the first means having done the second, in the order in which they follow from each other.
IMPLIED = (
    ("save_payment_method", "add_shipping_info"),
    ("add_shipping_info", "begin_checkout"),
    ("field_error", "begin_checkout"),
    ("begin_checkout", "view_cart"),
    ("apply_promo", "view_cart"),
    ("view_cart", "add_to_cart"),
    ("add_to_cart", "view_item"),
    ("add_to_wishlist", "view_item"),
)


def list_planted() -> pd.DataFrame:
    """List what is planted, the truth that an analysis should find.

    Returns:
        One row a micro: `micro`, `planted` (positive, null, negative, precondition, follows) and `true_lift`, the
        difference in the chance of a purchase in the 14 days after the first day between units that did it on the
        first day and units that did not, of equal device, medium and number of plain pages; NaN where not defined.
    """
    defined = {"positive", "null", "negative"}
    rows = [(m.name, m.planted, m.effect if m.planted in defined else np.nan) for m in MICROS]
    return pd.DataFrame(rows, columns=["micro", "planted", "true_lift"])


def list_friction() -> pd.DataFrame:
    """List where slow pages and long forms are planted to go with leaving.

    Returns:
        One row for each signal and page where something is planted: `signal`, `page`, and `factor`, how many times as
        long the page took to load (or as often the form was the long one) before the visits ended there.
    """
    slow = [("page_load", page, factor) for page, factor in SLOWER_BEFORE_LEAVING.items()]
    long = ("form_length", "/checkout", LONG_FORM_SHARE_LEFT / LONG_FORM_SHARE)
    return pd.DataFrame([*slow, long], columns=["signal", "page", "factor"])


def list_experiments() -> pd.DataFrame:
    """List what the arms of the planted experiments change.

    Returns:
        One row for each experiment and outcome: `experiment`, `arm`, `conversion`, `metric`, and
        `true_relative_effect`, the change within 14 days of the assignment, as a share of the control's value.
    """
    rows = [(test.experiment, test.arms[1], *effect) for test in TESTS for effect in test.effects]
    return pd.DataFrame(rows, columns=["experiment", "arm", "conversion", "metric", "true_relative_effect"])


def draw_arms(rng: np.random.Generator, outcomes: pd.DataFrame, alike: pd.Series, effects: Sequence[float]) -> Flags:
    """Draw who was in the second arm, knowing what everyone did: nothing else of the log depends on it.

    Half of the units of each kind are in each arm by chance. Within a kind the chance rises straight with the outcomes,
    by the slopes at which the arms' expected means differ as planted: twice the outcomes' covariances times the slopes.

    Args:
        rng: The source of chance, of its own.
        outcomes: A row a unit, a column an outcome.
        alike: Which units were of one kind before they were assigned.
        effects: The planted relative difference of each outcome.

    Returns:
        Whether each unit was in the second arm.
    """
    centred = (outcomes - outcomes.groupby(alike).transform("mean")).to_numpy()
    share = np.asarray(effects)
    wanted = outcomes.sum().to_numpy() * share / (1 + share / 2)
    slopes = np.linalg.lstsq(2 * centred.T @ centred, wanted)[0]
    chance: Floats = (1 + centred @ slopes) / 2
    return rng.random(len(outcomes)) < chance


def draw_friction(rng: np.random.Generator, rows: pd.DataFrame) -> dict[str, Floats]:
    """Draw how long pages took to load and how many fields the form had, knowing who left there.

    Args:
        rng: The source of chance, of its own, so that nothing else of the log depends on these numbers.
        rows: For each event `name`, `page`, `device` (code), and `leaves`: whether the visit ends on its page.

    Returns:
        `load_seconds` of page views and `form_fields` of started checkouts, NaN for other events.
    """
    is_view, is_form = (rows["name"] == name for name in ("page_view", "begin_checkout"))
    leaves = rows["leaves"].to_numpy(bool)
    slower = np.where(leaves, rows["page"].map(SLOWER_BEFORE_LEAVING).fillna(1.0), 1.0)
    seconds = LOAD_SECONDS[rows["device"]] * slower * rng.lognormal(0, LOAD_SPREAD, len(rows))
    is_long = rng.random(len(rows)) < np.where(leaves, LONG_FORM_SHARE_LEFT, LONG_FORM_SHARE)
    fields = np.where(is_long, *FORM_FIELDS[::-1]).astype(float)
    return {
        "load_seconds": np.where(is_view, seconds.round(2), np.nan),
        "form_fields": np.where(is_form, fields, np.nan),
    }


def draw_people(rng: np.random.Generator, units: int) -> pd.DataFrame:
    """Draw who enters when, from where, and how many plain pages they look at on the first day.

    Args:
        rng: The source of chance.
        units: How many.

    Returns:
        A row a unit: `unit`, `start` (microseconds after the log's start), `device`, `channel` and `geo` (codes),
        `has_app`, `pages`.
    """
    device = rng.choice(len(DEVICES), units, p=DEVICE_SHARES)
    channel = rng.choice(len(CHANNELS), units, p=CHANNEL_SHARES)
    appetite = DEVICE_APPETITE[device] * CHANNEL_APPETITE[channel]
    extra_pages = rng.poisson(2.6 * appetite * rng.gamma(2.0, 0.5, units))
    days = np.arange(ENTRY_DAYS)
    day_weights = WEEKDAY_WEIGHTS[days % 7] * (1 + GROWTH_A_DAY * days)
    day = rng.choice(ENTRY_DAYS, units, p=day_weights / day_weights.sum())
    hour = rng.choice(24, units, p=HOUR_WEIGHTS / HOUR_WEIGHTS.sum())
    return pd.DataFrame(
        {
            "unit": np.arange(units),
            "start": day * DAY + hour * HOUR + rng.integers(0, HOUR, units),
            "device": device,
            "channel": channel,
            "geo": rng.choice(len(GEOS), units, p=GEO_SHARES),
            "has_app": (device == MOBILE) & (rng.random(units) < APP_SHARE),
            "pages": 1 + np.minimum(extra_pages, MOST_PAGES - 1),
        }
    )


def draw_micros(rng: np.random.Generator, visits: pd.DataFrame, *, pages: Ints, share: float = 1.0) -> dict[str, Flags]:
    """Draw the micros of each visit, each on its own given device, channel and pages, then add what they imply.

    Args:
        rng: The source of chance.
        visits: Codes of `device` and `channel`, a row a visit.
        pages: Plain pages of the visit.
        share: Factor of all rates.

    Returns:
        For each micro, whether it happened in each visit.
    """
    device, channel = visits["device"].to_numpy(), visits["channel"].to_numpy()
    tendency = share * (0.4 + 0.2 * pages) * DEVICE_APPETITE[device] * CHANNEL_APPETITE[channel]
    did = {micro.name: rng.random(len(visits)) < np.minimum(micro.rate * tendency, 0.9) for micro in MICROS}
    did["email_click"] &= channel == EMAIL
    did["app_open"] &= device == MOBILE
    for micro, implied in IMPLIED:
        did[implied] |= did[micro]
    return did


def draw_outcome(rng: np.random.Generator, people: pd.DataFrame, did: Mapping[str, Flags]) -> tuple[Flags, Flags]:
    """Draw who buys.

    Args:
        rng: The source of chance.
        people: The frame of `draw_people`.
        did: Their micros of the first day.

    Returns:
        Who buys on the first day, and who of the others buys in the 14 days after it.
    """
    pages = people["pages"].to_numpy()
    # An early purchase must not depend on the micros: leaving the early buyers out would tie the micros to each other.
    early = rng.random(len(people)) < 0.008 + 0.004 * pages
    risk = BASE_RISK + DEVICE_RISK[people["device"]] + CHANNEL_RISK[people["channel"]] + PAGE_RISK * (pages - 1)
    for micro in MICROS:
        risk = risk + micro.effect * did[micro.name]
    return early, (rng.random(len(people)) < risk) & ~early
