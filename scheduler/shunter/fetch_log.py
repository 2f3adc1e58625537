"""What `shunter fetch` says while it works: a line now and then, not one a chunk."""

import threading
import time
from collections.abc import Callable

import structlog

FETCH_DEADLINE_S = 6 * 3600.0  # of one file; a 40 GB file takes half of it at 4 MB/s
_EVERY_S = 10.0


class FetchLog:
    """A `Progress` that several threads call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._what = ""
        self._told_at = -_EVERY_S
        self._told_bytes = 0
        self._log = structlog.get_logger("shunter.fetch")

    def __call__(self, what: str, done: int, total: int | None) -> None:
        with self._lock:
            now = self._clock()
            new = what != self._what
            if not new and now - self._told_at < _EVERY_S and done != total:
                return
            passed, brought = now - self._told_at, done - self._told_bytes
            self._what, self._told_at, self._told_bytes = what, now, done
        figures: dict[str, object] = {"what": what}
        if done:
            figures["done_bytes"] = done
        if total:
            figures |= {"total_bytes": total, "percent": 100 * done // total}
        if not new and passed > 0 and brought > 0:
            figures["bytes_per_s"] = round(brought / passed)
        self._log.info("fetching", **figures)
