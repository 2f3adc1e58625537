"""From the engine's socket to the client's: plain tokens take the short way, whose bytes are those
of the general one."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
from opentelemetry.trace import NoOpTracerProvider

from shunter_gateway.dispatcher import Dispatcher
from shunter_gateway.edge.front import EdgeParts, EdgeSettings, Front
from shunter_gateway.edge.listen import HttpListener
from shunter_gateway.edge.server import HttpEdge
from shunter_gateway.edge.testing import FakeModels
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.table import build_adapters
from shunter_gateway.keys import OpenKeys
from shunter_gateway.request import (
    ClientError,
    ClientSink,
    Delta,
    JsonTextSink,
    Outcome,
    RequestHandle,
    RequestSpec,
)
from shunter_gateway.telemetry import GatewayMetrics
from shunter_gateway.testing import CountingObserver, LetterDecoders
from shunter_gateway.testing_http import (
    STREAM_END,
    Received,
    Script,
    chunked,
    scripted_server,
    stream_head,
)
from shunter_gateway.testing_scheduler import FakeScheduler, topology_message
from shunter_gateway.topology import Pool
from shunter_gateway.worker_metrics import WorkerMetrics
from shunter_text.detokenizer import StreamDecoder
from shunter_text.sources import sim_tokenizer

TOKENIZER = sim_tokenizer()
IDS = TOKENIZER.encode('a plain answer of some words, "quoted" and é東京 between,\n and on ' * 3)
BODY = {"model": "chat", "prompt": "Hello", "max_tokens": len(IDS), "stream": True}


class SimDecoders(LetterDecoders):
    def decoder(self, pool: Pool, context_ids: tuple[int, ...]) -> StreamDecoder | None:
        return TOKENIZER.decoder(context_ids)


class GeneralSink:
    """Passes on what it hears, and is no `JsonTextSink`."""

    def __init__(self, sink: ClientSink) -> None:
        self.inner = sink
        self.heard = 0  # tokens

    def on_assigned(self, instance: str, pool: str) -> None:
        self.inner.on_assigned(instance, pool)

    def on_delta(self, delta: Delta) -> None:
        self.heard += len(delta.token_ids)
        self.inner.on_delta(delta)

    def on_done(self, outcome: Outcome) -> None:
        self.inner.on_done(outcome)

    def on_error(self, error: ClientError) -> None:
        self.inner.on_error(error)


class CountingSink(GeneralSink):
    """A `JsonTextSink` that counts what comes the short way."""

    def __init__(self, sink: ClientSink) -> None:
        super().__init__(sink)
        self.plain = 0

    def json_text_send(self) -> Callable[[bytes], None] | None:
        assert isinstance(self.inner, JsonTextSink)
        send = self.inner.json_text_send()
        if send is None:
            return None

        def counted(text: bytes) -> None:
            self.plain += 1
            self.heard += 1
            send(text)

        return counted


class Runner:
    """Puts `wrap` between the edge and the dispatcher."""

    def __init__(self, dispatcher: Dispatcher, wrap: type[GeneralSink]) -> None:
        self._dispatcher = dispatcher
        self._wrap = wrap
        self.sinks: list[GeneralSink] = []

    def submit(self, spec: RequestSpec, sink: ClientSink) -> RequestHandle:
        self.sinks.append(self._wrap(sink))
        return self._dispatcher.submit(spec, self.sinks[-1])


def engine(apart: bool, runners: list[Runner]) -> Script:
    """Writes one event per token: all in one go, or each once the one before has been heard."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(stream_head())
        for index, token_id in enumerate(IDS):
            finish = '"length"' if index == len(IDS) - 1 else "null"
            choice = f'"index":0,"text":" x","token_ids":[{token_id}],"finish_reason":{finish}'
            writer.write(chunked(f'data: {{"choices":[{{{choice}}}]}}\n\n'.encode()))
            while apart and runners[0].sinks[0].heard <= index:
                await asyncio.sleep(0.0005)
        writer.write(STREAM_END)

    return answer


@asynccontextmanager
async def gateway(address: str, wrap: type[GeneralSink]) -> AsyncIterator[tuple[str, Runner]]:
    loop = asyncio.get_running_loop()
    topology = topology_message({"chat-0": "chat"})
    topology.instances[0].address = address
    scheduler, client, metrics = FakeScheduler(loop, topology), HttpClient(), GatewayMetrics()
    dispatcher = Dispatcher(
        clock=loop,
        link=scheduler,
        adapters=build_adapters(client),
        decoders=SimDecoders(),
        observer=CountingObserver(),
        rng=random.Random(1),
    )
    scheduler.connect(dispatcher)
    runner = Runner(dispatcher, wrap)
    parts = EdgeParts(
        runner=runner,
        models=FakeModels(),
        keys=OpenKeys(),
        metrics=metrics,
        tracer=NoOpTracerProvider().get_tracer("shunter"),
        new_id=lambda: "req-1",
        ready=lambda: True,
        metrics_page=WorkerMetrics(metrics.registry, None).page,
    )
    listener = HttpListener(HttpEdge(Front(parts, EdgeSettings())))
    port = await listener.start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}", runner
    finally:
        await listener.close()
        dispatcher.close()
        await client.close()


async def stream(wrap: type[GeneralSink], apart: bool) -> tuple[bytes, GeneralSink]:
    """The stream's bytes, but for the second at which it was asked for."""
    runners: list[Runner] = []
    async with (
        asyncio.timeout(30),
        scripted_server(engine(apart, runners)) as server,
        gateway(server.address, wrap) as (url, runner),
        aiohttp.ClientSession() as http,
    ):
        runners.append(runner)
        async with http.post(f"{url}/v1/completions", json=BODY) as answer:
            assert answer.status == 200
            data = await answer.read()
    return re.sub(rb'"created":\d+', b'"created":0', data), runner.sinks[0]


async def test_plain_tokens_take_the_short_way_and_give_the_same_bytes() -> None:
    plain, sink = await stream(CountingSink, apart=True)
    general, _ = await stream(GeneralSink, apart=True)
    assert isinstance(sink, CountingSink) and sink.plain > len(IDS) / 2
    assert plain.endswith(b"data: [DONE]\n\n")
    assert plain == general


async def test_tokens_that_come_together_give_the_same_text() -> None:
    """They take the general way, joined: fewer events."""
    together, _ = await stream(CountingSink, apart=False)
    apart, _ = await stream(GeneralSink, apart=True)
    assert together.count(b"data: ") < apart.count(b"data: ")
    assert text_of(together) == text_of(apart) == TOKENIZER.decode(IDS)


def text_of(data: bytes) -> str:
    events = [line[6:] for line in data.decode().split("\n\n") if line.startswith("data: {")]
    return "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])
