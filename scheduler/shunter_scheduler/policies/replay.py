"""What alpha of `workload-balanced` would have served the recent requests best.

HexGen-Flow tunes alpha by simulating the recent trace for each value of a grid; so does this, over
a model small enough to run beside the decisions: an engine computes prompts one after the other and
then decodes all its sequences at the speed of their number. A request of a workflow comes as long
after those before it as it did, whenever they end.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from shunter_scheduler.policies.workload_balanced import TINY_S

TAIL = 0.25  # the slowest quarter counts: a high percentile of few workflows is one workflow
CLEARLY = 0.02  # better than another alpha by this share


class PastRequest(NamedTuple):
    """One that has ended. Requests of one `group` (a workflow; else its own id) depend on each
    other."""

    at_s: float
    ended_at_s: float
    prompt_tokens: int
    output_tokens: int
    group: str


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """`step_s` is a decode step of a middling batch, the speed that dispatch goes by."""

    prefill_base_s: float
    prefill_s_per_token: float
    step_base_s: float
    step_s_per_sequence: float
    step_s_per_context_token: float
    step_s: float

    def prefill_s(self, tokens: int) -> float:
        return self.prefill_base_s + tokens * self.prefill_s_per_token


class _Engine:
    """Time passes by `advance`, to at most `next_at`, when something ends."""

    __slots__ = ("_ends", "_prefills", "context", "decoded", "left", "next_at", "now", "speed")

    def __init__(self, speed: EngineSpeed) -> None:
        self.speed = speed
        self.now, self.next_at = 0.0, inf
        self.decoded = 0.0  # tokens of each sequence that has been there from the start
        self.left = 0.0  # output tokens to come
        self.context = 0.0
        self._prefills: deque[list[float]] = deque()  # seconds left, number, outputs, context
        self._ends: list[tuple[float, int, float]] = []  # `decoded` at the end, number, context

    def work_s(self, now: float) -> float:
        self.advance(now)
        return sum(p[0] for p in self._prefills) + self.left * self.speed.step_s

    def add(self, number: int, request: PastRequest) -> None:
        outputs = float(max(1, request.output_tokens))
        context = request.prompt_tokens + 0.5 * outputs
        prefill_s = self.speed.prefill_s(request.prompt_tokens)
        self._prefills.append([prefill_s, number, outputs, context])
        self.left += outputs
        self._plan()

    def _step_s(self) -> float:
        speed = self.speed
        sequences_s = len(self._ends) * speed.step_s_per_sequence
        return speed.step_base_s + sequences_s + self.context * speed.step_s_per_context_token

    def _plan(self) -> None:
        if self._prefills:
            self.next_at = self.now + self._prefills[0][0]
        elif self._ends:
            self.next_at = self.now + (self._ends[0][0] - self.decoded) * self._step_s()
        else:
            self.next_at = inf

    def advance(self, to: float) -> None:
        spent = to - self.now
        self.now = to
        if self._prefills:
            self._prefills[0][0] -= spent
        elif self._ends and spent > 0:
            tokens = spent / self._step_s()
            self.decoded += tokens
            self.left -= tokens * len(self._ends)

    def end(self) -> int | None:
        """What is due at `next_at` happens; the number of a request that ended."""
        self.advance(self.next_at)
        ended = None
        if self._prefills:
            _, number, outputs, context = self._prefills.popleft()
            heappush(self._ends, (self.decoded + outputs, int(number), context))
            self.context += context
        else:
            self.decoded, ended, context = heappop(self._ends)
            self.context -= context
        self._plan()
        return ended


class Replay:
    """One alpha. `run` goes on where it stopped, so that it can be cut into short pieces."""

    def __init__(
        self, window: Sequence[PastRequest], engines: Sequence[EngineSpeed], alpha: float
    ) -> None:
        self.alpha = alpha
        self._window = sorted(window)
        self._engines = [_Engine(speed) for speed in engines]
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._waits_for, self._gap_s, self._then = _dependencies(self._window)
        self._due = [(r.at_s, n) for n, r in enumerate(self._window) if not self._waits_for[n]]

    def run(self, events: int) -> bool:
        """At most so many events; True when all requests have ended."""
        for _ in range(events):
            engine = min(self._engines, key=_next_at)
            if self._due and self._due[0][0] <= engine.next_at:
                now, number = heappop(self._due)
                self._place(number, now)
            elif engine.next_at < inf:
                ended = engine.end()
                if ended is not None:
                    self._ended(ended, engine.now)
            else:
                return True
        return False

    def tail_s(self) -> float:
        """Mean time of the slowest groups."""
        times = sorted(self._took.values(), reverse=True)
        slowest = times[: max(1, round(TAIL * len(times)))]
        return sum(slowest) / len(slowest)

    def _place(self, number: int, now: float) -> None:
        request = self._window[number]
        self._began.setdefault(request.group, now)
        speeds = [e.speed for e in self._engines]
        outputs, prompt = request.output_tokens, request.prompt_tokens
        times = [max(TINY_S, s.prefill_s(prompt) + outputs * s.step_s) for s in speeds]
        fastest_s = min(times)
        reference = times.index(fastest_s)
        work = [engine.work_s(now) for engine in self._engines]
        share = (1.0 - self.alpha) / max(TINY_S, work[reference])
        scores = [
            share * outstanding - self.alpha * fastest_s / own
            for own, outstanding in zip(times, work, strict=True)
        ]
        self._engines[scores.index(min(scores))].add(number, request)

    def _ended(self, number: int, now: float) -> None:
        group = self._window[number].group
        self._took[group] = now - self._began[group]
        for after in self._then[number]:
            self._waits_for[after] -= 1
            if not self._waits_for[after]:
                heappush(self._due, (now + self._gap_s[after], after))


def _next_at(engine: _Engine) -> float:
    return engine.next_at


def _dependencies(
    window: Sequence[PastRequest],
) -> tuple[list[int], list[float], list[list[int]]]:
    """How many each request waits for, how long it comes after the last of them, and who waits for
    each."""
    waits_for, gap_s = [0] * len(window), [0.0] * len(window)
    then: list[list[int]] = [[] for _ in window]
    groups: dict[str, list[int]] = {}
    for number, request in enumerate(window):
        before = groups.setdefault(request.group, [])
        ended = [n for n in before if window[n].ended_at_s <= request.at_s]
        if ended:
            latest = max(window[n].ended_at_s for n in ended)
            gap_s[number] = request.at_s - latest
            waits_for[number] = len(ended)
            for n in ended:
                then[n].append(number)
        before.append(number)
    return waits_for, gap_s, then
