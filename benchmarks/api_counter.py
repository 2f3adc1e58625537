"""Counts what a process asks of a Kubernetes API server, by standing between the two."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

from shunter_runtime.kube_access import KubeAccess

_OBJECT = re.compile(
    r"^/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+(?=/))?"
    r"/(?P<plural>[^/]+)(?P<name>/[^/]+)?(?P<sub>/.+)?$"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_HOP_BY_HOP = frozenset(
    {"host", "connection", "transfer-encoding", "content-length", "content-encoding"}
)


@dataclass
class Counted:
    """`kubeconfig` leads to the server by way of this. `calls` by what was asked, such as "watch
    pods" and "patch deployments"."""

    kubeconfig: Path
    calls: Counter[str] = field(default_factory=Counter)

    def take(self) -> dict[str, int]:
        """The calls since the last time."""
        taken, self.calls = dict(self.calls), Counter()
        return taken


def kind_of_call(method: str, path: str, query: str) -> str:
    match = _OBJECT.match(path)
    if match is None:
        return f"discover {path}"
    if method == "GET":
        watches = re.search(r"(?:^|&)watch=(?:1|true)", query)
        verb = "watch" if watches else "get" if match["name"] else "list"
    else:
        verb = _VERBS.get(method, method)
    return f"{verb} {match['plural']}{match['sub'] or ''}"


@asynccontextmanager
async def counted(access: KubeAccess, folder: Path, name: str) -> AsyncIterator[Counted]:
    """On loopback, with the rights that `access` has."""
    counter = Counted(folder / f"{name}.kubeconfig")
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
    ) as http:

        async def forward(request: web.Request) -> web.StreamResponse:
            counter.calls[kind_of_call(request.method, request.path, request.query_string)] += 1
            return await _forward(http, access, request)

        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            counter.kubeconfig.write_text(_kubeconfig(f"http://127.0.0.1:{port}"))
            yield counter
        finally:
            await runner.cleanup()


async def _forward(
    http: aiohttp.ClientSession, access: KubeAccess, request: web.Request
) -> web.StreamResponse:
    headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
    if authorization := await asyncio.to_thread(access.authorization):
        headers["Authorization"] = authorization
    async with http.request(
        request.method,
        access.server + request.raw_path,
        headers=headers,
        data=await request.read() or None,
        ssl=access.tls,
        server_hostname=access.server_name,
        allow_redirects=False,
    ) as answer:
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
        if encoding := answer.headers.get("Content-Encoding"):
            kept["Content-Encoding"] = encoding
        reply = web.StreamResponse(status=answer.status, headers=kept)
        await reply.prepare(request)
        async for part in answer.content.iter_any():
            await reply.write(part)
        await reply.write_eof()
        return reply


def _kubeconfig(server: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "counted", "cluster": {"server": server}}],
            "users": [{"name": "anybody", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "counted", "user": "anybody"}}],
            "current-context": "c",
        }
    )
