"""What the rung `kv` needs from outside: engines' `EngineMoves`, and the request that moves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

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


Bar = Literal["", "briefly", "long"]  # for how long the same two servers are not tried again


@dataclass(frozen=True, slots=True)
class SlotReply:
    """`refusal` empty: done. `slot`: of find and choose; `token_ids` and `bytes`: of save."""

    slot: int = -1
    refusal: str = ""
    bars: Bar = ""  # what was refused would be again
    token_ids: Sequence[int] = ()
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class RunningCall:
    """By what an engine's slots tell one call from another."""

    call_id: str
    seed: int | None  # None: the request gave none


@dataclass(frozen=True, slots=True)
class StoppedSlot:
    """Whose stream is closed."""

    address: str
    slot: int
    call: RunningCall


OnSlotReply = Callable[[SlotReply | None], None]


class SlotServers(Protocol):
    """Engines that save and restore idle slots, and the folder that they share with the gateway.

    `on_reply` is called once, from the event loop; None: no answer within the call's limit.
    """

    def barred(self, source: str, destination: str) -> bool:
        """A copy between them was refused lately, and would be again."""

    def bar(self, source: str, destination: str, how: Bar) -> None: ...

    def find(self, address: str, call: RunningCall, on_reply: OnSlotReply) -> None:
        """The slot in which it runs."""

    def choose(self, address: str, tokens: int, on_reply: OnSlotReply) -> None:
        """An idle slot with room, which no other move here is given before it is `let_go`."""

    def let_go(self, address: str, slot: int) -> None: ...

    def save(self, stopped: StoppedSlot, name: str, on_reply: OnSlotReply) -> None:
        """Once the slot is idle. With the ids that the file says it holds."""

    def restore(self, address: str, slot: int, name: str, on_reply: OnSlotReply) -> None: ...

    def remove(self, name: str) -> None:
        """Nothing where there is no such file."""


class SlotHost(Protocol):
    """The request that moves."""

    @property
    def final_tokens(self) -> int:
        """Prompt, answer so far, and what may still come; at least the first two."""

    @property
    def stop_refusal(self) -> str:
        """Why the source may not be stopped now, as where the answer has come to its end."""

    def stop_source(self) -> None:
        """Closes its stream; the owner stays."""

    def adopt(self, token_ids: Sequence[int]) -> str:
        """What the saved slot holds. Why the request cannot go on from it; empty: it can."""

    def switch_kv(self, destination: Instance, epoch: int, kv_lease: str) -> bool:
        """The owner becomes the destination, under `epoch`. False: the request has ended."""

    def go_on_by_replay(self, destination: Instance, reason: str) -> None:
        """The same without a copy."""

    def go_on_here(self, source: Instance) -> None:
        """The owner stays, under the next epoch, and is called again."""

    def kv_failed(self, reason: str, replayable: bool) -> None: ...
