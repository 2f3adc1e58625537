"""Each check on a sound release, and on one with a single thing wrong."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from doctor_facts import (
    VERSION,
    cluster,
    deployment,
    expect,
    lease,
    node,
    pages,
    pool,
    service,
)
from shunter.doctor import check_cluster, check_nodes, check_processes
from shunter.doctor.facts import (
    ClusterFacts,
    Facts,
    Place,
    Right,
    Rights,
    SchedulerPages,
    Server,
    Silent,
    Unread,
)
from shunter.doctor.findings import SHOWN, Finding, State
from shunter.doctor.table import CHECKS, judge
from shunter.release import definitions

UNREAD = Unread("may not be read")


def test_a_sound_release_has_nothing_to_mend() -> None:
    findings = list(judge(Facts(service(), cluster())))
    assert {finding.state for _, finding in findings} == {State.ok}
    assert {name for name, _ in findings} == {check.name for check in CHECKS}
    assert not any(finding.remedy for _, finding in findings)


def test_one_machine_has_the_checks_of_processes_only() -> None:
    names = [name for name, _ in judge(Facts(service()))]
    assert set(names) == {"scheduler", "gateway", "engines", "tokenizers"}


def test_what_cannot_be_read_is_skipped_and_never_called_good() -> None:
    facts = cluster(
        definitions=UNREAD, rights={"scheduler": UNREAD, "operator": UNREAD}, nodes=UNREAD,
        pools=UNREAD, runtime_classes=UNREAD, deployments=UNREAD,
        leases={"scheduler": UNREAD, "operator": UNREAD}, schedulers=UNREAD, webhooks=UNREAD,
        trial=UNREAD, server=Server("https://api", VERSION, "v1.30.2", None, 0.0),
    )  # fmt: skip
    blind = service(gateway=UNREAD, scheduler=UNREAD, engines=UNREAD)
    found = {(name, finding.state) for name, finding in judge(Facts(blind, facts))}
    assert found == {("server", State.ok)} | {
        (check.name, State.skipped) for check in CHECKS if check.name != "server"
    }


def crd(index: int = 0, **changes: Any) -> dict[str, Any]:
    """A sound definition with another schema, or other conditions."""
    names = [d["metadata"]["name"] for d in definitions(VERSION)]
    sound = cluster().definitions
    assert not isinstance(sound, Unread)
    return {**sound, names[index]: {**(sound[names[index]] or {}), **changes}}


def schema_without(field: str) -> dict[str, Any]:
    (wanted, _) = definitions(VERSION)
    (version,) = wanted["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fields = {k: v for k, v in fields.items() if k != field}
    return changed(wanted["spec"], "properties", fields)


def changed(spec: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    (version,) = spec["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    inner = {**schema["properties"]["spec"], key: value}
    schema = {**schema, "properties": {**schema["properties"], "spec": inner}}
    return {**spec, "versions": [{**version, "schema": {"openAPIV3Schema": schema}}]}


SKEWED = cluster().server
SOUND = cluster().deployments
assert not isinstance(SOUND, Unread)
PENDING = {"conditions": [{"type": "NamesAccepted", "status": "False", "message": "smp is taken"}]}
REFUSED = Right("operator", "apps", "deployments", "patch", "")
NODES = Right("operator", "", "nodes", "watch", "", optional=True)
L4 = {"name": "l4", "accelerator": "l4-24gb"}
H100 = {"name": "h100", "accelerator": "h100-sxm-80gb"}
TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
ADMITS: dict[str, Any] = {"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "shunter"}}

CLUSTER_CASES: list[
    tuple[str, Callable[[ClusterFacts], Iterable[Finding]], dict[str, Any], State, str, str]
] = [
    ("old server", check_cluster.server,
     {"server": replace(SKEWED, version=(1, 20), text="v1.20.2")}, State.warning, "CEL", "1.25"),
    ("ancient server", check_cluster.server,
     {"server": replace(SKEWED, version=(1, 16), text="v1.16.0")}, State.failed, "1.16", "1.20"),
    ("no resource", check_cluster.resources,
     {"definitions": dict.fromkeys(d["metadata"]["name"] for d in definitions(VERSION))},
     State.failed, "modelpools.shunter.dev is not there", "kubectl apply"),
    ("not established", check_cluster.resources, {"definitions": crd(status=PENDING)},
     State.failed, "smp is taken", "describe crd"),
    ("older schema", check_cluster.resources,
     {"definitions": crd(spec=schema_without("podTemplate"))},
     State.warning, "spec.podTemplate is missing", "helm upgrade"),
    ("newer schema", check_cluster.resources,
     {"definitions": crd(1, spec=changed(definitions(VERSION)[1]["spec"], "maxProperties", 3))},
     State.warning, "spec differs in maxProperties", "helm upgrade"),
    (
        "nodes are not watched",
        check_cluster.rights,
        {"rights": {"scheduler": Rights(1, ()), "operator": Rights(43, (NODES,))}},
        State.warning,
        "may not watch nodes",
        "operator.watchNodes",
    ),
    ("a right is missing", check_cluster.rights,
     {"rights": {"scheduler": Rights(1, ()), "operator": Rights(43, (REFUSED,))}},
     State.failed, "may not patch deployments.apps", "helm upgrade"),
    ("clock behind", check_cluster.clocks, {"server": replace(SKEWED, ahead_s=-30.0)},
     State.warning, "30.0 s behind", "chrony"),
    ("clock far ahead", check_cluster.clocks, {"server": replace(SKEWED, ahead_s=400.0)},
     State.failed, "400.0 s ahead of", "chrony"),
    ("a node's clock", check_cluster.clocks,
     {"leases": {"scheduler": lease("s", "2026-11-22T17:02:00.000000Z"), "operator": lease("o")}},
     State.failed, "leading scheduler is 120.0 s ahead", "chrony"),
    ("nothing installed", check_processes.processes, {"deployments": {}},
     State.failed, "no Deployment shunter-gateway", "--namespace"),
    ("a pod is missing", check_processes.processes,
     {"deployments": {**SOUND, "shunter-gateway": deployment("shunter-gateway", 1)}},
     State.warning, "1 of 2 ready", "describe pods"),
    ("nobody is ready", check_processes.processes,
     {"deployments": {**SOUND, "shunter-gateway": deployment("shunter-gateway", 0)}},
     State.failed, "0 of 2 ready", "component=gateway"),
    ("scaled to zero", check_processes.processes,
     {"deployments": {**SOUND, "shunter-operator": deployment("shunter-operator", 0, wanted=0)}},
     State.failed, "shunter-operator is scaled to 0", "scale deployment/shunter-operator"),
    ("another version", check_processes.processes,
     {"deployments": {n: deployment(n, version="0.0.9") for n in SOUND}},
     State.warning, "0.0.9", "kubectl exec"),
    ("nobody leads", check_processes.leaders,
     {"leases": {"scheduler": lease("", ""), "operator": lease("o")}},
     State.failed, "no scheduler leads", "logs"),
    ("a Lease that ran out", check_processes.leaders,
     {"leases": {"scheduler": lease("s-0_a", "2026-11-22T16:59:00Z"), "operator": lease("o")}},
     State.failed, "renewed 60 s ago: it has run out", "logs"),
    ("a silent scheduler", check_processes.schedulers,
     {"schedulers": {"s-0": pages(1), "s-1": SchedulerPages(Silent("no route"), UNREAD)}},
     State.failed, "s-1: no route", "logs s-1"),
    ("two lead", check_processes.schedulers, {"schedulers": {"s-0": pages(1), "s-1": pages(1)}},
     State.failed, "both say", "term"),
    ("none leads", check_processes.schedulers, {"schedulers": {"s-0": pages(0), "s-1": pages(0)}},
     State.failed, "no scheduler leads", "Lease"),
    ("no standby", check_processes.schedulers, {"schedulers": {"s-0": pages(1)}},
     State.warning, "no standby", "scheduler.replicas"),
    ("another has the Lease", check_processes.schedulers,
     {"leases": {"scheduler": lease("s-1_x"), "operator": lease("o")}},
     State.warning, "s-0 leads, and s-1 has the Lease", "ten seconds"),
    ("a webhook nobody can call", check_processes.webhooks,
     {"webhooks": ({**ADMITS, "webhooks": [{"name": "pools", "clientConfig": {}}]},)},
     State.failed, "pools without a caBundle", "operator"),
    ("a webhook without entries", check_processes.webhooks, {"webhooks": (ADMITS,)},
     State.warning, "no entries", "certificate"),
    ("webhooks that were taken away", check_processes.webhooks,
     {"place": Place("serving", wide=True, webhooks="hooks")},
     State.failed, "no ValidatingWebhookConfiguration hooks", "helm upgrade"),
    ("a pool is refused", check_processes.admission, {"trial": "failed calling webhook"},
     State.failed, "failed calling webhook", "reach them"),
    ("a pool is Degraded", check_processes.pools,
     {"pools": ({**pool(), "status": {"conditions": [
         {"type": "Degraded", "status": "True", "reason": "EngineOOM", "message": "too big"}]}},)},
     State.warning, "EngineOOM: too big", "describe smp/chat"),
    ("no operator looks", check_processes.pools, {"pools": ({**pool(), "status": {}},)},
     State.warning, "no status yet", "describe smp/chat"),
    ("GPUs without labels", check_nodes.gpus, {"nodes": (node(labels={}),)},
     State.warning, "gpu-0 without labels", "feature discovery"),
    ("a sick device plugin", check_nodes.gpus,
     {"nodes": (node(allocatable={"nvidia.com/gpu": "0"}),)},
     State.warning, "gpu-0 offers none", "device plugin"),
    ("a node that is gone", check_nodes.gpus, {"nodes": (node(), node("gpu-1", ready="Unknown"))},
     State.warning, "node gpu-1 is not Ready", "describe node"),
    ("no runtime class", check_nodes.runtime_classes,
     {"pools": (pool(podTemplate={"spec": {"runtimeClassName": "kata"}}),)},
     State.failed, "names the runtime class kata", "GPU operator"),
    ("an unreadable pool", check_nodes.placement, {"pools": (pool(slo={"ttft": "soon"}),)},
     State.failed, "spec.slo.ttft", "kubectl -n serving edit smp chat"),
    ("a label that no node has", check_nodes.placement,
     {"pools": (pool("chat", {**H100, "nodeSelector": {"node-pool": "h200"}}),)},
     State.failed, "no node has node-pool=h200", "nodes have h100"),
    ("a key that no node has", check_nodes.placement,
     {"pools": (pool("chat", {**H100, "nodeSelector": {"gpu": "h200"}}),)},
     State.failed, "no node has gpu=h200", "no node has the label gpu at all"),
    ("one profile of two", check_nodes.placement,
     {"pools": (pool("chat", H100, {**L4, "nodeSelector": {"node-pool": "l4"}}),)},
     State.warning, "profile l4", "nodeSelector"),
    ("a taint", check_nodes.placement, {"nodes": (node(taints=[TAINT]),)},
     State.failed, "gpu=yes:NoSchedule", "tolerations"),
    ("a taint that servers tolerate for those who ask for GPUs", check_nodes.placement,
     {"nodes": (node(taints=[{**TAINT, "key": "nvidia.com/gpu", "value": "present"}]),)},
     State.warning, "nvidia.com/gpu=present:NoSchedule", "GKE"),
    ("that taint beside another", check_nodes.placement,
     {"nodes": (node(taints=[{**TAINT, "key": "nvidia.com/gpu"}, TAINT]),)},
     State.failed, "nvidia.com/gpu=yes:NoSchedule", "tolerations"),
    ("too many GPUs", check_nodes.placement,
     {"pools": (pool("chat", {**H100, "tensorParallel": 16}),)},
     State.failed, "offers 16 nvidia.com/gpu, the most is 8", "tensorParallel"),
    ("no GPU at all", check_nodes.placement,
     {"nodes": (node(allocatable={"nvidia.com/gpu": "0"}),)},
     State.failed, "offers 1 nvidia.com/gpu", "device plugin"),
    ("all cordoned", check_nodes.placement, {"nodes": (node(unschedulable=True),)},
     State.failed, "cordoned", "uncordon"),
    ("no nodes", check_nodes.placement, {"nodes": ()}, State.failed, "there is no node", "add one"),
    ("nodes come when they are asked for", check_nodes.placement,
     {"nodes": (), "adds_nodes": "Karpenter"}, State.warning, "no node", "or Karpenter adds one"),
    ("a pool that loads", check_processes.pools,
     {"pools": ({**pool(), "status": {"conditions": [
         {"type": "Ready", "status": "False", "reason": "Loading", "message": "0 of 2"}]}},)},
     State.warning, "not Ready: 0 of 2", "describe smp/chat"),
    ("no pools", check_nodes.placement, {"pools": ()}, State.skipped, "no ModelPool", "apply"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "changes", "state", "said", "remedy"),
    [case[1:] for case in CLUSTER_CASES],
    ids=[case[0] for case in CLUSTER_CASES],
)
def test_what_is_wrong_with_a_cluster_is_named_with_its_remedy(
    check: Callable[[ClusterFacts], Iterable[Finding]],
    changes: dict[str, Any],
    state: State,
    said: str,
    remedy: str,
) -> None:
    expect(list(check(cluster(**changes))), state, said, remedy)


@pytest.mark.parametrize(
    "label",
    ["nvidia.com/gpu.product", "cloud.google.com/gke-accelerator",
     "karpenter.k8s.aws/instance-gpu-name"],
)  # fmt: skip
def test_a_cloud_names_its_gpus_in_its_own_way(label: str) -> None:
    facts = cluster(nodes=(node(labels={label: "nvidia-l4"}),))
    assert [f.state for f in check_nodes.gpus(facts)] == [State.ok]


def test_a_pool_at_zero_is_as_it_should_be() -> None:
    ready = {"type": "Ready", "status": "False", "reason": "ScaledToZero", "message": "asleep"}
    facts = cluster(pools=({**pool(), "status": {"conditions": [ready]}},))
    assert [f.state for f in check_processes.pools(facts)] == [State.ok]


def test_a_toleration_opens_a_tainted_node() -> None:
    for toleration in (
        {"key": "gpu", "value": "yes"},
        {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"operator": "Exists"},
    ):
        profile = {**H100, "tolerations": [toleration]}
        facts = cluster(nodes=(node(taints=[TAINT]),), pools=(pool("chat", profile),))
        assert [f.state for f in check_nodes.placement(facts)] == [State.ok]
    wrong = {**H100, "tolerations": [{"key": "gpu", "value": "no"}]}
    facts = cluster(nodes=(node(taints=[TAINT]),), pools=(pool("chat", wrong),))
    assert [f.state for f in check_nodes.placement(facts)] == [State.failed]


def test_overrides_of_the_pod_count() -> None:
    """They are merged as the operator merges them."""
    template = {"spec": {"nodeSelector": {"zone": "a"}}}
    facts = cluster(pools=(pool(podTemplate=template),))
    expect(list(check_nodes.placement(facts)), State.failed, "zone=a", "label")


def test_simulated_engines_need_no_gpu() -> None:
    simulated = pool(model={"source": "sim://llama-3.1-8b"}, engine={"type": "simulated"})
    facts = cluster(nodes=(node(allocatable={"nvidia.com/gpu": "0"}),), pools=(simulated,))
    assert [f.state for f in check_nodes.placement(facts)] == [State.ok]


def test_a_service_with_a_bundle_can_be_called() -> None:
    good = {"name": "pools", "clientConfig": {"caBundle": "YQ=="}}
    facts = cluster(webhooks=({**ADMITS, "webhooks": [good]},))
    expect(list(check_processes.webhooks(facts)), State.ok, "1 webhook", "")


def test_a_long_list_of_bad_pools_is_cut() -> None:
    facts = cluster(pools=tuple({**pool(f"p{n}"), "status": {}} for n in range(50)))
    findings = list(check_processes.pools(facts))
    assert len(findings) == SHOWN + 1
    assert "45 more like these" in findings[-1].message


def test_many_profiles_without_a_node_are_cut_and_the_failures_come_first() -> None:
    lost = {**L4, "nodeSelector": {"node-pool": "l4"}}
    pools = (*(pool(f"p{n}", H100, lost) for n in range(20)), pool("none", lost))
    findings = list(check_nodes.placement(cluster(pools=pools)))
    assert [f.state for f in findings] == [State.failed, *[State.warning] * SHOWN, State.ok]
    assert "16 more like these" in findings[-2].message
    assert "20 profiles of 21 pools" in findings[-1].message


def test_a_renewal_of_the_past_says_nothing_of_a_clock() -> None:
    old = {"scheduler": lease("s", "2026-11-22T16:00:00Z"), "operator": lease("o")}
    findings = list(check_cluster.clocks(cluster(leases=old)))
    assert [f.state for f in findings] == [State.ok]


def test_schedulers_that_may_not_be_asked_are_not_called_silent() -> None:
    facts = cluster(schedulers={"s-0": SchedulerPages(UNREAD, UNREAD)})
    assert [f.state for f in check_processes.schedulers(facts)] == [State.skipped]
