"""An instance is drained under load: everything on it moves, nothing new comes, no text changes."""

import asyncio
from collections.abc import Callable

import pytest

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import EngineSpec, System
from streams import Answer, all_in_mid_answer, client, prompts, stream, undisturbed
from system_moves import fault, moved_by

STREAMS = 8


def drain(system: System, instance: str) -> list[pb.DrainProgress]:
    with system.scheduler() as stub:
        return list(
            stub.Drain(pb.DrainRequest(instance=instance, deadline_ms=120_000), timeout=130)
        )


@pytest.mark.parametrize(("rung", "flags"), [("replay", ()), ("kv", ("--moves-port", "0"))])
async def test_drain_moves_what_runs(
    start_system: Callable[..., System], rung: str, flags: tuple[str, ...]
) -> None:
    extra = ("--speed", "1", *flags)
    system = start_system(EngineSpec("a", extra=extra), EngineSpec("b", extra=extra))
    expected = await undisturbed(system.url, prompts(STREAMS), "chat", 600)
    answers = [Answer(prompt) for prompt in prompts(STREAMS)]
    for name in "ab":
        fault(system, name, kind="slow", factor=10.0)  # no answer ends before it has moved
    async with client(system.url) as openai, asyncio.TaskGroup() as group:
        for answer in answers:
            group.create_task(stream(openai, answer, "chat", 600))
        await all_in_mid_answer(answers, 5)
        before = await asyncio.to_thread(system.running)
        assert before["a"] > 0
        progress = await asyncio.to_thread(drain, system, "a")
        assert progress[-1].done, progress[-1]
        assert progress[-1].remaining == 0
        assert progress[-1].moved == before["a"], progress[-1]
        assert any(answer.finish_reason is None for answer in answers)
        assert await asyncio.to_thread(moved_by, system) == {rung: before["a"]}
        for name in "ab":
            fault(system, name, kind="clear")
        fresh = Answer("A new request while the instance is drained")
        await stream(openai, fresh, "chat", 5)
    assert [a.text for a in answers] == [e.text for e in expected]
    with system.scheduler() as stub:
        explanation = stub.Explain(pb.ExplainRequest(request_id=fresh.request_id))
        assert explanation.decisions[-1].winner == "b"
        stub.Undrain(pb.UndrainRequest(instance="a"))
        states = {i.name: i.state for i in stub.Status(pb.StatusRequest()).instances}
    assert states == {"a": "ready", "b": "ready"}
    await asyncio.to_thread(system.wait_idle)
