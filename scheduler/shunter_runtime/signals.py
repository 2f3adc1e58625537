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
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        stop.set()
        remove()

    def remove() -> None:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        remove()
