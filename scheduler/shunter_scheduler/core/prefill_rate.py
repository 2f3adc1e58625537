"""How much of an instance's time prefills have taken lately."""

from dataclasses import dataclass
from math import exp


@dataclass(slots=True)
class PrefillRate:
    """Seconds of prefill per second, of what was sent there, over about `WINDOW_S`."""

    WINDOW_S = 10.0
    MOST = 0.8  # what is beyond does not hold: requests queue

    share: float = 0.0
    _at: float = 0.0

    def add(self, now: float, prefill_s: float) -> None:
        self.forget(now)
        self.share = min(self.MOST, self.share + prefill_s / self.WINDOW_S)

    def forget(self, now: float) -> None:
        """Brings `share` up to date."""
        if now != self._at:
            self.share *= exp((self._at - now) / self.WINDOW_S)
            self._at = now
