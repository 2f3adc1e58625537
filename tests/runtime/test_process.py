"""The metrics endpoint, the stop event and the loop."""

import asyncio
import os
import signal

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from shunter_runtime.loop import run
from shunter_runtime.metrics import port_of, serve_metrics
from shunter_runtime.signals import stop_signals


async def test_metrics_and_health_are_served() -> None:
    registry = CollectorRegistry()
    Counter("shunter_things", "Things.", registry=registry).inc(3)
    health = {"fine": True}
    runner = await serve_metrics(registry, "127.0.0.1", 0, lambda: health["fine"])
    base = f"http://127.0.0.1:{port_of(runner)}"
    try:
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{base}/metrics") as reply:
                assert "shunter_things_total 3.0" in await reply.text()
                assert reply.headers["Content-Type"].startswith("text/plain")
            async with http.get(f"{base}/health") as reply:
                assert reply.status == 200
            health["fine"] = False
            async with http.get(f"{base}/health") as reply:
                assert reply.status == 503
    finally:
        await runner.cleanup()


async def test_a_taken_port_is_an_error() -> None:
    first = await serve_metrics(CollectorRegistry(), "127.0.0.1", 0, lambda: True)
    try:
        with pytest.raises(OSError, match="in use"):
            await serve_metrics(CollectorRegistry(), "127.0.0.1", port_of(first), lambda: True)
    finally:
        await first.cleanup()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sets_the_event_once(number: signal.Signals) -> None:
    with stop_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            await stop.wait()


def test_the_loop_is_uvloop() -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run(main()) == "uvloop"
