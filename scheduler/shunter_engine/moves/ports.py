"""What moves need: a KV cache, the calls that run, a clock, and the engine to fetch from."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar, runtime_checkable

from shunter_engine.backend import SequenceRequest, SequenceSink
from shunter_engine.moves.layout import KvLayout, Part
from shunter_proto.v1 import moves_pb2 as pb
from shunter_simulator.engine import MovableBatch

T = TypeVar("T")


@runtime_checkable
class KvHost(Protocol):
    """A backend whose sequences can move. Everything is called on the event loop."""

    @property
    def batch(self) -> MovableBatch: ...

    def layout(self, tokenizer_digest: str) -> KvLayout: ...

    async def between_steps(self, action: Callable[[], T]) -> T:
        """Does it when no step is in flight and its tokens are handed out. Raises what it raises,
        and `RuntimeError` where the backend has stopped."""

    async def carry(self, tokens: int) -> None:
        """Returns when the KV of so many tokens may have left by the link; a real link waits by
        itself."""

    def read_kv(self, block_table: Sequence[int], token_ids: Sequence[int], part: Part) -> bytes:
        """A computed part of a sequence, as `KvChunk.data` has it."""

    def write_kv(self, block_table: Sequence[int], part: Part, data: bytes) -> None:
        """`data` has the size that `part` has in the layout."""

    def adopt(self, reservation: str, request: SequenceRequest, sink: SequenceSink) -> None:
        """Goes on with a sequence that was written into a reservation of `batch`. Raises as
        `MovableBatch.adopt`."""

    def wake(self) -> None:
        """Memory or a sequence has come back: look again for work."""


class Calls(Protocol):
    """The generate calls that run here."""

    def sequences_of(self, call_id: str) -> Sequence[str]:
        """The backend's names of a call's unfinished sequences; empty: no such call."""

    def watch(self, on_end: Callable[[str], None]) -> None:
        """`on_end` hears the id of each call that has ended or whose client has gone, once its
        memory is free."""

    def end_call(self, call_id: str) -> None:
        """Frees it; the answer ends with `abort`."""

    def break_call(self, call_id: str) -> None:
        """Frees it; the connection breaks."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """An event loop is one."""

    def time(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer: ...


class Source(Protocol):
    """The engine that a sequence comes from."""

    def export(self, request: pb.ExportRequest) -> AsyncGenerator[pb.KvChunk, None]:
        """Raises `SourceLost`."""


class SourceLost(Exception):
    """The source cannot be reached, or has gone in mid-transfer."""


Connect = Callable[[str], AbstractAsyncContextManager[Source]]
