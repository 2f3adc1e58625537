"""The session over a real channel: against a scripted scheduler, and against the real one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
from opentelemetry.trace import NoOpTracerProvider

from scheduler_service import Config, Scheduler, healthy_engine
from shunter_gateway.dispatcher import Dispatcher
from shunter_gateway.lifecycle_ports import LifecycleLimits
from shunter_gateway.scheduler_client import SchedulerClient, SchedulerTarget
from shunter_gateway.testing import CountingObserver, LetterDecoders, RecordingSink
from shunter_gateway.testing_engines import ScriptedEngine, answer_ids
from shunter_gateway.testing_scheduler import topology_message
from shunter_gateway.testing_world import LOST, PROMPT, SPEC
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_scheduler.process import SchedulerOptions


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass(slots=True)
class Gateway:
    client: SchedulerClient
    dispatcher: Dispatcher
    engine: ScriptedEngine
    observer: CountingObserver

    def submit(self, request_id: str) -> RecordingSink:
        sink = RecordingSink()
        self.dispatcher.submit(replace(SPEC, request_id=request_id), sink)
        return sink

    def step_all(self, tokens: int) -> None:
        for call in self.engine.live:
            call.step(tokens)


@asynccontextmanager
async def gateway_of(address: str) -> AsyncIterator[Gateway]:
    loop = asyncio.get_running_loop()
    client = SchedulerClient(SchedulerTarget(address, "gw-1", "test", backoff_s=0.02))
    engine, observer = ScriptedEngine(loop), CountingObserver()
    limits = LifecycleLimits(progress_interval_s=0.05)
    dispatcher = Dispatcher(
        loop, client, {"simulated": engine}, LetterDecoders(), observer, limits=limits
    )
    tasks = [
        asyncio.create_task(client.run(dispatcher)),
        asyncio.create_task(dispatcher.run()),
    ]
    try:
        yield Gateway(client, dispatcher, engine, observer)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answer_moves(gateway: Gateway) -> None:
    """One token for each warm-up and for each call that goes on after a move."""
    while True:
        for call in gateway.engine.live:
            if "-warm" in call.request.request_id or (call.request.epoch > 1 and not call.made):
                call.step()
        await asyncio.sleep(0.01)


@dataclass(slots=True)
class ScriptedScheduler(pb_grpc.SchedulerServicer):
    """Records events and assigns nothing."""

    events: list[pb.GatewayEvent] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    sessions: int = 0

    async def Session(self, _: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[override,type-arg]
        self.sessions += 1
        topology = topology_message({"chat-0": "chat", "chat-1": "chat"})
        first = True
        while (message := await context.read()) is not grpc.aio.EOF:
            self.events.extend(message.events)
            self.batches.append(len(message.events))
            if first:
                first = False
                command = pb.SchedulerCommand(topology=topology)
                await context.write(pb.SchedulerCommands(commands=[command]))

    def kinds(self) -> list[str | None]:
        return [event.WhichOneof("event") for event in self.events]


@asynccontextmanager
async def listening(service: ScriptedScheduler, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server()
    pb_grpc.add_SchedulerServicer_to_server(service, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


async def test_hello_comes_first_and_queued_events_go_together() -> None:
    service = ScriptedScheduler()  # type: ignore[abstract]
    async with listening(service) as port, gateway_of(f"127.0.0.1:{port}") as gateway:
        await until(lambda: gateway.client.lost_since is None)
        for number in range(50):
            gateway.submit(f"r{number}")
        await until(lambda: len(service.events) == 51)
        assert service.kinds() == ["hello", *["submitted"] * 50]
        assert len(service.batches) <= 5


async def test_lost_session_comes_back_with_all_that_is_in_flight() -> None:
    first, second = ScriptedScheduler(), ScriptedScheduler()  # type: ignore[abstract]
    async with listening(first) as port:
        context = gateway_of(f"127.0.0.1:{port}")
        gateway = await context.__aenter__()
        await until(lambda: gateway.client.lost_since is None)
        sinks = [gateway.submit(f"r{number}") for number in range(2)]
        await until(lambda: len(first.events) == 3)
    await until(lambda: gateway.client.lost_since is not None)
    await until(lambda: all(sink.assigned for sink in sinks), timeout_s=2.0)
    assert gateway.observer.counts == {"alone": 2}
    gateway.engine.live[0].step(8)
    assert sinks[0].outcome is not None or sinks[1].outcome is not None
    async with listening(second, port):
        await until(lambda: len(second.events) == 3)
        assert second.kinds() == ["hello", "finished", "running"]
        assert second.events[2].running.request.epoch == 2
        await context.__aexit__(None, None, None)


async def test_real_scheduler_restarts_under_a_running_request(tmp_path: Path) -> None:
    config = Config(tmp_path / "shunter.yaml")
    async with healthy_engine() as one, healthy_engine() as other:
        config.addresses = [one, other]
        config.write()
        options = SchedulerOptions(config=(config.path,), listen="127.0.0.1:0")
        first = Scheduler(options, NoOpTracerProvider())
        async with first:
            context = gateway_of(f"127.0.0.1:{first.port}")
            gateway = await context.__aenter__()
            await until(lambda: gateway.dispatcher.topology is not None)
            assert gateway.dispatcher.topology is not None
            pool = gateway.dispatcher.topology.pools_by_model["chat"]
            assert (pool.engine_type, pool.context_length) == ("simulated", 32768)
            sinks = [gateway.submit(f"r{number}") for number in range(6)]
            await until(lambda: all(sink.assigned for sink in sinks))
            assert await first.running() == {"chat-0": 3, "chat-1": 3}
            gateway.step_all(3)
            gateway.engine.live[0].fail(LOST)
            await until(lambda: len(gateway.engine.live) == 6)
        await until(lambda: gateway.client.lost_since is not None)
        gateway.step_all(1)
        late = gateway.submit("late")
        await until(lambda: bool(late.assigned), timeout_s=2.0)
        second = Scheduler(replace(options, listen=f"127.0.0.1:{first.port}"), NoOpTracerProvider())
        async with second:
            await second.wait_running(7)
            fresh = gateway.submit("fresh")
            await until(lambda: bool(fresh.assigned))
            gateway.step_all(8)
            sinks += [late, fresh]
            await until(lambda: all(sink.outcome is not None for sink in sinks))
            await second.wait_running(0)
            assert all(sink.token_ids == answer_ids(PROMPT, 8) for sink in sinks)
            await context.__aexit__(None, None, None)


async def test_real_scheduler_drains_an_instance_by_moves(tmp_path: Path) -> None:
    config = Config(tmp_path / "shunter.yaml")
    async with healthy_engine() as one, healthy_engine() as other:
        config.addresses = [one, other]
        config.write()
        options = SchedulerOptions(config=(config.path,), listen="127.0.0.1:0")
        scheduler = Scheduler(options, NoOpTracerProvider())
        async with scheduler, gateway_of(f"127.0.0.1:{scheduler.port}") as gateway:
            await until(lambda: gateway.dispatcher.topology is not None)
            sinks = [gateway.submit(f"r{number}") for number in range(4)]
            await until(lambda: all(sink.assigned for sink in sinks))
            gateway.step_all(2)
            pump = asyncio.create_task(answer_moves(gateway))
            async with asyncio.timeout(20):
                request = pb.DrainRequest(instance="chat-0", deadline_ms=15_000)
                async for progress in scheduler.stub.Drain(request):
                    if progress.done:
                        break
            pump.cancel()
            assert (progress.moved, progress.remaining, progress.failed) == (2, 0, 0)
            assert await scheduler.running() == {"chat-0": 0, "chat-1": 4}
            gateway.step_all(8)
            await until(lambda: all(sink.outcome is not None for sink in sinks))
            assert all(sink.token_ids == answer_ids(PROMPT, 8) for sink in sinks)
            await scheduler.wait_running(0)


class ClumsyListener:
    """Cannot make sense of what it hears at first."""

    def __init__(self) -> None:
        self.failures = 2
        self.sessions = 0

    def on_commands(self, commands: pb.SchedulerCommands) -> None:
        if self.failures:
            self.failures -= 1
            raise ValueError("test")

    def on_session(self) -> None:
        self.sessions += 1


async def test_no_error_ends_the_search_for_a_scheduler() -> None:
    service = ScriptedScheduler()  # type: ignore[abstract]
    async with listening(service) as port:
        target = SchedulerTarget(f"127.0.0.1:{port}", "gw-1", "test", backoff_s=0.01)
        client, listener = SchedulerClient(target), ClumsyListener()
        task = asyncio.create_task(client.run(listener))
        await until(lambda: listener.sessions == 1)
        assert service.sessions == 3 and client.lost_since is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
