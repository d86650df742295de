"""Personal data in texts: e-mail addresses, telephone and card numbers; found and counted, never shown."""

import re
from collections.abc import Iterable

EMAIL = re.compile(r"[\w.+-]+(?:@|%40)[\w-]+(?:\.[\w-]+)*\.(?!png|jpe?g|gif|svg|webp)[a-zA-Z]{2,}", re.ASCII)
#: With a country's code or brackets, as people write it: bare digits are more often ids.
PHONE = re.compile(r"(?<![\w+])(?:\+\d{1,3}[\s./-]?|\(\+?\d{1,5}\)\s?)(?:\d[\s./()-]?){6,12}\d(?!\w)")
CARD = re.compile(r"(?<![\w.-])[3-6]\d{3}(?:[ -]?\d){9,15}(?![\w.-])")


def count_personal(texts: Iterable[str], *, numbers: bool = True) -> dict[str, int]:
    """Count the texts that hold personal data.

    Args:
        texts: Different values of one column.
        numbers: Whether to look for telephone and card numbers too; ids look like these.

    Returns:
        How many hold each kind; only kinds that occur.
    """
    listed = list(texts)
    found = {"e-mail addresses": sum(EMAIL.search(text) is not None for text in listed)}
    if numbers:
        found["telephone numbers"] = sum(PHONE.search(text) is not None for text in listed)
        long = [re.sub(r"\D", "", hit[0]) for text in listed for hit in CARD.finditer(text)]
        valid = sum(map(is_card, long))
        # One in ten numbers passes the check digit by chance: a column of long ids is none of cards.
        found["card numbers"] = valid if valid > 0.3 * len(long) else 0
    return {kind: count for kind, count in found.items() if count}


def is_card(number: str) -> bool:
    """Check the last digit, by Luhn's formula (ISO/IEC 7812-1)."""
    doubled = [int(digit) * (2 - (place % 2 == 0)) for place, digit in enumerate(reversed(number))]
    return len(set(number)) > 1 and sum(sum(divmod(digit, 10)) for digit in doubled) % 10 == 0
