"""One process of `shunter up`: started, restarted with back-off when it dies, ended with it."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shunter.up import bound

Role = Literal["engine", "scheduler", "gateway"]

FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 30.0
STEADY_S = 20.0  # up this long: the next death is a first one again
TAIL_BYTES = 4000


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run and how to ask whether it serves (`health_url` answers 200)."""

    name: str
    role: Role
    argv: tuple[str, ...]
    address: str  # host:port
    health_url: str
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)


class Child:
    """Owns the process and its whole process group. `run` is a task of the caller's group."""

    def __init__(self, spec: ChildSpec, tell: Callable[[str], None]) -> None:
        self.spec = spec
        self.pid = 0  # 0 while it is down
        self.deaths = 0
        self.ready = False
        self._tell = tell
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Until `stop`."""
        backoff_s = FIRST_BACKOFF_S
        loop = asyncio.get_running_loop()
        try:
            while not self._stopping.is_set():
                started_at = loop.time()
                code = await self._run_once()
                if self._stopping.is_set():
                    break
                if loop.time() - started_at > STEADY_S:
                    backoff_s = FIRST_BACKOFF_S
                self.deaths += 1
                self._tell(f"{self.spec.name} {_ending(code)}; restart in {backoff_s:g} s")
                await self._pause(backoff_s)
                backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
        finally:
            self._ended.set()

    async def stop(self, grace_s: float) -> None:
        """SIGTERM to the group, SIGKILL after `grace_s`; returns when the process is gone."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self._ended.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._ended.wait()

    def log_tail(self) -> str:
        """The last words of its log."""
        try:
            with self.spec.log.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - TAIL_BYTES))
                return stream.read().decode(errors="replace").strip()
        except OSError:
            return ""

    async def _run_once(self) -> int:
        command = (sys.executable, "-S", bound.__file__, str(os.getpid()), *self.spec.argv)
        with self.spec.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.spec.env},
                start_new_session=True,
            )
        self.pid = process.pid
        try:
            if self._stopping.is_set():
                self._signal(signal.SIGTERM)
            self._tell("")
            return await process.wait()
        finally:
            self._signal(signal.SIGKILL)  # what it may have left in its group
            self.pid, self.ready = 0, False

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _signal(self, number: signal.Signals) -> None:
        if not self.pid:
            return
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return


def _ending(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
