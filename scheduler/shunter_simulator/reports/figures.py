"""Summaries of times."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray


class Summary(msgspec.Struct, frozen=True):
    """Seconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    count: int


def summary(values: Iterable[float]) -> Summary | None:
    """Percentiles by linear interpolation. None for no values."""
    array = isinstance(values, np.ndarray)
    data = np.asarray(values) if array else np.fromiter(values, dtype=np.float64)
    if not len(data):
        return None
    p50, p90, p95, p99 = (float(p) for p in np.percentile(data, (50, 90, 95, 99)))
    return Summary(float(data.mean()), p50, p90, p95, p99, float(data.max()), len(data))


@dataclass(frozen=True, slots=True)
class Slo:
    """Targets for an answer; infinity where any time will do."""

    ttft_s: float = inf
    tpot_s: float = inf
    e2e_s: float = inf

    def met(
        self, ttft_s: ArrayLike, tpot_s: ArrayLike, e2e_s: ArrayLike = 0.0
    ) -> NDArray[np.bool_]:
        """Of each answer. NaN: it never began (not met), or has one token and no TPOT (met)."""
        ttft, tpot = np.asarray(ttft_s, np.float64), np.asarray(tpot_s, np.float64)
        in_time = (ttft <= self.ttft_s) & (np.asarray(e2e_s) <= self.e2e_s)
        return in_time & (np.isnan(tpot) | (tpot <= self.tpot_s))
