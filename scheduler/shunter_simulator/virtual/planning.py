"""What a batch computes next, and how long that takes."""

from collections.abc import Callable, Mapping

from shunter_simulator.virtual.batch import ORDER, Step, VirtualBatch
from shunter_simulator.virtual.flight import Flight
from shunter_simulator.virtual.sequences import LiveSequence
from shunter_simulator.virtual.values import Batching
from shunter_simulator.virtual.yielding import admit_higher, stand_still


def plan(batch: VirtualBatch, now: float) -> Step | None:
    """The next step, or None when nothing can be computed. Its blocks are taken here."""
    batch.take_in()
    return _PLANNERS[batch.shape.batching](batch, now)


def take_off(
    batch: VirtualBatch, step: Step, now: float, factor: float, skip_ahead: bool
) -> Flight:
    """The flight that begins with a planned step, `factor` times as long as it would be."""
    if step.chunks or step.tails:
        return Flight(now, 1, factor * _mixed_s(batch, step))
    count, context_tokens = batch.decodes.count, batch.decodes.context_tokens
    line = batch.shape.times.decode_line(count, context_tokens)
    steps = 1
    if skip_ahead and batch.steady:
        steps = _steps(batch, line.until_tokens - context_tokens)
    more_s = line.s_per_context_token * count
    return Flight(now, steps, factor * line.step_s(context_tokens), factor * more_s)


def _steps(batch: VirtualBatch, further_tokens: float) -> int:
    """For how many steps nothing happens but decoding, over `further_tokens` at most."""
    decodes = batch.decodes
    limit = decodes.steps_to_end() - 1
    if further_tokens < limit * decodes.count:
        limit = int(further_tokens // decodes.count)
    return 1 + decodes.steps_within(batch.kv.available, 1, limit)


def _mixed_s(batch: VirtualBatch, step: Step) -> float:
    count = context_tokens = 0
    if step.decodes:
        count, context_tokens = batch.decodes.count, batch.decodes.context_tokens
    for sequence in step.tails:
        count += 1
        context_tokens += sequence.tokens
    chunks = []
    for sequence, size in step.chunks:
        if size == 1 and sequence.pending == 1:  # its last token: computed as a decode is
            count += 1
            context_tokens += sequence.tokens
        else:
            chunks.append((size, sequence.computed))
    return batch.shape.times.mixed_s(chunks, count, context_tokens)


def _plan_chunked(batch: VirtualBatch, now: float) -> Step | None:
    """Decodes, then chunks of prompts in order up to the batch's tokens."""
    yields = batch.shape.yield_steps > 0
    if yields:
        stand_still(batch)
    batch.take_growth(now)
    tails = [s for s in batch.prefills if s.pending == 1 and not batch.stands_still(s)]
    budget = batch.shape.max_batch_tokens - batch.decodes.count - len(tails)
    # After a preemption memory is short: nobody is let in unless nothing runs at all.
    prefills = [s for s in batch.prefills if s.pending > 1]
    if batch.waiting and not (batch.disturbed and batch.running):
        if yields:
            admit_higher(batch, prefills, budget)
        prefills += _admit_chunked(batch, budget - sum(s.pending for s in prefills))
    if yields:
        prefills.sort(key=ORDER)
    chunks: list[tuple[LiveSequence, int]] = []
    for sequence in prefills:
        if budget <= 0:
            break
        size = min(budget, sequence.pending)
        budget -= size
        chunks.append((sequence, size))
    return _step(batch, chunks, tails)


def _admit_chunked(batch: VirtualBatch, budget: int) -> list[LiveSequence]:
    admitted: list[LiveSequence] = []
    while budget > 0 and batch.waiting and len(batch.running) < batch.shape.max_num_seqs:
        sequence = batch.admit_first()
        if sequence is None:
            break
        admitted.append(sequence)
        budget -= sequence.pending
    return admitted


def _plan_prefill_first(batch: VirtualBatch, now: float) -> Step | None:
    """Whole prompts of those that can be let in; else a decode step."""
    chunks = [(s, s.pending) for s in batch.prefills]  # only what a move brought in part
    budget = batch.shape.max_batch_tokens - sum(size for _, size in chunks)
    while batch.waiting and len(batch.running) < batch.shape.max_num_seqs:
        # A prompt beyond the limit is computed alone.
        if chunks and batch.waiting[0].tokens > budget:
            break
        sequence = batch.admit_first()
        if sequence is None:
            break
        chunks.append((sequence, sequence.pending))
        budget -= sequence.pending
    if chunks:
        return Step(False, chunks, [])
    batch.take_growth(now)
    return _step(batch, [], [])


def _step(
    batch: VirtualBatch, chunks: list[tuple[LiveSequence, int]], tails: list[LiveSequence]
) -> Step | None:
    decodes = batch.decodes.count > 0
    batch.decodes.ahead = int(decodes)
    return Step(decodes, chunks, tails) if decodes or chunks or tails else None


_PLANNERS: Mapping[Batching, Callable[[VirtualBatch, float], Step | None]] = {
    "chunked": _plan_chunked,
    "prefill-first": _plan_prefill_first,
}
