"""A network between two processes that is slow, breaks or goes silent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class TcpProxy:
    """Forwards connections to `target`. Tests set what is to go wrong, at any time."""

    target: str  # host:port
    delay_s: float = 0.0  # of every piece, in both directions
    cut_after_bytes: int = -1  # of answers: then the connection breaks; -1: never
    silent_after_bytes: int = -1  # then nothing more comes through, either way
    address: str = ""
    answered_bytes: int = 0
    _pipes: set[asyncio.Task[None]] = field(default_factory=set)
    _open: set[asyncio.Event] = field(default_factory=set)  # one of each connection, set at its end

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        closed = asyncio.Event()
        self._open.add(closed)
        try:
            to_reader, to_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            closed.set()
            return
        there = asyncio.create_task(self._pipe(reader, to_writer, answers=False))
        back = asyncio.create_task(self._pipe(to_reader, writer, answers=True))
        self._pipes |= {there, back}
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        there.cancel()
        back.cancel()
        await asyncio.wait({there, back})
        self._pipes -= {there, back}
        writer.transport.abort()
        to_writer.transport.abort()
        closed.set()

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(16384):
                self.answered_bytes += len(data) if answers else 0
                if 0 <= self.cut_after_bytes < self.answered_bytes:
                    return
                if 0 <= self.silent_after_bytes < self.answered_bytes:
                    await asyncio.Event().wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()

    async def close(self) -> None:
        for pipe in self._pipes:
            pipe.cancel()
        for closed in self._open:
            await closed.wait()
        await asyncio.sleep(0)  # transports close at the loop's next turn


@contextlib.asynccontextmanager
async def tcp_proxy(target: str) -> AsyncIterator[TcpProxy]:
    proxy = TcpProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    proxy.address = f"{host}:{port}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
