"""Several choices of one request over HTTP: one fails, and what becomes of the others."""

import asyncio
import gc
import itertools
import json

from shunter_gateway.edge.job import Job
from shunter_gateway.edge.stream import EventStream
from shunter_gateway.journal import TokenJournal
from shunter_gateway.lifecycle import RequestLifecycle
from shunter_gateway.testing_http import (
    STREAM_END,
    Received,
    plain,
    scripted_server,
    stream_head,
    token_event,
)
from whole_gateway import PoolOf, WholeGateway, until, whole_gateway

BODY = {"model": "chat", "prompt": "Hello there", "max_tokens": 2, "n": 3}


class Engine:
    """Refuses the second completion with `status`; the others wait where `hang`."""

    def __init__(self, status: int, hang: bool) -> None:
        self._status = status
        self._hang = hang
        self._count = itertools.count()
        self.calls: list[Received] = []

    async def __call__(self, received: Received, writer: asyncio.StreamWriter) -> None:
        if received.path != "/v1/completions":
            writer.write(plain(404, b"{}"))
            return
        self.calls.append(received)
        if next(self._count) == 1:
            if self._hang:  # the others have begun
                await until(lambda: len(self.calls) == 3)
            writer.write(plain(self._status, b'{"error":{"message":"no","code":1}}'))
            return
        writer.write(stream_head() + token_event(300))
        if self._hang:
            await received.closed.wait()
        writer.write(token_event(301, '"length"') + STREAM_END)


async def ask(gateway: WholeGateway, stream: bool) -> tuple[int, bytes]:
    url = f"{gateway.url}/v1/completions"
    async with gateway.http.post(url, json={**BODY, "stream": stream}) as response:
        return response.status, await response.read()


async def test_a_refused_choice_ends_the_whole_answer() -> None:
    for stream in (False, True):
        engine = Engine(422, hang=True)
        async with (
            scripted_server(engine) as server,
            whole_gateway(PoolOf({"a": server.address})) as gateway,
        ):
            status, body = await ask(gateway, stream)
            if status == 200:  # the stream had begun
                assert stream and body.endswith(b"}\n\n") and b"[DONE]" not in body
                body = body.rsplit(b"data: ", 1)[1]
            else:
                assert status == 422
            assert json.loads(body)["error"]["message"]
            async with asyncio.timeout(1):
                await asyncio.gather(*(engine.calls[i].closed.wait() for i in (0, 2)))
            await until(lambda: len(gateway.scheduler.of("finished")) == 3)
            reasons = [e.finished.finish_reason for e in gateway.scheduler.of("finished")]
            assert sorted(reasons) == ["cancelled", "cancelled", "error"]


async def test_a_choice_whose_engine_fails_is_answered_by_another() -> None:
    engine = Engine(500, hang=False)
    async with (
        scripted_server(engine) as one,
        scripted_server(engine) as other,
        whole_gateway(PoolOf({"a": one.address, "b": other.address})) as gateway,
    ):
        status, body = await ask(gateway, stream=False)
        assert status == 200
        answer = json.loads(body)
        assert [c["finish_reason"] for c in answer["choices"]] == ["length"] * 3
        assert answer["usage"]["completion_tokens"] == 6
        assert len({c["text"] for c in answer["choices"]}) == 1
        (failed,) = gateway.scheduler.of("failed")
        assert failed.failed.reason == "engine_5xx"


async def test_nothing_of_an_ended_request_is_kept() -> None:
    def alive() -> int:
        gc.collect()
        kept = (RequestLifecycle, TokenJournal, Job, EventStream)
        return sum(isinstance(found, kept) for found in gc.get_objects())

    before = alive()
    async with (
        scripted_server(Engine(500, hang=False)) as server,
        whole_gateway(PoolOf({"a": server.address})) as gateway,
    ):
        for stream in (False, True, False):
            status, _ = await ask(gateway, stream)
            assert status == 200
        await until(lambda: len(gateway.scheduler.of("finished")) == 9)
        await until(lambda: alive() <= before)
