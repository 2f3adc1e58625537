"""Writes server-sent events straight to the connection.

`aiohttp`'s `StreamResponse.write` is a coroutine; one per token of every stream is most of the
cost of a token. Here a token is one synchronous `transport.write` of a chunk.
"""

import asyncio
from collections.abc import Callable

from aiohttp import web

# A client that reads nothing while this much waits for it has gone or is broken.
MAX_UNSENT_BYTES = 8 << 20
# How long the last of an answer may take to leave.
CLOSE_DEADLINE_S = 60.0
_LOOK_EVERY = 64


class EventStream:
    """Events written before `open` wait and go out with the head."""

    def __init__(self, on_stuck: Callable[[], object]) -> None:
        self._on_stuck = on_stuck
        self._early: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._response: web.StreamResponse | None = None
        self._writes = 0

    async def open(self, request: web.Request) -> None:
        """Raises `ConnectionResetError` when the client has gone."""
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
            }
        )
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"")  # sends the head, which aiohttp keeps back until a first write
        self._response = response
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        transport = request.transport
        early, self._early = self._early, []
        self._transport = transport
        for event in early:
            self.write(event)

    def write(self, event: bytes) -> None:
        transport = self._transport
        if transport is None:
            self._early.append(event)
            return
        if transport.is_closing():
            return
        transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self._writes += 1
        if self._writes % _LOOK_EVERY == 0 and transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            transport.abort()
            self._on_stuck()

    def break_off(self) -> None:
        """Breaks the connection, so that nobody takes this for the answer's end. Raises
        `ConnectionResetError`."""
        if self._transport is not None:
            self._transport.abort()
        raise ConnectionResetError("the answer was broken off")

    async def close(self) -> web.StreamResponse:
        """Raises `ConnectionResetError` where the client has gone or reads too slowly."""
        assert self._response is not None and self._transport is not None, "closed before opened"
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self._response.write_eof()
        except TimeoutError:
            self._transport.abort()
            raise ConnectionResetError(
                f"the client did not read the answer's end within {CLOSE_DEADLINE_S:g} s"
            ) from None
        return self._response
