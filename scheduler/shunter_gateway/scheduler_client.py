"""The one gRPC stream to the scheduler: batches whatever is queued, reconnects for ever.

Names are resolved anew for each round over all of their addresses (those of a headless Service are
the schedulers' pods), with a connection of its own for each attempt, until one comes to the
scheduler that leads. Commands of an older term than the highest seen are refused: a
leader that was stopped and wakes does not know yet that another leads.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import structlog

from shunter_gateway.lifecycle_ports import SchedulerEvent, SessionListener
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1.scheduler_pb2_grpc import SchedulerStub

if TYPE_CHECKING:
    from shunter_proto.v1.scheduler_pb2_grpc import SchedulerAsyncStub

    SessionCall = grpc.aio.StreamStreamCall[pb.GatewayEvents, pb.SchedulerCommands]

_log = structlog.get_logger(__name__)
_BATCH = 256
_QUEUE = 200_000
_RESOLVE_TIMEOUT_S = 2.0
_ENDS = (pb.Finished, pb.Failed, pb.MoveDone)
_CHANNEL_OPTIONS = (
    # A scheduler that stands still is given up by the time that its Lease has run out.
    ("grpc.keepalive_time_ms", 4_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),  # 60 s by default, whatever the keepalive timeout
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),  # no connection of an earlier attempt
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # gRPC's name for the time to connect
)


@dataclass(frozen=True, slots=True)
class SchedulerTarget:
    address: str  # host:port, or several with a comma between
    gateway_id: str
    version: str
    credentials: grpc.ChannelCredentials | None = None
    backoff_s: float = 0.1
    max_backoff_s: float = 1.0

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self.address.split(","))


@dataclass(frozen=True, slots=True)
class _Endpoint:
    address: str  # ip:port
    host: str  # the name that its certificate has


async def _resolved(addresses: Sequence[str]) -> list[_Endpoint]:
    """Every address of every name, in order; a name that is not found stands for itself, so that
    the attempt says what is wrong with it."""
    found: dict[str, _Endpoint] = {}
    for address in addresses:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        try:
            async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
                answers = await asyncio.get_running_loop().getaddrinfo(
                    host, int(port), type=socket.SOCK_STREAM
                )
        except (OSError, TimeoutError):
            found.setdefault(address, _Endpoint(address, host))
            continue
        for *_, name in answers:
            ip = f"[{name[0]}]:{port}" if ":" in str(name[0]) else f"{name[0]}:{port}"
            found.setdefault(ip, _Endpoint(ip, host))
    return list(found.values())


class SchedulerClient:
    """`SchedulerLink` over `Scheduler.Session`. Run `run(listener)` as a task until cancelled."""

    def __init__(self, target: SchedulerTarget) -> None:
        self._target = target
        self._time = asyncio.get_running_loop().time
        self._queue: deque[SchedulerEvent] = deque()
        self._queued = asyncio.Event()
        self._warned = False
        self._term = 0
        self.lost_since: float | None = self._time()
        self.heard_at = 0.0

    def send(self, event: SchedulerEvent) -> None:
        """Never blocks. Without a session only ends of epochs are kept: the rest is told anew."""
        if self.lost_since is not None and not isinstance(event, _ENDS):
            return
        if len(self._queue) >= _QUEUE:
            self._queue.popleft()
        self._queue.append(event)
        self._queued.set()

    async def run(self, listener: SessionListener) -> None:
        target = self._target
        backoff_s = target.backoff_s
        while True:
            for endpoint in await _resolved(target.addresses):
                began = self._time()
                async with self._channel(endpoint) as channel:
                    reason = await self._guarded(SchedulerStub(channel), listener)
                self._lose(reason)
                if self._time() - began > target.max_backoff_s:
                    backoff_s = target.backoff_s
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, target.max_backoff_s)

    def _channel(self, endpoint: "_Endpoint") -> grpc.aio.Channel:
        credentials = self._target.credentials
        if credentials is None:
            return grpc.aio.insecure_channel(endpoint.address, options=_CHANNEL_OPTIONS)
        named = ("grpc.ssl_target_name_override", endpoint.host)
        return grpc.aio.secure_channel(
            endpoint.address, credentials, options=(*_CHANNEL_OPTIONS, named)
        )

    def _lose(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("scheduler_lost", scheduler=self._target.address, reason=reason)
        if self.lost_since is None:
            self.lost_since = self._time()
            kept = [event for event in self._queue if isinstance(event, _ENDS)]
            self._queue.clear()
            self._queue.extend(kept)

    async def _guarded(self, stub: "SchedulerAsyncStub", listener: SessionListener) -> str:
        """The outermost loop: whatever a session dies of, the gateway tries the next one."""
        try:
            return await self._session(stub, listener)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {(error.details() or '')[:200]}"
        except asyncio.InvalidStateError:
            return "ended while it was written to"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return "cancelled by the other side"
        except Exception:
            _log.exception("scheduler_session_failed")
            return "an error of this gateway"

    async def _session(self, stub: "SchedulerAsyncStub", listener: SessionListener) -> str:
        """One session from Hello to its end; returns why it ended."""
        call = stub.Session()
        writer: asyncio.Task[None] | None = None
        try:
            target = self._target
            hello = pb.Hello(gateway_id=target.gateway_id, version=target.version, term=self._term)
            await call.write(pb.GatewayEvents(events=[pb.GatewayEvent(hello=hello)]))
            while isinstance(message := await call.read(), pb.SchedulerCommands):
                if 0 < message.term < self._term:
                    return f"its term is {message.term}, and {self._term} is in force"
                self._term = max(self._term, message.term)
                self.heard_at = self._time()
                listener.on_commands(message)
                if writer is None:  # the first message: a topology, so this scheduler is alive
                    self._begin(listener)
                    writer = asyncio.create_task(self._write(call))
            return "closed by the scheduler"
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            call.cancel()

    def _begin(self, listener: SessionListener) -> None:
        _log.info("scheduler_session", scheduler=self._target.address)
        self.lost_since = None
        self._warned = False
        listener.on_session()
        self._queued.set()

    async def _write(self, call: "SessionCall") -> None:
        queue = self._queue
        while True:
            await self._queued.wait()
            self._queued.clear()
            while queue:
                count = min(len(queue), _BATCH)
                batch = [_wrapped(queue.popleft()) for _ in range(count)]
                try:
                    await call.write(pb.GatewayEvents(events=batch))
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    return  # the reader hears why


def _wrapped(event: SchedulerEvent) -> pb.GatewayEvent:
    match event:
        case pb.Submitted():
            return pb.GatewayEvent(submitted=event)
        case pb.Running():
            return pb.GatewayEvent(running=event)
        case pb.FirstToken():
            return pb.GatewayEvent(first_token=event)
        case pb.Progress():
            return pb.GatewayEvent(progress=event)
        case pb.Finished():
            return pb.GatewayEvent(finished=event)
        case pb.Failed():
            return pb.GatewayEvent(failed=event)
        case pb.MoveDone():
            return pb.GatewayEvent(move_done=event)
