"""Tells gateways that requests wait: at which place, for what, and for how long."""

import math

from shunter_scheduler.core.dispatch import nothing_fits
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.starting import QUEUED, SCALING_UP
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.domain.decisions import Hold

MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 1.0, 30.0
# A position changed materially when it fell to this share, or rose by the reverse.
MATERIAL = 0.5


def hold_first(state: CoreState, entry: Entry, now: float) -> None:
    due = entry.timeout_at
    if entry.request.deadline_at is not None:
        due = min(due, entry.request.deadline_at)
    state.timers.push(due, "timeout", entry.request_id)
    ranking, reason = nothing_fits(entry, now), "no instance has head room"
    if not entry.pool.any_in_service():
        reason = f"no instance is in service: {phase_of(entry.pool)}"
    elif entry.limits is not None and entry.limits.full:
        most = entry.limits.running
        reason = f"tenant {entry.tenant!r} runs as many requests as it may: {most}"
    elif ranking.eligible:
        reason = f"{entry.pool.queue.who_goes_first(entry)} go first to the room that there is"
    state.trace(entry, now, "hold", reason=reason, ranking=ranking)
    hold(state, entry, entry.pool.queue.position(entry), now)


def refresh_holds(state: CoreState, pool: PoolRecord, now: float) -> None:
    """Tells waiting requests whose position changed materially."""
    pool.holds_refresh_at = None
    news = pool.starting.told != phase_of(pool)
    pool.starting.told = phase_of(pool)
    for position, entry in enumerate(pool.queue):
        told = entry.held_position
        if told is None or (position == told and not news):
            continue
        if news or position <= told * MATERIAL or position > told / MATERIAL + 1:
            hold(state, entry, position, now)
    if pool.queue:
        state.busy[pool.name] = None


def hold(state: CoreState, entry: Entry, position: int, now: float) -> None:
    """Tells the gateway that the request waits, where, and for what."""
    entry.held_position = position
    pool, request = entry.pool, entry.request
    phase = phase_of(pool)
    eta_s = _eta_s(pool, position, now) if phase == QUEUED else pool.starting.eta_s(now)
    state.outbox.append(
        Hold(entry.request_id, request.gateway_id, entry.epoch, position, eta_s, phase)
    )


def phase_of(pool: PoolRecord) -> str:
    """What requests wait for."""
    if pool.from_zero is None or pool.any_in_service():
        return QUEUED
    return pool.starting.phase or ("starting" if pool.instances else SCALING_UP)


def retry_after_s(pool: PoolRecord, ahead: int, now: float) -> float:
    """Of a pool that starts: until it serves, as far as that is known."""
    if phase_of(pool) == QUEUED:
        return _eta_s(pool, ahead, now)
    return pool.starting.eta_s(now) or MAX_RETRY_AFTER_S


def _eta_s(pool: PoolRecord, ahead: int, now: float) -> float:
    """From the rate at which requests lately left the queue."""
    rate = pool.level.assign_rate(now)
    eta_s = (ahead + 1) / rate if rate else math.inf
    return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, eta_s))
