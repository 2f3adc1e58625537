"""What a client asked for, across moves between real llama-servers.

A tiny random model, each token computed by itself and without batch mates: numbers are the same in
each call, so answers are compared whole.
"""

import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llama_servers import INSTALLED, LlamaOptions, LlamaServer, llama_servers, llama_topology
from moving_gateway import GREEDY, Changes, MovingGateway, MovingSink, gateway_of
from shunter_engine.numpy_testing import TinyShape, tiny_vocabulary, write_tiny_gguf
from shunter_gateway.continued_seed import continued_seed
from shunter_gateway.engines.llama_slots import LlamaSlots
from shunter_gateway.engines.llamacpp import LlamaCppAdapter
from shunter_gateway.ports import EngineCall, EngineRequest, SamplingParams, TokenSink
from shunter_proto.v1 import scheduler_pb2 as pb

pytestmark = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(not INSTALLED, reason="pip install 'shunter[llamacpp]'"),
]
TOKENS, MOVED_AT, SEED = 300, 40, 11
# Some milliseconds a token, so that moves come in time on a crowded machine, too.
SHAPE = TinyShape(layers=8, width=256, feed_forward=512, context_length=1024)
# Of random bytes llama-server makes other text than they stand for: ids of ASCII only are its own.
ASCII = {str(i): -100.0 for i, t in enumerate(tiny_vocabulary()) if i < 3 or ord(t[0]) > 126}
TEXT = replace(GREEDY, logit_bias=ASCII)
DRAWN = replace(TEXT, temperature=1.0, seed=SEED)
_RNG = random.Random(5)
PROMPT = tuple(_RNG.randrange(3, len(tiny_vocabulary())) for _ in range(40))


@dataclass(frozen=True, slots=True)
class Pool:
    servers: dict[str, LlamaServer]
    topology: pb.Topology
    slots: Path


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    folder = tmp_path_factory.mktemp("servers")
    model = write_tiny_gguf(folder / "tiny.gguf", shape=SHAPE)
    options = LlamaOptions(model, SHAPE.context_length)
    with llama_servers(folder, ("a", "b"), options) as servers:
        yield Pool(servers, llama_topology(servers, options), folder / "slots")


@pytest.fixture
async def gateway(pool: Pool) -> AsyncIterator[MovingGateway]:
    changes = Changes(slots=partial(LlamaSlots, folder=pool.slots))
    async with gateway_of(pool.servers, pool.topology, changes) as made:
        yield made


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[EngineRequest]:
    """Each engine call, warm-ups too."""
    made: list[EngineRequest] = []
    start = LlamaCppAdapter.start

    def recording(self: LlamaCppAdapter, request: EngineRequest, sink: TokenSink) -> EngineCall:
        made.append(request)
        return start(self, request, sink)

    monkeypatch.setattr(LlamaCppAdapter, "start", recording)
    return made


async def answer(
    gateway: MovingGateway, name: str, sampling: SamplingParams, **changes: Any
) -> MovingSink:
    """Of a request that does not move."""
    _, sink = gateway.submit(name, TOKENS, PROMPT, sampling, **changes)
    await sink.finished()
    return sink


async def moved(
    gateway: MovingGateway, rung: str, sampling: SamplingParams, **changes: Any
) -> MovingSink:
    _, sink = gateway.submit("moved", TOKENS, PROMPT, sampling, **changes)
    await sink.has(MOVED_AT)
    gateway.move("moved", gateway.other(sink), rung)
    await sink.finished()
    report = gateway.reports()[-1]
    assert (report.moved, report.rung, report.reason) == (True, rung, "")
    await gateway.settled()
    return sink


@pytest.mark.parametrize("rung", ["kv", "replay"])
async def test_a_stop_string_that_begins_before_ends_after(
    gateway: MovingGateway, rung: str
) -> None:
    """As long as most of the answer: of what it holds back the second engine makes the end."""
    plain = (await answer(gateway, "alone", TEXT)).text
    stop = plain[MOVED_AT // 2 : -20]
    alone = await answer(gateway, "stopped", TEXT, stop=(stop,))
    sink = await moved(gateway, rung, TEXT, stop=(stop,))
    assert sink.text == alone.text == plain[: plain.index(stop)]
    assert sink.outcome is not None and alone.outcome is not None
    assert (sink.outcome.finish_reason, sink.outcome.stop_reason) == ("stop", stop)
    assert sink.outcome.output_tokens == alone.outcome.output_tokens < TOKENS


@pytest.mark.parametrize("rung", ["kv", "replay"])
async def test_a_seeded_answer_goes_on_with_the_seed_of_its_place(
    gateway: MovingGateway, calls: list[EngineRequest], rung: str
) -> None:
    """llama-server cannot be told how often it has drawn: the rest is another call's answer, but
    always the same one."""
    alone = await answer(gateway, "alone", DRAWN)
    sink = await moved(gateway, rung, DRAWN)
    rest = calls[-1]
    place = rest.output_offset
    assert MOVED_AT <= place < TOKENS and rest.sampling.seed == continued_seed(SEED, place)
    assert sink.token_ids[:place] == alone.token_ids[:place]
    assert rest.token_ids == (*PROMPT, *sink.token_ids[:place])
    _, again = gateway.submit("again", TOKENS - place, rest.token_ids, rest.sampling)
    await again.finished()
    assert sink.token_ids[place:] == again.token_ids
    assert sink.token_ids[place:] != alone.token_ids[: TOKENS - place], "drawn anew"
