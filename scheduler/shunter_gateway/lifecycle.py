"""One request from submission to its end: waiting -> assigned -> streaming -> done.

All calls are synchronous and come from the event loop: commands from the scheduler, chunks from the
engine that owns the request, cancel and pause from the client. Nothing here waits.
"""

from collections.abc import Callable
from typing import Literal

from shunter_gateway import lifecycle_events as events
from shunter_gateway.journal import Owner
from shunter_gateway.lifecycle_answer import Answer, Diverged
from shunter_gateway.lifecycle_binding import Binding
from shunter_gateway.lifecycle_ports import Services, Timer
from shunter_gateway.lifecycle_retry import (
    RetryCase,
    as_of_continuation,
    backoff_s,
    retry_refusal,
)
from shunter_gateway.lifecycle_spans import Stage
from shunter_gateway.moves.mover import Mover
from shunter_gateway.ports import (
    EngineCall,
    EngineFailure,
    EngineRequest,
    FinishReason,
    TokenChunk,
)
from shunter_gateway.request import ClientError, ClientSink, Delta, RequestSpec
from shunter_gateway.topology import Instance, Pool
from shunter_proto.v1 import scheduler_pb2 as pb

State = Literal["waiting", "assigned", "streaming", "done"]


class _CallSink:
    """The `TokenSink` of one epoch: what comes after another took over is dropped."""

    __slots__ = ("_epoch", "_life")

    def __init__(self, life: "RequestLifecycle", epoch: int) -> None:
        self._life = life
        self._epoch = epoch

    def on_chunk(self, chunk: TokenChunk) -> None:
        if self._life.answer.journal.owned_by(self._epoch):
            self._life.on_chunk(chunk)

    def on_end(self) -> None:
        if self._life.answer.journal.owned_by(self._epoch):
            self._life.on_engine_end()

    def on_failure(self, failure: EngineFailure) -> None:
        if self._life.answer.journal.owned_by(self._epoch):
            self._life.on_engine_failure(failure)


class RequestLifecycle:
    """`RequestHandle` for the client, target of the scheduler's commands, owner of one answer."""

    def __init__(
        self,
        services: Services,
        spec: RequestSpec,
        sink: ClientSink,
        on_end: Callable[["RequestLifecycle"], None],
    ) -> None:
        self._services = services
        self.spec = spec
        self._sink = sink
        self._on_end = on_end
        self.state: State = "waiting"
        self.answer = Answer(spec)
        self.binding: Binding | None = None
        self.instance = ""
        self.failed_instances: list[str] = []
        self.arrived_at = services.clock.time()
        self.submitted_at = self.arrived_at
        self.held = False  # the scheduler has seen it and lets it wait
        self.last_heard_at = 0.0
        self._call_started_at = 0.0
        self._mover = Mover(services, self)
        self._call: EngineCall | None = None
        self._stage = Stage(None)
        self._priority = 0
        self._finish_reason: FinishReason | None = None
        self._paused = False
        self._deadline: Timer | None = None
        self._backoff: Timer | None = None

    # ------------------------------------------------------------ waiting

    @property
    def epoch(self) -> int:
        return self.answer.journal.epoch

    @property
    def pinned_pool(self) -> str:
        """Once it has begun, the same model has to go on."""
        return self.binding.pool.name if self.binding is not None and self.answer.began else ""

    @property
    def backing_off(self) -> bool:
        return self._backoff is not None

    def start(self) -> None:
        """Submits the request."""
        if self.spec.deadline_s:
            self._deadline = self._services.clock.call_later(self.spec.deadline_s, self._expire)
        self.submit()

    def submit(self) -> None:
        self._backoff = None
        self.held = False
        self.submitted_at = self._services.clock.time()
        self._services.link.send(self.submitted_event())

    def submitted_event(self) -> pb.Submitted:
        now, topology = self._services.clock.time(), self._services.topology()
        message = events.submitted(self.spec, self.epoch, now, self.arrived_at, topology)
        message.output_tokens = len(self.answer.journal.generated)
        message.pool = self.pinned_pool
        if self.binding is not None:
            message.unmovable_reason = self.binding.unmovable_reason()
            pool = self.binding.pool.name
            excluded = events.excluded_instances(self.failed_instances, pool, topology)
            message.excluded_instances.extend(excluded)
        return message

    def running_event(self) -> pb.Running:
        return pb.Running(request=self.submitted_event(), instance=self.instance)

    # ------------------------------------------------------------ commands; stale ones are dropped

    def on_assign(self, command: pb.Assign) -> None:
        if self.state != "waiting" or command.epoch != self.epoch or self.backing_off:
            return
        topology = self._services.topology()
        pool = topology.pools.get(command.pool) if topology is not None else None
        if pool is None or pool.engine_type not in self._services.adapters:
            message = f"this gateway cannot serve pool {command.pool!r}"
            self.refuse(events.unavailable(message, "no_instance", 1.0))
            return
        self._priority = command.priority
        self.place(command.instance, command.address, pool)

    def place(self, instance: str, address: str, pool: Pool) -> None:
        """Takes the request to an instance, by the scheduler's word or without one."""
        journal = self.answer.journal
        if not journal.take(journal.epoch, Owner(instance, journal.epoch)):
            return
        if not self.answer.began:
            self._bind(pool)
        self.instance = instance
        self._sink.on_assigned(instance, pool.name)
        self._start_call(address)

    def _bind(self, pool: Pool) -> None:
        first = self.binding is None
        self.binding = Binding(self._services, self.spec, self.answer, pool)
        if first and (reason := self.binding.unmovable_reason()):
            self._services.observer.unmovable(reason)

    def place_alone(self, instance: Instance, pool: Pool) -> None:
        """Without a scheduler: under the next epoch, so that a late answer of it is stale."""
        self.answer.journal.vacate(self.epoch)
        self.place(instance.name, instance.address, pool)
        self._services.link.send(self.running_event())

    def on_hold(self, command: pb.Hold) -> None:
        self.held = self.held or command.epoch == self.epoch

    def on_reject(self, command: pb.Reject) -> None:
        if self.state == "waiting" and command.epoch == self.epoch:
            self._fail_client(events.rejection(command), None)

    def on_cancel(self, command: pb.Cancel) -> None:
        if command.epoch == self.epoch:
            self._fail_client(events.cancelled(command.reason), "cancelled")

    def on_move(self, command: pb.Move) -> None:
        if command.epoch == self.epoch and self.state in ("assigned", "streaming"):
            self._mover.start(command)

    def on_suspend(self, command: pb.Suspend) -> None:
        """Frees the engine's slot; the journal waits for another placement."""
        if command.epoch != self.epoch or self.state not in ("assigned", "streaming"):
            return
        if reason := self._mover.refusal(""):
            self._mover.report_refused(reason)
            return
        self._leave_engine("suspended")
        self.submit()

    # ------------------------------------------------------------ the engine call

    def engine_request(self, address: str, trace_parent: str) -> EngineRequest:
        assert self.binding is not None
        return self.binding.engine_request(address, self.epoch, self._priority, trace_parent)

    def _start_call(self, address: str) -> None:
        assert self.binding is not None
        self.state = "assigned"
        self.answer.begin_call()
        now = self._services.clock.time()
        self._call_started_at = self.last_heard_at = now
        self._stage = self._services.spans.begin(
            "engine.generate",
            self.spec.trace_parent,
            {"shunter.instance": self.instance, "shunter.epoch": self.epoch},
        )
        request = self.engine_request(address, self._stage.trace_parent(self.spec.trace_parent))
        self._call = self.binding.adapter.start(request, _CallSink(self, self.epoch))
        if self._paused:
            self._call.pause()

    def take_over(self, destination: Instance) -> bool:
        """The source is stopped first, so that only one engine ever owns the request."""
        journal = self.answer.journal
        if self._finish_reason is not None:
            return False
        if not journal.take(journal.epoch, Owner(destination.name, journal.epoch + 1)):
            return False
        self._abort_call()
        self.instance = destination.name
        self._sink.on_assigned(destination.name, destination.pool)
        self._start_call(destination.address)
        return True

    def on_chunk(self, chunk: TokenChunk) -> None:
        """From the present owner only."""
        answer = self.answer
        try:
            delta = answer.take(answer.journal.epoch, chunk)
        except Diverged:
            self._diverged()
            return
        if chunk.finish_reason is not None:
            self._finish_reason = chunk.finish_reason
        if delta is not None:
            self.last_heard_at = self._services.clock.time()
            if self.state == "assigned":
                self._first_token()
            self._sink.on_delta(delta)
        if answer.stopped is not None and self.state != "done":
            self._finish(answer.stopped)

    def _first_token(self) -> None:
        self.state = "streaming"
        if self._mover.on_token(self.last_heard_at):
            return  # a warmed prefix says nothing of the engine's speed
        ttft_s = self.last_heard_at - self._call_started_at
        self._services.link.send(
            events.first_token(self.spec.request_id, self.epoch, ttft_s, self.answer.cached_tokens)
        )

    def on_engine_end(self) -> None:
        self._finish(self._finish_reason or "stop")

    # ------------------------------------------------------------ failure

    def on_engine_failure(self, failure: EngineFailure) -> None:
        if self._finish_reason is not None:
            self._finish(self._finish_reason)
            return
        if self.answer.began and self.state == "assigned":
            failure = as_of_continuation(failure)
        self._mover.end("source_failed")
        self._end_stage(failure.reason)
        if not failure.retriable:
            self._fail_client(events.engine_client_error(failure), "error")
            return
        assert self.binding is not None
        self.failed_instances.append(self.instance)
        owner, tokens = Owner(self.instance, self.epoch), self.answer.output_tokens
        self._services.link.send(events.failed(owner, self.spec.request_id, failure.reason, tokens))
        if self.answer.exhausted:
            self._finish("length")
        elif why := self._no_retry(self.binding):
            self._fail_client(events.engine_error(failure, why), "error")
        else:
            self._retry(self.binding.pool, failure)

    def _no_retry(self, binding: Binding) -> str:
        failures, pool = len(self.failed_instances), binding.pool
        case = RetryCase(
            failures=failures,
            max_retries=pool.max_retries,
            began=self.answer.began,
            token_level=binding.token_level,
            unmovable_reason=self.spec.unmovable_reason,
        )
        if why := retry_refusal(case):
            return why
        allowed = self._services.allow_retry(pool.name, self.instance, failures)
        return "" if allowed else "too many retries in this pool"

    def _retry(self, pool: Pool, failure: EngineFailure) -> None:
        services, failed = self._services, self.failed_instances
        services.observer.retried(failure.reason)
        self._leave_engine("source_failed")
        if events.excluded_instances(failed, pool.name, services.topology()):
            self.submit()
            return
        # Nothing else is there: the same instance gets time to come back.
        delay_s = backoff_s(services.limits, len(failed), failure.retry_after_s)
        self._backoff = services.clock.call_later(delay_s, self.submit)

    def _diverged(self) -> None:
        message = "the answer was interrupted, and the engine that went on did not repeat it"
        error = ClientError(502, message, "server_error", "replay_mismatch")
        self._fail_client(error, "error")

    # ------------------------------------------------------------ the client (RequestHandle)

    def cancel(self) -> None:
        if self.state != "done":
            self._close("cancelled")

    def pause(self) -> None:
        self._paused = True
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        self._paused = False
        if self._call is not None:
            self._call.resume()

    # ------------------------------------------------------------ the end

    def refuse(self, error: ClientError) -> None:
        """Ended by the gateway itself."""
        self._fail_client(error, "error")

    def _expire(self) -> None:
        self._fail_client(events.deadline_error(self.spec.deadline_s), "expired")

    def _finish(self, reason: FinishReason) -> None:
        rest = self.answer.flush()
        if rest:
            self._sink.on_delta(Delta(rest))
        if self.state != "done":  # the client may leave on receiving it
            self._close(reason)
            self._sink.on_done(self.answer.outcome(reason))

    def _fail_client(self, error: ClientError, finish_reason: str | None) -> None:
        """`finish_reason` None: the scheduler itself ended the request."""
        if self.state != "done":
            self._close(finish_reason)
            self._sink.on_error(error)

    def _close(self, finish_reason: str | None) -> None:
        """Ends every call and timer and tells the scheduler."""
        self._mover.end("finished")
        self.state = "done"
        self._abort_call()
        for timer in (self._deadline, self._backoff):
            if timer is not None:
                timer.cancel()
        if finish_reason is not None:
            tokens = self.answer.output_tokens
            self._services.link.send(
                events.finished(self.spec.request_id, self.epoch, tokens, finish_reason)
            )
        self.answer.journal.vacate(self.epoch)  # whatever an engine still says is dropped
        self._on_end(self)

    def _leave_engine(self, reason: str) -> None:
        """Waits again, under the next epoch."""
        self._mover.end(reason)
        self._abort_call()
        self.answer.journal.vacate(self.epoch)
        self.state = "waiting"

    def _abort_call(self) -> None:
        self._end_stage()
        call, self._call = self._call, None
        if call is not None:
            call.abort()

    def _end_stage(self, error: str = "") -> None:
        self._stage.end({"shunter.output_tokens": self.answer.output_tokens}, error)
