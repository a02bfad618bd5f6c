"""Sending a signed transaction everywhere it shall go at once: the first acceptance wins.

Without relays that is every ``send`` endpoint. With relays a transaction goes to all of them and
stays private until, if the rules say so, its attempt has waited too long; then it goes to the
``send`` endpoints as well.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from keeper.chain.endpoints import Endpoint, Endpoints, Role
from keeper.chain.relay import Relay, RelayProtocol
from keeper.chain.wordings import rpc_error
from keeper.errors import EndpointState, RpcError, RpcFault, TransientRpcError
from keeper.facts import Attempt, Head, SignedTx
from keeper.ports import Telemetry

logger = structlog.get_logger(__name__)

ACCEPTED_MAX = 10_000  # hashes remembered; an attempt whose hash is forgotten is sent again

Answers = asyncio.Queue[RpcError | None]


@dataclass(frozen=True, slots=True)
class BroadcastRules:
    """``public_after_blocks``: how long an attempt stays private; None: to its end."""

    attempts_max: int
    relays: Sequence[Relay] = ()
    public_after_blocks: int | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """That somebody has a transaction, and until which block."""

    public: bool
    until_block: int | None


class Broadcast:
    """Gives transactions to endpoints and relays. Implements ``ports.Broadcaster``.

    To be entered: what is still on its way to the slower endpoints when the first one has accepted
    belongs to the block, and ends with it.
    """

    def __init__(self, endpoints: Endpoints, rules: BroadcastRules, telemetry: Telemetry) -> None:
        """Send through the endpoints whose role is to be sent to, and through the relays."""
        self._endpoints = endpoints
        self._rules = rules
        self._relays = {relay.url: relay for relay in rules.relays}
        self._telemetry = telemetry
        self._accepted: OrderedDict[str, Accepted] = OrderedDict()  # by hash, newest last
        self._sending: set[str] = set()  # hashes that nobody has answered yet
        self._on_their_way: set[asyncio.Task[None]] = set()
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Be ready to send."""
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give up what no endpoint has answered yet."""
        for task in self._on_their_way:
            task.cancel()
        # what ended the block is not the group's: it would wrap a mistake in the config
        await self._group.__aexit__(None, None, None)

    @property
    def trouble(self) -> str:
        """Say why nothing can be sent now; "" while something can."""
        private = self._endpoints.trouble(Role.PRIVATE) if self._relays else "no relays"
        may_go_public = not self._relays or self._rules.public_after_blocks is not None
        if private and may_go_public:
            return self._endpoints.trouble(Role.SEND)
        return private

    def due(self, attempt: Attempt, head: Head) -> bool:
        """Say whether the newest transaction has to be sent again at this head."""
        tx_hash = attempt.transactions[-1].hash
        if tx_hash in self._sending:
            return False
        accepted = self._accepted.get(tx_hash)
        if accepted is None or (self._is_public(attempt, head) and not accepted.public):
            return True
        return accepted.until_block is not None and head.number >= accepted.until_block

    def _is_public(self, attempt: Attempt, head: Head) -> bool:
        after = self._rules.public_after_blocks
        if self._relays:
            return after is not None and head.number >= attempt.transactions[0].block + after
        return True

    async def send(self, attempt: Attempt, head: Head) -> RpcError | None:
        """Send the newest transaction of an attempt; None as soon as somebody has it.

        Else the refusal that leaves most open: one endpoint that gave no answer may hold it.
        """
        transaction = attempt.transactions[-1]
        self._sending.add(transaction.hash)
        try:
            return await self._send(attempt, transaction, head)
        finally:
            self._sending.discard(transaction.hash)

    async def _send(self, attempt: Attempt, transaction: SignedTx, head: Head) -> RpcError | None:
        targets = list(self._endpoints.ranked(Role.PRIVATE))
        if self._is_public(attempt, head):
            targets += self._senders()
        answers = Answers()
        for endpoint in targets:
            self._spawn(endpoint, transaction, head, answers)
        refusals = []
        for _ in targets:
            refusal = await answers.get()
            if refusal is None:
                return None
            refusals.append(refusal)
        reasons = "; ".join(map(str, refusals))
        logger.warning("not accepted", attempt=attempt.id, tx=transaction.hash, reasons=reasons)
        return min(refusals, key=lambda refusal: refusal.is_definite)

    def _note_accepted(self, endpoint: Endpoint, transaction: SignedTx, head: Head) -> None:
        before = self._accepted.get(transaction.hash)
        if Role.SEND in endpoint.roles or (before is not None and before.public):
            accepted = Accepted(public=True, until_block=None)
        else:
            kept = [relay.kept_blocks for relay in self._rules.relays if relay.kept_blocks]
            until = head.number + min(kept) if kept else None
            accepted = Accepted(public=False, until_block=until)
        self._accepted[transaction.hash] = accepted
        while len(self._accepted) > ACCEPTED_MAX:
            self._accepted.popitem(last=False)

    def _senders(self) -> Sequence[Endpoint]:
        """Return the endpoints that may take it: when all are in trouble, all of them."""
        every = self._endpoints.ranked(Role.SEND)
        wrong = EndpointState.WRONG_CHAIN
        right = [each for each in every if self._endpoints.state(each) is not wrong]
        return self._endpoints.usable(Role.SEND) or right or every

    def _spawn(
        self, endpoint: Endpoint, transaction: SignedTx, head: Head, answers: Answers
    ) -> None:
        offer = self._offer(endpoint, transaction, head, answers)
        task = self._group.create_task(offer, name=f"send/{endpoint.label}")
        self._on_their_way.add(task)
        task.add_done_callback(self._on_their_way.discard)

    async def _offer(
        self, endpoint: Endpoint, transaction: SignedTx, head: Head, answers: Answers
    ) -> None:
        """Give the transaction to one endpoint and put its answer into the queue."""
        refusal: RpcError | None = None
        try:
            await self._give(endpoint, transaction, head)
        except RpcError as error:
            refusal = error
        result = refusal.fault.value if refusal is not None else "ok"
        self._telemetry.count("keeper_broadcasts_total", endpoint=endpoint.label, result=result)
        if refusal is not None and refusal.fault is RpcFault.ALREADY_KNOWN:
            refusal = None
        if refusal is None:
            self._note_accepted(endpoint, transaction, head)
        answers.put_nowait(refusal)

    async def _give(self, endpoint: Endpoint, transaction: SignedTx, head: Head) -> None:
        """Return when the endpoint has the transaction; raises RpcError when it has not."""
        relay = self._relays.get(endpoint.url) or PUBLIC
        request = relay.request("0x" + transaction.raw.hex(), head.number)
        headers = relay.key.headers if relay.key else None
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(TransientRpcError),
            stop=stop_after_attempt(self._rules.attempts_max),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            reraise=True,
        ):
            with attempt:
                (answer,) = await self._endpoints.ask(endpoint, [request], headers)
                if isinstance(answer, RpcError):
                    answer.tries = attempt.retry_state.attempt_number
                    raise answer
                if relay.protocol is not RelayProtocol.BUNDLE and answer != transaction.hash:
                    msg = f"{endpoint.label} answered another hash: {str(answer)[:80]}"
                    raise rpc_error(RpcFault.GARBAGE, msg)


PUBLIC = Relay("", RelayProtocol.RAW)  # a ``send`` endpoint is spoken to like a node of our own
