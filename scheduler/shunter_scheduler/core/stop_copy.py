"""KV caches that are copied only while their request stands still (llama-server's slots, ADR 15).

The client waits for the save and the restore of the whole context, where a copy in stages lets it
wait for the last stage alone. What both take is predicted as so many seconds and so many for each
token of context, and learned from the gaps that moves report.
"""

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.costmodel.correction import Correction

ENGINE_TYPES = frozenset({"llamacpp"})
# Of a move beside the copy. Steps of the destination: the last token is computed there, or the last
# stage copied, and one step waited for; and to end one engine call and begin another.
STALL_STEPS, SWITCH_S = 2.0, 0.01
# Save and restore together, until moves have reported theirs. llama.cpp, tools/server/README.md:
# 14.3 MB are saved in 49.9 ms and restored in 42.9 ms.
BYTES_PER_S = 1.5e8
CALLS_S = 0.01  # four calls of the gateway, whatever is copied
MOST_S = 8.0  # gateways wait for 5 s for each of the two, and would have stopped the client in vain
NOT_ANSWERED = frozenset({"save not answered", "restore not answered"})  # as gateways say it
SHORTER_S = 600.0  # for which none as long as one that was not answered is ordered
TYPICAL_BYTES = 131_072.0  # of keys and values a token, where the model is unknown: of an 8B model
_MIDDLING = (1.0, 1024.0)

Floats = NDArray[np.float64]
S = TypeVar("S", float, Floats)


class StopCopies:
    """Of one pool, in seconds."""

    __slots__ = ("_longest", "_shorter_until", "_times")

    def __init__(self, kv_bytes_per_token: float) -> None:
        per_token_s = (kv_bytes_per_token or TYPICAL_BYTES) / BYTES_PER_S
        self._times = Correction((CALLS_S, per_token_s), _MIDDLING)
        self._longest = math.inf  # tokens
        self._shorter_until = -math.inf

    def takes_s(self, tokens: S) -> S:
        """Save and restore of so many tokens."""
        once_s, per_token_s = self._times.published
        return once_s + tokens * per_token_s

    def neighbours_s(self, tokens: S, here: float, there: S) -> S:
        """What so many others lose at the source, which decodes nothing while it writes, and at the
        destination while it reads: half of the time each, but for the calls."""
        return 0.5 * tokens * self._times.published[1] * (here + there)

    @property
    def bound_tokens(self) -> float:
        """From so many on gateways do not wait for it, as far as is known."""
        once_s, per_token_s = self._times.published
        return min(self._longest, (MOST_S - once_s) / per_token_s)

    def heard(self, tokens: int, reason: str, now: float) -> None:
        """Of a move, and why it did not go with its KV cache."""
        if now >= self._shorter_until:
            self._longest = math.inf
        if reason in NOT_ANSWERED:
            self._longest = min(self._longest, float(tokens))
            self._shorter_until = now + SHORTER_S

    def observe(self, tokens: int, stall_s: float, step_s: float, now: float) -> None:
        """The gap that a client saw, and the time of a step where the request has gone."""
        took_s = stall_s - SWITCH_S - STALL_STEPS * step_s
        self._times.observe((1.0, float(tokens)), max(0.0, took_s), now)

    def pays(
        self, tokens: int, source: InstanceRecord, destination: InstanceRecord, cached_tokens: int
    ) -> bool:
        """Whether it takes those whom it concerns fewer seconds than the prefill of a replay, of
        all but the cached tokens, which holds up who runs at the destination."""
        here, there = source.load.requests, destination.load.requests
        lost_s = self.takes_s(float(tokens))
        lost_s += self.neighbours_s(float(tokens), max(0.0, here - 1.0), float(there))
        prefill_s = destination.model.prefill_s(tokens - cached_tokens, cached_tokens)
        return lost_s <= prefill_s * (there + 1)
