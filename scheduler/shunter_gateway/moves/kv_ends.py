"""The two ends of a copy of KV, and what is asked of them in every kind of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from shunter_gateway.moves.ports import MoveReply
from shunter_gateway.topology import Instance
from shunter_proto.v1 import moves_pb2 as pb

HEADROOM_TOKENS = 256  # that may come while blocks are copied; the destination grows by itself


@dataclass(frozen=True, slots=True)
class KvEnds:
    """One move's names and places."""

    source: Instance
    destination: Instance
    move_id: str
    request_id: str
    call_id: str  # of the source's engine call
    epoch: int  # of the present owner

    def offer(self, epoch: int, lease_s: float) -> pb.OfferRequest:
        return pb.OfferRequest(
            move_id=self.move_id,
            call_id=self.call_id,
            request_id=self.request_id,
            epoch=epoch,
            lease_ms=int(lease_s * 1000),
        )

    def prepare(
        self, epoch: int, lease_s: float, offer: pb.OfferReply, token_ids: Sequence[int]
    ) -> pb.PrepareRequest:
        """`token_ids`: prompt and generated, as far as they are known."""
        return pb.PrepareRequest(
            move_id=self.move_id,
            request_id=self.request_id,
            epoch=epoch,
            manifest=offer.manifest,
            token_ids=token_ids,
            headroom_tokens=HEADROOM_TOKENS,
            lease_ms=int(lease_s * 1000),
        )

    def pull(self, kv_lease: str, offer: pb.OfferReply) -> pb.PullRequest:
        return pb.PullRequest(
            move_id=self.move_id,
            kv_lease=kv_lease,
            source_address=self.source.moves_address,
            transfer_token=offer.transfer_token,
        )


def refusal_name(refusal: "pb.Refusal.ValueType") -> str:
    """Empty: none."""
    if not refusal:
        return ""
    return pb.Refusal.Name(refusal).removeprefix("REFUSAL_").lower()


def unheard(_: MoveReply | None) -> None:
    """Sent once; a lease does the rest."""
