"""Imbalance: steps take longer, or memory is shorter, on some instances than on others."""

from collections.abc import Iterator

import numpy as np

from shunter_scheduler.core.planner.view import Case, Trigger, View, cheapest

LOOKED_AT = 4  # requests on one source
# Differences of less than this share are left alone: they come and go with every request.
MATERIAL = 0.1


def _cases(view: View) -> Iterator[Case]:
    """None while requests wait: they take whatever room a move would use."""
    fleet = view.fleet
    if view.pool.queue or not fleet.open.any():
        return
    step_s = fleet.step_s
    best_s = float(step_s[fleet.open].min())
    overflow = np.maximum(0.0, -fleet.room) / np.maximum(1.0, fleet.capacity)
    score = np.maximum(0.0, step_s / best_s - 1 - MATERIAL) + overflow
    for source in view.most(score):
        if view.traffic.may_give(source):
            started = [entry for entry in view.on(source) if entry.started]
            yield Case(source, cheapest(started, LOOKED_AT))


IMBALANCE = Trigger("imbalance", _cases)
