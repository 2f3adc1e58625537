"""A Kubernetes API server that only knows Leases, for elections without a cluster."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

Lease = dict[str, Any]
FOLDER = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


@dataclass
class LeaseApi:
    """Optimistic concurrency and watches as in Kubernetes. `calls` counts by method."""

    leases: dict[str, Lease] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    url: str = ""
    _version: int = 0
    _events: list[tuple[int, str, Lease]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _closing: bool = False

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get(FOLDER, self.watch)
        app.router.add_post(FOLDER, self.create)
        app.router.add_get(FOLDER + "/{name}", self.read)
        app.router.add_put(FOLDER + "/{name}", self.replace)
        return app

    async def read(self, request: web.Request) -> web.Response:
        self._count("get")
        lease = self.leases.get(request.match_info["name"])
        return web.json_response(lease) if lease else _refused(404, "not found")

    async def create(self, request: web.Request) -> web.Response:
        self._count("create")
        lease: Lease = await request.json()
        if lease["metadata"]["name"] in self.leases:
            return _refused(409, "already exists")
        return web.json_response(self._store("ADDED", lease), status=201)

    async def replace(self, request: web.Request) -> web.Response:
        self._count("replace")
        lease: Lease = await request.json()
        before = self.leases.get(request.match_info["name"])
        if before is None:
            return _refused(404, "not found")
        if before["metadata"]["resourceVersion"] != lease["metadata"].get("resourceVersion"):
            return _refused(409, "the object has been modified")
        return web.json_response(self._store("MODIFIED", lease))

    async def watch(self, request: web.Request) -> web.StreamResponse:
        self._count("watch")
        assert request.query["watch"] == "1"
        name = request.query["fieldSelector"].removeprefix("metadata.name=")
        version = int(request.query["resourceVersion"])
        reply = web.StreamResponse()
        await reply.prepare(request)
        with suppress(ConnectionResetError):  # the other side is gone
            while not self._closing:
                for number, kind, lease in self._events:
                    if number > version and lease["metadata"]["name"] == name:
                        line = json.dumps({"type": kind, "object": lease})
                        await reply.write(line.encode() + b"\n")
                version = self._version
                await self._changed.wait()
        return reply

    def close(self) -> None:
        self._closing = True
        self._changed.set()

    def seize(self, name: str, holder: str) -> None:
        """As another candidate would, but before the Lease has run out."""
        lease = json.loads(json.dumps(self.leases[name]))
        lease["spec"]["holderIdentity"] = holder
        lease["spec"]["leaseTransitions"] += 1 if holder else 0
        self._store("MODIFIED", lease)

    def term(self, name: str) -> int:
        return int(self.leases[name]["spec"]["leaseTransitions"])

    def holder(self, name: str) -> str:
        lease = self.leases.get(name)
        return str(lease["spec"].get("holderIdentity", "")) if lease else ""

    def _store(self, kind: str, lease: Lease) -> Lease:
        self._version += 1
        lease["metadata"]["resourceVersion"] = str(self._version)
        self.leases[lease["metadata"]["name"]] = lease
        self._events.append((self._version, kind, lease))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return lease

    def _count(self, method: str) -> None:
        self.calls[method] = self.calls.get(method, 0) + 1


def _refused(status: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": status, "message": message}, status=status)


@asynccontextmanager
async def lease_api() -> AsyncIterator[LeaseApi]:
    api = LeaseApi()
    runner = web.AppRunner(api.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        api.close()
        await runner.cleanup()


def write_kubeconfig(path: Path, server: str) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {"token": "test"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return path
