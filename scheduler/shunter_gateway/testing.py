"""Fakes of the lifecycle's ports: a clock, decoders, a client, an observer."""

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shunter_gateway.request import ClientError, Delta, Outcome
from shunter_gateway.topology import Pool
from shunter_text.detokenizer import StreamDecoder


@dataclass(slots=True)
class _Timer:
    callback: Callable[[], None] | None

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """`Clock` that stands still until `advance`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _Timer]] = []

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], None], /) -> _Timer:
        timer = _Timer(callback)
        heapq.heappush(self._timers, (self._now + delay, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            self._now, _, timer = heapq.heappop(self._timers)
            if (callback := timer.callback) is not None:
                timer.callback = None
                callback()
        self._now = end

    @property
    def waiting(self) -> int:
        """Timers that are not cancelled."""
        return sum(1 for _, _, timer in self._timers if timer.callback is not None)


@dataclass(slots=True)
class LetterDecoder:
    """Token 0 is `a`, 1 is `b`, ...: what was delivered shows at a glance. `rest` comes last."""

    rest: str = ""

    def step(self, token_id: int) -> str:
        return chr(ord("a") + token_id % 26)

    def flush(self) -> str:
        return self.rest


@dataclass(slots=True)
class LetterDecoders:
    """`Decoders` for every pool; `reason` is why its engines' tokens cannot be trusted, `pieces`
    the ids of those pieces of text that they are known of."""

    reason: str = ""
    rest: str = ""
    pieces: dict[str, list[int]] = field(default_factory=dict)

    def decoder(self, pool: Pool, context_ids: tuple[int, ...]) -> StreamDecoder | None:
        return LetterDecoder(self.rest)

    def eos_token_ids(self, pool: Pool) -> frozenset[int]:
        return frozenset()

    def ids_within(self, pool: Pool, text: str) -> Sequence[int]:
        return self.pieces.get(text, ())

    def same_tokenizer(self, source: str, other: str) -> bool:
        return source == other

    def mismatch(self, pool: Pool) -> str:
        return self.reason


@dataclass(slots=True)
class RecordingSink:
    """A `ClientSink` that keeps what the client got, and fails on anything after the end."""

    assigned: list[str] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    outcome: Outcome | None = None
    error: ClientError | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for delta in self.deltas for token_id in delta.token_ids]

    @property
    def ended(self) -> bool:
        return self.outcome is not None or self.error is not None

    def on_assigned(self, instance: str, pool: str) -> None:
        assert not self.ended
        self.assigned.append(instance)

    def on_delta(self, delta: Delta) -> None:
        assert not self.ended
        self.deltas.append(delta)

    def on_done(self, outcome: Outcome) -> None:
        assert not self.ended
        self.outcome = outcome

    def on_error(self, error: ClientError) -> None:
        assert not self.ended
        self.error = error


@dataclass(slots=True)
class CountingObserver:
    counts: dict[str, int] = field(default_factory=dict)
    copied_bytes: dict[str, int] = field(default_factory=dict)  # by rung

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def retried(self, reason: str) -> None:
        self._count(f"retried {reason}")

    def moved(self, rung: str, stall_s: float) -> None:
        self._count(f"moved {rung}")

    def move_aborted(self, rung: str, reason: str) -> None:
        self._count(f"aborted {reason}")

    def copied(self, rung: str, size_bytes: int) -> None:
        self.copied_bytes[rung] = self.copied_bytes.get(rung, 0) + size_bytes

    def unmovable(self, reason: str) -> None:
        self._count(f"unmovable {reason}")

    def placed_without_scheduler(self) -> None:
        self._count("alone")
