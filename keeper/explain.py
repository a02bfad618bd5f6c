"""Why an account is being liquidated, or why not: the documents of ``/api/v1/accounts``.

Nothing is worked out here that the decide loop does not go by: its books, its agenda, and the
venue's exact arithmetic with the newest facts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any

from keeper.facts import AccountId, AccountState, VenueId
from keeper.units import WAD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keeper.facts import Assessment
    from keeper.margin.book import MarginBook
    from keeper.ports import Clock
    from keeper.quarantine import Quarantine
    from keeper.watch.desk import Desk

COMMON = {field.name for field in fields(AccountState)}


@dataclass(frozen=True)
class Explainer:
    """Reads the desks. A bug that an account shows on the way sets it aside, as when deciding."""

    desks: Mapping[VenueId, Desk]
    quarantine: Quarantine
    clock: Clock

    def nearest(self, venue: str | None, offset: int, limit: int) -> dict[str, object]:
        """Return a page of the accounts by distance to liquidation, nearest first.

        ``venue`` None: of all venues. Raises KeyError for a venue that is not there.
        """
        desks = self._chosen(venue)
        rows = [
            _row(id_, desk, account, distance)
            for id_, desk in desks.items()
            for account, distance in desk.lead.nearest(offset + limit)
        ]
        rows.sort(key=lambda row: (row["distance_pct"] is None, row["distance_pct"]))
        total = sum(len(desk.lead) - len(desk.lead.unpriced) for desk in desks.values())
        return {"total": total, "offset": offset, "accounts": rows[offset : offset + limit]}

    def candidates(self, venue: str | None, offset: int, limit: int) -> dict[str, object]:
        """Return a page of the accounts on the agenda, first nominated first, and what each awaits.

        Raises KeyError for a venue that is not there.
        """
        desks = self._chosen(venue)
        pairs = ((id_, desk, account) for id_, desk in desks.items() for account in desk.agenda)
        page = [
            {"venue": id_, "account": account, "why": desk.agenda.why(account)}
            | self._hold(desk, account)
            for id_, desk, account in islice(pairs, offset, offset + limit)
        ]
        total = sum(len(desk.agenda) for desk in desks.values())
        return {"total": total, "offset": offset, "candidates": page}

    def account(self, venue: str, account: str) -> dict[str, object]:
        """Return all there is to say of one account; raises KeyError when it is not known."""
        desk = self._chosen(venue)[VenueId(venue)]
        id_ = AccountId(account)
        state = desk.states[id_]
        return {
            "venue": venue,
            "account": account,
            "why": desk.agenda.why(id_),
            **self._hold(desk, id_),
            "failures_in_a_row": desk.agenda.failures(id_),
            "quarantine": self._quarantined(venue, account),
            "read_at_block": state.head.number,
            "state": {
                field.name: _plain(getattr(state, field.name))
                for field in fields(state)
                if field.name not in COMMON
            },
            "assessment": self._assessment(desk, id_),
            "at_source_prices": _terms(desk.lead, id_),
            "at_contract_prices": _terms(desk.chain, id_),
        }

    def _chosen(self, venue: str | None) -> Mapping[VenueId, Desk]:
        return self.desks if venue is None else {VenueId(venue): self.desks[VenueId(venue)]}

    def _hold(self, desk: Desk, account: AccountId) -> dict[str, object]:
        """Say what ends the account's hold: a block, or a time and how far that is."""
        hold = desk.agenda.hold_of(account)
        if hold is None:
            return {"hold": None}
        left_ms = None if hold.until_ms is None else hold.until_ms - self.clock.wall_ms()
        return {
            "hold": {
                "reason": hold.reason.value,
                "until_ms": hold.until_ms,
                "left_ms": left_ms,
                "until_block": hold.until_block,
            }
        }

    def _quarantined(self, venue: str, account: str) -> str | None:
        for entry in self.quarantine.entries():
            if entry.venue == venue and entry.account == account:
                return entry.error
        return None

    def _assessment(self, desk: Desk, account: AccountId) -> dict[str, object] | None:
        """Repeat the exact arithmetic; None before a market was read, or when a bug keeps it."""
        if desk.market is None:
            return None
        found: Assessment | None = None
        at_s = desk.inclusion_s(self.clock.wall_ms())
        with desk.guard(account):
            found = desk.assess(account)
        if found is None:
            return None
        return {
            "liquidatable": found.liquidatable,
            "by": found.view.value,
            "at_s": at_s,  # chain time: when a transaction sent now would be included
            "equity_usd": _usd(found.equity_wad),
            "requirement_usd": _usd(found.requirement_wad),
            "excess_usd": _usd(found.equity_wad - found.requirement_wad),
            "reward_usd": _usd(found.reward_wad),
            "bad_debt_usd": _usd(found.bad_debt_wad),
            "feeds": list(found.feeds),
            "stale_on_chain": list(found.stale),
            "carries_prices": [price.feed for price in found.updates],
            "not_before_s": found.until_s,
        }


def _row(venue: VenueId, desk: Desk, account: AccountId, distance: float) -> dict[str, Any]:
    return {
        "venue": venue,
        "account": account,
        "distance_pct": _finite(distance),
        "excess_usd": _finite(desk.lead.excess(account)),
        "why": desk.agenda.why(account),
    }


def _terms(book: MarginBook[AccountId], account: AccountId) -> dict[str, object] | None:
    """Return the account's row, term by term; None when it has nothing to liquidate.

    ``move_pct``: how far the factor alone may move until the excess is zero; None: never. It holds
    inside ``from`` and ``to`` only; beyond, the row is compiled again.
    """
    if account not in book:
        return None
    row, values, excess = book.row(account), book.values, book.excess(account)
    terms = []
    for factor, weight in row.weights.items():
        value = values.get(factor)
        part = None if value is None else weight * value
        low, high = row.envelope.get(factor, (-math.inf, math.inf))
        terms.append(
            {
                "factor": factor,
                "value": value,
                "weight": weight,
                "usd": part,
                "move_pct": _finite(-100 * excess / part) if part else None,
                "from": _finite(low),
                "to": _finite(high),
            }
        )
    return {
        "excess_usd": _finite(excess),
        "under": book.is_under(account),
        "constant_usd": row.constant,
        "terms": terms,
    }


def _usd(wad: int) -> float:
    return wad / WAD


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON
    """Return a venue's own state as JSON: integers of any size as text, to the last unit."""
    plain: object
    match value:
        case Enum():
            plain = value.value
        case bool() | None | str() | float():
            plain = value
        case int():
            plain = str(value)
        case bytes():
            plain = "0x" + value.hex()
        case dict():
            plain = {str(key): _plain(item) for key, item in value.items()}
        case tuple() | list() | set() | frozenset():
            plain = [_plain(item) for item in value]
        case _ if is_dataclass(value):
            plain = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        case _:
            plain = str(value)
    return plain
