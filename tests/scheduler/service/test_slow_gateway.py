"""A gateway that does not read what it is sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from scheduler_service import Scheduler
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_scheduler.domain.decisions import Assign, Hold
from shunter_scheduler.service.errors import SlowGateway
from shunter_scheduler.service.sessions import MAX_COMMANDS_PER_MESSAGE, Session
from shunter_scheduler.service.testing import GatewayClient, submitted


class StuckStream:
    """Takes messages one by one, each once `read` lets it."""

    def __init__(self) -> None:
        self.messages: list[pb.SchedulerCommands] = []
        self.may_write = asyncio.Semaphore(0)

    async def write(self, message: pb.SchedulerCommands) -> None:
        await self.may_write.acquire()
        self.messages.append(message)


@asynccontextmanager
async def pumping(session: Session, stream: StuckStream) -> AsyncIterator[None]:
    pump = asyncio.create_task(session.pump(stream.write, dict, int))
    try:
        yield
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)


def hold(number: int) -> Hold:
    return Hold(f"r-{number}", "gw-1", 1, number, 0.5)


async def test_whatever_is_queued_leaves_in_one_message() -> None:
    session, stream = Session("gw-1", pb.Topology(version=7), 10_000), StuckStream()
    async with pumping(session, stream):
        for number in range(MAX_COMMANDS_PER_MESSAGE + 10):
            session.send([hold(number)])
        session.send_topology(pb.Topology(version=8))
        for _ in range(3):
            stream.may_write.release()
        await asyncio.sleep(0.01)

    sizes = [len(message.commands) for message in stream.messages]
    assert sizes == [1, MAX_COMMANDS_PER_MESSAGE, 10]
    assert stream.messages[0].commands[0].topology.version == 8, "only the latest counts"
    ids = [c.hold.request_id for m in stream.messages[1:] for c in m.commands]
    assert ids == [f"r-{number}" for number in range(MAX_COMMANDS_PER_MESSAGE + 10)]


async def test_a_queue_that_only_grows_ends_the_session() -> None:
    session, stream = Session("gw-1", pb.Topology(), 100), StuckStream()
    async with pumping(session, stream):
        for number in range(100):
            session.send([hold(number)])
        assert not session.closed.done()
        session.send([Assign("r-x", "gw-1", 1, "i-0", "chat", "standard", 0, 0.1)])
        assert isinstance(session.closed.result(), SlowGateway)
        assert "gw-1 reads too slowly: 100 commands" in str(session.closed.result())
        session.send([hold(1)])  # nothing more is kept, nothing raised


async def test_much_at_once_does_not_make_a_gateway_slow() -> None:
    """All that wait are told of a new phase in one batch, and there may be more than the bound."""
    session, stream = Session("gw-1", pb.Topology(), 100), StuckStream()
    async with pumping(session, stream):
        session.send([hold(number) for number in range(250)])
        assert not session.closed.done()
        session.send([hold(250)])
        assert isinstance(session.closed.result(), SlowGateway)


async def test_a_gateway_that_does_not_read_loses_its_session_only(scheduler: Scheduler) -> None:
    """Flow control stops its stream; the others go on; once it reads, it finds the status."""
    options = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
    target = f"127.0.0.1:{scheduler.port}"
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        call = pb_grpc.SchedulerStub(channel).Session()
        hello = pb.GatewayEvent(hello=pb.Hello(gateway_id="deaf"))
        await call.write(pb.GatewayEvents(events=[hello]))
        async with GatewayClient(scheduler.channel, "other") as other, asyncio.timeout(30):
            await other.submit("r-1")
            await other.assigned("r-1")
            number = 0
            while (await scheduler.status()).gateways == 2:  # answered at once, at some length
                batch = [submitted(f"d-{number}-{i}", model="nonesuch" * 9) for i in range(100)]
                await call.write(pb.GatewayEvents(events=batch))
                number += 1
            await other.submit("r-2")
            await other.assigned("r-2")
            with pytest.raises(grpc.aio.AioRpcError, match="deaf reads too slowly") as ended:
                while True:
                    await call.read()
            assert ended.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
