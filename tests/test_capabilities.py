"""What a venue declares, and what of it is refused."""

from dataclasses import replace

import pytest

from keeper.app import build_venue
from keeper.capabilities import ActionKind, BatchKind
from keeper.config.settings import VenueSettings
from keeper.errors import ConfigError
from keeper.facts import VenueId
from keeper.venues.demo_market import DemoMarket, Settings
from tests.fakes import NoRpc


def test_a_venue_that_acts_by_signed_orders_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Settings(id="acme", address="0x" + "11" * 20)
    settings = VenueSettings(id=VenueId("acme"), kind="demo_market", options=options)
    build_venue(settings, NoRpc(), 31_337)
    orders = replace(DemoMarket.capabilities, action=ActionKind.ORDER)
    monkeypatch.setattr(DemoMarket, "capabilities", orders)
    with pytest.raises(ConfigError, match='kind = "demo_market" acts by order'):
        build_venue(settings, NoRpc(), 31_337)


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
