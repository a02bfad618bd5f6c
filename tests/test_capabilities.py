"""What a venue declares, and what of it is refused."""

from dataclasses import replace

import pytest

from keeper.app import build_venue
from keeper.capabilities import ActionKind, BatchKind
from keeper.config.settings import VenueSettings
from keeper.errors import ConfigError
from keeper.facts import VenueId
from keeper.venues import synthetix_v3
from keeper.venues.demo_market import DemoMarket, Settings
from tests.fakes import NoRpc


def settings_of(**common: object) -> VenueSettings:
    options = Settings(id="acme", address="0x" + "11" * 20)
    keys = {"id": VenueId("acme"), "kind": "demo_market", "options": options, **common}
    return VenueSettings.model_validate(keys)


def test_a_venue_that_acts_by_signed_orders_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of()
    build_venue(settings, NoRpc(), 31_337)
    orders = replace(DemoMarket.capabilities, action=ActionKind.ORDER)
    monkeypatch.setattr(DemoMarket, "capabilities", orders)
    with pytest.raises(ConfigError, match='kind = "demo_market" acts by order'):
        build_venue(settings, NoRpc(), 31_337)


def test_only_what_a_venue_foresees_is_sent_without_a_simulation() -> None:
    build_venue(settings_of(optimistic=True), NoRpc(), 31_337)
    with pytest.raises(ConfigError, match=r"optimistic \(acme\): what goes together is simulated"):
        build_venue(settings_of(optimistic=True, batch_accounts_max=2), NoRpc(), 31_337)
    perps = synthetix_v3.Settings(id="acme", address="0x" + "11" * 20, feeds={})
    other = settings_of(kind="synthetix_v3", options=perps, optimistic=True)
    with pytest.raises(ConfigError, match=r"to synthetix_v3 \(acme\) would do only a simulation"):
        build_venue(other, NoRpc(), 31_337)


@pytest.mark.parametrize("most", [1, 2])
def test_a_venue_without_a_call_for_several_takes_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    options = Settings(id="acme", address="0x" + "11" * 20)
    settings = VenueSettings(
        id=VenueId("acme"), kind="demo_market", options=options, batch_accounts_max=most
    )
    build_venue(settings, NoRpc(), 31_337)
    alone = replace(DemoMarket.capabilities, batch=BatchKind.NONE)
    monkeypatch.setattr(DemoMarket, "capabilities", alone)
    if most == 1:
        build_venue(settings, NoRpc(), 31_337)
        return
    with pytest.raises(ConfigError, match=r"batch_accounts_max = 2: demo_market \(acme\).*take it"):
        build_venue(settings, NoRpc(), 31_337)
