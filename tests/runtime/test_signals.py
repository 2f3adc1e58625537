"""Signals that ask a process to end."""

import asyncio
import os
import signal

import pytest

from shunter_runtime.signals import STOP_SIGNALS, stop_signals


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
