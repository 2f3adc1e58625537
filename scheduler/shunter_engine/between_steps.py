"""Actions that have to wait for the end of a step."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class BetweenSteps:
    """A backend's loop calls `run` when no step is in flight; `wake` makes an idle loop do so."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._closed = False

    async def do(self, action: Callable[[], T]) -> T:
        """Raises what `action` raises, and `RuntimeError` once closed. Cancelled before its turn,
        the action is not done."""
        if self._closed:
            raise RuntimeError("the engine has stopped")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((action, future))
        self._wake()
        return await future

    def run(self) -> None:
        waiting, self._waiting = self._waiting, []
        for action, future in waiting:
            if future.done():
                continue
            try:
                future.set_result(action())
            except Exception as error:
                future.set_exception(error)

    def close(self) -> None:
        self._closed = True
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(RuntimeError("the engine has stopped"))
