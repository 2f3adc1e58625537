"""What the rung `kv` needs from outside: engines' `EngineMoves`, and the request that moves."""

from collections.abc import Callable
from typing import Protocol

from shunter_gateway.topology import Instance
from shunter_proto.v1 import moves_pb2 as pb

MoveCall = (
    pb.OfferRequest
    | pb.PrepareRequest
    | pb.FreezeRequest
    | pb.CommitRequest
    | pb.ReleaseRequest
    | pb.AbortRequest
    | pb.StateRequest
)
MoveReply = (
    pb.OfferReply
    | pb.PrepareReply
    | pb.FreezeReply
    | pb.CommitReply
    | pb.ReleaseReply
    | pb.AbortReply
    | pb.StateReply
)


class Transfer(Protocol):
    def cancel(self) -> None:
        """Nothing is heard afterwards. Idempotent."""


class EngineMoves(Protocol):
    """`EngineMoves` of any engine, by address. Callbacks come from the event loop."""

    def call(
        self,
        address: str,
        request: MoveCall,
        timeout_s: float,
        on_reply: Callable[[MoveReply | None], None],
    ) -> None:
        """`on_reply` is called once; None: no answer, and nothing is known of what was done."""

    def pull(
        self,
        address: str,
        request: pb.PullRequest,
        on_report: Callable[[pb.PullReport | None], None],
    ) -> Transfer:
        """None comes last, where the stream ends, for whatever reason."""


class KvHost(Protocol):
    """The request that moves."""

    @property
    def generated_tokens(self) -> int: ...
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and generated, as far as they have come."""

    def switch_kv(self, destination: Instance, epoch: int, kv_lease: str) -> bool:
        """The owner becomes the destination, under `epoch`. False: the request has ended."""

    def keep_source(self, epoch: int) -> None:
        """The owner stays, under `epoch`."""

    def give_up_source(self, reason: str) -> None:
        """Its call counts as failed."""

    def kv_failed(self, reason: str, replayable: bool) -> None:
        """The source goes on, and may be replayed at the same destination."""
