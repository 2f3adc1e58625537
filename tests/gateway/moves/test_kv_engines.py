"""Rung `kv` between real engine processes: answers go on as if nothing had happened."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from forked_engines import ForkedEngine, forked_engines
from moving_gateway import Changes, MovingGateway, gateway_over, numpy_options, simulated_options
from shunter_engine.options import EngineOptions
from shunter_gateway.ports import SamplingParams
from unhurried import PATIENT, slowed


@dataclass(frozen=True, slots=True)
class Engines:
    options: EngineOptions
    by_name: dict[str, ForkedEngine]

    def slowed(self) -> AbstractContextManager[None]:
        """No answer ends before its move. NumPy engines compute: a busy machine slows them."""
        simulated = self.options.backend == "simulated"
        return slowed(self.by_name if simulated else {}, 10.0)


@pytest.fixture(scope="module", params=["numpy", "simulated"])
def engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engines]:
    folder = tmp_path_factory.mktemp("engines")
    simulated = replace(simulated_options(), allow_faults=True)
    options = numpy_options(folder) if request.param == "numpy" else simulated
    with forked_engines(folder, {"a": options, "b": options}) as by_name:
        yield Engines(options, by_name)


@pytest.fixture
async def gateway(engines: Engines) -> AsyncIterator[MovingGateway]:
    async with gateway_over(engines.by_name, engines.options, Changes(limits=PATIENT)) as made:
        yield made
        await made.settled()


async def test_moved_in_mid_answer_equals_the_undisturbed_run(
    engines: Engines, gateway: MovingGateway
) -> None:
    _, undisturbed = gateway.submit("r0")
    await undisturbed.finished()
    with engines.slowed():
        _, sink = gateway.submit("r1")
        await sink.has(10)
        gateway.move("r1", gateway.other(sink))
        await sink.until(lambda _: len(gateway.reports()) == 1)
    outcome = await sink.finished()
    (report,) = gateway.reports()
    assert (report.moved, report.rung, report.reason) == (True, "kv", "")
    assert (sink.token_ids, sink.text) == (undisturbed.token_ids, undisturbed.text)
    assert (outcome.output_tokens, outcome.finish_reason) == (300, "length")


async def test_back_and_forth_with_seeded_sampling_and_logprobs(
    engines: Engines, gateway: MovingGateway
) -> None:
    sampling = SamplingParams(
        temperature=1.0, seed=5, presence_penalty=0.5, ignore_eos=True, logprobs=2
    )
    _, undisturbed = gateway.submit("r0", 500, sampling=sampling)
    await undisturbed.finished()
    with engines.slowed():
        _, sink = gateway.submit("r1", 500, sampling=sampling)
        for move in range(1, 4):
            await sink.has(len(sink.token_ids) + 10)
            gateway.move("r1", gateway.other(sink))
            await sink.until(lambda _, n=move: len(gateway.reports()) == n)  # type: ignore[misc]
    await sink.finished()
    told = [(r.moved, r.rung, r.reason) for r in gateway.reports()]
    assert told == [(True, "kv", "")] * 3
    assert len(sink.assigned) == 4 and sink.token_ids == undisturbed.token_ids
    assert [d.logprobs for d in sink.deltas] == [d.logprobs for d in undisturbed.deltas]


async def test_many_streams_change_places(engines: Engines, gateway: MovingGateway) -> None:
    """Neighbours go on decoding, and as many moves as an engine allows run at one time."""
    prompts = [(*gateway.prompt, 10 + number) for number in range(8)]
    undisturbed = [gateway.submit(f"u{n}", prompt=p)[1] for n, p in enumerate(prompts)]
    for sink in undisturbed:
        await sink.finished()
    told = 0
    for turn in range(8):  # on a busy machine all may have ended before they were told to move
        sinks = [gateway.submit(f"r{turn}.{n}", prompt=p)[1] for n, p in enumerate(prompts)]
        with engines.slowed():
            for number, sink in enumerate(sinks):
                await sink.has(10)
                told += gateway.move(f"r{turn}.{number}", gateway.other(sink))
            while len(gateway.reports()) < told:
                await asyncio.sleep(0.01)
        for sink in sinks:
            await sink.finished()
        assert [s.token_ids for s in sinks] == [s.token_ids for s in undisturbed]
        assert [s.text for s in sinks] == [s.text for s in undisturbed]
        if any(r.moved and r.rung == "kv" for r in gateway.reports()):
            return
    raise AssertionError(f"none of {told} moves went by kv")


async def test_an_engine_whose_kv_cache_looks_otherwise_is_replayed(tmp_path: Path) -> None:
    options = numpy_options(tmp_path)
    both = {"a": options, "b": replace(options, block_tokens=32)}
    with forked_engines(tmp_path, both) as engines:
        async with gateway_over(engines, options) as gateway:
            _, sink = gateway.submit("r0")
            await sink.has(40)
            gateway.move("r0", gateway.other(sink))
            await sink.finished()
            (report,) = gateway.reports()
            assert (report.moved, report.rung, report.reason) == (True, "replay", "other_layout")
            await gateway.settled()
