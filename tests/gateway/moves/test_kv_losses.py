"""Rung `kv` while calls are lost, the network between engines is bad or memory is full: the stream
goes on, nothing leaks, and it may be moved again."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from engine_moves_probes import Lossy
from forked_engines import ForkedEngine, forked_engines
from moving_gateway import Changes, gateway_over, numpy_options, simulated_options
from shunter_engine.numpy_testing import TinyShape, write_tiny_gguf
from shunter_engine.options import EngineOptions
from shunter_gateway.lifecycle_ports import LifecycleLimits
from shunter_scheduler.service.engine_metrics import parse_metrics
from tcp_proxy import tcp_proxy
from unhurried import PATIENT, slowed

SIMULATED = replace(simulated_options(), speed=1.0, allow_faults=True)
LONG = 7000  # of NumPy engines, which no fault slows: it does not end while something is tried
HASTY = LifecycleLimits(kv_call_s=0.2, kv_copy_s=0.2, kv_lease_s=3.0)
Engines = dict[str, ForkedEngine]
RealEngines = tuple[Engines, EngineOptions]

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


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    folder = tmp_path_factory.mktemp("simulated")
    with forked_engines(folder, {"a": SIMULATED, "b": SIMULATED}) as engines:
        yield engines


@pytest.mark.parametrize("name", LOSSES)
async def test_a_lost_call_or_answer(simulated: Engines, name: str) -> None:
    """The stream goes on in any case, and may be moved again at once."""
    lost, outcome = LOSSES[name]
    changes = Changes(around=lambda moves: Lossy(moves, **lost), limits=PATIENT)
    async with gateway_over(simulated, SIMULATED, changes) as gateway:
        with slowed(simulated, 3.0):
            handle, sink = gateway.submit("r", 1900)
            for move in (1, 2):
                await sink.has(len(sink.token_ids) + 5)
                gateway.move("r", gateway.other(sink))
                await sink.until(lambda _, n=move: len(gateway.reports()) == n)  # type: ignore[misc]
            await sink.has(len(sink.token_ids) + 5)
            handle.cancel()
        first, second = gateway.reports()
        assert (first.moved, first.rung, first.epoch) == outcome
        assert (second.moved, second.rung, second.epoch) == (True, "kv", first.epoch + 1)
        _, plain = gateway.submit("plain", len(sink.token_ids))
        await plain.finished()
        assert sink.token_ids == plain.token_ids
        await gateway.settled()


async def test_a_destination_without_room_for_it_stays_as_it_is(tmp_path: Path) -> None:
    options = replace(numpy_options(tmp_path), kv_tokens=2048)
    with forked_engines(tmp_path, {"a": options, "b": options}) as engines:
        async with gateway_over(engines, options) as gateway:
            long = gateway.prompt * 40
            leave, occupant = gateway.submit("occupant", 1000, prompt=(7, *long[:999]))
            await occupant.has(1)
            handle, sink = gateway.submit("r", 800, prompt=(8, *long[:1199]))
            await sink.has(3)
            assert sink.assigned != occupant.assigned
            gateway.move("r", occupant.assigned[0])
            await sink.until(lambda _: len(gateway.reports()) == 1)
            (report,) = gateway.reports()
            assert (report.moved, report.reason) == (False, "prepare refused: no_memory")
            for one in (sink, occupant):
                await one.has(len(one.token_ids) + 5)
            assert len(sink.assigned) == 1
            handle.cancel()
            leave.cancel()
            await gateway.settled()


@dataclass(frozen=True, slots=True)
class Trouble:
    """Of the network between the destination, and the gateway, and the source's moves."""

    rung: str  # by which it moves all the same
    settings: dict[str, float]
    limits: LifecycleLimits = HASTY


TROUBLES = {
    "slow": Trouble("kv", {"delay_s": 0.02}, PATIENT),
    "breaks": Trouble("replay", {"cut_after_bytes": 1000}),
    "goes silent": Trouble("replay", {"silent_after_bytes": 1000}),
    "is down": Trouble("replay", {"cut_after_bytes": 0}),
}


@pytest.fixture(scope="module")
def real_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngines]:
    folder = tmp_path_factory.mktemp("numpy")
    write_tiny_gguf(folder / "tiny.gguf", shape=TinyShape(layers=4, context_length=8192))
    options = numpy_options(folder)
    with forked_engines(folder, {"a": options, "b": options}) as engines:
        yield engines, options


@pytest.mark.parametrize("name", TROUBLES)
async def test_the_network(real_engines: RealEngines, name: str) -> None:
    trouble, (engines, options) = TROUBLES[name], real_engines
    target = f"127.0.0.1:{parse_metrics(engines['a'].page()).moves_port}"
    async with tcp_proxy(target) as proxy:
        changes = Changes(moves_addresses={"a": proxy.address}, limits=trouble.limits)
        async with gateway_over(engines, options, changes) as gateway:
            first = 20 + 2 * list(TROUBLES).index(name)  # prefix caches outlast a test
            prompts = {f"r{n}": (first + n, *gateway.prompt) for n in range(2)}
            calls = {n: gateway.submit(n, LONG, prompt=p) for n, p in prompts.items()}
            for _, sink in calls.values():
                await sink.has(30)
            moved = next(n for n, (_, sink) in calls.items() if sink.assigned == ["a"])
            _, sink = calls[moved]
            proxy.answered_bytes = 0
            for setting, value in trouble.settings.items():
                setattr(proxy, setting, value)
            gateway.move(moved, "b")
            await sink.until(lambda _: len(gateway.reports()) == 1)
            (report,) = gateway.reports()
            assert (report.moved, report.rung) == (True, trouble.rung), report.reason
            await sink.has(len(sink.token_ids) + 50)
            for handle, _ in calls.values():
                handle.cancel()
            _, plain = gateway.submit("plain", len(sink.token_ids), prompt=prompts[moved])
            await plain.finished()
            assert sink.token_ids == plain.token_ids
            await gateway.settled()
