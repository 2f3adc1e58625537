"""Drains: no new work, and what runs is moved."""

from shunter_scheduler.core.dispatch import OTHER_REVISION, Barred, barred_slots, pick, reserve_for
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.instance import Drain, InstanceRecord
from shunter_scheduler.core.moving import MoveOrder, begin_move, may_leave, rung_between
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.domain.decisions import Cancel
from shunter_scheduler.domain.events import DrainCancelled, DrainRequested
from shunter_scheduler.domain.status import DrainStatus


def drain_requested(state: CoreState, event: DrainRequested, now: float) -> None:
    record = state.instances.get(event.instance)
    if record is None:
        return
    if record.drain is None:
        record.drain = Drain(event.deadline_at)
    record.drain.deadline_at = event.deadline_at
    record.drain.cancelled = False
    state.draining[record.name] = None
    state.timers.push(event.deadline_at, "instance", record.name)
    state.pools[record.value.pool].mark(record)


def drain_cancelled(state: CoreState, event: DrainCancelled, now: float) -> None:
    record = state.instances.get(event.instance)
    if record is None or record.drain is None:
        return
    record.drain = None
    state.draining.pop(record.name, None)
    pool = state.pools[record.value.pool]
    pool.mark(record)
    state.wake(pool)


def drain_status(state: CoreState, instance: str) -> DrainStatus | None:
    record = state.instances.get(instance)
    if record is None or record.drain is None:
        return None
    drain, remaining = record.drain, record.load.requests
    return DrainStatus(
        instance, remaining, drain.moved, drain.finished, drain.failed, remaining == 0
    )


def plan_drains(state: CoreState, now: float) -> None:
    for name in state.draining:
        record = state.instances[name]
        if record.drain is None or not record.requests:
            continue
        if now >= record.drain.deadline_at:
            _cancel_rest(state, record)
        else:
            _move_some(state, record, record.drain, now)


def _move_some(state: CoreState, record: InstanceRecord, drain: Drain, now: float) -> None:
    """Those that have not started first: they only queue anew. Then those with most to come."""
    migration = state.pools[record.value.pool].spec.migration
    if migration.mode == "Off":
        return
    owned = [e for e in _entries_on(state, record) if e.instance is record]
    free = migration.max_concurrent_per_instance - sum(e.state == "moving" for e in owned)
    movable = [e for e in owned if may_leave(e, now)]
    movable.sort(key=lambda e: (e.started, e.output_tokens - e.expected_tokens, e.request_id))
    for entry in movable[: max(0, free)]:
        if not _start_move(state, entry, "drain", now):
            if drain.again_at <= now:
                drain.again_at = now + state.settings.moves.cooldown_s
                state.timers.push(drain.again_at, "instance", record.name)
            return


def _entries_on(state: CoreState, record: InstanceRecord) -> list[Entry]:
    return [state.entries[request_id] for request_id in record.requests]


def _start_move(state: CoreState, entry: Entry, reason: str, now: float) -> bool:
    """False where no destination has head room."""
    source = entry.instance
    assert source is not None
    picked = pick(entry, now, state.rng, _barred(state, entry, source))
    if picked is None:
        return False
    destination = picked.instance
    rung = rung_between(entry, source, destination, picked.cached_tokens)
    reservation = reserve_for(entry, picked, now)
    order = MoveOrder(
        destination, reservation, rung, reason, 0.0, picked.ranking, picked.cached_tokens
    )
    begin_move(state, entry, order, now)
    return True


def _barred(state: CoreState, entry: Entry, source: InstanceRecord) -> Barred:
    """Slots that cannot be the destination: the source, those that have refused this request, those
    that take as many in as they may, and, once it answers, those of another model revision."""
    pool, revision = entry.pool, source.value.revision
    limit = pool.spec.migration.max_concurrent_per_instance
    others = [r.name for r in pool.records() if r is not source and r.in_service]
    if all(name in entry.refused_by for name in others):
        entry.refused_by = ()
    arriving: dict[str, int] = {}
    for request_id in state.moving:
        move = state.entries[request_id].move
        assert move is not None
        name = move.destination.name
        arriving[name] = arriving.get(name, 0) + 1
    barred = dict(barred_slots(entry)) if pool.roles is not None else {}
    for r in pool.records():
        if r is source:
            barred[r.slot] = "source of the move"
        elif r.name in entry.refused_by:
            barred[r.slot] = "refused the move"
        elif arriving.get(r.name, 0) >= limit:
            barred[r.slot] = f"takes in {limit} moves already"
        elif entry.started and r.value.revision != revision:
            barred[r.slot] = OTHER_REVISION
    return barred


def _cancel_rest(state: CoreState, record: InstanceRecord) -> None:
    """Once: the gateway ends them with a clean error."""
    assert record.drain is not None
    if record.drain.cancelled:
        return
    record.drain.cancelled = True
    for entry in _entries_on(state, record):
        if entry.instance is record:
            request = entry.request
            reason = f"drain deadline of {record.name}"
            state.outbox.append(Cancel(entry.request_id, request.gateway_id, entry.epoch, reason))
