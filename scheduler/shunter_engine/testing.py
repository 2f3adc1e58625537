"""Helpers for tests: a scripted backend, and engines behind real sockets."""

import asyncio
import math
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from shunter_engine.backend import (
    EngineStats,
    FinishReason,
    PromptTooLong,
    QueueFull,
    SequenceRequest,
    SequenceSink,
    TokenEvent,
)
from shunter_engine.options import EngineOptions
from shunter_engine.server import EngineParts, EngineServer, listen
from shunter_engine.simulated import simulated_backend
from shunter_runtime.metrics import port_of
from shunter_simulator.engine.kv_pool import CacheListener
from shunter_text.sources import sim_tokenizer, sim_word_ids

PROCESS_START_S = 20.0


class ScriptedBackend:
    """`Backend` that answers every sequence with the same tokens, one per turn of the event loop.

    With the last one the sequence ends by `ending` (`stop` makes that one the end token), or waits
    to be aborted if that is None.
    """

    def __init__(
        self,
        token_ids: Sequence[int],
        ending: FinishReason | None = "length",
        context_length: int = 4096,
        max_sequences: int = 100,
    ) -> None:
        self.model_name = "scripted"
        self.context_length = context_length
        self.eos_token_ids: tuple[int, ...] = ()
        self.submitted: list[SequenceRequest] = []
        self.aborted: list[str] = []
        self._token_ids = tuple(token_ids)
        self._ending = ending
        self._max_sequences = max_sequences
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def submit(self, request: SequenceRequest, sink: SequenceSink) -> None:
        if len(request.token_ids) >= self.context_length:
            raise PromptTooLong("too long")
        if len(self._tasks) >= self._max_sequences:
            raise QueueFull(f"{self._max_sequences} sequences run")
        self.submitted.append(request)
        self._tasks[request.request_id] = asyncio.create_task(self._run(request, sink))

    def abort(self, request_id: str) -> bool:
        self.aborted.append(request_id)
        task = self._tasks.pop(request_id, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        return task is not None

    def watch_cache(self, listener: CacheListener) -> None:
        """It has no cache."""

    def stats(self) -> EngineStats:
        return EngineStats(len(self._tasks), 0, 100, len(self._tasks), 16, 0, 0, 0, 0, 0)

    async def _run(self, request: SequenceRequest, sink: SequenceSink) -> None:
        token_ids = self._token_ids[: request.max_tokens]
        for index, token_id in enumerate(token_ids):
            await asyncio.sleep(0)
            if request.request_id not in self._tasks:
                return
            last = index == len(token_ids) - 1
            reason: FinishReason | None = self._ending if last else None
            if reason is not None:
                del self._tasks[request.request_id]
            top = ((token_id, -0.5), (token_id + 1, -1.5))
            cached = 7 if index == 0 else None
            sink.on_token(TokenEvent(token_id, reason, -0.5, top, cached))


def simulated_parts(options: EngineOptions | None = None) -> EngineParts:
    """A simulated engine that does not wait."""
    options = options or EngineOptions(served_name="m", speed=math.inf)
    tokenizer = sim_tokenizer()
    backend = simulated_backend(options, sim_word_ids(), tokenizer.eos_token_ids)
    return EngineParts(backend, tokenizer)


def scripted_parts(backend: ScriptedBackend) -> EngineParts:
    return EngineParts(backend, sim_tokenizer())


@asynccontextmanager
async def running_engine(parts: EngineParts, allow_faults: bool = False) -> AsyncIterator[str]:
    """The engine behind a real socket, in this process, as model `m`; gives its base address."""
    server = EngineServer("m", allow_faults=allow_faults)
    runner = await listen(server, "127.0.0.1", 0)
    try:
        await parts.backend.start()
        server.load(parts)
        yield f"http://127.0.0.1:{port_of(runner)}"
    finally:
        await runner.cleanup()
        await parts.backend.stop()


@dataclass(frozen=True, slots=True)
class EngineProcess:
    process: subprocess.Popen[bytes]
    url: str
    log: Path


@contextmanager
def engine_process(folder: Path, *flags: str) -> Iterator[EngineProcess]:
    """`python -m shunter_engine` on a port of the system's choice, once it is healthy."""
    port_file, log = folder / "port", folder / "engine.log"
    command = [sys.executable, "-m", "shunter_engine", "--port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port-file", str(port_file), *flags], stdout=output, stderr=output
        )
        try:
            deadline_at = time.monotonic() + PROCESS_START_S
            _wait(port_file.is_file, process, log, deadline_at)
            url = f"http://127.0.0.1:{port_file.read_text().strip()}"
            _wait(lambda: _is_healthy(url), process, log, deadline_at)
            yield EngineProcess(process, url, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()


def _wait(condition: object, process: subprocess.Popen[bytes], log: Path, until_s: float) -> None:
    assert callable(condition)
    while not condition():
        if process.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError(f"the engine did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2):
            return True
    except (urllib.error.HTTPError, OSError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        return False


@dataclass(slots=True)
class Answer:
    """A streamed answer, put together again."""

    events: list[dict[str, Any]]
    done: bool

    @property
    def token_ids(self) -> list[int]:
        return [id_ for choice in self.choices(0) for id_ in choice.get("token_ids", ())]

    @property
    def text(self) -> str:
        return "".join(_text_of(choice) for choice in self.choices(0))

    @property
    def finish_reason(self) -> str | None:
        reasons = [c["finish_reason"] for c in self.choices(0) if c["finish_reason"]]
        assert len(reasons) <= 1, "a choice ended twice"
        return reasons[0] if reasons else None

    def choices(self, index: int) -> list[dict[str, Any]]:
        found = [choice for event in self.events for choice in event["choices"]]
        return [choice for choice in found if choice["index"] == index]


def _text_of(choice: dict[str, Any]) -> str:
    text = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
    assert isinstance(text, str)
    return text


async def stream_answer(client: aiohttp.ClientSession, url: str, **body: Any) -> Answer:
    """Posts to `url` with `stream` and reads to the end. Raises `aiohttp.ClientResponseError`."""
    answer = Answer([], False)
    async with client.post(url, json={"stream": True, **body}) as response:
        response.raise_for_status()
        async for line in response.content:
            data = line.strip().removeprefix(b"data: ")
            if data == b"[DONE]":
                answer.done = True
            elif data:
                assert not answer.done, "an event after [DONE]"
                answer.events.append(msgspec.json.decode(data))
    return answer


async def complete(client: aiohttp.ClientSession, url: str, **body: Any) -> tuple[int, Any]:
    """Posts to `url`; status and body."""
    async with client.post(url, json=body) as response:
        return response.status, await response.json()


async def engine_metrics(client: aiohttp.ClientSession, url: str) -> dict[tuple[str, str], float]:
    """`/metrics` by sample name and `finished_reason` (empty where a sample has none)."""
    async with client.get(f"{url}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
    return {
        (sample.name, sample.labels.get("finished_reason", "")): sample.value
        for family in families
        for sample in family.samples
        if "le" not in sample.labels
    }
