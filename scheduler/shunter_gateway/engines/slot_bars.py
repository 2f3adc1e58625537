"""Pairs of llama-servers between which copies were refused: not tried again for a while."""

from collections.abc import Callable

from shunter_gateway.moves.ports import Bar

BARRED_S = 600.0  # where copies cannot work
BRIEFLY_S = 10.0  # where one was refused; twice as long each time it is again
_MOST = 4096  # pairs


class SlotBars:
    """By source and destination. `time_s`: the clock."""

    def __init__(self, time_s: Callable[[], float]) -> None:
        self._time = time_s
        self._barred: dict[tuple[str, str], tuple[float, float]] = {}  # until when, for how long

    def barred(self, source: str, destination: str) -> bool:
        return self._barred.get((source, destination), (0.0, 0.0))[0] > self._time()

    def bar(self, source: str, destination: str, how: Bar) -> None:
        now, (until, last_s) = self._time(), self._barred.pop((source, destination), (0.0, 0.0))
        bar_s = BARRED_S
        if how != "long":
            again = last_s and now < until + BARRED_S
            bar_s = min(BARRED_S, 2 * last_s) if again else BRIEFLY_S
        self._barred[source, destination] = now + bar_s, bar_s
        if len(self._barred) > _MOST:
            del self._barred[next(iter(self._barred))]
