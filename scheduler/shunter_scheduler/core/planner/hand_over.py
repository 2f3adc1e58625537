"""Prefill to decode: what has begun to answer on an instance of role Prefill goes on elsewhere.

At the first token, not at the planner's next cycle, and whatever the policy of moves: a role is a
wish. Where nobody has room it goes on where it is, and is tried again as moves end and time passes.
"""

from collections import Counter

from shunter_scheduler.core.apart import pick_decoder
from shunter_scheduler.core.dispatch import OTHER_REVISION, Pick, make_ask, reserve_at
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.moving import MoveOrder, begin_move, may_leave, rung_between
from shunter_scheduler.core.outlook import left_to_generate
from shunter_scheduler.core.roles import NO_DECODING
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.domain.decisions import Rung

REASON = "hand-over"
MISSES = 4  # requests of one instance without a destination, after which its others wait as well


def hand_over(state: CoreState, now: float) -> None:
    """Those whose prefill has ended, and those that have had to wait since."""
    planner = state.planner
    known = map(state.entries.get, planner.to_hand_over)
    due = [entry for entry in known if entry is not None and _is_due(entry)]
    planner.to_hand_over = {}
    if not due:
        return
    busy, misses = _under_way(state), Counter[str]()
    for entry in due:
        if may_leave(entry, now) and misses[entry.instance_name] < MISSES:
            if _hand_over(state, entry, busy, now):
                continue
            misses[entry.instance_name] += 1
        planner.held_over[entry.request_id] = None
    if planner.held_over and not planner.hand_over_armed:
        planner.hand_over_armed = True
        state.timers.push(now + state.settings.moves.interval_s, "hand-over", "")


def fired(state: CoreState) -> None:
    state.planner.hand_over_armed = False
    state.planner.hand_over_again()


def _is_due(entry: Entry) -> bool:
    """It decodes where prompts are to be computed, and could go elsewhere."""
    roles, record = entry.pool.roles, entry.instance
    if roles is None or record is None or roles.role(record) != "Prefill":
        return False
    if entry.request.unmovable_reason or entry.pool.spec.migration.mode == "Off":
        return False
    return entry.state == "running" and entry.started


def _under_way(state: CoreState) -> Counter[str]:
    """Moves that each instance takes part in."""
    found: Counter[str] = Counter()
    for request_id in state.moving:
        entry = state.entries[request_id]
        assert entry.move is not None
        found[entry.move.destination.name] += 1
        if entry.instance is not None:
            found[entry.instance.name] += 1
    return found


def _hand_over(state: CoreState, entry: Entry, busy: Counter[str], now: float) -> bool:
    """False where it has to wait."""
    source = entry.instance
    assert source is not None
    if busy[source.name] >= entry.pool.spec.migration.max_concurrent_per_instance:
        return False
    barred = _barred(state, entry, busy, now)
    picked = pick_decoder(entry, source, barred, now, state.rng)
    if picked is None:
        return False
    rung = rung_between(entry, source, picked.instance, picked.cached_tokens)
    takes_s, stops = picked.prefill_s, entry.pool.stop_copies
    if rung == "kv" and stops is not None:
        takes_s = stops.takes_s(float(entry.context_tokens))
    elif rung == "kv":
        kv_bytes = entry.context_tokens * source.model.cost.kv_bytes_per_token
        takes_s = kv_bytes / state.settings.moves.kv_bytes_per_s
    sequences, tokens = source.decoding
    if left_to_generate(entry) * source.model.decode_step_s(sequences, tokens) <= takes_s:
        return False  # as far as is known it ends sooner where it is
    _order(state, entry, picked, rung, now)
    for name in (source.name, picked.instance.name):
        busy[name] += 1
    return True


def _order(state: CoreState, entry: Entry, picked: Pick, rung: Rung, now: float) -> None:
    destination, cached = picked.instance, picked.cached_tokens
    reservation = reserve_at(entry, destination, make_ask(entry, now), cached, now)
    if rung != "kv":
        wait_s = picked.prefill_s / state.settings.moves.replay_share
        state.planner.budget(destination.name).replay_free_at = now + wait_s
    elif reservation.started():
        destination.queue_moves(now)
    order = MoveOrder(
        destination, reservation, rung, REASON, ranking=picked.ranking, cached_tokens=cached
    )
    begin_move(state, entry, order, now)


def _barred(state: CoreState, entry: Entry, busy: Counter[str], now: float) -> dict[int, str]:
    """Who cannot take it, by the rules that hold for every move."""
    pool, source = entry.pool, entry.instance
    assert pool.roles is not None and source is not None
    limit = pool.spec.migration.max_concurrent_per_instance
    barred: dict[int, str] = {}
    if all(r.name in entry.refused_by for r in pool.roles.of_role("Decode", "Any")):
        entry.refused_by = ()
    for record in pool.records():
        if not pool.roles.suits(record, started=True):
            barred[record.slot] = NO_DECODING
        elif record.value.revision != source.value.revision:
            barred[record.slot] = OTHER_REVISION
        elif record.name in entry.refused_by or record.name in entry.request.excluded_instances:
            barred[record.slot] = "refused the move"
        elif busy[record.name] >= limit:
            barred[record.slot] = f"takes part in {limit} moves already"
        elif (
            rung_between(entry, source, record) == "replay"
            and state.planner.budget(record.name).replay_free_at > now
        ):
            barred[record.slot] = "busy with prefills of what moves there"
    return barred
