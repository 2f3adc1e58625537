"""What goes wrong in a move leaves nothing behind, and the answer whole."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import aiohttp
import grpc
import pytest

from shunter_engine.moves.testing import MovingEngine, moving_engine
from shunter_engine.moves.testing_lead import MoveLead
from shunter_engine.moves.testing_streams import Stream, start_stream
from shunter_engine.options import EngineOptions
from shunter_engine.testing import complete
from shunter_proto.v1 import moves_pb2 as pb

PROMPT = list(range(3, 50))
BODY: dict[str, Any] = {"max_tokens": 120, "temperature": 0, "ignore_eos": True}
OFFERED, FROZEN, THAWED = (
    pb.StateReply.PHASE_OFFERED,
    pb.StateReply.PHASE_FROZEN,
    pb.StateReply.PHASE_THAWED,
)
NONE, RESERVED, COMMITTED, ATTACHED = (
    pb.StateReply.PHASE_NONE,
    pb.StateReply.PHASE_RESERVED,
    pb.StateReply.PHASE_COMMITTED,
    pb.StateReply.PHASE_ATTACHED,
)


@pytest.fixture
async def pair(
    simulated_options: EngineOptions,
) -> AsyncIterator[tuple[MovingEngine, MovingEngine]]:
    async with moving_engine(simulated_options) as one, moving_engine(simulated_options) as other:
        yield one, other


@pytest.fixture
async def lead(
    pair: tuple[MovingEngine, MovingEngine], client: aiohttp.ClientSession
) -> AsyncIterator[MoveLead]:
    stream = await decoding(client, pair[0])
    lead = MoveLead("m", *pair, stream)
    yield lead
    await lead.close()
    await stream.leave()


async def decoding(
    client: aiohttp.ClientSession, engine: MovingEngine, call_id: str = "r-1", **body: Any
) -> Stream:
    """It waits with 20 tokens to be frozen."""
    engine.holds.hold(call_id, 20)
    stream = start_stream(client, engine.url, call_id, PROMPT, **{**BODY, **body})
    await stream.reach(3)
    return stream


async def expected_tokens(client: aiohttp.ClientSession, engine: MovingEngine) -> list[int]:
    _, answer = await complete(
        client, f"{engine.url}/v1/completions", prompt=PROMPT, return_token_ids=True, **BODY
    )
    tokens: list[int] = answer["choices"][0]["token_ids"]
    return tokens


async def freed(engine: MovingEngine) -> None:
    """Long before a lease ends."""
    async with asyncio.timeout(30):
        while engine.used_blocks:
            await asyncio.sleep(0.005)


async def first_refusal(chunks: AsyncIterable[pb.KvChunk]) -> int:
    async for chunk in chunks:
        return chunk.refusal
    raise AssertionError("nothing came")


async def until_frozen(lead: MoveLead) -> None:
    await lead.do_offer()
    await lead.do_prepare()
    lead.start_pull()
    await lead.staged()
    assert not (await lead.do_freeze()).refusal


async def test_phases_are_told(lead: MoveLead, client: aiohttp.ClientSession) -> None:
    source, destination = lead.source, lead.destination
    assert await lead.state(source) == NONE
    await lead.do_offer()
    assert await lead.state(source) == OFFERED
    await lead.do_prepare()
    assert await lead.state(destination) == RESERVED
    lead.start_pull()
    await lead.do_freeze()
    assert await lead.state(source) == FROZEN
    await lead.do_commit()
    assert await lead.state(destination) == COMMITTED
    onward = await lead.go_on(client)
    await onward.reach(1)
    assert await lead.state(destination) == ATTACHED
    assert not (await lead.release()).refusal
    assert await lead.state(source) == NONE
    await onward.end()
    assert lead.stream.token_ids + onward.token_ids == await expected_tokens(client, source)


async def test_repeated_calls_get_the_same_answers(
    lead: MoveLead, client: aiohttp.ClientSession
) -> None:
    offer = await lead.do_offer()
    assert await lead.do_offer() == offer
    prepared = await lead.do_prepare()
    assert await lead.do_prepare() == prepared
    lead.start_pull()
    frozen = await lead.do_freeze()
    assert await lead.do_freeze() == frozen
    committed = await lead.do_commit()
    assert await lead.do_commit() == committed
    onward = await lead.go_on(client)
    await onward.reach(1)
    assert await lead.do_commit() == committed
    assert not (await lead.release()).refusal
    assert not (await lead.release()).refusal
    assert (await lead.abort(lead.destination, 3)).refusal == pb.REFUSAL_UNKNOWN
    await onward.end()


async def test_a_frozen_answer_waits_and_thaws(
    lead: MoveLead, client: aiohttp.ClientSession
) -> None:
    await until_frozen(lead)
    await lead.stream.reach(lead.frozen.output_tokens)
    await asyncio.sleep(0.05)
    assert len(lead.stream.token_ids) == lead.frozen.output_tokens
    lead.source.holds.hold(lead.stream.call_id, 20)
    assert (await lead.abort(lead.source)).thawed
    assert (await lead.abort(lead.source)).thawed
    assert not (await lead.abort(lead.destination)).refusal
    assert await lead.state(lead.source) == THAWED
    await freed(lead.destination)
    lead.source.holds.let_go(lead.stream.call_id)
    await lead.stream.end()
    assert lead.stream.token_ids == await expected_tokens(client, lead.source)
    assert lead.stream.finish_reason == "length"


async def test_what_is_thawed_can_move_again(lead: MoveLead) -> None:
    await until_frozen(lead)
    lead.source.holds.hold(lead.stream.call_id, 20)
    await lead.abort(lead.source)
    await lead.abort(lead.destination)
    again = MoveLead("again", lead.source, lead.destination, lead.stream)
    assert (await again.do_offer(epoch=1)).refusal == pb.REFUSAL_STALE_EPOCH
    assert not (await again.do_offer(epoch=2)).refusal


async def test_older_epochs_are_refused(lead: MoveLead) -> None:
    await until_frozen(lead)
    assert (await lead.do_commit(epoch=1)).refusal == pb.REFUSAL_STALE_EPOCH
    await lead.abort(lead.destination, epoch=3)
    assert (await lead.do_commit(epoch=2)).refusal == pb.REFUSAL_STALE_EPOCH
    await lead.abort(lead.source, epoch=3)
    assert (await lead.do_freeze(epoch=1)).refusal == pb.REFUSAL_STALE_EPOCH
    assert (await lead.release(epoch=2)).refusal == pb.REFUSAL_STALE_EPOCH
    assert (await lead.abort(lead.source, epoch=2)).refusal == pb.REFUSAL_STALE_EPOCH
    assert (await lead.do_prepare(epoch=1)).refusal == pb.REFUSAL_STALE_EPOCH


async def test_an_abort_that_comes_first_forbids_what_comes_after(lead: MoveLead) -> None:
    """Messages overtake each other."""
    assert (await lead.abort(lead.source)).refusal == pb.REFUSAL_UNKNOWN
    assert (await lead.abort(lead.destination)).refusal == pb.REFUSAL_UNKNOWN
    assert (await lead.do_offer()).refusal == pb.REFUSAL_STALE_EPOCH
    lead.offer = pb.OfferReply(
        manifest=(await lead.source.stub.Describe(pb.DescribeRequest())).manifest
    )
    assert (await lead.do_prepare()).refusal == pb.REFUSAL_STALE_EPOCH


async def test_the_client_may_leave_while_it_is_frozen(lead: MoveLead) -> None:
    await until_frozen(lead)
    await lead.stream.leave()
    await freed(lead.source)
    assert await lead.state(lead.source) == NONE
    assert not (await lead.abort(lead.source)).thawed
    await lead.abort(lead.destination)
    await freed(lead.destination)


async def test_an_answer_that_ends_in_mid_move_is_told(lead: MoveLead) -> None:
    await lead.do_offer()
    await lead.do_prepare()
    lead.start_pull()
    await lead.staged()
    await lead.stream.leave()
    assert (await lead.pulled()).refusal == pb.REFUSAL_FINISHED
    assert (await lead.do_freeze()).refusal == pb.REFUSAL_FINISHED
    await lead.abort(lead.destination)
    await freed(lead.destination)


async def test_tokens_are_good_for_one_transfer(lead: MoveLead) -> None:
    await lead.do_offer()
    await lead.do_prepare()
    lead.start_pull(kv_lease="guessed")
    assert (await lead.pulled()).refusal == pb.REFUSAL_TOKEN
    lead.start_pull(transfer_token=b"guessed")
    assert (await lead.pulled()).refusal == pb.REFUSAL_TOKEN
    await lead.abort(lead.destination)
    used = pb.ExportRequest(move_id="m", transfer_token=lead.offer.transfer_token)
    first = lead.source.stub.Export(used)
    assert await first_refusal(first) == pb.REFUSAL_NONE
    assert await first_refusal(lead.source.stub.Export(used)) == pb.REFUSAL_TOKEN
    first.cancel()


async def test_an_odd_beginning_of_an_export_is_refused(lead: MoveLead) -> None:
    await lead.do_offer()
    odd = pb.ExportRequest(move_id="m", transfer_token=lead.offer.transfer_token, from_token=5)
    assert await first_refusal(lead.source.stub.Export(odd)) == pb.REFUSAL_TRANSFER


async def test_a_source_that_is_not_there(lead: MoveLead) -> None:
    await lead.do_offer()
    await lead.do_prepare()
    lead.start_pull(source_address="127.0.0.1:1")
    assert (await lead.pulled()).refusal == pb.REFUSAL_TRANSFER
    assert (await lead.do_commit(wait_ms=1)).refusal == pb.REFUSAL_UNKNOWN


async def test_what_differs_is_refused(lead: MoveLead, simulated_options: EngineOptions) -> None:
    await lead.do_offer()
    async with moving_engine(replace(simulated_options, block_tokens=32)) as other:
        lead.destination = other
        assert (await lead.do_prepare()).refusal == pb.REFUSAL_LAYOUT


async def test_one_move_of_a_request_and_so_many_of_an_engine(
    simulated_options: EngineOptions, client: aiohttp.ClientSession
) -> None:
    options = replace(simulated_options, max_moves=1)
    async with moving_engine(options) as source, moving_engine(options) as destination:
        first, second = await decoding(client, source), await decoding(client, source, "r-2")
        lead = MoveLead("m", source, destination, first)
        assert not (await lead.do_offer()).refusal
        same = MoveLead("n", source, destination, first)
        assert (await same.do_offer()).refusal == pb.REFUSAL_BUSY
        other = MoveLead("o", source, destination, second)
        assert (await other.do_offer()).refusal == pb.REFUSAL_BUSY
        await lead.do_prepare()
        other.offer = lead.offer
        assert (await other.do_prepare()).refusal == pb.REFUSAL_BUSY
        await lead.abort(source, 1)
        await lead.abort(destination, 1)
        assert not (await other.do_offer()).refusal
        assert not (await other.do_prepare()).refusal
        await asyncio.gather(first.leave(), second.leave())


async def test_what_does_not_decode_does_not_move(
    simulated_options: EngineOptions, client: aiohttp.ClientSession
) -> None:
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(
            moving_engine(replace(simulated_options, max_num_seqs=2))
        )
        two = await decoding(client, source, "two", n=2)
        waiting = start_stream(client, source.url, "waits", PROMPT, **BODY)
        while source.parts.backend.stats().waiting == 0:
            await asyncio.sleep(0.002)
        lead = MoveLead("m", source, source, two)
        assert (await lead.do_offer()).refusal == pb.REFUSAL_NOT_DECODING
        lead = MoveLead("n", source, source, waiting)
        assert (await lead.do_offer()).refusal == pb.REFUSAL_NOT_DECODING
        gone = MoveLead("o", source, source, Stream("nobody", {"prompt": []}))
        assert (await gone.do_offer()).refusal == pb.REFUSAL_UNKNOWN
        await asyncio.gather(two.leave(), waiting.leave())


async def test_a_full_destination_keeps_its_own(
    numpy_options: EngineOptions, client: aiohttp.ClientSession
) -> None:
    small = replace(numpy_options, kv_tokens=128)
    async with moving_engine(numpy_options) as source, moving_engine(small) as destination:
        own = await decoding(client, destination, "own", max_tokens=60)
        stream = await decoding(client, source, max_tokens=300)
        lead = MoveLead("m", source, destination, stream)
        await lead.do_offer()
        assert (await lead.do_prepare()).refusal == pb.REFUSAL_NO_MEMORY
        destination.holds.let_go("own")
        await own.end()
        assert own.finish_reason == "length"
        assert destination.parts.backend.stats().preemptions_total == 0
        await stream.leave()


async def test_a_destination_that_fills_up_in_mid_move(
    numpy_options: EngineOptions, client: aiohttp.ClientSession
) -> None:
    """Room is reserved for less than comes."""
    small = replace(numpy_options, kv_tokens=80)
    async with moving_engine(numpy_options) as source, moving_engine(small) as destination:
        stream = await decoding(client, source, max_tokens=400)
        lead = MoveLead("m", source, destination, stream)
        await lead.do_offer()
        assert not (await lead.do_prepare(headroom=1)).refusal
        source.holds.let_go(stream.call_id)
        await stream.reach(60)
        lead.start_pull()
        assert (await lead.pulled()).refusal == pb.REFUSAL_NO_MEMORY
        await lead.abort(destination)
        assert destination.used_blocks == 0
        await stream.leave()


async def test_other_ids_are_computed_as_usual(
    lead: MoveLead, client: aiohttp.ClientSession
) -> None:
    await until_frozen(lead)
    await lead.do_commit()
    other = [*PROMPT[:-1], 99]
    status, answer = await complete(
        client,
        f"{lead.destination.url}/v1/completions",
        prompt=other,
        kv_lease=lead.prepared.kv_lease,
        return_token_ids=True,
        **BODY,
    )
    assert status == 200
    _, plain = await complete(
        client, f"{lead.source.url}/v1/completions", prompt=other, return_token_ids=True, **BODY
    )
    assert answer["choices"][0]["token_ids"] == plain["choices"][0]["token_ids"]
    assert await lead.state(lead.destination) == COMMITTED


async def test_a_guessed_lease_is_computed_as_usual(
    pair: tuple[MovingEngine, MovingEngine], client: aiohttp.ClientSession
) -> None:
    stream = start_stream(client, pair[0].url, "r", PROMPT, kv_lease="guessed", **BODY)
    await stream.end()
    assert stream.token_ids == await expected_tokens(client, pair[1])


@pytest.mark.parametrize("name", ["", "x" * 65])
async def test_odd_names_are_refused(pair: tuple[MovingEngine, MovingEngine], name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pair[0].stub.State(pb.StateRequest(move_id=name))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_it_says_what_it_can(pair: tuple[MovingEngine, MovingEngine]) -> None:
    one = await pair[0].stub.Describe(pb.DescribeRequest())
    other = await pair[1].stub.Describe(pb.DescribeRequest())
    assert one == other
    assert one.max_moves == 16
    assert one.manifest.block_tokens == 16
    assert one.layout.startswith("shunter-1-uint32-b16-")
