"""One request from submission to its end: waiting -> assigned -> streaming -> done.

All calls are synchronous and come from the event loop: commands from the scheduler, chunks from the
engine that owns the request, cancel and pause from the client. Nothing here waits.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from shunter_gateway import lifecycle_events as events
from shunter_gateway.ignored_fields import refusal
from shunter_gateway.journal import Owner
from shunter_gateway.lifecycle_answer import Answer, Diverged
from shunter_gateway.lifecycle_binding import Binding
from shunter_gateway.lifecycle_call import OwnerCall
from shunter_gateway.lifecycle_ports import Services, Timer
from shunter_gateway.lifecycle_recovery import Recovery
from shunter_gateway.lifecycle_retry import as_of_continuation, as_read
from shunter_gateway.lifecycle_waiting import Submission
from shunter_gateway.moves.mover import Mover
from shunter_gateway.ports import EngineFailure, EngineRequest, FinishReason, TokenChunk
from shunter_gateway.request import ClientError, ClientSink, Delta, RequestSpec, Waiting
from shunter_gateway.topology import Instance, Pool
from shunter_proto.v1 import scheduler_pb2 as pb

State = Literal["waiting", "assigned", "streaming", "done"]


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
        self.last_heard_at = 0.0
        self._call_started_at = 0.0
        self._mover = Mover(services, self)
        self.recovery = Recovery(services, self)
        self.submission = Submission(services, self)
        self.call = OwnerCall(self, sink, services.spans, services.clock.time)
        self._priority = 0
        self._finish_reason: FinishReason | None = None
        self._deadline: Timer | None = None

    # ------------------------------------------------------------ waiting

    @property
    def epoch(self) -> int:
        return self.answer.journal.epoch

    @property
    def pinned_pool(self) -> str:
        """Once it has begun, the same model has to go on."""
        return self.binding.pool.name if self.binding is not None and self.answer.began else ""

    @property
    def finishing(self) -> bool:
        return self._finish_reason is not None

    def start(self) -> None:
        """Submits the request."""
        if self.spec.deadline_s:
            self._deadline = self._services.clock.call_later(self.spec.deadline_s, self._expire)
        self.submit()

    def submit(self) -> None:
        self.submission.submit()

    def waiting(self) -> Waiting | None:
        return self.submission.waiting() if self.state == "waiting" else None

    def running_event(self) -> pb.Running:
        return pb.Running(request=self.submission.submitted_event(), instance=self.instance)

    # ------------------------------------------------------------ commands; stale ones are dropped

    def on_assign(self, command: pb.Assign) -> None:
        if self.state != "waiting" or command.epoch != self.epoch or self.recovery.backing_off:
            return
        topology = self._services.topology()
        pool = topology.pools.get(command.pool) if topology is not None else None
        if pool is None or pool.engine_type not in self._services.adapters:
            self.refuse(events.unknown_pool(command.pool))
            return
        self._priority = command.priority
        self.place(command.instance, command.address, pool)

    def place(self, instance: str, address: str, pool: Pool) -> None:
        """Takes the request to an instance, by the scheduler's word or without one."""
        journal = self.answer.journal
        ignored = self._services.adapters[pool.engine_type].capabilities.ignores
        if ignored and (error := refusal(self.spec, ignored, pool.engine_type)):
            self.refuse(error)
            return
        if not journal.take(journal.epoch, Owner(instance, journal.epoch)):
            return
        if not self.answer.began:
            first = self.binding is None
            self.binding = Binding(self._services, self.spec, self.answer, pool)
            if first and (reason := self.binding.unmovable_reason()):
                self._services.observer.unmovable(reason)
        self.instance = instance
        self._start_call(address, pool.name)

    def place_alone(self, instance: Instance, pool: Pool) -> None:
        """Without a scheduler: under the next epoch, so that a late answer of it is stale."""
        self.answer.journal.vacate(self.epoch)
        self.place(instance.name, instance.address, pool)
        self._services.link.send(self.running_event())

    def on_hold(self, command: pb.Hold) -> None:
        if self.state == "waiting" and command.epoch == self.epoch:
            self.submission.on_hold(command)

    def on_reject(self, command: pb.Reject) -> None:
        if self.state == "waiting" and command.epoch == self.epoch:
            self.fail_client(events.rejection(command), None)

    def on_cancel(self, command: pb.Cancel) -> None:
        if command.epoch == self.epoch and not self.recovery.on_cancel(command.reason):
            self.fail_client(events.cancelled(command.reason), "cancelled")

    def on_move(self, command: pb.Move) -> None:
        if command.epoch == self.epoch and self.state in ("assigned", "streaming"):
            self._mover.start(command)

    def on_suspend(self, command: pb.Suspend) -> None:
        """Frees the engine's slot; the journal waits for another placement."""
        if command.epoch != self.epoch or self.state not in ("assigned", "streaming"):
            return
        finished = self.answer.exhausted or self._finish_reason is not None
        if reason := "finished" if finished else self._mover.refusal(""):
            self._mover.report_refused(reason)
            return
        self.leave_engine("suspended", suspended=True)
        self.submit()

    # ------------------------------------------------------------ the engine call

    def engine_request(self, address: str, trace_parent: str, kv_lease: str = "") -> EngineRequest:
        assert self.binding is not None
        made = self.binding.engine_request(address, self.epoch, self._priority, trace_parent)
        return replace(made, kv_lease=kv_lease) if kv_lease else made

    def _start_call(self, address: str, pool: str, kv_lease: str = "") -> None:
        assert self.binding is not None
        self._sink.on_assigned(self.instance, pool)
        if self.state == "done":
            return  # the client left on hearing it
        self.state = "assigned"
        self._call_started_at = self.last_heard_at = self._services.clock.time()
        self.call.start(
            self.binding.adapter,
            self.instance,
            self.spec.trace_parent,
            partial(self.engine_request, address, kv_lease=kv_lease),
        )

    def take_over(self, destination: Instance, kv_lease: str = "") -> bool:
        """The source is stopped first, so that only one engine ever owns the request."""
        journal = self.answer.journal
        if self._finish_reason is not None:
            return False
        if not journal.take(journal.epoch, Owner(destination.name, journal.epoch + 1)):
            return False
        self.call.end()
        self.instance = destination.name
        self._start_call(destination.address, destination.pool, kv_lease)
        return True

    def keep_owner(self, epoch: int) -> None:
        """The owner stays, under a newer epoch: what older ones were promised is void."""
        journal = self.answer.journal
        if journal.take(journal.epoch, Owner(self.instance, epoch)):
            self.call.rename(epoch)

    def on_chunk(self, epoch: int, chunk: TokenChunk) -> None:
        """What is not the present owner's is dropped."""
        answer = self.answer
        if answer.journal.owned_epoch != epoch:
            return
        try:
            delta = answer.take(epoch, chunk)
        except Diverged:
            self.fail_client(events.diverged(), "error")
            return
        if chunk.finish_reason is not None:
            self._finish_reason = chunk.finish_reason
        if delta is not None:
            self.last_heard_at = self._services.clock.time()
            if self.state == "assigned":
                self._first_token()
            self._sink.on_delta(delta)
        if answer.stopped is not None and self.state != "done":
            self.finish(answer.stopped)

    def _first_token(self) -> None:
        self.state = "streaming"
        if self._mover.on_token(self.last_heard_at):
            return
        ttft_s = self.last_heard_at - self._call_started_at
        cached, binding = self.answer.call_cached_tokens, self.binding
        unordered = binding is not None and binding.out_of_order(self.instance)
        request_id, link = self.spec.request_id, self._services.link
        link.send(events.first_token(request_id, self.epoch, ttft_s, cached, unordered))

    def on_engine_end(self) -> None:
        self.finish(self._finish_reason or "stop")

    # ------------------------------------------------------------ failure

    def on_engine_failure(self, failure: EngineFailure) -> None:
        if self._finish_reason is not None:
            self.finish(self._finish_reason)
            return
        if self.answer.began and self.state == "assigned":
            failure = as_of_continuation(failure)
        brought_tokens = self.call.brought_tokens
        self._mover.end("source_failed")
        self.call.end(failure.reason)
        if not failure.retriable:
            self.fail_client(events.engine_client_error(failure), "error")
            return
        assert self.binding is not None
        self.recovery.on_failure(as_read(failure, brought_tokens), self.binding)

    # ------------------------------------------------------------ the client (RequestHandle)

    def cancel(self) -> None:
        if self.state != "done":
            self._close("cancelled")

    def pause(self) -> None:
        self.call.pause()

    def resume(self) -> None:
        self.call.resume()

    # ------------------------------------------------------------ the end

    def refuse(self, error: ClientError) -> None:
        """Ended by the gateway itself."""
        self.fail_client(error, "error")

    def _expire(self) -> None:
        self.fail_client(events.deadline_error(self.spec.deadline_s), "expired")

    def finish(self, reason: FinishReason) -> None:
        if rest := self.answer.flush():
            self._sink.on_delta(Delta(rest))
        if self.state != "done":  # the client may leave on receiving it
            outcome = self.answer.outcome(reason)
            if outcome.stop_reason is not None:  # the rest completed a stop string
                outcome = replace(outcome, finish_reason="stop")
            self._close(outcome.finish_reason)
            self._sink.on_done(outcome)

    def fail_client(self, error: ClientError, finish_reason: str | None) -> None:
        """`finish_reason` None: the scheduler itself ended the request."""
        if self.state != "done":
            self._close(finish_reason)
            self._sink.on_error(error)

    def _close(self, finish_reason: str | None) -> None:
        """Ends every call and timer and tells the scheduler."""
        self._mover.end("finished")
        self.state = "done"
        self.call.end()
        self.recovery.cancel()
        if self._deadline is not None:
            self._deadline.cancel()
        if finish_reason is not None:
            tokens = self.answer.output_tokens
            self._services.link.send(
                events.finished(self.spec.request_id, self.epoch, tokens, finish_reason)
            )
        self.answer.journal.vacate(self.epoch)  # whatever an engine still says is dropped
        self._on_end(self)

    def leave_engine(self, reason: str, suspended: bool = False) -> None:
        """Waits again, under the next epoch."""
        self._mover.end(reason)
        self.call.end()
        self.answer.journal.vacate(self.epoch)
        self.state = "waiting"
        self.submission.begin(suspended)
