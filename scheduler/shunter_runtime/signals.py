"""The signals that ask a process to end, as an asyncio event."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last: a closed terminal


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that the first of them sets; the second one acts as it would by itself,
    so that a process that hangs in its shutdown can still be ended from the keyboard."""
    stop = asyncio.Event()
    listen(stop)
    try:
        yield stop
    finally:
        _leave_alone()


def listen(stop: asyncio.Event) -> None:
    """As in `stop_signals`, also after a library has put handlers of its own in their place."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        stop.set()
        _leave_alone()

    _leave_alone()
    if not stop.is_set():
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, on_signal)


def _leave_alone() -> None:
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)
