"""Follows the nodes, of which only those matter that are about to go.

One list at the start and one watch; of each node no more is kept than whether it is cordoned and
whether a taint announces its end.
"""

import random
from collections.abc import Callable, Collection, Mapping

from shunter_operator.cluster import Body, ClusterError
from shunter_operator.values import Node
from shunter_runtime.kube_api import KubeApi, KubeError, Refused
from shunter_runtime.kube_watch import ListAndWatch, Reflector, Watched

NODES = "/api/v1/nodes"

# Taints by which a node is told to end soon: of aws-node-termination-handler (its docs/, "Currently
# used taint keys"), of GKE before host maintenance, of Karpenter since v1 and before, and of the
# cluster autoscaler. Not its DeletionCandidateOfClusterAutoscaler, which is only a thought.
NOTICE_TAINTS = (
    "aws-node-termination-handler/spot-itn",
    "aws-node-termination-handler/scheduled-maintenance",
    "aws-node-termination-handler/asg-lifecycle-termination",
    "cloud.google.com/impending-node-termination",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "ToBeDeletedByClusterAutoscaler",
)


def node_of(body: Body, notice_taints: Collection[str] = NOTICE_TAINTS) -> Node:
    spec = body.get("spec") or {}
    taints = (taint.get("key", "") for taint in spec.get("taints") or ())
    notice = next((key for key in taints if key in notice_taints), "")
    return Node(body["metadata"]["name"], bool(spec.get("unschedulable")), notice)


async def may_watch_nodes(api: KubeApi) -> bool:
    """A namespaced install may not, unless it was given the right. Raises `ClusterError`."""
    try:
        await api.get(NODES, {"limit": "1"})
    except Refused:
        return False
    except KubeError as error:
        raise ClusterError(f"nodes: {error}") from error
    return True


def node_reflector(
    api: ListAndWatch,
    notice_taints: Collection[str],
    changed: Callable[[Mapping[str, Node]], None],
    rng: random.Random,
) -> Reflector[Node]:
    """`changed` gets the nodes that are about to go, by name, at the start and at each change."""

    def tell() -> None:
        nodes = reflector.objects.values()
        changed({node.name: node for node in nodes if node.leaving})

    watched = Watched(NODES, lambda body, _: node_of(body, notice_taints))
    reflector = Reflector(api, watched, tell, rng)
    return reflector
