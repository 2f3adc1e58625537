"""The steps that an engine is busy with."""

from math import sqrt


class Flight:
    """`steps` steps from `start_s` on; the first takes `first_s`, each further one `more_s` longer.

    The instants are in closed form, so that they do not depend on how often one looks.
    """

    __slots__ = ("_first_s", "_half_s", "done", "next_s", "start_s", "steps")

    def __init__(self, start_s: float, steps: int, first_s: float, more_s: float = 0.0) -> None:
        self.start_s = start_s
        self.steps = steps
        self.done = 0
        self._first_s = first_s
        self._half_s = more_s / 2
        self.next_s = start_s + first_s  # when the step in progress is over

    def end_s(self, steps: int) -> float:
        """When the first `steps` of them are over."""
        return self.start_s + steps * (self._first_s + self._half_s * (steps - 1))

    def ended(self, now: float) -> int:
        """How many of them are over at `now`, which is not before `next_s`."""
        if now >= self.end_s(self.steps):
            return self.steps
        b = self._first_s - self._half_s
        since_s = now - self.start_s
        steps = int(2 * since_s / (b + sqrt(b * b + 4 * self._half_s * since_s)))
        while self.end_s(steps) > now:
            steps -= 1
        while self.end_s(steps + 1) <= now:
            steps += 1
        return steps

    def book(self, done: int) -> None:
        self.done = done
        self.next_s = self.end_s(done + 1)
