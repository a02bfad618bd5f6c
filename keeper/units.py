"""Fixed-point units used wherever a number is signed, journaled or compared with a chain.

A *wad* is an integer with 18 decimals; a *wei* amount counts the chain's native token in 1e-18.
"""

from decimal import Context, Decimal, InvalidOperation

WAD = 10**18
PPM = 10**6
GWEI = 10**9
_EXACT = Context(prec=160)  # the default 28 digits would round large wads
_EXPONENT_MAX = 60  # far beyond any price or amount; larger ones would only cost memory


def mul_wad(left: int, right: int) -> int:
    """Return ``left × right / 1e18``, truncated toward zero as the EVM's SDIV does."""
    return div_trunc(left * right, WAD)


def div_trunc(numerator: int, denominator: int) -> int:
    """Divide toward zero (Python's ``//`` rounds down, the EVM's SDIV does not)."""
    quotient = abs(numerator) // abs(denominator)
    return quotient if (numerator < 0) == (denominator < 0) else -quotient


def wad_from_decimal(text: str) -> int:
    """Parse a decimal string to a wad; digits beyond the 18th are cut off.

    Raises ValueError when the text is not a finite decimal number of sane size.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:
        msg = f"not a decimal number: {text[:40]!r}"
        raise ValueError(msg) from None
    if not number.is_finite():
        msg = f"not a finite number: {text[:40]!r}"
        raise ValueError(msg)
    if number and abs(number.adjusted()) > _EXPONENT_MAX:
        msg = f"absurdly large or small number: {text[:40]!r}"
        raise ValueError(msg)
    return int(_EXACT.scaleb(number, 18))


def wad_to_float(wad: int) -> float:
    """Return the wad as a float, for screens and displays only."""
    return wad / WAD
