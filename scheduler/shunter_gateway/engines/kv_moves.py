"""`EngineMoves` of all engines over gRPC: one channel per address, kept while it is used."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from shunter_gateway.moves.ports import MoveCall, MoveReply, Transfer
from shunter_proto.v1 import moves_pb2 as pb
from shunter_proto.v1.moves_pb2_grpc import EngineMovesStub
from shunter_runtime.tls import TlsFiles, channel_credentials

_log = structlog.get_logger(__name__)
MAX_IDLE_CHANNELS = 64
_OPTIONS = (
    ("grpc.enable_retries", 0),  # who calls decides what is asked again
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


@dataclass(slots=True)
class _Peer:
    channel: grpc.aio.Channel
    stub: Any
    in_use: int = 0


class _Pull:
    """A `Transfer`."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()


class GrpcEngineMoves:
    """Owns the calls under way; `close` ends them."""

    def __init__(self, tls: TlsFiles | None = None) -> None:
        """Raises `TlsError`."""
        self._credentials = channel_credentials(tls) if tls is not None else None
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def call(
        self,
        address: str,
        request: MoveCall,
        timeout_s: float,
        on_reply: Callable[[MoveReply | None], None],
    ) -> None:
        self._start(self._call(address, request, timeout_s, on_reply))

    def pull(
        self,
        address: str,
        request: pb.PullRequest,
        on_report: Callable[[pb.PullReport | None], None],
    ) -> Transfer:
        pull = _Pull()
        pull.task = self._start(self._pull(address, request, on_report, pull))
        return pull

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self._peers.values():
            await peer.channel.close()
        self._peers.clear()

    # ------------------------------------------------------------ details

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name="engine-moves")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _call(
        self,
        address: str,
        request: MoveCall,
        timeout_s: float,
        on_reply: Callable[[MoveReply | None], None],
    ) -> None:
        reply: MoveReply | None = None
        async with self._peer(address) as stub:
            try:
                reply = await _method(stub, request)(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                _log.info("engine_move_unanswered", address=address, code=error.code().name)
            except Exception:  # a task's outermost level: whoever asked has to hear something
                _log.exception("engine_move_failed", address=address)
        on_reply(reply)

    async def _pull(
        self,
        address: str,
        request: pb.PullRequest,
        on_report: Callable[[pb.PullReport | None], None],
        pull: _Pull,
    ) -> None:
        async with self._peer(address) as stub:
            reports = stub.Pull(request)
            try:
                async for report in reports:
                    if pull.cancelled:
                        return
                    on_report(report)
            except grpc.aio.AioRpcError as error:
                _log.info("engine_move_broken", address=address, code=error.code().name)
            except Exception:
                _log.exception("engine_move_failed", address=address)
            finally:
                reports.cancel()
        if not pull.cancelled:
            on_report(None)

    @contextlib.asynccontextmanager
    async def _peer(self, address: str) -> AsyncIterator[Any]:
        peer = self._peers.get(address)
        if peer is None:
            channel = self._channel(address)
            peer = self._peers[address] = _Peer(channel, EngineMovesStub(channel))
        self._peers.move_to_end(address)
        peer.in_use += 1
        try:
            yield peer.stub
        finally:
            peer.in_use -= 1
            await self._close_idle()

    def _channel(self, address: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        return grpc.aio.secure_channel(address, self._credentials, options=_OPTIONS)

    async def _close_idle(self) -> None:
        """Of engines that have not been called for longest, beyond the limit."""
        idle = [address for address, peer in self._peers.items() if not peer.in_use]
        for address in idle[: max(0, len(self._peers) - MAX_IDLE_CHANNELS)]:
            await self._peers.pop(address).channel.close()


def _method(stub: Any, request: MoveCall) -> Any:
    return getattr(stub, type(request).__name__.removesuffix("Request"))
