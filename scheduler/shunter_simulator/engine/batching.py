"""An engine's own scheduler: which tokens of which sequences the next step computes.

Continuous batching with chunked prefill over paged KV memory with prefix caching, as vLLM does it
(Kwon et al., SOSP 2023; Agrawal et al., OSDI 2024). A sequence waits, then runs; it may be
preempted, which frees its blocks and makes it wait again in its old place.
"""

from bisect import insort
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from operator import attrgetter

from shunter_simulator.engine.kv_pool import CacheListener, KvPool
from shunter_simulator.engine.sequences import Sequence
from shunter_simulator.engine.values import (
    EngineConfig,
    EngineStats,
    FinishReason,
    NewToken,
    PromptTooLong,
    QueueFull,
    SequenceSpec,
    StepOutcome,
    StepPlan,
)
from shunter_simulator.engine.yielding import Yielding, first_prompt

ORDER = attrgetter("order")


class BatchScheduler:
    """Alternate `plan` and `commit`. `add`, `abort` and `shrink_kv` may come at any time between.

    Sequences are served in the order (priority, arrival); preempted in the reverse of it.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._pool = KvPool(config.kv_blocks)
        self._sequences: dict[str, Sequence] = {}
        self._running: list[Sequence] = []  # both in order
        self._waiting: list[Sequence] = []
        self._serial = 0
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._cache_queries = 0
        self._cache_hits = 0
        self._preemptions = 0
        self._yielding = Yielding(config.yield_steps)

    def watch_cache(self, listener: CacheListener) -> None:
        """Tells of the prefix cache from now on; call it before the first step."""
        self._pool.listener = listener

    def add(self, spec: SequenceSpec) -> None:
        """Raises `PromptTooLong`, `QueueFull`, and `ValueError` for a request id that is in use.

        `max_tokens` is cut to what the context length and the KV memory allow.
        """
        self._check(spec)
        if len(self._waiting) >= self.config.max_waiting:
            raise QueueFull(f"{len(self._waiting)} sequences wait already")
        insort(self._waiting, self._enter(spec), key=ORDER)

    def abort(self, request_id: str) -> bool:
        """Frees the sequence at once; a step in flight ignores it. False: not there."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return False
        self._remove(sequence)
        return True

    def plan(self) -> StepPlan | None:
        """The next step, or None when nothing can be computed. Blocks are allocated here."""
        preempted: list[Sequence] = []
        while self._pool.available < 0 and self._running:
            preempted.append(self._preempt_last())
        yields = self.config.yield_steps > 0
        if yields:
            self._decide_who_yields()
        decodes = self._plan_decodes(preempted)
        budget = self.config.max_batch_tokens - len(decodes)
        prefills = [s for s in self._running if s.pending > 1]
        # After a preemption memory is short: nobody is let in unless nothing runs at all.
        if not preempted or not self._running:
            if yields:
                self._admit_higher(prefills, budget)
            prefills += self._admit(budget - sum(s.pending for s in prefills))
        if yields:
            prefills.sort(key=ORDER)
        chunks = [s.chunk(1) for s in decodes]
        for sequence in prefills:
            if budget <= 0:
                break
            size = min(budget, sequence.pending)
            budget -= size
            chunks.append(sequence.chunk(size))
        if not chunks:
            return None
        return StepPlan(tuple(chunks), tuple(s.request_id for s in preempted))

    def commit(
        self,
        plan: StepPlan,
        sampled: Mapping[str, int],
        finished: Mapping[str, FinishReason] | None = None,
    ) -> StepOutcome:
        """Books a computed step. `sampled`: the next token of each chunk that samples.

        `finished` names sequences that end with that token for a reason of the sampler's; reaching
        `max_tokens` is noticed here. Sequences that were aborted since `plan` are skipped.
        """
        finished = finished or {}
        tokens: list[NewToken] = []
        for chunk in plan.chunks:
            sequence = self._sequences.get(chunk.request_id)
            if sequence is None or sequence.serial != chunk.serial:
                continue
            sequence.computed = chunk.start + len(chunk.token_ids)
            if self.config.enable_prefix_caching:
                sequence.publish_computed(self._pool, chunk.start, self.config.block_tokens)
            if chunk.samples:
                reason = finished.get(chunk.request_id)
                tokens.append(self._append(sequence, sampled[chunk.request_id], reason))
        if self._pool.listener is not None:
            self._pool.listener.step_ended()
        return StepOutcome(tuple(tokens))

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_blocks_total=self._pool.usable,
            kv_blocks_used=self._pool.used,
            block_tokens=self.config.block_tokens,
            prompt_tokens_total=self._prompt_tokens,
            generation_tokens_total=self._generation_tokens,
            prefix_cache_queries_total=self._cache_queries,
            prefix_cache_hits_total=self._cache_hits,
            preemptions_total=self._preemptions,
        )

    def shrink_kv(self, fraction: float) -> None:
        """Leaves `fraction` of the KV blocks usable, preempts at the next step; 1 restores all."""
        self._pool.shrink(fraction)

    def check(self) -> None:
        """Raises `AssertionError` unless the books balance (for tests)."""
        self._pool.check(self._tables())
        assert len(self._running) + len(self._waiting) + self._parked() == len(self._sequences)
        for queue in (self._running, self._waiting):
            assert sorted(queue, key=ORDER) == queue
        assert not any(s.block_table for s in self._waiting)

    def _check(self, spec: SequenceSpec) -> None:
        limit = self.config.max_tokens_per_sequence
        if not spec.token_ids:
            raise ValueError(f"request {spec.request_id!r} has no tokens")
        if spec.request_id in self._sequences:
            raise ValueError(f"request id {spec.request_id!r} is in use")
        if len(spec.token_ids) >= limit:
            raise PromptTooLong(
                f"the prompt has {len(spec.token_ids)} tokens; this engine holds {limit} tokens "
                f"per sequence, prompt and answer together"
            )

    def _enter(self, spec: SequenceSpec) -> Sequence:
        room = self.config.max_tokens_per_sequence - len(spec.token_ids)
        sequence = Sequence(spec, self._serial, max(1, min(spec.max_tokens, room)))
        self._serial += 1
        self._sequences[spec.request_id] = sequence
        return sequence

    def _held_places(self) -> int:
        """Places of the batch that are kept for sequences which are not in it."""
        return 0

    def _tables(self) -> Iterator[Items[int]]:
        """All lists of blocks that are referred to."""
        return (s.block_table for s in self._sequences.values())

    def _parked(self) -> int:
        """Sequences that neither run nor wait."""
        return 0

    def _plan_decodes(self, preempted: list[Sequence]) -> list[Sequence]:
        """Running sequences that lack one token, each with room for it in its blocks."""
        block_tokens, pool = self.config.block_tokens, self._pool
        decodes: list[Sequence] = []
        for sequence in list(self._running):
            if sequence.pending != 1 or not sequence.block_table:
                continue  # still in its prefill, or preempted for one before it
            if self._yielding.stands_still(sequence):
                continue
            if sequence.computed >= len(sequence.block_table) * block_tokens:
                while pool.available < 1 and sequence.block_table:
                    preempted.append(self._preempt_last())
                if not sequence.block_table:
                    continue
                sequence.block_table.append(pool.allocate())
            decodes.append(sequence)
        return decodes

    def _decide_who_yields(self) -> None:
        """For the first prompt, unless it is one that waits and may not be let in."""
        config, running = self.config, self._running
        first = first_prompt(running, self._waiting)
        if first is not None and not first.block_table:
            beside = sum(s.pending == 1 and s.order[0] <= first.order[0] for s in running)
            blocks = -(-len(first.token_ids) // config.block_tokens) + beside
            full = len(running) >= config.max_num_seqs - self._held_places()
            if full or blocks > self._pool.available - config.watermark_blocks:
                first = None
        self._yielding.decide(running, first, config.max_batch_tokens)

    def _admit_higher(self, prefills: list[Sequence], budget: int) -> None:
        """Lets those in that go before a prompt which is computed in part, as far as the step has
        tokens for them."""
        admitted = True
        while self._waiting and admitted:
            before = [s for s in prefills if s.order[0] <= self._waiting[0].order[0]]
            if len(before) == len(prefills) or sum(s.pending for s in before) >= budget:
                return
            more = self._admit(1)
            admitted = bool(more)
            prefills += more

    def _admit(self, budget: int) -> list[Sequence]:
        """Moves waiting sequences, first come first, to the running ones while all limits hold."""
        admitted: list[Sequence] = []
        places = self.config.max_num_seqs - self._held_places()
        while budget > 0 and self._waiting and len(self._running) < places:
            sequence = self._waiting[0]
            if not self._allocate_prompt(sequence):
                break
            del self._waiting[0]
            insort(self._running, sequence, key=ORDER)
            admitted.append(sequence)
            budget -= sequence.pending
        return admitted

    def _allocate_prompt(self, sequence: Sequence) -> bool:
        """Blocks for all tokens it has, cached ones shared. False: not now."""
        pool, block_tokens = self._pool, self.config.block_tokens
        tokens = len(sequence.token_ids)
        shared: list[int] = []
        if self.config.enable_prefix_caching:
            # The last token is computed in any case: its logits give the next one.
            shared = pool.find(sequence.hashes((tokens - 1) // block_tokens, block_tokens))
        fresh = -(-tokens // block_tokens) - len(shared)
        # Alone it may use the reserve: else one that grew into it could never come back.
        reserve = self.config.watermark_blocks if self._running else 0
        if fresh + pool.free_among(shared) + reserve > pool.available:
            return False
        pool.share(shared)
        sequence.block_table = shared + [pool.allocate() for _ in range(fresh)]
        sequence.computed = len(shared) * block_tokens
        if sequence.cached_tokens is None:  # a preempted one that comes back is not counted again
            sequence.cached_tokens = sequence.computed
            self._prompt_tokens += tokens
            self._cache_queries += tokens
            self._cache_hits += sequence.computed
        return True

    def _append(self, sequence: Sequence, token_id: int, reason: FinishReason | None) -> NewToken:
        cached_tokens = None if sequence.produced else sequence.cached_tokens
        sequence.token_ids.append(token_id)
        sequence.produced += 1
        self._generation_tokens += 1
        if reason is None and sequence.produced >= sequence.max_new_tokens:
            reason = "length"
        if reason is not None:
            self._remove(sequence)
        return NewToken(sequence.request_id, token_id, reason, cached_tokens)

    def _preempt_last(self) -> Sequence:
        sequence = self._running.pop()
        self._pool.release(sequence.block_table)
        sequence.block_table = []
        sequence.computed = 0
        self._preemptions += 1
        insort(self._waiting, sequence, key=ORDER)
        return sequence

    def _remove(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request_id]
        queue = self._running if sequence.block_table else self._waiting
        queue.remove(sequence)
        self._pool.release(sequence.block_table)
        sequence.block_table = []
