"""What goes into a virtual engine and what comes out of it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from shunter_simulator.virtual.step_times import StepTimes

Batching = Literal["chunked", "prefill-first"]
EventKind = Literal["first_token", "finished", "preempted", "resumed"]


class VirtualSequence(msgspec.Struct, frozen=True):
    """A request by its lengths.

    `output_tokens` is the whole answer; `produced` of them were generated elsewhere before and are
    computed again here like prompt tokens, but for `resident_tokens`, whose keys and values came by
    a move into blocks that were reserved. `blocks` names what may be shared, from the first token
    on: non-negative ids of stretches of `EngineShape.cache_block_tokens` tokens. Of `priority` the
    lower goes first.
    """

    request_id: str
    prompt_tokens: int
    output_tokens: int
    produced: int = 0
    resident_tokens: int = 0
    blocks: tuple[int, ...] = ()
    priority: int = 0


class EngineEvent(msgspec.Struct, frozen=True):
    """`produced` counts the whole answer so far, earlier engines' part included.

    `first_token` is the first one of this engine. `resumed`: the first token after a preemption;
    `loss_s` is that preemption's loss (see `VirtualBatch`).
    """

    at_s: float
    kind: EventKind
    request_id: str
    produced: int
    cached_tokens: int = 0
    loss_s: float = 0.0


class EngineObservation(NamedTuple):
    """As the engine saw itself when its step in progress began; counters are totals.

    `waiting_tokens` are what all that wait will hold in KV memory when they are admitted. Reserved
    blocks count as used, cached ones do not.
    """

    running: int
    waiting: int
    used_blocks: int
    total_blocks: int
    waiting_tokens: int
    preemptions: int
    preemption_loss_s: float


class Export(NamedTuple):
    """A sequence that leaves the batch at `at_s` with `context_tokens` of keys and values."""

    at_s: float
    context_tokens: int
    produced: int


@dataclass(frozen=True, slots=True)
class EngineShape:
    """Limits and speed of one engine.

    `chunked`: decodes first, then chunks of prompts up to `max_batch_tokens` (vLLM V1).
    `prefill-first`: a step computes whole prompts, up to `max_batch_tokens` together, or decodes
    (vLLM 0.1). `cache_block_tokens` 0 turns prefix caching off. `copy_slow_down` is the share by
    which steps take longer while KV is copied in or out.
    """

    times: StepTimes
    kv_blocks: int
    block_tokens: int = 16
    watermark: float = 0.01
    max_num_seqs: int = 256
    max_batch_tokens: int = 2048
    batching: Batching = "chunked"
    cache_block_tokens: int = 0
    copy_slow_down: float = 0.01
    yield_steps: int = 0  # see `virtual.yielding`; 0: never

    def __post_init__(self) -> None:
        for name in ("kv_blocks", "block_tokens", "max_num_seqs", "max_batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batching == "chunked" and self.max_batch_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}): each sequence takes a token of every step"
            )
        if not 0 <= self.watermark < 1:
            raise ValueError(f"watermark must be in [0, 1), not {self.watermark}")
        if self.cache_block_tokens % self.block_tokens or self.cache_block_tokens < 0:
            raise ValueError(
                f"cache_block_tokens ({self.cache_block_tokens}) must be a multiple of "
                f"block_tokens ({self.block_tokens})"
            )
        if self.copy_slow_down < 0:
            raise ValueError(f"copy_slow_down must be at least 0, not {self.copy_slow_down}")

    @property
    def watermark_blocks(self) -> int:
        return int(self.watermark * self.kv_blocks)
