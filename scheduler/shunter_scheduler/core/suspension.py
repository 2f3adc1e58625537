"""Suspension: running requests of a suspendable class give their room to a higher class.

Their gateways keep what they have generated and submit them again; they wait in the queue in their
class's order, grow older there like all others, and go on where there is room. Who goes: the lowest
class first, then who has the least to lose, which is what has to be prefilled again. Who has gone
on is left alone for `Moves.settle_s`.
"""

from collections.abc import Iterable

from shunter_api.routingpolicy import RoutingPolicy
from shunter_scheduler.core.dispatch import barred_slots, make_ask
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.moving import may_leave, suspend
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.core.trail import Weighing
from shunter_scheduler.domain.explanation import Candidate

LOOKED_AT = 4  # waiting requests, from the head of the queue
AGAIN_S = 0.05  # between two looks at one pool
MAX_VICTIMS = 8  # for one waiting request


def any_suspendable(policies: Iterable[RoutingPolicy]) -> bool:
    return any(c.suspendable for policy in policies for c in policy.spec.classes)


def make_room(state: CoreState, pool: PoolRecord, now: float) -> None:
    """For those at the head of the queue that would miss their target, or wait longer than it
    costs, if nobody gave way."""
    if not pool.queue:
        return
    again_at = pool.room_sought_at + AGAIN_S
    if now < again_at:
        if not pool.room_due:
            pool.room_due = True
            state.timers.push(again_at, "room", pool.name)
        return
    pool.room_sought_at = now
    if pool.spec.migration.mode == "Off":
        return
    victims, served = _victims(state, pool, now)
    if not victims:
        return
    skip: set[str] = set()
    while len(skip) < LOOKED_AT and (found := pool.queue.next(now, skip)) is not None:
        waiting, _ = found
        skip.add(waiting.request_id)
        if waiting.request_id not in served and not waiting.request.suspended:
            _make_room_for(state, waiting, victims, now)


def _victims(
    state: CoreState, pool: PoolRecord, now: float
) -> tuple[dict[str, list[Entry]], set[str]]:
    """By instance, whom to take first in front; and for whom somebody is giving way already."""
    found: dict[str, list[Entry]] = {}
    served: set[str] = set()
    for record in pool.records():
        if not record.in_service:
            continue
        running = running_on(state, record)
        served.update(entry.suspended_for for entry in running if entry.suspended_for)
        own = [entry for entry in running if may_give_way(entry, now)]
        if own:
            found[record.name] = sorted(own, key=least_lost)
    return found, served


def may_give_way(entry: Entry, now: float) -> bool:
    return entry.slo_class.suspendable and now >= entry.rest_until and may_leave(entry, now)


def running_on(state: CoreState, record: InstanceRecord) -> list[Entry]:
    entries = (state.entries[request_id] for request_id in record.requests)
    return [entry for entry in entries if entry.instance is record]


def least_lost(entry: Entry) -> tuple[int, int, float, str]:
    """Lowest class, least progress lost, latest started."""
    started_at = entry.first_token_at or 0.0
    progress = entry.context_tokens if entry.started else 0
    return (entry.rank, progress, -started_at, entry.request_id)


def _make_room_for(
    state: CoreState, waiting: Entry, victims: dict[str, list[Entry]], now: float
) -> None:
    pool, barred = waiting.pool, barred_slots(waiting)
    needed = make_ask(waiting, now).kv_tokens
    best: tuple[float, str, list[Entry]] | None = None
    for name, candidates in victims.items():
        record = pool.instances[name]
        lower = [entry for entry in candidates if entry.rank < waiting.rank]
        if record.slot in barred or not lower:
            continue
        chosen = _enough(record, needed, lower, pool)
        if not chosen:
            continue
        lost_s = sum(lost_s_of(entry, record) for entry in chosen)
        if not _worth(waiting, _wait_s(record, needed, pool), lost_s, now, state):
            continue
        if best is None or lost_s < best[0]:
            best = (lost_s, name, chosen)
    if best is None:
        return
    lost_s, name, chosen = best
    for entry in chosen:
        victims[name].remove(entry)
        give_way(state, entry, waiting.request_id, now)


def _enough(
    record: InstanceRecord, needed: float, lower: list[Entry], pool: PoolRecord
) -> list[Entry]:
    """The first few of `lower` whose room is enough; none where it is not."""
    settings = pool.settings.head_room
    free = record.kv_capacity_tokens * (1 - settings.kv_watermark)
    free -= record.load.kv_tokens + record.foreign[1]
    places = record.places(settings)
    chosen: list[Entry] = []
    for entry in lower[:MAX_VICTIMS]:
        if free >= needed and places > 0:
            break
        chosen.append(entry)
        free += entry.reservation.kv_tokens if entry.reservation else 0
        places += 1
    return chosen if free >= needed and places > 0 else []


def lost_s_of(entry: Entry, record: InstanceRecord) -> float:
    """What it takes to bring it back: its context is prefilled again."""
    return record.model.prefill_s(entry.context_tokens)


def _wait_s(record: InstanceRecord, needed: float, pool: PoolRecord) -> float:
    """Until there is room by itself, as requests end there."""
    load, share = record.load, 1 - pool.settings.head_room.kv_watermark
    requests = max(1, load.requests)
    step_s = record.model.decode_step_s(load.requests, load.kv_tokens)
    lasts_s = step_s * load.decode_tokens / requests
    missing = needed - record.kv_capacity_tokens * share + load.kv_tokens
    return lasts_s * max(missing / max(1, load.kv_tokens), 1 / requests)


def _worth(waiting: Entry, wait_s: float, lost_s: float, now: float, state: CoreState) -> bool:
    """It would be late by waiting, or would wait for much longer than others lose."""
    if now + wait_s > waiting.latest_start_at:
        return True
    return wait_s > (1 + state.settings.moves.hysteresis) * lost_s


def give_way(state: CoreState, entry: Entry, sufferer: str, now: float) -> None:
    """`sufferer`: the request, or the class, that needs the room."""
    record = entry.instance
    assert record is not None
    lost_s = lost_s_of(entry, record)
    going = Candidate("", record.value.profile, lost_s, (("prefill", lost_s),))
    suspend(state, entry, sufferer, Weighing("", "s", (going,)), now)
