"""No card numbers, ever: text that holds one is refused before it is stored anywhere."""

import re
from typing import Final

from pydantic import AfterValidator

SHORTEST, LONGEST = 13, 19
# Digits in groups, as people write them: 4111 1111 1111 1111 or 4111-1111-1111-1111.
_GROUPS = re.compile(r"\d+(?:[ \-]\d+)*")
_SEPARATOR = re.compile(r"[ \-]")


def has_card_number(text: str) -> bool:
    """Whether 13 to 19 digits in a row, spaces and hyphens aside, have a valid check digit (ISO/IEC 7812, Luhn)."""
    return any(_has_one(_SEPARATOR.split(match.group())) for match in _GROUPS.finditer(text))


def _has_one(groups: list[str]) -> bool:
    for start in range(len(groups)):
        digits = ""
        for group in groups[start:]:
            digits += group
            if len(digits) > LONGEST:
                break
            if len(digits) >= SHORTEST and _passes_luhn(digits):
                return True
    return False


def _passes_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        if place % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def _refused(text: str) -> str:
    if has_card_number(text):
        raise ValueError("must not hold a card number")
    return text


NoCardNumber: Final = AfterValidator(_refused)
"""For text that comes in: `Annotated[Text, NoCardNumber]`."""
