"""How long the steps of a virtual engine take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from shunter_scheduler.costmodel import CostModel

Chunks = Sequence[tuple[int, int]]  # (new tokens, past tokens) of each prefill in a step


class DecodeLine(NamedTuple):
    """A decode step of a given batch takes base + tokens of context * rate, up to `until_tokens`
    tokens of context."""

    base_s: float
    s_per_context_token: float
    until_tokens: float = math.inf

    def step_s(self, context_tokens: int) -> float:
        return self.base_s + context_tokens * self.s_per_context_token


class StepTimes(Protocol):
    """The time of a decode step has to be made of straight lines in its context: runs of steps
    are summed in closed form."""

    def mixed_s(self, chunks: Chunks, batch: int, context_tokens: int) -> float:
        """A step with prefill chunks, and `batch` decodes `context_tokens` long in sum."""

    def decode_line(self, batch: int, context_tokens: int) -> DecodeLine:
        """The line on which a step over `context_tokens` lies."""


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

    def decode_line(self, batch: int, context_tokens: int) -> DecodeLine:
        return DecodeLine(
            self.decode_base_s + batch * self.decode_s_per_sequence, self.decode_s_per_context_token
        )


# Llumnix (Sun et al., OSDI 2024). Prefills are fitted to the recomputations of its figure 10. The
# decode steps of the 7B are fitted to the latencies of its serving runs (figure 11), with 815 KV
# blocks of 16 tokens. Those of the 30B are measured at 8,192 tokens in all only (figure 10): the
# slope in the batch is fitted to them, that in the context is the 7B's times the KV bytes that a
# device reads per token (0.40 to 0.52 MB).
LLAMA_7B_A10 = LinearTimes(5.6e-3, 0.2028e-3, 5.09e-9, 35e-3, 0.65e-3, 0.0015e-3)
LLAMA_30B_4XA10 = LinearTimes(12.1e-3, 0.4115e-3, 1.8e-9, 51.2e-3, 0.116e-3, 0.00117e-3)


class RooflineTimes:
    """The step times of a cost model."""

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._lines: dict[int, tuple[DecodeLine, DecodeLine]] = {}

    def mixed_s(self, chunks: Chunks, batch: int, context_tokens: int) -> float:
        return self._cost.step_s(chunks, batch, context_tokens)

    def decode_line(self, batch: int, context_tokens: int) -> DecodeLine:
        lines = self._lines.get(batch)
        if lines is None:
            lines = self._lines[batch] = self._fit(batch)
        return lines[context_tokens > lines[0].until_tokens]

    def _fit(self, batch: int) -> tuple[DecodeLine, DecodeLine]:
        """The roofline reads each token of context once; in layers with a window, none beyond."""
        shape = self._cost.shape
        bend = batch * shape.window if shape.windowed_layers else _FAR_TOKENS
        near = self._through(batch, 0, bend)
        if not shape.windowed_layers:
            return near, near
        return near._replace(until_tokens=bend), self._through(batch, bend, bend + _FAR_TOKENS)

    def _through(self, batch: int, first: int, last: int) -> DecodeLine:
        first_s = self._cost.decode_step_s(batch, first)
        rate = (self._cost.decode_step_s(batch, last) - first_s) / (last - first)
        return DecodeLine(first_s - first * rate, rate)


class LoneRequestTimes:
    """A roofline scaled so that a request alone takes what was measured per token.

    Tables such as HexGen-Text2SQL's give seconds per prompt and per output token of a GPU, from
    requests that ran alone. How batches share the reading of the weights and how steps grow with
    the context is the roofline's: its decode steps are multiplied by one factor, and what the
    chunks add to a step by another, each such that a request of `tokens` tokens meets the table.
    """

    def __init__(
        self,
        cost: CostModel,
        prompt_s_per_token: float,
        output_s_per_token: float,
        tokens: int = 8192,  # HexGen's prompts of 6,000 to 10,000 tokens hold most of its tokens
    ) -> None:
        self._cost = cost
        self._roofline = RooflineTimes(cost)
        self._prefill_scale = prompt_s_per_token * tokens / cost.prefill_s(tokens)
        self._decode_scale = output_s_per_token / cost.decode_step_s(1, tokens)

    def mixed_s(self, chunks: Chunks, batch: int, context_tokens: int) -> float:
        decode_s = self._cost.decode_step_s(batch, context_tokens) if batch else 0.0
        chunks_s = self._cost.step_s(chunks, batch, context_tokens) - decode_s if chunks else 0.0
        return self._decode_scale * decode_s + self._prefill_scale * chunks_s

    def decode_line(self, batch: int, context_tokens: int) -> DecodeLine:
        line = self._roofline.decode_line(batch, context_tokens)
        scale = self._decode_scale
        return DecodeLine(scale * line.base_s, scale * line.s_per_context_token, line.until_tokens)


_FAR_TOKENS = 1 << 24  # a power of two: the division is exact
