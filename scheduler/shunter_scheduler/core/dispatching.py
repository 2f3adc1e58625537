"""Admit and dispatch: waiting requests of a pool, in order, to instances with head room."""

from collections.abc import Iterable

from shunter_scheduler.core.admission import enqueue
from shunter_scheduler.core.apart import choose_way
from shunter_scheduler.core.dispatch import (
    NOBODY,
    Barred,
    Pick,
    barred_slots,
    pick,
    reserve_for,
    slot_to_keep,
)
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.holds import hold_first, phase_of, retry_after_s
from shunter_scheduler.core.metering import begin, take_turn
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.queue import order_key
from shunter_scheduler.core.starting import QUEUED
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.domain.decisions import RejectReason

SURELY = 0.5


def dispatch_pool(state: CoreState, pool: PoolRecord, now: float) -> None:
    """Places what fits, sheds what is over the bound, tells the others that they are held."""
    newcomers, pool.newcomers = pool.newcomers, []
    if pool.queue or _compete(newcomers):
        for entry in newcomers:
            _queue(state, entry)
        _place_queued(state, pool, now)
    else:
        _place_newcomers(state, pool, newcomers, now)
    if pool.queue:
        _after_placing(state, pool, newcomers, now)


def _compete(newcomers: list[Entry]) -> bool:
    """Several tenants came at once: their turns count."""
    if len(newcomers) < 2:
        return False
    tenant = newcomers[0].request.tenant
    return any(entry.request.tenant != tenant for entry in newcomers)


def _queue(state: CoreState, entry: Entry) -> None:
    if _waits(state, entry):
        entry.pool.queue.push(entry)


def _waits(state: CoreState, entry: Entry) -> bool:
    """False for a newcomer that ended, or was reported as running, before it was looked at."""
    return entry.state == "waiting" and state.entries.get(entry.request_id) is entry


def _place_newcomers(
    state: CoreState, pool: PoolRecord, newcomers: list[Entry], now: float
) -> None:
    """Nobody waits, and one tenant comes: what fits at once never enters the queue."""
    if len(newcomers) > 1:
        newcomers.sort(key=order_key)
    misses = 0
    for entry in newcomers:
        if entry.limits is not None and entry.limits.full:
            pass  # waits until one of its tenant's ends
        elif misses <= state.settings.lookahead and _waits(state, entry):
            if place(state, entry, now):
                continue
            misses += 1
        _queue(state, entry)


def _after_placing(state: CoreState, pool: PoolRecord, newcomers: list[Entry], now: float) -> None:
    if not pool.any_in_service():
        # A long queue is not walked for each newcomer.
        all_due = not newcomers or pool.holds_refresh_at is None
        _await_start(state, pool, list(pool.queue) if all_due else newcomers, now)
    while len(pool.queue) > _bound(pool, now):
        shed = pool.queue.last(_keeps_places(pool, now))
        assert shed is not None
        _overflow(state, shed, now)
    for entry in newcomers:
        if _waits(state, entry) and entry.request_id in pool.queue:
            hold_first(state, entry, now)
    if pool.holds_refresh_at is None:
        pool.starting.told = phase_of(pool)
        pool.holds_refresh_at = now + state.settings.hold_refresh_s
        state.timers.push(pool.holds_refresh_at, "holds", pool.name)


def _await_start(state: CoreState, pool: PoolRecord, entries: Iterable[Entry], now: float) -> None:
    """Those who queued while an instance served wait as long as those who came after it went."""
    settings = pool.from_zero
    if settings is not None:
        pool.starting.waits(settings, now)
    for entry in entries:
        if entry.request_id not in pool.queue or not _waits(state, entry):
            continue
        if try_fallback(state, entry) or settings is None:
            continue
        timeout_at = entry.queued_at + settings.hold_timeout_s
        if timeout_at > entry.timeout_at:
            entry.timeout_at = timeout_at
            state.timers.push(timeout_at, "timeout", entry.request_id)


def _bound(pool: PoolRecord, now: float) -> int:
    if pool.from_zero is None:
        return pool.max_queued
    serves = pool.any_in_service()
    return pool.starting.bound(pool.from_zero, pool.max_queued, serves, now)


def _keeps_places(pool: PoolRecord, now: float) -> bool:
    """Whether newcomers are shed before those who were told that they are held. These are late for
    want of an instance, and nobody keeps a target before there is one."""
    if not pool.any_in_service():
        return True
    return pool.from_zero is not None and pool.starting.held_lately(pool.from_zero, now)


def _place_queued(state: CoreState, pool: PoolRecord, now: float) -> None:
    """One that fits nowhere lets at most `lookahead` others be tried. Once it has been passed over
    for an ageing step, an instance is kept for it: nothing else goes there until it fits."""
    misses: set[str] = set()
    kept = NOBODY
    queue, settings = pool.queue, state.settings
    while len(misses) <= settings.lookahead and len(queue) > len(misses):
        found = queue.next(now, misses)
        if found is None:
            return
        entry, before_higher = found
        entry.by_age = queue.by_age(entry, before_higher)
        entry.goes_as = pool.top_rank if before_higher else 0
        if place(state, entry, now, kept):
            if entry.state == "running":
                queue.went(entry, before_higher, now)
            continue
        if not pool.columns.exclude(0.0, NOBODY, entry.engine_rank):
            return  # no instance takes anything: the others need not be tried
        misses.add(entry.request_id)
        if not kept and not pool.holds_back and now - entry.queued_at >= settings.ageing_step_s:
            kept = slot_to_keep(entry, now)


def place(state: CoreState, entry: Entry, now: float, kept: Barred = NOBODY) -> bool:
    """False where no instance has head room, but for the slots that are `kept` for another. What
    cannot keep its own deadline any more is refused instead: nobody would wait for its end."""
    barred, roles, ask = barred_slots(entry), entry.pool.roles, None
    if roles is not None:
        barred, ask = choose_way(entry, barred, now, state.rng)
    picked = pick(entry, now, state.rng, {**kept, **barred} if kept else barred, ask)
    if picked is None:
        return False
    if entry.request.deadline_at is not None and _is_lost(state, entry, picked, now):
        return True
    record, name = picked.instance, picked.instance.name
    if entry.pool.queue.remove(entry.request_id):
        take_turn(entry)
    if entry.limits is not None:
        begin(entry)
    entry.placed_at = now
    entry.reservation = reserve_for(entry, picked, now)
    if roles is not None:
        roles.demand.add(now, picked.ranking.ask.prefill_tokens - picked.cached_tokens)
    entry.instance = record
    entry.instance_name = name
    entry.predicted_ttft_s = picked.predicted_ttft_s
    entry.cached_tokens = picked.cached_tokens
    if not entry.started:
        entry.trail.revision = record.value.revision
    entry.state = entry.trail.state = "running"
    if entry.request.suspended:
        entry.rest_until = now + state.settings.moves.settle_s
    state.trace(
        entry,
        now,
        "resume" if entry.request.output_tokens else "dispatch",
        winner=name,
        reason="lowest score"
        if roles is None
        else f"lowest score{roles.remark(record, entry.started)}",
        ranking=picked.ranking,
        cached_tokens=picked.cached_tokens,
    )
    entry.pool.level.assigned(now)
    state.dispatched_total += 1
    if entry.trail.failures > entry.trail.resumes:
        entry.trail.resumes = entry.trail.failures
        state.resumed_total += 1
    state.assign(entry, name)
    return True


def _is_lost(state: CoreState, entry: Entry, picked: Pick, now: float) -> bool:
    """Refuses a request whose first token would come after its deadline even if it took only
    `SURELY` of what is predicted."""
    request, ttft_s = entry.request, picked.predicted_ttft_s
    left_s = (request.deadline_at or now) - now
    if entry.started or ttft_s * SURELY <= left_s:
        return False
    state.end(entry, now)
    entry.pool.level.ended(now, False, 0)
    message = f"its deadline is in {left_s:.2f} s, its first token would take {ttft_s:.2f} s"
    state.reject(request, entry.trail, now, "deadline", message)
    return True


def _overflow(state: CoreState, entry: Entry, now: float) -> None:
    """The queue is full: on to a fallback pool with room, else shed."""
    if try_fallback(state, entry):
        return
    pool = entry.pool
    waiting = len(pool.queue) - 1
    request, trail = entry.request, entry.trail
    state.end(entry, now)
    pool.level.ended(now, False, 0)
    reason: RejectReason = "overloaded"
    message = f"the queue of pool {pool.name} is full: {waiting} requests wait"
    if pool.from_zero is not None and not pool.any_in_service():
        reason = "hold_full"
        message = f"pool {pool.name} has no instance yet, and {waiting} requests wait for it"
    state.reject(request, trail, now, reason, message, retry_after_s(pool, waiting, now))


def try_fallback(state: CoreState, entry: Entry) -> bool:
    """Moves a waiting request on to the next pool of its rule that serves and has room."""
    if entry.started:
        return False
    max_queued = entry.pool.max_queued  # by the same policy
    for name in entry.fallback:
        pool = state.pools.get(name)
        if pool is None or not pool.any_in_service():
            continue
        if len(pool.queue) >= max(1, max_queued):
            continue
        pool.max_queued = max_queued
        entry.fallback = tuple(other for other in entry.fallback if other != name)
        entry.pool.queue.remove(entry.request_id)
        entry.pool = pool
        entry.trail.pool = name
        enqueue(state, entry)
        return True
    return False


def timed_out(state: CoreState, entry: Entry, now: float) -> None:
    """A waiting request whose time is up."""
    request, trail, pool = entry.request, entry.trail, entry.pool
    if entry.state != "waiting":
        return
    deadline_at = request.deadline_at
    if deadline_at is not None and now >= deadline_at:
        state.end(entry, now)
        pool.level.ended(now, False, 0)
        state.reject(request, trail, now, "deadline", "its deadline passed while it waited")
        return
    if now < entry.timeout_at:
        return
    served = pool.any_in_service()
    eta_s = retry_after_s(pool, len(pool.queue), now)
    phase = phase_of(pool)
    state.end(entry, now)
    pool.level.ended(now, False, 0)
    waited_s = now - entry.queued_at
    if served:
        message = f"waited {waited_s:.0f} s for room in pool {pool.name}"
        state.reject(request, trail, now, "queue_timeout", message, eta_s)
    else:
        message = f"no instance of pool {pool.name} came into service within {waited_s:.0f} s"
        if phase == QUEUED:
            state.reject(request, trail, now, "no_instance", message, eta_s)
        else:
            state.reject(request, trail, now, "hold_timeout", f"{message}: {phase}", eta_s)
