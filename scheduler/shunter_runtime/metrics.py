"""Serves a Prometheus registry and the process's health over HTTP."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

if TYPE_CHECKING:
    from aiohttp.web import AppRunner


async def serve_metrics(
    registry: CollectorRegistry,
    host: str,
    port: int,
    healthy: Callable[[], bool],
    ready: Callable[[], bool] | None = None,
) -> "AppRunner":
    """Starts `GET /metrics`, `GET /health` (200 or 503: for a liveness probe) and `GET /ready`
    (whether to send it work; the same where `ready` is not given). Port 0: the system chooses.

    The caller ends it with `await runner.cleanup()`. Raises `OSError` where the port is taken.
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def health(request: web.Request) -> web.Response:
        fine = ready() if ready and request.path == "/ready" else healthy()
        return web.Response(status=200 if fine else 503, text="ok\n" if fine else "not ready\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health", health)
    app.router.add_get("/ready", health)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


def port_of(runner: "AppRunner") -> int:
    """The port that a started runner listens on."""
    port: int = runner.addresses[0][1]
    return port
