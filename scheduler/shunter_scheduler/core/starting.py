"""Requests of a pool that may have no instance: held while none serves, and until when."""

import math
from dataclasses import dataclass

from shunter_api.scaling import ScaleToZero

QUEUED = "queued"
SCALING_UP = "scaling-up"  # no pod is there yet
SOON_S = 1.0  # for a start that already takes longer than the last one


@dataclass(slots=True)
class Starting:
    """What is known of a pool's way from no instance to the first one in service.

    `phase` is how far its pods are, while none is ready; empty: there is none.
    """

    phase: str = ""
    asked_at: float | None = None  # since then somebody waits for the first instance
    took_s: float | None = None  # from there to an instance in service, the last time
    told: str = ""  # the phase that those who wait know of
    waited_at: float = -math.inf  # when somebody waited for it last

    def waits(self, settings: ScaleToZero, now: float) -> None:
        """Somebody waits for the first instance. Who asked for one that never came, so long ago
        that the pool was idle since, began another start than this."""
        if self.asked_at is None or now - self.waited_at >= settings.after_s:
            self.asked_at = now
        self.waited_at = now

    def served(self, now: float, first: bool) -> None:
        """An instance is in service; `first`: for the first time, so that it was a start."""
        if first and self.asked_at is not None:
            self.took_s = now - self.asked_at
        self.asked_at = None

    def eta_s(self, now: float) -> float:
        """Until an instance is in service, by the last start; 0: not known."""
        if self.took_s is None or self.asked_at is None or self.phase == "unschedulable":
            return 0.0
        return max(SOON_S, self.took_s - (now - self.asked_at))

    def bound(self, settings: ScaleToZero, max_queued: int, serves: bool, now: float) -> int:
        """How many may wait: those that were held keep their places once an instance serves."""
        if not serves:
            return settings.max_held
        return max(max_queued, settings.max_held) if self.held_lately(settings, now) else max_queued

    def held_lately(self, settings: ScaleToZero, now: float) -> bool:
        """Some of those that wait may have been held."""
        return now < self.waited_at + settings.hold_timeout_s
