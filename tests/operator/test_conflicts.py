"""Names belong to the older pool."""

from typing import Any

from operator_world import World
from shunter_api.modelpool import ModelPool
from shunter_operator.conflicts import conflict_of
from shunter_operator.scheduler_view import Advice, PoolLoad, SchedulerView
from shunter_operator.testing import pool_body
from shunter_operator.watches import pool_record


def pool(
    called: str, day: int, *profiles: str, namespace: str = "serving", **model: Any
) -> ModelPool:
    body = pool_body(
        called,
        model={"source": "sim://llama-3.1-8b", **model},
        profiles=[{"name": p, "accelerator": "l4-24gb"} for p in profiles or ("l4",)],
    )
    created = f"2026-01-{day:02}T00:00:00Z"
    body["metadata"] |= {"creationTimestamp": created, "namespace": namespace}
    made = pool_record(body).pool
    assert made is not None
    return made


def test_pools_of_different_names_do_not_conflict() -> None:
    one, two = pool("a", 1), pool("b", 2)
    assert conflict_of(one, [one, two]) is None and conflict_of(two, [one, two]) is None


def test_a_model_name_belongs_to_the_oldest_in_any_namespace() -> None:
    first = pool("a", 1, aliases=["m"])
    second = pool("b", 2, namespace="other", aliases=["m"])
    third = pool("c", 3, aliases=["m", "b"])
    everyone = [third, second, first]
    assert conflict_of(first, everyone) is None
    for younger in (second, third):
        found = conflict_of(younger, everyone)
        assert found is not None and found[0] == "ConflictingModel"
        assert "'m' belongs to the older pool serving/a" in found[1]


def test_two_ways_to_one_deployment() -> None:
    older, younger = pool("chat", 1, "a-b"), pool("chat-a", 2, "b")
    found = conflict_of(younger, [older, younger])
    assert found is not None and found[0] == "ConflictingName"
    assert "Deployment serving/chat-a-b" in found[1]
    elsewhere = pool("chat-a", 2, "b", namespace="other")
    assert conflict_of(elsewhere, [older, elsewhere]) is None


def test_a_pools_name_belongs_to_the_oldest_in_any_namespace() -> None:
    """The scheduler knows pools by name: the younger would follow the older one's advice."""
    older = pool("chat", 1)
    younger = pool("chat", 2, namespace="other", name="another-model")
    assert conflict_of(older, [older, younger]) is None
    found = conflict_of(younger, [older, younger])
    assert found is not None and found[0] == "ConflictingName"
    assert "the older pool serving/chat has this name" in found[1]


async def test_a_pool_in_conflict_follows_no_advice_and_shows_nobody_elses_figures(
    world: World,
) -> None:
    world.scheduler.current = SchedulerView(
        pool=PoolLoad(3, 7, 1.0, 100.0, 0.5), advice={"h100": Advice(4, "busy")}
    )
    world.cluster.put(pool_body("chat"))
    body = pool_body("chat", model={"source": "sim://llama-3.1-8b", "name": "another-model"})
    body["metadata"] |= {"namespace": "other", "creationTimestamp": "2026-01-02T00:00:00Z"}
    younger = world.cluster.put(body)
    await world.settle(younger)
    assert world.replicas() == {}
    assert world.condition(younger, "Degraded") == ("True", "ConflictingName")
    assert world.condition(younger, "SLOMet") == ("Unknown", "MetricMissing")
    assert world.condition(younger, "AutoscalerActive") == ("False", "MetricMissing")
    assert not world.cluster.bodies[younger]["status"].get("serving")
    assert await world.reconciler.reconcile(younger) == 0


async def test_a_pools_name_is_free_once_the_older_pool_has_gone(world: World) -> None:
    older = world.cluster.put(pool_body("chat"))
    body = pool_body("chat")
    body["metadata"] |= {"namespace": "other", "creationTimestamp": "2026-01-02T00:00:00Z"}
    younger = world.cluster.put(body)
    await world.settle(older)
    (name,) = world.ready("h100")
    world.scheduler.serve(name, 1)
    world.cluster.delete_pool(older)
    await world.settle(older)
    await world.settle(younger)
    assert world.condition(younger, "Degraded") == ("True", "ConflictingName"), "it still serves"
    world.scheduler.serve(name, 0, "draining")
    await world.settle(older)
    await world.settle(younger)
    assert world.condition(younger, "Degraded")[0] == "False"
