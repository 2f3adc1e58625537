"""Trace files, plain or gzip-compressed, and where they lie."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shunter_simulator.workloads.errors import WorkloadError


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """Raises `WorkloadError` where the file cannot be read."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
                yield file
        else:
            with path.open(encoding="utf-8", newline="") as file:
                yield file
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path}: {error}") from error
