"""The driver: the one task that owns the core. Events go in, decisions come out."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import structlog

from shunter_scheduler.domain.decisions import Decision
from shunter_scheduler.domain.events import Event
from shunter_scheduler.service.port import Core
from shunter_scheduler.telemetry import Telemetry

MAX_PENDING = 16_384  # events; senders wait beyond it
MAX_BATCH = 1_024  # events between two decisions: bounds how long the event loop is held
MIN_WAKE_S = 0.001

log = structlog.get_logger(__name__)


class Driver:
    """Applies events in the order of their arrival and lets the core decide after each batch and
    at the core's own wake-up time.

    `decided` are called with each batch of decisions, in order; they must not wait.
    """

    def __init__(self, core: Core, clock: Callable[[], float], telemetry: Telemetry) -> None:
        self.core = core
        self.clock = clock
        self._telemetry = telemetry
        self._pending: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, event: Event) -> None:
        """For senders that are bounded by themselves (timers, unary calls, the poller)."""
        self._pending.append(event)
        self._wake.set()

    def tell_now(self, event: Event) -> None:
        """For control events whose effect the caller reads next: overtakes what is pending."""
        self._apply((event,), self.clock())
        self._wake.set()

    async def put(self, events: Iterable[Event]) -> None:
        """Waits while too many events are pending."""
        while len(self._pending) >= MAX_PENDING:
            self._room.clear()
            await self._room.wait()
        self._pending.extend(events)
        self._wake.set()

    async def run(self, decided: Sequence[Callable[[Sequence[Decision]], None]]) -> None:
        """Runs until it is cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._step(decided)
                if self._pending:  # let sockets and writers have a turn between batches
                    self._wake.set()
                    await asyncio.sleep(0)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _step(self, decided: Sequence[Callable[[Sequence[Decision]], None]]) -> None:
        now = self.clock()
        self._apply_pending(now)
        try:
            decisions = self.core.decide(now)
            if decisions:
                self._telemetry.decided(decisions)
                for outlet in decided:
                    outlet(decisions)
            wake = self.core.next_wake(now)
        except Exception:  # one bad cycle must not end the scheduler
            self._telemetry.internal_errors.labels("decide").inc()
            log.exception("scheduler.decide_failed")
            wake = now + 1.0
        self._telemetry.decide_seconds.observe(self.clock() - now)
        self._set_timer(wake, now)

    def _apply_pending(self, now: float) -> None:
        pending = self._pending
        self._apply([pending.popleft() for _ in range(min(len(pending), MAX_BATCH))], now)
        if len(pending) < MAX_PENDING:
            self._room.set()

    def _apply(self, events: Iterable[Event], now: float) -> None:
        apply = self.core.apply
        for event in events:
            try:
                apply(event, now)
            except Exception:  # one bad event must not end the scheduler
                self._telemetry.internal_errors.labels("apply").inc()
                log.exception("scheduler.apply_failed", event_type=type(event).__name__)

    def _set_timer(self, wake: float | None, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake is not None:
            delay = max(wake - now, MIN_WAKE_S)
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake.set)
