"""A move from this engine, from Offer to Release or the thaw."""

import asyncio
from dataclasses import dataclass, field

from shunter_engine.moves.leases import Lease
from shunter_proto.v1 import moves_pb2 as pb


@dataclass(slots=True)
class Offered:
    move_id: str
    call_id: str
    sequence: str
    epoch: int
    reply: pb.OfferReply
    lease: Lease
    phase: "pb.StateReply.Phase.ValueType" = pb.StateReply.PHASE_OFFERED
    freeze_reply: pb.FreezeReply | None = None
    exported: bool = False
    released: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # frozen, or over

    @property
    def over(self) -> bool:
        return self.phase not in (pb.StateReply.PHASE_OFFERED, pb.StateReply.PHASE_FROZEN)
