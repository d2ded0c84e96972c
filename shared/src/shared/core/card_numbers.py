"""Card numbers never enter. A wish that holds one is refused by the name of its field; what was observed is taken, with the
number masked.

A card number has a length and a beginning that some card scheme has, and a valid check digit: an IMEI, a GTIN, an IBAN or a
telephone number is none.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic_core import PydanticCustomError

SHORTEST, LONGEST = 13, 19
_SCHEMES: Final = (
    # First digits, from and to; lengths. Broad, where schemes share a range.
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),
    ("300", "305", (14, 16, 17, 18, 19)),  # Diners Club
    ("3095", "3095", (14, 16, 17, 18, 19)),
    ("36", "36", (14, 16, 17, 18, 19)),
    ("38", "39", (14, 16, 17, 18, 19)),
    ("3528", "3589", (16, 17, 18, 19)),  # JCB
    ("50", "50", (16, 17, 18, 19)),  # Maestro, Verve, Elo, RuPay
    ("56", "58", (16, 17, 18, 19)),  # Maestro
    ("60", "60", (16, 17, 18, 19)),  # Discover, RuPay, Hipercard
    ("62", "65", (16, 17, 18, 19)),  # UnionPay, Maestro, Discover
    ("67", "67", (16, 17, 18, 19)),  # Maestro
    *((bin, bin, (13, 14, 15)) for bin in ("5018", "5020", "5038", "5893", "6304", "6759", "6761", "6762", "6763")),
    ("81", "82", (16, 17, 18, 19)),  # UnionPay, RuPay
    ("2200", "2204", (16, 17, 18, 19)),  # Mir
    ("9792", "9792", (16,)),  # Troy
)
_SHAPES: Final = {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 5), (4, 4, 4, 3), (6, 7), (8, 8)}
"""In groups as cards are printed, whatever stands between them."""
_OTHER_THINGS: Final = re.compile(
    r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"  # UUID
    r"|(?=[0-9]*[a-f])[0-9a-f]{32,}"  # digest
    r"|\+[0-9][0-9 ()/.\-]*"  # telephone number
)
_IBAN: Final = re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?\b")


def has_card_number(text: str) -> bool:
    """Say whether the text holds one. Digits of any script count, and whatever is no letter may stand between them."""
    return next(_places(text), None) is not None


def masked(text: str) -> str:
    """Return the text with all but six digits before and four after of its card numbers replaced; its length stays."""
    places = list(_places(text))
    if not places:
        return text
    characters = list(text)
    for place in places:
        for index in place[6:-4]:
            characters[index] = "x"
    return "".join(characters)


def refused(value: Any) -> Any:
    """Return the value, if no text in it holds a card number."""
    if any(map(has_card_number, _texts(value))):
        raise PydanticCustomError("card_number", "must not hold a card number")
    return value


def masked_in(value: Any) -> Any:
    """Return the value with the card numbers in its texts masked; a model within it has done so itself."""
    match value:
        case str():
            return masked(value) if type(value) is str else value
        case tuple() | list():
            return type(value)(masked_in(each) for each in value)
        case Mapping():
            return {masked_in(name): masked_in(each) for name, each in value.items()}
        case _:
            return value


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case tuple() | list() | frozenset() | set():
            for each in value:
                yield from _texts(each)
        case Mapping():
            for name, each in value.items():
                yield from _texts(name)
                yield from _texts(each)


def _places(text: str) -> Iterator[list[int]]:
    """Find where the digits of each card number stand."""
    if sum(map(str.isdigit, text)) < SHORTEST:
        return
    groups: list[list[tuple[int, int]]] = []
    separators: list[str | None] = []  # before each group; None where it begins anew
    between: str | None = None
    plain = _without_other_things(text)
    for index, character in enumerate(plain):
        digit = unicodedata.digit(character, None)
        if digit is None:
            # A letter ends what could be one number; what cannot be seen does not even separate.
            if unicodedata.category(character)[0] == "L" or between is None:
                between = None
            elif unicodedata.category(character) not in ("Cf", "Mn"):
                between += character
            continue
        if groups and between == "":
            groups[-1].append((index, digit))
        else:
            groups.append([(index, digit)])
            separators.append(between)
        between = ""
    taken = -1
    for start, first in enumerate(groups):
        if first[0][0] <= taken:
            continue
        for end in range(start, len(groups)):
            if end > start and separators[end] is None:
                break
            digits = [each for group in groups[start : end + 1] for each in group]
            if len(digits) > LONGEST:
                break
            if len(digits) >= SHORTEST and _belongs_together(groups[start : end + 1], separators[start + 1 : end + 1]):
                number = "".join(str(digit) for _, digit in digits)
                if _is_card(number):
                    taken = digits[-1][0]
                    yield [index for index, _ in digits]
                    break


def _belongs_together(groups: list[list[tuple[int, int]]], separators: list[str | None]) -> bool:
    """One group; or groups with the same between them, blanks counted once; or grouped as on a card."""
    alike = {re.sub(r"\s+", " ", each or "") for each in separators}
    return len(alike) <= 1 or tuple(map(len, groups)) in _SHAPES


def _without_other_things(text: str) -> str:
    """Put letters in place of what only looks like card numbers, so that the length stays."""
    text = _OTHER_THINGS.sub(lambda found: "n" * len(found[0]), text)
    return _IBAN.sub(lambda found: "n" * len(found[0]) if _is_iban(found[0]) else found[0], text)


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def _is_card(digits: str) -> bool:
    has_scheme = any(
        len(digits) in lengths and first <= digits[: len(first)] <= last for first, last, lengths in _SCHEMES
    )
    return has_scheme and _passes_luhn(digits) and not (len(digits) == SHORTEST and _is_gtin(digits))


def _passes_luhn(digits: str) -> bool:
    """Check the last digit (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        if place % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def _is_gtin(digits: str) -> bool:
    """Recognise an article's number, which Visa's old numbers of thirteen digits look like."""
    return sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits)) % 10 == 0
