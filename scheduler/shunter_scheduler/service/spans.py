"""`scheduler.dispatch` spans: from a request's submission to its placement."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opentelemetry.trace import Span, StatusCode, TracerProvider

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_runtime.tracing import is_recording, parent_context
from shunter_scheduler.domain.decisions import Assign, Cancel, Decision, Reject

MAX_OPEN = 65_536  # the oldest span is ended beyond it


@dataclass(frozen=True, slots=True)
class _Waiting:
    epoch: int
    span: Span


class DispatchSpans:
    """Children of the requests' traceparents. Without an exporter nothing is kept."""

    def __init__(
        self,
        provider: TracerProvider,
        policy_of: Callable[[str], str],
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`policy_of` names the policy that placed a request."""
        self.enabled = is_recording(provider)
        self._tracer = provider.get_tracer("shunter_scheduler")
        self._policy_of = policy_of
        self._wall_clock_ns = wall_clock_ns
        self._waiting: dict[str, _Waiting] = {}

    def arrived(self, batch: pb.GatewayEvents) -> None:
        for event in batch.events:
            if event.WhichOneof("event") == "submitted":
                self.submitted(event.submitted)

    def submitted(self, request: pb.Submitted) -> None:
        if not self.enabled or not request.trace_parent:
            return
        self._end(request.request_id, None)
        if len(self._waiting) >= MAX_OPEN:
            self._end(next(iter(self._waiting)), None)
        span = self._tracer.start_span(
            "scheduler.dispatch",
            context=parent_context(request.trace_parent),
            start_time=self._wall_clock_ns(),
            attributes={
                "shunter.request_id": request.request_id,
                "shunter.epoch": request.epoch,
                "shunter.model": request.model,
                "shunter.prompt_tokens": request.prompt_tokens,
            },
        )
        self._waiting[request.request_id] = _Waiting(request.epoch, span)

    def decided(self, decisions: Sequence[Decision]) -> None:
        if not self._waiting:
            return
        for decision in decisions:
            waiting = self._waiting.get(decision.request_id)
            if waiting is not None and waiting.epoch == decision.epoch:
                self._end(decision.request_id, decision)

    def close(self) -> None:
        for request_id in list(self._waiting):
            self._end(request_id, None)

    def _end(self, request_id: str, decision: Decision | None) -> None:
        if decision is not None and not isinstance(decision, Assign | Reject | Cancel):
            return
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return
        span = waiting.span
        if isinstance(decision, Assign):
            span.set_attribute("shunter.pool", decision.pool)
            span.set_attribute("shunter.instance", decision.instance)
            span.set_attribute("shunter.policy", self._policy_of(request_id))
            span.set_attribute("shunter.slo_class", decision.slo_class)
            span.set_attribute("shunter.predicted_ttft_s", decision.predicted_ttft_s)
        elif isinstance(decision, Reject):
            span.set_status(StatusCode.ERROR, decision.reason)
        elif decision is None:
            span.set_attribute("shunter.abandoned", True)
        span.end(self._wall_clock_ns())
