"""Instances that are about to end (on a cluster: pods that were told to terminate)."""

import structlog

from shunter_scheduler.domain.events import DrainRequested
from shunter_scheduler.service.parts import Parts

log = structlog.get_logger(__name__)


def empty_leaving(parts: Parts) -> None:
    """Moves away what runs there, as a `Drain` call would."""
    for instance in sorted(parts.view.leaving):
        timeout_s = parts.view.drain_timeout_s(instance)
        parts.driver.tell_now(DrainRequested(instance, parts.driver.clock() + timeout_s))
        parts.view.set_draining(instance, True)
        log.info("instance.leaving", instance=instance, timeout_s=timeout_s)
