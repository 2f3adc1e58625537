"""Helpers for tests of moves: engines with a moves port, whose speed does not matter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from shunter_engine.loading import load
from shunter_engine.moves.ports import Calls, KvHost
from shunter_engine.moves.start import serving_moves
from shunter_engine.options import EngineOptions
from shunter_engine.server import EngineParts, EngineServer, listen
from shunter_proto.v1 import moves_pb2_grpc as pb_grpc
from shunter_runtime.metrics import port_of
from shunter_simulator.engine import StepPlan


@dataclass
class MovingEngine:
    url: str
    moves: str  # host:port
    stub: "pb_grpc.EngineMovesAsyncStub"
    parts: EngineParts
    holds: "Holds"

    @property
    def used_blocks(self) -> int:
        return self.parts.backend.stats().kv_blocks_used


class Holds:
    """Lets an engine compute nothing while an answer is to wait at so many tokens for its move:
    where a test meets it does not hang on the machine's speed."""

    def __init__(self, host: KvHost, calls: Calls) -> None:
        self._host = host
        self._calls = calls
        self._at: dict[str, int] = {}
        self._plan = host.batch.plan
        host.batch.plan = self.plan  # type: ignore[method-assign]

    def hold(self, call_id: str, output_tokens: int) -> None:
        """To be called before the call comes."""
        self._at[call_id] = output_tokens

    def let_go(self, call_id: str) -> None:
        self._at.pop(call_id, None)
        self.wake()

    def wake(self) -> None:
        """After a hold was moved on."""
        self._host.wake()

    def plan(self) -> StepPlan | None:
        for call_id, output_tokens in self._at.items():
            for name in self._calls.sequences_of(call_id):
                view = self._host.batch.view(name)
                if view is not None and view.output_tokens >= output_tokens:
                    return None
        return self._plan()


@asynccontextmanager
async def moving_engine(
    options: EngineOptions, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[MovingEngine]:
    """An engine in this process, behind real sockets. `options` has a moves port; `credentials`
    are those of the `stub` given."""
    server = EngineServer(options.model_name, allow_faults=True)
    parts = await load(options)
    runner = await listen(server, "127.0.0.1", 0)
    try:
        async with serving_moves(options, parts, server) as take_over:
            server.load(parts, take_over)
            port = _moves_port(server)
            async with _channel(f"127.0.0.1:{port}", credentials) as channel:
                stub = pb_grpc.EngineMovesStub(channel)
                assert isinstance(parts.backend, KvHost)
                url, moves = f"http://127.0.0.1:{port_of(runner)}", f"127.0.0.1:{port}"
                yield MovingEngine(url, moves, stub, parts, Holds(parts.backend, server.calls))
            await runner.cleanup()
    finally:
        await runner.cleanup()
        await parts.backend.stop()


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address)
    return grpc.aio.secure_channel(address, credentials)


def _moves_port(server: EngineServer) -> int:
    for family in server.registry.collect():
        if family.name == "shunter:kv_moves_info":
            return int(family.samples[0].labels["port"])
    raise AssertionError("no moves port is advertised")
