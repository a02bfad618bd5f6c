"""Telling settled attempts over the transports that prices come from."""

import json
from collections.abc import Callable, Mapping
from functools import partial

from keeper.facts import Settled
from keeper.ports import PriceSource


def publishers(
    sources: Mapping[str, PriceSource],
) -> list[Callable[[Settled], None]]:
    """Return what publishes outcomes: every source whose transport can also send."""
    return [
        partial(_publish_outcome, source.publish)
        for source in sources.values()
        if hasattr(source, "publish")
    ]


def _publish_outcome(publish: Callable[[str, bytes], None], settled: Settled) -> None:
    attempt, receipt = settled.attempt, settled.receipt
    message = {
        "id": attempt.id,
        "account": attempt.plan.account,
        "outcome": settled.outcome.value,
        "tx": receipt.tx_hash if receipt else None,
        "block": receipt.block_number if receipt else None,
        "reward_wei": str(settled.reward_wei),
        "cost_wei": str(settled.cost_wei),
        "ts": attempt.sent_ms or attempt.opened_ms,
    }
    topic = f"venues/{attempt.plan.venue}/liquidations"
    publish(topic, json.dumps(message, separators=(",", ":")).encode())
