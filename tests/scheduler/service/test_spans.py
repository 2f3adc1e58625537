"""`scheduler.dispatch` spans in memory: children of the request's trace, without its text."""

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from scheduler_service import SchedulerFactory
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_runtime.tracing import recording_provider, shutdown_tracing
from shunter_scheduler.service.testing import GatewayClient, submission

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


async def spans_of(new_scheduler: SchedulerFactory, *requests: pb.Submitted) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    provider = recording_provider("shunter-scheduler", SimpleSpanProcessor(exporter))
    async with new_scheduler(provider) as scheduler, GatewayClient(scheduler.channel) as gateway:
        await gateway.send(*(pb.GatewayEvent(submitted=request) for request in requests))
        for request in requests:
            await gateway.command(request.request_id)
    shutdown_tracing(provider)
    return list(exporter.get_finished_spans())


async def test_a_placement_is_a_child_of_the_requests_trace(
    new_scheduler: SchedulerFactory,
) -> None:
    request = submission("r-1", trace_parent=PARENT, headers={"x-note": "hunter2"})
    (span,) = await spans_of(new_scheduler, request)

    assert span.name == "scheduler.dispatch"
    assert span.parent is not None and span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == SPAN
    attributes = dict(span.attributes or {})
    assert attributes["shunter.request_id"] == "r-1"
    assert attributes["shunter.pool"] == "chat"
    assert attributes["shunter.instance"] in ("chat-0", "chat-1")
    assert attributes["shunter.policy"] == "predicted-cost"
    assert span.start_time is not None and span.end_time is not None
    assert span.end_time >= span.start_time
    assert "hunter2" not in span.to_json()


async def test_a_rejection_is_an_error_with_its_reason(new_scheduler: SchedulerFactory) -> None:
    request = submission("r-1", model="nonesuch", trace_parent=PARENT)
    (span,) = await spans_of(new_scheduler, request)

    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "unknown_model"


async def test_a_request_without_a_trace_makes_no_span(new_scheduler: SchedulerFactory) -> None:
    assert await spans_of(new_scheduler, submission("r-1")) == []
