"""The rung `kv`: drives the machine of `protocol` over engines' `EngineMoves`.

KV blocks go from the source straight to the destination while the source goes on decoding; the
client sees a gap only from Freeze to the destination's first token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from shunter_gateway.lifecycle_ports import Clock, LifecycleLimits, Timer
from shunter_gateway.moves import values
from shunter_gateway.moves.asking import Asking
from shunter_gateway.moves.kv_ends import KvEnds, refusal_name, unheard
from shunter_gateway.moves.ports import EngineMoves, KvHost, MoveCall, MoveReply, Transfer
from shunter_gateway.moves.protocol import begin, step
from shunter_gateway.moves.values import Answered, Call, Effect, Event, KvMove, MoveRules, NoAnswer
from shunter_proto.v1 import moves_pb2 as pb

RULES = MoveRules()
TAIL_POLL_S = 0.001  # the stream's plain tokens tell nobody that they came
HURRIED: frozenset[Call] = frozenset({"freeze", "commit", "state", "thaw"})  # a client waits
_HELD: dict[int, values.Held] = {
    pb.StateReply.PHASE_RESERVED: "reserved",
    pb.StateReply.PHASE_COMMITTED: "committed",
    pb.StateReply.PHASE_ATTACHED: "attached",
}


@dataclass(frozen=True, slots=True)
class KvAround:
    engines: EngineMoves
    clock: Clock
    limits: LifecycleLimits
    connect: Callable[[str], None]  # has a connection ready for generate calls


class KvTransfer:
    """One move by rung `kv`, from the command to the switch or the source's going on."""

    def __init__(self, host: KvHost, ends: KvEnds, around: KvAround) -> None:
        self._host = host
        self._ends = ends
        self._around = around
        self._move = KvMove(ends.epoch)
        self._offer = pb.OfferReply()
        self._lease = ""
        self._frozen = pb.FreezeReply()
        self._pull: Transfer | None = None
        self.copied_bytes = 0
        self._asking: Asking | None = None
        self._complete = False
        self._timer: Timer | None = None
        self._tail_due = 0.0

    def start(self) -> None:
        self._move, effects = begin(self._ends.epoch, self._host.generated_tokens)
        self._obey(effects)

    def abort(self) -> None:
        """The request ends or loses its source; the host reports it. Idempotent."""
        self._feed(values.RequestEnded())

    def expire(self) -> None:
        """The copy took too long."""
        self._feed(values.Overdue())

    def leave(self) -> None:
        """After a switch: nobody is to take over any more, or somebody has. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._pull is not None:
            self._pull.cancel()

    # ------------------------------------------------------------ the machine

    def _feed(self, event: Event) -> None:
        if self._move.over:
            return
        self._move, effects = step(self._move, event, RULES)
        if self._move.over:
            self._stop()
        self._obey(effects)

    def _obey(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case values.Ask("pull"):
                    self._start_pull()
                case values.Ask(call, epoch):
                    self._ask(call, epoch)
                case values.Withdraw("source", epoch):
                    self._send(self._source, self._abort_source(epoch), unheard)
                case values.Withdraw("destination", epoch):
                    abort = pb.AbortRequest(move_id=self._ends.move_id, epoch=epoch)
                    self._send(self._destination, abort, unheard)
                case values.Switch(epoch):
                    self._switch(epoch)
                case values.Keep(epoch):
                    self._host.keep_source(epoch)
                case values.GiveUpSource(reason):
                    self._host.give_up_source(reason)
                case values.Failed(reason, replayable):
                    self._host.kv_failed(reason, replayable)

    def _stop(self) -> None:
        """After a switch the pull stays open: it tells the destination that its gateway is alive,
        and brings the generate call. The destination's lease lasts no longer."""
        if self._asking is not None:
            self._asking.stop()
        if self._move.phase != "switched":
            self.leave()
            return
        if self._timer is not None:
            self._timer.cancel()
        around = self._around
        self._timer = around.clock.call_later(around.limits.kv_lease_s, self.leave)

    def _switch(self, epoch: int) -> None:
        ends = self._ends
        if self._host.switch_kv(ends.destination, epoch, self._lease):
            self._release(epoch, RULES.max_tries)
        else:
            self.leave()
            abort = pb.AbortRequest(move_id=ends.move_id, epoch=epoch)
            self._send(self._destination, abort, unheard)

    def _release(self, epoch: int, tries: int) -> None:
        """Closing its call has freed the source's memory; this frees its place for moves."""

        def heard(reply: MoveReply | None) -> None:
            if reply is None and tries > 1:
                self._release(epoch, tries - 1)

        release = pb.ReleaseRequest(move_id=self._ends.move_id, epoch=epoch)
        self._send(self._source, release, heard)

    # ------------------------------------------------------------ calls

    @property
    def _source(self) -> str:
        return self._ends.source.moves_address

    @property
    def _destination(self) -> str:
        return self._ends.destination.moves_address

    def _ask(self, call: Call, epoch: int) -> None:
        if call == "freeze":  # the generate call comes next, and a client waits for it
            self._around.connect(self._ends.destination.address)
        address, request = self._request(call, epoch)
        on_reply = partial(self._on_reply, call)
        if call not in HURRIED:
            self._send(address, request, on_reply)
            return
        if self._asking is not None:
            self._asking.stop()  # a Freeze that is to be undone
        around = self._around
        spaced = call == "thaw"  # where its tries are used up the source is lost
        self._asking = Asking(around.engines, around.clock, around.limits, on_reply, spaced)
        self._asking.send(address, request)

    def _send(
        self, address: str, request: MoveCall, on_reply: Callable[[MoveReply | None], None]
    ) -> None:
        self._around.engines.call(address, request, self._around.limits.kv_call_s, on_reply)

    def _request(self, call: Call, epoch: int) -> tuple[str, MoveCall]:
        ends, limits = self._ends, self._around.limits
        match call:
            case "offer":
                return self._source, ends.offer(epoch, limits.kv_lease_s)
            case "prepare":
                known = self._host.token_ids()
                return self._destination, ends.prepare(epoch, limits.kv_lease_s, self._offer, known)
            case "freeze":
                return self._source, pb.FreezeRequest(
                    move_id=ends.move_id, epoch=epoch, lease_ms=int(limits.kv_frozen_s * 1000)
                )
            case "commit":
                return self._destination, self._commit(epoch)
            case "state":
                return self._destination, pb.StateRequest(move_id=ends.move_id)
        return self._source, self._abort_source(epoch)

    def _commit(self, epoch: int) -> pb.CommitRequest:
        frozen = self._frozen
        return pb.CommitRequest(
            move_id=self._ends.move_id,
            request_id=self._ends.request_id,
            epoch=epoch,
            kv_lease=self._lease,
            tokens=frozen.tokens,
            tokens_digest=frozen.tokens_digest,
            sampler_state=frozen.sampler_state,
            wait_ms=int(self._around.limits.kv_call_s * 500),  # the answer takes the rest
        )

    def _abort_source(self, epoch: int) -> pb.AbortRequest:
        ends = self._ends
        return pb.AbortRequest(move_id=ends.move_id, epoch=epoch, call_id=ends.call_id)

    def _on_reply(self, call: Call, reply: MoveReply | None) -> None:
        output_tokens = 0
        match reply:
            case None:
                self._feed(NoAnswer(call))
                return
            case pb.StateReply():
                self._feed(values.StateTold(self._held(reply)))
                return
            case pb.OfferReply():
                self._offer = reply
            case pb.PrepareReply():
                self._lease = reply.kv_lease
            case pb.FreezeReply():
                self._frozen, output_tokens = reply, reply.output_tokens
                self._feed(values.TokensCame(self._host.generated_tokens))
        self._feed(Answered(call, refusal_name(reply.refusal), output_tokens))
        if self._move.phase == "draining":
            self._tail_due = self._around.clock.time() + self._around.limits.kv_tail_s
            self._look_for_tail()

    def _held(self, reply: pb.StateReply) -> values.Held:
        held = _HELD.get(reply.phase, "none")
        old = held == "committed" and reply.epoch != self._ends.epoch + 1
        return "none" if old else held

    # ------------------------------------------------------------ the copy, and the stream's tail

    def _start_pull(self) -> None:
        clock, limits = self._around.clock, self._around.limits
        self._around.connect(self._ends.destination.address)
        self._timer = clock.call_later(limits.kv_copy_s, self.expire)
        request = self._ends.pull(self._lease, self._offer)
        self._pull = self._around.engines.pull(self._destination, request, self._on_report)

    def _on_report(self, report: pb.PullReport | None) -> None:
        if report is not None:
            self.copied_bytes = max(self.copied_bytes, report.bytes)
        if report is None:
            if not self._complete:
                self._feed(NoAnswer("pull"))
        elif report.refusal:
            self._feed(Answered("pull", refusal_name(report.refusal)))
        elif report.complete:
            self._complete = True
        else:
            behind = max(0, report.source_tokens - report.tokens)
            self._feed(values.StageCame(report.stage, behind))

    def _look_for_tail(self) -> None:
        """What the source generated before it froze is still on its way to the journal."""
        if self._timer is not None:
            self._timer.cancel()
        clock = self._around.clock
        self._feed(values.TokensCame(self._host.generated_tokens))
        if self._move.phase != "draining":
            return
        if clock.time() >= self._tail_due:
            self._feed(values.Overdue())
        else:
            self._timer = clock.call_later(TAIL_POLL_S, self._look_for_tail)
