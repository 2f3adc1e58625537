"""The scheduler of a simulated world: the very core, driven by virtual time."""

from collections.abc import Callable, Iterable, Sequence

from shunter_scheduler.core import SchedulerCore
from shunter_scheduler.domain.decisions import Decision
from shunter_scheduler.domain.events import Event, Submitted
from shunter_simulator.virtual.agenda import Agenda

Listener = Callable[[Sequence[Decision]], None]
Look = Callable[[], Iterable[Event]]


class Cell:
    """Applies what it is told and decides once at the end of each instant, as the service does
    after each batch. Events and decisions take `delay_s` to and from the gateway.

    `look`, where given, says what changed at the engines before a decision is made.
    """

    def __init__(self, agenda: Agenda, core: SchedulerCore, delay_s: float) -> None:
        self.core = core
        self.look: Look | None = None
        self.listener: Listener = lambda decisions: None
        self._agenda = agenda
        self._delay_s = delay_s
        self._due = False  # a decision, at the end of this instant
        self._placing = False  # of an event that asks for a placement
        self._wake_at: float | None = None

    def send(self, *events: Event) -> None:
        """By the gateway."""
        self._agenda.after(self._delay_s, self.tell, *events)

    def tell(self, *events: Event) -> None:
        """Here and now."""
        now, core = self._agenda.now, self.core
        for event in events:
            core.apply(event, now)
            if type(event) is Submitted:
                self._placing = True
        self._decide_soon()

    def _decide_soon(self) -> None:
        if not self._due:
            self._due = True
            self._agenda.at_end(self._decide)

    def _decide(self) -> None:
        self._due = False
        now = self._agenda.now
        if self.look is not None and self._placing:
            for event in self.look():
                self.core.apply(event, now)
        self._placing = False
        decisions = self.core.decide(now)
        if decisions:
            self._agenda.after(self._delay_s, self.listener, decisions)
        wake_at = self.core.next_wake(now)
        if wake_at is not None and (self._wake_at is None or wake_at < self._wake_at):
            self._wake_at = wake_at
            self._agenda.at(wake_at, self._wake, wake_at)

    def _wake(self, wake_at: float) -> None:
        if wake_at == self._wake_at:
            self._wake_at = None
            self._placing = True
            self._decide_soon()
