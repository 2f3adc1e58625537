"""Many streams move from engine to engine while the scheduler and an engine are killed: no text
changes, and nothing stays behind in any ledger or at any engine."""

import asyncio
from collections.abc import Callable

from shunter_system import EngineSpec, System
from streams import Answer, all_in_mid_answer, client, prompts, stream, undisturbed
from system_moves import SLOWLY, busiest, drained, fault, nothing_is_held, undrain

STREAMS = 24
TOKENS = 200


async def test_streams_outlast_kills_in_mid_move(start_system: Callable[..., System]) -> None:
    extra = ("--speed", "2", "--moves-port", "0")
    system = start_system(*(EngineSpec(name, extra=extra) for name in "abcd"))
    expected = await undisturbed(system.url, prompts(STREAMS), "chat", TOKENS)
    answers = [Answer(prompt) for prompt in prompts(STREAMS)]
    for name in "abcd":
        fault(system, name, kind="slow", factor=SLOWLY)
    async with client(system.url) as openai, asyncio.TaskGroup() as group:
        for answer in answers:
            group.create_task(stream(openai, answer, "chat", TOKENS))
        await all_in_mid_answer(answers, 3)
        first = await asyncio.to_thread(busiest, system)
        progress = await asyncio.to_thread(drained, system, first, STREAMS)
        assert progress.moved >= 3 and not progress.failed, progress
        undrain(system, first)
        second = await asyncio.to_thread(busiest, system)
        await asyncio.to_thread(drained, system, second, 1)
        await asyncio.to_thread(system.kill, "scheduler")
        system.start_scheduler()
        await asyncio.to_thread(system.wait_ready)
        async with asyncio.timeout(20):  # the gateway tells it what runs
            while sum((await asyncio.to_thread(system.running)).values()) < STREAMS:
                await asyncio.sleep(0.05)
        third = await asyncio.to_thread(busiest, system)
        await asyncio.to_thread(drained, system, third, 1)
        await asyncio.to_thread(system.kill, third)
        assert all(answer.finish_reason is None for answer in answers)
        for name in set("abcd") - {third}:
            fault(system, name, kind="clear")
    assert [answer.finish_reason for answer in answers] == ["length"] * STREAMS
    assert [answer.completion_tokens for answer in answers] == [TOKENS] * STREAMS
    assert [answer.text for answer in answers] == [one.text for one in expected]
    await asyncio.to_thread(system.wait_idle)
    await nothing_is_held(system)
