"""Spans: one for each engine call and each move, children of the request's, without any text."""

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shunter_gateway.testing_world import LOST, World
from shunter_runtime.tracing import recording_provider

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def spans_of(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return list(exporter.get_finished_spans())


def test_calls_and_moves_are_spans_of_the_request() -> None:
    exporter = InMemorySpanExporter()
    provider = recording_provider("test", SimpleSpanProcessor(exporter))
    world = World(tracer=provider.get_tracer("test"))
    _, sink = world.submit(trace_parent=PARENT)
    world.call_of().step(2)
    assert world.call_of().request.trace_parent.startswith(f"00-{TRACE}-")
    assert world.call_of().request.trace_parent != PARENT
    world.call_of().fail(LOST)
    world.settle()
    world.call_of().step(2)
    destination = next(f"chat-{i}" for i in range(3) if f"chat-{i}" not in sink.assigned)
    world.scheduler.move("r1", destination)
    world.run_out(10)
    spans = spans_of(exporter)
    names = [span.name for span in spans]
    assert names == ["engine.generate", "engine.generate", "move.replay", "engine.generate"]
    assert all(span.context is not None for span in spans)
    assert {format(span.context.trace_id, "032x") for span in spans if span.context} == {TRACE}
    failed, before, move, after = (dict(span.attributes or {}) for span in spans)
    assert not spans[0].status.is_ok and spans[0].status.description == "connection"
    assert failed["shunter.epoch"] == 1 and failed["shunter.output_tokens"] == 2
    assert before["shunter.epoch"] == 2 and after["shunter.output_tokens"] == 8
    assert move["shunter.moved"] is True and move["shunter.destination"] == destination
    assert move["shunter.copied_bytes"] == 0 and "shunter.stall_ms" in move


def test_nothing_is_left_open() -> None:
    exporter = InMemorySpanExporter()
    provider = recording_provider("test", SimpleSpanProcessor(exporter))
    world = World(tracer=provider.get_tracer("test"))
    handle, _ = world.submit(trace_parent=PARENT)
    world.call_of().step(1)
    world.scheduler.move("r1", "chat-0")
    world.scheduler.move("r1", "chat-2")
    handle.cancel()
    assert sorted(span.name for span in spans_of(exporter)) == ["engine.generate", "move.replay"]
