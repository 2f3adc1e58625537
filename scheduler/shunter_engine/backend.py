"""The seam between the engine's HTTP server and what generates tokens.

Two backends stand behind it: `simulated` and `numpy`. Both run on the server's event loop (the
NumPy one computes in a worker thread) and call the sink from the loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from shunter_simulator.engine.kv_pool import CacheListener
from shunter_simulator.engine.values import (
    EngineStats,
    PromptTooLong,
    QueueFull,
    SequenceSpec,
)

__all__ = [
    "Backend",
    "EngineStats",
    "FinishReason",
    "PromptTooLong",
    "QueueFull",
    "Sampling",
    "SequenceRequest",
    "SequenceSink",
    "TokenEvent",
]

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; greedy at temperature 0. Draws are keyed by (seed, position)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """One sequence. The last `output_offset` of `token_ids` count as generated already: positions,
    penalties and seeded draws go on from there. `max_tokens` and `min_tokens` count new tokens."""

    request_id: str
    token_ids: tuple[int, ...]
    output_offset: int
    max_tokens: int
    min_tokens: int
    sampling: Sampling
    priority: int = 0  # lower goes first

    def spec(self) -> SequenceSpec:
        """What the batch scheduler of either backend needs to know."""
        return SequenceSpec(
            request_id=self.request_id,
            token_ids=self.token_ids,
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            output_offset=self.output_offset,
            priority=self.priority,
        )


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One new token, or the end of the sequence (then `token_id` may be None)."""

    token_id: int | None
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    top_logprobs: Sequence[tuple[int, float]] = ()
    cached_tokens: int | None = (
        None  # with the first token: prompt tokens found in the prefix cache
    )


class SequenceSink(Protocol):
    def on_token(self, event: TokenEvent) -> None: ...


class Backend(Protocol):
    """Generates tokens for many sequences at once."""

    model_name: str
    context_length: int
    eos_token_ids: tuple[int, ...]

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    def submit(self, request: SequenceRequest, sink: SequenceSink) -> None:
        """Raises `PromptTooLong` and `QueueFull`."""

    def abort(self, request_id: str) -> bool:
        """Free the sequence's blocks at once; its sink hears nothing more. False: not there."""

    def watch_cache(self, listener: CacheListener) -> None:
        """Tells of the prefix cache from now on; to be called between start and first request."""

    def stats(self) -> EngineStats: ...
