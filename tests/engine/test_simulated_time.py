"""When the simulated engine's tokens come, in virtual time."""

import asyncio
import itertools
import selectors
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from shunter_api.accelerators import accelerator
from shunter_engine.backend import Sampling, SequenceRequest, TokenEvent
from shunter_engine.options import EngineOptions
from shunter_engine.simulated import SimulatedBackend
from shunter_engine.testing import simulated_parts
from shunter_scheduler.costmodel import cost_model, model_shape


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        super().__init__(JumpingSelector(self))

    def time(self) -> float:
        return self.now_s


class JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout:
            self._loop.now_s += timeout
        return super().select(0)


def in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


@dataclass
class Arrivals:
    """`SequenceSink` that notes when tokens come."""

    at_s: list[float] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def on_token(self, event: TokenEvent) -> None:
        self.at_s.append(asyncio.get_running_loop().time())
        if event.finish_reason is not None:
            self.ended.set()


def backend_at(speed: float) -> SimulatedBackend:
    backend = simulated_parts(EngineOptions(speed=speed)).backend
    assert isinstance(backend, SimulatedBackend)
    return backend


async def arrivals_of(backend: SimulatedBackend, tokens: int) -> list[float]:
    """Seconds from submit to each token of one sequence."""
    sink = Arrivals()
    start_s = asyncio.get_running_loop().time()
    sampling = Sampling(ignore_eos=True)
    backend.submit(SequenceRequest("r", tuple(range(100)), 0, tokens, 0, sampling), sink)
    async with asyncio.timeout(10_000):
        await sink.ended.wait()
    return [at_s - start_s for at_s in sink.at_s]


def predicted(tokens: int) -> list[float]:
    """Prefill, then one decode step a token."""
    cost = cost_model(model_shape("sim://llama-3.1-8b"), accelerator("h100-sxm-80gb"))
    at_s = [cost.prefill_s(100)]
    for token in range(1, tokens):
        at_s.append(at_s[-1] + cost.decode_step_s(1, 100 + token))
    return at_s


@pytest.mark.parametrize("speed", [0.5, 1.0, 100.0])
def test_tokens_come_when_the_cost_model_says_and_nothing_drifts(speed: float) -> None:
    """At 100x a step is shorter than the shortest sleep: waits add up instead."""

    async def main() -> None:
        backend = backend_at(speed)
        await backend.start()
        arrivals = await arrivals_of(backend, 300)
        await backend.stop()
        expected = [at_s / speed for at_s in predicted(300)]
        assert arrivals == pytest.approx(expected, abs=0.0011)

    in_virtual_time(main())


def test_late_wake_ups_are_made_up_for() -> None:
    async def main() -> None:
        backend = backend_at(1.0)
        await backend.start()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        def hold_up() -> None:
            loop.now_s += 0.1  # as another process might

        loop.call_later(0.2, hold_up)
        arrivals = await arrivals_of(backend, 200)
        await backend.stop()
        assert arrivals[-1] == pytest.approx(predicted(200)[-1], abs=0.0011)

    in_virtual_time(main())


def test_slow_stall_and_recovery() -> None:
    async def main() -> None:
        backend = backend_at(1.0)
        await backend.start()
        backend.slow(3)
        slow = await arrivals_of(backend, 50)
        assert slow == pytest.approx([3 * at_s for at_s in predicted(50)], abs=0.0011)
        backend.slow(1)
        backend.stall(30)
        stalled = await arrivals_of(backend, 50)
        assert stalled[0] == pytest.approx(30, abs=0.01)
        assert stalled[-1] - stalled[0] < 2 * predicted(50)[-1]
        await backend.stop()

    in_virtual_time(main())


def test_a_step_under_way_ends_sooner_when_the_engine_is_fast_again() -> None:
    async def main() -> None:
        backend = backend_at(1.0)
        await backend.start()
        backend.slow(1e6)
        asyncio.get_running_loop().call_later(20, backend.slow, 1)
        arrivals = await arrivals_of(backend, 5)
        assert arrivals[0] == pytest.approx(20, abs=0.01)
        assert arrivals[-1] < 21
        await backend.stop()

    in_virtual_time(main())


def test_an_idle_time_is_not_made_up_for() -> None:
    async def main() -> None:
        backend = backend_at(1.0)
        await backend.start()
        await arrivals_of(backend, 5)
        await asyncio.sleep(60)
        arrivals = await arrivals_of(backend, 5)
        await backend.stop()
        steps = [late - early for early, late in itertools.pairwise(arrivals)]
        assert min(steps) > 0.003

    in_virtual_time(main())


def test_what_breaks_the_step_loop_is_told() -> None:
    async def main() -> None:
        backend = backend_at(1.0)
        await backend.start()

        class Broken:
            def on_token(self, event: TokenEvent) -> None:
                raise RuntimeError("sink bug")

        backend.submit(SequenceRequest("r", (1, 2), 0, 5, 0, Sampling()), Broken())
        with pytest.raises(RuntimeError, match="sink bug"):
            await backend.failed()
        await backend.stop()

    in_virtual_time(main())
