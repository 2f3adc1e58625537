"""The seam between the engine's HTTP server and what generates tokens.

Two backends stand behind it: `simulated` and `numpy`. Both run on the server's event loop (the
NumPy one computes in a worker thread) and call the sink from the loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

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


@dataclass(frozen=True, slots=True)
class BackendStats:
    """Counters are totals since start."""

    running: int
    waiting: int
    kv_blocks_total: int
    kv_blocks_used: int
    block_tokens: int
    prompt_tokens_total: int
    generation_tokens_total: int
    prefix_cache_queries_total: int  # tokens looked up
    prefix_cache_hits_total: int  # tokens found
    preemptions_total: int


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

    def stats(self) -> BackendStats: ...


class PromptTooLong(Exception):
    """The prompt does not fit the context length or the KV cache."""


class QueueFull(Exception):
    """Too many sequences wait."""
