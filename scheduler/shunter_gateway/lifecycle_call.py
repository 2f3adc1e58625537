"""The engine call of a request's present owner."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from shunter_gateway.lifecycle_plain import PlainOwner, PlainTokens, plain_tokens
from shunter_gateway.lifecycle_spans import Attributes, Spans, Stage
from shunter_gateway.ports import (
    EngineAdapter,
    EngineCall,
    EngineFailure,
    EngineRequest,
    TokenChunk,
)
from shunter_gateway.request import ClientSink


class CallOwner(PlainOwner, Protocol):
    """The request, as its engine call sees it."""

    def on_chunk(self, epoch: int, chunk: TokenChunk) -> None: ...
    def on_engine_end(self) -> None: ...
    def on_engine_failure(self, failure: EngineFailure) -> None: ...


class _EpochSink:
    """The `TokenSink` of one epoch: what comes after another took over is dropped."""

    __slots__ = ("_client", "_epoch", "_owner", "_plain", "_time", "on_chunk")

    def __init__(
        self, owner: CallOwner, epoch: int, client: ClientSink, time: Callable[[], float]
    ) -> None:
        self._owner = owner
        self._client = client
        self._time = time
        self._epoch = epoch
        self.on_chunk = partial(owner.on_chunk, epoch)  # without a call of its own, for speed
        self._plain: PlainTokens | None = None

    def rename(self, epoch: int) -> None:
        """The same owner goes on under another epoch."""
        self._epoch = epoch
        self.on_chunk = partial(self._owner.on_chunk, epoch)
        if self._plain is not None:
            self._plain.epoch = epoch

    def plain_take(self) -> Callable[[bytes], bool] | None:
        self._plain = plain_tokens(self._owner, self._epoch, self._client, self._time)
        return self._plain.take if self._plain is not None else None

    def on_end(self) -> None:
        if self._owner.answer.journal.owned_by(self._epoch):
            self._owner.on_engine_end()

    def on_failure(self, failure: EngineFailure) -> None:
        if self._owner.answer.journal.owned_by(self._epoch):
            self._owner.on_engine_failure(failure)


class OwnerCall:
    """At most one call at a time, with its span; a client's pause outlives the call."""

    __slots__ = (
        "_call",
        "_client",
        "_owner",
        "_paused",
        "_sink",
        "_spans",
        "_stage",
        "_time",
        "_tokens_before",
        "call_id",
        "seed",
    )

    def __init__(
        self, owner: CallOwner, client: ClientSink, spans: Spans, time: Callable[[], float]
    ) -> None:
        self._client = client
        self._time = time
        self._owner = owner
        self._spans = spans
        self._stage = Stage(None)
        self._call: EngineCall | None = None
        self._sink: _EpochSink | None = None
        self._paused = False
        self._tokens_before = 0
        self.call_id = ""  # the call's name at the engine
        self.seed: int | None = None  # that it was given

    def start(
        self,
        adapter: EngineAdapter,
        instance: str,
        trace_parent: str,
        request: Callable[[str], EngineRequest],
    ) -> None:
        """`request` makes the call from the traceparent of its span."""
        answer = self._owner.answer
        answer.begin_call()
        self._tokens_before = answer.output_tokens
        epoch = answer.journal.epoch
        attributes: Attributes = {"shunter.instance": instance, "shunter.epoch": epoch}
        self._stage = self._spans.begin("engine.generate", trace_parent, attributes)
        made = request(self._stage.trace_parent(trace_parent))
        self.call_id, self.seed = made.call_id, made.sampling.seed
        self._sink = _EpochSink(self._owner, epoch, self._client, self._time)
        self._call = adapter.start(made, self._sink)
        if self._paused:
            self._call.pause()

    @property
    def paused(self) -> bool:
        """The client is slower than the engine, which is not read."""
        return self._paused

    @property
    def brought_tokens(self) -> bool:
        """The present call has added to the answer."""
        return self._owner.answer.output_tokens > self._tokens_before

    def pause(self) -> None:
        self._paused = True
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        self._paused = False
        if self._call is not None:
            self._call.resume()

    def rename(self, epoch: int) -> None:
        """The same call goes on under another epoch."""
        if self._sink is not None:
            self._sink.rename(epoch)

    def end(self, error: str = "") -> None:
        """Ends the engine's work and the span."""
        self._stage.end({"shunter.output_tokens": self._owner.answer.output_tokens}, error)
        call, self._call = self._call, None
        if call is not None:
            call.abort()
