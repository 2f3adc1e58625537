"""Names belong to the older pool."""

from typing import Any

from shunter_api.modelpool import ModelPool
from shunter_operator.conflicts import conflict_of
from shunter_operator.testing import pool_body
from shunter_operator.watches import pool_record


def pool(
    name: str, day: int, *profiles: str, namespace: str = "serving", **model: Any
) -> ModelPool:
    body = pool_body(
        name,
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
