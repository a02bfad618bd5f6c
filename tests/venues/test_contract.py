"""What every venue must do, whatever its protocol. A new file in keeper/venues is picked up here.

It needs a recording, ``tests/venues/recorded/<kind>.json``, with accounts of both kinds in it,
liquidatable and not; ``record.py`` makes one.
"""

import importlib
import inspect
import math
import pkgutil
from dataclasses import replace
from types import ModuleType

import pytest
from pydantic import BaseModel, ValidationError

import keeper.venues
from keeper.errors import TransientError
from keeper.facts import AccountId, Assessment, Log, Refused
from keeper.margin import MarginBook
from keeper.ports import AnyVenue
from tests.venues.recording import Recording, UnreachableRpc, load, missing

KINDS = sorted(
    [m.name for m in pkgutil.iter_modules(keeper.venues.__path__) if not m.name.startswith("_")]
    + ["_template"]  # what people copy must not rot
)
WALLET = "0x" + "ab" * 20


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
