"""Streamed answers: server-sent events written straight to the client's transport.

A token passes from the engine's socket to the client's without a task switch: the sinks of its
choices are plain calls. The handler's task only opens the response, waits out slow clients, sends
keep-alive comments and ends it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp.abc import AbstractStreamWriter

from shunter_gateway.edge.job import Job
from shunter_gateway.edge.parsed import ParsedSink, PartNames
from shunter_gateway.edge.render import (
    DONE_EVENT,
    KEEP_ALIVE,
    ChoiceRenderer,
    TokenBytes,
    error_event,
    usage_event,
    waiting_comment,
)
from shunter_gateway.edge.stream_sinks import ChoiceSink, RawSink
from shunter_gateway.edge.watch import Watch
from shunter_gateway.request import ClientError, ClientSink, Outcome, RequestHandle


@dataclass(frozen=True, slots=True)
class StreamSettings:
    keep_alive_s: float = 5.0  # a comment whenever nothing was sent for this long, also at first
    stall_timeout_s: float = 60.0  # a client that reads nothing for this long is dropped
    write_buffer_bytes: int = 64 << 10  # above: the engine is not read until the client caught up


class ClientStalled(Exception):
    """The client did not read for `stall_timeout_s`."""


class EventStream:
    """One client's stream; its choices share it."""

    __slots__ = (
        "_call_soon",
        "_chunked",
        "_full",
        "_job",
        "_live",
        "_pending",
        "_quiet",
        "_settings",
        "_time",
        "_token_bytes",
        "_transport",
        "_wake",
        "_watch",
        "_write_limit",
        "_wrote_at",
        "ended",
        "error",
        "handles",
        "outcomes",
    )

    def __init__(
        self, job: Job, watch: Watch, token_bytes: TokenBytes, settings: StreamSettings
    ) -> None:
        self.handles: list[RequestHandle] = []
        self.outcomes: list[Outcome] = []
        self.error: ClientError | None = None
        self.ended = False
        self._job = job
        self._watch = watch
        self._token_bytes = token_bytes
        self._settings = settings
        self._write_limit = settings.write_buffer_bytes
        self._live = len(job.specs)
        self._transport: asyncio.Transport | None = None  # until the response has begun
        self._chunked = True
        self._pending: list[bytes] = []
        self._wake = asyncio.Event()
        self._quiet = True
        self._full = False
        loop = asyncio.get_running_loop()
        self._time, self._call_soon = loop.time, loop.call_soon
        self._wrote_at = 0.0

    def sink(self, index: int) -> ClientSink:
        if self._job.shape.raw:
            return RawSink(self, self._watch)
        shape = self._job.shape
        renderer = ChoiceRenderer(shape, index, self._token_bytes)
        ids = self._job.specs[index].prompt_token_ids or ()
        if shape.parts is not None:
            names, parser = PartNames(shape, index), shape.parts.parser()
            return ParsedSink(self, self._watch, renderer, names, parser, ids)
        return ChoiceSink(self, self._watch, renderer, ids)

    # ------------------------------------------------------------ called by the sinks

    def send(self, data: bytes) -> None:
        """The first write of a loop turn goes out at once, what follows in the turn as one more:
        several tokens in one read cost two system calls, not one each."""
        transport = self._transport
        if self.ended:
            return
        if transport is None:
            self._pending.append(data)
            self._wake.set()
            return
        now = self._time()  # uvloop's clock stands still during a turn
        if now == self._wrote_at:
            if not self._pending:
                self._call_soon(self._flush)
            self._pending.append(data)
            return
        self._wrote_at = now
        if self._pending:
            self._pending.append(data)
            self._flush()
        else:
            self._write(transport, data)

    def text_sender(self, before: bytes, after: bytes) -> Callable[[bytes], None]:
        """`send` of `before`, a text and `after` in one call, for speed."""
        frame = b"%%x\r\n%b%%b%b\r\n" % (before.replace(b"%", b"%%"), after.replace(b"%", b"%%"))
        around = len(before) + len(after)
        time = self._time

        def send(text: bytes) -> None:
            transport, now = self._transport, time()
            at_once = now != self._wrote_at and not self._pending and not self.ended
            if transport is None or not at_once or not self._chunked:
                self.send(before + text + after)
                return
            self._wrote_at = now
            self._quiet = False
            transport.write(frame % (around + len(text), text))
            if transport.get_write_buffer_size() > self._write_limit and not self._full:
                self._pause()

        return send

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending and self._transport is not None:
            self._write(self._transport, b"".join(pending))

    def _write(self, transport: asyncio.Transport, data: bytes) -> None:
        self._quiet = False
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        transport.write(data)
        if transport.get_write_buffer_size() > self._write_limit and not self._full:
            self._pause()

    def choice_done(self, outcome: Outcome, closing: bytes = b"") -> None:
        self.outcomes.append(outcome)
        self._live -= 1
        if self.ended:
            return
        if self._live:
            if closing:
                self.send(closing)
            return
        shape = self._job.shape
        usage = shape.include_usage and not shape.raw
        totals = usage_event(shape, self.outcomes) if usage else b""
        self.send(closing + totals + DONE_EVENT)
        self.end()

    def fail(self, error: ClientError) -> None:
        """A stream that has begun says so in an event; else the handler answers with a status."""
        if self.ended:
            return
        self.error = error
        self.cancel()  # the other choices: nothing may follow an error
        if self._transport is not None or self._pending:
            self.send(error_event(error))
        self.end()

    def end(self) -> None:
        self.ended = True
        self._wake.set()

    def _pause(self) -> None:
        self._full = True
        self._watch.on_pause()
        for handle in self.handles:
            handle.pause()
        self._wake.set()

    # ------------------------------------------------------------ called by the handler

    @property
    def begun(self) -> bool:
        return self._transport is not None or bool(self._pending)

    async def wait_first(self) -> None:
        """Until there is something to say, or a comment is due: the first as long after the
        request's arrival as later ones after each other."""
        period_s = self._settings.keep_alive_s
        spent_s = self._time() - self._watch.started_at  # with its tokenizer, for the most part
        await self._woken(max(period_s - spent_s, period_s / 5))

    def _comment(self) -> bytes:
        for handle in self.handles:
            if (waiting := handle.waiting()) is not None:
                return waiting_comment(waiting)
        return KEEP_ALIVE

    def open(self, transport: asyncio.Transport, chunked: bool) -> None:
        """The response's head is out: send what has gathered, and from here on directly."""
        self._transport = transport
        self._chunked = chunked
        transport.set_write_buffer_limits(high=self._write_limit)
        if not self._pending:  # an error may have come while the head went out
            error = self.error
            self._pending.append(self._comment() if error is None else error_event(error))
        self._flush()
        self._quiet = True  # the next comment is due a whole period from here

    async def run(self, writer: AbstractStreamWriter) -> None:
        """Until the last event is written. Raises `ClientStalled`."""
        while not self.ended or self._full:
            if not await self._woken(self._settings.keep_alive_s):
                if self._quiet:
                    self.send(self._comment())
                self._quiet = True
            if self._full:
                await self._drain(writer)
        self._flush()

    async def _drain(self, writer: AbstractStreamWriter) -> None:
        try:
            async with asyncio.timeout(self._settings.stall_timeout_s):
                await writer.drain()
        except TimeoutError:
            raise ClientStalled from None
        self._full = False
        for handle in self.handles:
            handle.resume()

    async def _woken(self, timeout_s: float) -> bool:
        """False where nothing happened for that long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def cancel(self) -> None:
        """Aborts what still runs. A handle that has ended ignores it."""
        for handle in self.handles:
            handle.cancel()
