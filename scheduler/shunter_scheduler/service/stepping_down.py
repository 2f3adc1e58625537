"""What becomes of a scheduler's work when it no longer leads."""

from shunter_scheduler.domain.events import DrainCancelled
from shunter_scheduler.service.errors import Standby
from shunter_scheduler.service.parts import Parts


def step_down(parts: Parts) -> None:
    """Ends all sessions and forgets all requests and drains: gateways and the operator tell the
    next leader of theirs."""
    error = Standby("this scheduler leads no longer; connect to the next leader")
    parts.sessions.step_down(error)
    parts.unary.step_down(error)
    for instance in parts.view.draining:
        parts.driver.tell_now(DrainCancelled(instance))
        parts.view.set_draining(instance, False)
