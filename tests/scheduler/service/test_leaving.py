"""Instances that are about to end are emptied, once, and their successors are not."""

from dataclasses import replace

import pytest
from opentelemetry.trace import NoOpTracerProvider

from shunter_api.testing import make_pool
from shunter_scheduler.domain.cluster import Instance, Topology
from shunter_scheduler.domain.events import TopologyChanged
from shunter_scheduler.options import SchedulerOptions
from shunter_scheduler.process import build
from shunter_scheduler.service.leadership import Alone
from shunter_scheduler.service.leaving import empty_leaving
from shunter_scheduler.service.parts import Parts
from shunter_scheduler.service.stepping_down import step_down

POOL = make_pool("chat")
ONE, TWO = (
    Instance(name, "chat", POOL.profiles[0].name, f"10.0.0.{number}:8000", "simulated")
    for number, name in enumerate(("one", "two"), 1)
)
HERE = Topology(1, (POOL,), (), (ONE, TWO))


@pytest.fixture
async def parts() -> Parts:
    return build(SchedulerOptions(), NoOpTracerProvider(), Alone())[0]


def change(parts: Parts, topology: Topology) -> None:
    parts.view.change(topology)
    parts.driver.tell_now(TopologyChanged(topology))
    empty_leaving(parts)


def drained(parts: Parts) -> set[str]:
    """What the core drains; gateways must be told the same."""
    core = {name for name in ("one", "two") if parts.driver.core.drain_status(name) is not None}
    told = {one.name for one in parts.view.message.instances if one.draining}
    assert told == core
    return core


async def test_one_that_leaves_is_drained(parts: Parts) -> None:
    change(parts, HERE)
    assert drained(parts) == set()
    change(parts, replace(HERE, version=2, leaving=("one",)))
    assert drained(parts) == {"one"}
    assert parts.view.leaving == frozenset()


async def test_a_successor_of_the_same_name_serves(parts: Parts) -> None:
    change(parts, replace(HERE, leaving=("one",)))
    successor = replace(ONE, address="10.0.0.9:8000")
    change(parts, replace(HERE, version=2, instances=(successor, TWO)))
    assert drained(parts) == set()


async def test_the_next_time_it_leads_it_drains_what_leaves(parts: Parts) -> None:
    change(parts, replace(HERE, leaving=("two",)))
    step_down(parts)
    assert drained(parts) == set()
    empty_leaving(parts)
    assert drained(parts) == {"two"}
