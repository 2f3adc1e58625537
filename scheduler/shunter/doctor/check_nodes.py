"""Nodes: what they have, and whether every profile of every pool finds one. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import starmap

from shunter.commands.status import counted
from shunter.doctor.facts import ClusterFacts, Object, Unread
from shunter.doctor.findings import Finding, cut, failed, ok, skipped, warning
from shunter.doctor.placement import Wish, wishes
from shunter_operator.merge import quantity

# By extended resource: the prefixes of the labels that name the product, and the vendor's add-on
# that sets such. GKE and Karpenter on AWS have labels of their own.
VENDORS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "nvidia.com/gpu": (
        (
            "nvidia.com/gpu.product",
            "cloud.google.com/gke-accelerator",
            "karpenter.k8s.aws/instance-gpu-name",
        ),
        "NVIDIA's GPU feature discovery",
    ),
    "amd.com/gpu": (("amd.com/gpu.", "beta.amd.com/gpu."), "AMD's node labeller"),
}
PRODUCT_LABEL = "nvidia.com/gpu.product"
READ_NODES = "run it with a kubeconfig that may read nodes"


def gpus(facts: ClusterFacts) -> Iterator[Finding]:
    """GPUs that nodes offer, and the labels by which pools find them."""
    if isinstance(facts.nodes, Unread):
        yield skipped(facts.nodes.why, READ_NODES)
        return
    for resource, (prefixes, add_on) in VENDORS.items():
        having = [node for node in facts.nodes if _amount(node, "capacity", resource)]
        if not having:
            continue
        offered = sum(_amount(node, "allocatable", resource) for node in having)
        bare = [n for n in having if not any(k.startswith(prefixes) for k in _labels(n))]
        told = f"{offered} {resource} on {counted(len(having), 'node')}{_products(having)}"
        if bare:
            yield warning(
                f"{told}; {_names(bare)} without labels of the product",
                f"install {add_on}, or label nodes by hand",
            )
        else:
            yield ok(told)
        sick = [n for n in having if _amount(n, "allocatable", resource) == 0]
        if sick:
            yield warning(
                f"{_names(sick)} offers none of its {resource}", "look at the device plugin's log"
            )
        gone = [n for n in having if not _ready(n)]
        if gone:
            yield warning(f"{_names(gone)} is not Ready", "kubectl describe node")
    yield from _labelled_only(facts.nodes)


def _labelled_only(nodes: Iterable[Object]) -> Iterator[Finding]:
    named = [n for n in nodes if PRODUCT_LABEL in _labels(n)]
    without = [n for n in named if not _amount(n, "capacity", "nvidia.com/gpu")]
    if without:
        yield ok(f"{_names(without)} with the label of a GPU but none to offer: simulated engines")


def placement(facts: ClusterFacts) -> Iterator[Finding]:
    """A node for every profile: a pool needs one profile that can be placed."""
    if isinstance(facts.nodes, Unread) or isinstance(facts.pools, Unread):
        unread = facts.nodes if isinstance(facts.nodes, Unread) else facts.pools
        assert isinstance(unread, Unread)
        yield skipped(unread.why, READ_NODES)
        return
    wished = wishes(facts.pools)
    yield from cut(starmap(_unreadable, wished.unreadable.items()))
    unplaced: list[Finding] = []
    for pool, of_pool in wished.by_pool.items():
        unplaced += _unplaced(pool, of_pool, facts.nodes, facts.adds_nodes)
    yield from cut(unplaced)
    if placed := sum(map(len, wished.by_pool.values())) - len(unplaced):
        pools = counted(len(wished.by_pool), "pool")
        yield ok(f"{counted(placed, 'profile')} of {pools} with nodes that suit")
    elif not wished.by_pool and not wished.unreadable:
        yield skipped("there is no ModelPool", "kubectl apply -f manifests/minimal.yaml")


def _unreadable(pool: str, why: str) -> Finding:
    namespace, _, name = pool.partition("/")
    return failed(f"pool {pool} does not read: {why}", f"kubectl -n {namespace} edit smp {name}")


def _unplaced(
    pool: str, profiles: Iterable[Wish], nodes: tuple[Object, ...], adds_nodes: str
) -> Iterator[Finding]:
    refusals = {wish.profile: refusal(wish, nodes) for wish in profiles}
    lost = all(found is not None and found.certain for found in refusals.values())
    judge = failed if lost and not adds_nodes else warning
    more = f"; or {adds_nodes} adds one" if adds_nodes else ""
    for profile, found in refusals.items():
        if found is not None:
            yield judge(f"pool {pool}, profile {profile}: {found.why}", found.remedy + more)


def runtime_classes(facts: ClusterFacts) -> Iterator[Finding]:
    """Those that pools name in their podTemplate."""
    if isinstance(facts.pools, Unread) or isinstance(facts.runtime_classes, Unread):
        unread = facts.runtime_classes if isinstance(facts.runtime_classes, Unread) else facts.pools
        assert isinstance(unread, Unread)
        yield skipped(unread.why)
        return
    wished = [w for of_pool in wishes(facts.pools).by_pool.values() for w in of_pool]
    named = {wish.runtime_class: wish.pool for wish in wished if wish.runtime_class}
    if not named:
        yield ok("no pool names a runtime class: nodes' own is used")
    for name, pool in sorted(named.items()):
        if name in facts.runtime_classes:
            yield ok(f"runtime class {name} of pool {pool} is there")
        else:
            yield failed(
                f"pool {pool} names the runtime class {name}, which is not there",
                "install the GPU operator or create the RuntimeClass; or take "
                "podTemplate.spec.runtimeClassName out",
            )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no node can ever take a pod. Not `certain`: the API server may see to it."""

    why: str
    remedy: str
    certain: bool = True


def refusal(wish: Wish, nodes: Iterable[Object]) -> Refusal | None:
    """None where a node can take a pod. What other pods use is not looked at: that is for the
    pool's own conditions to say."""
    every = list(nodes)
    nodes = [node for node in every if not (node.get("spec") or {}).get("unschedulable")]
    if not nodes:
        why = "every node is cordoned" if every else "there is no node"
        return Refusal(why, "kubectl uncordon one" if every else "add one")
    labelled = [n for n in nodes if wish.node_selector.items() <= _labels(n).items()]
    if not labelled:
        key, value = _unmatched(wish, nodes)
        there = sorted({_labels(node)[key] for node in nodes if key in _labels(node)})
        return Refusal(
            f"no node has {key}={value}",
            f"nodes have {', '.join(there[:4])}: correct nodeSelector"
            if there
            else f"no node has the label {key} at all: correct nodeSelector, or label nodes",
        )
    open_to = [node for node in labelled if not _untolerated(wish, node)]
    if not open_to:
        return _tainted(wish, labelled)
    short = [_short(wish, node) for node in open_to]
    if all(short):
        resource, wanted, most = _nearest(wish, open_to)
        none = resource in VENDORS and most == 0
        return Refusal(
            f"no suitable node offers {wanted} {resource}, the most is {most}",
            "is the device plugin running? kubectl describe node"
            if none
            else "lower resources or tensorParallel, or add larger nodes",
        )
    return None


def _tainted(wish: Wish, nodes: list[Object]) -> Refusal:
    """A taint named as a resource that the pod asks for is tolerated by the admission plugin
    ExtendedResourceToleration where a server has it, as GKE's has."""
    added = [n for n in nodes if all(t["key"] in wish.requests for t in _untolerated(wish, n))]
    taint = _untolerated(wish, (added or nodes)[0])[0]
    value = f"={taint['value']}" if taint.get("value") else ""
    return Refusal(
        f"all {len(nodes)} nodes with its labels are tainted "
        f"{taint['key']}{value}:{taint.get('effect')}",
        "add it to the profile's tolerations"
        + (", unless the server does it, as GKE's" if added else ""),
        certain=not added,
    )


def _unmatched(wish: Wish, nodes: list[Object]) -> tuple[str, str]:
    """The label that the fewest nodes have."""
    have = Counter({pair: 0 for pair in wish.node_selector.items()})
    for node in nodes:
        have.update(pair for pair in wish.node_selector.items() if pair in _labels(node).items())
    return min(have, key=lambda pair: (have[pair], pair))


def _untolerated(wish: Wish, node: Object) -> list[Object]:
    return [
        taint
        for taint in (node.get("spec") or {}).get("taints") or ()
        if taint.get("effect") != "PreferNoSchedule"
        and not taint["key"].startswith(_PASSING)
        and not any(_tolerates(toleration, taint) for toleration in wish.tolerations)
    ]


_PASSING = "node.kubernetes.io/"  # set and taken back by Kubernetes: not ready, under pressure


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    same_value = (toleration.get("value") or "") == (taint.get("value") or "")
    return toleration.get("key") == taint["key"] and same_value


def _short(wish: Wish, node: Object) -> bool:
    return any(_amount(node, "allocatable", r) < wanted for r, wanted in wish.requests.items())


def _nearest(wish: Wish, nodes: list[Object]) -> tuple[str, Decimal, Decimal]:
    """The resource that keeps the nodes from it: wanted, and the most that any offers."""
    most = {r: max(_amount(n, "allocatable", r) for n in nodes) for r in wish.requests}
    worst = min(wish.requests, key=lambda r: (most[r] >= wish.requests[r], r not in VENDORS, r))
    return worst, wish.requests[worst], most[worst]


def _amount(node: Object, kind: str, resource: str) -> Decimal:
    text = ((node.get("status") or {}).get(kind) or {}).get(resource)
    return quantity(str(text)) or Decimal(0)


def _ready(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return all(c["status"] == "True" for c in conditions if c["type"] == "Ready")


def _labels(node: Object) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}


def _names(nodes: list[Object]) -> str:
    names = [node["metadata"]["name"] for node in nodes]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ("nodes " if len(names) > 1 else "node ") + ", ".join(names[:2]) + more


def _products(nodes: list[Object]) -> str:
    products = sorted({_labels(n)[PRODUCT_LABEL] for n in nodes if PRODUCT_LABEL in _labels(n)})
    return f" ({', '.join(products)})" if products else ""
