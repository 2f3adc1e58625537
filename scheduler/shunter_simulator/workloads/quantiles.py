"""Lengths drawn from a few published quantiles of a distribution and its mean."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_SHARES = np.array([0.0, 0.5, 0.8, 0.95, 0.99, 1.0])
_STEPS = 60  # of bisection


@dataclass(frozen=True)
class QuantileTable:
    """Log-linear between the quantiles, in tokens. The least length, and where that does not do
    the greatest, is what gives the mean."""

    mean: float
    p50: float
    p80: float
    p95: float
    p99: float

    def lengths(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """The inverse of the distribution at each of `uniform`, from [0, 1)."""
        logs = np.interp(uniform, _SHARES, np.log(self._knots))
        return np.maximum(1, np.rint(np.exp(logs))).astype(np.int64)

    @cached_property
    def _knots(self) -> NDArray[np.float64]:
        top = self.p99**2 / self.p95  # as far from the 99th percentile as that from the 95th
        least = _solve(lambda low: self._mean_of(low, top), self.mean, 1.0, self.p50)
        if self._mean_of(least, top) > self.mean * 1.001:
            top = _solve(lambda high: self._mean_of(least, high), self.mean, self.p99, top)
        return self._with_ends(least, top)

    def _with_ends(self, least: float, top: float) -> NDArray[np.float64]:
        return np.array([least, self.p50, self.p80, self.p95, self.p99, top])

    def _mean_of(self, least: float, top: float) -> float:
        """The logarithmic mean of each piece's ends, weighted with its share."""
        knots = self._with_ends(least, top)
        low, high = knots[:-1], np.maximum(knots[1:], knots[:-1] * (1 + 1e-9))
        return float(np.sum(np.diff(_SHARES) * (high - low) / np.log(high / low)))


def _solve(increasing: Callable[[float], float], goal: float, low: float, high: float) -> float:
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < goal else (low, middle)
    return low
