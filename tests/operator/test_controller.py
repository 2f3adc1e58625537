"""One worker a resource: changes are gathered, failures are tried again, nothing runs twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from shunter_operator.cluster import ClusterError
from shunter_operator.controller import PASSES_AT_ONCE, Controller, Pace
from shunter_operator.telemetry import Telemetry

QUICK = Pace(period_s=0.05, gather_s=0.0, first_retry_s=0.01, last_retry_s=0.02)
SLOW = Pace(period_s=60.0, gather_s=0.0, first_retry_s=0.01, last_retry_s=0.02)


class Passes:
    """Plays the reconciler: what each pass gives, the last one again and again."""

    def __init__(self, *outcomes: int | Exception | None) -> None:
        self._outcomes = list(outcomes)
        self.seen: list[str] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, key: str) -> int | None:
        self.seen.append(key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@asynccontextmanager
async def running(
    passes: Passes, pace: Pace, registry: CollectorRegistry
) -> AsyncIterator[Controller[str]]:
    controller: Controller[str] = Controller(passes, Telemetry(registry), pace)
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


def passed(registry: CollectorRegistry, outcome: str) -> float:
    labels = {"outcome": outcome}
    return registry.get_sample_value("shunter_operator_passes_total", labels) or 0.0


async def test_changes_at_once_make_one_pass(registry: CollectorRegistry) -> None:
    passes = Passes(1)
    async with running(passes, SLOW, registry) as controller:
        for _ in range(5):
            controller.wake("a")
        controller.wake("b")
        await until(lambda: len(passes.seen) == 2)
        await asyncio.sleep(0.02)
        assert sorted(passes.seen) == ["a", "b"]


async def test_a_change_during_a_pass_makes_another(registry: CollectorRegistry) -> None:
    passes = Passes(0)
    async with running(passes, SLOW, registry) as controller:
        controller.wake("a")
        await until(lambda: bool(passes.seen))
        controller.wake("a")
        await until(lambda: len(passes.seen) == 2)
    assert passes.most_at_once == 1


async def test_a_pass_now_and_then_without_a_change(registry: CollectorRegistry) -> None:
    passes = Passes(0)
    async with running(passes, QUICK, registry) as controller:
        controller.wake("a")
        await until(lambda: passed(registry, "unchanged") >= 3)


@pytest.mark.parametrize("error", [ClusterError("no", 500), ValueError("a bug")])
async def test_a_pass_that_fails_is_tried_again(
    registry: CollectorRegistry, error: Exception
) -> None:
    passes = Passes(error, error, 2, 0)
    async with running(passes, SLOW, registry) as controller:
        controller.wake("a")
        await until(lambda: passed(registry, "changed") == 1)
    assert passed(registry, "failed") == 2


async def test_what_is_gone_is_forgotten_and_may_come_again(registry: CollectorRegistry) -> None:
    passes = Passes(0, None, 0)
    async with running(passes, QUICK, registry) as controller:
        controller.wake("a")
        await until(lambda: passed(registry, "gone") == 1)
        await until(lambda: registry.get_sample_value("shunter_operator_resources") == 0)
        controller.wake("a")
        await until(lambda: passed(registry, "unchanged") >= 2)


async def test_many_resources_take_turns(registry: CollectorRegistry) -> None:
    passes = Passes(0)
    async with running(passes, SLOW, registry) as controller:
        for number in range(10 * PASSES_AT_ONCE):
            controller.wake(str(number))
        await until(lambda: len(passes.seen) == 10 * PASSES_AT_ONCE)
    assert len(set(passes.seen)) == 10 * PASSES_AT_ONCE
    assert passes.most_at_once == PASSES_AT_ONCE
