"""An engine in virtual time that skips ahead: what a request's lengths make of it, no tokens.

Between two things that happen, a batch that only decodes computes many steps: they are one flight,
whose instants are in closed form. A thing from outside takes effect at the end of the step in
progress, as in a real engine; an idle engine begins when it is asked what comes next.
"""

from typing import Final

from shunter_simulator.engine import PromptTooLong
from shunter_simulator.virtual.batch import Step, VirtualBatch
from shunter_simulator.virtual.flight import Flight
from shunter_simulator.virtual.planning import plan, take_off
from shunter_simulator.virtual.sequences import LiveSequence
from shunter_simulator.virtual.values import (
    EngineEvent,
    EngineObservation,
    EngineShape,
    Export,
    VirtualSequence,
)


class VirtualEngine:
    """Instants are in seconds and must not go back from call to call."""

    def __init__(self, shape: EngineShape, *, skip_ahead: bool = True) -> None:
        """`skip_ahead` False computes step by step, with the same results."""
        self.shape: Final = shape
        self._batch = VirtualBatch(shape)
        self._serial = 0
        self._flight: Flight | None = None
        self._step: Step | None = None
        self._wake_s: float | None = None  # idle, and something may have become possible then
        self._seen = (0, 0, 0)
        self._slow = 1.0
        self._copies = 0
        self._skip_ahead = skip_ahead

    def add(self, sequence: VirtualSequence, now: float) -> None:
        """One with `resident_tokens` takes its reservation and decodes from the next step on.

        Raises `PromptTooLong` where the KV memory cannot hold it, and `ValueError` for a request id
        that is in use, an answer that is complete, or resident tokens without room reserved for
        them. An answer ends early where it fills the whole KV memory.
        """
        self._settle(now)
        shape = self.shape
        if sequence.request_id in self._batch.sequences:
            raise ValueError(f"request id {sequence.request_id!r} is in use")
        if not 0 <= sequence.produced < sequence.output_tokens or sequence.prompt_tokens < 1:
            raise ValueError(
                f"request {sequence.request_id!r} has {sequence.prompt_tokens} prompt tokens and "
                f"{sequence.produced} of {sequence.output_tokens} answer tokens: nothing to compute"
            )
        live = LiveSequence(sequence, self._serial, shape.kv_blocks * shape.block_tokens)
        if live.tokens >= live.limit_tokens:
            raise PromptTooLong(
                f"request {sequence.request_id!r} has {live.tokens} tokens; this engine holds "
                f"{shape.kv_blocks * shape.block_tokens} per sequence"
            )
        if sequence.resident_tokens:
            self._move_in(live, sequence.resident_tokens)
        else:
            self._batch.enqueue(live)
        self._serial += 1
        self._batch.sequences[sequence.request_id] = live
        self._disturb(now)

    def abort(self, request_id: str, now: float) -> int | None:
        """Ends a sequence, held ones included, and frees its blocks. Returns how many tokens of the
        answer there are; None: not there."""
        self._settle(now)
        live = self._batch.sequences.get(request_id)
        if live is None:
            return None
        produced = self._batch.tokens(live) - live.prompt_tokens
        self._batch.remove(live)
        self._disturb(now)
        return produced

    def advance(self, now: float) -> list[EngineEvent]:
        """What happened until `now`, `now` included, in order."""
        self._settle(now)
        events = self._batch.events
        self._batch.events = []
        return events

    def next_at(self, now: float) -> float | None:
        """When something happens next if nothing comes from outside. None: never."""
        self._settle(now)
        if self._batch.events:
            return now
        if self._flight is None and self._wake_s is not None:
            self._plan(self._wake_s)
        return None if self._flight is None else self._flight.end_s(self._flight.steps)

    def produced(self, request_id: str, now: float) -> int:
        """Tokens of the answer so far, earlier engines' part included. Raises `KeyError`."""
        self._settle(now)
        live = self._batch.sequences[request_id]
        return self._batch.tokens(live) - live.prompt_tokens

    def step_began_s(self, now: float) -> float:
        """When the step in progress began: answers that go on got their last token then. `now`
        where nothing is in progress."""
        self._settle(now)
        flight = self._flight
        return now if flight is None else flight.end_s(flight.done)

    def stats(self, now: float) -> EngineObservation:
        self._settle(now)
        batch = self._batch
        if self._flight is None:
            self._seen = self._counts()
        running, waiting, waiting_tokens = self._seen
        return EngineObservation(
            running,
            waiting,
            batch.kv.used,
            batch.kv.total,
            waiting_tokens,
            batch.preemptions,
            batch.preemption_loss_s,
        )

    def reserve(self, request_id: str, tokens: int, now: float) -> bool:
        """Keeps blocks for `tokens` tokens of a sequence that will come; again to raise it.

        False: it would touch the watermark, or all places in the batch are taken.
        """
        self._settle(now)
        kv, batch = self._batch.kv, self._batch
        if not kv.reserved(request_id):
            places = len(batch.running) + len(batch.entering) + kv.reservations
            if places >= self.shape.max_num_seqs:
                return False
        if not kv.reserve(request_id, -(-tokens // self.shape.block_tokens)):
            return False
        self._disturb(now)
        return True

    def unreserve(self, request_id: str, now: float) -> None:
        self._settle(now)
        if self._batch.kv.unreserve(request_id):
            self._disturb(now)

    def decodes(self, request_id: str) -> bool:
        """As of the last look; a sequence that is gone has no more to decode."""
        live = self._batch.sequences.get(request_id)
        return live is None or live.stage == "decode"

    def export(self, request_id: str, now: float) -> Export | None:
        """Takes a sequence out of the batch at the end of the step in progress, for the last stage
        of a move; its blocks stay until `release`. None: it does not decode, or ends by then."""
        self._settle(now)
        live = self._batch.sequences.get(request_id)
        flight, decodes = self._flight, self._batch.decodes
        if live is None or live.stage != "decode" or live.leaving or flight is None:
            return None
        ticks = decodes.ahead
        if live.finish_tick <= decodes.tick + ticks:
            return None
        self._batch.leave(live)
        self._disturb(now)
        tokens = decodes.tokens(live) + ticks
        return Export(flight.end_s(flight.steps), tokens - 1, tokens - live.prompt_tokens)

    def release(self, request_id: str, now: float) -> None:
        """The exported sequence is elsewhere: frees its blocks."""
        self.abort(request_id, now)

    def resume(self, request_id: str, now: float) -> None:
        """The exported sequence goes on here after all. Raises `KeyError`."""
        self._settle(now)
        live = self._batch.sequences[request_id]
        if live.leaving:
            self._batch.stay(live)
        elif live.stage == "held":
            self._batch.enter(live)
            self._disturb(now)

    def slow(self, factor: float, now: float) -> None:
        """Steps take `factor` times as long from the next one on."""
        if factor <= 0:
            raise ValueError(f"factor must be above 0, not {factor}")
        self._settle(now)
        self._slow = factor
        self._disturb(now)

    def copy_begins(self, now: float) -> None:
        """KV is copied in or out from now on: see `EngineShape.copy_slow_down`."""
        self._settle(now)
        self._copies += 1
        self._disturb(now)

    def copy_ends(self, now: float) -> None:
        self._settle(now)
        self._copies -= 1
        self._disturb(now)

    def stop(self, now: float) -> dict[str, int]:
        """The engine dies. Returns the produced tokens of each sequence that it had."""
        self._settle(now)
        had = {i: self._batch.tokens(s) - s.prompt_tokens for i, s in self._batch.sequences.items()}
        events = self._batch.events
        self._batch = VirtualBatch(self.shape)
        self._batch.events = events
        self._flight = self._step = self._wake_s = None
        self._seen = (0, 0, 0)
        self._copies = 0
        return had

    def check(self) -> None:
        """Raises `AssertionError` unless the books balance (for tests)."""
        self._batch.check()

    def _move_in(self, live: LiveSequence, resident_tokens: int) -> None:
        live.computed = min(resident_tokens, live.tokens - 1)
        kv, block_tokens = self._batch.kv, self.shape.block_tokens
        needed = live.computed if live.pending == 1 else live.tokens
        live.blocks = -(-needed // block_tokens)
        if live.blocks > kv.reserved(live.request_id):
            raise ValueError(
                f"request {live.request_id!r} needs {live.blocks} blocks for its resident tokens; "
                f"{kv.reserved(live.request_id)} are reserved: call reserve first"
            )
        kv.give(-live.blocks)
        kv.unreserve(live.request_id)
        kv.publish(live, 0, live.computed)
        live.cached_tokens = 0
        self._batch.enter(live)

    def _counts(self) -> tuple[int, int, int]:
        batch = self._batch
        return (len(batch.running), len(batch.waiting), batch.waiting_tokens)

    def _disturb(self, now: float) -> None:
        """What came from outside counts from the next step on."""
        if self._flight is None:
            if self._wake_s is None:
                self._wake_s = now
        else:
            self._flight.steps = self._flight.done + 1

    def _settle(self, now: float) -> None:
        """Books all steps that are over at `now`."""
        flight = self._flight
        if flight is not None and now < flight.next_s:
            return
        if flight is None and self._wake_s is not None and self._wake_s < now:
            self._plan(self._wake_s)
        while (flight := self._flight) is not None and now >= flight.next_s:
            ended = flight.ended(now)
            if ended < flight.steps:
                self._book(flight, ended)
                return
            self._book(flight, flight.steps - 1)
            assert self._step is not None
            end_s = flight.end_s(flight.steps)
            self._batch.commit(self._step, 1, end_s)
            self._flight = self._step = None
            self._plan(end_s)

    def _book(self, flight: Flight, ended: int) -> None:
        """Brings the batch to where `ended` steps are over and the next one is in progress."""
        steps = ended - flight.done
        if steps:
            batch = self._batch
            batch.kv.take(batch.decodes.growth(1, steps))
            batch.decodes.tick += steps
            flight.book(ended)

    def _plan(self, now: float) -> None:
        self._wake_s = None
        step = plan(self._batch, now)
        self._seen = self._counts()
        if step is not None:
            factor = self._slow * (1 + self.shape.copy_slow_down if self._copies else 1)
            self._step = step
            self._flight = take_off(self._batch, step, now, factor, self._skip_ahead)
