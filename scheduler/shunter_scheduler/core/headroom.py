"""Headroom for priorities: who runs where one more request would be one too many.

The load that an instance may have for the sake of a class is the one at which a step takes as long
as the class's TPOT target (Llumnix, OSDI 2024, section 4.4, has it as a number of tokens). What
lies above it is kept from lower classes: they go elsewhere, or wait.
"""

from collections.abc import Mapping

from shunter_scheduler.core.instance import InstanceRecord


class PriorityHeadroom:
    """Of the instances of one pool, by slot. Most of the time nobody needs any, and `by_rank` is
    empty."""

    __slots__ = ("by_rank",)

    def __init__(self) -> None:
        self.by_rank: dict[int, dict[int, str]] = {}  # rank that has it -> slot -> why

    def update(self, record: InstanceRecord, tpot_s: float) -> None:
        """`tpot_s`: of a step with one more request."""
        self.clear(record.slot)
        if not record.tpot_targets or record.hands_over:
            return
        alone_s = record.model.alone_s  # what it misses even so, no room can give it
        slow = [key for key in record.tpot_targets if tpot_s > key[1] > alone_s]
        if slow:
            rank, target_s = max(slow)
            why = f"kept for a higher class: {tpot_s * 1000:.0f} ms a token, its target is"
            self.by_rank.setdefault(rank, {})[record.slot] = f"{why} {target_s * 1000:.0f} ms"

    def clear(self, slot: int) -> None:
        for rank, slots in list(self.by_rank.items()):
            if slots.pop(slot, None) is not None and not slots:
                del self.by_rank[rank]

    def kept_from(self, rank: int, barred: Mapping[int, str]) -> Mapping[int, str]:
        """`barred`, and the slots that a class of this rank may not have."""
        for above, slots in self.by_rank.items():
            if above > rank:
                barred = {**slots, **barred}
        return barred
