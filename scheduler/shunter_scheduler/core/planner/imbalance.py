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

LARGE = 2.0  # times what a request of mean size would gain, some other may


def _cases(view: View) -> Iterator[Case]:
    """None while requests wait: they take whatever room a move would use. That memory gets free is
    no reason here: it is one only once it is short."""
    if view.pool.queue or not view.fleet.open.any():
        return
    most = LARGE * _gain_s(view)
    for source in view.most(np.where(most > LEAST_NET_S, most, 0.0)):
        if view.traffic.may_give(source):
            yield Case(source, view.varied(source), eases=False)


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
