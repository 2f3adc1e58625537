"""Requests placed one by one with `Dispatch`, ended by `Complete` or by their lease."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from msgspec.structs import replace

from shunter_scheduler.domain.decisions import Assign, Decision, Hold, Reject
from shunter_scheduler.domain.events import Finished, Submitted
from shunter_scheduler.domain.request import Request
from shunter_scheduler.service.errors import (
    AlreadyExists,
    NotFound,
    PlacementTimeout,
    ServiceError,
    Standby,
    TooMany,
)
from shunter_scheduler.service.loop import Driver
from shunter_scheduler.telemetry import Telemetry

GATEWAY_ID = "(unary)"  # no session can have this name
LEASE_S = 600.0
MAX_OPEN = 65_536
MAX_WAIT_S = 300.0
UNMOVABLE = "placed by a unary call: nobody carries a move out"


@dataclass(slots=True)
class _Open:
    epoch: int
    placed: asyncio.Future[Assign | Reject]
    waits_for: str = ""  # the phase of its last Hold
    lease: asyncio.TimerHandle | None = None


class UnaryRequests:
    """One entry a request, from its submission to its end."""

    def __init__(self, driver: Driver, telemetry: Telemetry, *, lease_s: float = LEASE_S) -> None:
        self._driver = driver
        self._telemetry = telemetry
        self._lease_s = lease_s
        self._open: dict[str, _Open] = {}
        self._epochs = count(1)

    async def dispatch(self, request: Request, timeout_s: float) -> Assign | Reject:
        """Raises `AlreadyExists`, `TooMany`, `PlacementTimeout`, `Standby`.

        Epochs are the scheduler's own here, ever growing: an id may be used again after its end.
        """
        request_id = request.request_id
        if request_id in self._open:
            raise AlreadyExists(f"request {request_id} is placed already; Complete it first")
        if len(self._open) >= MAX_OPEN:
            raise TooMany(f"{MAX_OPEN} unary requests are open; Complete those that have ended")
        entry = _Open(next(self._epochs), asyncio.get_running_loop().create_future())
        self._open[request_id] = entry
        unmovable = request.unmovable_reason or UNMOVABLE
        self._driver.tell(
            Submitted(replace(request, epoch=entry.epoch, unmovable_reason=unmovable))
        )
        wait_s = min(timeout_s, MAX_WAIT_S)
        try:
            async with asyncio.timeout(wait_s):
                outcome = await entry.placed
        except TimeoutError:
            self._end(request_id, "expired")
            why = f" ({entry.waits_for})" if entry.waits_for else ""
            raise PlacementTimeout(
                f"no place for {request_id} within {wait_s:.1f} s{why}; it no longer waits"
            ) from None
        except asyncio.CancelledError:
            self._end(request_id, "cancelled")
            raise
        if self._open.get(request_id) is not entry:  # since the outcome, before this turn
            raise Standby(f"{request_id} was forgotten: this scheduler leads no longer")
        if isinstance(outcome, Reject):
            del self._open[request_id]
        else:
            entry.lease = asyncio.get_running_loop().call_later(
                self._lease_s, self._expire, request_id
            )
        return replace(outcome, epoch=request.epoch)

    def complete(self, request_id: str, output_tokens: int) -> None:
        """Raises `NotFound`."""
        entry = self._open.get(request_id)
        if entry is None or not entry.placed.done():
            raise NotFound(f"no request {request_id} was placed by Dispatch, or its lease ended")
        self._end(request_id, "stop", output_tokens)

    def resolve(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if decision.gateway_id != GATEWAY_ID:
                continue
            entry = self._open.get(decision.request_id)
            if entry is None or decision.epoch != entry.epoch or entry.placed.done():
                continue
            if isinstance(decision, Hold):
                entry.waits_for = decision.phase
            elif isinstance(decision, Assign | Reject):
                entry.placed.set_result(decision)

    def step_down(self, error: ServiceError) -> None:
        """Another scheduler leads: what waits is refused, what was placed is forgotten."""
        for request_id, entry in list(self._open.items()):
            if not entry.placed.done():
                entry.placed.set_exception(error)
            self._end(request_id, "cancelled")

    def close(self) -> None:
        for entry in self._open.values():
            if entry.lease is not None:
                entry.lease.cancel()
        self._open.clear()

    def _expire(self, request_id: str) -> None:
        self._telemetry.unary_leases_expired.inc()
        self._end(request_id, "expired")

    def _end(self, request_id: str, finish_reason: str, output_tokens: int = 0) -> None:
        entry = self._open.pop(request_id)
        if entry.lease is not None:
            entry.lease.cancel()
        self._driver.tell(Finished(request_id, entry.epoch, output_tokens, finish_reason))
