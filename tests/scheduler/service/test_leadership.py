"""Two schedulers and one Lease: who serves, in which term, and who refuses."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lease_api import LeaseApi, lease_api, write_kubeconfig
from scheduler_service import Scheduler, SchedulerFactory
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.service.server import SERVICE
from shunter_scheduler.service.testing import GatewayClient, submission, submitted

LEASE = "shunter-scheduler"


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LeaseApi]:
    async with lease_api() as api:
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", api.url)))
        yield api


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def leads(scheduler: Scheduler) -> None:
    async with asyncio.timeout(20):
        while await health(scheduler, SERVICE) != health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0.02)
    await scheduler.all_ready()


async def health(scheduler: Scheduler, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(scheduler.channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


@asynccontextmanager
async def candidate(new_scheduler: SchedulerFactory) -> AsyncIterator[Scheduler]:
    scheduler = new_scheduler(lease=LEASE)
    async with scheduler.listening():
        yield scheduler


async def refusal(scheduler: Scheduler) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await scheduler.status()
    return caught.value


async def test_the_holder_serves_and_the_standby_names_it(
    new_scheduler: SchedulerFactory, api: LeaseApi
) -> None:
    async with candidate(new_scheduler) as one:
        await leads(one)
        async with candidate(new_scheduler) as other:
            serving = health_pb2.HealthCheckResponse.SERVING
            assert (await one.status()).term == 1
            assert await health(other, "") == serving
            assert await health(other, SERVICE) != serving
            error = await refusal(other)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert api.holder(LEASE) in (error.details() or "")
            async with GatewayClient(other.channel) as gateway:
                assert (await gateway.status()).code() is grpc.StatusCode.UNAVAILABLE


async def test_commands_carry_the_term_and_the_next_leader_has_a_higher_one(
    new_scheduler: SchedulerFactory, api: LeaseApi
) -> None:
    async with candidate(new_scheduler) as one, candidate(new_scheduler) as other:
        await leads(one)
        async with GatewayClient(one.channel) as gateway:
            await gateway.submit("r")
            await gateway.assigned("r")
            assert gateway.terms == {1}
            one.stop.set()
            assert (await gateway.status()).code() is grpc.StatusCode.UNAVAILABLE
        await leads(other)
        async with GatewayClient(other.channel) as gateway:
            await gateway.submit("r")
            await gateway.assigned("r")
            assert gateway.terms == {2}
        assert (await other.status()).term == 2


async def test_a_leader_that_lost_its_lease_forgets_and_may_lead_again(
    new_scheduler: SchedulerFactory, api: LeaseApi
) -> None:
    async with candidate(new_scheduler) as one:
        await leads(one)
        async with GatewayClient(one.channel) as gateway:
            await gateway.submit("r")
            await gateway.assigned("r")
            await one.stub.Dispatch(pb.DispatchRequest(request=submission("unary")))
            draining = one.stub.Drain(pb.DrainRequest(instance="chat-0", deadline_ms=60_000))
            await draining.read()
            assert sum((await one.running()).values())
            api.seize(LEASE, "somebody-else")
            error = await gateway.status()
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "no longer" in (error.details() or "")
        with pytest.raises(grpc.aio.AioRpcError, match="standby; the leader is somebody-else"):
            while await draining.read() is not grpc.aio.EOF:
                pass
        api.seize(LEASE, "")
        await leads(one)
        status = await one.status()
        assert status.term == 3
        assert {(i.name, i.state, i.running) for i in status.instances} == {
            ("chat-0", "ready", 0),
            ("chat-1", "ready", 0),
        }


async def test_a_gateway_that_obeys_a_higher_term_raises_that_of_the_leader(
    new_scheduler: SchedulerFactory, api: LeaseApi
) -> None:
    async with candidate(new_scheduler) as one:
        await leads(one)
        async with GatewayClient(one.channel, term=7) as gateway:
            assert "obeys term 7" in ((await gateway.status()).details() or "")
        await until(lambda: api.term(LEASE) == 8)
        async with GatewayClient(one.channel, term=7) as gateway:
            await gateway.send(submitted("r"))
            await gateway.assigned("r")
            assert gateway.terms == {8}
