"""One broker for all faults."""

from tests.e2e.conftest import broker

__all__ = ["broker"]
