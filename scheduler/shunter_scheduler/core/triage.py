"""Who of those that wait can still keep their targets, so that beyond capacity these go first.

Served in order of slack alone, requests beyond capacity all wait until they are late, and nobody's
target is kept. So who is late goes behind the others, and where even these do not all fit, the
longest is put off until the rest do: the most requests in time that one machine can end (Moore, An
n job, one machine sequencing algorithm for minimizing the number of late jobs, Management Science
1968). A pool counts as one machine with the speed at which its queue was seen to drain.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

SortKey = tuple[float, float, str, float]
"""Latest start, queued at, id, and seconds of prefill; 0 s: there is no target that it can miss."""

MAX_PLANNED = 128  # requests of one tenant that are looked at
SPAN_S = 30.0  # of draining that count for more than what was before them
KNOWN_S = 1.0  # of draining after which its speed is known
NEWS = 1 / 16  # weight of one more observation


@dataclass(slots=True)
class Drain:
    """How one class's queue drains. `began_at` None: nothing has been looked for since it was
    empty."""

    began_at: float | None = None
    seen_at: float = 0.0
    span_s: float = 0.0
    work_s: float = 0.0
    _mean_s: float = 0.0
    _error_s: float = 0.0

    @property
    def speed(self) -> float | None:
        """Predicted seconds of prefill that leave in a second; None: not known yet."""
        return self.work_s / self.span_s if self.span_s >= KNOWN_S else None

    def looked(self, now: float) -> None:
        """Somebody waits."""
        if self.began_at is None:
            self.began_at = self.seen_at = now

    def emptied(self) -> None:
        self.began_at = None

    def went(self, now: float, work_s: float) -> None:
        """One of those that waited was placed. Finding room at once says nothing of the speed."""
        if self.began_at is None or now <= self.began_at:
            return
        if self.span_s > SPAN_S:
            self.span_s *= 0.5
            self.work_s *= 0.5
        self.span_s += now - self.seen_at
        self.work_s += work_s
        self.seen_at = now

    def first_token(self, wait_s: float) -> None:
        """A request that had waited got its first token `wait_s` later than its prefill takes."""
        error_s = wait_s - self._mean_s
        self._mean_s += NEWS * error_s
        self._error_s += NEWS * (abs(error_s) - self._error_s)

    @property
    def head_s(self) -> float:
        """What a request takes beyond its prefill from its placement to its first token: the mean
        and its mean error."""
        return self._mean_s + self._error_s


def put_off(keys: Iterable[SortKey], start_at: float, speed: float) -> frozenset[str]:
    """Ids of those that have to be late so that the others, in the order of `keys`, are not.
    `start_at`: when the first one could start."""
    off: set[str] = set()
    longest: list[tuple[float, str]] = []
    begins_at = start_at
    for latest_at, _, request_id, work_s in keys:
        if not work_s:
            continue
        took_s = work_s / speed
        heappush(longest, (-took_s, request_id))
        if begins_at > latest_at:
            less_s, other = heappop(longest)
            off.add(other)
            begins_at += less_s
        begins_at += took_s
    return frozenset(off)
