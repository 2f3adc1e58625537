"""Looks at engines: what the scheduler is told of them, and what is noted of their load."""

from collections.abc import Iterator

import numpy as np

from shunter_scheduler.domain.events import InstanceObserved
from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.fleet import Fleet, Slot
from shunter_simulator.virtual.results import LoadSeries
from shunter_simulator.virtual.values import EngineObservation

MAX_SAMPLES = 2048


class Watcher:
    """Tells what changed since the last look. An instance that stands still costs nothing."""

    def __init__(self, agenda: Agenda, fleet: Fleet) -> None:
        self._agenda = agenda
        self._fleet = fleet
        self._told: dict[str, EngineObservation] = {}

    def look(self) -> Iterator[InstanceObserved]:
        fleet, now = self._fleet, self._agenda.now
        changed, fleet.changed = fleet.changed, {}
        for name, slot in changed.items():
            if not (slot.there and slot.listed):
                self._told.pop(name, None)
                continue
            seen = slot.engine.stats(now)
            if seen.running or seen.waiting:
                fleet.changed[name] = slot
            if self._told.get(name) != seen:
                self._told[name] = seen
                yield observed(slot, seen)

    def forget(self, slot: Slot) -> None:
        """It is looked at anew."""
        self._told.pop(slot.name, None)
        self._fleet.changed[slot.name] = slot


def observed(slot: Slot, seen: EngineObservation) -> InstanceObserved:
    return InstanceObserved(
        slot.name,
        healthy=True,
        running=seen.running,
        waiting=seen.waiting,
        kv_cache_usage=seen.used_blocks / seen.total_blocks,
        kv_capacity_tokens=slot.kv_tokens,
        waiting_kv_tokens=seen.waiting_tokens,
    )


class Sampler:
    """Notes the load of all instances; half as often each time that it has noted much."""

    def __init__(self, agenda: Agenda, fleet: Fleet, every_s: float) -> None:
        self.every_s = every_s
        self._agenda = agenda
        self._fleet = fleet
        self._at_s: list[float] = []
        self._in_flight: list[int] = []
        self._load: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []

    def sample(self, in_flight: int) -> None:
        now, slots = self._agenda.now, self._fleet.slots
        load = np.zeros((3, len(slots)), np.float32)
        for column, slot in enumerate(slots.values()):
            if slot.there:
                seen = slot.engine.stats(now)
                load[:, column] = seen.running, seen.waiting, seen.used_blocks / seen.total_blocks
        self._at_s.append(now)
        self._in_flight.append(in_flight)
        self._load.append(load)
        if len(self._at_s) >= MAX_SAMPLES:
            self.every_s *= 2
            for noted in (self._at_s, self._in_flight, self._load):
                del noted[1::2]

    def series(self) -> LoadSeries:
        names = tuple(self._fleet.slots)
        load = np.stack(self._load) if self._load else np.zeros((0, 3, len(names)), np.float32)
        return LoadSeries(
            np.array(self._at_s),
            np.array(self._in_flight, np.int64),
            names,
            load[:, 0],
            load[:, 1],
            load[:, 2],
        )
