"""A JSON-RPC endpoint in front of a node that can be told to misbehave."""

import contextlib
import http.client
import itertools
import json
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OTHER_CHAIN = 1
BLOCKS_BEHIND = 20
LIE = 7  # transactions
NONSENSE: tuple[object, ...] = (None, "0x", {}, [], 7, "latest", [{}], {"hash": 1})
ANSWER_S_MAX = 30.0


class Fault(Enum):
    """What a request gets instead of the node's answer."""

    GARBAGE = auto()  # a web page
    OTHER_IDS = auto()  # answers to questions that nobody asked
    NONSENSE = auto()  # JSON-RPC as it should be, results of any type
    RATE_LIMIT = auto()  # HTTP 429
    BROKEN = auto()  # HTTP 500
    SILENT = auto()  # accepted, never answered
    RESET = auto()  # half an answer, then the connection is gone
    PAUSE = auto()  # HTTP 429 with a Retry-After
    STALE = auto()  # a node that stopped following: its head is far behind
    LYING_NONCE = auto()  # wallets have sent more than they did
    WRONG_CHAIN = auto()  # the node behind it was swapped for another chain's


ALWAYS: Mapping[Fault | None, tuple[int, bytes, Mapping[str, str]]] = {
    Fault.GARBAGE: (200, b"<html><body>Welcome to our wonderful node</body></html>", {}),
    Fault.RATE_LIMIT: (429, b"slow down", {}),
    Fault.PAUSE: (429, b"slow down", {"Retry-After": "1"}),
    Fault.BROKEN: (500, b"oops", {}),
}
"""What is answered whatever is asked."""


class Server(ThreadingHTTPServer):
    """Says nothing of connections that a keeper gave up or that were killed with it."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base's
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Proxy:
    """Serves on ``url``; ``fault`` may be set at any time, None lets everything through."""

    def __init__(self, port: int) -> None:
        self.fault: Fault | None = None
        self.sent: list[str] = []  # raw transactions that were let through
        self.asked: list[tuple[str, list[Any]]] = []  # method and params of what was
        self._port = port
        self._recovered = threading.Event()
        self._numbers = itertools.count()
        self._to_drop = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:  # noqa: N805 - as the base wants; self is the proxy
                self._handle(handler)

            def log_message(handler, *_: object) -> None:  # noqa: N805 - likewise
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def break_with(self, fault: Fault) -> None:
        """Misbehave from the next request on."""
        self._recovered.clear()
        # a swapped node drops its connections first
        self._to_drop = 1 if fault is Fault.WRONG_CHAIN else 0
        self.fault = fault

    def mend(self) -> None:
        """Behave again."""
        self.fault = None
        self._recovered.set()

    def close(self) -> None:
        self.mend()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if self.fault in ALWAYS:
            _answer(handler, *ALWAYS[self.fault])
            return
        match self.fault:
            case None:
                _answer(handler, *self._forward(body))
            case Fault.RESET:
                _reset(handler, self._forward(body)[1])
            case Fault.STALE | Fault.LYING_NONCE:
                _answer(handler, 200, self._distorted(body))
            case Fault.SILENT:
                self._recovered.wait(ANSWER_S_MAX)
                handler.close_connection = True
            case Fault.OTHER_IDS | Fault.NONSENSE:
                _answer(handler, 200, self._lies(body))
            case Fault.WRONG_CHAIN if self._to_drop:
                self._to_drop -= 1
                handler.close_connection = True
            case Fault.WRONG_CHAIN:
                _answer(handler, 200, self._other_chain(body))

    def _forward(self, body: bytes) -> tuple[int, bytes]:
        requests = _requests(body)
        self.asked += [(r["method"], r["params"]) for r in requests]
        self.sent += [r["params"][0] for r in requests if r["method"] == "eth_sendRawTransaction"]
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S_MAX)
        with contextlib.closing(connection):
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def _distorted(self, body: bytes) -> bytes:
        """Forward what is asked and change the answers that the fault is about."""
        requests = {request["id"]: request for request in _requests(body)}
        if self.fault is Fault.STALE:
            body = body.replace(b'"latest"', json.dumps(hex(self._behind())).encode())
        found = json.loads(self._forward(body)[1])
        for answer in found if isinstance(found, list) else [found]:
            method = requests[answer["id"]]["method"]
            if self.fault is Fault.STALE and method == "eth_blockNumber":
                answer["result"] = hex(self._behind())
            if self.fault is Fault.LYING_NONCE and method == "eth_getTransactionCount":
                answer["result"] = hex(int(answer["result"], 16) + LIE)
        return json.dumps(found).encode()

    def _behind(self) -> int:
        asked = {"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []}
        head = json.loads(self._forward(json.dumps(asked).encode())[1])["result"]
        return max(0, int(head, 16) - BLOCKS_BEHIND)

    def _lies(self, body: bytes) -> bytes:
        shift = 10_000_000 if self.fault is Fault.OTHER_IDS else 0
        answers = [(request, self._lie(request["method"])) for request in _requests(body)]
        return _encoded(body, [_result(request["id"] + shift, lie) for request, lie in answers])

    def _lie(self, method: str) -> object:
        """Return the next nonsense, but never "no logs": nobody could know that for a lie."""
        lie = NONSENSE[next(self._numbers) % len(NONSENSE)]
        return None if method == "eth_getLogs" and lie == [] else lie

    def _other_chain(self, body: bytes) -> bytes:
        requests = _requests(body)
        if any(request["method"] == "eth_chainId" for request in requests):
            answers = [
                {"jsonrpc": "2.0", "id": r["id"], "result": hex(OTHER_CHAIN)} for r in requests
            ]
            return json.dumps(answers if body.startswith(b"[") else answers[0]).encode()
        return self._forward(body)[1]


def _requests(body: bytes) -> list[dict[str, Any]]:
    found = json.loads(body)
    return found if isinstance(found, list) else [found]


def _result(number: int, result: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "result": result}


def _encoded(body: bytes, answers: list[dict[str, object]]) -> bytes:
    """Answer a batch with a batch."""
    return json.dumps(answers if body.startswith(b"[") else answers[0]).encode()


def _reset(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Send half of an answer and reset the connection."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    linger = struct.pack("ii", 1, 0)  # on, no time: closing it sends a reset
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True


def _answer(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
) -> None:
    # a keeper whose patience is over has closed the connection
    with contextlib.suppress(OSError):
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@contextlib.contextmanager
def running_proxy(port: int) -> Iterator[Proxy]:
    """Stand in front of the node on a loopback port for the length of the block."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
