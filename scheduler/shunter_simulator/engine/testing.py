"""Shorthands for tests of engines."""

from collections.abc import Sequence

from shunter_simulator.engine.batching import BatchScheduler
from shunter_simulator.engine.values import EngineConfig, SequenceSpec, StepOutcome


def small_config(
    kv_blocks: int = 32,
    *,
    max_num_seqs: int = 8,
    max_batch_tokens: int = 16,
    watermark: float = 0.0,
    enable_prefix_caching: bool = True,
    max_waiting: int = 100,
    yield_steps: int = 0,
) -> EngineConfig:
    """Blocks of 4 tokens, 128 tokens of context."""
    return EngineConfig(
        kv_blocks=kv_blocks,
        context_length=128,
        block_tokens=4,
        max_num_seqs=max_num_seqs,
        max_batch_tokens=max_batch_tokens,
        watermark=watermark,
        enable_prefix_caching=enable_prefix_caching,
        max_waiting=max_waiting,
        yield_steps=yield_steps,
    )


def own_tokens(request_id: str, count: int) -> list[int]:
    """A prompt that begins like no other request's."""
    first = int.from_bytes(request_id.encode()[:3], "little")
    return [first, *range(1, count)]


def sequence(
    request_id: str, prompt: int | Sequence[int], max_tokens: int = 4, priority: int = 0
) -> SequenceSpec:
    """A number as `prompt` stands for `own_tokens`."""
    tokens = own_tokens(request_id, prompt) if isinstance(prompt, int) else prompt
    return SequenceSpec(request_id, tokens, max_tokens, priority=priority)


def step(batch: BatchScheduler) -> StepOutcome | None:
    """One step in which every next token is the number of tokens before it, books checked."""
    plan = batch.plan()
    batch.check()
    if plan is None:
        return None
    sampled = {c.request_id: c.start + len(c.token_ids) for c in plan.chunks if c.samples}
    outcome = batch.commit(plan, sampled)
    batch.check()
    return outcome
