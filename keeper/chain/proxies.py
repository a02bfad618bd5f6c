"""What runs behind a contract: its own code, and where the usual proxies keep their target."""

from collections.abc import Collection
from hashlib import sha256

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.errors import RpcError
from keeper.facts import Head
from keeper.ports import Rpc

SLOTS = (
    hex(int.from_bytes(keccak(text="eip1967.proxy.implementation"), "big") - 1),
    hex(int.from_bytes(keccak(text="eip1967.proxy.beacon"), "big") - 1),
    # Synthetix: the first member of a struct in a slot named like this
    "0x" + keccak(encode(["string"], ["io.synthetix.core-contracts.Proxy"])).hex(),
)
PER_CONTRACT = 1 + len(SLOTS)


async def implementations(rpc: Rpc, contracts: Collection[str], head: Head) -> dict[str, str]:
    """Return a mark of each contract's code and proxy slots at the head; raises RpcError.

    It changes when other code runs; a target that a beacon or another kind of proxy exchanges
    elsewhere is not seen.
    """
    block = {"blockHash": head.hash}
    answers = await rpc.batch(
        [
            request
            for contract in contracts
            for request in (
                ("eth_getCode", [contract, block]),
                *(("eth_getStorageAt", [contract, slot, block]) for slot in SLOTS),
            )
        ]
    )
    for answer in answers:
        if isinstance(answer, RpcError):
            raise answer
    return {
        contract: sha256(
            repr(answers[n * PER_CONTRACT : (n + 1) * PER_CONTRACT]).encode()
        ).hexdigest()
        for n, contract in enumerate(contracts)
    }
