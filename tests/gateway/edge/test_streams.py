"""What happens on the wire of a stream: disconnects, slow clients, keep-alives, old HTTP."""

import asyncio
import json
from typing import Any

from edge_service import connection, run_service
from shunter_gateway.edge.front import EdgeSettings
from shunter_gateway.edge.stream import StreamSettings
from shunter_gateway.edge.testing import Script
from shunter_gateway.request import ClientError, RequestSpec

PATH = "/v1/chat/completions"


def request_bytes(version: str = "1.1", **fields: Any) -> bytes:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    data = json.dumps({**body, **fields}).encode()
    head = f"POST {PATH} HTTP/{version}\r\nHost: gateway\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def until_done(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while not pieces or b"[DONE]" not in pieces[-1]:
        pieces.append(await reader.read(65536))
        assert pieces[-1]
    return b"".join(pieces)


async def test_disconnect_in_mid_stream_cancels_within_a_second() -> None:
    async with (
        run_service(lambda _: Script(hang=True)) as service,
        connection(service, request_bytes()) as (reader, writer),
    ):
        await asyncio.wait_for(reader.readuntil(b'"lo"'), 5)
        assert not service.runner.handles[0].cancelled
        writer.transport.abort()
        await service.until(lambda: service.runner.handles[0].cancelled, timeout_s=1.0)
        await service.until(lambda: service.front.inflight == 0)
        sample = service.sample("shunter_gateway_requests_total", model="chat", code="499")
        assert sample == 1


async def test_disconnect_before_the_first_token_cancels() -> None:
    for stream in (True, False):
        async with (
            run_service(lambda _: Script(words=(), hang=True)) as service,
            connection(service, request_bytes(stream=stream)) as (_, writer),
        ):
            await service.until(lambda: bool(service.runner.handles))
            writer.close()
            await service.until(lambda: service.runner.handles[0].cancelled, timeout_s=1.0)


async def test_disconnect_cancels_every_choice() -> None:
    async with (
        run_service(lambda _: Script(hang=True)) as service,
        connection(service, request_bytes(n=3)) as (reader, writer),
    ):
        await asyncio.wait_for(reader.readuntil(b'"lo"'), 5)
        writer.transport.abort()
        await service.until(lambda: all(h.cancelled for h in service.runner.handles))
        assert len(service.runner.handles) == 3


async def test_a_failed_choice_ends_the_others() -> None:
    lost = ClientError(502, "lost", "server_error")

    def script(spec: RequestSpec) -> Script:
        second = spec.request_id == "req-1-1"
        return Script(error=lost) if second else Script(hang=True)

    async with (
        run_service(script) as service,
        connection(service, request_bytes(n=2)) as (reader, writer),
    ):
        text = await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 5)
        assert b'data: {"error":{"message":"lost"' in text
        assert b"[DONE]" not in text
        await service.until(lambda: service.runner.handles[0].cancelled)
        writer.close()


async def test_slow_client_pauses_the_engine() -> None:
    words = tuple("x" * 4000 for _ in range(2000))
    settings = EdgeSettings(stream=StreamSettings(write_buffer_bytes=16_000))
    async with (
        run_service(lambda _: Script(words=words), settings) as service,
        connection(service, request_bytes()) as (reader, writer),
    ):
        await service.until(lambda: any(h.pauses for h in service.runner.handles))
        assert not service.runner.handles[0].finished
        text = await asyncio.wait_for(until_done(reader), 20)
        assert text.count(b"x" * 4000) == 2000
        handle = service.runner.handles[0]
        assert handle.resumes == handle.pauses
        writer.close()


async def test_client_that_never_reads_is_dropped() -> None:
    words = tuple("x" * 4000 for _ in range(3000))
    settings = EdgeSettings(stream=StreamSettings(write_buffer_bytes=16_000, stall_timeout_s=0.1))
    async with (
        run_service(lambda _: Script(words=words), settings) as service,
        connection(service, request_bytes()) as (_, writer),
    ):
        await service.until(lambda: any(h.cancelled for h in service.runner.handles))
        await service.until(lambda: service.front.inflight == 0)
        writer.close()


async def test_keep_alive_comments_while_waiting() -> None:
    settings = EdgeSettings(stream=StreamSettings(keep_alive_s=0.05))
    async with run_service(lambda _: Script(words=("late",), delay_s=0.2), settings) as service:
        async with service.http.post(
            service.url + PATH, data=request_bytes().split(b"\r\n\r\n")[1]
        ) as answer:
            text = (await answer.read()).decode()
        assert text.count(": keep-alive\n\n") >= 2
        events = [line for line in text.split("\n\n") if line.startswith("data: ")]
        assert json.loads(events[1][6:])["choices"][0]["delta"]["content"] == "late"
        assert events[-1] == "data: [DONE]"


async def test_http_1_0_stream_has_no_chunks() -> None:
    async with (
        run_service() as service,
        connection(service, request_bytes(version="1.0")) as (reader, writer),
    ):
        head, _, text = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
        assert b"chunked" not in head.lower()
        assert text.startswith(b"data: {") and text.endswith(b"data: [DONE]\n\n")
        writer.close()


async def test_connection_is_used_again_after_a_stream() -> None:
    async with run_service() as service, connection(service, request_bytes()) as (reader, writer):
        for _ in range(3):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 200")
            await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 5)
            writer.write(request_bytes())
        writer.close()


async def test_expect_100_continue() -> None:
    async with run_service() as service:
        head, _, body = request_bytes().partition(b"\r\n\r\n")
        async with connection(service, head + b"\r\nExpect: 100-continue\r\n\r\n") as (
            reader,
            writer,
        ):
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 100")
            writer.write(body)
            text = await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 5)
            assert b"data: [DONE]" in text
            writer.close()


async def test_stop_lets_streams_finish_and_refuses_new_ones() -> None:
    words = tuple(str(i) for i in range(20))
    async with (
        run_service(lambda _: Script(words=words, delay_s=0.02)) as service,
        connection(service, request_bytes()) as (reader, writer),
    ):
        await asyncio.wait_for(reader.readuntil(b'"2"'), 5)
        stopping = asyncio.create_task(service.stop(grace_s=10))
        text = await asyncio.wait_for(reader.readuntil(b"[DONE]"), 5)
        assert b'"19"' in text
        await stopping
        writer.close()
        try:
            await asyncio.open_connection("127.0.0.1", service.port)
        except ConnectionRefusedError:
            pass
        else:
            raise AssertionError("the listener still accepts")


async def test_stop_cuts_off_after_the_grace() -> None:
    async with (
        run_service(lambda _: Script(hang=True)) as service,
        connection(service, request_bytes()) as (reader, writer),
    ):
        await asyncio.wait_for(reader.readuntil(b'"lo"'), 5)
        await service.stop(grace_s=0.05)
        assert service.runner.handles[0].cancelled
        writer.close()
