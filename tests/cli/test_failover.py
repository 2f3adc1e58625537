"""What the failover demonstration counts, and how it fails, against a small streaming server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shunter.failover import (
    Report,
    Stream,
    Target,
    disturbed,
    kill_engine,
    prompts,
    undisturbed,
)
from shunter.failure import Failure


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    """Streams `max_tokens` words that depend on the prompt; the model `down` is refused."""

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["model"] == "down":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        response = web.StreamResponse()
        await response.prepare(request)
        for n in range(body["max_tokens"]):
            word = f"{hash(body['messages'][0]['content']) % 97}-{n} "
            event = f'data: {{"choices": [{{"delta": {{"content": "{word}"}}}}]}}\n\n'
            await response.write(event.encode())
            await asyncio.sleep(0.005)
        await response.write(b'data: {"choices": [{"finish_reason": "length"}]}\n\n')
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    async with TestServer(app) as server:
        yield Target(f"http://127.0.0.1:{server.port}", "chat", 40, 20.0)


async def test_both_runs_are_compared(target: Target) -> None:
    chunks: list[int] = []
    expected = await undisturbed(target, 4, chunks.append)
    assert sum(chunks) == 4 * 40
    killed: list[str] = []
    report = await disturbed(
        target, expected, lambda: {"a": 1, "b": 3}, killed.append, lambda _: None
    )
    assert (killed, report.victim, report.on_victim) == (["b"], "b", 3)
    assert (report.complete, report.identical, report.passed) == (4, 4, True)
    assert 0 < report.longest_pause_s < 10


def test_a_text_that_differs_or_does_not_end_fails_the_report() -> None:
    whole = Stream("p", text="a b", finish_reason="stop")
    other = Stream("p", text="a c", finish_reason="stop")
    broken = Stream("p", text="a b")
    assert Report((whole,), ("a b",), "x", 1).passed
    assert not Report((whole, other), ("a b", "a b"), "x", 1).passed
    assert not Report((whole, broken), ("a b", "a b"), "x", 1).passed


async def test_a_refused_request_fails_with_the_servers_words(target: Target) -> None:
    down = Target(target.url, "down", 40, 20.0)
    with pytest.raises(Failure, match=r"HTTP 404.*no such model"):
        await undisturbed(down, 2, lambda _: None)


async def test_answers_too_short_to_be_disturbed_are_said_to_be(target: Target) -> None:
    short = Target(target.url, "chat", 3, 20.0)
    with pytest.raises(Failure, match="before all were in mid-answer") as failure:
        await disturbed(short, ("", ""), lambda: {"a": 1}, lambda _: None, lambda _: None)
    assert "--tokens" in failure.value.next_step


def test_prompts_are_distinct() -> None:
    assert len(set(prompts(50))) == 50


def test_only_engines_of_that_system_are_killed(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="gateway is no engine"):
        kill_engine(tmp_path, "gateway")
