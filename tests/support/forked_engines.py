"""Engine processes that start fast: forked from one that has imported everything."""

import contextlib
import json
import multiprocessing
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shunter_engine.options import EngineOptions

START_S = 30.0
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["shunter_engine.__main__", "shunter_engine.moves.service"])


@dataclass(slots=True)
class ForkedEngine:
    process: Any  # multiprocessing's, which has no public name
    url: str = ""

    def kill(self) -> None:
        """As `kill -9`."""
        os.kill(self.process.pid, signal.SIGKILL)

    def fault(self, kind: str, **fields: float) -> None:
        """Of one started with `allow_faults`."""
        body = json.dumps({"kind": kind, **fields}).encode()
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{self.url}/faults", body, headers)
        urllib.request.urlopen(asked, timeout=10).close()

    @property
    def alive(self) -> bool:
        return bool(self.process.is_alive())

    def page(self) -> str:
        """Its metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            return str(answer.read(), "utf-8")


@contextlib.contextmanager
def forked_engines(
    folder: Path, options: Mapping[str, EngineOptions]
) -> Iterator[dict[str, ForkedEngine]]:
    """Engines by name, once they are healthy, on ports of the system's choice."""
    engines: dict[str, ForkedEngine] = {}
    try:
        for name, given in options.items():
            made = replace(given, port=0, port_file=folder / f"{name}.port")
            process = _CONTEXT.Process(target=_run, args=(made, folder / f"{name}.log"))
            process.start()
            engines[name] = ForkedEngine(process)
        for name, engine in engines.items():
            _wait_for(engine, folder / f"{name}.port", folder / f"{name}.log")
        yield engines
    finally:
        for engine in engines.values():
            engine.process.terminate()
        for engine in engines.values():
            engine.process.join(10)
            if engine.alive:
                engine.kill()
            engine.process.join()
            engine.process.close()


def _run(options: EngineOptions, log: Path) -> None:
    """In the new process."""
    from shunter_engine.__main__ import run
    from shunter_runtime.logs import configure_logging

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    configure_logging()
    run(options)


def _wait_for(engine: ForkedEngine, port_file: Path, log: Path) -> None:
    until_s = time.monotonic() + START_S
    while not (port_file.is_file() and _is_healthy(port_file.read_text().strip())):
        if not engine.alive or time.monotonic() > until_s:
            raise RuntimeError(f"the engine did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)
    engine.url = f"http://127.0.0.1:{port_file.read_text().strip()}"


def _is_healthy(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False
