"""Prefills ahead by rank, on engines that compute those of higher classes first.

There a request passes the prompts of lower classes that wait: they neither make it wait nor take
its head room. What an engine computes already it does not interrupt; that is a step or a few.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ALL_RANKS = 1 << 20  # above every rank


class RankedPrefills:
    """Over the slots of one pool. `full_rank`: the highest rank for which a slot has too many
    prefills ahead, -1 for none. Where a pool has one class all of it stays empty."""

    __slots__ = ("_ahead", "_fullest", "_lowest", "full_rank", "slots")

    def __init__(self, capacity: int) -> None:
        self.full_rank = np.full(capacity, -1.0)
        self._fullest = -1.0  # at least the highest of them
        self._ahead: dict[int, Floats] = {}  # seconds by rank
        self._lowest = ALL_RANKS  # at most the lowest that has any
        self.slots: set[int] = set()  # that have any

    def grow(self, capacity: int) -> None:
        """To more slots; what is in the old ones stays."""
        self.full_rank = _longer(self.full_rank, capacity, -1.0)
        self._ahead = {r: _longer(ahead, capacity, 0.0) for r, ahead in self._ahead.items()}

    def clear(self, slot: int) -> None:
        self.full_rank[slot] = -1.0
        self.put_ahead(slot, ())

    def put_full(self, slot: int, full_rank: float) -> None:
        self.full_rank[slot] = full_rank
        if full_rank > self._fullest:
            self._fullest = full_rank

    def put_ahead(self, slot: int, ahead: Iterable[tuple[int, float]]) -> None:
        """By rank the seconds that are ahead of all but higher ones."""
        if slot in self.slots:
            self.slots.discard(slot)
            for seconds in self._ahead.values():
                seconds[slot] = 0.0
        for rank, seconds_s in ahead:
            self.slots.add(slot)
            known = self._ahead.get(rank)
            if known is None:
                known = self._ahead[rank] = np.zeros(len(self.full_rank))
            known[slot] = seconds_s
            if rank < self._lowest:
                self._lowest = rank

    def any_full(self, rank: int) -> bool:
        """Some slot is full for this rank and open for a higher one."""
        if rank > self._fullest:
            return False
        self._fullest = self.full_rank.item(self.full_rank.argmax())
        return rank <= self._fullest

    def passed_s(self, rank: int, out: Floats) -> bool:
        """Seconds of prefills that a request of this rank passes. False: none, `out` is as it was
        before."""
        if rank <= self._lowest:
            return False
        lower = [known for below, known in self._ahead.items() if below < rank and known.any()]
        if not lower:
            return False
        np.copyto(out, lower[0])
        for known in lower[1:]:
            np.add(out, known, out)
        return True


def _longer(values: Floats, capacity: int, fill: float) -> Floats:
    made = np.full(capacity, fill)
    made[: len(values)] = values
    return made
