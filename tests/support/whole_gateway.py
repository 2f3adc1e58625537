"""A whole gateway in the test's own loop: all that `serve` builds, and a scheduler that assigns."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import aiohttp
import grpc
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from shunter_gateway.config import GatewayOptions
from shunter_gateway.process import Ports, serve
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc

OPTIONS = GatewayOptions(listen="127.0.0.1:0", grpc_listen="127.0.0.1:0", grace_s=0.2)


@dataclass(frozen=True)
class PoolOf:
    """One pool `chat` over the engines given by name."""

    engines: Mapping[str, str]  # host:port
    engine_type: str = "simulated"
    model_source: str = "sim://chat"
    context_length: int = 4096
    max_retries: int = 3
    aliases: tuple[str, ...] = ()
    rule_models: tuple[str, ...] = ()
    max_held: int = 0
    parsers: tuple[str, str] = ("", "")  # of reasoning and tool calls

    def topology(self) -> pb.Topology:
        pool = pb.Topology.Pool(
            name="chat",
            model_names=["m", "chat", *self.aliases],  # engines in this process serve `m`
            model_source=self.model_source,
            revision="1",
            engine_type=self.engine_type,
            context_length=self.context_length,
            migration_mode="Auto",
            max_retries=self.max_retries,
            max_held=self.max_held,
            hold_timeout_ms=60_000,
            reasoning_parser=self.parsers[0],
            tool_call_parser=self.parsers[1],
        )
        instances = [
            pb.Topology.Instance(
                name=name, pool="chat", address=address, engine_type=self.engine_type
            )
            for name, address in self.engines.items()
        ]
        return pb.Topology(
            version=1,
            pools=[pool],
            instances=instances,
            rule_models=self.rule_models,
            rule_targets=[
                pb.Topology.RuleTarget(model=name, pools=["chat"]) for name in self.rule_models
            ],
        )


class AssigningScheduler(pb_grpc.SchedulerServicer):
    """Assigns at once, in the engines' order; those that a request excludes only at last. Holds
    while there is no engine."""

    def __init__(self, pool: PoolOf) -> None:
        self.pool = pool
        self.events: list[pb.GatewayEvent] = []
        self.held: dict[str, pb.Submitted] = {}
        self._commands: asyncio.Queue[pb.SchedulerCommand] = asyncio.Queue()

    async def Session(
        self, events: AsyncIterator[pb.GatewayEvents], context: object
    ) -> AsyncIterator[pb.SchedulerCommands]:
        reader = asyncio.create_task(self._read(events))
        try:
            yield _commands(pb.SchedulerCommand(topology=self.pool.topology()))
            while True:
                yield _commands(await self._commands.get())
        finally:
            reader.cancel()

    async def _read(self, events: AsyncIterator[pb.GatewayEvents]) -> None:
        async for batch in events:
            for event in batch.events:
                self.events.append(event)
                if event.HasField("submitted"):
                    self._assign(event.submitted)
                elif event.HasField("finished"):
                    self.held.pop(event.finished.request_id, None)

    def start(self, engines: Mapping[str, str]) -> None:
        """A pool at zero has engines now: those that were held are assigned."""
        self.pool = replace(self.pool, engines=engines)
        self._commands.put_nowait(pb.SchedulerCommand(topology=self.pool.topology()))
        held, self.held = self.held, {}
        for request in held.values():
            self._assign(request)

    def reject_held(self, reason: str, retry_after_s: int) -> None:
        held, self.held = self.held, {}
        for request in held.values():
            reject = pb.Reject(
                request_id=request.request_id, epoch=request.epoch, reason=reason,
                retry_after_ms=retry_after_s * 1000,
            )  # fmt: skip
            self._commands.put_nowait(pb.SchedulerCommand(reject=reject))

    def _hold(self, request: pb.Submitted) -> None:
        hold = pb.Hold(
            request_id=request.request_id, epoch=request.epoch, phase="starting",
            position=len(self.held), eta_ms=30_000,
        )  # fmt: skip
        self.held[request.request_id] = request
        self._commands.put_nowait(pb.SchedulerCommand(hold=hold))

    def _assign(self, request: pb.Submitted) -> None:
        if not self.pool.engines:
            self._hold(request)
            return
        names = sorted(self.pool.engines, key=lambda name: name in request.excluded_instances)
        assign = pb.Assign(
            request_id=request.request_id,
            epoch=request.epoch,
            instance=names[0],
            pool="chat",
            address=self.pool.engines[names[0]],
        )
        self._commands.put_nowait(pb.SchedulerCommand(assign=assign))

    def move(self, request_id: str, epoch: int, destination: str) -> None:
        address = self.pool.engines[destination]
        move = pb.Move(
            request_id=request_id, epoch=epoch, destination=destination, address=address,
            rung="replay", reason="drain",
        )  # fmt: skip
        self._commands.put_nowait(pb.SchedulerCommand(move=move))

    def of(self, kind: str) -> list[pb.GatewayEvent]:
        return [event for event in self.events if event.WhichOneof("event") == kind]


def _commands(command: pb.SchedulerCommand) -> pb.SchedulerCommands:
    return pb.SchedulerCommands(commands=[command])


@dataclass
class WholeGateway:
    ports: Ports
    scheduler: AssigningScheduler
    http: aiohttp.ClientSession
    scheme: str
    restart_scheduler: Callable[[float], Awaitable[AssigningScheduler]]
    """Stops it; after that many seconds another, which knows nothing, listens in its place."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.ports.http}"


class _Server(NamedTuple):
    scheduler: AssigningScheduler
    server: grpc.aio.Server
    port: int


@asynccontextmanager
async def whole_gateway(
    pool: PoolOf, provider: TracerProvider | None = None, options: GatewayOptions = OPTIONS
) -> AsyncIterator[WholeGateway]:
    servers = [await _serve_scheduler(AssigningScheduler(pool), 0)]  # type: ignore[abstract]
    scheduler, _, port = servers[0]

    async def restart(after_s: float) -> AssigningScheduler:
        await servers[-1].server.stop(0)
        await asyncio.sleep(after_s)
        fresh = AssigningScheduler(pool)  # type: ignore[abstract]
        servers.append(await _serve_scheduler(fresh, port))
        return fresh

    stop = asyncio.Event()
    started: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()
    options = replace(options, scheduler=f"127.0.0.1:{port}")
    serving = serve(options, stop, provider or NoOpTracerProvider(), started.set_result)
    process = asyncio.create_task(serving)
    try:
        async with asyncio.timeout(20), aiohttp.ClientSession() as http:
            scheme = "http" if options.tls is None else "https"
            gateway = WholeGateway(await started, scheduler, http, scheme, restart)
            await _ready(gateway)
            yield gateway
    finally:
        stop.set()
        await asyncio.wait_for(process, 20)
        await servers[-1].server.stop(0)


async def _serve_scheduler(scheduler: AssigningScheduler, port: int) -> _Server:
    server = grpc.aio.server()
    pb_grpc.add_SchedulerServicer_to_server(scheduler, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return _Server(scheduler, server, bound)


async def _ready(gateway: WholeGateway) -> None:
    while True:
        async with gateway.http.get(f"{gateway.url}/ready", ssl=False) as answer:
            if answer.status == 200:
                return
        await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
