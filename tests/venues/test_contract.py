"""What every venue must do, whatever its protocol. A new file in keeper/venues is picked up here.

It needs a recording, ``tests/venues/recorded/<kind>.json``, with accounts of both kinds in it,
liquidatable and not; ``record.py`` makes one.
"""

import asyncio
import importlib
import inspect
import itertools
import math
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import pytest
from msgspec.structs import replace
from pydantic import BaseModel, ValidationError

import keeper.venues
from keeper.batching import Batching
from keeper.capabilities import BatchKind, CapitalKind, RewardKind
from keeper.errors import KeeperError, TransientError
from keeper.facts import (
    AccountId,
    AccountState,
    Assessment,
    Head,
    Log,
    MarketState,
    Refused,
    Simulated,
)
from keeper.margin import MarginBook
from keeper.optimistic import Optimistic
from keeper.ports import AnyVenue
from keeper.risk.portfolio import Shockable
from tests.venues.recording import (
    WALLET,
    GarblingRpc,
    Recording,
    SilentRpc,
    UnreachableRpc,
    load,
    missing,
)

KINDS = sorted(
    [m.name for m in pkgutil.iter_modules(keeper.venues.__path__) if not m.name.startswith("_")]
    + ["_template"]  # what people copy must not rot
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def module(kind: str) -> ModuleType:
    return importlib.import_module(f"keeper.venues.{kind}")


@pytest.fixture
def recording(kind: str) -> Recording:
    found = load(kind)
    if found is None:
        pytest.fail("no recording: test_it_has_a_recording says how to make one", pytrace=False)
    return found


@pytest.fixture
def venue(module: ModuleType, recording: Recording) -> AnyVenue:
    settings = module.Settings(**recording.settings)
    made: AnyVenue = module.build(settings, recording.rpc, recording.chain_id)
    return made


@pytest.fixture
def unreachable(module: ModuleType, recording: Recording) -> AnyVenue:
    settings = module.Settings(**recording.settings)
    made: AnyVenue = module.build(settings, UnreachableRpc(), recording.chain_id)
    return made


# --- the file -------------------------------------------------------------------------------------


def test_there_are_venues() -> None:
    assert "demo_market" in KINDS


def test_it_has_a_recording(kind: str) -> None:
    if load(kind) is None:
        pytest.fail(missing(kind), pytrace=False)


def test_module_tells_what_it_is(module: ModuleType) -> None:
    assert len((module.__doc__ or "").strip().splitlines()) > 1, "describe the protocol"


def test_it_says_how_several_accounts_go_in_one_transaction(venue: AnyVenue) -> None:
    assert isinstance(venue, Batching) is (venue.capabilities.batch is not BatchKind.NONE)


def test_what_it_foresees_ties_up_nothing_and_pays_in_cash(venue: AnyVenue) -> None:
    if isinstance(venue, Optimistic):
        assert venue.capabilities.reward is RewardKind.CASH
        assert venue.capabilities.capital is CapitalKind.NONE


def test_settings_are_frozen_strict_and_described(module: ModuleType, recording: Recording) -> None:
    model = module.Settings
    assert issubclass(model, BaseModel)
    assert model.model_config.get("frozen") is True
    assert model.model_config.get("extra") == "forbid"
    undescribed = [n for n, one in model.model_fields.items() if not one.description]
    assert undescribed == []
    settings = model(**recording.settings)
    with pytest.raises(ValidationError):
        settings.id = "other"
    with pytest.raises(ValidationError):
        model(**recording.settings, surplus=1)
    required = [name for name, one in model.model_fields.items() if one.is_required()]
    assert {"id", "address"} <= set(required)
    for name in required:
        less = {key: value for key, value in recording.settings.items() if key != name}
        with pytest.raises(ValidationError):
            model(**less)
    with pytest.raises(ValidationError):
        model(**{**recording.settings, "address": "0x1234"})


def test_build_is_at_the_bottom_and_takes_what_the_loader_gives(module: ModuleType) -> None:
    assert list(inspect.signature(module.build).parameters) == ["settings", "rpc", "chain_id"]
    functions = [
        one
        for _, one in inspect.getmembers(module, inspect.isfunction)
        if one.__module__ == module.__name__
    ]
    last = max(functions, key=lambda one: one.__code__.co_firstlineno)
    assert last is module.build


# --- the reader -----------------------------------------------------------------------------------


def test_addresses_are_lower_case(venue: AnyVenue, recording: Recording) -> None:
    assert venue.id == recording.settings["id"]
    addresses = venue.addresses()
    assert recording.settings["address"].lower() in addresses
    assert [address.lower() for address in addresses] == list(addresses)


async def test_reads_are_of_the_head_and_in_order(venue: AnyVenue, recording: Recording) -> None:
    market = await venue.read_market(recording.head)
    assert market.head == recording.head
    backwards = recording.accounts[::-1]
    forwards = await venue.read_accounts(recording.accounts, recording.head)
    assert [state.account for state in forwards] == recording.accounts
    assert all(state.head == recording.head for state in forwards)
    assert backwards != recording.accounts, "record more than one account"
    assert list(await venue.read_accounts([], recording.head)) == []


async def test_an_unreachable_chain_is_transient(
    unreachable: AnyVenue, recording: Recording
) -> None:
    with pytest.raises(TransientError):
        await unreachable.read_market(recording.head)
    with pytest.raises(TransientError):
        await unreachable.read_accounts(recording.accounts, recording.head)
    with pytest.raises(TransientError):
        await unreachable.probe(WALLET)


def test_undecodable_logs_touch_everything(venue: AnyVenue, recording: Recording) -> None:
    strange = Log(
        address=venue.addresses()[0],
        topics=("0x" + "5a" * 32,),
        data=b"\x01\x02",
        block_number=1,
        block_hash="0x" + "00" * 32,
        tx_hash="0x" + "00" * 32,
    )
    for log in (strange, replace(strange, topics=()), replace(strange, data=b"")):
        assert venue.touched(log).everything
    assert recording.logs, "record one log of every kind"
    for log in recording.logs:
        if len(log.topics) > 1:  # an indexed field is missing
            assert venue.touched(replace(log, topics=log.topics[:1])).everything


def test_recorded_logs_are_understood(venue: AnyVenue, recording: Recording) -> None:
    touched = [venue.touched(log) for log in recording.logs]
    assert any(one.accounts for one in touched)
    seen = [liquidation for one in touched for liquidation in one.liquidations]
    assert seen, "record a liquidation"
    for liquidation in seen:
        assert liquidation.liquidator == liquidation.liquidator.lower()
        assert len(liquidation.liquidator) in {0, len(WALLET)}, "none where it is not logged"
        assert liquidation.reward_wad >= 0
    for one in touched:
        assert {liquidation.account for liquidation in one.liquidations} <= one.accounts


# --- the rules ------------------------------------------------------------------------------------


async def test_factors_are_declared_and_finite(venue: AnyVenue, recording: Recording) -> None:
    market = await venue.read_market(recording.head)
    prices, indices = venue.price_factors(market), list(venue.index_factors(market))
    assert prices
    assert not set(prices) & set(indices)
    assert len(set(indices)) == len(indices)
    values = venue.factors(market, recording.head.timestamp_s + 12)
    assert set(indices) <= set(values) <= {*prices, *indices}
    assert all(math.isfinite(value) for value in values.values())
    assert all(values[name] > 0 for name in prices if name in values)


async def verdicts(
    venue: AnyVenue, recording: Recording
) -> tuple[dict[AccountId, Assessment], MarginBook[AccountId], set[AccountId]]:
    """Assess every account without signed prices, and put it into a book at the same values.

    The third are those that are acted on whatever the prices are: no margin decides.
    """
    at_s = recording.head.timestamp_s
    market = await venue.read_market(recording.head)
    states = await venue.read_accounts(recording.accounts, recording.head)
    book: MarginBook[AccountId] = MarginBook(
        list(venue.price_factors(market)), list(venue.index_factors(market))
    )
    book.move(venue.factors(market, at_s))
    found: dict[AccountId, Assessment] = {}
    due = {state.account for state in states if state.due_until_s is not None}
    for state in states:
        found[state.account] = venue.assess(state, market, {}, at_s)
        assert venue.assess(state, market, {}, at_s) == found[state.account], "not pure"
        row = venue.compile(state, market, book.values)
        if row is not None:
            book.put(state.account, row)
    return found, book, due


async def test_verdicts_are_consistent(venue: AnyVenue, recording: Recording) -> None:
    found, _, due = await verdicts(venue, recording)
    market = await venue.read_market(recording.head)
    feeds = set(venue.price_factors(market).values())
    assert {one.liquidatable for one in found.values()} == {True, False}, "record both kinds"
    for account, one in found.items():
        assert one.account == account
        assert set(one.feeds) <= feeds
        assert one.updates == ()
        assert one.bad_debt_wad >= 0
        if one.liquidatable:
            assert one.reward_wad >= 0
        if one.liquidatable and account not in due:
            assert one.equity_wad < one.requirement_wad
            assert one.feeds


async def test_the_screen_nominates_what_the_rules_call_liquidatable(
    venue: AnyVenue, recording: Recording
) -> None:
    found, book, due = await verdicts(venue, recording)
    for account, one in found.items():
        if one.liquidatable:
            assert account in book.under or account in due
        elif account in book and account not in book.unpriced and account not in book.under:
            margin_usd = (one.equity_wad - one.requirement_wad) / 10**18
            assert book.excess(account) <= margin_usd + 1e-6 * max(1.0, abs(margin_usd))
    assert len(book.under) < len(found), "the screen lets nobody through"


# --- at other prices ------------------------------------------------------------------------------

SHOCKABLE = {"demo", "synthetix", "curie"}  # the others are second jobs, or for copying


async def test_exposures_are_what_is_decided_by(venue: AnyVenue, recording: Recording) -> None:
    """At the contract's own prices, however they are given, equity and requirement are the same."""
    if not isinstance(venue, Shockable):
        assert venue.id not in SHOCKABLE
        return
    at_s = recording.head.timestamp_s
    market = await venue.read_market(recording.head)
    prices = venue.prices(market)
    assert set(venue.markets(market).values()) <= set(prices)
    compared = 0
    for state in await venue.read_accounts(recording.accounts, recording.head):
        judged = venue.assess(state, market, {}, at_s)
        if state.due_until_s is not None:
            continue  # our own
        for same in ({}, prices):
            found = venue.valued_at(market, same, at_s)(state)
            assert found is not None
            assert (found.equity, found.requirement) == (judged.equity_wad, judged.requirement_wad)
            assert found.bad_debt == judged.bad_debt_wad
            assert found.under or not judged.liquidatable
            assert set(found.notional) <= set(venue.markets(market))
            assert set(judged.feeds) <= set(found.feeds) <= set(prices)
            compared += 1
    assert compared > 2


async def test_a_shock_moves_notional_by_as_much(venue: AnyVenue, recording: Recording) -> None:
    if not isinstance(venue, Shockable):
        return
    at_s = recording.head.timestamp_s
    market = await venue.read_market(recording.head)
    prices, feeds = venue.prices(market), venue.markets(market)
    feed = next(iter(feeds.values()))
    raised = {name: price * (5 if name == feed else 4) // 4 for name, price in prices.items()}
    less = dict.fromkeys(prices, 0)
    moved = 0
    for state in await venue.read_accounts(recording.accounts, recording.head):
        before = venue.valued_at(market, {}, at_s)(state)
        after = venue.valued_at(market, raised, at_s)(state)
        assert before is not None
        assert after is not None
        if getattr(getattr(state, "balance", None), "has_orders", False):
            continue  # what a maker holds follows the pool
        for name, size in before.notional.items():
            times = 1.25 if feeds[name] == feed else 1.0
            assert after.notional[name] == pytest.approx(size * times, rel=2e-3)
            moved += times != 1.0
        unpriced = venue.valued_at(market, less, at_s)(state)
        assert unpriced is None or not unpriced.notional
    assert moved


# --- the actions ----------------------------------------------------------------------------------

REASONS = {"not_liquidatable", "no_progress", "no_capital", "oracle", "unknown", "unreachable"}


async def test_an_unreachable_chain_refuses(
    venue: AnyVenue, unreachable: AnyVenue, recording: Recording
) -> None:
    found, _, _ = await verdicts(venue, recording)
    for one in found.values():
        answer = await unreachable.simulate(one, WALLET, recording.head)
        assert isinstance(answer, Refused)
        assert answer.reason in REASONS
        assert answer.detail


async def test_only_what_is_liquidatable_passes_the_simulation(
    venue: AnyVenue, recording: Recording
) -> None:
    """What the node did when these very calls were simulated is part of the recording."""
    found, _, _ = await verdicts(venue, recording)
    passed = 0
    for one in found.values():
        answer = await venue.simulate(one, WALLET, recording.head)
        if isinstance(answer, Simulated):
            assert one.liquidatable, f"{one.account}: a healthy account must be held"
            assert answer.gas > 0
            assert answer.head == recording.head
            passed += 1
        else:
            assert answer.reason in REASONS
    assert passed or venue.capabilities.capital is CapitalKind.MARGIN, "record one that passes"


# --- from block to block --------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Everything at one head, and what the logs since the one before it touched."""

    head: Head
    market: MarketState
    accounts: Mapping[AccountId, AccountState]
    touched: frozenset[AccountId]
    everything: bool


async def blocks_of(module: ModuleType, recording: Recording) -> list[Block]:
    blocks = []
    for head in recording.heads:
        settings = module.Settings(**recording.settings)
        venue: AnyVenue = module.build(settings, recording.rpc, recording.chain_id)
        market = await venue.read_market(head)
        states = await venue.read_accounts(recording.accounts, head)
        logs = [log for log in recording.story if log.block_number == head.number]
        seen = [venue.touched(log) for log in logs]
        touched = frozenset().union(*(one.accounts for one in seen))
        accounts = dict(zip(recording.accounts, states, strict=True))
        everything = any(one.everything for one in seen)
        blocks.append(Block(head, market, accounts, touched, everything))
    assert len(blocks) > 2, "record it again"
    return blocks


async def test_what_events_leave_untouched_reads_as_before(
    module: ModuleType, venue: AnyVenue, recording: Recording
) -> None:
    """A book kept up by events is that of a fresh reading: same rows, same verdicts."""
    blocks = await blocks_of(module, recording)
    compared = 0
    for before, after in itertools.pairwise(blocks):
        at_s = after.head.timestamp_s
        values = venue.factors(after.market, at_s)
        for account in set(recording.accounts) - after.touched if not after.everything else ():
            kept, fresh = before.accounts[account], after.accounts[account]
            rows = [venue.compile(state, after.market, values) for state in (kept, fresh)]
            assert rows[0] == rows[1], f"{account} changed in block {after.head.number}"
            judged = [venue.assess(state, after.market, {}, at_s) for state in (kept, fresh)]
            assert judged[0] == judged[1], f"{account} changed in block {after.head.number}"
            compared += 1
    assert compared


async def test_a_row_kept_while_prices_move_is_never_too_lax(
    module: ModuleType, venue: AnyVenue, recording: Recording
) -> None:
    blocks = await blocks_of(module, recording)
    compared = 0
    for start, first in enumerate(blocks):
        untouched = set(recording.accounts)
        for later in blocks[start + 1 :]:
            if later.everything or later.market.epoch != first.market.epoch:
                break  # everything is compiled again then
            untouched -= later.touched
            compared += len(untouched)
            for account in untouched:
                strict_enough(venue, first, later, account)
    assert compared


def strict_enough(venue: AnyVenue, first: Block, later: Block, account: AccountId) -> None:
    """Move the row of one block to the values of a later one and compare with the exact verdict."""
    book: MarginBook[AccountId] = MarginBook(
        list(venue.price_factors(later.market)), list(venue.index_factors(later.market))
    )
    values = venue.factors(first.market, first.head.timestamp_s)
    row = venue.compile(first.accounts[account], first.market, values)
    if row is None:
        return
    book.move(values)
    book.put(account, row)
    at_s = later.head.timestamp_s
    book.move(venue.factors(later.market, at_s))
    exact = venue.assess(later.accounts[account], later.market, {}, at_s)
    if exact.liquidatable and later.accounts[account].due_until_s is None:
        assert account in book.under, f"{account} is missed at block {later.head.number}"
    elif account not in book.under and account not in book.unpriced:
        margin_usd = (exact.equity_wad - exact.requirement_wad) / 10**18
        assert book.excess(account) <= margin_usd + 1e-6 * max(1.0, abs(margin_usd))


# --- a chain that misbehaves ----------------------------------------------------------------------

WORDS = "0x" + "ff" * 640  # which may be an answer, of absurd numbers
GARBAGE: tuple[object, ...] = (
    None,
    "",
    "0x",
    "0x00",
    "nonsense",
    7,
    [],
    {},
    True,
    WORDS[:64],
    WORDS,
)


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_malformed_answers_raise_only_our_errors(
    module: ModuleType, recording: Recording, garbage: object
) -> None:
    """Each answer in turn is garbage: a reading then fails as one of ours, or is none the worse."""
    settings, raised = module.Settings(**recording.settings), 0
    for number in range(len(recording.answers)):
        rpc = GarblingRpc(recording, number, garbage)
        venue: AnyVenue = module.build(settings, rpc, recording.chain_id)
        try:
            await venue.read_market(recording.head)
            await venue.read_accounts(recording.accounts, recording.head)
        except KeeperError:
            raised += 1
        if not rpc.garbled:
            break
    assert raised or garbage == WORDS


@pytest.mark.parametrize("output", [b"", b"\x01", b"\xff" * 31, b"\xff" * 320], ids=len)
async def test_malformed_simulations_are_refused_or_read(
    module: ModuleType, venue: AnyVenue, recording: Recording, output: bytes
) -> None:
    found, _, _ = await verdicts(venue, recording)
    rpc = GarblingRpc(recording, -1, output)
    garbled: AnyVenue = module.build(module.Settings(**recording.settings), rpc, recording.chain_id)
    for one in found.values():
        answer = await garbled.simulate(one, WALLET, recording.head)
        assert isinstance(answer, Simulated) or answer.reason in REASONS


async def test_cancellation_leaves_nothing_open(
    module: ModuleType, venue: AnyVenue, recording: Recording
) -> None:
    found, _, _ = await verdicts(venue, recording)
    one = next(iter(found.values()))
    rpc = SilentRpc()
    hanging: AnyVenue = module.build(module.Settings(**recording.settings), rpc, recording.chain_id)
    before = asyncio.all_tasks()
    for work in (
        hanging.read_market(recording.head),
        hanging.read_accounts(recording.accounts, recording.head),
        hanging.probe(WALLET),
        hanging.simulate(one, WALLET, recording.head),
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await work
        assert rpc.waiting == 0
        assert asyncio.all_tasks() == before
