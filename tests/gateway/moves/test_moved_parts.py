"""A message with reasoning and a tool call whose request moves by each rung, or loses its engine,
after each of its tokens."""

import asyncio
from dataclasses import replace
from typing import Any, Literal

import msgspec
import pytest

from recorded_stream import RecordingTransport, unopened_stream
from shunter_gateway.edge.job import Parts, Shape
from shunter_gateway.ports import TokenChunk
from shunter_gateway.testing import LetterDecoders
from shunter_gateway.testing_engines import ScriptedCall
from shunter_gateway.testing_world import LOST, SPEC, World
from shunter_gateway.topology import Pool
from shunter_proto.v1 import moves_pb2 as moves
from shunter_text.answer_parts import HERMES, THINK
from shunter_text.detokenizer import StreamDecoder

TEXT = '<think>Köln?</think>I look.<tool_call>{"name":"f","arguments":{"a":[1]}}</tool_call>'
MESSAGE = {
    "reasoning_content": "Köln?",
    "content": "I look.",
    "tool_calls": [{"name": "f", "arguments": '{"a":[1]}'}],
    "finish_reason": "tool_calls",
}
SHAPE = Shape("chat", "r1", "m", 1, stream=True, parts=Parts(THINK, HERMES, False))
COPIED = moves.PullReport(stage=1, tokens=4, source_tokens=4, bytes=10)
Way = Literal["kv", "replay", "lost"]


class CharacterDecoder:
    """A token is a character."""

    def step(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""


class CharacterDecoders(LetterDecoders):
    def decoder(self, pool: Pool, context_ids: tuple[int, ...]) -> StreamDecoder | None:
        return CharacterDecoder()


def say(call: ScriptedCall, text: str) -> None:
    for character in text:
        call.made += 1
        call.send(TokenChunk([ord(character)]))


def leave(world: World, source: ScriptedCall, way: Way) -> None:
    """The request goes on at another engine."""
    if way == "lost":
        source.fail(LOST)
        world.settle(1)
        return
    _, here = world.scheduler.ledger["r1"]
    world.scheduler.move("r1", next(name for name in world.instances if name != here), way)
    world.settle()
    if way == "kv":
        world.engine_moves.pulls[-1].report(COPIED)
        world.settle()
    while not source.over:  # warm-ups
        next(call for call in world.engine.live if call is not source).step()
        world.settle()


async def message(way: Way, at: int) -> dict[str, Any]:
    """What a streamed answer adds up to that goes on elsewhere after `at` tokens."""
    stream, transport = unopened_stream(SHAPE), RecordingTransport()
    stream.open(transport, chunked=False)
    world = World(kv_transport="layout", decoders=CharacterDecoders())
    world.dispatcher.submit(replace(SPEC, max_tokens=500), stream.sink(0))
    world.settle()
    source = world.call_of()
    say(source, TEXT[:at])
    leave(world, source, way)
    owner = world.call_of()
    assert owner is not source and owner.request.output_offset == at
    assert bool(owner.request.kv_lease) == (way == "kv")
    say(owner, TEXT[at:])
    owner.end(TokenChunk(finish_reason="stop"))
    await asyncio.sleep(0)
    return _joined(transport.written)


def _joined(written: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"reasoning_content": "", "content": "", "tool_calls": []}
    for event in written.split(b"\n\n"):
        if not event.startswith(b"data: {"):
            continue
        (choice,) = msgspec.json.decode(event[6:])["choices"]
        for name in ("reasoning_content", "content"):
            found[name] += choice["delta"].get(name) or ""
        found["tool_calls"] += [c["function"] for c in choice["delta"].get("tool_calls", ())]
        found["finish_reason"] = choice["finish_reason"]
    return found


@pytest.mark.parametrize("way", ["kv", "replay", "lost"])
async def test_the_message_is_the_same_wherever_it_is_cut(way: Way) -> None:
    for at in range(1, len(TEXT)):
        assert await message(way, at) == MESSAGE, f"after {at} tokens"
