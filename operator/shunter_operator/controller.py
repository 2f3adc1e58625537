"""One worker a resource: passes in order, soon after a change, and now and then without one."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from shunter_operator.cluster import ClusterError
from shunter_operator.telemetry import Telemetry

log = structlog.get_logger(__name__)

# Passes that run at the same time: hundreds of pools whose first pass comes at once would keep the
# API server from answering anything else, the renewal of the Lease included.
PASSES_AT_ONCE = 8

# What names a resource.
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. `period_s`: a pass even without a change, for what only time brings about.
    `gather_s`: changes that come together make one pass; it also gives the watches the time to
    bring what the pass before has written."""

    period_s: float = 10.0
    gather_s: float = 0.5
    first_retry_s: float = 1.0
    last_retry_s: float = 60.0


class Controller(Generic[Key]):
    """Run `run` as a task; `wake` may be called before, from the same loop.

    `reconcile` makes one pass over a resource and returns how many actions it took, None where the
    resource is no more.
    """

    def __init__(
        self,
        reconcile: Callable[[Key], Awaitable[int | None]],
        telemetry: Telemetry,
        pace: Pace = Pace(),
    ) -> None:
        self._reconcile = reconcile
        self._telemetry = telemetry
        self._pace = pace
        self._wakes: dict[Key, asyncio.Event] = {}
        self._new: asyncio.Queue[Key] = asyncio.Queue()
        self._turns = asyncio.Semaphore(PASSES_AT_ONCE)

    def wake(self, key: Key) -> None:
        """Something about the resource has changed."""
        wake = self._wakes.get(key)
        if wake is None:
            wake = self._wakes[key] = asyncio.Event()
            self._new.put_nowait(key)
        wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as workers:
            while True:
                key = await self._new.get()
                workers.create_task(self._work(key), name=str(key))

    async def _work(self, key: Key) -> None:
        wake, retry_s = self._wakes[key], self._pace.first_retry_s
        self._telemetry.resources.inc()
        while True:
            async with self._turns:
                wake.clear()
                outcome = await self._pass(key)
            if outcome == "gone" and not wake.is_set():
                break
            if outcome == "failed":
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, self._pace.last_retry_s)
                continue
            retry_s = self._pace.first_retry_s
            await asyncio.sleep(self._pace.gather_s)
            await self._change_or_period(wake)
        del self._wakes[key]
        self._telemetry.resources.dec()

    async def _change_or_period(self, wake: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._pace.period_s):
                await wake.wait()
        except TimeoutError:
            pass

    async def _pass(self, key: Key) -> str:
        """The outermost loop: whatever a pass dies of, it is logged, counted and tried again."""
        try:
            with self._telemetry.pass_seconds.time():
                count = await self._reconcile(key)
        except ClusterError as error:
            log.warning("pass_failed", resource=str(key), error=str(error))
            outcome = "failed"
        except Exception:
            log.exception("pass_broken", resource=str(key))
            outcome = "failed"
        else:
            outcome = "gone" if count is None else "changed" if count else "unchanged"
        self._telemetry.passes.labels(outcome).inc()
        return outcome
