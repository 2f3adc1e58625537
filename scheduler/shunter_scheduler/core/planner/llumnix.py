"""The migration policy of Llumnix (OSDI 2024) as its artifact has it, to compare with.

    load = -(free - watermark - waiting - headroom) / (running + 1 if any wait)

per instance, from the engine's own numbers; its negative is the freeness. Every period, instances
of less freeness than the threshold are sources and those of more are destinations; the most loaded
is paired with the freest, the second with the second. The source gives the request of normal
priority that it admitted last; each instance takes part in one migration. A destination with a
waiting queue, or without the memory, refuses.
"""

import numpy as np
from numpy.typing import NDArray

from shunter_scheduler.core.dispatch import is_high, make_ask, reserve_at
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.moving import MoveOrder, begin_move, may_leave, rung_between
from shunter_scheduler.core.planner.view import awake
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.core.trail import Weighing
from shunter_scheduler.domain.explanation import Candidate
from shunter_scheduler.policies.llumnix import EMPTY, TARGET_TOKENS, WATERMARK

POLICY = "llumnix"
Floats = NDArray[np.float64]


def loads(records: list[InstanceRecord], pool: PoolRecord) -> Floats:
    """Of each, in KV tokens per request. Minus a great deal where nothing runs or waits, as is plus
    where it drains: none of its requests should stay."""
    out = np.empty(len(records))
    for at, record in enumerate(records):
        look = record.look(pool.settings)
        requests = look.running + (1.0 if look.waiting else 0.0)
        headroom = look.kv_capacity_tokens - TARGET_TOKENS if look.high_priority else 0.0
        free = look.kv_free_tokens - WATERMARK * look.kv_capacity_tokens
        free -= look.waiting_kv_tokens + headroom
        out[at] = -free / requests if requests else EMPTY
        if record.drain is not None:
            out[at] = -EMPTY
    return out


def pair(load: Floats, least_freeness: float) -> list[tuple[int, int]]:
    """Sources with destinations, by index: the most loaded goes with the least loaded."""
    order = np.argsort(-load, kind="stable")
    sources = [int(index) for index in order if load[index] > -least_freeness]
    destinations = [int(index) for index in order[::-1] if load[index] < -least_freeness]
    return list(zip(sources, destinations, strict=False))


def plan_llumnix(state: CoreState, pool: PoolRecord, now: float) -> None:
    records = [record for record in pool.records() if record.healthy]
    busy = _busy(state)
    load = loads(records, pool)
    for source_at, destination_at in pair(load, state.settings.moves.llumnix_freeness):
        source, destination = records[source_at], records[destination_at]
        if source.name in busy or destination.name in busy or not _takes(destination, now, pool):
            continue
        entry = _last_admitted(state, source, destination, now)
        if entry is not None and _fits(entry, destination):
            scores = (float(load[source_at]), float(load[destination_at]))
            _order(state, entry, destination, scores, now)


def _busy(state: CoreState) -> set[str]:
    found = set()
    for request_id in state.moving:
        entry = state.entries[request_id]
        if entry.instance is not None and entry.move is not None:
            found |= {entry.instance.name, entry.move.destination.name}
    return found


def _takes(destination: InstanceRecord, now: float, pool: PoolRecord) -> bool:
    seen, roles = destination.observed, pool.roles
    if roles is not None and not roles.suits(destination, started=True):
        return False
    return destination.in_service and seen is not None and not seen.waiting


def _last_admitted(
    state: CoreState, source: InstanceRecord, destination: InstanceRecord, now: float
) -> Entry | None:
    entries = (state.entries[request_id] for request_id in source.requests)
    decoding = [
        entry
        for entry in entries
        if entry.instance is source
        and entry.first_token_at is not None
        and not is_high(entry)
        and may_leave(entry, now)
        and destination.value.revision == source.value.revision
    ]
    # The artifact's engines choose among what runs.
    return max(awake(decoding), key=lambda e: (e.first_token_at or 0.0, e.request_id), default=None)


def _fits(entry: Entry, destination: InstanceRecord) -> bool:
    free = destination.kv_capacity_tokens * (1 - WATERMARK) - destination.used_tokens
    return entry.context_tokens <= free


def _order(
    state: CoreState,
    entry: Entry,
    destination: InstanceRecord,
    scores: tuple[float, float],
    now: float,
) -> None:
    source = entry.instance
    assert source is not None
    rung = rung_between(entry, source, destination)
    reservation = reserve_at(entry, destination, make_ask(entry, now), 0, now)
    if rung == "kv" and reservation.started():
        destination.queue_moves(now)
    here, there = scores
    candidates = (
        Candidate(destination.name, destination.value.profile, there, (("load", there),)),
        Candidate(source.name, source.value.profile, here, (("load", here),)),
    )
    order = MoveOrder(
        destination, reservation, rung, "imbalance", weighed=Weighing(POLICY, "tokens", candidates)
    )
    begin_move(state, entry, order, now)
