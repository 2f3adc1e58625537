"""One cycle of the planner: triggers propose, gain against cost decides, budgets bound."""

from shunter_scheduler.core.dispatch import make_ask, reserve_at
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.ledger import Reservation
from shunter_scheduler.core.moving import MoveOrder, begin_move
from shunter_scheduler.core.planner.fleet import Fleet, look
from shunter_scheduler.core.planner.gain import Weighed, weigh
from shunter_scheduler.core.planner.party import HORIZON_S, party
from shunter_scheduler.core.planner.relief import relieve
from shunter_scheduler.core.planner.traffic import Traffic
from shunter_scheduler.core.planner.triggers import TRIGGERS
from shunter_scheduler.core.planner.trips import trips_for
from shunter_scheduler.core.planner.view import Case, View
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.core.trail import Weighing
from shunter_scheduler.domain.decisions import Rung
from shunter_scheduler.domain.explanation import Candidate

POLICY = "predicted-gain"


def plan_gains(state: CoreState, pool: PoolRecord, now: float) -> None:
    fleet = look(pool, now)
    traffic = Traffic(state, pool, fleet, now)
    view = View(state, pool, fleet, traffic, now, _evened_out_s(pool, fleet, now))
    for trigger in TRIGGERS:
        for case in trigger.cases(view):
            if view.may_weigh <= 0:
                break
            found = _best(view, case)
            if found is not None:
                _order(view, case, found, trigger.reason)
    if state.may_suspend:
        relieve(view)


def _evened_out_s(pool: PoolRecord, fleet: Fleet, now: float) -> float:
    """How long one instance stays faster than another by a request: until dispatch, which sends
    what arrives to the fastest, has sent one request more there. A move for speed is worth no more
    than what it gains until then."""
    rate = pool.level.assign_rate(now)
    return max(1, int(fleet.open.sum())) / rate if rate else HORIZON_S


def _best(view: View, case: Case) -> Weighed | None:
    """The request and the destination with the most to gain; None where nothing pays."""
    if not case.entries:
        return None
    view.may_weigh -= len(case.entries)
    who = party(view, case)
    ways = [weigh(view.fleet, who, trip) for trip in trips_for(view, case, who)]
    paying = [found for found in ways if found is not None]
    return max(paying, key=lambda found: found.net_s, default=None)


def _order(view: View, case: Case, found: Weighed, reason: str) -> None:
    fleet, entry = view.fleet, found.entry
    source, destination = fleet.records[case.source], fleet.records[found.destination]
    reservation = _book(entry, destination, found.rung, view.now)
    view.traffic.book(entry, case.source, found.destination, found.rung)
    fleet.shift(case.source, found.destination, entry.context_tokens, found.left)
    total_s = sum(value for _, value in found.terms)
    going = Candidate(destination.name, destination.value.profile, total_s, found.terms)
    staying = Candidate(source.name, source.value.profile, 0.0, ())
    order = MoveOrder(
        destination,
        reservation,
        found.rung,
        reason,
        found.net_s,
        weighed=Weighing(POLICY, "s", (going, staying)),
    )
    begin_move(view.state, entry, order, view.now)


def _book(entry: Entry, destination: InstanceRecord, rung: Rung, now: float) -> Reservation:
    """Copied KV needs no prefill."""
    reservation = reserve_at(entry, destination, make_ask(entry, now), 0, now)
    if rung == "kv" and reservation.started():
        destination.queue_moves(now)
    return reservation
