"""Money: the exponent comes from the standard, and every split sums to the whole."""

import pytest
from pydantic import ValidationError

from shared.money import Money, cumulative, exponent, format_minor, largest_remainder


@pytest.mark.parametrize(("currency", "digits"), [("EUR", 2), ("JPY", 0), ("KWD", 3)])
def test_the_exponent_is_the_currencys(currency: str, digits: int) -> None:
    assert exponent(currency) == digits


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
