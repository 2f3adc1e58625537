"""Fakes of what moves need: a clock, a backend without a model, calls, a source."""

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

import numpy as np

from shunter_engine.backend import SequenceRequest, SequenceSink
from shunter_engine.between_steps import BetweenSteps
from shunter_engine.moves.layout import KvLayout, Part
from shunter_engine.moves.ports import Connect, Source
from shunter_engine.simulated_kv import SimulatedKv
from shunter_proto.v1 import moves_pb2 as pb
from shunter_simulator.engine import EngineConfig, MovableBatch
from shunter_simulator.engine.testing import step

T = TypeVar("T")


class FakeClock:
    """`Clock` whose time passes by `pass_s`."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._serial = count()
        self._due: list[tuple[float, int, _FakeTimer]] = []

    def time(self) -> float:
        return self._now_s

    def call_later(self, delay: float, callback: Callable[[], object], /) -> "_FakeTimer":
        timer = _FakeTimer(callback)
        heapq.heappush(self._due, (self._now_s + delay, next(self._serial), timer))
        return timer

    def pass_s(self, seconds: float) -> None:
        until_s = self._now_s + seconds
        while self._due and self._due[0][0] <= until_s:
            self._now_s, _, timer = heapq.heappop(self._due)
            if not timer.cancelled:
                timer.callback()
        self._now_s = until_s

    @property
    def waiting(self) -> int:
        return sum(1 for _, _, timer in self._due if not timer.cancelled)


@dataclass
class _FakeTimer:
    callback: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class BatchHost:
    """`KvHost` over a batch scheduler alone; `SimulatedKv` stands in for its memory. Idle, it does
    at once what is to be done between steps; while it is `computing`, at the end of a step."""

    def __init__(self, config: EngineConfig) -> None:
        self._batch = MovableBatch(config)
        self._kv = SimulatedKv(config.kv_blocks, config.block_tokens)
        self._between = BetweenSteps(self._look)
        self.computing = False
        self.adopted: dict[str, list[int]] = {}  # what lay in the blocks, by request id

    @property
    def batch(self) -> MovableBatch:
        return self._batch

    def layout(self, tokenizer_digest: str) -> KvLayout:
        return KvLayout("w", tokenizer_digest, "uint32", self._batch.config.block_tokens, 1, 1, 1)

    async def between_steps(self, action: Callable[[], T]) -> T:
        return await self._between.do(action)

    def _look(self) -> None:
        if not self.computing:
            asyncio.get_running_loop().call_soon(self._between.run)

    async def carry(self, tokens: int) -> None:
        pass

    def read_kv(self, block_table: Sequence[int], token_ids: Sequence[int], part: Part) -> bytes:
        return self._kv.read(token_ids, part)

    def write_kv(self, block_table: Sequence[int], part: Part, data: bytes) -> None:
        self._kv.write(block_table, part, data)

    def adopt(self, reservation: str, request: SequenceRequest, sink: SequenceSink) -> None:
        held = self._batch.reservation(reservation)
        assert held is not None
        cached, end = held.cached_tokens, len(request.token_ids) - 1
        brought = self._kv.ids(held.block_table, cached, end)
        self._batch.adopt(reservation, request.spec())
        self.adopted[request.request_id] = [*request.token_ids[:cached], *brought]

    def wake(self) -> None:
        pass

    def steps(self, number: int) -> None:
        self.computing = False
        for _ in range(number):
            step(self._batch)
            self._between.run()


@dataclass
class FakeCalls:
    """`Calls`: each call id names a sequence of the same name, while it is in the batch."""

    batch: MovableBatch
    ended: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    on_end: Callable[[str], None] = lambda _: None

    def watch(self, on_end: Callable[[str], None]) -> None:
        self.on_end = on_end

    def sequences_of(self, call_id: str) -> Sequence[str]:
        return [call_id] if self.batch.view(call_id) is not None else []

    def end_call(self, call_id: str) -> None:
        self.ended.append(call_id)
        self.leave(call_id)

    def break_call(self, call_id: str) -> None:
        self.broken.append(call_id)
        self.leave(call_id)

    def leave(self, call_id: str) -> None:
        """Its client has gone."""
        self.batch.abort(call_id)
        self.on_end(call_id)


class ScriptedSource:
    """`Source` that sends what it is told."""

    def __init__(self, *chunks: pb.KvChunk) -> None:
        self._chunks = chunks

    async def export(self, request: pb.ExportRequest) -> AsyncGenerator[pb.KvChunk, None]:
        for chunk in self._chunks:
            yield chunk


def connects_to(source: Source) -> Connect:
    @asynccontextmanager
    async def connect(address: str) -> AsyncIterator[Source]:
        yield source

    return connect


def kv_chunk(first: int, token_ids: Sequence[int]) -> pb.KvChunk:
    """As `BatchHost.read_kv` writes it; without its checksum."""
    positions = range(first, first + len(token_ids))
    data = np.array([token_ids, positions], "<u4").tobytes()
    return pb.KvChunk(first_token=first, tokens=len(token_ids), first_layer=0, layers=1, data=data)
