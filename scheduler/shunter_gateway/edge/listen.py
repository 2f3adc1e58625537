"""Listens for HTTP, and stops without cutting an answer off."""

import ssl

from aiohttp import web

from shunter_gateway.edge.server import HttpEdge


class HttpListener:
    """Owns the edge's socket. Stop accepting, drain the `Front`, then close."""

    def __init__(self, edge: HttpEdge, tls: ssl.SSLContext | None = None) -> None:
        self._edge = edge
        self._tls = tls
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None

    async def start(self, host: str, port: int, reuse_port: bool = False) -> int:
        """The port that it listens on (`port` 0: the system's choice). Raises `OSError`."""
        runner = web.ServerRunner(self._edge.server(), shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(
            runner,
            host,
            port,
            ssl_context=self._tls,
            backlog=1024,
            reuse_port=reuse_port or None,
        )
        try:
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self._site = runner, site
        bound: int = runner.addresses[0][1]
        return bound

    async def stop_accepting(self) -> None:
        """New connections are refused; those that stand go on."""
        if self._site is not None:
            site, self._site = self._site, None
            await site.stop()

    async def close(self) -> None:
        """Cuts off what is left."""
        await self.stop_accepting()
        if self._runner is not None:
            await self._runner.cleanup()
