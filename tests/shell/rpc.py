"""JSON-RPC of the fake chain, as far as a lane and the finding of accounts ask it."""

from collections.abc import Callable, Sequence
from typing import Any

import rlp
from eth_account import Account
from eth_utils.crypto import keccak

from keeper.chain.rpc import rpc_error
from keeper.errors import RpcError, RpcFault
from keeper.facts import Call, Execution, Log
from tests.shell.market import GAS, REVERT_GAS, Block, FakeChain, Revert, Tx


class FakeRpc:
    """Implements ``ports.Rpc``. ``lost``: is a request lost on its way, or its answer?"""

    def __init__(self, chain: FakeChain) -> None:
        self.chain = chain
        self.lost: Callable[[], bool] = lambda: False
        self.answer_lost: Callable[[], bool] = lambda: False
        self.accepted: list[Tx] = []

    async def call(self, method: str, params: Sequence[object] = ()) -> Any:  # noqa: ANN401 - JSON
        (answer,) = await self.batch([(method, params)])
        if isinstance(answer, RpcError):
            raise answer
        return answer

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        if self.lost():
            raise rpc_error(RpcFault.UNREACHABLE, "connection lost")
        answers: list[Any] = []
        for method, params in requests:
            try:
                answers.append(self._answer(method, *params))
            except RpcError as error:
                answers.append(error)
        if self.answer_lost():
            raise rpc_error(RpcFault.UNREACHABLE, "timed out")
        return answers

    async def simulate(self, call: Call, sender: str) -> Execution:
        try:
            reward_wad = self.chain.simulate(call, sender=sender)
        except Revert as revert:
            return Execution(success=False, gas_used=REVERT_GAS, output=str(revert).encode())
        return Execution(success=True, gas_used=GAS, output=reward_wad.to_bytes(32, "big"))

    async def simulate_each(self, calls: Sequence[Call], sender: str) -> Sequence[Execution]:
        return [await self.simulate(call, sender) for call in calls]

    def _answer(self, method: str, *params: Any) -> Any:  # noqa: ANN401 - JSON
        chain, state = self.chain, self.chain.state
        match method:
            case "eth_sendRawTransaction":
                return self._take(params[0])
            case "eth_getTransactionCount":
                nonce = state.nonces.get(params[0], 0)
                while params[1] == "pending" and (params[0], nonce) in chain.pool:
                    nonce += 1
                return hex(nonce)
            case "eth_getBalance":
                return hex(state.balances.get(params[0], 0))
            case "eth_getTransactionReceipt":
                return self._receipt(params[0])
            case "eth_getBlockByNumber":
                block = chain.numbered(int(params[0], 16))
                return _header(block) if block else None
            case "eth_getLogs":
                first, last = (int(params[0][key], 16) for key in ("fromBlock", "toBlock"))
                blocks = [b for b in chain.blocks if first <= b.head.number <= last]
                return [log for block in blocks for log in block.logs]
        raise rpc_error(RpcFault.UNSUPPORTED, method)

    def _take(self, raw: str) -> str:
        fields = rlp.decode(bytes.fromhex(raw[4:]))  # behind 0x and the type
        _, nonce, priority, max_fee, gas = (int.from_bytes(part, "big") for part in fields[:5])
        tx = Tx(
            hash="0x" + keccak(bytes.fromhex(raw[2:])).hex(),
            sender=Account.recover_transaction(raw),
            nonce=nonce,
            call=Call("0x" + fields[5].hex(), fields[7], int.from_bytes(fields[6], "big")),
            gas=gas,
            max_fee_wei=max_fee,
            priority_fee_wei=priority,
        )
        before = self.chain.pool.get((tx.sender, tx.nonce))
        if tx.nonce < self.chain.state.nonces.get(tx.sender, 0):
            raise rpc_error(RpcFault.NONCE_TOO_LOW, "nonce too low")
        if before is not None and before.hash == tx.hash:
            raise rpc_error(RpcFault.ALREADY_KNOWN, "already known")
        if before is not None and (
            tx.max_fee_wei * 8 < before.max_fee_wei * 9
            or tx.priority_fee_wei * 8 < before.priority_fee_wei * 9
        ):
            raise rpc_error(RpcFault.UNDERPRICED, "replacement transaction underpriced")
        worst = tx.gas * tx.max_fee_wei + tx.call.value_wei
        if self.chain.state.balances.get(tx.sender, 0) < worst:
            raise rpc_error(RpcFault.INSUFFICIENT_FUNDS, "insufficient funds")
        self.chain.pool[tx.sender, tx.nonce] = tx
        self.accepted.append(tx)
        return tx.hash

    def _receipt(self, tx_hash: str) -> dict[str, Any] | None:
        for block in reversed(self.chain.blocks):
            done = block.mined.get(tx_hash)
            if done is not None:
                return {
                    "transactionHash": tx_hash,
                    "blockNumber": hex(block.head.number),
                    "blockHash": block.head.hash,
                    "status": hex(done.success),
                    "gasUsed": hex(done.gas_used),
                    "effectiveGasPrice": hex(done.gas_price_wei),
                    "logs": [_log(log) for log in done.logs],
                }
        return None


def _header(block: Block) -> dict[str, Any]:
    return {
        "number": hex(block.head.number),
        "hash": block.head.hash,
        "parentHash": block.head.parent_hash,
        "timestamp": hex(block.head.timestamp_s),
        "baseFeePerGas": hex(block.head.base_fee_wei or 0),
    }


def _log(log: Log) -> dict[str, Any]:
    return {
        "address": log.address,
        "topics": list(log.topics),
        "data": "0x" + log.data.hex(),
        "blockNumber": hex(log.block_number),
        "blockHash": log.block_hash,
        "transactionHash": log.tx_hash,
    }
