"""The operator's calls, over real sockets, to schedulers of which one leads."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from shunter_operator.scheduler_client import ATTEMPTS, SchedulerClient, SchedulerUnavailable
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc


@dataclass
class OfTwoSchedulers(pb_grpc.SchedulerServicer):
    """Behind one address: the first `refusals` connections come to the standby."""

    refusals: int
    connections: set[str] = field(default_factory=set)
    drained: list[str] = field(default_factory=list)

    async def _lead(self, context: Any) -> None:
        self.connections.add(context.peer())
        if len(self.connections) <= self.refusals:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "standby; the leader is other")

    async def Status(self, request: Any, context: Any) -> pb.StatusReply:
        await self._lead(context)
        return pb.StatusReply(pools=[pb.StatusReply.Pool(name="chat", waiting=7)])

    async def AdviseScaling(self, request: Any, context: Any) -> pb.AdviseScalingReply:
        await self._lead(context)
        return pb.AdviseScalingReply()

    async def Drain(self, request: Any, context: Any) -> AsyncIterator[pb.DrainProgress]:
        await self._lead(context)
        self.drained.append(request.instance)
        yield pb.DrainProgress(instance=request.instance)


@asynccontextmanager
async def client_of(servicer: OfTwoSchedulers) -> AsyncIterator[SchedulerClient]:
    server = grpc.aio.server()
    pb_grpc.add_SchedulerServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = SchedulerClient(f"127.0.0.1:{port}")
    try:
        yield client
    finally:
        await client.close()
        await server.stop(None)


@pytest.mark.parametrize("refusals", [0, 1, ATTEMPTS - 1])
async def test_calls_come_to_the_leader(refusals: int) -> None:
    servicer = OfTwoSchedulers(refusals)  # type: ignore[abstract]
    async with client_of(servicer) as client:
        view = await client.view("chat")
        assert view is not None and view.pool is not None and view.pool.waiting == 7
        await client.drain("chat-0", 1.0)
    assert servicer.drained == ["chat-0"]
    assert len(servicer.connections) == refusals + 2


async def test_with_standbys_alone_it_is_unavailable() -> None:
    servicer = OfTwoSchedulers(1000)  # type: ignore[abstract]
    async with client_of(servicer) as client:
        assert await client.view("chat") is None
        with pytest.raises(SchedulerUnavailable, match="Drain: UNAVAILABLE: standby"):
            await client.drain("chat-0", 1.0)
    assert len(servicer.connections) == 2 * ATTEMPTS
