import asyncio
import math
from typing import Any

import aiohttp
import pytest

from shunter_engine.errors import ApiError
from shunter_engine.faults import FaultBody, Faults
from shunter_engine.options import EngineOptions
from shunter_engine.testing import (
    ScriptedBackend,
    complete,
    engine_metrics,
    running_engine,
    scripted_parts,
    simulated_parts,
    stream_answer,
)

COMPLETIONS = "/v1/completions"


class Recorder:
    """A `FaultyBackend` and a clock."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []
        self.kills = 0
        self.now_s = 100.0

    def stall(self, seconds: float) -> None:
        self.calls.append(("stall", seconds))

    def slow(self, factor: float) -> None:
        self.calls.append(("slow", factor))

    def shrink_kv(self, fraction: float) -> None:
        self.calls.append(("shrink_kv", fraction))

    def kill(self) -> None:
        self.kills += 1


def faults_of(recorder: Recorder) -> Faults:
    return Faults(recorder, lambda: recorder.now_s, recorder.kill)


def test_kill_now_or_after_tokens() -> None:
    recorder = Recorder()
    faults = faults_of(recorder)
    faults.on_token()
    assert recorder.kills == 0
    faults.apply(FaultBody(kind="kill"))
    assert recorder.kills == 1
    faults.apply(FaultBody(kind="kill", after_tokens=3))
    kills = []
    for _ in range(3):
        faults.on_token()
        kills.append(recorder.kills)
    assert kills == [1, 1, 2]


def test_reject_for_a_time_or_a_number() -> None:
    recorder = Recorder()
    faults = faults_of(recorder)
    faults.check_accepts()
    faults.apply(FaultBody(kind="reject", seconds=5))
    with pytest.raises(ApiError) as raised:
        faults.check_accepts()
    assert (raised.value.status, raised.value.retry_after_s) == (429, 5)
    recorder.now_s += 5
    faults.check_accepts()
    faults.apply(FaultBody(kind="reject", count=2))
    for _ in range(2):
        with pytest.raises(ApiError):
            faults.check_accepts()
    faults.check_accepts()


def test_the_backend_is_spoilt_and_cleared() -> None:
    recorder = Recorder()
    faults = faults_of(recorder)
    faults.apply(FaultBody(kind="stall", seconds=3))
    faults.apply(FaultBody(kind="slow", factor=4))
    faults.apply(FaultBody(kind="out-of-kv", fraction=0.1))
    faults.apply(FaultBody(kind="out-of-kv"))
    faults.apply(FaultBody(kind="clear"))
    assert recorder.calls == [
        ("stall", 3),
        ("slow", 4),
        ("shrink_kv", 0.1),
        ("shrink_kv", 0.0),
        ("stall", 0),
        ("slow", 1),
        ("shrink_kv", 1),
    ]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"kind": "nothing"}, "kind"),
        ({"kind": "stall"}, "seconds"),
        ({"kind": "stall", "seconds": -1}, "seconds"),
        ({"kind": "slow"}, "factor"),
        ({"kind": "reject"}, "seconds"),
        ({"kind": "out-of-kv", "fraction": 2}, "fraction"),
        ({}, "kind"),
    ],
)
async def test_bad_faults_are_refused(
    client: aiohttp.ClientSession, body: dict[str, Any], param: str
) -> None:
    async with running_engine(simulated_parts(), allow_faults=True) as url:
        status, answer = await complete(client, f"{url}/faults", **body)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_a_backend_without_a_fault_says_so(client: aiohttp.ClientSession) -> None:
    async with running_engine(scripted_parts(ScriptedBackend([5])), allow_faults=True) as url:
        status, answer = await complete(client, f"{url}/faults", kind="slow", factor=2)
        cleared, _ = await complete(client, f"{url}/faults", kind="clear")
    assert (status, cleared) == (400, 200)
    assert "cannot have the fault 'slow'" in answer["error"]["message"]


async def test_rejection_over_http(client: aiohttp.ClientSession) -> None:
    async with running_engine(simulated_parts(), allow_faults=True) as url:
        await complete(client, f"{url}/faults", kind="reject", seconds=30)
        async with client.post(url + COMPLETIONS, json={"prompt": "x"}) as response:
            assert response.status == 429
            assert 1 <= int(response.headers["Retry-After"]) <= 30
        await complete(client, f"{url}/faults", kind="clear")
        assert (await complete(client, url + COMPLETIONS, prompt="x", max_tokens=1))[0] == 200


async def test_a_stalled_engine_is_silent_until_the_stall_is_cleared(
    client: aiohttp.ClientSession,
) -> None:
    async with running_engine(simulated_parts(), allow_faults=True) as url:
        await complete(client, f"{url}/faults", kind="stall", seconds=600)
        call = asyncio.create_task(
            stream_answer(client, url + COMPLETIONS, prompt="x", max_tokens=5, ignore_eos=True)
        )
        while (await engine_metrics(client, url))["vllm:num_requests_running", ""] == 0:
            await asyncio.sleep(0.005)
        first_tokens = "vllm:time_to_first_token_seconds_count", ""
        assert (await engine_metrics(client, url))[first_tokens] == 0
        assert not call.done()
        await complete(client, f"{url}/faults", kind="clear")
        assert (await call).finish_reason == "length"


async def test_without_kv_memory_requests_wait_and_running_ones_are_preempted(
    client: aiohttp.ClientSession,
) -> None:
    options = EngineOptions(served_name="m", speed=math.inf, context_length=100_000)
    parts = simulated_parts(options)
    async with running_engine(parts, allow_faults=True) as url:
        body = {"prompt": [5] * 40, "max_tokens": 90_000, "ignore_eos": True}
        call = asyncio.create_task(complete(client, url + COMPLETIONS, **body))
        while not parts.backend.stats().running:
            await asyncio.sleep(0.005)
        await complete(client, f"{url}/faults", kind="out-of-kv")
        while parts.backend.stats().waiting != 1:
            await asyncio.sleep(0.005)
        metrics = await engine_metrics(client, url)
        assert metrics["vllm:num_preemptions_total", ""] == 1
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await complete(client, f"{url}/faults", kind="clear")
        assert (await complete(client, url + COMPLETIONS, prompt=[5], max_tokens=1))[0] == 200
