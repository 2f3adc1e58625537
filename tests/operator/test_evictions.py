"""Nodes that are about to go, in a cluster in memory: which pods are emptied and may be evicted."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operator_world import World
from shunter_operator.controllers_testing import EPOCH
from shunter_operator.evictions import Evictions, Leaver, labels
from shunter_operator.names import PoolKey
from shunter_operator.scheduler_view import Advice, SchedulerView
from shunter_operator.testing import pool_body
from shunter_operator.values import Environment, Node, Pod, SetBusy, Why

MANUAL = {"mode": "Manual", "spillAfter": "20s", "returnAfter": "5s"}
NOTICE = "aws-node-termination-handler/spot-itn"


def profile(name: str, most: int = 4) -> dict[str, Any]:
    return {"name": name, "accelerator": "l4-24gb", "replicas": {"min": 0, "max": most}}


@pytest.fixture(params=[True, False], ids=["deletion cost", "readiness gate"])
def world(request: pytest.FixtureRequest) -> World:
    return made(deletion_cost=request.param)


def made(**changes: Any) -> World:
    world = World()
    world.environment = replace(world.environment, watches_nodes=True, **changes)
    world.cluster.machines = {name: Node(name) for name in ("a", "b", "c")}
    world.cluster.room = 1
    world.cluster.ends_s = 2.0
    world.reconciler = world.operator()
    return world


async def serving(world: World, replicas: int, running: int = 3) -> PoolKey:
    """A pool of so many pods, each with requests."""
    key = world.cluster.put(pool_body(profiles=[profile("h")], scaling=MANUAL, replicas=replicas))
    await world.settle(key, seconds=10)
    for name in world.ready("h"):
        world.scheduler.serve(name, running)
    await world.settle(key)
    return key


def on(world: World, node: str) -> str:
    """The pod there."""
    (name,) = [p.name for p in world.cluster.engines.values() if p.node == node and not p.deleting]
    return name


def cordon(world: World, node: str, cordoned: bool = True) -> None:
    world.cluster.machines[node] = Node(node, cordoned)


async def test_pods_that_serve_are_labelled_once_and_held(world: World) -> None:
    key = await serving(world, 2)
    assert not world.cluster.evict(on(world, "a"))
    assert all(pod.busy for pod in world.cluster.engines.values())
    world.writes()
    assert await world.reconciler.reconcile(key) == 0
    assert await world.operator().reconcile(key) == 0, "nor does a new operator write"


async def test_a_single_instance_is_replaced_emptied_and_only_then_let_go(world: World) -> None:
    key = await serving(world, 1)
    leaving = on(world, "a")
    world.cluster.starts_s = 10.0
    cordon(world, "a")
    await world.settle(key, seconds=5)
    assert world.replicas() == {"chat-h": 2}
    assert world.scheduler.drained == [], "it serves until the replacement does"
    assert not world.cluster.evict(leaving)
    await world.settle(key, seconds=15)
    assert world.scheduler.drained == [leaving]
    assert world.condition(key, "Draining") == ("True", "NodeCordoned")
    assert not world.cluster.evict(leaving), "it still has requests"
    assert world.replicas() == {"chat-h": 2}
    world.scheduler.serve(leaving, 0, "drained")
    await world.settle(key, seconds=10)
    assert world.replicas() == {"chat-h": 1}
    assert [p.node for p in world.cluster.engines.values()] == ["b"]
    assert world.condition(key, "Draining") == ("False", "NothingLeaves")
    world.writes()
    assert await world.reconciler.reconcile(key) == 0, "it settles"
    reasons = [event.reason for event in world.cluster.events]
    assert reasons.count("Leaving") == 1 and reasons.count("Draining") == 1
    assert "ScaledUp" not in reasons and "ScaledDown" not in reasons, "nobody asked for either"


async def test_without_room_a_pod_that_is_not_alone_is_emptied_and_can_be_evicted(
    world: World,
) -> None:
    del world.cluster.machines["c"]
    key = await serving(world, 2)
    leaving = on(world, "a")
    cordon(world, "a")
    await world.settle(key, seconds=15)
    assert world.scheduler.drained == [], "a node may be found until spillAfter"
    await world.settle(key, seconds=15)
    assert world.scheduler.drained == [leaving] and not world.cluster.evict(leaving)
    world.scheduler.serve(leaving, 0, "drained")
    await world.settle(key)
    assert world.replicas() == {"chat-h": 3}, "its replacement stays Pending"
    assert world.cluster.evict(leaving)
    await world.settle(key)
    assert world.replicas() == {"chat-h": 2}
    cordon(world, "a", False)
    await world.settle(key)
    assert len(world.ready("h")) == 2
    assert world.scheduler.undrained == []


async def test_the_last_instance_serves_on_and_is_released_after_the_wait(world: World) -> None:
    world.cluster.machines = {"a": Node("a")}
    key = await serving(world, 1)
    leaving = on(world, "a")
    cordon(world, "a")
    await world.settle(key, seconds=590, step=10)
    assert not world.cluster.evict(leaving)
    await world.settle(key, seconds=30, step=10)
    assert world.scheduler.drained == [], "nobody can take its requests"
    assert world.ready("h") == [leaving]
    world.writes()
    await world.settle(key, seconds=30, step=10)
    assert world.writes() == []
    assert world.cluster.evict(leaving)


async def test_an_uncordoned_node_keeps_its_pod(world: World) -> None:
    world.cluster.machines = {"a": Node("a"), "b": Node("b")}
    key = await serving(world, 2)
    leaving = on(world, "a")
    cordon(world, "a")
    await world.settle(key, seconds=30)
    assert world.scheduler.drained == [leaving]
    world.scheduler.serve(leaving, 0, "drained")
    await world.settle(key)
    cordon(world, "a", False)
    await world.settle(key, seconds=10)
    assert world.scheduler.undrained == [leaving]
    pod = world.cluster.engines[leaving]
    assert pod.ready and pod.busy and not pod.drained and pod.leave_since is None
    assert world.replicas() == {"chat-h": 2} and len(world.cluster.engines) == 2
    assert not world.cluster.evict(leaving)


@pytest.mark.parametrize("how", ["uncordoned", "deleted"])
async def test_the_replacement_is_given_back_in_mode_auto_too(world: World, how: str) -> None:
    """It is nobody's wish, so it waits for no `scaleDownAfter`."""
    world.scheduler.current = SchedulerView(advice={"h": Advice(1, "little to do")})
    spec: dict[str, Any] = {"profiles": [{**profile("h"), "replicas": {"min": 1, "max": 4}}]}
    key = world.cluster.put(pool_body(**spec, scaling={"scaleDownAfter": "10m"}))
    await world.settle(key, seconds=10)
    leaving = on(world, "a")
    world.scheduler.serve(leaving, 3)
    cordon(world, "a")
    await world.settle(key, seconds=4)
    assert world.replicas() == {"chat-h": 2} and len(world.ready("h")) == 2
    if how == "deleted":
        del world.cluster.engines[leaving]
        world.cluster.step()
        world.cluster.step()
    else:
        cordon(world, "a", False)
        world.scheduler.serve(on(world, "b"), 9)
    await world.settle(key, seconds=4)
    for name in world.ready("h"):
        if world.cluster.engines[name].drain_since is not None:
            world.scheduler.serve(name, 0, "drained")
    await world.settle(key, seconds=20)
    assert world.replicas() == {"chat-h": 1} and len(world.ready("h")) == 1
    assert "ScaledUp" not in [event.reason for event in world.cluster.events]


async def test_a_node_with_a_notice_is_emptied_without_waiting(world: World) -> None:
    key = await serving(world, 1)
    leaving = on(world, "a")
    world.cluster.starts_s = 60.0
    world.cluster.machines["a"] = Node("a", notice=NOTICE)
    await world.settle(key, seconds=3)
    assert world.scheduler.drained == [leaving]
    assert world.replicas() == {"chat-h": 2}, "and its replacement is on its way"
    assert world.condition(key, "Draining") == ("True", "SpotNotice")
    world.scheduler.serve(leaving, 0, "drained")
    await world.settle(key, seconds=3)
    assert world.cluster.evict(leaving)
    await world.settle(key, seconds=60)
    assert [p.node for p in world.cluster.engines.values()] == ["b"]
    assert world.replicas() == {"chat-h": 1}


async def test_another_profile_stands_in_where_the_own_has_no_room(world: World) -> None:
    world.cluster.places["h"] = 1
    profiles = [profile("h"), profile("l")]
    key = world.cluster.put(pool_body(profiles=profiles, scaling=MANUAL, replicas=1))
    await world.settle(key, seconds=10)
    leaving = on(world, "a")
    world.scheduler.serve(leaving, 2)
    cordon(world, "a")
    await world.settle(key, seconds=40)
    assert world.ready("l") and world.scheduler.drained == [leaving]
    world.scheduler.serve(leaving, 0, "drained")
    await world.settle(key)
    assert world.cluster.evict(leaving)
    await world.settle(key, seconds=30)
    assert world.replicas() == {"chat-h": 1, "chat-l": 0}, "it came back, in another place"
    assert [p.node for p in world.cluster.engines.values()] == ["c"]


async def test_both_of_two_pods_leave_as_replacements_serve(world: World) -> None:
    world.cluster.room = 2
    del world.cluster.machines["c"]
    key = await serving(world, 2)
    cordon(world, "a")
    await world.settle(key, seconds=10)
    assert len(world.scheduler.drained) == 2
    for name in world.scheduler.drained:
        world.scheduler.serve(name, 0, "drained")
    await world.settle(key, seconds=10)
    assert {p.node for p in world.cluster.engines.values()} == {"b"}
    assert world.replicas() == {"chat-h": 2}


async def test_a_scale_down_takes_the_pod_that_must_go_anyway(world: World) -> None:
    key = await serving(world, 2)
    leaving = on(world, "b")
    cordon(world, "b")
    world.cluster.put(pool_body(profiles=[profile("h")], scaling=MANUAL, replicas=1))
    await world.settle(key, seconds=5)
    assert world.scheduler.drained == [leaving]
    world.scheduler.serve(leaving, 0, "drained")
    await world.settle(key, seconds=10)
    assert world.replicas() == {"chat-h": 1} and on(world, "a")
    assert len(world.cluster.engines) == 1


async def test_a_pool_that_does_not_read_holds_no_node_back(world: World) -> None:
    key = await serving(world, 1)
    world.cluster.put(pool_body(profiles=[]))
    await world.settle(key)
    assert not world.cluster.evict(on(world, "a"))
    cordon(world, "a")
    await world.settle(key)
    assert world.cluster.evict(on(world, "a"))


async def test_without_the_right_to_watch_nodes_nothing_is_labelled() -> None:
    world = made()
    world.environment = replace(world.environment, watches_nodes=False)
    world.reconciler = world.operator()
    await serving(world, 1)
    assert not world.cluster.engines[on(world, "a")].busy
    assert world.cluster.evict(on(world, "a")), "one at a time, as its grace period allows"


async def test_a_rollout_stops_no_instance_whose_node_takes_no_new_pod(world: World) -> None:
    """Its successor would not fit there: nobody would serve."""
    world.cluster.machines = {"a": Node("a")}
    key = await serving(world, 1)
    leaving = on(world, "a")
    cordon(world, "a")
    engine = {"type": "simulated", "env": [{"name": "REVISION", "value": "2"}]}
    profiles = [profile("h")]
    world.cluster.put(pool_body(profiles=profiles, scaling=MANUAL, replicas=1, engine=engine))
    await world.settle(key, seconds=120, step=5)
    assert world.ready("h") == [leaving] and world.scheduler.drained == []
    cordon(world, "a", False)
    await world.settle(key, seconds=40)
    assert world.scheduler.drained == [leaving], "there it fits"


async def test_a_deleted_pool_that_others_keep_holds_no_node_back(world: World) -> None:
    key = await serving(world, 1, running=0)
    world.cluster.bodies[key]["metadata"]["finalizers"].append("example.com/audit")
    leaving = on(world, "a")
    world.cluster.delete_pool(key)
    await world.settle(key, seconds=20)
    assert world.cluster.bodies[key]["metadata"]["finalizers"] == ["example.com/audit"]
    cordon(world, "a")
    await world.settle(key)
    assert world.cluster.evict(leaving)
    await world.settle(key, seconds=20)
    assert await world.reconciler.reconcile(key) == 0


async def test_pods_that_outlive_their_pool_serve_on_and_are_held_by_nobody(world: World) -> None:
    key = await serving(world, 1)
    world.cluster.bodies[key]["metadata"]["finalizers"].append("orphan")
    world.cluster.delete_pool(key)
    await world.settle(key)
    assert world.cluster.bodies[key]["metadata"]["finalizers"] == ["orphan"]
    assert world.scheduler.drained == []
    assert world.cluster.evict(on(world, "a"))
    await world.settle(key, seconds=20)
    assert await world.reconciler.reconcile(key) == 0


async def test_in_a_namespace_that_ends_a_deleted_pool_is_let_go_at_once(world: World) -> None:
    key = await serving(world, 1)
    world.cluster.ending_namespaces = {"serving"}
    world.cluster.delete_pool(key)
    await world.reconciler.reconcile(key)
    assert key not in world.cluster.bodies


async def test_an_operator_whose_namespace_is_deleted_lets_go_of_everything(world: World) -> None:
    key = await serving(world, 1)
    await world.reconciler.retire()
    assert world.cluster.bodies[key]["metadata"]["finalizers"] == []
    assert world.cluster.evict(on(world, "a")), "nobody is left to open its disruption budget"
    world.writes()
    assert await world.reconciler.reconcile(key) == 0
    assert world.writes() == [], "it does not put them back"


def test_a_pod_that_its_deployment_is_about_to_delete_stays_busy() -> None:
    """An eviction before that would have a new pod made."""
    name = ("chat-h-1", "serving", "chat", "h")
    pod = Pod(*name, ready_since=EPOCH, drained=True, busy=True, node="a")
    leaver = Leaver(pod, Why("NodeCordoned", "node a is cordoned"), urgent=False)
    found = Evictions({pod.name: leaver}, frozenset({pod.name}), frozenset())
    environment = Environment(image="shunter:test")
    assert list(labels([pod], found, [pod], environment)) == []
    assert list(labels([pod], found, [], environment)) == [SetBusy(pod.ref, False)]


STEPS = st.one_of(
    st.tuples(st.just("cordon"), st.sampled_from("abc")),
    st.tuples(st.just("uncordon"), st.sampled_from("abc")),
    st.tuples(st.just("replicas"), st.integers(0, 4)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=5), st.booleans(), st.booleans())
async def test_whatever_is_cordoned_and_drained_nobody_is_cut_off(
    steps: list[tuple[str, Any]], deletion_cost: bool, restarts: bool
) -> None:
    world = made(deletion_cost=deletion_cost)
    world.cluster.room = 2
    world.cluster.starts_s = 3.0
    replicas = 2
    key = await serving(world, replicas)
    for what, value in steps:
        if what == "replicas":
            replicas = value
            spec: dict[str, Any] = {"profiles": [profile("h")], "scaling": MANUAL}
            world.cluster.put(pool_body(**spec, replicas=replicas))
        else:
            cordon(world, value, what == "cordon")
        await live_through(world, key, 40)
        if restarts:
            world.reconciler = world.operator()
    for node in "abc":
        cordon(world, node, False)
    await live_through(world, key, 60)
    assert await world.reconciler.reconcile(key) == 0, "it settles"
    assert len(world.ready("h")) == len(world.cluster.engines) == replicas
    assert all(p.busy and p.leave_since is None for p in world.cluster.engines.values())


async def live_through(world: World, key: PoolKey, seconds: int) -> None:
    """Somebody drains all cordoned nodes. Instances get requests; a drain moves one a second."""
    for _ in range(seconds):
        await world.reconciler.reconcile(key)
        before = dict(world.cluster.engines)
        for pod in before.values():
            if world.cluster.machines.get(pod.node, Node("")).cordoned and not pod.deleting:
                world.cluster.evict(pod.name)
        world.cluster.step()
        loads = world.scheduler.current.instances if world.scheduler.current else {}
        for name, pod in world.cluster.engines.items():
            load = loads.get(name)
            if pod.deleting and name in before and not before[name].deleting:
                assert load is None or load.running == 0, f"{name} was cut off"
            if load is None and pod.ready:
                world.scheduler.serve(name, 3)
            elif load is not None and load.state == "draining":
                world.scheduler.serve(name, max(0, load.running - 1), "draining")
