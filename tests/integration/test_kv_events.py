"""The prefix index follows what real engines say of their caches, over real sockets."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

import openai

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import EngineSpec, System, free_port, pool_document
from streams import client

FLAG = "--kv-events-config"
HOSTS = {"a": "127.0.0.1", "b": "127.0.0.2"}
PROMPT = "The quick train goes by the river. " * 120
OTHER = "Nobody waits at the last station. " * 120


@dataclass(frozen=True, slots=True)
class Placed:
    instance: str
    predicted_tokens: int
    cached_tokens: int
    prompt_tokens: int


def config_of(host: str, events: int, replay: int) -> str:
    return json.dumps(
        {
            "enable_kv_cache_events": True,
            "endpoint": f"tcp://{host}:{events}",
            "replay_endpoint": f"tcp://{host}:{replay}",
        }
    )


def start(start_system: Callable[..., System]) -> System:
    """Two engines on addresses of their own, as pods have them; the pool says where events are."""
    events, replay = free_port(), free_port()
    engines = tuple(
        EngineSpec(name, host=host, extra=("--speed", "20", FLAG, config_of(host, events, replay)))
        for name, host in HOSTS.items()
    )
    args = [FLAG, config_of("*", events, replay)]
    pool = pool_document("chat", engines, engine={"type": "simulated", "args": args})
    return start_system(*engines, documents=[pool])


async def ask(api: openai.AsyncOpenAI, system: System, prompt: str) -> Placed:
    raw = await api.completions.with_raw_response.create(
        model="chat", prompt=prompt, max_tokens=4, temperature=0
    )
    usage = raw.parse().usage
    assert usage is not None and usage.prompt_tokens_details is not None
    request_id = raw.headers["x-shunter-request-id"]
    with system.scheduler() as scheduler:
        reply = scheduler.Explain(pb.ExplainRequest(request_id=request_id), timeout=5)
    decision = reply.decisions[0]
    return Placed(
        decision.winner,
        decision.cached_tokens,
        usage.prompt_tokens_details.cached_tokens or 0,
        usage.prompt_tokens,
    )


async def until_predicted(api: openai.AsyncOpenAI, system: System, placed: Placed) -> Placed:
    """Asks again until the index has what the engine holds: events take their time."""
    async with asyncio.timeout(15):
        while True:
            again = await ask(api, system, PROMPT)
            if again.instance == placed.instance and again.predicted_tokens:
                return again
            await asyncio.sleep(0.1)


async def test_the_index_follows_the_engines(start_system: Callable[..., System]) -> None:
    system = start(start_system)
    async with client(system.url) as api:
        first = await ask(api, system, PROMPT)
        assert (first.predicted_tokens, first.cached_tokens) == (0, 0)
        blocks = (first.prompt_tokens - 1) // 64
        assert blocks > 5

        # A new scheduler knows nothing but what the engines' replays tell it.
        await asyncio.to_thread(system.kill, "scheduler")
        before = system.log("scheduler").count("kv_events.caught_up")
        system.start_scheduler()
        await asyncio.to_thread(system.wait_ready)
        async with asyncio.timeout(15):
            while system.log("scheduler").count("kv_events.caught_up") < before + len(HOSTS):
                await asyncio.sleep(0.05)
            while not (await asyncio.to_thread(system.status)).gateways:
                await asyncio.sleep(0.05)
        again = await ask(api, system, PROMPT)
        assert again.instance == first.instance
        assert again.predicted_tokens // 64 == blocks
        assert 0 <= again.cached_tokens - again.predicted_tokens < 64
        assert (await ask(api, system, OTHER)).predicted_tokens == 0

        # A new engine holds nothing, though its address is the old one's.
        await asyncio.to_thread(system.kill, first.instance)
        (spec,) = (one for one in system.engines if one.name == first.instance)
        system.start_engine(spec)
        url = f"http://{spec.host}:{system.ports[spec.name]}/health"
        await asyncio.to_thread(system.wait_http, url, spec.name)
        await asyncio.to_thread(system.wait_ready)
        fresh = await ask(api, system, PROMPT)
        assert (fresh.predicted_tokens, fresh.cached_tokens) == (0, 0)
        known = await until_predicted(api, system, fresh)
        assert known.cached_tokens - known.predicted_tokens < 64
    assert "internal_error" not in system.log("scheduler")
