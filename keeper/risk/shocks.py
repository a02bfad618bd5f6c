"""Shocks as a person writes them: ``ETH=-20%``."""

import re
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal

from keeper.errors import UnknownNameError
from keeper.facts import FeedId
from keeper.risk.portfolio import Moves, Portfolio
from keeper.units import PPM

PCT_MAX = 1_000
NAMES_MAX = 40  # told in an error
_PCT = re.compile(r"[+-]?[0-9]{1,4}(\.[0-9]{1,4})?%")


def ppm_of(text: str, what: str) -> int:
    """Read ``-20%``; raises ValueError that says how ``what`` should be written."""
    if _PCT.fullmatch(text):
        ppm = int(Decimal(text[:-1]) * (PPM // 100))
        if -PPM < ppm <= PCT_MAX * (PPM // 100):
            return ppm
    msg = f"{what} should be a percentage above -100% and up to +{PCT_MAX}%, as -20%; got {text!r}"
    raise ValueError(msg)


def moves_of(
    shocks: Sequence[str], everything: str | None, portfolios: Iterable[Portfolio]
) -> Moves:
    """Return what ``NAME=-20%`` of each moves; ``everything``: what moves all others.

    A name is a feed, a market, or a feed's part before the slash; letters' case does not matter.
    Raises ValueError for what cannot be read or is meant twice, UnknownNameError for what is not
    there.
    """
    known: dict[FeedId, set[str]] = {}
    for portfolio in portfolios:
        for feed in portfolio.prices:
            known.setdefault(feed, set())
        for market, feed in portfolio.markets.items():
            known.setdefault(feed, set()).add(market)
    moves: dict[FeedId, int] = {}
    if everything is not None:
        moves = dict.fromkeys(known, ppm_of(everything, "all"))
    named: set[FeedId] = set()
    for shock in shocks:
        name, equals, pct = shock.rpartition("=")
        if not equals or not name:
            msg = f"a shock should be written NAME=-20%, got {shock!r}"
            raise ValueError(msg)
        feed = _feed(name, known)
        if feed in named:
            msg = f"{feed} is shocked twice; leave one of them out"
            raise ValueError(msg)
        named.add(feed)
        moves[feed] = ppm_of(pct, f"the shock of {name}")
    return moves


def _feed(name: str, known: dict[FeedId, set[str]]) -> FeedId:
    """Return the feed that a name means: its own first, then a market's, then the short one."""
    wanted = name.casefold()
    whole = [feed for feed in known if feed.casefold() == wanted]
    by_market = [feed for feed, names in known.items() if wanted in map(str.casefold, names)]
    short = [feed for feed in known if feed.casefold().partition("/")[0] == wanted]
    found = whole or by_market or short
    if len(found) == 1:
        return found[0]
    names = _listed(found or [*known, *sorted(set().union(*known.values()))])
    if found:
        msg = f"{name!r} may be any of {names}; name one of them"
        raise ValueError(msg)
    if known:
        msg = f"no price or market {name!r} is known; there are {names}"
    else:
        msg = f"no price or market {name!r} is known: no venue has been read yet"
    raise UnknownNameError(msg)


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(dict.fromkeys(names))[:NAMES_MAX])
    return shown if len(names) <= NAMES_MAX else f"{shown}, … ({len(names)} in all)"
