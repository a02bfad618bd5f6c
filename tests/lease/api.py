"""The part of a Kubernetes API server that leases need, on loopback, as strict as the real one.

A create of what exists and a replacement of another version than the newest are conflicts (409); an
empty holder, a duration that is not positive and a time that is no MicroTime are refused (422);
a token is asked for. Every write gets a new ``resourceVersion``, an opaque text.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

TOKEN = "of-the-account"  # noqa: S105 - of this server
MICRO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$")
PATH = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


@dataclass
class Api:
    """What the server holds and does. ``refuse``: the status of every answer, 0: it works."""

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)  # "POST" or "PUT", of those that succeeded
    refuse: int = 0
    lose_answers: int = 0  # this many writes are done, and answered as if they had timed out
    url: str = ""
    _version: int = 41

    def lease(self, name: str = "keeper", namespace: str = "keepers") -> dict[str, Any]:
        return self.objects[namespace, name]

    def holder(self) -> str | None:
        holder: str | None = self.lease()["spec"].get("holderIdentity")
        return holder

    async def get(self, request: web.Request) -> web.Response:
        found = self.objects.get(_key(request))
        return web.json_response(found) if found else _status(404, "NotFound")

    async def create(self, request: web.Request) -> web.Response:
        body = await request.json()
        key = request.match_info["namespace"], body["metadata"]["name"]
        if key in self.objects:
            return _status(409, "AlreadyExists")
        return await self._store(request, key, body, 201)

    async def replace(self, request: web.Request) -> web.Response:
        body, key = await request.json(), _key(request)
        before = self.objects.get(key)
        if before is None:
            return _status(404, "NotFound")
        version = body["metadata"].get("resourceVersion")
        if version is None:
            return _status(422, "Invalid")  # leases are only replaced conditionally
        if version != before["metadata"]["resourceVersion"]:
            return _status(409, "Conflict")
        return await self._store(request, key, body, 200)

    async def _store(
        self, request: web.Request, key: tuple[str, str], body: dict[str, Any], status: int
    ) -> web.Response:
        spec = {name: value for name, value in body["spec"].items() if value is not None}
        invalid = (
            body.get("apiVersion", "coordination.k8s.io/v1") != "coordination.k8s.io/v1"
            or spec.get("holderIdentity") == ""
            or spec.get("leaseDurationSeconds", 1) <= 0
            or spec.get("leaseTransitions", 0) < 0
        )
        if invalid:
            return _status(422, "Invalid")
        for name in ("acquireTime", "renewTime"):
            if name in spec and not MICRO_TIME.match(spec[name]):
                return _status(400, "BadRequest")
        self._version += 7
        metadata = {**body["metadata"], "namespace": key[0], "uid": f"uid-{key[1]}"}
        metadata["resourceVersion"] = str(self._version)
        head = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        self.objects[key] = {**head, "metadata": metadata, "spec": spec}
        self.writes.append(request.method)
        if self.lose_answers:
            self.lose_answers -= 1
            return _status(504, "Timeout")
        return web.json_response(self.objects[key], status=status)


def _key(request: web.Request) -> tuple[str, str]:
    return request.match_info["namespace"], request.match_info["name"]


def _status(code: int, reason: str) -> web.Response:
    said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason}
    return web.json_response({**said, "message": f"leases: {reason}", "code": code}, status=code)


@asynccontextmanager
async def running_api() -> AsyncIterator[Api]:
    """Serve while inside."""
    api = Api()

    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:  # noqa: ANN401
        if api.refuse:
            return _status(api.refuse, "ServiceUnavailable")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _status(401, "Unauthorized")
        answer: web.StreamResponse = await handler(request)
        return answer

    app = web.Application(middlewares=[guard])
    app.router.add_post(PATH, api.create)
    app.router.add_get(PATH + "/{name}", api.get)
    app.router.add_put(PATH + "/{name}", api.replace)
    async with TestServer(app) as server:
        api.url = f"http://127.0.0.1:{server.port}"
        yield api
