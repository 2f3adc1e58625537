"""A gateway's session over a real socket: hello, placements, what ends it."""

import asyncio

import grpc
import pytest

from scheduler_service import Config, Scheduler, SchedulerFactory
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_scheduler.service.testing import GatewayClient, submission


def first_token(request_id: str) -> pb.GatewayEvent:
    return pb.GatewayEvent(
        first_token=pb.FirstToken(request_id=request_id, epoch=1, ttft_ms=40, cached_tokens=0)
    )


def progress(request_id: str, output_tokens: int) -> pb.GatewayEvent:
    item = pb.Progress.Item(request_id=request_id, epoch=1, output_tokens=output_tokens)
    return pb.GatewayEvent(progress=pb.Progress(items=[item]))


async def test_the_topology_comes_first(scheduler: Scheduler, config: Config) -> None:
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.submit("r-1")
        topology = await gateway.topology()
        await gateway.assigned("r-1")

        (pool,) = topology.pools
        assert (pool.name, list(pool.model_names)) == ("chat", ["chat"])
        assert (pool.model_source, pool.revision) == ("sim://llama-3.1-8b",) * 2
        assert (pool.engine_type, pool.context_length) == ("simulated", 32768)
        assert [(one.name, one.address) for one in topology.instances] == [
            ("chat-0", config.addresses[0]),
            ("chat-1", config.addresses[1]),
        ]
        assert all(one.prefill_tokens_per_s > 1000 for one in topology.instances)
        assert all(20 < one.decode_tokens_per_s < 500 for one in topology.instances)
        assert topology.block_tokens == 64
        assert gateway.order[0] == "topology"


async def test_a_requests_life_and_its_explanation_after_the_end(scheduler: Scheduler) -> None:
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.submit("r-1", block_hashes=bytes(range(32)), prompt_tokens=260)
        assign = await gateway.assigned("r-1")
        assert assign.epoch == 1
        assert assign.instance in ("chat-0", "chat-1")
        assert assign.address and assign.pool == "chat" and assign.slo_class == "standard"
        assert 0 < assign.predicted_ttft_s < 1
        await scheduler.wait_running(1)
        assert (await scheduler.running())[assign.instance] == 1

        await gateway.send(first_token("r-1"), progress("r-1", 20))
        await gateway.finish("r-1", output_tokens=33)
        await scheduler.wait_running(0)

        explanation = await scheduler.stub.Explain(pb.ExplainRequest(request_id="r-1"), timeout=10)
        assert explanation.state == "finished"
        assert (explanation.prompt_tokens, explanation.output_tokens) == (260, 33)
        assert (explanation.pool, explanation.model, explanation.rule) == ("chat", "chat", "all")
        (decision,) = explanation.decisions
        assert (decision.kind, decision.policy) == ("dispatch", "predicted-cost")
        assert decision.winner == assign.instance
        assert decision.candidates_total == 2
        for candidate in decision.candidates:
            total = sum(term.seconds for term in candidate.terms)
            assert candidate.score_s == pytest.approx(total)
        latest = await scheduler.stub.Explain(pb.ExplainRequest(), timeout=10)
        assert latest.request_id == "r-1"


async def test_a_batch_of_64_is_spread_and_answered(scheduler: Scheduler) -> None:
    ids = [f"r-{i}" for i in range(64)]
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.submit(*ids)
        assigns = [await gateway.assigned(request_id) for request_id in ids]
        running = await scheduler.running()
        assert sum(running.values()) == 64
        assert min(running.values()) >= 16, running
        assert {a.instance: 0 for a in assigns}.keys() == running.keys()
        assert max(gateway.batch_sizes) > 1, "answers are sent in batches"

        await gateway.finish(*ids)
        await scheduler.wait_running(0)


async def test_an_unknown_model_is_rejected_and_the_session_stays(scheduler: Scheduler) -> None:
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.submit("r-1", model="nonesuch")
        reject = (await gateway.command("r-1")).reject
        assert (reject.reason, reject.epoch) == ("unknown_model", 1)
        assert "nonesuch" in reject.message
        await gateway.submit("r-2")
        assert (await gateway.assigned("r-2")).epoch == 1


async def test_events_of_an_old_epoch_change_nothing(scheduler: Scheduler) -> None:
    """After a retry only the epoch that owns the request counts."""
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.submit("r-1")
        await gateway.assigned("r-1")
        await gateway.submit("r-1", epoch=2)
        assert (await gateway.assigned("r-1")).epoch == 2
        await scheduler.wait_running(1)

        await gateway.finish("r-1", epoch=1)
        await gateway.submit("r-2")
        await gateway.assigned("r-2")
        assert sum((await scheduler.running()).values()) == 2

        await gateway.finish("r-1", epoch=2)
        await gateway.finish("r-2")
        await scheduler.wait_running(0)


async def test_a_request_that_waits_is_held_then_placed(
    config: Config, new_scheduler: SchedulerFactory
) -> None:
    """Prompts that fill an engine's KV memory wait in the scheduler's queue, in order."""
    config.write(contextLength=131072)
    async with new_scheduler() as scheduler, GatewayClient(scheduler.channel) as gateway:
        big = {"prompt_tokens": 120_000, "max_output_tokens": 1000}
        ids = [f"r-{i}" for i in range(24)]
        await gateway.submit(*ids, **big)
        await gateway.submit("late")
        hold = await gateway.hold(ids[-1])
        assert hold.epoch == 1 and hold.position > 0

        async def serve(request_id: str) -> None:
            await gateway.assigned(request_id)
            await gateway.finish(request_id)

        await asyncio.gather(*(serve(request_id) for request_id in ids))
        await gateway.assigned("late")
        await gateway.finish("late")
        await scheduler.wait_running(0)


@pytest.mark.parametrize(
    "first",
    [
        pb.GatewayEvents(),
        pb.GatewayEvents(events=[pb.GatewayEvent(submitted=submission("r-1"))]),
        pb.GatewayEvents(events=[pb.GatewayEvent(hello=pb.Hello(gateway_id=""))]),
        pb.GatewayEvents(events=[pb.GatewayEvent(hello=pb.Hello(gateway_id="(unary)"))]),
    ],
    ids=["empty", "no hello", "no name", "reserved name"],
)
async def test_a_bad_first_message_ends_the_session(
    scheduler: Scheduler, first: pb.GatewayEvents
) -> None:
    call = scheduler.stub.Session()
    await call.write(first)
    with pytest.raises(grpc.aio.AioRpcError, match="hello") as refused:
        await call.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_senseless_event_ends_the_session_with_its_place(scheduler: Scheduler) -> None:
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.submit("r-1", block_hashes=b"123")
        error = await gateway.status()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "block_hashes of r-1 has 3 bytes" in (error.details() or "")


async def test_an_oversized_message_ends_the_session_only(scheduler: Scheduler) -> None:
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.submit("r-1", unmovable_reason="x" * (17 * 1024 * 1024))
        error = await gateway.status()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with GatewayClient(scheduler.channel, "gw-2") as gateway:
        await gateway.submit("r-2")
        await gateway.assigned("r-2")


async def test_a_newer_session_of_the_same_gateway_takes_over(scheduler: Scheduler) -> None:
    async with GatewayClient(scheduler.channel) as older:
        await older.submit("r-1")
        await older.assigned("r-1")
        async with GatewayClient(scheduler.channel) as newer:
            error = await older.status()
            assert error.code() is grpc.StatusCode.ABORTED
            await newer.submit("r-2")
            await newer.assigned("r-2")
            assert (await scheduler.status()).gateways == 1
            assert sum((await scheduler.running()).values()) == 2


async def test_a_changed_configuration_is_sent_to_every_gateway(
    config: Config, scheduler: Scheduler
) -> None:
    async with (
        GatewayClient(scheduler.channel, "gw-1") as one,
        GatewayClient(scheduler.channel, "gw-2") as two,
    ):
        versions = [(await gateway.topology()).version for gateway in (one, two)]
        config.write(aliases=["gpt-4o"])
        for gateway, before in zip((one, two), versions, strict=True):
            topology = await gateway.topology()
            assert topology.version > before
            assert list(topology.pools[0].model_names) == ["chat", "gpt-4o"]


async def test_a_refused_edit_is_shown_and_changes_nothing(
    config: Config, scheduler: Scheduler
) -> None:
    good = config.path.read_text()
    config.path.write_text(good.replace("contextLength", "contextLenth"))
    async with asyncio.timeout(10):
        while not (error := (await scheduler.status()).config_error):
            await asyncio.sleep(0.05)
    assert "contextLenth" in error and "config.yaml:" in error
    async with GatewayClient(scheduler.channel) as gateway:
        await gateway.submit("r-1")
        await gateway.assigned("r-1")
    config.path.write_text(good)
    async with asyncio.timeout(10):
        while (await scheduler.status()).config_error:
            await asyncio.sleep(0.05)
