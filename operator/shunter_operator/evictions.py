"""Pods whose node is about to go: which of them are emptied now, and which an eviction may take.

A cordoned node keeps its pods until somebody evicts them, so a replacement is started first, and a
pod is emptied once there is one. A node with a notice does not wait, so its pods are emptied at
once. Until a pod is empty its label `shunter.dev/busy` lets the disruption budget hold evictions.
Pure.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from shunter_operator import scaling
from shunter_operator.draining import Situation, empty_victim, goes_first
from shunter_operator.values import (
    Action,
    Environment,
    Event,
    MarkLeaving,
    Node,
    Pod,
    SetBusy,
    Why,
)

# An engine that is on its way is waited for so long; large weights take longer.
REPLACEMENT_WAIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Leaver:
    """A pod whose node is about to go."""

    pod: Pod
    why: Why
    urgent: bool


@dataclass(frozen=True, slots=True)
class Evictions:
    """Of one pool at one time, by the pods' names."""

    leavers: Mapping[str, Leaver]
    draining: frozenset[str]  # are emptied now, or have been
    released: frozenset[str]  # serve on, and an eviction may take them as they are

    def replaced(self, alive: Iterable[Pod], wanted: int, environment: Environment) -> list[Pod]:
        """Of a profile's pods, those that are empty and that nobody needs to stand there any more:
        the others are as many as are `wanted`, and all serve, so that a smaller Deployment deletes
        none of them."""
        pods = list(alive)
        staying = [p for p in pods if p.name not in self.leavers]
        if not all(p.ready for p in staying):
            return []
        empty = (p for p in pods if p.name in self.draining and goes_first(p, environment))
        return list(empty)[: max(0, len(pods) - wanted)]


def find_evictions(at: Situation, wanted: int) -> Evictions:
    """`wanted` is how many instances the pool is to have."""
    desired, observed = at.desired, at.observed
    profiles = {profile.name for profile in desired.pool.profiles}
    leavers = _leavers((p for p in observed.pods if p.profile in profiles), observed.nodes)
    serving = sum(p.ready and not p.deleting and not _going(p) for p in observed.pods)
    hopeless = _hopeless(at)
    draining, released = set(), set()
    for leaver in sorted(leavers.values(), key=_order):
        pod = leaver.pod
        if _going(pod):
            draining.add(pod.name)
            continue
        waited_s = (at.now - pod.leave_since).total_seconds() if pod.leave_since else 0.0
        late = waited_s >= REPLACEMENT_WAIT_S
        tired = hopeless and waited_s >= desired.pool.spec.scaling.spill_after_s
        if not pod.ready or leaver.urgent or serving > wanted or (serving > 1 and (late or tired)):
            draining.add(pod.name)
            serving -= pod.ready
        elif late:
            # The last one that serves is not stopped for somebody who may never come for it.
            released.add(pod.name)
    return Evictions(leavers, frozenset(draining), frozenset(released))


def leave(at: Situation, found: Evictions) -> Iterator[Action]:
    """Empties what is to be emptied, and says what is waited for."""
    for leaver in found.leavers.values():
        pod = leaver.pod
        if pod.name in found.draining:
            yield from empty_victim(at, pod, leaver.why)
        elif pod.leave_since is None:
            yield MarkLeaving(pod.ref, at.now)
            yield Event("Leaving", f"{pod.name}: {leaver.why.detail}; a replacement starts first")


def labels(
    alive: Iterable[Pod], found: Evictions, replaced: Collection[Pod], environment: Environment
) -> Iterator[Action]:
    """A pod is busy from when it serves until it has been emptied: two writes in its life.

    One that is `replaced` stays so: its Deployment, smaller by now, deletes it. An eviction that
    came before that would have a new pod made, for a moment.
    """
    for pod in alive:
        if pod.name in found.leavers:
            may_go = goes_first(pod, environment) or pod.name in found.released
            if pod.busy and may_go and pod not in replaced:
                yield SetBusy(pod.ref, False)
        elif not pod.busy and pod.ready and not pod.drained:
            yield SetBusy(pod.ref, True)


def let_pass(pods: Iterable[Pod], nodes: Mapping[str, Node]) -> Iterator[Action]:
    """Of a pool that cannot be served as it is written: its pods hold no node back. They finish
    within their grace period."""
    for leaver in _leavers(pods, nodes).values():
        if leaver.pod.busy:
            yield SetBusy(leaver.pod.ref, False)


def _leavers(pods: Iterable[Pod], nodes: Mapping[str, Node]) -> dict[str, Leaver]:
    found = {}
    for pod in pods:
        node = nodes.get(pod.node)
        if node is not None and node.leaving and not pod.deleting:
            found[pod.name] = Leaver(pod, _why(node), bool(node.notice))
    return found


def _why(node: Node) -> Why:
    if node.notice:
        return Why("SpotNotice", f"node {node.name} is announced to end by {node.notice}")
    return Why("NodeCordoned", f"node {node.name} is cordoned")


def _order(leaver: Leaver) -> tuple[object, ...]:
    """Those first that have begun, then those that have no time."""
    pod = leaver.pod
    return not _going(pod), not leaver.urgent, pod.ready, pod.name


def _going(pod: Pod) -> bool:
    return pod.drain_since is not None or pod.drained


def _hopeless(at: Situation) -> bool:
    """Whether no instance is on its way: what does not serve yet has found no node for a while."""
    after_s = at.desired.pool.spec.scaling.spill_after_s
    coming = (p for p in at.observed.pods if not p.deleting and not p.ready)
    return all(scaling.stuck(pod, at.now, after_s) for pod in coming)
