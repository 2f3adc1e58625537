"""Streams through the gateways of an installed release, and what each of them must say."""

import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
import pytest

from helm_release import Installed, wait_for
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc

WORKERS, TOKENS = 6, 600
TIMEOUT_S = 120.0
LEADER_S = 20.0
BEGUN = 20  # events of a stream that is in mid answer
ORDERED = re.compile(r" of (?P<source>\S+), by (kv|replay|restart)$")
T = TypeVar("T")


def chat(
    tokens: int, *, model: str = "chat", stream: bool = False, text: str = "hi"
) -> dict[str, object]:
    """Exactly so many tokens, and always the same."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
        "seed": 7,
        "max_tokens": tokens,
        "min_tokens": tokens,
    }


def content(events: Sequence[str]) -> str:
    """The text of a stream's lines."""
    chunks = [json.loads(line[6:]) for line in events if line.startswith("data: {")]
    return "".join(
        c["choices"][0]["delta"].get("content") or "" for c in chunks if c.get("choices")
    )


@dataclass
class Stream:
    """One answer as it arrives. `broken`: what its connection died of."""

    text: str
    status: int = 0
    decision: str = ""
    request_id: str = ""
    events: list[str] = field(default_factory=list)
    broken: str = ""

    @property
    def begun(self) -> bool:
        return len(self.events) >= BEGUN

    @property
    def comments(self) -> list[str]:
        """What it was told while it waited for a place."""
        return [event for event in self.events if event.startswith(": shunter phase=")]

    @property
    def complete(self) -> bool:
        return self.status == 200 and "data: [DONE]" in self.events[-3:]

    @property
    def content(self) -> str:
        return content(self.events)

    def trouble(self, expected: Mapping[str, str]) -> str:
        """Empty where it came to its end with the text that it always has."""
        if not self.complete:
            end = "".join(self.events[-2:])[-300:]
            return f"{self.text}: {self.status} {self.broken} after {len(self.events)}: {end}"
        if self.content != expected[self.text]:
            return f"{self.text}: another text than undisturbed, by {self.decision}"
        return ""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where to ask; `key` is an API key."""

    release: Installed
    host: str
    port: int
    key: str

    @classmethod
    def service(cls, release: Installed) -> "Gateway":
        return cls(release, release.address("shunter-gateway"), 80, release.key())

    def read(self, stream: Stream, model: str, tokens: int) -> Stream:
        """Fills `stream` until it ends in whatever way."""
        body = chat(tokens, model=model, stream=True, text=stream.text)
        try:
            with self.release.post(self.host, self.port, body, self.key, TIMEOUT_S) as reply:
                stream.status = reply.status
                stream.request_id = reply.headers.get("x-shunter-request-id", "")
                stream.decision = reply.headers.get("x-shunter-decision", "")
                for line in reply:
                    if event := line.decode().rstrip():
                        stream.events.append(event)
        except (OSError, http.client.HTTPException) as error:
            stream.broken = f"{type(error).__name__}: {error}"
        return stream


def texts(count: int) -> list[str]:
    return [f"Story number {n}: a wagon, a siding and a long train." for n in range(count)]


def undisturbed(gateway: Gateway, model: str = "chat", tokens: int = TOKENS) -> dict[str, str]:
    """What the stream of each text must say."""
    with ThreadPoolExecutor(WORKERS) as pool:
        asked = [Stream(text) for text in texts(WORKERS)]
        streams = list(pool.map(lambda s: gateway.read(s, model, tokens), asked))
    assert all(s.complete for s in streams), [s.trouble({}) for s in streams if not s.complete]
    return {s.text: s.content for s in streams}


class Load:
    """Streams that follow one another, one of each text at a time, until the load ends."""

    def __init__(self, gateway: Gateway, expected: Mapping[str, str], model: str, tokens: int):
        self._gateway, self._expected = gateway, expected
        self._model, self._tokens = model, tokens
        self._stop = threading.Event()
        self.streams: list[Stream] = []  # every one that was asked

    def running(self) -> list[Stream]:
        return [s for s in self.streams if s.begun and not s.complete and not s.broken]

    def all_in_mid_answer(self) -> list[Stream]:
        wait_for("streams run", lambda: len(self.running()) == len(self._expected), 60.0)
        return self.running()

    def asks(self, text: str) -> None:
        while not self._stop.is_set():
            stream = Stream(text)
            self.streams.append(stream)
            self._gateway.read(stream, self._model, self._tokens)
            if stream.trouble(self._expected):
                return  # it will be told; no flood of refused requests meanwhile

    def end(self) -> None:
        self._stop.set()

    def check(self) -> None:
        """Each stream came to its end, with the text that it always has."""
        found = [trouble for s in self.streams if (trouble := s.trouble(self._expected))]
        assert not found, f"{len(found)} of {len(self.streams)} failed:\n" + "\n".join(found)
        assert len(self.streams) >= len(self._expected)


@contextmanager
def load(
    gateway: Gateway, expected: Mapping[str, str], model: str = "chat", tokens: int = TOKENS
) -> Iterator[Load]:
    """Runs meanwhile, every stream in mid answer at the beginning; at the end all is checked."""
    running = Load(gateway, expected, model, tokens)
    with ThreadPoolExecutor(len(expected)) as pool:
        asked: list[Future[None]] = [pool.submit(running.asks, text) for text in expected]
        try:
            running.all_in_mid_answer()
            yield running
        finally:
            running.end()
        for one in asked:
            one.result()
    running.check()


def leader(release: Installed, ask: Callable[[pb_grpc.SchedulerStub], T]) -> T:
    """An answer of the scheduler that leads: each new connection comes to one of the two."""

    def attempt() -> tuple[T] | None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = f"{release.address('shunter-scheduler')}:50051"
        with grpc.insecure_channel(address, options=options) as channel:
            try:
                return (ask(pb_grpc.SchedulerStub(channel)),)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    return None
                raise

    return wait_for("the leader answers", attempt, LEADER_S)[0]


def explain(release: Installed, request_id: str) -> pb.ExplainReply:
    request = pb.ExplainRequest(request_id=request_id)
    return leader(release, lambda stub: stub.Explain(request, timeout=5))


def ordered_moves(release: Installed, streams: Iterable[Stream]) -> list[pb.ExplainReply.Decision]:
    """The orders, not what became of them; by whatever rung."""
    explained = [explain(release, stream.request_id).decisions for stream in streams]
    moves = [d for decisions in explained for d in decisions if d.kind == "move"]
    return [d for d in moves if ORDERED.search(d.reason)]


def sources(moves: Iterable[pb.ExplainReply.Decision]) -> set[str]:
    """Instances that streams were to leave."""
    found = [ORDERED.search(move.reason) for move in moves]
    return {match["source"] for match in found if match}


def status(release: Installed) -> pb.StatusReply:
    return leader(release, lambda stub: stub.Status(pb.StatusRequest(), timeout=5))


def within(what: str, holds: Callable[[], bool], timeout_s: float) -> None:
    """As `wait_for`, for a bound that is promised: it looks often."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.1)
