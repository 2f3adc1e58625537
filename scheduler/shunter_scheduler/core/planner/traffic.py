"""Bounds on what moves at a time: how many per instance, and how fast.

A link carries one copy after the other at `kv_bytes_per_s`; an instance spends at most
`replay_share` of its time on prefills of what moves there. So a move may begin once what began
before it is paid for.
"""

import numpy as np

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.planner.fleet import Bools, Fleet
from shunter_scheduler.core.planner.state import Budget
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.domain.decisions import Rung


class Traffic:
    """Of one pool in one cycle."""

    def __init__(self, state: CoreState, pool: PoolRecord, fleet: Fleet, now: float) -> None:
        self._planner = state.planner
        self._settings = state.settings.moves
        self._fleet = fleet
        self._stops = pool.stop_copies
        self._now = now
        self._limit = pool.spec.migration.max_concurrent_per_instance
        self._under_way = np.zeros(len(fleet))
        self._link_free = np.ones(len(fleet), dtype=np.bool_)
        self._replay_free = np.ones(len(fleet), dtype=np.bool_)
        if state.moving or self._planner.budgets:
            self._take_up(state, now)

    def _take_up(self, state: CoreState, now: float) -> None:
        """What is under way, or not paid for yet."""
        at = {record.name: index for index, record in enumerate(self._fleet.records)}
        for request_id in state.moving:
            entry = state.entries[request_id]
            ends = [entry.instance] if entry.instance is not None else []
            if entry.move is not None:
                ends.append(entry.move.destination)
            for record in ends:
                if (index := at.get(record.name)) is not None:
                    self._under_way[index] += 1
        for name, budget in self._planner.budgets.items():
            if (index := at.get(name)) is not None:
                self._link_free[index] = budget.link_free_at <= now
                self._replay_free[index] = budget.replay_free_at <= now

    def may_give(self, source: int) -> bool:
        return bool(self._under_way[source] < self._limit)

    def may_take(self, source: int, copies: Bools) -> Bools:
        """Who may be the destination of a move from `source`: by copy, or by prefill."""
        links = self._link_free & self._link_free[source]
        free: Bools = np.where(copies, links, self._replay_free)
        free &= self._under_way < self._limit
        return free

    def book(self, entry: Entry, source: int, destination: int, rung: Rung) -> None:
        fleet, settings = self._fleet, self._settings
        ends = (source, destination)
        for index in ends:
            self._under_way[index] += 1
        if rung == "kv":
            seconds = self._copy_s(entry, source)
            for index in ends:
                self._budget(index).link_free_at = self._now + seconds
                self._link_free[index] = False
        else:
            seconds = float(
                fleet.prefill_s(np.array(entry.context_tokens), np.array([destination]))[0]
            )
            wait_s = seconds / settings.replay_share
            self._budget(destination).replay_free_at = self._now + wait_s
            self._replay_free[destination] = False

    def _copy_s(self, entry: Entry, source: int) -> float:
        if self._stops is not None:
            return self._stops.takes_s(float(entry.context_tokens))
        per_token_s = copy_s_per_token(self._fleet, source, self._settings.kv_bytes_per_s)
        return entry.context_tokens * per_token_s

    def _budget(self, index: int) -> Budget:
        return self._planner.budget(self._fleet.records[index].name)


def copy_s_per_token(fleet: Fleet, source: int, bytes_per_s: float) -> float:
    return fleet.records[source].model.cost.kv_bytes_per_token / bytes_per_s
