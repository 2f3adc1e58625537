"""Prompts as token ids: of exact length, sharing prefixes where the workload says so."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shunter_simulator.workloads.arrivals import Arrival
from shunter_simulator.workloads.errors import WorkloadError

TRACE_BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Draws ids from [low, high).

    The default range holds ordinary short words in the vocabularies of Llama, Qwen, Mistral and
    SmolLM alike: above the bytes and their special tokens, below the smallest vocabulary's end.
    """

    low: int = 300
    high: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise WorkloadError(f"token ids {self.low}-{self.high} are no range")

    def of(self, arrival: Arrival, index: int) -> list[int]:
        """The prompt of the workload's request number `index`, always the same."""
        count, named = arrival.prompt_tokens, len(arrival.prefix_blocks) * TRACE_BLOCK_TOKENS
        blocks = np.asarray(arrival.prefix_blocks, dtype=np.uint64)
        within = np.arange(TRACE_BLOCK_TOKENS, dtype=np.uint64)
        shared = (blocks[:, None] * np.uint64(2 * TRACE_BLOCK_TOKENS) + within).ravel()[:count]
        own = np.arange(max(0, count - named), dtype=np.uint64) + np.uint64((2 * index + 1) << 40)
        ids: list[int] = self._ids(np.concatenate([shared, own])).tolist()
        return ids

    def _ids(self, names: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """SplitMix64 of each name (Steele, Lea and Flood, OOPSLA 2014), cut to the range."""
        offset = (self.seed + 1) * 0xD1B54A32D192ED03 % 2**64
        x = (names + np.uint64(offset)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
        return x % np.uint64(self.high - self.low) + np.uint64(self.low)
