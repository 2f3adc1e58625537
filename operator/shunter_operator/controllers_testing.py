"""The controllers, the scheduler and the kubelets of a cluster in memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from shunter_operator.manifests import template_digest
from shunter_operator.names import LABEL_POOL, LABEL_PROFILE, Ref
from shunter_operator.values import Manifest, Node, Pod

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class FakeControllers:
    """They bring `engines`, by name, to what the Deployments among `live` ask for. `now` is the
    clock; `step` lets them work.

    `places` limits how many pods of a profile find a node. Where there are `machines`, a pod needs
    one that takes new pods and has fewer than `room`. `starts_s` is how long an engine loads,
    `ends_s` how long a pod that was told to end stays.
    """

    now: datetime = EPOCH
    places: dict[str, int] = field(default_factory=dict)
    machines: dict[str, Node] = field(default_factory=dict)
    room: int = 1000
    starts_s: float = 0.0
    ends_s: float = 0.0
    live: dict[Ref, Manifest] = field(default_factory=dict)
    engines: dict[str, Pod] = field(default_factory=dict)
    _made: int = 0
    _ends_at: dict[str, datetime] = field(default_factory=dict)

    def step(self, seconds: float = 1.0) -> None:
        """Time passes; the controllers of Deployments, the scheduler and the kubelets work."""
        self.now += timedelta(seconds=seconds)
        for manifest in self.live.values():
            if manifest["kind"] == "Deployment":
                self._scale(manifest)
        for pod in sorted(self.engines.values(), key=lambda p: p.name):
            after = self._run(pod)
            if after is None:
                del self.engines[pod.name]
            else:
                self.engines[pod.name] = after

    def _scale(self, deployment: Manifest) -> None:
        """As the Deployment controller does it (rolling.go in Kubernetes' source)."""
        wanted = deployment["spec"]["replicas"]
        pods = self.pods_of(deployment)
        template = template_digest(deployment["spec"]["template"])
        new = [p for p in pods if p.template == template]
        old = [p for p in pods if p.template != template]
        if not old:
            self._create(deployment, wanted - len(pods))
            self._delete(pods, len(pods) - wanted)
            return
        bounds = deployment["spec"]["strategy"]["rollingUpdate"]
        most = wanted + bounds["maxSurge"]
        self._create(deployment, min(most - len(pods), wanted - len(new)))
        least = wanted - bounds["maxUnavailable"]
        unready = sum(not p.ready for p in new)
        spare = len(pods) - least - unready
        if spare <= 0:
            return
        unhealthy = [p for p in old if not p.ready]
        self._delete(unhealthy, min(spare, len(unhealthy)))
        self._delete([p for p in old if p.ready], sum(p.ready for p in pods) - least)

    def _create(self, deployment: Manifest, count: int) -> None:
        template = deployment["spec"]["template"]
        labels = template["metadata"]["labels"]
        for _ in range(count):
            self._made += 1
            name = f"{deployment['metadata']['name']}-{self._made}"
            gates = template["spec"].get("readinessGates")
            self.engines[name] = Pod(
                name=name,
                namespace=deployment["metadata"]["namespace"],
                pool=labels[LABEL_POOL],
                profile=labels[LABEL_PROFILE],
                created_at=self.now,
                scheduled=False,
                gated=False if gates else None,
                template=template_digest(template),
            )

    def _delete(self, pods: Iterable[Pod], count: int) -> None:
        """As the ReplicaSet controller ranks them (ActivePodsWithRanks in Kubernetes' source)."""
        order = sorted(pods, key=lambda p: (p.scheduled, p.ready, not p.drained, p.name))
        for pod in order[: max(0, count)]:
            self.end(pod)

    def end(self, pod: Pod) -> None:
        if not self.ends_s:
            del self.engines[pod.name]
        elif not pod.deleting:
            self.engines[pod.name] = replace(pod, deleting=True)
            self._ends_at[pod.name] = self.now + timedelta(seconds=self.ends_s)

    def _run(self, pod: Pod) -> Pod | None:
        """What has become of it; None where it is gone."""
        if pod.deleting:
            return pod if self.now < self._ends_at[pod.name] else None
        if not pod.scheduled:
            node = self._place(pod)
            if node is None:
                message = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."
                since = pod.unschedulable_since or self.now
                return replace(pod, unschedulable_since=since, unschedulable_message=message)
            pod = replace(pod, scheduled=True, node=node)
            pod = replace(pod, unschedulable_since=None, unschedulable_message="")
        assert pod.created_at is not None
        loaded = (self.now - pod.created_at).total_seconds() >= self.starts_s
        if loaded and pod.ready_since is None and pod.gated is not False:
            return replace(pod, ready_since=self.now)
        return pod

    def _place(self, pod: Pod) -> str | None:
        """The node that takes the pod; the empty name where nodes do not matter."""
        there = sum(p.scheduled and p.profile == pod.profile for p in self.engines.values())
        if there >= self.places.get(pod.profile, 1000):
            return None
        if not self.machines:
            return ""
        for name, node in self.machines.items():
            if not node.leaving and sum(p.node == name for p in self.engines.values()) < self.room:
                return name
        return None

    def pods_of(self, deployment: Manifest) -> list[Pod]:
        """As controllers count them: without those that end."""
        labels = deployment["spec"]["selector"]["matchLabels"]
        wanted = (labels[LABEL_POOL], labels[LABEL_PROFILE])
        pods = self.engines.values()
        return [p for p in pods if (p.pool, p.profile) == wanted and not p.deleting]
