"""Batch answers give way to a chat at a full engine, and go on as if nothing had happened."""

import asyncio
import json
import urllib.request
from collections.abc import Callable

from openai import AsyncOpenAI

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import API, EngineSpec, System, pool_document
from streams import Answer, all_in_mid_answer, client, prompts, stream, undisturbed

PLACES = 3
TOKENS = 250
ARGS = ("--max-num-seqs", str(PLACES))
POLICY = {
    "apiVersion": API,
    "kind": "RoutingPolicy",
    "metadata": {"name": "classes"},
    "spec": {
        "classes": [
            {"name": "interactive", "priority": 100, "ttft": "300ms"},
            {"name": "batch", "priority": 0, "deadline": "24h", "suspendable": True},
        ]
    },
}


def of_class(openai: AsyncOpenAI, name: str) -> AsyncOpenAI:
    return openai.with_options(default_headers={"x-shunter-class": name})


def slow(system: System, factor: float) -> None:
    """No batch answer ends before the chat has; 1 ends it."""
    url = f"http://127.0.0.1:{system.ports['a']}/faults"
    body = json.dumps({"kind": "slow", "factor": factor}).encode()
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(asked, timeout=10).close()


async def test_batch_gives_way_and_goes_on(start_system: Callable[..., System]) -> None:
    engine = EngineSpec("a", extra=("--speed", "2", *ARGS))
    pool = pool_document("chat", [engine], engine={"type": "simulated", "args": list(ARGS)})
    system = start_system(engine, documents=[pool, POLICY])
    expected = await undisturbed(system.url, prompts(PLACES), "chat", TOKENS)
    slow(system, 12)
    batch = [Answer(prompt) for prompt in prompts(PLACES)]
    async with client(system.url) as openai, asyncio.TaskGroup() as group:
        for answer in batch:
            group.create_task(stream(of_class(openai, "batch"), answer, "chat", TOKENS))
        await all_in_mid_answer(batch, 5)
        urgent = Answer("What does a shunter do?")
        await stream(of_class(openai, "interactive"), urgent, "chat", 8)
        assert all(answer.finish_reason is None for answer in batch)
        slow(system, 1)
    assert urgent.completion_tokens == 8
    assert [answer.completion_tokens for answer in batch] == [TOKENS] * PLACES
    assert [answer.text for answer in batch] == [one.text for one in expected]
    with system.scheduler() as stub:
        told = [stub.Explain(pb.ExplainRequest(request_id=a.request_id)) for a in batch]
    kinds = [[decision.kind for decision in one.decisions] for one in told]
    assert sum("suspend" in kind for kind in kinds) == 1, kinds
    await asyncio.to_thread(system.wait_idle)
