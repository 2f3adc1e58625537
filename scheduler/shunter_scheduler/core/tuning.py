"""Alpha of `workload-balanced`, tuned for each pool while it runs.

Off the path of decisions: a timer replays the recent requests in short pieces, one alpha of the
grid after the other, and takes the best one at the end of a round. The core does so itself, so that
the same events give the same decisions, in a simulator as in service.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.timers import Timers
from shunter_scheduler.policies.replay import CLEARLY, EngineSpeed, PastRequest, Replay

if TYPE_CHECKING:
    from shunter_scheduler.core.pool import PoolRecord

ALPHAS = tuple(n / 10 for n in range(11))
# A piece takes about a millisecond, so that a round is done in some 15 s by 1 % of a core.
PIECE_EVENTS = 100
PIECE_EVERY_S = 0.1
WINDOW = 512  # requests
FRESH = 32  # of them, new since the last round, make another one worth while
MOST_ENGINES = 32  # a larger fleet is replayed with a part of its engines and of its requests


@dataclass(slots=True)
class AlphaTuner:
    """State of one pool. A round compares all alphas on the window that there was at its start."""

    alpha: float = 0.5
    tunes: bool = True
    fresh: int = 0
    rounds: int = 0
    runs: bool = False  # a timer is set
    _window: deque[PastRequest] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _past: list[PastRequest] = field(default_factory=list)  # of this round, like the engines
    _engines: list[EngineSpeed] = field(default_factory=list)
    _replay: Replay | None = None
    _to_do: list[float] = field(default_factory=list)
    _tails_s: dict[float, float] = field(default_factory=dict)

    @classmethod
    def of(cls, alpha: float | None) -> "AlphaTuner":
        """One that stays at `alpha`; that tunes where it is None."""
        return cls() if alpha is None else cls(alpha, tunes=False)

    def ended(self, timers: Timers, entry: Entry, output_tokens: int, now: float) -> None:
        """Notes an answer; begins a round where there is enough to learn from."""
        if not self.tunes:
            return
        request = entry.request
        group = request.workflow or request.request_id
        self._window.append(
            PastRequest(request.arrived_at, now, request.prompt_tokens, output_tokens, group)
        )
        self.fresh += 1
        if self.fresh >= FRESH and not self.runs:
            self.runs = True
            timers.push(now + PIECE_EVERY_S, "alpha", entry.pool.name)

    def step(self, timers: Timers, pool: "PoolRecord", now: float) -> None:
        """One piece of work, and the timer for the next one."""
        replay = self._replay
        if replay is not None:
            if replay.run(PIECE_EVENTS):
                self._tails_s[replay.alpha] = replay.tail_s()
                self._replay = None
        elif self._to_do:
            self._replay = Replay(self._past, self._engines, self._to_do.pop())
        elif self._tails_s:
            self._choose()
        else:
            self._begin(engine_speeds(pool))
        self.runs = bool(self._to_do or self._tails_s or self._replay is not None)
        if self.runs:
            timers.push(now + PIECE_EVERY_S, "alpha", pool.name)

    def _begin(self, engines: list[EngineSpeed]) -> None:
        if len(engines) < 2:  # nothing to choose between
            return
        self.fresh = 0
        thin = -(-len(engines) // MOST_ENGINES)
        self._past, self._engines = _thinned(self._window, thin), engines[::thin]
        self._to_do = list(ALPHAS)

    def _choose(self) -> None:
        """Another alpha only where it is clearly better."""
        tails_s = self._tails_s
        best = min(tails_s, key=lambda alpha: (tails_s[alpha], alpha))
        if self.alpha not in tails_s or tails_s[best] < (1 - CLEARLY) * tails_s[self.alpha]:
            self.alpha = best
        self._tails_s = {}
        self.rounds += 1


def engine_speeds(pool: "PoolRecord") -> list[EngineSpeed]:
    """Of the instances in service."""
    found = []
    for record in pool.records():
        if record.in_service:
            model, rates = record.model, record.model.rates
            found.append(
                EngineSpeed(
                    rates.prefill_base_s,
                    rates.prefill_s_per_token,
                    model.step_base_s,
                    rates.step_s_per_sequence,
                    rates.step_s_per_context_token,
                    model.middling_step_s,
                )
            )
    return found


def _thinned(window: "deque[PastRequest]", thin: int) -> list[PastRequest]:
    """Every so many-th group of them."""
    groups: dict[str, int] = {}
    for request in window:
        groups.setdefault(request.group, len(groups))
    return [request for request in window if groups[request.group] % thin == 0]
