"""What admission finds, and what it says about it."""

from copy import deepcopy
from typing import Any

import pytest

from resource_samples import BY_RULE, BY_SCHEMA, POLICY, POOL, Bad
from shunter_api.load import parse_object
from shunter_api.modelpool import ModelPool
from shunter_api.routingpolicy import RoutingPolicy
from shunter_api.validate import Known
from shunter_operator.admission.checks import Cell, advice, examine, lenient
from shunter_operator.admission.review import Findings, Object
from shunter_operator.admission.testing import request_of
from shunter_operator.testing import pool_body

KNOWN = Known()


def pool(name: str, namespace: str = "serving", **spec: Any) -> Object:
    body = pool_body(name, **spec)
    body["metadata"]["namespace"] = namespace
    return body


def model(**more: Any) -> Object:
    return {"source": "sim://llama-3.1-8b", **more}


def policy(name: str = "main", **spec: Any) -> Object:
    metadata = {"name": name, "namespace": "serving"}
    return {
        "apiVersion": "shunter.dev/v1alpha1",
        "kind": "RoutingPolicy",
        "metadata": metadata,
        "spec": spec,
    }


def route(*pools: str, **rule: Any) -> Object:
    return policy(rules=[{"name": "r", "route": [{"pool": p} for p in pools], **rule}])


def cell(*resources: Object) -> Cell:
    found = [parse_object(resource) for resource in resources]
    return Cell(
        tuple(r for r in found if isinstance(r, ModelPool)),
        tuple(r for r in found if isinstance(r, RoutingPolicy)),
    )


def created(value: Object, *stored: Object, **more: Any) -> Findings:
    return examine(request_of("CREATE", value, **more), cell(*stored), KNOWN)


def updated(old: Object, new: Object, *stored: Object, **more: Any) -> Findings:
    return examine(request_of("UPDATE", new, old, **more), cell(old, *stored), KNOWN)


def told(problems: tuple[Any, ...]) -> list[str]:
    return [f"{problem.field}: {problem.message}" for problem in problems]


@pytest.mark.parametrize("good", [POOL, POLICY], ids=["pool", "policy"])
def test_what_is_right_is_taken(good: Object) -> None:
    others = [pool("code"), *([pool("chat")] if good is POLICY else [])]
    assert created(good, *others) == Findings()


@pytest.mark.parametrize("bad", [*BY_SCHEMA, *BY_RULE], ids=lambda bad: bad.name)
def test_what_schema_and_rules_refuse_is_refused_here_too(bad: Bad) -> None:
    """So that servers without CEL refuse the same."""
    (problem,) = created(bad.object).own
    assert problem.field == bad.field
    assert bad.code_says in problem.message


def test_every_mistake_is_told_at_once() -> None:
    body = pool("chat", engine={"type": "sglang2", "port": 0}, slo={"ttft": "5"})
    fields = [problem.field for problem in created(body).own]
    assert fields == ["spec.engine.type", "spec.engine.port", "spec.slo.ttft"]


def test_what_only_the_scheduler_knows_is_asked_of_it() -> None:
    known = Known(lambda _: [(("spec", "profiles", 0), "does not fit")])
    (unfit,) = examine(request_of("CREATE", pool("chat")), Cell(), known).own
    assert (unfit.field, unfit.message) == ("spec.profiles[0]", "does not fit")
    asked = policy(dispatch={"policy": "b"})
    (unknown,) = examine(request_of("CREATE", asked), Cell(), known).own
    assert unknown.field == "spec.dispatch.policy" and "'predicted-cost'" in unknown.message


def test_a_model_name_leads_to_one_pool() -> None:
    owner = pool("old", "other", model=model(aliases=["default"]))
    (clash,) = created(pool("new", model=model(aliases=["x", "default"])), owner).clashes
    assert clash.field == "spec.model.aliases[1]"
    assert "'default' belongs to pool 'old' already (namespace other)" in clash.message
    (clash,) = created(pool("new", model=model(name="old")), owner).clashes
    assert clash.field == "spec.model.name"


def test_a_pool_name_is_used_once_in_a_cell() -> None:
    (clash,) = created(pool("chat", model=model(name="m")), pool("chat", "other")).clashes
    assert clash.field == "metadata.name" and "already in namespace other" in clash.message


def test_two_ways_to_one_deployment() -> None:
    profile = {"name": "b", "accelerator": "l4"}
    older = pool("chat", profiles=[{**profile, "name": "a-b"}])
    (clash,) = created(pool("chat-a", profiles=[profile]), older).clashes
    assert clash.field == "spec.profiles[0].name"
    assert "Deployment serving/chat-a-b belongs to pool serving/chat" in clash.message
    assert created(pool("chat-a", "elsewhere", profiles=[profile]), older).clashes == ()


def test_an_older_pool_cannot_take_a_younger_ones_name_by_an_edit() -> None:
    """Reconciling would let the older win, and the younger lose what it serves."""
    before = pool("old")
    before["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    after = deepcopy(before)
    after["spec"]["model"]["aliases"] = ["young"]
    (clash,) = updated(before, after, pool("young")).clashes
    assert clash.field == "spec.model.aliases[0]"


def test_a_rule_leads_to_pools_that_exist() -> None:
    found = created(route("chta", "chat", fallback=["code"]), pool("chat"))
    assert told(found.clashes) == [
        "spec.rules[0].fallback[0]: there is no pool 'code'; known: chat",
        "spec.rules[0].route[0].pool: there is no pool 'chta'; did you mean 'chat'?",
    ]
    (clash,) = created(policy(rules=[{"name": "r", "class": "gold"}])).clashes
    assert clash.field == "spec.rules[0].class" and "known: standard" in clash.message


def test_classes_of_other_policies_are_known() -> None:
    classes = policy("classes", classes=[{"name": "gold", "priority": 1}])
    assert created(policy(rules=[{"name": "r", "class": "gold"}]), classes) == Findings()


def test_an_edit_that_adds_no_clash_is_taken_and_reminded_of_the_old_one() -> None:
    """Of a pool that is gone by now; the place in the list is another."""
    after = route("gone")
    after["spec"]["rules"].insert(0, {"name": "first"})
    found = updated(route("gone"), after)
    assert found.clashes == () == found.own
    assert told(found.standing) == [
        "spec.rules[1].route[0].pool: there is no pool 'gone'; known: none"
    ]


def test_only_a_change_of_the_spec_is_looked_at() -> None:
    broken = pool("chat", engine={"type": "typo"})
    labelled = deepcopy(broken)
    labelled["metadata"] |= {"labels": {"a": "b"}, "finalizers": []}
    assert updated(pool("chat"), broken).own != ()
    assert examine(request_of("UPDATE", labelled, broken), Cell(), KNOWN) == Findings()
    status = request_of("UPDATE", broken, pool("chat"), subResource="status")
    assert examine(status, Cell(), KNOWN) == Findings()


def test_a_resource_that_leaves_is_let_go() -> None:
    leaving = pool("chat", engine={"type": "typo"})
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert updated(pool("chat"), leaving) == Findings()
    assert examine(request_of("DELETE", None, pool("chat")), Cell(), KNOWN) == Findings()


def test_other_resources_are_none_of_its_business() -> None:
    elsewhere = {"group": "apps", "resource": "deployments"}
    assert created(pool("chat", engine={}), resource=elsewhere) == Findings()


def test_without_a_view_of_others_only_the_resource_itself_is_checked() -> None:
    request = request_of("CREATE", route("nowhere"))
    assert examine(request, None, KNOWN) == Findings()


def scale(replicas: int, **more: Any) -> Any:
    metadata = {"name": "chat", "namespace": "serving"}
    spec = {"replicas": replicas} if replicas else {}
    new = {"kind": "Scale", "metadata": metadata, "spec": spec}
    return request_of("UPDATE", new, {**new, "spec": {}}, **more)


@pytest.mark.parametrize("replicas", [0, 3])
def test_kubectl_scale_is_refused_where_the_scheduler_scales(replicas: int) -> None:
    (clash,) = examine(scale(replicas), cell(pool("chat")), KNOWN).clashes
    assert clash.field == "spec.replicas"
    assert "set scaling.mode to Manual" in clash.message
    assert examine(scale(replicas), cell(pool("other")), KNOWN) == Findings()


def test_kubectl_scale_stays_within_the_profiles() -> None:
    replicas = {"min": 0, "max": 3}
    profile = {"name": "l4", "accelerator": "l4", "costPerHour": "1.5", "replicas": replicas}
    manual = pool(
        "chat", profiles=[profile], scaling={"mode": "Manual", "scaleDownAfter": "90s"}, replicas=1
    )
    for fine in (0, 1, 3):
        assert examine(scale(fine), cell(manual), KNOWN) == Findings()
    (clash,) = examine(scale(4), cell(manual), KNOWN).clashes
    assert clash.field == "spec.replicas" and "add up to 3" in clash.message


def test_when_clashes_are_only_told() -> None:
    later = route("x")
    later["metadata"]["annotations"] = {"shunter.dev/missing-references": "allow"}
    annotated_pool = pool("chat")
    annotated_pool["metadata"]["annotations"] = later["metadata"]["annotations"]
    assert not lenient(request_of("CREATE", route("x")), fresh=True)
    assert lenient(request_of("CREATE", route("x")), fresh=False)
    assert lenient(request_of("CREATE", route("x"), dryRun=True), fresh=True)
    assert lenient(request_of("CREATE", later), fresh=True)
    assert not lenient(request_of("CREATE", annotated_pool), fresh=True)
    assert not lenient(scale(3, dryRun=True), fresh=True)


def test_the_way_out_is_told_for_policies_only() -> None:
    said = advice(request_of("CREATE", route("x")))
    assert "shunter.dev/missing-references: allow" in said
    assert advice(request_of("CREATE", pool("chat"))) == ""
