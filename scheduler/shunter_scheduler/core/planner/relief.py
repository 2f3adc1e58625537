"""Where a higher class misses its TPOT target and nobody could be moved away, suspendable requests
give their slot up until the step is short enough."""

from heapq import nsmallest

from shunter_scheduler.core.outlook import left_to_generate
from shunter_scheduler.core.planner.headroom import spared_s
from shunter_scheduler.core.planner.view import View
from shunter_scheduler.core.suspension import give_way, least_lost, lost_s_of, may_give_way

MOST_AT_ONCE = 4  # of one instance, in one cycle


def relieve(view: View) -> None:
    fleet = view.fleet
    beyond = fleet.beyond_s()
    if beyond is None:
        return
    for source in view.most(beyond):
        _relieve(view, source)


def _relieve(view: View, source: int) -> None:
    fleet, record = view.fleet, view.fleet.records[source]
    rank, target_s = max(record.tpot_targets)
    margin = 1 + view.state.settings.moves.hysteresis
    lower = [e for e in view.on(source) if e.rank < rank and may_give_way(e, view.now)]
    for entry in nsmallest(MOST_AT_ONCE, lower, key=least_lost):
        if fleet.step_s[source] <= target_s:
            return
        if spared_s(view, source) <= margin * lost_s_of(entry, record):
            return
        give_way(view.state, entry, f"a class with {target_s * 1000:.0f} ms a token", view.now)
        fleet.add(source, -1, entry.context_tokens, left_to_generate(entry))
