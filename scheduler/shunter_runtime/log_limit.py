"""Log lines about one thing that may go wrong many times a second."""

from collections.abc import Callable
from typing import Any

from structlog.typing import FilteringBoundLogger

EVERY_S = 60.0


class LimitedLog:
    """Writes each event at most once in `every_s`; the next line of it has `left_out`, how many
    were not written. Bounded by the events that the code names."""

    def __init__(
        self, log: FilteringBoundLogger, now: Callable[[], float], every_s: float = EVERY_S
    ) -> None:
        """`now` in seconds, on any clock that does not go back."""
        self._log = log
        self._now = now
        self._every_s = every_s
        self._next: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def info(self, event: str, **fields: Any) -> None:
        if self._turn(event, fields):
            self._log.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        if self._turn(event, fields):
            self._log.warning(event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Where an exception is handled."""
        if self._turn(event, fields):
            self._log.exception(event, **fields)

    def _turn(self, event: str, fields: dict[str, Any]) -> bool:
        """Whether it may be written; then adds what was left out to its fields."""
        now = self._now()
        if now < self._next.get(event, now):
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return False
        self._next[event] = now + self._every_s
        if left_out := self._left_out.pop(event, 0):
            fields["left_out"] = left_out
        return True
