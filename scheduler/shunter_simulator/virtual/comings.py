"""How instances of a simulated world go and come, and what the scheduler hears of it."""

from collections.abc import Callable
from itertools import count

from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.domain.events import (
    DrainCancelled,
    DrainRequested,
    InstanceObserved,
    TopologyChanged,
)
from shunter_simulator.scenarios import Network
from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.cell import Cell
from shunter_simulator.virtual.fleet import Fleet, Slot
from shunter_simulator.virtual.gateway import VirtualGateway
from shunter_simulator.virtual.watching import Watcher

DRAIN_POLL_S = 0.5
AFTER_DEADLINE_S = 1.0  # for what is left at a drain's deadline to be gone

Gone = Callable[[Slot], None]


class Comings:
    def __init__(
        self,
        agenda: Agenda,
        cell: Cell,
        fleet: Fleet,
        gateway: VirtualGateway,
        watcher: Watcher,
        network: Network,
    ) -> None:
        self._agenda = agenda
        self._cell = cell
        self._fleet = fleet
        self._gateway = gateway
        self._watcher = watcher
        self._network = network
        self._orders = count(1)
        self._draining: dict[str, int] = {}  # the latest order to drain, by instance
        self.topology: Callable[[], Topology]

    # ------------------------------------------------------------ drains

    def is_draining(self, slot: Slot) -> bool:
        return slot.name in self._draining

    def drain(self, slot: Slot, deadline_s: float, gone: Gone) -> None:
        """It takes no more, and ends once it has nothing left, at the deadline at the latest."""
        deadline_at = self._agenda.now + deadline_s
        order = self._draining[slot.name] = next(self._orders)
        self._cell.tell(DrainRequested(slot.name, deadline_at))
        self._agenda.after(DRAIN_POLL_S, self._drained, slot, order, deadline_at, gone)

    def keep(self, slot: Slot) -> None:
        """It is not drained after all."""
        if self._draining.pop(slot.name, None) is not None:
            self._cell.tell(DrainCancelled(slot.name))

    def _drained(self, slot: Slot, order: int, deadline_at: float, gone: Gone) -> None:
        if self._draining.get(slot.name) != order:
            return
        status = self._cell.core.drain_status(slot.name)
        late = self._agenda.now >= deadline_at + AFTER_DEADLINE_S
        if late or status is None or status.done:
            self.leave(slot)
            gone(slot)
        else:
            self._agenda.after(DRAIN_POLL_S, self._drained, slot, order, deadline_at, gone)

    # ------------------------------------------------------------ ends

    def kill(self, slot: Slot) -> None:
        """What the engine sent until now arrives; its callers notice after a while."""
        self._fleet.touch(slot)
        now, notice_s = self._agenda.now, self._network.detection_s
        produced = slot.engine.stop(now)
        slot.engine.slow(1.0, now)
        slot.used_s, slot.there = slot.seconds(now), False
        slot.deaths += 1
        slot.armed_at = None
        self._draining.pop(slot.name, None)
        for move in list(slot.warming.values()):
            move.later(notice_s, move.lost_target)
        slot.warming.clear()
        for request_id, tokens in produced.items():
            life = self._gateway.open.get(request_id)
            if life is not None and life.slot is slot:
                failed = self._gateway.engine_failed
                self._agenda.after(notice_s, failed, life, life.calls, tokens)
        self._agenda.after(notice_s, self._notice, slot, slot.deaths)

    def _notice(self, slot: Slot, deaths: int) -> None:
        if slot.deaths == deaths and not slot.there and slot.listed:
            self._cell.tell(InstanceObserved(slot.name, healthy=False))

    def leave(self, slot: Slot) -> None:
        """Its process ends, and the configuration has it no more."""
        self.kill(slot)
        slot.listed = False
        self._agenda.after(self._network.detection_s, self._configure)

    def _configure(self) -> None:
        self._cell.tell(TopologyChanged(self.topology()))

    # ------------------------------------------------------------ beginnings

    def come(self, slot: Slot) -> None:
        """Its process runs, empty, and the configuration has it."""
        slot.came_at, slot.there = self._agenda.now, True
        if not slot.listed:
            slot.listed = True
            self._configure()
        self._watcher.forget(slot)
        self._fleet.touch(slot)
