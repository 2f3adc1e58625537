"""How much of an instance's time prefills have taken lately."""

from dataclasses import dataclass
from math import exp


@dataclass(slots=True)
class PrefillRate:
    """Seconds of prefill per second, of what was sent there, over about `WINDOW_S`."""

    WINDOW_S = 10.0
    MOST = 0.8  # what is beyond does not hold: requests queue

    share: float = 0.0
    at: float = 0.0  # of when `share` is

    def add(self, now: float, prefill_s: float) -> None:
        if now != self.at:
            self.forget(now)
        share = self.share + prefill_s / self.WINDOW_S
        self.share = share if share < self.MOST else self.MOST

    def forget(self, now: float) -> None:
        """Brings `share` up to date."""
        self.share = self.share_at(now)
        self.at = now

    def share_at(self, now: float) -> float:
        return self.share * exp((self.at - now) / self.WINDOW_S)
