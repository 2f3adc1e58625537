"""Limits of tenants and stages of workflows, from the client's headers to the explanation."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
from openai.types.chat import ChatCompletionMessageParam

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import API, EngineSpec, System
from streams import client

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello to the train."}]
POLICY: dict[str, object] = {
    "apiVersion": API,
    "kind": "RoutingPolicy",
    "metadata": {"name": "tenants"},
    "spec": {
        "tenants": [
            {"name": "metered", "tokensPerMinute": 150},
            {"name": "narrow", "weight": 2, "maxConcurrent": 1},
        ]
    },
}


def explained(system: System, request_id: str) -> pb.ExplainReply:
    with system.scheduler() as scheduler:
        return scheduler.Explain(pb.ExplainRequest(request_id=request_id), timeout=5)


async def test_tenants_are_held_to_their_limits(start_system: Callable[..., System]) -> None:
    system = start_system(EngineSpec("a", extra=("--speed", "4")), documents=[POLICY])
    async with client(system.url) as api:

        async def ask(tenant: str, **headers: str) -> Any:
            return await api.chat.completions.with_raw_response.create(
                model="chat",
                messages=HELLO,
                max_tokens=40,
                temperature=0,
                extra_headers={"x-shunter-tenant": tenant, **headers},
            )

        refused = None
        for _ in range(10):
            try:
                await ask("metered")
            except openai.RateLimitError as error:
                refused = error
                break
        assert refused is not None and refused.code == "rate_limit_exceeded"
        assert 1 <= int(refused.response.headers["retry-after"]) <= 60
        assert "150 tokens per minute" in str(refused)

        answers = await asyncio.gather(*(ask("narrow") for _ in range(4)), ask("other"))
        waited = [
            decision.reason
            for answer in answers[:4]
            for decision in explained(system, answer.headers["x-shunter-request-id"]).decisions
            if decision.kind == "hold"
        ]
        assert len(waited) == 3
        assert set(waited) == {"tenant 'narrow' runs as many requests as it may: 1"}

        stage = {
            "x-shunter-workflow": "wf-1",
            "x-shunter-workflow-deadline-ms": "60000",
            "x-shunter-stage": "draft",
            "x-shunter-stages-left": "revise, check",
        }
        reply = explained(system, (await ask("narrow", **stage)).headers["x-shunter-request-id"])
    assert (reply.tenant, reply.workflow, reply.stage) == ("narrow", "wf-1", "draft")
    slack_s = reply.decisions[0].slack_s
    assert 10 < slack_s < 20, "a third of a minute, less what the stage takes"
    assert system.wait_idle(), "nothing is left behind"
