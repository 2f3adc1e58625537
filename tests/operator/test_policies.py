"""A RoutingPolicy's status: rules that lead nowhere, and which policy is in force."""

from typing import Any

import pytest

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


async def test_a_rule_that_names_no_class_is_told_with_its_place(world: World) -> None:
    """Of any policy."""
    ref = put(world, policy("main", rules=[{"name": "all", "class": "gold"}]))
    await world.reconciler.reconcile_policy(ref)
    status, reason, message = degraded(world, ref)
    assert (status, reason) == ("True", "PolicyRefNotFound")
    assert message == "spec.rules[0].class: there is no class 'gold'"
    put(world, policy("classes", classes=[{"name": "gold", "priority": 1}]))
    await world.reconciler.reconcile_policy(ref)
    assert degraded(world, ref)[:2] == ("False", "AsExpected")


async def test_a_policy_that_does_not_read_is_degraded(world: World) -> None:
    ref = put(world, policy("main", rules=[{"nmae": "all"}]))
    await world.reconciler.reconcile_policy(ref)
    status, reason, message = degraded(world, ref)
    assert (status, reason) == ("True", "InvalidSpec")
    assert message == "spec.rules[0].name: is missing"


GOLD = {"headers": {"x-tier": "gold"}}


@pytest.mark.parametrize(
    ("first", "later", "conflict"),
    [
        (None, {"models": ["a"]}, True),
        (None, None, True),
        ({"models": ["a"]}, None, False),
        ({"models": ["a", "b"]}, {"models": ["b"], **GOLD}, True),
        ({"models": ["a"]}, {"models": ["a", "b"]}, False),
        ({"models": ["a"]}, GOLD, False),
        (GOLD, {"headers": {"x-tier": "gold", "x-app": "y"}}, True),
        (GOLD, {"headers": {"x-tier": "free"}}, False),
        ({"tenants": ["t"]}, {"tenants": ["t"], "promptTokens": {"over": 10}}, True),
        ({"promptTokens": {"over": 10}}, {"promptTokens": {"over": 20}}, True),
        ({"promptTokens": {"over": 20}}, {"promptTokens": {"over": 10}}, False),
        ({"promptTokens": {"over": 20}}, {"models": ["a"]}, False),
    ],
)
async def test_a_rule_that_an_earlier_policy_leaves_nothing_is_told(
    world: World, first: dict[str, Any] | None, later: dict[str, Any] | None, conflict: bool
) -> None:
    world.cluster.put(pool_body("chat"))
    to = {"route": [{"pool": "chat"}]}
    when = [{"when": first} if first else {}, {"when": later} if later else {}]
    high = put(world, policy("high", priority=5, rules=[{"name": "one", **to, **when[0]}]))
    low = put(world, policy("low", rules=[{"name": "two", **to, **when[1]}]))
    for ref in (high, low):
        await world.reconciler.reconcile_policy(ref)
    assert degraded(world, high)[:2] == ("False", "AsExpected")
    status, reason, message = degraded(world, low)
    assert (status, reason) == (
        ("True", "ConflictingPolicy") if conflict else ("False", "AsExpected")
    )
    if conflict:
        by = "rule 'one' of policy 'serving/high' comes first"
        assert message == f"spec.rules[0] is never reached: {by}"


async def test_a_tenant_that_an_earlier_policy_has_does_not_count(world: World) -> None:
    world.cluster.put(pool_body("chat"))
    high = put(world, policy("high", priority=5, tenants=[{"name": "acme"}]))
    low = put(world, policy("low", tenants=[{"name": "b"}, {"name": "acme"}]))
    for ref in (high, low):
        await world.reconciler.reconcile_policy(ref)
    assert degraded(world, high)[0] == "False"
    status, reason, message = degraded(world, low)
    assert (status, reason) == ("True", "ConflictingPolicy")
    assert message == "spec.tenants[1] does not count: policy 'serving/high' has 'acme'"


async def test_a_rule_without_a_route_leaves_others_something(world: World) -> None:
    """It is for the pools' own model names alone."""
    world.cluster.put(pool_body("chat"))
    put(world, policy("high", priority=5, rules=[{"name": "rest"}]))
    named = {"name": "two", "when": {"models": ["auto"]}, "route": [{"pool": "chat"}]}
    low = put(world, policy("low", rules=[named]))
    await world.reconciler.reconcile_policy(low)
    assert degraded(world, low)[:2] == ("False", "AsExpected")


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
