"""What a client sees while its request waits: comments, statuses, error events; and leaving."""

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from typing import Any

import openai
import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import StreamWriter

from edge_service import Service, connection, run_service
from recorded_stream import RecordingTransport, unopened_stream
from shunter_gateway.edge.front import EdgeSettings
from shunter_gateway.edge.job import Shape
from shunter_gateway.edge.render import KEEP_ALIVE, waiting_comment
from shunter_gateway.edge.stream import EventStream, StreamSettings
from shunter_gateway.edge.testing import Script
from shunter_gateway.request import ClientError, Waiting

PATH = "/v1/chat/completions"
BODY = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
STARTING = Waiting("starting", position=3, eta_s=41.2)
COMMENT = ": shunter phase=starting position=3 eta_s=42\n\n"
FULL = ClientError(503, "too many", "server_error", "hold_full", retry_after_s=7.0)
SOON = EdgeSettings(stream=StreamSettings(keep_alive_s=0.05))
LATE = EdgeSettings(stream=StreamSettings(keep_alive_s=30.0))


def test_comment_says_what_is_known() -> None:
    assert waiting_comment(STARTING) == COMMENT.encode()
    assert waiting_comment(Waiting("queued")) == b": shunter phase=queued\n\n"
    assert waiting_comment(Waiting("queued", 0)) == b": shunter phase=queued position=0\n\n"


async def post(service: Service, **fields: Any) -> tuple[int, dict[str, str], str]:
    async with service.http.post(service.url + PATH, json={**BODY, **fields}) as answer:
        return answer.status, dict(answer.headers), await answer.text()


async def test_stream_that_waits_hears_phase_position_and_eta_then_its_answer() -> None:
    script = Script(words=("late",), waiting=STARTING, hold_s=0.3)
    async with run_service(lambda _: script, SOON) as service:
        status, headers, text = await post(service, stream=True)
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream")
    assert text.startswith(COMMENT) and text.count(COMMENT) >= 3
    events = [line for line in text.split("\n\n") if line.startswith("data: ")]
    assert json.loads(events[1][6:])["choices"][0]["delta"]["content"] == "late"
    assert events[-1] == "data: [DONE]"


async def test_openai_client_passes_over_the_comments() -> None:
    script = Script(words=("la", "te"), waiting=STARTING, hold_s=0.2)
    async with run_service(lambda _: script, SOON) as service:
        stream = await service.client.chat.completions.create(**BODY, stream=True)
        texts = [chunk.choices[0].delta.content async for chunk in stream]
    assert [text for text in texts if text] == ["la", "te"]


async def test_rejection_before_the_first_comment_is_a_status() -> None:
    script = Script(words=(), waiting=STARTING, hold_s=0.1, error=FULL)
    async with run_service(lambda _: script, LATE) as service:
        status, headers, text = await post(service, stream=True)
        assert (status, headers["Retry-After"]) == (503, "7")
        assert json.loads(text)["error"]["code"] == "hold_full"
        with pytest.raises(openai.InternalServerError) as refused:
            await service.client.chat.completions.create(**BODY, stream=True)
    assert refused.value.status_code == 503


async def test_rejection_after_a_comment_is_an_error_event() -> None:
    script = Script(words=(), waiting=STARTING, hold_s=0.2, error=FULL)
    async with run_service(lambda _: script, SOON) as service:
        status, _, text = await post(service, stream=True)
        assert status == 200
        assert text.startswith(COMMENT) and "[DONE]" not in text
        last = text.rstrip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "hold_full"
        stream = await service.client.chat.completions.create(**BODY, stream=True)
        with pytest.raises(openai.APIError, match="too many"):
            async for _ in stream:
                pass


class HurriedStream(EventStream):
    """Two periods pass at once, then it ends."""

    periods = 2

    async def _woken(self, timeout_s: float) -> bool:
        self.periods -= 1
        if self.periods < 0:
            self.end()
        return self.periods < 0


async def test_comments_come_each_period_from_the_first_on() -> None:
    stream = unopened_stream(Shape("chat", "r", "m", 1, stream=True), HurriedStream)
    transport = RecordingTransport()
    stream.open(transport, chunked=False)
    assert transport.writes == [KEEP_ALIVE]
    await stream.run(
        StreamWriter(BaseProtocol(asyncio.get_running_loop()), asyncio.get_running_loop())
    )
    assert transport.writes == [KEEP_ALIVE] * 3


async def test_rejection_while_the_head_goes_out_is_not_lost() -> None:
    stream, transport = (
        unopened_stream(Shape("chat", "r", "m", 1, stream=True)),
        RecordingTransport(),
    )
    stream.fail(FULL)  # neither has anything been sent, nor can a status be any more
    stream.open(transport, chunked=False)
    assert b'"code":"hold_full"' in transport.written
    assert stream.ended


async def test_whole_answer_waits_and_a_rejection_is_its_status() -> None:
    script = Script(words=("late",), waiting=STARTING, hold_s=0.2)
    async with run_service(lambda _: script, SOON) as service:
        status, _, text = await post(service)
        assert status == 200
        assert json.loads(text)["choices"][0]["message"]["content"] == "late"
        service.runner.script = lambda _: Script(words=(), hold_s=0.1, error=FULL)
        status, headers, _ = await post(service)
        assert (status, headers["Retry-After"]) == (503, "7")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("settings", [SOON, LATE])
async def test_client_that_leaves_while_held_is_released_at_once(
    stream: bool, settings: EdgeSettings
) -> None:
    script = Script(waiting=STARTING, hold_s=60.0)
    body = json.dumps({**BODY, "stream": stream}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with (
        run_service(lambda _: script, settings) as service,
        connection(service, head + body) as (reader, writer),
    ):
        await service.until(lambda: bool(service.runner.handles))
        if stream and settings is SOON:
            await asyncio.wait_for(reader.readuntil(COMMENT.encode()), 5)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        await service.until(lambda: service.runner.handles[0].cancelled, timeout_s=1.0)
        await service.until(lambda: service.front.inflight == 0)
        assert service.front.inflight_bytes == 0


@pytest.mark.parametrize("length", ["Transfer-Encoding: chunked", "Content-Length: 8000000"])
async def test_bodies_that_do_not_come_take_no_room(length: str) -> None:
    settings = EdgeSettings(max_inflight_bytes=16 << 20)
    head = f"POST {PATH} HTTP/1.1\r\nHost: g\r\n{length}\r\n\r\n".encode()
    async with (
        run_service(lambda _: Script(words=("hi",)), settings) as service,
        AsyncExitStack() as slow,
    ):
        for _ in range(3):
            await slow.enter_async_context(connection(service, head))
        await service.until(lambda: service.front.inflight == 3)
        assert (await post(service))[0] == 200


async def test_bodies_of_requests_in_flight_are_bounded() -> None:
    settings = EdgeSettings(max_inflight_bytes=4000)
    async with run_service(lambda _: Script(hold_s=60.0), settings) as service:
        long = {"messages": [{"role": "user", "content": "x" * 240}]}
        held = [asyncio.create_task(post(service, **long)) for _ in range(10)]
        await service.until(lambda: len(service.runner.handles) == 10)
        assert 2500 < service.front.inflight_bytes <= 4000
        status, headers, text = await post(
            service, messages=[{"role": "user", "content": "x" * 2000}]
        )
        assert (status, headers["Retry-After"]) == (429, "1")
        assert json.loads(text)["error"]["code"] == "overloaded"
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await service.until(lambda: service.front.inflight == 0)
        assert service.front.inflight_bytes == 0
