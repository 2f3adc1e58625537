"""Answers of lower priority stand still while prompts of a higher one are computed.

As `engine.BatchScheduler` does it where `EngineConfig.yield_steps` is set. vLLM does not: its
answers get a token in every step.
"""

from shunter_simulator.virtual.batch import VirtualBatch
from shunter_simulator.virtual.sequences import LiveSequence


def stand_still(batch: VirtualBatch) -> None:
    """Before a step is planned: says who decodes in it."""
    _go_on(batch)
    top = first_prompt(batch)
    if top is None:
        batch.yielded = 0
        return
    one_token = [s for s in batch.running if s.stage == "decode" or s.pending == 1]
    lower = [s for s in one_token if s.order[0] > top.order[0]]
    stay = len(one_token) - len(lower)
    if not lower or batch.yielded >= batch.shape.yield_steps or not _fits(batch, top, stay):
        batch.yielded = 0
        return
    batch.yielded += 1
    batch.lowest = top.order[0]
    for sequence in lower:
        if sequence.stage == "decode":
            batch.decodes.leave(sequence)
            sequence.stage = "still"
            batch.still.append(sequence)


def first_prompt(batch: VirtualBatch) -> LiveSequence | None:
    """The one of the highest priority, those that are computed in part before those that wait."""
    first = next((s for s in batch.prefills if s.pending > 1), None)
    if batch.waiting and (first is None or batch.waiting[0].order[0] < first.order[0]):
        return batch.waiting[0]
    return first


def admit_higher(batch: VirtualBatch, prefills: list[LiveSequence], budget: int) -> None:
    """Lets those in that go before a prompt which is computed in part, as far as the step has
    tokens for them."""
    while batch.waiting and len(batch.running) < batch.shape.max_num_seqs:
        priority = batch.waiting[0].order[0]
        before = [s for s in prefills if s.order[0] <= priority]
        if len(before) == len(prefills) or sum(s.pending for s in before) >= budget:
            return
        admitted = batch.admit_first()
        if admitted is None:
            return
        prefills.append(admitted)


def _go_on(batch: VirtualBatch) -> None:
    for sequence in batch.still:
        if sequence.stage == "still":
            batch.decodes.join(sequence)
    batch.still.clear()
    batch.lowest = None


def _fits(batch: VirtualBatch, prompt: LiveSequence, decodes: int) -> bool:
    """Some of the prompt is sure to be computed in a step beside so many answers."""
    shape, kv = batch.shape, batch.kv
    if decodes >= shape.max_batch_tokens:
        return False
    if prompt.stage == "prefill":
        return True
    blocks = -(-prompt.tokens // shape.block_tokens)
    reserve = shape.watermark_blocks + decodes  # each of them may take one
    return len(batch.running) < shape.max_num_seqs and blocks + reserve <= kv.available
