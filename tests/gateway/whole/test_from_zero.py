"""A pool at zero, over real sockets: requests wait, hear of it, and run once there is an engine."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import openai

from shunter_gateway.testing_http import (
    STREAM_END,
    Received,
    plain,
    scripted_server,
    stream_head,
    token_event,
)
from shunter_proto.v1 import inference_pb2
from shunter_proto.v1.inference_pb2_grpc import InferenceStub
from whole_gateway import OPTIONS, PoolOf, WholeGateway, until, whole_gateway

BODY = {"model": "chat", "prompt": "Hello there", "max_tokens": 3}
COLD = PoolOf({}, max_held=2)
ANSWER = (
    stream_head() + token_event(300) + token_event(301) + token_event(302, '"length"') + STREAM_END
)


@asynccontextmanager
async def cold_gateway(keep_alive_s: float = 0.05) -> AsyncIterator[WholeGateway]:
    async with whole_gateway(COLD, options=replace(OPTIONS, keep_alive_s=keep_alive_s)) as gateway:
        yield gateway


async def engine(received: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(ANSWER if received.path == "/v1/completions" else plain(404, b"{}"))


async def read(gateway: WholeGateway, stream: bool) -> tuple[int, str]:
    url = f"{gateway.url}/v1/completions"
    async with gateway.http.post(url, json={**BODY, "stream": stream}) as answer:
        return answer.status, await answer.text()


async def test_held_streams_wholes_and_calls_run_once_there_is_an_engine() -> None:
    async with scripted_server(engine) as server, cold_gateway() as gateway:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{gateway.ports.grpc}")
        async with channel:
            stub = InferenceStub(channel)
            request = inference_pb2.GenerateRequest(model="chat", prompt="Hello there")

            async def call() -> str:
                return "".join([reply.text async for reply in stub.Generate(request)])

            async with asyncio.TaskGroup() as tasks:
                stream = tasks.create_task(read(gateway, stream=True))
                whole = tasks.create_task(read(gateway, stream=False))
                rpc = tasks.create_task(call())
                await until(lambda: len(gateway.scheduler.held) == 3)
                await asyncio.sleep(0.3)
                assert not (stream.done() or whole.done() or rpc.done())
                gateway.scheduler.start({"chat-0": server.address})
    status, text = stream.result()
    assert status == 200 and text.endswith("data: [DONE]\n\n")
    starting = ": shunter phase=starting position="
    comments = [line for line in text.split("\n\n") if line.startswith(starting)]
    assert len(comments) >= 2
    assert comments[0].endswith("eta_s=30")
    events = [json.loads(e[6:]) for e in text.split("\n\n") if e.startswith("data: {")]
    streamed = "".join(event["choices"][0]["text"] for event in events)
    assert whole.result()[0] == 200
    assert json.loads(whole.result()[1])["choices"][0]["text"] == streamed == rpc.result() != ""


async def test_rejection_of_held_requests_status_before_a_comment_event_after() -> None:
    async with cold_gateway(keep_alive_s=0.2) as gateway:
        early = asyncio.create_task(read(gateway, stream=True))
        await until(lambda: len(gateway.scheduler.held) == 1)
        gateway.scheduler.reject_held("hold_full", 9)
        assert (await early)[0] == 503
        url = f"{gateway.url}/v1/completions"
        async with gateway.http.post(url, json={**BODY, "stream": True}) as answer:
            assert answer.status == 200  # the first comment has come
            gateway.scheduler.reject_held("hold_timeout", 9)
            text = await answer.text()
    assert text.startswith(": shunter phase=") and "[DONE]" not in text
    assert json.loads(text.split("data: ")[1])["error"]["code"] == "hold_timeout"


async def test_client_that_leaves_is_no_longer_held() -> None:
    async with cold_gateway() as gateway:
        for stream in (True, False):
            reading = asyncio.create_task(read(gateway, stream))
            await until(lambda: len(gateway.scheduler.held) == 1)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await until(lambda: not gateway.scheduler.held, timeout_s=1.0)
        reasons = [event.finished.finish_reason for event in gateway.scheduler.of("finished")]
        assert reasons == ["cancelled", "cancelled"]


async def test_scheduler_that_restarts_gets_held_requests_back_with_their_time() -> None:
    async with scripted_server(engine) as server, cold_gateway() as gateway:
        reading = asyncio.create_task(read(gateway, stream=True))
        await until(lambda: len(gateway.scheduler.held) == 1)
        await asyncio.sleep(0.2)
        fresh = await gateway.restart_scheduler(0.1)
        await until(lambda: len(fresh.held) == 1)
        assert next(iter(fresh.held.values())).waited_ms >= 300
        fresh.start({"chat-0": server.address})
        status, text = await reading
    assert status == 200 and text.endswith("data: [DONE]\n\n")


async def test_without_a_scheduler_the_gateway_holds_up_to_the_pools_bound() -> None:
    async with scripted_server(engine) as server, cold_gateway() as gateway:
        restarting = asyncio.ensure_future(gateway.restart_scheduler(3.0))
        await asyncio.sleep(1.5)
        held = [asyncio.create_task(read(gateway, stream=True)) for _ in range(2)]
        await asyncio.sleep(0.3)
        async with gateway.http.post(f"{gateway.url}/v1/completions", json=BODY) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert json.loads(await answer.text())["error"]["code"] == "hold_full"
        fresh = await restarting
        await until(lambda: len(fresh.held) == 2)
        fresh.start({"chat-0": server.address})
        texts = [(await task)[1] for task in held]
    assert all(": shunter phase=starting\n" in text for text in texts)
    assert all(text.endswith("data: [DONE]\n\n") for text in texts)


async def test_openai_client_waits_through_the_comments() -> None:
    async with scripted_server(engine) as server, cold_gateway() as gateway:
        client = openai.AsyncOpenAI(api_key="none", base_url=f"{gateway.url}/v1", max_retries=0)
        async with client:

            async def texts() -> str:
                stream = await client.completions.create(**BODY, stream=True)  # type: ignore[call-overload]
                return "".join([chunk.choices[0].text async for chunk in stream])

            reading = asyncio.create_task(texts())
            await until(lambda: len(gateway.scheduler.held) == 1)
            await asyncio.sleep(0.2)
            gateway.scheduler.start({"chat-0": server.address})
            assert await reading
