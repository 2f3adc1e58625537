"""What HTTP and gRPC share: admission to the gateway, identity, measurement, graceful stop."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from opentelemetry.trace import SpanKind, Tracer

from shunter_gateway.edge import errors
from shunter_gateway.edge.identity import caller_of, client_request_id, identify
from shunter_gateway.edge.intake import Intake
from shunter_gateway.edge.job import Caller, Limits
from shunter_gateway.edge.ports import Models
from shunter_gateway.edge.stream import StreamSettings
from shunter_gateway.edge.watch import Watch
from shunter_gateway.keys import Keys
from shunter_gateway.request import RequestRunner
from shunter_gateway.telemetry import GatewayMetrics
from shunter_runtime.tracing import parent_context, traceparent_of


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    limits: Limits = field(default_factory=Limits)
    stream: StreamSettings = field(default_factory=StreamSettings)
    body_timeout_s: float = 30.0  # for the client to send its whole body
    max_inflight: int = 8192  # requests at once in this process
    max_inflight_bytes: int = 256 << 20  # of the bodies of those requests, held ones included


@dataclass(frozen=True, slots=True)
class EdgeParts:
    """What the edge is built from."""

    runner: RequestRunner
    models: Models
    keys: Keys
    metrics: GatewayMetrics
    tracer: Tracer
    new_id: Callable[[], str]
    ready: Callable[[], bool]
    metrics_page: Callable[[], Awaitable[bytes]]  # Prometheus text


class Front:
    """Every request passes here, whatever protocol brought it."""

    def __init__(self, parts: EdgeParts, settings: EdgeSettings) -> None:
        self.parts = parts
        self.settings = settings
        self.intake = Intake(parts.models, settings.limits)
        self.inflight = 0
        self.inflight_bytes = 0
        self.draining = False
        self._idle = asyncio.Event()

    @contextmanager
    def serving(self, headers: Mapping[str, str], path: str) -> Iterator[Watch]:
        """One request from its arrival to the end of its answer."""
        watch = self._watch(headers, path)
        self.inflight += 1
        try:
            yield watch
        finally:
            self.inflight -= 1
            self.inflight_bytes -= watch.body_bytes
            if self.inflight == 0:
                self._idle.set()
            watch.close()

    def admit(self, headers: Mapping[str, str], watch: Watch) -> Caller:
        """Raises `RequestError` (401, 429, 503, 400)."""
        if self.draining:
            raise errors.unavailable("This gateway is shutting down.", "shutting_down")
        if self.inflight > self.settings.max_inflight:
            raise errors.overloaded(self.settings.max_inflight)
        key = identify(self.parts.keys, headers)
        caller = caller_of(watch.request_id, key, headers, self.parts.models.rule_headers)
        return replace(caller, trace_parent=watch.trace_parent)

    def count_body(self, watch: Watch, size: int) -> None:
        """`size` bytes stay in memory until the request ends. Raises `RequestError` (429)."""
        total = self.inflight_bytes + size - watch.body_bytes
        if total > self.settings.max_inflight_bytes:
            raise errors.bodies_over(self.settings.max_inflight_bytes)
        self.inflight_bytes = total
        watch.body_bytes = size

    def ready(self) -> bool:
        return self.parts.ready() and not self.draining

    async def drain(self, grace_s: float) -> None:
        """Refuses new requests and waits for those that are being answered, at most `grace_s`."""
        self.draining = True
        self._idle.clear()
        if self.inflight:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._idle.wait()

    def _watch(self, headers: Mapping[str, str], path: str) -> Watch:
        parent = headers.get("traceparent", "")
        client_id = client_request_id(headers)
        span = self.parts.tracer.start_span(
            "gateway.request", context=parent_context(parent), kind=SpanKind.SERVER
        )
        if span.is_recording():
            span.set_attribute("url.path", path[:128])
            span.set_attribute("http.request.id", client_id)
        loop = asyncio.get_running_loop()
        watch = Watch(self.parts.metrics, loop, span, self.parts.new_id())
        watch.client_id = client_id
        watch.trace_parent = traceparent_of(span)
        return watch
