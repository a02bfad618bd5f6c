"""Risk of accounts as a keeper last saved them: it need not run.

The accounts are those of its snapshots; markets, prices and funding are read from the chain now.
"""

import aiohttp

from keeper import __version__
from keeper.app import build_board, build_rpc
from keeper.chain.heads import head_from_json
from keeper.chain_parts import build_venue
from keeper.clock import SystemClock
from keeper.config import Settings
from keeper.errors import FatalError, ProtocolError, RpcError, TransientError
from keeper.facts import VenueId
from keeper.observe.metrics import Metrics
from keeper.quarantine import Quarantine
from keeper.risk.reader import RiskReader
from keeper.rules import desk_rules
from keeper.watch.desk import Desk
from keeper.watch.snapshot import Snapshots


async def read_saved(settings: Settings) -> tuple[RiskReader, dict[VenueId, int]]:
    """Return what works the saved accounts out, and the block of each venue's accounts.

    A venue without a snapshot that can be used has no accounts here and is not among the blocks.
    Raises FatalError, with the mend, when there is no snapshot at all or the chain does not answer.
    """
    clock, metrics = SystemClock(), Metrics(__version__)
    board, quarantine = build_board(settings, clock), Quarantine(clock, metrics)
    snapshots = Snapshots(settings.keeper.state_dir, settings.chain.id, quarantine)
    desks, blocks = dict[VenueId, Desk](), dict[VenueId, int]()
    async with aiohttp.ClientSession() as session:
        rpc = build_rpc(settings, session, metrics)
        try:
            newest = await rpc.call("eth_getBlockByNumber", ["latest", False])
            head = head_from_json(newest, clock.wall_ms())
            for each in settings.venues:
                venue = build_venue(each, rpc, settings.chain.id)
                rules = desk_rules(settings, each)
                desk = Desk(venue, rules, board, quarantine, metrics, clock)
                desks[venue.id] = desk
                found = await snapshots.load(desk)
                if found is not None:
                    desk.market = await venue.read_market(head)
                    desk.states = {state.account: state for state in found.states}
                    blocks[venue.id] = found.block
        except (TransientError, RpcError, ProtocolError) as error:
            msg = f"the chain does not say how its markets are ({error}); see chain.http"
            raise FatalError(msg) from None
    if not blocks:
        msg = (
            f"no accounts are saved in {settings.keeper.state_dir}: a keeper saves them "
            "(keeper.snapshot_s, and when it stops), but not those of venues that have to be read"
        )
        raise FatalError(msg)
    return RiskReader(desks, board, quarantine, clock), blocks
