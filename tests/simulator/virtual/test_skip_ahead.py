"""Many steps at once give what one step at a time gives, whatever comes from outside."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_simulator.engine import PromptTooLong
from shunter_simulator.virtual import (
    Batching,
    EngineEvent,
    EngineShape,
    LinearTimes,
    VirtualEngine,
    VirtualSequence,
)

# No two sums of these meet by chance.
TIMES = LinearTimes(5.61e-3, 0.20283e-3, 5.0917e-8, 35.0071e-3, 0.650311e-3, 0.001500713e-3)
SHAPE = EngineShape(TIMES, kv_blocks=60, block_tokens=4, max_num_seqs=6, max_batch_tokens=24)

KINDS = ["add", "add", "add", "abort", "reserve", "arrive", "unreserve", "export", "release"]
ACTIONS = st.lists(
    st.tuples(
        st.floats(0.0, 0.6),  # pause before
        st.sampled_from([*KINDS, "resume", "slow", "copy", "copied"]),
        st.integers(0, 20),  # whom it is about, or the prompt's tokens
        st.integers(1, 80),  # answer tokens, or what is reserved
        st.sampled_from([0, 0, 0, 1]),  # priority
    ),
    min_size=1,
    max_size=40,
)


class Driven:
    """An engine and what became of its sequences."""

    def __init__(self, shape: EngineShape, *, skip_ahead: bool) -> None:
        self.engine = VirtualEngine(shape, skip_ahead=skip_ahead)
        self.events: list[EngineEvent] = []
        self.figures: list[float] = []
        self.remarks: list[object] = []
        self.copies = 0

    def act(self, now: float, kind: str, who: int, tokens: int, priority: int) -> None:
        engine, name = self.engine, f"r{who}"
        self.events += engine.advance(now)
        match kind:
            case "add":
                blocks = tuple(range(who % 4))
                sequence = VirtualSequence(name, 4 * who + 1, tokens, blocks=blocks)
                self._add(replaced(sequence, priority), now)
            case "abort":
                self.remarks.append(engine.abort(name, now))
            case "reserve":
                self.remarks.append(engine.reserve(name, tokens, now))
            case "arrive":
                # All of it is here, or all but a few tokens.
                resident = max(1, 2 * who + priority - 3 * (tokens % 2))
                sequence = VirtualSequence(name, 2 * who + 1, tokens + 1, 1, resident)
                self._add(replaced(sequence, priority), now)
            case "unreserve":
                engine.unreserve(name, now)
            case "export":
                self.figures += engine.export(name, now) or ()
            case "release":
                engine.release(name, now)
            case "resume":
                try:
                    engine.resume(name, now)
                except KeyError:
                    self.remarks.append("unknown")
            case "slow":
                engine.slow(0.5 + who / 10, now)
            case "copy":
                self.copies += 1
                engine.copy_begins(now)
            case "copied" if self.copies:
                self.copies -= 1
                engine.copy_ends(now)
        engine.check()
        self.figures += engine.stats(now)
        self.remarks.append(engine.next_at(now) is None)

    def _add(self, sequence: VirtualSequence, now: float) -> None:
        try:
            self.engine.add(sequence, now)
        except PromptTooLong:
            self.remarks.append("too long")
        except ValueError as problem:
            self.remarks.append(str(problem))

    def finish(self, now: float) -> None:
        while (at := self.engine.next_at(now)) is not None:
            now = at
            events = self.engine.advance(now)
            self.events += events
            assert all(e.at_s <= now for e in events)
        self.engine.check()


def replaced(sequence: VirtualSequence, priority: int) -> VirtualSequence:
    fields = {name: getattr(sequence, name) for name in sequence.__struct_fields__}
    return VirtualSequence(**{**fields, "priority": priority})


@settings(deadline=None, max_examples=150)
@given(
    actions=ACTIONS,
    batching=st.sampled_from(["chunked", "prefill-first"]),
    caching=st.sampled_from([0, 4, 8]),
    kv_blocks=st.integers(20, 60),
)
def test_many_steps_at_once_are_as_many_single_ones(
    actions: list[tuple[float, str, int, int, int]],
    batching: Batching,
    caching: int,
    kv_blocks: int,
) -> None:
    shape = replace(SHAPE, batching=batching, cache_block_tokens=caching, kv_blocks=kv_blocks)
    skipping = Driven(shape, skip_ahead=True)
    stepping = Driven(shape, skip_ahead=False)
    now = 0.0
    for pause_s, kind, who, tokens, priority in actions:
        now += pause_s
        skipping.act(now, kind, who, tokens, priority)
        stepping.act(now, kind, who, tokens, priority)
    skipping.finish(now)
    stepping.finish(now)

    assert skipping.remarks == stepping.remarks
    assert skipping.figures == pytest.approx(stepping.figures, rel=1e-9)
    assert len(skipping.events) == len(stepping.events)
    for one, other in zip(skipping.events, stepping.events, strict=True):
        assert (one.kind, one.request_id, one.produced, one.cached_tokens) == (
            other.kind,
            other.request_id,
            other.produced,
            other.cached_tokens,
        )
        assert (one.at_s, one.loss_s) == pytest.approx((other.at_s, other.loss_s), rel=1e-9)
