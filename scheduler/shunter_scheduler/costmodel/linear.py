"""Straight-line summary of a cost model."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_PREFILL_TOKENS = tuple(2**n for n in range(4, 18))
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXTS = (256, 1024, 4096)  # tokens per sequence


@dataclass(frozen=True, slots=True)
class LinearRates:
    """In seconds. A prefill takes base + tokens * rate + pairs * rate, where a pair is a token and
    one that it attends to; a decode step base + sequences * rate + tokens of context * rate."""

    prefill_base_s: float
    prefill_s_per_token: float
    decode_base_s: float
    decode_s_per_sequence: float
    decode_s_per_context_token: float
    prefill_s_per_pair: float = 0.0

    @property
    def prefill(self) -> tuple[float, float, float]:
        return self.prefill_base_s, self.prefill_s_per_token, self.prefill_s_per_pair

    @property
    def decode(self) -> tuple[float, float, float]:
        return self.decode_base_s, self.decode_s_per_sequence, self.decode_s_per_context_token


class StepTimes(Protocol):
    def prefill_s(self, new_tokens: int, past_tokens: int = 0) -> float: ...
    def decode_step_s(self, batch: int, context_tokens: int) -> float: ...


def fit_linear(times: StepTimes) -> LinearRates:
    """Least relative squares over prompts of 16 to 131,072 tokens and batches of 1 to 256."""
    base_s, s_per_token, s_per_pair = _fit(
        np.array([[1.0, n, n * n / 2] for n in _PREFILL_TOKENS]),
        np.array([times.prefill_s(n) for n in _PREFILL_TOKENS]),
    )
    steps = [(batch, batch * context) for batch in _BATCHES for context in _CONTEXTS]
    decode_base_s, s_per_sequence, s_per_context_token = _fit(
        np.array([[1.0, batch, context] for batch, context in steps]),
        np.array([times.decode_step_s(batch, context) for batch, context in steps]),
    )
    return LinearRates(
        base_s, s_per_token, decode_base_s, s_per_sequence, s_per_context_token, s_per_pair
    )


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[float]:
    """Without negative coefficients: what would be negative is left out, and the rest fitted."""
    coefficients = np.zeros(x.shape[1])
    used = np.arange(x.shape[1])
    while used.size:
        solved, *_ = np.linalg.lstsq(x[:, used] / y[:, None], np.ones_like(y))
        if (solved >= 0).all():
            coefficients[used] = solved
            break
        used = used[solved >= 0]
    return [float(c) for c in coefficients]
