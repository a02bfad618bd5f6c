"""config.toml → frozen settings; every mistake at once; JSON schema; secrets by reference."""

from keeper.config.changes import difference, flat
from keeper.config.feeds import FeedSettings
from keeper.config.keyref import (
    ConfigPath,
    Endpoint,
    HttpEndpoint,
    SecretRef,
    WsEndpoint,
    read_private,
)
from keeper.config.kinds import find_module, kinds
from keeper.config.live import ConfigFile, with_live
from keeper.config.load import load, load_chains
from keeper.config.relays import RelaySettings
from keeper.config.schema import json_schema
from keeper.config.sending import FeesSettings, WalletSettings
from keeper.config.settings import (
    ChainSettings,
    GateSettings,
    HttpSettings,
    KeeperSettings,
    LogSettings,
    Settings,
    SourceSettings,
    VenueSettings,
)

__all__ = [
    "ChainSettings",
    "ConfigFile",
    "ConfigPath",
    "Endpoint",
    "FeedSettings",
    "FeesSettings",
    "GateSettings",
    "HttpEndpoint",
    "HttpSettings",
    "KeeperSettings",
    "LogSettings",
    "RelaySettings",
    "SecretRef",
    "Settings",
    "SourceSettings",
    "VenueSettings",
    "WalletSettings",
    "WsEndpoint",
    "difference",
    "find_module",
    "flat",
    "json_schema",
    "kinds",
    "load",
    "load_chains",
    "read_private",
    "with_live",
]
