"""A rollout that finds no room beside the old pods: one of them is emptied and goes first. Pure.

A Deployment starts a new pod before it ends an old one. On a full cluster the new pod waits for
ever, so an old pod is emptied, and while it is there the Deployment may end one before it starts
another: it ends the one that is drained, and the new pod takes its place.
"""

from collections.abc import Sequence

from shunter_operator import scaling
from shunter_operator.diagnose import unschedulable
from shunter_operator.draining import Situation
from shunter_operator.values import Pod, Why

WHY = Why("Rollout", "no node has room for its successor beside it")
_ROOM = frozenset({"InsufficientGPU", "InsufficientResources"})


def next_to_go(at: Situation, pods: Sequence[Pod], template: str) -> Pod | None:
    """Of a profile's pods the old one that makes room; None where a rollout finds room by itself.

    `template` is the digest of the new one. A new pod counts as stuck after `spillAfter`. One old
    pod goes at a time: the next only when nothing is ending or starting. A pod whose node is about
    to go makes no room: no new one would get there.
    """
    after_s = at.desired.pool.spec.scaling.spill_after_s
    new = [p for p in pods if p.template == template]
    old = [p for p in pods if p.template != template and p.node not in at.observed.nodes]
    if any(p.deleting for p in pods) or any(p.scheduled and not p.ready for p in new):
        return None
    if not any(scaling.stuck(p, at.now, after_s) and _lacks_room(p) for p in new):
        return None
    return next(iter(scaling.victims(old, 1, at.loads)), None)


def may_miss(pods: Sequence[Pod], template: str, wanted: int) -> int:
    """The maxUnavailable with which a Deployment of `wanted` replicas ends exactly one old pod.

    Solved from how many the Deployment controller may end (`reconcileOldReplicaSets` in
    Kubernetes' rolling.go): all pods - (wanted - maxUnavailable) - new pods that do not serve.
    """
    alive = [p for p in pods if not p.deleting]
    starting = sum(p.template == template and not p.ready for p in alive)
    return max(1, 1 + wanted + starting - len(alive))


def _lacks_room(pod: Pod) -> bool:
    """What a node that becomes free would change."""
    return unschedulable(pod.unschedulable_message)[0] in _ROOM
