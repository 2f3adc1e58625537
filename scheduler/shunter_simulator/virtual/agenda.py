"""What happens next: the event loop of a simulated world."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Action = Callable[..., None]


class Agenda:
    """Virtual time, in seconds. What is due at one instant happens in the order of its entry."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Action, tuple[Any, ...]]] = []
        self._count = 0
        self._at_end: list[Callable[[], None]] = []

    def at(self, when: float, action: Action, *args: Any) -> None:
        """`when` in the past means now."""
        self._count += 1
        heappush(self._heap, (when if when > self.now else self.now, self._count, action, args))

    def after(self, delay_s: float, action: Action, *args: Any) -> None:
        self._count += 1
        heappush(self._heap, (self.now + delay_s, self._count, action, args))

    def at_end(self, action: Callable[[], None]) -> None:
        """Once everything else of this instant has happened."""
        self._at_end.append(action)

    def run(self, over: Callable[[], bool]) -> None:
        """Until `over`, which is asked after each instant, or until nothing is left to happen."""
        heap = self._heap
        while heap:
            when, _, action, args = heappop(heap)
            self.now = when
            action(*args)
            if heap and heap[0][0] <= when:
                continue
            while self._at_end:
                late, self._at_end = self._at_end, []
                for done in late:
                    done()
            if over():
                return
