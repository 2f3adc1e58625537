"""What the planner keeps of instances from one look to the next."""

from dataclasses import replace

from shunter_scheduler.core.planner.fleet import Fleet, look
from shunter_scheduler.core.planner.testing import PlannerHarness
from shunter_scheduler.core.pool import PoolRecord


def pool_of(harness: PlannerHarness) -> PoolRecord:
    return harness.core._state.pools["chat"]


def looked(harness: PlannerHarness) -> Fleet:
    pool = pool_of(harness)
    pool.refresh(harness.now)
    return look(pool, harness.now)


def test_it_is_made_once_while_instances_stay_what_they_are() -> None:
    harness = PlannerHarness(3)
    first = looked(harness)
    lineup = pool_of(harness).lineup
    harness.load(harness.names[0], ["r0", "r1"])
    second = looked(harness)
    assert pool_of(harness).lineup is lineup
    assert first.requests.tolist() == [0, 0, 0] and second.requests.tolist() == [2, 0, 0]
    harness.configure(list(harness.instances))
    assert looked(harness).records == first.records


def test_it_is_made_anew_when_an_instance_comes_or_goes() -> None:
    harness = PlannerHarness(3)
    looked(harness)
    harness.configure(harness.instances[:2])
    assert len(looked(harness)) == 2
    harness.configure([*harness.instances, replace(harness.instances[0], name="another")])
    harness.observe("another")
    assert [record.name for record in looked(harness).records] == [*harness.names]


def test_it_is_made_anew_when_an_instance_says_otherwise() -> None:
    harness = PlannerHarness(2, transport="")
    assert looked(harness).transport.tolist() == [-1, -1]
    harness.observe(harness.names[1], kv_transport="rdma")
    assert looked(harness).transport.tolist() == [-1, 1]
    harness.configure([replace(i, revision="two") for i in harness.instances[:1]])
    assert looked(harness).revision.tolist() == [0]
    changed = [replace(harness.instances[0], revision="one"), harness.instances[0]]
    harness.configure([changed[0], replace(changed[1], name="second")])
    harness.observe("second")
    assert looked(harness).revision.tolist() == [0, 1]
