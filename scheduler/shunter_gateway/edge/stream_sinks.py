"""The choices of a streamed answer: each turns what its request brings into events."""

from collections.abc import Callable
from typing import Protocol

from shunter_gateway.edge.render import ChoiceRenderer, json_encode, raw_event
from shunter_gateway.edge.watch import Watch
from shunter_gateway.request import ClientError, Delta, Outcome


class ChoiceStream(Protocol):
    """The client's stream, as its choices see it."""

    def send(self, data: bytes) -> None: ...
    def text_sender(self, before: bytes, after: bytes) -> Callable[[bytes], None]:
        """`send` of `before`, a text and `after` in one call, for speed."""

    def choice_done(self, outcome: Outcome, closing: bytes = b"") -> None: ...
    def fail(self, error: ClientError) -> None: ...


class ChoiceSink:
    """The end of one choice whose tokens the gateway holds (a `ClientSink`)."""

    __slots__ = ("_around", "_opened", "_prompt_ids", "_renderer", "_stream", "_watch")

    def __init__(
        self,
        stream: ChoiceStream,
        watch: Watch,
        renderer: ChoiceRenderer,
        prompt_ids: tuple[int, ...],
    ) -> None:
        self._stream = stream
        self._watch = watch
        self._renderer = renderer
        self._around = renderer.around_text
        self._prompt_ids = prompt_ids
        self._opened = False

    def on_assigned(self, instance: str, pool: str) -> None:
        self._watch.on_assigned(instance, pool)

    def on_delta(self, delta: Delta) -> None:
        if not self._opened:
            self._open()
        if self._around is None:
            if data := self._renderer.full(delta):
                self._stream.send(data)
        elif delta.text:  # the common case, without a call
            before, after = self._around
            self._stream.send(before + json_encode(delta.text) + after)

    def json_text_send(self) -> Callable[[bytes], None] | None:
        if self._around is None or not self._opened:
            return None
        return self._stream.text_sender(*self._around)

    def on_done(self, outcome: Outcome) -> None:
        if not self._opened:
            self._open()
        self._stream.choice_done(outcome, self._renderer.closing(outcome))

    def on_error(self, error: ClientError) -> None:
        self._stream.fail(error)

    def _open(self) -> None:
        self._opened = True
        self._watch.on_first_delta()
        if data := self._renderer.opening(self._prompt_ids):
            self._stream.send(data)


class RawSink:
    """The end of a stream whose events come ready from a text-level engine (a `ClientSink`)."""

    __slots__ = ("_stream", "_watch")

    def __init__(self, stream: ChoiceStream, watch: Watch) -> None:
        self._stream = stream
        self._watch = watch

    def on_assigned(self, instance: str, pool: str) -> None:
        self._watch.on_assigned(instance, pool)

    def on_delta(self, delta: Delta) -> None:
        self._watch.on_first_delta()
        self._stream.send(raw_event(delta.raw))

    def on_done(self, outcome: Outcome) -> None:
        self._stream.choice_done(outcome)

    def on_error(self, error: ClientError) -> None:
        self._stream.fail(error)
