"""Transfers break or are spoilt, readers go: what is not whole is not taken over, and is freed."""

import asyncio
import zlib
from collections.abc import Callable, Sequence

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
from shunter_engine.moves import outgoing
from shunter_engine.moves.layout import Part, tokens_digest
from shunter_engine.moves.testing_host import FakeClock, ScriptedSource
from shunter_proto.v1 import moves_pb2 as pb


def broken_checksum(chunk: pb.KvChunk) -> None:
    chunk.crc32 ^= 1


def cut_short(chunk: pb.KvChunk) -> None:
    chunk.data = chunk.data[:-4]
    chunk.crc32 = zlib.crc32(chunk.data)


def out_of_place(chunk: pb.KvChunk) -> None:
    chunk.first_token = 4


def ends_early(chunk: pb.KvChunk) -> None:
    chunk.stage_end.CopyFrom(pb.StageEnd(stage=1, source_tokens=12, last=True))


def never_ends(chunk: pb.KvChunk) -> None:
    chunk.ClearField("stage_end")


@pytest.mark.parametrize(
    "spoil", [broken_checksum, cut_short, out_of_place, ends_early, never_ends]
)
async def test_a_spoilt_transfer_is_never_taken_over(
    spoil: Callable[[pb.KvChunk], None],
) -> None:
    chunk = last_chunk(11)
    spoil(chunk)
    destination = side(FakeClock(), source=ScriptedSource(chunk))
    incoming = destination.moves.incoming
    prepared = await incoming.prepare(prepare(destination, IDS))
    reports = [r async for r in incoming.pull(pull(prepared))]
    assert reports[-1].refusal == pb.REFUSAL_TRANSFER
    assert (await incoming.commit(commit(prepared))).refusal == pb.REFUSAL_UNKNOWN
    assert destination.host.batch.stats().kv_blocks_used == 0
    assert destination.moves.slots.taken("in") == 0


async def test_a_commit_names_the_tokens_that_have_come() -> None:
    destination, prepared = await fetched(8)
    refused = await destination.moves.incoming.commit(commit(prepared))
    assert refused.refusal == pb.REFUSAL_TRANSFER


async def test_a_commit_names_the_request_that_was_prepared() -> None:
    destination, prepared = await fetched()
    other = commit(prepared)
    other.request_id = "other"
    incoming = destination.moves.incoming
    assert (await incoming.commit(other)).refusal == pb.REFUSAL_UNKNOWN
    assert not (await incoming.commit(commit(prepared))).refusal
    assert (await incoming.commit(other)).refusal == pb.REFUSAL_UNKNOWN


async def test_an_unknown_sampler_state_is_refused() -> None:
    destination = side(FakeClock())
    prepared = await destination.moves.incoming.prepare(prepare(destination, IDS))
    asked = commit(prepared)
    asked.sampler_state = b"mersenne"
    assert (await destination.moves.incoming.commit(asked)).refusal == pb.REFUSAL_LAYOUT


async def test_a_transfer_whose_reader_has_gone_holds_nothing_at_either_side() -> None:
    """Its gateway has died: nobody waits for leases."""
    clock = FakeClock()
    source = decoding_source(clock)
    destination = side(clock, source=source.moves.outgoing)
    word = source.moves.outgoing.offer(offer()).transfer_token
    prepared = await destination.moves.incoming.prepare(prepare(destination, IDS[:4]))
    asked = pull(prepared)
    asked.transfer_token = word
    reports = destination.moves.incoming.pull(asked)
    assert not (await anext(reports)).refusal
    await reports.aclose()
    assert destination.moves.slots.taken("in") == source.moves.slots.taken("out") == 0
    assert destination.host.batch.stats().kv_blocks_used == 0
    assert source.host.batch.stats().running == 1


async def test_a_reader_that_goes_as_the_last_report_comes_holds_nothing() -> None:
    """Whether its gateway heard of it is unknown, and nobody waits to take over."""
    destination = side(FakeClock(), source=ScriptedSource(last_chunk(11)))
    prepared = await destination.moves.incoming.prepare(prepare(destination, IDS))
    reports = destination.moves.incoming.pull(pull(prepared))
    assert (await anext(reports)).complete
    await reports.aclose()
    assert destination.moves.slots.taken("in") == 0
    assert destination.host.batch.stats().kv_blocks_used == 0


@pytest.mark.parametrize("attached", [False, True])
async def test_who_waits_to_take_over_holds_the_reservation(attached: bool) -> None:
    destination = side(FakeClock(), source=ScriptedSource(last_chunk(11)))
    incoming = destination.moves.incoming
    prepared = await incoming.prepare(prepare(destination, IDS))
    assert [r async for r in incoming.pull(pull(prepared))][-1].complete
    waiting = asyncio.create_task(incoming.taken_over("m"))
    await asyncio.sleep(0)
    committed = commit(prepared)
    committed.tokens_digest = tokens_digest(IDS)
    assert not (await incoming.commit(committed)).refusal
    if attached:
        assert incoming.attach(prepared.kv_lease, request("x", IDS), Silent())
        await waiting
        assert destination.host.batch.view("x") is not None
    else:
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert destination.host.batch.stats().kv_blocks_used == 0
        assert not incoming.attach(prepared.kv_lease, request("x", IDS), Silent())
    assert destination.moves.slots.taken("in") == 0


@pytest.mark.parametrize("frozen", [False, True])
async def test_copying_leaves_time_to_decode_until_a_client_waits(
    monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    clock, rests = FakeClock(), []
    source = decoding_source(clock)
    read_kv = source.host.read_kv

    def slow_read(table: Sequence[int], ids: Sequence[int], part: Part) -> bytes:
        clock.pass_s(0.01)
        return read_kv(table, ids, part)

    async def rest(changed: asyncio.Event, timeout_s: float) -> None:
        rests.append(timeout_s)

    monkeypatch.setattr(source.host, "read_kv", slow_read)
    monkeypatch.setattr(outgoing, "_event_or", rest)
    word = source.moves.outgoing.offer(offer()).transfer_token
    if frozen:
        await source.moves.outgoing.freeze(pb.FreezeRequest(move_id="m", epoch=1))
    chunks = source.moves.outgoing.export(pb.ExportRequest(move_id="m", transfer_token=word))
    assert (await anext(chunks)).data
    assert (await anext(chunks)).HasField("stage_end")
    assert rests == ([] if frozen else [pytest.approx(0.04)])
    await chunks.aclose()
