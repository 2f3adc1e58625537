"""What the ways to move a request share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from shunter_scheduler.domain.decisions import Move as MoveCommand
from shunter_simulator.scenarios.moves import MoveSettings
from shunter_simulator.virtual.agenda import Agenda
from shunter_simulator.virtual.fleet import Fleet, Slot
from shunter_simulator.virtual.life import Life
from shunter_simulator.virtual.links import Links
from shunter_simulator.virtual.values import EngineEvent, VirtualSequence

Rung = Literal["kv", "replay", "restart"]


class MovingGateway(Protocol):
    """The gateway, as moves see it."""

    def stop_engine(self, life: Life) -> bool: ...
    def call(self, life: Life, slot: Slot) -> None: ...
    def sequence(self, life: Life, resident_tokens: int = 0) -> VirtualSequence: ...
    def report_move(
        self, life: Life, *, moved: bool, rung: str, reason: str = "", stall_s: float = 0.0
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class MoveWorld:
    """`failed` is told of a move that came to nothing while its request goes on at the source,
    `refused` of one that may still go by replay."""

    agenda: Agenda
    fleet: Fleet
    gateway: MovingGateway
    links: Links
    settings: MoveSettings
    engine_delay_s: float
    failed: Callable[["Move", str], None]
    refused: Callable[["Move", str], None]


class Move:
    """One move under way, from the command to the destination's first token.

    `stopped_at`: when the source gave its last token. `switched`: the destination owns the request,
    whose next token ends the move. `refusal`: why it does not go by the rung that was ordered.
    """

    rung: Rung = "restart"

    def __init__(self, world: MoveWorld, life: Life, target: Slot, command: MoveCommand) -> None:
        assert life.slot is not None
        self.world = world
        self.life = life
        self.source = life.slot
        self.target = target
        self.command = command
        self.stopped_at: float | None = None
        self.switched = False
        self.over = False
        self.refusal = ""
        self._deaths = (self.source.deaths, target.deaths)

    @property
    def source_lives(self) -> bool:
        return self.source.there and self.source.deaths == self._deaths[0]

    @property
    def target_lives(self) -> bool:
        return self.target.there and self.target.deaths == self._deaths[1]

    def start(self) -> None:
        self.switch()

    def switch(self) -> None:
        """The source is stopped first, so that only one engine ever owns the request."""
        life, now = self.life, self.world.agenda.now
        stopped_at = self.source.engine.step_began_s(now) if self.source_lives else now
        if not self.world.gateway.stop_engine(life):
            self.fail("finished")
            return
        life.change_owner()
        self.switched = True
        self.stopped_at = stopped_at + self.world.engine_delay_s
        self.world.gateway.call(life, self.target)

    def fail(self, reason: str) -> None:
        if not self.over:
            self.clean_up()
            self.world.failed(self, reason)

    def lost_target(self) -> None:
        self.fail("connection")

    def clean_up(self) -> None:
        """Nothing of the move stays anywhere."""
        self.over = True

    def on_engine_event(self, event: EngineEvent) -> None:
        """Of a sequence that the move has at its destination."""

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Unless the move is over by then."""
        self.world.agenda.after(max(0.0, delay_s), self._unless_over, action)

    def _unless_over(self, action: Callable[[], None]) -> None:
        if not self.over:
            action()

    def source_tokens(self) -> int | None:
        """Prompt and answer at the source by now; None: it is gone, or the end is on the way."""
        if not self.source_lives:
            return None
        if not self.life.entered:
            return self.life.context_tokens
        try:
            now = self.world.agenda.now
            produced = self.source.engine.produced(self.life.request_id, now)
        except KeyError:
            return None
        return self.life.arrival.prompt_tokens + produced
