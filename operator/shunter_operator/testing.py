"""A cluster and a scheduler in memory. They obey the ports and record what was asked of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shunter_operator.cluster import Body, ClusterError, PolicyRecord, PoolRecord
from shunter_operator.controllers_testing import FakeControllers
from shunter_operator.manifests import ref_of
from shunter_operator.merge import strategic_merge
from shunter_operator.names import (
    ANNOTATION_DELETION_COST,
    ANNOTATION_DRAIN_REASON,
    ANNOTATION_DRAIN_SINCE,
    ANNOTATION_LEAVE_SINCE,
    DRAINED_DELETION_COST,
    LABEL_BUSY,
    LABEL_POOL,
    LABEL_ROLE,
    PoolKey,
    Ref,
)
from shunter_operator.pods import moment
from shunter_operator.scheduler_client import SchedulerUnavailable
from shunter_operator.scheduler_view import InstanceLoad, SchedulerView
from shunter_operator.values import Event, Manifest, Node, Pod
from shunter_operator.watches import policy_record, pool_record


def pool_body(name: str = "chat", **spec: Any) -> dict[str, Any]:
    """A ModelPool as the API server shows it: one simulated profile, unless `spec` says more."""
    return {
        "apiVersion": "shunter.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {
            "name": name,
            "namespace": "serving",
            "uid": f"uid-{name}",
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "model": {"source": "sim://llama-3.1-8b"},
            "engine": {"type": "simulated"},
            "profiles": [{"name": "h100", "accelerator": "h100-sxm-80gb"}],
            **spec,
        },
    }


@dataclass(slots=True)
class FakeCluster(FakeControllers):
    """`Cluster` and `Mirror`."""

    ending_namespaces: set[str] = field(default_factory=set)
    next_error: ClusterError | None = None
    calls: list[tuple[str, Ref]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    bodies: dict[PoolKey, dict[str, Any]] = field(default_factory=dict)
    policy_bodies: dict[Ref, dict[str, Any]] = field(default_factory=dict)
    _records: dict[PoolKey, tuple[Body, PoolRecord]] = field(default_factory=dict)

    # ------------------------------------------------------------------ Mirror

    def pool(self, key: PoolKey) -> PoolRecord | None:
        return self._record(key) if key in self.bodies else None

    def pools(self) -> Iterable[PoolRecord]:
        return [self._record(key) for key in self.bodies]

    def policies(self) -> Iterable[PolicyRecord]:
        return [policy_record(body) for body in self.policy_bodies.values()]

    def pods(self, key: PoolKey) -> Iterable[Pod]:
        return [
            p for p in self.engines.values() if (p.namespace, p.pool) == (key.namespace, key.name)
        ]

    def objects(self, key: PoolKey) -> Mapping[Ref, Manifest]:
        return {
            ref: manifest
            for ref, manifest in self.live.items()
            if ref.namespace == key.namespace
            and manifest["metadata"]["labels"].get(LABEL_POOL) == key.name
        }

    def nodes(self) -> Mapping[str, Node]:
        return {name: node for name, node in self.machines.items() if node.leaving}

    def _record(self, key: PoolKey) -> PoolRecord:
        """Read once, as the watches do it: a body is replaced, never changed."""
        body = self.bodies[key]
        read = self._records.get(key)
        if read is None or read[0] is not body:
            read = self._records[key] = body, pool_record(body)
        return read[1]

    # ------------------------------------------------------------------ Cluster

    async def namespace_ends(self, namespace: str) -> bool:
        return namespace in self.ending_namespaces

    async def apply(self, manifest: Manifest) -> None:
        """One manager, so what it does not ask for any more is gone; the server's parts stay."""
        ref = ref_of(manifest)
        self._called("apply", ref)
        before = self.live.get(ref, {})
        self.live[ref] = {**manifest, "status": before.get("status", {})}

    async def delete(self, ref: Ref) -> None:
        self._called("delete", ref)
        gone = self.live.pop(ref, None)
        if gone is not None and ref.kind == "Deployment":
            for pod in self.pods_of(gone):
                self.end(pod)

    async def merge(self, ref: Ref, patch: Manifest, subresource: str = "") -> None:
        self._called(f"merge {subresource}".strip(), ref)
        if ref.kind == "Pod":
            if ref.name in self.engines:
                self._mark(ref, patch["metadata"])
            return
        if ref.kind == "RoutingPolicy":
            self.policy_bodies[ref] = strategic_merge(self.policy_bodies[ref], patch)
            return
        key = PoolKey(ref.namespace, ref.name)
        body = strategic_merge(self.bodies[key], patch)
        metadata = body["metadata"]
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            del self.bodies[key]
        else:
            self.bodies[key] = body

    async def set_pod_condition(self, pod: Ref, kind: str, holds: bool) -> None:
        """The kubelet counts a readiness gate into Ready."""
        self._called("condition", pod)
        if pod.name not in self.engines:
            return
        before = self.engines[pod.name]
        since = before.ready_since if holds else None
        self.engines[pod.name] = replace(before, gated=holds, ready_since=since)

    async def emit(self, about: Body, event: Event) -> None:
        self.events.append(event)

    # ------------------------------------------------------------------ what a cluster does

    def put(self, body: dict[str, Any]) -> PoolKey:
        """`kubectl apply`."""
        metadata = body["metadata"]
        key = PoolKey(metadata["namespace"], metadata["name"])
        before = self.bodies.get(key)
        if before is not None:
            generation = before["metadata"]["generation"] + 1
            metadata = {**before["metadata"], "generation": generation}
            body = {**body, "metadata": metadata, "status": before.get("status", {})}
        self.bodies[key] = body
        return key

    def delete_pool(self, key: PoolKey) -> None:
        """`kubectl delete`: it stays until its finalizers are gone."""
        body = self.bodies[key]
        metadata = {**body["metadata"], "deletionTimestamp": self.now.isoformat()}
        self.bodies[key] = {**body, "metadata": metadata}

    def evict(self, name: str) -> bool:
        """`kubectl drain` asks for it: whether the disruption budget lets the pod go."""
        pod = self.engines[name]
        budgets = (m for m in self.objects(PoolKey(pod.namespace, pod.pool)).values()
                   if m["kind"] == "PodDisruptionBudget")  # fmt: skip
        for budget in budgets:
            held = pod.busy or LABEL_BUSY not in budget["spec"]["selector"]["matchLabels"]
            if held and budget["spec"]["maxUnavailable"] == 0:
                return False
        self.end(pod)
        return True

    def _mark(self, ref: Ref, metadata: Mapping[str, Mapping[str, str | None]]) -> None:
        pod = self.engines[ref.name]
        if LABEL_BUSY in metadata.get("labels", {}):
            pod = replace(pod, busy=metadata["labels"][LABEL_BUSY] == "true")
        if LABEL_ROLE in metadata.get("labels", {}):
            pod = replace(pod, role=metadata["labels"][LABEL_ROLE] or "")
        annotations = metadata.get("annotations", {})
        if ANNOTATION_DRAIN_SINCE in annotations:
            pod = replace(pod, drain_since=moment(annotations[ANNOTATION_DRAIN_SINCE]))
        if ANNOTATION_DRAIN_REASON in annotations:
            pod = replace(pod, drain_reason=annotations[ANNOTATION_DRAIN_REASON] or "")
        if ANNOTATION_LEAVE_SINCE in annotations:
            pod = replace(pod, leave_since=moment(annotations[ANNOTATION_LEAVE_SINCE]))
        if ANNOTATION_DELETION_COST in annotations:
            drained = annotations[ANNOTATION_DELETION_COST] == DRAINED_DELETION_COST
            pod = replace(pod, drained=drained)
        self.engines[ref.name] = pod

    def _called(self, verb: str, ref: Ref) -> None:
        if self.next_error is not None:
            error, self.next_error = self.next_error, None
            raise error
        self.calls.append((verb, ref))


@dataclass(slots=True)
class FakeScheduler:
    """`SchedulerPort`. Instances it was not told of do not exist; None as view: it is away."""

    current: SchedulerView | None = field(default_factory=SchedulerView)
    drained: list[str] = field(default_factory=list)
    undrained: list[str] = field(default_factory=list)
    next_error: SchedulerUnavailable | None = None

    async def view(self, pool: str) -> SchedulerView | None:
        return self.current

    async def drain(self, instance: str, deadline_s: float) -> None:
        self._fail()
        self.drained.append(instance)
        self._set(instance, "draining")

    async def undrain(self, instance: str) -> None:
        self._fail()
        self.undrained.append(instance)
        self._set(instance, "ready")

    def serve(self, instance: str, running: int, state: str = "ready") -> None:
        """The instance has so many requests."""
        assert self.current is not None
        instances = {**self.current.instances, instance: InstanceLoad(state, running)}
        self.current = replace(self.current, instances=instances)

    def _set(self, instance: str, state: str) -> None:
        if self.current is not None and instance in self.current.instances:
            self.serve(instance, self.current.instances[instance].running, state)

    def _fail(self) -> None:
        if self.next_error is not None:
            error, self.next_error = self.next_error, None
            raise error
