"""Imbalance: steps take longer, or memory is shorter, on some instances than on others."""

from collections.abc import Iterator

import numpy as np

from shunter_scheduler.core.planner.view import Case, Trigger, View

RISKY = 0.01  # of a preemption
# Differences of less than this share are left alone: they come and go with every request.
MATERIAL = 0.1


def _cases(view: View) -> Iterator[Case]:
    """None while requests wait: they take whatever room a move would use."""
    fleet = view.fleet
    if view.pool.queue or not fleet.open.any():
        return
    step_s = fleet.step_s
    best_s = float(step_s[fleet.open].min())
    risk = fleet.risk(np.arange(len(fleet)))
    score = np.maximum(0.0, step_s / best_s - 1 - MATERIAL) + np.where(risk > RISKY, risk, 0.0)
    for source in view.most(score):
        if view.traffic.may_give(source):
            yield Case(source, view.varied(source))


IMBALANCE = Trigger("imbalance", _cases)
