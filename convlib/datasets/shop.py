"""Simulates a web shop's event log: lays the visits and purchases of the shop's model out as events."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from convlib.datasets.shop_model import (
    CHANNELS,
    DAY,
    DEVICE_SHARES,
    DEVICES,
    DIRECT,
    EMAIL,
    GEOS,
    HORIZON_DAYS,
    HOUR,
    MICROS,
    MOBILE,
    SECOND,
    TEST_WINDOW,
    TESTS,
    Flags,
    Floats,
    Ints,
    Test,
    draw_arms,
    draw_friction,
    draw_micros,
    draw_outcome,
    draw_people,
    list_planted,
)
from convlib.documents import find_wrong_number
from convlib.errors import ParamError

FIRST_DAY = pd.Timestamp("2026-06-01")  # a Monday
LOG_DAYS = 98
NEVER = np.iinfo(np.int64).max
RETURN_SHARES = (0.08, 0.04, 0.18, 0.03, 0.25, 0.42)
FUNNEL = ("view_item", "add_to_cart", "view_cart", "begin_checkout", "add_shipping_info")
EVENTS = (*(micro.name for micro in MICROS), "first_visit", "page_view", "email_sent", "push_sent", "purchase")
PLATFORMS = ("web", "app", "server")
WEB, APP, SERVER = range(3)
# Apps and servers call the same thing by other names.
SYNONYMS = (
    (APP, "add_to_cart", "AddToCart"),
    (APP, "begin_checkout", "BeginCheckout"),
    (SERVER, "add_to_cart", "Product Added"),
    (SERVER, "purchase", "Order Completed"),
)
PRODUCTS = 120
PRICES = np.random.default_rng(0).lognormal(np.log(45), 0.5, PRODUCTS).round(2)
LANDING_PAGES = ("/", "/new", "/category/shoes", "/category/bags", "/blog/care", "/help/sizes")
LANDING_SHARES = (0.45, 0.1, 0.18, 0.12, 0.1, 0.05)
PAGE_OF = {
    "newsletter_signup": "/",
    "select_category": "/category/shoes",
    "use_filter": "/category/shoes",
    "email_click": "/cart",
    "app_open": "/app/home",
    "view_cart": "/cart",
    "apply_promo": "/cart",
    "begin_checkout": "/checkout",
    "field_error": "/checkout/shipping",
    "add_shipping_info": "/checkout/shipping",
    "save_payment_method": "/checkout/payment",
    "purchase": "/checkout/done",
    "track_order": "/orders",
}
ON_PRODUCT = [EVENTS.index(name) for name in ("view_item", "add_to_wishlist", "add_to_cart", "purchase")]
PRODUCT_PAGES = [f"/product/{n:03d}" for n in range(1, PRODUCTS + 1)]
PAGES = tuple(dict.fromkeys([*LANDING_PAGES, *PAGE_OF.values(), *PRODUCT_PAGES]))
FIRST_PRODUCT_PAGE = PAGES.index("/product/001")
NUMBERS = ("value", "discount", "fill_seconds")
COLUMNS = (
    *("event_name", "timestamp", "user_id", "session_id", "land", "page_path", "referrer", "source", "medium"),
    *("campaign", "device_type", "geo", "product_id", "value", "currency", "platform", "discount", "fill_seconds"),
    *("load_seconds", "form_fields", *(test.column for test in TESTS)),
)

Block = tuple[pd.DataFrame, pd.DataFrame]


def shop_events(units: int = 20_000, seed: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Simulate the log of a shop: 12 weeks of entries, and the two weeks after them.

    Args:
        units: How many users enter, at least 1.
        seed: Same units and seed, same log.

    Returns:
        The events in time order (text columns are categoricals, times UTC, `value` and `discount` USD; `form_test` and
        `promo_test` hold the unit's arm from its assignment on), and the truth: a row a micro, with `micro`, `planted`,
        `true_lift`.

    Raises:
        ParamError: `units` is less than 1, or `seed` is negative.
    """
    if problems := [*find_wrong_number("units", units, least=1), *find_wrong_number("seed", seed, least=0)]:
        raise ParamError(*problems)
    rng = np.random.default_rng([seed, units])
    people = draw_people(rng, units)
    visits, rows = _join_blocks(_simulate_blocks(rng, people))
    rng, chance = (np.random.default_rng([seed, units, number]) for number in (1, 2))
    return _assemble_events(rng, visits, rows, units, chance), list_planted()


def _simulate_blocks(rng: np.random.Generator, people: pd.DataFrame) -> Iterator[Block]:
    """Give visits (a row each) with their events, whose `visit` points to the row."""
    did = draw_micros(rng, people, pages=people["pages"].to_numpy())
    early, late = draw_outcome(rng, people, did)
    did |= {name: did[name] | early for name in FUNNEL}
    start = people["start"].to_numpy()
    wait = DAY + 60 * SECOND + (rng.beta(1.0, 2.2, len(people)) * (HORIZON_DAYS - 0.2) * DAY).astype(np.int64)
    bought = np.where(late, start + wait, np.where(early, start, NEVER))
    yield _first_visits(rng, people, did, early)
    yield _message_visits(rng, people[people["channel"] == EMAIL], did["email_click"], name="email_click")
    yield _message_visits(rng, people[people["device"] == MOBILE], did["app_open"], name="app_open")
    yield _return_visits(rng, people, bought)
    yield _purchase_visits(rng, people[late], bought[late])
    yield _tracking_visits(rng, people[early | late], bought[early | late])


def _join_blocks(blocks: Iterator[Block]) -> Block:
    visits, rows, shift = [], [], 0
    for block_visits, block_rows in blocks:
        visits.append(block_visits)
        rows.append(block_rows.assign(visit=block_rows["visit"] + shift))
        shift += len(block_visits)
    narrow = dict.fromkeys(("device", "channel", "geo", "platform", "land", "product"), "int16")
    return pd.concat(visits, ignore_index=True).astype(narrow), pd.concat(rows, ignore_index=True)


def _first_visits(rng: np.random.Generator, people: pd.DataFrame, did: Mapping[str, Flags], early: Flags) -> Block:
    visits = _describe_visits(rng, people)
    steps = {name: flags for name, flags in did.items() if name not in {"email_click", "app_open"}}
    at = np.arange(len(visits))
    rows = [_list_rows("first_visit", at, visits["start"].to_numpy(), page=visits["land"].to_numpy())]
    rows += [_list_plain_pages(rng, visits, people["pages"].to_numpy()), *_list_steps(rng, visits, steps, early)]
    return visits, pd.concat(rows, ignore_index=True)


def _message_visits(rng: np.random.Generator, people: pd.DataFrame, opened: Flags, *, name: str) -> Block:
    """Give the same day's message and the visit it leads to.

    Everyone of the medium or device gets it: who gets it must not tell more about a unit than device and medium do.
    """
    is_email = name == "email_click"
    hours = 3 if is_email else 7
    sent = people["start"].to_numpy() + hours * HOUR + rng.integers(0, HOUR, len(people))
    visits = _describe_visits(rng, people.assign(start=sent, channel=EMAIL if is_email else DIRECT))
    visits = visits.assign(platform=WEB if is_email else APP, land=PAGES.index(PAGE_OF[name]))
    hit = np.flatnonzero(opened[people["unit"].to_numpy()])
    clicked = sent[hit] + rng.integers(30 * SECOND, HOUR, len(hit))
    rows = [_list_rows("email_sent" if is_email else "push_sent", np.arange(len(visits)), sent, page=-1)]
    # The landing page fires with the click, at the same time: it is no sign of activity of its own.
    rows += [_list_rows(each, hit, clicked, page=PAGES.index(PAGE_OF[name])) for each in (name, "page_view")]
    return visits, pd.concat(rows, ignore_index=True)


def _return_visits(rng: np.random.Generator, people: pd.DataFrame, bought: Ints) -> Block:
    """Give visits after the first day, up to a purchase; what happens in them has no effect on it."""
    count = np.minimum(rng.poisson(0.3 + 0.1 * people["pages"].to_numpy()), 4)
    back = people.iloc[np.repeat(np.arange(len(people)), count)]
    start = back["start"].to_numpy() + DAY + rng.integers(60 * SECOND, 13 * DAY, len(back))
    is_before_purchase = start + 6 * HOUR < bought[back["unit"].to_numpy()]
    visits = _describe_visits(rng, _change_channel(rng, back.assign(start=start)[is_before_purchase]))
    pages = 1 + rng.poisson(1.2, len(visits))
    did = draw_micros(rng, visits, pages=pages, share=0.6)
    visits["platform"] = np.where(did["app_open"], APP, visits["platform"])
    nobody = np.zeros(len(visits), dtype=bool)
    rows = [_list_plain_pages(rng, visits, pages), *_list_steps(rng, visits, did, nobody)]
    return visits, pd.concat(rows, ignore_index=True)


def _purchase_visits(rng: np.random.Generator, people: pd.DataFrame, bought: Ints) -> Block:
    visits = _describe_visits(rng, _change_channel(rng, people.assign(start=bought)))
    everyone = np.ones(len(visits), dtype=bool)
    rates = {"apply_promo": 0.2, "field_error": 0.1, "save_payment_method": 0.2}
    did = {name: rng.random(len(visits)) < rate for name, rate in rates.items()} | dict.fromkeys(FUNNEL, everyone)
    pages = 1 + rng.poisson(1.0, len(visits))
    rows = [_list_plain_pages(rng, visits, pages), *_list_steps(rng, visits, did, everyone)]
    return visits, pd.concat(rows, ignore_index=True)


def _tracking_visits(rng: np.random.Generator, buyers: pd.DataFrame, bought: Ints) -> Block:
    """Most buyers look where their parcel is: an event that follows the purchase."""
    tracks = rng.random(len(buyers)) < 0.6
    start = bought[tracks] + DAY + rng.integers(0, 3 * DAY, int(tracks.sum()))
    visits = _describe_visits(rng, buyers[tracks].assign(start=start)).assign(land=PAGES.index("/orders"))
    at, page = np.arange(len(visits)), PAGES.index("/orders")
    rows = [_list_rows(name, at, start, page=page) for name in ("page_view", "track_order")]
    return visits, pd.concat(rows, ignore_index=True)


def _change_channel(rng: np.random.Generator, people: pd.DataFrame) -> pd.DataFrame:
    """People come back another way, some of them on another device."""
    switches = rng.random(len(people)) < 0.15
    device = np.where(switches, rng.choice(len(DEVICES), len(people), p=DEVICE_SHARES), people["device"])
    return people.assign(device=device, channel=rng.choice(len(CHANNELS), len(people), p=RETURN_SHARES))


def _describe_visits(rng: np.random.Generator, people: pd.DataFrame) -> pd.DataFrame:
    visits = people[["unit", "start", "device", "channel", "geo"]].reset_index(drop=True)
    in_app = people["has_app"].to_numpy() & (visits["device"].to_numpy() == MOBILE)
    by_server = rng.random(len(visits)) < 0.08
    visits["platform"] = np.where(in_app, APP, np.where(by_server, SERVER, WEB))
    visits["land"] = rng.choice(len(LANDING_PAGES), len(visits), p=LANDING_SHARES)
    visits["product"] = np.minimum((rng.pareto(0.9, len(visits)) * 6).astype(np.int64), PRODUCTS - 1)
    return visits


def _list_plain_pages(rng: np.random.Generator, visits: pd.DataFrame, pages: Ints) -> pd.DataFrame:
    """Give page views one after another, from the landing page on; they fire with no conversion."""
    at = np.repeat(np.arange(len(visits)), pages)
    first = np.cumsum(pages) - pages
    gaps = ((5 + rng.gamma(1.5, 30.0, len(at)).clip(0, 900)) * SECOND).astype(np.int64)
    gaps[first] = 0
    elapsed = np.cumsum(gaps)
    elapsed -= np.repeat(elapsed[first], pages)
    page = rng.integers(0, len(LANDING_PAGES), len(at))
    page[first] = visits["land"]
    return _list_rows("page_view", at, visits["start"].to_numpy()[at] + elapsed, page=page)


def _list_steps(
    rng: np.random.Generator, visits: pd.DataFrame, did: Mapping[str, Flags], buys: Flags
) -> Iterator[pd.DataFrame]:
    """Give the micros and the purchase of each visit, some with the page view that fires at the same time."""
    times, fill_seconds = _draw_times(rng, visits)
    product = visits["product"].to_numpy()
    price = PRICES[product] * (1 + (rng.random(len(visits)) < 0.25))
    discount = np.where(did["apply_promo"], 0.10 * price, 0.0).round(2)
    numbers: dict[str, dict[str, Floats]] = {
        "add_to_cart": {"value": price},
        "apply_promo": {"discount": discount},
        "add_shipping_info": {"fill_seconds": fill_seconds},
        "purchase": {"value": (price - discount).round(2), "discount": discount},
    }
    for name, flags in {**did, "purchase": buys}.items():
        hit = np.flatnonzero(flags)
        columns = {column: values[hit] for column, values in numbers.get(name, {}).items()}
        page: Ints | int = PAGES.index(PAGE_OF[name]) if name in PAGE_OF else FIRST_PRODUCT_PAGE + product[hit]
        yield _list_rows(name, hit, times[name][hit], page=page, **columns)
        if name in {"view_item", "begin_checkout", "purchase"}:
            yield _list_rows("page_view", hit, times[name][hit], page=page)


def _draw_times(rng: np.random.Generator, visits: pd.DataFrame) -> tuple[dict[str, Ints], Floats]:
    """Draw when each step of a visit would happen, in their natural order; forms take longer on small screens."""

    def after(earlier: Ints, median_seconds: float) -> Ints:
        seconds = rng.lognormal(np.log(median_seconds), 0.6, len(visits)).clip(1, 900)
        return earlier + (seconds * SECOND).astype(np.int64)

    times = {"start": visits["start"].to_numpy()}
    for earlier, name, median_seconds in (
        ("start", "email_click", 2),
        ("start", "app_open", 2),
        ("start", "newsletter_signup", 90),
        ("start", "track_order", 90),
        ("start", "select_category", 60),
        ("select_category", "use_filter", 20),
        ("start", "view_item", 120),
        ("view_item", "add_to_wishlist", 25),
        ("view_item", "add_to_cart", 45),
        ("add_to_cart", "view_cart", 30),
        ("view_cart", "apply_promo", 25),
        ("apply_promo", "begin_checkout", 40),
    ):
        times[name] = after(times[earlier], median_seconds)
    slowness = np.array([1.3, 1.0, 1.15])[visits["device"].to_numpy()]
    fill_seconds = (slowness * rng.lognormal(np.log(75), 0.5, len(visits))).clip(10, 1_200).round(1)
    fill = (fill_seconds * SECOND).astype(np.int64)
    times["field_error"] = times["begin_checkout"] + (rng.uniform(0.3, 0.9, len(visits)) * fill).astype(np.int64)
    times["add_shipping_info"] = times["begin_checkout"] + fill
    times["save_payment_method"] = after(times["add_shipping_info"], 30)
    times["purchase"] = after(times["save_payment_method"], 30)
    return times, fill_seconds


def _list_rows(name: str, at: Ints, time: Ints, *, page: Ints | int, **columns: Floats) -> pd.DataFrame:
    size = len(at)
    numbers = {column: columns.get(column, np.full(size, np.nan)) for column in NUMBERS}
    kind = np.full(size, EVENTS.index(name), dtype=np.int8)
    pages = np.broadcast_to(np.asarray(page, dtype=np.int16), size)
    return pd.DataFrame({"visit": at.astype(np.int32), "time": time, "kind": kind, "page": pages, **numbers})


def _assemble_events(
    rng: np.random.Generator, visits: pd.DataFrame, rows: pd.DataFrame, units: int, chance: np.random.Generator
) -> pd.DataFrame:
    """Sort the events and describe each by its visit; messages are sent by a server, outside any visit."""
    rows = rows[rows["time"] < LOG_DAYS * DAY].sort_values(["time", "visit", "kind"], ignore_index=True)
    sessions, session_names = _number_sessions(visits)
    described = visits.assign(session=sessions).take(rows["visit"].to_numpy()).reset_index(drop=True)
    is_sent = rows["page"] < 0
    described.loc[is_sent, ["device", "channel", "geo", "land", "session"]] = -1
    described.loc[is_sent, "platform"] = SERVER
    kind = rows["kind"].to_numpy()
    described["product"] = described["product"].where(np.isin(kind, ON_PRODUCT), -1)
    texts = {
        "event_name": _name_events(kind, described["platform"].to_numpy()),
        "user_id": _name_codes(described["unit"], [f"u{n:07d}" for n in range(1, units + 1)]),
        "session_id": _name_codes(described["session"], session_names),
        "land": _name_codes(described["land"], PAGES),
        "page_path": _name_codes(rows["page"], PAGES),
        **_describe_channels(described["channel"].to_numpy()),
        "device_type": _name_codes(described["device"], DEVICES),
        "geo": _name_codes(described["geo"], GEOS),
        "product_id": _name_codes(described["product"], [f"SKU-{n:03d}" for n in range(1, PRODUCTS + 1)]),
        "currency": _name_codes(rows["value"].notna().astype("int8") - 1, ["USD"]),
        "platform": _name_codes(described["platform"], PLATFORMS),
    }
    timestamp = FIRST_DAY + pd.to_timedelta(rows["time"].to_numpy(), unit="us")
    ends = rows["page"].groupby(described["session"]).transform("last")
    seen = {"name": np.array(EVENTS, dtype=object)[kind], "page": np.array(PAGES, dtype=object)[rows["page"]]}
    friction = draw_friction(rng, described[["device"]].assign(**seen, leaves=rows["page"] == ends))
    lived = rows.assign(unit=described["unit"], device=described["device"], channel=described["channel"])
    arms = {test.column: _assign_arms(chance, lived, test) for test in TESTS}
    return pd.DataFrame({**texts, "timestamp": timestamp, **rows[list(NUMBERS)], **friction, **arms})[list(COLUMNS)]


def _assign_arms(rng: np.random.Generator, rows: pd.DataFrame, test: Test) -> "pd.Categorical[str]":
    """Give each unit's events its arm, from its first event in the days of a test on."""
    first, last = ((pd.Timestamp(day) - FIRST_DAY).days * DAY for day in test.days)
    is_within = rows["time"].between(first, last + DAY, inclusive="left")
    assigned = rows[is_within].drop_duplicates("unit").set_index("unit")["time"].sort_index()
    since = rows["time"] - rows["unit"].map(assigned)  # not a number for those who were not there in these days
    names = list(dict.fromkeys(name for name, _, _ in test.effects))
    did = {name: rows["kind"] == EVENTS.index(name) for name in names}
    counted = rows[["unit"]].assign(**did, revenue=rows["value"].where(did["purchase"], 0.0))

    def sum_up(chosen: pd.Series) -> pd.DataFrame:
        sums = counted[chosen].groupby("unit").sum().reindex(assigned.index, fill_value=0)
        return sums.assign(**(sums[names] > 0))

    kinds = sum_up(since < 0)[names].assign(
        was_there=assigned.index.isin(rows.loc[since < 0, "unit"]),
        **rows.drop_duplicates("unit").set_index("unit")[["device", "channel"]],
    )
    alike = kinds.groupby(list(kinds.columns)).ngroup()
    effects = [effect for *_, effect in test.effects]
    is_second = draw_arms(rng, sum_up(since.between(0, TEST_WINDOW)).astype(float), alike, effects)
    arm = rows["unit"].map(pd.Series(is_second.astype(int), index=assigned.index))
    return _name_codes(arm.where(since >= 0, -1).astype("int8"), test.arms)


def _number_sessions(visits: pd.DataFrame) -> tuple[Ints, list[str]]:
    """Give each visit a code, and a name for each code: the unit and the visit's number among the unit's visits."""
    order = np.lexsort([visits["start"], visits["unit"]])
    unit = visits["unit"].to_numpy()[order]
    first = np.flatnonzero(np.r_[True, unit[1:] != unit[:-1]])
    number = np.arange(len(unit)) - np.repeat(first, np.diff(np.r_[first, len(unit)]))
    codes = np.empty(len(unit), dtype=np.int64)
    codes[order] = np.arange(len(unit))
    return codes, [f"u{u:07d}-{n}" for u, n in zip((unit + 1).tolist(), (number + 1).tolist(), strict=True)]


def _name_events(kind: npt.NDArray[np.int8], platform: Ints) -> "pd.Categorical[str]":
    codes = kind
    for code, (where, name, _) in enumerate(SYNONYMS, start=len(EVENTS)):
        codes = np.where((kind == EVENTS.index(name)) & (platform == where), np.int8(code), codes)
    return _name_codes(codes, [*EVENTS, *(synonym for _, _, synonym in SYNONYMS)])


def _describe_channels(channel: Ints) -> dict[str, "pd.Categorical[str]"]:
    described = {}
    for column, values in zip(("source", "medium", "campaign", "referrer"), zip(*CHANNELS, strict=True), strict=True):
        names = list(dict.fromkeys(value for value in values if value is not None))
        codes = np.array([names.index(value) if value is not None else -1 for value in values] + [-1])
        described[column] = _name_codes(codes[channel], names)
    return described


def _name_codes(codes: Ints | npt.NDArray[np.int8] | pd.Series, names: Sequence[str]) -> "pd.Categorical[str]":
    return pd.Categorical.from_codes(np.asarray(codes), pd.Index(names))
