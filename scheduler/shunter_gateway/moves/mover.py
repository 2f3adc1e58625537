"""Carries out Move commands for one request, and reports each exactly once."""

from typing import Protocol

from shunter_gateway.lifecycle_answer import Answer
from shunter_gateway.lifecycle_binding import Binding
from shunter_gateway.lifecycle_ports import Services
from shunter_gateway.moves.replay import ReplayMove
from shunter_gateway.moves.rules import MoveRequest, move_refusal
from shunter_gateway.ports import EngineRequest
from shunter_gateway.request import RequestSpec
from shunter_gateway.topology import Instance
from shunter_proto.v1 import scheduler_pb2 as pb


class MovingRequest(Protocol):
    """The request, as its mover sees it."""

    spec: RequestSpec
    answer: Answer
    binding: Binding | None
    instance: str
    last_heard_at: float  # last token of the engine, or when it was called

    @property
    def epoch(self) -> int: ...
    def engine_request(self, address: str) -> EngineRequest: ...
    def take_over(self, destination: Instance) -> bool:
        """Stops the source, then starts the destination from the journal under the next epoch."""


class Mover:
    __slots__ = ("_life", "_move", "_rung", "_services", "_stalled_since")

    def __init__(self, services: Services, life: MovingRequest) -> None:
        self._services = services
        self._life = life
        self._move: ReplayMove | None = None
        self._rung = ""
        self._stalled_since: float | None = None  # switched, and no token since

    def refusal(self, destination: str) -> str:
        """Why the request may not leave its engine now; `destination` empty: for a suspension."""
        life, topology = self._life, self._services.topology()
        target = topology.instances.get(destination) if topology is not None else None
        if life.binding is None or (destination and target is None):
            return "unknown_destination"
        target_pool = life.binding.pool
        if topology is not None and target is not None:
            found = topology.pools.get(target.pool)
            if found is None:
                return "unknown_destination"
            target_pool = found
        return move_refusal(
            MoveRequest(
                source=life.instance,
                destination=destination,
                same_revision=life.binding.same_revision(target_pool),
                moving=self._move is not None or self._stalled_since is not None,
                began=life.answer.began,
                has_gap=life.answer.journal.has_gap,
                unmovable_reason=life.binding.unmovable_reason(),
            )
        )

    def start(self, command: pb.Move) -> None:
        topology = self._services.topology()
        self._rung = "replay" if self._life.answer.began else "restart"
        reason = self.refusal(command.destination)
        if reason or topology is None:
            self.report_refused(reason)
            return
        target = topology.instances[command.destination]
        if self._rung == "restart":
            self.switch(target)
            return
        adapter = self._services.adapters[target.engine_type]
        self._move = ReplayMove(self, adapter, target, self._services.limits)
        self._move.start()

    def on_token(self, now: float) -> bool:
        """The destination's first token ends the move; True if there was one to end."""
        if self._stalled_since is None:
            return False
        stall_s, self._stalled_since = now - self._stalled_since, None
        self._services.observer.moved(self._rung, stall_s)
        self._report(moved=True, stall_ms=int(stall_s * 1000))
        return True

    def end(self, reason: str) -> None:
        """The request leaves its engine for another reason. Reports what is not reported yet."""
        self.on_token(self._services.clock.time())
        if self._move is not None:
            self._move.abort()
            self.failed(reason)

    def report_refused(self, reason: str) -> None:
        self._services.observer.move_aborted(self._rung or "replay", reason)
        self._report(moved=False, reason=reason)

    def _report(self, moved: bool, reason: str = "", stall_ms: int = 0) -> None:
        life = self._life
        self._services.link.send(
            pb.MoveDone(
                request_id=life.spec.request_id,
                epoch=life.epoch,
                instance=life.instance,
                moved=moved,
                rung=self._rung or "replay",
                reason=reason,
                stall_ms=stall_ms,
            )
        )

    # ------------------------------------------------------------ for ReplayMove

    @property
    def generated_tokens(self) -> int:
        return self._life.answer.journal.output_tokens

    def warm_request(self, address: str) -> EngineRequest:
        return self._life.engine_request(address)

    def switch(self, destination: Instance) -> None:
        self._move = None
        journal, stalled_since = self._life.answer.journal, self._life.last_heard_at
        if journal.has_gap:
            self.report_refused("unknown_token_ids")
        elif self._life.answer.exhausted or not self._life.take_over(destination):
            self.report_refused("finished")
        else:
            self._stalled_since = stalled_since

    def failed(self, reason: str) -> None:
        """Before the switch: the source goes on."""
        self._move = None
        self.report_refused(reason)
