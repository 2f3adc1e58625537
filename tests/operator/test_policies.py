"""A RoutingPolicy's status: rules that lead nowhere, and which policy is in force."""

from typing import Any

from operator_world import World
from shunter_operator.names import Ref
from shunter_operator.testing import pool_body


def policy(name: str, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "shunter.dev/v1alpha1",
        "kind": "RoutingPolicy",
        "metadata": {"name": name, "namespace": "serving", "creationTimestamp": created},
        "spec": spec,
    }


def put(world: World, body: dict[str, Any]) -> Ref:
    ref = Ref("RoutingPolicy", "serving", body["metadata"]["name"])
    world.cluster.policy_bodies[ref] = body
    return ref


def degraded(world: World, ref: Ref) -> tuple[str, str, str]:
    conditions = world.cluster.policy_bodies[ref]["status"]["conditions"]
    found = next(c for c in conditions if c["type"] == "Degraded")
    return found["status"], found["reason"], found["message"]


async def test_a_rule_that_names_no_pool_is_told_with_its_place(world: World) -> None:
    rules = [{"name": "all", "route": [{"pool": "chat"}], "fallback": ["small"]}]
    ref = put(world, policy("main", rules=rules))
    world.cluster.put(pool_body("chat"))
    assert await world.reconciler.reconcile_policy(ref) == 1
    status, reason, message = degraded(world, ref)
    assert (status, reason) == ("True", "PolicyRefNotFound")
    assert message == "spec.rules[0].fallback[0]: there is no pool 'small'"
    assert await world.reconciler.reconcile_policy(ref) == 0, "a second pass writes nothing"
    world.cluster.put(pool_body("small"))
    assert await world.reconciler.reconcile_policy(ref) == 1
    assert degraded(world, ref)[:2] == ("False", "AsExpected")


async def test_a_policy_that_does_not_read_is_degraded(world: World) -> None:
    ref = put(world, policy("main", rules=[{"nmae": "all"}]))
    await world.reconciler.reconcile_policy(ref)
    status, reason, message = degraded(world, ref)
    assert (status, reason) == ("True", "InvalidSpec")
    assert message == "spec.rules[0].name: is missing"


async def test_a_policy_that_is_gone_needs_nothing(world: World) -> None:
    assert await world.reconciler.reconcile_policy(Ref("RoutingPolicy", "serving", "x")) is None


async def test_a_pool_shows_the_policy_in_force(world: World) -> None:
    key = world.cluster.put(pool_body())
    put(world, policy("older"))
    put(world, policy("younger", "2026-01-02T00:00:00Z"))
    await world.settle(key)
    assert world.cluster.bodies[key]["status"]["policy"] == "older"
    put(world, policy("high", "2026-01-03T00:00:00Z", priority=5))
    await world.settle(key)
    assert world.cluster.bodies[key]["status"]["policy"] == "high"
