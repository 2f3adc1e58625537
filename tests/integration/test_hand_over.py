"""Prefill and decode on two engines: every stream goes on elsewhere after its first token, and its
text is the one of an engine that did everything."""

import asyncio
from collections.abc import Callable

import pytest

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import EngineSpec, System, pool_document
from streams import Answer, client, prompts, stream, undisturbed

PROFILES = {"p": "prefill", "d0": "decode", "d1": "decode"}
REPLAYED, COPIED = ("--speed", "1"), ("--speed", "1", "--moves-port", "0")
STREAMS = 8
TOKENS = 300


def with_roles(system: System) -> None:
    document = pool_document("chat", system.engines, migration={"maxConcurrentPerInstance": 16})
    spec = document["spec"]
    assert isinstance(spec, dict)
    for profile in spec["profiles"]:
        profile["role"] = profile["name"].capitalize()
    system.documents = [document]
    system.write_config()


async def roles_are(system: System, expected: dict[str, str]) -> None:
    async with asyncio.timeout(20):
        while True:
            status = await asyncio.to_thread(system.status)
            if {one.name: one.role for one in status.instances} == expected:
                return
            await asyncio.sleep(0.1)


def explain(system: System, answer: Answer) -> list[pb.ExplainReply.Decision]:
    with system.scheduler() as stub:
        return list(stub.Explain(pb.ExplainRequest(request_id=answer.request_id)).decisions)


@pytest.mark.parametrize(("rung", "extra"), [("replay", REPLAYED), ("kv", COPIED)])
async def test_every_stream_is_handed_over_and_stays_whole(
    start_system: Callable[..., System], rung: str, extra: tuple[str, ...]
) -> None:
    engines = [EngineSpec(name, profile=p, extra=extra) for name, p in PROFILES.items()]
    system = start_system(*engines)
    expected = await undisturbed(system.url, prompts(STREAMS), "chat", TOKENS)
    with_roles(system)
    await roles_are(system, {"p": "Prefill", "d0": "Decode", "d1": "Decode"})
    answers = await undisturbed(system.url, prompts(STREAMS), "chat", TOKENS)
    assert [a.text for a in answers] == [e.text for e in expected]
    assert [a.completion_tokens for a in answers] == [TOKENS] * STREAMS
    for answer in answers:
        placed, *later = await asyncio.to_thread(explain, system, answer)
        assert (placed.kind, placed.winner) == ("dispatch", "p")
        moves = [d for d in later if d.reason == f"hand-over of p, by {rung}"]
        assert moves and moves[-1].winner in ("d0", "d1"), later
        assert {c.instance for c in moves[-1].candidates} == {"p", "d0", "d1"}
    status = await asyncio.to_thread(system.wait_idle)
    assert status.moved_total == STREAMS

    await asyncio.to_thread(system.kill, "p")
    async with client(system.url) as openai:  # availability goes before roles
        last = await stream(openai, Answer(prompts(1)[0]), "chat", TOKENS)
    assert last.text == expected[0].text
    decisions = await asyncio.to_thread(explain, system, last)
    assert decisions[-1].winner in ("d0", "d1")
