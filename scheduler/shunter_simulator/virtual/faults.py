"""Faults of a scenario: deaths, drains, spot notices, slow GPUs, and their ends."""

from collections.abc import Iterator, Sequence

from numpy.random import Generator

from shunter_scheduler.domain.events import DrainRequested
from shunter_simulator.scenarios import Fault, Network
from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.cell import Cell
from shunter_simulator.virtual.comings import AFTER_DEADLINE_S, Comings
from shunter_simulator.virtual.fleet import Fleet, Slot
from shunter_simulator.virtual.results import Counters


class Faults:
    """Hits instances, and brings back what comes back."""

    def __init__(
        self,
        agenda: Agenda,
        cell: Cell,
        fleet: Fleet,
        comings: Comings,
        network: Network,
        counters: Counters,
    ) -> None:
        self._agenda = agenda
        self._cell = cell
        self._fleet = fleet
        self._comings = comings
        self._network = network
        self._counters = counters
        self._kinds = {
            "dies": self._dies,
            "drains": self._drains,
            "spot-notice": self._spot_notice,
            "slow": self._slow,
        }

    def plan(self, faults: Sequence[Fault], rng: Generator) -> None:
        for fault in faults:
            for slot in self._hit(fault, rng):
                self._agenda.at(fault.at_s, self._begin, fault, slot)

    def _hit(self, fault: Fault, rng: Generator) -> Iterator[Slot]:
        if fault.instance is not None:
            yield self._fleet.slots[fault.instance]
            return
        there = [
            slot
            for slot in self._fleet.slots.values()
            if slot.value.pool == fault.pool and fault.profile in (None, slot.value.profile)
        ]
        for index in sorted(rng.choice(len(there), fault.count, replace=False).tolist()):
            yield there[index]

    def _begin(self, fault: Fault, slot: Slot) -> None:
        if slot.there:
            self._counters.add(f"fault: {fault.kind}")
            self._kinds[fault.kind](fault, slot)

    def _dies(self, fault: Fault, slot: Slot) -> None:
        self._comings.kill(slot)
        if fault.back_after_s is not None:
            self._agenda.after(fault.back_after_s, self._comings.come, slot)

    def _drains(self, fault: Fault, slot: Slot) -> None:
        self._comings.drain(slot, fault.deadline_s, lambda gone: self._come_back(fault, gone))

    def _come_back(self, fault: Fault, slot: Slot) -> None:
        if fault.back_after_s is not None:
            back_s = max(fault.back_after_s, 2 * self._network.detection_s)
            self._agenda.after(back_s, self._comings.come, slot)

    def _spot_notice(self, fault: Fault, slot: Slot) -> None:
        """The drain's own deadline lies behind the kill: what has not moved by then goes on
        elsewhere from the journal, and is not ended."""
        deadline_at = self._agenda.now + fault.deadline_s + AFTER_DEADLINE_S
        self._cell.tell(DrainRequested(slot.name, deadline_at + self._network.detection_s))
        self._agenda.after(fault.deadline_s, self._taken, fault, slot, slot.deaths)

    def _taken(self, fault: Fault, slot: Slot, deaths: int) -> None:
        if slot.deaths == deaths:
            self._comings.leave(slot)
            self._come_back(fault, slot)

    def _slow(self, fault: Fault, slot: Slot) -> None:
        slot.engine.slow(fault.factor, self._agenda.now)
        self._fleet.touch(slot)
        if fault.back_after_s is not None:
            self._agenda.after(fault.back_after_s, self._as_before, slot, slot.deaths)

    def _as_before(self, slot: Slot, deaths: int) -> None:
        if slot.deaths == deaths and slot.there:
            slot.engine.slow(1.0, self._agenda.now)
            self._fleet.touch(slot)
