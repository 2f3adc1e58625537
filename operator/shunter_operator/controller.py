"""One worker a pool: passes in order, soon after a change, and now and then without one."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from shunter_operator.cluster import ClusterError
from shunter_operator.names import PoolKey
from shunter_operator.telemetry import Telemetry

log = structlog.get_logger(__name__)

# One pass over a pool: how many actions it took, None where the pool is no more.
Pass = Callable[[PoolKey], Awaitable[int | None]]


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. `period_s`: a pass even without a change, for what only time brings about.
    `gather_s`: changes that come together make one pass; it also gives the watches the time to
    bring what the pass before has written."""

    period_s: float = 10.0
    gather_s: float = 0.5
    first_retry_s: float = 1.0
    last_retry_s: float = 60.0


class Controller:
    """Run `run` as a task; `wake` may be called before, from the same loop."""

    def __init__(self, reconcile: Pass, telemetry: Telemetry, pace: Pace = Pace()) -> None:
        self._reconcile = reconcile
        self._telemetry = telemetry
        self._pace = pace
        self._wakes: dict[PoolKey, asyncio.Event] = {}
        self._new: asyncio.Queue[PoolKey] = asyncio.Queue()

    def wake(self, key: PoolKey) -> None:
        """Something about the pool has changed."""
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
                workers.create_task(self._work(key), name=f"pool {key}")

    async def _work(self, key: PoolKey) -> None:
        wake, retry_s = self._wakes[key], self._pace.first_retry_s
        self._telemetry.pools.inc()
        while True:
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
        self._telemetry.pools.dec()

    async def _change_or_period(self, wake: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._pace.period_s):
                await wake.wait()
        except TimeoutError:
            pass

    async def _pass(self, key: PoolKey) -> str:
        """The outermost loop: whatever a pass dies of, it is logged, counted and tried again."""
        try:
            with self._telemetry.pass_seconds.time():
                count = await self._reconcile(key)
        except ClusterError as error:
            log.warning("pass_failed", pool=str(key), error=str(error))
            outcome = "failed"
        except Exception:
            log.exception("pass_broken", pool=str(key))
            outcome = "failed"
        else:
            outcome = "gone" if count is None else "changed" if count else "unchanged"
        self._telemetry.passes.labels(outcome).inc()
        return outcome
