"""Liquidations found in a venue's logs: every one that was not ours is held against us."""

import structlog

from keeper.facts import LiquidationSeen
from keeper.jobs import LIQUIDATIONS
from keeper.ports import Submitter, Telemetry
from keeper.watch.desk import Desk

logger = structlog.get_logger(__name__)


def report(desk: Desk, seen: LiquidationSeen, submitter: Submitter, telemetry: Telemetry) -> None:
    """Count a liquidation on chain; for one that is not ours, say why we did not have it."""
    if seen.job not in LIQUIDATIONS:
        return  # anybody's; the capture rate is of liquidations
    wallets = {wallet.lower() for wallet in submitter.wallets}
    ours = submitter.is_ours(seen.tx_hash) or seen.liquidator.lower() in wallets
    venue = desk.venue.id
    telemetry.count("keeper_liquidations_seen_total", venue=venue, by="us" if ours else "other")
    if not ours:
        logger.warning(
            "liquidated by somebody else",
            venue=venue,
            account=seen.account,
            liquidator=seen.liquidator,
            tx=seen.tx_hash,
            block=seen.block_number,
            reward_wad=seen.reward_wad,
            why_not_us=desk.agenda.why(seen.account),
        )
