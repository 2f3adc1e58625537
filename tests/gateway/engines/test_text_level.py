"""Text-level calls: events pass through untouched, and the end and the counts are seen."""

import asyncio

import pytest

from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.table import build_adapters
from shunter_gateway.ports import EngineRequest, SamplingParams
from shunter_gateway.testing_http import (
    STREAM_END,
    CollectingSink,
    Received,
    chunked,
    plain,
    scripted_server,
    stream_head,
)

EVENTS = [
    b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}',
    b'{"choices":[{"index":0,"delta":{"content":"Hi"}}]}',
    b'{"choices":[{"index":0,"delta":{"tool_calls":[{"x":1}]},"finish_reason":"tool_calls"}]}',
    b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}',
]


def request_to(address: str, body: bytes) -> EngineRequest:
    return EngineRequest(
        request_id="r1",
        epoch=1,
        address=address,
        model="served",
        path="/v1/chat/completions",
        token_ids=None,
        output_offset=0,
        max_tokens=0,
        min_tokens=0,
        sampling=SamplingParams(),
        body=body,
        trace_parent="00-aa-bb-01",
    )


@pytest.mark.parametrize("engine_type", ["openai", "vllm", "llamacpp", "simulated"])
async def test_stream_passes_through(client: HttpClient, engine_type: str) -> None:
    async def script(received: Received, writer: asyncio.StreamWriter) -> None:
        data = b"".join(b"data: %b\n\n" % event for event in EVENTS)
        writer.write(stream_head() + chunked(data) + STREAM_END)

    async with scripted_server(script) as server:
        sink = CollectingSink()
        body = b'{"model":"alias","stream":true,"tools":[{"a": 1.50}],"x":{"y":null}}'
        build_adapters(client)[engine_type].start(request_to(server.address, body), sink)
        assert await sink.result() is None
        assert [chunk.raw for chunk in sink.chunks] == EVENTS
        assert [chunk.finish_reason for chunk in sink.chunks] == [None, None, "tool_calls", None]
        assert [chunk.text for chunk in sink.chunks] == ["", "Hi", "", ""]
        last = sink.chunks[-1]
        assert (last.prompt_tokens, last.output_tokens) == (9, 4)
        received = server.requests[0]
        assert received.path == "/v1/chat/completions"
        assert received.body == body.replace(b"alias", b"served")
        assert received.headers["traceparent"] == "00-aa-bb-01"
        assert "authorization" not in received.headers


async def test_whole_answer_is_one_chunk(client: HttpClient) -> None:
    answer = (
        b'{"choices":[{"index":0,"message":{"content":"Hello"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":3,"completion_tokens":1}}'
    )

    async def script(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(plain(200, answer))

    async with scripted_server(script) as server:
        sink = CollectingSink()
        request = request_to(server.address, b'{"model":"alias"}')
        build_adapters(client)["openai"].start(request, sink)
        assert await sink.result() is None
        (chunk,) = sink.chunks
        assert (chunk.raw, chunk.text, chunk.finish_reason) == (answer, "Hello", "stop")


async def test_answer_without_length_ends_with_the_connection(client: HttpClient) -> None:
    async def script(received: Received, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        writer.write(head + b"data: %b\n\ndata: [DONE]\n\n" % EVENTS[2])
        await writer.drain()
        writer.close()

    async with scripted_server(script) as server:
        sink = CollectingSink()
        request = request_to(server.address, b'{"model":"m","stream":true}')
        build_adapters(client)["openai"].start(request, sink)
        assert await sink.result() is None
        assert [chunk.raw for chunk in sink.chunks] == [EVENTS[2]]
