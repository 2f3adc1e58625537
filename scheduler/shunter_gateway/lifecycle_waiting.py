"""A request that waits for a placement: how it asks, and what it was told of the wait."""

import re
from typing import Protocol

from shunter_gateway import lifecycle_events as events
from shunter_gateway.lifecycle_answer import Answer
from shunter_gateway.lifecycle_binding import Binding
from shunter_gateway.lifecycle_ports import Services
from shunter_gateway.lifecycle_recovery import Recovery
from shunter_gateway.request import ClientError, RequestSpec, Waiting
from shunter_proto.v1 import scheduler_pb2 as pb

_PHASE = re.compile(r"[a-z0-9-]{1,32}")  # clients see it in a comment of one line
_QUEUED = "queued"


class WaitingRequest(Protocol):
    """The request, as its wait sees it."""

    spec: RequestSpec
    answer: Answer
    binding: Binding | None
    recovery: Recovery

    @property
    def epoch(self) -> int: ...
    @property
    def pinned_pool(self) -> str: ...
    def refuse(self, error: ClientError) -> None: ...


class Submission:
    """Submits one request, again after each engine that it lost.

    `held`: the scheduler has seen it and lets it wait. `held_alone`: so does the gateway itself,
    without a scheduler. `suspended`: the scheduler took its engine away. `phase`: what it waits
    for, as far as that is known.
    """

    __slots__ = (
        "_arrived_at",
        "_asked_since",
        "_eta_at",
        "_life",
        "_position",
        "_services",
        "held",
        "held_alone",
        "phase",
        "since",
        "submitted_at",
        "suspended",
    )

    def __init__(self, services: Services, life: WaitingRequest) -> None:
        self._services = services
        self._life = life
        now = services.clock.time()
        self._arrived_at = self._asked_since = self.submitted_at = now
        self.since = now  # waits since then
        self.held = self.held_alone = self.suspended = False
        self.phase = _QUEUED
        self._position: int | None = None
        self._eta_at: float | None = None

    @property
    def unanswered(self) -> bool:
        return not (self.held or self.held_alone or self._life.recovery.backing_off)

    def begin(self, suspended: bool) -> None:
        """The request waits from here on: nothing is known of it yet."""
        self.suspended = suspended
        self.since = self._services.clock.time()
        self.held = self.held_alone = False
        self.phase, self._position, self._eta_at = _QUEUED, None, None

    def submit(self) -> None:
        """Asks the scheduler. A session that begins is asked too: place and bound in time are kept,
        by `waited_ms` and `queued_ms`, and what was told last stands until there is news."""
        self._asked_since = self._services.clock.time()
        self._ask()

    def ask_again(self, now: float) -> None:
        """The scheduler is there and has not answered: what it said may be lost."""
        if now - self._asked_since < self._services.limits.unanswered_s:
            self._ask()
        else:
            error = events.unavailable("the scheduler did not answer", "unanswered", 1.0)
            self._life.refuse(error)

    def _ask(self) -> None:
        self.held = self.held_alone = False
        self.submitted_at = self._services.clock.time()
        message = self.submitted_event()
        message.queued_ms = int((self.submitted_at - self.since) * 1000)
        message.suspended = self.suspended
        self._services.link.send(message)

    def submitted_event(self) -> pb.Submitted:
        life, services = self._life, self._services
        now, topology = services.clock.time(), services.topology()
        message = events.submitted(life.spec, life.epoch, now, self._arrived_at, topology)
        message.output_tokens = len(life.answer.journal.generated)
        message.pool = life.pinned_pool
        if life.binding is not None:
            message.unmovable_reason = life.binding.unmovable_reason()
            message.excluded_instances.extend(life.recovery.excluded_instances(life.binding))
        return message

    # ------------------------------------------------------------ what it was told

    def on_hold(self, command: pb.Hold) -> None:
        self.held, self.held_alone = True, False
        self.phase = command.phase if _PHASE.fullmatch(command.phase) else _QUEUED
        self._position = command.position
        eta_s = command.eta_ms / 1000
        self._eta_at = self._services.clock.time() + eta_s if eta_s else None

    def hold_alone(self) -> None:
        """The pool is at zero and no scheduler is there to say more than it did."""
        self.held_alone = True
        self._position = None
        if self.phase == _QUEUED:
            self.phase = "starting"

    def waiting(self) -> Waiting:
        eta_s = self._eta_at - self._services.clock.time() if self._eta_at is not None else 0.0
        return Waiting(self.phase, self._position, eta_s if eta_s > 0 else None)
