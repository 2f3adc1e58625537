"""A whole gateway against engines that refuse, vanish and are slow: what its client sees."""

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from shunter_gateway.testing_http import (
    STREAM_END,
    Received,
    plain,
    scripted_server,
    stream_head,
    token_event,
)
from whole_gateway import PoolOf, WholeGateway, until, whole_gateway

Answers = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]
BODY = {"model": "chat", "prompt": "Hello there", "max_tokens": 3}


ANSWER = (
    stream_head() + token_event(300) + token_event(301) + token_event(302, '"length"') + STREAM_END
)


def generating(answers: Answers) -> Answers:
    """Only completions are given to `answers`; the gateway's other questions find nothing."""

    async def script(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.path == "/v1/completions":
            await answers(received, writer)
        else:
            writer.write(plain(404, b"{}"))

    return script


async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(ANSWER)


def refusing(status: int, extra: str = "") -> Answers:
    async def refuse(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(plain(status, b'{"error":{"message":"no","code":1}}', extra))

    return refuse


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


async def ask(gateway: WholeGateway, **changes: object) -> Reply:
    url = f"{gateway.url}/v1/completions"
    async with gateway.http.post(url, json={**BODY, **changes}) as response:
        return Reply(response.status, response.headers, await response.read())


async def two_engines(
    first: Answers, second: Answers, **changes: object
) -> tuple[Reply, list[int], list[str]]:
    """The client's reply, calls per engine, and the reasons of the failures that were reported."""
    async with (
        scripted_server(generating(first)) as a,
        scripted_server(generating(second)) as b,
        whole_gateway(PoolOf({"a": a.address, "b": b.address}, **changes)) as gateway,  # type: ignore[arg-type]
    ):
        reply = await ask(gateway)
        await until(lambda: len(gateway.scheduler.of("finished")) == 1)  # the last event
        reasons = [e.failed.reason for e in gateway.scheduler.of("failed")]
        calls = [sum(r.path == "/v1/completions" for r in engine.requests) for engine in (a, b)]
        return reply, calls, reasons


async def test_overload_is_taken_elsewhere() -> None:
    for status in (429, 503):
        reply, calls, _ = await two_engines(refusing(status), answer)
        assert (reply.status, calls) == (200, [1, 1])


async def test_overload_everywhere_is_429_with_retry_after() -> None:
    for status in (429, 503):
        overloaded = refusing(status, "retry-after: 3\r\n")
        reply, calls, reasons = await two_engines(overloaded, overloaded, max_retries=1)
        assert (reply.status, calls) == (429, [1, 1])
        assert reply.headers["Retry-After"] == "3"
        assert reasons == ["overloaded"] * 2


async def test_a_fault_is_not_shown_while_another_engine_can_answer() -> None:
    reply, calls, reasons = await two_engines(refusing(500), answer)
    assert (reply.status, calls, reasons) == (200, [1, 1], ["engine_5xx"])


async def test_a_4xx_is_the_clients_and_is_not_repeated() -> None:
    reply, calls, reasons = await two_engines(refusing(422), answer)
    assert (reply.status, calls, reasons) == (422, [1, 0], [])
    assert json.loads(reply.body)["error"]["code"] == 1


async def test_idle_connection_closed_while_we_send() -> None:
    """The engine closes after its answer without saying so: the next request must not fail."""
    count = itertools.count()

    async def vanish(received: Received, writer: asyncio.StreamWriter) -> None:
        if next(count) % 2:
            writer.close()  # without an answer, as a server whose idle timer just ended
            raise ConnectionError
        writer.write(ANSWER)

    async with scripted_server(generating(vanish)) as engine:
        async with whole_gateway(PoolOf({"a": engine.address})) as gateway:
            for _ in range(4):
                assert (await ask(gateway)).status == 200
            assert gateway.scheduler.of("failed") == []
        calls = [r.connection for r in engine.requests if r.path == "/v1/completions"]
        assert len(calls) == 7 and len(set(calls)) == 4


async def test_a_client_that_leaves_ends_the_engines_work_within_a_second() -> None:
    async def hang(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(stream_head() + token_event(300))
        await received.closed.wait()

    async with (
        scripted_server(generating(hang)) as engine,
        whole_gateway(PoolOf({"a": engine.address})) as gateway,
    ):
        for stream in (True, False):
            engine.requests.clear()
            asking = asyncio.create_task(ask(gateway, stream=stream))
            begun = 1 if stream else 2
            await until(lambda n=begun: len(gateway.scheduler.of("first_token")) == n)  # type: ignore[misc]
            asking.cancel()
            call = next(r for r in engine.requests if r.path == "/v1/completions")
            async with asyncio.timeout(1):
                await call.closed.wait()
        await until(lambda: len(gateway.scheduler.of("finished")) == 2)
        reasons = {e.finished.finish_reason for e in gateway.scheduler.of("finished")}
        assert reasons == {"cancelled"}


PIECES = 10_000
LONG_NAME = "n" * 1000  # in each of the gateway's events: the client's socket is full soon


async def impatient(received: Received, writer: asyncio.StreamWriter) -> None:
    """Drops a client that leaves 256 KiB unread, as engines do with some limit or other."""
    wanted = received.json["max_tokens"]
    assert isinstance(wanted, int)
    # The kernel would otherwise keep some MiB more.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    # With a usage in each, events are passed on one by one.
    last, usage = '"length"', ',"usage":{"prompt_tokens":1}'
    writer.write(stream_head())
    for index in range(PIECES - wanted, PIECES):
        writer.write(token_event(300 + index % 50, last if index == PIECES - 1 else "null", usage))
        if writer.transport.get_write_buffer_size() > 1 << 18:
            writer.transport.abort()
            raise ConnectionError
        if index % 20 == 0:
            await asyncio.sleep(0)
    writer.write(STREAM_END)


async def test_an_engine_that_drops_a_paused_stream_has_not_failed() -> None:
    async with scripted_server(generating(impatient)) as engine:
        pool = PoolOf({"a": engine.address}, context_length=1 << 16, aliases=(LONG_NAME,))
        async with whole_gateway(pool) as gateway:
            body = {"model": LONG_NAME, "prompt": "Hi", "max_tokens": PIECES}
            body |= {"stream": True, "return_token_ids": True}
            url = f"{gateway.url}/v1/completions"
            async with gateway.http.post(url, json=body) as response:
                first = await response.content.readline()
                await asyncio.sleep(1.0)  # meanwhile the engine drops the gateway
                lines = [line async for line in response.content]
            await until(lambda: bool(gateway.scheduler.of("finished")))
            assert gateway.scheduler.of("failed") == []
        calls = [r for r in engine.requests if r.path == "/v1/completions"]
        assert len(calls) > 1
    events = [json.loads(line[6:]) for line in [first, *lines] if line.startswith(b"data: {")]
    ids = [i for e in events for i in e["choices"][0].get("token_ids", ())]
    assert ids == [300 + index % 50 for index in range(PIECES)]
