"""Reasoning and tool calls across a move and a death: the client's message is the same."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from sglang_gateway import SOURCE
from shunter_gateway.testing_sglang import SglangStub, sglang_stub
from shunter_text.sources import load_tokenizer
from whole_gateway import PoolOf, WholeGateway, until, whole_gateway

THOUGHT = "The user wants the weather of Köln 🚂, so I call the tool once."
TEXT = (
    f"<think>\n{THOUGHT}\n</think>\n\nI look it up.\n<tool_call>\n"
    '{"name": "weather", "arguments": {"city": "Köln", "days": [1, 2, 3]}}\n</tool_call>'
)
BODY: dict[str, Any] = {
    "model": "chat",
    "messages": [{"role": "user", "content": "How is the weather?"}],
    "tools": [{"type": "function", "function": {"name": "weather"}}],
    "temperature": 0,
    "stream": True,
    "stream_options": {"include_usage": True},
}


@dataclass(slots=True)
class Scripted:
    """A gateway over two engines that say `TEXT`, token after token."""

    gateway: WholeGateway
    engines: dict[str, SglangStub]
    tokens: int

    @property
    def generated(self) -> int:
        """Of the answer, by all engines."""
        ends = [len(call.body["input_ids"]) + len(call.generated)
                for engine in self.engines.values() for call in engine.calls
                if "warm" not in call.rid]  # fmt: skip
        return max(ends, default=0) - min(self.engines["a"].script, default=0)


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    tokenizer = load_tokenizer(SOURCE)
    assert tokenizer is not None
    eos = tokenizer.eos_token_ids[0]
    prompt = tokenizer.encode_chat(BODY["messages"], BODY["tools"])
    ids = [*tokenizer.encode(TEXT, add_special_tokens=False), eos]
    script = dict(zip(itertools.count(len(prompt)), ids, strict=False))
    options = {"script": script, "eos_id": eos, "step_s": 0.01}
    async with sglang_stub(SOURCE, **options) as a, sglang_stub(SOURCE, **options) as b:
        engines = {"a": a, "b": b}
        pool = PoolOf(
            {name: stub.address for name, stub in engines.items()},
            engine_type="sglang",
            model_source=SOURCE,
            parsers=("think", "hermes"),
        )
        async with whole_gateway(pool) as gateway:
            yield Scripted(gateway, engines, len(ids))


async def message(gateway: WholeGateway) -> dict[str, Any]:
    """A streamed answer put together, with its end and its usage; without ids of calls."""
    made: dict[str, Any] = {"content": "", "reasoning": "", "calls": []}
    async with gateway.http.post(f"{gateway.url}/v1/chat/completions", json=BODY) as reply:
        assert reply.status == 200, await reply.text()
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            event = msgspec.json.decode(line[6:])
            assert "error" not in event, event
            if event["usage"]:
                made["tokens"] = event["usage"]["completion_tokens"]
            for choice in event["choices"]:
                delta = choice["delta"]
                made["content"] += delta.get("content") or ""
                made["reasoning"] += delta.get("reasoning_content") or ""
                made["calls"] += [call["function"] for call in delta.get("tool_calls", ())]
                made["finish"] = choice["finish_reason"]
    return made


@pytest.mark.parametrize("way", ["moved", "died"])
@pytest.mark.parametrize("at", [6, 14, 40, 60], ids=["tag", "reasoning", "content", "call"])
async def test_the_message_is_the_same(scripted: Scripted, way: str, at: int) -> None:
    arguments = '{"city": "Köln", "days": [1, 2, 3]}'
    expected = {
        "content": "I look it up.",
        "reasoning": THOUGHT,
        "calls": [{"name": "weather", "arguments": arguments}],
        "finish": "tool_calls",
        "tokens": scripted.tokens,
    }
    asking = asyncio.create_task(message(scripted.gateway))
    scheduler = scripted.gateway.scheduler
    await until(lambda: scripted.generated >= at)
    if way == "died":
        await scripted.engines["a"].die()
    else:
        await until(lambda: bool(scheduler.of("first_token")))
        began = scheduler.of("first_token")[0].first_token
        scheduler.move(began.request_id, began.epoch, "b")
    assert await asking == expected
    assert scripted.engines["b"].calls, "it went on at the other engine"
    moves = [event.move_done for event in scheduler.of("move_done")]
    assert [(m.moved, m.rung) for m in moves] == ([(True, "replay")] if way == "moved" else [])
