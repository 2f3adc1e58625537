"""Follows the nodes, of which only those matter that are about to go.

One list at the start and one watch; of each node no more is kept than whether it is cordoned and
whether a taint announces its end.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress

import structlog

from shunter_operator.background import meanwhile
from shunter_operator.cluster import Body, ClusterError
from shunter_operator.leadership import first_of
from shunter_operator.values import Node
from shunter_runtime.kube_api import KubeApi, KubeError, Refused
from shunter_runtime.kube_watch import ListAndWatch, Reflector, Watched

NODES = "/api/v1/nodes"
FORBIDDEN = 403
RIGHT_EVERY_S = 60.0

log = structlog.get_logger(__name__)

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
    except KubeError as error:
        if isinstance(error, Refused) and error.status == FORBIDDEN:
            return False
        raise ClusterError(f"nodes: {error}") from error
    return True


async def until_right_changes(api: KubeApi, may: bool, interval_s: float = RIGHT_EVERY_S) -> None:
    """Returns once nodes may be watched, or may not, other than before: an operator that hears of
    no node any more would never let go of what its disruption budgets hold."""
    changed = False
    while not changed:
        await asyncio.sleep(interval_s)
        with suppress(ClusterError):  # nobody knows
            changed = await may_watch_nodes(api) is not may


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


@asynccontextmanager
async def followed_nodes(
    api: KubeApi,
    notice_taints: Collection[str],
    changed: Callable[[Mapping[str, Node]], None],
    stop: asyncio.Event,
) -> AsyncIterator[None]:
    """Enters once it is known which nodes are about to go, or it is told to stop. `stop` is also
    set where following them breaks."""
    known = asyncio.Event()

    def tell(nodes: Mapping[str, Node]) -> None:
        changed(nodes)
        known.set()

    async def follow() -> None:
        try:
            await node_reflector(api, notice_taints, tell, random.Random()).run()
        finally:
            stop.set()

    async with meanwhile(follow(), "nodes"):
        await first_of(known, stop)
        yield


@asynccontextmanager
async def kept_right(api: KubeApi, may: bool, stop: asyncio.Event) -> AsyncIterator[None]:
    """Meanwhile, if the right to watch nodes comes or goes, `stop` is set: who starts anew makes
    other disruption budgets."""

    async def wait() -> None:
        await until_right_changes(api, may)
        log.warning("nodes.right_changed", watched_before=may)
        stop.set()

    async with meanwhile(wait(), "right to nodes"):
        yield
