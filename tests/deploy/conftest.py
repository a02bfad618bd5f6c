"""The node, the broker and the market that a keeper is deployed against."""

from tests.e2e.conftest import broker, node, rig

__all__ = ["broker", "node", "rig"]
