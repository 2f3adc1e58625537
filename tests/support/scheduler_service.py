"""A whole scheduler in the test's own loop, on real sockets, with engines that only say that they
are healthy."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import yaml
from aiohttp import web
from opentelemetry.trace import TracerProvider

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_scheduler.process import SchedulerOptions, serve
from shunter_scheduler.service.server import Listening

API = "shunter.dev/v1alpha1"


@dataclass
class Scheduler:
    """One running scheduler; `channel` and `stub` are a client's."""

    options: SchedulerOptions
    provider: TracerProvider
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    def __post_init__(self) -> None:
        self._ready = asyncio.Event()

    def started(self, listening: Listening) -> None:
        self.port = listening.port
        self._ready.set()

    async def __aenter__(self) -> "Scheduler":
        await self.start()
        await self.all_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        self.stop.set()
        await self.task

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """It may be a standby."""
        await self.start()
        try:
            yield
        finally:
            await self.__aexit__()

    async def start(self) -> None:
        self.task = asyncio.create_task(serve(self.options, self.stop, self.provider, self.started))
        waiter = asyncio.create_task(self._ready.wait())
        await asyncio.wait((self.task, waiter), return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if self.task.done():
            await self.task
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = pb_grpc.SchedulerStub(self.channel)

    async def all_ready(self) -> None:
        async with asyncio.timeout(10):
            while True:
                instances = (await self.status()).instances
                if instances and all(one.state == "ready" for one in instances):
                    return
                await asyncio.sleep(0.01)

    async def status(self) -> pb.StatusReply:
        reply: pb.StatusReply = await self.stub.Status(pb.StatusRequest(), timeout=10)
        return reply

    async def running(self) -> dict[str, int]:
        """Requests in the ledger by instance."""
        return {one.name: one.running for one in (await self.status()).instances}

    async def wait_running(self, total: int) -> None:
        async with asyncio.timeout(10):
            while sum((await self.running()).values()) != total:
                await asyncio.sleep(0.01)


class Config:
    """Writes the configuration file: pool `chat` with instances chat-0, chat-1, ..."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.addresses: list[str] = []
        self.pool_spec: dict[str, object] = {}
        self.policy_spec: dict[str, object] = {}

    def write(self, **model: object) -> None:
        pool = {
            "apiVersion": API,
            "kind": "ModelPool",
            "metadata": {"name": "chat"},
            "spec": {
                "model": {"source": "sim://llama-3.1-8b", "contextLength": 32768, **model},
                "engine": {"type": "simulated"},
                "profiles": [{"name": "h100", "accelerator": "h100-sxm-80gb"}],
                **self.pool_spec,
            },
        }
        policy = {
            "apiVersion": API,
            "kind": "RoutingPolicy",
            "metadata": {"name": "main"},
            "spec": {"rules": [{"name": "all"}], **self.policy_spec},
        }
        items = [
            {"name": f"chat-{i}", "pool": "chat", "profile": "h100", "address": address}
            for i, address in enumerate(self.addresses)
        ]
        instances = {"apiVersion": API, "kind": "InstanceList", "items": items}
        text = yaml.safe_dump_all([pool, policy, instances])
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.rename(self.path)


@asynccontextmanager
async def healthy_engine() -> AsyncIterator[str]:
    async def health(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/health", health)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


SchedulerFactory = Callable[..., Scheduler]
