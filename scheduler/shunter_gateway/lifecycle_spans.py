"""Spans of what a gateway does for a request: `engine.generate` and `move.*`.

They carry names and counts, never text or tokens. Without a recording tracer nothing is made.
"""

from collections.abc import Mapping

from opentelemetry.trace import Span, Status, StatusCode, Tracer

from shunter_runtime.tracing import parent_context, traceparent_of

Attributes = Mapping[str, str | int | bool]


class Stage:
    """One span, or none; ends once."""

    __slots__ = ("_span",)

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def trace_parent(self, otherwise: str) -> str:
        """For whoever is called within it."""
        return (traceparent_of(self._span) if self._span is not None else "") or otherwise

    def end(self, attributes: Attributes, error: str = "") -> None:
        span, self._span = self._span, None
        if span is None:
            return
        span.set_attributes(dict(attributes))
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end()


class Spans:
    def __init__(self, tracer: Tracer | None = None) -> None:
        """`tracer` None where nothing records."""
        self._tracer = tracer

    def begin(self, name: str, trace_parent: str, attributes: Attributes) -> Stage:
        if self._tracer is None:
            return Stage(None)
        context = parent_context(trace_parent)
        return Stage(self._tracer.start_span(name, context, attributes=dict(attributes)))
