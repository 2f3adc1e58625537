"""What a dispatch policy looks at: a pool's instances as columns."""

import math
import struct
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from shunter_scheduler.policies.ask import Ask, Weights
from shunter_scheduler.policies.rows import InstanceRow, Seen, Standing
from shunter_scheduler.policies.slot_arrays import NUMBERS, SEEN_WITH_PARTS, SlotArrays

Floats = NDArray[np.float64]
_PUT = struct.Struct("=17d")


class InstanceColumns(SlotArrays):
    """Struct of arrays over the slots of one pool; a slot stays an instance's until it goes.

    `linear` holds, per slot, the part of the predicted cost that is linear in the request: the
    multipliers are 1, prefill tokens, their square, output tokens, output x context tokens, and 1
    for `queue_s`, which has to be asked for first. `prefill_weight` is what a second of prefill
    counts in the first three of them, `cached_weight` what one counts that the cache saves.

    A pick of a small pool costs as many NumPy calls as it makes, not what they work on. So what
    seldom matters is told by one number over all slots: `_least_free` and `_least_soft_free` are at
    most the fewest KV tokens of a slot that is open, `most_...` at least the most of its column,
    and they are made exact only where they say that memory may be short, or a target missed.
    `view` is there once a policy has asked for it.
    """

    __slots__ = ("_weights",)

    def __init__(self, weights: Weights, capacity: int = 16) -> None:
        super().__init__(capacity)
        self._weights = weights

    def grow(self) -> None:
        """Doubles the number of slots; numbers of slots in use stay."""
        standings, numbers = self._standings, self._data[NUMBERS].T.tolist()
        lowest_rank = self.lowest_rank
        self._allocate(2 * self.capacity)
        for standing, column in zip(standings, numbers, strict=True):
            if standing is not None:
                self.put(standing.row(column))
        self.lowest_rank[: len(lowest_rank)] = lowest_rank
        self.ranked.grow(self.capacity)
        if self.view is not None:
            self.view.grow(self.capacity)

    def seen(self, count: int, winner: int | None) -> Seen:
        """What a pick saw of the `count` best slots, the winner's among them; of all slots where
        there are hardly more."""
        best = self._best(count) if self.capacity > 2 * count else self.slots
        slots = best.tolist()
        if winner is not None and winner not in slots:  # more than a few have the lowest score
            best[0] = slots[0] = winner
        standings = self._standings
        kept = tuple([standings[slot] for slot in slots])
        seen = self._seen if self.view is None else self._data[SEEN_WITH_PARTS]
        return Seen(kept, seen.take(best, 1).tobytes())

    def _best(self, count: int) -> NDArray[np.intp]:
        """The slots of the lowest scores. Where these run out, infinite ones of instances come
        before those of empty slots, whose soft limit alone is infinite too."""
        score = self.score
        order: NDArray[np.intp] = score.argpartition(count)
        if score.item(order.item(count)) == math.inf:
            empty = self.kv_soft_free_tokens == math.inf
            order = np.where(empty, np.nan, score).argpartition(count)  # NaN goes last
        return order[:count]

    def put(self, row: InstanceRow) -> None:
        slot, n, w, rates = row.slot, row.requests, self._weights, row.rates
        free, soft_free, tpot_s = row.kv_free_tokens, row.kv_soft_free_tokens, row.tpot_s
        known = self._standings[slot]
        because = row.blocked_because
        if (
            known is None
            or known.rates is not rates
            or known.blocked_because != because
            or known.full_rank != row.full_rank
        ):
            self._put_standing(row)
        if row.ahead or slot in self.ranked.slots:
            self.ranked.put_ahead(slot, row.ahead)
        if because:
            free = -1.0
        elif free < self._least_free:
            self._least_free = free
        if soft_free < self._least_soft_free:
            self._least_soft_free = soft_free
        queued_until, busy, step_s = row.queued_until, row.busy, row.step_s
        misses_per_s = row.misses_per_s
        queue_s = abs(queued_until - self._queue_at) * busy + step_s
        if queue_s > self._most_queue_s:
            self._most_queue_s = queue_s
        if tpot_s > self.most_tpot_s:
            self.most_tpot_s = tpot_s
        if misses_per_s > self.most_misses_per_s:
            self.most_misses_per_s = misses_per_s
        if row.lowest_rank >= 0.0 or slot in self._near_target:
            self._put_lowest_rank(slot, row.lowest_rank)
        slowed, price = n * w.slowdown, rates.price_s_per_s
        prefill_weight = 1.0 + slowed + price
        decode_weight = w.decode + price / (n + 1)
        _PUT.pack_into(
            self._packed_bytes,
            0,
            rates.prefill_base_s * prefill_weight,
            rates.prefill_s_per_token * prefill_weight,
            rates.prefill_s_per_square * prefill_weight,
            tpot_s * decode_weight + slowed * rates.step_s_per_sequence,
            rates.step_s_per_context_token * (decode_weight + slowed),
            queue_s,
            prefill_weight,
            prefill_weight + w.cached,
            n,
            queued_until,
            busy,
            free,
            soft_free,
            row.kv_wait_s_per_token,
            tpot_s,
            misses_per_s,
            step_s,
        )
        self._columns[slot] = self._packed

    def _put_standing(self, row: InstanceRow) -> None:
        slot, because, rates = row.slot, row.blocked_because, row.rates
        full_rank = row.full_rank
        self._standings[slot] = Standing(row.name, row.profile, slot, because, rates, full_rank)
        self.ranked.put_full(slot, full_rank)
        self._set_blocked(slot, bool(because))
        self.prefill[:, slot] = rates.prefill
        self._slowest_prefill = None
        self.alone_s[slot] = rates.alone_s
        self.step_s_per_sequence[slot] = rates.step_s_per_sequence
        self.step_s_per_context_token[slot] = rates.step_s_per_context_token

    def _put_lowest_rank(self, slot: int, rank: float) -> None:
        self.lowest_rank[slot] = rank
        if rank >= 0.0:
            self._near_target.add(slot)
        else:
            self._near_target.discard(slot)

    def clear(self, slot: int) -> None:
        self._put_lowest_rank(slot, -1.0)
        self.ranked.clear(slot)
        self._set_blocked(slot, True)
        self._standings[slot] = None
        self._data[:, slot] = 0.0
        self.kv_free_tokens[slot] = -1.0
        self.kv_soft_free_tokens[slot] = math.inf

    def _set_blocked(self, slot: int, blocked: bool) -> None:
        self._open += int(self._blocked[slot]) - int(blocked)
        self._blocked[slot] = blocked

    def exclude(self, kv_tokens: float, slots: Collection[int], rank: int = 0) -> int:
        """Marks in `excluded` what is blocked, lacks KV head room, has too much ahead of a request
        of this rank, or is one of `slots`; how many are left."""
        full = self.ranked.any_full(rank)
        if kv_tokens <= self._least_free and not slots and not full:
            self.excluded = self._blocked
            return self._open
        excluded = self.excluded = self._excluded
        np.less(self.kv_free_tokens, kv_tokens, excluded)
        if full:
            np.logical_or(excluded, self.ranked.full_rank >= rank, excluded)
        for slot in slots:
            excluded[slot] = True
        left = self.capacity - int(np.count_nonzero(excluded))
        if left == self._open:
            self._least_free = float(
                self.kv_free_tokens.min(where=~self._blocked, initial=math.inf)
            )
        return left

    def memory_is_short(self, kv_tokens: float) -> bool:
        """Admission to KV memory takes time somewhere."""
        if kv_tokens <= self._least_soft_free:
            return False
        soft_free = self.kv_soft_free_tokens
        self._least_soft_free = soft_free.item(soft_free.argmin())
        return kv_tokens > self._least_soft_free

    def queue_s(self, now: float) -> Floats:
        """Wait for the step in progress and the prefills ahead, as `InstanceRow.queue_s`. Kept up
        to date for one instant: picks of one batch share it."""
        if now != self._queue_at:
            self._queue_at, self._most_queue_s = now, math.inf
            np.subtract(self.queued_until, now, self._queue_s)
            np.abs(self._queue_s, self._queue_s)
            np.multiply(self._queue_s, self.busy, self._queue_s)
            np.add(self._queue_s, self.step_s, self._queue_s)
        return self._queue_s

    def own_queue_s(self, ask: Ask) -> Floats:
        """`queue_s` less what the request passes; the very same array where it passes nothing."""
        queue_s = self.queue_s(ask.now)
        if self.ranked.passed_s(ask.rank, self._passed_s):
            self._passes, own = True, self._own_queue_s
            np.subtract(queue_s, self._passed_s, own)
            np.maximum(own, self.step_s, out=own)
            return own
        if self._passes:
            self._passes = False
            self._passed_s.fill(0.0)
        return queue_s

    def longest_ttft_s(self, tokens: float) -> float:
        """At least the most of `queue_s`, as asked for last, with a prompt of which nothing is
        cached."""
        queue_s = self._most_queue_s
        if queue_s == math.inf:
            queue_s = self._most_queue_s = _most(self._queue_s)
        slowest = self._slowest_prefill
        if slowest is None:
            base_s, s_per_token, s_per_square = self.prefill
            slowest = (_most(base_s), _most(s_per_token), _most(s_per_square))
            self._slowest_prefill = slowest
        return queue_s + slowest[0] + tokens * (slowest[1] + tokens * slowest[2])

    def tpot_exceeds(self, limit_s: float) -> bool:
        """Somewhere, for all that `most_tpot_s` says."""
        self.most_tpot_s = _most(self.tpot_s)
        return self.most_tpot_s > limit_s

    def any_misses(self) -> bool:
        """Somebody's target is missed somewhere, for all that `most_misses_per_s` says."""
        self.most_misses_per_s = _most(self.misses_per_s)
        return self.most_misses_per_s > 0.0


def _most(values: Floats) -> float:
    most: float = values.item(values.argmax())  # far cheaper than max()
    return most
