"""Explain, Status, Watch, Drain, AdviseScaling, health and reflection."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from scheduler_service import Config, Scheduler
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.service.testing import GatewayClient


async def test_an_unknown_request_has_no_explanation(scheduler: Scheduler) -> None:
    for request_id, words in (("nonesuch", "request nonesuch"), ("", "any request")):
        with pytest.raises(grpc.aio.AioRpcError, match=words) as unknown:
            await scheduler.stub.Explain(pb.ExplainRequest(request_id=request_id), timeout=10)
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_status_shows_pools_instances_and_gateways(
    config: Config, scheduler: Scheduler
) -> None:
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.submit("r-1", "r-2", "r-3")
        await gateway.assigned("r-3")
        status = await scheduler.status()
    (pool,) = status.pools
    assert (pool.name, pool.running, pool.waiting, pool.ready_instances) == ("chat", 3, 0, 2)
    assert status.gateways == 1 and status.dispatched_total == 3
    assert status.topology_version >= 1 and not status.config_error
    assert [one.address for one in status.instances] == config.addresses
    assert sum(one.ledger_tokens for one in status.instances) >= 3 * 256
    assert all(one.kv_capacity_tokens > 10_000 for one in status.instances)


async def test_watch_repeats_the_status(scheduler: Scheduler) -> None:
    call = scheduler.stub.Watch(pb.WatchRequest(interval_ms=100), timeout=10)
    replies: list[Any] = [await call.read() for _ in range(3)]
    call.cancel()
    assert [len(reply.instances) for reply in replies] == [2, 2, 2]


@pytest.mark.parametrize("interval_ms", [1, 99, 60_001])
async def test_a_watch_too_fast_or_too_slow_is_refused(
    scheduler: Scheduler, interval_ms: int
) -> None:
    call = scheduler.stub.Watch(pb.WatchRequest(interval_ms=interval_ms), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError, match="100 to 60000") as refused:
        await call.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_empty_instance_is_drained_at_once_and_taken_back(scheduler: Scheduler) -> None:
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.topology()
        progress = [
            p async for p in scheduler.stub.Drain(pb.DrainRequest(instance="chat-0"), timeout=10)
        ]
        assert progress[-1].done and progress[-1].remaining == 0
        marked = {one.name: one.draining for one in (await gateway.topology()).instances}
        assert marked == {"chat-0": True, "chat-1": False}
        await gateway.submit(*(f"r-{i}" for i in range(10)))
        for i in range(10):
            assert (await gateway.assigned(f"r-{i}")).instance == "chat-1"

        await scheduler.stub.Undrain(pb.UndrainRequest(instance="chat-0"), timeout=10)
        assert not any(one.draining for one in (await gateway.topology()).instances)
        await scheduler.all_ready()


async def test_a_repeated_drain_tells_gateways_nothing(scheduler: Scheduler) -> None:
    """An operator repeats it in every pass for an instance that cannot be reached."""
    drain = pb.DrainRequest(instance="chat-0", deadline_ms=20_000)
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.topology()
        for _ in range(3):
            assert [p.done async for p in scheduler.stub.Drain(drain, timeout=10)] == [True]
        assert any(one.draining for one in (await gateway.topology()).instances)
        await scheduler.stub.Undrain(pb.UndrainRequest(instance="chat-0"), timeout=10)
        assert not any(one.draining for one in (await gateway.topology()).instances)


async def test_a_drain_moves_what_runs_and_counts_it(scheduler: Scheduler) -> None:
    ids = [f"r-{i}" for i in range(8)]
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.submit(*ids)
        placed = {i: (await gateway.assigned(i)).instance for i in ids}
        there = [i for i in ids if placed[i] == "chat-0"]
        assert len(there) >= 2
        await gateway.send(
            *(
                pb.GatewayEvent(first_token=pb.FirstToken(request_id=i, epoch=1, ttft_ms=30))
                for i in ids
            )
        )
        await scheduler.wait_running(8)
        call = scheduler.stub.Drain(pb.DrainRequest(instance="chat-0", deadline_ms=20_000))
        first: Any = await call.read()
        assert (first.remaining, first.done) == (len(there), False)

        finished, *moved = there
        await gateway.finish(finished)
        for request_id in moved:
            move = (await gateway.command(request_id)).move
            assert (move.destination, move.rung, move.reason) == ("chat-1", "replay", "drain")
            await gateway.send(
                pb.GatewayEvent(
                    move_done=pb.MoveDone(
                        request_id=request_id,
                        epoch=2,
                        instance="chat-1",
                        moved=True,
                        rung="replay",
                        stall_ms=20,
                    )
                )
            )
        async with asyncio.timeout(10):
            last = first
            while not last.done:
                last = await call.read()
            assert await call.read() is grpc.aio.EOF
        assert last.done and last.remaining == 0
        assert (last.moved, last.finished, last.failed) == (len(moved), 1, 0)
        assert await scheduler.running() == {"chat-0": 0, "chat-1": 7}


async def test_a_cancelled_call_leaves_the_drain_in_force(scheduler: Scheduler) -> None:
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.submit(*(f"r-{i}" for i in range(8)))
        placed = [(await gateway.assigned(f"r-{i}")).instance for i in range(8)]
        instance = placed[0]
        call = scheduler.stub.Drain(pb.DrainRequest(instance=instance, deadline_ms=20_000))
        await call.read()
        call.cancel()
        await asyncio.sleep(0.05)
        states = {one.name: one.state for one in (await scheduler.status()).instances}
        assert states.pop(instance) == "draining" and set(states.values()) == {"ready"}


@pytest.mark.parametrize("call", ["Drain", "Undrain"])
async def test_draining_an_unknown_instance_names_the_known_ones(
    scheduler: Scheduler, call: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="'nonesuch'; known: chat-0, chat-1") as unknown:
        if call == "Drain":
            await scheduler.stub.Drain(pb.DrainRequest(instance="nonesuch"), timeout=10).read()
        else:
            await scheduler.stub.Undrain(pb.UndrainRequest(instance="nonesuch"), timeout=10)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_scaling_advice_is_given_by_profile(scheduler: Scheduler) -> None:
    reply = await scheduler.stub.AdviseScaling(pb.AdviseScalingRequest(), timeout=10)
    (advice,) = reply.advice
    assert (advice.pool, advice.profile, advice.replicas) == ("chat", "h100", 2)
    with pytest.raises(grpc.aio.AioRpcError, match="known: chat") as unknown:
        await scheduler.stub.AdviseScaling(pb.AdviseScalingRequest(pool="x"), timeout=10)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("service", ["", "shunter.v1.Scheduler"])
async def test_the_health_service_answers(scheduler: Scheduler, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(scheduler.channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_services(scheduler: Scheduler) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(scheduler.channel)
    call = stub.ServerReflectionInfo(timeout=10)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {one.name for one in (await call.read()).list_services_response.service}
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert names >= {"shunter.v1.Scheduler", "grpc.health.v1.Health"}
