"""The operator's calls to a whole scheduler, on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry.trace import NoOpTracerProvider

from scheduler_service import Config, Scheduler, healthy_engine
from shunter_operator import scheduler_client
from shunter_operator.scheduler_client import SchedulerClient, SchedulerUnavailable
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.process import SchedulerOptions


@pytest.fixture
async def scheduler(tmp_path: Path) -> AsyncIterator[Scheduler]:
    config = Config(tmp_path / "config.yaml")
    async with healthy_engine() as address:
        config.addresses.append(address)
        config.write()
        options = SchedulerOptions(config=(config.path,), listen="127.0.0.1:0")
        async with Scheduler(options, NoOpTracerProvider()) as running:
            yield running


@pytest.fixture
async def client(scheduler: Scheduler) -> AsyncIterator[SchedulerClient]:
    made = SchedulerClient(f"127.0.0.1:{scheduler.port}")
    yield made
    await made.close()


async def test_a_view_has_instances_figures_and_advice(client: SchedulerClient) -> None:
    view = await client.view("chat")
    assert view is not None and view.pool is not None
    assert view.instances["chat-0"].state == "ready"
    assert view.advice["h100"].replicas == 1
    assert view.pool.slo_attainment == 1.0


async def test_a_pool_that_the_scheduler_does_not_know_has_no_advice(
    client: SchedulerClient,
) -> None:
    view = await client.view("other")
    assert view is not None and not view.advice and view.pool is None


async def test_one_answer_serves_all_who_ask_at_once(client: SchedulerClient) -> None:
    first, second = await asyncio.gather(client.view("chat"), client.view("chat"))
    assert first == second


async def test_a_drain_is_in_force_after_the_call(
    client: SchedulerClient, scheduler: Scheduler
) -> None:
    request = pb.DispatchRequest(
        request=pb.Submitted(request_id="r", model="chat", prompt_tokens=10, max_output_tokens=10)
    )
    assert (await scheduler.stub.Dispatch(request)).assign.instance == "chat-0"
    await client.drain("chat-0", 60.0)
    assert [i.state for i in (await scheduler.status()).instances] == ["draining"]
    await client.undrain("chat-0")
    assert [i.state for i in (await scheduler.status()).instances] == ["ready"]


async def test_a_scheduler_that_refuses_is_unavailable(client: SchedulerClient) -> None:
    with pytest.raises(SchedulerUnavailable, match="NOT_FOUND"):
        await client.drain("nobody", 1.0)


async def test_without_a_scheduler_there_is_no_view() -> None:
    client = SchedulerClient("127.0.0.1:1")
    try:
        assert await client.view("chat") is None
        with pytest.raises(SchedulerUnavailable):
            await client.undrain("chat-0")
    finally:
        await client.close()


async def test_that_nobody_answers_serves_all_who_ask_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else every pass of every pool would wait for the whole deadline, one after the other."""
    monkeypatch.setattr(scheduler_client, "CALL_TIMEOUT_S", 0.6)
    monkeypatch.setattr(scheduler_client, "FRESH_S", 0.5)
    calls: list[asyncio.Task[None]] = []

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:  # gRPC lets go of such a connection long after its channel is closed
            writer.close()
            await writer.wait_closed()

    def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(asyncio.create_task(silence(reader, writer)))

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    client = SchedulerClient(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        assert await client.view("chat") is None
        before = len(calls)
        assert await client.view("other") is None
        assert len(calls) == before == 1
    finally:
        await client.close()
        server.close()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
