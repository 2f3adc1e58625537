"""The destination's side of moves: memory is reserved, filled from the source, and taken over."""

import asyncio
import contextlib
import secrets
import zlib
from collections import OrderedDict
from collections.abc import AsyncGenerator

import structlog

from shunter_engine.backend import SequenceRequest, SequenceSink
from shunter_engine.moves.layout import Cursor, KvLayout, Part, part_bytes, tokens_digest
from shunter_engine.moves.leases import Fences, Lease, granted_s, remember
from shunter_engine.moves.ports import Clock, Connect, KvHost, Source, SourceLost
from shunter_engine.moves.reserved import Reserved
from shunter_engine.moves.slots import Slots
from shunter_proto.v1 import moves_pb2 as pb
from shunter_simulator.engine import NoRoom, PromptTooLong

SIDE = "in"
NONE = pb.StateReply.PHASE_NONE
MAX_WAIT_S = 60.0
log = structlog.get_logger(__name__)


class Incoming:
    """Moves to here, by move id."""

    def __init__(
        self, host: KvHost, layout: KvLayout, connect: Connect, clock: Clock, slots: Slots
    ) -> None:
        self._host = host
        self._layout = layout
        self._connect = connect
        self._clock = clock
        self._slots = slots
        self._fences = Fences()
        self._moves: OrderedDict[str, Reserved] = OrderedDict()
        self._by_lease: dict[str, Reserved] = {}

    async def prepare(self, request: pb.PrepareRequest) -> pb.PrepareReply:
        if request.manifest != self._layout.manifest():
            return pb.PrepareReply(refusal=pb.REFUSAL_LAYOUT)
        if not request.token_ids:
            return pb.PrepareReply(refusal=pb.REFUSAL_NOT_DECODING)
        return await self._host.between_steps(lambda: self._prepare(request))

    def _prepare(self, request: pb.PrepareRequest) -> pb.PrepareReply:
        if self._fences.stale(request.move_id, request.epoch):
            return pb.PrepareReply(refusal=pb.REFUSAL_STALE_EPOCH)
        known = self._moves.get(request.move_id)
        if known is not None:
            known.lease.renew()
            return pb.PrepareReply(refusal=pb.REFUSAL_UNKNOWN) if known.over else known.reply
        self._give_up_older(request)
        if not self._slots.take(SIDE, request.move_id):
            return pb.PrepareReply(refusal=pb.REFUSAL_BUSY)
        token_ids = tuple(request.token_ids)
        try:
            held = self._host.batch.reserve(request.move_id, token_ids, request.headroom_tokens)
        except NoRoom as error:
            self._slots.give_back(SIDE, request.move_id)
            log.info("move_refused", move=request.move_id, error=str(error))
            return pb.PrepareReply(refusal=pb.REFUSAL_NO_MEMORY)
        self._fences.raise_to(request.move_id, request.epoch)
        lease = Lease(
            self._clock, granted_s(request.lease_ms), lambda: self._expire(request.move_id)
        )
        reply = pb.PrepareReply(
            kv_lease=secrets.token_urlsafe(32),
            lease_ms=lease.ms,
            cached_tokens=held.cached_tokens,
        )
        move = Reserved(
            request.move_id,
            request.request_id,
            request.epoch,
            reply.kv_lease,
            token_ids[: held.cached_tokens],
            reply,
            lease,
            Cursor(self._layout, held.cached_tokens),
        )
        remember(self._moves, move.move_id, move)
        self._by_lease[move.kv_lease] = move
        return reply

    def _give_up_older(self, request: pb.PrepareRequest) -> None:
        """What an older epoch of this request has reserved and never fetched."""
        for move in list(self._by_lease.values()):
            same = move.request_id == request.request_id != ""
            if same and move.epoch < request.epoch and not move.pulled:
                self._drop(move)

    async def pull(self, request: pb.PullRequest) -> AsyncGenerator[pb.PullReport, None]:
        """Fetches until the source has frozen and sent all, and reports the end of each stage.
        Whoever leaves before has heard the last report frees what was reserved."""
        move = self._moves.get(request.move_id)
        if move is None or move.phase != pb.StateReply.PHASE_RESERVED:
            yield pb.PullReport(refusal=pb.REFUSAL_UNKNOWN)
            return
        if move.pulled or not move.is_named_by(request.kv_lease):
            yield pb.PullReport(refusal=pb.REFUSAL_TOKEN)
            return
        move.pulled = True
        move.lease.renew()
        export = pb.ExportRequest(
            move_id=request.move_id,
            transfer_token=request.transfer_token,
            from_token=move.cursor.token,
        )
        try:
            async with (
                self._connect(request.source_address) as source,
                contextlib.aclosing(self._fetch(move, source, export)) as reports,
            ):
                async for report in reports:
                    yield report
        except SourceLost as error:
            log.warning("move_source_lost", move=move.move_id, error=str(error))
            yield pb.PullReport(refusal=pb.REFUSAL_TRANSFER)
        except (GeneratorExit, asyncio.CancelledError):
            self._drop(move)  # complete, perhaps, but its gateway cannot have heard of it
            raise
        finally:
            if not move.complete.is_set():
                self._drop(move)

    async def taken_over(self, move_id: str) -> None:
        """Returns once the move is over here. Cancelled before, its gateway has gone: nobody will
        take over."""
        move = self._moves[move_id]
        try:
            await move.ended.wait()
        finally:
            self._drop(move)

    def _drop(self, move: Reserved) -> None:
        if not move.over:
            self._free(move)

    async def _fetch(
        self, move: Reserved, source: Source, export: pb.ExportRequest
    ) -> AsyncGenerator[pb.PullReport, None]:
        async with contextlib.aclosing(source.export(export)) as chunks:
            async for chunk in chunks:
                refusal = chunk.refusal or await self._take(move, chunk)
                if refusal:
                    yield pb.PullReport(refusal=refusal)
                    return
                if chunk.HasField("stage_end"):
                    report = self._stage_ended(move, chunk.stage_end)
                    yield report
                    if report.refusal or report.complete:
                        return
        yield pb.PullReport(refusal=pb.REFUSAL_TRANSFER)  # it ended before its end

    async def _take(self, move: Reserved, chunk: pb.KvChunk) -> "pb.Refusal.ValueType":
        """Writes a chunk into the reserved blocks."""
        if not chunk.data:
            return pb.REFUSAL_NONE
        part = Part(chunk.first_token, chunk.tokens, chunk.first_layer, chunk.layers)
        whole = len(chunk.data) == part_bytes(self._layout, part)
        if not whole or zlib.crc32(chunk.data) != chunk.crc32 or not move.cursor.take(part):
            return pb.REFUSAL_TRANSFER
        try:
            table = await self._room(move, part.first_token + part.tokens)
        except NoRoom:
            return pb.REFUSAL_NO_MEMORY
        if table is None:
            return pb.REFUSAL_UNKNOWN
        self._host.write_kv(table, part, chunk.data)
        share = part.tokens * part.layers * self._layout.bytes_per_token
        move.fetched_bytes += share // self._layout.layers
        move.lease.renew()
        return pb.REFUSAL_NONE

    async def _room(self, move: Reserved, tokens: int) -> list[int] | None:
        """The move's blocks, grown to hold `tokens`. None: it is over. Raises `NoRoom`."""
        held = self._host.batch.reservation(move.move_id)
        if held is not None and tokens > len(held.block_table) * self._layout.block_tokens:
            await self._host.between_steps(lambda: self._grow(move, tokens))
            held = self._host.batch.reservation(move.move_id)
        return None if held is None else held.block_table

    def _grow(self, move: Reserved, tokens: int) -> None:
        if not move.over:
            self._host.batch.extend(move.move_id, tokens)

    def _stage_ended(self, move: Reserved, end: pb.StageEnd) -> pb.PullReport:
        move.lease.renew()
        here = move.cursor.token
        if end.last and (move.cursor.layer or here != end.source_tokens):
            return pb.PullReport(refusal=pb.REFUSAL_TRANSFER)
        if end.last:
            move.complete.set()
        return pb.PullReport(
            stage=end.stage,
            tokens=here,
            source_tokens=end.source_tokens,
            bytes=move.fetched_bytes,
            complete=end.last,
        )

    async def commit(self, request: pb.CommitRequest) -> pb.CommitReply:
        """From here on the generate call that brings the lease's token may take over."""
        move = self._moves.get(request.move_id)
        refusal = self._commit_refusal(move, request)
        if move is None or refusal:
            return pb.CommitReply(refusal=refusal or pb.REFUSAL_UNKNOWN)
        move.lease.renew()
        if move.commit_reply is not None:
            return move.commit_reply
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(request.wait_ms / 1000, MAX_WAIT_S)):
                await move.complete.wait()
        refusal = self._commit_refusal(move, request)
        if not refusal and not move.complete.is_set():
            refusal = pb.REFUSAL_INCOMPLETE
        if not refusal and move.cursor.token != request.tokens - 1:
            refusal = pb.REFUSAL_TRANSFER
        if refusal:
            return pb.CommitReply(refusal=refusal)
        move.phase, move.epoch = pb.StateReply.PHASE_COMMITTED, request.epoch
        self._fences.raise_to(move.move_id, request.epoch)
        move.tokens, move.tokens_digest = request.tokens, request.tokens_digest
        move.lease.renew()
        move.commit_reply = pb.CommitReply(lease_ms=move.lease.ms)
        return move.commit_reply

    def _commit_refusal(
        self, move: Reserved | None, request: pb.CommitRequest
    ) -> "pb.Refusal.ValueType":
        if self._fences.stale(request.move_id, request.epoch):
            return pb.REFUSAL_STALE_EPOCH
        return pb.REFUSAL_UNKNOWN if move is None else move.commit_refusal(request)

    def attach(self, kv_lease: str, request: SequenceRequest, sink: SequenceSink) -> bool:
        """The generate call goes on with what has been fetched. False: compute as usual."""
        move = self._by_lease.get(kv_lease)
        if move is None or move.phase != pb.StateReply.PHASE_COMMITTED:
            return False
        ids = request.token_ids
        fits = len(ids) == move.tokens and ids[: len(move.token_ids)] == move.token_ids
        if not fits or tokens_digest(ids) != move.tokens_digest:
            log.warning("move_other_tokens", move=move.move_id)
            return False
        try:
            self._host.adopt(move.move_id, request, sink)
        except (PromptTooLong, ValueError) as error:
            log.warning("move_not_taken_over", move=move.move_id, error=str(error))
            return False
        self._end(move, pb.StateReply.PHASE_ATTACHED)
        return True

    def abort(self, request: pb.AbortRequest) -> pb.AbortReply:
        if self._fences.stale(request.move_id, request.epoch):
            return pb.AbortReply(refusal=pb.REFUSAL_STALE_EPOCH)
        self._fences.raise_to(request.move_id, request.epoch)
        move = self._moves.get(request.move_id)
        if move is None or move.phase == pb.StateReply.PHASE_ATTACHED:
            return pb.AbortReply(refusal=pb.REFUSAL_UNKNOWN)
        if not move.over:
            move.epoch = request.epoch
        self._drop(move)
        return pb.AbortReply()

    def state(self, move_id: str) -> pb.StateReply | None:
        move = self._moves.get(move_id)
        return None if move is None else pb.StateReply(phase=move.phase, epoch=move.epoch)

    def close(self) -> None:
        for move in self._moves.values():
            move.lease.end()

    def _expire(self, move_id: str) -> None:
        log.info("move_lease_ended", move=move_id)
        self._drop(self._moves[move_id])

    def _free(self, move: Reserved) -> None:
        self._host.batch.unreserve(move.move_id)
        self._end(move, NONE)

    def _end(self, move: Reserved, phase: "pb.StateReply.Phase.ValueType") -> None:
        move.phase = phase
        move.token_ids = ()  # moves that are over are remembered by the thousand
        move.lease.end()
        move.complete.set()  # whoever waits for it looks again
        move.ended.set()
        self._by_lease.pop(move.kv_lease, None)
        self._slots.give_back(SIDE, move.move_id)
        self._host.wake()
