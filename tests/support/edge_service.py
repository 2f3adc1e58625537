"""An edge over a real socket, its runner and its models fake; the `openai` package as client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp
import openai
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shunter_gateway.edge.front import EdgeParts, EdgeSettings, Front
from shunter_gateway.edge.listen import HttpListener
from shunter_gateway.edge.server import HttpEdge
from shunter_gateway.edge.testing import FakeModels, FakeRunner, Script
from shunter_gateway.keys import Keys, OpenKeys
from shunter_gateway.request import RequestSpec
from shunter_gateway.telemetry import GatewayMetrics
from shunter_gateway.worker_metrics import WorkerMetrics
from shunter_runtime.tracing import recording_provider


@dataclass
class Service:
    """A running edge and everything that a test looks at."""

    port: int
    runner: FakeRunner
    models: FakeModels
    metrics: GatewayMetrics
    spans: InMemorySpanExporter
    listener: HttpListener
    front: Front
    http: aiohttp.ClientSession
    client: Any  # openai.AsyncOpenAI; untyped, for each of its optional fields would need an assert

    async def stop(self, grace_s: float) -> None:
        await self.listener.stop_accepting()
        await self.front.drain(grace_s)
        await self.listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def run_service(
    script: Callable[[RequestSpec], Script] = lambda _: Script(),
    settings: EdgeSettings | None = None,
    keys: Keys | None = None,
    api_key: str = "none",
) -> AsyncIterator[Service]:
    runner, models, metrics = FakeRunner(script), FakeModels(), GatewayMetrics()
    exporter = InMemorySpanExporter()
    provider = recording_provider("gateway", SimpleSpanProcessor(exporter))
    ids = count(1)
    parts = EdgeParts(
        runner=runner,
        models=models,
        keys=keys or OpenKeys(),
        metrics=metrics,
        tracer=provider.get_tracer("shunter"),
        new_id=lambda: f"req-{next(ids)}",
        ready=lambda: True,
        metrics_page=WorkerMetrics(metrics.registry, None).page,
    )
    front = Front(parts, settings or EdgeSettings())
    listener = HttpListener(HttpEdge(front))
    port = await listener.start("127.0.0.1", 0)
    client = openai.AsyncOpenAI(
        api_key=api_key, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0, timeout=10.0
    )
    try:
        async with aiohttp.ClientSession() as http, client:
            yield Service(port, runner, models, metrics, exporter, listener, front, http, client)
    finally:
        await listener.close()
        await runner.close()


@asynccontextmanager
async def connection(
    service: Service, data: bytes
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain client that has sent `data`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(data)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
