"""Signals that ask a process to end."""

import asyncio
import os
import signal

import pytest

from shunter_runtime.signals import STOP_SIGNALS, listen, stop_signals


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_the_first_signal_asks_for_an_orderly_end(number: signal.Signals) -> None:
    with stop_signals() as stop:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            await stop.wait()


async def test_later_signals_act_by_themselves() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(5):
            await stop.wait()
        assert signal.getsignal(signal.SIGHUP) == before


async def test_signals_that_a_library_took_are_heard_again() -> None:
    taken = asyncio.Event()
    with stop_signals() as stop:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, taken.set)
        listen(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5):
            await stop.wait()
        assert not taken.is_set()


async def test_after_the_first_signal_there_is_nothing_to_hear_again() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with stop_signals() as stop:
        stop.set()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)
        listen(stop)
        assert signal.getsignal(signal.SIGHUP) == before
