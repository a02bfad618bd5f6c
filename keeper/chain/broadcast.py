"""Sending a signed transaction everywhere at once: the first acceptance wins."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from keeper.chain.endpoints import Endpoint, Endpoints, Role
from keeper.chain.wordings import rpc_error
from keeper.errors import EndpointState, RpcError, RpcFault, TransientRpcError
from keeper.facts import Attempt, Head, SignedTx
from keeper.ports import Telemetry

logger = structlog.get_logger(__name__)

ACCEPTED_MAX = 10_000  # hashes remembered; an attempt whose hash is forgotten is sent again

Answers = asyncio.Queue[RpcError | None]


class Broadcast:
    """Gives transactions to every ``send`` endpoint. Implements ``ports.Broadcaster``.

    To be entered: what is still on its way to the slower endpoints when the first one has accepted
    belongs to the block, and ends with it.
    """

    def __init__(self, endpoints: Endpoints, attempts_max: int, telemetry: Telemetry) -> None:
        """Try each endpoint up to ``attempts_max`` times."""
        self._endpoints = endpoints
        self._attempts_max = attempts_max
        self._telemetry = telemetry
        self._accepted: OrderedDict[str, None] = OrderedDict()  # hashes, newest last
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
        return self._endpoints.trouble(Role.SEND)

    def due(self, attempt: Attempt, _head: Head) -> bool:
        """Say whether the newest transaction has to be sent again at this head."""
        return attempt.transactions[-1].hash not in self._accepted

    async def send(self, attempt: Attempt, _head: Head) -> RpcError | None:
        """Send the newest transaction of an attempt; None as soon as an endpoint has it.

        Else the refusal that leaves most open: one endpoint that gave no answer may hold it.
        """
        transaction = attempt.transactions[-1]
        targets = self._targets()
        answers = Answers()
        for endpoint in targets:
            self._spawn(endpoint, transaction, answers)
        refusals = []
        for _ in targets:
            refusal = await answers.get()
            if refusal is None:
                self._note_accepted(transaction)
                return None
            refusals.append(refusal)
        reasons = "; ".join(map(str, refusals))
        logger.warning("not accepted", attempt=attempt.id, tx=transaction.hash, reasons=reasons)
        return min(refusals, key=lambda refusal: refusal.is_definite)

    def _note_accepted(self, transaction: SignedTx) -> None:
        self._accepted[transaction.hash] = None
        while len(self._accepted) > ACCEPTED_MAX:
            self._accepted.popitem(last=False)

    def _targets(self) -> Sequence[Endpoint]:
        """Return the endpoints that may take it: when all are in trouble, all of them."""
        every = self._endpoints.ranked(Role.SEND)
        right = [
            each for each in every if self._endpoints.state(each) is not EndpointState.WRONG_CHAIN
        ]
        return self._endpoints.usable(Role.SEND) or right or every

    def _spawn(self, endpoint: Endpoint, transaction: SignedTx, answers: Answers) -> None:
        name = f"send/{endpoint.label}"
        task = self._group.create_task(self._offer(endpoint, transaction, answers), name=name)
        self._on_their_way.add(task)
        task.add_done_callback(self._on_their_way.discard)

    async def _offer(self, endpoint: Endpoint, transaction: SignedTx, answers: Answers) -> None:
        """Give the transaction to one endpoint and put its answer into the queue."""
        refusal: RpcError | None = None
        try:
            await self._give(endpoint, transaction)
        except RpcError as error:
            refusal = error
        result = refusal.fault.value if refusal is not None else "ok"
        self._telemetry.count("keeper_broadcasts_total", endpoint=endpoint.label, result=result)
        if refusal is not None and refusal.fault is RpcFault.ALREADY_KNOWN:
            refusal = None
        answers.put_nowait(refusal)

    async def _give(self, endpoint: Endpoint, transaction: SignedTx) -> None:
        """Return when the endpoint has the transaction; raises RpcError when it has not."""
        requests = [("eth_sendRawTransaction", ["0x" + transaction.raw.hex()])]
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(TransientRpcError),
            stop=stop_after_attempt(self._attempts_max),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            reraise=True,
        ):
            with attempt:
                (answer,) = await self._endpoints.ask(endpoint, requests)
                if isinstance(answer, RpcError):
                    answer.tries = attempt.retry_state.attempt_number
                    raise answer
                if answer != transaction.hash:
                    msg = f"{endpoint.label} answered another hash: {str(answer)[:80]}"
                    raise rpc_error(RpcFault.GARBAGE, msg)
