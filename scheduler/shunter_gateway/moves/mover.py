"""Carries out Move commands for one request, and reports each exactly once."""

from shunter_gateway.lifecycle_ports import Services, Timer
from shunter_gateway.lifecycle_spans import Stage
from shunter_gateway.moves import rules
from shunter_gateway.moves.fetched import FetchedMove
from shunter_gateway.moves.kv import KvAround, KvTransfer
from shunter_gateway.moves.kv_ends import KvEnds
from shunter_gateway.moves.moving import MovingRequest
from shunter_gateway.moves.ports import EngineMoves, RunningCall, SlotServers
from shunter_gateway.moves.replay import ReplayMove
from shunter_gateway.moves.slot_host import SlotHostOf
from shunter_gateway.moves.slots import SlotEnds, SlotTransfer
from shunter_gateway.ports import EngineFailure, EngineRequest
from shunter_gateway.topology import Instance
from shunter_proto.v1 import scheduler_pb2 as pb


class Mover:
    __slots__ = (
        "_command",
        "_copied_bytes",
        "_copy",
        "_kv_refusal",
        "_life",
        "_move",
        "_resumes",
        "_rung",
        "_services",
        "_stage",
        "_stalled_since",
        "_timeout",
    )

    def __init__(self, services: Services, life: MovingRequest) -> None:
        self._services = services
        self._life = life
        self._command = pb.Move()
        self._copied_bytes = 0  # by the last move
        self._copy: KvTransfer | None = None  # until its destination's first token
        self._move: ReplayMove | KvTransfer | FetchedMove | SlotTransfer | None = None
        self._resumes = False  # the source was stopped and goes on
        self._rung = ""
        self._kv_refusal = ""  # why it goes by another rung
        self._stage = Stage(None)
        self._timeout: Timer | None = None
        self._stalled_since: float | None = None  # switched, and no token since

    def refusal(self, destination: str, bears_gap: bool = False) -> str:
        """Why the request may not leave its engine now; `destination` empty: for a suspension.
        `bears_gap`: the move may begin although some ids are not known."""
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
        return rules.move_refusal(
            rules.MoveRequest(
                source=life.instance,
                destination=destination,
                same_revision=life.binding.same_revision(target_pool),
                moving=self._move is not None or self._stalled_since is not None,
                began=life.answer.began,
                has_gap=life.answer.journal.has_gap and not bears_gap,
                unmovable_reason=life.binding.unmovable_reason(),
            )
        )

    def start(self, command: pb.Move) -> None:
        topology = self._services.topology()
        source = topology.instances.get(self._life.instance) if topology is not None else None
        target = topology.instances.get(command.destination) if topology is not None else None
        servers = rules.by_slots(self._services.slot_servers, command.rung, source, target)
        bears_gap = servers is not None and self._bears_gap(command)
        reason = self.refusal(command.destination, bears_gap)
        if reason or target is None:
            self.report_refused(reason)
            return
        self._command, self._kv_refusal = command, ""
        engines = self._services.engine_moves
        if not self._life.answer.began:
            self._begin_stage("restart")
            self.switch(target)
        elif command.rung != "kv" or source is None:
            self._replay(target)
        elif servers is not None:
            self._copy_slot(source, target, servers)
        elif refusal := rules.kv_refusal(source, target, self._life.call.paused):
            self._kv_refusal = refusal
            self._replay(target)
        elif engines is None:
            self._replay(target)
        else:
            self._copy_kv(source, target, engines)

    def _bears_gap(self, command: pb.Move) -> bool:
        """A saved slot tells ids that are not known. Where it fails its request goes on from before
        them, and only a greedy one is sure to repeat what its client has."""
        return command.reason == rules.DRAIN or self._life.spec.sampling.temperature == 0

    def _replay(self, target: Instance) -> None:
        self._begin_stage("replay")
        services = self._services
        adapter = services.adapters[target.engine_type]
        self._move = move = ReplayMove(self, adapter, target, services.limits)
        self._timeout = services.clock.call_later(services.limits.warm_timeout_s, move.expire)
        move.start()

    def _copy_kv(self, source: Instance, target: Instance, engines: EngineMoves) -> None:
        self._begin_stage("kv")
        services, life = self._services, self._life
        ends = KvEnds(
            source,
            target,
            move_id=self._new_id(),
            request_id=life.spec.request_id,
            call_id=life.call.call_id,
            epoch=life.epoch,
        )
        around = KvAround(engines, services.clock, services.limits, services.connect)
        adapter = services.adapters[target.engine_type]
        move: KvTransfer | FetchedMove
        if adapter.capabilities.freezes:
            move = self._copy = KvTransfer(self, ends, around)
        else:
            move = FetchedMove(self, adapter, ends, around)
        self._move = move
        move.start()

    def _copy_slot(self, source: Instance, target: Instance, servers: SlotServers) -> None:
        self._begin_stage("kv")
        life = self._life
        call = RunningCall(life.call.call_id, life.call.seed)
        ends = SlotEnds(source, target, self._new_id(), life.epoch, call)
        host = SlotHostOf(self, life, self._bears_gap(self._command))
        self._move = move = SlotTransfer(host, ends, servers)
        move.start()

    def _new_id(self) -> str:
        return f"{self._services.rng.getrandbits(128):032x}"

    def _begin_stage(self, rung: str) -> None:
        self._rung = rung
        self._stage = self._services.spans.begin(
            f"move.{rung}",
            self._life.spec.trace_parent,
            {
                "shunter.source": self._life.instance,
                "shunter.destination": self._command.destination,
                "shunter.reason": self._command.reason,
            },
        )

    def on_token(self, now: float) -> bool:
        """The destination's first token ends the move, if there is one. True where it says nothing
        of that engine's speed, because it had the prefix."""
        if self._stalled_since is None:
            resumes, self._resumes = self._resumes, False
            return resumes
        stall_s = now - self._stalled_since
        self._services.observer.moved(self._rung, stall_s)
        self._moved(int(stall_s * 1000))
        return self._rung != "restart"

    def _moved(self, stall_ms: int) -> None:
        """`stall_ms` 0: its end was not seen."""
        self._stalled_since = None
        self._leave_copy()
        copied_bytes = self._copied_bytes
        about = {"shunter.stall_ms": stall_ms, "shunter.copied_bytes": copied_bytes}
        self._stage.end({"shunter.moved": True, **about})
        self._report(self._rung, moved=True, reason=self._kv_refusal, stall_ms=stall_ms)

    def _leave_copy(self) -> None:
        if self._copy is not None:
            self._copy.leave()
            self._copy = None

    def end(self, reason: str) -> None:
        """The request leaves its engine for another reason. Reports what is not reported yet."""
        if self._stalled_since is not None and self._life.finishing:
            self.on_token(self._services.clock.time())  # the destination had nothing to add
        elif self._stalled_since is not None:
            self._services.observer.move_aborted(self._rung, reason)
            self._moved(0)
        if self._move is not None:
            self._move.abort()
            self.failed(reason)
        self._leave_copy()

    def report_refused(self, reason: str) -> None:
        """A command that is not carried out; a move under way is not touched."""
        self._refused("replay", reason)

    def _refused(self, rung: str, reason: str) -> None:
        self._services.observer.move_aborted(rung, reason)
        self._report(rung, moved=False, reason=reason)

    def _report(self, rung: str, moved: bool, reason: str, stall_ms: int = 0) -> None:
        life = self._life
        self._services.link.send(
            pb.MoveDone(
                request_id=life.spec.request_id,
                epoch=life.epoch,
                instance=life.instance,
                moved=moved,
                rung=rung,
                reason=reason,
                stall_ms=stall_ms,
                copied_bytes=self._copied_bytes if moved else 0,
            )
        )

    # ------------------------------------------------------------ for both kinds of move

    @property
    def generated_tokens(self) -> int:
        return self._life.answer.journal.output_tokens

    def warm_request(self, address: str) -> EngineRequest:
        trace_parent = self._stage.trace_parent(self._life.spec.trace_parent)
        return self._life.engine_request(address, trace_parent)

    def switch(self, destination: Instance) -> None:
        life = self._life
        stalled_since = life.last_heard_at
        if life.answer.journal.has_gap:
            self.failed(rules.UNKNOWN_IDS)
        elif life.answer.exhausted or not life.take_over(destination):
            self.failed("finished")
        else:
            self._forget_move()
            self._stalled_since = stalled_since

    def failed(self, reason: str) -> None:
        """Before the switch: the source goes on."""
        self._forget_move()
        self._stage.end({"shunter.moved": False}, reason)
        self._refused(self._rung, reason)

    # ------------------------------------------------------------ for KvTransfer and SlotTransfer

    def token_ids(self) -> tuple[int, ...]:
        return self._life.answer.journal.token_ids()

    def switch_kv(self, destination: Instance, epoch: int, kv_lease: str) -> bool:
        life = self._life
        stalled_since = life.last_heard_at
        if life.epoch != epoch - 1 or not life.take_over(destination, kv_lease):
            self.failed("finished")
            return False
        self._forget_move()
        self._stalled_since = stalled_since
        return True

    def keep_source(self, epoch: int) -> None:
        self._life.keep_owner(epoch)

    def give_up_source(self, reason: str) -> None:
        self.failed(reason)
        message = "the engine did not say whether it goes on after a failed move"
        self._life.on_engine_failure(EngineFailure("timeout", message, retriable=True))

    def go_on_by_replay(self, destination: Instance, reason: str) -> None:
        """The source was stopped, and the destination has no copy."""
        self._services.observer.move_aborted("kv", reason)
        self._rung, self._kv_refusal = "replay", reason
        self.switch_kv(destination, self._life.epoch + 1, "")

    def expect_resumption(self) -> None:
        self._resumes = True

    def kv_failed(self, reason: str, replayable: bool) -> None:
        if self._move is None:
            return  # the request ended as its source went on
        topology = self._services.topology()
        target = topology.instances.get(self._command.destination) if topology else None
        if not replayable or target is None:
            self.failed(reason)
            return
        self._forget_move()
        self._stage.end({"shunter.moved": False}, reason)
        self._services.observer.move_aborted("kv", reason)
        self._kv_refusal = reason
        self._replay(target)

    def _forget_move(self) -> None:
        move, self._move = self._move, None
        self._copied_bytes = move.copied_bytes if move is not None else 0
        if self._copied_bytes:
            self._services.observer.copied("kv", self._copied_bytes)
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
