"""Who liquidated lately at a contract, for a venue's probe; none of it knows a protocol."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keeper.errors import RpcError

if TYPE_CHECKING:
    from keeper.facts import Log
    from keeper.ports import Rpc
    from keeper.venues._abi import Event

LOG_BLOCKS_MAX = 5_000  # a range of eth_getLogs that every provider serves
SENDERS_MAX = 50  # newest transactions whose senders are asked for


async def liquidators(rpc: "Rpc", address: str, event: "Event") -> str:
    """Say how many distinct liquidators there were in the last ``LOG_BLOCKS_MAX`` blocks.

    They are the event's field ``liquidator``; where it has none, the senders of the newest
    transactions that logged it. What cannot be found out is told in the answer: a probe is not
    refused over it.
    """
    try:
        newest = int(await rpc.call("eth_blockNumber"), 16)
        first = max(0, newest - LOG_BLOCKS_MAX)
        span = {"address": address, "topics": [event.topic]}
        span |= {"fromBlock": hex(first), "toBlock": hex(newest)}
        logs: list[Log] = await rpc.call("eth_getLogs", [span])
        found = [fields for log in logs if (fields := event.fields(log)) is not None]
        if found and "liquidator" not in found[0]:
            hashes = list(dict.fromkeys(log.tx_hash for log in reversed(logs)))[:SENDERS_MAX]
            distinct = await _senders(rpc, hashes)
        else:
            distinct = {fields["liquidator"] for fields in found}
    except RpcError as error:
        return f"unknown: {error}"
    except (KeyError, TypeError, ValueError) as error:
        return f"unknown: the node answered no such logs: {error!r}"
    return f"{len(distinct)} distinct in {LOG_BLOCKS_MAX} blocks ({len(found)} liquidations)"


async def _senders(rpc: "Rpc", hashes: Sequence[str]) -> set[str]:
    answers = await rpc.batch([("eth_getTransactionByHash", [each]) for each in hashes])
    for answer in answers:
        if isinstance(answer, RpcError):
            raise answer
    return {str(answer["from"]).lower() for answer in answers}
