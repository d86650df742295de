from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_logs import make_log, make_plan

from convlib.metrics import find_slices
from convlib.plan import Plan
from convlib.rates import Rates, measure_rates

# ann comes twice (a1, a2), bob once (b1), cat by mail and again (c1, c2), dan by push (d1), zed later.
ROWS = """
ann page_view 0s session_id=a1 page_path=/ source=google device_type=mobile
ann newsletter_signup 20s session_id=a1 page_path=/
ann page_view 60s session_id=a1 page_path=/list
ann select_category 80s session_id=a1 page_path=/list
ann use_filter 100s session_id=a1 page_path=/list
ann use_filter 120s session_id=a1 page_path=/list
ann view_item 180s session_id=a1 page_path=/p1
ann view_item 240s session_id=a1 page_path=/p2
ann add_to_wishlist 250s session_id=a1 page_path=/p2
ann add_to_cart 300s session_id=a1 page_path=/p2
ann view_item 24h session_id=a2 page_path=/p2
ann add_to_cart 24h30s session_id=a2
ann add_to_cart 24h40s session_id=a2 page_path=/p2
ann view_cart 24h60s session_id=a2 page_path=/cart
ann apply_promo 24h90s session_id=a2 page_path=/cart discount=5
ann begin_checkout 24h120s session_id=a2 page_path=/checkout
ann field_error 24h150s session_id=a2 page_path=/checkout
ann field_error 24h160s session_id=a2 page_path=/checkout
ann add_shipping_info 24h220s session_id=a2 page_path=/checkout
ann save_payment_method 24h250s session_id=a2 page_path=/checkout
ann purchase 24h300s session_id=a2 page_path=/done value=45
bob page_view 1h30s session_id=b1 page_path=/list source=bing device_type=desktop
bob view_item 1h90s session_id=b1 page_path=/p1
bob add_to_cart 1h100s session_id=b1 page_path=/p1
bob view_cart 1h120s session_id=b1 page_path=/cart
bob begin_checkout 1h180s session_id=b1 page_path=/checkout
bob add_shipping_info 1h240s session_id=b1 page_path=/checkout
bob purchase 1h300s session_id=b1 page_path=/done value=55
bob email_sent 4h
cat email_sent 2h
cat email_click 3h session_id=c1 page_path=/cart
cat view_item 3h60s session_id=c1 page_path=/p2
cat purchase 33h session_id=c2 page_path=/done value=30
dan push_sent 5h
dan app_open 5h60s session_id=d1 page_path=/app
dan view_item 5h120s session_id=d1 page_path=/p1
dan use_filter 5h180s session_id=d1 page_path=/list
ann push_sent 6h
zed visit 230h
"""
STEP = "stage: decision, kind: process_milestone"
PLAN = f"""
macros:
  - id: purchase
    match: {{event_name: purchase}}
    value: {{column: value}}
    metrics:
      - {{name: Average order value, metric: {{type: mean, column: value}}}}
      - {{name: Time to complete checkout, metric: {{type: time_between, from: begin_checkout}}}}
    micros:
      - {{id: newsletter_signup, match: {{event_name: newsletter_signup}}, {STEP},
         metric: {{type: rate, unit: session}}}}
      - {{id: select_category, match: {{event_name: select_category}}, {STEP},
         metric: {{type: rate, over: {{page_path: /list}}, unit: session}}}}
      - {{id: use_filter, match: {{event_name: use_filter}}, {STEP},
         metric: {{type: per_unit, over: {{page_path: /list}}, unit: session}}}}
      - id: view_item
        match: {{event_name: view_item}}
        stage: consideration
        kind: process_milestone
        metric: {{type: per_unit, unit: session}}
        metrics:
          - {{name: Interactions per visit, metric: {{type: depth, of: interactions}}}}
          - {{name: Time on product pages, metric: {{type: depth, of: seconds_on_page}}}}
      - id: add_to_wishlist
        match: {{event_name: add_to_wishlist}}
        stage: consideration
        kind: secondary_action
        metric: {{type: rate, over: view_item}}
        metrics:
          - {{name: Saved items, metric: {{type: per_unit, over: add_to_wishlist}}}}
          - {{name: Return visits, metric: {{type: return_rate, window: 2D}}}}
      - id: add_to_cart
        match: {{event_name: add_to_cart}}
        stage: decision
        kind: process_milestone
        metric: {{type: rate, over: view_item}}
        metrics:
          - {{name: Items in cart, metric: {{type: per_unit, over: view_cart, unit: session}}}}
          - {{name: Cart abandonment, metric: {{type: abandonment, unit: session}}, direction: down}}
      - {{id: view_cart, match: {{event_name: view_cart}}, {STEP}}}
      - id: apply_promo
        match: {{event_name: apply_promo}}
        stage: decision
        kind: secondary_action
        metric: {{type: rate, over: view_cart}}
        metrics:
          - {{name: Discount a code, metric: {{type: mean, column: discount}}}}
          - {{name: Discounts given, metric: {{type: sum, column: discount}}}}
      - {{id: begin_checkout, match: {{event_name: begin_checkout}}, {STEP}}}
      - id: add_shipping_info
        match: {{event_name: add_shipping_info}}
        stage: decision
        kind: process_milestone
        metric: {{type: rate, over: begin_checkout}}
        metrics:
          - {{name: Time to fill, metric: {{type: time_between, from: begin_checkout}}}}
      - {{id: field_error, match: {{event_name: field_error}}, {STEP},
         metric: {{type: per_unit, over: begin_checkout}}}}
      - {{id: save_payment_method, match: {{event_name: save_payment_method}}, {STEP},
         metric: {{type: rate, over: begin_checkout}}}}
      - id: email_click
        match: {{event_name: email_click}}
        stage: awareness
        kind: secondary_action
        metric: {{type: rate, over: {{event_name: email_sent}}}}
        metrics:
          - {{name: Purchases after click, metric: {{type: follow_up, window: 2D}}}}
          - name: Revenue per mail
            metric: {{type: follow_up, window: 2D, column: value, over: {{event_name: email_sent}}}}
      - id: app_open
        match: {{event_name: app_open}}
        stage: awareness
        kind: secondary_action
        metric: {{type: rate, over: {{event_name: push_sent}}}}
        metrics:
          - {{name: Session length after opening, metric: {{type: depth, of: seconds_after}}}}
          - {{name: Next actions, metric: {{type: depth, of: next_actions}}}}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(tmp_path_factory.mktemp("plan"), PLAN)


@pytest.fixture(scope="module")
def rates(plan: Plan) -> Rates:
    return measure_rates(make_log(ROWS, plan), plan)


def row_of(rates: Rates, conversion: str, metric: str, **group: str) -> pd.Series:
    table = rates.table
    chosen = (table["conversion"] == conversion) & (table["metric"] == metric)
    chosen &= table["period"] == table["period"].min()
    for column, value in group.items():
        chosen &= table[column] == value
    assert chosen.sum() == 1, table["metric"].unique()
    row: pd.Series = table[chosen].iloc[0]
    return row


@pytest.mark.parametrize(
    ("conversion", "metric", "units", "exposed", "value"),
    [
        # Home. Six visits (a1, a2, b1, c1, c2, d1), one signup (a1).
        ("newsletter_signup", "rate by session", 1, 6, 1 / 6),
        # Listing. Three visits see it (a1, b1, d1): one clicks a category; two filters in a1 and one in d1.
        ("select_category", "rate over page_path = /list by session", 1, 3, 1 / 3),
        ("use_filter", "per_unit over page_path = /list by session", 2, 3, 3 / 3),
        # Items viewed per visit: a1 2; a2, b1, c1, d1 1 each; c2 none.
        ("view_item", "per_unit by session", 5, 6, 6 / 6),
        # Events of the visits with a product view: a1 10, a2 11, b1 7, c1 2, d1 3.
        ("view_item", "depth interactions", 5, 5, 33 / 5),
        # Known: a1's /p1 60 s, a2's /p2 60 s (its event without a page does not end it), b1's /p1 30 s, d1's /p1 60 s;
        # a1's second product and c1's are the last pages of their visits.
        ("view_item", "depth seconds_on_page", 4, 4, 210 / 4),
        # Product page. ann, bob, cat, dan view; ann saves one item, and is back the next day.
        ("add_to_wishlist", "rate over view_item", 1, 4, 1 / 4),
        ("add_to_wishlist", "per_unit over add_to_wishlist", 1, 1, 1 / 1),
        ("add_to_wishlist", "return_rate within 2D", 1, 1, 1 / 1),
        ("add_to_cart", "rate over view_item", 2, 4, 2 / 4),
        # Visits that see the cart: a2 put two items in, b1 one. Of the three visits with an item in it a1 buys nothing.
        ("add_to_cart", "per_unit over view_cart by session", 2, 2, 3 / 2),
        ("add_to_cart", "abandonment by session", 1, 3, 1 / 3),
        # Cart. ann and bob see it, ann uses a code worth 5.
        ("apply_promo", "rate over view_cart", 1, 2, 1 / 2),
        ("apply_promo", "mean of discount", 1, 1, 5),
        ("apply_promo", "sum of discount", 1, 4, 5),
        ("purchase", "mean of value", 3, 3, (45 + 55 + 30) / 3),
        # Checkout. ann and bob begin it; the form takes them 100 and 60 s, the checkout 180 and 120 s; ann errs twice.
        ("add_shipping_info", "rate over begin_checkout", 2, 2, 2 / 2),
        ("add_shipping_info", "time_between from begin_checkout", 2, 2, 80),
        ("field_error", "per_unit over begin_checkout", 1, 2, 2 / 2),
        ("save_payment_method", "rate over begin_checkout", 1, 2, 1 / 2),
        ("purchase", "time_between from begin_checkout", 2, 2, 150),
        # Mail to bob and cat: cat clicks, and buys for 30 the next day.
        ("email_click", "rate over event_name = email_sent", 1, 2, 1 / 2),
        ("email_click", "follow_up within 2D", 1, 1, 1 / 1),
        ("email_click", "follow_up of value over event_name = email_sent within 2D", 1, 2, 30 / 2),
        # Push to dan and ann: dan opens, stays 120 s from then and does two more things.
        ("app_open", "rate over event_name = push_sent", 1, 2, 1 / 2),
        ("app_open", "depth seconds_after", 1, 1, 120),
        ("app_open", "depth next_actions", 1, 1, 2),
    ],
)
def test_every_touchpoint_metric_is_what_one_counts_by_hand(
    rates: Rates, conversion: str, metric: str, units: int, exposed: int, value: float
) -> None:
    row = row_of(rates, conversion, metric)
    assert row[["units", "exposed"]].tolist() == [units, exposed]
    assert row["value"] == pytest.approx(value, rel=1e-12)


def test_the_hand_made_log_is_small() -> None:
    assert len(ROWS.split("\n")[1:-1]) < 40


def test_signups_per_visit_by_source_and_device(plan: Plan) -> None:
    # ann came by google on a phone: one signup in two visits; bob, by bing on a desktop: none in one.
    rates = measure_rates(make_log(ROWS, plan), plan, by=["source", "device_type"])
    found = [
        row_of(rates, "newsletter_signup", "rate by session", source=source, device_type=device)
        for source, device in (("google", "mobile"), ("bing", "desktop"))
    ]
    assert [row[["units", "exposed"]].tolist() for row in found] == [[1, 2], [0, 1]]


def test_each_metric_has_its_own_name_for_people(rates: Rates) -> None:
    named = rates.named.drop_duplicates("metric").set_index("metric")["conversion"]
    assert named["follow_up of value over event_name = email_sent within 2D"] == "Revenue per mail"
    assert named["rate by session"] == "Newsletter signup: rate per visit"


SUBSCRIPTION = """
macros:
  - id: subscribe
    match: {event_name: subscribe}
    value: {column: value}
    currency: USD
    metrics: [{name: Churn, metric: {type: churn, window: 3D}, direction: down}]
    losses: [{id: cancel, match: {event_name: cancel}}]
"""


def test_churn_is_the_share_that_leaves_within_the_window(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, SUBSCRIPTION)
    # ann leaves a day after; bob 4 days after; cat stays; dan left before he came back; eve's 3 days are not over.
    rows = """
ann subscribe 0h
ann cancel 24h
bob subscribe 0h
bob cancel 96h
cat subscribe 0h
dan cancel 0h
dan subscribe 1h
eve subscribe 120h
eve visit 167h
"""
    row = row_of(measure_rates(make_log(rows, plan), plan), "subscribe", "churn within 3D")
    assert row[["units", "exposed", "value"]].tolist() == [1, 4, 0.25]


def test_amounts_of_several_currencies_are_not_added_up(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, SUBSCRIPTION)
    rows = """
ann subscribe 0h value=10 currency=USD
bob subscribe 1h value=10 currency=EUR
cat subscribe 170h value=10 currency=EUR
dan subscribe 340h value=10 currency=USD
dan visit 503h
"""
    table = measure_rates(make_log(rows, plan), plan).table
    values = table[table["metric"] == "sum of value"]
    assert values["note"].tolist() == [
        "amounts in EUR and USD, and the plan says USD",
        "amounts in EUR, and the plan says USD",
        "n = 1, needs 30",
    ]
    np.testing.assert_array_equal(values["value"], [np.nan, np.nan, 10])
    # What is counted and not added up stays.
    assert table.loc[table["metric"] == "rate", "value"].tolist() == [1, 1, 1]


def test_shares_of_visits_have_intervals_by_unit(tmp_path: Path) -> None:
    # 40 users with two visits each; 20 of them sign up in both, the others in none: as good as 40 visits, not 80.
    text = """
macros:
  - id: signup
    match: {event_name: signup}
    metrics: [{name: Per visit, metric: {type: rate, unit: session}}]
"""
    plan = make_plan(tmp_path, text)
    rows = ""
    for user in range(40):
        for visit in range(2):
            event = "signup" if user < 20 else "visit"
            rows += f"u{user} {event} {visit * 24}h session_id=u{user}-{visit}\n"
    table = measure_rates(make_log(rows + "u0 visit 167h session_id=u0-1\n", plan), plan).table
    users, visits = table["ci_upper"] - table["ci_lower"]
    assert table["exposed"].tolist() == [40, 80]
    assert visits == pytest.approx(users, rel=0.02)


def test_find_slices_is_what_comparing_finds() -> None:
    rng = np.random.default_rng(3)
    key = np.sort(rng.integers(0, 20, 200))
    time = rng.integers(0, 50, 200)
    order = np.lexsort([time, key])
    key, time = key[order], time[order]
    wanted, low = rng.integers(-1, 22, 60), rng.integers(0, 50, 60)
    high = low + rng.integers(-5, 30, 60)
    begin, end = find_slices(key, time, wanted, low, high)
    expected = [((key == k) & (time >= a) & (time <= b)).sum() for k, a, b in zip(wanted, low, high, strict=True)]
    assert (end - begin).tolist() == expected


def test_whose_window_is_not_over_is_told_without_asking_who_did_it(tmp_path: Path) -> None:
    # Mails go out on Monday, one in ten clicks and buys for 20 the day after: 2 a mail, or not known yet, but never 0.
    text = f"""
macros:
  - id: buy
    match: {{event_name: buy}}
    value: {{column: value}}
    micros:
      - {{id: click, match: {{event_name: click}}, {STEP},
         metric: {{type: follow_up, window: 7D, column: value, over: {{event_name: mail}}}}}}
"""
    rows = ""
    for week in range(3):
        for unit in range(310):
            rows += f"u{unit} mail {168 * week}h\n"
            rows += f"u{unit} click {168 * week + 30}h\nu{unit} buy {168 * week + 50}h value=20\n" if unit < 31 else ""
    plan = make_plan(tmp_path, text)
    table = measure_rates(make_log(rows + "u0 mail 505h\n", plan), plan).table
    rows_of = table[table["conversion"] == "click"]
    assert rows_of["note"].tolist()[:3] == ["", "", "partial, 31 pending"]
    np.testing.assert_allclose(rows_of["value"].iloc[:3], [2, 2, np.nan])


def test_amounts_of_other_currencies_leave_an_open_period_open(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, SUBSCRIPTION)
    rows = "ann subscribe 0h value=10 currency=USD\nbob subscribe 170h value=10 currency=EUR\nbob visit 200h\n"
    table = measure_rates(make_log(rows, plan), plan).table
    notes = table.loc[table["metric"] == "sum of value", "note"].tolist()
    assert notes == ["n = 1, needs 30", "partial period"]


def test_a_visit_over_midnight_is_one_of_the_day_on_which_it_begins(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "macros:\n  - {id: buy, match: {event_name: buy}}\n")
    rows = "ann view 23h session_id=a\nann buy 25h session_id=a\nbob view 26h session_id=b\nbob view 47h session_id=b\n"
    table = measure_rates(make_log(rows, plan), plan, unit="session", every="D").table
    # It counts as a whole.
    assert table[["units", "exposed"]].to_numpy().tolist() == [[1, 1], [0, 1]]


def test_return_visits_are_the_users_where_visits_are_counted(tmp_path: Path) -> None:
    text = """
macros:
  - {id: save, match: {event_name: save}, metrics: [{name: Back, metric: {type: return_rate}}]}
"""
    plan = make_plan(tmp_path, text)
    rows = "".join(f"u{n} save 1h session_id=u{n}-1\nu{n} visit 30h session_id=u{n}-2\n" for n in range(40))
    log = make_log(rows + "u0 visit 167h session_id=u0-2\n", plan)
    for unit in ("user", "session"):
        table = measure_rates(log, plan, unit=unit).table
        row = table[table["metric"] == "return_rate"].iloc[0]
        assert row[["units", "exposed"]].tolist() == [40, 40]
