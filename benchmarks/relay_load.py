"""Load for `gateway.py`: a cheap engine and its clients in one process: one clock times both.

The engine speaks the token-level events of docs/engine-api.md on a raw asyncio protocol; clients
are raw protocols too. What stands between them, and its CPU time, is what is measured.
"""

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import grpc
import psutil
import uvloop

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_text.sources import sim_tokenizer, sim_word_ids

MODEL = "chat"
PATH = b"/v1/completions"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
_EVENT = (
    b'data: {"id":"cmpl-6f9619ff8b86d011b42d00cf4fc964ff","object":"text_completion",'
    b'"created":1700000000,"model":"chat","choices":[{"index":0,"text":"","logprobs":null,'
    b'"finish_reason":%s,"stop_reason":null,"token_ids":[%d]}]}\n\n'
)


@dataclass(frozen=True)
class Run:
    """One measurement through one relay."""

    port: int
    pid: int  # of the relay; its children count too
    streams: int
    tokens: int  # per stream
    interval_s: float
    text: bool  # the answer is text (a gateway), not the engine's own events


@dataclass(frozen=True)
class Result:
    cpu_us_per_token: float
    tokens: int  # in the window that was timed
    wrong: int  # streams whose sequence is not the engine's
    first_wrong: str
    latency_p50_us: float
    latency_p99_us: float
    rss_per_stream_kib: float
    rss_mib: float


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
            self._transport.write(_REFUSED)
            return
        request = json.loads(body)
        self._stream, self._tokens = request["prompt"][0], request["max_tokens"]
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


class Client(asyncio.Protocol):
    """One stream: counts events as they come, keeps the bytes for the check."""

    def __init__(self, stream: int, tokens: int, load: "Load") -> None:
        self.stream = stream
        self.data = bytearray()
        self.seen = 0
        self.latencies: list[float] = []
        self.done = load.loop.create_future()
        self._tokens = tokens
        self._load = load

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        body = json.dumps(
            {"model": MODEL, "prompt": [self.stream], "max_tokens": self._tokens, "stream": True}
        ).encode()
        head = b"POST %b HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n" % PATH
        transport.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    def data_received(self, data: bytes) -> None:
        self.data += data
        now = time.monotonic()  # the loop's own has milliseconds
        sent = self._load.board.sent_at.get(self.stream, ())
        for index in range(self.seen, min(self.seen + data.count(b"data: {"), len(sent))):
            self.latencies.append(now - sent[index])
            self.seen += 1
        if data.endswith(b"0\r\n\r\n"):
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
            self.transport.close()


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


class Load:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.board = Board()
        self._tokenizer = sim_tokenizer()

    async def run(self, run: Run) -> Result:
        """All streams; CPU is timed from when each has two tokens to when the first ends."""
        board, relay = self.board, psutil.Process(run.pid)
        board.interval_s = run.interval_s
        board.sent_at.clear()
        rss_before = rss_bytes(relay)
        clients = []
        for stream in range(run.streams):
            client = Client(stream, run.tokens, self)
            await self.loop.create_connection(partial(_same, client), "127.0.0.1", run.port)
            clients.append(client)
            await asyncio.sleep(run.interval_s / run.streams)
        await until(lambda: all(len(board.sent_at.get(s, ())) > 1 for s in range(run.streams)))
        cpu, tokens = cpu_s(relay), board.total
        await until(lambda: max(map(len, board.sent_at.values())) > run.tokens - 3)
        cpu, tokens = cpu_s(relay) - cpu, board.total - tokens
        if tokens <= 0:
            raise RuntimeError("the first stream ended before the last began: raise --tokens")
        rss = rss_bytes(relay)
        await asyncio.wait_for(asyncio.gather(*(client.done for client in clients)), 60)
        wrong = [why for client in clients if (why := self._wrong(client, run))]
        latencies = sorted(value for client in clients for value in client.latencies)
        return Result(
            cpu_us_per_token=cpu / tokens * 1e6,
            tokens=tokens,
            wrong=len(wrong),
            first_wrong=wrong[0] if wrong else "",
            latency_p50_us=latencies[len(latencies) // 2] * 1e6,
            latency_p99_us=latencies[len(latencies) * 99 // 100] * 1e6,
            rss_per_stream_kib=(rss - rss_before) / run.streams / 1024,
            rss_mib=rss / 2**20,
        )

    def _wrong(self, client: Client, run: Run) -> str:
        """Why the stream is not what the engine sent; empty if it is."""
        ids = [self.board.token(client.stream, index) for index in range(run.tokens)]
        events = [
            line[6:] for line in bytes(client.data).split(b"\n") if line.startswith(b"data: {")
        ]
        choices = [choice for event in events for choice in json.loads(event).get("choices", ())]
        if not run.text:
            right = [token for choice in choices for token in choice["token_ids"]] == ids
        else:
            step = self._tokenizer.decoder((client.stream,)).step
            right = "".join(c["text"] for c in choices) == "".join(map(step, ids))
        if right:
            return ""
        return f"stream {client.stream}: {len(choices)} events of {len(ids)} tokens; the end: " + (
            repr(bytes(client.data[-300:]))
        )


async def until(condition: Callable[[], bool]) -> None:
    """A poll: an event would cost the engine time at each token."""
    done = condition()
    while not done:
        await asyncio.sleep(0.02)
        done = condition()


def _same(client: Client) -> Client:
    return client


def load_process(pipe: Connection) -> None:
    """Says (engine port, scheduler port), then answers each `Run` with a `Result` until None."""
    uvloop.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    load = Load()
    engine = await loop.create_server(lambda: Engine(load.board, loop), "127.0.0.1", 0)
    port = engine.sockets[0].getsockname()[1]
    scheduler = grpc.aio.server()
    pb_grpc.add_SchedulerServicer_to_server(AssignAll(port), scheduler)  # type: ignore[abstract]  # one call is all it needs
    scheduler_port = scheduler.add_insecure_port("127.0.0.1:0")
    await scheduler.start()
    pipe.send((port, scheduler_port))
    while (run := await asyncio.to_thread(pipe.recv)) is not None:
        pipe.send(await load.run(run))
    await scheduler.stop(None)
    engine.close()


def allow_many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu_s(process: psutil.Process) -> float:
    return sum(t.user + t.system for t in (p.cpu_times() for p in tree(process)))


def rss_bytes(process: psutil.Process) -> int:
    return sum(p.memory_info().rss for p in tree(process))


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
