"""Objects of the API to a configuration: what serves, and why something does not."""

from collections.abc import Mapping
from typing import Any

import pytest

from shunter_api.modelpool import ModelPool
from shunter_api.routingpolicy import RoutingPolicy
from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.sources.feasible import infeasible
from shunter_scheduler.sources.kubernetes_objects import (
    Cell,
    Reading,
    make_cell,
    read_pod,
    read_resource,
)
from shunter_scheduler.sources.testing import pod_object, policy_object, pool_object

Object = Mapping[str, Any]


def read_pool(value: Object, before: Reading[ModelPool] | None = None) -> Reading[ModelPool]:
    return read_resource(ModelPool, value, before, infeasible)


def cell_of(*objects: Object) -> Cell:
    by_kind: dict[str, list[Object]] = {"ModelPool": [], "RoutingPolicy": [], "Pod": []}
    for value in objects:
        by_kind[value["kind"]].append(value)
    return make_cell(
        [read_pool(value) for value in by_kind["ModelPool"]],
        [read_resource(RoutingPolicy, v, None, lambda _: ()) for v in by_kind["RoutingPolicy"]],
        [read_pod(value) for value in by_kind["Pod"]],
    )


def told(cell: Cell) -> list[str]:
    return [str(problem) for problem in cell.problems]


def with_metadata(value: Object, **metadata: Any) -> Object:
    return {**value, "metadata": {**value["metadata"], **metadata}}


def test_a_ready_pod_is_an_instance() -> None:
    cell = cell_of(pool_object(), policy_object(), pod_object("chat-h100-1", ip="10.1.2.3"))
    assert told(cell) == []
    assert [pool.name for pool in cell.pools] == ["chat"]
    assert [policy.name for policy in cell.policies] == ["main"]
    assert cell.instances == (
        Instance("chat-h100-1", "chat", "h100", "10.1.2.3:8000", "simulated"),
    )


@pytest.mark.parametrize(
    "pod",
    [
        pod_object("p", ready=False),
        pod_object("p", pool="other"),
        pod_object("p", namespace="elsewhere"),
        pod_object("p", profile="removed"),
    ],
    ids=["not-ready", "no-pool", "pool-of-another-namespace", "no-profile"],
)
def test_pods_that_are_no_instances(pod: Object) -> None:
    cell = cell_of(pool_object(), pod)
    assert (cell.instances, told(cell)) == ((), [])


def test_a_terminating_pod_leaves_and_still_serves_until_it_is_unready() -> None:
    cell = cell_of(pool_object(), pod_object("p", deleted=True), pod_object("q"))
    assert ([one.name for one in cell.instances], cell.leaving) == (["p", "q"], ("p",))
    cell = cell_of(pool_object(), pod_object("p", deleted=True, ready=False), pod_object("q"))
    assert ([one.name for one in cell.instances], cell.leaving) == (["q"], ())


def test_a_pod_says_which_model_revision_it_serves() -> None:
    cell = cell_of(pool_object(), pod_object("p", revision="old"), pod_object("q", revision="new"))
    assert [(one.name, one.revision) for one in cell.instances] == [("p", "old"), ("q", "new")]


def test_an_ipv6_address_has_brackets() -> None:
    cell = cell_of(pool_object(), pod_object("p", ip="fd00::1"))
    assert cell.instances[0].address == "[fd00::1]:8000"


def test_a_pod_without_the_port_says_so() -> None:
    cell = cell_of(pool_object(), pod_object("p", port_name="web"), pod_object("q"))
    assert [instance.name for instance in cell.instances] == ["q"]
    assert told(cell)[0].startswith("Pod serving/p: spec.containers: is Ready, but no container ")


def test_of_two_pods_of_a_name_the_older_serves() -> None:
    young = pod_object("p", pool="b", namespace="a-first", created="2026-01-02T00:00:00Z")
    cell = cell_of(pool_object("chat"), pool_object("b", "a-first"), young, pod_object("p", "chat"))
    assert [(one.name, one.pool) for one in cell.instances] == [("p", "chat")]
    assert "an older pod of another namespace has this name" in told(cell)[0]


def test_a_bad_pool_is_left_out_and_the_others_serve() -> None:
    bad = pool_object("bad", profiles=[{"name": "x"}])
    cell = cell_of(bad, pool_object(), pod_object("p"), pod_object("q", pool="bad"))
    assert [pool.name for pool in cell.pools] == ["chat"]
    assert [one.name for one in cell.instances] == ["p"]
    told_of_it = "is missing; this ModelPool is left out"
    assert told(cell) == [f"ModelPool serving/bad: spec.profiles[0].accelerator: {told_of_it}"]


def test_a_pool_that_no_gpu_of_it_can_hold_is_left_out() -> None:
    cell = cell_of(pool_object(model={"source": "sim://no-such-model"}))
    assert cell.pools == ()
    assert told(cell)[0].startswith("ModelPool serving/chat: spec.model.source: ")


def test_the_older_pool_keeps_a_model_name_whatever_the_order() -> None:
    old = pool_object("z-old", model={"source": "sim://llama-3.1-8b", "aliases": ["fast"]})
    new = pool_object("a-new", created="2026-02-01T00:00:00Z", model={
        "source": "sim://llama-3.1-8b", "aliases": ["fast"]})  # fmt: skip
    for objects in ((old, new), (new, old)):
        cell = cell_of(*objects, pod_object("p", pool="a-new"))
        assert [pool.name for pool in cell.pools] == ["z-old"]
        assert cell.instances == ()
        assert told(cell)[0].startswith(
            "ModelPool serving/a-new: spec.model.aliases[0]: model name 'fast' belongs to pool "
            "'z-old' already (ModelPool serving/z-old)"
        )


def test_two_namespaces_share_pool_names_but_not_policy_names() -> None:
    cell = cell_of(
        pool_object("chat", "a", created="2026-02-01T00:00:00Z"),
        pool_object("chat", "b"),
        policy_object("main", "a"),
        policy_object("main", "b"),
    )
    assert [pool.metadata.namespace for pool in cell.pools] == ["b"]
    assert len(cell.policies) == 2
    assert len(cell.problems) == 1 and "rename or remove one" in told(cell)[0]


def test_a_rule_for_a_pool_that_is_not_there_yet_stays_and_is_reported() -> None:
    rules = [{"name": "next", "route": [{"pool": "chatt"}], "class": "gold"}, {"name": "all"}]
    cell = cell_of(pool_object(), policy_object(rules=rules))
    assert [policy.name for policy in cell.policies] == ["main"]
    at = "RoutingPolicy serving/main: spec.rules[0]"
    assert told(cell) == [
        f"{at}.class: there is no class 'gold'; known: standard",
        f"{at}.route[0].pool: there is no pool 'chatt'; did you mean 'chat'?",
    ]


def test_a_policy_that_dispatches_in_an_unknown_way_is_left_out() -> None:
    cell = cell_of(policy_object(dispatch={"policy": "magic"}), policy_object("other"))
    assert [policy.name for policy in cell.policies] == ["other"]
    assert "spec.dispatch.policy: must be one of 'predicted-cost'" in told(cell)[0]


def test_an_edit_that_cannot_be_used_leaves_the_pool_as_it_was() -> None:
    good = with_metadata(pool_object(), uid="u1", generation=1)
    bad = with_metadata(pool_object(profiles=[]), uid="u1", generation=2)
    before = read_pool(good)
    after = read_pool(bad, before)
    assert after.value is before.value is not None
    assert str(after.problems[0]).endswith("; the edit has no effect")
    again = with_metadata(pool_object(profiles=[]), uid="u2", generation=1)
    assert read_pool(again, after).value is None  # another pool of that name


def test_a_pool_whose_spec_is_the_same_is_not_read_again() -> None:
    before = read_pool(with_metadata(pool_object(), uid="u1", generation=4))
    status = {**with_metadata(pool_object(), uid="u1", generation=4), "status": {"replicas": 2}}
    assert read_pool(status, before) is before


def waiting_pod(name: str, **status: Any) -> Object:
    """Not ready. `status`: conditions, initContainerStatuses; node: where it runs."""
    pod = dict(pod_object(name, ready=False, ip=""))
    node = status.pop("node", "")
    return {**pod, "spec": {**pod["spec"], "nodeName": node}, "status": status}


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
LOADING = waiting_pod("a", node="n", initContainerStatuses=[{"state": {"running": {}}}])
DRAINED = waiting_pod(
    "d", node="n", conditions=[{"type": "shunter.dev/in-service", "status": "False"}]
)
LOADED = waiting_pod("b", node="n", initContainerStatuses=[{"state": {"terminated": {}}}])


@pytest.mark.parametrize(
    ("pods", "phases"),
    [
        ([], ()),
        ([waiting_pod("a")], (("chat", "scaling-up"),)),
        ([waiting_pod("a", conditions=[UNSCHEDULABLE])], (("chat", "unschedulable"),)),
        ([waiting_pod("a", conditions=[UNSCHEDULABLE]), LOADING], (("chat", "loading-weights"),)),
        ([LOADING, LOADED], (("chat", "starting"),)),
        ([LOADED, pod_object("c")], ()),
        ([with_metadata(LOADED, deletionTimestamp="2026-01-01T01:00:00Z")], ()),
        ([pod_object("c", pool="gone", ready=False)], ()),
        ([DRAINED], ()),
        ([DRAINED, LOADED], (("chat", "starting"),)),
    ],
)
def test_how_far_a_pool_without_an_instance_is(
    pods: list[Object], phases: tuple[tuple[str, str], ...]
) -> None:
    cell = cell_of(pool_object(), *pods)
    assert cell.starting == phases
    assert cell.topology(3).starting == phases
