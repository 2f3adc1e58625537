"""Return to a preferred profile, once it has had room for `scaling.returnAfter`."""

from collections.abc import Iterator

import numpy as np

from shunter_scheduler.core.outlook import left_to_generate
from shunter_scheduler.core.planner.fleet import Bools
from shunter_scheduler.core.planner.view import Case, Trigger, View, cheapest

LOOKED_AT = 2
PREFERENCE = 0.1  # of the time that it takes up elsewhere, a request gains by being where it should
ROOMY = 0.5  # share of an instance's memory that has to be free


def _cases(view: View) -> Iterator[Case]:
    fleet, pool = view.fleet, view.pool
    if len(pool.spec.profiles) < 2 or pool.queue:
        return
    settled = _settled(view)
    if not settled.any():
        return
    best = float(fleet.preference[settled].min())
    score = np.where(fleet.preference > best, fleet.preference, 0.0)
    for source in view.most(score):
        if not view.traffic.may_give(source):
            continue
        step_s = float(fleet.step_s[source])
        for entry in cheapest([e for e in view.on(source) if e.started], LOOKED_AT):
            gain_s = PREFERENCE * left_to_generate(entry) * step_s
            better = settled & (fleet.preference < fleet.preference[source])
            yield Case(source, [entry], better, ("preference", gain_s))


def _settled(view: View) -> Bools:
    """Instances with room, of profiles that have had such for long enough."""
    fleet, pool = view.fleet, view.pool
    roomy: Bools = fleet.open & (fleet.room > ROOMY * fleet.capacity) & (fleet.queue_s == 0)
    out: Bools = np.zeros(len(fleet), dtype=np.bool_)
    after_s = pool.spec.spec.scaling.return_after_s
    for place, profile in enumerate(pool.spec.profiles[:-1]):
        of_profile = roomy & (fleet.preference == place)
        name = f"{pool.name}/{profile.name}"
        lasted_s = view.state.planner.lasted("room", name, bool(of_profile.any()), view.now)
        if lasted_s >= after_s:
            out |= of_profile
    return out


PREFERRED_PROFILE = Trigger("preferred-profile", _cases)
