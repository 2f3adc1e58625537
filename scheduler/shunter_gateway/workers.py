"""Several gateway processes behind one port. The kernel spreads connections (SO_REUSEPORT)."""

import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import structlog

from shunter_gateway.config import GatewayOptions, StartError

_log = structlog.get_logger(__name__)
_POLL_S = 0.2
_MIN_LIFE_S = 5.0  # a worker that ends sooner is not started again: it would do so for ever
_END_S = 10.0


def run_workers(options: GatewayOptions, target: Callable[[GatewayOptions], None]) -> None:
    """Keeps `options.workers` processes running until SIGTERM or SIGINT.

    Raises `StartError` where a worker ends right after its start.
    """
    with tempfile.TemporaryDirectory(prefix="shunter-gateway-") as folder:
        _keep_running(replace(options, worker_dir=Path(folder)), target)


def _keep_running(options: GatewayOptions, target: Callable[[GatewayOptions], None]) -> None:
    context = multiprocessing.get_context("spawn")
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    previous = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}

    def start() -> tuple[multiprocessing.process.BaseProcess, float]:
        process = context.Process(target=target, args=(options,))
        process.start()
        return process, time.monotonic()

    workers = [start() for _ in range(options.workers)]
    try:
        while not stopping:
            time.sleep(_POLL_S)
            for index, (process, started_at) in enumerate(workers):
                if process.exitcode is None or stopping:
                    continue
                if time.monotonic() - started_at < _MIN_LIFE_S:
                    raise StartError(f"a worker ended at its start ({process.exitcode})")
                _log.warning("worker_ended", exitcode=process.exitcode)
                workers[index] = start()
    finally:
        for process, _ in workers:
            if process.exitcode is None:
                process.terminate()
        for process, _ in workers:
            process.join(options.grace_s + _END_S)
            process.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)
