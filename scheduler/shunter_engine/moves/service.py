"""`EngineMoves` on a port of its own."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from shunter_engine.moves.layout import MAX_CHUNK_BYTES
from shunter_engine.moves.moves import Moves
from shunter_proto.v1 import moves_pb2 as pb
from shunter_proto.v1 import moves_pb2_grpc as pb_grpc
from shunter_runtime.tls import TlsFiles, bind_server

_SERVICE = pb.DESCRIPTOR.services_by_name["EngineMoves"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
MAX_ID_CHARS = 64
MAX_STATE_BYTES = 64 << 10
MAX_REQUEST_BYTES = 8 << 20  # Prepare brings the ids of a whole context
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_CHUNK_BYTES + (64 << 10)),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.so_reuseport", 0),
]
_Context = grpc.aio.ServicerContext[Any, Any]


class EngineMovesService(pb_grpc.EngineMovesServicer):
    """Bounds what comes in, and hands it on."""

    def __init__(self, moves: Moves) -> None:
        self._moves = moves

    async def Describe(self, request: pb.DescribeRequest, context: _Context) -> pb.DescribeReply:
        return self._moves.describe()

    async def Offer(self, request: pb.OfferRequest, context: _Context) -> pb.OfferReply:
        await _check(request.move_id, context)
        return self._moves.outgoing.offer(request)

    async def Prepare(self, request: pb.PrepareRequest, context: _Context) -> pb.PrepareReply:
        await _check(request.move_id, context)
        return await self._moves.incoming.prepare(request)

    async def Pull(
        self, request: pb.PullRequest, context: _Context
    ) -> AsyncGenerator[pb.PullReport, None]:
        await _check(request.move_id, context)
        incoming, complete = self._moves.incoming, False
        async with aclosing(incoming.pull(request)) as reports:
            async for report in reports:
                complete = report.complete
                yield report
        if complete:
            await incoming.taken_over(request.move_id)

    async def Export(
        self, request: pb.ExportRequest, context: _Context
    ) -> AsyncGenerator[pb.KvChunk, None]:
        await _check(request.move_id, context)
        async with aclosing(self._moves.outgoing.export(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def Freeze(self, request: pb.FreezeRequest, context: _Context) -> pb.FreezeReply:
        await _check(request.move_id, context)
        return await self._moves.outgoing.freeze(request)

    async def Commit(self, request: pb.CommitRequest, context: _Context) -> pb.CommitReply:
        await _check(request.move_id, context)
        if len(request.sampler_state) > MAX_STATE_BYTES:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "sampler_state: over 64 KiB")
        return await self._moves.incoming.commit(request)

    async def Release(self, request: pb.ReleaseRequest, context: _Context) -> pb.ReleaseReply:
        await _check(request.move_id, context)
        return self._moves.outgoing.release(request)

    async def Abort(self, request: pb.AbortRequest, context: _Context) -> pb.AbortReply:
        await _check(request.move_id, context)
        return self._moves.abort(request)

    async def State(self, request: pb.StateRequest, context: _Context) -> pb.StateReply:
        await _check(request.move_id, context)
        return self._moves.state(request.move_id)


async def _check(move_id: str, context: _Context) -> None:
    if not 0 < len(move_id) <= MAX_ID_CHARS:
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, f"move_id: 1 to {MAX_ID_CHARS} characters"
        )


class MovesListener:
    """Owns the gRPC server. Mutual TLS where the files have a CA."""

    def __init__(self, moves: Moves, tls: TlsFiles | None = None) -> None:
        self._moves = moves
        self._tls = tls
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """The bound port. Raises `OSError` and `TlsError`."""
        server = grpc.aio.server(options=_OPTIONS)
        pb_grpc.add_EngineMovesServicer_to_server(EngineMovesService(self._moves), server)
        health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        reflection.enable_server_reflection((_SERVICE, _HEALTH, reflection.SERVICE_NAME), server)
        address = f"{host}:{port}"
        bound = bind_server(server, address, self._tls)
        await health.set(_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        self._server = server
        return bound

    async def close(self) -> None:
        """Cuts off what is under way."""
        if self._server is not None:
            await self._server.stop(None)
        self._moves.close()
