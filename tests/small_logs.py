"""Logs and plans written by hand, small enough to count."""

from pathlib import Path

import pandas as pd

from convlib.events import EventLog, read_events
from convlib.plan import Plan, read_plan

#: A Monday, midnight: times in the logs are counted from here.
START = pd.Timestamp("2024-01-01")


def write_rows(text: str) -> pd.DataFrame:
    """Read events written as `ann visit 0h device_type=mobile`, one a line."""
    return pd.DataFrame([_read_line(line) for line in text.splitlines() if line])


def repeat(prefix: str, count: int, *events: str) -> str:
    """Write the same events for `count` units."""
    return "\n".join(f"{prefix}{number} {event}" for number in range(count) for event in events) + "\n"


def make_plan(folder: Path, text: str) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return read_plan(path)


def make_log(rows: str | pd.DataFrame, plan: Plan) -> EventLog:
    return read_events(write_rows(rows) if isinstance(rows, str) else rows, plan=plan)


def pick(table: pd.DataFrame, columns: str) -> list[tuple[object, ...]]:
    """Give some columns of a table as rows, for comparison with rows typed in a test."""
    return list(table[columns.split()].itertuples(index=False, name=None))


def _read_line(line: str) -> dict[str, object]:
    user, event, time, *more = line.split()
    known = {"user_id": user, "event_name": event, "timestamp": START + pd.Timedelta(time)}
    return {**known, **dict(_read_property(text) for text in more)}


def _read_property(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        return name, value
