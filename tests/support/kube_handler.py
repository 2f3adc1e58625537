"""A Kubernetes client of an API server that is one handler, on a real socket."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from lease_api import write_kubeconfig
from shunter_runtime.kube_access import from_kubeconfig
from shunter_runtime.kube_api import KubeApi, kube_api

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def api_of(handler: Handler, folder: Path) -> AsyncIterator[KubeApi]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = write_kubeconfig(folder / "config", f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        async with kube_api(from_kubeconfig(str(config))) as api:
            yield api
    finally:
        await runner.cleanup()
