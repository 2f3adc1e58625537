"""Several tokens in one turn of uvloop's loop leave in two writes, in order."""

import asyncio

import uvloop
from opentelemetry.trace import INVALID_SPAN

from shunter_gateway.edge.job import Job, Shape
from shunter_gateway.edge.ports import ServedModel
from shunter_gateway.edge.stream import EventStream, StreamSettings
from shunter_gateway.edge.watch import Watch
from shunter_gateway.request import Delta, Outcome, RequestSpec
from shunter_gateway.telemetry import GatewayMetrics


class RecordingTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


async def burst() -> list[bytes]:
    spec = RequestSpec("r", "m", "t", "/v1/chat/completions", b"", (1,), 1, b"", 0)
    job = Job(
        ServedModel("m", "m", "simulated", 0), Shape("chat", "r", "m", 1, stream=True), (spec,)
    )
    watch = Watch(GatewayMetrics(), asyncio.get_running_loop(), INVALID_SPAN, "r")
    stream = EventStream(job, watch, lambda _: b"", StreamSettings())
    sink, transport = stream.sink(0), RecordingTransport()
    sink.on_delta(Delta("first"))
    stream.open(transport, chunked=True)
    await asyncio.sleep(0.01)
    for word in "abcdef":
        sink.on_delta(Delta(word))
    sink.on_done(Outcome("stop", 1, 7, 0))
    await asyncio.sleep(0.01)
    return transport.writes


def test_one_turn_two_writes() -> None:
    writes = uvloop.run(burst())
    assert len(writes) == 3  # what had gathered, the first of the burst, the rest of it
    text = b"".join(writes)
    words = [b'"content":"%b"' % word for word in (b"first", *(bytes([c]) for c in b"abcdef"))]
    places = [text.index(word) for word in words]
    assert places == sorted(places)
    assert text.endswith(b"data: [DONE]\n\n\r\n")
    for write in writes:
        size, _, rest = write.partition(b"\r\n")
        assert len(rest) == int(size, 16) + 2
