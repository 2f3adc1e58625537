"""One instance as policies see it: a row of numbers, and what an explanation keeps of it."""

from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct

MAX_PARTS = 3  # of a score that a policy makes of numbers which are not in the row
SEEN_WITHOUT_PARTS = 12  # numbers of a slot that are kept in any case


class Rates(Struct, frozen=True, gc=False):
    """Of the instances of one profile; a correction makes new ones. `price_s_per_s` is the price of
    one second of an instance, in the seconds that it is worth."""

    prefill_base_s: float
    prefill_s_per_token: float
    step_s_per_sequence: float
    step_s_per_context_token: float
    price_s_per_s: float
    prefill_s_per_pair: float = 0.0  # of a token and one that it attends to
    ttft_error: float = 0.0  # relative standard deviation of predicted times to first token
    alone_s: float = 0.0  # a decode step of one sequence

    @property
    def prefill_s_per_square(self) -> float:
        """Of a prompt's length squared: each token attends to half of the others on average."""
        return 0.5 * self.prefill_s_per_pair

    @property
    def prefill(self) -> tuple[float, float, float]:
        """Of a prompt: once, per token, per token squared."""
        return self.prefill_base_s, self.prefill_s_per_token, self.prefill_s_per_square

    def prefill_s(self, tokens: float, past_tokens: float = 0) -> float:
        """Computing `tokens` of a prompt after `past_tokens` that are cached."""
        pairs = tokens * (past_tokens + 0.5 * tokens)
        linear_s = self.prefill_base_s + tokens * self.prefill_s_per_token
        return linear_s + pairs * self.prefill_s_per_pair


class InstanceRow(Struct, frozen=True, gc=False):
    """One instance at one moment: seconds, tokens, and seconds per token."""

    name: str
    profile: str
    slot: int
    blocked_because: str  # empty: may be picked
    rates: Rates
    requests: float
    queued_until: float  # instant when the prefills ahead are done, if any are
    busy: float  # 1.0 while prefills are ahead, else 0.0
    kv_free_tokens: float
    kv_soft_free_tokens: float  # until the admission to KV memory starts to take time
    kv_wait_s_per_token: float
    tpot_s: float  # of one more sequence there, its own context not counted
    misses_per_s: float = 0.0  # of targets of those who run there, if each of them loses a second
    step_s: float = 0.0  # of the batch that is there
    # Of those with a TPOT target that run there; -1: none, or it is far from being missed.
    lowest_rank: float = -1.0
    # Where the engine computes higher classes first (`policies.ranked`): the highest rank for which
    # too many prefills are ahead, -1: none; and what is ahead by rank, in seconds.
    full_rank: int = -1
    ahead: tuple[tuple[int, float], ...] = ()
    passed_s: float = 0.0  # of prefills that the request passes for which the row is looked at

    def queue_s(self, now: float) -> float:
        """Wait for the step in progress and the prefills ahead. Once these are overdue, as long
        again as they are late: a stalled engine gets less attractive with every second."""
        ahead_s = abs(self.queued_until - now) * self.busy - self.passed_s
        return self.step_s + (ahead_s if ahead_s > 0.0 else 0.0)


class Standing(Struct, frozen=True, gc=False):
    """The part of a row that changes seldom, so that explanations share it."""

    name: str
    profile: str
    slot: int
    blocked_because: str
    rates: Rates
    full_rank: int = -1

    def row(self, numbers: Sequence[float], passed_s: float = 0.0) -> InstanceRow:
        """With the rest of the row: its numbers from `requests` on."""
        standing = (self.name, self.profile, self.slot, self.blocked_because, self.rates)
        requests, queued_until, busy, free, soft_free, kv_wait, tpot_s, misses, step_s = numbers
        load = (requests, queued_until, busy, free, soft_free, kv_wait, tpot_s, misses, step_s)
        return InstanceRow(*standing, *load, -1.0, self.full_rank, (), passed_s)


class Seen(Struct, frozen=True, gc=False):
    """Some slots at one moment, to be kept: thousands are, so that each is but a few objects.

    `numbers` is a packed matrix of float64 with one column a slot: the numbers of its row, its
    prefix hit (tokens), its score, the seconds of prefills that the request passes there and, where
    a policy of the pool has them, the parts of the score.
    """

    standings: tuple[Standing | None, ...]
    numbers: bytes

    def rows(self) -> Iterator[tuple[InstanceRow, float, float, list[float]]]:
        """Each instance's row, prefix hit, score, and parts of the score or none."""
        columns = np.frombuffer(self.numbers).reshape(-1, len(self.standings)).T.tolist()
        for standing, column in zip(self.standings, columns, strict=True):
            if standing is not None:
                *numbers, hit, score, passed_s = column[:SEEN_WITHOUT_PARTS]
                row = standing.row(numbers, passed_s)
                yield row, hit, score, column[SEEN_WITHOUT_PARTS:]
