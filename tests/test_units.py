from decimal import Context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.units import WAD, div_trunc, mul_wad, wad_from_decimal

INT = st.integers(-(10**60), 10**60)


@given(INT, INT.filter(bool))
def test_division_goes_toward_zero(numerator: int, denominator: int) -> None:
    quotient = div_trunc(numerator, denominator)
    rest = numerator - quotient * denominator
    assert abs(rest) < abs(denominator)
    assert rest == 0 or (rest < 0) == (numerator < 0)


def test_mul_wad_truncates() -> None:
    assert mul_wad(-1, 1) == 0
    assert mul_wad(3 * WAD // 2, -WAD) == -3 * WAD // 2


@given(st.integers(-(10**50), 10**50))
def test_decimals_are_exact(wad: int) -> None:
    text = format(Context(prec=200).scaleb(wad, -18), "f")
    assert wad_from_decimal(text) == wad


@pytest.mark.parametrize("text", ["", "nan", "inf", "-Infinity", "1e999999999", "0x10", "1,5"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        wad_from_decimal(text)
