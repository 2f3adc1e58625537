"""A simulated engine: real batching decisions, predicted step times, made-up tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from shunter_scheduler.costmodel import CostModel
from shunter_simulator.engine.kv_pool import CacheListener
from shunter_simulator.engine.moving import MovableBatch
from shunter_simulator.engine.tokens import TokenRule, TokenSampling, advance, state_of
from shunter_simulator.engine.values import (
    Chunk,
    EngineConfig,
    EngineStats,
    FinishReason,
    SequenceSpec,
    StepOutcome,
    StepPlan,
)


def engine_config(
    cost: CostModel, context_length: int | None = None, block_tokens: int = 16
) -> EngineConfig:
    """The limits of an engine whose KV memory is what the cost model says. Raises `ValueError`
    where not even one block fits."""
    if not 1 <= block_tokens <= cost.kv_capacity_tokens:
        raise ValueError(
            f"block_tokens is {block_tokens}; the KV memory holds {cost.kv_capacity_tokens} tokens"
        )
    return EngineConfig(
        kv_blocks=cost.kv_capacity_tokens // block_tokens,
        context_length=context_length or cost.shape.context_length,
        block_tokens=block_tokens,
    )


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """The tokens of `outcome` come out `duration_s` after the step began."""

    duration_s: float
    outcome: StepOutcome


@dataclass(slots=True)
class _Answer:
    """What the token function needs to know of one sequence."""

    state: int
    output_tokens: int  # earlier engines' included
    min_output_tokens: int
    sampling: TokenSampling


class SimulatedEngine:
    """No clock: the caller lets `duration_s` pass, in real or in virtual time."""

    def __init__(self, config: EngineConfig, cost: CostModel, rule: TokenRule) -> None:
        self.config = config
        self.cost = cost
        self._rule = rule
        self.batch = MovableBatch(config)
        self._answers: dict[str, _Answer] = {}

    def watch_cache(self, listener: CacheListener) -> None:
        """See `BatchScheduler.watch_cache`."""
        self.batch.watch_cache(listener)

    def add(self, spec: SequenceSpec, sampling: TokenSampling | None = None) -> None:
        """Raises as `BatchScheduler.add` does."""
        self.batch.add(spec)
        self._begin(spec, spec.token_ids, sampling)

    def adopt(
        self, name: str, spec: SequenceSpec, sampling: TokenSampling, kv_ids: Sequence[int]
    ) -> None:
        """Goes on from the reservation `name`, whose blocks hold the keys and values of `kv_ids`:
        they, not the prompt, say what comes next. Raises as `MovableBatch.adopt`."""
        self.batch.adopt(name, spec)
        self._begin(spec, [*kv_ids, spec.token_ids[-1]], sampling)

    def _begin(
        self, spec: SequenceSpec, token_ids: Sequence[int], sampling: TokenSampling | None
    ) -> None:
        self._answers[spec.request_id] = _Answer(
            state_of(token_ids),
            spec.output_offset,
            spec.output_offset + spec.min_tokens,
            sampling or TokenSampling(),
        )

    def abort(self, request_id: str) -> bool:
        self._answers.pop(request_id, None)
        return self.batch.abort(request_id)

    def step(self) -> SimulatedStep | None:
        """Computes one step at once. None: nothing to compute (or no KV memory for what waits)."""
        plan = self.batch.plan()
        if plan is None:
            return None
        sampled: dict[str, int] = {}
        finished: dict[str, FinishReason] = {}
        for chunk in plan.chunks:
            if chunk.samples:
                token_id, stops = self._sample(self._answers[chunk.request_id])
                sampled[chunk.request_id] = token_id
                if stops:
                    finished[chunk.request_id] = "stop"
        outcome = self.batch.commit(plan, sampled, finished)
        for token in outcome.tokens:
            if token.finish_reason is not None:
                del self._answers[token.request_id]
        return SimulatedStep(self._duration_s(plan), outcome)

    def stats(self) -> EngineStats:
        return self.batch.stats()

    def shrink_kv(self, fraction: float) -> None:
        """See `BatchScheduler.shrink_kv`."""
        self.batch.shrink_kv(fraction)

    def _sample(self, answer: _Answer) -> tuple[int, bool]:
        """The next token, and whether the answer ends with it."""
        sampling, rule = answer.sampling, self._rule
        may_end = answer.output_tokens >= answer.min_output_tokens and not sampling.ignore_eos
        if (
            may_end
            and rule.eos_token_id is not None
            and rule.ends(answer.state, sampling.seed, answer.output_tokens)
        ):
            return rule.eos_token_id, True
        token_id = rule.next_token(answer.state, sampling.seed)
        answer.state = advance(answer.state, token_id)
        answer.output_tokens += 1
        # The token itself counts towards the minimum.
        may_stop = answer.output_tokens >= answer.min_output_tokens
        return token_id, may_stop and token_id in sampling.stop_token_ids

    def _duration_s(self, plan: StepPlan) -> float:
        decodes = [c for c in plan.chunks if _is_decode(c)]
        prefills = [(len(c.token_ids), c.start) for c in plan.chunks if not _is_decode(c)]
        return self.cost.step_s(prefills, len(decodes), sum(c.start + 1 for c in decodes))


def _is_decode(chunk: Chunk) -> bool:
    return len(chunk.token_ids) == 1 and chunk.samples
