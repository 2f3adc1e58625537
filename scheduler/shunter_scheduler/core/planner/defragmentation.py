"""De-fragmentation: the request at the head of the queue fits nowhere, although the memory that is
free in total would do. Something moves off the instance where the least is missing."""

from collections.abc import Iterator

import numpy as np

from shunter_scheduler.core.dispatch import barred_slots, make_ask
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.planner.view import Case, Trigger, View
from shunter_scheduler.core.pool import PoolRecord

LOOKED_AT = 8
ROOMY = 0.5  # share of an instance's memory: what fits not even there would fit nowhere anyhow


def _cases(view: View) -> Iterator[Case]:
    fleet, pool = view.fleet, view.pool
    if not pool.queue or (fleet.open & (fleet.room > ROOMY * fleet.capacity)).any():
        return
    head = _head(pool)
    if head is None:
        return
    needed, barred = make_ask(head, view.now).kv_tokens, barred_slots(head)
    open_ = fleet.open & np.array([record.slot not in barred for record in fleet.records])
    room = np.where(open_, fleet.room, 0.0)
    if room.max(initial=0.0) >= needed or room.sum() < needed:
        return
    missing = np.where(open_ & fleet.sources, needed - room, np.inf)
    for source in np.argsort(missing, kind="stable")[:LOOKED_AT].tolist():
        if missing[source] == np.inf or not view.traffic.may_give(source):
            continue
        enough = [e for e in view.on(source) if e.started and _tokens(e) >= missing[source]]
        if not enough:
            continue
        enough.sort(key=lambda e: (_tokens(e), e.request_id))
        wait_s = _wait_s(view, source, float(missing[source]))
        late_s = max(0.0, wait_s - (head.latest_start_at - view.now))
        bonus = wait_s + pool.settings.weights.slo * min(wait_s, late_s)
        yield Case(source, enough[:LOOKED_AT], bonus=("wait", bonus))
        return


def _head(pool: PoolRecord) -> Entry | None:
    """Who is next, without asking for the next one: that changes who is put off in the queue."""
    return next((e for e in pool.queue if e.account is None or not e.account.full), None)


def _tokens(entry: Entry) -> int:
    return entry.reservation.kv_tokens if entry.reservation is not None else 0


def _wait_s(view: View, source: int, tokens: float) -> float:
    """Until so many tokens come free there by themselves."""
    fleet = view.fleet
    lasts_s = float(fleet.step_s[source] * fleet.mean_left[source])
    return tokens / max(1.0, float(fleet.used[source])) * lasts_s


DEFRAGMENTATION = Trigger("defragmentation", _cases)
