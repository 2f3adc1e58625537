from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shunter_system import EngineSpec, System

SystemFactory = Callable[..., System]


@pytest.fixture
def start_system(tmp_path: Path) -> Iterator[SystemFactory]:
    """Starts a system of real processes and ends it with the test."""
    started: list[System] = []

    def start(*engines: EngineSpec, **options: object) -> System:
        system = System(tmp_path / f"system{len(started)}", engines, **options)  # type: ignore[arg-type]
        started.append(system)
        system.start()
        return system

    yield start
    for system in started:
        system.stop()
