"""What engines say of themselves, and what the core is told of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from shunter_gateway.testing_sglang import sglang_stub
from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.domain.events import InstanceObserved
from shunter_scheduler.service.engine_metrics import (
    EngineLoad,
    parse_metrics,
    publishes_load,
    with_slots,
)
from shunter_scheduler.service.engines import EnginePoller
from shunter_scheduler.service.replies import KvMoves
from shunter_scheduler.telemetry import Telemetry

VLLM = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1000",note="a \\"b\\" {c}"} 1.0
vllm:request_success_total{finished_reason="stop"} 12.0
"""


def test_vllms_names_are_read_over_all_ranks() -> None:
    assert parse_metrics(VLLM) == EngineLoad(7, 2, 0.5, 16_000)
    assert publishes_load(VLLM)
    assert not publishes_load("vllm:unknown 1\nprocess_cpu_seconds_total 3")


def test_sglangs_names_are_read() -> None:
    page = (
        "sglang:num_running_reqs 5\nsglang:num_queue_reqs 1\n"
        "sglang:token_usage 0.125\nsglang:max_total_num_tokens 4096\n"
    )
    assert parse_metrics(page) == EngineLoad(5, 1, 0.125, 4096)


def test_llama_servers_use_comes_from_its_slots() -> None:
    load = parse_metrics("llamacpp:requests_processing 2\nllamacpp:requests_deferred 3\n")
    slots = (
        b'[{"id":0,"n_ctx":1000,"is_processing":true,"n_prompt_tokens":300,'
        b'"next_token":[{"n_decoded":100}]},'
        b'{"id":1,"n_ctx":1000,"is_processing":true,"n_prompt_tokens":50,'
        b'"next_token":{"n_decoded":50}},'
        b'{"id":2,"n_ctx":1000,"is_processing":false,"n_prompt_tokens":900}]'
    )
    assert with_slots(load, slots) == EngineLoad(2, 3, 500 / 3000, 3000)
    # llama-server 11434, with 200 tokens of a prompt and 58 generated
    newer = (
        b'[{"id":3,"n_ctx":1000,"is_processing":true,"n_prompt_tokens":258,'
        b'"n_prompt_tokens_processed":200,"n_prompt_tokens_cache":0,'
        b'"next_token":[{"n_remain":1942,"n_decoded":58}]}]'
    )
    assert with_slots(load, newer).kv_cache_usage == 0.258
    with pytest.raises(ValueError, match="/slots"):
        with_slots(load, b'{"error":"not enabled"}')


@pytest.mark.parametrize(
    "page",
    ["", "<html>", "vllm:num_requests_running NaN", "vllm:num_requests_running -5", "vllm:x{ 1"],
)
def test_odd_pages_count_as_nothing(page: str) -> None:
    assert parse_metrics(page) == EngineLoad()


KV_MOVES = 'shunter:kv_moves_info{layout="shunter-kv/1 float32 b16",port="9001"} 1.0\n'


def test_an_engine_says_how_its_kv_cache_is_copied() -> None:
    load = parse_metrics(VLLM + KV_MOVES)
    assert (load.kv_transport, load.moves_port) == ("shunter-kv/1 float32 b16", 9001)


@pytest.mark.parametrize(
    "line",
    [
        KV_MOVES.replace("9001", "99001"),
        KV_MOVES.replace("9001", "x"),
        KV_MOVES.replace("float32", "float32" * 50),
        KV_MOVES.replace(" 1.0", " 0.0"),
        'shunter:kv_moves_info{port="9001"} 1',
    ],
)
def test_half_of_it_says_nothing(line: str) -> None:
    assert parse_metrics(line) == EngineLoad()


Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def engine(**handlers: Handler) -> AsyncIterator[str]:
    app = web.Application()
    for path, handler in handlers.items():
        app.router.add_get(f"/{path}", handler)
    async with serving(app) as address:
        yield address


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answering(text: str, status: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    return handler


class Seen:
    """What the poller told, and a wait for the next of it."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[InstanceObserved] = asyncio.Queue()
        self.kv_moves: dict[str, KvMoves] = {}

    async def next(self) -> InstanceObserved:
        async with asyncio.timeout(10):
            return await self.events.get()


@asynccontextmanager
async def polling(
    address: str, engine_type: str = "vllm", timeout_s: float = 2.0
) -> AsyncIterator[Seen]:
    seen = Seen()
    poller = EnginePoller(
        lambda: [Instance("i-0", "chat", "h100", address, engine_type)],
        seen.events.put_nowait,
        Telemetry(CollectorRegistry()),
        on_kv_moves=seen.kv_moves.__setitem__,
        interval_s=0.02,
        timeout_s=timeout_s,
    )
    task = asyncio.create_task(poller.run())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_healthy_engine_is_reported_with_its_load() -> None:
    async with (
        engine(health=answering(""), metrics=answering(VLLM)) as address,
        polling(address) as seen,
    ):
        assert await seen.next() == InstanceObserved("i-0", True, 7, 2, 0.5, 16_000)


async def test_core_and_gateways_hear_how_kv_caches_are_copied() -> None:
    async with (
        engine(health=answering(""), metrics=answering(KV_MOVES)) as address,
        polling(address) as seen,
    ):
        assert (await seen.next()).kv_transport == "shunter-kv/1 float32 b16"
        await seen.next()
    host = address.rpartition(":")[0]
    assert seen.kv_moves == {"i-0": KvMoves("shunter-kv/1 float32 b16", f"{host}:9001")}


async def test_an_engine_without_metrics_is_healthy() -> None:
    async with engine(health=answering("ok")) as address, polling(address) as seen:
        assert await seen.next() == InstanceObserved("i-0", True)


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (401, True), (503, False)])
async def test_any_openai_server_is_asked_for_its_models(status: int, healthy: bool) -> None:
    app = web.Application()
    app.router.add_get("/v1/models", answering("{}", status))
    async with serving(app) as address, polling(address, "openai") as seen:
        assert await seen.next() == InstanceObserved("i-0", healthy)


async def test_sglang_is_asked_what_it_answers_at_once() -> None:
    """Its `/health` takes a second."""
    async with (
        sglang_stub("sim://llama-3.1-8b") as stub,
        polling(stub.address, "sglang", timeout_s=0.9) as seen,
    ):
        assert await seen.next() == InstanceObserved("i-0", True, 0, 0, 0.0, 65_536)


async def test_llama_server_is_asked_for_its_slots() -> None:
    slots = '[{"n_ctx":100,"is_processing":true,"n_prompt_tokens":25}]'
    async with (
        engine(
            health=answering("ok"),
            metrics=answering("llamacpp:requests_processing 1"),
            slots=answering(slots),
        ) as address,
        polling(address, "llamacpp") as seen,
    ):
        assert await seen.next() == InstanceObserved("i-0", True, 1, 0, 0.25, 100)


async def test_an_engine_that_loads_or_is_gone_is_down_at_once_and_comes_back() -> None:
    state = {"status": 503}

    async def health(_: web.Request) -> web.Response:
        return web.Response(status=state["status"])

    async with engine(health=health) as address, polling(address) as seen:
        assert not (await seen.next()).healthy
        state["status"] = 200
        while not (event := await seen.next()).healthy:
            pass
        assert event == InstanceObserved("i-0", True)
    async with polling(address) as seen:  # nobody listens there any more
        assert not (await seen.next()).healthy


async def test_one_slow_answer_is_not_the_end() -> None:
    """Only the third poll in a row without an answer reports it down."""
    asked = 0

    async def health(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked != 3:
            await asyncio.sleep(30)
        return web.Response()

    async with engine(health=health) as address, polling(address, timeout_s=0.3) as seen:
        assert (await seen.next()).healthy
        assert asked == 3
        assert not (await seen.next()).healthy
        assert asked == 6


async def test_a_page_without_end_is_cut_off() -> None:
    async with engine(health=answering("x" * 5_000_000)) as address, polling(address) as seen:
        assert not (await seen.next()).healthy
