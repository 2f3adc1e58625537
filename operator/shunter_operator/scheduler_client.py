"""The operator's calls to the scheduler: the only module here that knows the wire.

Each attempt makes a connection of its own: behind a Service it comes to the scheduler that leads,
or to a standby, which refuses every call.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc

from shunter_operator.scheduler_view import Advice, InstanceLoad, PoolLoad, SchedulerView
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1.scheduler_pb2_grpc import SchedulerStub

if TYPE_CHECKING:
    from shunter_proto.v1.scheduler_pb2_grpc import SchedulerAsyncStub

CALL_TIMEOUT_S = 5.0
FRESH_S = 2.0  # an answer, or that there was none, serves every pool for so long
ATTEMPTS = 6  # with one standby, one call in 64 meets it every time
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.use_local_subchannel_pool", 1),  # no connection of an earlier attempt
)
T = TypeVar("T")


class SchedulerUnavailable(Exception):
    """The scheduler does not answer, or refuses the call."""


class SchedulerPort(Protocol):
    async def view(self, pool: str) -> SchedulerView | None:
        """What it knows of a pool; None where it does not answer."""

    async def drain(self, instance: str, deadline_s: float) -> None:
        """Begins a drain. Raises `SchedulerUnavailable`."""

    async def undrain(self, instance: str) -> None:
        """Raises `SchedulerUnavailable`."""


class SchedulerClient:
    """`SchedulerPort` over gRPC. Built inside a running loop; ended with `close`."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        self._address = address
        self._credentials = credentials
        self._asking: asyncio.Task[Mapping[str, SchedulerView] | None] | None = None
        self._answered_at = 0.0

    async def view(self, pool: str) -> SchedulerView | None:
        now = asyncio.get_running_loop().time()
        if self._asking is None or (self._asking.done() and now - self._answered_at > FRESH_S):
            self._asking = asyncio.create_task(self._views())
        views = await asyncio.shield(self._asking)
        return views.get(pool, SchedulerView()) if views is not None else None

    async def drain(self, instance: str, deadline_s: float) -> None:
        """The call streams progress until the end; its first message says that it is in force."""
        request = pb.DrainRequest(instance=instance, deadline_ms=int(deadline_s * 1000))

        async def begin(stub: "SchedulerAsyncStub") -> None:
            call = stub.Drain(request, timeout=CALL_TIMEOUT_S)
            try:
                await call.read()
            finally:
                call.cancel()

        await self._tell("Drain", begin)

    async def undrain(self, instance: str) -> None:
        request = pb.UndrainRequest(instance=instance)

        async def call(stub: "SchedulerAsyncStub") -> None:
            await stub.Undrain(request, timeout=CALL_TIMEOUT_S)

        await self._tell("Undrain", call)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _tell(
        self, name: str, call: Callable[["SchedulerAsyncStub"], Awaitable[None]]
    ) -> None:
        """Raises `SchedulerUnavailable`."""
        try:
            await self._call(call)
        except grpc.aio.AioRpcError as error:
            message = f"{name}: {error.code().name}: {error.details()}"
            raise SchedulerUnavailable(message) from error

    async def _views(self) -> Mapping[str, SchedulerView] | None:
        async def ask(stub: "SchedulerAsyncStub") -> Mapping[str, SchedulerView]:
            status, advice = await asyncio.gather(
                stub.Status(pb.StatusRequest(), timeout=CALL_TIMEOUT_S),
                stub.AdviseScaling(pb.AdviseScalingRequest(), timeout=CALL_TIMEOUT_S),
            )
            return views_of(status, advice)

        try:
            return await self._call(ask)
        except grpc.aio.AioRpcError:
            return None
        finally:
            self._answered_at = asyncio.get_running_loop().time()

    async def _call(self, call: Callable[["SchedulerAsyncStub"], Awaitable[T]]) -> T:
        """Raises `grpc.aio.AioRpcError`."""
        attempt = 1
        while True:
            async with self._channel() as channel:
                try:
                    return await call(SchedulerStub(channel))
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt >= ATTEMPTS:
                        raise
            attempt += 1

    def _channel(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._address, options=_CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(self._address, self._credentials, options=_CHANNEL_OPTIONS)


def views_of(status: pb.StatusReply, advice: pb.AdviseScalingReply) -> dict[str, SchedulerView]:
    """By pool."""
    instances: dict[str, dict[str, InstanceLoad]] = {pool.name: {} for pool in status.pools}
    advised: dict[str, dict[str, Advice]] = {pool.name: {} for pool in status.pools}
    for i in status.instances:
        if i.pool in instances:
            instances[i.pool][i.name] = InstanceLoad(i.state, i.running, i.ledger_tokens)
    for a in advice.advice:
        if a.pool in advised:
            advised[a.pool][a.profile] = Advice(a.desired_replicas, a.reason)
    return {
        pool.name: SchedulerView(
            instances=instances[pool.name],
            pool=PoolLoad(
                waiting=pool.waiting,
                running=pool.running,
                ttft_p95_s=pool.ttft_p95_s,
                output_tokens_per_s=pool.output_tokens_per_s,
                slo_attainment=pool.slo_attainment,
            ),
            advice=advised[pool.name],
        )
        for pool in status.pools
    }
