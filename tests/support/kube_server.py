"""A Kubernetes API server without any object but Leases, for processes that lose theirs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from lease_api import LeaseApi

VERBS = ["get", "list", "watch", "create", "patch", "delete"]
RESOURCES = {
    "/api/v1": ("pods", "services", "serviceaccounts", "configmaps", "nodes", "namespaces"),
    "/apis/apps/v1": ("deployments",),
    "/apis/policy/v1": ("poddisruptionbudgets",),
    "/apis/shunter.dev/v1alpha1": ("modelpools", "routingpolicies"),
}
GROUPS = {path.split("/")[2]: path.split("/")[3] for path in RESOURCES if "apis" in path}


@dataclass
class KubeServer:
    """Once it is `hanging`, nothing is answered any more, and what was open stays open. `asked`
    and `watched` are paths; `hangs_at` is the end of one whose write makes it hang."""

    objects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by plural
    leases: LeaseApi = field(default_factory=LeaseApi)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    hangs_at: str = ""
    asked: set[str] = field(default_factory=set)
    watched: set[str] = field(default_factory=set)
    url: str = ""
    _runner: web.AppRunner | None = None
    _end: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        app = self.leases.app()
        app.middlewares.append(self._unless_hanging)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Connections break, new ones are refused."""
        self._end.set()
        self.leases.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _unless_hanging(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.add(request.path)
        if request.method != "GET" and self.hangs_at and request.path.endswith(self.hangs_at):
            self.hanging.set()
        if self.hanging.is_set():
            await self._end.wait()
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path, plural = request.path, request.path.rsplit("/", 1)[-1]
        if request.method != "GET":
            return web.json_response(await request.json())
        if request.query.get("watch") or path.startswith("/api/v1/watch/"):
            return await self._watch(request)
        if path == "/version":
            return web.json_response({"major": "1", "minor": "30"})
        if (found := _discovery(path)) is not None:
            return web.json_response(found)
        if plural not in (name for names in RESOURCES.values() for name in names):
            return web.json_response({"code": 404, "message": "not found"}, status=404)
        listing = {"metadata": {"resourceVersion": "1"}, "items": self.objects.get(plural, [])}
        return web.json_response(listing)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse()
        await reply.prepare(request)
        self.watched.add(request.path)
        await self._end.wait()
        return reply


def _discovery(path: str) -> dict[str, Any] | None:
    if path == "/api":
        return {"versions": ["v1"]}
    if path == "/apis":
        return {"groups": [_group(name) for name in GROUPS]}
    if path == "/apis/policy":
        return _group("policy")
    if path not in RESOURCES:
        return None
    namespaced = [(name, name not in ("nodes", "namespaces")) for name in RESOURCES[path]]
    return {
        "resources": [
            {
                "name": name,
                "namespaced": within,
                "kind": name.title(),
                "singularName": name,
                "verbs": VERBS,
            }
            for name, within in namespaced
        ]
    }


def _group(name: str) -> dict[str, Any]:
    version = {"groupVersion": f"{name}/{GROUPS[name]}", "version": GROUPS[name]}
    return {"name": name, "versions": [version], "preferredVersion": version}


@asynccontextmanager
async def kube_server() -> AsyncIterator[KubeServer]:
    server = KubeServer()
    await server.start()
    try:
        yield server
    finally:
        await server.close()
