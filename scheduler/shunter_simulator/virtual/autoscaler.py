"""Scales the pools of a simulated world by their freeness (Sun et al., OSDI 2024, section 4.4.3,
with the rule of the artifact: pooled KV tokens free of load, per request)."""

from collections.abc import Sequence
from dataclasses import dataclass

from shunter_simulator.scenarios.autoscaling import Autoscaling
from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.comings import Comings
from shunter_simulator.virtual.fleet import Fleet, Slot
from shunter_simulator.virtual.gateway import VirtualGateway
from shunter_simulator.virtual.values import EngineObservation


@dataclass(frozen=True, slots=True)
class _Load:
    """Of a pool's instances that take requests, and of what waits for one."""

    free_tokens: float
    requests: int

    def freeness(self, more_tokens: float = 0.0) -> float:
        """With so many tokens of empty memory more."""
        return (self.free_tokens + more_tokens) / max(1, self.requests)


class Autoscaler:
    def __init__(
        self,
        agenda: Agenda,
        fleet: Fleet,
        gateway: VirtualGateway,
        comings: Comings,
        settings: Autoscaling,
    ) -> None:
        self._agenda = agenda
        self._gateway = gateway
        self._comings = comings
        self._settings = settings
        self._pools: dict[str, list[Slot]] = {}
        for slot in fleet.slots.values():
            self._pools.setdefault(slot.value.pool, []).append(slot)

    def begin(self) -> None:
        """Before the first request: takes out what is not there yet."""
        for slots in self._pools.values():
            for slot in slots[self._settings.start :]:
                slot.there = slot.listed = False
        self._agenda.at(self._settings.begin_s, self._look)

    def _look(self) -> None:
        for pool, slots in self._pools.items():
            self._scale(pool, slots)
        self._agenda.after(self._settings.interval_s, self._look)

    def _scale(self, pool: str, slots: Sequence[Slot]) -> None:
        seen = {slot.name: slot.engine.stats(self._agenda.now) for slot in slots if slot.there}
        serving = [slot for slot in slots if slot.there and not self._comings.is_draining(slot)]
        load, goal = self._load(pool, serving, seen), self._settings.freeness
        if load.freeness() < goal:
            self._grow(slots, load, seen)
        elif len(serving) > 1:
            least = min(serving, key=lambda slot: seen[slot.name].running + seen[slot.name].waiting)
            if load.freeness(-_usable_tokens(least)) > goal + self._settings.margin:
                self._comings.drain(least, self._settings.deadline_s, lambda slot: None)

    def _grow(self, slots: Sequence[Slot], load: _Load, seen: dict[str, EngineObservation]) -> None:
        """Those that drain stay, as they have load already, then empty ones come."""
        draining = [slot for slot in slots if self._comings.is_draining(slot)]
        absent = [slot for slot in slots if not slot.there]
        more_tokens = 0.0
        for slot in (*draining, *absent):
            if load.freeness(more_tokens) >= self._settings.freeness:
                return
            if slot.there:
                self._comings.keep(slot)
                more_tokens += _free_tokens(slot, seen[slot.name])
            else:
                self._comings.come(slot)
                more_tokens += _usable_tokens(slot)

    def _load(
        self, pool: str, serving: Sequence[Slot], seen: dict[str, EngineObservation]
    ) -> _Load:
        waiting = [life for life in self._gateway.open.values() if life.state == "waiting"]
        queued = [life for life in waiting if life.pool in ("", pool)]
        free_tokens = sum(_free_tokens(slot, seen[slot.name]) for slot in serving)
        free_tokens -= sum(life.context_tokens for life in queued)
        requests = sum(seen[s.name].running + seen[s.name].waiting for s in serving)
        return _Load(free_tokens, requests + len(queued))


def _usable_tokens(slot: Slot) -> float:
    return slot.kv_tokens * (1 - slot.shape.watermark)


def _free_tokens(slot: Slot, seen: EngineObservation) -> float:
    used = seen.used_blocks * slot.shape.block_tokens
    return _usable_tokens(slot) - used - seen.waiting_tokens
