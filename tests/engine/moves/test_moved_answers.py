"""An answer that moves is the answer that would have come without a move."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from shunter_engine.moves.testing import MovingEngine, moving_engine
from shunter_engine.moves.testing_lead import Moved, MoveLead, move
from shunter_engine.moves.testing_streams import Stream, start_stream
from shunter_engine.options import EngineOptions

ANSWER = 26
MOVES = 12
# What the sampler has to remember, one by one.
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 1.3, "seed": 7, "top_p": 0.95},
    "penalties": {
        "temperature": 0.8,
        "seed": 3,
        "presence_penalty": 0.7,
        "frequency_penalty": 1.1,
        "repetition_penalty": 1.2,
    },
    "logit_bias": {"temperature": 1.0, "seed": 5, "logit_bias": {"40": 6.0, "41": -100}},
    "logprobs": {"temperature": 1.0, "seed": 9, "logprobs": 3, "return_tokens_as_token_ids": True},
}
Engines = tuple[MovingEngine, MovingEngine]


def prompt(number: int) -> list[int]:
    return [3 + (number + 13 * i * i) % 256 for i in range(21 + 5 * number)]


@pytest.fixture(params=["numpy", "simulated"])
async def engines(
    request: pytest.FixtureRequest,
    numpy_options: EngineOptions,
    simulated_options: EngineOptions,
) -> AsyncIterator[Engines]:
    options = numpy_options if request.param == "numpy" else simulated_options
    async with moving_engine(options) as source, moving_engine(options) as destination:
        yield source, destination


async def undisturbed(
    client: aiohttp.ClientSession, engine: MovingEngine, body: dict[str, Any]
) -> list[Stream]:
    streams = [
        start_stream(client, engine.url, f"u{n}", prompt(n), **body) for n in range(1, MOVES + 1)
    ]
    for stream in streams:
        await stream.end()
    return streams


async def moved_at(
    client: aiohttp.ClientSession, engines: Engines, number: int, body: dict[str, Any]
) -> tuple[Stream, Moved]:
    """Request `number` has so many tokens at the switch, or one less."""
    source, destination = engines
    source.holds.hold(f"r{number}", number)
    stream = start_stream(client, source.url, f"r{number}", prompt(number), **body)
    await stream.reach(max(1, number - 1))
    moved = await move(client, MoveLead(f"m{number}", source, destination, stream))
    await moved.stream.end()
    await stream.end()
    return stream, moved


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
async def test_moved_at_any_position(
    engines: Engines, client: aiohttp.ClientSession, sampling: dict[str, Any]
) -> None:
    """All at once, so that each has many batch mates that come and go."""
    body = {"max_tokens": ANSWER, "ignore_eos": True, **sampling}
    whole = await undisturbed(client, engines[0], body)
    results = await asyncio.gather(
        *(moved_at(client, engines, n, body) for n in range(1, MOVES + 1))
    )
    for (before, moved), expected in zip(results, whole, strict=True):
        assert before.token_ids + moved.stream.token_ids == expected.token_ids
        assert before.logprobs + moved.stream.logprobs == expected.logprobs
        assert (before.finish_reason, moved.stream.finish_reason) == ("abort", "length")
        cached = moved.stream.usage["prompt_tokens_details"]["cached_tokens"]
        assert cached == len(before.prompt) + moved.frozen_at - 1  # nothing was computed again
        assert moved.stream.usage["completion_tokens"] == ANSWER - moved.frozen_at
        assert moved.reports[-1].tokens == cached
        assert moved.reports[-1].bytes > 0
    assert all(n - 1 <= moved.frozen_at <= n for n, (_, moved) in enumerate(results, start=1))
    for engine in engines:
        stats = engine.parts.backend.stats()
        assert (stats.kv_blocks_used, stats.running, stats.waiting) == (0, 0, 0)
        assert stats.preemptions_total == 0


@pytest.mark.parametrize("minimum", [18, 26])
async def test_limits_count_the_whole_answer(
    engines: Engines, client: aiohttp.ClientSession, minimum: int
) -> None:
    """A token that would stop the answer is banned before `min_tokens`, here and there."""
    source, _ = engines
    free = start_stream(
        client, source.url, "free", prompt(5), max_tokens=ANSWER, temperature=0, ignore_eos=True
    )
    await free.end()
    body = {
        "max_tokens": ANSWER,
        "min_tokens": minimum,
        "temperature": 0,
        "ignore_eos": True,
        "stop_token_ids": free.token_ids[minimum - 4 :],
    }
    whole = start_stream(client, source.url, "whole", prompt(5), **body)
    await whole.end()
    stream, moved = await moved_at(client, engines, 5, body)
    assert stream.token_ids + moved.stream.token_ids == whole.token_ids
    assert len(whole.token_ids) >= minimum
    assert moved.stream.finish_reason == whole.finish_reason


async def test_blocks_are_fetched_while_they_are_computed(
    engines: Engines, client: aiohttp.ClientSession
) -> None:
    source, destination = engines
    body = {"max_tokens": 110, "ignore_eos": True, "temperature": 0}
    whole = start_stream(client, source.url, "whole", prompt(4), **body)
    await whole.end()
    source.holds.hold("a", 20)
    stream = start_stream(client, source.url, "a", prompt(4), **body)
    await stream.reach(20)
    lead = MoveLead("m", source, destination, stream)
    await lead.do_offer()
    await lead.do_prepare()
    lead.start_pull()
    for stage, output_tokens in ((1, 40), (2, 60), (3, 65)):
        await lead.staged(stage)
        source.holds.hold("a", output_tokens)
        source.holds.wake()
    assert not (await lead.do_freeze()).refusal
    assert not (await lead.do_commit()).refusal
    onward = await lead.go_on(client)
    await onward.end()
    await lead.release()
    assert stream.token_ids + onward.token_ids == whole.token_ids
    assert [r.stage for r in lead.reports] == list(range(1, len(lead.reports) + 1))
    assert [r.complete for r in lead.reports] == [False] * (len(lead.reports) - 1) + [True]
    fetched = [r.tokens for r in lead.reports]
    assert fetched == sorted(set(fetched))
    assert all(tokens % 16 == 0 for tokens in fetched[:-1])


async def test_there_and_back_again(engines: Engines, client: aiohttp.ClientSession) -> None:
    body = {"max_tokens": 60, "ignore_eos": True, "temperature": 1.0, "seed": 2}
    source, destination = engines
    whole = start_stream(client, source.url, "whole", prompt(3), **body)
    await whole.end()
    source.holds.hold("a", 8)
    destination.holds.hold("a+", 17)
    stream = start_stream(client, source.url, "a", prompt(3), **body)
    await stream.reach(5)
    there = await move(client, MoveLead("m1", source, destination, stream))
    await there.stream.reach(5)
    back = await move(client, MoveLead("m2", destination, source, there.stream))
    await back.stream.end()
    tokens = stream.token_ids + there.stream.token_ids + back.stream.token_ids
    assert tokens == whole.token_ids
