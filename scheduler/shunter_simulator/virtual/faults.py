"""Faults of a scenario: deaths, drains, spot notices, slow GPUs, and their ends."""

from collections.abc import Callable, Iterator, Sequence

from numpy.random import Generator

from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.domain.events import DrainRequested, InstanceObserved, TopologyChanged
from shunter_simulator.scenarios import Fault, Network
from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.cell import Cell
from shunter_simulator.virtual.fleet import Fleet, Slot
from shunter_simulator.virtual.gateway import VirtualGateway
from shunter_simulator.virtual.results import Counters
from shunter_simulator.virtual.watching import Watcher

DRAIN_POLL_S = 0.5
AFTER_DEADLINE_S = 1.0  # for what is cancelled at a drain's deadline to be gone


class Faults:
    """Hits instances, tells the scheduler what it would hear, and brings back what comes back."""

    def __init__(
        self,
        agenda: Agenda,
        cell: Cell,
        fleet: Fleet,
        gateway: VirtualGateway,
        watcher: Watcher,
        network: Network,
        counters: Counters,
    ) -> None:
        self._agenda = agenda
        self._cell = cell
        self._fleet = fleet
        self._gateway = gateway
        self._watcher = watcher
        self._network = network
        self._counters = counters
        self.topology: Callable[[], Topology]
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

    # ------------------------------------------------------------ kinds

    def _dies(self, fault: Fault, slot: Slot) -> None:
        self._kill(slot)
        if fault.back_after_s is not None:
            self._agenda.after(fault.back_after_s, self._come_back, slot)

    def _drains(self, fault: Fault, slot: Slot) -> None:
        deadline_at = self._agenda.now + fault.deadline_s
        self._cell.tell(DrainRequested(slot.name, deadline_at))
        self._agenda.after(DRAIN_POLL_S, self._drained, fault, slot, slot.deaths, deadline_at)

    def _drained(self, fault: Fault, slot: Slot, deaths: int, deadline_at: float) -> None:
        """An instance that has nothing left ends before the deadline."""
        if slot.deaths != deaths:
            return
        status = self._cell.core.drain_status(slot.name)
        late = self._agenda.now >= deadline_at + AFTER_DEADLINE_S
        if late or status is None or status.done:
            self._leave(fault, slot)
        else:
            self._agenda.after(DRAIN_POLL_S, self._drained, fault, slot, deaths, deadline_at)

    def _spot_notice(self, fault: Fault, slot: Slot) -> None:
        """The drain's own deadline lies behind the kill: what has not moved by then goes on
        elsewhere from the journal, and is not ended."""
        deadline_at = self._agenda.now + fault.deadline_s + AFTER_DEADLINE_S
        self._cell.tell(DrainRequested(slot.name, deadline_at + self._network.detection_s))
        self._agenda.after(fault.deadline_s, self._taken, fault, slot, slot.deaths)

    def _taken(self, fault: Fault, slot: Slot, deaths: int) -> None:
        if slot.deaths == deaths:
            self._leave(fault, slot)

    def _slow(self, fault: Fault, slot: Slot) -> None:
        slot.engine.slow(fault.factor, self._agenda.now)
        self._fleet.touch(slot)
        if fault.back_after_s is not None:
            self._agenda.after(fault.back_after_s, self._as_before, slot, slot.deaths)

    def _as_before(self, slot: Slot, deaths: int) -> None:
        if slot.deaths == deaths and slot.there:
            slot.engine.slow(1.0, self._agenda.now)
            self._fleet.touch(slot)

    # ------------------------------------------------------------ going and coming

    def _kill(self, slot: Slot) -> None:
        """What the engine sent until now arrives; its callers notice after a while."""
        self._fleet.touch(slot)
        now, notice_s = self._agenda.now, self._network.detection_s
        produced = slot.engine.stop(now)
        slot.engine.slow(1.0, now)
        slot.used_s, slot.there = slot.seconds(now), False
        slot.deaths += 1
        slot.armed_at = None
        for move in list(slot.warming.values()):
            move.later(notice_s, move.lost_target)
        slot.warming.clear()
        for request_id, tokens in produced.items():
            life = self._gateway.open.get(request_id)
            if life is not None and life.slot is slot:
                failed = self._gateway.engine_failed
                self._agenda.after(notice_s, failed, life, life.epoch, tokens)
        self._agenda.after(notice_s, self._notice, slot, slot.deaths)

    def _notice(self, slot: Slot, deaths: int) -> None:
        if slot.deaths == deaths and not slot.there and slot.listed:
            self._cell.tell(InstanceObserved(slot.name, healthy=False))

    def _leave(self, fault: Fault, slot: Slot) -> None:
        """Its process ends, and the configuration has it no more."""
        self._kill(slot)
        slot.listed = False
        self._agenda.after(self._network.detection_s, self._configure)
        if fault.back_after_s is not None:
            back_s = max(fault.back_after_s, 2 * self._network.detection_s)
            self._agenda.after(back_s, self._come_back, slot)

    def _configure(self) -> None:
        self._cell.tell(TopologyChanged(self.topology()))

    def _come_back(self, slot: Slot) -> None:
        slot.came_at, slot.there = self._agenda.now, True
        if not slot.listed:
            slot.listed = True
            self._configure()
        self._watcher.forget(slot)
        self._fleet.touch(slot)
