"""The scheduler is killed under load: what runs goes on, what comes waits briefly."""

import asyncio
from collections.abc import Callable

from shunter_system import EngineSpec, System
from streams import Answer, all_in_mid_answer, client, prompts, stream, undisturbed

BEFORE, DURING = 12, 6
TOKENS = 1200


async def test_requests_survive_the_scheduler(start_system: Callable[..., System]) -> None:
    system = start_system(EngineSpec("a"), EngineSpec("b"))
    expected = await undisturbed(system.url, prompts(BEFORE + DURING), "chat", TOKENS)
    answers = [Answer(prompt) for prompt in prompts(BEFORE + DURING)]
    early, late = answers[:BEFORE], answers[BEFORE:]
    async with client(system.url) as openai, asyncio.TaskGroup() as group:
        for answer in early:
            group.create_task(stream(openai, answer, "chat", TOKENS))
        await all_in_mid_answer(early, 3)
        await asyncio.to_thread(system.kill, "scheduler")
        for answer in late:
            group.create_task(stream(openai, answer, "chat", TOKENS))
        await all_in_mid_answer(late, 1)
        system.start_scheduler()
        await asyncio.to_thread(system.wait_ready)
        async with asyncio.timeout(10):
            while not (await asyncio.to_thread(system.status)).gateways:
                await asyncio.sleep(0.02)
        in_flight = [answer for answer in answers if answer.finish_reason is None]
        assert in_flight, "all ended before the new scheduler was there"
        async with asyncio.timeout(5):  # the gateway's report follows its Hello
            while not (running := sum((await asyncio.to_thread(system.running)).values())):
                await asyncio.sleep(0.02)
        still = sum(1 for answer in answers if answer.finish_reason is None)
        assert still <= running <= len(in_flight)
    assert [a.text for a in answers] == [e.text for e in expected]
    await asyncio.to_thread(system.wait_idle)
