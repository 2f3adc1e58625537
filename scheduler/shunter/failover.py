"""The failover demonstration: streams in mid-answer, one engine killed, every text compared."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec

from shunter.bench.sse import error_message
from shunter.failure import Failure
from shunter.state import read_state

MID_ANSWER_CHUNKS = 5
POLL_S = 0.02
CONNECT_TIMEOUT_S = 10.0
MAX_ERROR_BYTES = 2000

SUBJECTS = (
    "a lighthouse", "the tides", "a night train", "bread", "the number seven", "a lost letter",
    "rain on a tin roof", "chess", "an old map", "the colour green", "a stone bridge", "bees",
    "the first telephone", "a winter market", "glass", "a slow river", "clocks", "salt",
    "an empty theatre", "the moon",
)  # fmt: skip


@dataclass(slots=True)
class Stream:
    """One chat that is being answered. Times are seconds of the monotonic clock."""

    prompt: str
    text: str = ""
    chunks: int = 0
    last_at: float = 0.0
    longest_pause_s: float = 0.0
    finish_reason: str = ""
    error: str = ""

    @property
    def complete(self) -> bool:
        return self.finish_reason in ("stop", "length") and not self.error

    def heard(self, delta: str, now: float) -> None:
        if self.chunks:
            self.longest_pause_s = max(self.longest_pause_s, now - self.last_at)
        self.chunks, self.last_at, self.text = self.chunks + 1, now, self.text + delta


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask, as whom, and how long an answer to ask for."""

    url: str  # http://host:port
    model: str
    max_tokens: int
    timeout_s: float
    api_key: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    streams: tuple[Stream, ...]
    expected: tuple[str, ...]
    victim: str
    on_victim: int

    @property
    def complete(self) -> int:
        return sum(stream.complete for stream in self.streams)

    @property
    def identical(self) -> int:
        pairs = zip(self.streams, self.expected, strict=True)
        return sum(stream.text == text for stream, text in pairs)

    @property
    def longest_pause_s(self) -> float:
        return max(stream.longest_pause_s for stream in self.streams)

    @property
    def passed(self) -> bool:
        return self.complete == self.identical == len(self.streams)


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    message: str = ""


class _Event(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    error: _Error | None = None


@dataclass(slots=True)
class Crowd:
    """Many streams at once; they share a connection pool and end with `run`."""

    target: Target
    streams: Sequence[Stream]
    tell: Callable[[int], None] = lambda chunks: None
    done: list[Stream] = field(default_factory=list)

    async def run(self) -> None:
        """Ask all; failures are kept in their streams."""
        timeout = aiohttp.ClientTimeout(total=self.target.timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for stream in self.streams:
                tasks.create_task(self._one(session, stream))

    async def _one(self, session: aiohttp.ClientSession, stream: Stream) -> None:
        try:
            await self._ask(session, stream)
        except TimeoutError:
            stream.error = f"not complete after {self.target.timeout_s:g} s"
        except (aiohttp.ClientError, msgspec.DecodeError) as error:
            stream.error = str(error) or type(error).__name__
        self.done.append(stream)

    async def _ask(self, session: aiohttp.ClientSession, stream: Stream) -> None:
        body = {
            "model": self.target.model,
            "messages": [{"role": "user", "content": stream.prompt}],
            "stream": True,
            "temperature": 0,
            "max_tokens": self.target.max_tokens,
            "ignore_eos": True,
        }
        headers = {"Authorization": f"Bearer {self.target.api_key}"} if self.target.api_key else {}
        url = f"{self.target.url}/v1/chat/completions"
        async with session.post(url, json=body, headers=headers) as response:
            if response.status != 200:
                said = error_message(await response.content.read(MAX_ERROR_BYTES))
                stream.error = f"HTTP {response.status}: {said}"
                return
            async for line in response.content:
                if line.startswith(b"data: {"):
                    self._event(stream, msgspec.json.decode(line[6:], type=_Event))

    def _event(self, stream: Stream, event: _Event) -> None:
        if event.error:
            stream.error = event.error.message
        for choice in event.choices:
            if choice.delta.content:
                stream.heard(choice.delta.content, time.monotonic())
                self.tell(1)
            stream.finish_reason = choice.finish_reason or stream.finish_reason


def prompts(count: int) -> list[str]:
    """Distinct prompts, the same ones each time."""
    return [
        f"Tell me about {SUBJECTS[n % len(SUBJECTS)]}, part {n // len(SUBJECTS) + 1}."
        for n in range(count)
    ]


async def undisturbed(target: Target, count: int, tell: Callable[[int], None]) -> tuple[str, ...]:
    """The texts of the prompts when nothing happens. Raises `Failure`."""
    crowd = Crowd(target, [Stream(prompt) for prompt in prompts(count)], tell)
    await crowd.run()
    for stream in crowd.streams:
        if not stream.complete:
            raise Failure(
                f"the undisturbed run failed: {stream.error or stream.finish_reason or 'no end'}",
                f"--model takes a name that {target.url}/v1/models lists, "
                "SHUNTER_API_KEY a key that it accepts",
            )
    return tuple(stream.text for stream in crowd.streams)


async def disturbed(
    target: Target,
    expected: tuple[str, ...],
    running: Callable[[], dict[str, int]],
    kill: Callable[[str], None],
    tell: Callable[[int], None],
) -> Report:
    """The same prompts; once each is in mid-answer the busiest instance is killed."""
    crowd = Crowd(target, [Stream(prompt) for prompt in prompts(len(expected))], tell)
    asking = asyncio.create_task(crowd.run())
    try:
        await _all_in_mid_answer(crowd, asking)
        requests = await asyncio.to_thread(running)
        victim = max(requests, key=lambda name: (requests[name], name))
        kill(victim)
        await asking
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    return Report(tuple(crowd.streams), expected, victim, requests[victim])


async def _all_in_mid_answer(crowd: Crowd, asking: "asyncio.Task[None]") -> None:
    while not all(stream.chunks >= MID_ANSWER_CHUNKS for stream in crowd.streams):
        if asking.done() or crowd.done:
            error = next((stream.error for stream in crowd.done if stream.error), "")
            raise Failure(
                f"a stream ended before all were in mid-answer{': ' if error else ''}{error}",
                "ask for longer answers with --tokens, or for fewer streams with --streams",
            )
        await asyncio.sleep(POLL_S)


def kill_engine(state_dir: Path, name: str) -> None:
    """SIGKILL to an engine of the `shunter up` of that state directory. Raises `Failure`."""
    state = read_state(state_dir)
    process = state.process(name) if state else None
    if process is None or process.role != "engine" or not process.pid:
        raise Failure(f"{name} is no engine of the `shunter up` in {state_dir}")
    os.kill(process.pid, signal.SIGKILL)
