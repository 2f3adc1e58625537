"""`SchedulerCore`: events in, decisions out."""

from collections.abc import Callable
from typing import Any

from numpy.random import Generator

from shunter_scheduler.core import kv_events, lifecycle, moves, moving, topology
from shunter_scheduler.core.costs import ProfileCosts, profile_cost
from shunter_scheduler.core.dispatching import dispatch_pool, timed_out
from shunter_scheduler.core.holds import refresh_holds
from shunter_scheduler.core.lengths import OutputLengths
from shunter_scheduler.core.planner import hand_over
from shunter_scheduler.core.planner.consolidation import surplus_of
from shunter_scheduler.core.planner.run import MOVE_POLICIES, arm, fired, plan_moves
from shunter_scheduler.core.report import cluster_status
from shunter_scheduler.core.scaling import advise
from shunter_scheduler.core.settings import CoreSettings
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.core.suspension import make_room
from shunter_scheduler.core.timers import Timer
from shunter_scheduler.core.trail import EndedTrails
from shunter_scheduler.domain import events
from shunter_scheduler.domain.decisions import Decision
from shunter_scheduler.domain.events import Event
from shunter_scheduler.domain.explanation import Explanation
from shunter_scheduler.domain.status import ClusterStatus, DrainStatus, ScalingAdvice

Handler = Callable[[CoreState, Any, float], None]

HANDLERS: dict[type, Handler] = {
    events.Submitted: lifecycle.submitted,
    events.Running: lifecycle.running,
    events.FirstToken: lifecycle.first_token,
    events.Progress: lifecycle.progress,
    events.Finished: lifecycle.finished,
    events.Failed: lifecycle.failed,
    events.GatewayLost: lifecycle.gateway_lost,
    events.MoveDone: moving.move_done,
    events.DrainRequested: moves.drain_requested,
    events.DrainCancelled: moves.drain_cancelled,
    events.TopologyChanged: topology.topology_changed,
    events.InstanceObserved: topology.instance_observed,
    events.KvBlocksStored: kv_events.kv_stored,
    events.KvBlocksRemoved: kv_events.kv_removed,
    events.KvCleared: kv_events.kv_cleared,
}


class SchedulerCore:
    """Not safe for threads: one owner calls it. `now` never goes back. `profile_costs` gives the
    rates that a profile starts with: by default those of the cost model."""

    def __init__(
        self, settings: CoreSettings, rng: Generator, profile_costs: ProfileCosts = profile_cost
    ) -> None:
        self._plans = MOVE_POLICIES[settings.moves.policy] is not None
        self._state = CoreState(
            settings,
            rng,
            EndedTrails(settings.max_explanations),
            OutputLengths(settings.default_output_tokens),
            profile_costs,
        )

    def apply(self, event: Event, now: float) -> None:
        HANDLERS[type(event)](self._state, event, now)

    def decide(self, now: float) -> list[Decision]:
        """1. What is due. 2. Admit and dispatch, pool by pool. 3. Plan moves."""
        state = self._state
        for timer in state.timers.due(now):
            self._fire(timer, now)
        while state.busy:
            name = next(iter(state.busy))
            del state.busy[name]
            pool = state.pools[name]
            dispatch_pool(state, pool, now)
            if state.may_suspend and pool.queue:
                make_room(state, pool, now)
        if state.planner.to_hand_over:
            hand_over.hand_over(state, now)
        if state.draining:
            moves.plan_drains(state, now)
        if state.planner.due:
            plan_moves(state, now)
        if self._plans and not state.planner.armed:
            arm(state, now)
        decided, state.outbox = state.outbox, []
        return decided

    def next_wake(self, now: float) -> float | None:
        """When `decide` could have something new without an event; None: never."""
        return self._state.timers.next()

    def explain(self, request_id: str, now: float) -> Explanation | None:
        """Of a request that runs or has ended lately; "" is the one decided about last."""
        state = self._state
        request_id = request_id or state.latest
        entry = state.entries.get(request_id)
        if entry is not None:
            return entry.trail.explanation(entry.output_tokens)
        trail = state.ended.get(request_id)
        return trail.explanation(trail.output_tokens) if trail else None

    def requests_of(self, gateway_id: str) -> dict[str, int]:
        """A gateway's requests that wait or run: id to epoch."""
        state = self._state
        return {one: state.entries[one].epoch for one in state.of_gateway.get(gateway_id, ())}

    def status(self, now: float) -> ClusterStatus:
        return cluster_status(self._state, now)

    def drain_status(self, instance: str) -> DrainStatus | None:
        """None where the instance is unknown or was not asked to drain."""
        return moves.drain_status(self._state, instance)

    def advise_scaling(self, pool: str, now: float) -> list[ScalingAdvice]:
        """Of one pool, or of all where `pool` is empty."""
        pools = self._state.pools
        chosen = [pools[pool]] if pool in pools else [] if pool else list(pools.values())
        advice = advise(self._state, chosen, now)
        for one in chosen:
            one.advised = surplus_of(one.name, advice, now)
        return advice

    def _fire(self, timer: Timer, now: float) -> None:
        state = self._state
        if timer.kind == "holds":
            pool = state.pools.get(timer.key)
            if pool is not None:
                refresh_holds(state, pool, now)
        elif timer.kind == "room":
            pool = state.pools.get(timer.key)
            if pool is not None:
                pool.room_due = False
                state.wake(pool)
        elif timer.kind == "plan":
            fired(state)
        elif timer.kind == "hand-over":
            hand_over.fired(state)
        elif timer.kind == "alpha":
            pool = state.pools.get(timer.key)
            if pool is not None and pool.tuner is not None:
                pool.tuner.step(state.timers, pool, now)
        elif timer.kind == "instance":
            record = state.instances.get(timer.key)
            if record is not None:
                pool = state.pools[record.value.pool]
                pool.mark(record)
                state.wake(pool)
        else:
            entry = state.entries.get(timer.key)
            if entry is not None and timer.kind == "timeout":
                timed_out(state, entry, now)
            elif entry is not None:
                moving.move_timed_out(state, entry, now)
