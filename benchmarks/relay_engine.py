"""What stands behind a relay in `gateway.py`: a cheap engine and a scheduler of one decision.

The engine speaks the token-level events of docs/engine-api.md on a raw asyncio protocol.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_text.sources import sim_word_ids

MODEL = "chat"
PATH = b"/v1/completions"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_WELL = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
_EVENT = (
    b'data: {"id":"cmpl-6f9619ff8b86d011b42d00cf4fc964ff","object":"text_completion",'
    b'"created":1700000000,"model":"chat","choices":[{"index":0,"text":"","logprobs":null,'
    b'"finish_reason":%s,"stop_reason":null,"token_ids":[%d]}]}\n\n'
)


@dataclass
class Board:
    """What the engine has sent, by stream, and when."""

    interval_s: float = 0.01
    sent_at: dict[int, list[float]] = field(default_factory=dict)
    total: int = 0
    words: Sequence[int] = field(default_factory=sim_word_ids)

    def token(self, stream: int, index: int) -> int:
        return self.words[(stream * 17 + index) % len(self.words)]


class Engine(asyncio.Protocol):
    """One connection: one answer at a time."""

    def __init__(self, board: Board, loop: asyncio.AbstractEventLoop) -> None:
        self._board = board
        self._loop = loop
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        self._buffer = b""
        if not head.startswith(b"POST " + PATH):
            # Some relays ask about health and the model before they send anything.
            self._transport.write(_WELL if head.startswith(b"GET ") else _REFUSED)
            return
        request = json.loads(body)
        prompt = request["prompt"]
        self._stream = int(prompt) if isinstance(prompt, str) else prompt[0]
        self._tokens = request["max_tokens"]
        self._index = 0
        self._board.sent_at[self._stream] = []
        self._transport.write(_HEAD)
        self._at = self._loop.time() + self._board.interval_s
        self._timer = self._loop.call_at(self._at, self._tick)

    def _tick(self) -> None:
        board = self._board
        last = self._index == self._tokens - 1
        token = board.token(self._stream, self._index)
        event = _EVENT % (b'"length"' if last else b"null", token)
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        if last:
            chunk += b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
        self._index += 1
        board.total += 1
        board.sent_at[self._stream].append(time.monotonic())
        self._transport.write(chunk)
        if not last:
            self._at += board.interval_s
            self._timer = self._loop.call_at(self._at, self._tick)


class AssignAll(pb_grpc.SchedulerServicer):
    """A scheduler of one decision: everything goes to the one engine."""

    def __init__(self, engine_port: int) -> None:
        self._address = f"127.0.0.1:{engine_port}"

    async def Session(
        self, events: AsyncIterator[pb.GatewayEvents], context: object
    ) -> AsyncIterator[pb.SchedulerCommands]:
        pool = pb.Topology.Pool(
            name=MODEL, model_names=[MODEL], model_source="sim://bench", revision="1",
            engine_type="simulated", context_length=1 << 20, migration_mode="Auto", max_retries=3,
        )  # fmt: skip
        instance = pb.Topology.Instance(
            name="bench-0", pool=MODEL, profile="bench", address=self._address,
            engine_type="simulated",
        )  # fmt: skip
        topology = pb.Topology(version=1, pools=[pool], instances=[instance], block_tokens=64)
        yield pb.SchedulerCommands(commands=[pb.SchedulerCommand(topology=topology)])
        async for batch in events:
            wanted = [e.submitted for e in batch.events if e.WhichOneof("event") == "submitted"]
            if wanted:
                yield pb.SchedulerCommands(commands=[self._assign(s) for s in wanted])

    def _assign(self, submitted: pb.Submitted) -> pb.SchedulerCommand:
        return pb.SchedulerCommand(
            assign=pb.Assign(
                request_id=submitted.request_id, epoch=submitted.epoch, instance="bench-0",
                pool=MODEL, address=self._address,
            )
        )  # fmt: skip


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
