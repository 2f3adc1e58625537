"""Imbalance: steps take longer on some instances than on others, for longer than dispatch needs to
even that out.

What a move could gain is told from each instance's own numbers first: most of the time that is too
little everywhere, and nothing is weighed.
"""

from collections.abc import Iterator

import numpy as np

from shunter_scheduler.core.planner.fleet import Floats
from shunter_scheduler.core.planner.gain import LEAST_NET_S
from shunter_scheduler.core.planner.party import HORIZON_S
from shunter_scheduler.core.planner.view import Case, Trigger, View
from shunter_scheduler.core.stop_copy import STALL_STEPS

IN_VAIN_S = 2.0  # until an instance is looked at again where no move paid
LARGE = 2.0  # times what a request of mean size would gain, some other may


def _cases(view: View) -> Iterator[Case]:
    """None while requests wait: they take whatever room a move would use. That memory gets free is
    no reason here: it is one only once it is short."""
    fleet, planner = view.fleet, view.state.planner
    if view.pool.queue or not fleet.open.any():
        return
    most = LARGE * _gain_s(view)
    margin = 1.0 + view.state.settings.moves.hysteresis
    least = LEAST_NET_S + margin * STALL_STEPS * float(fleet.step_s[fleet.open].min())
    for source in view.most(np.where(most > least, most, 0.0)):
        name = fleet.records[source].name
        if view.now < planner.look_again_at.get(name, 0.0) or not view.traffic.may_give(source):
            continue
        before = fleet.requests[source]
        yield Case(source, view.varied(source), eases=False)
        if fleet.requests[source] == before:
            planner.look_again_at[name] = view.now + IN_VAIN_S


def _gain_s(view: View) -> Floats:
    """What a request of mean size, and those that stay, would win where steps are shortest."""
    fleet = view.fleet
    step_s, requests = fleet.step_s, np.maximum(1.0, fleet.requests)
    soon = min(view.horizon_s, HORIZON_S) / step_s
    share = fleet.per_sequence_s + fleet.used / requests * fleet.per_token_s
    best = int(np.argmin(np.where(fleet.open, step_s, np.inf)))
    harm = fleet.requests[best] * np.minimum(soon, fleet.mean_left[best]) * share[best]
    own = soon * (step_s - float(step_s[best] + share[best]))
    others = (requests - 1) * np.minimum(soon, fleet.mean_left) * share
    gain: Floats = own + others - harm
    return gain


IMBALANCE = Trigger("imbalance", _cases)
