"""A connection that is opened before the call for it comes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import pytest

from shunter_gateway.engines.http1 import HttpClient

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Server:
    """Answers each request on a connection, or hangs up on the idle ones."""

    address: str = ""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.news.set()
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            writer.write(ANSWER)
        writer.close()

    async def connections(self, number: int) -> None:
        async with asyncio.timeout(10):
            while len(self.writers) < number:
                self.news.clear()
                await self.news.wait()
            await asyncio.sleep(0.05)  # the client's side, and any that are too many


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as listening:
        host, port = listening.sockets[0].getsockname()
        made.address = f"{host}:{port}"
        yield made
        for writer in made.writers:
            writer.close()


class Handler:
    def __init__(self) -> None:
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_response(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...
    def on_body(self, data: bytes) -> None: ...

    def on_complete(self) -> None:
        self.end.set_result("complete")

    def on_fault(self, reason: str, message: str) -> None:
        self.end.set_result(message)


async def call(client: HttpClient, address: str) -> str:
    handler = Handler()
    client.post(address, "/", b"", handler)
    async with asyncio.timeout(10):
        return await handler.end


async def test_the_next_call_takes_it(client: HttpClient, server: Server) -> None:
    client.prepare(server.address)
    client.prepare(server.address)
    await server.connections(1)
    client.prepare(server.address)  # one is idle
    assert await call(client, server.address) == "complete"
    await server.connections(1)
    assert len(server.writers) == 1


async def test_one_that_the_engine_has_closed_is_replaced(
    client: HttpClient, server: Server
) -> None:
    client.prepare(server.address)
    await server.connections(1)
    server.writers[0].transport.abort()
    assert await call(client, server.address) == "complete"
    assert len(server.writers) == 2


async def test_nobody_hears_of_one_that_fails(client: HttpClient) -> None:
    client.prepare("127.0.0.1:1")
    client.prepare("nowhere")
    await asyncio.sleep(0.05)
    assert "connect" in await call(client, "127.0.0.1:1")
