"""One log with every difficulty and funnels of every rule, to be counted by each engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from small_logs import make_plan

from convlib.attempts import Task, count_parts
from convlib.conversions import Exclusion, Step, microseconds
from convlib.events import EventLog
from convlib.funnel import frame_ask
from convlib.funnel_rules import read_rules
from convlib.plan import Plan
from convlib.step_rows import Ask, fetch_parts

PLAN = """\
macros:
  - id: purchase
    match: {event_name: [pay, Order Completed]}
    value: {column: revenue}
    micros:
      - id: added
        match: {any: [{event_name: cart}, {event_name: pay, is_member: true}]}
        stage: decision
        kind: process_milestone
      - {id: guide, match: {page_path: {regex: "(?i)^/(HELP|faq)/\\\\d"}}, stage: awareness, kind: secondary_action}
leave_out:
  - {id: bots, match: {source: bot}}
  - {id: staff, match: {page_path: {regex: "^/admin"}}, scope: user}
"""
START = pd.Timestamp("2024-01-01")
STEPS = ("view", "added", "purchase")


def make_rows(seed: int = 1, users: int = 120) -> pd.DataFrame:
    """Rows in no order, with ties in time, blanks, ids of nobody, odd times and values, and mixed case."""
    rng = np.random.default_rng(seed)
    rows = users * 25

    def draw(*values: object) -> list[object]:
        return [values[i] for i in rng.integers(len(values), size=rows)]

    letters, numbers = draw("u", "U", "ü"), rng.integers(0, users // 3, rows)
    minutes = np.where(rng.random(rows) < 0.6, rng.integers(0, 14 * 1440, rows), rng.integers(0, 14, rows) * 1440)
    table = pd.DataFrame(
        {
            "event_name": draw("view", "view", "view", "cart", "cart", "pay", "Order Completed", "chat", "View"),
            "timestamp": START + pd.to_timedelta(minutes, unit="min"),
            "user_id": [f"{letter}{number}" for letter, number in zip(letters, numbers, strict=True)],
            "session_id": draw("s1", "s2", "S2", "s3", None, ""),
            "device_type": draw("mobile", "mobile", "Mobile", "desktop", "tablet", None, ""),
            "source": draw("ads", "mail", "Äpfel", "zoo", "Zoo", None),
            "page_path": draw("/", "/help/1", "/Faq/22", "/faq/", "/a.b", None),
            "product_id": draw("p", "q", None),
            "value": draw(1.5, 2.5, None, float("nan"), 10.25, 1e6 / 3),
            "revenue": draw("7.1", " 8.13 ", "free", None, "1e2"),
            "seats": draw(1, 2, 30),
            "is_member": draw(True, False, False, None),
        }
    )
    odd = rng.permutation(rows)
    for places, column, wrong in (
        (odd[:5], "user_id", None),
        (odd[5:10], "user_id", " "),
        (odd[10:15], "user_id", "undefined"),
        (odd[15:20], "event_name", ""),
        (odd[20:25], "timestamp", None),
        (odd[25:30], "timestamp", pd.Timestamp("1970-01-01")),
        (odd[30:35], "value", float("inf")),
        (odd[35:60], "source", "bot"),
        (odd[60:62], "page_path", "/admin/users"),
    ):
        table.loc[places, column] = wrong
    return table


def read_shop_plan(folder: Path) -> Plan:
    return make_plan(folder, PLAN)


#: Funnels of every rule: how the log is seen, the steps, and the options of `measure_funnel`.
CASES: dict[str, tuple[dict[str, Any], Sequence[str | Step], dict[str, Any]]] = {
    "ordered by device": ({}, STEPS, {"by": ["device_type"]}),
    "strict": ({}, ("view", "cart"), {"order": "strict"}),
    "unordered": ({}, STEPS, {"order": "unordered", "by": ["source"], "breakdown": "last_touch"}),
    "exclusion stops": ({}, STEPS, {"exclude": [Exclusion("chat", after=1, before=2)]}),
    "exclusion drops": ({}, STEPS, {"exclude": [Exclusion("chat")], "excluded": "drop_unit"}),
    "hold": ({}, STEPS, {"hold": ["product_id"], "by": ["seats"]}),
    "first time": ({"between": ("2024-01-04", "2024-01-08")}, STEPS, {"first_time": True}),
    "totals": ({}, STEPS, {"count": "totals", "by": ["device_type", "product_id"]}),
    "sessions": ({}, STEPS, {"count": "sessions"}),
    "session units": ({"segment": {"source": "ads"}}, STEPS, {"unit": "session"}),
    "step 2": ({}, STEPS, {"by": ["source", "campaign"], "breakdown": "step:2"}),
    "optional steps": ({}, ("view", "guide", "cart", "purchase"), {"optional": [2], "step_windows": {3: "1D"}}),
    "gaps": ({}, STEPS, {"min_gap": "1h"}),
    "tolerance": ({"between": ("2024-01-04", "2024-01-08")}, STEPS, {"tie_tolerance": "1D"}),
    "the same step twice": ({}, ("cart", "added", "added"), {}),
    "a period": ({"between": ("2024-01-04", "2024-01-08")}, STEPS, {"window": "2D"}),
    "a segment": ({"segment": {"device_type": "mobile"}}, STEPS, {"by": ["device_type"]}),
    "a segment in a period": (
        {"segment": {"source": ["Zoo", "ads"], "seats": {"gt": 1}}, "between": ("2024-01-05", "2024-01-10")},
        STEPS,
        {"window": "3D"},
    ),
    "sessions of a segment": ({"segment": {"is_member": True}}, STEPS, {"count": "sessions"}),
    "filters": ({"where": {"device_type": ["mobile", "Mobile"], "seats": {"lte": 2}}}, STEPS, {}),
    "narrowed steps": (
        {},
        (
            Step("view", {"page_path": {"regex": "^/(a.b)?$"}}),
            Step("added", {"source": {"gte": "Zoo"}}),
            Step("purchase", {"revenue": {"gte": 8}}),
        ),
        {"window": "14D"},
    ),
    "filters by value": ({"where": {"value": {"gt": 2}}}, ("pay", "pay"), {"window": "14D"}),
    "no such event": ({"where": {"page_path": {"is_null": True}}}, ("guide", "purchase"), {"by": ["device_type"]}),
}


def see(log: EventLog, *, segment: Any = None, between: tuple[str, str] | None = None, where: Any = None) -> EventLog:
    log = log.segment(segment) if segment else log
    log = log.between(*between) if between else log
    return log.where(**where) if where else log


def frame_question(
    log: EventLog,
    steps: Sequence[str | Step],
    *,
    by: Sequence[str] = (),
    hold: Sequence[str] = (),
    exclude: Sequence[Exclusion] = (),
    unit: Any = "user",
    count: Any = "uniques",
    breakdown: str = "first_touch",
    order: Any = "ordered",
    **options: Any,
) -> tuple[Ask, Task]:
    """Put the question as `measure_funnel` does."""
    chosen = [Step(step) if isinstance(step, str) else step for step in steps]
    given: dict[str, Any] = {"window": "7D", "anchor": "best", "excluded": "stop_attempt", "optional": ()}
    given |= {"step_windows": None, "min_gap": None, "tie_tolerance": "0s", "first_time": False, **options}
    given |= {"order": order, "exclude": exclude, "count": count, "breakdown": breakdown, "columns": [*by, *hold]}
    rules = read_rules(log, chosen, **given)
    start, end = (microseconds(pd.Timestamp(day)) for day in log.bounds)
    task = Task(rules, tuple(by), tuple(hold), breakdown, (start, end), microseconds(log.last))
    return frame_ask(log, task, chosen, exclude, unit=unit, count=count), task


def count_here(log: EventLog, ask: Ask, task: Task) -> pd.DataFrame:
    """Count by this machine's engine."""
    return count_parts(*fetch_parts(log, ask), task)


def arrange(attempts: pd.DataFrame) -> pd.DataFrame:
    """Order attempts by what they say: engines name units in their own ways."""
    said = attempts.drop(columns=["unit", "cluster"], errors="ignore")
    texts = said.astype({name: "str" for name in said.columns if not pd.api.types.is_numeric_dtype(said[name])})
    return texts.sort_values(list(texts.columns), ignore_index=True)
