"""The hooks before an engine is told to stop, run against a server that tells what it has to do."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from shunter_operator.manifests import pod_template
from shunter_operator.stopping import lifecycle
from shunter_operator.testing import pool_body
from shunter_operator.values import Desired, Environment
from shunter_operator.watches import pool_record
from shunter_runtime.metrics import port_of

VLLM = 'vllm:num_requests_running{{model_name="chat"}} {}.0\nvllm:num_requests_waiting 0.0\n'
LLAMA = "llamacpp:requests_deferred 0\nllamacpp:requests_processing {}\n"
SGLANG = 'sglang:num_queue_reqs{{tp_rank="0"}} 0.0\nsglang:num_running_reqs{{tp_rank="0"}} {}.0\n'
ENGINES = {
    "vllm": ("hf://org/model", VLLM),
    "sglang": ("hf://org/model", SGLANG),
    "llamacpp": ("file:///models/a.gguf", LLAMA),
}
BUSY_LOOKS = 1
ENVIRONMENT = Environment(image="shunter:1")


class Engine:
    """`text` is formatted with how many requests run: some for a while, then none. One that is
    `slow` has no answer for who asks first."""

    def __init__(self, text: str) -> None:
        self.text, self.looks, self.port, self.slow = text, 0, 0, False

    async def metrics(self, request: web.Request) -> web.Response:
        self.looks += 1
        if self.slow and self.looks == 1:
            await asyncio.sleep(5)
        return web.Response(text=self.text.format(10 if self.looks <= BUSY_LOOKS else 0))


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, Engine]]:
    found = Engine(ENGINES[request.param][1])
    app = web.Application()
    app.router.add_get("/metrics", found.metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.port = port_of(runner)
    yield request.param, found
    await runner.cleanup()


def hook(kind: str, port: int = 8000, drain_timeout: str = "5m") -> list[str]:
    record = pool_record(
        pool_body(
            model={"source": ENGINES.get(kind, ("hf://org/model", ""))[0]},
            engine={"type": kind, "image": "engine:1", "port": port},
            migration={"drainTimeout": drain_timeout},
        )
    )
    assert record.pool is not None, record.problems
    found: dict[str, Any] = lifecycle(record.pool)
    return list(found["preStop"]["exec"]["command"])


async def run(command: list[str]) -> None:
    proxies = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    async with asyncio.timeout(60):
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **proxies})
        await process.wait()


async def test_it_waits_until_the_engine_has_been_idle_twice(engine: tuple[str, Engine]) -> None:
    kind, server = engine
    await run(hook(kind, server.port))
    assert server.looks == BUSY_LOOKS + 2


async def test_an_engine_that_is_slow_to_answer_has_something_to_do(
    engine: tuple[str, Engine],
) -> None:
    kind, server = engine
    server.slow = True
    await run(hook(kind, server.port))
    assert server.looks == BUSY_LOOKS + 2


async def test_it_waits_no_longer_than_requests_may_take(engine: tuple[str, Engine]) -> None:
    kind, server = engine
    server.looks = -1000
    await run(hook(kind, server.port, "2s"))
    assert server.looks < -990


@pytest.mark.parametrize("kind", ENGINES)
async def test_an_engine_that_has_ended_is_not_waited_for(kind: str) -> None:
    await run(hook(kind, 9))  # nobody listens there


def test_an_engine_that_tells_nothing_gets_a_moment() -> None:
    assert hook("openai") == ["sleep", "10"]
    assert hook("openai", drain_timeout="4s") == ["sleep", "4"]


def test_a_hook_of_the_owner_takes_the_place_of_ours() -> None:
    handler = {"httpGet": {"path": "/stop", "port": 8000}}
    container = {"name": "engine", "lifecycle": {"preStop": handler}}
    record = pool_record(pool_body(podTemplate={"spec": {"containers": [container]}}))
    assert record.pool is not None, record.problems
    template = pod_template(Desired(record.pool, "uid"), record.pool.profiles[0], ENVIRONMENT)
    assert template["spec"]["containers"][0]["lifecycle"] == {"preStop": handler}
