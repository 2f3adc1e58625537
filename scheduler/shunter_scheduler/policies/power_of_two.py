"""The less loaded of two instances drawn at random (Mitzenmacher, 2001)."""

import numpy as np
from numpy.random import Generator

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.least_requests import terms
from shunter_scheduler.policies.policy import DispatchPolicy


def _score(columns: InstanceColumns, ask: Ask, rng: Generator) -> None:
    columns.score.fill(np.inf)
    eligible = np.flatnonzero(~columns.excluded)
    if eligible.size > 2:
        first = int(rng.integers(eligible.size))
        second = int(rng.integers(eligible.size - 1))
        eligible = eligible[[first, second + (second >= first)]]
    columns.score[eligible] = columns.requests[eligible]


POWER_OF_TWO = DispatchPolicy("power-of-two", _score, terms, unit="requests")
