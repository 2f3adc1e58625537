"""The instances of a simulated world: their engines, and when each has something to say."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shunter_scheduler.domain.cluster import Instance
from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.engine import VirtualEngine
from shunter_simulator.virtual.values import EngineEvent, EngineShape

if TYPE_CHECKING:
    from shunter_simulator.virtual.moving import Move

EventSink = Callable[["Slot", EngineEvent], None]


@dataclass(slots=True)
class Slot:
    """One instance. `there`: its process lives. `listed`: the configuration has it."""

    value: Instance
    shape: EngineShape
    dollars_per_s: float
    kv_bytes_per_token: float
    engine: VirtualEngine
    there: bool = True
    listed: bool = True
    came_at: float = 0.0
    used_s: float = 0.0  # of earlier lives
    armed_at: float | None = None
    deaths: int = 0
    warming: dict[str, "Move"] = field(default_factory=dict)  # by the ids of warm-ups there

    @property
    def name(self) -> str:
        return self.value.name

    @property
    def kv_tokens(self) -> int:
        return self.shape.kv_blocks * self.shape.block_tokens

    def seconds(self, now: float) -> float:
        return self.used_s + (now - self.came_at if self.there else 0.0)


class Fleet:
    """Keeps engines and agenda together: after whatever is done to an engine, `touch` it."""

    def __init__(self, agenda: Agenda, slots: Iterable[Slot], sink: EventSink) -> None:
        self.slots = {slot.name: slot for slot in slots}
        self._agenda = agenda
        self._sink = sink
        self.changed: dict[str, Slot] = dict(self.slots)  # since the scheduler looked last

    def touch(self, slot: Slot) -> None:
        """Passes on what has happened there, and sets an alarm for what happens next."""
        now, engine = self._agenda.now, slot.engine
        for event in engine.advance(now):
            self._sink(slot, event)
        if slot.name not in self.changed:
            self.changed[slot.name] = slot
        next_at = engine.next_at(now)
        if next_at != slot.armed_at:
            slot.armed_at = next_at
            if next_at is not None:
                self._agenda.at(next_at, self._ring, slot, next_at)

    def _ring(self, slot: Slot, armed_at: float) -> None:
        if slot.armed_at == armed_at:
            slot.armed_at = None
            self.touch(slot)
