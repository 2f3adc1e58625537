"""Many streams move from engine to engine while the scheduler and an engine are killed: no text
changes, and nothing stays behind in any ledger or at any engine."""

import asyncio
import json
import urllib.request
from collections.abc import Callable, Iterator

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import EngineSpec, System
from streams import Answer, all_in_mid_answer, client, prompts, stream, undisturbed

STREAMS = 24
TOKENS = 200
SLOWLY = 40.0  # while moves and kills come: no answer ends before, nor does a busy machine lag
IDLE = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "shunter:kv_moves_active",
    "shunter_gateway_inflight_requests",
)


def fault(system: System, engine: str, **body: object) -> None:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{system.ports[engine]}/faults",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(asked, timeout=10).close()


def drained(system: System, instance: str, moved: int = STREAMS) -> pb.DrainProgress:
    """Once it is empty, or so many have left it: then the drain goes on."""
    with system.scheduler() as stub:
        for progress in stub.Drain(pb.DrainRequest(instance=instance, deadline_ms=60_000)):
            if progress.done or progress.moved >= moved:
                return progress
    raise AssertionError(f"{instance} is not drained: {progress}")


def busiest(system: System) -> str:
    running = system.running()
    return max(running, key=lambda name: running[name])


def held(system: System) -> Iterator[str]:
    """What engines and gateway still have, by their metrics."""
    for name in (*(spec.name for spec in system.engines), "gateway"):
        if name in system.processes:
            url = f"http://127.0.0.1:{system.ports[name]}/metrics"
            with urllib.request.urlopen(url, timeout=10) as page:
                lines = page.read().decode().splitlines()
            some = [line for line in lines if line.startswith(IDLE)]
            assert some, name
            yield from (f"{name} {x}" for x in some if float(x.rpartition(" ")[2]))


async def nothing_is_held(system: System) -> None:
    await asyncio.to_thread(system.wait_idle)
    async with asyncio.timeout(20):
        while left := await asyncio.to_thread(lambda: list(held(system))):
            assert left
            await asyncio.sleep(0.1)


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
        progress = await asyncio.to_thread(drained, system, first)
        assert progress.moved >= 3 and not progress.failed, progress
        with system.scheduler() as stub:
            stub.Undrain(pb.UndrainRequest(instance=first))
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
    await nothing_is_held(system)
