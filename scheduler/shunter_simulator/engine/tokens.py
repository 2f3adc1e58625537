"""Made-up tokens: the next one is a fixed function of all tokens before it.

So two engines agree on a continuation exactly when they agree on every token so far, and a wrong
resume shows at once. The function is a polynomial hash of the tokens modulo 2^64, kept per sequence
(one multiplication per token) and mixed into a choice among the allowed ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MASK = (1 << 64) - 1
# Multiplier of Knuth's MMIX generator. Odd, hence invertible: any single changed token changes the
# state, wherever it stands.
_MULTIPLIER = 6364136223846793005
_EOS_KEY = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: any constant would do

MIN_NATURAL_TOKENS = 16
MAX_NATURAL_TOKENS = 512
_MEAN_FURTHER_TOKENS = 128  # of the geometric length after the first 16


@dataclass(frozen=True, slots=True)
class TokenSampling:
    """`seed` None is greedy. Any of `stop_token_ids` ends the sequence."""

    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: frozenset[int] = frozenset()


def state_of(token_ids: Sequence[int]) -> int:
    """The state after all of `token_ids`, as `advance` from 0 over each of them gives it."""
    tokens = np.asarray(token_ids, dtype=np.uint64) + np.uint64(1)
    powers = np.full(len(tokens), _MULTIPLIER, dtype=np.uint64)
    powers[:1] = 1
    return int((tokens[::-1] * np.cumprod(powers, dtype=np.uint64)).sum(dtype=np.uint64))


def advance(state: int, token_id: int) -> int:
    return (state * _MULTIPLIER + token_id + 1) & _MASK


@dataclass(frozen=True, slots=True)
class TokenRule:
    """Which ids may come out. `eos_token_id` None: answers end by length only."""

    allowed: Sequence[int]
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        if not self.allowed:
            raise ValueError("no token ids are allowed")
        if self.eos_token_id in self.allowed:
            raise ValueError(f"the end token {self.eos_token_id} must not be among the allowed ids")

    def next_token(self, state: int, seed: int | None = None) -> int:
        return self.allowed[_draw(state, seed) % len(self.allowed)]

    def ends(self, state: int, seed: int | None, output_tokens: int) -> bool:
        """Whether an answer of `output_tokens`, earlier engines' included, ends naturally here."""
        if self.eos_token_id is None or output_tokens < MIN_NATURAL_TOKENS:
            return False
        if output_tokens >= MAX_NATURAL_TOKENS:
            return True
        return _mix(_draw(state, seed) ^ _EOS_KEY) % _MEAN_FURTHER_TOKENS == 0


def _draw(state: int, seed: int | None) -> int:
    return _mix(state if seed is None else state ^ _mix((seed + 1) & _MASK))


def _mix(x: int) -> int:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
