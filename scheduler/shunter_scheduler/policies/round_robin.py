"""Each instance in turn."""

import numpy as np
from numpy.random import Generator

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.policy import DispatchPolicy, Terms
from shunter_scheduler.policies.rows import InstanceRow

# Slots are small integers: a large modulus keeps (slot - turn) in order of turn.
_CYCLE = float(1 << 30)


def _score(columns: InstanceColumns, ask: Ask, rng: Generator) -> None:
    np.subtract(columns.slots, float(ask.turn), out=columns.score)
    np.mod(columns.score, _CYCLE, out=columns.score)


def _terms(row: InstanceRow, ask: Ask, cached_tokens: int) -> Terms:
    return (("turn", float(row.slot - ask.turn) % _CYCLE),)


ROUND_ROBIN = DispatchPolicy("round-robin", _score, _terms, unit="turns")
