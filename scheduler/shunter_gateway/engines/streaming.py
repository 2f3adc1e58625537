"""One streamed engine call: HTTP response -> events -> the adapter's decoder -> `TokenSink`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from shunter_gateway.engines.connection import Exchange, FaultReason
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.plain import PlainReads, PlainShape
from shunter_gateway.engines.sse import MAX_EVENT_BYTES, EventTooLong, SseSplitter
from shunter_gateway.ports import (
    EngineFailure,
    EngineRequest,
    FinishReason,
    PlainTokenSink,
    TokenChunk,
    TokenSink,
)

MAX_BODY_BYTES = 64 << 20
MAX_ERROR_BYTES = 64 << 10
_LESSONS = 8  # events that may turn out not to be plain before a stream counts as not plain
_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class EngineRefused(Exception):
    """A decoder's word that the engine gave the request up in mid-stream."""

    def __init__(self, failure: EngineFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class ChunkDecoder(Protocol):
    """An engine type's events. Both may raise `msgspec.DecodeError` and `EngineRefused`."""

    def event(self, data: bytes) -> TokenChunk | None: ...
    def body(self, data: bytes) -> TokenChunk | None:
        """A whole answer that came without streaming."""


def finish_reason(name: str) -> FinishReason:
    """Raises `EngineRefused` for reasons by which an engine gives up (`abort`, `error`, ...)."""
    known = _FINISH_REASONS.get(name)
    if known is None:
        raise EngineRefused(
            EngineFailure("engine_5xx", f"the engine ended the answer with {name[:64]!r}", True)
        )
    return known


def failure_of_status(status: int, headers: Mapping[bytes, bytes], body: bytes) -> EngineFailure:
    """What an HTTP status other than 200 means for the request."""
    message = f"the engine answered {status}"
    if status == 429:
        wait_s = _retry_after_s(headers)
        return EngineFailure("overloaded", message, True, status, body, wait_s)
    if status == 408:
        return EngineFailure("timeout", message, True, status, body)
    if 400 <= status < 500:
        return EngineFailure("client", message, False, status, body)
    if status >= 500:
        # 503 with a time to come back is overload; without, the engine may be broken.
        busy = status == 503 and b"retry-after" in headers
        reason: Literal["overloaded", "engine_5xx"] = "overloaded" if busy else "engine_5xx"
        return EngineFailure(reason, message, True, status, body, _retry_after_s(headers))
    return EngineFailure("protocol", message, True, status)


def _retry_after_s(headers: Mapping[bytes, bytes]) -> float:
    value = headers.get(b"retry-after", b"")
    return float(value) if value.isdigit() and len(value) < 6 else 0.0


class StreamCall:
    """A running engine call (`EngineCall`) and the handler of its response."""

    __slots__ = (
        "_body",
        "_decoder",
        "_exchange",
        "_finished",
        "_headers",
        "_learn",
        "_lessons",
        "_max_event_bytes",
        "_sink",
        "_splitter",
        "_status",
    )

    def __init__(
        self,
        decoder: ChunkDecoder,
        sink: TokenSink,
        learn: Callable[[bytes], PlainShape | None] | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        """`learn` where the engine's events may be plain."""
        self._decoder = decoder
        self._learn = learn
        self._lessons = _LESSONS
        self._max_event_bytes = max_event_bytes
        self._sink: TokenSink | None = sink
        self._exchange: Exchange | None = None
        self._splitter: SseSplitter | None = None
        self._status = 0
        self._headers: Mapping[bytes, bytes] = {}
        self._body = bytearray()
        self._finished = False

    def start(
        self,
        client: HttpClient,
        request: EngineRequest,
        path: str,
        body: bytes,
        first_byte_s: float = 0.0,
    ) -> None:
        """`first_byte_s` 0: the client's own limit."""
        self._exchange = client.post(
            request.address, path, body, self, request.trace_parent, first_byte_s
        )

    # ------------------------------------------------------------ EngineCall

    def abort(self) -> None:
        self._sink = None
        if self._exchange is not None:
            self._exchange.abort()

    def pause(self) -> None:
        if self._exchange is not None:
            self._exchange.pause()

    def resume(self) -> None:
        if self._exchange is not None:
            self._exchange.resume()

    # ------------------------------------------------------------ ResponseHandler

    def on_response(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status = status
        self._headers = headers
        if status == 200 and headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            self._splitter = SseSplitter(self._max_event_bytes)

    def on_body(self, data: bytes) -> None:
        if self._splitter is None:
            self._collect(data)
            return
        try:
            events = self._splitter.feed(data)
            self._take(events)
            if self._learn is not None and len(events) == 1:
                self._expect_like(events[0], self._learn, self._splitter)
        except EngineRefused as error:
            self._fail(error.failure)
        except (EventTooLong, msgspec.DecodeError) as error:
            self._fail(_protocol_failure(error))

    def _expect_like(
        self, event: bytes, learn: Callable[[bytes], PlainShape | None], splitter: SseSplitter
    ) -> None:
        """From here on reads like this one are taken without parser and decoder."""
        self._lessons -= 1
        if not self._lessons:
            self._learn = None
        sink, exchange = self._sink, self._exchange
        if exchange is None or self._finished or not isinstance(sink, PlainTokenSink):
            return
        take, shape = sink.plain_take(), learn(event)
        if take is not None and shape is not None:
            exchange.plain_read = PlainReads(shape, splitter, take).read
            self._learn = None

    def _take(self, events: Sequence[bytes]) -> None:
        """Neighbours that bring nothing but token ids become one chunk: what came in one read
        leaves in one write."""
        held: TokenChunk | None = None
        try:
            for event in events:
                if event == b"[DONE]" or (chunk := self._decoder.event(event)) is None:
                    continue
                if held is None:
                    held = chunk
                elif _plain(held) and _plain(chunk):
                    held.token_ids = [*held.token_ids, *chunk.token_ids]
                else:
                    self._give(held)
                    held = chunk
        finally:  # what came before a fault counts
            if held is not None:
                self._give(held)

    def _give(self, chunk: TokenChunk) -> None:
        if chunk.finish_reason is not None:
            self._finished = True
        if self._sink is not None:
            self._sink.on_chunk(chunk)

    def on_complete(self) -> None:
        if self._status != 200:
            self._fail(failure_of_status(self._status, self._headers, bytes(self._body)))
            return
        if self._splitter is None and not self._decode_body():
            return
        if self._finished:
            self._end()
        else:
            self._fail(EngineFailure("protocol", "the answer ended without a reason", True))

    def on_fault(self, reason: FaultReason, message: str) -> None:
        if self._finished:
            self._end()
        else:
            self._fail(EngineFailure(reason, message, True))

    # ------------------------------------------------------------ details

    def _collect(self, data: bytes) -> None:
        self._body += data
        if self._status != 200:
            del self._body[MAX_ERROR_BYTES:]
        elif len(self._body) > MAX_BODY_BYTES:
            self._fail(
                EngineFailure("protocol", f"the answer exceeds {MAX_BODY_BYTES} bytes", True)
            )

    def _decode_body(self) -> bool:
        try:
            chunk = self._decoder.body(bytes(self._body))
        except EngineRefused as error:
            self._fail(error.failure)
            return False
        except msgspec.DecodeError as error:
            self._fail(_protocol_failure(error))
            return False
        if chunk is not None and self._sink is not None:
            self._finished = chunk.finish_reason is not None
            self._sink.on_chunk(chunk)
        return True

    def _end(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.on_end()

    def _fail(self, failure: EngineFailure) -> None:
        sink = self._sink
        self.abort()
        if sink is not None:
            sink.on_failure(failure)


def _plain(chunk: TokenChunk) -> bool:
    return chunk == TokenChunk(chunk.token_ids)


def _protocol_failure(error: Exception) -> EngineFailure:
    # The type only: a decoder's message may quote the answer.
    return EngineFailure("protocol", f"unreadable answer: {type(error).__name__}", True)
