"""One connection to an engine, and the exchanges that it carries one after the other."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import httptools
import structlog

from shunter_gateway.engines.plain import is_whole_chunk

_log = structlog.get_logger(__name__)
FaultReason = Literal["connection", "timeout", "protocol", "unread"]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Deadlines and bounds of one gateway's engine calls."""

    connect_s: float = 2.0
    first_byte_s: float = 120.0  # an engine may queue the request before it answers
    idle_s: float = 30.0  # longest silence once the answer has begun
    unread_s: float = 5.0  # lost this soon after a pause: the engine did not wait for the reader
    sweep_s: float = 0.25
    idle_connections_per_address: int = 64
    keep_alive_s: float = 4.0  # engines' servers close idle connections after 5 s (uvicorn)
    header_bytes: int = 1 << 16


class ResponseHandler(Protocol):
    """Hears one response. After `on_complete` or `on_fault` nothing more comes. Must not raise."""

    def on_response(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_complete(self) -> None: ...
    def on_fault(self, reason: FaultReason, message: str) -> None: ...


class Connections(Protocol):
    """Who holds the connections of all engines."""

    limits: HttpLimits

    def time(self) -> float: ...
    def forget(self, exchange: "Exchange") -> None: ...
    def reconnect(self, exchange: "Exchange") -> None: ...
    def release(self, connection: "Connection") -> None: ...
    def lost(self, connection: "Connection") -> None: ...


class Exchange:
    """One request and its response. `abort` closes the socket, which ends the engine's work."""

    __slots__ = (
        "_client",
        "_connection",
        "_paused",
        "_resumed_at",
        "address",
        "answered",
        "began",
        "first_byte_s",
        "handler",
        "heard_at",
        "payload",
        "plain_read",
        "retried",
    )

    def __init__(
        self,
        client: Connections,
        address: str,
        payload: bytes,
        handler: ResponseHandler,
        first_byte_s: float,
    ) -> None:
        self._client = client
        self._connection: Connection | None = None
        self._paused = False
        self._resumed_at = float("-inf")
        self.address = address
        self.payload = payload
        self.handler: ResponseHandler | None = handler
        self.first_byte_s = first_byte_s
        self.heard_at = client.time()
        self.answered = False  # the head has come; engines send it before they have tokens
        self.began = False  # the body has begun
        self.retried = False
        # Takes a whole chunk, or declines it; set by a handler that knows what comes.
        self.plain_read: Callable[[bytes], bool] | None = None

    def attach(self, connection: "Connection") -> None:
        self._connection = connection
        self.heard_at = self._client.time()
        if self._paused:
            connection.pause()

    def abort(self) -> None:
        """Nothing is heard afterwards. Idempotent."""
        if self.handler is None:
            return
        self.handler = None
        self._client.forget(self)
        if self._connection is not None:
            self._connection.close()

    def pause(self) -> None:
        if self._paused or self.handler is None:
            return
        self._paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if not self._paused or self.handler is None:
            return
        self._paused = False
        self._resumed_at = self.heard_at = self._client.time()
        if self._connection is not None:
            self._connection.resume()

    def fail(self, reason: FaultReason, message: str) -> None:
        handler = self.handler
        if handler is None:
            return
        self.abort()
        handler.on_fault(reason, message)

    def lost(self, message: str) -> None:
        """The connection ended. Engines do not keep an answer for ever that nobody reads: after a
        pause that is no sign of their health."""
        read = (
            not self._paused
            and self._client.time() - self._resumed_at > self._client.limits.unread_s
        )
        self.fail("connection" if read or not self.began else "unread", message)

    def complete(self) -> None:
        handler = self.handler
        if handler is None:
            return
        self.handler = None
        self._client.forget(self)
        handler.on_complete()

    def overdue(self, now: float, idle_s: float) -> str:
        """Why the engine counts as silent; empty while it does not."""
        if self._paused:  # the client is slow, not the engine
            return ""
        silent_s = now - self.heard_at
        if self.began:
            return f"silent for {silent_s:.1f} s" if silent_s > idle_s else ""
        return f"no answer for {silent_s:.1f} s" if silent_s > self.first_byte_s else ""


class Connection(asyncio.Protocol):
    """One socket; carries one exchange at a time."""

    def __init__(self, client: Connections, address: str) -> None:
        self._client = client
        self.address = address
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._body: list[bytes] = []  # of the read under way
        self._between_chunks = False  # known only where there is a `plain_read`
        self._complete = False
        self._until_close = False
        self._keep_alive = False
        self.used = False
        self.idle_since = 0.0

    def send(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._headers = {}
        self._header_bytes = 0
        self._complete = self._until_close = self._between_chunks = False
        exchange.attach(self)
        assert self._transport is not None
        self._transport.write(exchange.payload)

    @property
    def closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # bytes that nobody asked for
            self.close()
            return
        exchange.heard_at = self._client.time()
        plain_read = exchange.plain_read
        try:
            if plain_read is not None:
                if self._between_chunks and plain_read(data):
                    return  # the parser stands where it stood: before a chunk
                self._parser.feed_data(data)
                self._between_chunks = is_whole_chunk(data, self._body)
            else:
                self._parser.feed_data(data)
            if self._body:
                self._deliver(exchange)
        except Exception as error:  # the outermost loop of all that an answer sets off
            self._fault(exchange, error)
            return
        if self._complete:
            self._end()

    def _fault(self, exchange: Exchange, error: Exception) -> None:
        ours = isinstance(error, httptools.HttpParserCallbackError)
        if isinstance(error, httptools.HttpParserError) and not ours:
            exchange.fail("protocol", f"not valid HTTP: {type(error).__name__}")
            return
        _log.error("engine_answer_not_handled", address=self.address, exc_info=error)
        exchange.fail("protocol", "the answer could not be handled")

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(self)
        exchange, self._exchange = self._exchange, None
        if exchange is None or exchange.handler is None:
            return
        if self._until_close and exc is None:
            exchange.complete()
        elif self.used and not exchange.answered and not exchange.retried:
            exchange.retried = True  # the engine closed it while it was idle
            self._client.reconnect(exchange)
        else:
            exchange.lost(f"connection lost: {exc or 'closed by the engine'}")

    def _deliver(self, exchange: Exchange) -> None:
        """All of the body that one read brought, at once: it costs its handler one pass."""
        body, self._body = self._body, []
        if exchange.handler is not None:
            exchange.began = True
            exchange.handler.on_body(body[0] if len(body) == 1 else b"".join(body))

    # ------------------------------------------------------------ httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > self._client.limits.header_bytes:
            raise ValueError("response headers are too long")
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100-continue and early hints
            return
        headers = self._headers
        self._until_close = b"content-length" not in headers and b"transfer-encoding" not in headers
        if self._exchange is not None and self._exchange.handler is not None:
            self._exchange.answered = True
            self._exchange.handler.on_response(status, headers)

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._exchange is not None and self._exchange.answered:
            self._complete = True
            # Asked here: the parser forgets how the message was framed once it is complete.
            self._keep_alive = self._parser.should_keep_alive()

    def _end(self) -> None:
        exchange, self._exchange = self._exchange, None
        self.used = True
        if self._keep_alive:
            self._client.release(self)
        else:
            self.close()
        if exchange is not None:
            exchange.complete()
