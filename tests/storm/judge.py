"""Reads every block, once, for the verdicts; shares no code with the keeper.

One batched read a block answers who is liquidatable there, after the newest price that the broker
had; the receipts say who was touched, by whom, and what it paid. Whether a touch was right is asked
at the parent block, at the time of the block, with every price really published by then.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.storm.calls import Made, calls_of
from tests.storm.feeder import Known
from tests.storm.verdicts import BlockFacts, Revert, Touch, Verdicts
from tests.synthetix.chain import Event, RevertedError
from tests.synthetix.world import SURVEY_GAS, Call, Survey, World

ATTEMPT = "AccountLiquidationAttempt"  # comes with every kind of liquidation, and its reward
MARGIN_ONLY = "AccountMarginLiquidation"
FLAGGING = "AccountFlaggedForLiquidation"
NAMING = frozenset({"liquidate", "liquidateMarginOnly"})  # the one account comes first
CLOSED = "PositionLiquidated"
TOUCHING = frozenset({FLAGGING, ATTEMPT, CLOSED, MARGIN_ONLY})
TRADING = frozenset({"OrderCommitted", "OrderSettled", "CollateralModified"})


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction of the keeper, mined: what kind of call it was, what it cost and paid."""

    kind: str
    tx_hash: str
    block: int
    success: bool
    gas: int
    reward: int  # USD wads, by its events


@dataclass
class Judge:
    """Judges one wallet on one market."""

    world: World
    accounts: Sequence[int]
    wallet: str
    verdicts: Verdicts
    sent: list[Sent] = field(default_factory=list)
    judged: int = 0
    unread: int = 0  # views refused: no price the contract would take
    _before: list[frozenset[int]] = field(default_factory=list)  # who was due, two blocks back

    def block(self, number: int, known: Known) -> BlockFacts:
        """Judge one block; every one once, in order."""
        survey = self.world.survey(self.accounts, number, applying=known.newest)
        receipts = self.world.chain.node.rpc("eth_getBlockReceipts", hex(number))
        due = self._due(survey)
        facts = BlockFacts(
            number=number,
            timestamp_s=survey.timestamp_s,
            due=due,
            open_flagged={
                account: frozenset(survey.accounts[account].sizes)
                for account in survey.flagged & set(self.accounts)
            },
            room=frozenset(it for it, capacity in survey.capacity.items() if capacity.now > 0),
            touches=tuple(self._touches(survey, receipts, known)),
            reverts=tuple(self._reverts(survey, receipts, known)),
        )
        self._note(receipts)
        self.verdicts.block(facts)
        self._before = [*self._before[-1:], due]
        self.judged = number
        return facts

    def _due(self, survey: Survey) -> frozenset[int]:
        found = set()
        for account, reading in survey.accounts.items():
            answers = reading.can_liquidate, reading.can_liquidate_margin_only
            self.unread += not all(isinstance(answer, bool) for answer in answers)
            if not reading.flagged and True in answers:
                found.add(account)
        return frozenset(found)

    # --- what was done ----------------------------------------------------------------------------

    def _touches(
        self, survey: Survey, receipts: Iterable[Mapping[str, Any]], known: Known
    ) -> Iterator[Touch]:
        traded = False  # so far in this block: then the parent's state is not what was there
        for receipt in receipts:
            by_account: dict[int, list[Event]] = defaultdict(list)
            for event in self.world.perps.events(receipt):
                traded = traded or event.name in TRADING
                if event.name in TOUCHING:
                    by_account[event.fields["accountId"]].append(event)
            for account, events in by_account.items():
                touch = self._touch(account, events, receipt)
                by_contract = traded and self.world.system.pyth is None  # at its own price
                if touch.flagged and not by_contract:
                    right = self._justified(account, survey, known)
                    touch = replace(touch, justified=right)
                yield touch

    def _touch(
        self,
        account: int,
        events: Sequence[Event],
        receipt: Mapping[str, Any],
    ) -> Touch:
        closed: dict[int, int] = {}
        for event in events:
            if event.name == CLOSED and event.fields["amountLiquidated"]:
                market = event.fields["marketId"]
                closed[market] = closed.get(market, 0) + event.fields["amountLiquidated"]
        names = {event.name for event in events}
        attempts = [event for event in events if event.name == ATTEMPT]
        first = bool(names & {FLAGGING, MARGIN_ONLY})
        return Touch(
            account=account,
            tx_hash=receipt["transactionHash"],
            reward=sum(_reward(event) for event in events),
            closed=closed,
            flagged=first,
            full=MARGIN_ONLY in names or any(it.fields["fullLiquidation"] for it in attempts),
            ours=receipt["from"] == self.wallet,
            justified=True,
        )

    def _justified(self, account: int, survey: Survey, known: Known) -> bool:
        """Say whether the parent's state, with any price published by then, allows it."""
        choices: list[list[Call]] = [[]]
        pyth, fee_wei = self.world.system.pyth, self.world.system.setup.update_fee_wei
        if pyth is None:
            feeds, set_now = self.world.system.aggregators, known.prices.items()
            choices.append([Call(feeds[it], "setAnswer", (price,)) for it, price in set_now])
        else:
            oldest_s = survey.timestamp_s - self.world.system.setup.strict_age_s
            usable = [it.updates for it in reversed(known.signed) if it.published_s >= oldest_s]
            by_feed = zip(*usable, strict=True)  # feeds arrive one by one: any mixture is real
            choices += [
                [Call(pyth, "updatePriceFeeds", (list(updates),), fee_wei * len(updates))]
                for updates in itertools.product(*by_feed)
                if updates
            ]
        questions = [
            Call(self.world.perps, name, (account,))
            for name in ("canLiquidate", "canLiquidateMarginOnly")
        ]
        return any(
            True in self._ask([*first, *questions], survey)[len(first) :] for first in choices
        )

    def _ask(self, calls: Sequence[Call], survey: Survey) -> list[object]:
        """Ask at the parent's state, at the time of the block; a refusal answers None."""
        forwarder = self.world.system.forwarder
        message = {
            "from": self.world.publisher,
            "to": forwarder.address,
            "data": forwarder.interface.encode(
                "aggregate3Value", [call.parts(required=False) for call in calls]
            ),
            "value": hex(sum(call.value_wei for call in calls)),
            "gas": hex(SURVEY_GAS),
        }
        at = {"time": hex(survey.timestamp_s)}
        raw = self.world.chain.node.rpc("eth_call", message, hex(survey.block - 1), {}, at)
        answers = forwarder.interface.decode("aggregate3Value", bytes.fromhex(raw[2:]))
        return [
            call.contract.interface.decode(call.name, answer["returnData"])
            if answer["success"]
            else None
            for call, answer in zip(calls, answers, strict=True)
        ]

    # --- the keeper's transactions ----------------------------------------------------------------

    def _ours(self, receipts: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return [receipt for receipt in receipts if receipt["from"] == self.wallet]

    def _reverts(
        self, survey: Survey, receipts: Iterable[Mapping[str, Any]], known: Known
    ) -> Iterator[Revert]:
        for receipt in self._ours(receipts):
            if receipt["status"] == "0x1":
                continue
            tx_hash = receipt["transactionHash"]
            refusal = self._refusal(tx_hash)
            named = [it for it in self._calls(tx_hash) if it.name in NAMING]
            account = named[0].arguments[0] if len(named) == 1 else None
            due_before = account is not None and (
                any(account in due for due in self._before)
                or self._justified(account, survey, known)
            )
            yield Revert(account, tx_hash, refusal.name, due_before)

    def _refusal(self, tx_hash: str) -> RevertedError:
        data = self.world.chain.revert_data(tx_hash)
        return self.world.perps.interface.refusal(data)

    def _calls(self, tx_hash: str) -> list[Made]:
        sent = self.world.chain.node.rpc("eth_getTransactionByHash", tx_hash)
        to = str(sent["to"]).lower()
        return calls_of(self.world.system, to, bytes.fromhex(sent["input"][2:]))

    def _note(self, receipts: Iterable[Mapping[str, Any]]) -> None:
        for receipt in self._ours(receipts):
            calls = self._calls(receipt["transactionHash"])
            self.sent.append(
                Sent(
                    kind=" + ".join(call.name or "?" for call in calls),
                    tx_hash=receipt["transactionHash"],
                    block=int(receipt["blockNumber"], 16),
                    success=receipt["status"] == "0x1",
                    gas=int(receipt["gasUsed"], 16),
                    reward=sum(_reward(event) for event in self.world.perps.events(receipt)),
                )
            )

    @property
    def earned(self) -> int:
        """USD wads that the keeper's transactions paid, by their events."""
        return sum(sent.reward for sent in self.sent)


def _reward(event: Event) -> int:
    return int(event.fields["reward"]) if event.name == ATTEMPT else 0
