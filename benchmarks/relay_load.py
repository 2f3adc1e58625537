"""Load for `gateway.py`: a cheap engine and its clients in one process: one clock times both.

Both are raw asyncio protocols. What stands between them, and its CPU time, is what is measured.
"""

import asyncio
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import grpc
import psutil
import uvloop
from relay_engine import MODEL, PATH, AssignAll, Board, Engine

from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_text.sources import sim_tokenizer


@dataclass(frozen=True)
class Run:
    """One measurement through one relay."""

    port: int
    pid: int  # of the relay; its children count too
    streams: int
    tokens: int  # per stream
    interval_s: float
    text: bool  # the answer is text (a gateway), not the engine's own events
    text_prompt: bool = False  # the relay takes no token ids

    @property
    def deadline_s(self) -> float:
        """Well beyond what the slowest relay needs, for one that is gone or stands still."""
        return 60 + 4 * self.tokens * self.interval_s


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


class Client(asyncio.Protocol):
    """One stream: counts tokens as they come, keeps the bytes for the check."""

    def __init__(self, stream: int, run: Run, load: "Load") -> None:
        self.stream = stream
        self.data = bytearray()
        self.seen = 0
        self.latencies: list[float] = []
        self.done = load.loop.create_future()
        self._run = run
        self._counted = 0  # bytes of `data`
        self._load = load

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        prompt = str(self.stream) if self._run.text_prompt else [self.stream]
        wanted = {"model": MODEL, "prompt": prompt, "max_tokens": self._run.tokens, "stream": True}
        body = json.dumps(wanted).encode()
        head = b"POST %b HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n" % PATH
        transport.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    def data_received(self, data: bytes) -> None:
        self.data += data
        now = time.monotonic()  # the loop's own has milliseconds
        sent = self._load.board.sent_at.get(self.stream, ())
        for index in range(self.seen, min(self.seen + self._new_tokens(), len(sent))):
            self.latencies.append(now - sent[index])
            self.seen += 1
        if data.endswith(b"0\r\n\r\n"):
            self._finish()

    def _new_tokens(self) -> int:
        """In the lines that are complete since last time. An event of text may hold several tokens;
        the engine's are words, each with a space before it."""
        end = self.data.rfind(b"\n") + 1
        lines = self.data[self._counted : end].split(b"\n")
        self._counted = end
        events = [line for line in lines if line.startswith(b"data: {")]
        if not self._run.text:
            return len(events)
        return sum(line.count(b" ") - 1 for line in events)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
            self.transport.close()


class Load:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.board = Board()
        self._tokenizer = sim_tokenizer()

    async def run(self, run: Run) -> Result:
        """All streams; CPU is timed from when each has two tokens to when the first ends.

        Raises `RuntimeError` where the relay goes away or is not done by `Run.deadline_s`.
        """
        try:
            async with asyncio.timeout(run.deadline_s):
                return await self._measure(run)
        except TimeoutError:
            why = f"the streams were not done after {run.deadline_s:.0f} s"
            raise RuntimeError(why) from None
        except (OSError, psutil.Error) as error:
            raise RuntimeError(f"the relay is gone: {error!r}") from error

    async def _measure(self, run: Run) -> Result:
        board, relay = self.board, psutil.Process(run.pid)
        board.interval_s = run.interval_s
        board.sent_at.clear()
        rss_before = rss_bytes(relay)
        clients = []
        for stream in range(run.streams):
            client = Client(stream, run, self)
            await self.loop.create_connection(partial(_same, client), "127.0.0.1", run.port)
            clients.append(client)
            await asyncio.sleep(run.interval_s / run.streams)
        begun = range(run.streams)
        await until(lambda: all(len(board.sent_at.get(s, ())) > 1 for s in begun), clients)
        cpu, tokens = cpu_s(relay), board.total
        await until(lambda: max(map(len, board.sent_at.values())) > run.tokens - 3, clients)
        cpu, tokens = cpu_s(relay) - cpu, board.total - tokens
        if tokens <= 0:
            raise RuntimeError("the first stream ended before the last began: raise --tokens")
        rss = rss_bytes(relay)
        await asyncio.gather(*(client.done for client in clients))
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
        lines = _body(bytes(client.data)).split(b"\n")
        events = [line[6:] for line in lines if line.startswith(b"data: {")]
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


def _body(answer: bytes) -> bytes:
    """Without chunks: a relay may begin one within an event."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return rest
    pieces = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        end = int(size, 16)
        pieces.append(rest[:end])
        rest = rest[end + 2 :] if end else b""
    return b"".join(pieces)


async def until(condition: Callable[[], bool], clients: Sequence[Client]) -> None:
    """A poll: an event would cost the engine time at each token."""
    while not condition():
        ended = next((client for client in clients if client.done.done()), None)
        if ended is not None and not condition():
            raise RuntimeError(f"stream {ended.stream} ended early: {bytes(ended.data[-300:])!r}")
        await asyncio.sleep(0.02)


def _same(client: Client) -> Client:
    return client


def load_process(pipe: Connection) -> None:
    """Says (engine port, scheduler port), then answers each `Run` with a `Result`, or why there is
    none, until None."""
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
        try:
            pipe.send(await load.run(run))
        except RuntimeError as error:
            pipe.send(str(error))
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
