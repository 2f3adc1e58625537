"""What a lost connection and a restarted scheduler leave behind: an exact ledger."""

import asyncio

import grpc

from scheduler_service import Scheduler, SchedulerFactory
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.service.testing import GatewayClient, submission


def running(request_id: str, instance: str) -> pb.GatewayEvent:
    return pb.GatewayEvent(
        running=pb.Running(request=submission(request_id, output_tokens=5), instance=instance)
    )


async def test_a_restarted_scheduler_is_told_what_runs_and_what_waits(
    new_scheduler: SchedulerFactory,
) -> None:
    async with new_scheduler() as first, GatewayClient(first.channel) as gateway:
        ids = [f"r-{i}" for i in range(20)]
        await gateway.submit(*ids)
        placed = {i: (await gateway.assigned(i)).instance for i in ids}

    async with new_scheduler() as second, GatewayClient(second.channel) as gateway:
        await gateway.send(*(running(i, instance) for i, instance in placed.items()))
        await gateway.submit("waited", waited_ms=700)
        await gateway.assigned("waited")
        counts = await second.running()
        for name in counts:
            told = sum(1 for instance in placed.values() if instance == name)
            assert counts[name] - told in (0, 1)
        assert sum(counts.values()) == 21
        assert all(gateway.nothing_for(i) for i in ids), "what runs is not placed again"

        await gateway.finish(*ids, "waited")
        await second.wait_running(0)


async def test_a_gateway_that_comes_back_in_time_finds_its_requests(
    new_scheduler: SchedulerFactory,
) -> None:
    async with new_scheduler(grace_s=30.0) as scheduler:
        async with GatewayClient(scheduler.channel) as gateway:
            await gateway.submit("r-1", "r-2")
            placed = {i: (await gateway.assigned(i)).instance for i in ("r-1", "r-2")}
        await no_gateways(scheduler)
        assert sum((await scheduler.running()).values()) == 2

        async with GatewayClient(scheduler.channel) as gateway:
            await gateway.send(*(running(i, instance) for i, instance in placed.items()))
            await gateway.submit("r-3")
            await gateway.assigned("r-3")
            assert sum((await scheduler.running()).values()) == 3
            await gateway.finish("r-1", "r-2", "r-3")
            await scheduler.wait_running(0)


async def test_a_placement_that_never_arrived_is_made_again(
    new_scheduler: SchedulerFactory,
) -> None:
    """The gateway was away when its request was placed: it submits it again, same epoch."""
    async with new_scheduler(grace_s=30.0) as scheduler:
        async with GatewayClient(scheduler.channel) as gateway:
            await gateway.topology()
            await gateway.submit("r-1")
            await gateway.assigned("r-1")  # to the test only: the gateway below never saw it
        await no_gateways(scheduler)
        async with GatewayClient(scheduler.channel) as gateway:
            await gateway.submit("r-1", waited_ms=100)
            assign = await gateway.assigned("r-1")
            assert await scheduler.running() == {
                name: int(name == assign.instance) for name in ("chat-0", "chat-1")
            }
            await gateway.finish("r-1")
            await scheduler.wait_running(0)


async def test_what_a_returning_gateway_does_not_report_is_gone(
    new_scheduler: SchedulerFactory,
) -> None:
    """It ended while the session was down, and nobody told the scheduler."""
    async with new_scheduler(grace_s=0.3) as scheduler:
        async with GatewayClient(scheduler.channel) as gateway:
            await gateway.submit("runs-on", "ended")
            instance = (await gateway.assigned("runs-on")).instance
            await gateway.assigned("ended")
        async with GatewayClient(scheduler.channel) as gateway:
            await gateway.send(running("runs-on", instance))
            await gateway.submit("fresh")
            await gateway.assigned("fresh")
            await scheduler.wait_running(2)
            await asyncio.sleep(0.4)
            explanation = await scheduler.stub.Explain(pb.ExplainRequest(request_id="runs-on"))
            assert explanation.state == "running"
            await gateway.finish("runs-on", "fresh")
            await scheduler.wait_running(0)


async def test_a_gateway_that_stays_away_is_given_up(new_scheduler: SchedulerFactory) -> None:
    async with new_scheduler(grace_s=0.1) as scheduler:
        async with GatewayClient(scheduler.channel) as gateway:
            await gateway.submit("r-1", "r-2")
            await gateway.assigned("r-2")
            await scheduler.wait_running(2)
        await scheduler.wait_running(0)


async def test_a_scheduler_that_stops_says_so(new_scheduler: SchedulerFactory) -> None:
    scheduler = new_scheduler()
    async with scheduler, GatewayClient(scheduler.channel) as gateway:
        await gateway.topology()
        scheduler.stop.set()
        error = await gateway.status()
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def no_gateways(scheduler: Scheduler) -> None:
    async with asyncio.timeout(10):
        while (await scheduler.status()).gateways:
            await asyncio.sleep(0.01)
