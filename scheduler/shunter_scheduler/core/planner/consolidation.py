"""Consolidation before scale-down: where fewer instances are advised than there are, the one with
the fewest requests is emptied before it is drained, so that the drain disturbs nobody.

Only while somebody asks for the advice, and once it has stood for half of `scaleDownAfter`.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from shunter_scheduler.core.outlook import left_to_generate
from shunter_scheduler.core.planner.state import Advised
from shunter_scheduler.core.planner.view import Case, Trigger, View, cheapest
from shunter_scheduler.domain.status import ScalingAdvice

LOOKED_AT = 4
ADVICE_HOLDS_S = 60.0
EARLY = 0.5  # share of scaleDownAfter
# An instance that ends sooner is worth this share of the time that its requests would hold it.
WORTH = 0.1


def surplus_of(pool: str, advice: Iterable[ScalingAdvice], now: float) -> Advised:
    """What an autoscaler was told."""
    own = [one for one in advice if one.pool == pool]
    return Advised(now, tuple((one.profile, one.replicas - one.desired_replicas) for one in own))


def _cases(view: View) -> Iterator[Case]:
    pool, fleet = view.pool, view.fleet
    advised = pool.advised
    if advised is None or view.now - advised.at > ADVICE_HOLDS_S or pool.queue:
        return
    after_s = EARLY * pool.spec.spec.scaling.scale_down_after_s
    for profile, surplus in advised.surplus:
        name = f"{pool.name}/{profile}"
        lasted_s = view.state.planner.lasted("surplus", name, surplus > 0, view.now)
        if lasted_s < after_s:
            continue
        of_profile = np.array([r.value.profile == profile for r in fleet.records])
        candidates = np.flatnonzero(of_profile & fleet.open)
        if len(candidates) < 2:
            continue
        source = int(candidates[np.argmin(fleet.requests[candidates])])
        yield from _emptied(view, source)


def _emptied(view: View, source: int) -> Iterator[Case]:
    record, state = view.fleet.records[source], view.state
    record.emptying_until = view.now + 2 * state.settings.moves.interval_s
    state.timers.push(record.emptying_until, "instance", record.name)
    view.pool.mark(record)
    view.fleet.open[source] = False
    while view.traffic.may_give(source):
        movable = cheapest([e for e in view.on(source) if e.started], LOOKED_AT)
        if not movable:
            return
        step_s, before = float(view.fleet.step_s[source]), float(view.fleet.requests[source])
        bonus = WORTH * step_s * max(left_to_generate(entry) for entry in movable)
        yield Case(source, movable, bonus=("idle", bonus))
        if view.fleet.requests[source] == before:
            return  # no move was worth it


CONSOLIDATION = Trigger("consolidation", _cases)
