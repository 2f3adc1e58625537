"""When the planner runs: at each period while something runs, in pools that may move it."""

from collections.abc import Callable

from shunter_scheduler.core.planner.cycle import plan_gains
from shunter_scheduler.core.planner.llumnix import plan_llumnix
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.domain.decisions import MovePolicyName

MOVE_POLICIES: dict[MovePolicyName, Callable[[CoreState, PoolRecord, float], None] | None] = {
    "drain-only": None,
    "llumnix": plan_llumnix,
    "predicted-gain": plan_gains,
}


def arm(state: CoreState, now: float) -> None:
    """The next cycle, if one is needed: nothing is left behind when the last request ends."""
    if not state.entries:
        return
    state.planner.armed = True
    state.timers.push(now + state.settings.moves.interval_s, "plan", "")


def fired(state: CoreState) -> None:
    state.planner.armed, state.planner.due = False, True


def plan_moves(state: CoreState, now: float) -> None:
    state.planner.due = False
    plan = MOVE_POLICIES[state.settings.moves.policy]
    for pool in state.pools.values():
        if plan is not None and len(pool.instances) > 1 and pool.spec.migration.mode != "Off":
            plan(state, pool, now)
