"""What is measured of one client request: its clock, its span, where it was placed."""

import asyncio
from collections.abc import Sequence

from opentelemetry.trace import Span, StatusCode

from shunter_gateway.request import Outcome
from shunter_gateway.telemetry import GatewayMetrics

CLIENT_CLOSED = 499  # nginx's status for a client that left
UNKNOWN_MODEL = "unknown"  # the label for names that the catalogue does not have


class Watch:
    """Lives from the request's arrival to the end of its answer; `close` once, at the end."""

    __slots__ = (
        "_first_delta_at",
        "_loop",
        "_metrics",
        "_span",
        "body_bytes",
        "client_id",
        "code",
        "decision",
        "model",
        "outcomes",
        "request_id",
        "started_at",
        "trace_parent",
    )

    def __init__(
        self, metrics: GatewayMetrics, loop: asyncio.AbstractEventLoop, span: Span, request_id: str
    ) -> None:
        self.request_id = request_id
        self.client_id = ""  # the client's own x-request-id
        self.trace_parent = ""
        self.model = UNKNOWN_MODEL
        self.code = CLIENT_CLOSED  # until the answer is complete
        self.decision = ""
        self.body_bytes = 0  # counted at the front
        self.outcomes: Sequence[Outcome] = ()
        self._metrics = metrics
        self._loop = loop
        self._span = span
        self.started_at = loop.time()
        self._first_delta_at: float | None = None
        metrics.inflight.inc()

    def on_assigned(self, instance: str, pool: str) -> None:
        self.decision = f"{pool}/{instance}"

    def on_first_delta(self) -> None:
        """Counts once: the first choice's first delta."""
        if self._first_delta_at is None:
            self._first_delta_at = self._loop.time()

    def on_pause(self) -> None:
        self._metrics.client_pauses.inc()

    def close(self) -> None:
        ended_at = self._loop.time()
        metrics = self._metrics
        metrics.inflight.dec()
        metrics.requests.labels(self.model, str(self.code)).inc()
        if self._first_delta_at is not None:
            if self.code == 200:
                metrics.e2e.labels(self.model).observe(ended_at - self.started_at)
            metrics.ttft.labels(self.model).observe(self._first_delta_at - self.started_at)
            self._count(ended_at - self._first_delta_at)
        if self._span.is_recording():
            self._describe(self._span)
        self._span.end()

    def _count(self, generating_s: float) -> None:
        metrics, outcomes = self._metrics, self.outcomes
        for outcome in outcomes:
            metrics.prompt_tokens.labels(self.model).inc(outcome.prompt_tokens)
            metrics.cached_tokens.labels(self.model).inc(outcome.cached_tokens or 0)
            metrics.output_tokens.labels(self.model).inc(outcome.output_tokens)
        if len(outcomes) == 1 and outcomes[0].output_tokens > 1:
            per_token_s = generating_s / (outcomes[0].output_tokens - 1)
            metrics.tpot.labels(self.model).observe(per_token_s)

    def _describe(self, span: Span) -> None:
        span.set_attribute("shunter.request_id", self.request_id)
        span.set_attribute("shunter.decision", self.decision)
        span.set_attribute("gen_ai.request.model", self.model)
        span.set_attribute("http.response.status_code", self.code)
        output = sum(outcome.output_tokens for outcome in self.outcomes)
        span.set_attribute("gen_ai.usage.output_tokens", output)
        if self.code >= 500:
            span.set_status(StatusCode.ERROR)
