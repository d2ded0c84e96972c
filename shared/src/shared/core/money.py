"""Money is integer minor units and an ISO currency; every split of an amount sums to the amount, to the minor unit."""

from collections.abc import Sequence
from copy import copy
from decimal import Decimal
from functools import cache, lru_cache
from typing import Annotated

import iso4217
import pycountry
from babel import Locale
from babel.numbers import get_currency_precision, list_currencies
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_MINOR = 10**15
"""Far above any order, far below what a bigint or a JSON number in a browser can hold exactly."""

Minor = Annotated[int, Field(ge=0, le=MAX_MINOR, strict=True, description="amount in minor units of the currency")]


@cache
def active_currencies() -> dict[str, int]:
    """Return the codes of today's currencies and their minor units (ISO 4217). Metals, baskets and test codes have none."""
    return {each.code: each.exponent for each in iso4217.Currency if each.exponent is not None}


@cache
def known_currencies() -> frozenset[str]:
    """Return today's currencies and those that were withdrawn: an order of last year is still to be read."""
    return (
        frozenset(code for code in list_currencies() if len(code) == 3 and code.isupper()) | active_currencies().keys()
    )


def _known(code: str) -> str:
    if code not in known_currencies():
        raise ValueError("must be an ISO 4217 currency code")
    return code


def _active(code: str) -> str:
    if code not in active_currencies():
        raise ValueError("must be the code of a currency of today (ISO 4217), as EUR")
    return code


def _country(code: str) -> str:
    if pycountry.countries.get(alpha_2=code) is None or not code.isupper():
        raise ValueError("must be the code of a country (ISO 3166-1 alpha-2), as DE")
    return code


Currency = Annotated[str, Field(min_length=3, max_length=3), AfterValidator(_known)]
ActiveCurrency = Annotated[str, Field(min_length=3, max_length=3), AfterValidator(_active)]
"""For what comes in."""
ActiveCountry = Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2"), AfterValidator(_country)]
"""For what comes in."""


@cache
def exponent(currency: str) -> int:
    """Return the digits after the point: JPY 0, EUR 2, KWD 3 (ISO 4217). CLDR says how many are usually shown, which for RSD,
    HUF and others is fewer; of withdrawn currencies ISO says nothing any more."""
    digits = active_currencies().get(currency)
    return get_currency_precision(currency) if digits is None else digits


class Money(BaseModel):
    """Money is an amount of one currency in its minor units; signed, since ledgers subtract."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minor: int = Field(strict=True, ge=-MAX_MINOR, le=MAX_MINOR)
    currency: Currency

    def __str__(self) -> str:
        return format_minor(self.minor, self.currency)


@lru_cache(maxsize=8192)
def format_minor(minor: int, currency: str, locale: str = "en") -> str:
    """Write an amount in the reader's locale: `1999, "EUR"` -> `€19.99`. Results are cached, since a page says the same few
    amounts again and again."""
    digits = exponent(currency)
    if locale != "en":
        return _formatted(Decimal(minor).scaleb(-digits), currency, locale)
    # babel takes longer for one amount than all the rest of a sentence does, and most are new to a process.
    before, after = _around(currency, minor < 0)
    whole, part = divmod(abs(minor), 10**digits)
    return f"{before}{whole:,}.{part:0{digits}}{after}" if digits else f"{before}{whole:,}{after}"


def _formatted(amount: Decimal, currency: str, locale: str) -> str:
    """Write it as the locale does, with as many digits as the currency has minor units."""
    digits = exponent(currency)
    spoken = Locale.parse(locale)
    pattern = copy(spoken.currency_formats["standard"])
    pattern.frac_prec = (digits, digits)
    return str(pattern.apply(amount, spoken, currency=currency, currency_digits=False))


@cache
def _around(currency: str, is_negative: bool) -> tuple[str, str]:
    """Return what stands around the digits of an amount, as babel writes it in English."""
    one = _formatted(Decimal(-1 if is_negative else 1), currency, "en")
    digits = exponent(currency)
    before, _, after = one.partition(f"1.{'0' * digits}" if digits else "1")
    return before, after


def cumulative(total: int, part: int, whole: int) -> int:
    """Return what the first `part` of `whole` units are worth of `total`: rounded half up, so that differences of it always
    sum up.

    Raises ValueError unless 0 <= part <= whole and whole > 0.
    """
    if whole <= 0 or not 0 <= part <= whole:
        raise ValueError(f"part {part} is not within 0 to {whole}")
    return (2 * total * part + whole) // (2 * whole)


def largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `weights`; the parts sum to `total`, earlier parts win ties.

    All weights zero means equal weights. Raises ValueError on a negative weight or an empty list.
    """
    if not weights or min(weights) < 0:
        raise ValueError("weights must be a non-empty list of non-negative numbers")
    if sum(weights) == 0:
        weights = [1] * len(weights)
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts
