"""Moves one request after the other while others decode beside it, and writes down what it saw."""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
from moves_bytes import Counter, CountingMoves, CountingSlots
from moves_cells import (
    ENGINES,
    NEIGHBOUR_PROMPT_TOKENS,
    Cell,
    Engine,
)

from moving_gateway import Changes, MovingGateway, MovingSink, gateway_of
from shunter_gateway.lifecycle_ports import LifecycleLimits
from shunter_gateway.request import ClientError, Delta, Outcome, RequestHandle, RequestSpec
from shunter_proto.v1 import scheduler_pb2 as pb

MOVE_AT = 40  # generated tokens
LONGEST_S = 300.0  # of one answer, on a crowded machine
SETTLED_AT = 4  # the prompt's own steps are over
VOCABULARY = (3, 259)  # of ids that prompts are made of: each engine has these


class Row(msgspec.Struct):
    """One move. Gaps are between tokens as the client gets them."""

    engine: str
    rung: str
    context: int
    number: int
    moved: bool
    reason: str
    step_s: float  # median gap before the move
    longest_s: float  # longest gap from the command on
    kv_bytes: int
    equal: bool  # with the same request undisturbed
    neighbours_before: tuple[int, float]  # gaps, and seconds together
    neighbours_during: tuple[int, float]
    load: float = 0.0  # of the machine, average of a minute; 0: not written down

    @property
    def stall_s(self) -> float:
        return self.longest_s - self.step_s


class TimedSink(MovingSink):
    def __init__(self) -> None:
        super().__init__()
        self.at_s: list[float] = []
        self.switched_s = 0.0
        self.news = asyncio.Event()

    def on_assigned(self, instance: str, pool: str) -> None:
        super().on_assigned(instance, pool)
        self.switched_s = time.perf_counter()

    def on_delta(self, delta: Delta) -> None:
        super().on_delta(delta)
        self.at_s += [time.perf_counter()] * len(delta.token_ids)
        self.news.set()

    def on_done(self, outcome: Outcome) -> None:
        super().on_done(outcome)
        self.news.set()

    def on_error(self, error: ClientError) -> None:
        super().on_error(error)
        self.news.set()

    async def reached(self, tokens: int) -> None:
        async with asyncio.timeout(LONGEST_S):
            while len(self.at_s) < tokens and not self.end.is_set():
                self.news.clear()
                await self.news.wait()

    async def done(self) -> None:
        async with asyncio.timeout(LONGEST_S):
            await self.end.wait()
        assert self.outcome is not None, self.error

    def gaps(self, begin_s: float, end_s: float) -> list[float]:
        """Between tokens of which the later came in this time."""
        return [
            later - earlier
            for earlier, later in zip(self.at_s, self.at_s[1:], strict=False)
            if begin_s < later <= end_s
        ]


@dataclass
class Bench:
    gateway: MovingGateway
    engine: Engine
    counter: Counter
    rng: np.random.Generator
    serial: int = 0
    neighbours: list[TimedSink] = field(default_factory=list)

    def prompt(self, tokens: int) -> tuple[int, ...]:
        """Such as no cache knows."""
        return tuple(int(i) for i in self.rng.integers(*VOCABULARY, tokens))

    def submit(self, prompt: tuple[int, ...], tokens: int) -> tuple[str, TimedSink, RequestHandle]:
        self.serial += 1
        name, sink = f"b{self.serial}", TimedSink()
        spec = RequestSpec(
            request_id=f"{self.gateway.run}-{name}",
            model="chat",
            tenant="",
            path="/v1/completions",
            body=b"",
            prompt_token_ids=prompt,
            prompt_tokens=len(prompt),
            block_hashes=b"",
            max_tokens=tokens,
            sampling=self.engine.sampling,
        )
        return name, sink, self.gateway.dispatcher.submit(spec, sink)

    def warm_up(self, wanted: bool) -> None:
        """Before replays."""
        for adapter in self.gateway.adapters.values():
            adapter.capabilities = replace(adapter.capabilities, prefix_caching=wanted)

    def gaps(self, begin_s: float, end_s: float) -> tuple[int, float]:
        found = [gap for sink in self.neighbours for gap in sink.gaps(begin_s, end_s)]
        return len(found), sum(found)

    async def neighbour(self, index: int) -> None:
        """One stream after the other."""
        while True:
            _, sink, _ = self.submit(self.prompt(NEIGHBOUR_PROMPT_TOKENS), 2000)
            self.neighbours[index] = sink
            await sink.end.wait()


async def run_cells(
    wanted: Sequence[Cell],
    moves: int,
    results: Path,
    folder: Path,
    tell: Callable[[Cell, int, int], None],
    calm: float = math.inf,
) -> None:
    """Rungs take turns, so that what else the machine does hits them alike. What was measured under
    a load above `calm` is measured again."""
    rows = [row for row in read_rows(results) if row.load <= calm]
    done = {(r.engine, r.rung, r.context, r.number) for r in rows}
    for engine, group in groupby(wanted, lambda c: c.engine):
        cells = list(group)
        contexts = sorted({cell.context for cell in cells})
        todo = [
            (cell, number)
            for context in contexts
            for number in range(moves)
            for cell in cells
            if cell.context == context
            and (cell.engine, cell.rung, cell.context, number) not in done
        ]
        if not todo:
            continue
        async with _bench(engine, folder) as bench:
            for cell, number in todo:
                row = await _move(bench, cell, number)
                with results.open("ab") as file:
                    file.write(msgspec.json.encode(row) + b"\n")
                tell(cell, number + 1, moves)


def read_rows(results: Path) -> list[Row]:
    """The last of each move."""
    lines = results.read_bytes().splitlines() if results.exists() else []
    rows = [msgspec.json.decode(line, type=Row) for line in lines]
    return list({(r.engine, r.rung, r.context, r.number): r for r in rows}.values())


@asynccontextmanager
async def _bench(engine: str, folder: Path) -> AsyncIterator[Bench]:
    counter = Counter()
    changes = Changes(
        around=partial(CountingMoves, counter),
        limits=LifecycleLimits(),
        slots=partial(CountingSlots, counter, folder / "slots"),
    )
    kind = ENGINES[engine]
    starting = kind.start(folder)
    engines, topology = await asyncio.to_thread(starting.__enter__)
    try:
        async with gateway_of(engines, topology, changes) as gateway:
            bench = Bench(gateway, kind, counter, np.random.default_rng())
            bench.neighbours = [TimedSink() for _ in range(2 * kind.neighbours)]
            streams = [
                asyncio.create_task(bench.neighbour(i)) for i in range(len(bench.neighbours))
            ]
            try:
                yield bench
            finally:
                for stream in streams:
                    stream.cancel()
                await asyncio.gather(*streams, return_exceptions=True)
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


async def _move(bench: Bench, cell: Cell, number: int) -> Row:
    engine = bench.engine
    prompt = bench.prompt(cell.context)
    name, sink, handle = bench.submit(prompt, engine.answer_tokens)
    await sink.reached(MOVE_AT)
    bench.counter.bytes = 0
    bench.warm_up(cell.rung != "recompute")
    told_s = time.perf_counter()
    reports = len(bench.gateway.reports())
    bench.gateway.move(name, bench.gateway.other(sink), "kv" if cell.rung == "kv" else "replay")
    await _enough(sink, handle, told_s, engine.enough_after)
    ended_s = time.perf_counter()
    switched_s = sink.switched_s if sink.switched_s > told_s else ended_s
    # None where the answer had ended before the command: a starved machine.
    report = (bench.gateway.reports()[reports:] or [pb.MoveDone(reason="finished")])[0]
    _, undisturbed, _ = bench.submit(prompt, len(sink.at_s))
    await undisturbed.done()
    expected = "kv" if cell.rung == "kv" else "replay"
    return Row(
        engine=cell.engine,
        rung=cell.rung,
        context=cell.context,
        number=number,
        moved=report.moved and report.rung == expected,
        reason=report.reason,
        step_s=float(np.median(sink.gaps(0, told_s))),
        longest_s=max(sink.gaps(told_s, ended_s), default=0.0),
        kv_bytes=bench.counter.bytes,
        equal=sink.token_ids == undisturbed.token_ids,
        neighbours_before=bench.gaps(sink.at_s[SETTLED_AT], told_s),
        neighbours_during=bench.gaps(told_s, switched_s),
        load=os.getloadavg()[0],
    )


async def _enough(sink: TimedSink, handle: RequestHandle, told_s: float, after: int | None) -> None:
    """Until the answer's end, or until so many tokens have come since the switch."""
    if after is None:
        await sink.done()
        return
    while sink.switched_s < told_s and not sink.end.is_set():
        await sink.reached(len(sink.at_s) + 1)
    await sink.reached(len(sink.at_s) + after)
    if not sink.end.is_set():
        handle.cancel()
        sink.end.set()
