"""The token-level adapters over real sockets, against a server that answers by script."""

import asyncio
import socket

import pytest

from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.table import build_adapters
from shunter_gateway.ports import EngineRequest, EngineUnavailable, SamplingParams
from shunter_gateway.testing_http import (
    STREAM_END,
    CollectingSink,
    Received,
    chunked,
    plain,
    scripted_server,
    stream_head,
)


def event(ids: str, finish: str = "null", extra: str = "") -> bytes:
    choice = f'{{"index":0,"text":"","token_ids":{ids},"finish_reason":{finish}{extra}}}'
    return f'data: {{"id":"x","choices":[{choice}]}}\n\n'.encode()


USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":1}}}\n\n'
)
ANSWER = event("[7]") + event("[8]") + event("[9]", '"length"') + USAGE


def request_to(address: str, **changes: object) -> EngineRequest:
    fields: dict[str, object] = {
        "request_id": "r1",
        "epoch": 2,
        "address": address,
        "model": "m",
        "path": "/v1/completions",
        "token_ids": (1, 2),
        "output_offset": 1,
        "max_tokens": 3,
        "min_tokens": 0,
        "sampling": SamplingParams(temperature=0.0, logit_bias={"5": 1.0}),
        "priority": 4,
        **changes,
    }
    return EngineRequest(**fields)  # type: ignore[arg-type]


async def whole(received: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(stream_head() + chunked(ANSWER) + STREAM_END)


async def byte_by_byte(received: Received, writer: asyncio.StreamWriter) -> None:
    data = stream_head() + b"".join(chunked(ANSWER[i : i + 5]) for i in range(0, len(ANSWER), 5))
    for value in data + STREAM_END:
        writer.write(bytes([value]))
        await asyncio.sleep(0)


@pytest.mark.parametrize("script", [whole, byte_by_byte])
async def test_tokens_and_usage_arrive_however_they_are_cut(
    client: HttpClient, script: object
) -> None:
    async with scripted_server(script) as server:  # type: ignore[arg-type]
        sink = CollectingSink()
        build_adapters(client)["simulated"].start(request_to(server.address), sink)
        assert await sink.result() is None
        assert sink.token_ids == [7, 8, 9]
        reasons = [chunk.finish_reason for chunk in sink.chunks]
        assert reasons.count("length") == 1 and set(reasons) == {None, "length"}
        assert (sink.chunks[-1].prompt_tokens, sink.chunks[-1].cached_tokens) == (2, 1)
        body = server.requests[0].json
        assert body["prompt"] == [1, 2] and body["request_id"] == "r1-2"
        assert body["return_token_ids"] is True and body["output_offset"] == 1
        assert body["priority"] == 4 and body["temperature"] == 0.0
        assert "seed" not in body and "logprobs" not in body


@pytest.mark.parametrize(
    ("offset", "asked", "left"), [(0, 0, 2048), (1500, 0, 548), (2048, 0, 1), (1500, 30, 30)]
)
@pytest.mark.parametrize("engine", ["vllm", "simulated"])
async def test_an_unknown_limit_is_of_the_whole_answer(
    client: HttpClient, engine: str, offset: int, asked: int, left: int
) -> None:
    """However often it goes on elsewhere."""
    async with scripted_server(whole) as server:
        sink = CollectingSink()
        request = request_to(server.address, output_offset=offset, max_tokens=asked)
        build_adapters(client)[engine].start(request, sink)
        assert await sink.result() is None
        assert server.requests[0].json["max_tokens"] == left


async def test_vllm_gets_no_offset(client: HttpClient) -> None:
    async with scripted_server(whole) as server:
        sink = CollectingSink()
        build_adapters(client)["vllm"].start(request_to(server.address), sink)
        assert await sink.result() is None
        assert "output_offset" not in server.requests[0].json


async def test_vllm_without_priority_scheduling_is_asked_again_without(client: HttpClient) -> None:
    async def refuse_priorities(received: Received, writer: asyncio.StreamWriter) -> None:
        if "priority" in received.json:
            body = b'{"error":{"message":"Got priority 4 but Priority scheduling is not enabled."}}'
            writer.write(plain(400, body))
        else:
            await whole(received, writer)

    async with scripted_server(refuse_priorities) as server:
        adapter = build_adapters(client)["vllm"]
        assert not adapter.unordered
        for _ in range(2):
            sink = CollectingSink()
            adapter.start(request_to(server.address), sink)
            assert await sink.result() is None
            assert sink.token_ids == [7, 8, 9]
        assert len(server.requests) == 3
        assert list(adapter.unordered) == [server.address]


async def test_connections_are_used_again(client: HttpClient) -> None:
    async with scripted_server(whole) as server:
        for _ in range(3):
            sink = CollectingSink()
            build_adapters(client)["simulated"].start(request_to(server.address), sink)
            assert await sink.result() is None
        assert server.connections == 1


async def test_connection_closed_while_idle_is_replaced(client: HttpClient) -> None:
    async def close_after(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.connection == 1 and received.json["request_id"] == "again-2":
            writer.close()
            await asyncio.sleep(1)
        await whole(received, writer)

    async with scripted_server(close_after) as server:
        adapter = build_adapters(client)["simulated"]
        for name in ("first", "again"):
            sink = CollectingSink()
            adapter.start(request_to(server.address, request_id=name), sink)
            assert await sink.result() is None
        assert server.connections == 2


async def test_abort_closes_the_socket_and_silences_the_call(client: HttpClient) -> None:
    async def endless(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(stream_head() + chunked(event("[7]")))
        await received.closed.wait()

    async with scripted_server(endless) as server:
        sink = CollectingSink()
        call = build_adapters(client)["simulated"].start(request_to(server.address), sink)
        async with asyncio.timeout(5):
            await sink.heard.wait()
            call.abort()
            call.abort()
            await server.requests[0].closed.wait()
        assert not sink.ended.is_set() and client.active == 0


@pytest.mark.parametrize(
    ("answer", "reason", "retriable", "status"),
    [
        (plain(400, b'{"error":{"message":"no"}}'), "client", False, 400),
        (plain(404, b"{}"), "client", False, 404),
        (plain(408, b""), "timeout", True, 408),
        (plain(429, b"{}", "retry-after: 7\r\n"), "overloaded", True, 429),
        (plain(500, b"oops"), "engine_5xx", True, 500),
        (plain(503, b""), "engine_5xx", True, 503),
        (plain(302, b""), "protocol", True, 302),
        (stream_head() + chunked(event("[7]")) + STREAM_END, "protocol", True, 0),
        (stream_head() + chunked(b"data: {nonsense\n\n"), "protocol", True, 0),
        (stream_head() + chunked(event("[7]", '"abort"')), "engine_5xx", True, 0),
        (
            stream_head() + chunked(b'data: {"error":{"message":"x","code":400}}\n\n'),
            "client",
            False,
            400,
        ),
        (
            stream_head() + chunked(b'data: {"error":{"message":"x","code":500}}\n\n'),
            "engine_5xx",
            True,
            0,
        ),
        (b"not http at all\r\n\r\n", "protocol", True, 0),
    ],
)
async def test_failures_are_told_apart(
    client: HttpClient, answer: bytes, reason: str, retriable: bool, status: int
) -> None:
    async def script(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with scripted_server(script) as server:
        sink = CollectingSink()
        build_adapters(client)["simulated"].start(request_to(server.address), sink)
        failure = await sink.result()
        assert failure is not None
        assert (failure.reason, failure.retriable, failure.status) == (reason, retriable, status)
        if status == 429:
            assert failure.retry_after_s == 7
        if status == 400 and b"content-length" in answer:
            assert failure.body == b'{"error":{"message":"no"}}'


async def test_dropped_connection_in_mid_answer_is_retriable(client: HttpClient) -> None:
    async def drop(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(stream_head() + chunked(event("[7]")))
        await writer.drain()
        writer.close()

    async with scripted_server(drop) as server:
        sink = CollectingSink()
        build_adapters(client)["simulated"].start(request_to(server.address), sink)
        failure = await sink.result()
        assert failure is not None and (failure.reason, failure.retriable) == ("connection", True)
        assert sink.token_ids == [7]


async def test_drop_after_the_finish_reason_is_an_end(client: HttpClient) -> None:
    async def drop(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(stream_head() + chunked(event("[7]", '"stop"')))
        await writer.drain()
        writer.close()

    async with scripted_server(drop) as server:
        sink = CollectingSink()
        build_adapters(client)["simulated"].start(request_to(server.address), sink)
        assert await sink.result() is None


async def test_nobody_listens(client: HttpClient) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    sink = CollectingSink()
    build_adapters(client)["simulated"].start(request_to(address), sink)
    failure = await sink.result()
    assert failure is not None and (failure.reason, failure.retriable) == ("connection", True)
    bad = CollectingSink()
    build_adapters(client)["simulated"].start(request_to("no-port"), bad)
    assert (await bad.result()) is not None
    with pytest.raises(EngineUnavailable):
        await build_adapters(client)["simulated"].tokenize(address, "m", "x")


async def test_silent_engine_counts_as_failed(impatient: HttpClient) -> None:
    async def stall(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(stream_head())
        if received.json["request_id"] == "begun-2":
            writer.write(chunked(event("[7]")))
        await received.closed.wait()

    async with scripted_server(stall) as server:
        for name in ("begun", "queued"):
            sink = CollectingSink()
            adapter = build_adapters(impatient)["simulated"]
            adapter.start(request_to(server.address, request_id=name), sink)
            failure = await sink.result()
            assert failure is not None and failure.reason == "timeout"
            assert ("silent" in failure.message) == (name == "begun")


async def test_paused_call_is_not_silent_and_loses_nothing(impatient: HttpClient) -> None:
    async def steady(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(stream_head() + chunked(event("[7]")))
        await asyncio.sleep(0.1)
        writer.write(chunked(event("[8]", '"stop"')) + STREAM_END)

    async with scripted_server(steady) as server:
        sink = CollectingSink()
        call = build_adapters(impatient)["simulated"].start(request_to(server.address), sink)
        async with asyncio.timeout(5):
            await sink.heard.wait()
        call.pause()
        await asyncio.sleep(0.6)
        assert sink.token_ids == [7] and not sink.ended.is_set()
        call.resume()
        assert await sink.result() is None
        assert sink.token_ids == [7, 8]


async def test_logprobs_carry_ids(client: HttpClient) -> None:
    extra = (
        ',"logprobs":{"tokens":["token_id:7"],"token_logprobs":[-0.5],'
        '"top_logprobs":[{"token_id:7":-0.5,"token_id:3":-1.5}]}'
    )

    async def script(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(stream_head() + chunked(event("[7]", '"stop"', extra)) + STREAM_END)

    async with scripted_server(script) as server:
        sink = CollectingSink()
        sampling = SamplingParams(logprobs=2)
        request = request_to(server.address, sampling=sampling)
        build_adapters(client)["simulated"].start(request, sink)
        assert await sink.result() is None
        assert server.requests[0].json["return_tokens_as_token_ids"] is True
        (logprob,) = sink.chunks[0].logprobs
        assert (logprob.token_id, logprob.logprob) == (7, -0.5)
        assert logprob.top == ((7, -0.5), (3, -1.5))


async def test_tokenize_and_forward(client: HttpClient) -> None:
    async def script(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.path == "/tokenize":
            writer.write(plain(200, b'{"tokens":[4,5],"count":2}'))
        else:
            writer.write(plain(500 if received.body == b"bad" else 200, b'{"data":[]}'))

    async with scripted_server(script) as server:
        for name in ("simulated", "vllm", "llamacpp"):
            adapter = build_adapters(client)[name]
            assert await adapter.tokenize(server.address, "m", "hi") == [4, 5]
        forward = build_adapters(client)["openai"].forward
        assert await forward(server.address, "/v1/embeddings", b"{}") == (200, b'{"data":[]}')
        with pytest.raises(EngineUnavailable):
            await forward(server.address, "/v1/embeddings", b"bad")


async def test_what_one_read_brings_is_one_chunk(client: HttpClient) -> None:
    async def burst(received: Received, writer: asyncio.StreamWriter) -> None:
        pieces = [event("[7]"), event("[8]"), event("[9,10]"), event("[11]", '"length"')]
        writer.write(stream_head() + b"".join(map(chunked, pieces)) + STREAM_END)

    async with scripted_server(burst) as server:
        sink = CollectingSink()
        build_adapters(client)["simulated"].start(request_to(server.address), sink)
        assert await sink.result() is None
    assert [list(chunk.token_ids) for chunk in sink.chunks] == [[7, 8, 9, 10], [11]]


async def test_tokens_before_a_fault_in_the_same_read_count(client: HttpClient) -> None:
    async def broken(received: Received, writer: asyncio.StreamWriter) -> None:
        pieces = [event("[7]"), event("[8]"), b'data: {"error":{"message":"no"}}\n\n']
        writer.write(stream_head() + b"".join(map(chunked, pieces)))

    async with scripted_server(broken) as server:
        sink = CollectingSink()
        build_adapters(client)["simulated"].start(request_to(server.address), sink)
        failure = await sink.result()
    assert failure is not None and failure.reason == "engine_5xx"
    assert sink.token_ids == [7, 8]
