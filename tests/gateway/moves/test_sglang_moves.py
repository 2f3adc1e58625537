"""Moves between SGLang servers, by the stub of their API: warm replay, and what sampling loses."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from moving_gateway import GREEDY, MovingGateway, MovingSink
from sglang_gateway import CONTEXT_LENGTH, sglang_gateway, stub_of
from shunter_gateway.ports import SamplingParams

SEEDED = SamplingParams(temperature=1.0, seed=11, ignore_eos=True)


@pytest.fixture(params=[False, True], ids=["cumulative", "incremental"])
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[MovingGateway]:
    async with sglang_gateway(incremental=request.param) as made:
        yield made
        await nothing_runs(made)


async def nothing_runs(gateway: MovingGateway) -> None:
    assert gateway.scheduler.ledger == {} and gateway.dispatcher.in_flight == 0
    async with asyncio.timeout(10):
        for name in gateway.engines:
            while stub_of(gateway, name).running:
                await asyncio.sleep(0.005)


async def moved(gateway: MovingGateway, **asked: Any) -> tuple[MovingSink, MovingSink]:
    """The undisturbed answer and the moved one, both ended."""
    _, undisturbed = gateway.submit("r0", 120, **asked)
    await undisturbed.finished()
    _, sink = gateway.submit("r1", 120, **asked)
    await sink.has(30)
    gateway.move("r1", gateway.other(sink), "replay")
    await sink.finished()
    return undisturbed, sink


ASKED: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": GREEDY},
    "seeded": {"sampling": SEEDED},
    "logprobs": {"sampling": replace(SEEDED, logprobs=2)},
    "logit bias": {"sampling": replace(GREEDY, logit_bias={"70": 4.0})},
    "at least": {"sampling": replace(GREEDY, ignore_eos=False), "min_tokens": 100},
}


@pytest.mark.parametrize("name", ASKED)
async def test_a_moved_answer_equals_the_undisturbed_one(gateway: MovingGateway, name: str) -> None:
    undisturbed, sink = await moved(gateway, **ASKED[name])
    assert (sink.token_ids, sink.text) == (undisturbed.token_ids, undisturbed.text)
    assert sink.outcome == replace(undisturbed.outcome, cached_tokens=sink.outcome.cached_tokens)  # type: ignore[union-attr, type-var]
    logprobs = [[p for d in s.deltas for p in d.logprobs] for s in (undisturbed, sink)]
    assert logprobs[0] == logprobs[1]
    assert len(logprobs[1]) == (120 if name == "logprobs" else 0)
    assert [(r.moved, r.rung) for r in gateway.reports()] == [(True, "replay")]


async def test_the_destination_is_warmed_and_goes_on_from_its_cache(
    gateway: MovingGateway,
) -> None:
    _, sink = await moved(gateway)
    warm, call = stub_of(gateway, sink.assigned[-1]).calls[-2:]
    assert warm.params["max_new_tokens"] == 1 and "warm" in warm.rid
    assert call.body["input_ids"][: len(warm.body["input_ids"])] == warm.body["input_ids"]
    assert stub_of(gateway, sink.assigned[-1]).find_prefix(call.body["input_ids"]) > 0
    assert call.params["max_new_tokens"] == 120 - (
        len(call.body["input_ids"]) - len(gateway.prompt)
    )


async def test_the_source_is_told_to_stop(gateway: MovingGateway) -> None:
    _, sink = await moved(gateway)
    source = stub_of(gateway, sink.assigned[0])
    async with asyncio.timeout(5):
        while not source.aborts:
            await asyncio.sleep(0.005)
    (rid,) = source.aborts
    ended = [call.rid for call in source.calls if call.rid.startswith(rid)]
    assert ended == [rid] and len(source.calls[-1].generated) < 120


async def test_a_stop_string_that_begins_before_a_move_ends_after_it(
    gateway: MovingGateway,
) -> None:
    _, plain = gateway.submit("r0", 120)
    await plain.finished()
    stop = "".join(delta.text for delta in plain.deltas[:60])[-12:]
    _, sink = await moved(gateway, stop=(stop,))
    assert sink.text == plain.text[: plain.text.index(stop)]
    assert sink.outcome is not None and sink.outcome.stop_reason == stop


async def test_an_end_token_is_not_text(gateway: MovingGateway) -> None:
    _, plain = gateway.submit("r0", 60)
    await plain.finished()
    last = plain.token_ids[50]
    end = replace(GREEDY, stop_token_ids=(last,))
    _, sink = gateway.submit("r1", 60, sampling=end)
    outcome = await sink.finished()
    count = plain.token_ids.index(last) + 1
    assert (outcome.finish_reason, outcome.output_tokens) == ("stop", count)
    assert sink.token_ids == plain.token_ids[:count]
    assert plain.text.startswith(sink.text) and len(sink.text) < len(plain.text)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
async def test_a_dead_server_is_not_noticed(
    gateway: MovingGateway, sampling: SamplingParams
) -> None:
    _, undisturbed = gateway.submit("r0", 120, sampling=sampling)
    await undisturbed.finished()
    _, sink = gateway.submit("r1", 120, sampling=sampling)
    await sink.has(30)
    await stub_of(gateway, sink.assigned[0]).die()
    await sink.finished()
    assert len(sink.assigned) == 2 and gateway.observer.counts == {"retried connection": 1}
    assert (sink.token_ids, sink.text) == (undisturbed.token_ids, undisturbed.text)


async def test_penalties_on_the_answer_stay_where_they_are(gateway: MovingGateway) -> None:
    _, sink = gateway.submit("r1", 60, sampling=replace(GREEDY, frequency_penalty=0.5))
    await sink.has(10)
    gateway.move("r1", gateway.other(sink), "replay")
    await sink.finished()
    assert [(r.moved, r.reason) for r in gateway.reports()] == [(False, "penalties")]
    assert gateway.observer.counts == {"unmovable penalties": 1, "aborted penalties": 1}


async def test_a_client_that_leaves_frees_the_server_at_once(gateway: MovingGateway) -> None:
    handle, sink = gateway.submit("r1", 2000)
    await sink.has(10)
    handle.cancel()
    await nothing_runs(gateway)
    assert stub_of(gateway, sink.assigned[0]).aborts == [f"{gateway.run}-r1-1."]


async def test_an_answer_without_a_limit_ends_with_the_context() -> None:
    """SGLang wants prompt and answer to be shorter than the context."""
    async with sglang_gateway(step_s=0.0) as gateway:
        prompt = tuple(range(10, 10 + CONTEXT_LENGTH - 40))
        _, sink = gateway.submit("r1", 0, prompt)
        outcome = await sink.finished()
        assert (outcome.finish_reason, outcome.output_tokens) == ("length", 39)
        _, asked = gateway.submit("r2", 40, prompt)
        assert (await asked.finished()).output_tokens == 39


async def test_events_that_were_lost_are_generated_again() -> None:
    async with sglang_gateway(incremental=True) as gateway:
        _, undisturbed = gateway.submit("r0", 60)
        await undisturbed.finished()
        lost = {20}  # once, whoever has the request
        for name in gateway.engines:
            stub_of(gateway, name).lost_events = lost
        _, sink = gateway.submit("r1", 60)
        await sink.finished()
        assert sink.token_ids == undisturbed.token_ids and sink.text == undisturbed.text
        assert gateway.observer.counts == {"retried protocol": 1}
        await nothing_runs(gateway)


async def test_a_full_queue_is_overload_and_a_refusal_is_the_clients() -> None:
    async with sglang_gateway() as gateway:
        stub_of(gateway, "a").queue_full = True
        sinks = [gateway.submit(f"r{n}", 10)[1] for n in range(2)]
        for sink in sinks:
            await sink.finished()
            assert sink.assigned[-1] == "b"
        assert gateway.observer.counts == {"retried overloaded": 1}
        prompt = tuple(range(10, 10 + CONTEXT_LENGTH))
        _, refused = gateway.submit("r9", 10, prompt)
        async with asyncio.timeout(10):
            await refused.end.wait()
        assert refused.error is not None and refused.error.status == 400
        assert b"context length" in refused.error.body
