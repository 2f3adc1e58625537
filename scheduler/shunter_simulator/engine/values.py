"""What goes into an engine's batch scheduler and what comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

FinishReason = Literal["stop", "length"]


class PromptTooLong(Exception):
    """The prompt leaves no room for a token in the context length or the KV cache."""


class QueueFull(Exception):
    """`max_waiting` sequences wait already."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of one engine.

    `watermark` is the share of KV blocks that admission leaves free, so that running sequences can
    grow for a while before one of them must be preempted.
    """

    kv_blocks: int
    context_length: int
    block_tokens: int = 16
    max_num_seqs: int = 256
    max_batch_tokens: int = 2048  # computed per step; longer prompts are cut into chunks
    watermark: float = 0.01
    enable_prefix_caching: bool = True
    max_waiting: int = 4096
    # Prompts of a higher priority go before those of a lower one that are computed in part, and
    # answers of lower priority stand still for them, at most so many steps in a row.
    yield_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("kv_blocks", "block_tokens", "max_num_seqs", "max_waiting"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.context_length < 2:
            raise ValueError(f"context_length must be at least 2, not {self.context_length}")
        if self.max_batch_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}): each sequence takes a token of every step"
            )
        if self.yield_steps < 0:
            raise ValueError(f"yield_steps must be at least 0, not {self.yield_steps}")
        if not 0 <= self.watermark < 1:
            raise ValueError(f"watermark must be in [0, 1), not {self.watermark}")

    @property
    def watermark_blocks(self) -> int:
        return int(self.watermark * self.kv_blocks)

    @property
    def max_tokens_per_sequence(self) -> int:
        """Prompt and answer together."""
        return min(self.context_length, self.kv_blocks * self.block_tokens)


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """One sequence. The last `output_offset` of `token_ids` were generated elsewhere already.

    `max_tokens` and `min_tokens` count new tokens. Of `priority` the lower goes first.
    """

    request_id: str
    token_ids: Sequence[int]
    max_tokens: int
    min_tokens: int = 0
    output_offset: int = 0
    priority: int = 0


class Chunk(NamedTuple):
    """Part of a step: compute `token_ids` at positions `start`, `start + 1`, ... of one sequence.

    The keys and values of position p belong into block `block_table[p // block_tokens]`; those of
    the positions before `start` are there. `block_table` is live: valid until `commit`.
    """

    request_id: str
    serial: int  # of the sequence; tells apart two that had the same request id
    start: int
    token_ids: Sequence[int]
    block_table: Sequence[int]
    samples: bool  # the last position's logits give the next token
    produced: int  # new tokens before this step

    @property
    def past(self) -> int:
        """Tokens whose keys and values are in the cache."""
        return self.start


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: single-token chunks of running sequences first, then prefill chunks."""

    chunks: tuple[Chunk, ...]
    preempted: tuple[str, ...] = ()


class NewToken(NamedTuple):
    """`cached_tokens` comes with a sequence's first token: how many were found in the cache."""

    request_id: str
    token_id: int
    finish_reason: FinishReason | None
    cached_tokens: int | None


@dataclass(frozen=True, slots=True)
class StepOutcome:
    tokens: tuple[NewToken, ...]


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Fields ending in `_total` count since the start."""

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
