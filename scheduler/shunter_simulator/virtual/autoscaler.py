"""Scales the pools of a simulated world: as their scheduler advises, or by their freeness (Sun et
al., OSDI 2024, section 4.4.3, with the rule of the artifact: pooled KV tokens free of load, per
request)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shunter_scheduler.core import SchedulerCore
from shunter_simulator.scenarios.autoscaling import Autoscaling
from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.comings import Comings
from shunter_simulator.virtual.fleet import Fleet, Slot
from shunter_simulator.virtual.gateway import VirtualGateway
from shunter_simulator.virtual.values import EngineObservation


@dataclass(frozen=True, slots=True)
class ScaledWorld:
    """What is scaled, and whose advice is asked."""

    agenda: Agenda
    fleet: Fleet
    gateway: VirtualGateway
    comings: Comings
    core: SchedulerCore


@dataclass(frozen=True, slots=True)
class _Load:
    """Of a pool's instances that take requests, and of what waits for one."""

    free_tokens: float
    requests: int

    def freeness(self, more_tokens: float = 0.0) -> float:
        """With so many tokens of empty memory more."""
        return (self.free_tokens + more_tokens) / max(1, self.requests)


class Autoscaler:
    def __init__(self, world: ScaledWorld, settings: Autoscaling) -> None:
        self._agenda = world.agenda
        self._gateway = world.gateway
        self._comings = world.comings
        self._core = world.core
        self._settings = settings
        self._pools: dict[str, list[Slot]] = {}
        for slot in world.fleet.slots.values():
            self._pools.setdefault(slot.value.pool, []).append(slot)

    def begin(self) -> None:
        """Before the first request: takes out what is not there yet."""
        for slots in self._pools.values():
            for slot in slots[self._settings.start :]:
                slot.there = slot.listed = False
        self._agenda.at(self._settings.begin_s, self._look)

    def _look(self) -> None:
        for pool, slots in self._pools.items():
            if self._settings.freeness is None:
                self._follow(pool, slots)
            else:
                self._keep_free(pool, slots, self._settings.freeness)
        self._agenda.after(self._settings.interval_s, self._look)

    # ------------------------------------------------------------ as the scheduler advises

    def _follow(self, pool: str, slots: Sequence[Slot]) -> None:
        for advice in self._core.advise_scaling(pool, self._agenda.now):
            of_profile = [slot for slot in slots if slot.value.profile == advice.profile]
            serving = self._serving(of_profile)
            missing = advice.desired_replicas - len(serving)
            for slot in self._next(of_profile)[: max(0, missing)]:
                self._add(slot)
            for slot in sorted(serving, key=self._requests)[: max(0, -missing)]:
                self._drain(slot)

    # ------------------------------------------------------------ by freeness

    def _keep_free(self, pool: str, slots: Sequence[Slot], goal: float) -> None:
        seen = {slot.name: slot.engine.stats(self._agenda.now) for slot in slots if slot.there}
        serving = self._serving(slots)
        load = self._load(pool, serving, seen)
        if load.freeness() < goal:
            more_tokens = 0.0
            for slot in self._next(slots):
                if load.freeness(more_tokens) >= goal:
                    return
                more_tokens += _free_tokens(slot, seen.get(slot.name))
                self._add(slot)
        elif len(serving) > 1:
            least = min(serving, key=self._requests)
            if load.freeness(-_usable_tokens(least)) > goal + self._settings.margin:
                self._drain(least)

    # ------------------------------------------------------------ who comes and goes

    def _serving(self, slots: Iterable[Slot]) -> list[Slot]:
        return [slot for slot in slots if slot.there and not self._comings.is_draining(slot)]

    def _next(self, slots: Iterable[Slot]) -> list[Slot]:
        """Those that drain first, as they have load already, then empty ones."""
        others = [s for s in slots if not s.there or self._comings.is_draining(s)]
        return sorted(others, key=lambda slot: not slot.there)

    def _add(self, slot: Slot) -> None:
        if slot.there:
            self._comings.keep(slot)
        else:
            self._comings.come(slot)

    def _drain(self, slot: Slot) -> None:
        self._comings.drain(slot, self._settings.deadline_s, lambda slot: None)

    def _requests(self, slot: Slot) -> int:
        seen = slot.engine.stats(self._agenda.now)
        return seen.running + seen.waiting

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


def _free_tokens(slot: Slot, seen: EngineObservation | None) -> float:
    """None: it is not there yet."""
    if seen is None:
        return _usable_tokens(slot)
    used = seen.used_blocks * slot.shape.block_tokens
    return _usable_tokens(slot) - used - seen.waiting_tokens
