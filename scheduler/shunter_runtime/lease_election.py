"""Leader election: does what `lease.decide` says, and tells when leadership begins and ends.

The leader writes once every two seconds; a candidate only follows the Lease by a watch.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import replace

import structlog

from shunter_runtime.lease import (
    Action,
    LeaseRecord,
    LeaseTiming,
    Read,
    View,
    Wait,
    Write,
    decide,
    leads_until,
    observed,
    raise_term,
    released,
    term_of,
    written,
)
from shunter_runtime.lease_store import LeaseConflict, LeaseStore, LeaseUnavailable

RELEASE_TIMEOUT_S = 1.0


class LeaderElection:
    """Run `run()` as a task; end it by cancelling the task, then `await release()`.

    `identity` must be this process's alone: a restarted process is another candidate. What must
    not happen after leadership has ended asks `term`, which reads the clock.
    """

    def __init__(
        self,
        store: LeaseStore,
        identity: str,
        *,
        timing: LeaseTiming | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self._store = store
        self._timing = timing or LeaseTiming()
        self._clock = clock
        self._view = View()
        self._told: int | None = None
        self._changed: Callable[[int | None], None] = lambda _: None
        self._trouble = ""
        self._wake = asyncio.Event()
        self._log = structlog.get_logger(identity=identity)

    @property
    def term(self) -> int | None:
        """The term in which this process leads now; None where it does not."""
        return term_of(self._view, self.identity, self._clock(), self._timing)

    @property
    def leader(self) -> str:
        """Who held the Lease when it was last seen; empty: nobody."""
        return self._view.record.holder if self._view.record else ""

    def outrank(self, term: int) -> None:
        """Somebody obeys that term already: lead in a higher one, if at all."""
        self._view = raise_term(self._view, term)
        self._wake.set()

    async def run(self, changed: Callable[[int | None], None]) -> None:
        """Until it is cancelled. `changed` is called with the term that begins, and with None when
        it has ended (also by `release`); it must not wait."""
        self._changed = changed
        while True:
            action = self._decide()
            if isinstance(action, Wait):
                await self._wait(action.until)
            else:
                await self._attempt(action)
            self._tell()

    async def release(self) -> None:
        """After `run` has ended: another may lead at once. Says nothing where that fails, since
        the Lease then runs out."""
        record = self._view.record
        self._view = replace(self._view, renewed_at=float("-inf"))
        self._tell()
        with suppress(LeaseUnavailable, LeaseConflict):
            if record is None or record.holder != self.identity:
                return
            try:
                await self._store.write(released(record), RELEASE_TIMEOUT_S)
            except LeaseConflict:  # a renewal that was cut off went through
                record = await self._store.read(RELEASE_TIMEOUT_S)
                if record is not None and record.holder == self.identity:
                    await self._store.write(released(record), RELEASE_TIMEOUT_S)
            self._log.info("lease.released")

    def _decide(self) -> Action:
        return decide(self._view, self.identity, self._clock(), self._timing)

    async def _attempt(self, action: Read | Write) -> None:
        """A call that fails is followed by a pause, so that it is not repeated at once."""
        began, timing = self._clock(), self._timing
        timeout_s = min(timing.renew_s, self._leads_for() or timing.renew_s)
        try:
            if isinstance(action, Read):
                self._observe(await self._store.read(timeout_s))
            else:
                record = await self._store.write(action.record, timeout_s)
                self._view = written(self._view, record, began, self._clock())
            self._trouble = ""
        except LeaseConflict:
            self._view = replace(self._view, read=False)
        except LeaseUnavailable as error:
            self._complain(str(error))
            pause_s = began + timing.retry_s - self._clock()
            await asyncio.sleep(max(0.0, min(pause_s, self._leads_for() or pause_s)))

    def _leads_for(self) -> float:
        """Seconds for which this process goes on leading; 0 where it does not lead."""
        if self.term is None:
            return 0.0
        return max(0.0, leads_until(self._view, self._timing) - self._clock())

    async def _wait(self, until: float) -> None:
        if self.term is not None:
            await self._sleep(until)
            return
        try:
            await self._follow(until)
        except LeaseUnavailable as error:
            self._complain(str(error))
            self._view = replace(self._view, read=False)
            await self._sleep(min(until, self._clock() + self._timing.retry_s))

    async def _sleep(self, until: float) -> None:
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(until - self._clock()):
                await self._wake.wait()

    async def _follow(self, until: float) -> None:
        """Watches another holder's Lease until there is something to do."""
        record = self._view.record
        assert record is not None
        time_of = asyncio.get_running_loop().time
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(until - self._clock()) as limit,
                aclosing(self._store.follow(record.version)) as changes,
            ):
                async for change in changes:
                    self._observe(change)
                    action = self._decide()
                    if not isinstance(action, Wait):
                        return
                    limit.reschedule(time_of() + action.until - self._clock())

    def _observe(self, record: LeaseRecord | None) -> None:
        before = self.leader
        self._view = observed(self._view, record, self._clock())
        if self.leader not in (before, self.identity):
            self._log.info("lease.holder", leader=self.leader)

    def _tell(self) -> None:
        term = self.term
        if term != self._told:
            self._told = term
            self._log.info("lease.leading" if term is not None else "lease.lost", term=term)
            self._changed(term)

    def _complain(self, trouble: str) -> None:
        """Once for each kind of trouble, not at each attempt."""
        if trouble != self._trouble:
            self._trouble = trouble
            self._log.warning("lease.unavailable", reason=trouble)
