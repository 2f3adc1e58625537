"""Reasoning and tool calls that the gateway finds, as the `openai` package sees them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from edge_service import Service, run_service
from shunter_gateway.edge.ports import Parsers, ServedModel
from shunter_gateway.edge.testing import Script
from shunter_text.answer_parts import HERMES, THINK

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'
TEXT = f"<think>Which city?</think>\n\nI look.\n{CALL}\n{CALL}"
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
ASKED: dict[str, Any] = {
    "model": "thinker",
    "messages": [{"role": "user", "content": "How is it?"}],
    "tools": TOOLS,
}


@asynccontextmanager
async def answering(text: str = TEXT, piece: int = 7, **parsers: Any) -> AsyncIterator[Service]:
    words = tuple(text[at : at + piece] for at in range(0, len(text), piece))
    async with run_service(lambda _: Script(words=words)) as service:
        found = Parsers(**{"reasoning": THINK, "tool_calls": HERMES, **parsers})
        service.models.add(ServedModel("thinker", "thinker", "vllm", 4096, parsers=found))
        yield service


async def test_a_whole_answer_has_its_parts() -> None:
    async with answering() as service:
        answer = await service.client.chat.completions.create(**ASKED)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("I look.", "tool_calls")
    assert choice.message.reasoning_content == "Which city?"
    assert [(c.id, c.function.name, c.function.arguments) for c in choice.message.tool_calls] == [
        ("call_req-1_0_0", "weather", '{"city": "Köln"}'),
        ("call_req-1_0_1", "weather", '{"city": "Köln"}'),
    ]
    assert service.runner.specs[0].prompt_token_ids is not None
    assert service.runner.specs[0].unmovable_reason == ""


@pytest.mark.parametrize("piece", [1, 7, 500])
async def test_a_stream_has_the_same_parts(piece: int) -> None:
    reasoning, content, calls, finish = "", "", {}, None
    async with answering(piece=piece) as service:
        async for chunk in await service.client.chat.completions.create(**ASKED, stream=True):
            delta = chunk.choices[0].delta
            reasoning += getattr(delta, "reasoning_content", None) or ""
            content += delta.content or ""
            calls.update({c.index: (c.id, c.type, c.function.name, c.function.arguments)
                          for c in delta.tool_calls or ()})  # fmt: skip
            finish = chunk.choices[0].finish_reason or finish
    assert (reasoning, content, finish) == ("Which city?", "I look.", "tool_calls")
    arguments = '{"city": "Köln"}'
    assert calls == {n: (f"call_req-1_0_{n}", "function", "weather", arguments) for n in range(2)}


async def test_token_ids_and_log_probabilities_come_with_the_parts() -> None:
    async with answering() as service:
        body = {**ASKED, "stream": True, "logprobs": True, "return_token_ids": True}
        async with service.http.post(f"{service.url}/v1/chat/completions", json=body) as reply:
            lines = (await reply.read()).split(b"\n\n")
    events = [msgspec.json.decode(line[6:]) for line in lines if line.startswith(b"data: {")]
    ids = [i for e in events for i in e["choices"][0].get("token_ids", [])]
    probabilities = [
        p for e in events for p in (e["choices"][0]["logprobs"] or {}).get("content", [])
    ]
    words = len(range(0, len(TEXT), 7))
    assert ids == list(range(97, 97 + words)) and len(probabilities) == words


async def test_a_chat_without_tools_has_no_calls() -> None:
    async with answering() as service:
        asked = {**ASKED, "tools": None}
        message = (await service.client.chat.completions.create(**asked)).choices[0].message
    assert message.tool_calls is None and message.content.endswith(CALL)


async def test_a_prompt_that_begins_reasoning_is_gone_on_with() -> None:
    async with answering("Which city?</think>Köln") as service:
        messages = [{"role": "user", "content": "Go.\n<think>\n"}]
        asked = {"model": "thinker", "messages": messages}
        message = (await service.client.chat.completions.create(**asked)).choices[0].message
    assert (message.reasoning_content, message.content) == ("Which city?", "Köln")


@pytest.mark.parametrize(
    ("changes", "parsers", "reason"),
    [
        ({}, {}, ""),
        ({"tool_choice": "auto"}, {}, ""),
        ({"tool_choice": "required"}, {}, "tool_parsing"),
        ({}, {"tool_calls": None}, "tool_parsing"),
        ({"tool_choice": "none"}, {"tool_calls": None}, ""),
        ({"tools": None}, {"reasoning": None, "engine_reasoning": True}, "reasoning_parsing"),
        ({"tools": None}, {"engine_reasoning": True}, ""),
        ({"tools": None}, {"reasoning": None}, ""),
    ],
)
async def test_what_the_engine_has_to_parse_says_so(
    changes: dict[str, Any], parsers: dict[str, Any], reason: str
) -> None:
    async with answering("so", **parsers) as service:
        await service.http.post(f"{service.url}/v1/chat/completions", json={**ASKED, **changes})
        (spec,) = service.runner.specs
    assert spec.unmovable_reason == reason
    assert (spec.prompt_token_ids is None) == bool(reason)
