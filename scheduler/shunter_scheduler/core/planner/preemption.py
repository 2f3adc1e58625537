"""Preemption: memory is about to run out, unless somebody ends or leaves before."""

from collections.abc import Iterator

import numpy as np

from shunter_scheduler.core.planner.fleet import Floats
from shunter_scheduler.core.planner.gain import LEAST_NET_S, MOST_CHANCES
from shunter_scheduler.core.planner.view import Case, Trigger, View

# A copy of a long context takes a second or two, and the planner looks twice a second. Earlier than
# this it is as well to wait and see: somebody may end.
LEAD_S = 6.0


def _cases(view: View) -> Iterator[Case]:
    """While requests wait, too: a preemption takes more from all than a turn in the queue."""
    fleet = view.fleet
    steps = (fleet.capacity - fleet.used) / np.maximum(1.0, fleet.requests)
    soon = steps * fleet.step_s < LEAD_S  # memory lasts no longer
    if not soon.any():
        return
    most: Floats = MOST_CHANCES * fleet.risk() * fleet.preempted_s()
    for source in view.most(np.where(soon & (most > LEAST_NET_S), most, 0.0)):
        if view.traffic.may_give(source):
            yield Case(source, view.varied(source))


PREEMPTION = Trigger("preemption", _cases)
