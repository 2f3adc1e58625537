"""The instance with the fewest requests in the ledger."""

import numpy as np
from numpy.random import Generator

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.policy import DispatchPolicy, Terms
from shunter_scheduler.policies.rows import InstanceRow


def _score(columns: InstanceColumns, ask: Ask, rng: Generator) -> None:
    np.copyto(columns.score, columns.requests)


def terms(row: InstanceRow, ask: Ask, cached_tokens: int) -> Terms:
    return (("requests", float(row.requests)),)


LEAST_REQUESTS = DispatchPolicy("least-requests", _score, terms, unit="requests")
