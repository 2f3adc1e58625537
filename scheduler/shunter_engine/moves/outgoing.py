"""The source's side of moves: what is offered, read while it decodes, frozen, freed or thawed."""

import asyncio
import contextlib
import hmac
import secrets
import zlib
from collections import OrderedDict
from collections.abc import AsyncGenerator

from shunter_engine.moves.layout import KvLayout, Part, parts, tokens_digest
from shunter_engine.moves.leases import Fences, Lease, granted_s, remember
from shunter_engine.moves.offered import Offered
from shunter_engine.moves.ports import Calls, Clock, KvHost
from shunter_engine.moves.slots import Slots
from shunter_proto.v1 import moves_pb2 as pb
from shunter_simulator.engine import SequenceView

SIDE = "out"
TOKEN_BYTES = 32
LOOK_EVERY_S = 0.005  # for blocks that got full
REST = 4.0  # after a chunk, times what writing it down took: others decode meanwhile


class Outgoing:
    """Moves away from here, by move id. What has ended is remembered, so that repeated calls get
    the same answer."""

    def __init__(
        self, host: KvHost, layout: KvLayout, calls: Calls, clock: Clock, slots: Slots
    ) -> None:
        self._host = host
        self._layout = layout
        self._calls = calls
        self._clock = clock
        self._slots = slots
        self._fences = Fences()
        self._moves: OrderedDict[str, Offered] = OrderedDict()
        self._moving: dict[str, str] = {}  # move ids by the calls of moves that are not over
        calls.watch(self._call_ended)

    def offer(self, request: pb.OfferRequest) -> pb.OfferReply:
        known = self._moves.get(request.move_id)
        if known is not None:
            if refusal := self._stale(known, request.move_id, request.epoch):
                return pb.OfferReply(refusal=refusal)
            known.lease.renew()
            return pb.OfferReply(refusal=pb.REFUSAL_UNKNOWN) if known.over else known.reply
        refusal, sequence = self._offerable(request)
        if refusal:
            return pb.OfferReply(refusal=refusal)
        view = self._host.batch.view(sequence)
        if view is None or not view.decoding:
            return pb.OfferReply(
                refusal=pb.REFUSAL_FINISHED if view is None else pb.REFUSAL_NOT_DECODING
            )
        if not self._slots.take(SIDE, request.move_id):
            return pb.OfferReply(refusal=pb.REFUSAL_BUSY)
        self._fences.raise_to(request.call_id, request.epoch)
        lease = Lease(
            self._clock, granted_s(request.lease_ms), lambda: self._expire(request.move_id)
        )
        reply = pb.OfferReply(
            manifest=self._layout.manifest(),
            tokens=len(view.token_ids),
            transfer_token=secrets.token_bytes(TOKEN_BYTES),
            lease_ms=lease.ms,
            bytes_per_token=self._layout.bytes_per_token,
        )
        move = Offered(request.move_id, request.call_id, sequence, request.epoch, reply, lease)
        remember(self._moves, move.move_id, move)
        self._moving[move.call_id] = move.move_id
        return reply

    def _offerable(self, request: pb.OfferRequest) -> "tuple[pb.Refusal.ValueType, str]":
        """Why not, or the sequence's name."""
        stale = self._fences.stale
        if stale(request.call_id, request.epoch) or stale(request.move_id, request.epoch):
            return pb.REFUSAL_STALE_EPOCH, ""
        sequences = self._calls.sequences_of(request.call_id)
        if not sequences:
            return pb.REFUSAL_UNKNOWN, ""
        if len(sequences) > 1:
            return pb.REFUSAL_NOT_DECODING, ""
        if request.call_id in self._moving:
            return pb.REFUSAL_BUSY, ""
        return pb.REFUSAL_NONE, sequences[0]

    async def freeze(self, request: pb.FreezeRequest) -> pb.FreezeReply:
        move = self._moves.get(request.move_id)
        refusal = self._stale(move, request.move_id, request.epoch)
        if move is None or refusal:
            return pb.FreezeReply(refusal=refusal or pb.REFUSAL_UNKNOWN)
        move.lease.renew()
        return await self._host.between_steps(lambda: self._freeze(move, request))

    def _freeze(self, move: Offered, request: pb.FreezeRequest) -> pb.FreezeReply:
        """Between steps; much may have happened since the call came."""
        if move.freeze_reply is not None and not move.over:
            return move.freeze_reply
        refusal = self._stale(move, move.move_id, request.epoch)
        view = self._host.batch.view(move.sequence)
        if not refusal and view is None:
            refusal = pb.REFUSAL_FINISHED
        elif not refusal and move.over:
            refusal = pb.REFUSAL_UNKNOWN
        elif not refusal and view is not None and not view.decoding:
            refusal = pb.REFUSAL_NOT_DECODING
        if refusal or view is None:
            return pb.FreezeReply(refusal=refusal)
        self._host.batch.freeze(move.sequence)
        move.lease.last(granted_s(request.lease_ms))
        move.phase = pb.StateReply.PHASE_FROZEN
        move.freeze_reply = pb.FreezeReply(
            tokens=len(view.token_ids),
            output_tokens=view.output_tokens,
            tokens_digest=tokens_digest(view.token_ids),
            lease_ms=move.lease.ms,
        )
        move.changed.set()
        return move.freeze_reply

    async def export(self, request: pb.ExportRequest) -> AsyncGenerator[pb.KvChunk, None]:
        """Complete blocks, stage by stage, as they are computed; once frozen, the rest."""
        move = self._moves.get(request.move_id)
        if move is None or move.over:
            yield pb.KvChunk(refusal=pb.REFUSAL_UNKNOWN)
            return
        token = move.reply.transfer_token
        if move.exported or not hmac.compare_digest(token, request.transfer_token):
            yield pb.KvChunk(refusal=pb.REFUSAL_TOKEN)
            return
        if request.from_token % self._layout.block_tokens:
            yield pb.KvChunk(refusal=pb.REFUSAL_TRANSFER)
            return
        move.exported = True
        try:
            async with contextlib.aclosing(self._stages(move, request.from_token)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:  # whoever fetched may have gone; what is frozen waits for the gateway
            if move.phase == pb.StateReply.PHASE_OFFERED:
                self._end(move, pb.StateReply.PHASE_NONE)

    async def _stages(self, move: Offered, sent: int) -> AsyncGenerator[pb.KvChunk, None]:
        """From token `sent` on."""
        block_tokens, stage = self._layout.block_tokens, 0
        while True:
            view = self._host.batch.view(move.sequence)
            refusal = self._unreadable(move, view)
            if view is None or refusal:
                yield pb.KvChunk(refusal=refusal)
                return
            last = move.phase == pb.StateReply.PHASE_FROZEN
            end = view.computed if last else view.computed - view.computed % block_tokens
            if stage and end <= sent and not last:
                await _event_or(move.changed, LOOK_EVERY_S)
                continue
            stage += 1
            for part in parts(self._layout, sent, end):
                if part.first_layer == 0:
                    await self._host.carry(part.tokens)
                began_s = self._clock.time()
                chunk = self._chunk(move, part)
                rest_s = REST * (self._clock.time() - began_s)
                yield chunk
                if chunk.refusal:
                    return
                if not last:
                    await _event_or(move.changed, rest_s)
            sent = max(sent, end)
            yield self._stage_end(move, stage, end if last else None)
            if last:
                return

    def _call_ended(self, call_id: str) -> None:
        """Also where its gateway has died: nobody will ask again."""
        move = self._moves.get(self._moving.get(call_id, ""))
        if move is not None and self._host.batch.view(move.sequence) is None:
            self._end(move, pb.StateReply.PHASE_NONE)

    def _chunk(self, move: Offered, part: Part) -> pb.KvChunk:
        view = self._host.batch.view(move.sequence)
        refusal = self._unreadable(move, view)
        if view is None or refusal:
            return pb.KvChunk(refusal=refusal)
        move.lease.renew()
        data = self._host.read_kv(view.block_table, view.token_ids, part)
        return pb.KvChunk(
            first_token=part.first_token,
            tokens=part.tokens,
            first_layer=part.first_layer,
            layers=part.layers,
            data=data,
            crc32=zlib.crc32(data),
        )

    def _stage_end(self, move: Offered, stage: int, last_at: int | None) -> pb.KvChunk:
        if last_at is not None:
            return pb.KvChunk(stage_end=pb.StageEnd(stage=stage, source_tokens=last_at, last=True))
        view = self._host.batch.view(move.sequence)
        computed = view.computed if view is not None else 0
        return pb.KvChunk(stage_end=pb.StageEnd(stage=stage, source_tokens=computed))

    def _unreadable(self, move: Offered, view: SequenceView | None) -> "pb.Refusal.ValueType":
        if view is None:
            return pb.REFUSAL_FINISHED
        if move.over:
            return pb.REFUSAL_UNKNOWN
        return pb.REFUSAL_NONE if view.decoding else pb.REFUSAL_NOT_DECODING

    def release(self, request: pb.ReleaseRequest) -> pb.ReleaseReply:
        """The new owner has it: the call ends here."""
        move = self._moves.get(request.move_id)
        refusal = self._stale(move, request.move_id, request.epoch)
        if refusal or move is None or (move.over and not move.released):
            return pb.ReleaseReply(refusal=refusal or pb.REFUSAL_UNKNOWN)
        if not move.released:
            move.released = True
            self._fences.raise_to(move.call_id, request.epoch)
            self._end(move, pb.StateReply.PHASE_NONE)
            self._calls.end_call(move.call_id)
        return pb.ReleaseReply()

    def abort(self, request: pb.AbortRequest) -> pb.AbortReply:
        """The call goes on here, under the epoch given; older ones are refused from now on."""
        move = self._moves.get(request.move_id)
        refusal = self._stale(move, request.move_id, request.epoch)
        if refusal:
            return pb.AbortReply(refusal=refusal)
        for name in {request.move_id, request.call_id, move.call_id if move else ""} - {""}:
            self._fences.raise_to(name, request.epoch)
        if move is None:
            return pb.AbortReply(refusal=pb.REFUSAL_UNKNOWN)
        if move.phase == pb.StateReply.PHASE_THAWED:
            return pb.AbortReply(thawed=True)
        if move.over:
            return pb.AbortReply(refusal=pb.REFUSAL_UNKNOWN)
        move.epoch = request.epoch
        thawed = self._host.batch.thaw(move.sequence)
        self._end(move, pb.StateReply.PHASE_THAWED if thawed else pb.StateReply.PHASE_NONE)
        return pb.AbortReply(thawed=thawed)

    def state(self, move_id: str) -> pb.StateReply | None:
        """None: never heard of, or forgotten."""
        move = self._moves.get(move_id)
        if move is None:
            return None
        phase = move.phase
        if phase != pb.StateReply.PHASE_NONE and self._host.batch.view(move.sequence) is None:
            phase = pb.StateReply.PHASE_NONE
        return pb.StateReply(phase=phase, epoch=max(move.epoch, self._fences.epoch(move.call_id)))

    def _stale(self, move: Offered | None, move_id: str, epoch: int) -> "pb.Refusal.ValueType":
        stale = self._fences.stale(move_id, epoch)
        if move is not None:
            stale = stale or epoch < move.epoch or self._fences.stale(move.call_id, epoch)
        return pb.REFUSAL_STALE_EPOCH if stale else pb.REFUSAL_NONE

    def _expire(self, move_id: str) -> None:
        """Nobody has asked for so long: an offer is forgotten; what is frozen has another owner
        or none, and never goes on by itself."""
        move = self._moves.get(move_id)
        if move is None or move.over:
            return
        frozen = move.phase == pb.StateReply.PHASE_FROZEN
        self._end(move, pb.StateReply.PHASE_NONE)
        if frozen:
            self._calls.break_call(move.call_id)

    def _end(self, move: Offered, phase: "pb.StateReply.Phase.ValueType") -> None:
        move.phase = phase
        move.lease.end()
        move.changed.set()
        self._slots.give_back(SIDE, move.move_id)
        self._moving.pop(move.call_id, None)
        self._host.wake()

    def close(self) -> None:
        for move in self._moves.values():
            move.lease.end()


async def _event_or(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
