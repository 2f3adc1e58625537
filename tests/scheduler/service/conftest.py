"""Fixtures: a configuration of two healthy engines, and schedulers that serve it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from scheduler_service import Config, Scheduler, SchedulerFactory, healthy_engine
from shunter_scheduler.process import SchedulerOptions


@pytest.fixture
async def config(tmp_path: Path) -> AsyncIterator[Config]:
    """Two instances; a test may change it and write it again."""
    config = Config(tmp_path / "config.yaml")
    async with AsyncExitStack() as stack:
        for _ in range(2):
            config.addresses.append(await stack.enter_async_context(healthy_engine()))
        config.write()
        yield config


@pytest.fixture
def new_scheduler(config: Config) -> SchedulerFactory:
    """`async with new_scheduler(grace_s=0.2) as scheduler`: options by name."""
    options = SchedulerOptions(config=(config.path,), listen="127.0.0.1:0")

    def make(provider: TracerProvider | None = None, **changes: object) -> Scheduler:
        return Scheduler(replace(options, **changes), provider or NoOpTracerProvider())  # type: ignore[arg-type]

    return make


@pytest.fixture
async def scheduler(new_scheduler: SchedulerFactory) -> AsyncIterator[Scheduler]:
    async with new_scheduler() as scheduler:
        yield scheduler
