"""How much retrying a pool can take. Pure."""

from collections import deque


class RetryBudget:
    """Keeps retries from feeding an overload: at most 10 % of a pool's requests over 10 s.

    A request's first retry is free: one dead engine must not fail what it ran. The floor lets small
    pools retry at all.
    """

    WINDOW_S = 10.0
    SHARE = 0.1
    FLOOR = 10

    def __init__(self) -> None:
        self._requests: dict[str, deque[float]] = {}
        self._retries: dict[str, deque[float]] = {}

    def count_request(self, pool: str, now: float) -> None:
        self._recent(self._requests, pool, now).append(now)

    def allow(self, pool: str, failures: int, now: float) -> bool:
        if failures <= 1:
            return True
        retries = self._recent(self._retries, pool, now)
        allowed = max(self.FLOOR, self.SHARE * len(self._recent(self._requests, pool, now)))
        if len(retries) >= allowed:
            return False
        retries.append(now)
        return True

    def _recent(self, table: dict[str, deque[float]], pool: str, now: float) -> deque[float]:
        times = table.setdefault(pool, deque(maxlen=100_000))
        while times and times[0] < now - self.WINDOW_S:
            times.popleft()
        return times
