"""Rung `kv` while something dies or leaves: no stream notices, nothing leaks."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from engine_moves_probes import Probe
from forked_engines import ForkedEngine, forked_engines
from moving_gateway import Changes, MovingGateway, MovingSink, gateway_over, simulated_options
from shunter_gateway.dispatcher_retries import RetryBudget
from unhurried import PATIENT, slowed

TOKENS = 400
SLOWLY = 50.0  # as long as something is to happen in the midst of an answer
SIMULATED = replace(simulated_options(), speed=10.0, allow_faults=True)
Engines = dict[str, ForkedEngine]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Two engines that no test kills."""
    folder = tmp_path_factory.mktemp("simulated")
    with forked_engines(folder, {"a": SIMULATED, "b": SIMULATED}) as engines:
        yield engines


@asynccontextmanager
async def probed(
    engines: Engines, at: str, act: Callable[[MovingGateway], None]
) -> AsyncIterator[MovingGateway]:
    """`act` runs at that point of the first move."""
    gateways: list[MovingGateway] = []
    changes = Changes(
        around=lambda moves: Probe(moves, at, lambda: act(gateways[0])), limits=PATIENT
    )
    async with gateway_over(engines, SIMULATED, changes) as gateway:
        gateways.append(gateway)
        yield gateway
        await gateway.settled()


async def undisturbed(gateway: MovingGateway) -> list[int]:
    _, sink = gateway.submit("undisturbed", TOKENS)
    await sink.finished()
    return sink.token_ids


POINTS = ["Prepare answered", "stage 1", "Freeze answered", "Commit answered"]
# Before it hears of a call, once it has obeyed but nobody knows, and once that is known.
DEATHS = {
    "Offer": ["Offer unheard"],
    "Prepare": ["Prepare unheard"],
    "Transfer": ["stage 1"],
    "Freeze": ["Freeze sent", "Freeze unheard", "Freeze answered"],
    "Commit": ["Commit sent", "Commit unheard"],
    "Release": ["Release sent"],
}


@pytest.mark.parametrize("at", [point for points in DEATHS.values() for point in points])
@pytest.mark.parametrize("victim", ["source", "destination"])
async def test_an_engine_is_killed(tmp_path: Path, at: str, victim: str) -> None:
    sinks: list[MovingSink] = []

    def kill(gateway: MovingGateway) -> None:
        source, destination = sinks[0].assigned[0], gateway.other(sinks[0])
        if len(sinks[0].assigned) == 2:
            destination = sinks[0].assigned[1]
        gateway.engines[source if victim == "source" else destination].kill()
        gateway.engines[destination if victim == "source" else source].fault("clear")

    with forked_engines(tmp_path, {"a": SIMULATED, "b": SIMULATED}) as engines:
        async with probed(engines, at, kill) as gateway:
            with slowed(engines, SLOWLY):
                sinks.append(gateway.submit("r", TOKENS)[1])
                await sinks[0].has(3)
                gateway.move("r", gateway.other(sinks[0]))
                outcome = await sinks[0].finished()
            assert sum(engine.alive for engine in engines.values()) == 1
            assert (outcome.output_tokens, outcome.finish_reason) == (TOKENS, "length")
            assert len(gateway.reports()) == 1
            assert sinks[0].token_ids == await undisturbed(gateway)


@pytest.mark.parametrize("at", [*POINTS, "Release sent"])
async def test_the_client_leaves(simulated: Engines, at: str) -> None:
    leave: list[Callable[[], None]] = []
    async with probed(simulated, at, lambda _: leave[0]()) as gateway:
        with slowed(simulated, SLOWLY):
            handle, sink = gateway.submit("r", TOKENS)
            leave.append(handle.cancel)
            await sink.has(3)
            gateway.move("r", gateway.other(sink))
            async with asyncio.timeout(30):
                while gateway.dispatcher.in_flight:
                    await asyncio.sleep(0.01)
        (report,) = gateway.reports()
        assert report.moved == (at == "Release sent") and not sink.ended


async def test_a_second_order_does_not_touch_the_move_under_way(simulated: Engines) -> None:
    def again(gateway: MovingGateway) -> None:
        gateway.move("r", next(iter(gateway.engines)))
        gateway.move("r", list(gateway.engines)[1])

    async with probed(simulated, "stage 1", again) as gateway:
        with slowed(simulated, SLOWLY):
            _, sink = gateway.submit("r", TOKENS)
            await sink.has(3)
            gateway.move("r", gateway.other(sink))
            await sink.until(lambda _: len(gateway.reports()) == 3)
        await sink.finished()
        assert sorted((r.moved, r.reason) for r in gateway.reports()) == [
            (False, "already_moving"),
            (False, "already_moving"),
            (True, ""),
        ]
        assert sink.token_ids == await undisturbed(gateway)


@pytest.mark.parametrize("at", POINTS)
async def test_the_scheduler_dies(simulated: Engines, at: str) -> None:
    """The gateway leads: the move goes on, and so does the stream."""
    async with probed(simulated, at, lambda gateway: gateway.scheduler.lose()) as gateway:
        with slowed(simulated, SLOWLY):
            _, sink = gateway.submit("r", TOKENS)
            await sink.has(3)
            gateway.move("r", gateway.other(sink))
            await sink.until(lambda sink: len(sink.assigned) == 2)
        await sink.finished()
        assert len(sink.assigned) == 2 and gateway.observer.counts == {"moved kv": 1}
        gateway.scheduler.connect(gateway.dispatcher)
        assert sink.token_ids == await undisturbed(gateway)


@pytest.mark.parametrize("at", ["stage 1", "Freeze answered", "Commit answered"])
async def test_the_gateway_dies_in_mid_move(simulated: Engines, at: str) -> None:
    """Its streams break, and with them ends what it had asked to be kept, long before a lease."""
    died = asyncio.Event()
    changes = Changes(around=lambda moves: Probe(moves, at, died.set), limits=PATIENT)
    with slowed(simulated, SLOWLY):
        async with gateway_over(simulated, SIMULATED, changes) as gateway:
            _, sink = gateway.submit("r", 10 * TOKENS)
            await sink.has(3)
            gateway.move("r", gateway.other(sink))
            async with asyncio.timeout(30):
                await died.wait()
        assert len(sink.token_ids) < 10 * TOKENS
        async with gateway_over(simulated, SIMULATED) as gateway:
            await gateway.settled()
    async with gateway_over(simulated, SIMULATED) as gateway:
        await undisturbed(gateway)


async def test_many_moves_of_many_streams_while_engines_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 moves at random of 40 streams between five engines, three of which are killed."""
    monkeypatch.setattr(RetryBudget, "FLOOR", 1000)  # who is hit twice depends on the machine
    rng = random.Random(4)
    options = replace(SIMULATED, speed=1.0)
    changes = Changes(limits=PATIENT)
    with forked_engines(tmp_path, dict.fromkeys("abcde", options)) as engines:
        async with gateway_over(engines, options, changes) as gateway:
            prompts = [(*gateway.prompt, 10 + n) for n in range(40)]
            plain = [gateway.submit(f"u{n}", 300, prompt=p)[1] for n, p in enumerate(prompts)]
            for sink in plain:
                await sink.finished()
            with slowed(engines, 5.0):
                sinks = [gateway.submit(f"r{n}", 300, prompt=p)[1] for n, p in enumerate(prompts)]
                left = list(engines)
                for turn in range(200):
                    gateway.move(f"r{rng.randrange(40)}", rng.choice(left))
                    if turn in (50, 100, 150):
                        kill(gateway, engines[left.pop(rng.randrange(len(left)))], left)
                    await asyncio.sleep(0.01)
            for sink in sinks:
                await sink.finished()
            assert [s.token_ids for s in sinks] == [s.token_ids for s in plain]
            assert sum(r.moved and r.rung == "kv" for r in gateway.reports()) > 20
            await gateway.settled()


def kill(gateway: MovingGateway, engine: ForkedEngine, left: list[str]) -> None:
    """The scheduler notices at its next look."""
    engine.kill()
    kept = [i for i in gateway.scheduler.topology.instances if i.name in left]
    del gateway.scheduler.topology.instances[:]
    gateway.scheduler.topology.instances.extend(kept)
