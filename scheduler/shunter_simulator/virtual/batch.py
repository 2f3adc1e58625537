"""Who is in the batch of a virtual engine: admission, preemption, and what a step gives.

The rules are those of `engine.BatchScheduler`, over lengths instead of tokens.
"""

from bisect import insort
from operator import attrgetter
from typing import Final, NamedTuple

from shunter_simulator.virtual.decodes import DecodeSet
from shunter_simulator.virtual.kv import KvAccount
from shunter_simulator.virtual.sequences import LiveSequence
from shunter_simulator.virtual.values import EngineEvent, EngineShape, EventKind

ORDER = attrgetter("order")


def _queue_key(sequence: LiveSequence) -> tuple[int, int]:
    return (sequence.order[0], sequence.kill_order or sequence.serial)


class Step(NamedTuple):
    """Whether those that decode get a token, and chunks of prompts with their sizes.

    `tails` are prompts of which a chunk left one token: they go before the chunks, like decodes.
    """

    decodes: bool
    chunks: list[tuple[LiveSequence, int]]
    tails: list[LiveSequence]


class VirtualBatch:
    """Alternate a plan (`planning`) and `commit`.

    The loss of a preemption is what Llumnix (section 6.3 there) counts: the time from it until the
    sequence is computed again, plus a prefill of its length, less a decode step.
    """

    def __init__(self, shape: EngineShape) -> None:
        self.shape: Final = shape
        self.kv: Final = KvAccount(shape)
        self.decodes: Final = DecodeSet(shape.block_tokens)
        self.running: Final[list[LiveSequence]] = []  # in order, those that decode included
        self.waiting: Final[list[LiveSequence]] = []  # in the order of admission
        self.prefills: Final[list[LiveSequence]] = []  # the running ones that do not decode
        self.waiting_tokens = 0
        self.preemptions = 0
        self.preemption_loss_s = 0.0
        self.events: list[EngineEvent] = []
        self.sequences: Final[dict[str, LiveSequence]] = {}
        self.disturbed = False  # by a preemption: the next plan may differ
        self.entering: Final[list[LiveSequence]] = []  # into the next step, their KV is here
        self._leaving: list[LiveSequence] = []  # after this one
        self._newcomers: list[LiveSequence] = []  # decode, but have no token of this engine yet
        self.still: Final[list[LiveSequence]] = []  # of those that decode, not in this step
        self.lowest: int | None = None  # priority of those that get one token; None: any
        self.yielded = 0  # steps in a row in which some stood still

    def take_in(self) -> None:
        """Those whose KV came by a move are in the next step."""
        for sequence in self.entering:
            self._enter(sequence)
        self.entering.clear()

    @property
    def steady(self) -> bool:
        """Whether the step after a planned one that only decodes is another such one."""
        return not self.disturbed and not self._newcomers

    def commit(self, step: Step, ticks: int, at_s: float) -> None:
        """Books `step`, whose decodes came `ticks` times since the last booking."""
        ended: list[LiveSequence] = []
        if step.decodes:
            self.decodes.tick += ticks
            self.decodes.ahead = 0
            self._greet_newcomers(at_s)
            ended = self.decodes.pop_ended()
        for sequence in sorted([*ended, *step.tails], key=ORDER) if step.tails else ended:
            if sequence.stage == "ended":
                self._finish(sequence, at_s)
            elif sequence.stage == "prefill":
                self._compute(sequence, 1, at_s)
        for sequence in self._leaving:
            self._hold(sequence)
        self._leaving.clear()
        for sequence, size in step.chunks:
            if sequence.stage == "prefill":
                self._compute(sequence, size, at_s)

    def enqueue(self, sequence: LiveSequence) -> None:
        sequence.stage = "waiting"
        self.waiting_tokens += sequence.tokens
        insort(self.waiting, sequence, key=_queue_key)

    def enter(self, sequence: LiveSequence) -> None:
        """One whose blocks and lengths are set goes into the next step."""
        sequence.stage = "entering"
        self.entering.append(sequence)

    def leave(self, sequence: LiveSequence) -> None:
        """One that decodes goes out of the batch after this step and keeps its blocks."""
        sequence.leaving = True
        self._leaving.append(sequence)

    def stay(self, sequence: LiveSequence) -> None:
        """It does not leave after all."""
        sequence.leaving = False
        self._leaving.remove(sequence)

    def remove(self, sequence: LiveSequence) -> None:
        """Takes a sequence out, at whatever stage, and frees its blocks."""
        if sequence.stage == "waiting":
            self.waiting.remove(sequence)
            self.waiting_tokens -= sequence.tokens
        elif sequence.stage == "entering":
            self.entering.remove(sequence)
        elif sequence.stage != "held":
            self._leave_running(sequence)
        if sequence.leaving:
            self.stay(sequence)
        self._end(sequence)

    def check(self) -> None:
        """Raises `AssertionError` unless the books balance (for tests)."""
        for sequence in self.running:
            if sequence.stage == "decode":
                self.decodes.refresh(sequence)
        self.kv.check(self.sequences.values())
        assert sorted(self.running, key=ORDER) == self.running
        assert sorted(self.waiting, key=_queue_key) == self.waiting
        assert sum(s.tokens for s in self.waiting) == self.waiting_tokens
        assert not any(s.blocks for s in self.waiting)
        assert self.prefills == [s for s in self.running if s.stage == "prefill"]
        still = sum(s.stage == "still" for s in self.running)
        assert self.decodes.count == len(self.running) - len(self.prefills) - still
        held = sum(s.stage == "held" for s in self.sequences.values())
        staying = len(self.running) + len(self.waiting) + len(self.entering)
        assert staying + held == len(self.sequences)

    def stands_still(self, sequence: LiveSequence) -> bool:
        """One that lacks one token does not get it in the next step."""
        return self.lowest is not None and sequence.order[0] > self.lowest

    def tokens(self, sequence: LiveSequence) -> int:
        return self.decodes.tokens(sequence) if sequence.stage == "decode" else sequence.tokens

    def take_growth(self, now: float) -> None:
        """Blocks for the next token of each that decodes; may preempt."""
        growth = self.decodes.growth(0, 1)
        self.disturbed = growth > self.kv.available
        if not self.disturbed:
            self.kv.take(growth)
            return
        for sequence in list(self.running):
            if sequence.stage != "decode" or not self.decodes.grows(sequence):
                continue
            while self.kv.available < 1 and sequence.stage == "decode":
                self._preempt_last(now)
            if sequence.stage == "decode":
                self.kv.take(1)

    def admit_first(self) -> LiveSequence | None:
        """Moves the first that waits into the batch if its blocks can be had."""
        sequence = self.waiting[0]
        # Alone it may use the reserve: else one that grew into it could never come back.
        if not self.kv.admit(sequence, self.kv.watermark if self.running else 0):
            return None
        del self.waiting[0]
        self.waiting_tokens -= sequence.tokens
        sequence.stage = "prefill"
        sequence.kill_order = 0
        if sequence.cached_tokens is None:  # a preempted one that comes back is not counted again
            sequence.cached_tokens = sequence.computed
        insort(self.running, sequence, key=ORDER)
        insort(self.prefills, sequence, key=ORDER)
        return sequence

    def _compute(self, sequence: LiveSequence, size: int, at_s: float) -> None:
        before = sequence.computed
        sequence.computed += size
        self.kv.publish(sequence, before, sequence.computed)
        if sequence.pending:
            return
        self.prefills.remove(sequence)
        sequence.tokens += 1
        if not sequence.started:
            self._start(sequence, at_s)
        if sequence.killed_at_s is not None:
            loss_s = self._loss_s(sequence, at_s - sequence.killed_at_s)
            sequence.killed_at_s = None
            self.preemption_loss_s += loss_s
            self._emit(at_s, "resumed", sequence, loss_s=loss_s)
        if sequence.tokens < sequence.limit_tokens:
            self.decodes.join(sequence)
        else:
            self._finish(sequence, at_s)

    def _enter(self, sequence: LiveSequence) -> None:
        insort(self.running, sequence, key=ORDER)
        if sequence.pending > 1:
            sequence.stage = "prefill"
            insort(self.prefills, sequence, key=ORDER)
            return
        self.decodes.join(sequence)
        if not sequence.started:
            self._newcomers.append(sequence)

    def _greet_newcomers(self, at_s: float) -> None:
        for sequence in self._newcomers:
            if sequence.stage == "decode":
                self.decodes.refresh(sequence)
                self._start(sequence, at_s)
        self._newcomers[:] = [s for s in self._newcomers if s.stage == "still"]

    def _start(self, sequence: LiveSequence, at_s: float) -> None:
        sequence.started = True
        self._emit(at_s, "first_token", sequence, cached_tokens=sequence.cached_tokens or 0)

    def _loss_s(self, sequence: LiveSequence, away_s: float) -> float:
        times, tokens = self.shape.times, sequence.tokens - 1
        decode_s = times.decode_line(1, tokens).step_s(tokens)
        return away_s + times.mixed_s([(tokens, 0)], 0, 0) - decode_s

    def _finish(self, sequence: LiveSequence, at_s: float) -> None:
        self.running.remove(sequence)
        self._end(sequence)
        self._emit(at_s, "finished", sequence)

    def _end(self, sequence: LiveSequence) -> None:
        sequence.stage = "gone"
        del self.sequences[sequence.request_id]
        self.kv.release(sequence)

    def _hold(self, sequence: LiveSequence) -> None:
        sequence.leaving = False
        self._leave_running(sequence)
        sequence.stage = "held"

    def _leave_running(self, sequence: LiveSequence) -> None:
        self.running.remove(sequence)
        if sequence.stage == "decode":
            self.decodes.leave(sequence)
        elif sequence.stage != "still":
            self.prefills.remove(sequence)

    def _preempt_last(self, now: float) -> None:
        sequence = self.running[-1]
        self._leave_running(sequence)
        self.kv.release(sequence)
        sequence.computed = 0
        self.preemptions += 1
        if sequence.killed_at_s is None:
            sequence.killed_at_s = now
        if self.shape.batching == "prefill-first":
            sequence.kill_order = -self.preemptions  # to the head of the queue
        self.enqueue(sequence)
        self._emit(now, "preempted", sequence)

    def _emit(
        self,
        at_s: float,
        kind: EventKind,
        sequence: LiveSequence,
        cached_tokens: int = 0,
        loss_s: float = 0.0,
    ) -> None:
        self.events.append(
            EngineEvent(at_s, kind, sequence.request_id, sequence.produced, cached_tokens, loss_s)
        )
