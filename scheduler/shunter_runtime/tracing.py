"""OpenTelemetry without globals: a provider is built, handed down and shut down by its owner."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_PROPAGATOR = TraceContextTextMapPropagator()
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def build_tracer_provider(service: str, environ: Mapping[str, str]) -> trace.TracerProvider:
    """Exports over OTLP/HTTP where the environment names an endpoint; otherwise a provider whose
    spans cost nothing and pass their parent's traceparent on. End it with `shutdown_tracing`."""
    if not any(environ.get(name) for name in ENDPOINTS):
        return trace.NoOpTracerProvider()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return recording_provider(service, BatchSpanProcessor(OTLPSpanExporter()))


def recording_provider(service: str, processor: "SpanProcessor") -> trace.TracerProvider:
    """A provider that gives its spans to `processor` (tests: an in-memory exporter's)."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(
        resource=Resource.create({"service.name": service}), shutdown_on_exit=False
    )
    provider.add_span_processor(processor)
    return provider


def is_recording(provider: trace.TracerProvider) -> bool:
    return not isinstance(provider, trace.NoOpTracerProvider)


def shutdown_tracing(provider: trace.TracerProvider) -> None:
    """Flushes and ends the exporter; blocks while it flushes, so call it in a thread."""
    shutdown = getattr(provider, "shutdown", None)
    if shutdown is not None:
        shutdown()


def parent_context(traceparent: str) -> Context:
    """The context to start a child span in; a root's where `traceparent` is empty or malformed."""
    return _PROPAGATOR.extract({"traceparent": traceparent}, Context())


def traceparent_of(span: trace.Span) -> str:
    """The W3C traceparent that names `span` as the parent; empty for a span without a trace."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get("traceparent", "")
