"""Waits for foreign engines that a test starts."""

import contextlib
import time
import urllib.request
from pathlib import Path
from subprocess import Popen


def wait_until_healthy(process: "Popen[bytes]", url: str, log: Path, start_s: float) -> None:
    """Raises RuntimeError with the end of its log if it ends, or takes longer."""
    until_s = time.monotonic() + start_s
    while time.monotonic() < until_s and process.poll() is None:
        with (
            contextlib.suppress(OSError),  # HTTP errors are such, too
            urllib.request.urlopen(f"{url}/health", timeout=5) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the engine did not start:\n{log.read_text()[-3000:]}")
