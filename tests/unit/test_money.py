"""Money: the exponent comes from the standard, and every split sums to the whole."""

import re

import iso4217
import pytest
from pydantic import TypeAdapter, ValidationError

from shared.core.money import (
    ActiveCountry,
    ActiveCurrency,
    Money,
    cumulative,
    exponent,
    format_minor,
    largest_remainder,
)

OF_ISO = {each.code: each.exponent for each in iso4217.Currency if each.exponent is not None}


@pytest.mark.parametrize(("currency", "digits"), OF_ISO.items())
def test_minor_units_are_those_of_iso_4217(currency: str, digits: int) -> None:
    assert exponent(currency) == digits
    shown = re.search(r"\d[\d,]*(?:\.(\d+))?", format_minor(199_900, currency))
    assert shown is not None
    assert len(shown[1] or "") == digits
    for locale in ("de", "fr", "hi", "ja"):
        assert re.sub(r"\D", "", format_minor(199_900, currency, locale)) == "199900"


def test_currencies_that_clash_with_cldr_are_shown_with_all_their_digits() -> None:
    assert format_minor(199_900, "RSD") == "RSD1,999.00"
    assert format_minor(199_900, "HUF", "hu") == "1\xa0999,00\xa0Ft"
    assert format_minor(199_900, "IQD") == "IQD199.900"


@pytest.mark.parametrize("code", ["HRK", "DEM", "BGN", "XAU", "XTS", "XXX", "eur", "ZZZ"])
def test_at_the_door_only_a_currency_of_today_is_taken(code: str) -> None:
    with pytest.raises(ValidationError, match="must be the code of a currency of today"):
        TypeAdapter(ActiveCurrency).validate_python(code)


@pytest.mark.parametrize("code", ["XK", "UK", "EU", "SU", "ZZ"])
def test_at_the_door_only_a_country_of_iso_3166_is_taken(code: str) -> None:
    with pytest.raises(ValidationError, match="must be the code of a country"):
        TypeAdapter(ActiveCountry).validate_python(code)
    assert TypeAdapter(ActiveCountry).validate_python("GB") == "GB"


def test_an_order_in_a_currency_since_withdrawn_is_still_read_and_shown() -> None:
    assert str(Money(minor=199_900, currency="HRK")) == "HRK1,999.00"


def test_an_amount_is_shown_in_its_currency() -> None:
    assert format_minor(1999, "EUR") == "€19.99"
    assert format_minor(1999, "JPY") == "¥1,999"
    assert format_minor(1999, "KWD") == "KWD1.999"


def test_the_units_of_a_line_are_worth_the_line() -> None:
    worth = [cumulative(1000, k, 3) - cumulative(1000, k - 1, 3) for k in (1, 2, 3)]
    assert worth == [333, 334, 333]
    assert sum(worth) == 1000


def test_the_largest_remainders_get_the_odd_cents_and_ties_go_to_the_earlier() -> None:
    assert largest_remainder(100, [1, 1, 1]) == [34, 33, 33]
    assert largest_remainder(10, [3, 5, 2]) == [3, 5, 2]
    assert largest_remainder(5, [0, 0]) == [3, 2]
    assert largest_remainder(0, [7, 1]) == [0, 0]


@pytest.mark.parametrize(("part", "whole"), [(-1, 3), (4, 3), (0, 0)])
def test_there_are_no_more_units_than_there_are(part: int, whole: int) -> None:
    with pytest.raises(ValueError, match="is not within"):
        cumulative(100, part, whole)


@pytest.mark.parametrize("weights", [[], [1, -1]])
def test_weights_are_not_negative(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        largest_remainder(1, weights)


@pytest.mark.parametrize("minor", [1.5, "1", True, 10**16])
def test_an_amount_is_a_whole_number_of_minor_units(minor: object) -> None:
    with pytest.raises(ValidationError, match="minor"):
        Money.model_validate({"minor": minor, "currency": "EUR"})


@pytest.mark.parametrize("currency", ["EURO", "eur", "XX", "ZZZ"])
def test_a_currency_is_an_iso_code(currency: str) -> None:
    with pytest.raises(ValidationError, match="currency"):
        Money.model_validate({"minor": 1, "currency": currency})
