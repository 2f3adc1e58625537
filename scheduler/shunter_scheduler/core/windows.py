"""Rolling counts of one pool: retries against the budget, and what users saw lately."""

from collections import deque
from dataclasses import dataclass, field

from shunter_scheduler.core.settings import Retries


@dataclass(slots=True)
class RetryBudget:
    """At most a share of the requests of the last seconds may be retries."""

    limits: Retries
    _buckets: deque[list[int]] = field(default_factory=deque)  # second, requests, retries
    _requests: int = 0
    _retries: int = 0

    def count_request(self, now: float) -> None:
        buckets = self._buckets
        latest = buckets[-1] if buckets and buckets[-1][0] == int(now) else self._bucket(now)
        latest[1] += 1
        self._requests += 1

    def take_retry(self, now: float) -> bool:
        """False where the budget is used up."""
        bucket = self._bucket(now)
        if self._retries >= max(self.limits.at_least, self.limits.share * self._requests):
            return False
        bucket[2] += 1
        self._retries += 1
        return True

    def _bucket(self, now: float) -> list[int]:
        second = int(now)
        buckets = self._buckets
        if buckets and buckets[-1][0] == second:
            return buckets[-1]
        while buckets and buckets[0][0] <= second - self.limits.window_s:
            _, requests, retries = buckets.popleft()
            self._requests -= requests
            self._retries -= retries
        buckets.append([second, 0, 0])
        return buckets[-1]


MAX_SAMPLES = 8192


@dataclass(slots=True)
class ServiceLevel:
    """Over the last minute, at most `MAX_SAMPLES` requests of it."""

    WINDOW_S = 60.0

    _ttft: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    _ended: deque[tuple[float, bool, int]] = field(
        default_factory=lambda: deque(maxlen=MAX_SAMPLES)
    )
    _assigned: deque[float] = field(default_factory=lambda: deque(maxlen=256))

    def assigned(self, now: float) -> None:
        self._assigned.append(now)

    def first_token(self, now: float, ttft_s: float) -> None:
        self._ttft.append((now, ttft_s))

    def ended(self, now: float, met: bool, output_tokens: int) -> None:
        self._ended.append((now, met, output_tokens))

    def assign_rate(self, now: float) -> float:
        """Assignments per second over the last ten seconds."""
        times = self._assigned
        while times and times[0] < now - 10:
            times.popleft()
        return len(times) / max(0.1, now - times[0]) if times else 0.0

    def ttft_p95_s(self, now: float) -> float:
        values = sorted(ttft for at, ttft in self._ttft if at >= now - self.WINDOW_S)
        return values[min(len(values) - 1, int(0.95 * len(values)))] if values else 0.0

    def output_tokens_per_s(self, now: float) -> float:
        return sum(n for at, _, n in self._ended if at >= now - self.WINDOW_S) / self.WINDOW_S

    def attainment(self, now: float) -> float:
        met = [ok for at, ok, _ in self._ended if at >= now - self.WINDOW_S]
        return sum(met) / len(met) if met else 1.0
