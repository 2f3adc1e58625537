"""Ten minutes of load: memory of the gateway and the scheduler stays flat, nothing leaks."""

import asyncio
import itertools
from collections.abc import Callable

import psutil
import pytest

from shunter_system import EngineSpec, System
from streams import Answer, client, stream

MINUTES = 10
CLIENTS = 24
ALLOWED_GROWTH = 1.15


async def load(url: str, until: float, numbers: "itertools.count[int]") -> int:
    loop, done = asyncio.get_running_loop(), 0
    async with client(url) as api:
        while loop.time() < until:
            answer = Answer(f"Soak prompt {next(numbers)}")
            await stream(api, answer, "chat", 60)
            assert answer.finish_reason == "length"
            done += 1
    return done


def resident_bytes(system: System, name: str) -> int:
    return int(psutil.Process(system.processes[name].pid).memory_info().rss)


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 180)
async def test_memory_stays_flat(start_system: Callable[..., System]) -> None:
    system = start_system(*(EngineSpec(n, extra=("--speed", "4")) for n in ("a", "b")))
    loop, numbers = asyncio.get_running_loop(), itertools.count()
    names = ("gateway", "scheduler")
    async with asyncio.TaskGroup() as group:
        start = loop.time()
        tasks = [
            group.create_task(load(system.url, start + MINUTES * 60, numbers))
            for _ in range(CLIENTS)
        ]
        await asyncio.sleep(MINUTES * 60 * 0.3)
        early = {name: resident_bytes(system, name) for name in names}
        await asyncio.sleep(MINUTES * 60 * 0.65)
        late = {name: resident_bytes(system, name) for name in names}
    assert sum(task.result() for task in tasks) > CLIENTS
    await asyncio.to_thread(system.wait_idle)
    for name in names:
        assert late[name] <= early[name] * ALLOWED_GROWTH, (name, early[name], late[name])
