"""One request from submission to its end: waiting -> assigned -> streaming -> done.

All calls are synchronous and come from the event loop: commands from the scheduler, chunks from the
engine that owns the request, cancel and pause from the client. Nothing here waits.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from shunter_gateway import lifecycle_events as events
from shunter_gateway.journal import Owner
from shunter_gateway.lifecycle_answer import Answer, Diverged
from shunter_gateway.lifecycle_ports import Services, Timer
from shunter_gateway.moves.replay import ReplayMove
from shunter_gateway.moves.rules import MoveRequest, move_refusal
from shunter_gateway.ports import (
    EngineAdapter,
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
        self.arrived_at = services.clock.time()
        self.submitted_at = self.arrived_at
        self.held = False  # the scheduler has seen it and lets it wait
        self.pool: Pool | None = None
        self.instance = ""
        self.failures = 0
        self.failed_instances: list[str] = []
        self._call: EngineCall | None = None
        self._adapter: EngineAdapter | None = None
        self._token_level = spec.prompt_token_ids is not None
        self._priority = 0
        self._drawn_seed: int | None = None
        self._call_started_at = 0.0
        self.last_token_at = 0.0
        self._finish_reason: FinishReason | None = None
        self._paused = False
        self._move: ReplayMove | None = None
        self._stalled_since: float | None = None  # switched, and no token since
        self._move_rung = ""
        self._deadline: Timer | None = None
        self._backoff: Timer | None = None

    # ------------------------------------------------------------ towards the scheduler

    @property
    def epoch(self) -> int:
        return self.answer.journal.epoch

    @property
    def backing_off(self) -> bool:
        return self._backoff is not None

    def start(self) -> None:
        """Submits the request."""
        if self.spec.unmovable_reason:
            self._services.observer.unmovable(self.spec.unmovable_reason)
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
        if not message.unmovable_reason:
            message.unmovable_reason = self._unmovable_reason()
        if self.pool is not None:
            names = events.excluded_instances(self.failed_instances, self.pool.name, topology)
            message.excluded_instances.extend(names)
            if self.answer.began:
                message.pool = self.pool.name
        return message

    def running_event(self) -> pb.Running:
        return pb.Running(request=self.submitted_event(), instance=self.instance)

    # ------------------------------------------------------------ commands

    def on_assign(self, command: pb.Assign) -> None:
        topology = self._services.topology()
        pool = topology.pools.get(command.pool) if topology is not None else None
        if self.state != "waiting" or command.epoch != self.epoch or self.backing_off:
            return  # stale
        self._priority = command.priority
        if pool is None:
            self._fail_client(events.unavailable("no such pool", "no_instance", 1.0), "error")
            return
        self.place(command.instance, command.address, pool)

    def place(self, instance: str, address: str, pool: Pool) -> None:
        """Takes the request to an instance, by the scheduler's word or without one."""
        journal = self.answer.journal
        if not journal.take(journal.epoch, Owner(instance, journal.epoch)):
            return
        if not self.answer.began:
            self._prepare(pool)
        self.instance = instance
        self.state = "assigned"
        self._sink.on_assigned(instance, pool.name)
        self._start_call(address)

    def place_alone(self, instance: Instance, pool: Pool) -> None:
        """Without a scheduler: under the next epoch, so that a late answer of it is stale."""
        self.answer.journal.vacate(self.epoch)
        self.place(instance.name, instance.address, pool)
        if self.state != "done":
            self._services.link.send(self.running_event())

    def on_hold(self, command: pb.Hold) -> None:
        self.held = self.held or command.epoch == self.epoch

    def on_reject(self, command: pb.Reject) -> None:
        if self.state != "waiting" or command.epoch != self.epoch:
            return  # stale
        self._fail_client(events.rejection(command), None)

    def on_cancel(self, command: pb.Cancel) -> None:
        if command.epoch == self.epoch:
            self._fail_client(events.cancelled(command.reason), "cancelled")

    def on_suspend(self, command: pb.Suspend) -> None:
        """Frees the engine's slot; the journal waits for another placement."""
        if command.epoch != self.epoch or self.state not in ("assigned", "streaming"):
            return  # stale
        if self.answer.began and (reason := self._move_refusal("")):
            self._report_move(moved=False, rung="replay", reason=reason)
            return
        self._end_move("suspended")
        self._leave_engine()
        self.submit()

    def on_move(self, command: pb.Move) -> None:
        if command.epoch != self.epoch or self.state not in ("assigned", "streaming"):
            return  # stale
        topology = self._services.topology()
        target = topology.instances.get(command.destination) if topology is not None else None
        rung = "replay" if self.answer.began else "restart"
        reason = self._move_refusal(command.destination)
        if reason or target is None:
            self._report_move(moved=False, rung=rung, reason=reason or "unknown destination")
        elif not self.answer.began:
            self.switch(target)
        else:
            self._move = ReplayMove(self, target, self._services.limits)
            self._move.start()

    def _move_refusal(self, destination: str) -> str:
        topology = self._services.topology()
        target = topology.instances.get(destination) if topology is not None else None
        target_pool = topology.pools.get(target.pool) if topology and target else self.pool
        return move_refusal(
            MoveRequest(
                source=self.instance,
                destination=destination,
                same_revision=self._same_revision(target_pool),
                moving=self._move is not None or self._stalled_since is not None,
                began=self.answer.began,
                has_gap=self.answer.journal.has_gap,
                unmovable_reason=self._unmovable_reason(),
            )
        )

    def _same_revision(self, pool: Pool | None) -> bool:
        if pool is None or self.pool is None:
            return False
        return pool.name == self.pool.name or pool.revision == self.pool.revision != ""

    def _unmovable_reason(self) -> str:
        """Why this request cannot go on elsewhere once it has begun to answer; empty if it can."""
        if self.spec.unmovable_reason:
            return self.spec.unmovable_reason
        if not self._token_level:
            return "text_level"
        if self._adapter is not None and not self._adapter.capabilities.output_offset:
            return events.sampling_state(self.spec.sampling, self._drawn_seed)
        return ""

    # ------------------------------------------------------------ the engine call

    def _prepare(self, pool: Pool) -> None:
        """Settles how this pool's engines are spoken to; done again if a restart changes pools."""
        self.pool = pool
        decoders = self._services.decoders
        adapter = self._services.adapters[pool.engine_type]
        self._adapter = adapter
        ids = self.spec.prompt_token_ids
        self._token_level = (
            ids is not None
            and adapter.capabilities.token_ids
            and self._tokenizer_source() in ("", pool.model_source)
            and not decoders.mismatch(pool)
        )
        if not self._token_level or ids is None:
            return
        self.answer.prepare(
            decoders.decoder(pool, ids), decoders.eos_token_ids(pool), pool.context_length
        )
        sampling = self.spec.sampling
        if (
            adapter.capabilities.output_offset
            and sampling.seed is None
            and sampling.temperature != 0
        ):
            self._drawn_seed = self._services.rng.getrandbits(48)

    def _tokenizer_source(self) -> str:
        if self.spec.tokenizer_source:
            return self.spec.tokenizer_source
        topology = self._services.topology()
        pool = topology.pools_by_model.get(self.spec.model) if topology is not None else None
        return pool.model_source if pool is not None else ""

    def _start_call(self, address: str) -> None:
        assert self._adapter is not None
        self.answer.begin_call()
        self._call_started_at = self._services.clock.time()
        request = self.engine_request(address, self.epoch)
        self._call = self._adapter.start(request, _CallSink(self, self.epoch))
        if self._paused:
            self._call.pause()

    def engine_request(
        self, address: str, epoch: int, max_tokens: int | None = None
    ) -> EngineRequest:
        """A call that goes on from the journal; `max_tokens` 1 for a warm-up."""
        spec, answer, pool = self.spec, self.answer, self.pool
        assert pool is not None
        sampling = spec.sampling
        if self._drawn_seed is not None:
            sampling = replace(sampling, seed=self._drawn_seed)
        return EngineRequest(
            request_id=spec.request_id,
            epoch=epoch,
            address=address,
            model=pool.model_names[0],
            path=spec.path,
            token_ids=answer.journal.token_ids() if self._token_level else None,
            output_offset=len(answer.journal.generated),
            max_tokens=answer.remaining_tokens if max_tokens is None else max_tokens,
            min_tokens=answer.remaining_min_tokens if max_tokens is None else 0,
            sampling=sampling,
            priority=self._priority,
            body=spec.body,
            trace_parent=spec.trace_parent,
        )

    def on_chunk(self, chunk: TokenChunk) -> None:
        """From the present owner only."""
        if self.state == "done":
            return
        answer = self.answer
        try:
            delta = answer.take(answer.journal.epoch, chunk)
        except Diverged:
            self._diverged()
            return
        if chunk.finish_reason is not None:
            self._finish_reason = chunk.finish_reason
        if delta is not None:
            if self.state == "assigned":
                self._first_token()
            self.last_token_at = self._services.clock.time()
            self._sink.on_delta(delta)
        if answer.stopped is not None:
            self._finish(answer.stopped)

    def _first_token(self) -> None:
        self.state = "streaming"
        now = self._services.clock.time()
        if self._stalled_since is not None:
            self._report_switched(now)
            return
        self._services.link.send(
            pb.FirstToken(
                request_id=self.spec.request_id,
                epoch=self.epoch,
                ttft_ms=int((now - self._call_started_at) * 1000),
                cached_tokens=self.answer.cached_tokens,
            )
        )

    def on_engine_end(self) -> None:
        if self.state != "done":
            self._finish(self._finish_reason or "stop")

    # ------------------------------------------------------------ failure

    def on_engine_failure(self, failure: EngineFailure) -> None:
        if self.state == "done":
            return
        if self._finish_reason is not None:
            self._finish(self._finish_reason)
            return
        self._end_move("the source failed")
        if not failure.retriable:
            self._fail_client(events.engine_client_error(failure), "error")
            return
        pool = self.pool
        assert pool is not None
        self._report_failed(failure)
        self.failures += 1
        self.failed_instances.append(self.instance)
        if self.answer.exhausted:
            self._finish("length")
        elif why := self._no_retry(pool):
            self._fail_client(events.engine_error(failure, why), "error")
        else:
            self._retry(pool, failure)

    def _no_retry(self, pool: Pool) -> str:
        """Why the request ends here; empty if it may go on elsewhere."""
        if self.failures > pool.max_retries:
            return f"the engines failed {self.failures} times"
        if self.answer.began and not self._token_level:
            return "the engine failed in mid-answer, and its answer is not held as tokens"
        if self.answer.began and self.spec.unmovable_reason:
            return f"the engine failed in mid-answer ({self.spec.unmovable_reason})"
        if not self._services.allow_retry(pool.name, self.instance, self.failures):
            return "too many retries in this pool"
        return ""

    def _retry(self, pool: Pool, failure: EngineFailure) -> None:
        services = self._services
        services.observer.retried(failure.reason)
        self._leave_engine()
        topology = services.topology()
        alone = not events.excluded_instances(self.failed_instances, pool.name, topology)
        if alone:
            delay_s = services.limits.retry_backoff_s * 2 ** (self.failures - 1)
            self._backoff = services.clock.call_later(delay_s, self.submit)
        else:
            self.submit()

    def _report_failed(self, failure: EngineFailure) -> None:
        if self._stalled_since is not None:
            self._report_switched(self._services.clock.time())
        self._services.link.send(
            pb.Failed(
                request_id=self.spec.request_id,
                epoch=self.epoch,
                instance=self.instance,
                reason=failure.reason,
                output_tokens=self.answer.output_tokens,
            )
        )

    def _diverged(self) -> None:
        message = "the answer was interrupted, and the engine that went on did not repeat it"
        error = ClientError(502, message, "server_error", "replay_mismatch")
        self._fail_client(error, "error")

    # ------------------------------------------------------------ moves (MoveHost)

    def adapter_of(self, instance: Instance) -> EngineAdapter:
        return self._services.adapters[instance.engine_type]

    def now(self) -> float:
        return self._services.clock.time()

    def switch(self, destination: Instance) -> bool:
        """The destination takes over: the source is stopped first, so that one engine owns it."""
        journal = self.answer.journal
        self._move = None
        if self.answer.exhausted or self._finish_reason is not None:
            self._report_move(moved=False, rung="replay", reason="finished")
            return False
        if journal.has_gap:
            self._report_move(moved=False, rung="replay", reason="unknown_token_ids")
            return False
        if not journal.take(journal.epoch, Owner(destination.name, journal.epoch + 1)):
            return False
        self._abort_call()
        self._move_rung = "replay" if self.answer.began else "restart"
        self._stalled_since = self.last_token_at if self.answer.began else self._call_started_at
        self.instance = destination.name
        self.state = "assigned"
        self._sink.on_assigned(destination.name, destination.pool)
        self._start_call(destination.address)
        return True

    def move_failed(self, reason: str) -> None:
        """Before the switch: the source goes on."""
        self._move = None
        self._report_move(moved=False, rung="replay", reason=reason)

    def _end_move(self, reason: str) -> None:
        move, self._move = self._move, None
        if move is not None:
            move.abort()
            self._report_move(moved=False, rung="replay", reason=reason)

    def _report_switched(self, now: float) -> None:
        stall_s = 0.0 if self._stalled_since is None else now - self._stalled_since
        self._stalled_since = None
        self._report_move(moved=True, rung=self._move_rung, stall_s=stall_s)

    def _report_move(self, moved: bool, rung: str, reason: str = "", stall_s: float = 0.0) -> None:
        if moved:
            self._services.observer.moved(rung, stall_s)
        else:
            self._services.observer.move_aborted(rung, reason)
        self._services.link.send(
            pb.MoveDone(
                request_id=self.spec.request_id,
                epoch=self.epoch,
                instance=self.instance,
                moved=moved,
                rung=rung,
                reason=reason,
                stall_ms=int(stall_s * 1000),
            )
        )

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

    def _finish(self, reason: FinishReason) -> None:
        rest = self.answer.flush()
        if rest:
            self._sink.on_delta(Delta(rest))
        if self.state == "done":  # the client left on receiving it
            return
        self._close(reason)
        self._sink.on_done(self.answer.outcome(reason))

    def _fail_client(self, error: ClientError, finish_reason: str | None) -> None:
        """`finish_reason` None: the scheduler itself ended the request."""
        if self.state == "done":
            return
        self._close(finish_reason)
        self._sink.on_error(error)

    def _expire(self) -> None:
        self._fail_client(events.deadline_error(self.spec.deadline_s), "expired")

    def _close(self, finish_reason: str | None) -> None:
        """Ends every call and timer and tells the scheduler."""
        self._end_move("finished")
        if self._stalled_since is not None:
            self._report_switched(self._services.clock.time())
        self.state = "done"
        self._abort_call()
        for timer in (self._deadline, self._backoff):
            if timer is not None:
                timer.cancel()
        self._deadline = self._backoff = None
        if finish_reason is not None:
            self._services.link.send(
                pb.Finished(
                    request_id=self.spec.request_id,
                    epoch=self.epoch,
                    output_tokens=self.answer.output_tokens,
                    finish_reason=finish_reason,
                )
            )
        self._on_end(self)

    def _leave_engine(self) -> None:
        """Waits again, under the next epoch."""
        self._abort_call()
        self.answer.journal.vacate(self.epoch)
        self.state = "waiting"

    def _abort_call(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.abort()
