"""Fetches from another engine's `EngineMoves`."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import grpc

from shunter_engine.moves.layout import MAX_CHUNK_BYTES
from shunter_engine.moves.ports import Connect, Source, SourceLost
from shunter_proto.v1 import moves_pb2 as pb
from shunter_proto.v1 import moves_pb2_grpc as pb_grpc
from shunter_runtime.tls import TlsFiles, channel_credentials

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_CHUNK_BYTES + (64 << 10)),
    # A source that has gone without a word is noticed while it has nothing to send, too.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


def connector(tls: TlsFiles | None) -> Connect:
    """A channel of its own for each move. Raises `TlsError`."""
    credentials = channel_credentials(tls) if tls is not None else None

    @asynccontextmanager
    async def connect(address: str) -> AsyncIterator[Source]:
        if credentials is None:
            channel = grpc.aio.insecure_channel(address, _OPTIONS)
        else:
            channel = grpc.aio.secure_channel(address, credentials, _OPTIONS)
        async with channel:
            yield _Source(address, pb_grpc.EngineMovesStub(channel))

    return connect


class _Source:
    def __init__(self, address: str, stub: "pb_grpc.EngineMovesAsyncStub") -> None:
        self._address = address
        self._stub = stub

    async def export(self, request: pb.ExportRequest) -> AsyncGenerator[pb.KvChunk, None]:
        call = self._stub.Export(request)
        try:
            async for chunk in call:
                yield chunk
        except grpc.aio.AioRpcError as error:
            raise SourceLost(f"{self._address}: {error.code().name}: {error.details()}") from error
        finally:
            call.cancel()
