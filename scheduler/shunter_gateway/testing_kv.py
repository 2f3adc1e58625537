"""A fake of `EngineMoves` over scripted engines: it answers at once, or as a test tells it."""

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from shunter_gateway.lifecycle_ports import Clock
from shunter_gateway.moves.ports import MoveCall, MoveReply
from shunter_gateway.testing_engines import ScriptedCall, ScriptedEngine
from shunter_proto.v1 import moves_pb2 as pb

LEASE = "lease"


@dataclass(slots=True)
class FakePull:
    on_report: Callable[[pb.PullReport | None], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def report(self, report: pb.PullReport | None) -> None:
        if not self.cancelled:
            self.on_report(report)


@dataclass(slots=True)
class FakeEngineMoves:
    """`refusals` and `silent` by name of the call (`Offer`, `Commit`, ...): what is refused, and
    what is done but never answered; `lost`: what is neither, once; `down`: until when calls fail
    at once, as over a channel that backs off. Each name may also be in `before`: run when the call
    comes."""

    clock: Clock
    engine: ScriptedEngine
    refusals: "dict[str, pb.Refusal.ValueType]" = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    down: dict[str, float] = field(default_factory=dict)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    held: "pb.StateReply.Phase.ValueType" = pb.StateReply.PHASE_NONE
    manifest: pb.Manifest = field(default_factory=pb.Manifest)
    requests: list[MoveCall] = field(default_factory=list)
    pulls: list[FakePull] = field(default_factory=list)
    frozen: ScriptedCall | None = None
    committed: pb.CommitRequest | None = None

    def call(
        self,
        address: str,
        request: MoveCall,
        timeout_s: float,
        on_reply: Callable[[MoveReply | None], None],
    ) -> None:
        self.requests.append(request)
        name = type(request).__name__.removesuffix("Request")
        self.before.pop(name, lambda: None)()
        if name in self.lost:
            self.lost.discard(name)
            self.clock.call_later(timeout_s, lambda: on_reply(None))
            return
        if self.clock.time() < self.down.get(name, 0.0):
            self.clock.call_later(0, lambda: on_reply(None))
            return
        refusal = self.refusals.get(name, pb.REFUSAL_NONE)
        reply = self._reply(request, refusal)
        if name in self.silent:
            self.clock.call_later(timeout_s, lambda: on_reply(None))
        else:
            self.clock.call_later(0, lambda: on_reply(reply))

    def pull(
        self,
        address: str,
        request: pb.PullRequest,
        on_report: Callable[[pb.PullReport | None], None],
    ) -> FakePull:
        pull = FakePull(on_report)
        self.pulls.append(pull)
        return pull

    def asked(self, kind: type[MoveCall]) -> list[MoveCall]:
        return [request for request in self.requests if isinstance(request, kind)]

    # ------------------------------------------------------------ what engines do

    def _reply(self, request: MoveCall, refusal: "pb.Refusal.ValueType") -> MoveReply:
        match request:
            case pb.OfferRequest():
                return pb.OfferReply(
                    refusal=refusal, transfer_token=b"token", manifest=self.manifest
                )
            case pb.PrepareRequest():
                return pb.PrepareReply(refusal=refusal, kv_lease=LEASE)
            case pb.FreezeRequest():
                return pb.FreezeReply(refusal=refusal) if refusal else self._freeze()
            case pb.CommitRequest():
                if not refusal:
                    self.committed, self.held = request, pb.StateReply.PHASE_COMMITTED
                return pb.CommitReply(refusal=refusal)
            case pb.ReleaseRequest():
                return pb.ReleaseReply(refusal=refusal)
            case pb.AbortRequest():
                thawed, self.frozen = self.frozen is not None and bool(request.call_id), None
                return pb.AbortReply(refusal=refusal, thawed=thawed)
        held = self.held
        epoch = self.committed.epoch if self.committed is not None else 0
        return pb.StateReply(phase=held, epoch=epoch)

    def _freeze(self) -> pb.FreezeReply:
        """The engine's latest call stops here: tests step it no more until it thaws."""
        self.frozen = call = self.engine.live[-1]
        ids = call.token_ids
        return pb.FreezeReply(
            tokens=len(ids),
            output_tokens=call.request.output_offset + call.made,
            tokens_digest=hashlib.sha256(array("I", ids).tobytes()).digest(),
        )
