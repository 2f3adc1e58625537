"""Orders moves and suspensions, and takes in what gateways answer. Which to make others decide."""

from dataclasses import dataclass

from shunter_api.modelpool import ModelPool
from shunter_scheduler.core.entry import Entry, PendingMove
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.ledger import Reservation
from shunter_scheduler.core.lifecycle import cancel_again, occupy
from shunter_scheduler.core.metering import begin
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.core.trail import Ranking, Weighing
from shunter_scheduler.domain.decisions import Move, Rung, Suspend
from shunter_scheduler.domain.events import MoveDone
from shunter_scheduler.domain.explanation import Moved

UNKNOWN_IDS = "unknown_token_ids"  # why a gateway cannot replay: the engine keeps some to itself


@dataclass(frozen=True, slots=True)
class MoveOrder:
    """Where to, booked already. `gain_s`: seconds gained less those that it costs; 0: not known.
    Why is told by a ranking of destinations, or by what was `weighed`."""

    destination: InstanceRecord
    reservation: Reservation
    rung: Rung
    reason: str
    gain_s: float = 0.0
    ranking: Ranking | None = None
    cached_tokens: int = 0
    weighed: Weighing | None = None


def may_leave(entry: Entry, now: float) -> bool:
    """Before the first token everything can be started again elsewhere."""
    if now < entry.move_not_before or entry.state != "running" or entry.suspended_for:
        return False
    return not entry.request.unmovable_reason or not entry.started


def rung_between(
    entry: Entry, source: InstanceRecord, destination: InstanceRecord, cached_tokens: int = 0
) -> Rung:
    """The best one that both engines can do and the pool allows. `cached_tokens`: of its context,
    in the destination's prefix cache."""
    if not entry.started:
        return "restart"
    return "kv" if takes_kv(entry, source, destination, cached_tokens) else "replay"


def takes_kv(
    entry: Entry, source: InstanceRecord, destination: InstanceRecord, cached_tokens: int = 0
) -> bool:
    """Its KV cache may go with it, and does not stop it for longer than a replay is worth."""
    pool = entry.pool
    if not copies_kv(pool.spec, source, destination):
        return False
    stops, tokens = pool.stop_copies, entry.context_tokens
    if stops is None:
        return True
    if tokens >= stops.bound_tokens:
        return False
    return entry.only_kv or stops.pays(tokens, source, destination, cached_tokens)


def copies_kv(pool: ModelPool, source: InstanceRecord, destination: InstanceRecord) -> bool:
    """KV blocks may go from one to the other."""
    same = source.kv_transport == destination.kv_transport != ""
    return same and pool.migration.mode == "Auto"


def begin_move(state: CoreState, entry: Entry, order: MoveOrder, now: float) -> None:
    source = entry.instance
    assert source is not None
    destination, rung = order.destination, order.rung
    stops = entry.pool.stop_copies if rung == "kv" else None
    waits = (
        f", its client waits {stops.takes_s(float(entry.context_tokens)):.2f} s" if stops else ""
    )
    entry.move = PendingMove(destination, order.reservation, now)
    entry.state = entry.trail.state = "moving"
    state.moving[entry.request_id] = None
    state.timers.push(now + state.settings.moves.timeout_s, "move", entry.request_id)
    state.trace(
        entry,
        now,
        "move",
        winner=destination.name,
        reason=f"{order.reason} of {source.name}, by {rung}{waits}",
        ranking=order.ranking,
        cached_tokens=order.cached_tokens,
        weighed=order.weighed,
    )
    state.outbox.append(
        Move(
            entry.request_id,
            entry.request.gateway_id,
            entry.epoch,
            source.name,
            destination.name,
            rung,
            order.reason,
            order.gain_s,
        )
    )


def suspend(state: CoreState, entry: Entry, sufferer: str, weighed: Weighing, now: float) -> None:
    """Its room stays booked until the gateway submits it again. `sufferer`: the request, or the
    class, that needs the room."""
    source = entry.instance
    assert source is not None
    entry.suspended_for = sufferer
    entry.rest_until = now + state.settings.moves.timeout_s  # or until the gateway answers
    state.timers.push(entry.rest_until, "move", entry.request_id)
    reason = f"room for {sufferer}"
    state.trace(entry, now, "suspend", winner=source.name, reason=reason, weighed=weighed)
    request = entry.request
    state.outbox.append(Suspend(entry.request_id, request.gateway_id, entry.epoch, reason))


def move_done(state: CoreState, event: MoveDone, now: float) -> None:
    entry = state.entries.get(event.request_id)
    if entry is None or event.epoch < entry.epoch:
        return
    if event.moved:
        _moved(state, entry, event, now)
    elif event.epoch != entry.epoch and event.instance != entry.instance_name:
        return
    else:
        entry.epoch = event.epoch  # newer where a source that had stopped goes on
        _stays(state, entry, event.reason or "the gateway gave no reason", now)
    if entry.pool.stop_copies is not None:
        entry.pool.stop_copies.heard(entry.context_tokens, event.reason, now)
    if entry.instance is not None:
        cancel_again(entry.instance)
    if entry.pool.roles is not None:  # it may be in the wrong place, and others may take its turn
        state.planner.to_hand_over[entry.request_id] = None
        state.planner.hand_over_again()


def _stays(state: CoreState, entry: Entry, reason: str, now: float) -> None:
    if entry.move is not None:
        if reason == UNKNOWN_IDS and not entry.only_kv:
            entry.only_kv = True  # and may go to the same destination with its KV cache
        else:
            entry.refused_by += (entry.move.destination.name,)
        _not_moved(state, entry, reason, now)
    elif entry.suspended_for:
        entry.suspended_for = ""
        entry.rest_until = now + state.settings.moves.settle_s


def _moved(state: CoreState, entry: Entry, event: MoveDone, now: float) -> None:
    if event.epoch == entry.epoch:
        return  # heard before
    source, move = entry.instance, entry.move
    if entry.state == "waiting":  # the gateway's journal is the record: it runs
        entry.pool.queue.remove(entry.request_id)
        begin(entry)
    if source is not None and entry.reservation is not None:
        state.give_back(entry, entry.reservation, source, now)
    entry.instance = entry.reservation = None
    entry.epoch = event.epoch
    entry.instance_name = event.instance
    entry.state = entry.trail.state = "running"
    entry.suspended_for = ""
    entry.move_not_before = now + state.settings.moves.cooldown_s
    entry.rest_until = now + state.settings.moves.settle_s
    entry.progressed_at = now
    if not entry.started and (destination := state.instances.get(event.instance)):
        entry.trail.revision = destination.value.revision
    if move is not None and move.destination.name == event.instance and move.reservation.open:
        entry.move = None
        state.moving.pop(entry.request_id, None)
        entry.instance, entry.reservation = move.destination, move.reservation
        _settled(entry, now)
        _learn(entry, event, move.destination, now)
    else:
        state.abandon_move(entry, now)
        record = state.instances.get(event.instance)
        if record is not None:
            occupy(state, entry, record)
    if entry.instance is not None and entry.policy.uses_prefix:
        entry.pool.holds(entry.instance, entry.request.block_hashes)
    if source is not None and source.drain is not None:
        source.drain.moved += 1
    state.moved_total += 1
    entry.trail.note_moved(event.instance, Moved(event.rung, event.stall_s, event.copied_bytes))
    if event.reason:  # by another rung than was ordered
        reason = f"moved by {event.rung}: {event.reason}"
        state.trace(entry, now, "move", winner=event.instance, reason=reason)


def _learn(entry: Entry, event: MoveDone, destination: InstanceRecord, now: float) -> None:
    copies = entry.pool.stop_copies
    if copies is not None and event.rung == "kv" and event.stall_s > 0:
        step_s = destination.model.decode_step_s(*destination.decoding)
        copies.observe(entry.context_tokens, event.stall_s, step_s, now)


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
    elif move is None and entry.suspended_for and now >= entry.rest_until:
        entry.suspended_for = ""
        entry.rest_until = now + state.settings.moves.settle_s
