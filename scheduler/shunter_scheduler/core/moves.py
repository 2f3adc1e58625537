"""The move planner. Its one trigger so far is a drain: no new work, and what runs is moved."""

from shunter_scheduler.core.dispatch import OTHER_REVISION, Barred, pick, reserve_for
from shunter_scheduler.core.entry import Entry, PendingMove
from shunter_scheduler.core.instance import Drain, InstanceRecord
from shunter_scheduler.core.lifecycle import occupy
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.domain.decisions import Cancel, Move, Rung
from shunter_scheduler.domain.events import DrainCancelled, DrainRequested, MoveDone
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
    movable = [e for e in owned if e.state == "running" and _may_move(e, now)]
    movable.sort(key=lambda e: (e.started, e.output_tokens - e.expected_tokens, e.request_id))
    for entry in movable[: max(0, free)]:
        if not _start_move(state, entry, "drain", now):
            if drain.again_at <= now:
                drain.again_at = now + state.settings.moves.cooldown_s
                state.timers.push(drain.again_at, "instance", record.name)
            return


def _entries_on(state: CoreState, record: InstanceRecord) -> list[Entry]:
    return [state.entries[request_id] for request_id in record.requests]


def _may_move(entry: Entry, now: float) -> bool:
    """Before the first token everything can be started again elsewhere."""
    if now < entry.move_not_before:
        return False
    return not entry.started or not entry.request.unmovable_reason


def _start_move(state: CoreState, entry: Entry, reason: str, now: float) -> bool:
    """False where no destination has head room."""
    source = entry.instance
    assert source is not None
    picked = pick(entry, now, state.rng, _barred(state, entry, source))
    if picked is None:
        return False
    destination = picked.instance
    reservation = reserve_for(entry, picked, now)
    rung: Rung = "replay" if entry.started else "restart"
    entry.move = PendingMove(destination, reservation, now)
    entry.state = entry.trail.state = "moving"
    state.timers.push(now + state.settings.moves.timeout_s, "move", entry.request_id)
    state.trace(
        entry,
        now,
        "move",
        winner=destination.name,
        reason=f"{reason} of {source.name}, by {rung}",
        ranking=picked.ranking,
        cached_tokens=picked.cached_tokens,
    )
    state.outbox.append(
        Move(
            entry.request_id,
            entry.request.gateway_id,
            entry.epoch,
            source.name,
            destination.name,
            rung,
            reason,
        )
    )
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
    for other in state.entries.values():
        if other.move is not None:
            name = other.move.destination.name
            arriving[name] = arriving.get(name, 0) + 1
    barred: dict[int, str] = {}
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


def move_done(state: CoreState, event: MoveDone, now: float) -> None:
    entry = state.entries.get(event.request_id)
    if entry is None or event.epoch < entry.epoch:
        return
    if event.moved:
        _moved(state, entry, event, now)
    elif entry.move is not None and event.epoch == entry.epoch:
        entry.refused_by += (entry.move.destination.name,)
        _not_moved(state, entry, event.reason or "the gateway gave no reason", now)


def _moved(state: CoreState, entry: Entry, event: MoveDone, now: float) -> None:
    if event.epoch == entry.epoch:
        return  # heard before
    source, move = entry.instance, entry.move
    if entry.state == "waiting":  # the gateway's journal is the record: it runs
        entry.pool.queue.remove(entry.request_id)
    if source is not None and entry.reservation is not None:
        state.give_back(entry, entry.reservation, source, now)
    entry.instance = entry.reservation = None
    entry.epoch = event.epoch
    entry.instance_name = event.instance
    entry.state = entry.trail.state = "running"
    entry.move_not_before = now + state.settings.moves.cooldown_s
    if not entry.started and (destination := state.instances.get(event.instance)):
        entry.trail.revision = destination.value.revision
    if move is not None and move.destination.name == event.instance and move.reservation.open:
        entry.move = None
        entry.instance, entry.reservation = move.destination, move.reservation
        _settled(entry, now)
    else:
        state.abandon_move(entry, now)
        record = state.instances.get(event.instance)
        if record is not None:
            occupy(state, entry, record)
    if source is not None and source.drain is not None:
        source.drain.moved += 1
    state.moved_total += 1


def _settled(entry: Entry, now: float) -> None:
    """A request that had started goes on at once: the destination was warmed before."""
    record, reservation = entry.instance, entry.reservation
    if record is None or reservation is None:
        return
    if entry.started and reservation.started():
        record.queue_moves(now)
    if not entry.started:
        entry.first_token_at = None
    entry.pool.mark(record)


def _not_moved(state: CoreState, entry: Entry, reason: str, now: float) -> None:
    move = entry.move
    assert move is not None
    state.abandon_move(entry, now)
    entry.state = entry.trail.state = "running"
    entry.move_not_before = now + state.settings.moves.cooldown_s
    state.trace(
        entry,
        now,
        "move",
        winner=entry.instance_name,
        reason=f"not moved to {move.destination.name}: {reason}",
    )
    if entry.instance is not None:
        state.timers.push(entry.move_not_before, "instance", entry.instance.name)


def move_timed_out(state: CoreState, entry: Entry, now: float) -> None:
    """The gateway has said nothing for too long: its record decides, the room is given back."""
    move = entry.move
    if move is not None and now >= move.started_at + state.settings.moves.timeout_s:
        entry.refused_by += (move.destination.name,)
        _not_moved(state, entry, "no answer from the gateway", now)


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
