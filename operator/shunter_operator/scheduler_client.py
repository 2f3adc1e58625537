"""The operator's calls to the scheduler: the only module here that knows the wire."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import grpc

from shunter_operator.values import Advice, InstanceLoad, PoolLoad, SchedulerView
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1.scheduler_pb2_grpc import SchedulerStub

if TYPE_CHECKING:
    from shunter_proto.v1.scheduler_pb2_grpc import SchedulerAsyncStub

CALL_TIMEOUT_S = 5.0
FRESH_S = 2.0  # an answer serves every pool for so long
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


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
        self._channel = (
            grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=_CHANNEL_OPTIONS)
        )
        self._stub: SchedulerAsyncStub = SchedulerStub(self._channel)
        self._asking: asyncio.Task[Mapping[str, SchedulerView] | None] | None = None
        self._asked_at = 0.0

    async def view(self, pool: str) -> SchedulerView | None:
        now = asyncio.get_running_loop().time()
        if self._asking is None or (self._asking.done() and now - self._asked_at > FRESH_S):
            self._asked_at = now
            self._asking = asyncio.create_task(self._views())
        views = await asyncio.shield(self._asking)
        return views.get(pool, SchedulerView()) if views is not None else None

    async def drain(self, instance: str, deadline_s: float) -> None:
        """The call streams progress until the end; its first message says that it is in force."""
        request = pb.DrainRequest(instance=instance, deadline_ms=int(deadline_s * 1000))
        call = self._stub.Drain(request, timeout=CALL_TIMEOUT_S)
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            raise _unavailable("Drain", error) from error
        finally:
            call.cancel()

    async def undrain(self, instance: str) -> None:
        request = pb.UndrainRequest(instance=instance)
        try:
            await self._stub.Undrain(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise _unavailable("Undrain", error) from error

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._channel.close()

    async def _views(self) -> Mapping[str, SchedulerView] | None:
        try:
            status, advice = await asyncio.gather(
                self._stub.Status(pb.StatusRequest(), timeout=CALL_TIMEOUT_S),
                self._stub.AdviseScaling(pb.AdviseScalingRequest(), timeout=CALL_TIMEOUT_S),
            )
        except grpc.aio.AioRpcError:
            return None
        return views_of(status, advice)


def views_of(status: pb.StatusReply, advice: pb.AdviseScalingReply) -> dict[str, SchedulerView]:
    """By pool."""
    return {
        pool.name: SchedulerView(
            instances={
                i.name: InstanceLoad(i.state, i.running, i.ledger_tokens)
                for i in status.instances
                if i.pool == pool.name
            },
            pool=PoolLoad(
                waiting=pool.waiting,
                running=pool.running,
                ttft_p95_s=pool.ttft_p95_s,
                output_tokens_per_s=pool.output_tokens_per_s,
                slo_attainment=pool.slo_attainment,
            ),
            advice={
                a.profile: Advice(a.desired_replicas, a.reason)
                for a in advice.advice
                if a.pool == pool.name
            },
        )
        for pool in status.pools
    }


def _unavailable(call: str, error: grpc.aio.AioRpcError) -> SchedulerUnavailable:
    return SchedulerUnavailable(f"{call}: {error.code().name}: {error.details()}")
