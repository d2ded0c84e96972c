"""Laws of splitting, for any amounts (I10), and how any amount is written."""

from decimal import Decimal
from itertools import pairwise

from babel.numbers import format_currency, get_currency_precision
from hypothesis import given
from hypothesis import strategies as st

from shared.core.money import MAX_MINOR, cumulative, exponent, format_minor, known_currencies, largest_remainder

amounts = st.integers(min_value=0, max_value=MAX_MINOR)


@given(amounts, st.integers(1, 500), st.data())
def test_parts_taken_one_after_another_sum_to_the_whole(total: int, whole: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, whole), max_size=10)))
    points = [0, *cuts, whole]
    parts = [cumulative(total, b, whole) - cumulative(total, a, whole) for a, b in pairwise(points)]
    assert sum(parts) == total
    assert min(parts) >= 0


@given(amounts, st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
def test_a_split_by_weights_sums_to_the_whole_and_is_off_by_less_than_one_each(total: int, weights: list[int]) -> None:
    parts = largest_remainder(total, weights)
    assert sum(parts) == total
    whole = sum(weights)
    if whole:
        assert all(abs(part * whole - total * weight) < whole for part, weight in zip(parts, weights, strict=True))


AGREED = [code for code in sorted(known_currencies()) if get_currency_precision(code) == exponent(code)]
"""Where CLDR shows as many digits as ISO 4217 has minor units."""


@given(st.integers(-MAX_MINOR, MAX_MINOR), st.sampled_from(AGREED), st.sampled_from(["en", "de"]))
def test_an_amount_is_written_as_the_locale_writes_it(minor: int, currency: str, locale: str) -> None:
    major = Decimal(minor).scaleb(-exponent(currency))
    assert format_minor(minor, currency, locale) == format_currency(major, currency, locale=locale)
