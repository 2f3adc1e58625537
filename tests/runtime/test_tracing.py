"""Spans are children of the caller's, and cost nothing without an endpoint."""

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shunter_runtime.tracing import (
    build_tracer_provider,
    is_recording,
    parent_context,
    recording_provider,
    shutdown_tracing,
    traceparent_of,
)

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_span_is_the_child_of_the_callers() -> None:
    exporter = InMemorySpanExporter()
    provider = recording_provider("test", SimpleSpanProcessor(exporter))
    span = provider.get_tracer("t").start_span("work", context=parent_context(PARENT))
    handed_on = traceparent_of(span)
    span.end()
    shutdown_tracing(provider)

    (finished,) = exporter.get_finished_spans()
    assert finished.parent is not None
    assert f"{finished.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert handed_on.startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    assert handed_on != PARENT


@pytest.mark.parametrize("bad", ["", "nonsense", "00-zz-yy-01"])
def test_without_a_valid_parent_a_root_starts(bad: str) -> None:
    exporter = InMemorySpanExporter()
    provider = recording_provider("test", SimpleSpanProcessor(exporter))
    provider.get_tracer("t").start_span("work", context=parent_context(bad)).end()
    shutdown_tracing(provider)

    (finished,) = exporter.get_finished_spans()
    assert finished.parent is None


def test_without_an_endpoint_nothing_records_and_the_parent_is_passed_on() -> None:
    provider = build_tracer_provider("test", {})
    span = provider.get_tracer("t").start_span("work", context=parent_context(PARENT))

    assert not is_recording(provider)
    assert not span.is_recording()
    assert traceparent_of(span) == PARENT
    shutdown_tracing(provider)


def test_an_endpoint_turns_export_on(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", environ["OTEL_EXPORTER_OTLP_ENDPOINT"])
    provider = build_tracer_provider("test", environ)

    assert is_recording(provider)
    shutdown_tracing(provider)
