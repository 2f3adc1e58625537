"""What each pool gives up for others, found once for the passes of all pools."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from shunter_api.modelpool import ModelPool
from shunter_operator.cluster import Mirror
from shunter_operator.holdings import holdings_of
from shunter_operator.names import PoolKey
from shunter_operator.reclaim import reclaims
from shunter_operator.values import Reclaim

FRESH = timedelta(seconds=1)


class Giving:
    """All pools have to be looked at: with 200 pools and 800 pods that takes some milliseconds."""

    def __init__(self, mirror: Mirror, clock: Callable[[], datetime]) -> None:
        self._mirror = mirror
        self._clock = clock
        self._found_at: datetime | None = None
        self._found: Mapping[PoolKey, Mapping[str, Reclaim]] = {}

    def of(
        self, key: PoolKey, pool: ModelPool, others: Iterable[ModelPool]
    ) -> Mapping[str, Reclaim]:
        """By profile. Nobody is looked at where no pool of `others` could take anything."""
        priority = pool.spec.scaling.priority
        if all(other.spec.scaling.priority <= priority for other in others):
            return {}
        now = self._clock()
        if self._found_at is None or abs(now - self._found_at) >= FRESH:  # clocks are set back
            self._found_at = now
            self._found = reclaims(holdings_of(self._mirror), now)
        return self._found.get(key, {})
