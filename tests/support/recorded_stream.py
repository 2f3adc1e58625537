"""An `EventStream` without a socket: what it writes is kept."""

import asyncio

from opentelemetry.trace import INVALID_SPAN

from shunter_gateway.edge.job import Job, Shape
from shunter_gateway.edge.ports import ServedModel
from shunter_gateway.edge.stream import EventStream, StreamSettings
from shunter_gateway.edge.watch import Watch
from shunter_gateway.request import RequestSpec
from shunter_gateway.telemetry import GatewayMetrics


class RecordingTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def unopened_stream(shape: Shape, kind: type[EventStream] = EventStream) -> EventStream:
    """One choice; `open` it on a `RecordingTransport`."""
    spec = RequestSpec("r", "m", "t", "/v1/chat/completions", b"", (1,), 1, b"", 0)
    job = Job(ServedModel("m", "m", "simulated", 0), shape, (spec,))
    watch = Watch(GatewayMetrics(), asyncio.get_running_loop(), INVALID_SPAN, "r")
    return kind(job, watch, lambda _: b"", StreamSettings())
