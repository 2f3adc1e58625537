"""One call for many wishes that come at about the same time."""

import asyncio
from collections.abc import Callable


class Later:
    """Calls `delay_s` after the first wish since the last call. Where an event loop runs."""

    def __init__(self, call: Callable[[], None], delay_s: float) -> None:
        self._call = call
        self._delay_s = delay_s
        self._timer: asyncio.TimerHandle | None = None

    def wish(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self._call()
