"""A pool without an instance, with real processes: who asks waits, and is answered by the first."""

import asyncio
import signal
from collections.abc import Callable

import aiohttp
import grpc
import openai
import pytest

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import EngineSpec, System, pool_document
from streams import Answer, client, stream

FIRST = EngineSpec("first")
PROFILE = {"name": "h100", "accelerator": "h100", "replicas": {"min": 0, "max": 2}}
MAX_HELD = 2


def advised(system: System) -> int:
    with system.scheduler() as stub:
        reply = stub.AdviseScaling(pb.AdviseScalingRequest(pool="chat"), timeout=5)
    return sum(one.desired_replicas for one in reply.advice)


async def waiting(system: System, count: int) -> None:
    async with asyncio.timeout(20):
        while await asyncio.to_thread(_waiting, system) != count:
            await asyncio.sleep(0.05)


def _waiting(system: System) -> int:
    """Of its only pool; -1 while the scheduler starts."""
    try:
        pools = system.status().pools
    except grpc.RpcError:
        return -1
    return pools[0].waiting if pools else -1


async def test_requests_wait_for_the_first_instance(start_system: Callable[..., System]) -> None:
    scaling = {"scaleToZero": {"maxHeld": MAX_HELD}}
    document = pool_document("chat", [FIRST], scaling=scaling, profiles=[PROFILE])
    system = start_system(documents=[document])
    assert await asyncio.to_thread(advised, system) == 0
    async with client(system.url) as api:
        held = [
            asyncio.create_task(stream(api, Answer(f"story {n}"), "chat", 8))
            for n in range(MAX_HELD)
        ]
        await waiting(system, MAX_HELD)
        assert await asyncio.to_thread(advised, system) == 1
        with pytest.raises(openai.InternalServerError) as refused:
            await stream(api, Answer("one too many"), "chat", 8)
        assert refused.value.status_code == 503
        assert refused.value.code == "hold_full"
        assert int(refused.value.response.headers["retry-after"]) >= 1

        system.engines = (FIRST,)
        system.start_engine(FIRST)
        url = f"http://127.0.0.1:{system.ports['first']}/health"
        await asyncio.to_thread(system.wait_http, url, "first")
        system.write_config()
        answers = await asyncio.wait_for(asyncio.gather(*held), 30)
        assert [a.completion_tokens for a in answers] == [8] * MAX_HELD
        assert await asyncio.to_thread(advised, system) == 1, "it was used just now"


async def test_a_scheduler_that_stood_still_goes_on_holding(
    start_system: Callable[..., System],
) -> None:
    """It kept what waits; the gateway has held that by itself and asks anew. Only the scheduler
    knows positions."""
    scaling = {"scaleToZero": {"maxHeld": 20}}
    document = pool_document("chat", [FIRST], scaling=scaling, profiles=[PROFILE])
    system = start_system(documents=[document], gateway_args=("--keep-alive", "0.2"))
    body = {"model": "chat", "prompt": "story", "max_tokens": 8, "stream": True}

    async def next_comment(answer: aiohttp.ClientResponse, with_position: bool) -> None:
        async with asyncio.timeout(30):
            while (b"position=" in await answer.content.readuntil(b"\n\n")) != with_position:
                pass

    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{system.url}/v1/completions", json=body) as answer,
    ):
        await next_comment(answer, with_position=True)
        system.processes["scheduler"].send_signal(signal.SIGSTOP)
        try:
            await next_comment(answer, with_position=False)
        finally:
            system.processes["scheduler"].send_signal(signal.SIGCONT)
        await next_comment(answer, with_position=True)
        await waiting(system, 1)
        system.engines = (FIRST,)
        system.start_engine(FIRST)
        url = f"http://127.0.0.1:{system.ports['first']}/health"
        await asyncio.to_thread(system.wait_http, url, "first")
        system.write_config()
        text = await asyncio.wait_for(answer.text(), 30)
    assert text.endswith("data: [DONE]\n\n")


async def test_held_streams_outlive_a_killed_scheduler(start_system: Callable[..., System]) -> None:
    scaling = {"scaleToZero": {"maxHeld": 20}}
    document = pool_document("chat", [FIRST], scaling=scaling, profiles=[PROFILE])
    system = start_system(documents=[document], gateway_args=("--keep-alive", "0.3"))
    body = {"model": "chat", "prompt": "story", "max_tokens": 8, "stream": True}

    async def read(http: aiohttp.ClientSession) -> str:
        async with http.post(f"{system.url}/v1/completions", json=body) as answer:
            assert answer.status == 200, "the head came with a comment"
            return await answer.text()

    async with aiohttp.ClientSession() as http:
        held = [asyncio.create_task(read(http)) for _ in range(20)]
        await waiting(system, 20)
        system.kill("scheduler")
        await asyncio.sleep(2.0)  # the gateway holds them by itself
        system.start_scheduler()
        await waiting(system, 20)
        system.engines = (FIRST,)
        system.start_engine(FIRST)
        url = f"http://127.0.0.1:{system.ports['first']}/health"
        await asyncio.to_thread(system.wait_http, url, "first")
        system.write_config()
        texts = await asyncio.wait_for(asyncio.gather(*held), 30)
    for text in texts:
        assert ": shunter phase=scaling-up" in text
        assert text.endswith("data: [DONE]\n\n")
