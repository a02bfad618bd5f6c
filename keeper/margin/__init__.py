"""The margin engine: pure, usable as a library. It needs numpy only, does no I/O, reads no clock.

``model``     the exact margin of one account, in integers: USD wads (18 decimals), every product
              truncated toward zero as the EVM does; progressive maintenance brackets
              Σ rate × (part of the notional inside each bracket), haircuts by amount, funding by
              index, reserve ``rate × notional`` within bounds. ``tests/margin/test_on_chain.py``
              holds it against a contract, to the wei.
``rows``      an account as one inequality in float64 USD, valid inside an envelope:
              ``excess ≥ constant + Σ weight[f] × value[f]``. ``compile_row`` makes one under the
              rules of ``model``; under other rules write a ``Row`` of your own.
``book``      ``MarginBook``: rows by id, and who is under-margined after each move of factors.
              ``load`` takes arrays: ids and constants (n), indptr (n + 1), factors and weights
              (indptr[-1]). Values are plain floats in the factors' own units.
``solvency``  ``Exposure`` of an account at some prices, ``Solvency`` totals (USD wads), ``sunk``:
              after which moves of a price an account is under.

Bad input raises ValueError (a number that is not finite, a price that is not positive, arrays that
do not fit) or KeyError (an id or a factor that is not there) and changes nothing. README, "The
margin engine is usable alone", has examples that the tests run.
"""

from keeper.margin.book import MarginBook
from keeper.margin.moved import Moved
from keeper.margin.rows import AssetFactors, MarketFactors, Row, compile_row
from keeper.margin.solvency import Exposure, Solvency, sunk

__all__ = [
    "AssetFactors",
    "Exposure",
    "MarginBook",
    "MarketFactors",
    "Moved",
    "Row",
    "Solvency",
    "compile_row",
    "sunk",
]
