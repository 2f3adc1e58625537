"""Requests placed without a session: Dispatch, Complete, and the lease between them."""

import asyncio
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from prometheus_client import CollectorRegistry

from scheduler_service import Config, Scheduler, SchedulerFactory
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.core.testing import make_request
from shunter_scheduler.domain.decisions import Assign, Reject
from shunter_scheduler.domain.events import Event, Finished
from shunter_scheduler.service.errors import Standby
from shunter_scheduler.service.loop import Driver
from shunter_scheduler.service.testing import submission
from shunter_scheduler.service.unary import GATEWAY_ID, UnaryRequests
from shunter_scheduler.telemetry import Telemetry


async def dispatch(scheduler: Scheduler, request_id: str, **fields: object) -> pb.DispatchReply:
    request = pb.DispatchRequest(request=submission(request_id, **fields))
    reply: pb.DispatchReply = await scheduler.stub.Dispatch(request, timeout=10)
    return reply


async def complete(scheduler: Scheduler, request_id: str) -> None:
    await scheduler.stub.Complete(pb.CompleteRequest(request_id=request_id), timeout=10)


async def test_a_request_is_placed_and_completed(scheduler: Scheduler, config: Config) -> None:
    assign = (await dispatch(scheduler, "r-1")).assign
    assert assign.address == config.addresses[int(assign.instance[-1])]
    assert (await scheduler.running())[assign.instance] == 1

    await complete(scheduler, "r-1")
    await scheduler.wait_running(0)
    with pytest.raises(grpc.aio.AioRpcError, match="r-1") as again:
        await complete(scheduler, "r-1")
    assert again.value.code() is grpc.StatusCode.NOT_FOUND


async def test_many_at_once_are_spread(scheduler: Scheduler) -> None:
    replies = await asyncio.gather(*(dispatch(scheduler, f"r-{i}") for i in range(40)))
    assert {reply.WhichOneof("outcome") for reply in replies} == {"assign"}
    running = await scheduler.running()
    assert sum(running.values()) == 40 and min(running.values()) >= 10
    await asyncio.gather(*(complete(scheduler, f"r-{i}") for i in range(40)))
    await scheduler.wait_running(0)


async def test_what_cannot_be_placed_is_rejected_with_the_reason(scheduler: Scheduler) -> None:
    reply = await dispatch(scheduler, "r-1", model="nonesuch")
    assert reply.reject.reason == "unknown_model"
    reply = await dispatch(scheduler, "r-1", prompt_tokens=40_000)
    assert reply.reject.reason == "context_length"


async def test_an_id_in_use_is_refused(scheduler: Scheduler) -> None:
    await dispatch(scheduler, "r-1")
    with pytest.raises(grpc.aio.AioRpcError) as twice:
        await dispatch(scheduler, "r-1")
    assert twice.value.code() is grpc.StatusCode.ALREADY_EXISTS
    await complete(scheduler, "r-1")
    await dispatch(scheduler, "r-1")


@pytest.mark.parametrize(("request_id", "hashes"), [("", b""), ("r-1", b"123")])
async def test_senseless_requests_are_refused(
    scheduler: Scheduler, request_id: str, hashes: bytes
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await dispatch(scheduler, request_id, block_hashes=hashes)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_lease_ends_what_nobody_completes(new_scheduler: SchedulerFactory) -> None:
    async with new_scheduler(lease_s=0.2) as scheduler:
        await dispatch(scheduler, "r-1")
        assert sum((await scheduler.running()).values()) == 1
        await scheduler.wait_running(0)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await complete(scheduler, "r-1")
        assert late.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_caller_that_stops_waiting_leaves_nothing(
    config: Config, new_scheduler: SchedulerFactory
) -> None:
    """Its deadline passes, or it cancels, while the request is queued."""
    config.write(contextLength=131072)
    async with new_scheduler() as scheduler:
        big = {"prompt_tokens": 120_000, "max_output_tokens": 1000}
        placed = 0
        with pytest.raises(grpc.aio.AioRpcError) as full:
            while True:
                request = submission(f"r-{placed}", **big)
                await scheduler.stub.Dispatch(pb.DispatchRequest(request=request), timeout=0.3)
                placed += 1
        assert full.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        call = scheduler.stub.Dispatch(
            pb.DispatchRequest(request=submission("r-cancelled", **big)), timeout=10
        )
        await asyncio.sleep(0.05)
        call.cancel()

        async with asyncio.timeout(10):
            while (await scheduler.status()).pools[0].waiting:
                await asyncio.sleep(0.01)
        for i in range(placed):
            await complete(scheduler, f"r-{i}")
        await scheduler.wait_running(0)


async def test_calls_for_a_pool_at_zero_wait_for_its_first_instance(
    config: Config, new_scheduler: SchedulerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas = {"min": 0, "max": 2}
    config.pool_spec = {
        "profiles": [{"name": "h100", "accelerator": "h100-sxm-80gb", "replicas": replicas}],
        "scaling": {"scaleToZero": {"maxHeld": 1}},
    }
    config.write()
    monkeypatch.setattr("shunter_scheduler.service.servicer.DEFAULT_DISPATCH_TIMEOUT_S", 0.2)
    async with new_scheduler() as scheduler:
        addresses, config.addresses = config.addresses, []
        config.write()
        async with asyncio.timeout(10):
            while (await scheduler.status()).instances:
                await asyncio.sleep(0.01)
        undated = pb.DispatchRequest(request=submission("r-late"))
        with pytest.raises(grpc.aio.AioRpcError, match=r"within 0.2 s \(scaling-up\)") as late:
            await scheduler.stub.Dispatch(undated)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        held = asyncio.create_task(dispatch(scheduler, "r-1"))
        async with asyncio.timeout(10):
            while (await scheduler.status()).pools[0].waiting != 1:
                await asyncio.sleep(0.01)
        assert (await dispatch(scheduler, "r-2")).reject.reason == "hold_full"
        config.addresses = addresses
        config.write()
        assert (await held).assign.address in addresses
        await complete(scheduler, "r-1")


@pytest.mark.parametrize("placed", [True, False])
async def test_what_is_decided_as_another_begins_to_lead_leaves_nothing(placed: bool) -> None:
    """Between the decision and the caller's turn to hear it the scheduler steps down."""
    told: list[Event] = []
    driver = cast(Driver, SimpleNamespace(tell=told.append))
    unary = UnaryRequests(driver, Telemetry(CollectorRegistry()), lease_s=0.0)
    call = asyncio.create_task(unary.dispatch(make_request("r-1"), 5.0))
    await asyncio.sleep(0)
    if placed:
        unary.resolve([Assign("r-1", GATEWAY_ID, 1, "i-0", "chat", "standard", 0, 0.1)])
    else:
        unary.resolve([Reject("r-1", GATEWAY_ID, 1, "overloaded", "full", 1.0)])
    unary.step_down(Standby("no longer"))
    with pytest.raises(Standby):
        await call
    assert told[1:] == [Finished("r-1", 1, 0, "cancelled")]
