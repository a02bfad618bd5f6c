"""From a tick to the facts that the decide loop learns: through the board's gates, counted."""

from collections.abc import Iterator

import structlog

from keeper.facts import FeedId, Price, Rejected, Tick
from keeper.ports import Board, Telemetry

logger = structlog.get_logger(__name__)


def facts_of(
    tick: Tick | Rejected, board: Board, telemetry: Telemetry, now_ms: int
) -> Iterator[tuple[tuple[str, FeedId], Price]]:
    """Yield ("price", feed) with each feed's price after it; "returned" if it had none before."""
    if isinstance(tick, Rejected):
        _refuse(tick, telemetry)
        return
    affected = board.affected(tick.feed)
    missing = {feed for feed in affected if board.fresh(feed, now_ms) is None}
    counts = True
    for made in board.offer(tick):
        if isinstance(made, Rejected):
            counts = False
            _refuse(made, telemetry)
            continue
        yield ("price", made.feed), made
        if made.feed in missing:
            yield ("returned", made.feed), made
    if counts:
        telemetry.count("keeper_price_updates_total", feed=tick.feed, source=tick.source)


def _refuse(rejected: Rejected, telemetry: Telemetry) -> None:
    telemetry.count(
        "keeper_price_rejections_total",
        feed=rejected.feed,
        source=rejected.source,
        reason=rejected.reason.value,
    )
    logger.debug("price refused", reason=rejected.reason.value, detail=rejected.detail)
