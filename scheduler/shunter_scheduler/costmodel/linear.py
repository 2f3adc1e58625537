"""Straight-line summary of a cost model."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_PREFILL_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
_BATCHES = (1, 4, 16, 32, 64, 128, 256)
_CONTEXTS = (256, 1024, 4096)  # tokens per sequence


@dataclass(frozen=True, slots=True)
class LinearRates:
    """In seconds. A prefill takes base + tokens * rate, a decode step base + sequences * rate +
    tokens of context * rate."""

    prefill_base_s: float
    prefill_s_per_token: float
    decode_base_s: float
    decode_s_per_sequence: float
    decode_s_per_context_token: float


class StepTimes(Protocol):
    def prefill_s(self, new_tokens: int, past_tokens: int = 0) -> float: ...
    def decode_step_s(self, batch: int, context_tokens: int) -> float: ...


def fit_linear(times: StepTimes) -> LinearRates:
    """Least relative squares over prompts of 64 to 8,192 tokens, batches of 1 to 256 sequences."""
    prefill = _fit(
        np.array([[1.0, n] for n in _PREFILL_TOKENS]),
        np.array([times.prefill_s(n) for n in _PREFILL_TOKENS]),
    )
    steps = [(batch, batch * context) for batch in _BATCHES for context in _CONTEXTS]
    decode = _fit(
        np.array([[1.0, batch, context] for batch, context in steps]),
        np.array([times.decode_step_s(batch, context) for batch, context in steps]),
    )
    return LinearRates(*prefill, *decode)


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[float]:
    coefficients, *_ = np.linalg.lstsq(x / y[:, None], np.ones_like(y))
    return [max(0.0, float(c)) for c in coefficients]
