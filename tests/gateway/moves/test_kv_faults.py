"""Rung `kv` while something dies, is slow, is full or leaves: no stream notices, nothing leaks."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from engine_moves_probes import Lossy, Probe
from forked_engines import ForkedEngine, forked_engines
from moving_gateway import (
    Changes,
    MovingGateway,
    MovingSink,
    gateway_over,
    numpy_options,
    simulated_options,
)
from shunter_engine.options import EngineOptions
from shunter_gateway.dispatcher_retries import RetryBudget
from shunter_gateway.lifecycle_ports import LifecycleLimits
from shunter_scheduler.service.engine_metrics import parse_metrics
from tcp_proxy import tcp_proxy

TOKENS = 200


SIMULATED = replace(simulated_options(), speed=4.0)
FAST = replace(simulated_options(), speed=10.0, allow_faults=True)
Engines = dict[str, ForkedEngine]
RealEngines = tuple[Engines, EngineOptions]


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
    changes = Changes(around=lambda moves: Probe(moves, at, lambda: act(gateways[0])))
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

    with forked_engines(tmp_path, {"a": FAST, "b": FAST}) as engines:
        async with probed(engines, at, kill) as gateway:
            for engine in engines.values():
                engine.fault("slow", factor=15)  # the answer does not end before the kill
            sinks.append(gateway.submit("r", TOKENS)[1])
            await sinks[0].has(10)
            gateway.move("r", gateway.other(sinks[0]))
            outcome = await sinks[0].finished()
            assert sum(engine.alive for engine in engines.values()) == 1
            assert (outcome.output_tokens, outcome.finish_reason) == (TOKENS, "length")
            assert len(gateway.reports()) == 1
            assert sinks[0].token_ids == await undisturbed(gateway)


@pytest.mark.parametrize("at", POINTS)
async def test_the_client_leaves(simulated: Engines, at: str) -> None:
    leave: list[Callable[[], None]] = []
    async with probed(simulated, at, lambda _: leave[0]()) as gateway:
        handle, sink = gateway.submit("r", TOKENS)
        leave.append(handle.cancel)
        await sink.has(30)
        gateway.move("r", gateway.other(sink))
        async with asyncio.timeout(10):
            while gateway.dispatcher.in_flight:
                await asyncio.sleep(0.01)
        (report,) = gateway.reports()
        assert not report.moved and not sink.ended


async def test_a_second_order_does_not_touch_the_move_under_way(simulated: Engines) -> None:
    def again(gateway: MovingGateway) -> None:
        gateway.move("r", next(iter(gateway.engines)))
        gateway.move("r", list(gateway.engines)[1])

    async with probed(simulated, "stage 1", again) as gateway:
        _, sink = gateway.submit("r", TOKENS)
        await sink.has(30)
        gateway.move("r", gateway.other(sink))
        await sink.finished()
        assert sorted((r.moved, r.reason) for r in gateway.reports()) == [
            (False, "already_moving"),
            (False, "already_moving"),
            (True, ""),
        ]
        assert sink.token_ids == await undisturbed(gateway)


LOSSES = {
    "Offer": ({"answer_lost": "Offer"}, (True, "replay", 2)),
    "Prepare": ({"answer_lost": "Prepare"}, (True, "replay", 2)),
    "Freeze": ({"call_lost": "Freeze"}, (False, "kv", 3)),
    "Freeze's answer": ({"answer_lost": "Freeze"}, (False, "kv", 3)),
    "Commit": ({"call_lost": "Commit"}, (True, "kv", 2)),
    "Commit's answer": ({"answer_lost": "Commit"}, (True, "kv", 2)),
    "Freeze's answer and the thaw": (
        {"answer_lost": "Freeze", "call_lost": "Abort"},
        (False, "kv", 3),
    ),
    "Release": ({"call_lost": "Release"}, (True, "kv", 2)),
    "Freeze without an error": ({"swallowed": "Freeze"}, (True, "kv", 2)),
    "Commit without an error": ({"swallowed": "Commit"}, (True, "kv", 2)),
}


SLOW = replace(SIMULATED, speed=1.0)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Engines whose answers outlast two moves."""
    with forked_engines(tmp_path_factory.mktemp("slow"), {"a": SLOW, "b": SLOW}) as engines:
        yield engines


@pytest.mark.parametrize("name", LOSSES)
async def test_a_lost_call_or_answer(slow: Engines, name: str) -> None:
    """The stream goes on in any case, and may be moved again at once."""
    lost, outcome = LOSSES[name]
    changes = Changes(around=lambda moves: Lossy(moves, **lost))
    async with gateway_over(slow, SLOW, changes) as gateway:
        handle, sink = gateway.submit("r", 1900)
        for move in (1, 2):
            await sink.has(30 * move)
            gateway.move("r", gateway.other(sink))
            await sink.until(lambda _, n=move: len(gateway.reports()) == n)  # type: ignore[misc]
        await sink.has(len(sink.token_ids) + 10)
        handle.cancel()
        first, second = gateway.reports()
        assert (first.moved, first.rung, first.epoch) == outcome
        assert (second.moved, second.rung, second.epoch) == (True, "kv", first.epoch + 1)
        _, plain = gateway.submit("plain", len(sink.token_ids))
        await plain.finished()
        assert sink.token_ids == plain.token_ids
        await gateway.settled()


@pytest.mark.parametrize("at", POINTS)
async def test_the_scheduler_dies(simulated: Engines, at: str) -> None:
    """The gateway leads: the move goes on, and so does the stream."""
    async with probed(simulated, at, lambda gateway: gateway.scheduler.lose()) as gateway:
        _, sink = gateway.submit("r", TOKENS)
        await sink.has(30)
        gateway.move("r", gateway.other(sink))
        await sink.finished()
        assert len(sink.assigned) == 2 and gateway.observer.counts == {"moved kv": 1}
        gateway.scheduler.connect(gateway.dispatcher)
        assert sink.token_ids == await undisturbed(gateway)


@pytest.mark.parametrize("at", ["stage 1", "Freeze answered", "Commit answered"])
async def test_the_gateway_dies_in_mid_move(simulated: Engines, at: str) -> None:
    """Its streams break, and with them ends what it had asked to be kept, long before a lease."""
    died = asyncio.Event()
    changes = Changes(
        around=lambda moves: Probe(moves, at, died.set),
        limits=LifecycleLimits(kv_lease_s=60.0, kv_frozen_s=60.0),
    )
    async with gateway_over(simulated, SIMULATED, changes) as gateway:
        _, sink = gateway.submit("r", 4 * TOKENS)
        await sink.has(30)
        gateway.move("r", gateway.other(sink))
        async with asyncio.timeout(10):
            await died.wait()
    assert len(sink.token_ids) < 4 * TOKENS
    async with gateway_over(simulated, SIMULATED) as gateway:
        await gateway.settled()
        await undisturbed(gateway)


async def test_a_destination_without_room_for_it_stays_as_it_is(tmp_path: Path) -> None:
    options = replace(numpy_options(tmp_path), kv_tokens=2048)
    with forked_engines(tmp_path, {"a": options, "b": options}) as engines:
        async with gateway_over(engines, options) as gateway:
            long = gateway.prompt * 40
            occupant = gateway.submit("occupant", 400, prompt=(7, *long[:1499]))[1]
            await occupant.has(1)
            _, sink = gateway.submit("r", 300, prompt=(8, *long[:399]))
            await sink.has(20)
            assert sink.assigned != occupant.assigned
            gateway.move("r", occupant.assigned[0])
            await sink.finished()
            await occupant.finished()
            (report,) = gateway.reports()
            assert (report.moved, report.reason) == (False, "prepare refused: no_memory")
            assert len(sink.assigned) == 1
            await gateway.settled()


@dataclass(frozen=True, slots=True)
class Trouble:
    """Of the network between the destination, and the gateway, and the source's moves."""

    rung: str  # by which it moves all the same; empty: not at all
    settings: dict[str, float]
    patience_s: float = 0.2


TROUBLES = {
    "slow": Trouble("kv", {"delay_s": 0.02}, patience_s=10.0),
    "breaks": Trouble("replay", {"cut_after_bytes": 1000}),
    "goes silent": Trouble("replay", {"silent_after_bytes": 1000}),
    "is down": Trouble("replay", {"cut_after_bytes": 0}),
}


@pytest.fixture(scope="module")
def real_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngines]:
    folder = tmp_path_factory.mktemp("numpy")
    options = numpy_options(folder)
    with forked_engines(folder, {"a": options, "b": options}) as engines:
        yield engines, options


@pytest.mark.parametrize("name", TROUBLES)
async def test_the_network(real_engines: RealEngines, name: str) -> None:
    trouble, (engines, options) = TROUBLES[name], real_engines
    limits = LifecycleLimits(
        kv_call_s=trouble.patience_s, kv_copy_s=trouble.patience_s, kv_lease_s=3.0
    )
    target = f"127.0.0.1:{parse_metrics(engines['a'].page()).moves_port}"
    async with tcp_proxy(target) as proxy:
        changes = Changes(moves_addresses={"a": proxy.address}, limits=limits)
        async with gateway_over(engines, options, changes) as gateway:
            first = 20 + 2 * list(TROUBLES).index(name)  # prefix caches outlast a test
            prompts = {f"r{n}": (first + n, *gateway.prompt) for n in range(2)}
            sinks = {n: gateway.submit(n, 1500, prompt=p)[1] for n, p in prompts.items()}
            for sink in sinks.values():
                await sink.has(30)
            moved = next(n for n, sink in sinks.items() if sink.assigned == ["a"])
            proxy.answered_bytes = 0
            for setting, value in trouble.settings.items():
                setattr(proxy, setting, value)
            gateway.move(moved, "b")
            await sinks[moved].finished()
            (report,) = gateway.reports()
            assert (report.moved, report.rung) == (True, trouble.rung), report.reason
            _, plain = gateway.submit("plain", 1500, prompt=prompts[moved])
            await plain.finished()
            assert sinks[moved].token_ids == plain.token_ids
            await gateway.settled()


async def test_many_moves_of_many_streams_while_engines_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 moves at random of 40 streams between five engines, three of which are killed."""
    monkeypatch.setattr(RetryBudget, "FLOOR", 1000)  # who is hit twice depends on the machine
    rng = random.Random(4)
    options = replace(SIMULATED, speed=1.0)
    with forked_engines(tmp_path, dict.fromkeys("abcde", options)) as engines:
        async with gateway_over(engines, options) as gateway:
            prompts = [(*gateway.prompt, 10 + n) for n in range(40)]
            plain = [gateway.submit(f"u{n}", 300, prompt=p)[1] for n, p in enumerate(prompts)]
            for sink in plain:
                await sink.finished()
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
