"""What nodes answer, told apart, and what each answer means for a transaction that was sent."""

import json

import aiohttp
import pytest

from keeper.chain.broadcast import Broadcast, BroadcastRules
from keeper.chain.decode import error_from
from keeper.chain.wordings import CODES, WORDINGS, classify
from keeper.errors import TREATMENTS, RpcError, RpcFault, Treatment
from keeper.facts import Attempt, Head
from tests.chain.conftest import CHAIN_ID, Script, endpoints_of
from tests.chain.test_broadcast import SIGNER, attempt_of, head_of
from tests.fakes import CountingTelemetry
from tests.nodes import Anvil, NodeError

# who says it, its code, its message
ANSWERS: tuple[tuple[str, int, str, RpcFault], ...] = (
    ("geth", -32000, "already known", RpcFault.ALREADY_KNOWN),
    ("geth, old", -32000, "known transaction: 8d5e2f", RpcFault.ALREADY_KNOWN),
    ("anvil", -32003, "transaction already imported", RpcFault.ALREADY_KNOWN),
    ("erigon", -32000, "existing tx with same hash", RpcFault.ALREADY_KNOWN),
    ("nethermind", -32010, "AlreadyKnown", RpcFault.ALREADY_KNOWN),
    ("geth", -32000, "nonce too low: next nonce 5, tx nonce 4", RpcFault.NONCE_TOO_LOW),
    ("nitro", -32000, "nonce too low: address 0xab, tx: 4 state: 5", RpcFault.NONCE_TOO_LOW),
    ("openethereum", -32010, "Transaction nonce is too low", RpcFault.NONCE_TOO_LOW),
    ("nethermind", -32010, "OldNonce, Current nonce: 5", RpcFault.NONCE_TOO_LOW),
    ("nitro", -32000, "nonce too high: address 0xab, tx: 9 state: 5", RpcFault.NONCE_TOO_HIGH),
    ("nethermind", -32010, "NonceGap, Future nonce.", RpcFault.NONCE_TOO_HIGH),
    ("geth", -32000, "gapped-nonce tx from delegated accounts", RpcFault.NONCE_TOO_HIGH),
    ("erigon", -32000, "nonce too far in the future", RpcFault.NONCE_TOO_HIGH),
    ("geth", -32000, "transaction underpriced: tip needed 1", RpcFault.UNDERPRICED),
    ("geth", -32000, "replacement transaction underpriced", RpcFault.UNDERPRICED),
    ("erigon", -32000, "could not replace existing tx", RpcFault.UNDERPRICED),
    ("erigon", -32000, "INTERNAL_ERROR: could not replace existing tx", RpcFault.UNDERPRICED),
    ("nethermind", -32010, "ReplacementNotAllowed", RpcFault.UNDERPRICED),
    ("reth, old", -32000, "insufficient gas price to replace existing", RpcFault.UNDERPRICED),
    ("erigon", -32000, "fee too low", RpcFault.UNDERPRICED),
    ("nethermind", -32010, "FeeTooLow, MaxFeePerGas too low", RpcFault.UNDERPRICED),
    ("geth", -32000, "max fee per gas less than block base fee", RpcFault.UNDERPRICED),
    ("erigon", -32000, "fee cap less than block base fee", RpcFault.UNDERPRICED),
    ("reth, old", -32000, "transaction feeCap 1 below chain minimum", RpcFault.UNDERPRICED),
    ("nitro", -32000, "gas price below the minimum", RpcFault.UNDERPRICED),
    ("geth", -32000, "insufficient funds for gas * price + value", RpcFault.INSUFFICIENT_FUNDS),
    ("anvil", -32003, "Insufficient funds for gas * price + value", RpcFault.INSUFFICIENT_FUNDS),
    ("nethermind", -32010, "InsufficientFunds, Balance is 1", RpcFault.INSUFFICIENT_FUNDS),
    ("nethermind", -32000, "insufficient sender balance", RpcFault.INSUFFICIENT_FUNDS),
    ("op-geth", -32000, "insufficient balance for L1 fee", RpcFault.INSUFFICIENT_FUNDS),
    ("geth", -32000, "txpool is full", RpcFault.BUSY),
    ("erigon", -32000, "transaction pool overflow", RpcFault.BUSY),
    ("geth", -32000, "account limit exceeded: pooled 1 txs", RpcFault.BUSY),
    ("geth", -32000, "in-flight transaction limit reached for delegated accounts", RpcFault.BUSY),
    ("nitro", -32000, "sequencer queue is full", RpcFault.BUSY),
    ("nethermind", -32010, "Syncing", RpcFault.BUSY),
    ("geth", -32000, "invalid chain id for signer: have 1 want 10", RpcFault.WRONG_CHAIN),
    ("anvil", -32003, "Incorrect chain id", RpcFault.WRONG_CHAIN),
    ("geth", -32000, "transaction type not supported", RpcFault.TX_TYPE),
    ("reth", -32000, "tx type not supported", RpcFault.TX_TYPE),
    ("nethermind", -32010, "NotSupportedTxType", RpcFault.TX_TYPE),
    ("geth", -32000, "intrinsic gas too low: gas 1, minimum needed 21000", RpcFault.GAS_LIMIT),
    ("nethermind", -32010, "gas limit below intrinsic gas", RpcFault.GAS_LIMIT),
    ("geth", -32000, "exceeds block gas limit", RpcFault.GAS_LIMIT),
    ("nethermind", -32010, "GasLimitExceeded, Gas limit: 1", RpcFault.GAS_LIMIT),
    (
        "geth",
        -32000,
        "tx fee (9 ether) exceeds the configured cap (1 ether)",
        RpcFault.GAS_LIMIT,
    ),
    ("geth", -32000, "transaction gas limit too high (cap: 16777216)", RpcFault.GAS_LIMIT),
    ("provider", 429, "slow down", RpcFault.RATE_LIMITED),
    (
        "provider",
        -32005,
        "daily request count exceeded: rate limited",
        RpcFault.RATE_LIMITED,
    ),
    ("provider", -32007, "50/second request limit reached", RpcFault.RATE_LIMITED),
    ("provider", -32005, "limit exceeded", RpcFault.RATE_LIMITED),
    ("geth", -32000, "header not found", RpcFault.UNKNOWN_BLOCK),
    ("anvil", -32602, "BlockOutOfRangeError: block height is 5", RpcFault.UNKNOWN_BLOCK),
    ("geth", -32000, "missing trie node 0xab (path )", RpcFault.UNKNOWN_BLOCK),
    ("erigon", -32000, "unknown block", RpcFault.UNKNOWN_BLOCK),
    ("nethermind", -32001, "Resource not found: header", RpcFault.UNKNOWN_BLOCK),
    ("any", -32601, "whatever it says", RpcFault.UNSUPPORTED),
    ("geth", -32600, "the method eth_x does not exist/is not available", RpcFault.UNSUPPORTED),
    ("geth", 3, "execution reverted: stale price", RpcFault.REVERTED),
    ("nitro", -32000, "execution reverted", RpcFault.REVERTED),
    ("nethermind", -32015, "VM execution error. revert", RpcFault.REVERTED),
    ("op-geth", -32003, "transaction filtered out", RpcFault.OTHER),
    ("any", -32000, "something new", RpcFault.OTHER),
)
NOT_SAID = {RpcFault.UNREACHABLE, RpcFault.GARBAGE}  # these are no answers


@pytest.mark.parametrize(("_who", "code", "message", "fault"), ANSWERS)
def test_errors_are_told_apart(_who: str, code: int, message: str, fault: RpcFault) -> None:
    assert classify(code, message) is fault
    assert classify(code, message.upper()) is fault


def test_every_row_is_needed_by_an_answer_and_every_fault_has_one() -> None:
    messages = [message.lower() for _, code, message, _ in ANSWERS if code not in CODES]
    for fault, wordings in WORDINGS:
        assert any(wording in text for wording in wordings for text in messages), (fault, wordings)
    assert {fault for *_, fault in ANSWERS} | NOT_SAID == set(RpcFault) == set(TREATMENTS)
    assert set(CODES) <= {code for _, code, _, _ in ANSWERS}


def refusal_script(code: int, message: str) -> list[tuple[int, str]]:
    error = json.dumps({"code": code, "message": message})
    return [
        (200, f'{{"jsonrpc":"2.0","id":1,"result":"{hex(CHAIN_ID)}"}}'),
        (200, f'{{"jsonrpc":"2.0","id":2,"error":{error}}}'),
    ]


@pytest.mark.parametrize(("_who", "code", "message", "fault"), ANSWERS)
async def test_each_answer_to_a_transaction_has_its_treatment(
    session: aiohttp.ClientSession,
    telemetry: CountingTelemetry,
    script: Script,
    _who: str,
    code: int,
    message: str,
    fault: RpcFault,
) -> None:
    script.answers = refusal_script(code, message)
    endpoints = endpoints_of(session, telemetry, script.url)
    async with Broadcast(endpoints, BroadcastRules(1), telemetry) as broadcast:
        refusal = await broadcast.send(attempt_of(), Head(1, "0x", "0x", 0, 0, 0))
        due = broadcast.due(attempt_of(), Head(2, "0x", "0x", 0, 0, 0))
    treatment = TREATMENTS[fault]
    assert due == (treatment is not Treatment.TAKEN)
    if treatment is Treatment.TAKEN:
        assert refusal is None
        return
    assert isinstance(refusal, RpcError)
    assert refusal.fault is fault
    assert refusal.is_definite == (treatment in {Treatment.FUND, Treatment.GIVE_UP})


def send(node: Anvil, attempt: Attempt) -> RpcFault | None:
    """Send to a node and tell its refusal apart."""
    raw = "0x" + attempt.transactions[-1].raw.hex()
    try:
        node.rpc("eth_sendRawTransaction", raw)
    except NodeError as refused:
        return error_from({"code": -32003, "message": str(refused)}).fault
    return None


def test_the_words_of_a_real_node(node: Anvil) -> None:
    poor = send(node, attempt_of())
    node.rpc("anvil_setBalance", SIGNER.address, hex(10**18))
    head = head_of(node)
    found = [
        poor,
        send(node, attempt_of()),
        send(node, attempt_of()),
        send(node, attempt_of(value_wei=8)),
        send(node, attempt_of(1, max_fee_wei=(head.base_fee_wei or 0) // 2)),
    ]
    node.rpc("evm_mine")
    found.append(send(node, attempt_of()))
    assert found == [
        RpcFault.INSUFFICIENT_FUNDS,
        None,
        RpcFault.ALREADY_KNOWN,
        RpcFault.UNDERPRICED,
        RpcFault.UNDERPRICED,
        RpcFault.NONCE_TOO_LOW,
    ]
