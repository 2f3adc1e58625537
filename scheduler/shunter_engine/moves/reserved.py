"""A move to this engine, from Prepare to the call that takes it over."""

import asyncio
import hmac
from dataclasses import dataclass, field

from shunter_engine.moves.layout import Cursor
from shunter_engine.moves.leases import Lease
from shunter_proto.v1 import moves_pb2 as pb


@dataclass(slots=True)
class Reserved:
    move_id: str
    request_id: str
    epoch: int
    kv_lease: str
    token_ids: tuple[int, ...]  # as Prepare knew them; what was cached was found by them
    reply: pb.PrepareReply
    lease: Lease
    cursor: Cursor
    phase: "pb.StateReply.Phase.ValueType" = pb.StateReply.PHASE_RESERVED
    fetched_bytes: int = 0
    pulled: bool = False
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    tokens: int = 0  # of the commit, prompt and generated
    tokens_digest: bytes = b""
    commit_reply: pb.CommitReply | None = None

    @property
    def over(self) -> bool:
        return self.phase in (pb.StateReply.PHASE_NONE, pb.StateReply.PHASE_ATTACHED)

    def commit_refusal(self, request: pb.CommitRequest) -> "pb.Refusal.ValueType":
        if request.request_id != self.request_id:
            return pb.REFUSAL_UNKNOWN
        if not self.is_named_by(request.kv_lease):
            return pb.REFUSAL_TOKEN
        if self.commit_reply is not None and request.epoch == self.epoch:
            # Repeated, perhaps after the generate call came, or after the lease's end.
            over = self.phase == pb.StateReply.PHASE_NONE
            return pb.REFUSAL_UNKNOWN if over else pb.REFUSAL_NONE
        if request.epoch <= self.epoch:
            return pb.REFUSAL_STALE_EPOCH
        if self.phase != pb.StateReply.PHASE_RESERVED:
            return pb.REFUSAL_UNKNOWN
        # Draws are keyed by (seed, position): a state that we cannot set is one of another sampler.
        return pb.REFUSAL_LAYOUT if request.sampler_state else pb.REFUSAL_NONE

    def is_named_by(self, kv_lease: str) -> bool:
        """In a time that tells nothing of the right one."""
        return hmac.compare_digest(self.kv_lease.encode(), kv_lease.encode())
