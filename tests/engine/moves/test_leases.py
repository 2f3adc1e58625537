"""Leases end, calls come late or in vain: no block, place or lease stays."""

import asyncio

import pytest

from engine_sides import (
    IDS,
    Silent,
    commit,
    decoding_source,
    fetched,
    last_chunk,
    offer,
    prepare,
    pull,
    request,
    side,
)
from shunter_engine.moves.testing_host import FakeClock, ScriptedSource
from shunter_proto.v1 import moves_pb2 as pb


def test_an_offer_is_forgotten() -> None:
    clock = FakeClock()
    source = decoding_source(clock)
    assert not source.moves.outgoing.offer(offer()).refusal
    clock.pass_s(4)
    source.moves.outgoing.offer(offer())  # begins the lease again
    clock.pass_s(4)
    assert source.moves.state("m").phase == pb.StateReply.PHASE_OFFERED
    clock.pass_s(1.1)
    assert source.moves.state("m").phase == pb.StateReply.PHASE_NONE
    assert source.moves.slots.taken("out") == 0
    assert not source.calls.broken
    assert source.host.batch.stats().running == 1


def test_a_repeated_offer_of_an_older_epoch_is_refused() -> None:
    source = decoding_source(FakeClock())
    assert not source.moves.outgoing.offer(offer(epoch=2)).refusal
    assert source.moves.outgoing.offer(offer(epoch=1)).refusal == pb.REFUSAL_STALE_EPOCH
    assert not source.moves.outgoing.offer(offer(epoch=2)).refusal


async def test_what_is_frozen_is_freed_and_never_thaws_by_itself() -> None:
    clock = FakeClock()
    source = decoding_source(clock)
    source.moves.outgoing.offer(offer())
    await source.moves.outgoing.freeze(pb.FreezeRequest(move_id="m", epoch=1, lease_ms=2000))
    clock.pass_s(1.9)
    assert source.moves.state("m").phase == pb.StateReply.PHASE_FROZEN
    clock.pass_s(0.2)
    assert source.calls.broken == ["a"]
    assert source.host.batch.stats().kv_blocks_used == 0
    late = source.moves.abort(pb.AbortRequest(move_id="m", epoch=2, call_id="a"))
    assert late.refusal == pb.REFUSAL_UNKNOWN
    assert not late.thawed


@pytest.mark.parametrize("committed", [False, True])
async def test_a_reservation_is_freed(committed: bool) -> None:
    clock = FakeClock()
    destination = side(clock, source=ScriptedSource(last_chunk(11)))
    incoming = destination.moves.incoming
    prepared = await incoming.prepare(prepare(destination, IDS))
    assert destination.host.batch.stats().kv_blocks_used == 5
    reports = [r async for r in incoming.pull(pull(prepared))]
    assert reports[-1].complete
    if committed:
        assert not (await incoming.commit(commit(prepared))).refusal
    clock.pass_s(5.1)
    assert destination.host.batch.stats().kv_blocks_used == 0
    assert destination.moves.slots.taken("in") == 0
    assert (await incoming.commit(commit(prepared))).refusal == pb.REFUSAL_UNKNOWN
    assert not incoming.attach(prepared.kv_lease, request("x", IDS), Silent())


@pytest.mark.parametrize("frozen", [False, True])
async def test_a_call_that_ends_takes_its_move_along(frozen: bool) -> None:
    source = decoding_source(FakeClock())
    source.moves.outgoing.offer(offer())
    if frozen:
        await source.moves.outgoing.freeze(pb.FreezeRequest(move_id="m", epoch=1))
    source.calls.leave("a")
    assert source.moves.slots.taken("out") == 0
    late = await source.moves.outgoing.freeze(pb.FreezeRequest(move_id="m", epoch=1))
    assert late.refusal == pb.REFUSAL_FINISHED


async def test_a_commit_that_waits_hears_of_an_abort() -> None:
    destination = side(FakeClock())
    prepared = await destination.moves.incoming.prepare(prepare(destination, IDS))
    asked = commit(prepared)
    asked.wait_ms = 60_000
    waiting = asyncio.create_task(destination.moves.incoming.commit(asked))
    await asyncio.sleep(0)
    destination.moves.abort(pb.AbortRequest(move_id="m", epoch=1))
    assert (await waiting).refusal == pb.REFUSAL_UNKNOWN


async def test_a_prepare_that_waits_for_a_step_is_withdrawn() -> None:
    """Under the epoch of the owner that would have been: the gateway goes on by replay."""
    destination = side(FakeClock())
    destination.host.computing = True
    preparing = asyncio.create_task(destination.moves.incoming.prepare(prepare(destination, IDS)))
    await asyncio.sleep(0)
    destination.moves.abort(pb.AbortRequest(move_id="m", epoch=2))
    destination.host.steps(1)
    assert (await preparing).refusal == pb.REFUSAL_STALE_EPOCH
    assert destination.host.batch.stats().kv_blocks_used == 0
    assert destination.moves.slots.taken("in") == 0


@pytest.mark.parametrize("pulled", [False, True])
async def test_a_newer_epoch_of_a_request_frees_what_an_older_one_never_fetched(
    pulled: bool,
) -> None:
    destination, _ = await fetched() if pulled else (side(FakeClock()), None)
    incoming = destination.moves.incoming
    if not pulled:
        await incoming.prepare(prepare(destination, IDS))
    newer = prepare(destination, IDS, move_id="newer")
    newer.epoch = 3
    assert not (await incoming.prepare(newer)).refusal
    old = pb.StateReply.PHASE_RESERVED if pulled else pb.StateReply.PHASE_NONE
    assert destination.moves.state("m").phase == old
    assert destination.moves.slots.taken("in") == (2 if pulled else 1)
    other = prepare(destination, IDS, move_id="other")
    other.epoch, other.request_id = 5, "other"
    assert not (await incoming.prepare(other)).refusal
    assert destination.moves.state("newer").phase == pb.StateReply.PHASE_RESERVED
