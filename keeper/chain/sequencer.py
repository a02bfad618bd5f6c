"""Whether the sequencer of a layer 2 is up, by the uptime feed that Chainlink keeps on the chain.

While it is down, prices on chain stand still and nobody can act; for a time after that, what waited
comes in at once. Until both are over no price is taken for one.
"""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from keeper.chain.decode import quantity
from keeper.errors import RpcError, TransientError
from keeper.ports import Rpc

LATEST_ROUND_DATA = "0xfeaf968c"
NOT_READ = "the sequencer's uptime feed was not read yet"
POLL_S = 1.0
WORD = 64  # hexadecimal digits


async def watch_sequencer(
    rpc: Rpc, feed: str, grace_s: int, tell: Callable[[str], None], beat: Callable[[], None]
) -> NoReturn:
    """Tell again and again why no price may be used; an empty text when all may.

    Raises TransientError when the chain cannot be asked; what was told last stands.
    """
    while True:
        beat()
        tell(await sequencer_trouble(rpc, feed, grace_s))
        await asyncio.sleep(POLL_S)


async def sequencer_trouble(rpc: Rpc, feed: str, grace_s: int) -> str:
    """Ask once; an empty text when the sequencer is up, and has been for ``grace_s``."""
    answer, head = await rpc.batch(
        [
            ("eth_call", [{"to": feed, "data": LATEST_ROUND_DATA}, "latest"]),
            ("eth_getBlockByNumber", ["latest", False]),
        ]
    )
    for each in (answer, head):
        if isinstance(each, TransientError):
            raise each
    digits = answer.removeprefix("0x") if isinstance(answer, str) else ""
    if isinstance(head, RpcError) or not isinstance(head, dict) or len(digits) < 5 * WORD:
        return f"{feed} does not answer as an uptime feed"
    _, is_down, since_s, _, _ = (int(digits[at : at + WORD], 16) for at in range(0, 5 * WORD, WORD))
    if is_down or not since_s:
        return "the sequencer is down" if is_down else "the uptime feed has no answer yet"
    left_s = since_s + grace_s - quantity(head.get("timestamp"))
    return f"the sequencer came up lately: {left_s} s of grace are left" if left_s > 0 else ""
