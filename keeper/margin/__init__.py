"""The margin engine: pure, numpy, usable as a library.

from keeper.margin import MarginBook, Row
"""

from keeper.margin.book import MarginBook
from keeper.margin.moved import Moved
from keeper.margin.rows import Row

__all__ = ["MarginBook", "Moved", "Row"]
