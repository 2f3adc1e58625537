"""Passes over a cluster in memory: what is made, what is kept, what goes, and in which order."""

from dataclasses import replace
from typing import Any

import pytest

from operator_world import World
from shunter_operator.cluster import ClusterError
from shunter_operator.names import FINALIZER, Ref
from shunter_operator.scheduler_client import SchedulerUnavailable
from shunter_operator.scheduler_view import Advice, SchedulerView
from shunter_operator.testing import pool_body

Spec = dict[str, Any]


def profiles(*counts: tuple[str, int, int]) -> list[dict[str, Any]]:
    return [
        {"name": name, "accelerator": "l4-24gb", "replicas": {"min": least, "max": most}}
        for name, least, most in counts
    ]


async def test_a_pool_gets_its_objects(world: World) -> None:
    key = world.cluster.put(pool_body(profiles=profiles(("h100", 2, 4), ("l4", 0, 4))))
    await world.settle(key)
    assert world.replicas() == {"chat-h100": 2, "chat-l4": 0}
    kinds = {ref.kind for ref in world.cluster.live}
    assert kinds == {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget"}
    assert FINALIZER in world.cluster.bodies[key]["metadata"]["finalizers"]
    assert world.condition(key, "Ready") == ("True", "Serving")


async def test_a_second_pass_writes_nothing(world: World) -> None:
    key = world.cluster.put(pool_body(profiles=profiles(("h100", 2, 4), ("l4", 0, 4))))
    await world.settle(key)
    world.writes()
    assert await world.reconciler.reconcile(key) == 0
    assert await world.operator().reconcile(key) == 0, "nor does a new operator"
    assert world.writes() == []


async def test_what_others_change_is_put_right(world: World) -> None:
    key = world.cluster.put(pool_body())
    await world.settle(key)
    ref = Ref("Deployment", "serving", "chat-h100")
    live = world.cluster.live[ref]
    world.cluster.live[ref] = {**live, "spec": {**live["spec"], "revisionHistoryLimit": 99}}
    world.writes()
    await world.reconciler.reconcile(key)
    assert world.writes() == [("apply", ref)]


async def test_a_field_that_is_asked_for_no_more_goes(world: World) -> None:
    key = world.cluster.put(pool_body(engine={"type": "simulated", "env": [{"name": "A"}]}))
    await world.settle(key)
    world.cluster.put(pool_body())
    await world.settle(key)
    ref = Ref("Deployment", "serving", "chat-h100")
    container = world.cluster.live[ref]["spec"]["template"]["spec"]["containers"][0]
    assert "A" not in [variable["name"] for variable in container["env"]]


async def test_an_error_of_the_server_is_tried_again(world: World) -> None:
    key = world.cluster.put(pool_body())
    world.cluster.next_error = ClusterError("no", 500)
    with pytest.raises(ClusterError):
        await world.reconciler.reconcile(key)
    await world.settle(key)
    assert world.replicas() == {"chat-h100": 1}


async def test_manual_fills_the_profiles_in_their_order(world: World) -> None:
    spec: Spec = {"profiles": profiles(("h100", 0, 2), ("l4", 0, 4)), "scaling": {"mode": "Manual"}}
    key = world.cluster.put(pool_body(**spec, replicas=3))
    await world.settle(key)
    assert world.replicas() == {"chat-h100": 2, "chat-l4": 1}
    world.cluster.put(pool_body(**spec, replicas=0))
    await world.settle(key, seconds=20)
    assert world.replicas() == {"chat-h100": 0, "chat-l4": 0}
    assert world.condition(key, "Ready") == ("False", "ScaledToZero")


async def test_the_victim_is_the_cheapest_and_is_empty_when_it_goes(world: World) -> None:
    spec: Spec = {"profiles": profiles(("h100", 0, 4)), "scaling": {"mode": "Manual"}}
    key = world.cluster.put(pool_body(**spec, replicas=3))
    await world.settle(key)
    first, cheapest, last = world.ready("h100")
    for name, running in ((first, 5), (cheapest, 2), (last, 7)):
        world.scheduler.serve(name, running)
    world.cluster.put(pool_body(**spec, replicas=2))
    await world.settle(key)
    assert world.scheduler.drained == [cheapest]
    assert world.replicas() == {"chat-h100": 3}, "not before it is empty"
    assert world.condition(key, "Draining") == ("True", "ScaleDown")
    world.scheduler.serve(cheapest, 0, "drained")
    await world.settle(key)
    assert world.replicas() == {"chat-h100": 2}
    assert world.ready("h100") == [first, last]
    reasons = [event.reason for event in world.cluster.events]
    assert reasons.count("Draining") == 1 and reasons.count("ScaledDown") == 1


async def test_without_deletion_costs_the_victim_goes_by_its_readiness_gate() -> None:
    world = World()
    world.environment = replace(world.environment, deletion_cost=False)
    world.reconciler = world.operator()
    spec: Spec = {"profiles": profiles(("h100", 0, 4)), "scaling": {"mode": "Manual"}}
    key = world.cluster.put(pool_body(**spec, replicas=3))
    await world.settle(key)
    names = world.ready("h100")
    assert len(names) == 3, "the operator lets them into service"
    for name, running in zip(names, (5, 0, 7), strict=True):
        world.scheduler.serve(name, running)
    world.cluster.put(pool_body(**spec, replicas=2))
    await world.settle(key)
    assert world.ready("h100") == [names[0], names[2]]
    await world.settle(key)
    world.writes()
    assert await world.reconciler.reconcile(key) == 0


async def test_a_victim_that_is_needed_again_goes_back_into_service(world: World) -> None:
    spec: Spec = {"profiles": profiles(("h100", 0, 4)), "scaling": {"mode": "Manual"}}
    key = world.cluster.put(pool_body(**spec, replicas=2))
    await world.settle(key)
    first, second = world.ready("h100")
    world.scheduler.serve(first, 1)
    world.scheduler.serve(second, 9)
    world.cluster.put(pool_body(**spec, replicas=1))
    await world.settle(key)
    world.cluster.put(pool_body(**spec, replicas=2))
    await world.settle(key)
    assert world.scheduler.undrained == [first]
    assert world.condition(key, "Draining") == ("False", "NothingLeaves")
    assert world.ready("h100") == [first, second]


async def test_a_drain_is_bounded_by_its_timeout(world: World) -> None:
    spec: Spec = {
        "profiles": profiles(("h100", 0, 4)),
        "scaling": {"mode": "Manual"},
        "migration": {"drainTimeout": "30s"},
    }
    key = world.cluster.put(pool_body(**spec, replicas=1))
    await world.settle(key)
    world.scheduler.serve(world.ready("h100")[0], 1)
    world.cluster.put(pool_body(**spec, replicas=0))
    await world.settle(key, seconds=25)
    assert world.replicas() == {"chat-h100": 1}
    await world.settle(key, seconds=10)
    assert world.replicas() == {"chat-h100": 0}


async def test_without_a_scheduler_a_victim_waits_for_the_timeout(world: World) -> None:
    spec: Spec = {"profiles": profiles(("h100", 0, 4)), "scaling": {"mode": "Manual"}}
    key = world.cluster.put(pool_body(**spec, replicas=1))
    await world.settle(key)
    world.scheduler.current = None
    world.cluster.put(pool_body(**spec, replicas=0))
    await world.settle(key, seconds=100, step=10)
    assert world.replicas() == {"chat-h100": 1}
    await world.settle(key, seconds=40, step=10)
    assert world.replicas() == {"chat-h100": 0}


async def test_a_scheduler_that_refuses_a_drain_is_asked_again(world: World) -> None:
    spec: Spec = {"profiles": profiles(("h100", 0, 4)), "scaling": {"mode": "Manual"}}
    key = world.cluster.put(pool_body(**spec, replicas=1))
    await world.settle(key)
    (name,) = world.ready("h100")
    world.scheduler.serve(name, 1)
    world.scheduler.next_error = SchedulerUnavailable("not now")
    world.cluster.put(pool_body(**spec, replicas=0))
    await world.settle(key)
    assert world.scheduler.drained == [name]


async def test_advice_is_followed_up_at_once_and_down_after_a_while(world: World) -> None:
    key = world.cluster.put(pool_body(profiles=profiles(("h100", 1, 4))))
    await world.settle(key)
    world.scheduler.current = SchedulerView(advice={"h100": Advice(3, "busy")})
    await world.settle(key)
    assert world.replicas() == {"chat-h100": 3}
    assert world.condition(key, "AutoscalerActive") == ("True", "AdviceFollowed")
    world.scheduler.current = SchedulerView(advice={"h100": Advice(1, "idle")})
    await world.settle(key, seconds=280, step=20)
    assert world.replicas() == {"chat-h100": 3}
    await world.settle(key, seconds=60, step=10)
    assert world.replicas() == {"chat-h100": 1}


async def test_without_advice_nothing_is_scaled(world: World) -> None:
    key = world.cluster.put(pool_body(profiles=profiles(("h100", 1, 4))))
    world.scheduler.current = SchedulerView(advice={"h100": Advice(3, "busy")})
    await world.settle(key)
    world.scheduler.current = None
    await world.settle(key, seconds=1000, step=50)
    assert world.replicas() == {"chat-h100": 3}
    assert world.condition(key, "AutoscalerActive") == ("False", "MetricMissing")


async def test_spill_and_return(world: World) -> None:
    key = world.cluster.put(pool_body(profiles=profiles(("h100", 2, 2), ("l4", 0, 4))))
    world.cluster.places["h100"] = 1
    await world.settle(key, seconds=50)
    assert world.replicas() == {"chat-h100": 2, "chat-l4": 0}, "not before spillAfter"
    await world.settle(key, seconds=30)
    assert world.replicas() == {"chat-h100": 2, "chat-l4": 1}, "the Pending pod stays, as a probe"
    assert world.condition(key, "SpilledOver") == ("True", "InsufficientGPU")
    assert world.cluster.bodies[key]["status"]["gpuMix"] == "2xl4-24gb"
    world.cluster.places["h100"] = 2
    await world.settle(key, seconds=100)
    assert world.replicas() == {"chat-h100": 2, "chat-l4": 1}, "not before returnAfter"
    await world.settle(key, seconds=40)
    assert world.replicas() == {"chat-h100": 2, "chat-l4": 0}
    assert world.condition(key, "SpilledOver") == ("False", "PreferredProfilesServe")
    reasons = [event.reason for event in world.cluster.events]
    assert reasons.count("SpilledOver") == 1 and reasons.count("Returned") == 1


async def test_a_return_drains_the_stand_in_first(world: World) -> None:
    key = world.cluster.put(pool_body(profiles=profiles(("h100", 1, 1), ("l4", 0, 4))))
    world.cluster.places["h100"] = 0
    await world.settle(key, seconds=70)
    (stand_in,) = world.ready("l4")
    world.scheduler.serve(stand_in, 4)
    world.cluster.places["h100"] = 1
    await world.settle(key, seconds=125)
    assert world.scheduler.drained == [stand_in]
    assert world.ready("l4") == [stand_in]
    world.scheduler.serve(stand_in, 0, "drained")
    await world.settle(key)
    assert world.ready("l4") == []


async def test_spilling_goes_on_to_the_third_profile(world: World) -> None:
    counts = profiles(("a", 2, 2), ("b", 0, 1), ("c", 0, 4))
    key = world.cluster.put(pool_body(profiles=counts))
    world.cluster.places.update(a=0, b=0)
    await world.settle(key, seconds=150)
    assert world.replicas() == {"chat-a": 2, "chat-b": 1, "chat-c": 2}


async def test_a_removed_profile_is_drained_and_then_deleted(world: World) -> None:
    key = world.cluster.put(pool_body(profiles=profiles(("h100", 1, 1), ("l4", 1, 1))))
    await world.settle(key)
    (leaving,) = world.ready("l4")
    world.scheduler.serve(leaving, 3)
    world.cluster.put(pool_body(profiles=profiles(("h100", 1, 1))))
    await world.settle(key)
    assert world.replicas() == {"chat-h100": 1, "chat-l4": 1}
    assert world.scheduler.drained == [leaving]
    world.scheduler.serve(leaving, 0, "drained")
    await world.settle(key)
    assert world.replicas() == {"chat-h100": 1}


async def test_a_deleted_pool_drains_and_then_lets_go(world: World) -> None:
    key = world.cluster.put(pool_body())
    await world.settle(key)
    (name,) = world.ready("h100")
    world.scheduler.serve(name, 2)
    world.cluster.delete_pool(key)
    await world.settle(key)
    assert world.cluster.bodies[key]["metadata"]["finalizers"] == [FINALIZER]
    assert world.condition(key, "Ready") == ("False", "Deleting")
    world.scheduler.serve(name, 0, "drained")
    await world.settle(key)
    assert key not in world.cluster.bodies
    assert await world.reconciler.reconcile(key) is None


async def test_a_deleted_pool_lets_go_at_the_latest_after_its_timeout(world: World) -> None:
    key = world.cluster.put(pool_body())
    await world.settle(key)
    world.scheduler.serve(world.ready("h100")[0], 2)
    world.scheduler.current = None
    world.cluster.delete_pool(key)
    await world.settle(key, seconds=130, step=10)
    assert key not in world.cluster.bodies


async def test_the_younger_of_two_pools_with_one_model_name_is_degraded(world: World) -> None:
    older = world.cluster.put(pool_body("a", model={"source": "sim://x", "name": "m"}))
    body = pool_body("b", model={"source": "sim://x", "name": "m"})
    body["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    younger = world.cluster.put(body)
    await world.settle(older)
    await world.settle(younger)
    assert world.replicas() == {"a-h100": 1}
    assert world.condition(older, "Degraded") == ("False", "AsExpected")
    assert world.condition(younger, "Degraded") == ("True", "ConflictingModel")
    assert world.condition(younger, "Ready") == ("False", "ConflictingModel")
    world.cluster.delete_pool(older)
    await world.settle(older)
    await world.settle(younger)
    assert world.condition(younger, "Ready") == ("True", "Serving"), "it inherits the name"


async def test_a_resource_that_does_not_read_is_degraded_and_runs_on(world: World) -> None:
    key = world.cluster.put(pool_body())
    await world.settle(key)
    world.cluster.put(pool_body(profiles=[]))
    world.writes()
    await world.settle(key)
    assert world.condition(key, "Degraded") == ("True", "InvalidSpec")
    assert world.replicas() == {"chat-h100": 1}
    assert len(world.writes()) == 1


async def test_an_engine_without_an_image_says_so(world: World) -> None:
    model = {"source": "hf://meta-llama/Llama-3.1-8B"}
    key = world.cluster.put(pool_body(model=model, engine={"type": "vllm"}))
    await world.settle(key)
    assert world.condition(key, "Degraded") == ("True", "EngineImageMissing")
    assert world.replicas() == {}
