"""Accounts that become liquidatable one after the other as the price falls, among many that do not.

Rung k is a small ETH long that the contract holds under-margined at the price of rung k and not yet
at the one before, so each published price makes exactly one account due.
"""

from dataclasses import dataclass, replace
from itertools import count

from keeper.demo.path import Prices
from keeper.demo.population import SeedAccount, draw_population, start_terms
from keeper.demo.terms import FEED_ETH, MARKETS
from keeper.margin.model import Account, Position, Terms, margin
from keeper.units import WAD

START = Prices(btc=60_000 * WAD, eth=3_000 * WAD)
STEP = WAD * 3 // 10_000  # 0.03 % of the start price a rung: far more than funding moves meanwhile
SIZE = WAD // 2  # below what is liquidated by halves
SLACK = WAD // 10  # USD a rung is under at its price
_ETH = next(spec.name for spec in MARKETS if spec.feed == FEED_ETH)


@dataclass(frozen=True, slots=True)
class Ladder:
    """The accounts of a run; account i of the population has the id i + 1 on chain."""

    population: tuple[SeedAccount, ...]
    first: int  # id of rung 0
    rungs: int

    def account(self, rung: int) -> int:
        """Return the id of a rung's account."""
        return self.first + rung


def eth_at(rung: int) -> int:
    """Return the price at which a rung is due; −1: the start, nobody is."""
    return START.eth - START.eth * STEP // WAD * (rung + 1)


def ladder_of(accounts: int, rungs: int, seed: int) -> Ladder:
    """Draw the bystanders, all safe down to far below the last rung, and put the ladder last."""
    low = _terms(eth_at(2 * rungs))
    bystanders: list[SeedAccount] = []
    for attempt in count():
        drawn = draw_population(seed + attempt, accounts, START)
        bystanders += [replace(one, trader=False) for one in drawn if _safe(one, low)]
        if len(bystanders) >= accounts - rungs:
            break
    del bystanders[accounts - rungs :]
    steps = [SeedAccount(trader=False, account=_rung(number)) for number in range(rungs)]
    return Ladder((*bystanders, *steps), len(bystanders) + 1, rungs)


def _terms(eth: int) -> Terms:
    return start_terms(Prices(START.btc, eth))


def _safe(one: SeedAccount, low: Terms) -> bool:
    """Whether an account stands from the start down to the low prices, with a tenth to spare."""
    found = (margin(one.account, terms) for terms in (start_terms(START), low))
    return all(each.equity * 10 > (each.maintenance + each.reserve) * 11 for each in found)


def _rung(number: int) -> Account:
    """Choose the cash so that the account is just under at its price."""
    empty = Account(0, {}, {_ETH: Position(SIZE, START.eth)})
    found = margin(empty, _terms(eth_at(number)))
    cash = found.maintenance + found.reserve - found.equity - SLACK
    return replace(empty, cash=cash)
