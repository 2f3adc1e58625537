"""A pool without an instance, with real processes: who asks waits, and is answered by the first."""

import asyncio
from collections.abc import Callable

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
        while (await asyncio.to_thread(system.status)).pools[0].waiting != count:
            await asyncio.sleep(0.05)


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
