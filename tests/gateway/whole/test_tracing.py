"""Spans of a whole gateway: from the client's traceparent to the engines and the scheduler."""

import asyncio
import json

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shunter_engine.options import EngineOptions
from shunter_engine.testing import running_engine, simulated_parts
from shunter_gateway.testing_http import Received, ScriptedServer, plain, scripted_server
from shunter_runtime.tracing import recording_provider
from whole_gateway import PoolOf, WholeGateway, until, whole_gateway

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
SECRET = "zanzibarquartz"
KEY = "sk-test-4f1d9a27c3"


def ids_of(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None and span.parent is not None
    return format(span.context.span_id, "016x"), format(span.parent.span_id, "016x")


async def moved_stream(gateway: WholeGateway) -> str:
    """Streams an answer that is moved in the middle; returns its text."""
    body = {
        "model": "chat", "prompt": f"Tell of {SECRET}.", "max_tokens": 60, "stream": True,
        "ignore_eos": True,
    }  # fmt: skip
    headers = {"traceparent": PARENT, "authorization": f"Bearer {KEY}"}
    text = ""
    async with gateway.http.post(
        f"{gateway.url}/v1/completions", json=body, headers=headers
    ) as answer:
        assert answer.status == 200
        request_id = answer.headers["x-shunter-request-id"]
        events = 0
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            text += json.loads(line[6:])["choices"][0]["text"]
            events += 1
            if events == 10:
                gateway.scheduler.move(request_id, 1, "b")
    return text


async def test_one_trace_from_the_client_to_the_engines() -> None:
    exporter = InMemorySpanExporter()
    provider = recording_provider("test", SimpleSpanProcessor(exporter))
    options = EngineOptions(served_name="m", speed=2.0)
    async with (
        running_engine(simulated_parts(options)) as a,
        running_engine(simulated_parts(options)) as b,
        whole_gateway(
            PoolOf({"a": a.removeprefix("http://"), "b": b.removeprefix("http://")}), provider
        ) as gateway,
    ):
        text = await moved_stream(gateway)
        await until(lambda: bool(gateway.scheduler.of("finished")))
        submitted = gateway.scheduler.of("submitted")[0].submitted
        moved = gateway.scheduler.of("move_done")[0].move_done
    assert moved.moved and moved.rung == "replay"
    spans = [s for s in exporter.get_finished_spans() if s.name != "gateway.request" or s.parent]
    by_name = {span.name: span for span in spans}
    assert sorted(span.name for span in spans) == [
        "engine.generate", "engine.generate", "gateway.request", "move.replay",
    ]  # fmt: skip
    request_id, request_parent = ids_of(by_name["gateway.request"])
    assert request_parent == "b7ad6b7169203331"
    assert submitted.trace_parent == f"00-{TRACE}-{request_id}-01"
    for span in spans:
        assert span.context is not None and format(span.context.trace_id, "032x") == TRACE
        if span.name != "gateway.request":
            assert ids_of(span)[1] == request_id
        told = str(dict(span.attributes or {})) + str(span.status.description)
        for secret in (SECRET, KEY, " ".join(text.split()[:2])):
            assert secret not in told


async def test_engine_hears_of_its_span() -> None:
    exporter = InMemorySpanExporter()
    provider = recording_provider("test", SimpleSpanProcessor(exporter))

    async def refuse(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(plain(400, b'{"error":{"message":"no"}}'))

    async with scripted_server(refuse) as engine:
        pool = PoolOf({"a": engine.address})
        async with whole_gateway(pool, provider) as gateway:
            body = {"model": "chat", "prompt": "Hi", "max_tokens": 2}
            url = f"{gateway.url}/v1/completions"
            async with gateway.http.post(url, json=body, headers={"traceparent": PARENT}) as answer:
                assert answer.status == 400
        await _check_parent(engine, exporter)


async def _check_parent(engine: ScriptedServer, exporter: InMemorySpanExporter) -> None:
    call = next(span for span in exporter.get_finished_spans() if span.name == "engine.generate")
    received = next(r for r in engine.requests if r.path == "/v1/completions")
    assert received.headers["traceparent"] == f"00-{TRACE}-{ids_of(call)[0]}-01"
