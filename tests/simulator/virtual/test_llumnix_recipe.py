"""Virtual engines reproduce a simulation of Llumnix (Sun et al., OSDI 2024) that was fitted to the
paper's figure 11: its trace L-L at 2.8 requests a second on 16 engines.

The dispatch and the moves here are the artifact's rules in their shortest form, so that this test
depends on engines alone; the core's policies are compared with it by the benchmarks.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np
import pytest

from shunter_simulator.virtual import (
    LLAMA_7B_A10,
    EngineObservation,
    EngineShape,
    Export,
    VirtualEngine,
    VirtualSequence,
)
from shunter_simulator.workloads.llumnix import LlumnixTrace

BLOCKS, BLOCK_TOKENS, ENGINES = 815, 16, 16
SHAPE = EngineShape(
    LLAMA_7B_A10, BLOCKS, max_batch_tokens=12_800, batching="prefill-first", copy_slow_down=0.0
)
BLOCK_COPY_S = 8e6 / 2.5e9
DOWNTIME_S, PAIRING_S, FREENESS = 0.02, 0.2, 3.0


class Cluster:
    """Engines, a queue of what will happen, and what became of the requests."""

    def __init__(self, *, moves: bool) -> None:
        self.trace = LlumnixTrace("L", "L", 10_000, 2.8).draw()
        self.engines = [VirtualEngine(SHAPE) for _ in range(ENGINES)]
        self.ends = np.full(len(self.trace), np.nan)
        self.moved = 0
        self._decoding: list[dict[str, None]] = [{} for _ in range(ENGINES)]  # in order
        self._looks = [0] * ENGINES
        self._moving: set[int] = set()
        self._now = 0.0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = count()
        self._left = len(self.trace)
        self._at(0.0, self._arrive, 0)
        if moves:
            self._at(PAIRING_S, self._pair)

    def run(self) -> None:
        while self._left:
            self._now, _, action, arguments = heappop(self._queue)
            action(*arguments)

    @property
    def preemption_loss_s(self) -> float:
        """Per request."""
        total = sum(e.stats(self._now).preemption_loss_s for e in self.engines)
        return total / len(self.trace)

    @property
    def e2e_s(self) -> float:
        return float(np.mean(self.ends - [arrival.at_s for arrival in self.trace]))

    def _at(self, at_s: float, action: Callable[..., None], *arguments: Any) -> None:
        heappush(self._queue, (at_s, next(self._serial), action, arguments))

    def _arrive(self, number: int) -> None:
        arrival = self.trace[number]
        load = [_load(seen, seen.waiting) for seen in self._seen()]
        at = load.index(min(load))
        name, prompt, output = str(number), arrival.prompt_tokens, arrival.output_tokens
        self.engines[at].add(VirtualSequence(name, prompt, output), self._now)
        self._look_again(at)
        if number + 1 < len(self.trace):
            self._at(self.trace[number + 1].at_s, self._arrive, number + 1)

    def _seen(self) -> list[EngineObservation]:
        for at in range(ENGINES):
            self._hear(at)
        return [engine.stats(self._now) for engine in self.engines]

    def _hear(self, at: int) -> None:
        decoding = self._decoding[at]
        for event in self.engines[at].advance(self._now):
            if event.kind in ("first_token", "resumed"):
                decoding[event.request_id] = None
                continue
            decoding.pop(event.request_id, None)
            if event.kind == "finished":
                self.ends[int(event.request_id)] = event.at_s
                self._left -= 1

    def _look_again(self, at: int) -> None:
        self._looks[at] += 1
        next_at = self.engines[at].next_at(self._now)
        if next_at is not None:
            self._at(next_at, self._look, at, self._looks[at])

    def _look(self, at: int, looks: int) -> None:
        if looks == self._looks[at]:
            self._hear(at)
            self._look_again(at)

    def _pair(self) -> None:
        seen = self._seen()
        load = [_load(s, s.waiting > 0) for s in seen]
        order = sorted(range(ENGINES), key=lambda at: -load[at])
        sources = [at for at in order if load[at] > -FREENESS]
        destinations = [at for at in reversed(order) if load[at] < -FREENESS]
        for source, destination in zip(sources, destinations, strict=False):
            if self._moving.isdisjoint((source, destination)) and not seen[destination].waiting:
                self._begin(source, destination)
        self._at(self._now + PAIRING_S, self._pair)

    def _begin(self, source: int, destination: int) -> None:
        name = next(reversed(self._decoding[source]), None)
        if name is None:
            return
        produced = self.engines[source].produced(name, self._now)
        tokens = self.trace[int(name)].prompt_tokens + produced
        if self.engines[destination].reserve(name, tokens + 3 * BLOCK_TOKENS, self._now):
            self._moving |= {source, destination}
            self._look_again(destination)
            copied_at = self._now + -(-tokens // BLOCK_TOKENS) * BLOCK_COPY_S
            self._at(copied_at, self._stop, name, source, destination)

    def _stop(self, name: str, source: int, destination: int) -> None:
        self._hear(source)
        export = self.engines[source].export(name, self._now)
        self._look_again(source)
        if export is not None:
            self._at(export.at_s + DOWNTIME_S, self._commit, name, source, destination, export)
            return
        self.engines[destination].unreserve(name, self._now)
        self._moving -= {source, destination}

    def _commit(self, name: str, source: int, destination: int, export: Export) -> None:
        self._hear(source)
        self.engines[source].release(name, self._now)
        self._decoding[source].pop(name, None)
        arrival = self.trace[int(name)]
        sequence = VirtualSequence(
            name,
            arrival.prompt_tokens,
            arrival.output_tokens,
            export.produced,
            export.context_tokens,
        )
        self.engines[destination].add(sequence, self._now)
        self._look_again(source)
        self._look_again(destination)
        self._moving -= {source, destination}
        self.moved += 1


def _load(seen: EngineObservation, waiting: float) -> float:
    """The negative of the freeness, in blocks per request."""
    requests = seen.running + waiting
    if not requests:
        return -np.inf
    free = seen.total_blocks - seen.used_blocks - SHAPE.watermark_blocks
    return -(free - seen.waiting_tokens / BLOCK_TOKENS) / requests


@pytest.mark.parametrize(
    ("moves", "e2e_s", "loss_s"), [(False, 27.8, 0.86), (True, 26.5, 0.01)], ids=["stay", "move"]
)
def test_the_published_means_come_out(moves: bool, e2e_s: float, loss_s: float) -> None:
    cluster = Cluster(moves=moves)
    cluster.run()

    assert cluster.e2e_s == pytest.approx(e2e_s, rel=0.03)
    assert cluster.preemption_loss_s == pytest.approx(loss_s, rel=0.2, abs=0.01)
    assert (cluster.moved > 0) is moves
