"""One cycle of the planner: triggers propose, gain against cost decides, budgets bound."""

from dataclasses import dataclass

import numpy as np

from shunter_scheduler.core.dispatch import make_ask, reserve_at
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.ledger import Reservation
from shunter_scheduler.core.moving import MoveOrder, begin_move
from shunter_scheduler.core.planner.fleet import Bools, Fleet, Floats, Indices, look
from shunter_scheduler.core.planner.gain import Traveller, Trip, Weighed, traveller, weigh
from shunter_scheduler.core.planner.relief import relieve
from shunter_scheduler.core.planner.traffic import Traffic, copy_s_per_token
from shunter_scheduler.core.planner.triggers import TRIGGERS
from shunter_scheduler.core.planner.view import Case, View
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.core.trail import Weighing
from shunter_scheduler.domain.decisions import Rung
from shunter_scheduler.domain.explanation import Candidate

DESTINATIONS = 16  # weighed for one request, those with the shortest steps
POLICY = "predicted-gain"


def plan_gains(state: CoreState, pool: PoolRecord, now: float) -> None:
    fleet = look(pool, now)
    view = View(state, pool, fleet, Traffic(state, pool, fleet, now), now)
    for trigger in TRIGGERS:
        for case in trigger.cases(view):
            if view.may_weigh <= 0:
                break
            found = _best(view, case)
            if found is not None:
                _order(view, case, found, trigger.reason)
    if state.may_suspend:
        relieve(view)


@dataclass(frozen=True, slots=True)
class _Found:
    entry: Entry
    who: Traveller
    weighed: Weighed


def _best(view: View, case: Case) -> _Found | None:
    """The request and the destination with the most to gain; None where nothing pays."""
    best: _Found | None = None
    margin = 1.0 + view.state.settings.moves.hysteresis
    queue_s, step_s = float(view.fleet.queue_s[case.source]), float(view.fleet.step_s[case.source])
    view.may_weigh -= len(case.entries)
    for entry in case.entries:
        who = traveller(entry, queue_s, step_s, view.now)
        for rung in _rungs(view, entry, case):
            weighed = _weigh(view, case, entry, who, rung)
            if weighed is None or weighed.gain_s <= margin * max(weighed.cost_s, 0.0):
                continue
            if best is None or weighed.net_s > best.weighed.net_s:
                best = _Found(entry, who, weighed)
    return best


def _rungs(view: View, entry: Entry, case: Case) -> tuple[Rung, ...]:
    if not entry.started:
        return ("restart",)
    source = view.fleet.records[case.source]
    if source.kv_transport and entry.pool.spec.migration.mode == "Auto":
        return ("kv",) if view.fleet.copies_everywhere else ("kv", "replay")
    return ("replay",)


def _weigh(view: View, case: Case, entry: Entry, who: Traveller, rung: Rung) -> Weighed | None:
    fleet = view.fleet
    allowed = _allowed(view, case, entry, who, rung)
    if case.destinations is not None:
        allowed &= case.destinations
    destinations = _nearest(view, entry, allowed)
    if not len(destinations):
        return None
    s_per_token = copy_s_per_token(fleet, case.source, view.state.settings.moves.kv_bytes_per_s)
    cached = _cached(view.pool, entry, fleet, destinations)
    trip = Trip(case.source, destinations, rung, cached, s_per_token, case.bonus)
    return weigh(fleet, who, trip)


def _allowed(view: View, case: Case, entry: Entry, who: Traveller, rung: Rung) -> Bools:
    """Open, of the same model revision, with room for the whole request above the watermark,
    without a queue, and not kept for a higher class; `rung` is the best way there."""
    fleet = view.fleet
    allowed = fleet.open & view.traffic.may_take(case.source, rung) & (fleet.free >= who.context)
    allowed &= fleet.requests < view.pool.settings.head_room.max_requests
    step = fleet.step_s + fleet.per_sequence_s + who.mean_context * fleet.per_token_s
    allowed &= (fleet.target_rank <= entry.rank) | (step <= fleet.target_s)
    if entry.started:
        allowed &= fleet.revision == fleet.revision[case.source]
    if rung != "restart":
        copies = _copies(fleet, case.source, entry)
        allowed &= copies if rung == "kv" else ~copies
    if view.pool.roles is not None:
        allowed &= view.pool.roles.suit(fleet.records, entry.started)
    allowed[case.source] = False
    return allowed


def _copies(fleet: Fleet, source: int, entry: Entry) -> Bools:
    """Where KV can be copied to, as `rung_between` has it."""
    transport = fleet.transport[source]
    if transport < 0 or entry.pool.spec.migration.mode != "Auto":
        return np.zeros(len(fleet), dtype=np.bool_)
    copies: Bools = fleet.transport == transport
    return copies


def _nearest(view: View, entry: Entry, allowed: Bools) -> Indices:
    """Those with the shortest steps among the allowed ones that have not refused this request."""
    fleet = view.fleet
    found = np.flatnonzero(allowed)
    speed = fleet.step_s[found] + fleet.queue_s[found]
    if len(found) > 2 * DESTINATIONS:
        best = np.argpartition(speed, 2 * DESTINATIONS)[: 2 * DESTINATIONS]
        found, speed = found[best], speed[best]
    nearest: list[int] = []
    for index in found[np.argsort(speed, kind="stable")].tolist():
        name = fleet.records[index].name
        if name not in entry.refused_by and name not in entry.request.excluded_instances:
            nearest.append(index)
            if len(nearest) == DESTINATIONS:
                break
    return np.array(nearest, dtype=np.intp)


def _cached(pool: PoolRecord, entry: Entry, fleet: Fleet, destinations: Indices) -> Floats:
    """Tokens of the prompt that each destination has in its prefix cache."""
    hashes = entry.request.block_hashes
    if not hashes:
        return np.zeros(len(destinations))
    held = np.zeros(pool.columns.capacity)
    limit = entry.context_tokens - 1
    pool.prefix.fill(pool.prefix.match(hashes), pool.settings.block_tokens, limit, held)
    slots = [fleet.records[index].slot for index in destinations.tolist()]
    found: Floats = held[slots]
    return found


def _order(view: View, case: Case, found: _Found, reason: str) -> None:
    fleet, entry, weighed = view.fleet, found.entry, found.weighed
    source, destination = fleet.records[case.source], fleet.records[weighed.destination]
    reservation = _book(entry, destination, weighed.rung, view.now)
    view.traffic.book(entry, case.source, weighed.destination, weighed.rung)
    fleet.shift(case.source, weighed.destination, found.who.context, found.who.left)
    total_s = sum(value for _, value in weighed.terms)
    going = Candidate(destination.name, destination.value.profile, total_s, weighed.terms)
    staying = Candidate(source.name, source.value.profile, 0.0, ())
    order = MoveOrder(
        destination,
        reservation,
        weighed.rung,
        reason,
        weighed.net_s,
        weighed=Weighing(POLICY, "s", (going, staying)),
    )
    begin_move(view.state, entry, order, view.now)


def _book(entry: Entry, destination: InstanceRecord, rung: Rung, now: float) -> Reservation:
    """Copied KV needs no prefill."""
    reservation = reserve_at(entry, destination, make_ask(entry, now), 0, now)
    if rung == "kv" and reservation.started():
        destination.queue_moves(now)
    return reservation
