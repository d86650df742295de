"""Durations as they are written in parameters and plans: `30min`, `12h`, `7D`."""

import re
from decimal import Decimal

from convlib.errors import ParamError

MICROSECONDS = {
    "s": 1_000_000,
    "min": 60 * 1_000_000,
    "h": 3_600 * 1_000_000,
    "D": 86_400 * 1_000_000,
    "W": 7 * 86_400 * 1_000_000,
}
LONGEST_DAYS = 36_525
_AMOUNT = r"(?P<amount>[0-9]+(?:\.[0-9]+)?)"
_DURATION = re.compile(rf"{_AMOUNT}(?P<unit>s|min|h|D|W)")
_LOOSE_DURATION = re.compile(rf"\s*{_AMOUNT}\s*(?P<unit>[a-z]+)\s*", re.IGNORECASE)


def parse_duration(text: str, *, name: str = "duration") -> int:
    """Say how many microseconds a written duration lasts.

    Args:
        text: A number and a unit: `s`, `min`, `h`, `D` (24 hours) or `W` (7 days).
        name: The parameter's name as the user knows it, for the error message.

    Returns:
        Microseconds, at least 1.

    Raises:
        ParamError: The text is not a duration, is not longer than zero, or is longer than 100 years.
    """
    problem = find_duration_problem(text)
    if problem:
        raise ParamError(f"`{name}` is {text!r}; {problem}")
    return _microseconds(text) or 0


def write_duration(microseconds: int) -> str:
    """Write a duration in the largest of `D`, `h`, `min`, `s` that fits, with at most two decimals."""
    amounts = {unit: round(microseconds / MICROSECONDS[unit], 2) for unit in ("D", "h", "min", "s")}
    unit = next((unit for unit, amount in amounts.items() if amount >= 1), "s")
    return f"{max(amounts[unit], 0.01):g}{unit}"


def find_duration_problem(text: object) -> str | None:
    """Say what a written duration would have to be, or None when it is right."""
    microseconds = _microseconds(text)
    if microseconds is None:
        return f"it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'.{_suggest(text)}"
    if microseconds == 0:
        return "it must be longer than zero, such as '30min' or '7D'."
    if microseconds > LONGEST_DAYS * MICROSECONDS["D"]:
        return f"it must not be longer than 100 years ('{LONGEST_DAYS}D')."
    return None


def _microseconds(text: object) -> int | None:
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    return int(Decimal(found["amount"]) * MICROSECONDS[found["unit"]]) if found else None


def _suggest(text: object) -> str:
    found = _LOOSE_DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return ""
    written = found["unit"].casefold()
    units = [unit for unit in MICROSECONDS if written.startswith(unit.casefold())]
    return f" Did you mean '{found['amount']}{units[0]}'?" if units else ""
