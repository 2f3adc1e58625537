"""Tokenizers are loaded once, off the loop, and compared with each engine's own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from shunter_gateway.ports import Capabilities, EngineUnavailable
from shunter_gateway.testing import LetterDecoders, ManualClock
from shunter_gateway.testing_engines import TEXT_LEVEL, TOKEN_LEVEL, ScriptedEngine
from shunter_gateway.testing_scheduler import topology_message
from shunter_gateway.testing_world import World
from shunter_gateway.tokenizer_checks import PROBE, Rechecks, TokenizerChecks
from shunter_gateway.tokenizers import TokenizerRegistry
from shunter_gateway.topology import Topology, topology_from_proto
from shunter_text.sources import TokenizerUnavailable, sim_tokenizer
from shunter_text.tokenizer import Tokenizer


class Engine(ScriptedEngine):
    """Tokenises as told."""

    def __init__(self, ids: list[int] | None, capabilities: Capabilities = TOKEN_LEVEL) -> None:
        super().__init__(ManualClock(), capabilities)
        self.ids = ids
        self.asked: list[str] = []

    async def tokenize(self, address: str, model: str, text: str) -> list[int]:
        self.asked.append(address)
        assert text == PROBE
        if self.ids is None:
            raise EngineUnavailable("not up")
        return self.ids


class Loader:
    def __init__(self) -> None:
        self.loads: list[str] = []
        self.threads: set[int] = set()

    def __call__(self, source: str) -> Tokenizer | None:
        self.loads.append(source)
        self.threads.add(threading.get_ident())
        if source == "sim://broken":
            raise TokenizerUnavailable("no such file")
        return None if source == "sim://none" else sim_tokenizer()


def topology(*pools: str) -> Topology:
    return topology_from_proto(topology_message({f"{pool}-0": pool for pool in pools}))


AT_ONCE = Rechecks(first_s=0.001, longest_s=0.002)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
async def loader() -> AsyncIterator[Loader]:
    yield Loader()


async def registry_of(
    engine: Engine, loader: Loader, *pools: str, **options: Any
) -> TokenizerRegistry:
    registry = TokenizerRegistry({"simulated": engine}, loader, **options)
    registry.update(topology(*pools))
    await registry.settled()
    return registry


async def test_loaded_once_in_a_thread(loader: Loader) -> None:
    registry = await registry_of(Engine(sim_tokenizer().encode(PROBE)), loader, "chat")
    assert await registry.tokenizer("sim://chat") is registry.known("sim://chat")
    registry.update(topology("chat"))
    await registry.settled()
    assert loader.loads == ["sim://chat"]
    assert threading.get_ident() not in loader.threads
    pool = topology("chat").pools["chat"]
    assert registry.mismatch(pool) == ""
    assert registry.eos_token_ids(pool) == frozenset(sim_tokenizer().eos_token_ids)
    decoder = registry.decoder(pool, ())
    assert decoder is not None
    text = "".join(decoder.step(id_) for id_ in sim_tokenizer().encode("Hello there"))
    assert text == "Hello there"
    await registry.close()


async def test_pool_at_zero_is_loaded_before_its_first_request(loader: Loader) -> None:
    registry = TokenizerRegistry({}, loader)
    cold = topology_from_proto(topology_message({}, from_zero=("cold",)))
    for _ in range(2):
        registry.update(cold)
        await registry.settled()
    assert loader.loads == ["sim://cold"] and registry.known("sim://cold") is not None
    await registry.close()


async def test_pools_at_zero_push_out_no_tokenizer_that_is_loaded(loader: Loader) -> None:
    registry = await registry_of(Engine(sim_tokenizer().encode(PROBE)), loader, "hot")
    cold = tuple(f"cold-{i:02}" for i in range(70))
    message = topology_message({"hot-0": "hot"}, from_zero=cold)
    for _ in range(3):
        registry.update(topology_from_proto(message))
        await registry.settled()
    assert registry.known("sim://hot") is not None
    assert len(loader.loads) == len(set(loader.loads)) == 64
    await registry.close()


async def test_engine_is_asked_once_and_again_if_it_was_not_up(loader: Loader) -> None:
    engine = Engine(None)
    registry = await registry_of(engine, loader, "chat", rechecks=AT_ONCE)
    engine.ids = sim_tokenizer().encode(PROBE)
    await until(lambda: len(engine.asked) == 2)
    for _ in range(3):
        registry.update(topology("chat"))
        await registry.settled()
    assert engine.asked == ["chat-0:1"] * 2
    await registry.close()


async def test_pool_recovers_when_its_engine_agrees_again(loader: Loader) -> None:
    engine, heard = Engine([1, 2, 3]), list[tuple[str, bool]]()

    def observe(pool: str, differs: bool) -> None:
        heard.append((pool, differs))

    registry = await registry_of(engine, loader, "chat", rechecks=AT_ONCE, observe=observe)
    pool = topology("chat").pools["chat"]
    assert registry.mismatch(pool) and heard == [("chat", True)]
    await until(lambda: len(engine.asked) >= 3)
    assert registry.mismatch(pool), "it still differs"
    engine.ids = sim_tokenizer().encode(PROBE)
    await until(lambda: not registry.mismatch(pool))
    assert heard == [("chat", True), ("chat", False)]
    asked = len(engine.asked)
    await asyncio.sleep(0.02)
    assert len(engine.asked) == asked, "an engine that agrees is left alone"
    await registry.close()


async def test_pool_recovers_when_the_engine_that_differed_is_gone(loader: Loader) -> None:
    engine = Engine([1, 2, 3])
    registry = await registry_of(engine, loader, "chat")
    pool = topology("chat").pools["chat"]
    assert registry.mismatch(pool)
    engine.ids = sim_tokenizer().encode(PROBE)
    message = topology_message({"chat-1": "chat"})
    registry.update(topology_from_proto(message))
    assert not registry.mismatch(pool)
    await registry.settled()
    assert not registry.mismatch(pool) and engine.asked == ["chat-0:1", "chat-1:1"]
    await registry.close()


async def test_engine_is_asked_again_when_its_pools_model_changes(loader: Loader) -> None:
    engine = Engine([1, 2, 3])
    registry = await registry_of(engine, loader, "chat")
    engine.ids = sim_tokenizer().encode(PROBE)
    message = topology_message({"chat-0": "chat"})
    message.pools[0].revision = "next"
    registry.update(topology_from_proto(message))
    await registry.settled()
    assert not registry.mismatch(topology("chat").pools["chat"])
    assert engine.asked == ["chat-0:1"] * 2
    await registry.close()


async def test_engine_is_compared_once_our_own_tokenizer_could_be_loaded(loader: Loader) -> None:
    engine, sources = Engine([1, 2, 3]), ["sim://broken", "sim://fine"]

    async def tokenizer(source: str) -> Tokenizer | None:
        return loader("sim://none" if len(sources) > 1 else sources[0])

    checks = TokenizerChecks({"simulated": engine}, tokenizer, lambda *_: None, AT_ONCE)
    checks.update(topology("chat"))
    await checks.asked()
    assert not checks.mismatch("chat") and not engine.asked
    sources.pop(0)
    await until(lambda: bool(checks.mismatch("chat")))
    await checks.close()


def test_rechecks_back_off() -> None:
    rechecks = Rechecks(first_s=30.0, longest_s=200.0)
    assert [rechecks.after(n) for n in (1, 2, 3, 4, 99)] == [30, 60, 120, 200, 200]


async def test_other_tokenizer_disables_tokens_with_a_reason(loader: Loader) -> None:
    registry = await registry_of(Engine([1, 2, 3]), loader, "chat", "none", "broken")
    pools = topology("chat", "none", "broken").pools
    assert "chat-0" in registry.mismatch(pools["chat"])
    assert registry.mismatch(pools["none"]) == ""
    assert await registry.tokenizer("sim://none") is None
    assert await registry.tokenizer("sim://broken") is None
    await registry.close()


async def test_text_level_engines_are_not_asked(loader: Loader) -> None:
    engine = Engine(None, TEXT_LEVEL)
    registry = await registry_of(engine, loader, "chat")
    assert engine.asked == []
    await registry.close()


def test_request_of_a_mismatched_pool_goes_as_text() -> None:
    world = World(decoders=LetterDecoders("differs"))
    _, sink = world.submit(body=b'{"prompt":"x"}')
    request = world.call_of().request
    assert request.token_ids is None and request.body == b'{"prompt":"x"}'
    assert world.observer.counts == {"unmovable tokenizer_mismatch": 1}
    world.call_of().step(3)
    assert sink.text == "xxx" and sink.deltas[0].raw == b""


async def test_ids_of_a_piece_of_text_are_known_once_the_tokenizer_is(loader: Loader) -> None:
    pool = topology("chat").pools["chat"]
    registry = TokenizerRegistry({}, loader)
    assert not registry.ids_within(pool, "é")
    await registry.tokenizer(pool.model_source)
    assert registry.ids_within(pool, "é") == sim_tokenizer().encode("é")
    await registry.close()
