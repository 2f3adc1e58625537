"""Calls to engines' `EngineMoves` over a real socket: answers, silence, broken streams, the end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from certificates import certificates_in
from shunter_gateway.engines.kv_moves import GrpcEngineMoves
from shunter_gateway.moves.ports import MoveReply
from shunter_proto.v1 import moves_pb2 as pb
from shunter_proto.v1.moves_pb2_grpc import (
    EngineMovesServicer,
    add_EngineMovesServicer_to_server,
)
from shunter_runtime.tls import TlsFiles, server_credentials


class Engine(EngineMovesServicer):
    """Refuses every Offer, never answers a Freeze, and reports two stages of a Pull."""

    def __init__(self) -> None:
        self.pull_ended = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def Offer(self, request: pb.OfferRequest, context: object) -> pb.OfferReply:
        return pb.OfferReply(refusal=pb.REFUSAL_BUSY)

    async def Freeze(self, request: pb.FreezeRequest, context: object) -> pb.FreezeReply:
        await asyncio.Event().wait()
        raise AssertionError

    async def Pull(self, request: pb.PullRequest, context: object) -> AsyncIterator[pb.PullReport]:
        try:
            yield pb.PullReport(stage=1)
            await self.goes_on.wait()
            yield pb.PullReport(stage=2, complete=True)
        finally:
            self.pull_ended.set()


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Engine, str]]:
    server, servicer = grpc.aio.server(), Engine()  # type: ignore[abstract]
    add_EngineMovesServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def moves() -> AsyncIterator[GrpcEngineMoves]:
    made = GrpcEngineMoves()
    yield made
    await made.close()


class Heard(asyncio.Queue[object]):
    """What a callback was told."""

    async def next(self) -> object:
        async with asyncio.timeout(10):
            return await self.get()


async def asked(
    moves: GrpcEngineMoves, address: str, request: pb.OfferRequest | pb.FreezeRequest, wait_s: float
) -> MoveReply | None:
    heard = Heard()
    moves.call(address, request, wait_s, heard.put_nowait)
    reply = await heard.next()
    assert reply is None or isinstance(reply, pb.OfferReply)
    return reply


async def test_answers_and_silence(moves: GrpcEngineMoves, engine: tuple[Engine, str]) -> None:
    _, address = engine
    reply = await asked(moves, address, pb.OfferRequest(), 5.0)
    assert reply == pb.OfferReply(refusal=pb.REFUSAL_BUSY)
    assert await asked(moves, address, pb.FreezeRequest(), 0.05) is None


async def test_over_mutual_tls(tmp_path: Path) -> None:
    make = certificates_in(tmp_path)
    server = grpc.aio.server()
    add_EngineMovesServicer_to_server(Engine(), server)  # type: ignore[abstract]
    port = server.add_secure_port("127.0.0.1:0", server_credentials(make("engine")))
    await server.start()
    strangers = (None, TlsFiles(ca=make("engine").ca))
    for tls, answered in ((make("gateway"), True), *((one, False) for one in strangers)):
        moves = GrpcEngineMoves(tls)
        reply = await asked(moves, f"127.0.0.1:{port}", pb.OfferRequest(), 2.0)
        assert (reply is not None) == answered
        await moves.close()
    await server.stop(None)


async def test_an_engine_that_is_not_there_does_not_answer(moves: GrpcEngineMoves) -> None:
    assert await asked(moves, "127.0.0.1:1", pb.OfferRequest(), 1.0) is None


async def test_a_pull_reports_and_ends(moves: GrpcEngineMoves, engine: tuple[Engine, str]) -> None:
    servicer, address = engine
    heard = Heard()
    moves.pull(address, pb.PullRequest(), heard.put_nowait)
    assert await heard.next() == pb.PullReport(stage=1)
    servicer.goes_on.set()
    assert await heard.next() == pb.PullReport(stage=2, complete=True)
    assert await heard.next() is None


async def test_a_cancelled_pull_ends_at_the_engine_and_is_silent(
    moves: GrpcEngineMoves, engine: tuple[Engine, str]
) -> None:
    servicer, address = engine
    heard = Heard()
    pull = moves.pull(address, pb.PullRequest(), heard.put_nowait)
    await heard.next()
    pull.cancel()
    async with asyncio.timeout(10):
        await servicer.pull_ended.wait()
    assert heard.empty()


async def test_a_source_that_is_not_there_ends_the_pull(moves: GrpcEngineMoves) -> None:
    heard = Heard()
    moves.pull("127.0.0.1:1", pb.PullRequest(), heard.put_nowait)
    assert await heard.next() is None


async def test_closing_ends_what_is_under_way(engine: tuple[Engine, str]) -> None:
    servicer, address = engine
    moves, heard = GrpcEngineMoves(), Heard()
    moves.pull(address, pb.PullRequest(), heard.put_nowait)
    await heard.next()
    await moves.close()
    async with asyncio.timeout(10):
        await servicer.pull_ended.wait()
    assert heard.empty()
