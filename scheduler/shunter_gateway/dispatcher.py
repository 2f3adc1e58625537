"""All requests of one gateway: takes them in, carries the scheduler's commands to them, reports
progress, and places those that wait while there is no scheduler."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog
from opentelemetry.trace import Tracer

from shunter_gateway import lifecycle_events as events
from shunter_gateway.dispatcher_retries import RetryBudget
from shunter_gateway.lifecycle import RequestLifecycle
from shunter_gateway.lifecycle_ports import (
    Clock,
    Decoders,
    LifecycleLimits,
    Observer,
    SchedulerLink,
    Services,
)
from shunter_gateway.lifecycle_spans import Spans
from shunter_gateway.local_placement import LocalPlacement
from shunter_gateway.moves.ports import EngineMoves, SlotServers
from shunter_gateway.ports import EngineAdapter
from shunter_gateway.request import ClientError, ClientSink, RequestHandle, RequestSpec
from shunter_gateway.topology import Topology, topology_from_proto
from shunter_proto.v1 import scheduler_pb2 as pb

_log = structlog.get_logger(__name__)
TICK_S = 0.1
PHASES = ("queued", "scaling-up", "starting", "loading-weights", "unschedulable")
OTHER_PHASE = "other"


@dataclass(slots=True)
class _State:
    topology: Topology | None = None
    requests: dict[str, RequestLifecycle] = field(default_factory=dict)
    progressed: dict[str, int] = field(default_factory=dict)  # output tokens last reported


class Dispatcher:
    """`RequestRunner` for the edge and `SessionListener` for the scheduler's session.

    Bind it to its link, run `run()` as a task, end it with `close()`.
    """

    def __init__(
        self,
        clock: Clock,
        link: SchedulerLink,
        adapters: Mapping[str, EngineAdapter],
        decoders: Decoders,
        observer: Observer,
        rng: random.Random | None = None,
        limits: LifecycleLimits | None = None,
        tracer: Tracer | None = None,
        engine_moves: EngineMoves | None = None,
        slot_servers: SlotServers | None = None,
        connect: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`tracer` None where nothing records spans; `engine_moves` and `slot_servers` None: no
        rung `kv`. `connect` has a connection ready to an engine that will be called soon."""
        self._clock = clock
        self._link = link
        self._limits = limits or LifecycleLimits()
        self._state = _State()
        self._budget = RetryBudget()
        self._progress_at = clock.time()
        self._closed = False
        self._services = Services(
            clock=clock,
            link=link,
            adapters=adapters,
            decoders=decoders,
            observer=observer,
            spans=Spans(tracer),
            rng=rng or random.SystemRandom(),
            limits=self._limits,
            topology=lambda: self._state.topology,
            allow_retry=self._allow_retry,
            connect=connect,
            engine_moves=engine_moves,
            slot_servers=slot_servers,
        )
        self._alone = LocalPlacement(self._services, self._state.requests)

    # ------------------------------------------------------------ the edge

    @property
    def topology(self) -> Topology | None:
        """The last one that a scheduler sent; it outlives the session."""
        return self._state.topology

    @property
    def in_flight(self) -> int:
        return len(self._state.requests)

    def waiting_in(self, phase: str) -> int:
        """Requests that wait for a placement in that phase; `other`: in one not known here."""
        waiting = [life for life in self._state.requests.values() if life.state == "waiting"]
        known = set(PHASES) if phase == OTHER_PHASE else {phase}
        inside = sum(life.submission.phase in known for life in waiting)
        return len(waiting) - inside if phase == OTHER_PHASE else inside

    def submit(self, spec: RequestSpec, sink: ClientSink) -> RequestHandle:
        """Runs one request. The sink hears nothing before this has returned, except that a request
        placed without a scheduler is assigned at once."""
        life = RequestLifecycle(self._services, spec, sink, self._ended)
        refusal = self._refusal(spec)
        if refusal is not None:
            error = refusal
            self._clock.call_later(0, lambda: life.refuse(error))
            return life
        self._state.requests[spec.request_id] = life
        life.start()
        topology = self._state.topology
        if topology is not None and self._scheduler_lost(life):
            self._alone.place([life], topology)
        return life

    def _refusal(self, spec: RequestSpec) -> ClientError | None:
        topology, wait_s = self._state.topology, self._limits.retry_after_s
        if topology is None:
            message = "no scheduler has said yet what there is to serve"
            return events.unavailable(message, "no_topology", wait_s)
        if self._closed:
            return events.unavailable("the gateway is shutting down", "shutting_down", wait_s)
        if len(self._state.requests) >= self._limits.max_requests:
            return ClientError(
                429,
                f"{self._limits.max_requests} requests are in flight in this gateway",
                "rate_limit_error",
                "overloaded",
                retry_after_s=wait_s,
            )
        if spec.request_id in self._state.requests:
            return ClientError(
                409, "a request with this id is in flight", "invalid_request_error", "duplicate_id"
            )
        return None

    def _ended(self, life: RequestLifecycle) -> None:
        if self._state.requests.get(life.spec.request_id) is life:
            del self._state.requests[life.spec.request_id]
        self._state.progressed.pop(life.spec.request_id, None)
        self._alone.forget(life.spec.request_id)

    # ------------------------------------------------------------ the scheduler

    def on_commands(self, commands: pb.SchedulerCommands) -> None:
        for command in commands.commands:
            self._on_command(command)

    def _on_command(self, command: pb.SchedulerCommand) -> None:
        match command.WhichOneof("command"):
            case "topology":
                self._on_topology(command.topology)
            case "assign":
                if (life := self._find(command.assign.request_id)) is not None:
                    if life.binding is None:
                        self._budget.count_request(command.assign.pool, self._clock.time())
                    life.on_assign(command.assign)
            case "hold":
                if (life := self._find(command.hold.request_id)) is not None:
                    life.on_hold(command.hold)
            case "reject":
                if (life := self._find(command.reject.request_id)) is not None:
                    life.on_reject(command.reject)
            case "move":
                if (life := self._find(command.move.request_id)) is not None:
                    life.on_move(command.move)
            case "suspend":
                if (life := self._find(command.suspend.request_id)) is not None:
                    life.on_suspend(command.suspend)
            case "cancel":
                if (life := self._find(command.cancel.request_id)) is not None:
                    life.on_cancel(command.cancel)
            case None:
                pass

    def _find(self, request_id: str) -> RequestLifecycle | None:
        """The request that the scheduler speaks of: so it is not held by the gateway alone."""
        life = self._state.requests.get(request_id)
        if life is not None and life.submission.held_alone:
            self._alone.forget(request_id)
        return life

    def _on_topology(self, message: pb.Topology) -> None:
        topology = topology_from_proto(message)
        self._state.topology = topology
        unknown = {p.engine_type for p in topology.pools.values()} - set(self._services.adapters)
        if unknown:
            _log.warning("pools_with_unknown_engine_type", engine_types=sorted(unknown))

    def on_session(self) -> None:
        """A scheduler that may know nothing is told of everything in flight."""
        self._state.progressed.clear()
        for life in list(self._state.requests.values()):
            if life.state in ("assigned", "streaming"):
                self._link.send(life.running_event())
            elif life.state == "waiting" and not life.recovery.backing_off:
                self._alone.forget(life.spec.request_id)
                life.submit()

    # ------------------------------------------------------------ time

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.tick()
            except Exception:  # the outermost loop: running streams must not end for it
                _log.exception("dispatcher_tick_failed")

    def tick(self) -> None:
        """Reports progress, and places what waits for a scheduler that is not there."""
        now = self._clock.time()
        if now - self._progress_at >= self._limits.progress_interval_s:
            self._progress_at = now
            self._report_progress()
        waiting = [life for life in self._state.requests.values() if life.state == "waiting"]
        lost = [life for life in waiting if self._scheduler_lost(life)]
        topology = self._state.topology
        if lost and topology is not None:
            self._alone.place(lost, topology)
        for life in waiting:
            if life.state == "waiting" and not self._scheduler_lost(life):
                self._ask_again(life, now)

    def _ask_again(self, life: RequestLifecycle, now: float) -> None:
        submission = life.submission
        if submission.held_alone:  # the scheduler speaks again
            self._alone.forget(life.spec.request_id)
            submission.submit()
        elif submission.unanswered and now - submission.submitted_at >= self._limits.answer_s:
            submission.ask_again(now)

    def _report_progress(self) -> None:
        progressed, items = self._state.progressed, []
        for request_id, life in self._state.requests.items():
            tokens = life.answer.output_tokens
            if life.state == "streaming" and progressed.get(request_id) != tokens:
                progressed[request_id] = tokens
                items.append(
                    pb.Progress.Item(request_id=request_id, epoch=life.epoch, output_tokens=tokens)
                )
        if items:
            self._link.send(pb.Progress(items=items))

    def _scheduler_lost(self, life: RequestLifecycle) -> bool:
        """No session for a while, or one that has been silent since this request was submitted."""
        if life.recovery.backing_off:
            return False
        now, grace_s = self._clock.time(), self._limits.scheduler_grace_s
        if (lost_since := self._link.lost_since) is not None:
            return now - lost_since >= grace_s
        submission = life.submission
        silent = self._link.heard_at < submission.submitted_at
        return silent and not submission.held and now - submission.submitted_at >= grace_s

    def _allow_retry(self, pool: str, instance: str, failures: int) -> bool:
        now = self._clock.time()
        self._alone.note_failure(instance, now)
        return self._budget.allow(pool, failures, now)

    def close(self) -> None:
        """Ends every request that is still in flight; new ones are refused."""
        self._closed = True
        error = events.unavailable("the gateway is shutting down", "shutting_down", 1.0)
        for life in list(self._state.requests.values()):
            life.refuse(error)
