"""What a venue declares, and what of it is refused."""

from dataclasses import replace

import pytest

from keeper.app import build_venue
from keeper.capabilities import ActionKind
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
