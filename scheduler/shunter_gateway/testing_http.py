"""A server on a real socket that answers by script, to test engine adapters against."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from shunter_gateway.ports import EngineFailure, TokenChunk


@dataclass(slots=True)
class Received:
    """One request as the server got it."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int  # serial number of the socket
    closed: asyncio.Event = field(default_factory=asyncio.Event)  # the client hung up

    @property
    def json(self) -> dict[str, object]:
        return msgspec.json.decode(self.body, type=dict[str, object])


Script = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def plain(status: int, body: bytes, extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{extra}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def stream_head() -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def token_event(token_id: int, finish: str = "null", extra: str = "") -> bytes:
    """One event of a token-level engine; `finish` and `extra` are JSON."""
    choice = f'{{"index":0,"text":"","token_ids":[{token_id}],"finish_reason":{finish}}}'
    return chunked(f'data: {{"choices":[{choice}]{extra}}}\n\n'.encode())


STREAM_END = chunked(b"data: [DONE]\n\n") + chunked(b"")


@dataclass(slots=True)
class ScriptedServer:
    address: str = ""
    requests: list[Received] = field(default_factory=list)
    connections: int = 0


@asynccontextmanager
async def scripted_server(script: Script) -> AsyncIterator[ScriptedServer]:
    """Each request is given to `script`, which writes the answer; keep-alive until it closes."""
    state = ScriptedServer()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        number = state.connections
        writers.add(writer)
        try:
            while True:
                received = await _read_request(reader, number)
                state.requests.append(received)
                watch = asyncio.create_task(_watch(reader, received))
                try:
                    await script(received, writer)
                finally:
                    watch.cancel()
                    await asyncio.gather(watch, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    state.address = f"{host}:{port}"
    try:
        yield state
    finally:
        server.close()
        for writer in list(writers):
            writer.close()
        await asyncio.sleep(0.01)


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(first.split(" ")[1], headers, body, connection)


async def _watch(reader: asyncio.StreamReader, received: Received) -> None:
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 (no event for it)
        await asyncio.sleep(0.005)
    received.closed.set()


@dataclass(slots=True)
class CollectingSink:
    """A `TokenSink` whose end can be awaited."""

    chunks: list[TokenChunk] = field(default_factory=list)
    failure: EngineFailure | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for chunk in self.chunks for token_id in chunk.token_ids]

    def on_chunk(self, chunk: TokenChunk) -> None:
        assert not self.ended.is_set()
        self.chunks.append(chunk)
        self.heard.set()

    def on_end(self) -> None:
        assert not self.ended.is_set()
        self.ended.set()

    def on_failure(self, failure: EngineFailure) -> None:
        assert not self.ended.is_set()
        self.failure = failure
        self.ended.set()

    async def result(self) -> EngineFailure | None:
        async with asyncio.timeout(10):
            await self.ended.wait()
        return self.failure
