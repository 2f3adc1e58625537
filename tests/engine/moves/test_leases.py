"""Leases end, transfers break, calls come in any order: no block, place or lease stays."""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shunter_engine.backend import Sampling, SequenceRequest, TokenEvent
from shunter_engine.moves import outgoing
from shunter_engine.moves.layout import Part, tokens_digest
from shunter_engine.moves.moves import Moves, MovesParts
from shunter_engine.moves.ports import Source
from shunter_engine.moves.testing_host import (
    BatchHost,
    FakeCalls,
    FakeClock,
    ScriptedSource,
    connects_to,
    kv_chunk,
)
from shunter_proto.v1 import moves_pb2 as pb
from shunter_simulator.engine.testing import sequence, small_config

LEASE_MS = 5000
IDS = list(range(20, 32))


class Silent:
    def on_token(self, token: TokenEvent) -> None:
        pass


@dataclass
class Side:
    host: BatchHost
    calls: FakeCalls
    moves: Moves


def side(clock: FakeClock, blocks: int = 16, source: Source | None = None) -> Side:
    host = BatchHost(small_config(blocks, max_num_seqs=4))
    calls = FakeCalls(host.batch)
    parts = MovesParts(
        host, host.layout("t"), calls, connects_to(source or ScriptedSource()), clock, 3
    )
    return Side(host, calls, Moves(parts))


def offer(call_id: str = "a", move_id: str = "m", epoch: int = 1) -> pb.OfferRequest:
    return pb.OfferRequest(move_id=move_id, call_id=call_id, epoch=epoch, lease_ms=LEASE_MS)


def prepare(at: Side, ids: list[int], move_id: str = "m", headroom: int = 8) -> pb.PrepareRequest:
    return pb.PrepareRequest(
        move_id=move_id,
        epoch=1,
        manifest=at.host.layout("t").manifest(),
        token_ids=ids,
        headroom_tokens=headroom,
        lease_ms=LEASE_MS,
    )


def decoding_source(clock: FakeClock) -> Side:
    source = side(clock)
    source.host.batch.add(sequence("a", 10, 50))
    source.host.steps(3)
    return source


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
    chunk = kv_chunk(0, IDS[:11])
    chunk.crc32 = zlib.crc32(chunk.data)
    chunk.stage_end.CopyFrom(pb.StageEnd(stage=1, source_tokens=11, last=True))
    destination = side(clock, source=ScriptedSource(chunk))
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


def pull(prepared: pb.PrepareReply) -> pb.PullRequest:
    return pb.PullRequest(move_id="m", kv_lease=prepared.kv_lease, source_address="s:1")


def commit(prepared: pb.PrepareReply) -> pb.CommitRequest:
    return pb.CommitRequest(
        move_id="m", epoch=2, kv_lease=prepared.kv_lease, tokens=len(IDS), tokens_digest=b"d"
    )


def request(request_id: str, ids: list[int]) -> SequenceRequest:
    return SequenceRequest(request_id, tuple(ids), 1, 5, 0, Sampling())


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
    chunk = kv_chunk(0, IDS[:11])
    chunk.crc32 = zlib.crc32(chunk.data)
    chunk.stage_end.CopyFrom(pb.StageEnd(stage=1, source_tokens=11, last=True))
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
    chunk = kv_chunk(0, IDS[:8])
    chunk.crc32 = zlib.crc32(chunk.data)
    chunk.stage_end.CopyFrom(pb.StageEnd(stage=1, source_tokens=8, last=True))
    destination = side(FakeClock(), source=ScriptedSource(chunk))
    incoming = destination.moves.incoming
    prepared = await incoming.prepare(prepare(destination, IDS))
    assert [r async for r in incoming.pull(pull(prepared))][-1].complete
    assert (await incoming.commit(commit(prepared))).refusal == pb.REFUSAL_TRANSFER


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
    chunk = kv_chunk(0, IDS[:11])
    chunk.crc32 = zlib.crc32(chunk.data)
    chunk.stage_end.CopyFrom(pb.StageEnd(stage=1, source_tokens=11, last=True))
    destination = side(FakeClock(), source=ScriptedSource(chunk))
    prepared = await destination.moves.incoming.prepare(prepare(destination, IDS))
    reports = destination.moves.incoming.pull(pull(prepared))
    assert (await anext(reports)).complete
    await reports.aclose()
    assert destination.moves.slots.taken("in") == 0
    assert destination.host.batch.stats().kv_blocks_used == 0


@pytest.mark.parametrize("attached", [False, True])
async def test_who_waits_to_take_over_holds_the_reservation(attached: bool) -> None:
    chunk = kv_chunk(0, IDS[:11])
    chunk.crc32 = zlib.crc32(chunk.data)
    chunk.stage_end.CopyFrom(pb.StageEnd(stage=1, source_tokens=11, last=True))
    destination = side(FakeClock(), source=ScriptedSource(chunk))
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


async def test_an_unknown_sampler_state_is_refused() -> None:
    destination = side(FakeClock())
    prepared = await destination.moves.incoming.prepare(prepare(destination, IDS))
    asked = commit(prepared)
    asked.sampler_state = b"mersenne"
    assert (await destination.moves.incoming.commit(asked)).refusal == pb.REFUSAL_LAYOUT


async def test_a_commit_that_waits_hears_of_an_abort() -> None:
    destination = side(FakeClock())
    prepared = await destination.moves.incoming.prepare(prepare(destination, IDS))
    asked = commit(prepared)
    asked.wait_ms = 60_000
    waiting = asyncio.create_task(destination.moves.incoming.commit(asked))
    await asyncio.sleep(0)
    destination.moves.abort(pb.AbortRequest(move_id="m", epoch=1))
    assert (await waiting).refusal == pb.REFUSAL_UNKNOWN


class AnyCalls(RuleBasedStateMachine):
    """Two engines, three requests; the calls of their moves come in any order, again, or never."""

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.source = side(self.clock)
        self.destination = side(self.clock, source=self.source.moves.outgoing)
        self.leases: dict[str, pb.PrepareReply] = {}
        self.words: dict[str, bytes] = {}
        self.frozen: dict[str, pb.FreezeReply] = {}
        for name in "abc":
            self.source.host.batch.add(sequence(name, 10, 60))
        self.source.host.steps(4)

    @rule(number=st.integers(1, 3))
    def go_on(self, number: int) -> None:
        self.source.host.steps(number)
        self.destination.host.steps(number)

    @rule(name=st.sampled_from("abc"), epoch=st.integers(1, 2))
    def offer(self, name: str, epoch: int) -> None:
        reply = self.source.moves.outgoing.offer(offer(name, f"m{name}", epoch))
        if not reply.refusal:
            self.words[name] = reply.transfer_token

    @rule(name=st.sampled_from("abc"), headroom=st.integers(0, 30))
    def prepare(self, name: str, headroom: int) -> None:
        view = self.source.host.batch.view(name)
        if view is not None:
            asked = prepare(self.destination, list(view.token_ids), f"m{name}", headroom)
            reply = self.loop.run_until_complete(self.destination.moves.incoming.prepare(asked))
            if not reply.refusal:
                self.leases[name] = reply

    @rule(name=st.sampled_from("abc"))
    def freeze(self, name: str) -> None:
        asked = pb.FreezeRequest(move_id=f"m{name}", epoch=1, lease_ms=LEASE_MS)
        reply = self.loop.run_until_complete(self.source.moves.outgoing.freeze(asked))
        if not reply.refusal:
            self.frozen[name] = reply

    @rule(name=st.sampled_from("abc"), reports=st.integers(0, 3))
    def pull(self, name: str, reports: int) -> None:
        """Left after so many reports, where it does not end before."""
        if name not in self.leases or name not in self.words:
            return
        asked = pb.PullRequest(
            move_id=f"m{name}",
            kv_lease=self.leases[name].kv_lease,
            transfer_token=self.words[name],
            source_address="s:1",
        )
        self.loop.run_until_complete(self.read(asked, reports))

    async def read(self, asked: pb.PullRequest, reports: int) -> None:
        stream = self.destination.moves.incoming.pull(asked)
        for _ in range(reports):
            try:
                async with asyncio.timeout(0.001):
                    await anext(stream)
            except (StopAsyncIteration, TimeoutError):
                break
        await stream.aclose()

    @rule(name=st.sampled_from("abc"), epoch=st.integers(1, 3))
    def commit(self, name: str, epoch: int) -> None:
        if name not in self.leases or name not in self.frozen:
            return
        asked = pb.CommitRequest(
            move_id=f"m{name}",
            epoch=epoch,
            kv_lease=self.leases[name].kv_lease,
            tokens=self.frozen[name].tokens,
            tokens_digest=self.frozen[name].tokens_digest,
        )
        reply = self.loop.run_until_complete(self.destination.moves.incoming.commit(asked))
        if not reply.refusal:
            event("committed")

    @rule(name=st.sampled_from("abc"))
    def take_over(self, name: str) -> None:
        view = self.source.host.batch.view(name)
        if view is None or name not in self.leases:
            return
        ids = list(view.token_ids)
        taken = self.destination.moves.incoming.attach(
            self.leases[name].kv_lease, request(f"{name}+", ids), Silent()
        )
        if taken:
            event("taken over")
            assert self.destination.host.adopted[f"{name}+"] == ids[:-1]

    @rule(name=st.sampled_from("abc"), epoch=st.integers(1, 3))
    def release(self, name: str, epoch: int) -> None:
        asked = pb.ReleaseRequest(move_id=f"m{name}", epoch=epoch)
        self.source.moves.outgoing.release(asked)

    @rule(name=st.sampled_from("abc"), epoch=st.integers(1, 3), at_source=st.booleans())
    def abort(self, name: str, epoch: int, at_source: bool) -> None:
        at = self.source if at_source else self.destination
        at.moves.abort(
            pb.AbortRequest(move_id=f"m{name}", epoch=epoch, call_id=name if at_source else "")
        )

    @rule(seconds=st.sampled_from([0.5, 4.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.clock.pass_s(seconds)

    @rule(name=st.sampled_from("abc"))
    def client_leaves(self, name: str) -> None:
        self.source.calls.leave(name)

    @rule(name=st.sampled_from("abc"))
    def move_in_order(self, name: str) -> None:
        self.offer(name, 1)
        self.prepare(name, 8)
        self.freeze(name)
        self.pull(name, 3)
        self.commit(name, 2)
        self.take_over(name)

    @invariant()
    def books_balance(self) -> None:
        for at in (self.source, self.destination) if hasattr(self, "source") else ():
            at.host.batch.check()
            assert at.moves.slots.taken("in") + at.moves.slots.taken("out") <= 3

    def teardown(self) -> None:
        if not hasattr(self, "source"):
            return
        self.clock.pass_s(61)
        for at in (self.source, self.destination):
            for _ in range(200):
                at.host.steps(1)
            stats = at.host.batch.stats()
            assert (stats.kv_blocks_used, stats.running, stats.waiting) == (0, 0, 0)
            assert at.moves.slots.taken("in") + at.moves.slots.taken("out") == 0
        assert self.clock.waiting == 0
        self.loop.close()


TestAnyCalls = AnyCalls.TestCase
TestAnyCalls.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
