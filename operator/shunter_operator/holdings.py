"""What each pool holds of the cluster, and what its pods ask of a node."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from shunter_api.modelpool import ModelPool
from shunter_operator.cluster import Mirror
from shunter_operator.diagnose import unschedulable
from shunter_operator.names import ENGINE_CONTAINER, LABEL_PROFILE, PoolKey
from shunter_operator.reclaimed import reclaim_of
from shunter_operator.values import Manifest, Pod, Reclaim

_GPU = re.compile(r"gpu|mig-", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Holding:
    """A pool and what is there of it; `deployments` by profile, as the API server shows them."""

    key: PoolKey
    pool: ModelPool
    pods: tuple[Pod, ...] = ()
    deployments: Mapping[str, Manifest] = field(default_factory=dict)

    @property
    def priority(self) -> int:
        return self.pool.spec.scaling.priority

    @property
    def floor(self) -> int:
        return self.pool.spec.scaling.floor_of([p.replicas for p in self.pool.profiles])

    @property
    def placed(self) -> int:
        return sum(p.scheduled and not p.deleting for p in self.pods)

    def pods_of(self, profile: str) -> list[Pod]:
        return [p for p in self.pods if p.profile == profile and not p.deleting]

    def lacking(self, profile: str) -> list[Pod]:
        """Pods that only a GPU is missing for, as long as it may be."""
        return [p for p in self.pods_of(profile) if _lacks_gpu(p)]

    def reclaims(self) -> Iterator[tuple[str, Reclaim]]:
        for profile, live in self.deployments.items():
            if found := reclaim_of(live):
                yield profile, found


@dataclass(frozen=True, slots=True)
class Shape:
    """What a profile's pods ask of their node. `gpus`: resource names and numbers."""

    accelerator: str
    selector: frozenset[tuple[str, str]]
    tolerations: frozenset[str]
    gpus: frozenset[tuple[str, int]]

    def hosts(self, other: "Shape") -> bool:
        """Whether the node of a pod of this shape would take one of the other in its place."""
        has = dict(self.gpus)
        return (
            self.accelerator == other.accelerator
            and other.selector <= self.selector
            and self.tolerations <= other.tolerations
            and bool(other.gpus)
            and all(has.get(name, 0) >= count for name, count in other.gpus)
        )


def holdings_of(mirror: Mirror) -> Iterator[Holding]:
    """Of every pool that reads and is not deleted."""
    for record in mirror.pools():
        if record.pool is None or "deletionTimestamp" in record.body["metadata"]:
            continue
        deployments = {
            live["metadata"]["labels"][LABEL_PROFILE]: live
            for ref, live in mirror.objects(record.key).items()
            if ref.kind == "Deployment" and LABEL_PROFILE in (live["metadata"].get("labels") or {})
        }
        yield Holding(record.key, record.pool, tuple(mirror.pods(record.key)), deployments)


def shape_of(holding: Holding, profile: str) -> Shape | None:
    """From the pod template in force, the pool's overrides included. None where there is none."""
    live = holding.deployments.get(profile)
    if live is None or all(p.name != profile for p in holding.pool.profiles):
        return None
    spec = live["spec"]["template"]["spec"]
    engine = [c for c in spec["containers"] if c["name"] == ENGINE_CONTAINER]
    limits = (engine[0].get("resources") or {}).get("limits") or {} if engine else {}
    return Shape(
        accelerator=holding.pool.profile(profile).accelerator,
        selector=frozenset((spec.get("nodeSelector") or {}).items()),
        tolerations=frozenset(
            json.dumps(dict(t), sort_keys=True) for t in spec.get("tolerations") or ()
        ),
        gpus=frozenset(
            (n, int(q)) for n, q in limits.items() if _GPU.search(n) and str(q).isdecimal()
        ),
    )


def _lacks_gpu(pod: Pod) -> bool:
    since = pod.unschedulable_since
    return since is not None and unschedulable(pod.unschedulable_message)[0] == "InsufficientGPU"
