"""How long the steps of a virtual engine take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from shunter_scheduler.costmodel import CostModel

Chunks = Sequence[tuple[int, int]]  # (new tokens, past tokens) of each prefill in a step


class DecodeLine(NamedTuple):
    """A decode step of a given batch takes base + tokens of context * rate."""

    base_s: float
    s_per_context_token: float


class StepTimes(Protocol):
    """The time of a decode step has to be a straight line in its context: runs of steps are
    summed in closed form."""

    def mixed_s(self, chunks: Chunks, batch: int, context_tokens: int) -> float:
        """A step with prefill chunks, and `batch` decodes `context_tokens` long in sum."""

    def decode_line(self, batch: int) -> DecodeLine: ...


@dataclass(frozen=True, slots=True)
class LinearTimes:
    """Explicit coefficients, in seconds.

    A prefill takes base + tokens * rate + sum of squared lengths * rate (a chunk of n tokens after
    p counts n^2 + 2np there), a decode step base + sequences * rate + context * rate. A mixed step
    takes the larger base once and the rest of both.
    """

    prefill_base_s: float
    prefill_s_per_token: float
    prefill_s_per_square_token: float
    decode_base_s: float
    decode_s_per_sequence: float
    decode_s_per_context_token: float

    def __post_init__(self) -> None:
        if min(self.prefill_base_s, self.decode_base_s) <= 0:
            raise ValueError("prefill_base_s and decode_base_s must be above 0: a step takes time")
        for name in self.__slots__:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")

    def mixed_s(self, chunks: Chunks, batch: int, context_tokens: int) -> float:
        decode_s = 0.0
        if batch:
            decode_s = batch * self.decode_s_per_sequence
            decode_s += context_tokens * self.decode_s_per_context_token
        if not chunks:
            return self.decode_base_s + decode_s
        tokens = sum(new for new, _ in chunks)
        squares = sum(new * (new + 2 * past) for new, past in chunks)
        base_s = max(self.prefill_base_s, self.decode_base_s) if batch else self.prefill_base_s
        prefill_s = tokens * self.prefill_s_per_token + squares * self.prefill_s_per_square_token
        return base_s + prefill_s + decode_s

    def decode_line(self, batch: int) -> DecodeLine:
        return DecodeLine(
            self.decode_base_s + batch * self.decode_s_per_sequence, self.decode_s_per_context_token
        )


# Fitted to the measurements of Llumnix (Sun et al., OSDI 2024), figure 10. Prefills are the series
# of recomputations. A 7B decode step is fitted to the decode steps there and to the latencies of
# the serving runs, which 815 KV blocks of 16 tokens reproduce best. The decode steps of the 30B are
# measured at 8,192 tokens in all only: the slope in the batch is fitted to them, that in the
# context is the 7B's times the KV bytes that a device reads per token (0.40 to 0.52 MB).
LLAMA_7B_A10 = LinearTimes(5.6e-3, 0.2028e-3, 5.09e-9, 35e-3, 0.65e-3, 0.0015e-3)
LLAMA_30B_4XA10 = LinearTimes(12.1e-3, 0.4115e-3, 1.8e-9, 51.2e-3, 0.116e-3, 0.00117e-3)


class RooflineTimes:
    """The step times of a cost model."""

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._lines: dict[int, DecodeLine] = {}

    def mixed_s(self, chunks: Chunks, batch: int, context_tokens: int) -> float:
        return self._cost.step_s(chunks, batch, context_tokens)

    def decode_line(self, batch: int) -> DecodeLine:
        line = self._lines.get(batch)
        if line is None:
            base_s = self._cost.decode_step_s(batch, 0)
            # The roofline reads each token of context once: the slope is the same everywhere.
            far_s = self._cost.decode_step_s(batch, _FAR_TOKENS)
            line = self._lines[batch] = DecodeLine(base_s, (far_s - base_s) / _FAR_TOKENS)
        return line


_FAR_TOKENS = 1 << 24  # a power of two: the division is exact
