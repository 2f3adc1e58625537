"""Requests move between two real vLLM servers that have the connector: `make test-vllm`.

Between stock ones, and with what clients ask for beside tokens: test_vllm_asked_for.py.
"""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from moving_gateway import MovingGateway, MovingSink, gateway_of
from shunter_proto.v1 import moves_pb2 as pb
from shunter_proto.v1.moves_pb2_grpc import EngineMovesStub
from vllm_servers import MISSING, PYTHON, VllmServer, vllm_servers, vllm_topology

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not PYTHON, reason=MISSING),
]
TOKENS = 1500  # long enough for a move on a crowded machine
TRIES = 4


@dataclass(frozen=True)
class Running:
    servers: dict[str, VllmServer]
    folder: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("vllm")
    with vllm_servers(folder, ("a", "b")) as servers:
        yield Running(servers, folder)


@pytest.fixture
async def gateway(running: Running) -> AsyncIterator[MovingGateway]:
    message = await asyncio.to_thread(vllm_topology, running.servers, running.folder)
    async with gateway_of(running.servers, message) as made:
        yield made


def prompt(tokens: int, seed: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng(seed).integers(3, 259, tokens))


def submit(gateway: MovingGateway, name: str, tokens: int, ids: tuple[int, ...]) -> MovingSink:
    _, sink = gateway.submit(name, tokens, ids)
    sink.UNTIL_S = sink.END_S = 600.0  # on a crowded machine
    return sink


async def undisturbed(gateway: MovingGateway, ids: tuple[int, ...]) -> list[int]:
    sink = submit(gateway, f"alone-{len(ids)}-{ids[0]}", TOKENS, ids)
    await sink.finished()
    return sink.token_ids


async def moved(
    gateway: MovingGateway, length: int, at: int, rung: str
) -> tuple[MovingSink, tuple[int, ...]]:
    """The answer and its prompt. Again where the answer ended before it had moved, as on a busy
    machine it may: with a prompt that no engine has cached."""
    for attempt in range(TRIES):
        ids = prompt(length, seed=length + 5000 * attempt + (rung == "replay"))
        name = f"{rung}-{length}-{at}-{attempt}"
        sink = submit(gateway, name, TOKENS, ids)
        await sink.has(at)
        destination = gateway.other(sink)
        gateway.move(name, destination, rung)
        await sink.finished()
        if gateway.reports()[-1].reason != "finished":
            break
    return sink, ids


@pytest.mark.parametrize(("length", "at"), [(100, 1), (300, 40), (999, 31), (2048, 100)])
async def test_an_answer_that_moves_by_kv_is_the_same(
    gateway: MovingGateway, running: Running, length: int, at: int
) -> None:
    before = {name: s.prompt_tokens("external_kv_transfer") for name, s in running.servers.items()}
    sink, ids = await moved(gateway, length, at, "kv")
    report = gateway.reports()[-1]
    assert (report.moved, report.rung, report.reason) == (True, "kv", "")
    source, destination = sink.assigned
    assert source != destination
    server = running.servers[destination]
    fetched = server.prompt_tokens("external_kv_transfer") - before[destination]
    assert fetched >= length // 32 * 32
    assert sink.token_ids == await undisturbed(gateway, ids)
    await gateway.settled()
    assert all(server.blocks() == [] for server in running.servers.values())


@pytest.mark.parametrize(("length", "at"), [(300, 40), (2048, 100)])
async def test_an_answer_that_is_replayed_is_the_same(
    gateway: MovingGateway, length: int, at: int
) -> None:
    sink, ids = await moved(gateway, length, at, "replay")
    report = gateway.reports()[-1]
    assert (report.moved, report.rung) == (True, "replay")
    assert sink.token_ids == await undisturbed(gateway, ids)
    await gateway.settled()


async def test_there_and_back_again(gateway: MovingGateway) -> None:
    ids = prompt(500, seed=7)
    sink = submit(gateway, "twice", TOKENS, ids)
    for at, moves in ((20, 1), (600, 2)):
        await sink.has(at)
        gateway.move("twice", gateway.other(sink), "kv")
        await sink.until(lambda s, n=moves: len(s.assigned) > n)  # type: ignore[misc]
    await sink.finished()
    assert [(r.moved, r.rung) for r in gateway.reports()] == [(True, "kv")] * 2
    assert sink.token_ids == await undisturbed(gateway, ids)


async def test_many_move_at_once(gateway: MovingGateway, running: Running) -> None:
    """Answers need not be equal here: vLLM's numbers depend on batch mates."""
    rng = np.random.default_rng(3)
    sinks = {f"s{i}": submit(gateway, f"s{i}", 300, prompt(200 + i, 50 + i)) for i in range(8)}
    for _ in range(12):
        name = f"s{rng.integers(8)}"
        sink = sinks[name]
        if sink.assigned and not sink.end.is_set():
            gateway.move(name, gateway.other(sink), "kv")
        await asyncio.sleep(0.1)
    for sink in sinks.values():
        await sink.finished()
        assert len(sink.token_ids) == 300
    await gateway.settled()
    assert all(server.blocks() == [] for server in running.servers.values())


# ------------------------------------------------------------ blocks that are lost or damaged


def complete(server: VllmServer, ids: list[int], tokens: int, name: str) -> list[int]:
    body = {
        "model": "chat",
        "prompt": ids,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "request_id": name,
    }
    request = urllib.request.Request(
        f"{server.url}/v1/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        choice: dict[str, Any] = json.load(answer)["choices"][0]
    return [int(i) for i in choice["token_ids"]]


async def fetch(gateway: MovingGateway, running: Running, name: str, ids: tuple[int, ...]) -> None:
    """All full blocks of a running request to the engine where it does not run; there they stay."""
    sink = submit(gateway, name, TOKENS, ids)
    await sink.has(5)
    topology = await asyncio.to_thread(vllm_topology, running.servers, running.folder)
    address = {i.name: i.moves_address for i in topology.instances}
    source, destination = address[sink.assigned[-1]], address[gateway.other(sink)]
    known = [*ids, *sink.token_ids]
    async with (
        grpc.aio.insecure_channel(source) as to_source,
        grpc.aio.insecure_channel(destination) as to_destination,
    ):
        out, into = EngineMovesStub(to_source), EngineMovesStub(to_destination)
        call_id = f"{gateway.run}-{name}-1"
        offer = await out.Offer(pb.OfferRequest(move_id=name, call_id=call_id, lease_ms=60_000))
        prepared = await into.Prepare(
            pb.PrepareRequest(
                move_id=name, manifest=offer.manifest, token_ids=known, lease_ms=60_000
            )
        )
        pull = into.Pull(
            pb.PullRequest(
                move_id=name,
                kv_lease=prepared.kv_lease,
                source_address=source,
                transfer_token=offer.transfer_token,
            )
        )
        report = await pull.read()
        assert isinstance(report, pb.PullReport)
        assert (report.refusal, report.stage) == (0, 1) and report.tokens >= len(ids) // 32 * 32
        pull.cancel()
        await out.Release(pb.ReleaseRequest(move_id=name))
    await sink.finished()


async def forget(running: Running, name: str) -> None:
    topology = await asyncio.to_thread(vllm_topology, running.servers, running.folder)
    for instance in topology.instances:
        async with grpc.aio.insecure_channel(instance.moves_address) as channel:
            await EngineMovesStub(channel).Abort(pb.AbortRequest(move_id=name))


@pytest.mark.parametrize(("damage", "seed"), [("none", 21), ("missing", 22), ("corrupt", 23)])
async def test_a_block_that_cannot_be_loaded_is_computed(
    gateway: MovingGateway, running: Running, damage: str, seed: int
) -> None:
    ids = prompt(640, seed=seed)  # such as no cache knows
    await fetch(gateway, running, damage, ids)
    (server,) = (s for s in running.servers.values() if s.blocks())
    (other,) = (s for s in running.servers.values() if not s.blocks())
    for file in server.blocks()[::7] if damage != "none" else ():
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    before = server.prompt_tokens("external_kv_transfer")
    answer = await asyncio.to_thread(complete, server, [*ids], 200, f"{damage}-b")
    loaded = server.prompt_tokens("external_kv_transfer") - before
    assert loaded == 608  # as vLLM planned it
    assert answer == await asyncio.to_thread(complete, other, [*ids], 200, f"{damage}-a")
    again = await asyncio.to_thread(complete, server, [*ids], 200, f"{damage}-c")
    assert again == answer  # what a block is cached as afterwards is right, too
    await forget(running, damage)
    assert server.blocks() == []


# ------------------------------------------------------------ the last one: it ends an engine


async def test_source_dies_while_its_blocks_are_fetched(
    gateway: MovingGateway, running: Running
) -> None:
    ids = prompt(1500, seed=11)
    expected = await undisturbed(gateway, ids)
    sink = submit(gateway, "orphan", TOKENS, ids)
    await sink.has(20)
    source, destination = sink.assigned[-1], gateway.other(sink)
    gateway.move("orphan", destination, "kv")
    running.servers[source].kill()
    await sink.finished()
    assert sink.token_ids == expected and sink.assigned[-1] == destination
    await gateway.settled()
    async with asyncio.timeout(60):
        while running.servers[destination].blocks():
            await asyncio.sleep(0.5)
